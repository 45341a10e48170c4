"""Figures of the lesson on weak supervision."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from icft_lite.reporting.style import DASHED, GENERAL, GREY, INK, MEDICAL, STYLES, subplots
from icft_lite.statistics import binomial_interval


def votes_figure(votes: np.ndarray, names: Sequence[str], title: str) -> Figure:
    """Return a figure of the votes [n, m]: a row per function, a column per example, a letter per vote."""
    colors = ["white", "#0072b2", "#e69f00", "#009e73", "#cc79a7"]
    figure, (axes,) = subplots((10, 3))
    axes.imshow(votes.T + 1, cmap=ListedColormap(colors), vmin=0, vmax=4, aspect="auto")
    for (i, j), vote in np.ndenumerate(votes):
        if vote >= 0:
            color = "white" if vote == 0 else INK
            axes.text(i, j, "ABCD"[vote], ha="center", va="center", fontsize=8, color=color)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("example of the pool")
    axes.set_title(title, loc="left")
    axes.grid(False)
    return figure


def em_figure(history: np.ndarray, true: np.ndarray) -> Figure:
    """Return a figure of the estimated accuracies after each round of EM [rounds, m], and of the last against true [m].

    The dashed lines are the true accuracies. On the diagonal, the estimate equals the truth.
    """
    figure, (left, right) = subplots((10, 3.8), 2)
    for j, (color, marker) in zip(range(len(true)), STYLES, strict=False):
        left.plot(history[:, j], color=color, marker=marker, markersize=4)
        left.axhline(true[j], color=color, **DASHED)
        right.plot(true[j], history[-1, j], marker, color=color, markersize=9, label=f"function {j}")
    left.set(xlabel="round of EM", ylabel="accuracy (0–1)", ylim=(0, 1.03))
    left.set_title("Estimates from majority vote on (dashed: truth)", loc="left")
    _diagonal(right)
    right.set(xlabel="true accuracy (0–1)", ylabel="estimated accuracy (0–1)", xlim=(0, 1.03), ylim=(0, 1.03))
    right.set_title("Recovered without a single label", loc="left")
    right.legend(frameon=False, loc="lower right")
    return figure


def reliability_figure(bins: Mapping[str, np.ndarray], smallest: int = 10) -> Figure:
    """Return a reliability diagram with 95 % intervals.

    bins: name of the label model → [3, bins], the mean confidence, the accuracy and the number of examples of each bin.
    smallest: bins with fewer examples are left out.
    """
    figure, (axes,) = subplots((5.8, 4.6))
    _diagonal(axes)
    axes.text(0.62, 0.58, "calibrated", color=GREY, rotation=39)
    for (name, found), color, marker in zip(bins.items(), (MEDICAL, GENERAL), "so", strict=True):
        confidence, accuracy, count = found[:, found[2] >= smallest]
        for x, share, n in zip(confidence, accuracy, count, strict=True):
            axes.plot([x, x], binomial_interval(round(share * n), int(n)), color=color)
        label = name.replace("_", " ")
        axes.scatter(confidence, accuracy, 15 + count / 4, color=color, marker=marker, alpha=0.8, lw=0, label=label)
    total = next(iter(bins.values()))[2].sum()
    axes.set(
        xlabel=f"confidence of the label (0–1)\nsize: examples in the bin, at least {smallest}",
        ylabel="share of right labels (0–1)",
    )
    axes.set_title(f"Reliability of {total:,.0f} labels (bars: 95 % intervals)", loc="left")
    axes.legend(frameon=False, loc="lower right", markerscale=0.5)
    return figure


def agreement_figure(agreement: np.ndarray, names: Sequence[str]) -> Figure:
    """Return a figure of how often each pair of functions agrees where both vote [m, m]; white: no common example."""
    figure, (axes,) = subplots((6.4, 4.8))
    shown = axes.imshow(agreement, cmap=colormaps["viridis"], vmin=0, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title("Agreement where both vote (white: never)", loc="left")
    axes.grid(False)
    figure.colorbar(shown, ax=axes, label="share of equal votes (0–1)")
    return figure


def _diagonal(axes: Axes) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
