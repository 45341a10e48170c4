"""Fine-tune a chat model on MedQuAD and PubMedQA, and measure what it learned and what it forgot: lesson 10.

    python scripts/lesson_10_run.py --medquad FILE --pubmedqa FILE --general DIR --out runs/own

runs it completely on `smollm2` and writes the record that the lesson shows. The record has scores by example id, and
replies to prompts of our own. It has no text of the data sets.
"""

import hashlib
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icft_lite.data.bundle import DataBundle, balanced_subset
from icft_lite.data.schema import Example, Source
from icft_lite.data.sources import CHAT, bundle_from_files
from icft_lite.data.tables import hash_examples
from icft_lite.errors import ICFTError
from icft_lite.evaluation import MAX_REPLY_TOKENS, evaluate_suite
from icft_lite.experiments.public_suites import Question, encode_questions, read_questions
from icft_lite.finished_runs import load_run
from icft_lite.modeling.adapters import merged_adapter
from icft_lite.modeling.base import load_tokenizer
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.generation import generate
from icft_lite.modeling.scoring import option_scores, score_responses
from icft_lite.statistics import Bootstrap, paired_bootstrap
from icft_lite.training.loop import train_icft
from icft_lite.utils.io import write_json
from icft_lite.weak.lfs.pubmedqa import pubmedqa_weak_labels

ARMS = ("qlora", "icft")
SETTINGS: dict[str, Any] = {
    "optim.max_tokens": 12_000,
    "optim.batch_size": 4,
    "limits.trusted": 150,
    "limits.pool": 150,
    "limits.validation": 16,
    "limits.test": 50,
    "long_term.size": 160,
}
"""Settings of both methods, besides the defaults of chat models: 20 minutes on one CPU core."""
TEST = {"medquad": 16, "pubmedqa": 50}
"""Test examples of each data set. Replies to MedQuAD take most of the time of scoring."""
NUM_QUESTIONS = 40
"""Questions of each public suite."""
MEDICAL_PROMPTS = (
    "What is asthma, in plain words?",
    "How can I lower my blood pressure?",
    "What should I do when my nose bleeds?",
    "Does smoking harm the lungs? Answer yes, no or maybe.",
)
"""Medical questions of our own, whose replies are recorded, as those to the display prompts of the chat suite are."""
FREE_PROMPT: Example = dict(task="response", context="", history=[], responses=[""])
SUITES = {
    "arc_easy": "arc_easy_test.jsonl",
    "piqa": "piqa_validation.jsonl",
    "openbookqa": "openbookqa_test.jsonl",
    "commonsense_qa": "commonsense_qa_validation.jsonl",
}
"""Public suites of general knowledge, and the names of their files."""

Record = dict[str, Any]


def load_data(
    medquad: Source, pubmedqa: Source, test: Mapping[str, int] = TEST, **options: Any
) -> tuple[DataBundle, Dataset]:
    """Return (data to train on, test examples), whose topics are the data sets.

    The limits of a run are balanced over topics, and MedQuAD has 16 kinds of questions. With one topic each, half of
    the validation examples are from each set. Test examples are kept apart from the run, which would score them after
    each stage. test: their number from each set. options: of `bundle_from_files`.
    """
    data = bundle_from_files([medquad, pubmedqa], [CHAT], **options)
    parts = {role: _by_set(part) for role in ("trusted", "validation", "test") if (part := getattr(data, role))}
    held_out = parts.pop("test")
    chosen = [i for name, size in test.items() for i in _draw(held_out, name, size)]
    return replace(data, **parts, test=None, general_test=None), held_out.select(sorted(chosen))


def _draw(examples: Dataset, topic: str, size: int) -> list[int]:
    """Return at most `size` random indices of examples of one topic, always the same ones."""
    indices = [i for i, name in enumerate(examples["topic"]) if name == topic]
    return random.Random(0).sample(indices, min(size, len(indices)))


def _by_set(examples: Dataset) -> Dataset:
    topics = ["pubmedqa" if task == "question" else "medquad" for task in examples["task"]]
    return Dataset.from_dict({**examples.to_dict(), "topic": topics}, features=examples.features)


