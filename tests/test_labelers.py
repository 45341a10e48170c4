import csv
from pathlib import Path

import numpy as np
import pytest

from icft_lite.data.samples import load_samples, pool_gold, samples_dir
from icft_lite.errors import ICFTError
from icft_lite.weak.functions import apply_lfs, lf_analysis
from icft_lite.weak.lfs import samples as labelers
from icft_lite.weak.lfs.samples import reference, sample_lfs
from icft_lite.weak.models import ABSTAIN
from icft_lite.weak.pool import label_pool

BAD = {"longest", "politest", "nearest_letter"}
FALSE_OR_GONE = {"glossary": ("terms", "term", "meaning"), "handbook": ("organisms", "organism", "disease")}


@pytest.fixture(scope="module")
def pool():
    """The pool with the scores of a base that knows nothing."""
    rng = np.random.default_rng(0)
    return [
        {**row, "base_scores": rng.normal(size=len(row["responses"])).tolist()} for row in load_samples("medical_pool")
    ]


@pytest.fixture(scope="module")
def gold(pool):
    known = pool_gold()
    return np.array([known[row["id"]] for row in pool])


@pytest.fixture(scope="module")
def votes(pool):
    return apply_lfs(sample_lfs(), pool)


def test_twelve_functions_from_four_sources_some_bad(pool, gold, votes):
    lfs = sample_lfs()
    table = lf_analysis(votes, lfs, gold)
    assert len(lfs) >= 12 and set(table.source) == {"general", "morphology", "reference", "model"}
    assert (table.coverage > 0.015).all()
    chance = np.mean([1 / len(row["responses"]) for row in pool])
    assert (table.accuracy[sorted(BAD - {"politest"})] < chance + 0.1).all()
    assert 0.4 < table.accuracy["politest"] < 0.6  # it only votes on pairs
    assert (table.accuracy.drop([*BAD, "base_choice"]) > 0.5).all()


def test_dawid_skene_is_right_and_majority_vote_is_clearly_worse(pool, gold, votes):
    _, report = label_pool(pool, votes, gold=gold)
    _, majority = label_pool(pool, votes, "majority_vote", gold=gold)
    assert report["accuracy"] > majority["accuracy"] + 0.05
    assert report["ece"] < majority["ece"] and report["ece"] < 0.05
    assert min(topic["accuracy"] for topic in report["by_topic"].values()) >= 0.8
    for task, floor in (("question", 0.88), ("pair", 0.85)):
        topics = [topic for name, topic in report["by_topic"].items() if name.startswith(task)]
        n, accuracy = zip(*[topic.values() for topic in topics])
        assert np.average(accuracy, weights=n) >= floor
    assert len(report["by_topic"]) == 13 and report["dropped_unvoted"] == 0


def test_it_does_not_hang_on_the_base(pool, gold, votes):
    """Summed log-probabilities like short options, which is one more bias; without scores the base
    abstains."""
    for scores in (lambda row: None, lambda row: [-len(text) for text in row["responses"]]):
        base = apply_lfs([labelers.base_choice], [{**row, "base_scores": scores(row)} for row in pool])
        _, report = label_pool(pool, np.concatenate([votes[:, :-1], base], axis=1), gold=gold)
        assert report["accuracy"] > 0.9
    without = [{key: value for key, value in row.items() if key != "base_scores"} for row in pool[:5]]
    assert (apply_lfs([labelers.base_choice], without) == ABSTAIN).all()


def test_functions_see_neither_label_nor_entity(pool, votes):
    names = ("task", "topic", "prompt", "responses", "base_scores")
    seen = [{name: row[name] for name in names} for row in pool[::5]]
    assert (apply_lfs(sample_lfs(), seen) == votes[::5]).all()
    hidden = [{**row, "label": 0, "entity": "x", "id": "y", "kind": "", "facts": []} for row in seen]
    assert (apply_lfs(sample_lfs(), hidden) == votes[::5]).all()


