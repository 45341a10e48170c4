"""Concept diagram of a linear layer in QLoRA: a frozen weight in 4 bits and a trained adapter."""

from matplotlib.figure import Figure

from icft_lite.reporting.diagrams import arrow, box, canvas, note
from icft_lite.reporting.style import MEDICAL


def draw() -> Figure:
    """QLoRA linear layer: y = W·x + (alpha / r)·B·A·x, with W frozen in 4 bits and A and B trained.

    The input x takes two ways. Above, the frozen weight: packed 4-bit indices and scales are dequantized to W, which is
    multiplied with x and then discarded. Below, the trained adapter: A reduces x to r numbers, B expands them to the
    size of the output, and the result is multiplied by alpha / r. Both are added to y. Dashed arrows are gradients:
    they pass through W to x, and they reach A and B. The packed indices get none.
    """
    figure, axes = canvas(9.2, 3.9)
    axes.text(0.2, 3.7, "A linear layer in QLoRA", fontsize=11, va="center")
    box(axes, 0.75, 1.6, "x\n[in]", width=0.8)
    box(axes, 2.6, 3.05, "4-bit indices, scales\nfrozen, no gradient", "frozen", width=1.9)
    arrow(axes, (3.55, 3.05), (4.35, 3.05), "dequantize", offset=(0.0, 0.14))
    box(axes, 5.15, 3.05, "W  [out, in]\nonly while in use", "frozen")
    box(axes, 5.15, 2.05, "W·x", "frozen", width=1.2, height=0.5)
    arrow(axes, (5.15, 2.75), (5.15, 2.3))
    arrow(axes, (1.15, 1.68), (4.55, 2.05))
    box(axes, 2.9, 0.75, "A  [r, in]\nfp32", "trained", width=1.2)
    box(axes, 4.7, 0.75, "B  [out, r]\nfp32, starts at 0", "trained", width=1.4)
    box(axes, 6.35, 0.75, "× alpha / r", width=1.1, height=0.5)
    arrow(axes, (1.15, 1.52), (2.3, 0.85))
    arrow(axes, (3.5, 0.75), (4.0, 0.75), "[r]")
    arrow(axes, (5.4, 0.75), (5.8, 0.75))
    box(axes, 7.25, 1.6, "+", width=0.5, height=0.5)
    arrow(axes, (5.75, 2.05), (7.0, 1.68))
    arrow(axes, (6.9, 0.85), (7.15, 1.35))
    box(axes, 8.45, 1.6, "y\n[out]", width=0.8)
    arrow(axes, (7.5, 1.6), (8.05, 1.6))
    arrow(axes, (7.0, 1.55), (5.6, 1.8), color=MEDICAL, dashed=True)
    arrow(axes, (4.55, 1.87), (1.15, 1.52), color=MEDICAL, dashed=True)
    arrow(axes, (7.0, 1.5), (4.9, 1.05), color=MEDICAL, dashed=True)
    arrow(axes, (4.4, 1.05), (3.2, 1.05), color=MEDICAL, dashed=True, curve=0.25)
    note(axes, 2.9, 0.25, "trained: r·(in + out) parameters, r much smaller than in and out", "left")
    note(axes, 6.6, 2.75, "dashed: gradients. They pass through\nW to x and train A and B.\nW does not change.", "left")
    return figure
