"""Labelling functions for the bundled medical pool, from four sources that make different kinds of errors.

- general: how people use words;
- morphology: word parts, such as -itis or nephr-;
- reference: tables with gaps and errors (data_samples/facts/reference_*.csv, described in REFERENCE.md);
- model: the scores of the base model.

The functions read `task`, `topic`, `prompt`, `responses` and `base_scores` of an example, never its label or entity.
Three of them (longest, politest, nearest_letter) are deliberately poor, to show that the label model detects them.
"""

import csv
import re
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Literal

import numpy as np

from icft_lite.data.samples import samples_dir
from icft_lite.data.schema import Example
from icft_lite.errors import ICFTError
from icft_lite.weak.functions import LabelingFunction, labeling_function
from icft_lite.weak.label_models import ABSTAIN
from icft_lite.weak.lfs.common import base_choice

Entry = dict[str, str]
"""One row of a reference table, by column name, in lower case."""
Urgency = Literal["emergency", "urgent", "routine"]

FUNCTION_WORDS = set(re.findall(r"\w+", "a an and at be by for from has have in into is it may of or the to"))
URGENCY_PATTERNS = {
    "emergency": "emergency|ambulance",
    "urgent": "urgent|today|tonight|within a day",
    "routine": "routine|appointment|month",
}
"""How a response states each level of urgency."""
ADVICE_PATTERNS = {
    "team": "team|department|clinic",
    "time": r"now|once|away|today|tonight|day\b|month|next|appointment",
}
"""How a response says whom to see, or when. The keys are values of the column `wants` of reference_phrases.csv."""
DEPARTMENT_ROOTS = {
    "cardi": "heart chest pulse",
    "neuro": "head headache face migraine speech arm",
    "derm": "skin rash blisters pimples scaly",
    "uro": "urine kidney bladder",
    "ortho": "bone leg knee knees back wrist",
    "surg": "belly cut groin",
    "eye": "eye sight",
    "psych": "mood voices belief suicide sadness",
    "lung": "breath cough phlegm wheezing",
}
"""Root of a department's name, and words of a vignette that belong to it."""


@cache
def reference(name: str) -> list[Entry]:
    """Return the rows of data_samples/facts/reference_NAME.csv, with values in lower case.

    Raises ICFTError if the file cannot be read.
    """
    path = samples_dir() / "facts" / f"reference_{name}.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [{key: value.lower() for key, value in entry.items()} for entry in csv.DictReader(file)]
    except OSError as error:
        raise ICFTError(f"{path}: {error.strerror}; the bundled samples are incomplete, install again") from None


def _tokens(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.lower())


@cache
def _padded(text: str) -> str:
    """Return the tokens with a space on either side, so that `in` matches whole words only."""
    return f" {' '.join(_tokens(text))} "


def _unique_best(scores: Sequence[int]) -> int:
    """Return the index of the highest score if it is positive and unique, else ABSTAIN."""
    top = max(scores)
    return scores.index(top) if top > 0 and scores.count(top) == 1 else ABSTAIN


def _closest(example: Example, answer: str) -> int:
    """Return the index of the response that equals the answer, else of the one that has most of its words."""
    wanted = set(_tokens(answer)) - FUNCTION_WORDS
    exact = [int(text.lower() == answer) for text in example["responses"]]
    overlap = [len(wanted & set(_tokens(text))) for text in example["responses"]]
    return _unique_best(exact if any(exact) else overlap)


def _only_match(example: Example, pattern: str) -> int:
    """Return the index of the response that matches the pattern if exactly one does, else ABSTAIN."""
    return _unique_best([int(re.search(pattern, text.lower()) is not None) for text in example["responses"]])


def _of_urgency(example: Example, level: str) -> int:
    """Return the index of the response of that urgency; ABSTAIN unless every response states an urgency.

    Advice on when to seek help can only be compared with other advice on when.
    """
    any_urgency = "|".join(URGENCY_PATTERNS.values())
    stated = all(re.search(any_urgency, text.lower()) for text in example["responses"])
    return _only_match(example, URGENCY_PATTERNS[level]) if stated else ABSTAIN


def _urgency_vote(example: Example, level: Urgency, signs: str) -> int:
    """Vote for the response of that urgency if the vignette contains one of the signs, a regular expression."""
    found = _is_vignette(example) and re.search(rf"\b(?:{signs})", example["prompt"].lower())
    return _of_urgency(example, level) if found else ABSTAIN


