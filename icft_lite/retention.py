"""Retention of general knowledge in answers that are right or wrong, and KL(base ‖ tuned).

    retention = Σ (after − chance) ÷ Σ (before − chance)        over the topics of informative general suites

A suite is a topic, or all topics of a task that have fewer than MIN_SUITE_SIZE examples. It is informative if the base
has at least MIN_RIGHT answers right and scores above chance: the lower bound of its 95 % Wilson interval exceeds the
chance level (which is 0 for exact match, so that one right answer would do). Topics count equally,
so with unequal sizes the interval is that of an effective number of questions, k² ÷ Σ 1/n over k topics of n questions.
Which suites are informative is decided from the base's scores, before training. Free replies take no part: their scores
compare texts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import PeftModel

from icft_lite.data.schema import Example
from icft_lite.modeling.adapters import merged_adapter
from icft_lite.modeling.encoding import Encoded, Encoder, encode_examples
from icft_lite.modeling.forward import batch_states, head_weight
from icft_lite.modeling.losses import token_kl, token_logprobs
from icft_lite.statistics import binomial_interval, resample_topics

MIN_SUITE_SIZE = 50
"""A general topic with fewer examples shares a suite with the other small topics of its task."""
MIN_RIGHT = 5
"""A ratio to the base needs at least this many right answers of the base; that of fewer is mostly noise."""
RETENTION_TASKS = ("qa", "short_answer", "preference")
"""Tasks whose answers are right or wrong."""
KL_EXAMPLES = 200
"""Maximum number of examples on which KL(base ‖ tuned) is measured."""

Topic = tuple[str, str]
"""(task, topic) of general scores."""
Scores = Mapping[str, Mapping[str, Any]]
"""The scores of one suite by task, see `evaluation.SuiteScores`."""


class Retention(NamedTuple):
    """Chance-corrected retention with its percentile interval, and the mean drop in score over topics."""

    value: float
    low: float
    high: float
    drop: float


def informative_topics(base: Scores) -> tuple[list[Topic], list[str]]:
    """Return (the topics of informative suites, the other suites in words), from the base's general scores."""
    suites: dict[tuple[str, str], list[str]] = {}
    for task in RETENTION_TASKS:
        for topic, part in base.get(task, {}).get("by_topic", {}).items():
            suites.setdefault((task, topic if part["n"] >= MIN_SUITE_SIZE else "other topics"), []).append(topic)
    topics: list[Topic] = []
    uninformative: list[str] = []
    for (task, name), members in suites.items():
        parts = [base[task]["by_topic"][topic] for topic in members]
        n = sum(part["n"] for part in parts)
        value, chance = (sum(part[key] for part in parts) / len(parts) for key in ("value", "chance"))
        effective = round(len(parts) ** 2 / sum(1 / part["n"] for part in parts))
        right = round(value * effective)
        if right >= MIN_RIGHT and binomial_interval(right, effective, method="wilson")[0] > chance:
            topics += [(task, topic) for topic in members]
        else:
            name = members[0] if len(members) == 1 else name
            uninformative.append(f"{name} ({base[task]['metric']} {value:.2f}, chance {chance:.2f}, n = {n})")
    return topics, uninformative


def chance_corrected_retention(base: Scores, after: Scores, topics: Sequence[Topic]) -> float:
    """Return Σ (after − chance) ÷ Σ (base − chance) over `topics`; NaN without topics."""
    above = np.array([_above_chance(scores, topics) for scores in (base, after)])
    return float(above[1].sum() / above[0].sum()) if topics else float("nan")


