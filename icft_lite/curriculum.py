"""Difficulty, stages, pacing: which new rows a step draws.

    competence  c(t) = min(1, √(t·(1 − c0²)/T + c0²))            (Platanios et al., 2019, eq. 7)

At step t of T a stage draws from its easiest c(t) share.
"""

import math
import random

import numpy as np

from icft_lite.data.schema import LEVELS, best_index
from icft_lite.data.tables import column, iter_columns
from icft_lite.errors import ICFTError
from icft_lite.modeling.encoding import drop_prompt
from icft_lite.modeling.scoring import score_responses


def rank_average(signals):
    """Average the ranks of several signals: {name: float [n]} → float [n] in 0…1. Ties share their rank;
    a signal's NaN (does not apply to that row) is left out of that row's average."""
    ranks = []
    for values in signals.values():
        values = np.asarray(values, float)
        rank = np.full(len(values), np.nan)
        known = ~np.isnan(values)
        if known.any():
            ordered = np.sort(values[known])
            below = np.searchsorted(ordered, values[known], "left")
            through = np.searchsorted(ordered, values[known], "right")
            rank[known] = (below + through - 1) / 2 / max(1, known.sum() - 1)
        ranks.append(rank)
    ranks = np.stack(ranks)
    count = (~np.isnan(ranks)).sum(0)
    return np.where(count, np.nansum(ranks, 0) / np.maximum(count, 1), 0.5)


def label_entropy(posterior):
    """Entropy of a label posterior in nats; 0 for a trusted row (no posterior)."""
    if not posterior:
        return 0.0
    p = np.asarray([x for x in posterior if x > 0], float)
    return 0.0 - float((p * np.log(p)).sum())  # a plain minus sign would make a sure label's 0 a -0


def score_difficulty(rows, model=None, encoded=None, signals=("length", "entropy"), cache=None):
    """Difficulty of each row: the rank average of the chosen signals, float [n] in 0…1, higher is harder.

    rows: canonical examples. `loss` (NLL a token of the likeliest label's response under `model`), `ifd`
    (that loss with the prompt ÷ without it; responses only; Li et al., 2024, "Cherry LLM") need `model`
    and `encoded` (their encodings); `length` (tokens, or words without `encoded`) and `entropy` (of the
    label posterior) do not. cache: an OutputCache of the bare base, asked in place of `model`.
    Raises ICFTError if a signal's needs are not met."""
    found = {}
    if {"loss", "ifd"} & set(signals):
        if model is None or encoded is None:
            raise ICFTError("difficulty: the signals loss and ifd need a model and encoded rows")
        scores = cache.response_scores("loss", encoded) if cache else score_responses(model, encoded)
        likeliest = (best_index(*one) for one in iter_columns(rows, "posterior", "label"))
        loss = np.array([-(s["logp"] / s["tokens"])[at] for at, s in zip(likeliest, scores)])
        if "loss" in signals:
            found["loss"] = loss
        if "ifd" in signals:
            free = [i for i, task in enumerate(column(rows, "task")) if task == "response"]
            bare = [drop_prompt(encoded[i]) for i in free]
            bare = cache.response_scores("bare", bare) if cache else score_responses(model, bare)
            found["ifd"] = np.full(len(rows), np.nan)
            found["ifd"][free] = [loss[i] / max(-(s["logp"] / s["tokens"])[0], 1e-6) for i, s in zip(free, bare)]
    if "length" in signals:
        lengths = (
            (one.length for one in encoded)
            if encoded is not None
            else (len(f"{context} {prompt}".split()) for context, prompt in iter_columns(rows, "context", "prompt"))
        )
        found["length"] = np.fromiter(lengths, float, len(rows))
    if "entropy" in signals:
        found["entropy"] = np.fromiter(
            (label_entropy(one) for (one,) in iter_columns(rows, "posterior")), float, len(rows)
        )
    return rank_average({name: found[name] for name in signals})


