"""Names and values of a run or a comparison as tables and figures show them."""

from collections.abc import Mapping
from typing import Any

from icft_lite.data import schema

LABELS = {
    "icft": "ICFT",
    "qlora": "plain QLoRA",
    "replay": "replay, no consistency loss",
    "self_prompts": "ICFT, self-generated prompts only",
    "no_ltm": "no long-term memory",
    "no_ring": "no short-term ring, no promotion",
    "ring": "ICFT with the short-term ring",
    "soft_labels": "ICFT with soft labels and L_task",
    "no_curriculum": "no curriculum",
    "no_task": "no L_task",
    "majority_vote": "ICFT, majority vote",
    "gold": "ICFT, gold labels",
}
"""Display name of each method."""
MEDICAL_MEASURES = {
    "medical": "medical questions",
    "short_answer": "short answers",
    "preference": "preferences",
    "reply": "replies",
}
"""{key of a comparison: the medical task that it is the score of}"""


def method_label(method: str, source: Mapping[str, Any] | None = None) -> str:
    """Return the display name of a method, or of a variant: the name of its preset with the variant's settings.

    source: the report or the comparison that it is in. If its base is not held in 4 bits, QLoRA is called LoRA. A
    trainer other than ICFTTrainer is named.
    """
    source = source or {}
    own = (source.get("method_settings") or {}).get(method) or {}
    varied = ", ".join(f"{name.rpartition('.')[2]} {value}" for name, value in own.items() if name != "method")
    label = f"{LABELS[own['method']]}, {varied}" if "method" in own else LABELS.get(method, method)
    default = ((source.get("config") or {}).get("adapter") or {}).get("load_in_4bit", source.get("four_bit", True))
    settings = {**(source.get("settings") or {}), **own}
    label += f", {source['trainer']}" if source.get("trainer") else ""
    return label if settings.get("adapter.load_in_4bit", default) else label.replace("QLoRA", "LoRA")


def column_names(report: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names of the accuracy matrix's columns and rows, two empty lists without a matrix."""
    matrix = report.get("accuracy_matrix") or []
    stages = [stage.get("name") for stage in report.get("stages") or []]
    if not matrix:
        return [], []
    columns = ["general", *schema.LEVELS][: len(matrix[0])]
    columns += [f"suite {i}" for i in range(len(columns), len(matrix[0]))]
    named = len(stages) == len(matrix) - 1
    return columns, ["base"] + [f"after {stages[i] if named else i + 1}" for i in range(len(matrix) - 1)]


def as_measure(entry: Mapping[str, Any] | None, key: str) -> dict[str, Any]:
    """Return {mean, min, max, values} of a measure that is stored in this form, as a number, or not at all."""
    value = (entry or {}).get(key)
    if isinstance(value, dict):
        return {"values": [], **value}
    return {"mean": value, "min": value, "max": value, "values": [] if value is None else [value]}


def run_title(report: Mapping[str, Any]) -> str:
    """Return a title for a run, for example "ICFT, seed 0". An unknown part is left out.

    report: its `method`, `seed` and `config` are used.
    """
    method, seed = report.get("method"), report.get("seed")
    parts = [] if not method else [method_label(method, report)]
    return ", ".join(parts if seed is None else [*parts, f"seed {seed}"])


def scored_measures(comparison: Mapping[str, Any]) -> list[str]:
    """Return the keys of MEDICAL_MEASURES that a method of a comparison has a score of."""
    entries = comparison["methods"].values()
    return [key for key in MEDICAL_MEASURES if any(as_measure(one, key)["mean"] is not None for one in entries)]
