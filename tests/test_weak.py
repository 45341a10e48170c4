"""Labelling functions, label models (compared with crowd-kit), and the labels of a pool."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from icft_lite.errors import ICFTError
from icft_lite.weak import (
    ABSTAIN,
    DawidSkene,
    LabelingFunction,
    MajorityVote,
    all_abstained,
    apply_lfs,
    expected_calibration_error,
    label_pool,
    labeling_function,
    lf_analysis,
)

crowdkit = pytest.importorskip("crowdkit.aggregation")
ACCURACIES = np.array([0.9, 0.8, 0.7, 0.6, 0.55, 0.15])
COVERAGES = np.array([0.5, 0.9, 0.8, 0.7, 0.6, 0.8])


def simulate(n=3000, seed=0, n_options=None, accuracies=ACCURACIES, coverages=COVERAGES):
    """One-coin votes [n, m], options [n] (2 to 5 unless fixed) and truth [n]."""
    rng = np.random.default_rng(seed)
    options = rng.integers(2, 6, n) if n_options is None else np.full(n, n_options)
    truth = rng.integers(0, options)
    shape = n, len(accuracies)
    wrong = (truth[:, None] + rng.integers(1, options[:, None], shape)) % options[:, None]
    votes = np.where(rng.random(shape) < accuracies, truth[:, None], wrong)
    return np.where(rng.random(shape) < coverages, votes, ABSTAIN).astype(np.int8), options, truth


def simulate_full(n=4000, seed=1, k=3):
    """Votes drawn from known confusion matrices [m, k, k] under an uneven prior; the last LF is mostly wrong."""
    rng = np.random.default_rng(seed)
    prior = np.array([0.55, 0.35, 0.10])
    confusion = np.stack([rng.dirichlet(np.eye(k)[c] * 12 + 2, 6) for c in range(k)], 1)
    confusion[-1] = np.roll(np.eye(k), 1, axis=1) * 0.7 + 0.1
    truth = rng.choice(k, n, p=prior)
    draw = rng.random((n, 6, 1))
    votes = (draw > confusion[:, truth].transpose(1, 0, 2).cumsum(2)[:, :, :-1]).sum(2)
    return np.where(rng.random((n, 6)) < 0.8, votes, ABSTAIN), truth, prior, confusion


def as_crowdkit(votes):
    examples, lfs = np.nonzero(votes != ABSTAIN)
    return pd.DataFrame({"task": examples, "worker": lfs, "label": votes[examples, lfs]})


def test_one_coin_recovers_known_accuracies():
    votes, options, truth = simulate()
    model = DawidSkene(one_coin=True).fit(votes, options)
    assert np.abs(model.accuracies - ACCURACIES).max() < 0.03
    probs = model.predict_proba(votes, options)
    right = (probs.argmax(1) == truth).mean()
    majority = (MajorityVote().fit(votes, options).predict_proba(votes, options).argmax(1) == truth).mean()
    assert right > majority + 0.05
    assert expected_calibration_error(probs, truth) < 0.03


def test_full_confusion_recovers_matrices_and_prior():
    votes, truth, prior, confusion = simulate_full()
    model = DawidSkene().fit(votes, 3)
    assert np.abs(model.prior - prior).max() < 0.03
    common = prior > 0.2  # a rare class has too few examples for a tight bound
    assert np.abs(model.confusion - confusion)[:, common].max() < 0.05
    expected = (votes == truth[:, None]).sum(0) / (votes >= 0).sum(0)
    assert np.abs(model.accuracies - expected).max() < 0.03


def test_votes_of_an_lf_worse_than_chance_count_against_its_choice():
    votes, options, _ = simulate(n_options=2)
    model = DawidSkene(one_coin=True).fit(votes, options)
    assert model.accuracies[-1] < 0.2
    alone = np.full((1, 6), ABSTAIN)
    alone[0, -1] = 0
    assert model.predict_proba(alone, 2)[0, 1] > 0.8


def test_full_confusion_agrees_with_crowdkit():
    votes, *_ = simulate_full(n=600)
    theirs = crowdkit.DawidSkene(n_iter=300, tol=-1.0).fit(as_crowdkit(votes))
    ours = DawidSkene(n_iter=300, tol=0.0).fit(votes, 3)
    probs = theirs.probas_.sort_index()[[0, 1, 2]]
    assert np.abs(ours.predict_proba(votes, 3)[probs.index] - probs).max().max() < 1e-3
    assert np.abs(ours.prior - theirs.priors_[[0, 1, 2]]).max() < 1e-3
    confusion = np.stack([theirs.errors_.loc[j].loc[[0, 1, 2], [0, 1, 2]].to_numpy().T for j in range(6)])
    assert np.abs(ours.confusion - confusion).max() < 1e-3


def test_one_coin_agrees_with_crowdkit():
    """crowd-kit estimates a class prior; ours is uniform. With all k rotations of the data the estimate is uniform."""
    votes, *_ = simulate(n=150, n_options=4)
    votes = np.concatenate([np.where(votes == ABSTAIN, ABSTAIN, (votes + shift) % 4) for shift in range(4)])
    theirs = crowdkit.OneCoinDawidSkene(n_iter=60, tol=-1.0).fit(as_crowdkit(votes))
    ours = DawidSkene(one_coin=True, n_iter=60, tol=0.0).fit(votes, 4)
    probs = theirs.probas_.sort_index()[[0, 1, 2, 3]]
    assert np.abs(ours.predict_proba(votes, 4)[probs.index] - probs).max().max() < 1e-3
    assert np.abs(ours.accuracies - theirs.skills_.sort_index()).max() < 1e-3


def test_majority_vote_agrees_with_crowdkit_and_splits_ties():
    votes, *_ = simulate(n=300, n_options=3)
    theirs = crowdkit.MajorityVote().fit_predict_proba(as_crowdkit(votes)).sort_index()[[0, 1, 2]]
    ours = MajorityVote().fit(votes, 3).predict_proba(votes, 3)
    assert np.abs(ours[theirs.index] - theirs).max().max() < 1e-9
    tie = MajorityVote().predict_proba(np.array([[0, 2, -1], [1, 1, 0]]), np.array([4, 2]))
    assert tie[0].tolist() == [0.5, 0, 0.5, 0]
    assert np.allclose(tie[1], [1 / 3, 2 / 3, 0, 0])


@pytest.mark.parametrize("one_coin", [True, False])
def test_order_of_examples_and_lfs_does_not_matter(one_coin):
    votes, options, _ = simulate(n=400, n_options=3)
    order, lf_order = np.random.default_rng(2).permutation(400), np.array([3, 1, 5, 0, 2, 4])
    model = DawidSkene(one_coin).fit(votes, options)
    shuffled = DawidSkene(one_coin).fit(votes[order][:, lf_order], options[order])
    assert np.allclose(shuffled.accuracies, model.accuracies[lf_order], atol=1e-9)
    probs = model.predict_proba(votes, options)
    shuffled_probs = shuffled.predict_proba(votes[order][:, lf_order], options[order])
    assert np.allclose(shuffled_probs, probs[order], atol=1e-9)
    again = DawidSkene(one_coin).fit(votes, options)
    assert (again.predict_proba(votes, options) == probs).all()


@pytest.mark.parametrize("model", [MajorityVote(), DawidSkene(), DawidSkene(one_coin=True)])
def test_examples_without_votes_get_a_uniform_posterior(model):
    votes, options, _ = simulate(n=200, n_options=3)
    votes[[3, 7]] = ABSTAIN
    assert all_abstained(votes).sum() == (votes == ABSTAIN).all(1).sum() and all_abstained(votes)[[3, 7]].all()
    probs = model.fit(votes, options).predict_proba(votes, options)
    assert np.allclose(probs[[3, 7]], 1 / 3) and np.allclose(probs.sum(1), 1)
    one = DawidSkene(one_coin=True).fit(votes, 3)
    uneven = one.predict_proba(np.full((2, 6), ABSTAIN), np.array([2, 4]))
    assert uneven.tolist() == [[0.5, 0.5, 0, 0], [0.25] * 4]


def test_votes_of_an_lf_that_abstained_in_fit_are_ignored():
    votes, options, _ = simulate(n=300, n_options=3)
    votes[:, 0] = ABSTAIN
    for one_coin in (True, False):
        model = DawidSkene(one_coin).fit(votes, options)
        assert np.isnan(model.accuracies[0])
        with_vote = votes.copy()
        with_vote[:, 0] = 1
        voted = ~all_abstained(votes)
        probs, more = model.predict_proba(votes, options), model.predict_proba(with_vote, options)
        assert np.allclose(more[voted], probs[voted])


def test_perfect_agreement_stays_finite():
    votes = np.tile(np.arange(3)[:, None], (20, 4))
    for model in (DawidSkene(), DawidSkene(one_coin=True)):
        probs = model.fit(votes, 3).predict_proba(votes, 3)
        assert np.isfinite(probs).all() and (probs.max(1) > 0.999).all()


@pytest.mark.parametrize(
    "votes, n_options",
    [
        (np.zeros(5, int), 2),  # one dimension
        (np.zeros((5, 2)), 2),  # not integers
        (np.zeros((5, 0), int), 2),  # no LF
        (np.full((5, 2), 3), 3),  # beyond the number of options
        (np.full((5, 2), -2), 3),  # below -1
        (np.zeros((5, 2), int), np.array([2, 2])),  # one number of options per example is missing
        (np.zeros((5, 2), int), 1),  # a single option
        (np.full((5, 2), ABSTAIN), 2),  # no votes
    ],
)
def test_invalid_votes_raise_a_one_line_error(votes, n_options):
    with pytest.raises(ICFTError) as error:
        DawidSkene().fit(votes, n_options).predict_proba(votes, n_options)
    assert "\n" not in str(error.value) and str(error.value).startswith(("votes:", "n_options:"))


def test_model_and_matrix_must_match():
    votes, options, _ = simulate(n=50)
    with pytest.raises(ICFTError, match="one_coin=True"):
        DawidSkene().fit(votes, options)
    with pytest.raises(ICFTError, match="not fitted; call fit"):
        DawidSkene().predict_proba(votes, 5)
    with pytest.raises(ICFTError, match="fitted on 6"):
        DawidSkene(one_coin=True).fit(votes, options).predict_proba(votes[:, :3], options)
    with pytest.raises(ICFTError, match="fitted on 5"):
        DawidSkene().fit(votes, 5).predict_proba(votes, 6)


def make_example(i, responses=("a", "bb"), topic="t", task="question"):
    return {"id": f"r{i}", "task": task, "topic": topic, "prompt": "p", "responses": list(responses)}


def test_labeling_functions_vote_and_are_checked():
    @labeling_function(source="morphology", task="question")
    def longest(example):
        return int(np.argmax([len(text) for text in example["responses"]]))

    @labeling_function
    def abstaining(example):
        return ABSTAIN

    assert (longest.name, longest.source) == ("longest", "morphology")
    assert (abstaining.name, abstaining.source) == ("abstaining", "general")
    examples = [
        make_example(0),
        make_example(1, ("ccc", "d", "e")),
        make_example(2, task="pair"),
        make_example(3, ("one",)),
    ]
    votes = apply_lfs([longest, abstaining], examples)
    assert votes.dtype == np.int8 and votes.tolist() == [[1, -1], [0, -1], [-1, -1], [-1, -1]]

    @labeling_function("beyond")
    def out_of_range(example):
        return 2

    @labeling_function()
    def broken(example):
        return example["no such column"]

    with pytest.raises(ICFTError, match="beyond, example r0: voted 2; return an index into the example's 2 responses"):
        apply_lfs([out_of_range], examples)
    with pytest.raises(ICFTError, match="broken, example r0: KeyError.*; fix the function"):
        apply_lfs([broken], examples)
    with pytest.raises(ICFTError, match="'abstaining' is used twice"):
        apply_lfs([abstaining, abstaining], examples)


def test_a_callable_object_gets_the_name_of_its_class():
    class First:
        def __call__(self, example):
            return 0

    lf = labeling_function(First())
    assert isinstance(lf, LabelingFunction) and lf.name == "First" and lf(make_example(0)) == 0


def test_lf_analysis():
    lfs = [labeling_function(name)(lambda example: 0) for name in "abc"]
    votes = np.array([[0, 0, -1], [1, 0, -1], [-1, -1, 1], [0, -1, 0]])
    table = lf_analysis(votes, lfs, gold=np.array([0, 0, -1, 1]))
    assert table.coverage.tolist() == [0.75, 0.5, 0.5]
    assert table.overlap.tolist() == [0.75, 0.5, 0.25]
    assert table.conflict.tolist() == [0.25, 0.25, 0]
    assert table.accuracy.tolist() == [1 / 3, 1, 0]
    with pytest.raises(ICFTError, match="2 columns for 3"):
        lf_analysis(votes[:, :2], lfs)


def test_label_pool_fits_large_topics_separately_and_drops_unvoted_examples():
    votes, options, truth = simulate(n=500)
    pool = [
        make_example(i, [f"{i} {c}" for c in range(k)], "large" if i < 300 else f"small {i % 4}")
        for i, k in enumerate(options)
    ]
    votes[:300, :3] = votes[:300, 2::-1]  # each LF has another accuracy in the large topic
    votes[5] = ABSTAIN
    gold = {f"r{i}": int(c) for i, c in enumerate(truth)}
    posteriors, report = label_pool(pool, votes, gold=gold)
    assert posteriors[5] == [] and report["dropped_unvoted"] == all_abstained(votes).sum()
    assert report["num_examples"] == 500
    assert all(len(p) in (0, k) for p, k in zip(posteriors, options))
    assert [(fit["topic"], fit["model"]) for fit in report["fits"]] == [
        ("large", "one-coin"),
        ("other topics", "one-coin"),
    ]
    assert report["accuracy"] > label_pool(pool, votes, "majority_vote", gold=gold)[1]["accuracy"] + 0.02
    assert posteriors == label_pool(pool, votes)[0] and "accuracy" not in label_pool(pool, votes)[1]


def test_label_pool_uses_full_confusion_for_fixed_labels():
    votes, truth, *_ = simulate_full(n=400)
    _, report = label_pool([make_example(i, ("yes", "no", "maybe")) for i in range(400)], votes, gold=truth)
    assert [fit["model"] for fit in report["fits"]] == ["full confusion"] and report["accuracy"] > 0.85
    pairs = [make_example(i, (f"a{i}", f"b{i}"), task="pair") for i in range(400)]
    assert label_pool(pairs, np.minimum(votes, 1))[1]["fits"][0]["model"] == "full confusion"
    with pytest.raises(ICFTError, match="pool of 399"):
        label_pool(pairs[1:], votes)
    with pytest.raises(ICFTError, match="unknown"):
        label_pool(pairs, np.minimum(votes, 1), "mean")


def test_weak_supervision_imports_neither_torch_nor_datasets():
    code = "import sys, icft_lite.weak as weak; print(sorted({'torch', 'datasets'} & set(sys.modules)), weak.ABSTAIN)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[] -1\n"
