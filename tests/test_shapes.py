"""Shapes of data as people have them: read with the right value, or refused with the place and the fix."""

import gzip
import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel, Dataset, DatasetDict

from icft_lite.data.readers import read_sources
from icft_lite.data.schema import ReadOptions
from icft_lite.data.splits import read_examples
from icft_lite.errors import ICFTError

OPTIONS = ["iron", "zinc", "copper", "lead"]
ASK = "Which metal is in hemoglobin?"
PARTS = [{"text": text, "label": label} for text, label in zip(OPTIONS, "ABCD")]


def ask(**columns):
    return {"question": ASK, "choices": OPTIONS, **columns}


def asks(*answers, name="answer", **columns):
    return [ask(**{name: answer, **columns}) for answer in answers]


def opa(**columns):
    return {"question": ASK, **dict(zip(("opa", "opb", "opc", "opd"), OPTIONS)), **columns}


def say(*contents, **extra):
    return [{"role": ("user", "assistant")[i % 2], "content": text, **extra} for i, text in enumerate(contents)]


def right(source, **options):
    """The text of the right response of each example; None without a label."""
    (found,) = read_sources([source], options=ReadOptions(**options))
    pairs = zip(found.examples["responses"], found.examples["label"])
    return [texts[label] if label >= 0 else None for texts, label in pairs]


def summary(source, **options):
    return read_sources([source], options=ReadOptions(**options))[0].summary


def refused(source, *parts, **options):
    with pytest.raises(ICFTError) as caught:
        read_sources(source if isinstance(source, tuple) else [source], options=ReadOptions(**options))
    message = str(caught.value)
    assert "\n" not in message and all(part in message for part in parts), message


# ---------------------------------------------------------------- how answers name an option


@pytest.mark.parametrize(
    "rows, coding, expected",
    [
        (asks("zinc", "Lead"), "text", ["zinc", "lead"]),
        (asks("A", "d"), "letter", ["iron", "lead"]),
        (asks("(B)", "C."), "letter", ["zinc", "copper"]),
        (asks(0, 2), "index from 0", ["iron", "copper"]),
        (asks(1, 4), "index from 1", ["iron", "lead"]),
        (asks("1", "4"), "index from 1", ["iron", "lead"]),
        (asks(1.0, 0.0, float("nan")), "index from 0", ["zinc", "iron", None]),
        (asks(1, 4, -1, None), "index from 1", ["iron", "lead", None, None]),
        (asks(2, 0, name="label"), "index from 0", ["copper", "iron"]),
        (asks("A", "C", name="answerKey"), "letter", ["iron", "copper"]),
        (asks("B", name="answer_idx"), "letter", ["zinc"]),
        (asks("lead", name="correct_answer"), "text", ["lead"]),
        ([opa(cop=3), opa(cop=0)], "index from 0", ["lead", "iron"]),
        ([opa(cop=3), opa(cop=4), opa(cop=-1)], "index from 1", ["copper", "lead", None]),
        ([opa(cop=4, ope="gold"), opa(cop=0, ope="gold")], "index from 0", ["gold", "iron"]),
        ([{"question": ASK, **dict(zip("ABCD", OPTIONS)), "answer": "D"}], "letter", ["lead"]),
        ([{"question": ASK, "option1": "iron", "option2": "zinc", "answer": "2"}], "index from 1", ["zinc"]),
        ([ask(choices={"text": OPTIONS, "label": list("1234")}, answerKey="3")], "letter", ["copper"]),
        ([ask(choices={"text": OPTIONS, "label": list("ABCD")}, answerKey="D")], "letter", ["lead"]),
        ([{"question": ASK, "options": dict(zip("ABCD", OPTIONS)), "answer_idx": "C"}], "letter", ["copper"]),
        ([{"question": {"stem": ASK, "choices": PARTS}, "answerKey": "C"}], "letter", ["copper"]),
        ([{"question": ASK, "sol1": "iron", "sol2": "zinc", "label": 0}], "index from 0", ["iron"]),
        ([ask(choices=[True, False], answer=False)], "text", ["false"]),
        ([ask(choices=["no", "yes", "maybe"], answer=True)], "text", ["yes"]),
        (asks("C", "A", choices=["C", "D", "A", "B"]), "text", ["C", "A"]),
        ([*asks("C", choices=["C", "D", "A", "B"]), *asks("B")], "letter", ["A", "zinc"]),
        (asks(4, 9, choices=[2, 4, 9]), "text", ["4", "9"]),
        (asks("2", choices=["1", "2", "3"]), "text", ["2"]),
    ],
)  # fmt: skip
def test_the_coding_of_answers_is_decided_over_all_rows(rows, coding, expected):
    assert right(rows) == expected and summary(rows).answer_coding == coding


