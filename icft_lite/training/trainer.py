"""ICFTTrainer: one stage of the method, as a transformers.Trainer. `run.train_icft` strings the stages together."""

import math
import time
import warnings
from functools import partial

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from icft_lite.errors import ICFTError
from icft_lite.memory.consolidation import ema_step
from icft_lite.modeling.adapters import adapter_tensors, set_adapter_tensors
from icft_lite.modeling.base import head_weight, hidden_states
from icft_lite.modeling.losses import head_covariance, icft_losses
from icft_lite.utils.distributed import all_reduce_sum, world_size
from icft_lite.utils.hardware import hardware

LOSSES = ("consistency", "task", "fine_tune")
SAVE_SECONDS = 60
"""How often a stage under way is saved, where `save_every` does not say."""
RAMP = 0.05
"""Share of a stage's steps over which its fresh optimiser's rate rises, since AdamW's first moments are noise."""


class ICFTTrainer(Trainer):
    """A transformers.Trainer for one stage of ICFT.

    model: a PeftModel with adapters `fast` and `slow` (`model.add_adapters`); batches: StageBatches; config:
    ICFTConfig; save: called with the trainer whenever the stage should be saved; span: which part of the run the stage
    is, for the learning rate. After `train()`, `history` has one dict a step: each loss, the total, and every
    `norms_every` steps (None: some 40 times a stage; 0: never) each loss's gradient norm, for which it is
    differentiated alone.
    `state_to_save()` is all that a new trainer of the same batches needs to `resume` and end with the same bytes.
    Raises ICFTError for `modules_to_save`, and if the first step moves nothing."""

    # compute_loss divides by the whole step's own counts, so Trainer must not divide by the accumulation again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model,
        batches,
        config,
        output_dir=None,
        progress=None,
        norms_every=None,
        save=None,
        span=(0.0, 1.0),
        **kwargs,
    ):
        for name, settings in model.peft_config.items():
            if settings.modules_to_save:
                raise ICFTError(
                    f"adapter {name}: modules_to_save is not supported: a trained head would drift "
                    f"from the frozen one that the teacher's states are read through"
                )
        hw = hardware()
        on_gpu = hw["device"] == "cuda"
        steps = len(batches) // (config.micro_batches * world_size())
        args = TrainingArguments(
            output_dir=str(output_dir or "runs/stage"),
            per_device_train_batch_size=1,
            num_train_epochs=1,
            gradient_accumulation_steps=config.micro_batches,
            learning_rate=config.learning_rate,
            weight_decay=0.0,
            max_grad_norm=1.0,
            optim="adamw_torch_fused",
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            use_cpu=not on_gpu,
            bf16=on_gpu and hw["dtype"] == "bfloat16",
            fp16=on_gpu and hw["dtype"] == "float16",
            seed=config.seed,
        )
        super().__init__(model=model, args=args, train_dataset=batches, data_collator=lambda items: items[0], **kwargs)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        if world_size() > 1:  # no DistributedDataParallel around the model: `training_step` adds the gradients up
            self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)
        self.config, self.history = config, []
        self.norms_every = max(25, steps // 40) if norms_every is None else norms_every
        self.head = head_weight(model)
        self.temperature = config.temperature or math.inf
        self.spread = head_covariance(self.head) if math.isinf(self.temperature) else None
        self.trainable, self.slow = adapter_tensors(model, "fast"), adapter_tensors(model, "slow")
        self.steps, self.save, self.span, self._open, self._moments = steps, save, span, None, None
        self.start = self.rate_start = 0  # steps of optimiser and schedule before a resume (fp16 may skip the latter)
        self.add_callback(_StageCallback(self, progress))

    @property
    def step(self):
        """Optimiser steps done, those before a resume included."""
        return self.start + self.state.global_step

    def state_to_save(self):
        """({group: [tensor, …]}, facts) after an optimiser step: both adapters, AdamW's moments, the log."""
        moments = self.optimizer.state_dict()["state"]  # {parameter's number: {"step", "exp_avg", "exp_avg_sq"}}
        groups = {name: [moments[i][name] for i in sorted(moments)] for name in moments.get(0, ())}
        scaler = self.accelerator.scaler  # of fp16; None otherwise
        return (
            dict(groups, fast=self.trainable, slow=self.slow),
            dict(
                step=self.step,
                rate=self.lr_scheduler.last_epoch + self.rate_start,
                history=self.history,
                scaler=scaler.state_dict() if scaler else {},
            ),
        )

    def resume(self, groups, facts):
        """Go on from what `state_to_save` gave; call it before `train()`."""
        self.start, self.rate_start, self.history = facts["step"], facts["rate"], facts["history"]
        for name in ("fast", "slow"):
            set_adapter_tensors(self.model, name, groups[name])
        self._moments = {name: many for name, many in groups.items() if name not in ("fast", "slow")}
        if self.accelerator.scaler and facts["scaler"]:
            self.accelerator.scaler.load_state_dict(facts["scaler"])

    def create_optimizer(self, *args, **kwargs):
        """Trainer's own, with the moments it had where a resumed stage was saved."""
        fresh, optimizer = self.optimizer is None, super().create_optimizer(*args, **kwargs)
        if fresh and self._moments:
            state, names = optimizer.state_dict(), list(self._moments)
            state["state"] = {i: dict(zip(names, values)) for i, values in enumerate(zip(*self._moments.values()))}
            optimizer.load_state_dict(state)
        return optimizer

    def create_scheduler(self, num_training_steps, optimizer=None):
        """One schedule over the run, of which this stage is a part: a linear rise, a cosine to a tenth. Each stage's
        fresh optimiser gets a short ramp besides. (The library's warm-up spends the first step at rate 0.)"""
        ramp, (begin, end), warmup = max(1, round(RAMP * self.steps)), self.span, self.config.warmup

        def rate(step):
            step += self.rate_start + 1
            done = begin + (end - begin) * min(1.0, step / self.steps)
            fall = math.pi * max(0.0, done - warmup) / max(1e-9, 1 - warmup)
            return min(1.0, step / ramp, done / max(1e-9, warmup)) * (0.55 + 0.45 * math.cos(fall))

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, rate)
        return self.lr_scheduler

    def _get_train_sampler(self, *args, **kwargs):
        """The plan's order, from where a resumed stage goes on."""
        return range(self.start * self.train_dataset.parts, len(self.train_dataset))

    def floating_point_ops(self, inputs):
        """0: nobody reads Trainer's estimate, and it walks through all parameters at every step."""
        return 0

    def _clip_grad_norm(self, model):
        """Clip the gradients of what is trained. (Trainer's own walks through all parameters, twice, to find them.)"""
        return self.accelerator.clip_grad_norm_(self.trainable, self.args.max_grad_norm)

    def training_step(self, *args, **kwargs):
        """Trainer's own; the last of a step adds up what all processes found."""
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            all_reduce_sum([tensor.grad for tensor in self.trainable])
        return loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """L_total of one micro-batch, its losses kept for the log under their own names."""
        record = self._record()
        if "empty" in inputs:
            return sum(tensor.sum() for tensor in self.trainable) * 0.0
        hidden = hidden_states(model, inputs)
        losses = icft_losses(
            hidden, self.head, inputs, inputs["denominators"], self.temperature, self.config.pair_beta, self.spread
        )
        weighted = {name: getattr(self.config, f"{name}_weight") * losses[name] for name in LOSSES}
        total = sum(weighted.values())
        for name in LOSSES:
            record[name] = record.get(name, 0) + losses[name].detach()
        record["total"] = record.get("total", 0) + total.detach()
        if self.norms_every and self.step % self.norms_every == 0:
            for name in LOSSES:
                grads = torch.autograd.grad(weighted[name], self.trainable, retain_graph=True)
                kept = record.setdefault("gradients", {}).get(name)
                record["gradients"][name] = grads if kept is None else torch._foreach_add(kept, grads)
        return (total, hidden) if return_outputs else total

    def _record(self):
        if self._open is None:
            self._open = {}
        return self._open

    def close_step(self):
        """Finish the log record of an optimiser step (called by the callback)."""
        record, self._open = self._open, None
        if world_size() > 1:
            self._add_up(record)
        if "gradients" in record:
            record["norms"] = {
                name: float(torch.stack(torch._foreach_norm(grads)).norm())
                for name, grads in record.pop("gradients").items()
            }
        self.history.append({key: value if key == "norms" else float(value) for key, value in record.items()})
        return self.history[-1]

    def _add_up(self, record):
        """Make a log record of this process's micro-batches, which may be none, that of the whole step."""
        names = (*LOSSES, "total")
        values = torch.tensor([float(record.get(name, 0)) for name in names], device=self.head.device)
        all_reduce_sum([values])
        record.update(zip(names, values))
        if self.norms_every and (self.step - 1) % self.norms_every == 0:
            gradients = record.setdefault("gradients", {})
            for name in LOSSES:
                gradients[name] = list(gradients.get(name) or map(torch.zeros_like, self.trainable))
                all_reduce_sum(gradients[name])


