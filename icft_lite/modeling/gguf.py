"""GGUF files as base models: converted once to safetensors in fp32, in the cache folder.

    CACHE/models/SHA256 of the GGUF file/
        config.json, model.safetensors, tokenizer.json, …    what transformers loads
        conversion.json                                      written last; hash of the tensors, size of their file

A folder appears whole or not at all: it is written under another name, which is then changed.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from icft_lite.errors import ICFTError, short_reason
from icft_lite.utils.cache import cache_folder
from icft_lite.utils.io import write_json
from icft_lite.utils.lock import exclusive_lock

RECORD = "conversion.json"
FORMAT = 1
"""Number of the way of conversion. Folders with another one are converted again."""
SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r")
"""Values of `tokenizer.ggml.pre` whose tokenizers split numbers into digits before anything else.

transformers 5.23 does not know them and splits as GPT-2 does. For SmolLM2 that writes the blank line before a numbered
list as two tokens instead of one.
"""


def cached_folder(sha256: str) -> Path:
    """Return where the converted model of the GGUF file with this SHA-256 hash is, or will be."""
    return cache_folder() / "models" / sha256


def gguf_folder(path: Path | str) -> Path:
    """Return the folder with the converted model of a GGUF file, converting it if this is the first time.

    Raises ICFTError if there is no such file, or it cannot be converted.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ICFTError(f"model {str(path)!r}: there is no such file; give the path of a GGUF file")
    return converted_folder(file_hash(path), str(path), lambda _: path)


def converted_folder(sha256: str, name: str, get_file: Callable[[Path], Path], tensors_sha256: str = "") -> Path:
    """Return the folder with the converted model of the GGUF file that has this SHA-256 hash.

    The first call converts it, while other processes wait. name: of the model, for messages. get_file: returns the
    path of the file; it may write it into the empty folder that it is called with. tensors_sha256: what `tensors_hash`
    must be. Raises ICFTError if the file cannot be converted or gives other tensors.
    """
    folder = cached_folder(sha256)
    if is_complete(folder):
        return folder
    fix, waiting = "set ICFT_CACHE to another folder", f"{name}: waiting for another process that converts a model"
    with exclusive_lock(folder.parent, fix, waiting):
        if is_complete(folder):
            return folder
        temporary, download = folder.with_name("new.part"), folder.with_name("download.part")
        try:
            for one in (folder, temporary, download):  # what a killed process or another version has left
                shutil.rmtree(one, ignore_errors=True)
            for one in (temporary, download):
                one.mkdir()
            convert(get_file(download), temporary, name)
            found = tensors_hash(temporary)
            if tensors_sha256 not in ("", found):
                raise ICFTError(
                    f"model {name!r}: the conversion gave other tensors (SHA-256 {found[:12]}…, expected "
                    f"{tensors_sha256[:12]}…); use the versions of transformers and gguf in constraints.txt"
                )
            record = dict(format=FORMAT, gguf_sha256=sha256, tensors_sha256=found, bytes=weight_bytes(temporary))
            versions = {package: version(package) for package in ("transformers", "gguf")}
            write_json(temporary / RECORD, {**record, "versions": versions})
            temporary.replace(folder)
        finally:
            for one in (temporary, download):
                shutil.rmtree(one, ignore_errors=True)
    progress(name, f"ready in {folder}")
    return folder


def convert(file: Path, folder: Path, name: str) -> None:
    """Write a GGUF file's model in fp32, and its tokenizer, into an empty folder. Raises ICFTError if it cannot be."""
    size, start = file.stat().st_size, time.perf_counter()
    progress(name, f"converting {file.name} ({size / 1e6:,.0f} MB) to fp32, once; this takes a minute or more")
    hf_logging.disable_progress_bar()
    try:
        # An absolute file name and an empty folder: transformers would also read other files in the file's own folder.
        source = dict(pretrained_model_name_or_path=str(folder), gguf_file=str(file.resolve()))
        tokenizer = AutoTokenizer.from_pretrained(**source)
        if pre_tokenizer(file) in SINGLE_DIGITS:
            tokenizer.backend_tokenizer.pre_tokenizer = Sequence(
                [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
            )
        loaded, info = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, output_loading_info=True)
        if info["missing_keys"]:
            raise ValueError(f"{len(info['missing_keys'])} of its weights are missing")
        config = loaded.config
        del config.quantization_config  # the loaded model counts as quantized, and refuses to be saved
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        model.load_state_dict(loaded.state_dict(), assign=True)
        model.tie_weights()
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    except Exception as error:  # each architecture and each damage of a file fails in its own way
        if isinstance(error, MemoryError) or "No space left" in str(error):
            raise
        raise ICFTError(
            f"model {name!r}: {file.name} cannot be converted ({short_reason(error)}); use a complete GGUF file of an "
            f"architecture that transformers loads, or the original model, with model.safetensors"
        ) from error
    seconds = time.perf_counter() - start
    progress(name, f"converted to {weight_bytes(folder) / 1e6:,.0f} MB of safetensors in {seconds:.0f} s")


def pre_tokenizer(file: Path) -> str:
    """Return how a GGUF file says that its tokenizer splits text, "" if it does not."""
    from gguf import GGUFReader

    field = GGUFReader(file).get_field("tokenizer.ggml.pre")
    return field.contents() if field else ""


def is_complete(folder: Path) -> bool:
    """Return True if a folder holds a whole conversion, by the sizes of its files."""
    record = read_record(folder)
    return record.get("format") == FORMAT and record["bytes"] == weight_bytes(folder)


def read_record(folder: Path) -> dict[str, Any]:
    """Return conversion.json of a folder, {} if it has none."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def weight_bytes(folder: Path) -> int:
    """Return the size of the weight files in a folder."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def tensors_hash(folder: Path) -> str:
    """Return the SHA-256 hash of names, shapes, types and bytes of all tensors in a folder, in the order of names.

    The division into files and their metadata do not matter. It is the same on every machine.
    """
    digest, files = hashlib.sha256(), dict[str, Any]()
    for path in folder.glob("*.safetensors"):
        file = safe_open(path, framework="numpy")
        files |= dict.fromkeys(file.keys(), file)
    for name in sorted(files):
        tensor = files[name].get_tensor(name)
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.astype(tensor.dtype.newbyteorder("<"), order="C", copy=False).tobytes())
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """Return the SHA-256 hash of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def progress(name: str, text: str) -> None:
    """Show what is done, which may take minutes, on stderr."""
    print(f"{name}: {text}", file=sys.stderr, flush=True)
