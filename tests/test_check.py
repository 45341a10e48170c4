"""`icft-lite check`: what it finds in data, before anything trains. The data here are our own."""

import json
import random
import time

import pytest
from small_model import family_model

from icft_lite import cli
from icft_lite.check import check_data, check_fit, find_duplicates
from icft_lite.config import ICFTConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.data.overlap import near_duplicates
from icft_lite.data.sources import bundle_from_files
from icft_lite.data.splits import read_examples
from icft_lite.modeling.base import load_tokenizer
from icft_lite.reporting.check_text import format_lines

WORDS = "the patient has had a dry cough and a mild fever for three days without any other sign of illness".split()
CHOICES = ["rest", "tea", "pills"]


def replies(n, name="Term", **columns):
    return [{"prompt": f"What is {name} {i}?", "completion": f"It is {name} {i}.", **columns} for i in range(n)]


def text(i, words=WORDS):
    """Return a text of many words; those of different numbers have few consecutive words in common."""
    return " ".join(random.Random(i).sample(words, len(words)))


@pytest.fixture
def run(capsys):
    def call(*words):
        code = cli.main([str(word) for word in words])
        out = capsys.readouterr()
        return code, out.out, out.err

    return call


# --- near-duplicates


def test_near_duplicates_are_found_and_others_are_not():
    texts = [text(i) for i in range(200)]
    changed = {i: f"{texts[i]} today".replace(",", "") for i in range(0, 200, 10)}
    assert near_duplicates([*texts, *changed.values()]) == [(i, 200 + n) for n, i in enumerate(changed)]
    templates = [f"What is {i} plus {i + 1}?" for i in range(100)]
    assert near_duplicates(templates) == near_duplicates([]) == near_duplicates(["a"]) == []
    assert near_duplicates(["Which drug treats gout?", "which drug, treats gout"]) == [(0, 1)]
    assert near_duplicates(["What is 3 + 4 here?", "What is 3 - 4 here?"]) == []


def test_the_time_is_linear_also_if_many_texts_agree():
    texts = [f"{' '.join(WORDS)} {i}" for i in range(1500)]
    start = time.process_time()
    pairs = near_duplicates(texts)
    assert {j for _, j in pairs} == set(range(1, 1500)) and time.process_time() - start < 10


def test_overlap_is_between_training_and_held_out_examples():
    train = read_examples([{**row, "id": f"t{i}"} for i, row in enumerate(replies(5) + replies(1))])
    held_out = replies(2) + [{"prompt": "WHAT is  term 4?", "completion": "x"}, {"prompt": text(1), "completion": "x"}]
    test = read_examples([{**row, "id": f"h{i}"} for i, row in enumerate(held_out)])
    pool = read_examples([{"id": "p", "question": f"{text(1)} now", "choices": CHOICES}])
    found = find_duplicates({"trusted": train, "pool": pool, "test": test})
    assert (found["exact"], found["overlap"], found["near_overlap"]) == (3, 3, 1), "t5, h0 and h1 are copies"
    assert found["pairs"] == [("h0", "t0"), ("h1", "t1"), ("h2", "t4"), ("h3", "p")]
    assert find_duplicates({"trusted": train})["overlap"] == 0


def test_copies_with_another_answer_contradict():
    ask = [{"question": f"Where is part {i}?", "choices": CHOICES, "answer": CHOICES[0]} for i in range(4)]
    turned = [{**one, "choices": CHOICES[::-1]} for one in ask[:3]]  # a copy: the order of the options does not matter
    turned[0]["answer"] = CHOICES[1]
    pairs = [{"prompt": "Why?", "chosen": "a", "rejected": "b"}, {"prompt": "Why?", "chosen": "b", "rejected": "a"}]
    train = read_examples([{**row, "id": f"t{i}"} for i, row in enumerate(ask + turned)])
    found = find_duplicates({"trusted": train})
    assert (found["exact"], found["contradictory"]) == (3, 1)
    found = find_duplicates({"trusted": read_examples(pairs)})
    assert (found["exact"], found["contradictory"]) == (1, 1)


def test_a_model_with_too_few_positions_is_refused_before_training(tmp_path):
    load_tokenizer("tiny").save_pretrained(tmp_path)
    family_model("GPT-2", n_positions=128).config.save_pretrained(tmp_path)
    data = bundle_from_files(replies(30), [])
    refusal = check_fit(data, ICFTConfig.from_dict({"model": str(tmp_path)}))["refusal"]
    assert "gpt2 has 128 positions" in refusal
    fits = ICFTConfig.from_dict({"model": str(tmp_path), "encoding.max_length": 128})
    assert check_fit(data, fits)["refusal"] is None


# --- facts of a bundle


