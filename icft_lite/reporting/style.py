"""The style of all figures: matplotlib Figure objects without pyplot and its global state, and their PNG files.

The background is white and the text dark, whatever the reader's theme. The colors are distinguishable with every kind
of color vision, and every method also has its own marker.
"""

import io
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, GREY, GENERAL, MEDICAL = "#1a1a1a", "#6f6f6f", "#0072b2", "#d55e00"
LEVELS = ["#c27c00", "#8f5a00", "#5c3900"]
"""Colors of the levels easy, medium and hard."""
# After Okabe and Ito, darkened where the white background requires it.
STYLES = [
    ("#0072b2", "o"),
    ("#d55e00", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#a67c00", "v"),
    ("#56b4e9", "P"),
    ("#5d3a9b", "X"),
    ("#6f6f6f", "h"),
    ("#8b3a2f", "<"),
]
"""(color, marker) of each method, in the order of a comparison."""
DASHED: dict[str, Any] = {"linewidth": 1, "linestyle": (0, (4, 3))}
RC = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": GREY,
    "grid.color": "#e8e8e8",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}
"""Matplotlib settings of all figures."""


def subplots(size: tuple[float, float], columns: int = 1, rows: int = 1, **options: Any) -> tuple[Figure, list[Axes]]:
    """Return an empty figure of this size in inches, and its axes, row by row. options: of `Figure.subplots`."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=size)
        return figure, list(figure.subplots(rows, columns, squeeze=False, **options).ravel())


def png(figure: Figure, dpi: int = 160) -> bytes:
    """Return the figure as PNG bytes, identical for identical values: they contain no date and no version.

    They contain the figure's titles, which are the alternative text of the image where nothing else is given.
    """
    buffer = io.BytesIO()
    metadata = {"Software": None, "Title": "; ".join(figure_titles(figure)) or None}
    figure.savefig(buffer, format="png", dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def figure_titles(figure: Figure) -> list[str]:
    """Return the titles of a figure and of its axes, in order."""
    titles = [figure.get_suptitle()]
    for axis in figure.axes:
        titles += [axis.get_title("left"), axis.get_title("center"), axis.get_title("right")]
    return [" ".join(title.split()) for title in titles if title.strip()]
