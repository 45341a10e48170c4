"""Lesson 12: its protocol is the course's, its exercises judge, the learner's gain replaces the grader's."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_notebooks import build, cells, check_exercise, checked, exercises, notebook, said, solve

from icft_lite.grading.capstone import Capstone
from icft_lite.grading.capstone_grader import EntryResult, entry_line
from icft_lite.grading.specifications import load_specifications
from icft_lite.reporting.concepts.capstone import draw
from icft_lite.statistics import paired_bootstrap

SOURCE = Path(build.HERE) / "src" / "12_capstone.py"
WRONG = [
    [
        "def gain(entry, reference, topics):\n    return float(np.mean(entry) - np.mean(reference))",
        "def gain(entry, reference, topics):\n    return float(np.mean(entry) - np.mean(reference[0]))",
        "def gain(entry, reference, topics):\n"
        "    topics, difference = np.asarray(topics), np.asarray(entry, float) - np.asarray(reference)[0]\n"
        "    return float(np.mean([difference[topics == topic].mean() for topic in np.unique(topics)]))",
    ],
    [
        "def ranks(gains): return [sorted(gains, reverse=True).index(gain) for gain in gains]",
        "def ranks(gains): return [1 + sorted(gains).index(gain) for gain in gains]",
        "def ranks(gains): return [1 + sorted(set(gains), reverse=True).index(gain) for gain in gains][:3] + [3]",
    ],
    [
        "def problem(log, max_tokens): return ''",
        "def problem(log, max_tokens): return 'budget' if log['total'] > max_tokens else ''",
        "def problem(log, max_tokens):\n"
        "    if any(not stage['steps'] for stage in log['stages']): return 'steps'\n"
        "    if sum(stage['tokens'] for stage in log['stages']) != log['total']: return 'sum'\n"
        "    return 'budget' if log['total'] > 1.02 * max_tokens else ''",
        "def problem(log, max_tokens):\n"
        "    if log['total'] > 1.02 * max_tokens: return 'budget'\n"
        "    if sum(stage['tokens'] for stage in log['stages']) != log['total']: return 'sum'\n"
        "    return 'steps' if any(stage['tokens'] and not stage['steps'] for stage in log['stages']) else ''",
    ],
]


@pytest.fixture(scope="module")
def book():
    return build.read(SOURCE)


@pytest.mark.parametrize("number", range(len(WRONG)))
def test_the_exercises_accept_their_solutions_and_reject_wrong_ones(book, number):
    check_exercise(book, number, WRONG, dict(np=np))


@pytest.mark.parametrize("solved", [False, True])
def test_the_learners_gain_replaces_the_graders_and_is_the_same(book, solved):
    """The package's runs until the exercise is solved."""
    stub, solution = next(pair for pair in exercises(book) if "def gain" in pair[0])
    use = next(cell.source for cell in cells(book, "code") if "answer = gain(" in cell.source)
    traced = solution.replace("\n", "\n    calls.append(1)\n", 1)
    rng = np.random.default_rng(0)
    items = {("qa", topic, str(i)): float(rng.random() < 0.6) for i, topic in enumerate("aaaabb")}
    runs = [{key: float(rng.random() < 0.4) for key in items} for _ in range(2)]

    class Grader:
        scores = {"icft": type("Scores", (), {"items": items})}
        reference = runs

    strata = [f"qa/{topic}" for _, topic, _ in items]
    other = [[run[key] for key in items] for run in runs]
    right = paired_bootstrap(list(items.values()), other, strata).difference
    for gain, same in ((right, "True"), (right + 0.1, "False")):
        calls = []
        space = dict(np=np, calls=calls, grader=Grader, paired_bootstrap=paired_bootstrap,
                     second=type("Result", (), {"gain": gain}))  # fmt: skip
        code = solve(stub, traced) if solved else stub
        printed = said(f"{code}\ncalls.clear()\n{use}", space)
        assert f"the same gain as the grader's: {same}" in printed and bool(calls) == solved


