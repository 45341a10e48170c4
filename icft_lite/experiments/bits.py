"""Which questions were answered right, as short text in a JSON record."""

import base64
from collections.abc import Sequence

import numpy as np


def pack_bits(values: Sequence[bool] | np.ndarray) -> str:
    """Return bool [n] as base64 text of n / 6 characters."""
    return base64.b64encode(np.packbits(np.array(values, dtype=bool)).tobytes()).decode()


def unpack_bits(text: str, n: int) -> np.ndarray:
    """Return bool [n] from the text of `pack_bits`. Raises ValueError if the text is not one of n values."""
    values = np.unpackbits(np.frombuffer(base64.b64decode(text), dtype=np.uint8))
    if len(values) != -(-n // 8) * 8:
        raise ValueError(f"unpack_bits: got text of about {len(values)} values for {n}; give the packed number")
    return values[:n].astype(bool)
