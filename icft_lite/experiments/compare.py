"""Compare methods on the bundled samples or on other data, at equal training tokens.

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

TESTS = {
    "medical": ("medical", "qa"),
    "short answers": ("medical", "short_answer"),
    "preferences": ("medical", "preference"),
    "replies": ("medical", "reply"),
    "general": ("general", "qa"),
    "general short answers": ("general", "short_answer"),
    "general preferences": ("general", "preference"),
    "general replies": ("general", "reply"),
    "free questions": ("chat", "free"),
    "instructions": ("chat", "instructions"),
}
"""{name in tables of differences: (suite, task)}"""


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
    data_options: Sequence[str] = (),
) -> dict[str, Any]:
    """Train every method with every seed at equal `optim.max_tokens`, and compare them.

    Writes comparison.json, .md and .png in `out`, and a folder for each run. Runs that are complete are not repeated.

    methods: keys of `PRESETS`, or names of variants; settings: of all runs, by dotted name (those of the demo by
    default). The settings of a preset override them; method_settings: {method: further settings}, which override both;
    those of a variant name its preset as `method`; data: the samples by default; data_options: the options of
    `icft-lite train` that read `data`, for runs in other processes; jobs: runs at a time (default: `jobs.default_jobs`;
    1 if data is given without data_options); notes: remarks on the results, shown with them.
    Returns the comparison (a dict). Raises ICFTError for an unknown method or setting, and for data without a medical
    test or without anything that measures what is forgotten.
    """
    out, own = Path(out), method_settings or {}
    preset_of = {name: own.get(name, {}).get("method", name) for name in methods}
    if unknown := set(preset_of.values()) - set(PRESETS):
        raise ICFTError(f"methods: {min(unknown)!r} is unknown; choose among {', '.join(PRESETS)}")
    given = flatten(rename_settings(settings or {}))
    if "optim.num_epochs" in given and given.get("optim.max_tokens") is None:
        raise ICFTError("optim.num_epochs: methods are compared at equal tokens; give optim.max_tokens instead")
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
    on_samples, other_processes = data is None, data is None or bool(data_options)
    model, test = checked.model, checked.limits.test
    data = data or bundle_from_files(["samples"], default_general(model))
    data = data.only(checked.topics).limited(test=test, general_test=test)
    if not len(data.test or ()):
        raise ICFTError("data: no medical test example is left, which comparisons need; check topics and test ids")
    if not data.chat and not len(data.general_test or ()):
        raise ICFTError("general: there is no test example, so that nothing measures what is forgotten; give more data")
    if not other_processes and (jobs or 1) > 1:
        raise ICFTError("jobs: other processes cannot be given `data`; leave it out, or set it to 1")
    if not on_samples:
        notes = [*notes, *_check_methods(data, configs)]
    jobs = jobs or (default_jobs(len(configs), model) if other_processes else 1)
    folders = {out / f"{method}-{seed}": config for (method, seed), config in configs.items()}
    _check_folders(folders, data)
    if jobs > 1:
        run_jobs(folders, jobs, progress, runtime, data_options)
    else:
        from icft_lite.training.loop import train_icft

        for (method, seed), (folder, config) in zip(configs, folders.items(), strict=True):
            if progress:
                print(f"— {method}, seed {seed}", flush=True)
            train_icft(config, folder, data, progress, runtime=runtime)
    comparison = summarize_comparison(out, methods, seeds, data)
    comparison |= dict(settings=common, method_settings={name: dict(one) for name, one in own.items()})
    comparison |= dict(model=model, four_bit=checked.adapter.load_in_4bit, notes=list(notes))
    write_comparison(comparison, out)
    return comparison


def _check_methods(data: DataBundle, configs: Mapping[tuple[str, int], ICFTConfig]) -> list[str]:
    """Return remarks on methods that cannot differ on this data. Raises ICFTError for one that cannot be trained on it.

    Checked before the first run, so that no finished run is lost.
    """
    from icft_lite.training.examples import check_pool

    of_method = {method: config for (method, _), config in configs.items()}
    for method, config in of_method.items():
        try:
            check_pool(data, config)
        except ICFTError as error:
            reason = "needs the answers of all examples; leave it out" if method == "gold" else error.args[0]
            raise ICFTError(f"methods: {method}: {reason}", error.example) from None
    same = [method for method in ("majority_vote", "gold", "soft_labels") if method in of_method]
    if not same or len(data.pool or ()):
        return []
    return [f"There are no unlabelled examples, so that these methods are the same as icft: {', '.join(same)}."]


def _check_folders(folders: Mapping[Path, ICFTConfig], data: DataBundle) -> None:
    """Raise ICFTError for a folder that holds another run. Checked before the first run, which may take an hour."""
    existing = {folder: config for folder, config in folders.items() if folder.exists()}
    if existing:
        from icft_lite.training.checkpoint import RunPaths
        from icft_lite.training.loop import select_data
        from icft_lite.training.run_folder import finished_report, run_identity

        for folder, config in existing.items():
            finished_report(RunPaths(folder), run_identity(config, select_data(config, data)))


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
            comparison["base"] = {**medical_measures(before), "general": _general_score(before)}
            comparison["num_questions"] = {
                name: before[suite][task]["n"] for name, (suite, task) in TESTS.items() if task in before.get(suite, {})
            }
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
        **medical_measures(after),
        general=_general_score(after),
        retention=report["retention"],
        **chat_measures(report),
        base_general=_general_score(before),
        general_fact=_mean_of_kind(after.get("general", {}).get("qa"), "fact"),
        general_rule=_mean_of_kind(after.get("general", {}).get("qa"), "rule"),
        medical_fact=_mean_of_kind(after["medical"].get("qa"), "fact"),
        medical_rule=_mean_of_kind(after["medical"].get("qa"), "rule"),
        medical_validation=medical_measures(report["validation"]["after"])["medical"],
        label_accuracy=report["data"]["weak"].get("accuracy"),
        tokens=report["cost"]["tokens"],
        seconds=report["cost"]["seconds"],
        train_seconds=report["cost"]["by_part"].get("train"),
    )


def medical_measures(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the medical scores of a report by task: questions with options are called `medical`."""
    tasks = dict(medical="qa", short_answer="short_answer", preference="preference", reply="reply")
    return {name: scores.get("medical", {}).get(task, {}).get("value") for name, task in tasks.items()}


