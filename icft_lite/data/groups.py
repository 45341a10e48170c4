"""What examples are about: those with the same content are copies, and those of one group are never split apart."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from unicodedata import normalize

import numpy as np

from icft_lite.data.schema import Examples
from icft_lite.data.tables import iter_columns

COMMON_SHARE = 0.5
"""A context or first turn that at least this share of a source's examples have is an instruction: it identifies no
group."""
SYSTEM_SHARE = 0.1
"""A system turn that at least this share of a source's examples begin with is an instruction."""

Turns = Sequence[dict[str, str]]


def plain_text(text: str) -> str:
    """Return a text by which copies are recognized: in lower case, with single spaces and composed characters."""
    return " ".join((text if text.isascii() else normalize("NFC", text)).lower().split())


def system_instructions(examples: Examples, of_all: bool = False) -> frozenset[str]:
    """Return the texts of system turns that say how to reply, not what about, as `plain_text`.

    These are the ones that at least SYSTEM_SHARE of the examples begin with. Others may be passages to reply about.
    of_all: also one that all examples begin with. It makes no difference within a source, but another source may ask
    the same without it.
    """
    counts = Counter(
        plain_text(turn["content"])
        for (history,) in iter_columns(examples, "history")
        for turn in history[:1]
        if turn["role"] == "system"
    )
    least, most = max(2, SYSTEM_SHARE * len(examples)), len(examples) - (not of_all)
    return frozenset(text for text, count in counts.items() if least <= count <= most)


def content_texts(examples: Examples, instructions: Collection[str] = ()) -> Iterator[str]:
    """Yield the content of each example: earlier turns, context and prompt, as `plain_text`.

    Case, white space and the way in which a file stores them do not count, so a file that was saved in another format
    has the same content. instructions: texts of system turns that do not count (`system_instructions`).
    """
    for history, context, prompt in iter_columns(examples, "history", "context", "prompt"):
        turns = [turn["content"] for turn in _without_instruction(history, instructions)]
        yield plain_text(" ".join([*turns, context, prompt]))


def content_hashes(examples: Examples, instructions: Collection[str] = ()) -> np.ndarray:
    """Return a hash of each example's content (`content_texts`), uint64 [examples]."""
    texts = content_texts(examples, instructions)
    digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(digests), dtype="<u8")


def question_hashes(*sources: Examples) -> list[np.ndarray]:
    """Return the `content_hashes` of each source, without system turns that are instructions in any of them.

    They identify what is asked, whatever a file writes before it.
    """
    instructions = frozenset[str]().union(*(system_instructions(one, of_all=True) for one in sources))
    return [content_hashes(one, instructions) for one in sources]


def group_hashes(examples: Examples, seed: int = 0) -> list[bytes]:
    """Return the group of each example of one source as a hash of 32 bytes.

    Examples of one group must not be in two parts of a split: those with the same entity, else with the same context,
    else those of one conversation (the turns of one begin with the turns of the other), else with the same turns. A
    context or a first turn that at least COMMON_SHARE of the examples have is an instruction, and is not counted;
    neither is a system turn of many examples (`system_instructions`). Case and white space are ignored. Sorted,
    the hashes are a random order that `seed` sets.
    """

    def digest(key: str) -> bytes:
        # The text that is hashed decides every split: changing it changes what is held out.
        return hashlib.sha256(f"{seed}:{plain_text(key)}".encode()).digest()

    instructions = system_instructions(examples)

    keys: list[list[bytes]] = []  # of each example, from the widest group to the narrowest
    known: set[bytes] = set()
    for entity, context, prompt, history in iter_columns(examples, "entity", "context", "prompt", "history"):
        if entity:
            keys.append([digest(entity)])
            continue
        turns = _user_turns(_without_instruction(history, instructions), prompt)
        chain = [digest(text) for text in turns]
        known.add(chain[-1])
        if context:
            chain.insert(0, digest(context))
            known.add(chain[0])
        keys.append(chain)
    counts = Counter(key for chain in keys if len(chain) > 1 for key in set(chain) & known)
    common = {key for key, count in counts.items() if count > 1 and count >= COMMON_SHARE * len(keys)}
    return [next((key for key in chain if key in known and key not in common), chain[-1]) for chain in keys]


def _user_turns(history: Turns, prompt: str) -> Iterator[str]:
    """Yield the conversation up to each user turn; the last one is the whole."""
    texts: list[str] = []
    for turn in history:
        texts.append(turn["content"])
        if turn["role"] == "user":
            yield " ".join(texts)
    yield " ".join([*texts, prompt])


def _without_instruction(history: Turns, instructions: Collection[str]) -> Turns:
    """Return the turns without a first one that is a system turn among `instructions`."""
    has_system = bool(instructions and history) and history[0]["role"] == "system"
    return history[1:] if has_system and plain_text(history[0]["content"]) in instructions else history
