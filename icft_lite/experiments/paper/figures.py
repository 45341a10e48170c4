"""Figures of the evidence study, from its records. Each can be read alone."""

from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from icft_lite.experiments.paper.analysis import MIN_RETENTION, Records, ablation_scores, choose_point, difference
from icft_lite.experiments.paper.arms import Arm
from icft_lite.experiments.paper.tables import ablations_of, arms_of
from icft_lite.reporting.style import DASHED, GREY, INK, RC, STYLES
from icft_lite.statistics import mean_interval

LEGEND: dict[str, Any] = dict(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.01, 0.5))
"""Right of the axes, where it hides no point."""
CLOSE = 0.12
"""A method that retains enough is close to the best one if its medical score is less than this below."""
CROWD = 5
"""So many methods close to the best are distinguishable without a second panel."""


def plane_figure(records: Records, title: str) -> Figure:
    """Return the learning–retention plane: the base, the α curve of each method, and the point that the rule chooses.

    A curve is the mean over splits at each α; the cross at the chosen point has 95 % t-intervals over splits. Ablations
    are left out: they have a figure of their own. Where more than CROWD chosen points are close to the best, a second
    panel enlarges them.
    """
    chosen = {
        arm.name: np.array([_place(choose_point(run)) for run in records[arm.name].values()])
        for arm, _ in _methods(records)
    }
    means = {name: places.mean(axis=0) for name, places in chosen.items()}
    best = max((mean[0] for mean in means.values() if mean[1] >= MIN_RETENTION), default=0.0)
    close = [name for name, (x, y) in means.items() if x > best - CLOSE and y >= MIN_RETENTION]
    enlarge = len(close) > CROWD
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9.6, 8.0 if enlarge else 4.8))
        panels = figure.subplots(1 + enlarge, height_ratios=(3, 2)[: 1 + enlarge], squeeze=False)[:, 0]
        axes = panels[0]
        for arm, style in _methods(records):
            runs, (x, y) = list(records[arm.name].values()), means[arm.name]
            curve = np.mean([[_place(point) for point in _by_alpha(run)] for run in runs], axis=0)
            axes.plot(*curve.T, **style, markersize=3, linewidth=1, alpha=0.6)
            xerr, yerr = (_half_width(chosen[arm.name][:, axis]) for axis in (0, 1))
            for panel in panels if arm.name in close else panels[:1]:
                panel.errorbar(x, y, yerr=yerr, xerr=xerr, **style, markersize=9, label=arm.label)
        if "base" in records:
            base = np.mean([_place(run["curve"][0]) for run in records["base"].values()], axis=0)
            axes.plot(*base, "x", color=INK, markersize=8, label="base, not fine-tuned")
        for panel in panels:
            panel.axhline(
                MIN_RETENTION, color=GREY, label=f"retention of {MIN_RETENTION}, required on validation", **DASHED
            )
            panel.set(xlabel="medical test score", ylabel="retention of general abilities, test")
        axes.set_title(title)
        if enlarge:
            panels[1].set_title("the same, enlarged: methods close to the best")
        axes.legend(title="large: α chosen on validation\nbars: 95 % intervals", title_fontsize=8, **LEGEND)
    return figure


def _methods(records: Records) -> Iterator[tuple[Arm, dict[str, Any]]]:
    """Yield each method that was trained, ICFT's ablations left out, with a color and marker that no other one has."""
    arms = [arm for arm in arms_of(records) if arm.name != "base" and not arm.ablates]
    for number, arm in enumerate(arms):
        again, (color, marker) = number // len(STYLES), STYLES[number % len(STYLES)]
        yield arm, dict(color=color, marker=marker, mfc=(color, "white", "#cccccc")[again])


def _by_alpha(record: Any) -> list[Any]:
    return sorted(record["curve"], key=lambda point: point["alpha"])


def _place(point: Any) -> tuple[float, float]:
    return point["test"]["medical"], point["test"]["retention"]


def _half_width(values: np.ndarray) -> float:
    found = mean_interval(values)
    return 0.0 if len(values) < 2 else found.high - found.mean


def forest_figure(records: Records, title: str, test_per_train: float = 0.0) -> Figure:
    """Return ICFT minus each ablation in medical score at the chosen α, with 95 % t-intervals over splits.

    test_per_train: above 0, thin lines show intervals that are corrected for training data that splits share.
    """
    arms = ablations_of(records)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(7.2, 1.2 + 0.34 * max(1, len(arms))))
        axes = figure.subplots()
        for row, arm in enumerate(arms):
            if both := ablation_scores(records, arm.name, "medical"):
                found = difference(*both)
                if test_per_train:
                    corrected = mean_interval(np.subtract(*both), test_per_train=test_per_train)
                    axes.plot([corrected.low, corrected.high], [row, row], color=INK, linewidth=0.8)
                axes.plot([found.low, found.high], [row, row], color=INK, linewidth=2.2 if test_per_train else 1.2)
                axes.plot(found.mean, row, "o", color=STYLES[0][0], markersize=6)
        axes.axvline(0, color=GREY, **DASHED)
        thin = "; thin: corrected\nfor training data that splits share" if test_per_train else ""
        lines = f"lines: 95 % intervals{thin}"
        axes.set_yticks(range(len(arms)), [arm.label for arm in arms], fontsize=9)
        axes.set_ylim(len(arms) - 0.5, -0.5)
        axes.set(
            xlabel=f"ICFT minus the ablation, medical test score\n(right: ICFT is better; {lines})",
            title=title,
        )
    return figure


def kl_figure(records: Records, title: str) -> Figure:
    """Return KL(base ‖ tuned) against forgetting (1 − retention), one point for each method, split and α.

    Ablations are left out.
    """
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(9.6, 4.4))
        axes = figure.subplots()
        for arm, style in _methods(records):
            points = [point["test"] for run in records[arm.name].values() for point in run["curve"]]
            kl, lost = [one["kl"] for one in points], [1 - one["retention"] for one in points]
            axes.plot(kl, lost, **style, markersize=4, linestyle="", alpha=0.7, label=arm.label)
        axes.set_xscale("log")
        axes.set(xlabel="KL(base ‖ tuned) on general test data, nats per token (log scale)")
        axes.set(ylabel="forgetting: 1 − retention", title=title)
        axes.legend(**LEGEND)
    return figure


def cost_figure(records: Records, title: str) -> Figure:
    """Return the seconds of a run of each method, median over splits."""
    arms = arms_of(records)
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(7.2, 1.2 + 0.3 * len(arms)))
        axes = figure.subplots()
        seconds = [float(np.median([run["cost"]["seconds"] for run in records[arm.name].values()])) for arm in arms]
        bars = axes.barh([arm.label for arm in arms], seconds, color=STYLES[0][0])
        axes.bar_label(bars, fmt="%.0f", padding=3, fontsize=8)
        axes.invert_yaxis()
        axes.set(xlabel="seconds on one thread (median over splits)", title=title)
    return figure
