"""Curriculum: the difficulty of examples, the stages, and competence-based pacing inside a stage.

    competence  c(t) = min(1, √(t·(1 − c0²)/T + c0²))            (Platanios et al., 2019, eq. 7)

At progress t of a stage, from 0 to 1, examples are drawn from its easiest share c(t). T is `curriculum.competence_end`,
c0 is `curriculum.competence_start`.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from peft import PeftModel
from transformers import PreTrainedModel

from icft_lite.compat import moved
from icft_lite.config import Order, Signal
from icft_lite.data.schema import LEVELS, Examples, best_index
from icft_lite.data.tables import column, iter_columns
from icft_lite.errors import ICFTError
from icft_lite.modeling.encoding import Encoded, drop_prompt
from icft_lite.modeling.output_cache import OutputCache
from icft_lite.modeling.scoring import score_responses

SORTED_ORDERS: tuple[Order, ...] = ("easy_to_hard", "hard_to_easy")
"""Orders that depend on difficulty. The others need none."""


def rank_average(signals: Mapping[str, ArrayLike]) -> np.ndarray:
    """Return the average of the ranks of several signals, float [n] in 0…1.

    signals: {name: float [n]}. Equal values share their rank. NaN means that a signal does not apply to an example; the
    example's average is then over its other signals (0.5 if there are none).
    """
    ranks = np.stack([pd.Series(signal, dtype=float).rank() for signal in signals.values()]) - 1
    known = ~np.isnan(ranks)
    ranks /= np.maximum(known.sum(1, keepdims=True) - 1, 1)
    count = known.sum(0)
    return np.where(count, np.nansum(ranks, 0) / np.maximum(count, 1), 0.5)


def label_entropy(posterior: Sequence[float] | None) -> float:
    """Return the entropy of a label posterior in nats; 0 for a trusted example and for a hard label."""
    if not posterior or len(posterior) == 1:
        return 0.0
    p = np.asarray([x for x in posterior if x > 0], float)
    return 0.0 - float((p * np.log(p)).sum())  # a unary minus would turn the 0 of a certain label into -0.0


def score_difficulty(
    examples: Examples,
    model: PreTrainedModel | PeftModel | None = None,
    encoded: Sequence[Encoded] | None = None,
    signals: Sequence[Signal] = ("length", "entropy"),
    cache: OutputCache | None = None,
) -> np.ndarray:
    """Return the difficulty of each example, float [n] in 0…1, higher is harder: the rank average of signals.

    signals:

    - `loss`: negative log-likelihood per token, under `model`, of the response with the most likely label.
    - `ifd`, instruction-following difficulty: that loss with the prompt, divided by the loss without it. Only for
      examples of the task `response` (Li et al., 2024, "Cherry LLM").
    - `length`: length of `encoded` in tokens; without it, words in context and prompt.
    - `entropy`: entropy of the label posterior. Without effect where all labels are hard.

    examples: canonical examples. encoded: their encodings; `loss` and `ifd` need them and `model`. cache: an
    OutputCache, used instead of `model` (without adapters). Raises ICFTError if model or encodings are missing.
    """
    values: dict[str, np.ndarray] = {}
    if {"loss", "ifd"} & set(signals):
        if model is None or encoded is None:
            raise ICFTError("difficulty: the signals loss and ifd need a model and encoded examples; pass both")
        # "loss" and "bare" are names of cache files
        scores = cache.response_scores("loss", encoded) if cache else score_responses(model, encoded)
        best = (best_index(*labels) for labels in iter_columns(examples, "posterior", "label"))
        loss = np.array([-(score["logp"] / score["tokens"])[i] for i, score in zip(best, scores)])
        if "loss" in signals:
            values["loss"] = loss
        if "ifd" in signals:
            replies = [i for i, task in enumerate(column(examples, "task")) if task == "response"]
            bare = [drop_prompt(encoded[i]) for i in replies]
            scores = cache.response_scores("bare", bare) if cache else score_responses(model, bare)
            bare_losses = [max(-(score["logp"] / score["tokens"])[0], 1e-6) for score in scores]
            values["ifd"] = np.full(len(examples), np.nan)
            values["ifd"][replies] = [loss[i] / bare_loss for i, bare_loss in zip(replies, bare_losses)]
    if "length" in signals:
        lengths = (
            (one.length for one in encoded)
            if encoded is not None
            else (len(f"{context} {prompt}".split()) for context, prompt in iter_columns(examples, "context", "prompt"))
        )
        values["length"] = np.fromiter(lengths, float, len(examples))
    if "entropy" in signals:
        entropies = (label_entropy(posterior) for (posterior,) in iter_columns(examples, "posterior"))
        values["entropy"] = np.fromiter(entropies, float, len(examples))
    return rank_average({name: values[name] for name in signals})


def build_curriculum(
    levels: Sequence[str], difficulty: ArrayLike | None, order: Order = "easy_to_hard", n_stages: int = 3
) -> list[list[int]]:
    """Return the stages: lists of indices, each sorted easiest first (hardest first for `hard_to_easy`).

    levels: [n], "easy", "medium" or "hard". If any of them is "", levels are ignored and `n_stages` equal parts by
    difficulty take their place. difficulty: float [n]; None only for an order that is not in SORTED_ORDERS.

    Each stage adds a level to those before it ("baby steps", Spitkovsky et al., 2010), because a stage without the
    earlier levels forgets them. With `random` and `interleaved`, each of `n_stages` stages has all examples, unsorted.
    """
    if order not in SORTED_ORDERS:
        return [list(range(len(levels))) for _ in range(n_stages)]
    indices = np.argsort(np.asarray(difficulty, float), kind="stable").tolist()
    if order == "hard_to_easy":
        indices = indices[::-1]
    if all(level in LEVELS for level in levels):
        level = np.array([LEVELS.index(level) for level in levels])
        first_stage = level if order == "easy_to_hard" else level.max(initial=0) - level
    else:
        first_stage = np.empty(len(indices), int)
        for number, part in enumerate(np.array_split(np.array(indices, int), n_stages)):
            first_stage[part] = number
    return [[i for i in indices if first_stage[i] <= number] for number in np.unique(first_stage)]


def competence(t: float, total: float, start: float) -> float:
    """Return c(t), the share of a stage's easiest examples that may be drawn (Platanios et al., 2019, eq. 7).

    t: in 0…total. start: c0, the share at t = 0.
    """
    return min(1.0, math.sqrt(t * (1 - start**2) / max(total, 1e-9) + start**2))


class PacedSampler:
    """Draw the examples of a stage in shuffled passes over the pool of available examples.

    The pool is the share of the stage that competence allows. Examples that become available during a pass are inserted
    at random into the rest of that pass, so the hardest ones do not have to wait for the next.

    stage: indices of examples, easiest first (hardest first for `hard_to_easy`). topics: the topic of each example.
    order: only SORTED_ORDERS are paced; `interleaved` alternates topics. start: c0. end: T as a share of the stage; at
    1, the hardest examples are drawn once or not at all.

    The draws depend only on these arguments, so a resumed run draws the same examples.
    """

    def __init__(
        self,
        stage: Sequence[int],
        topics: Sequence[str],
        order: Order = "easy_to_hard",
        start: float = 0.3,
        seed: int | str = 0,
        end: float = 1.0,
    ) -> None:
        self.stage, self.topics, self.order, self.start, self.end = stage, topics, order, start, end
        self.random = random.Random(f"draw/{seed}")  # "draw/" seeds the generator: changing it changes every run
        self.queue, self.num_available = _Queue([]), 0

    def draw(self, progress: float) -> int:
        """Return the index of the next example. `progress` is the completed share of the stage, 0…1."""
        share = competence(progress, self.end, self.start) if self.order in SORTED_ORDERS else 1.0
        allowed = max(1, math.ceil(share * len(self.stage)))
        if not self.queue:
            drawn = self.random.sample(self.stage[:allowed], allowed)
            self.queue = _Queue(round_robin(drawn, self.topics)[::-1] if self.order == "interleaved" else drawn)
        else:
            for index in self.stage[self.num_available : allowed]:
                self.queue.insert(self.random.randrange(len(self.queue) + 1), index)
        self.num_available = max(self.num_available, allowed)
        return self.queue.pop()


class _Queue:
    """A list with fast `insert` anywhere and `pop` at the end: insertion moves the items of one pile, not of all."""

    def __init__(self, items: Sequence[int], pile: int = 4000) -> None:
        self.piles, self.length = [list(items[i : i + pile]) for i in range(0, len(items), pile)], len(items)

    def __len__(self) -> int:
        return self.length

    def insert(self, at: int, item: int) -> None:
        """Insert an item before position `at` of a queue that is not empty."""
        for pile in self.piles:
            if at <= len(pile):
                break
            at -= len(pile)
        pile.insert(at, item)
        self.length += 1

    def pop(self) -> int:
        """Remove and return the last item."""
        item = self.piles[-1].pop()
        if not self.piles[-1]:
            self.piles.pop()
        self.length -= 1
        return item


def round_robin(indices: Sequence[int], topics: Sequence[str]) -> list[int]:
    """Return the indices in an order in which topics alternate as evenly as their counts allow.

    The n examples of a topic are placed at (½)/n, (1½)/n, …, and all are sorted by place.
    """
    seen: dict[str, int] = {}
    total: dict[str, int] = {}
    for i in indices:
        total[topics[i]] = total.get(topics[i], 0) + 1
    place = {}
    for i in indices:
        seen[topics[i]] = seen.get(topics[i], 0) + 1
        place[i] = (seen[topics[i]] - 0.5) / total[topics[i]]
    return sorted(indices, key=lambda i: place[i])


def __getattr__(name: str) -> Any:  # names of version 0.1
    return moved("curriculum", name)