def retention_interval(
    base: Scores,
    after: Scores,
    topics: Sequence[Topic],
    topic_of: Mapping[str, str],
    n_resamples: int = 2000,
    seed: int = 0,
) -> Retention:
    """Return retention over `topics` with a 95 % bootstrap interval over questions (`statistics.resample_topics`).

    base, after: scores with `items`; topic_of: from id to topic. Both models are resampled together. NaN if there are
    no topics.
    """
    if not topics:
        return Retention(*[float("nan")] * 4)
    groups = []  # of each topic, scores above chance [2, questions]
    for task, topic in topics:
        ids = [name for name in base[task]["items"] if (topic_of[name] or "all") == topic]
        values = np.array([[scores[task]["items"][name] for name in ids] for scores in (base, after)])
        groups.append(values - base[task]["by_topic"][topic]["chance"])
    means = resample_topics(groups, n_resamples, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.nanquantile(means[1] / means[0], (0.025, 0.975))
    drop = (np.subtract(_above_chance(base, topics), _above_chance(after, topics))).mean()
    return Retention(chance_corrected_retention(base, after, topics), float(low), float(high), float(drop))


def _above_chance(scores: Scores, topics: Sequence[Topic]) -> list[float]:
    parts = [scores[task]["by_topic"][topic] for task, topic in topics]
    return [part["value"] - part["chance"] for part in parts]


def encode_for_kl(examples: Sequence[Example], encoder: Encoder) -> Sequence[Encoded]:
    """Return up to KL_EXAMPLES examples as prompts with their right response, evenly spaced over the list."""
    labelled = [one for one in examples if one["label"] >= 0]
    step = max(1, -(-len(labelled) // KL_EXAMPLES))
    return encode_examples([encoder.as_response(one) for one in labelled[::step]], encoder)[1]


class Divergence(NamedTuple):
    """Two measures of how far an adapter moved a model on given texts, in nats per supervised token."""

    kl: float
    """KL(teacher ‖ adapter)."""
    nll: float
    """Negative log-likelihood of the texts under the adapter."""


def mean_kl(model: PeftModel, encoded: Sequence[Encoded], adapter: str | None = "slow") -> float:
    """Return KL(base ‖ adapter) in nats, see `divergence`."""
    return divergence(model, encoded, adapter, supervised_states(model, encoded)).kl


@torch.no_grad()
def divergence(
    model: PeftModel,
    encoded: Sequence[Encoded],
    adapter: str | None,
    teacher: Sequence[torch.Tensor],
    on_batch: Callable[[int], object] = lambda n: None,
) -> Divergence:
    """Return the mean KL(teacher ‖ adapter) and the adapter's mean NLL over the supervised tokens; NaN without tokens.

    adapter: name of an adapter; None is the base. teacher: the teacher's `supervised_states` of the same examples.
    on_batch: called after each pass with the number of examples in it, for progress bars.
    """
    kl, nll, num_tokens, weight = 0.0, 0.0, 0, head_weight(model)
    for teacher_states, (states, targets) in zip(
        teacher, _states_and_targets(model, encoded, adapter, on_batch), strict=True
    ):
        kl += float(token_kl(states, teacher_states, weight).sum())
        nll -= float(token_logprobs(states, weight, targets).sum())
        num_tokens += len(states)
    return Divergence(kl / num_tokens, nll / num_tokens) if num_tokens else Divergence(float("nan"), float("nan"))


def supervised_states(
    model: PeftModel,
    encoded: Sequence[Encoded],
    adapter: str | None = None,
    on_batch: Callable[[int], object] = lambda n: None,
) -> list[torch.Tensor]:
    """Return the final hidden states of all supervised tokens, one tensor [tokens, hidden] per batch.

    adapter: name of an adapter; None is the base. on_batch: as in `divergence`.
    """
    return [states for states, _ in _states_and_targets(model, encoded, adapter, on_batch)]


@torch.no_grad()
def _states_and_targets(
    model: PeftModel, encoded: Sequence[Encoded], adapter: str | None, on_batch: Callable[[int], object]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (final hidden states [tokens, hidden], target ids [tokens]) of each batch of examples."""
    with merged_adapter(model, adapter):
        for group, batch, states in batch_states(model, encoded):
            yield states, batch["target"]
            on_batch(len(group))
