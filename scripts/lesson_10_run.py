"""Run lesson 10 completely on real data, and write the record that the lesson shows.

    python scripts/lesson_10_run.py --medquad FILE --pubmedqa FILE --general DIR --out runs/own

FILE: MedQuAD as JSON lines, and PubMedQA's ori_pqal.json with test_ground_truth.json next to it. DIR has the files
that `icft_lite.experiments.own_data.SUITES` names. The record is icft_lite/experiments/results/lesson-10.json.
"""

import argparse
import platform
import time
from pathlib import Path
from typing import Any

import torch

from icft_lite.data.sources import file_hash
from icft_lite.experiments.conditions import current_commit, processor
from icft_lite.experiments.own_data import (
    NUM_QUESTIONS,
    SETTINGS,
    TEST,
    describe_labels,
    describe_test,
    load_data,
    read_suites,
    run_all,
)
from icft_lite.experiments.recorded import LESSON_10
from icft_lite.utils.hardware import peak_memory
from icft_lite.utils.io import write_json

QUICK: dict[str, Any] = {
    "optim.max_steps": 3,
    "limits.trusted": 8,
    "limits.pool": 8,
    "limits.validation": 4,
    "limits.test": 4,
    "long_term.size": 8,
}
"""Settings of --quick, which only shows that everything works."""
MODEL = "smollm2"


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--medquad", type=Path, metavar="FILE", required=True, help="MedQuAD as JSON lines")
    parser.add_argument("--pubmedqa", type=Path, metavar="FILE", required=True, help="PubMedQA's ori_pqal.json")
    parser.add_argument("--general", type=Path, metavar="DIR", required=True, help="folder of the public suites")
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder of the runs")
    parser.add_argument("--quick", action="store_true", help="a few steps and examples; the record goes to --out")
    return parser


def main() -> None:
    """Train, score and write the record."""
    args = build_parser().parse_args()
    began, commit = time.time(), current_commit()
    settings = {**SETTINGS, **(QUICK if args.quick else {})}
    data, test = load_data(args.medquad, args.pubmedqa, dict.fromkeys(TEST, 4) if args.quick else TEST)
    suites = read_suites(args.general, 4 if args.quick else NUM_QUESTIONS)
    described, labels = describe_test(test, MODEL), describe_labels(data, settings["limits.pool"])
    record = run_all(MODEL, data, test, suites, args.out, settings)
    record |= dict(
        model=MODEL,
        settings=settings,
        test=described,
        weak_labels=labels,
        files={path.name: file_hash(path) for path in (args.medquad, args.pubmedqa)},
        command=f"python scripts/lesson_10_run.py --medquad {args.medquad.name} --pubmedqa {args.pubmedqa.name} "
        f"--general {args.general.name} --out {args.out}",
        commit=commit,
        machine=f"{platform.machine()}, {processor()}",
        threads=torch.get_num_threads(),
        seconds=time.time() - began,
        peak_memory_bytes=peak_memory(),
    )
    write_json(args.out / LESSON_10.name if args.quick else LESSON_10, record)


if __name__ == "__main__":
    main()
