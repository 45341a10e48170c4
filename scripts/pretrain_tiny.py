"""Trains the embedded base from scratch: a byte-level BPE tokenizer and a small Llama.

    python scripts/pretrain_tiny.py --out icft_lite/tiny          # about 40 minutes

It is taught the general training split (every fact, in training wordings), and copying and list tasks over
medical words and answers, which show it those words without a single medical fact.
"""

import argparse
import hashlib
import json
import math
import random
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from icft_lite.data.samples import samples_dir
from icft_lite.modeling.base import TINY

TOKENS, PEAK = 2048, 2e-3
"""Tokens in a training batch; the highest learning rate."""
PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
# A space after each role: a word is then the same token at the start of a turn as inside a sentence.
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|> {{ m['content'] }}<|end|>"
    "{% else %}<|user|> {{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def read_rows():
    """(prompt, completion) of everything the base is taught."""
    rows = []
    for name in ("general_pretrain", "words"):
        with open(samples_dir() / f"{name}.jsonl", encoding="utf-8") as file:
            rows += [(row["prompt"], row["completion"]) for row in map(json.loads, file)]
    return rows


def train_tokenizer(rows, vocab_size):
    """Byte-level BPE with single digits; pad and end of turn are different tokens."""
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
    tokenizer.train_from_iterator((f" {prompt}\n {answer}" for prompt, answer in rows), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT
    return fast


def encode(rows, tokenizer, prompt_weight):
    """[(ids, weights)]: answers count fully; prompts a little, so that the base can make up its own."""
    out = []
    for prompt, answer in rows:
        question = tokenizer(f"{USER} {prompt}{ASSISTANT}", add_special_tokens=False)["input_ids"]
        reply = tokenizer(f" {answer}{END}", add_special_tokens=False)["input_ids"]
        out.append((question + reply, [prompt_weight] * len(question) + [1.0] * len(reply)))
    return out


def batches(data, tokens, seed):
    """Endless batches of about `tokens` tokens, rows of similar length together, order shuffled."""
    for epoch in range(10**9):
        r = random.Random(f"{seed}/{epoch}")
        order = sorted(range(len(data)), key=lambda i: len(data[i][0]) + 4 * r.random())
        groups, group = [], []
        for i in order:
            if group and (len(group) + 1) * len(data[i][0]) > tokens:
                groups.append(group)
                group = []
            group.append(i)
        r.shuffle(groups)
        yield from groups


def collate(data, group, pad):
    longest = max(len(data[i][0]) for i in group)
    ids = torch.full((len(group), longest), pad)
    weight = torch.zeros(len(group), longest)
    for row, i in enumerate(group):
        n = len(data[i][0])
        ids[row, :n] = torch.tensor(data[i][0])
        weight[row, :n] = torch.tensor(data[i][1])
    return ids, weight


def train(rows, out, steps, seed, vocab=1536, hidden=192, layers=4, tokens=TOKENS, peak=PEAK, prompt_weight=0.2):
    """Train and save tokenizer and model in `out`. Returns (seconds, last losses)."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(rows, vocab)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [dict(params=matrices, weight_decay=0.1), dict(params=others, weight_decay=0)], lr=peak, betas=(0.9, 0.98)
    )
    data = encode(rows, tokenizer, prompt_weight)
    print(
        f"{len(data)} rows, {sum(len(ids) for ids, _ in data)} tokens an epoch, "
        f"{sum(p.numel() for p in model.parameters())} parameters",
        flush=True,
    )
    start, recent = time.time(), []
    for step, group in zip(range(steps), batches(data, tokens, seed)):
        rate = min(1, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        for part in optimizer.param_groups:
            part["lr"] = peak * rate
        ids, weight = collate(data, group, tokenizer.pad_token_id)
        logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), reduction="none")
        loss = (loss * weight[:, 1:].flatten()).sum() / weight[:, 1:].sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = [*recent[-49:], loss.item()]
        if step % 100 == 99 or step + 1 == steps:
            print(
                f"step {step + 1}/{steps}  loss {sum(recent) / len(recent):.4f}  {time.time() - start:.0f} s",
                flush=True,
            )
        if step % 1000 == 999 or step + 1 == steps:
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
    return time.time() - start, recent


def measure(folder):
    """Scores of the base in fp32 and NF4 on the general and medical tests: {precision: evaluate_suite's}."""
    from icft_lite.data.samples import load_samples
    from icft_lite.evaluation import evaluate_suite
    from icft_lite.modeling.base import load_base

    suites = {"general": load_samples("general_test"), "medical": load_samples("medical_test")}
    return {
        name: evaluate_suite(*load_base(str(folder), four_bit=four), suites)
        for name, four in (("fp32", False), ("NF4", True))
    }


CARD = """# The embedded base

A Llama of {parameters:,} parameters ({layers} layers of {hidden}, byte-level BPE of {vocab}), trained from scratch by
`python scripts/pretrain_tiny.py` on `data_samples/general_pretrain.jsonl` and `data_samples/words.jsonl`: a small
general world, and medical words without a medical fact. Teaching material; it knows next to nothing, and nothing
of medicine.

- training: seed {seed}, {steps} steps of about {tokens} tokens, AdamW, peak rate {peak}, cosine to 0; {minutes:.0f}
  minutes on {threads} CPU thread(s)
- `model.safetensors` SHA-256: `{digest}`
- licence: Apache-2.0

| test | what | n | fp32 | NF4 |
|---|---|---|---|---|
{rows}

General questions are asked in wordings never trained on; those on arithmetic, comparison, lists and reading passages
also of things never trained on. Medical questions: chance among the options is {floor:.3f}.
"""


def write_card(out, training):
    """README.md in `out`, with what was measured. training: dict of seed, steps, seconds, threads, tokens, peak."""
    out = Path(out)
    scores, config = measure(out), json.loads((out / "config.json").read_text())
    full, four = scores["fp32"], scores["NF4"]
    rows = [
        f"| general | exact match, mean over topics | {full['general']['qa']['n']} | "
        f"{full['general']['qa']['value']:.3f} | {four['general']['qa']['value']:.3f} |"
    ]
    for topic, entry in full["general"]["qa"]["by_topic"].items():
        rows.append(
            f"| general | {topic} | {entry['n']} | {entry['value']:.2f} | "
            f"{four['general']['qa']['by_topic'][topic]['value']:.2f} |"
        )
    medical, medical4 = full["medical"], four["medical"]
    rows.append(
        f"| medical | exact match | {medical['qa']['n']} | {medical['qa']['value']:.3f} | "
        f"{medical4['qa']['value']:.3f} |"
    )
    rows.append(
        f"| medical | option accuracy | {medical['qa']['n']} | {medical['qa']['option_accuracy']:.3f} | "
        f"{medical4['qa']['option_accuracy']:.3f} |"
    )
    rows.append(
        f"| medical | preference | {medical['preference']['n']} | {medical['preference']['value']:.3f} | "
        f"{medical4['preference']['value']:.3f} |"
    )
    model = LlamaForCausalLM.from_pretrained(out)
    (out / "README.md").write_text(
        CARD.format(
            parameters=model.num_parameters(),
            layers=config["num_hidden_layers"],
            hidden=config["hidden_size"],
            vocab=config["vocab_size"],
            minutes=training["seconds"] / 60,
            digest=hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(),
            rows="\n".join(rows),
            floor=medical["qa"]["option_floor"],
            **training,
        ),
        encoding="utf-8",
    )
    (out / "training.json").write_text(json.dumps(training) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=TINY)
    parser.add_argument("--steps", type=int, default=7500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--card", action="store_true", help="only score the model in --out again and write its card")
    args = parser.parse_args()
    if args.card:
        training = json.loads((args.out / "training.json").read_text())
    else:
        seconds, _ = train(read_rows(), args.out, args.steps, args.seed)
        training = dict(
            seed=args.seed, steps=args.steps, seconds=seconds, threads=torch.get_num_threads(), tokens=TOKENS, peak=PEAK
        )
    write_card(args.out, training)


if __name__ == "__main__":
    main()
