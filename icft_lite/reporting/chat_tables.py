"""Tables of forgetting in a chat model's own replies, and of the replies themselves."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from icft_lite.reporting.formatting import Table, format_cell
from icft_lite.utils.notice import NOTICE

MEASURES = (
    ("free", "value", "free-answer accuracy", "the right answer, and no other option, is in the reply"),
    ("instructions", "value", "instructions passed", "all constraints of the instruction are satisfied"),
    ("instructions", "seen", "… of seen kinds", "kinds of instructions that also supply memory prompts"),
    ("instructions", "unseen", "… of unseen kinds", "other kinds"),
    ("instructions", "checks", "single constraints satisfied", "share of all constraints"),
    ("words", None, "words in a reply", "mean"),
    ("intrusion", None, "domain intrusion", "replies with a medical term that the base's reply lacks"),
    ("nll", None, "NLL of the base's replies", "nats per token"),
    ("kl_base_tuned", None, "KL(base ‖ tuned)", "nats per token, on the base's replies; 0: no change"),
    ("kl_tuned_base", None, "KL(tuned ‖ base)", "nats per token, on the tuned model's replies"),
)
"""(key, key within it, name, meaning) of what is reported about replies."""


def get_measure(scores: Mapping[str, Any], key: str, inner: str | None) -> Any:
    """Return one of MEASURES of ChatScores, None where it is missing."""
    found = scores.get(key)
    return (found or {}).get(inner) if inner else found


def chat_table(chat: Mapping[str, Any]) -> Table:
    """Return the table of a run's replies to the test part of a chat suite; it has no rows without a suite.

    chat: of `compare_with_base`; without the key `retention` the replies are those of one model.
    """
    if chat and "retention" not in chat:
        rows = [[*row[:3], row[4]] for row in _measures(chat["scores"]["before"], {}) if row[2] is not None]
        return Table("Replies to the chat suite", ["measure", "n", "value", "meaning"], rows)
    return Table(
        "Forgetting in the model's own replies",
        ["measure", "n", "base", "after", "meaning"],
        list(_rows(chat)) if chat else [],
        "Retention is the mean of two ratios to the base: free-answer accuracy and instructions passed.",
    )


def _rows(chat: Mapping[str, Any]) -> Iterator[list[Any]]:
    found, (before, after) = chat["retention"], (chat["scores"][name] for name in ("before", "after"))
    yield ["retention", None, 1.0, found["value"], _interval(found)]
    yield ["right with the base, still right", None, None, found["still_right"], "share of questions and instructions"]
    yield from _measures(before, after)


def _measures(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[list[Any]]:
    for key, inner, name, meaning in MEASURES:
        n = before[key]["n"] if inner == "value" else None
        yield [name, n, get_measure(before, key, inner), get_measure(after, key, inner), meaning]


def _interval(found: Mapping[str, Any]) -> str:
    return f"95 % interval {format_cell(found['low'])} to {format_cell(found['high'])}, paired bootstrap over items"


def display_table(prompts: Sequence[Mapping[str, str]], names: Mapping[str, str]) -> Table:
    """Return a table with the replies of several models to the same prompts.

    prompts: dicts with `prompt` and the reply of each model. names: {key: name of the model}.
    """
    return Table(
        "The same prompts",
        ["prompt", "model", "reply"],
        [[one["prompt"] if key == next(iter(names)) else "", names[key], one[key]] for one in prompts for key in names],
        f"Replies of a {NOTICE}.",
    )
