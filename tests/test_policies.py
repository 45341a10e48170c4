"""Retention policies of the long-term memory: each one retains the entries that it documents."""

import random
from typing import get_args

import numpy as np
import pytest

from icft_lite.config import ICFTConfig, PolicyName
from icft_lite.errors import ICFTError
from icft_lite.memory.entries import NOT_ENCODED
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.memory.policies import POLICIES, select_herding, water_fill
from icft_lite.modeling.encoding import Encoded


def blank(example):
    return Encoded([[1, 2]], [(0, 0, 2, 0)], 1)


def make_examples(n, topic="t", start=0):
    return [dict(id=f"{topic}{i}", topic=topic) for i in range(start, start + n)]


def filled(policy, size, *batches, surprise=None, **kwargs):
    """Ids that a memory retains after it was offered the batches one after the other."""
    memory = LongTermMemory(size, policy, **kwargs)
    for examples in batches:
        memory.add(examples, blank, "general", surprise)
    return [entry.example["id"] for entry in memory.entries]


def topics(ids):
    return {topic: sum(name[0] == topic for name in ids) for topic in {name[0] for name in ids}}


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_fills_the_capacity_preserves_the_order_and_is_deterministic(policy):
    examples = make_examples(30, "a") + make_examples(10, "b") + make_examples(2, "c")
    table = np.random.default_rng(0).normal(size=(42, 3))
    settings = dict(surprise=table[:, 0], features=lambda encoded: table[: len(encoded)])
    retained = filled(policy, 20, examples, **settings)
    names = [example["id"] for example in examples]
    assert len(retained) == 20
    assert retained == sorted(retained, key=names.index) == filled(policy, 20, examples, **settings)
    assert filled(policy, 50, examples, **settings) == names and filled(policy, 0, examples, **settings) == []
    assert ICFTConfig.preset("icft", {"long_term.policy": policy}).long_term.policy == policy


@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_divides_the_room_among_sources_and_sees_encoded_entries_only(policy):
    def features(encoded):
        assert all(one is not NOT_ENCODED for one in encoded)
        return np.array([[len(one.sequences[0]), 1.0] for one in encoded])

    memory = LongTermMemory(10, policy, features=features)
    for source, start in (("general", 0), ("self", 100), ("general", 200)):
        memory.add(make_examples(20, start=start), blank, source)
    assert memory.sources() == {"general": 5, "self": 5}
    assert len({entry.example["id"] for entry in memory.entries}) == 10


def test_a_policy_that_needs_encodings_must_say_so(monkeypatch):
    def last(entries, capacity, reservoir_share, features):
        return [entries[i] for i in np.argsort(features(entries)[:, 0])[:capacity]]

    monkeypatch.setitem(POLICIES, "last", last)
    memory = LongTermMemory(5, "last", features=lambda encoded: np.zeros((len(encoded), 1)))
    with pytest.raises(ICFTError, match="'last': it calls `features`; add its name to policies.USES_FEATURES"):
        memory.add(make_examples(9), blank, "general")
    monkeypatch.setitem(POLICIES, "last", lambda entries, *_: entries)
    with pytest.raises(ICFTError, match="policy 'last': 9 entries for 5 places; return fewer"):
        memory.add(make_examples(9), blank, "general")


def test_a_memory_refuses_what_it_cannot_store():
    with pytest.raises(ICFTError, match="policy: 'newest' is unknown; give surprise, balanced"):
        LongTermMemory(5, "newest")
    memory = LongTermMemory(5)
    with pytest.raises(ICFTError, match="source: 'generall' is unknown; give general, self, promoted"):
        memory.add(make_examples(2), blank, "generall")
    with pytest.raises(ValueError, match="shorter"):
        memory.add(make_examples(3), blank, "promoted", surprise=[1.0])
    assert LongTermMemory(5).add(make_examples(2) + make_examples(2), blank, "general") == (2, 0), "ids occur once"


