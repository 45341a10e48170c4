"""A2: wrong answers with the kind of feedback that each must get, and right answers written in another way.

    WRONG = {part: {name of the mistake: (function, words of the feedback)}}        RIGHT = {part: [function, …]}
"""

import math
import random
from statistics import fmean

import numpy as np

# --- 1


def loss(logp, mask):
    with np.errstate(invalid="ignore"):
        return -np.where(mask, logp, 0).sum(1) / mask.sum(1)


def loss_by_token(logp, mask):
    rows = [[-x for x, chosen in zip(row, keep) if chosen] for row, keep in zip(logp.tolist(), mask)]
    return [fmean(row) if row else math.nan for row in rows]


def loss_over_padding(logp, mask):
    return np.where(mask.any(1), -np.where(mask, logp, 0).mean(1), np.nan)


def log_likelihood(logp, mask):
    return -loss(logp, mask)


def summed_loss(logp, mask):
    return np.where(mask.any(1), -(logp * mask).sum(1), np.nan)


def loss_of_prompt(logp, mask):
    return loss(logp, ~mask)


def loss_without_nan(logp, mask):
    return np.nan_to_num(loss(logp, mask))


# --- 2


def ratio(given, bare, mask, applies):
    return np.where(applies, loss(given, mask) / np.maximum(loss(bare, mask), 1e-6), np.nan)


def ratio_by_lists(given, bare, mask, applies):
    found = zip(loss_by_token(given, mask), loss_by_token(bare, mask), applies)
    return [a / max(b, 1e-6) if use else math.nan for a, b, use in found]


def ratio_inverse(given, bare, mask, applies):
    return 1 / ratio(given, bare, mask, applies)


def ratio_by_token(given, bare, mask, applies):
    return np.where(applies, -loss(given / np.minimum(bare, -1e-6), mask), np.nan)


def ratio_everywhere(given, bare, mask, applies):
    return ratio(given, bare, mask, np.ones_like(applies))


def ratio_as_difference(given, bare, mask, applies):
    return np.where(applies, loss(given, mask) - loss(bare, mask), np.nan)


def ratio_unclipped(given, bare, mask, applies):
    with np.errstate(divide="ignore"):
        return np.where(applies, loss(given, mask) / loss(bare, mask), np.nan)


# --- 3


def entropy(posteriors, size=len, sign=-1.0):
    out = []
    for p in posteriors:
        p = np.array(p)
        total = sign * (p[p > 0] * np.log2(p[p > 0])).sum()
        out.append(total / np.log2(size(p)) if len(p) > 1 else 0.0)
    return np.array(out)


def entropy_by_count(posteriors):
    return [
        sum(-x * math.log(x, len(p)) for x in p if x) if len(p) > 1 else 0 for p in posteriors
    ]  # fmt: skip


def entropy_in_nats(posteriors):
    return entropy(posteriors, lambda p: math.e)


def entropy_of_widest(posteriors):
    return entropy(posteriors, lambda p: max(map(len, posteriors)))


def entropy_negative(posteriors):
    return entropy(posteriors, sign=1.0)


def entropy_over_count(posteriors):
    return entropy(posteriors, lambda p: math.exp(len(p)))


def least_confidence(posteriors):
    return np.array([1 - max(p) if p else 0.0 for p in posteriors])


def entropy_of_zero(posteriors):
    with np.errstate(divide="ignore", invalid="ignore"):
        arrays = [np.array(p) for p in posteriors]
        return np.array([-(p * np.log(p)).sum() / np.log(len(p)) if len(p) > 1 else 0 for p in arrays])


# --- 4


def midranks(signal):
    out = np.full(len(signal), np.nan)
    known = ~np.isnan(signal)
    values, inverse, counts = np.unique(signal[known], return_inverse=True, return_counts=True)
    if len(values):
        middle = np.cumsum(counts) - (counts + 1) / 2
        out[known] = middle[inverse] / max(1, known.sum() - 1)
    return out


def average(ranks, weight):
    used = ~np.isnan(ranks) * weight[:, None]
    with np.errstate(invalid="ignore"):
        mean = (np.nan_to_num(ranks) * used).sum(0) / used.sum(0)
    return np.where(used.any(0), mean, 0.5)


def difficulty(signals, weight):
    return average(np.array([midranks(signal) for signal in signals]), weight)


def difficulty_in_float32(signals, weight):
    return difficulty(signals, weight).astype(np.float32)


def difficulty_reversed(signals, weight):
    return average(1 - np.array([midranks(signal) for signal in signals]), weight)


def difficulty_by_position(signals, weight):
    ranks = np.full(signals.shape, np.nan)
    for row, signal in zip(ranks, signals):
        known = np.flatnonzero(~np.isnan(signal))
        order = np.argsort(signal[known], kind="stable")
        row[known[order]] = np.arange(len(known)) / max(1, len(known) - 1)
    return average(ranks, weight)


