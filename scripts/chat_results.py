"""Write the tables of docs/ about real chat models from the committed results.

    python scripts/chat_results.py                     # write the tables
    python scripts/chat_results.py --check             # exit with 1 if they are not current
    python scripts/chat_results.py --add runs/study    # first copy the results of a comparison or a sweep
    python scripts/chat_results.py --replies runs/study    # first ask the runs of a copied comparison medical questions

icft_lite/experiments/results/ has one small JSON file for each, with the command and the machine. That of a comparison
also has replies of its runs, which lessons show.
"""

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from icft_lite.data.bundle import balanced_items
from icft_lite.data.chat_suite import chat_suite
from icft_lite.data.samples import sample_bundle
from icft_lite.data.schema import Example
from icft_lite.experiments.conditions import current_commit, processor
from icft_lite.finished_runs import load_run
from icft_lite.modeling.generation import generate_reply
from icft_lite.report_file import read_report
from icft_lite.reporting.chat_tables import display_table
from icft_lite.reporting.comparison_tables import comparison_tables
from icft_lite.reporting.figures import comparison_figure
from icft_lite.reporting.formatting import Table, format_cell, to_markdown
from icft_lite.reporting.labels import method_label
from icft_lite.reporting.style import png
from icft_lite.utils.io import write_bytes, write_json

ROOT = Path(__file__).parents[1]
RESULTS, DOCS = ROOT / "icft_lite" / "experiments" / "results", ROOT / "docs"
SWEEP_COLUMNS = {
    "medical": "medical",
    "retention": "retention",
    "free": "free answers",
    "instructions": "instructions",
    "kl_base_tuned": "KL(base ‖ tuned)",
    "intrusion": "intrusion",
}
"""{key of a run's scores: heading}"""
RECORDED = 15
"""Free questions, and instructions, whose replies are recorded for the lessons."""
MEDICAL = 3
"""Medical test questions of each topic whose replies are recorded, of the methods in ASKED."""
ASKED = ("qlora", "icft")
METHOD_ORDER = ("qlora", "replay", "icft")


def sweep_table(sweep: Mapping[str, Any]) -> str:
    """Return the runs of a sweep as a markdown table, grouped by method."""
    source = {"settings": {"adapter.load_in_4bit": False}}  # so that plain fine-tuning is called LoRA
    rows = [["method", "settings", *SWEEP_COLUMNS.values()], ["---"] * (2 + len(SWEEP_COLUMNS))]
    for run in sorted(sweep["runs"], key=lambda run: METHOD_ORDER.index(run["method"])):
        settings = ", ".join(f"`{name}` {value}" for name, value in run["settings"].items()) or "defaults"
        scores = [format_cell(run["scores"].get(key)) for key in SWEEP_COLUMNS]
        rows.append([method_label(run["method"], source), settings, *scores])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def comparison_text(comparison: Mapping[str, Any]) -> str:
    """Return the tables of a comparison and the replies to the same prompts, as markdown."""
    tables = comparison_tables(dict(comparison))
    if shown := comparison.get("display"):
        names = {key: method_label(key, comparison) for key in shown[0] if key != "prompt"}
        tables.append(display_table(shown, names))
    return "\n\n".join(f"**{table.title}.** {table.note}\n\n{_without_title(table)}" for table in tables)


def _without_title(table: Table) -> str:
    """Return only the rows of a table as markdown."""
    return to_markdown(table._replace(note="")).split("\n\n", 1)[1]


def conditions(result: Mapping[str, Any]) -> str:
    """Return when, where and how a result was measured."""
    return f"Command: `{result['command']}`. Commit {result['commit']}. Machine: {result['machine']}."


