"""PubMedQA: yes/no/maybe questions about abstracts (Jin et al., 2019), from the Hub and from the original release.

Rows on the Hub have the columns pubid, question, context (a dict with the list `contexts`), final_decision and
long_answer. The original release, ori_pqal.json, is one object from ids to QUESTION, CONTEXTS, LONG_ANSWER and
final_decision. Its test ids are in test_ground_truth.json next to it.

`long_answer` is the conclusion of the abstract. It becomes an extra column, which labelling functions read and prompts
never contain. The `reasoning_*` fields are ignored because they reveal the label.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from icft_lite.data.schema import Example, RawRow, Source
from icft_lite.data.tables import iter_columns
from icft_lite.errors import ICFTError

CHOICES = ["yes", "no", "maybe"]
COLUMNS = frozenset(("pubid", "question", "context", "long_answer", "final_decision"))
"""The columns that are read, as on the Hub."""
CONCLUSION = "long_answer"
"""The extra column with the conclusion of the abstract."""
TEST_IDS_FILE = "test_ground_truth.json"
"""The original release's file with the ids of its test part."""


def matches(row: RawRow) -> bool:
    """Return True for a row with the columns of PubMedQA on the Hub. No single column makes a row PubMedQA.

    A row with choices or an answer of its own is none.
    """
    context = row.get("context")
    own = any(row.get(name) is not None for name in ("choices", "options", "answer", "answers", "label"))
    return "question" in row and isinstance(context, dict) and "contexts" in context and not own


def convert(row: RawRow, where: str) -> RawRow:
    """Return a row of PubMedQA on the Hub as question, choices and answer.

    Raises ICFTError, which starts with `where`, if the contexts are not texts.
    """
    contexts = row["context"]["contexts"]
    contexts = [contexts] if isinstance(contexts, str) else list(contexts if contexts is not None else ())
    if wrong := [one for one in contexts if not isinstance(one, str)]:
        raise ICFTError(f"{where}: a context is {wrong[0]!r:.40}; contexts must be texts")
    return {
        "id": row.get("pubid") if row.get("pubid") is not None else row.get("id"),
        "domain": row.get("domain") or "medical",
        "topic": row.get("topic") or "pubmedqa",
        "question": row["question"],
        "context": "\n".join(contexts),
        "choices": CHOICES,
        "answer": row.get("answer") if row.get("final_decision") is None else row["final_decision"],
    }


def is_release(data: Any) -> bool:
    """Return True for the content of a JSON file that has the shape of the original release."""
    return isinstance(data, dict) and bool(data) and all(isinstance(r, dict) and "QUESTION" in r for r in data.values())


def read_release(data: dict[str, RawRow], path: Path) -> Iterator[tuple[str, str, RawRow]]:
    """Yield (where, id, row as on the Hub) of the original release."""
    for key, row in data.items():
        yield (
            f"{path} id {key}",
            key,
            {
                "pubid": key,
                "question": row["QUESTION"],
                "context": {"contexts": row.get("CONTEXTS")},
                "long_answer": row.get("LONG_ANSWER"),
                "final_decision": row.get("final_decision"),
            },
        )


def is_pubmedqa(example: Example) -> bool:
    """Return True for a canonical example with a conclusion and PubMedQA's choices; no single column is enough."""
    return bool(example.get(CONCLUSION)) and list(example["responses"]) == CHOICES


def members(examples: Dataset) -> np.ndarray:
    """Return which examples are PubMedQA's: bool [n]."""
    if CONCLUSION not in examples.column_names:
        return np.zeros(len(examples), bool)
    values = iter_columns(examples, CONCLUSION, "responses")
    return np.array([is_pubmedqa({CONCLUSION: text, "responses": texts}) for text, texts in values], bool)


def is_source(examples: Dataset) -> bool:
    """Return True if more than half of a source's examples are PubMedQA's; a release may lack some conclusions."""
    return float(members(examples).mean()) > 0.5


def is_from_release(source: Source, examples: Dataset) -> bool:
    """Return True if `examples` were read from a .json file of the original release."""
    return isinstance(source, str | os.PathLike) and Path(source).suffix == ".json" and is_source(examples)


def published_test_ids(source: Source) -> Path | None:
    """Return the path of test_ground_truth.json next to the file `source`; None if there is none."""
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(source).parent / TEST_IDS_FILE
    return path if path.is_file() else None
