"""Memories: what is kept, what is promoted, who teaches it."""

import numpy as np
import pytest
import torch

from icft_lite.data.samples import load_samples
from icft_lite.memory import long_term as memory_module
from icft_lite.memory.long_term import LongTermMemory, is_confident, promote
from icft_lite.memory.short_term import ShortTermMemory
from icft_lite.memory.teachers import mean_states, response_logp, response_states
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.base import head_weight
from icft_lite.modeling.encoding import Encoded, Encoder
from icft_lite.modeling.scoring import score_responses
from icft_lite.training.batches import memory_item

# ---------------------------------------------------------------- short-term memory


def test_the_ring_holds_the_newest_rows():
    stm = ShortTermMemory(3)
    for i in range(6):
        stm.push(i)
        assert len(stm.ring) <= 3
    stm.push(3)  # again: now the newest
    stm.push(6)
    assert list(stm.ring) == [5, 3, 6]


@pytest.mark.parametrize("k, promoted", [(1, {0: 2, 1: 2, 2: 1, 3: 1}), (2, {0: 2, 1: 2}), (3, {})])
def test_only_rows_replayed_k_times_become_candidates(k, promoted):
    stm = ShortTermMemory(2, promote_after=k)
    stm.push(0)
    stm.push(1)
    assert sorted(stm.replay(2)) == [0, 1] and sorted(stm.replay(9)) == [0, 1]
    stm.push(2)
    stm.push(3)
    stm.replay(2)
    stm.push(4)
    assert stm.flush() == promoted and not stm.ring


def test_only_rows_that_are_replayed_are_counted():
    stm = ShortTermMemory(10)
    for i in range(10):
        stm.push(i)
    rows = stm.replay(4, size=lambda row: 3)
    assert len(rows) == 2 and stm.flush() == dict.fromkeys(rows, 1)


# ---------------------------------------------------------------- long-term memory: what is kept


def blank(row):
    return Encoded([[1, 2]], [(0, 0, 2, 0)], 1)


def rows_of(row, n, topic="t", start=0):
    return [row(id=f"{topic}{i}", topic=topic) for i in range(start, start + n)]


def ids(memory):
    return {entry.example["id"] for entry in memory.entries}


def test_topics_share_the_room_equally(row):
    memory = LongTermMemory(10)
    memory.add(rows_of(row, 30, "a") + rows_of(row, 3, "b"), blank, "general")
    topics = [entry.example["topic"] for entry in memory.entries]
    assert (topics.count("a"), topics.count("b")) == (7, 3)


def test_sources_share_the_room_equally_whatever_their_topics(row):
    memory = LongTermMemory(12)
    memory.add(rows_of(row, 10, "a") + rows_of(row, 10, "b") + rows_of(row, 10, "c"), blank, "general")
    kept, evicted = memory.add(rows_of(row, 30, "d"), blank, "promoted", np.arange(30.0))
    assert (kept, evicted) == (6, 6)
    assert sum(entry.source == "promoted" for entry in memory.entries) == 6


def test_kept_and_evicted_count_the_offered_and_the_others(row):
    memory = LongTermMemory(4, reservoir_share=0)
    assert memory.add(rows_of(row, 4), blank, "general", [5, 6, 7, 8]) == (4, 0)
    assert memory.add(rows_of(row, 3, start=4), blank, "general", [9, 1, 2]) == (1, 1)
    assert ids(memory) == {"t1", "t2", "t3", "t4"}
    assert memory.add(rows_of(row, 4, start=1), blank, "general", [99] * 4) == (0, 0), "known rows are not taken twice"


def test_a_saved_memory_comes_back_the_same(row):
    memory = LongTermMemory(10, seed=3)
    memory.add(rows_of(row, 30), blank, "general", np.arange(30.0))
    saved = [dict(example=e.example, source=e.source, surprise=e.surprise) for e in memory.entries]
    again = LongTermMemory(10, seed=3)
    again.restore(saved, blank)
    for one in (memory, again):
        one.add(rows_of(row, 9, start=30), blank, "general", np.arange(9.0) + 25)
    assert [e.example["id"] for e in memory.entries] == [e.example["id"] for e in again.entries]


