"""Labelling functions (LFs): small programs that vote on unlabelled examples, and an analysis of their votes."""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from icft_lite.errors import ICFTError
from icft_lite.weak.label_models import ABSTAIN, check_votes

if TYPE_CHECKING:  # the schema imports `datasets`, which takes seconds and is not needed for votes
    from icft_lite.data.schema import Example, Examples

VoteFunction = Callable[[dict[str, Any]], int]
"""Takes an example and returns an index into its responses, or ABSTAIN (−1)."""


@dataclass(frozen=True)
class LabelingFunction:
    """A named labelling function: `lf(example)` is the index of the response it votes for, or ABSTAIN (−1)."""

    name: str
    """Unique among the functions that are applied together."""
    function: VoteFunction
    """Votes on an example of the right task."""
    source: str = "general"
    """The domain or resource that the function uses, for reports."""
    task: Literal["question", "pair"] | None = None
    """The function abstains on examples of any other task; None: no restriction."""
    code: str = ""
    """Source code that identifies the function; by default that of the function itself, where Python can find it."""

    def __post_init__(self) -> None:
        """Raise ICFTError for a task that no example has."""
        if self.task not in (None, "question", "pair"):
            raise ICFTError(f"labelling function {self.name}: task {self.task!r} is unknown; give question or pair")

    @property
    def identity(self) -> list[str]:
        """What distinguishes the votes of this function from those of another: its name, task and source code."""
        code = self.code
        if not code:
            with contextlib.suppress(OSError, TypeError):  # typed into a console, or not a function
                code = inspect.getsource(self.function)
        return [self.name, self.task or "", code]

    def __call__(self, example: Example) -> int:
        """Return the vote on one example; ABSTAIN if the example is of another task."""
        if self.task is not None and example["task"] != self.task:
            return ABSTAIN
        return self.function(example)


@overload
def labeling_function(name: VoteFunction) -> LabelingFunction: ...


@overload
def labeling_function(
    name: str | None = None, source: str = "general", task: Literal["question", "pair"] | None = None
) -> Callable[[VoteFunction], LabelingFunction]: ...


def labeling_function(
    name: str | VoteFunction | None = None, source: str = "general", task: Literal["question", "pair"] | None = None
) -> LabelingFunction | Callable[[VoteFunction], LabelingFunction]:
    """Turn a function of an example into a LabelingFunction; a decorator, with or without arguments.

    The decorated function takes an example and returns the index of a response, or ABSTAIN. `name` is by default the
    function's own name. `source` and `task` are as in LabelingFunction.

        @labeling_function(source="my rules", task="question")
        def longest(example):
            return int(np.argmax([len(text) for text in example["responses"]]))
    """
    if callable(name):  # used as @labeling_function, without parentheses
        return LabelingFunction(_name_of(name), name)
    return lambda function: LabelingFunction(name or _name_of(function), function, source, task)


def _name_of(function: VoteFunction) -> str:
    return getattr(function, "__name__", type(function).__name__)


def check_names(lfs: Sequence[LabelingFunction], where: str = "labelling functions") -> None:
    """Raise ICFTError if two labelling functions have the same name."""
    for name, count in Counter(lf.name for lf in lfs).items():
        if count > 1:
            raise ICFTError(f"{where}: the name {name!r} is used {count} times; give each function its own name")


def apply_lfs(lfs: Sequence[LabelingFunction], examples: Examples) -> np.ndarray:
    """Return the votes of every labelling function on every example, int32 [n, m].

    Examples with a single response need no label: every LF abstains on them without being called. LFs get copies, so
    that they cannot change the examples.

    Raises ICFTError if two LFs have the same name, or if an LF raises an exception or returns anything but an index
    into the example's responses or ABSTAIN.
    """
    check_names(lfs)
    votes = np.full((len(examples), len(lfs)), ABSTAIN, np.int32)
    for i, example in enumerate(examples):
        n_responses = len(example["responses"])
        for j, lf in enumerate(lfs if n_responses > 1 else ()):
            where = f"labelling function {lf.name}, example {example.get('id', i)}"
            try:
                vote = lf({name: list(value) if isinstance(value, list) else value for name, value in example.items()})
            except (Exception, SystemExit) as error:
                raise ICFTError(f"{where}: {type(error).__name__}: {error}; fix the function") from error
            # A bool is an int for Python, but True is never meant as the second response.
            is_index = isinstance(vote, int | np.integer) and not isinstance(vote, bool)
            if not is_index or not ABSTAIN <= vote < n_responses:
                raise ICFTError(
                    f"{where}: voted {vote!r}; return the index (int) of one of the example's {n_responses} responses, "
                    "or ABSTAIN (-1)"
                )
            votes[i, j] = vote
    return votes


def lf_analysis(votes: ArrayLike, lfs: Sequence[LabelingFunction], gold: ArrayLike | None = None) -> pd.DataFrame:
    """Return a table with one row per labelling function, indexed by its name.

    Columns: `source`, and three shares of all n examples: `coverage` (the LF votes), `overlap` (another LF votes
    too), `conflict` (another LF votes for another response). With `gold`, int [n] where −1 is unknown, also
    `accuracy` on the examples that the LF votes on; NaN if there are none.

    votes: int [n, m]. Raises ICFTError for a matrix of the wrong shape.
    """
    votes = check_votes(votes)
    if votes.shape[1] != len(lfs):
        raise ICFTError(
            f"votes: {votes.shape[1]} columns for {len(lfs)} labelling functions; use apply_lfs(lfs, examples)"
        )
    voted = votes != ABSTAIN
    others = voted.sum(1, keepdims=True) - voted
    agreeing = np.stack([((votes == votes[:, [j]]) & voted).sum(1) - 1 for j in range(len(lfs))], 1)
    table = pd.DataFrame(
        {
            "source": [lf.source for lf in lfs],
            "coverage": voted.mean(0),
            "overlap": (voted & (others > 0)).mean(0),
            "conflict": (voted & (others > agreeing)).mean(0),
        },
        index=pd.Index([lf.name for lf in lfs], name="lf"),
    )
    if gold is not None:
        gold = np.asarray(gold)
        known = voted & (gold >= 0)[:, None]
        with np.errstate(invalid="ignore"):
            table["accuracy"] = ((votes == gold[:, None]) & known).sum(0) / known.sum(0)
    return table


def to_records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return an lf_analysis table as a list of plain dicts, ready for JSON; NaN becomes None."""
    flat = table.reset_index()
    records = flat.astype(object).where(flat.notna(), None).to_dict("records")
    return [{str(column): value for column, value in record.items()} for record in records]
