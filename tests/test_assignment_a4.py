"""Assignment A4: the tests of all assignments, and its notebook agrees with the package."""

import re

import pytest
from graded_parts import load_assignment, run_notebook
from test_assignments import *  # noqa: F403


@pytest.fixture(scope="module")
def assignment():
    return load_assignment("a4")


@pytest.mark.slow
def test_the_notebook_with_solutions_runs_from_top_to_bottom(assignment):
    printed = run_notebook(assignment)
    assert printed.count("Passed: ") == 9
    assert float(re.search(r"moving average: (\S+)", printed)[1]) < 1e-5
    assert int(re.search(r"the package retains (\d+)", printed)[1]) >= 39
    yours, package = re.search(r"your choice: (\S+), the package's: (\S+)", printed).groups()
    assert 0 < float(yours) == float(package) < 1
