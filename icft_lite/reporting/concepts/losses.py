"""Concept diagram of L_consistency: two hidden states, one frozen head."""

from matplotlib.figure import Figure

from icft_lite.reporting.diagrams import arrow, box, canvas, note


def draw() -> Figure:
    """L_consistency through the frozen head: the teacher is a cached state, not a second model.

    Two rows from left to right. Upper row, at every step: a memory example goes through the frozen base with the fast
    adapter, which is trained; the final hidden state goes through the frozen head and becomes the student's logits.
    Lower row, once per stage: the same example goes through the teacher, which is the base or the long-term adapter;
    its final hidden state is cached and goes through the same head, which gives the teacher's logits. L_consistency
    compares both logits. Its gradient flows back along the upper row only, through the head into the fast adapter.
    """
    figure, axes = canvas(10.4, 3.9)
    axes.text(0.2, 3.62, "L_consistency: logits of the fast adapter against a cached teacher", fontsize=11, va="center")
    upper, lower = 2.65, 1.05
    box(axes, 1.0, 1.85, "memory example\n\nprompt and\nresponse, [N] tokens", "general", width=1.6, height=1.3)
    box(axes, 3.3, upper, "frozen base", "frozen", width=1.9, height=1.05)
    axes.texts[-1].set_position((3.3, upper + 0.33))
    box(axes, 3.3, upper - 0.15, "fast adapter φ", "trained", width=1.5, height=0.5)
    box(axes, 3.3, lower, "teacher: frozen base or\nlong-term adapter", "frozen", width=1.9, height=0.8)
    box(axes, 5.55, upper, "final hidden\nstates [N, H]", width=1.35)
    box(axes, 5.55, lower, "final hidden\nstates [N, H],\ncached", width=1.35, height=0.8)
    box(axes, 7.25, 1.85, "frozen\nhead\n[V, H]", "frozen", width=0.85, height=2.3)
    box(axes, 8.75, upper, "logits of the\nstudent [N, V]", width=1.3)
    box(axes, 8.75, lower, "logits of the\nteacher [N, V]", width=1.3)
    box(axes, 9.55, 1.85, "L_consistency", width=1.35, height=0.5)
    arrow(axes, (1.8, 2.1), (2.35, upper))
    arrow(axes, (1.8, 1.6), (2.35, lower), dashed=True)
    for y, dashed in ((upper, False), (lower, True)):
        arrow(axes, (4.25, y), (4.87, y), dashed=dashed)
        arrow(axes, (6.23, y), (6.82, y))
        arrow(axes, (7.68, y), (8.1, y))
        arrow(axes, (9.2, upper - 0.3 if y == upper else lower + 0.3), (9.4, 2.1 if y == upper else 1.6))
    arrow(axes, (8.75, 3.3), (3.3, 3.3), "gradient: through the head into φ, nowhere else", "#a67c00", offset=(0, 0.14))
    note(axes, 3.3, 0.42, "dashed: evaluated once per stage, without a gradient")
    note(axes, 7.25, 0.42, "V vocabulary, H width: a state is V / H times smaller than its logits")
    return figure
