"""Read sources, and split them into train, validation and test without leaks."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from datasets import Dataset, concatenate_datasets

from icft_lite.data.corpora import pubmedqa
from icft_lite.data.files import is_hub_name
from icft_lite.data.groups import group_hashes, question_hashes
from icft_lite.data.id_files import read_test_ids
from icft_lite.data.readers import ReadSource, check_unique_ids, read_sources
from icft_lite.data.schema import ReadOptions, Source, SourceSummary, source_name
from icft_lite.data.tables import column
from icft_lite.errors import ICFTError

MAX_HELD_OUT_GROUPS = 1000
"""Maximum number of groups in the validation part, and in the test part, of a source. More would only cost time."""
HELD_OUT_SHARE = 0.1
"""The share of the labelled groups that becomes the validation part, and the test part."""
PUBMEDQA_VALIDATION_SHARE = 0.2
"""The share of the groups of PubMedQA's release that becomes the validation part, besides its published test part."""
TURN = re.compile(r"/turn\d+$")
"""End of the id of one turn; the id before it names the conversation."""
PARTS = ("train", "validation", "test")

Splits = dict[str, Dataset | None]
"""The parts `train`, `validation` and `test` of a source. A part without examples is None."""


@dataclass
class Split:
    """How one source is split."""

    examples: Dataset
    groups: list[bytes]
    """Group of each example, see `group_hashes`."""
    parts: list[str]
    """Part of each example: one of PARTS, or "" if it is left out."""
    summary: SourceSummary
    """What was understood of the source. Examples that are left out are counted there."""

    def leave_out(self, chosen: Callable[[int], bool], reason: str) -> None:
        """Leave out the examples whose index is `chosen`."""
        for i in range(len(self.parts)):
            if self.parts[i] and chosen(i):
                self.parts[i] = ""
                self.summary.left_out[reason] = self.summary.left_out.get(reason, 0) + 1

    def datasets(self) -> Splits:
        """Return the parts as Datasets."""
        return {
            name: select_indices(self.examples, [i for i, part in enumerate(self.parts) if part == name])
            for name in PARTS
        }


def as_sources(source: Source | Sequence[Source]) -> Sequence[Source]:
    """Return one source, or several, as a list of sources. A list of dicts is one."""
    many = isinstance(source, list | tuple) and not (source and isinstance(source[0], dict))
    return cast(Sequence[Source], source) if many else [cast(Source, source)]


def read_examples(
    source: Source | Sequence[Source],
    *,
    domain: str = "",
    split: str | None = None,
    require: str | Sequence[str] | None = None,
    options: ReadOptions = ReadOptions(),
) -> Dataset:
    """Return one or several sources as a Dataset of canonical examples (FEATURES).

    source: a path, a Hub name (`owner/name[:config][@split]`), a list of dicts, a Dataset, a DataFrame, or a list of
    paths and names, which have one answer coding. MedMCQA, PubMedQA and MedQuAD are recognized by their columns;
    PubMedQA adds the column `long_answer`. domain: for examples that name none. split: of a Hub data set; of another
    source, `train`, `validation` or `test` as `split_source` makes them. require: a task, or several, that every
    example must have. options: how to read columns, answers and conversations.

    Raises ICFTError if a source cannot be read, has no such split or another task, or if an id occurs twice.
    """
    sources, parts = as_sources(source), []
    for one in sources if split else ():
        if isinstance(one, str | os.PathLike) and is_hub_name(one):
            parts += [read.examples for read in read_sources([one], domain, split, options)]
            continue
        part = split_source(one, domain, options=options).get(cast(str, split))
        if part is None:
            raise ICFTError(
                f"{source_name(one)}: it has no split {split!r}; a source has train, validation and test "
                f"(PubMedQA: with {pubmedqa.TEST_IDS_FILE} next to it)"
            )
        parts.append(part)
    parts = parts or [read.examples for read in read_sources(sources, domain, None, options)]
    wanted = (require,) if isinstance(require, str) else tuple(require or ())
    for one, examples in zip(sources, parts, strict=True):
        for number, task in enumerate(column(examples, "task") if wanted else (), 1):
            if task not in wanted:
                raise ICFTError(
                    f"{source_name(one)}: example {number} is a {task}; only {', '.join(wanted)} can be used here"
                )
    return cast(Dataset, concatenate(parts))


