"""Concept diagram of the capstone: who has which part of the domain, and what a score is made of."""

from matplotlib.figure import Figure

from icft_lite.reporting.diagrams import arrow, box, canvas, note
from icft_lite.reporting.style import MEDICAL


def draw() -> Figure:
    """Draw the protocol of the capstone, from left to right.

    The instructor splits the domain with a secret seed. The public part goes to the student, whose run trains an
    adapter within the token budget. The entry is the adapter, the settings and the log of tokens. The hidden part stays
    with the grader. The grader scores the entry and the reference, replay with the same budget, on the hidden
    questions, and measures the entry's retention on general questions. The leaderboard sorts valid entries by gain.
    """
    figure, axes = canvas(10.4, 3.9)
    axes.text(0.2, 3.7, "The capstone: one domain, one budget, hidden questions", fontsize=11, va="center")
    box(axes, 1.1, 2.0, "domain\nquestions, answers", "medical")
    box(axes, 3.5, 2.95, "public part", "medical", width=1.4)
    box(axes, 3.5, 1.05, "hidden questions", "medical", width=1.5)
    box(axes, 5.75, 2.95, "the student's run\nat most N tokens", "trained", width=1.7)
    box(axes, 8.3, 2.95, "entry: adapter,\nsettings, log", width=1.6)
    box(axes, 5.75, 2.0, "replay\nat most N tokens", "trained", width=1.7)
    box(axes, 8.3, 1.05, "grader\ngain and retention", width=1.6)
    box(axes, 5.75, 0.35, "general questions", "general", width=1.7, height=0.45)
    box(axes, 9.6, 0.3, "leaderboard", width=1.2, height=0.4)
    arrow(axes, (1.9, 2.2), (2.8, 2.85), color=MEDICAL)
    arrow(axes, (1.9, 1.8), (2.75, 1.15), color=MEDICAL)
    arrow(axes, (4.2, 2.95), (4.9, 2.95))
    arrow(axes, (4.2, 2.75), (4.9, 2.15))
    arrow(axes, (6.6, 2.95), (7.5, 2.95))
    arrow(axes, (8.3, 2.65), (8.3, 1.35))
    arrow(axes, (4.25, 1.05), (7.5, 1.05))
    arrow(axes, (6.6, 1.9), (7.5, 1.25), "reference", offset=(0.3, 0.12))
    arrow(axes, (6.6, 0.4), (7.5, 0.85))
    arrow(axes, (8.8, 0.75), (9.3, 0.5))
    note(axes, 1.1, 1.35, "split by groups,\nwith a secret seed")
    note(axes, 3.5, 0.55, "for the instructor only")
    return figure
