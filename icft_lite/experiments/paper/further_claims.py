"""Tables for the paper's further claims: preferences and trivial rules, unseen data, errors, and varied replies."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from icft_lite.data.bundle import DataBundle
from icft_lite.data.tables import iter_examples
from icft_lite.experiments.paper.analysis import Record, Records, answers, common_splits, trained_point
from icft_lite.experiments.paper.replies import ERROR_KINDS, diversity
from icft_lite.experiments.paper.tables import arms_of, interval_text, unit_of
from icft_lite.reporting.formatting import Table

KINDS = {"rule": "rules on unseen items", "fact": "paraphrases of known facts"}
"""Kinds of test questions (data_samples/README.md): a rule is tested on entities, combinations and templates that no
training example has; a fact occurs in training, and is paraphrased."""


def length_rules(data: DataBundle) -> dict[str, float]:
    """Return the accuracy of choosing the longer and the shorter reply of each test pair, by characters.

    Equal lengths count half. Empty without pairs.
    """
    right = []
    for pair in iter_examples(data.test or []):
        if pair["task"] == "pair" and pair["label"] >= 0:
            better, other = (len(pair["responses"][k]) for k in (pair["label"], 1 - pair["label"]))
            right.append(0.5 if better == other else float(better > other))
    longer = float(np.mean(right)) if right else 0.0
    return {"choose the longer": longer, "choose the shorter": 1 - longer} if right else {}


def preference_table(records: Records, bundles: Mapping[int, DataBundle]) -> Table:
    """Return preference accuracy as trained, and that of choosing by length. bundles: the data of each split."""
    rules: dict[str, list[float]] = {}
    for data in bundles.values():
        for name, accuracy in length_rules(data).items():
            rules.setdefault(name, []).append(accuracy)
    rows: list[list[Any]] = [[name, interval_text(values)] for name, values in rules.items()]
    rows += _by_arm(records, lambda record: [trained_point(record)["test"].get("preference")])
    note = f"α = 1, means over {unit_of(records)} with 95 % t-intervals; chance is 0.5."
    return Table("Preferences", ("method", "preference accuracy"), rows, note)


def generalization_table(records: Records) -> Table:
    """Return the share of right answers by kind of test question, as trained."""

    def by_kind(record: Record) -> list[float | None]:
        shares: list[float | None] = []
        for test in ("medical", "general"):
            rows = record["questions"].get(test, [])
            right = answers(record, trained_point(record), test)[0] if rows else np.zeros(0)
            kinds = np.repeat([kind for _, kind, _ in rows], [number for _, _, number in rows])
            shares += [float(right[kinds == kind].mean()) if kind in kinds else None for kind in KINDS]
        return shares

    header = ("method", *(f"{test}: {text}" for test in ("medical", "general") for text in KINDS.values()))
    note = f"α = 1, share of all questions of a kind, means over {unit_of(records)} with 95 % t-intervals."
    return Table("Generalization to unseen data", header, _by_arm(records, by_kind), note)


def errors_table(records: Records) -> Table:
    """Return how often each kind of answer is written to medical test questions, as trained."""

    def shares(record: Record) -> list[float | None]:
        counts = record["written"]["errors"]
        return [counts[kind] / sum(counts.values()) for kind in ERROR_KINDS]

    rows = _by_arm(records, shares)
    return Table("What is written to medical questions", ("method", *ERROR_KINDS.values()), rows, "α = 1, generated.")


def examples_table(records: Records) -> Table:
    """Return an example of each kind of wrong answer of plain fine-tuning and of ICFT, from their first runs."""
    rows = []
    for arm in arms_of(records):
        if arm.name in ("plain", "icft"):
            record = records[arm.name][min(records[arm.name])]
            for kind, found in record["written"].get("examples", {}).items():
                if kind != "right" and found:
                    one = found[0]
                    rows.append([arm.label, ERROR_KINDS[kind], one["prompt"], one["reference"], one["reply"]])
    header = ("method", "kind", "question", "reference", "answer")
    note = "α = 1, the first one of each kind. Answers of teaching models, often wrong, not medical advice."
    return Table("Examples of wrong answers to medical questions", header, rows, note)


def replies_table(records: Records) -> Table:
    """Return recall and diversity of the replies to patients, and calibration, as trained."""

    def measures(record: Record) -> list[float | None]:
        found = record["written"].get("diversity", {})
        varied = [found.get(key) for key in ("distinct_1", "distinct_2", "overlap")]
        return [trained_point(record)["test"].get("reply"), *varied, record.get("calibration")]

    header = ("method", "key-fact recall", "distinct-1", "distinct-2", "overlap with other replies", "ECE")
    note = "α = 1. Distinct-n: different n-grams ÷ all; overlap: share of a reply's bigrams that another reply has."
    return Table("Replies to patients, and calibration", header, _by_arm(records, measures), note)


def right_replies(record: Record) -> dict[str, str]:
    """Return {id: reply} of what is answered right as trained; {} if the record has no replies.

    Of a chat suite: free questions answered right and instructions passed. Else replies to patients that have all key
    facts.
    """
    test = trained_point(record)["test"]
    if "replies" in test:
        return {name: test["replies"][name] for name, score in test["items"].items() if score == 1}
    return {name: one["reply"] for name, one in record["written"].get("patients", {}).items() if one["recall"] == 1}


def equal_correctness_table(records: Records) -> Table:
    """Return how varied the replies of each method and of ICFT are to the prompts that both answer right.

    There are no rows for records without replies.
    """
    rows = []
    right = {arm: {split: right_replies(record) for split, record in runs.items()} for arm, runs in records.items()}
    for arm in arms_of(records) if "icft" in records else []:
        values: list[list[float]] = []
        for split in common_splits(records, "icft", arm.name):
            both = [right[name][split] for name in (arm.name, "icft")]
            if prompts := sorted({*both[0]} & {*both[1]}):
                texts = [[found[name] for name in prompts] for found in both]
                words = [sum(len(text.split()) for text in some) / len(some) for some in texts]
                varied = [diversity(some)["distinct_2"] for some in texts]
                values.append([len(prompts), *words, *varied, varied[1] - varied[0]])
        if values and arm.name != "icft":
            numbers, *rest = (list(column) for column in zip(*values))
            rows.append([arm.label, f"{min(numbers)} to {max(numbers)}", *map(interval_text, rest)])
    header = ("method", "prompts", "words", "words, ICFT", "distinct-2", "distinct-2, ICFT", "ICFT minus method")
    note = (
        f"α = 1, means over {unit_of(records)} with 95 % t-intervals. Distinct-2 falls with the number of words, so "
        "that it shows nothing where these differ much."
    )
    return Table("How varied replies are to prompts that both answer right", header, rows, note)


def _by_arm(records: Records, measures: Callable[[Record], list[float | None]]) -> list[list[Any]]:
    """Return a row for each arm: its label, and the interval of each measure over splits."""
    rows = []
    for arm in arms_of(records):
        columns = zip(*(measures(record) for record in records[arm.name].values()), strict=True)
        rows.append([arm.label, *map(interval_text, columns)])
    return rows
