"""Hostile submissions get no points that they do not deserve, reach nothing outside the sandbox, and end in time."""

import os
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from grading_fixtures import SPECS, require_isolation, write_notebook
from grading_fixtures.hostile import SUBMISSIONS

from icft_lite.grading.batch import grade_one
from icft_lite.grading.grader import Grader
from icft_lite.grading.sandbox import Limits, site_folders, student_uid

LIMITS = Limits(1.0, grace_seconds=1.0, total_seconds=5.0, memory_gib=0.3, processes=24, scratch_mib=16)
START_SECONDS = 0.5
"""Of a sandbox, on an idle machine. The limits of time grow with the time that a start takes now."""
FOLDERS = ("/", "/usr", "/usr/lib", "/etc", "/package", "/package/icft_lite", "/submission", "/root", "/home", "/var",
           "/dev", str(Path(os.__file__).parent), *site_folders())  # fmt: skip
"""Folders that must not be writable, besides one of the test."""
REACHING = ("hidden_tests", "environment", "other_submission", "writes_outside", "network", "signals")
"""Submissions whose attempts succeed without isolation."""


@pytest.fixture(scope="module")
def grader():
    with Grader(SPECS, "full", LIMITS) as one:
        require_isolation(one)
        start = time.monotonic()
        one.check_isolation()
        slower = max(1.0, (time.monotonic() - start) / START_SECONDS)
        times = {name: getattr(LIMITS, name) * slower for name in ("cell_seconds", "grace_seconds", "total_seconds")}
        one.limits = replace(LIMITS, **times)
        yield one


@pytest.fixture
def surroundings(tmp_path):
    """What the submissions look for, as {name in the cells: value}. Without isolation, they find it."""
    place, others = tmp_path / "place", tmp_path / "submissions"
    for folder in (place, others):
        folder.mkdir(mode=0o777)
    write_notebook(others / "other.ipynb", ["x = 1"])
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as abstract,
        subprocess.Popen(["/bin/sleep", "60"], env={"ICFT_TEST_SECRET": "1"}) as secret,
    ):
        port = tcp.getsockname()[1]
        abstract.bind(f"\0icft-test-{port}")
        abstract.listen()
        yield {
            "TOP": str(SPECS),
            "SUBMISSIONS": str(others),
            "PLACES": str(place),
            "PORT": str(port),
            "PID": str(secret.pid),
        }
        secret.kill()


def grade(grader, tmp_path, name, names):
    cells = SUBMISSIONS[name].cells
    for key, value in names.items():
        cells = [cell.replace(f"@{key}@", value) for cell in cells]
    start = time.monotonic()
    result = grade_one(grader, name, write_notebook(tmp_path / f"{name}.ipynb", cells), "", [])
    return result, time.monotonic() - start


def processes_of_students():
    """Processes that are left: children of this one and, for root, all of the sandbox's user."""
    left = [one for one in psutil.Process().children(recursive=True) if one.name() != "sleep"]
    if os.geteuid() == 0:
        left += [one for one in psutil.process_iter(["uids"]) if one.info["uids"].real == student_uid()]
    return left


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_hostile_submission(name, grader, surroundings, tmp_path):
    hostile = SUBMISSIONS[name]
    place = surroundings["PLACES"]
    names = {**surroundings, "TOP": "/", "PLACES": ":".join([*FOLDERS, place]), "PID": "[0-9]*"}
    result, seconds = grade(grader, tmp_path, name, names)
    *automatic, written = result.parts
    parts = grader.assignments["F1"].parts
    assert (result.refused, result.isolation) == ("", "full")
    assert sum(part.earned for part in automatic) == hostile.score, result
    assert written.answer == "" and written.earned == 0  # no attempt succeeded
    texts = [*(part.feedback for part in automatic), *result.notes]
    assert any(hostile.feedback in text for text in texts), texts
    assert all(part.feedback for part in automatic if not part.earned)
    ended = [(one.function, part.feedback) for one, part in zip(parts, automatic) if "did not return" in part.feedback]
    assert all(text.startswith(f"{name} did not return: it") for name, text in ended)
    assert seconds < 1.5 * grader.limits.total_seconds
    assert not any(Path(place).iterdir()) and len(list(grader.folder.iterdir())) <= 3
    assert processes_of_students() == []


@pytest.mark.parametrize("name", REACHING)
def test_the_attempts_succeed_without_isolation(name, surroundings, tmp_path):
    """Otherwise the test above could not fail."""
    with Grader(SPECS, "unprotected", LIMITS) as unprotected:
        result, _ = grade(unprotected, tmp_path, name, surroundings)
    assert result.parts[2].answer and result.isolation == "unprotected"
