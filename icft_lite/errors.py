"""Errors that the user can fix, and what a command prints for any exception."""

import errno

NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


class ICFTError(Exception):
    """An error that the user can fix.

    The message is one line: what is wrong, where, how to fix it.
    """


def short_reason(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type if it has none."""
    return (getattr(error, "strerror", None) or str(error).strip() or type(error).__name__).splitlines()[0]


def explain_error(error: Exception) -> tuple[str, int]:
    """Return (message on one line, exit code) for any exception.

    The exit code is 2 for what the user can fix, and 1 for an unexpected exception.
    """
    if isinstance(error, ICFTError):
        return " ".join(str(error).split()), 2
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error):
        message = "no space left on the disk; free some space, then run the same command again to resume"
        return message, 2
    if isinstance(error, OSError) and error.errno in NO_ACCESS:
        return f"{error.filename}: {short_reason(error)}; choose a file or folder that you can access", 2
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return "out of memory; try --runtime.micro_batches 8 or a smaller --model, or see `icft-lite doctor`", 2
    return f"unexpected {type(error).__name__}: {short_reason(error)}; add --debug to see the traceback", 1
