"""What the source of code cells shows without executing it."""

import ast
from collections.abc import Iterable, Mapping

FIRST_LINE = 40
"""Characters of a cell's first line that are shown."""
MAX_PARSED = 100_000
"""Characters of a cell that is parsed. A syntax tree takes several hundred bytes per character, outside the sandbox."""


def first_line(cell: str) -> str:
    """Return the beginning of the first line of a cell that is neither empty nor a comment, in quotation marks.

    It identifies a cell for its author: the number that Jupyter shows depends on what was executed before.
    """
    lines = [line.strip() for line in cell.splitlines()]
    line = next((one for one in lines if one and not one.startswith("#")), "")
    return f'"{line[:FIRST_LINE]}{"…" if len(line) > FIRST_LINE else ""}"'


def names_used(cells: Iterable[str]) -> dict[str, set[str]]:
    """Return {function or class: names that its definition uses}, of all definitions at the top level of cells.

    The last definition of a name counts. Cells that are not plain Python, or longer than MAX_PARSED, are left out.
    """
    used: dict[str, set[str]] = {}
    for cell in cells:
        if len(cell) > MAX_PARSED:
            continue
        try:
            body = ast.parse(cell).body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                used[node.name] = {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}
    return used


def wrong_calls(function: str, used: Mapping[str, set[str]], wrong: Mapping[str, str]) -> list[str]:
    """Return "name (part)" of the wrong functions that a function uses, directly or through others.

    used: as `names_used` returns it. wrong: {function: id of its part}.
    """
    found: set[str] = set()
    todo = [function]
    while todo:
        new = used.get(todo.pop(), set()) - found
        found |= new
        todo += new
    return [f"{name} ({part})" for name, part in wrong.items() if name in found - {function}]
