"""Lesson 02: what it builds from scratch equals the package, and its exercises accept right answers only."""

import numpy as np
import pytest
from test_notebooks import SOURCES, build, check_exercise, defined

from icft_lite import DawidSkene, MajorityVote, lf_analysis
from icft_lite.metrics import expected_calibration_error
from icft_lite.weak.label_models import ABSTAIN

BOOK = build.read(next(path for path in SOURCES if path.stem == "02_weak_supervision"))
NOT_RUN = ("find_spec(", "Figure(", "return ...", "soft_confidence")  # set-up, figures, exercises, a slow cell


@pytest.fixture(scope="module")
def lesson():
    return defined(BOOK, NOT_RUN)


def with_votes(votes):
    """Return the rows that have a vote."""
    return votes[(votes != ABSTAIN).any(1)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [2, 4])
def test_one_coin_equals_the_package(lesson, k, seed):
    truth = np.random.default_rng(seed).integers(0, k, 400)
    votes = with_votes(lesson["simulate"](truth, k, [0.9, 0.7, 0.6, 0.55, 0.2], [0.5, 0.9, 0.3, 0.8, 0.7], seed))
    accuracy, posterior, _ = lesson["one_coin"](votes, k)
    model = DawidSkene(one_coin=True).fit(votes, k)
    assert np.abs(accuracy - model.accuracies).max() < 1e-6
    assert np.abs(posterior - model.predict_proba(votes, k)).max() < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_full_confusion_equals_the_package(lesson, seed):
    truth = np.random.default_rng(seed).integers(0, 3, 500)
    votes = with_votes(lesson["simulate"](truth, 3, [0.9, 0.7, 0.6, 0.2], [0.6, 0.9, 0.5, 0.8], seed))
    prior, confusion, posterior = lesson["full"](votes, 3)
    model = DawidSkene().fit(votes, 3)
    assert np.abs(prior - model.prior).max() < 1e-6 and np.abs(confusion - model.confusion).max() < 1e-6
    assert np.abs(posterior - model.predict_proba(votes, 3)).max() < 1e-6


def test_shares_majority_and_calibration_equal_the_package(lesson):
    votes, gold, lfs = lesson["votes"], lesson["gold"], lesson["lfs"]
    table = lf_analysis(votes, lfs)[["coverage", "overlap", "conflict"]]
    assert np.allclose(table.T, lesson["shares"](votes))
    probs = MajorityVote().fit(votes, 4).predict_proba(votes, 4)
    assert np.allclose(lesson["majority"](votes, 4), probs)
    assert lesson["ece"](probs, gold) == pytest.approx(expected_calibration_error(probs, gold))


def test_likelihood_is_summed_over_all_possible_truths(lesson):
    votes, accuracy, k = np.array([[0, 2, ABSTAIN], [1, 1, 1]]), np.array([0.9, 0.4, 0.7]), 3
    by_hand = 0.0
    for row in votes:
        given = [
            np.prod([a if v == c else (1 - a) / (k - 1) for v, a in zip(row, accuracy) if v != ABSTAIN])
            for c in range(k)
        ]
        by_hand += np.log(np.mean(given))
    assert lesson["log_likelihood"](votes, k, accuracy) == pytest.approx(by_hand)


def test_a_linear_learner_prefers_soft_labels(lesson):
    hard, hard_confidence, soft, soft_confidence = np.array([lesson["trial"](seed) for seed in range(3)]).T
    assert soft.mean() > hard.mean() and soft_confidence.mean() < hard_confidence.mean()


WRONG = [
    [
        "def example_posterior(votes, accuracy, k): return [1 / k] * k",
        "def example_posterior(votes, accuracy, k):\n    odds = [1.0] * k\n    for vote, a in zip(votes, accuracy):\n"
        "        odds[vote] *= a * (k - 1) / (1 - a)\n    return [o / sum(odds) for o in odds]",  # −1: last option
        "def example_posterior(votes, accuracy, k):\n    odds = [1.0] * k\n    for vote, a in zip(votes, accuracy):\n"
        "        if vote >= 0: odds[vote] *= a / (1 - a)\n    return [o / sum(odds) for o in odds]",
    ],
    [
        "def infection(example): return ABSTAIN",
        "def infection(example): return 0",
        "def infection(example): return option(example, 'bacterial infection')",
    ],
    [
        "def without_copies(votes): return range(votes.shape[1])",
        "def without_copies(votes): return []",
        "def without_copies(votes): return sorted(np.unique(votes, axis=1, return_index=True)[1])",
    ],
    [
        "def one_coin_from(votes, k, labelled, labels, rounds=50): return one_coin(votes, k)[1]",
        "def one_coin_from(votes, k, labelled, labels, rounds=50): return majority(votes, k)",
        "def one_coin_from(votes, k, labelled, labels, rounds=50): return np.eye(2)[sides]",
    ],
]


@pytest.mark.parametrize("number", range(4))
def test_exercises_accept_their_solutions_and_reject_wrong_ones(lesson, number):
    check_exercise(BOOK, number, WRONG, lesson)
