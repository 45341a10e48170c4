"""`icft-lite compare --suite paper`: the runs of a study, then its tables and figures."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from icft_lite.errors import ICFTError
from icft_lite.experiments.jobs import default_jobs
from icft_lite.experiments.paper.analysis import (
    Records,
    claim_medical,
    claim_preference,
    claim_retention,
    load_records,
    trained_point,
)
from icft_lite.experiments.paper.arms import ARMS, QUICK_ARMS, Arm
from icft_lite.experiments.paper.figures import cost_figure, forest_figure, kl_figure, plane_figure
from icft_lite.experiments.paper.further_claims import (
    equal_correctness_table,
    errors_table,
    examples_table,
    generalization_table,
    preference_table,
    replies_table,
)
from icft_lite.experiments.paper.labels import labels_figure, lf_accuracies
from icft_lite.experiments.paper.questions import questions_table
from icft_lite.experiments.paper.runner import plan_text, planned_runs, run_all
from icft_lite.experiments.paper.studies import STUDIES
from icft_lite.experiments.paper.tables import (
    ablation_table,
    ablations_of,
    chat_table,
    claims_table,
    cost_table,
    equal_seconds_table,
    main_table,
    matched_table,
)
from icft_lite.reporting.formatting import Table, to_markdown, to_text
from icft_lite.reporting.style import png
from icft_lite.utils.io import write_bytes, write_text


def run_suite(
    out: Path,
    study_name: str = "tiny",
    arm_names: Sequence[str] = (),
    splits: Sequence[int] | None = None,
    jobs: int | None = None,
    quick: bool = False,
    plan: bool = False,
    progress: bool = True,
) -> None:
    """Run the missing runs of a study and write its tables and figures.

    out: gets a folder of records, NAME/*.json, and NAME.md with the figures next to it. arm_names: all arms by default.
    splits: by default those of the confirmation. quick: the arms of order 1 on `tiny-short`, bundled split. plan: only
    print the runs that are missing and their time. Raises ICFTError for an unknown study or arm.
    """
    if quick:
        study_name, arm_names, splits = "tiny-short", arm_names or QUICK_ARMS, (0,)
    if study_name not in STUDIES:
        raise ICFTError(f"--study: {study_name!r} is unknown; choose among {', '.join(STUDIES)}")
    study, arms = STUDIES[study_name], [arm for arm in ARMS if arm.runs_on(study_name)]
    if unknown := set(arm_names) - {arm.name for arm in arms}:
        raise ICFTError(
            f"--arms: {min(unknown)!r} is not in study {study_name}; choose among {', '.join(a.name for a in arms)}"
        )
    splits = study.confirmation if splits is None else sorted(set(splits))
    if splits and (splits[0] < 0 or (study.unit == "seeds" and splits[-1] >= 20)):
        known = "0 to 9, or 10 to 19" if study.unit == "seeds" else "0 or more"
        raise ICFTError(f"--splits: study {study_name} has no split {min(splits[0], 0) or splits[-1]}; give {known}")
    chosen: list[Arm] = [arm for arm in arms if not arm_names or arm.name in arm_names]
    records = out / study_name
    runs = planned_runs(study, chosen, splits, records)
    print(f"{study_name}: {plan_text(runs)}", flush=True)
    if plan:
        for run in runs:
            print(f"  {run.name}")
        return
    command = f"icft-lite compare --suite paper {'--quick' if quick else f'--study {study_name}'}"
    jobs = jobs or default_jobs(max(1, len(runs)), str(study.settings.get("model", "tiny")))
    run_all(runs, records, out / "work" / study_name, jobs, command, progress)
    found = load_records(records, splits)
    tables = study_tables(found, study_name)
    for table in tables:
        print(f"\n{to_text(table)}")
    write_study(found, tables, out / study_name, study_name)
    print(f"\nreport: {out / study_name}.md")


def study_tables(records: Records, name: str, repeated: Records | None = None) -> list[Table]:
    """Return all tables that the records allow. repeated: runs of the study that have replies, if `records` have none.

    Claims need two splits and a baseline besides plain fine-tuning and, in a confirmation, all splits of all arms of
    order 1.
    """
    tables = [main_table(records), main_table(records, "trained")]
    if any("free" in trained_point(run)["test"] for runs in records.values() for run in runs.values()):
        tables += [chat_table(records), chat_table(records, "trained")]
    common = set.intersection(*({*records.get(arm, {})} for arm in ("base", "plain", "icft")))
    is_development = common.isdisjoint(STUDIES[name].confirmation)
    questions = [run["questions"] for runs in records.values() for run in runs.values()]
    has_medical, has_pairs = (any(one.get(test) for one in questions) for test in ("medical", "pairs"))
    if len(common) > 1 and len(records) > 3 and (is_development or not missing_runs(records, name)):
        claims = [claim_medical(records)]
        if "replay_25" in records:
            claims.append(claim_retention(records))
        if has_pairs:
            claims.append(claim_preference(records))
        table = claims_table(claims, records)
        tables.append(table._replace(title="Claims on development data, not judged") if is_development else table)
    if "base" in records and "plain" in records:
        tables.append(matched_table(records))
    if (longer := equal_seconds_table(records, STUDIES[name].test_per_train())).rows:
        tables.append(longer)
    if {"base", "icft"} <= {*records} and has_medical:
        tables.append(questions_table(records))
    if ablations_of(records):
        tables.append(ablation_table(records, STUDIES[name].test_per_train()))
    splits = sorted({split for runs in records.values() for split in runs})
    if has_pairs:
        topics = STUDIES[name].settings.get("topics")
        tables.append(preference_table(records, {split: STUDIES[name].data(split).only(topics) for split in splits}))
    tables += [table(records) for table in (generalization_table, errors_table, examples_table, replies_table)]
    varied = equal_correctness_table(repeated or records)
    return [*tables, *([varied] if varied.rows else []), cost_table(records)]


def missing_runs(records: Records, name: str) -> dict[str, list[int]]:
    """Return the splits of a study's confirmation that arms of order 1 have no record of: {arm: splits}."""
    missing = {arm: sorted({*STUDIES[name].confirmation} - {*records.get(arm, {})}) for arm in QUICK_ARMS}
    return {arm: splits for arm, splits in missing.items() if splits}


def study_figures(records: Records, name: str) -> dict[str, Figure]:
    """Return {key: figure} of a study."""
    figures = {
        "plane": plane_figure(records, f"{name}: medicine learned and general abilities retained"),
        "kl": kl_figure(records, f"{name}: distance from the base and forgetting"),
        "cost": cost_figure(records, f"{name}: cost of a run"),
    }
    split = min(split for runs in records.values() for split in runs)
    labels = lf_accuracies(STUDIES[name].data(split).only(STUDIES[name].settings.get("topics")))
    figures["labels"] = labels_figure(labels, f"{name}, split {split}: labelling functions")
    if len(ablations_of(records)) > 1:
        title = f"{name}: what each part of ICFT contributes"
        figures["ablations"] = forest_figure(records, title, STUDIES[name].test_per_train())
    return figures


def write_study(records: Records, tables: Sequence[Table], path: Path, name: str) -> None:
    """Write PATH.md and the figures PATH-*.png."""
    figures = study_figures(records, name)
    for key, figure in figures.items():
        write_bytes(path.with_name(f"{path.name}-{key}.png"), png(figure))
    images = [f"![{key}]({path.name}-{key}.png)" for key in figures]
    write_text(path.with_suffix(".md"), "\n\n".join([f"# {name}", *images, *map(to_markdown, tables)]))
