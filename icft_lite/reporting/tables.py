"""The tables of a report and of a comparison, as data: one source for markdown and for the terminal.

The dicts are those of `train_icft` and of `icft-lite compare`. Any part of them may be missing, because runs on users'
data have fewer parts.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from icft_lite.reporting.chat_tables import chat_table, get_measure
from icft_lite.reporting.figures import as_measure, column_names, method_label
from icft_lite.reporting.formatting import Table, format_cell
from icft_lite.utils.notice import NOTICE

Report = dict[str, Any]
"""The report of a run, or a comparison of several runs: the contents of report.json or comparison.json."""


# --- a run


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


def _get(record: Any, *keys: str) -> Any:
    """Return record[key][key]…, or None where one of the keys is missing."""
    for key in keys:
        record = (record or {}).get(key)
    return record


def _values(record: dict[str, Any], keys: Iterable[str]) -> list[Any]:
    return [record.get(key) for key in keys]


def _score_row(where: list[str], metric: Any, before: Any, after: Any, key: str = "value") -> list[Any]:
    score_before, score_after = _get(before, key), _get(after, key)
    change = None if score_before is None or score_after is None else f"{score_after - score_before:+.3f}"
    return [*where, metric, _get(after, "n"), score_before, score_after, change]


def _score_rows(report: Report, topics: bool) -> Iterator[list[Any]]:
    for suite, tasks in (_get(report, "scores", "after") or {}).items():
        for task, after in tasks.items():
            before, metric = _get(report, "scores", "before", suite, task), after.get("metric")
            yield _score_row([suite, task, "all"], _with_chance(metric, after), before, after)
            if after.get("option_accuracy") is not None and metric == "exact_match":
                option_metric = f"option accuracy (chance {format_cell(after.get('option_chance'))})"
                yield _score_row([suite, task, "all"], option_metric, before, after, "option_accuracy")
            for key, name in (("exact_match", "exact match"), ("nll", "NLL per token of the reference, nats")):
                if after.get(key) is not None:
                    yield _score_row([suite, task, "all"], name, before, after, key)
            for topic, part in (after.get("by_topic") or {}).items() if topics else ():
                name = f"{topic} ({part['kind']})" if part.get("kind") else topic
                yield _score_row([suite, task, name], metric, _get(before, "by_topic", topic), part)


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
        [[_get(stage, *keys) for keys in columns.values()] for stage in stages],
        "Teacher: the share of memory examples that this model is the teacher of. "
        "Rejected: no candidate of the consolidation met the retention constraint.",
    )


def _candidates(report: Report) -> Table:
    identity = ("origin", "alpha")
    rows = [
        [stage.get("name"), *_values(candidate, (*identity, "general", "retention", "chat_retention", "kl", "medical"))]
        + ["←" if _values(candidate, identity) == _values(stage["consolidation"], identity) else ""]
        for stage in report.get("stages") or []
        for candidate in _get(stage, "consolidation", "candidates") or []
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
        values = [value for value in _get(report, "losses", name) or [] if value is not None]
        norms = [norm for norm in _get(report, "gradient_norms", name) or [] if norm is not None]
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


# --- a comparison


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
        costs = [cost for run in entry.get("runs") or [] if (cost := _get(run, "cost", key)) is not None]
        mean = sum(costs) / len(costs) if costs else None
    return None if mean is None else f"{mean:,.0f}"


def _rows_by_method(comparison: Report, measures: Sequence[str]) -> list[list[Any]]:
    """Return [name, mean and range of each measure] of every method and of the base, without an entry for others."""
    base = {"retention": 1.0, "still_right": 1.0, **(comparison.get("base") or {})}
    if scores := _get(comparison, "chat", "base"):
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
    seeds = len(comparison.get("seeds") or [])
    rows = _rows_by_method(comparison, ("medical", "retention", "general"))
    entries = [*comparison["methods"].values(), {}]
    return Table(
        f"Methods: mean [min–max] over {seeds} seeds" if seeds > 1 else "Methods",
        ["method", "medical", "retention", "general", "tokens", "seconds"],
        [[*row, *(_mean_cost(entry, key) for key in ("tokens", "seconds"))] for row, entry in zip(rows, entries)],
        "General: choice accuracy. Retention: in the model's own replies; for one seed with its 95 % interval over "
        "questions and instructions."
        if comparison.get("chat")
        else "",
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


def _differences(comparison: Report) -> Table:
    rows = [
        [
            f"{method_label(method, comparison)}, {domain}",
            f"{found['difference']:+.3f} [{found['low']:+.3f}, {found['high']:+.3f}]",
            f"{found['p']:.3f}",
            "yes" if found["p"] < 0.05 else "no difference measured",
        ]
        for method, domains in (comparison.get("against") or {}).items()
        for domain, found in domains.items()
    ]
    return Table(
        "Differences: ICFT minus each other method, with 95 % confidence intervals over questions",
        ["compared with", "difference", "p (Holm)", "significant at 0.05"],
        rows,
    )
