"""Weak labels for a pool of examples: one label model per task and topic, and a report on the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from icft_lite.errors import ICFTError
from icft_lite.metrics import expected_calibration_error
from icft_lite.weak.functions import LabelingFunction, lf_analysis, to_records
from icft_lite.weak.label_models import (
    ABSTAIN,
    MIN_VOTERS,
    DawidSkene,
    MajorityVote,
    all_abstained,
    check_votes,
    distinct_voters,
)

if TYPE_CHECKING:  # the schema imports `datasets`, which takes seconds and is not needed for votes
    from icft_lite.data.schema import Example, Examples

MIN_TOPIC_SIZE = 150
"""A topic with fewer examples shares its label model with the other small topics of its task."""
PRIOR_STRENGTH = 30.0
"""Pseudo-votes of each LF at the prior accuracy. The labels of 5 LFs that vote at random on 40 questions of 4 options
have a mean confidence of 0.34 with 30, 0.36 with 20, and 0.78 without a prior."""
VOTES_PER_CELL = 20
"""Full confusion needs this many votes per LF for each of the k² entries of its confusion matrix."""

LabelModel = Literal["dawid_skene", "majority_vote"]
LabelReport = dict[str, Any]
"""A report on weak labels, ready for JSON.

    label_model       str      "dawid_skene" or "majority_vote"
    num_examples      int      size of the pool
    dropped_unvoted   int      examples on which no labelling function votes
    fits              list     one dict per fitted model: task, topic, n (examples), model ("full confusion",
                               "one-coin", "equal accuracies" or "majority vote")
    notes             list     sentences on what limits the labels; absent without any
    lfs               list     with `lfs`: lf_analysis as records, one dict per labelling function
    accuracy, ece     float    with `gold`: of the posteriors, on the examples whose gold label is known
    by_topic          dict     with `gold`: {"task/topic": {"n": int, "accuracy": float}}
