"""The report of a finished run as a dict: the content of `report.json`."""

import math
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from icft_lite import __version__
from icft_lite.compat import FORMAT
from icft_lite.data.bundle import DataBundle
from icft_lite.data.schema import LEVELS
from icft_lite.metrics import bwt, forgetting, fwt, mean_score, retention
from icft_lite.modeling.adapters import adapter_tensors, use_adapter
from icft_lite.modeling.generation import generate
from icft_lite.modeling.losses import LOSSES
from icft_lite.utils.hardware import peak_memory

if TYPE_CHECKING:  # a report is built from what training returns, but needs none of its code
    from icft_lite.training.prepare import Prepared
    from icft_lite.training.stage import StageResult

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets")
Levels = list[float | None]
"""Scores by column of the accuracy matrix: [general, easy, medium, hard]; None where there is no test."""


def build_report(
    prepared: "Prepared",
    results: "Sequence[StageResult]",
    after: Mapping[str, Any],
    seconds: Mapping[str, float],
    runtime_changes: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the report of a run.

    results: of all stages; after: scores of the slow adapter (`evaluation.evaluate_suite`); seconds: {phase: seconds};
    runtime_changes: settings of RuntimeConfig that changed while the run was interrupted.
    """
    config, before = prepared.config, prepared.baseline
    stages = [result.record for result in results]
    history = [dict(step, stage=number) for number, result in enumerate(results, 1) for step in result.history]
    matrix = [accuracy_by_level(before), *(result.levels for result in results)]
    return dict(
        format=FORMAT,
        method=config.method,
        seed=config.seed,
        base=config.model,
        config=config.to_dict(),
        runtime=prepared.runtime.to_dict(),
        runtime_changes=list(runtime_changes),
        versions={
            "python": platform.python_version(),
            "icft-lite": __version__,
            **{name: version(name) for name in PACKAGES},
        },
        scores=dict(before=suite_scores(before), after=suite_scores(after)),
        validation=dict(before=suite_scores(before, "_validation"), after=suite_scores(after, "_validation")),
        retention=general_retention(before, after),
        accuracy_matrix=matrix,
        **transfer_metrics(matrix),
        cost=dict(
            seconds=sum(seconds.values()),
            tokens=sum(stage["tokens"] for stage in stages),
            peak_memory_bytes=peak_memory(),
            by_part=dict(seconds),
            trainable_parameters=sum(tensor.numel() for tensor in adapter_tensors(prepared.model, "fast")),
        ),
        data=dict(
            counts=count_data(prepared.data),
            sources=prepared.data.sources,
            truncated_contexts=sum(one.truncated for one in prepared.encoded),
            left_out=len(prepared.left_out) + sum(suite.left_out for suite in prepared.suites.values()),
            dropped_unvoted=prepared.label_report.get("dropped_unvoted", 0),
            weak=prepared.label_report,
        ),
        stages=stages,
        examples=count_examples(stages),
        gradient_norms={name: [step["norms"][name] for step in history if "norms" in step] for name in LOSSES},
        losses={
            "step": list(range(1, len(history) + 1)),
            "stage": [step["stage"] for step in history],
            **{name: [step.get(name) for step in history] for name in ("total", *LOSSES)},
        },
        samples=sample_replies(prepared),
    )


def accuracy_by_level(scores: Mapping[str, Any]) -> Levels:
    """Return [general, easy, medium, hard]: unweighted means over topics, None where absent."""
    general = mean_score(scores["general"]) if "general" in scores else None
    levels = scores.get("medical", {}).get("qa", {}).get("by_level", {})
    return [general, *(levels.get(level) for level in LEVELS)]


def suite_scores(scores: Mapping[str, Any], suffix: str = "") -> dict[str, Any]:
    """Return the scores of the suites `general` and `medical`, or of those with a suffix (`_validation`)."""
    return {name: scores[name + suffix] for name in ("general", "medical") if name + suffix in scores}


def general_retention(before: Mapping[str, Any], after: Mapping[str, Any]) -> float | None:
    """Return the mean general score after ÷ before; None without a general test."""
    return retention(mean_score(before["general"]), mean_score(after["general"])) if "general" in before else None


def transfer_metrics(matrix: Sequence[Levels]) -> dict[str, float]:
    """Return bwt, fwt and forgetting of a run with a stage for each level, over the columns that have a test."""
    if len(matrix) != len(matrix[0]):
        return {}
    found = dict(bwt=bwt(matrix), fwt=fwt(matrix), forgetting=forgetting(matrix))
    return {name: value for name, value in found.items() if not math.isnan(value)}


def count_data(data: DataBundle) -> dict[str, int]:
    """Return the number of examples in each role of the data."""
    names = ("trusted", "pool", "validation", "test", "general_memory", "general_validation", "general_test")
    return {name: len(getattr(data, name)) for name in names if getattr(data, name) is not None}


def count_examples(stages: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Return the sequences trained on in all stages, by kind of example."""
    counts: Counter[str] = Counter()
    for stage in stages:
        counts.update(stage["examples"])
    return dict(counts)


def sample_replies(prepared: "Prepared") -> list[dict[str, str]]:
    """Return a few test questions with the replies of the base and of the slow adapter."""
    examples = []
    for name, topics in (("medical", ("terminology", "drug_class", "reply")), ("general", ("capital",))):
        pool = prepared.suites[name].examples if name in prepared.suites else []
        wanted = [next((example for example in pool if example["topic"] == topic), None) for topic in topics]
        examples += [example for example in wanted if example] or [one for one in pool if one["task"] != "pair"][:2]
    if not examples:
        return []
    replies = {}
    for label, adapter in (("base", None), ("after", "slow")):
        with use_adapter(prepared.model, adapter):
            replies[label] = generate(prepared.model, prepared.tokenizer, prepared.encoder, examples, max_new_tokens=32)
    return [
        dict(prompt=example["prompt"], reference=example["responses"][max(example["label"], 0)], base=base, after=after)
        for example, base, after in zip(examples, replies["base"], replies["after"], strict=True)
    ]
