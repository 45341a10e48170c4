"""Scores: question answering, preference pairs, replies.

Greedy exact match needs no generation: a greedy decoder writes the reference exactly when every reference
token, the end of turn included, is the argmax after the ones before it. One forward pass tells.
"""

from dataclasses import dataclass

import numpy as np

from icft_lite.metrics import key_fact_recall, token_f1
from icft_lite.modeling.adapters import merged_adapter
from icft_lite.modeling.encoding import Encoder, encode_examples
from icft_lite.modeling.generation import generate
from icft_lite.modeling.scoring import score_responses

SHORT = 8
"""Free-form references of at most this many words are scored by exact match, longer ones by token F1."""


@dataclass
class Suite:
    """Examples of one domain, encoded once and scored often."""

    examples: list
    """Canonical example dicts."""
    encoded: list
    """Their encodings, in the same order."""
    left_out: int = 0
    """Examples whose question and responses do not fit; they are not scored."""

    @classmethod
    def of(cls, dataset, encoder, options=True):
        """options=False: questions keep only their right answer. Exact match is the same and costs 1/k."""
        rows = [dict(row) for row in dataset]
        if not options:
            rows = [
                {**row, "responses": [row["responses"][row["label"]]], "label": 0}
                if row["task"] == "question" and row["label"] >= 0
                else row
                for row in rows
            ]
        rows, encoded, left_out = encode_examples(rows, encoder)
        return cls(rows, encoded, len(left_out))

    def subset(self, keep):
        """The examples for which `keep(row)` is true."""
        chosen = [i for i, row in enumerate(self.examples) if keep(row)]
        return Suite([self.examples[i] for i in chosen], [self.encoded[i] for i in chosen])


def is_short_answer(row):
    """A free-form row that is scored by exact match."""
    return row["task"] == "response" and not row["facts"] and len(row["responses"][0].split()) <= SHORT


def summarize(metric, values, topics, kinds, **more):
    """{metric, value, n, by_topic, …}: `value` is the unweighted mean over topics."""
    by_topic = {}
    for topic in dict.fromkeys(topics):
        mine = [v for v, t in zip(values, topics) if t == topic]
        kind = next(k for k, t in zip(kinds, topics) if t == topic)
        by_topic[topic or "all"] = dict(value=float(np.mean(mine)), n=len(mine), kind=kind)
    value = float(np.mean([entry["value"] for entry in by_topic.values()]))
    return dict(metric=metric, value=value, n=len(values), by_topic=by_topic, **more)


def evaluate_suite(model, tokenizer, suites, adapter=None, encoder=None, items=False):
    """Score a model on suites.

    suites: {name: Dataset of canonical rows, or a Suite}. adapter: which adapter of a PeftModel (None: as it
    is; "base": none). Returns {name: {task: {"metric", "value", "n", "by_topic", …}}} for the tasks present:
    `qa` (greedy exact match; beside it `option_accuracy` and its floor, the mean of 1/k), `preference`
    (pairwise accuracy by length-normalised log-probability), `reply` (key-fact recall, or token F1 where a
    row names no facts). items=True adds `items`: {row id: value}."""
    encoder = encoder or Encoder(tokenizer)
    model.eval()
    out = {}
    if adapter is not None:
        with merged_adapter(model, None if adapter == "base" else adapter):
            return evaluate_suite(model, tokenizer, suites, encoder=encoder, items=items)
    for name, suite in suites.items():
        if suite is None or not len(suite.examples if isinstance(suite, Suite) else suite):
            continue
        suite = suite if isinstance(suite, Suite) else Suite.of(suite, encoder)
        out[name] = {}
        qa = suite.subset(lambda row: row["task"] == "question" and row["label"] >= 0 or is_short_answer(row))
        pairs = suite.subset(lambda row: row["task"] == "pair" and row["label"] >= 0)
        replies = suite.subset(lambda row: row["task"] == "response" and not is_short_answer(row))
        if qa.examples:
            out[name]["qa"] = _score_qa(model, qa, items)
        if pairs.examples:
            out[name]["preference"] = _score_pairs(model, pairs, items)
        if replies.examples:
            out[name]["reply"] = _score_replies(model, tokenizer, encoder, replies, items)
    return out


def _columns(suite):
    return [row["topic"] for row in suite.examples], [row["kind"] for row in suite.examples]


def _items(suite, values, wanted):
    return {"items": {row["id"]: float(v) for row, v in zip(suite.examples, values)}} if wanted else {}


def _score_qa(model, suite, items):
    scores = score_responses(model, suite.encoded)
    right = [max(row["label"], 0) for row in suite.examples]
    values = [float(score["greedy"][at]) for score, at in zip(scores, right)]
    levels = {}
    for level in {row["level"] for row in suite.examples} - {""}:
        mine = [i for i, row in enumerate(suite.examples) if row["level"] == level]
        columns = [[column[i] for i in mine] for column in _columns(suite)]
        levels[level] = summarize("", [values[i] for i in mine], *columns)["value"]
    chosen = [float(score["logp"].argmax() == at) for score, at in zip(scores, right) if len(score["logp"]) > 1]
    floor = [1 / len(score["logp"]) for score in scores if len(score["logp"]) > 1]
    options = (
        dict(option_accuracy=float(np.mean(chosen)), option_floor=float(np.mean(floor)), option_n=len(chosen))
        if chosen
        else {}
    )
    if levels:
        options["by_level"] = levels
    return summarize("exact_match", values, *_columns(suite), **options, **_items(suite, values, items))


def _score_pairs(model, suite, items):
    scores = score_responses(model, suite.encoded)
    means = [score["logp"] / score["tokens"] for score in scores]
    values = [float(mean[row["label"]] > mean[1 - row["label"]]) for mean, row in zip(means, suite.examples)]
    return summarize("pairwise_accuracy", values, *_columns(suite), **_items(suite, values, items))


def _score_replies(model, tokenizer, encoder, suite, items):
    longest = max(len(tokens.tokens) for tokens in suite.encoded)
    texts = generate(model, tokenizer, encoder, suite.examples, max_new_tokens=min(longest + 8, 192))
    facts = all(row["facts"] for row in suite.examples)
    values = [
        key_fact_recall(text, row["facts"]) if facts else token_f1(text, row["responses"][0])
        for text, row in zip(texts, suite.examples)
    ]
    return summarize(
        "key_fact_recall" if facts else "token_f1", values, *_columns(suite), **_items(suite, values, items)
    )
