"""The sources that a user names, as a DataBundle or as examples to evaluate on."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from icft_lite.data.bundle import GENERAL_ROLES, MEDICAL_ROLES, DataBundle
from icft_lite.data.chat_suite import ChatItem, chat_parts
from icft_lite.data.corpora import pubmedqa
from icft_lite.data.groups import content_hashes, question_hashes
from icft_lite.data.readers import ReadSource, check_unique_ids, read_sources
from icft_lite.data.samples import load_samples, sample_bundle
from icft_lite.data.schema import ReadOptions, Source, source_name
from icft_lite.data.splits import (
    Split,
    as_sources,
    concatenate,
    leave_out_held_out,
    select_indices,
    split_sources,
)
from icft_lite.data.tables import column, iter_columns
from icft_lite.errors import ICFTError, warn

SAMPLES, CHAT = "samples", "chat"
"""Names of bundled data among sources: the samples, and the general suite for chat models (`chat_suite`)."""
VALIDATION_ROLES = ("validation", "general_validation", "chat validation")
TEST_ROLES = ("test", "general_test", "chat test", "chat display")
"""Held-out roles of a bundle and held-out parts of the chat suite."""


def default_general(model: str) -> list[str]:
    """Return the general data of a model that is given none: `samples` for `tiny`, `chat` for every other model."""
    return [SAMPLES if model == "tiny" else CHAT]


def bundle_from_files(
    data: Source | Sequence[Source],
    general: Source | Sequence[Source],
    test_ids: str | os.PathLike[str] | None = None,
    seed: int = 0,
    options: ReadOptions = ReadOptions(),
    lfs: Sequence[Any] = (),
) -> DataBundle:
    """Return the user's sources as a DataBundle, split by `split_sources`.

    data, general: medical and general sources: paths, Hub names, lists of dicts, Datasets, DataFrames, or `samples`;
    general data may also be `chat`: the suite for chat models, with the samples' general test for choice accuracy.
    test_ids: a file with the ids of the medical test examples. seed: of the split. options: how to read the sources.
    lfs: labelling functions for unlabelled medical examples.

    Unlabelled medical examples are the pool. PubMedQA's whole training part is in the pool, with its labels in
    `pool_gold`, because it is there to be labelled weakly. Unlabelled general examples are in `general_memory`, where
    the base answers them. Preference pairs cannot be there. What is left out is counted in `summaries`.

    Raises ICFTError if a source cannot be read or split, an id occurs twice, or no medical example is labelled (unless
    they lack labelling functions too, which a run says with an example of such a file).
    """
    data, general = as_sources(data), as_sources(general)
    medical = [one for one in data if not _is(SAMPLES, one)]
    others = [one for one in general if not _is(SAMPLES, one) and not _is(CHAT, one)]
    has_chat = any(_is(CHAT, one) for one in general)
    domains = ["medical"] * len(medical) + ["general"] * len(others)
    reads = read_sources([*medical, *others], domains, None, options)
    medical_sources = split_sources(medical, reads[: len(medical)], test_ids, seed)
    general_sources = split_sources(others, reads[len(medical) :], None, seed)
    chat = chat_parts() if has_chat else {}
    bundled = _bundled_parts(data, general)
    bundled, chat = _separate([*medical_sources, *general_sources], bundled, chat)
    medical_splits, general_splits = ([one.datasets() for one in some] for some in (medical_sources, general_sources))
    pools, gold, own_lfs = _move_pubmedqa_labels([splits["train"] for splits in medical_splits])
    memories = [
        _memory_part(splits["train"], read) for splits, read in zip(general_splits, reads[len(medical) :], strict=True)
    ]
    found: dict[str, list[Dataset | None]] = {
        "trusted": [_select(part, lambda task, label: label >= 0) for part in pools],
        "pool": [_select(part, lambda task, label: label < 0) for part in pools],
        "validation": [splits["validation"] for splits in medical_splits],
        "test": [splits["test"] for splits in medical_splits],
        "general_memory": memories,
        "general_validation": [splits["validation"] for splits in general_splits],
        "general_test": [splits["test"] for splits in general_splits],
    }
    for role, part in bundled.items():
        found[role].append(part)
    if "pool" in bundled:
        gold |= sample_bundle().pool_gold
        own_lfs |= sample_bundle().own_lfs
    roles = {role: concatenate([part for part in parts if part is not None]) for role, parts in found.items()}
    if roles["validation"] is None and (lfs or own_lfs or not roles["pool"]):  # else a run asks for functions first
        count = sum(label >= 0 for read in reads[: len(medical)] for label in column(read.examples, "label"))
        problem = (
            f"none of the {count} labelled examples is left for validation (--test-ids, or another source, holds them "
            f"out)"
            if count
            else "no labelled examples; some are needed for validation"
        )
        raise ICFTError(f"{', '.join(map(source_name, data))}: {problem}: add a file with answers")
    check_unique_ids([examples for examples in roles.values() if examples is not None])
    return DataBundle(
        **roles,
        chat=chat,
        pool_gold=gold,
        lfs=tuple(lfs),
        own_lfs=own_lfs,
        summaries=[read.summary for read in reads],
        sources={source_name(one): file_hash(one) for one in (*data, *general)},
    )


def evaluation_examples(
    sources: Sequence[Source],
    test_ids: str | os.PathLike[str] | None = None,
    trained_on: Mapping[str, str] = MappingProxyType({}),
    options: ReadOptions = ReadOptions(),
    seen: np.ndarray | None = None,
) -> Dataset:
    """Return the examples of `sources` to evaluate a model on.

    Of PubMedQA (more than half of a source), of a source with `test_ids`, and of one that the run is known to have
    split, they are the test part; of any other source all labelled examples. With `seen`, only PubMedQA's original
    release has a test part of its own. Examples that the model has seen are left out. Warnings give the numbers of
    examples that are left out.

    seen: hashes of what a run has seen (`overlap.load_seen`). Only the content counts, not the name or format of a
    file. trained_on: DataBundle.sources of a run without such hashes; the test parts of these files are used.

    Raises ICFTError if a source cannot be read, its test part is unknown, or no example is left.
    """
    files = [one for one in sources if not _is(SAMPLES, one)]
    reads = read_sources(files, "medical", None, options)
    known = {} if seen is not None else trained_on
    parts: list[Dataset | None] = [load_samples("medical_test")] if len(files) < len(sources) else []
    wants_test = [
        bool(test_ids)
        or (pubmedqa.is_from_release(source, read.examples) if seen is not None else pubmedqa.is_source(read.examples))
        or _is_known(source, known)
        for source, read in zip(files, reads, strict=True)
    ]
    tests = split_sources(
        [one for one, wanted in zip(files, wants_test) if wanted],
        [one for one, wanted in zip(reads, wants_test) if wanted],
        test_ids,
    )
    for source, read, wanted in zip(files, reads, wants_test, strict=True):
        examples: Dataset | None = read.examples
        if wanted:
            examples = tests.pop(0).datasets()["test"]
            if examples is None and not test_ids:
                raise ICFTError(
                    f"{source_name(source)}: which examples are its test part is unknown; give --test-ids, or put "
                    f"{pubmedqa.TEST_IDS_FILE} next to it"
                )
            if outside := len(read.examples) - _size(examples):
                warn(f"{source_name(source)}: {outside} of {len(read.examples)} examples are outside the test part")
        labelled = _select(examples, lambda task, label: label >= 0)
        if unlabelled := _size(examples) - _size(labelled):
            warn(f"{source_name(source)}: {unlabelled} examples without an answer are not evaluated")
        parts.append(labelled)
    names = ", ".join(map(source_name, sources))
    if (found := concatenate([part for part in parts if part is not None])) is None:
        raise ICFTError(f"{names}: no labelled examples to evaluate on; add answers")
    if seen is None:
        return found
    is_seen = [np.isin(hashes, seen) for hashes in (content_hashes(found), *question_hashes(found))]
    new = select_indices(found, np.flatnonzero(~np.any(is_seen, axis=0)).tolist())
    if new is None:
        raise ICFTError(f"{names}: all prompts are in the run's training or validation part; give a file with others")
    if count := len(found) - len(new):
        warn(f"{count} of {len(found)} examples are left out: the run's training or validation part has their prompts")
    return new


def file_hash(source: Source) -> str:
    """Return the SHA-256 of a file's bytes as hex; "" for anything else."""
    if (
        _is(SAMPLES, source)
        or _is(CHAT, source)
        or not isinstance(source, str | os.PathLike)
        or not Path(source).is_file()
    ):
        return ""
    with Path(source).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is(name: str, source: Source) -> bool:
    return isinstance(source, str) and source == name


