r"""Pack the runs of a comparison into the record that `icft_lite.experiments.study` reads.

    icft-lite compare --methods icft qlora replay no_ltm ring soft_labels no_curriculum majority_vote gold \
        --set topics= --set optim.max_tokens=350000 --seeds 3 --out runs/study
    python scripts/pack_study.py runs/study

The record of lesson 09, icft_lite/experiments/results/study.json, was made before the ring and soft labels were off by
default: its `no_ring` and `no_task` are ICFT without them.
"""

import argparse
import hashlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from icft_lite.compat import FORMAT
from icft_lite.data.bundle import DataBundle
from icft_lite.data.samples import sample_bundle
from icft_lite.data.schema import Examples
from icft_lite.errors import ICFTError
from icft_lite.evaluation import Suite, evaluate_suite
from icft_lite.experiments.bits import pack_bits
from icft_lite.experiments.compare import summarize_run
from icft_lite.experiments.study import STUDY, base_hash, read_record
from icft_lite.finished_runs import load_run
from icft_lite.modeling.base import load_base
from icft_lite.modeling.encoding import Encoder
from icft_lite.presets import PRESETS
from icft_lite.report_file import read_report
from icft_lite.retention import mean_kl
from icft_lite.utils.hardware import hardware
from icft_lite.utils.io import write_json

TESTS = dict(general=("general", "qa"), medical=("medical", "qa"), preference=("medical", "preference"))
"""Which answers of each run are packed: name → (suite, task) in its items.json."""
SLACK = 0.005
"""Share of test questions on which the base may score otherwise than the runs say: rounding, not another base."""
Questions = dict[str, tuple[str, str]]
"""{id: (topic, kind)}, topics together."""


def pack_study(
    folder: str | Path, to: str | Path = STUDY, data: DataBundle | None = None, note: str = ""
) -> dict[str, Any]:
    """Pack the folder that `icft-lite compare` wrote into the file `to`, and return what was written.

    data: the DataBundle of the runs (default: the samples); note: shown wherever the record is.
    Raises ICFTError if `folder` holds no comparison, or the runs had another base or other tests.
    """
    folder, data = Path(folder), data or sample_bundle()
    comparison = read_record(folder / "comparison.json")
    tests = {
        "general": questions(data.general_test, "question"),
        "medical": questions(data.test, "question"),
        "preference": questions(data.test, "pair"),
    }
    paths = [folder / f"{method}-{seed}" for method in comparison["methods"] for seed in comparison["seeds"]]
    reports = [read_report(path) for path in paths]
    answers, scores = base_answers(data, tests, reports[0], folder)
    validation = dict(general=data.general_validation, medical=data.validation)
    runs = [
        dict(
            summarize_report(report),
            right=packed_answers(read_record(path / "items.json"), tests, path),
            kl=divergences(path, validation),
        )
        for path, report in zip(paths, reports, strict=True)
    ]
    found = hardware()
    study = dict(
        format=FORMAT,
        note=note,
        base=dict(sha256=base_hash(), right=answers, **scores),
        conditions=dict(
            settings=reports[0]["config"],
            versions=reports[0]["versions"],
            machine=dict(device=found["device"], dtype=found["dtype"], cores=os.cpu_count()),
            methods={method: PRESETS[method] for method in comparison["methods"]},
        ),
        tests={
            name: dict(ids=hashlib.sha256("\n".join(found).encode()).hexdigest(), topics=run_lengths(found.values()))
            for name, found in tests.items()
        },
        runs=runs,
    )
    write_json(Path(to), study)
    return study


def questions(examples: Examples | None, task: str) -> Questions:
    """Return {id: (topic, kind)} of the labelled examples of one task, topics together."""
    wanted = [example for example in examples or () if example["task"] == task and example["label"] >= 0]
    return {
        example["id"]: (example["topic"], example["kind"])
        for example in sorted(wanted, key=lambda example: example["topic"])
    }


def run_lengths(keys: Iterable[tuple[str, str]]) -> list[list[Any]]:
    """Return [(topic, kind), …] as [[topic, kind, how many in succession], …]."""
    runs: list[list[Any]] = []
    for key in keys:
        if not runs or runs[-1][:2] != list(key):
            runs.append([*key, 0])
        runs[-1][2] += 1
    return runs


