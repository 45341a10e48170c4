"""Short-term and long-term memory: rehearse, promote, consolidate.

Short-term (STM): the fast adapter and a ring of recent new rows. Long-term (LTM): the slow adapter and a
bounded buffer of examples, each with its teacher's final hidden states on the response tokens.
"""

import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from icft_lite.curriculum import best
from icft_lite.encoding import join as join_batch
from icft_lite.encoding import length_groups
from icft_lite.evaluate import generate, score_responses
from icft_lite.model import adapter_tensors, delta_svd, head_weight, hidden_states, using

LINE = (1.0, 0.85, 0.7, 0.55, 0.4, 0.2)
"""Points tried between the long-term memory at a stage's start (0) and the slow adapter at its end (1)."""


class ShortTermMemory:
    """A ring of the most recent new rows (indices). Replays are counted; a row that leaves the ring with at
    least `promote_after` replays becomes a candidate for promotion."""

    def __init__(self, size, promote_after=1, seed=0):
        self.size, self.promote_after = size, promote_after
        self.ring = {}  # row → replays, oldest first
        self.candidates = {}  # row → most replays it left with
        self.random = random.Random(f"ring/{seed}")

    def push(self, row):
        """Put a row in, as the newest; the oldest leaves a full ring."""
        self.ring[row] = self.ring.pop(row, 0)
        while len(self.ring) > self.size:
            self._leave(next(iter(self.ring)))

    def replay(self, count, size=lambda row: 1):
        """Rows drawn from the ring without replacement until their sizes reach `count`; each is counted."""
        rows, used = [], 0
        for row in self.random.sample(list(self.ring), min(count, len(self.ring))):
            if used < count:
                rows.append(row)
                self.ring[row] += 1
                used += size(row)
        return rows

    def flush(self):
        """Empty the ring (a stage's end). Returns the candidates: {row: replays}."""
        for row in list(self.ring):
            self._leave(row)
        return self.candidates

    def _leave(self, row):
        replays = self.ring.pop(row)
        if replays >= self.promote_after:
            self.candidates[row] = max(replays, self.candidates.get(row, 0))


@dataclass
class Entry:
    """One remembered example: a canonical response row, and what it was taught by."""

    row: dict
    encoded: object
    source: str
    """`general` (given), `self` (made up by the base), or `promoted`."""
    surprise: float = 0.0
    """NLL a token under the slow adapter when it came in."""
    lot: float = 0.0
    """A random number that decides membership of the reservoir share."""
    teacher: str = "base"
    """`base` or `memory`: whoever gave the stored response the higher likelihood at the last refresh."""
    states: torch.Tensor | None = None
    """[response tokens, hidden]: the teacher's final hidden states."""


