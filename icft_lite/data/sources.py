"""The sources that a user names, as a DataBundle or as examples to evaluate on."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from datasets import Dataset

from icft_lite.data.bundle import MEDICAL_ROLES, DataBundle
from icft_lite.data.corpora import pubmedqa
from icft_lite.data.samples import load_samples, sample_bundle
from icft_lite.data.schema import Source, source_name
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

SAMPLES = "samples"
"""The name of the bundled samples, among sources."""


def bundle_from_files(
    data: Sequence[Source], general: Sequence[Source], test_ids: str | os.PathLike[str] | None = None, seed: int = 0
) -> DataBundle:
    """Return the user's sources as a DataBundle, each split by `split_source`.

    data, general: medical and general sources: paths, Hub names, lists of dicts, or `samples`. test_ids: a file with
    the ids of the medical test examples. seed: of the split.

    Unlabelled medical examples are the pool. PubMedQA's whole training part is in the pool, with its labels in
    `pool_gold`, because it is there to be labelled weakly. A training example is left out if its group is held out in
    another source. Unlabelled general examples are left out.

    Raises ICFTError if a source cannot be read or split, an id occurs twice, or no medical example is labelled.
    """
    trains, validations, tests = _split_sources(data, "medical", test_ids, seed)
    pools, gold = _move_pubmedqa_labels(trains)
    memories, general_validations, general_tests = _split_sources(general, "general", None, seed)
    found: dict[str, list[Dataset | None]] = {
        "trusted": [_select_labelled(part) for part in pools],
        "pool": [_select_unlabelled(part) for part in pools],
        "validation": validations,
        "test": tests,
        "general_memory": [_select_labelled(part) for part in memories],
        "general_validation": general_validations,
        "general_test": general_tests,
    }
    if SAMPLES in (*data, *general):
        samples = sample_bundle()
        for role, parts in found.items():
            if SAMPLES in (data if role in MEDICAL_ROLES else general):
                parts.append(getattr(samples, role))
        if SAMPLES in data:
            gold |= samples.pool_gold
    roles = {role: concatenate([part for part in parts if part is not None]) for role, parts in found.items()}
    if roles["validation"] is None:
        raise ICFTError(f"{', '.join(map(source_name, data))}: no labelled examples; some are needed for validation")
    check_unique_ids([examples for examples in roles.values() if examples is not None])
    return DataBundle(**roles, pool_gold=gold, sources={source_name(one): file_hash(one) for one in (*data, *general)})


def evaluation_examples(
    sources: Sequence[Source],
    test_ids: str | os.PathLike[str] | None = None,
    trained_on: Mapping[str, str] = MappingProxyType({}),
) -> Dataset:
    """Return the examples of `sources` to evaluate a model on.

    Of PubMedQA, and of each file that the run was trained on, they are the test part; of any other source all labelled
    examples. trained_on: DataBundle.sources of the run. Raises ICFTError if a source cannot be read, its test part is
    unknown, or no example is labelled.
    """
    parts: list[Dataset | None] = []
    for source in sources:
        if source == SAMPLES:
            parts.append(load_samples("medical_test"))
            continue
        examples = read_examples(source, domain="medical")
        seen = source_name(source) in trained_on or file_hash(source) in set(trained_on.values()) - {""}
        if test_ids or seen or pubmedqa.has_conclusions(examples):
            examples = split_source(source, "medical", test_ids)["test"]
            if examples is None:
                raise ICFTError(
                    f"{source_name(source)}: which examples are its test part is unknown; give --test-ids, or put "
                    f"{pubmedqa.TEST_IDS_FILE} next to it"
                )
        parts.append(_select_labelled(examples))
    if not (labelled := [part for part in parts if part is not None]):
        raise ICFTError(f"{', '.join(map(source_name, sources))}: no labelled examples to evaluate on; add answers")
    return concatenate(labelled)


def file_hash(source: Source) -> str:
    """Return the SHA-256 of a file's bytes as hex; "" for `samples`, Hub names and lists."""
    if source == SAMPLES or not isinstance(source, str | os.PathLike) or not Path(source).is_file():
        return ""
    with Path(source).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split_sources(
    sources: Sequence[Source], domain: str, test_ids: str | os.PathLike[str] | None, seed: int
) -> tuple[list[Dataset | None], list[Dataset | None], list[Dataset | None]]:
    """Return the train, validation and test parts of the sources, without the samples.

    A group that is in the test part of any source is in no other part; one in a validation part is in no train part.
    """
    parts = [split_source(source, domain, test_ids, seed) for source in sources if source != SAMPLES]
    test = {group for part in parts for group in group_hashes(part["test"])}
    held_out = test | {group for part in parts for group in group_hashes(part["validation"])}
    trains = [_drop_groups(part["train"], held_out) for part in parts]
    return trains, [_drop_groups(part["validation"], test) for part in parts], [part["test"] for part in parts]


def _drop_groups(examples: Dataset | None, groups: set[bytes]) -> Dataset | None:
    """Return the examples that are in none of the groups; None if there are none."""
    if examples is None:
        return None
    return select_indices(examples, [i for i, group in enumerate(group_hashes(examples)) if group not in groups])


def _select_labelled(examples: Dataset | None) -> Dataset | None:
    """Return the examples whose label is known; None if there are none."""
    if examples is None:
        return None
    return select_indices(examples, [i for i, label in enumerate(column(examples, "label")) if label >= 0])


def _select_unlabelled(examples: Dataset | None) -> Dataset | None:
    """Return the examples whose label is unknown; None if there are none."""
    if examples is None:
        return None
    return select_indices(examples, [i for i, label in enumerate(column(examples, "label")) if label < 0])


def _move_pubmedqa_labels(parts: Sequence[Dataset | None]) -> tuple[list[Dataset | None], dict[str, int]]:
    """Return the parts with PubMedQA's labels replaced by −1, and those labels by id."""
    hidden: list[Dataset | None] = []
    gold: dict[str, int] = {}
    for part in parts:
        if part is not None and pubmedqa.has_conclusions(part):
            labels = zip(column(part, "id"), column(part, "label"), strict=True)
            gold |= {name: label for name, label in labels if label >= 0}
            part = Dataset.from_dict({**part.to_dict(), "label": [-1] * len(part)}, features=part.features)
        hidden.append(part)
    return hidden, gold
