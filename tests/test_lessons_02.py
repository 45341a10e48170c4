"""Lesson 02: what it builds from scratch is what the package has, and its exercises tell right from wrong."""

import numpy as np
import pytest
from test_notebooks import SOURCES, build, check_exercise, defined

from icft_lite.weak.functions import lf_analysis
from icft_lite.weak.models import ABSTAIN, DawidSkene, MajorityVote
from icft_lite.weak.pool import expected_calibration_error

BOOK = build.read(next(path for path in SOURCES if path.stem == "02_weak_supervision"))
NOT_RUN = ("find_spec(", "Figure(", "return ...", "soft_sure")  # set-up, figures, exercises, a slow cell


@pytest.fixture(scope="module")
def lesson():
    return defined(BOOK, NOT_RUN)


def spoken(votes):
    return votes[(votes != ABSTAIN).any(1)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("k", [2, 4])
def test_one_coin_is_the_package_s(lesson, k, seed):
    truth = np.random.default_rng(seed).integers(0, k, 400)
    votes = spoken(lesson["simulate"](truth, k, [0.9, 0.7, 0.6, 0.55, 0.2], [0.5, 0.9, 0.3, 0.8, 0.7], seed))
    accuracy, posterior, _ = lesson["one_coin"](votes, k)
    model = DawidSkene(one_coin=True).fit(votes, k)
    assert np.abs(accuracy - model.accuracies).max() < 1e-6
    assert np.abs(posterior - model.predict_proba(votes, k)).max() < 1e-6


@pytest.mark.parametrize("seed", range(3))
def test_full_confusion_is_the_package_s(lesson, seed):
    truth = np.random.default_rng(seed).integers(0, 3, 500)
    votes = spoken(lesson["simulate"](truth, 3, [0.9, 0.7, 0.6, 0.2], [0.6, 0.9, 0.5, 0.8], seed))
    prior, confusion, posterior = lesson["full"](votes, 3)
    model = DawidSkene().fit(votes, 3)
    assert np.abs(prior - model.prior).max() < 1e-6 and np.abs(confusion - model.confusion).max() < 1e-6
    assert np.abs(posterior - model.predict_proba(votes, 3)).max() < 1e-6


def test_shares_majority_and_calibration_are_the_package_s(lesson):
    votes, gold, lfs = lesson["votes"], lesson["gold"], lesson["lfs"]
    table = lf_analysis(votes, lfs)[["coverage", "overlap", "conflict"]]
    assert np.allclose(table.T, lesson["shares"](votes))
    probs = MajorityVote().fit(votes, 4).predict_proba(votes, 4)
    assert np.allclose(lesson["majority"](votes, 4), probs)
    assert lesson["ece"](probs, gold) == pytest.approx(expected_calibration_error(probs, gold))


def test_likelihood_is_the_sum_over_what_the_truth_may_be(lesson):
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
    hard, hard_sure, soft, soft_sure = np.array([lesson["trial"](seed) for seed in range(3)]).T
    assert soft.mean() > hard.mean() and soft_sure.mean() < hard_sure.mean()


WRONG = [
    [
        "def row_posterior(row, accuracy, k): return [1 / k] * k",
        "def row_posterior(row, accuracy, k):\n    odds = [1.0] * k\n    for vote, a in zip(row, accuracy):\n"
        "        odds[vote] *= a * (k - 1) / (1 - a)\n    return [o / sum(odds) for o in odds]",  # −1: last option
        "def row_posterior(row, accuracy, k):\n    odds = [1.0] * k\n    for vote, a in zip(row, accuracy):\n"
        "        if vote >= 0: odds[vote] *= a / (1 - a)\n    return [o / sum(odds) for o in odds]",
    ],
    [
        "def infection(row): return ABSTAIN",
        "def infection(row): return 0",
        "def infection(row): return option(row, 'bacterial infection')",
    ],
    [
        "def without_copies(votes): return range(votes.shape[1])",
        "def without_copies(votes): return []",
        "def without_copies(votes): return sorted(np.unique(votes, axis=1, return_index=True)[1])",
    ],
    [
        "def one_coin_from(votes, k, rows, labels, rounds=50): return one_coin(votes, k)[1]",
        "def one_coin_from(votes, k, rows, labels, rounds=50): return majority(votes, k)",
        "def one_coin_from(votes, k, rows, labels, rounds=50): return np.eye(2)[sides]",
    ],
]


@pytest.mark.parametrize("number", range(4))
def test_exercises_accept_their_solutions_and_reject_wrong_ones(lesson, number):
    check_exercise(BOOK, number, WRONG, lesson)
