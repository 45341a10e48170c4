"""Entries to a capstone: pack a run into one, and read one from somebody who is not trusted.

An entry is data only, a folder or a zip file with

    adapter_model.safetensors     the slow adapter, in PEFT's format
    config.json or config.yaml    the settings of the run, as `--config` takes them
    tokens.json                   the log: {"total": tokens, "stages": [{"steps", "tokens"}, …]}

Nothing in it is executed or unpickled. PEFT's adapter_config.json is not read: the grader builds the adapter from the
base and the rank that the settings name, and every tensor must fit into it.
"""

import json
import shutil
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from icft_lite.config import ICFTConfig
from icft_lite.errors import ICFTError
from icft_lite.grading.capstone import Capstone
from icft_lite.grading.results import clean
from icft_lite.grading.submissions import hash_files, read_folder, read_zip
from icft_lite.report_file import read_report
from icft_lite.utils.config_parsing import flatten
from icft_lite.utils.io import write_json

ADAPTER, LOG = "adapter_model.safetensors", "tokens.json"
CONFIGS = ("config.json", "config.yaml", "config.yml")
IGNORED = ("adapter_config.json", "README.md")
TEXT_BYTES, NAME_LENGTH = 64 * 2**10, 60
"""Largest size of the settings and of the log; longest name of an entry that is shown."""
TOLERANCE = 0.02
"""A run ends with the step that reaches its budget, so it may exceed it by this share."""
FIXED: dict[str, Any] = {"metric": "auto", "topics": (), "encoding.max_length": 512, "encoding.letter_options": False}
"""Settings that decide how questions are read and scored. An entry cannot change them."""
CEILINGS = {"adapter.rank": 64, "optim.batch_size": 64, "long_term.self_prompts": 1000}
"""Largest values of settings that decide the cost of scoring an entry or of training it again."""


@dataclass(frozen=True)
class Entry:
    """One entry that follows the rules, as far as its files show."""

    name: str
    digest: str
    """SHA-256 of all files, hexadecimal."""
    config: ICFTConfig
    tokens: int
    """Tokens of the whole run, as its log says."""
    adapter: bytes
    """Content of the safetensors file."""


def pack_entry(run: Path | str, folder: Path | str) -> Path:
    """Write an entry with the slow adapter of a finished run to a new folder, and return the folder.

    Raises ICFTError if the run is not finished or the folder is not empty.
    """
    run, folder = Path(run), Path(folder)
    report = read_report(run)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ICFTError(f"{folder}: it is not empty; name a new folder for the entry")
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(run / "adapter" / ADAPTER, folder / ADAPTER)
    write_json(folder / "config.json", report["config"])
    stages = [{name: stage[name] for name in ("steps", "tokens")} for stage in report["stages"]]
    write_json(folder / LOG, {"total": report["cost"]["tokens"], "stages": stages})
    return folder


def find_entries(paths: Iterable[Path]) -> list[tuple[str, Path]]:
    """Return (name, path) of each entry: a zip file, a folder with an adapter, or all of these in a folder.

    In a folder of entries, every zip file and every sub-folder is one; hidden ones and other files are not. Raises
    ICFTError if there is none.
    """
    found: list[tuple[str, Path]] = []
    for path in paths:
        if path.suffix == ".zip" or (path / ADAPTER).exists():
            inside = [path]
        else:
            inside = sorted(path.iterdir()) if path.is_dir() else []
            inside = [one for one in inside if one.suffix == ".zip" or one.is_dir() or one.is_symlink()]
        if not (visible := [one for one in inside if not one.name.startswith(".")]):
            raise ICFTError(f"{path}: there is no entry; give folders or zip files with {ADAPTER}")
        found += [(clean(one.name, NAME_LENGTH), one) for one in visible]
    return found


def read_entry(name: str, path: Path, capstone: Capstone) -> Entry:
    """Return an entry. Raises ICFTError with the reason if its files, settings or log break the rules."""
    if path.is_symlink():
        raise ICFTError("it is a symbolic link; submit the files themselves")
    files = read_zip(path) if path.suffix == ".zip" else read_folder(path)
    folders = {one.rpartition("/")[0] for one in files}
    if len(folders) == 1:  # a zip file of a folder
        files = {one.rpartition("/")[2]: content for one, content in files.items()}
    if others := sorted(files.keys() - {ADAPTER, LOG, *CONFIGS, *IGNORED}):
        raise ICFTError(f"it has the file {others[0][:80]!r}; submit {ADAPTER}, config.json and {LOG} only")
    configs = [one for one in CONFIGS if one in files]
    if ADAPTER not in files or LOG not in files or len(configs) != 1:
        raise ICFTError(f"it needs exactly {ADAPTER}, one of {', '.join(CONFIGS)}, and {LOG}")
    for one in (*configs, LOG):
        if len(files[one]) > TEXT_BYTES:
            raise ICFTError(f"{one} has more than {TEXT_BYTES // 2**10} KiB; submit the settings and the log only")
    config = read_config(files[configs[0]], configs[0], capstone)
    return Entry(name, hash_files(files), config, read_log(files[LOG], config, capstone), files[ADAPTER])


