"""nbgrader's own commands on what `make release` writes. Needs `pip install -e '.[nbgrader]' -c constraints.txt`."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from grading_fixtures import release_script

nbgrader = pytest.importorskip("nbgrader.api", reason="needs nbgrader: pip install -e '.[nbgrader]' -c constraints.txt")
pytest.importorskip("jupytext", reason="reads a notebook's source")
pytestmark = pytest.mark.slow
BIN = str(Path(sys.executable).parent)


@pytest.fixture(scope="module")
def kit(tmp_path_factory):
    """What `make release` writes, without execution."""
    out = tmp_path_factory.mktemp("dist") / "course"
    release_script().release(out, list(AUTOMATIC), run=False)
    return out


AUTOMATIC = {"A2": 21, "A6": 15}
"""Assignments that are tried, and their automatic points. A6 has rubrics, too."""


@pytest.mark.parametrize("name", AUTOMATIC)
def test_generate_and_autograde(kit, name, tmp_path):
    """nbgrader makes the same student version; it gets 0 points, and the solution all automatic points."""
    course = kit / "nbgrader"
    (ours,) = (course / "release" / name).iterdir()
    sources = [cell.source for cell in nbformat.read(ours, 4).cells]

    def run(command):
        env = {**os.environ, "PATH": os.pathsep.join([BIN, os.environ["PATH"]]), "HOME": str(tmp_path)}
        done = subprocess.run([sys.executable, "-m", "nbgrader", command, name, "--force"], cwd=course, env=env,
                              capture_output=True, text=True)  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]

    run("generate_assignment")
    assert [cell.source.rstrip() for cell in nbformat.read(ours, 4).cells] == sources
    for student, notebook in (("untouched", ours), ("solved", kit / "instructor" / ours.name)):
        (course / "submitted" / student / name).mkdir(parents=True)
        shutil.copy(notebook, course / "submitted" / student / name)
    run("autograde")
    with nbgrader.Gradebook(f"sqlite:///{course / 'gradebook.db'}") as gradebook:
        scores = {one.student.id: one.score for one in gradebook.assignment_submissions(name)}
    assert scores == {"untouched": 0, "solved": AUTOMATIC[name]}
