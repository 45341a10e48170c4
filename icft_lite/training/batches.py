"""The micro-batches of a planned stage."""

from dataclasses import dataclass, field

import torch
from torch.utils.data import Dataset

from icft_lite.data.schema import best_response
from icft_lite.modeling.encoding import Encoded
from icft_lite.modeling.packing import join_batch
from icft_lite.utils.distributed import world_size


@dataclass
class TrainingItem:
    """One example in its role, with what the losses need to know of it."""

    encoded: Encoded
    role: str
    """`new`, `ring` or `memory`."""
    token_weight: list
    """Weight of each response in L_fine-tune [responses]."""
    weak: str = ""
    """`question`, `pair`, or "" for a row with one trusted response."""
    posterior: list = field(default_factory=list)
    states: torch.Tensor | None = None
    """Teacher states of a memory row, [tokens, hidden]."""


def new_item(row, encoded, role, soft=True):
    """A new or ring row as an Item. soft=False: the likeliest label counts as certain."""
    if not row["posterior"]:
        only = row["task"] == "response"
        weights = [1.0] if only else [float(i == row["label"]) for i in range(len(row["responses"]))]
        weak = {"question": "question", "pair": "pair"}.get(row["task"], "")
        return TrainingItem(encoded, role, [0.0, 0.0] if weak == "pair" else weights, weak, weights if weak else [1.0])
    posterior = row["posterior"] if soft else [float(i == best_response(row)) for i in range(len(row["responses"]))]
    pair = row["task"] == "pair"
    return TrainingItem(encoded, role, [0.0, 0.0] if pair else posterior, row["task"], posterior)


def memory_item(entry, replay_weight=0.0):
    """A long-term memory entry as an Item: only its response may be replayed, its prompt has a teacher alone."""
    prompt = [0.0] * (entry.encoded.num_responses - 1)
    return TrainingItem(
        entry.encoded, "memory", [*prompt, replay_weight], states=entry.states, posterior=[*prompt, 1.0]
    )


class StageBatches(Dataset):
    """The micro-batches of a planned stage: `config.micro_batches` for each step and process, in order.

    A step's examples are sorted by length and cut into micro-batches of about equal padded size. Every
    micro-batch carries the denominators of its whole step, so cutting never changes the gradient."""

    def __init__(self, steps, examples, encoded, entries, config, pad_id=0):
        self.steps, self.examples, self.encoded, self.entries = steps, examples, encoded, entries
        self.config, self.pad_id, self.parts = config, pad_id, config.micro_batches * world_size()

    def __len__(self):
        return len(self.steps) * self.parts

    def items(self, step):
        """The Items of a step."""
        entries = [self.entries[i] for i in step.memory]
        return (
            [new_item(self.examples[i], self.encoded[i], "new") for i in step.new]
            + [new_item(self.examples[i], self.encoded[i], "ring") for i in step.ring]
            + [memory_item(entry, self.config.replay_weight) for entry in entries]
        )

    def __getitem__(self, index):
        at, part = divmod(index, self.parts)
        items = self.items(self.steps[at])
        return collate(
            split_micro_batches(items, self.parts)[part], normalizers(items), self.pad_id, self.config.pack_rows
        )


def normalizers(items):
    """What each loss of a step is divided by, so that all three are means a response token, and may be added up.

    L_fine-tune: the sum of token weights. L_task: the response tokens of new and ring rows, of weak rows those of
    each response times its posterior. L_consistency: the response tokens of memory rows."""
    new = [item for item in items if item.role != "memory"]
    memory = [item for item in items if item.states is not None]
    return dict(
        fine_tune=_tokens(items, lambda item: item.token_weight),
        task=_tokens(new, lambda item: item.posterior),
        consistency=_tokens(memory, lambda item: item.posterior),
    )


def _tokens(items, weight):
    """Supervised tokens of items, each weighted as its response is."""
    return float(sum(weight(item)[s] for item in items for _, _, _, s in item.encoded.tokens))


def split_micro_batches(items, parts):
    """Cut items, shortest first, into `parts` lists of about equal tokens (fewer items: some are empty)."""
    items = sorted(items, key=lambda item: item.encoded.length)
    total, out, used = (
        sum(item.encoded.length * item.encoded.num_sequences for item in items),
        [[] for _ in range(parts)],
        0,
    )
    for item in items:
        out[min(parts - 1, int(parts * used / total))].append(item)
        used += item.encoded.length * item.encoded.num_sequences
    return out


def collate(items, denominator, pad_id=0, pack=False):
    """Join items into the batch that `losses.icft_losses` reads. `denominator`: of the whole step."""
    if not items:
        return dict(empty=True)
    batch = join_batch([item.encoded for item in items], pad_id, pack=pack)
    weight, teacher_token, states, scored, start = [], [], [], [], 0
    for item in items:
        weight += [item.token_weight[s] for _, _, _, s in item.encoded.tokens]
        mine = list(range(start, start + len(item.encoded.tokens)))
        if item.states is not None:
            teacher_token += mine
            states.append(item.states)
        if item.weak or any(item.token_weight):
            scored += mine
        start += len(mine)
    batch.update(
        token_weight=torch.tensor(weight, dtype=torch.float32),
        posterior=torch.tensor([p for item in items for p in item.posterior], dtype=torch.float32),
        weak_question=torch.tensor([i for i, item in enumerate(items) if item.weak == "question"], dtype=torch.long),
        weak_pair=torch.tensor([i for i, item in enumerate(items) if item.weak == "pair"], dtype=torch.long),
        scored=torch.tensor(scored, dtype=torch.long),
        teacher_token=torch.tensor(teacher_token, dtype=torch.long),
        teacher=torch.cat(states) if states else torch.zeros(0, 1),
        denominators=denominator,
    )
    return batch
