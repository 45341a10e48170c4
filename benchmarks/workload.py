"""Batches for all implementations: examples of the bundled samples, a quarter from memory and a tenth replayed."""

import random

import torch

from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.data.samples import sample_bundle
from icft_lite.data.schema import as_response
from icft_lite.memory.short_term import ShortTermMemory
from icft_lite.memory.teachers import response_states
from icft_lite.modeling.base import load_tokenizer
from icft_lite.modeling.encoding import Encoded, Encoder, supervise_prompt
from icft_lite.modeling.packing import place_sequences
from icft_lite.training.batches import StageBatches, TrainingItem, new_item
from icft_lite.training.plan import num_tokens, plan_stage

LONG_TERM_SHARE, SHORT_TERM_SHARE = 0.25, 0.1
SKIPPED_STEPS = 4
"""Steps at the beginning of the plan that are not used, because the ring is still filling."""


class FixedBatches(StageBatches):
    """The batches of steps that are lists of TrainingItems already; a step is one micro-batch."""

    def __init__(self, steps, config, packing=True):
        super().__init__([], [], [], [], config, RuntimeConfig(packing=packing, micro_batches=1))
        self.steps = steps

    def items(self, step):
        """Return the step itself."""
        return step


def make_steps(vocab, n_steps, batch_size=16, seed=0, encode=None):
    """Return `n_steps` steps of ICFT, and the same examples as plain steps: two lists of lists of TrainingItems.

    An ICFT step has new examples (trusted, weak questions whose options share a prompt, weak pairs), ring examples, and
    memory examples with a teacher on prompt and response, which is the default. A plain step has the prompt and the
    most likely response of each of these. Labels of weak examples are random, because only their cost matters here. Ids
    are those of the embedded tokenizer; for a larger vocabulary they are mapped to random ids, so that the lengths stay
    those of the samples. encode: an Encoder whose ids are used as they are."""
    draw = random.Random(seed)
    bundle, own = sample_bundle(), encode
    encode = own or Encoder(load_tokenizer("tiny"), 512)
    few = max(400, 12 * batch_size * n_steps)
    new = [dict(example) for part in (bundle.trusted, bundle.pool) for example in part]
    new = draw.sample(new, min(few, len(new)))
    for example in new:
        if example["task"] != "response":
            weights = [draw.random() ** 3 for _ in example["responses"]]
            example["posterior"] = [weight / sum(weights) for weight in weights]
    general = [dict(example) for example in bundle.general_memory.shuffle(seed=seed).select(range(200))]
    ids = torch.randperm(vocab, generator=torch.Generator().manual_seed(seed)).tolist()
    if own or vocab == len(encode.tokenizer):
        ids = list(range(vocab))
    encoded, memory = ([_map_ids(encode(example), ids) for example in part] for part in (new, general))
    config = ICFTConfig.from_dict(
        {
            "optim.batch_size": batch_size,
            "long_term.share": LONG_TERM_SHARE,
            "short_term.share": SHORT_TERM_SHARE,
            "curriculum.order": "random",
        }
    )
    topics, ring = [example["topic"] for example in new], ShortTermMemory(64)
    steps, _ = plan_stage(
        list(range(len(new))), encoded, topics, memory, ring, config, 10**9, n_steps + SKIPPED_STEPS, seed
    )
    plain = {i: _map_ids(encode(as_response(new[i])), ids) for step in steps for i in step.new + step.ring}
    icft, simple = [], []
    for step in steps[SKIPPED_STEPS:]:
        remembered = [
            TrainingItem(supervise_prompt(memory[i]), "memory", [0.0, 0.0], posterior=[0.0, 1.0]) for i in step.memory
        ]
        icft.append(
            [new_item(new[i], encoded[i], role) for role in ("new", "ring") for i in getattr(step, role)] + remembered
        )
        simple.append(
            [
                TrainingItem(one, "new", [1.0], posterior=[1.0])
                for one in [*(plain[i] for i in step.new + step.ring), *(memory[i] for i in step.memory)]
            ]
        )
    return icft, simple


def _map_ids(encoded, ids):
    encoded.sequences = [[ids[token] for token in sequence] for sequence in encoded.sequences]
    encoded.tokens = [(r, p, ids[target], s) for r, p, target, s in encoded.tokens]
    return encoded


def with_states(model, steps):
    """Return the steps with teacher states for memory examples: the final hidden states of `model` as it is."""
    out = []
    for step in steps:
        memory = [item for item in step if item.role == "memory"]
        states = iter(response_states(model, [item.encoded for item in memory]))
        out.append([_copy(item, next(states) if item.role == "memory" else None) for item in step])
    return out


def without_states(steps):
    """Return the steps with memory examples that are read but belong to no loss."""
    return [[_copy(item, None) for item in step] for step in steps]


def _copy(item, states):
    return TrainingItem(item.encoded, item.role, item.token_weight, item.weak, item.posterior, states)


def replayed(steps):
    """Return the steps with L_fine-tune on the responses of memory examples, without a teacher."""

    def response_only(one):
        return Encoded(one.sequences, [(r, p, target, 0) for r, p, target, s in one.tokens if s == 1], 1)

    return [
        [
            TrainingItem(response_only(item.encoded), "memory", [1.0], posterior=[1.0])
            if item.role == "memory"
            else item
            for item in step
        ]
        for step in steps
    ]


def plain_examples(step):
    """Return a plain step as {"input_ids", "labels"} dicts for transformers and TRL; label -100 marks the prompt."""
    out = []
    for item in step:
        (ids,), labels = item.encoded.sequences, [-100] * item.encoded.length
        for _, position, target, _ in item.encoded.tokens:
            labels[position + 1] = target
        out.append(dict(input_ids=ids, labels=labels))
    return out


def sizes(step, packing=True):
    """Count the tokens of a step.

    Returns {"tokens": without padding, "padded": with padding, as it runs, "supervised", "memory": supervised tokens
    that have a teacher}."""
    lengths = [len(sequence) for item in step for sequence in item.encoded.sequences]
    rows, columns = place_sequences(lengths, packing)[1]
    return dict(
        tokens=sum(num_tokens(item.encoded) for item in step),
        padded=rows * columns,
        supervised=sum(len(item.encoded.tokens) for item in step),
        memory=sum(len(item.encoded.tokens) for item in step if item.states is not None),
    )
