"""Labelling functions: they vote on examples."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from icft_lite.errors import ICFTError
from icft_lite.weak.models import ABSTAIN, check_votes


@dataclass(frozen=True)
class LabelingFunction:
    """`lf(row)` is the index of the response that the function votes for, or ABSTAIN.

    `source` names the domain it draws on; rows of another `task` than its own (None: any) are not shown to
    it.
    """

    name: str
    function: Callable
    source: str = "general"
    task: str | None = None

    def __call__(self, row):
        if self.task is not None and row["task"] != self.task:
            return ABSTAIN
        return self.function(row)


def labeling_function(name=None, source="general", task=None):
    """Decorator: turns `f(row) -> int` into a LabelingFunction (its name by default the function's own)."""
    if callable(name):  # written without parentheses
        return LabelingFunction(name.__name__, name)
    return lambda function: LabelingFunction(name or function.__name__, function, source, task)


def apply_lfs(lfs, dataset):
    """Let every LF vote on every row (canonical example dicts). Returns int8 [n, m]; where a row has only one
    response there is nothing to choose, and nobody is asked.

    Raises ICFTError if two LFs share a name, or one fails or votes for a response that the row does not have.
    """
    twice = [name for name, count in Counter(lf.name for lf in lfs).items() if count > 1]
    if twice:
        raise ICFTError(f"labelling functions: {twice[0]!r} is there twice; give each its own name")
    votes = np.full((len(dataset), len(lfs)), ABSTAIN, np.int8)
    for i, row in enumerate(dataset):
        for j, lf in enumerate(lfs if len(row["responses"]) > 1 else ()):
            where = f"labelling function {lf.name}, row {row.get('id', i)}"
            try:
                vote = lf(row)
            except Exception as error:
                raise ICFTError(f"{where}: {type(error).__name__}: {error}; mend it") from error
            whole = isinstance(vote, (int, np.integer))
            if not whole or not ABSTAIN <= vote < len(row["responses"]):
                raise ICFTError(
                    f"{where}: voted {vote!r}; return an index into its "
                    f"{len(row['responses'])} responses, or ABSTAIN (-1)"
                )
            votes[i, j] = vote
    return votes


def lf_analysis(votes, lfs, gold=None):
    """One line per LF, shares of all n rows: `coverage` (it votes), `overlap` (another votes too), `conflict`
    (another votes otherwise); with `gold` (int [n], -1 unknown) `accuracy` on the rows it votes on.

    Returns a pandas.DataFrame indexed by LF name. Raises ICFTError for a matrix of the wrong shape.
    """
    votes = check_votes(votes)
    if votes.shape[1] != len(lfs):
        raise ICFTError(f"votes: {votes.shape[1]} columns for {len(lfs)} functions; use apply_lfs(lfs, …)")
    voted = votes != ABSTAIN
    others = voted.sum(1, keepdims=True) - voted
    agree = np.stack([((votes == votes[:, [j]]) & voted).sum(1) - 1 for j in range(len(lfs))], 1)
    table = pd.DataFrame(
        {
            "source": [lf.source for lf in lfs],
            "coverage": voted.mean(0),
            "overlap": (voted & (others > 0)).mean(0),
            "conflict": (voted & (others > agree)).mean(0),
        },
        index=pd.Index([lf.name for lf in lfs], name="lf"),
    )
    if gold is not None:
        gold = np.asarray(gold)
        known = voted & (gold >= 0)[:, None]
        with np.errstate(invalid="ignore"):
            table["accuracy"] = ((votes == gold[:, None]) & known).sum(0) / known.sum(0)
    return table


def to_records(table):
    """An lf_analysis table as a list of plain dicts, ready for JSON (NaN becomes None)."""
    return table.reset_index().astype(object).where(table.reset_index().notna(), None).to_dict("records")