def difficulty_with_nan_last(signals, weight):
    return difficulty(np.nan_to_num(signals, nan=np.inf), weight)


def difficulty_with_nan_as_zero(signals, weight):
    ranks = np.nan_to_num(np.array([midranks(signal) for signal in signals]))
    return weight @ ranks / weight.sum()


def difficulty_unweighted(signals, weight):
    return difficulty(signals, np.ones_like(weight))


def difficulty_of_all(signals, weight):
    known = (~np.isnan(signals)).sum(1, keepdims=True)
    ranks = np.array([midranks(signal) for signal in signals])
    return average(ranks * np.maximum(known - 1, 1) / (signals.shape[1] - 1), weight)


# --- 5


def add_levels(levels, difficulty, order, names=("easy", "medium", "hard"), down=False):
    names = list(names)[::-1] if order == "hard_to_easy" else list(names)
    found, out = [], []
    for name in names:
        found = found + [i for i, level in enumerate(levels) if level == name]
        key = np.array(difficulty)[found] * (-1 if (order == "hard_to_easy") != down else 1)
        out.append([found[i] for i in np.argsort(key)[::1]])
    return out


def stages_with_other_ties(levels, difficulty, order):
    sign = -1 if order == "hard_to_easy" else 1
    return [
        sorted(stage, key=lambda i: (sign * difficulty[i], -i)) for stage in add_levels(levels, difficulty, order)
    ]  # fmt: skip


def stages_alone(levels, difficulty, order):
    out = add_levels(levels, difficulty, order)
    return [[i for i in stage if n == 0 or i not in out[n - 1]] for n, stage in enumerate(out)]


def stages_by_alphabet(levels, difficulty, order):
    return add_levels(levels, difficulty, order, sorted(set(levels)))


def stages_sorted_wrong(levels, difficulty, order):
    return add_levels(levels, difficulty, order, down=True)


def stages_unsorted(levels, difficulty, order):
    return [sorted(stage) for stage in add_levels(levels, difficulty, order)]


def stages_level_first(levels, difficulty, order):
    alone = stages_alone(levels, difficulty, order)
    return [sum(alone[: n + 1], []) for n in range(3)]


def stages_ignore_order(levels, difficulty, order):
    return add_levels(levels, difficulty, "easy_to_hard")


# --- 6


def pace(t, end, start, power):
    return [min(1.0, (x / end * (1 - start**power) + start**power) ** (1 / power)) for x in t]


def pace_uncapped(t, end, start, power):
    return (t / end * (1 - start**power) + start**power) ** (1 / power)


def pace_start(t, end, start, power):
    return np.minimum(1, (t / end * (1 - start) + start) ** (1 / power))


def pace_without_end(t, end, start, power):
    return pace(t, 1, start, power)


def pace_without_root(t, end, start, power):
    return np.minimum(1, t / end * (1 - start**power) + start**power)


def pace_too_fast(t, end, start, power):
    return np.minimum(1, (t / end + start**power) ** (1 / power))


# --- 7


def draw(stage, share, u):
    size = max(1, math.ceil(share * len(stage)))
    return np.asarray(stage)[np.minimum((np.asarray(u) * size).astype(int), size - 1)]


def draw_from_the_end(stage, share, u):
    size = max(1, math.ceil(share * len(stage)))
    return [stage[size - 1 - math.floor(x * size)] for x in u]


def draw_floor(stage, share, u):
    size = max(1, int(share * len(stage)))
    return [stage[int(x * size)] for x in u]


def draw_all(stage, share, u):
    return draw(stage, 1.0, u)


def draw_hardest(stage, share, u):
    return draw(stage[::-1], share, u)


def draw_rounds(stage, share, u):
    size = max(1, math.ceil(share * len(stage)))
    return [stage[round(x * (size - 1))] for x in u]


def draw_positions(stage, share, u):
    return [int(x * max(1, math.ceil(share * len(stage)))) + 1000 for x in u]


# --- 8


class ByRandomKeys:
    """Right: everything available that the pass lacks, in random order."""

    def __init__(self, stage, seed):
        self.stage, self.random, self.drawn = stage, random.Random(seed), set()

    def draw(self, available):
        pool = [i for i in self.stage[:available] if i not in self.drawn]
        if not pool:
            self.drawn, pool = set(), self.stage[:available]
        choice = self.random.choice(pool)
        self.drawn.add(choice)
        return choice


class Queue:
    """Right: a list that is drawn from its end."""

    def __init__(self, stage, seed):
        self.stage, self.random, self.left, self.seen = stage, random.Random(seed), [], 0

    def start(self, available):
        self.left, self.seen = self.random.sample(self.stage[:available], available), available

    def draw(self, available):
        if not self.left:
            self.start(available)
        self.add(available)
        return self.left.pop()

    def add(self, available):
        for index in self.stage[self.seen : available]:
            self.left.insert(self.random.randint(0, len(self.left)), index)
        self.seen = max(self.seen, available)


