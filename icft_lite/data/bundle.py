"""DataBundle: what one run trains on and is evaluated on."""

import itertools
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from datasets import Dataset

from icft_lite.data.schema import SourceSummary
from icft_lite.data.splits import select_indices
from icft_lite.data.tables import column, hash_examples, hash_values
from icft_lite.errors import ICFTError

if TYPE_CHECKING:  # which imports the samples, which are a bundle
    from icft_lite.data.chat_suite import ChatItem

MEDICAL_ROLES = ("trusted", "pool", "validation", "test")
GENERAL_ROLES = ("general_memory", "general_validation", "general_test")
CHAT_PARTS = {"validation": "validation", "test": "test", "general_memory": "memory"}
"""{role: the part of a chat suite with the same use}"""


@dataclass
class DataBundle:
    """What one run trains on and is evaluated on: canonical Datasets, each of which may be None."""

    trusted: Dataset | None = None
    """Labelled training examples."""
    pool: Dataset | None = None
    """Unlabelled questions and pairs (label −1), to be labelled weakly."""
    validation: Dataset | None = None
    test: Dataset | None = None
    general_memory: Dataset | None = None
    """The only general examples that may enter the memory."""
    general_validation: Dataset | None = None
    general_test: Dataset | None = None
    chat: "Mapping[str, Sequence[ChatItem]]" = field(default_factory=dict)
    """The parts `memory`, `validation`, `test` and `display` of a suite for chat models (`chat_suite.chat_parts`)."""
    pool_gold: dict[str, int] = field(default_factory=dict)
    """From id to the index of the right response, where it is known. Only to evaluate weak labels, never to train."""
    posteriors: Mapping[str, Sequence[float]] | None = None
    """From id to a weak label for the pool, if the labels already exist."""
    lfs: Sequence[Any] = ()
    """Labelling functions (`weak.functions.LabelingFunction`) for the examples of the pool that `own_lfs` lacks."""
    own_lfs: dict[str, Literal["samples", "pubmedqa"]] = field(default_factory=dict)
    """From the id of a pool example to the data set that brings labelling functions for it (`weak.lfs`)."""
    summaries: list[SourceSummary] = field(default_factory=list)
    """What was understood of each source; for messages, not part of the content."""
    sources: dict[str, str] = field(default_factory=dict)
    """From each source, as the user named it, to the SHA-256 of its file; "" if it is not a file."""

    def only(self, topics: Collection[str] | None) -> "DataBundle":
        """Return this bundle with only the medical examples of `topics`; unchanged if there are no topics.

        Raises ICFTError for a topic that no example has.
        """
        if not topics:
            return self
        parts = {role: part for role in MEDICAL_ROLES if (part := getattr(self, role)) is not None}
        known = {topic for part in parts.values() for topic in column(part, "topic")}
        if unknown := set(topics) - known:
            raise ICFTError(f"topics: no example has topic {min(unknown)!r}; choose among {', '.join(sorted(known))}")
        chosen: dict[str, Any] = {
            role: select_indices(part, [i for i, topic in enumerate(column(part, "topic")) if topic in topics])
            for role, part in parts.items()
        }
        return replace(self, **chosen)

    def limited(self, **limits: int | None) -> "DataBundle":
        """Return this bundle with at most so many examples of each role, by name: `limited(pool=400, test=None)`.

        The examples are drawn as in `balanced_subset`; None is no limit. `test`, `validation` and `general_memory`
        limit the parts of the chat suite too, free questions and instructions each.
        """
        chosen: dict[str, Any] = {}
        for role, limit in limits.items():
            part = getattr(self, role)
            if limit is not None and part is not None:
                chosen[role] = balanced_subset(part, limit)
        parts = {
            name: balanced_items(self.chat[name], limit)
            for role, limit in limits.items()
            if limit is not None and (name := CHAT_PARTS.get(role, "")) in self.chat
        }
        return replace(self, **chosen, chat={**self.chat, **parts})

    def content_hash(self) -> dict[str, str]:
        """Return the SHA-256 of each role's examples, as hex: what identifies the data of a run.

        The keys are the roles that are not None, and `pool_gold`, `posteriors` and `lfs` if they are not empty. A hash
        depends on the canonical examples and their order, not on paths, file formats or `sources`. Examples are read
        in batches, so that the memory needed does not grow with their number.
        """
        parts = {role: getattr(self, role) for role in (*MEDICAL_ROLES, *GENERAL_ROLES)}
        hashes = {role: hash_examples(part) for role, part in parts.items() if part is not None}
        for name, values in (("pool_gold", self.pool_gold), ("posteriors", self.posteriors)):
            if values:
                hashes[name] = hash_values(values)
        if self.lfs:
            hashes["lfs"] = hash_values({str(i): lf.identity for i, lf in enumerate(self.lfs)})
        if self.chat:
            hashes["chat"] = hash_values({name: [astuple(item) for item in part] for name, part in self.chat.items()})
        return hashes


def balanced_subset(examples: Dataset, size: int) -> Dataset:
    """Return at most `size` examples in their order, about as many of each topic, at random but always the same."""
    chosen = balanced_indices(column(examples, "topic"), size)
    return examples if len(chosen) == len(examples) else examples.select(chosen)


def balanced_items(items: "Sequence[ChatItem]", size: int) -> "list[ChatItem]":
    """Return at most `size` free questions and `size` instructions, about as many of each topic, in their order."""
    kinds = [[item for item in items if bool(item.accepted) == is_free] for is_free in (True, False)]
    return [kind[i] for kind in kinds for i in balanced_indices([item.topic for item in kind], size)]


def balanced_indices(topics: Sequence[str], size: int) -> list[int]:
    """Return at most `size` indices of `topics` in ascending order, about as many of each topic, always the same."""
    if len(topics) <= size:
        return list(range(len(topics)))
    draw = random.Random(0)
    groups: dict[str, list[int]] = {}
    for i in draw.sample(range(len(topics)), len(topics)):
        groups.setdefault(topics[i], []).append(i)
    rounds = (i for turn in itertools.zip_longest(*groups.values()) for i in turn if i is not None)
    return sorted(itertools.islice(rounds, size))
