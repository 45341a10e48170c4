"""Figures of the lesson on forgetting."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from icft_lite.reporting.style import GENERAL, GREY, INK, LEVELS, MEDICAL, subplots

LOOKS = ((MEDICAL, "s-", (-7, -13)), (GENERAL, "o-", (7, 4)))
"""(color, style, offset of labels in points) of the first and the second path."""


def course_figure(curve: pd.DataFrame, levels: Sequence[str], stage_steps: int) -> Figure:
    """Return a figure of scores over optimizer steps; the dotted line is the general score at the start.

    curve: the index is the number of steps, the columns `general` and `levels` are scores. stage_steps: steps per
    stage; there is a stage for each level.
    """
    figure, (axis,) = subplots((8, 4))
    lines = [("general", GENERAL, "o-", 2.6)]
    lines += [(level, LEVELS[i], ("^", "s", "D")[i] + "--", 1.6) for i, level in enumerate(levels)]
    for name, color, style, width in lines:
        axis.plot(curve.index, curve[name].astype(float), style, color=color, linewidth=width, label=name)
    axis.axhline(float(curve["general"].iloc[0]), color=GENERAL, linewidth=1, linestyle=":")
    for number, level in enumerate(levels):
        axis.axvline(number * stage_steps, color=GREY, linewidth=1)
        axis.text(number * stage_steps + 2, 1.06, f"trained on: {level}", color=GREY, fontsize=9)
    axis.set(xlabel="optimizer steps (dotted: the base's general score)", ylim=(-0.03, 1.14))
    axis.set_ylabel("exact match (0–1), test questions")
    figure.legend(*axis.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
    axis.set_title("Scores during plain fine-tuning in three stages, seed 0", loc="left")
    return figure


def matrix_figure(matrix: np.ndarray, columns: Sequence[str]) -> Figure:
    """Return a figure of an accuracy matrix that fills row by row, a panel per row; the cell just taught is marked."""
    figure, panels = subplots((3 * len(matrix), 3.2), len(matrix), sharey=True)
    rows = ["base", *(f"after {name}" for name in columns[1:])]
    for stage, axis in enumerate(panels):
        shown = np.where(np.arange(len(matrix))[:, None] <= stage, matrix, np.nan)
        axis.imshow(shown, cmap="Blues", vmin=0, vmax=1.2)
        for (i, j), value in np.ndenumerate(shown[: stage + 1]):
            color, weight = "white" if value > 0.7 else INK, "bold" if i == j else "normal"
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", color=color, fontweight=weight)
        axis.add_patch(Rectangle((stage - 0.5, stage - 0.5), 1, 1, fill=False, edgecolor=MEDICAL, linewidth=2.5))
        axis.set_xticks(range(len(columns)), columns)
        axis.set_title(rows[stage], loc="left")
        axis.grid(False)
    panels[0].set(xlabel="test questions", ylabel="model")
    panels[0].set_yticks(range(len(rows)), rows)
    return figure


def topics_figure(retained: pd.DataFrame, topics: pd.DataFrame, kinds: Mapping[str, str]) -> Figure:
    """Return a figure of the retention of facts and rules over steps, and of each topic early and at the end.

    retained: the index is the number of steps, columns `fact` and `rule`; topics: the index is the topic, columns
    `early` and `end`; kinds: {topic: "fact" or "rule"}.
    """
    figure, (left, right) = subplots((11, 4.4), 2, width_ratios=[1, 1.1])
    for kind, color, style in (("fact", MEDICAL, "o-"), ("rule", GENERAL, "s--")):
        left.plot(retained.index, retained[kind], style, color=color, linewidth=2, label=f"{kind}s")
        mine = [i for i, name in enumerate(topics.index) if kinds[name] == kind]
        right.barh(mine, topics["end"].iloc[mine], color=color, height=0.7)
        right.plot(topics["early"].iloc[mine], mine, "|", color=color, markersize=11, markeredgewidth=2)
    left.set(xlabel="optimizer steps", ylabel="retention: share of the base's score", ylim=(-0.03, 1.08))
    left.legend(frameon=False)
    right.set_yticks(range(len(topics)), topics.index, fontsize=8)
    right.set(xlabel="retention: bar after three stages, tick after 10 steps", xlim=(0, 1.15))
    left.set_title("Facts and rules", loc="left")
    right.set_title("Topic by topic", loc="left")
    return figure


def plane_figure(paths: Mapping[str, pd.DataFrame]) -> Figure:
    """Return a figure of learning against retention, a path over α for each run; dashed: a fixed exchange rate.

    paths: {run: scores}, at most two; the index is α from 0, the base, and the columns are `general` and `hard`.
    """
    figure, (axis,) = subplots((7, 4.6))
    for (name, points), (color, style, away) in zip(paths.items(), LOOKS, strict=False):
        axis.plot(points.general, points.hard, style, color=color, linewidth=2, label=name)
        side = "right" if away[0] < 0 else "left"
        for alpha in points.index[1:]:
            place = (points.general[alpha], points.hard[alpha])
            axis.annotate(f"{alpha:g}", place, away, textcoords="offset points", color=color, fontsize=9, ha=side)
        axis.plot(points.general.iloc[[0, -1]], points.hard.iloc[[0, -1]], "--", color=color, linewidth=1)
    axis.plot(points.general.iloc[0], points.hard.iloc[0], "*", color=INK, markersize=16, label="base")
    axis.set(xlabel="general exact match (0–1): retained", ylabel="hard medical exact match (0–1): learned")
    axis.set(xlim=(-0.06, 1.02), ylim=(-0.02, None))
    axis.legend(frameon=False)
    axis.set_title("Learning against retention, seed 0; numbers are α", loc="left")
    return figure


def divergence_figure(paths: Mapping[str, pd.DataFrame]) -> Figure:
    """Return a figure of the general score lost against KL(base ‖ tuned), on medical and on general questions.

    paths: as in `plane_figure`, with the columns `medical_kl` and `general_kl` in nats per token.
    """
    figure, panels = subplots((10, 4), 2, sharey=True)
    for axis, key, title in zip(
        panels, ("medical_kl", "general_kl"), ("On the new task", "On general questions"), strict=True
    ):
        for (name, points), (color, style, _) in zip(paths.items(), LOOKS, strict=False):
            lost = points.general.iloc[0] - points.general
            axis.plot(points[key], lost, style, color=color, linewidth=2, label=name)
        axis.set_xlabel("KL(base ‖ tuned), nats per token")
        axis.set_title(title, loc="left")
    panels[0].set_ylabel("general score lost (0–1)")
    panels[0].legend(frameon=False)
    return figure
