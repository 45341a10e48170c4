"""Constants that the text of an assignment states and its specification uses. `make release SEED=…` sets the seed."""

import hashlib
import random
from typing import TypeVar

Value = TypeVar("Value")
SEED = ""
SUFFIX = f"-{hashlib.sha256(SEED.encode()).hexdigest()[:6]}" if SEED else ""
"""Of the version of an assignment with constants: with other constants it is another one."""


def constant(name: str, public: Value, *others: Value) -> Value:
    """Return the public value, or one of the others, chosen by the seed, if there is a seed."""
    return random.Random(f"{SEED} {name}").choice(others) if SEED else public
