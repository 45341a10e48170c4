"""Reading examples: every format, errors with file and line, and splits that hold out whole groups."""

import json
import re
from collections import Counter

import pyarrow as pa
import pyarrow.parquet
import pytest

from icft_lite.data.bundle import DataBundle
from icft_lite.data.conversion import normalize_example
from icft_lite.data.samples import load_samples, sample_bundle
from icft_lite.data.schema import COLUMNS, LEVELS, ReadOptions
from icft_lite.data.sources import bundle_from_files, evaluation_examples
from icft_lite.data.splits import read_examples, read_pubmedqa, split_source
from icft_lite.errors import ICFTError
from icft_lite.weak.lfs.samples import sample_lfs

GOOD = {"prompt": "Define nephritis.", "completion": "inflammation of the kidney"}
QUESTION = {"question": "Which organ filters blood?", "choices": ["heart", "kidney", "lung"], "answer": "kidney"}


def responses(n, **extra):
    return [{"prompt": f"question {i}?", "completion": f"reply {i}", **extra} for i in range(n)]


@pytest.mark.parametrize(
    "row, task, answers, label",
    [
        (GOOD, "response", ["inflammation of the kidney"], 0),
        (
            {"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": " hello"}]},
            "response",
            ["hello"],
            0,
        ),
        (
            {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]},
            "response",
            ["hello"],
            0,
        ),
        (QUESTION, "question", ["heart", "kidney", "lung"], 1),
        ({**QUESTION, "answer": "C"}, "question", ["heart", "kidney", "lung"], 2),
        ({**QUESTION, "answer": 0}, "question", ["heart", "kidney", "lung"], 0),
        ({**QUESTION, "answer": None}, "question", ["heart", "kidney", "lung"], -1),
        ({**QUESTION, "choices": ["1", "2", "3"], "answer": "2"}, "question", ["1", "2", "3"], 1),
        ({**QUESTION, "choices": ["a", "c", "d"], "answer": "C"}, "question", ["a", "c", "d"], 1),
        ({"prompt": "p", "chosen": "good", "rejected": "bad"}, "pair", ["good", "bad"], 0),
        ({"prompt": "p", "response_a": "x", "response_b": "y"}, "pair", ["x", "y"], -1),
    ],
)
def test_every_format_becomes_a_canonical_example(row, task, answers, label):
    example = normalize_example(row, "line 1", "r-1")
    assert set(example) == set(COLUMNS)
    assert (example["task"], example["responses"], example["label"], example["id"]) == (task, answers, label, "r-1")


def test_levels_are_easy_medium_and_hard_and_the_former_name_of_medium_is_read():
    assert LEVELS == ("easy", "medium", "hard")
    levels = ["easy", "medium", "hard", "middle", "", None]  # data: the former name
    examples = [normalize_example({**GOOD, "level": level}, "line 1", 1) for level in levels]
    assert [example["level"] for example in examples] == ["easy", "medium", "hard", "medium", "", ""]
    assert read_examples([{**GOOD, "level": "middle"}])["level"][:] == ["medium"]  # data: the former name


