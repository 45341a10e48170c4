"""MedMCQA: multiple-choice questions of Indian medical entrance exams (Pal et al., 2022), as the Hub has them.

Columns that are read: id, question, opa, opb, opc, opd (the options), cop (the right option: 0 to 3, or −1 in the
test split, whose answers are not published) and subject_name. `exp`, the explanation, is ignored because it reveals the
answer.
"""

from typing import Any

from icft_lite.data.schema import RawRow
from icft_lite.errors import ICFTError

OPTIONS = ("opa", "opb", "opc", "opd")


def matches(row: RawRow) -> bool:
    """Return True for a row with the columns of MedMCQA."""
    return {"question", *OPTIONS, "cop"} <= set(row)


def convert(row: RawRow, where: str) -> RawRow | None:
    """Return a row of MedMCQA as question, choices and answer; None if it is unusable.

    About 700 rows contain an option twice (github.com/medmcqa/medmcqa/issues/5). A repeated option is used once. A row
    is unusable if fewer than two different options remain, or if its right option is empty.

    Raises ICFTError for the numbering of the original release, which counts options from 1; `where` starts the message.
    """
    right = _right_option(row["cop"], where)
    options = [str(row[name] or "").strip() for name in OPTIONS]
    choices = [text for text in dict.fromkeys(options) if text]
    answer = None if right is None else options[right]
    if len(choices) < 2 or answer == "":
        return None
    return {
        "id": row.get("id"),
        "question": row["question"],
        "choices": choices,
        "answer": answer,
        "topic": row.get("subject_name"),
        "domain": "medical",
    }


def _right_option(cop: Any, where: str) -> int | None:
    """Return the index of the right option; None if it is unknown (−1 or an empty cell)."""
    number = "-1" if cop in (None, "") else str(cop)
    if number not in ("-1", "0", "1", "2", "3"):
        raise ICFTError(
            f"{where}: cop is {number}, expected 0 to 3 as in the Hub's MedMCQA; its original release counts from "
            f"1 to 4: subtract 1 in every row"
        )
    return None if number == "-1" else int(number)
