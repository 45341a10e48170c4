"""Grade submissions: execute the notebook in the sandbox, draw inputs, call, compare, mark.

The sandbox gets the student's cells and inputs. Specifications, expected values, seeds and marks never leave this
process, and nothing that the sandbox says is believed: points are given for values that are equal to the expected ones.
"""

import hashlib
import json
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from icft_lite.errors import ICFTError
from icft_lite.grading.cells import first_line, names_used, wrong_calls
from icft_lite.grading.package_copy import (
    COPIED,
    UNAVAILABLE,
    copied_parts,
    copy_package,
    make_readable,
    overlap,
)
from icft_lite.grading.parts import Assignment, Part
from icft_lite.grading.results import PartResult, Result, clean
from icft_lite.grading.sandbox import Limits, Sandbox, SandboxEnded
from icft_lite.grading.shim import described, pack, perform, unpack
from icft_lite.grading.specifications import PUBLISHED, load_assignments
from icft_lite.grading.submissions import Submission

MAX_NOTES = 20


def check_part(part: Part, answer: Callable[[dict[str, Any]], Mapping[str, Any]]) -> str:
    """Test one part on new random inputs. Returns "" if every call is right, else feedback.

    answer: makes one call (the fields of Call) and returns {"value": result} or {"error": text}.
    Raises ICFTError if the specification itself fails.
    """
    rng = np.random.default_rng(secrets.randbits(128))
    try:
        calls = part.draw(rng)
        tests = [(call, unpack(pack(asdict(call)))) for call in calls]
        tests = [tests[i] for i in rng.permutation(len(tests))]
        expected = [perform(part.reference, fields) for _, fields in tests]
    except Exception as error:
        raise ICFTError(
            f"part {part.id}: its specification fails: {described(error)}; fix `draw` or `reference`"
        ) from error
    if not tests:
        raise ICFTError(f"part {part.id}: `draw` returns no call; return at least one")
    answers: list[Any] = []
    for (call, fields), wanted in zip(tests, expected):
        reply = answer(fields)
        if "value" not in reply:
            return explained(str(reply.get("error")))
        answers.append(reply["value"])
        if feedback := compared(reply["value"], part.compare, reply["value"], wanted, call):
            return feedback
    return compared(answers[-1], part.compare_all, answers, [call for call, _ in tests])


def compared(value: Any, compare: Callable[..., str], *arguments: Any) -> str:
    """Return the feedback of a specification's comparison on one line; "" if it has none."""
    try:
        feedback = compare(*arguments)
    except Exception:  # of a value that `compare` did not foresee
        feedback = f"the result, {type(value).__name__}, cannot be compared with the expected one"
    return "" if feedback == "" else clean(str(feedback)) or "wrong"


def check_function(part: Part, function: Any) -> str:
    """Test a function, or a class, as `check_part` does, in this process. For work that is trusted, and for tests."""

    def answer(fields: dict[str, Any]) -> dict[str, Any]:
        try:
            return {"value": unpack(pack(perform(function, fields)))}
        except Exception as error:
            return {"error": described(error)}

    return check_part(part, answer)


def explained(error: str) -> str:
    """Return feedback for an error that was raised in a call."""
    if error.startswith("NotImplementedError") and UNAVAILABLE not in error:
        return "not implemented yet"
    kind, _, text = error.partition(": ")
    if kind == "NameError" and text.startswith("the notebook defines no"):
        return clean(text)
    return clean(f"raised {error}" if kind.isidentifier() else error) or "failed"


