"""train_icft: the whole method. Prepare, run the stages one after the other, write the report."""

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from icft_lite.compat import split_settings
from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.data.overlap import save_seen
from icft_lite.errors import ICFTError
from icft_lite.modeling.adapters import adapter_tensors, save_adapter, set_adapter_tensors
from icft_lite.modeling.base import model_path
from icft_lite.reporting.build import build_report
from icft_lite.reporting.problems import Problems
from icft_lite.reporting.render import write_report
from icft_lite.training.checkpoint import (
    RunPaths,
    last_saved_stage,
    load_state,
    remove_superseded,
    save_state,
    stage_file,
)
from icft_lite.training.events import Events
from icft_lite.training.examples import check_pool
from icft_lite.training.prepare import Prepared, prepare
from icft_lite.training.run_folder import clean_up, open_run, run_identity, runtime_changes
from icft_lite.training.stage import StageResult, run_stage
from icft_lite.training.suites import compare_with_base, evaluate_all
from icft_lite.training.trainer import ICFTTrainer, trainer_identity
from icft_lite.utils.distributed import init_processes, on_main_process, rank
from icft_lite.utils.io import write_json


def train_icft(
    config: ICFTConfig | Mapping[str, Any],
    out: str | Path,
    data: DataBundle,
    progress: bool = True,
    callbacks: Sequence[TrainerCallback] = (),
    runtime: RuntimeConfig | None = None,
    trainer: type[ICFTTrainer] = ICFTTrainer,
) -> dict[str, Any]:
    """Run the whole method and write report, figures and adapters to the folder `out`.

    The same call again resumes a run that was interrupted, and returns the report of one that is complete.

    config: an ICFTConfig, or a dict for `ICFTConfig.from_dict` (keys `runtime.…` go to RuntimeConfig). data: the
    examples. progress: print messages and show progress bars. callbacks: TrainerCallbacks for every stage, see
    `events.RunCallback` for the events of the run. runtime: may change when an interrupted run is resumed. trainer: a
    subclass of ICFTTrainer with other losses. Returns the report (a dict, as in report.json). Raises ICFTError if `out`
    holds another run, another process is at work there, or the data cannot be trained on.
    """
    if not isinstance(config, ICFTConfig):
        settings, run_settings = split_settings(config)
        config = ICFTConfig.from_dict(settings)
        runtime = RuntimeConfig.from_dict({**(runtime.to_dict() if runtime else {}), **run_settings})
    if not isinstance(data, DataBundle):
        raise ICFTError(
            f"data: a {type(data).__name__}; give a DataBundle, such as bundle_from_files([FILE], ['chat'])"
        )
    runtime, paths, whole = runtime or RuntimeConfig(), RunPaths(Path(out)), data
    data = select_data(config, whole)
    init_processes()
    check_pool(data, config)  # before the folder holds a run: with other data it would be another one
    identity = run_identity(config, data, trainer_identity(trainer))
    events = Events(() if rank() else callbacks, progress and not rank())
    with contextlib.ExitStack() as lock:
        report = on_main_process(lambda: open_run(lock, paths, identity, runtime, events))
        if not report:
            on_main_process(lambda: save_seen(paths.out, whole, Path(model_path(config.model))))
            report = run(prepare(config, data, runtime, paths, events), events, trainer)
    on_main_process(lambda: clean_up(paths))
    events.emit("on_run_end", report=report)
    return report


def select_data(config: ICFTConfig, data: DataBundle) -> DataBundle:
    """Return the part of a bundle that a run uses: its topics, at most as many examples as `limits` allows."""
    limits = config.limits
    return data.only(config.topics).limited(
        trusted=limits.trusted,
        pool=limits.pool,
        validation=limits.validation,
        general_validation=limits.validation,
        test=limits.test,
        general_test=limits.test,
        general_memory=limits.memory,
    )


def run(prepared: Prepared, events: Events, trainer: type[ICFTTrainer] = ICFTTrainer) -> dict[str, Any]:
    """Run the stages that are not finished yet, then write the report and return it."""
    results = load_results(prepared, events)
    events.emit("on_run_begin", prepared=prepared, results=results, shares=[stage.share for stage in prepared.stages])
    for stage in prepared.stages[len(results) :]:
        left = steps_left(prepared, [one.record["steps"] for one in results])
        result = run_stage(prepared, stage, left, events, trainer)
        results.append(result)
        events.emit("on_stage_end", prepared=prepared, result=result)  # before the stage counts as finished
        on_main_process(lambda: save_results(prepared, results, events))
        events.say(stage_line(stage.number, result))
    return on_main_process(lambda: write_run(prepared, results, events, trainer))


