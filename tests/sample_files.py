"""The files of data_samples/ and what the tables say about them, for the tests of the samples."""

import importlib.util
import json
import re
from math import sqrt
from pathlib import Path

DATA = Path(__file__).parents[1] / "data_samples"
spec = importlib.util.spec_from_file_location("build_samples", DATA / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)
from sample_builder.general import COMBINATION_TOPICS, FAMILIES  # noqa: E402, F401 (build.py makes it importable)

TABLES = build.Tables()

RULES = ("terminology", "drug_class", "drug_use")
SEEN = ("medical_train.jsonl", "medical_pool_questions.jsonl", "medical_pool_pairs.jsonl")
HELD_OUT = (
    "medical_validation.jsonl",
    "medical_validation_pairs.jsonl",
    "medical_test.jsonl",
    "medical_test_pairs.jsonl",
    "medical_test_replies.jsonl",
)
PRETRAINING = ("general_pretrain.jsonl", "words.jsonl")
RESPONSES = ("response_a", "response_b", "chosen", "rejected")


def read_files():
    """Return the examples of each JSONL file by its name."""
    files = {}
    for path in sorted(DATA.rglob("*.jsonl")):
        with path.open(encoding="utf-8") as file:
            files[path.relative_to(DATA).as_posix()] = [json.loads(line) for line in file]
    return files


def examples_of(files, names):
    return [example for name in names for example in files[name]]


def normalize(text):
    """Return lower-case words and numbers with one space around each. + and - count, so a sum is no difference."""
    return " ".join(["", *re.findall(r"[^\W_]+|(?<= )[+-](?= )", text.lower()), ""])


def prompt(example):
    return example.get("prompt") or example["question"]


def text(example):
    """Return everything in an example that a model could read."""
    responses = [example.get(key, "") for key in ("completion", *RESPONSES)]
    return " ".join([prompt(example), *example.get("choices", []), *responses])


def within(count, n, p, z=2.58):
    """Return True if count is in the 99 % interval of a binomial(n, p)."""
    return abs(count - n * p) <= z * sqrt(n * p * (1 - p)) + 1


def signs(row):
    return [sign.strip() for sign in row["symptoms"].split(";")]


PRESENTATIONS = TABLES.read("presentations")
BY_SIGN = {sign: row for row in PRESENTATIONS for sign in signs(row)}
ANSWER = {
    (topic, entity): build.fill(TABLES.templates[topic, "train"][0][1], fields)
    for topic, entity, fields, _ in build.medical_items(TABLES)
}


def presentation(example):
    """Return the row of presentations.csv that an example's vignette was made from."""
    return BY_SIGN[example["entity"].split("; ")[0]]


def right_answer(example):
    """Return the answer that the tables give for an example's topic and entity."""
    if example["topic"] in ("urgency", "department"):
        return presentation(example)[example["topic"]]
    return ANSWER[example["topic"], example["entity"]]
