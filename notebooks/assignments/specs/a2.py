"""A2, curriculum: how each part is drawn, solved and compared."""

from functools import partial

import numpy as np
from constants import SUFFIX, constant
from outputs import make_part

from icft_lite.grading.parts import Assignment, Call

NONE = constant("none", 0.5, 0.3, 0.4, 0.6, 0.7)
"""Difficulty of an example to which no signal applies."""
LEVELS = ["easy", "medium", "hard"]
GRID = (np.arange(2000) + 0.5) / 2000
"""Uniform numbers for `draw_available`."""
GROWING, NEWCOMERS = 5, 60
"""Size of the stage, and number of seeds, in `compare_seeds`. With random places one is missing once in 10⁷ times."""


# --- solutions, in plain loops; the keywords make known mistakes


def response_loss(logp, mask, over="response", sign=-1, mean=True, inverse=False):
    out = []
    for row, chosen in zip(logp, ~mask if inverse else mask):
        count = {"response": chosen.sum(), "all": len(row)}[over] if mean else 1
        out.append(sign * row[chosen].sum() / count if chosen.any() else np.nan)
    return np.array(out)


def ifd(given, bare, mask, applies, inverse=False, by_token=False, difference=False, everywhere=False, clip=True):
    out = []
    for i in range(len(given)):
        prompted, without = -given[i][mask[i]], -bare[i][mask[i]]
        least = 1e-6 if clip else 0
        with np.errstate(divide="ignore"):
            ratio = np.divide(prompted.mean(), max(without.mean(), least))
        if by_token:
            ratio = (prompted / np.maximum(without, least)).mean()
        ratio = 1 / ratio if inverse else ratio
        ratio = prompted.mean() - without.mean() if difference else ratio
        out.append(ratio if applies[i] or everywhere else np.nan)
    return np.array(out)


def label_uncertainty(posteriors, scale="own", zeros=True, sign=-1, least=False):
    widest = max(map(len, posteriors))
    out = []
    for p in posteriors:
        entropy = sum(sign * x * np.log(x) for x in p if x > 0)
        if not zeros and 0 in p:
            entropy = np.nan
        size = {"own": len(p), "widest": widest, "none": np.e, "count": np.exp(max(1, len(p)))}[scale]
        value = entropy / np.log(size) if len(p) > 1 else 0.0
        out.append(1 - max(p, default=1.0) if least else value)
    return np.array(out)


def rank_difficulty(
    signals, weight, ties="mean", missing="left out", weighted=True, top="known", direction=1, none=NONE
):
    ranks = np.full(signals.shape, np.nan)
    for s, signal in enumerate(signals):
        values = np.where(np.isnan(signal), np.inf, signal) if missing == "hardest" else signal
        known = values[~np.isnan(values)]
        for i, value in enumerate(values):
            if not np.isnan(value):
                below, equal = (known < value).sum(), (known == value).sum()
                before = (values[:i] == value).sum()
                place = {"mean": below + (equal - 1) / 2, "lowest": below, "order": below + before}[ties]
                highest = {"known": len(known) - 1, "all": len(values) - 1, "count": len(known)}[top]
                ranks[s, i] = place / max(1, highest)
    ranks = ranks if direction == 1 else 1 - ranks
    used = np.where(np.isnan(ranks), 0.0, (weight if weighted else np.ones(len(weight)))[:, None])
    if missing == "zero":
        used = np.broadcast_to(weight[:, None], ranks.shape)
    total = used.sum(0)
    mean = (np.nan_to_num(ranks) * used).sum(0) / np.where(total > 0, total, 1)
    return np.where(total > 0, mean, none)


def stages(levels, difficulty, order):
    ranked = sorted(range(len(levels)), key=lambda i: difficulty[i], reverse=order == "hard_to_easy")
    names = LEVELS if order == "easy_to_hard" else LEVELS[::-1]
    return [[i for i in ranked if levels[i] in names[: n + 1]] for n in range(3)]


def competence(t, end, start, power, cap=True, powered=True, ended=True, root=True, free=False):
    c0 = start**power if powered else start
    c = np.array(t) / (end if ended else 1) * (1 if free else 1 - c0) + c0
    c = c ** (1 / power) if root else c
    return np.minimum(c, 1) if cap else c


