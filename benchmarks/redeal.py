"""Are the scores those of one cut? ICFT beside plain QLoRA on the samples dealt anew.

    python benchmarks/redeal.py --deal 1 --out runs/deal-1             the demo's settings
    python benchmarks/redeal.py --deal 1 --out runs/deal-1-full --full

Settings were tried out on the samples as they come, tests included. A new deal holds out other terms, drugs, patients,
pairs of replies and wordings, on which nobody has chosen anything. Of each root, stem and topic as many are taught,
labelled weakly and tested as before. The general rows, which the base was trained on, stay as they are.
"""

import argparse
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
"""Tables that say which row is for what: the column that says it, and within which other it is dealt."""


def builder(deal):
    """data_samples/build.py as a module, whose medical half is dealt anew."""
    spec = importlib.util.spec_from_file_location("build", ROOT / "data_samples" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    table, general = build.table, build.general()

    def dealt(name):
        rows, draw = table(name), random.Random(f"{deal}/{name}")
        if name in COLUMNS:
            shuffle(rows, *COLUMNS[name], draw)
        while name == "terms" and not every_affix_is_taught(rows):
            shuffle(rows, *COLUMNS[name], draw)
        return rows

    build.table, build.general = dealt, lambda: general
    build.W = build.wordings()
    build.rng = lambda *key: random.Random("/".join(map(str, (*key, "deal", deal))))
    return build


def shuffle(rows, column, within, draw):
    """Shuffle the values of `column` among the rows that have the same value of `within`, in place."""
    for key in dict.fromkeys(row[within] for row in rows):
        mine = [row for row in rows if row[within] == key]
        uses = [row[column] for row in mine]
        draw.shuffle(uses)
        for row, use in zip(mine, uses):
            row[column] = use


def every_affix_is_taught(rows):
    """What an affix means cannot be told from terms without it."""
    return {row["affix"] for row in rows} == {row["affix"] for row in rows if row["use"] == "train"}


def check(files):
    """Nothing that is tested is trained on: no prompt, and of rules no term, drug or patient."""

    def read(*names):
        return [row for name in names for row in files[f"medical_{name}.jsonl"]]

    def prompts(rows):
        return {row.get("question") or row["prompt"] for row in rows}

    taught = read("train", "pool_questions", "pool_pairs")
    tested = read("test", "test_pairs", "test_replies", "validation", "validation_pairs")
    rules = {row["entity"] for row in tested if row.get("kind") == "rule"}
    leaks = prompts(taught) & prompts(tested) | rules & {row.get("entity") for row in taught}
    if leaks:
        raise SystemExit(f"deal: {len(leaks)} held-out prompts or cases are in training, such as {min(leaks)!r}")


def main():
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("--deal", type=int, required=True, help="number of the deal: 1, 2, …")
    parse.add_argument("--out", required=True, help="folder for the runs")
    parse.add_argument("--full", action="store_true", help="the settings of make demo FULL=1")
    parse.add_argument("--seeds", type=int, default=1)
    args = parse.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # run two deals at a time on two cores
    from icft_lite.data import samples
    from icft_lite.experiments import compare as experiment

    files, folder = builder(args.deal).build(), Path(args.out) / "samples"
    check(files)
    for name, rows in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    samples.samples_dir = lambda: folder
    settings, own = (experiment.FULL, {}) if args.full else (experiment.DEMO, {"qlora": experiment.DEMO_QLORA})
    experiment.print_table(
        experiment.compare(
            Path(args.out), ["icft", "qlora"], range(args.seeds), settings, samples.sample_bundle(), own=own
        )
    )


if __name__ == "__main__":
    main()
