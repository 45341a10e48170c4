"""Public suites: the same log-likelihoods and scores as lm-evaluation-harness."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from icft_lite.cli import main
from icft_lite.errors import ICFTError
from icft_lite.experiments.public_suites import (
    SUITES,
    Question,
    encode_questions,
    lm_eval_scores,
    read_questions,
    summarize,
)
from icft_lite.modeling.base import load_base
from icft_lite.modeling.scoring import score_responses

FOLDER = Path(__file__).parent / "fixtures" / "lm_eval"
EXPECTED = json.loads((FOLDER / "expected.json").read_text())["suites"]
FILES = {name: FOLDER / f"{name}.jsonl" for name in EXPECTED}
METRICS = ("acc", "acc_norm", "perplexity")
needs_lm_eval = pytest.mark.skipif(not importlib.util.find_spec("lm_eval"), reason="lm_eval: extra `bench`")


@pytest.fixture(scope="module")
def tiny():
    return load_base("tiny", load_in_4bit=False)


def check_agreement(model, tokenizer, files, expected, limit=None):
    suites = {name: read_questions(name, file, limit) for name, file in files.items()}
    for name, scores in lm_eval_scores(model, tokenizer, suites).items():
        assert scores == pytest.approx(
            {metric: expected[name][metric] for metric in METRICS if metric in expected[name]} | {"n": scores["n"]},
            rel=1e-4,
        )
        logps = [one["logp"] for one in score_responses(model, encode_questions(suites[name], tokenizer, 512))]
        assert len(logps) == len(expected[name]["samples"]) == scores["n"]
        for logp, reference in zip(logps, expected[name]["samples"], strict=True):
            assert logp == pytest.approx(np.array(reference), abs=2e-3) and logp.argmax() == np.argmax(reference)


def test_scores_are_those_that_lm_eval_has_recorded(tiny):
    assert EXPECTED["arc_easy"]["acc"] != EXPECTED["arc_easy"]["acc_norm"] and EXPECTED["lambada_openai"]["acc"] > 0
    check_agreement(*tiny, FILES, EXPECTED)


@pytest.mark.parametrize("suite", ["arc_easy_test", "piqa_validation", "openbookqa_test", "commonsense_qa_validation"])
def test_scores_on_100_questions_are_those_that_lm_eval_has_recorded(tiny, real_data, suite):
    """`expected_100.json` has lm-eval's log-likelihoods of the first 100 questions of each file, not their texts."""
    expected = json.loads((FOLDER / "expected_100.json").read_text())["suites"]
    files = {suite.rpartition("_")[0]: real_data / "general" / f"{suite}.jsonl"}
    check_agreement(*tiny, files, expected, limit=100)


