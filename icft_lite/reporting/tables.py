"""The tables of a report, as data: one source for markdown and for the terminal.

The dicts are those of `train_icft`. Any part of them may be missing, because runs on users' data have fewer parts.
"""

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any

from icft_lite.reporting.chat_tables import chat_table
from icft_lite.reporting.formatting import Table, format_cell, get_nested
from icft_lite.reporting.labels import column_names
from icft_lite.utils.notice import NOTICE

Report = dict[str, Any]
"""The report of a run, or a comparison of several runs: the contents of report.json or comparison.json."""


def report_tables(report: Report, topics: bool = True) -> list[Table]:
    """Return the tables of the parts that a report has. topics: with the scores of every topic."""
    hashed = report.get("base_hash")
    tables = [
        Table(
            "Scores",
            ["suite", "task", "topic", "metric", "n", "before", "after", "change"],
            list(_score_rows(report, topics)),
        ),
        chat_table(report.get("chat") or {}),
        _retention(report),
        _accuracy_matrix(report),
        Table(
            "Samples",
            ["prompt", "reference", "base", "after training"],
            [_values(s, ("prompt", "reference", "base", "after")) for s in (report.get("samples") or [])[:3]],
            f"Replies of a {NOTICE}.",
        ),
        Table("Cost", ["what", "value"], list(_cost_rows(report.get("cost")))),
        *_data(report.get("data") or {}),
        _stages(report),
        _candidates(report),
        Table(
            "Losses",
            ["loss", "mean of the first tenth", "of the last tenth", "gradient norm: first", "mean", "last"],
            list(_loss_rows(report)),
        ),
        Table(
            "Examples trained on",
            ["kind", "sequences"],
            list((report.get("examples") or {}).items()),
            "Each draw of an example counts. An example counts once for each sequence that it takes.",
        ),
        Table("Settings", ["name", "value"], list(_setting_rows(report.get("config")))),
        Table(
            "Runtime settings",
            ["name", "value"],
            list(_setting_rows(report.get("runtime"))),
            ". ".join(report.get("model_notes") or []),
        ),
        Table(
            "Runtime changes",
            ["after stage", "step", "setting", "before", "after"],
            [
                [change.get("after_stage"), change.get("step"), change.get("setting")]
                + [_exact(change.get(key)) for key in ("before", "after")]
                for change in report.get("runtime_changes") or []
            ],
            "Runtime settings that were changed when the run was resumed.",
        ),
        Table(
            "Versions",
            ["name", "value"],
            [*_setting_rows(report.get("versions")), *([["base (hash)", hashed]] if hashed else [])],
        ),
        Table(
            "Problems",
            ["what failed"],
            [[problem] for problem in report.get("problems") or []],
            "Parts of the report that could not be made. The adapters are not affected.",
        ),
    ]
    return [table for table in tables if table.rows]


def _values(record: dict[str, Any], keys: Iterable[str]) -> list[Any]:
    return [record.get(key) for key in keys]


def _score_row(where: list[str], metric: Any, before: Any, after: Any, key: str = "value") -> list[Any]:
    score_before, score_after = get_nested(before, key), get_nested(after, key)
    change = None if score_before is None or score_after is None else f"{score_after - score_before:+.3f}"
    return [*where, metric, get_nested(after, "n"), score_before, score_after, change]


def _score_rows(report: Report, topics: bool) -> Iterator[list[Any]]:
    for suite, tasks in (get_nested(report, "scores", "after") or {}).items():
        for task, after in tasks.items():
            before, metric = get_nested(report, "scores", "before", suite, task), after.get("metric")
            yield _score_row([suite, task, "all"], _with_chance(metric, after), before, after)
            if after.get("option_accuracy") is not None and metric == "exact_match":
                option_metric = f"option accuracy (chance {format_cell(after.get('option_chance'))})"
                yield _score_row([suite, task, "all"], option_metric, before, after, "option_accuracy")
            for key, name in (("exact_match", "exact match"), ("nll", "NLL per token of the reference, nats")):
                if after.get(key) is not None:
                    yield _score_row([suite, task, "all"], name, before, after, key)
            for topic, part in (after.get("by_topic") or {}).items() if topics else ():
                name = f"{topic} ({part['kind']})" if part.get("kind") else topic
                yield _score_row([suite, task, name], metric, get_nested(before, "by_topic", topic), part)


def _with_chance(metric: Any, score: dict[str, Any]) -> Any:
    return f"{metric} (chance {format_cell(score['chance'])})" if score.get("chance") else metric


def _retention(report: Report) -> Table:
    meanings = dict(
        retention="mean of the two ratios above"
        if report.get("chat")
        else "general score above chance, after ÷ before; 1: nothing was lost",
        bwt="backward transfer; below 0: later stages reduced earlier scores",
        fwt="forward transfer; above 0: earlier stages helped later ones",
        forgetting="best earlier score − last score; 0: nothing was forgotten",
    )
    rows = [[key, report[key], meaning] for key, meaning in meanings.items() if report.get(key) is not None]
    general = report.get("general_retention") or {}
    if report.get("chat") and general.get("value") is not None:
        rows.insert(1, ["choice accuracy", general["value"], "general score above chance, after ÷ before"])
    elif general.get("low") is not None:
        interval = f"{general['low']:.3f} to {general['high']:.3f}"
        rows.insert(1, ["95 % interval", interval, "of retention; bootstrap over questions"])
        rows.insert(2, ["drop", general["drop"], "of the general score, mean over topics"])
    if general.get("kl") is not None:
        rows.append(["KL", general["kl"], "KL(base ‖ tuned) on general tests, nats per token; 0: no change"])
    names = general.get("uninformative")
    note = f"The base is not above chance on these suites, which take no part: {', '.join(names)}." if names else ""
    return Table("Retention", ["measure", "value", "meaning"], rows, note)


