"""Progress bars with the remaining time, for loops deep inside a run that take more than a few seconds."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from tqdm.auto import tqdm

_SHOWN: ContextVar[bool] = ContextVar("shown", default=False)
DELAY = 2
"""Seconds after which a bar appears."""


@contextmanager
def progress_shown(shown: bool = True) -> Iterator[None]:
    """Show the bars of `progress_bar` in the block, or hide them."""
    token = _SHOWN.set(shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def progress_bar(total: int, what: str, unit: str = "example", shown: bool | None = None) -> tqdm:
    """Return a bar of `total` units that appears after DELAY seconds and disappears at the end.

    what: its description. shown: None shows it inside a block of `progress_shown`.
    """
    disable = not (_SHOWN.get() if shown is None else shown)
    return tqdm(total=total, desc=what, unit=unit, disable=disable, delay=DELAY, leave=False)
