"""Files, Hub data sets and lists of dicts, read as one Dataset of canonical examples.

Rows are streamed, so that a million of them fit in memory. Every error that the user can fix is an ICFTError of one
line: which file, which line, what is wrong, how to fix it.
"""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from datasets import Dataset, load_dataset

from icft_lite.data.corpora import medmcqa, medquad, pubmedqa
from icft_lite.data.formats import normalize_example
from icft_lite.data.schema import FEATURES, Example, RawRow, Source, source_name
from icft_lite.data.tables import BATCH, to_dataset
from icft_lite.errors import ICFTError

HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+?)(?::([\w.-]+))?(?:@([\w.-]+))?")
"""owner/name[:config][@split]"""
CORPORA = (medmcqa, pubmedqa, medquad)
"""The data sets that are recognized by their columns."""
RawRows = Iterator[tuple[str, int | str, RawRow]]
"""(where, index, raw row) of each row. `where` starts error messages; a row without an id is named by the index."""

csv.field_size_limit(2**24)  # the default, 131,072 characters, is less than a long context


def read_source(source: Source, domain: str = "", split: str | None = None) -> Dataset:
    """Return one path, Hub name or list of dicts as a Dataset of canonical examples.

    domain: for rows that name none. split: of a Hub data set. Raises ICFTError.
    """
    examples = _unique_examples(source, domain, split)
    if (first := next(examples, None)) is None:
        raise ICFTError(f"{source_name(source)}: no examples in it; give at least one")
    return to_dataset(chain([first], examples), extra=[name for name in first if name not in FEATURES])


def is_hub_name(source: str | os.PathLike[str]) -> bool:
    """Return True if `source` can only be a Hub name: owner/name, no file suffix that is read, no such path."""
    path = Path(source)
    return not path.exists() and path.suffix.lower() not in READERS and bool(HUB_NAME.fullmatch(str(source)))


def read_ids(path: str | os.PathLike[str]) -> set[str]:
    """Return the ids in a file: a JSON object or list, or ids separated by white space. Raises ICFTError."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ICFTError(f"{path}: test ids cannot be read ({type(error).__name__}); give a text or JSON file") from None
    try:
        return set(map(str, json.loads(text)))
    except (json.JSONDecodeError, TypeError):
        return set(text.split())


def read_jsonl(path: Path) -> RawRows:
    """Yield (where, line number, row) of a JSONL file. Raises ICFTError for a broken line."""
    with path.open("rb") as file:  # bytes: only \n ends a line, so that numbers agree with every editor
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f"{path} line {number}", number, json.loads(line.decode("utf-8-sig"))
                except json.JSONDecodeError as error:
                    raise ICFTError(
                        f"{path} line {number}: broken JSON ({error.msg}, column {error.colno}); fix that line"
                    ) from None
                except UnicodeDecodeError:
                    raise ICFTError(f"{path} line {number}: not UTF-8; save the file as UTF-8") from None


def _unique_examples(source: Source, domain: str, split: str | None) -> Iterator[Example]:
    """Yield the canonical examples. Raises ICFTError if two of them have the same id."""
    seen = set()
    for where, example in _canonical_examples(source, domain, split):
        name = example["id"]
        if name in seen:
            first = next(place for place, other in _canonical_examples(source, domain, split) if other["id"] == name)
            raise ICFTError(f"{where}: id {name!r} is already used at {first}; give each example its own id")
        seen.add(name)
        yield example


def _canonical_examples(source: Source, domain: str, split: str | None) -> Iterator[tuple[str, Example]]:
    """Yield (where, canonical example)."""
    name, rows = _open(source, split)
    id_counts: Counter[str] = Counter()
    for where, index, raw in rows:
        row = _convert(raw, where)
        if row is None:
            continue
        example = normalize_example(row, where, f"{name}-{index}")
        example["domain"], example["topic"] = example["domain"] or domain, example["topic"] or name
        pubmedqa.add_conclusion(example, row)
        medquad.number_repeated_id(example, row, id_counts)
        yield where, example


def _convert(row: RawRow, where: str) -> RawRow | None:
    """Return a row of a known data set in a generic format, any other row unchanged; None if it is unusable."""
    if isinstance(row, dict) and "choices" not in row:
        for corpus in CORPORA:
            if corpus.matches(row):
                return corpus.convert(row, where)
    return row


def _open(source: Source, split: str | None) -> tuple[str, RawRows]:
    """Return (name, rows) of a source; the name is the topic of rows that have none, and starts their ids."""
    if isinstance(source, list | tuple):
        # "row" starts the ids: a different word would change every id, and with it every random draw.
        return "row", ((f"example {number}", number, row) for number, row in enumerate(source, 1))
    if is_hub_name(source):
        return str(source), _read_hub(str(source), split)
    path = Path(source)
    if not path.is_file():
        state = "a folder, not a file" if path.is_dir() else "no such file"
        raise ICFTError(f"{source}: {state}; give a {', '.join(READERS)} file, or owner/name on the Hub")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ICFTError(f"{source}: files of this kind are not read; give {', '.join(READERS)}")
    return path.stem, reader(path)


def _read_json(path: Path) -> RawRows:
    """Yield the rows of a JSON list, or of PubMedQA's original release."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise ICFTError(
            f"{path} line {error.lineno}: broken JSON ({error.msg}, column {error.colno}); fix that line"
        ) from None
    except UnicodeDecodeError:
        raise ICFTError(f"{path}: not UTF-8; save the file as UTF-8") from None
    if isinstance(data, list):
        yield from ((f"{path} item {number}", number, row) for number, row in enumerate(data, 1))
    elif pubmedqa.is_release(data):
        yield from pubmedqa.read_release(data, path)
    else:
        raise ICFTError(f"{path}: neither a list of objects nor PubMedQA's release; save one object a line as .jsonl")


def _read_csv(path: Path) -> RawRows:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader, end = csv.DictReader(file, strict=True), 1
            for row in reader:
                start, end = end + 1, reader.line_num  # a quoted cell may contain several lines
                if None in row:
                    raise ICFTError(
                        f"{path} line {start}: more cells than the header has; quote texts that contain commas"
                    )
                yield f"{path} line {start}", start, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ICFTError(f"{path}: not a UTF-8 CSV ({error}); save it again as CSV UTF-8") from None


def _read_parquet(path: Path) -> RawRows:
    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(BATCH):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", number, row
    except pa.ArrowInvalid as error:
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
    for number, row in enumerate(rows, 1):
        yield f"{name} row {number}", number, row


READERS: dict[str, Callable[[Path], RawRows]] = {
    ".jsonl": read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
}
"""From a file's suffix to the function that reads it."""
