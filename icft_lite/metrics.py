"""What is measured: transfer and forgetting, intervals and tests, free-form answers. Pure NumPy functions.

The accuracy matrix R, float [T+1, C]: row 0 is the base, row i the model after stage i; a column is a suite.
`learned[j]` is the row at which column j has been taught. The default is 0, 1, 2, …, which fits the columns
general (known at row 0), easy, middle, hard; give it for any other order. NaN (or None) marks a cell nobody
measured: it is left out of the means. No function changes its arguments.
"""

import math
import re
import unicodedata
from collections import Counter
from typing import NamedTuple

import numpy as np

# --- transfer and forgetting


def _matrix(matrix, learned):
    matrix = np.array(matrix, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) < 2:
        raise ValueError(f"accuracy matrix: shape {matrix.shape}, but needs two dimensions, two rows or more")
    learned = np.arange(matrix.shape[1]) if learned is None else np.array(learned, dtype=int)
    if learned.shape != matrix.shape[1:] or (learned < 0).any() or (learned >= len(matrix)).any():
        raise ValueError(
            f"learned: {learned.tolist()} must give one row, 0 to {len(matrix) - 1}, for each "
            f"of the {matrix.shape[1]} columns"
        )
    return matrix, learned


def _mean(values):
    values = np.asarray(values, dtype=np.float64)
    values = values[~np.isnan(values)]
    return float(values.mean()) if values.size else math.nan


def bwt(matrix, learned=None):
    """Backward transfer: mean of R[T, j] − R[learned[j], j] over the columns learned before the last stage T.

    Below 0: later stages cost earlier knowledge. general counts as learned at row 0.
    NaN if no column qualifies; ValueError for a wrong shape. Lopez-Paz and Ranzato (2017), eq. 3.
    """
    matrix, learned = _matrix(matrix, learned)
    return _mean([matrix[-1, j] - matrix[i, j] for j, i in enumerate(learned) if i < len(matrix) - 1])


def fwt(matrix, baseline=None, learned=None):
    """Forward transfer: mean of R[learned[j] − 1, j] − b[j] over the columns learned at stage 2 or later.

    `baseline` b, float [C]: the score without any stage; row 0 (the base) by default. Stage 1 has no stage
    before it, so its column has no term, nor has general. Lopez-Paz and Ranzato (2017), eq. 4.
    """
    matrix, learned = _matrix(matrix, learned)
    baseline = matrix[0] if baseline is None else np.array(baseline, dtype=np.float64)
    return _mean([matrix[i - 1, j] - baseline[j] for j, i in enumerate(learned) if i >= 2])


def forgetting(matrix, learned=None):
    """Mean of max_{l < T} R[l, j] − R[T, j] over the columns learned before the last stage T: 0 is none.

    Below 0 when the last stage improved on every earlier one. Chaudhry et al. (2018), section 3.2.
    """
    matrix, learned = _matrix(matrix, learned)
    earlier, last = matrix[:-1, learned < len(matrix) - 1], matrix[-1, learned < len(matrix) - 1]
    best = np.where(np.isnan(earlier), -np.inf, earlier).max(axis=0)
    return _mean(np.where(np.isinf(best), np.nan, best) - last)


def retention(before, after):
    """mean(after) ÷ mean(before): the share of a score kept. Any shapes; NaN if the mean before is 0."""
    before, after = _mean(np.ravel(before)), _mean(np.ravel(after))
    return after / before if before else math.nan


# --- intervals and tests


def _student_t_central(t, dof):
    """P(|X| ≤ t) of Student's t for a whole number of degrees of freedom: Abramowitz and Stegun, 26.7.3-4."""
    theta = math.atan(t / math.sqrt(dof))
    k = np.arange(1, dof - 1, 2) if dof % 2 == 0 else np.arange(2, dof - 1, 2)
    terms = np.cumprod(k / (k + 1) * math.cos(theta) ** 2)
    if dof % 2 == 0:
        return math.sin(theta) * (1 + terms.sum())
    odd = math.sin(theta) * math.cos(theta) * (1 + terms.sum()) if dof > 1 else 0.0
    return 2 / math.pi * (theta + odd)


def _binomial_at_most(k, n, p):
    """P(X ≤ k) for X ~ Binomial(n, p), summed in logs so that a large n does not underflow."""
    if k < 0 or k >= n or p <= 0:
        return float(k >= 0)
    if p >= 1:
        return 0.0
    i = np.arange(k + 1)
    log_choose = np.append(0.0, np.cumsum(np.log((n - i[1:] + 1) / i[1:])))
    return min(1.0, float(np.exp(log_choose + i * math.log(p) + (n - i) * math.log1p(-p)).sum()))


def _root(increasing, low, high):
    """Where an increasing function crosses 0, by bisection to the last bit."""
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if increasing(middle) < 0 else (low, middle)
    return (low + high) / 2


class Interval(NamedTuple):
    mean: float
    low: float
    high: float


def mean_interval(values, confidence=0.95):
    """Mean and Student's t-interval of float [n], one value a seed. n = 1: the bounds are NaN."""
    values = np.array(values, dtype=np.float64).ravel()
    if not values.size:
        raise ValueError("mean_interval: no values")
    mean, dof = float(values.mean()), values.size - 1
    if dof == 0:
        return Interval(mean, math.nan, math.nan)
    # The search runs over the angle of t, which has ends.
    angle = _root(lambda a: _student_t_central(math.tan(a), dof) - confidence, 0.0, math.pi / 2)
    half = math.tan(angle) * float(values.std(ddof=1)) / math.sqrt(values.size)
    return Interval(mean, mean - half, mean + half)


