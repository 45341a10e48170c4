"""Packing: encoded examples → one padded or packed batch with its attention mask."""

import os
from collections.abc import Sequence
from itertools import groupby

import torch

from icft_lite.modeling.encoding import Encoded, SupervisedToken

MIN_PREFIX = 16
"""Fewest tokens that sequences share. A system message has more; fewer are words that prompts have in common by chance,
which would make rounding depend on the batch."""
SHARED_COLUMNS = 256
"""Fewest tokens in a row with a shared prefix, which every row has a copy of. Attention costs columns² per row."""


def place_sequences(
    lengths: Sequence[int], pack: bool, min_columns: int = 0
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Return where each sequence starts in the batch, and the shape of the batch.

    Returns ([(row, column)], (number of rows, number of columns)). pack: place several sequences in one row. The number
    of rows is the number of tokens divided by the length of the longest sequence, or by `min_columns` if that is more.
    The longest sequences are placed first, each in the row that is filled least.
    """
    if not pack:
        return [(row, 0) for row in range(len(lengths))], (len(lengths), max(lengths))
    filled = [0] * max(1, sum(lengths) // max(*lengths, min_columns))
    starts = [(0, 0)] * len(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = filled.index(min(filled))
        starts[i] = row, filled[row]
        filled[row] += lengths[i]
    return starts, (len(filled), max(filled))


def _positions(segments: Sequence[int]) -> list[int]:
    """Return the position of each token of a sequence with a shared prompt, as if each response were the only one."""
    prompt = segments.count(0)
    return [*range(prompt), *(prompt + i for _, run in groupby(segments[prompt:]) for i, _ in enumerate(run))]


def common_prefix(sequences: Sequence[list[int]]) -> list[int]:
    """Return the token ids that all sequences start with, before their last token.

    Returns [] if they are fewer than MIN_PREFIX, or there is only one sequence.
    """
    limit = min(map(len, sequences)) - 1
    prefix = list(os.path.commonprefix(sequences)[:limit])  # it takes any sequences, not only paths
    return prefix if len(prefix) >= MIN_PREFIX and len(sequences) > 1 else []


def _shared_prefix(encoded: Sequence[Encoded]) -> list[int]:
    """Return the common prefix of the prompts of all examples; [] if one of them does not allow it to be shared."""
    if not all(one.share_prefix for one in encoded):
        return []
    # A shared prompt ends before its first response.
    starts = [one.sequences[0][: one.segments.count(0) + 1] for one in encoded if one.segments]
    return common_prefix(starts + [sequence for one in encoded if not one.segments for sequence in one.sequences])


def join_batch(
    encoded: Sequence[Encoded], pad_id: int, device: torch.device | str = "cpu", pack: bool | None = None
) -> dict[str, torch.Tensor]:
    """Join examples into one batch, padded on the right.

    pack: place several sequences in one row, which reduces padding. They are packed with a block-diagonal attention
    mask: each sequence attends only to itself, at the positions that it would have alone. None: pack if the examples
    have a common prefix. False: neither pack nor share a prefix.

    A packed row starts with one copy of the prefix that all sequences of the batch have in common (`common_prefix`).
    The sequences of the row attend to it, so states, losses and gradients are those of separate copies, up to rounding:

        system message | rest of sequence 1 | rest of sequence 2 | …

    Supervised tokens in the prefix are at the row's copy. Only examples with `share_prefix` share one.

    Returns int64 tensors. For the model: `input_ids` and `attention_mask` [rows, columns]. With packing or shared
    prompts, `attention_mask` is an additive float32 mask [rows, 1, columns, columns] (0 or the smallest number), and
    `position_ids` [rows, columns] is there too. For the N supervised tokens: `row`, `position` (the column), `target`
    and `response` [N]; responses are numbered through the batch. `example` [responses]: the index in `encoded` of the
    example that a response belongs to.
    """
    prefix = [] if pack is False else _shared_prefix(encoded)
    cut, packed = len(prefix), bool(pack or prefix)
    lengths = [len(sequence) - cut for one in encoded for sequence in one.sequences]
    starts, (num_rows, columns) = place_sequences(lengths, packed, SHARED_COLUMNS if prefix else 0)
    shape = num_rows, cut + columns
    ids, mask = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    # Which sequence a token belongs to (its start column), and which segment of it: 0 the prompt, 1, 2, … a response.
    owner, segment = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
    position_ids = torch.zeros(shape, dtype=torch.long)  # 0 in padding, which must not exceed the model's positions
    ids[:, :cut], mask[:, :cut], position_ids[:, :cut] = torch.tensor(prefix), 1, torch.arange(cut)
    tokens: list[SupervisedToken] = []
    examples: list[int] = []  # of each response
    next_start = iter(starts)
    for i, one in enumerate(encoded):
        own_starts = [next(next_start) for _ in one.sequences]
        for (row, start), sequence in zip(own_starts, one.sequences):
            where = row, slice(cut + start, start + len(sequence))
            ids[where] = torch.tensor(sequence[cut:])
            mask[where] = 1  # by length, never by token id: the padding id may be the end of turn
            owner[where] = start
            position_ids[where] = torch.arange(cut, len(sequence))
            if one.segments:
                both = torch.tensor([one.segments, _positions(one.segments)])
                segment[where], position_ids[where] = both[:, cut:]
        for number, position, target, response in one.tokens:
            row, start = own_starts[number]
            column = position if position < cut else start + position
            tokens.append((row, column, target, response + len(examples)))
        examples += [i] * one.num_responses
    rows, positions, targets, responses = torch.tensor(tokens).T.reshape(4, -1)
    batch = dict(
        input_ids=ids,
        attention_mask=mask,
        row=rows,
        position=positions,
        target=targets,
        response=responses,
        example=torch.tensor(examples),
    )
    if packed or any(one.segments for one in encoded):
        visible = owner[:, :, None] == owner[:, None]
        visible[:, :, :cut] = True
        visible &= (segment[:, :, None] == segment[:, None]) | (segment == 0)[:, None]
        # Padding is on the right, so the causal mask already hides it from every token that counts.
        visible &= torch.ones(shape[1], shape[1], dtype=torch.bool).tril()
        smallest = torch.finfo(torch.float32).min
        batch["attention_mask"] = torch.zeros(visible.shape).masked_fill(~visible, smallest)[:, None]
        batch["position_ids"] = position_ids
    return {name: value.to(device) for name, value in batch.items()}


def group_by_length(encoded: Sequence[Encoded], max_tokens: int) -> list[list[int]]:
    """Group examples of similar length for batches of at most `max_tokens` tokens, padding included.

    Returns lists of indices of `encoded`, shortest examples first. An example with more tokens is a group of its own.
    """
    groups: list[list[int]] = []
    num_sequences = 0
    for i in sorted(range(len(encoded)), key=lambda i: encoded[i].length):
        num_sequences += encoded[i].num_sequences
        if not groups or num_sequences * encoded[i].length > max_tokens:
            groups.append([])
            num_sequences = encoded[i].num_sequences
        groups[-1].append(i)
    return groups
