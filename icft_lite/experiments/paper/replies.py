"""What a model writes to medical questions: kinds of errors, and how varied its replies to patients are."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from icft_lite.chat_checks import medical_terms
from icft_lite.data.schema import Example
from icft_lite.metrics import key_fact_recall, normalize_answer
from icft_lite.modeling.adapters import merged_adapter
from icft_lite.modeling.generation import generate
from icft_lite.training.prepare import Prepared

MAX_QUESTIONS = 120
"""Questions whose answers are generated, balanced over topics."""
MAX_ANSWER_TOKENS = 32
ERROR_KINDS = {
    "right": "the reference, word for word",
    "longer": "the reference with more words around it",
    "option": "another option of the question",
    "medical": "another text with a medical term",
    "other": "another text without a medical term",
    "empty": "nothing",
}
"""Kinds of answers to a question with options; all but `right` are errors by exact match."""
EXAMPLES = 2
"""Recorded examples of each kind."""


def error_kind(reply: str, example: Example) -> str:
    """Return the kind (a key of ERROR_KINDS) of a reply to a question with options and a known answer."""
    words, reference = normalize_answer(reply), normalize_answer(example["responses"][example["label"]])
    others = {normalize_answer(text) for i, text in enumerate(example["responses"]) if i != example["label"]}
    if not words:
        return "empty"
    if words == reference:
        return "right"
    if words in others:
        return "option"
    if f" {reference} " in f" {words} ":
        return "longer"
    return "medical" if medical_terms(reply) else "other"


def diversity(replies: Sequence[str]) -> dict[str, float]:
    """Return how varied replies are: distinct_1, distinct_2 (Li et al., 2016) and overlap.

    distinct_n: different n-grams ÷ all n-grams of all replies. overlap, in the manner of self-BLEU (Zhu et al., 2018):
    the mean share of a reply's different bigrams that occur in another reply. NaN without n-grams.
    """
    split = [normalize_answer(reply).split() for reply in replies]
    found = {}
    for n in (1, 2):
        grams = [tuple(words[i : i + n]) for words in split for i in range(len(words) - n + 1)]
        found[f"distinct_{n}"] = len(set(grams)) / len(grams) if grams else float("nan")
    bigrams = [set(zip(words, words[1:])) for words in split]
    counts = Counter(gram for some in bigrams for gram in some)
    shares = [sum(counts[gram] > 1 for gram in some) / len(some) for some in bigrams if some]
    return {**found, "overlap": sum(shares) / len(shares) if shares else float("nan")}


def what_it_writes(prepared: Prepared) -> dict[str, Any]:
    """Return the errors and the diversity of the adapter `slow` of a prepared run.

    errors: {kind: count}; examples: {kind: [{prompt, reference, reply}, …]}; diversity: of the replies to patients;
    patients: {example id: {recall, reply}}, their key-fact recall and text. The last two are absent without such
    examples.
    """
    by_topic: dict[str, list[Example]] = {}
    for example in prepared.suites["medical"].examples:
        if example["task"] == "question" and example["label"] >= 0:
            by_topic.setdefault(example["topic"], []).append(example)
    questions = [one for some in by_topic.values() for one in some[: MAX_QUESTIONS // len(by_topic)]]
    patients = [one for one in prepared.suites["medical"].examples if one["task"] == "response" and one["facts"]]
    with merged_adapter(prepared.model, "slow") as model:
        arguments = (model, prepared.tokenizer, prepared.encoder)
        answers = generate(*arguments, questions, MAX_ANSWER_TOKENS)
        replies = generate(*arguments, patients, 2 * MAX_ANSWER_TOKENS) if patients else []
    counts: Counter[str] = Counter()
    shown: dict[str, list[dict[str, str]]] = {}
    for example, reply in zip(questions, answers, strict=True):
        kind = error_kind(reply, example)
        counts[kind] += 1
        if len(shown.setdefault(kind, [])) < EXAMPLES:
            reference = example["responses"][example["label"]]
            shown[kind].append(dict(prompt=example["prompt"], reference=reference, reply=reply))
    found: dict[str, Any] = dict(errors={kind: counts[kind] for kind in ERROR_KINDS}, examples=shown)
    if replies:
        found["diversity"] = diversity(replies)
        found["patients"] = {
            example["id"]: dict(recall=key_fact_recall(reply, example["facts"]), reply=reply)
            for example, reply in zip(patients, replies, strict=True)
        }
    return found
