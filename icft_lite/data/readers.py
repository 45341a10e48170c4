"""Files and Hub data sets -> one Dataset of canonical rows. Rows are streamed, so a million is no trouble.

Every fault is an ICFTError of one line: which file, which line, what is wrong, the mend.
"""

import csv
import json
import os
import re
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
from datasets import load_dataset

from icft_lite.data.formats import normalize_example
from icft_lite.data.schema import FEATURES
from icft_lite.data.tables import BATCH, to_dataset
from icft_lite.errors import ICFTError

HUB_NAME = re.compile(r"([\w.-]+/[\w.-]+?)(?::([\w.-]+))?(?:@([\w.-]+))?")
csv.field_size_limit(2**24)  # the default, 131,072 characters, is less than a long context


def read_source(source, domain="", split=None):
    """One path, Hub name (`owner/name[:config][@split]`) or list of dicts -> Dataset.

    `domain` is for rows that name none; `split` is of a Hub data set. Raises ICFTError."""
    rows = _distinct(source, domain, split)
    if (first := next(rows, None)) is None:
        raise ICFTError(f"{source}: no rows in it; give at least one example")
    return to_dataset(chain([first], rows), extra=[name for name in first if name not in FEATURES])


def _distinct(source, domain, split):
    """Yield the canonical rows. Raises ICFTError where two have one id."""
    seen = set()
    for where, row in _canonical(source, domain, split):
        if row["id"] in seen:
            first = next(place for place, one in _canonical(source, domain, split) if one["id"] == row["id"])
            raise ICFTError(f"{where}: id {row['id']!r} is already used at {first}; give each row its own id")
        seen.add(row["id"])
        yield row


def is_hub_name(source):
    """True if `source` can only be a Hub name: no such path, no file suffix that we read, owner/name."""
    path = Path(source)
    return not path.exists() and path.suffix.lower() not in READERS and bool(HUB_NAME.fullmatch(str(source)))


def _canonical(source, domain, split):
    """Yield (where, canonical row)."""
    if isinstance(source, (list, tuple)):
        raw, name = ((f"row {n}", n, row) for n, row in enumerate(source, 1)), "row"
    elif is_hub_name(source):
        raw, name = _hub(str(source), split), str(source)
    else:
        path = Path(source)
        name, reader = path.stem, READERS.get(path.suffix.lower())
        if not path.is_file():
            state = "a folder, not a file" if path.is_dir() else "no such file"
            raise ICFTError(f"{source}: {state}; give a {', '.join(READERS)} file, or owner/name on the Hub")
        if reader is None:
            raise ICFTError(f"{source}: a file of this kind is not read; give {', '.join(READERS)}")
        raw = reader(path)
    times = {}
    for where, index, row in raw:
        row = _benchmark(row, where)
        if row is None:
            continue
        clean = normalize_example(row, where, f"{name}-{index}")
        clean["domain"], clean["topic"] = clean["domain"] or domain, clean["topic"] or name
        if "long_answer" in row:  # PubMedQA's conclusions: labelling functions read them, prompts never
            clean["long_answer"] = str(row["long_answer"] or "")
        if "qtype" in row and "focus" in row:  # MedQuAD numbers its rows anew in each institute
            times[clean["id"]] = times.get(clean["id"], 0) + 1
            clean["id"] += f"#{times[clean['id']]}" if times[clean["id"]] > 1 else ""
        yield where, clean


def _benchmark(row, where):
    """A row of MedMCQA or PubMedQA as the Hub has them, in a format of `normalise`; any other row as it is.

    MedMCQA: question, opa … opd, cop (0 … 3; -1: not told), subject_name. Some 700 of its rows name an option twice
    (github.com/medmcqa/medmcqa/issues/5): it is kept once; None if no two options are left, or not the right one.
    PubMedQA: pubid, question, context with its list `contexts`, final_decision. Explanations and reasoning fields,
    which give the answer away, are left behind. Raises ICFTError."""
    if not isinstance(row, dict) or "choices" in row:
        return row
    if {"question", "opa", "opb", "opc", "opd", "cop"} <= set(row):
        cop = "-1" if row["cop"] in (None, "") else str(row["cop"])
        if cop not in ("-1", "0", "1", "2", "3"):
            raise ICFTError(
                f"{where}: cop is {cop}; the Hub's MedMCQA counts options from 0 to 3, its original "
                f"release from 1 to 4: take 1 off in every row"
            )
        options = [str(row[name] or "").strip() for name in ("opa", "opb", "opc", "opd")]
        choices, right = [text for text in dict.fromkeys(options) if text], None if cop == "-1" else options[int(cop)]
        if len(choices) < 2 or right == "":
            return None
        return dict(
            id=row.get("id"),
            question=row["question"],
            choices=choices,
            answer=right,
            topic=row.get("subject_name"),
            domain="medical",
        )
    if {"question", "context", "final_decision"} <= set(row) and "contexts" in (row["context"] or ""):
        return dict(
            id=row.get("pubid"),
            question=row["question"],
            context="\n".join(row["context"]["contexts"]),
            choices=["yes", "no", "maybe"],
            answer=row["final_decision"],
            topic="pubmedqa",
            domain="medical",
            long_answer=row.get("long_answer"),
        )
    return row


