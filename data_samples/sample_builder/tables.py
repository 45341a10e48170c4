"""The tables in facts/, random numbers that depend on names only, and small functions on texts and options."""

import csv
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

FACTS = Path(__file__).parents[1] / "facts"

Row = dict[str, str]
"""One row of a table."""
Fields = dict[str, Any]
"""What fills the placeholders of a template."""
Example = dict[str, Any]
"""One line of a JSONL file."""
Template = tuple[str, str]
"""(template of the question, template of the answer)"""

# The templates of questions and answers. The names of these tables seed the splits of benchmarks/resplit.py.
TEMPLATE_TABLES = ("wordings_general", "wordings_medical_a", "wordings_medical_b")


class Tables:
    """The tables in facts/, and the random generators that all choices are made with.

    A subclass that overrides `read` or `rng` gives other samples of the same kind, for example with another split.
    """

    def __init__(self) -> None:
        self.templates = self._read_templates()
        """(topic, split) -> the templates of that topic that the split may use."""
        self._also_true: dict[str, list[tuple[str, str]]] = {}
        for row in self.read("also_true"):
            self._also_true.setdefault(row["topic"], []).append((row["answer"], row["also"]))

    def read(self, name: str) -> list[Row]:
        """Return the rows of the table facts/NAME.csv."""
        with (FACTS / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def rng(self, *key: object) -> random.Random:
        """Return a random generator that depends on `key` only.

        The keys are data: a different key, also one in better English, gives different samples.
        """
        return random.Random("/".join(map(str, key)))

    def also_true(self, topic: str, right: str, other: str) -> bool:
        """Return True if `other` could be right too where `right` is the answer.

        The table also_true.csv has whole answers or parts of them ("colon", "bowel"). Such answers are never offered
        as wrong options.
        """
        pairs = self._also_true.get(topic, ())
        return any(answer in right and right.replace(answer, also) == other for answer, also in pairs)

    def assign_splits(self, keys: Iterable[str], shares: Sequence[tuple[str, float]], *seed: object) -> dict[str, str]:
        """Return a split for each key, at random in the given (split, share)s."""
        unique = sorted(set(keys))
        self.rng("deal", *seed).shuffle(unique)  # data: seed
        splits, start = {}, 0.0
        for name, share in shares:
            stop = start + share * len(unique)
            splits |= dict.fromkeys(unique[round(start) : round(stop)], name)
            start = stop
        return splits

    def add_choices(self, examples: list[Example], size: int, fixed: Sequence[str] | None = None) -> list[Example]:
        """Turn examples with a completion into questions with shuffled options, in place. `answer` is the right text.

        The `size` options are `fixed`, or the answer and other answers of the same topic. These are drawn from the
        topic's examples, so that a frequent answer is as frequent among the wrong options as among the right ones. An
        answer that may be true as well is never drawn.
        """
        answers: dict[str, list[str]] = {}
        for example in examples:
            answers.setdefault(example["topic"], []).append(example["completion"])
        for example in examples:
            rng = self.rng("choices", example["id"])
            topic, right = example["topic"], example.pop("completion")
            options = list(fixed) if fixed else [right]
            while not fixed and len(options) < min(size, len(set(answers[topic]))):
                other = rng.choice(answers[topic])
                if other not in options and not self.also_true(topic, right, other):
                    options.append(other)
            rng.shuffle(options)
            example.update(choices=options, answer=right)
            example["question"] = example.pop("prompt")
        return examples

    def _read_templates(self) -> dict[tuple[str, str], list[Template]]:
        templates: dict[tuple[str, str], list[Template]] = {}
        for name in TEMPLATE_TABLES:
            for row in self.read(name):
                templates.setdefault((row["topic"], row["split"]), []).append((row["template"], row["answer"]))
        # General templates have two splits. Of the unseen ones, the first is for validation, the others for the test.
        for (topic, split), found in list(templates.items()):
            if split == "test" and (topic, "validation") not in templates:
                templates[topic, "validation"], templates[topic, "test"] = found[:1], found[1:]
        return templates


def add_article(noun: str) -> str:
    """Return the noun with "a" or "an"."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def fill(template: str, fields: Fields) -> str:
    """Return the template with its placeholders filled. A sentence that starts with a placeholder is capitalized."""
    text = template.format(**fields)
    return text[0].upper() + text[1:] if template[0] == "{" and text[-1] in "?.:" else text
