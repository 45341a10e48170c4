"""The tables of a comparison of several runs (`icft-lite compare`), as data: for markdown and for the terminal."""

from collections.abc import Sequence
from typing import Any

from icft_lite.reporting.chat_tables import get_measure
from icft_lite.reporting.formatting import Table, format_cell, get_nested
from icft_lite.reporting.labels import MEDICAL_MEASURES, as_measure, method_label, scored_measures
from icft_lite.reporting.tables import Report


def comparison_tables(comparison: Report) -> list[Table]:
    """Return the tables of a comparison: the mean scores of every method, and ICFT minus each other method.

    If the data has a chat suite, also what replies to it show.
    """
    tables = (_methods(comparison), _replies(comparison), _differences(comparison))
    return [table for table in tables if table.rows]


def _mean_and_range(values: dict[str, Any]) -> str:
    low, high = values.get("min"), values.get("max")
    return format_cell(values["mean"]) + ("" if low is None or low == high else f" [{low:.3f}–{high:.3f}]")


def _mean_cost(entry: dict[str, Any], key: str) -> str | None:
    mean = as_measure(entry, key)["mean"]
    if mean is None:
        costs = [cost for run in entry.get("runs") or [] if (cost := get_nested(run, "cost", key)) is not None]
        mean = sum(costs) / len(costs) if costs else None
    return None if mean is None else f"{mean:,.0f}"


def _rows_by_method(comparison: Report, measures: Sequence[str]) -> list[list[Any]]:
    """Return [name, mean and range of each measure] of every method and of the base, without an entry for others."""
    base = {"retention": 1.0, "still_right": 1.0, **(comparison.get("base") or {})}
    if scores := get_nested(comparison, "chat", "base"):
        base |= {name: get_measure(scores, name, "value") for name in ("free", "instructions")}
        base |= {name: scores.get(name) for name in ("words", "intrusion")}
    named = [(method_label(name, comparison), entry) for name, entry in comparison["methods"].items()]
    named += [("base, not fine-tuned", base)] if comparison.get("base") else []
    return [[name, *(_measure_text(entry, key) for key in measures)] for name, entry in named]


def _measure_text(entry: dict[str, Any], key: str) -> str:
    """Return a measure with its range over seeds; that of one seed with its bootstrap interval, where it has one."""
    found, low, high = (as_measure(entry, name) for name in (key, f"{key}_low", f"{key}_high"))
    if len(found["values"]) == 1 and low["mean"] is not None:
        found = {**found, "min": low["mean"], "max": high["mean"]}
    return _mean_and_range(found)


def _methods(comparison: Report) -> Table:
    seeds, entries = len(comparison.get("seeds") or []), list(comparison["methods"].values())
    scored = scored_measures(comparison)
    headings = ["medical" if scored == ["medical"] else MEDICAL_MEASURES[key] for key in scored]
    rows = _rows_by_method(comparison, (*scored, "retention", "general"))
    notes = ["Replies: recall of key facts; token F1 for references without them."] if "reply" in scored else []
    if comparison.get("chat"):
        retention = "in the model's own replies; for one seed with its 95 % interval over questions and instructions"
        notes.append(f"General: choice accuracy. Retention: {retention}.")
    return Table(
        f"Methods: mean [min–max] over {seeds} seeds" if seeds > 1 else "Methods",
        ["method", *headings, "retention", "general", "tokens", "seconds"],
        [
            [*row, *(_mean_cost(entry, key) for key in ("tokens", "seconds"))]
            for row, entry in zip(rows, [*entries, {}])
        ],
        " ".join(notes),
    )


REPLY_MEASURES = {
    "free": "free answers right",
    "instructions": "instructions passed",
    "still_right": "still right",
    "kl_base_tuned": "KL(base ‖ tuned)",
    "kl_tuned_base": "KL(tuned ‖ base)",
    "nll": "NLL of the base's replies",
    "words": "words in a reply",
    "intrusion": "domain intrusion",
}
"""{key of a comparison: heading} of what replies to a chat suite show."""


def _replies(comparison: Report) -> Table:
    return Table(
        "Replies to the chat suite",
        ["method", *REPLY_MEASURES.values()],
        _rows_by_method(comparison, list(REPLY_MEASURES)) if comparison.get("chat") else [],
        "Retention is the mean of two ratios to the base: free answers right, and instructions passed. Still right: "
        "the share of the base's right replies. KL and NLL are in nats per token. Domain intrusion: replies with a "
        "medical term that the base's reply lacks; of the base, with any medical term.",
    )


MIN_EXAMPLES = 20
"""Test examples of which a difference may be called significant: a bootstrap of few examples is no test."""


def _differences(comparison: Report) -> Table:
    differences = [
        (f"{method_label(method, comparison)}, {test}", found)
        for method, tests in (comparison.get("against") or {}).items()
        for test, found in tests.items()
    ]
    counted = any("n" in found for _, found in differences)  # records of earlier versions lack it
    rows = [
        [
            name,
            *([found.get("n")] if counted else []),
            f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]",
            f"{found['p']:.3f}",
            _judge(found),
        ]
        for name, found in differences
    ]
    return Table(
        "Differences: ICFT minus each other method, with 95 % confidence intervals over test examples",
        ["compared with", *(["examples"] if counted else []), "difference", "p (Holm)", "significant at 0.05"],
        rows,
    )


def _judge(found: dict[str, Any]) -> str:
    if found.get("n", MIN_EXAMPLES) < MIN_EXAMPLES:
        return "too few examples"
    return "yes" if found["p"] < 0.05 else "no difference measured"
