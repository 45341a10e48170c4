"""A6, a small study: how each part is drawn, solved and compared. Two parts are texts, which a person marks."""

from functools import partial
from statistics import NormalDist

import numpy as np
from constants import SUFFIX, constant
from outputs import make_part
from scipy import stats

from icft_lite.grading.parts import Assignment, Call, Part

LEVEL, Z = constant("level", (5, 1.96), (1, 2.575829), (2, 2.326348), (10, 1.644854))
"""Level of the test in part 1, in percent, and the quantile that belongs to it."""
ONE_SIDED = round(NormalDist().inv_cdf(1 - LEVEL / 100), 3)

# --- solutions; the keywords make known mistakes


def power(difference, share, n, subtract=True, sides=2, root=True, signed=False, z=Z):
    variance = share - difference**2 * subtract
    shift = difference / ((variance / n) ** 0.5 if root else variance / n)
    shift = shift if signed else abs(shift)
    return NormalDist().cdf(shift - z) + (NormalDist().cdf(-shift - z) if sides == 2 else 0.0)


def question_differences(a, b, sign=1, mean=True, majority=False, first=False):
    scores = [x[:1].mean(0) if first else x.mean(0) if mean else x.sum(0) for x in (a, b)]
    scores = [(x > 0.5) * 1.0 for x in scores] if majority else scores
    return sign * (scores[0] - scores[1])


def stratified_resamples(topics, times, seed):
    rng, resamples = np.random.default_rng(seed), np.empty((times, len(topics)), int)
    for topic in np.unique(topics):
        own = np.flatnonzero(topics == topic)
        resamples[:, own] = rng.choice(own, (times, len(own)))
    return resamples


def bootstrap_test(difference, topics, resamples, micro=False, tails=(0.025, 0.975), two_sided=True, plus=1,
                   rarer=min, normal=False, zeros=True, cap=1.0):
    def score(values):
        if micro:
            return values.mean(-1)
        return np.mean([values[..., topics == topic].mean(-1) for topic in np.unique(topics)], axis=0)

    values, estimate = score(difference[resamples]), score(difference)
    k = rarer((values < 0).sum() + zeros * (values == 0).sum(), (values > 0).sum() + zeros * (values == 0).sum())
    low, high = np.quantile(values, tails)
    if normal:
        low, high = estimate - 1.96 * values.std(), estimate + 1.96 * values.std()
    return estimate, low, high, min(cap, (1 + two_sided) * (k + plus) / (len(values) + plus))


def seed_interval(scores_a, scores_b, ddof=1, normal=False, root=True, paired=True, sign=1, tail=0.975, dof=-1):
    difference = sign * (scores_a - scores_b)
    n = len(difference)
    s = difference.std(ddof=ddof) if paired else (scores_a.var(ddof=1) + scores_b.var(ddof=1)) ** 0.5
    half = (1.96 if normal else stats.t.ppf(tail, n + dof)) * s / (n**0.5 if root else 1)
    return difference.mean(), difference.mean() - half, difference.mean() + half


def holm(p_values, factor="holm", monotone=True, clipped=True, sort=False, up=False):
    m, order = len(p_values), np.argsort(p_values, kind="stable")
    ranks = np.arange(m)
    factors = {"holm": m - ranks, "bonferroni": np.full(m, m), "fewer": m - 1 - ranks, "more": m + 1 - ranks,
               "rank": ranks + 1, "hochberg": m / (ranks + 1)}[factor]
    values = factors * p_values[order]
    if monotone:
        values = np.minimum.accumulate(values[::-1])[::-1] if up else np.maximum.accumulate(values)
    values = np.minimum(values, 1) if clipped else values
    adjusted = np.empty(m)
    adjusted[np.arange(m) if sort else order] = values
    return adjusted


# --- draws


def draw_power(rng):
    calls = []
    for sign in (1, -1, 1):
        share = float(rng.uniform(0.15, 0.4))
        n = int(rng.integers(100, 400))
        shift = float(rng.uniform(1.2, 2.5))  # in standard errors, so that the power is far from 0 and 1
        calls.append(Call((sign * shift * (share / (n + shift**2)) ** 0.5, share, n)))
    return [*calls, Call((0.0, share, n))]


def draw_differences(rng):
    return [Call((rng.random((k, 30)) < 0.7, rng.random((m, 30)) < 0.4)) for k, m in ((3, 3), (3, 2), (4, 5))]