def test_rows_with_different_answer_columns_are_all_labelled():
    rows = [*asks("A", "D", name="answerKey"), *asks("iron", "zinc")]
    assert right(rows) == ["iron", "lead", "iron", "zinc"]
    assert summary(rows).answer_coding == "letter (answerKey), text (answer)"
    refused([ask(answer="iron", answer_idx="B")], "example 1: answer and answer_idx name different choices")


@pytest.mark.parametrize("name, make", [("answer", ask), ("cop", opa)])
def test_numbers_that_no_row_settles_are_refused_with_both_readings(name, make):
    rows = [make(**{name: 1}), make(**{name: 3})]
    refused(rows, f"example 1: {name} 1 may mean", "'zinc' as index from 0", "'iron' as index from 1", "--answers-from")
    assert right(rows, answers_from=0) == ["zinc", "lead"] and right(rows, answers_from=1) == ["iron", "copper"]


def test_numbers_that_are_also_options_are_refused_unless_a_row_or_the_user_settles_it():
    rows = asks(1, 2, choices=[1, 2, 3])
    refused(rows, "answer 1 may mean '1' as text and '2' as index from 0")
    assert right(rows, answers_from=0) == ["2", "3"]
    assert right([*rows, *asks(9, choices=[9, 4, 3])]) == ["1", "2", "9"]


def test_a_csv_cannot_distinguish_numbers_from_texts(write):
    refused(write("n.csv", "question,choices,answer\nHow many?,2|1|4,1\n"), "line 2: answer '1' may mean")
    refused(write("m.csv", "question,A,B,C,answer\nHow many?,2,1,4,1\n"), "line 2: answer '1' may mean")


@pytest.mark.parametrize(
    "rows, message",
    [
        (asks("A", "zinc"), "example 2: answer 'zinc' is a choice's text, but answer 'A' at example 1 is its letter"),
        (asks(0, 4), "example 2: answer 4 is a choice's index from 1"),
        (asks("gold"), "example 1: answer 'gold' is not among its choices"),
        (asks(5), "example 1: answer 5 is not among"),
        (asks("9" * 400), "example 1: answer '999"),
        (asks(True), "example 1: answer True is not among"),
        (asks(["A", "B"]), "example 1: the answer is ['A', 'B']"),
        ([ask(completion="Iron, of course.")], "completion 'Iron, of course.' is not among"),
    ],
)
def test_answers_without_a_common_coding_are_refused(rows, message):
    refused(rows, message)


@pytest.mark.parametrize(
    "choices, answer, expected",
    [
        (["4.0", "8.0", "1.0", "2.0"], "4.0", "4.0"),
        (["5.0", "3.0", "2.0", "1.0"], "3.0", "3.0"),
        (["007", "008"], "007", "007"),
        (["-1", "0", "1"], "-1", "-1"),
        (["iron", "zinc"], "1.0", "zinc"),
        (["2", "1"], "2.0", "2"),
    ],
)
def test_an_answer_that_is_an_option_is_that_option_however_numbers_are_written(choices, answer, expected):
    settles = ask(answer="copper") if expected in ("4.0", "3.0", "007", "-1", "2") else ask(answer=0)
    rows = [{"question": ASK, "choices": choices, "answer": answer}, settles]
    assert right(rows)[0] == expected


def test_answers_of_another_numbering_than_the_user_says_are_refused():
    refused(asks(1, 4), "example 2: answer 4 is not among", "counted from 0", answers_from=0)


def test_files_with_the_same_columns_have_one_coding(write):
    one, other = write("one.jsonl", asks(1, 4)), write("other.jsonl", asks(1, 2))
    found = read_sources([one, other])
    assert [read.examples["label"][:] for read in found] == [[0, 3], [0, 1]]
    assert {read.summary.answer_coding for read in found} == {"index from 1"}
    zero = write("zero.jsonl", asks(0, 2))
    refused((one, zero), "zero.jsonl line 1", "index from 0", "one.jsonl line 1", "index from 1")
    apart = write("apart.jsonl", asks(0, 2, topic="metals"))
    assert [read.summary.answer_coding for read in read_sources([one, apart])] == ["index from 1", "index from 0"]


def test_an_index_of_an_option_without_text_is_left_out():
    rows = [opa(cop=2, opc=""), opa(cop=0, opd="zinc"), opa(cop=3, opd="zinc")]
    assert right(rows) == ["iron", "zinc"] and summary(rows).left_out == {"the right option is empty": 1}
    assert right([opa(cop=i, ope=None) for i in (2, 4)]) == ["zinc", "lead"], "an empty column of a fifth option"


