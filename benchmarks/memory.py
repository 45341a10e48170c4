"""Peak memory of this process or of the GPU, from a chosen moment on."""

import ctypes
import gc
import re
from pathlib import Path


def begin(device):
    """Reset the peak. Returns the bytes in use now."""
    gc.collect()
    if device == "cuda":
        import torch

        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # return memory that loading has freed
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM (Linux; see `man proc`)
    return _read("VmRSS")


def peak(device):
    """Return the peak in bytes since `begin`."""
    if device == "cuda":
        import torch

        return torch.cuda.max_memory_allocated()
    return _read("VmHWM")


def _read(name):
    return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])
