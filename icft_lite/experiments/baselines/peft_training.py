"""Train any method of peft by plain next-token NLL on the planned batches of a run.

Examples, plan, token budget, batch size, loss and clipping are those of a run with the same configuration, whose memory
examples count by NLL only. Different from a run: one AdamW for all stages, and no slow adapter, promotion or
consolidation. The result is the change ΔW of each full weight, so that any α·ΔW can be evaluated.

    prepared = prepare(config, data, RuntimeConfig(), RunPaths(out), Events())
    changes, losses = train_peft(prepared, osf)                # or partial(corda, prepared=prepared)
    with changed_weights(prepared.model, changes, alpha=0.8):
        scores = evaluate_suite(prepared.model, prepared.tokenizer, prepared.suites, "base", prepared.encoder)
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from icft_lite.data.tables import column
from icft_lite.memory.short_term import ShortTermMemory
from icft_lite.modeling.base import dequantize_base, head_weight, hidden_states, load_base
from icft_lite.modeling.losses import icft_losses
from icft_lite.training.batches import StageBatches
from icft_lite.training.loop import steps_left
from icft_lite.training.plan import plan_stage
from icft_lite.training.prepare import Prepared
from icft_lite.training.stage import StageResult

Changes = dict[str, torch.Tensor]
"""ΔW of each layer by its name in the base, in the shape of its weight, on the CPU."""


def planned_batches(prepared: Prepared) -> Iterator[StageBatches]:
    """Yield the batches of every stage, as `stage.run_stage` plans them."""
    config, memory, results = prepared.config, prepared.memory.entries, list[StageResult]()
    topics, encodings = column(prepared.examples, "topic"), [entry.encoded for entry in memory]
    for stage in prepared.stages:
        seed, limit = f"{config.seed}/{stage.number}", steps_left(prepared, results)
        ring = ShortTermMemory(config.short_term.size, config.short_term.promote_after, seed)
        new = stage.examples, prepared.encoded, topics
        steps = plan_stage(*new, encodings, ring, config, stage.tokens, limit, seed)[0] if limit != 0 else []
        results.append(StageResult(dict(steps=len(steps)), [], [], {}, []))
        yield StageBatches(steps, prepared.examples, prepared.encoded, memory, config, prepared.runtime)


def train_peft(
    prepared: Prepared, add: Callable[[PreTrainedModel], PeftModel], learning_rate: float | None = None
) -> tuple[Changes, list[float]]:
    """Train a PEFT method on a copy of the base, and return the changes of its weights and the loss of each step.

    add: puts the method's adapters on a base with dequantized weights, such as `osf`. learning_rate: default
    `optim.learning_rate`. The schedule is a linear rise over `optim.warmup_ratio`, then a cosine to a tenth.
    """
    config = prepared.config
    model = dequantize_base(load_base(config.model, config.adapter.load_in_4bit, str(prepared.model.device))[0])
    before = {name: weight.detach().cpu().clone() for name, weight in model.named_parameters()}
    model = add(model).eval()
    trained = [one for one in model.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, learning_rate or config.optim.learning_rate, weight_decay=0.0)
    stages = [stage for stage in planned_batches(prepared) if len(stage)]
    total, warmup = sum(len(stage.steps) for stage in stages), config.optim.warmup_ratio

    def rate(step: int) -> float:
        done = (step + 1) / total
        fall = math.pi * max(0.0, done - warmup) / max(1e-9, 1 - warmup)
        return min(1.0, done / max(1e-9, warmup)) * (0.55 + 0.45 * math.cos(fall))

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