def _is_vignette(example: Example) -> bool:
    """Return whether the prompt describes a patient."""
    return example["task"] == "pair" or example["topic"] in ("urgency", "department")


@labeling_function(source="general")
def longest(example: Example) -> int:
    """Vote for the longest response.

    Deliberately poor, to show that the label model detects such functions.
    """
    return _unique_best([len(text) for text in example["responses"]])


@labeling_function(source="general", task="pair")
def politest(example: Example) -> int:
    """Vote for the response that says please.

    Deliberately poor, to show that the label model detects such functions.
    """
    return _only_match(example, "please")


@labeling_function(source="general")
def shares_words(example: Example) -> int:
    """Vote for the response with the most word beginnings that also occur in the prompt (leprae, leprosy)."""
    in_prompt = {word[:4] for word in _tokens(example["prompt"])} - FUNCTION_WORDS
    in_responses = [set(_tokens(text)) - FUNCTION_WORDS for text in example["responses"]]
    return _unique_best([sum(word[:4] in in_prompt for word in words) for words in in_responses])


@labeling_function(source="general")
def red_flags(example: Example) -> int:
    """Vote for emergency care if the vignette contains an alarming word (sudden, severe, collapse, …)."""
    return _urgency_vote(
        example,
        "emergency",
        "sudden|severe|crushing|collapse|faint|worst|blue|gasping|confusion|suicide|tonight|blood|bleeding|torn",
    )


@labeling_function(source="general")
def mild_words(example: Example) -> int:
    """Vote for routine care if the vignette contains a mild or long-term sign (mild, slight, for months, …)."""
    return _urgency_vote(example, "routine", r"mild|slight|small|months|years[.,]|for years|weeks|slowly|sometimes")


@labeling_function(source="general")
def recent_words(example: Example) -> int:
    """Vote for urgent care if the vignette describes something recent (new, since yesterday, this week, …)."""
    return _urgency_vote(example, "urgent", r"(?:new|since|today|yesterday|this week|last night|days|fever|painful)\b")


@labeling_function(source="general", task="pair")
def answers_the_question(example: Example) -> int:
    """Vote for the reply that names a team if the prompt asks who or where, or a time if it asks when."""
    prompt = example["prompt"].lower()
    if re.search(r"\b(?:who|where|team|department)\b", prompt):
        return _only_match(example, ADVICE_PATTERNS["team"])
    if re.search(r"\b(?:when|soon|long|fast|quickly)\b", prompt):
        return _only_match(example, ADVICE_PATTERNS["time"])
    return ABSTAIN


def _word_part(example: Example, table: str, column: str, position: Literal["prefix", "suffix"]) -> Entry | None:
    """Return the entry with the longest word part that a word of the prompt begins or ends with."""
    found = [
        entry
        for entry in reference(table)
        for word in _tokens(example["prompt"])
        if (word.endswith if position == "suffix" else word.startswith)(entry[column])
    ]
    return max(found, key=lambda entry: len(entry[column]), default=None)


@labeling_function(source="morphology", task="question")
def suffix_rule(example: Example) -> int:
    """Vote for the response that names what the ending of a term means (-itis: inflammation)."""
    found = _word_part(example, "affixes", "affix", "suffix") if example["topic"] == "terminology" else None
    return _closest(example, found["meaning"]) if found else ABSTAIN


@labeling_function(source="morphology", task="question")
def root_hint(example: Example) -> int:
    """Vote for the response that names what the beginning of a term means (nephr-: kidney)."""
    found = _word_part(example, "roots", "root", "prefix") if example["topic"] == "terminology" else None
    return _closest(example, found["organ"]) if found else ABSTAIN


@labeling_function(source="morphology", task="question")
def drug_stem(example: Example) -> int:
    """Vote for the class or use that the stem of a drug's name indicates (-olol: beta blocker)."""
    if example["topic"] not in ("drug_class", "drug_use"):
        return ABSTAIN
    words, column = _tokens(example["prompt"]), example["topic"].removeprefix("drug_")
    found = [
        entry
        for entry in reference("stems")
        for word in words  # "-olol" is the end of a name, "cef-" the beginning
        if (word.startswith if entry["stem"].endswith("-") else word.endswith)(entry["stem"].strip("-"))
    ]
    return _closest(example, max(found, key=lambda entry: len(entry["stem"]))[column]) if found else ABSTAIN


