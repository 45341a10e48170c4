"""Short-term and long-term memory: what a run replays, promotes and consolidates.

| module | contains |
|---|---|
| `short_term` | the ring of recent new examples that a stage replays |
| `long_term` | the bounded buffer of examples |
| `entries` | one stored example |
| `policies` | which entries a full buffer retains |
| `promotion` | from the ring into the buffer, at the end of a stage |
| `rehearsal` | the first entries: general examples and self-generated prompts (pseudo-rehearsal) |
| `teachers` | the choice of a teacher for each entry, and its hidden states for L_consistency |
| `consolidation` | the slow adapter: its moving average and the choice of the interpolation coefficient |
"""

from typing import Any

from icft_lite.compat import moved
from icft_lite.memory.entries import MemoryEntry
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.memory.policies import POLICIES, water_fill
from icft_lite.memory.promotion import is_confident, promote
from icft_lite.memory.short_term import ShortTermMemory
from icft_lite.memory.teachers import response_states

__all__ = [
    "POLICIES",
    "LongTermMemory",
    "MemoryEntry",
    "ShortTermMemory",
    "is_confident",
    "promote",
    "response_states",
    "water_fill",
]


def __getattr__(name: str) -> Any:  # names of version 0.1
    return moved("memory", name)
