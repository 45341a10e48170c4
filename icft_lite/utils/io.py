"""Atomic writing of files: after a full disk or a crash, the old file is unchanged."""

import json
import math
import os
import re
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from icft_lite.errors import ICFTError


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write a file atomically: into a temporary file next to `path`, which is then renamed.

    A reader sees the old file or the new one, never a part of it. Makes the folder if needed. Raises ICFTError if the
    disk is full or the folder is not writable.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ICFTError(f"{path}: cannot be written ({reason}); free some space or choose another folder") from None
    finally:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            pass  # the folder itself is the problem, which has been reported


def write_text(path: Path | str, text: str) -> None:
    """Write a text file atomically, in UTF-8."""
    write_bytes(path, text.encode("utf-8", errors="replace"))


def write_json(path: Path | str, value: Any) -> None:
    """Write standard JSON atomically.

    NumPy values become Python values, NaN and infinity become null. A list of numbers takes one line.
    """
    text = json.dumps(to_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    compact = re.sub(r"\[\n[\d\s.,eE+\-nul]*\]", lambda m: "[" + " ".join(m[0][1:-1].split()) + "]", text)
    write_text(path, compact + "\n")


def to_plain(value: Any) -> Any:
    """Return a copy of `value` that JSON can hold.

    Keys become str, sequences lists, NumPy values Python numbers, paths str; NaN and infinity become None.
    """
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return to_plain(value.tolist())
    if isinstance(value, list | tuple | set):
        return [to_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, PurePath) else value
