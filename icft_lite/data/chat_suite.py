"""The general suite for chat models: questions answered freely, instructions with constraints, and memory prompts.

Free-answer questions are about the facts of the general samples and of `chat_questions`, without their options.
Instructions are written from the templates and subjects of `chat_instructions`. Ten kinds of instructions are *seen*:
they also supply memory prompts, with other subjects and templates. The other five kinds are *unseen*. Everything is a
function of the tables and of SEED.
"""

import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, islice, product, zip_longest

from icft_lite.chat_checks import FUNCTION_WORDS, INTRODUCTIONS, answer_forms, medical_terms, mentions, reply_words
from icft_lite.data.chat_instructions import DISPLAY, KINDS, Kind
from icft_lite.data.chat_questions import TOPICS
from icft_lite.data.overlap import shingles
from icft_lite.data.samples import load_samples
from icft_lite.data.schema import Example

SEED = "chat-1"  # data: seeds the choice of subjects
SEEN_KINDS = tuple(name for name, kind in KINDS.items() if kind.memory)
"""Kinds that supply memory prompts."""
TABLE_SHARES = {"test": (0, 0.5), "validation": (0.5, 0.65), "memory": (0.65, 1)}
"""Where the facts of a part start and end in a shuffled table of `chat_questions`."""
HELD_OUT = ("validation", "test", "display")
"""Parts that measure, and supply nothing to the memory."""
NUM_FREE = {"test": 400, "validation": 100, "memory": 240}
SUBJECTS = {"validation": 2, "test": 7}
"""Subjects of each kind in a part, each with both templates. The other subjects supply memory prompts."""
NUM_MEMORY = 40
"""Memory prompts of each seen kind."""
MAX_SHARED = 0.6
"""A memory prompt shares less than this part of its 4-grams with any held-out prompt."""
BODY = frozenset(
    "throat heart blood body bone ear spine neck skull organ cavity vessel cell virus germ allergy rash ache bruise "
    "swell wound pain suffer injure hurt cure heal healthy ill patient remedy bandage mask infuse exhale cough".split()
)
"""Words that the list of medical terms lacks because of their general meanings. Questions about them are left out."""

IsBlocked = Callable[[str], bool]


@dataclass(frozen=True)
class ChatItem:
    """One prompt of the suite."""

    id: str
    topic: str
    """Topic of a free-answer question, or kind of an instruction."""
    entity: str
    """What it is about: a country, a sum, the subject of an instruction."""
    prompt: str
    accepted: tuple[str, ...] = ()
    """Free-answer questions: what counts as a right answer."""
    others: tuple[str, ...] = ()
    """Free-answer questions: the other options."""
    checks: tuple[str, ...] = ()
    """Instructions of validation and test: their constraints, see `icft_lite.chat_checks.CHECKS`."""

    @property
    def example(self) -> Example:
        """The canonical example, without a response and with an unknown label: the base answers it for the memory."""
        texts = dict(
            id=self.id, topic=self.topic, prompt=self.prompt, entity=self.entity, level="", context="", kind=""
        )
        return dict(
            texts, task="response", domain="general", history=[], responses=[""], label=-1, posterior=[], facts=[]
        )


@cache
def chat_suite(part: str) -> tuple[ChatItem, ...]:
    """Return the items of `test`, `validation`, `memory` or `display`, always the same ones in the same order.

    Memory prompts that share their text, their topic and entity, or MAX_SHARED of their 4-grams with an item of another
    part are left out.
    """
    if part == "display":
        return tuple(_item(topic, entity, prompt) for topic, entity, prompt in DISPLAY)
    if part != "memory":
        instructions = [item for name in KINDS for item in _instructions(name, part)]
        return tuple([*_balanced(_free_items(part), NUM_FREE[part]), *instructions])
    held_out = held_out_items()
    blocked, pairs = leak_filter(held_out), {relation_key(item) for item in held_out}

    def allowed(items: Iterable[ChatItem]) -> list[ChatItem]:
        return [item for item in items if relation_key(item) not in pairs and not blocked(item.prompt)]

    written = [item for name in SEEN_KINDS for item in islice(allowed(_instructions(name, part)), NUM_MEMORY)]
    return tuple([*_balanced(allowed(_free_items(part)), NUM_FREE[part]), *written])


def chat_parts() -> dict[str, tuple[ChatItem, ...]]:
    """Return the whole suite as `DataBundle.chat`: its items by part."""
    return {part: chat_suite(part) for part in ("memory", *HELD_OUT)}


def held_out_items(parts: Mapping[str, Sequence[ChatItem]] | None = None) -> list[ChatItem]:
    """Return all items that no memory prompt may reveal: of validation, test and display.

    parts: a suite by part; default: the bundled one.
    """
    return [item for part in HELD_OUT for item in (chat_suite(part) if parts is None else parts.get(part, ()))]


def relation_key(item: ChatItem) -> tuple[str, frozenset[str]]:
    """Return what a question asks: its topic, and the words of its entity in any order (3 + 4 is 4 + 3)."""
    return item.topic, frozenset(reply_words(item.entity))


