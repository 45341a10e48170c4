"""The recorded scores on unseen topics, and the table and the sentences about them in docs/results.md."""

import json
from pathlib import Path

import numpy as np
import pytest

import icft_lite
from icft_lite.data.sources import bundle_from_files
from icft_lite.experiments.paper.studies import STUDIES
from icft_lite.statistics import mean_interval

ROOT = Path(icft_lite.__file__).parents[1]
RECORDS = sorted((ROOT / "icft_lite" / "experiments" / "results").glob("unseen-topics-*.json"))
PAIRS = {"completeness", "safety"}
PAGE = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("## Unseen topics")[2].partition("\n## ")[0]


def mean_over_topics(scores, of_pairs):
    """The mean score over topics of each split: {method: [score]}."""
    return {
        method: [
            np.mean([one["value"] for topic, one in topics.items() if (topic in PAIRS) == of_pairs])
            for topics in splits.values()
        ]
        for method, splits in scores.items()
    }


def test_there_is_a_record():
    assert [path.stem for path in RECORDS] == ["unseen-topics-tiny-short"]


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_no_topic_was_trained_on_and_none_is_left_out(path):
    record = json.loads(path.read_text(encoding="utf-8"))
    test = bundle_from_files(["samples"], ["samples"]).test
    expected = {one["topic"] for one in test} - {*STUDIES[record["study"]].settings["topics"]}
    for topics in (topics for splits in record["scores"].values() for topics in splits.values()):
        assert {*topics} == expected and all(0 <= one["value"] <= 1 and one["n"] >= 20 for one in topics.values())


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
@pytest.mark.parametrize("of_pairs", [False, True], ids=["questions", "pairs"])
def test_the_table_has_the_recorded_scores(path, of_pairs):
    record = json.loads(path.read_text(encoding="utf-8"))
    scores, topics = mean_over_topics(record["scores"], of_pairs), next(iter(record["scores"]["base"].values()))
    chosen = [one["n"] for topic, one in topics.items() if (topic in PAIRS) == of_pairs]
    change = mean_interval(np.subtract(scores["icft"], scores["base"]))
    interval = f" ({change.low:.3f} to {change.high:.3f})" if len(scores["icft"]) > 1 else ""
    row = (
        f"| `{record['study']}` | {sum(chosen)} {'pairs' if of_pairs else 'questions'} of {len(chosen)} topics | "
        + " | ".join(f"{np.mean(scores[method]):.3f}" for method in ("base", "plain", "icft"))
        + f" | {change.mean:.3f}{interval} |"
    ).replace("-0.", "−0.")
    assert row in SECTION