@pytest.fixture
def reference(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    return importlib.import_module("lm_eval_reference").reference


@pytest.mark.slow
@needs_lm_eval
def test_the_recorded_scores_are_those_of_the_installed_lm_eval(tiny, reference):
    found = reference(*tiny, FILES)
    for name, scores in found.items():
        for one, other in zip(scores["samples"], EXPECTED[name]["samples"], strict=True):
            assert one == pytest.approx(other, abs=2e-3)


@pytest.mark.slow
@needs_lm_eval
@pytest.mark.smollm2
@pytest.mark.parametrize("name", ["arc_easy_test", "piqa_validation", "openbookqa_test", "commonsense_qa_validation"])
def test_a_real_model_gets_the_scores_of_lm_eval_on_100_questions(smollm2, real_data, reference, name):
    files = {name.rpartition("_")[0]: real_data / "general" / f"{name}.jsonl"}
    check_agreement(*smollm2, files, reference(*smollm2, files, limit=100), limit=100)


def test_prompts_of_other_columns_are_the_same():
    """Files with the columns question, choices and answer; CommonsenseQA may list its options in the question."""
    flat = dict(question="Where is  bread?", choices=["garage", "bakery"], answer="bakery")
    published = dict(
        question="Where is  bread?", choices=dict(text=["garage", "bakery"], label=["1", "2"]), answerKey="2"
    )
    for name in ("arc_easy", "arc_challenge", "openbookqa", "commonsense_qa"):
        assert read_questions(name, [flat]) == read_questions(name, [published])
    listed = dict(question="Where is  bread?\nChoices:\nA. garage\nB. bakery\nAnswer:", choices=["A", "B"], answer="B")
    asked = Question("Question: Where is  bread?\nA. garage\nB. bakery\nAnswer:", ["A", "B"], 1)
    assert read_questions("commonsense_qa", [listed]) == read_questions("commonsense_qa", [flat]) == [asked]
    piqa = dict(goal="Where is  bread?", sol1="garage", sol2="bakery", label=1)
    assert read_questions("piqa", [flat]) == read_questions("piqa", [piqa])


def test_accuracy_and_its_norm_by_hand():
    questions = [Question("q", ["a", "bbbb"], 0), Question("q", ["a", "bbbb"], 1)]
    scores = [dict(logp=np.array([-1.0, -2.0]), greedy=np.array([False, False]))] * 2
    assert summarize(SUITES["piqa"], questions, scores) == dict(acc=0.5, acc_norm=0.5, n=2)
    assert summarize(SUITES["piqa"], questions[:1], scores[:1]) == dict(acc=1.0, acc_norm=0.0, n=1)
    words = [dict(logp=np.array([np.log(p)]), greedy=np.array([p > 0.4])) for p in (0.5, 0.125)]
    found = summarize(SUITES["lambada_openai"], [Question("q", ["a"], 0)] * 2, words)
    assert found == dict(acc=0.5, perplexity=pytest.approx(4.0), n=2)


def test_the_end_of_a_long_question_is_scored(tiny):
    """lm-eval cuts the beginning. Options are never cut, and shared prompts change nothing."""
    model, tokenizer = tiny
    questions = [Question("one two " * 300 + "three", ["four five", "six"], 0)]
    (cut,) = encode_questions(questions, tokenizer, 64)
    (separate,) = encode_questions(questions, tokenizer, 64, share_prompts=False)
    (whole,) = encode_questions(questions, tokenizer, 10_000, share_prompts=False)
    assert max(map(len, separate.sequences)) == 64 and separate.sequences[0] == whole.sequences[0][-64:]
    one, other = (score_responses(model, [encoded])[0]["logp"] for encoded in (cut, separate))
    assert one == pytest.approx(other, abs=1e-3)


@pytest.mark.parametrize(
    "suite, rows, message",
    [
        ("arc", [{}], "suite 'arc' is unknown; choose among arc_easy, "),
        ("piqa", [dict(goal="a")], "example 1: not a question of piqa .*found the columns goal; "),
        ("arc_easy", [dict(question="a", choices=["b"], answer="c")], "example 1: not a question of arc_easy"),
        ("lambada_openai", [dict(text="one")], "example 1: the question or an option is empty"),
        ("piqa", [], "no questions"),
        ("piqa", [dict(goal="a", sol1="b", sol2="c", label=-1)], "example 1: the right option is number -1 of 2"),
        ("hellaswag", [dict(question="a", choices=["b"], answer="b")], "give the data set as published$"),
    ],
)
def test_wrong_files_are_refused(suite, rows, message):
    with pytest.raises(ICFTError, match=message):
        read_questions(suite, rows)


def test_the_command_scores_suites(capsys):
    line = ["evaluate", "tiny", "--no-4bit", "--json", "--limit", "3", "--lm-eval"]
    assert main([*line, *(f"{name}={FILES[name]}" for name in ("piqa", "arc_easy"))]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["piqa", "arc_easy"] and found["piqa"]["n"] == 3
    assert found["piqa"] == {"acc": pytest.approx(2 / 3), "acc_norm": pytest.approx(1 / 3), "n": 3}
    assert main([*line, "arc=x.jsonl"]) == 2 and "suite 'arc' is unknown" in capsys.readouterr().err
