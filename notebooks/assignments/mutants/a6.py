"""A6: wrong answers with the kind of feedback that each must get, and right answers written in another way.

    WRONG = {part: {name of the mistake: (function, words of the feedback)}}        RIGHT = {part: [function, …]}
"""

import math
import random

import numpy as np
from scipy import stats

# --- 1


def power_by_scipy(difference, share, n, variance=None, sides=2):
    se = math.sqrt((share - difference**2 if variance is None else variance) / n)
    upper = stats.norm.sf(1.96, loc=difference / se)
    return upper + (stats.norm.cdf(-1.96, loc=difference / se) if sides == 2 else 0)


def power_larger_variance(difference, share, n):
    return power_by_scipy(difference, share, n, variance=share)


def power_one_side(difference, share, n):
    return power_by_scipy(abs(difference), share, n, sides=1)


def power_without_root(difference, share, n):
    shift = abs(difference) / ((share - difference**2) / n)
    return stats.norm.cdf(shift - 1.96) + stats.norm.cdf(-shift - 1.96)


def power_one_sided_quantile(difference, share, n):
    shift = difference / math.sqrt((share - difference**2) / n)
    return stats.norm.cdf(shift - 1.645) + stats.norm.cdf(-shift - 1.645)


# --- 3


def differences_in_loops(a, b):
    return [sum(x.tolist()) / len(a) - sum(y.tolist()) / len(b) for x, y in zip(a.T, b.T)]


def differences_exchanged(a, b):
    return b.mean(0) - a.mean(0)


def differences_of_runs(a, b):
    return a.mean(1)[: len(b)] - b.mean(1)[: len(a)]


def differences_of_sums(a, b):
    return a.sum(0) - b.sum(0)


def differences_of_votes(a, b):
    return (a.mean(0) > 0.5).astype(float) - (b.mean(0) > 0.5)


def difference_of_means(a, b):
    return a.mean() - b.mean()


# --- 4


def resamples_in_loops(topics, times, seed):
    draw = random.Random(seed)
    own = {topic: np.flatnonzero(topics == topic).tolist() for topic in set(topics.tolist())}
    return np.array([[draw.choice(own[topic]) for topic in topics.tolist()] for _ in range(times)])


def resamples_of_all(topics, times, seed):
    return np.random.default_rng(seed).integers(0, len(topics), (times, len(topics)))


def resamples_permuted(topics, times, seed):
    rng, out = np.random.default_rng(seed), np.empty((times, len(topics)), int)
    for topic in np.unique(topics):
        own = np.flatnonzero(topics == topic)
        out[:, own] = [rng.permutation(own) for _ in range(times)]
    return out


def resamples_without_last(topics, times, seed):
    rng, out = np.random.default_rng(seed), np.empty((times, len(topics)), int)
    for topic in np.unique(topics):
        own = np.flatnonzero(topics == topic)
        out[:, own] = own[rng.integers(0, len(own) - 1, (times, len(own)))]
    return out


def resamples_of_one(topics, times, seed):
    rng, out = np.random.default_rng(seed), np.empty((times, len(topics)), int)
    for topic in np.unique(topics):
        own = np.flatnonzero(topics == topic)
        out[:, own] = rng.choice(own, (times, 1))
    return out


def resamples_repeated(topics, times, seed):
    return np.tile(resamples_in_loops(topics, 1, seed), (times, 1))


def resamples_without_seed(topics, times, seed):
    return resamples_in_loops(topics, times, None)


def resamples_of_one_seed(topics, times, seed):
    return resamples_in_loops(topics, times, 0)


def resamples_with_a_generator_per_topic(topics, times, seed):
    out = np.empty((times, len(topics)), int)
    for topic in np.unique(topics):
        own = np.flatnonzero(topics == topic)
        out[:, own] = np.random.default_rng(seed).choice(own, (times, len(own)))
    return out


def resamples_as_lists(topics, times, seed):
    return resamples_in_loops(topics, times, seed).tolist()


def resamples_transposed(topics, times, seed):
    return resamples_in_loops(topics, times, seed).T


# --- 5


def test_in_loops(
    difference, topics, resamples, interval=(2.5, 97.5), factor=2, plus=1, rarer=min, zeros=True, most=1.0
):
    names = sorted(set(topics.tolist()))

    def score(rows):
        by_topic = {name: [difference[i] for i, topic in zip(rows, topics) if topic == name] for name in names}
        return sum(sum(values) / len(values) for values in by_topic.values()) / len(names)

    values = np.array([score(rows) for rows in resamples])
    k = rarer(int(np.sum(values < 0)), int(np.sum(values > 0))) + zeros * int(np.sum(values == 0))
    p = min(most, factor * (k + plus) / (len(values) + plus))
    return [score(range(len(difference))), *np.percentile(values, interval), p]


def test_over_questions(difference, topics, resamples):
    return test_in_loops(difference, np.zeros_like(topics), resamples)


def test_at_90(difference, topics, resamples):
    return test_in_loops(difference, topics, resamples, interval=(5, 95))


def test_one_sided(difference, topics, resamples):
    return test_in_loops(difference, topics, resamples, factor=1)


def test_with_p_zero(difference, topics, resamples):
    return test_in_loops(difference, topics, resamples, plus=0)


def test_of_the_larger_side(difference, topics, resamples):
    return test_in_loops(difference, topics, resamples, rarer=max)


def test_without_zeros(difference, topics, resamples):
    return test_in_loops(difference, topics, resamples, zeros=False)


def test_not_capped(difference, topics, resamples):
    return test_in_loops(difference, topics, resamples, most=np.inf)