@pytest.fixture
def bundle():
    long = " ".join(WORDS * 8)
    trusted = [
        *(
            {"question": f"Case {i}: what helps?", "choices": CHOICES, "answer": i % 2, "context": long}
            for i in range(3)
        ),
        *({"question": f"{long} {i}?", "choices": CHOICES, "answer": 2} for i in range(2)),
        *(
            {"messages": [{"role": r, "content": f"{c} {i}"} for r, c in zip(["user", "assistant"] * 2, "abcd")]}
            for i in range(4)
        ),
    ]
    return DataBundle(trusted=read_examples(trusted), test=read_examples(replies(3, id=None)))


def test_lengths_truncation_and_left_out_examples_are_counted_by_role(bundle):
    facts = check_fit(bundle, ICFTConfig.from_dict({"encoding.max_length": 100}))
    roles = facts["roles"]
    counts = {name: (one["n"], one["truncated"], one["left_out"]) for name, one in roles.items()}
    assert counts == {"trusted": (9, 3, 2), "test": (3, 0, 0)} and facts["refusal"] is None
    assert roles["trusted"]["tasks"] == {"question": 5, "response": 4}
    assert roles["trusted"]["tokens"]["max"] > 250 > 100 > roles["test"]["tokens"]["max"] > 5
    lines = "\n".join(format_lines(facts))
    assert "trusted" in lines and "tiny; max_length = 100" in lines and "end of turn" not in lines
    short = check_fit(bundle, ICFTConfig.from_dict({"encoding.max_length": 5}))
    assert short["refusal"].startswith("none of the 9 training examples fits encoding.max_length = 5")


def test_the_tokens_of_one_example_of_each_shape_are_shown_and_what_is_trained(bundle):
    facts = check_data(bundle)
    shapes = [example["shape"] for example in facts["examples"]]
    assert shapes == ["question with context", "question", "response with earlier turns", "response"]
    for example in facts["examples"]:
        trained = "".join(token["text"] for token in example["tokens"] if token["trained"])
        assert trained.count("<|end|>") == 1 and trained.endswith("<|end|>")
    by_shape = {example["shape"]: example for example in facts["examples"]}
    conversation = by_shape["response with earlier turns"]["tokens"]
    assert "".join(token["text"] for token in conversation if token["trained"]).strip() == "d 0<|end|>"
    assert (
        "".join(token["text"] for token in by_shape["question"]["tokens"] if token["trained"]).strip() == "pills<|end|>"
    )


def test_label_balance_names_classes_and_unequal_positions():
    questions = [
        {"id": f"q{i}", "question": f"Part {i}?", "choices": [f"a{i}", f"b{i}", f"c{i}"], "answer": 0 if i < 25 else 1}
        for i in range(30)
    ]
    decisions = [
        {"id": f"d{i}", "question": f"Is it {i}?", "choices": ["yes", "no"], "answer": "yes" if i < 9 else "no"}
        for i in range(10)
    ]
    facts = check_data(DataBundle(trusted=read_examples(questions), validation=read_examples(decisions)))
    assert facts["labels"] == {"trusted": {"option 1": 25, "option 2": 5}, "validation": {"yes": 9, "no": 1}}
    (finding,) = [one for one in facts["findings"] if "position" in one]
    assert "number 1 in 25 of 30 questions, by chance it would be in 10" in finding


def test_special_tokens_in_texts_are_refused_after_the_facts_are_shown(run, write):
    path = write("ends.jsonl", [{**row, "completion": "It helps.<|end|>"} for row in replies(20)])
    code, out, err = run("check", path)
    assert code == 2 and "20 prompt + completion" in out and "trusted" in out
    assert err.count("\n") == 1 and "'<|end|>'" in err and "(20 examples cannot be encoded)" in err


def test_an_end_of_turn_that_the_data_repeat_would_be_found(monkeypatch, bundle):
    """The encoder never makes one; the check looks at the tokens, not at the encoder's intention."""

    def doubled(example, encoder):
        tokens = original(example, encoder)
        return [*tokens, tokens[-1]]

    module = check_data.__globals__  # tests of the command line put another module in its place
    original = module["_tokens"]
    monkeypatch.setitem(module, "_tokens", doubled)
    assert "its reply ends with two ends of turn" in check_data(bundle)["findings"][-1]


def test_a_pool_without_labelling_functions_is_refused_with_a_file_that_works(run, write):
    pool = write("pool.jsonl", [{"question": f"What helps {i}?", "choices": CHOICES} for i in range(9)])
    code, out, err = run("check", write("mine.jsonl", replies(20)), pool)
    message, _, example = err.partition("\n\n")
    assert code == 2 and "--lfs FILE.py" in message and "9 question + choices" in out
    lfs = write("lfs.py", example)
    assert run("check", write("mine.jsonl", replies(20)), pool, "--lfs", lfs)[0] == 0


