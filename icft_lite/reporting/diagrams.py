"""Diagrams of concepts in one style: boxes with text, arrows between them, as a matplotlib Figure.

Coordinates are in inches from the lower left corner, so that text has the same size in every diagram.
"""

from typing import Any, Literal

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from icft_lite.reporting.style import GENERAL, GREY, INK, MEDICAL, RC

Kind = Literal["plain", "frozen", "trained", "general", "medical"]
FILLS: dict[Kind, tuple[str, str]] = {
    "plain": ("#ffffff", GREY),
    "frozen": ("#eeeeee", GREY),
    "trained": ("#fff3c9", "#a67c00"),
    "general": ("#e3f0f9", GENERAL),
    "medical": ("#fdebdf", MEDICAL),
}
"""(fill, edge) of each kind of box: frozen and trained weights, general and medical data, and everything else."""


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty figure of this size in inches, and axes whose unit is an inch."""
    with matplotlib.rc_context({**RC, "figure.constrained_layout.use": False}):
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def box(
    axes: Axes, x: float, y: float, text: str, kind: Kind = "plain", width: float = 1.6, height: float = 0.6
) -> tuple[float, float]:
    """Draw a box with its center at (x, y) and return that center. Lines of `text` end with newlines."""
    fill, edge = FILLS[kind]
    corner = (x - width / 2, y - height / 2)
    shape = "round,pad=0,rounding_size=0.06"
    axes.add_patch(FancyBboxPatch(corner, width, height, shape, facecolor=fill, edgecolor=edge, linewidth=1.2))
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color=INK, linespacing=1.3)
    return x, y


def arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    text: str = "",
    color: str = INK,
    dashed: bool = False,
    curve: float = 0.0,
    offset: tuple[float, float] = (0.0, 0.1),
) -> None:
    """Draw an arrow between two points, with a label beside its middle.

    dashed: for what has no gradient, or happens once. curve: bend of the arrow, as a share of its length; a positive
    one bends to the right of its direction. offset: of the label from the middle, in inches.
    """
    style: dict[str, Any] = {"arrowstyle": "-|>", "color": color, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
    style |= {"linestyle": (0, (4, 3)) if dashed else "-", "connectionstyle": f"arc3,rad={curve}"}
    axes.annotate("", xy=end, xytext=start, arrowprops=style)
    if text:
        middle = ((start[0] + end[0]) / 2 + offset[0], (start[1] + end[1]) / 2 + offset[1])
        axes.text(*middle, text, ha="center", va="center", fontsize=8, color=GREY)


def note(axes: Axes, x: float, y: float, text: str, align: Literal["left", "center", "right"] = "center") -> None:
    """Write a remark in small grey letters."""
    axes.text(x, y, text, ha=align, va="center", fontsize=8, color=GREY, linespacing=1.3)
