"""Labelling functions, label models (compared with crowd-kit), and the labels of a pool."""

import copy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from datasets import concatenate_datasets

from icft_lite.config import ICFTConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.data.samples import sample_bundle
from icft_lite.data.tables import to_dataset
from icft_lite.errors import ICFTError, explain_error
from icft_lite.modeling.encoding import Encoder
from icft_lite.training.examples import check_pool, make_training_examples
from icft_lite.training.loop import train_icft
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
from icft_lite.weak.files import EXAMPLE, load_lfs
from icft_lite.weak.lfs.common import base_choice
from icft_lite.weak.pool import PRIOR_STRENGTH

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
    assert votes.dtype == np.int32 and votes.tolist() == [[1, -1], [0, -1], [-1, -1], [-1, -1]]

    @labeling_function("beyond")
    def out_of_range(example):
        return 2

    @labeling_function()
    def broken(example):
        return example["no such column"]

    with pytest.raises(
        ICFTError, match=r"beyond, example r0: voted 2; return the index \(int\) of one of the example's 2 responses"
    ):
        apply_lfs([out_of_range], examples)
    with pytest.raises(ICFTError, match="broken, example r0: KeyError.*; fix the function"):
        apply_lfs([broken], examples)
    with pytest.raises(ICFTError, match="'abstaining' is used 2 times"):
        apply_lfs([abstaining, abstaining], examples)


def test_labelling_functions_cannot_change_the_examples():
    @labeling_function
    def sorts(example):
        example["responses"].sort(key=len)
        example["prompt"] = "changed"
        return example["responses"].index("kidney")

    examples = [dict(id="a", task="question", prompt="Which?", responses=["kidney", "ear"], history=[])]
    before = copy.deepcopy(examples)
    assert apply_lfs([sorts, sorts_not := labeling_function(name="first")(lambda example: 0)], examples).tolist() == [
        [1, 0]
    ]
    assert examples == before and sorts_not.name == "first"


def test_a_function_that_exits_is_named_and_a_task_that_no_example_has_is_refused():
    @labeling_function
    def leaves(example):
        raise SystemExit(0)

    examples = [dict(id="a", task="question", responses=["x", "y"])]
    with pytest.raises(ICFTError, match="labelling function leaves, example a: SystemExit: 0; fix the function"):
        apply_lfs([leaves], examples)
    with pytest.raises(ICFTError, match="labelling function f: task 'questions' is unknown; give question or pair"):
        labeling_function(name="f", task="questions")(lambda example: 0)


def test_a_pool_that_hardly_gets_votes_is_noted():
    examples = [dict(id=str(i), task="question", topic="t", responses=["x", "y"]) for i in range(10)]
    votes = np.full((10, 3), -1)
    votes[:4] = 0
    _, report = label_pool(examples, votes)
    assert "no labelling function votes on 6 of 10 examples: they are left out" in report["notes"]
    votes[:5] = 0
    assert not any("votes on" in note for note in label_pool(examples, votes)[1].get("notes", []))


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


# ---------------------------------------------------------------- few voters, few examples


def draw_votes(seed, n, k, accuracies, coverage=1.0):
    """Return (votes [n, m], truth [n]) of independent LFs with k options each."""
    return simulate(n, seed, k, np.array(accuracies), np.full(len(accuracies), coverage))[::2]


def label(votes, k, responses=None, **settings):
    """Return (posteriors [n, k] of the examples with votes, their truth mask, report)."""
    task = "pair" if responses == "pair" else "question"
    options = [responses if isinstance(responses, tuple) else [f"{i} {c}" for c in range(k)] for i in range(len(votes))]
    return label_pool([make_example(i, one, task=task) for i, one in enumerate(options)], votes, **settings)


SMALL_POOLS = {
    "one voter": (dict(n=20, k=4, accuracies=[0.75]), None),
    "two voters, one of them at chance": (dict(n=20, k=4, accuracies=[0.75, 0.3]), None),
    "random votes": (dict(n=40, k=4, accuracies=[0.25] * 5), None),
    "three voters on pairs": (dict(n=30, k=2, accuracies=[0.8, 0.7, 0.6]), "pair"),
    "random votes on pairs": (dict(n=30, k=2, accuracies=[0.5] * 3), "pair"),
    "seven voters, three fixed labels": (
        dict(n=60, k=3, accuracies=[0.7, 0.7, 0.6, 0.6, 0.5, 0.5, 0.4], coverage=0.7),
        ("yes", "no", "maybe"),
    ),
}


