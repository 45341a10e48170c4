"""Elastic weight consolidation (EWC) for LoRA, exactly on the weight change ΔW.

    L = L_total + ½·λ·Σ_i F_i·ΔW_i²        ΔW = (alpha / r)·B·A of the adapter `fast`

Source: Kirkpatrick et al., 2017, arXiv 1612.00796, equation 3, with the base's weights as θ*_A. F is the diagonal
Fisher information of the frozen weights W that have adapters: the mean over general examples of
(∂ log p(response) / ∂W)².

As in the source: the quadratic penalty around the old weights with a diagonal F, from the gradient of each example.
Different: it is the empirical Fisher information, whose responses are those of the data, not samples of the model. If
the data has a chat suite, they are the base's own greedy replies. (van de Ven, 2025, arXiv 2502.11756, compares such
choices.) F is divided by its mean over all weights, so that λ is comparable between models. The weights without an
adapter (embeddings, norms, head) do not change, so they need no penalty.

    trainer = with_weight(EWC, 0.003)
    train_icft(ICFTConfig.preset("qlora"), out, data, trainer=trainer, callbacks=[FisherInformation()])
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from torch.utils.checkpoint import checkpoint

from icft_lite.errors import ICFTError
from icft_lite.experiments.baselines.general import general_examples
from icft_lite.experiments.baselines.weights import WeightedTrainer
from icft_lite.modeling.adapters import lora_layers, use_adapter
from icft_lite.modeling.encoding import Encoded
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.losses import token_logprobs
from icft_lite.modeling.packing import join_batch
from icft_lite.training.events import RunCallback
from icft_lite.training.prepare import Prepared
from icft_lite.utils.progress import progress_bar


def fisher_information(model: PeftModel, encoded: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """Return the diagonal Fisher information of the base's weights that have adapters, by layer, with mean 1.

    encoded: examples; the log-probabilities of all their supervised tokens are summed. Each tensor has the shape of its
    weight, in float32. It needs as much memory as two copies of these weights. Raises ICFTError if they are in 4 bits.
    """
    weights = {name: layer.get_base_layer().weight for name, layer in lora_layers(model).items()}
    for name, weight in weights.items():
        if not weight.is_floating_point():
            raise ICFTError(
                f"model: the weight of {name} is {weight.dtype} (4 bits) and has no gradient, which EWC needs; "
                f"set adapter.load_in_4bit=false"
            )
    fisher = {name: torch.zeros_like(weight, dtype=torch.float32) for name, weight in weights.items()}
    head = head_weight(model)
    with use_adapter(model, None), progress_bar(len(encoded), "Fisher information") as bar:
        for weight in weights.values():
            weight.requires_grad_(True)  # `use_adapter` restores it
        for one in encoded:
            batch = join_batch([one], 0, head.device)
            states = hidden_states(model, batch)[batch["row"], batch["position"]]
            logp = token_logprobs(states, head, batch["target"]).sum()
            for total, gradient in zip(fisher.values(), torch.autograd.grad(logp, list(weights.values())), strict=True):
                total += gradient.float().square()
            bar.update(1)
    mean = sum(float(one.sum(dtype=torch.float64)) for one in fisher.values()) / sum(map(torch.numel, fisher.values()))
    return {name: one.div_(mean) for name, one in fisher.items()}


class FisherInformation(RunCallback):
    """A callback that computes `fisher` before the first stage, of at most `number` general examples."""

    def __init__(self, number: int = 200) -> None:
        self.number, self.fisher = number, dict[str, torch.Tensor]()

    def on_run_begin(self, prepared: Prepared, results: Any, shares: Any) -> None:
        """Compute the Fisher information; in a resumed run too."""
        self.fisher = fisher_information(prepared.model.eval(), general_examples(prepared, self.number))


class EWC(WeightedTrainer):
    """An ICFTTrainer that adds ½·`weight`·Σ F·ΔW². It reads F from the callback FisherInformation."""

    weight = 0.003

    def regularizer(
        self, model: PeftModel, hidden: torch.Tensor | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor | None:
        """Return the micro-batch's share of the penalty. Raises ICFTError without Fisher information."""
        found = [one for one in self.callback_handler.callbacks if isinstance(one, FisherInformation)]
        if not found or not found[0].fisher:
            raise ICFTError(
                "callbacks: EWC has no Fisher information; pass callbacks=[FisherInformation()], one process"
            )
        return self.weight * quadratic_penalty(model, found[0].fisher) / self.train_dataset.parts


def quadratic_penalty(model: PeftModel, fisher: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return ½·Σ F·ΔW² of the adapter `fast`. Only one layer's ΔW exists at a time; it is formed again backward."""

    def of_layer(name: str) -> torch.Tensor:
        return 0.5 * (fisher[name] * layers[name].get_delta_weight("fast").float().square()).sum()

    layers = lora_layers(model)
    return torch.stack([checkpoint(of_layer, name, use_reentrant=False) for name in layers]).sum()
