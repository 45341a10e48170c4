"""Evaluation: each metric, and its independence of the other examples of a suite."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import icft_lite.evaluation as evaluation
from icft_lite.config import ICFTConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.data.samples import load_samples
from icft_lite.data.tables import to_dataset
from icft_lite.errors import ICFTError
from icft_lite.evaluation import Suite, evaluate_suite, is_short_answer, primary_metric, summarize
from icft_lite.finished_runs import evaluate_run
from icft_lite.metrics import mean_score
from icft_lite.modeling.adapters import adapter_tensors
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.generation import generate
from icft_lite.modeling.scoring import option_scores, score_responses
from icft_lite.training.batches import new_item
from icft_lite.training.examples import check_pool, harden, make_training_examples
from icft_lite.utils import progress


@pytest.fixture(scope="module")
def encoder(base):
    return Encoder(base[1])


@pytest.fixture(scope="module")
def questions():
    """40 general test questions, of every topic."""
    examples = load_samples("general_test")
    return [dict(examples[i]) for i in range(0, len(examples), len(examples) // 40)][:40]


def scores(base, examples, encoder, **kwargs):
    return evaluate_suite(*base, {"x": examples}, encoder=encoder, items=True, **kwargs)["x"]


def test_exact_match_in_one_pass_equals_exact_match_of_generated_text(base, encoder, questions):
    hard = [{**one, "id": one["id"] + "m"} for one in map(dict, load_samples("medical_validation").select(range(8)))]
    examples = questions[:32] + hard
    by_pass = scores(base, examples, encoder)["qa"]
    texts = generate(*base, encoder, examples)
    expected = {one["id"]: float(text == one["responses"][one["label"]]) for one, text in zip(examples, texts)}
    assert by_pass["items"] == expected and len(expected) == 40
    assert 5 < sum(expected.values()) < 40, "the test needs both correct and wrong answers"


def test_the_value_is_the_unweighted_mean_over_topics():
    examples = [dict(topic=topic, kind=kind, level="") for topic, kind in zip("aaab", ["rule"] * 3 + ["fact"])]
    entry = summarize("m", [1, 1, 1, 0], examples, chance=[0.2, 0.3, 0.4, 0.5])
    assert (entry["metric"], entry["value"], entry["n"], entry["chance"]) == ("m", 0.5, 4, pytest.approx(0.4))
    assert entry["by_topic"] == {
        "a": dict(value=1, chance=pytest.approx(0.3), n=3, kind="rule"),
        "b": dict(value=0, chance=0.5, n=1, kind="fact"),
    }
    assert mean_score({"qa": dict(value=0.5), "reply": dict(value=1.0)}) == 0.75


def test_option_accuracy_and_its_chance_level(base, encoder, row):
    capital = "Which city is the capital of Burundi?"
    examples = [
        row(id="a", task="question", prompt=capital, responses=["Gitega", "Paris", "Rome", "seven"], label=0),
        row(id="b", task="question", prompt=capital, responses=["Gitega", "Paris"], label=1),
        row(id="c", prompt=capital, responses=["Gitega"]),
    ]  # the last one is free text, without options
    found = scores(base, examples, encoder)
    qa, chance = found["qa"], pytest.approx((1 / 4 + 1 / 2) / 2)
    assert qa["option_accuracy"] == 0.5 and qa["option_n"] == 2 and qa["option_chance"] == chance
    assert qa["items"] == {"a": 1, "b": 0} and (qa["metric"], qa["chance"]) == ("exact_match", 0)
    assert found["short_answer"]["items"] == {"c": 1} and found["short_answer"]["metric"] == "exact_match"
    qa = scores(base, examples, encoder, metric="accuracy")["qa"]
    assert (qa["metric"], qa["value"], qa["chance"], qa["exact_match"]) == ("accuracy", 0.5, chance, 0.5)


def test_accuracy_and_accuracy_norm_are_argmax_of_the_sum_and_of_the_sum_per_character(base, encoder, questions):
    given = scores(base, questions, encoder, metric="accuracy")["qa"]["items"]
    normed = scores(base, questions, encoder, metric="accuracy_norm")["qa"]["items"]
    for one, score in zip(questions, score_responses(base[0], [encoder(one) for one in questions])):
        characters = np.array([len(text) for text in one["responses"]])
        assert given[one["id"]] == (score["logp"].argmax() == one["label"])
        assert normed[one["id"]] == ((score["logp"] / characters).argmax() == one["label"])


def test_the_metric_of_a_chat_model_is_accuracy_and_that_of_tiny_exact_match(base):
    assert primary_metric("auto", base[0]) == "exact_match"
    other = SimpleNamespace(config=SimpleNamespace(name_or_path="owner/name"))
    assert primary_metric("auto", other) == "accuracy"
    assert primary_metric("accuracy_norm", base[0]) == "accuracy_norm"


@pytest.mark.parametrize("metric", ["exact_match", "accuracy"])
def test_lettered_options_all_stay_in_suites_of_validation(base, row, metric):
    """With the right option only, its letter is always A, and a model that knows nothing scores well."""
    letters = Encoder(base[1], letter_options=True)
    capital = dict(task="question", prompt="Which city is the capital of Burundi?")
    examples = [row(id=str(i), responses=["Paris", "Rome", "Gitega", "Lima"], label=i, **capital) for i in range(4)]
    suite = Suite.from_examples(examples, letters, only_correct_option=True)
    assert [len(one["responses"]) for one in suite.examples] == [4] * 4
    complete = Suite.from_examples(examples, letters)
    assert scores(base, suite, letters, metric=metric) == scores(base, complete, letters, metric=metric)


def test_replies_can_be_scored_by_likelihood_without_generation(base, encoder, row, monkeypatch):
    monkeypatch.setattr(evaluation, "generate", None)
    long = "please go to the nearest cardiology clinic at once today"
    entry = scores(base, [row(id="a", responses=[long])], encoder, generate_replies=False)["reply"]
    (one,) = score_responses(base[0], [encoder(row(id="a", responses=[long]))])
    nll = -one["logp"][0] / one["tokens"][0]
    assert entry["metric"] == "likelihood" and entry["nll"] == pytest.approx(nll, rel=1e-6)
    assert entry["value"] == pytest.approx(np.exp(-nll), rel=1e-6)


def test_levels_are_means_over_their_topics(base, encoder, row):
    capital = dict(task="question", prompt="Which city is the capital of Burundi?", level="easy")
    options = ["Gitega", "Paris"]
    examples = [row(id=f"a{i}", topic="a", responses=options, label=0, **capital) for i in range(3)]
    examples += [row(id="b", topic="b", responses=options, label=1, **capital)]
    assert scores(base, examples, encoder)["qa"]["by_level"] == {"easy": 0.5}


def test_a_pair_is_correct_if_the_better_response_is_more_likely_per_token(base, encoder, row):
    prompt = "Which city is the capital of Burundi?"
    examples = [
        row(id="a", task="pair", prompt=prompt, responses=["Gitega", "under shoulder"], label=0),
        row(id="b", task="pair", prompt=prompt, responses=["under shoulder", "Gitega"], label=1),
        row(id="c", task="pair", prompt=prompt, responses=["Gitega", "under shoulder"], label=1),
        row(id="d", task="pair", prompt=prompt, responses=["Gitega", "Paris"], label=-1),
    ]  # the label of the last one is unknown
    entry = scores(base, examples, encoder)["preference"]
    assert entry["items"] == {"a": 1, "b": 1, "c": 0} and entry["metric"] == "pairwise_accuracy"
    (one,) = score_responses(base[0], [encoder(examples[0])])
    (means,) = option_scores(base[0], examples[:1], encoder)
    assert means == pytest.approx(one["logp"] / one["tokens"])


def test_replies_are_scored_by_key_facts_or_else_by_token_f1(base, encoder, row, monkeypatch):
    monkeypatch.setattr(evaluation, "generate", lambda *args, **kwargs: ["go to cardiology at once", "rest"])
    facts = [row(id="a", responses=["x"], facts=["cardiology", "emergency"]), row(id="b", facts=["rest"])]
    entry = scores(base, facts, encoder)["reply"]
    assert entry["metric"] == "key_fact_recall" and entry["items"] == {"a": 0.5, "b": 1.0}
    long = "please go to the nearest cardiology clinic at once today"
    plain = [row(id="a", responses=[long]), row(id="b", responses=[long])]
    entry = scores(base, plain, encoder)["reply"]
    assert entry["metric"] == "token_f1" and 0 < entry["items"]["a"] < 1 and entry["items"]["b"] == 0


def test_scores_do_not_depend_on_the_other_examples(base, encoder, questions):
    pairs = [dict(one) for one in load_samples("medical_test") if one["task"] == "pair"][:12]
    together = scores(base, questions + pairs, encoder)
    for start in range(0, 40, 13):
        alone = scores(base, questions[start : start + 13], encoder)["qa"]["items"]
        assert alone == {name: together["qa"]["items"][name] for name in alone}
    backwards = scores(base, pairs[::-1], encoder)["preference"]["items"]
    assert backwards == together["preference"]["items"]


def test_generation_does_not_depend_on_order_or_batch(base, encoder, questions):
    examples = questions[:12]
    together = generate(*base, encoder, examples, max_new_tokens=8)
    assert generate(*base, encoder, examples[::-1], max_new_tokens=8)[::-1] == together
    assert generate(*base, encoder, examples, max_new_tokens=8, batch_size=1) == together
    assert len(set(together)) > 4


def test_a_suite_of_correct_options_only_has_the_same_exact_match(base, encoder, questions):
    suites = (Suite.from_examples(questions, encoder, only_correct_option=only) for only in (False, True))
    all_options, one_option = (scores(base, suite, encoder)["qa"] for suite in suites)
    assert all_options["items"] == one_option["items"]
    assert "option_accuracy" in all_options and "option_accuracy" not in one_option


@pytest.mark.parametrize("metric", ["acc_norm", "foo"])
def test_a_metric_that_does_not_exist_is_refused(base, encoder, row, metric):
    with pytest.raises(ICFTError, match=f"metric: '{metric}' is unknown; choose one of auto, exact_match, accuracy"):
        evaluate_suite(*base, {"x": [row()]}, encoder=encoder, metric=metric)


def test_examples_that_do_not_fit_are_left_out_with_a_warning(base, encoder, row):
    examples = [row(id="a"), row(id="long", prompt="very " * 600)]
    with pytest.warns(UserWarning, match="x: 1 of 2 examples do not fit max_length = 512 tokens: left out"):
        found = evaluate_suite(*base, {"x": examples}, encoder=encoder)["x"]
    assert found["short_answer"]["n"] == 1
    assert encoder.max_length == ICFTConfig().encoding.max_length, "what a run trains on is scored without an encoder"


def test_a_progress_bar_counts_every_example_that_is_scored(base, encoder, questions, row, monkeypatch):
    bars = []

    class Bar(progress.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "delay": 0})
            if not self.disable:
                bars.append(self)

    monkeypatch.setattr(progress, "tqdm", Bar)
    pairs = [dict(one) for one in load_samples("medical_test") if one["task"] == "pair"][:3]
    replies = [row(id="r", responses=["a reply of more than eight words, so it is generated first"])]
    suites = {"general": questions[:9], "medical": [*pairs, *replies]}
    evaluate_suite(*base, suites, encoder=encoder, progress=True)
    evaluate_suite(*base, suites, encoder=encoder)
    assert [(bar.n, bar.total) for bar in bars] == [(13, 13)], "without progress, nothing is shown"


def test_empty_suites_and_unlabeled_examples_are_left_out(base, encoder, row):
    unknown = row(task="question", responses=["a", "b"], label=-1)
    found = evaluate_suite(*base, {"none": None, "empty": [], "x": [unknown]}, encoder=encoder)
    assert found == {}


def test_the_chosen_adapter_is_evaluated(adapted, base, shake, encoder, questions):
    shake(adapted[0], "slow", 0.3)
    before = [tensor.clone() for tensor in adapter_tensors(adapted[0], "fast")]
    as_base, fast, slow = (
        scores(adapted, questions[:12], encoder, adapter=name)["qa"] for name in ("base", "fast", "slow")
    )
    assert as_base == fast == scores(base, questions[:12], encoder)["qa"]
    assert slow["value"] < as_base["value"] and adapted[0].active_adapter == "fast"
    assert all((a == b).all() for a, b in zip(before, adapter_tensors(adapted[0], "fast")))


def test_a_model_can_be_evaluated_without_a_run():
    examples = load_samples("general_test").select(range(6))
    found = evaluate_run("tiny", DataBundle(test=examples))
    assert set(found) == {"medical"} and found["medical"]["qa"]["n"] == 6


@pytest.mark.parametrize(
    "columns, short",
    [
        (dict(responses=["one two three four five six seven eight"]), True),
        (dict(responses=["one two three four five six seven eight nine"]), False),
        (dict(responses=["rest"], facts=["rest"]), False),
        (dict(task="question", responses=["yes", "no"]), False),
    ],
)
def test_short_free_answers_are_scored_by_exact_match(row, columns, short):
    assert is_short_answer(row(**columns)) == short


# ---------------------------------------------------------------- labels of the weak pool


def most_likely_response(example):
    return example["responses"][int(np.argmax(example["posterior"]))]


def test_tied_labels_are_dropped_where_hard_labels_are_trained_on(adapted, encoder):
    pool = load_samples("medical_pool").select(range(0, 400, 100))
    sizes = dict(zip(pool["id"], map(len, pool["responses"])))
    tied, clear = list(sizes)[:2], list(sizes)[2:]
    even = {name: [1 / sizes[name]] * sizes[name] for name in tied}
    data = DataBundle(pool=pool, posteriors=even | {name: np.eye(sizes[name])[-1].tolist() for name in clear})
    examples, report = make_training_examples(data, ICFTConfig(), adapted[0], encoder)
    assert sorted(examples["id"]) == sorted(clear) and report["dropped_tied"] == 2
    examples, report = make_training_examples(data, ICFTConfig.preset("soft_labels"), adapted[0], encoder)
    assert sorted(examples["id"]) == sorted(sizes) and "dropped_tied" not in report


def test_gold_labels_are_used_only_by_the_label_model_gold(adapted, encoder, row):
    pool = load_samples("medical_pool").select(range(0, 900, 90))
    gold = {name: int(len(options) > 2) for name, options in zip(pool["id"], pool["responses"])}
    data = DataBundle(pool=pool, pool_gold=gold)
    examples, report = make_training_examples(
        data, ICFTConfig.preset("soft_labels", {"weak.label_model": "gold"}), adapted[0], encoder
    )
    assert len(examples) == 10 and report["accuracy"] == 1
    correct = {name: options[gold[name]] for name, options in zip(pool["id"], pool["responses"])}
    assert all(most_likely_response(one) == correct[one["id"]] and max(one["posterior"]) == 1 for one in examples)
    own_lfs, soft = dict.fromkeys(pool["id"], "samples"), ICFTConfig.preset("soft_labels")
    weak, report = make_training_examples(replace(data, own_lfs=own_lfs), soft, adapted[0], encoder)
    without_gold, _ = make_training_examples(DataBundle(pool=pool, own_lfs=own_lfs), soft, adapted[0], encoder)
    assert [one["posterior"] for one in weak] == [one["posterior"] for one in without_gold]
    assert all(sum(one["posterior"]) == pytest.approx(1) for one in weak)
    assert len(weak) + report["dropped_unvoted"] == 10


@pytest.mark.parametrize(
    "given, message",
    [
        ({"q": [0.9]}, "give a probability for each of its 2"),
        ({"q": [0.0, 0.0]}, "that of example q is"),
        ({"q": [3.0, 5.0]}, "that of example q is"),
        ({"q": [float("nan")] * 2}, "that of example q is"),
        ({"q": [1.5, -0.5]}, "that of example q is"),
        ({"other": [0.5, 0.5]}, "'other' and all other ids are not in the pool"),
    ],
)
def test_posteriors_that_are_no_probabilities_of_the_pool_are_refused(row, given, message):
    question = row(id="q", task="question", responses=["a", "b"], label=-1)
    data = DataBundle(pool=to_dataset([question]), posteriors=given)
    with pytest.raises(ICFTError, match=message):
        check_pool(data, ICFTConfig())
    check_pool(DataBundle(pool=to_dataset([question]), posteriors={"q": [0.25, 0.75], "gone": []}), ICFTConfig())
    with pytest.raises(ICFTError, match="trusted: example q has no label"):
        check_pool(DataBundle(trusted=to_dataset([question])), ICFTConfig())


def test_hard_labels_turn_weak_examples_into_responses(adapted, encoder):
    pool = load_samples("medical_pool").select(range(0, 900, 90))
    posteriors = {
        name: [0.1] + [0.9] + [0.0] * (len(options) - 2) for name, options in zip(pool["id"], pool["responses"])
    }
    examples, _ = make_training_examples(
        DataBundle(pool=pool, posteriors=posteriors),
        ICFTConfig(),
        adapted[0],
        encoder,
    )
    assert all(one["task"] == "response" and one["posterior"] == [pytest.approx(0.9)] for one in examples)
    assert [one["responses"] for one in examples] == [[options[1]] for options in pool["responses"]]


def test_lettered_questions_with_hard_labels_list_their_options_and_have_no_task_loss(adapted, row):
    question = row(task="question", responses=["a", "b", "c"], posterior=[0.1, 0.7, 0.2], label=-1)
    assert harden(question) == {**question, "task": "response", "responses": ["b"], "label": 0, "posterior": [0.7]}
    assert harden(question, lettered=True) == question
    labelled = {**question, "posterior": [], "label": 2}
    assert harden(labelled)["responses"] == ["c"] and harden(labelled)["posterior"] == []
    encoder = Encoder(adapted[1], letter_options=True)
    item = new_item(question, encoder(question), "new", soft=False)
    assert (item.weak, item.token_weight, item.posterior) == ("", [0.0, 1.0, 0.0], [0.0, 1.0, 0.0])


def test_options_of_low_posterior_are_left_out_of_training(adapted, encoder):
    pool = load_samples("medical_pool").select(range(0, 900, 90))
    probabilities = [0.72, 0.24, 0.03, 0.01]
    posteriors = {
        name: probabilities[: len(options) - 1] + [1 - sum(probabilities[: len(options) - 1])]
        for name, options in zip(pool["id"], pool["responses"])
    }
    data = DataBundle(pool=pool, posteriors=posteriors)
    examples, report = make_training_examples(
        data, ICFTConfig.preset("soft_labels", {"weak.min_posterior": 0.05}), adapted[0], encoder
    )
    questions = [one for one in examples if one["task"] == "question"]
    assert report["uncertain_questions"] == sum(len(one["responses"]) > 1 for one in questions) == len(questions) > 0
    for one, task, options in zip(examples, pool["task"], pool["responses"]):
        retained = [k for k, p in enumerate(posteriors[one["id"]]) if p >= 0.05 or task == "pair"]
        total = sum(posteriors[one["id"]][k] for k in retained)
        assert one["responses"] == [options[k] for k in retained]
        assert one["posterior"] == pytest.approx([posteriors[one["id"]][k] / total for k in retained])
    lettered, _ = make_training_examples(
        data,
        ICFTConfig.preset("soft_labels", {"weak.min_posterior": 0.05, "encoding.letter_options": True}),
        adapted[0],
        encoder,
    )
    assert lettered["responses"][:] == pool["responses"][:], "the prompt lists the options, so none is left out"
    only, report = make_training_examples(
        data, ICFTConfig.preset("soft_labels", {"weak.min_posterior": 0.9}), adapted[0], encoder
    )
    assert report["uncertain_questions"] == 0
    assert all(len(one["responses"]) == (2 if one["task"] == "pair" else 1) for one in only), (
        "the most likely option is always retained"
    )
