"""What specifications share: solutions that take arrays or tensors, and the comparison of several outputs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from icft_lite.grading.feedback import recognize
from icft_lite.grading.parts import Call


def on_arrays(solution: Callable[..., Any]) -> Callable[..., Any]:
    """Return a solution in NumPy that accepts tensors, too, as calls with `torch=True` pass them."""
    return lambda *args: solution(*(np.asarray(one) if hasattr(one, "detach") else one for one in args))


def recognize_each(
    solution: Callable[..., Any], mistakes: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> Callable[[Any, Any, Call], str]:
    """Return a `Part.compare` for a function with several outputs, each compared by itself as `recognize` does.

    A mistake in one output is then named whatever the others are.
    """
    compares = [
        recognize(lambda *args, at=at, **wrong: solution(*args, **wrong)[at], mistakes) for at in range(len(names))
    ]

    def compare(got: Any, expected: Any, call: Call) -> str:
        if not isinstance(got, list | tuple) or len(got) != len(names):
            return f"type: return {len(names)} values: {', '.join(names)}"
        texts = [one(*pair, call) for one, *pair in zip(compares, got, expected)]
        return next((f"{name}: {text}" for name, text in zip(names, texts) if text), "")

    return compare
