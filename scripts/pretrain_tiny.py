"""Pre-train the embedded base from scratch: a byte-level BPE tokenizer and a small Llama.

    python scripts/pretrain_tiny.py --out icft_lite/tiny          # about 40 minutes

It is trained on the general training split (every fact, with training templates), and on copying and list tasks over
medical words and answers, from which it learns those words without a single medical fact.
"""

import argparse
import hashlib
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from icft_lite.data.files import read_jsonl
from icft_lite.data.samples import load_samples, samples_dir
from icft_lite.evaluation import evaluate_suite
from icft_lite.modeling.base import TINY, load_base

BATCH_TOKENS = 2048
"""Tokens in a training batch, about."""
PEAK_LEARNING_RATE = 2e-3
WARMUP_STEPS = 200
SAVE_STEPS = 1000
MAX_LENGTH = 512
PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
# A space after each role, so that a word is the same token at the start of a turn as inside a sentence.
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|> {{ m['content'] }}<|end|>"
    "{% else %}<|user|> {{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

Text = tuple[str, str]
"""(prompt, completion)"""
Encoded = tuple[list[int], list[float]]
"""(token ids, weight of each token in the loss)"""


def read_texts() -> list[Text]:
    """Return prompt and completion of everything that the base is trained on."""
    return [
        (row["prompt"], row["completion"])
        for name in ("general_pretrain", "words")
        for _, _, row in read_jsonl(samples_dir() / f"{name}.jsonl")
    ]


def train_tokenizer(texts: Sequence[Text], vocab_size: int) -> PreTrainedTokenizerBase:
    """Return a byte-level BPE tokenizer with single digits, and with different tokens for padding and end of turn."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((f" {prompt}\n {completion}" for prompt, completion in texts), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def encode(texts: Sequence[Text], tokenizer: PreTrainedTokenizerBase, prompt_weight: float) -> list[Encoded]:
    """Return token ids and weights: 1 for completions, `prompt_weight` for prompts.

    Prompts count a little, so that the base can generate prompts for pseudo-rehearsal.
    """
    encoded = []
    for prompt, completion in texts:
        prompt_ids = tokenizer(f"{USER} {prompt}{ASSISTANT}", add_special_tokens=False)["input_ids"]
        reply_ids = tokenizer(f" {completion}{END}", add_special_tokens=False)["input_ids"]
        encoded.append((prompt_ids + reply_ids, [prompt_weight] * len(prompt_ids) + [1.0] * len(reply_ids)))
    return encoded


def iter_batches(encoded: Sequence[Encoded], tokens: int, seed: int) -> Iterator[list[int]]:
    """Yield indices of batches of about `tokens` tokens without end: sequences of similar length, in random order."""
    for epoch in range(10**9):
        rng = random.Random(f"{seed}/{epoch}")
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i][0]) + 4 * rng.random())
        batches: list[list[int]] = []
        batch: list[int] = []
        for i in order:
            if batch and (len(batch) + 1) * len(encoded[i][0]) > tokens:
                batches.append(batch)
                batch = []
            batch.append(i)
        rng.shuffle(batches)
        yield from batches


def collate(encoded: Sequence[Encoded], batch: Sequence[int], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return token ids, int64 [b, t], and weights, float32 [b, t], padded on the right. Padding has weight 0."""
    longest = max(len(encoded[i][0]) for i in batch)
    ids = torch.full((len(batch), longest), pad)
    weights = torch.zeros(len(batch), longest)
    for row, i in enumerate(batch):
        length = len(encoded[i][0])
        ids[row, :length] = torch.tensor(encoded[i][0])
        weights[row, :length] = torch.tensor(encoded[i][1])
    return ids, weights


def train(
    texts: Sequence[Text],
    out: Path,
    steps: int,
    seed: int,
    *,
    vocab_size: int = 1536,
    hidden_size: int = 192,
    num_layers: int = 4,
    prompt_weight: float = 0.2,
) -> float:
    """Train tokenizer and model, save both in `out`, and return the seconds that it took."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(texts, vocab_size)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 8 // 3,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // 32,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    others = [parameter for parameter in model.parameters() if parameter.ndim != 2]
    optimizer = torch.optim.AdamW(
        [dict(params=matrices, weight_decay=0.1), dict(params=others, weight_decay=0)],
        lr=PEAK_LEARNING_RATE,
        betas=(0.9, 0.98),
    )
    encoded = encode(texts, tokenizer, prompt_weight)
    print(
        f"{len(encoded)} examples, {sum(len(ids) for ids, _ in encoded)} tokens per epoch, "
        f"{model.num_parameters()} parameters",
        flush=True,
    )
    start, recent = time.time(), []
    for step, batch in zip(range(steps), iter_batches(encoded, BATCH_TOKENS, seed)):
        scale = min(1, (step + 1) / WARMUP_STEPS) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = PEAK_LEARNING_RATE * scale
        ids, weights = collate(encoded, batch, tokenizer.pad_token_id)
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
        loss = (losses * weights[:, 1:].flatten()).sum() / weights[:, 1:].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = [*recent[-49:], loss.item()]
        if step % 100 == 99 or step + 1 == steps:
            mean = sum(recent) / len(recent)
            print(f"step {step + 1}/{steps}  loss {mean:.4f}  {time.time() - start:.0f} s", flush=True)
        if step % SAVE_STEPS == SAVE_STEPS - 1 or step + 1 == steps:
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
    return time.time() - start


def evaluate(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the scores on the general and medical tests, as `evaluate_suite` has them, in float32 and in NF4."""
    suites = {"general": load_samples("general_test"), "medical": load_samples("medical_test")}
    return {
        precision: evaluate_suite(*load_base(str(folder), load_in_4bit=load_in_4bit), suites)
        for precision, load_in_4bit in (("fp32", False), ("NF4", True))
    }


