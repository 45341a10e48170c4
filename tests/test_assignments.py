"""The assignments: solutions get all points, each known mistake gets feedback that names it, stubs get nothing.

Everything but the notebooks from top to bottom is at the level of functions, in this process.
"""

import contextlib
import importlib
import importlib.util
import io
import re
from keyword import iskeyword

import numpy as np
import pytest
import torch
from graded_parts import FOLDER, HIDDEN, SOLUTION, feedback, load_assignment, released, run_notebook, visible_check
from test_notebooks import SOURCES, cells, notebook

from icft_lite.grading.package_copy import ALIKE, copied_parts, overlap

NAMES = ("a3", "a5", "a6")
pytestmark = pytest.mark.skipif(importlib.util.find_spec("jupytext") is None, reason="reads a notebook's source")


@pytest.fixture(scope="module", params=NAMES)
def assignment(request):
    return load_assignment(request.param)


def automatic(assignment):
    """Return the parts that are graded automatically."""
    return [part for part in assignment.spec.parts if not part.rubric]


def graded_cells(assignment):
    return [cell for cell in cells(assignment.book, "code") if "nbgrader" in cell.metadata]


def solutions_of(assignment):
    """Return {grade_id: source} of the cells with a solution."""
    sources = {cell.metadata["nbgrader"]["grade_id"]: cell.source for cell in graded_cells(assignment)}
    return {name: source for name, source in sources.items() if SOLUTION.search(source)}


# --- the solution, and right answers that are written in another way


def test_the_solution_and_other_right_answers_get_all_points(assignment):
    for part in automatic(assignment):
        assert assignment.RIGHT[part.id], part.id
        for function in (assignment.namespace[part.function], *assignment.RIGHT[part.id]):
            for seed in range(5):
                texts = feedback(part, function, seed)
                assert not any(texts), (part.id, function, seed, texts)
            assert visible_check(assignment, part, function) == "", (part.id, function)


def test_the_reference_gives_the_same_for_the_same_inputs_and_other_inputs_each_time(assignment):
    for part in automatic(assignment):
        draws = [repr(part.draw(np.random.default_rng(seed))) for seed in (0, 0, 1, 2)]
        assert draws[0] == draws[1] and len(set(draws)) > 1, part.id


# --- wrong answers


def test_each_mistake_gets_feedback_that_names_its_kind(assignment):
    assert set(assignment.WRONG) == {part.id for part in automatic(assignment)}
    for part in automatic(assignment):
        assert len(assignment.WRONG[part.id]) >= 3, part.id
        for mistake, (function, words) in assignment.WRONG[part.id].items():
            for seed in range(3):
                texts = [text for text in feedback(part, function, seed) if text]
                assert texts and all(words in text for text in texts), (part.id, mistake, words, texts)


def test_feedback_is_one_line_without_right_values(assignment):
    for part in automatic(assignment):
        for function, _ in assignment.WRONG[part.id].values():
            for text in feedback(part, function):
                assert "\n" not in text and len(text) < 250 and not re.search(r"\d\.\d{4}", text), text


def test_the_visible_checks_name_mistakes_too(assignment):
    for part in automatic(assignment):
        said = {name: visible_check(assignment, part, wrong) for name, (wrong, _) in assignment.WRONG[part.id].items()}
        missed = [name for name, text in said.items() if not text]
        assert len(missed) <= len(said) // 3, (part.id, missed)
        assert all(re.match(r"\w+Error: \w+", text) for text in said.values() if text), said


def test_results_of_another_type_get_feedback(assignment):
    for part in automatic(assignment):
        for result in (None, "text", [], float("nan"), [None, None], {}):
            assert all(feedback(part, lambda *_, result=result, **__: result)), (part.id, result)


# --- the student's version


def test_stubs_score_nothing(assignment):
    space = dict(assignment.namespace)
    for cell in graded_cells(assignment):
        with contextlib.suppress(NotImplementedError, NameError):
            exec(released(cell.source), space)
    for part in automatic(assignment):
        assert all(text.startswith("error: NotImplementedError") for text in feedback(part, space[part.function]))
        assert visible_check(assignment, part, space[part.function]).startswith("NotImplementedError")


