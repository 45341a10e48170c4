"""Time and peak memory of a training step per non-padding token, ICFT compared with other trainers.

    python benchmarks/step.py                    Qwen2.5-0.5B's shape with 4 layers; --layers 24 for the whole model
    python benchmarks/step.py --model tiny       the embedded base
    python benchmarks/step.py --device cuda --dtype bf16 --layers 24 --model qwen2.5-1.5b

The implementations run in turn in one process, each on its own copy of the model. Every round has other examples, the
same for all. Peak memory is measured in a new process for each implementation.
"""

import argparse
import importlib.util
import json
import subprocess
import sys

from common import alternate, build_base, conditions, finish, median, parser, show, spread, start, temporary_folder

GOALS = (
    ("time per token", "icft", "trainer", {4: 0.7, 24: 0.95}),
    ("time per token", "icft", "trl_best", 1.0),
    ("time per token", "icft", "icft_off", 1.05),
    ("time per token", "icft_kl", "icft_off", 1.05),
    ("peak per token", "icft", "trainer", 0.25),
    ("peak per token", "icft", "trl_best", 1.0),
    ("peak", "icft", "trainer", 0.25),
    ("peak", "icft", "trl_best", 1.0),
)
"""Design goals: (quantity, implementation, other implementation, largest ratio; by number of layers where it is a
dict)."""


def main():
    args = flags()
    start(args)
    if args.memory_of:
        print(json.dumps(peak(args)))
        return
    from implementations import NAMES, PARITY

    names = [
        name
        for name in (args.only.split(",") if args.only else NAMES)
        if importlib.util.find_spec("trl") or not name.startswith("trl")
    ]
    with temporary_folder() as folder:
        base = build_base(args, folder)
        result = dict(benchmark="step", conditions=conditions(args), **measure(args, base, folder, names))
        result["parity"] = parity(result.pop("gradients"), PARITY)
        report(result, NAMES)
        if not args.no_memory:
            for name in names:
                result["implementations"][name]["memory"] = child(args, base, name)
            report_memory(result, NAMES)
    result["ratios"] = ratios(result["implementations"], args)
    report_ratios(result["ratios"])
    finish(args, result)


def flags():
    parse = parser(__doc__)
    parse.add_argument("--batch-size", type=int, default=16, help="sequences per step")
    parse.add_argument("--steps", type=int, help="steps per round; default 1, for tiny 8")
    parse.add_argument("--only", help="implementations, separated by commas: icft,icft_replay,icft_off,qlora,trainer,…")
    parse.add_argument("--no-memory", action="store_true", help="measure time only")
    parse.add_argument("--memory-of", help=argparse.SUPPRESS)  # for the process that the benchmark starts
    args = parse.parse_args()
    args.steps = args.steps or (8 if args.model == "tiny" else 1)
    return args


def rounds(args, vocab):
    """Return (icft, plain): for each round a list of steps, each a list of TrainingItems."""
    from workload import make_steps

    icft, plain = make_steps(vocab, args.repeats * args.steps, args.batch_size)
    return [[steps[i : i + args.steps] for i in range(0, len(steps), args.steps)] for steps in (icft, plain)]


def vocabulary(base):
    """Return the size of a model's vocabulary."""
    from transformers import AutoConfig

    from icft_lite.modeling.base import TINY

    return AutoConfig.from_pretrained(str(TINY) if base == "tiny" else base).vocab_size


def measure(args, base, folder, names):
    """Return the times and gradients of all implementations."""
    from implementations import Implementation, rounds_of
    from workload import sizes

    icft, plain = rounds(args, vocabulary(base))
    made = {name: Implementation(name, base, args, icft, plain, folder) for name in names}
    gradients = {name: one.gradient() for name, one in made.items()}
    seconds = alternate({name: one.train for name, one in made.items()}, args.repeats)
    out = {}
    for name, one in made.items():
        mine = [[sizes(step, one.packing) for step in steps] for steps in rounds_of(name, icft, plain)]
        tokens = [sum(step["tokens"] for step in steps) for steps in mine]
        whole = {key: sum(step[key] for steps in mine for step in steps) for key in mine[0][0]}
        per_token = [sum(times) / n for times, n in zip(seconds[name], tokens, strict=True)]
        out[name] = dict(
            seconds_per_step=median([t for times in seconds[name] for t in times]),
            microseconds_per_token=1e6 * median(per_token),
            rounds=[1e6 * t for t in per_token],
            spread=spread(per_token),
            padding=1 - whole["tokens"] / whole["padded"],
            tokens_per_step=whole["tokens"] / len(mine) / args.steps,
            supervised_per_step=whole["supervised"] / len(mine) / args.steps,
        )
    return dict(implementations=out, gradients=gradients)


