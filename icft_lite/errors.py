"""Errors that the user can fix, and what a command prints for any exception."""

import errno
import warnings

NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.ENAMETOOLONG)


class ICFTError(Exception):
    """An error that the user can fix.

    The message is one line: what is wrong, where, how to fix it. An example, such as a file that works, may follow it
    on lines of its own.
    """

    def __init__(self, message: str, example: str = "") -> None:
        super().__init__(message)
        self.example = example

    def __str__(self) -> str:
        return "\n\n".join(filter(None, [super().__str__(), self.example]))


class ICFTWarning(UserWarning):
    """Something that the user should know; the command line prints it as a note."""


def warn(text: str) -> None:
    """Warn with an ICFTWarning."""
    warnings.warn(text, ICFTWarning, stacklevel=3)


def short_reason(error: BaseException) -> str:
    """Return the first line of an exception's message, or its type if it has none."""
    return (getattr(error, "strerror", None) or str(error).strip() or type(error).__name__).splitlines()[0]


def explain_error(error: Exception) -> tuple[str, int]:
    """Return (message on one line, with the example of an ICFTError below it, exit code) for any exception.

    The exit code is 2 for what the user can fix, and 1 for an unexpected exception.
    """
    if isinstance(error, ICFTError):
        line = " ".join(str(error).removesuffix(error.example).split())
        return "\n\n".join(filter(None, [line, error.example])), 2
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error):
        message = "no space left on the disk; free some space, then run the same command again to resume"
        return message, 2
    if isinstance(error, OSError) and error.errno in NO_ACCESS:
        return f"{error.filename}: {short_reason(error)}; choose a file or folder that you can access", 2
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return "out of memory; try --runtime.micro_batches 8 or a smaller --model, or see `icft-lite doctor`", 2
    return f"unexpected {type(error).__name__}: {short_reason(error)}; add --debug to see the traceback", 1
