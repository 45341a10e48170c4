"""Score fine-tuned models on medical topics that they were not trained on.

    python scripts/unseen_topics.py --study smollm2 --out runs/unseen-topics

Trains arms of the evidence study again, with α = 1, and scores the test questions and pairs of all other topics of the
samples by choice accuracy. Exploratory: the protocol has no such test. A run that is complete is not trained again. The
record is icft_lite/experiments/results/unseen-topics-STUDY.json.
"""

import argparse
import platform
from pathlib import Path
from typing import Any

from icft_lite.config import ICFTConfig
from icft_lite.experiments.conditions import current_commit, processor
from icft_lite.experiments.paper.arms import ARMS
from icft_lite.experiments.paper.studies import STUDIES, Study
from icft_lite.finished_runs import evaluate_run
from icft_lite.training.loop import train_icft
from icft_lite.utils.io import to_plain, write_json

RESULTS = Path(__file__).resolve().parents[1] / "icft_lite" / "experiments" / "results"
ARM_NAMES = ("icft", "plain", "replay_25")


def unseen_scores(model: str, study: Study, split: int) -> dict[str, dict[str, float]]:
    """Return {topic: {"value", "n"}} of a run folder or model, for topics that the study does not train on."""
    seen, test = set(study.settings["topics"]), study.data(split).test
    unseen = [one for one in test or () if one["topic"] not in seen and one["task"] != "response"]
    scores = {}
    for topic in sorted({one["topic"] for one in unseen}):
        tasks = evaluate_run(model, [one for one in unseen if one["topic"] == topic], {"metric": "accuracy"})["medical"]
        (score,) = tasks.values()  # the examples of a topic have one task
        scores[topic] = {name: score[name] for name in ("value", "n")}
    return scores


def trained(study: Study, method: str, split: int, out: Path) -> str:
    """Train one arm on one split, unless it is complete, and return its folder."""
    arm = next(arm for arm in ARMS if arm.name == method)
    config = study.config(arm, split).replace({"limits.test": 2})  # these scores are not used
    folder = out / f"{study.name}-{method}-{split}"
    train_icft(config, folder, study.data(split))
    return str(folder)


def main() -> None:
    """Train, score and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--study", choices=("tiny-short", "smollm2"), required=True)
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder of the runs")
    parser.add_argument("--splits", type=int, nargs="+", metavar="N", help="default: those of the confirmation")
    parser.add_argument("--methods", nargs="+", choices=ARM_NAMES, default=ARM_NAMES)
    args = parser.parse_args()
    study = STUDIES[args.study]
    base = str(study.settings.get("model", ICFTConfig.model))
    found: dict[str, dict[str, Any]] = {}
    for split in args.splits or study.confirmation:
        for method in args.methods:
            found.setdefault(method, {})[str(split)] = unseen_scores(
                trained(study, method, split, args.out), study, split
            )
        found.setdefault("base", {})[str(split)] = unseen_scores(base, study, split)
    record = dict(
        study=study.name,
        scores=found,
        command=f"python scripts/unseen_topics.py --study {study.name} --out runs/unseen-topics",
        commit=current_commit(),
        machine=f"{platform.machine()}, {processor()}",
    )
    write_json(RESULTS / f"unseen-topics-{study.name}.json", to_plain(record))


if __name__ == "__main__":
    main()