def test_by_standard_deviation(difference, topics, resamples):
    means = np.array([np.mean([difference[r][topics == t].mean() for t in np.unique(topics)]) for r in resamples])
    estimate, _, _, p = test_in_loops(difference, topics, resamples)
    return estimate, estimate - 1.96 * means.std(), estimate + 1.96 * means.std(), p


# --- 6


def interval_by_scipy(scores_a, scores_b):
    low, high = stats.ttest_rel(scores_a, scores_b).confidence_interval(0.95)
    return float(np.mean(scores_a) - np.mean(scores_b)), low, high


def interval_of(scores_a, scores_b, t=None, ddof=1, root=True):
    d = np.array(scores_a) - np.array(scores_b)
    half = (t or stats.t.ppf(0.975, len(d) - 1)) * d.std(ddof=ddof) / (math.sqrt(len(d)) if root else 1)
    return d.mean(), d.mean() - half, d.mean() + half


def interval_with_n(scores_a, scores_b):
    return interval_of(scores_a, scores_b, ddof=0)


def interval_normal(scores_a, scores_b):
    return interval_of(scores_a, scores_b, t=1.96)


def interval_without_root(scores_a, scores_b):
    return interval_of(scores_a, scores_b, root=False)


def interval_exchanged(scores_a, scores_b):
    return interval_of(scores_b, scores_a)


def interval_unpaired(scores_a, scores_b):
    a, b = np.array(scores_a), np.array(scores_b)
    half = stats.t.ppf(0.975, len(a) - 1) * math.sqrt((a.var(ddof=1) + b.var(ddof=1)) / len(a))
    return a.mean() - b.mean(), a.mean() - b.mean() - half, a.mean() - b.mean() + half


# --- 7


def holm_by_definition(p_values):
    m = len(p_values)
    ranks = np.argsort(np.argsort(p_values))
    return [min(1.0, max((m - ranks[j]) * p_values[j] for j in range(m) if ranks[j] <= ranks[i])) for i in range(m)]


def bonferroni(p_values):
    return np.minimum(1, len(p_values) * np.array(p_values))


def holm_not_monotone(p_values):
    m = len(p_values)
    return np.minimum(1, (m - np.argsort(np.argsort(p_values))) * p_values)


def holm_sorted(p_values):
    return np.sort(holm_by_definition(p_values))


def holm_with_one_fewer(p_values):
    order, m = np.argsort(p_values), len(p_values)
    out = np.empty(m)
    out[order] = np.minimum(1, np.maximum.accumulate(np.arange(m - 1, -1, -1) * p_values[order]))
    return out


def holm_not_clipped(p_values):
    order, m = np.argsort(p_values), len(p_values)
    out = np.empty(m)
    out[order] = np.maximum.accumulate(np.arange(m, 0, -1) * p_values[order])
    return out


def benjamini_hochberg(p_values):
    return stats.false_discovery_control(p_values)


WRONG = {
    "A6.1": {
        "δ² is not subtracted": (power_larger_variance, "variance"),
        "one side": (power_one_side, "two-sided"),
        "variance for standard error": (power_without_root, "root"),
        "one-sided quantile": (power_one_sided_quantile, "quantile"),
    },
    "A6.3": {
        "B minus A": (differences_exchanged, "sign"),
        "mean over questions": (differences_of_runs, "shape"),
        "one number": (difference_of_means, "shape"),
        "sums": (differences_of_sums, "mean"),
        "majority vote": (differences_of_votes, "mean"),
    },
    "A6.4": {
        "topics ignored": (resamples_of_all, "topic"),
        "without replacement": (resamples_permuted, "replacement"),
        "the last question is never drawn": (resamples_without_last, "off by one"),
        "one question for the whole topic": (resamples_of_one, "independent"),
        "one resample, repeated": (resamples_repeated, "random"),
        "transposed": (resamples_transposed, "shape"),
        "the seed is not used": (resamples_without_seed, "same seed"),
        "the seed is always 0": (resamples_of_one_seed, "another seed"),
        "one generator per topic": (resamples_with_a_generator_per_topic, "same draws"),
    },
    "A6.5": {
        "mean over questions": (test_over_questions, "topic"),
        "90 %": (test_at_90, "quantile"),
        "one-sided": (test_one_sided, "two-sided"),
        "p can be 0": (test_with_p_zero, "zero"),
        "the larger side": (test_of_the_larger_side, "side"),
        "zeros on neither side": (test_without_zeros, "zero"),
        "p above 1": (test_not_capped, "range"),
        "standard deviation": (test_by_standard_deviation, "quantile"),
    },
    "A6.6": {
        "standard deviation with n": (interval_with_n, "ddof"),
        "1.96": (interval_normal, "quantile"),
        "no √n": (interval_without_root, "root"),
        "B minus A": (interval_exchanged, "sign"),
        "unpaired": (interval_unpaired, "pairs"),
    },
    "A6.7": {
        "Bonferroni": (bonferroni, "factor"),
        "Benjamini and Hochberg": (benjamini_hochberg, "factor"),
        "not monotone": (holm_not_monotone, "monotone"),
        "sorted": (holm_sorted, "order"),
        "m − 1": (holm_with_one_fewer, "off by one"),
        "above 1": (holm_not_clipped, "range"),
    },
}

RIGHT = {
    "A6.1": [power_by_scipy],
    "A6.3": [differences_in_loops],
    "A6.4": [resamples_in_loops, resamples_as_lists],
    "A6.5": [test_in_loops],
    "A6.6": [interval_by_scipy, interval_of],
    "A6.7": [holm_by_definition],
}
