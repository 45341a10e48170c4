"""Write the tables of data shapes and of files in docs/data.md: read one small example of each, and note the result.

    python scripts/data_shapes.py          # write the tables
    python scripts/data_shapes.py --check  # exit with 1 if they are not current

Every cell comes from reading the example, so that the tables are what the library does.
"""

import argparse
import gzip
import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from datasets import Dataset

from icft_lite.data.readers import read_sources
from icft_lite.errors import ICFTError

PAGE = Path(__file__).parents[1] / "docs" / "data.md"
Rows = list[dict[str, Any]]

ASK, REPLY, BAD = "Which vitamin prevents scurvy?", "Vitamin C.", "Vitamin B12."
OPTIONS = ["vitamin B12", "vitamin C", "vitamin K"]


def turns(*contents: str, role: str = "role", content: str = "content", names: str = "user assistant") -> Rows:
    """Return turns by the two roles of `names` in turn."""
    both = names.split()
    return [{role: both[i % 2], content: text} for i, text in enumerate(contents)]


def assistant(content: Any) -> Rows:
    """Return one turn by the assistant."""
    return [{"role": "assistant", "content": content}]


def question(**columns: Any) -> dict[str, Any]:
    """Return a question with the given columns."""
    return {"question": ASK, **columns}


LETTERED = dict(zip("ABC", OPTIONS, strict=True))
LABELLED = [{"label": label, "text": text} for label, text in LETTERED.items()]
MEDMCQA = question(opa=OPTIONS[0], opb=OPTIONS[1], opc=OPTIONS[2], opd="zinc", cop=1, subject_name="Biochemistry")
PUBMEDQA = {"question": "Does it help?", "context": {"contexts": ["It was studied."]}, "final_decision": "yes"}
TOOLS = [*turns(ASK), {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
PARTS = [*turns(ASK), *assistant([{"type": "text", "text": REPLY}])]
HH = [f"\n\nHuman: {ASK}\n\nAssistant: {reply}" for reply in (REPLY, BAD)]
SHAPES: list[tuple[str, Rows]] = [
    ("prompt and completion", [{"prompt": ASK, "completion": REPLY}]),
    ("prompt and response", [{"prompt": ASK, "response": REPLY}]),
    ("question and free answer", [question(answer=REPLY)]),
    ("Alpaca", [{"instruction": "Answer briefly.", "input": ASK, "output": REPLY}]),
    ("MedQuAD", [question(answer=REPLY, focus="Scurvy", qtype="prevention")]),
    ("MedQuAD on Kaggle", [question(answer=REPLY, source="NIH", focus_area="Scurvy")]),
    ("conversation", [{"messages": turns(ASK, REPLY)}]),
    ("ShareGPT", [{"conversations": turns(ASK, REPLY, role="from", content="value", names="human gpt")}]),
    ("content parts", [{"messages": PARTS}]),
    ("conversation with several replies", [{"messages": turns("Hello", "Hello!", ASK, REPLY)}]),
    ("consecutive user turns", [{"messages": [*turns("Hello"), *turns(ASK, REPLY)]}]),
    ("tool calls", [{"messages": TOOLS}]),
    ("KTO", [{"prompt": ASK, "completion": REPLY, "label": True}, {"prompt": ASK, "completion": BAD, "label": False}]),
    ("choices, answer as text", [question(choices=OPTIONS, answer="vitamin C")]),
    ("choices, answer as letter", [question(choices=OPTIONS, answer="B")]),
    ("choices, numbers with a 0", [question(choices=OPTIONS, answer=1), question(choices=OPTIONS, answer=0)]),
    ("choices, numbers up to the last", [question(choices=OPTIONS, answer=2), question(choices=OPTIONS, answer=3)]),
    ("choices, numbers without either", [question(choices=OPTIONS, answer=1)]),
    ("choices, two codings", [question(choices=OPTIONS, answer="B"), question(choices=OPTIONS, answer="vitamin K")]),
    ("choices without an answer", [question(choices=OPTIONS, answer=None)]),
    ("true or false", [question(choices=[True, False], answer=True)]),
    ("MMLU", [question(subject="nutrition", choices=OPTIONS, answer=1), question(choices=OPTIONS, answer=0)]),
    ("ARC", [question(choices={"text": OPTIONS, "label": list("ABC")}, answerKey="B")]),
    ("ARC, original release", [{"question": {"stem": ASK, "choices": LABELLED}, "answerKey": "B"}]),
    ("RACE", [question(article="Sailors ate lemons.", options=OPTIONS, answer="B")]),
    ("PIQA", [question(sol1=OPTIONS[0], sol2=OPTIONS[1], label=1), question(sol1="a", sol2="b", label=0)]),
    ("MedQA", [question(options=LETTERED, answer="vitamin C", answer_idx="B", meta_info="step1")]),
    ("MedMCQA on the Hub", [MEDMCQA, {**MEDMCQA, "cop": 0}]),
    ("MedMCQA, original release", [{**MEDMCQA, "cop": 2}, {**MEDMCQA, "cop": 4}]),
    ("one column per option", [question(**LETTERED, answer="B")]),
    ("PubMedQA", [{"pubid": 1, **PUBMEDQA, "long_answer": "It helps."}]),
    ("preference pair", [{"prompt": ASK, "chosen": REPLY, "rejected": BAD}]),
    ("pair with turns", [{"prompt": turns(ASK), "chosen": assistant(REPLY), "rejected": assistant(BAD)}]),
    ("pair with an implicit prompt", [{"chosen": turns(ASK, REPLY), "rejected": turns(ASK, BAD)}]),
    ("UltraFeedback", [{"prompt": ASK, "chosen": turns(ASK, REPLY), "rejected": turns(ASK, BAD), "score_chosen": 9.0}]),
    ("HH-RLHF", [dict(zip(("chosen", "rejected"), HH, strict=True))]),
    ("pair without a preference", [{"prompt": ASK, "response_a": REPLY, "response_b": BAD}]),
    ("pair with a winner", [{"prompt": ASK, "response_a": BAD, "response_b": REPLY, "winner": "model_b"}]),
    ("pair of equal replies", [{"prompt": ASK, "chosen": REPLY, "rejected": REPLY}]),
    ("image", [question(image="a.png", answer=REPLY)]),
    ("rating", [{"prompt": ASK, "completion": REPLY, "rating": 1}]),
    ("list instead of text", [{"prompt": ASK, "completion": ["C", "vitamin C"]}]),
    ("other names", [{"Frage": ASK, "Antwort": REPLY}]),
]
"""For each shape of rows its name and one or two rows."""

ROWS: Rows = [
    {"prompt": ASK, "completion": REPLY, "topic": None},
    {"prompt": "Why?", "completion": "So.", "topic": "x"},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
TABLE = pd.DataFrame(ROWS)
FILES: list[tuple[str, str, bytes]] = [
    ("JSON lines", "a.jsonl", LINES.encode()),
    ("JSON lines", "a.ndjson", LINES.encode()),
    ("JSON lines in .json", "a.json", LINES.encode()),
    ("array", "a.json", json.dumps(ROWS, indent=1).encode()),
    ("array in .jsonl", "a.jsonl", json.dumps(ROWS).encode()),
    ("object of columns", "a.json", TABLE.to_json().encode()),
    ("gzip", "a.jsonl.gz", gzip.compress(LINES.encode())),
    ("UTF-16", "a.jsonl", LINES.encode("utf-16")),
    ("CSV", "a.csv", TABLE.to_csv(index=False).encode()),
    ("CSV with semicolons and NaN", "a.csv", TABLE.to_csv(index=False, sep=";", na_rep="nan").encode()),
    ("CSV of Excel with sep=", "a.csv", b"sep=;\r\n" + TABLE.to_csv(index=False, sep=";").encode()),
    ("CSV with a byte order mark", "a.csv", TABLE.to_csv(index=False).encode("utf-8-sig")),
    ("CSV with spaces and capitals in the header", "a.csv", f"Prompt , Completion\n{ASK},{REPLY}".encode()),
    ("TSV", "a.tsv", TABLE.to_csv(index=False, sep="\t").encode()),
    ("Parquet", "a.parquet", TABLE.to_parquet()),
    ("half of a surrogate pair", "a.jsonl", b'{"prompt": "Why?", "completion": "\\ud83d"}'),
    ("spreadsheet", "a.xlsx", b"PK"),
]
"""For each kind of file a name, the name of a file, and its content."""
OBJECTS = [("list of dicts", ROWS), ("DataFrame", TABLE), ("Dataset", Dataset.from_pandas(TABLE))]


def describe(source: Any) -> str:
    """Return what reading a source gives: its tasks, labels, coding and what is left out, or why it is refused."""
    try:
        (found,) = read_sources([source])
    except ICFTError as error:
        reason = re.sub(r"^\S* ?(?:(?:line|row|example|item) \d+)?: ", "", str(error))
        return f"refused: {reason}".replace("|", "\\|")
    first = found.examples[0]
    notes = [*found.summary.notes, *(f"{number} left out: {why}" for why, number in found.summary.left_out.items())]
    answer = f"`{first['responses'][first['label']]}`" if first["label"] >= 0 else "none (unlabelled)"
    coding = f" ({found.summary.answer_coding})" if found.summary.answer_coding else ""
    return f"{first['task']}: {answer}{coding}" + "".join(f"; {note}" for note in notes)


def tables() -> str:
    """Return both tables in Markdown."""
    lines = ["| shape | columns | result: task, right response of the first row, coding |", "|---|---|---|"]
    for name, rows in SHAPES:
        columns = ", ".join(f"`{column}`" for column in rows[0])
        lines.append(f"| {name} | {columns} | {describe(rows)} |")
    lines += ["", "| file or object | name | result |", "|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for name, file, content in FILES:
            path = Path(folder, file)
            path.write_bytes(content)
            lines.append(f"| {name} | `{file}` | {describe(path).replace(f'{folder}/', '')} |")
    lines += [f"| {name} | | {describe(value)} |" for name, value in OBJECTS]
    return "\n".join(lines)


def replace_tables(page: str, new: str) -> str:
    """Return the page with the text between its two markers replaced."""
    before, rest = page.split("<!-- data shapes -->\n")
    return f"{before}<!-- data shapes -->\n{new}\n<!-- end -->{rest.split('<!-- end -->')[1]}"


def main() -> None:
    """Write the tables, or check them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only check that the tables are current")
    check = parser.parse_args().check
    page = PAGE.read_text(encoding="utf-8")
    new = replace_tables(page, tables())
    if check:
        sys.exit(0 if new == page else f"{PAGE}: the tables are not current; run python scripts/data_shapes.py")
    PAGE.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    main()