def read_ids(path):
    """Ids from a JSON object or list, or one a line. Raises ICFTError."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ICFTError(f"{path}: test ids cannot be read ({type(error).__name__}); give a text or JSON file") from None
    try:
        return set(map(str, json.loads(text)))
    except (json.JSONDecodeError, TypeError):
        return set(text.split())


# --- readers: each yields (where, index, raw row)


def read_jsonl(path):
    with open(path, "rb") as file:  # bytes: only \n ends a line, so numbers agree with every editor
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    yield f"{path} line {number}", number, json.loads(line.decode("utf-8-sig"))
                except json.JSONDecodeError as error:
                    raise ICFTError(
                        f"{path} line {number}: broken JSON ({error.msg}, column {error.colno}); mend that line"
                    ) from None
                except UnicodeDecodeError:
                    raise ICFTError(f"{path} line {number}: not UTF-8; save the file as UTF-8") from None


def _json(path):
    """A list of rows, or PubMedQA's original release: {id: {QUESTION, CONTEXTS, LONG_ANSWER, ...}}."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        data = json.loads(text) if text.strip() else []
    except json.JSONDecodeError as error:
        raise ICFTError(
            f"{path} line {error.lineno}: broken JSON ({error.msg}, column {error.colno}); mend that line"
        ) from None
    except UnicodeDecodeError:
        raise ICFTError(f"{path}: not UTF-8; save the file as UTF-8") from None
    if isinstance(data, list):
        yield from ((f"{path} item {number}", number, row) for number, row in enumerate(data, 1))
    elif data and all(isinstance(row, dict) and "QUESTION" in row for row in data.values()):
        for key, row in data.items():
            yield (
                f"{path} id {key}",
                key,
                {
                    "id": key,
                    "question": row["QUESTION"],
                    "context": "\n".join(row.get("CONTEXTS") or []),
                    "choices": ["yes", "no", "maybe"],
                    "answer": row.get("final_decision"),
                    "domain": "medical",
                    "topic": "pubmedqa",
                    "long_answer": row.get("LONG_ANSWER"),
                },
            )
    else:
        raise ICFTError(f"{path}: neither a list of rows nor PubMedQA's release; write rows as .jsonl")


def _csv(path):
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader, end = csv.DictReader(file, strict=True), 1
            for row in reader:
                start, end = end + 1, reader.line_num  # a quoted cell may run over several lines
                if None in row:
                    raise ICFTError(
                        f"{path} line {start}: more cells than the header names; quote texts that hold commas"
                    )
                yield f"{path} line {start}", start, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise ICFTError(f"{path}: not a UTF-8 CSV ({error}); save it again as CSV UTF-8") from None


def _parquet(path):
    try:
        number = 0
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(BATCH):
            for row in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", number, row
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise ICFTError(f"{path}: not a Parquet file ({reason}); write it again") from None


def _hub(name, split):
    repository, config, own_split = HUB_NAME.fullmatch(name).groups()
    try:
        if not os.environ.get("HF_HUB_OFFLINE"):  # ask once; without network load_dataset retries for long
            from huggingface_hub import HfApi

            HfApi().dataset_info(repository, timeout=10)
        rows = load_dataset(repository, config, split=split or own_split or "train")
    except Exception as error:  # its class depends on the HTTP library underneath
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ICFTError(
            f"{name}: no such file, and the Hub did not give it ({reason}); check the path, the name and the network"
        ) from error
    for number, row in enumerate(rows, 1):
        yield f"{name} row {number}", number, row


READERS = {".jsonl": read_jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
