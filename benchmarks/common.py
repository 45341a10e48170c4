"""What every benchmark shares: flags, a quiet and offline environment, base models, alternation, tables."""

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
"""No benchmark calls anyone: TRL would otherwise report each trainer it builds."""

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
"""Real configurations, to be filled with random weights; `small` is for the smoke tests."""

CLOCK = [time.perf_counter]
"""The last is the clock in use."""


def parser(text):
    """An argument parser with the flags that all benchmarks take."""
    parse = argparse.ArgumentParser(description=text.strip().splitlines()[0])
    parse.add_argument(
        "--model", default="qwen2.5-0.5b", help=f"{', '.join(SHAPES)} (random weights), tiny, or a folder or Hub name"
    )
    parse.add_argument("--layers", type=int, default=4, help="layers of a shape; 24 is all of Qwen2.5-0.5B")
    parse.add_argument("--device", choices=("cpu", "cuda"), help="default: cuda if there is one")
    parse.add_argument("--dtype", choices=("fp32", "bf16", "fp16"), help="default: what suits the device")
    parse.add_argument("--no-4bit", action="store_true", help="hold the base as it is, not in NF4")
    parse.add_argument("--repeats", type=int, default=5, help="timed rounds, each contestant once in each")
    parse.add_argument("--threads", type=int, default=0, help="CPU threads; default: one for each core allowed")
    parse.add_argument(
        "--cpu-clock",
        action="store_true",
        help="count the CPU's seconds, not the wall's: for one thread on a busy machine",
    )
    parse.add_argument("--json", help="write the results here too")
    parse.add_argument("--quick", action="store_true", help="seconds long: shows that it works, times mean nothing")
    return parse


def start(args):
    """Set device, dtype and threads as the flags say. To be called before anything imports torch."""
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
    """A folder or name that `load_base` takes. A shape is filled with random weights, once, under `folder`."""
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


def workplace():
    """A temporary folder as a context manager."""
    return tempfile.TemporaryDirectory(prefix="icft-bench-")


def now(device="cpu"):
    """Seconds on a clock, once the device has done all it was given."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
    return CLOCK[-1]()


def alternate(contestants, repeats, warm_up=1):
    """Run contestants in turn, `repeats` times over, each round starting with another one.

    contestants: {name: function of the round's number that returns what it measured}.
    Returns {name: [what it returned]}; the `warm_up` rounds before are left out."""
    names, out = list(contestants), {name: [] for name in contestants}
    for number in range(-warm_up, repeats):
        at = number % len(names)
        for name in names[at:] + names[:at]:
            gc.collect()
            measured = contestants[name](number)
            if number >= 0:
                out[name].append(measured)
    return out


def median(values):
    return statistics.median(values)


def spread(values):
    """Half the range of the middle half, as a share of the median: how far a repeat may be off."""
    if len(values) < 2:
        return 0.0
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2 / statistics.median(values)


def conditions(args):
    """What a reader must know to judge the numbers."""
    import torch

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
        processor=_processor() if args.device == "cpu" else hardware()["name"],
        threads=torch.get_num_threads(),
        clock="cpu" if args.cpu_clock else "wall",
        load=os.getloadavg()[0],
        repeats=args.repeats,
        quick=args.quick,
        python=platform.python_version(),
        versions=versions,
    )


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def show(title, header, rows, notes=()):
    """Print a table; numbers to three significant digits."""
    cells = [header] + [
        [
            "–"
            if cell is None
            else cell
            if isinstance(cell, str)
            else f"{cell:.3g}"
            if abs(cell) < 1000
            else f"{cell:,.0f}"
            for cell in row
        ]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}", flush=True)
    for number, row in enumerate(cells):
        print(
            "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths))
            ).rstrip()
        )
        if number == 0:
            print("  ".join("-" * width for width in widths))
    for note in notes:
        print(f"  {note}")


def finish(args, result):
    """Print the result as JSON on one line, and write it where `--json` says."""
    print("\n" + json.dumps(result))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
