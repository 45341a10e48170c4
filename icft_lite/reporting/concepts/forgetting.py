"""Concept diagram of forgetting: what plain fine-tuning changes, and what forgetting means."""

from matplotlib.figure import Figure

from icft_lite.reporting.diagrams import arrow, box, canvas, note


def draw() -> Figure:
    """Plain fine-tuning changes the adapter only, but every answer goes through it.

    In the middle is the model: frozen weights W0 and the trained change ΔW of the adapter. From the left come medical
    examples, whose gradient changes ΔW, and general questions, which are not trained on. Both are answered with
    W0 + ΔW. On the right, the medical score rises and the general score falls: that fall is called forgetting. Below:
    W0 is unchanged, so without the adapter the model is the base again, and what it learned is gone too.
    """
    figure, axes = canvas(10.4, 4.3)
    title = "Plain fine-tuning: only ΔW is trained, but every answer uses W0 + ΔW"
    axes.text(0.2, 4.02, title, fontsize=11, va="center")
    upper, lower = 3.1, 1.9
    box(axes, 1.15, upper, "medical examples:\ntrained on", "medical", width=1.8, height=0.7)
    box(axes, 1.15, lower, "general questions:\nnot trained on", "general", width=1.8, height=0.7)
    box(axes, 4.4, 2.5, "", "frozen", width=2.5, height=2.0)
    axes.text(4.4, 3.25, "base W0, frozen", ha="center", va="center", fontsize=9)
    box(axes, 4.4, 2.3, "adapter: change ΔW\nof every layer", "trained", width=1.9, height=0.9)
    box(axes, 8.6, upper, "medical score rises:\nlearning", "medical", width=2.2, height=0.7)
    box(axes, 8.6, lower, "general score falls:\nforgetting", "general", width=2.2, height=0.7)
    arrow(axes, (2.05, upper), (3.15, upper), "gradient into ΔW", offset=(0, 0.14))
    arrow(axes, (2.05, lower), (3.15, lower), "no gradient", offset=(0, 0.14), dashed=True)
    arrow(axes, (5.65, upper), (7.5, upper), "answers of W0 + ΔW", offset=(0, 0.14))
    arrow(axes, (5.65, lower), (7.5, lower), "answers of W0 + ΔW", offset=(0, 0.14))
    box(axes, 4.4, 0.6, "without the adapter: the base again", "frozen", width=2.9, height=0.5)
    arrow(axes, (4.4, 1.5), (4.4, 0.85), "remove ΔW", offset=(0.5, 0))
    note(axes, 6.0, 0.6, "general score as before, by construction;\nwhat was learned is gone too", "left")
    return figure
