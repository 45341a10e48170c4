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

from datasets import Dataset

from icft_lite.data.schema import Example, RawRow, Source

CHOICES = ["yes", "no", "maybe"]
CONCLUSION = "long_answer"
"""The extra column with the conclusion of the abstract."""
TEST_IDS_FILE = "test_ground_truth.json"
"""The original release's file with the ids of its test part."""


def matches(row: RawRow) -> bool:
    """Return True for a row with the columns of PubMedQA on the Hub."""
    wanted = {"question", "context", "final_decision"} <= set(row)
    return wanted and isinstance(row["context"], dict) and "contexts" in row["context"]


def convert(row: RawRow, where: str) -> RawRow:
    """Return a row of PubMedQA on the Hub as question, choices and answer."""
    contexts, conclusion = row["context"]["contexts"], row.get("long_answer")
    return _question(row.get("pubid"), row["question"], contexts, row["final_decision"], conclusion)


def is_release(data: Any) -> bool:
    """Return True for the content of a JSON file that has the shape of the original release."""
    return isinstance(data, dict) and bool(data) and all(isinstance(r, dict) and "QUESTION" in r for r in data.values())


def read_release(data: dict[str, RawRow], path: Path) -> Iterator[tuple[str, str, RawRow]]:
    """Yield (where, id, row as question, choices and answer) of the original release."""
    for key, row in data.items():
        contexts, conclusion = row.get("CONTEXTS") or [], row.get("LONG_ANSWER")
        yield f"{path} id {key}", key, _question(key, row["QUESTION"], contexts, row.get("final_decision"), conclusion)


def add_conclusion(example: Example, row: RawRow) -> None:
    """Add the column `long_answer` to the canonical example of a row that has it."""
    if CONCLUSION in row:
        example[CONCLUSION] = str(row[CONCLUSION] or "")


def has_conclusions(examples: Dataset) -> bool:
    """Return True if the examples have the column `long_answer`, by which PubMedQA is known after reading."""
    return CONCLUSION in examples.column_names


def is_from_release(source: Source, examples: Dataset) -> bool:
    """Return True if `examples` were read from a .json file of the original release."""
    return isinstance(source, str | os.PathLike) and Path(source).suffix == ".json" and has_conclusions(examples)


def published_test_ids(source: Source) -> Path | None:
    """Return the path of test_ground_truth.json next to the file `source`; None if there is none."""
    if not isinstance(source, str | os.PathLike):
        return None
    path = Path(source).parent / TEST_IDS_FILE
    return path if path.is_file() else None


def _question(example_id: Any, question: Any, contexts: list[str], answer: Any, conclusion: Any) -> RawRow:
    return {
        "id": example_id,
        "question": question,
        "context": "\n".join(contexts),
        "choices": CHOICES,
        "answer": answer,
        "domain": "medical",
        "topic": "pubmedqa",
        CONCLUSION: conclusion,
    }
