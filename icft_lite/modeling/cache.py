"""What a model was asked once is kept in files, under a fingerprint of the model and of the rows.

A run that was killed and started again reads it back. Rows are asked in blocks, similar lengths together; a block
is one file, written whole or not at all, so a kill costs one block. The values are the same, asked or read.
"""

import contextlib
import functools
import hashlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load, load_file, save

from icft_lite.modeling.adapters import adapter_tensors, use_adapter
from icft_lite.modeling.scoring import score_responses
from icft_lite.utils.distributed import on_main_process
from icft_lite.utils.io import write_bytes

ROWS, BYTES = 8192, 2**28
"""Most rows to a file, and about the most bytes."""


class OutputCache:
    """Asks `model` about encoded rows and keeps the answers in `folder`; None keeps nothing.

    in_memory: bytes; an answer with more than that is left in its files, memory-mapped."""

    def __init__(self, model, folder=None, in_memory=2**30):
        self.model, self.folder, self.in_memory = model, folder and Path(folder), in_memory

    def response_scores(self, name, encoded, adapter=None):
        """`score_responses` without `greedy`, under an adapter (None: the bare base); the first process's."""

        def work(model, rows):
            return [
                torch.from_numpy(np.stack([s["logp"], s["tokens"]], 1).astype(float))
                for s in score_responses(model, rows)
            ]

        def compute():
            return [value.numpy() for value in self.compute(name, work, encoded, adapter, wait=False)]

        return [
            dict(logp=value[:, 0].astype(np.float32), tokens=value[:, 1].astype(np.int64))
            for value in on_main_process(compute)
        ]

    def compute(self, name, work, encoded, adapter=None, width=0, wait=True):
        """A tensor for each row: what `work(model, [Encoded])` → [tensor] says under an adapter.

        name: what the answers are for; those kept for it before, of other rows or weights, are removed. width:
        numbers in an answer for each supervised token. wait: only the first process asks, the others read its files."""
        blocks = _blocks(encoded, width)
        under = self.folder and _hash([self._base, *(adapter_tensors(self.model, adapter) if adapter else ())])
        paths = [
            self.folder and self.folder / f"{name}-{_hash([under, *(encoded[i] for i in block)])}.safetensors"
            for block in blocks
        ]

        def answer(block):
            with use_adapter(self.model, adapter):
                return work(self.model, [encoded[i] for i in block])

        def fill():
            for block, path in zip(blocks, paths):
                if not path.exists():
                    values = answer(block)
                    write_bytes(
                        path, save(dict(sizes=torch.tensor([len(value) for value in values]), values=torch.cat(values)))
                    )
            for path in set(self.folder.glob(f"{name}-*")) - set(paths):
                with contextlib.suppress(OSError):  # Windows removes no file that is still mapped
                    path.unlink()

        if self.folder:
            on_main_process(fill) if wait else fill()
        found = [path for path in paths if path and path.exists()]  # not on another machine than the first process
        mapped = sum(path.stat().st_size for path in found) > self.in_memory
        answers = [None] * len(encoded)
        for block, path in zip(blocks, paths):
            values = self._read(path, mapped) if path in found else answer(block)
            for i, value in zip(block, values):
                answers[i] = value
        return answers

    @staticmethod
    def _read(path, mapped):
        kept = load_file(path) if mapped else load(path.read_bytes())
        parts = kept["values"].split(kept["sizes"].tolist())
        return parts if mapped else [part.clone() for part in parts]  # so that each can be let go alone

    @functools.cached_property
    def _base(self):
        """The fingerprint of the bare base."""
        state = self.model.state_dict()
        return _hash(
            [
                self.model.config.to_json_string(),
                *(part for name in state if "lora_" not in name for part in (name, state[name])),
            ]
        )


def _blocks(encoded, width):
    """Indices in blocks of one file each, similar lengths together."""
    blocks, used = [], 0
    for i in sorted(range(len(encoded)), key=lambda i: encoded[i].length):
        size = 4 * width * len(encoded[i].tokens)
        if not blocks or len(blocks[-1]) == ROWS or used + size > BYTES:
            blocks.append([])
            used = 0
        blocks[-1].append(i)
        used += size
    return blocks


def _hash(parts):
    """SHA-256 of texts, tensors and encodings, in hex."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, torch.Tensor):
            digest.update(f"{part.dtype} {tuple(part.shape)}".encode())
            digest.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        elif isinstance(part, str):
            digest.update(part.encode())
        else:
            digest.update(repr((part.sequences, part.tokens, part.segments)).encode())
        digest.update(b"\0")
    return digest.hexdigest()
