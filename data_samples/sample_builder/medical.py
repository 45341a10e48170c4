"""The medical world: questions about facts and rules. Vignettes are in vignettes.py."""

from collections.abc import Iterator

from sample_builder.tables import Example, Fields, Tables, fill
from sample_builder.words import NAME_COLUMNS

LEVELS = {
    "terminology": "easy",
    "anatomy": "easy",
    "drug_class": "medium",
    "drug_use": "medium",
    "organisms": "medium",
    "vitamins": "medium",
    "hormones": "medium",
    "ranges": "medium",
}
FACT_TOPICS = ("anatomy", "organisms", "vitamins", "hormones", "ranges")
"""Topics learned by heart: every fact is taught, and tested with other templates. The others follow rules."""
SMALL_TOPICS = {"vitamins", "hormones", "ranges"}
"""Topics of less than 30 facts: each fact is asked with more templates."""

Item = tuple[str, str, Fields, str]
"""(topic, entity, fields of its templates, split) of what a medical question asks about."""


def medical_items(tables: Tables) -> Iterator[Item]:
    """Yield what the medical questions ask about. A fact of train or pool is in validation and test as well."""
    for row in tables.read("terms"):
        yield "terminology", row["term"], row, row["use"]
    for row in tables.read("drugs"):
        yield "drug_class", row["drug"], row, row["split"]
        yield "drug_use", row["drug"], row, row["split"]
    for topic in FACT_TOPICS:
        rows, column = tables.read(topic), NAME_COLUMNS[topic]
        splits = tables.assign_splits([row[column] for row in rows], [("train", 0.4), ("pool", 0.6)], topic)
        for row in rows:
            yield topic, row[column], row, splits[row[column]]


def medical_questions(tables: Tables) -> dict[str, list[Example]]:
    """Return the medical questions by split: train, pool, validation, test. They have no choices yet."""
    examples: dict[str, list[Example]] = {"train": [], "pool": [], "validation": [], "test": []}
    for number, (topic, entity, fields, taught_in) in enumerate(medical_items(tables)):
        kind = "fact" if topic in FACT_TOPICS else "rule"
        for split in [taught_in] if kind == "rule" else [taught_in, "validation", "test"]:
            templates = list(tables.templates[topic, "train" if split == "pool" else split])
            tables.rng("medical", topic, entity, split).shuffle(templates)
            examples[split] += [
                {
                    "id": f"m{number}-{split}-{i}",
                    "topic": topic,
                    "level": LEVELS[topic],
                    "kind": kind,
                    "entity": entity,
                    "prompt": fill(question, fields),
                    "completion": fill(answer, fields),
                }
                for i, (question, answer) in enumerate(templates[: _num_templates(topic, split)])
            ]
    return examples


def _num_templates(topic: str, split: str) -> int:
    """Return with how many templates an entity is asked about."""
    if topic not in FACT_TOPICS:
        return {"train": 5, "pool": 2, "validation": 1, "test": 2}[split]
    if split in ("validation", "test"):
        return 1
    return 12 if topic in SMALL_TOPICS else 6
