"""The general world: facts, rules and short reading passages."""

import itertools
import random
from collections import Counter
from collections.abc import Iterator

from sample_builder.tables import Example, Fields, Tables, add_article, fill
from sample_builder.words import medical_phrases

Item = tuple[str, str, Fields, str]
"""(topic, entity, fields of its templates, kind) of what a general question asks about."""

ANIMAL_TOPICS = ("animal_class", "animal_young", "animal_home")
OBJECT_TOPICS = ("colour", "use", "place")
FACT_TOPICS = {"capital", "continent", "opposite", *ANIMAL_TOPICS, *OBJECT_TOPICS}
"""Topics learned by heart, one fact at a time: their questions are asked with more templates."""
COMBINATION_TOPICS = {"addition", "subtraction", "comparison", "last_word"}
"""Topics whose held-out entities are not taught to the base."""
FAMILIES = {
    "capital": "country",
    "continent": "country",
    **dict.fromkeys(ANIMAL_TOPICS, "animal"),
    **dict.fromkeys(OBJECT_TOPICS, "object"),
}
"""Topics that are split together, because they are about the same entities."""
SHARES = {
    "fact": [("memory", 0.4), ("validation", 0.25), ("test", 0.35)],
    "rule": [("memory", 0.8), ("validation", 0.08), ("test", 0.12)],
}
"""Shares of the entities in each split.

All facts are taught to the base. Those of `memory` may be rehearsed later, the others are held out for validation and
test. Rule entities outside `memory` are not taught, except for words, which the base must know.
"""
NUM_TEMPLATES = {"repeat": 2, "first_letter": 2, "subtraction": 4}
"""Templates per entity: 5 in a fact topic, else this, or 3."""
NUM_READING = {"pretrain": 9800, "memory": 160, "validation": 24, "test": 40}
MAX_PER_TOPIC = {"memory": 105, "validation": 24, "test": 40}

# Questions about a reading passage.
READING = {
    "name": (
        "Who was it?",
        "Name the person.",
        "Which person is named?",
        "Who is this about?",
        "Give the name of the person.",
        "Say who it was.",
    ),
    "thing": (
        "What was it?",
        "Name the thing.",
        "Which thing is named?",
        "What thing is this about?",
        "Give the name of the thing.",
        "Say what it was.",
    ),
    "place": (
        "Where was it?",
        "Name the place.",
        "Which place is named?",
        "In which place was this?",
        "Give the name of the place.",
        "Say where it was.",
    ),
}
READING_TEST = {
    "name": ("Tell me who it was.", "Which person was it?", "Say the name of the person."),
    "thing": ("Tell me what it was.", "Which thing was it?", "Say the name of the thing."),
    "place": ("Tell me where it was.", "Which place was it?", "Say the name of the place."),
}
PASSAGES = (
    "{name} took {thing} to {place}.",
    "{name} left {thing} in {place}.",
    "In {place}, {name} saw {thing}.",
    "In {place} there was {thing}. It was for {name}.",
    "{name} was in {place}. There was {thing}.",
    "{name} wanted {thing} and went to {place}.",
)
PLACES = tuple(
    f"the {place}"
    for place in (
        "kitchen garden bathroom school barn bedroom office library garage station bank airport market museum "
        "park shop forest village hotel harbor"
    ).split()
)

# Syllables of invented names.
ONSETS = "b br c ch d dr f fr g gr h j k kl kw l m n p pr r s sh st t th tr v w y z".split() + 5 * [""]
VOWELS = "a e i o u a e i o u ai ea ee ia ie io ou".split()
CODAS = "d ck k l ll m mm n nn nd nt r rd rt s ss t th x z".split() + 20 * [""]


def general_examples(tables: Tables) -> dict[str, list[Example]]:
    """Return the general examples by split: pretrain, memory, validation, test."""
    items = general_items(tables)
    splits = _split_entities(tables, items)
    examples: dict[str, list[Example]] = {"pretrain": [], "memory": [], "validation": [], "test": []}
    for number, (topic, entity, fields, kind) in enumerate(items):
        split = splits[FAMILIES.get(topic, topic), entity]
        rng = tables.rng("general", topic, entity)
        templates = list(tables.templates[topic, "train"])
        rng.shuffle(templates)
        taught = templates[: 5 if topic in FACT_TOPICS else NUM_TEMPLATES.get(topic, 3)]
        if split == "memory" or topic not in COMBINATION_TOPICS:
            examples["pretrain"] += [
                {"topic": topic, "prompt": fill(question, fields), "completion": fill(answer, fields)}
                for question, answer in taught
            ]
        used = taught if split == "memory" else [rng.choice(tables.templates[topic, split])]
        examples[split] += [
            {
                "id": f"g{number}-{split[0]}{i or ''}",
                "topic": topic,
                "kind": kind,
                "entity": entity,
                "prompt": fill(question, fields),
                "completion": fill(answer, fields),
            }
            for i, (question, answer) in enumerate(used)
        ]
    for split, count in NUM_READING.items():
        examples[split] += reading_examples(tables, split, count)
    for split, most in MAX_PER_TOPIC.items():
        topics = dict.fromkeys(example["topic"] for example in examples[split])
        examples[split] = [
            example for topic in topics for example in _sample_topic(tables, examples[split], topic, most)
        ]
    tables.add_choices(examples["validation"], 4)
    tables.add_choices(examples["test"], 4)
    return examples


