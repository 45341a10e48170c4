"""Build the lessons: notebooks/src/NN_topic.py (jupytext py:percent) -> notebooks/NN_topic.ipynb, executed.

    python notebooks/build.py               # all lessons
    python notebooks/build.py 00            # those whose name starts with 00
    python notebooks/build.py --no-run 00   # without running: keeps no outputs
    python notebooks/build.py --text 00     # without running: keeps them, since text alone has changed
    python notebooks/build.py --to DIR      # elsewhere: the stored ones stay as they are
    python notebooks/build.py --jobs 2      # two at a time; set OMP_NUM_THREADS to each one's share of the cores

One way only, source to notebook. The same source gives the same cell ids, so that a diff shows what changed.
What lessons have in common is written once, and put in place of its mark:

    {{badge}}       the Colab badge, from the repository's address in pyproject.toml
    {{budget}}      the minutes and memory that the source's header declares (`lesson:`)
    # {{setup}}     the set-up cell, setup_cell.py
"""

import argparse
import hashlib
import re
import tomllib
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
PROJECT = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]


def marks(name, lesson):
    """{mark: text} for the lesson `name`, whose header declares `lesson`. The marks may hold one another."""
    path = REPOSITORY.removeprefix("https://github.com/")
    badge = "https://colab.research.google.com/assets/colab-badge.svg"
    minutes, memory = lesson["minutes"], lesson["peak_gib"]
    devices = {"cpu": "two CPU cores", "t4": "T4 GPU"}
    titles = [devices[key] + (", predicted" if key in lesson["predicted"] else "") for key in devices]
    table = [["", *titles], ["---"] * 3, ["minutes, at most", *(minutes[key] for key in devices)],
             ["peak memory, at most", *(f"{memory[key]} GiB" for key in devices)]]
    return {"# {{setup}}": (HERE / "setup_cell.py").read_text(encoding="utf-8").strip(),
            "{{badge}}": f"[![Open in Colab]({badge})](https://colab.research.google.com/github/{path}"
                         f"/blob/main/notebooks/{name}.ipynb)",
            "{{budget}}": "\n".join(f"| {' | '.join(map(str, row))} |" for row in table),
            "{{repository}}": REPOSITORY}


def read(source):
    """The notebook of one source, marks filled in, without outputs. Raises ValueError for an unknown mark."""
    notebook = jupytext.read(source)
    lesson = notebook.metadata["lesson"]
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}, "lesson": lesson})
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    times = {}
    for cell in notebook.cells:
        for mark, text in marks(source.stem, lesson).items():
            cell.source = cell.source.replace(mark, text)
        if unknown := re.search(r"\{\{\w+\}\}", cell.source):
            raise ValueError(f"{source.name}: {unknown[0]} is no mark")
        key = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:8]
        times[key] = times.get(key, 0) + 1
        cell.id = key if times[key] == 1 else f"{key}-{times[key]}"
    return notebook


def with_outputs(notebook, stored):
    """The notebook with the outputs of a stored one, whose code is the same. Raises ValueError if it is not."""
    code, known = ([cell for cell in book.cells if cell.cell_type == "code"] for book in (notebook, stored))
    if [cell.source for cell in code] != [cell.source for cell in known]:
        raise ValueError("code has changed as well as text; build it without --text")
    for cell, old in zip(code, known):
        cell.outputs, cell.execution_count = old.outputs, old.execution_count
    return notebook


def build(source, run=True, to=HERE, text=False):
    """Write the notebook of one source in the folder `to`; returns its path. Raises nbclient's CellExecutionError.

    text: nothing is run, the stored outputs are kept."""
    notebook = read(source)
    if text:
        notebook = with_outputs(notebook, nbformat.read(HERE / f"{source.stem}.ipynb", as_version=4))
    elif run:
        NotebookClient(notebook, timeout=3600, kernel_name="python3", record_timing=False,
                       store_widget_state=False, coalesce_streams=True,  # prints come in a varying number of parts
                       extra_arguments=["--log-level=ERROR"],  # less would warn of TCP, which never leaves the machine
                       resources={"metadata": {"path": str(HERE)}}).execute()
        notebook.metadata.pop("widgets", None)  # GitHub refuses widgets without their state
        notebook.metadata["language_info"] = {"name": "python"}
        for cell in notebook.cells:  # a widget without its state shows nothing, and its ids are random
            if "outputs" in cell:
                cell.outputs = [output for output in cell.outputs if
                                "application/vnd.jupyter.widget-view+json" not in output.get("data", {})]
    to.mkdir(parents=True, exist_ok=True)
    target = to / f"{source.stem}.ipynb"
    nbformat.validate(notebook)
    target.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    return target


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="starts of lesson names; default: all")
    parser.add_argument("--no-run", action="store_true")
    parser.add_argument("--text", action="store_true", help="only text has changed: keep all outputs")
    parser.add_argument("--to", type=Path, default=HERE, metavar="DIR")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="lessons at a time")
    args = parser.parse_args()
    sources = [source for source in sorted((HERE / "src").glob("[0-9]*.py"))
               if not args.names or source.stem.startswith(tuple(args.names))]
    with ThreadPoolExecutor(args.jobs) as pool:
        try:
            for done in as_completed(pool.submit(build, source, run=not args.no_run, to=args.to, text=args.text)
                                     for source in sources):
                print(done.result(), flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # those under way end, the others do not begin
            raise


if __name__ == "__main__":
    main()
