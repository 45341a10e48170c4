"""Retention: corrected for chance, over informative suites only, with an interval; and the constraint that it is."""

import math

import numpy as np
import pytest
import torch

from icft_lite.constraint import RetentionConstraint
from icft_lite.metrics import retention as plain_retention
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.encoding import Encoder
from icft_lite.retention import (
    chance_corrected_retention,
    encode_for_kl,
    informative_topics,
    mean_kl,
    retention_interval,
)
from icft_lite.statistics import paired_bootstrap


def scores(task="qa", metric="accuracy", **topics):
    """Scores of one task: topics are (value, chance, n)."""
    by_topic = {name: dict(value=value, chance=chance, n=n, kind="") for name, (value, chance, n) in topics.items()}
    value = float(np.mean([one[0] for one in topics.values()]))
    return {task: dict(metric=metric, value=value, by_topic=by_topic)}


def test_the_closed_form():
    base = scores(a=(0.65, 0.25, 100), b=(0.9, 0.5, 100))
    after = scores(a=(0.45, 0.25, 100), b=(0.7, 0.5, 100))
    topics, uninformative = informative_topics(base)
    assert topics == [("qa", "a"), ("qa", "b")] and not uninformative
    assert chance_corrected_retention(base, after, topics) == pytest.approx((0.2 + 0.2) / (0.4 + 0.4))
    assert chance_corrected_retention(base, base, topics) == 1
    at_chance = scores(a=(0.25, 0.25, 100), b=(0.5, 0.5, 100))
    assert chance_corrected_retention(base, at_chance, topics) == 0, "guessing retains nothing"


def test_without_chance_it_is_the_ratio_of_means():
    base, after = (scores(metric="exact_match", a=(x, 0, 60), b=(y, 0, 60)) for x, y in ((0.9, 0.8), (0.5, 0.6)))
    found = chance_corrected_retention(base, after, informative_topics(base)[0])
    assert found == pytest.approx(plain_retention([0.9, 0.8], [0.5, 0.6]))


def test_a_suite_that_the_base_answers_at_chance_is_named_and_takes_no_part():
    base = scores(good=(0.6, 0.25, 100), guessed=(0.29, 0.25, 100), low=(0.2, 0.25, 100))
    topics, uninformative = informative_topics(base)
    assert topics == [("qa", "good")]
    assert uninformative == [
        "guessed (accuracy 0.29, chance 0.25, n = 100)",
        "low (accuracy 0.20, chance 0.25, n = 100)",
    ]
    after = scores(good=(0.6, 0.25, 100), guessed=(0.0, 0.25, 100), low=(1.0, 0.25, 100))
    assert chance_corrected_retention(base, after, topics) == 1


def test_the_bound_is_wilson_95():
    """40 of 100 is above 0.30: the lower bound is 0.3094 (Wilson, 1927). 39 of 100 is not above 0.301."""
    assert informative_topics(scores(a=(0.40, 0.309, 100)))[0]
    assert not informative_topics(scores(a=(0.40, 0.310, 100)))[0]


def test_a_ratio_to_a_few_right_answers_takes_no_part():
    """The chance level of exact match is 0, so that one right answer is above it."""
    for right, takes_part in ((1, False), (4, False), (5, True)):
        topics, uninformative = informative_topics(scores("short_answer", "exact_match", a=(right / 100, 0, 100)))
        assert bool(topics) == takes_part and bool(uninformative) == (not takes_part)


def test_small_topics_are_judged_together():
    """Ten questions show nothing by themselves; two hundred of twenty topics do."""
    many = {f"t{i}": (0.5, 0.25, 10) for i in range(20)}
    assert not informative_topics(scores(t0=many["t0"]))[0]
    assert len(informative_topics(scores(**many))[0]) == 20


def test_a_few_questions_of_many_topics_do_not_turn_the_sign():
    """Counted by question, the suite was above chance; its mean over topics was not, and losing all gave 1.5."""
    base = scores(large=(0.9, 0.25, 40), **{f"t{i}": (0.0, 0.25, 1) for i in range(10)})
    assert informative_topics(base) == ([], ["other topics (accuracy 0.08, chance 0.25, n = 50)"])
    every = scores(**{f"t{i}": (float(i % 4 > 0), 0.25, 1) for i in range(100)})
    assert len(informative_topics(every)[0]) == 100, "a topic for each question"


def test_free_replies_take_no_part():
    base = {**scores(a=(0.6, 0.25, 100)), **scores("reply", "token_f1", b=(0.6, 0, 100))}
    assert informative_topics(base)[0] == [("qa", "a")]


def test_a_chat_model_without_exact_match_is_constrained_by_kl():
    """Version 0.1: exact match 0 before and after is retention 0 ÷ 0, and every candidate passed."""
    base = scores("short_answer", "exact_match", sums=(0.0, 0.0, 80))
    constraint = RetentionConstraint.from_base(base, 0.08, 0.1)
    assert not constraint.topics and constraint.limits_kl and "0.1 nats" in constraint.describe()
    assert constraint.uninformative == ("sums (exact_match 0.00, chance 0.00, n = 80)",)
    assert constraint.allows(dict(kl=0.09)) and not constraint.allows(dict(kl=0.11))


