"""The generic input formats: one raw row is converted to the canonical example that every other module reads."""

import json
import re
from typing import Any, Literal

from icft_lite.data.schema import FORMER_LEVELS, LEVELS, Example, RawRow
from icft_lite.errors import ICFTError

Format = Literal["messages", "question", "pair", "response"]
FORMATS = (
    "prompt + completion, messages, question + choices (+ answer), prompt + chosen + rejected, "
    "or prompt + response_a + response_b"
)
"""The generic formats, as error messages list them."""
KINDS = ("rule", "fact")
Turns = list[dict[str, Any]]
"""Turns of a conversation, each with role and content."""


def generic_format(row: RawRow) -> Format | None:
    """Return which generic format a row's columns have; None if they have none."""
    filled = _filled(row)
    if "messages" in filled:
        return "messages"
    if "choices" in row:
        return "question"
    if filled & {"chosen", "rejected", "response_a", "response_b"}:
        return "pair"
    if {"completion", "prompt"} & set(row):
        return "response"
    return None


def normalize_example(row: RawRow, where: str, default_id: str | int) -> Example:
    """Return one raw row as a canonical example, a dict with the columns of FEATURES.

    Formats:

        prompt, completion                  a response
        messages                            a conversation that ends with the response
        question, choices (, answer)        answer: a choice's text, letter or index; absent: unlabelled
        prompt, chosen, rejected            a labelled pair
        prompt, response_a, response_b      an unlabelled pair

    Optional columns: id, domain, topic, level, context, kind, entity, facts. Former names of levels (FORMER_LEVELS) are
    accepted.

    where: what error messages start with, such as the file and the line. default_id: the id of a row that has none.
    Raises ICFTError if the row has none of these formats or a value is invalid.
    """
    if not isinstance(row, dict):
        raise ICFTError(f"{where}: found a {type(row).__name__}, expected an object with named columns")
    filled = _filled(row)
    history: Turns = []
    label, task = 0, "response"
    match generic_format(row):
        case "messages":
            history, prompt, reply = _read_messages(row["messages"], where)
            responses = [reply]
        case "question":
            task = "question"
            history, prompt = _read_prompt(row, "question" if "question" in filled else "prompt", where)
            choices = _read_list(row, "choices", where)
            responses = [read_text({"a choice": choice}, "a choice", where) for choice in choices]
            if len(responses) < 2 or len(set(responses)) < len(responses):
                raise ICFTError(f"{where}: choices are {responses}, expected two or more different texts; fix them")
            label = answer_index(row.get("answer"), responses, where)
        case "pair":
            task = "pair"
            names = ("chosen", "rejected") if filled & {"chosen", "rejected"} else ("response_a", "response_b")
            label = 0 if names[0] == "chosen" else -1
            history, prompt = _read_prompt(row, "prompt", where)
            responses = [read_text(row, name, where) for name in names]
        case "response":
            history, prompt = _read_prompt(row, "prompt", where)
            responses = [read_text(row, "completion", where)]
        case None:
            found = ", ".join(map(str, row)) or "(none)"
            raise ICFTError(f"{where}: columns {found} fit no format; rename them to {FORMATS}")
    level = _check_name(FORMER_LEVELS.get(str(row.get("level")), row.get("level")), "level", LEVELS, where)
    kind = _check_name(row.get("kind"), "kind", KINDS, where)
    facts = [str(fact) for fact in _read_list(row, "facts", where)] if "facts" in filled else []
    return {
        "id": str(row["id"]) if "id" in filled else str(default_id),
        "task": task,
        **{name: _optional_text(row.get(name)) for name in ("domain", "topic", "context", "entity")},
        "level": level,
        "prompt": prompt,
        "history": history,
        "responses": responses,
        "label": label,
        "posterior": [],
        "facts": facts,
        "kind": kind,
    }


def answer_index(answer: Any, choices: list[str], where: str) -> int:
    """Return the index of `answer` among `choices`; −1 if there is no answer (None, an empty cell, NaN).

    Text is looked up as a choice, then as a letter, then as an index from 0. A number is an index. Raises ICFTError if
    the answer is none of these.
    """
    if answer is None or answer == "" or answer != answer:  # NaN differs from itself
        return -1
    key, folded = str(answer).strip(), [choice.casefold() for choice in choices]
    if isinstance(answer, str):
        if key in choices:
            return choices.index(key)
        if folded.count(key.casefold()) == 1:
            return folded.index(key.casefold())
        if re.fullmatch("[A-Za-z]", key) and ord(key.upper()) - ord("A") < len(choices):
            return ord(key.upper()) - ord("A")
    if not isinstance(answer, bool) and re.fullmatch(r"\d+(\.0)?", key) and float(key) < len(choices):
        return int(float(key))
    raise ICFTError(
        f"{where}: answer {answer!r} is not among its choices {choices}; give a choice's text, letter or index (from 0)"
    )


def read_text(row: RawRow, name: str, where: str) -> str:
    """Return the text of a column without surrounding spaces.

    A list of messages gives the content of its last one; a number is written as text. Raises ICFTError for anything
    else, and for an empty text.
    """
    value = row.get(name)
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        value = str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    state = "is missing" if value is None else "is empty" if isinstance(value, str) else "is not text"
    raise ICFTError(f"{where}: {name} {state}; give it some text, or remove this example")


def _filled(row: RawRow) -> set[str]:
    """Return the columns that have a value."""
    return {name for name, value in row.items() if value is not None and value != ""}


def _optional_text(value: Any) -> str:
    return "" if value is None else str(value)


def _check_name(value: Any, column: str, names: tuple[str, ...], where: str) -> str:
    """Return the value if it is one of `names`; "" if there is none. Raises ICFTError for any other value."""
    value = value or ""
    if value not in ("", *names):
        *others, last = names
        raise ICFTError(f"{where}: {column} is {value!r}; use {', '.join(others)} or {last}, or remove it")
    return value


def _read_prompt(row: RawRow, name: str, where: str) -> tuple[Turns, str]:
    """Return (earlier turns, last user turn) of a prompt that is a text or a list of messages."""
    if isinstance(row.get(name), list):
        history, prompt, _ = _read_messages([*row[name], {"role": "assistant", "content": "-"}], where)
        return history, prompt
    return [], read_text(row, name, where)


def _read_messages(messages: Any, where: str) -> tuple[Turns, str, str]:
    """Return (earlier turns, last user turn, the reply to it)."""
    messages = _read_list({"messages": messages}, "messages", where)
    turns: Turns = [{"role": m.get("role"), "content": m.get("content")} for m in messages if isinstance(m, dict)]
    if len(turns) < len(messages) or [turn["role"] for turn in turns[-2:]] != ["user", "assistant"]:
        raise ICFTError(
            f"{where}: messages must be objects with role and content, of which the last two are by user and assistant"
        )
    for turn in turns:
        turn["content"] = read_text(turn, "content", where)
    return turns[:-2], turns[-2]["content"], turns[-1]["content"]


def _read_list(row: RawRow, name: str, where: str) -> list[Any]:
    """Return a list; the cell of a CSV may hold a JSON list or texts joined by |."""
    value = row[name]
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else value.split("|")
        except json.JSONDecodeError:
            pass
    if not isinstance(value, list):
        raise ICFTError(f"{where}: {name} must be a list (in a CSV: a JSON list, or texts joined by |)")
    return value
