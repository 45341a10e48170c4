"""Lesson 02: what it builds from scratch equals the package, and its exercises accept right answers only."""

import numpy as np
import pytest
from lesson_checks import check_core_exercise, check_size
from test_notebooks import SOURCES, build, check_exercise, defined, exercises

from icft_lite import DawidSkene, MajorityVote, lf_analysis
from icft_lite.metrics import expected_calibration_error
from icft_lite.weak.label_models import ABSTAIN

BOOK = build.read(next(path for path in SOURCES if path.stem == "02_weak_supervision"))
NOT_RUN = ("find_spec(", "soft_confidence")  # set-up, a slow cell


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


def test_the_full_model_finds_the_confusion_matrices_of_the_readers(lesson):
    assert np.abs(lesson["model"].confusion - lesson["matrices"]).max() < 0.12


def test_shares_majority_and_calibration_equal_the_package(lesson):
    votes, gold, lfs = lesson["votes"], lesson["gold"], lesson["lfs"]
    table = lf_analysis(votes, lfs)[["coverage", "overlap", "conflict"]]
    assert np.allclose(table.T, lesson["shares"](votes))
    probs = MajorityVote().fit(votes, 4).predict_proba(votes, 4)
    assert np.allclose(lesson["majority"](votes, 4), probs)
    assert lesson["ece"](probs, gold) == pytest.approx(expected_calibration_error(probs, gold))


def test_a_function_cannot_vote_outside_the_options(lesson):
    """Of the names in -ine, those without the option antihistamine are all claims that would be wrong."""
    truth = [lesson["pool"][i]["responses"][lesson["gold"][i]] for i in lesson["claims"]]
    assert truth.count("antihistamine") == lesson["hits"] < len(lesson["cast"]) < len(lesson["claims"])


def test_the_lesson_is_short():
    check_size(BOOK)


def test_a_linear_learner_prefers_soft_labels(lesson):
    hard, hard_confidence, soft, soft_confidence = np.array([lesson["trial"](seed) for seed in range(3)]).T
    assert soft.mean() > hard.mean() and soft_confidence.mean() < hard_confidence.mean()


WRONG = [
    [
        "def m_step(votes, posterior): return np.take_along_axis(posterior, votes, 1).mean(0)",  # −1: last option
        "def m_step(votes, posterior):\n    picked = np.where(votes >= 0, np.take_along_axis(posterior, votes, 1), 0)\n"
        "    return picked.mean(0)",  # an abstention counts as a wrong vote
        "def m_step(votes, posterior):\n    voted = votes >= 0\n"
        "    return ((votes == posterior.argmax(1)[:, None]) & voted).sum(0) / voted.sum(0)",  # hard labels
        "def m_step(votes, posterior): return np.array([0.5])",
    ],
    [
        "def infection(example): return ABSTAIN",
        "def infection(example): return 0",
        "def infection(example): return option(example, 'bacterial infection')",
    ],
    [
        "def one_coin_from(votes, k, labelled, labels, rounds=50): return one_coin(votes, k)[1]",
        "def one_coin_from(votes, k, labelled, labels, rounds=50): return majority(votes, k)",
        "def one_coin_from(votes, k, labelled, labels, rounds=50): return np.eye(2)[sides]",
    ],
]


@pytest.mark.parametrize("number", range(3))
def test_exercises_accept_their_solutions_and_reject_wrong_ones(lesson, number):
    check_exercise(BOOK, number, WRONG, lesson)


def test_the_lesson_uses_the_learners_m_step_once_it_is_right(lesson):
    check_core_exercise(BOOK, lesson, "m_step", ["equal to the package's: True"], WRONG[0])


def test_em_gives_the_same_with_the_learners_m_step(lesson):
    space = dict(lesson)
    exec(exercises(BOOK)[0][1], space)
    mine, package = (step(lesson["votes"], lesson["heads"]) for step in (space["m_step"], lesson["package_m_step"]))
    assert np.allclose(mine, package)
