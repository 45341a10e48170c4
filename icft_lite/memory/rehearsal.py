"""What the long-term memory starts from: general rows, and what the base itself says (pseudo-rehearsal)."""

from collections import Counter
from itertools import islice

import torch

from icft_lite.data.tables import iter_examples
from icft_lite.memory.long_term import OFFERS
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.base import head_weight
from icft_lite.modeling.generation import generate
from icft_lite.utils.distributed import on_main_process


def seed_memory(memory, given, held_out, model, tokenizer, encoder, count, seed=0):
    """Fill an empty long-term memory: general rows that were given (answered by the base where they have no
    answer), and `count` prompts the base makes up. The made-up ones name nothing that `held_out` rows ask about.

    memory: a LongTermMemory; given: canonical rows or None; held_out: rows of validation and test."""
    with use_adapter(model, None):
        memory.add(answer_with_base(given or [], model, tokenizer, encoder), encoder, "general")
        if count:
            blocked = held_out_filter(held_out)
            memory.add(
                on_main_process(lambda: generate_self_prompts(model, tokenizer, encoder, count, blocked, seed)),
                encoder,
                "self",
            )


def answer_with_base(given, model, tokenizer, encoder):
    """Canonical rows as what is remembered of them, a few at a time: the right response, or the base's own answer."""
    given = iter_examples(given)
    while batch := [dict(row) for row in islice(given, OFFERS)]:
        if asked := [row for row in batch if row["label"] < 0]:
            for row, answer in zip(asked, on_main_process(lambda: generate(model, tokenizer, encoder, asked))):
                row.update(responses=[answer], label=0, task="response")
        yield from (
            {**row, "task": "response", "responses": [row["responses"][row["label"]]], "label": 0}
            for row in batch
            if row["task"] != "pair"
        )


def generate_self_prompts(
    model, tokenizer, encoder, count, blocked=lambda text: False, seed=0, batch=256, max_tokens=96
):
    """Pseudo-rehearsal: the base makes up prompts and answers them (Robins, 1995; the empty user turn as in
    Magpie, Xu et al., 2024). Returns canonical rows, none with a text for which `blocked(text)` is true."""
    mark = "\u2603"
    before, after = tokenizer.apply_chat_template(
        [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True, enable_thinking=False
    ).split(mark)
    start = tokenizer(before.rstrip(" "), add_special_tokens=False)["input_ids"]
    stop = tokenizer(after, add_special_tokens=False)["input_ids"]
    found, device = {}, head_weight(model).device
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for _ in range(0, count, batch):
            ids = torch.tensor([start] * min(batch, count), device=device)
            out = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                do_sample=True,
                use_cache=True,
                max_new_tokens=max_tokens,
                eos_token_id=[tokenizer.eos_token_id, stop[0]],
                pad_token_id=tokenizer.pad_token_id,
            )
            for row in out[:, len(start) :].tolist():
                if stop[0] in row:
                    text = tokenizer.decode(row[: row.index(stop[0])], skip_special_tokens=True).strip()
                    if text and not blocked(text):
                        found[text] = None
    rows = [
        dict(
            id=f"self-{n}",
            task="response",
            domain="general",
            topic="self",
            level="",
            context="",
            prompt=text,
            history=[],
            responses=[""],
            label=0,
            posterior=[],
            facts=[],
            kind="",
            entity="",
        )
        for n, text in enumerate(found)
    ]
    answers = generate(model, tokenizer, encoder, rows, max_new_tokens=max_tokens // 2, batch=batch)
    return [{**row, "responses": [answer]} for row, answer in zip(rows, answers) if answer and not blocked(answer)]


def held_out_filter(rows):
    """blocked(text) for rows that must stay out of memory in any wording: does the text name what one of them
    is about? All the words of the entity must occur in it. A word that five prompts or more share belongs to
    the wording ("first", "young"), and does not count as a name."""
    shared = Counter(word for row in rows for word in set(normalize_words(row["prompt"]).split()))
    own = Counter(word for row in rows for word in set(normalize_words(row["entity"]).split()))
    names, prompts = {}, {normalize_words(row["prompt"]) for row in rows}
    for row in rows:
        words = frozenset(w for w in normalize_words(row["entity"]).split() if shared[w] - own[w] < 5)
        if words:
            names.setdefault(min(words), set()).add(words)

    def blocked(text):
        words = set(normalize_words(text).split())
        return normalize_words(text) in prompts or any(name <= words for word in words for name in names.get(word, ()))

    return blocked


def normalize_words(text):
    """Lower-case words and numbers, single spaces between: "the U.S." → "the u s"."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())