def draw_available(stage, share, u):
    size = max(1, int(np.ceil(share * len(stage))))
    return np.array([stage[int(x * size)] for x in u])


class PassSampler:
    def __init__(self, stage, seed):
        self.stage, self.rng, self.left, self.seen = stage, np.random.default_rng(seed), [], 0

    def draw(self, available):
        if not self.left:
            self.left, self.seen = list(self.rng.permutation(self.stage[:available])), available
        for index in self.stage[self.seen : available]:
            self.left.insert(int(self.rng.integers(len(self.left) + 1)), index)
        self.seen = max(self.seen, available)
        return int(self.left.pop())


# --- draws


def token_table(rng, n=8, width=12):
    """Return log-probabilities [n, width] and the mask of response tokens: a prompt, a response, padding."""
    mask = np.zeros((n, width), bool)
    for row in mask:
        start, length = rng.integers(1, 5), rng.integers(2, 6)
        row[start : start + length] = True
    return -rng.gamma(1.5, 1.0, (n, width)), mask


def draw_loss(rng):
    calls = [Call(token_table(rng)) for _ in range(3)]
    logp, mask = token_table(rng)
    mask[rng.integers(1, 8)] = False
    return [*calls, Call((logp, mask))]


def draw_ifd(rng):
    calls = []
    for _ in range(3):
        given, mask = token_table(rng)
        bare, applies = given * rng.uniform(0.5, 2, given.shape), rng.random(8) < 0.7
        applies[:2] = True, False
        calls.append(Call((given, bare, mask, applies)))
    certain = np.where(np.arange(8)[:, None] == 0, 0.0, bare)  # a response that is certain without its prompt
    return [*calls, Call((given, certain, mask, applies))]


def draw_uncertainty(rng):
    calls = []
    for _ in range(3):
        posteriors = [rng.dirichlet(np.ones(k)).tolist() for k in rng.integers(2, 6, 8)]
        posteriors[1] = rng.dirichlet(np.ones(5)).tolist()
        calls.append(Call(([*posteriors, [], [0.5, 0.5, 0.0]],)))
    return [*calls, Call(([[1.0], [0.0, 1.0], [0.25] * 4, []],))]


