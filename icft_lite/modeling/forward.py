"""A model up to its output head: hidden states of a batch, and the head that turns them into logits."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedConfig, PreTrainedModel

from icft_lite.modeling.encoding import Encoded
from icft_lite.modeling.packing import group_by_length, join_batch

HEAD_FACTORS = {"logit_scale": 1, "lm_head_multiplier": 1, "logits_scaling": -1}
"""Settings by which some families multiply (1) or divide (−1) their logits; `hidden_states` has the factor."""


def backbone(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the text transformer below the output head, adapters included."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    decoder = base.get_decoder()
    return decoder if decoder is not base else getattr(base, "model", base)


def max_tokens_per_pass(device: torch.device | str) -> int:
    """Return how many tokens, padding included, to score in one forward pass.

    A CPU is fastest while the activations of a layer fit its caches. A GPU needs larger batches.
    """
    return 2**10 if torch.device(device).type == "cpu" else 2**14


def head_weight(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    """Return the weight of the frozen output head, [vocab, hidden]."""
    return model.get_output_embeddings().weight


def head_factor(model: PreTrainedModel | PeftModel) -> float:
    """Return the number by which the model multiplies weight·hidden to get its logits: 1.0 for most families."""
    settings = model.config.get_text_config()
    values = {name: getattr(settings, name, None) for name in HEAD_FACTORS}
    return math.prod(value ** HEAD_FACTORS[name] for name, value in values.items() if value)


def hidden_states(model: PreTrainedModel | PeftModel, batch: Mapping[str, Any]) -> torch.Tensor:
    """Return the final hidden states (after the last norm) of a batch from `packing.join_batch`.

    They are multiplied by `head_factor`, so that logits are the product with `head_weight`. Shape [rows, length,
    hidden], in the dtype that the model computes in.
    """
    mask, transformer = batch["attention_mask"], backbone(model)
    if mask.is_floating_point():  # additive mask (packing, shared prompts): attention requires its own dtype
        mask = mask.to(transformer.dtype).clamp_min(torch.finfo(transformer.dtype).min)
        mask = layer_masks(transformer.config, mask, batch["position_ids"])
    kwargs = {"position_ids": batch["position_ids"]} if "position_ids" in batch else {}  # some families take none
    states = transformer(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False, **kwargs).last_hidden_state
    factor = head_factor(model)
    return states if factor == 1 else states * factor


@torch.no_grad()
def batch_states(
    model: PreTrainedModel | PeftModel, encoded: Sequence[Encoded], max_tokens: int | None = None
) -> Iterator[tuple[list[int], dict[str, Any], torch.Tensor]]:
    """Yield (indices of its examples, batch, final hidden states) of each forward pass over examples.

    Batches are those of `packing.join_batch`, of examples of similar length; states are those of the supervised tokens,
    [tokens, hidden]. max_tokens: maximum number of tokens in one pass, padding included; default:
    `max_tokens_per_pass`.
    """
    device = head_weight(model).device
    for group in group_by_length(encoded, max_tokens or max_tokens_per_pass(device)):
        batch = join_batch([encoded[i] for i in group], 0, device)
        yield group, batch, hidden_states(model, batch)[batch["row"], batch["position"]]


def layer_masks(
    config: PreTrainedConfig, mask: torch.Tensor, position_ids: torch.Tensor
) -> torch.Tensor | dict[str, torch.Tensor]:
    """Return the additive mask [rows, 1, length, length] as the model's layers need it.

    A mask of our own replaces the model's, and with it the sliding window: layers that have one attend to the last
    `sliding_window` positions only. Models with both kinds of layers take a dict, by the names in `layer_types`.
    """
    window = getattr(config, "sliding_window", None)
    if not window or mask.shape[-1] <= window:
        return mask
    distance = position_ids[:, :, None] - position_ids[:, None]
    sliding = mask.masked_fill((distance >= window)[:, None], torch.finfo(mask.dtype).min)
    if not getattr(config, "layer_types", None):
        return sliding
    return {"full_attention": mask, "sliding_attention": sliding}