def test_original_medmcqa_is_counted_from_1(real_data):
    path = real_data / "medmcqa" / "medmcqa_dev.jsonl"
    rows = {row["id"]: row for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}
    (found,) = read_sources([path])
    texts = [rows[name][f"op{'abcd'[rows[name]['cop'] - 1]}"].strip() for name in found.examples["id"]]
    assert right(path) == texts and len(texts) == 4182 and found.summary.answer_coding == "index from 1"


# ---------------------------------------------------------------- absent values and values that are not text


@pytest.mark.parametrize("absent", [None, float("nan"), "", "nan", "None", "N/A", []])
def test_absent_values_are_absent_columns(absent):
    row = {"prompt": "p", "completion": "c", **dict.fromkeys(("context", "topic", "entity", "id", "level"), absent)}
    example = read_examples([{**row, "question": None, "choices": None, "label": None}])[0]
    assert [example[name] for name in ("context", "topic", "entity", "id", "level")] == ["", "row", "", "row-1", ""]
    assert example["task"] == "response" and example["responses"] == ["c"]


def test_missing_cells_of_a_csv(write):
    text = f"question,choices,answer,context\n{ASK},None|zinc,None,nan\n{ASK},iron|zinc,N/A,x\nWhy?,a|b,,NULL\n"
    found = read_examples(write("a.csv", text))
    assert found["label"][:] == [0, -1, -1] and found["context"][:] == ["", "x", ""]
    refused(write("b.csv", "prompt,completion\np,nan\n"), "line 2: completion is missing")


def test_choices_of_json_may_be_the_word_none():
    assert right([ask(choices=["None", "zinc"], answer="None")]) == ["None"]


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "p", "completion": ["a", "b"]}, "completion is ['a', 'b'], which is not text"),
        ({"prompt": "p", "completion": {"text": "a"}}, "completion is {'text': 'a'}, which is not text"),
        ({"prompt": float("nan"), "completion": "c"}, "prompt is missing"),
        ({"prompt": "p", "completion": True}, "completion is True, which is not text"),
        ({"prompt": "p", "completion": "c", "context": {"a": 1}}, "context is {'a': 1}"),
        ({"prompt": "p", "completion": "c", "topic": True}, "topic is True"),
        ({"question": ASK, "choices": [["a"], "b"], "answer": 0}, "a choice is ['a'], which is not text"),
        ({"prompt": "p", "completion": "c \ud83d"}, "'\\ud83d' is half of a character"),
    ],
)
def test_values_that_are_not_text_are_refused_with_their_place(row, message):
    refused([{"prompt": "p", "completion": "c"}, row], f"example 2: {message}")


def test_a_context_of_several_texts_is_joined_by_blank_lines_and_noted():
    rows = [{"prompt": "p", "completion": 5, "context": ["First.", "Second."]}]
    example = read_examples(rows)[0]
    assert example["context"] == "First.\n\nSecond." and example["responses"] == ["5"]
    assert summary(rows).notes == ["context is a list of texts, which are joined by blank lines (count: 1)"]


# ---------------------------------------------------------------- columns that change the meaning


@pytest.mark.parametrize("good, bad", [(True, False), ("True", "False")])
@pytest.mark.parametrize("name", ["label", "desirable"])
def test_replies_that_are_marked_as_bad_are_left_out(good, bad, name):
    rows = [
        {"prompt": "p", "completion": "good", name: good},
        {"prompt": "p", "completion": "bad", name: bad},
        {"messages": say("p", "bad as well"), name: bad},
    ]
    assert right(rows) == ["good"] and summary(rows).left_out == {"the reply is marked as bad": 2}
    refused(rows[1:], "no examples", "2 left out: the reply is marked as bad")
    unmarked = [{"prompt": "p", "completion": "not reviewed", name: None}, {"prompt": "q", "completion": "nor this"}]
    refused([*rows, *unmarked], "example 4: nothing says whether the reply is good, as at example 1", "2 of 5")
    assert right(unmarked) == ["not reviewed", "nor this"], "a column without any value is absent"


def test_a_winner_is_the_label_and_a_tie_is_left_out():
    winners = ["model_a", "model_b", "tie", None, "b"]
    rows = [{"prompt": f"{i}?", "response_a": "x", "response_b": "y", "winner": it} for i, it in enumerate(winners)]
    assert right(rows) == ["x", "y", None, "y"] and summary(rows).left_out == {"the winner is a tie": 1}
    refused([{**rows[0], "winner": 1}], "winner is 1")


