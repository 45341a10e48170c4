"""The cache of model outputs: cached values equal computed ones, for the same examples and weights only."""

import hashlib
from pathlib import Path

import pytest
import torch

from icft_lite.curriculum import score_difficulty
from icft_lite.memory import teachers
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.memory.teachers import response_states
from icft_lite.modeling import output_cache as cache_module
from icft_lite.modeling.adapters import adapter_tensors, use_adapter
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.output_cache import OutputCache
from icft_lite.modeling.scoring import score_responses

MAPS = Path("/proc/self/maps")
"""Where Linux lists the files that a process has memory-mapped."""


@pytest.fixture
def examples(example):
    return [
        example(id=f"r{i}", prompt=f"Define {'very ' * (7 * i % 5)}ill.", responses=[reply])
        for i, reply in enumerate(["pain", "the heart", "it hurts", "fever and pain", "a kidney"])
    ]


@pytest.fixture
def encoded(adapted, examples):
    return [Encoder(adapted[1])(one) for one in examples]


@pytest.fixture
def computed(monkeypatch):
    """How many examples each call of `score_responses` computed."""
    calls = []
    monkeypatch.setattr(
        cache_module, "score_responses", lambda model, block: calls.append(len(block)) or score_responses(model, block)
    )
    return calls


def plain(scores):
    return [(score["logp"].tolist(), score["tokens"].tolist()) for score in scores]


def test_scores_equal_those_of_the_model_and_are_computed_once(adapted, encoded, computed, tmp_path):
    model, _ = adapted
    with use_adapter(model, None):
        expected = plain(score_responses(model, encoded))
    for folder in (None, tmp_path, tmp_path):
        assert plain(OutputCache(model, folder).response_scores("loss", encoded)) == expected
    assert computed == [5, 5], "once without a folder, once with it"
    score = OutputCache(model, tmp_path).response_scores("loss", encoded)[0]
    (live,) = score_responses(model, encoded[:1])
    assert (score["logp"].dtype, score["tokens"].dtype) == (live["logp"].dtype, live["tokens"].dtype)


def test_other_examples_and_other_weights_are_computed_again(adapted, encoded, shake, computed, tmp_path):
    model, _ = adapted
    cache = OutputCache(model, tmp_path)
    cache.response_scores("loss", encoded, "slow")
    base = plain(cache.response_scores("base", encoded))
    shake(model, "slow")
    changed = plain(cache.response_scores("loss", encoded, "slow"))
    assert computed == [5, 5, 5] and changed != base
    assert plain(cache.response_scores("base", encoded)) == base and computed == [5, 5, 5], "the base has not changed"
    cache.response_scores("base", encoded[:4])
    assert computed == [5, 5, 5, 4]
    names = sorted(path.name.split("-")[0] for path in tmp_path.iterdir())
    assert names == ["base", "loss"], "earlier files of the same name are removed"
    with torch.no_grad():
        model.get_base_model().model.norm.weight += 1
    try:
        OutputCache(model, tmp_path).response_scores("base", encoded[:4])
        assert computed == [5, 5, 5, 4, 4], "another base"
    finally:
        with torch.no_grad():
            model.get_base_model().model.norm.weight -= 1


def test_an_interruption_loses_one_block(adapted, encoded, monkeypatch, tmp_path):
    model, _ = adapted
    monkeypatch.setattr(cache_module, "MAX_BLOCK_EXAMPLES", 2)
    done, interrupted = [], []

    def interrupt_once(model, block):
        if len(done) == 4 and not interrupted:
            interrupted.append(True)
            raise KeyboardInterrupt
        done.extend(block)
        return score_responses(model, block)

    monkeypatch.setattr(cache_module, "score_responses", interrupt_once)
    with pytest.raises(KeyboardInterrupt):
        OutputCache(model, tmp_path).response_scores("loss", encoded)
    assert len(list(tmp_path.iterdir())) == 2 and not list(tmp_path.glob("*.part"))
    scores = OutputCache(model, tmp_path).response_scores("loss", encoded)
    assert len(done) == 5, "no example was computed twice"
    with use_adapter(model, None):
        for one, score in zip(encoded, scores):
            assert score["logp"] == pytest.approx(score_responses(model, [one])[0]["logp"], abs=1e-4)
    assert [one.length for one in done] == sorted(one.length for one in encoded), "blocks are of similar length"