class _StageCallback(TrainerCallback):
    """After each step: move the slow adapter, close the log record, show progress, save now and then."""

    def __init__(self, trainer, progress):
        self.trainer, self.progress = trainer, progress
        self.decay = trainer.config.ema_decay or max(0.0, 1 - 10 / max(trainer.steps, 1))
        self.before, self.scale, self.saved = None, 1.0, time.monotonic()

    def on_train_begin(self, args, state, control, **kwargs):
        self.before = [tensor.detach().clone() for tensor in self.trainer.trainable]
        self.scale = self.fp16_scale()

    def fp16_scale(self):
        """What gradients are multiplied by in fp16; 1 otherwise. It falls when a step is left out because they came
        out too large. accelerate's `optimizer_step_was_skipped` says so too, but never of a fused optimiser, which
        leaves the step out on the device (accelerate 1.15.0, optimizer.py)."""
        scaler = self.trainer.accelerator.scaler
        return scaler.get_scale() if scaler else 1.0

    def on_step_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        if self.before is not None:
            scale = self.fp16_scale()
            if scale < self.scale:  # this step was left out: look at the next
                self.scale = scale
            elif all(torch.equal(a, b) for a, b in zip(self.before, trainer.trainable)):
                raise ICFTError(
                    "training: the first step moved no weight of the fast adapter; is it active and "
                    "trainable (icft_lite.modeling.adapters.activate), and is any loss weight above 0?"
                )
            else:
                self.before = None
        ema_step(trainer.slow, trainer.trainable, trainer.step - 1, self.decay)
        record = trainer.close_step()
        trainer.log({name: value for name, value in record.items() if name != "norms"})  # for other callbacks
        if self.progress is not None:
            self.progress.update(1)
            self.progress.set_postfix({name: f"{record[name]:.3f}" for name in LOSSES if name in record}, refresh=False)
        every = trainer.config.save_every
        due = trainer.step % every == 0 if every else time.monotonic() - self.saved >= SAVE_SECONDS
        if trainer.save and (due or trainer.step == trainer.steps):  # the last: what follows may be killed too
            trainer.save(trainer)
            self.saved = time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        if self.before is not None:
            warnings.warn(
                f"training: nothing was learned: all {state.global_step} steps were left out, since the "
                f"first gradients of a stage are too large for fp16 as they are scaled; give it more steps",
                stacklevel=2,
            )
