"""MedMCQA and PubMedQA as on the Hub become canonical examples. The rows here are our own, in their formats."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from icft_lite.data import conversion
from icft_lite.data.corpora import Corpus
from icft_lite.data.readers import read_sources
from icft_lite.data.schema import COLUMNS, ReadOptions
from icft_lite.data.sources import bundle_from_files, evaluation_examples
from icft_lite.data.splits import read_examples
from icft_lite.errors import ICFTError

MEDMCQA = dict(
    id="a1",
    question="Which organ makes insulin?",
    opa="liver",
    opb="spleen",
    opc="pancreas",
    opd="kidney",
    cop=2,
    choice_type="single",
    exp="The islets make it.",
    subject_name="Physiology",
    topic_name=None,
)
PUBMEDQA = dict(
    pubid=17,
    question="Does hand washing lower infection rates?",
    context=dict(
        contexts=["Wards were compared.", "Rates fell."],
        labels=["METHODS", "RESULTS"],  # data: sections of the abstract
        meshes=[],
        reasoning_required_pred=["y"],
        reasoning_free_pred=["y"],
    ),
    long_answer="Hand washing lowered infection rates.",
    final_decision="yes",
)


FROM_ZERO = {**MEDMCQA, "id": "first", "opa": "gall bladder", "cop": 0}
"""A row that settles that options are counted from 0, as on the Hub."""


def read(row):
    return read_examples([row, FROM_ZERO])[0] if "cop" in row else read_examples([row])[0]


def test_medmcqa_becomes_a_question_with_its_subject_as_topic():
    example = read(MEDMCQA)
    found = [example[name] for name in ("id", "task", "topic", "domain")]
    assert found == ["a1", "question", "Physiology", "medical"]
    assert example["responses"] == ["liver", "spleen", "pancreas", "kidney"] and example["label"] == 2
    assert "islets" not in json.dumps(example), "the explanation reveals the answer"


@pytest.mark.parametrize("cop", [-1, None])
def test_the_test_split_of_medmcqa_has_no_labels(cop):
    assert read({**MEDMCQA, "cop": cop})["label"] == -1


def test_a_repeated_option_is_used_once_and_the_label_follows():
    example = read({**MEDMCQA, "opa": "pancreas ", "opd": ""})
    assert example["responses"] == ["pancreas", "spleen"] and example["label"] == 0


def test_rows_without_two_options_or_without_the_right_one_are_skipped():
    same = {**MEDMCQA, "id": "b", **dict.fromkeys(("opa", "opb", "opc", "opd"), "all")}
    nothing = {**MEDMCQA, "id": "c", "opc": None}
    (found,) = read_sources([[same, nothing, MEDMCQA, FROM_ZERO]])
    assert found.examples["id"][:] == ["a1", "first"]
    assert found.summary.left_out == {"fewer than two different options": 1, "the right option is empty": 1}


def test_the_numbering_of_the_original_release_is_recognized():
    rows = [{**MEDMCQA, "cop": 3}, {**MEDMCQA, "id": "b", "opd": "the last", "cop": 4}]
    assert [example["responses"][example["label"]] for example in read_examples(rows)] == ["pancreas", "the last"]


def test_the_conclusion_of_pubmedqa_is_an_extra_column():
    example = read(PUBMEDQA)
    assert (example["id"], example["topic"], example["responses"]) == ("17", "pubmedqa", ["yes", "no", "maybe"])
    assert (example["label"], example["context"]) == (0, "Wards were compared.\nRates fell.")
    assert example["long_answer"] == PUBMEDQA["long_answer"]
    assert not any("lowered" in str(example[name]) for name in COLUMNS), "a prompt could contain the conclusion"
    assert read({**PUBMEDQA, "final_decision": ""})["label"] == -1


def test_a_text_in_place_of_the_contexts_of_pubmedqa_is_an_error_of_one_line():
    with pytest.raises(ICFTError, match="example 1: columns .* fit no format"):
        read({**PUBMEDQA, "context": "{'contexts': []}"})


def test_jsonl_and_parquet_give_the_same_examples(write, tmp_path):
    rows = {"medmcqa": [MEDMCQA, FROM_ZERO], "pubmedqa": [{**PUBMEDQA, "context": {"contexts": ["x", "y"]}}]}
    for name, found in rows.items():
        path = tmp_path / f"{name}.parquet"
        pa.parquet.write_table(pa.Table.from_pylist(found), path)
        assert read_examples(path).to_list() == read_examples(write(f"{name}.jsonl", found)).to_list()


def test_both_in_one_bundle(write):
    """Labelled examples of MedMCQA are trusted; those of PubMedQA are the pool, and their labels are pool_gold."""
    mcq = write(
        "mcq.jsonl", [{**MEDMCQA, "id": f"m{i}", "question": f"Question {i}?", "cop": i % 4} for i in range(10)]
    )
    pub = write("pub.jsonl", [{**PUBMEDQA, "pubid": i, "context": {"contexts": [f"Ward {i}."]}} for i in range(10)])
    ids = write("ids.txt", "m8\nm9\n8\n9\n")
    data = bundle_from_files([mcq, pub], ["samples"], ids)
    assert sorted(data.test["id"][:]) == ["8", "9", "m8", "m9"]
    assert set(data.trusted["topic"][:]) == {"Physiology"} and set(data.pool["topic"][:]) == {"pubmedqa"}
    assert set(data.pool["label"][:]) == {-1} and set(data.pool_gold) == set(data.pool["id"][:])


def questions(n, **columns):
    return [
        dict(id=f"q{i}", question=f"Question {i}?", choices=["a", "b", "c", "d"], answer="abcd"[i % 4], **columns)
        for i in range(n)
    ]


def test_ordinary_questions_next_to_pubmedqa_retain_their_labels(write):
    """Neither a column `long_answer` nor PubMedQA's rows in the same file make a question one of PubMedQA's."""
    pub = [{**PUBMEDQA, "pubid": i, "context": {"contexts": [f"Ward {i}."]}} for i in range(15)]
    mixed = write("mixed.jsonl", pub + questions(30))
    canonical = [
        dict(
            id=f"c{i}",
            task="question",
            prompt=f"Canonical {i}?",
            responses=["a", "b"],
            label=i % 2,
            long_answer="A reason.",
        )
        for i in range(30)
    ]
    data = bundle_from_files([mixed, write("canonical.jsonl", canonical)], ["samples"])
    assert set(data.pool["topic"][:]) == {"pubmedqa"} and set(data.pool["label"][:]) == {-1}
    assert {name[0] for name in data.trusted["id"][:]} == {"q", "c"} and min(data.trusted["label"][:]) >= 0
    assert set(data.pool_gold) == set(data.own_lfs) == set(data.pool["id"][:])
    assert len(evaluation_examples([canonical])) == len(canonical), "all of them, since it is not PubMedQA"


def test_pubmedqa_rows_have_the_columns_of_other_rows():
    (found,) = read_sources([[{**PUBMEDQA, "level": "hard", "entity": "aspirin", "area": "drugs", "note": "-"}]])
    example = found.examples[0]
    assert (example["level"], example["entity"], example["topic"]) == ("hard", "aspirin", "pubmedqa")
    assert {"level", "entity", "question", "final_decision"} <= {*found.summary.columns_used}
    assert found.summary.columns_ignored == ["area", "note"]
    unnamed = {name: value for name, value in PUBMEDQA.items() if name != "pubid"}
    options = ReadOptions(columns={"topic": "area", "id": "key"})
    example = read_examples([{**unnamed, "area": "drugs", "key": "k1"}], options=options)[0]
    assert (example["topic"], example["id"]) == ("drugs", "k1")
    for column in ("weight", "rating", "images"):
        with pytest.raises(ICFTError, match=f"example 1: column {column} .* changes what an example means"):
            read({**PUBMEDQA, column: 3})


def test_contexts_of_pubmedqa_are_texts():
    assert read({**PUBMEDQA, "context": {"contexts": "Seen in all."}})["context"] == "Seen in all."
    for contexts in ([None, "x"], [1, 2]):
        with pytest.raises(ICFTError, match="example 1: a context is (None|1); contexts must be texts"):
            read({**PUBMEDQA, "context": {"contexts": contexts}})


def test_a_list_of_rows_is_split_like_a_file(write):
    rows = questions(40)
    held_out = read_examples(rows, split="test")["id"][:]
    assert held_out == read_examples(write("rows.jsonl", rows), split="test")["id"][:] and len(held_out) == 4
    with pytest.raises(ICFTError, match="it has no split 'dev'"):
        read_examples(rows, split="dev")


def test_another_corpus_is_a_module_and_an_entry(monkeypatch):
    def convert(row, where):
        return {"prompt": row["case"]["text"], "completion": row["case"]["label"], "id": row["number"]}

    nested = Corpus("cases", frozenset(("case", "number")), lambda row: {"case", "number"} <= row.keys(), convert)
    monkeypatch.setattr(conversion, "CORPORA", (*conversion.CORPORA, nested))
    (found,) = read_sources([[{"case": {"text": "A cough.", "label": "a cold"}, "number": 7, "level": "easy"}]])
    example = found.examples[0]
    assert (example["id"], example["prompt"], example["responses"], example["level"]) == (
        "7",
        "A cough.",
        ["a cold"],
        "easy",
    )
    assert found.summary.shapes == {"cases": 1} and found.summary.columns_used == ["case", "number", "level"]
    with pytest.raises(ICFTError, match=r"example 1: not a row of cases \(KeyError: 'label'\); correct it"):
        read({"case": {"text": "A cough."}, "number": 8})
