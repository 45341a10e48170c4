"""Read sources, and split them into train, validation and test without leaks."""

import hashlib
import os
from collections.abc import Sequence
from typing import cast

import numpy as np
from datasets import Dataset, concatenate_datasets

from icft_lite.data.corpora import pubmedqa
from icft_lite.data.readers import is_hub_name, read_ids, read_source
from icft_lite.data.schema import Examples, Source, source_name
from icft_lite.data.tables import column, iter_columns
from icft_lite.errors import ICFTError

MAX_HELD_OUT_GROUPS = 1000
"""Maximum number of groups in the validation part, and in the test part, of a source. More would only cost time."""
HELD_OUT_SHARE = 0.1
"""The share of the labelled groups that becomes the validation part, and the test part."""
PUBMEDQA_VALIDATION_SHARE = 0.2
"""The share of the groups of PubMedQA's release that becomes the validation part, besides its published test part."""

Splits = dict[str, Dataset | None]
"""The parts `train`, `validation` and `test` of a source. A part without examples is None."""


def read_examples(
    source: Source | Sequence[Source],
    *,
    domain: str = "",
    split: str | None = None,
    require: str | Sequence[str] | None = None,
) -> Dataset:
    """Return one or several sources as a Dataset of canonical examples (FEATURES).

    source: a .jsonl, .json, .csv or .parquet path, a Hub name (`owner/name[:config][@split]`), a list of dicts, or a
    list of paths and names. MedMCQA, PubMedQA and MedQuAD are recognized by their columns; PubMedQA adds the column
    `long_answer`. domain: for examples that name none. split: of a Hub data set; of a file, `train`, `validation` or
    `test` as `split_source` makes them. require: a task, or several, that every example must have.

    Raises ICFTError if a source cannot be read, has no such split or another task, or if an id occurs twice.
    """
    if isinstance(source, list | tuple) and source and not isinstance(source[0], dict):
        sources = cast(Sequence[Source], source)
        return concatenate([read_examples(one, domain=domain, split=split, require=require) for one in sources])
    if split and isinstance(source, str | os.PathLike) and not is_hub_name(source):
        examples = split_source(source, domain=domain).get(split)
        if examples is None:
            raise ICFTError(
                f"{source}: it has no split {split!r}; a file has train, validation and test "
                f"(PubMedQA: with {pubmedqa.TEST_IDS_FILE} next to it)"
            )
    else:
        examples = read_source(cast(Source, source), domain, split)
    if require:
        name = source_name(cast(Source, source))
        wanted = (require,) if isinstance(require, str) else tuple(require)
        for number, task in enumerate(column(examples, "task"), 1):
            if task not in wanted:
                raise ICFTError(f"{name}: example {number} is a {task}; only {', '.join(wanted)} can be used here")
    return examples


def read_pubmedqa(
    path: str | os.PathLike[str], test_ids: str | os.PathLike[str] | None = None
) -> tuple[Dataset, Dataset | None]:
    """Return (rest, test) of PubMedQA's original release, both with gold labels and the column `long_answer`.

    The test ids come from the file `test_ids`, or from test_ground_truth.json next to `path`. Without either, the test
    part is None. Raises ICFTError as `split_source` does.
    """
    parts = split_source(path, domain="medical", test_ids=test_ids)
    return concatenate([part for part in (parts["train"], parts["validation"]) if part is not None]), parts["test"]


def split_source(
    source: Source, domain: str = "", test_ids: str | os.PathLike[str] | None = None, seed: int = 0
) -> Splits:
    """Return the train, validation and test parts of one source: 80, 10 and 10 % of its labelled groups.

    A group is all examples with the same entity, else with the same context, else with the same prompt. A group is in
    one part only, so that nothing tested is trained on. The order of the groups' hashes decides their parts, so the
    split does not depend on the order of the examples. Unlabelled examples are in train, unless their group is held
    out.

    test_ids: a file with the ids of the test examples, instead of a random test part. PubMedQA's original release has
    a test part only with `test_ids` or with test_ground_truth.json next to it; 20 % of its other groups are for
    validation.

    Raises ICFTError if the source cannot be read, has only one or two labelled groups, or has none of the test ids.
    """
    examples = read_examples(source, domain=domain)
    from_release = pubmedqa.is_from_release(source, examples)
    if from_release and test_ids is None:
        test_ids = pubmedqa.published_test_ids(source)
    ids = read_ids(test_ids) if test_ids else set()
    labels, groups = column(examples, "label"), group_hashes(examples, seed)
    in_test = [name in ids for name in column(examples, "id")] if ids else [False] * len(examples)
    if test_ids and not any(in_test):
        raise ICFTError(f"{test_ids}: none of its ids is in {source_name(source)}; give the ids of test examples there")
    fixed = {group for group, chosen in zip(groups, in_test, strict=True) if chosen}
    free = {group for group, label in zip(groups, labels, strict=True) if label >= 0} - fixed
    if 0 < len(free) < 3:
        raise ICFTError(
            f"{source_name(source)}: {len(free)} different labelled prompts; at least 3 are needed to hold some out"
        )
    order = sorted(free)
    share = PUBMEDQA_VALIDATION_SHARE if from_release else HELD_OUT_SHARE
    size = min(MAX_HELD_OUT_GROUPS, max(1, round(len(order) * share)))
    test_size = 0 if from_release or ids else size
    test, validation = set(order[:test_size]), set(order[test_size : test_size + size])
    indices: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for i, (chosen, label, group) in enumerate(zip(in_test, labels, groups, strict=True)):
        if chosen or group in test:
            part = "test"
        elif group in validation:
            part = "validation"
        elif group in fixed:
            continue
        else:
            part = "train"
        if label >= 0 or part == "train":
            indices[part].append(i)
    return {part: select_indices(examples, chosen) for part, chosen in indices.items()}


def concatenate(parts: Sequence[Dataset]) -> Dataset | None:
    """Return canonical Datasets as one; None if there are none. Raises ICFTError if an id occurs twice."""
    check_unique_ids(parts)
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0] if parts else None


def check_unique_ids(parts: Sequence[Examples]) -> None:
    """Raise ICFTError if two of `parts` have an example with the same id."""
    seen: set[str] = set()
    for part in parts:
        if repeated := seen & (ids := set(column(part, "id"))):
            raise ICFTError(f"id {min(repeated)!r} is in two files; give each example its own id")
        seen |= ids


def group_hashes(examples: Examples | None, seed: int = 0) -> list[bytes]:
    """Return the group of each example as a hash of 32 bytes; [] for None.

    Examples of one group must not be in two parts of a split: those with the same entity, else with the same context,
    else with the same turns. Case and white space are ignored. Sorted, the hashes are a random order that `seed` sets.
    """
    if examples is None:
        return []
    keys = (
        entity or context or " ".join([*(turn["content"] for turn in history), prompt])
        for entity, context, prompt, history in iter_columns(examples, "entity", "context", "prompt", "history")
    )
    # The text that is hashed decides every split: changing it changes what is held out.
    return [hashlib.sha256(f"{seed}:{' '.join(key.lower().split())}".encode()).digest() for key in keys]


def select_indices(examples: Dataset, indices: Sequence[int]) -> Dataset | None:
    """Return the examples at `indices`; None if there are none."""
    # As an array, because Dataset hashes an array a hundred times faster than a list.
    return examples.select(np.array(indices)) if indices else None
