"""What `make release` builds: versions of one source, and bundles that work."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import nbformat
import pytest
from graded_parts import load_assignment, namespace_of
from grading_fixtures import SPECS, release_script, require_isolation, write_notebook

from icft_lite.grading.batch import grade_all
from icft_lite.grading.grader import Grader, check_function
from icft_lite.grading.sandbox import Limits
from icft_lite.grading.specifications import load_assignments
from icft_lite.grading.submissions import find_submissions


@pytest.fixture(scope="module")
def script():
    return release_script()


@pytest.fixture(scope="module")
def course(script, tmp_path_factory):
    out = tmp_path_factory.mktemp("dist") / "course"
    script.release(out, ["F1"], run=False, assignments=SPECS.parent)
    return out


def test_student_version_has_no_solution(course):
    (path,) = (course / "student").iterdir()
    text, notebook = path.read_text(), nbformat.read(path, as_version=4)
    for secret in ("confidence", "self.total", "model answer", "0.75", "SOLUTION", "HIDDEN"):
        assert secret not in text
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    assert 'error."""\n    raise NotImplementedError' in code[0] and code[2].count("raise NotImplementedError") == 2
    assert 'print("Passed: F1.1")' in code[1] and "< 0.11" in code[1]
    assert notebook.metadata["icft_lite"] == {"assignment": "F1", "version": "1.0"}
    assert path.read_bytes() == (course / "nbgrader" / "release" / "F1" / path.name).read_bytes()
    source = (course / "nbgrader" / "source" / "F1" / path.name).read_text()
    assert source.count("BEGIN SOLUTION") == 4 and "BEGIN HIDDEN TESTS" in source
    instructor = (course / "instructor" / path.name).read_text()
    assert "0.75" in instructor and "confidence" in instructor and "###" not in instructor
    assert (course / "instructors.md").is_file() and (course / "grading.md").is_file()


def test_versions_get_the_marks_that_they_should(course):
    """Full points for the instructor's version, none for the student's, with the specifications of the bundle."""
    found = find_submissions([course / "student", course / "instructor"])
    with Grader(course / "specs", "full", Limits(20)) as grader:
        require_isolation(grader)
        student, instructor = grade_all(grader, found)
    assert "student" in student.submission != instructor.submission  # the files have the same name
    assert (student.score, student.to_be_marked, student.refused) == (0, 0, "")
    assert (instructor.score, instructor.max_score, instructor.to_be_marked) == (5, 5, 5)


def test_instructor_version_is_executed(script, course, tmp_path):
    notebook = script.to_instructor(nbformat.read(next((course / "nbgrader" / "source" / "F1").iterdir()), 4), run=True)
    assert "Passed: F1.1" in str(notebook.cells[2].outputs)


def test_private_specifications_replace_public_ones(script, tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    (private / "f1.py").write_text((SPECS / "f1.py").read_text().replace('version="1.0"', 'version="1.0-autumn"'))
    script.release(tmp_path / "out", [], run=False, private=private, assignments=SPECS.parent)
    assert "1.0-autumn" in next((tmp_path / "out" / "student").iterdir()).read_text()
    with zipfile.ZipFile(tmp_path / "out" / "gradescope" / "F1.zip") as archive:
        assert b"1.0-autumn" in archive.read("specs/f1.py")


@pytest.mark.parametrize("name", ["A1", "A2", "A3", "A4", "A5", "A6"])
def test_a_seed_changes_the_same_constants_in_text_and_specification(script, tmp_path, name):
    """The new solution is right by all checks and by the specification. The public one is not, in at least one part."""
    script.release(tmp_path, [name], run=False, seed="spring")
    changed, public = load_assignments(tmp_path / "specs")[name], load_assignment(name.lower())
    assert changed.version.startswith(f"{public.spec.version}-")
    assert all(changed.constants[key] != value for key, value in public.spec.constants.items())
    (student,), (new,) = ((tmp_path / kind).iterdir() for kind in ("student", "instructor"))
    text, solved = student.read_text(encoding="utf-8"), namespace_of(nbformat.read(new, 4))
    assert "{{" not in text and changed.version in text
    parts = [part for part in changed.parts if not part.rubric]
    assert [check_function(part, solved[part.function]) for part in parts] == [""] * len(parts)
    assert any(check_function(part, public.namespace[part.function]) for part in parts)


def test_mistakes_in_sources_and_folders_of_others_are_refused(script, tmp_path):
    folder = tmp_path / "assignments"
    shutil.copytree(SPECS.parent, folder)
    source, keep = folder / "src" / "f1_fixture.py", tmp_path / "keep"
    text = source.read_text()
    for old, new, message in (
        ('"points": 3', '"points": 4', "11 points, the specification gives 10"),
        ('"f1-2"', '"f1-1"', "several cells have the grade_id 'f1-1'"),
        ("### END HIDDEN TESTS", "", "'### BEGIN HIDDEN TESTS' has no pair"),
    ):
        source.write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=message):
            script.release(tmp_path / "out", [], run=False, assignments=folder)
    keep.mkdir()
    (keep / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="was not made by this script"):
        script.release(keep, [], run=False, assignments=SPECS.parent)
    assert (keep / "thesis.txt").is_file()


