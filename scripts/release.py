"""Build what a course hands out from the sources of the assignments (notebooks/assignments/src/*.py).

    python scripts/release.py                     # all assignments, into dist/course
    python scripts/release.py A1 A3 --no-run      # two of them; instructor notebooks are not executed
    python scripts/release.py --private DIR       # specifications in DIR replace those of the same name
    python scripts/release.py --seed TEXT         # other constants than the public ones, in text and specification

    student/      notebooks without solutions and hidden tests; stubs raise NotImplementedError
    instructor/   notebooks with solutions, executed
    gradescope/   one zip for each assignment, to upload as its autograder
    nbgrader/     a course folder: nbgrader_config.py, source/ and release/
    capstone/     the kit of each capstone; students get its folder public/

Sources in a public repository are public. A course with grades keeps its own specifications in a private folder: copies
of notebooks/assignments/specs/*.py with other inputs or constants. `icft-lite grade --assignments DIR` uses them too.
"""

import argparse
import json
import re
import shutil
import sys
import zipfile
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "notebooks")]

import build  # noqa: E402  (notebooks/build.py)

from icft_lite.data.samples import samples_dir  # noqa: E402
from icft_lite.grading.capstone import Capstone, build_kit  # noqa: E402
from icft_lite.grading.package_copy import PACKAGE  # noqa: E402
from icft_lite.grading.parts import Assignment  # noqa: E402
from icft_lite.grading.specifications import PUBLISHED, load_assignments, load_specifications  # noqa: E402

ASSIGNMENTS = ROOT / "notebooks" / "assignments"
SOLUTION = re.compile(r"^([ \t]*)### BEGIN SOLUTION\n.*?^[ \t]*### END SOLUTION$", re.M | re.S)
HIDDEN = re.compile(r"^[ \t]*### BEGIN HIDDEN TESTS\n.*?^[ \t]*### END HIDDEN TESTS\n?", re.M | re.S)
MARKER = re.compile(r"### (?:BEGIN|END) (?:SOLUTION|HIDDEN TESTS)")
CONFIG = Path("nbgrader", "nbgrader_config.py")
NBGRADER = """# Made by scripts/release.py. In this folder: nbgrader generate_assignment A1, and so on.
c = get_config()
c.CourseDirectory.course_id = "icft_lite"
c.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
c.ExecutePreprocessor.timeout = 600
"""


def read_source(source: Path, assignment: Assignment) -> NotebookNode:
    """Return the notebook of a source, with solutions and markers, and the assignment in its metadata.

    Raises ValueError if cells share a grade_id, or if the points differ from those of the specification.
    """
    notebook = build.read(source, assignment.constants)
    notebook.metadata["icft_lite"] = {"assignment": assignment.id, "version": assignment.version}
    graded = [cell.metadata.nbgrader for cell in notebook.cells if "nbgrader" in cell.metadata]
    ids = Counter(entry["grade_id"] for entry in graded)
    if twice := [name for name, n in ids.items() if n > 1]:
        raise ValueError(f"{source.name}: several cells have the grade_id {twice[0]!r}; rename all but one")
    found, expected = sum(entry.get("points", 0) for entry in graded), sum(part.points for part in assignment.parts)
    if graded and found != expected:
        raise ValueError(f"{source.name}: its cells give {found:g} points, the specification gives {expected:g}")
    return notebook


