"""The sources of a command, read as Datasets of canonical examples.

Rows are streamed and read once, so that a million of them fit in memory. What depends on all rows, such as the coding
of answers, is decided at the end. Every error that the user can fix is an ICFTError of one line: which file, which
line, what is wrong, how to fix it.
"""

import difflib
import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset

from icft_lite.data.answers import EMPTY, AnswerColumn, Coding, could_be_letters, decide_coding, fill_labels
from icft_lite.data.conversion import convert_row
from icft_lite.data.corpora import pubmedqa
from icft_lite.data.files import RawRows, open_source
from icft_lite.data.rows import CONVERSATIONS, KNOWN, OPTION, Tally, column_names
from icft_lite.data.schema import Example, Examples, ReadOptions, Source, SourceSummary, source_name
from icft_lite.data.tables import from_table, iter_columns, to_table
from icft_lite.errors import ICFTError


@dataclass
class ReadSource:
    """One source after reading: its canonical examples, and what was understood of it."""

    examples: Dataset
    summary: SourceSummary


def read_sources(
    sources: Sequence[Source],
    domain: str | Sequence[str] = "",
    split: str | None = None,
    options: ReadOptions = ReadOptions(),  # noqa: B008 - it is frozen
) -> list[ReadSource]:
    """Return the sources of one command, with one answer coding for all of a domain that have the same columns.

    domain: for rows that name none; one for all sources, or one for each. split: of Hub data sets. Ids that are made
    for rows without one are unique over the sources.

    Raises ICFTError if a source cannot be read, a row has no shape, an id occurs twice in a source, answers have no
    coding or more than one, or a column that `options` names is in no source.
    """
    domains = [domain] * len(sources) if isinstance(domain, str) else domain
    for name, given in options.columns.items():
        if not (name in KNOWN or OPTION.fullmatch(name) or name.startswith("unused")):
            near = difflib.get_close_matches(name, KNOWN, 1, 0.75) or ["question" if given not in KNOWN else given]
            hint = f"did you mean {near[0]}={name if near[0] == given else given}?"
            raise ICFTError(f"--map {name}={given}: nothing is read under the name {name}; {hint}")
    paths = Counter(str(Path(one).resolve()) for one in sources if isinstance(one, str | os.PathLike))
    if repeated := [path for path, number in paths.items() if number > 1]:
        raise ICFTError(f"{repeated[0]}: the same source is given more than once; give it once")
    names: Counter[str] = Counter()
    parts = [_Part(source, name, split, options, names) for source, name in zip(sources, domains, strict=True)]
    columns = {str(name).strip() for part in parts for header in part.tally.headers for name in header}
    if missing := [
        f"{name.split()[0]}={column}"  # any number of columns may be unused: `unused NAME` is the key of each
        for name, column in options.columns.items()
        if str(column).strip() not in columns
    ]:
        raise ICFTError(
            f"{source_name(sources[0])}: there is no such column as in --map {missing[0]}; the columns are "
            f"{', '.join(sorted(columns))}"
        )
    groups: dict[tuple[str, frozenset[str], str, str], list[AnswerColumn]] = {}
    for part in parts:
        for (shape, name), column in part.answers.items():
            groups.setdefault((part.domain, frozenset(part.column_names()), shape, name), []).append(column)
    codings = {id(column): coding for group in groups.values() for coding in [decide_coding(group)] for column in group}
    found = [part.finish(codings) for part in parts]
    check_unique_ids([read.examples for read in found], [part.name for part in parts])
    return found


def check_unique_ids(parts: Sequence[Examples], names: Sequence[str] = ()) -> None:
    """Raise ICFTError if two of `parts` have an example with the same id. names: those of the parts."""
    seen: set[str] = set()
    for part in parts:
        if repeated := seen & (ids := {name for (name,) in iter_columns(part, "id")}):
            name = min(repeated)
            places = [place for place, one in zip(names, parts) if (name,) in iter_columns(one, "id")]
            raise ICFTError(f"id {name!r} is in {' and '.join(places) or 'two files'}; give each example its own id")
        seen |= ids


