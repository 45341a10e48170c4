"""A lock that lets one process work in a folder. The operating system releases it, however the process ends."""

import contextlib
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import filelock

from icft_lite.errors import ICFTError

LOCK = ".lock"
"""Name of the lock file inside the folder."""


@contextlib.contextmanager
def exclusive_lock(
    folder: Path | str, fix: str = "choose another --out", waiting: str = "", name: str = LOCK
) -> Iterator[None]:
    """Run the block as the only process that works in `folder`, which is made if needed.

    fix: what to do if the folder cannot be used, for messages. waiting: if it is given, wait for another process that
    holds the lock, and print this text meanwhile. name: of the lock file, where several locks belong to one folder.

    The lock file stays, also when the block fails: if it were removed, two processes could hold locks on two files of
    this name. A file system without locks gives a warning, and the block runs without a lock. Raises ICFTError if
    another process holds the lock, or if the folder is not writable.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / name).open("a")
    except OSError as error:
        raise ICFTError(f"{folder}: cannot be written ({error.strerror}); {fix}") from None
    with file:  # closing the file releases the lock
        try:
            # Not filelock.FileLock: without locks in the file system it falls back to a marker file, which survives a
            # killed process, and on Windows it removes the lock file.
            locked = filelock.lock_descriptor(file.fileno(), blocking=False)
            if waiting and not locked:
                print(waiting, file=sys.stderr, flush=True)
                locked = filelock.lock_descriptor(file.fileno())
        except OSError as error:
            locked = True
            warnings.warn(
                f"{folder}: this file system has no file locks ({error.strerror}); "
                f"make sure that only one process uses this folder",
                stacklevel=3,
            )
        if not locked:
            raise ICFTError(f"{folder}: another process is at work on this run; wait until it is done, or {fix}")
        yield
