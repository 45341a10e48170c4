"""The base in NF4, its two LoRA adapters, and the bare-base pass.

    h = W0·x + (alpha / r) · B·A·x        W0 frozen (4-bit), A and B trained

`fast` is the adapter trained by gradient (short-term memory); `slow` is its moving average (long-term).
"""

import contextlib
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model


def add_adapters(model, rank=32, alpha=64, seed=0):
    """Wrap a base with two LoRA adapters on every linear layer but the head, `fast` (active) and `slow`.

    Both start as the zero change (B = 0), with the same A, drawn from `seed`. Returns the PeftModel."""
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        model = get_peft_model(model, config, adapter_name="fast", autocast_adapter_dtype=True)
        model.add_adapter("slow", config)
    for config in model.peft_config.values():
        config.target_modules = sorted(config.target_modules)  # a set's order would differ from process to process
    copy_adapter(model, "fast", "slow")
    activate_adapter(model, "fast")
    return model


def lora_layers(model):
    """The LoRA-wrapped linear layers by name, in a fixed order."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def adapter_tensors(model, name):
    """The A and B weights of one adapter, in a fixed order (views, not copies)."""
    return [
        weight
        for layer in lora_layers(model).values()
        for weight in (layer.lora_A[name].weight, layer.lora_B[name].weight)
    ]


@torch.no_grad()
def set_adapter_tensors(model, name, values):
    """Overwrite an adapter, in place, with tensors in the order of `adapter_tensors`."""
    for tensor, value in zip(adapter_tensors(model, name), values, strict=True):
        tensor.copy_(value)


def copy_adapter(model, source, target):
    """Overwrite adapter `target` with `source`, in place."""
    set_adapter_tensors(model, target, adapter_tensors(model, source))


def activate_adapter(model, name):
    """Make one adapter active, and only `fast` trainable (peft marks whatever is active as trainable)."""
    model.set_adapter(name)
    for adapter in model.peft_config:
        for tensor in adapter_tensors(model, adapter):
            tensor.requires_grad_(adapter == "fast")


@contextlib.contextmanager
def use_adapter(model, name):
    """Run the block with adapter `name`, or the bare base if name is None; restore what was active and
    which parameters are trainable (leaving `disable_adapter()` would mark frozen adapters trainable)."""
    if not isinstance(model, PeftModel):
        yield model
        return
    before = model.active_adapter
    trainable = {p: p.requires_grad for p in model.parameters()}
    try:
        if name is None:
            with model.disable_adapter():
                yield model
        else:
            model.set_adapter(name)
            yield model
    finally:
        model.set_adapter(before)
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def merged_adapter(model, name, most=2**28):
    """`using`, for many passes without a gradient: as long as the block runs, the adapter's change is part of the
    weights, so that a pass costs what the bare base's does (three quarters, for the embedded one).

    Only where a base's weights are plain fp32 numbers (4-bit ones would lose most of the change, 16-bit ones some), and
    take no more than `most` bytes, since they are there twice. Afterwards they are the very same weights again: peft's
    own unmerging subtracts, and leaves rounding behind."""
    layers = list(lora_layers(model).values()) if name is not None and isinstance(model, PeftModel) else []
    weights = [layer.get_base_layer().weight for layer in layers]
    before = [weight.data for weight in weights]
    if not before or any(data.dtype != torch.float32 for data in before) or sum(data.nbytes for data in before) > most:
        with use_adapter(model, name):
            yield model
        return
    try:
        for layer, weight in zip(layers, weights):
            weight.data = weight.data + layer.get_delta_weight(name).detach()
        with use_adapter(model, None):
            yield model
    finally:
        for weight, data in zip(weights, before):
            weight.data = data


def delta_svd(pairs, rank, scale):
    """Bring Σ weight·(alpha/r)·B·A back to rank r by a truncated SVD (Eckart–Young: the best there is).

    pairs: [(weight, A [r, in], B [out, r])]; scale alpha / r. Works on [out, n·r] and [n·r, in], never on
    [out, in]. Returns A [rank, in], B [out, rank], and the relative Frobenius residual."""
    left = torch.cat([weight * scale * B for weight, _, B in pairs], 1).double()
    right = torch.cat([A for _, A, _ in pairs], 0).double()
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, s, vh = torch.linalg.svd(r_left @ r_right.T)
    root = s[:rank].clamp_min(0).sqrt()
    residual = float(s[rank:].norm() / s.norm().clamp_min(1e-30))
    B = q_left @ u[:, :rank] * root / scale
    A = root[:, None] * (vh[:rank] @ q_right.T)
    return A.to(pairs[0][1].dtype), B.to(pairs[0][2].dtype), residual


def save_adapter(model, name, folder):
    """Save one adapter in peft's own format, so `PeftModel.from_pretrained(base, folder)` loads it alone.

    peft keeps adapters not called `default` in a subfolder; this lifts the files out of it."""
    folder = Path(folder)
    model.save_pretrained(folder, selected_adapters=[name], safe_serialization=True)
    for file in (folder / name).iterdir():
        file.replace(folder / file.name)
    (folder / name).rmdir()