def test_earlier_turns_of_messages_become_the_history():
    turns = [
        {"role": r, "content": c}
        for r, c in [("system", "be brief"), ("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    ]
    example = normalize_example({"messages": turns}, "line 1", 1)
    assert example["history"] == turns[:3] and example["prompt"] == "c" and example["responses"] == ["d"]


def test_jsonl_json_csv_parquet_and_a_list_give_the_same_examples(write, tmp_path):
    rows = [
        {**QUESTION, "id": "a", "topic": "organs", "facts": ["kidney", "blood"]},
        {
            "id": "b",
            "topic": "organs",
            "question": "Which organ pumps, then?",
            "choices": ["heart", "ear"],
            "answer": "heart",
            "facts": ["heart"],
        },
    ]
    table = tmp_path / "t.parquet"
    pa.parquet.write_table(pa.Table.from_pylist(rows), table)
    text = (
        "id,topic,question,choices,answer,facts\n"
        "a,organs,Which organ filters blood?,heart|kidney|lung,kidney,kidney|blood\n"
        'b,organs,"Which organ pumps, then?","[""heart"", ""ear""]",heart,heart\n'
    )
    sources = [write("t.jsonl", rows), write("t.json", json.dumps(rows)), write("t.csv", text), table, rows]
    first, *others = (read_examples(source).to_list() for source in sources)
    assert all(other == first for other in others)


BAD = [
    ("a.jsonl", json.dumps(GOOD) + "\n" * 6 + '{"prompt": "x", \n', "line 7: broken JSON"),
    ("a.jsonl", "", "no examples"),
    ("a.jsonl", "\n\n", "no examples"),
    ("a.jsonl", '"text"\n', "line 1: found a str"),
    ("a.jsonl", json.dumps(GOOD) + '\n{"text": "x", "title": "y"}\n', "line 2: columns text, title fit no"),
    ("a.jsonl", '{"prompt": "x"}\n', "line 1: completion is missing"),
    ("a.jsonl", '{"prompt": "x", "completion": "  "}\n', "line 1: completion is empty"),
    ("a.jsonl", '{"prompt": "", "completion": "x"}\n', "line 1: prompt is empty"),
    ("a.jsonl", '{"prompt": "x", "chosen": "a"}\n', "line 1: rejected is missing"),
    ("a.jsonl", json.dumps({**QUESTION, "answer": "spleen"}) + "\n", "line 1: answer 'spleen' is not among"),
    ("a.jsonl", json.dumps({**QUESTION, "answer": 4}) + "\n", "line 1: answer 4 is not among"),
    ("a.jsonl", json.dumps({**QUESTION, "choices": ["a", "a"]}) + "\n", "line 1: choices"),
    ("a.jsonl", json.dumps({**QUESTION, "choices": "kidney"}) + "\n", "line 1: choices"),
    ("a.jsonl", json.dumps({**GOOD, "level": "trivial"}) + "\n", "line 1: level is 'trivial'"),
    ("a.jsonl", (json.dumps({**GOOD, "id": "x"}) + "\n") * 2, "line 2: id 'x' is already used at"),
    ("a.jsonl", '{"messages": [{"role": "user", "content": "x"}]}\n', "line 1: messages must"),
    ("a.csv", "", "no examples"),
    ("a.csv", "prompt,completion\na,b\nc,\n", "line 3: completion is empty"),
    ("a.csv", 'prompt,completion\n"two\nlines",b\nc,d,e\n', "line 4: more cells"),
    ("a.csv", "name,value\na,b\n", "line 2: columns name, value fit no format"),
    ("a.json", '[{"prompt": "x",\n oops]', "line 2: broken JSON"),
    ("a.json", '{"a": 1}', "neither a list"),
    ("a.parquet", "not parquet", "not a Parquet file"),
    ("a.txt", "x", "not read"),
]


@pytest.mark.parametrize("name, text, message", BAD, ids=[f"{n}-{m[:30]}" for n, _, m in BAD])
def test_an_error_is_one_line_with_file_and_line_number(write, name, text, message):
    path = write(name, text)
    with pytest.raises(ICFTError) as caught:
        read_examples(path)
    assert message in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_folders_encodings_and_names_without_network(tmp_path):
    (tmp_path / "latin.jsonl").write_bytes(json.dumps(GOOD).encode() + b'\n{"prompt": "caf\xe9"}\n')
    (tmp_path / "latin.csv").write_bytes(b"prompt,completion\ncaf\xe9,x\n")
    for source, message in [
        (tmp_path / "gone.jsonl", "no such file"),
        (tmp_path, "a folder"),
        (tmp_path / "latin.jsonl", "line 2: not UTF-8"),
        (tmp_path / "latin.csv", "UTF-8"),
        ("owner/no-such-data-set", "the Hub did not provide it"),
        ("word", "no such file"),
    ]:
        with pytest.raises(ICFTError, match=message) as caught:
            read_examples(source)
        assert "\n" not in str(caught.value)


def test_required_tasks_and_ids_across_files(write):
    one, two = write("one.jsonl", [{**GOOD, "id": "x"}]), write("two.jsonl", [{**QUESTION, "id": "x"}])
    with pytest.raises(ICFTError, match="example 1 is a response"):
        read_examples(one, require="question")
    with pytest.raises(ICFTError, match="'x' is in .*one.jsonl and .*two.jsonl"):
        read_examples([one, two])


def test_a_split_separates_groups_and_does_not_depend_on_the_order(write):
    rows = [
        {"id": f"{i}-{j}", "prompt": f"{w} {i}", "completion": "x", "entity": f"Thing {i}"}
        for i in range(100)
        for j, w in enumerate(["what is", "define"])
    ]
    parts = split_source(write("a.jsonl", rows))
    again = split_source(write("b.jsonl", rows[::-1]))
    entities = {name: set(part["entity"]) for name, part in parts.items()}
    assert [len(entities[n]) for n in ("train", "validation", "test")] == [80, 10, 10]
    assert sum(len(part) for part in parts.values()) == 200
    assert all(set(again[name]["id"]) == set(part["id"]) for name, part in parts.items())
    assert read_examples(write("a.jsonl", rows), split="test").to_list() == parts["test"].to_list()


def test_test_ids_choose_the_test_examples(write):
    data, ids = write("a.jsonl", responses(50)), write("ids.txt", "a-3\na-7\n")
    parts = split_source(data, test_ids=ids)
    assert parts["test"]["id"][:] == ["a-3", "a-7"] and len(parts["validation"]) == 5
    with pytest.raises(ICFTError, match="none of its ids"):
        split_source(data, test_ids=write("other.txt", "zzz"))
    with pytest.raises(ICFTError, match="cannot be read"):
        split_source(data, test_ids=data.parent / "gone.txt")


def test_what_any_file_of_a_bundle_holds_out_is_not_trained_on(write):
    labelled = write("labelled.jsonl", [{**QUESTION, "question": f"Organ {i}?"} for i in range(100)])
    pool = write("pool.jsonl", [{**QUESTION, "question": f"Organ {i}?", "answer": None} for i in range(150)])
    general = write("general.csv", "prompt,completion\n" + "".join(f"q{i},r{i}\n" for i in range(40)))
    alone = bundle_from_files(labelled, general)
    assert alone.content_hash() == bundle_from_files([labelled], [general]).content_hash(), "one source needs no list"
    bundle = bundle_from_files([labelled, pool], [general])
    held = set(bundle.validation["prompt"]) | set(bundle.test["prompt"])
    sizes = {name: len(part) for name, part in vars(bundle).items() if hasattr(part, "column_names")}
    assert sizes == {
        "trusted": 80,
        "validation": 10,
        "test": 10,
        "pool": 130,
        "general_memory": 32,
        "general_validation": 4,
        "general_test": 4,
    }
    assert not held & set(bundle.pool["prompt"]) and set(bundle.pool["label"]) == {-1}
    assert set(bundle.trusted["domain"]) == {"medical"} and set(bundle.general_test["domain"]) == {"general"}
    seen = evaluation_examples([labelled], trained_on=bundle.sources)
    assert set(seen["prompt"]) == set(bundle.test["prompt"]) and len(evaluation_examples([labelled])) == 100


def test_too_few_examples_and_no_labels_are_refused(write):
    with pytest.raises(ICFTError, match="2 different labelled prompts"):
        bundle_from_files([write("a.jsonl", responses(2))], ["samples"])
    with pytest.raises(ICFTError, match="no labelled examples"):
        bundle_from_files([write("b.jsonl", [{**QUESTION, "answer": None}])], ["samples"], lfs=sample_lfs())


def release(n=40):
    return {
        str(i): {
            "QUESTION": f"Does {i} help?",
            "CONTEXTS": [f"We studied {i}.", "It was measured."],
            "LONG_ANSWER": f"Yes, {i} helps.",
            "final_decision": ["yes", "no", "maybe"][i % 3],
        }
        for i in range(n)
    }


def test_pubmedqa_release(write):
    path = write("ori_pqal.json", json.dumps(release()))
    assert bundle_from_files([path], ["samples"]).test is None
    with pytest.raises(ICFTError, match="--test-ids"):
        evaluation_examples([path])
    write("test_ground_truth.json", json.dumps({str(i): "yes" for i in range(20)}))
    bundle = bundle_from_files([path, "samples"], ["samples"])
    test = bundle.test.filter(lambda example: example["topic"] == "pubmedqa")
    assert {int(name) for name in test["id"]} == set(range(20))
    pool = bundle.pool.filter(lambda example: example["topic"] == "pubmedqa")
    assert len(pool) == 16 and set(pool["label"]) == {-1} and set(pool["id"]) <= set(bundle.pool_gold)
    example = pool[0]
    assert example["context"] == f"We studied {example['id']}.\nIt was measured."
    assert example["responses"] == ["yes", "no", "maybe"]
    assert example["long_answer"] == f"Yes, {example['id']} helps."
    assert not any("helps" in str(example[name]) for name in COLUMNS)
    rest, test = read_pubmedqa(path)
    assert len(rest) == 20 and len(test) == 20 and -1 not in rest["label"]


def test_medquad_is_split_by_focus_and_repeated_ids_are_numbered(write):
    rows = [
        {
            "id": f"{i % 30}",
            "focus": f"Illness {i % 20}",
            "qtype": "treatment",
            "question": f"What treats {i}?",
            "answer": f"Rest, {i} days.",
        }
        for i in range(60)
    ]
    bundle = bundle_from_files([write("medquad.jsonl", rows)], ["samples"])
    sides = [set(part["entity"]) for part in (bundle.trusted, bundle.validation, bundle.test)]
    assert [len(side) for side in sides] == [16, 2, 2] and len(set.union(*sides)) == 20
    assert bundle.pool is None and set(bundle.trusted["topic"]) == {"treatment"}
    ids = {name for part in (bundle.trusted, bundle.validation, bundle.test) for name in part["id"]}
    assert ids == {f"{i}{end}" for i in range(30) for end in ("", "#2")}


@pytest.mark.parametrize("column", ["question", "answer"])
def test_an_empty_text_of_medquad_is_named_by_its_own_column(column):
    row = {"question": "What treats it?", "answer": "Rest.", "qtype": "treatment", column: " "}
    with pytest.raises(ICFTError, match=f"example 1: {column} is empty"):
        read_examples([row])


def test_a_generic_format_comes_before_medquad():
    row = {**QUESTION, "focus": "Kidney", "qtype": "organs"}
    example = read_examples([row])[0]
    assert (example["task"], example["entity"], example["topic"]) == ("question", "", "row")


def test_a_list_of_dicts_is_a_source_of_a_bundle():
    bundle = bundle_from_files([responses(30)], ["samples"])
    assert len(bundle.trusted) + len(bundle.validation) + len(bundle.test) == 30
    assert bundle.sources == {"a list of 30 examples": "", "samples": ""}
    with pytest.raises(ICFTError, match="^a list of 2 examples: 2 different labelled prompts"):
        bundle_from_files([responses(2)], ["samples"])


def test_the_bundled_samples_are_complete():
    bundle = sample_bundle()
    parts = {name: part for name, part in vars(bundle).items() if hasattr(part, "column_names")}
    ids = Counter(name for part in parts.values() for name in part["id"])
    assert max(ids.values()) == 1, "an id occurs in two sample files"
    assert set(bundle.pool["label"]) == {-1} and set(bundle.pool_gold) == set(bundle.pool["id"])
    assert set(bundle.test["task"]) == {"question", "pair", "response"}
    assert all(
        set(part["domain"]) == {name.split("_")[0] if name.startswith("general") else "medical"}
        for name, part in parts.items()
    )
    with pytest.raises(ICFTError, match="choose one of"):
        load_samples("nothing")


def test_only_selects_medical_topics_and_all_general_examples():
    bundle, topics = sample_bundle(), ("terminology", "relevance")
    few = bundle.only(topics)
    assert set(few.trusted["topic"]) == {"terminology"}
    assert set(few.pool["topic"]) == set(few.test["topic"]) == set(topics)
    for name in ("trusted", "pool", "validation", "test"):
        ids = [example["id"] for example in getattr(bundle, name) if example["topic"] in topics]
        assert getattr(few, name)["id"][:] == ids
    assert few.general_test is bundle.general_test and few.sources == bundle.sources
    assert bundle.only(()) is bundle is bundle.only(None)
    assert len(DataBundle(trusted=bundle.trusted).only(["anatomy"]).trusted) == 156, "parts may be missing"
    with pytest.raises(ICFTError, match="no example has topic 'astrology'; choose among anatomy, "):
        bundle.only(["terminology", "astrology"])


def test_the_original_releases_are_read(real_data):
    bundle = bundle_from_files([real_data / "pubmedqa/ori_pqal.json"], ["samples"])
    assert Counter(bundle.test["label"]) == {0: 276, 1: 169, 2: 55}
    assert (len(bundle.pool), len(bundle.validation), bundle.trusted) == (400, 100, None)
    bundle = bundle_from_files([real_data / "medquad/medquad_nih_sample.jsonl"], ["samples"])
    parts = bundle.trusted, bundle.validation, bundle.test
    sides = [{name.lower() for name in part["entity"]} for part in parts]
    assert sum(map(len, parts)) == 1594
    assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


# --- columns and answers that must not be misread


CANONICAL = {"task": "question", "prompt": "q", "responses": ["a", "b"], "label": 1}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": 5}, "label is 5 of 2 responses"),
        ({"label": "A"}, "label is 'A'"),
        ({"label": 1.7}, "label is 1.7"),
        ({"label": True}, "label is True"),
        ({"label": float("inf")}, "label is inf"),
        ({"task": "quiz"}, "task is 'quiz'"),
        ({"task": "response"}, "a response has 2 responses"),
        ({"task": "pair", "responses": ["a", "b", "c"]}, "a pair has 3 responses"),
        ({"responses": ["a", "a"]}, "two responses are the same"),
        ({"posterior": [1.0]}, "1 values for 2 responses"),
    ],
)
def test_a_wrong_canonical_row_is_refused(change, message):
    assert normalize_example(CANONICAL, "line 1", 1)["label"] == 1
    with pytest.raises(ICFTError, match=f"line 1: .*{re.escape(message)}"):
        normalize_example({**CANONICAL, **change}, "line 1", 1)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "You are a doctor.", "question": "Why?", "answer": "so"}, "prompt and question both have a value"),
        ({"question": "2+2?", "response": "5", "answer": "4"}, "response and answer both have a value"),
        (
            {"question": "Why?", "choices": [{"text": "a", "is_correct": False}, {"text": "b", "is_correct": True}]},
            "is_correct",
        ),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "loss": False}]},
            "loss False",
        ),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": "0"}]},
            "weight 0",
        ),
    ],
)
def test_a_row_of_which_a_part_would_be_lost_is_refused(row, message):
    with pytest.raises(ICFTError, match=f"line 1.*{message}"):
        normalize_example(row, "line 1", 1)


