"""How answers name an option: by its text, its letter, or its number from 0 or from 1; one coding per data set.

A coding is decided over all rows. Each row contributes what its answer would mean under every coding, as one small
number each, so that a file is read once.
"""

import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from string import ascii_uppercase
from typing import Any, Literal

import numpy as np

from icft_lite.errors import ICFTError

Coding = Literal["text", "letter", "index from 0", "index from 1"]
CODINGS: tuple[Coding, ...] = ("text", "letter", "index from 0", "index from 1")
INDICES: tuple[Coding, ...] = ("index from 0", "index from 1")
TEXT_FIRST, LETTER_FIRST = CODINGS, (*CODINGS[1:], CODINGS[0])
ANSWER_COLUMNS = {
    **dict.fromkeys(("answer", "correct_answer", "label", "completion", "response", "output"), TEXT_FIRST),
    **dict.fromkeys(("answerKey", "answer_key", "answer_idx", "answer_index"), LETTER_FIRST),
    "cop": CODINGS[1:],
}
"""From a column that answers a question with options to the codings that it may have, preferred ones first."""
ABSENT = frozenset({"nan", "NaN", "NAN", "null", "NULL", "Null", "None", "none", "N/A", "n/a", "NA", "<NA>", "#N/A"})
"""Texts that stand for a missing value, as pandas and spreadsheets write it."""
MISFIT, EMPTY = -1, -2
"""Readings of an answer that names no option, and of one that names an option without text."""
LETTERS = tuple(ascii_uppercase)
NUMBER = re.compile(r"\d{1,9}(?:\.0+)?")
LETTER = re.compile(r"\(?([A-Za-z])[.):]?")


@dataclass
class Options:
    """The options of a question: their texts without empty and repeated ones, and how the source names them."""

    texts: list[str]
    labels: Sequence[str] = LETTERS
    """The label of each option of the source: its letters, or the labels that it gives."""
    positions: list[int] = field(default_factory=list)
    """For each option of the source its index in `texts`, or EMPTY. Default: the same."""
    from_text: bool = False
    """Whether the options were one cell of a CSV, where numbers are not distinguished from texts."""

    def __post_init__(self) -> None:
        self.positions = self.positions or list(range(len(self.texts)))


def is_absent(answer: Any, options: Options) -> bool:
    """Return True for an answer that says that there is none: −1 or a text of ABSENT, unless it is an option."""
    text = str(answer).strip()
    is_option = text.casefold() in (option.casefold() for option in options.texts)
    return not is_option and (text in ABSENT or text in ("-1", "-1.0"))


def read_answer(answer: Any, options: Options, where: str) -> list[int]:
    """Return, for each of CODINGS, the index of the option that `answer` names, EMPTY, or MISFIT.

    A Boolean is the text true, false, yes or no, never a number. Raises ICFTError if `answer` is a list or an object.
    """
    if isinstance(answer, list | dict):
        raise ICFTError(f"{where}: the answer is {answer!r}; give one text, letter or index")
    folded = [text.casefold() for text in options.texts]
    if isinstance(answer, bool):
        words = ("true", "yes") if answer else ("false", "no")
        return [next((folded.index(word) for word in words if word in folded), MISFIT), MISFIT, MISFIT, MISFIT]
    key = str(answer).strip()
    number = int(float(key)) if NUMBER.fullmatch(key) else None
    if number is not None and key not in options.texts:  # pandas writes 4 as 4.0 in a column with missing values
        key = str(number)
    if key in options.texts:
        text = options.texts.index(key)
    else:
        text = folded.index(key.casefold()) if folded.count(key.casefold()) == 1 else MISFIT
    named = key if number is None else str(number)
    if options.labels is LETTERS and (match := LETTER.fullmatch(key)):
        named = match[1]
    labels = [label.casefold() for label in options.labels[: len(options.positions)]]
    at = [labels.index(named.casefold()) if named.casefold() in labels else -1]
    at += [-1, -1] if number is None else [number, number - 1]
    return [text, *(options.positions[i] if 0 <= i < len(options.positions) else MISFIT for i in at)]


