"""Utilization of a training step: its time compared with a lower bound from the machine's matrix products.

    python benchmarks/gemm.py            Qwen2.5-0.5B's shape with 4 layers, the base in NF4 and in full precision
    python benchmarks/gemm.py --layers 24

Three numbers: the rate of matrix products on this machine, measured at the sizes that the step uses; the lower bound of
the step, which is its necessary arithmetic ÷ that rate; and the utilization, which is lower bound ÷ measured time.
"""

import argparse
import math

import common
from common import alternate, finish, median, now, show, spread


def main():
    parse = common.parser(__doc__)
    parse.add_argument("--batch-size", type=int, default=16, help="sequences per step")
    args = parse.parse_args()
    common.start(args)
    if args.model not in common.SHAPES:
        parse.error("--model: give one of " + ", ".join(common.SHAPES))
    with common.temporary_folder() as folder:
        result = measure(args, common.build_base(args, folder), folder)
    report(result)
    finish(args, result)


def products(shape, tokens, scored):
    """Return the matrix products of a step, {name: (rows, inner, columns)}; scored: positions with logits."""
    hidden, wide = shape["hidden_size"], shape["intermediate_size"]
    narrow = hidden * shape["num_key_value_heads"] // shape["num_attention_heads"]
    return {
        "query, output": (tokens, hidden, hidden),
        "key, value": (tokens, hidden, narrow),
        "up, gate": (tokens, hidden, wide),
        "down": (tokens, wide, hidden),
        "head": (scored, hidden, shape["vocab_size"]),
        "head, back": (scored, shape["vocab_size"], hidden),
    }


def arithmetic(shape, layers, step, rank=32, temperature=1.0):
    """Return the floating-point operations that a step needs at least, by part, without padding.

    Per weight and token: 2 + 2 for frozen weights (forward, gradient of the input) and 2 + 4 for adapters. The query,
    key and value of the first layer need no gradient of their input, since nothing is trained before them. Attention:
    scores and values, causal, 2 + 4. Head: logits and their gradient, 2 + 2 for each scored token. L_consistency:
    logits of student and teacher and the gradient, 2 + 2 + 2; none at infinite temperature."""
    from workload import sizes

    hidden, wide = shape["hidden_size"], shape["intermediate_size"]
    narrow = hidden * shape["num_key_value_heads"] // shape["num_attention_heads"]
    linears = [
        (hidden, hidden),
        (hidden, narrow),
        (hidden, narrow),
        (hidden, hidden),
        (hidden, wide),
        (hidden, wide),
        (wide, hidden),
    ]
    frozen, adapters = sum(a * b for a, b in linears), sum(rank * (a + b) for a, b in linears)
    first = sum(a * b for a, b in linears[:3])
    n, size = sizes(step)["tokens"], sizes(step)
    squares = sum(len(sequence) ** 2 for item in step for sequence in item.encoded.sequences)
    scored = sum(len(item.encoded.tokens) for item in step if item.weak or any(item.token_weight))
    taught = 0 if math.isinf(temperature) else 6 * size["memory"]
    return dict(
        layers=n * (4 * frozen * layers - 2 * first),
        adapters=n * (6 * adapters * layers - 6 * rank * hidden),
        attention=6 * squares * hidden * layers,
        head=shape["vocab_size"] * hidden * (4 * scored + taught),
    )


def rates(args, sizes):
    """Return the operations per second of each matrix product, in the dtype of the step."""
    import torch

    dtype, todo = getattr(torch, args.dtype), {}
    for name, (rows, inner, columns) in sizes.items():
        a = torch.randn(rows, inner, device=args.device).to(dtype)
        b = torch.randn(columns, inner, device=args.device).to(dtype)

        def multiply(_, a=a, b=b, work=2 * rows * inner * columns):
            times = max(1, int((1e8 if args.quick else 4e10) / work))
            begin = now(args.device)
            for _ in range(times):
                a @ b.T
            return times * work / (now(args.device) - begin)

        todo[name] = multiply
    return {
        name: dict(rate=median(found), spread=spread(found)) for name, found in alternate(todo, args.repeats).items()
    }


