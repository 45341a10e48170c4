"""The base in NF4, its two LoRA adapters, and the bare-base pass.

    h = W0·x + (alpha / r) · B·A·x        W0 frozen (4-bit), A and B trained

`fast` is the adapter trained by gradient (short-term memory); `slow` is its moving average (long-term).
"""

import contextlib
import hashlib
import math
import os
import platform
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, PreTrainedTokenizerFast
from transformers.utils import logging as hf_logging

from icft_lite.config import ICFTError

TINY = Path(__file__).parent / "tiny"
ENDS = 2**22  # bytes


def hardware():
    """What this machine computes with: {"device", "name", "dtype", "why", "memory_bytes"}.

    bf16 needs compute capability 8 (torch says yes on a T4, where it is emulated); CPUs use fp32, since
    bf16 without AVX512-BF16 is over ten times slower."""
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        modern = properties.major >= 8
        return dict(device="cuda", name=properties.name, dtype="bfloat16" if modern else "float16",
                    why=f"compute capability {properties.major}.{properties.minor} "
                        f"{'has' if modern else 'lacks'} native bf16", memory_bytes=properties.total_memory)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return dict(device="cpu", name=platform.processor() or platform.machine(), dtype="float32",
                why="no GPU; CPUs compute in fp32", memory_bytes=memory)


def load_tokenizer(name):
    """The tokenizer of `tiny`, a folder or a Hub name. Raises ICFTError if it cannot be had."""
    if name == "tiny":
        return PreTrainedTokenizerFast.from_pretrained(TINY)
    with _one_line(name):
        tokenizer = AutoTokenizer.from_pretrained(name)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token  # masks go by length, so sharing an id does no harm
    return tokenizer


def fingerprint(name):
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
    quantization = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
                                      bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    with _one_line(name):
        model = AutoModelForCausalLM.from_pretrained(
            str(TINY) if name == "tiny" else name, dtype=dtype, device_map={"": device},
            quantization_config=quantization if four_bit else None, use_safetensors=True)
    check_head(model)
    guard_four_bit(model)
    model.requires_grad_(False).eval()
    model.config.use_cache = False
    return model, tokenizer


def unpacked(model, most=math.inf):
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
        raise ICFTError(f"model {name!r}: cannot be loaded ({first}); give `tiny`, a folder that holds a "
                        f"model, or a Hub name while online") from error


def check_head(model):
    """Raise ICFTError for heads whose logits are more than weight·hidden: the cached-state KL needs that."""
    config, head = model.config, model.get_output_embeddings()
    for setting, neutral in (("final_logit_softcapping", None), ("logit_scale", None), ("logits_scaling", 1.0)):
        value = getattr(config, setting, None)
        if value is not None and value != neutral and value != 1.0:
            raise ICFTError(f"model: {config.model_type} scales or caps its logits ({setting} = {value}), "
                            f"which the losses do not support; choose another base")
    if head is None or getattr(head, "bias", None) is not None:
        raise ICFTError(f"model: {config.model_type} has no plain output head without bias; choose another base")


def guard_four_bit(model):
    """Keep 4-bit layers on a CPU honest: raise ICFTError for those that it would read wrongly, without a word."""
    # Measured with bitsandbytes 0.50.2 and torch 2.13.0 on a CPU with AVX512: rows of 32, 80, 96 or 160 numbers are
    # stored rightly, but come back 20 to 40 % off (NF4's own error: 9 %), since the kernel counts width // 64
    # scales to a row, and scales serve 64 numbers whatever the row. 64, 128, 192, 320, 512, 576, 896: no error.
    for name, layer in model.named_modules():
        weight = getattr(layer, "weight", None)
        if hasattr(weight, "quant_state") and weight.device.type == "cpu" and layer.in_features % 64:
            raise ICFTError(f"model: layer {name} takes {layer.in_features} numbers, no multiple of 64, which "
                            f"bitsandbytes misreads in 4 bits on a CPU; use --no-4bit (four_bit=False)")
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # On CPUs with AVX512-BF16 the first scoring would repack the weights for good, into a form that later
            # training steps take no gradient through: all but the last layer's were off by 60 to 100 % (bitsandbytes
            # 0.50.2, nn/modules.py; measured on an AMD EPYC of 2024).
            layer.support_avx512bf16_for_cpu = False


def add_adapters(model, rank=32, alpha=64, seed=0):
    """Wrap a base with two LoRA adapters on every linear layer but the head, `fast` (active) and `slow`.

    Both start as the zero change (B = 0), with the same A, drawn from `seed`. Returns the PeftModel."""
    config = LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=0.0, target_modules="all-linear",
                        task_type="CAUSAL_LM")
    devices = list(range(torch.cuda.device_count()))
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        model = get_peft_model(model, config, adapter_name="fast", autocast_adapter_dtype=True)
        model.add_adapter("slow", config)
    for config in model.peft_config.values():
        config.target_modules = sorted(config.target_modules)  # a set's order would differ from process to process
    copy_adapter(model, "fast", "slow")
    activate(model, "fast")
    return model


