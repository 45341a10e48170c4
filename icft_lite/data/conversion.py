"""The way from a raw row to canonical examples, whatever its shape."""

import re

from icft_lite.data.answers import ANSWER_COLUMNS, AnswerColumn, decide_coding
from icft_lite.data.conversations import read_text
from icft_lite.data.corpora import CORPORA, Corpus
from icft_lite.data.formats import SHAPES, find_shape
from icft_lite.data.rows import CONTEXTS, OPTIONAL, PROMPTS, REPLIES, Answer, Row, Tally
from icft_lite.data.schema import FORMER_LEVELS, LEVELS, Example, RawRow, ReadOptions
from icft_lite.errors import ICFTError

FORMATS = (
    "prompt + completion, messages, question + choices (+ answer), prompt + chosen + rejected, "
    "or prompt + response_a + response_b"
)
"""The most common shapes, as error messages list them."""
KINDS = ("rule", "fact")
TEMPLATE = re.compile(r"<\|\w+\|>|</?s>|\[/?INST\]|<(start|end)_of_turn>")
"""Marks that chat templates put around turns."""
GUESSES = {
    "question": "frage pregunta domanda pergunta query q problem user goal sentence ctx title text patient",
    "answer": "antwort respuesta risposta resposta réponse reponse reply a target solution correct_answer",
    "choices": "antworten optionen opciones alternatives candidates endings",
}
"""From a column that is read to names that columns with this content often have."""


def convert_row(raw: RawRow, where: str, options: ReadOptions, tally: Tally) -> tuple[list[Example], list[Answer], str]:
    """Return (canonical examples, answers, name of the shape) of one raw row.

    A conversation of which all replies are used has an example for each of them; a row that is left out has none. The
    id is "" if the row has none. The label of a question is −1 until the coding of its answers is known. Raises
    ICFTError if the row has no shape or a value is invalid.
    """
    if not isinstance(raw, dict):
        raise ICFTError(f"{where}: found a {type(raw).__name__}, expected an object with named columns")
    if isinstance(raw.get("question"), dict):  # ARC, OpenBookQA and CommonsenseQA as their authors publish them
        raw = {**raw, **{"question" if name == "stem" else name: value for name, value in raw["question"].items()}}
    row = Row(raw, where, options, tally)
    if corpus := next((one for one in CORPORA if one.matches(raw) or one.matches(row.keys)), None):
        return _convert_corpus(row, corpus)
    examples, shape = _convert_by_shape(row)
    row.check_unused()
    tally.shapes[shape] += 1
    return examples, row.answers, shape


def _convert_by_shape(row: Row) -> tuple[list[Example], str]:
    """Return (canonical examples, name of the shape) of a row. Raises ICFTError if it has no shape."""
    if (found := find_shape(frozenset(row.values), frozenset(row.keys))) is None:
        raise _no_shape(row)
    convert, columns = found
    return [_add_optional(row, example) for example in convert(row, columns)], " + ".join(columns)


def _convert_corpus(row: Row, corpus: Corpus) -> tuple[list[Example], list[Answer], str]:
    """Return what `convert_row` does for a row of a data set with a structure of its own."""
    try:
        raw = corpus.convert(row.keys, row.where)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ICFTError(
            f"{row.where}: not a row of {corpus.name} ({type(error).__name__}: {error}); correct it"
        ) from None
    others = {name: value for name, value in row.keys.items() if name not in corpus.columns}
    converted = Row({**others, **raw}, row.where, ReadOptions(), Tally())
    extra = {corpus.conclusion: row.optional_text(corpus.conclusion)} if corpus.conclusion else {}
    examples = [example | extra for example in _convert_by_shape(converted)[0]]
    row.used |= row.values.keys() & (corpus.columns | converted.used)
    row.tally.notes.update(converted.tally.notes)
    row.check_unused()
    row.tally.shapes[corpus.name] += 1
    return examples, converted.answers, corpus.name


