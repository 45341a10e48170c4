"""Examples with the same content or nearly the same: duplicates, and what a run has seen of a file."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from icft_lite.data.bundle import DataBundle
from icft_lite.data.groups import content_hashes, question_hashes
from icft_lite.utils.io import write_bytes

SHINGLE_WORDS = 4
"""Near-duplicates are compared by their sets of so many consecutive words."""
NEAR = 0.7
"""Two texts are near-duplicates if the Jaccard similarity of these sets is at least this."""
BANDS, ROWS = 16, 4
"""MinHash with 16 bands of 4 values: it finds a pair of similarity 0.7 with probability 0.99."""
COMPARED = 8
"""Texts of one hash bucket are compared with its first 8, so that time stays linear."""
BATCH = 2000
SEEN_FILE = "seen_prompts.bin"
"""File in a run's folder: the content hashes of its training and validation examples, 8 bytes each, sorted."""


def save_seen(folder: Path, data: DataBundle, base: Path | None = None) -> None:
    """Write which prompts a run trains on or is validated on into its folder, so that they are never its test.

    base: folder of its base. What an exported run has seen counts for runs that start from it.
    """
    roles = ("trusted", "pool", "validation", "general_memory", "general_validation")
    parts = [part for role in roles if (part := getattr(data, role)) is not None]
    # Both, because which system turns are instructions depends on the file: a short one has none.
    hashes = [*map(content_hashes, parts), *question_hashes(*parts)]
    hashes += [content_hashes([item.example for item in data.chat.get(part, ())]) for part in ("memory", "validation")]
    if base and (seen := load_seen(base)) is not None:
        hashes.append(seen)
    write_bytes(folder / SEEN_FILE, np.unique(np.concatenate([*hashes, np.empty(0, "<u8")])).astype("<u8").tobytes())


def load_seen(folder: Path) -> np.ndarray | None:
    """Return what `save_seen` wrote, uint64 [n]; None for a run without it."""
    path = folder / SEEN_FILE
    return np.frombuffer(path.read_bytes(), dtype="<u8") if path.is_file() else None


def near_duplicates(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Return pairs (i, j) of indices, i < j, of different texts that are nearly the same.

    Two texts are near-duplicates if the Jaccard similarity of their sets of 4 consecutive words is at least NEAR.
    MinHash finds the candidates (Broder, 1997), in time that is linear in the number of words; the sets themselves
    decide. Not all pairs among many that agree are returned.
    """
    checked: dict[tuple[int, int], bool] = {}
    for bucket in _buckets(texts):
        for place, j in enumerate(bucket):
            for i in bucket[: min(place, COMPARED)]:
                if (i, j) not in checked:
                    one, other = shingles(texts[i]), shingles(texts[j])
                    checked[i, j] = len(one & other) >= NEAR * len(one | other)
    return sorted(pair for pair, near in checked.items() if near)


def _words(text: str) -> list[str]:
    return re.findall(r"\w+|[-+*/<>=]", text.lower())


def shingles(text: str) -> set[tuple[str, ...]]:
    """Return the set of consecutive words; a text of fewer words is one shingle."""
    words = _words(text)
    return {tuple(words[i : i + SHINGLE_WORDS]) for i in range(max(1, len(words) - SHINGLE_WORDS + 1))}


def _buckets(texts: Sequence[str]) -> Iterator[list[int]]:
    """Yield lists of two or more indices, ascending, of texts that agree in a band of their MinHash."""
    parts = [_signatures(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
    signatures = np.concatenate([*parts, np.empty((0, BANDS), np.uint64)])
    for band in range(BANDS):
        buckets: dict[int, list[int]] = defaultdict(list)
        for i, value in enumerate(signatures[:, band].tolist()):
            buckets[value].append(i)
        yield from (bucket for bucket in buckets.values() if len(bucket) > 1)


def _signatures(texts: Sequence[str]) -> np.ndarray:
    """Return the MinHash of each text, uint64 [texts, BANDS]: the values of a band are mixed into one."""
    factors = np.random.default_rng(0).integers(0, 2**63, (2, BANDS * ROWS), dtype=np.uint64) * np.uint64(
        2
    ) + np.uint64(1)
    ids: dict[str, int] = {}
    rows = [[ids.setdefault(word, _hash(word)) for word in _words(text)] for text in texts]
    rows = [row + [0] * (SHINGLE_WORDS - len(row)) for row in rows]
    flat, ends = np.array([value for row in rows for value in row], np.uint64), np.cumsum(list(map(len, rows)))
    shingles = sum(np.roll(flat, -i) * factors[0, i] for i in range(SHINGLE_WORDS))
    inside = np.ones(len(flat), bool)  # not those that reach into the next text
    for i in range(1, SHINGLE_WORDS):
        inside[ends - i] = False
    shingles, sizes = shingles[inside], np.array([len(row) - SHINGLE_WORDS + 1 for row in rows])
    starts, signatures = np.cumsum(sizes) - sizes, np.zeros((len(texts), BANDS), np.uint64)
    for i in range(BANDS * ROWS):
        least = np.minimum.reduceat((shingles * factors[0, i] + factors[1, i]) >> np.uint64(20), starts)
        signatures[:, i // ROWS] = (signatures[:, i // ROWS] ^ least) * factors[0, 0]
    return signatures


def _hash(word: str) -> int:
    """Return a hash of 8 bytes that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
