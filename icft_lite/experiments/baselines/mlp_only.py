"""LoRA on the MLP layers only, rank 10, which adds few parameters and forgets less than LoRA on all layers.

Source: huggingface/peft, method_comparison/MetaMathQA, experiment `lora/llama-3.2-3B-rank10-target-mlp`: rank 10,
alpha 20, dropout 0, target modules gate_proj, up_proj and down_proj.

As in the source: which layers change, and SETTINGS. Different: the attention layers have an adapter too, whose B stays
0, so that nothing else of a run changes. Their gradients are removed before clipping, so they do not affect its norm.
An attention layer is one whose path contains "attn" or "attention".

    train_icft(ICFTConfig.preset("qlora", SETTINGS), out, data, trainer=MLPOnly)
"""

from typing import Any

from transformers import PreTrainedModel

from icft_lite.modeling.adapters import lora_layers
from icft_lite.training.trainer import ICFTTrainer

SETTINGS = {"adapter.rank": 10, "adapter.alpha": 20}
"""Rank and alpha of the source."""
ATTENTION = ("attn", "attention")
"""Parts of the path of an attention layer."""


class MLPOnly(ICFTTrainer):
    """An ICFTTrainer that trains no adapter of an attention layer."""

    def _clip_grad_norm(self, model: PreTrainedModel) -> Any:
        """Clip the gradients that are left. Zeros, not None: AdamW's state, which a checkpoint has, stays complete."""
        for name, layer in lora_layers(self.model).items():
            if any(part in name for part in ATTENTION):
                for tensor in (layer.lora_A["fast"].weight, layer.lora_B["fast"].weight):
                    if tensor.grad is not None:
                        tensor.grad.zero_()
        return super()._clip_grad_norm(model)
