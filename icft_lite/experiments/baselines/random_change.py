"""A control: the base after a change of its weights that teaches nothing.

Any change of a chat model's weights makes some of its replies wrong and others right. This one shows how much retention
is lost in that way at a given distance (KL) from the base, whatever the change is for.
"""

import torch

from icft_lite.modeling.adapters import lora_layers
from icft_lite.training.prepare import Prepared

SIZE = 0.04
"""‖ΔW‖ ÷ ‖W‖ of each layer, in the Frobenius norm."""


@torch.no_grad()
def randomize_adapter(prepared: Prepared) -> None:
    """Fill the adapter `slow` of a run with random A and B, whose change of each weight has the relative size SIZE.

    The run's seed determines them. The base must not be in 4 bits.
    """
    generator = torch.Generator().manual_seed(prepared.config.seed)
    for layer in lora_layers(prepared.model).values():
        factors = [layer.lora_A["slow"].weight, layer.lora_B["slow"].weight]
        for factor in factors:
            factor.copy_(torch.randn(factor.shape, generator=generator))
        change = layer.get_delta_weight("slow").norm()
        factors[1].mul_(SIZE * layer.base_layer.weight.norm() / change)
