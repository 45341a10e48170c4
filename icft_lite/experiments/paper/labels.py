"""How well the label model knows its labelling functions: estimated against true accuracies, without any training."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from icft_lite.data.bundle import DataBundle
from icft_lite.data.tables import iter_examples
from icft_lite.reporting.style import DASHED, GREY, STYLES, subplots
from icft_lite.weak.functions import apply_lfs
from icft_lite.weak.label_models import ABSTAIN, DawidSkene
from icft_lite.weak.lfs.samples import sample_lfs
from icft_lite.weak.pool import fit_topics

MIN_VOTES = 30
"""Functions with fewer votes on a topic are left out: their true accuracy is not known well."""


def lf_accuracies(data: DataBundle) -> list[dict[str, Any]]:
    """Return {task, topic, lf, votes, estimated, true} of each labelling function that votes on a topic of the samples.

    `estimated` is what Dawid–Skene says without labels, `true` the share of its votes that equal the gold label. No
    model is loaded, so the vote of the base, which a run has as well, is left out.
    """
    pool = list(iter_examples(data.pool or []))
    lfs = sample_lfs()
    votes = apply_lfs(lfs, pool)
    gold = np.array([data.pool_gold[example["id"]] for example in pool])
    found: list[dict[str, Any]] = []
    for task, topic, index, fitted, *_ in fit_topics(pool, votes):
        assert isinstance(fitted, DawidSkene)
        for lf, ballot, estimated in zip(lfs, votes[index].T, fitted.accuracies, strict=True):
            given = ballot != ABSTAIN
            if given.sum() >= MIN_VOTES:
                one = dict(task=task, topic=topic, lf=lf.name, votes=int(given.sum()), estimated=float(estimated))
                found.append(one | dict(true=float((ballot == gold[index])[given].mean())))
    return found


def labels_figure(accuracies: list[dict[str, Any]], title: str) -> Figure:
    """Return the estimated accuracy of each labelling function against its true one."""
    figure, (axes,) = subplots((5.2, 4.8))
    for (task, name), (color, marker) in zip((("question", "questions"), ("pair", "pairs of replies")), STYLES):
        some = [one for one in accuracies if one["task"] == task]
        points = [one["true"] for one in some], [one["estimated"] for one in some]
        if some:
            axes.plot(*points, marker, color=color, markersize=6, linestyle="", alpha=0.75, label=name)
    axes.plot([0, 1], [0, 1], color=GREY, **DASHED)
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), title=title)
    axes.set(xlabel="true accuracy of a labelling function", ylabel="estimated by Dawid–Skene, without labels")
    axes.legend(fontsize=8, frameon=False, loc="upper left")
    return figure
