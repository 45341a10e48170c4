"""Time and peak memory of a training step, for each token that is no padding: ICFT beside the field.

    python benchmarks/step.py                    Qwen2.5-0.5B's shape with 4 layers; --layers 24 for all
    python benchmarks/step.py --model tiny       the embedded base
    python benchmarks/step.py --device cuda --dtype bf16 --layers 24 --model qwen2.5-1.5b

Contestants alternate in one process, each on its own copy of the model; every round is other rows, the same for all.
Peak memory is measured in a fresh process for each.
"""

import argparse
import importlib.util
import json
import subprocess
import sys

from common import alternate, build_base, conditions, finish, median, parser, show, spread, start, workplace

TARGETS = (
    ("time a token", "icft", "trainer", {4: 0.7, 24: 0.95}),
    ("time a token", "icft", "trl_best", 1.0),
    ("time a token", "icft", "icft_off", 1.05),
    ("time a token", "icft_kl", "icft_off", 1.05),
    ("peak a token", "icft", "trainer", 0.25),
    ("peak a token", "icft", "trl_best", 1.0),
    ("peak", "icft", "trainer", 0.25),
    ("peak", "icft", "trl_best", 1.0),
)
"""(what, one, over another, at most)."""


def main():
    args = flags()
    start(args)
    if args.memory_of:
        print(json.dumps(peak(args)))
        return
    from contestants import NAMES, PARITY

    names = [
        name
        for name in (args.only.split(",") if args.only else NAMES)
        if importlib.util.find_spec("trl") or not name.startswith("trl")
    ]
    with workplace() as folder:
        base = build_base(args, folder)
        result = dict(benchmark="step", conditions=conditions(args), **measure(args, base, folder, names))
        result["parity"] = parity(result.pop("gradients"), PARITY)
        report(result, NAMES)
        if not args.no_memory:
            for name in names:
                result["contestants"][name]["memory"] = child(args, base, name)
            report_memory(result, NAMES)
    result["ratios"] = ratios(result["contestants"], args)
    report_ratios(result["ratios"])
    finish(args, result)


def flags():
    parse = parser(__doc__)
    parse.add_argument("--rows", type=int, default=16, help="rows of sequence in a step")
    parse.add_argument("--steps", type=int, help="steps a round; default 1, tiny 8")
    parse.add_argument("--only", help="contestants, by comma: " + "icft,icft_replay,icft_off,qlora,trainer,…")
    parse.add_argument("--no-memory", action="store_true", help="time only")
    parse.add_argument("--memory-of", help=argparse.SUPPRESS)  # what the benchmark starts itself with
    args = parse.parse_args()
    args.steps = args.steps or (8 if args.model == "tiny" else 1)
    return args


def rounds(args, vocab):
    """(icft, plain): for each round a list of steps, each a list of Items."""
    from workload import make_steps

    icft, plain = make_steps(vocab, args.repeats * args.steps, args.rows)
    return [[steps[i : i + args.steps] for i in range(0, len(steps), args.steps)] for steps in (icft, plain)]


def vocabulary(base):
    from transformers import AutoConfig

    from icft_lite.modeling.base import TINY

    return AutoConfig.from_pretrained(str(TINY) if base == "tiny" else base).vocab_size


def measure(args, base, folder, names):
    """Times and gradients of all contestants."""
    from contestants import Contestant, rounds_of
    from workload import sizes

    icft, plain = rounds(args, vocabulary(base))
    made = {name: Contestant(name, base, args, icft, plain, folder) for name in names}
    gradients = {name: one.gradient() for name, one in made.items()}
    seconds = alternate({name: one.train for name, one in made.items()}, args.repeats)
    out = {}
    for name, one in made.items():
        mine = [[sizes(step, one.pack) for step in steps] for steps in rounds_of(name, icft, plain)]
        tokens = [sum(step["tokens"] for step in steps) for steps in mine]
        whole = {key: sum(step[key] for steps in mine for step in steps) for key in mine[0][0]}
        a_token = [sum(times) / n for times, n in zip(seconds[name], tokens)]
        out[name] = dict(
            seconds_a_step=median([t for times in seconds[name] for t in times]),
            microseconds_a_token=1e6 * median(a_token),
            rounds=[1e6 * t for t in a_token],
            spread=spread(a_token),
            padding=1 - whole["tokens"] / whole["padded"],
            tokens_a_step=whole["tokens"] / len(mine) / args.steps,
            supervised_a_step=whole["supervised"] / len(mine) / args.steps,
        )
    return dict(contestants=out, gradients=gradients)


