"""What happens after each optimizer step of a stage: moving average, log, checks, checkpoint."""

import math
import time
import warnings
from typing import TYPE_CHECKING, Any

import torch
from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from icft_lite.errors import ICFTError
from icft_lite.memory.consolidation import ema_step
from icft_lite.modeling.losses import LOSSES

if TYPE_CHECKING:  # which adds the callback to itself
    from icft_lite.training.trainer import ICFTTrainer

SAVE_SECONDS = 60
"""Seconds between checkpoints of a stage where `runtime.save_steps` is None."""


class StageCallback(TrainerCallback):
    """After each step: move the slow adapter, close the log record, show progress, save a checkpoint if it is due."""

    def __init__(self, trainer: "ICFTTrainer", progress: tqdm | None, save_steps: int | None) -> None:
        self.trainer, self.progress, self.save_steps = trainer, progress, save_steps
        decay = trainer.config.long_term.ema_decay
        self.decay = max(0.0, 1 - 10 / max(trainer.steps, 1)) if decay is None else decay
        self.before: list[torch.Tensor] | None = None
        self.scale, self.saved = 1.0, time.monotonic()

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember the fast adapter, to see whether the first step changes it."""
        self.before = [tensor.detach().clone() for tensor in self.trainer.trainable]
        self.scale = self.fp16_scale()

    def fp16_scale(self) -> float:
        """Return the factor of the gradient scaler in fp16, 1 otherwise.

        It falls when a step is skipped because gradients overflow. accelerate's `optimizer_step_was_skipped` is never
        true for a fused optimizer, which skips the step on the device (accelerate 1.15.0, optimizer.py).
        """
        scaler = self.trainer.accelerator.scaler
        return scaler.get_scale() if scaler else 1.0

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Update the slow adapter and the log; save if a checkpoint is due."""
        trainer = self.trainer
        if self.before is not None:
            scale = self.fp16_scale()
            if scale < self.scale:  # this step was skipped: check the next one
                self.scale = scale
            elif all(torch.equal(a, b) for a, b in zip(self.before, trainer.trainable, strict=True)):
                raise ICFTError(
                    "training: the first step changed no weight of the fast adapter; check that it is active and "
                    "trainable (icft_lite.modeling.adapters.activate_adapter) and that a loss weight is above 0"
                )
            else:
                self.before = None
        ema_step(trainer.slow, trainer.trainable, trainer.step - 1, self.decay)
        record = trainer.close_step()
        every, last = self.save_steps, trainer.step == trainer.steps
        due = last or (trainer.step % every == 0 if every else time.monotonic() - self.saved >= SAVE_SECONDS)
        self.check_finite(record.get("total", 0.0), weights=due)
        trainer.log({name: value for name, value in record.items() if name != "norms"})  # for other callbacks
        if self.progress is not None:
            self.progress.update(1)
            self.progress.set_postfix({name: f"{record[name]:.3f}" for name in LOSSES if name in record}, refresh=False)
        if trainer.save and due:  # after the last step too: a later phase may be killed
            trainer.save(trainer)
            self.saved = time.monotonic()

    def check_finite(self, loss: float, weights: bool) -> None:
        """Raise ICFTError if the loss is not finite or, with `weights`, if a weight of the fast adapter is not."""
        trainer, what = self.trainer, ""
        if not math.isfinite(loss) and not trainer.accelerator.scaler:  # fp16's gradient scaler skips such a step
            what = f"the loss of step {trainer.step} is {loss}"
        elif weights and not all(tensor.isfinite().all() for tensor in trainer.trainable):
            what = f"after step {trainer.step} a weight of the fast adapter is not finite"
        if what:
            rate = trainer.config.optim.learning_rate
            raise ICFTError(f"training diverged: {what}; lower optim.learning_rate (now {rate:g}), in another --out")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Warn if every step was skipped."""
        if self.before is not None:
            warnings.warn(
                f"training: nothing was learned: all {state.global_step} steps were skipped, since the "
                f"first gradients of a stage are too large for fp16 with the initial scale; train for more steps",
                stacklevel=2,
            )
