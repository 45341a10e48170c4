"""The figures of a run and of a comparison, as matplotlib Figure objects: no pyplot, so no global state.

White ground and dark ink whatever the reader's theme; colours that every kind of colour vision tells apart,
and a marker each besides.
"""

import io

import numpy as np

from icft_lite.utils.io import to_plain

TARGETS = {"retention": 0.90, "medical": 0.85}
"""Lines in the comparison figure, unless the comparison brings its own `targets` ({} for none)."""

LABELS = {
    "icft": "ICFT",
    "qlora": "plain QLoRA",
    "replay": "replay, no consistency",
    "no_ltm": "no long-term memory",
    "no_ring": "no ring, no promotion",
    "no_curriculum": "no curriculum",
    "no_task": "no L_task",
    "majority_vote": "ICFT, majority vote",
    "gold": "ICFT, gold labels",
}

INK, GREY, GENERAL, MEDICAL, GOAL = "#1a1a1a", "#6f6f6f", "#0072b2", "#d55e00", "#00694d"
LEVELS = ["#c27c00", "#8f5a00", "#5c3900"]
# After Okabe and Ito, darkened where white ground asks for it.
STYLES = [
    ("#0072b2", "o"),
    ("#d55e00", "s"),
    ("#009e73", "^"),
    ("#cc79a7", "D"),
    ("#a67c00", "v"),
    ("#56b4e9", "P"),
    ("#5d3a9b", "X"),
    ("#6f6f6f", "h"),
    ("#8b3a2f", "<"),
]
DASHED = {"linewidth": 1, "linestyle": (0, (4, 3))}
RC = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 11,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": GREY,
    "grid.color": "#e8e8e8",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
}


def _figure(rows, columns, size, **options):
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC):
        figure = Figure(figsize=size)
        return figure, figure.subplots(rows, columns, squeeze=False, **options).ravel()


def png(figure, dpi=160):
    """The figure as PNG bytes, the same for the same values: no date, no version inside."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()


def method_label(method):
    return LABELS.get(method, method)


def column_names(report):
    """Names of the accuracy matrix's columns and of its rows; two empty lists without a matrix."""
    matrix, stages = report.get("accuracy_matrix") or [], [s.get("name") for s in report.get("stages") or []]
    if not matrix:
        return [], []
    columns = ["general", "easy", "middle", "hard"][: len(matrix[0])]
    columns += [f"suite {i}" for i in range(len(columns), len(matrix[0]))]
    named = len(stages) == len(matrix) - 1
    return columns, ["base"] + [f"after {stages[i] if named else i + 1}" for i in range(len(matrix) - 1)]


def as_measure(entry, key):
    """{mean, min, max, values} of one measure, given as such, as a number, or not at all."""
    value = (entry or {}).get(key)
    if isinstance(value, dict):
        return {"values": [], **value}
    return {"mean": value, "min": value, "max": value, "values": [] if value is None else [value]}


