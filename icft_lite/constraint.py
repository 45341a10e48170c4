"""The retention constraint: what a candidate of consolidation must satisfy.

It is fixed before training, from the scores of the base on general validation data. Three measurements may take part:

| measurement | limit | takes part if |
|---|---|---|
| retention of choice accuracy (`retention`) | ≥ 1 − max_drop | the base is above chance on a general suite |
| retention in the model's own replies (`chat_metrics`) | ≥ 1 − max_drop | the data has a chat suite |
| KL(base ‖ tuned) in nats per token | ≤ max_kl | the data has a chat suite, or nothing else takes part |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from icft_lite.chat_metrics import ChatScores
from icft_lite.retention import MIN_RIGHT, Scores, Topic, chance_corrected_retention, informative_topics


@dataclass(frozen=True)
class RetentionConstraint:
    """What a candidate of consolidation must satisfy. Fixed before training, from the base's validation scores."""

    topics: tuple[Topic, ...]
    """Topics of the informative general suites."""
    uninformative: tuple[str, ...]
    """The other suites, each with its score and chance level, in words."""
    base: Scores
    """Scores of the base on general validation; {} without such data."""
    max_drop: float
    max_kl: float
    chat: bool = False
    """Whether retention in the model's own replies takes part."""
    limits_kl: bool = True
    """Whether KL(base ‖ tuned) takes part."""

    @classmethod
    def from_base(
        cls, base: Scores, max_drop: float, max_kl: float, chat: ChatScores | None = None
    ) -> "RetentionConstraint":
        """Return the constraint that the base's scores on general validation, and on chat validation, allow."""
        topics, uninformative = informative_topics(base)
        parts = (chat["free"], chat["instructions"]) if chat else ()
        counts = [round(score["value"] * score["n"]) if score["n"] else 0 for score in parts]
        informative = min(counts, default=0) >= MIN_RIGHT
        if chat and not informative:
            uninformative.append(f"chat suite ({counts[0]} right answers, {counts[1]} instructions passed)")
        limits_kl = chat is not None or not topics
        return cls(tuple(topics), tuple(uninformative), base, max_drop, max_kl, informative, limits_kl)

    def retention(self, scores: Scores) -> float:
        """Return the retention of choice accuracy with these scores on general validation; NaN without topics."""
        return chance_corrected_retention(self.base, scores, self.topics)

    def allows(self, candidate: Mapping[str, Any]) -> bool:
        """Return whether a candidate satisfies all measurements that take part.

        candidate: with the keys `retention`, `chat_retention` and `kl`, of those that take part. One that was not
        measured (None), because another violates its limit, is not satisfied.
        """
        least = 1 - self.max_drop
        values = [candidate["retention"]] if self.topics else []
        values += [candidate["chat_retention"]] if self.chat else []
        kl = candidate["kl"] if self.limits_kl else 0.0
        return kl is not None and kl <= self.max_kl and all(value is not None and value >= least for value in values)

    def describe(self) -> str:
        """Return the constraint in words."""
        parts, least = [], f"≥ {1 - self.max_drop:g}"
        if self.topics:
            parts.append(f"retention {least} on general validation")
        if self.chat:
            parts.append(f"retention {least} in replies to the chat suite")
        if self.limits_kl:
            why = "" if parts else ", because no general suite is informative"
            parts.append(f"KL(base ‖ tuned) ≤ {self.max_kl:g} nats per token{why}")
        return " and ".join(parts)