class WithReplacement(Queue):
    def draw(self, available):
        return self.random.choice(self.stage[:available])


class Waiting(Queue):
    def add(self, available):
        pass


class NewcomersLast(Queue):
    def add(self, available):
        self.left[:0] = self.stage[self.seen : available]
        self.seen = max(self.seen, available)


class NewcomersNext(Queue):
    def add(self, available):
        self.left += self.stage[self.seen : available]
        self.seen = max(self.seen, available)


class Unseeded(Queue):
    def __init__(self, stage, seed):
        super().__init__(stage, None)


class Sorted(Queue):
    def start(self, available):
        self.left, self.seen = self.stage[:available][::-1], available


class SameOrder(Queue):
    def start(self, available):
        self.left, self.seen = random.Random(0).sample(self.stage[:available], available), available


class Everything(Queue):
    def draw(self, available):
        return super().draw(len(self.stage))


class Reshuffled(Queue):
    def add(self, available):
        if available > self.seen:
            self.start(available)


WRONG = {
    "A2.1": {
        "mean over padding": (loss_over_padding, "mask: the mean is over all positions"),
        "log-likelihood": (log_likelihood, "sign"),
        "sum": (summed_loss, "scale"),
        "prompt tokens": (loss_of_prompt, "mask: the loss is that of the tokens outside"),
    },
    "A2.2": {
        "inverse": (ratio_inverse, "inverse"),
        "mean of ratios": (ratio_by_token, "mean"),
        "everywhere": (ratio_everywhere, "mask"),
        "difference": (ratio_as_difference, "ratio"),
        "division by 0": (ratio_unclipped, "not finite"),
    },
    "A2.3": {
        "nats": (entropy_in_nats, "scale: the entropy is not divided"),
        "log of the largest number of options": (entropy_of_widest, "scale: the maximum is that of another"),
        "sign": (entropy_negative, "sign"),
        "divided by the number of options": (entropy_over_count, "scale: the maximum of the entropy"),
        "least confidence": (least_confidence, "formula"),
        "0 log 0": (entropy_of_zero, "not finite"),
    },
    "A2.4": {
        "sorted the wrong way": (difficulty_reversed, "direction"),
        "ties by position": (difficulty_by_position, "ties"),
        "NaN is the hardest": (difficulty_with_nan_last, "mask: NaN is ranked"),
        "NaN is 0": (difficulty_with_nan_as_zero, "mask: a signal that does not apply"),
        "equal weights": (difficulty_unweighted, "weight"),
        "n includes NaN": (difficulty_of_all, "scale"),
    },
    "A2.5": {
        "one level per stage": (stages_alone, "levels: each stage must also have"),
        "levels by alphabet": (stages_by_alphabet, "levels"),
        "sorted the wrong way": (stages_sorted_wrong, "direction"),
        "not sorted": (stages_unsorted, "sorting"),
        "sorted within levels": (stages_level_first, "sorting"),
        "order ignored": (stages_ignore_order, "levels: with hard_to_easy"),
    },
    "A2.6": {
        "no cap": (pace_uncapped, "cap"),
        "start not raised to the power": (pace_start, "start"),
        "end ignored": (pace_without_end, "end"),
        "no root": (pace_without_root, "root"),
        "reaches 1 early": (pace_too_fast, "scale"),
    },
    "A2.7": {
        "rounded down": (draw_floor, "off by one"),
        "the whole stage": (draw_all, "pool"),
        "the hardest": (draw_hardest, "pool"),
        "ends half as likely": (draw_rounds, "uniform"),
        "positions": (draw_positions, "index"),
    },
    "A2.8": {
        "with replacement": (WithReplacement, "repetition"),
        "new examples wait": (Waiting, "new examples"),
        "new examples come last": (NewcomersLast, "place"),
        "new examples come next": (NewcomersNext, "place"),
        "the seed is not used": (Unseeded, "seed"),
        "not shuffled": (Sorted, "shuffle: a pass"),
        "shuffled once": (SameOrder, "shuffle: each pass"),
        "all available": (Everything, "pool"),
        "a new pass for new examples": (Reshuffled, "repetition"),
    },
}

RIGHT = {
    "A2.1": [loss, loss_by_token],
    "A2.2": [ratio, ratio_by_lists],
    "A2.3": [entropy, entropy_by_count],
    "A2.4": [difficulty, difficulty_in_float32],
    "A2.5": [add_levels, stages_with_other_ties],
    "A2.6": [pace],
    "A2.7": [draw, draw_from_the_end],
    "A2.8": [ByRandomKeys, Queue],
}
