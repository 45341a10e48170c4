"""The two LoRA adapters of a base model: adding, activating, copying, merging and saving them.

    h = W0·x + (alpha / r) · B·A·x        W0 frozen (4-bit NF4 or full precision), A and B trained

The adapter `fast` is trained by gradient descent (short-term memory). The adapter `slow` is its moving average
(long-term memory).
"""

import contextlib
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from icft_lite.errors import ICFTError
from icft_lite.modeling.forward import backbone


def add_adapters(model: PreTrainedModel, rank: int = 32, alpha: int = 64, seed: int = 0) -> PeftModel:
    """Add two LoRA adapters, `fast` (active) and `slow`, to every linear layer except the output head.

    Both have the same A, drawn from `seed`, and B = 0, so the model's outputs do not change. Random numbers outside
    this function are not affected. Raises ICFTError if PEFT cannot add adapters to the model.
    """
    targets, others = linear_layers(model)
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # data: PEFT's name
        lora_dropout=0.0,
        target_modules=targets,
        exclude_modules=others or None,
        task_type="CAUSAL_LM",
    )
    devices, kind = list(range(torch.cuda.device_count())), model.config.model_type
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "fan_in_fan_out")  # PEFT sets it for the transposed layers of GPT-2
        torch.manual_seed(seed)
        try:
            model = get_peft_model(model, config, adapter_name="fast", autocast_adapter_dtype=True)
            model.add_adapter("slow", config)
        except (ValueError, TypeError, NotImplementedError) as error:
            raise ICFTError(
                f"model: PEFT cannot add LoRA adapters to every linear layer of {kind}; choose another base"
            ) from error
    for config in model.peft_config.values():
        config.target_modules = sorted(config.target_modules)  # the order of a set differs from process to process
    copy_adapter(model, "fast", "slow")
    activate_adapter(model, "fast")
    return model


def linear_layers(model: PreTrainedModel) -> tuple[list[str], list[str]]:
    """Return (the names of the linear layers of the text transformer, without their paths; layers to exclude).

    The latter are full names of layers elsewhere, such as a vision tower, that have one of these names. Text never
    passes through them, so they get no gradient. Names that PEFT gives to fused experts when it loads an adapter are
    left out: `gate_proj` of a shared expert would be loaded as another layer.
    """
    linear = {name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear | Conv1D)}
    inside = set(backbone(model).modules())
    targets = {name.rpartition(".")[2] for name, layer in linear.items() if layer in inside}
    others = [name for name, layer in linear.items() if layer not in inside and name.rpartition(".")[2] in targets]
    loaded = LoraConfig(target_modules=targets)
    convert_peft_config_for_transformers(loaded, model, None)
    return sorted(targets & set(loaded.target_modules)), others


