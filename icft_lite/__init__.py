"""icft_lite: adapt a small language model to medicine without it forgetting what it knew.

Names load on first use (PEP 562), so `import icft_lite` costs nothing: torch comes with the first name that
needs it.
"""

import logging
from importlib import import_module

# bitsandbytes asks for one more package on CPUs with AVX512-BF16, for a path that `model.guard_four_bit` turns off.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"

_HOME = {
    "ICFTConfig": "config", "ICFTError": "config", "METHODS": "config",
    "DataBundle": "samples", "bundle_from_files": "samples", "load_samples": "samples",
    "read_examples": "samples", "sample_bundle": "samples",
    "DawidSkene": "weak", "MajorityVote": "weak", "apply_lfs": "weak", "labeling_function": "weak",
    "load_base": "model",
    "build_curriculum": "curriculum", "score_difficulty": "curriculum",
    "LongTermMemory": "memory", "ShortTermMemory": "memory",
    "evaluate_suite": "evaluate",
    "ICFTTrainer": "trainer", "train_icft": "run",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__():
    return sorted(__all__)
