"""Concept diagram of the stage loop: what a run does in each stage, and what it saves."""

from functools import partial

from matplotlib.figure import Figure

from icft_lite.reporting.diagrams import arrow, box, canvas, note
from icft_lite.reporting.style import GREY


def draw() -> Figure:
    """Draw the stage loop of a run: six parts in a circle, repeated for the stages easy, medium and hard.

    Top, from left to right: refresh the teachers, plan all steps, train the fast adapter. Bottom, from right to left:
    promote examples, consolidate (choose α), evaluate on the test. Then the next stage begins with the adapter that was
    chosen. Two files make a run resumable: one is saved every few steps of training, the other at the end of a stage.
    """
    figure, axes = canvas(10.2, 4.3)
    axes.text(0.2, 4.1, "The stage loop", fontsize=11, va="center")
    top, bottom = 3.2, 1.45
    part = partial(box, axes, width=2.1, height=0.9)
    part(1.9, top, "1  refresh teachers\nbase or long-term memory,\nfor each memory example", "frozen")
    part(5.1, top, "2  plan\nall steps: a pure function\nof seed, stage and memory")
    part(8.3, top, "3  train\nfast adapter by gradient,\nslow adapter follows", "trained")
    part(8.3, bottom, "4  promote\nfrom the ring\nto the buffer", "medical")
    part(5.1, bottom, "5  consolidate\nchoose α on validation,\nwithin the constraint", "general")
    part(1.9, bottom, "6  evaluate\na row of the\naccuracy matrix")
    arrow(axes, (2.95, top), (4.05, top))
    arrow(axes, (6.15, top), (7.25, top))
    arrow(axes, (8.3, top - 0.45), (8.3, bottom + 0.45), "end of the stage", offset=(0.75, 0.0))
    arrow(axes, (7.25, bottom), (6.15, bottom))
    arrow(axes, (4.05, bottom), (2.95, bottom))
    arrow(axes, (1.9, bottom + 0.45), (1.9, top - 0.45), "next stage, from the chosen adapter", offset=(1.25, 0.0))
    box(axes, 1.9, 0.4, "stage1.safetensors, …", "frozen", width=2.1, height=0.4)
    box(axes, 6.2, 2.32, "step.safetensors", "frozen", width=1.6, height=0.4)
    arrow(axes, (1.9, bottom - 0.45), (1.9, 0.6), color=GREY, dashed=True)
    arrow(axes, (7.4, top - 0.45), (7.0, 2.4), color=GREY, dashed=True)
    note(axes, 3.1, 0.4, "dashed: saved, at the end of a stage and every few steps of training", "left")
    return figure
