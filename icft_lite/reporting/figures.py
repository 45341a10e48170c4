"""Figures of a run and of a comparison."""

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from icft_lite.reporting.labels import (
    MEDICAL_MEASURES,
    as_measure,
    column_names,
    method_label,
    run_title,
    scored_measures,
)
from icft_lite.reporting.style import DASHED, GENERAL, GREY, INK, LEVELS, MEDICAL, STYLES, subplots
from icft_lite.utils.io import to_plain

LOSS_PANELS = (
    ("fine_tune", "L_fine-tune: negative log-likelihood of the responses", "nats per response token", "#d55e00"),
    ("task", "L_task: agreement with the weak labels", "nats per response token", "#009e73"),
    ("consistency", "L_consistency: distance from the teacher on memory examples", "per memory token", "#0072b2"),
)
"""(key, title, unit, color) of each panel of `losses_figure`."""


def _in_brackets(report: Mapping[str, Any]) -> str:
    title = run_title(report)
    return f" ({title})" if title else ""


def _question_scores(report: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the scores of the base on the questions of each suite, {suite: {metric, value, n, …}}."""
    before = (report.get("scores") or {}).get("before") or {}
    return {name: before[name]["qa"] for name in ("general", "medical") if "qa" in (before.get(name) or {})}


# ---------------------------------------------------------------- one run


def losses_figure(report: Mapping[str, Any]) -> Figure:
    """Return a figure of the three losses by step, one panel each. A loss that is 0 or missing throughout is left out.

    Thin lines are values as logged, bold lines a running mean within each stage.
    """
    report = to_plain(report)
    losses = report["losses"]
    step, stage = np.array(losses["step"]), np.array([str(s) for s in losses.get("stage") or []])
    starts = [0, *(np.flatnonzero(stage[1:] != stage[:-1]) + 1)] if len(stage) == len(step) else [0]
    names = [entry.get("name") for entry in report.get("stages") or [] if entry.get("steps")]
    panels = [panel for panel in LOSS_PANELS if any(losses.get(panel[0]) or [])]
    figure, axes = subplots((8, 1.3 + 1.9 * max(1, len(panels))), rows=max(1, len(panels)), sharex=True)
    figure.suptitle(f"Training losses{_in_brackets(report)}", x=0.01, ha="left", fontsize=12)
    for axis, (key, title, unit, color) in zip(axes, panels, strict=False):
        values, width, high = np.array(losses[key], dtype=float), max(1, len(step) // 30), 1e-9
        for part in np.split(np.arange(len(step)), starts[1:]):
            part = part[~np.isnan(values[part])]
            if not len(part):
                continue
            kernel, ones = np.ones(min(width, len(part))), np.ones(len(part))
            mean = np.convolve(values[part], kernel, "same") / np.convolve(ones, kernel, "same")
            axis.plot(step[part], values[part], color=color, alpha=0.28, linewidth=0.8)
            axis.plot(step[part], mean, color=color, linewidth=2)
            high = max(high, mean.max())
        # A few single steps may be far above the rest; they must not flatten the curve.
        axis.set_ylim(0, 1.15 * max(high, np.nanquantile(values, 0.985)))
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
    axes[-1].set_xlabel("optimizer step (dashed: a stage begins; thin: as logged; bold: running mean)")
    axes[-1].set_xlim(step[0], max(step[-1], step[0] + 1))
    return figure


def forgetting_figure(report: Mapping[str, Any]) -> Figure:
    """Return a figure of general and medical scores of the base and after each stage.

    The dashed line is the base's general score. If the metric is a choice among options, dotted lines mark its chance
    level; exact match of free answers has none.
    """
    report = to_plain(report)
    matrix = np.array(report["accuracy_matrix"], dtype=float)
    columns, rows = column_names(report)
    figure, (axis,) = subplots((8, 4.4))
    x, levels = np.arange(len(matrix)), matrix[:, 1:]
    known = ~np.isnan(levels)
    mean = np.where(known, levels, 0).sum(axis=1) / np.where(known.any(axis=1), known.sum(axis=1), np.nan)
    if not known.any() and "medical_by_stage" in report:  # the user's data have no levels
        mean = np.array(report["medical_by_stage"], dtype=float)
    lines = [(levels[:, j], columns[j + 1], LEVELS[j % 3], 1.2, "^sD"[j % 3]) for j in range(levels.shape[1])]
    lines += [(mean, "medical, mean", MEDICAL, 2.8, "o"), (matrix[:, 0], "general", GENERAL, 2.8, "o")]
    if not np.isnan(matrix[0, 0]):
        axis.plot(x[[0, -1]], matrix[[0, 0], 0], color=GENERAL, **DASHED)
        axis.text(0.03, matrix[0, 0] + 0.015, f"base, general {matrix[0, 0]:.2f}", color=GENERAL, fontsize=9)
    ends = []
    for values, name, color, width, marker in lines:
        axis.plot(x, values, color=color, linewidth=width, marker=marker, markersize=3 + 1.3 * width)
        if not np.isnan(values[-1]):
            ends.append((values[-1], f"{name} {values[-1]:.2f}", color, "bold" if width > 2 else "normal"))
    below = 1.08  # from the top down, so that the labels of close values do not overlap
    for value, text, color, weight in sorted(ends, reverse=True):
        below = min(value + 0.05, below - 0.06)
        leader = {"arrowstyle": "-", "color": color, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkA": 1}
        axis.annotate(
            text,
            (x[-1], value),
            (x[-1] + 0.14, below),
            color=color,
            fontsize=9,
            fontweight=weight,
            va="center",
            arrowprops=leader,
        )
    scores = _question_scores(report)
    metrics = {str(score.get("metric", "accuracy")).replace("_", " ") for score in scores.values()}
    for chance, names in _chance_levels(scores).items():
        axis.axhline(chance, color=GREY, linewidth=1, linestyle=":")
        axis.text(0.03, chance + 0.015, f"chance level, {' and '.join(names)} {chance:.2f}", color=GREY, fontsize=9)
    sizes = " and ".join(f"{score['n']:,} {name}" for name, score in scores.items() if score.get("n"))
    axis.set_xticks(x, rows)
    axis.set_xlim(-0.1, len(x) - 1 + 0.22 * len(x))
    axis.set_ylim(min(-0.02, below - 0.04), 1.05)
    axis.set_xlabel(f"stage (test set: {sizes} questions)" if sizes else "stage")
    axis.set_ylabel(f"{metrics.pop() if len(metrics) == 1 else 'accuracy'} (0–1), test set")
    axis.set_title(f"General and medical scores after each stage{_in_brackets(report)}", loc="left")
    return figure


def _chance_levels(scores: Mapping[str, Mapping[str, Any]]) -> dict[float, list[str]]:
    """Return {chance level: suites} of the suites whose metric is a choice among options."""
    levels: dict[float, list[str]] = {}
    for name, score in scores.items():
        if str(score.get("metric")).startswith("accuracy") and score.get("option_chance") is not None:
            levels.setdefault(score["option_chance"], []).append(name)
    return levels


# ---------------------------------------------------------------- a comparison

Measured = tuple[str, dict[str, Any], dict[str, Any]]
"""(name of the method, retention, medical score), the measures as `as_measure` returns them."""


def _draw_methods(
    axis: Axes,
    methods: Sequence[Measured],
    base: float | None,
    limits: Sequence[tuple[float, float]],
) -> None:
    (left, right), (bottom, top) = limits
    clip: dict[str, Any] = dict(clip_on=left > 0 or bottom > 0)  # only the enlarged part has markers outside its axes
    positions = [(x["mean"], y["mean"]) for _, x, y in methods]
    for i, ((name, x, y), (color, marker)) in enumerate(zip(methods, STYLES * len(methods), strict=False)):
        covered = positions[i + 1 :].count(positions[i])  # equal methods: the first has the larger marker, below
        for seed_x, seed_y in zip(x["values"], y["values"], strict=False):
            axis.plot([x["mean"], seed_x], [y["mean"], seed_y], color=color, linewidth=0.8, alpha=0.6)
        axis.scatter(x["values"], y["values"], color=color, marker=marker, s=22, alpha=0.75, linewidths=0, **clip)
        axis.scatter(
            x["mean"],
            y["mean"],
            color=color,
            marker=marker,
            s=110 * (1 + 2 * covered),
            edgecolors="white",
            zorder=3,
            **clip,
            label=f"{name}\n{y['mean']:.2f} medical, {x['mean']:.2f} retained",
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
            label=f"base, not fine-tuned\n{base:.2f} medical, 1.00 retained",
        )
    axis.set_xlim(left, right)
    axis.set_ylim(bottom, top)


def _limits(values: Iterable[float]) -> tuple[float, float]:
    values = list(values)
    margin = 0.12 * (max(values) - min(values)) + 0.008
    return min(values) - margin, max(values) + margin


def comparison_figure(comparison: Mapping[str, Any]) -> Figure:
    """Return a figure of medical score against general retention, one large marker per method and a star for the base.

    The medical score is that of questions; without them, that of the first task in MEDICAL_MEASURES with scores. Small
    markers are single seeds. Where several methods are close to the best, a second panel enlarges that part. The
    numbers of test questions are shown if the comparison has `num_questions` {"general", "medical"}.
    """
    comparison = to_plain(comparison)
    entries = comparison["methods"]
    medical = next(iter(scored_measures(comparison)), "medical")
    methods = [
        (method_label(name, comparison), as_measure(entry, "retention"), as_measure(entry, medical))
        for name, entry in entries.items()
    ]
    methods = [(name, x, y) for name, x, y in methods if x["mean"] is not None and y["mean"] is not None]
    base = as_measure(comparison.get("base"), medical)["mean"]
    best_x = max((x["mean"] for _, x, _ in methods), default=0)
    best_y = max((y["mean"] for _, _, y in methods), default=0)
    close = [one for one in methods if one[1]["mean"] > best_x - 0.15 and one[2]["mean"] > best_y - 0.15]
    enlarge = len(close) > 1
    figure, axes = subplots((10 if enlarge else 8.6, 5.8), 1 + enlarge)
    right = max([1.0] + [value for _, x, _ in methods for value in (*x["values"], x["mean"])]) + 0.04
    _draw_methods(axes[0], methods, base, [(0, right), (0, 1.04)])
    axes[0].set_title("Medical score against general retention", loc="left")
    axes[0].set_ylabel(f"{MEDICAL_MEASURES[medical]}, test score (0–1)")
    if enlarge:
        (x0, x1), (y0, y1) = limits = [
            _limits(value for measure in axis for value in (*measure["values"], measure["mean"]))
            for axis in ([x for _, x, _ in close], [y for _, _, y in close])
        ]
        _draw_methods(axes[1], methods, base, limits)
        axes[1].set_yticks([tick for tick in axes[1].get_yticks() if y0 <= tick <= min(y1, 1)])  # no score is above 1
        axes[1].set_title("Methods close to the best, enlarged", loc="left")
        axes[0].plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color=GREY, linewidth=0.8)
    for axis in axes:
        axis.set_xlabel(
            "retention in the model's own replies (ratio to the base)"
            if comparison.get("chat")
            else "general knowledge retained (test score after ÷ before)"
        )
    figure.legend(
        *axes[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=4 if enlarge else 3,
        fontsize=9,
        frameon=False,
        labelcolor=INK,
        title=_conditions(comparison),
        title_fontsize=9,
    )
    return figure


def _conditions(comparison: Mapping[str, Any]) -> str | None:
    """Return the meaning of the markers: the seeds and, if known, the numbers of test questions."""
    seeds, parts = comparison.get("seeds") or [], []
    if len(seeds) > 1:
        parts.append(f"large marker: mean of {len(seeds)} seeds; small marker: one seed")
    elif seeds:
        parts.append(f"seed {seeds[0]}")
    counts = comparison.get("num_questions") or {}
    if chat := (comparison.get("chat") or {}).get("base"):
        parts.append(
            "test set: "
            + (f"{counts['medical']:,} medical questions, " if "medical" in counts else "")
            + f"{chat['free']['n']:,} general questions answered freely, {chat['instructions']['n']:,} instructions"
        )
    elif counts:
        questions = " and ".join(f"{counts[suite]:,} {suite}" for suite in ("general", "medical") if suite in counts)
        others = [f"{n:,} {name}" for name, n in counts.items() if name not in ("general", "medical")]
        parts.append("test set: " + ", ".join([f"{questions} questions", *others] if questions else others))
    return fill("; ".join(parts), 110) or None
