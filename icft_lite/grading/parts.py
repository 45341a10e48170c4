"""What a graded assignment is: parts, the calls that test them, and helpers that compare answers.

Specifications (`notebooks/assignments/specs/aN.py`) define `ASSIGNMENT`. They never enter the sandbox.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Call:
    """One call of a student's function. Values are plain data, so that they can be sent to another process.

    Plain data: None, bool, int, float, str, lists, tuples, dicts, and NumPy arrays of bool, int and float.
    """

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    torch: bool = False
    """Arrays reach the function as torch tensors. Returned tensors come back as arrays in any case."""
    then: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    """For classes: (method, args), called in order on the constructed object. The result is the list of what they
    return. The name of an attribute, with no args, gives its value."""


@dataclass(frozen=True)
class Part:
    """One graded part: a name that the notebook defines, and how it is tested."""

    id: str
    """Such as "A1.2"."""
    title: str
    points: float
    function: str
    """The function or class in the notebook; for a rubric, the variable with the written answer."""
    draw: Callable[[np.random.Generator], list[Call]] = lambda rng: []
    """Return several calls with fresh random inputs."""
    reference: Callable[..., Any] | None = None
    """The solution: a function, or a class if calls have `then`. It runs only in the grader."""
    compare: Callable[[Any, Any, Call], str] = lambda got, expected, call: close(got, expected)
    """(got, expected, call) → "" if right, else feedback that names the kind of error without the answer."""
    compare_all: Callable[[list[Any], list[Call]], str] = lambda answers, calls: ""
    """(answers, calls) → as `compare`. Called once, in random order, if each answer is right by itself: for what only
    several calls show, such as that equal seeds give equal draws."""
    blocked: tuple[str, ...] = ()
    """Dotted names whose code is removed from the sandbox's copy of the package while this part is graded, such as
    "icft_lite.weak.label_models.DawidSkene". Parts with the same names share one execution of the notebook."""
    minutes: int = 10
    rubric: bool = False
    """Marked by a person; `function` is then the name of a string variable."""


@dataclass(frozen=True)
class Assignment:
    """An assignment: graded parts in the order of the notebook."""

    id: str
    title: str
    version: str
    lessons: tuple[str, ...]
    parts: tuple[Part, ...]
    constants: Mapping[str, Any] = field(default_factory=dict)
    """Name → value. scripts/release.py replaces {{name}} in the notebook, so that text and specification agree."""


def close(got: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-7, where: str = "the result") -> str:
    """Return "" if `got` has the structure of `expected` and values within |got − expected| ≤ atol + rtol·|expected|.

    Otherwise return feedback: the first thing that is wrong among type, length or shape, kind of dtype, finiteness and
    values. It shows the shape that is expected, never a value. An int is accepted for a float, a 0-dimensional array
    for a number, a tuple for a list; precision (float32, float64) is not compared.
    """
    if isinstance(expected, Mapping):
        if not isinstance(got, Mapping):
            return f"{where} is {kind(got)}, but a dict is expected"
        if set(got) != set(expected):
            return f"{where} has the keys {short(sorted(map(str, got)))}, but {sorted(map(str, expected))} are expected"
        return next(filter(None, (close(got[k], v, rtol, atol, f"{where}[{k!r}]") for k, v in expected.items())), "")
    if isinstance(expected, list | tuple):
        if not isinstance(got, list | tuple):
            return f"{where} is {kind(got)}, but {kind(expected)} is expected"
        if len(got) != len(expected):
            return f"{where} has {len(got)} items, but {len(expected)} are expected"
        pairs = enumerate(zip(got, expected))
        return next(filter(None, (close(g, e, rtol, atol, f"{where}[{i}]") for i, (g, e) in pairs)), "")
    if expected is None or isinstance(expected, str):
        if type(got) is not type(expected):
            return f"{where} is {kind(got)}, but {kind(expected)} is expected"
        return "" if got == expected else f"{where} has a wrong value"
    return close_arrays(got, expected, rtol, atol, where)


def close_arrays(got: Any, expected: Any, rtol: float, atol: float, where: str) -> str:
    """Compare numbers or arrays as `close` does."""
    if not isinstance(got, np.ndarray | bool | int | float):
        return f"{where} is {kind(got)}, but {kind(expected)} is expected"
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape:
        return f"{where} has the shape {got.shape}, but {expected.shape} is expected"
    kinds = {"b": "bool", "i": "int", "u": "int", "f": "float"}
    found, wanted = kinds[got.dtype.kind], kinds[expected.dtype.kind]
    if found != wanted and not (found == "int" and wanted == "float"):
        return f"{where} has the dtype {got.dtype}, but {wanted} is expected"
    finite = np.isfinite(expected)
    if not (np.isfinite(got) == finite).all():
        return f"{where} has NaN or infinite values" if finite.all() else f"{where} is finite where it should not be"
    same = np.isclose(got.astype(float), expected.astype(float), rtol=rtol, atol=atol, equal_nan=True)
    if same.all():
        return ""
    share = "" if got.ndim == 0 else f" ({np.count_nonzero(~same)} of {same.size} are wrong)"
    return f"{where} has the right shape but wrong values{share}"


def kind(value: Any) -> str:
    """Return a name of the type of a value, with its article, for feedback."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def short(value: Any, limit: int = 120) -> str:
    """Return repr(value), cut after `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else text[:limit] + "…"
