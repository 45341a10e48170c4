"""Examples: the bundled samples, the user's files, and how rows are cut into train, validation and test."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
from datasets import Dataset, concatenate_datasets

from icft_lite.config import ICFTError, samples_dir
from icft_lite.readers import is_hub, read_ids, read_jsonl, read_source
from icft_lite.records import COLUMNS, FEATURES, answer_index, normalise
from icft_lite.tables import column, columns

__all__ = ["COLUMNS", "FEATURES", "DataBundle", "bundle_from_files", "evaluation_rows", "fingerprint", "join",
           "load_samples", "normalise", "pool_gold", "read_examples", "read_pubmedqa", "sample_bundle",
           "split_source"]

FILES = {"general_pretrain": ["general_pretrain"], "general_memory": ["general_memory"],
         "general_validation": ["general_validation"], "general_test": ["general_test"],
         "medical_train": ["medical_train"],
         "medical_validation": ["medical_validation", "medical_validation_pairs"],
         "medical_pool": ["medical_pool_questions", "medical_pool_pairs"],
         "medical_test": ["medical_test", "medical_test_pairs", "medical_test_replies"]}
"""The bundled sample sets and the files that each is joined from."""
HELD_OUT = 1000
"""At most this many groups of a file for validation, and for test: more would only cost time."""


@dataclass
class DataBundle:
    """What one run trains on and is scored on: canonical Datasets, each may be None."""

    trusted: Dataset | None = None
    """Labelled training rows."""
    pool: Dataset | None = None
    """Unlabelled questions and pairs (label -1), for weak labels."""
    validation: Dataset | None = None
    test: Dataset | None = None
    general_memory: Dataset | None = None
    """The only general rows that may enter the memory."""
    general_validation: Dataset | None = None
    general_test: Dataset | None = None
    pool_gold: dict = field(default_factory=dict)
    """id -> index of the right response, where known: to score weak labels, never to train."""
    posteriors: dict | None = None
    """Weak labels of the pool, once they are made."""
    sources: dict = field(default_factory=dict)
    """Source as the user named it -> fingerprint of its content."""

    def only(self, topics):
        """This bundle with the medical rows of `topics` alone; none named: as it is. Raises ICFTError for a topic
        that no row has."""
        if not topics:
            return self
        parts = {name: getattr(self, name) for name in ("trusted", "pool", "validation", "test")}
        known = {topic for rows in parts.values() if rows is not None for topic in column(rows, "topic")}
        if unknown := set(topics) - known:
            raise ICFTError(f"topics: {min(unknown)!r} is in no row; choose among {', '.join(sorted(known))}")
        return replace(self, **{name: _select(rows, _places(rows, topics)) for name, rows in parts.items()
                                if rows is not None})


def read_examples(source, *, domain="", split=None, require=None):
    """Read a source, or a list of sources, into one Dataset of canonical rows (FEATURES).

    source: a .jsonl, .json, .csv or .parquet path, a Hub name (`owner/name[:config][@split]`), a list of
    dicts, or a list of paths and names. PubMedQA's release and MedQuAD are known by their fields; the first
    adds a column `long_answer`. domain: for rows that name none. split: of a Hub data set; of a file,
    `train`, `validation` or `test` as `split_source` cuts it. require: a task, or several, that every row
    must have. Raises ICFTError."""
    if isinstance(source, (list, tuple)) and source and not isinstance(source[0], dict):
        return join([read_examples(one, domain=domain, split=split, require=require) for one in source])
    if split and isinstance(source, (str, Path)) and not is_hub(source):
        rows = split_source(source, domain=domain).get(split)
        if rows is None:
            raise ICFTError(f"{source}: it has no split {split!r}; a file has train, validation and test "
                            f"(PubMedQA: with test_ground_truth.json beside it)")
    else:
        rows = read_source(source, domain, split)
    if require:
        wanted = (require,) if isinstance(require, str) else tuple(require)
        for number, task in enumerate(column(rows, "task"), 1):
            if task not in wanted:
                raise ICFTError(f"{source}: example {number} is a {task}; only {', '.join(wanted)} fit here")
    return rows


def load_samples(name):
    """A bundled sample set: a key of FILES. Raises ICFTError for any other name."""
    if name not in FILES:
        raise ICFTError(f"samples: {name!r} is unknown; choose one of {', '.join(FILES)}")
    return read_examples([samples_dir() / f"{file}.jsonl" for file in FILES[name]], domain=name.split("_")[0])


def pool_gold():
    """Gold labels of the bundled pool, id -> index of the right response. For scoring only."""
    options = {row["id"]: row["responses"] for row in load_samples("medical_pool")}
    return {row["id"]: answer_index(row["answer"], options[row["id"]], where)
            for path in sorted((samples_dir() / "gold").glob("*.jsonl"))
            for where, _, row in read_jsonl(path) if row["id"] in options}


def join(parts):
    """Concatenate canonical Datasets; None if there are none. Raises ICFTError if an id occurs twice."""
    _unique(parts)
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0] if parts else None


def _unique(parts):
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
    return join([parts["train"], parts["validation"]]), parts["test"]


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
    ids, labels, groups = read_ids(test_ids) if test_ids else set(), column(rows, "label"), _groups(rows, seed)
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
    test, validation = set(order[:cut]), set(order[cut:cut + share])
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
    return {place: _select(rows, chosen) for place, chosen in places.items()}


def sample_bundle():
    """The bundled samples as a DataBundle."""
    names = [f"medical_{part}" for part in ("train", "pool", "validation", "test")]
    names += [f"general_{part}" for part in ("memory", "validation", "test")]
    return DataBundle(*map(load_samples, names), pool_gold=pool_gold(), sources={"samples": ""})


def bundle_from_files(data, general, test_ids=None, seed=0):
    """The user's sources (paths, Hub names, or `samples`) as a DataBundle, each cut by `split_source`.

    Unlabelled rows are the pool. PubMedQA's training part is all pool, its labels in `pool_gold`: weak labels
    are what it is for. A training row whose group another file holds out is left out. Raises ICFTError."""
    samples, gold, roles = sample_bundle() if "samples" in (*data, *general) else None, {}, {}
    for prefix, sources, ids in (("", data, test_ids), ("general_", general, None)):
        domain = "general" if prefix else "medical"
        parts = [split_source(source, domain, ids, seed) for source in sources if source != "samples"]
        test = {group for part in parts for group in _groups(part["test"])}
        held = test | {group for part in parts for group in _groups(part["validation"])}
        tests = [part["test"] for part in parts]
        validations = [_without(part["validation"], test) for part in parts]
        trains = [_without(part["train"], held) for part in parts]
        if prefix:
            found = {"general_memory": [_labelled(rows, True) for rows in trains]}
        else:
            pools = [_blank(rows, gold) for rows in trains]
            found = {"trusted": [_labelled(rows, True) for rows in pools],
                     "pool": [_labelled(rows, False) for rows in pools]}
        found |= {f"{prefix}validation": validations, f"{prefix}test": tests}
        for role, rows in found.items():
            rows += [getattr(samples, role)] if "samples" in sources else []
            roles[role] = join([part for part in rows if part is not None])
    if roles["validation"] is None:
        raise ICFTError(f"{', '.join(map(str, data))}: no labelled rows; some are needed to validate")
    _unique([rows for rows in roles.values() if rows is not None])
    if "samples" in data:
        gold |= samples.pool_gold
    return DataBundle(**roles, pool_gold=gold, sources={str(s): fingerprint(s) for s in (*data, *general)})


def evaluation_rows(sources, test_ids=None, trained_on=MappingProxyType({})):
    """The rows of `sources` to score a run on: the test part of PubMedQA and of each file the run was trained
    on (`trained_on`: DataBundle.sources of that run), else every labelled row. Raises ICFTError."""
    parts = []
    for source in sources:
        if source == "samples":
            parts.append(load_samples("medical_test"))
            continue
        rows = read_examples(source, domain="medical")
        seen = str(source) in trained_on or fingerprint(source) in set(trained_on.values()) - {""}
        if test_ids or seen or "long_answer" in rows.column_names:
            rows = split_source(source, "medical", test_ids)["test"]
            if rows is None:
                raise ICFTError(f"{source}: which rows are its test is not known; give --test-ids, or put "
                                f"test_ground_truth.json beside it")
        parts.append(_labelled(rows, True))
    if not (parts := [rows for rows in parts if rows is not None]):
        raise ICFTError(f"{', '.join(map(str, sources))}: no labelled rows to score; add answers")
    return join(parts)


def fingerprint(source):
    """SHA-256 of a file's bytes, hex; "" for `samples` and Hub names."""
    path = Path(str(source))
    if source == "samples" or not path.is_file():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _groups(rows, seed=0):
    """The group of each row, what must not lie on two sides of a split, as a hash of 32 bytes: a random order too."""
    if rows is None:
        return []
    keys = (entity or context or " ".join([*(turn["content"] for turn in history), prompt])
            for entity, context, prompt, history in columns(rows, "entity", "context", "prompt", "history"))
    return [hashlib.sha256(f"{seed}:{' '.join(key.lower().split())}".encode()).digest() for key in keys]


def _select(rows, keep):
    return rows.select(np.array(keep)) if keep else None  # datasets hashes an array a hundred times faster


def _places(rows, topics):
    return [i for i, topic in enumerate(column(rows, "topic")) if topic in topics]


def _without(rows, groups):
    return _select(rows, [i for i, group in enumerate(_groups(rows)) if group not in groups])


def _labelled(rows, yes):
    labels = column(rows, "label") if rows is not None else []
    return _select(rows, [i for i, label in enumerate(labels) if (label >= 0) == yes])


def _blank(rows, gold):
    """Move the labels of PubMedQA's rows from the Dataset to `gold`; other rows are left as they are."""
    if rows is None or "long_answer" not in rows.column_names:
        return rows
    gold |= {name: label for name, label in zip(column(rows, "id"), column(rows, "label"), strict=True) if label >= 0}
    return Dataset.from_dict({**rows.to_dict(), "label": [-1] * len(rows)}, features=rows.features)