def pages() -> dict[Path, str]:
    """Return {page: its text with current tables}."""
    texts: dict[Path, str] = {}
    for path in sorted(RESULTS.glob("*smollm2*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        text = sweep_table(result) if "runs" in result else comparison_text(result)
        mark = f"<!-- {path.stem} -->\n"
        for page in sorted(DOCS.glob("*.md")):
            old = texts.get(page, page.read_text(encoding="utf-8"))
            if mark in old:
                before, rest = old.split(mark)
                texts[page] = (
                    f"{before}{mark}{text}\n\n{conditions(result)}\n<!-- end -->{rest.split('<!-- end -->', 1)[1]}"
                )
    return texts


def add(folder: Path, command: str) -> None:
    """Copy the results of a finished comparison or sweep into icft_lite/experiments/results."""
    (path,) = [path for name in ("comparison.json", "sweep.json") if (path := folder / name).exists()]
    found = json.loads(path.read_text(encoding="utf-8"))
    found |= dict(command=command, commit=current_commit(), machine=f"{platform.machine()}, {processor()}")
    found.pop("samples", None)
    if "methods" in found:
        found["recorded"] = recorded_replies(folder, list(found["methods"]), found["seeds"][0])
        write_bytes(DOCS / f"{folder.name}.png", png(comparison_figure(found)))
    write_json(RESULTS / f"{folder.name}.json", found)
    if found.get("settings", {}).get("topics"):  # of the samples; texts of other data are not recorded
        add_medical(folder)


def add_medical(folder: Path) -> None:
    """Add to a committed comparison its runs of the first seed, and their replies to medical test questions."""
    path = RESULTS / f"{folder.name}.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    runs = {name: folder / f"{name}-{found['seeds'][0]}" for name in ASKED}
    items = medical_items(found["settings"]["topics"])
    replies = {name: medical_replies(run, items, base=name == next(iter(runs))) for name, run in runs.items()}
    found["medical_replies"] = [
        {key: item[key] for key in ("id", "topic", "prompt", "facts")}
        | dict(reference=item["responses"][item["label"]])
        | {model: texts[i] for run in replies.values() for model, texts in run.items()}
        for i, item in enumerate(items)
    ]
    found["recorded_runs"] = {name: describe_run(run) for name, run in runs.items()}
    found["medical_command"] = f"python scripts/chat_results.py --replies runs/{folder.name}"
    write_json(path, found)


def recorded_replies(folder: Path, methods: Sequence[str], seed: int) -> list[dict[str, str]]:
    """Return the replies of the base and all methods to the display prompts and RECORDED test items of each kind."""
    runs = {name: json.loads((folder / f"{name}-{seed}" / "replies.json").read_text("utf-8")) for name in methods}
    first = runs[methods[0]]
    asked = [item for item in chat_suite("test") if item.id in first]
    chosen = [item.id for item in [*chat_suite("display"), *balanced_items(asked, RECORDED)] if item.id in first]
    return [
        dict(prompt=first[one]["prompt"], base=first[one]["base"])
        | {name: replies[one]["after"] for name, replies in runs.items()}
        for one in chosen
    ]


def medical_items(topics: Sequence[str]) -> list[Example]:
    """Return the first MEDICAL test examples of each topic with different references, in the order of the samples."""
    chosen: dict[tuple[str, str], Example] = {}
    for item in sample_bundle().only(topics).test:
        if item["task"] != "pair":
            chosen.setdefault((item["topic"], item["responses"][item["label"]]), item)
    return [item for topic in topics for item in [one for key, one in chosen.items() if key[0] == topic][:MEDICAL]]


def medical_replies(run: Path, items: Sequence[Example], base: bool) -> dict[str, list[str]]:
    """Return {name of the method: greedy replies of a finished run}, and with `base` those of the bare base as well."""
    model, tokenizer = load_run(run)
    ask = partial(generate_reply, model, tokenizer)
    replies = {run.name.rpartition("-")[0]: [ask(item["prompt"]) for item in items]}
    if base:
        with model.disable_adapter():
            replies["base"] = [ask(item["prompt"]) for item in items]
    return replies


def describe_run(run: Path) -> dict[str, Any]:
    """Return what identifies a finished run: its folder, seed, all settings, and hashes of the base and the adapter.

    Also the base's score in replies to patients, which a comparison does not have.
    """
    report = read_report(run)
    adapter = hashlib.sha256((run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
    return dict(
        run=f"{run.parent.name}/{run.name}",
        seed=report["seed"],
        tokens=report["cost"]["tokens"],
        base_hash=report["base_hash"],
        adapter_sha256=adapter,
        base_reply=report["scores"]["before"]["medical"]["reply"]["value"],
        config=report["config"],
    )


def main() -> None:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only check that the tables are current")
    parser.add_argument("--add", type=Path, metavar="DIR", help="a finished comparison or sweep")
    parser.add_argument("--replies", type=Path, metavar="DIR", help="a comparison that was added before")
    parser.add_argument("--command", default="", help="with --add: the command that made it")
    args = parser.parse_args()
    if args.add:
        add(args.add, args.command)
    elif args.replies:
        add_medical(args.replies)
    for page, text in pages().items():
        if args.check and text != page.read_text(encoding="utf-8"):
            sys.exit(f"{page}: the tables are not current; run python scripts/chat_results.py")
        page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
