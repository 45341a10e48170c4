"""Forgetting of a chat model, measured in its own replies to the chat suite.

    retention = ½ · (free-answer accuracy ÷ the base's + instructions passed ÷ the base's)

An instruction is passed if all of its constraints are satisfied. (A limit on words alone is also satisfied by a reply
about something else.) Reported in addition, and never averaged in: share of the items right with the base that stay
right, KL in both directions, NLL of the base's replies, words in a reply, and domain intrusion.
"""

import sys
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icft_lite.chat_checks import intrusions, is_right, passed_checks
from icft_lite.data.chat_suite import SEEN_KINDS, ChatItem
from icft_lite.metrics import nan_mean
from icft_lite.modeling.encoding import Encoded, Encoder
from icft_lite.modeling.replies import greedy_replies
from icft_lite.retention import divergence, supervised_states
from icft_lite.utils.progress import progress_bar

MAX_REPLY_TOKENS = 64
ANSWER_TOKENS = 40
"""A free answer must be right within this many tokens."""
KL_REPLIES = 60
"""Maximum number of replies on which KL and NLL are measured: some 3,000 tokens."""

ChatScores = dict[str, Any]
"""Scores of one model on one part of the suite, ready for JSON.

free: {value, n, by_topic}. instructions: {value, n, by_topic, checks: share of single constraints, seen, unseen: value
of seen and unseen kinds}. items: {id: 0 or 1}. replies: {id: text}. words: mean number of words in a reply. intrusion:
share of replies with a medical term that the base's reply lacks (for the base itself: with any medical term).
For a tuned model also nll: NLL per token of the base's replies; kl_base_tuned: KL(base ‖ tuned) per token of the
base's replies; kl_tuned_base: KL(tuned ‖ base) per token of the tuned model's replies, all in nats."""


class ChatRetention(NamedTuple):
    """Retention of a chat model with its percentile interval, the two ratios, and what stays right."""

    value: float
    low: float
    high: float
    free: float
    instructions: float
    still_right: float
    """Share of the items right with the base that are right with the tuned model."""


def evaluate_chat(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    suite: Sequence[ChatItem],
    adapter: str | None = None,
    base_replies: Mapping[str, str] | None = None,
    progress: bool = False,
    cache: Path | None = None,
) -> ChatScores:
    """Let a model reply greedily to every item of a suite, and score its replies.

    adapter: name of the adapter that is evaluated; None: the base. base_replies: `replies` of the base's scores on the
    same items. With them, the scores contain what compares the two models, measured on at most KL_REPLIES replies; this
    needs a model with adapters. progress: show progress bars. cache: folder for the base's replies.
    """
    examples = [item.example for item in suite]
    texts = greedy_replies(model, tokenizer, encoder, examples, MAX_REPLY_TOKENS, adapter, progress, cache)
    replies = {item.id: text for item, text in zip(suite, texts, strict=True)}
    scores = score_replies(suite, replies, tokenizer, base_replies)
    if base_replies is not None and isinstance(model, PeftModel):
        of_base, own = (encode_replies(suite, some, encoder) for some in (base_replies, replies))
        with progress_bar(2 * (len(of_base) + len(own)), "KL", "reply", progress) as bar:
            base, tuned = (supervised_states(model, *some, bar.update) for some in ((of_base, None), (own, adapter)))
            scores["kl_base_tuned"], scores["nll"] = divergence(model, of_base, adapter, base, bar.update)
            scores["kl_tuned_base"] = divergence(model, own, None, tuned, bar.update).kl
    return scores


def score_replies(
    suite: Sequence[ChatItem],
    replies: Mapping[str, str],
    tokenizer: PreTrainedTokenizerBase,
    base_replies: Mapping[str, str] | None = None,
) -> ChatScores:
    """Score given replies to a suite, see ChatScores. Needs no model."""
    free, instructions, single = {}, {}, []
    for item in suite:
        if item.accepted:
            ids = tokenizer.encode(replies[item.id], add_special_tokens=False)[:ANSWER_TOKENS]
            free[item.id] = float(is_right(tokenizer.decode(ids), item.accepted, item.others))
        elif item.checks:
            passed = passed_checks(replies[item.id], item.checks)
            instructions[item.id] = float(all(passed))
            single += passed
    topic_of = {item.id: item.topic for item in suite}
    seen = [instructions[name] for name in instructions if topic_of[name] in SEEN_KINDS]
    unseen = [instructions[name] for name in instructions if topic_of[name] not in SEEN_KINDS]
    intruded = [bool(intrusions(replies[item.id], (base_replies or {}).get(item.id, ""))) for item in suite]
    return dict(
        free=_by_topic(free, topic_of),
        instructions=_by_topic(instructions, topic_of)
        | dict(checks=nan_mean(single), seen=nan_mean(seen), unseen=nan_mean(unseen)),
        items=free | instructions,
        replies={item.id: replies[item.id] for item in suite},
        words=nan_mean([len(replies[item.id].split()) for item in suite]),
        intrusion=nan_mean(intruded),
    )


def chat_retention(
    before: ChatScores, after: ChatScores, suite: Sequence[ChatItem], n_resamples: int = 2000, seed: int = 0
) -> ChatRetention:
    """Return the retention of `after` relative to the base's scores `before`, with a 95 % paired bootstrap interval.

    Questions and instructions are resampled separately, both models together. NaN if the base has none of them right.
    """
    rng, ratios, resampled = np.random.default_rng(seed), [], np.zeros(n_resamples)
    for is_free in (True, False):
        ids = [item.id for item in suite if item.id in before["items"] and bool(item.accepted) == is_free]
        base, tuned = (np.array([scores["items"][name] for name in ids], float) for scores in (before, after))
        draws = rng.integers(0, max(1, len(ids)), (n_resamples, len(ids)))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append(float(tuned.sum() / base.sum()) if base.any() else float("nan"))
            resampled += tuned[draws].sum(1) / base[draws].sum(1) / 2
    finite = resampled[np.isfinite(resampled)]
    low, high = np.quantile(finite, (0.025, 0.975)) if finite.size else (float("nan"),) * 2
    right = [name for name, value in before["items"].items() if value]
    still_right = nan_mean([after["items"][name] for name in right])
    free, instructions = ratios
    return ChatRetention(float(np.mean(ratios)), float(low), float(high), free, instructions, still_right)


def encode_replies(
    suite: Sequence[ChatItem], replies: Mapping[str, str], encoder: Encoder, limit: int = KL_REPLIES
) -> list[Encoded]:
    """Encode at most `limit` replies, evenly spaced over the suite, as responses to their prompts.

    Empty replies are left out. The end of turn is supervised only where the reply ends before the limit. A reply may be
    longer than the encoder's `max_length`, as in generation.
    """
    whole = copy(encoder)
    whole.max_length = sys.maxsize
    written = [item for item in suite if replies[item.id]]
    encoded = [
        whole({**item.example, "responses": [replies[item.id]], "label": 0})
        for item in written[:: max(1, -(-len(written) // limit))]
    ]
    for one in encoded:
        one.tokens = one.tokens[:MAX_REPLY_TOKENS]
    return encoded


def _by_topic(items: Mapping[str, float], topic_of: Mapping[str, str]) -> dict[str, Any]:
    topics: dict[str, list[float]] = {}
    for name, value in items.items():
        topics.setdefault(topic_of[name], []).append(value)
    parts = {topic: dict(value=nan_mean(values), n=len(values)) for topic, values in topics.items()}
    return dict(value=nan_mean(list(items.values())), n=len(items), by_topic=parts)
