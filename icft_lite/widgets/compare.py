"""Compare the replies of two models to the same question, with the words that differ marked.

Removed words are struck through, added words are bold and underlined: the marks do not depend on color. A screen reader
reads "removed:" and "added:" before them.
"""

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import ipywidgets as widgets
from IPython.display import HTML

from icft_lite.errors import ICFTError
from icft_lite.utils.notice import NOTICE
from icft_lite.widgets.ask import Model, safe_reply
from icft_lite.widgets.table import escape

HIDDEN = "position: absolute; width: 1px; height: 1px; overflow: hidden; clip: rect(0 0 0 0); white-space: nowrap"
"""Style of text that only a screen reader reads."""
MARKS = {
    "removed": ("del", "text-decoration: line-through"),
    "added": ("ins", "text-decoration: underline; font-weight: bold"),
}
"""Kind of change → (HTML element, style)."""
LEGEND = "Struck through: only in the first reply. Bold and underlined: only in the second."


class Change(NamedTuple):
    """A part of two replies: the words of each, equal or not."""

    equal: bool
    before: list[str]
    after: list[str]


def changes(before: str, after: str) -> list[Change]:
    """Return the parts of two texts in order, each equal in both or different. Words are compared with their spaces."""
    a, b = (re.findall(r"\s*\S+", text.strip()) for text in (before, after))
    before_words, after_words = ([word.strip() for word in words] for words in (a, b))
    # Without `autojunk`, which ignores frequent words in texts of 200 words or more.
    found = SequenceMatcher(None, before_words, after_words, autojunk=False).get_opcodes()
    return [Change(kind == "equal", a[i:j], b[k:m]) for kind, i, j, k, m in found]


def share_changed(before: str, after: str) -> float:
    """Return the share of the words of both texts that are not in the other at this place, 0 to 1."""
    parts = changes(before, after)
    total = sum(len(part.before) + len(part.after) for part in parts)
    changed = sum(len(part.before) + len(part.after) for part in parts if not part.equal)
    return changed / total if total else 0.0


def compare_table(models: Mapping[str, Model], questions: Sequence[str]) -> HTML:
    """Return the replies of two models to each question, with the words that differ marked; it needs no widgets.

    models: {name: callable(question) -> str} of two models, the first is the reference. The attribute `data` is the
    HTML text. Raises ICFTError for another number of models.
    """
    if len(models) != 2:
        raise ICFTError(f"models: {len(models)} given, a comparison needs two; pass {{name: callable}}")
    first, second = models
    shown = "".join(_comparison(models, first, second, question) for question in questions)
    return HTML(f"<p>{escape(NOTICE)}. {LEGEND}</p>{shown}")


def compare_panel(models: Mapping[str, Model], questions: Sequence[str]) -> widgets.VBox:
    """Return a panel that compares the replies of any two of the models, one question at a time.

    models: {name: callable(question) -> str}, two or more; questions: list of str. The VBox has the children (first,
    second), (question, previous, next), replies. By keyboard: Tab moves between the controls, Space opens a list or
    presses a button. Raises ICFTError for fewer than two models, or without a question.
    """
    if len(models) < 2 or not questions:
        raise ICFTError(
            f"compare_panel: {len(models)} models and {len(questions)} questions given; pass two models or more as "
            "{name: callable}, and a question"
        )
    wide = widgets.Layout(width="auto", max_width="900px", flex_flow="row wrap")
    # A minimum of 0: otherwise the longest option decides the width, also on a narrow screen.
    flexible = widgets.Layout(flex="1 1 14em", width="auto", min_width="0")
    first, second = (
        widgets.Dropdown(options=list(models), index=index, description=name, layout=flexible)
        for index, name in enumerate(("First", "Second"))
    )
    question = widgets.Dropdown(options=list(dict.fromkeys(questions)), description="Question", layout=flexible)
    previous_button = widgets.Button(description="Previous", tooltip="show the previous question")
    next_button = widgets.Button(description="Next", tooltip="show the next question")
    replies = widgets.HTML()

    def show(_: Any = None) -> None:
        shown = _comparison(models, first.value, second.value, question.value)
        replies.value = f'<div role="status"><p>{escape(NOTICE)}. {LEGEND}</p>{shown}</div>'

    def move(step: int) -> None:
        question.index = (question.index + step) % len(question.options)

    for control in (first, second, question):
        control.observe(show, "value")
    previous_button.on_click(lambda _: move(-1))
    next_button.on_click(lambda _: move(1))
    show()
    return widgets.VBox(
        [
            widgets.HBox([first, second], layout=wide),
            widgets.HBox([question, previous_button, next_button], layout=wide),
            replies,
        ]
    )


def _comparison(models: Mapping[str, Model], first: str, second: str, question: str) -> str:
    """Return HTML of one question: the replies in two columns, one below the other where there is no room."""
    texts = [safe_reply(models[name], question) for name in (first, second)]
    parts = changes(*texts)
    columns = [
        (first, "".join(_marked(part.before, "" if part.equal else "removed") for part in parts)),
        (second, "".join(_marked(part.after, "" if part.equal else "added") for part in parts)),
    ]
    body = "".join(
        f'<div role="group" aria-label="reply of {escape(name)}" style="flex: 1 1 16em; min-width: 0; '
        f'padding: 4px 8px; border: 1px solid; border-radius: 4px; overflow-wrap: anywhere; white-space: pre-wrap">'
        f"<strong>{escape(name)}</strong>\n{text}</div>"
        for name, text in columns
    )
    return (
        f'<div role="group" aria-label="comparison of two replies" style="line-height: 1.4; margin-bottom: 1em">'
        f"<p><strong>{escape(question)}</strong> ({share_changed(*texts):.0%} of the words differ)</p>"
        f'<div style="display: flex; flex-wrap: wrap; gap: 8px">{body}</div></div>'
    )


def _marked(words: Sequence[str], kind: str) -> str:
    """Return escaped words, marked as "removed" or "added" if `kind` says so."""
    text = "".join(words)
    if not kind or not words:
        return escape(text)
    tag, style = MARKS[kind]
    space = text[: len(text) - len(text.lstrip())]  # outside the mark, so that no space is underlined
    return f'{space}<{tag} style="{style}"><span style="{HIDDEN}">{kind}: </span>{escape(text.strip())}</{tag}>'
