"""icft_lite: adapt a small language model to medicine without it forgetting what it knew.

Names load on first use (PEP 562), so `import icft_lite` costs nothing: torch comes with the first name that
needs it.
"""

import logging
from importlib import import_module

# bitsandbytes asks for one more package on CPUs with AVX512-BF16, for a path that
# `modeling.base.check_four_bit` turns off.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.1.0"

_HOME = {
    "ICFTConfig": "config",
    "ICFTError": "errors",
    "METHODS": "config",
    "DataBundle": "data.bundle",
    "bundle_from_files": "data.sources",
    "load_samples": "data.samples",
    "read_examples": "data.splits",
    "sample_bundle": "data.samples",
    "DawidSkene": "weak.models",
    "MajorityVote": "weak.models",
    "apply_lfs": "weak.functions",
    "labeling_function": "weak.functions",
    "load_base": "modeling.base",
    "build_curriculum": "curriculum",
    "score_difficulty": "curriculum",
    "LongTermMemory": "memory.long_term",
    "ShortTermMemory": "memory.short_term",
    "evaluate_suite": "evaluation",
    "ICFTTrainer": "training.trainer",
    "train_icft": "training.run",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{_HOME[name]}", __name__), name)
    return value


def __dir__():
    return sorted(__all__)
