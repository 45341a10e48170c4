"""What specifications share: parts, solutions that take arrays or tensors, and the comparison of several outputs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from icft_lite.grading.feedback import recognize
from icft_lite.grading.parts import Call, Part


def on_arrays(solution: Callable[..., Any]) -> Callable[..., Any]:
    """Return a solution in NumPy that accepts tensors, too, as calls with `torch=True` pass them."""
    return lambda *args: solution(*(np.asarray(one) if hasattr(one, "detach") else one for one in args))


def recognize_each(
    solution: Callable[..., Any], mistakes: Mapping[str, Mapping[str, Any]], names: Sequence[str]
) -> Callable[[Any, Any, Call], str]:
    """Return a `Part.compare` for a function with several outputs, each compared by itself as `recognize` does.

    A mistake in one output is then named whatever the others are. A known one is named before wrong values, which may
    follow from it.
    """
    compares = [
        recognize(lambda *args, at=at, **wrong: solution(*args, **wrong)[at], mistakes) for at in range(len(names))
    ]

    def compare(got: Any, expected: Any, call: Call) -> str:
        if not isinstance(got, list | tuple) or len(got) != len(names):
            return f"type: return {len(names)} values: {', '.join(names)}"
        texts = [one(*pair, call) for one, *pair in zip(compares, got, expected)]
        found = [(name, text) for name, text in zip(names, texts) if text]
        found.sort(key=lambda one: one[1].startswith("values:"))
        return ": ".join(found[0]) if found else ""

    return compare


def make_part(
    assignment, blocked, number, title, points, minutes, solution, draw, mistakes=None, names=(), compare=None, **fields
):
    """Return a `Part` that asks for a function, or class, of the name of `solution`.

    mistakes: {feedback: keywords of `solution`}. names: of the outputs, if several. compare: replaces mistakes. fields:
    of the Part.
    """
    compare = compare or (recognize_each(solution, mistakes, names) if names else recognize(solution, mistakes))
    reference, name = solution if isinstance(solution, type) else on_arrays(solution), solution.__name__
    fields |= dict(blocked=blocked, minutes=minutes)
    return Part(f"{assignment}.{number}", title, points, name, draw, reference, compare, **fields)