@pytest.mark.parametrize(
    "name",
    "rating score weight winner correct gold answerKey answer_idx correct_answer label history option1 opa images "
    "tools helpfulness answers correctOption better_response_id IS_CORRECT".split(),
)
def test_columns_that_change_the_meaning_are_refused_where_no_shape_uses_them(name):
    row = {"prompt": "p", "completion": "c", name: 1}
    refused([row], "example 1", name, f"--map unused={name}")
    assert right([row], columns={"unused": name}) == ["c"]
    assert right([{**row, name: None}]) == ["c"]


def test_all_unused_columns_that_change_the_meaning_are_named_in_their_order():
    row = {"prompt": "p", "chosen": "x", "rejected": "y", "rating": [9, 7], "url": "u", "weight": 1, "tools": "[]"}
    refused([row], "column rating ([9, 7])", "--map unused=rating,unused=weight)")


@pytest.mark.parametrize("name", ["passage", "article", "premise"])
def test_a_passage_is_the_context(name):
    assert read_examples([ask(answer="B", **{name: "Iron is red."})])["context"][:] == ["Iron is red."]
    refused([ask(answer="B", context="c", **{name: "Iron is red."})], f"--map unused={name}")


@pytest.mark.parametrize("mark", ["<|im_end|>", "</s>", "[INST]", "<end_of_turn>"])
def test_marks_of_a_chat_template_in_the_text_are_noted(mark):
    rows = [{"prompt": "p", "completion": f"c {mark}"}, {"prompt": "p", "completion": "if a < s and b > |c|"}]
    assert summary(rows).notes == [f"the text has marks of a chat template, such as {mark}; remove them (count: 1)"]


def test_other_columns_are_ignored_and_listed():
    rows = [{"prompt": "p", "completion": "c", "long_answer": "It is c.", "url": "x", "note": None}]
    found = read_examples(rows)
    assert "long_answer" not in found.column_names
    assert (summary(rows).columns_used, summary(rows).columns_ignored) == (
        ["prompt", "completion"],
        ["long_answer", "url"],
    )


def test_pubmedqa_keeps_its_conclusion_next_to_other_shapes():
    pubmedqa = {
        "question": "Does it?",
        "context": {"contexts": ["Seen."]},
        "long_answer": "Yes.",
        "final_decision": "yes",
    }
    found = read_examples([{"prompt": "p", "completion": "c", "long_answer": "x"}, pubmedqa])
    assert found["long_answer"][:] == [None, "Yes."] and found["context"][:] == ["", "Seen."]


# ---------------------------------------------------------------- conversations


@pytest.mark.parametrize(
    "row",
    [
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {"messages": [{"role": "Human", "content": "q"}, {"role": "bot", "content": "a"}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "model", "content": "a"}]},
        {"prompt": "q", "response": "a"},
        {"instruction": "q", "input": "", "output": "a"},
        {"question": "q", "answer": "a"},
        {"input": "q", "output": "a"},
        {"prompt": say("q"), "completion": [{"role": "assistant", "content": "a"}]},
        {"prompt": "\n\nHuman: q\n\nAssistant:", "completion": " a"},
        {"messages": [{"role": "system", "content": ""}, *say("q", "a")]},
        {"question": {"stem": "q"}, "answer": "a"},
    ],
)
def test_forms_of_one_conversation_give_the_same_example(row):
    example = read_examples([row])[0]
    assert (example["prompt"], example["responses"], example["history"], example["label"]) == ("q", ["a"], [], 0)


def test_instruction_input_and_system_are_part_of_the_prompt():
    rows = [
        {"instruction": "Be brief.", "input": "Why?", "output": "So."},
        {"instruction": "Be brief.", "question": "Why?", "answer": "So."},
        {"system": "You are a nurse.", "prompt": "Why?", "completion": "So."},
        {"system_prompt": "You are a nurse.", "conversations": say("Why?", "So.")},
    ]
    found = read_examples(rows)
    assert found["prompt"][:] == ["Be brief.\n\nWhy?"] * 2 + ["Why?"] * 2
    assert found["history"][2:] == [[{"role": "system", "content": "You are a nurse."}]] * 2


def test_the_last_reply_or_every_reply_of_a_conversation():
    turns = [{"role": "system", "content": "s"}, *say("a", "b", "c", "d", "thanks")]
    rows = [{"id": "x", "messages": turns}, {"messages": say("e", "f")}]
    (last,) = read_sources([rows])
    assert last.examples["prompt"][:] == ["c", "e"] and last.examples["history"][0] == turns[:3]
    assert last.summary.notes == ["turns after the last reply are not used (count: 1)"]
    found = read_sources([rows], options=ReadOptions(turns="all"))[0].examples
    assert found["id"][:] == ["x/turn1", "x/turn2", "row-2/turn1"]
    assert found["prompt"][:] == ["a", "c", "e"] and found["responses"][:] == [["b"], ["d"], ["f"]]
    assert found["history"][:] == [turns[:1], turns[:3], []]