class _PlainLoader(yaml.SafeLoader):
    """Reads YAML without aliases, which can describe structures of exponential size."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.YAMLError("aliases are not accepted")
        return super().compose_node(parent, index)


def read_config(content: bytes, file: str, capstone: Capstone) -> ICFTConfig:
    """Return the settings of an entry. Raises ICFTError if they cannot be read, or break the rules."""
    try:
        text = content.decode("utf-8-sig")
        settings = flatten(json.loads(text) if file.endswith(".json") else yaml.load(text, _PlainLoader))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old names
            config = ICFTConfig.from_dict(settings)
    except ICFTError as error:
        raise ICFTError(f"{file}: {error}") from None
    except Exception:  # of a structure that no settings have
        raise ICFTError(f"{file} cannot be read; write settings as `icft-lite train --config` takes them") from None
    if config.model != capstone.base:
        raise ICFTError(f"{file}: the base is {config.model[:80]!r}; this capstone is for {capstone.base!r}")
    values, usual = flatten(config.to_dict()), flatten(capstone.reference_config(0).to_dict())
    fixed = {**FIXED, "adapter.load_in_4bit": usual["adapter.load_in_4bit"]}
    for name, value in fixed.items():
        if (found := tuple(values[name]) if isinstance(value, tuple) else values[name]) != value:
            raise ICFTError(f"{file}: {name} is {found!r}; the protocol fixes {value!r}")
    for name, most in CEILINGS.items():
        if values[name] > most:
            raise ICFTError(f"{file}: {name} is {values[name]}; at most {most} is accepted")
    planned = config.optim.max_tokens
    if planned is None or planned > capstone.max_tokens:
        raise ICFTError(f"{file}: optim.max_tokens is {planned}; the budget is {capstone.max_tokens}")
    return config


def read_log(content: bytes, config: ICFTConfig, capstone: Capstone) -> int:
    """Return the tokens of the run. Raises ICFTError if the log cannot be read or exceeds the budget."""
    try:
        log = json.loads(content)
        stages = [(stage["steps"], stage["tokens"]) for stage in log["stages"]]
        numbers, total = [number for stage in stages for number in stage], log["total"]
        plain = all(type(number) is int and number >= 0 for number in (total, *numbers))
    except (ValueError, RecursionError, KeyError, TypeError):
        plain = False
    if not plain or not stages or total < 1:
        raise ICFTError(f'{LOG} cannot be read; write {{"total": TOKENS, "stages": [{{"steps": N, "tokens": N}}, …]}}')
    if (found := sum(tokens for _, tokens in stages)) != total:
        raise ICFTError(f"{LOG}: its stages have {found} tokens, its total is {total}; submit the log of one run")
    allowed = min(config.optim.max_tokens or 0, capstone.max_tokens) * (1 + TOLERANCE)
    if total > allowed:
        raise ICFTError(f"{LOG}: {total} tokens exceed the budget of {config.optim.max_tokens} in the settings")
    return total


def read_tensors(content: bytes, expected: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the tensors of a safetensors file, fp32. expected: {name: shape}.

    Raises ICFTError if the file cannot be read, names or shapes differ, or a value is not a finite number.
    """
    import torch
    from safetensors.torch import load

    try:
        tensors = load(content)
    except Exception as error:  # safetensors raises errors of several kinds for damaged files
        raise ICFTError(
            f"{ADAPTER} cannot be read ({type(error).__name__}); submit the file that a run wrote"
        ) from None
    if missing := sorted(expected.keys() - tensors.keys()):
        raise ICFTError(f"{ADAPTER}: {len(missing)} tensors are missing, such as {missing[0]}; is it for another base?")
    if unknown := sorted(tensors.keys() - expected.keys()):
        raise ICFTError(f"{ADAPTER}: the adapter of this base has no tensor {unknown[0][:80]!r}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise ICFTError(f"{ADAPTER}: {name} has the shape {tuple(tensors[name].shape)}, expected {shape}")
        if tensors[name].dtype not in (torch.float32, torch.float16, torch.bfloat16):
            raise ICFTError(f"{ADAPTER}: {name} is {tensors[name].dtype}; use float32, float16 or bfloat16")
        if not tensors[name].isfinite().all():
            raise ICFTError(f"{ADAPTER}: {name} has values that are NaN or infinite")
    return {name: tensor.float() for name, tensor in tensors.items()}