def steps_left(prepared: Prepared, done: Sequence[int]) -> int | None:
    """Return the next stage's part of `max_steps`; None without a limit. done: steps of the finished stages.

    It is at least one step, as long as any are left, unless the stage has no share of the tokens.
    """
    total = prepared.config.optim.max_steps
    if total is None:
        return None
    left = total - sum(done)
    shares = [stage.share for stage in prepared.stages[len(done) :]]
    return min(left, max(1, round(left * shares[0] / sum(shares)))) if shares[0] else 0


def save_results(prepared: Prepared, results: list[StageResult], events: Events) -> None:
    """Save everything the next stage starts from."""
    memory = [
        dict(example=entry.example, source=entry.source, surprise=entry.surprise) for entry in prepared.memory.entries
    ]
    facts = dict(
        memory=memory,
        seconds=events.seconds,
        results=[dict(record=one.record, history=one.history, levels=one.levels, scores=one.scores) for one in results],
    )
    groups = dict(slow=adapter_tensors(prepared.model, "slow"), fast=results[-1].fast)
    save_state(stage_file(prepared.paths.state, len(results)), groups, facts)
    remove_superseded(prepared.paths.state, len(results))


def load_results(prepared: Prepared, events: Events) -> list[StageResult]:
    """Restore what `save_results` wrote: the slow adapter, the memory, the results. An empty list for a new run."""
    folder = prepared.paths.state
    done = on_main_process(lambda: last_saved_stage(folder))
    if not done:
        return []
    groups, facts = on_main_process(lambda: load_state(stage_file(folder, done)))
    set_adapter_tensors(prepared.model, "slow", groups["slow"])
    prepared.memory.restore(facts["memory"], prepared.encoder)
    events.restore(facts["seconds"])
    events.say(f"resuming after stage {done}")
    results = [StageResult(**one, fast=[]) for one in facts["results"]]
    results[-1].fast = groups["fast"]
    return results


def write_run(
    prepared: Prepared, results: list[StageResult], events: Events, trainer: type[ICFTTrainer] = ICFTTrainer
) -> dict[str, Any]:
    """Save the adapters, score the slow one, write the report and return it.

    The adapters come first, and the report last: its presence means a complete run.
    """
    paths, model = prepared.paths, prepared.model
    temporary = paths.state / "adapters"
    shutil.rmtree(temporary, ignore_errors=True)
    save_adapter(model, "slow", temporary / "adapter")
    set_adapter_tensors(model, "fast", results[-1].fast)
    save_adapter(model, "fast", temporary / "adapter_fast")
    for name in ("adapter", "adapter_fast"):
        shutil.rmtree(paths.out / name, ignore_errors=True)
        (temporary / name).replace(paths.out / name)
    problems = Problems(events.say)
    with events.phase("evaluate"):
        before, after = score_tests(prepared, events, problems)
        arguments = (prepared.chat, model, prepared.tokenizer, prepared.encoder, events.progress)
        chat = problems.attempt("replies to the chat suite", lambda: compare_with_base(*arguments)) or {}
    items = {suite: {task: part.get("items", {}) for task, part in scores.items()} for suite, scores in after.items()}
    if chat:
        items["chat"] = {name: chat["scores"][name].pop("items") for name in ("before", "after")}
        write_json(paths.out / "replies.json", chat.pop("replies"))
    report = build_report(prepared, results, before, after, events.seconds, runtime_changes(paths), problems, chat)
    if trainer is not ICFTTrainer:
        report["trainer"] = trainer.__name__
    write_json(paths.out / "items.json", items)
    write_report(report, paths.out, problems)
    return {**report, "problems": list(problems)}


def score_tests(prepared: Prepared, events: Events, problems: Problems) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the scores (base, slow adapter) of all suites with those of each example.

    If replies cannot be generated, they are scored by likelihood, before and after.
    """
    arguments = (prepared.model, prepared.tokenizer, prepared.suites)
    common = (prepared.encoder, prepared.config.metric, events.progress)
    scored = problems.attempt("reply scores", lambda: evaluate_all(*arguments, "slow", *common))
    if scored is not None:
        return prepared.baseline, scored
    before, after = (evaluate_all(*arguments, adapter, *common, replies=False) for adapter in ("base", "slow"))
    return before, after


def stage_line(number: int, result: StageResult) -> str:
    """Return a line of text about a finished stage."""
    record, scores = result.record, ", ".join(f"{name} {value:.3f}" for name, value in result.scores.items())
    return (
        f"stage {number} ({record['name']}): {record['steps']} step{'s' * (record['steps'] != 1)}, "
        f"{record['promoted']} promoted, α = {record['consolidation']['alpha']:.2f}; test: {scores}"
    )