def read_suites(folder: str | Path | None, limit: int) -> dict[str, list[Question]]:
    """Return the first questions of each public suite. folder: has the files of SUITES; None: they come from the Hub.

    Of CommonsenseQA, the texts of the options are scored as in ARC, not their letters: SmolLM2-135M chooses A for all.
    """
    sources = {name: Path(folder) / file if folder else None for name, file in SUITES.items()}
    suites = {name: read_questions(name, source, limit) for name, source in sources.items()}
    return suites | {"commonsense_qa": [_with_texts(question) for question in suites["commonsense_qa"]]}


def _with_texts(question: Question) -> Question:
    """Return a question with listed options as one of ARC's form."""
    stem, *lines, _ = question.context.splitlines()
    return Question(f"{stem}\nAnswer:", [line.partition(". ")[2] for line in lines], question.gold)


def score_model(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    test: Dataset,
    suites: Mapping[str, Sequence[Question]],
    adapter: str | None = None,
) -> Record:
    """Score a model on the test examples and the public suites, and let it reply to prompts of our own.

    adapter: name of its adapter; None: the bare base. Returns {medquad: {metric, nll, items: {id: token F1}}, pubmedqa:
    {items: {id: 0 or 1}, answered: {answer: how often}}, suites: {name: [0 or 1, …]}, replies: {prompt: reply}}.
    """
    model.eval()
    with merged_adapter(model, adapter):
        free, questions = (_of_task(test, task) for task in ("response", "question"))
        reply = evaluate_suite(model, tokenizer, {"test": free}, encoder=encoder, items=True)["test"]["reply"]
        chosen = [int(scores.argmax()) for scores in option_scores(model, questions, encoder)]
        own = [dict(FREE_PROMPT, id=prompt, prompt=prompt) for prompt in MEDICAL_PROMPTS]
        return dict(
            medquad={key: reply[key] for key in ("metric", "nll", "items")},
            pubmedqa=dict(
                items={one["id"]: int(choice == one["label"]) for one, choice in zip(questions, chosen, strict=True)},
                answered=count_answers(questions, chosen),
            ),
            suites={name: right_choices(model, tokenizer, questions) for name, questions in suites.items()},
            replies=dict(zip(MEDICAL_PROMPTS, generate(model, tokenizer, encoder, own), strict=True)),
        )


def _of_task(examples: Dataset, task: str) -> list[Example]:
    return [example for example in examples if example["task"] == task]


def count_answers(questions: Sequence[Example], chosen: Sequence[int]) -> dict[str, int]:
    """Return {answer: how often it is chosen}, with the answers in the order of the first question."""
    texts = [one["responses"][choice] for one, choice in zip(questions, chosen, strict=True)]
    return {answer: texts.count(answer) for answer in questions[0]["responses"]}


def right_choices(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question]
) -> list[int]:
    """Return 1 for each question whose right option has the largest log-probability, else 0 (`acc` of lm-eval)."""
    scores = score_responses(model, encode_questions(questions, tokenizer, 512))
    return [int(one["logp"].argmax() == question.gold) for one, question in zip(scores, questions, strict=True)]


def run_all(
    model: str,
    data: DataBundle,
    test: Dataset,
    suites: Mapping[str, Sequence[Question]],
    out: str | Path,
    settings: Mapping[str, Any] = SETTINGS,
    progress: bool = True,
) -> Record:
    """Train `model` with every method, score the base and the results, and return all of it.

    data, test: of `load_data`; suites: of `read_suites`, may be empty; out: folder of the runs. Complete runs are not
    repeated, nor scores on the same test and suites.

    Returns {scores: {base, METHOD: of `score_model`}, chat: {base, METHOD: scores of replies to the chat suite},
    display: [{prompt, base, METHOD: reply}], retention: {METHOD: with its interval}, runs: {METHOD: what identifies and
    describes it}}.
    """
    shown: dict[str, dict[str, str]] = {}
    record: Record = dict(scores={}, chat={}, retention={}, runs={})
    scored_on = {name: hash_examples(map(Question._asdict, questions)) for name, questions in suites.items()}
    scored_on["test"] = hash_examples(test)
    for method in ARMS:
        report = train_icft({**settings, "model": model, "method": method}, Path(out) / method, data, progress)
        tuned, tokenizer = load_run(Path(out) / method)
        encoder = Encoder(tokenizer, **report["config"]["encoding"])
        for name, adapter in (("base", None), (method, "default")):
            score = partial(score_model, tuned, tokenizer, encoder, test, suites, adapter)
            record["scores"][name] = _score_once(Path(out) / f"scores-{name}.json", scored_on, score)
        chat = report["chat"]
        record["chat"] |= {"base": chat["scores"]["before"], method: chat["scores"]["after"]}
        record["retention"][method] = chat["retention"]
        for one in chat["display"]:
            shown.setdefault(one["prompt"], dict(prompt=one["prompt"], base=one["base"]))[method] = one["after"]
        record["runs"][method] = describe_run(Path(out) / method, report)
    return {**record, "display": list(shown.values())}


