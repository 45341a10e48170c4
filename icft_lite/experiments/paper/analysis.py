"""What the records of the evidence study say: the rule that chooses α, differences with intervals, the claims.

All functions read records (`runner.run_one`), so that anyone can compute other intervals from the committed files.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from icft_lite.errors import ICFTError
from icft_lite.experiments.bits import unpack_bits
from icft_lite.experiments.paper.arms import ARMS
from icft_lite.statistics import Interval, mean_interval, paired_bootstrap

MIN_RETENTION = 0.95
"""Retention on validation that the rule for α demands."""
MIN_PAIRS = 500
"""Pairs on which claim (c) is judged."""
MATCHED_GAIN = 0.9
"""Claim (b) compares retention where the medical score is this share of plain fine-tuning's gain over the base."""
OTHER_GAINS = (0.3, 0.5, 0.7)
"""Further shares at which retention is shown. They are not registered."""
Record = Mapping[str, Any]
Records = Mapping[str, Mapping[int, Record]]
"""{arm: {split: record}}"""
Point = Mapping[str, Any]
"""An entry of a record's `curve`."""


def load_records(folder: Path, splits: Sequence[int] | None = None) -> dict[str, dict[int, Record]]:
    """Return {arm: {split: record}} of a folder. Raises ICFTError if a file cannot be read."""
    found: dict[str, dict[int, Record]] = {}
    for path in sorted(folder.glob("*-*.json")):
        record = load_record(path)
        if splits is None or record["split"] in splits:
            found.setdefault(record["arm"], {})[record["split"]] = record
    return found


def load_record(path: Path) -> dict[str, Any]:
    """Return the record in a file. Raises ICFTError if it cannot be read."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or not {"arm", "split"} <= record.keys():
        raise ICFTError(f"{path}: cannot be read; delete it, and run the study again")
    return record


def study_of(records: Records) -> str:
    """Return the name of the study that the records are of; "" if they do not say."""
    return next((str(one["study"]) for runs in records.values() for one in runs.values() if "study" in one), "")


def common_splits(records: Records, *arms: str) -> list[int]:
    """Return the splits on which all of these arms have a record."""
    return sorted(set.intersection(*({*records[arm]} for arm in arms)))


def choose_point(record: Record, min_retention: float = MIN_RETENTION) -> Point:
    """Return the point that the registered rule chooses on validation.

    The highest medical score with retention ≥ `min_retention`; if no α has it, the highest retention. Ties go to the
    larger α.
    """
    allowed = [point for point in record["curve"] if point["validation"]["retention"] >= min_retention]
    if allowed:
        return max(allowed, key=lambda point: (point["validation"]["medical"], point["alpha"]))
    return max(record["curve"], key=lambda point: (point["validation"]["retention"], point["alpha"]))


def trained_point(record: Record) -> Point:
    """Return the point α = 1; of the base's record, its only one."""
    return max(record["curve"], key=lambda point: point["alpha"])


def retention_at(record: Record, base: Record, medical: float) -> float:
    """Return test retention where the record's α curve reaches the medical test score `medical`; NaN if it never does.

    The curve is interpolated linearly between neighbouring α; α = 0 is the base. Where it crosses the score several
    times, the largest retention counts.
    """
    points = [(trained_point(base)["test"]["medical"], 1.0)]
    ordered = sorted(record["curve"], key=lambda point: point["alpha"])
    points += [(point["test"]["medical"], point["test"]["retention"]) for point in ordered]
    crossings = []
    for (low, first), (high, second) in zip(points, points[1:]):
        if min(low, high) <= medical <= max(low, high):
            share = 0.0 if low == high else (medical - low) / (high - low)
            crossings.append(first + share * (second - first))
    return max(crossings, default=float("nan"))


def medical_at(record: Record, base: Record, retention: float) -> float:
    """Return the highest medical test score on the record's α curve with at least this test retention; NaN without one.

    The curve is interpolated linearly between neighbouring α; α = 0 is the base, which retains 1.
    """
    points = [(1.0, trained_point(base)["test"]["medical"])]
    ordered = sorted(record["curve"], key=lambda point: point["alpha"])
    points += [(point["test"]["retention"], point["test"]["medical"]) for point in ordered]
    allowed = [medical for retained, medical in points if retained >= retention]
    for (start, first), (end, second) in zip(points, points[1:]):
        if min(start, end) < retention < max(start, end):
            allowed.append(first + (retention - start) / (end - start) * (second - first))
    return max(allowed, default=float("nan"))


def equal_retention_differences(records: Records, arm: str) -> list[float]:
    """Return, for each common split, ICFT's medical test score minus an arm's, at the arm's own test retention or more.

    The arm is at its chosen α, and `medical_at` gives ICFT's score: α is chosen on validation, so that two arms at
    their chosen α differ in test retention.
    """
    found = []
    for split in common_splits(records, "icft", "base", arm):
        test = choose_point(records[arm][split])["test"]
        found.append(medical_at(records["icft"][split], records["base"][split], test["retention"]) - test["medical"])
    return found


