"""ICFTTrainer: one stage of the method as a transformers.Trainer. `loop.train_icft` runs the stages in turn."""

import contextlib
import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from tqdm import tqdm
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from icft_lite.config import ICFTConfig
from icft_lite.errors import ICFTError
from icft_lite.modeling.adapters import adapter_tensors, set_adapter_tensors
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.losses import LOSSES, head_covariance, icft_losses
from icft_lite.training.batches import StageBatches
from icft_lite.training.stage_callback import StageCallback
from icft_lite.utils.distributed import all_reduce_sum, world_size
from icft_lite.utils.hardware import hardware

RAMP = 0.05
"""Share of a stage's steps over which the learning rate rises, because the moments of a fresh AdamW are noisy."""


def rate_factor(done: float, warmup: float, ramp: float = 1.0) -> float:
    """Return the factor of the learning rate: a linear rise, then a cosine from 1 down to a tenth.

    done, warmup: shares of the run. ramp: a further limit, 0…1.
    """
    cosine = math.cos(math.pi * max(0.0, done - warmup) / max(1e-9, 1 - warmup))
    return min(1.0, ramp, done / max(1e-9, warmup)) * (0.55 + 0.45 * cosine)


def trainer_identity(trainer: "type[ICFTTrainer]") -> str:
    """Return what distinguishes a subclass of ICFTTrainer in a run's identity: its name and a hash; "" for ICFTTrainer.

    The hash is one of the source code and the plain attributes of the classes below ICFTTrainer.
    """
    if trainer is ICFTTrainer:
        return ""
    parts: list[Any] = []
    for one in trainer.__mro__[: trainer.__mro__.index(ICFTTrainer)]:
        code = ""
        with contextlib.suppress(OSError, TypeError):  # typed into a console, or made by `type`
            code = inspect.getsource(one)
        plain = {name: value for name, value in vars(one).items() if isinstance(value, bool | int | float | str)}
        plain = {name: value for name, value in plain.items() if not name.startswith("__")}
        parts.append([one.__qualname__, code, plain])
    return f"{trainer.__name__} {hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]}"