def test_difficulty_from_the_cache_equals_difficulty_from_the_base(adapted, examples, encoded, computed, tmp_path):
    model, _ = adapted
    signals = ("loss", "ifd", "length")
    with use_adapter(model, None):
        expected = score_difficulty(examples, model, encoded, signals).tolist()
    for _ in range(2):
        assert score_difficulty(examples, model, encoded, signals, OutputCache(model, tmp_path)).tolist() == expected
    assert computed == [5, 5]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_teacher_states_from_disk_equal_those_in_memory(adapted, examples, shake, monkeypatch, tmp_path, dtype):
    """In memory, written, read back, and memory-mapped above the limit: the same bits."""
    computed = []
    monkeypatch.setattr(
        teachers, "response_states", lambda model, block: computed.append(len(block)) or response_states(model, block)
    )
    model, tokenizer = adapted
    shake(model, "slow", 0.08, seed=1)

    def refresh(folder, max_memory_bytes=2**30):
        memory = LongTermMemory(10, teacher_dtype=dtype)
        memory.add(examples, Encoder(tokenizer), "general")
        shares = memory.refresh(model, OutputCache(model, folder, max_memory_bytes) if folder else None)
        return shares, memory.entries

    expected_shares, expected = refresh(None)
    for folder, limit, mapped in ((tmp_path, 2**30, False), (tmp_path, 2**30, False), (tmp_path, 0, True)):
        shares, entries = refresh(folder, limit)
        assert shares == expected_shares and [one.teacher for one in entries] == [one.teacher for one in expected]
        for entry, one in zip(entries, expected):
            assert entry.states.dtype == one.states.dtype and torch.equal(entry.states, one.states)
        if MAPS.exists():
            assert (str(tmp_path) in MAPS.read_text()) == mapped
    assert computed == [5, 5] * 2, "for each of the two teachers: once without a folder, once with it"
    before = [entry.states.clone() for entry in entries]
    shake(model, "slow", 0.08, seed=2)
    refresh(tmp_path)
    assert all(torch.equal(entry.states, old) for entry, old in zip(entries, before)), "mapped states outlive the file"


def test_states_are_cached_under_the_weights_they_come_from(adapted, encoded, shake, tmp_path):
    model, _ = adapted
    cache = OutputCache(model, tmp_path)
    before = cache.compute("states", response_states, encoded, "slow")
    shake(model, "slow", 0.1)
    after = cache.compute("states", response_states, encoded, "slow")
    assert not any(torch.equal(a, b) for a, b in zip(before, after))
    with use_adapter(model, "slow"):
        assert all(torch.equal(a, b) for a, b in zip(after, response_states(model, encoded)))
    assert adapter_tensors(model, "slow")[0].requires_grad is False


def test_the_hash_of_an_input_does_not_change_between_versions():
    """The names of cache files in users' run folders depend on it."""
    parts = (
        "text",
        torch.arange(3, dtype=torch.int64),
        torch.zeros(0),
        cache_module.Encoded([[1, 2]], [(0, 0, 2, 0)], 1),
    )
    by_hand = b"text\0torch.int64 (3,)" + bytes([0] * 8 + [1] + [0] * 7 + [2] + [0] * 7) + b"\0torch.float32 (0,)\0"
    by_hand += b"([[1, 2]], [(0, 0, 2, 0)], None)\0"
    assert cache_module._hash(parts) == hashlib.sha256(by_hand).hexdigest()
