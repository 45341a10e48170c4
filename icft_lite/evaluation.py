"""Evaluation of a model on suites: question answering, preference pairs and free replies.

Greedy exact match needs no generation: greedy decoding writes the reference exactly if every reference token, the end
of turn included, is the argmax given the ones before it. One forward pass shows this.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from peft import PeftModel
from tqdm.auto import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icft_lite.config import Metric
from icft_lite.data.schema import Example, Examples
from icft_lite.errors import ICFTError, warn
from icft_lite.metrics import key_fact_recall, token_f1
from icft_lite.modeling.adapters import merged_adapter
from icft_lite.modeling.base import TINY
from icft_lite.modeling.encoding import Encoded, Encoder, encode_examples
from icft_lite.modeling.generation import generate
from icft_lite.modeling.scoring import score_responses
from icft_lite.modeling.self_check import check_model
from icft_lite.utils.progress import progress_bar

SHORT_ANSWER_WORDS = 8
"""Free-form references of at most this many words are scored by exact match, longer ones by token F1."""
MAX_REPLY_TOKENS = 192
"""Maximum number of tokens that are generated for a free reply."""
EXTRA_REPLY_TOKENS = 8
"""A reply may have this many tokens more than the longest reference of the suite."""

TaskScore = dict[str, Any]
"""The scores of one task of a suite, as in report.json:

