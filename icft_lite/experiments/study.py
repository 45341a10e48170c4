"""The study that comes with the package: which test questions each run answered correctly, to analyze it again.

`scripts/pack_study.py` writes such a record from the results of `icft-lite compare`. It contains whether each test
question was answered correctly, by method and seed, so that any interval can be computed. It also contains the SHA-256
of the base that it was measured on, because it does not describe any other.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel

from icft_lite.errors import ICFTError
from icft_lite.experiments.bits import unpack_bits
from icft_lite.modeling.base import TINY
from icft_lite.modeling.encoding import Encoded
from icft_lite.retention import mean_kl

STUDY = Path(__file__).parent / "results" / "study.json"
"""The record that comes with the package."""


def load_study(path: str | Path = STUDY) -> dict[str, Any]:
    """Return the record of a study, with its answers unpacked.

    `study["base"]["right"][test]` and each run's `["right"][test]` are bool [questions];
    `study["tests"][test]["topic"]` and `["kind"]` are the topics and kinds, [questions]; `study["current"]` says
    whether it was measured on the base that comes with the package. Raises ICFTError if it cannot be read.
    """
    study = read_record(path)
    for test in study["tests"].values():
        for column, name in enumerate(("topic", "kind")):
            test[name] = np.repeat([run[column] for run in test["topics"]], [run[2] for run in test["topics"]])
    for holder in (study["base"], *study["runs"]):
        holder["right"] = {
            name: unpack_bits(text, len(study["tests"][name]["topic"])) for name, text in holder["right"].items()
        }
    study["current"] = study["base"]["sha256"] == base_hash()
    return study


def answers_of(study: dict[str, Any], method: str, test: str) -> np.ndarray:
    """Return which questions of a test the runs of a method answered correctly: bool [seeds, questions]."""
    return np.stack([run["right"][test] for run in study["runs"] if run["method"] == method])


def divergence(model: PeftModel, encoded: Sequence[Encoded]) -> float:
    """Return `retention.mean_kl` of the active adapter, as the lessons of 0.1 use it."""
    return mean_kl(model, encoded, str(model.active_adapter))


def base_hash() -> str:
    """Return the SHA-256 of the embedded base's weights."""
    return hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()


def read_record(path: str | Path) -> dict[str, Any]:
    """Return a JSON file of a comparison or a study. Raises ICFTError if it cannot be read."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ICFTError(
            f"{path}: is missing or cannot be read; make it with `icft-lite compare`, then scripts/pack_study.py"
        ) from None
