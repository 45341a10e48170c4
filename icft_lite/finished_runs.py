"""Finished runs: load them, export them, evaluate them."""

import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from icft_lite.compat import read_report, renamed_keywords
from icft_lite.data.bundle import DataBundle
from icft_lite.data.schema import Examples
from icft_lite.errors import ICFTError
from icft_lite.evaluation import evaluate_suite
from icft_lite.modeling.base import dequantize_base, load_base, load_tokenizer
from icft_lite.modeling.encoding import Encoder


@renamed_keywords(four_bit="load_in_4bit", unpack="dequantize")
def load_run(
    folder: Path | str, adapter: str = "adapter", load_in_4bit: bool | None = None, dequantize: bool = False
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load a finished run: return (model with its adapter, tokenizer).

    adapter: name of the adapter's folder in `folder`: `adapter` (slow), `adapter_fast`, or that of a stage.
    load_in_4bit: default: as in training. dequantize: write the weights of a 4-bit base in full, with the values that
    4-bit layers compute with. The tokenizer's `model_max_length` is the `max_length` of training. Raises ICFTError if
    `folder` has no finished run.
    """
    folder = Path(folder)
    if not (folder / adapter / "adapter_config.json").exists():
        raise ICFTError(
            f"{folder}: has no finished run ({adapter}/adapter_config.json is missing); "
            f"give the --out folder of `icft-lite train`"
        )
    report = read_report(folder)
    settings = report["config"]
    if load_in_4bit is None:
        load_in_4bit = settings["adapter"]["load_in_4bit"]
    model, tokenizer = load_base(report["base"], load_in_4bit)
    tokenizer.model_max_length = settings["encoding"]["max_length"]
    if dequantize:
        model = dequantize_base(model)
    return PeftModel.from_pretrained(model, str(folder / adapter)), tokenizer


def export(folder: Path | str, to: Path | str, merge: bool = False) -> Path:
    """Copy a run's adapter to the folder `to`, or (merge=True) write full weights with the adapter merged in.

    An adapter trained on a 4-bit base is merged into the dequantized weights, because training has fitted it to their
    rounding errors; the original weights of the base do not match it. The result is not quantized again, because that
    would lose much of the adapter. Returns `to`. Raises ICFTError if `to` is not empty or `folder` has no finished run.
    """
    folder, to = Path(folder), Path(to)
    if to.exists() and any(to.iterdir()):
        raise ICFTError(f"{to}: is not empty; give a new folder")
    temporary = to.with_name(to.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    if merge:
        model, _ = load_run(folder, dequantize=True)
        model.merge_and_unload().save_pretrained(temporary)
        # Not load_run's tokenizer: its model_max_length is that of training.
        load_tokenizer(read_report(folder)["base"]).save_pretrained(temporary)
    else:
        load_run(folder)  # raises ICFTError if there is nothing to export
        shutil.copytree(folder / "adapter", temporary)
    if to.exists():
        to.rmdir()
    temporary.replace(to)
    return to


def evaluate_run(folder: Path | str, data: DataBundle | Examples) -> dict[str, dict[str, dict[str, Any]]]:
    """Score a finished run, or any model that `load_base` accepts, on the tests of a DataBundle or on examples.

    Returns {suite: {task: {"metric", "value", "n", …}}} with the suites `general` and `medical`. Raises
    ICFTError if the model cannot be loaded.
    """
    if (Path(folder) / "report.json").exists():
        model, tokenizer = load_run(folder)
        encoding = read_report(Path(folder))["config"]["encoding"]
        encoder = Encoder(tokenizer, encoding["max_length"], encoding["letter_options"], encoding["share_prompts"])
    elif (Path(folder) / "run.json").exists():
        raise ICFTError(
            f"{folder}: this run is not finished (report.json is missing); resume it with `icft-lite train`"
        )
    else:
        model, tokenizer = load_base(str(folder))
        encoder = Encoder(tokenizer)
    suites = {"general": getattr(data, "general_test", None), "medical": getattr(data, "test", data)}
    return evaluate_suite(model, tokenizer, suites, encoder=encoder)