# ---------------------------------------------------------------- promotion


def test_confidence_gates_weak_rows_only(row):
    assert is_confident(row(), 0.8) and is_confident(row(posterior=[0.9, 0.1]), 0.8)
    assert is_confident(row(posterior=[0.8, 0.2]), 0.8) and not is_confident(row(posterior=[0.7, 0.3]), 0.8)


def test_promotion_gates_takes_the_likeliest_response_and_its_surprise(adapted, shake, row):
    model, tokenizer = adapted
    shake(model, "slow", 0.1)
    options = ["removal of the kidney", "pain"]
    candidates = [
        row(id="trusted"),
        row(id="sure", task="question", responses=options, label=-1, posterior=[0.05, 0.95]),
        row(id="unsure", task="question", responses=options, label=-1, posterior=[0.6, 0.4]),
    ]
    memory, encoder = LongTermMemory(10), Encoder(tokenizer)
    counts = promote(memory, model, candidates, encoder, 0.8)
    assert counts == dict(candidates=3, gated=1, promoted=2, evicted=0)
    sure = next(entry for entry in memory.entries if entry.example["id"] == "sure")
    assert sure.source == "promoted" and sure.example["task"] == "response" and sure.example["responses"] == ["pain"]
    with use_adapter(model, "slow"):
        (slow,) = score_responses(model, [encoder(sure.example)])
    with use_adapter(model, None):
        (bare,) = score_responses(model, [encoder(sure.example)])
    assert sure.surprise == pytest.approx(-slow["logp"][0] / slow["tokens"][0], abs=1e-4)
    assert abs(slow["logp"][0] - bare["logp"][0]) > 1e-2


# ---------------------------------------------------------------- teachers


@pytest.fixture
def remembered(adapted, shake, row):
    """A memory of what the base knows and of what it would never say, and a slow adapter unlike the base."""
    model, tokenizer = adapted
    shake(model, "slow", 0.08, seed=1)
    known = [dict(one) for one in load_samples("general_memory").select(range(0, 1400, 140))]
    odd = [
        row(id=f"odd{i}", responses=[text])
        for i, text in enumerate(
            ("seven red of", "lung lung lung", "ice pain into", "the the sky", "of and with", "goat heart is", "z")
        )
    ]
    memory = LongTermMemory(100)
    memory.add(known + odd, Encoder(tokenizer), "general")
    return model, memory


def test_the_teacher_is_whoever_finds_the_response_likelier(remembered, adapted):
    model, memory = remembered
    shares, encoder = memory.refresh(model), Encoder(adapted[1])
    scores = {}
    for name, adapter in (("base", None), ("memory", "slow")):
        with use_adapter(model, adapter):
            scores[name] = [s["logp"][0] for s in score_responses(model, [encoder(e.example) for e in memory.entries])]
    expected = ["memory" if m > b else "base" for m, b in zip(scores["memory"], scores["base"])]
    assert [entry.teacher for entry in memory.entries] == expected
    assert set(expected) == {"base", "memory"}
    for view, scored in scores.items():
        mine = [i for i, entry in enumerate(memory.entries) if entry.teacher == view]
        entries = [memory.entries[i] for i in mine]
        read = response_logp([e.encoded for e in entries], [e.states for e in entries], head_weight(model), examples=3)
        assert read == pytest.approx([scored[i] for i in mine], abs=1e-3), "the states are its own"
    assert shares == {
        "memory": pytest.approx(expected.count("memory") / len(expected)),
        "base": pytest.approx(expected.count("base") / len(expected)),
    }


