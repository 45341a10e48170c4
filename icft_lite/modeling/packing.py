"""Packing: encoded examples → one padded or packed batch with its attention mask."""

from collections.abc import Sequence
from itertools import groupby

import torch

from icft_lite.modeling.encoding import Encoded, SupervisedToken


def place_sequences(lengths: Sequence[int], pack: bool) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Return where each sequence starts in the batch, and the shape of the batch.

    Returns ([(row, column)], (number of rows, number of columns)). pack: place several sequences in one row. The number
    of rows is the number of tokens divided by the length of the longest sequence. The longest sequences are placed
    first, each in the row that is filled least.
    """
    if not pack:
        return [(row, 0) for row in range(len(lengths))], (len(lengths), max(lengths))
    filled, starts = [0] * (sum(lengths) // max(lengths)), [(0, 0)] * len(lengths)
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = filled.index(min(filled))
        starts[i] = row, filled[row]
        filled[row] += lengths[i]
    return starts, (len(filled), max(filled))


def _positions(segments: Sequence[int]) -> list[int]:
    """Return the position of each token of a sequence with a shared prompt, as if each response were the only one."""
    prompt = segments.count(0)
    return [*range(prompt), *(prompt + i for _, run in groupby(segments[prompt:]) for i, _ in enumerate(run))]


def join_batch(
    encoded: Sequence[Encoded], pad_id: int, device: torch.device | str = "cpu", pack: bool = False
) -> dict[str, torch.Tensor]:
    """Join examples into one batch, padded on the right.

    pack: place several sequences in one row, which reduces padding. They are packed with a block-diagonal attention
    mask: each sequence attends only to itself, at the positions that it would have alone.

    Returns int64 tensors. For the model: `input_ids` and `attention_mask` [rows, columns]. With packing or shared
    prompts, `attention_mask` is an additive float32 mask [rows, 1, columns, columns] (0 or the smallest number), and
    `position_ids` [rows, columns] is there too. For the N supervised tokens: `row`, `position` (the column), `target`
    and `response` [N]; responses are numbered through the batch. `example` [responses]: the index in `encoded` of the
    example that a response belongs to.
    """
    starts, shape = place_sequences([len(sequence) for one in encoded for sequence in one.sequences], pack)
    ids, mask = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    # Which sequence a token belongs to (its start column), and which segment of it: 0 the prompt, 1, 2, … a response.
    owner, segment = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)
    position_ids = torch.arange(shape[1]).repeat(shape[0], 1)
    tokens: list[SupervisedToken] = []
    examples: list[int] = []  # of each response
    next_start = iter(starts)
    for i, one in enumerate(encoded):
        own_starts = [next(next_start) for _ in one.sequences]
        for (row, start), sequence in zip(own_starts, one.sequences):
            where = row, slice(start, start + len(sequence))
            ids[where] = torch.tensor(sequence)
            mask[where] = 1  # by length, never by token id: the padding id may be the end of turn
            owner[where] = start
            position_ids[where] = torch.arange(len(sequence))
            if one.segments:
                segment[where], position_ids[where] = torch.tensor([one.segments, _positions(one.segments)])
        for number, position, target, response in one.tokens:
            row, start = own_starts[number]
            tokens.append((row, start + position, target, response + len(examples)))
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
    if pack or any(one.segments for one in encoded):
        visible = (owner[:, :, None] == owner[:, None]) & torch.ones(shape[1], shape[1], dtype=torch.bool).tril()
        visible &= (segment[:, :, None] == segment[:, None]) | (segment == 0)[:, None]
        # Padding is on the right, so the causal mask already hides it from every token that counts.
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
