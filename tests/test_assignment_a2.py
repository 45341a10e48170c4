"""Assignment A2: the tests of all assignments, and its notebook agrees with the package."""

import re

import pytest
from graded_parts import load_assignment, run_notebook
from test_assignments import *  # noqa: F403


@pytest.fixture(scope="module")
def assignment():
    return load_assignment("a2")


@pytest.mark.slow
def test_the_notebook_with_solutions_runs_from_top_to_bottom(assignment):
    printed = run_notebook(assignment)
    assert printed.count("Passed: ") == 8
    assert float(re.search(r"difference from the package's difficulty: (\S+)", printed)[1]) < 0.01
    before, yours, package, _ = map(float, re.findall(r"held-out loss (\S+)", printed))
    assert yours < before - 1 and abs(yours - package) < 0.25
