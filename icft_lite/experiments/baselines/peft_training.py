"""Train any method of peft by plain next-token NLL on the planned batches of a run.

Examples, plan, token budget, batch size, loss and clipping are those of a run with the same configuration, whose memory
examples count by NLL only. Different from a run: one AdamW for all stages, and no slow adapter, promotion or
consolidation. The result is the change ΔW of each full weight, so that any α·ΔW can be evaluated.

    prepared = prepare(config, data, RuntimeConfig(), RunPaths(out), Events())
    changes, losses = train_peft(prepared, osf)                # or corda
    with changed_weights(prepared.model, changes, alpha=0.8):
        scores = evaluate_suite(prepared.model, prepared.tokenizer, prepared.suites, "base", prepared.encoder)
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from icft_lite.modeling.base import dequantize_base, load_base
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.losses import icft_losses
from icft_lite.training.batches import StageBatches
from icft_lite.training.loop import steps_left
from icft_lite.training.prepare import Prepared
from icft_lite.training.stage import plan_batches
from icft_lite.training.trainer import rate_factor

Changes = dict[str, torch.Tensor]
"""ΔW of each layer by its name in the base, in the shape of its weight, on the CPU."""


def planned_batches(prepared: Prepared) -> Iterator[StageBatches]:
    """Yield the batches of every stage, as a run has them."""
    done: list[int] = []
    for stage in prepared.stages:
        batches, _, _ = plan_batches(prepared, stage, steps_left(prepared, done))
        done.append(len(batches.steps))
        yield batches


def train_peft(
    prepared: Prepared, add: Callable[[PreTrainedModel, Prepared], PeftModel], learning_rate: float | None = None
) -> tuple[Changes, list[float]]:
    """Train a PEFT method on a copy of the base, and return the changes of its weights and the loss of each step.

    add: puts the method's adapters on a base with dequantized weights, such as `osf`. learning_rate: default
    `optim.learning_rate`. The schedule is a linear rise over `optim.warmup_ratio`, then a cosine to a tenth.
    """
    config = prepared.config
    model = dequantize_base(load_base(config.model, config.adapter.load_in_4bit, str(prepared.model.device))[0])
    before = {name: weight.detach().cpu().clone() for name, weight in model.named_parameters()}
    model = add(model, prepared).eval()
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, learning_rate or config.optim.learning_rate, weight_decay=0.0)
    stages = [stage for stage in planned_batches(prepared) if len(stage)]
    total, warmup = sum(len(stage.steps) for stage in stages), config.optim.warmup_ratio

    def rate(step: int) -> float:
        return rate_factor((step + 1) / total, warmup)

    schedule, losses, head = torch.optim.lr_scheduler.LambdaLR(optimizer, rate), list[float](), head_weight(model)
    for stage in stages:
        for index in range(0, len(stage), stage.parts):
            losses.append(0.0)
            for part in range(index, index + stage.parts):
                if "empty" in (batch := stage[part]):
                    continue
                batch = {name: one.to(head.device) if torch.is_tensor(one) else one for name, one in batch.items()}
                loss = icft_losses(hidden_states(model, batch), head, batch, batch["normalizers"])["fine_tune"]
                loss.backward()
                losses[-1] += float(loss.detach())
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    after = model.merge_and_unload().named_parameters()
    changes = {name: weight.detach().cpu() - before[name] for name, weight in after}
    return {name.removesuffix(".weight"): one for name, one in changes.items() if one.any()}, losses


@contextlib.contextmanager
def changed_weights(
    model: PreTrainedModel | PeftModel, changes: Mapping[str, torch.Tensor], alpha: float = 1.0
) -> Iterator[None]:
    """Run the block with α·ΔW added to the weights of the base. Adapters of the model stay as they are.

    Afterwards the original weights are restored bit by bit. The weights must not be in 4 bits.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    layers = [base.get_submodule(name) for name in changes]
    weights = [getattr(layer, "base_layer", layer).weight for layer in layers]
    originals = [weight.data for weight in weights]
    try:
        for weight, change in zip(weights, changes.values(), strict=True):
            weight.data = weight.data + alpha * change.to(weight)
        yield
    finally:
        for weight, data in zip(weights, originals, strict=True):
            weight.data = data