def packed_answers(items: Mapping[str, Any], tests: Mapping[str, Questions], where: Path) -> dict[str, str]:
    """Return the packed answers to each test, from {suite: {task: {id: 0 or 1}}}."""
    right = {}
    for name, (suite, task) in TESTS.items():
        found = items.get(suite, {}).get(task, {})
        if set(found) != set(tests[name]):
            raise ICFTError(f"{where}: its {name} answers belong to other questions than the samples'; run it again")
        right[name] = pack_bits([found[i] > 0.5 for i in tests[name]])
    return right


def base_answers(
    data: DataBundle, tests: Mapping[str, Questions], report: Mapping[str, Any], folder: Path
) -> tuple[dict[str, str], dict[str, float]]:
    """Return the base's packed answers and scores, computed now.

    Raises ICFTError if the base's scores in the run's report differ.
    """
    config = report["config"]
    model, tokenizer = load_base("tiny", config["adapter"]["load_in_4bit"])
    encoder = Encoder(tokenizer, **config["encoding"])
    suites = dict(
        general=data.general_test,  # replies are left out: generating them takes long
        medical=[example for example in data.test or () if example["task"] != "response"],
    )
    now = evaluate_suite(model, tokenizer, suites, encoder=encoder, items=True)
    off = n = 0.0
    for suite, task in TESTS.values():
        before = report["scores"]["before"][suite][task]["by_topic"]
        for topic, part in now[suite][task]["by_topic"].items():
            off += abs(part["value"] - before.get(topic, {"value": 1})["value"]) * part["n"]
            n += part["n"]
    if off > SLACK * n:
        raise ICFTError(
            f"{folder}: its runs started from another base (about {off:.0f} of {n:.0f} answers differ); "
            f"delete it and run `icft-lite compare` again"
        )
    items = {suite: {task: part["items"] for task, part in scores.items()} for suite, scores in now.items()}
    scores = {name: now[suite][task]["value"] for name, (suite, task) in TESTS.items()}
    return packed_answers(items, tests, folder), scores


def summarize_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the record holds of a run's report."""
    keep = ("method", "accuracy_matrix", "bwt", "fwt", "forgetting")
    stages = [
        dict(
            name=stage["name"],
            promoted=stage["promoted"],
            **{key: stage["consolidation"][key] for key in ("origin", "alpha")},
            candidates=[
                [one[key] for key in ("origin", "alpha", "general", "medical")]
                for one in stage["consolidation"]["candidates"]
            ],
        )
        for stage in report["stages"]
    ]
    return dict(
        {key: report[key] for key in keep if key in report},
        **summarize_run(report),
        stages=stages,
        seconds_by_part=report["cost"]["by_part"],
        peak_memory_bytes=report["cost"]["peak_memory_bytes"],
        label_ece=report["data"]["weak"].get("ece"),
    )


def divergences(folder: Path, validation: Mapping[str, Examples | None]) -> dict[str, float]:
    """Return KL(base ‖ tuned) on the validation questions of each suite."""
    model, tokenizer = load_run(folder)
    encoder = Encoder(tokenizer)
    suites = {
        name: Suite.from_examples(examples, encoder, only_correct_option=True).subset(
            lambda example: example["task"] == "question"
        )
        for name, examples in validation.items()
    }
    return {name: mean_kl(model, suite.encoded, model.active_adapter) for name, suite in suites.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Pack a folder named on the command line. Returns the exit code."""
    parser = argparse.ArgumentParser(description="Pack a comparison into a record.")
    parser.add_argument("folder", help="what `icft-lite compare --out` wrote")
    parser.add_argument("--to", type=Path, default=STUDY, help="default: %(default)s")
    parser.add_argument("--note", default="", help="a line to show with the record")
    args = parser.parse_args(argv)
    try:
        study = pack_study(args.folder, args.to, note=args.note)
    except ICFTError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{args.to}: {len(study['runs'])} runs, {args.to.stat().st_size / 1024:.0f} KiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
