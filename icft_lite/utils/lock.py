"""One process to a folder: a lock that the operating system holds, and drops whatever kills the process."""

import contextlib
import errno
from pathlib import Path

from icft_lite.errors import ICFTError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

LOCK = ".lock"
HELD = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
"""What a system answers when another holds the lock. Any other answer: this file system has no locks."""


@contextlib.contextmanager
def alone(folder):
    """Run the block as the only process that works in `folder`; makes the folder if needed.

    The file stays when the block fails: removing it could let two in. Raises ICFTError if another process
    is at work there."""
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / LOCK, "a")
    except OSError as error:
        raise ICFTError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None
    with file:
        try:
            if fcntl:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError as error:
            if error.errno in HELD:
                raise ICFTError(
                    f"{folder}: another process is at work on this run; wait until it is done, or choose another --out"
                ) from None
        yield
