"""One stage of a run: train, promote, consolidate, score.

A stage that was killed continues from its last checkpoint. Everything else it needs (teachers, plan, ring) is computed
again by the same code from the state saved at the stage's start, so the result is the same to the byte.
"""

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from icft_lite.data.tables import column
from icft_lite.evaluation import evaluate_suite
from icft_lite.memory.promotion import promote
from icft_lite.memory.short_term import ShortTermMemory
from icft_lite.metrics import mean_score
from icft_lite.modeling.adapters import activate_adapter, adapter_tensors, copy_adapter
from icft_lite.reporting.build import accuracy_by_level
from icft_lite.training.alpha import choose_alpha, no_search
from icft_lite.training.batches import StageBatches
from icft_lite.training.checkpoint import load_state, save_state
from icft_lite.training.events import Events
from icft_lite.training.plan import StagePlan, plan_stage
from icft_lite.training.prepare import Prepared
from icft_lite.training.trainer import ICFTTrainer
from icft_lite.utils.distributed import on_main_process, rank, world_size


@dataclass
class StageResult:
    """The result of a stage, besides the slow adapter and the memory."""

    record: dict[str, Any]
    """The entry of the stage in `report["stages"]`."""
    history: list[dict[str, Any]]
    """Losses of each step."""
    levels: list[float | None]
    """Test scores of the slow adapter: [general, easy, medium, hard]."""
    scores: dict[str, float]
    """Mean test score of each suite."""
    fast: list[torch.Tensor]
    """The fast adapter at the end of the stage. Empty for all but the last finished stage of a resumed run."""


def run_stage(
    prepared: Prepared,
    stage: StagePlan,
    max_steps: int | None,
    events: Events,
    trainer: type[ICFTTrainer] = ICFTTrainer,
) -> StageResult:
    """Train the fast adapter, promote examples, move the slow adapter, and score it.

    max_steps: None for as many steps as the stage's tokens need, 0 to skip training.
    """
    model, config, began = prepared.model, prepared.config, time.time()
    batches, short_term, tokens = plan_batches(prepared, stage, max_steps)
    with events.phase("refresh"):
        teacher_share = refresh_teachers(prepared, {i for step in batches.steps for i in step.memory}, events)
    counts = count_by_kind(batches)
    copy_adapter(model, "slow", "fast")
    start = [tensor.clone() for tensor in adapter_tensors(model, "slow")]
    history: list[dict[str, Any]] = []
    if batches.steps:
        history, began = train(prepared, stage, batches, events, began, trainer)
        if len(history) < len(batches.steps):  # a callback ended the training of the stage
            batches.steps = batches.steps[: len(history)]
            counts, tokens = count_by_kind(batches), sum(step.tokens for step in batches.steps)
    model.eval()
    promotion = dict(candidates=0, gated=0, promoted=0, evicted=0)
    if config.long_term.share and config.short_term.share:
        with events.phase("promote"):
            candidates = prepared.examples.select(np.array(sorted(short_term.flush()), int))
            promotion = promote(
                prepared.memory, model, candidates, prepared.encoder, config.short_term.promote_confidence
            )
    fast = [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]
    with events.phase("consolidate"):
        consolidation = choose_alpha(prepared, stage, start, events) if batches.steps else no_search(0.0)
    seconds = time.time() - began
    with events.phase("evaluate"):
        scores = on_main_process(
            lambda: evaluate_suite(
                model, prepared.tokenizer, prepared.test_questions, "slow", prepared.encoder, metric=config.metric
            )
        )
    record = dict(
        name=stage.name,
        steps=len(batches.steps),
        new_examples=len(stage.examples),
        tokens=tokens,
        examples=counts,
        memory_examples=len(prepared.memory),
        memory_sources=prepared.memory.sources(),
        teacher_share=teacher_share,
        consolidation=consolidation,
        **promotion,
        seconds=seconds,
    )
    means = {name: mean_score(score) for name, score in scores.items()}
    return StageResult(record, history, accuracy_by_level(scores), means, fast)


