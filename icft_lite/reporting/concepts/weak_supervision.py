"""Concept diagram of weak supervision: from votes to training."""

from matplotlib.figure import Figure

from icft_lite.reporting.diagrams import arrow, box, canvas, note


def draw() -> Figure:
    """Weak supervision: labelling functions vote, a label model turns votes into a posterior, the posterior trains.

    From left to right: a question without a label goes to three labelling functions. Their votes form a matrix with a
    row for each example and a column for each function. The label model repeats two steps: the M-step estimates the
    accuracy of each function from the posteriors, the E-step computes the posteriors from the votes and the accuracies.
    The posterior of each option gives a hard label for training and an entropy for the curriculum. Gold labels are used
    for checks only.
    """
    figure, axes = canvas(10.6, 3.7)
    box(
        axes,
        1.05,
        2.1,
        "Question, no label\n\nWhich class is\nofloxacin in?\nA  antimalarial\nB  quinolone",
        width=1.7,
        height=1.6,
    )
    names, votes = ("name parts", "table", "guess"), ("B", "B", "A")
    for y, name, vote in zip((2.9, 2.1, 1.3), names, votes, strict=True):
        box(axes, 3.0, y, f"LF: {name}", width=1.2, height=0.5)
        arrow(axes, (1.9, 2.1), (2.4, y))
        arrow(axes, (3.6, y), (4.2, y), f"votes {vote}", offset=(0.0, 0.12))
    box(axes, 4.75, 2.1, "Votes\n[n, m]\n\nB  B  A\nA  –  A\n–  B  B", width=1.1, height=2.1)
    arrow(axes, (5.3, 2.1), (5.75, 2.1))
    box(axes, 6.75, 2.1, "", "trained", width=2.0, height=2.1)
    axes.text(6.75, 2.97, "Label model", ha="center", va="center", fontsize=9)
    box(axes, 6.75, 2.5, "accuracies [m]\n0.95, 0.90, 0.50", width=1.6, height=0.5)
    box(axes, 6.75, 1.4, "posterior [n, k]", width=1.6, height=0.4)
    arrow(axes, (6.35, 2.25), (6.35, 1.6))
    arrow(axes, (7.15, 1.6), (7.15, 2.25))
    note(axes, 6.3, 1.93, "E-step", "right")
    note(axes, 7.2, 1.93, "M-step", "left")
    arrow(axes, (7.75, 1.4), (8.5, 2.1), "B: 0.99", offset=(-0.15, 0.25))
    arrow(axes, (7.75, 1.4), (8.5, 1.2))
    box(axes, 9.45, 2.1, "hard label B\nfor training", "medical", width=1.8)
    box(axes, 9.45, 1.2, "entropy, for the\ncurriculum (lesson 03)", "medical", width=1.8)
    box(axes, 6.75, 0.4, "Gold labels: only to check", "frozen", width=2.0, height=0.4)
    arrow(axes, (6.75, 1.05), (6.75, 0.6), "compare", dashed=True, offset=(0.4, 0.0))
    axes.text(0.2, 3.45, "Weak supervision: votes → label model → posterior → training", fontsize=11, va="center")
    note(axes, 3.0, 0.75, "labelling functions (LFs): cheap, fallible;\n“–” in the matrix: the function abstains")
    return figure