def test_the_cells_agree_with_the_specification(assignment):
    text = "\n".join(cell.source for cell in cells(assignment.book, "markdown"))
    graded = {cell.metadata["nbgrader"]["grade_id"]: cell for cell in graded_cells(assignment)}
    assert len(graded) == len(graded_cells(assignment)), "a grade_id must be unique"
    answers = [name for name, cell in graded.items() if cell.metadata["nbgrader"]["solution"]]
    assert answers == [part.id.lower().replace(".", "-") for part in assignment.spec.parts] and 6 <= len(answers) <= 12
    assert 60 <= sum(part.minutes for part in assignment.spec.parts) <= 180
    for part, name in zip(assignment.spec.parts, answers):
        assert f"| {part.id} | {part.title} | {part.points:g} | {part.minutes} |" in text
        assert f"**{part.id} · {part.points:g} points · {part.minutes} minutes**" in text
        assert SOLUTION.search(graded[name].source)
        assert re.search(rf"^(def |class )?{part.function}\b", graded[name].source, re.M)
        assert graded[name].metadata["nbgrader"]["locked"] is False
        check = graded[name if part.rubric else f"{name}-check"]
        assert check.metadata["nbgrader"]["points"] == part.points and check.metadata["nbgrader"]["grade"]
        assert part.rubric or (HIDDEN.search(check.source) and check.metadata["nbgrader"]["locked"])


def test_copies_of_the_public_solutions_are_flagged_and_other_solutions_are_not(assignment):
    """The other ones are those of the specification and of the file of mutants, right and wrong, all together."""
    name = assignment.spec.id.lower()
    given = "\n".join(released(cell.source) for cell in cells(assignment.book, "code"))
    others = "\n".join((FOLDER / kind / f"{name}.py").read_text(encoding="utf-8") for kind in ("specs", "mutants"))
    solutions = solutions_of(assignment)
    assert copied_parts(f"{given}\n{others}", solutions) == []
    copy = re.sub(r"\b[a-z_]\w*", lambda word: word[0] + "_x" * (not iskeyword(word[0])), "\n".join(solutions.values()))
    assert len(copied_parts(copy, solutions)) >= 5
    assert copied_parts("\n".join(list(solutions.values())[: (len(solutions) - 1) // 2]), solutions) == []


def test_no_lesson_prints_a_solution(assignment):
    solutions = solutions_of(assignment)
    for lesson in SOURCES:
        text = "\n".join(cell.source for cell in notebook(lesson).cells)
        found = {name: overlap(text, [source]) for name, source in solutions.items()}
        assert max(found.values()) < ALIKE, (lesson.stem, found)


def test_what_is_blocked_exists(assignment):
    for part in assignment.spec.parts:
        for name in part.blocked:
            module, _, function = name.rpartition(".")
            assert hasattr(importlib.import_module(module), function), name


def test_cells_are_short(assignment):
    for cell in assignment.book.cells:
        limit = 45 if cell.cell_type == "code" else 30
        assert len(cell.source.splitlines()) <= limit, cell.source[:60]


# --- the notebook with its solutions


def test_hidden_tests_accept_the_solution_and_reject_mistakes(assignment):
    checks = {cell.metadata["nbgrader"]["grade_id"]: cell.source for cell in graded_cells(assignment)}
    for part in automatic(assignment):
        source = checks[f"{part.id.lower().replace('.', '-')}-check"]
        with contextlib.redirect_stdout(io.StringIO()):
            for right in (assignment.namespace[part.function], *assignment.RIGHT[part.id]):
                exec(source, {**assignment.namespace, part.function: right})
            for mistake, (wrong, _) in assignment.WRONG[part.id].items():
                try:
                    exec(source, {**assignment.namespace, part.function: wrong})
                except Exception:
                    continue
                raise AssertionError(f"{part.id}: {mistake} passes")


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_the_visible_check_of_a_loss_demands_a_gradient(number):
    assignment = load_assignment("a5")
    part = assignment.spec.parts[number - 1]

    def without_gradient(*arguments):
        with torch.no_grad():
            return assignment.namespace[part.function](*arguments)

    assert "gradient: none flows" in visible_check(assignment, part, without_gradient)


YOURS_AND_THE_PACKAGES = {
    "A3": r"loss (\S+) with your code, (\S+) with PEFT",
    "A5": r"yours (\S+), the package's (\S+)",
    "A6": r"A − B: (\S+) points[^$]*package: (\S+) points",
}
"""Regular expression of two numbers that a notebook prints, and that must agree."""


@pytest.mark.slow
def test_the_notebook_with_solutions_runs_from_top_to_bottom(assignment):
    printed = run_notebook(assignment)
    assert printed.count("Passed: ") == len(automatic(assignment))
    pairs = re.findall(YOURS_AND_THE_PACKAGES[assignment.spec.id], printed)
    assert pairs and all(abs(float(yours) - float(package)) <= 0.02 for yours, package in pairs), printed