# --- Gradescope


def readable_python():
    """Return a Python that other users can execute; None if there is none."""
    path = Path(sys._base_executable).resolve()
    return path if all(parent.stat().st_mode & 0o005 == 0o005 for parent in path.parents) else None


def test_gradescope_bundle(course, tmp_path):
    """The zip has what its scripts need; setup.sh and run_autograder are valid shell and executable."""
    with zipfile.ZipFile(course / "gradescope" / "F1.zip") as archive:
        names = set(archive.namelist())
        modes = {name: archive.getinfo(name).external_attr >> 16 & 0o777 for name in ("setup.sh", "run_autograder")}
        archive.extractall(tmp_path)
    wanted = {"package/icft_lite/cli.py", "package/icft_lite/data_samples/general_test.jsonl", "specs/f1.py"}
    assert wanted | {"constraints.txt", "requirements.txt"} <= names and set(modes.values()) == {0o755}
    assert not any("f1_fixture" in name or "__pycache__" in name for name in names)
    assert (tmp_path / "assignment").read_text() == "F1" and "torch" in (tmp_path / "requirements.txt").read_text()
    for name in modes:
        assert subprocess.run(["bash", "-n", tmp_path / name]).returncode == 0


@pytest.fixture
def base():
    """A folder like /autograder, which others may enter, unlike pytest's temporary folders."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


SPY = """
import glob, os
answer = "A written answer."
for place in ("source", "results", "submission"):
    for path in [f"@BASE@/{place}", *glob.glob(f"@BASE@/{place}/**", recursive=True)]:
        try: answer += f" read {os.listdir(path)}"
        except OSError: pass
        try: open(f"{path}/results.json", "w").write("{}"); answer += " wrote"
        except OSError: pass
try:
    import socket; socket.socket(); answer += " network"
except OSError: pass
if os.getuid() == 0: answer += " root"
"""


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="changes to another user, which needs root")
@pytest.mark.skipif(readable_python() is None, reason="this Python is in a folder that other users cannot read")
def test_gradescope_grades_as_another_user(course, base):
    """run_autograder in a copy of Gradescope's folders; student code reaches neither the source nor the results."""
    (base / "results").mkdir()
    (base / "submission").mkdir()
    (base / "venv" / "bin").mkdir(parents=True)
    with zipfile.ZipFile(course / "gradescope" / "F1.zip") as archive:
        archive.extractall(base / "source")
    shutil.copy(base / "source" / "run_autograder", base)
    (base / "venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (base / "venv" / "bin" / "python").chmod(0o755)
    notebook = nbformat.read(next((course / "instructor").iterdir()), 4)
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    write_notebook(base / "submission" / "work.ipynb", [*cells, SPY.replace("@BASE@", str(base))])
    done = subprocess.run(["bash", base / "run_autograder"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

    results = json.loads((base / "results" / "results.json").read_text())
    assert results["score"] == 5 and results["extra_data"]["isolation"] == "container"
    assert results["tests"][2]["output"] == "<pre>A written answer.</pre>"