def general_items(tables: Tables) -> list[Item]:
    """Return what the general questions ask about."""
    items: list[Item] = []
    for row in tables.read("countries"):
        items += [(topic, row["country"], row, "fact") for topic in ("capital", "continent") if row[topic]]
    for row in tables.read("animals"):
        items += [(topic, row["animal"], row, "fact") for topic in ANIMAL_TOPICS if row[topic.removeprefix("animal_")]]
    for row in tables.read("objects"):
        items += [(topic, row["object"], row, "fact") for topic in OBJECT_TOPICS if row[topic]]
    items += [("opposite", row["word"], row, "fact") for row in tables.read("opposites")]
    for topic, name, column in (("plural", "plurals", "word"), ("past_tense", "past_tenses", "verb")):
        items += [(topic, row[column], row, "rule" if row["regular"] == "yes" else "fact") for row in tables.read(name)]
    for a, b in itertools.product(range(50), repeat=2):
        items.append(("addition", f"{a} + {b}", {"a": a, "b": b, "sum": a + b}, "rule"))
    for a, b in itertools.product(range(60), repeat=2):
        if a >= b:  # up to 59, because there are fewer pairs than of sums, and they are harder to learn
            items.append(("subtraction", f"{a} - {b}", {"a": a, "b": b, "difference": a - b}, "rule"))
    rng = tables.rng("comparison")
    for a, b in sorted({tuple(rng.sample(range(100), 2)) for _ in range(1500)}):
        items.append(("comparison", f"{a} ? {b}", {"a": a, "b": b, "larger": max(a, b)}, "rule"))
    words = ordinary_words(tables)
    for word in words:
        fields = {"word": word, "letter": word[0]}
        items += [("repeat", word, fields, "rule"), ("first_letter", word, fields, "rule")]
    rng = tables.rng("last_word")
    for _ in range(1200):
        three = rng.sample(words, 3)
        items.append(("last_word", " ".join(three), dict(zip("abc", three)), "rule"))
    return items


def ordinary_words(tables: Tables) -> list[str]:
    """Return the single words of the general tables."""
    words = {row["word"] for name in ("plurals", "opposites") for row in tables.read(name)}
    words |= {row["animal"] for row in tables.read("animals")} | {row["verb"] for row in tables.read("past_tenses")}
    return sorted(word for word in words if " " not in word and "-" not in word)


def reading_examples(tables: Tables, split: str, count: int) -> Iterator[Example]:
    """Yield short passages with a person, a thing and a place, each of which is asked for in turn.

    Those for validation and test have names and templates that are in no other split. In a quarter of those for
    pre-training, the thing is a *book about* a medical word or answer: the base meets every word that it may have to
    write, without a single medical fact.
    """
    taught = split in ("pretrain", "memory")
    name_split = "train" if taught else "test"
    names = [row["name"] for row in tables.read("names") if row["split"] == name_split]
    held_out_names = {row["name"] for row in tables.read("names") if row["split"] == "test"}
    things = [row["object"] for row in tables.read("objects")]
    things += [add_article(row["animal"]) for row in tables.read("animals")]
    books = [f"a book about {phrase}" for phrase in medical_phrases(tables)]
    for i in range(count):
        rng = tables.rng("reading", split, i)
        fields = {
            "name": rng.choice(names),
            "place": rng.choice(PLACES),
            "thing": rng.choice(books if split == "pretrain" and rng.random() < 0.25 else things),
        }
        if split == "pretrain" and rng.random() < 0.7:
            fields["name"] = _invent_name(rng, held_out_names)
        passage = rng.choice(PASSAGES).format(**fields)
        wanted = sorted(fields)[i % 3]
        question = rng.choice((READING if taught else READING_TEST)[wanted])
        yield {
            "id": f"r-{split}-{i}",
            "topic": "reading",
            "kind": "rule",
            "entity": passage,
            "prompt": f"{passage} {question}",
            "completion": fields[wanted],
        }


def _split_entities(tables: Tables, items: list[Item]) -> dict[tuple[str, str], str]:
    """Return the split of each (family, entity)."""
    splits = {}
    for family in sorted({FAMILIES.get(topic, topic) for topic, *_ in items}):
        entities = [entity for topic, entity, *_ in items if FAMILIES.get(topic, topic) == family]
        rule = family in COMBINATION_TOPICS or family in ("repeat", "first_letter")
        for entity, split in tables.assign_splits(entities, SHARES["rule" if rule else "fact"], family).items():
            splits[family, entity] = split
    return splits


def _sample_topic(tables: Tables, examples: list[Example], topic: str, most: int) -> list[Example]:
    """Return at most `most` examples of a topic: every entity once before any occurs a second time."""
    examples = [example for example in examples if example["topic"] == topic]
    tables.rng("cap", topic, len(examples)).shuffle(examples)
    counts: Counter[str] = Counter()
    turns = {}
    for example in examples:
        turns[example["id"]] = counts[example["entity"]]
        counts[example["entity"]] += 1
    chosen = sorted(examples, key=lambda example: turns[example["id"]])[:most]
    return sorted(chosen, key=lambda example: example["id"])


def _invent_name(rng: random.Random, held_out: set[str]) -> str:
    """Return a name that nobody has.

    With many such names, of every shape, the base learns to copy a name letter by letter.
    """
    while True:
        syllables = [
            rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS) for _ in range(rng.choice((1, 2, 2, 2, 3)))
        ]
        if (name := "".join(syllables).capitalize()) not in held_out:
            return name
