"""Files with the ids of test examples."""

import json
import os
from pathlib import Path
from typing import Any, cast

from icft_lite.data.files import open_source
from icft_lite.errors import ICFTError


def read_test_ids(path: str | os.PathLike[str]) -> set[str]:
    """Return the ids in a file: a JSON object from ids, a list of ids or of objects with `id`, or an id on each line.

    A line may be a JSON object with `id` too. Of a CSV with a column `id`, only this column is read. Raises ICFTError.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ICFTError(f"{path}: test ids cannot be read ({type(error).__name__}); give a text or JSON file") from None
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    found = _parsed(text)
    if isinstance(found, dict) and "id" not in found:
        found = list(found)
    items = found if isinstance(found, list) else [_parsed(line) if line[0] in '{"' else line for line in lines]
    if Path(path).suffix.lower() in (".csv", ".tsv"):
        rows = [row for *_, row in open_source(path)[1]]
        items = rows if rows and "id" in rows[0] else items
    ids = {_id(item.get("id") if isinstance(item, dict) else item) for item in items}
    if None in ids or not ids:
        raise ICFTError(f"{path}: no test ids were found; give a JSON list of ids, or one id on each line")
    return cast(set[str], ids)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _id(value: Any) -> str | None:
    """Return an id as the text that examples have; None if it is no id. A number equals its text."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, str | int | float) else None
