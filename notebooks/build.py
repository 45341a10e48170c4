"""Build the lessons: notebooks/src/NN_topic.py (jupytext py:percent) -> notebooks/NN_topic.ipynb, executed.

    python notebooks/build.py               # all lessons
    python notebooks/build.py 00            # those whose name starts with 00
    python notebooks/build.py --no-run 00   # do not execute: the notebook has no outputs
    python notebooks/build.py --text 00     # do not execute: copy the stored outputs, because only text has changed
    python notebooks/build.py --to DIR      # write to another folder; the stored notebooks do not change
    python notebooks/build.py --jobs 2      # two at a time; set OMP_NUM_THREADS to the cores per job

Notebooks are built from sources, never the reverse. The same source gives the same cell ids, so that a diff shows what
changed. Text that lessons have in common is written once and replaces its placeholder:

    {{badge}}        the Colab badge, with the repository's address from pyproject.toml
    {{budget}}       a table of the minutes and the memory that the source's header declares (`lesson:`)
    {{repository}}   the repository's address
    # {{setup}}      the set-up cell, setup_cell.py
"""

import argparse
import hashlib
import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY: str = PROJECT["urls"]["Repository"]
DEVICES = {"cpu": "two CPU cores", "t4": "T4 GPU"}
"""Devices of the budget table: key in the source's header → title of the column."""
TIMEOUT = 3600
"""Seconds that one cell may take."""
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def placeholders(name: str, lesson: Mapping[str, Any]) -> dict[str, str]:
    """Return {placeholder: text} for one lesson. A text may contain the placeholders that come after it.

    name: of the source, without its ending; lesson: the entry `lesson` of its header.
    """
    path = REPOSITORY.removeprefix("https://github.com/")
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    notebook = f"https://colab.research.google.com/github/{path}/blob/main/notebooks/{name}.ipynb"
    return {
        "# {{setup}}": (HERE / "setup_cell.py").read_text(encoding="utf-8").strip(),
        "{{badge}}": f"[![Open in Colab]({badge})]({notebook})",
        "{{budget}}": budget_table(lesson),
        "{{repository}}": REPOSITORY,
    }


def budget_table(lesson: Mapping[str, Any]) -> str:
    """Return a Markdown table of the time and the memory that a lesson needs, one column per device."""
    titles = [title + (", predicted" if key in lesson["predicted"] else "") for key, title in DEVICES.items()]
    rows = [
        ["", *titles],
        ["---"] * (1 + len(DEVICES)),
        ["minutes, at most", *(lesson["minutes"][key] for key in DEVICES)],
        ["peak memory, at most", *(f"{lesson['peak_gib'][key]} GiB" for key in DEVICES)],
    ]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def read(source: Path, constants: Mapping[str, Any] | None = None) -> NotebookNode:
    """Return the notebook of a source without outputs, with all placeholders replaced.

    constants: name → value, further placeholders. The id of a cell is the hash of its content. Raises ValueError for an
    unknown placeholder.
    """
    notebook = jupytext.read(source)
    lesson = notebook.metadata["lesson"]
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}, "lesson": lesson}
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    texts = placeholders(source.stem, lesson)
    texts |= {f"{{{{{name}}}}}": str(value) for name, value in (constants or {}).items()}
    seen: Counter[str] = Counter()
    for cell in notebook.cells:
        for placeholder, text in texts.items():
            cell.source = cell.source.replace(placeholder, text)
        if unknown := re.search(r"\{\{\w+\}\}", cell.source):
            known = ", ".join(name.removeprefix("# ") for name in texts)
            raise ValueError(f"{source.name}: the placeholder {unknown[0]} is unknown; use one of {known}")
        key = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        seen[key] += 1
        cell.id = key if seen[key] == 1 else f"{key}-{seen[key]}"
    return notebook


def copy_outputs(notebook: NotebookNode, stored: NotebookNode) -> NotebookNode:
    """Return the notebook with the outputs of a stored one that has the same code.

    Raises ValueError if the code differs.
    """
    code, stored_code = ([cell for cell in book.cells if cell.cell_type == "code"] for book in (notebook, stored))
    if [cell.source for cell in code] != [cell.source for cell in stored_code]:
        raise ValueError("code has changed, not only text; build without --text")
    for cell, old in zip(code, stored_code, strict=True):
        cell.outputs, cell.execution_count = old.outputs, old.execution_count
    return notebook


def execute(notebook: NotebookNode) -> None:
    """Execute a notebook in place, and remove what must not be stored: widgets and details of the Python version.

    Raises nbclient's CellExecutionError if a cell fails.
    """
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        store_widget_state=False,
        coalesce_streams=True,  # prints arrive in a varying number of parts
        extra_arguments=["--log-level=ERROR"],  # otherwise the kernel warns of TCP, which is used only locally here
        resources={"metadata": {"path": str(HERE)}},
    )
    client.execute()
    notebook.metadata.pop("widgets", None)  # GitHub does not render notebooks with incomplete widget state
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:  # a widget without its state displays nothing, and its ids are random
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if WIDGET_VIEW not in output.get("data", {})]


def build(source: Path, run: bool = True, to: Path = HERE, text: bool = False) -> Path:
    """Write the notebook of one source to the folder `to` and return its path.

    run: execute it. text: do not execute it; copy the outputs of the stored notebook, whose code must be the same.
    Raises CellExecutionError if a cell fails, ValueError for an unknown placeholder or, with `text`, changed code.
    """
    notebook = read(source)
    if text:
        notebook = copy_outputs(notebook, nbformat.read(HERE / f"{source.stem}.ipynb", as_version=4))
    elif run:
        execute(notebook)
    to.mkdir(parents=True, exist_ok=True)
    target = to / f"{source.stem}.ipynb"
    nbformat.validate(notebook)
    target.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    return target


def main() -> None:
    """Build the lessons that the command line names, and print the path of each when it is done."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", help="beginnings of lesson names; default: all")
    parser.add_argument("--no-run", action="store_true", help="do not execute; store no outputs")
    parser.add_argument("--text", action="store_true", help="do not execute; copy all outputs: only text has changed")
    parser.add_argument("--to", type=Path, default=HERE, metavar="DIR", help="folder of the notebooks")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="lessons at a time; default: 1")
    args = parser.parse_args()
    sources = [
        source
        for source in sorted((HERE / "src").glob("[0-9]*.py"))
        if not args.names or source.stem.startswith(tuple(args.names))
    ]
    with ThreadPoolExecutor(args.jobs) as pool:
        futures = [pool.submit(build, source, run=not args.no_run, to=args.to, text=args.text) for source in sources]
        try:
            for future in as_completed(futures):
                print(future.result(), flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # builds that are running end, the others do not start
            raise


if __name__ == "__main__":
    main()