class Grader:
    """Grades submissions one after another. Use as a context manager: it has a folder with copies of the package.

    specs: the folder with the specifications; isolation: a key of `icft_lite.grading.sandbox.ISOLATIONS`.
    """

    def __init__(self, specs: Path, isolation: str, limits: Limits) -> None:
        self.specs, self.isolation, self.limits = specs, isolation, limits
        self.assignments = load_assignments(specs)
        published = specs / PUBLISHED
        self.published = json.loads(published.read_text(encoding="utf-8")) if published.is_file() else {}
        self.folder = Path(tempfile.mkdtemp(prefix="icft-grade-"))
        self.folder.chmod(0o711)
        self.packages: dict[tuple[str, ...], tuple[Path, dict[str, list[str]]]] = {}

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def package(self, blocked: tuple[str, ...]) -> tuple[Path, dict[str, list[str]]]:
        """Return the copy of the package without the blocked code, and what was removed."""
        if blocked not in self.packages:
            folder = self.folder / f"package{len(self.packages)}"
            self.packages[blocked] = folder, copy_package(folder, blocked)
        return self.packages[blocked]

    def check_isolation(self) -> None:
        """Raise ICFTError if student code cannot be isolated on this machine."""
        with staged(self.folder, {}) as files, self.sandbox((), files, time.monotonic() + 60):
            pass

    def sandbox(self, blocked: tuple[str, ...], files: Path, deadline: float) -> Sandbox:
        """Start a sandbox."""
        return Sandbox(self.isolation, self.package(blocked)[0], files, self.limits, deadline)

    def choose(self, submission: Submission, wanted: str = "") -> Assignment:
        """Return the assignment `wanted`, or the one that the notebook names. Raises ICFTError if there is none."""
        name = wanted or submission.assignment
        if name not in self.assignments:
            known = ", ".join(self.assignments)
            raise ICFTError(f"the notebook names no assignment; give --assignment, one of {known}" if not name else
                            f"assignment {clean(name, 40)!r} is unknown; choose one of {known}")  # fmt: skip
        return self.assignments[name]

    def grade(self, submission: Submission, assignment: Assignment) -> Result:
        """Grade one submission.

        When a cell or a call ends the sandbox, it is started again without that cell, or for the parts that are left.
        """
        work = Work(self, submission, time.monotonic() + self.limits.total_seconds)
        groups: dict[tuple[str, ...], list[Part]] = {}
        for part in assignment.parts:
            groups.setdefault(tuple(sorted(part.blocked)), []).append(part)
        with staged(self.folder, submission.files) as files:
            for blocked, parts in groups.items():
                while parts:
                    work.attempt(blocked, parts, files)
        removed = {name: sources for blocked in groups for name, sources in self.package(blocked)[1].items()}
        return Result(
            submission.name,
            submission.digest,
            assignment.id,
            assignment.version,
            self.isolation,
            tuple(work.results(assignment)),
            tuple(work.relevant_notes())[:MAX_NOTES],
            tuple(self.flags("\n".join(submission.cells), assignment, removed)),
        )

    def flags(self, text: str, assignment: Assignment, removed: Mapping[str, list[str]]) -> Iterator[str]:
        """Yield what the instructor should look at: copies of the package's code and of the public solutions."""
        for name, sources in removed.items():
            if (share := overlap(text, sources)) >= COPIED:
                yield f"{share:.0%} of the code of {name} is in the notebook"
        if parts := copied_parts(text, self.published.get(assignment.id, {})):
            yield f"the public solutions of {', '.join(parts)} are in the notebook"


