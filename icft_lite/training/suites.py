"""What a run is measured on: suites of examples, and the parts of a chat suite with the base's replies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icft_lite.chat_metrics import ChatScores, chat_retention, encode_replies, evaluate_chat
from icft_lite.config import Metric
from icft_lite.data.bundle import DataBundle
from icft_lite.data.chat_suite import ChatItem
from icft_lite.data.schema import Example
from icft_lite.evaluation import Suite, evaluate_suite, is_short_answer
from icft_lite.modeling.encoding import Encoded, Encoder
from icft_lite.utils.io import to_plain

KL_PROBE = 30
"""Replies on which KL(base ‖ tuned) of a candidate of consolidation is measured, ten seconds each time on a CPU."""


@dataclass(frozen=True)
class ChatPart:
    """One part of a chat suite, with the base's scores."""

    items: Sequence[ChatItem]
    base: ChatScores

    @property
    def base_replies(self) -> dict[str, str]:
        """Replies of the base by item id."""
        return self.base["replies"]

    def encode(self, encoder: Encoder) -> list[Encoded]:
        """Return at most KL_PROBE of the base's replies, encoded for `retention.divergence`."""
        return encode_replies(self.items, self.base_replies, encoder, KL_PROBE)


def score_chat_parts(
    suite: Mapping[str, Sequence[ChatItem]],
    parts: Sequence[str],
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    progress: bool,
    cache: Path | None,
) -> dict[str, ChatPart]:
    """Return those of the given parts that a chat suite has, with the scores of the base."""
    return {
        part: ChatPart(items, evaluate_chat(model, tokenizer, encoder, items, None, None, progress, cache))
        for part in parts
        if (items := suite.get(part))
    }


def compare_with_base(
    chat: Mapping[str, ChatPart],
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    progress: bool,
    adapter: str = "slow",
) -> dict[str, Any]:
    """Return what an adapter changed in replies to the test part of a chat suite; {} without one.

    scores: {before, after: ChatScores without replies}; retention: the fields of ChatRetention; display: for each
    display prompt {prompt, base, after}; replies: {item id: {prompt, base, after}}, those of display included.
    """
    if "test" not in chat:
        return {}
    part = chat["test"]
    after = evaluate_chat(model, tokenizer, encoder, part.items, adapter, part.base_replies, progress)
    own = dict(after["replies"])
    if shown := chat.get("display"):
        own |= evaluate_chat(model, tokenizer, encoder, shown.items, adapter, progress=progress)["replies"]
    replies = {
        item.id: dict(prompt=item.prompt, base=one.base_replies[item.id], after=own[item.id])
        for one in (part, *([shown] if shown else []))
        for item in one.items
    }
    found = dict(
        scores={
            name: {key: value for key, value in scores.items() if key != "replies"}
            for name, scores in (("before", part.base), ("after", after))
        },
        retention=chat_retention(part.base, after, part.items)._asdict(),
        display=[replies[item.id] for item in (shown.items if shown else ())],
        replies=replies,
    )
    return to_plain(found)  # an undefined ratio is None


def encode_suites(data: DataBundle, encoder: Encoder, exact_match: bool) -> dict[str, Suite]:
    """Return the suites that have examples.

    exact_match: questions of validation have only the correct option, which exact match needs.
    """
    examples = {
        "general_validation": data.general_validation,
        "medical_validation": data.validation,
        "general": data.general_test,
        "medical": data.test,
    }
    suites = {}
    for name, some in examples.items():
        if some is not None and len(some):
            for_validation = "validation" in name
            suites[name] = Suite.from_examples(some, encoder, only_correct_option=for_validation and exact_match)
    return suites


def needs_no_generation(example: Example) -> bool:
    """Return True for an example that is scored after every stage: a question or a short answer."""
    return example["task"] == "question" or is_short_answer(example)


def evaluate_all(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    suites: Mapping[str, Suite],
    adapter: str,
    encoder: Encoder,
    metric: Metric,
    progress: bool,
    replies: bool = True,
) -> dict[str, Any]:
    """Return the scores of all suites, with those of each example.

    Free replies are generated for tests only, and only with `replies`; elsewhere they are scored by likelihood.
    """
    scores: dict[str, Any] = {}
    for validation in (True, False):
        part = {name: suite for name, suite in suites.items() if ("validation" in name) == validation}
        generated = replies and not validation
        scores |= evaluate_suite(model, tokenizer, part, adapter, encoder, True, metric, generated, progress)
    return scores