def test_the_same_text_in_two_columns_is_read_once():
    row = {"prompt": "Why?", "question": "Why?", "completion": "so", "answer": "so"}
    assert normalize_example(row, "line 1", 1)["responses"] == ["so"]


@pytest.mark.parametrize(
    ("row", "answer"),
    [
        ({"options": {"A": "a", "B": None, "C": "c", "D": "d"}, "answer": "D"}, "d"),
        ({"options": {"A": "a", "B": None, "C": "c", "D": "d"}, "answer_idx": 2}, "c"),
        ({"option2": "b", "option3": "c", "option4": "d", "answer": "c"}, "c"),
        ({"choices": ["None", "One", "Both"], "answer": "none"}, "None"),
        ({"choices": ["Na", "K"], "answer": "NA"}, "Na"),
        ({"choices": "[18F]FDG|[11C]choline", "answer": "[11C]choline"}, "[11C]choline"),
        ({**{f"option_{letter}": f"text {letter}" for letter in "abcdefghijkl"}, "answer": "L"}, "text l"),
        ({"context": {"contexts": ["c1"]}, "choices": ["aspirin", "insulin"], "answer": "insulin"}, None),
    ],
)
def test_an_answer_names_the_option_at_its_place(row, answer):
    if answer is None:
        with pytest.raises(ICFTError, match="context is"):
            normalize_example({"question": "Which?", **row}, "line 1", 1)
        return
    example = normalize_example({"question": "Which?", **row}, "line 1", 1)
    assert example["responses"][example["label"]] == answer