@pytest.mark.parametrize("name", ["response", "completion"])
def test_a_conversation_that_ends_with_the_user_has_its_reply_in_another_column(name):
    turns = [dict(role="user", content="My knee hurts."), dict(role="assistant", content="Which side?")]
    turns.append(dict(role="user", content="Left."))
    (example,) = read_examples([{"messages": turns, name: "See a doctor."}])
    assert (example["prompt"], example["responses"]) == ("Left.", ["See a doctor."])
    assert [turn["content"] for turn in example["history"]] == ["My knee hurts.", "Which side?"]
    (single,) = read_examples([{"messages": turns[:1], name: "See a doctor."}])
    assert (single["prompt"], single["responses"]) == ("My knee hurts.", ["See a doctor."])


def test_whole_numbers_that_pandas_stores_as_floats_are_written_as_whole_numbers():
    frame = pd.DataFrame({"question": ["2 + 2?", "none", "half?"], "answer": [4, None, 0.5]}).dropna()
    assert [one["responses"] for one in read_examples(frame)] == [["4"], ["0.5"]]
    assert right([{"prompt": "Ten to the power of 400?", "completion": 10**400}]) == ["1" + "0" * 400]


def test_consecutive_turns_of_one_role_are_joined_and_noted():
    rows = [{"messages": [*say("Hello"), *say("a", "b")]}]
    assert read_examples(rows)["prompt"][:] == ["Hello\n\na"]
    assert summary(rows).notes == ["consecutive user turns are joined by a blank line (count: 1)"]


CALL = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}


@pytest.mark.parametrize(
    "turns, message",
    [
        ([*say("q"), CALL, *say("q", "a")], "turn 2 of messages has tool_calls"),
        ([*say("q"), {"role": "tool", "content": "x"}], "turn 2 of messages has the role 'tool'"),
        ([*say("q"), {"role": "assistant", "content": "a", "weight": 0}], "turn 2 of messages has weight 0"),
        (
            [{"role": "user", "content": [{"type": "image_url"}]}],
            "turn 1 of messages: its content has a part of the type",
        ),
        ([{"role": "system", "content": None}], "messages must be a list of objects with role and content"),
        (say("q"), "messages must contain a user turn and then an assistant turn, found user"),
        ([{"role": "user", "content": ""}], "turn 1 of messages: its content is empty"),
        ("q", "messages must be a list"),
    ],
)
def test_turns_whose_content_would_be_lost_are_refused_by_row_and_id(turns, message):
    refused([{"messages": say("q", "a")}, {"id": "z9", "messages": turns}], "example 2 (id z9)", message)


# ---------------------------------------------------------------- preference pairs

HISTORY = say("a", "b", "c")
HH = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": say("a", "b", "c", "good"), "rejected": say("a", "b", "c", "bad")},
        {"prompt": "a", "chosen": say("a", "b", "c", "good"), "rejected": say("a", "b", "c", "bad")},
        {"prompt": HISTORY, "chosen": say("c", "good")[1:], "rejected": say("c", "bad")[1:]},
        {"prompt": HISTORY, "chosen": "good", "rejected": "bad", "messages": say("c", "good"), "score_chosen": 1},
        {"chosen": HH + "good", "rejected": HH + "bad"},
        {"prompt": HH, "chosen": "good", "rejected": "bad"},
        {
            "conversation_a": say("a", "b", "c", "good"),
            "conversation_b": say("a", "b", "c", "bad"),
            "winner": "model_a",
        },
    ],
)
def test_pairs_of_conversations_keep_their_turns(row):
    example = read_examples([row])[0]
    assert (example["task"], example["prompt"], example["label"]) == ("pair", "c", 0)
    assert example["history"] == HISTORY[:2] and example["responses"] == ["good", "bad"]


def test_a_question_can_be_the_prompt_of_a_pair():
    example = read_examples([{"question": "q", "chosen": "good", "rejected": "bad"}])[0]
    assert (example["task"], example["prompt"], example["responses"]) == ("pair", "q", ["good", "bad"])


