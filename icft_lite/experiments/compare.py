"""The methods side by side on the bundled samples, at equal training tokens.

Where runs have processes of their own, this one only reads what they leave, without transformers and peft, which take
ten seconds to import.
"""

import json
from pathlib import Path

from icft_lite.config import METHODS, ICFTConfig
from icft_lite.data.samples import sample_bundle
from icft_lite.errors import ICFTError
from icft_lite.experiments.jobs import default_jobs, run_jobs
from icft_lite.metrics import holm, mean_score, paired_bootstrap
from icft_lite.reporting.render import print_table, write_comparison
from icft_lite.utils.io import write_json

DEMO = dict(topics=("terminology", "drug_class", "relevance", "reply"), tokens=250_000, competence_end=0.5)
"""Settings of the demo: a short syllabus, one topic or two of each level, which two minutes of training can teach. With
every row open from the middle of a stage on, the hardest are met more than once."""
DEMO_QLORA = dict(learning_rate=4e-3)
"""What plain QLoRA has of its own in the demo: of four rates (1e-3, 2e-3, 4e-3, 8e-3) the best for its medicine on
validation."""
FULL = dict(
    topics=("terminology", "anatomy", "drug_class", "drug_use", "relevance", "reply"),
    tokens=1_000_000,
    competence_end=0.5,
    consistency_weight=0.07,
)
"""Settings of `make demo FULL=1`. At the default weight so long a run keeps more than epsilon asks for, and a smaller
one spends that on medicine."""


def summarize_run(report):
    """What a comparison keeps of a run's report."""
    after, before = report["scores"]["after"], report["scores"]["before"]
    return dict(
        seed=report["seed"],
        medical=after["medical"]["qa"]["value"],
        general=mean_score(after["general"]),
        retention=report["retention"],
        preference=after["medical"].get("preference", {}).get("value"),
        reply=after["medical"].get("reply", {}).get("value"),
        base_general=mean_score(before["general"]),
        general_fact=_kind(after["general"]["qa"], "fact"),
        general_rule=_kind(after["general"]["qa"], "rule"),
        medical_fact=_kind(after["medical"]["qa"], "fact"),
        medical_rule=_kind(after["medical"]["qa"], "rule"),
        medical_validation=report["validation"]["after"]["medical"]["qa"]["value"],
        label_accuracy=report["data"]["weak"].get("accuracy"),
        tokens=report["cost"]["tokens"],
        seconds=report["cost"]["seconds"],
        train_seconds=report["cost"]["by_part"].get("train"),
    )


def _kind(task, kind):
    """Mean over the topics of one kind: facts learned by heart, or rules that generalise."""
    values = [part["value"] for part in task["by_topic"].values() if part["kind"] == kind]
    return sum(values) / len(values) if values else None


def mean_and_range(values):
    """{mean, min, max, values} of the runs that have a value."""
    values = [value for value in values if value is not None]
    return dict(mean=sum(values) / len(values), min=min(values), max=max(values), values=values) if values else None


