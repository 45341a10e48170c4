"""Figures of the lesson on evaluation."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from icft_lite.reporting.style import GENERAL, INK, MEDICAL, subplots
from icft_lite.statistics import binomial_interval


def scores_figure(found: Mapping[str, Mapping[str, pd.DataFrame]]) -> Figure:
    """Return a figure of exact match and option accuracy by model, a panel per suite, with 95 % Wilson intervals.

    found: {suite: {model: table}}; a table has a row per question with the columns exact, option (bool) and chance (1 ÷
    number of options). The dashed line is the chance level of option accuracy.
    """
    figure, panels = subplots((8.5, 3.4), len(found), sharey=True)
    for axes, (suite, by_model) in zip(panels, found.items(), strict=True):
        for score, offset, color in (("exact", -0.18, MEDICAL), ("option", 0.18, GENERAL)):
            for x, table in enumerate(by_model.values()):
                low, high = binomial_interval(int(table[score].sum()), len(table), method="wilson")
                axes.bar(x + offset, table[score].mean(), 0.34, color=color, label=score if not x else None)
                axes.plot([x + offset] * 2, [low, high], color=INK, linewidth=1.5)
        chance, n = table["chance"].mean(), len(table)
        axes.axhline(chance, color=INK, linestyle="--", linewidth=1, label="chance level (option)")
        axes.set(title=f"{suite} questions, n = {n}", ylim=(0, 1.05), xticks=range(len(by_model)))
        axes.set_xticklabels(list(by_model))
    panels[0].set_ylabel("share right (0–1); line: 95 % interval")
    panels[-1].legend(frameon=False, loc="upper left", fontsize=9)
    return figure