def difference(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Return the mean of first − second over splits, with Student's t-interval."""
    return mean_interval(np.subtract(first, second))


def ablation_scores(records: Records, arm: str, key: str) -> tuple[list[float], list[float]] | None:
    """Return the test scores of ICFT and of one of its ablations at the chosen α, on their common splits.

    key: of a point's test scores. None if a split has no such score.
    """
    first, second = (
        [choose_point(records[name][split])["test"].get(key) for split in common_splits(records, "icft", arm)]
        for name in ("icft", arm)
    )
    return None if None in first or None in second else (first, second)


class Claim(NamedTuple):
    """A registered claim, and whether the records support it."""

    text: str
    rival: str
    """The arm that ICFT is compared with."""
    interval: Interval
    bound: float
    """The lower end of the interval must exceed this."""
    unmet: str = ""
    """The condition of the protocol that is not met, so that the claim is not judged."""

    @property
    def supported(self) -> bool:
        """Return whether the records support the claim; NaN bounds do not."""
        return bool(self.interval.low > self.bound) and not self.unmet


def claim_medical(records: Records, bound: float = -0.02) -> Claim:
    """Claim (a): at the α that the rule chooses, ICFT's medical score is not lower than the best baseline's.

    The best baseline is named on validation: the highest mean medical score among those whose mean retention reaches
    MIN_RETENTION; if none does, the one with the highest mean retention.
    """
    rival = best_baseline(records)
    splits = common_splits(records, "icft", rival)
    scores = {
        arm: [choose_point(records[arm][split])["test"]["medical"] for split in splits] for arm in ("icft", rival)
    }
    found = difference(scores["icft"], scores[rival])
    return Claim("medical score at the chosen α", rival, found, bound)


def best_baseline(records: Records) -> str:
    """Return the baseline that the rule names on validation.

    ICFT's own ablations are no baselines, and neither are arms with more tokens, exploratory ones, and those that lack
    a split of ICFT.
    """
    splits, study = {*records["icft"]}, study_of(records)
    baselines = [arm.name for arm in ARMS if not (arm.ablates or study in arm.exploratory) and arm.tokens == 1]
    names = [name for name in baselines if splits <= {*records.get(name, {})} and name not in ("icft", "base")]

    def mean(arm: str, key: str) -> float:
        return float(np.mean([choose_point(records[arm][split])["validation"][key] for split in splits]))

    allowed = [arm for arm in names if mean(arm, "retention") >= MIN_RETENTION]
    if allowed:
        return max(allowed, key=lambda arm: mean(arm, "medical"))
    return max(names, key=lambda arm: mean(arm, "retention"))


def claim_retention(records: Records, rival: str = "replay_25", bound: float = 0.0) -> Claim:
    """Claim (b): at a matched medical score, ICFT's retention exceeds replay's.

    The matched score is MATCHED_GAIN of plain fine-tuning's gain over the base, on each split. A split on which either
    curve does not reach it has no value, and the claim is then not supported. So a method that recovers less than half
    of plain fine-tuning's gain supports nothing.
    """
    splits = common_splits(records, "icft", rival, "plain", "base")
    first, second = (matched_retention(records, arm, MATCHED_GAIN, splits) for arm in ("icft", rival))
    return Claim("retention at a matched medical score", rival, difference(first, second), bound)


def matched_retention(records: Records, arm: str, share: float, splits: Sequence[int]) -> list[float]:
    """Return an arm's test retention where its medical test score is the base's plus `share` of plain's gain.

    One value for each split; NaN where the arm's α curve does not reach the score.
    """
    values = []
    for split in splits:
        base = records["base"][split]
        start, end = (trained_point(one)["test"]["medical"] for one in (base, records["plain"][split]))
        values.append(retention_at(records[arm][split], base, start + share * (end - start)))
    return values


def claim_preference(records: Records, rival: str = "plain", bound: float = -0.05) -> Claim:
    """Claim (c): at α = 1, ICFT's preference accuracy is not below plain fine-tuning's; all splits' pairs pooled.

    It is judged on at least MIN_PAIRS pairs.
    """
    splits = common_splits(records, "icft", rival)
    icft, other = (
        [answers(records[arm][split], trained_point(records[arm][split]), "pairs") for split in splits]
        for arm in ("icft", rival)
    )
    first, second = (np.concatenate([right for right, _ in some]) for some in (icft, other))
    found = paired_bootstrap(first, second, np.concatenate([topics for _, topics in icft]))
    interval = Interval(found.difference, found.low, found.high)
    unmet = "" if len(first) >= MIN_PAIRS else f"fewer than {MIN_PAIRS} pairs"
    return Claim(f"preference accuracy on {len(first)} pairs", rival, interval, bound, unmet)


def answers(record: Record, point: Point, test: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (right, topics) of a test at a point: bool [n] and str [n], sorted by topic and id."""
    rows = record["questions"][test]
    topics = np.repeat([row[0] for row in rows], [row[2] for row in rows])
    return unpack_bits(point["test"]["right"][test], len(topics)), topics