def parity(gradients, against):
    """Each one's loss and gradient norm, and how far both are from its peer's: 0 is equal."""
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
    """The targets: [{what, over, limit, value}], time ratios taken round by round."""
    out = []
    for what, one, other, limit in TARGETS:
        limit = limit if isinstance(limit, float) else limit.get(args.layers)
        if args.model == "tiny" and (other == "trainer"):
            limit = None  # the targets are for a full vocabulary
        if not {one, other} <= set(found) or what != "time a token" and "memory" not in found[one]:
            continue
        if what == "time a token":
            value = median([a / b for a, b in zip(found[one]["rounds"], found[other]["rounds"])])
        else:
            key = "above_weights" if what == "peak" else "a_token"
            value = found[one]["memory"][key] / found[other]["memory"][key]
        out.append(dict(what=what, one=one, over=other, at_most=limit, value=value))
    return out


def child(args, base, name):
    """Peak memory of one contestant, measured in a process of its own."""
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
        "--rows",
        str(args.rows),
        "--steps",
        str(args.steps),
        "--threads",
        str(args.threads),
    ] + ["--no-4bit"] * args.no_4bit
    if args.device == "cuda":
        line += ["--dtype", {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[args.dtype]]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: its memory could not be measured\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peak(args):
    """Bytes above the weights at the worst moment of training on the round with the most padded tokens."""
    import memory
    from contestants import Contestant, rounds_of
    from workload import sizes

    icft, plain = rounds(args, vocabulary(args.model))
    worst = max(range(len(icft)), key=lambda i: max(sizes(step, pack=False)["padded"] for step in icft[i]))
    name, where = args.memory_of, workplace()
    with where as folder:
        one = Contestant(name, args.model, args, icft[worst : worst + 1], plain[worst : worst + 1], folder)
        before = memory.begin(args.device)
        one.train(0)
        above = memory.peak(args.device) - before
    steps = rounds_of(name, icft, plain)[worst]
    tokens = max(sizes(step)["tokens"] for step in steps)
    return dict(above_weights=above, before=before, tokens=tokens, a_token=above / tokens)


def report(result, names):
    """Print times and parity."""
    show(
        "A training step",
        ["contestant", "s", "µs/token", "± %", "tokens", "supervised", "padding %"],
        [
            [
                names[name],
                one["seconds_a_step"],
                one["microseconds_a_token"],
                100 * one["spread"],
                one["tokens_a_step"],
                one["supervised_a_step"],
                100 * one["padding"],
            ]
            for name, one in result["contestants"].items()
        ],
        [
            "tokens: without padding; ±: half the middle half of the rounds",
            "TRL: checkpointing on as shipped, off at its best; its loss is chunked; without Triton it scores every",
            "position; computing and adapters in fp32 on a CPU, where its default of bf16 is many times slower",
        ],
    )
    show(
        "Do they do the same work?",
        ["contestant", "loss", "gradient norm", "loss off by", "gradient off by", "from"],
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
    """Print the peaks."""
    show(
        "Peak memory above the weights, at the longest of the steps",
        ["contestant", "MiB", "KiB/token"],
        [
            [names[name], one["memory"]["above_weights"] / 2**20, one["memory"]["a_token"] / 2**10]
            for name, one in result["contestants"].items()
        ],
    )


def report_ratios(found):
    """Print the targets."""
    show(
        "Targets",
        ["what", "value", "at most", "met"],
        [
            [
                f"{one['what']}, {one['one']} ÷ {one['over']}",
                one["value"],
                one["at_most"],
                "–" if one["at_most"] is None else "yes" if one["value"] <= one["at_most"] else "NO",
            ]
            for one in found
        ],
    )


if __name__ == "__main__":
    main()
