"""KL to the base on new examples: learning without forgetting, and the regularizer of ASFT.

    L = L_total + weight · Σ_t w_t·KL(base ‖ tuned)_t / Σ_t w_t

Sources: Li and Hoiem, 2016, "Learning without Forgetting", arXiv 1606.09282 (distillation from the old model on the new
inputs); Zhu et al., 2025, ASFT, arXiv 2509.23753. The direction KL(base ‖ tuned), the full vocabulary and the mean over
response tokens are those of the code of ASFT (`train_v2.py`, modes `sft+kl` and `asft`, weight 0.1 by default).

w_t is the weight of the token in L_fine-tune: 1 for a labelled response, the posterior for an option of a weak
question, 0 for pairs and prompts. Memory examples that are replayed by NLL take part with their weight, so use the
preset `qlora`, which has none, for KL on new examples alone. Both sums are over the whole optimizer step. Different
from Li and Hoiem: temperature 1 instead of 2. ASFT itself is DFT with this term: `class ASFT(DFT, BaseKL)`.

    train_icft(ICFTConfig.preset("qlora"), out, data, trainer=with_weight(BaseKL, 0.3))
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel

from icft_lite.experiments.baselines.weights import WeightedTrainer
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.forward import hidden_states
from icft_lite.modeling.losses import token_kl


class BaseKL(WeightedTrainer):
    """An ICFTTrainer that adds `weight`·KL(base ‖ tuned) on the tokens that L_fine-tune trains."""

    weight = 0.1

    def regularizer(
        self, model: PeftModel, hidden: torch.Tensor | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor | None:
        """Return the term of a micro-batch; None if it has no such token. The base costs a pass without gradient."""
        if hidden is None or not inputs["token_weight"].any():
            return None
        chosen = inputs["token_weight"].nonzero().squeeze(1)
        with torch.no_grad(), use_adapter(model, None):
            base = hidden_states(model, inputs)
        where = inputs["row"][chosen], inputs["position"][chosen]
        kl = token_kl(hidden[where], base[where], self.head)
        return self.weight * (inputs["token_weight"][chosen] * kl).sum() / inputs["normalizers"]["fine_tune"]
