"""The batches that all trainers get: rows of the bundled samples, in the shares and lengths of a real run."""

import random

import torch

from icft_lite.config import ICFTConfig
from icft_lite.data.samples import sample_bundle
from icft_lite.data.schema import as_response
from icft_lite.memory.short_term import ShortTermMemory
from icft_lite.memory.teachers import response_states
from icft_lite.modeling.base import load_tokenizer
from icft_lite.modeling.encoding import Encoded, Encoder, supervise_prompt
from icft_lite.modeling.packing import place_sequences
from icft_lite.training.batches import StageBatches, TrainingItem, new_item
from icft_lite.training.plan import num_tokens, plan_stage

MEMORY_SHARE, RING_SHARE = 0.25, 0.1
WARM = 4
"""Steps of the plan that are passed over: the ring is still filling."""


class Given(StageBatches):
    """The batches of steps that are lists of Items already."""

    def __init__(self, steps, config):
        super().__init__(steps, None, None, None, config)

    def items(self, step):
        return step


def make_steps(vocab, n_steps, rows=16, seed=0):
    """`n_steps` steps of the method, and the same rows as plain ones.

    Returns (icft, plain): lists of lists of Items. `icft`: new rows (trusted, weak questions with their options behind
    one prompt, weak pairs), ring rows, and memory rows to be taught on prompt and response, as is the default.
    `plain`: each of these as its prompt and its likeliest response.
    The labels of weak rows are made up: only their cost matters here. Ids are those of the embedded tokenizer;
    for a larger vocabulary they are spread over it at random, so lengths stay those of the samples."""
    chance = random.Random(seed)
    bundle, encode = sample_bundle(), Encoder(load_tokenizer("tiny"), 512)
    few = max(400, 12 * rows * n_steps)
    new = [dict(row) for part in (bundle.trusted, bundle.pool) for row in part]
    new = chance.sample(new, min(few, len(new)))
    for row in new:
        if row["task"] != "response":
            weights = [chance.random() ** 3 for _ in row["responses"]]
            row["posterior"] = [weight / sum(weights) for weight in weights]
    old = [dict(row) for row in bundle.general_memory.shuffle(seed=seed).select(range(200))]
    spread = torch.randperm(vocab, generator=torch.Generator().manual_seed(seed)).tolist()
    if vocab == len(encode.tokenizer):
        spread = list(range(vocab))
    encoded, memory = ([_respell(encode(row), spread) for row in part] for part in (new, old))
    config = ICFTConfig(rows=rows, memory_share=MEMORY_SHARE, ring_share=RING_SHARE, order="random")
    steps, _ = plan_stage(
        list(range(len(new))),
        encoded,
        [row["topic"] for row in new],
        memory,
        ShortTermMemory(64),
        config,
        10**9,
        n_steps + WARM,
        seed,
    )
    plain = {i: _respell(encode(as_response(new[i])), spread) for step in steps for i in step.new + step.ring}
    icft, simple = [], []
    for step in steps[WARM:]:
        old_rows = [
            TrainingItem(supervise_prompt(memory[i]), "memory", [0.0, 0.0], posterior=[0.0, 1.0]) for i in step.memory
        ]
        icft.append(
            [new_item(new[i], encoded[i], role) for role in ("new", "ring") for i in getattr(step, role)] + old_rows
        )
        simple.append(
            [
                TrainingItem(one, "new", [1.0], posterior=[1.0])
                for one in [*(plain[i] for i in step.new + step.ring), *(memory[i] for i in step.memory)]
            ]
        )
    return icft, simple


def _respell(encoded, spread):
    encoded.sequences = [[spread[token] for token in row] for row in encoded.sequences]
    encoded.tokens = [(r, p, spread[target], s) for r, p, target, s in encoded.tokens]
    return encoded


def with_states(model, steps):
    """The steps with the teacher states of their memory rows: the final hidden states of `model` as it is."""
    out = []
    for step in steps:
        memory = [item for item in step if item.role == "memory"]
        states = iter(response_states(model, [item.encoded for item in memory]))
        out.append(
            [
                TrainingItem(
                    item.encoded,
                    item.role,
                    item.token_weight,
                    item.weak,
                    item.posterior,
                    next(states) if item.role == "memory" else None,
                )
                for item in step
            ]
        )
    return out


def replayed(steps):
    """The steps with their memory rows' responses trained on as any other, without a teacher."""

    def only(one):
        return Encoded(one.sequences, [(r, p, target, 0) for r, p, target, s in one.tokens if s == 1], 1)

    return [
        [
            TrainingItem(only(item.encoded), "memory", [1.0], posterior=[1.0]) if item.role == "memory" else item
            for item in step
        ]
        for step in steps
    ]


def unused(steps):
    """The steps with memory rows that are read, and then left to no loss."""
    return [
        [TrainingItem(item.encoded, item.role, item.token_weight, item.weak, item.posterior) for item in step]
        for step in steps
    ]


def plain_rows(step):
    """A plain step as {"input_ids", "labels"} dicts, as transformers and TRL take them; -100 marks the prompt."""
    out = []
    for item in step:
        (row,), labels = item.encoded.sequences, [-100] * item.encoded.length
        for _, position, target, _ in item.encoded.tokens:
            labels[position + 1] = target
        out.append(dict(input_ids=row, labels=labels))
    return out


def sizes(step, pack=True):
    """Tokens of a step: {"tokens" not counting pads, "padded" as run with its rows packed or not, "supervised",
    "memory": supervised tokens that have a teacher}."""
    rows, columns = place_sequences([len(row) for item in step for row in item.encoded.sequences], pack)[1]
    return dict(
        tokens=sum(num_tokens(item.encoded) for item in step),
        padded=rows * columns,
        supervised=sum(len(item.encoded.tokens) for item in step),
        memory=sum(len(item.encoded.tokens) for item in step if item.states is not None),
    )