@pytest.mark.parametrize(("paths", "graded"), [({}, "kit/public"), ({"ENTRY": "mine", "PUBLIC": "public"}, "public")])
def test_the_students_own_entry_is_graded_on_the_practice_questions(book, tmp_path, paths, graded):
    """The cell with ENTRY and PUBLIC: None is the lesson's entry, a path the student's, from the notebook's folder."""
    code, show = (cell.source for mark in ("ENTRY = None", "would be refused:") for cell in cells(book, "code")
                  if mark in cell.source)  # fmt: skip
    for name, path in paths.items():
        assert f"{name} = None" in code
        code = code.replace(f"{name} = None", f"{name} = {path!r}")
    kits, asked = [], []

    class Grader:
        def __init__(self, kit):
            kits.append(kit)
            self.scores = {"mine": type("Scores", (), {"items": dict.fromkeys("abc", 1.0)})}

        def grade(self, name, path):
            asked.append(path)
            return EntryResult("mine", invalid="too many tokens" if paths else "", domain=0.5)

    space = dict(CapstoneGrader=Grader, practice_kit=str, start=tmp_path, entries={"icft": tmp_path / "icft"},
                 find_entries=lambda found: [("mine", path) for path in found], entry_line=entry_line)  # fmt: skip
    printed = said(f"{code}\n{show}", space)
    assert kits == [str(tmp_path / graded) if paths else graded] and asked == [tmp_path / paths.get("ENTRY", "icft")]
    assert ("mine would be refused: too many tokens" if paths else "mine would be valid") in printed
    assert "questions: 3" in printed


def test_its_protocol_is_that_of_the_course(book):
    (course,) = load_specifications(build.HERE / "assignments" / "specs", "CAPSTONE", Capstone).values()
    space = {"Capstone": Capstone}
    exec(next(cell.source for cell in cells(book, "code") if "protocol = Capstone(" in cell.source), space)
    assert replace(space["protocol"], reference_seeds=course.reference_seeds) == course == Capstone()
    assert len(course.reference_seeds) == 3


def test_the_stored_outputs_show_what_the_text_says():
    stored = "\n".join(output.get("text", "") for cell in cells(notebook(SOURCE), "code") for output in cell.outputs)
    for line in (
        "no patient is in both parts: True",
        "within 2 % of the budget: True",
        "it retains enough: True",
        "both are valid: True",
        "the same gain as the grader's: True",
        "shorter log: valid",
        "sorted by gain: True",
    ):
        assert line in stored, line
    for refused in ("another base", "another shape", "code", "larger budget"):
        assert re.search(rf"^{refused}: (?!valid)", stored, re.M), refused
    gain, low, high = map(float, re.search(r"icft: gain (\S+) \[(\S+), (\S+)\]", stored).groups())
    text = "\n".join(cell.source for cell in cells(notebook(SOURCE), "markdown")).replace("−", "-").replace("\n", " ")
    assert f"{gain:.2f}, from {low:.2f} to {high:+.2f}: it contains 0" in text and low < 0 < high
    own = next(output.text for cell in cells(notebook(SOURCE), "code") if "ENTRY = None" in cell.source
               for output in cell.outputs)  # fmt: skip
    practice, low, high = map(float, re.search(r"icft: gain (\S+) \[(\S+), (\S+)\]", own).groups())
    assert f"Here it was {practice:.2f}, on the hidden ones {gain:+.2f}; both intervals contain 0" in text
    assert low < 0 < high and "icft would be valid" in stored and "questions: 72" in stored


def test_the_leaderboard_ends_the_lesson_with_its_two_entries():
    page = next(
        output["data"]["text/html"]
        for cell in cells(notebook(SOURCE), "code")
        if "write_leaderboard(" in cell.source
        for output in cell.outputs
    )
    rows = re.findall(r"<tr><td>(\d)</td><td>(\w+)</td>", page)
    assert sorted(name for _, name in rows) == ["icft", "replay"] and "<script" not in page


def test_its_size():
    stored = notebook(SOURCE)
    code = sorted(len(cell.source.splitlines()) for cell in cells(stored, "code"))
    assert len(stored.cells) <= 60 and code[len(code) // 2] <= 10 and code[int(0.9 * len(code))] <= 25
    assert len(checked(stored)) >= len(code) / 2


def test_the_diagram_shows_both_parts_of_the_domain_and_says_so_in_words():
    texts = " ".join(text.get_text() for text in draw().axes[0].texts)
    for part in ("public part", "hidden questions", "leaderboard", "replay"):
        assert part in texts and part.split()[0] in " ".join(draw.__doc__.split())
