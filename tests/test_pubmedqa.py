"""Labelling functions for PubMedQA. Tests on the real release need ICFT_REAL_DATA, the folder that contains it."""

import os
from pathlib import Path

import numpy as np
import pytest

from icft_lite.data.splits import read_pubmedqa
from icft_lite.errors import ICFTError
from icft_lite.weak.functions import apply_lfs
from icft_lite.weak.label_models import ABSTAIN, MajorityVote
from icft_lite.weak.lfs import pubmedqa
from icft_lite.weak.lfs.pubmedqa import MAYBE, NO, YES, pubmedqa_weak_labels

RELEASE = Path(os.environ.get("ICFT_REAL_DATA", "unset"), "pubmedqa", "ori_pqal.json")
real = pytest.mark.skipif(not RELEASE.exists(), reason="set ICFT_REAL_DATA to a folder with pubmedqa/ori_pqal.json")


def make_example(question, conclusion, i=0, label=-1):
    return {
        "id": f"r{i}",
        "task": "question",
        "topic": "pubmedqa",
        "prompt": question,
        "label": label,
        "responses": ["yes", "no", "maybe"],
        "long_answer": conclusion,
    }


@pytest.mark.parametrize(
    "lf, question, conclusion, vote",
    [
        ("closest_sentence", "Does tea prevent falls?", "Many drank tea. Tea did not prevent falls.", NO),
        ("closest_sentence", "Does tea prevent falls?", "Some did not drink. Tea may prevent falls.", YES),
        ("closest_sentence", "Does tea prevent falls?", "Tea not only helps, it seems to prevent falls.", YES),
        ("echoed_claim", "Is tea effective?", "We tried it. Tea was ineffective and not effective.", NO),
        ("echoed_claim", "Is tea effective?", "Tea was effective.", YES),
        ("echoed_claim", "Tea or milk?", "Tea was effective.", ABSTAIN),
        ("finding", "Does tea matter?", "There was no significant change.", NO),
        ("finding", "Does tea matter?", "Tea was strongly associated with sleep.", YES),
        ("judgement", "Should we scan?", "Scanning is unnecessary.", NO),
        ("judgement", "Should we scan?", "Scanning is safe.", YES),
        ("judgement", "Should we scan?", "Scanning is safe but unnecessary.", ABSTAIN),
        ("comparison", "Is A different from B?", "Both were similar.", NO),
        ("comparison", "Is A as safe as B?", "Both were similar.", YES),
        ("question_tone", "Is it really needed?", "Yes.", NO),
        ("question_tone", "Is there any link?", "Yes.", YES),
        ("reservation", "Does it work?", "It works in selected patients.", MAYBE),
        ("reservation", "Does it work?", "It works.", YES),
    ],
)
def test_single_votes(lf, question, conclusion, vote):
    assert getattr(pubmedqa, lf)(make_example(question, conclusion)) == vote


def test_invalid_examples_raise_a_one_line_error():
    good = [make_example("Does tea help?", "Tea helps.", i) for i in range(3)]
    with pytest.raises(ICFTError, match="example r7: no long_answer"):
        pubmedqa_weak_labels([*good, make_example("Does tea help?", "", 7)])
    with pytest.raises(ICFTError, match="example r0: responses .* must be yes, no, maybe"):
        pubmedqa_weak_labels([*good, {**good[0], "responses": ["no", "yes", "maybe"]}])
    posteriors, report = pubmedqa_weak_labels(good)
    assert len(posteriors) == 3 and "accuracy" not in report and "accuracy" not in report["lfs"][0]


def test_few_examples_do_not_get_full_confusion():
    """Three conclusions that all functions agree on are not enough to be certain."""
    texts = ["Tea was safe and effective.", "Tea was not effective.", "Tea may be effective in selected patients."]
    posteriors, report = pubmedqa_weak_labels(
        [make_example("Is tea effective?", text, i) for i, text in enumerate(texts)]
    )
    assert np.argmax(posteriors, 1)[:2].tolist() == [YES, NO] and np.max(posteriors) < 0.995
    assert "(3 examples): 2 votes per labelling function are too few" in report["notes"][0]


@real
def test_weak_labels_are_better_than_the_majority_class_on_the_test_part(capsys):
    train, test = read_pubmedqa(RELEASE)
    posteriors, report = pubmedqa_weak_labels(train, test)
    with capsys.disabled():
        print()
        for lf in report["lfs"]:
            print(f"  {lf['lf']:18s} coverage {lf['coverage']:.3f}  accuracy {lf['accuracy']:.3f}")
        print(
            f"  label model {report['accuracy']:.3f}, 95 % lower bound {report['lower_95']:.3f}; majority "
            f"vote {report['majority_vote']:.3f}; majority class {report['majority_class']:.3f}"
        )
    assert (len(train), report["fitted_on"], report["n"], report["majority_class"]) == (500, 500, 500, 0.552)
    assert report["lower_95"] > 0.552 and report["accuracy"] >= 0.72
    assert np.allclose(np.sum(posteriors, axis=1), 1)


@real
def test_gold_labels_and_published_predictions_are_not_read():
    train, _ = read_pubmedqa(RELEASE)
    train = train.select(range(0, 500, 5))
    posteriors, _ = pubmedqa_weak_labels(train)
    names = ("id", "task", "prompt", "responses", "long_answer")
    unlabelled = [{name: example[name] for name in names} for example in train]
    assert pubmedqa_weak_labels(unlabelled)[0] == posteriors
    assert not [name for name in train.column_names if "pred" in name or "decision" in name]


def test_the_label_model_of_a_run_is_used():
    texts = ["Tea was effective.", "Tea was not effective.", "Tea was safe but it was not effective."] * 10
    train = [make_example("Is tea effective?", text, i) for i, text in enumerate(texts)]
    posteriors, report = pubmedqa_weak_labels(train, model="majority_vote")
    shares = MajorityVote().predict_proba(apply_lfs(pubmedqa.pubmedqa_lfs(), train), 3)
    assert report["label_model"] == "majority_vote" and np.allclose(posteriors, shares)
    assert not np.allclose(pubmedqa_weak_labels(train)[0], shares)