class ICFTTrainer(Trainer):
    """A transformers.Trainer for one stage of ICFT.

    model: a PeftModel with adapters `fast` and `slow` (`adapters.add_adapters`); batches: StageBatches.
    norms_every: steps between measurements of the gradient norm of each loss, for which each loss is differentiated
    alone (None: every 25 steps, at most about 40 times per stage; 0: never).
    save: called with the trainer whenever a checkpoint is due: every `save_steps` steps (None: about a minute), and
    after the last.
    span: begin and end of the stage as shares of the run, for the learning rate.

    After `train()`, `history` has a dict for each step: every loss, the total, and some gradient norms.
    `state_to_save()` is all that a new trainer of the same batches needs to `resume` and end with the same bytes.
    Raises ICFTError for `modules_to_save`, and if the first step changes no weight.
    """

    # compute_loss divides by the whole step's own counts, so Trainer must not divide by the accumulation again.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PeftModel,
        batches: StageBatches,
        config: ICFTConfig,
        output_dir: str | Path | None = None,
        progress: tqdm | None = None,
        norms_every: int | None = None,
        save: "Callable[[ICFTTrainer], None] | None" = None,
        save_steps: int | None = None,
        span: tuple[float, float] = (0.0, 1.0),
        **kwargs: Any,
    ) -> None:
        for name, settings in model.peft_config.items():
            if settings.modules_to_save:
                raise ICFTError(
                    f"adapter {name}: modules_to_save is not supported: a trained head would drift "
                    f"from the frozen one through which teacher states become logits; train LoRA only"
                )
        hw = hardware()
        on_gpu = hw["device"] == "cuda"
        steps = len(batches) // batches.parts
        args = TrainingArguments(
            output_dir=str(output_dir or "runs/stage"),
            per_device_train_batch_size=1,
            num_train_epochs=1,
            gradient_accumulation_steps=batches.micro_batches,
            learning_rate=config.optim.learning_rate,
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
        args._n_gpu = min(args.n_gpu, 1)  # with more, Trainer would join batches and wrap the model in DataParallel
        super().__init__(model=model, args=args, train_dataset=batches, data_collator=itemgetter(0), **kwargs)
        for callback in (PrinterCallback, ProgressCallback):
            self.remove_callback(callback)
        if world_size() > 1:  # no DistributedDataParallel around the model: `training_step` sums the gradients
            self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)
        self.config = config
        self.history: list[dict[str, Any]] = []
        self.norms_every = max(25, steps // 40) if norms_every is None else norms_every
        self.head = head_weight(model)
        self.temperature = math.inf if config.loss.temperature is None else config.loss.temperature
        self.covariance = head_covariance(self.head) if math.isinf(self.temperature) else None
        self.trainable, self.slow = adapter_tensors(model, "fast"), adapter_tensors(model, "slow")
        self.steps, self.save, self.span = steps, save, span
        self.record: dict[str, Any] = {}  # of the optimizer step whose micro-batches run now
        self._moments: dict[str, list[torch.Tensor]] = {}
        self.start = self.rate_start = 0  # steps of optimizer and schedule before a resume (fp16 may skip the latter)
        self.add_callback(StageCallback(self, progress, save_steps))

    @property
    def step(self) -> int:
        """Number of optimizer steps done, those before a resume included."""
        return self.start + self.state.global_step

    def state_to_save(self) -> tuple[dict[str, list[torch.Tensor]], dict[str, Any]]:
        """Return ({group: [tensor, …]}, facts) after an optimizer step: adapters, AdamW's moments, losses so far."""
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

    def resume(self, groups: Mapping[str, Sequence[torch.Tensor]], facts: Mapping[str, Any]) -> None:
        """Continue from what `state_to_save` returned; call it before `train()`."""
        self.start, self.rate_start, self.history = facts["step"], facts["rate"], facts["history"]
        for name in ("fast", "slow"):
            set_adapter_tensors(self.model, name, groups[name])
        self._moments = {name: list(many) for name, many in groups.items() if name not in ("fast", "slow")}
        if self.accelerator.scaler and facts["scaler"]:
            self.accelerator.scaler.load_state_dict(facts["scaler"])

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Create Trainer's optimizer, with the moments of the checkpoint if the stage is resumed."""
        fresh, optimizer = self.optimizer is None, super().create_optimizer(*args, **kwargs)
        if fresh and self._moments:
            state, names = optimizer.state_dict(), list(self._moments)
            state["state"] = {i: dict(zip(names, values)) for i, values in enumerate(zip(*self._moments.values()))}
            optimizer.load_state_dict(state)
        return optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Create this stage's part of one schedule over the run: a linear rise, a cosine down to a tenth.

        The fresh optimizer of each stage gets a short ramp in addition. (The library's warm-up spends the first step at
        rate 0.)
        """
        ramp, (begin, end), warmup = max(1, round(RAMP * self.steps)), self.span, self.config.optim.warmup_ratio

        def rate(step: int) -> float:
            step += self.rate_start + 1
            done = begin + (end - begin) * min(1.0, step / self.steps)
            return rate_factor(done, warmup, step / ramp)

        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer or self.optimizer, rate)
        return self.lr_scheduler

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """Return the order of the plan, from where a resumed stage continues."""
        return range(self.start * self.train_dataset.parts, len(self.train_dataset))

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: nothing reads Trainer's estimate, and it visits all parameters at every step."""
        return 0

    def _clip_grad_norm(self, model: PreTrainedModel) -> Any:
        """Clip the gradients of what is trained; Trainer's own visits all parameters twice to find them."""
        return self.accelerator.clip_grad_norm_(self.trainable, self.args.max_grad_norm)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Run Trainer's training step; after the last micro-batch of a step, sum the gradients of all processes."""
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            all_reduce_sum([tensor.grad for tensor in self.trainable if tensor.grad is not None])
        return loss

    def compute_loss(
        self, model: PeftModel, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return L_total of one micro-batch; each loss is logged under its own name."""
        record, hidden, weighted = self.record, None, {}
        total: Any = sum(tensor.sum() for tensor in self.trainable) * 0.0
        if "empty" not in inputs:
            model.eval()  # Trainer has set train mode, in which the base's own dropout would be noise in L_consistency
            hidden = hidden_states(model, inputs)
            losses = self.losses(hidden, inputs)
            if set(losses) != set(LOSSES):
                raise ICFTError(
                    f"{type(self).__name__}.losses: it returns {', '.join(losses)}, not {', '.join(LOSSES)}; "
                    "add another term in `regularizer`"
                )
            weighted = {name: getattr(self.config.loss, f"{name}_weight") * losses[name] for name in LOSSES}
            total = sum(weighted.values())
            for name in LOSSES:
                record[name] = record.get(name, 0) + losses[name].detach()
        if (added := self.regularizer(model, hidden, inputs)) is not None:
            total = total + added
        record["total"] = record.get("total", 0) + total.detach()
        if weighted and self.norms_every and self.step % self.norms_every == 0:
            for name in LOSSES:
                grads = torch.autograd.grad(
                    weighted[name], self.trainable, retain_graph=True, materialize_grads=True
                )  # zeros where a family's code reads a layer's weight without its adapter
                before = record.setdefault("gradients", {}).get(name)
                record["gradients"][name] = grads if before is None else torch._foreach_add(before, grads)
        return (total, hidden) if return_outputs else total

    def losses(self, hidden: torch.Tensor, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return the three losses of a micro-batch without their weights; a subclass may change them, not their names.

        hidden [rows, columns, hidden]: final hidden states; inputs: the batch, as for `losses.icft_losses`.
        """
        beta = self.config.loss.pair_beta
        return icft_losses(hidden, self.head, inputs, inputs["normalizers"], self.temperature, beta, self.covariance)

    def regularizer(
        self, model: PeftModel, hidden: torch.Tensor | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor | None:
        """Return what a subclass adds to L_total of a micro-batch, a scalar; None: nothing.

        hidden, inputs: as for `losses`; hidden is None in a micro-batch without examples. Gradients of a step's
        micro-batches are summed. A term of the weights alone must therefore be divided by their number,
        `train_dataset.parts`; one of the examples, by a normalizer of the whole step. `inputs["teacher"]` has states
        only if `loss.consistency_weight` is above 0.
        """

    def close_step(self) -> dict[str, Any]:
        """Finish the log record of an optimizer step and return it (called by the callback)."""
        record, self.record = self.record, {}
        if world_size() > 1:
            self._sum_over_processes(record)
        if "gradients" in record:
            record["norms"] = {
                name: float(torch.stack(torch._foreach_norm(grads)).norm())
                for name, grads in record.pop("gradients").items()
            }
        self.history.append({key: value if key == "norms" else float(value) for key, value in record.items()})
        return self.history[-1]

    def _sum_over_processes(self, record: dict[str, Any]) -> None:
        """Turn the record of this process's micro-batches, which may be none, into that of the whole step."""
        names = (*LOSSES, "total")
        values = torch.tensor([float(record.get(name, 0)) for name in names], device=self.head.device)
        all_reduce_sum([values])
        record.update(zip(names, values, strict=True))
        if self.norms_every and (self.step - 1) % self.norms_every == 0:
            gradients = record.setdefault("gradients", {})
            for name in LOSSES:
                gradients[name] = list(gradients.get(name) or map(torch.zeros_like, self.trainable))
                all_reduce_sum(gradients[name])
