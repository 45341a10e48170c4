"""Scores: what each metric means, and that it never depends on company."""

import numpy as np
import pytest

import icft_lite.evaluation as evaluate
from icft_lite.config import ICFTConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.data.samples import load_samples
from icft_lite.evaluation import Suite, evaluate_suite, summarize
from icft_lite.metrics import mean_score
from icft_lite.modeling.adapters import adapter_tensors
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.generation import generate
from icft_lite.modeling.scoring import option_scores, score_responses
from icft_lite.runs import evaluate_run
from icft_lite.training.examples import make_training_examples


@pytest.fixture(scope="module")
def encoder(base):
    return Encoder(base[1])


@pytest.fixture(scope="module")
def questions():
    """40 general test questions, of every topic."""
    rows = load_samples("general_test")
    return [dict(rows[i]) for i in range(0, len(rows), len(rows) // 40)][:40]


def scores(base, rows, encoder, **kwargs):
    return evaluate_suite(*base, {"x": rows}, encoder=encoder, items=True, **kwargs)["x"]


def test_exact_match_in_one_pass_is_what_generation_writes(base, encoder, questions):
    hard = [{**one, "id": one["id"] + "m"} for one in map(dict, load_samples("medical_validation").select(range(8)))]
    rows = questions[:32] + hard
    by_pass = scores(base, rows, encoder)["qa"]
    written = generate(*base, encoder, rows)
    by_hand = {row["id"]: float(text == row["responses"][row["label"]]) for row, text in zip(rows, written)}
    assert by_pass["items"] == by_hand and len(by_hand) == 40
    assert 5 < sum(by_hand.values()) < 40, "the base gets some right and some wrong, else this shows nothing"


def test_the_value_is_the_unweighted_mean_over_topics():
    entry = summarize("m", [1, 1, 1, 0], ["a", "a", "a", "b"], ["rule", "rule", "rule", "fact"])
    assert (entry["metric"], entry["value"], entry["n"]) == ("m", 0.5, 4)
    assert entry["by_topic"] == {"a": dict(value=1, n=3, kind="rule"), "b": dict(value=0, n=1, kind="fact")}
    assert mean_score({"qa": dict(value=0.5), "reply": dict(value=1.0)}) == 0.75


def test_option_accuracy_and_its_floor(base, encoder, row):
    capital = "Which city is the capital of Burundi?"
    rows = [
        row(id="a", task="question", prompt=capital, responses=["Gitega", "Paris", "Rome", "seven"], label=0),
        row(id="b", task="question", prompt=capital, responses=["Gitega", "Paris"], label=1),
        row(id="c", prompt=capital, responses=["Gitega"]),
    ]  # free text: no options
    qa = scores(base, rows, encoder)["qa"]
    assert qa["option_accuracy"] == 0.5 and qa["option_n"] == 2
    assert qa["option_floor"] == pytest.approx((1 / 4 + 1 / 2) / 2)
    assert qa["items"] == {"a": 1, "b": 0, "c": 1} and qa["n"] == 3


def test_levels_are_means_over_their_topics(base, encoder, row):
    capital = dict(task="question", prompt="Which city is the capital of Burundi?", level="easy")
    options = ["Gitega", "Paris"]
    rows = [row(id=f"a{i}", topic="a", responses=options, label=0, **capital) for i in range(3)]
    rows += [row(id="b", topic="b", responses=options, label=1, **capital)]
    assert scores(base, rows, encoder)["qa"]["by_level"] == {"easy": 0.5}


def test_a_pair_is_right_if_the_better_response_is_likelier_per_token(base, encoder, row):
    prompt = "Which city is the capital of Burundi?"
    rows = [
        row(id="a", task="pair", prompt=prompt, responses=["Gitega", "under shoulder"], label=0),
        row(id="b", task="pair", prompt=prompt, responses=["under shoulder", "Gitega"], label=1),
        row(id="c", task="pair", prompt=prompt, responses=["Gitega", "under shoulder"], label=1),
        row(id="d", task="pair", prompt=prompt, responses=["Gitega", "Paris"], label=-1),
    ]  # not labelled
    entry = scores(base, rows, encoder)["preference"]
    assert entry["items"] == {"a": 1, "b": 1, "c": 0} and entry["metric"] == "pairwise_accuracy"
    (one,) = score_responses(base[0], [encoder(rows[0])])
    (means,) = option_scores(base[0], rows[:1], encoder)
    assert means == pytest.approx(one["logp"] / one["tokens"])


def test_replies_are_scored_by_their_key_facts_else_by_words(base, encoder, row, monkeypatch):
    monkeypatch.setattr(evaluate, "generate", lambda *args, **kwargs: ["go to cardiology at once", "rest"])
    facts = [row(id="a", responses=["x"], facts=["cardiology", "emergency"]), row(id="b", facts=["rest"])]
    entry = scores(base, facts, encoder)["reply"]
    assert entry["metric"] == "key_fact_recall" and entry["items"] == {"a": 0.5, "b": 1.0}
    long = "please go to the nearest cardiology clinic at once today"
    plain = [row(id="a", responses=[long]), row(id="b", responses=[long])]
    entry = scores(base, plain, encoder)["reply"]
    assert entry["metric"] == "token_f1" and 0 < entry["items"]["a"] < 1 and entry["items"]["b"] == 0


def test_scores_do_not_depend_on_who_else_is_in_the_suite(base, encoder, questions):
    pairs = [dict(one) for one in load_samples("medical_test") if one["task"] == "pair"][:12]
    together = scores(base, questions + pairs, encoder)
    for at in range(0, 40, 13):
        alone = scores(base, questions[at : at + 13], encoder)["qa"]["items"]
        assert alone == {name: together["qa"]["items"][name] for name in alone}
    backwards = scores(base, pairs[::-1], encoder)["preference"]["items"]
    assert backwards == together["preference"]["items"]


def test_generation_does_not_depend_on_order_or_batch(base, encoder, questions):
    rows = questions[:12]
    together = generate(*base, encoder, rows, max_new_tokens=8)
    assert generate(*base, encoder, rows[::-1], max_new_tokens=8)[::-1] == together
    assert generate(*base, encoder, rows, max_new_tokens=8, batch=1) == together
    assert len(set(together)) > 4


def test_a_suite_with_right_answers_only_gives_the_same_exact_match(base, encoder, questions):
    whole, brief = (scores(base, Suite.of(questions, encoder, options=some), encoder)["qa"] for some in (True, False))
    assert whole["items"] == brief["items"] and "option_accuracy" in whole and "option_accuracy" not in brief


def test_empty_suites_and_unlabelled_rows_are_left_out(base, encoder, row):
    unknown = row(task="question", responses=["a", "b"], label=-1)
    found = evaluate_suite(*base, {"none": None, "empty": [], "x": [unknown]}, encoder=encoder)
    assert found == {"x": {}}


def test_the_adapter_that_is_asked_for_is_scored(adapted, base, shake, encoder, questions):
    shake(adapted[0], "slow", 0.3)
    before = [tensor.clone() for tensor in adapter_tensors(adapted[0], "fast")]
    as_base, fast, slow = (
        scores(adapted, questions[:12], encoder, adapter=name)["qa"] for name in ("base", "fast", "slow")
    )
    assert as_base == fast == scores(base, questions[:12], encoder)["qa"]
    assert slow["value"] < as_base["value"] and adapted[0].active_adapter == "fast"
    assert all((a == b).all() for a, b in zip(before, adapter_tensors(adapted[0], "fast")))


def test_any_model_can_be_scored_without_a_run(questions):
    rows = load_samples("general_test").select(range(6))
    found = evaluate_run("tiny", DataBundle(test=rows))
    assert set(found) == {"medical"} and found["medical"]["qa"]["n"] == 6


# ---------------------------------------------------------------- labels of the pool


def best_response(row):
    return row["responses"][int(np.argmax(row["posterior"]))]


def test_gold_stands_in_only_when_asked_for(adapted, encoder, row):
    pool = load_samples("medical_pool").select(range(0, 900, 90))
    gold = {name: int(len(options) > 2) for name, options in zip(pool["id"], pool["responses"])}
    data = DataBundle(pool=pool, pool_gold=gold)
    rows, report = make_training_examples(data, ICFTConfig(label_model="gold"), adapted[0], encoder)
    assert len(rows) == 10 and report["accuracy"] == 1
    right = {name: options[gold[name]] for name, options in zip(pool["id"], pool["responses"])}
    assert all(best_response(one) == right[one["id"]] and max(one["posterior"]) == 1 for one in rows)
    weak, report = make_training_examples(data, ICFTConfig(), adapted[0], encoder)
    blind, _ = make_training_examples(DataBundle(pool=pool), ICFTConfig(), adapted[0], encoder)
    assert [one["posterior"] for one in weak] == [one["posterior"] for one in blind]
    assert all(sum(one["posterior"]) == pytest.approx(1) for one in weak)
    assert len(weak) + report["dropped_unvoted"] == 10


def test_hard_labels_turn_weak_rows_into_replies(adapted, encoder):
    pool = load_samples("medical_pool").select(range(0, 900, 90))
    posteriors = {
        name: [0.1] + [0.9] + [0.0] * (len(options) - 2) for name, options in zip(pool["id"], pool["responses"])
    }
    rows, _ = make_training_examples(
        DataBundle(pool=pool, posteriors=posteriors), ICFTConfig(soft_labels=False), adapted[0], encoder
    )
    assert all(one["task"] == "response" and not one["posterior"] for one in rows)
    assert [one["responses"] for one in rows] == [[options[1]] for options in pool["responses"]]


def test_options_that_labels_rule_out_are_left_out_of_training(adapted, encoder):
    pool = load_samples("medical_pool").select(range(0, 900, 90))
    shares = [0.72, 0.24, 0.03, 0.01]
    posteriors = {
        name: shares[: len(options) - 1] + [1 - sum(shares[: len(options) - 1])]
        for name, options in zip(pool["id"], pool["responses"])
    }
    data = DataBundle(pool=pool, posteriors=posteriors)
    rows, report = make_training_examples(data, ICFTConfig(least_posterior=0.05), adapted[0], encoder)
    questions = [one for one in rows if one["task"] == "question"]
    assert report["unsure_questions"] == sum(len(one["responses"]) > 1 for one in questions) == len(questions) > 0
    for one, task, options in zip(rows, pool["task"], pool["responses"]):
        kept = [k for k, p in enumerate(posteriors[one["id"]]) if p >= 0.05 or task == "pair"]
        total = sum(posteriors[one["id"]][k] for k in kept)
        assert one["responses"] == [options[k] for k in kept]
        assert one["posterior"] == pytest.approx([posteriors[one["id"]][k] / total for k in kept])
    lettered, _ = make_training_examples(
        data, ICFTConfig(least_posterior=0.05, letter_options=True), adapted[0], encoder
    )
    assert lettered["responses"][:] == pool["responses"][:], "what the prompt lists must stay as it is"
    only, report = make_training_examples(data, ICFTConfig(least_posterior=0.9), adapted[0], encoder)
    assert report["unsure_questions"] == 0
    assert all(len(one["responses"]) == (2 if one["task"] == "pair" else 1) for one in only), "the likeliest stays"
