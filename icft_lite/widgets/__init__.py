"""Notebook panels made of core ipywidgets (the common subset of versions 7.7 and 8).

| panel | without widgets | shows |
|---|---|---|
| `Dashboard` | `dashboard_figure` | a training run while it runs |
| `ask_panel` | `ask_table` | the replies of several models to a question |
| `compare_panel` | `compare_table` | the replies of two models, with the words that differ marked |
| `chat_panel` | `chat_table` | a chat with one model |
| `vote_panel` | `votes_table`, `votes_figure` | a blind comparison of models |
| `curriculum_explorer` | `curriculum_table` | examples with difficulty and votes |
| `memory_inspector` | `outcome_table` | what was promoted into the long-term memory |

The second column is for places where widgets do not run: a page on GitHub, a PDF, a test. Text from people, data and
models is always escaped.
"""

from typing import Any

from icft_lite.compat import moved
from icft_lite.experiments.blind_votes import votes_figure
from icft_lite.widgets.ask import ask_panel, ask_table
from icft_lite.widgets.chat import chat_panel, chat_table
from icft_lite.widgets.compare import compare_panel, compare_table, share_changed
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
    "compare_panel",
    "compare_table",
    "curriculum_explorer",
    "curriculum_table",
    "dashboard_figure",
    "memory_inspector",
    "outcome_table",
    "promotion_outcomes",
    "share_changed",
    "vote_panel",
    "votes_figure",
    "votes_table",
]


def __getattr__(name: str) -> Any:  # names of version 0.1
    return moved("widgets", name)
