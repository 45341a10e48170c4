"""Weak labels for a pool of examples: one label model per task and topic, and a report on the labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from icft_lite.errors import ICFTError
from icft_lite.metrics import expected_calibration_error
from icft_lite.weak.functions import LabelingFunction, lf_analysis, to_records
from icft_lite.weak.label_models import DawidSkene, MajorityVote, all_abstained, check_votes

if TYPE_CHECKING:  # the schema imports `datasets`, which takes seconds and is not needed for votes
    from icft_lite.data.schema import Example, Examples

MIN_TOPIC_SIZE = 150
"""A topic with fewer examples shares its label model with the other small topics of its task."""

LabelReport = dict[str, Any]
"""A report on weak labels, ready for JSON.

    label_model       str      "dawid_skene" or "majority_vote"
    num_examples      int      size of the pool
    dropped_unvoted   int      examples on which no labelling function votes
    fits              list     one dict per fitted model: task, topic, n (examples), model ("full confusion", "one-coin"
                               or "majority vote")
    lfs               list     with `lfs`: lf_analysis as records, one dict per labelling function
    accuracy, ece     float    with `gold`: of the posteriors, on the examples whose gold label is known
    by_topic          dict     with `gold`: {"task/topic": {"n": int, "accuracy": float}}
"""


def label_pool(
    pool: Examples,
    votes: ArrayLike,
    model: Literal["dawid_skene", "majority_vote"] = "dawid_skene",
    lfs: Sequence[LabelingFunction] | None = None,
    gold: Mapping[str, int] | ArrayLike | None = None,
) -> tuple[list[list[float]], LabelReport]:
    """Return a posterior for each example of a weak pool, and a report.

    A posterior is a list of probabilities over the example's responses, [] where no labelling function votes. The
    fields of the report are described at LabelReport.

    The accuracy of a labelling function differs by topic (a table of drugs contains nothing about bones). Dawid–Skene
    is therefore fitted per task and topic where a topic has at least 150 examples; the smaller topics of a task share
    one fit. The model uses full confusion where all examples of a fit have the same labels (yes/no/maybe; for pairs:
    the first or the second is better), and one coin otherwise.

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
    unvoted = all_abstained(votes)
    posteriors: list[list[float]] = [[] for _ in examples]
    fits = []
    for (task, topic), members in _group_by_topic(examples).items():
        index = [i for i in members if not unvoted[i]]
        if not index:
            continue
        n_options = np.array([len(examples[i]["responses"]) for i in index])
        same_labels = task == "pair" or len({tuple(examples[i]["responses"]) for i in index}) == 1
        label_model = MajorityVote() if model == "majority_vote" else DawidSkene(one_coin=not same_labels)
        probs = label_model.fit(votes[index], n_options).predict_proba(votes[index], n_options)
        for i, k, p in zip(index, n_options, probs):
            posteriors[i] = p[:k].tolist()
        kind = "majority vote" if model == "majority_vote" else "full confusion" if same_labels else "one-coin"
        fits.append({"task": task, "topic": topic, "n": len(index), "model": kind})
    report: LabelReport = {
        "label_model": model,
        "num_examples": len(examples),
        "dropped_unvoted": int(unvoted.sum()),
        "fits": fits,
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