@pytest.mark.parametrize(
    "row, message",
    [
        ({"prompt": "q", "chosen": "x", "rejected": " x"}, "chosen and rejected are the same"),
        ({"chosen": "x", "rejected": "y"}, "prompt is missing"),
        ({"chosen": say("a", "x", "c", "y"), "rejected": say("a", "z", "c", "y")}, "except for the last turn"),
        (
            {"prompt": "other", "chosen": say("a", "x"), "rejected": say("a", "y")},
            "the prompt 'other' is not in the turns of chosen",
        ),
        ({"prompt": "q", "chosen": "x", "rejected": "y", "label": 1}, "column label (1)"),
    ],
)
def test_pairs_that_prefer_nothing_or_differ_too_early_are_refused(row, message):
    refused([row], f"example 1: {message}" if "prompt" in row else message)


# ---------------------------------------------------------------- files and objects

ROWS = [
    {"prompt": "größer?", "completion": "yes", "topic": None},
    {"prompt": "why?", "completion": "so; yes", "topic": "x"},
]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
TABLE = pd.DataFrame(ROWS)
EXAMPLES = [("größer?", ["yes"], "t"), ("why?", ["so; yes"], "x")]


@pytest.mark.parametrize(
    "name, content",
    [
        ("t.ndjson", LINES.encode()),
        ("t.json", LINES.encode()),
        ("t.json", json.dumps(ROWS, indent=2).encode()),
        ("t.jsonl", json.dumps(ROWS).encode("utf-8-sig")),
        ("t.json", TABLE.to_json().encode()),
        ("t.json", json.dumps(TABLE.to_dict("list")).encode()),
        ("t.json", TABLE.to_json(orient="index").encode()),
        ("t.json", json.dumps({"data": ROWS}).encode()),
        ("t.jsonl.gz", gzip.compress(LINES.encode())),
        ("t.csv.gz", gzip.compress(TABLE.to_csv(index=False).encode())),
        ("t.jsonl", LINES.encode("utf-16")),
        ("t.jsonl", LINES.encode("utf-16-le")),
        ("t.csv", TABLE.to_csv(index=False).encode("utf-16")),
        ("t.csv", TABLE.to_csv(index=False, sep=";", na_rep="NaN").encode("utf-8-sig")),
        ("t.csv", TABLE.to_csv(sep="\t", lineterminator="\r\n").encode()),
        ("t.tsv", TABLE.to_csv(index=False, sep="\t").encode()),
        ("t.csv", TABLE.rename(columns={"prompt": " Prompt ", "topic": "Topic"}).to_csv(index=False).encode()),
        ("t.csv", b"sep=;\r\n" + TABLE.to_csv(index=False, sep=";").encode()),
        ("t.csv", TABLE.to_csv(index=False).encode() + b",,\r\n,,\r\n"),
        ("t.csv", TABLE[["topic", "prompt", "completion"]].to_csv(index=False).replace("yes", "yes,,").encode()),
        ("t.parquet", TABLE.assign(choices=None, context=np.nan).to_parquet()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",  # the bytes of gzip contain the time
)
def test_files_are_read_by_their_content(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content)
    found = read_examples(path)
    assert list(zip(found["prompt"], found["responses"], found["topic"])) == EXAMPLES


def test_a_json_file_of_one_row(write):
    assert right(write("a.json", json.dumps({"prompt": "p", "completion": "c"}))) == ["c"]
    assert right(write("b.json", json.dumps({"messages": say("a", "b")}))) == ["b"]


@pytest.mark.parametrize("make", [list, tuple, lambda rows: TABLE, Dataset.from_list])
def test_objects_in_memory_are_sources(make):
    found = read_sources([make(ROWS)])[0].examples
    assert found["prompt"][:] == ["größer?", "why?"] and found["topic"][:] == ["row", "x"]


def test_a_frame_of_arrays_and_a_dataset_of_canonical_examples_are_sources(tmp_path):
    pd.DataFrame([ask(answer=0), ask(answer=None)]).to_parquet(tmp_path / "a.parquet")
    frame = pd.read_parquet(tmp_path / "a.parquet")
    assert type(frame["choices"][0]) is np.ndarray and right(frame) == ["iron", None]
    canonical = read_examples([ask(answer="zinc", id="q"), {"id": "m", "messages": say("a", "b", "c", "d")}])
    assert read_examples(canonical).to_list() == canonical.to_list()
    refused(DatasetDict(train=canonical), "found a DatasetDict", "data['train']")
    for other in (None, 5, iter(ROWS), canonical.to_iterable_dataset()):
        refused(other, f"found a {type(other).__name__}, expected a path")
    refused(pd.concat([TABLE, TABLE[["topic"]]], axis=1), "two columns are named topic")


def test_classes_of_a_dataset_are_read_by_their_names():
    words = {"choices": ["no", "yes"]}
    data = Dataset.from_list([ask(answer=0, **words), ask(answer=-1, **words), ask(answer=None, **words)])
    assert right(data.cast_column("answer", ClassLabel(names=["yes", "no"]))) == ["yes", None, None]


@pytest.mark.parametrize(
    "cell", ["\"['iron', 'zinc']\"", '"[""iron"", ""zinc""]"', "iron|zinc", "\"{'A': 'iron', 'B': 'zinc'}\""]
)
def test_a_cell_of_a_csv_holds_a_list(write, cell):
    assert right(write("a.csv", f"question,choices,answer\n{ASK},{cell},B\n")) == ["zinc"]


def test_a_cell_of_a_csv_holds_messages_as_python_writes_them(tmp_path):
    pd.DataFrame([{"messages": say("a", "b")}]).to_csv(tmp_path / "a.csv", index=False)
    assert right(tmp_path / "a.csv") == ["b"]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", f"question,choices,answer\n{ASK},['iron' 'zinc'],A\n", "line 2: \"['iron' 'zinc']\" is neither"),
        ("a.csv", "prompt,prompt,completion\na,b,c\n", "line 1: two columns are named prompt"),
        ("a.jsonl", '{"prompt": "p", "Prompt ": "q", "completion": "c"}\n', "line 1: two columns are named prompt"),
        ("a.jsonl", '\n{"prompt": "p", "completion": "c\\udc00"}\n', "a.jsonl line 2: '\\udc00' is half"),
        ("a.json", '{"version": 1, "data": []}', "found an object with version, data"),
        ("a.csv", 'prompt,completion\na,b\n"c" d,e\n', "a.csv line 3: broken CSV"),
        ("a.csv", 'prompt,completion\na,b\n"c,d\ne,f\n', "a.csv line 3: broken CSV"),
        ("a.csv", "question,choices,answer\nWhy?,a; b,a\n", "expected two or more different texts (in a CSV: a JSON"),
        ("a.jsonl", "[" * 10**5 + "\n", "a.jsonl"),
        ("a.jsonl", '{"prompt": "p", "completion": ' + "9" * 5000 + "}\n", "a.jsonl line 1: JSON that cannot be read"),
        ("a.xlsx", "PK", "files of this kind are not read"),
    ],
)
def test_files_that_cannot_be_read_are_refused_with_the_fix(write, name, content, message):
    refused(write(name, content), message)


