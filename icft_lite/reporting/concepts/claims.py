"""Concept diagram of a registered claim: what is decided before the test is scored, and what after."""

from functools import partial

from matplotlib.figure import Figure

from icft_lite.reporting.diagrams import arrow, box, canvas, note
from icft_lite.reporting.style import DASHED, GREY


def draw() -> Figure:
    """From runs to a claim: everything is decided on development data, then the confirmation is scored once.

    Upper row, before: settings and methods are tried on development splits; claims, bounds and rules are written down;
    both are committed. Lower row, after: every method is trained on each of five new splits; on each, validation data
    chooses α, the test is scored once, and the difference of two methods is one number; the t-interval over the five
    numbers is compared with the bound, which gives "supported" or "not supported". No arrow leads back.
    """
    figure, axes = canvas(10.4, 4.0)
    axes.text(0.2, 3.8, "From runs to a claim", fontsize=11, va="center")
    upper, lower = 2.95, 1.15
    part = partial(box, axes, height=0.9)
    part(1.35, upper, "development splits:\ntry settings, look at\nany score", width=2.0)
    part(4.25, upper, "write down: methods,\nscores, claims, bounds,\nrule for α", width=2.1)
    part(7.15, upper, "commit:\nnothing changes\nfrom here on", "frozen", width=1.8)
    part(1.35, lower, "confirmation splits,\nfive new ones:\ntrain every method", width=2.0)
    part(3.75, lower, "validation\nchooses α", width=1.3)
    part(5.45, lower, "test,\nscored once", width=1.3)
    part(7.25, lower, "a difference\nper split:\n$d_1 \\dots d_5$", width=1.3)
    part(9.3, lower, "t-interval of the\nmean; its lower end\nabove the bound?", width=1.8)
    arrow(axes, (2.35, upper), (3.2, upper))
    arrow(axes, (5.3, upper), (6.25, upper))
    arrow(axes, (7.15, upper - 0.45), (1.35, lower + 0.45))
    for start, end in ((2.35, 3.1), (4.4, 4.8), (6.1, 6.6), (7.9, 8.4)):
        arrow(axes, (start, lower), (end, lower))
    axes.plot([0.2, 10.2], [2.05, 2.05], color=GREY, **DASHED)
    note(axes, 10.2, 2.2, "before: test scores may be looked at", "right")
    note(axes, 10.2, 1.9, "after: scored once, reported whatever it shows", "right")
    note(axes, 9.3, 0.4, "supported, or not supported")
    note(axes, 0.35, 0.4, "The split is the sample: five numbers, not thousands of questions.", "left")
    return figure
