# ---
# jupyter:
#   lesson:
#     minutes: {cpu: 1, t4: 1}
#     peak_gib: {cpu: 2, t4: 2}
#     predicted: [t4]
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Assignment 2 · Curriculum
#
# You write a curriculum from its signals to its sampler: losses, instruction-following difficulty, entropies, ranks,
# stages, competence and shuffled passes. At the end it measures the difficulty of real examples with the model `tiny`,
# and `tiny` is trained on the examples that your sampler draws.
#
# **You need** lessons 02 and 03. **Time**: about 140 minutes.

# %% [markdown]
# | part | what you write | points | minutes |
# |---|---|---|---|
# | A2.1 | Loss of a response | 2 | 10 |
# | A2.2 | Instruction-following difficulty | 2 | 12 |
# | A2.3 | Uncertainty of a label | 2 | 12 |
# | A2.4 | Difficulty from ranks | 4 | 25 |
# | A2.5 | Stages | 3 | 20 |
# | A2.6 | Competence | 2 | 15 |
# | A2.7 | Draws from the pool | 2 | 15 |
# | A2.8 | Shuffled passes | 4 | 30 |

# %% [markdown]
# **Rules.** Replace `raise NotImplementedError` by your code. Do not rename functions or arguments. Use NumPy and the
# standard library. The curriculum of the package is not available while your work is graded.
#
# A check follows each part. It prints "Passed", or says what kind of error it found. Grading uses other inputs than the
# check. Later parts may call your earlier functions.
#
# At the end, restart the kernel, run all cells, save the notebook and hand it in. During grading, cells that compare your
# code with the package's fail. This costs no points.

# %% [markdown]
# The work of the computer in this assignment:
#
# {{budget}}

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
import random

import numpy as np

from icft_lite.grading.feedback import check_array  # compares arrays and names the kind of error

# %% [markdown]
# ## 1 · Loss of a response
#
# **A2.1 · 2 points · 10 minutes**
#
# A batch is a table: one row per example, one column per position. `logp` has the log-probability of each token. `mask`
# is true at tokens of the response, and false at the prompt and at padding, whose numbers mean nothing.

# %% nbgrader={"grade": false, "grade_id": "a2-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def response_loss(logp, mask):
    """Return the mean negative log-likelihood per response token: float [n].

    It is NaN where there is no such token. logp: float [n, width], in nats. mask: bool [n, width].
    """
    ### BEGIN SOLUTION
    count = mask.sum(1)
    total = -np.where(mask, logp, 0.0).sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a2-1-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
