"""Browse a curriculum: filter rows by stage, topic and difficulty; see who voted for what."""

import textwrap

import ipywidgets as widgets
from IPython.display import HTML

from icft_lite.data.schema import LEVELS, best_response
from icft_lite.widgets.table import html_table, pluralize

LISTED = 200
"""Rows the list offers at a time, the hardest first."""


class Curriculum:
    """Rows with their difficulty and their votes.

    rows: canonical examples; difficulty: float [n] in 0…1; votes: {row id: one vote a labelling function, −1 for
    none}; names: of the functions."""

    def __init__(self, rows, difficulty, votes=None, names=()):
        self.rows, self.difficulty = list(rows), [float(value) for value in difficulty]
        self.votes, self.names = votes or {}, list(names)

    def choose(self, stage="all", topic="all", span=(0.0, 1.0)):
        """Numbers of the rows that fit, hardest first. span: (least, most) difficulty, both included."""
        fits = [
            i
            for i, row in enumerate(self.rows)
            if stage in ("all", row["level"])
            and topic in ("all", row["topic"])
            and span[0] <= self.difficulty[i] <= span[1]
        ]
        return sorted(fits, key=lambda i: -self.difficulty[i])

    def voters(self, row):
        """For each response of a row, the names of the functions that voted for it."""
        votes = self.votes.get(row["id"], ())
        return [[name for name, vote in zip(self.names, votes) if vote == k] for k in range(len(row["responses"]))]

    def overview(self, chosen, most=6):
        """HTML: how many rows, and a line for each of the first `most`."""
        lines = []
        for i in chosen[:most]:
            row = self.rows[i]
            said = [
                f"{response}: {', '.join(names)}"
                for response, names in zip(row["responses"], self.voters(row))
                if names
            ]
            lines.append(
                [
                    self.difficulty[i],
                    row["topic"],
                    row["prompt"],
                    row["responses"][best_response(row)],
                    _sure(row),
                    "; ".join(said),
                ]
            )
        return html_table(
            ["difficulty", "topic", "prompt", "likeliest response", "posterior", "votes"],
            lines,
            f"{pluralize(chosen)}, the hardest first",
        )

    def detail(self, i):
        """HTML: one row whole, a line for each response, with its posterior and who voted for it."""
        row = self.rows[i]
        silent = len(self.names) - sum(map(len, self.voters(row))) if row["id"] in self.votes else 0
        lines = [
            [response, row["posterior"][k] if row["posterior"] else "trusted", len(names), ", ".join(names)]
            for k, (response, names) in enumerate(zip(row["responses"], self.voters(row)))
        ]
        note = (
            f"{row['prompt']}  ({row['topic']}, {row['level'] or 'no level'}, difficulty {self.difficulty[i]:.2f}"
            f"{f'; {silent} of {len(self.names)} functions abstained' if silent else ''})"
        )
        return html_table(["response", "posterior", "votes", "who"], lines, note)


def curriculum_table(rows, difficulty, votes=None, names=(), stage="all", topic="all", span=(0.0, 1.0), most=6):
    """The rows that fit, as a table that needs no widgets: an IPython.display.HTML. Arguments: see Curriculum."""
    curriculum = Curriculum(rows, difficulty, votes, names)
    return HTML(curriculum.overview(curriculum.choose(stage, topic, span), most))


def curriculum_explorer(rows, difficulty, votes=None, names=()):
    """Two lists and a slider that filter, the rows that fit, and the chosen one in detail.

    Arguments: see Curriculum. Returns a VBox with children ((stage, topic, span), count, (row, back, on), detail). By
    keyboard: Tab moves between the controls, Space opens a list or presses a button. (A list box would be shorter to
    write, but JupyterLab takes the arrow keys from it.)"""
    curriculum = Curriculum(rows, difficulty, votes, names)
    levels = [level for level in LEVELS if any(row["level"] == level for row in curriculum.rows)]
    stage = widgets.Dropdown(options=["all", *levels], description="Stage")
    topic = widgets.Dropdown(options=["all", *sorted({row["topic"] for row in curriculum.rows})], description="Topic")
    span = widgets.FloatRangeSlider(value=(0, 1), min=0, max=1, step=0.05, description="Difficulty")
    row = widgets.Dropdown(description="Row", layout=widgets.Layout(flex="1 1 0", width="auto", min_width="0"))
    back = widgets.Button(description="Back", tooltip="show the row before")
    on = widgets.Button(description="Next", tooltip="show the next row")
    counted, detail = widgets.HTML(), widgets.HTML()

    def update(_=None):
        chosen = curriculum.choose(stage.value, topic.value, span.value)
        row.options = [(_label(curriculum, i), i) for i in chosen[:LISTED]]
        row.value = chosen[0] if chosen else None
        counted.value = html_table(
            [],
            [],
            f"{pluralize(chosen)}, the hardest first" + (f"; the list holds {LISTED}" if len(chosen) > LISTED else ""),
        )

    def show(_=None):
        detail.value = "" if row.value is None else curriculum.detail(row.value)

    def move(step):
        if row.index is not None:
            row.index = min(max(row.index + step, 0), len(row.options) - 1)

    for control in (stage, topic, span):
        control.observe(update, "value")
    row.observe(show, "value")
    back.on_click(lambda _: move(-1))
    on.on_click(lambda _: move(1))
    update()
    wrap, wide = widgets.Layout(flex_flow="row wrap"), widgets.Layout(width="auto", max_width="900px")
    return widgets.VBox(
        [widgets.HBox([stage, topic, span], layout=wrap), counted, widgets.HBox([row, back, on], layout=wide), detail]
    )


def _label(curriculum, i):
    row = curriculum.rows[i]
    return textwrap.shorten(f"{curriculum.difficulty[i]:.2f} {row['topic']}: {row['prompt']}", 90, placeholder=" …")


def _sure(row):
    return max(row["posterior"]) if row["posterior"] else "trusted"
