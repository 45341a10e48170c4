"""Browse a curriculum: filter examples by stage, topic and difficulty, and see which functions voted for what."""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from IPython.display import HTML

from icft_lite.data.schema import LEVELS, Example, Examples, best_response
from icft_lite.widgets.table import html_table, pluralize

LIST_SIZE = 200
"""Maximum number of examples in the list of the explorer, the hardest first."""


class Curriculum:
    """Examples with their difficulty and the votes of the labelling functions.

    examples: canonical examples; difficulty: float [n] in 0–1; votes: {example id: one vote per labelling function, −1
    for abstain}; lf_names: names of the labelling functions.
    """

    def __init__(
        self,
        examples: Examples,
        difficulty: Iterable[float],
        votes: Mapping[str, Sequence[int]] | None = None,
        lf_names: Sequence[str] = (),
    ) -> None:
        self.examples: list[Example] = list(examples)
        self.difficulty = [float(value) for value in difficulty]
        self.votes, self.lf_names = votes or {}, list(lf_names)

    def filter(
        self, stage: str = "all", topic: str = "all", difficulty_range: tuple[float, float] = (0.0, 1.0)
    ) -> list[int]:
        """Return the indices of the matching examples, the hardest first.

        difficulty_range: (lowest, highest) difficulty, both included.
        """
        low, high = difficulty_range
        matching = [
            i
            for i, example in enumerate(self.examples)
            if stage in ("all", example["level"])
            and topic in ("all", example["topic"])
            and low <= self.difficulty[i] <= high
        ]
        return sorted(matching, key=lambda i: -self.difficulty[i])

    def voters(self, example: Example) -> list[list[str]]:
        """Return for each response the names of the labelling functions that voted for it."""
        votes = self.votes.get(example["id"], ())
        return [
            [name for name, vote in zip(self.lf_names, votes) if vote == k] for k in range(len(example["responses"]))
        ]

    def overview(self, indices: Sequence[int], max_rows: int = 6) -> str:
        """Return HTML: the number of examples, and a table of the first `max_rows`."""
        rows = []
        for i in indices[:max_rows]:
            example = self.examples[i]
            votes = [
                f"{response}: {', '.join(names)}"
                for response, names in zip(example["responses"], self.voters(example))
                if names
            ]
            rows.append(
                [
                    self.difficulty[i],
                    example["topic"],
                    example["prompt"],
                    example["responses"][best_response(example)],
                    max(example["posterior"]) if example["posterior"] else "trusted",
                    "; ".join(votes),
                ]
            )
        header = ["difficulty", "topic", "prompt", "most likely response", "posterior", "votes"]
        return html_table(header, rows, f"{pluralize(indices)}, the hardest first", "examples")

    def detail(self, i: int) -> str:
        """Return HTML: one whole example, a row per response with its posterior and the functions that voted for it."""
        example = self.examples[i]
        voters = self.voters(example)
        abstained = len(self.lf_names) - sum(map(len, voters)) if example["id"] in self.votes else 0
        rows = [
            [response, example["posterior"][k] if example["posterior"] else "trusted", len(names), ", ".join(names)]
            for k, (response, names) in enumerate(zip(example["responses"], voters))
        ]
        facts = f"{example['topic']}, {example['level'] or 'no level'}, difficulty {self.difficulty[i]:.2f}"
        if abstained:
            facts += f"; {abstained} of {len(self.lf_names)} functions abstained"
        return html_table(
            ["response", "posterior", "votes", "labelling functions"],
            rows,
            f"{example['prompt']}  ({facts})",
            "one example",
        )


def curriculum_table(
    examples: Examples,
    difficulty: Iterable[float],
    votes: Mapping[str, Sequence[int]] | None = None,
    lf_names: Sequence[str] = (),
    stage: str = "all",
    topic: str = "all",
    difficulty_range: tuple[float, float] = (0.0, 1.0),
    max_rows: int = 6,
) -> HTML:
    """Return the matching examples as a table that needs no widgets. For the arguments see `Curriculum`."""
    curriculum = Curriculum(examples, difficulty, votes, lf_names)
    return HTML(curriculum.overview(curriculum.filter(stage, topic, difficulty_range), max_rows))


def curriculum_explorer(
    examples: Examples,
    difficulty: Iterable[float],
    votes: Mapping[str, Sequence[int]] | None = None,
    lf_names: Sequence[str] = (),
) -> widgets.VBox:
    """Return controls that filter a curriculum, the list of matching examples, and the selected one in detail.

    For the arguments see `Curriculum`. The VBox has the children ((stage, topic, difficulty), count, (example,
    previous, next), detail). By keyboard: Tab moves between the controls, Space opens a list or presses a button. The
    examples are a Dropdown, because JupyterLab takes the arrow keys from a Select box.
    """
    curriculum = Curriculum(examples, difficulty, votes, lf_names)
    levels = [level for level in LEVELS if any(example["level"] == level for example in curriculum.examples)]
    topics = sorted({example["topic"] for example in curriculum.examples})
    stage = widgets.Dropdown(options=["all", *levels], description="Stage")
    topic = widgets.Dropdown(options=["all", *topics], description="Topic")
    span = widgets.FloatRangeSlider(value=(0, 1), min=0, max=1, step=0.05, description="Difficulty")
    selected = widgets.Dropdown(
        description="Example", layout=widgets.Layout(flex="1 1 14em", width="auto", min_width="0")
    )
    previous_button = widgets.Button(description="Previous", tooltip="show the previous example")
    next_button = widgets.Button(description="Next", tooltip="show the next example")
    count, detail = widgets.HTML(), widgets.HTML()

    def update_list(_: Any = None) -> None:
        indices = curriculum.filter(stage.value, topic.value, span.value)
        selected.options = [(_label(curriculum, i), i) for i in indices[:LIST_SIZE]]
        selected.value = indices[0] if indices else None
        limit = f"; the list contains the first {LIST_SIZE}" if len(indices) > LIST_SIZE else ""
        count.value = html_table([], [], f"{pluralize(indices)}, the hardest first{limit}")

    def show_detail(_: Any = None) -> None:
        detail.value = "" if selected.value is None else curriculum.detail(selected.value)

    def move(step: int) -> None:
        if selected.index is not None:
            selected.index = min(max(selected.index + step, 0), len(selected.options) - 1)

    for control in (stage, topic, span):
        control.observe(update_list, "value")
    selected.observe(show_detail, "value")
    previous_button.on_click(lambda _: move(-1))
    next_button.on_click(lambda _: move(1))
    update_list()
    wrap = widgets.Layout(flex_flow="row wrap")
    wide = widgets.Layout(width="auto", max_width="900px", flex_flow="row wrap")
    return widgets.VBox(
        [
            widgets.HBox([stage, topic, span], layout=wrap),
            count,
            widgets.HBox([selected, previous_button, next_button], layout=wide),
            detail,
        ]
    )


def _label(curriculum: Curriculum, i: int) -> str:
    example = curriculum.examples[i]
    text = f"{curriculum.difficulty[i]:.2f} {example['topic']}: {example['prompt']}"
    return textwrap.shorten(text, 90, placeholder=" …")