def _is_known(source: Source, trained_on: Mapping[str, str]) -> bool:
    """Return True if a run's record of its sources has this one, by name or by content of the file."""
    return source_name(source) in trained_on or file_hash(source) in set(trained_on.values()) - {""}


def _bundled_parts(data: Sequence[Source], general: Sequence[Source]) -> dict[str, Dataset | None]:
    """Return the roles that the bundled samples have in a bundle of these sources."""
    has_chat = any(_is(CHAT, one) for one in general)
    roles = [
        role
        for role in (*MEDICAL_ROLES, *GENERAL_ROLES)
        if any(_is(SAMPLES, one) for one in (general if role in GENERAL_ROLES else data))
        or (role == "general_test" and has_chat)
    ]
    bundle = sample_bundle() if roles else None
    return {role: getattr(bundle, role) for role in roles}


def _separate(
    splits: Sequence[Split], bundled: dict[str, Dataset | None], chat: dict[str, tuple[ChatItem, ...]]
) -> tuple[dict[str, Dataset | None], dict[str, tuple[ChatItem, ...]]]:
    """Leave out what the user's sources, the samples and the chat suite train on and another of them holds out.

    Medical and general sources alike, since both are trained on. splits: of the user's sources, changed in place.
    bundled: roles of the samples. chat: parts of the suite. Returns what is left of these two.
    """
    hashes = {role: content_hashes(part) for role, part in bundled.items() if part is not None}
    hashes |= {f"chat {part}": content_hashes([item.example for item in items]) for part, items in chat.items()}

    def held_out(names: Sequence[str]) -> list[int]:
        return [value for name in names if name in hashes for value in hashes[name].tolist()]

    leave_out_held_out(splits, held_out(VALIDATION_ROLES), held_out(TEST_ROLES))
    own: dict[str, list[int]] = {"train": [], "validation": [], "test": [], "": []}
    for split, contents in zip(splits, question_hashes(*(split.examples for split in splits)), strict=True):
        for value, part in zip(contents.tolist(), split.parts, strict=True):
            own[part].append(value)
    bundled, chat = dict(bundled), dict(chat)
    for role, of_role in hashes.items():
        if role in TEST_ROLES:
            continue
        taken = own["test"] + (own["validation"] if role not in VALIDATION_ROLES else [])
        free = np.flatnonzero(~np.isin(of_role, np.array(taken, "<u8"))).tolist()
        if len(free) == len(of_role):
            continue
        if (examples := bundled.get(role)) is not None:
            bundled[role] = select_indices(examples, free)
        else:
            name = role.removeprefix("chat ")
            chat[name] = tuple(chat[name][i] for i in free)
    return bundled, chat


