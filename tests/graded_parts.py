"""Helpers for the tests of assignments: load their files, grade a function in this process, run cells."""

import contextlib
import importlib.util
import io
import re
import sys
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from test_notebooks import build, cells

from icft_lite.grading.shim import pack, perform, unpack

FOLDER = Path(build.HERE) / "assignments"
SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION$.*?^ *### END SOLUTION$", re.M | re.S)
HIDDEN = re.compile(r"^### BEGIN HIDDEN TESTS$.*?^### END HIDDEN TESTS$", re.M | re.S)


def load(path):
    """Return the module in a file of the assignments."""
    spec = importlib.util.spec_from_file_location(f"{path.parent.name}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path.parent)  # specifications may import other files of their folder, as in the grader
        spec.loader.exec_module(module)
    return module


def load_assignment(name):
    """Return what belongs to an assignment such as "a3": specification, mutants, notebook and its namespace."""
    (source,) = (FOLDER / "src").glob(f"{name}_*.py")
    specification, mutants = load(FOLDER / "specs" / f"{name}.py").ASSIGNMENT, load(FOLDER / "mutants" / f"{name}.py")
    book = build.read(source, specification.constants)
    wrong_and_right = {"WRONG": mutants.WRONG, "RIGHT": mutants.RIGHT}
    return SimpleNamespace(spec=specification, book=book, namespace=namespace_of(book), **wrong_and_right)


def namespace_of(book):
    """Return the namespace of a student who has solved all parts and executed the cells up to the last check."""
    namespace, graded = {}, [cell for cell in cells(book, "code") if "nbgrader" in cell.metadata]
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in [*cells(book, "code")[:2], *graded]:
            exec(HIDDEN.sub("", cell.source), namespace)
    return namespace


def released(source):
    """Return a cell as a student gets it: without solution and hidden tests."""
    return HIDDEN.sub("", SOLUTION.sub(r"\1raise NotImplementedError", source))


def feedback(part, function, seed=0):
    """Return the feedback on each of a part's calls, made as the grader makes them, and on all calls together.

    An exception gives "error: …".
    """
    texts, answers, calls = [], [], part.draw(np.random.default_rng(seed))
    for call in calls:
        fields = unpack(pack(asdict(call)))
        expected = perform(part.reference, fields)
        try:
            answers.append(unpack(pack(perform(function, fields))))
            texts.append(part.compare(answers[-1], expected, call))
        except Exception as error:
            texts.append(f"error: {type(error).__name__}: {error}")
    assert len(texts) >= 2
    return texts if any(texts) else [*texts, part.compare_all(answers, calls)]


def check_cell(assignment, part):
    """Return the source of the visible check after a part, as the student gets it."""
    ending = f"-{part.id.partition('.')[2]}-check"
    (cell,) = (c for c in assignment.book.cells if c.metadata.get("nbgrader", {}).get("grade_id", "").endswith(ending))
    return released(cell.source)


def visible_check(assignment, part, function):
    """Return what the visible check after a part says about a function; "" if it accepts it."""
    space = {**assignment.namespace, part.function: function}
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            exec(check_cell(assignment, part), space)
        except Exception as error:
            return f"{type(error).__name__}: {error}"
    return ""


def run_notebook(assignment):
    """Return what a notebook with its solutions prints, executed in this process."""
    space, out = {}, io.StringIO()
    with contextlib.redirect_stdout(out):
        for cell in cells(assignment.book, "code"):
            exec(cell.source, space)
    return out.getvalue()
