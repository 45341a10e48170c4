"""Every test runs in some job of the workflows, except those that need a GPU or files of others."""

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import icft_lite

ROOT = Path(icft_lite.__file__).parents[1]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
TESTS = sorted((ROOT / "tests").glob("test_*.py"))
PACKAGES = {"crowdkit": "crowd-kit", "lm_eval": "lm-eval", "myst_nb": "myst-nb"}
"""Module → package, where the names differ."""
SYSTEM = {"fcntl"}
"""Modules of the standard library that not every system has."""


def jobs():
    """Return the commands of each job, in one line."""
    found = {}
    for path in sorted((ROOT / ".github" / "workflows").glob("*.yml")):
        for name, job in yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"].items():
            found[f"{path.stem}: {name}"] = " ; ".join(
                " ".join(line.split()) for step in job["steps"] for line in step.get("run", "").splitlines()
            )
    return found


def pytest_runs(commands):
    """Return the pytest commands of a job that are not restricted to notebooks."""
    runs = [part for part in commands.split(" ; ") if "-m pytest" in part]
    return [run for run in runs if "notebooks" not in run]


def extras_of(commands):
    """Return the extras of pyproject.toml that a job installs."""
    installed = {extra for names in re.findall(r"\[([\w,]+)\]", commands) for extra in names.split(",")}
    return installed | ({"docs"} if "make docs" in commands else set())


def runs_all(run):
    return not any(option in run for option in (" -k", "--ignore", "--deselect", "tests/"))


def optional_modules(path):
    """Return the modules without which tests of a file are skipped."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("importorskip", "find_spec", "needs"):
                found.add(node.args[0].value.partition(".")[0])
    return found - SYSTEM


def test_each_change_runs_all_test_files():
    """Pytest collects every file in tests/; no option leaves one out."""
    assert len(TESTS) > 80
    (run,) = pytest_runs(jobs()["ci: test"])
    assert runs_all(run) and '-m "not slow"' in run


def test_slow_tests_run_every_week():
    assert any(runs_all(run) and "not slow" not in run for run in pytest_runs(jobs()["weekly: complete"]))


@pytest.mark.parametrize("path", [path for path in TESTS if optional_modules(path)], ids=lambda path: path.stem)
def test_tests_that_need_an_extra_run_in_a_job_that_installs_it(path):
    for module in optional_modules(path):
        package = PACKAGES.get(module, module)
        wanted = {extra for extra, lines in EXTRAS.items() if package in {Requirement(line).name for line in lines}}
        assert wanted, f"no extra of pyproject.toml has {package}"
        able = [
            name
            for name, commands in jobs().items()
            if any(runs_all(run) or f"tests/{path.name}" in run for run in pytest_runs(commands))
            and wanted & extras_of(commands)
        ]
        assert able, f"{path.name} needs {package}, which no job that runs it installs"


def test_modules_that_skip_tests_are_found():
    found = {module for path in TESTS for module in optional_modules(path)}
    assert {"nbgrader", "crowdkit", "lm_eval", "sphinx"} <= found
