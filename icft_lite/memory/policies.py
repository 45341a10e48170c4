"""Retention policies: which entries a full long-term memory retains.

A policy is a function, chosen by name from POLICIES:

    policy(entries, capacity, reservoir_share, features) → the retained entries, at most `capacity`

| name | retains | source |
|---|---|---|
| ring | the newest entries | |
| reservoir | a uniform sample of all entries that were ever offered | Vitter, 1985 |
| balanced | an equal number per topic, a uniform sample within each | as in GDumb, Prabhu et al., 2020 |
| surprise | an equal number per topic, mostly those of the highest surprise | SuRe, Hazard et al., 2025 |
| herding | an equal number per topic, whose mean feature is close to that of the topic | iCaRL, Rebuffi et al., 2017 |

A run measures the surprise of promoted entries only. It is 0 for other sources, where `surprise` selects as `balanced`.

entries: `MemoryEntry` of one source, oldest first. reservoir_share: the share of a topic's quota that `surprise` fills
at random. features(entries): float [n, d], used by `herding` only.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from icft_lite.config import PolicyName
from icft_lite.memory.entries import MemoryEntry

Key = TypeVar("Key", bound=str)
Entries = list[MemoryEntry]
Features = Callable[[Entries], np.ndarray]
"""features(entries) → float [n, d]."""
Policy = Callable[[Entries, int, float, Features], Entries]
"""policy(entries, capacity, reservoir_share, features) → the retained entries."""


def ring(entries: Entries, capacity: int, reservoir_share: float, features: Features) -> Entries:
    """Retain the newest entries."""
    return entries[max(0, len(entries) - capacity) :]


def reservoir(entries: Entries, capacity: int, reservoir_share: float, features: Features) -> Entries:
    """Retain a uniform sample of all entries that were ever offered.

    An entry's random priority never changes, so the lowest priorities are a uniform sample at any time.
    """
    return _lowest_priority(entries, capacity)


def balanced(entries: Entries, capacity: int, reservoir_share: float, features: Features) -> Entries:
    """Retain an equal number of entries per topic, a uniform sample within each topic."""
    return by_topic(entries, capacity, _lowest_priority)


def surprise(entries: Entries, capacity: int, reservoir_share: float, features: Features) -> Entries:
    """Retain an equal number of entries per topic: a random share of them, then those of the highest surprise."""

    def choose(entries: Entries, quota: int) -> Entries:
        num_random = round(reservoir_share * quota)
        shuffled = _lowest_priority(entries, len(entries))
        by_surprise = sorted(shuffled[num_random:], key=lambda entry: -entry.surprise)
        return shuffled[:num_random] + by_surprise[: quota - num_random]

    return by_topic(entries, capacity, choose)


def herding(entries: Entries, capacity: int, reservoir_share: float, features: Features) -> Entries:
    """Retain an equal number of entries per topic, whose mean feature is close to the mean feature of the topic."""
    index = {id(entry): i for i, entry in enumerate(entries)}
    all_features = np.asarray(features(entries), float)

    def choose(entries: Entries, quota: int) -> Entries:
        topic_features = all_features[[index[id(entry)] for entry in entries]]
        return [entries[i] for i in select_herding(topic_features, quota)]

    return by_topic(entries, capacity, choose)


POLICIES: dict[PolicyName, Policy] = dict(
    surprise=surprise, balanced=balanced, reservoir=reservoir, ring=ring, herding=herding
)
"""The policies by name."""
USES_FEATURES: frozenset[str] = frozenset(("herding",))
"""Policies that call `features`. All entries that are offered to them are encoded, not only those that are retained."""


def by_topic(entries: Entries, capacity: int, choose: Callable[[Entries, int], Entries]) -> Entries:
    """Divide the capacity equally among topics, and let `choose(entries, quota)` select within each."""
    topics: dict[str, Entries] = {}
    for entry in entries:
        topics.setdefault(entry.example["topic"], []).append(entry)
    quotas = water_fill({topic: len(group) for topic, group in topics.items()}, capacity)
    return [entry for topic, quota in quotas.items() for entry in choose(topics[topic], quota)]


def water_fill(counts: dict[Key, int], size: int) -> dict[Key, int]:
    """Return how much of `size` each key receives: equal quotas, none above the key's count.

    Capacity that a key cannot use is divided among the others: {key: count} → {key: quota}. What cannot be divided
    equally goes to the first keys in sorted order. The quotas sum to min(size, sum of counts).
    """
    quota, remaining, open_keys = dict.fromkeys(counts, 0), size, sorted(counts)
    while remaining > 0 and open_keys:
        share = max(1, remaining // len(open_keys))
        for key in list(open_keys):
            added = min(share, counts[key] - quota[key], remaining)
            quota[key] += added
            remaining -= added
            if quota[key] == counts[key]:
                open_keys.remove(key)
    return quota


def select_herding(features: np.ndarray, count: int) -> list[int]:
    """Return the indices of `count` examples whose mean feature is close to the mean over all, in order of selection.

    features: float [n, d]. Each is scaled to length 1 first. Selection is greedy: the next example is the one that
    brings the mean of the selected ones closest to the mean over all (iCaRL, Rebuffi et al., 2017, algorithm 4).
    """
    features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    target, total = features.mean(0), np.zeros(features.shape[1])
    selected: list[int] = []
    available = np.ones(len(features), bool)
    for k in range(1, min(count, len(features)) + 1):
        distance = np.linalg.norm(target - (total + features) / k, axis=1)
        selected.append(int(np.argmin(np.where(available, distance, np.inf))))
        available[selected[-1]] = False
        total += features[selected[-1]]
    return selected


def _lowest_priority(entries: Entries, count: int) -> Entries:
    return sorted(entries, key=lambda entry: entry.priority)[:count]
