"""Finished runs: load them, export them, evaluate them."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icft_lite.compat import renamed_keywords
from icft_lite.config import ICFTConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.data.chat_suite import chat_suite
from icft_lite.data.overlap import SEEN_FILE
from icft_lite.data.schema import Examples
from icft_lite.data.tables import iter_examples
from icft_lite.errors import ICFTError, short_reason, warn
from icft_lite.evaluation import Suite, evaluate_suite
from icft_lite.modeling.base import dequantize_base, load_base, load_tokenizer, model_fingerprint, tokenizer_fingerprint
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.self_check import check_model
from icft_lite.report_file import read_report
from icft_lite.reporting.model_card import model_card
from icft_lite.training.suites import compare_with_base, score_chat_parts
from icft_lite.utils.cache import reply_cache
from icft_lite.utils.config_parsing import flatten
from icft_lite.utils.io import to_plain, write_text


@renamed_keywords(four_bit="load_in_4bit", unpack="dequantize")
def load_run(
    folder: Path | str, adapter: str = "adapter", load_in_4bit: bool | None = None, dequantize: bool = False
) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """Load a finished run: return (model with its adapter, tokenizer).

    adapter: name of the adapter's folder in `folder`: `adapter` (slow), `adapter_fast`, or that of a stage.
    load_in_4bit: default: as in training. dequantize: write the weights of a 4-bit base in full, with the values that
    4-bit layers compute with. The tokenizer's `model_max_length` is the `max_length` of training. Raises ICFTError if
    `folder` has no finished run, or the base or its tokenizer has changed since training.
    """
    folder = Path(folder)
    report = check_run(folder, adapter)
    settings = report["config"]
    if load_in_4bit is None:
        load_in_4bit = settings["adapter"]["load_in_4bit"]
    model, tokenizer = load_base(report["base"], load_in_4bit)
    tokenizer.model_max_length = settings["encoding"]["max_length"]
    if dequantize:
        model = dequantize_base(model)
    return PeftModel.from_pretrained(model, str(folder / adapter)), tokenizer


def check_run(folder: Path, adapter: str = "adapter") -> dict[str, Any]:
    """Return the report of a finished run, without loading its base.

    Raises ICFTError if `folder` has no finished run, or the base or its tokenizer has changed since training.
    """
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / adapter / name).exists():
            raise ICFTError(
                _several_runs(folder)
                or f"{folder}: has no finished run ({adapter}/{name} is missing); "
                f"give the --out folder of `icft-lite train`"
            )
    try:
        with safe_open(folder / adapter / "adapter_model.safetensors", framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise ICFTError(
            f"{folder / adapter}: its weights cannot be read ({short_reason(error)}); "
            f"restore adapter_model.safetensors, or train again in another folder"
        ) from None
    report = _complete_report(folder)
    found, recorded = model_fingerprint(report["base"]), report.get("base_hash") or ""
    if recorded and not found:
        raise ICFTError(
            f"{folder}: its base {report['base']} is not found from {Path.cwd()}; run the command in the folder where "
            f"the run was started, or put the base there"
        )
    if recorded and found != recorded:  # some runs of earlier versions have no hash
        raise ICFTError(
            f"{folder}: it was trained on another base: the run records the hash {recorded[:12]}…, that of "
            f"{report['base']} is {found[:12]}…; restore the base of the training, or train again"
        )
    recorded = report.get("tokenizer_hash") or ""
    if recorded and tokenizer_fingerprint(report["base"]) != recorded:
        raise ICFTError(
            f"{folder}: the tokenizer or the chat template of {report['base']} has changed since training, and with it "
            f"the tokens of every example; restore the files of the base, or train again"
        )
    return report


def _several_runs(folder: Path) -> str:
    """Return what to give in place of a folder of `icft-lite compare` or `demo`; "" if it is none."""
    runs = sorted(path.parent for path in folder.glob("*/report.json")) if (folder / "comparison.json").exists() else []
    return f"{folder}: has {len(runs)} runs; give one of them, such as {runs[0]}" if runs else ""


def _complete_report(folder: Path) -> dict[str, Any]:
    """Return the report of a run. Raises ICFTError if it does not say how to load the run."""
    report = read_report(folder)
    if missing := [name for name in ("base", "config") if name not in report]:
        raise ICFTError(f"{folder / 'report.json'}: has no {missing[0]!r}; restore the file, or train again elsewhere")
    return report


def export(folder: Path | str, to: Path | str, merge: bool = False) -> Path:
    """Copy a run's adapter to the folder `to`, or (merge=True) write full weights with the adapter merged in.

    An adapter trained on a 4-bit base is merged into the dequantized weights, because training has fitted it to their
    rounding errors; the original weights of the base do not match it. The result is not quantized again, because that
    would lose much of the adapter. Returns `to`. Raises ICFTError if `to` is not empty or `folder` has no finished run.
    """
    folder, to = Path(folder), Path(to).absolute()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ICFTError(f"{to}: is not empty; give a new folder")
    to.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{to.name}.", suffix=".part", dir=to.parent) as temporary:
        written = Path(temporary) / to.name
        _write_export(folder, written, merge)
        if to.exists():
            to.rmdir()
        written.replace(to)
    return to


def _write_export(folder: Path, to: Path, merge: bool) -> None:
    """Write what `export` writes to a new folder."""
    if merge:
        model, _ = load_run(folder, dequantize=True)
        merged = model.merge_and_unload()
        merged.config.use_cache = True  # `load_base` turns it off, for training
        merged.save_pretrained(to)
        # Not load_run's tokenizer: its model_max_length is that of training.
        report = read_report(folder)
        load_tokenizer(report["base"]).save_pretrained(to)
        write_text(to / "README.md", model_card(report, merged=True))
    else:
        check_run(folder)  # raises ICFTError if there is nothing to export
        shutil.copytree(folder / "adapter", to)
    if (seen := folder / SEEN_FILE).is_file():  # so that `evaluate` leaves out what the run has seen
        shutil.copy(seen, to)


def load_run_or_base(
    name: Path | str, settings: Mapping[str, Any] | None = None
) -> tuple[ICFTConfig, PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """Load a finished run, or any model that `load_base` accepts: return (its settings, model, tokenizer).

    settings: of ICFTConfig by dotted name, in place of those of the run, or of the defaults. Raises ICFTError if the
    run is not finished, or the model cannot be loaded.
    """
    run = Path(name)
    if (run / "report.json").exists():
        config = ICFTConfig.from_dict({**flatten(_complete_report(run)["config"]), **(settings or {})})
        return config, *load_run(run, load_in_4bit=config.adapter.load_in_4bit)
    if (run / "run.json").exists():
        raise ICFTError(f"{name}: this run is not finished (report.json is missing); resume it with `icft-lite train`")
    if text := _several_runs(run):
        raise ICFTError(text)
    config = ICFTConfig.from_dict({"model": str(name), **(settings or {})})
    return config, *load_base(str(name), config.adapter.load_in_4bit)


def _make_encoder(
    config: ICFTConfig, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase
) -> Encoder:
    limits = config.encoding
    shared = check_model(model, tokenizer, limits.max_length).shared_prompts
    return Encoder(tokenizer, limits.max_length, limits.letter_options, shared and limits.share_prompts)


def evaluate_run(
    folder: Path | str,
    data: DataBundle | Examples,
    settings: Mapping[str, Any] | None = None,
    progress: bool = False,
) -> dict[str, dict[str, dict[str, Any]]]:
    """Score a finished run, or any model that `load_base` accepts, on the tests of a DataBundle or on examples.

    settings: of ICFTConfig by dotted name, in place of those of the run (of another model: the defaults), such as
    `encoding.max_length`, `adapter.load_in_4bit` and `metric`. progress: show a progress bar. Examples that do not fit
    `max_length` are left out, with a warning.

    Returns {suite: {task: {"metric", "value", "n", …}}} with the suites `general` and `medical`; examples are in that
    of their `domain`. Raises ICFTError if
    the model cannot be loaded, or no example fits.
    """
    config, model, tokenizer = load_run_or_base(folder, settings)
    encoder = _make_encoder(config, model, tokenizer)
    given: dict[str, Any]
    if isinstance(data, DataBundle):
        given = {"general": data.general_test, "medical": data.test}
    else:
        given = {"general": [], "medical": []}
        for example in iter_examples(data):
            given["general" if example["domain"] == "general" else "medical"].append(example)
    suites = {
        name: Suite.from_examples(examples, encoder)
        for name, examples in given.items()
        if examples is not None and len(examples)
    }
    problem = f"do not fit max_length = {encoder.max_length} tokens; raise --max-length (encoding.max_length)"
    if not any(suite.examples for suite in suites.values()):
        count = sum(suite.left_out for suite in suites.values())
        raise ICFTError(f"{folder}: nothing can be evaluated: all {count} examples {problem}")
    for name, suite in suites.items():
        if suite.left_out:
            warn(f"{suite.left_out} of {suite.left_out + len(suite.examples)} {name} examples {problem}: left out")
    return evaluate_suite(model, tokenizer, suites, encoder=encoder, metric=config.metric, progress=progress)


def evaluate_replies(
    folder: Path | str, settings: Mapping[str, Any] | None = None, limit: int | None = None, progress: bool = False
) -> dict[str, Any]:
    """Let a finished run and its base reply to the chat suite, and score what fine-tuning changed.

    folder: a run, or any model that `load_base` accepts, which is scored alone. settings: of ICFTConfig by dotted name,
    in place of those of the run. limit: at most so many free questions and instructions each, as many of each topic;
    default: all 400 and 210. progress: show progress bars. Greedy replies, at most 64 tokens each.

    Returns what `compare_with_base` returns: {scores: {before: ChatScores of the base, after: of the run}, retention,
    display, replies}. Of a model that is no run it has only scores, with its replies in `before`, and display. Raises
    ICFTError if the model cannot be loaded.
    """
    config, model, tokenizer = load_run_or_base(folder, settings)
    encoder = _make_encoder(config, model, tokenizer)
    suite = DataBundle(chat={part: chat_suite(part) for part in ("test", "display")}).limited(test=limit).chat
    parts = score_chat_parts(suite, list(suite), model, tokenizer, encoder, progress, reply_cache())
    if isinstance(model, PeftModel):
        return compare_with_base(parts, model, tokenizer, encoder, progress, "default")
    shown = [dict(prompt=item.prompt, base=parts["display"].base_replies[item.id]) for item in suite["display"]]
    return to_plain(dict(scores={"before": parts["test"].base}, display=shown))