def compare(out, methods, seeds, settings=None, data=None, progress=True, jobs=None, own=None):
    """Train every method with every seed at equal `tokens`, and write comparison.json, .md and .png in `out`.

    settings: dict of ICFTConfig fields that all have in common; what makes a method what it is (METHODS) wins over
    them, and on the samples DEMO stands for what is not given. data: DataBundle (default: the samples); jobs: runs at a
    time (default: `jobs.how_many`; 1 where data is given); own: {method: settings that it alone has}. Runs that are
    complete are not repeated. Returns the comparison."""
    if unknown := set(methods) - set(METHODS):
        raise ICFTError(f"methods: {min(unknown)!r} is unknown; choose among {', '.join(METHODS)}")
    out = Path(out)
    settings = {**(DEMO if data is None else dict(tokens=DEMO["tokens"])), **(settings or {})}
    checked = ICFTConfig.from_dict(settings)  # what a command line gives is text
    settings = {name: getattr(checked, name) for name in settings if name not in ("method", "seed")}
    own = own or {}
    configs = {
        (method, seed): ICFTConfig(
            **{**settings, **METHODS[method], **own.get(method, {}), "method": method, "seed": seed}
        )
        for seed in seeds
        for method in methods
    }
    jobs = jobs or (default_jobs(len(configs), settings.get("model", "tiny")) if data is None else 1)
    if jobs > 1:
        run_jobs({out / f"{method}-{seed}": config for (method, seed), config in configs.items()}, jobs, progress)
    data = (data or sample_bundle()).only(checked.topics)
    if jobs == 1:
        from icft_lite.training.run import train_icft

        for (method, seed), config in configs.items():
            if progress:
                print(f"— {method}, seed {seed}", flush=True)
            train_icft(config, out / f"{method}-{seed}", data, progress)
    comparison = dict(methods={}, seeds=list(seeds), settings=settings, own=own)
    for method in methods:
        reports = [json.loads((out / f"{method}-{seed}" / "report.json").read_text()) for seed in seeds]
        runs = [summarize_run(report) for report in reports]
        keys = [key for key in runs[0] if key != "seed"]
        comparison["methods"][method] = dict(
            runs=runs, **{key: mean_and_range([run[key] for run in runs]) for key in keys}
        )
        before = reports[0]["scores"]["before"]
        comparison["base"] = dict(medical=before["medical"]["qa"]["value"], general=mean_score(before["general"]))
        if method == methods[0]:
            comparison["samples"] = reports[0]["samples"]
    if "icft" in methods:
        comparison["against"] = differences(out, [m for m in methods if m != "icft"], seeds, data)
    if {"icft", "qlora"} <= set(comparison["methods"]):
        comparison["samples"] = paired_samples(out / f"icft-{seeds[0]}", out / f"qlora-{seeds[0]}")
    write_comparison(comparison, out)
    return comparison


def differences(out, others, seeds, data):
    """ICFT minus each other method on the same test questions, {method: {domain: {difference, low, high, p}}}.

    By a bootstrap over questions, each question's answers averaged over the seeds; p by Holm over all the
    comparisons. Where p is 0.05 or more, no difference was measured."""
    topics = {
        name: {row["id"]: row["topic"] for row in rows if row["task"] == "question"}
        for name, rows in (("medical", data.test), ("general", data.general_test))
        if rows is not None
    }
    found = {}
    for method in others:
        for name, topic in topics.items():
            if not topic:
                continue
            ours, theirs = (
                [[items[i] for i in topic] for items in _answers(out, m, seeds, name)] for m in ("icft", method)
            )
            found[method, name] = paired_bootstrap(ours, theirs, list(topic.values()), n_resamples=2000)
    adjusted = holm([one.p_value for one in found.values()]) if found else []
    against = {method: {} for method in others}
    for (method, name), one, p in zip(found, found.values(), adjusted):
        against[method][name] = dict(difference=one.difference, low=one.low, high=one.high, p=float(p))
    return against


def _answers(out, method, seeds, name):
    """Each seed's {row id: right or wrong} on a test."""
    return [json.loads((Path(out) / f"{method}-{seed}" / "items.json").read_text())[name]["qa"] for seed in seeds]


def paired_samples(icft, plain):
    """Question–answer samples of two runs in one list: prompt, reference, base, icft, qlora."""
    ours, theirs = (json.loads((Path(folder) / "report.json").read_text())["samples"] for folder in (icft, plain))
    return [
        dict(prompt=a["prompt"], reference=a["reference"], base=a["base"], icft=a["after"], qlora=b["after"])
        for a, b in zip(ours, theirs)
    ]


def run_demo(out, seeds=1, full=False, jobs=None, progress=True):
    """The demo: ICFT beside plain QLoRA; with more than one seed, beside every other method too."""
    methods = list(METHODS) if seeds > 1 else ["icft", "qlora"]
    settings, own = (FULL, {}) if full else (DEMO, {"qlora": DEMO_QLORA})
    comparison = compare(out, methods, range(seeds), settings, progress=progress, jobs=jobs, own=own)
    report = json.loads((Path(out) / "icft-0" / "report.json").read_text())
    write_json(Path(out) / "report.json", {**report, "comparison": comparison})
    if progress:
        print_table(comparison)
        print(f"\nfigure: {Path(out) / 'comparison.png'}")
    return comparison