def test_a_broken_gzip_file_is_refused(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(LINES.encode() * 99)[:-20])
    refused(path, "a.jsonl.gz: cannot be read (EOFError")


# ---------------------------------------------------------------- names of columns


def test_other_names_are_mapped_and_suggested(write):
    path = write("a.csv", f"Frage,Antwort,Thema\n{ASK},iron,metals\n")
    refused(path, "line 2: columns Frage, Antwort, Thema fit no format", "--map question=Frage,answer=Antwort")
    names = {"question": "Frage", "answer": "Antwort", "topic": "Thema"}
    assert read_sources([path], options=ReadOptions(columns=names))[0].examples["topic"][:] == ["metals"]
    assert summary(path, columns=names).columns_used == ["Frage as question", "Antwort as answer", "Thema as topic"]
    refused(path, "no such column as in --map topic=Tema", "Antwort, Frage, Thema", columns={**names, "topic": "Tema"})
    refused(path, "nothing is read under the name Qestion", columns={"Qestion": "Frage"})
    refused(path, "did you mean question=Frage?", columns={"Frage": "question"})
    refused(path, "--map unused=rating;", columns={**names, "unused rating": "rating"})
    options = {"q": ASK, "A": "iron", "B": "zinc", "key": "A"}
    refused([options], "--map question=q,answer=COLUMN (")
    refused(path, "no such column as in --map question=Frge", columns={**names, "question": "Frge"})
    refused(write("b.jsonl", [{"stem": "x", "reason": "y"}]), "--map question=COLUMN,answer=COLUMN")
    refused(write("c.jsonl", [{"ctx": "x", "endings": ["y", "z"], "label": 0}]), "--map question=ctx,choices=endings (")
    refused(write("d.jsonl", [{"question": "x", "correct_answer": "y"}]), "--map answer=correct_answer (")


@pytest.mark.parametrize("option", [{"answers_from": 2}, {"turns": "first"}])
def test_options_that_are_not_possible_are_refused(option):
    with pytest.raises(ICFTError, match="is not possible; give"):
        ReadOptions(**option)


