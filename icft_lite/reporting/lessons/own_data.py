"""Figure of the lesson on a model of your own: what two methods learned and forgot, with intervals."""

from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from icft_lite.reporting.style import DASHED, INK, STYLES, subplots


def draw_changes(
    changes: Mapping[str, Mapping[str, Any]],
    retention: Mapping[str, Mapping[str, float]],
    counts: Mapping[str, int],
    title: str,
) -> Figure:
    """Draw changes of scores from the base (left) and retention in replies (right), a marker for each method.

    changes: {method: {set: Bootstrap}}; retention: {method: {value, low, high}}; counts: items of each set, and of the
    chat suite (`chat`). Lines are 95 % intervals.
    """
    figure, axes = subplots((9, 3), 2)
    names = list(next(iter(changes.values())))
    for offset, (method, (color, shape)) in enumerate(zip(changes, STYLES)):
        shift = 0.2 * (offset - (len(changes) - 1) / 2)
        marker = dict(color=color, marker=shape, linestyle="none", capsize=3, label=method)
        found = [changes[method][name] for name in names]
        middle, low, high = ([getattr(one, key) for one in found] for key in ("difference", "low", "high"))
        _draw(axes[0], [n + shift for n in range(len(names))], middle, low, high, marker)
        one = retention[method]
        _draw(axes[1], [shift], [one["value"]], [one["low"]], [one["high"]], marker)
    right = f"retention in replies (ratio to the base), n = {counts['chat']}"
    for axis, at, label in zip(axes, (0, 1), ("score (0–1) minus the base's", right)):
        axis.axvline(at, color=INK, **DASHED)
        axis.set_xlabel(label)
        axis.invert_yaxis()
    axes[0].set_yticks(range(len(names)), [f"{name}\nn = {counts[name]}" for name in names])
    axes[1].set(yticks=[], ylim=(0.5, -0.5))
    axes[0].set_title(title, loc="left")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw(axis: Any, y: list[float], middle: list[float], low: list[float], high: list[float], style: Any) -> None:
    errors = [[m - a for m, a in zip(middle, low)], [b - m for m, b in zip(middle, high)]]
    axis.errorbar(middle, y, xerr=errors, **style)
