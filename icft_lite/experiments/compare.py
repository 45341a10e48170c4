"""Compare methods on the bundled samples, at equal training tokens.

If runs have their own processes, this process only reads their files. It then needs neither transformers nor peft,
whose import takes ten seconds.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from icft_lite.compat import rename_settings
from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.data.sources import bundle_from_files, default_general
from icft_lite.errors import ICFTError
from icft_lite.experiments.jobs import default_jobs, run_jobs
from icft_lite.experiments.settings import demo_settings
from icft_lite.metrics import mean_score
from icft_lite.presets import PRESETS
from icft_lite.report_file import read_report
from icft_lite.reporting.render import write_comparison
from icft_lite.statistics import holm, paired_bootstrap
from icft_lite.utils.config_parsing import flatten


def compare(
    out: str | Path,
    methods: Sequence[str],
    seeds: Sequence[int],
    settings: Mapping[str, Any] | None = None,
    data: DataBundle | None = None,
    progress: bool = True,
    jobs: int | None = None,
    method_settings: Mapping[str, Mapping[str, Any]] | None = None,
    runtime: RuntimeConfig | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Train every method with every seed at equal `optim.max_tokens`, and compare them.

    Writes comparison.json, .md and .png in `out`, and a folder for each run. Runs that are complete are not repeated.

    methods: keys of `PRESETS`, or names of variants; settings: of all runs, by dotted name (those of the demo by
    default). The settings of a preset override them; method_settings: {method: further settings}, which override both;
    those of a variant name its preset as `method`; data: the samples by default; jobs: runs at a time (default:
    `jobs.default_jobs`; 1 if data is given); notes: remarks on the results, shown with them.
    Returns the comparison (a dict). Raises ICFTError for an unknown method or setting.
    """
    out, own = Path(out), method_settings or {}
    preset_of = {name: own.get(name, {}).get("method", name) for name in methods}
    if unknown := set(preset_of.values()) - set(PRESETS):
        raise ICFTError(f"methods: {min(unknown)!r} is unknown; choose among {', '.join(PRESETS)}")
    given = flatten(rename_settings(settings or {}))
    defaults = demo_settings(str(given.get("model", ICFTConfig.model)))
    defaults = defaults if data is None else {"optim.max_tokens": defaults["optim.max_tokens"]}
    common = {name: value for name, value in {**defaults, **given}.items() if name not in ("method", "seed")}
    configs = {
        (method, seed): ICFTConfig.from_dict(
            {**common, **PRESETS[preset_of[method]], "method": preset_of[method], **own.get(method, {}), "seed": seed}
        )
        for seed in seeds
        for method in methods
    }
    checked = ICFTConfig.from_dict(common)  # what a command line gives is text
    common = {name: value for name, value in flatten(checked.to_dict()).items() if name in common}
    on_samples, model, test = data is None, checked.model, checked.limits.test
    data = data or bundle_from_files(["samples"], default_general(model))
    data = data.only(checked.topics).limited(test=test, general_test=test)
    for name, examples in (("medical", data.test), ("general", data.general_test)):
        if examples is None or "question" not in examples["task"][:]:
            raise ICFTError(f"data: there is no {name} test question, which comparisons need; choose other topics")
    if not on_samples and (jobs or 1) > 1:
        raise ICFTError("jobs: other processes cannot be given `data`; leave it out, or set it to 1")
    jobs = jobs or (default_jobs(len(configs), model) if on_samples else 1)
    if jobs > 1:
        folders = {out / f"{method}-{seed}": config for (method, seed), config in configs.items()}
        run_jobs(folders, jobs, progress, runtime)
    if jobs == 1:
        from icft_lite.training.loop import train_icft

        for (method, seed), config in configs.items():
            if progress:
                print(f"— {method}, seed {seed}", flush=True)
            train_icft(config, out / f"{method}-{seed}", data, progress, runtime=runtime)
    comparison = summarize_comparison(out, methods, seeds, data)
    comparison |= dict(settings=common, method_settings={name: dict(one) for name, one in own.items()})
    comparison |= dict(model=model, four_bit=checked.adapter.load_in_4bit, notes=list(notes))
    write_comparison(comparison, out)
    return comparison


def summarize_comparison(out: Path, methods: Sequence[str], seeds: Sequence[int], data: DataBundle) -> dict[str, Any]:
    """Return the scores of finished runs by method, and how ICFT differs from each other method."""
    comparison: dict[str, Any] = dict(methods={}, seeds=list(seeds))
    for method in methods:
        reports = [read_report(out / f"{method}-{seed}") for seed in seeds]
        runs = [summarize_run(report) for report in reports]
        measures = {key: mean_and_range(run[key] for run in runs) for key in runs[0] if key != "seed"}
        comparison["methods"][method] = dict(runs=runs, **measures)
        if method == methods[0]:
            before = reports[0]["scores"]["before"]
            comparison["base"] = dict(medical=before["medical"]["qa"]["value"], general=mean_score(before["general"]))
            comparison["num_questions"] = {name: before[name]["qa"]["n"] for name in ("general", "medical")}
            comparison["samples"] = reports[0]["samples"]
            if chat := reports[0].get("chat"):
                comparison["chat"] = dict(base=chat["scores"]["before"])
                comparison["display"] = [{"prompt": one["prompt"], "base": one["base"]} for one in chat["display"]]
        if reports[0].get("chat"):
            for shown, one in zip(comparison["display"], reports[0]["chat"]["display"], strict=True):
                shown[method] = one["after"]
    if "icft" in methods:
        comparison["against"] = differences(out, [method for method in methods if method != "icft"], seeds, data)
    if {"icft", "qlora"} <= set(methods):
        comparison["samples"] = paired_samples(out / f"icft-{seeds[0]}", out / f"qlora-{seeds[0]}")
    return comparison


