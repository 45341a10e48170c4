"""What this machine computes with, and how much memory was used."""

import os
import platform
import sys

import torch


def hardware():
    """What this machine computes with: {"device", "name", "dtype", "why", "memory_bytes"}.

    bf16 needs compute capability 8 (torch says yes on a T4, where it is emulated); CPUs use fp32, since
    bf16 without AVX512-BF16 is over ten times slower."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        modern = properties.major >= 8
        return dict(
            device="cuda",
            name=properties.name,
            dtype="bfloat16" if modern else "float16",
            why=f"compute capability {properties.major}.{properties.minor} {'has' if modern else 'lacks'} native bf16",
            memory_bytes=properties.total_memory,
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return dict(
        device="cpu",
        name=platform.processor() or platform.machine(),
        dtype="float32",
        why="no GPU; CPUs compute in fp32",
        memory_bytes=memory,
    )


def peak_memory():
    """Most bytes held at a time: of the GPU if there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
