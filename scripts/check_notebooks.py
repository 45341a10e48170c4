"""Check that every notebook is what its source gives, so that no stale notebook is committed.

    python scripts/check_notebooks.py

Compares the cells of `notebooks/NN_topic.ipynb` with `notebooks/src/NN_topic.py`. Outputs are not compared: nbval does
that when it executes the notebooks. Exits with 1 if a notebook differs, is missing, or has no source.
"""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import nbformat

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def main() -> int:
    """Print one line for each stale notebook and return the exit code."""
    build = load_builder()
    sources = {path.stem: path for path in (NOTEBOOKS / "src").glob("[0-9]*.py")}
    notebooks = {path.stem: path for path in NOTEBOOKS.glob("*.ipynb")}
    problems = [f"{notebooks[name]}: it has no source in notebooks/src" for name in notebooks.keys() - sources.keys()]
    for name, source in sources.items():
        if name not in notebooks:
            problems.append(f"{source}: it has no notebook")
        elif difference := find_difference(build, source, notebooks[name]):
            problems.append(f"{notebooks[name]}: {difference}")
    for problem in sorted(problem.removeprefix(f"{NOTEBOOKS.parent}/") for problem in problems):
        print(f"{problem}; run `make notebooks`, or `python notebooks/build.py --text` if only text changed")
    return 1 if problems else 0


def load_builder() -> ModuleType:
    """Return notebooks/build.py as a module."""
    spec = importlib.util.spec_from_file_location("build_lessons", NOTEBOOKS / "build.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def find_difference(build: ModuleType, source: Path, notebook: Path) -> str:
    """Return what makes a notebook stale, or "" if its cells are those of the source."""
    fresh, stored = build.read(source), nbformat.read(notebook, as_version=4)
    if "widgets" in stored.metadata:
        return "it contains widget state, which GitHub does not display"
    if len(fresh.cells) != len(stored.cells):
        return f"{len(stored.cells)} cells, but the source has {len(fresh.cells)}"
    for number, (new, old) in enumerate(zip(fresh.cells, stored.cells, strict=True), 1):
        if (new.cell_type, new.source) != (old.cell_type, old.source):
            return f"cell {number} differs from the source"
    return ""


if __name__ == "__main__":
    sys.exit(main())
