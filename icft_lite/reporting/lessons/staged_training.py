"""Figures of the lesson on staged training."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from icft_lite.reporting.style import subplots


def growing_matrix_figure(matrix: np.ndarray, subjects: Sequence[str], moments: Sequence[str]) -> Figure:
    """Return the accuracy matrix [moments, subjects] as it gains one row at a time, a panel for each moment."""
    figure, panels = subplots((2.75 * len(moments), 2.9), len(moments))
    for known, (axes, moment) in enumerate(zip(panels, moments, strict=True), 1):
        shown = np.where(np.arange(len(matrix))[:, None] < known, matrix, np.nan)
        axes.imshow(shown, cmap="cividis", vmin=0, vmax=1)
        for i, j in np.argwhere(~np.isnan(shown)):
            color = "white" if shown[i, j] < 0.5 else "black"
            axes.text(j, i, f"{shown[i, j]:.2f}", ha="center", va="center", fontsize=9, color=color)
        axes.set_xticks(range(len(subjects)), subjects, fontsize=8)
        axes.set_yticks(range(len(moments)), moments, fontsize=8)
        axes.set_title(f"after {moment}" if known > 1 else "before training", loc="left")
        axes.grid(False)
    panels[0].set_xlabel("test questions of")
    panels[0].set_ylabel("exact match (0–1) after")
    return figure