def test_every_process_takes_the_first_one_s_choice_of_teachers(remembered, monkeypatch):
    """Another's may round otherwise, and training would drift apart."""
    model, memory = remembered
    said = {"base": [0.0] * len(memory), "memory": [1.0] * len(memory)}
    answers = iter(said.values())
    monkeypatch.setattr(memory_module, "on_main_process", lambda work: next(answers))
    assert memory.refresh(model) == {"memory": 1, "base": 0}


def test_cached_states_give_the_live_teacher_s_log_probabilities(remembered):
    model, memory = remembered
    memory.refresh(model)
    for entry in memory.entries:
        with torch.no_grad(), use_adapter(model, "slow" if entry.teacher == "memory" else None):
            ids = torch.tensor(entry.encoded.sequences)
            live = model(input_ids=ids).logits.log_softmax(-1)
        cached = (entry.states @ head_weight(model).T).log_softmax(-1)
        assert len(cached) == len(entry.encoded.tokens)
        expected = torch.stack([live[r, p] for r, p, _, _ in entry.encoded.tokens])
        torch.testing.assert_close(cached, expected, atol=1e-4, rtol=1e-4)


def test_a_remembered_prompt_has_a_teacher_too_unless_promoted_or_told_otherwise(adapted, row):
    model, tokenizer = adapted
    whole = Encoder(tokenizer)(row())
    every, response = len(whole.sequences[0]) - 1, len(whole.tokens)
    for prompts, source, tokens in (
        (True, "general", every),
        (True, "self", every),
        (True, "promoted", response),
        (False, "general", response),
    ):
        memory = LongTermMemory(10, prompts=prompts)
        memory.add([row()], Encoder(tokenizer), source)
        memory.refresh(model)
        assert memory.entries[0].states.shape == (tokens, 192)
        item = memory_item(memory.entries[0], replay_weight=0.5)
        supervised = {p: item.token_weight[s] for _, p, _, s in item.encoded.tokens}
        replayed = {p: 0.5 for _, p, _, _ in whole.tokens}  # replay is of responses, never of prompts
        assert supervised == {p: replayed.get(p, 0.0) for p in supervised} and replayed.items() <= supervised.items()


def test_a_fresh_slow_adapter_teaches_nothing_the_base_does_not(adapted, row):
    model, tokenizer = adapted
    memory = LongTermMemory(10, state_dtype="float16")
    assert memory.refresh(model) == {}
    memory.add([row()], Encoder(tokenizer), "general")
    assert memory.refresh(model) == {"memory": 0, "base": 1}
    assert memory.entries[0].states.dtype == torch.float16


def test_what_rounding_states_costs_is_measured(remembered):
    model, memory = remembered
    costs = {}
    for dtype in ("float32", "float16", "bfloat16"):
        memory.state_dtype = getattr(torch, dtype)
        memory.refresh(model)
        costs[dtype] = memory.rounding(model)
    assert costs["float32"] == 0 < costs["float16"] < costs["bfloat16"] < 1e-2
    assert costs["bfloat16"] > 10 * costs["float16"], "three bits fewer: eight times the error, squared in KL"


def test_states_do_not_depend_on_who_else_is_asked(base, row):
    model, tokenizer = base
    encoded = [Encoder(tokenizer)(row(prompt=f"Define {'very ' * n}ill.")) for n in (0, 30, 7)]
    together = response_states(model, encoded)
    for one, states in zip(encoded, together):
        torch.testing.assert_close(response_states(model, [one])[0], states, atol=1e-4, rtol=1e-4)
    assert response_states(model, []) == []


def test_a_row_s_features_are_the_base_s_whatever_has_been_learned(remembered):
    model, memory = remembered
    encoded = [entry.encoded for entry in memory.entries]
    features = mean_states(model, encoded)
    with use_adapter(model, None):
        expected = np.stack([states.mean(0).numpy() for states in response_states(model, encoded)])
    assert features.shape == (len(encoded), 192) and np.array_equal(features, expected)