@pytest.mark.parametrize("name", SMALL_POOLS)
def test_labels_of_small_pools_are_not_overconfident(name):
    """Over 40 seeds. Without a prior, random votes get labels with a mean confidence of 0.8."""
    arguments, responses = SMALL_POOLS[name]
    confidence, correct, majority = [], [], []
    for seed in range(40):
        votes, truth = draw_votes(seed, **arguments)
        posteriors, _ = label(votes, arguments["k"], responses)
        shares = MajorityVote().predict_proba(votes, arguments["k"])
        for posterior, share, answer in zip(posteriors, shares, truth):
            if posterior:
                confidence.append(max(posterior))
                correct.append(int(np.argmax(posterior)) == answer)
                majority.append(int(share.argmax()) == answer)
    assert np.mean(confidence) <= np.mean(correct) + 0.1
    assert np.mean(correct) >= np.mean(majority) - 0.02


@pytest.mark.parametrize("k, one, two", [(2, 0.75, 0.9), (4, 0.625, 0.893)])
@pytest.mark.parametrize("model", ["dawid_skene", "majority_vote"])
def test_one_or_two_voters_never_make_a_label_certain(k, one, two, model):
    """However many examples there are, and also if the two always agree: copies do that as well."""
    votes, _ = draw_votes(0, 500, k, [0.9])
    posteriors, report = label(votes, k, model=model)
    assert np.allclose(np.max(posteriors, 1), one) and (np.argmax(posteriors, 1) == votes[:, 0]).all()
    assert report["fits"][0]["model"] == "equal accuracies"
    assert report["notes"][0].startswith("weak labels of question/t (500 examples): 1 labelling function with")
    second = votes.copy()
    second[::2] = ABSTAIN
    posteriors, report = label(np.concatenate([votes, second], 1), k, model=model)
    assert np.allclose(np.max(posteriors, 1)[1::2], two, atol=1e-3) and "2 labelling functions" in report["notes"][0]


def test_exact_copies_count_as_one_voter():
    votes, _ = draw_votes(0, 300, 4, [0.6, 0.6])
    two, copied = (label(votes[:, columns], 4) for columns in ([0, 1], [0, 1, 0, 0, 1]))
    assert two[0] == copied[0] and [fit["model"] for fit in copied[1]["fits"]] == ["equal accuracies"]


def test_full_confusion_needs_enough_votes():
    for n, kind in ((100, "one-coin"), (300, "full confusion")):
        votes, truth = simulate_full(n=n)[:2]
        posteriors, report = label(votes, 3, ("yes", "no", "maybe"), gold=truth)
        assert report["fits"][0]["model"] == kind
        assert report["accuracy"] > 0.7 and report["ece"] < 0.15
        assert ("notes" in report) == (kind == "one-coin")
    votes = simulate_full(n=100)[0]  # copies bring no votes of their own
    copied = label(np.concatenate([votes] * 4, 1), 3, ("yes", "no", "maybe"))[1]
    assert copied["fits"][0]["model"] == "one-coin"
    assert "80 votes per labelling function are too few" in label(votes[:100], 3, ("yes", "no", "maybe"))[1]["notes"][0]


def test_the_prior_fades_with_the_number_of_votes():
    votes, options, _ = simulate(n=20_000)
    plain, with_prior = (DawidSkene(one_coin=True, prior_strength=s).fit(votes, options) for s in (0, PRIOR_STRENGTH))
    assert np.abs(plain.accuracies - with_prior.accuracies).max() < 0.005


def test_a_topic_per_example_is_one_fit():
    votes, truth = draw_votes(3, 200, 4, [0.8, 0.7, 0.6])
    pool = [make_example(i, [f"{i} {c}" for c in range(4)], topic=f"topic {i}") for i in range(200)]
    posteriors, report = label_pool(pool, votes, gold=truth)
    assert [(fit["topic"], fit["n"]) for fit in report["fits"]] == [("other topics", 200)] and report["accuracy"] > 0.75