def read_pubmedqa(
    path: str | os.PathLike[str], test_ids: str | os.PathLike[str] | None = None
) -> tuple[Dataset, Dataset | None]:
    """Return (rest, test) of PubMedQA's original release, both with gold labels and the column `long_answer`.

    The test ids come from the file `test_ids`, or from test_ground_truth.json next to `path`. Without either, the test
    part is None. Raises ICFTError as `split_source` does.
    """
    parts = split_source(path, domain="medical", test_ids=test_ids)
    rest = concatenate([part for part in (parts["train"], parts["validation"]) if part is not None])
    return cast(Dataset, rest), parts["test"]


def split_source(
    source: Source,
    domain: str = "",
    test_ids: str | os.PathLike[str] | None = None,
    seed: int = 0,
    options: ReadOptions = ReadOptions(),
) -> Splits:
    """Return the train, validation and test parts of one source, as `split_sources` makes them."""
    (split,) = split_sources([source], read_sources([source], domain, None, options), test_ids, seed)
    return split.datasets()


def split_sources(
    sources: Sequence[Source],
    reads: Sequence[ReadSource],
    test_ids: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> list[Split]:
    """Return how each source is split into train, validation and test: 80, 10 and 10 % of its labelled groups.

    A group (see `group_hashes`) is in one part only, so that nothing tested is trained on; a group that one source
    holds out is in no train part of another, and neither is a prompt (with its context and earlier turns). The order of
    the groups' hashes decides their parts, so the split does not depend on the order of the examples. Unlabelled
    examples are in train, unless their group is held out. Examples that are left out are counted in the source's
    summary.

    reads: the sources as `read_sources` returns them. test_ids: a file with the ids of all test examples, instead of
    random test parts. PubMedQA's original release has a test part only with `test_ids` or with test_ground_truth.json
    next to it; 20 % of its other groups are for validation.

    Raises ICFTError if a source has only one or two labelled groups, or if a test id is in none of them.
    """
    ids = _test_ids(sources, reads, test_ids)
    splits = [
        _split(source, read, own, has_test_ids=bool(test_ids), seed=seed)
        for source, read, own in zip(sources, reads, ids, strict=True)
    ]
    # The same prompt is in two groups if its entity is known in one place only.
    _leave_out(splits, [split.groups for split in splits], "another source holds out their group")
    leave_out_held_out(splits)
    return splits


def leave_out_held_out(splits: Sequence[Split], validation: Iterable[int] = (), test: Iterable[int] = ()) -> None:
    """Leave out training examples with the prompt of a held-out one, and validation examples with that of a test one.

    validation, test: content hashes of further held-out examples.
    """
    contents = [hashes.tolist() for hashes in question_hashes(*(split.examples for split in splits))]
    _leave_out(splits, contents, "a held-out example has their prompt", validation, test)


def _leave_out(
    splits: Sequence[Split],
    keys: Sequence[Sequence[Any]],
    reason: str,
    validation: Iterable[Any] = (),
    test: Iterable[Any] = (),
) -> None:
    """Leave out training examples with the key of a held-out one, and validation examples with that of a test one.

    keys: of the examples of each split. validation, test: keys of further held-out examples.
    """
    held_out: dict[str, set[Any]] = {"validation": set(validation), "test": set(test)}
    for split, own in zip(splits, keys, strict=True):
        for part, key in zip(split.parts, own, strict=True):
            if part in held_out:
                held_out[part].add(key)
    taken = {"train": held_out["validation"] | held_out["test"], "validation": held_out["test"]}
    for split, own in zip(splits, keys, strict=True):
        inside = [key in taken.get(part, ()) for part, key in zip(split.parts, own, strict=True)]
        split.leave_out(inside.__getitem__, reason)


def _split(source: Source, read: ReadSource, ids: set[str], has_test_ids: bool, seed: int) -> Split:
    """Return the split of one source by itself. ids: those of its test examples."""
    examples = read.examples
    from_release = pubmedqa.is_from_release(source, examples)
    labels, groups = column(examples, "label"), group_hashes(examples, seed)
    in_test = [name in ids for name in column(examples, "id")] if ids else [False] * len(examples)
    fixed = {group for group, chosen in zip(groups, in_test, strict=True) if chosen}
    free = {group for group, label in zip(groups, labels, strict=True) if label >= 0} - fixed
    if 0 < len(free) < 3 and not has_test_ids:
        raise ICFTError(
            f"{source_name(source)}: {len(free)} different labelled prompt{'s' * (len(free) != 1)}; at least 3 are "
            f"needed to hold some out"
        )
    order = sorted(free)
    share = PUBMEDQA_VALIDATION_SHARE if from_release else HELD_OUT_SHARE
    size = min(MAX_HELD_OUT_GROUPS, max(1, round(len(order) * share))) if len(order) > 2 else 0
    test_size = 0 if from_release or ids or has_test_ids else size
    held_out = dict.fromkeys(order[:test_size], "test")
    held_out |= dict.fromkeys(order[test_size : test_size + size], "validation")
    parts = ["test" if chosen else held_out.get(group, "train") for chosen, group in zip(in_test, groups, strict=True)]
    split = Split(examples, groups, parts, read.summary)
    split.leave_out(lambda i: groups[i] in fixed and not in_test[i], "a test example is in their group")
    split.leave_out(lambda i: labels[i] < 0 and parts[i] != "train", "without an answer, and in a held-out group")
    return split


def _test_ids(
    sources: Sequence[Source], reads: Sequence[ReadSource], path: str | os.PathLike[str] | None
) -> list[set[str]]:
    """Return the ids of the test examples of each source.

    Raises ICFTError if an id of the file `path` is in none of the sources. Ids of rows that a reader leaves out cannot
    be distinguished from misspelt ones, so there may be as many unknown ids as such rows.
    """
    given = read_test_ids(path) if path else set()
    names_of = [column(read.examples, "id") if given else [] for read in reads]
    named = [{name: given & {name, TURN.sub("", name)} for name in names} for names in names_of]
    own = [{name for name, ids in one.items() if ids} for one in named]
    if missing := sorted(given.difference(*(ids for one in named for ids in one.values()))):
        names = ", ".join(map(source_name, sources))
        if len(missing) == len(given):
            raise ICFTError(
                f"{path}: none of its ids is in {names}; give ids of examples there (found {', '.join(missing[:3])})"
            )
        shown = ", ".join(missing[:5]) + (", …" if len(missing) > 5 else "")
        text = f"{path}: {len(missing)} of its {len(given)} ids are in none of {names} ({shown})"
        if len(missing) > sum(sum(read.summary.left_out.values()) for read in reads):
            raise ICFTError(f"{text}; correct or remove them")
        reads[0].summary.notes.append(f"{text}; their rows may be among those that are left out.")
    for i, (source, read) in enumerate(zip(sources, reads, strict=True)):
        published = pubmedqa.published_test_ids(source) if pubmedqa.is_from_release(source, read.examples) else None
        if published and not own[i]:
            own[i] = read_test_ids(published) & set(column(read.examples, "id"))
            if not own[i]:
                raise ICFTError(f"{published}: none of its ids is in {source_name(source)}; remove it, or fix it")
    return own


def concatenate(parts: Sequence[Dataset]) -> Dataset | None:
    """Return canonical Datasets as one; None if there are none. Raises ICFTError if an id occurs twice."""
    check_unique_ids(parts)
    return concatenate_datasets(parts) if len(parts) > 1 else parts[0] if parts else None


def select_indices(examples: Dataset, indices: Sequence[int]) -> Dataset | None:
    """Return the examples at `indices`; None if there are none."""
    # As an array, because Dataset hashes an array a hundred times faster than a list.
    return examples.select(np.array(indices)) if indices else None