def lora_layers(model: PeftModel) -> dict[str, LoraLayer]:
    """Return the linear layers with LoRA adapters by name, in a fixed order."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def adapter_tensors(model: PeftModel, name: str) -> list[torch.Tensor]:
    """Return the weights A [r, in] and B [out, r] of adapter `name`, layer by layer: A, B, A, B, ….

    These are the model's own parameters, not copies.
    """
    return [
        weight
        for layer in lora_layers(model).values()
        for weight in (layer.lora_A[name].weight, layer.lora_B[name].weight)
    ]


@torch.no_grad()
def set_adapter_tensors(model: PeftModel, name: str, values: Sequence[torch.Tensor]) -> None:
    """Overwrite adapter `name` in place. `values` has the order of `adapter_tensors`."""
    for tensor, value in zip(adapter_tensors(model, name), values, strict=True):
        tensor.copy_(value)


def copy_adapter(model: PeftModel, source: str, target: str) -> None:
    """Overwrite adapter `target` with the weights of adapter `source`, in place."""
    set_adapter_tensors(model, target, adapter_tensors(model, source))


def activate_adapter(model: PeftModel, name: str) -> None:
    """Make adapter `name` active. Only `fast` is trainable, whichever is active.

    (`PeftModel.set_adapter` marks the active adapter as trainable.)
    """
    model.set_adapter(name)
    for adapter in model.peft_config:
        for tensor in adapter_tensors(model, adapter):
            tensor.requires_grad_(adapter == "fast")


@contextlib.contextmanager
def use_adapter(model: PeftModel | PreTrainedModel, name: str | None) -> Iterator[PeftModel | PreTrainedModel]:
    """Run the block with adapter `name` active, or without any adapter if `name` is None.

    Afterwards the previous adapter is active again and the same parameters are trainable as before.
    (`PeftModel.disable_adapter` alone would mark frozen adapters as trainable on exit.) A model without adapters is
    used as it is.
    """
    if not isinstance(model, PeftModel):
        yield model
        return
    active = model.active_adapter
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        if name is None:
            with model.disable_adapter():
                yield model
        else:
            model.set_adapter(name)
            yield model
    finally:
        model.set_adapter(active)
        for parameter, requires_grad in trainable.items():
            parameter.requires_grad_(requires_grad)


@contextlib.contextmanager
def merged_adapter(
    model: PeftModel | PreTrainedModel, name: str | None, max_bytes: int = 2**29
) -> Iterator[PeftModel | PreTrainedModel]:
    """Run the block like `use_adapter`, with the adapter merged into the weights if that is lossless and cheap.

    For many passes without gradients: a pass with a merged adapter costs as much as a pass through the base (three
    quarters of the time, on the embedded model `tiny`). The adapter is merged only into float32 weights, because
    16-bit and 4-bit weights would round its change, and only if these weights take at most `max_bytes` bytes, because
    a copy of them is held. Afterwards the original weights are restored bit by bit. (`PeftModel.unmerge_adapter`
    subtracts the change, which leaves rounding errors.)
    """
    layers = list(lora_layers(model).values()) if name is not None and isinstance(model, PeftModel) else []
    weights = [layer.get_base_layer().weight for layer in layers]
    originals = [weight.data for weight in weights]
    num_bytes = sum(data.nbytes for data in originals)
    if not originals or any(data.dtype != torch.float32 for data in originals) or num_bytes > max_bytes:
        with use_adapter(model, name):
            yield model
        return
    try:
        for layer, weight in zip(layers, weights):
            weight.data = weight.data + layer.get_delta_weight(name).detach()
        with use_adapter(model, None):
            yield model
    finally:
        for weight, data in zip(weights, originals):
            weight.data = data


def delta_svd(
    pairs: Sequence[tuple[float, torch.Tensor, torch.Tensor]], rank: int, scale: float
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Approximate Σ weight·scale·B·A by one pair of rank `rank`, with a truncated SVD.

    pairs: a list of (weight, A [r, in], B [out, r]). scale: alpha / r of the adapters. Returns (A [rank, in],
    B [out, rank], relative Frobenius error), where scale·B·A is the best approximation of that rank
    (Eckart and Young, 1936). The matrix [out, in] is never formed: the SVD is taken of a core [n·r, n·r], in float64.
    """
    left = torch.cat([weight * scale * B for weight, _, B in pairs], 1).double()
    right = torch.cat([A for _, A, _ in pairs], 0).double()
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, s, vh = torch.linalg.svd(r_left @ r_right.T, full_matrices=False)
    root = s[:rank].clamp_min(0).sqrt()
    residual = float(s[rank:].norm() / s.norm().clamp_min(1e-30))
    B = q_left @ u[:, :rank] * root / scale
    A = root[:, None] * (vh[:rank] @ q_right.T)
    missing = rank - len(root)  # a layer narrower than the rank has fewer singular values
    A, B = F.pad(A, (0, 0, 0, missing)), F.pad(B, (0, missing))
    return A.to(pairs[0][1].dtype), B.to(pairs[0][2].dtype), residual


def save_adapter(model: PeftModel, name: str, folder: str | Path) -> None:
    """Save one adapter in PEFT's format, so that `PeftModel.from_pretrained(base, folder)` loads it.

    PEFT writes adapters that are not called `default` to a subfolder; their files are moved up to `folder`.
    """
    folder = Path(folder)
    # save_embedding_layers=False: PEFT would look for the base on the Hub to see whether its embeddings were resized.
    model.save_pretrained(folder, selected_adapters=[name], safe_serialization=True, save_embedding_layers=False)
    for file in (folder / name).iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())  # report.json, which marks a complete run, must not reach the disk first
        file.replace(folder / file.name)
    (folder / name).rmdir()
