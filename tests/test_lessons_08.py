"""Lesson 08: its interval, bootstrap and verdicts are the package's or hold by themselves; its judge and exercises."""

import math
from functools import cache, partial

import numpy as np
import pytest
from test_notebooks import build, cells, check_exercise, exercises

from icft_lite.experiments.blind_votes import pairwise_result, read_votes
from icft_lite.metrics import key_fact_recall, normalize_answer, token_f1
from icft_lite.modeling.generation import generate_reply
from icft_lite.statistics import binomial_interval, mcnemar_exact, paired_bootstrap
from icft_lite.widgets import vote_panel

BOOK = build.read(build.HERE / "src" / "08_interactive_evaluation.py")


@pytest.fixture(scope="module")
def lesson():
    """The functions that the lesson defines."""
    space = dict(
        np=np, math=math, token_f1=token_f1, key_fact_recall=key_fact_recall, normalize_answer=normalize_answer
    )
    for name in ("FUNCTION_WORDS = ", "def judge(", "def wilson(", "def shared(", "def verdict("):
        source = next(cell.source for cell in cells(BOOK, "code") if name in cell.source)
        exec(source[source.index(name) :].split("\n\n\n")[0], space)
    exec(exercises(BOOK)[0][1], space)
    return space


@pytest.mark.parametrize("k, n", [(0, 3), (3, 7), (10, 10), (480, 1000)])
def test_its_interval_agrees_with_the_package(lesson, k, n):
    expected = binomial_interval(k, n, method="wilson")
    assert lesson["wilson"](k, n) == pytest.approx(expected, abs=1e-6)


def test_its_bootstrap_agrees_with_the_package(lesson):
    rng = np.random.default_rng(3)
    a, b = rng.random(300) < 0.6, rng.random(300) < 0.45
    found, expected = lesson["paired_bootstrap"](a, b), paired_bootstrap(a, b, n_resamples=2000)
    assert found == pytest.approx(expected[:3]) and found[1] < found[0] < found[2]


@pytest.mark.parametrize(
    "reply, expected",
    [
        ("beta blocker", "right"),
        ("A beta blocker.", "contained"),
        ("ace inhibitor", "confused"),
        ("Ace inhibitor.", "confused"),
        ("blocker", "partly"),
        ("inhibitor of a beta", "partly"),
        ("", "other"),
        ("a drug", "other"),
    ],
)
def test_its_verdicts(lesson, reply, expected):
    example = dict(responses=["ace inhibitor", "beta blocker"], label=1)
    assert lesson["verdict"](reply, example, {"ace inhibitor"}) == expected


@pytest.mark.parametrize(
    "reply, words", [("pain in the liver", set()), ("Disease of the kidney.", {"kidney"}), ("", set())]
)
def test_function_words_are_not_shared_content(lesson, reply, words):
    answer = "inflammation of the kidney"
    assert lesson["shared"](reply, answer) == words == lesson["shared"](answer, reply)
    assert lesson["verdict"]("surgery of the liver", dict(responses=[answer], label=0), set()) == "other"
    assert token_f1("surgery of the liver", answer) > 0.3


def test_its_judge_votes_for_the_right_words_whatever_the_side(lesson, base, tmp_path):
    """The embedded model against itself at a temperature so high that its replies are random."""
    key = {
        "What is the capital of France?": "Paris",
        "What is the capital of Japan?": "Tokyo",
        "What is the capital of Peru?": "Lima",
        "What is the capital of Kenya?": "Nairobi",
    }
    models = {
        "cool": cache(partial(generate_reply, *base, max_new_tokens=6)),
        "hot": cache(partial(generate_reply, *base, max_new_tokens=6, temperature=9.0)),
    }
    panel = vote_panel(models, list(key), tmp_path / "votes.jsonl", pause=0)
    lesson["judge"](panel, key)
    knows = sum(token_f1(models["cool"](question), key[question]) > 0 for question in key)
    assert knows and pairwise_result(read_votes(tmp_path / "votes.jsonl"), "cool", "hot")[:2] == (knows, 0)


WRONG = [
    [
        # each model is resampled by itself: not paired
        "def paired_bootstrap(a, b, times=2000, seed=0):\n    rng, n = np.random.default_rng(seed), len(a)\n"
        "    means = [a[rng.integers(0, n, n)].mean() - b[rng.integers(0, n, n)].mean() for _ in range(times)]\n"
        "    return a.mean() - b.mean(), *np.quantile(means, [0.025, 0.975])",
        # without replacement: every resample has the same mean
        "def paired_bootstrap(a, b, times=2000, seed=0):\n    d, rng = a - b, np.random.default_rng(seed)\n"
        "    means = [rng.permutation(d).mean() for _ in range(times)]\n"
        "    return d.mean(), *np.quantile(means, [0.025, 0.975])",
        # no bootstrap: the normal distribution
        "def paired_bootstrap(a, b, times=2000, seed=0):\n    d = a - b\n    half = 1.96 * d.std() / len(d) ** 0.5\n"
        "    return d.mean(), d.mean() - half, d.mean() + half",
        # 90 %
        "def paired_bootstrap(a, b, times=2000, seed=0):\n    d, rng = a - b, np.random.default_rng(seed)\n"
        "    means = [d[rng.integers(0, len(d), len(d))].mean() for _ in range(times)]\n"
        "    return d.mean(), *np.quantile(means, [0.05, 0.95])",
        # the sign
        "def paired_bootstrap(a, b, times=2000, seed=0):\n    d, rng = b - a, np.random.default_rng(seed)\n"
        "    means = [d[rng.integers(0, len(d), len(d))].mean() for _ in range(times)]\n"
        "    return d.mean(), *np.quantile(means, [0.025, 0.975])",
        # the spread of single questions instead of means
        "def paired_bootstrap(a, b, times=2000, seed=0):\n    d = a - b\n"
        "    return d.mean(), *np.quantile(d, [0.025, 0.975])",
    ],
    [
        "def rate(choices, model): return choices.count(model) / len(choices)",
        "def rate(choices, model): return choices.count(model) / max(1, len(choices) - choices.count('tie'))",
    ],
    [
        "def mcnemar(x, y): return 2 * sum(math.comb(x + y, k) for k in range(min(x, y) + 1)) / 2**(x + y)",
        "def mcnemar(x, y): return min(1.0, sum(math.comb(x + y, k) for k in range(min(x, y) + 1)) / 2**(x + y))",
        "def mcnemar(x, y): return min(1.0, 2 * math.comb(x + y, min(x, y)) / 2**(x + y))",
    ],
]


@pytest.mark.parametrize("number", range(3))
def test_exercises_accept_their_solutions_and_reject_wrong_ones(lesson, number):
    check_exercise(BOOK, number, WRONG, dict(lesson, mcnemar_exact=mcnemar_exact, package_bootstrap=paired_bootstrap))
