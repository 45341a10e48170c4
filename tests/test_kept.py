"""What a model was asked once is kept: the same values, read back, for the same rows and weights only."""

from pathlib import Path

import pytest
import torch

from icft_lite.curriculum import score_difficulty
from icft_lite.memory import long_term as memory_module
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.memory.teachers import response_states
from icft_lite.modeling import cache as kept_module
from icft_lite.modeling.adapters import adapter_tensors, use_adapter
from icft_lite.modeling.cache import OutputCache
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.scoring import score_responses

MAPS = Path("/proc/self/maps")
"""Where Linux lists the files that a process has mapped."""


@pytest.fixture
def rows(row):
    return [
        row(id=f"r{i}", prompt=f"Define {'very ' * (7 * i % 5)}ill.", responses=[reply])
        for i, reply in enumerate(["pain", "the heart", "it hurts", "fever and pain", "a kidney"])
    ]


@pytest.fixture
def encoded(adapted, rows):
    return [Encoder(adapted[1])(one) for one in rows]


@pytest.fixture
def asked(monkeypatch):
    """How many rows the model was asked to score, call by call."""
    calls = []
    monkeypatch.setattr(
        kept_module, "score_responses", lambda model, some: calls.append(len(some)) or score_responses(model, some)
    )
    return calls


def plain(scores):
    return [(score["logp"].tolist(), score["tokens"].tolist()) for score in scores]


def test_scores_are_those_of_the_model_and_asked_for_once(adapted, encoded, asked, tmp_path):
    model, _ = adapted
    with use_adapter(model, None):
        expected = plain(score_responses(model, encoded))
    for folder in (None, tmp_path, tmp_path):
        assert plain(OutputCache(model, folder).response_scores("loss", encoded)) == expected
    assert asked == [5, 5], "with a folder the second time none"
    score = OutputCache(model, tmp_path).response_scores("loss", encoded)[0]
    (live,) = score_responses(model, encoded[:1])
    assert (score["logp"].dtype, score["tokens"].dtype) == (live["logp"].dtype, live["tokens"].dtype)


def test_other_rows_and_other_weights_are_asked_anew(adapted, encoded, shake, asked, tmp_path):
    model, _ = adapted
    kept = OutputCache(model, tmp_path)
    kept.response_scores("loss", encoded, "slow")
    base = plain(kept.response_scores("base", encoded))
    shake(model, "slow")
    moved = plain(kept.response_scores("loss", encoded, "slow"))
    assert asked == [5, 5, 5] and moved != base
    assert plain(kept.response_scores("base", encoded)) == base and asked == [5, 5, 5], "the base has not moved"
    kept.response_scores("base", encoded[:4])
    assert asked == [5, 5, 5, 4]
    assert sorted(path.name.split("-")[0] for path in tmp_path.iterdir()) == ["base", "loss"], "the older ones are gone"
    with torch.no_grad():
        model.get_base_model().model.norm.weight += 1
    try:
        OutputCache(model, tmp_path).response_scores("base", encoded[:4])
        assert asked == [5, 5, 5, 4, 4], "another base"
    finally:
        with torch.no_grad():
            model.get_base_model().model.norm.weight -= 1


def test_a_kill_costs_one_block(adapted, encoded, monkeypatch, tmp_path):
    model, _ = adapted
    monkeypatch.setattr(kept_module, "ROWS", 2)
    done, stopped = [], []

    def stop_once(model, some):
        if len(done) == 4 and not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        done.extend(some)
        return score_responses(model, some)

    monkeypatch.setattr(kept_module, "score_responses", stop_once)
    with pytest.raises(KeyboardInterrupt):
        OutputCache(model, tmp_path).response_scores("loss", encoded)
    assert len(list(tmp_path.iterdir())) == 2 and not list(tmp_path.glob("*.part"))
    scores = OutputCache(model, tmp_path).response_scores("loss", encoded)
    assert len(done) == 5, "no row was asked twice"
    with use_adapter(model, None):
        for one, score in zip(encoded, scores):
            assert score["logp"] == pytest.approx(score_responses(model, [one])[0]["logp"], abs=1e-4)
    assert [one.length for one in done] == sorted(one.length for one in encoded), "similar lengths together"


def test_difficulty_reads_back_what_the_base_said(adapted, rows, encoded, asked, tmp_path):
    model, _ = adapted
    signals = ("loss", "ifd", "length")
    with use_adapter(model, None):
        expected = score_difficulty(rows, model, encoded, signals).tolist()
    for _ in range(2):
        assert score_difficulty(rows, model, encoded, signals, OutputCache(model, tmp_path)).tolist() == expected
    assert asked == [5, 5]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_teachers_from_the_disk_are_those_in_memory(adapted, rows, shake, monkeypatch, tmp_path, dtype):
    """In memory, written, read back, and mapped past a set size: the same bits."""
    asked = []
    monkeypatch.setattr(
        memory_module, "response_states", lambda model, some: asked.append(len(some)) or response_states(model, some)
    )
    model, tokenizer = adapted
    shake(model, "slow", 0.08, seed=1)

    def taught(folder, in_memory=2**30):
        memory = LongTermMemory(10, state_dtype=dtype)
        memory.add(rows, Encoder(tokenizer), "general")
        shares = memory.refresh(model, OutputCache(model, folder, in_memory) if folder else None)
        return shares, memory.entries

    shares, plain = taught(None)
    for folder, in_memory, mapped in ((tmp_path, 2**30, False), (tmp_path, 2**30, False), (tmp_path, 0, True)):
        again, entries = taught(folder, in_memory)
        assert again == shares and [entry.teacher for entry in entries] == [entry.teacher for entry in plain]
        for entry, one in zip(entries, plain):
            assert entry.states.dtype == one.states.dtype and torch.equal(entry.states, one.states)
        if MAPS.exists():
            assert (str(tmp_path) in MAPS.read_text()) == mapped
    assert asked == [5, 5] * 2, "without a folder, and once with it"
    stale = [entry.states.clone() for entry in entries]
    shake(model, "slow", 0.08, seed=2)
    taught(tmp_path)
    assert all(torch.equal(entry.states, old) for entry, old in zip(entries, stale)), "mapped, though the file is gone"


def test_states_are_kept_under_the_weights_they_come_from(adapted, encoded, shake, tmp_path):
    model, _ = adapted
    kept = OutputCache(model, tmp_path)
    before = kept.compute("states", response_states, encoded, "slow")
    shake(model, "slow", 0.1)
    after = kept.compute("states", response_states, encoded, "slow")
    assert not any(torch.equal(a, b) for a, b in zip(before, after))
    with use_adapter(model, "slow"):
        assert all(torch.equal(a, b) for a, b in zip(after, response_states(model, encoded)))
    assert adapter_tensors(model, "slow")[0].requires_grad is False
