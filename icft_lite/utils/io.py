"""Files written whole or not at all: after a full disk or a crash the old one is as it was."""

import json
import math
import os
import re
from pathlib import Path, PurePath

import numpy as np

from icft_lite.errors import ICFTError


def write_bytes(path, data):
    """Write beside `path`, then rename: a reader or a crash sees the old file or the new, never half.

    Makes the folder if needed. Raises ICFTError, one line, if the disk is full or the folder not writable.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        why = error.strerror or type(error).__name__
        mend = "free some space or choose another folder"
        raise ICFTError(f"{path}: cannot be written ({why}); {mend}") from None
    finally:
        try:
            beside.unlink(missing_ok=True)
        except OSError:
            pass  # the folder itself is the trouble, and that has been said


def write_text(path, text):
    """`write_bytes` of UTF-8."""
    write_bytes(path, text.encode("utf-8", errors="replace"))


def write_json(path, obj):
    """Standard JSON: NumPy values as plain ones, NaN and infinity as null, a list of numbers on one line."""
    text = json.dumps(to_plain(obj), indent=2, ensure_ascii=False, allow_nan=False)
    one_line = re.sub(r"\[\n[\d\s.,eE+\-nul]*\]", lambda m: "[" + " ".join(m[0][1:-1].split()) + "]", text)
    write_text(path, one_line + "\n")


def to_plain(obj):
    """`obj` as JSON has it: str keys, lists, Python numbers, None for NaN and infinity, paths as text."""
    if isinstance(obj, dict):
        return {str(key): to_plain(value) for key, value in obj.items()}
    if isinstance(obj, np.ndarray | np.generic):
        return to_plain(obj.tolist())
    if isinstance(obj, list | tuple | set):
        return [to_plain(value) for value in obj]
    if isinstance(obj, float) and not math.isfinite(obj):
        return None
    return str(obj) if isinstance(obj, PurePath) else obj
