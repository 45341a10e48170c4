"""Build the JSONL samples from the tables in facts/. The same tables always give the same bytes.

python data_samples/build.py            # write the files next to this one
python data_samples/build.py --check    # check whether the files are what the tables give
"""

import argparse
import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for programs that load this file by its path

from sample_builder.general import general_examples  # noqa: E402
from sample_builder.medical import medical_items, medical_questions  # noqa: E402
from sample_builder.tables import Example, Tables, fill  # noqa: E402
from sample_builder.vignettes import (  # noqa: E402
    ADVICE_KEYS,
    hide_preferences,
    make_vignettes,
    preference_pairs,
    triage_examples,
)
from sample_builder.words import word_examples  # noqa: E402


def build(tables: Tables | None = None, general: dict[str, list[Example]] | None = None) -> dict[str, list[Example]]:
    """Return file name -> examples.

    tables: by default the tables in facts/. general: general examples that were made before, by default those of
    `tables`.
    """
    tables = tables or Tables()
    general = general or general_examples(tables)
    facts = {
        (entity.lower(), fill(answer, fields).lower())
        for topic, entity, fields, _ in medical_items(tables)
        for _, answer in tables.templates[topic, "train"]
    }
    pretraining = [
        {"prompt": example["prompt"], "completion": example["completion"]}
        for example in general["pretrain"]
        if example["topic"] != "reading" or not states_a_fact(example["prompt"], facts)
    ]
    words = [
        example
        for example in word_examples(tables)
        if not states_a_fact(f"{example['prompt']} {example['completion']}", facts)
    ]
    vignettes, medical = make_vignettes(tables), medical_questions(tables)
    triage, replies = triage_examples(tables, vignettes)
    questions = {}
    for split in ("pool", "validation", "test"):
        examples = medical[split] + triage[split]
        urgency = [example for example in examples if example["topic"] == "urgency"]
        others = [example for example in examples if example["topic"] != "urgency"]
        questions[split] = tables.add_choices(others, 4) + tables.add_choices(urgency, 3, tuple(ADVICE_KEYS))
    pairs = preference_pairs(tables, vignettes)
    pool_pairs, gold_pairs = hide_answers(tables, hide_preferences(tables, pairs["pool"]), "pair")
    pool_questions, gold_questions = hide_answers(tables, questions["pool"], "question")
    return {
        "general_pretrain.jsonl": pretraining,
        "general_memory.jsonl": general["memory"],
        "general_validation.jsonl": general["validation"],
        "general_test.jsonl": general["test"],
        "words.jsonl": words,
        "medical_train.jsonl": medical["train"] + triage["train"] + replies["train"],
        "medical_pool_questions.jsonl": pool_questions,
        "medical_pool_pairs.jsonl": pool_pairs,
        "gold/medical_pool_questions.jsonl": gold_questions,
        "gold/medical_pool_pairs.jsonl": gold_pairs,
        "medical_validation.jsonl": questions["validation"],
        "medical_validation_pairs.jsonl": pairs["validation"],
        "medical_test.jsonl": questions["test"],
        "medical_test_pairs.jsonl": pairs["test"],
        "medical_test_replies.jsonl": replies["test"],
    }


def states_a_fact(text: str, facts: set[tuple[str, str]]) -> bool:
    """Return True if the text contains a medical entity and its answer, as a random list may do by chance."""
    lower = text.lower()
    return any(entity in lower and answer in lower for entity, answer in facts)


def hide_answers(tables: Tables, examples: list[Example], name: str) -> tuple[list[Example], list[Example]]:
    """Return (examples without their answers, gold).

    The examples are shuffled and then numbered, so that neither an id nor a position reveals the answer.
    """
    examples = sorted(examples, key=lambda example: example["id"])
    tables.rng("pool", name).shuffle(examples)
    gold = []
    for i, example in enumerate(examples):
        example["id"], answer = f"pool-{name}-{i}", example.pop("answer")
        index = example["choices"].index(answer) if "choices" in example else answer
        gold.append({"id": example["id"], "answer": index})
    return examples, gold


def main() -> None:
    """Write the files, or check them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare; exit with 1 if a file differs")
    args = parser.parse_args()
    stale = []
    for name, examples in build().items():
        text = "".join(json.dumps(example, ensure_ascii=False, separators=(",", ":")) + "\n" for example in examples)
        path = HERE / name
        if args.check:
            stale += [name] if not path.exists() or path.read_text(encoding="utf-8") != text else []
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"{name:36} {len(examples):6} examples {len(text) / 1e6:6.2f} MB")
    if stale:
        raise SystemExit(f"not what the tables give: {', '.join(stale)}; run python data_samples/build.py")


if __name__ == "__main__":
    main()