def random_topics(rng, n=48):
    return rng.permutation(np.repeat(np.arange(4), [8, 10, 12, n - 30])) * 3


def draw_resamples(rng):
    topics, seeds = random_topics(rng), rng.choice(10**6, 2, replace=False).tolist()
    same = [Call((topics, 1000, seed)) for seed in (seeds[0], seeds[0], seeds[1])]
    equal = rng.permutation(np.repeat(np.arange(4), 12))  # topics of equal size show whether they share their draws
    return [*same, Call((equal, 1000, int(rng.integers(1, 10**6))))]


def draw_bootstrap(rng):
    calls = []
    for mean in (0.0, 0.15, -0.15):
        topics = random_topics(rng)
        difference = rng.normal(mean, 1, len(topics)) + 0.3 * (topics == 9)
        resamples = stratified_resamples(topics, 300, int(rng.integers(1, 10**6)))
        calls.append(Call((difference, topics, resamples)))
    topics = rng.permutation(np.repeat(np.arange(4), 8))  # means of 8 questions and 4 topics are exact
    rare = np.zeros(32)  # most resampled values are exactly 0
    rare[rng.choice(np.flatnonzero(topics == 2), 2, replace=False)] = 1.0, -1.0
    more = np.where(rng.random(32) < 0.4, rng.choice([1.0, -1.0], 32, p=[0.7, 0.3]), 0.0)
    resamples = stratified_resamples(topics, 300, int(rng.integers(1, 10**6)))
    return [*calls, Call((rare, topics, resamples)), Call((more, topics, resamples))]


def draw_seeds(rng):
    return [Call((rng.uniform(0.5, 1, n), rng.uniform(0.3, 0.9, n))) for n in (3, 5, 8)]


def draw_holm(rng):
    calls = []
    for m in (5, 8):
        p = np.sort(rng.uniform(0.002, 0.02, m)) + np.linspace(0, 0.7, m) ** 3
        p[1], p[2] = 1.02 * p[0], 1.04 * p[0]  # their products with m − 1 and m − 2 are below the first one's with m
        p[-1] = rng.uniform(0.8, 0.99)
        p[-2] = rng.uniform(0.7, 0.79)  # twice this is above 1
        calls.append(Call((rng.permutation(p),)))
    return calls


# --- comparison of random draws, by their properties


def resamples_feedback(got, expected, call):
    """Compare resamples: they are random, so their distribution counts, not their values."""
    topics, times, _ = call.args
    got = np.asarray(got)
    if got.dtype.kind not in "iu":
        return "type: return an array of integers"
    if got.shape != expected.shape:
        return f"shape: the function returns {got.shape}, expected {expected.shape}"
    if got.min() < 0 or got.max() >= len(topics):
        return f"range: an index must be from 0 to {len(topics) - 1}"
    if (topics[got] != topics).any():
        return "topic: a question is replaced by one of another topic"
    if (got == got[0]).all():
        return "random: all resamples are equal"
    counts = np.bincount(got.ravel(), minlength=len(topics))
    if (counts == 0).any():
        return "off by one: some questions are never drawn"
    sizes = np.bincount(topics)[np.unique(topics)]
    distinct = np.mean([len(np.unique(row)) for row in got])
    wanted = sum(m * (1 - (1 - 1 / m) ** m) for m in sizes)
    if distinct > wanted + 1:
        return "replacement: too few questions occur twice in a resample; draw with replacement"
    if distinct < wanted - 1:
        return "independent: too many questions occur twice in a resample; draw each position by itself"
    if (np.abs(counts - times) > 7 * times**0.5).any():
        return "uniform: the questions of a topic are not equally likely"
    places = [np.searchsorted(own := np.flatnonzero(topics == topic), got[:, own]) for topic in np.unique(topics)]
    for i, one in enumerate(places):
        if any(one.shape == other.shape and (one == other).mean() > 0.5 for other in places[:i]):
            return "independent: two topics get the same draws; use one generator for all topics"
    return ""


def seed_feedback(answers, calls):
    """Compare the resamples of equal and of different seeds."""
    every = [(np.asarray(answer), call.args) for answer, call in zip(answers, calls)]
    for i, (one, (topics, _, seed)) in enumerate(every):
        for other, (of_other, _, other_seed) in every[:i]:
            if np.array_equal(topics, of_other) and (seed == other_seed) != np.array_equal(one, other):
                which = "the same seed must give the same" if seed == other_seed else "another seed must give other"
                return f"seed: {which} resamples"
    return ""


