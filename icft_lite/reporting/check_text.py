"""The text of `icft-lite check`: the facts of `check_fit` or `check_data` as lines for the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from icft_lite.reporting.formatting import Table, format_cell, to_text

Facts = Mapping[str, Any]
DUPLICATES = {
    "exact": "exact",
    "contradictory": "with another answer",
    "near": "near",
    "overlap": "held-out prompts in training",
    "near_overlap": "nearly",
}
"""Kinds of duplicates, as `find_duplicates` and as the table names them."""
SHOWN = 10
"""Tokens of a part of an example that are shown, at its beginning and at its end."""


def format_lines(found: Facts) -> list[str]:
    """Return the facts of `check_fit` or `check_data` as lines of text."""
    lines = [line for source in found["sources"] for line in _source_lines(source)]
    lines += ["", *_role_lines(found["roles"])]
    lines += [f"tokens are those of {found['model']}; max_length = {found['max_length']} (prompt and longest response)"]
    if "findings" not in found:
        return lines
    if found["labels"]:
        labels = {role: ", ".join(f"{name}: {n}" for name, n in one.items()) for role, one in found["labels"].items()}
        lines += ["", *_lines(("role", "right answers"), labels.items())]
    rows = [(name, *map(one.get, DUPLICATES)) for name, one in found["duplicates"].items()]
    lines += ["", *_lines(("duplicates", *DUPLICATES.values()), rows)]
    lines += ["", f"end of turn: {found['end_of_turn']!r}"]
    for example in found["examples"]:
        trained = sum(token["trained"] for token in example["tokens"])
        name = f"{example['shape']} {format_cell(example['id'])} ({example['role']})"
        lines += ["", f"{name}: {trained} of its tokens are trained on"]
        lines += _token_lines(example["tokens"])
    if found["findings"]:
        lines += ["", "findings:", *(f"- {one}" for one in found["findings"])]
    elif not found["refusal"]:
        lines += ["", "no findings"]
    return lines


def _source_lines(source: Facts) -> list[str]:
    rows = {
        "rows": ", ".join(f"{number} {shape}" for shape, number in source["shapes"].items()),
        "answers": source["answer_coding"],
        "columns used": ", ".join(source["columns_used"]),
        "columns ignored": ", ".join(source["columns_ignored"]),
        "left out": ", ".join(f"{number} ({reason})" for reason, number in source["left_out"].items()),
    }
    lines = [f"  {name:16} {format_cell(value)}" for name, value in rows.items() if value]
    return [source["name"], *lines, *(f"  {'note':16} {format_cell(note)}" for note in source["notes"])]


def _role_lines(roles: Mapping[str, Facts]) -> list[str]:
    header = ("role", "examples", "tasks", "tokens: median", "95 %", "max", "truncated", "left out")
    rows = [
        (
            role,
            one["n"],
            ", ".join(f"{number:,} {task}" for task, number in one["tasks"].items()),
            *one["tokens"].values(),
            one["truncated"],
            one["left_out"],
        )
        for role, one in roles.items()
    ]
    return _lines(header, rows)


def _token_lines(tokens: Sequence[Facts]) -> list[str]:
    """Return a table of tokens: the first and last of the prompt, and of what is trained on. ␣ is a space."""
    rows: list[Sequence[Any]] = []
    for trained in (False, True):
        part = [(str(place), token) for place, token in enumerate(tokens) if token["trained"] == trained]
        for number, (place, token) in enumerate(part):
            if number < SHOWN or number >= len(part) - SHOWN:
                rows.append(
                    (place, str(token["id"]), repr(token["text"]).replace(" ", "␣"), "trained" if trained else "")
                )
            elif number == SHOWN:
                rows.append(("…", "", f"({len(part) - 2 * SHOWN} more)", ""))
    return _lines(("place", "id", "token", ""), rows)


def _lines(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> list[str]:
    return to_text(Table("", header, list(rows))).splitlines()
