"""Weak supervision: labelling functions vote, a label model turns the votes into posteriors.

Votes are an int8 matrix [n, m]: n rows, m labelling functions (LFs), ABSTAIN = -1 where an LF stays silent.
Names follow Snorkel. The label models themselves are in label_models.py.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .config import ICFTError
from .label_models import ABSTAIN, DawidSkene, MajorityVote, check_votes, unvoted

__all__ = ["ABSTAIN", "DawidSkene", "LabelingFunction", "MajorityVote", "apply_lfs",
           "expected_calibration_error", "label_pool", "labeling_function", "lf_analysis", "unvoted"]
SMALLEST_GROUP = 150


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
                raise ICFTError(f"{where}: voted {vote!r}; return an index into its "
                                f"{len(row['responses'])} responses, or ABSTAIN (-1)")
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
    table = pd.DataFrame({
        "source": [lf.source for lf in lfs],
        "coverage": voted.mean(0),
        "overlap": (voted & (others > 0)).mean(0),
        "conflict": (voted & (others > agree)).mean(0),
    }, index=pd.Index([lf.name for lf in lfs], name="lf"))
    if gold is not None:
        gold = np.asarray(gold)
        known = voted & (gold >= 0)[:, None]
        with np.errstate(invalid="ignore"):
            table["accuracy"] = ((votes == gold[:, None]) & known).sum(0) / known.sum(0)
    return table


def records(table):
    """An lf_analysis table as a list of plain dicts, ready for JSON (NaN becomes None)."""
    return table.reset_index().astype(object).where(table.reset_index().notna(), None).to_dict("records")


def expected_calibration_error(probs, gold, bins=10):
    """ECE (Guo et al., 2017): the mean gap between confidence and accuracy over equal-width confidence
    bins, weighted by their rows. probs: float [n, k]; gold: int [n], rows with -1 are left out. NaN if
    none is left."""
    probs, gold = np.asarray(probs)[np.asarray(gold) >= 0], np.asarray(gold)[np.asarray(gold) >= 0]
    if not len(gold):
        return float("nan")
    confidence, right = probs.max(1), probs.argmax(1) == gold
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs(confidence[bin_of == b].mean() - right[bin_of == b].mean()) * (bin_of == b).mean()
            for b in np.unique(bin_of)]
    return float(sum(gaps))


def label_pool(pool, votes, model="dawid_skene", lfs=None, gold=None):
    """Posteriors for a weak pool: a list of lists over each row's responses, [] where nobody voted, and a
    report.

    An LF's accuracy differs by topic (a drug table knows nothing of bones), so Dawid–Skene is fitted per
    task and topic where a topic has at least 150 rows; a task's smaller topics share one fit. Confusion is
    full where every row of a fit has the same labels (yes/no/maybe; pairs: first or second better), else
    one-coin.

    gold (dict id -> index, or int [n], -1 unknown) only adds accuracy and ECE to the report. Raises
    ICFTError.
    """
    rows, votes = list(pool), check_votes(votes)
    if len(rows) != len(votes):
        raise ICFTError(f"votes: {len(votes)} rows for a pool of {len(rows)}; use apply_lfs(lfs, pool)")
    if model not in ("dawid_skene", "majority_vote"):
        raise ICFTError(f"label model: {model!r} is unknown; choose dawid_skene or majority_vote")
    sizes = Counter((row["task"], row["topic"]) for row in rows)
    groups = {}
    for i, row in enumerate(rows):
        key = (row["task"], row["topic"])
        key = key if sizes[key] >= SMALLEST_GROUP else (row["task"], "other topics")
        groups.setdefault(key, []).append(i)
    posteriors, empty, fits = [[] for _ in rows], unvoted(votes), []
    for (task, topic), index in groups.items():
        index = [i for i in index if not empty[i]]
        if not index:
            continue
        options = np.array([len(rows[i]["responses"]) for i in index])
        fixed = task == "pair" or len({tuple(rows[i]["responses"]) for i in index}) == 1
        label_model = MajorityVote() if model == "majority_vote" else DawidSkene(one_coin=not fixed)
        probs = label_model.fit(votes[index], options).predict_proba(votes[index], options)
        for i, k, p in zip(index, options, probs):
            posteriors[i] = p[:k].tolist()
        kind = "majority vote" if model == "majority_vote" else "full confusion" if fixed else "one-coin"
        fits.append({"task": task, "topic": topic, "n": len(index), "model": kind})
    report = {"label_model": model, "rows": len(rows), "dropped_unvoted": int(empty.sum()), "fits": fits}
    if isinstance(gold, dict):
        gold = [gold.get(row["id"], -1) for row in rows]
    if lfs is not None:
        report["lfs"] = records(lf_analysis(votes, lfs, gold))
    if gold is not None:
        known = [i for i, p in enumerate(posteriors) if p and gold[i] >= 0]
        if known:
            gold = np.asarray(gold)[known]
            report |= _scores([rows[i] for i in known], [posteriors[i] for i in known], gold)
    return posteriors, report


def _scores(rows, posteriors, gold):
    width = max(map(len, posteriors))
    probs = np.array([p + [0.0] * (width - len(p)) for p in posteriors])
    right = probs.argmax(1) == gold
    topics = pd.Series(right).groupby([f"{row['task']}/{row['topic']}" for row in rows], sort=False)
    return {"accuracy": float(right.mean()), "ece": expected_calibration_error(probs, gold),
            "by_topic": {name: {"n": len(hits), "accuracy": float(hits.mean())} for name, hits in topics}}
