"""Curriculum: difficulty, stages, pacing, and the order of draws."""

import math

import numpy as np
import pytest

from icft_lite.config import ICFTConfig
from icft_lite.curriculum import (
    PacedSampler,
    build_curriculum,
    competence,
    label_entropy,
    rank_average,
    round_robin,
    score_difficulty,
)
from icft_lite.data.schema import best_response
from icft_lite.errors import ICFTError
from icft_lite.modeling.encoding import Encoded, Encoder
from icft_lite.modeling.scoring import score_responses
from icft_lite.training.plan import plan_stages


def test_competence_rises_from_c0_to_1_as_a_square_root():
    assert competence(0, 40, 0.3) == pytest.approx(0.3)
    assert competence(40, 40, 0.3) == pytest.approx(1) and competence(80, 40, 0.3) == 1.0
    assert competence(10, 40, 0.2) == pytest.approx(math.sqrt(0.25 * 0.96 + 0.04))  # by hand: 0.5292
    assert competence(20, 40, 0.0) == pytest.approx(0.70711, abs=1e-5)


def test_rank_average_shares_ranks_of_equal_values_and_ignores_nan():
    assert rank_average({"a": [10, 30, 20]}).tolist() == [0, 1, 0.5]
    assert rank_average({"a": [5, 5, 9]}).tolist() == [0.25, 0.25, 1]
    assert rank_average({"a": [1, 2, 3], "b": [3, 2, 1]}).tolist() == [0.5, 0.5, 0.5]
    nan = math.nan
    assert rank_average({"a": [0, 1, 2], "b": [nan, 7, 3]}).tolist() == [0, 0.75, 0.5]
    assert rank_average({"a": [nan, nan]}).tolist() == [0.5, 0.5]


def test_rank_average_ignores_scale():
    values = np.random.default_rng(0).normal(size=50)
    np.testing.assert_allclose(rank_average({"a": values}), rank_average({"a": np.exp(3 * values) + 100}))


def test_entropy_in_nats():
    assert label_entropy([]) == 0 and str(label_entropy([1, 0, 0])) == str(label_entropy([])) == "0.0", "not -0.0"
    assert label_entropy([0.25] * 4) == pytest.approx(math.log(4))


def test_the_best_response_is_the_most_likely_one_or_the_label(example):
    assert best_response(example(posterior=[0.2, 0.7, 0.1], label=-1)) == 1
    assert best_response(example(label=2)) == 2 and best_response(example(label=-1)) == 0


# ---------------------------------------------------------------- difficulty


def test_difficulty_by_length_and_entropy_needs_no_model(example):
    examples = [
        example(prompt="one two three four"),
        example(prompt="one"),
        example(prompt="one", posterior=[0.5, 0.5]),
    ]
    assert score_difficulty(examples, signals=("length",)).tolist() == [1, 0.25, 0.25]
    assert score_difficulty(examples, signals=("entropy",)).tolist() == [0.25, 0.25, 1]


def test_loss_and_ifd_need_a_model_and_encodings(example):
    with pytest.raises(ICFTError, match="need a model"):
        score_difficulty([example()], signals=("loss",))


def test_an_answer_that_the_base_knows_is_easier_than_one_it_does_not(base, example):
    model, tokenizer = base
    examples = [
        example(prompt="Which city is the capital of Burundi?", responses=["Gitega"]),
        example(prompt="Which city is the capital of Burundi?", responses=["shoulder piano of seven"]),
        example(
            task="question",
            prompt="Which city is the capital of Burundi?",
            label=-1,
            posterior=[0.1, 0.9],
            responses=["Gitega", "under kettles"],
        ),
    ]  # the last one is scored by its most likely label, which is wrong
    encoded = [Encoder(tokenizer)(one) for one in examples]
    difficulty = score_difficulty(examples, model, encoded, ("loss",))
    assert difficulty[0] == 0 and min(difficulty[1:]) > 0


def test_ifd_is_the_loss_with_the_prompt_divided_by_the_loss_without_it(base, example):
    model, tokenizer = base
    examples = [
        example(prompt="Say nothing.", responses=["the blue one"]),
        example(prompt="Which city is the capital of Burundi?", responses=["Gitega"]),  # the prompt helps only here
        example(task="question", responses=["a", "b"]),  # not a reply: the signal does not apply
    ]
    encoder = Encoder(tokenizer)
    difficulty = score_difficulty(examples, model, [encoder(one) for one in examples], ("ifd",))
    assert difficulty.tolist() == [1, 0, 0.5]
    (score,) = score_responses(model, [encoder(examples[1])])
    assert score["logp"][0] > -1, "the base does not know this capital: choose another one for the test"


# ---------------------------------------------------------------- stages

LEVELS = ["hard", "easy", "medium", "easy", "hard", "medium"]
DIFFICULTY = [0.9, 0.4, 0.2, 0.1, 0.3, 0.8]