@labeling_function(source="morphology", task="question")
def department_root(example: Example) -> int:
    """Vote for the department whose name has the root that fits the words of the vignette (cardi-: heart)."""
    words = set(_tokens(example["prompt"]))
    fits = {root: len(words & set(signs.split())) for root, signs in DEPARTMENT_ROOTS.items()}
    scores = [sum(fit for root, fit in fits.items() if root in text) for text in example["responses"]]
    return _unique_best(scores) if example["topic"] == "department" else ABSTAIN


@labeling_function(source="morphology", task="question")
def nearest_letter(example: Example) -> int:
    """Vote for the response whose first letter is nearest to that of the longest word of the prompt.

    Deliberately poor, to show that the label model detects such functions.
    """
    first = ord(max(_tokens(example["prompt"]), key=len)[0])
    return int(np.argmin([abs(ord(text.lower()[0]) - first) for text in example["responses"]]))


@cache
def _topic_entries(table: str, topic: str) -> list[tuple[str, str]]:
    """Return (padded key, answer) of the entries of one topic."""
    return [(_padded(entry["key"]), entry["answer"]) for entry in reference(table) if entry["topic"] == topic]


def _lookup_lf(table: str) -> LabelingFunction:
    """Return a labelling function that looks up the longest key of the table that occurs in the prompt."""

    def look_up(example: Example) -> int:
        prompt = _padded(example["prompt"])
        found = [(len(key), answer) for key, answer in _topic_entries(table, example["topic"]) if key in prompt]
        return _closest(example, max(found)[1]) if found else ABSTAIN

    return labeling_function(table, source="reference", task="question")(look_up)


glossary = _lookup_lf("glossary")  # whole medical terms
formulary = _lookup_lf("formulary")  # drugs
handbook = _lookup_lf("handbook")  # anatomy, organisms, vitamins, hormones, ranges
notes = _lookup_lf("notes")  # the topics of formulary and handbook, by another author
flashcards = _lookup_lf("flashcards")  # all topics, with many errors


def _triage_vote(example: Example, entries: Sequence[Entry]) -> int:
    """Vote for the most frequent condition, department or urgency of the entries, whichever the responses contain."""

    def most_frequent(column: str) -> str:
        counts = Counter(entry[column] for entry in entries).most_common(2)
        return counts[0][0] if len(counts) == 1 or counts[0][1] > counts[1][1] else ""

    if not entries:
        return ABSTAIN
    if example["topic"] == "department":
        return _closest(example, most_frequent("department"))
    vote = _closest(example, most_frequent("condition")) if example["task"] == "pair" else ABSTAIN
    level = most_frequent("urgency")
    return vote if vote != ABSTAIN or not level else _of_urgency(example, level)


@cache
def _triage_signs() -> list[tuple[set[str], Entry]]:
    return [(set(_tokens(entry["sign"])), entry) for entry in reference("triage")]


@labeling_function(source="reference")
def triage_sheet(example: Example) -> int:
    """Vote as the triage table says for the signs of which at least three quarters of the words are in the vignette."""
    words = set(_tokens(example["prompt"])) if _is_vignette(example) else set()
    entries = [entry for sign, entry in _triage_signs() if words and len(words & sign) >= 0.75 * len(sign)]
    return _triage_vote(example, entries)


@labeling_function(source="reference")
def reception(example: Example) -> int:
    """Vote as the reception table says for the key words of the vignette."""
    prompt = _padded(example["prompt"]) if _is_vignette(example) else ""
    return _triage_vote(example, [entry for entry in reference("reception") if _padded(entry["word"]) in prompt])


@labeling_function(source="reference", task="pair")
def phrase_book(example: Example) -> int:
    """Vote for the reply that names what a phrase of the prompt asks for, a team or a time."""
    prompt = _padded(example["prompt"])
    wants = {entry["wants"] for entry in reference("phrases") if _padded(entry["phrase"]) in prompt}
    return _only_match(example, ADVICE_PATTERNS[wants.pop()]) if len(wants) == 1 else ABSTAIN


def sample_lfs() -> list[LabelingFunction]:
    """Return the labelling functions for the bundled medical pool."""
    return [
        longest,
        politest,
        shares_words,
        red_flags,
        mild_words,
        recent_words,
        answers_the_question,
        suffix_rule,
        root_hint,
        drug_stem,
        department_root,
        nearest_letter,
        glossary,
        formulary,
        handbook,
        notes,
        flashcards,
        triage_sheet,
        reception,
        phrase_book,
        base_choice,
    ]
