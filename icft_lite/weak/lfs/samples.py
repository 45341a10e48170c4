"""Labelling functions for the bundled medical pool, from four sources that err in different ways.

general: how people use words; morphology: what a word is made of; reference: tables with gaps and errors
(data_samples/facts/reference_*.csv, see REFERENCE.md); model: the base's own scores. They read a row's topic,
prompt, responses and `base_scores`; never its label or entity. Three are bad on purpose.
"""

import csv
import re
from collections import Counter
from functools import cache

import numpy as np

from icft_lite.data.samples import samples_dir
from icft_lite.errors import ICFTError
from icft_lite.weak.functions import labeling_function
from icft_lite.weak.models import ABSTAIN

SMALL_WORDS = set(re.findall(r"\w+", "a an and at be by for from has have in into is it may of or the to"))
LEVELS = {
    "emergency": "emergency|ambulance",
    "urgent": "urgent|today|tonight|within a day",
    "routine": "routine|appointment|month",
}
ANSWERS = {
    "team": "team|department|clinic",
    "time": r"now|once|away|today|tonight|day\b|month|next"
    r"|appointment",
}
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


@cache
def reference(name):
    """Rows (dicts of lower-case text) of facts/reference_NAME.csv. Raises ICFTError if it is not there."""
    path = samples_dir() / "facts" / f"reference_{name}.csv"
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return [{key: value.lower() for key, value in row.items()} for row in csv.DictReader(file)]
    except OSError as error:
        raise ICFTError(f"{path}: {error.strerror}; the samples are incomplete, install again") from None


def _tokens(text):
    return re.findall(r"[a-z0-9]+", text.lower())


@cache
def _padded(text):
    return f" {' '.join(_tokens(text))} "


def _best(scores):
    """The index of the highest score if it is above 0 and the only one, else ABSTAIN."""
    top = max(scores)
    return scores.index(top) if top > 0 and scores.count(top) == 1 else ABSTAIN


def _closest(row, answer):
    """The response that is the answer, else the one that has the largest share of its words."""
    wanted = set(_tokens(answer)) - SMALL_WORDS
    exact = [int(text.lower() == answer) for text in row["responses"]]
    return _best(exact if any(exact) else [len(wanted & set(_tokens(text))) for text in row["responses"]])


def _says(row, pattern):
    """Where just one response matches the pattern, that one."""
    return _best([int(re.search(pattern, text.lower()) is not None) for text in row["responses"]])


def _as_urgent(row, level):
    """The response of that urgency, if every response states one: advice is only compared with advice."""
    stated = all(re.search("|".join(LEVELS.values()), text.lower()) for text in row["responses"])
    return _says(row, LEVELS[level]) if stated else ABSTAIN


def _tempo(row, level, signs):
    """A vignette with such signs: the response of that urgency."""
    found = _about_a_patient(row) and re.search(rf"\b(?:{signs})", row["prompt"].lower())
    return _as_urgent(row, level) if found else ABSTAIN


def _about_a_patient(row):
    return row["task"] == "pair" or row["topic"] in ("urgency", "department")


@labeling_function(source="general")
def longest(row):
    """Bad on purpose: the longest response."""
    return _best([len(text) for text in row["responses"]])


@labeling_function(source="general", task="pair")
def politest(row):
    """Bad on purpose: the response that says please."""
    return _says(row, "please")


@labeling_function(source="general")
def shares_words(row):
    """The response with most word beginnings that also occur in the prompt (leprae, leprosy)."""
    asked = {word[:4] for word in _tokens(row["prompt"])} - SMALL_WORDS
    given = [set(_tokens(text)) - SMALL_WORDS for text in row["responses"]]
    return _best([sum(word[:4] in asked for word in words) for words in given])


@labeling_function(source="general")
def red_flags(row):
    """Sudden, severe, collapse …: an emergency."""
    return _tempo(
        row,
        "emergency",
        "sudden|severe|crushing|collapse|faint|worst|blue|gasping|confusion|suicide|tonight|blood|bleeding|torn",
    )


@labeling_function(source="general")
def mild_words(row):
    """Mild, slight, for months …: routine."""
    return _tempo(row, "routine", r"mild|slight|small|months|years[.,]|for years|weeks|slowly|sometimes")


@labeling_function(source="general")
def recent_words(row):
    """New, since yesterday, this week …: urgent."""
    return _tempo(row, "urgent", r"(?:new|since|today|yesterday|this week|last night|days|fever|painful)\b")


@labeling_function(source="general", task="pair")
def answers_the_question(row):
    """Who or where was asked: the response that names a team; when: the one with a time in it."""
    asked = row["prompt"].lower()
    if re.search(r"\b(?:who|where|team|department)\b", asked):
        return _says(row, ANSWERS["team"])
    return (
        _says(row, ANSWERS["time"])
        if re.search(
            r"\b(?:when|soon|long|fast"
            r"|quickly)\b",
            asked,
        )
        else ABSTAIN
    )