def _general_score(scores: Mapping[str, Any]) -> float | None:
    return mean_score(scores["general"]) if "general" in scores else None


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
    """Return ICFT minus each other method on the same test examples: {method: {test: {difference, low, high, p, n}}}.

    A bootstrap over examples, whose results are averaged over the seeds; p is adjusted by Holm over all comparisons.
    Where p is 0.05 or more, no difference was measured. Only examples that all runs have scored count: a run leaves
    out those that do not fit `max_length`.
    """
    suites = {name: getattr(data, role) or () for name, role in (("medical", "test"), ("general", "general_test"))}
    topics = {suite: {one["id"]: one["topic"] for one in examples} for suite, examples in suites.items()}
    topics["chat"] = {item.id: item.topic for item in data.chat.get("test", ())}
    items = {method: [_item_scores(out / f"{method}-{seed}", data) for seed in seeds] for method in ("icft", *others)}
    found, sizes = {}, {}
    for method in others:
        for name, (suite, _) in TESTS.items():
            icft, other = ([scores[name] for scores in items[one]] for one in ("icft", method))
            ids = [i for i in topics[suite] if all(i in scores for scores in (*icft, *other))]
            if ids:
                a, b = ([[scores[i] for i in ids] for scores in of_method] for of_method in (icft, other))
                found[method, name] = paired_bootstrap(a, b, [topics[suite][i] for i in ids], n_resamples=2000)
                sizes[method, name] = len(ids)
    adjusted = holm([one.p_value for one in found.values()])
    against: dict[str, dict[str, dict[str, float]]] = {method: {} for method in others}
    for ((method, name), one), p in zip(found.items(), adjusted, strict=True):
        n = sizes[method, name]
        against[method][name] = dict(difference=one.difference, low=one.low, high=one.high, p=float(p), n=n)
    return against


def _item_scores(folder: Path, data: DataBundle) -> dict[str, dict[str, float]]:
    """Return {test: {example id: score}} of a finished run, for each of TESTS."""
    items = json.loads((folder / "items.json").read_text(encoding="utf-8"))
    instructions = {item.id for item in data.chat.get("test", ()) if item.checks}
    chat = items.get("chat", {}).get("after", {})
    items["chat"] = {
        "free": {i: score for i, score in chat.items() if i not in instructions},
        "instructions": {i: score for i, score in chat.items() if i in instructions},
    }
    return {name: items.get(suite, {}).get(task, {}) for name, (suite, task) in TESTS.items()}


def paired_samples(icft: Path, qlora: Path) -> list[dict[str, str]]:
    """Return the sample replies of two runs in one list: prompt, reference, base, icft, qlora."""
    pairs = zip(read_report(icft)["samples"], read_report(qlora)["samples"], strict=True)
    return [
        dict(prompt=a["prompt"], reference=a["reference"], base=a["base"], icft=a["after"], qlora=b["after"])
        for a, b in pairs
    ]
