"""DataBundle.content_hash: the same canonical examples have the same hash, any change has another one."""

import csv
import json
import random
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from datasets import Dataset, concatenate_datasets

from icft_lite.data.bundle import DataBundle
from icft_lite.data.chat_suite import ChatItem
from icft_lite.data.samples import sample_bundle
from icft_lite.data.splits import read_examples
from icft_lite.data.tables import hash_examples, to_dataset

QUESTIONS = [
    {
        "id": f"q{i}",
        "topic": "organs",
        "question": f"Frage {i}: größer?",
        "choices": ["heart", "ear", "eye"],
        "answer": i % 3,
    }
    for i in range(20)
]


def changed(rows, index, **columns):
    return [{**row, **columns} if i == index else row for i, row in enumerate(rows)]


def content(rows):
    return hash_examples(read_examples(rows))


def test_the_hash_does_not_depend_on_path_or_format(write, tmp_path):
    table, sheet = tmp_path / "table.parquet", tmp_path / "sheet.csv"
    pa.parquet.write_table(pa.Table.from_pylist(QUESTIONS), table)
    with sheet.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["answer", "choices", "question", "topic", "id"])
        writer.writeheader()
        writer.writerows({**row, "choices": "|".join(row["choices"])} for row in QUESTIONS)
    (tmp_path / "other").mkdir()
    paths = [write("a.jsonl", QUESTIONS), write("other/b.jsonl", QUESTIONS), write("c.json", json.dumps(QUESTIONS))]
    assert {content(source) for source in (*paths, table, sheet, QUESTIONS)} == {content(QUESTIONS)}


def test_the_hash_does_not_depend_on_how_the_dataset_was_made(monkeypatch):
    whole = read_examples(QUESTIONS)
    examples = whole.to_list()
    parts = concatenate_datasets([whole.select([2, 3]), whole.select([0, 1]), whole.select(range(4, 20))])
    variants = [
        examples,
        tuple(examples),
        to_dataset(examples),
        Dataset.from_list(examples),
        parts.select([2, 3, 0, 1, *range(4, 20)]),
        whole.select_columns(sorted(whole.column_names)),
        [{**example, "label": np.int64(example["label"])} for example in examples],
    ]
    assert {hash_examples(variant) for variant in variants} == {hash_examples(whole)}
    monkeypatch.setattr("icft_lite.data.tables.BATCH", 3)
    assert hash_examples(whole) == hash_examples(examples) == hash_examples(variants[-1])


@pytest.mark.parametrize(
    "rows",
    [
        changed(QUESTIONS, 7, question="Frage 7: größer!"),
        changed(QUESTIONS, 19, answer=2),
        changed(QUESTIONS, 0, answer=None),
        changed(QUESTIONS, 3, id="q-3"),
        changed(QUESTIONS, 3, level="easy"),
        changed(QUESTIONS, 3, choices=["heart", "eye", "ear"]),
        QUESTIONS[::-1],
        QUESTIONS[:-1],
        [*QUESTIONS, {**QUESTIONS[0], "id": "q20"}],
    ],
)
def test_any_change_of_content_or_order_changes_the_hash(rows):
    assert content(rows) != content(QUESTIONS)


def test_extra_columns_count_and_missing_ones_do_not():
    examples = read_examples(QUESTIONS).to_list()
    extra = [{**example, "long_answer": "It is."} for example in examples]
    assert hash_examples(extra) != hash_examples(examples)
    assert hash_examples(to_dataset(extra, ["long_answer"])) == hash_examples(extra)
    assert hash_examples(to_dataset(examples, ["long_answer"])) == hash_examples(examples), "None is a missing column"


def test_posteriors_of_examples_count_as_floats():
    (example,) = read_examples(QUESTIONS[:1]).to_list()
    certain = [{**example, "posterior": posterior} for posterior in ([1, 0, 0], [1.0, 0.0, 0.0], np.eye(3)[0])]
    assert len({hash_examples([one]) for one in certain} | {hash_examples(to_dataset(certain[:1]))}) == 1
    assert hash_examples(certain[:1]) != hash_examples([example])


def test_a_bundle_has_a_hash_for_each_role_that_it_has():
    trusted, gold, posteriors = read_examples(QUESTIONS), {"a": 1, "b": 0}, {"a": [0.25, 0.75]}
    bundle = DataBundle(trusted=trusted, pool_gold=gold, posteriors=posteriors)
    hashes = bundle.content_hash()
    assert set(hashes) == {"trusted", "pool_gold", "posteriors"}
    assert all(len(value) == 64 and int(value, 16) for value in hashes.values())
    again = DataBundle(trusted=trusted, pool_gold={"b": 0, "a": 1}, posteriors=posteriors, sources={"x.csv": "1"})
    assert again.content_hash() == hashes
    assert DataBundle(trusted=trusted, pool_gold={**gold, "b": 1}).content_hash()["pool_gold"] != hashes["pool_gold"]
    other = DataBundle(posteriors={"a": [0.75, 0.25]}).content_hash()
    assert set(other) == {"posteriors"} and other["posteriors"] != hashes["posteriors"]
    assert DataBundle().content_hash() == {}


def test_answers_checks_and_parts_of_the_chat_suite_count():
    first, second = ChatItem("a", "capital", "x", "Which?", ("Rome",)), ChatItem("b", "list", "y", "List.")
    hashes = [
        DataBundle(chat=chat).content_hash()["chat"]
        for chat in (
            {"test": (first, second)},
            {"validation": (first, second)},
            {"test": (replace(first, accepted=("Oslo",)), second)},
            {"test": (first, replace(second, checks=("items:3",)))},
        )
    ]
    assert len(set(hashes)) == len(hashes)


def test_the_samples_have_a_hash_for_each_role_and_a_subset_has_others():
    bundle = sample_bundle()
    hashes, subset = bundle.content_hash(), bundle.only(["terminology"]).content_hash()
    assert len(hashes) == len(set(hashes.values())) == 8
    assert sample_bundle().content_hash() == hashes
    assert {role for role in hashes if subset[role] == hashes[role]} == {
        "general_memory",
        "general_validation",
        "general_test",
        "pool_gold",
    }


def test_shuffling_changes_only_the_order():
    examples = read_examples(QUESTIONS).to_list()
    shuffled = random.Random(0).sample(examples, len(examples))
    assert hash_examples(shuffled) != hash_examples(examples)
    assert hash_examples(sorted(shuffled, key=lambda example: int(example["id"][1:]))) == hash_examples(examples)
