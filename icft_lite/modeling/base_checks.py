"""What a base must be: a causal language model with a linear head, and 4-bit layers that compute what they should."""

from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel

from icft_lite.errors import ICFTError, short_reason
from icft_lite.modeling.forward import backbone, head_factor


def check_architecture(name: str, config: PreTrainedConfig) -> bool:
    """Return whether the weights are stored in 4 bits by bitsandbytes.

    Raises ICFTError for a model that is no causal language model, and for any other stored quantization.
    """
    if config.is_encoder_decoder or type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        kind = "an encoder-decoder model" if config.is_encoder_decoder else "no causal language model"
        raise ICFTError(
            f"model {name!r}: {config.model_type} is {kind}; choose a decoder-only model with an output head "
            f"(one that AutoModelForCausalLM loads)"
        )
    stored = getattr(config, "quantization_config", None)
    if stored is None:
        return False
    stored = stored if isinstance(stored, dict) else stored.to_dict()
    if stored.get("load_in_4bit"):
        return True
    method = stored.get("quant_method", "an unknown format")
    bits = " in 8 bits" if stored.get("load_in_8bit") else ""
    raise ICFTError(
        f"model {name!r}: its weights are stored quantized ({method}{bits}), which icft_lite does not train on; "
        f"use the model's unquantized version (it is quantized to 4 bits on loading), or one stored in 4 bits by "
        f"bitsandbytes"
    )


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Raise ICFTError if the logits are not exactly factor·weight·hidden, as the losses on cached states require.

    It compares the model's own logits with such products, on hidden states that are large enough to show a soft cap.
    """
    head, kind = model.get_output_embeddings(), model.config.model_type
    if head is None or getattr(head, "bias", None) is not None or backbone(model) is model:
        raise ICFTError(
            f"model: {kind} has no linear output head without bias, which the losses require; choose another base"
        )
    states: list[torch.Tensor] = []

    def enlarge(module: nn.Module, args: Any, output: Any) -> Any:
        output.last_hidden_state = output.last_hidden_state * 64
        states.append(output.last_hidden_state * head_factor(model))
        return output

    hook = backbone(model).register_forward_hook(enlarge)
    try:
        ids = torch.arange(4, 8, device=head.weight.device)[None]
        logits = model(input_ids=ids, use_cache=False).logits.float()
    except (RuntimeError, TypeError, AttributeError, ValueError) as error:
        raise ICFTError(
            f"model: {kind} cannot be run ({short_reason(error)}); try --no-4bit (load_in_4bit=False), "
            f"or choose another base"
        ) from error
    finally:
        hook.remove()
    expected = (states[0] @ head.weight.T).float()
    if (logits - expected).norm() > 0.02 * expected.norm():  # 16-bit products differ by less than 0.01
        settings = model.config.get_text_config().to_dict()
        names = [f"{key} = {value}" for key, value in settings.items() if "logit" in key and value not in (None, 1.0)]
        raise ICFTError(
            f"model: {kind} scales or caps its logits ({', '.join(names) or 'in its own code'}), "
            f"which the losses do not support; choose another base"
        )


def check_four_bit(model: PreTrainedModel) -> None:
    """Raise ICFTError if no layer of a 4-bit model is in 4 bits, or if one would compute wrong results on a CPU.

    Set all 4-bit layers to compute in the model's dtype (weights that are stored in 4 bits name another one), and turn
    off a harmful fast path of CPUs.
    """
    # bitsandbytes 0.50.2 with torch 2.13.0, measured on a CPU with AVX512: weights whose rows have 32, 80, 96 or 160
    # values are stored correctly, but products with them are 20 to 40 % off (the error of NF4 itself: 9 %). The kernel
    # assumes in_features // 64 scales per row, whereas each scale covers 64 values regardless of rows. Widths of 64,
    # 128, 192, 320, 512, 576 and 896 are correct.
    layers = {
        name: layer for name, layer in model.named_modules() if hasattr(getattr(layer, "weight", None), "quant_state")
    }
    if getattr(model, "is_quantized", False) and not layers:
        raise ICFTError(
            f"model: {model.config.model_type} has no layer that bitsandbytes can hold in 4 bits; "
            f"use --no-4bit (load_in_4bit=False)"
        )
    for name, layer in layers.items():
        if layer.weight.device.type == "cpu" and layer.in_features % 64:
            raise ICFTError(
                f"model: layer {name} has {layer.in_features} input features, which is not a multiple of 64, and "
                f"bitsandbytes computes such layers wrongly in 4 bits on a CPU; use --no-4bit (load_in_4bit=False)"
            )
        # On CPUs with AVX512-BF16, bitsandbytes 0.50.2 (nn/modules.py) repacks the weights permanently at the first
        # inference. Later training steps get wrong gradients through the repacked weights: in all but the last
        # layer they were off by 60 to 100 % (measured on an AMD EPYC of 2024).
        layer.support_avx512bf16_for_cpu = False
        layer.compute_dtype = model.dtype
