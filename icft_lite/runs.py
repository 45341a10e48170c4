"""What one does with a finished run: load it, or write it out for others."""

import json
import shutil
from pathlib import Path

from peft import PeftModel

from icft_lite.errors import ICFTError
from icft_lite.evaluation import evaluate_suite
from icft_lite.modeling.base import dequantize_base, load_base, load_tokenizer
from icft_lite.modeling.encoding import Encoder


def load_run(folder, adapter="adapter", four_bit=None, unpack=False):
    """A finished run: (model with its adapter, tokenizer). four_bit: as the run had it, unless given.
    unpack: write a 4-bit base out in plain numbers, the same that it computes with.

    The tokenizer's `model_max_length` is the run's `max_length`: what it was trained on.
    Raises ICFTError if `folder` holds no finished run."""
    folder = Path(folder)
    if not (folder / adapter / "adapter_config.json").exists():
        raise ICFTError(
            f"{folder}: holds no finished run ({adapter}/adapter_config.json is missing); "
            f"give the --out folder of `icft-lite train`"
        )
    report = json.loads((folder / "report.json").read_text())
    model, tokenizer = load_base(report["base"], report["config"]["four_bit"] if four_bit is None else four_bit)
    tokenizer.model_max_length = report["config"]["max_length"]
    if unpack:
        model = dequantize_base(model)
    return PeftModel.from_pretrained(model, str(folder / adapter)), tokenizer


def export(folder, to, merge=False):
    """Copy a run's adapter to `to`, or (merge=True) write whole weights with the adapter merged in.

    An adapter trained on 4-bit weights is merged into the numbers that those stand for: it has learned to make
    up for their rounding, so the base's own weights do not suit it, and rounding the sum again loses much of it."""
    to = Path(to)
    if to.exists() and any(to.iterdir()):
        raise ICFTError(f"{to}: is not empty; give a new folder")
    beside = to.with_name(to.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    if merge:
        model, _ = load_run(folder, unpack=True)
        model.merge_and_unload().save_pretrained(beside)
        load_tokenizer(json.loads((Path(folder) / "report.json").read_text())["base"]).save_pretrained(beside)
    else:
        load_run(folder)  # fails with one clear line if there is nothing to export
        shutil.copytree(Path(folder) / "adapter", beside)
    if to.exists():
        to.rmdir()
    beside.replace(to)
    return to


def evaluate_run(folder, data):
    """Score a finished run, or any model `load_base` takes, on a DataBundle or a Dataset.

    Returns {suite: {task: {"metric", "value", "n", …}}}; suites `general` and `medical`."""
    if (Path(folder) / "report.json").exists():
        report = json.loads((Path(folder) / "report.json").read_text())
        model, tokenizer = load_run(folder, four_bit=report["config"]["four_bit"])
        encoder = Encoder(
            tokenizer, *(report["config"][name] for name in ("max_length", "letter_options", "share_prompts"))
        )
    else:
        model, tokenizer = load_base(str(folder))
        encoder = Encoder(tokenizer)
    whole = {"general": getattr(data, "general_test", None), "medical": getattr(data, "test", data)}
    return evaluate_suite(model, tokenizer, whole, encoder=encoder)
