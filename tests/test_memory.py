"""Short-term and long-term memory: replay, retention, promotion and the choice of teachers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from icft_lite.data.samples import load_samples
from icft_lite.errors import ICFTError
from icft_lite.memory import LongTermMemory, ShortTermMemory, is_confident, promote, response_states, teachers
from icft_lite.memory.entries import NOT_ENCODED
from icft_lite.memory.teachers import check_space, choose_teachers, mean_states, response_logp, rounding_error
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.encoding import Encoded, Encoder
from icft_lite.modeling.forward import head_weight
from icft_lite.modeling.output_cache import OutputCache
from icft_lite.modeling.scoring import score_responses
from icft_lite.training.batches import memory_item

# ---------------------------------------------------------------- short-term memory


def test_the_ring_contains_the_newest_examples():
    stm = ShortTermMemory(3)
    for i in range(6):
        stm.push(i)
        assert len(stm.ring) <= 3
    stm.push(3)  # again: now it is the newest
    stm.push(6)
    assert list(stm.ring) == [5, 3, 6]


@pytest.mark.parametrize("k, promoted", [(1, {0: 2, 1: 2, 2: 1, 3: 1}), (2, {0: 2, 1: 2}), (3, {})])
def test_only_examples_replayed_k_times_become_candidates(k, promoted):
    stm = ShortTermMemory(2, promote_after=k)
    stm.push(0)
    stm.push(1)
    assert sorted(stm.replay(2)) == [0, 1] and sorted(stm.replay(9)) == [0, 1]
    stm.push(2)
    stm.push(3)
    stm.replay(2)
    stm.push(4)
    assert stm.flush() == promoted and not stm.ring


def test_only_examples_within_the_budget_are_replayed_and_counted():
    stm = ShortTermMemory(10)
    for i in range(10):
        stm.push(i)
    drawn = stm.replay(4, cost=lambda index: 3)
    assert len(drawn) == 2 and stm.flush() == dict.fromkeys(drawn, 1)


# ---------------------------------------------------------------- long-term memory: retention


def blank(example):
    return Encoded([[1, 2]], [(0, 0, 2, 0)], 1)


def make_examples(row, n, topic="t", start=0):
    return [row(id=f"{topic}{i}", topic=topic) for i in range(start, start + n)]


def ids(memory):
    return {entry.example["id"] for entry in memory.entries}


def test_topics_have_equal_quotas(row):
    memory = LongTermMemory(10)
    memory.add(make_examples(row, 30, "a") + make_examples(row, 3, "b"), blank, "general")
    topics = [entry.example["topic"] for entry in memory.entries]
    assert (topics.count("a"), topics.count("b")) == (7, 3)


def test_sources_have_equal_quotas_whatever_their_topics(row):
    memory = LongTermMemory(12)
    memory.add(
        make_examples(row, 10, "a") + make_examples(row, 10, "b") + make_examples(row, 10, "c"), blank, "general"
    )
    added, evicted = memory.add(make_examples(row, 30, "d"), blank, "promoted", np.arange(30.0))
    assert (added, evicted) == (6, 6)
    assert sum(entry.source == "promoted" for entry in memory.entries) == 6


def test_add_counts_added_and_evicted_entries(row):
    memory = LongTermMemory(4, reservoir_share=0)
    assert memory.add(make_examples(row, 4), blank, "general", [5, 6, 7, 8]) == (4, 0)
    assert memory.add(make_examples(row, 3, start=4), blank, "general", [9, 1, 2]) == (1, 1)
    assert ids(memory) == {"t1", "t2", "t3", "t4"}
    assert memory.add(make_examples(row, 4, start=1), blank, "general", [99] * 4) == (0, 0), (
        "a stored example is not added twice"
    )


def test_a_restored_memory_behaves_like_the_original(row):
    memory = LongTermMemory(10, seed=3)
    memory.add(make_examples(row, 30), blank, "general", np.arange(30.0))
    saved = [dict(example=e.example, source=e.source, surprise=e.surprise) for e in memory.entries]
    restored = LongTermMemory(10, seed=3)
    restored.restore(saved, blank)
    for one in (memory, restored):
        one.add(make_examples(row, 9, start=30), blank, "general", np.arange(9.0) + 25)
    assert [e.example["id"] for e in memory.entries] == [e.example["id"] for e in restored.entries]
    assert all(e.encoded is not NOT_ENCODED for e in restored.entries)


# ---------------------------------------------------------------- promotion


def test_confidence_gates_weakly_labeled_examples_only(row):
    assert is_confident(row(), 0.8) and is_confident(row(posterior=[0.9, 0.1]), 0.8)
    assert is_confident(row(posterior=[0.8, 0.2]), 0.8) and not is_confident(row(posterior=[0.7, 0.3]), 0.8)


def test_promotion_gates_and_stores_the_most_likely_response_with_its_surprise(adapted, shake, row):
    model, tokenizer = adapted
    shake(model, "slow", 0.1)
    options = ["removal of the kidney", "pain"]
    candidates = [
        row(id="trusted"),
        row(id="confident", task="question", responses=options, label=-1, posterior=[0.05, 0.95]),
        row(id="uncertain", task="question", responses=options, label=-1, posterior=[0.6, 0.4]),
    ]
    memory, encoder = LongTermMemory(10), Encoder(tokenizer)
    counts = promote(memory, model, candidates, encoder, 0.8)
    assert counts == dict(candidates=3, gated=1, promoted=2, evicted=0)
    promoted = next(entry for entry in memory.entries if entry.example["id"] == "confident")
    assert promoted.source == "promoted" and promoted.example["task"] == "response"
    assert promoted.example["responses"] == ["pain"]
    with use_adapter(model, "slow"):
        (slow,) = score_responses(model, [encoder(promoted.example)])
    with use_adapter(model, None):
        (base,) = score_responses(model, [encoder(promoted.example)])
    assert promoted.surprise == pytest.approx(-slow["logp"][0] / slow["tokens"][0], abs=1e-4)
    assert abs(slow["logp"][0] - base["logp"][0]) > 1e-2


# ---------------------------------------------------------------- teachers


@pytest.fixture
def remembered(adapted, shake, row):
    """(model, memory): likely and unlikely responses, and a slow adapter that differs from the base."""
    model, tokenizer = adapted
    shake(model, "slow", 0.08, seed=1)
    known = [dict(one) for one in load_samples("general_memory").select(range(0, 1400, 140))]
    unlikely = [
        row(id=f"unlikely{i}", responses=[text])
        for i, text in enumerate(
            ("seven red of", "lung lung lung", "ice pain into", "the the sky", "of and with", "goat heart is", "z")
        )
    ]
    memory = LongTermMemory(100)
    memory.add(known + unlikely, Encoder(tokenizer), "general")
    return model, memory


def test_the_teacher_gives_the_response_the_higher_likelihood(remembered, adapted):
    model, memory = remembered
    shares, encoder = memory.refresh(model), Encoder(adapted[1])
    scores = {}
    for name, adapter in (("base", None), ("memory", "slow")):
        with use_adapter(model, adapter):
            scores[name] = [s["logp"][0] for s in score_responses(model, [encoder(e.example) for e in memory.entries])]
    expected = ["memory" if m > b else "base" for m, b in zip(scores["memory"], scores["base"])]
    assert [entry.teacher for entry in memory.entries] == expected
    assert set(expected) == {"base", "memory"}
    for teacher, expected_logp in scores.items():
        chosen = [i for i, entry in enumerate(memory.entries) if entry.teacher == teacher]
        encoded, states = zip(*((memory.entries[i].encoded, memory.entries[i].states) for i in chosen))
        logp = response_logp(encoded, states, head_weight(model), batch_size=3)
        assert logp == pytest.approx([expected_logp[i] for i in chosen], abs=1e-3), "the states are the teacher's"
    assert shares == {
        "memory": pytest.approx(expected.count("memory") / len(expected)),
        "base": pytest.approx(expected.count("base") / len(expected)),
    }


def test_all_processes_use_the_teachers_chosen_by_the_first_one(remembered, monkeypatch):
    """Likelihoods may be rounded differently on another machine, and the processes would diverge."""
    model, memory = remembered
    of_first_process = [[0.0] * len(memory), [1.0] * len(memory)]  # base, memory
    monkeypatch.setattr(teachers, "on_main_process", lambda work: of_first_process)
    assert memory.refresh(model) == {"memory": 1, "base": 0}


def test_cached_states_reproduce_the_log_probabilities_of_the_teacher(remembered):
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


def test_a_prompt_has_a_teacher_unless_it_is_promoted_or_teach_prompts_is_off(adapted, row):
    model, tokenizer = adapted
    whole = Encoder(tokenizer)(row())
    num_all, num_response = len(whole.sequences[0]) - 1, len(whole.tokens)
    for teach_prompts, source, num_tokens in (
        (True, "general", num_all),
        (True, "self", num_all),
        (True, "promoted", num_response),
        (False, "general", num_response),
    ):
        memory = LongTermMemory(10, teach_prompts=teach_prompts)
        memory.add([row()], Encoder(tokenizer), source)
        memory.refresh(model)
        assert memory.entries[0].states.shape == (num_tokens, 192)
        item = memory_item(memory.entries[0], replay_weight=0.5)
        supervised = {p: item.token_weight[s] for _, p, _, s in item.encoded.tokens}
        replayed = {p: 0.5 for _, p, _, _ in whole.tokens}  # responses are replayed, prompts never
        assert supervised == {p: replayed.get(p, 0.0) for p in supervised} and replayed.items() <= supervised.items()


def test_an_untrained_slow_adapter_is_no_teacher(adapted, row):
    model, tokenizer = adapted
    memory = LongTermMemory(10, teacher_dtype="float16")
    assert memory.refresh(model) == {}
    memory.add([row()], Encoder(tokenizer), "general")
    assert memory.refresh(model) == {"memory": 0, "base": 1}
    assert memory.entries[0].states.dtype == torch.float16


def test_the_base_teaches_what_it_wrote_itself(remembered, adapted):
    model, memory = remembered
    chosen = memory.refresh(model)
    assert chosen["memory"] > 0, "the slow adapter gives some responses the higher likelihood"
    memory.base_teaches = True
    assert memory.refresh(model) == {"memory": 0, "base": 1}
    with use_adapter(model, None):
        expected = response_states(model, [entry.encoded for entry in memory.entries])
    for entry, states in zip(memory.entries, expected, strict=True):
        torch.testing.assert_close(entry.states, states, atol=1e-4, rtol=1e-4)
    for entry in memory.entries:
        entry.source = "promoted"
    assert memory.refresh(model) == chosen, "promoted examples have responses of other origin"


def test_the_error_of_storing_states_in_16_bits_is_measured(remembered):
    model, memory = remembered
    error = {}
    for dtype in ("float32", "float16", "bfloat16"):
        memory.teacher_dtype = getattr(torch, dtype)
        memory.refresh(model)
        error[dtype] = memory.rounding(model)
    assert error["float32"] == 0 < error["float16"] < error["bfloat16"] < 1e-2
    assert error["bfloat16"] > 10 * error["float16"], "three bits fewer: eight times the error, squared in the KL"


def test_states_do_not_depend_on_the_other_examples(base, row):
    model, tokenizer = base
    encoded = [Encoder(tokenizer)(row(prompt=f"Define {'very ' * n}ill.")) for n in (0, 30, 7)]
    together = response_states(model, encoded)
    for one, states in zip(encoded, together):
        torch.testing.assert_close(response_states(model, [one])[0], states, atol=1e-4, rtol=1e-4)
    assert response_states(model, []) == []


def test_features_are_of_the_base_whatever_has_been_learned(remembered):
    model, memory = remembered
    encoded = [entry.encoded for entry in memory.entries]
    features = mean_states(model, encoded)
    with use_adapter(model, None):
        expected = np.stack([states.mean(0).numpy() for states in response_states(model, encoded)])
    assert features.shape == (len(encoded), 192) and np.array_equal(features, expected)


def test_refresh_and_rounding_apply_the_functions_of_teachers(remembered):
    model, memory = remembered
    memory.teacher_dtype = torch.bfloat16
    memory.refresh(model)
    choices = choose_teachers(model, [entry.encoded for entry in memory.entries], dtype=torch.bfloat16)
    assert [choice.teacher for choice in choices] == [entry.teacher for entry in memory.entries]
    assert all(torch.equal(choice.states, entry.states) for choice, entry in zip(choices, memory.entries))
    assert memory.rounding(model, max_entries=3) == rounding_error(model, memory.entries[:3]) > 0
    assert choose_teachers(model, []) == [] and rounding_error(model, []) == 0


def test_ties_are_broken_in_favor_of_the_base(remembered, monkeypatch):
    model, memory = remembered
    monkeypatch.setattr(teachers, "on_main_process", lambda work: [[-1.0] * len(memory)] * 2)
    assert memory.refresh(model) == {"memory": 0, "base": 1}


@pytest.mark.parametrize("where, fix", [("disk", "runtime.teacher_dtype=bfloat16"), ("memory", "long_term.size")])
def test_states_that_do_not_fit_are_refused_before_any_is_computed(remembered, tmp_path, monkeypatch, where, fix):
    model, memory = remembered
    tokens = sum(len(entry.encoded.tokens) for entry in memory.entries)
    size = tokens * 192 * 4
    monkeypatch.setattr(teachers, "response_states", lambda *args: pytest.fail("the states were computed"))
    monkeypatch.setattr(teachers.shutil, "disk_usage", lambda path: SimpleNamespace(free=3 * size - 1))
    monkeypatch.setattr(teachers.psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * size - 1))
    cache = OutputCache(model, tmp_path / "cache" if where == "disk" else None, 0 if where == "disk" else 2**30)
    with pytest.raises(ICFTError, match=f"with {tokens} tokens of 192 × 4 bytes .* GiB of {where}, but .*{fix}"):
        memory.refresh(model, cache)
    monkeypatch.setattr(teachers.psutil, "virtual_memory", lambda: SimpleNamespace(available=2 * size))
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "states-base-1.safetensors").write_bytes(b"x")  # of a run that is resumed
    text = check_space([entry.encoded for entry in memory.entries], 192, cache, torch.float32)
    assert text.endswith("memory-mapped from the run's folder" if where == "disk" else "GiB per teacher")
