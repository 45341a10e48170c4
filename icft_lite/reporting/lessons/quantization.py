"""Figures of the lesson on QLoRA."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from icft_lite.reporting.style import DASHED, GENERAL, GREY, INK, MEDICAL, subplots

STYLES = ((GREY, "^"), (MEDICAL, "o"), (GENERAL, "s"))
"""(color, marker) of each curve, in their order."""


def curves_figure(
    x: Sequence[float], curves: Mapping[str, Sequence[float]], title: str, x_label: str, y_label: str, log: str = ""
) -> Figure:
    """Return a figure with at most three named curves over x, each with its own open marker.

    log: the axes with a logarithmic scale, "", "x", "y" or "xy".
    """
    figure, (axes,) = subplots((7, 3.4))
    for size, (name, values), (color, marker) in zip((9, 6, 6), curves.items(), STYLES, strict=False):
        # Open markers of different sizes, so that equal curves stay visible.
        axes.plot(x, values, marker=marker, markersize=size, markerfacecolor="none", color=color, label=name)
    axes.set(title=title, xlabel=x_label, ylabel=y_label)
    axes.set_xscale("log" if "x" in log else "linear")
    axes.set_yscale("log" if "y" in log else "linear")
    if "x" in log:
        axes.set_xticks(x, [f"{value:g}" for value in x])
        axes.minorticks_off()
    axes.legend(frameon=False)
    return figure


def usage_figure(scaled: np.ndarray, levels: np.ndarray, usage: np.ndarray) -> Figure:
    """Return a figure of weights divided by their block's scale [n] with the levels [16], and each level's usage [16].

    The dashed line is the usage if all levels were used equally often.
    """
    figure, (left, right) = subplots((9, 3.2), 2)
    left.hist(scaled, bins=120, color="#9ecae1", density=True)
    left.vlines(levels, 0, 1.6, color=INK, linewidth=1)
    left.set(xlabel="weight ÷ scale of its block", ylabel="density", ylim=(0, 1.6), xticks=[-1, -0.5, 0, 0.5, 1])
    left.set_title("Weights and the 16 levels")
    right.bar(range(len(usage)), usage, color=GENERAL)
    equal = 1 / len(usage)
    right.axhline(equal, color=MEDICAL, **DASHED)
    right.text(len(usage) - 0.4, equal + 0.002, "equal usage", color=MEDICAL, ha="right")
    right.set(xlabel="index of the level", ylabel="share of all weights", title="How often each level is used")
    return figure
