"""The base: load it, check it, run it."""

import contextlib
import hashlib
import math
import os
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

from icft_lite.errors import ICFTError
from icft_lite.utils.hardware import hardware

TINY = Path(__file__).parent.parent / "tiny"
ENDS = 2**22  # bytes


def load_tokenizer(name):
    """The tokenizer of `tiny`, a folder or a Hub name. Raises ICFTError if it cannot be had."""
    if name == "tiny":
        return PreTrainedTokenizerFast.from_pretrained(TINY)
    with _one_line(name):
        tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks go by length, so sharing an id does no harm
    return tokenizer


def model_fingerprint(name):
    """Tells one base from another: SHA-256 of a folder's config and of its weights, of those only the size and the ends
    of each file, so that a large model costs nothing. "" for a Hub name."""
    folder, digest = TINY if name == "tiny" else Path(name), hashlib.sha256()
    if not folder.is_dir():
        return ""
    for path in sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")]):
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest.update(f"{path.name} {size}\n".encode())
            for start in (0, max(0, size - ENDS)):
                file.seek(start)
                digest.update(file.read(ENDS))
    return digest.hexdigest()


def load_base(name="tiny", four_bit=True, device=None):
    """Load a causal LM and its tokenizer; frozen, in eval mode.

    four_bit: NF4 with double quantisation, computing in `hardware()["dtype"]`.
    Returns (model, tokenizer). Raises ICFTError if the name cannot be loaded, its head is unsupported, or a
    CPU cannot hold it in 4 bits."""
    hf_logging.disable_progress_bar()
    hw = hardware()
    device = device or hw["device"]
    dtype = getattr(torch, hw["dtype"]) if device != "cpu" else torch.float32
    tokenizer = load_tokenizer(name)
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    with _one_line(name):
        model = AutoModelForCausalLM.from_pretrained(
            str(TINY) if name == "tiny" else name,
            dtype=dtype,
            device_map={"": device},
            quantization_config=quantization if four_bit else None,
            use_safetensors=True,
        )
    check_head(model)
    check_four_bit(model)
    model.requires_grad_(False).eval()
    model.config.use_cache = False
    return model, tokenizer


def dequantize_base(model, most=math.inf):
    """A 4-bit model with its numbers written out, in the dtype that it computes in; as it is where they take more than
    `most` bytes, or where it holds no 4-bit layers.

    bitsandbytes writes them out anew for every product, twice in a training step. The products are the same to the
    bit, save on a GPU, whose 4-bit kernels for few tokens add up in another order."""
    if not getattr(model, "is_quantized", False) or model.num_parameters() * model.dtype.itemsize > most:
        return model
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()  # it would say which dtype that is
    try:
        return model.dequantize()
    finally:
        hf_logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _one_line(name):
    try:
        yield
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise ICFTError(
            f"model {name!r}: cannot be loaded ({first}); give `tiny`, a folder that holds a "
            f"model, or a Hub name while online"
        ) from error


def check_head(model):
    """Raise ICFTError for heads whose logits are more than weight·hidden: the cached-state KL needs that."""
    config, head = model.config, model.get_output_embeddings()
    for setting, neutral in (("final_logit_softcapping", None), ("logit_scale", None), ("logits_scaling", 1.0)):
        value = getattr(config, setting, None)
        if value is not None and value != neutral and value != 1.0:
            raise ICFTError(
                f"model: {config.model_type} scales or caps its logits ({setting} = {value}), "
                f"which the losses do not support; choose another base"
            )
    if head is None or getattr(head, "bias", None) is not None:
        raise ICFTError(f"model: {config.model_type} has no plain output head without bias; choose another base")


def check_four_bit(model):
    """Keep 4-bit layers on a CPU honest: raise ICFTError for those that it would read wrongly, without a word."""
    # Measured with bitsandbytes 0.50.2 and torch 2.13.0 on a CPU with AVX512: rows of 32, 80, 96 or 160 numbers are
    # stored rightly, but come back 20 to 40 % off (NF4's own error: 9 %), since the kernel counts width // 64
    # scales to a row, and scales serve 64 numbers whatever the row. 64, 128, 192, 320, 512, 576, 896: no error.
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        if hasattr(weight, "quant_state") and weight.device.type == "cpu" and layer.in_features % 64:
            raise ICFTError(
                f"model: layer {name} takes {layer.in_features} numbers, no multiple of 64, which "
                f"bitsandbytes misreads in 4 bits on a CPU; use --no-4bit (four_bit=False)"
            )
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # On CPUs with AVX512-BF16 the first scoring would repack the weights for good, into a form that later
            # training steps take no gradient through: all but the last layer's were off by 60 to 100 % (bitsandbytes
            # 0.50.2, nn/modules.py; measured on an AMD EPYC of 2024).
            layer.support_avx512bf16_for_cpu = False


def backbone(model):
    """The transformer below the head, adapters included."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return base.base_model


def max_tokens_per_pass(device):
    """How many tokens to score in one pass. A CPU is at its best while what a layer makes of them stays in its caches;
    a GPU wants more."""
    return 2**10 if torch.device(device).type == "cpu" else 2**14


def head_weight(model):
    """The frozen output head, [vocab, hidden]."""
    return model.get_output_embeddings().weight


def hidden_states(model, batch):
    """Final hidden states (after the last norm), [rows, length, hidden]."""
    mask = batch["attention_mask"]
    if mask.is_floating_point():  # additive, from shared prompts: it must have the dtype attention runs in
        dtype = backbone(model).dtype
        mask = mask.to(dtype).clamp_min(torch.finfo(dtype).min)
    return backbone(model)(
        input_ids=batch["input_ids"], attention_mask=mask, position_ids=batch.get("position_ids"), use_cache=False
    ).last_hidden_state
