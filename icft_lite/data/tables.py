"""Canonical rows as a Dataset, and back, a batch at a time: as Python objects a million of them take gigabytes."""

from itertools import islice
from uuid import uuid4

import pyarrow as pa
from datasets import Dataset, Features

from icft_lite.data.schema import FEATURES, TEXT

BATCH = 5000


def to_dataset(rows, extra=()):
    """Canonical rows (any iterable of dicts) → Dataset; `extra` names more columns, of text."""
    schema = Features(FEATURES | {name: TEXT for name in extra}).arrow_schema
    rows, batches = iter(rows), []
    while batch := list(islice(rows, BATCH)):
        batches.append(pa.RecordBatch.from_pylist(batch, schema))
    # A fingerprint is drawn, since Dataset's own pickles every row to hash it.
    return Dataset(pa.Table.from_batches(batches, schema), fingerprint=uuid4().hex[:16])


def column(rows, name):
    """One column of a Dataset, or of a list of dicts, as a list."""
    return [value for (value,) in iter_columns(rows, name)]


def iter_columns(rows, *names):
    """Yield each row's values of the named columns, a tuple; of a Dataset, BATCH rows are Python objects at a time."""
    if isinstance(rows, list):
        yield from (tuple(row[name] for name in names) for row in rows)
    else:
        for batch in rows.select_columns(list(names)).iter(BATCH):
            yield from zip(*(batch[name] for name in names), strict=True)


def iter_examples(rows):
    """Yield each row as a dict; of a Dataset, BATCH rows are dicts at a time."""
    if isinstance(rows, list):
        yield from rows
    else:
        names = rows.column_names
        yield from (dict(zip(names, values, strict=True)) for values in iter_columns(rows, *names))