def water_fill(counts, size):
    """Equal room for each key, room that a key cannot use going to the others: {key: count} → {key: quota}."""
    quota, left, open_keys = dict.fromkeys(counts, 0), size, sorted(counts)
    while left > 0 and open_keys:
        share = max(1, left // len(open_keys))
        for key in list(open_keys):
            give = min(share, counts[key] - quota[key], left)
            quota[key] += give
            left -= give
            if quota[key] == counts[key]:
                open_keys.remove(key)
    return quota


class LongTermMemory:
    """A bounded buffer of `Entry`. Room is shared equally among sources, then among a source's topics; within
    a topic a `reservoir_share` is kept at random, the rest by surprise (SuRe: Hazard et al., 2025)."""

    def __init__(self, size, policy="surprise", reservoir_share=0.25, state_dtype="float32", seed=0):
        self.size, self.policy, self.reservoir_share = size, policy, reservoir_share
        self.state_dtype = getattr(torch, state_dtype)
        self.entries = []
        self.seed = seed

    def __len__(self):
        return len(self.entries)

    def add(self, rows, encoder, source, surprise=None):
        """Offer canonical response rows. Returns (kept, evicted): how many of them stay, how many others left."""
        known = {entry.row["id"] for entry in self.entries}
        surprise = np.zeros(len(rows)) if surprise is None else surprise
        new = [self._entry(row, encoder, source, s) for row, s in zip(rows, surprise) if row["id"] not in known]
        before = len(self.entries)
        self.entries = self._keep(self.entries + new)
        ids = {entry.row["id"] for entry in new}
        kept = sum(entry.row["id"] in ids for entry in self.entries)
        return kept, before + kept - len(self.entries)

    def _entry(self, row, encoder, source, surprise):
        lot = random.Random(f"lot/{self.seed}/{row['id']}").random()  # a row's own, so a resumed run draws it again
        return Entry(row, encoder(row), source, float(surprise), lot)

    def restore(self, saved, encoder):
        """Put back entries as `row`, `source`, `surprise` (a saved stage); states come with the next refresh."""
        self.entries = [self._entry(one["row"], encoder, one["source"], one["surprise"]) for one in saved]

    def _keep(self, entries):
        if len(entries) <= self.size:
            return entries
        by_source = {}
        for entry in entries:
            by_source.setdefault(entry.source, {}).setdefault(entry.row["topic"], []).append(entry)
        kept = []
        counts = {source: sum(map(len, topics.values())) for source, topics in by_source.items()}
        for source, room in water_fill(counts, self.size).items():
            topics = by_source[source]
            for topic, quota in water_fill({t: len(e) for t, e in topics.items()}, room).items():
                kept += self._choose(topics[topic], quota)
        order = {id(entry): n for n, entry in enumerate(entries)}
        return sorted(kept, key=lambda entry: order[id(entry)])

    def _choose(self, entries, quota):
        by_lot = sorted(entries, key=lambda entry: entry.lot)
        if self.policy == "reservoir":
            return by_lot[:quota]
        share = round(self.reservoir_share * quota)
        rest = sorted(by_lot[share:], key=lambda entry: -entry.surprise)
        return by_lot[:share] + rest[:quota - share]

    def refresh(self, model):
        """Choose each entry's teacher (long-term memory or bare base) and cache its states. Two no-gradient
        passes. Returns {"memory": share, "base": share}."""
        if not self.entries:
            return {}
        encoded = [entry.encoded for entry in self.entries]
        views = {"base": None, "memory": "slow"}
        logp = {}
        for name, adapter in views.items():
            with using(model, adapter):
                logp[name] = [score["logp"][0] for score in score_responses(model, encoded)]
        for i, entry in enumerate(self.entries):
            entry.teacher = "memory" if logp["memory"][i] > logp["base"][i] else "base"
        for name, adapter in views.items():
            mine = [entry for entry in self.entries if entry.teacher == name]
            with using(model, adapter):
                for entry, states in zip(mine, response_states(model, [entry.encoded for entry in mine])):
                    entry.states = states.to(self.state_dtype)
        share = sum(entry.teacher == "memory" for entry in self.entries) / len(self.entries)
        return {"memory": share, "base": 1 - share}


@torch.no_grad()
def response_states(model, encoded, rows=96):
    """Final hidden states at the supervised positions of each example: list of [tokens, hidden], on the CPU."""
    out = [None] * len(encoded)
    for group in length_groups(encoded, rows) if encoded else []:
        batch = join_batch([encoded[i] for i in group], 0, head_weight(model).device)
        states = hidden_states(model, batch)[batch["row"], batch["position"]].float().cpu()
        for i, part in zip(group, states.split([len(encoded[i].tokens) for i in group])):
            out[i] = part.clone()
    return out


def as_response(row):
    """A row as it is remembered: its prompt and its likeliest response."""
    return {**row, "task": "response", "responses": [row["responses"][best(row)]], "label": 0, "posterior": []}


def confident(row, least):
    """May this row be promoted? Trusted rows may; weak ones if their posterior's largest entry reaches `least`."""
    return not row["posterior"] or max(row["posterior"]) >= least


def promote(memory, model, candidates, encoder, least):
    """Move candidate rows (canonical) into the long-term memory: gated by label confidence, kept by surprise
    under the slow adapter. Returns {"candidates", "gated", "promoted", "evicted"}."""
    rows = [as_response(row) for row in candidates if confident(row, least)]
    surprise = []
    if rows:
        with using(model, "slow"):
            scores = score_responses(model, [encoder(row) for row in rows])
        surprise = [-(score["logp"] / score["tokens"])[0] for score in scores]
    kept, evicted = memory.add(rows, encoder, "promoted", surprise)
    return dict(candidates=len(candidates), gated=len(candidates) - len(rows), promoted=kept, evicted=evicted)


def self_prompts(model, tokenizer, encoder, count, blocked=lambda text: False, seed=0, batch=256, max_tokens=96):
    """Pseudo-rehearsal: the base makes up prompts and answers them (Robins, 1995; the empty user turn as in
    Magpie, Xu et al., 2024). Returns canonical rows, none with a text for which `blocked(text)` is true."""
    mark = "\u2603"
    before, after = tokenizer.apply_chat_template(
        [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True,
        enable_thinking=False).split(mark)
    start = tokenizer(before.rstrip(" "), add_special_tokens=False)["input_ids"]
    stop = tokenizer(after, add_special_tokens=False)["input_ids"]
    found, device = {}, head_weight(model).device
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for _ in range(0, count, batch):
            ids = torch.tensor([start] * min(batch, count), device=device)
            out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, use_cache=True,
                                 max_new_tokens=max_tokens, eos_token_id=[tokenizer.eos_token_id, stop[0]],
                                 pad_token_id=tokenizer.pad_token_id)
            for row in out[:, len(start):].tolist():
                if stop[0] in row:
                    text = tokenizer.decode(row[:row.index(stop[0])], skip_special_tokens=True).strip()
                    if text and not blocked(text):
                        found[text] = None
    rows = [dict(id=f"self-{n}", task="response", domain="general", topic="self", level="", context="", prompt=text,
                 history=[], responses=[""], label=0, posterior=[], facts=[], kind="", entity="")
            for n, text in enumerate(found)]
    answers = generate(model, tokenizer, encoder, rows, max_new_tokens=max_tokens // 2, batch=batch)
    return [{**row, "responses": [answer]} for row, answer in zip(rows, answers)
            if answer and not blocked(answer)]


def held_out_filter(rows):
    """blocked(text) for rows that must stay out of memory in any wording: does the text name what one of them
    is about? All the words of the entity must occur in it. A word that five prompts or more share belongs to
    the wording ("first", "young"), and does not count as a name."""
    shared = Counter(word for row in rows for word in set(plain_words(row["prompt"]).split()))
    own = Counter(word for row in rows for word in set(plain_words(row["entity"]).split()))
    names, prompts = {}, {plain_words(row["prompt"]) for row in rows}
    for row in rows:
        words = frozenset(w for w in plain_words(row["entity"]).split() if shared[w] - own[w] < 5)
        if words:
            names.setdefault(min(words), set()).add(words)

    def blocked(text):
        words = set(plain_words(text).split())
        return plain_words(text) in prompts or any(name <= words for word in words for name in names.get(word, ()))

    return blocked


def plain_words(text):
    """Lower-case words and numbers, single spaces between: "the U.S." → "the u s"."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


@torch.no_grad()
def blend(model, start, end, alpha, rank, scale):
    """Set `slow` to the point (1 − α)·start + α·end, in exact ΔW = B·A, brought back to rank r by SVD.

    start, end: adapter tensors [A, B, A, B, …]. Averaging A and B instead is not this point. Returns the
    largest relative residual over the layers (0 at α = 0 and 1)."""
    target = adapter_tensors(model, "slow")
    worst = 0.0
    for i in range(0, len(target), 2):
        if alpha in (0.0, 1.0):
            source = start if alpha == 0.0 else end
            A, B = source[i], source[i + 1]
        else:
            pairs = [(1 - alpha, start[i], start[i + 1]), (alpha, end[i], end[i + 1])]
            A, B, residual = delta_svd(pairs, rank, scale)
            worst = max(worst, residual)
        target[i].copy_(A)
        target[i + 1].copy_(B)
    return worst


def consolidate(model, start, score, floor, rank, scale, line=LINE):
    """Choose the long-term memory's next point on the line start → slow adapter.

    start: adapter tensors at the stage's start. score(): {"general", "medical"} of the slow adapter as it
    stands. floor: least general score allowed. Takes the best medical score among the points that keep the
    floor; if none does, stays at the start (refused). Sets `slow` to the result and returns
    {"alpha", "points", "refused", "svd_residual"}."""
    end = [tensor.clone() for tensor in adapter_tensors(model, "slow")]
    points = []
    for alpha in line:
        residual = blend(model, start, end, alpha, rank, scale)
        points.append(dict(alpha=alpha, **score(), svd_residual=residual))
    allowed = [point for point in points if point["general"] >= floor]
    chosen = max(allowed, key=lambda point: (point["medical"], point["general"]), default=None)
    alpha = chosen["alpha"] if chosen else 0.0
    residual = blend(model, start, end, alpha, rank, scale)
    return dict(alpha=alpha, refused=chosen is None, svd_residual=residual, points=points)


def average_step(slow, fast, t, decay):
    """One step of the slow adapter's moving average (tensors, in place), after optimiser step t = 0, 1, …:

        φ̄ ← β_t·φ̄ + (1 − β_t)·φ,   β_t = min(1 − 1/(t + 1), decay)"""
    beta = min(1 - 1 / (t + 1), decay)
    with torch.no_grad():
        torch._foreach_lerp_(slow, fast, 1 - beta)


