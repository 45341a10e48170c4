"""Lesson 03: what it builds from scratch equals the package; its explorer has its examples, its exercises work."""

import numpy as np
import pytest
from lesson_checks import check_core_exercise, check_size
from test_notebooks import SOURCES, build, check_exercise, defined

from icft_lite.curriculum import rank_average, score_difficulty

BOOK = build.read(next(path for path in SOURCES if path.stem == "03_curriculum"))
NOT_RUN = ("find_spec(", "gains")  # set-up, the slow study


@pytest.fixture(scope="module")
def lesson():
    return defined(BOOK, NOT_RUN)


@pytest.mark.parametrize("seed", range(5))
def test_rank_average_equals_the_package(lesson, seed):
    rng = np.random.default_rng(seed)
    signals = {"a": rng.integers(0, 6, 40).astype(float), "b": rng.normal(size=40), "c": rng.integers(0, 9, 40) / 2}
    signals["b"][rng.random(40) < 0.4] = np.nan
    np.testing.assert_allclose(lesson["average"](signals), rank_average(signals))


def test_loss_and_ifd_equal_the_package(lesson):
    examples = [
        lesson["reply"](*pair)
        for pair in (
            ("Which city is the capital of Kenya?", "Nairobi"),
            ("Define nephritis.", "inflammation of the kidney"),
            ("Name the class of metoprolol.", "beta blocker"),
        )
    ]
    encoded = [lesson["encoder"](example) for example in examples]
    loss = [np.mean([nats for _, nats in lesson["surprises"](one)]) for one in encoded]
    ratio = [lesson["ifd"](example)[0] for example in examples]
    for name, values in (("loss", loss), ("ifd", ratio)):
        difficulty = score_difficulty(examples, lesson["base"], encoded, (name,))
        np.testing.assert_allclose(difficulty, rank_average({name: values}), err_msg=name)


def test_density_is_one_on_average_and_counts_every_draw(lesson):
    for order, (drawn, _) in lesson["runs"].items():
        x, y, share = lesson["shown"][order]
        counts = share * np.outer(np.diff(y), np.diff(x)) / len(lesson["examples"])
        assert counts.sum() == pytest.approx(len(drawn))
        assert (share.T @ np.diff(y)).mean() / y[-1] == pytest.approx(1, abs=0.05)


def test_the_lesson_is_short():
    check_size(BOOK)


def test_the_explorer_has_the_examples_and_votes_of_the_lesson(lesson):
    """The explorer itself is tested in test_widgets_browse.py."""
    examples, difficulty, votes, names = lesson["curriculum"]
    assert [example["difficulty"] for example in examples] == pytest.approx(list(difficulty))
    assert len(examples) == len(difficulty)
    voted = [example for example in examples if example["posterior"]]
    assert voted and all(len(votes[example["id"]]) == len(names) for example in voted)
    controls, count, picker, detail = lesson["curriculum_explorer"](*lesson["curriculum"]).children
    assert f"{len(examples)} examples" in count.value
    assert examples[picker.children[0].value]["difficulty"] == max(difficulty)


WRONG = [
    [
        "def pace(t, end, start): return sqrt(t * (1 - start**2) / end + start**2)",  # above 1 after the end
        "def pace(t, end, start): return min(1.0, start + (1 - start) * t / end)",  # a constant rate
        "def pace(t, end, start): return min(1.0, sqrt(t * (1 - start**2) + start**2))",  # without T
        "def pace(t, end, start): return min(1.0, t * (1 - start**2) / end + start**2)",  # without the root
    ],
    [
        "def available_from(u, start): return u",
        "def available_from(u, start): return max(0.0, (u - start) / (1 - start))",
        "def available_from(u, start): return (u**2 - start**2) / (1 - start**2)",
    ],
    [
        "def expected_draws(n, steps, start): return [steps / n] * n",
        "def expected_draws(n, steps, start): return [steps] + [0] * (n - 1)",
        "def expected_draws(n, steps, start):\n"
        "    return [sum(competence(t / steps, 1, start) * n >= i + 1 for t in range(steps)) / n for i in range(n)]",
        "def expected_draws(n, steps, start):\n    draws = np.zeros(n)\n    for step in range(steps):\n"
        "        m = int(competence(step / steps, 1, start) * n)\n        draws[:m] += 1 / m\n    return draws",
    ],
]


@pytest.mark.parametrize("number", range(3))
def test_exercises_accept_their_solutions_and_reject_wrong_ones(lesson, number):
    check_exercise(BOOK, number, WRONG, lesson)


def test_the_lesson_draws_with_the_learners_pace_once_it_is_right(lesson):
    check_core_exercise(BOOK, lesson, "pace", ["draws equal to the package's: 300 of 300"], WRONG[0])


def test_another_pace_would_draw_other_examples(lesson):
    draws = lesson["draw_stage"](lesson["package_competence"])
    assert lesson["draw_stage"](lambda t, end, start: start + (1 - start) * t / end) != draws
