"""Raw rows of files, of Hub data sets and of objects in memory, one at a time.

A file is read by its content: JSON lines in a .json file, an array in a .jsonl file, gzip, UTF-16, and CSV with
semicolons or tabs are recognized. Every error names the file, the line and the fix.
"""

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import IO, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
from datasets import ClassLabel, Dataset, load_dataset

from icft_lite.data.corpora import pubmedqa
from icft_lite.data.rows import KNOWN, parse_cell
from icft_lite.data.schema import RawRow, Source, source_name
from icft_lite.data.tables import BATCH, iter_examples
from icft_lite.errors import ICFTError

HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+?)(?::([\w.-]+))?(?:@([\w.-]+))?")
"""owner/name[:config][@split]"""
RawRows = Iterator[tuple[str, int | str, RawRow]]
"""(where, index, raw row) of each row. `where` starts error messages; a row without an id is named by the index."""
DELIMITERS = ",;\t|"
"""Delimiters of a CSV, preferred ones first."""
MISSING_CELLS = frozenset({"nan", "NaN", "NAN", "<NA>", "null", "NULL", "#N/A"})
"""Cells of a CSV that stand for a missing value in any column."""
PARTS = ("text", "image", "image_url", "audio", "input_audio", "video", "file")
"""Types of the parts of a turn."""
MESSAGES = re.compile(r"\s*\[\s*\{\s*['\"](role|content|from|value|type)['\"]")
"""The beginning of a cell of a CSV that holds a list of messages, as JSON or Python writes it."""

csv.field_size_limit(2**24)  # the default, 131,072 characters, is less than a long context


def open_source(source: Source, split: str | None = None) -> tuple[str, RawRows]:
    """Return (name, rows) of a source; the name is the topic of rows that have none, and starts their ids.

    split: of a Hub data set. Raises ICFTError if the source cannot be read, there or while its rows are read.
    """
    # "row" starts the ids: a different word would change every id, and with it every random draw.
    if isinstance(source, list | tuple):
        return "row", _number("example", (_plain(row) for row in source))
    if isinstance(source, pd.DataFrame):
        if not source.columns.is_unique:
            repeated = source.columns[source.columns.duplicated()][0]
            raise ICFTError(f"{source_name(source)}: two columns are named {repeated}; rename one of them")
        return "row", _number("row", (_plain(row) for row in source.to_dict("records")))
    if isinstance(source, Dataset):
        return "row", _number("row", _with_class_names(source))
    if not isinstance(source, str | os.PathLike):
        fix = "name one of its splits, such as data['train']" if isinstance(source, dict) else "convert it"
        raise ICFTError(
            f"found a {type(source).__name__}, expected a path, a Dataset, a DataFrame or a list of dicts; {fix}"
        )
    if is_hub_name(source):
        return str(source), _read_hub(str(source), split)
    path = Path(source)
    if not path.is_file():
        state = "a folder, not a file" if path.is_dir() else "no such file"
        raise ICFTError(f"{source}: {state}; give a {', '.join(READERS)} file, or owner/name on the Hub")
    plain = Path(path.stem) if path.suffix.lower() == ".gz" else path
    if (reader := READERS.get(plain.suffix.lower())) is None:
        raise ICFTError(f"{source}: files of this kind are not read; give {', '.join(READERS)}, also with .gz")
    return plain.stem, _check_file(reader(path), path)


def is_hub_name(source: str | os.PathLike[str]) -> bool:
    """Return True if `source` can only be a Hub name: owner/name, no file suffix that is read, no such path."""
    path = Path(source)
    return not path.exists() and path.suffix.lower() not in (*READERS, ".gz") and bool(HUB_NAME.fullmatch(str(source)))


def read_jsonl(path: Path) -> RawRows:
    """Yield (where, line number, row) of a JSONL file. Raises ICFTError for a broken line."""
    with _open_utf8(path) as file:  # bytes: only \n ends a line, so that numbers agree with every editor
        for number, line in enumerate(file, 1):
            if line.strip():
                yield f"{path} line {number}", number, _parse_json(line, f"{path} line {number}")


def _check_file(rows: RawRows, path: Path) -> RawRows:
    """Yield the rows of a file. Raises ICFTError where the file itself cannot be read."""
    try:
        yield from rows
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ICFTError(f"{path}: cannot be read ({type(error).__name__}: {error}); save it again") from None