class Work:
    """The grading of one submission: marks so far, and the cells that are skipped because they end the sandbox."""

    def __init__(self, grader: Grader, submission: Submission, deadline: float) -> None:
        self.grader, self.submission, self.deadline = grader, submission, deadline
        self.marks: dict[str, PartResult] = {}
        self.notes: dict[str, bool] = {}
        """Note → whether a cell before it needed removed code. The cells may be executed several times."""
        self.skipped: set[int] = set()

    def attempt(self, blocked: tuple[str, ...], parts: list[Part], files: Path) -> None:
        """Execute the cells and mark `parts`, which become fewer, until the sandbox ends."""
        if time.monotonic() > self.deadline:
            while parts:
                self.fail(parts.pop(0), "not graded: the time for the whole submission is used up")
            return
        cell: int | None = None
        needs_removed = False
        try:
            with self.grader.sandbox(blocked, files, self.deadline) as box:
                for cell, source in enumerate(self.submission.cells):
                    if cell not in self.skipped:
                        answer = box.ask({"cell": source, "seconds": self.grader.limits.cell_seconds})
                        error = str(answer.get("error") or "")
                        if UNAVAILABLE in error:
                            needs_removed = True
                        elif error:
                            self.note(cell, error, needs_removed)
                cell = None
                while parts:
                    self.mark(box, parts[0])
                    parts.pop(0)
        except SandboxEnded as end:
            if cell is not None:
                self.skipped.add(cell)
                self.note(cell, f"{end}; it was skipped")
            else:
                part = parts.pop(0)
                self.fail(part, f"{part.function} did not return: {end}")

    def note(self, cell: int, text: str, needs_removed: bool = False) -> None:
        """Note what happened in a code cell. needs_removed: a cell before it needed removed code."""
        name = f"code cell {cell + 1}, {first_line(self.submission.cells[cell])}"
        self.notes.setdefault(f"{clean(name)}: {clean(text)}", needs_removed)

    def relevant_notes(self) -> list[str]:
        """Return the notes; if all parts are right, without what may follow from code that the package lacks."""
        right = all(mark.rubric or mark.earned == mark.points for mark in self.marks.values())
        return [text for text, needs_removed in self.notes.items() if not (right and needs_removed)]

    def results(self, assignment: Assignment) -> Iterator[PartResult]:
        """Yield the marks in order. Feedback names other wrong functions that the function of a part calls."""
        functions = {part.id: part.function for part in assignment.parts if not part.rubric}
        wrong = {functions[name]: name for name, mark in self.marks.items() if name in functions and not mark.earned}
        used = names_used(self.submission.cells)
        for part in assignment.parts:
            mark = self.marks[part.id]
            calls = wrong_calls(part.function, used, wrong) if part.function in wrong else []
            yield replace(mark, feedback=f"{mark.feedback}; it uses {', '.join(calls)}, wrong too") if calls else mark

    def mark(self, box: Sandbox, part: Part) -> None:
        """Test a part and write its mark."""
        seconds = self.grader.limits.cell_seconds
        if part.rubric:
            text = box.ask({"name": part.function, "call": {}, "seconds": seconds}).get("value")
            if not (isinstance(text, str) and text.strip()):
                return self.fail(part, f"no answer: {part.function} is {'empty' if text == '' else 'not a text'}")
            earned, feedback, text = None, f"to be marked; fingerprint {fingerprint(text)}", text[:20000]
        else:
            feedback = check_part(part, lambda call: box.ask({"name": part.function, "call": call, "seconds": seconds}))
            earned, text = 0.0 if feedback else part.points, ""
        self.marks[part.id] = PartResult(part.id, part.title, part.points, earned, feedback, text, part.rubric)

    def fail(self, part: Part, feedback: str) -> None:
        """Give no points for a part."""
        self.marks[part.id] = PartResult(part.id, part.title, part.points, 0.0, feedback, rubric=part.rubric)


def fingerprint(text: str) -> str:
    """Return the beginning of the SHA-256 of a written answer, as the notebook of A6 prints it."""
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:16]


@contextmanager
def staged(folder: Path, files: Mapping[str, bytes]) -> Iterator[Path]:
    """Give a folder in `folder` with the files of one submission, for as long as it is graded."""
    place = Path(tempfile.mkdtemp(dir=folder))
    try:
        for name, content in files.items():
            write(place / name, content)
        make_readable(place)
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def write(path: Path, content: bytes) -> None:
    """Write a file of a submission. Raises ICFTError if its name is not possible here."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except (OSError, ValueError) as error:
        raise ICFTError(f"the file {clean(path.name, 80)!r} cannot be copied ({error}); rename it") from None
