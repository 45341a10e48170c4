"""`icft-lite doctor`: what this machine has, how icft_lite uses it, and which models fit.

Heavy packages are imported inside the functions, so that importing this module is fast.
"""

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

from icft_lite.config import TOKENS_PER_PASS, ICFTConfig
from icft_lite.errors import short_reason
from icft_lite.presets import describe_settings

GIB = 2**30
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "numpy")
RANK = 32
"""Of the LoRA adapters in the estimate."""

STATES = 400_000
"""Tokens of the long-term memory in the estimate of teacher states: 4,000 examples (the default) of 100 tokens."""

Shape = tuple[int, int, int, int, int, int, int, int]
"""(hidden size, layers, MLP width, attention heads, key/value heads, head width, vocabulary size, embedding matrices:
1 if the head is tied to the embeddings, else 2)."""
MODELS: dict[str, Shape] = {
    "SmolLM2-135M": (576, 30, 1536, 9, 3, 64, 49152, 1),
    "SmolLM2-360M": (960, 32, 2560, 15, 5, 64, 49152, 1),
    "Qwen3-0.6B": (1024, 28, 3072, 16, 8, 128, 151936, 1),
    "Qwen3-1.7B": (2048, 28, 6144, 16, 8, 128, 151936, 1),
    "Qwen3-4B": (2560, 36, 9728, 32, 8, 128, 151936, 1),
    "Qwen3-8B": (4096, 36, 12288, 32, 8, 128, 151936, 2),
}
"""The models that `doctor` makes an estimate for."""
FORMULA = (
    f"0.52 bytes per weight of the layers (NF4 with double quantization) + embeddings in the compute dtype + "
    f"36 bytes per LoRA parameter (rank {RANK}; in fp32: 20 for the fast adapter, its gradient, the two AdamW moments "
    f"and the slow adapter, 16 for temporary copies of adapter and gradients) + activations that the backward pass "
    f"needs, at {TOKENS_PER_PASS:,} tokens per forward pass + 0.7 GiB for the libraries. A model fits if this is at "
    f"most 85 % of the free memory"
)


def estimate(shape: Shape, value_bytes: int, tokens: int = TOKENS_PER_PASS) -> int:
    """Return the bytes that NF4 QLoRA training takes, by FORMULA.

    value_bytes: of one number in the compute dtype, 2 or 4. tokens: per forward pass.
    """
    hidden, layers, mlp, heads, kv_heads, head_width, vocabulary, embedding_matrices = shape
    queries, keys = heads * head_width, kv_heads * head_width
    linears = [
        (hidden, queries),
        (hidden, keys),
        (hidden, keys),
        (queries, hidden),
        (hidden, mlp),
        (hidden, mlp),
        (mlp, hidden),
    ]
    weights = layers * sum(inputs * outputs for inputs, outputs in linears)
    lora = layers * RANK * sum(inputs + outputs for inputs, outputs in linears)
    # Bytes per token and layer that the backward pass needs; lesson 10 counts and measures them.
    saved = 4 * (4 * hidden + 3 * queries + 3 * keys + 4 * mlp + 7 * RANK)
    if value_bytes == 2:  # the norms and the adapters keep fp32 copies
        saved = 28 * hidden + 12 * queries + 8 * keys + 10 * mlp + 28 * RANK
    activations = tokens * layers * saved
    embeddings = embedding_matrices * vocabulary * hidden * value_bytes
    return int(0.52 * weights + embeddings + 36 * lora + activations + 0.7 * GIB)


def examine() -> dict[str, Any]:
    """Return everything that `doctor` prints, as a dict of JSON values. Imports torch.

    Keys: versions {package: version}, platform, device, device_name, dtype, why (the reason for the dtype), threads,
    cores, memory_bytes, free_memory_bytes, free_disk_bytes, four_bit ("works" or the reason why not), formula,
    models (a list of {model, bytes, fits}), smollm2 {folder, cached}.
    """
    import psutil
    import torch

    from icft_lite.modeling.smollm2 import cache_facts
    from icft_lite.utils.hardware import hardware

    machine = hardware()
    cuda = machine["device"] == "cuda"
    free = torch.cuda.mem_get_info()[0] if cuda else psutil.virtual_memory().available
    value_bytes = 4 if machine["dtype"] == "float32" else 2
    estimates = {name: estimate(shape, value_bytes) for name, shape in MODELS.items()}
    return {
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "device": machine["device"],
        "device_name": machine["name"],
        "dtype": machine["dtype"],
        "why": machine["why"],
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "memory_bytes": machine["memory_bytes"],
        "free_memory_bytes": free,
        "free_disk_bytes": shutil.disk_usage(".").free,
        "four_bit": _try_4bit(machine["device"], machine["dtype"]),
        "formula": FORMULA,
        "models": [
            {"model": name, "bytes": needed, "fits": needed <= 0.85 * free} for name, needed in estimates.items()
        ],
        "smollm2": cache_facts(),
    }


def format_lines(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the dict of `examine` as lines of text."""
    yield "  ".join(f"{name} {version}" for name, version in found["versions"].items())
    yield f"system     {found['platform']}"
    yield f"device     {found['device']} ({found['device_name']})"
    yield f"dtype      {found['dtype']}: {found['why']}"
    yield f"threads    {found['threads']} of {found['cores']} cores (set OMP_NUM_THREADS to change)"
    free, memory, disk = (found[f"{name}_bytes"] / GIB for name in ("free_memory", "memory", "free_disk"))
    yield f"memory     {free:.1f} GiB free of {memory:.1f} GiB"
    yield f"disk       {disk:.1f} GiB free in this folder"
    yield f"4-bit NF4  {found['four_bit']}"
    yield "Estimated memory for training with QLoRA:"
    for entry in found["models"]:
        verdict = "fits" if entry["fits"] else "does not fit"
        yield f"  {entry['model']:13} {entry['bytes'] / GIB:5.1f} GiB  {verdict}"
    yield f"Estimate: {found['formula']}."
    sizes = [f"{4 * STATES * shape[0] / GIB:.1f} GiB ({name})" for name, shape in MODELS.items()]
    yield (
        f"Teacher states in fp32 of {STATES:,} tokens of the long-term memory: from {sizes[0]} to {sizes[-1]} on disk, "
        f"for each of the two teachers. A run estimates its own before it computes any."
    )
    yield "The embedded model, `tiny`, fits on every machine."
    where = "is in" if found["smollm2"]["cached"] else "is not downloaded yet: 93 MB from PyPI, then 540 MB in"
    for method in ("icft", "qlora"):
        config = ICFTConfig.preset(method, {"model": "smollm2"})
        yield f"Default settings of chat models, {method}: {describe_settings(config)}."
    yield "Their source: a sweep on validation data, see docs/models.md."
    yield f"The chat model `smollm2` (SmolLM2-135M-Instruct) {where} {found['smollm2']['folder']}."


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _try_4bit(device: str, dtype: str) -> str:
    """Return "works", or the reason why a 4-bit layer cannot run forward and backward."""
    try:
        import bitsandbytes
        import torch

        compute_dtype = getattr(torch, dtype)
        layer = bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=compute_dtype)
        inputs = torch.ones(2, 64, dtype=compute_dtype, device=device, requires_grad=True)
        layer.to(device)(inputs).sum().backward()
        if inputs.grad is None or not torch.isfinite(inputs.grad).all():
            raise FloatingPointError("a gradient is not finite")
        return "works"
    except Exception as error:  # a library can fail to load in any way, and this function reports it
        return f"does not work: {short_reason(error)}; use --no-4bit"
