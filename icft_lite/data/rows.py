"""One raw row: the names of its columns, which of them have a value, and which are used."""

import ast
import io
import json
import re
import tokenize
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from icft_lite.data.answers import ABSENT, ANSWER_COLUMNS, EMPTY, LETTERS, Options
from icft_lite.data.conversations import read_text, shorten
from icft_lite.data.schema import FEATURES, RawRow, ReadOptions
from icft_lite.errors import ICFTError

PROMPTS = ("prompt", "question", "instruction", "input", "question_stem")
QUESTIONS = ("question", "prompt", "instruction", "question_stem")
REPLIES = ("completion", "response", "output", "answer")
CHOICES = ("choices", "options")
CONVERSATIONS = ("messages", "conversations", "conversation")
VERDICTS = ("label", "desirable")
"""Columns that say whether a reply is good, as in the data of KTO."""
CONTEXTS = ("context", "passage", "article", "premise")
OPTION = re.compile(
    r"(?=[a-j]$|op|choice|ending|sol\d)(op|option|choice|ending|sol|)[_ ]?([a-j]|(?<=[_ ])[k-z]|\d\d?)", re.IGNORECASE
)
"""The column of one option: opa, A, option_a, option1, sol1. A number alone is not."""
MEANINGFUL = frozenset(
    """label labels rating ratings score scores weight weights winner winner_model_a winner_model_b winner_tie desirable
    reward preference helpfulness correctness answers answerKey answer_key answer_idx answer_index cop history
    final_decision choices options chosen rejected system system_prompt instruction input passage article premise tools
    image images audio audios video videos""".split()
)
"""Columns that change what an example means: a shape uses them, or the row is refused."""
RIGHT = re.compile(r"(is[_ ]?)?(correct|gold|preferred|better).*", re.IGNORECASE)
"""Other columns that do: they say which answer is right or better."""
OPTIONAL = ("id", "domain", "topic", "level", "context", "kind", "entity", "facts")
KNOWN = MEANINGFUL.union(PROMPTS, REPLIES, CONVERSATIONS, OPTIONAL, CONTEXTS, ANSWER_COLUMNS, FEATURES).union(
    ("chosen", "rejected", "response_a", "response_b", "conversation_a", "conversation_b", "subject", "subject_name"),
    ("focus", "focus_area", "qtype"),
)
"""Names of columns that are recognized whatever their case."""


@dataclass
class Tally:
    """What was seen while the rows of a source were read."""

    shapes: Counter[str] = field(default_factory=Counter)
    headers: set[tuple[str, ...]] = field(default_factory=set)
    """The columns of each row."""
    used: set[str] = field(default_factory=set)
    """Columns that were read, with the names under which they are read, as in `present`."""
    present: dict[str, None] = field(default_factory=dict)
    """Columns that have a value in some row, in the order of their first occurrence."""
    notes: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[bool] = field(default_factory=Counter)
    """Numbers of replies with (True) and without (False) a verdict, see VERDICTS."""
    first_verdict: dict[bool, str] = field(default_factory=dict)
    """The place of the first of each."""


class Answer(NamedTuple):
    """An answer as the source has it: its column, its value, and the options that it names one of."""

    column: str
    value: Any
    options: Options


