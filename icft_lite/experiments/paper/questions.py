"""ICFT minus each other method, with intervals over questions.

The runs of a chat study differ by their seed only: all answer the same questions. An interval over seeds says how much
training varies, and nothing of which questions are asked. Here the questions are the sample, and the answers of all
seeds to one question are averaged first. Where runs differ by their split, the questions of all splits are pooled.
"""

from collections.abc import Callable

import numpy as np

from icft_lite.data.chat_suite import chat_suite
from icft_lite.experiments.paper.analysis import (
    Point,
    Record,
    Records,
    answers,
    choose_point,
    common_splits,
    trained_point,
)
from icft_lite.experiments.paper.tables import arms_of, difference_text, unit_of
from icft_lite.reporting.formatting import Table
from icft_lite.statistics import Interval, paired_bootstrap

NUM_RESAMPLES = 10_000
Pick = Callable[[Record], Point]


def medical_difference(records: Records, rival: str, pick: Pick) -> Interval:
    """Return ICFT minus a rival in the medical test score, with the paired bootstrap over questions within topics.

    Every topic has the same weight.
    """
    splits = common_splits(records, "icft", rival)
    arms = ([records[arm][split] for split in splits] for arm in ("icft", rival))
    icft, other = ([answers(run, pick(run), "medical") for run in runs] for runs in arms)
    topics, (first, second) = icft[0][1], ([right for right, _ in some] for some in (icft, other))
    if unit_of(records) == "splits":
        topics = np.concatenate([some for _, some in icft])
        first, second = [np.concatenate(first)], [np.concatenate(second)]
    found = paired_bootstrap(first, second, topics, NUM_RESAMPLES)
    return Interval(*found[:3])


def retention_difference(records: Records, rival: str, pick: Pick, seed: int = 0) -> Interval:
    """Return ICFT minus a rival in retention (`chat_metrics`), with the paired bootstrap over items.

    Free questions and instructions are resampled separately, each time the same ones of ICFT, the rival and the base.
    """
    splits = common_splits(records, "icft", rival)
    scores = {arm: [pick(records[arm][split])["test"]["items"] for split in splits] for arm in ("icft", rival)}
    scores["base"] = [trained_point(run)["test"]["items"] for run in records["base"].values()]
    known = [item for item in chat_suite("test") if item.id in scores["base"][0]]
    rng, observed, resampled = np.random.default_rng(seed), 0.0, np.zeros(NUM_RESAMPLES)
    for is_free in (True, False):
        ids = [item.id for item in known if bool(item.accepted) == is_free]
        icft, other, base = (
            np.mean([[one[name] for name in ids] for one in scores[arm]], axis=0) for arm in ("icft", rival, "base")
        )
        draws = rng.integers(0, len(ids), (NUM_RESAMPLES, len(ids)))
        observed += (icft - other).mean() / base.mean() / 2
        resampled += (icft - other)[draws].mean(1) / base[draws].mean(1) / 2
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Interval(float(observed), float(low), float(high))


def questions_table(records: Records) -> Table:
    """Return ICFT minus each other method, at the chosen α and as trained.

    In medical score and, of a chat study, in retention.
    """
    rows, seeds = [], unit_of(records) == "seeds"
    measures = {"medical": medical_difference} | ({"retention": retention_difference} if seeds else {})
    for arm in arms_of(records):
        if arm.name not in ("icft", "base"):
            differences = [
                find(records, arm.name, pick) for pick in (choose_point, trained_point) for find in measures.values()
            ]
            rows.append([arm.label, *map(difference_text, differences)])
    header = ("compared with", *(f"{key}, {at}" for at in ("chosen α", "α = 1") for key in measures))
    pooled = "the seeds are averaged for each question" if seeds else "the questions of all splits are pooled"
    note = f"95 % bootstrap intervals, not corrected for their number; {pooled}."
    return Table("ICFT minus each other method, over questions", header, rows, note)
