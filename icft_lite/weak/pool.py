"""Votes on a weak pool -> posteriors, and a report."""

from collections import Counter

import numpy as np
import pandas as pd

from icft_lite.errors import ICFTError
from icft_lite.weak.functions import lf_analysis, to_records
from icft_lite.weak.models import DawidSkene, MajorityVote, all_abstained, check_votes

SMALLEST_GROUP = 150


def expected_calibration_error(probs, gold, bins=10):
    """ECE (Guo et al., 2017): the mean gap between confidence and accuracy over equal-width confidence
    bins, weighted by their rows. probs: float [n, k]; gold: int [n], rows with -1 are left out. NaN if
    none is left."""
    probs, gold = np.asarray(probs)[np.asarray(gold) >= 0], np.asarray(gold)[np.asarray(gold) >= 0]
    if not len(gold):
        return float("nan")
    confidence, right = probs.max(1), probs.argmax(1) == gold
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(confidence[bin_of == b].mean() - right[bin_of == b].mean()) * (bin_of == b).mean()
        for b in np.unique(bin_of)
    ]
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
    posteriors, empty, fits = [[] for _ in rows], all_abstained(votes), []
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
        report["lfs"] = to_records(lf_analysis(votes, lfs, gold))
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
    return {
        "accuracy": float(right.mean()),
        "ece": expected_calibration_error(probs, gold),
        "by_topic": {name: {"n": len(hits), "accuracy": float(hits.mean())} for name, hits in topics},
    }