def _number(unit: str, rows: Any) -> RawRows:
    return ((f"{unit} {number}", number, row) for number, row in enumerate(rows, 1))


def _with_class_names(data: Dataset) -> Iterator[RawRow]:
    """Yield the rows of a Dataset, with the names of classes instead of their numbers; None for −1."""
    names = {column: feature.names for column, feature in data.features.items() if isinstance(feature, ClassLabel)}
    for row in iter_examples(data.with_format(None)):
        for column, known in names.items():
            row[column] = known[row[column]] if row[column] is not None and row[column] >= 0 else None
        yield row


def _plain(value: Any) -> Any:
    """Return NumPy and pandas values as Python ones, and NA as None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if value is pd.NA or value is pd.NaT else value


def _open_utf8(path: Path) -> IO[bytes]:
    """Return a file as UTF-8 bytes: unpacked if it is gzip, converted if it is UTF-16, without a byte order mark."""
    with path.open("rb") as raw:
        opener: Callable[[Path], Any] = gzip.open if raw.read(2) == b"\x1f\x8b" else Path.open
    file: IO[bytes] = opener(path, "rb")  # type: ignore[call-arg]
    start = file.read(4)
    file.seek(3 if start[:3] == b"\xef\xbb\xbf" else 0)
    wide = start[:2] in (b"\xff\xfe", b"\xfe\xff")
    if wide or (len(start) == 4 and start[1::2] == b"\0\0") or start[::2] == b"\0\0":
        encoding = "utf-16" if wide else "utf-16-le" if start[1] == 0 else "utf-16-be"
        return io.BytesIO(file.read().decode(encoding).encode())
    return file


def _read_json(path: Path) -> RawRows:
    """Yield the rows of a JSON array, of JSON lines, of an object of columns or rows, or of PubMedQA's release."""
    with _open_utf8(path) as file:
        lines = (line for line in file if line.strip())
        first, second = next(lines, b""), next(lines, b"")
    is_lines = ".json" not in (suffix.lower() for suffix in path.suffixes)
    if not is_lines and second:
        try:
            is_lines = isinstance(json.loads(first), dict)
        except ValueError:
            pass
    if is_lines and not first.lstrip().startswith(b"["):
        yield from read_jsonl(path)
        return
    with _open_utf8(path) as file:
        content = file.read()
    if is_lines and first.rstrip().endswith(b"]") and second.lstrip().startswith(b"["):
        raise ICFTError(f"{path}: each line is an array; write one object with named columns a line")
    data = _parse_json(content, str(path)) if content.strip() else []
    if isinstance(data, dict) and pubmedqa.is_release(data):
        yield from pubmedqa.read_release(data, path)
        return
    rows = _rows_of_object(data) if isinstance(data, dict) else data
    if not isinstance(rows, list):
        found = f"an object with {', '.join(list(data)[:5])}" if isinstance(data, dict) else type(data).__name__
        raise ICFTError(
            f"{path}: neither a list of objects nor PubMedQA's release, found {found}; save one object a line as .jsonl"
        )
    yield from ((f"{path} item {number}", number, row) for number, row in enumerate(rows, 1))