def to_student(notebook: NotebookNode) -> NotebookNode:
    """Return a copy without solutions, hidden tests and outputs. Raises ValueError for a marker without its pair."""
    notebook = deepcopy(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source = HIDDEN.sub("", SOLUTION.sub(r"\1raise NotImplementedError", cell.source)).rstrip()
            cell.outputs, cell.execution_count = [], None
        if marker := MARKER.search(cell.source):
            raise ValueError(f"cell {cell.id}: {marker[0]!r} has no pair; add the other marker")
    return notebook


def to_instructor(notebook: NotebookNode, run: bool) -> NotebookNode:
    """Return a copy with solutions and hidden tests, without the markers, executed if `run`."""
    notebook = deepcopy(notebook)
    for cell in notebook.cells:
        cell.source = re.sub(rf"^[ \t]*(?:{MARKER.pattern})\n?", "", cell.source, flags=re.M).rstrip()
    if run:
        build.execute(notebook)
    return notebook


def solutions(notebook: NotebookNode) -> dict[str, str]:
    """Return {part, such as "A1.2": source of the cell with its solution}."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and SOLUTION.search(cell.source)]
    return {cell.metadata.nbgrader.grade_id.upper().replace("-", "."): cell.source for cell in cells}


def write_notebook(path: Path, notebook: NotebookNode) -> None:
    """Write a notebook, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.validate(notebook)
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


def write_autograder(path: Path, assignment: Assignment, specs: Path) -> None:
    """Write the zip that Gradescope takes as an autograder: its two scripts, the package, specifications, versions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((PACKAGE / "grading" / "gradescope").iterdir()):
            archive.write(file, file.name)
            archive.getinfo(file.name).external_attr = 0o100755 << 16
        trees = {PACKAGE: "package/icft_lite", samples_dir(): "package/icft_lite/data_samples", specs: "specs"}
        names = set()
        for folder, to in trees.items():
            for file in sorted(folder.rglob("*")):
                name = f"{to}/{file.relative_to(folder).as_posix()}"
                if file.is_file() and "__pycache__" not in file.parts and name not in names:
                    archive.write(file, name)
                    names.add(name)
        archive.writestr("assignment", assignment.id)
        archive.writestr("requirements.txt", "\n".join(build.PROJECT["dependencies"]) + "\n")
        archive.write(ROOT / "constraints.txt", "constraints.txt")


def collect_specs(to: Path, public: Path, private: Path | None, seed: str = "") -> Path:
    """Copy the specifications into the folder `to`; files of `private` replace those of the same name.

    seed: chooses the constants of the assignments; "" for the public ones.
    """
    for folder in filter(None, (public, private)):
        shutil.copytree(folder, to, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    if seed:
        text = (to / "constants.py").read_text(encoding="utf-8")
        (to / "constants.py").write_text(text.replace('SEED = ""', f"SEED = {seed!r}", 1), encoding="utf-8")
    return to


def release(
    out: Path,
    names: list[str],
    run: bool = True,
    private: Path | None = None,
    assignments: Path = ASSIGNMENTS,
    seed: str = "",
) -> list[Path]:
    """Build the assignments and capstones with these ids (all if there are none).

    Returns the paths of what students get: their notebooks, and the public folders of capstones.

    The folder `out` is replaced if this function made it. Raises ValueError if it did not, if an id is unknown, or if
    a source is not acceptable.
    """
    if out.exists() and any(out.iterdir()):
        if not (out / CONFIG).is_file():
            raise ValueError(f"{out}: it is not empty, and was not made by this script; name a new folder")
        shutil.rmtree(out)
    (out / CONFIG).parent.mkdir(parents=True)
    (out / CONFIG).write_text(NBGRADER, encoding="utf-8")
    specs = collect_specs(out / "specs", assignments / "specs", private, seed)
    known, capstones = load_assignments(specs), load_specifications(specs, "CAPSTONE", Capstone)
    if unknown := sorted(set(names) - known.keys() - capstones.keys()):
        raise ValueError(f"assignment {unknown[0]!r} is unknown; choose among {', '.join([*known, *capstones])}")
    notebooks, written = {}, []
    for name in sorted(set(names or known) & known.keys()):
        (source,) = (assignments / "src").glob(f"{name.lower()}_*.py")
        notebooks[name] = source.stem, read_source(source, known[name])
    published = {name: solutions(notebook) for name, (_, notebook) in notebooks.items()}
    (specs / PUBLISHED).write_text(json.dumps(published, indent=1) + "\n", encoding="utf-8")
    for name, (stem, notebook) in notebooks.items():
        file, student = f"{stem}.ipynb", to_student(notebook)
        written.append(out / "student" / file)
        for path in (written[-1], out / "nbgrader" / "release" / name / file):
            write_notebook(path, student)
        write_notebook(out / "nbgrader" / "source" / name / file, notebook)
        write_notebook(out / "instructor" / file, to_instructor(notebook, run))
        write_autograder(out / "gradescope" / f"{name}.zip", known[name], specs)
    for name in sorted(set(names or capstones) & capstones.keys()):
        one = capstones[name]
        data = str(specs / one.data) if one.data else ""  # a relative path is that of a file next to the specification
        written.append(build_kit(replace(one, data=data), out / "capstone" / name))
    for guide in ("instructors.md", "grading.md"):
        shutil.copy(ROOT / "docs" / guide, out)
    return written


def main() -> None:
    """Build what the command line names, and print the paths of what students get."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("names", nargs="*", metavar="ID", help="such as A1; default: all")
    parser.add_argument("--out", type=Path, default=ROOT / "dist" / "course", metavar="DIR", help="replaced")
    parser.add_argument("--private", type=Path, metavar="DIR", help="specifications that replace the public ones")
    parser.add_argument("--seed", default="", metavar="TEXT", help="chooses other constants than the public ones")
    parser.add_argument("--no-run", action="store_true", help="do not execute the instructor notebooks")
    args = parser.parse_args()
    for path in release(args.out, args.names, not args.no_run, args.private, seed=args.seed):
        print(path)


if __name__ == "__main__":
    main()
