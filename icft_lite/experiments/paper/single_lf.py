"""Weak labels of the best labelling function alone, in place of a label model's: an ablation of the study."""

from collections import defaultdict
from dataclasses import replace

import numpy as np

from icft_lite.data.bundle import DataBundle
from icft_lite.data.tables import iter_examples
from icft_lite.weak.functions import apply_lfs
from icft_lite.weak.label_models import ABSTAIN
from icft_lite.weak.lfs.samples import sample_lfs


def best_single_lf(data: DataBundle) -> DataBundle:
    """Return the bundled samples with a pool that is labelled by one labelling function for each task and topic.

    It is the function with the most right votes, by the pool's gold labels: more than a practitioner knows, so an upper
    bound for labels of single functions. Examples on which it abstains are dropped in training.
    The vote of the base is not among the functions.
    """
    pool = list(iter_examples(data.pool or []))
    votes = apply_lfs(sample_lfs(), pool)
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, example in enumerate(pool):
        groups[example["task"], example["topic"]].append(i)
    posteriors: dict[str, list[float]] = {}
    for members in groups.values():
        gold = np.array([data.pool_gold[pool[i]["id"]] for i in members])
        best = int((votes[members] == gold[:, None]).sum(0).argmax())
        for i in members:
            vote = votes[i, best]
            posteriors[pool[i]["id"]] = [] if vote == ABSTAIN else np.eye(len(pool[i]["responses"]))[vote].tolist()
    return replace(data, posteriors=posteriors, own_lfs={})