def draw_ranks(rng):
    calls = []
    for n in (6, 15, 40):
        signals = np.round(rng.gamma(2.0, 2.0, (3, n)), 1)
        signals[0, : n // 2] = rng.choice([1.0, 2.0, 3.0], n // 2)  # ties
        signals[1:, rng.random(n) < 0.3] = np.nan
        signals[1, 0] = np.nan
        calls.append(Call((signals, rng.uniform(0.5, 2, 3))))
    alone = np.full((2, 5), np.nan)
    alone[0, 2], alone[1, 2:4] = 3.0, (1.0, 2.0)
    tied = np.array([[1.0, 1, 2, 3, 3, 3]])
    return [*calls, Call((alone, np.array([1.0, 2.0]))), Call((tied, np.ones(1)))]


def draw_stages(rng):
    calls = []
    for order in ("easy_to_hard", "hard_to_easy"):
        for n in (9, 30):
            levels = [*LEVELS, *rng.choice(LEVELS, n - 3).tolist()]
            calls.append(Call((rng.permutation(levels).tolist(), rng.random(n).round(2), order)))
    return calls


def draw_competence(rng):
    t = np.array([0, 0.05, 0.2, 0.5, 0.9, 1.0])
    return [
        Call((t, end, float(rng.uniform(0.1, 0.5)), power))
        for end, power in ((0.5, 2), (0.8, 2), (0.7, 1), (float(rng.uniform(0.4, 0.8)), 3))
    ]


def draw_draws(rng):
    calls = []
    for n in (7, 13, 20):
        share = (int(rng.integers(1, n - 1)) + rng.uniform(0.2, 0.45)) / n  # ceil, floor and round differ
        calls.append(Call(((rng.permutation(100)[:n]).tolist(), float(share), GRID)))
    half = Call((list(range(20, 28)), 0.5, GRID))  # a whole number of examples, fewer than all
    return [*calls, half, Call((list(range(5)), 1.0, GRID)), Call(([9, 3, 5], 0.01, GRID))]


def draw_passes(rng):
    calls = []
    for n, available, growth in ((30, 30, 0), (30, 12, 2), (24, 10, 3)):
        draws, left = [], 0
        for step in range(3 * n):
            left = left or available
            if step % 3 == 2 and left > 1:  # at the end of a pass, a new example may belong to this one or to the next
                grown = min(n, available + growth)
                left, available = left + grown - available, grown
            draws.append(("draw", (available,)))
            left -= 1
        calls.append(Call((rng.permutation(200)[:n].tolist(), int(rng.integers(1000))), then=tuple(draws)))
    growing = tuple(("draw", (available,)) for available in (4, 5, 5, 5, 5))  # the fifth example joins the first pass
    stage, seeds = rng.permutation(200)[:GROWING].tolist(), rng.choice(10**6, NEWCOMERS, replace=False).tolist()
    return [*calls, calls[0], *(Call((stage, seed), then=growing) for seed in seeds)]


# --- comparisons of answers that may differ


def compare_stages(got, expected, call):
    levels, difficulty, order = call.args
    if not isinstance(got, list | tuple) or len(got) != 3:
        return "type: return three lists of indices"
    found = [np.asarray(stage).ravel().tolist() for stage in got]
    names = LEVELS if order == "easy_to_hard" else LEVELS[::-1]
    if [set(stage) for stage in found] != [set(stage) for stage in expected]:
        per_level = [{i for i, level in enumerate(levels) if level == name} for name in names]
        if [set(stage) for stage in found] == per_level:
            return "levels: each stage must also have the examples of the stages before it"
        if {levels[i] for i in found[0] if i in range(len(levels))} != {names[0]}:
            return f"levels: with {order}, the first stage has {names[0]} examples only"
        return "levels: a stage lacks examples, or has too many"
    if list(map(len, found)) != list(map(len, expected)):
        return "repetition: a stage has an example twice"
    steps = np.concatenate([np.diff([difficulty[i] for i in stage]) for stage in found])
    steps = steps if order == "easy_to_hard" else -steps
    if (steps >= 0).all():
        return ""
    backward = f"direction: {order} sorts the other way"
    return backward if (steps <= 0).all() else "sorting: a stage is not sorted by difficulty"


def compare_draws(got, expected, call):
    stage, share, u = call.args
    found = np.asarray(got).ravel()
    if found.shape != u.shape:
        return f"shape: {np.shape(got)} for {len(u)} numbers u"
    allowed = max(1, int(np.ceil(share * len(stage))))
    if not set(found.tolist()) <= set(stage):
        return "index: return entries of `stage`, not positions in it"
    counts = np.array([(found == index).sum() for index in stage])
    if counts[allowed:].any():
        return "pool: examples beyond the available ones are drawn"
    if (counts[:allowed] == 0).any():
        return "off by one: an available example is never drawn"
    spread = np.abs(counts[:allowed] - len(u) / allowed).max()
    return "" if spread <= 0.05 * len(u) / allowed + 2 else "uniform: available examples are not equally likely"


def compare_passes(got, expected, call):
    stage = call.args[0]
    if not all(isinstance(one, int) for one in got):
        return "type: draw returns an int"
    if len(stage) == GROWING:  # too few draws to name a mistake
        return ""
    left, late, seen, passes = set(), set(), 0, []
    for index, (_, (available,)) in zip(got, call.then):
        if not left:
            left, late, seen = set(stage[:available]), set(), available
            passes.append([])
        late |= set(stage[seen:available])
        left |= set(stage[seen:available])
        seen = max(seen, available)
        if index not in stage:
            return "index: draw returns entries of `stage`"
        if index not in stage[:available]:
            return "pool: an example is drawn before it is available"
        if index not in left:
            return (
                "new examples: one that becomes available must be drawn in the pass under way"
                if left <= late
                else "repetition: an example is drawn twice in one pass"
            )
        left.remove(index)
        passes[-1].append(stage.index(index))
    if any(len(one) > 9 and (np.diff(one) > 0).mean() in (0.0, 1.0) for one in passes):
        return "shuffle: a pass is in the order of the stage"
    if len(passes) > 1 and len(passes[0]) > 9 and passes[0] == passes[1]:
        return "shuffle: each pass has the same order"
    return ""


def compare_seeds(answers, calls):
    """Compare the draws of equal seeds, and the places that the fifth example of a stage gets with different seeds."""
    drawn = {}
    for answer, call in zip(answers, calls):
        if drawn.setdefault((tuple(call.args[0]), call.args[1]), answer) != answer:
            return "seed: the same seed must give the same draws"
    places = {got.index(call.args[0][-1]) for got, call in zip(answers, calls) if len(call.args[0]) == GROWING}
    return "" if places == {1, 2, 3, 4} else "new examples: their place among the others must be random"


# --- parts


BLOCKED = tuple(
    f"icft_lite.curriculum.{name}"
    for name in ("rank_average", "label_entropy", "score_difficulty", "build_curriculum", "competence", "PacedSampler")
)
part = partial(make_part, "A2", BLOCKED)

ASSIGNMENT = Assignment(
    id="A2",
    title="Curriculum",
    version="1.0" + SUFFIX,
    lessons=("02_weak_supervision", "03_curriculum"),
    constants={"none": NONE},
    parts=(
        part(1, "Loss of a response", 2, 10, response_loss, draw_loss, {
            "mask: the mean is over all positions, with prompt and padding": dict(over="all"),
            "mask: the loss is that of the tokens outside the response": dict(inverse=True),
            "sign: a loss is the negative log-likelihood": dict(sign=1),
            "scale: a sum is returned, not a mean per token": dict(mean=False),
        }),
        part(2, "Instruction-following difficulty", 2, 12, ifd, draw_ifd, {
            "inverse: the loss without the prompt is the denominator": dict(inverse=True),
            "mean: divide mean losses, do not average the ratios of tokens": dict(by_token=True),
            "ratio: a difference is returned": dict(difference=True),
            "mask: examples without IFD must be NaN": dict(everywhere=True),
            "not finite: the denominator can be 0": dict(clip=False),
        }),
        part(3, "Uncertainty of a label", 2, 12, label_uncertainty, draw_uncertainty, {
            "scale: the entropy is not divided by its maximum": dict(scale="none"),
            "scale: the maximum is that of another number of options": dict(scale="widest"),
            "scale: the maximum of the entropy is not the number of options": dict(scale="count"),
            "sign: an entropy is not negative": dict(sign=1),
            "formula: this is 1 minus the largest probability, not an entropy": dict(least=True),
        }),
        part(4, "Difficulty from ranks", 4, 25, rank_difficulty, draw_ranks, {
            "direction: the hardest examples get the lowest difficulty": dict(direction=-1),
            "ties: equal values must share the mean of their ranks": dict(ties="order"),
            "ties: equal values share their lowest rank, not the mean": dict(ties="lowest"),
            "mask: NaN is ranked as the hardest value": dict(missing="hardest"),
            "mask: a signal that does not apply counts as 0": dict(missing="zero"),
            "scale: the highest rank of a signal must be 1, and NaN has no rank": dict(top="all"),
            "off by one: the highest rank of a signal must be 1": dict(top="count"),
            "weight: all signals count the same": dict(weighted=False),
            f"no signal: the difficulty is {NONE}": dict(none=0.0),
        }),
        part(5, "Stages", 3, 20, stages, draw_stages, compare=compare_stages),
        part(6, "Competence", 2, 15, competence, draw_competence, {
            "cap: competence is at most 1": dict(cap=False),
            "start: at t = 0 the competence must be `start`": dict(powered=False),
            "end: `end` has no effect": dict(ended=False),
            "root: the power is not undone": dict(root=False),
            "scale: at t = `end` the competence reaches 1, and not before": dict(free=True),
        }),
        part(7, "Draws from the pool", 2, 15, draw_available, draw_draws, compare=compare_draws),
        part(8, "Shuffled passes", 4, 30, PassSampler, draw_passes, compare=compare_passes,
             compare_all=compare_seeds),
    ),
)  # fmt: skip
