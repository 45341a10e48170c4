"""Grade many submissions: no submission stops the others, and what is in the CSV is not graded again."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from icft_lite.errors import ICFTError
from icft_lite.grading.grader import Grader
from icft_lite.grading.results import (
    Result,
    clean,
    feedback_path,
    graded_before,
    read_csv,
    to_row,
    write_csv,
    write_feedback,
)
from icft_lite.grading.sandbox import check_unexposed
from icft_lite.grading.submissions import read_submission


def grade_all(
    grader: Grader,
    found: Sequence[tuple[str, Path]],
    wanted: str = "",
    csv: Path | None = None,
    feedback: Path | None = None,
) -> Iterator[Result]:
    """Yield the result of each submission, and write it to the CSV and its feedback to a file, if wanted.

    found: (name, path) of the submissions, as `find_submissions` gives them.
    wanted: id of the assignment, or "" for the one that each notebook names. feedback: the folder for feedback files.
    The CSV is written after each submission. Its row of a submission is replaced when the files, the version of the
    assignment or the isolation are new; otherwise the submission is not graded again, unless its feedback is missing.
    Raises ICFTError if student code cannot be isolated, or if a specification fails.
    """
    if twice := [name for name, n in Counter(name for name, _ in found).items() if n > 1]:
        raise ICFTError(f"{clean(twice[0])!r} is given twice; remove one")
    rows = read_csv(csv) if csv else []
    grader.check_isolation()
    outputs = [one for one in (csv, feedback) if one]
    check_unexposed(grader.isolation, [grader.specs, *(path for _, path in found), *outputs])
    for name, path in found:
        has_feedback = feedback is None or feedback_path(feedback, clean(name)).is_file()
        result = grade_one(grader, name, path, wanted, rows if has_feedback else [])
        if result is None:
            continue
        if csv:
            row = to_row(result)
            same = [i for i, one in enumerate(rows) if one["submission"] == row["submission"]]
            rows = [one for i, one in enumerate(rows) if i not in same] + [row]
            write_csv(csv, rows)
        if feedback:
            write_feedback(feedback, result)
        yield result


def grade_one(grader: Grader, name: str, path: Path, wanted: str, rows: list[dict[str, str]]) -> Result | None:
    """Return the result of one submission; None if a row of the CSV has it already."""
    try:
        submission = read_submission(name, path)
        assignment = grader.choose(submission, wanted)
    except (ICFTError, OSError) as error:
        return Result(clean(name), refused=clean(str(error)), isolation=grader.isolation)
    like = Result(name, submission.digest, assignment.id, assignment.version, grader.isolation)
    return None if graded_before(rows, like) else grader.grade(submission, assignment)