def _memory_part(examples: Dataset | None, read: ReadSource) -> Dataset | None:
    """Return the general examples that can be in the long-term memory, and count the others in the summary."""
    usable = _select(examples, lambda task, label: task != "pair")
    if pairs := _size(examples) - _size(usable):
        read.summary.left_out["preference pairs of general data: the long-term memory has none"] = pairs
    return usable


def _select(examples: Dataset | None, keep: Callable[[str, int], bool]) -> Dataset | None:
    """Return the examples for which `keep(task, label)` is true; None if there are none."""
    if examples is None:
        return None
    values = iter_columns(examples, "task", "label")
    return select_indices(examples, [i for i, (task, label) in enumerate(values) if keep(task, label)])


def _size(examples: Dataset | None) -> int:
    return 0 if examples is None else len(examples)


def _move_pubmedqa_labels(
    parts: Sequence[Dataset | None],
) -> tuple[list[Dataset | None], dict[str, int], dict[str, Literal["samples", "pubmedqa"]]]:
    """Return the parts with the labels of PubMedQA's examples replaced by −1, these by id, and DataBundle.own_lfs."""
    hidden: list[Dataset | None] = []
    gold: dict[str, int] = {}
    own_lfs: dict[str, Literal["samples", "pubmedqa"]] = {}
    for part in parts:
        if part is not None and (own := pubmedqa.members(part)).any():
            names, labels = np.array(column(part, "id"), object), np.array(column(part, "label"))
            gold |= {name: int(label) for name, label in zip(names[own], labels[own], strict=True) if label >= 0}
            own_lfs |= dict.fromkeys(names[own].tolist(), "pubmedqa")
            labels = np.where(own, -1, labels).tolist()
            part = Dataset.from_dict({**part.to_dict(), "label": labels}, features=part.features)
        hidden.append(part)
    return hidden, gold, own_lfs
