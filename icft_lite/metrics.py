"""Measures for continual learning, calibration, and scores of free-form answers.

The measures of transfer and forgetting take an accuracy matrix R, float [T + 1, C]. Row 0 holds the scores of the
base, row i the scores after stage i. Each column is one evaluation suite. `learned[j]` is the row of
the stage that teaches suite j; the default 0, 1, 2, … fits the columns general (known to the base), easy, medium, hard.
NaN (or None) marks a cell that was not measured; such cells are left out of means.

No function changes its arguments. Invalid arguments raise ValueError.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from icft_lite.compat import moved

AccuracyMatrix = ArrayLike | Sequence[Sequence[float | None]]
"""Scores [T + 1, C] as functions accept them; None and NaN mark cells that were not measured."""


# --- transfer and forgetting


def _as_matrix(matrix: AccuracyMatrix, learned: ArrayLike | None) -> tuple[np.ndarray, np.ndarray]:
    """Return copies as float64 [T + 1, C] and int [C], or raise ValueError."""
    scores = np.array(matrix, dtype=np.float64)
    if scores.ndim != 2 or len(scores) < 2:
        raise ValueError(f"accuracy matrix: got shape {scores.shape}; give [T + 1, C] with at least two rows")
    learned_at = np.arange(scores.shape[1]) if learned is None else np.array(learned, dtype=int)
    if learned_at.shape != scores.shape[1:] or (learned_at < 0).any() or (learned_at >= len(scores)).any():
        raise ValueError(
            f"learned: got {learned_at.tolist()}; give one row index from 0 to {len(scores) - 1} for each of the "
            f"{scores.shape[1]} columns"
        )
    return scores, learned_at


def nan_mean(values: ArrayLike) -> float:
    """Return the mean without NaNs; NaN (and no warning) if nothing is left."""
    array = np.asarray(values, dtype=np.float64)
    array = array[~np.isnan(array)]
    return float(array.mean()) if array.size else math.nan


def bwt(matrix: AccuracyMatrix, learned: ArrayLike | None = None) -> float:
    """Return backward transfer: the mean of R[T, j] − R[learned[j], j].

    The mean is over the columns learned before the last stage T. A negative value means that later stages reduced
    earlier scores. The general column counts as learned at row 0.

    Returns NaN if no column qualifies. Raises ValueError for a wrong shape.
    Source: Lopez-Paz and Ranzato (2017), equation 3.
    """
    scores, learned_at = _as_matrix(matrix, learned)
    return nan_mean([scores[-1, j] - scores[i, j] for j, i in enumerate(learned_at) if i < len(scores) - 1])


def fwt(matrix: AccuracyMatrix, baseline: ArrayLike | None = None, learned: ArrayLike | None = None) -> float:
    """Return forward transfer: the mean of R[learned[j] − 1, j] − b[j].

    The mean is over the columns learned at stage 2 or later: no stage comes before stage 1. `baseline` is b,
    float [C], the scores without any stage; the default is row 0, the base.

    Returns NaN if no column qualifies. Raises ValueError for a wrong shape.
    Source: Lopez-Paz and Ranzato (2017), equation 4.
    """
    scores, learned_at = _as_matrix(matrix, learned)
    start = scores[0] if baseline is None else np.array(baseline, dtype=np.float64)
    return nan_mean([scores[i - 1, j] - start[j] for j, i in enumerate(learned_at) if i >= 2])


def forgetting(matrix: AccuracyMatrix, learned: ArrayLike | None = None) -> float:
    """Return forgetting: the mean of max_{l < T} R[l, j] − R[T, j].

    The mean is over the columns learned before the last stage T. 0 means no forgetting; a negative value means that
    the last stage improved on every earlier one.

    Returns NaN if no column qualifies. Raises ValueError for a wrong shape.
    Source: Chaudhry et al. (2018), section 3.2.
    """
    scores, learned_at = _as_matrix(matrix, learned)
    early = learned_at < len(scores) - 1
    earlier, last = scores[:-1, early], scores[-1, early]
    best = np.where(np.isnan(earlier), -np.inf, earlier).max(axis=0)
    return nan_mean(np.where(np.isinf(best), np.nan, best) - last)


def retention(before: ArrayLike, after: ArrayLike) -> float:
    """Return retention: mean(after) ÷ mean(before), scores of any shape.

    1 means that nothing was lost. Returns NaN if the mean before is 0.
    """
    mean_before, mean_after = nan_mean(np.ravel(before)), nan_mean(np.ravel(after))
    return mean_after / mean_before if mean_before else math.nan


# --- calibration


def expected_calibration_error(probs: ArrayLike, gold: ArrayLike, bins: int = 10) -> float:
    """Return the expected calibration error (ECE) of probabilities, a number from 0 to 1.

    ECE is the mean gap between confidence and accuracy over equal-width bins of confidence, weighted by the number
    of examples in each bin. probs: float [n, k]; gold: int [n], the index of the right option. Examples with gold −1
    (unknown) are left out.

    Returns NaN if no example is left. Source: Guo et al. (2017).
    """
    known = np.asarray(gold) >= 0
    probs, gold = np.asarray(probs)[known], np.asarray(gold)[known]
    if not len(gold):
        return math.nan
    confidence, correct = probs.max(1), probs.argmax(1) == gold
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(confidence[bin_of == b].mean() - correct[bin_of == b].mean()) * (bin_of == b).mean()
        for b in np.unique(bin_of)
    ]
    return float(sum(gaps))


# --- scores of a run


def mean_score(scores: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the mean over tasks of one suite's scores, {task: {"value": float, …}}."""
    return float(np.mean([task["value"] for task in scores.values()]))


# --- free-form answers


def normalize_answer(text: str) -> str:
    """Return the text as it is compared: lower case, no punctuation, no articles, single spaces.

    Follows SQuAD's normalization except where it would change a medical meaning. The decimal point in 3.5 and the
    signs < > + % are retained. Marks between words become a space, so 3-5 does not become 35. "a" is removed only at
    the start, so vitamin A stays complete.

    Source: Rajpurkar et al. (2016).
    """
    plain = unicodedata.normalize("NFKC", str(text)).casefold()
    words = re.sub(r"(?<=[^\W\d]{2})\.(?=[^\W\d]{2})", " ", plain)  # a missing space after a sentence, unlike in b.i.d.
    words = re.sub(r"(?<=\d),(?=\d{3}\b)|['’]|\.(?!\d)", "", words)
    words = re.sub(r"[^\w\s<>+%=±°.]|_", " ", words)
    words = re.sub(r"\b(?:the|an)\b|^\s*a\b(?=\s+\S)", " ", words)
    return " ".join(words.split()) or " ".join(plain.split())


def token_f1(prediction: str, reference: str) -> float:
    """Return the F1 score of the predicted words, a number from 0 to 1; repeated words count as often as they occur.

    Both texts are normalized first. Source: Rajpurkar et al. (2016).
    """
    predicted, expected = normalize_answer(prediction).split(), normalize_answer(reference).split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = sum((Counter(predicted) & Counter(expected)).values())
    return 2 * common / (len(predicted) + len(expected))


def key_fact_recall(reply: str, facts: Sequence[str]) -> float:
    """Return the share of `facts` that the reply contains as whole words in order.

    Reply and facts are normalized first. Returns NaN if there are no facts.
    """
    padded = f" {normalize_answer(reply)} "
    return nan_mean([f" {normalize_answer(fact)} " in padded for fact in facts])


def __getattr__(name: str) -> Any:  # names of version 0.1
    return moved("metrics", name)
