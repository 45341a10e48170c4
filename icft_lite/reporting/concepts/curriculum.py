"""Concept diagram of the curriculum: difficulty, stages and pacing."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from icft_lite.reporting.diagrams import arrow, box, canvas, note
from icft_lite.reporting.style import GREY, MEDICAL


def draw() -> Figure:
    """Curriculum: signals give the difficulty, levels the stages, and pacing the available share of a stage.

    Left: three signals of an example, its loss under the base, its length and the entropy of its label, become ranks,
    and their mean is its difficulty. Right: three stages in time. Each adds a level to those before: easy, then medium,
    then hard. Inside a stage, all its examples are sorted by difficulty, and only the easiest share c(t) may be drawn.
    c(t) rises steeply at first and then less, up to all examples of the stage.
    """
    figure, axes = canvas(10.6, 3.9)
    axes.text(0.2, 3.65, "Curriculum: difficulty, stages and pacing", fontsize=11, va="center")
    for y, signal in zip((2.9, 2.2, 1.5), ("loss under the base", "length", "entropy of the label"), strict=True):
        box(axes, 1.05, y, signal, width=1.7, height=0.45)
        arrow(axes, (1.9, y), (2.3, 2.2))
    box(axes, 2.95, 2.2, "ranks,\nthen their mean", width=1.3, height=0.7)
    arrow(axes, (3.6, 2.2), (3.95, 2.2))
    box(axes, 4.6, 2.2, "difficulty\n0 to 1", "medical", width=1.3, height=0.7)
    box(axes, 4.6, 0.95, "level, by people:\neasy, medium, hard", "medical", width=1.6, height=0.6)
    arrow(axes, (5.25, 2.2), (6.1, 2.2), "sorts", offset=(0.0, 0.12))
    arrow(axes, (5.4, 0.95), (6.1, 0.95), "stages", offset=(0.0, 0.12))
    left, bottom, width = 6.25, 0.85, 1.3
    t = np.linspace(0, 1, 60)
    share = np.sqrt(t * (1 - 0.3**2) + 0.3**2)
    for stage, levels in enumerate(("easy", "easy, medium", "easy, medium, hard")):
        x, height = left + stage * (width + 0.1), 0.75 * (stage + 1)
        axes.add_patch(Rectangle((x, bottom), width, height, facecolor="white", edgecolor=GREY))
        axes.plot(x + t * width, bottom + share * height, color=MEDICAL, linewidth=2)
        axes.fill_between(x + t * width, bottom, bottom + share * height, color=MEDICAL, alpha=0.12, linewidth=0)
        axes.text(x + width / 2, bottom + height + 0.12, levels, ha="center", va="center", fontsize=8)
        axes.text(x + width / 2, bottom - 0.15, f"stage {stage + 1}", ha="center", va="center", fontsize=9)
    arrow(axes, (left, 0.45), (10.45, 0.45), color=GREY)
    note(axes, 8.35, 0.28, "time (stages are drawn equally long; the last one takes most of the tokens)")
    note(
        axes,
        6.25,
        2.85,
        "height: examples of the stage,\nby difficulty, easiest at the bottom\nshaded: share c(t) that may be drawn",
        "left",
    )
    return figure