@pytest.mark.parametrize(
    "body, message",
    [
        ("return True", "labelling function f, example pool-1: voted True"),
        ("return 7", "labelling function f, example pool-1: voted 7"),
        ("return example['score']", "labelling function f, example pool-1: KeyError: 'score'"),
        ("return -1\nraise SystemExit(3)", "lfs.py:4: SystemExit: 3; fix the file"),
    ],
)
def test_labelling_functions_are_tried_before_anything_trains(run, write, body, message):
    pool = write("pool.jsonl", [{"question": f"What helps {i}?", "choices": CHOICES} for i in range(3)])
    head = "from icft_lite import labeling_function as lf\n"
    first, _, last = body.partition("\n")
    lfs = write("lfs.py", f"{head}@lf\ndef f(example): {first}\n{last}\n")
    code, _, err = run("check", write("mine.jsonl", replies(20)), pool, "--lfs", lfs)
    assert code == 2 and message in err and err.count("\n") == 1


def test_any_number_of_columns_may_be_unused_and_a_mapping_may_be_one_text_of_a_file(run, write):
    rows = [{"Frage": row["prompt"], "completion": row["completion"], "rating": 1, "weight": 2} for row in replies(20)]
    data, mapping = write("a.jsonl", rows), "prompt=Frage,unused=rating,unused=weight"
    for words in (("--map", mapping), ("--config", write("c.yaml", f"map: {mapping}\n"))):
        code, out, _ = run("check", data, *words, "--json")
        source = json.loads(out)["sources"][0]
        assert code == 0 and source["columns_used"] == ["Frage as prompt", "completion"]


# --- the command


def test_json_has_the_facts_of_the_text(run, write):
    data, general = write("a.jsonl", replies(30)), write("g.jsonl", replies(20, "Fact"))
    code, out, _ = run("check", data, "--general", general, "--json", "--set", "encoding.max_length=64")
    facts = json.loads(out)
    assert code == 0 and facts["max_length"] == 64 and facts["sources"][0]["shapes"] == {"prompt + completion": 30}
    assert {role: one["n"] for role, one in facts["roles"].items()} == {
        "trusted": 24, "validation": 3, "test": 3, "general_memory": 16, "general_validation": 2, "general_test": 2
    }  # fmt: skip
    _, out, _ = run("check", data, "--general", general)
    assert out.startswith(f"{data}\n  rows             30 prompt + completion\n") and out.endswith("no findings\n")
    assert "end of turn: '<|end|>'" in out and "general_memory" in out and max(map(len, out.splitlines())) < 130


def test_reading_options_by_option_and_by_file(run, write):
    rows = [
        {"Frage": f"Wo ist Teil {i}?", "Optionen": ["Herz", "Haut", "Ohr"], "Antwort": 1 + i % 2} for i in range(20)
    ]
    data = write("de.jsonl", rows)
    columns = "--map", "question=Frage,choices=Optionen, answer=Antwort"
    code, _, err = run("check", data, *columns)
    assert code == 2 and "--answers-from 0 or 1" in err
    facts = json.loads(run("check", data, *columns, "--answers-from", 1, "--json")[1])
    assert facts["sources"][0]["answer_coding"] == "index from 1" and "option 3" not in str(facts["labels"])
    config = write(
        "c.yaml", "map: {question: Frage, choices: Optionen, answer: Antwort}\nanswers_from: 0\nturns: all\n"
    )
    facts = json.loads(run("check", data, "--config", config, "--json")[1])
    assert facts["sources"][0]["answer_coding"] == "index from 0"
    assert (
        json.loads(run("check", data, "--config", config, "--answers-from", 1, "--json")[1])["sources"][0][
            "answer_coding"
        ]
        == "index from 1"
    )


def test_turns_all_makes_an_example_of_every_reply(run, write):
    talk = [
        {"messages": [{"role": r, "content": f"{c} {i}"} for r, c in zip(["user", "assistant"] * 2, "abcd")]}
        for i in range(10)
    ]
    path = write("talk.jsonl", talk)
    for options, n in (((), 10), (("--turns", "all"), 20)):
        roles = json.loads(run("check", path, *options, "--json")[1])["roles"]
        assert sum(one["n"] for one in roles.values()) == n


@pytest.mark.parametrize(
    "words, message",
    [
        (["--answers-from", "2"], "answers_from: '2' is not possible; give 0 or 1"),
        (["--turns", "first"], "turns: 'first' is not possible; give last or all"),
        (["--map", "question"], "--map question: write it as NAME=COLUMN"),
        (["--map", "question=a,question=b"], "--map question=b: its name or its column is given twice"),
        (["--map", "question=a,answer=a"], "--map answer=a: its name or its column is given twice"),
        (["--map", "qestion=a"], "did you mean question=a?"),
        (["--lfs", "gone.py"], "gone.py"),
        (["--model", "gone/model"], "cannot be loaded"),
        (["--turn", "all"], "did you mean --turns?"),
    ],
)
def test_wrong_options_give_one_line(run, write, words, message):
    code, _, err = run("check", write("a.jsonl", replies(20)), *words)
    assert code == 2 and message in err and err.count("\n") == 1