def losses_figure(report):
    """The three losses by step, a panel each: thin as logged, bold a running mean within each stage."""
    report = to_plain(report)
    losses = report["losses"]
    step, stage = np.array(losses["step"]), np.array([str(s) for s in losses.get("stage") or []])
    starts = [0, *(np.flatnonzero(stage[1:] != stage[:-1]) + 1)] if len(stage) == len(step) else [0]
    names = [s.get("name") for s in report.get("stages") or [] if s.get("steps")]
    panels = [
        panel
        for panel in (
            ("fine_tune", "L_fine-tune: imitate the responses", "nats per response token", "#d55e00"),
            ("task", "L_task: agree with the weak labels", "nats per response token", "#009e73"),
            ("consistency", "L_consistency: stay with the teacher on memory rows", "per response token", "#0072b2"),
        )
        if any(v is not None for v in losses.get(panel[0]) or [])
    ]
    figure, axes = _figure(max(1, len(panels)), 1, (8, 1 + 1.9 * max(1, len(panels))), sharex=True)
    for axis, (key, title, unit, colour) in zip(axes, panels, strict=False):
        values, width, top = np.array(losses[key], dtype=float), max(1, len(step) // 30), 1e-9
        for part in np.split(np.arange(len(step)), starts[1:]):
            part = part[~np.isnan(values[part])]
            if not len(part):
                continue
            kernel = np.ones(min(width, len(part)))
            ones = np.ones(len(part))
            mean = np.convolve(values[part], kernel, "same") / np.convolve(ones, kernel, "same")
            axis.plot(step[part], values[part], color=colour, alpha=0.28, linewidth=0.8)
            axis.plot(step[part], mean, color=colour, linewidth=2)
            top = max(top, mean.max())
        # A few single steps may lie far above the rest; they must not flatten it.
        axis.set_ylim(0, 1.15 * max(top, np.nanquantile(values, 0.985)))
        axis.set_title(title, loc="left", pad=18 if axis is axes[0] else 6)
        axis.set_ylabel(unit)
        for i in starts[1:]:
            axis.axvline(step[i], color=GREY, **DASHED)
    for n, i in enumerate(starts if len(starts) > 1 else []):
        name = names[n] if len(names) == len(starts) else f"stage {stage[i]}"
        crowded = n and step[i] - step[starts[n - 1]] < 0.07 * (step[-1] - step[0])
        axes[0].annotate(
            name,
            (step[i], 0.92 if crowded else 1.02),
            xycoords=("data", "axes fraction"),
            color=GREY,
            fontsize=9,
            xytext=(4 if crowded else 0, 0),
            textcoords="offset points",
        )
    axes[-1].set_xlabel("optimiser step (dashed: a stage begins; bold: running mean)")
    axes[-1].set_xlim(step[0], max(step[-1], step[0] + 1))
    return figure


def forgetting_figure(report):
    """General and medical accuracy of the base and after each stage; the base's general score is the line."""
    report = to_plain(report)
    matrix = np.array(report["accuracy_matrix"], dtype=float)
    columns, rows = column_names(report)
    figure, (axis,) = _figure(1, 1, (8, 4.2))
    x, levels = np.arange(len(matrix)), matrix[:, 1:]
    known = ~np.isnan(levels)
    mean = np.where(known, levels, 0).sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)
    lines = [(levels[:, j], columns[j + 1], LEVELS[j % 3], 1.2, "^sD"[j % 3]) for j in range(levels.shape[1])]
    lines += [(mean, "medical, mean", MEDICAL, 2.8, "o"), (matrix[:, 0], "general", GENERAL, 2.8, "o")]
    axis.plot(x[[0, -1]], matrix[[0, 0], 0], color=GENERAL, **DASHED)
    axis.text(0.03, matrix[0, 0] + 0.015, f"base, general {matrix[0, 0]:.2f}", color=GENERAL, fontsize=9)
    ends = []
    for values, name, colour, width, marker in lines:
        axis.plot(x, values, color=colour, linewidth=width, marker=marker, markersize=3 + 1.3 * width)
        if not np.isnan(values[-1]):
            ends.append((values[-1], f"{name} {values[-1]:.2f}", colour, "bold" if width > 2 else "normal"))
    place = 1.08  # from the top down, so that names of nearby ends do not lie on each other
    for value, text, colour, weight in sorted(ends, reverse=True):
        place = min(value + 0.05, place - 0.06)
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkA": 1}
        axis.annotate(
            text,
            (x[-1], value),
            (x[-1] + 0.14, place),
            color=colour,
            fontsize=9,
            fontweight=weight,
            va="center",
            arrowprops=leader,
        )
    axis.set_xticks(x, rows)
    axis.set_xlim(-0.1, len(x) - 1 + 0.2 * len(x))
    axis.set_ylim(min(-0.02, place - 0.04), 1.05)
    axis.set_ylabel("accuracy (0–1), held-out questions")
    axis.set_title("What is learned, and what is kept", loc="left")
    return figure


