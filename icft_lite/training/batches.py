"""The micro-batches of a planned stage."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.utils.data import Dataset

from icft_lite.config import TOKENS_PER_PASS, ICFTConfig, RuntimeConfig
from icft_lite.data.schema import Example, Examples, best_response
from icft_lite.memory.entries import MemoryEntry
from icft_lite.modeling.encoding import Encoded
from icft_lite.modeling.packing import join_batch
from icft_lite.training.plan import Encodings, PlannedStep
from icft_lite.utils.distributed import world_size


@dataclass
class TrainingItem:
    """One example in its role, with the weights and teacher states that the losses need."""

    encoded: Encoded
    role: Literal["new", "ring", "memory"]
    token_weight: list[float]
    """Weight of each response in L_fine-tune, [responses]."""
    weak: Literal["question", "pair", ""] = ""
    """"" for an example with one trusted response."""
    posterior: list[float] = field(default_factory=list)
    """[responses]"""
    states: torch.Tensor | None = None
    """Teacher states of a memory example, [tokens, hidden]."""


def new_item(example: Example, encoded: Encoded, role: Literal["new", "ring"], soft: bool = True) -> TrainingItem:
    """Return a new or replayed example as a TrainingItem.

    A labelled question or pair is treated as a weak one with a one-hot posterior. soft=False: its most likely response
    is a certain one, so that L_task has no examples (`weak.soft_labels`).
    """
    certain = [float(i == best_response(example)) for i in range(len(example["responses"]))]
    if example["task"] == "response" or not soft:
        return TrainingItem(encoded, role, certain, "", certain)
    posterior = example["posterior"] or certain
    pair = example["task"] == "pair"
    return TrainingItem(encoded, role, [0.0, 0.0] if pair else posterior, example["task"], posterior)


def memory_item(entry: MemoryEntry, replay_weight: float = 0.0) -> TrainingItem:
    """Return a long-term memory entry as a TrainingItem.

    Its response may be replayed (L_fine-tune); its prompt, if it has teacher states, never is.
    """
    prompt = [0.0] * (entry.encoded.num_responses - 1)
    return TrainingItem(
        entry.encoded, "memory", [*prompt, replay_weight], states=entry.states, posterior=[*prompt, 1.0]
    )


class StageBatches(Dataset):
    """The micro-batches of a planned stage: as many for each step and process as RuntimeConfig says, in order.

    A step's examples are sorted by length and split into micro-batches of about equal padded size. Every micro-batch
    carries the normalizers of its whole step, so splitting does not change the gradient.

    steps: of `plan.plan_stage`; examples, encoded: new examples and their encodings; entries: of the long-term
    memory. An item is the batch of `collate`.
    """

    def __init__(
        self,
        steps: Sequence[PlannedStep],
        examples: Examples,
        encoded: Encodings,
        entries: Sequence[MemoryEntry],
        config: ICFTConfig,
        runtime: RuntimeConfig | None = None,
        pad_id: int = 0,
    ) -> None:
        runtime = runtime or RuntimeConfig()
        self.steps, self.examples, self.encoded, self.entries = steps, examples, encoded, entries
        self.soft, self.replay_weight = config.weak.soft_labels, config.loss.replay_weight
        self.packing, self.pad_id = runtime.packing, pad_id
        longest = max((step.tokens for step in steps), default=0) / world_size()
        self.micro_batches = runtime.micro_batches or max(1, math.ceil(longest / TOKENS_PER_PASS))
        self.parts = self.micro_batches * world_size()

    def __len__(self) -> int:
        return len(self.steps) * self.parts

    def items(self, step: PlannedStep) -> list[TrainingItem]:
        """Return the TrainingItems of a step."""
        entries = [self.entries[i] for i in step.memory]
        return (
            [new_item(self.examples[i], self.encoded[i], "new", self.soft) for i in step.new]
            + [new_item(self.examples[i], self.encoded[i], "ring", self.soft) for i in step.ring]
            + [memory_item(entry, self.replay_weight) for entry in entries]
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        at, part = divmod(index, self.parts)
        items = self.items(self.steps[at])
        return collate(split_micro_batches(items, self.parts)[part], normalizers(items), self.pad_id, self.packing)


def normalizers(items: Sequence[TrainingItem]) -> dict[str, float]:
    """Return what each loss of one optimizer step is divided by.

    All three losses are then means per token. L_fine-tune: the sum of token weights. L_task: the response tokens of new
    and ring examples; those of a weak example are weighted by each response's posterior. L_consistency: the tokens of
    memory examples that have a teacher state, so that its weight does not depend on the length of the chat template.
    """
    new = [item for item in items if item.role != "memory"]
    return dict(
        fine_tune=_weighted_tokens(items, lambda item: item.token_weight),
        task=_weighted_tokens(new, lambda item: item.posterior),
        consistency=float(sum(len(item.states) for item in items if item.states is not None)),
    )


def _weighted_tokens(items: Sequence[TrainingItem], weight: Callable[[TrainingItem], list[float]]) -> float:
    """Return the supervised tokens of items, each weighted as its response is."""
    return float(sum(weight(item)[s] for item in items for _, _, _, s in item.encoded.tokens))


def split_micro_batches(items: Sequence[TrainingItem], parts: int) -> list[list[TrainingItem]]:
    """Split items, shortest first, into `parts` lists of about equal tokens (with fewer items, some are empty)."""
    items = sorted(items, key=lambda item: item.encoded.length)
    total = sum(item.encoded.length * item.encoded.num_sequences for item in items)
    out: list[list[TrainingItem]] = [[] for _ in range(parts)]
    used = 0
    for item in items:
        out[min(parts - 1, int(parts * used / total))].append(item)
        used += item.encoded.length * item.encoded.num_sequences
    return out


def collate(
    items: Sequence[TrainingItem], step_normalizers: dict[str, float], pad_id: int = 0, packing: bool = False
) -> dict[str, Any]:
    """Join items into the batch that `losses.icft_losses` reads.

    step_normalizers: of the whole step. Adds to `packing.join_batch`'s dict: `token_weight` [tokens], `posterior`
    [responses], indices of examples `weak_question` and `weak_pair`, indices of tokens `scored` and `teacher_token`,
    `teacher` [teacher tokens, hidden], and `normalizers`. Without items: {"empty": True}.
    """
    if not items:
        return dict(empty=True)
    batch: dict[str, Any] = join_batch([item.encoded for item in items], pad_id, pack=packing)
    weight: list[float] = []
    teacher_token: list[int] = []
    scored: list[int] = []
    states: list[torch.Tensor] = []
    start = 0
    for item in items:
        weight += [item.token_weight[s] for _, _, _, s in item.encoded.tokens]
        tokens = list(range(start, start + len(item.encoded.tokens)))
        if item.states is not None:
            teacher_token += tokens
            states.append(item.states)
        if item.weak or any(item.token_weight):
            scored += tokens
        start += len(tokens)
    batch.update(
        token_weight=torch.tensor(weight, dtype=torch.float32),
        posterior=torch.tensor([p for item in items for p in item.posterior], dtype=torch.float32),
        weak_question=torch.tensor([i for i, item in enumerate(items) if item.weak == "question"], dtype=torch.long),
        weak_pair=torch.tensor([i for i, item in enumerate(items) if item.weak == "pair"], dtype=torch.long),
        scored=torch.tensor(scored, dtype=torch.long),
        teacher_token=torch.tensor(teacher_token, dtype=torch.long),
        teacher=torch.cat(states) if states else torch.zeros(0, 1),
        normalizers=step_normalizers,
    )
    return batch
