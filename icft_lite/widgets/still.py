"""The dashboard as a matplotlib figure, on white: for places where widgets do not run."""

import matplotlib
from matplotlib.figure import Figure

from icft_lite.reporting.figures import DASHED, GREY, INK, RC
from icft_lite.widgets.drawing import FILLS, LOSSES, curves, facts, running, sources
from icft_lite.widgets.progress import SOURCES


def progress_figure(progress):
    """What `drawing.dashboard_html` shows, as a Figure."""
    names = list(progress.losses) or ["loss"]
    below = [name for name, there in (("accuracy", progress.accuracy), ("memory", progress.memory)) if there]
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(10, 2.6 * (1 + bool(below)) + 0.4))
        parts = [[name for name in names for _ in below or [0]], [name for name in below for _ in names]]
        axes = figure.subplot_mosaic([part for part in parts if part])
        for name in names:
            _draw_loss(axes[name], name, progress)
        if "accuracy" in axes:
            _draw_accuracy(axes["accuracy"], progress)
        if "memory" in axes:
            _draw_memory(axes["memory"], progress)
        figure.suptitle(
            "  ·  ".join(f"{name}: {text}" for name, text in facts(progress).items() if text != "–"),
            fontsize=10,
            x=0.01,
            ha="left",
        )
    return figure


def _draw_loss(axis, name, progress):
    title, unit, colour = LOSSES.get(name, (name, "", "currentColor"))
    colour = INK if colour == "currentColor" else colour
    points = progress.losses[name].points if name in progress.losses else []
    mean = running(points, progress.starts)
    for some, width, alpha in ((points, 0.8, 0.35), (mean, 2, 1)):
        axis.plot(*(zip(*some) if some else ([], [])), color=colour, linewidth=width, alpha=alpha)
    for start in progress.starts[1:]:
        axis.axvline(start + 0.5, color=GREY, **DASHED)
    values = sorted(value for _, value in points)
    high = max(*(value for _, value in mean), values[int(0.97 * (len(values) - 1))], 1e-3) if values else 1 / 1.15
    axis.set_ylim(0, 1.15 * high)
    axis.set_title(title, loc="left")
    axis.set_xlabel("optimiser step")
    axis.set_ylabel(unit.split(",")[0])


def _draw_accuracy(axis, progress):
    for name, (colour, marker, values) in curves(progress).items():
        axis.plot(*(zip(*values) if values else ([], [])), color=colour, marker=marker, linewidth=2, label=name)
        tried = [(point["stage"] - 0.12, point[name]) for point in progress.points if name in point]
        axis.plot(*(zip(*tried) if tried else ([], [])), "o", color=colour, markerfacecolor="none", markersize=4)
    axis.set_xticks(range(len(progress.accuracy)), [str(row["at"]) for row in progress.accuracy])
    axis.set_ylim(-0.03, 1.03)
    axis.set_title(
        "Accuracy (0–1); hollow: points tried, validation" if progress.points else "Accuracy (0–1)", loc="left"
    )
    axis.legend(frameon=False, loc="center left")


def _draw_memory(axis, progress):
    left = 0
    for source, n in sources(progress):
        axis.barh(
            [0.5],
            [n],
            left=left,
            height=0.5,
            color=FILLS.get(source, GREY),
            edgecolor="white",
            label=f"{n:,} {SOURCES.get(source, source)}",
        )
        left += n
    axis.set_xlim(0, max(progress.room, left))
    axis.set_ylim(-1, 1)
    axis.set_yticks([])
    axis.set_xlabel(f"rows, of room for {max(progress.room, left):,}")
    axis.set_title("Long-term memory", loc="left")
    axis.legend(frameon=False, loc="lower left", fontsize=9)