def _part_of_word(row, table, column, ends):
    """(entry, word) of the longest entry that a word of the prompt ends or begins with, else None."""
    found = [
        (entry, word)
        for entry in reference(table)
        for word in _tokens(row["prompt"])
        if (word.endswith if ends else word.startswith)(entry[column])
    ]
    return max(found, key=lambda pair: len(pair[0][column]), default=None)


@labeling_function(source="morphology", task="question")
def suffix_rule(row):
    """-itis is inflammation: the response that names what the ending means."""
    found = _part_of_word(row, "affixes", "affix", ends=True) if row["topic"] == "terminology" else None
    return _closest(row, found[0]["meaning"]) if found else ABSTAIN


@labeling_function(source="morphology", task="question")
def root_hint(row):
    """nephr- is kidney: the response that names what the beginning means."""
    found = _part_of_word(row, "roots", "root", ends=False) if row["topic"] == "terminology" else None
    return _closest(row, found[0]["organ"]) if found else ABSTAIN


@labeling_function(source="morphology", task="question")
def drug_stem(row):
    """-olol is a beta blocker, given for high blood pressure."""
    if row["topic"] not in ("drug_class", "drug_use"):
        return ABSTAIN
    words, column = _tokens(row["prompt"]), row["topic"].removeprefix("drug_")
    found = [
        entry
        for entry in reference("stems")
        for word in words  # "-olol" ends, "cef-" begins a name
        if (word.startswith if entry["stem"].endswith("-") else word.endswith)(entry["stem"].strip("-"))
    ]
    return _closest(row, max(found, key=lambda entry: len(entry["stem"]))[column]) if found else ABSTAIN


@labeling_function(source="morphology", task="question")
def department_root(row):
    """cardi- is heart: the department whose name's root fits the vignette's words."""
    words = set(_tokens(row["prompt"]))
    fits = {root: len(words & set(signs.split())) for root, signs in DEPARTMENT_ROOTS.items()}
    scores = [sum(fit for root, fit in fits.items() if root in text) for text in row["responses"]]
    return _best(scores) if row["topic"] == "department" else ABSTAIN


@labeling_function(source="morphology", task="question")
def nearest_letter(row):
    """Bad on purpose: reads only first letters, and takes the one nearest in the alphabet to the longest
    word's."""
    first = ord(max(_tokens(row["prompt"]), key=len)[0])
    return int(np.argmin([abs(ord(text.lower()[0]) - first) for text in row["responses"]]))


@cache
def _entries(table, topic):
    return [(_padded(entry["key"]), entry["answer"]) for entry in reference(table) if entry["topic"] == topic]


def _book(name):
    def look_up(row):
        text = _padded(row["prompt"])
        found = [(len(key), answer) for key, answer in _entries(name, row["topic"]) if key in text]
        return _closest(row, max(found)[1]) if found else ABSTAIN

    return labeling_function(name, source="reference", task="question")(look_up)


# Whole terms; drugs; facts learned by heart; these and drugs by another hand; every topic, much of it wrong.
glossary, formulary, handbook, notes, flashcards = map(
    _book, ("glossary", "formulary", "handbook", "notes", "flashcards")
)


def _triage(row, entries):
    """Most entries' condition, department or urgency, whichever the responses differ in."""

    def most(column):
        counts = Counter(entry[column] for entry in entries).most_common(2)
        return counts[0][0] if len(counts) == 1 or counts[0][1] > counts[1][1] else ""

    if not entries:
        return ABSTAIN
    if row["topic"] == "department":
        return _closest(row, most("department"))
    vote, level = _closest(row, most("condition")) if row["task"] == "pair" else ABSTAIN, most("urgency")
    return vote if vote != ABSTAIN or not level else _as_urgent(row, level)


@cache
def _signs():
    return [(set(_tokens(entry["sign"])), entry) for entry in reference("triage")]


@labeling_function(source="reference")
def triage_sheet(row):
    """Whole signs: an entry counts when at least three quarters of its words are in the vignette."""
    words = set(_tokens(row["prompt"])) if _about_a_patient(row) else set()
    return _triage(row, [entry for sign, entry in _signs() if words and len(words & sign) >= 0.75 * len(sign)])


@labeling_function(source="reference")
def reception(row):
    """Key words by which a reception desk sorts patients."""
    text = _padded(row["prompt"]) if _about_a_patient(row) else ""
    return _triage(row, [entry for entry in reference("reception") if _padded(entry["word"]) in text])


@labeling_function(source="reference", task="pair")
def phrase_book(row):
    """What a phrase of the prompt asks for, a team or a time."""
    text = _padded(row["prompt"])
    wants = {entry["wants"] for entry in reference("phrases") if _padded(entry["phrase"]) in text}
    return _says(row, ANSWERS[wants.pop()]) if len(wants) == 1 else ABSTAIN


@labeling_function(source="model")
def base_choice(row):
    """The base's own zero-shot choice, where the row has its `base_scores` (one a response)."""
    scores = row.get("base_scores")
    return int(np.argmax(scores)) if scores else ABSTAIN


def sample_lfs():
    """The labelling functions for the bundled medical pool."""
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