def added(stages):
    """What each stage adds to the one before, which it must contain in the same order."""
    for before, stage in zip(stages, stages[1:]):
        assert [i for i in stage if i in before] == before
    return [[i for i in stage if i not in before] for before, stage in zip([[], *stages], stages)]


def test_stages_add_levels_and_are_sorted_by_difficulty():
    up, down = (build_curriculum(LEVELS, DIFFICULTY, order) for order in ("easy_to_hard", "hard_to_easy"))
    assert added(up) == [[3, 1], [2, 5], [4, 0]] and added(down) == [[0, 4], [5, 2], [1, 3]]
    for stages, sign in ((up, 1), (down, -1)):
        for stage in stages:
            assert stage == sorted(stage, key=lambda i: sign * DIFFICULTY[i])


def test_without_levels_stages_are_equal_parts_by_difficulty():
    stages = build_curriculum([""] * 6, DIFFICULTY)
    assert added(stages) == [[3, 2], [4, 1], [5, 0]]
    assert build_curriculum(LEVELS[:5] + [""], DIFFICULTY) == stages
    assert added(build_curriculum(["", ""], [0.2, 0.1])) == [[1], [0]], "no empty stage"


def test_only_stages_that_are_levels_have_their_names():
    """Validation and transfer are measured by level, so parts by difficulty must not be taken for levels."""
    encoded = [Encoded([[1, 2]], [(0, 0, 1, 0)], 1)] * 6
    names = [
        [stage.name for stage in plan_stages(ICFTConfig(), levels, DIFFICULTY, encoded, [])]
        for levels in (LEVELS, LEVELS[:5] + [""])
    ]
    assert names == [["easy", "medium", "hard"], ["part 1", "part 2", "part 3"]]


@pytest.mark.parametrize("order", ["random", "interleaved"])
def test_unordered_stages_have_every_example(order):
    assert build_curriculum(LEVELS, DIFFICULTY, order) == [list(range(6))] * 3
    assert build_curriculum(LEVELS, None, order) == [list(range(6))] * 3


# ---------------------------------------------------------------- drawing


def draws(order="easy_to_hard", seed=0, n=300, stage=range(100), topics=None, start=0.3):
    sampler = PacedSampler(list(stage), topics or ["t"] * 100, order, start, seed)
    return [sampler.draw(i / n) for i in range(n)]


def test_draws_depend_on_the_seed_only():
    assert draws(seed=1) == draws(seed=1) and draws(seed=1) != draws(seed=2)


@pytest.mark.parametrize("order", ["easy_to_hard", "hard_to_easy"])
def test_a_paced_stage_starts_easy_and_draws_every_example(order):
    drawn = draws(order, n=300)
    assert max(drawn[:10]) < 100 * competence(10, 300, 0.3) + 1
    assert set(drawn) == set(range(100)), (
        "the hardest examples are drawn too, within as many draws as three passes have"
    )


@pytest.mark.parametrize("order", ["random", "interleaved"])
def test_an_unpaced_stage_draws_from_all_examples_at_once(order):
    assert set(draws(order, n=100)) == set(range(100))


def test_a_paced_stage_never_draws_beyond_its_competence():
    sampler = PacedSampler(list(range(100)), ["t"] * 100, "easy_to_hard", 0.2, 0)
    for i in range(400):
        assert sampler.draw(i / 400) < math.ceil(100 * competence(i, 400, 0.2))


def test_pacing_may_end_before_the_stage():
    default, early = (PacedSampler(list(range(100)), ["t"] * 100, "easy_to_hard", 0.2, 0, end) for end in (1.0, 0.5))
    last = [[sampler.draw(i / 4000) for i in range(4000)].count(99) for sampler in (default, early)]
    assert last[0] <= 2 and 15 <= last[1] <= 21, "20 passes in the second half, each with the hardest example"
    sampler = PacedSampler(list(range(100)), ["t"] * 100, "easy_to_hard", 0.2, 0, 0.5)
    for i in range(200):
        assert sampler.draw(i / 400) < math.ceil(100 * competence(i, 200, 0.2))


def test_every_pass_draws_each_example_once():
    drawn = draws("random")
    assert all(sorted(drawn[i : i + 100]) == list(range(100)) for i in (0, 100, 200))
    assert drawn[:100] != drawn[100:200]


def test_round_robin_alternates_topics_as_evenly_as_their_counts_allow():
    topics = ["a"] * 8 + ["b"] * 4
    order = [topics[i] for i in round_robin(list(range(12)), topics)]
    assert sorted(order) == sorted(topics)
    for i in range(0, 12, 3):
        assert sorted(order[i : i + 3]) == ["a", "a", "b"]


def test_interleaved_draws_alternate_between_topics():
    topics = ["a"] * 50 + ["b"] * 50
    drawn = [topics[i] for i in draws("interleaved", topics=topics)]
    assert all(set(drawn[i : i + 2]) == {"a", "b"} for i in range(0, 300, 2))
