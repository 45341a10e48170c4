"""The canonical example: its columns, and what its labels say."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset, Features, Value

Example = dict[str, Any]
"""One canonical example: the columns of FEATURES."""
Examples = Dataset | Sequence[Example]
"""Canonical examples, as functions accept them."""

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
"""id; task: response | question | pair; domain, topic; level: "" | easy | middle | hard; context: text put
before the prompt; prompt: the last user turn; history: earlier turns; responses: one reply, the options, or
two replies; label: index of the right response, -1 unknown; posterior: weak label over responses, or [];
facts: what a free reply must contain; kind: "" | rule | fact; entity: what the row is about, or ""."""
COLUMNS = tuple(FEATURES)

LEVELS = ("easy", "middle", "hard")


def best_response(row):
    """Index of the likeliest response: the posterior's largest entry, else the label."""
    return best_index(row["posterior"], row["label"])


def best_index(posterior, label):
    return int(np.argmax(posterior)) if posterior else max(label, 0)


def as_response(row):
    """A row as it is taken for certain: its prompt and its likeliest response."""
    return {**row, "task": "response", "responses": [row["responses"][best_response(row)]], "label": 0, "posterior": []}