# --- parts

BLOCKED = tuple(f"icft_lite.statistics.{name}" for name in ("paired_bootstrap", "mean_interval", "holm"))
part = partial(make_part, "A6", BLOCKED)


def text(number, title, points, minutes, variable):
    return Part(f"A6.{number}", title, points, variable, minutes=minutes, rubric=True)


ASSIGNMENT = Assignment(
    id="A6",
    title="A small study",
    version="1.0" + SUFFIX,
    lessons=("01_forgetting", "09_does_it_work"),
    constants={
        "level": LEVEL,
        "z": Z,
        "power": f"{power(0.05, 0.15, 400):.4f}",
        "not_subtracted": f"{power(0.05, 0.15, 400, subtract=False):.4f}",
        "planned": f"{next(points for points in np.arange(1, 20, 0.1) if power(points / 100, 0.10, 332) > 0.8):.1f}",
    },
    parts=(
        part(1, "Power", 2, 15, power, draw_power, {
            "variance: δ² is not subtracted": dict(subtract=False),
            "two-sided: only one side of the test is counted": dict(sides=1),
            "root: the shift is divided by the variance, not by the standard error": dict(root=False),
            "sign: a negative difference has too little power": dict(sides=1, signed=True),
            f"quantile: {ONE_SIDED} belongs to a one-sided test": dict(z=ONE_SIDED),
        }),
        text(2, "Registration", 4, 20, "REGISTRATION"),
        part(3, "Differences per question", 2, 10, question_differences, draw_differences, {
            "sign: this is arm B minus arm A": dict(sign=-1),
            "mean: these are differences of sums over the runs": dict(mean=False),
            "mean: a majority vote over the runs is taken": dict(majority=True),
            "mean: only the first run of each arm counts": dict(first=True),
        }),
        part(4, "Stratified resamples", 3, 20, stratified_resamples, draw_resamples, compare=resamples_feedback,
             compare_all=seed_feedback),
        part(5, "Bootstrap test", 3, 15, bootstrap_test, draw_bootstrap, {
            "topic: the mean is over questions; each topic must have the same weight": dict(micro=True),
            "quantile: this is a 90 % interval": dict(tails=(0.05, 0.95)),
            "order: the bounds are exchanged": dict(tails=(0.975, 0.025)),
            "quantile: these bounds come from the standard deviation, not from quantiles": dict(normal=True),
            "two-sided: p is not multiplied by 2": dict(two_sided=False),
            "zero: 1 is not added, so that p can be 0": dict(plus=0),
            "side: the more frequent side of 0 is counted": dict(rarer=max),
            "zero: a value of exactly 0 must count on both sides": dict(zeros=False),
            "range: p is at most 1": dict(cap=np.inf),
        }, ("estimate", "low", "high", "p")),
        part(6, "Interval over seeds", 2, 10, seed_interval, draw_seeds, {
            "ddof: the standard deviation is computed with n, not with n − 1": dict(ddof=0),
            "quantile: 1.96 is the normal distribution's, not Student's t": dict(normal=True),
            "quantile: this t belongs to a 90 % interval": dict(tail=0.95),
            "quantile: t has n degrees of freedom, not n − 1": dict(dof=0),
            "root: the standard deviation is not divided by √n": dict(root=False),
            "pairs: the runs are not paired by seed": dict(paired=False),
            "sign: this is arm B minus arm A": dict(sign=-1),
        }, ("mean", "low", "high")),
        part(7, "Holm's correction", 3, 15, holm, draw_holm, {
            "factor: this is Bonferroni's correction": dict(factor="bonferroni"),
            "factor: this is the procedure of Benjamini and Hochberg": dict(factor="hochberg", up=True),
            "factor: it grows with the rank; it must fall": dict(factor="rank"),
            "off by one: the smallest p-value is multiplied by m − 1": dict(factor="fewer"),
            "off by one: the smallest p-value is multiplied by m + 1": dict(factor="more"),
            "monotone: an adjusted value is below that of a smaller p-value": dict(monotone=False),
            "range: an adjusted value is above 1": dict(clipped=False),
            "order: the values are sorted; return them in the order of the input": dict(sort=True),
        }),
        text(8, "Conclusion", 6, 20, "CONCLUSION"),
    ),
)  # fmt: skip
