"""The report of a finished run, as a dict: what `report.json` holds."""

import math
import platform
from importlib.metadata import version

from icft_lite import __version__
from icft_lite.data.schema import LEVELS
from icft_lite.metrics import bwt, forgetting, fwt, mean_score, retention
from icft_lite.modeling.adapters import adapter_tensors, use_adapter
from icft_lite.modeling.generation import generate
from icft_lite.training.trainer import LOSSES
from icft_lite.utils.hardware import peak_memory

PACKAGES = ("torch", "transformers", "peft", "bitsandbytes", "datasets")


def build_report(run, results, after):
    """run: `run.Run` at its end; results: its stages, history and curve; after: scores of the slow adapter."""
    stages, history, before = results["stages"], results["history"], run.before
    matrix = [by_level(before), *results["curve"]]
    return dict(
        method=run.config.method,
        seed=run.config.seed,
        base=run.config.model,
        config=run.config.to_dict(),
        versions={
            "python": platform.python_version(),
            "icft-lite": __version__,
            **{name: version(name) for name in PACKAGES},
        },
        scores=dict(before=test_scores(before), after=test_scores(after)),
        validation=dict(before=validation_scores(before), after=validation_scores(after)),
        retention=general_retention(before, after),
        accuracy_matrix=matrix,
        **transfer_metrics(matrix),
        cost=dict(
            seconds=sum(run.seconds.values()),
            tokens=sum(stage["tokens"] for stage in stages),
            peak_memory_bytes=peak_memory(),
            by_part=run.seconds,
            trainable_parameters=sum(tensor.numel() for tensor in adapter_tensors(run.model, "fast")),
        ),
        data=dict(
            counts=count_data(run.data),
            sources=run.data.sources,
            cut_contexts=sum(e.truncated for e in run.encoded),
            left_out=len(run.left_out) + sum(suite.left_out for suite in run.suites.values()),
            dropped_unvoted=run.weak.get("dropped_unvoted", 0),
            weak=run.weak,
        ),
        stages=stages,
        rows=count_examples(stages),
        gradient_norms={name: [step["norms"][name] for step in history if "norms" in step] for name in LOSSES},
        losses={
            "step": list(range(1, len(history) + 1)),
            "stage": [step["stage"] for step in history],
            **{name: [step.get(name) for step in history] for name in ("total", *LOSSES)},
        },
        samples=sample_replies(run),
    )


def by_level(scores):
    """[general, easy, middle, hard] exact match, each the unweighted mean over its topics; None where absent."""
    general = mean_score(scores["general"]) if "general" in scores else None
    levels = scores.get("medical", {}).get("qa", {}).get("by_level", {})
    return [general, *(levels.get(level) for level in LEVELS)]


def test_scores(scores):
    return {name: scores[name] for name in ("general", "medical") if name in scores}


def validation_scores(scores):
    return {name: scores[f"{name}_validation"] for name in ("general", "medical") if f"{name}_validation" in scores}


def general_retention(before, after):
    """Retention: mean general score after ÷ before; None without a general test."""
    return retention(mean_score(before["general"]), mean_score(after["general"])) if "general" in before else None


def transfer_metrics(matrix):
    """bwt, fwt and forgetting of a run with a stage for each level, over the columns that have a test."""
    if len(matrix) != len(matrix[0]):
        return {}
    found = dict(bwt=bwt(matrix), fwt=fwt(matrix), forgetting=forgetting(matrix))
    return {name: value for name, value in found.items() if not math.isnan(value)}


def count_data(data):
    names = ("trusted", "pool", "validation", "test", "general_memory", "general_validation", "general_test")
    return {name: len(getattr(data, name)) for name in names if getattr(data, name) is not None}


def count_examples(stages):
    """Rows trained on in all stages, by kind."""
    out = {}
    for stage in stages:
        for kind, n in stage["rows"].items():
            out[kind] = out.get(kind, 0) + n
    return out


def sample_replies(run):
    """A few test questions with the base's and the run's own words."""
    examples = []
    for name, topics in (("medical", ("terminology", "drug_class", "reply")), ("general", ("capital",))):
        pool = run.suites[name].examples if name in run.suites else []
        wanted = [next((row for row in pool if row["topic"] == topic), None) for topic in topics]
        examples += [row for row in wanted if row] or [row for row in pool if row["task"] != "pair"][:2]
    texts = {}
    for label, adapter in (("base", None), ("after", "slow")):
        with use_adapter(run.model, adapter):
            texts[label] = (
                generate(run.model, run.tokenizer, run.encoder, examples, max_new_tokens=32) if examples else []
            )
    return [
        dict(prompt=row["prompt"], reference=row["responses"][max(row["label"], 0)], base=a, after=b)
        for row, a, b in zip(examples, texts["base"], texts["after"])
    ]