metric: name of the primary metric (`exact_match`, `accuracy`, `accuracy_norm`, `pairwise_accuracy`, `key_fact_recall`,
`token_f1` or `likelihood`). value: float, the unweighted mean over topics. chance: float, the mean over topics of what
guessing scores. n: number of examples. by_topic: {topic: {value, chance, n, kind}}. items: {example id: value}, on
request. by_level: {level: value}, where examples have levels. For questions also option_accuracy, option_chance (the
mean of 1/k over questions with k options) and option_n (their number), and exact_match where it is not the primary
metric. For replies also nll: mean negative log-likelihood per token of the reference, in nats."""
SuiteScores = dict[str, TaskScore]
"""The scores of one suite by task: `qa`, `short_answer`, `preference`, `reply`. A task without examples is absent."""


@dataclass
class Suite:
    """Examples of one domain, encoded once and evaluated many times."""

    examples: list[Example]
    """Canonical examples."""
    encoded: Sequence[Encoded]
    """Their encodings, in the same order."""
    left_out: int = 0
    """Number of examples that are not evaluated because their question and responses are too long."""
    letters: bool = False
    """True if the options of questions are letters."""

    @classmethod
    def from_examples(cls, examples: Examples, encoder: Encoder, only_correct_option: bool = False) -> "Suite":
        """Encode canonical examples, and leave out those that are too long for the encoder.

        only_correct_option: drop the wrong options of questions. Exact match is the same and costs 1/k of the time for
        k options, but there is no option accuracy. Lettered options all stay, because they are part of the prompt.
        """
        given = [dict(example) for example in examples]
        if only_correct_option and not encoder.letter_options:
            given = [_with_correct_option(example) for example in given]
        fitting, encoded, left_out = encode_examples(given, encoder)
        return cls(list(fitting), encoded, len(left_out), encoder.letter_options)

    def subset(self, keep: Callable[[Example], bool]) -> "Suite":
        """Return a suite of the examples for which `keep(example)` is true."""
        chosen = [i for i, example in enumerate(self.examples) if keep(example)]
        return Suite([self.examples[i] for i in chosen], [self.encoded[i] for i in chosen], letters=self.letters)


def is_short_answer(example: Example) -> bool:
    """Return whether a free-form example is scored by exact match.

    It is if it lists no key facts and its reference has at most SHORT_ANSWER_WORDS words.
    """
    return (
        example["task"] == "response"
        and not example["facts"]
        and len(example["responses"][0].split()) <= SHORT_ANSWER_WORDS
    )


def primary_metric(metric: Metric, model: PreTrainedModel | PeftModel) -> Metric:
    """Return the metric of questions with options: `auto` is `exact_match` for `tiny` and `accuracy` for other models.

    `tiny` was trained to write answers exactly as the samples have them. A chat model answers in words of its own, so
    its exact match is near 0 whatever it knows.
    """
    if metric != "auto":
        return metric
    return "exact_match" if model.config.name_or_path in ("tiny", str(TINY)) else "accuracy"


def summarize(
    metric: str,
    values: Sequence[float],
    examples: Sequence[Example],
    chance: Sequence[float] | float = 0.0,
    items: bool = False,
    **extras: Any,
) -> TaskScore:
    """Average per-example values over topics: a TaskScore with `extras`.

    values: one per example, at least one. chance: what guessing scores, for each example or for all. `value` is the
    unweighted mean over the topics' means, so a topic with few examples counts as much as one with many. by_topic is in
    order of appearance; the empty topic is called `all`. The kind of a topic is that of its first example.
    """
    chances = np.broadcast_to(chance, len(values))
    groups: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        groups.setdefault(example["topic"] or "all", []).append(i)
    by_topic = {
        topic: dict(
            value=float(np.mean([values[i] for i in group])),
            chance=float(np.mean([chances[i] for i in group])),
            n=len(group),
            kind=examples[group[0]]["kind"],
        )
        for topic, group in groups.items()
    }
    value, mean_chance = (float(np.mean([score[key] for score in by_topic.values()])) for key in ("value", "chance"))
    if levels := _by_level(metric, values, examples):
        extras["by_level"] = levels
    if items:
        extras["items"] = {one["id"]: float(value) for one, value in zip(examples, values)}
    return dict(metric=metric, value=value, chance=mean_chance, n=len(values), by_topic=by_topic, **extras)


def _by_level(metric: str, values: Sequence[float], examples: Sequence[Example]) -> dict[str, float]:
    levels: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        if example["level"]:
            levels.setdefault(example["level"], []).append(i)
    return {
        level: summarize(metric, [values[i] for i in group], [{**examples[i], "level": ""} for i in group])["value"]
        for level, group in levels.items()
    }


def evaluate_suite(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    suites: Mapping[str, Examples | Suite | None],
    adapter: str | None = None,
    encoder: Encoder | None = None,
    items: bool = False,
    metric: Metric = "auto",
    generate_replies: bool = True,
    progress: bool = False,
) -> dict[str, SuiteScores]:
    """Evaluate a model on suites and return {suite: {task: scores}}; see `TaskScore` for the scores.

    | task | examples | metric |
    |---|---|---|
    | `qa` | questions with options and a known answer | `metric`, see below |
    | `short_answer` | short free-form answers | greedy exact match |
    | `preference` | pairs with a known better response | pairwise accuracy by mean log-probability per token |
    | `reply` | other free-form answers | key-fact recall; token F1 for all if any example lists no facts |

    Metrics of questions with options: `exact_match` (greedy decoding writes the right option exactly), `accuracy` (the
    right option has the largest summed log-probability), `accuracy_norm` (the largest per character of its text), or
    `auto`, see `primary_metric`. The last three are those of lm-evaluation-harness, with the chat template and the end
    of turn.

    suites: canonical examples or a Suite by name; those without an example that can be scored are absent in the result.
    Examples with unknown labels are not evaluated, and those that do not fit are left out with a warning. adapter: name
    of an adapter of a PeftModel, or "base" for none; None evaluates the model as it is. encoder: of suites that are not
    encoded yet and of generation, `Encoder(tokenizer)` by default. items: add the value of each example.
    generate_replies: False scores free replies by `likelihood` instead, exp(−NLL per token) of the reference, which
    takes one forward pass. progress: show a progress bar. The model is left in eval mode.
    """
    if metric not in get_args(Metric):
        raise ICFTError(f"metric: {metric!r} is unknown; choose one of {', '.join(get_args(Metric))}")
    if encoder is None:
        encoder = Encoder(tokenizer)
        encoder.share_prompts = check_model(model, tokenizer, encoder.max_length).shared_prompts
    model.eval()
    if adapter is not None:
        with merged_adapter(model, None if adapter == "base" else adapter):
            return evaluate_suite(model, tokenizer, suites, None, encoder, items, metric, generate_replies, progress)
    metric = primary_metric(metric, model)
    encoded = {
        name: given if isinstance(given, Suite) else Suite.from_examples(given, encoder)
        for name, given in suites.items()
        if given is not None and len(given.examples if isinstance(given, Suite) else given)
    }
    for name, suite in encoded.items():
        if suite.left_out and not isinstance(suites[name], Suite):
            warn(
                f"{name}: {suite.left_out} of {suite.left_out + len(suite.examples)} examples do not fit max_length = "
                f"{encoder.max_length} tokens: left out"
            )
    total = sum(len(suite.examples) for suite in encoded.values())
    out: dict[str, SuiteScores] = {}
    with progress_bar(total, "scoring", shown=progress) as bar:
        for name, suite in encoded.items():
            out[name] = {}
            for task, part in _tasks(suite).items():
                if not part.examples:
                    continue
                if task == "reply" and generate_replies:
                    out[name][task] = _score_replies(model, tokenizer, encoder, part, items, bar)
                else:
                    out[name][task] = _score_responses(model, task, part, metric, items, bar)
    return {name: scores for name, scores in out.items() if scores}


def _with_correct_option(example: Example) -> Example:
    if example["task"] == "question" and example["label"] >= 0:
        return {**example, "responses": [example["responses"][example["label"]]], "label": 0}
    return example


def _tasks(suite: Suite) -> dict[str, Suite]:
    """Return the part of a suite that belongs to each task."""
    return {
        "qa": suite.subset(lambda example: example["task"] == "question" and example["label"] >= 0),
        "short_answer": suite.subset(is_short_answer),
        "preference": suite.subset(lambda example: example["task"] == "pair" and example["label"] >= 0),
        "reply": suite.subset(lambda example: example["task"] == "response" and not is_short_answer(example)),
    }


def _score_responses(
    model: PreTrainedModel | PeftModel, task: str, suite: Suite, metric: Metric, items: bool, bar: tqdm
) -> TaskScore:
    """Score a task from the log-probabilities of its responses."""
    scores, examples = score_responses(model, suite.encoded, on_batch=bar.update), suite.examples
    if task == "reply":
        nll = [-float(score["logp"][0] / score["tokens"][0]) for score in scores]
        return summarize("likelihood", np.exp(-np.array(nll)), examples, items=items, nll=float(np.mean(nll)))
    labels = [one["label"] for one in examples]
    if task == "preference":
        means = [score["logp"] / score["tokens"] for score in scores]
        right = [float(mean[label] > mean[1 - label]) for mean, label in zip(means, labels)]
        return summarize("pairwise_accuracy", right, examples, 0.5, items)
    exact = [float(score["greedy"][max(label, 0)]) for score, label in zip(scores, labels)]
    if task == "short_answer":
        return summarize("exact_match", exact, examples, items=items)
    extras: dict[str, Any] = {}
    logps = [score["logp"] for score in scores]
    if metric == "accuracy_norm" and not suite.letters:
        logps = [logp / list(map(len, one["responses"])) for logp, one in zip(logps, examples)]
    accuracy = [float(logp.argmax() == label) for logp, label in zip(logps, labels)]
    chance = [1 / len(logp) for logp in logps]
    if with_options := [i for i, logp in enumerate(logps) if len(logp) > 1]:
        extras = dict(
            option_accuracy=float(np.mean([accuracy[i] for i in with_options])),
            option_chance=float(np.mean([chance[i] for i in with_options])),
            option_n=len(with_options),
        )
    if metric == "exact_match":
        return summarize(metric, exact, examples, 0.0, items, **extras)
    exact_match = summarize("exact_match", exact, examples)["value"]
    return summarize(metric, accuracy, examples, chance, items, exact_match=exact_match, **extras)


def _score_replies(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    suite: Suite,
    items: bool,
    bar: tqdm,
) -> TaskScore:
    longest = max(len(encoded.tokens) for encoded in suite.encoded)
    max_new_tokens = min(longest + EXTRA_REPLY_TOKENS, MAX_REPLY_TOKENS)
    replies = generate(model, tokenizer, encoder, suite.examples, max_new_tokens=max_new_tokens)
    bar.update(len(replies))
    scores = score_responses(model, suite.encoded, on_batch=lambda n: None)
    nll = [-float(one["logp"][0] / one["tokens"][0]) for one in scores]
    metric = "key_fact_recall" if all(example["facts"] for example in suite.examples) else "token_f1"
    values = [
        key_fact_recall(reply, example["facts"])
        if metric == "key_fact_recall"
        else token_f1(reply, example["responses"][0])
        for reply, example in zip(replies, suite.examples)
    ]
    return summarize(metric, values, suite.examples, items=items, nll=float(np.mean(nll)))
