"""Labelling functions from a user's Python file."""

import runpy
import traceback
from dataclasses import replace
from pathlib import Path

from icft_lite.errors import ICFTError
from icft_lite.weak.functions import LabelingFunction, check_names

EXAMPLE = '''\
import re

from icft_lite import labeling_function
from icft_lite.weak.lfs.common import base_choice  # one vote: what the model chooses itself, without training


def words(text):
    return set(re.findall(r"[a-z]{4,}", text.lower()))


@labeling_function
def shares_words(example):
    """Vote for the response that has the most words in common with the question."""
    scores = [len(words(example["prompt"]) & words(text)) for text in example["responses"]]
    best = max(scores)
    return scores.index(best) if best > 0 and scores.count(best) == 1 else -1  # -1: no vote
'''
"""A file of labelling functions that works for any questions with options."""


def load_lfs(path: str | Path) -> list[LabelingFunction]:
    """Run a Python file and return its labelling functions: the list LFS if it has one, else those at module level.

    Functions that the file imports count as well. Their order is that of the file. The file must be complete in itself:
    its text identifies them in a run.

    Raises ICFTError if the file cannot be read or run, has no labelling function, or has two of the same name.
    """
    path = Path(path)
    try:
        code = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not a text in UTF-8"
        raise ICFTError(f"{path}: {reason}; give a Python file with labelling functions") from None
    try:
        names = runpy.run_path(str(path))
    except SyntaxError as error:
        raise ICFTError(f"{error.filename}:{error.lineno}: {error.msg}; fix the file") from None
    except (Exception, SystemExit) as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}:{lines[-1]}" if lines else str(path)
        raise ICFTError(f"{where}: {type(error).__name__}: {error}; fix the file") from error
    found = names.get("LFS", [value for value in names.values() if isinstance(value, LabelingFunction)])
    lfs = list({id(lf): lf for lf in found}.values()) if isinstance(found, list | tuple) else [found]
    if others := [lf for lf in lfs if not isinstance(lf, LabelingFunction)]:
        raise ICFTError(f"{path}: LFS contains {others[0]!r}; write @labeling_function above each function")
    if not lfs:
        raise ICFTError(
            f"{path}: no labelling function; write @labeling_function above each function. A file that works:", EXAMPLE
        )
    check_names(lfs, str(path))
    return [replace(lf, code=code) for lf in lfs]
