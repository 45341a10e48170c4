"""MedQuAD: question-answer pairs from NIH and CDC websites (Ben Abacha and Demner-Fushman, 2019).

Columns that are read: question, answer, focus (what the question is about: the example's entity) and qtype (the kind of
question: its topic), besides the optional columns of the generic formats. A row with only one of focus and qtype is
recognized too.
"""

from collections import Counter

from icft_lite.data.formats import generic_format, read_text
from icft_lite.data.schema import Example, RawRow


def matches(row: RawRow) -> bool:
    """Return True for a row with the columns of MedQuAD that has no generic format."""
    return {"question", "answer"} <= set(row) and bool({"focus", "qtype"} & set(row)) and generic_format(row) is None


def convert(row: RawRow, where: str) -> RawRow:
    """Return a row of MedQuAD as prompt and completion. Raises ICFTError if the question or the answer is no text."""
    return {
        **row,
        "prompt": read_text(row, "question", where),
        "completion": read_text(row, "answer", where),
        "entity": row.get("entity") or row.get("focus"),
        "topic": row.get("topic") or row.get("qtype"),
    }


def number_repeated_id(example: Example, row: RawRow, counts: Counter[str]) -> None:
    """Append "#2", "#3", … to an id that earlier MedQuAD examples of the source have.

    MedQuAD numbers the rows of each institute from 1, so its ids repeat. `counts` is how often each id has occurred in
    the source. It is updated.
    """
    if {"focus", "qtype"} <= set(row):
        counts[example["id"]] += 1
        if (count := counts[example["id"]]) > 1:
            example["id"] += f"#{count}"
