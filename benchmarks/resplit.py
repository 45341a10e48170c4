"""Sensitivity to the train/test split: ICFT compared with plain QLoRA on new random splits of the samples.

    python benchmarks/resplit.py --split 1 --out runs/split-1             the settings of the demo
    python benchmarks/resplit.py --split 1 --out runs/split-1-full --full

Settings were tuned on the default split, tests included. A new split holds out other terms, drugs, patients, pairs of
replies and templates, on which nothing was chosen. Each root, stem and topic has as many examples for training, for the
pool and for the tests as before. General examples stay as they are, because the base was trained on them.
"""

import argparse
import functools
import importlib.util
import json
import os
import random
from pathlib import Path

ROOT = Path(__file__).parents[1]
COLUMNS = {
    "terms": ("use", "root"),
    "drugs": ("split", "stem"),
    "wordings_medical_a": ("split", "topic"),
    "wordings_medical_b": ("split", "topic"),
}
"""Tables that assign rows to training, pool, validation and test: (the column that does it, the column within whose
values it is shuffled)."""


def builder(split):
    """Return data_samples/build.py as a module whose medical half is split at random again."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "data_samples" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)

    class SplitAgain(build.Tables):
        def read(self, name):
            rows, draw = super().read(name), random.Random(f"{split}/{name}")
            if name in COLUMNS:
                shuffle(rows, *COLUMNS[name], draw)
            while name == "terms" and not every_affix_is_taught(rows):
                shuffle(rows, *COLUMNS[name], draw)
            return rows

        def rng(self, *key):
            # "deal" seeds the generators: published results of the splits depend on it.
            return random.Random("/".join(map(str, (*key, "deal", split))))  # data: seed

    build.build = functools.partial(build.build, SplitAgain(), build.general_examples(build.Tables()))
    return build


def shuffle(rows, column, within, draw):
    """Shuffle the values of `column` among the rows with the same value of `within`, in place."""
    for key in dict.fromkeys(row[within] for row in rows):
        group = [row for row in rows if row[within] == key]
        uses = [row[column] for row in group]
        draw.shuffle(uses)
        for row, use in zip(group, uses, strict=True):
            row[column] = use


def every_affix_is_taught(rows):
    """Return True if every affix occurs in training: its meaning cannot be learned from other terms."""
    return {row["affix"] for row in rows} == {row["affix"] for row in rows if row["use"] == "train"}


def check(files):
    """Exit with an error if a tested prompt, or the entity of a tested rule, is in training or in the pool."""

    def read(*names):
        return [example for name in names for example in files[f"medical_{name}.jsonl"]]

    def prompts(examples):
        return {example.get("question") or example["prompt"] for example in examples}

    taught = read("train", "pool_questions", "pool_pairs")
    tested = read("test", "test_pairs", "test_replies", "validation", "validation_pairs")
    rules = {example["entity"] for example in tested if example.get("kind") == "rule"}
    leaks = prompts(taught) & prompts(tested) | rules & {example.get("entity") for example in taught}
    if leaks:
        raise SystemExit(f"split: {len(leaks)} held-out prompts or entities are in training, such as {min(leaks)!r}")


def main():
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--split", type=int, required=True, help="number of the split: 1, 2, …")
    parse.add_argument("--out", required=True, help="folder for the runs")
    parse.add_argument("--full", action="store_true", help="the settings of make demo FULL=1")
    parse.add_argument("--seeds", type=int, default=1)
    args = parse.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two splits can run at a time on two cores
    from icft_lite.data import samples
    from icft_lite.experiments.compare import compare
    from icft_lite.experiments.settings import DEMO, DEMO_QLORA, FULL
    from icft_lite.reporting.render import print_table

    files, folder = builder(args.split).build(), Path(args.out) / "samples"
    check(files)
    for name, examples in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(example) + "\n" for example in examples), encoding="utf-8")
    samples.samples_dir = lambda: folder
    settings, own = (FULL, {}) if args.full else (DEMO, {"qlora": DEMO_QLORA})
    print_table(
        compare(
            Path(args.out),
            ["icft", "qlora"],
            range(args.seeds),
            settings,
            samples.sample_bundle(),
            method_settings=own,
        )
    )


if __name__ == "__main__":
    main()
