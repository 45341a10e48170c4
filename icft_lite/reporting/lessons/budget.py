"""Figure of the lesson on a model of your own: predicted memory by part."""

from matplotlib.figure import Figure
from pandas import DataFrame

from icft_lite.reporting.style import DASHED, INK, subplots

COLORS = ("#0072b2", "#56b4e9", "#009e73", "#a67c00", "#cc79a7", "#d55e00", "#6f6f6f")


def memory_bars(table: DataFrame, usable: float, title: str) -> Figure:
    """Draw a bar for each model, divided into parts. table: GiB, a row for each part; usable: GiB of the GPU."""
    figure, (axes,) = subplots((8, 3))
    left = 0 * table.iloc[0]
    for (part, row), color in zip(table.iterrows(), COLORS):
        axes.barh(table.columns, row, left=left, color=color, edgecolor="white", linewidth=0.8, label=part)
        left = left + row
    axes.axvline(usable, color=INK, **DASHED)
    axes.text(usable + 0.1, 0.05, "usable\non a T4", color=INK)
    axes.set(xlabel="predicted memory (GiB)", title=title, xlim=(0, 1.25 * usable))
    axes.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    return figure