"""


def label_pool(
    pool: Examples,
    votes: ArrayLike,
    model: LabelModel = "dawid_skene",
    lfs: Sequence[LabelingFunction] | None = None,
    gold: Mapping[str, int] | ArrayLike | None = None,
) -> tuple[list[list[float]], LabelReport]:
    """Return a posterior for each example of a weak pool, and a report.

    A posterior is a list of probabilities over the example's responses, [] where no labelling function votes. The
    fields of the report are described at LabelReport.

    The accuracy of a labelling function differs by topic (a table of drugs contains nothing about bones). Dawid–Skene
    is therefore fitted per task and topic where a topic has at least 150 examples; the smaller topics of a task share
    one fit. `fit_label_model` chooses the model of each fit.

    votes: int [n, m] from `apply_lfs`. lfs: only for the report. gold: dict from id to index, or int [n] with −1 for
    unknown; only adds accuracy and ECE to the report.

    Raises ICFTError if votes and pool differ in length, votes are invalid, or the label model is unknown.
    """
    examples, votes = list(pool), check_votes(votes)
    if len(examples) != len(votes):
        raise ICFTError(
            f"votes: {len(votes)} rows for a pool of {len(examples)} examples; use the votes of apply_lfs(lfs, pool)"
        )
    if model not in ("dawid_skene", "majority_vote"):
        raise ICFTError(f"label model: {model!r} is unknown; choose dawid_skene or majority_vote")
    posteriors: list[list[float]] = [[] for _ in examples]
    fits, notes = [], []
    for task, topic, index, fitted, kind, remarks in fit_topics(examples, votes, model):
        n_options = np.array([len(examples[i]["responses"]) for i in index])
        for i, k, p in zip(index, n_options, fitted.predict_proba(votes[index], n_options)):
            posteriors[i] = p[:k].tolist()
        fits.append({"task": task, "topic": topic, "n": len(index), "model": kind})
        notes += [f"weak labels of {task}/{topic} ({len(index)} examples): {remark}" for remark in remarks]
    unvoted = sum(not posterior for posterior in posteriors)
    if 2 * unvoted > len(examples):
        notes.append(f"no labelling function votes on {unvoted} of {len(examples)} examples: they are left out")
    report: LabelReport = {
        "label_model": model,
        "num_examples": len(examples),
        "dropped_unvoted": unvoted,
        "fits": fits,
        **({"notes": notes} if notes else {}),
    }
    if isinstance(gold, Mapping):
        gold = [gold.get(example["id"], -1) for example in examples]
    if lfs is not None:
        report["lfs"] = to_records(lf_analysis(votes, lfs, gold))
    if gold is not None:
        gold = np.asarray(gold)
        known = [i for i, posterior in enumerate(posteriors) if posterior and gold[i] >= 0]
        if known:
            report |= _score_labels([examples[i] for i in known], [posteriors[i] for i in known], gold[known])
    return posteriors, report


def fit_topics(
    examples: Sequence[Example], votes: np.ndarray, model: LabelModel = "dawid_skene"
) -> Iterator[tuple[str, str, list[int], DawidSkene | MajorityVote, str, list[str]]]:
    """Fit a label model to each topic, or group of small topics, on the examples that have votes.

    votes: int [n, m]. Yields (task, topic, indices of the examples, fitted model, its kind, notes on what limits it).
    """
    unvoted = all_abstained(votes)
    for (task, topic), members in _group_by_topic(examples).items():
        if index := [i for i in members if not unvoted[i]]:
            same_labels = task == "pair" or len({tuple(examples[i]["responses"]) for i in index}) == 1
            n_options = np.array([len(examples[i]["responses"]) for i in index])
            yield task, topic, index, *fit_label_model(votes[index], n_options, same_labels, model)


def fit_label_model(
    votes: np.ndarray, n_options: ArrayLike, same_labels: bool, model: LabelModel = "dawid_skene"
) -> tuple[DawidSkene | MajorityVote, str, list[str]]:
    """Return a label model that is fitted on votes, its kind as in LabelReport, and notes on what limits it.

    same_labels: the labels mean the same in every example (yes/no/maybe; for pairs: the first or the second is better).
    Dawid–Skene then uses full confusion if there are enough votes, otherwise one coin. With fewer than MIN_VOTERS LFs
    that vote differently, all LFs count as equally accurate, whatever `model` is.

    votes: int [n, m]; n_options: int or int [n]. Raises ICFTError as DawidSkene.fit does.
    """
    distinct = distinct_voters(votes)
    voters = int(distinct.sum())
    if voters < MIN_VOTERS:
        note = (
            f"{voters} labelling function{'s' * (voters != 1)} with votes of their own; accuracies can be "
            f"estimated from {MIN_VOTERS} on, so all count as equally accurate and no label is certain"
        )
        one_coin = DawidSkene(one_coin=True, prior_strength=PRIOR_STRENGTH)
        return one_coin.fit(votes, n_options), "equal accuracies", [note]
    if model == "majority_vote":
        return MajorityVote().fit(votes, n_options), "majority vote", []
    found = (votes != ABSTAIN).sum(0)[distinct].mean()
    k = int(np.max(n_options))
    needed = VOTES_PER_CELL * k**2
    full = same_labels and found >= needed
    notes = []
    if same_labels and not full:
        notes.append(
            f"{int(found)} votes per labelling function are too few to estimate which of the {k} labels it confuses "
            f"({needed} needed); each has one accuracy"
        )
    fitted = DawidSkene(one_coin=not full, prior_strength=PRIOR_STRENGTH).fit(votes, n_options)
    return fitted, "full confusion" if full else "one-coin", notes


def _group_by_topic(examples: Sequence[Example]) -> dict[tuple[str, str], list[int]]:
    """Return {(task, topic): indices of examples}; the small topics of a task are joined as "other topics"."""
    sizes = Counter((example["task"], example["topic"]) for example in examples)
    groups: dict[tuple[str, str], list[int]] = {}
    for i, example in enumerate(examples):
        key = (example["task"], example["topic"])
        key = key if sizes[key] >= MIN_TOPIC_SIZE else (example["task"], "other topics")
        groups.setdefault(key, []).append(i)
    return groups


def _score_labels(
    examples: Sequence[Example], posteriors: Sequence[Sequence[float]], gold: np.ndarray
) -> dict[str, Any]:
    """Return accuracy, ECE and the accuracy by topic of posteriors against gold, int [n], all of it known."""
    width = max(map(len, posteriors))
    probs = np.array([[*posterior, *[0.0] * (width - len(posterior))] for posterior in posteriors])
    correct = probs.argmax(1) == gold
    topics = [f"{example['task']}/{example['topic']}" for example in examples]
    return {
        "accuracy": float(correct.mean()),
        "ece": expected_calibration_error(probs, gold),
        "by_topic": {
            name: {"n": len(part), "accuracy": float(part.mean())}
            for name, part in pd.Series(correct).groupby(topics, sort=False)
        },
    }
