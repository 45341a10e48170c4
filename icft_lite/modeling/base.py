"""The base model and its tokenizer: names, loading and hashing."""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.integrations.bitsandbytes import Bnb4bitDeserialize
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as hf_logging

from icft_lite.compat import renamed_keywords
from icft_lite.errors import ICFTError, short_reason
from icft_lite.modeling.base_checks import check_architecture, check_four_bit, check_head
from icft_lite.modeling.gguf import gguf_folder, read_record
from icft_lite.modeling.smollm2 import smollm2_folder
from icft_lite.presets import model_defaults
from icft_lite.utils.hardware import hardware

TINY = Path(__file__).parent.parent / "tiny"
"""Folder of the embedded base model."""
HASHED_BYTES = 2**22
"""How many bytes at the start and at the end of a weight file `model_fingerprint` hashes."""
NOT_A_MODEL = {
    "report.json": "it is a run, whose model `icft-lite export --merge` writes",
    "adapter_config.json": "it has an adapter without its base model; merge them first",
    "*.gguf": "it has a GGUF file; give the path of that file",
    "*.bin": "its weights are pickle files (.bin), which can execute code; convert them to model.safetensors",
    "": "it has no config.json or no model.safetensors",
}
"""What a folder without `model*.safetensors` has instead (a pattern of its files), and what that means."""


def model_path(name: str) -> str:
    """Return the folder, or the Hub name, that transformers loads for the name of a model.

    `smollm2` and GGUF files are downloaded or converted the first time. Raises ICFTError if that fails.
    """
    if name.lower().endswith(".gguf"):
        return str(gguf_folder(name))
    return str(TINY) if name == "tiny" else str(smollm2_folder()) if name == "smollm2" else name


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, by any name that `load_base` accepts.

    A tokenizer without a padding token pads with its end-of-sequence token. Raises ICFTError if it cannot be loaded.
    """
    path = model_path(name)
    if name == "tiny":
        return PreTrainedTokenizerFast.from_pretrained(path)
    with _loading_errors(name):
        check_hub(path)
        tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # harmless: attention masks depend on lengths, not on token ids
    return tokenizer


def check_hub(path: str) -> None:
    """Raise an exception if a Hub name is neither cached nor known to the Hub: transformers would retry for long."""
    offline = constants.HF_HUB_OFFLINE or Path(path).exists()
    if not offline and try_to_load_from_cache(path, "config.json") is None:
        HfApi().model_info(path, timeout=10)


def load_model_config(name: str) -> PreTrainedConfig:
    """Return the configuration of a model, by any name that `load_base` accepts. Raises ICFTError."""
    path = model_path(name)
    with _loading_errors(name):
        check_hub(path)
        return AutoConfig.from_pretrained(path)


def model_fingerprint(name: str) -> str:
    """Return what identifies a base model, in hex; "" if it cannot be found.

    Of a Hub name it is the commit of the newest snapshot, of `smollm2` and GGUF files the SHA-256 hash of the converted
    tensors (`gguf.tensors_hash`). Otherwise it is a SHA-256 hash of `config.json` and the `*.safetensors` files of the
    folder. Of each file only the size and the first and last HASHED_BYTES bytes are read, so that large models take no
    time.
    """
    folder, digest = Path(model_path(name)), hashlib.sha256()
    if not folder.is_dir():
        return _hub_commit(name)
    if converted := read_record(folder).get("tensors_sha256"):
        return str(converted)
    for path in sorted([*folder.glob("config.json"), *folder.glob("*.safetensors")]):
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest.update(f"{path.name} {size}\n".encode())
            for start in (0, max(0, size - HASHED_BYTES)):
                file.seek(start)
                digest.update(file.read(HASHED_BYTES))
    return digest.hexdigest()


def _hub_commit(name: str) -> str:
    """Return the commit of a Hub name's newest snapshot, without its weights; "" if there is none."""
    try:
        load_model_config(name)  # if online, this brings the cached snapshot up to date
    except ICFTError:
        return ""
    cached = try_to_load_from_cache(name, "config.json")
    return Path(cached).parent.name if isinstance(cached, str) else ""


def tokenizer_fingerprint(name: str) -> str:
    """Return a SHA-256 hash of the files of a model's tokenizer, chat template and end of reply; "" for a Hub name.

    They decide the tokens of every example, and `model_fingerprint` covers them only for Hub names.
    """
    folder, digest = Path(model_path(name)), hashlib.sha256()
    patterns = ("tokenizer*", "*token*.json", "chat_template*", "generation_config.json")
    for path in sorted({path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}):
        digest.update(f"{path.name}\n".encode() + path.read_bytes())
    return digest.hexdigest() if folder.is_dir() else ""