def _score_once(path: Path, scored_on: Mapping[str, str], score: Callable[[], Record]) -> Record:
    """Return the scores in a file if they are of the same test and suites; else compute them and write the file.

    scored_on: the hash of each test.
    """
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if kept.get("scored_on") != scored_on:
        kept = dict(scored_on=scored_on, scores=score())
        write_json(path, kept)
    scores: Record = kept["scores"]
    return scores


def describe_run(folder: Path, report: Mapping[str, Any]) -> Record:
    """Return what identifies a finished run, and what it cost."""
    adapter = hashlib.sha256((folder / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()
    columns = ("name", "steps", "new_examples", "memory_examples", "tokens")
    return dict(
        run=f"{folder.parent.name}/{folder.name}",
        adapter_sha256=adapter,
        **{key: report[key] for key in ("seed", "base_hash", "config", "versions", "cost", "examples")},
        stages=[
            {key: stage[key] for key in columns} | {"alpha": stage["consolidation"]["alpha"]}
            for stage in report["stages"]
        ],
        data={
            key: value for key, value in report["data"].items() if key in ("counts", "truncated_contexts", "left_out")
        },
    )


def describe_test(test: Dataset, model: str, max_length: int = 512) -> Record:
    """Return what bounds a score: sizes, the counts of PubMedQA's answers, and what the encoder truncates.

    reference_tokens: of MedQuAD's references, median and maximum; over_reply_limit: how many of them are longer than a
    reply may be; truncated_contexts: of PubMedQA's abstracts.
    """
    encoder = Encoder(load_tokenizer(model), max_length)
    free, questions = (_of_task(test, task) for task in ("response", "question"))
    lengths = [len(encoder(one).tokens) for one in free]
    return dict(
        n={"medquad": len(free), "pubmedqa": len(questions)},
        answers=count_answers(questions, [one["label"] for one in questions]),
        reference_tokens={"median": int(np.median(lengths)), "max": max(lengths)},
        over_reply_limit=sum(length > MAX_REPLY_TOKENS for length in lengths),
        truncated_contexts=sum(encoder(one).truncated for one in questions),
    )


def describe_labels(data: DataBundle, limit: int) -> Record:
    """Return what the weak labels of PubMedQA's training part are worth: {n, accuracy, labels: {answer: how often}}.

    limit: `limits.pool` of a run, which trains on the same labels. Only this description reads the right answers.
    """
    if data.pool is None:
        raise ICFTError("data: PubMedQA has no training part; give a file with more examples")
    pool = list(balanced_subset(data.pool, limit))
    posteriors, _ = pubmedqa_weak_labels(pool)
    labels = [int(np.argmax(posterior)) for posterior in posteriors]
    right = [label == data.pool_gold[example["id"]] for label, example in zip(labels, pool, strict=True)]
    return dict(n=len(pool), accuracy=float(np.mean(right)), labels=count_answers(pool, labels))


def score_changes(record: Mapping[str, Any], method: str) -> dict[str, Bootstrap]:
    """Return by how much a method's scores differ from the base's on the same items, with 95 % paired intervals.

    The keys are medquad (token F1), pubmedqa (accuracy) and public suites (accuracy, the mean over the suites).
    """
    base, tuned = (record["scores"][name] for name in ("base", method))
    changes = {}
    for name in TEST:
        before, after = (scores[name]["items"] for scores in (base, tuned))
        changes[name] = paired_bootstrap([after[item] for item in before], list(before.values()), n_resamples=2000)
    topics = [name for name, right in base["suites"].items() for _ in right]
    if topics:
        before, after = ([one for right in scores["suites"].values() for one in right] for scores in (base, tuned))
        changes["public suites"] = paired_bootstrap(after, before, topics, n_resamples=2000)
    return changes
