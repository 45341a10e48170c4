"""A class of 30 submissions, right, wrong, broken and hostile, graded with one command into one CSV."""

import csv
import importlib.util
import json
import shutil
import zipfile

import nbformat
import pytest
from grading_fixtures import RIGHT, ROOT, SPECS, release_script, require_isolation, write_notebook
from grading_fixtures.hostile import SUBMISSIONS
from test_grading import COPY

from icft_lite import cli
from icft_lite.grading.grader import Grader
from icft_lite.grading.sandbox import Limits
from icft_lite.grading.specifications import load_assignments

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("jupytext") is None, reason="reads a notebook's source"),
]
ASSIGNMENTS = ROOT / "notebooks" / "assignments"
HOSTILE = ("always_equal", "channel_forged", "channel_pickle", "crash", "deaf_loop", "grader_names", "import_solution",
           "nested", "os_exit_cell", "os_exit_function", "patched", "pickle", "results_file", "sys_exit")  # fmt: skip
"""Those that look for nothing outside the sandbox and need no small limits."""
A2 = {"A2.1": 2, "A2.2": 2, "A2.3": 2, "A2.4": 4, "A2.5": 3, "A2.6": 2, "A2.7": 2, "A2.8": 4}
F1 = {"F1.1": 3, "F1.2": 2}
ANSWERS = {  # submission: (part → entry of the file of mutants, parts without points). The rest is the public solution.
    "sum": ({"A2.1": ("WRONG", "sum")}, ("A2.1", "A2.2")),  # A2.2 calls it
    "reversed": ({"A2.4": ("WRONG", "sorted the wrong way")}, ("A2.4",)),
    "uncapped": ({"A2.6": ("WRONG", "no cap")}, ("A2.6",)),
    "repeats": ({"A2.8": ("WRONG", "with replacement")}, ("A2.8",)),
    "own-style": ({part: ("RIGHT", 0) for part in A2}, ()),
}
COPY_OF = "the public solutions of"


@pytest.fixture
def course(tmp_path):
    """The kit of assignment A2 and of the fixture F1."""
    sources = tmp_path / "assignments"
    for folder, name in ((folder, name) for folder in (ASSIGNMENTS, SPECS.parent) for name in ("src", "specs")):
        shutil.copytree(folder / name, sources / name, dirs_exist_ok=True)
    release_script().release(tmp_path / "course", ["A2", "F1"], run=False, assignments=sources)
    return tmp_path / "course"


def graded(notebook):
    """Return {grade_id: cell} of a notebook, without the cells after the last check, which take longest."""
    ids = [cell.metadata.get("nbgrader", {}).get("grade_id", "") for cell in notebook.cells]
    notebook.cells = notebook.cells[: max(i for i, name in enumerate(ids) if name) + 1]
    return dict(zip(ids, notebook.cells))


def write_class(folder, course):
    """Write the submissions. Returns {name: (points, words in the flags, words of the refusal)}."""
    expected = {}
    functions = {part.id: part.function for part in load_assignments(course / "specs")["A2"].parts}
    mutants = (ASSIGNMENTS / "mutants" / "a2.py").read_text(encoding="utf-8")

    def released(kind, file):
        return nbformat.read(course / kind / file, 4)

    for kind, a2, f1 in (("instructor", A2, F1), ("student", dict.fromkeys(A2, 0), dict.fromkeys(F1, 0))):
        for file, points in (("a2_curriculum.ipynb", a2), ("f1_fixture.ipynb", f1)):
            shutil.copy(course / kind / file, folder / f"{kind}-{file}")
            expected[f"{kind}-{file}"] = points, COPY_OF if points is A2 else "", ""
    for name, (answers, failed) in ANSWERS.items():
        notebook = released("instructor", "a2_curriculum.ipynb")
        for part, (table, key) in answers.items():
            entry = f"names[{table!r}][{part!r}][{key!r}]{'[0]' * (table == 'WRONG')}"
            source = f"names = {{}}\nexec({mutants!r}, names)\n{functions[part]} = {entry}"
            graded(notebook)[part.lower().replace(".", "-")].source = source
        nbformat.write(notebook, folder / f"{name}.ipynb")
        expected[f"{name}.ipynb"] = A2 | dict.fromkeys(failed, 0), COPY_OF if failed else "", ""
    half, solved = released("student", "a2_curriculum.ipynb"), released("instructor", "a2_curriculum.ipynb")
    for name, cell in graded(half).items():
        if name in ("a2-3", "a2-7"):
            cell.source = graded(solved)[name].source
    nbformat.write(half, folder / "half.ipynb")
    expected["half.ipynb"] = dict.fromkeys(A2, 0) | {"A2.3": 2, "A2.7": 2}, "", ""

    for name in HOSTILE:
        write_notebook(folder / f"{name}.ipynb", SUBMISSIONS[name].cells)
        expected[f"{name}.ipynb"] = SUBMISSIONS[name].score, "", ""
    write_notebook(folder / "copied.ipynb", [COPY])
    expected["copied.ipynb"] = {"F1.1": 3, "F1.2": 0}, "icft_lite.metrics.expected_calibration_error", ""

    (folder / "broken.ipynb").write_text("{")
    (folder / "link.ipynb").symlink_to(course / "instructor" / "f1_fixture.ipynb")
    with zipfile.ZipFile(folder / "outside.zip", "w") as archive:
        archive.writestr("work.ipynb", json.dumps({"cells": []}))
        archive.writestr("../marks.csv", "x")
    (folder / "two").mkdir()
    for name in ("a", "b"):
        write_notebook(folder / "two" / f"{name}.ipynb", RIGHT)
    write_notebook(folder / "unknown.ipynb", RIGHT, icft_lite={"assignment": "A9"})
    refusals = {"broken.ipynb": "cannot be read", "link.ipynb": "symbolic link", "outside.zip": "not acceptable",
                "two": "2 notebooks", "unknown.ipynb": "'A9' is unknown"}  # fmt: skip
    return expected | {name: ({}, "", words) for name, words in refusals.items()}


def test_a_class_of_30_is_marked_with_one_command(course, tmp_path, monkeypatch, capsys):
    with Grader(course / "specs", "full", Limits()) as grader:
        require_isolation(grader)
    folder, table = tmp_path / "submissions", tmp_path / "marks.csv"
    folder.mkdir()
    expected = write_class(folder, course)
    assert len(expected) == 30
    monkeypatch.chdir(folder)
    code = cli.main(["grade", ".", "--assignments", str(course), "--csv", str(table), "--cell-seconds", "20"])
    assert code == 3  # some are refused, the others are graded

    rows = {row["submission"]: row for row in csv.DictReader(table.open(encoding="utf-8"))}
    assert set(rows) == set(expected)
    for name, (points, flag, refusal) in expected.items():
        row = rows[name]
        found = {part: float(row[part]) for part in (*A2, *F1) if row[part]}
        if isinstance(points, dict):
            assert found == points, (name, row)
            points = sum(points.values())
        assert (float(row["score"]), sum(found.values()), row["isolation"]) == (points, points, "full"), (name, row)
        assert refusal in row["refused"] and bool(refusal) == bool(row["refused"]), (name, row["refused"])
        assert flag in row["flags"] and bool(flag) == bool(row["flags"]), (name, row["flags"])
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 30 + sum(bool(flag) for _, flag, _ in expected.values())  # a line for each, and for a flag