@renamed_keywords(four_bit="load_in_4bit")
def load_base(
    name: str = "tiny", load_in_4bit: bool | None = None, device: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal language model, frozen and in eval mode, and its tokenizer.

    name: `tiny` (the embedded model), `smollm2` (SmolLM2-135M-Instruct, see `smollm2.py`), a folder with a saved model,
    a GGUF file (converted to fp32), or a Hub name. load_in_4bit: quantize the weights to NF4 with double quantization
    (Dettmers et al., 2023, "QLoRA"); default: as in training, True for all models but `smollm2`. Weights that are
    stored in 4 bits by bitsandbytes are used as they are, or dequantized if it is False. device: "cpu" or "cuda";
    default: the GPU if there is one. Computes in `hardware()["dtype"]` on a GPU, in float32 on a CPU.
    Returns (model, tokenizer). Raises ICFTError if the model cannot be loaded, its architecture, quantization or output
    head is not supported, or its layers cannot be used in 4 bits on a CPU.
    """
    hf_logging.disable_progress_bar()
    if load_in_4bit is None:
        load_in_4bit = model_defaults(name).get("adapter.load_in_4bit", True)
    machine = hardware()
    device = device or machine["device"]
    dtype = getattr(torch, machine["dtype"]) if device != "cpu" else torch.float32
    tokenizer, path = load_tokenizer(name), model_path(name)
    stored_in_4bit, settings = check_architecture(name, load_model_config(name)), dict[str, Any]()
    if load_in_4bit and not stored_in_4bit:  # as None, the setting would hide how stored weights are quantized
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
        )
    with _loading_errors(name):
        model, loaded = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, device_map={"": device}, use_safetensors=True, output_loading_info=True, **settings
        )
    if missing := sorted(loaded["missing_keys"]):
        raise ICFTError(
            f"model {name!r}: {len(missing)} of its weights are missing, such as {missing[0]}, and would be random; "
            f"use a complete copy of the model"
        )
    model.name_or_path = model.config.name_or_path = (
        name  # an adapter's configuration names its base: `tiny`, not a folder of this machine
    )
    model.requires_grad_(False).eval()
    model.config.use_cache = False
    if not load_in_4bit:  # the weights may be stored in 4 bits
        model = dequantize_base(model)
    check_four_bit(model)
    check_head(model)
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
    transposed = [name for name, layer in model.named_modules() if getattr(layer, "source_cls", None) is Conv1D]
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()  # `dequantize` would log the dtype
    try:
        model = model.dequantize()
    finally:
        hf_logging.set_verbosity(verbosity)
    for name in transposed:  # GPT-2 stores its weights as [in, out]; `dequantize` leaves them as [out, in]
        linear = model.get_submodule(name)
        layer = Conv1D(linear.out_features, linear.in_features)
        layer.weight, layer.bias = nn.Parameter(linear.weight.T.contiguous()), linear.bias
        model.set_submodule(name, layer)
    if conversions := getattr(model, "_weight_conversions", None):  # `save_pretrained` reverts them; not this one
        model._weight_conversions = [
            one
            for one in conversions
            if not any(isinstance(step, Bnb4bitDeserialize) for step in getattr(one, "operations", ()))
        ]
    return model.requires_grad_(False)


@contextlib.contextmanager
def _loading_errors(name: str) -> Iterator[None]:
    """Turn the exceptions of transformers into an ICFTError of one line."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # each architecture and each missing package fails in its own way
        raise ICFTError(
            f"model {name!r}: cannot be loaded ({_wrong_folder(Path(name)) or short_reason(error)}); "
            f"use `tiny`, `smollm2`, a folder with a saved model, a GGUF file, or a Hub name while online"
        ) from error


def _wrong_folder(folder: Path) -> str:
    """Return why a path is no folder with a saved model; "" if it is one, or may be a Hub name."""
    if not folder.is_dir():
        may_be_hub_name = len(folder.parts) <= 2 and not folder.is_absolute() and ".." not in folder.parts
        return "it is a file" if folder.is_file() else "" if may_be_hub_name else "there is no such folder"
    if (folder / "config.json").is_file() and any(folder.glob("model*.safetensors")):
        return ""
    return next(why for pattern, why in NOT_A_MODEL.items() if not pattern or any(folder.glob(pattern)))
