"""Which rows a full memory keeps: each policy does what its name says."""

import random

import numpy as np
import pytest

from icft_lite.config import ICFTConfig
from icft_lite.errors import ICFTError
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.memory.policies import POLICIES, select_herding, water_fill
from icft_lite.modeling.encoding import Encoded


def blank(row):
    return Encoded([[1, 2]], [(0, 0, 2, 0)], 1)


def rows_of(n, topic="t", start=0):
    return [dict(id=f"{topic}{i}", topic=topic) for i in range(start, start + n)]


def filled(policy, size, *batches, surprise=None, **kwargs):
    """Ids that a memory keeps after the batches of rows have come one after the other."""
    memory = LongTermMemory(size, policy, **kwargs)
    for rows in batches:
        memory.add(rows, blank, "general", surprise)
    return [entry.example["id"] for entry in memory.entries]


def topics(ids):
    return {topic: sum(name[0] == topic for name in ids) for topic in {name[0] for name in ids}}


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_fills_the_room_keeps_the_order_and_repeats(policy):
    rows = rows_of(30, "a") + rows_of(10, "b") + rows_of(2, "c")
    table = np.random.default_rng(0).normal(size=(42, 3))
    settings = dict(surprise=table[:, 0], features=lambda encoded: table[: len(encoded)])
    kept = filled(policy, 20, rows, **settings)
    names = [row["id"] for row in rows]
    assert len(kept) == 20 and kept == sorted(kept, key=names.index) == filled(policy, 20, rows, **settings)
    assert filled(policy, 50, rows, **settings) == names and filled(policy, 0, rows, **settings) == []
    assert ICFTConfig(memory_policy=policy).memory_policy == policy


def test_an_unknown_policy_is_refused():
    with pytest.raises(ICFTError, match="memory_policy: 'newest' is not possible"):
        ICFTConfig(memory_policy="newest")


def test_the_ring_keeps_the_newest():
    assert filled("ring", 5, rows_of(4, "a"), rows_of(3, "b")) == ["a2", "a3", "b0", "b1", "b2"]


@pytest.mark.parametrize("policy", ["reservoir", "balanced"])
def test_a_sample_is_fair_to_early_and_late(policy):
    early = 0
    for seed in range(30):
        kept = filled(policy, 20, *(rows_of(20, start=i) for i in (0, 20, 40)), seed=seed)
        early += sum(int(name[1:]) < 30 for name in kept)
    assert early / (30 * 20) == pytest.approx(0.5, abs=0.1)


def test_the_reservoir_follows_the_stream_and_the_others_share_the_room_by_topic():
    rows = rows_of(180, "a") + rows_of(20, "b")
    seen = [topics(filled("reservoir", 40, rows, seed=seed)).get("b", 0) for seed in range(30)]
    assert np.mean(seen) == pytest.approx(4, abs=1)  # a tenth, as in the stream
    for policy in ("balanced", "surprise", "herding"):
        kept = filled(policy, 40, rows, features=lambda encoded: np.ones((len(encoded), 2)))
        assert topics(kept) == dict(a=20, b=20), policy


def test_surprise_keeps_the_most_surprising():
    surprise = np.random.default_rng(0).permutation(40).astype(float)
    kept = filled("surprise", 10, rows_of(40), surprise=surprise, reservoir_share=0)
    assert set(kept) == {f"t{i}" for i in np.argsort(-surprise)[:10]}


def test_the_reservoir_share_does_not_depend_on_surprise():
    def kept(surprise, policy="surprise", **kwargs):
        return set(filled(policy, 20, rows_of(60), surprise=surprise, **kwargs))

    up, down = np.arange(60.0), -np.arange(60.0)
    lucky = kept(up, reservoir_share=0.5) & kept(down, reservoir_share=0.5)
    assert len(lucky) >= 10  # the same ten by lot, each time beside ten by surprise
    assert kept(up, "reservoir") == kept(down, "reservoir") != kept(up, "reservoir", seed=1)
    assert kept(up, reservoir_share=0.0) & kept(down, reservoir_share=0.0) == set()


def test_herding_keeps_the_topic_s_mean_better_than_a_sample_does():
    draw = np.random.default_rng(0)
    table = draw.normal(size=(200, 8)) + 1
    table /= np.linalg.norm(table, axis=1, keepdims=True)

    def off(ids):
        return np.linalg.norm(table[[int(name[1:]) for name in ids]].mean(0) - table.mean(0))

    herded = off(filled("herding", 10, rows_of(200), features=lambda encoded: table))
    sampled = [off(filled("balanced", 10, rows_of(200), seed=seed)) for seed in range(20)]
    assert herded < 0.5 * min(sampled)


def test_herding_picks_what_brings_the_mean_nearest():
    points = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 1]], float)
    assert sorted(select_herding(points, 2)) == [0, 3] and len(set(select_herding(points, 9))) == 6
    assert select_herding(5 * points, 3) == select_herding(points, 3), "lengths do not count"


@pytest.mark.parametrize(
    "counts, size, quotas",
    [
        ({"a": 10, "b": 10}, 6, {"a": 3, "b": 3}),
        ({"a": 1, "b": 10, "c": 10}, 9, {"a": 1, "b": 4, "c": 4}),
        ({"a": 0, "b": 3}, 2, {"a": 0, "b": 2}),
        ({"a": 2, "b": 3}, 100, {"a": 2, "b": 3}),
        ({"a": 5, "b": 5}, 5, {"a": 3, "b": 2}),
        ({"a": 4}, 0, {"a": 0}),
        ({}, 5, {}),
    ],
)
def test_water_fill(counts, size, quotas):
    assert water_fill(counts, size) == quotas


def test_water_fill_wastes_no_room_and_is_fair():
    draw = random.Random(0)
    for _ in range(200):
        counts = {key: draw.randrange(30) for key in "abcdef"[: draw.randrange(1, 7)]}
        size = draw.randrange(100)
        quota = water_fill(counts, size)
        assert sum(quota.values()) == min(size, sum(counts.values()))
        level = max(quota.values())
        assert all(quota[key] in (level, level - 1, counts[key]) for key in counts)