def leak_filter(held_out: Iterable[ChatItem]) -> IsBlocked:
    """Return blocked(text): whether a text must not enter the memory, because it is too close to a held-out item.

    It is if it has the same words as a held-out prompt, if it names a held-out entity and asks the same about it
    (`Topic.relation`), or if a held-out prompt contains at least MAX_SHARED of its 4-grams. Shorter texts are one
    4-gram.
    """
    prompts: set[tuple[str, ...]] = set()
    by_shingle: dict[tuple[str, ...], set[str]] = defaultdict(set)
    by_word: dict[str, list[tuple[frozenset[str], str]]] = defaultdict(list)  # by the longest word of the entity
    for item in held_out:
        prompts.add(tuple(reply_words(item.prompt)))
        for shingle in shingles(item.prompt):
            by_shingle[shingle].add(item.id)
        entity = frozenset(reply_words(item.entity)) - {"a", "an", "the"}
        by_word[max(entity, key=lambda word: (len(word), word))].append(
            (entity, TOPICS[item.topic].relation if item.topic in TOPICS else "")
        )

    def blocked(text: str) -> bool:
        words, lower = set(reply_words(text)), text.lower()
        named = (pair for word in words for pair in by_word.get(word, ()))
        if any(entity <= words and re.search(relation, lower) for entity, relation in named):
            return True
        own = shingles(text)
        found = list(chain.from_iterable(by_shingle.get(shingle, ()) for shingle in own))
        return tuple(reply_words(text)) in prompts or any(
            found.count(name) >= MAX_SHARED * len(own) for name in set(found)
        )

    return blocked


def _item(topic: str, entity: str, prompt: str, **columns: tuple[str, ...]) -> ChatItem:
    digest = hashlib.blake2b(prompt.encode(), digest_size=4).hexdigest()  # data: ids do not depend on the order
    return ChatItem(f"chat-{topic}-{digest}", topic, entity, prompt, **columns)


# --- free-answer questions


def _free_items(part: str) -> list[ChatItem]:
    """Return the free-answer questions of a part.

    Left out are questions whose prompt contains the answer, because a reply that repeats the question would be right,
    and questions about medical words. Options that the prompt contains and function words do not count as wrong.
    """
    samples, items = list(load_samples(f"general_{part}")), []
    for name, topic in TOPICS.items():
        templates = topic.memory if part == "memory" else topic.held_out
        aliases = {answer: names.split(", ") for answer, names in _pairs(topic.aliases)}
        for n, (entity, answer, options) in enumerate(_facts(name, part, samples)):
            prompt = templates[n % len(templates)].format(entity)
            accepted, others = (
                tuple(text for text in texts if _counts(text, prompt))
                for texts in ([answer, *aliases.get(answer.lower(), [])], options)
            )
            others = tuple(text for text in others if text not in INTRODUCTIONS)
            if answer in accepted and not medical_terms(prompt) and not BODY & {*reply_words(f"{prompt} {answer}")}:
                items.append(_item(name, entity, prompt, accepted=accepted, others=others))
    return items


def _facts(name: str, part: str, samples: Sequence[Example]) -> list[tuple[str, str, list[str]]]:
    """Return (entity, answer, the other options) of each question of a topic: from its table, else from the samples."""
    if facts := _pairs(TOPICS[name].facts):
        rng = random.Random(f"{SEED}-{name}")
        rng.shuffle(facts)
        answers = sorted({answer for _, answer in facts})
        alike = {
            answer: [one for one in answers if one.isdigit() == answer.isdigit() and one != answer]
            for answer in answers
        }
        starts = [round(share * len(facts)) for share in TABLE_SHARES[part]]
        options = [rng.sample(alike[answer], 3) for _, answer in facts]
        return [(*fact, others) for fact, others in zip(facts, options)][slice(*starts)]
    entities = {one["entity"]: (one["responses"], one["label"]) for one in samples if one["topic"] == name}
    return [(entity, texts[label], texts[:label] + texts[label + 1 :]) for entity, (texts, label) in entities.items()]


def _pairs(table: str) -> list[tuple[str, str]]:
    """Return the pairs of `left=right; …`."""
    pairs = (entry.strip().partition("=") for entry in re.split(r"[;\n]", table) if entry.strip())
    return [(left, right) for left, _, right in pairs]


def _counts(text: str, prompt: str) -> bool:
    """Return whether a text in a reply says something: no function word, and not in the prompt."""
    words = reply_words(text)
    return not {*words} <= FUNCTION_WORDS and not any(mentions(reply_words(prompt), answer_forms(text)))


def _balanced(items: Sequence[ChatItem], count: int) -> list[ChatItem]:
    """Return `count` items with equally many of each topic, as far as it has them."""
    groups = [[item for item in items if item.topic == topic] for topic in TOPICS]
    turns = zip_longest(*(sorted(group, key=lambda item: item.id) for group in groups))
    chosen = islice((item for turn in turns for item in turn if item), count)
    return sorted(chosen, key=lambda item: (list(TOPICS).index(item.topic), item.id))


# --- instructions


def _instructions(name: str, part: str) -> list[ChatItem]:
    """Return the instructions of one kind: every subject of the part with every template."""
    kind = KINDS[name]
    templates = [(text, "") for text in kind.memory] if part == "memory" else kind.held_out
    items = []
    for (template, checks), fields in product(templates, _subjects(kind, name)[part]):
        prompt = template.format(*fields)
        written = tuple(check.strip().format(*fields) for check in checks.split(";") if check)
        entity = (
            " ".join(fields[:4]) if name == "arithmetic" else " ".join(fields[:2]) if name == "compare" else fields[0]
        )
        items.append(_item(name, entity, prompt, checks=written))
    return items


def _subjects(kind: Kind, name: str) -> dict[str, list[list[str]]]:
    """Return the fields of each subject, by part."""
    subjects = [
        [field.strip() for field in line.split("|")] for line in re.split(r"[;\n]", kind.subjects) if line.strip()
    ]
    random.Random(f"{SEED}-{name}").shuffle(subjects)
    held_out, test = SUBJECTS["validation"], SUBJECTS["validation"] + SUBJECTS["test"]
    return {"validation": subjects[:held_out], "test": subjects[held_out:test], "memory": subjects[test:]}