class Row:
    """One raw row: its columns that have a value, and which of them are used."""

    def __init__(self, raw: RawRow, where: str, options: ReadOptions, tally: Tally) -> None:
        self.where, self.options, self.tally = where, options, tally
        try:
            self.names = column_names(tuple(raw), tuple(options.columns.items()))
        except ICFTError as error:
            raise ICFTError(f"{where}: {error}") from None
        tally.headers.add(tuple(raw))
        self.keys = {name: raw[source] for source, name in self.names.items()}
        self.values = {name: value for name, value in self.keys.items() if not _is_empty(value)}
        self.used: set[str] = set()
        self.answers: list[Answer] = []

    def take(self, *columns: str) -> Any:
        """Return the value of the first of the columns that has one, and mark it as used; None if none has."""
        for name in columns:
            if name in self.values:
                self.used.add(name)
                return self.values[name]
        return None

    def source_of(self, name: str) -> str:
        """Return the column of the source that is read under a name."""
        return next(column for column, read_as in self.names.items() if read_as == name)

    def text(self, name: str) -> str:
        """Return the text of a column that must have one."""
        return read_text(self.take(name), name, self.where)

    def optional_text(self, *columns: str) -> str:
        """Return the text of the first of the columns that has a value; "" if none has, or if it is a word of ABSENT.

        A list of texts is joined by blank lines.
        """
        if self.values.keys().isdisjoint(columns):
            return ""
        value = self.take(*columns)
        if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
            self.tally.notes[f"{columns[0]} is a list of texts, which are joined by blank lines"] += 1
            value = "\n\n".join(value)
        if isinstance(value, str):
            return "" if value in ABSENT or not value.strip() else value
        if value == []:
            return ""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ICFTError(f"{self.where}: {columns[0]} is {shorten(value)}; give it a text, or remove it")
        return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)

    def read_list(self, name: str) -> list[Any]:
        """Return the list in a column; the cell of a CSV may hold a list, or texts joined by |."""
        value = parse_cell(self.take(name), self.where)
        if not isinstance(value, list):
            raise ICFTError(f"{self.where}: {name} must be a list (in a CSV: a JSON list, or texts joined by |)")
        return value

    def check_unused(self) -> None:
        """Record which columns were used. Raises ICFTError if one that changes the meaning was not."""
        self.tally.used.update(self.used)
        self.tally.present.update(dict.fromkeys(self.values))
        unused = {
            column: self.values[name]
            for column, name in self.names.items()
            if name in self.values.keys() - self.used
            and is_meaningful(name)
            and self.values[name] not in ([], {}, "[]")
        }
        if unused:
            column, value = next(iter(unused.items()))
            raise ICFTError(
                f"{self.where}: column {column} ({shorten(value)}) changes what an example means, and is not read "
                f"together with {', '.join(sorted(self.used))}; remove it, or read the file without it (--map "
                f"{','.join(f'unused={column}' for column in unused)})"
            )


def _is_empty(value: Any) -> bool:
    """Return True for None, NaN, and texts, lists and objects without content."""
    if isinstance(value, str | list | dict):
        return not value
    return value is None or bool(value != value)


@lru_cache(4096)
def is_meaningful(name: str) -> bool:
    """Return True for a column that changes what an example means, such as a rating or one option."""
    return name in MEANINGFUL or any(pattern.fullmatch(name) for pattern in (OPTION, RIGHT))


