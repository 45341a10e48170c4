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
from icft_lite.metrics import bwt, forgetting, fwt, mean_score
from icft_lite.modeling.adapters import adapter_tensors, use_adapter
from icft_lite.modeling.base import model_fingerprint, tokenizer_fingerprint
from icft_lite.modeling.generation import generate
from icft_lite.modeling.losses import LOSSES
from icft_lite.reporting.problems import Problems
from icft_lite.retention import encode_for_kl, informative_topics, mean_kl, retention_interval
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
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    seconds: Mapping[str, float],
    runtime_changes: Sequence[Mapping[str, Any]] = (),
    problems: Problems | None = None,
    chat: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the report of a run.

    results: of all stages; before, after: scores of the base and of the slow adapter (`evaluation.evaluate_suite`,
    with `items`); seconds: {phase: seconds}; runtime_changes: settings of RuntimeConfig that changed while the run was
    interrupted; problems: collects the parts of the report that fail; chat: scores of replies to a chat suite
    (`training.suites.compare_with_base`). With them, `retention` is that of replies.
    """
    config, problems = prepared.config, Problems() if problems is None else problems
    stages = [result.record for result in results]
    history = [dict(step, stage=number) for number, result in enumerate(results, 1) for step in result.history]
    matrix = [accuracy_by_level(before), *(result.levels for result in results)]
    general = problems.attempt("retention", lambda: measure_retention(prepared, before, after)) or {}
    samples = problems.attempt("sample replies", lambda: sample_replies(prepared)) or []
    return dict(
        format=FORMAT,
        method=config.method,
        seed=config.seed,
        base=config.model,
        base_hash=model_fingerprint(config.model),
        tokenizer_hash=tokenizer_fingerprint(config.model),
        config=config.to_dict(),
        runtime=prepared.runtime.to_dict(),
        runtime_changes=list(runtime_changes),
        model_notes=list(prepared.capabilities.notes),
        versions={
            "python": platform.python_version(),
            "icft-lite": __version__,
            **{name: version(name) for name in PACKAGES},
        },
        scores=dict(before=suite_scores(before), after=suite_scores(after)),
        validation=dict(before=suite_scores(before, "_validation"), after=suite_scores(after, "_validation")),
        retention=chat["retention"]["value"] if chat else general.get("value"),
        general_retention=general,
        chat=dict(chat or {}),
        accuracy_matrix=matrix,
        medical_by_stage=[question_score(before, "medical"), *(result.scores.get("medical") for result in results)],
        **transfer_metrics(matrix, [stage["name"] for stage in stages]),
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
            dropped_tied=prepared.label_report.get("dropped_tied", 0),
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
        samples=samples,
    )


def accuracy_by_level(scores: Mapping[str, Any]) -> Levels:
    """Return [general, easy, medium, hard]: unweighted means over topics, None where absent.

    Only of the tasks that are scored after every stage, so that the rows of the accuracy matrix can be compared.
    """
    medical = scores.get("medical", {})
    levels = (medical.get("qa") or medical.get("short_answer") or {}).get("by_level", {})
    return [question_score(scores, "general"), *(levels.get(level) for level in LEVELS)]


def question_score(scores: Mapping[str, Any], suite: str) -> float | None:
    """Return the mean score over the tasks of a suite that are scored after every stage; None without them."""
    tasks = {task: scores[suite][task] for task in ("qa", "short_answer") if task in scores.get(suite, {})}
    return mean_score(tasks) if tasks else None


def suite_scores(scores: Mapping[str, Any], suffix: str = "") -> dict[str, Any]:
    """Return the scores of the suites `general` and `medical`, or of those with a suffix (`_validation`).

    Those of each example are left out: items.json has them.
    """
    return {
        name: {
            task: {key: value for key, value in score.items() if key != "items"}
            for task, score in scores[name + suffix].items()
        }
        for name in ("general", "medical")
        if name + suffix in scores
    }


def measure_retention(prepared: "Prepared", before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Return the retention of general knowledge on the tests; {} without general tests.

    value, low, high: chance-corrected, with its 95 % interval (None if no suite is informative); drop: the mean loss in
    score over topics; topics: their number; uninformative: the suites that take no part; kl: KL(base ‖ tuned) per
    token in nats on the right answers of the tests; constraint: that of consolidation, in words.
    """
    if "general" not in before:
        return {}
    examples = prepared.suites["general"].examples
    topics, uninformative = informative_topics(before["general"])
    topic_of = {example["id"]: example["topic"] for example in examples}
    found = retention_interval(before["general"], after["general"], topics, topic_of)
    return dict(
        **{name: value if math.isfinite(value) else None for name, value in found._asdict().items()},
        topics=len(topics),
        uninformative=uninformative,
        kl=mean_kl(prepared.model, encode_for_kl(examples, prepared.encoder)),
        constraint=prepared.constraint.describe() if prepared.constraint else None,
    )


def transfer_metrics(matrix: Sequence[Levels], stages: Sequence[str]) -> dict[str, float]:
    """Return bwt, fwt and forgetting over the columns that have a test; {} unless stages are the levels, in order.

    The column of a level counts as learned in the stage of the same number, which is wrong for any other curriculum.
    """
    if list(stages) != list(LEVELS):
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
