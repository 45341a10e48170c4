"""The canonical example: its columns, and what its label means."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
from datasets import Dataset, Features, Value

from icft_lite.errors import ICFTError

Example = dict[str, Any]
"""One canonical example: the columns of FEATURES."""
Examples = Dataset | Sequence[Example]
"""Canonical examples, as functions accept them."""
RawRow = dict[str, Any]
"""One row of a file or of a Hub data set, in any accepted format."""
Source: TypeAlias = str | os.PathLike[str] | list[RawRow] | tuple[RawRow, ...] | Dataset | pd.DataFrame
"""A path, a Hub name (`owner/name[:config][@split]`), a list of dicts, a Dataset or a DataFrame."""


@dataclass(frozen=True)
class ReadOptions:
    """How a user wants a source to be read, where its content leaves a choice."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """From the name of a column that is read (such as `question`) to its name in the file: `--map question=Frage`."""
    answers_from: Literal[0, 1] | None = None
    """Number of the first option where answers are numbers: `--answers-from 1`. None: decided from the whole file."""
    turns: Literal["last", "all"] = "last"
    """Assistant turns of a conversation that become examples: the last one, or each of them: `--turns all`."""

    def __post_init__(self) -> None:
        """Raise ICFTError for a value that is not possible."""
        for name, allowed in (("answers_from", ("0", "1", "None")), ("turns", ("last", "all"))):
            if str(value := getattr(self, name)) not in allowed:
                raise ICFTError(f"{name}: {value!r} is not possible; give {' or '.join(allowed[:2])}")


@dataclass
class SourceSummary:
    """What was understood of one source, decided over all its rows."""

    name: str
    """The source, as the user named it."""
    shapes: dict[str, int] = field(default_factory=dict)
    """From the name of a shape of rows (such as `question + choices`) to the number of rows that have it."""
    answer_coding: str = ""
    """How answers name an option: `text`, `letter`, `index from 0`, `index from 1`, or "" without options."""
    columns_used: list[str] = field(default_factory=list)
    columns_ignored: list[str] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)
    """From the reason why rows of the source are not used to their number."""
    notes: list[str] = field(default_factory=list)
    """What the user should know, one sentence each."""


TEXT = Value("string")
FEATURES = Features(
    {
        "id": TEXT,
        "task": TEXT,
        "domain": TEXT,
        "topic": TEXT,
        "level": TEXT,
        "context": TEXT,
        "prompt": TEXT,
        "history": [{"role": TEXT, "content": TEXT}],
        "responses": [TEXT],
        "label": Value("int64"),
        "posterior": [Value("float64")],
        "facts": [TEXT],
        "kind": TEXT,
        "entity": TEXT,
    }
)
"""The columns of a canonical example.

    id          unique in its bundle
    task        response | question | pair
    domain      medical | general, or what the user names
    topic       the unit of reports and of label models
    level       "" | easy | medium | hard
    context     text that is put before the prompt, or ""
    prompt      the last user turn
    history     the earlier turns
    responses   one reply, the options of a question, or the two replies of a pair
    label       index of the right response, −1 if unknown
    posterior   weak label: probabilities over the responses, or []; a hard label has that of its one response
    facts       what a free reply must contain
    kind        "" | rule | fact
    entity      what the example is about, or ""
"""
COLUMNS = tuple(FEATURES)

TASKS = ("question", "pair", "response")
"""Kinds of examples."""
LEVELS = ("easy", "medium", "hard")
"""The levels of difficulty, in the order of the curriculum."""
FORMER_LEVELS = {"middle": "medium"}  # data: the name in older files
"""Names of levels in older files. They stay accepted and are read as the current name."""


def source_name(source: Source) -> str:
    """Return the name of a source in messages and in DataBundle.sources."""
    if isinstance(source, str | os.PathLike):
        return str(source)
    kind = "list" if isinstance(source, list | tuple) else type(source).__name__
    return f"a {kind} of {len(source)} examples" if hasattr(source, "__len__") else f"a {kind}"


def best_response(example: Example) -> int:
    """Return the index of the most likely response: the posterior's largest entry, else the label."""
    return best_index(example["posterior"], example["label"])


def best_index(posterior: Sequence[float], label: int) -> int:
    """Return the index of the posterior's largest entry; without a posterior the label; 0 if that is unknown."""
    return int(np.argmax(posterior)) if posterior else max(label, 0)


def as_response(example: Example) -> Example:
    """Return the example as a prompt with one certain response, its most likely one."""
    response = example["responses"][best_response(example)]
    return {**example, "task": "response", "responses": [response], "label": 0, "posterior": []}
