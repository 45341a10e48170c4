"""Tables of the evidence study, from its records."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from icft_lite.data.chat_suite import SEEN_KINDS, chat_suite
from icft_lite.experiments.paper.analysis import (
    MATCHED_GAIN,
    MIN_RETENTION,
    OTHER_GAINS,
    Claim,
    Point,
    Record,
    Records,
    ablation_scores,
    choose_point,
    common_splits,
    difference,
    equal_retention_differences,
    matched_retention,
    study_of,
    trained_point,
)
from icft_lite.experiments.paper.arms import ARMS, Arm
from icft_lite.experiments.paper.studies import STUDIES
from icft_lite.presets import model_defaults
from icft_lite.reporting.comparison_tables import REPLY_MEASURES
from icft_lite.reporting.formatting import Table
from icft_lite.statistics import Interval, holm, mean_interval, mean_p_value

HALF = 0.5
"""α of the row "plain, half of the change"."""
INTERVALS = {"medical": "medical", "retention": "retention", "preference": "preference"}
MEANS = {"reply": "replies", "kl": "KL"}
"""Columns of the main table with and without intervals, by their key in a record."""
KEYS = {"kl_base_tuned": "kl", "kl_tuned_base": "kl_back"}
"""Measures of replies whose key in a record differs from that in a comparison."""
KINDS = {"seen": "instructions passed, of seen kinds", "unseen": "of unseen kinds"}
CHAT = {KEYS.get(name, name): heading for name, heading in REPLY_MEASURES.items()} | KINDS
"""Columns of `chat_table`, by their key in a record or in `passed_by_kind`."""


def interval_text(values: Sequence[float | None]) -> str:
    """Return "mean (low to high)" of one value per split, with the t-interval; "–" without values."""
    known = [value for value in values if value is not None and np.isfinite(value)]
    if not known:
        return "–"
    found = mean_interval(known)
    return f"{found.mean:z.3f}" + (f" ({found.low:z.3f} to {found.high:z.3f})" if len(known) > 1 else "")


def difference_text(found: Interval) -> str:
    """Return "+mean (+low to +high)" of a difference; "no value" of NaN."""
    if np.isnan(found.mean):
        return "no value"
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def unit_of(records: Records) -> str:
    """Return what differs between the runs of an arm: "splits" or "seeds"."""
    name = study_of(records)
    return STUDIES[name].unit if name in STUDIES else "splits"


def arms_of(records: Records) -> list[Arm]:
    """Return the arms that have records, in the order of ARMS; LoRA is their name if the base is not held in 4 bits."""
    arms = [arm for arm in ARMS if arm.name in records]
    study = study_of(records)
    arms = [replace(arm, label=f"{arm.label} (exploratory)") if study in arm.exploratory else arm for arm in arms]
    model = next((one["settings"].get("model", "tiny") for runs in records.values() for one in runs.values()), "tiny")
    if model_defaults(model).get("adapter.load_in_4bit", True):
        return arms
    return [replace(arm, label=arm.label.replace("QLoRA", "LoRA")) for arm in arms]


def ablations_of(records: Records) -> list[Arm]:
    """Return the ablations of ICFT that have records; none without a record of ICFT itself."""
    return [arm for arm in arms_of(records) if arm.ablates] if "icft" in records else []


def main_table(records: Records, at: Literal["chosen", "trained"] = "chosen") -> Table:
    """Return the scores of all arms: at the α that the rule chooses, or as trained."""
    pick = choose_point if at == "chosen" else trained_point
    every = [point for runs in records.values() for one in runs.values() for point in one["curve"]]
    intervals, means = (
        {key: name for key, name in columns.items() if any(key in point["test"] for point in every)}
        for columns in (INTERVALS, MEANS)
    )
    rows: list[list[Any]] = []

    def add(label: str, general: str, points: Sequence[Point]) -> None:
        alphas = sorted({point["alpha"] for point in points})
        alpha = f"{alphas[0]:g}" if len(alphas) == 1 else f"{alphas[0]:g} to {alphas[-1]:g}"
        measures = (interval_text([point["test"].get(key) for point in points]) for key in intervals)
        rows.append(
            [label, general, alpha, *measures, *(_mean([one["test"].get(key) for one in points]) for key in means)]
        )

    for arm in arms_of(records):
        add(arm.label, arm.general, [pick(one) for one in records[arm.name].values()])
        if arm.name == "plain":
            halves = [_nearest(one, HALF) for one in records["plain"].values()]
            add(f"{arm.label}, half of its change", arm.general, halves)
    note = (
        f"α is chosen on validation: the highest medical score with retention of at least {MIN_RETENTION}; if there is "
        "none, the highest retention."
        if at == "chosen"
        else "α = 1, as trained."
    )
    header = ("method", "general prompts", "α", *intervals.values(), *means.values())
    title = "At the chosen α" if at == "chosen" else "As trained"
    return Table(title, header, rows, f"{note} Means over {unit_of(records)} with 95 % t-intervals.")


def chat_table(records: Records, at: Literal["chosen", "trained"] = "chosen") -> Table:
    """Return what the models of a chat study reply to the chat suite, and how far they are from the base."""
    pick, rows = choose_point if at == "chosen" else trained_point, []

    def add(label: str, tests: Sequence[Mapping[str, Any]]) -> None:
        scores = [{**test, **passed_by_kind(test.get("items") or {})} for test in tests]
        rows.append([label, *(interval_text([score.get(key) for score in scores]) for key in CHAT)])

    for arm in arms_of(records):
        tests = [pick(one)["test"] for one in records[arm.name].values()]
        add(arm.label, tests)
        if arm.name == "plain":
            add(f"{arm.label}, half of its change", [_nearest(one, HALF)["test"] for one in records["plain"].values()])
    note = (
        "Retention is the mean of the first two columns' ratios to the base. KL and NLL are in nats per token of the "
        "base's replies; KL(tuned ‖ base) of the tuned model's. Seen kinds of instructions also supply memory prompts. "
        f"Means over {unit_of(records)} with 95 % t-intervals."
    )
    title = "Replies to the chat suite, at the chosen α" if at == "chosen" else "Replies to the chat suite, as trained"
    return Table(title, ("method", *CHAT.values()), rows, note)


def passed_by_kind(items: Mapping[str, float]) -> dict[str, float]:
    """Return {"seen", "unseen": share of passed instructions of the kinds that (do not) supply memory prompts}.

    items: {id of a test item of the chat suite: 1 right or passed, 0 not}; free questions are ignored.
    """
    passed: dict[str, list[float]] = {"seen": [], "unseen": []}
    for item in chat_suite("test"):
        if item.id in items and not item.accepted:
            passed["seen" if item.topic in SEEN_KINDS else "unseen"].append(items[item.id])
    return {name: float(np.mean(values)) for name, values in passed.items() if values}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _nearest(record: Record, alpha: float) -> Point:
    return min(record["curve"], key=lambda point: abs(point["alpha"] - alpha))


def matched_table(records: Records) -> Table:
    """Return the retention of each method where it has learned as much medicine as the others.

    Interpolated on the α curves. A cell is "–" if the method does not reach the score in some run.
    """
    shares = (*OTHER_GAINS, MATCHED_GAIN)
    rows = []
    for arm in arms_of(records):
        if arm.name == "base" or arm.ablates or arm.result == "random":
            continue
        splits = common_splits(records, "base", "plain", arm.name)
        found = [matched_retention(records, arm.name, share, splits) for share in shares]
        rows.append([arm.label, *("–" if np.isnan(values).any() else interval_text(values) for values in found)])
    header = ("method", *(f"at {100 * share:.0f} % of the gain" for share in shares))
    note = (
        "Gain: of plain fine-tuning over the base in the medical test score. Interpolated on each α curve; –: not "
        f"reached in every run. Only {100 * MATCHED_GAIN:.0f} % was registered (claim b). 95 % t-intervals over "
        f"{unit_of(records)}."
    )
    return Table("Retention at equal medical scores", header, rows, note)


def equal_seconds_table(records: Records, test_per_train: float = 0.0) -> Table:
    """Return how ICFT compares with methods that train on more tokens, and so take about as many seconds.

    No rows without such arms. test_per_train: as in `ablation_table`.
    """
    rows: list[list[Any]] = []
    for arm in arms_of(records) if "icft" in records else []:
        scores = [ablation_scores(records, arm.name, key) for key in ("medical", "retention")]
        known = [both for both in scores if both]
        if arm.takes_as_long and len(known) == len(scores):
            own = [interval_text(other) for _, other in known]
            minus = [mean_interval(np.subtract(*both), test_per_train=test_per_train) for both in known]
            rows.append([arm.label, *own, *map(difference_text, minus)])
    header = ("method", "medical", "retention", "ICFT minus it, medical", "ICFT minus it, retention")
    note = (
        "At the chosen α. About as many seconds as ICFT without scores: measured in alternating runs by "
        "`benchmarks/study_cost.py`, because other work slowed single runs of the study. 95 % intervals; those of the "
        "differences are corrected for training data that splits share."
    )
    return Table("At equal seconds", header, rows, note)


def cost_table(records: Records) -> Table:
    """Return what a run of each arm costs."""
    rows = []
    for arm in arms_of(records):
        costs = [one["cost"] for one in records[arm.name].values()]
        keys = ("trained", "with_gradient", "forward_only", "generated")
        counts = [round(float(np.mean([cost[key] for cost in costs]))) for key in keys]
        stages = [one.get("stages") or [] for one in records[arm.name].values()]
        counts += [round(float(np.mean([sum(map(count, some)) for some in stages]))) for count in (_steps, _new)]
        rows.append([arm.label, *counts, round(float(np.median([cost["seconds"] for cost in costs])))])
    header = ("method", "budget", "tokens with gradient", "without", "generated", "steps", "new sequences", "seconds")
    note = (
        "Budget: without padding; the other tokens include it. Means over runs; seconds, which include scores, are "
        "medians, because other work on the machine slowed single runs down. Replies of the base are stored: generated "
        "tokens and seconds contain them only in the run that came first. New sequences: those that are not from a "
        "memory. Runs on different processors are not comparable in seconds."
    )
    return Table("Cost", header, rows, note)


def _steps(stage: Mapping[str, Any]) -> int:
    return int(stage["steps"])


def _new(stage: Mapping[str, Any]) -> int:
    """Return how many sequences of a stage were new examples."""
    return sum(count for role, count in stage["examples"].items() if role not in ("memory", "ring"))


def ablation_table(records: Records, test_per_train: float = 0.0) -> Table:
    """Return ICFT minus each of its ablations at the chosen α, with Holm's correction.

    test_per_train: above 0, intervals are corrected for training data that splits share (`mean_interval`), and the
    difference is given at equal test retention, too (`equal_retention_differences`).
    """
    rows, p_values = [], []
    for arm in ablations_of(records):
        scores = {key: ablation_scores(records, arm.name, key) for key in ("medical", "preference", "retention")}
        differences = ["–" if both is None else difference_text(difference(*both)) for both in scores.values()]
        if (both := scores["medical"]) and test_per_train:
            corrected = mean_interval(np.subtract(*both), test_per_train=test_per_train)
            equal = mean_interval(equal_retention_differences(records, arm.name), test_per_train=test_per_train)
            differences[1:1] = [f"{corrected.low:+.3f} to {corrected.high:+.3f}", difference_text(equal)]
        rows.append([arm.label, len(common_splits(records, "icft", arm.name)), *differences])
        if both:
            p_values.append(mean_p_value(np.subtract(*both), test_per_train))
    for row, p in zip(rows, holm(p_values), strict=True):
        row.append(float(p))
    further = ("medical, corrected", "medical at equal test retention, corrected") if test_per_train else ()
    measures = ("medical", *further, "preference", "retention")
    header = ("without, or instead", unit_of(records), *measures, "p (Holm), medical")
    note = f"Positive: ICFT is better. 95 % t-intervals over {unit_of(records)}."
    if test_per_train:
        note += (
            " Corrected, as p is: for training data that splits share (Nadeau and Bengio, 2003). At equal test "
            "retention: the best score on ICFT's α curve with at least the test retention of the other one at its "
            "chosen α."
        )
    return Table("ICFT minus each ablation", header, rows, note)


def claims_table(claims: Sequence[Claim], records: Records) -> Table:
    """Return the registered claims and what the records say of them."""
    labels = {arm.name: arm.label for arm in arms_of(records)}
    rows = [
        [
            claim.text,
            labels.get(claim.rival, claim.rival),
            difference_text(claim.interval),
            f"> {claim.bound:g}",
            f"not judged: {claim.unmet}" if claim.unmet else "supported" if claim.supported else "not supported",
        ]
        for claim in claims
    ]
    header = ("claim", "compared with", "ICFT minus it", "lower bound", "result")
    note = "95 % intervals. No value: one of the two does not reach the matched score in every run."
    return Table("Registered claims", header, rows, note)
