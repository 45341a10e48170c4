"""Write the files of a run or a comparison: JSON, markdown, figures, a model card. Every write is atomic.

Imports no torch: `icft-lite compare` reads the runs of other processes without it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from icft_lite.reporting.chat_tables import display_table
from icft_lite.reporting.comparison_tables import comparison_tables
from icft_lite.reporting.figures import comparison_figure, forgetting_figure, losses_figure
from icft_lite.reporting.formatting import escape_markdown, format_cell, to_markdown, to_text
from icft_lite.reporting.labels import method_label
from icft_lite.reporting.model_card import model_card
from icft_lite.reporting.problems import Problems
from icft_lite.reporting.style import png
from icft_lite.reporting.tables import Report, report_tables
from icft_lite.utils.io import to_plain, write_bytes, write_json, write_text
from icft_lite.utils.notice import NOTICE

BRIEF = ("Scores", "Forgetting in the model's own replies", "Replies to the chat suite", "Retention", "Cost")
"""The tables of a report that `print_table` prints."""


def write_report(report: Report, out: Path | str, problems: Problems | None = None) -> None:
    """Write report.json, report.md and the figures losses.png and forgetting.png into the folder `out`.

    Writes a model card too if `out`/adapter exists. If one of the others fails, report.json is written all the same,
    and lists it under `problems`. Raises ICFTError if report.json cannot be written; files that existed before stay
    complete.
    """
    out, problems = Path(out), Problems() if problems is None else problems
    problems.attempt("report.md", lambda: _write_pages(to_plain(report), out, problems))
    problems.attempt("model card", lambda: _write_cards(to_plain(report), out))
    write_json(out / "report.json", to_plain({**report, "problems": list(problems)}))  # last: it marks a complete run


def _write_cards(report: Report, out: Path) -> None:
    for name in ("adapter", "adapter_fast"):
        if (out / name).is_dir():
            write_text(out / name / "README.md", model_card(report))


def _write_pages(report: Report, out: Path, problems: Problems) -> None:
    """Write report.md and its figures."""
    shown = {**report, "method": method_label(report["method"], report)} if "method" in report else report
    facts = [f"{key} {format_cell(shown[key])}" for key in ("method", "base", "seed") if key in shown]
    parts = ["# Run" + escape_markdown(": " * bool(facts) + ", ".join(facts))]
    for table in report_tables(report):
        parts.append(to_markdown(table))
        if table.title == "Accuracy matrix":
            problems.attempt(
                "forgetting.png", lambda: write_bytes(out / "forgetting.png", png(forgetting_figure(report)))
            )
            parts.append("![Accuracy after each stage](forgetting.png)")
        if table.title == "Losses" and (report.get("losses") or {}).get("step"):
            problems.attempt("losses.png", lambda: write_bytes(out / "losses.png", png(losses_figure(report))))
            parts.append("![The three losses by step](losses.png)")
    write_text(out / "report.md", "\n\n".join(parts) + "\n")


def write_comparison(comparison: Report, out: Path | str) -> None:
    """Write comparison.json, comparison.md and comparison.png into the folder `out`.

    notes: an optional key of the comparison, a list of findings as text. Raises ICFTError if a file cannot be written.
    """
    out, comparison = Path(out), to_plain(comparison)
    shown = comparison.get("display")
    parts = [
        "# Comparison of methods",
        "![Medical score against general retention](comparison.png)",
        *map(to_markdown, comparison_tables(comparison)),
        "\n".join(f"- {escape_markdown(format_cell(note))}" for note in comparison.get("notes") or []),
        *([to_markdown(display_table(shown, _names(shown[0], comparison)))] if shown else []),
    ]
    write_bytes(out / "comparison.png", png(comparison_figure(comparison)))
    write_text(out / "comparison.md", "\n\n".join(filter(None, parts)) + "\n")
    write_json(out / "comparison.json", comparison)


def _names(sample: Mapping[str, str], source: Report) -> dict[str, str]:
    """Return {key: display name} of the models that replied to a prompt."""
    return {key: method_label(key, source) for key in sample if key != "prompt"}


def print_table(result: Report, file: TextIO | None = None) -> None:
    """Print a report (scores by task, retention, cost, samples) or a comparison as plain text.

    file: default sys.stdout.
    """
    result = to_plain(result)
    if "methods" in result:
        tables = comparison_tables(result)
    else:
        tables = [table for table in report_tables(result, topics=False) if table.title in BRIEF]
    print("\n\n".join(map(to_text, tables)), file=file)
    for note in result.get("notes") or []:
        print(f"\n{note}", file=file)
    samples = result.get("display") or (result.get("chat") or {}).get("display") or (result.get("samples") or [])[:3]
    if samples:
        print(f"\nSample replies of a {NOTICE}:", file=file)
    for sample in samples:
        print(file=file)
        for key, value in sample.items():
            print(f"{method_label(key, result):<12} {format_cell(value)}", file=file)