@lru_cache(4096)
def column_names(columns: tuple[str, ...], mapped: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Return, for each column of a source, the name under which it is read: without spaces around it, in known case.

    mapped: (name that is read, column) pairs. A column that one of them replaces is read as `NAME (replaced)`. Raises
    ICFTError if two columns have the same name.
    """
    known = {name.casefold(): name for name in KNOWN}
    chosen = {str(column).strip(): name for name, column in mapped}
    plain = {column: str(column).strip() for column in columns}
    targets = {chosen[name] for name in plain.values() if name in chosen}
    names: dict[str, str] = {}
    for column, name in plain.items():
        read_as = chosen.get(name) or known.get(name.casefold(), name)
        if name not in chosen and read_as in targets:
            read_as += " (replaced)"
        if read_as in names.values():
            raise ICFTError(f"two columns are named {read_as}; rename one of them")
        names[column] = read_as
    return names


def option_columns(names: Iterable[str]) -> dict[str, int]:
    """Return the columns of two or more options with the same beginning, such as opa and opb, and their positions."""
    families: dict[str, dict[str, int]] = {}
    for name in names:
        if match := OPTION.fullmatch(name):
            number = int(match[2]) if match[2].isdigit() else ord(match[2].lower()) - ord("a")
            families.setdefault(match[1].lower(), {})[name] = number
    largest = max(families.values(), key=len, default={})
    first = min(1, *largest.values()) if largest and any(name[-1].isdigit() for name in largest) else 0
    ordered = sorted(largest.items(), key=lambda item: item[1])
    return {name: number - first for name, number in ordered} if len(largest) > 1 else {}


def read_choices(row: Row, name: str) -> Options:
    """Return the options in one column: a list, an object from labels to texts, or texts and labels as ARC has them."""
    cell = row.values[name]
    value, labels, positions = parse_cell(row.take(name), row.where), None, list[int]()
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        if marks := sorted({key for one in value for key in one if key != "label" and is_meaningful(key)}):
            raise ICFTError(
                f"{row.where}: {name} has objects with {marks[0]}, which is not read; give only the texts in {name}, "
                f"and the right one in the column answer"
            )
        value = {key: [one.get(key) for one in value] for key in ("text", "label")}
    if isinstance(value, dict) and {"text", "label"} <= value.keys():
        value, labels = value["text"], value["label"]
    elif isinstance(value, dict):  # from labels to texts; one without a text retains its place
        labels, filled = list(value), [text for text in value.values() if text is not None]
        places = iter(range(len(filled)))
        positions = [EMPTY if text is None else next(places) for text in value.values()]
        value = filled
    if not isinstance(value, list) or (labels is not None and len(labels) != len(positions or value)):
        raise ICFTError(f"{row.where}: {name} must be a list (in a CSV: a JSON list, or texts joined by |)")
    texts = [str(one).lower() if isinstance(one, bool) else read_text(one, "a choice", row.where) for one in value]
    if len(different := list(dict.fromkeys(texts))) < len(texts):  # a repeated option is one, as in option columns
        positions = [EMPTY if i == EMPTY else different.index(texts[i]) for i in positions or range(len(texts))]
        texts = different
    if len(texts) < 2:
        csv = " (in a CSV: a JSON list, or texts joined by |)" if isinstance(cell, str) else ""
        raise ICFTError(f"{row.where}: choices are {texts}, expected two or more different texts{csv}; fix them")
    names = [str(label) for label in labels] if labels else LETTERS
    return Options(texts, names, positions, from_text=isinstance(cell, str))


def read_option_columns(row: Row) -> Options:
    """Return the options in one column each. Empty and repeated ones are left out, as MedMCQA has hundreds of them."""
    texts: list[str] = []
    columns = option_columns(row.keys)
    positions = [EMPTY] * (max(columns.values()) + 1)
    for name, position in columns.items():
        if str(row.values.get(name, "")).strip():
            text = row.text(name)
            texts += [] if text in texts else [text]
            positions[position] = texts.index(text)
    return Options(
        texts, positions=positions, from_text=all(isinstance(row.values.get(one), str | None) for one in columns)
    )


def parse_cell(value: Any, where: str) -> Any:
    """Return what the cell of a CSV holds: a JSON or Python list or object, a list of texts joined by |, or a text."""
    if not isinstance(value, str):
        return value
    if value.strip()[:1] + value.strip()[-1:] not in ("[]", "{}"):
        return value.split("|")
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        pass
    try:
        kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(value.strip()).readline)]
        kinds = [kind for kind in kinds if kind not in (tokenize.NL, tokenize.NEWLINE)]
        joined = (tokenize.STRING, tokenize.STRING) in zip(kinds, kinds[1:], strict=False)
        found = ast.literal_eval(value.strip())
    except (SyntaxError, ValueError, tokenize.TokenError):
        joined, found = True, None
    if joined:
        raise ICFTError(
            f"{where}: {shorten(value)} is neither a JSON list nor a Python list, but perhaps a NumPy array; save the "
            f"table again with lists (array.tolist()), or as Parquet"
        )
    return found