def binomial_interval(successes, n, confidence=0.95, method="clopper-pearson"):
    """Interval of a proportion, (low, high). `clopper-pearson` never covers less than it says; `wilson` is
    shorter and right on average. Clopper and Pearson (1934); Wilson (1927)."""
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"binomial_interval: {successes} successes of {n} are not possible")
    tail = (1 - confidence) / 2
    if method == "wilson":
        # The square of the normal quantile is found from the normal's distribution function, erf.
        z = _root(lambda x: math.erf(x / math.sqrt(2)) - confidence, 0.0, 40.0)
        centre, share = successes + z * z / 2, successes / n
        half = z * math.sqrt(n * share * (1 - share) + z * z / 4)
        return max(0.0, (centre - half) / (n + z * z)), min(1.0, (centre + half) / (n + z * z))
    if method != "clopper-pearson":
        raise ValueError(f"binomial_interval: method {method!r}; choose clopper-pearson or wilson")
    low = _root(lambda p: 1 - _binomial_at_most(successes - 1, n, p) - tail, 0.0, 1.0) if successes else 0.0
    high = _root(lambda p: tail - _binomial_at_most(successes, n, p), 0.0, 1.0) if successes < n else 1.0
    return low, high


class Bootstrap(NamedTuple):
    difference: float
    low: float
    high: float
    p_value: float


def paired_bootstrap(a, b, topics=None, n_resamples=10_000, confidence=0.95, seed=0):
    """Difference mean(a) − mean(b) of two models on the same questions, resampling *questions*.

    a, b: scores, float or bool [n] or [seeds, n]; seeds are averaged per question first, for the answers of
    several seeds to one question are not independent. `topics` [n]: the mean is the unweighted mean over
    topics, as reports give it, and questions are resampled within their topic. Returns the difference, its
    percentile interval, and a two-sided p-value. Efron and Tibshirani (1993); Koehn (2004).
    """
    a, b = (np.atleast_2d(np.array(x, dtype=np.float64)).mean(axis=0) for x in (a, b))
    if a.shape != b.shape or not a.size:
        raise ValueError(f"paired_bootstrap: {a.size} and {b.size} questions; both models need the same ones")
    difference = a - b
    topics = np.zeros(a.size, dtype=int) if topics is None else np.asarray(topics)
    if topics.shape != a.shape:
        raise ValueError(f"paired_bootstrap: {topics.size} topics for {a.size} questions")
    rng, parts = np.random.default_rng(seed), [difference[topics == t] for t in np.unique(topics)]
    observed = float(np.mean([part.mean() for part in parts]))
    resampled = np.zeros(n_resamples)
    for part in parts:
        for i in range(n_resamples):  # one row at a time: n_resamples × n indices need not fit in memory
            resampled[i] += part[rng.integers(0, part.size, part.size)].mean() / len(parts)
    low, high = np.quantile(resampled, [(1 - confidence) / 2, (1 + confidence) / 2])
    side = min((resampled <= 0).sum(), (resampled >= 0).sum())
    return Bootstrap(observed, float(low), float(high), float(min(1.0, 2 * (side + 1) / (n_resamples + 1))))


def mcnemar_exact(a, b):
    """Two-sided exact p-value that two models are right equally often. a, b: bool [n], right or wrong on the
    same questions. Only those where they differ count: Binomial(differ, 1/2). McNemar (1947)."""
    a, b = np.array(a, dtype=bool), np.array(b, dtype=bool)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"mcnemar_exact: shapes {a.shape} and {b.shape}; both must be the same [n]")
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    return min(1.0, 2 * _binomial_at_most(min(only_a, only_b), only_a + only_b, 0.5))


def holm(p_values):
    """Adjusted p-values, float [m], in the order given; compare each with the level. Holm (1979)."""
    p_values = np.array(p_values, dtype=np.float64)
    order = np.argsort(p_values, kind="stable")
    adjusted = np.empty_like(p_values)
    factors = np.arange(p_values.size, 0, -1)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(factors * p_values[order]))
    return adjusted


# --- scores of a run


def mean_score(scores):
    """The mean over tasks of one suite's scores, {task: {"value": float, …}}."""
    return float(np.mean([task["value"] for task in scores.values()]))


# --- free-form answers


def normalise_answer(text):
    """Text as it is compared: lower case, no punctuation, no articles, single spaces.

    After SQuAD (Rajpurkar et al., 2016), changed where medicine would lose meaning: 3.5 keeps its point and
    < > + % stay; marks between words become a space (3-5 is not 35); `a` goes only at the start (vitamin A).
    """
    plain = unicodedata.normalize("NFKC", str(text)).casefold()
    words = re.sub(r"(?<=\d),(?=\d{3}\b)|['’]|\.(?!\d)", "", plain)
    words = re.sub(r"[^\w\s<>+%=±°.]|_", " ", words)
    words = re.sub(r"\b(?:the|an)\b|^\s*a\b(?=\s+\S)", " ", words)
    return " ".join(words.split()) or " ".join(plain.split())


def token_f1(prediction, reference):
    """Harmonic mean of the precision and recall of words, counted with repeats. Rajpurkar et al. (2016)."""
    predicted, expected = normalise_answer(prediction).split(), normalise_answer(reference).split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * common / (len(predicted) + len(expected))


def key_fact_recall(reply, facts):
    """Share of `facts` (list[str]) that the reply contains as whole words in order. NaN for no facts."""
    reply = f" {normalise_answer(reply)} "
    return _mean([f" {normalise_answer(fact)} " in reply for fact in facts])