def test_the_constraint_on_retention():
    base = scores(a=(0.65, 0.25, 100))
    constraint = RetentionConstraint.from_base(base, 0.1, 0.1)
    assert constraint.topics and not constraint.limits_kl
    for value, allowed in ((0.65, True), (0.62, True), (0.60, False)):
        found = constraint.retention(scores(a=(value, 0.25, 100)))
        assert found == pytest.approx((value - 0.25) / 0.4) and constraint.allows(dict(retention=found)) is allowed


def with_items(values, chance, topic_of):
    """Scores with `items`: {id: value}."""
    topics = {}
    for name, value in values.items():
        topics.setdefault(topic_of[name], []).append(value)
    part = {t: dict(value=float(np.mean(v)), chance=chance, n=len(v), kind="") for t, v in topics.items()}
    return {"qa": dict(metric="accuracy", value=0, by_topic=part, items=values)}


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    draw, hits, n = np.random.default_rng(0), 0, 200
    topic_of = {str(i): "ab"[i % 2] for i in range(n)}
    for seed in range(100):
        known = draw.random(n) < 0.7
        retained = known & (draw.random(n) < 0.8)  # 0.7 → 0.56: retention (0.56 − 0.25) ÷ (0.7 − 0.25)
        before, after = (
            with_items({str(i): float(v) for i, v in enumerate(values)}, 0.25, topic_of) for values in (known, retained)
        )
        found = retention_interval(before, after, [("qa", "a"), ("qa", "b")], topic_of, 400, seed)
        assert found.low <= found.value <= found.high and found.drop == pytest.approx(
            np.mean(known) - np.mean(retained)
        )
        hits += found.low <= (0.56 - 0.25) / 0.45 <= found.high
    assert 88 <= hits <= 100


def test_the_interval_of_a_topic_for_each_question_is_that_over_questions():
    draw, n = np.random.default_rng(0), 120
    known = draw.random(n) < 0.7
    values = [{str(i): float(v) for i, v in enumerate(some)} for some in (known, known & (draw.random(n) < 0.8))]
    found = []
    for topic_of in ({str(i): f"topic {i}" for i in range(n)}, {str(i): "all" for i in range(n)}):
        before, after = (with_items(some, 0.25, topic_of) for some in values)
        topics = sorted({("qa", topic) for topic in topic_of.values()})
        found.append(retention_interval(before, after, topics, topic_of))
    each, pooled = found
    assert each.value == pytest.approx(pooled.value) and each.high - each.low > 0.1
    assert each[1:3] == pytest.approx(pooled[1:3], abs=0.03)


def test_a_single_small_topic_is_resampled_by_question():
    """Of four questions two are lost. As a whole topic, it would seem certain."""
    topic_of = {str(i): "large" if i < 40 else "small" for i in range(44)}
    known = {name: 1.0 for name in topic_of}
    before = with_items(known, 0.25, topic_of)
    after = with_items({**known, "42": 0.0, "43": 0.0}, 0.25, topic_of)
    topics = [("qa", "large"), ("qa", "small")]
    found = retention_interval(before, after, topics, topic_of)
    a, b = ([scores["qa"]["items"][name] for name in topic_of] for scores in (after, before))
    expected = paired_bootstrap(a, b, list(topic_of.values()), n_resamples=2000)
    retained = [1 + (bound / 0.75) for bound in (expected.difference, expected.low, expected.high)]
    assert found[:3] == pytest.approx(retained, abs=1e-6) and found.high - found.low > 0.3


def test_no_informative_suite_gives_no_number():
    found = retention_interval({}, {}, [], {})
    assert all(map(math.isnan, found))


def test_kl_is_that_of_the_logits(adapted, shake, row):
    model, tokenizer = adapted
    shake(model, "slow", 0.1)
    encoder = Encoder(tokenizer)
    examples = [row(id="a", prompt="What is 2 plus 3?", responses=["5"])]
    examples += [row(id="b", task="question", prompt="A baby dog is?", responses=["a calf", "a puppy"], label=1)]
    encoded = encode_for_kl(examples, encoder)
    assert [one.num_responses for one in encoded] == [1, 1], "the right response only"
    total, n = 0.0, 0
    for one in encoded:
        with torch.no_grad():
            ids, positions = torch.tensor(one.sequences), [position for _, position, _, _ in one.tokens]
            logps = []
            for name in (None, "slow"):
                with use_adapter(model, name):
                    logps.append(model(input_ids=ids).logits[0, positions].log_softmax(-1))
        total += float((logps[0].exp() * (logps[0] - logps[1])).sum())
        n += len(positions)
    assert mean_kl(model, encoded) == pytest.approx(total / n, rel=1e-3) and total > 0
    shake(model, "slow", 0.0)
