"""Many rows: what grows with them stays small, what need not grow does not, and batches change no result."""

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
from icft_lite.data.tables import column, iter_columns, iter_examples, to_dataset
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.memory.policies import POLICIES
from icft_lite.memory.rehearsal import answer_with_base, seed_memory
from icft_lite.memory.short_term import ShortTermMemory
from icft_lite.modeling.encoding import Encoded, EncodedExamples, Encoder, TooLong, encode_examples
from icft_lite.training.plan import plan_stage


def one(i):
    """An example of 40 to 60 tokens, none alike: a reply, or a question behind one prompt."""
    ids = list(range(i, i + 40 + i % 20))
    if i % 3:
        return Encoded([ids], [(0, 30 + t, ids[31 + t], 0) for t in range(8)], 1, truncated=bool(i % 2))
    tokens = [(0, 30 + t, ids[31 + t], t // 4) for t in range(8)]
    return Encoded([ids], tokens, 2, segments=[0] * 31 + [1 + t // 5 for t in range(len(ids) - 31)])


def test_packed_encodings_come_back_the_same():
    examples = [one(i) for i in range(30)] + [Encoded([[1, 2], [3, 4, 5]], [(0, 0, 2, 0), (1, 1, 5, 1)], 2)]
    packed = EncodedExamples(examples)
    assert len(packed) == 31 and list(packed) == examples and packed[-1] == examples[-1]
    with pytest.raises(IndexError):
        packed[31]


def test_a_packed_encoding_takes_a_few_bytes_a_number():
    numbers, packed = 0, EncodedExamples()
    for i in range(2000):
        example = one(i)
        numbers += len(example.sequences[0]) + 4 * len(example.tokens) + len(example.segments or ())
        packed.append(example)
    size = sys.getsizeof(packed.numbers) + sys.getsizeof(packed.starts)
    assert size < 6 * numbers + 40 * 2000


# ---------------------------------------------------------------- rows


@pytest.fixture
def rows(row):
    levels = ("easy", "middle", "hard")
    return [
        row(
            id=f"r{i}",
            topic=f"t{i % 5}",
            level=levels[i % 3],
            prompt=f"Define {'very ' * (i % 4)}ill.",
            **(dict(task="question", responses=["a", "b"], label=-1, posterior=[0.3, 0.7]) if i % 4 == 1 else {}),
        )
        for i in range(40)
    ]


def test_a_table_of_rows_is_those_rows(rows, monkeypatch):
    monkeypatch.setattr("icft_lite.data.tables.BATCH", 7)
    whole = to_dataset(iter(rows))
    assert [dict(one) for one in whole] == rows and len(to_dataset([])) == 0
    for name in ("posterior", "label", "level"):
        assert column(whole, name) == column(rows, name) == [row[name] for row in rows]
    some = whole.select(range(30, 5, -3))
    assert list(iter_examples(some)) == list(some) == list(iter_examples(rows[30:5:-3]))
    assert list(iter_columns(some, "label", "id")) == [(row["label"], row["id"]) for row in rows[30:5:-3]]


def test_a_dataset_and_a_list_have_the_same_difficulty_and_stages(rows):
    whole = to_dataset(rows)
    for signals in (("length",), ("entropy",), ("length", "entropy")):
        difficulty = score_difficulty(rows, signals=signals)
        assert (score_difficulty(whole, signals=signals) == difficulty).all()
    stages = build_curriculum(column(whole, "level"), difficulty)
    assert stages == build_curriculum([one["level"] for one in rows], difficulty.tolist())
    assert all(stage == sorted(stage, key=lambda i: (difficulty[i], i)) for stage in stages)
    assert all(type(i) is int for stage in stages for i in stage)


@pytest.mark.parametrize("kind", [list, to_dataset])
def test_rows_that_do_not_fit_are_left_out_of_lists_and_tables(base, rows, row, kind):
    rows.insert(3, row(id="long", prompt="very " * 300))
    kept, encoded, left_out = encode_examples(kind(rows), Encoder(base[1], max_length=100))
    assert left_out == ["long"] and column(kept, "id") == [f"r{i}" for i in range(40)]
    assert list(encoded) == [Encoder(base[1])(one) for one in kept]


# ---------------------------------------------------------------- drawing


@pytest.mark.parametrize("pile", [1, 3, 1000])
def test_a_queue_in_piles_is_a_list(pile):
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


def short(row):
    if row["prompt"] == "too long":
        raise TooLong("example")
    return Encoded([[1, 2]], [(0, 0, 2, 0)], 1)


def offered(n):
    draw = random.Random(0)
    return [
        dict(id=f"r{i}", topic=f"t{draw.randrange(4)}", prompt="too long" if i % 11 == 0 else "short") for i in range(n)
    ]


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "herding"])
def test_rows_offered_a_few_at_a_time_are_chosen_as_if_all_came_at_once(policy, monkeypatch):
    """Herding alone looks for rows that together have the mean of all: what it keeps depends on what it saw."""
    rows, surprise, kept = offered(400), np.random.default_rng(1).random(400), []
    for offers in (1000, 60):
        monkeypatch.setattr("icft_lite.memory.long_term.OFFERS", offers)
        memory = LongTermMemory(40, policy)
        assert memory.add(iter(rows), short, "general", surprise) == (40, 0)
        kept.append({entry.example["id"] for entry in memory.entries})
    assert len(kept[0] & kept[1]) >= 38  # quotas are whole numbers: a topic may have one more here or there
    assert not any(int(name[1:]) % 11 == 0 for name in kept[0] | kept[1]), "what does not fit takes nobody's place"


def test_a_memory_encodes_only_what_it_may_keep():
    encoded = []
    memory = LongTermMemory(20, "reservoir")
    memory.add(offered(3000), lambda row: encoded.append(row["id"]) or short(row), "general")
    assert len(memory) == 20 and len(encoded) < 100


def test_general_rows_are_answered_by_the_base_where_they_have_no_answer(base, row):
    model, tokenizer = base
    given = [
        row(id="known", prompt="Which city is the capital of Burundi?", responses=["Gitega"]),
        row(id="open", prompt="Which city is the capital of Burundi?", responses=[""], label=-1),
        row(id="choice", task="question", responses=["yes", "no"], label=1),
        row(id="pair", task="pair", responses=["a", "b"]),
        row(id="long", prompt="very " * 300),
    ]
    found = {one["id"]: one for one in answer_with_base(given, model, tokenizer, Encoder(tokenizer))}
    assert set(found) == {"known", "open", "choice", "long"}
    assert found["known"]["responses"] == ["Gitega"] and found["choice"]["responses"] == ["no"]
    assert found["open"]["responses"][0].strip() and found["open"]["label"] == 0
    assert all(one["task"] == "response" for one in found.values())
    memory = LongTermMemory(10)
    seed_memory(memory, to_dataset(given), [], model, tokenizer, Encoder(tokenizer, max_length=100), 0)
    assert [entry.example["id"] for entry in memory.entries] == ["known", "open", "choice"]


# ---------------------------------------------------------------- memory that does not grow


def most(work):
    """Most bytes that `work` had at a time."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
def test_a_full_memory_is_offered_any_number_of_rows(policy, monkeypatch):
    monkeypatch.setattr("icft_lite.memory.long_term.OFFERS", 500)
    draw = np.random.default_rng(0)

    def fill(n):
        rows = (dict(id=f"r{i}", topic=f"t{i % 7}", prompt="short") for i in range(n))
        LongTermMemory(300, policy, features=lambda many: draw.normal(size=(len(many), 8))).add(rows, short, "general")

    assert most(lambda: fill(12_000)) < 1.3 * most(lambda: fill(3_000))


@pytest.mark.slow
def test_a_plan_takes_few_bytes_for_each_row_it_draws():
    encoded = EncodedExamples(map(one, range(20_000)))
    levels = ["easy"] * 20_000

    def plan():
        (stage,) = build_curriculum(levels, np.random.default_rng(0).random(20_000))
        steps, _ = plan_stage(stage, encoded, levels, [], ShortTermMemory(128), ICFTConfig(), 50 * 20_000)
        assert sum(len(step.new) for step in steps) > 15_000

    assert most(plan) < 300 * 20_000


@pytest.mark.slow
def test_a_million_rows_take_less_than_two_gigabytes(tmp_path):
    """Read, split, encoded, ranked, planned, and offered to a memory: all that the process takes. Under the policy
    that is the default, and the one that keeps most of what it is offered; the benchmark has them all."""
    policies = ("surprise", "herding")
    line = [
        sys.executable,
        str(Path(__file__).parent.parent / "benchmarks" / "scale.py"),
        "--rows",
        "1000000",
        *(f"--policy={policy}" for policy in policies),
    ]
    subprocess.run([*line, "--json", str(tmp_path / "scale.json")], check=True)
    (found,) = json.loads((tmp_path / "scale.json").read_text())
    assert found["rows"] > 990_000
    assert {"encode", *(f"memory: {policy}" for policy in policies)} <= set(found["parts"])
    assert max(part["peak_bytes"] for part in found["parts"].values()) < 2e9
