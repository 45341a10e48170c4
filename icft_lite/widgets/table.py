"""HTML tables and text that all panels share. Text from people, data and models is always escaped."""

import html
import re
from collections.abc import Iterable, Sequence, Sized
from typing import Any

CELL = (
    "padding: 4px 8px; text-align: left; vertical-align: top; white-space: pre-wrap; "
    "overflow-wrap: anywhere; min-width: {width}em"  # a reply that repeats one character has no other place to break
)
REPLY_WIDTH = 9
"""Minimum width of a column of replies, in em: on a narrow screen the table scrolls, and words are not broken."""
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def escape(text: str) -> str:
    """Return text that is safe inside HTML and SVG, attributes included.

    Markup is escaped. Characters that XML 1.0 does not allow, such as NUL, become U+FFFD: one of them would make a
    whole SVG document unreadable.
    """
    return html.escape(_NOT_XML.sub("\ufffd", text))


def html_table(
    header: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "", label: str = "", width: int = 5
) -> str:
    """Return an HTML table of escaped cells.

    rows: lists of cells, formatted by `format_cell`; note: a paragraph above the table; label: name of the table, which
    a screen reader reads; width: minimum width of a column in em. With an empty header there is only the note. The
    table has no colors of its own, so that it suits light and dark themes. A wide table scrolls inside its own box, by
    keyboard too: Tab reaches the box.
    """
    lines = [_row("th", header, width, ' scope="col"'), *(_row("td", row, width) for row in rows)]
    paragraph = f"<p>{escape(note)}</p>" if note else ""
    name = f' aria-label="{escape(label)}"' if label else ""
    region = f' role="region"{name}' if label else ""
    table = (
        f'<div{region} tabindex="0" style="overflow-x: auto"><table{name}>{"".join(lines)}</table></div>'
        if header
        else ""
    )
    # A width of 0 with a minimum of 100 %: a wide table does not make the panel around it wider, and scrolls by itself.
    return f'<div role="status" style="width: 0; min-width: 100%; line-height: 1.4">{paragraph}{table}</div>'


def format_cell(value: Any) -> str:
    """Return the text of a cell: two decimals for a float, a dash for None and NaN."""
    if value is None or value != value:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def pluralize(things: Sized, noun: str = "example") -> str:
    """Return how many things there are, for example "1 example" or "2 examples"."""
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"


def _row(tag: str, cells: Sequence[Any], width: int, attributes: str = "") -> str:
    style = CELL.format(width=width)
    parts = [f'<{tag} style="{style}"{attributes}>{escape(format_cell(cell))}</{tag}>' for cell in cells]
    return f"<tr>{''.join(parts)}</tr>"
