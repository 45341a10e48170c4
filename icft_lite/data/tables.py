"""Canonical examples as a Dataset, read a batch at a time: a million of them take gigabytes as Python objects."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any
from uuid import uuid4

import pyarrow as pa
from datasets import Dataset, Features

from icft_lite.data.schema import FEATURES, TEXT, Example, Examples

BATCH = 5000
"""Number of examples that are Python objects at a time."""

# NumPy values are hashed as the Python numbers that a Dataset gives back.
_encode_json = json.JSONEncoder(
    sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=lambda value: value.tolist()
).encode


def to_dataset(examples: Iterable[Example], extra: Iterable[str] = ()) -> Dataset:
    """Return canonical examples as a Dataset; `extra` names further columns, of text."""
    return from_table(to_table(examples, extra))


def to_table(examples: Iterable[Example], extra: Iterable[str] = ()) -> pa.Table:
    """Return canonical examples as an Arrow table; `extra` names further columns, of text."""
    schema = Features(FEATURES | {name: TEXT for name in extra}).arrow_schema
    examples, batches = iter(examples), []
    while batch := list(islice(examples, BATCH)):
        batches.append(pa.RecordBatch.from_pylist(batch, schema))
    return pa.Table.from_batches(batches, schema)


def from_table(table: pa.Table) -> Dataset:
    """Return a table of `to_table` as a Dataset."""
    # The fingerprint is random, since the one that Dataset computes pickles every example.
    return Dataset(table, fingerprint=uuid4().hex[:16])


def column(examples: Examples, name: str) -> list[Any]:
    """Return one column of a Dataset, or of a list of dicts, as a list."""
    return [value for (value,) in iter_columns(examples, name)]


def iter_columns(examples: Examples, *names: str) -> Iterator[tuple[Any, ...]]:
    """Yield the values of the named columns, one tuple for each example."""
    if isinstance(examples, Dataset):
        for batch in examples.select_columns(list(names)).iter(BATCH):
            yield from zip(*(batch[name] for name in names), strict=True)
    else:
        yield from (tuple(example[name] for name in names) for example in examples)


def iter_examples(examples: Examples) -> Iterator[Example]:
    """Yield each example as a dict."""
    if isinstance(examples, Dataset):
        names = examples.column_names
        yield from (dict(zip(names, values, strict=True)) for values in iter_columns(examples, *names))
    else:
        yield from examples


def hash_examples(examples: Examples) -> str:
    """Return the SHA-256 of the examples' content, in their order, as hex.

    Every column counts, also one that FEATURES does not have. A value of None counts as a missing column, because a
    Dataset fills missing columns with None. The hash does not depend on the order of the columns, on the batches of a
    Dataset, or on whether the examples are a Dataset or a list.
    """
    return _hash_items(_content(example) for example in iter_examples(examples))


def hash_values(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a dict from ids to numbers or lists of numbers, as hex. The order of the ids is ignored."""
    return _hash_items([key, values[key]] for key in sorted(values))


def _content(example: Example) -> Example:
    """Return the example as a Dataset would give it back: without None, and with a posterior of floats."""
    if any(value is None for value in example.values()):
        example = {name: value for name, value in example.items() if value is not None}
    if len(example.get("posterior", ())):
        example = {**example, "posterior": [float(p) for p in example["posterior"]]}
    return example


def _hash_items(items: Iterable[Any]) -> str:
    """Return the SHA-256 of the items as JSON, each followed by a comma, so that the batches do not matter."""
    digest, items = hashlib.sha256(), iter(items)
    while batch := list(islice(items, BATCH)):
        digest.update(_encode_json(batch)[1:-1].encode("ascii") + b",")
    return digest.hexdigest()