# ---------------------------------------------------------------- what a labelling function may return


@pytest.mark.parametrize("vote", [True, np.True_, None, 0.0, "a"])
def test_a_vote_that_is_no_index_is_refused(vote):
    lf = labeling_function("rule")(lambda example: vote)
    with pytest.raises(ICFTError) as error:
        apply_lfs([lf], [make_example(0)])
    assert f"rule, example r0: voted {vote!r}; return the index (int)" in str(error.value)
    assert "ABSTAIN (-1)" in str(error.value)


def test_votes_may_exceed_127():
    lfs = [labeling_function("last")(lambda example: np.int64(len(example["responses"]) - 1))]
    assert apply_lfs(lfs, [make_example(0, [str(i) for i in range(300)])]).tolist() == [[299]]


# ---------------------------------------------------------------- files of labelling functions


QUESTIONS = [
    ("Which organ filters the blood of waste?", ["the kidney that filters waste", "the ear", "the eye"]),
    ("What treats a bacterial infection?", ["rest", "an antibiotic against bacterial infection"]),
    ("What is the colour of bile?", ["red", "green"]),
]


def test_the_example_in_the_message_labels_questions(write):
    lfs = load_lfs(write("mine.py", EXAMPLE))
    assert [lf.name for lf in lfs] == ["base_choice", "shares_words"]
    pool = [
        {**make_example(i, responses), "prompt": prompt, "base_scores": [0.0] * (len(responses) - 1) + [1.0]}
        for i, (prompt, responses) in enumerate(QUESTIONS)
    ]
    assert apply_lfs(lfs, pool).tolist() == [[2, 0], [1, 1], [1, ABSTAIN]]


def test_lfs_are_read_in_order_and_a_list_named_lfs_decides(write):
    code = """
from icft_lite import labeling_function
@labeling_function
def second(example): return 1
@labeling_function(source="mine")
def first(example): return 0
again = first
"""
    lfs = load_lfs(write("a.py", code))
    assert [(lf.name, lf.source, lf(make_example(0))) for lf in lfs] == [("second", "general", 1), ("first", "mine", 0)]
    assert [lf.name for lf in load_lfs(write("b.py", code + "LFS = [first]\n"))] == ["first"]


@pytest.mark.parametrize(
    "code, message",
    [
        ("x = 1\ndef f(:\n", "mine.py:2: invalid syntax"),
        ("x = 1\n\ny = x / 0\n", "mine.py:3: ZeroDivisionError: division by zero"),
        ("import no_such_module_here\n", "mine.py:1: ModuleNotFoundError"),
        ("open('no such file')\n", "mine.py:1: FileNotFoundError"),
        ("def longest(example): return 0\n", "mine.py: no labelling function; write @labeling_function above each"),
        ("LFS = [len]\n", "mine.py: LFS contains <built-in function len>; write @labeling_function above"),
        (
            "from icft_lite import labeling_function as lf\na = lf('x')(min)\nb = lf('x')(max)\n",
            "mine.py: the name 'x' is used 2 times",
        ),
        ("from icft_lite import labeling_function as lf\nlf()(1)(2)\n", "mine.py:2: TypeError"),
    ],
)
def test_a_file_without_usable_functions_is_refused(write, code, message):
    with pytest.raises(ICFTError) as error:
        load_lfs(write("mine.py", code))
    text = str(error.value).removesuffix(error.value.example)
    assert message in text and "\n" not in text.strip()
    assert ("@labeling_function\ndef shares_words" in str(error.value)) == ("no labelling function" in message)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ICFTError, match="absent.py: No such file or directory; give a Python file"):
        load_lfs(tmp_path / "absent.py")
    (tmp_path / "binary.py").write_bytes(b"\xff\xfe")
    with pytest.raises(ICFTError, match="binary.py: not a text in UTF-8; give a Python file"):
        load_lfs(tmp_path / "binary.py")


def test_the_command_line_prints_the_example_as_it_is(write):
    with pytest.raises(ICFTError) as error:
        load_lfs(write("mine.py", "x = 1\n"))
    message, code = explain_error(error.value)
    line, example = message.split("\n\n", 1)
    assert code == 2 and line.endswith("A file that works:") and "\n" not in line and example == EXAMPLE


