"""Intervals and tests: how certain a measured score or difference is.

Confidence intervals of means and proportions, the paired bootstrap over questions, McNemar's test, Holm's correction.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

# scipy.special has the distribution functions that are needed here and takes a quarter of scipy.stats's import time.
from scipy import special


class Interval(NamedTuple):
    """A mean with the bounds of its confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: ArrayLike, confidence: float = 0.95, test_per_train: float = 0.0) -> Interval:
    """Return the mean of float [n], one value per seed or split, with Student's t-interval.

    test_per_train: for random splits of the same data, the number of test examples ÷ training examples. The training
    sets overlap, so the values are not independent, and their variance is multiplied by 1 + n · test_per_train
    (Nadeau and Bengio, 2003). For n = 1 the bounds are NaN. Raises ValueError for n = 0.
    """
    array = np.array(values, dtype=np.float64).ravel()
    if not array.size:
        raise ValueError("mean_interval: got no values; give at least one")
    mean, dof = float(array.mean()), array.size - 1
    if dof == 0:
        return Interval(mean, math.nan, math.nan)
    quantile = float(special.stdtrit(dof, (1 + confidence) / 2))
    half_width = quantile * float(array.std(ddof=1)) * math.sqrt(1 / array.size + test_per_train)
    return Interval(mean, mean - half_width, mean + half_width)


def mean_p_value(values: ArrayLike, test_per_train: float = 0.0) -> float:
    """Return the two-sided p-value of the mean of float [n] being 0, by the t-test that belongs to `mean_interval`.

    test_per_train: see there. NaN for n = 1.
    """
    found, n = mean_interval(values, test_per_train=test_per_train), np.size(values)
    if n < 2:
        return math.nan
    error = (found.high - found.mean) / float(special.stdtrit(n - 1, 0.975))
    return float(2 * special.stdtr(n - 1, -abs(found.mean) / error)) if error else float(found.mean == 0)


def binomial_interval(
    successes: int,
    n: int,
    confidence: float = 0.95,
    method: Literal["clopper-pearson", "wilson"] = "clopper-pearson",
) -> tuple[float, float]:
    """Return the confidence interval (low, high) of a proportion, `successes` of `n`.

    `clopper-pearson` covers the true proportion at least as often as `confidence` says. `wilson` is shorter; its
    coverage is close to `confidence` on average.

    Raises ValueError for impossible counts or an unknown method.
    Source: Clopper and Pearson (1934); Wilson (1927).
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"binomial_interval: got {successes} successes of {n}; give 0 ≤ successes ≤ n and n ≥ 1")
    tail = (1 - confidence) / 2
    if method == "wilson":
        z = float(special.ndtri((1 + confidence) / 2))
        center, proportion = successes + z * z / 2, successes / n
        half_width = z * math.sqrt(n * proportion * (1 - proportion) + z * z / 4)
        return max(0.0, (center - half_width) / (n + z * z)), min(1.0, (center + half_width) / (n + z * z))
    if method != "clopper-pearson":
        raise ValueError(f"binomial_interval: unknown method {method!r}; choose clopper-pearson or wilson")
    low = float(special.betaincinv(successes, n - successes + 1, tail)) if successes else 0.0
    high = float(special.betaincinv(successes + 1, n - successes, 1 - tail)) if successes < n else 1.0
    return low, high


class Bootstrap(NamedTuple):
    """A difference of means with its percentile interval and two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


MIN_STRATUM = 5
"""A topic with fewer questions is not resampled by itself: n questions give (n − 1) / n of the variance."""


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    topics: ArrayLike | None = None,
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Bootstrap:
    """Return the difference mean(a) − mean(b) of two models on the same questions, with a bootstrap interval.

    a, b: scores, float or bool, [n] or [seeds, n]. Seeds are averaged per question first, because the answers of
    several seeds to one question are not independent. The bootstrap resamples questions.

    topics: [n]. If given, the mean is the unweighted mean over topics, as in reports, and questions are resampled
    within their topic (a stratified bootstrap). Where several topics have fewer than MIN_STRATUM questions, these
    topics are resampled as wholes instead (a cluster bootstrap). With a topic for each question, that is the bootstrap
    over questions.

    Raises ValueError if the sizes differ. Source: Efron and Tibshirani (1993); Koehn (2004).
    """
    mean_a, mean_b = (np.atleast_2d(np.array(scores, dtype=np.float64)).mean(axis=0) for scores in (a, b))
    if mean_a.shape != mean_b.shape or not mean_a.size:
        raise ValueError(
            f"paired_bootstrap: got {mean_a.size} and {mean_b.size} questions; score both models on the same ones"
        )
    difference = mean_a - mean_b
    by_topic = np.zeros(difference.size, dtype=int) if topics is None else np.asarray(topics)
    if by_topic.shape != difference.shape:
        raise ValueError(
            f"paired_bootstrap: got {by_topic.size} topics for {difference.size} questions; give one per question"
        )
    groups = [difference[by_topic == topic] for topic in np.unique(by_topic)]
    observed = float(np.mean([group.mean() for group in groups]))
    resampled = resample_topics(groups, n_resamples, seed)
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    extreme = min((resampled <= 0).sum(), (resampled >= 0).sum())
    return Bootstrap(observed, float(low), float(high), float(min(1.0, 2 * (extreme + 1) / (n_resamples + 1))))


def resample_topics(groups: Sequence[np.ndarray], n_resamples: int, seed: int = 0) -> np.ndarray:
    """Return bootstrap resamples of the unweighted mean over topics, [..., n_resamples].

    groups: the values of each topic, [..., questions]; all leading dimensions are resampled together. Questions are
    resampled within their topic. Where several topics have fewer than MIN_STRATUM questions, these topics are
    resampled as wholes instead.
    """
    small = [group.mean(-1) for group in groups if group.shape[-1] < MIN_STRATUM]
    large = [(1, group) for group in groups if group.shape[-1] >= MIN_STRATUM or len(small) < 2]
    strata = [*large, (len(small), np.stack(small, -1))] if len(small) > 1 else large
    # The order of the draws is data: changing it changes every published interval and p-value.
    rng, resampled = np.random.default_rng(seed), np.zeros((*groups[0].shape[:-1], n_resamples))
    for weight, values in strata:
        n = values.shape[-1]
        for i in range(n_resamples):  # one resample at a time: n_resamples × n indices may not fit in memory
            resampled[..., i] += values[..., rng.integers(0, n, n)].mean(-1) * weight / len(groups)
    return resampled


def mcnemar_exact(a: ArrayLike, b: ArrayLike) -> float:
    """Return the two-sided exact p-value of the hypothesis that two models are equally accurate.

    a, b: bool [n], whether each model answers the same n questions correctly. Only the questions on which they
    differ count: one model is right on Binomial(number of these, 1/2) of them under the hypothesis.

    Raises ValueError if the shapes differ. Source: McNemar (1947).
    """
    a, b = np.array(a, dtype=bool), np.array(b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"mcnemar_exact: got shapes {a.shape} and {b.shape}; give two arrays of the same shape [n]")
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    return min(1.0, 2 * float(special.bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Return Holm's adjusted p-values, float64 [m], in the order given.

    Compare each of them with the significance level. Source: Holm (1979).
    """
    raw = np.array(p_values, dtype=np.float64)
    order = np.argsort(raw, kind="stable")
    adjusted = np.empty_like(raw)
    factors = np.arange(raw.size, 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * raw[order]))
    return adjusted
