"""icft_lite: adapt a small language model to medicine without catastrophic forgetting.

Names load on first use (PEP 562): `import icft_lite` takes no time, and torch comes with the first name that needs it.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from icft_lite.compat import install as _accept_old_module_names

# bitsandbytes warns of a missing package on CPUs with AVX512-BF16, for a path that `base_checks.check_four_bit`
# turns off.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__version__ = "0.2.0"

_HOME = {
    "DataBundle": "data.bundle",
    "DawidSkene": "weak.label_models",
    "Encoder": "modeling.encoding",
    "ICFTConfig": "config",
    "ICFTError": "errors",
    "ICFTTrainer": "training.trainer",
    "LongTermMemory": "memory.long_term",
    "MajorityVote": "weak.label_models",
    "PRESETS": "presets",
    "ReadOptions": "data.schema",
    "RuntimeConfig": "config",
    "ShortTermMemory": "memory.short_term",
    "add_adapters": "modeling.adapters",
    "apply_lfs": "weak.functions",
    "build_curriculum": "curriculum",
    "bundle_from_files": "data.sources",
    "evaluate_suite": "evaluation",
    "export": "finished_runs",
    "generate": "modeling.generation",
    "label_pool": "weak.pool",
    "labeling_function": "weak.functions",
    "lf_analysis": "weak.functions",
    "load_lfs": "weak.files",
    "load_base": "modeling.base",
    "load_run": "finished_runs",
    "load_samples": "data.samples",
    "read_examples": "data.splits",
    "sample_bundle": "data.samples",
    "score_difficulty": "curriculum",
    "train_icft": "training.loop",
}

__all__ = [
    "DataBundle",
    "DawidSkene",
    "Encoder",
    "ICFTConfig",
    "ICFTError",
    "ICFTTrainer",
    "LongTermMemory",
    "MajorityVote",
    "PRESETS",
    "ReadOptions",
    "RuntimeConfig",
    "ShortTermMemory",
    "add_adapters",
    "apply_lfs",
    "build_curriculum",
    "bundle_from_files",
    "evaluate_suite",
    "export",
    "generate",
    "label_pool",
    "labeling_function",
    "lf_analysis",
    "load_lfs",
    "load_base",
    "load_run",
    "load_samples",
    "read_examples",
    "sample_bundle",
    "score_difficulty",
    "train_icft",
    "__version__",
]

if TYPE_CHECKING:  # so that type checkers and editors see the names
    from icft_lite.config import ICFTConfig as ICFTConfig
    from icft_lite.config import RuntimeConfig as RuntimeConfig
    from icft_lite.curriculum import build_curriculum as build_curriculum
    from icft_lite.curriculum import score_difficulty as score_difficulty
    from icft_lite.data.bundle import DataBundle as DataBundle
    from icft_lite.data.samples import load_samples as load_samples
    from icft_lite.data.samples import sample_bundle as sample_bundle
    from icft_lite.data.schema import ReadOptions as ReadOptions
    from icft_lite.data.sources import bundle_from_files as bundle_from_files
    from icft_lite.data.splits import read_examples as read_examples
    from icft_lite.errors import ICFTError as ICFTError
    from icft_lite.evaluation import evaluate_suite as evaluate_suite
    from icft_lite.finished_runs import export as export
    from icft_lite.finished_runs import load_run as load_run
    from icft_lite.memory.long_term import LongTermMemory as LongTermMemory
    from icft_lite.memory.short_term import ShortTermMemory as ShortTermMemory
    from icft_lite.modeling.adapters import add_adapters as add_adapters
    from icft_lite.modeling.base import load_base as load_base
    from icft_lite.modeling.encoding import Encoder as Encoder
    from icft_lite.modeling.generation import generate as generate
    from icft_lite.presets import PRESETS as PRESETS
    from icft_lite.training.loop import train_icft as train_icft
    from icft_lite.training.trainer import ICFTTrainer as ICFTTrainer
    from icft_lite.weak.files import load_lfs as load_lfs
    from icft_lite.weak.functions import apply_lfs as apply_lfs
    from icft_lite.weak.functions import labeling_function as labeling_function
    from icft_lite.weak.functions import lf_analysis as lf_analysis
    from icft_lite.weak.label_models import DawidSkene as DawidSkene
    from icft_lite.weak.label_models import MajorityVote as MajorityVote
    from icft_lite.weak.pool import label_pool as label_pool


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    home = _HOME.get(name) or {"METHODS": "config"}.get(name)  # data: METHODS is a name of 0.1
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f".{home}", __name__), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


_accept_old_module_names()
