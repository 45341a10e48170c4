"""Cache of model outputs on disk, so that an interrupted run does not compute them again.

Outputs are computed in blocks of examples of similar length. A block is one file, written atomically, so a killed
process loses at most one block. A cached value equals the computed one, bit by bit.
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load, load_file, save
from transformers import PreTrainedModel

from icft_lite.modeling.adapters import adapter_tensors, use_adapter
from icft_lite.modeling.encoding import Encoded
from icft_lite.modeling.scoring import score_responses
from icft_lite.utils.distributed import on_main_process
from icft_lite.utils.io import write_bytes

MAX_BLOCK_EXAMPLES = 8192
"""Maximum number of examples in one file."""
MAX_BLOCK_BYTES = 2**28
"""Approximate maximum number of bytes in one file."""

OutputFunction = Callable[[PeftModel, list[Encoded]], list[torch.Tensor]]
"""Computes one tensor per encoded example."""


class OutputCache:
    """On-disk cache of per-example outputs, keyed by a hash of weights and inputs.

    folder: of the files; None computes without a cache. max_memory_bytes: outputs larger than this are not read into
    memory but memory-mapped from their files.
    """

    def __init__(self, model: PeftModel, folder: str | Path | None = None, max_memory_bytes: int = 2**30) -> None:
        self.model, self.folder, self.max_memory_bytes = model, Path(folder) if folder else None, max_memory_bytes

    def response_scores(
        self, name: str, encoded: Sequence[Encoded], adapter: str | None = None
    ) -> list[dict[str, np.ndarray]]:
        """Return `score_responses` of the main process, without `greedy`; for `name` and `adapter` see `compute`."""

        def score(model: PeftModel, block: list[Encoded]) -> list[torch.Tensor]:
            return [
                torch.from_numpy(np.stack([one["logp"], one["tokens"]], 1).astype(float))
                for one in score_responses(model, block)
            ]

        def compute() -> list[np.ndarray]:
            return [value.numpy() for value in self.compute(name, score, encoded, adapter, wait=False)]

        return [
            dict(logp=value[:, 0].astype(np.float32), tokens=value[:, 1].astype(np.int64))
            for value in on_main_process(compute)
        ]

    def compute(
        self,
        name: str,
        function: OutputFunction,
        encoded: Sequence[Encoded],
        adapter: str | None = None,
        width: int = 0,
        wait: bool = True,
    ) -> list[torch.Tensor]:
        """Return one tensor per example: the outputs of `function(model, block)` with an adapter, cached or computed.

        name: names the files. Earlier files of the same name, for other examples or weights, are removed.
        adapter: None runs the base without adapters. width: float32 values per supervised token in an output, which
        limits the size of the blocks. wait: only the main process computes; the others wait and read its files.
        """
        blocks = _split_blocks(encoded, width)
        paths = self._block_paths(name, encoded, blocks, adapter)

        def compute_block(block: list[int]) -> list[torch.Tensor]:
            with use_adapter(self.model, adapter):
                return function(self.model, [encoded[i] for i in block])

        if folder := self.folder:

            def fill() -> None:
                for block, path in zip(blocks, paths):
                    if not path.exists():
                        values = compute_block(block)
                        sizes = torch.tensor([len(value) for value in values])
                        write_bytes(path, save(dict(sizes=sizes, values=torch.cat(values))))  # keys of the file format
                for path in set(folder.glob(f"{name}-*")) - set(paths):
                    with contextlib.suppress(OSError):  # Windows cannot remove a file that is memory-mapped
                        path.unlink()

            on_main_process(fill) if wait else fill()
        found = {path for path in paths if path.exists()}  # none on machines other than that of the main process
        mapped = sum(path.stat().st_size for path in found) > self.max_memory_bytes
        outputs: dict[int, torch.Tensor] = {}
        for n, block in enumerate(blocks):
            cached = bool(paths) and paths[n] in found
            outputs |= zip(block, _read(paths[n], mapped) if cached else compute_block(block))
        return [outputs[i] for i in range(len(encoded))]

    def _block_paths(
        self, name: str, encoded: Sequence[Encoded], blocks: list[list[int]], adapter: str | None
    ) -> list[Path]:
        """Return the file of each block; none at all without a folder."""
        if not self.folder:
            return []
        weights = _hash([self._base_hash, *(adapter_tensors(self.model, adapter) if adapter else ())])
        # One block at a time: as Python objects, a million examples take gigabytes.
        hashes = [_hash(chain([weights], (encoded[i] for i in block))) for block in blocks]
        # "loss-…", "states-base-…": names of files in users' run folders
        return [self.folder / f"{name}-{hash_}.safetensors" for hash_ in hashes]

    @functools.cached_property
    def _base_hash(self) -> str:
        return base_hash(self.model)


def base_hash(model: PreTrainedModel | PeftModel) -> str:
    """Return a hash of the base's configuration and weights, without adapters."""
    state = model.state_dict()
    names = [name for name in state if "lora_" not in name]
    return _hash([model.config.to_json_string(), *(part for name in names for part in (name, state[name]))])


def _read(path: Path, mapped: bool) -> list[torch.Tensor]:
    """Read the outputs of one block."""
    data = load_file(path) if mapped else load(path.read_bytes())
    values = data["values"].split(data["sizes"].tolist())
    return list(values) if mapped else [value.clone() for value in values]  # clones, so that each can be freed alone


def _split_blocks(encoded: Sequence[Encoded], width: int) -> list[list[int]]:
    """Split examples into blocks of similar length, one per file. Returns lists of indices."""
    blocks: list[list[int]] = []
    used = 0
    for i in sorted(range(len(encoded)), key=lambda i: encoded[i].length):
        size = 4 * width * len(encoded[i].tokens)
        if not blocks or len(blocks[-1]) == MAX_BLOCK_EXAMPLES or used + size > MAX_BLOCK_BYTES:
            blocks.append([])
            used = 0
        blocks[-1].append(i)
        used += size
    return blocks


def _hash(parts: Iterable[str | torch.Tensor | Encoded]) -> str:
    """Return the SHA-256 hash of texts, tensors and encoded examples, in hex."""
    digest = hashlib.sha256()  # its input determines file names: a change would invalidate every cached file
    for part in parts:
        if isinstance(part, torch.Tensor):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        elif isinstance(part, str):
            digest.update(part.encode())
        else:
            digest.update(repr((part.sequences, part.tokens, part.segments)).encode())
        digest.update(b"\0")
    return digest.hexdigest()