class AnswerColumn:
    """The answers in one column of one source, read under every coding that still fits all of them."""

    def __init__(self, name: str, answers_from: int | None) -> None:
        excluded = set() if answers_from is None else {INDICES[1 - answers_from]}
        self.name = name
        self.answers_from = answers_from
        self.order: list[Coding] = [coding for coding in ANSWER_COLUMNS[name] if coding not in excluded]
        if answers_from is not None:  # the user says that numbers are indices
            self.order.sort(key=lambda coding: coding not in INDICES)
        self.fitting = set(self.order)
        self.rows = array("q")
        self.readings = {coding: array("h") for coding in CODINGS}
        self.are_numbers = True
        self.first: tuple[str, Any, Options] | None = None
        self.excluded_by: dict[Coding, str] = {}

    def add(self, row: int, answer: Any, options: Options, where: str) -> None:
        """Add the answer of example `row`. Raises ICFTError if it fits no coding, or none that earlier ones fit."""
        found = dict(zip(CODINGS, read_answer(answer, options, where), strict=True))
        fits = [coding for coding in self.order if found[coding] != MISFIT]
        if not fits:
            counted = "" if self.answers_from is None else f", counted from {self.answers_from}"
            raise ICFTError(
                f"{where}: {self.name} {answer!r} is not among its choices {options.texts}{counted}; give a choice's "
                f"text, letter or index"
            )
        if not self.fitting.intersection(fits):
            raise ICFTError(
                f"{where}: {self.name} {answer!r} is a choice's {' or '.join(fits)}, but "
                f"{self.excluded_by[fits[0]]}; answers of one data set must have one coding, change one of them"
            )
        for coding in self.fitting.difference(fits):
            self.excluded_by[coding] = f"{self.name} {answer!r} at {where} is its {' or '.join(fits)}"
        self.fitting.intersection_update(fits)
        self.first = self.first or (where, answer, options)
        self.are_numbers &= NUMBER.fullmatch(str(answer).strip()) is not None and (
            options.from_text or not isinstance(answer, str)
        )
        self.rows.append(row)
        for coding, index in found.items():
            self.readings[coding].append(index)


def decide_coding(columns: Sequence[AnswerColumn]) -> Coding:
    """Return the coding of a data set: the first in the order of its column that fits all answers.

    columns: the same column in one or several sources. Raises ICFTError if no coding fits all of them, or if numbers
    may be counted from 0 and from 1, or be texts of options, and no answer settles it.
    """
    fitting = set(columns[0].fitting)
    for column in columns[1:]:
        if not fitting & column.fitting:
            raise ICFTError(
                f"{_first_place(column)}: {column.name} is a choice's {_names(column.fitting)}, but at "
                f"{_first_place(columns[0])} its {_names(fitting)}; answers of files with the same columns must have "
                f"one coding, change one file"
            )
        fitting &= column.fitting
    if fitting.issuperset(INDICES):  # a coding by which no answer names an option without text is more likely
        empty = {coding for coding in INDICES if any(EMPTY in column.readings[coding] for column in columns)}
        fitting = fitting - empty if len(empty) == 1 else fitting
    chosen = next(coding for coding in columns[0].order if coding in fitting)
    numbers = all(column.are_numbers for column in columns)
    rivals = [coding for coding in INDICES if coding in fitting and coding != chosen]
    if columns[0].answers_from is None and (chosen in INDICES or (chosen == "text" and numbers)):
        for rival in rivals:
            _require_same(columns, chosen, rival)
    return chosen


def _require_same(columns: Sequence[AnswerColumn], chosen: Coding, rival: Coding) -> None:
    """Raise ICFTError if two codings give an answer different meanings."""
    for column in columns:
        if column.readings[chosen] != column.readings[rival]:
            assert column.first is not None
            where, answer, options = column.first
            meanings = dict(zip(CODINGS, read_answer(answer, options, where), strict=True))
            shown = " and ".join(
                f"{options.texts[meanings[coding]] if meanings[coding] >= 0 else ''!r} as {coding}"
                for coding in (chosen, rival)
            )
            raise ICFTError(
                f"{where}: {column.name} {answer!r} may mean {shown}, and no example settles it; give --answers-from 0 "
                f"or 1 (in Python ReadOptions(answers_from=…)), or write letters"
            )


def could_be_letters(column: AnswerColumn, coding: Coding) -> bool:
    """Return True if answers that are read as texts could be letters with another meaning, as among vitamins."""
    letters = "letter" in column.fitting and column.readings["letter"] != column.readings["text"]
    return coding == "text" and letters


def _first_place(column: AnswerColumn) -> str:
    assert column.first is not None
    return column.first[0]


def _names(codings: set[Coding]) -> str:
    return " or ".join(coding for coding in CODINGS if coding in codings)


def fill_labels(labels: np.ndarray, column: AnswerColumn, coding: Coding) -> int | None:
    """Write the indices that a column gives into `labels`, −1 where unknown.

    Returns the number of the first example that has a different label already, from another column; None if all agree.
    """
    rows, found = np.array(column.rows), np.array(column.readings[coding], dtype=np.int64)
    before = labels[rows]
    if (differs := (before != -1) & (before != found)).any():
        return int(rows[differs.argmax()])
    labels[rows] = found
    return None