def summarize_run(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the measures of one run that a comparison needs, from its report."""
    after, before = report["scores"]["after"], report["scores"]["before"]
    return dict(
        seed=report["seed"],
        medical=after["medical"]["qa"]["value"],
        general=mean_score(after["general"]) if "general" in after else None,
        retention=report["retention"],
        preference=after["medical"].get("preference", {}).get("value"),
        reply=after["medical"].get("reply", {}).get("value"),
        **chat_measures(report),
        base_general=mean_score(before["general"]) if "general" in before else None,
        general_fact=_mean_of_kind(after.get("general", {}).get("qa"), "fact"),
        general_rule=_mean_of_kind(after.get("general", {}).get("qa"), "rule"),
        medical_fact=_mean_of_kind(after["medical"]["qa"], "fact"),
        medical_rule=_mean_of_kind(after["medical"]["qa"], "rule"),
        medical_validation=report["validation"]["after"]["medical"]["qa"]["value"],
        label_accuracy=report["data"]["weak"].get("accuracy"),
        tokens=report["cost"]["tokens"],
        seconds=report["cost"]["seconds"],
        train_seconds=report["cost"]["by_part"].get("train"),
    )


def chat_measures(report: Mapping[str, Any]) -> dict[str, float | None]:
    """Return what a run's report says about replies to a chat suite; {} without one."""
    if not (chat := report.get("chat")):
        return {}
    after, found = chat["scores"]["after"], chat["retention"]
    return dict(
        retention_low=found["low"],
        retention_high=found["high"],
        choice_retention=(report.get("general_retention") or {}).get("value"),
        free=after["free"]["value"],
        instructions=after["instructions"]["value"],
        still_right=found["still_right"],
        **{name: after.get(name) for name in ("words", "intrusion", "nll", "kl_base_tuned", "kl_tuned_base")},
    )


def _mean_of_kind(task: Mapping[str, Any] | None, kind: str) -> float | None:
    """Return the mean over topics of one kind: `fact` (memorized) or `rule` (generalizes)."""
    values = [part["value"] for part in task["by_topic"].values() if part["kind"] == kind] if task else []
    return sum(values) / len(values) if values else None


def mean_and_range(values: Iterable[float | None]) -> dict[str, Any] | None:
    """Return {mean, min, max, values} of the runs that have a value; None if none has."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return dict(mean=sum(known) / len(known), min=min(known), max=max(known), values=known)


def differences(
    out: Path, others: Sequence[str], seeds: Sequence[int], data: DataBundle
) -> dict[str, dict[str, dict[str, float]]]:
    """Return ICFT minus each other method on the same test questions: {method: {domain: {difference, low, high, p}}}.

    A bootstrap over questions, whose results are averaged over the seeds; p is adjusted by Holm over all comparisons.
    Where p is 0.05 or more, no difference was measured. Only questions that all runs have scored count: a run leaves
    out those that do not fit `max_length`.
    """
    topics = {
        name: {example["id"]: example["topic"] for example in examples if example["task"] == "question"}
        for name, examples in (("medical", data.test), ("general", data.general_test))
        if examples is not None
    }
    found = {}
    if data.chat:
        topics["free questions"] = {item.id: item.topic for item in data.chat["test"] if item.accepted}
        topics["instructions"] = {item.id: item.topic for item in data.chat["test"] if item.checks}
    for method in others:
        for name, topic in topics.items():
            runs = [_item_scores(out, one, seeds, name) if topic else [] for one in ("icft", method)]
            ids = [i for i in topic if all(i in items for of_method in runs for items in of_method)]
            if ids:
                icft, other = ([[items[i] for i in ids] for items in of_method] for of_method in runs)
                found[method, name] = paired_bootstrap(icft, other, [topic[i] for i in ids], n_resamples=2000)
    adjusted = holm([one.p_value for one in found.values()])
    against: dict[str, dict[str, dict[str, float]]] = {method: {} for method in others}
    for ((method, name), one), p in zip(found.items(), adjusted, strict=True):
        against[method][name] = dict(difference=one.difference, low=one.low, high=one.high, p=float(p))
    return against


def _item_scores(out: Path, method: str, seeds: Sequence[int], name: str) -> list[dict[str, float]]:
    """Return {example id: score} of a test for each seed."""
    paths = [Path(out) / f"{method}-{seed}" / "items.json" for seed in seeds]
    found = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return [items[name]["qa"] if name in items else items["chat"]["after"] for items in found]


def paired_samples(icft: Path, qlora: Path) -> list[dict[str, str]]:
    """Return the sample replies of two runs in one list: prompt, reference, base, icft, qlora."""
    pairs = zip(read_report(icft)["samples"], read_report(qlora)["samples"], strict=True)
    return [
        dict(prompt=a["prompt"], reference=a["reference"], base=a["base"], icft=a["after"], qlora=b["after"])
        for a, b in pairs
    ]
