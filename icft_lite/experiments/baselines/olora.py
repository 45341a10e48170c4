"""O-LoRA: each stage trains its own LoRA, in directions orthogonal to those of earlier stages.

    L = L_total + λ·Σ |A_old·A_newᵀ| over all entries and layers        ΔW = (alpha / r)·Σ_stages B_stage·A_stage

Source: Wang et al., 2023, arXiv 2310.14152, "Orthogonal Subspace Learning for Language Model Continual Learning"; code
cmnfriend/O-LoRA (`src/uie_trainer_lora.py`: the sum of absolute values; λ = 0.5 for the first tasks).

As in the source: the adapters of earlier stages are frozen and stay part of the model, and the penalty makes the rows
of A of the new one orthogonal to theirs. Different: the adapters are blocks of one adapter, whose rank is divided by
`num_stages`, so that a run still ends with one adapter; the L2 penalty on the new adapter, which the source uses for
some tasks, is left out; a stage of the curriculum also has the examples of the stages before. O-LoRA protects what
earlier stages learned, not the base, which has no adapter that the first one could be orthogonal to.

    train_icft(ICFTConfig.preset("qlora", SETTINGS), out, data, trainer=OLoRA)
"""

from collections.abc import Mapping
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from icft_lite.errors import ICFTError
from icft_lite.experiments.baselines.weights import WeightedTrainer
from icft_lite.modeling.adapters import adapter_tensors

SETTINGS = {"curriculum.order": "easy_to_hard", "curriculum.competence_start": 1.0}
"""Stages by level, without pacing in them."""


class OLoRA(WeightedTrainer):
    """An ICFTTrainer that trains one block of the fast adapter, and adds `weight`·Σ |A_old·A_newᵀ|.

    Blocks that have been trained are those whose B is not 0 in the slow adapter, which holds the result of the stage
    before. Raises ICFTError if none is left.
    """

    weight = 0.5
    num_stages = 3

    def __init__(self, model: PeftModel, *args: Any, **kwargs: Any) -> None:
        super().__init__(model, *args, **kwargs)
        rank = self.config.adapter.rank
        ends = [rank * number // self.num_stages for number in range(1, self.num_stages + 1)]
        columns = torch.stack([tensor.any(0) for tensor in adapter_tensors(model, "slow")[1::2]]).any(0)
        self.begin = min(end for end in (0, *ends) if not columns[end:].any())
        if self.begin == rank:
            raise ICFTError(
                f"O-LoRA: all {self.num_stages} blocks of the adapter have been trained; "
                "set consolidation.enabled=false, and num_stages to the number of stages"
            )
        self.end = min(end for end in ends if end > self.begin)

    def regularizer(
        self, model: PeftModel, hidden: torch.Tensor | None, inputs: Mapping[str, Any]
    ) -> torch.Tensor | None:
        """Return the micro-batch's share of the penalty; None in the first stage."""
        if not self.begin:
            return None
        products = [A[: self.begin].detach() @ A[self.begin : self.end].T for A in self.trainable[::2]]
        return self.weight * torch.stack([one.abs().sum() for one in products]).sum() / self.train_dataset.parts

    def _clip_grad_norm(self, model: PreTrainedModel) -> Any:
        """Clip the gradients of the stage's block. Zeros, not None: AdamW's state stays complete."""
        for A, B in zip(self.trainable[::2], self.trainable[1::2], strict=True):
            if A.grad is not None and B.grad is not None:
                for grad in (A.grad, B.grad.T):
                    grad[: self.begin] = 0
                    grad[self.end :] = 0
        return super()._clip_grad_norm(model)
