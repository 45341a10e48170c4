"""Quality of self-generated prompts and replies: loops, language, remains of a template, near-duplicates.

A model that samples prompts without any input also writes loops ("1111"), replies in place of prompts, and paraphrases
of one prompt. In the memory these would be taught as the base's style. All functions are pure.
"""

import re
from collections.abc import Iterable, Iterator, Set

Shingles = Set[tuple[str, ...]]
"""The sets of consecutive words of `icft_lite.data.overlap.shingles`."""

LOOP = re.compile(r"(?<!\w)(.{1,80}?)\1{2,}", re.DOTALL)
"""A unit of at most 80 characters, from the start of a word, that follows itself at least twice."""
MIN_LOOP = 12
"""A repetition of fewer characters is no loop: "1000", "no, no, no"."""
MIN_WORDS = 2
"""A prompt of fewer words asks for nothing: "Hello"."""
MAX_OTHER_LETTERS = 0.1
"""Largest share of letters beyond ASCII. Names and loan words have few of them."""
MAX_SIMILARITY = 0.8
"""Two prompts are near-duplicates if the Jaccard similarity of their sets of 4 consecutive words is at least this. In
short prompts from one template, such as "What is the capital of …?", it is less."""
TEMPLATE = re.compile(r"<\|?/?\w+\|?>|\[/?INST\]|^\W*(?:user|assistant|system|human)\W*$", re.IGNORECASE | re.MULTILINE)
"""Tokens of chat templates as text, and lines that only name a role."""
REPLY = re.compile(
    r"(?:^|\n\n)\W*(?:(?:certainly|absolutely|sure|of course|yes|no problem|great question)\b|"
    r"i(?: am|'m|’m) (?:glad|happy|sorry|here) |i(?: would|'d|’d) be (?:glad|happy) |welcome to |"
    r"(?:what|how) can i (?:do for|help|share|assist))",
    re.IGNORECASE,
)
"""The beginning of a paragraph as replies have it."""


SENTENCE_END = re.compile(r"""(?:(?<!\d)[.!?]["')\]]*(?=\s|$))|\n""")
"""The end of a sentence or of a line. A number with a period begins an item of a list."""


def reject_reason(prompt: str) -> str:
    """Return why a prompt is of no use as a memory example, in one or two words; "" if it is."""
    letters = [char for char in prompt if char.isalpha()]
    if len(prompt.split()) < MIN_WORDS:
        return "too short"
    if sum(not char.isascii() for char in letters) > MAX_OTHER_LETTERS * len(letters):
        return "other script"
    if trim_loop(prompt) != prompt:
        return "loop"
    if TEMPLATE.search(prompt):
        return "template text"
    return "reply" if REPLY.search(prompt) else ""


def trim_loop(text: str) -> str:
    """Return the text up to the end of the first unit that repeats itself; all of it if none does.

    Numbers that count the repetitions are ignored: "1. Rest. 2. Rest. 3. Rest." becomes "1. Rest.". Rules and empty
    cells of tables ("----", "| | |") are no loops.
    """
    ends = [*_loop_ends(text, r"[^\W_]"), *_loop_ends(re.sub(r"\d", "0", text), r"[^\W\d_]")]
    return text[: min(ends)].rstrip() if ends else text


def whole_sentences(text: str) -> str:
    """Return a text that was cut off up to the end of its last whole sentence or line; "" if it has none."""
    ends = [found.end() for found in SENTENCE_END.finditer(text)]
    return text[: ends[-1]].rstrip() if ends else ""


def finish_reply(reply: str, num_tokens: int, limit: int) -> str:
    """Return a generated reply without loops and, if it ended at the limit of `limit` tokens, without a cut sentence.

    A stored reply is followed by the end of turn, so it must not end in the middle of a sentence.
    """
    return trim_loop(reply if num_tokens < limit - 1 else whole_sentences(reply))


def _loop_ends(text: str, required: str) -> Iterator[int]:
    """Yield the end of the first unit of each loop whose unit contains `required`."""
    for found in LOOP.finditer(text):
        if len(found[0]) >= MIN_LOOP and re.search(required, found[1]):
            yield found.end(1)


def is_near_duplicate(own: Shingles, others: Iterable[Shingles]) -> bool:
    """Return whether the `shingles` of a prompt are those of another one, or nearly (MAX_SIMILARITY)."""
    return any(len(own & other) >= MAX_SIMILARITY * len(own | other) for other in others)
