"""Teacher states of remembered examples."""

import torch

from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.base import head_weight, hidden_states, max_tokens_per_pass
from icft_lite.modeling.losses import token_logprobs
from icft_lite.modeling.packing import group_by_length
from icft_lite.modeling.packing import join_batch as join_batch


@torch.no_grad()
def response_states(model, encoded):
    """Final hidden states at the supervised positions of each example: list of [tokens, hidden], on the CPU."""
    out = [None] * len(encoded)
    for group in group_by_length(encoded, max_tokens_per_pass(head_weight(model).device)):
        batch = join_batch([encoded[i] for i in group], 0, head_weight(model).device)
        states = hidden_states(model, batch)[batch["row"], batch["position"]].float().cpu()
        for i, part in zip(group, states.split([len(encoded[i].tokens) for i in group])):
            out[i] = part.clone()
    return out


@torch.no_grad()
def response_logp(encoded, states, weight, examples=256):
    """log p of each example's last response, read off its states as a head [vocab, hidden] reads them: [n] floats.

    states: [tokens, hidden] an example, at its supervised tokens; `examples` of them are looked at together."""
    out = []
    for start in range(0, len(encoded), examples):
        targets = [
            [target for _, _, target, response in one.tokens if response == one.num_responses - 1]
            for one in encoded[start : start + examples]
        ]
        hidden = torch.cat([of_one[-len(target) :] for of_one, target in zip(states[start:], targets)])
        logp = token_logprobs(
            hidden.to(weight.device, weight.dtype), weight, torch.tensor(sum(targets, []), device=weight.device)
        )
        out += [float(part.sum()) for part in logp.split(list(map(len, targets)))]
    return out


def mean_states(model, encoded):
    """What the bare base makes of each example: its mean final state over the supervised tokens, float [n, hidden]."""
    with use_adapter(model, None):
        return torch.stack([states.mean(0) for states in response_states(model, encoded)]).numpy()
