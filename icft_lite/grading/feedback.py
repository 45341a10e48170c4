"""Feedback on a wrong array: one line that names the kind of error and does not reveal the right values.

The specifications of graded parts and the checks that students see use the same functions.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from icft_lite.grading.parts import Call

Mistakes = Mapping[str, ArrayLike | Callable[[], ArrayLike]]
"""{feedback: the array that a known mistake gives, or a function that computes it}."""


def array_feedback(
    got: Any, expected: ArrayLike, mistakes: Mistakes | None = None, rtol: float = 1e-4, atol: float = 1e-6
) -> str:
    """Return "" if `got` equals `expected` within tolerance, otherwise one line of feedback.

    got: an array, a tensor, a number or nested lists of numbers; any numeric dtype. expected: an array; NaN is compared
    as a value. mistakes: compared with `got` before the general kinds, which are type, shape, not finite, sign, scale,
    offset, complement and off by one.
    """
    wanted = np.asarray(expected, float)
    try:
        if got is None:
            return "type: the function returns None; is there a return statement on every path?"
        found = np.asarray(got.detach().cpu() if hasattr(got, "detach") else got, float)
    except (TypeError, ValueError):
        return f"type: the function returns {type(got).__name__}, which is not an array of numbers"

    def is_close(values: ArrayLike) -> bool:
        values = np.asarray(values, float)
        return found.shape == values.shape and np.allclose(found, values, rtol, atol, equal_nan=True)

    if is_close(wanted):
        return ""
    for message, values in (mistakes or {}).items():
        if is_close(values() if callable(values) else values):
            return message
    if found.shape != wanted.shape:
        transposed = " (is it transposed?)" if found.shape == wanted.shape[::-1] else ""
        return f"shape: the function returns {found.shape}, expected {wanted.shape}{transposed}"
    bad = np.argwhere(np.isfinite(wanted) & ~np.isfinite(found)).tolist()
    if bad:
        return f"not finite: {len(bad)} of {found.size} entries are NaN or infinite, the first at index {bad[0]}"
    return _kind(found, wanted, is_close, np.isclose(found, wanted, rtol, atol, equal_nan=True))


def check_array(
    got: Any, expected: ArrayLike, mistakes: Mistakes | None = None, rtol: float = 1e-4, atol: float = 1e-6
) -> None:
    """Raise AssertionError with the feedback of `array_feedback` if there is any."""
    if message := array_feedback(got, expected, mistakes, rtol, atol):
        raise AssertionError(message)


def recognize(
    solution: Callable[..., Any], mistakes: Mapping[str, Mapping[str, Any]], names: Sequence[str] = ()
) -> Callable[[Any, Any, Call], str]:
    """Return a `Part.compare` for functions that return an array, or several: `array_feedback` with known mistakes.

    mistakes: {feedback: keywords of `solution` that make the mistake}. names: of the arrays that the function returns,
    in order; empty if it returns one array.
    """

    def compare(got: Any, expected: Any, call: Call) -> str:
        results = [got] if not names else got
        if not isinstance(results, list | tuple) or len(results) != max(1, len(names)):
            return f"type: return {len(names)} values: {', '.join(names)}"
        right = expected if names else [expected]
        feedback = [array_feedback(one, array) for one, array in zip(results, right)]
        if not any(feedback):
            return ""
        for text, keywords in mistakes.items():
            wrong = solution(*call.args, **keywords)
            if not any(array_feedback(one, array) for one, array in zip(results, wrong if names else [wrong])):
                return text
        return next(f"{name}: {line}" if name else line for name, line in zip(names or [""], feedback) if line)

    return compare


def _kind(found: np.ndarray, wanted: np.ndarray, is_close: Callable[[ArrayLike], bool], close: np.ndarray) -> str:
    """Return the feedback on an array of the right shape with wrong values. close: bool, which entries are right."""
    known = np.isfinite(wanted) & np.isfinite(found)
    varied = known.any() and np.ptp(wanted[known]) > 0
    if varied and is_close(-wanted):
        return "sign: every entry has the opposite sign"
    if varied and is_close(1 - wanted):
        return "complement: every entry is 1 minus the right value"
    if varied and found[known].any():
        factor = (found[known] @ wanted[known]) / (wanted[known] @ wanted[known])
        if factor > 0 and is_close(factor * wanted):
            return f"scale: every entry is too {'large' if factor > 1 else 'small'} by the same factor"
        if is_close(wanted + (found - wanted)[known].mean()):
            return "offset: every entry is wrong by the same amount"
    for axis in range(wanted.ndim if varied else 0):
        if is_close(np.flip(wanted, axis)):
            return f"order: the values are in reverse order along axis {axis}"
        if is_close(np.roll(wanted, 1, axis)) or is_close(np.roll(wanted, -1, axis)):
            return f"off by one: the values are shifted by one along axis {axis}"
    wrong = np.argwhere(~close).tolist()
    at = tuple(wrong[0])
    size = "NaN" if np.isnan(found[at]) else "too small" if found[at] < wanted[at] else "too large"
    if wanted.ndim == 0:
        return f"values: the number is {size}"
    return f"values: {len(wrong)} of {wanted.size} entries are wrong; the one at index {wrong[0]} is {size}"
