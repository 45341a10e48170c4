"""The shapes of raw rows, and what makes a canonical example of a row of each shape.

A shape is a set of columns. The first shape of SHAPES whose columns all have a value is the row's.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from icft_lite.data.answers import ANSWER_COLUMNS, is_absent
from icft_lite.data.conversations import (
    Turn,
    find_replies,
    join_turns,
    read_pair,
    read_text,
    read_turns,
    shorten,
    split_dialogue,
    text_or_turns,
)
from icft_lite.data.corpora import pubmedqa
from icft_lite.data.rows import (
    CHOICES,
    CONVERSATIONS,
    PROMPTS,
    QUESTIONS,
    REPLIES,
    VERDICTS,
    Answer,
    Row,
    option_columns,
    parse_cell,
    read_choices,
    read_option_columns,
)
from icft_lite.data.schema import TASKS, Example
from icft_lite.errors import ICFTError

WINNERS = {
    **dict.fromkeys(("a", "model_a", "response_a", "conversation_a"), 0),
    **dict.fromkeys(("b", "model_b", "response_b", "conversation_b"), 1),
    **dict.fromkeys(("tie", "tie (bothbad)"), -1),
}
Converter = Callable[[Row, tuple[str, ...]], list[Example]]
"""Converts a row, of which the tuple names the columns of its shape, to the columns that depend on the shape."""


def _from_canonical(row: Row, columns: tuple[str, ...]) -> list[Example]:
    """Return a row that is a canonical example already."""
    task, history, label = row.text("task"), row.take("history"), row.take("label")
    responses = [read_text(text, "a response", row.where) for text in row.read_list("responses")]
    posterior = row.take("posterior") or []
    if problem := _canonical_problem(task, label, responses, posterior):
        raise ICFTError(f"{row.where}: {problem}")
    example: Example = {
        "task": task,
        "prompt": row.text("prompt"),
        "history": read_turns(history, "history", row.where, row.tally.notes) if history else [],
        "responses": responses,
        "label": int(label),
        "posterior": posterior,
    }
    if conclusion := row.take(pubmedqa.CONCLUSION):
        example[pubmedqa.CONCLUSION] = conclusion
    return [example]


def _canonical_problem(task: str, label: Any, responses: list[str], posterior: Any) -> str:
    """Return what is wrong with the values of a canonical row, and how to correct it; "" if nothing is."""
    n = len(responses)
    if task not in TASKS:
        return f"task is {task!r}; use {', '.join(TASKS)}"
    is_index = isinstance(label, int | float) and not isinstance(label, bool) and float(label).is_integer()
    if not is_index or not -1 <= label < n:
        return f"label is {label!r} of {n} responses; give the index of the right one from 0, or -1"
    if (task == "question" and n < 2) or (task == "pair" and n != 2) or (task == "response" and n != 1):
        return f"a {task} has {n} responses; give 1 to a response, 2 to a pair, 2 or more to a question"
    if len(set(responses)) < n:
        return f"two responses are the same ({responses}); correct one of them"
    if not isinstance(posterior, list) or not all(type(p) in (int, float) and p >= 0 for p in posterior):
        return f"the posterior is {shorten(posterior)}; give a list of {n} probabilities, or leave it out"
    if posterior and (len(posterior) != n or abs(sum(posterior) - 1) > 0.01):
        problem = f"{len(posterior)} values for {n} responses, with the sum {sum(posterior):.2f}"
        return f"the posterior {posterior} has {problem}; give a probability for each, with the sum 1"
    if posterior and label >= 0 and posterior.index(max(posterior)) != label:
        return f"label {label} is not the most likely response of the posterior {posterior}; correct one of them"
    return ""


def _from_pair(row: Row, columns: tuple[str, ...]) -> list[Example]:
    *prompts, first, second = columns
    prompt: list[Turn] = []
    if prompts:
        prompt = _read_prompt(row, prompts[0])
    replies = {name: row.take(name) for name in (first, second)}
    history, last, responses = read_pair(prompt, replies, row.where, row.tally.notes)
    label = 0 if first == "chosen" else -1
    if label == -1 and (winner := row.take("winner")) is not None:
        if str(winner).lower() not in WINNERS:
            raise ICFTError(f"{row.where}: winner is {winner!r}, expected model_a, model_b or tie; rename it")
        label = WINNERS[str(winner).lower()]
        if label == -1:
            row.tally.left_out["the winner is a tie"] += 1
            return []
    return [{"task": "pair", "prompt": last, "history": history, "responses": responses, "label": label}]


def _from_conversation(row: Row, columns: tuple[str, ...]) -> list[Example]:
    (name,) = columns
    where = f"{row.where} (id {row.values['id']})" if "id" in row.values else row.where
    found = read_turns(parse_cell(row.take(name), where), name, where, row.tally.notes)
    reply = next((one for one in REPLIES if one in row.values), None)
    if reply and found and found[-1]["role"] == "user":  # the last reply is in a column of its own
        found += text_or_turns(row.take(reply), "assistant", reply, where, row.tally.notes)
    replies = find_replies(_with_system(row, found), name, where, row.tally.notes)
    if not _is_good(row):
        return []
    return [
        {"task": "response", "prompt": prompt, "history": history, "responses": [reply], "label": 0}
        for history, prompt, reply in (replies if row.options.turns == "all" else replies[-1:])
    ]


def _from_response(row: Row, columns: tuple[str, ...]) -> list[Example]:
    prompt, reply = columns
    notes, where = row.tally.notes, row.where
    start = _read_prompt(row, prompt)
    _check_same(row, reply, REPLIES)
    end = text_or_turns(row.take(reply), "assistant", reply, where, notes)
    if end[0]["role"] != "assistant":
        raise ICFTError(f"{where}: {reply} must begin with an assistant turn; correct its roles")
    history, last, response = find_replies([*start, *end], reply, where, notes)[-1]
    if not _is_good(row):
        return []
    example: Example = {"task": "response", "prompt": last, "history": history, "responses": [response], "label": 0}
    if columns == ("question", "answer"):  # MedQuAD, from its authors or from Kaggle
        example |= {
            "entity": row.optional_text("entity", "focus", "focus_area"),
            "topic": row.optional_text("topic", "qtype"),
        }
    return [example]


def _from_question(row: Row, columns: tuple[str, ...]) -> list[Example]:
    question, *rest = columns
    prompt = _read_prompt(row, question)
    options = read_choices(row, rest[0]) if rest[0] in CHOICES else read_option_columns(row)
    example: Example = {
        "task": "question",
        "prompt": prompt[-1]["content"],
        "history": prompt[:-1],
        "responses": options.texts,
        "label": -1,
        "topic": row.optional_text("topic", "subject", "subject_name"),
    }
    if "cop" in row.values:  # MedMCQA
        example["domain"] = row.optional_text("domain") or "medical"
    for name in ANSWER_COLUMNS:
        value = row.take(name)
        if value is not None and not is_absent(value, options):
            row.answers.append(Answer(name, value, options))
    if len(options.texts) < 2:
        row.tally.left_out["fewer than two different options"] += 1
        return []
    return [example]


SHAPES: tuple[tuple[Converter, tuple[tuple[str, ...], ...]], ...] = (
    (_from_canonical, (("task",), ("prompt",), ("responses",), ("label",))),
    (_from_pair, (PROMPTS, ("chosen",), ("rejected",))),
    (_from_pair, (("chosen",), ("rejected",))),
    (_from_pair, (PROMPTS, ("response_a",), ("response_b",))),
    (_from_pair, (("conversation_a",), ("conversation_b",))),
    (_from_conversation, (CONVERSATIONS,)),
    (_from_question, (QUESTIONS, CHOICES)),
    (_from_response, (PROMPTS, REPLIES)),
)
"""For each shape its converter and its columns, of each of which alternatives are given, preferred ones first."""


@lru_cache(4096)
def find_shape(filled: frozenset[str], present: frozenset[str]) -> tuple[Converter, tuple[str, ...]] | None:
    """Return (converter, columns) of the first shape whose columns all have a value; None if there is none.

    filled: the columns with a value. present: all columns of the row. A question whose options have a column each comes
    before a question with a free answer.
    """
    for convert, parts in SHAPES:
        if convert is _from_response and filled & (columns := option_columns(present)).keys():
            if question := next((name for name in QUESTIONS if name in filled), None):
                return _from_question, (question, *columns)
        found = tuple(next((name for name in part if name in filled), "") for part in parts)
        if all(found):
            return convert, found
    return None


def _read_prompt(row: Row, name: str) -> list[Turn]:
    """Return the turns of a prompt, with the columns instruction and input joined to the last one.

    Raises ICFTError if the last one is not by the user.
    """
    _check_same(row, name, ("prompt", "question", "question_stem"))
    value = row.take(name)
    turns = split_dialogue(value) or text_or_turns(value, "user", name, row.where, row.tally.notes)
    if turns[-1]["role"] != "user":
        raise ICFTError(f"{row.where}: {name} ends with the role {turns[-1]['role']}; it must end with a user turn")
    parts = {part: row.text(part) for part in ("instruction", "input") if part in row.values and part != name}
    content = [parts.get("instruction", ""), turns[-1]["content"], parts.get("input", "")]
    return _with_system(row, [*turns[:-1], {"role": "user", "content": "\n\n".join(filter(None, content))}])


def _check_same(row: Row, name: str, others: tuple[str, ...]) -> None:
    """Mark other columns with the text of the column `name` as used. Raises ICFTError if one has another text."""
    for other in others:
        if other != name and (value := row.take(other)) is not None and value != row.values[name]:
            raise ICFTError(
                f"{row.where}: {name} and {other} both have a value, and only one is read; remove one of them, or read "
                f"the file without it (--map unused={row.source_of(other)})"
            )


def _with_system(row: Row, turns: list[Turn]) -> list[Turn]:
    """Return the turns with the text of the column system in front."""
    if system := row.optional_text("system", "system_prompt"):
        return join_turns([{"role": "system", "content": system}, *turns], row.tally.notes)
    return turns


def _is_good(row: Row) -> bool:
    """Return False for a reply that the source marks as bad, and count it. Raises ICFTError for an unclear mark."""
    verdict = row.take(*VERDICTS)
    row.tally.verdicts[verdict is not None] += 1
    row.tally.first_verdict.setdefault(verdict is not None, row.where)
    if verdict is None:
        return True
    word = str(verdict).strip().lower()
    if word not in ("true", "false"):
        name = next(name for name in VERDICTS if name in row.used)
        raise ICFTError(
            f"{row.where}: {name} is {verdict!r}, expected true for a good reply or false for a bad one; write it so, "
            f"or read the file without it (--map unused={name})"
        )
    if word == "false":
        row.tally.left_out["the reply is marked as bad"] += 1
    return word == "true"