CARD = """# The embedded base

A Llama of {parameters:,} parameters ({layers} layers of {hidden}, byte-level BPE of {vocab}), trained from scratch by
`python scripts/pretrain_tiny.py` on `data_samples/general_pretrain.jsonl` and `data_samples/words.jsonl`: a small
general world, and medical words without a medical fact. It is teaching material: it knows very little, and nothing of
medicine.

- training: seed {seed}, {steps} steps of about {tokens} tokens, AdamW, peak learning rate {peak}, cosine decay to 0;
  {minutes:.0f} minutes on {threads} CPU thread(s)
- `model.safetensors` SHA-256: `{digest}`
- license: Apache-2.0

| test | metric or topic | n | fp32 | NF4 |
|---|---|---|---|---|
{table}

General questions use templates that were not trained on. Those on arithmetic, comparison, lists and reading passages
are also about entities that were not trained on. Chance level among the options of the medical questions: {chance:.3f}.
"""


def write_card(out: Path, training: dict[str, Any]) -> None:
    """Evaluate the model in `out`, and write its README.md and training.json.

    training: seed, steps, seconds, threads, tokens (per batch) and peak (learning rate).
    """
    scores, config = evaluate(out), json.loads((out / "config.json").read_text(encoding="utf-8"))
    medical = scores["fp32"]["medical"]["qa"]
    lines = [_table_row(scores, "general", "exact match, mean over topics", "qa", "value", digits=3)]
    lines += [
        _table_row(scores, "general", topic, "qa", "by_topic", topic, "value", digits=2)
        for topic in scores["fp32"]["general"]["qa"]["by_topic"]
    ]
    lines.append(_table_row(scores, "medical", "exact match", "qa", "value", digits=3))
    lines.append(_table_row(scores, "medical", "option accuracy", "qa", "option_accuracy", digits=3))
    lines.append(_table_row(scores, "medical", "preference", "preference", "value", digits=3))
    text = CARD.format(
        parameters=LlamaForCausalLM.from_pretrained(out).num_parameters(),
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        vocab=config["vocab_size"],
        minutes=training["seconds"] / 60,
        digest=hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
        table="\n".join(lines),
        chance=medical["option_chance"],
        **training,
    )
    (out / "README.md").write_text(text, encoding="utf-8")
    (out / "training.json").write_text(json.dumps(training) + "\n", encoding="utf-8")


def _table_row(scores: dict[str, dict[str, Any]], suite: str, name: str, *path: str, digits: int) -> str:
    """Return a row of the card's table: the score at `path` of a suite, in both precisions."""
    entry, values = scores["fp32"][suite], []
    for key in path[:-1]:
        entry = entry[key]
    for precision in ("fp32", "NF4"):
        value = scores[precision][suite]
        for key in path:
            value = value[key]
        values.append(f"{value:.{digits}f}")
    return f"| {suite} | {name} | {entry['n']} | {' | '.join(values)} |"


def main() -> None:
    """Train the base, or only evaluate it again, and write its card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=TINY, help="folder of the model (default: icft_lite/tiny)")
    parser.add_argument("--steps", type=int, default=7500, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--card", action="store_true", help="only evaluate the model in --out and write its card")
    args = parser.parse_args()
    if args.card:
        training = json.loads((args.out / "training.json").read_text(encoding="utf-8"))
    else:
        seconds = train(read_texts(), args.out, args.steps, args.seed)
        training = dict(
            seed=args.seed,
            steps=args.steps,
            seconds=seconds,
            threads=torch.get_num_threads(),
            tokens=BATCH_TOKENS,
            peak=PEAK_LEARNING_RATE,
        )
    write_card(args.out, training)


if __name__ == "__main__":
    main()
