"""`icft-lite doctor`: what this machine has, how icft_lite will use it, and which models will fit."""

import importlib.metadata
import os
import platform
import shutil

GIB = 2**30
PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "accelerate", "datasets", "numpy")
TOKENS, RANK = 1024, 32
MODELS = {  # hidden, layers, MLP width, heads, key/value heads, head width, vocabulary, its copies
    "SmolLM2-135M": (576, 30, 1536, 9, 3, 64, 49152, 1),
    "SmolLM2-360M": (960, 32, 2560, 15, 5, 64, 49152, 1),
    "Qwen3-0.6B": (1024, 28, 3072, 16, 8, 128, 151936, 1),
    "Qwen3-1.7B": (2048, 28, 6144, 16, 8, 128, 151936, 1),
    "Qwen3-4B": (2560, 36, 9728, 32, 8, 128, 151936, 1),
    "Qwen3-8B": (4096, 36, 12288, 32, 8, 128, 151936, 2),
}
FORMULA = (
    f"0.52 bytes a layer weight (NF4, double quantisation) + embeddings in the compute dtype + "
    f"36 bytes a LoRA parameter (rank {RANK}; in fp32 the fast adapter, its gradient and AdamW's two averages, "
    f"and the slow adapter, 20; copies at a stage's start and of gradients now and then, 16) + what a layer "
    f"keeps for the backward pass, at {TOKENS:,} tokens a forward pass + 0.7 GiB for the libraries; it fits "
    f"within 85 % of free memory"
)


def estimate(shape, value_bytes, tokens=TOKENS):
    """Bytes that NF4 QLoRA training takes, by FORMULA. `shape`: a value of MODELS; value_bytes: 2 or 4; tokens: of one
    forward pass."""
    hidden, layers, mlp, heads, kv, width, vocabulary, copies = shape
    linears = [
        (hidden, heads * width),
        (hidden, kv * width),
        (hidden, kv * width),
        (heads * width, hidden),
        (hidden, mlp),
        (hidden, mlp),
        (mlp, hidden),
    ]
    weights = layers * sum(i * o for i, o in linears)
    lora = layers * RANK * sum(i + o for i, o in linears)
    queries, keys = heads * width, kv * width
    kept = 4 * (4 * hidden + 3 * queries + 3 * keys + 4 * mlp + 7 * RANK)  # a token; counted and measured in lesson 10
    if value_bytes == 2:  # the norms and the adapters keep fp32 copies
        kept = 28 * hidden + 12 * queries + 8 * keys + 10 * mlp + 28 * RANK
    activations = tokens * layers * kept
    embeddings = copies * vocabulary * hidden * value_bytes
    return int(0.52 * weights + embeddings + 36 * lora + activations + 0.7 * GIB)


def examine():
    """Everything `doctor` says, as one dict ready for JSON. Imports torch."""
    import psutil
    import torch

    from icft_lite.utils.hardware import hardware

    hw = hardware()
    cuda = hw["device"] == "cuda"
    free = torch.cuda.mem_get_info()[0] if cuda else psutil.virtual_memory().available
    value_bytes = 4 if hw["dtype"] == "float32" else 2
    fits = [
        {"model": name, "bytes": need, "fits": need <= 0.85 * free}
        for name, shape in MODELS.items()
        for need in [estimate(shape, value_bytes)]
    ]
    versions = {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}
    return {
        "versions": versions,
        "platform": platform.platform(),
        "device": hw["device"],
        "device_name": hw["name"],
        "dtype": hw["dtype"],
        "why": hw["why"],
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "memory_bytes": hw["memory_bytes"],
        "free_memory_bytes": free,
        "free_disk_bytes": shutil.disk_usage(".").free,
        "four_bit": _try_four_bit(hw),
        "formula": FORMULA,
        "models": fits,
    }


def format_lines(found):
    """`examine()`'s dict as text, one line each."""
    yield "  ".join(f"{name} {version}" for name, version in found["versions"].items())
    yield f"system     {found['platform']}"
    yield f"device     {found['device']} ({found['device_name']})"
    yield f"dtype      {found['dtype']}: {found['why']}"
    yield f"threads    {found['threads']} of {found['cores']} cores (set OMP_NUM_THREADS to change)"
    free, memory, disk = (found[f"{name}_bytes"] / GIB for name in ("free_memory", "memory", "free_disk"))
    yield f"memory     {free:.1f} GiB free of {memory:.1f}"
    yield f"disk       {disk:.1f} GiB free here"
    yield f"4-bit NF4  {found['four_bit']}"
    yield "To train with QLoRA (an estimate):"
    for row in found["models"]:
        says = "fits" if row["fits"] else "does not fit"
        yield f"  {row['model']:13} {row['bytes'] / GIB:5.1f} GiB  {says}"
    yield f"Estimate: {found['formula']}."
    yield "The embedded model, `tiny`, fits everywhere."


def _version(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _try_four_bit(hw):
    """ "works", or the reason why a 4-bit layer could not be run forward and backward."""
    try:
        import bitsandbytes
        import torch

        dtype = getattr(torch, hw["dtype"])
        layer = bitsandbytes.nn.Linear4bit(64, 64, quant_type="nf4", compute_dtype=dtype)
        x = torch.ones(2, 64, dtype=dtype, device=hw["device"], requires_grad=True)
        layer.to(hw["device"])(x).sum().backward()
        if not torch.isfinite(x.grad).all():
            raise FloatingPointError("a gradient is not finite")
        return "works"
    except Exception as error:  # a library may fail to load in any way; saying so is this function's job
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        return f"does not work: {first}; use --no-4bit"
