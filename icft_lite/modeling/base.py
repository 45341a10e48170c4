"""The base model and its tokenizer: loading, checking, hashing, and running them up to the output head."""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as hf_logging

from icft_lite.compat import renamed_keywords
from icft_lite.errors import ICFTError
from icft_lite.utils.hardware import hardware

TINY = Path(__file__).parent.parent / "tiny"
"""Folder of the embedded base model."""
HASHED_BYTES = 2**22
"""How many bytes at the start and at the end of a weight file `model_fingerprint` hashes."""


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of `tiny`, of a folder or of a Hub name.

    A tokenizer without a padding token pads with its end-of-sequence token. Raises ICFTError if it cannot be loaded.
    """
    if name == "tiny":
        return PreTrainedTokenizerFast.from_pretrained(TINY)
    with _loading_errors(name):
        tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # harmless: attention masks depend on lengths, not on token ids
    return tokenizer


def model_fingerprint(name: str) -> str:
    """Return a SHA-256 hash that identifies a base model, in hex; "" for a Hub name.

    The hash covers `config.json` and the `*.safetensors` files of the folder. Of each file only the size and the first
    and last HASHED_BYTES bytes are read, so that large models take no time.
    """
    folder, digest = TINY if name == "tiny" else Path(name), hashlib.sha256()
    if not folder.is_dir():
        return ""
    for path in sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest.update(f"{path.name} {size}\n".encode())
            for start in (0, max(0, size - HASHED_BYTES)):
                file.seek(start)
                digest.update(file.read(HASHED_BYTES))
    return digest.hexdigest()


@renamed_keywords(four_bit="load_in_4bit")
def load_base(
    name: str = "tiny", load_in_4bit: bool = True, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model, frozen and in eval mode, and its tokenizer.

    name: `tiny` (the embedded model), a folder with a saved model, or a Hub name. load_in_4bit: quantize the weights to
    NF4 with double quantization (Dettmers et al., 2023, "QLoRA"). device: "cpu" or "cuda"; default: the GPU if there is
    one. Computes in `hardware()["dtype"]` on a GPU, in float32 on a CPU.
    Returns (model, tokenizer). Raises ICFTError if the model cannot be loaded, its output head is not supported, or its
    layers cannot be used in 4 bits on a CPU.
    """
    hf_logging.disable_progress_bar()
    machine = hardware()
    device = device or machine["device"]
    dtype = getattr(torch, machine["dtype"]) if device != "cpu" else torch.float32
    tokenizer = load_tokenizer(name)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    with _loading_errors(name):
        model = AutoModelForCausalLM.from_pretrained(
            str(TINY) if name == "tiny" else name,
            dtype=dtype,
            device_map={"": device},
            quantization_config=quantization if load_in_4bit else None,
            use_safetensors=True,
        )
    check_head(model)
    check_four_bit(model)
    model.requires_grad_(False).eval()
    model.config.use_cache = False
    return model, tokenizer


def dequantize_base(model: PreTrainedModel, max_bytes: float = math.inf) -> PreTrainedModel:
    """Return the model with its 4-bit weights dequantized to the dtype that it computes in.

    A model that has no 4-bit weights, or whose weights would take more than `max_bytes` bytes, is returned unchanged.

    This saves time, because bitsandbytes dequantizes the weights for every product, twice in a training step. On a CPU
    the results are identical, bit by bit. On a GPU they differ by rounding, because the 4-bit kernels for few tokens
    sum in another order.
    """
    if not getattr(model, "is_quantized", False) or model.num_parameters() * model.dtype.itemsize > max_bytes:
        return model
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()  # `dequantize` would log the dtype
    try:
        return model.dequantize()
    finally:
        hf_logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _loading_errors(name: str) -> Iterator[None]:
    """Turn the exceptions of transformers into an ICFTError of one line."""
    try:
        yield
    except (OSError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise ICFTError(
            f"model {name!r}: cannot be loaded ({first_line}); use `tiny`, a folder with a saved model, "
            f"or a Hub name while online"
        ) from error


def check_head(model: PreTrainedModel) -> None:
    """Raise ICFTError if the logits are not exactly weight·hidden, as the losses on cached states require."""
    config, head = model.config, model.get_output_embeddings()
    for setting, neutral in (("final_logit_softcapping", None), ("logit_scale", None), ("logits_scaling", 1.0)):
        value = getattr(config, setting, None)
        if value is not None and value != neutral and value != 1.0:
            raise ICFTError(
                f"model: {config.model_type} scales or caps its logits ({setting} = {value}), "
                f"which the losses do not support; choose another base"
            )
    if head is None or getattr(head, "bias", None) is not None:
        raise ICFTError(
            f"model: {config.model_type} has no linear output head without bias, "
            f"which the losses require; choose another base"
        )


def check_four_bit(model: PreTrainedModel) -> None:
    """Raise ICFTError if a 4-bit layer on a CPU would compute wrong results; turn off a harmful CPU fast path."""
    # bitsandbytes 0.50.2 with torch 2.13.0, measured on a CPU with AVX512: weights whose rows have 32, 80, 96 or 160
    # values are stored correctly, but products with them are 20 to 40 % off (the error of NF4 itself: 9 %). The kernel
    # assumes in_features // 64 scales per row, whereas each scale covers 64 values regardless of rows. Widths of 64,
    # 128, 192, 320, 512, 576 and 896 are correct.
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        if (
            weight is not None
            and hasattr(weight, "quant_state")
            and weight.device.type == "cpu"
            and layer.in_features % 64
        ):
            raise ICFTError(
                f"model: layer {name} has {layer.in_features} input features, which is not a multiple of 64, and "
                f"bitsandbytes computes such layers wrongly in 4 bits on a CPU; use --no-4bit (load_in_4bit=False)"
            )
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # On CPUs with AVX512-BF16, bitsandbytes 0.50.2 (nn/modules.py) repacks the weights permanently at the first
            # inference. Later training steps get wrong gradients through the repacked weights: in all but the last
            # layer they were off by 60 to 100 % (measured on an AMD EPYC of 2024).
            layer.support_avx512bf16_for_cpu = False


def backbone(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """Return the transformer below the output head, adapters included."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return base.base_model


def max_tokens_per_pass(device: torch.device | str) -> int:
    """Return how many tokens, padding included, to score in one forward pass.

    A CPU is fastest while the activations of a layer fit its caches. A GPU needs larger batches.
    """
    return 2**10 if torch.device(device).type == "cpu" else 2**14


def head_weight(model: PreTrainedModel | PeftModel) -> torch.Tensor:
    """Return the weight of the frozen output head, [vocab, hidden]."""
    return model.get_output_embeddings().weight


def hidden_states(model: PreTrainedModel | PeftModel, batch: Mapping[str, Any]) -> torch.Tensor:
    """Return the final hidden states (after the last norm) of a batch from `packing.join_batch`.

    Shape [rows, length, hidden], in the dtype that the model computes in.
    """
    mask = batch["attention_mask"]
    if mask.is_floating_point():  # additive mask (packing, shared prompts): attention requires its own dtype
        dtype = backbone(model).dtype
        mask = mask.to(dtype).clamp_min(torch.finfo(dtype).min)
    return backbone(model)(
        input_ids=batch["input_ids"], attention_mask=mask, position_ids=batch.get("position_ids"), use_cache=False
    ).last_hidden_state
