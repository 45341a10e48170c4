"""Figures of the lesson on the curriculum."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from icft_lite.data.schema import LEVELS as LEVEL_NAMES
from icft_lite.reporting.style import DASHED, GREY, MEDICAL, STYLES, subplots
from icft_lite.statistics import Interval

Surprises = Sequence[tuple[str, float]]
"""(token, −log p in nats) of each token of a response."""


def surprise_figure(panels: Mapping[str, tuple[Surprises, Surprises]]) -> Figure:
    """Return bars of the surprise of each token. panels: title → the tokens with the prompt, and without it."""
    figure, all_axes = subplots((10, 3.4), len(panels))
    for axes, (title, (given, bare)) in zip(all_axes, panels.items(), strict=True):
        x = np.arange(len(given))
        axes.bar(x - 0.2, [nats for _, nats in bare], 0.38, color=GREY, label="without the prompt")
        axes.bar(x + 0.2, [nats for _, nats in given], 0.38, color=MEDICAL, label="with the prompt")
        names = ["(end)" if token.startswith("<") else token.strip() for token, _ in given]
        axes.set_xticks(x, names, rotation=30, ha="right")
        axes.set_ylabel("surprise, −log p (nats)")
        axes.set_title(title, loc="left", fontsize=10)
    all_axes[0].legend(frameon=False)
    return figure


def topics_figure(examples: Sequence[Mapping[str, str]], difficulty: np.ndarray) -> Figure:
    """Return a figure of the difficulty [n] of each example, a line per topic, colored by level."""
    order = {(LEVEL_NAMES.index(example["level"]), example["topic"]) for example in examples}
    topics = sorted(order, reverse=True)
    jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(examples))
    figure, (axes,) = subplots((8, 4.6))
    for y, (level, topic) in enumerate(topics):
        mine = [i for i, example in enumerate(examples) if example["topic"] == topic]
        color, marker = STYLES[level]
        axes.plot(difficulty[mine], y + jitter[mine], marker, color=color, markersize=4, alpha=0.6)
        axes.plot(np.mean(difficulty[mine]), y, "|", color=color, markersize=22, markeredgewidth=2.5)
    axes.set_yticks(range(len(topics)), [f"{name.replace('_', ' ')} ({LEVEL_NAMES[level]})" for level, name in topics])
    axes.set_xlabel("difficulty: mean rank of loss, length, entropy (0–1); bar: mean of the topic")
    axes.set_title(f"Levels given by people, difficulty by measurement, n = {len(examples)}", loc="left")
    return figure


def competence_figure(t: np.ndarray, curves: Mapping[float, Sequence[float]]) -> Figure:
    """Return a figure of competence over progress t. curves: c₀ → c(t); dashed: a constant rate from the second c₀."""
    figure, (axes,) = subplots((6.4, 3.4))
    for (start, values), (color, _) in zip(curves.items(), STYLES, strict=False):
        axes.plot(t, values, color=color, linewidth=2, label=f"c₀ = {start}")
    start = list(curves)[1]
    axes.plot(t, start + (1 - start) * t, color=GREY, label=f"constant rate, from {start}", **DASHED)
    axes.set(xlabel="progress of the stage, t (0–1)", ylabel="competence c(t):\nshare available (0–1)", ylim=(0, 1.05))
    axes.set_title("Many examples become available at first, fewer later", loc="left")
    axes.legend(frameon=False)
    return figure


def density(
    drawn: Sequence[int], position: Mapping[int, int], times: Sequence[int], edges: Sequence[int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return how often examples were drawn in cells of time and position, as a multiple of drawing at random.

    drawn: indices of examples, in the order of the draws. position: index → 0…n − 1. times: the draws at which stages
    begin, and their number. edges: the positions at which levels begin, and n. The result is (edges in time, edges in
    position, density [positions, times]); no cell spans two stages or two levels.
    """
    x, y = _cell_edges(times, 60), _cell_edges(edges, 12)
    counts, _, _ = np.histogram2d(np.arange(len(drawn)), [position[i] for i in drawn], bins=(x, y))
    return x, y, counts.T / np.outer(np.diff(y), np.diff(x)) * edges[-1]


def _cell_edges(bounds: Sequence[int], width: float) -> np.ndarray:
    """Return edges of cells that are about `width` wide and include all bounds."""
    spans = zip(bounds, bounds[1:], strict=False)
    parts = [np.linspace(a, b, max(1, round((b - a) / width)), endpoint=False) for a, b in spans]
    return np.concatenate([*parts, bounds[-1:]])


def density_figure(cells: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]], edges: Sequence[int]) -> Figure:
    """Return a panel for each order. cells: order → the result of `density`; edges: positions where levels begin."""
    figure, panels = subplots((10, 7), 2, 2, sharex=True, sharey=True)
    for axes, (order, found) in zip(panels, cells.items(), strict=True):
        shown = axes.pcolormesh(*found, cmap="Blues", vmin=0, vmax=5)
        for bound in edges[1:-1]:
            axes.axhline(bound, color=MEDICAL, linewidth=1)
        middles = (np.array(edges[:-1]) + edges[1:]) / 2
        axes.set_yticks(middles, LEVEL_NAMES, rotation=90, va="center")
        axes.set_title(order, loc="left")
        axes.grid(False)
    figure.supxlabel("draws so far", fontsize=10)
    figure.supylabel("position of the example, easiest at the bottom", fontsize=10)
    figure.colorbar(shown, ax=panels, label="how often drawn (1: as at random)", shrink=0.6)
    return figure


def draws_figure(draws: Mapping[str, np.ndarray]) -> Figure:
    """Return a figure of the draws per example of each tenth of a stage. draws: order → [10], easiest tenth first."""
    figure, (axes,) = subplots((6.4, 3.2))
    for (name, values), (color, marker) in zip(draws.items(), STYLES, strict=False):
        axes.plot(np.arange(10) / 10 + 0.05, values, color=color, marker=marker, linewidth=2, label=name)
    axes.set(xlabel="position of the example in its stage (0 easiest, 1 hardest)", ylabel="draws per example")
    axes.set(xlim=(0, 1), ylim=(0, None))
    axes.set_title("Pacing changes how often examples are drawn", loc="left")
    axes.legend(frameon=False)
    return figure


def gains_figure(gains: Mapping[tuple[str, str], Interval], n: int) -> Figure:
    """Return intervals of gains in points. gains: (arm, setting) → mean and interval over n seeds."""
    figure, (axes,) = subplots((7, 3.2))
    settings = list(dict.fromkeys(setting for _, setting in gains))
    names = list(gains)[::-1]
    for y, name in enumerate(names):
        color, marker = STYLES[settings.index(name[1])]
        axes.plot([gains[name].low, gains[name].high], [y, y], color=color, linewidth=3)
        axes.plot(gains[name].mean, y, marker, color=color, markersize=8)
    axes.axvline(0, color=GREY, linewidth=1)
    axes.set_yticks(range(len(names)), [", ".join(name) for name in names])
    axes.set_xlabel(f"accuracy gained over random (points); bar: 95 % interval, {n} seeds")
    axes.set_title("Order, or weights?", loc="left")
    return figure
