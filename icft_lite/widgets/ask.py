"""Ask several models one question, and read their answers side by side."""

import threading

import ipywidgets as widgets
from IPython.display import HTML

from icft_lite.errors import ICFTError
from icft_lite.widgets.table import html_table

KEPT = 5
"""Questions a panel goes on showing, the newest first."""


def ask_table(models, questions):
    """Every model's answer to every question, side by side: an IPython.display.HTML (its `data` is the text).

    models: {name: callable(question) -> str}; questions: list of str. Raises ICFTError without models."""
    _check(models)
    return HTML(_table(models, [(question, _answers(models, question)) for question in questions]))


def ask_panel(models, examples=()):
    """A panel that asks several models one question: a field, a list of examples, a button, and the answers.

    Enter asks, as the button does; so does choosing an example (by keyboard: Tab to the list, Space opens it).
    models: {name: callable(question) -> str}; examples: list of str. Returns a VBox with children (examples,
    (question, button), answers). What a model refuses with ICFTError is shown in its place. Raises ICFTError
    without models."""
    _check(models)
    wide = widgets.Layout(width="auto", max_width="800px")
    choice = widgets.Dropdown(
        options=[("choose one …", ""), *((text, text) for text in examples)],
        value="",
        description="Examples",
        layout=wide,
    )
    # Without continuous updates the value changes on Enter or when the field is left, not letter by letter.
    question = widgets.Text(
        value="",
        placeholder="type a question and press Enter",
        description="Question",
        continuous_update=False,
        layout=widgets.Layout(flex="1 1 auto", width="auto"),
    )
    button = widgets.Button(description="Ask", tooltip="ask every model this question")
    answers = widgets.HTML(value=_table(models, []))
    asked, one_at_a_time = [], threading.RLock()  # JupyterLab may run two controls' callbacks in two threads

    def ask(_=None):
        with one_at_a_time:
            text = question.value.strip()
            if not text or asked and asked[0][0] == text:  # leaving the field asked already; the click follows
                return
            if choice.value != text:
                choice.value = ""
            # Wait in sight, and with every control alive: one that is switched off loses the keyboard's focus.
            answers.value = _table(models, [(text, ["…"] * len(models)), *asked[: KEPT - 1]])
            try:
                asked.insert(0, (text, _answers(models, text)))
            finally:
                answers.value = _table(models, asked[:KEPT])

    def choose(change):
        if change["new"]:
            question.value = change["new"]

    question.observe(ask, "value")
    choice.observe(choose, "value")
    button.on_click(ask)
    return widgets.VBox([choice, widgets.HBox([question, button], layout=wide), answers])


def _check(models):
    if not models:
        raise ICFTError("models: there is none to ask; give {name: callable}")


def _answers(models, question):
    return [_answer(model, question) for model in models.values()]


def _answer(model, question):
    try:
        return str(model(question))
    except ICFTError as error:  # too long a question, say: the panel says so and stays alive
        return f"({error})"


def _table(models, asked):
    """asked: [(question, [answer of each model])] → HTML."""
    return html_table(["question", *models], [[question, *answers] for question, answers in asked])
