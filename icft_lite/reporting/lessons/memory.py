"""Figures of the lesson on memory."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from icft_lite.reporting.style import DASHED, GENERAL, GREY, INK, MEDICAL, subplots

LOOKS = ((GENERAL, "o", "-"), (MEDICAL, "s", "--"), (INK, "x", ":"))
"""(color, marker, line style) of each series of a panel."""


def stream_figure(shares: Mapping[str, Sequence[float]], fair: float) -> Figure:
    """Return a figure of the share of runs in which each position of a stream is retained. fair: size / n, a line."""
    figure, (axes,) = subplots((7.5, 3.4))
    for (name, share), (color, marker, _) in zip(shares.items(), LOOKS, strict=False):
        axes.plot(range(1, len(share) + 1), share, marker, color=color, label=name)
    axes.axhline(fair, color=GREY, linewidth=1, label="size / n")
    axes.set(xlabel="position in the stream", ylabel="share of runs in which it is retained", ylim=(0, 1.05))
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.set_title("A reservoir is fair to every position", loc="left")
    axes.legend(frameon=False)
    return figure


def wrong_labels_figure(shares: Mapping[str, float], in_stream: float) -> Figure:
    """Return a bar chart of the share of wrong labels that each policy retains. in_stream: that of all examples."""
    figure, (axes,) = subplots((7, 3.2))
    colors = [GREY, MEDICAL, GENERAL, GENERAL]
    bars = axes.bar(list(shares), list(shares.values()), color=colors[: len(shares)], width=0.6)
    axes.bar_label(bars, [f"{value:.0%}" for value in shares.values()], padding=3)
    axes.axhline(in_stream, color=INK, label="share in the stream", **DASHED)
    axes.set(ylabel="share of wrong labels (0–1)", ylim=(0, 1.05))
    axes.set_title("Surprise collects wrong labels (simulated), a gate rejects most of them", loc="left")
    axes.legend(frameon=False)
    return figure


def quota_figure(counts: Mapping[str, int], quota: Mapping[str, int]) -> Figure:
    """Return a bar chart of the available and the retained examples of each topic."""
    figure, (axes,) = subplots((6, 3.2))
    axes.bar(list(counts), list(counts.values()), color="#e4e4e4", edgecolor=GREY, width=0.9, label="available")
    bars = axes.bar(list(quota), list(quota.values()), color=GENERAL, width=0.9, label="retained")
    axes.bar_label(bars, padding=3)
    axes.axhline(max(quota.values()), color=INK, **DASHED)
    axes.set(xlabel="topic", ylabel="examples")
    axes.set_title(f"{sum(quota.values())} places, filled to one level", loc="left")
    axes.legend(frameon=False)
    return figure


def average_figure(weights: Mapping[int, np.ndarray], fast: Sequence[float], slow: Sequence[float]) -> Figure:
    """Return a figure of a moving average: the weights ω_i after some steps, and one number with its average.

    weights: {step t: float [t + 1]}.
    """
    figure, (left, right) = subplots((10, 3.3), 2)
    for (t, values), (color, _, style) in zip(weights.items(), LOOKS, strict=False):
        left.plot(values, style, color=color, linewidth=2, label=f"after step {t}")
    left.set(xlabel="step i whose fast weights are averaged", ylabel="weight $\\omega_i$ (sum 1)", ylim=(0, 0.3))
    left.set_title("Which steps the slow adapter averages", loc="left")
    right.plot(fast, color=MEDICAL, linewidth=1, alpha=0.8, label="fast")
    right.plot(slow, "--", color=GENERAL, linewidth=2.5, label="slow")
    right.set(xlabel="optimizer step", ylabel="one weight (simulated)")
    right.set_title("The average lags behind, with less noise", loc="left")
    for axes in (left, right):
        axes.legend(frameon=False)
    return figure


def matrices_figure(matrices: Mapping[str, np.ndarray]) -> Figure:
    """Return small matrices with their values, each under its name."""
    figure, panels = subplots((2.75 * len(matrices), 3), len(matrices))
    for axes, (name, matrix) in zip(panels, matrices.items(), strict=True):
        axes.imshow(matrix, cmap="Blues", vmin=0, vmax=1.2)
        for (row, column), value in np.ndenumerate(np.asarray(matrix)):
            color = "white" if value > 0.8 else INK
            axes.text(column, row, f"{value:g}", ha="center", va="center", fontsize=8, color=color)
        axes.set(title=name, xticks=[], yticks=[])
        axes.grid(False)
    return figure


def singular_values_figure(values: Sequence[float], rank: int, residual: float) -> Figure:
    """Return a figure of singular values, of which the first `rank` are retained. residual: relative error of that."""
    figure, (axes,) = subplots((7, 3.3))
    at = np.arange(1, len(values) + 1)
    axes.bar(at[:rank], values[:rank], color=GENERAL, label="retained")
    axes.bar(at[rank:], values[rank:], color=MEDICAL, label=f"truncated: residual {residual:.1%} of the norm")
    axes.axvline(rank + 0.5, color=INK, **DASHED)
    axes.set(xlabel=f"rank-one term, largest first (dashed: r = {rank})", ylabel="singular value of the mean ΔW")
    axes.set_title("The mean of two adapters, reduced to rank r", loc="left")
    axes.legend(frameon=False)
    return figure


def line_search_figure(
    lines: Mapping[str, Sequence[Mapping[str, Any]]], min_general: float, chosen: Mapping[str, float]
) -> Figure:
    """Return the general and medical validation scores along the line of α, a panel for each name.

    lines: name → candidates with `alpha`, `general`, `medical`, and `origin` where they have several. min_general: the
    smallest general score that the retention constraint allows. chosen: name → α, marked by a gray bar.
    """
    figure, panels = subplots((max(6.5, 3.6 * len(lines)), 3.5), len(lines), sharey=True)
    for axes, (name, candidates) in zip(panels, lines.items(), strict=True):
        for origin in dict.fromkeys(one.get("origin", "start") for one in candidates):
            line = sorted(
                (one for one in candidates if one.get("origin", "start") == origin), key=lambda one: one["alpha"]
            )
            alphas, from_base = [one["alpha"] for one in line], origin == "base"
            for key, (color, marker, style) in zip(("general", "medical"), LOOKS, strict=False):
                axes.plot(
                    alphas,
                    [one[key] for one in line],
                    marker=marker,
                    linestyle=":" if from_base else style,
                    color=color,
                    fillstyle="none" if from_base else "full",
                    label=f"{key}, from the base" if from_base else key,
                )
        axes.axhline(min_general, color=GREY, label="retention constraint (general)", **DASHED)
        axes.axvline(chosen[name], color=INK, linewidth=6, alpha=0.15)
        axes.set_title(f"{name}: α = {chosen[name]:g}", loc="left")
        axes.set_xlabel("α: 0 = start, 1 = end")
    panels[0].set(ylabel="validation score (0–1)", ylim=(-0.03, 1.03))
    figure.legend(*_labels(panels), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def _labels(panels: Sequence[Axes]) -> tuple[list[Any], list[str]]:
    """Return the handles and labels of a legend that covers all panels, each label once."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    return list(found.values()), list(found)
