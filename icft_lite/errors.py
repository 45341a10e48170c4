"""Errors that the user can fix, and what a command says of any exception."""

import errno


class ICFTError(Exception):
    """Something the user can mend. The message is one line: what, where, the mend."""


def short_reason(error):
    return (getattr(error, "strerror", None) or str(error).strip() or type(error).__name__).splitlines()[0]


def explain_error(error):
    """(one line, exit code) for any exception."""
    if isinstance(error, ICFTError):
        return " ".join(str(error).split()), 2
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error):
        return "no space left on the disk; free some, or give another --out. The same line again resumes", 2
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return f"{error.filename}: {short_reason(error)}; give a place you may use", 2
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return "out of memory; try --set micro_batches=8, a smaller --model, or `icft-lite doctor`", 2
    return f"unexpected {type(error).__name__}: {short_reason(error)}. --debug shows where", 1