def lora_layers(model):
    """The LoRA-wrapped linear layers by name, in a fixed order."""
    return {name: module for name, module in model.named_modules() if hasattr(module, "lora_A")}


def adapter_tensors(model, name):
    """The A and B weights of one adapter, in a fixed order (views, not copies)."""
    return [weight for layer in lora_layers(model).values()
            for weight in (layer.lora_A[name].weight, layer.lora_B[name].weight)]


@torch.no_grad()
def restore_adapter(model, name, values):
    """Overwrite an adapter, in place, with tensors in the order of `adapter_tensors`."""
    for tensor, value in zip(adapter_tensors(model, name), values, strict=True):
        tensor.copy_(value)


def copy_adapter(model, source, target):
    """Overwrite adapter `target` with `source`, in place."""
    restore_adapter(model, target, adapter_tensors(model, source))


def activate(model, name):
    """Make one adapter active, and only `fast` trainable (peft marks whatever is active as trainable)."""
    model.set_adapter(name)
    for adapter in model.peft_config:
        for tensor in adapter_tensors(model, adapter):
            tensor.requires_grad_(adapter == "fast")


@contextlib.contextmanager
def using(model, name):
    """Run the block with adapter `name`, or the bare base if name is None; restore what was active and
    which parameters are trainable (leaving `disable_adapter()` would mark frozen adapters trainable)."""
    if not isinstance(model, PeftModel):
        yield model
        return
    before = model.active_adapter
    trainable = {p: p.requires_grad for p in model.parameters()}
    try:
        if name is None:
            with model.disable_adapter():
                yield model
        else:
            model.set_adapter(name)
            yield model
    finally:
        model.set_adapter(before)
        for parameter, flag in trainable.items():
            parameter.requires_grad_(flag)


@contextlib.contextmanager
def merged(model, name, most=2**28):
    """`using`, for many passes without a gradient: as long as the block runs, the adapter's change is part of the
    weights, so that a pass costs what the bare base's does (three quarters, for the embedded one).

    Only where a base's weights are plain fp32 numbers (4-bit ones would lose most of the change, 16-bit ones some), and
    take no more than `most` bytes, since they are there twice. Afterwards they are the very same weights again: peft's
    own unmerging subtracts, and leaves rounding behind."""
    layers = list(lora_layers(model).values()) if name is not None and isinstance(model, PeftModel) else []
    weights = [layer.get_base_layer().weight for layer in layers]
    before = [weight.data for weight in weights]
    if not before or any(data.dtype != torch.float32 for data in before) or sum(data.nbytes for data in before) > most:
        with using(model, name):
            yield model
        return
    try:
        for layer, weight in zip(layers, weights):
            weight.data = weight.data + layer.get_delta_weight(name).detach()
        with using(model, None):
            yield model
    finally:
        for weight, data in zip(weights, before):
            weight.data = data


def trunk(model):
    """The transformer below the head, adapters included."""
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    return base.base_model


def pass_size(device):
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
        dtype = trunk(model).dtype
        mask = mask.to(dtype).clamp_min(torch.finfo(dtype).min)
    return trunk(model)(input_ids=batch["input_ids"], attention_mask=mask, position_ids=batch.get("position_ids"),
                        use_cache=False).last_hidden_state


def delta_svd(pairs, rank, scale):
    """Bring Σ weight·(alpha/r)·B·A back to rank r by a truncated SVD (Eckart–Young: the best there is).

    pairs: [(weight, A [r, in], B [out, r])]; scale alpha / r. Works on [out, n·r] and [n·r, in], never on
    [out, in]. Returns A [rank, in], B [out, rank], and the relative Frobenius residual."""
    left = torch.cat([weight * scale * B for weight, _, B in pairs], 1).double()
    right = torch.cat([A for _, A, _ in pairs], 0).double()
    q_left, r_left = torch.linalg.qr(left)
    q_right, r_right = torch.linalg.qr(right.T)
    u, s, vh = torch.linalg.svd(r_left @ r_right.T)
    root = s[:rank].clamp_min(0).sqrt()
    residual = float(s[rank:].norm() / s.norm().clamp_min(1e-30))
    B = (q_left @ u[:, :rank] * root / scale)
    A = (root[:, None] * (vh[:rank] @ q_right.T))
    return A.to(pairs[0][1].dtype), B.to(pairs[0][2].dtype), residual


def save_adapter(model, name, folder):
    """Save one adapter in peft's own format, so `PeftModel.from_pretrained(base, folder)` loads it alone.

    peft keeps adapters not called `default` in a subfolder; this lifts the files out of it."""
    folder = Path(folder)
    model.save_pretrained(folder, selected_adapters=[name], safe_serialization=True)
    for file in (folder / name).iterdir():
        file.replace(folder / file.name)
    (folder / name).rmdir()
