"""Shared by all benchmarks: options, an offline environment, base models, alternating rounds, tables."""

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

QUIET = dict(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    DO_NOT_TRACK="1",
    TOKENIZERS_PARALLELISM="false",
    TRANSFORMERS_VERBOSITY="error",
    HF_DATASETS_DISABLE_PROGRESS_BARS="1",
)
"""Environment without network access or telemetry. TRL otherwise reports each trainer that is created."""

QWEN = dict(
    vocab_size=151936,
    tie_word_embeddings=True,
    max_position_embeddings=32768,
    rms_norm_eps=1e-6,
    rope_parameters=dict(rope_type="default", rope_theta=1e6),
)
SHAPES = {
    "qwen2.5-0.5b": dict(
        QWEN,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
    ),
    "qwen2.5-1.5b": dict(
        QWEN,
        hidden_size=1536,
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
    ),
    "small": dict(
        QWEN,
        vocab_size=4096,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    ),
}
"""Real model configurations that are filled with random weights. `small` is for the smoke tests."""

CLOCK = [time.perf_counter]
"""The last entry is the clock in use."""


def parser(text):
    """Return an argument parser with the options of all benchmarks; the first line of `text` is its description."""
    parse = argparse.ArgumentParser(description=text.strip().splitlines()[0])
    parse.add_argument(
        "--model", default="qwen2.5-0.5b", help=f"{', '.join(SHAPES)} (random weights), tiny, or a folder or Hub name"
    )
    parse.add_argument("--layers", type=int, default=4, help="number of layers; 24 is the whole of Qwen2.5-0.5B")
    parse.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    parse.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="default: depends on the device")
    parse.add_argument("--no-4bit", action="store_true", help="do not quantize the base")
    parse.add_argument("--repeats", type=int, default=5, help="timed rounds; every implementation runs once per round")
    parse.add_argument("--threads", type=int, default=0, help="CPU threads; default: one per available core")
    parse.add_argument(
        "--cpu-clock",
        action="store_true",
        help="measure processor time, not wall time: for one thread on a busy machine",
    )
    parse.add_argument("--json", help="also write the results to this file")
    parse.add_argument(
        "--quick", action="store_true", help="takes seconds: shows that it works, the times mean nothing"
    )
    return parse


def start(args):
    """Set device, dtype and threads as the options say. Call it before anything imports torch."""
    os.environ.update(QUIET)
    if args.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if args.quick:
        args.model, args.layers = ("small", 2) if args.model == "qwen2.5-0.5b" else (args.model, args.layers)
        args.repeats = min(args.repeats, 2)
    CLOCK.append(time.process_time if args.cpu_clock else time.perf_counter)
    import torch

    import icft_lite.modeling.base
    import icft_lite.training.trainer

    torch.set_num_threads(args.threads or len(os.sched_getaffinity(0)))
    hardware = icft_lite.modeling.base.hardware()
    if args.device == "cuda" and hardware["device"] != "cuda":
        sys.exit("--device cuda: this machine has no GPU that torch can use")
    args.device = hardware["device"]
    if args.dtype:
        names = dict(fp32="float32", bf16="bfloat16", fp16="float16")
        hardware["dtype"] = names[args.dtype]
        icft_lite.modeling.base.hardware = icft_lite.training.trainer.hardware = lambda: hardware
    args.dtype = hardware["dtype"]


def build_base(args, folder):
    """Return a folder or name for `load_base`. A shape is filled with random weights, once, in `folder`."""
    if args.model not in SHAPES:
        return args.model
    import torch
    from transformers import AutoModelForCausalLM, Qwen2Config, Qwen3Config
    from transformers.utils import logging

    from icft_lite.modeling.base import load_tokenizer

    logging.disable_progress_bar()
    to = Path(folder) / f"{args.model}-{args.layers}"
    if not to.exists():
        shape = dict(SHAPES[args.model], num_hidden_layers=args.layers)
        kind = Qwen3Config if "head_dim" in shape else Qwen2Config
        torch.manual_seed(0)
        with torch.device(args.device):
            model = AutoModelForCausalLM.from_config(
                kind(**shape, eos_token_id=3, pad_token_id=0, bos_token_id=None), dtype=torch.bfloat16
            )
        model.save_pretrained(to)
        load_tokenizer("tiny").save_pretrained(to)
    return str(to)


def temporary_folder():
    """Return a context manager for a temporary folder."""
    return tempfile.TemporaryDirectory(prefix="icft-bench-")


def now(device="cpu"):
    """Return the seconds on the clock, after the device has finished its work."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return CLOCK[-1]()


def alternate(functions, repeats, warm_up=1):
    """Call functions in turn for `repeats` rounds; each round starts with another one.

    functions: {name: function of the round's number that returns a measurement}.
    Returns {name: [measurement of each round]}; the `warm_up` rounds at the beginning are not included."""
    names, out = list(functions), {name: [] for name in functions}
    for number in range(-warm_up, repeats):
        at = number % len(names)
        for name in names[at:] + names[:at]:
            gc.collect()
            measured = functions[name](number)
            if number >= 0:
                out[name].append(measured)
    return out


def median(values):
    """Return the median."""
    return statistics.median(values)


def spread(values):
    """Return half the interquartile range ÷ the median, 0 for a single value."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2 / statistics.median(values)


def conditions(args):
    """Return the conditions of a measurement: model, processor, threads, clock, load, versions."""
    import torch

    from icft_lite.experiments.conditions import processor
    from icft_lite.utils.hardware import hardware

    versions = {}
    for name in ("icft-lite", "torch", "transformers", "peft", "bitsandbytes", "trl", "lm-eval"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    base = "NF4" if not args.no_4bit else args.dtype
    return dict(
        model=args.model,
        layers=args.layers if args.model in SHAPES else None,
        base=base,
        dtype=args.dtype,
        device=args.device,
        processor=processor() if args.device == "cpu" else hardware()["name"],
        threads=torch.get_num_threads(),
        clock="cpu" if args.cpu_clock else "wall",
        load=os.getloadavg()[0],
        repeats=args.repeats,
        quick=args.quick,
        python=platform.python_version(),
        versions=versions,
    )


def show(title, header, rows, notes=()):
    """Print a table with numbers to three significant digits."""
    cells = [header] + [[_format(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}", flush=True)
    for number, row in enumerate(cells):
        padded = [
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(padded).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
    for note in notes:
        print(f"  {note}")


def _format(cell):
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    return f"{cell:.3g}" if abs(cell) < 1000 else f"{cell:,.0f}"


def finish(args, result):
    """Print the result as one line of JSON, and write it to the file of `--json`."""
    print("\n" + json.dumps(result))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
