"""Figures of the lesson on evidence."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from icft_lite.reporting.style import GREY, INK, STYLES, subplots
from icft_lite.statistics import mean_interval


def runs_figure(runs: pd.DataFrame, base: Mapping[str, float], labels: Mapping[str, str]) -> Figure:
    """Return a figure of each run's scores by method, with t-intervals over seeds; a panel per score.

    runs: a row per run, with columns method, medical and general. base: the base's scores, dotted. labels: {method:
    display name}, from top to bottom.
    """
    figure, panels = subplots((10, 0.5 * len(labels) + 1.6), 2, sharey=True)
    for axis, measure in zip(panels, ("medical", "general"), strict=True):
        for i, (method, (color, marker)) in enumerate(zip(labels, STYLES, strict=False)):
            values = runs[measure][runs["method"] == method]
            interval = mean_interval(values)
            ends = np.clip([interval.low, interval.high], 0, 1)  # NaN for one seed: nothing is drawn
            axis.plot(ends, [i, i], color=color, linewidth=2)
            axis.plot(values, [i] * len(values), marker, color=color, markersize=6, alpha=0.8)
        axis.axvline(base[measure], color=INK, linewidth=1, linestyle=":")
        axis.set(xlim=(-0.02, 1.02), xlabel=f"{measure} exact match (0–1); dotted: base")
    panels[0].set_yticks(range(len(labels)), list(labels.values()))
    panels[0].invert_yaxis()
    panels[0].set_title("tiny: each run, with 95 % t-intervals over seeds", loc="left")
    return figure


def power_figure(
    visible: Callable[[float, np.ndarray], np.ndarray], pairs: Mapping[str, tuple[float, int]], test: str
) -> Figure:
    """Return a figure of the smallest visible difference over the number of questions.

    visible: function of d, the share of questions on which two models differ, and of the number of questions. pairs:
    {pair of methods: (d, number of questions)}, drawn as marks; test: what they were measured on.
    """
    figure, (axis,) = subplots((7.5, 4.2))
    n = np.geomspace(50, 20000, 100)
    for d, style, name in (
        (0.5, "--", "unpaired, accuracy 0.5 (as if d = 0.5)"),
        (0.2, "-", "paired, d = 0.2"),
        (0.05, ":", "paired, d = 0.05"),
    ):
        axis.plot(n, 100 * visible(d, n), style, color=INK, linewidth=2, label=name)
    for (name, (d, size)), (color, marker) in zip(pairs.items(), STYLES[1:], strict=False):
        place = (size, 100 * float(visible(d, np.array(size))))
        axis.plot(*place, marker, color=color, markersize=8, label=f"{test}: {name}")
    axis.set(xscale="log", xlabel="test questions", ylabel="smallest visible difference (points)", ylim=(0, 20))
    axis.legend(frameon=False, fontsize=8)
    axis.set_title("The difference that 4 of 5 such studies would find", loc="left")
    return figure


def forest_figure(results: pd.DataFrame, labels: Mapping[str, str], tests: Sequence[str]) -> Figure:
    """Return a forest plot of ICFT minus each method, a panel per test, in points.

    results: a row per test and method, with columns test, method, difference, low, high (over questions), seeds_low,
    seeds_high, verdict. labels: {method: display name}, from top to bottom. Filled marks: the verdict is clear.
    """
    figure, panels = subplots((11, 0.55 * len(labels) + 1.9), len(tests), sharey=True)
    for axis, test in zip(panels, tests, strict=True):
        part = results[results["test"] == test].set_index("method")
        for i, (method, (color, marker)) in enumerate(zip(labels, STYLES[1:], strict=False)):
            r = part.loc[method]
            axis.plot([100 * r.seeds_low, 100 * r.seeds_high], [i + 0.2] * 2, color=GREY, linewidth=1.5)
            axis.plot([100 * r.low, 100 * r.high], [i, i], color=color, linewidth=3)
            fill = color if r.verdict.startswith("clear") else "white"
            point = (100 * r.difference, i)
            axis.plot(*point, marker, color=fill, markersize=8, markeredgecolor=color, markeredgewidth=1.5)
        axis.axvline(0, color=INK, linewidth=1.2)
        axis.set_xscale("symlog", linthresh=5, linscale=1.5)
        axis.set_xticks([-50, -5, 0, 5, 50], ["−50", "−5", "0", "5", "50"])
        axis.minorticks_off()
        axis.set(xlim=(-200, 200), xlabel="ICFT minus the method (points)")
        axis.set_title(f"tiny, {test}", loc="left")
    panels[0].set_yticks(range(len(labels)), list(labels.values()))
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    return figure
