"""What a run or a comparison leaves behind: JSON, markdown, figures, a model card. Every write is atomic.

The dicts are those of `train_icft` and of `icft-lite compare`. Only what a dict holds is shown: any part may
be missing, as runs on one's own data have fewer. What a model wrote is escaped, never interpreted.
"""

import html
import json
import math
import re
from pathlib import Path, PurePath

from icft_lite.reporting.figures import (
    as_measure,
    column_names,
    comparison_figure,
    forgetting_figure,
    losses_figure,
    method_label,
    png,
)
from icft_lite.utils.io import to_plain, write_bytes, write_json, write_text

__all__ = [
    "comparison_figure",
    "forgetting_figure",
    "losses_figure",
    "model_card",
    "print_table",
    "write_bytes",
    "write_comparison",
    "write_json",
    "write_report",
    "write_text",
]


# --- tables: one source for markdown and for the terminal


def _show(value):
    """One cell: 3 decimals, thousands separated, text on one line without control characters."""
    if value is None or isinstance(value, float) and not math.isfinite(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "", " ".join(text.split()))


def _escape(text):
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(text, quote=False))


def _markdown(title, header, rows):
    lines = [f"## {title}", "", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(_escape(_show(cell)) for cell in row) + " |" for row in rows])


def _terminal(title, header, rows):
    rows = [header] + [[_show(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rows.insert(1, ["-" * width for width in widths])
    return "\n".join([title] + ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows])


def _get(record, *keys):
    """record[key][key]…, None where a step of the way is missing."""
    for key in keys:
        record = (record or {}).get(key)
    return record


def _score(where, metric, before, after, key="value"):
    was, now = _get(before, key), _get(after, key)
    change = None if was is None or now is None else f"{now - was:+.3f}"
    return [*where, metric, _get(after, "n"), was, now, change]


def _scores(report, topics):
    for suite, tasks in (_get(report, "scores", "after") or {}).items():
        for task, after in tasks.items():
            before, metric = _get(report, "scores", "before", suite, task), after.get("metric")
            yield _score([suite, task, "all"], metric, before, after)
            if after.get("option_accuracy") is not None:
                metric_of_options = f"option accuracy (chance {_show(after.get('option_floor'))})"
                yield _score([suite, task, "all"], metric_of_options, before, after, "option_accuracy")
            for topic, part in (after.get("by_topic") or {}).items() if topics else ():
                name = f"{topic} ({part['kind']})" if part.get("kind") else topic
                yield _score([suite, task, name], metric, _get(before, "by_topic", topic), part)


def _losses(report):
    for name in ("fine_tune", "task", "consistency"):
        values = [v for v in _get(report, "losses", name) or [] if v is not None]
        norms = [v for v in _get(report, "gradient_norms", name) or [] if v is not None]
        tenth = math.ceil(len(values) / 10)
        row = [sum(part) / tenth for part in (values[:tenth], values[-tenth:])] if values else [None, None]
        row += [norms[0], sum(norms) / len(norms), norms[-1]] if norms else [None] * 3
        if values or norms:
            yield ["L_" + name.replace("_", "-"), *row]


def _cost(cost):
    yield from (
        [name, show(cost[key])]
        for key, name, show in (
            ("seconds", "time", lambda s: f"{s:,.0f} s"),
            ("tokens", "training tokens", int),
            ("peak_memory_bytes", "peak memory", lambda b: f"{b / 2**20:,.0f} MiB"),
            ("trainable_parameters", "trainable parameters", int),
        )
        if _get(cost, key) is not None
    )


def _tables(report, topics=True):
    """(title, header, rows) of every part that a report may have; no rows where it lacks the part."""
    data, stages = report.get("data") or {}, report.get("stages") or []
    weak = data.get("weak") or {}
    lfs = weak.get("lfs") or []
    yield (
        "Scores",
        ["suite", "task", "topic", "metric", "n", "before", "after", "change"],
        list(_scores(report, topics)),
    )
    yield (
        "Remembering",
        ["measure", "value", "meaning"],
        [
            [key, report[key], meaning]
            for key, meaning in (
                ("retention", "mean general score after ÷ before; 1 is nothing lost"),
                ("bwt", "backward transfer; below 0 is loss"),
                ("fwt", "forward transfer; above 0 is a head start"),
                ("forgetting", "best earlier score − last; 0 is none"),
            )
            if report.get(key) is not None
        ],
    )
    columns, names = column_names(report)
    yield (
        "Accuracy matrix",
        ["model", *columns],
        [[name, *row] for name, row in zip(names, report.get("accuracy_matrix") or [], strict=True)],
    )
    yield (
        "Samples",
        ["prompt", "reference", "base", "after training"],
        [[s.get(key) for key in ("prompt", "reference", "base", "after")] for s in (report.get("samples") or [])[:3]],
    )
    yield "Cost", ["what", "value"], list(_cost(report.get("cost")))
    yield (
        "Data",
        ["what", "rows"],
        [*(data.get("counts") or {}).items()]
        + [
            [text, data[key]]
            for key, text in (
                ("cut_contexts", "contexts cut to fit"),
                ("left_out", "rows left out: too long"),
                ("dropped_unvoted", "dropped: no labelling function voted"),
            )
            if data.get(key) is not None
        ],
    )
    yield "Labelling functions", list(lfs[0]) if lfs else [], [[lf.get(key) for key in lfs[0]] for lf in lfs]
    yield (
        "Weak labels",
        ["what", "value"],
        [[key.replace("_", " "), value] for key, value in weak.items() if key != "lfs"],
    )
    keys = {
        "stage": "name",
        "steps": "steps",
        "new rows": "new_rows",
        "promoted": "promoted",
        "evicted": "evicted",
        "memory rows": "memory_rows",
        "teacher: LTM": "teacher_share memory",
        "teacher: base": "teacher_share base",
        "point α": "consolidation alpha",
        "refused": "consolidation refused",
        "SVD residual": "consolidation svd_residual",
        "tokens": "tokens",
        "seconds": "seconds",
    }
    yield "Stages", list(keys), [[_get(s, *key.split()) for key in keys.values()] for s in stages]
    yield (
        "Consolidation: validation between the old memory or the base (α = 0) and the new memory (α = 1)",
        ["stage", "from", "α", "general", "medical", "chosen"],
        [
            [
                s.get("name"),
                *(p.get(key) for key in ("origin", "alpha", "general", "medical")),
                "←" if all(p.get(key) == s["consolidation"].get(key) for key in ("origin", "alpha")) else "",
            ]
            for s in stages
            for p in _get(s, "consolidation", "points") or []
        ],
    )
    yield (
        "Losses",
        ["loss", "mean of first tenth", "of last tenth", "gradient norm: first", "mean", "last"],
        list(_losses(report)),
    )
    yield "Rows trained on", ["kind", "rows"], list((report.get("rows") or {}).items())
    for title, key in (("Settings", "config"), ("Versions", "versions")):  # exact, not to three decimals
        yield (
            title,
            ["name", "value"],
            [[name, v if isinstance(v, str) else json.dumps(v)] for name, v in (report.get(key) or {}).items()],
        )


def write_report(report, out):
    """`out`/report.json, report.md, losses.png, forgetting.png; a model card too where `out`/adapter exists.

    Raises ICFTError if a file cannot be written; files already there stay whole.
    """
    out, report = Path(out), to_plain(report)
    what = [f"{key} {_show(report[key])}" for key in ("method", "base", "seed") if key in report]
    parts = ["# Run" + _escape(": " * bool(what) + ", ".join(what))]
    for title, header, rows in _tables(report):
        if rows:
            parts.append(_markdown(title, header, rows))
        if title == "Accuracy matrix" and rows:
            write_bytes(out / "forgetting.png", png(forgetting_figure(report)))
            parts.append("![Accuracy after each stage](forgetting.png)")
        if title == "Losses" and _get(report, "losses", "step"):
            write_bytes(out / "losses.png", png(losses_figure(report)))
            parts.append("![The three losses by step](losses.png)")
    write_text(out / "report.md", "\n\n".join(parts) + "\n")
    if (out / "adapter").is_dir():
        write_text(out / "adapter" / "README.md", model_card(report))
    write_json(out / "report.json", report)  # last: whoever finds it finds the rest too


CARD = """
# {title}

Trained with icft-lite: Incremental Curriculum-Based Fine-Tuning, our reading of arXiv 2502.00832.

**Intended use: teaching and research. This is not medical advice.** No clinician has checked the model. Never
use it to diagnose or treat anyone: its answers may be wrong, dangerous or out of date.

Licence: {licence}

```python
from peft import PeftModel

model = PeftModel.from_pretrained(base, "path/to/this/folder")  # base: {name}
```
"""


def model_card(report):
    """README.md of the adapter folder, with the Hub's front matter. Names no folder of this machine."""
    report = to_plain(report)
    base = str(report.get("base") or "tiny")
    tiny, on_hub = base == "tiny", bool(re.fullmatch(r"[\w.-]+/[\w.-]+", base))
    name = _escape(_show(base if tiny or on_hub else PurePath(base).name))
    front = [
        "---",
        *([f"base_model: {base}"] if on_hub else []),
        "library_name: peft",
        f"license: {'apache-2.0' if tiny else 'other'}",
        "language: en",
        "pipeline_tag: text-generation",
        "tags:",
        "- icft",
        "- lora",
        "- medical",
        "- continual-learning",
        "- education",
        "---",
    ]
    text = CARD.format(
        title=f"LoRA adapter for {name}, method {_escape(_show(report.get('method')))}",
        name="the base embedded in icft-lite" if tiny else name,
        licence="Apache-2.0." if tiny else "that of the base model, and of the data it was trained on.",
    )
    tables = [
        _markdown(title, header, rows)
        for title, header, rows in _tables(report)
        if rows and title in ("Scores", "Remembering", "Accuracy matrix")
    ]
    return "\n".join(front) + "\n" + text + "".join(f"\n{table}\n" for table in tables)


def _range(values):
    low, high = values.get("min"), values.get("max")
    return _show(values["mean"]) + ("" if low is None or low == high else f" [{low:.3f}–{high:.3f}]")


def _mean_cost(entry, key):
    mean = as_measure(entry, key)["mean"]
    if mean is None:
        costs = [cost for run in entry.get("runs") or [] if (cost := _get(run, "cost", key)) is not None]
        mean = sum(costs) / len(costs) if costs else None
    return None if mean is None else f"{mean:,.0f}"


def _comparison_table(comparison):
    measures, seeds = ("medical", "retention", "general"), len(comparison.get("seeds") or [])
    rows = [
        [
            method_label(method),
            *(_range(as_measure(entry, key)) for key in measures),
            _mean_cost(entry, "tokens"),
            _mean_cost(entry, "seconds"),
        ]
        for method, entry in comparison["methods"].items()
    ]
    if comparison.get("base"):
        base = {"retention": 1.0, **comparison["base"]}
        rows.append(["base, untrained", *(_range(as_measure(base, key)) for key in measures), None, None])
    return (
        f"Mean [min–max] over {seeds} seeds" if seeds > 1 else "Methods",
        ["method", "medical", "retention", "general", "tokens", "seconds"],
        rows,
    )


def _against_table(comparison):
    """How far ICFT is from each other method, and whether that is more than chance."""
    rows = []
    for method, domains in (comparison.get("against") or {}).items():
        for domain, d in domains.items():
            clear = "yes" if d["p"] < 0.05 else "no difference measured"
            rows.append(
                [
                    f"{method_label(method)}, {domain}",
                    f"{d['difference']:+.3f} [{d['low']:+.3f}, {d['high']:+.3f}]",
                    f"{d['p']:.3f}",
                    clear,
                ]
            )
    return "ICFT minus …, with 95 % intervals over questions", ["method", "difference", "p (Holm)", "clear?"], rows


def _comparison_tables(comparison):
    return [table for table in (_comparison_table(comparison), _against_table(comparison)) if table[2]]


def write_comparison(comparison, out):
    """`out`/comparison.json, comparison.md and comparison.png. Raises ICFTError if one cannot be written.

    `targets` {"retention", "medical"} and `notes` (list[str], findings in words) may be given besides.
    """
    out, comparison = Path(out), to_plain(comparison)
    notes = "\n".join(f"- {_escape(_show(note))}" for note in comparison.get("notes") or [])
    parts = [
        "# The methods side by side",
        "![General retention against medical accuracy](comparison.png)",
        *(_markdown(*table) for table in _comparison_tables(comparison)),
        notes,
    ]
    write_bytes(out / "comparison.png", png(comparison_figure(comparison)))
    write_text(out / "comparison.md", "\n\n".join(filter(None, parts)) + "\n")
    write_json(out / "comparison.json", comparison)


def print_table(result, file=None):
    """A report (scores by task, what was kept, cost, samples) or a comparison, as plain text."""
    result = to_plain(result)
    tables = (
        _comparison_tables(result)
        if "methods" in result
        else [
            table
            for table in _tables(result, topics=False)
            if table[2] and table[0] in ("Scores", "Remembering", "Cost")
        ]
    )
    print("\n\n".join(_terminal(*table) for table in tables), file=file)
    for sample in (result.get("samples") or [])[:3]:
        print(file=file)
        for key, value in sample.items():
            print(f"{method_label(key):<11}  {_show(value)}", file=file)