def _draw_methods(axis, points, targets, base, limits):
    (left, right), (bottom, top) = limits
    clip = dict(clip_on=left > 0 or bottom > 0)  # only the enlarged corner has points outside it
    if {"retention", "medical"} <= set(targets):
        axis.fill_between([targets["retention"], 9], targets["medical"], 9, color=GOAL, alpha=0.08, lw=0)
    if "retention" in targets:
        axis.axvline(targets["retention"], color=GOAL, **DASHED)
    if "medical" in targets:
        axis.axhline(targets["medical"], color=GOAL, **DASHED)
    for (name, x, y), (colour, marker) in zip(points, STYLES * len(points), strict=False):
        for seed_x, seed_y in zip(x["values"], y["values"], strict=False):
            axis.plot([x["mean"], seed_x], [y["mean"], seed_y], color=colour, linewidth=0.8, alpha=0.6)
        axis.scatter(x["values"], y["values"], color=colour, marker=marker, s=22, alpha=0.75, linewidths=0, **clip)
        axis.scatter(
            x["mean"],
            y["mean"],
            color=colour,
            marker=marker,
            s=110,
            edgecolors="white",
            zorder=3,
            **clip,
            label=f"{method_label(name)}\n{y['mean']:.2f} medical, {x['mean']:.2f} kept",
        )
    if base is not None:
        axis.scatter(
            1.0,
            base,
            color=INK,
            marker="*",
            s=170,
            zorder=3,
            **clip,
            label=f"base, untrained\n{base:.2f} medical, 1.00 kept",
        )
    axis.set_xlim(left, right)
    axis.set_ylim(bottom, top)


def comparison_figure(comparison):
    """General retention against medical accuracy: a marker a method, small ones its seeds, the base a star.

    Where several methods crowd the best corner, a second panel shows that corner larger.
    """
    comparison = to_plain(comparison)
    targets, seeds = comparison.get("targets", TARGETS) or {}, len(comparison.get("seeds") or [])
    points = [
        (name, as_measure(entry, "retention"), as_measure(entry, "medical"))
        for name, entry in comparison["methods"].items()
    ]
    points = [p for p in points if p[1]["mean"] is not None and p[2]["mean"] is not None]
    base = as_measure(comparison.get("base"), "medical")["mean"]
    best = [max((p[i]["mean"] for p in points), default=0) for i in (1, 2)]
    close = [p for p in points if p[1]["mean"] > best[0] - 0.15 and p[2]["mean"] > best[1] - 0.15]
    zoom = len(close) > 1
    figure, axes = _figure(1, 1 + zoom, (10 if zoom else 7, 5.6))
    right = max([1.0] + [v for _, x, _ in points for v in (*x["values"], x["mean"])]) + 0.04
    _draw_methods(axes[0], points, targets, base, [(0, right), (0, 1.04)])
    style = {"color": GOAL, "fontsize": 9}
    if "retention" in targets:
        axes[0].text(
            targets["retention"] - 0.012,
            0.03,
            f"target: keep {targets['retention']:.2f}",
            rotation=90,
            ha="right",
            **style,
        )
    if "medical" in targets:
        axes[0].text(0.015, targets["medical"] - 0.015, f"target: medical {targets['medical']:.2f}", va="top", **style)
    axes[0].set_title("Learning medicine without forgetting", loc="left")
    axes[0].set_ylabel("medical accuracy (0–1), held-out questions")
    if zoom:
        spans = []
        for i, key in ((1, "retention"), (2, "medical")):
            values = [v for p in close for v in (*p[i]["values"], p[i]["mean"])]
            values += [targets[key]] if key in targets and min(values) - targets[key] < 0.1 else []
            margin = 0.12 * (max(values) - min(values)) + 0.008
            spans.append((min(values) - margin, max(values) + margin))
        _draw_methods(axes[1], points, targets, base, spans)
        axes[1].set_title("The upper right corner, larger", loc="left")
        (x0, x1), (y0, y1) = spans
        axes[0].plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=GREY, linewidth=0.8)
    for axis in axes:
        axis.set_xlabel("general knowledge kept (score after ÷ before)")
    key = f"large marker: mean of {seeds} seeds, small: one seed each" if seeds > 1 else None
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4 if zoom else 3,
        fontsize=9,
        frameon=False,
        labelcolor=INK,
        title=key,
        title_fontsize=9,
    )
    return figure
