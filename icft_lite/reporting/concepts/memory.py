"""Concept diagram of the two memories: examples and weights, for the short and for the long term."""

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from icft_lite.reporting.diagrams import arrow, box, canvas, note
from icft_lite.reporting.style import GENERAL, MEDICAL


def draw() -> Figure:
    """Draw the two memories of ICFT: a column for each memory, a row for examples and a row for weights.

    Left, short-term memory: the ring of the newest examples, and the fast adapter. Right, long-term memory: the buffer,
    and the slow adapter. In every step, a batch takes new examples, examples replayed from the ring and memory examples
    with their teacher's states; its gradient trains the fast adapter, and the slow adapter follows as a moving average.
    Dashed, once a stage: promotion moves examples from the ring to the buffer, consolidation chooses the slow adapter
    by a line search over α, the fast adapter starts from it, and it becomes a candidate teacher of the buffer.
    """
    figure, axes = canvas(10.6, 5.2)
    axes.text(0.2, 5.0, "The two memories of ICFT", fontsize=11, va="center")
    for x, name in ((3.5, "Short-term memory"), (9.0, "Long-term memory")):
        axes.add_patch(Rectangle((x - 1.15, 0.15), 2.3, 4.6, facecolor="#f6f6f6", edgecolor="none", zorder=0))
        axes.text(x, 4.55, name, fontsize=10, ha="center", va="center", weight="bold")
    note(axes, 0.2, 4.55, "examples", "left")
    note(axes, 0.2, 0.95, "weights", "left")
    box(axes, 1.0, 3.9, "new examples", "medical")
    box(axes, 3.5, 3.9, "ring\nthe newest examples", "medical")
    box(axes, 9.0, 3.9, "buffer\ngeneral and promoted", "general")
    box(axes, 6.2, 2.5, "batch of one step", width=1.7)
    box(axes, 3.5, 0.95, "fast adapter φ", "trained")
    box(axes, 9.0, 0.95, "slow adapter φ̄", "trained")
    arrow(axes, (1.8, 3.9), (2.7, 3.9))
    arrow(axes, (1.0, 3.6), (5.35, 2.4), "new", offset=(-0.55, -0.02))
    arrow(axes, (3.5, 3.6), (5.35, 2.65), "replayed", offset=(0.3, 0.17))
    arrow(axes, (8.2, 3.6), (7.05, 2.65), "memory examples,\nteacher's states", color=GENERAL, offset=(-0.75, 0.1))
    arrow(axes, (5.6, 2.2), (4.3, 1.15), "gradient of L_total", offset=(0.85, -0.05))
    arrow(axes, (4.3, 0.95), (8.2, 0.95), "moving average, every step", offset=(0.0, 0.12))
    arrow(axes, (4.3, 3.9), (8.2, 3.9), "promotion", color=MEDICAL, dashed=True, offset=(0.0, 0.12))
    arrow(axes, (9.5, 1.25), (9.5, 3.6), "candidate\nteacher", dashed=True, offset=(-0.4, 0.0))
    arrow(axes, (8.6, 0.65), (3.9, 0.65), "consolidation: α", dashed=True, curve=-0.09, offset=(0.0, -0.36))
    note(axes, 0.2, 2.05, "solid: in every step\ndashed: once a stage", "left")
    return figure
