"""Concept diagram of the paired bootstrap: two models, the same questions, one interval."""

from collections.abc import Iterable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icft_lite.reporting.diagrams import arrow, box, canvas, note
from icft_lite.reporting.style import GREY, INK

RIGHT = ((1, 1, 0, 1, 0, 1), (1, 0, 1, 1, 0, 0))
"""Answers of models A and B to six questions, 1 if right."""
DRAWS = ((1, 5, 0, 1, 3, 4), (2, 2, 5, 0, 4, 3), (3, 1, 5, 5, 0, 1))
"""Questions of three resamples."""


def draw() -> Figure:
    """Paired bootstrap: the differences of two models per question are resampled, and the means give an interval.

    Left: models A and B answer the same six questions; 1 is a right answer. The row below is the difference per
    question, 0 where both are right or both wrong. Middle: three resamples draw six questions with replacement, with
    the mean difference of each. Right: the middle 95 % of the means of many resamples are the interval.
    """
    figure, axes = canvas(9.2, 3.7)
    axes.text(0.2, 3.5, "The paired bootstrap", fontsize=11, va="center")
    differences = [a - b for a, b in zip(*RIGHT, strict=True)]
    xs = [1.55 + 0.4 * i for i in range(6)]
    _row(axes, 2.95, "question", range(1, 7), xs, GREY)
    for y, name, right in ((2.55, "A right", RIGHT[0]), (2.15, "B right", RIGHT[1])):
        _row(axes, y, name, right, xs, INK)
    box(axes, 2.55, 1.45, "", "general", width=2.5, height=0.4)
    _row(axes, 1.45, "A − B", differences, xs, INK)
    arrow(axes, (2.55, 1.95), (2.55, 1.67))
    note(axes, 2.55, 1.05, f"mean difference {sum(differences) / 6:.2f}")
    for y, drawn in zip((2.55, 1.75, 0.95), DRAWS, strict=True):
        arrow(axes, (3.85, 1.45), (4.35, y))
        box(axes, 5.4, y, "questions " + " ".join(str(i + 1) for i in drawn), width=2.1, height=0.45)
        arrow(axes, (6.45, y), (6.85, y))
        axes.text(
            7.15,
            y,
            f"{sum(differences[i] for i in drawn) / 6:.2f}".replace("-", "−"),
            ha="center",
            va="center",
            fontsize=9,
        )
    note(axes, 5.4, 3.05, "resamples: six questions\nwith replacement, and their means")
    note(axes, 6.3, 0.45, "… many times")
    arrow(axes, (7.45, 1.75), (7.85, 1.75))
    box(axes, 8.45, 1.75, "middle 95 %\nof the means:\nthe interval", "general", width=1.15, height=0.9)
    note(axes, 0.2, 0.45, "pairs stay together: a question brings both answers", "left")
    return figure


def _row(axes: Axes, y: float, name: str, values: Iterable[int], xs: list[float], color: str) -> None:
    axes.text(1.15, y, name, ha="right", va="center", fontsize=9, color=color)
    for x, value in zip(xs, values, strict=True):
        axes.text(x, y, str(value).replace("-", "−"), ha="center", va="center", fontsize=9, color=color)