def test_an_unknown_policy_is_refused():
    assert set(POLICIES) == set(get_args(PolicyName))
    with pytest.raises(ICFTError, match="long_term.policy: 'newest' is not possible; give surprise, balanced"):
        ICFTConfig.preset("icft", {"long_term.policy": "newest"})


def test_ring_retains_the_newest_entries():
    assert filled("ring", 5, make_examples(4, "a"), make_examples(3, "b")) == ["a2", "a3", "b0", "b1", "b2"]


@pytest.mark.parametrize("policy", ["reservoir", "balanced"])
def test_a_sample_does_not_prefer_early_or_late_entries(policy):
    early = 0
    for seed in range(30):
        retained = filled(policy, 20, *(make_examples(20, start=i) for i in (0, 20, 40)), seed=seed)
        early += sum(int(name[1:]) < 30 for name in retained)
    assert early / (30 * 20) == pytest.approx(0.5, abs=0.1)


def test_reservoir_follows_the_stream_and_other_policies_divide_the_capacity_by_topic():
    examples = make_examples(180, "a") + make_examples(20, "b")
    seen = [topics(filled("reservoir", 40, examples, seed=seed)).get("b", 0) for seed in range(30)]
    assert np.mean(seen) == pytest.approx(4, abs=1)  # a tenth, as in the stream
    for policy in ("balanced", "surprise", "herding"):
        retained = filled(policy, 40, examples, features=lambda encoded: np.ones((len(encoded), 2)))
        assert topics(retained) == dict(a=20, b=20), policy


def test_surprise_retains_the_most_surprising_entries():
    surprise = np.random.default_rng(0).permutation(40).astype(float)
    retained = filled("surprise", 10, make_examples(40), surprise=surprise, reservoir_share=0)
    assert set(retained) == {f"t{i}" for i in np.argsort(-surprise)[:10]}


def test_the_reservoir_share_does_not_depend_on_surprise():
    def retained(surprise, policy="surprise", **kwargs):
        return set(filled(policy, 20, make_examples(60), surprise=surprise, **kwargs))

    up, down = np.arange(60.0), -np.arange(60.0)
    in_both = retained(up, reservoir_share=0.5) & retained(down, reservoir_share=0.5)
    assert len(in_both) >= 10  # the same ten by random priority, and each time ten by surprise
    assert retained(up, "reservoir") == retained(down, "reservoir") != retained(up, "reservoir", seed=1)
    assert retained(up, reservoir_share=0.0) & retained(down, reservoir_share=0.0) == set()


def test_herding_preserves_the_mean_of_a_topic_better_than_a_sample():
    draw = np.random.default_rng(0)
    table = draw.normal(size=(200, 8)) + 1
    table /= np.linalg.norm(table, axis=1, keepdims=True)

    def distance(ids):
        return np.linalg.norm(table[[int(name[1:]) for name in ids]].mean(0) - table.mean(0))

    herded = distance(filled("herding", 10, make_examples(200), features=lambda encoded: table))
    sampled = [distance(filled("balanced", 10, make_examples(200), seed=seed)) for seed in range(20)]
    assert herded < 0.5 * min(sampled)


def test_herding_selects_what_brings_the_mean_closest():
    points = np.array([[1, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 1]], float)
    assert sorted(select_herding(points, 2)) == [0, 3] and len(set(select_herding(points, 9))) == 6
    assert select_herding(5 * points, 3) == select_herding(points, 3), "the lengths of the vectors do not matter"


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


def test_water_fill_uses_the_whole_size_and_is_fair():
    draw = random.Random(0)
    for _ in range(200):
        counts = {key: draw.randrange(30) for key in "abcdef"[: draw.randrange(1, 7)]}
        size = draw.randrange(100)
        quota = water_fill(counts, size)
        assert sum(quota.values()) == min(size, sum(counts.values()))
        level = max(quota.values())
        assert all(quota[key] in (level, level - 1, counts[key]) for key in counts)


def test_herding_without_features_is_an_error():
    memory = LongTermMemory(5, "herding")
    with pytest.raises(ICFTError, match="'herding' needs features; pass features"):
        memory.add(make_examples(9), blank, "general")