def measure(args, base, folder):
    """Return rates, lower bounds and step times."""
    from implementations import Implementation, uses_packing
    from workload import make_steps, sizes, with_states

    from icft_lite.config import ICFTConfig

    shape, layers = common.SHAPES[args.model], args.layers
    icft, plain = (
        [[step] for step in steps] for steps in make_steps(shape["vocab_size"], args.repeats, args.batch_size)
    )
    made = {
        (name, base_is): Implementation(
            name, base, argparse.Namespace(**{**vars(args), "no_4bit": full}), icft, plain, folder
        )
        for base_is, full in (("NF4", False), (args.dtype, True))
        for name in ("icft", "qlora", "trainer")
        if not (args.no_4bit and not full)
    }
    median_size = sorted(sizes(step)["padded"] for (step,) in icft)[len(icft) // 2]
    found = rates(args, products(shape, median_size, sizes(icft[0][0])["supervised"]))
    best = max(one["rate"] for one in found.values())
    seconds = alternate({key: one.train for key, one in made.items()}, args.repeats)
    # Only to count the states: the model that they come from does not matter.
    taught = [with_states(made["icft", args.dtype].model, steps) for steps in icft]
    out = []
    for (name, base_is), times in seconds.items():
        steps = [steps[0] for steps in (taught if name == "icft" else plain)]
        work = [
            arithmetic(shape, layers, step, temperature=ICFTConfig().loss.temperature or math.inf) for step in steps
        ]
        share = [sum(part.values()) / best / time[0] for part, time in zip(work, times, strict=True)]
        padding = [sizes(step, uses_packing(name))["padded"] / sizes(step)["tokens"] for step in steps]
        # In the layers a padding token costs as much as any other: this counts the work that is really done.
        padded_share = [
            (sum(part.values()) + (extra - 1) * (part["layers"] + part["adapters"])) / best / time[0]
            for part, extra, time in zip(work, padding, times, strict=True)
        ]
        out.append(
            dict(
                implementation=name,
                base=base_is,
                seconds=median([time[0] for time in times]),
                lower_bound=median([sum(part.values()) / best for part in work]),
                utilization=median(share),
                utilization_with_padding=median(padded_share),
                spread=spread(share),
                parts={
                    key: sum(part[key] for part in work) / sum(sum(part.values()) for part in work) for key in work[0]
                },
            )
        )
    return dict(
        benchmark="gemm", conditions=common.conditions(args), products=found, best=best, steps=out, at_least=0.75
    )


def report(result):
    """Print the tables."""
    show(
        "Matrix products",
        ["product", "GFLOP/s", "± %"],
        [[name, one["rate"] / 1e9, 100 * one["spread"]] for name, one in result["products"].items()],
        [f"best: {result['best'] / 1e9:.1f} GFLOP/s; the lower bounds below use it"],
    )
    show(
        "The step and its lower bound",
        [
            "implementation",
            "base",
            "s",
            "lower bound s",
            "utilization %",
            "with padding %",
            "± %",
            "layers %",
            "adapters %",
            "attention %",
            "head %",
            "75 % met",
        ],
        [
            [
                one["implementation"],
                one["base"],
                one["seconds"],
                one["lower_bound"],
                100 * one["utilization"],
                100 * one["utilization_with_padding"],
                100 * one["spread"],
                *(100 * part for part in one["parts"].values()),
                "yes" if one["utilization_with_padding"] >= result["at_least"] else "NO",
            ]
            for one in result["steps"]
        ],
        [
            "utilization: without padding; with padding: of all products that were computed",
            "trainer: the lower bound has logits of supervised tokens only; it computes logits at every position",
        ],
    )


if __name__ == "__main__":
    main()