def parity(gradients, against):
    """Return the loss and gradient norm of each implementation, and the relative errors against its peer."""
    out = {}
    for name, (loss, gradient) in gradients.items():
        out[name] = dict(loss=loss, gradient_norm=float(gradient.norm()))
        if against.get(name) in gradients:
            other_loss, other = gradients[against[name]]
            out[name].update(
                against=against[name],
                loss_error=abs(loss - other_loss) / abs(other_loss),
                gradient_error=float((gradient - other).norm() / other.norm()),
            )
    return out


def ratios(found, args):
    """Return [{quantity, one, over, at_most, value}] for GOALS. Time ratios are medians over the rounds."""
    out = []
    for quantity, one, other, limit in GOALS:
        limit = limit if isinstance(limit, float) else limit.get(args.layers)
        if args.model == "tiny" and (other == "trainer"):
            limit = None  # the goals are for a full vocabulary
        if not {one, other} <= set(found) or (quantity != "time per token" and "memory" not in found[one]):
            continue
        if quantity == "time per token":
            rounds = zip(found[one]["rounds"], found[other]["rounds"], strict=True)
            value = median([a / b for a, b in rounds])
        else:
            key = "above_weights" if quantity == "peak" else "per_token"
            value = found[one]["memory"][key] / found[other]["memory"][key]
        out.append(dict(quantity=quantity, one=one, over=other, at_most=limit, value=value))
    return out


def child(args, base, name):
    """Return the peak memory of one implementation, measured in a process of its own."""
    line = [
        sys.executable,
        __file__,
        "--memory-of",
        name,
        "--model",
        base,
        "--device",
        args.device,
        "--repeats",
        str(args.repeats),
        "--batch-size",
        str(args.batch_size),
        "--steps",
        str(args.steps),
        "--threads",
        str(args.threads),
    ] + ["--no-4bit"] * args.no_4bit
    if args.device == "cuda":
        line += ["--dtype", {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[args.dtype]]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: the memory could not be measured\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak(args):
    """Return the peak above the weights of training on the round with the most padded tokens, in bytes."""
    import memory
    from implementations import Implementation, rounds_of
    from workload import sizes

    icft, plain = rounds(args, vocabulary(args.model))
    worst = max(range(len(icft)), key=lambda i: max(sizes(step, packing=False)["padded"] for step in icft[i]))
    name = args.memory_of
    with temporary_folder() as folder:
        one = Implementation(name, args.model, args, icft[worst : worst + 1], plain[worst : worst + 1], folder)
        before = memory.begin(args.device)
        one.train(0)
        above = memory.peak(args.device) - before
    steps = rounds_of(name, icft, plain)[worst]
    tokens = max(sizes(step)["tokens"] for step in steps)
    return dict(above_weights=above, before=before, tokens=tokens, per_token=above / tokens)


def report(result, names):
    """Print times and agreement."""
    show(
        "A training step",
        ["implementation", "s", "µs/token", "± %", "tokens", "supervised", "padding %"],
        [
            [
                names[name],
                one["seconds_per_step"],
                one["microseconds_per_token"],
                100 * one["spread"],
                one["tokens_per_step"],
                one["supervised_per_step"],
                100 * one["padding"],
            ]
            for name, one in result["implementations"].items()
        ],
        [
            "tokens: without padding; ±: half the interquartile range of the rounds",
            "TRL: activation checkpointing on as shipped, off in its best setting. Its loss is chunked; without Triton",
            "it computes logits at every position. Compute and adapters in fp32 on a CPU, since bf16 is far slower",
        ],
    )
    show(
        "Agreement of loss and gradient",
        ["implementation", "loss", "gradient norm", "loss error", "gradient error", "compared with"],
        [
            [
                names[name],
                one["loss"],
                one["gradient_norm"],
                one.get("loss_error"),
                one.get("gradient_error"),
                one.get("against", "–"),
            ]
            for name, one in result["parity"].items()
        ],
    )


def report_memory(result, names):
    """Print the peaks of memory."""
    show(
        "Peak memory above the weights, at the longest step",
        ["implementation", "MiB", "KiB/token"],
        [
            [names[name], one["memory"]["above_weights"] / 2**20, one["memory"]["per_token"] / 2**10]
            for name, one in result["implementations"].items()
        ],
    )


def report_ratios(found):
    """Print the ratios and the design goals."""
    show(
        "Design goals",
        ["ratio", "value", "at most", "met"],
        [
            [
                f"{one['quantity']}, {one['one']} ÷ {one['over']}",
                one["value"],
                one["at_most"],
                "–" if one["at_most"] is None else "yes" if one["value"] <= one["at_most"] else "NO",
            ]
            for one in found
        ],
    )


if __name__ == "__main__":
    main()
