"""Checkpoints of a run: files that are written whole or not at all, so that a kill at any moment costs only time.

    state/stage2.safetensors    what stage 3 starts from: both adapters, the memory's examples, the results so far
    state/step.safetensors      a step of the stage under way: both adapters, the optimizer, the losses so far

Tensors and facts (JSON) share one file: one rename replaces the whole state. No pickle.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save

from icft_lite.errors import ICFTError
from icft_lite.utils.io import to_plain, write_bytes

STEP_FILE = "step.safetensors"
Groups = Mapping[str, Sequence[torch.Tensor]]
"""Named lists of tensors."""


@dataclass(frozen=True)
class RunPaths:
    """Where the files of a run are."""

    out: Path

    @property
    def state(self) -> Path:
        """What only an unfinished run needs."""
        return self.out / "state"

    @property
    def cache(self) -> Path:
        """Cached outputs of the model, see `modeling.output_cache`."""
        return self.state / "cache"

    @property
    def step(self) -> Path:
        """Checkpoint of the stage under way."""
        return self.state / STEP_FILE


def save_state(path: Path, groups: Groups, facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts as one file; the old file stays until the new one is complete.

    Raises ICFTError if it cannot be written.
    """
    tensors = {
        f"{group}.{i}": tensor.detach().cpu().contiguous()
        for group, many in groups.items()
        for i, tensor in enumerate(many)
    }
    text = bytearray(json.dumps(to_plain(facts)), "ascii")  # \u escapes restore any text exactly
    tensors["facts"] = torch.frombuffer(text, dtype=torch.uint8)  # the format's own header may not grow so large
    try:
        write_bytes(path, save(tensors))
    except ICFTError as error:
        raise ICFTError(f"{error}. The previous checkpoint is intact; run the same command again to resume") from None


def load_state(path: Path) -> tuple[dict[str, list[torch.Tensor]], dict[str, Any]]:
    """Read what `save_state` wrote: (groups, facts). Tensors are on the CPU, in memory of their own."""
    tensors = load(Path(path).read_bytes())
    groups: dict[str, list[torch.Tensor]] = {}
    facts = json.loads(tensors.pop("facts").numpy().tobytes())
    for name in sorted(tensors, key=lambda name: int(name.rpartition(".")[2])):
        groups.setdefault(name.rpartition(".")[0], []).append(tensors[name].clone())
    return groups, facts


def stage_file(folder: Path, number: int) -> Path:
    """Return the path of the checkpoint that stage `number` (1, 2, …) leaves."""
    return Path(folder) / f"stage{number}.safetensors"


def last_saved_stage(folder: Path) -> int:
    """Return the number of the last stage that has a checkpoint; 0 for none."""
    numbers = [
        int(path.stem.removeprefix("stage"))
        for path in Path(folder).glob("stage*.safetensors")
        if path.stem.removeprefix("stage").isdigit()
    ]
    return max(numbers, default=0)


def remove_superseded(folder: Path, done: int) -> None:
    """Remove checkpoints that stage `done` has made superfluous."""
    for path in (Path(folder) / STEP_FILE, *(stage_file(folder, n) for n in range(1, done))):
        path.unlink(missing_ok=True)


def remove_partial_files(*folders: Path) -> None:
    """Remove half-written files that killed processes left. The caller must be alone in the folders."""
    for folder in folders:
        for path in Path(folder).glob(".*.part"):
            path.unlink(missing_ok=True)
