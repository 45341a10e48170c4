"""Evaluation of a model on suites: question answering, preference pairs and free replies.

Greedy exact match needs no generation: greedy decoding writes the reference exactly if every reference token, the end
of turn included, is the argmax given the ones before it. One forward pass shows this.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icft_lite.data.schema import Example, Examples
from icft_lite.metrics import key_fact_recall, token_f1
from icft_lite.modeling.adapters import merged_adapter
from icft_lite.modeling.encoding import Encoded, Encoder, encode_examples
from icft_lite.modeling.generation import generate
from icft_lite.modeling.scoring import score_responses

SHORT_ANSWER_WORDS = 8
"""Free-form references of at most this many words are scored by exact match, longer ones by token F1."""
MAX_REPLY_TOKENS = 192
"""Maximum number of tokens that are generated for a free reply."""
EXTRA_REPLY_TOKENS = 8
"""A reply may have this many tokens more than the longest reference of the suite."""

TaskScore = dict[str, Any]
"""The scores of one task of a suite, as in report.json:

metric: name of the primary metric (`exact_match`, `pairwise_accuracy`, `key_fact_recall` or `token_f1`). value: float,
the unweighted mean over topics. n: number of examples. by_topic: {topic: {value, n, kind}}. items: {example id: value},
on request. For questions also by_level: {level: value}; option_accuracy, option_chance (the mean of 1/k over questions
with k options) and option_n (their number)."""
SuiteScores = dict[str, TaskScore]
"""The scores of one suite by task: `qa`, `preference`, `reply`. A task without examples is absent."""


@dataclass
class Suite:
    """Examples of one domain, encoded once and evaluated many times."""

    examples: list[Example]
    """Canonical examples."""
    encoded: Sequence[Encoded]
    """Their encodings, in the same order."""
    left_out: int = 0
    """Number of examples that are not evaluated because their question and responses are too long."""

    @classmethod
    def from_examples(cls, examples: Examples, encoder: Encoder, only_correct_option: bool = False) -> "Suite":
        """Encode canonical examples, and leave out those that are too long for the encoder.

        only_correct_option: drop the wrong options of questions. Exact match is the same and costs 1/k of the time for
        k options, but there is no option accuracy.
        """
        given = [dict(example) for example in examples]
        if only_correct_option:
            given = [_with_correct_option(example) for example in given]
        fitting, encoded, left_out = encode_examples(given, encoder)
        return cls(list(fitting), encoded, len(left_out))

    def subset(self, keep: Callable[[Example], bool]) -> "Suite":
        """Return a suite of the examples for which `keep(example)` is true."""
        chosen = [i for i, example in enumerate(self.examples) if keep(example)]
        return Suite([self.examples[i] for i in chosen], [self.encoded[i] for i in chosen])


def is_short_answer(example: Example) -> bool:
    """Return whether a free-form example is scored by exact match.

    It is if it lists no key facts and its reference has at most SHORT_ANSWER_WORDS words.
    """
    return (
        example["task"] == "response"
        and not example["facts"]
        and len(example["responses"][0].split()) <= SHORT_ANSWER_WORDS
    )


def summarize(
    metric: str, values: Sequence[float], topics: Sequence[str], kinds: Sequence[str], **extras: Any
) -> TaskScore:
    """Average per-example values over topics: {metric, value, n, by_topic} and `extras`.

    values, topics, kinds: one per example, at least one. `value` is the unweighted mean over the topics' means, so a
    topic with few examples counts as much as one with many. by_topic: {topic: {value, n, kind}} in order of appearance;
    the empty topic is called `all`. The kind of a topic is that of its first example.
    """
    by_topic = {}
    for topic in dict.fromkeys(topics):
        topic_values = [value for value, other in zip(values, topics) if other == topic]
        kind = next(kind for kind, other in zip(kinds, topics) if other == topic)
        by_topic[topic or "all"] = dict(value=float(np.mean(topic_values)), n=len(topic_values), kind=kind)
    value = float(np.mean([score["value"] for score in by_topic.values()]))
    return dict(metric=metric, value=value, n=len(values), by_topic=by_topic, **extras)


def evaluate_suite(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    suites: Mapping[str, Examples | Suite | None],
    adapter: str | None = None,
    encoder: Encoder | None = None,
    items: bool = False,
) -> dict[str, SuiteScores]:
    """Evaluate a model on suites and return {suite: {task: scores}}; see `TaskScore` for the scores.

    | task | examples | metric |
    |---|---|---|
    | `qa` | questions with a known answer, short free-form answers | greedy exact match; also option accuracy |
    | `preference` | pairs with a known better response | pairwise accuracy by mean log-probability per token |
    | `reply` | other free-form answers | key-fact recall; token F1 for all if any example lists no facts |

    suites: canonical examples or a Suite by name; None and empty ones are skipped. Examples with unknown labels are not
    evaluated. adapter: name of an adapter of a PeftModel, or "base" for none; None evaluates the model as it is.
    encoder: of suites that are not encoded yet and of generation, `Encoder(tokenizer)` by default. items: add the value
    of each example. The model is left in eval mode.
    """
    encoder = encoder or Encoder(tokenizer)
    model.eval()
    if adapter is not None:
        with merged_adapter(model, None if adapter == "base" else adapter):
            return evaluate_suite(model, tokenizer, suites, encoder=encoder, items=items)
    out: dict[str, SuiteScores] = {}
    for name, given in suites.items():
        if given is None or not len(given.examples if isinstance(given, Suite) else given):
            continue
        suite = given if isinstance(given, Suite) else Suite.from_examples(given, encoder)
        out[name] = {}
        questions = suite.subset(_is_question)
        pairs = suite.subset(lambda example: example["task"] == "pair" and example["label"] >= 0)
        replies = suite.subset(lambda example: example["task"] == "response" and not is_short_answer(example))
        if questions.examples:
            out[name]["qa"] = _score_questions(model, questions, items)
        if pairs.examples:
            out[name]["preference"] = _score_pairs(model, pairs, items)
        if replies.examples:
            out[name]["reply"] = _score_replies(model, tokenizer, encoder, replies, items)
    return out


def _with_correct_option(example: Example) -> Example:
    if example["task"] == "question" and example["label"] >= 0:
        return {**example, "responses": [example["responses"][example["label"]]], "label": 0}
    return example


def _is_question(example: Example) -> bool:
    return (example["task"] == "question" and example["label"] >= 0) or is_short_answer(example)


def _topics_and_kinds(examples: Sequence[Example]) -> tuple[list[str], list[str]]:
    return [example["topic"] for example in examples], [example["kind"] for example in examples]


def _items(suite: Suite, values: Sequence[float], wanted: bool) -> dict[str, dict[str, float]]:
    return {"items": {one["id"]: float(value) for one, value in zip(suite.examples, values)}} if wanted else {}


def _score_questions(model: PreTrainedModel | PeftModel, suite: Suite, items: bool) -> TaskScore:
    scores = score_responses(model, suite.encoded)
    correct = [max(example["label"], 0) for example in suite.examples]
    values = [float(score["greedy"][label]) for score, label in zip(scores, correct)]
    extras: dict[str, Any] = {}
    with_options = [(score["logp"], label) for score, label in zip(scores, correct) if len(score["logp"]) > 1]
    if with_options:
        extras = dict(
            option_accuracy=float(np.mean([float(logp.argmax() == label) for logp, label in with_options])),
            option_chance=float(np.mean([1 / len(logp) for logp, _ in with_options])),
            option_n=len(with_options),
        )
    by_level = {}
    for level in dict.fromkeys(example["level"] for example in suite.examples if example["level"]):
        chosen = [i for i, example in enumerate(suite.examples) if example["level"] == level]
        topics, kinds = _topics_and_kinds([suite.examples[i] for i in chosen])
        by_level[level] = summarize("exact_match", [values[i] for i in chosen], topics, kinds)["value"]
    if by_level:
        extras["by_level"] = by_level
    topics, kinds = _topics_and_kinds(suite.examples)
    return summarize("exact_match", values, topics, kinds, **extras, **_items(suite, values, items))


def _score_pairs(model: PreTrainedModel | PeftModel, suite: Suite, items: bool) -> TaskScore:
    means = [score["logp"] / score["tokens"] for score in score_responses(model, suite.encoded)]
    values = [float(mean[one["label"]] > mean[1 - one["label"]]) for mean, one in zip(means, suite.examples)]
    topics, kinds = _topics_and_kinds(suite.examples)
    return summarize("pairwise_accuracy", values, topics, kinds, **_items(suite, values, items))


def _score_replies(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    suite: Suite,
    items: bool,
) -> TaskScore:
    longest = max(len(encoded.tokens) for encoded in suite.encoded)
    max_new_tokens = min(longest + EXTRA_REPLY_TOKENS, MAX_REPLY_TOKENS)
    replies = generate(model, tokenizer, encoder, suite.examples, max_new_tokens=max_new_tokens)
    metric = "key_fact_recall" if all(example["facts"] for example in suite.examples) else "token_f1"
    values = [
        key_fact_recall(reply, example["facts"])
        if metric == "key_fact_recall"
        else token_f1(reply, example["responses"][0])
        for reply, example in zip(replies, suite.examples)
    ]
    topics, kinds = _topics_and_kinds(suite.examples)
    return summarize(metric, values, topics, kinds, **_items(suite, values, items))
