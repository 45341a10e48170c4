"""Ask several models the same question and compare their replies."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as widgets
from IPython.display import HTML

from icft_lite.errors import ICFTError
from icft_lite.utils.notice import NOTICE
from icft_lite.widgets.table import REPLY_WIDTH, html_table

MAX_SHOWN = 5
"""Number of questions that the panel shows, the newest first."""

Model = Callable[[str], str]
"""A function from a question to a reply."""
Answered = tuple[str, list[str]]
"""(question, reply of each model)."""


def ask_table(models: Mapping[str, Model], questions: Sequence[str]) -> HTML:
    """Return a table of every model's reply to every question. Its attribute `data` is the HTML text.

    models: {name: callable(question) -> str}; questions: list of str. Raises ICFTError if there are no models.
    """
    _check(models)
    return HTML(_table(models, [(question, _replies(models, question)) for question in questions]))


def ask_panel(models: Mapping[str, Model], examples: Sequence[str] = ()) -> widgets.VBox:
    """Return a panel that asks several models the same question: a field, a list of examples, a button, the replies.

    Enter sends the question, as the button does. Choosing an example sends it too (by keyboard: Tab to the list, Space
    opens it).

    models: {name: callable(question) -> str}; examples: list of str. The VBox has the children (examples, (question,
    button), replies). An ICFTError of a model is shown in place of its reply. Raises ICFTError if there are no
    models.
    """
    _check(models)
    wide = widgets.Layout(width="auto", max_width="800px", flex_flow="row wrap")
    choice = widgets.Dropdown(
        options=[("choose one …", ""), *((text, text) for text in examples)],
        value="",
        description="Examples",
        layout=widgets.Layout(width="auto", max_width="800px"),
    )
    # Without continuous updates the value changes on Enter or when the field loses the focus, not with every letter.
    question = widgets.Text(
        value="",
        placeholder="type a question and press Enter",
        description="Question",
        continuous_update=False,
        layout=widgets.Layout(flex="1 1 14em", width="auto", min_width="0"),
    )
    button = widgets.Button(description="Ask", tooltip="send the question to every model")
    replies = widgets.HTML(value=_table(models, []))
    history: list[Answered] = []
    lock = threading.RLock()  # JupyterLab may run the callbacks of two controls in two threads

    def ask(_: Any = None) -> None:
        with lock:
            text = question.value.strip()
            # A click on the button first takes the focus from the field, which has sent the question already.
            if not text or history and history[0][0] == text:
                return
            if choice.value != text:
                choice.value = ""
            # Every control stays enabled while the models run: a disabled control loses the keyboard focus.
            replies.value = _table(models, [(text, ["…"] * len(models)), *history[: MAX_SHOWN - 1]])
            try:
                history.insert(0, (text, _replies(models, text)))
            finally:
                replies.value = _table(models, history[:MAX_SHOWN])

    def choose(change: dict[str, Any]) -> None:
        if change["new"]:
            question.value = change["new"]

    question.observe(ask, "value")
    choice.observe(choose, "value")
    button.on_click(ask)
    return widgets.VBox([choice, widgets.HBox([question, button], layout=wide), replies])


def _check(models: Mapping[str, Model]) -> None:
    if not models:
        raise ICFTError("models: no model is given; pass {name: callable(question) -> str}")


def _replies(models: Mapping[str, Model], question: str) -> list[str]:
    return [safe_reply(model, question) for model in models.values()]


def safe_reply(model: Model, question: str) -> str:
    """Return a model's reply, or in parentheses the message of its ICFTError, such as a question that is too long."""
    try:
        return str(model(question))
    except ICFTError as error:
        return f"({error})"


def _table(models: Mapping[str, Model], answered: Sequence[Answered]) -> str:
    return html_table(
        ["question", *models],
        [[question, *replies] for question, replies in answered],
        NOTICE,
        "replies of the models",
        REPLY_WIDTH,
    )
