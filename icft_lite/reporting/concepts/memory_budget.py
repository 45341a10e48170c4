"""Concept diagram of a training step's memory: seven parts, and what each of them depends on."""

from matplotlib.figure import Figure

from icft_lite.reporting.diagrams import arrow, box, canvas, note


def draw() -> Figure:
    """Draw the seven parts of the memory of a QLoRA step, in the order of the forward and the backward pass.

    Top: tokens pass the embeddings, the frozen layers in NF4 with their adapters, and the output head. Bottom, below
    the part that makes them: activations, which the backward pass needs again, and logits of a chunk, which both grow
    with the tokens of a forward pass; gradient and AdamW's averages, and copies of the adapters, which depend on the
    adapters only.
    """
    figure, axes = canvas(10.4, 3.6)
    axes.text(0.2, 3.4, "Where the memory of a training step goes", fontsize=11, va="center")
    box(axes, 0.9, 2.4, "tokens of a\nforward pass", width=1.2)
    box(axes, 2.9, 2.4, "embeddings\n16 or 32 bits", "frozen")
    box(axes, 5.1, 2.65, "layers\nNF4, 4.127 bits", "frozen", width=1.7)
    box(axes, 5.1, 2.05, "two adapters, fp32", "trained", width=1.7, height=0.4)
    box(axes, 7.3, 2.4, "output head\n(the embeddings)", "frozen")
    box(axes, 9.4, 2.4, "three losses", width=1.2)
    for start, end in ((1.5, 2.1), (3.7, 4.2), (6.0, 6.5), (8.1, 8.8)):
        arrow(axes, (start, 2.4), (end, 2.4))
    box(axes, 2.9, 0.8, "gradient, AdamW\nand copies, fp32", "trained", width=1.7)
    box(axes, 5.1, 0.8, "activations", "general", width=1.7)
    box(axes, 7.3, 0.8, "logits of a chunk", "general")
    arrow(axes, (4.45, 1.85), (3.4, 1.1), "", dashed=True)
    arrow(axes, (5.3, 1.85), (5.3, 1.1))
    arrow(axes, (7.3, 2.1), (7.3, 1.1))
    note(axes, 2.9, 0.3, "depends on the rank")
    note(axes, 6.2, 0.3, "blue: grows with the tokens of a forward pass")
    return figure
