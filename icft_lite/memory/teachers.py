"""Teachers of the memory examples: the choice of a teacher for each entry, and its hidden states.

L_consistency compares the fast adapter with a teacher on every memory example. The teacher is the bare base or the
base with the slow adapter, whichever gives the stored response the higher likelihood. Its final hidden states are
cached: the frozen head turns them into the teacher's logits, so training needs no second forward pass.
"""

import shutil
from collections.abc import Collection, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import psutil
import torch
import torch.nn.functional as F
from peft import PeftModel

from icft_lite.errors import ICFTError
from icft_lite.memory.entries import MemoryEntry, Teacher
from icft_lite.modeling.adapters import adapter_tensors, use_adapter
from icft_lite.modeling.encoding import Encoded
from icft_lite.modeling.forward import batch_states, head_weight
from icft_lite.modeling.losses import token_logprobs
from icft_lite.modeling.output_cache import OutputCache
from icft_lite.utils.distributed import on_main_process
from icft_lite.utils.progress import progress_bar

ADAPTERS: dict[Teacher, str | None] = {"base": None, "memory": "slow"}
"""The adapter of each teacher."""
GIB = 2**30


class TeacherChoice(NamedTuple):
    """The teacher of one example."""

    teacher: Teacher
    states: torch.Tensor
    """Its final hidden states [supervised tokens, hidden], on the CPU."""


def choose_teachers(
    model: PeftModel,
    encoded: Sequence[Encoded],
    cache: OutputCache | None = None,
    dtype: torch.dtype = torch.float32,
    of_base: Collection[int] = (),
) -> list[TeacherChoice]:
    """Return the teacher of each example: the model that gives its response the higher likelihood.

    One pass without gradient for each of the two models; `cache` stores their states. Ties go to the base. A slow
    adapter that has not been trained yet equals the base and is not evaluated. All processes take the choice of the
    first one, since a likelihood may be rounded differently on another.

    encoded: examples whose last response is the stored one. dtype: of the returned states. of_base: indices of examples
    whose teacher is the base in any case.
    """
    weight, cache = head_weight(model), cache or OutputCache(model)

    def compute(teacher: Teacher, some: Sequence[Encoded]) -> list[torch.Tensor]:
        # This names the files of the cache. A run may be resumed with another dtype, so that is a part of the name.
        name = (
            f"states-{teacher}" if dtype == torch.float32 else f"states-{teacher}-{str(dtype).removeprefix('torch.')}"
        )
        return cache.compute(name, partial(_states_in, dtype=dtype), some, ADAPTERS[teacher], width=weight.shape[1])

    choices = [TeacherChoice("base", states) for states in compute("base", encoded)]
    open_ones = [i for i in range(len(encoded)) if i not in of_base] if _is_trained(model, "slow") else []
    if open_ones:
        some = [encoded[i] for i in open_ones]
        by_base, by_memory = [choices[i].states for i in open_ones], compute("memory", some)
        logps = on_main_process(lambda: [response_logp(some, states, weight) for states in (by_base, by_memory)])
        for i, states, base_logp, memory_logp in zip(open_ones, by_memory, *logps, strict=True):
            if memory_logp > base_logp:
                choices[i] = TeacherChoice("memory", states)
    return choices


def check_space(encoded: Sequence[Encoded], hidden: int, cache: OutputCache, dtype: torch.dtype) -> str:
    """Estimate the size of the teacher states of examples, before memory is allocated; return a sentence about it.

    hidden: values per token. Raises ICFTError if the states do not fit the memory or the disk. There are two teachers,
    and the old files of one are removed only after the new ones are written.
    """
    tokens = sum(len(one.tokens) for one in encoded)
    size = tokens * hidden * dtype.itemsize
    text = (
        f"teacher states: {len(encoded)} examples with {tokens} tokens of {hidden} × {dtype.itemsize} bytes "
        f"take {size / GIB:.2g} GiB per teacher"
    )
    in_memory = cache.folder is None or size <= cache.max_memory_bytes
    needs = {"memory": (2 * size, psutil.virtual_memory().available)} if in_memory else {}
    if cache.folder is not None:
        existing = next(path for path in (cache.folder, *cache.folder.parents) if path.exists())
        written = sum(path.stat().st_size for path in cache.folder.glob("states-*"))
        needs["disk"] = 3 * size, shutil.disk_usage(existing).free + written
    for where, (needed, free) in needs.items():
        if needed > free:
            raise ICFTError(
                f"{text}, and the run needs {needed / GIB:.2g} GiB of {where}, but {free / GIB:.2g} GiB are free; "
                f"lower long_term.size, or set loss.consistency_tokens=response or runtime.teacher_dtype=bfloat16"
            )
    return text if in_memory else f"{text}; they are memory-mapped from the run's folder"


