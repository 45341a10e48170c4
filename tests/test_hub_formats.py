"""MedMCQA and PubMedQA as the Hub has them become canonical rows. The rows here are our own, in their formats."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest

from icft_lite.data.sources import bundle_from_files
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
        labels=["METHODS", "RESULTS"],
        meshes=[],
        reasoning_required_pred=["y"],
        reasoning_free_pred=["y"],
    ),
    long_answer="Hand washing lowered infection rates.",
    final_decision="yes",
)


def one(row):
    return read_examples([row])[0]


def test_medmcqa_becomes_a_question_with_its_subject_as_topic():
    row = one(MEDMCQA)
    assert (row["id"], row["task"], row["topic"], row["domain"]) == ("a1", "question", "Physiology", "medical")
    assert row["responses"] == ["liver", "spleen", "pancreas", "kidney"] and row["label"] == 2
    assert "islets" not in json.dumps(row), "the explanation gives the answer away"


@pytest.mark.parametrize("cop", [-1, None])
def test_medmcqas_test_split_has_no_labels(cop):
    assert one({**MEDMCQA, "cop": cop})["label"] == -1


def test_an_option_named_twice_is_kept_once_and_the_right_one_stays_right():
    row = one({**MEDMCQA, "opa": "pancreas ", "opd": ""})
    assert row["responses"] == ["pancreas", "spleen"] and row["label"] == 0


def test_rows_without_two_options_or_without_the_right_one_are_left_out():
    same = {**MEDMCQA, "id": "b", **dict.fromkeys(("opa", "opb", "opc", "opd"), "all")}
    nothing = {**MEDMCQA, "id": "c", "opc": None}
    assert read_examples([same, nothing, MEDMCQA])["id"][:] == ["a1"]


def test_the_original_releases_numbering_is_refused():
    with pytest.raises(ICFTError, match="row 2: cop is 4; .* take 1 off"):
        read_examples([MEDMCQA, {**MEDMCQA, "id": "b", "cop": 4}])


def test_pubmedqa_keeps_its_conclusion_apart_from_the_prompt():
    row = one(PUBMEDQA)
    assert (row["id"], row["topic"], row["responses"]) == ("17", "pubmedqa", ["yes", "no", "maybe"])
    assert (row["label"], row["context"]) == (0, "Wards were compared.\nRates fell.")
    assert row["long_answer"] == PUBMEDQA["long_answer"]
    assert one({**PUBMEDQA, "final_decision": ""})["label"] == -1


def test_jsonl_and_parquet_give_the_same_rows(write, tmp_path):
    for name, row in (("medmcqa", MEDMCQA), ("pubmedqa", {**PUBMEDQA, "context": {"contexts": ["x", "y"]}})):
        path = tmp_path / f"{name}.parquet"
        pa.parquet.write_table(pa.Table.from_pylist([row]), path)
        assert read_examples(path).to_list() == read_examples(write(f"{name}.jsonl", [row])).to_list()


def test_both_in_one_bundle(write):
    """MedMCQA's labelled rows are trusted; PubMedQA's labels are put aside, its rows are the pool."""
    mcq = write("mcq.jsonl", [{**MEDMCQA, "id": f"m{i}", "question": f"Question {i}?"} for i in range(10)])
    pub = write("pub.jsonl", [{**PUBMEDQA, "pubid": i, "context": {"contexts": [f"Ward {i}."]}} for i in range(10)])
    ids = write("ids.txt", "m8\nm9\n8\n9\n")
    data = bundle_from_files([mcq, pub], ["samples"], ids)
    assert sorted(data.test["id"][:]) == ["8", "9", "m8", "m9"]
    assert set(data.trusted["topic"][:]) == {"Physiology"} and set(data.pool["topic"][:]) == {"pubmedqa"}
    assert set(data.pool["label"][:]) == {-1} and set(data.pool_gold) == set(data.pool["id"][:])
