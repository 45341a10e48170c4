"""What every front end shows: HTML tables, in which whatever a person, a row or a model wrote is escaped."""

import html

CELL = "padding: 4px 8px; text-align: left; vertical-align: top; white-space: pre-wrap"


def html_table(head, rows, note=""):
    """head: list of str; rows: lists of cells, shown by `shown`; note: a line above, or alone without a head → HTML.

    No colours of its own: themes are light or dark. A wide table scrolls inside its own box."""
    lines = [_line("th", head, ' scope="col"'), *(_line("td", row) for row in rows)]
    note = f"<p>{html.escape(note)}</p>" if note else ""
    lines = f"<table>{''.join(lines)}</table>" if head else ""
    return f'<div role="status" style="overflow-x: auto; line-height: 1.4">{note}{lines}</div>'


def format_cell(value):
    """A cell's text: two decimals for a float, a dash for NaN and None."""
    if value is None or value != value:
        return "–"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def pluralize(things, name="row"):
    """How many: "1 row", "2 rows"."""
    return f"{len(things)} {name}{'s' * (len(things) != 1)}"


def _line(tag, cells, more=""):
    cells = [f'<{tag} style="{CELL}"{more}>{html.escape(format_cell(cell))}</{tag}>' for cell in cells]
    return f"<tr>{''.join(cells)}</tr>"
