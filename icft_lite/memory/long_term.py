"""Long-term memory: a bounded buffer of examples.

The other half of the long-term memory is the slow adapter, see `memory.consolidation`.
"""

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import islice, repeat
from typing import Any, get_args

import numpy as np
import torch
from peft import PeftModel

from icft_lite.config import PolicyName
from icft_lite.data.schema import Example
from icft_lite.errors import ICFTError
from icft_lite.memory.entries import NOT_ENCODED, MemoryEntry, Source
from icft_lite.memory.policies import POLICIES, USES_FEATURES, water_fill
from icft_lite.memory.teachers import check_space, choose_teachers, rounding_error
from icft_lite.modeling.encoding import Encoded, TooLong, supervise_prompt
from icft_lite.modeling.forward import head_weight
from icft_lite.modeling.output_cache import OutputCache
from icft_lite.utils.distributed import on_main_process

OFFER_BATCH_SIZE = 10_000
"""Number of examples that `LongTermMemory.add` considers at a time, so that any number can be offered."""

Encode = Callable[[Example], Encoded]
"""An `Encoder`, or any function with its signature. Raises TooLong for an example that does not fit."""


class LongTermMemory:
    """A bounded buffer of `MemoryEntry`, at most `size` of them.

    The capacity is divided equally among the sources (`general`, `self`, `promoted`). Within a source, one of
    `policies.POLICIES` chooses the entries.

    size: maximum number of entries. policy: a key of POLICIES. reservoir_share: share of a topic's quota that the
    policy `surprise` fills at random. teacher_dtype: of the cached teacher states, a name in torch (`float32`,
    `float16`, `bfloat16`). seed: of the random priorities. features(encoded): float [n, d], required by the policy
    `herding` only. teach_prompts: entries have a teacher on the tokens of their prompt too, except promoted ones.
    base_teaches: the base is the teacher of all entries but promoted ones, because it wrote their responses.
    """

    def __init__(
        self,
        size: int,
        policy: PolicyName = "surprise",
        reservoir_share: float = 0.25,
        teacher_dtype: str = "float32",
        seed: int = 0,
        features: Callable[[list[Encoded]], np.ndarray] | None = None,
        teach_prompts: bool = True,
        base_teaches: bool = False,
    ) -> None:
        if policy not in POLICIES:
            raise ICFTError(f"policy: {policy!r} is unknown; give {', '.join(POLICIES)}")
        self.size, self.policy, self.reservoir_share, self.features = size, policy, reservoir_share, features
        self.teach_prompts, self.base_teaches = teach_prompts, base_teaches
        self.teacher_dtype: torch.dtype = getattr(torch, teacher_dtype)
        self.entries: list[MemoryEntry] = []
        self.seed = seed

    def __len__(self) -> int:
        return len(self.entries)

    def sources(self) -> dict[str, int]:
        """Return the number of entries per source."""
        return dict(Counter(entry.source for entry in self.entries))

    def add(
        self,
        examples: Iterable[Example],
        encoder: Encode,
        source: Source,
        surprise: Iterable[float] | None = None,
    ) -> tuple[int, int]:
        """Offer examples to the memory, and return (how many of them were added, how many others were evicted).

        examples: canonical, each with one response. Those that are too long for the encoder, or whose id is stored
        already, are ignored. surprise: one value per example, 0 by default. Raises ICFTError for an unknown source, and
        ValueError if there are fewer or more values than examples.
        """
        if source not in get_args(Source):
            raise ICFTError(f"source: {source!r} is unknown; give {', '.join(get_args(Source))}")
        before = list(self.entries)
        offers = zip(examples, repeat(0.0)) if surprise is None else zip(examples, surprise, strict=True)
        while batch := list(islice(offers, OFFER_BATCH_SIZE)):
            stored = {entry.example["id"] for entry in self.entries}
            new = []
            for example, value in batch:
                if example["id"] not in stored:
                    stored.add(example["id"])
                    new.append(self._entry(example, source, value))
            if self.policy in USES_FEATURES:
                new = [entry for entry in new if self._encode(entry, encoder)]
            chosen = self._select(self.entries + new)
            # Encoding is slow, so only chosen entries are encoded. Without those that do not fit, choose again.
            while too_long := {id(entry) for entry in chosen if not self._encode(entry, encoder)}:
                new = [entry for entry in new if id(entry) not in too_long]
                chosen = self._select(self.entries + new)
            self.entries = chosen
        retained = len(set(map(id, before)) & set(map(id, self.entries)))
        return len(self.entries) - retained, len(before) - retained

    def restore(self, saved: Iterable[dict[str, Any]], encoder: Encode) -> None:
        """Replace the entries by saved ones, dicts of `example`, `source` and `surprise`.

        Their teachers and states are computed by the next `refresh`.
        """
        self.entries = [self._entry(one["example"], one["source"], one["surprise"]) for one in saved]
        for entry in self.entries:
            self._encode(entry, encoder)

    def refresh(
        self, model: PeftModel, cache: OutputCache | None = None, indices: Collection[int] | None = None
    ) -> dict[str, float]:
        """Choose the teachers of entries and store their states (`teachers.choose_teachers`).

        indices: of the entries that the next stage draws; None: all. Other entries lose their states.
        Returns the share of these entries per teacher, {"memory": share, "base": share}; {} without entries. Raises
        ICFTError if the states do not fit (`teachers.check_space`).
        """
        chosen = self.entries if indices is None else [self.entries[i] for i in sorted(indices)]
        for entry in self.entries:
            entry.states = None
        if not chosen:
            return {}
        encoded, store = [entry.encoded for entry in chosen], cache or OutputCache(model)
        on_main_process(lambda: check_space(encoded, head_weight(model).shape[1], store, self.teacher_dtype))
        of_base = {i for i, entry in enumerate(chosen) if self.base_teaches and entry.source != "promoted"}
        for entry, choice in zip(chosen, choose_teachers(model, encoded, store, self.teacher_dtype, of_base)):
            entry.teacher, entry.states = choice
        share = sum(entry.teacher == "memory" for entry in chosen) / len(chosen)
        return {"memory": share, "base": 1 - share}

    def rounding(self, model: PeftModel, max_entries: int = 256) -> float:
        """Return the error of storing the states in 16 bits (`teachers.rounding_error`), in nats per token.

        It is measured on the first `max_entries` entries with states. 0.0 for float32.
        """
        if self.teacher_dtype == torch.float32:
            return 0.0
        return rounding_error(model, [entry for entry in self.entries if entry.states is not None][:max_entries])

    def _entry(self, example: Example, source: Source, surprise: float) -> MemoryEntry:
        # The priority depends on seed and id only, so a resumed run draws the same one. "lot/" seeds the generator:
        # changing it changes every run.
        priority = random.Random(f"lot/{self.seed}/{example['id']}").random()
        return MemoryEntry(example, source=source, surprise=float(surprise), priority=priority)

    def _encode(self, entry: MemoryEntry, encoder: Encode) -> bool:
        """Encode an entry if it is not encoded yet; False if it is too long."""
        if entry.encoded is not NOT_ENCODED:
            return True
        try:
            encoded = encoder(entry.example)
        except TooLong:
            return False
        # The prompt of a promoted example is medical text that the model is still learning: no teacher for it.
        teach_prompt = self.teach_prompts and entry.source != "promoted"
        entry.encoded = supervise_prompt(encoded) if teach_prompt else encoded
        return True

    def _select(self, entries: list[MemoryEntry]) -> list[MemoryEntry]:
        """Return the entries that the memory retains of `entries`, in their order."""
        if len(entries) <= self.size:
            return entries
        groups: dict[str, list[MemoryEntry]] = {}
        for entry in entries:
            groups.setdefault(entry.source, []).append(entry)
        retained: set[int] = set()
        for source, quota in water_fill({name: len(group) for name, group in groups.items()}, self.size).items():
            group = groups[source]
            if len(group) > quota:
                group = POLICIES[self.policy](group, quota, self.reservoir_share, self._features)
                if len(group) > quota:
                    raise ICFTError(f"policy {self.policy!r}: {len(group)} entries for {quota} places; return fewer")
            retained |= set(map(id, group))
        return [entry for entry in entries if id(entry) in retained]

    def _features(self, entries: Sequence[MemoryEntry]) -> np.ndarray:
        features = self.features
        if features is None:
            raise ICFTError(
                f"LongTermMemory: policy {self.policy!r} needs features; pass features=… or choose another policy"
            )
        if self.policy not in USES_FEATURES:
            raise ICFTError(f"policy {self.policy!r}: it calls `features`; add its name to policies.USES_FEATURES")
        return on_main_process(lambda: features([entry.encoded for entry in entries]))
