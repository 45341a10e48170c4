"""The sources that a user names -> a DataBundle, or examples to score."""

import hashlib
from pathlib import Path
from types import MappingProxyType

from datasets import Dataset

from icft_lite.data.bundle import DataBundle
from icft_lite.data.samples import load_samples, sample_bundle
from icft_lite.data.splits import (
    check_unique_ids,
    concatenate,
    group_hashes,
    read_examples,
    select_indices,
    split_source,
)
from icft_lite.data.tables import column
from icft_lite.errors import ICFTError


def bundle_from_files(data, general, test_ids=None, seed=0):
    """The user's sources (paths, Hub names, or `samples`) as a DataBundle, each cut by `split_source`.

    Unlabelled rows are the pool. PubMedQA's training part is all pool, its labels in `pool_gold`: weak labels
    are what it is for. A training row whose group another file holds out is left out. Raises ICFTError."""
    samples, gold, roles = sample_bundle() if "samples" in (*data, *general) else None, {}, {}
    for prefix, sources, ids in (("", data, test_ids), ("general_", general, None)):
        domain = "general" if prefix else "medical"
        parts = [split_source(source, domain, ids, seed) for source in sources if source != "samples"]
        test = {group for part in parts for group in group_hashes(part["test"])}
        held = test | {group for part in parts for group in group_hashes(part["validation"])}
        tests = [part["test"] for part in parts]
        validations = [_without(part["validation"], test) for part in parts]
        trains = [_without(part["train"], held) for part in parts]
        if prefix:
            found = {"general_memory": [_labelled(rows, True) for rows in trains]}
        else:
            pools = [_blank(rows, gold) for rows in trains]
            found = {
                "trusted": [_labelled(rows, True) for rows in pools],
                "pool": [_labelled(rows, False) for rows in pools],
            }
        found |= {f"{prefix}validation": validations, f"{prefix}test": tests}
        for role, rows in found.items():
            rows += [getattr(samples, role)] if "samples" in sources else []
            roles[role] = concatenate([part for part in rows if part is not None])
    if roles["validation"] is None:
        raise ICFTError(f"{', '.join(map(str, data))}: no labelled rows; some are needed to validate")
    check_unique_ids([rows for rows in roles.values() if rows is not None])
    if "samples" in data:
        gold |= samples.pool_gold
    return DataBundle(**roles, pool_gold=gold, sources={str(s): file_hash(s) for s in (*data, *general)})


def evaluation_examples(sources, test_ids=None, trained_on=MappingProxyType({})):
    """The rows of `sources` to score a run on: the test part of PubMedQA and of each file the run was trained
    on (`trained_on`: DataBundle.sources of that run), else every labelled row. Raises ICFTError."""
    parts = []
    for source in sources:
        if source == "samples":
            parts.append(load_samples("medical_test"))
            continue
        rows = read_examples(source, domain="medical")
        seen = str(source) in trained_on or file_hash(source) in set(trained_on.values()) - {""}
        if test_ids or seen or "long_answer" in rows.column_names:
            rows = split_source(source, "medical", test_ids)["test"]
            if rows is None:
                raise ICFTError(
                    f"{source}: which rows are its test is not known; give --test-ids, or put "
                    f"test_ground_truth.json beside it"
                )
        parts.append(_labelled(rows, True))
    if not (parts := [rows for rows in parts if rows is not None]):
        raise ICFTError(f"{', '.join(map(str, sources))}: no labelled rows to score; add answers")
    return concatenate(parts)


def file_hash(source):
    """SHA-256 of a file's bytes, hex; "" for `samples` and Hub names."""
    path = Path(str(source))
    if source == "samples" or not path.is_file():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without(rows, groups):
    return select_indices(rows, [i for i, group in enumerate(group_hashes(rows)) if group not in groups])


def _labelled(rows, yes):
    labels = column(rows, "label") if rows is not None else []
    return select_indices(rows, [i for i, label in enumerate(labels) if (label >= 0) == yes])


def _blank(rows, gold):
    """Move the labels of PubMedQA's rows from the Dataset to `gold`; other rows are left as they are."""
    if rows is None or "long_answer" not in rows.column_names:
        return rows
    gold |= {name: label for name, label in zip(column(rows, "id"), column(rows, "label"), strict=True) if label >= 0}
    return Dataset.from_dict({**rows.to_dict(), "label": [-1] * len(rows)}, features=rows.features)
