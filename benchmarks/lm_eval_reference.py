"""Score public suites with lm-evaluation-harness itself, as a reference for `icft-lite evaluate --lm-eval`.

    pip install -c constraints.txt -e '.[bench]'
    python benchmarks/lm_eval_reference.py smollm2 arc_easy=arc_easy_test.jsonl --limit 100 --json out.json

Prompts, choices and metrics are those of lm-eval's task files. Only the data comes from the given files, and questions
of CommonsenseQA with four options are listed without the fifth.
"""

import argparse
import json
import os
from importlib.metadata import version
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")


def task_document(suite, row):
    """Return a row with the columns that lm-eval's task reads; as it is if it has them already."""
    from icft_lite.experiments.public_suites import LISTED, read_choices

    if not isinstance(row.get("choices"), list):
        return row
    question, (texts, gold) = row["question"], read_choices(row)
    if suite == "piqa":
        return dict(goal=question, sol1=texts[0], sol2=texts[1], label=gold)
    if listed := LISTED.fullmatch(question):
        question, texts = listed[1], [line[3:] for line in listed[2].splitlines()]
    choices = dict(text=texts, label=list("ABCDEFGHIJ"[: len(texts)]))
    return dict(question=question, question_stem=question, choices=choices, answerKey=choices["label"][gold])


def build_task(suite, rows):
    """Return lm-eval's task of a suite, on these rows."""
    import lm_eval
    from datasets import Dataset, DatasetDict
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    name = "commonsense_qa/default" if suite == "commonsense_qa" else f"*/{suite}"
    (path,) = (Path(lm_eval.__file__).parent / "tasks").glob(f"{name}.yaml")
    config = load_yaml(path)
    documents = [task_document(suite, row) for row in rows]
    config["custom_dataset"] = lambda **_: DatasetDict(test=Dataset.from_list(documents))
    config.update(test_split="test", validation_split=None, training_split=None, tag=None, dataset_kwargs=None)
    if suite == "commonsense_qa" and len(documents[0]["choices"]["text"]) == 4:
        config["doc_to_text"] = config["doc_to_text"].replace("\nE. {{choices['text'][4]}}", "")
        config["doc_to_choice"] = config["doc_to_choice"][:4]
    return ConfigurableTask(config=config)


def reference(model, tokenizer, suites, limit=None, batch_size=8):
    """Return {suite: {acc, …, samples: the log-likelihoods of each question}}. suites: {name: file or rows}."""
    from itertools import islice

    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    from icft_lite.data.files import open_source

    harness = HFLM(pretrained=model, tokenizer=tokenizer, backend="causal", batch_size=batch_size)
    tasks = [
        build_task(suite, [row for _, _, row in islice(open_source(source)[1], limit)])
        for suite, source in suites.items()
    ]
    found = simple_evaluate(harness, tasks=tasks, bootstrap_iters=0, num_fewshot=0)
    return {
        suite: {
            **{key.partition(",")[0]: value for key, value in found["results"][suite].items() if key.endswith(",none")},
            "samples": [
                [round(float(response[0]), 4) for response in sample["filtered_resps"]]
                for sample in sorted(found["samples"][suite], key=lambda sample: sample["doc_id"])
            ],
        }
        for suite in suites
    }


def main():
    """Parse the command line, score, and print or write the result."""
    parse = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parse.add_argument("model", help="a name that icft-lite accepts; held in fp32")
    parse.add_argument("suites", nargs="+", metavar="NAME=FILE")
    parse.add_argument("--limit", type=int)
    parse.add_argument("--json", type=Path, help="write the result with the values of each question to this file")
    args = parse.parse_args()
    from icft_lite.modeling.base import load_base

    model, tokenizer = load_base(args.model, load_in_4bit=False)
    found = reference(model, tokenizer, dict(text.split("=", 1) for text in args.suites), args.limit)
    for suite, scores in found.items():
        print(suite, {name: value for name, value in scores.items() if name != "samples"})
    if args.json:
        versions = {name: version(name) for name in ("lm-eval", "torch", "transformers")}
        args.json.write_text(json.dumps(dict(versions=versions, model=args.model, suites=found)) + "\n")


if __name__ == "__main__":
    main()
