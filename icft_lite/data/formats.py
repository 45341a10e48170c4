"""One raw row of any accepted format -> the canonical example that every other module reads."""

import json
import re

from icft_lite.errors import ICFTError

FORMATS = (
    "prompt + completion, messages, question + choices (+ answer), prompt + chosen + rejected, "
    "or prompt + response_a + response_b"
)


def normalize_example(row, where, index):
    """One raw row -> a dict of the columns of FEATURES.

    Formats: prompt + completion | messages | question + choices (+ answer: a choice's text, letter or index;
    none: unlabelled) | prompt + chosen + rejected | prompt + response_a + response_b (unlabelled) | question
    + answer + focus or qtype (MedQuAD). Optional: id, domain, topic, level, context, kind, entity, facts.
    `where` opens error messages; `index` is the id of a row that has none. Raises ICFTError."""
    if not isinstance(row, dict):
        raise ICFTError(f"{where}: it is a {type(row).__name__}; a row is an object with named fields")
    has = {name for name, value in row.items() if value is not None and value != ""}
    history, label, task, entity, topic = [], 0, "response", row.get("entity"), row.get("topic")
    if "messages" in has:
        history, prompt, reply = _messages(row["messages"], where)
        responses = [reply]
    elif "choices" in row:
        task = "question"
        history, prompt = _turns(row, "question" if "question" in has else "prompt", where)
        responses = [_text({"a choice": c}, "a choice", where) for c in _list(row, "choices", where)]
        if len(responses) < 2 or len(set(responses)) < len(responses):
            raise ICFTError(f"{where}: choices {responses} must be two or more different texts; mend them")
        label = answer_index(row.get("answer"), responses, where)
    elif has & {"chosen", "rejected", "response_a", "response_b"}:
        names = ("chosen", "rejected") if has & {"chosen", "rejected"} else ("response_a", "response_b")
        task, label = "pair", 0 if names[0] == "chosen" else -1
        history, prompt = _turns(row, "prompt", where)
        responses = [_text(row, name, where) for name in names]
    elif {"completion", "prompt"} & set(row):
        history, prompt = _turns(row, "prompt", where)
        responses = [_text(row, "completion", where)]
    elif {"question", "answer"} <= set(row) and {"focus", "qtype"} & set(row):
        prompt, responses = _text(row, "question", where), [_text(row, "answer", where)]
        entity, topic = entity or row.get("focus"), topic or row.get("qtype")
    else:
        names = ", ".join(map(str, row)) or "(none)"
        raise ICFTError(f"{where}: columns {names} fit no format; name them {FORMATS}")
    level, kind = row.get("level") or "", row.get("kind") or ""
    if level not in ("", "easy", "middle", "hard"):
        raise ICFTError(f"{where}: level is {level!r}; use easy, middle or hard, or leave it out")
    if kind not in ("", "rule", "fact"):
        raise ICFTError(f"{where}: kind is {kind!r}; use rule or fact, or leave it out")
    optional = {"domain": row.get("domain"), "topic": topic, "context": row.get("context"), "entity": entity}
    optional = {name: "" if value is None else str(value) for name, value in optional.items()}
    facts = [str(fact) for fact in _list(row, "facts", where)] if "facts" in has else []
    return {
        "id": str(row["id"]) if "id" in has else str(index),
        "task": task,
        **optional,
        "level": level,
        "prompt": prompt,
        "history": history,
        "responses": responses,
        "label": label,
        "posterior": [],
        "facts": facts,
        "kind": kind,
    }


def answer_index(answer, choices, where):
    """Index of `answer` among `choices`, -1 if there is none. Text is looked up as a choice, then as a
    letter, then as an index; an integer is an index. Raises ICFTError if it is none of these."""
    if answer is None or answer == "" or answer != answer:  # absent, an empty cell, NaN
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


def _text(row, name, where):
    value = row.get(name)
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")  # a reply given as a list of messages
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value:
        value = str(value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    state = "is missing" if value is None else "is empty" if isinstance(value, str) else "is not text"
    raise ICFTError(f"{where}: {name} {state}; give it some text, or leave the row out")


def _turns(row, name, where):
    """The prompt as (earlier turns, last user turn); it may be a text or a list of messages."""
    if isinstance(row.get(name), list):
        return _messages([*row[name], {"role": "assistant", "content": "-"}], where)[:2]
    return [], _text(row, name, where)


def _messages(value, where):
    """(earlier turns, the user's last turn, the reply to it)."""
    value = _list({"messages": value}, "messages", where)
    turns = [{"role": m.get("role"), "content": m.get("content")} for m in value if isinstance(m, dict)]
    if len(turns) < len(value) or [turn["role"] for turn in turns[-2:]] != ["user", "assistant"]:
        raise ICFTError(f"{where}: messages must be role/content objects that end with user, then assistant")
    for turn in turns:
        turn["content"] = _text(turn, "content", where)
    return turns[:-2], turns[-2]["content"], turns[-1]["content"]


def _list(row, name, where):
    value = row[name]
    if isinstance(value, str):  # a CSV cell
        try:
            value = json.loads(value) if value.lstrip().startswith("[") else value.split("|")
        except json.JSONDecodeError:
            pass
    if not isinstance(value, list):
        raise ICFTError(f"{where}: {name} must be a list (in a CSV: a JSON list, or texts joined by |)")
    return value
