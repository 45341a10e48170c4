"""Parts of a report that may fail without costing the run: sample replies, scores of replies, figures."""

import traceback
from collections.abc import Callable
from typing import TypeVar

from icft_lite.errors import short_reason

T = TypeVar("T")


class Problems(list[str]):
    """What failed, one line each. They are printed when they happen, and the report lists them.

    say: prints a line.
    """

    def __init__(self, say: Callable[[str], object] = lambda text: None) -> None:
        super().__init__()
        self.say = say

    def attempt(self, what: str, function: Callable[[], T]) -> T | None:
        """Return the result of `function`; if it raises an exception, note that `what` failed, and return None."""
        try:
            return function()
        except Exception as error:  # whatever it is, the trained adapters and their report matter more
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.append(f"{what}: {short_reason(error)} ({where.name}, line {where.lineno})")
            self.say(f"{self[-1]}; the run goes on without")
            return None
