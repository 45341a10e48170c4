"""Lesson 09: what it builds by hand agrees with the package, its words follow the intervals, its exercises judge."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from test_notebooks import build, check_exercise, from_scratch

from icft_lite import ICFTConfig, ICFTError
from icft_lite.statistics import mcnemar_exact, paired_bootstrap
from icft_lite.utils.config_parsing import flatten

SOURCE = Path(build.HERE) / "src" / "09_does_it_work.py"


@pytest.fixture(scope="module")
def book():
    return build.read(SOURCE)


@pytest.fixture(scope="module")
def built(book):
    return from_scratch(book, np=np, math=math, stats=stats)


@pytest.mark.parametrize("share", [0.05, 0.4])
def test_the_bootstrap_by_hand_agrees_with_the_package(built, share):
    draw = np.random.default_rng(5)
    a, b = draw.random(400) < 0.6, draw.random(400) < 0.6
    b = np.where(draw.random(400) < share, b, a)
    low, high = built["bootstrap"](a.astype(float) - b)
    package = paired_bootstrap(a, b, n_resamples=2000)
    assert (low, high) == pytest.approx((package.low, package.high), abs=0.01)


def test_power_is_what_the_formula_says(built):
    n, d = 600, 0.2
    gain = built["visible"](d, n)
    draws = np.random.default_rng(1).choice([1, -1, 0], (400, n), p=[(d + gain) / 2, (d - gain) / 2, 1 - d])
    power = np.mean([mcnemar_exact(x > 0, x < 0) < 0.05 for x in draws])
    assert 0.7 < power < 0.88


def test_only_the_right_analysis_is_right_about_equal_methods(built):
    suits = built["alarms"](built["worlds"](count=600, n=200))
    luck = built["alarms"](built["worlds"](suits=0.3, luck=0.4, count=600, n=200))
    assert suits["questions, seeds averaged"] == pytest.approx(0.05, abs=0.03)
    assert luck["questions, seeds averaged"] > 0.15 > 0.1 > luck["seeds, questions averaged"]
    assert suits["pairs: seeds × questions as independent"] > suits["questions, seeds averaged"]
    assert max(suits["both of the last two"], luck["both of the last two"]) < 0.08


def test_words_follow_the_intervals(built):
    verdict = built["verdict"]
    assert verdict(0.9, 0.05, 0.5, 1.0) == "no difference measured"
    assert verdict(0.9, math.nan, 0.5, 1.0) == "no difference measured"
    assert verdict(-0.1, 0.01, -0.2, -0.05) == "clear: ICFT lower"
    assert verdict(0.1, 0.01, -0.2, 0.3) == "these runs only: ICFT higher"
    assert verdict(0.1, 0.01, math.nan, math.nan) == "these runs only: ICFT higher", "one seed gives no interval"


def test_the_exercises_accept_their_solutions_and_reject_wrong_ones(book, built):
    wrong = [
        [
            "def questions_needed(difference, d): return 2.8 * d / difference**2",
            "def questions_needed(difference, d): return math.ceil(1.96**2 * d / difference**2)",
            "def questions_needed(difference, d): return 1960",
        ],
        [
            "def half_width(a, b): return 1.96 * (a - b).std() / (a - b).size**0.5",
            "def half_width(a, b): return 1.96 * (a - b).std() / a.shape[1]**0.5",
            "def half_width(a, b): return 1.96 * (a.mean(0).var() + b.mean(0).var())**0.5 / a.shape[1]**0.5",
            "def half_width(a, b): return 1.96 * (a - b).mean(1).std() / a.shape[0]**0.5",
        ],
    ]
    tokens, ablated = {"optim.max_tokens": 9}, {"optim.max_tokens": 9, "consolidation.enabled": False}
    right = dict(ours=tokens, ablation=ablated, seeds=5, questions=1400, measure="general")
    changes = [
        dict(ablation={**ablated, "curriculum.order": "random"}),
        dict(ablation={**ablated, "optim.max_tokens": 8}),
        dict(ablation={**tokens, "consolidation.enable": False}),
        dict(ours={}, ablation={"consolidation.enabled": False}),
        dict(seeds=3),
        dict(questions=805),
        dict(measure="whatever is best"),
    ]
    wrong.append([f"def design(): return {dict(right, **change)}" for change in changes])
    space = dict(
        built,
        ICFTConfig=ICFTConfig,
        ICFTError=ICFTError,
        flatten=flatten,
        study=dict(tests=dict(general={}, medical={}, preference={})),
    )
    for number in range(len(wrong)):
        check_exercise(book, number, wrong, space)
