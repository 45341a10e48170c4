"""Log-probabilities of responses."""

import torch

from icft_lite.modeling.base import head_weight, hidden_states, max_tokens_per_pass
from icft_lite.modeling.losses import CHUNK
from icft_lite.modeling.packing import group_by_length, join_batch


@torch.no_grad()
def score_responses(model, encoded, tokens=None):
    """Log-probabilities of every response of every example.

    tokens: most tokens to a pass, see `encoding.length_groups` (default: `model.pass_size`). Returns a list, one dict
    an example: `logp` [responses] summed over tokens, `tokens` [responses] counts, `greedy` [responses] bool: would
    greedy decoding write exactly this response. Independent of how examples are batched or padded."""
    out = [None] * len(encoded)
    weight, pad = head_weight(model), 0
    for group in group_by_length(encoded, tokens or max_tokens_per_pass(weight.device)):
        batch = join_batch([encoded[i] for i in group], pad, weight.device)
        states = hidden_states(model, batch)[batch["row"], batch["position"]]
        logp, hit = [], []
        for part, target in zip(states.split(CHUNK // 2), batch["target"].split(CHUNK // 2)):
            logits = (part @ weight.T).float()
            logp.append(logits.gather(1, target[:, None]).squeeze(1) - logits.logsumexp(-1))
            hit.append(logits.argmax(-1) == target)
        n = len(batch["example"])
        zeros = torch.zeros(n, device=weight.device)
        sums = zeros.index_add(0, batch["response"], torch.cat(logp)).cpu()
        counts = torch.bincount(batch["response"], minlength=n).cpu()
        hits = zeros.index_add(0, batch["response"], torch.cat(hit).float()).cpu()
        sizes = [encoded[i].num_responses for i in group]
        for i, *mine in zip(group, sums.split(sizes), counts.split(sizes), (hits == counts).split(sizes)):
            out[i] = dict(zip(("logp", "tokens", "greedy"), (part.numpy() for part in mine)))
    return out


def option_scores(model, dataset, encoder):
    """What the model itself thinks of each response: list of float arrays [responses].

    Questions: summed log-probability; pairs: length-normalised. This is the zero-shot vote of the base."""
    scores = score_responses(model, [encoder(row) for row in dataset])
    return [
        score["logp"] / score["tokens"] if row["task"] == "pair" else score["logp"]
        for row, score in zip(dataset, scores)
    ]