def test_a_mapped_column_replaces_one_that_has_the_name(write):
    rows = [{"prompt": "p", "completion": "short", "full": "a long reply"}]
    assert right(rows, columns={"completion": "full"}) == ["a long reply"]
    assert summary(rows, columns={"completion": "full"}).columns_ignored == ["completion as completion (replaced)"]
    other = write("other.jsonl", [{"prompt": "p", "completion": "c"}])
    found = read_sources([rows, other], options=ReadOptions(columns={"completion": "full"}))
    assert [read.examples["responses"][0] for read in found] == [["a long reply"], ["c"]]


# ---------------------------------------------------------------- ids


def test_ids_that_are_made_never_clash_and_stay_the_same_for_one_file(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "train.jsonl").write_text(LINES, encoding="utf-8")
    (tmp_path / "train.csv").write_text(TABLE.to_csv(index=False), encoding="utf-8")
    paths = [tmp_path / "a/train.jsonl", tmp_path / "b/train.jsonl", tmp_path / "train.csv"]
    found = [read.examples["id"][:] for read in read_sources(paths)]
    assert found == [["train-1", "train-2"], ["train#2-1", "train#2-2"], ["train#3-2", "train#3-3"]]
    assert read_examples(paths[1])["id"][:] == ["train-1", "train-2"]
    assert {read.examples["topic"][0] for read in read_sources(paths)} == {"train"}
    assert len(set(read_examples(paths)["id"])) == 6
    refused((paths[0], paths[0]), "train.jsonl: the same source is given more than once")


def test_whole_numbers_are_ids_without_a_decimal_point():
    table = pd.DataFrame({"id": [1, None], "prompt": ["p", "q"], "completion": ["c", "d"]})
    assert read_sources([table])[0].examples["id"][:] == ["1", "row-2"]


# ---------------------------------------------------------------- documentation


def test_the_tables_of_shapes_in_the_documentation_are_current():
    path = Path(__file__).parents[1] / "scripts" / "data_shapes.py"
    spec = importlib.util.spec_from_file_location("data_shapes", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = script.PAGE.read_text(encoding="utf-8")
    assert script.replace_tables(page, script.tables()) == page, "run python scripts/data_shapes.py"


# ---------------------------------------------------------------- values that are empty, repeated or JSON


CANONICAL = dict(task="question", prompt="Why?", responses=["a", "b"], label=-1)


@pytest.mark.parametrize(
    "label, posterior, message",
    [
        (-1, ["0.5", "0.5"], "the posterior is"),
        (-1, {"a": 1, "b": 2}, "the posterior is"),
        (-1, 3, "the posterior is 3; give a list of 2 probabilities"),
        (-1, [1.5, -0.5], "the posterior is"),
        (-1, [None, 1], "the posterior is"),
        (-1, [1.0], "the posterior [1.0] has 1 values for 2 responses"),
        (-1, [0.9, 0.9], "with the sum 1.80; give a probability for each"),
        (0, [0.2, 0.8], "label 0 is not the most likely response"),
    ],
)
def test_a_posterior_that_is_none_is_refused(label, posterior, message):
    refused([dict(CANONICAL, label=label, posterior=posterior)], message)


def test_a_posterior_that_is_one_is_read():
    for label, posterior in ((-1, [0.25, 0.75]), (1, [0, 1]), (-1, [])):
        assert read_examples([dict(CANONICAL, label=label, posterior=posterior)])["posterior"][:] == [posterior]


def test_an_empty_list_is_no_value_and_a_repeated_option_is_one_option():
    rows = [
        {"question": ASK, "choices": ["x", "y", "x"], "answer": "y"},
        {"question": ASK, "choices": ["x", "y", "x", "z"], "answer": "z"},
        {"question": ASK, "choices": [], "answer": "free text"},
        {"prompt": ASK, "completion": "a reply", "messages": []},
    ]
    found = read_examples(rows[:2])
    assert found["responses"][:] == [["x", "y"], ["x", "y", "z"]] and found["label"][:] == [1, 2]
    index = [dict(rows[1], answer=2 + n) for n in range(2)]  # indices of the list as it is
    assert read_examples(index, options=ReadOptions(answers_from=0))["label"][:] == [0, 2]
    assert right([rows[2]]) == ["free text"] and right([rows[3]]) == ["a reply"]


@pytest.mark.parametrize("reply", ['[{"type": "drug", "name": "aspirin"}]', '[{"value": 3, "unit": "mg"}]'])
def test_a_reply_of_a_csv_that_is_json_is_a_text(tmp_path, reply):
    pd.DataFrame({"prompt": [ASK], "completion": [reply]}).to_csv(tmp_path / "a.csv", index=False)
    assert right(tmp_path / "a.csv") == [reply]
