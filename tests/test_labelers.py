"""Labelling functions of the bundled samples: coverage, accuracy, single votes, and what they read."""

import csv
from pathlib import Path

import numpy as np
import pytest

from icft_lite.data.samples import load_samples, pool_gold, samples_dir
from icft_lite.errors import ICFTError
from icft_lite.weak.functions import apply_lfs, lf_analysis
from icft_lite.weak.label_models import ABSTAIN
from icft_lite.weak.lfs import samples as labelers
from icft_lite.weak.lfs.samples import reference, sample_lfs
from icft_lite.weak.pool import label_pool

POOR = {"longest", "politest", "nearest_letter"}
INCOMPLETE_TABLES = {"glossary": ("terms", "term", "meaning"), "handbook": ("organisms", "organism", "disease")}


@pytest.fixture(scope="module")
def pool():
    """The pool with random scores in place of those of the base."""
    rng = np.random.default_rng(0)
    return [
        {**example, "base_scores": rng.normal(size=len(example["responses"])).tolist()}
        for example in load_samples("medical_pool")
    ]


@pytest.fixture(scope="module")
def gold(pool):
    known = pool_gold()
    return np.array([known[example["id"]] for example in pool])


@pytest.fixture(scope="module")
def votes(pool):
    return apply_lfs(sample_lfs(), pool)


def test_functions_come_from_four_sources_and_three_are_poor(pool, gold, votes):
    lfs = sample_lfs()
    table = lf_analysis(votes, lfs, gold)
    assert len(lfs) >= 12 and set(table.source) == {"general", "morphology", "reference", "model"}
    assert (table.coverage > 0.015).all()
    chance = np.mean([1 / len(example["responses"]) for example in pool])
    assert (table.accuracy[sorted(POOR - {"politest"})] < chance + 0.1).all()
    assert 0.4 < table.accuracy["politest"] < 0.6  # it only votes on pairs
    assert (table.accuracy.drop([*POOR, "base_choice"]) > 0.5).all()


def test_dawid_skene_is_clearly_more_accurate_than_majority_vote(pool, gold, votes):
    _, report = label_pool(pool, votes, gold=gold)
    _, majority = label_pool(pool, votes, "majority_vote", gold=gold)
    assert report["accuracy"] > majority["accuracy"] + 0.05
    assert report["ece"] < majority["ece"] and report["ece"] < 0.05
    assert min(topic["accuracy"] for topic in report["by_topic"].values()) >= 0.8
    for task, least in (("question", 0.88), ("pair", 0.85)):
        topics = [topic for name, topic in report["by_topic"].items() if name.startswith(task)]
        n, accuracy = zip(*[topic.values() for topic in topics])
        assert np.average(accuracy, weights=n) >= least
    assert len(report["by_topic"]) == 13 and report["dropped_unvoted"] == 0


def test_labels_do_not_depend_on_the_base(pool, gold, votes):
    """A base that abstains, or that prefers short options as summed log-probabilities do, changes little."""
    for scores in (lambda example: None, lambda example: [-len(text) for text in example["responses"]]):
        scored = [{**example, "base_scores": scores(example)} for example in pool]
        base = apply_lfs([labelers.base_choice], scored)
        _, report = label_pool(pool, np.concatenate([votes[:, :-1], base], axis=1), gold=gold)
        assert report["accuracy"] > 0.9
    without = [{key: value for key, value in example.items() if key != "base_scores"} for example in pool[:5]]
    assert (apply_lfs([labelers.base_choice], without) == ABSTAIN).all()


def test_functions_read_neither_label_nor_entity(pool, votes):
    names = ("task", "topic", "prompt", "responses", "base_scores")
    readable = [{name: example[name] for name in names} for example in pool[::5]]
    assert (apply_lfs(sample_lfs(), readable) == votes[::5]).all()
    changed = [{**example, "label": 0, "entity": "x", "id": "y", "kind": "", "facts": []} for example in readable]
    assert (apply_lfs(sample_lfs(), changed) == votes[::5]).all()


def test_votes_do_not_depend_on_the_order_of_the_options(pool, votes):
    reversed_pool = [
        {**example, **{name: example[name][::-1] for name in ("responses", "base_scores")}} for example in pool[::5]
    ]
    last = np.array([len(example["responses"]) - 1 for example in reversed_pool])[:, None]
    reversed_votes = apply_lfs(sample_lfs(), reversed_pool)
    mapped_back = np.where(reversed_votes == ABSTAIN, ABSTAIN, last - reversed_votes)
    # nearest_letter takes the first of several equally near responses
    without_ties = [i for i, lf in enumerate(sample_lfs()) if lf.name != "nearest_letter"]
    assert (mapped_back[:, without_ties] == votes[::5, without_ties]).all()


def test_functions_open_reference_tables_only(monkeypatch, pool):
    opened, real_open = [], open
    for cached in (reference, labelers._topic_entries, labelers._triage_signs):
        cached.cache_clear()

    def recording_open(path, *args, **kwargs):
        opened.append(Path(path).name)
        return real_open(path, *args, **kwargs)

    for name in ("builtins.open", "io.open"):  # Path.open calls io.open
        monkeypatch.setattr(name, recording_open)
    apply_lfs(sample_lfs(), pool[::5])
    assert len(opened) == 11 and all(name.startswith("reference_") for name in opened)


@pytest.mark.parametrize("name", INCOMPLETE_TABLES)
def test_tables_have_gaps_and_errors(name):
    facts, key, answer = INCOMPLETE_TABLES[name]
    with (samples_dir() / "facts" / f"{facts}.csv").open(encoding="utf-8", newline="") as file:
        true = {entry[key].lower(): entry[answer].lower() for entry in csv.DictReader(file)}
    table = {entry["key"]: entry["answer"] for entry in reference(name)}
    both = true.keys() & table.keys()
    assert 0.6 < len(both) / len(true) < 0.95
    assert 0.03 < np.mean([table[word] != true[word] for word in both]) < 0.25


def test_a_missing_table_raises_a_one_line_error(monkeypatch, tmp_path):
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
    example = {"id": "r", "task": task, "topic": topic, "prompt": prompt, "responses": responses}
    assert getattr(labelers, lf)(example) == vote
