"""Concept diagram of the whole method: from data through training to an adapter."""

from matplotlib.figure import Figure

from icft_lite.reporting.diagrams import arrow, box, canvas, note


def draw() -> Figure:
    """ICFT from data to an adapter, read from left to right.

    Left: three kinds of data. Votes of labelling functions, joined by a label model, turn the unlabelled medical pool
    into weakly labelled examples. Together with the trusted medical examples they enter the curriculum: easy examples,
    then medium, then hard ones. General examples enter the long-term memory, which also holds the slow adapter. Middle:
    every training step takes new examples from the curriculum and examples from memory, and adds three losses:
    L_fine-tune, L_task and L_consistency, for which the memory supplies the teacher. Their gradient changes the fast
    adapter, not the frozen base. Right: at the end of each stage, consolidation chooses α, and the next stage starts
    from there. After the last stage, the slow adapter and a report are saved.
    """
    figure, axes = canvas(10.8, 4.9)
    axes.text(0.2, 4.68, "ICFT: from data to an adapter", fontsize=11, va="center")
    top, middle, low = 3.85, 2.75, 0.95
    box(axes, 1.15, top, "medical pool\nwithout labels", "medical", width=1.7)
    box(axes, 1.15, middle, "trusted medical\nexamples", "medical", width=1.7)
    box(axes, 1.15, low, "general examples", "general", width=1.7)
    box(axes, 3.55, top, "labelling functions vote,\na label model joins them", "medical", width=2.1)
    box(axes, 3.55, middle, "curriculum: easy,\nthen medium, then hard", "medical", width=2.1)
    box(axes, 3.55, low, "long-term memory:\nexamples, slow adapter", "general", width=2.1)
    for y in (top, middle, low):
        arrow(axes, (2.0, y), (2.5, y))
    arrow(axes, (3.55, top - 0.3), (3.55, middle + 0.3), "weak labels", offset=(0.5, 0.0))
    box(axes, 6.75, middle, "", "frozen", width=1.9, height=1.3)
    axes.text(6.75, middle + 0.4, "frozen base, 4 bits", ha="center", va="center", fontsize=9)
    box(axes, 6.75, middle - 0.15, "fast adapter", "trained", width=1.4, height=0.55)
    arrow(axes, (4.6, middle), (5.8, middle), "new examples", offset=(0.0, 0.12))
    arrow(axes, (4.6, low + 0.2), (5.8, middle - 0.4), "memory\nexamples", offset=(-0.42, 0.22))
    box(axes, 6.75, low, "L_fine-tune + L_task\n+ L_consistency", width=1.9)
    arrow(axes, (6.55, middle - 0.65), (6.55, low + 0.3), "predictions", offset=(-0.42, 0.0))
    arrow(axes, (6.95, low + 0.3), (6.95, middle - 0.42), "gradient", "#a67c00", offset=(0.35, -0.12))
    arrow(axes, (4.6, low - 0.1), (5.8, low - 0.1), "teacher", dashed=True, offset=(0.0, -0.13))
    box(axes, 9.6, middle, "consolidation:\nchoose α; medicine up,\ngeneral score retained", width=1.9, height=0.95)
    arrow(axes, (7.7, middle), (8.65, middle), "end of stage", offset=(0.0, 0.12))
    arrow(axes, (9.6, middle + 0.48), (6.75, middle + 0.65), "next stage", curve=0.3, offset=(0.0, 0.62))
    box(axes, 9.6, low, "slow adapter, report", "trained", width=1.9)
    arrow(axes, (9.6, middle - 0.48), (9.6, low + 0.3), "after the\nlast stage", offset=(0.45, 0.0))
    legend = ("orange: medical", "blue: general", "grey: frozen", "yellow: trained", "dashed: no gradient")
    note(axes, 0.3, 0.25, "    ".join(legend), "left")
    return figure
