"""Run the evidence study: one process and one small JSON record for each arm and split.

A record that exists is not computed again, so the study can be interrupted, continued elsewhere and extended.
"""

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.errors import ICFTError
from icft_lite.experiments.conditions import current_commit, processor
from icft_lite.experiments.paper.analysis import load_record
from icft_lite.experiments.paper.arms import Arm
from icft_lite.experiments.paper.studies import Study
from icft_lite.utils.io import to_plain, write_json
from icft_lite.utils.progress import progress_bar


@dataclass(frozen=True)
class Run:
    """One arm on one split."""

    study: Study
    arm: Arm
    split: int

    @property
    def name(self) -> str:
        """Name of the record's file."""
        return f"{self.arm.name}-{self.split}"


def planned_runs(study: Study, arms: Sequence[Arm], splits: Sequence[int], out: Path) -> list[Run]:
    """Return the runs whose records are missing, in the order of the protocol: arm by arm.

    Raises ICFTError if a record has other settings than its arm has now.
    """
    runs = [Run(study, arm, split) for arm in arms for split in splits]
    missing = []
    for run in runs:
        path = out / f"{run.name}.json"
        if not path.exists():
            missing.append(run)
        elif differing := [name for name, value in definition(run).items() if load_record(path).get(name) != value]:
            raise ICFTError(f"{path}: not of the arm as it is now ({differing[0]}); move it, or use another --out")
    return missing


def definition(run: Run) -> dict[str, Any]:
    """Return what defines a run, as its record has it."""
    arm = run.arm
    settings = {**run.study.settings, **arm.in_study(run.study.name)}
    return to_plain(dict(settings=settings, trainer=arm.trainer or arm.peft))


def plan_text(runs: Sequence[Run]) -> str:
    """Return how long the runs will take on one thread, in words."""
    minutes = sum(run.study.minutes * run.arm.cost for run in runs)
    each = f"{minutes / max(1, len(runs)):.1f} minutes each on one thread"
    return f"{len(runs)} runs × {each} = {minutes / 60:.1f} thread-hours"


def run_all(
    runs: Sequence[Run], out: Path, work: Path, jobs: int = 1, command: str = "", progress: bool = True
) -> None:
    """Compute the records of runs, `jobs` at a time, each in a process of its own with one thread.

    out: folder of the records. work: folder of the runs, which are removed when their record is written.
    """
    os.environ["OMP_NUM_THREADS"] = "1"  # inherited by the processes; two runs of one thread beat one of two
    commit = current_commit()
    with (
        progress_bar(len(runs), "study", "run", progress) as bar,
        ProcessPoolExecutor(jobs, get_context("spawn"), max_tasks_per_child=1) as pool,
    ):
        waiting = [pool.submit(write_record, run, out, work, dict(commit=commit, command=command)) for run in runs]
        try:
            for future in as_completed(waiting):
                future.result()
                bar.update(1)
        finally:  # after an error, runs that wait must not start
            pool.shutdown(wait=False, cancel_futures=True)


def write_record(run: Run, out: Path, work: Path, facts: Mapping[str, str]) -> None:
    """Compute and write the record of a run. Its own process does so, since another run may fail meanwhile."""
    what = dict(study=run.study.name, arm=run.arm.name, split=run.split)
    write_json(out / f"{run.name}.json", {**what, **facts, **run_one(run, work / run.name)})


def run_one(run: Run, folder: Path) -> dict[str, Any]:
    """Train one arm on one split and score it at every α of its study. Returns its record."""
    from icft_lite.experiments.paper.curve import Curve, topic_counts
    from icft_lite.experiments.paper.replies import what_it_writes

    shutil.rmtree(folder, ignore_errors=True)  # an interrupted run has no Prepared to score with
    arm, began = run.arm, time.time()
    config, data = run.study.config(arm, run.split), run.study.data(run.split)
    facts: dict[str, Any] = {}
    with counted_tokens() as tokens:
        if arm.change_data:
            data = arm.change_data(data)
        if arm.rewrites:
            config, data, facts["rewritten"] = rewrite(config, data)
        train = untrained if arm.result != "trained" else train_peft_arm if arm.peft else train_arm
        trained = train(arm, config, data, folder)
    seconds = time.time() - began
    prepared = trained.prepared
    curve = Curve(prepared)
    points = [curve.score(alpha, trained.change) for alpha in arm.alphas or run.study.alphas]
    with trained.change(1.0) if trained.change else nullcontext():
        facts |= dict(calibration=curve.calibration(), written=what_it_writes(prepared))
    shutil.rmtree(folder, ignore_errors=True)
    return to_plain(
        dict(
            **definition(run),
            weight=arm.weight,
            seed=config.seed,
            label_accuracy=prepared.label_report.get("accuracy"),
            stages=trained.stages,
            cost=dict(tokens, trained=trained.tokens, seconds=seconds, train_seconds=trained.train_seconds),
            questions=topic_counts(curve),
            curve=points,
            machine=f"{platform.machine()}, {processor()}, one thread",
            **facts,
        )
    )


