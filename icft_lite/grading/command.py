"""`icft-lite grade`: notebooks of an assignment, or entries to a capstone."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jsonargparse import Namespace

from icft_lite.errors import ICFTError
from icft_lite.grading.batch import grade_all
from icft_lite.grading.grader import Grader
from icft_lite.grading.results import to_gradescope, to_json, to_lines
from icft_lite.grading.sandbox import Limits
from icft_lite.grading.specifications import find_specs
from icft_lite.grading.submissions import find_submissions
from icft_lite.utils.io import to_plain, write_json


def grade_notebooks(args: Namespace) -> int:
    """Grade submissions of an assignment. Returns the exit code: 3 if one was refused."""
    if args.leaderboard or args.reproduce:
        name = "leaderboard" if args.leaderboard else "reproduce"
        raise ICFTError(f"--{name}: belongs to a capstone; name its kit with --capstone")
    isolation = "unprotected" if args.unsafe else "container" if args.container else "full"
    limits = Limits(args.cell_seconds, total_seconds=args.total_seconds, memory_gib=args.memory_gib)
    specs, csv, feedback = (Path(one) if one else None for one in (args.assignments, args.csv, args.feedback))
    if csv and csv.is_dir():
        raise ICFTError(f"--csv {csv}: is a folder; give a file")
    paths = [Path(one) for one in args.notebooks]
    if args.gradescope and len(paths) > 1:
        raise ICFTError(f"--gradescope: {len(paths)} submissions are given; results.json is for one")
    found = [(paths[0].name, paths[0])] if args.gradescope else find_submissions(paths)
    with cleaned_up(), Grader(find_specs(specs), isolation, limits) as grader:
        if (name := args.assignment) and name not in grader.assignments:
            raise ICFTError(f"--assignment: {name!r} is unknown; choose one of {', '.join(grader.assignments)}")
        results = []
        for result in grade_all(grader, found, args.assignment or "", csv, feedback):
            results.append(result)
            if not args.json:
                print("\n".join(to_lines(result, feedback=not csv)), flush=True)
    if args.json:
        print(json.dumps([to_json(result) for result in results], indent=2))
    if args.gradescope:
        write_json(args.gradescope, to_gradescope(results[0]))
    return 3 if any(result.refused for result in results) else 0


@contextmanager
def cleaned_up() -> Iterator[None]:
    """Leave the block in order on SIGTERM, as a batch system sends it, so that copies of submissions are removed."""
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def grade_capstone(args: Namespace) -> int:
    """Score entries to a capstone on its hidden questions. Returns the exit code: 3 if one could not be scored."""
    if given := [
        name for name in ("assignment", "assignments", "csv", "feedback", "gradescope") if getattr(args, name)
    ]:
        raise ICFTError(f"--{given[0]}: belongs to assignments; leave it out, or leave out --capstone")
    # Here, because grading notebooks needs no model and none of its libraries.
    from icft_lite.grading.capstone import load_kit
    from icft_lite.grading.capstone_grader import entry_json, entry_line, grade_entries
    from icft_lite.grading.leaderboard import write_leaderboard

    kit, results = load_kit(args.capstone), []
    for result in grade_entries(kit, [Path(one) for one in args.notebooks], args.reproduce):
        results.append(result)
        if not args.json:
            print(entry_line(result), flush=True)
    if args.json:
        print(json.dumps(to_plain([entry_json(result) for result in results]), indent=2))
    if args.leaderboard:
        write_leaderboard(args.leaderboard, kit.capstone, results)
    return 0 if all(result.scored for result in results) else 3
