"""Encoded examples -> joined batches."""

from itertools import groupby

import torch


def place_sequences(lengths, pack):
    """Where each row starts: [(row of the batch, column)], and the batch's size (rows, columns).

    pack: several rows behind one another, the longest first and each where most room is left, in as many rows as
    the tokens would fill if each were as long as the longest."""
    if not pack:
        return [(r, 0) for r in range(len(lengths))], (len(lengths), max(lengths))
    filled, starts = [0] * (sum(lengths) // max(lengths)), [None] * len(lengths)
    for r in sorted(range(len(lengths)), key=lambda r: -lengths[r]):
        emptiest = filled.index(min(filled))
        starts[r] = emptiest, filled[emptiest]
        filled[emptiest] += lengths[r]
    return starts, (len(filled), max(filled))


def _positions(segments):
    """What position each token of a shared row has: that which it would have without the other responses."""
    prompt = segments.count(0)
    return [*range(prompt), *(prompt + i for _, run in groupby(segments[prompt:]) for i, _ in enumerate(run))]


def join_batch(encoded, pad_id, device="cpu", pack=False):
    """Join examples into one batch, padded on the right.

    pack: write short rows behind one another, so that little is padded; each sees itself only, at the positions
    it would have alone.

    Returns a dict of int64 tensors: `input_ids`, `attention_mask` [rows, longest]; and for the N
    supervised tokens `row`, `position`, `target` [N] and `response` [N], numbered through the batch;
    `example` [responses] says which example each response belongs to. With packed rows or shared prompts,
    `attention_mask` is an additive float mask [rows, 1, longest, longest] and `position_ids` [rows, longest]
    come with it."""
    starts, shape = place_sequences([len(row) for one in encoded for row in one.sequences], pack)
    ids, mask = torch.full(shape, pad_id), torch.zeros(shape, dtype=torch.long)
    owner, segment = torch.full(shape, -1), torch.zeros(shape, dtype=torch.long)  # which row; 0 or which response
    positions = torch.arange(shape[1]).repeat(shape[0], 1)
    tokens, example, place = [], [], iter(starts)
    for i, one in enumerate(encoded):
        mine = [next(place) for _ in one.sequences]
        for (r, start), row in zip(mine, one.sequences):
            at = r, slice(start, start + len(row))
            ids[at] = torch.tensor(row)
            mask[at] = 1  # by length, never by pad id: pad may be the end of turn
            owner[at] = start
            positions[at] = torch.arange(len(row))
            if one.segments:
                segment[at], positions[at] = torch.tensor([one.segments, _positions(one.segments)])
        tokens += [(mine[r][0], mine[r][1] + p, t, s + len(example)) for r, p, t, s in one.tokens]
        example += [i] * one.num_responses
    row, position, target, response = torch.tensor(tokens).T.reshape(4, -1)
    batch = dict(
        input_ids=ids,
        attention_mask=mask,
        row=row,
        position=position,
        target=target,
        response=response,
        example=torch.tensor(example),
    )
    if pack or any(one.segments for one in encoded):
        see = (owner[:, :, None] == owner[:, None]) & torch.ones(shape[1], shape[1], dtype=torch.bool).tril()
        see &= (segment[:, :, None] == segment[:, None]) | (segment == 0)[:, None]
        # Pads lie on the right, so the causal mask already hides them from every token that counts.
        batch["attention_mask"] = torch.zeros(see.shape).masked_fill(~see, torch.finfo(torch.float32).min)[:, None]
        batch["position_ids"] = positions
    return {name: value.to(device) for name, value in batch.items()}


def group_by_length(encoded, tokens):
    """Indices of `encoded` in groups of at most `tokens` tokens, padding included, similar lengths together; an example
    that has more is a group of its own."""
    groups, rows = [], 0
    for i in sorted(range(len(encoded)), key=lambda i: encoded[i].length):
        rows += encoded[i].num_sequences
        if not groups or rows * encoded[i].length > tokens:
            groups.append([])
            rows = encoded[i].num_sequences
        groups[-1].append(i)
    return groups