def rounding_error(model: PeftModel, entries: Sequence[MemoryEntry]) -> float:
    """Return the error of storing teacher states in 16 bits: mean KL(exact ‖ stored) per token, in nats.

    entries: of a memory after `refresh`. Their teachers are evaluated again for the exact states; 0.0 for no entries.
    """
    total, num_tokens, head = 0.0, 0, head_weight(model)
    for teacher, adapter in ADAPTERS.items():
        stored = [(entry.encoded, entry.states) for entry in entries if entry.teacher == teacher]
        with use_adapter(model, adapter):
            exact = response_states(model, [encoded for encoded, _ in stored])
        for (_, rounded), states in zip(stored, exact):
            assert rounded is not None, "rounding_error: call it after LongTermMemory.refresh"
            logp_rounded, logp_exact = (
                (some.to(head.device, head.dtype) @ head.T).double().log_softmax(-1) for some in (rounded, states)
            )  # in float64: the KL is as small as the rounding of float32
            total += float(F.kl_div(logp_rounded, logp_exact, reduction="sum", log_target=True))
            num_tokens += len(states)
    return total / max(num_tokens, 1)


@torch.no_grad()
def response_states(model: PeftModel, encoded: Sequence[Encoded]) -> list[torch.Tensor]:
    """Return the final hidden states of each example at its supervised tokens: float32 [tokens, hidden], on the CPU.

    The active adapter is used. The states of an example do not depend on the others in the list.
    """
    out: list[torch.Tensor | None] = [None] * len(encoded)
    with progress_bar(len(encoded), "teacher states") as bar:
        for group, _, states in batch_states(model, encoded):
            for i, part in zip(group, states.float().cpu().split([len(encoded[i].tokens) for i in group])):
                out[i] = part.clone()  # a view would keep the states of the whole group in memory
            bar.update(len(group))
    return [states for states in out if states is not None]


@torch.no_grad()
def response_logp(
    encoded: Sequence[Encoded], states: Sequence[torch.Tensor], weight: torch.Tensor, batch_size: int = 256
) -> list[float]:
    """Return the summed log-probability of each example's last response, in nats, from its hidden states.

    states: [supervised tokens, hidden] per example. weight: of the head, [vocab, hidden]. batch_size: examples
    computed together.
    """
    out: list[float] = []
    for start in range(0, len(encoded), batch_size):
        targets = [
            [target for _, _, target, response in one.tokens if response == one.num_responses - 1]
            for one in encoded[start : start + batch_size]
        ]
        hidden = torch.cat([of_one[-len(target) :] for of_one, target in zip(states[start:], targets)])
        logp = token_logprobs(
            hidden.to(weight.device, weight.dtype), weight, torch.tensor(sum(targets, []), device=weight.device)
        )
        out += [float(part.sum()) for part in logp.split(list(map(len, targets)))]
    return out


def mean_states(model: PeftModel, encoded: Sequence[Encoded]) -> np.ndarray:
    """Return a feature vector per example for the policy `herding`: float32 [n, hidden].

    It is the mean final hidden state of the bare base over the supervised tokens.
    """
    with use_adapter(model, None):
        return torch.stack([states.mean(0) for states in response_states(model, encoded)]).numpy()


def _is_trained(model: PeftModel, adapter: str) -> bool:
    """Return whether an adapter changes the base at all: a fresh one has B = 0."""
    return any(bool(B.any()) for B in adapter_tensors(model, adapter)[1::2])


def _states_in(model: PeftModel, encoded: Sequence[Encoded], dtype: torch.dtype) -> list[torch.Tensor]:
    return [states.to(dtype) for states in response_states(model, encoded)]
