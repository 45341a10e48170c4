"""Checks of the form of a lesson that are stricter than those of all lessons, and of its core exercise."""

import re

from test_notebooks import cells, checked, exercises, said, solve


def words(text):
    """Return the number of words of a text cell, without tables, formulas, addresses and folded solutions."""
    text = re.sub(r"<details>.*?</details>|\$\$.*?\$\$|\$.*?\$|\]\(.*?\)", " ", text, flags=re.S)
    lines = [line for line in text.splitlines() if not line.startswith("|")]
    return sum(bool(re.search(r"\w", word)) for word in " ".join(lines).split())


def check_size(book):
    """Check the number and the length of the cells, that half of the code cells are compared, and that none draws."""
    code = sorted(len(cell.source.splitlines()) for cell in cells(book, "code"))
    assert len(book.cells) <= 90
    assert code[len(code) // 2] <= 10 and code[int(0.9 * len(code))] <= 25 and code[-1] <= 40
    long = {cell.source[:60]: words(cell.source) for cell in cells(book, "markdown")}
    assert {text: count for text, count in long.items() if count > 60} == {}
    assert len(checked(book)) >= len(code) / 2
    assert not [cell.source for cell in cells(book, "code") if re.search(r"Figure\(|subplots\(|\baxis\.", cell.source)]


def check_core_exercise(book, namespace, name, numbers, wrong):
    """Check that the lesson goes on with the learner's function if it is right, else with the package's.

    namespace: what the lesson defines before the exercise. numbers: what the cell after the exercise must print.
    wrong: solutions that the check rejects; the lesson prints the same numbers then.
    """
    stub, solution = next(pair for pair in exercises(book) if f"def {name}(" in pair[0])
    at = next(i for i, cell in enumerate(book.cells) if cell.source == stub)
    use = next(cell.source for cell in book.cells[at + 1 :] if cell.cell_type == "code")
    traced = solution.replace("\n", "\n    calls.append(1)\n", 1)  # records that the learner's function ran
    for code, solved in [(stub, False), (solve(stub, traced), True), *((solve(stub, one), False) for one in wrong)]:
        calls = []
        printed = said(f"{code}\ncalls.clear()\n{use}", {**namespace, "calls": calls})
        assert printed.startswith("Right.") == solved and bool(calls) == solved, printed
        for number in numbers:
            assert number in printed, printed
