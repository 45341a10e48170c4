"""Many examples: memory grows slowly or not at all with their number, and batches change no result."""

import json
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from icft_lite.config import ICFTConfig
from icft_lite.curriculum import _Queue, build_curriculum, score_difficulty
from icft_lite.data.tables import column, hash_examples, iter_columns, iter_examples, to_dataset
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.memory.policies import POLICIES
from icft_lite.memory.rehearsal import answer_with_base, seed_memory
from icft_lite.memory.short_term import ShortTermMemory
from icft_lite.modeling.encoding import Encoded, EncodedExamples, Encoder, TooLong, encode_examples
from icft_lite.training.plan import plan_stage


def encoded_example(i):
    """Return an encoding of 40 to 60 tokens, each i another one: a reply, or a question with packed options."""
    ids = list(range(i, i + 40 + i % 20))
    if i % 3:
        return Encoded([ids], [(0, 30 + t, ids[31 + t], 0) for t in range(8)], 1, truncated=bool(i % 2))
    tokens = [(0, 30 + t, ids[31 + t], t // 4) for t in range(8)]
    return Encoded([ids], tokens, 2, segments=[0] * 31 + [1 + t // 5 for t in range(len(ids) - 31)])


def test_encoded_examples_returns_what_was_stored():
    examples = [encoded_example(i) for i in range(30)]
    examples.append(Encoded([[1, 2], [3, 4, 5]], [(0, 0, 2, 0), (1, 1, 5, 1)], 2))
    stored = EncodedExamples(examples)
    assert len(stored) == 31 and list(stored) == examples and stored[-1] == examples[-1]
    with pytest.raises(IndexError):
        stored[31]


def test_encoded_examples_takes_a_few_bytes_per_number():
    numbers, stored = 0, EncodedExamples()
    for i in range(2000):
        example = encoded_example(i)
        numbers += len(example.sequences[0]) + 4 * len(example.tokens) + len(example.segments or ())
        stored.append(example)
    size = sys.getsizeof(stored.numbers) + sys.getsizeof(stored.starts)
    assert size < 6 * numbers + 40 * 2000


# ---------------------------------------------------------------- examples


@pytest.fixture
def examples(example):
    levels = ("easy", "medium", "hard")
    return [
        example(
            id=f"r{i}",
            topic=f"t{i % 5}",
            level=levels[i % 3],
            prompt=f"Define {'very ' * (i % 4)}ill.",
            **(dict(task="question", responses=["a", "b"], label=-1, posterior=[0.3, 0.7]) if i % 4 == 1 else {}),
        )
        for i in range(40)
    ]


def test_a_dataset_gives_back_its_examples(examples, monkeypatch):
    monkeypatch.setattr("icft_lite.data.tables.BATCH", 7)
    dataset = to_dataset(iter(examples))
    assert [dict(one) for one in dataset] == examples and len(to_dataset([])) == 0
    for name in ("posterior", "label", "level"):
        assert column(dataset, name) == column(examples, name) == [one[name] for one in examples]
    some, same = dataset.select(range(30, 5, -3)), examples[30:5:-3]
    assert list(iter_examples(some)) == list(some) == list(iter_examples(same))
    assert list(iter_columns(some, "label", "id")) == [(one["label"], one["id"]) for one in same]
    assert list(iter_columns(tuple(same), "id")) == list(iter_columns(same, "id"))


def test_a_dataset_and_a_list_have_the_same_difficulty_and_stages(examples):
    dataset = to_dataset(examples)
    for signals in (("length",), ("entropy",), ("length", "entropy")):
        difficulty = score_difficulty(examples, signals=signals)
        assert (score_difficulty(dataset, signals=signals) == difficulty).all()
    stages = build_curriculum(column(dataset, "level"), difficulty)
    assert stages == build_curriculum([one["level"] for one in examples], difficulty.tolist())
    assert all(stage == sorted(stage, key=lambda i: (difficulty[i], i)) for stage in stages)
    assert all(type(i) is int for stage in stages for i in stage)


@pytest.mark.parametrize("kind", [list, to_dataset])
def test_examples_that_are_too_long_are_left_out_of_lists_and_datasets(base, examples, example, kind):
    examples.insert(3, example(id="long", prompt="very " * 300))
    fitting, encoded, left_out = encode_examples(kind(examples), Encoder(base[1], max_length=100))
    assert left_out == ["long"] and column(fitting, "id") == [f"r{i}" for i in range(40)]
    assert list(encoded) == [Encoder(base[1])(one) for one in fitting]


# ---------------------------------------------------------------- the queue of available examples


@pytest.mark.parametrize("pile", [1, 3, 1000])
def test_a_queue_behaves_like_a_list(pile):
    draw = random.Random(0)
    queue, plain = _Queue(list(range(50)), pile), list(range(50))
    for i in range(2000):
        if plain and draw.random() < 0.55:
            assert queue.pop() == plain.pop()
        elif plain:
            at = draw.randrange(len(plain) + 1)
            queue.insert(at, i)
            plain.insert(at, i)
        else:
            queue, plain = _Queue([i, i + 1], pile), [i, i + 1]
        assert len(queue) == len(plain)
    assert [queue.pop() for _ in range(len(plain))] == plain[::-1]


# ---------------------------------------------------------------- memory


def encode(example):
    if example["prompt"] == "too long":
        raise TooLong("example")
    return Encoded([[1, 2]], [(0, 0, 2, 0)], 1)


def offered_examples(n):
    draw = random.Random(0)
    return [
        dict(id=f"r{i}", topic=f"t{draw.randrange(4)}", prompt="too long" if i % 11 == 0 else "short") for i in range(n)
    ]


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "herding"])
def test_offers_in_small_batches_choose_the_same_examples_as_one_offer(policy, monkeypatch):
    """Not for herding: it matches the mean of all examples that it has seen, so its choice depends on the batches."""
    examples, surprise, chosen = offered_examples(400), np.random.default_rng(1).random(400), []
    for offers in (1000, 60):
        monkeypatch.setattr("icft_lite.memory.long_term.OFFER_BATCH_SIZE", offers)
        memory = LongTermMemory(40, policy)
        assert memory.add(iter(examples), encode, "general", surprise) == (40, 0)
        chosen.append({entry.example["id"] for entry in memory.entries})
    assert len(chosen[0] & chosen[1]) >= 38  # quotas are whole numbers, so a topic may have one more or less
    assert not any(int(name[1:]) % 11 == 0 for name in chosen[0] | chosen[1]), "an example that is too long was chosen"


def test_a_memory_encodes_only_candidates():
    encoded = []
    memory = LongTermMemory(20, "reservoir")
    memory.add(offered_examples(3000), lambda one: encoded.append(one["id"]) or encode(one), "general")
    assert len(memory) == 20 and len(encoded) < 100


def test_the_base_answers_general_examples_without_an_answer(base, example):
    model, tokenizer = base
    given = [
        example(id="known", prompt="Which city is the capital of Burundi?", responses=["Gitega"]),
        example(id="open", prompt="Which city is the capital of Burundi?", responses=[""], label=-1),
        example(id="choice", task="question", responses=["yes", "no"], label=1),
        example(id="pair", task="pair", responses=["a", "b"]),
        example(id="long", prompt="very " * 300),
    ]
    found = {one["id"]: one for one in answer_with_base(given, model, tokenizer, Encoder(tokenizer))}
    assert set(found) == {"known", "open", "choice", "long"}
    assert found["known"]["responses"] == ["Gitega"] and found["choice"]["responses"] == ["no"]
    assert found["open"]["responses"][0].strip() and found["open"]["label"] == 0
    assert all(one["task"] == "response" for one in found.values())
    memory = LongTermMemory(10)
    seed_memory(memory, to_dataset(given), [], model, tokenizer, Encoder(tokenizer, max_length=100), 0)
    assert [entry.example["id"] for entry in memory.entries] == ["known", "open", "choice"]


# ---------------------------------------------------------------- peak memory


def peak_bytes(work):
    """Return the most bytes that `work` has allocated at a time."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_hashing_examples_takes_as_much_memory_as_one_batch(examples, monkeypatch):
    monkeypatch.setattr("icft_lite.data.tables.BATCH", 100)
    few, many = to_dataset(examples * 10), to_dataset(examples * 100)
    hash_examples(few)  # imports and caches are not counted
    assert peak_bytes(lambda: hash_examples(many)) < 1.5 * peak_bytes(lambda: hash_examples(few))


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_the_size_of_a_full_memory_does_not_depend_on_the_number_of_offers(policy, monkeypatch):
    monkeypatch.setattr("icft_lite.memory.long_term.OFFER_BATCH_SIZE", 500)
    draw = np.random.default_rng(0)

    def fill(n):
        examples = (dict(id=f"r{i}", topic=f"t{i % 7}", prompt="short") for i in range(n))
        memory = LongTermMemory(300, policy, features=lambda many: draw.normal(size=(len(many), 8)))
        memory.add(examples, encode, "general")

    assert peak_bytes(lambda: fill(12_000)) < 1.3 * peak_bytes(lambda: fill(3_000))


@pytest.mark.slow
def test_a_plan_takes_few_bytes_per_drawn_example():
    encoded = EncodedExamples(map(encoded_example, range(20_000)))
    levels = ["easy"] * 20_000

    def plan():
        (stage,) = build_curriculum(levels, np.random.default_rng(0).random(20_000))
        steps, _ = plan_stage(stage, encoded, levels, [], ShortTermMemory(128), ICFTConfig(), 50 * 20_000)
        assert sum(len(step.new) for step in steps) > 15_000

    assert peak_bytes(plan) < 300 * 20_000


@pytest.mark.slow
def test_a_million_examples_take_less_than_two_gigabytes(tmp_path):
    """The memory of the process while it reads, splits, encodes, ranks, plans, and offers to a memory.

    With the default policy, and with the one that stores most of its offers. The benchmark measures all policies.
    """
    policies = ("surprise", "herding")
    line = [
        sys.executable,
        str(Path(__file__).parent.parent / "benchmarks" / "scale.py"),
        "--examples",
        "1000000",
        *(f"--policy={policy}" for policy in policies),
    ]
    subprocess.run([*line, "--json", str(tmp_path / "scale.json")], check=True)
    (found,) = json.loads((tmp_path / "scale.json").read_text())
    assert found["examples"] > 990_000
    assert {"encode", *(f"memory: {policy}" for policy in policies)} <= set(found["parts"])
    assert max(part["peak_bytes"] for part in found["parts"].values()) < 2e9