class _Part:
    """One source while its command is read: its table, whose labels are unknown until `finish`."""

    def __init__(
        self, source: Source, domain: str, split: str | None, options: ReadOptions, names: Counter[str]
    ) -> None:
        """Read the source. names: how many sources before have each name; it is updated."""
        self.source, self.domain, self.split, self.options = source, domain, split, options
        self.name = source_name(source)
        self.tally = Tally()
        self.answers: dict[tuple[str, str], AnswerColumn] = {}
        topic, rows = open_source(source, split)
        names[topic] += 1
        self.topic, self.prefix = topic, topic if names[topic] == 1 else f"{topic}#{names[topic]}"
        try:
            self.table = to_table(self._unique(rows), [pubmedqa.CONCLUSION])
        except UnicodeEncodeError:
            raise self._find_surrogate() from None

    def finish(self, codings: Mapping[int, Coding]) -> ReadSource:
        """Return the source with its labels. codings: of each answer column, by its `id`."""
        if len(places := self.tally.first_verdict) == 2:
            raise ICFTError(
                f"{places[False]}: nothing says whether the reply is good, as at {places[True]}; mark all replies true "
                f"or false, or remove those without a mark ({self.tally.verdicts[False]} of "
                f"{self.tally.verdicts.total()})"
            )
        labels = np.array(self.table["label"].to_numpy())
        found: dict[str, str] = {}
        for (_, name), column in self.answers.items():
            found[name] = coding = codings[id(column)]
            if (i := fill_labels(labels, column, coding)) is not None:
                where = next(islice(self._again(), i, None))[0]
                raise ICFTError(f"{where}: {' and '.join(found)} name different choices; correct one of them")
            if could_be_letters(column, coding):
                self.tally.notes[f"{name} is a letter and an option's text; it is read as text"] += len(column.rows)
        table = self.table.set_column(self.table.column_names.index("label"), "label", pa.array(labels))
        left_out = self.tally.left_out
        if empty := int((labels == EMPTY).sum()):
            left_out["the right option is empty"] = empty
            table = table.filter(labels != EMPTY)
        if not len(table):
            reasons = "".join(f"; {number} left out: {reason}" for reason, number in left_out.items())
            raise ICFTError(f"{self.name}: no examples in it{reasons}; give at least one")
        if table[pubmedqa.CONCLUSION].null_count == len(table):
            table = table.drop_columns(pubmedqa.CONCLUSION)
        one_coding = len(set(found.values())) == 1
        notes = [f"{note} (count: {number})" for note, number in self.tally.notes.items()]
        if self.prefix != self.topic:
            notes.append(
                f"ids of rows without one begin with {self.prefix}, since another source is named {self.topic}"
            )
        shown = self.column_names()
        summary = SourceSummary(
            name=self.name,
            shapes=dict(self.tally.shapes),
            answer_coding=", ".join(dict.fromkeys(c if one_coding else f"{c} ({name})" for name, c in found.items())),
            columns_used=[shown.get(name, name) for name in self.tally.present if name in self.tally.used],
            columns_ignored=[shown.get(name, name) for name in self.tally.present if name not in self.tally.used],
            left_out=left_out,
            notes=notes,
        )
        return ReadSource(from_table(table), summary)

    def column_names(self) -> dict[str, str]:
        """Return, for each column by the name under which it is read, the name that the summary shows."""
        mapped = tuple(self.options.columns.items())
        shown: dict[str, str] = {}
        for header in self.tally.headers:
            for column, name in column_names(header, mapped).items():
                plain = str(column).strip()
                shown[name] = plain if plain.casefold() == name.casefold() else f"{plain} as {name}"
        return shown

    def _find_surrogate(self) -> ICFTError:
        """Return the error for half of a surrogate pair, which is no character and cannot be stored."""
        for where, example in self._again():
            try:
                json.dumps(example, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                return ICFTError(
                    f"{where}: {ascii(error.object[error.start])} is half of a character (a lone surrogate); remove it"
                )
        raise AssertionError("reading the source again gives the same rows")

    def _again(self) -> Iterator[tuple[str, Example]]:
        """Read the source once more, to find the place of an example."""
        return self._examples(open_source(self.source, self.split)[1], Tally(), {})

    def _unique(self, rows: RawRows) -> Iterator[Example]:
        """Yield the canonical examples. Raises ICFTError if two of them have the same id."""
        seen = set()
        for where, example in self._examples(rows, self.tally, self.answers):
            name = example["id"]
            if name in seen:
                first = next(place for place, other in self._again() if other["id"] == name)
                raise ICFTError(f"{where}: id {name!r} is already used at {first}; give each example its own id")
            seen.add(name)
            yield example

    def _examples(
        self, rows: RawRows, tally: Tally, answers: dict[tuple[str, str], AnswerColumn]
    ) -> Iterator[tuple[str, Example]]:
        """Yield (where, canonical example). What is seen goes to `tally`, answers to `answers`."""
        counts: Counter[str] = Counter()
        index = 0
        for where, number, raw in rows:
            examples, found, shape = convert_row(raw, where, self.options, tally)
            for turn, example in enumerate(examples, 1):
                example["id"] = example["id"] or f"{self.prefix}-{number}"
                example["domain"], example["topic"] = example["domain"] or self.domain, example["topic"] or self.topic
                if {"focus", "qtype"} <= raw.keys():  # MedQuAD numbers the rows of each institute from 1
                    counts[example["id"]] += 1
                    if (count := counts[example["id"]]) > 1:
                        example["id"] += f"#{count}"
                if self.options.turns == "all" and shape in CONVERSATIONS:
                    example["id"] += f"/turn{turn}"
                yield where, example
            for answer in found if examples else ():
                key = (shape, answer.column)
                if key not in answers:
                    answers[key] = AnswerColumn(answer.column, self.options.answers_from)
                answers[key].add(index, answer.value, answer.options, where)
            index += len(examples)
