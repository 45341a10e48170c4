"""Evaluating a run or a model: limits and settings, what is left out, and what a run records of its data."""

import json

import pytest

from icft_lite import chat as chat_module
from icft_lite import finished_runs
from icft_lite.data.bundle import DataBundle
from icft_lite.data.groups import content_hashes
from icft_lite.data.overlap import load_seen, save_seen
from icft_lite.data.splits import read_examples
from icft_lite.errors import ICFTError, ICFTWarning
from icft_lite.finished_runs import evaluate_run
from icft_lite.modeling.adapters import save_adapter
from icft_lite.training import loop


def question(i, length=1):
    words = "word " * length
    return {"id": f"q{i}", "question": f"{words}{i}?", "choices": ["heart", "skin", "ear"], "answer": i % 3}


@pytest.fixture
def loaded(monkeypatch, base):
    """The settings that a model is loaded with; the model is the embedded one."""
    calls = []

    def load(name, load_in_4bit=True, *args):
        calls.append((name, load_in_4bit))
        return base

    monkeypatch.setattr(finished_runs, "load_base", load)
    return calls


def test_a_model_without_a_run_has_the_limits_of_a_run(loaded):
    examples = read_examples([question(i, 400) for i in range(3)])  # more than 384 tokens, the default of Encoder
    score = evaluate_run("tiny", examples)["medical"]["qa"]
    assert score["n"] == 3 and score["metric"] == "exact_match" and loaded == [("tiny", True)]
    settings = {"adapter.load_in_4bit": False, "metric": "accuracy_norm"}
    score = evaluate_run("tiny", DataBundle(general_test=examples), settings)["general"]["qa"]
    assert score["metric"] == "accuracy_norm" and loaded[1] == ("tiny", False)


def test_a_model_without_a_run_is_loaded_as_for_training(loaded):
    """`smollm2` is not quantized a second time."""
    evaluate_run("smollm2", read_examples([question(0)]))
    evaluate_run("smollm2", read_examples([question(0)]), {"adapter.load_in_4bit": True})
    assert loaded == [("smollm2", False), ("smollm2", True)]


def test_examples_that_do_not_fit_are_named(loaded):
    examples = [question(0), question(1, 600), question(2)]
    with pytest.warns(ICFTWarning, match="1 of 3 medical examples do not fit max_length = 512 .*--max-length"):
        assert evaluate_run("tiny", read_examples(examples))["medical"]["qa"]["n"] == 2
    with pytest.raises(ICFTError, match="tiny: nothing can be evaluated: all 3 examples do not fit max_length = 5 "):
        evaluate_run("tiny", read_examples(examples), {"encoding.max_length": 5})


def test_a_run_is_evaluated_with_its_own_limits_and_metric(adapted, tmp_path):
    save_adapter(adapted[0], "slow", tmp_path / "adapter")
    config = {"encoding": {"max_length": 40, "letter_options": True, "share_prompts": True}, "metric": "accuracy"}
    config |= {"adapter": {"load_in_4bit": False}, "method": "qlora"}
    (tmp_path / "report.json").write_text(json.dumps({"format": 2, "base": "tiny", "config": config}))
    examples = read_examples([question(0), question(1, 60)])
    with pytest.warns(ICFTWarning, match="1 of 2 medical examples do not fit max_length = 40"):
        score = evaluate_run(tmp_path, examples)["medical"]["qa"]
    assert (score["n"], score["metric"]) == (1, "accuracy")
    score = evaluate_run(tmp_path, examples, {"encoding.max_length": 300, "metric": "exact_match"})["medical"]["qa"]
    assert (score["n"], score["metric"]) == (2, "exact_match")


def test_a_run_records_the_prompts_of_training_and_validation(monkeypatch, tmp_path):
    parts = {
        name: read_examples([{**question(i), "topic": name} for i in range(n, n + 9)]) for n, name in enumerate("abcd")
    }
    bundle = DataBundle(trusted=parts["a"], validation=parts["b"], general_memory=parts["c"], test=parts["d"])

    def prepare(*args):
        raise ICFTError("the run starts")

    monkeypatch.setattr(loop, "prepare", prepare)
    with pytest.raises(ICFTError, match="the run starts"):
        loop.train_icft({"topics": ["a"]}, tmp_path, bundle, progress=False)
    seen = set(load_seen(tmp_path).tolist())
    expected = [set(content_hashes(parts[name]).tolist()) for name in "abcd"]
    assert seen == expected[0] | expected[1] | expected[2] and expected[3] - seen


def test_what_an_exported_base_has_seen_is_never_the_test_of_a_run_that_starts_from_it(tmp_path):
    first, second = (
        DataBundle(trusted=read_examples([question(i) for i in range(start, start + 5)])) for start in (0, 5)
    )
    save_seen(tmp_path / "base", first)
    save_seen(tmp_path / "run", second, tmp_path / "base")
    seen = set(load_seen(tmp_path / "run").tolist())
    assert seen == {*content_hashes(first.trusted).tolist(), *content_hashes(second.trusted).tolist()}
    save_seen(tmp_path / "other", second, tmp_path / "absent")
    assert len(load_seen(tmp_path / "other")) == 5


def test_the_length_of_a_chat_reply_is_an_option_with_room_for_real_models(base, monkeypatch):
    given = []

    def reply(model, tokenizer, question, **options):
        given.append(options["max_new_tokens"])
        return "yes"

    monkeypatch.setattr(chat_module, "load_run", lambda folder, adapter: base)
    monkeypatch.setattr(chat_module, "generate_reply", reply)
    for options in ({}, {"max_new_tokens": 7}):
        questions = iter(["a?", ""])
        chat_module.chat("run", read=lambda _, questions=questions: next(questions), write=lambda _: None, **options)
    assert given == [512, 7]