@dataclass(frozen=True)
class Trained:
    """A trained arm."""

    prepared: Any
    """Of the run (`training.prepare`). The adapter `slow` of its model is the result, unless there is `change`."""
    tokens: int
    train_seconds: float
    stages: list[dict[str, Any]]
    change: Callable[[float], AbstractContextManager[None]] | None = None
    """Adds α·ΔW to the base's weights inside a block."""


def train_arm(arm: Arm, config: ICFTConfig, data: DataBundle, folder: Path) -> Trained:
    """Train an arm by `train_icft`."""
    from icft_lite.training.events import RunCallback
    from icft_lite.training.loop import train_icft

    stored: list[Any] = []

    class Store(RunCallback):
        """Stores the prepared run with its model."""

        def on_run_begin(self, prepared: Any, results: Any, shares: Any) -> None:
            stored.append(prepared)

    trainer = load(arm.trainer)
    if arm.weight is not None:
        trainer = load("weights.with_weight")(trainer, arm.weight)
    hooks = [Store(), *(load(name)() for name in arm.callbacks)]
    report = train_icft(config, folder, data, False, hooks, trainer=trainer)
    seconds = report["cost"]["by_part"].get("train", 0.0)
    return Trained(stored[0], report["cost"]["tokens"], seconds, [stage_facts(stage) for stage in report["stages"]])


def train_peft_arm(arm: Arm, config: ICFTConfig, data: DataBundle, folder: Path) -> Trained:
    """Train an arm with another method of PEFT (`baselines.peft_training`)."""
    from icft_lite.experiments.baselines.peft_training import changed_weights, planned_batches, train_peft

    prepared = prepare_arm(config, data, folder)
    began = time.time()
    changes, _ = train_peft(prepared, load(f"peft_methods.{arm.peft}"))
    tokens = sum(step.tokens for batches in planned_batches(prepared) for step in batches.steps)
    return Trained(prepared, tokens, time.time() - began, [], partial(changed_weights, prepared.model, changes))


def untrained(arm: Arm, config: ICFTConfig, data: DataBundle, folder: Path) -> Trained:
    """Prepare an arm whose result is the base itself, or the base with a random change."""
    from icft_lite.experiments.baselines.random_change import randomize_adapter

    prepared = prepare_arm(config, data, folder)
    if arm.result == "random":
        randomize_adapter(prepared)
    return Trained(prepared, tokens=0, train_seconds=0.0, stages=[])


def prepare_arm(config: ICFTConfig, data: DataBundle, folder: Path) -> Any:
    """Return what `train_icft` prepares before training (`training.prepare.Prepared`)."""
    from icft_lite.training.checkpoint import RunPaths
    from icft_lite.training.events import Events
    from icft_lite.training.loop import select_data
    from icft_lite.training.prepare import prepare

    data = select_data(config, data)
    return prepare(config, data, RuntimeConfig(), RunPaths(folder), Events((), progress=False))


def rewrite(config: ICFTConfig, data: DataBundle) -> tuple[ICFTConfig, DataBundle, dict[str, int]]:
    """Return the configuration and data of a run whose training replies the base has rewritten, and the outcomes."""
    from icft_lite.experiments.baselines.self_distillation import self_distilled_bundle
    from icft_lite.modeling.encoding import Encoder
    from icft_lite.training.prepare import load_model

    model, tokenizer = load_model(config, RuntimeConfig())
    encoder = Encoder(tokenizer, config.encoding.max_length)
    data, counts = self_distilled_bundle(data, config, model, tokenizer, encoder)
    return config.replace({"limits.trusted": None, "limits.pool": None}), data, dict(counts)


def stage_facts(stage: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record has of a stage."""
    found = {name: stage[name] for name in ("name", "steps", "tokens", "examples", "promoted")}
    return found | {name: stage["consolidation"][name] for name in ("alpha", "origin", "refused")}


@contextmanager
def counted_tokens() -> Iterator[dict[str, int]]:
    """Count the tokens of all forward passes in the block: {with_gradient, forward_only, generated}, padding included.

    A pass over one new token without gradient is a step of generation.
    """
    import torch
    from torch.nn.modules.module import register_module_forward_pre_hook

    counts = dict(with_gradient=0, forward_only=0, generated=0)

    def count(module: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        if isinstance(module, torch.nn.Embedding) and arguments:
            ids = arguments[0]
            kind = "with_gradient" if torch.is_grad_enabled() else "forward_only" if ids.shape[-1] > 1 else "generated"
            counts[kind] += ids.numel()

    handle = register_module_forward_pre_hook(count)
    try:
        yield counts
    finally:
        handle.remove()


def load(name: str) -> Any:
    """Return `module.Name` of the baselines; ICFTTrainer for ""."""
    if not name:
        from icft_lite.training.trainer import ICFTTrainer

        return ICFTTrainer
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(f"icft_lite.experiments.baselines.{module}"), attribute)
