"""Assignment A1: the tests of all assignments, and its notebook agrees with the package."""

import re

import pytest
from graded_parts import load_assignment, run_notebook
from test_assignments import *  # noqa: F403


@pytest.fixture(scope="module")
def assignment():
    return load_assignment("a1")


@pytest.mark.slow
def test_the_notebook_with_solutions_runs_from_top_to_bottom(assignment):
    printed = run_notebook(assignment)
    assert printed.count("Passed: ") == 9
    assert all(float(number) < 1e-6 for number in re.findall(r"largest difference.*: (\S+)", printed))
    right = dict(
        re.findall(r"^(equal weights|family weights|vote shares|your label model) *right (\S+),", printed, re.M)
    )
    assert float(right["your label model"]) > float(right["vote shares"]) + 0.05
    assert float(right["family weights"]) > float(right["equal weights"]) + 0.2
