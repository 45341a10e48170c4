"""Notebook front ends, from core ipywidgets alone (what versions 7.7 and 8 have in common).

Everything a person types, a row holds or a model says is escaped before it is shown. Each panel has a static
table or figure beside it, for places where widgets do not run: a page on GitHub, a PDF, a test.
"""

from icft_lite.experiments.votes import votes_figure
from icft_lite.widgets.ask import ask_panel, ask_table
from icft_lite.widgets.chat import chat_panel, chat_table
from icft_lite.widgets.dashboard import Dashboard, dashboard_figure
from icft_lite.widgets.explorer import curriculum_explorer, curriculum_table
from icft_lite.widgets.inspector import memory_inspector, outcome_table, promotion_outcomes
from icft_lite.widgets.vote import vote_panel, votes_table

__all__ = [
    "Dashboard",
    "ask_panel",
    "ask_table",
    "chat_panel",
    "chat_table",
    "curriculum_explorer",
    "curriculum_table",
    "dashboard_figure",
    "outcome_table",
    "promotion_outcomes",
    "memory_inspector",
    "vote_panel",
    "votes_figure",
    "votes_table",
]
