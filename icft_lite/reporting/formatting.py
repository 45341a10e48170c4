"""Tables as data, and their text: markdown for files, aligned columns for the terminal.

Text that a model wrote is escaped, never interpreted.
"""

import html
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A table before its cells are formatted."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    """How to read the table; in markdown only."""


def format_cell(value: Any) -> str:
    """Return a value as text: numbers with 3 decimals or thousands separators, text on one line, None as a dash."""
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "", " ".join(text.split()))  # control characters could steer a terminal


def escape_markdown(text: str) -> str:
    """Return text that markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(text, quote=False))


def to_markdown(table: Table) -> str:
    """Return a table as a markdown section."""
    lines = [f"## {table.title}", ""]
    if table.note:
        lines += [table.note, ""]
    lines += ["| " + " | ".join(table.header) + " |", "|" + " --- |" * len(table.header)]
    lines += ["| " + " | ".join(escape_markdown(format_cell(cell)) for cell in row) + " |" for row in table.rows]
    return "\n".join(lines)


def to_text(table: Table) -> str:
    """Return a table as plain text with aligned columns, numbers to the right."""
    rows = [list(table.header)] + [[format_cell(cell) for cell in row] for row in table.rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    to_right = [_is_numeric(column) for column in zip(*table.rows)] or [False] * len(widths)
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, to_right, strict=True)
        ).rstrip()
        for row in rows
    ]
    return "\n".join([table.title, *lines] if table.title else lines)


def _is_numeric(column: Sequence[Any]) -> bool:
    """Return whether a column has numbers, and gaps (None) at most."""
    return all(isinstance(cell, int | float | None) for cell in column) and any(cell is not None for cell in column)


def get_nested(record: Any, *keys: str) -> Any:
    """Return record[key][key]…, or None where one of the keys is missing."""
    for key in keys:
        record = (record or {}).get(key)
    return record


def score_lines(scores: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield nested {name: {metric, value, n}} as one line for each score."""
    for name, score in scores.items():
        if isinstance(score, dict) and "value" in score:
            name = prefix + name
            yield f"{name:28} {score['value']:.3f}  {score.get('metric', '')}  n = {score.get('n', '?')}"
        elif isinstance(score, dict):
            yield from score_lines(score, f"{prefix}{name}.")