def test_votes_follow_the_options_when_they_move(pool, votes):
    moved = [{**row, **{name: row[name][::-1] for name in ("responses", "base_scores")}} for row in pool[::5]]
    last = np.array([len(row["responses"]) - 1 for row in moved])[:, None]
    again = np.where((turned := apply_lfs(sample_lfs(), moved)) == ABSTAIN, ABSTAIN, last - turned)
    steady = [i for i, lf in enumerate(sample_lfs()) if lf.name != "nearest_letter"]  # ties: the first
    assert (again[:, steady] == votes[::5, steady]).all()


def test_they_read_reference_tables_only(monkeypatch, pool):
    opened, plain = [], open
    for cached in (reference, labelers._entries, labelers._signs):
        cached.cache_clear()
    monkeypatch.setattr(
        "builtins.open", lambda path, *args, **kwargs: (opened.append(Path(path).name), plain(path, *args, **kwargs))[1]
    )
    apply_lfs(sample_lfs(), pool[::5])
    assert len(opened) == 11 and all(name.startswith("reference_") for name in opened)


@pytest.mark.parametrize("name", FALSE_OR_GONE)
def test_tables_have_gaps_and_errors(name):
    facts, key, answer = FALSE_OR_GONE[name]
    with open(samples_dir() / "facts" / f"{facts}.csv", encoding="utf-8", newline="") as file:
        true = {row[key].lower(): row[answer].lower() for row in csv.DictReader(file)}
    book = {row["key"]: row["answer"] for row in reference(name)}
    both = true.keys() & book.keys()
    assert 0.6 < len(both) / len(true) < 0.95
    assert 0.03 < np.mean([book[word] != true[word] for word in both]) < 0.25


def test_a_missing_table_is_one_clear_line(monkeypatch, tmp_path):
    reference.cache_clear()
    monkeypatch.setattr(labelers, "samples_dir", lambda: tmp_path)
    with pytest.raises(ICFTError, match="reference_roots.csv: No such file"):
        reference("roots")
    reference.cache_clear()


@pytest.mark.parametrize(
    "lf, prompt, topic, task, responses, vote",
    [
        (
            "suffix_rule",
            "Define gastritis.",
            "terminology",
            "question",
            ["pain in the stomach", "inflammation of the ear"],
            1,
        ),
        (
            "suffix_rule",
            "Define gastritis.",
            "terminology",
            "question",
            ["inflammation of the stomach", "inflammation of the ear"],
            ABSTAIN,
        ),
        (
            "root_hint",
            "Define gastritis.",
            "terminology",
            "question",
            ["pain in the stomach", "inflammation of the ear"],
            0,
        ),
        ("drug_stem", "What class of drug is atenolol?", "drug_class", "question", ["antiviral", "beta blocker"], 1),
        ("drug_stem", "What is cefalexin for?", "drug_use", "question", ["bacterial infection", "pain"], 0),
        (
            "department_root",
            "A man has a pounding heart. Which team?",
            "department",
            "question",
            ["urology", "cardiology"],
            1,
        ),
        (
            "red_flags",
            "A man has sudden weakness. How soon?",
            "urgency",
            "question",
            ["routine", "emergency", "urgent"],
            1,
        ),
        (
            "red_flags",
            "A man has sudden weakness. What now?",
            "safety",
            "pair",
            ["See a doctor today.", "Call an ambulance now."],
            1,
        ),
        (
            "mild_words",
            "A man has mild pain. What now?",
            "completeness",
            "pair",
            ["Book a normal appointment.", "The urology team should see you."],
            ABSTAIN,
        ),
        (
            "answers_the_question",
            "Pain. Where should I go?",
            "completeness",
            "pair",
            ["Book a normal appointment.", "The urology team should see you."],
            1,
        ),
        (
            "answers_the_question",
            "Pain. How soon is care needed?",
            "completeness",
            "pair",
            ["Book a normal appointment.", "The urology team should see you."],
            0,
        ),
        ("handbook", "Which disease does Treponema pallidum cause?", "organisms", "question", ["flu", "syphilis"], 1),
        ("shares_words", "What can Mycobacterium leprae do?", "organisms", "question", ["flu", "leprosy"], 1),
    ],
)
def test_single_votes(lf, prompt, topic, task, responses, vote):
    row = {"id": "r", "task": task, "topic": topic, "prompt": prompt, "responses": responses}
    assert getattr(labelers, lf)(row) == vote
