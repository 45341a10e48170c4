"""DFT and EAFT: cross-entropy whose tokens are weighted by what the model predicts.

    L_DFT  = −Σ_t sg(p_t)·log p_t        Wu et al., 2025, arXiv 2508.05629
    L_EAFT = −Σ_t sg(H̃_t)·log p_t        Diao et al., 2026, arXiv 2601.02151

p_t is the probability of the target, sg stops the gradient. H̃_t is the entropy of the 20 largest logits after a softmax
over these alone, divided by ln 20, so that it is in 0…1. Both use the present model, at every step.

As in the sources: the weights, their detachment, and a mean over tokens that does not divide by the sum of the weights.
Different: the authors of EAFT divide the entropy by 3.0 in their code, 0.1 % more than ln 20. On a weak question, the
weight multiplies the posterior of the option. Memory examples that are replayed by NLL are weighted too. The two other
losses do not change; the preset `qlora` has none.

    train_icft(ICFTConfig.preset("qlora"), out, data, trainer=DFT)
"""

import math
from collections.abc import Mapping
from typing import Any

import torch

from icft_lite.modeling.losses import chunk_size, chunks, token_logprobs
from icft_lite.training.trainer import ICFTTrainer

TOP = 20
"""Number of logits in the entropy of EAFT."""


def target_probability(states: torch.Tensor, head: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return p(target) of each token.

    states [N, hidden], head [vocab, hidden], target [N] int64 → [N] float32.
    """
    return token_logprobs(states, head, target).exp()


def normalized_entropy(states: torch.Tensor, head: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the entropy of the TOP largest logits of each token, divided by ln TOP: [N] float32 in 0…1.

    Arguments as in `target_probability`; the target does not matter.
    """
    entropy = states.new_zeros(len(states), dtype=torch.float32)
    for part in chunks(len(states), chunk_size(len(head))):
        logp = (states[part] @ head.T).float().topk(min(TOP, len(head))).values.log_softmax(-1)
        entropy[part] = -(logp.exp() * logp).sum(-1)
    return entropy / math.log(TOP)


class _WeightedTokens(ICFTTrainer):
    """An ICFTTrainer that multiplies the weight of each token in L_fine-tune by `factor(states, head, target)`."""

    factor: Any

    def losses(self, hidden: torch.Tensor, inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
        """Return the three losses, as `ICFTTrainer.losses`, with other token weights in L_fine-tune."""
        weight = inputs["token_weight"].clone()
        chosen = weight.nonzero().squeeze(1)
        with torch.no_grad():
            states = hidden.detach()[inputs["row"][chosen], inputs["position"][chosen]]
            weight[chosen] *= self.factor(states, self.head, inputs["target"][chosen])
        return super().losses(hidden, {**inputs, "token_weight": weight})


class DFT(_WeightedTokens):
    """Dynamic fine-tuning: each token's NLL is multiplied by its probability."""

    factor = staticmethod(target_probability)


class EAFT(_WeightedTokens):
    """Entropy-adaptive fine-tuning: each token's NLL is multiplied by its normalized entropy."""

    factor = staticmethod(normalized_entropy)
