"""A sweep around the default settings of chat models, on validation data of `smollm2`: one setting differs in each run.

    python -m icft_lite.experiments.sweep --out runs/sweep --jobs 2

Test data is not read: the validation parts take its place. Consolidation is off, so that the scores are those of the
trained adapter itself. Each run has half the tokens of the demo and one seed. Runs that are complete are not repeated.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from icft_lite.experiments.jobs import available_cores
from icft_lite.experiments.settings import CHAT_DEMO
from icft_lite.utils.io import write_json

SETTINGS: dict[str, Any] = {
    **CHAT_DEMO,
    "optim.max_tokens": 15_000,
    "limits.trusted": 200,
    "limits.pool": 200,
    "long_term.size": 100,
    "consolidation.enabled": False,
}
GRID: tuple[tuple[str, dict[str, Any]], ...] = (
    ("icft", {}),
    ("qlora", {}),
    ("icft", {"loss.consistency_weight": 1.0}),
    ("replay", {}),
    ("icft", {"loss.consistency_weight": 5.0}),
    ("icft", {"optim.learning_rate": 2e-3}),
    ("icft", {"optim.learning_rate": 5e-4}),
    ("icft", {"loss.temperature": None}),
    ("icft", {"long_term.share": 0.5}),
    ("icft", {"long_term.share": 0.125}),
    ("qlora", {"optim.learning_rate": 2e-3}),
    ("qlora", {"optim.learning_rate": 5e-4}),
    ("qlora", {"optim.learning_rate": 2e-4}),
    ("replay", {"optim.learning_rate": 2e-3}),
    ("replay", {"optim.learning_rate": 5e-4}),
    ("icft", {"loss.consistency_tokens": "all"}),
    ("icft", {"adapter.rank": 8}),
    ("icft", {"loss.replay_weight": 1.0}),
)
"""(method, what differs from the defaults of chat models) of every run, the most informative first."""


def run_name(method: str, settings: Mapping[str, Any]) -> str:
    """Return the name of a run's folder: its method and settings."""
    return "-".join([method, *(f"{name.rpartition('.')[2]}={value}" for name, value in settings.items())])


def sweep_run(out: Path, method: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Train one run, unless it is complete, and return its settings and scores on validation data."""
    from icft_lite.config import ICFTConfig
    from icft_lite.data.sources import bundle_from_files
    from icft_lite.experiments.compare import summarize_run
    from icft_lite.training.loop import train_icft

    config = ICFTConfig.preset(method, {**SETTINGS, **settings})
    data = bundle_from_files(["samples"], ["chat"]).only(config.topics)
    data = data.limited(validation=config.limits.validation)
    chat = {**data.chat, "test": data.chat["validation"], "display": ()}
    data = replace(data, test=data.validation, general_test=None, chat=chat)
    found = summarize_run(train_icft(config, out / run_name(method, settings), data))
    return dict(method=method, settings=dict(settings), scores=found)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the sweep, and write what it found to sweep.json in the output folder after every run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/sweep"), help="folder of the runs")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    args = parser.parse_args(argv)
    os.environ["OMP_NUM_THREADS"] = str(max(1, available_cores() // args.jobs))  # inherited by new processes
    found: dict[str, dict[str, Any]] = {}
    with ProcessPoolExecutor(args.jobs, get_context("spawn")) as pool:
        waiting = {pool.submit(sweep_run, args.out, *one): run_name(*one) for one in GRID}
        for number, future in enumerate(as_completed(waiting), 1):
            found[waiting[future]] = future.result()
            ordered = [found[name] for one in GRID if (name := run_name(*one)) in found]
            write_json(args.out / "sweep.json", dict(settings=SETTINGS, runs=ordered))
            print(f"{number} of {len(GRID)} runs: {waiting[future]}", flush=True)


if __name__ == "__main__":
    main()
