"""The device and data type to compute with, and the peak memory used."""

import os
import platform
import sys
from typing import Literal, TypedDict

import torch

if sys.platform != "win32":
    import resource


class Hardware(TypedDict):
    """What this machine computes with."""

    device: Literal["cuda", "cpu"]
    """The torch device type."""
    name: str
    """Name of the GPU, or of the processor."""
    dtype: Literal["bfloat16", "float16", "float32"]
    """Name of the torch dtype to compute in."""
    why: str
    """The reason for this dtype, for people to read."""
    memory_bytes: int
    """Memory of the GPU, or of the machine, in bytes; 0 if it is unknown."""


def hardware() -> Hardware:
    """Return the device and data type to compute with.

    bfloat16 needs compute capability 8.0. (`torch.cuda.is_bf16_supported()` is also true on a T4, which only emulates
    it.) CPUs use float32, because bfloat16 without AVX512-BF16 is more than ten times slower.
    """
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        native_bf16 = properties.major >= 8
        return Hardware(
            device="cuda",
            name=properties.name,
            dtype="bfloat16" if native_bf16 else "float16",
            why=f"compute capability {properties.major}.{properties.minor} "
            f"{'has' if native_bf16 else 'lacks'} native bf16",
            memory_bytes=properties.total_memory,
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return Hardware(
        device="cpu",
        name=platform.processor() or platform.machine(),
        dtype="float32",
        why="no GPU; CPUs compute in fp32",
        memory_bytes=memory,
    )


def peak_memory() -> int | None:
    """Return the peak memory in bytes: allocated on the GPU if there is one, else resident in this process.

    None on Windows without a GPU, where it is unknown.
    """
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS reports bytes, Linux KiB
