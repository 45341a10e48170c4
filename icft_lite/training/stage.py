"""One stage of a run: train, promote, consolidate.

A killed stage goes on from its last saved step. All else it needs is worked out again by the same code from the
state saved at the stage's start (adapters, memory), so it comes out the same to the byte: teachers, plan, ring.
"""

import time
from collections import Counter
from dataclasses import replace

import numpy as np
from tqdm.auto import tqdm

from icft_lite.data.schema import LEVELS
from icft_lite.data.tables import column
from icft_lite.evaluation import evaluate_suite
from icft_lite.memory.consolidation import EXTRAPOLATION_ALPHAS, consolidate
from icft_lite.memory.long_term import promote
from icft_lite.memory.short_term import ShortTermMemory
from icft_lite.metrics import mean_score
from icft_lite.modeling.adapters import activate_adapter, adapter_tensors, copy_adapter
from icft_lite.training.batches import StageBatches
from icft_lite.training.checkpoint import STEP_FILE, load_state, save_state
from icft_lite.training.plan import plan_stage
from icft_lite.training.trainer import ICFTTrainer
from icft_lite.utils.distributed import on_main_process, rank, world_size


class Stage:
    """Stage `number` (1, 2, …) of a `run.Run`, over the training rows `new` (indices, easiest first). span: from
    which share of the run's tokens to which it goes."""

    def __init__(self, run, number, new, span=(0.0, 1.0)):
        self.base, self.number, self.new, self.span = run, number, new, span
        self.config, self.model = run.config, run.model

    def run(self, tokens, max_steps=None):
        """Returns (the stage's record for the report, the log of its steps); leaves `fast` on the run.

        tokens: to train on; max_steps: None for as many as they need, 0 to pass the stage over."""
        run, config, model = self.base, self.config, self.model
        self.began = time.time()
        with run.clock("refresh"):
            shares = run.memory.refresh(model, run.cache) if config.consistency_weight else {}  # else: none is asked
            if shares and config.state_dtype != "float32":
                run.say(
                    f"teacher states in {config.state_dtype}: their rounding costs "
                    f"{on_main_process(lambda: run.memory.rounding(model)):.1e} nats a token"
                )
        seed = f"{config.seed}/{self.number}"
        stm = ShortTermMemory(config.ring_size, config.promote_after, seed)
        steps, used = (
            ([], 0)
            if max_steps == 0
            else plan_stage(
                self.new,
                run.encoded,
                column(run.rows, "topic"),
                [e.encoded for e in run.memory.entries],
                stm,
                replace(config, rows=config.rows * world_size()),
                tokens,
                max_steps or 0,
                seed,
            )
        )
        batches = StageBatches(steps, run.rows, run.encoded, run.memory.entries, config)
        rows = count_by_kind(batches)
        copy_adapter(model, "slow", "fast")
        start = [tensor.clone() for tensor in adapter_tensors(model, "slow")]
        history = self.train(batches) if steps else []
        model.eval()
        promotion = dict(candidates=0, gated=0, promoted=0, evicted=0)
        if config.memory_share:
            with run.clock("promote"):
                candidates = run.rows.select(np.array(sorted(stm.flush()), int))
                promotion = promote(run.memory, model, candidates, run.encoder, config.promote_confidence)
        run.fast = [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]
        with run.clock("consolidate"):
            point = self.consolidate(start) if steps else no_search(0.0)
        return dict(
            name=run.stage_name(self.number),
            steps=len(steps),
            new_rows=len(self.new),
            tokens=used,
            rows=rows,
            memory_rows=len(run.memory),
            memory_sources=run.memory.sources(),
            teacher_share=shares,
            consolidation=point,
            **promotion,
            seconds=time.time() - self.began,
        ), history

    def train(self, batches):
        """Train, from the last saved step if there is one. Returns the log of all steps."""
        run, resumed = self.base, on_main_process(self.load)
        activate_adapter(self.model, "fast")
        bar = tqdm(
            total=len(batches.steps),
            initial=resumed[1]["step"] if resumed else 0,
            desc=f"stage {self.number}",
            disable=not run.progress,
            mininterval=1,
        )
        with bar, run.clock("train") as clock:
            trainer = ICFTTrainer(
                self.model,
                batches,
                self.config,
                run.state / "trainer",
                bar,
                save=None if rank() else lambda trainer: self.save(trainer, clock),
                span=self.span,
                callbacks=list(run.callbacks),
            )
            if resumed:
                trainer.resume(*resumed)
            run.tell("on_stage_begin", number=self.number, batches=batches, history=trainer.history)
            if trainer.step < trainer.steps:
                trainer.train()
        return trainer.history

    def save(self, trainer, clock):
        """Save the step that was just done."""
        clock.lap()
        groups, facts = trainer.state_to_save()
        save_state(
            self.base.state / STEP_FILE,
            groups,
            dict(facts, stage=self.number, seconds=self.base.seconds, stage_seconds=time.time() - self.began),
        )

    def load(self):
        """(tensors, facts) of the last saved step of this stage, or None."""
        if (self.base.state / STEP_FILE).exists():
            groups, facts = load_state(self.base.state / STEP_FILE)
            if facts["stage"] == self.number:
                self.base.say(f"resuming stage {self.number} after step {facts['step']}")
                self.base.seconds, self.began = facts["seconds"], time.time() - facts["stage_seconds"]
                return groups, facts

    def consolidate(self, start):
        """Move the slow adapter to the best allowed point since `start`. Returns what was found on the line."""
        run, config = self.base, self.config
        if not (config.consolidate and {"general_validation", "medical_validation"} <= set(run.suites)):
            copy_adapter(self.model, "fast", "slow")
            return no_search(1.0)
        general, medical = run.suites["general_validation"], run.suites["medical_validation"]
        levels = {run.stage_name(n) for n in range(1, self.number + 1)}  # medical only on those trained so far
        if levels <= set(LEVELS) and (part := medical.subset(lambda row: row["level"] in levels)).examples:
            medical = part

        def score():
            scores = on_main_process(
                lambda: evaluate_suite(
                    self.model,
                    run.tokenizer,
                    dict(general=general, medical=medical),
                    adapter="slow",
                    encoder=run.encoder,
                )
            )
            means = {name: mean_score(score) for name, score in scores.items()}
            run.tell("on_point", scores=means)
            return means

        floor = mean_score(run.before["general_validation"]) - config.epsilon
        # Only at the run's end: what a stage before it overdoes is general knowledge that the next has to regain.
        beyond = EXTRAPOLATION_ALPHAS if self.number == len(run.stages) else ()
        return consolidate(
            self.model,
            start,
            score,
            floor,
            config.lora_rank,
            config.lora_alpha / config.lora_rank,
            config.exact_average,
            beyond=beyond,
        )


def no_search(alpha):
    """What `consolidation.consolidate` would return, of a point that was taken without a trial."""
    return dict(alpha=alpha, origin="start", points=[], refused=False, svd_residual=0.0)


def count_by_kind(batches):
    """Rows of sequence that a stage trains on, by kind."""
    rows, tasks, posteriors = Counter(), column(batches.examples, "task"), column(batches.examples, "posterior")
    for step in batches.steps:
        for i in step.new:
            rows[f"weak_{tasks[i]}" if len(posteriors[i]) else "trusted"] += batches.encoded[i].num_sequences
        for name, encoded in (
            ("ring", [batches.encoded[i] for i in step.ring]),
            ("memory", [batches.entries[i].encoded for i in step.memory]),
        ):
            if encoded:
                rows[name] += sum(one.num_sequences for one in encoded)
    return dict(rows)