logp = np.array([[-1.0, -2, -3, -9], [-4, -9, -9, -9], [-7, -7, -7, -7]])
mask = np.array([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
check_array(response_loss(logp[:2], mask[:2]), [2.5, 4], {
    "mask: the mean is over all positions": [1.25, 1],
    "scale: a sum is returned, not a mean per token": [5, 4],
    "sign: a loss is the negative log-likelihood": [-2.5, -4],
    "mask: the loss is that of the tokens outside the response": [5, 9],
})
check_array(response_loss(logp, mask), [2.5, 4, np.nan], {"no response: the result is NaN there": [2.5, 4, 0]})
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
table, chosen = -rng.random((6, 9)), rng.random((6, 9)) < 0.5
chosen[:, 0] = True
check_array(response_loss(table, chosen), [-row[use].mean() for row, use in zip(table, chosen)])
### END HIDDEN TESTS
print("Passed: A2.1")

# %% [markdown]
# ## 2 · Instruction-following difficulty
#
# **A2.2 · 2 points · 12 minutes**
#
# IFD is the loss of the response with its prompt, divided by its loss without the prompt. Both are means over the
# response. Use at least 1e-6 as the denominator. IFD does not apply to questions with options: their value is NaN.

# %% nbgrader={"grade": false, "grade_id": "a2-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def ifd(given, bare, mask, applies):
    """Return the instruction-following difficulty, NaN where it does not apply: float [n].

    given, bare: float [n, width], log-probabilities with and without the prompt. mask: bool [n,
    width], tokens of the response. applies: bool [n].
    """
    ### BEGIN SOLUTION
    ratio = response_loss(given, mask) / np.maximum(response_loss(bare, mask), 1e-6)
    return np.where(applies, ratio, np.nan)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a2-2-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
bare = np.array([[-9.0, -4, -3, -9], [-8, -1, -1, -1], [-1, -1, -1, -1]])
applies, mask[2] = np.array([True, True, False]), True
check_array(ifd(logp, bare, mask, applies), [2.5 / 3.5, 0.5, np.nan], {
    "inverse: the loss without the prompt is the denominator": [3.5 / 2.5, 2, np.nan],
    "mean: divide mean losses, do not average the ratios of tokens": [0.75, 0.5, np.nan],
    "ratio: a difference is returned": [-1, -4, np.nan],
    "mask: examples without IFD must be NaN": [2.5 / 3.5, 0.5, 7],
})
check_array(ifd(logp[:1], np.zeros((1, 4)), mask[:1], applies[:1]), [2.5e6])
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
given, bare, applies, chosen = -rng.random((6, 9)), -rng.random((6, 9)), rng.random(6) < 0.7, rng.random((6, 9)) < 0.5
chosen[:, 0], applies[:2] = True, (True, False)
wanted = [g[use].mean() / b[use].mean() if yes else np.nan for g, b, use, yes in zip(given, bare, chosen, applies)]
check_array(ifd(given, bare, chosen, applies), wanted)
### END HIDDEN TESTS
print("Passed: A2.2")

# %% [markdown]
# ## 3 · Uncertainty of a label
#
# **A2.3 · 2 points · 12 minutes**
#
# The largest possible entropy depends on the number k of options. Divide the entropy of each posterior by the entropy of
# equal probabilities over its own options, so that 1 is the most uncertain label. A trusted example has the posterior
# `[]`. Its uncertainty is 0, and so is that of a single option.

# %% nbgrader={"grade": false, "grade_id": "a2-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def label_uncertainty(posteriors):
    """Return the normalized entropy of each posterior, 0 to 1: float [n].

    posteriors: list of lists of probabilities; their lengths differ.
    """
    ### BEGIN SOLUTION
    out = np.zeros(len(posteriors))
    for i, posterior in enumerate(posteriors):
        p = np.array([x for x in posterior if x > 0])
        if len(posterior) > 1:
            out[i] = -(p * np.log(p)).sum() / np.log(len(posterior))
    return out
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a2-3-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
found = label_uncertainty([[0.5, 0.25, 0.25], [0.5, 0.5], [0.25] * 4, []])
nats = np.array([1.5 * np.log(2), np.log(2), np.log(4), 0])
check_array(found, nats / np.log([3, 2, 4, 2]), {
    "scale: the entropy is not divided by its maximum": nats,
    "scale: the maximum is that of another number of options": nats / np.log(4),
    "scale: the maximum of the entropy is not the number of options": nats / [3, 2, 4, 1],
    "formula: this is 1 minus the largest probability": [0.5, 0.5, 0.75, 0],
})
check_array(label_uncertainty([[1.0, 0.0], [1.0], [0.5, 0.5, 0.0]]), [0, 0, np.log(2) / np.log(3)],
            {"options: those of probability 0 count too": [0, 0, 1]})
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
some = [rng.dirichlet(np.ones(k)) for k in (2, 3, 5, 4)]
check_array(label_uncertainty([p.tolist() for p in some]), [sum(-p * np.log2(p)) / np.log2(len(p)) for p in some])
### END HIDDEN TESTS
print("Passed: A2.3")

# %% [markdown]
# ## 4 · Difficulty from ranks
#
# **A2.4 · 4 points · 25 minutes**
#
# 1. Rank each signal: its n known values, in order, get the ranks 0, 1/(n − 1), …, 1. Equal values share the mean of
#    their ranks, so that a smallest value that is there twice gets more than 0. NaN has no rank. If n is 1, the rank is 0.
# 2. The difficulty of an example is the weighted mean of its ranks over the signals that apply to it.
# 3. If no signal applies, the difficulty is {{none}}.

# %% nbgrader={"grade": false, "grade_id": "a2-4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def rank_difficulty(signals, weight):
    """Return the difficulty of each example, 0 (easiest) to 1: float [n].

    signals: float [s, n], larger is harder, NaN where a signal does not apply. weight: float [s],
    positive.
    """
    ### BEGIN SOLUTION
    total, used = np.zeros(signals.shape[1]), np.zeros(signals.shape[1])
    for signal, w in zip(signals, weight):
        known = ~np.isnan(signal)
        values = np.sort(signal[known])
        first = np.searchsorted(values, signal[known], "left")
        last = np.searchsorted(values, signal[known], "right") - 1
        total[known] += w * (first + last) / 2 / max(1, len(values) - 1)
        used[known] += w
    return np.where(used > 0, total / np.where(used > 0, used, 1), {{none}})
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a2-4-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
nan = np.nan
found = rank_difficulty(np.array([[3, 1, 1, nan], [nan, 2, 5, nan]]), np.array([1.0, 3.0]))
check_array(found, [1, 0.0625, 0.8125, {{none}}], {
    "direction: the hardest examples get the lowest difficulty": [0, 0.9375, 0.1875, {{none}}],
    "ties: equal values must share the mean of their ranks": [1, 0, 0.875, {{none}}],
    "ties: equal values share their lowest rank, not the mean": [1, 0, 0.75, {{none}}],
    "weight: all signals count the same": [1, 0.125, 0.625, {{none}}],
    "mask: a signal that does not apply counts as 0": [0.25, 0.0625, 0.8125, 0],
    "no signal: the difficulty is {{none}}": [1, 0.0625, 0.8125, 0],
})
check_array(rank_difficulty(np.array([[nan, 9.0, nan], [2, 1, 3]]), np.ones(2)), [0.5, 0, 1])
steps = rank_difficulty(np.array([[10.0, 0, 5, 7, 1]]), np.ones(1))
check_array(steps, [1, 0, 0.5, 0.75, 0.25], {"off by one: the largest rank must be 1": [0.8, 0, 0.4, 0.6, 0.2]})
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
signals, weight = rng.integers(0, 6, (3, 12)).astype(float), rng.random(3) + 0.1
signals[1, rng.random(12) < 0.4] = nan
signals[1, :2] = 0, 1
ranks = [[np.nan if np.isnan(x) else ((row < x).sum() + (row <= x).sum() - 1) / 2 / ((~np.isnan(row)).sum() - 1)
          for x in row] for row in signals]
weights = np.where(np.isnan(ranks), 0, weight[:, None])
check_array(rank_difficulty(signals, weight), (np.nan_to_num(ranks) * weights).sum(0) / weights.sum(0))
### END HIDDEN TESTS
print("Passed: A2.4")

# %% [markdown]
# ## 5 · Stages
#
# **A2.5 · 3 points · 20 minutes**
#
# Build three stages. With the order `easy_to_hard`, stage 1 has the easy examples, stage 2 those and the medium ones, and
# stage 3 all. Within a stage, all examples are sorted by difficulty, easiest first, whatever their level.
#
# With `hard_to_easy`, levels are added from hard to easy, and each stage has its hardest example first. Ties may be in
# any order.

# %% nbgrader={"grade": false, "grade_id": "a2-5", "locked": false, "schema_version": 3, "solution": true, "task": false}
def stages(levels, difficulty, order):
    """Return three lists of indices of examples.

    levels: list of "easy", "medium" or "hard", [n]. difficulty: float [n]. order: "easy_to_hard" or
    "hard_to_easy".
    """
    ### BEGIN SOLUTION
    names = ["easy", "medium", "hard"]
    ranked = np.argsort(difficulty).tolist()
    if order == "hard_to_easy":
        names, ranked = names[::-1], ranked[::-1]
    return [[i for i in ranked if levels[i] in names[:count]] for count in (1, 2, 3)]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a2-5-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
levels, difficulty = ["hard", "easy", "medium", "easy"], np.array([0.1, 0.4, 0.2, 0.3])
found = [[int(i) for i in stage] for stage in stages(levels, difficulty, "easy_to_hard")]
assert len(found) == 3, f"stages: found {len(found)}, expected 3"
sizes = [len(stage) for stage in found]
assert sizes != [2, 1, 1], "levels: each stage must also have the examples of the stages before it"
assert set(found[0]) == {1, 3}, "levels: the first stage must have the easy examples only"
assert set(found[1]) == {1, 2, 3}, "levels: the second stage must have the easy and the medium examples"
assert found[0] != [1, 3], "direction: the easiest example must be the first of its stage"
assert found[1:] == [[2, 3, 1], [0, 2, 3, 1]], "sorting: sort all examples of a stage by difficulty, not by level"
back = [[int(i) for i in stage] for stage in stages(levels, difficulty, "hard_to_easy")]
assert set(back[0]) == {0}, "levels: with hard_to_easy, the first stage must have the hard examples only"
assert back == [[0], [2, 0], [1, 3, 2, 0]], "direction: with hard_to_easy, the hardest example must be the first"
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
levels, difficulty = rng.choice(["easy", "medium", "hard"], 30).tolist(), rng.random(30)
for order, names in (("easy_to_hard", ["easy", "medium", "hard"]), ("hard_to_easy", ["hard", "medium", "easy"])):
    for count, stage in enumerate(stages(levels, difficulty, order), 1):
        sign = 1 if order == "easy_to_hard" else -1
        inside = [i for i in range(30) if levels[i] in names[:count]]
        assert list(stage) == sorted(inside, key=lambda i: sign * difficulty[i]), f"values: stage {count} of {order}"
### END HIDDEN TESTS
print("Passed: A2.5")

# %% [markdown]
# ## 6 · Competence
#
# **A2.6 · 2 points · 15 minutes**
#
# Lesson 03 has the square root, and pacing that ends with the stage. Here both are parameters. Competence starts at
# `start`, and is 1 from t = `end` on. In between, competence to the power `power` grows by the same amount in each unit
# of time. The square root is `power` = 2, and a straight line is `power` = 1.

# %% nbgrader={"grade": false, "grade_id": "a2-6", "locked": false, "schema_version": 3, "solution": true, "task": false}
def competence(t, end, start, power):
    """Return the share of the stage that is available at each time: float [n].

    t: float [n], the completed share of the stage, 0 to 1. end, start: 0 to 1. power: at least 1.
    """
    ### BEGIN SOLUTION
    grown = start**power + np.minimum(t / end, 1) * (1 - start**power)
    return grown ** (1 / power)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a2-6-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
t = np.array([0, 0.25, 0.5, 1.0])
found = np.asarray(competence(t, 0.5, 0.6, 2))
assert found.max() < 1 + 1e-9, "cap: competence is at most 1"
check_array(found[:1], [0.6], {"start: at t = 0 the competence is not `start`": [0.6**0.5]})
check_array(found, [0.6, 0.68**0.5, 1, 1], {
    "root: the power is not undone": [0.36, 0.68, 1, 1],
    "end: it has no effect": [0.6, 0.52**0.5, 0.68**0.5, 1],
    "scale: competence reaches 1 before `end`": [0.6, 0.86**0.5, 1, 1],
    "power: this is a straight line": [0.6, 0.8, 1, 1],
})
check_array(competence(t, 1.0, 0.6, 1), [0.6, 0.7, 0.8, 1])
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
end, start, power = rng.uniform(0.3, 1), rng.uniform(0.1, 0.5), int(rng.integers(1, 4))
check_array(competence(np.linspace(0, 1, 9), end, start, power),
            [min(1, start**power + x / end * (1 - start**power)) ** (1 / power) for x in np.linspace(0, 1, 9)])
### END HIDDEN TESTS
print("Passed: A2.6")

# %% [markdown]
# ## 7 · Draws from the pool
#
# **A2.7 · 2 points · 15 minutes**
#
# The pool has the first share of a stage: its number of examples is `share` · n, rounded up, and at least 1. Turn each
# uniform random number u, 0 ≤ u < 1, into an example of the pool, so that all of them are equally likely.

# %% nbgrader={"grade": false, "grade_id": "a2-7", "locked": false, "schema_version": 3, "solution": true, "task": false}
def draw_available(stage, share, u):
    """Return the example that each random number draws: int [r], entries of `stage`.

    stage: list of int, in the order of pacing. share: 0 to 1. u: float [r].
    """
    ### BEGIN SOLUTION
    size = max(1, int(np.ceil(share * len(stage))))
    return np.array(stage)[(u * size).astype(int)]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a2-7-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
u = (np.arange(600) + 0.5) / 600
found = np.asarray(draw_available([17, 15, 19, 13], 0.6, u))
assert found.shape == u.shape, f"shape: found {found.shape}, expected {u.shape}"
counts = {index: int((found == index).sum()) for index in (17, 15, 19, 13)}
assert sum(counts.values()) == 600, "index: return entries of `stage`, not positions in it"
assert counts[13] == 0, "pool: the last example is not available yet"
assert counts[19] > 0, "off by one: 0.6 of 4 examples is 2.4, rounded up"
assert max(counts.values()) - 200 <= 10, f"uniform: the available examples are drawn {counts}"
assert set(np.asarray(draw_available([17, 15, 19], 0.01, u)).tolist()) == {17}, "pool: it has at least one example"
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
stage = rng.permutation(50)[:11].tolist()
found = np.asarray(draw_available(stage, 0.5, rng.random(12000))).tolist()
assert set(found) == set(stage[:6]), "pool: 0.5 of 11 examples, rounded up"
assert all(abs(found.count(index) - 2000) < 250 for index in stage[:6]), "uniform: not equally likely"
### END HIDDEN TESTS
print("Passed: A2.7")

# %% [markdown]
# ## 8 · Shuffled passes
#
# **A2.8 · 4 points · 30 minutes**
#
# Draws with replacement miss some examples by chance. Draw in *passes* instead:
#
# - A pass has every available example once, in random order.
# - When a pass is over, the next call of `draw` starts a new one, in a new random order.
# - An example that becomes available during a pass is drawn in that pass, at a random place among what remains.

# %% nbgrader={"grade": false, "grade_id": "a2-8", "locked": false, "schema_version": 3, "solution": true, "task": false}
class PassSampler:
    """Draws the examples of a stage in shuffled passes over those that are available.

    stage: list of int, in the order of pacing. seed: int; the same seed gives the same draws.
    """

    def __init__(self, stage, seed):
        ### BEGIN SOLUTION
        self.stage, self.random = stage, random.Random(seed)
        self.remaining, self.available = [], 0
        ### END SOLUTION

    def draw(self, available):
        """Return the next example, an int.

        available: number of available examples, at least 1, never decreasing.
        """
        ### BEGIN SOLUTION
        if not self.remaining:
            self.available = 0
        for index in self.stage[self.available:available]:
            self.remaining.insert(self.random.randint(0, len(self.remaining)), index)
        self.available = available
        return self.remaining.pop()
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a2-8-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
stage = [30, 10, 20, 50, 40, 70, 60, 80]
sampler = PassSampler(stage, 0)
first, second = ([sampler.draw(8) for _ in range(8)] for _ in range(2))
assert set(first) <= set(stage), "index: draw returns entries of `stage`"
assert sorted(first) == sorted(stage), "repetition: a pass must have every available example once"
assert sorted(second) == sorted(stage), "repetition: the second pass must have every available example once"
assert first not in (stage, stage[::-1]), "shuffle: a pass is in the order of the stage"
assert first != second, "shuffle: two passes have the same order"
sampler = PassSampler(stage, 0)
assert first == [sampler.draw(8) for _ in range(8)], "seed: the same seed must give the same draws"
for seed in range(20):
    sampler = PassSampler(stage, seed)
    early = [sampler.draw(4), sampler.draw(4)]
    assert set(early) <= set(stage[:4]), "pool: an example is drawn before it is available"
    late = [sampler.draw(6) for _ in range(4)]
    assert len({*early, *late}) == 6 or set(late) & set(stage[4:6]), "new examples: draw them in the pass under way"
    assert len({*early, *late}) == 6, "repetition: a pass must have every available example once"
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
stage, places = list(range(100, 120)), []
for seed in range(200):
    sampler = PassSampler(stage, seed)
    drawn = [sampler.draw(10) for _ in range(5)] + [sampler.draw(11) for _ in range(6)]
    assert sorted(drawn) == stage[:11], "repetition: a pass must have every available example once"
    places.append(drawn.index(110))
assert set(places) == {5, 6, 7, 8, 9, 10}, "new examples: their place must be random"
### END HIDDEN TESTS
print("Passed: A2.8")

# %% [markdown]
# ## Your curriculum at work
#
# The examples: every 24th trusted one. `tiny` gives the log-probabilities of their tokens, with and without the
# prompt. Each table has a row per example, with padding on the right.

# %%
import warnings

import torch

from icft_lite import Encoder, ICFTConfig, load_base, sample_bundle, score_difficulty
from icft_lite.modeling.encoding import drop_prompt

warnings.simplefilter("ignore", FutureWarning)
(base, tokenizer), data = load_base(device="cpu"), sample_bundle()
encoder = Encoder(tokenizer)
examples = [dict(example) for example in data.trusted][::24]
encoded = [encoder(example) for example in examples]


@torch.no_grad()
def token_table(encoded, width):
    """Return the log-probabilities of the response tokens, float [n, width], in the first columns, and their mask."""
    table, mask = np.zeros((len(encoded), width)), np.zeros((len(encoded), width), bool)
    for i, one in enumerate(encoded):
        logp = base(input_ids=torch.tensor(one.sequences)).logits.log_softmax(-1)
        for column, (sequence, position, target, _) in enumerate(one.tokens):
            table[i, column], mask[i, column] = logp[sequence, position, target], True
    return table, mask


width = max(len(one.tokens) for one in encoded)
given, mask = token_table(encoded, width)
bare, _ = token_table([drop_prompt(one) for one in encoded], width)

# %%
signals = np.array([response_loss(given, mask), ifd(given, bare, mask, np.ones(len(examples), bool)),
                    [one.length for one in encoded]])
difficulty = rank_difficulty(signals, np.ones(3))
package = score_difficulty(examples, base, encoded, ("loss", "ifd", "length"))
print(f"{len(examples)} examples, largest difference from the package's difficulty: "
      f"{np.abs(difficulty - package).max():.4f}")

# %% [markdown]
# The difference must be below 0.01: rounding can exchange neighbors in rank. Now training: 20 steps of 16 examples, with a
# new LoRA adapter each time. Your sampler and the package's are paced in the same way. The third run draws from all
# examples from the start.

# %%
from icft_lite.curriculum import PacedSampler
from icft_lite.modeling.adapters import adapter_tensors, add_adapters
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.losses import icft_losses
from icft_lite.modeling.scoring import score_responses
from icft_lite.training.batches import StageBatches
from icft_lite.training.plan import PlannedStep

steps, size = 20, 16
model = add_adapters(base, rank=8, alpha=16, seed=0)
start = [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]
held_out = [encoder(dict(example)) for example in data.trusted.select(range(12, len(data.trusted), 24))]


def held_out_loss():
    """Return the mean loss on held-out examples, in nats per token."""
    return np.mean([-(score["logp"] / score["tokens"])[0] for score in score_responses(model, held_out)])


def loss_after_training(draws):
    """Return the loss on held-out examples after training on the drawn examples in order."""
    plan = [PlannedStep(new=draws[i:i + size]) for i in range(0, len(draws), size)]
    batches = StageBatches(plan, examples, encoded, [], ICFTConfig(), pad_id=tokenizer.pad_token_id)
    fast = adapter_tensors(model, "fast")
    with torch.no_grad():
        torch._foreach_copy_(fast, start)
    optimizer = torch.optim.AdamW(fast, lr=4e-3)
    for i in range(len(plan)):
        batch = batches[i]
        loss = icft_losses(hidden_states(model, batch), head_weight(model), batch, batch["normalizers"])["fine_tune"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return held_out_loss()


# %%
stage = stages([example["level"] for example in examples], difficulty, "easy_to_hard")[-1]
progress = np.arange(steps * size) / (steps * size)
available = np.ceil(competence(progress, 0.5, 0.3, 2) * len(stage)).astype(int)
yours, even = PassSampler(stage, 0), PassSampler(stage, 0)
theirs = PacedSampler(stage, [""] * len(examples), "easy_to_hard", 0.3, 0, 0.5)
draws = {"yours, paced": [yours.draw(int(n)) for n in available],
         "the package's": [theirs.draw(t) for t in progress],
         "yours, not paced": [even.draw(len(stage)) for _ in progress]}
losses = {"before training": held_out_loss()}  # a new adapter does not change the model
losses |= {name: loss_after_training(indices) for name, indices in draws.items()}
for name, loss in losses.items():
    print(f"{name:17} held-out loss {loss:.3f} nats per token")

# %% [markdown]
# The two paced runs draw different random orders, so expect about the same loss, not the same digits. One seed cannot
# show whether pacing helps: lesson 03 explains what is needed to claim that.
