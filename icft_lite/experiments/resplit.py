"""Re-splits: the bundled samples assigned to training, validation and test at random again.

A re-split holds out other terms, drugs, patients, pairs of replies and templates. Each root, stem and topic has as many
examples for training, for the pool and for the tests as in the bundled split. General examples stay as they are,
because the embedded base was trained on them.
"""

import functools
import importlib.util
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from icft_lite.data.bundle import DataBundle
from icft_lite.data.samples import sample_bundle, samples_dir
from icft_lite.errors import ICFTError

COLUMNS = {
    "terms": ("use", "root"),
    "drugs": ("split", "stem"),
    "wordings_medical_a": ("split", "topic"),
    "wordings_medical_b": ("split", "topic"),
}
"""Tables that assign rows to training, pool, validation and test: (the column that does it, the column within whose
values it is shuffled)."""

Row = dict[str, Any]


def resplit(split: int) -> DataBundle:
    """Return the samples of a re-split, 1, 2, …; 0 is the bundled split.

    The same number always gives the same examples. Raises ICFTError as `check_leaks` does.
    """
    if split == 0:
        return sample_bundle()
    files = resplit_files(split)
    check_leaks(files)
    with tempfile.TemporaryDirectory() as folder:
        for name, rows in files.items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return sample_bundle(Path(folder))


def resplit_files(split: int) -> dict[str, list[Row]]:
    """Return {file: rows} of the samples of a re-split."""
    return _builder(split).build()


def check_leaks(files: Mapping[str, Sequence[Row]]) -> None:
    """Raise ICFTError if a held-out prompt, or the entity of a held-out rule, is in training or in the pool."""

    def read(*names: str) -> list[Row]:
        return [example for name in names for example in files[f"medical_{name}.jsonl"]]

    def prompts(examples: Sequence[Row]) -> set[str]:
        return {example.get("question") or example["prompt"] for example in examples}

    taught = read("train", "pool_questions", "pool_pairs")
    tested = read("test", "test_pairs", "test_replies", "validation", "validation_pairs")
    rules = {example["entity"] for example in tested if example.get("kind") == "rule"}
    leaks = prompts(taught) & prompts(tested) | rules & {example.get("entity") for example in taught}
    if leaks:
        raise ICFTError(f"split: {len(leaks)} held-out prompts or entities are in training, such as {min(leaks)!r}")


def _builder(split: int) -> ModuleType:
    """Return data_samples/build.py as a module whose medical half is split at random again."""
    spec = importlib.util.spec_from_file_location("build", samples_dir() / "build.py")
    assert spec and spec.loader
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)

    class SplitAgain(build.Tables):  # type: ignore[name-defined]
        def read(self, name: str) -> list[Row]:
            rows, draw = super().read(name), random.Random(f"{split}/{name}")
            if name in COLUMNS:
                _shuffle(rows, *COLUMNS[name], draw)
            while name == "terms" and not _every_affix_is_taught(rows):
                _shuffle(rows, *COLUMNS[name], draw)
            return rows

        def rng(self, *key: object) -> random.Random:
            # "deal" seeds the generators: published results of the splits depend on it.
            return random.Random("/".join(map(str, (*key, "deal", split))))  # data: seed

    build.build = functools.partial(  # type: ignore[attr-defined]
        build.build, SplitAgain(), build.general_examples(build.Tables())
    )
    return build


def _shuffle(rows: list[Row], column: str, within: str, draw: random.Random) -> None:
    """Shuffle the values of `column` among the rows with the same value of `within`, in place."""
    for key in dict.fromkeys(row[within] for row in rows):
        group = [row for row in rows if row[within] == key]
        uses = [row[column] for row in group]
        draw.shuffle(uses)
        for row, use in zip(group, uses, strict=True):
            row[column] = use


def _every_affix_is_taught(rows: Sequence[Row]) -> bool:
    """Return True if every affix occurs in training: its meaning cannot be learned from other terms."""
    return {row["affix"] for row in rows} == {row["affix"] for row in rows if row["use"] == "train"}
