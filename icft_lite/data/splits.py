"""Read sources, and cut them into train, validation and test."""

import hashlib
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets

from icft_lite.data.readers import is_hub_name, read_ids, read_source
from icft_lite.data.tables import column, iter_columns
from icft_lite.errors import ICFTError

HELD_OUT = 1000
"""At most this many groups of a file for validation, and for test: more would only cost time."""


def read_examples(source, *, domain="", split=None, require=None):
    """Read a source, or a list of sources, into one Dataset of canonical rows (FEATURES).

    source: a .jsonl, .json, .csv or .parquet path, a Hub name (`owner/name[:config][@split]`), a list of
    dicts, or a list of paths and names. PubMedQA's release and MedQuAD are known by their fields; the first
    adds a column `long_answer`. domain: for rows that name none. split: of a Hub data set; of a file,
    `train`, `validation` or `test` as `split_source` cuts it. require: a task, or several, that every row
    must have. Raises ICFTError."""
    if isinstance(source, (list, tuple)) and source and not isinstance(source[0], dict):
        return concatenate([read_examples(one, domain=domain, split=split, require=require) for one in source])
    if split and isinstance(source, (str, Path)) and not is_hub_name(source):
        rows = split_source(source, domain=domain).get(split)
        if rows is None:
            raise ICFTError(
                f"{source}: it has no split {split!r}; a file has train, validation and test "
                f"(PubMedQA: with test_ground_truth.json beside it)"
            )
    else:
        rows = read_source(source, domain, split)
    if require:
        wanted = (require,) if isinstance(require, str) else tuple(require)
        for number, task in enumerate(column(rows, "task"), 1):
            if task not in wanted:
                raise ICFTError(f"{source}: example {number} is a {task}; only {', '.join(wanted)} fit here")
    return rows


def concatenate(parts):
    """Concatenate canonical Datasets; None if there are none. Raises ICFTError if an id occurs twice."""
    check_unique_ids(parts)
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0] if parts else None


def check_unique_ids(parts):
    seen = set()
    for part in parts:
        if both := seen & (ids := set(column(part, "id"))):
            raise ICFTError(f"id {min(both)!r} is in two files; give each row an id of its own")
        seen |= ids


def read_pubmedqa(path, test_ids=None):
    """PubMedQA's original release -> (rest, test or None), gold labels and `long_answer` in both.

    Test ids come from `test_ids` (a file) or from test_ground_truth.json beside `path`; without either,
    there is no test part. Raises ICFTError."""
    parts = split_source(path, domain="medical", test_ids=test_ids)
    return concatenate([parts["train"], parts["validation"]]), parts["test"]


def split_source(source, domain="", test_ids=None, seed=0):
    """Cut one source into {"train", "validation", "test"}: 80/10/10 of its labelled groups, by hash.

    Rows about one entity, else with one context, else with one prompt, are a group and stay on one side, so
    nothing tested is trained on. Unlabelled rows go to train, unless their group is held out. `test_ids`, a
    file, names the test rows itself. PubMedQA has a test part only if it, or test_ground_truth.json beside
    the release, does; a fifth of its rest validates. Raises ICFTError."""
    rows = read_examples(source, domain=domain)
    release = Path(str(source)).suffix == ".json" and "long_answer" in rows.column_names
    beside = Path(str(source)).parent / "test_ground_truth.json"
    if release and test_ids is None and beside.is_file():
        test_ids = beside
    ids, labels, groups = read_ids(test_ids) if test_ids else set(), column(rows, "label"), group_hashes(rows, seed)
    named = [name in ids for name in column(rows, "id")] if ids else [False] * len(rows)
    if test_ids and not any(named):
        raise ICFTError(f"{test_ids}: none of its ids is in {source}; give the ids of that file's test rows")
    fixed = {group for group, one in zip(groups, named, strict=True) if one}
    free = {group for group, label in zip(groups, labels, strict=True) if label >= 0} - fixed
    if 0 < len(free) < 3:
        raise ICFTError(f"{source}: {len(free)} different labelled prompts; to hold some out takes 3")
    order = sorted(free)
    share = min(HELD_OUT, max(1, round(len(order) * (0.2 if release else 0.1))))
    cut = 0 if release or ids else share
    test, validation = set(order[:cut]), set(order[cut : cut + share])
    places = {"train": [], "validation": [], "test": []}
    for i, (one, label, group) in enumerate(zip(named, labels, groups, strict=True)):
        if one or group in test:
            place = "test"
        elif group in validation:
            place = "validation"
        else:
            place = "train" if group not in fixed else None
        if place and (label >= 0 or place == "train"):
            places[place].append(i)
    return {place: select_indices(rows, chosen) for place, chosen in places.items()}


def group_hashes(rows, seed=0):
    """The group of each row, what must not lie on two sides of a split, as a hash of 32 bytes: a random order too."""
    if rows is None:
        return []
    keys = (
        entity or context or " ".join([*(turn["content"] for turn in history), prompt])
        for entity, context, prompt, history in iter_columns(rows, "entity", "context", "prompt", "history")
    )
    return [hashlib.sha256(f"{seed}:{' '.join(key.lower().split())}".encode()).digest() for key in keys]


def select_indices(rows, keep):
    return rows.select(np.array(keep)) if keep else None  # datasets hashes an array a hundred times faster
