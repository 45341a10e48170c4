"""The instructor's guide names parts, mutants, lessons and versions that exist, and its sums are those of the parts."""

import re
import runpy
from pathlib import Path

from icft_lite.grading.specifications import load_assignments

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "instructors.md").read_text(encoding="utf-8")
FOLDER = ROOT / "notebooks" / "assignments"
ASSIGNMENTS = load_assignments(FOLDER / "specs")
PARTS = {part.id: part for one in ASSIGNMENTS.values() for part in one.parts}


def table(heading, number=0):
    """Return the rows of a table in a section, as lists of cells: the column titles first."""
    text = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", GUIDE, re.M | re.S)[1]
    block = re.findall(r"(?:^\|.*\n)+", text, re.M)[number].splitlines()
    return [[cell.strip() for cell in line[1:-1].split("|")] for line in block if "|---" not in line]


def parts_in(text):
    """Return the ids of the parts that a text names: A3.1, the range A3.1–A3.5, or A3 for all of its parts."""
    found, ids = [], list(PARTS)
    for first, last in re.findall(r"\b(A\d(?:\.\d+)?)(?:–(A\d\.\d+))?", text):
        if "." in first:
            found += ids[ids.index(first) : ids.index(last or first) + 1]
        else:
            found += [part.id for part in ASSIGNMENTS[first].parts]
    return found


def test_the_table_of_assignments_agrees_with_the_specifications():
    sums, rows = [0] * 4, table("Assignments")[1:]
    for row, (name, one) in zip(rows, sorted(ASSIGNMENTS.items()), strict=False):
        lessons = ", ".join(lesson[:2] for lesson in one.lessons)
        automatic, rubric = (sum(part.points for part in one.parts if part.rubric is by) for by in (False, True))
        numbers = [len(one.parts), automatic, rubric, sum(part.minutes for part in one.parts)]
        assert row == [name, one.title, one.version, lessons, *(f"{number:g}" for number in numbers)]
        sums = [a + b for a, b in zip(sums, numbers)]
    assert rows[-1] == ["total", "", "", "", *(f"{number:g}" for number in sums)] and len(rows) == len(ASSIGNMENTS) + 1


def test_the_constants_that_a_seed_changes_are_listed():
    rows = table("Academic integrity")[1:]
    assert [row[0] for row in rows] == sorted(name for name, one in ASSIGNMENTS.items() if one.constants)
    assert all(part.split(".")[0] == row[0] and part in PARTS for row in rows for part in row[3].split(", "))


def test_the_minutes_of_the_syllabi_are_those_of_their_parts():
    for number in range(3):
        *rows, total = table("Syllabi", number)[1:]
        for row in rows:
            assert int(row[-1]) == sum(PARTS[name].minutes for name in parts_in(row[2])), row
        assert total[0] == "total" and int(total[-1]) == sum(int(row[-1]) for row in rows)


def test_every_part_belongs_to_a_learning_goal():
    assert parts_in(GUIDE)  # raises for an assignment or a part that does not exist
    assert set(parts_in(" ".join(row[2] for row in table("Learning goals")))) == set(PARTS)


def test_the_mutants_exist_and_each_assignment_has_some():
    wrong = {}
    for path in sorted((FOLDER / "mutants").glob("*.py")):
        wrong |= runpy.run_path(str(path))["WRONG"]
    named = [re.findall(r"(\S+) `(.+?)`", row[1]) for row in table("Misconceptions")[1:]]
    assert all(named) and {part[:2] for row in named for part, _ in row} == set(ASSIGNMENTS)
    for part, mutant in (one for row in named for one in row):
        assert mutant in wrong[part], (part, mutant)


def test_the_lessons_exist_and_each_has_a_goal():
    known = {path.name[:2] for path in (ROOT / "notebooks" / "src").glob("[0-9]*.py")}
    goals = {lesson for row in table("Learning goals")[1:] for lesson in row[1].split(", ")}
    syllabi = {lesson for number in range(3) for row in table("Syllabi", number) for lesson in row[1].split(", ")}
    assert goals == known
    assert set(re.findall(r"\d\d", " ".join(syllabi))) <= known
    assert set(re.findall(r"\d\d", " ".join(re.findall(r"[Ll]essons? (?:\d\d|, | and )+", GUIDE)))) <= known


def test_assignments_and_their_lessons_name_each_other():
    sources = {path.stem: path.read_text(encoding="utf-8") for path in (ROOT / "notebooks" / "src").glob("[0-9]*.py")}
    for name, one in ASSIGNMENTS.items():
        (source,) = (FOLDER / "src").glob(f"{name.lower()}_*.py")
        needed = re.search(r"\*\*You need\*\* lessons? (.+?)\.", source.read_text(encoding="utf-8"))[1]
        assert re.findall(r"\d\d", needed) == [lesson[:2] for lesson in one.lessons], name
        link = rf"{name}, {one.title},[^:]* on this lesson: see the \[[^)]*/instructors\.md#assignments\)"
        linked = [lesson for lesson, text in sorted(sources.items()) if re.search(link, text)]
        assert linked == list(one.lessons), name


def test_the_changelog_starts_with_the_versions_of_today():
    newest = {}
    for name, version, *_ in table("Changelog of the assignments")[1:]:
        newest.setdefault(name, version)
    assert newest == {name: one.version for name, one in ASSIGNMENTS.items()}