def plan_batches(
    prepared: Prepared, stage: StagePlan, max_steps: int | None
) -> tuple[StageBatches, ShortTermMemory, int]:
    """Return (the batches of a stage, the ring after it, its tokens). max_steps: as in `run_stage`."""
    config, seed = prepared.config, f"{prepared.config.seed}/{stage.number}"
    short_term = ShortTermMemory(config.short_term.size, config.short_term.promote_after, seed)
    entries = prepared.memory.entries
    steps, tokens = plan_stage(
        stage.examples,
        prepared.encoded,
        column(prepared.examples, "topic"),
        [entry.encoded for entry in entries],
        short_term,
        config,
        stage.tokens,
        max_steps,
        seed,
        config.optim.batch_size * world_size(),
    )
    batches = StageBatches(steps, prepared.examples, prepared.encoded, entries, config, prepared.runtime)
    return batches, short_term, tokens


def refresh_teachers(prepared: Prepared, drawn: set[int], events: Events) -> dict[str, float]:
    """Choose the teachers of the memory examples that the stage draws, and cache their states.

    Returns the share of each teacher.
    """
    if not prepared.config.loss.consistency_weight:
        return {}  # no loss reads them
    memory, dtype = prepared.memory, prepared.runtime.teacher_dtype
    shares = memory.refresh(prepared.model, prepared.cache, drawn)
    if shares and dtype != "float32":
        rounding = on_main_process(lambda: memory.rounding(prepared.model))
        events.say(f"teacher states in {dtype}: rounding costs {rounding:.1e} nats per token")
    return shares


def train(
    prepared: Prepared,
    stage: StagePlan,
    batches: StageBatches,
    events: Events,
    began: float,
    make_trainer: type[ICFTTrainer],
) -> tuple[list[dict[str, Any]], float]:
    """Train the fast adapter, from the last checkpoint of this stage if there is one.

    Returns the losses of all steps, and the time when the stage began, shifted so that its seconds before an
    interruption count.
    """
    path, model = prepared.paths.step, prepared.model
    resumed = on_main_process(lambda: load_state(path) if path.exists() else None)
    if resumed and resumed[1]["stage"] != stage.number:
        resumed = None
    if resumed:
        events.say(f"resuming stage {stage.number} after step {resumed[1]['step']}")
        events.restore(resumed[1]["seconds"])
        began = time.time() - resumed[1]["stage_seconds"]

    def save(trainer: ICFTTrainer) -> None:
        events.lap()
        groups, facts = trainer.state_to_save()
        save_state(
            path, groups, dict(facts, stage=stage.number, seconds=events.seconds, stage_seconds=time.time() - began)
        )

    activate_adapter(model, "fast")
    bar = tqdm(
        total=len(batches.steps),
        initial=resumed[1]["step"] if resumed else 0,
        desc=f"stage {stage.number}",
        disable=not events.progress,
        mininterval=1,
    )
    with bar, events.phase("train"):
        trainer = make_trainer(
            model,
            batches,
            prepared.config,
            prepared.paths.state / "trainer",
            bar,
            save=None if rank() else save,
            save_steps=prepared.runtime.save_steps,
            span=stage.span,
            callbacks=list(events.callbacks),
        )
        if resumed:
            trainer.resume(*resumed)
        events.emit("on_stage_begin", stage=stage, batches=batches, history=trainer.history)
        if trainer.step < trainer.steps:
            trainer.train()
    return trainer.history, began


def count_by_kind(batches: StageBatches) -> dict[str, int]:
    """Return how many sequences a stage trains on, by kind of example."""
    counts: Counter[str] = Counter()
    tasks, posteriors = column(batches.examples, "task"), column(batches.examples, "posterior")
    for step in batches.steps:
        for i in step.new:
            kind = f"weak_{tasks[i]}" if len(posteriors[i]) else "trusted"
            counts[kind] += batches.encoded[i].num_sequences
        for name, encoded in (
            ("ring", [batches.encoded[i] for i in step.ring]),
            ("memory", [batches.entries[i].encoded for i in step.memory]),
        ):
            if encoded:
                counts[name] += sum(one.num_sequences for one in encoded)
    return dict(counts)
