"""The embedded base is the one that its card describes: it knows general facts, and no medicine."""

import hashlib
import re

import pytest

from icft_lite.data.samples import load_samples
from icft_lite.evaluation import evaluate_suite
from icft_lite.modeling.base import TINY, load_base
from icft_lite.statistics import binomial_interval

CARD = (TINY / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def scores():
    """Scores in NF4, which runs use."""
    suites = {"general": load_samples("general_test"), "medical": load_samples("medical_test")}
    questions = {
        name: suite.filter(lambda task: task == "question", input_columns="task") for name, suite in suites.items()
    }
    model, tokenizer = load_base("tiny")
    return {name: score["qa"] for name, score in evaluate_suite(model, tokenizer, questions).items()}


def on_card(what):
    """The NF4 column of the card's table row for `what`."""
    (value,) = re.findall(rf"^\| general \| {what} \|.*\| ([\d.]+) \|$", CARD, re.MULTILINE)
    return float(value)


def test_the_card_describes_these_weights():
    digest = hashlib.sha256((TINY / "model.safetensors").read_bytes()).hexdigest()
    assert digest in CARD


def test_scores_equal_those_on_the_card(scores):
    assert scores["general"]["value"] == pytest.approx(on_card("exact match, mean over topics"), abs=0.02)
    for topic, entry in scores["general"]["by_topic"].items():
        assert entry["value"] == pytest.approx(on_card(topic), abs=0.1), topic  # 20 to 40 questions each


def test_it_has_general_knowledge_to_forget(scores):
    topics = scores["general"]["by_topic"]
    assert scores["general"]["value"] >= 0.90
    assert sum(topics[name]["value"] for name in ("addition", "subtraction", "comparison")) / 3 >= 0.80


def test_it_knows_no_medicine(scores):
    qa = scores["medical"]
    low, high = binomial_interval(round(qa["option_accuracy"] * qa["n"]), qa["n"])
    assert low <= qa["option_chance"] <= high
    assert qa["value"] <= 0.02