def test_an_index_counts_missing_options_in_every_row(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"question": "q1", "option1": "a1", "option2": "b1", "option3": "c1", "answer": 3})
        + "\n"
        + json.dumps({"question": "q2", "option2": "b2", "option3": "c2", "answer": 2})
    )
    examples = read_examples(str(tmp_path / "a.jsonl"), options=ReadOptions(answers_from=1))
    assert [one["responses"][one["label"]] for one in examples] == ["c1", "b2"]


def test_a_context_of_spaces_is_absent():
    assert normalize_example({**GOOD, "context": "  "}, "line 1", 1)["context"] == ""


def test_lines_that_are_arrays_are_named_as_such(tmp_path):
    (tmp_path / "a.jsonl").write_text('["q", "a"]\n["q2", "a2"]\n')
    with pytest.raises(ICFTError, match="each line is an array"):
        read_examples(str(tmp_path / "a.jsonl"))


def test_medical_and_general_files_may_code_their_answers_differently():
    choices = ["heart", "lung", "skin"]
    letters = [{"question": f"Where is part {i}?", "choices": choices, "answer": "ABC"[i % 3]} for i in range(20)]
    texts = [{"question": f"What is word {i}?", "choices": choices, "answer": choices[i % 3]} for i in range(20)]
    bundle = bundle_from_files([letters], [texts])
    right = {one["responses"][one["label"]] for part in (bundle.trusted, bundle.general_memory) for one in part}
    assert right == set(choices)


def test_a_column_can_be_mapped_on_rows_that_look_like_pubmedqa():
    rows = [{"question": f"q{i}", "context": {"contexts": ["c"]}, "verdict": "yes"} for i in range(4)]
    examples = read_examples(rows, options=ReadOptions(columns={"answer": "verdict"}))
    assert examples["label"][:] == [0] * 4 and examples["responses"][0] == ["yes", "no", "maybe"]
