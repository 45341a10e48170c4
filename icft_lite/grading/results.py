"""Results of grading, and the files they are written to: JSON, a CSV of a class, Gradescope's results.json."""

import csv
import html
import io
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from icft_lite.errors import ICFTError
from icft_lite.utils.io import write_text

COLUMNS = ("submission", "sha256", "assignment", "version", "isolation",  # these identify a grading
           "score", "max_score", "to_be_marked", "refused", "flags", "notes")  # fmt: skip
"""Columns of the CSV; one with the points of each part follows. `to_be_marked`: points that a person gives."""


@dataclass(frozen=True)
class PartResult:
    """The mark of one part."""

    id: str
    title: str
    points: float
    earned: float | None
    """None: to be marked by a person."""
    feedback: str
    answer: str = ""
    """The written answer, for a part marked by a rubric."""
    rubric: bool = False
    """Whether a person marks it."""


@dataclass(frozen=True)
class Result:
    """What is known of one submission."""

    submission: str
    digest: str = ""
    assignment: str = ""
    version: str = ""
    isolation: str = ""
    """full, container or unprotected: see `icft_lite.grading.sandbox.ISOLATIONS`."""
    parts: tuple[PartResult, ...] = ()
    notes: tuple[str, ...] = ()
    """What happened in cells, for student and instructor."""
    flags: tuple[str, ...] = ()
    """For the instructor only."""
    refused: str = ""
    """Why it was not graded; "" if it was."""

    @property
    def score(self) -> float:
        """Points earned in the parts that are marked automatically."""
        return sum(part.earned or 0.0 for part in self.parts)

    @property
    def max_score(self) -> float:
        """Points of the parts that are marked automatically."""
        return sum(part.points for part in self.parts if not part.rubric)

    @property
    def to_be_marked(self) -> float:
        """Points of the parts that a person marks."""
        return sum(part.points for part in self.parts if part.earned is None)


def clean(text: str, limit: int = 500) -> str:
    """Return text of a student on one line, at most `limit` long, without control characters and surrogates."""
    text = "".join(char if char.isprintable() else " " for char in text[:limit])
    return text.encode(errors="replace").decode()


def to_json(result: Result) -> dict[str, Any]:
    """Return a result as plain data."""
    return {**asdict(result), "score": result.score, "max_score": result.max_score, "to_be_marked": result.to_be_marked}


def to_lines(result: Result, feedback: bool) -> list[str]:
    """Return a result as lines of text; with the feedback of each part, or only in short."""
    marked = f", {result.to_be_marked:g} to be marked" if result.to_be_marked else ""
    isolation = ", unprotected" if result.isolation == "unprotected" else ""
    head = (
        f"{result.submission}: {result.assignment} {result.score:g} of {result.max_score:g} points{marked}{isolation}"
    )
    if result.refused:
        return [f"{result.submission}: not graded: {result.refused}"]
    flags = [f"  flag: {flag}" for flag in result.flags]
    if not feedback:
        return [head, *flags]
    parts = [f"  {part.id} {part.title}: {points(part)}: {part.feedback or 'right'}" for part in result.parts]
    return [head, *parts, *(f"  note: {note}" for note in result.notes), *flags]


def write_feedback(folder: Path, result: Result) -> None:
    """Write what a student may read of a result: points, feedback, notes and the own written answers. No flags."""
    lines = to_lines(replace(result, flags=()), feedback=True)
    answers = [f"\n{part.id} {part.title}\n\n{part.answer}" for part in result.parts if part.answer]
    write_text(feedback_path(folder, result.submission), "\n".join([*lines, *answers, ""]))


def feedback_path(folder: Path, submission: str) -> Path:
    """Return the file for the feedback on a submission: its path below `folder`, with ".txt"."""
    path = PurePosixPath(submission)
    parts = [one for one in path.parts if one not in (path.anchor, "..")]
    return folder.joinpath(*parts[:-1], f"{parts[-1]}.txt")


def points(part: PartResult) -> str:
    """Return "2 of 3", or "? of 3" for a part that a person marks."""
    return f"{'?' if part.earned is None else f'{part.earned:g}'} of {part.points:g}"


# --- a class: CSV


def to_row(result: Result) -> dict[str, str]:
    """Return a result as a row of the CSV. Spreadsheets must not take any cell as a formula."""
    values = [result.submission, result.digest, result.assignment, result.version, result.isolation, result.score,
              result.max_score, result.to_be_marked, result.refused, "; ".join(result.flags),
              "; ".join(result.notes)]  # fmt: skip
    row: dict[str, Any] = dict(zip(COLUMNS, values))
    row |= {part.id: "to be marked" if part.earned is None else part.earned for part in result.parts}
    return {name: quoted(f"{value:g}" if isinstance(value, float) else str(value)) for name, value in row.items()}


def quoted(cell: str) -> str:
    """Return a cell of a CSV file that no spreadsheet executes: one that starts like a formula gets an apostrophe."""
    return f"'{cell}" if cell.lstrip()[:1] in ("=", "+", "-", "@") or cell[:1] in ("\t", "\r") else cell


def read_csv(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV that `write_csv` wrote; none if there is no such file. Raises ICFTError for another."""
    if not path.exists():
        return []
    try:
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig")))
        rows = list(reader)
    except (csv.Error, UnicodeDecodeError):
        rows, reader = [], csv.DictReader(io.StringIO(""))
    if tuple(reader.fieldnames or ())[: len(COLUMNS)] != COLUMNS:
        raise ICFTError(f"--csv {path}: it was not written by this command; name a new file")
    return rows


def write_csv(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Write rows atomically, with the points of all parts after COLUMNS."""
    text = io.StringIO()
    names = dict.fromkeys([*COLUMNS, *(name for row in rows for name in row)])
    writer = csv.DictWriter(text, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def graded_before(rows: Iterable[dict[str, str]], like: Result) -> bool:
    """Return True if a row has the same files, assignment, version and isolation as `like`."""
    wanted = to_row(like)
    return any(all(row[name] == wanted[name] for name in COLUMNS[:5]) for row in rows)


# --- Gradescope


def to_gradescope(result: Result) -> dict[str, Any]:
    """Return Gradescope's results.json. Text of students is HTML-escaped; flags are in `extra_data`, not shown to them.

    Source: https://gradescope-autograders.readthedocs.io/en/latest/specs/
    """
    tests = [
        {
            "number": part.id,
            "name": html.escape(f"{part.id} {part.title}"),
            "score": part.earned or 0.0,
            "max_score": part.points,
            "output_format": "html",
            "output": f"<pre>{html.escape(part.answer or part.feedback or 'right')}</pre>",
            "visibility": "visible",
        }
        for part in result.parts
    ]
    lines = [f"Not graded: {result.refused}"] if result.refused else list(result.notes)
    output = "<br>".join(map(html.escape, lines))
    extra = {"flags": list(result.flags), "isolation": result.isolation, "version": result.version}
    return {"score": result.score, "output": output, "output_format": "html", "tests": tests, "extra_data": extra}