def _rows_of_object(data: dict[str, Any]) -> list[RawRow] | None:
    """Return the rows of a JSON object; None if it has none.

    It may be one row, have the list of rows as its only value, or be from columns to cells or from ids to rows, as
    pandas writes them.
    """
    columns = list(data.values())
    lists = [cells for cells in columns if isinstance(cells, list) and cells and isinstance(cells[0], dict)]
    if KNOWN & data.keys() and (len(lists) == len(columns) or any(isinstance(cell, str) for cell in columns)):
        return [data]
    if len(columns) == len(lists) == 1:
        return lists[0]
    if columns and all(isinstance(cells, dict) for cells in columns):
        if all(KNOWN & cells.keys() for cells in columns):
            return columns
        if all(cells.keys() == columns[0].keys() for cells in columns):
            columns = [list(cells.values()) for cells in columns]
    if columns and all(isinstance(cells, list) and len(cells) == len(columns[0]) for cells in columns):
        return [dict(zip(data, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return None


def _parse_json(text: bytes, where: str) -> Any:
    """Return the value of JSON text. Raises ICFTError; in a text of several lines it names the line."""
    try:
        return json.loads(text.decode())
    except json.JSONDecodeError as error:
        place = where if " line " in where else f"{where} line {error.lineno}"
        raise ICFTError(f"{place}: broken JSON ({error.msg}, column {error.colno}); fix that line") from None
    except UnicodeDecodeError:
        raise ICFTError(f"{where}: not UTF-8; save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or very deep nesting
        raise ICFTError(f"{where}: JSON that cannot be read ({error}); shorten that value") from None


def _read_csv(path: Path) -> RawRows:
    """Yield the rows of a CSV. Its delimiter is the one that gives the header the most known columns."""
    end = 1
    try:
        with io.TextIOWrapper(_open_utf8(path), encoding="utf-8", newline="") as file:
            header = file.readline()
            if skipped := int(header.startswith("sep=")):  # Excel names the delimiter in a line of its own
                header = file.readline()
            delimiter = max(DELIMITERS, key=lambda mark: _rate_header(header, mark))
            reader, end = csv.DictReader(chain([header], file), delimiter=delimiter, strict=True), 1 + skipped
            names = list(reader.fieldnames or ())
            if repeated := {name for name in names if name and names.count(name) > 1}:
                raise ICFTError(f"{path} line 1: two columns are named {min(repeated)}; rename one of them")
            for row in reader:
                start, end = end + 1, reader.line_num + skipped  # a quoted cell may contain several lines
                if any(row.pop(None, None) or ()):
                    raise ICFTError(
                        f"{path} line {start}: more cells than the header has; quote texts that contain {delimiter!r}"
                    )
                where = f"{path} line {start}"
                if any(row.values()):  # spreadsheets write empty rows
                    yield where, start, {name: _read_cell(cell, where) for name, cell in row.items()}
    except csv.Error as error:
        raise ICFTError(f"{path} line {end + 1}: broken CSV ({error}); correct the quotes of that row") from None
    except UnicodeDecodeError as error:
        raise ICFTError(f"{path}: not a UTF-8 CSV ({error}); save it again as CSV UTF-8") from None


def _read_cell(cell: str | None, where: str) -> Any:
    """Return the cell of a CSV: None for a missing value, and the list that the text of a list of messages holds."""
    if cell is None or cell in MISSING_CELLS:
        return None
    if not MESSAGES.match(cell):
        return cell
    found = parse_cell(cell, where)
    is_read = isinstance(found, list) and all(isinstance(one, dict) and _is_message(one) for one in found)
    return found if is_read else cell  # a text that is JSON


def _is_message(value: Mapping[str, Any]) -> bool:
    """Return whether an object is a turn, or a part of one."""
    return bool(value.keys() & {"role", "from"}) or value.get("type") in PARTS


def _rate_header(header: str, delimiter: str) -> tuple[int, int]:
    """Return (known columns, columns) of the header of a CSV with this delimiter."""
    names = next(csv.reader([header], delimiter=delimiter), [])
    return len({name.strip() for name in names} & KNOWN), len(names)


def _read_parquet(path: Path) -> RawRows:
    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(BATCH):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", number, row
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0]
        raise ICFTError(f"{path}: not a Parquet file ({reason}); write it again") from None


def _read_hub(name: str, split: str | None) -> RawRows:
    match = HUB_NAME.fullmatch(name)
    assert match is not None, "is_hub_name has checked the name"
    repository, config, own_split = match.groups()
    try:
        if not os.environ.get("HF_HUB_OFFLINE"):  # one short request: without network, load_dataset retries for long
            from huggingface_hub import HfApi

            HfApi().dataset_info(repository, timeout=10)
        rows = load_dataset(repository, config, split=split or own_split or "train")
    except Exception as error:  # its class depends on the HTTP library underneath
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ICFTError(
            f"{name}: no such file, and the Hub did not provide it ({reason}); check the path, the name and the network"
        ) from error
    yield from _number(f"{name} row", _with_class_names(rows))


READERS: dict[str, Callable[[Path], RawRows]] = {
    ".jsonl": _read_json,
    ".ndjson": _read_json,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}
"""From a file's suffix to the function that reads it."""