def build_curriculum(levels, difficulty, order="easy_to_hard", n_stages=3):
    """Stages: a list of index lists, each sorted easiest first (hardest first for `hard_to_easy`).

    levels: [n] of "easy", "middle", "hard", or "" — where any is "", they are equal shares by difficulty instead.
    A stage adds a level and keeps those before it ("baby steps", Spitkovsky et al., 2010): stages that drop them
    forget them. `random` and `interleaved` put every row in every stage, unsorted."""
    indices = np.argsort(np.asarray(difficulty, float), kind="stable").tolist()
    if order in ("random", "interleaved"):
        return [sorted(indices) for _ in range(n_stages)]
    if order == "hard_to_easy":
        indices = indices[::-1]
    if all(level in LEVELS for level in levels):
        level = np.array([LEVELS.index(level) for level in levels])
        steps = level if order == "easy_to_hard" else level.max(initial=0) - level
    else:
        steps = np.empty(len(indices), int)
        for step, part in enumerate(np.array_split(np.array(indices, int), n_stages)):
            steps[part] = step
    return [[i for i in indices if steps[i] <= step] for step in np.unique(steps)]


def competence(t, total, start):
    """c(t) for t in 0…total: the share of a stage's easiest rows that may be drawn (Platanios et al., eq. 7)."""
    return min(1.0, math.sqrt(t * (1 - start**2) / max(total, 1e-9) + start**2))


class PacedSampler:
    """Draws rows for a stage in shuffled passes over the share that competence allows. Rows that it newly
    allows are mixed into the pass under way, so that the hardest are not left waiting for its end.
    start, end: c0, and T as a share of the stage (1: the very hardest rows are drawn once or not at all).

    A pure function of (stage, topics, order, seed): a resumed run draws the same rows."""

    def __init__(self, stage, topics, order="easy_to_hard", start=0.3, seed=0, end=1.0):
        self.stage, self.topics, self.order, self.start, self.end = stage, topics, order, start, end
        self.random = random.Random(f"draw/{seed}")
        self.queue, self.open = _Queue([]), 0

    def draw(self, progress):
        """The next row index; `progress` is the share of the stage that is done, 0…1."""
        paced = self.order in ("easy_to_hard", "hard_to_easy")
        share = competence(progress, self.end, self.start) if paced else 1.0
        allowed = max(1, math.ceil(share * len(self.stage)))
        if not self.queue:
            rows = self.random.sample(self.stage[:allowed], allowed)
            self.queue = _Queue(round_robin(rows, self.topics)[::-1] if self.order == "interleaved" else rows)
        else:
            for row in self.stage[self.open : allowed]:
                self.queue.insert(self.random.randrange(len(self.queue) + 1), row)
        self.open = max(self.open, allowed)
        return self.queue.pop()


class _Queue:
    """A list for `insert` anywhere and `pop` at the end, in piles: an insertion moves a pile, not all the rows."""

    def __init__(self, rows, pile=4000):
        self.piles, self.length = [rows[i : i + pile] for i in range(0, len(rows), pile)], len(rows)

    def __len__(self):
        return self.length

    def insert(self, at, row):
        for pile in self.piles:
            if at <= len(pile):
                break
            at -= len(pile)
        pile.insert(at, row)
        self.length += 1

    def pop(self):
        row = self.piles[-1].pop()
        if not self.piles[-1]:
            self.piles.pop()
        self.length -= 1
        return row


def round_robin(rows, topics):
    """Reorder rows so that topics alternate as evenly as their counts allow."""
    seen, total = {}, {}
    for i in rows:
        total[topics[i]] = total.get(topics[i], 0) + 1
    place = {}
    for i in rows:
        seen[topics[i]] = seen.get(topics[i], 0) + 1
        place[i] = (seen[topics[i]] - 0.5) / total[topics[i]]
    return sorted(rows, key=lambda i: place[i])
