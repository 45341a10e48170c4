"""Trains the embedded base from scratch: a byte-level BPE tokenizer and a small Llama.

    python -m icft_lite.tiny.pretrain --out icft_lite/tiny          # about 45 minutes on two cores

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

from icft_lite.config import samples_dir

PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
# A space after each role: a word is then the same token at the start of a turn as inside a sentence.
CHAT = ("{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|> {{ m['content'] }}<|end|>"
        "{% else %}<|user|> {{ m['content'] }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}")


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
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[PAD, USER, ASSISTANT, END],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator((f" {prompt}\n {answer}" for prompt, answer in rows), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END,
                                   additional_special_tokens=[USER, ASSISTANT], model_max_length=512,
                                   clean_up_tokenization_spaces=False)
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


def train(rows, out, steps, seed, vocab=1536, hidden=192, layers=4, tokens=2048, peak=2e-3, prompt_weight=.2):
    """Train and save tokenizer and model in `out`. Returns (seconds, last losses)."""
    torch.manual_seed(seed)
    tokenizer = train_tokenizer(rows, vocab)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=hidden, intermediate_size=hidden * 8 // 3,
                         num_hidden_layers=layers, num_attention_heads=hidden // 32,
                         max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None,
                         eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model = LlamaForCausalLM(config)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW([dict(params=matrices, weight_decay=.1), dict(params=others, weight_decay=0)],
                                  lr=peak, betas=(.9, .98))
    data = encode(rows, tokenizer, prompt_weight)
    print(f"{len(data)} rows, {sum(len(ids) for ids, _ in data)} tokens an epoch, "
          f"{sum(p.numel() for p in model.parameters())} parameters", flush=True)
    start, recent = time.time(), []
    for step, group in zip(range(steps), batches(data, tokens, seed)):
        rate = min(1, (step + 1) / 200) * (.5 + .5 * math.cos(math.pi * step / steps))
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
            print(f"step {step + 1}/{steps}  loss {sum(recent) / len(recent):.4f}  "
                  f"{time.time() - start:.0f} s", flush=True)
        if step % 1000 == 999 or step + 1 == steps:
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
    return time.time() - start, recent


def write_card(out, seconds, steps, seed):
    """README.md: data, seed, steps, time, scores in fp32 and NF4, file hash. Scores come from evaluation."""
    from icft_lite.evaluate import evaluate_suite
    from icft_lite.model import load_base
    from icft_lite.samples import load_samples
    suites = {"general": load_samples("general_test"), "medical": load_samples("medical_test")}
    scores = {name: evaluate_suite(*load_base("tiny" if four is None else str(out), four_bit=bool(four)), suites)
              for name, four in (("fp32", False), ("NF4", True))}
    digest = hashlib.sha256((Path(out) / "model.safetensors").read_bytes()).hexdigest()
    (Path(out) / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
    print(json.dumps({name: {d: {t: v["value"] for t, v in s.items()} for d, s in part.items()}
                      for name, part in scores.items()}, indent=1), digest, seconds, steps, seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--steps", type=int, default=7500)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    seconds, _ = train(read_rows(), args.out, args.steps, args.seed)
    write_card(args.out, seconds, args.steps, args.seed)


if __name__ == "__main__":
    main()
