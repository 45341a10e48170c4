"""Concept diagram of NF4: levels from the quantiles of a normal distribution, and one weight that is rounded."""

from statistics import NormalDist

import numpy as np
from matplotlib.figure import Figure

from icft_lite.reporting.diagrams import arrow, box, canvas, note
from icft_lite.reporting.style import GENERAL, GREY, INK, MEDICAL

EDGE = 1 - (1 / 32 + 1 / 30) / 2
"""The largest p whose quantile is a level, as in QLoRA (Dettmers et al., 2023)."""
QUANTILES = sorted(
    [NormalDist().inv_cdf(p) for p in np.linspace(0.5, EDGE, 9)]
    + [-NormalDist().inv_cdf(p) for p in np.linspace(0.5, EDGE, 8)[1:]]
)
"""The 16 levels before they are divided by the largest, in standard deviations."""
COLORS = (MEDICAL, INK, GENERAL)
"""Colors of negative levels, of zero and of positive levels."""


def draw() -> Figure:
    """NF4: 16 levels at quantiles of the normal distribution, and a weight that is rounded to the nearest level.

    Top: the density of a standard normal distribution with a vertical line at each of the 16 quantiles, seven negative,
    zero and eight positive. They are close together in the middle and far apart at the ends. Middle: divided by the
    largest, they become the levels from −1 to 1 with the indices 0 to 15. Bottom: the weight 0.05 in a block whose
    largest absolute value is 0.20 becomes 0.25; the nearest level has the index 10 and the value 0.246; two indices
    share a byte.
    """
    figure, axes = canvas(9.2, 5.0)
    axes.text(0.2, 4.8, "NF4: 16 levels for weights with a normal distribution", fontsize=11, va="center")
    largest, center, unit = max(QUANTILES), 4.6, 2.05
    z = np.linspace(-2.15, 2.15, 201)
    axes.plot(center + z * unit, 3.0 + 3.3 * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), color=GREY, linewidth=1.2)
    for index, level in enumerate(QUANTILES):
        x, scaled = center + level * unit, center + 4.0 * level / largest
        color = COLORS[int(np.sign(level)) + 1]
        axes.vlines(x, 3.0, 3.0 + 3.3 * np.exp(-(level**2) / 2) / np.sqrt(2 * np.pi), color=color, linewidth=1.4)
        axes.plot([x, scaled], [2.97, 2.4], color=color, linewidth=0.6, alpha=0.6)
        axes.vlines(scaled, 2.1, 2.4, color=color, linewidth=2)
        axes.text(scaled, 1.95, str(index), ha="center", va="center", fontsize=8, color=color)
    note(axes, 1.1, 4.25, "density of the weights;\nlines: 16 quantiles", "left")
    note(axes, 7.0, 4.25, "÷ the largest quantile:\nlevels from −1 to 1", "left")
    rounded = center + 4.0 * QUANTILES[10] / largest
    for x, text in ((center - 4.0, "−1"), (center, "0"), (rounded, "0.246"), (center + 4.0, "1")):
        note(axes, x, 1.72, text)
    note(axes, 0.1, 1.95, "index", "left")
    note(axes, 0.1, 1.72, "level", "left")
    arrow(axes, (2.05, 0.55), (2.75, 0.55))
    box(axes, 1.25, 0.55, "weight 0.05\nscale of its block 0.20")
    box(axes, 3.55, 0.55, "0.05 ÷ 0.20 = 0.25")
    arrow(axes, (4.35, 0.55), (4.85, 0.55))
    arrow(axes, (rounded, 0.85), (rounded, 1.6), color=GENERAL)
    box(axes, 5.65, 0.55, "nearest level: 0.246\nindex 10", "general")
    arrow(axes, (6.45, 0.55), (6.95, 0.55))
    box(axes, 7.95, 0.55, "4 bits: 1010\ntwo indices per byte", "frozen", width=2.0)
    return figure