def test_the_functions_are_part_of_what_identifies_the_data(write):
    one, same, other = (
        load_lfs(write(name, EXAMPLE + end)) for name, end in (("a.py", ""), ("b.py", ""), ("c.py", "#"))
    )
    hashes = [DataBundle(lfs=lfs).content_hash() for lfs in (one, same, other, one[:1])]
    assert hashes[0] == hashes[1] != hashes[2] and hashes[0] != hashes[3]
    assert DataBundle().content_hash() == {}

    @labeling_function
    def rule(example):
        return 0

    before = rule

    @labeling_function
    def rule(example):
        return 1

    assert DataBundle(lfs=[before]).content_hash() != DataBundle(lfs=[rule]).content_hash()


# ---------------------------------------------------------------- which functions label which examples


def questions(make, n=12, prefix="q"):
    """Return n unlabelled questions; the right option, the second, shares a word with the question."""
    return to_dataset(
        make(
            id=f"{prefix}{i}",
            task="question",
            topic="drugs",
            prompt=f"What does preparation{i} lower?",
            responses=[f"pain {i}", f"what preparation{i} lowers", f"fever {i}"],
            label=-1,
        )
        for i in range(n)
    )


def test_a_pool_without_functions_is_refused_with_a_working_example(example, tmp_path, monkeypatch):
    data, out = DataBundle(pool=questions(example)), tmp_path / "run"
    monkeypatch.setattr("icft_lite.training.loop.prepare", lambda *args: pytest.fail("the base is loaded"))
    with pytest.raises(ICFTError) as error:
        train_icft(ICFTConfig(), out, data, progress=False)
    assert "12 examples have no label (the first is q0)" in str(error.value) and "--lfs FILE.py" in str(error.value)
    assert error.value.example == EXAMPLE and not out.exists(), "the same folder can be used with --lfs"
    labelled = [
        replace(data, posteriors={"q0": [0.1, 0.8, 0.1]}),
        replace(data, own_lfs={f"q{i}": "samples" for i in range(12)}),
        replace(data, lfs=[base_choice]),
    ]
    for one in labelled:
        check_pool(one, ICFTConfig())
    check_pool(replace(data, pool_gold={f"q{i}": 1 for i in range(12)}), ICFTConfig.preset("gold"))
    with pytest.raises(ICFTError, match="gold label of example q0 is not known"):
        check_pool(data, ICFTConfig.preset("gold"))
    with pytest.raises(ICFTError, match="lfs: they would label nothing.* leave out --lfs"):
        check_pool(replace(labelled[1], lfs=[base_choice]), ICFTConfig())


def test_examples_are_labelled_by_the_functions_of_their_data_set(adapted, example, write):
    encoder = Encoder(adapted[1], 64)
    lfs = load_lfs(write("mine.py", EXAMPLE))
    own = sample_bundle()
    bundled = own.pool.select(range(0, 900, 90))
    data = DataBundle(pool=questions(example), lfs=lfs)
    soft = ICFTConfig.preset("soft_labels")
    examples, report = make_training_examples(data, soft, adapted[0], encoder)
    assert [lf["lf"] for lf in report["lfs"]] == ["base_choice", "shares_words"]
    assert [fit["model"] for fit in report["fits"]] == ["equal accuracies"]
    assert all(max(one["posterior"]) < 0.95 for one in examples)
    assert report["lfs"][0]["coverage"] == 1 and report["lfs"][1]["coverage"] == 1
    long = example(id="long", task="question", prompt="word " * 80, responses=["a", "b"], label=-1)
    mixed = concatenate_datasets([bundled, questions(example), to_dataset([long])])
    both, joined = make_training_examples(replace(data, pool=mixed, own_lfs=own.own_lfs), soft, adapted[0], encoder)
    alone = make_training_examples(DataBundle(pool=bundled, own_lfs=own.own_lfs), soft, adapted[0], encoder)[0]
    posteriors = {one["id"]: one["posterior"] for one in both}
    assert posteriors == {one["id"]: pytest.approx(one["posterior"]) for part in (alone, examples) for one in part}
    assert joined["too_long"] == ["long"] and joined["num_examples"] == 22
    assert len(joined["lfs"]) == 23 and len(joined["fits"]) == 2 and joined["notes"]