def normalize_example(row: RawRow, where: str, default_id: str | int) -> Example:
    """Return one raw row as a canonical example, a dict with the columns of FEATURES.

    An answer is read as if the row were the whole data set. where: what error messages start with. default_id: the id
    of a row that has none. Raises ICFTError if the row has no known shape, is left out, or a value is invalid.
    """
    tally = Tally()
    examples, answers, _ = convert_row(row, where, ReadOptions(), tally)
    if not examples:
        raise ICFTError(f"{where}: {', '.join(tally.left_out)}; use another example")
    example = examples[-1]
    for answer in answers:
        column = AnswerColumn(answer.column, None)
        column.add(0, answer.value, answer.options, where)
        example["label"] = max(column.readings[decide_coding([column])][0], -1)
    return {**example, "id": example["id"] or str(default_id)}


def _add_optional(row: Row, example: Example) -> Example:
    """Return the example with all columns of FEATURES; those that its shape does not set are read from the row."""
    level, kind = row.optional_text("level"), row.optional_text("kind")
    texts = {name: example.get(name) or row.optional_text(name) for name in ("domain", "topic", "entity")}
    if marks := TEMPLATE.search("\n".join([example["prompt"], *example["responses"]])):
        row.tally.notes[f"the text has marks of a chat template, such as {marks[0]}; remove them"] += 1
    facts = [read_text(fact, "a fact", row.where) for fact in row.read_list("facts")] if "facts" in row.values else []
    return {
        "id": row.optional_text("id"),
        "posterior": [],
        **example,
        **texts,
        "context": row.optional_text(*CONTEXTS),
        "level": _check_name(FORMER_LEVELS.get(level, level), "level", LEVELS, row.where),
        "kind": _check_name(kind, "kind", KINDS, row.where),
        "facts": facts,
    }


def _check_name(value: str, column: str, names: tuple[str, ...], where: str) -> str:
    """Return the value if it is one of `names` or empty. Raises ICFTError for any other value."""
    if value not in ("", *names):
        *others, last = names
        raise ICFTError(f"{where}: {column} is {value!r}; use {', '.join(others)} or {last}, or remove it")
    return value


def _no_shape(row: Row) -> ICFTError:
    """Return the error for a row without a shape: the value that is missing, or a mapping that could fix it."""
    source = {name: column for column, name in row.names.items()}
    shape_columns = {name for _, parts in SHAPES for part in parts for name in part}
    present = frozenset(row.keys)
    match = find_shape(present, present)
    columns = match[1] if match else ()
    if not match and present & shape_columns and present <= shape_columns.union(OPTIONAL):
        shares = [sum(not present.isdisjoint(part) for part in parts) / len(parts) for _, parts in SHAPES]
        closest = SHAPES[max(range(len(SHAPES)), key=lambda i: (shares[i], i))][1]
        columns = tuple(next((name for name in part if name in present), part[0]) for part in closest)
    for name in columns:
        if name not in row.values:
            try:
                read_text(row.keys.get(name), name, row.where)
            except ICFTError as error:
                return error
    if wrong := [f"{name}={column}" for name, column in row.options.columns.items() if column not in row.names]:
        return ICFTError(
            f"{row.where}: there is no such column as in --map {wrong[0]}; the columns are {', '.join(row.names)}"
        )
    guesses = {
        target: next((source[name] for name in row.values if name.casefold() in (target, *words.split())), "")
        for target, words in GUESSES.items()
    }
    if {"a", "b"} <= {name.casefold() for name in row.values}:  # options with a column each
        guesses["answer"] = ""
    answered = {*REPLIES, *(ANSWER_COLUMNS if guesses["choices"] else ())}
    for target, names in (("question", set(PROMPTS)), ("answer", answered)):
        guesses[target] = "" if names & row.values.keys() else guesses[target] or "COLUMN"
    mapping = ",".join(f"{target}={name}" for target, name in guesses.items() if name)
    return ICFTError(
        f"{row.where}: columns {', '.join(map(str, row.names)) or '(none)'} fit no format; name those that are read, "
        f"such as --map {mapping} (in Python ReadOptions(columns=…)), or rename them to {FORMATS}"
    )