def _accuracy_matrix(report: Report) -> Table:
    columns, names = column_names(report)
    rows = [[name, *scores] for name, scores in zip(names, report.get("accuracy_matrix") or [], strict=True)]
    return Table("Accuracy matrix", ["model", *columns], rows)


def _cost_rows(cost: dict[str, Any] | None) -> Iterator[list[Any]]:
    cost = cost or {}
    if cost.get("seconds") is not None:
        yield ["time", f"{cost['seconds']:,.0f} s"]
    parts = cost.get("by_part") or {}
    if parts.get("train"):
        upkeep = sum(parts.get(name, 0.0) for name in ("seed memory", "refresh", "promote"))
        yield ["memory upkeep ÷ training time", upkeep / parts["train"]]
    if cost.get("tokens") is not None:
        yield ["training tokens", int(cost["tokens"])]
    if cost.get("peak_memory_bytes") is not None:
        yield ["peak memory", f"{cost['peak_memory_bytes'] / 2**20:,.0f} MiB"]
    if cost.get("trainable_parameters") is not None:
        yield ["trainable parameters", int(cost["trainable_parameters"])]


def _data(data: dict[str, Any]) -> Iterator[Table]:
    notes = dict(
        truncated_contexts="examples with a truncated context",
        left_out="examples left out: too long",
        dropped_unvoted="pool examples dropped: every labelling function abstained",
        dropped_tied="pool examples dropped: two responses are equally likely",
    )
    counts = [*(data.get("counts") or {}).items()]
    counts += [(text, data[key]) for key, text in notes.items() if data.get(key) is not None]
    yield Table("Data", ["what", "examples"], counts)
    weak = data.get("weak") or {}
    lfs = weak.get("lfs") or []
    columns = list(lfs[0]) if lfs else []
    yield Table("Labelling functions", columns, [_values(lf, columns) for lf in lfs])
    facts = [[key.replace("_", " "), value] for key, value in weak.items() if key != "lfs"]
    yield Table("Weak labels", ["what", "value"], facts)


def _stages(report: Report) -> Table:
    columns = {
        "stage": ("name",),
        "steps": ("steps",),
        "new examples": ("new_examples",),
        "promoted": ("promoted",),
        "evicted": ("evicted",),
        "memory examples": ("memory_examples",),
        "teacher: slow adapter": ("teacher_share", "memory"),
        "teacher: base": ("teacher_share", "base"),
        "chosen α": ("consolidation", "alpha"),
        "rejected": ("consolidation", "refused"),
        "SVD residual": ("consolidation", "svd_residual"),
        "tokens": ("tokens",),
        "seconds": ("seconds",),
    }
    stages = report.get("stages") or []
    return Table(
        "Stages",
        list(columns),
        [[get_nested(stage, *keys) for keys in columns.values()] for stage in stages],
        "Teacher: the share of memory examples that this model is the teacher of. "
        "Rejected: no candidate of the consolidation met the retention constraint.",
    )


def _candidates(report: Report) -> Table:
    identity = ("origin", "alpha")
    rows = [
        [stage.get("name"), *_values(candidate, (*identity, "general", "retention", "chat_retention", "kl", "medical"))]
        + ["←" if _values(candidate, identity) == _values(stage["consolidation"], identity) else ""]
        for stage in report.get("stages") or []
        for candidate in get_nested(stage, "consolidation", "candidates") or []
    ]
    return Table(
        "Consolidation: candidates of the line search over α",
        ["stage", "origin", "α", "general", "retention", "retention in replies", "KL", "medical", "chosen"],
        rows,
        "Scores are on validation data. α = 1 is the slow adapter at the end of the stage. α = 0 is the origin: the "
        "slow adapter at the start of the stage, or the base. The chosen candidate has the best medical score of those "
        "that meet the constraint. A dash: not measured.",
    )


def _loss_rows(report: Report) -> Iterator[list[Any]]:
    for name in ("fine_tune", "task", "consistency"):
        values = [value for value in get_nested(report, "losses", name) or [] if value is not None]
        norms = [norm for norm in get_nested(report, "gradient_norms", name) or [] if norm is not None]
        tenth = math.ceil(len(values) / 10)
        row = [sum(part) / tenth for part in (values[:tenth], values[-tenth:])] if values else [None, None]
        row += [norms[0], sum(norms) / len(norms), norms[-1]] if norms else [None] * 3
        if values or norms:
            yield ["L_" + name.replace("_", "-"), *row]


def _exact(value: Any) -> str:
    """Return a setting as it is written in a configuration: not rounded to three decimals."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _setting_rows(settings: dict[str, Any] | None, prefix: str = "") -> Iterator[list[str]]:
    """Yield [name, value] of all settings; those in groups have dotted names."""
    for name, value in (settings or {}).items():
        if isinstance(value, dict):
            yield from _setting_rows(value, f"{prefix}{name}.")
        else:
            yield [prefix + name, _exact(value)]
