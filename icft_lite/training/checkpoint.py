"""The saved state of a run: files that are written whole or not at all, so a kill at any moment costs only time.

    state/stage2.safetensors    where stage 3 starts: both adapters, the memory's rows, what the report needs
    state/step.safetensors      a step of the stage under way: both adapters, the optimiser, the log so far

Tensors and facts (JSON) share one file: a rename then replaces all of a state at once. No pickle.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load, save

from icft_lite.errors import ICFTError
from icft_lite.utils.io import to_plain, write_bytes

STEP_FILE = "step.safetensors"


def save_state(path, groups, facts):
    """Write {group: [tensor, …]} and JSON facts as one file; the old file stays until the new one is complete.

    Raises ICFTError, one line, if it cannot be written."""
    tensors = {
        f"{group}.{i}": tensor.detach().cpu().contiguous()
        for group, many in groups.items()
        for i, tensor in enumerate(many)
    }
    text = bytearray(json.dumps(to_plain(facts)), "ascii")  # \u escapes bring any text back exactly
    tensors["facts"] = torch.frombuffer(text, dtype=torch.uint8)  # the format's own header may not grow so large
    try:
        write_bytes(path, save(tensors))
    except ICFTError as error:
        raise ICFTError(f"{error}. The state before it is kept; the same line again resumes") from None


def load_state(path):
    """Read `save_state`: (groups, facts), on the CPU, in memory aligned like any other tensor's."""
    tensors, groups = load(Path(path).read_bytes()), {}
    facts = json.loads(tensors.pop("facts").numpy().tobytes())
    for name in sorted(tensors, key=lambda name: int(name.rpartition(".")[2])):
        groups.setdefault(name.rpartition(".")[0], []).append(tensors[name].clone())
    return groups, facts


def stage_file(folder, number):
    return Path(folder) / f"stage{number}.safetensors"


def last_saved_stage(folder, stages):
    """The last of `stages` (a count) that is saved; 0 for none."""
    return max((n for n in range(1, stages + 1) if stage_file(folder, n).exists()), default=0)


def remove_superseded(folder, done):
    """Remove what stage `done` has made superfluous."""
    for path in (Path(folder) / STEP_FILE, *(stage_file(folder, n) for n in range(1, done))):
        path.unlink(missing_ok=True)


def remove_partial_files(*folders):
    """Remove half-written files that killed processes left. Call it alone in the folder: another's would go too."""
    for folder in folders:
        for path in Path(folder).glob(".*.part"):
            path.unlink(missing_ok=True)
