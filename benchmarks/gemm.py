"""How near the training step comes to what this machine's matrix products allow.

    python benchmarks/gemm.py            Qwen2.5-0.5B's shape with 4 layers, the base in NF4 and in full
    python benchmarks/gemm.py --layers 24

Three numbers: the rate of the machine's matrix products, measured at the sizes of the step's own; the floor of the
step, which is the arithmetic it cannot do without ÷ that rate; and the share of the floor in the step's real time.
"""

import argparse
import math

import common
from common import alternate, finish, median, now, show, spread


def main():
    parse = common.parser(__doc__)
    parse.add_argument("--rows", type=int, default=16, help="rows of sequence in a step")
    args = parse.parse_args()
    common.start(args)
    if args.model not in common.SHAPES:
        parse.error("--model: give one of " + ", ".join(common.SHAPES))
    with common.workplace() as folder:
        result = measure(args, common.build_base(args, folder), folder)
    report(result)
    finish(args, result)


def products(shape, tokens, scored):
    """The step's matrix products: {name: (rows, inner, columns)}; scored: positions that the head reads."""
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
    """Operations that a step needs at least, by part, pads not counted.

    Frozen weights: forward and the gradient of their input, 2 + 2 a weight and token. Adapters: 2 + 4. (The first
    layer's query, key and value need no gradient of their input: nothing is trained before them.) Attention: scores
    and values, causal, 2 + 4. Head: logits and their way back, 2 + 2, of each scored token; for consistency the
    student's and the teacher's logits and the way back, 2 + 2 + 2, or at infinite temperature none."""
    from workload import sizes

    hidden, wide = shape["hidden_size"], shape["intermediate_size"]
    narrow = hidden * shape["num_key_value_heads"] // shape["num_attention_heads"]
    links = [
        (hidden, hidden),
        (hidden, narrow),
        (hidden, narrow),
        (hidden, hidden),
        (hidden, wide),
        (hidden, wide),
        (wide, hidden),
    ]
    frozen, adapters = sum(a * b for a, b in links), sum(rank * (a + b) for a, b in links)
    first = sum(a * b for a, b in links[:3])
    n, size = sizes(step)["tokens"], sizes(step)
    squares = sum(len(row) ** 2 for item in step for row in item.encoded.sequences)
    scored = sum(len(item.encoded.tokens) for item in step if item.weak or any(item.token_weight))
    taught = 0 if math.isinf(temperature) else 6 * size["memory"]
    return dict(
        trunk=n * (4 * frozen * layers - 2 * first),
        adapters=n * (6 * adapters * layers - 6 * rank * hidden),
        attention=6 * squares * hidden * layers,
        head=shape["vocab_size"] * hidden * (4 * scored + taught),
    )


def rates(args, sizes):
    """Operations a second of each matrix product, in the dtype that the step computes in."""
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
    """Rates, floors and step times."""
    from contestants import Contestant, packs
    from workload import make_steps, sizes, with_states

    from icft_lite.config import ICFTConfig

    shape, layers = common.SHAPES[args.model], args.layers
    icft, plain = ([[step] for step in steps] for steps in make_steps(shape["vocab_size"], args.repeats, args.rows))
    contestants = {
        (name, base_is): Contestant(
            name, base, argparse.Namespace(**{**vars(args), "no_4bit": full}), icft, plain, folder
        )
        for base_is, full in (("NF4", False), (args.dtype, True))
        for name in ("icft", "qlora", "trainer")
        if not (args.no_4bit and not full)
    }
    middle = sorted(sizes(step)["padded"] for (step,) in icft)[len(icft) // 2]
    found = rates(args, products(shape, middle, sizes(icft[0][0])["supervised"]))
    best = max(one["rate"] for one in found.values())
    seconds = alternate({key: one.train for key, one in contestants.items()}, args.repeats)
    taught = [
        with_states(contestants["icft", args.dtype].model, steps) for steps in icft
    ]  # only to count them: whose states they are does not matter
    out = []
    for (name, base_is), times in seconds.items():
        steps = [steps[0] for steps in (taught if name == "icft" else plain)]
        work = [arithmetic(shape, layers, step, temperature=ICFTConfig().temperature or math.inf) for step in steps]
        share = [sum(part.values()) / best / time[0] for part, time in zip(work, times)]
        padding = [sizes(step, packs(name))["padded"] / sizes(step)["tokens"] for step in steps]
        # a pad costs the trunk what a token does, so this is the share of the work that was really asked for
        done = [
            (sum(part.values()) + (extra - 1) * (part["trunk"] + part["adapters"])) / best / time[0]
            for part, extra, time in zip(work, padding, times)
        ]
        out.append(
            dict(
                contestant=name,
                base=base_is,
                seconds=median([time[0] for time in times]),
                floor=median([sum(part.values()) / best for part in work]),
                share=median(share),
                share_with_pads=median(done),
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
        [f"best: {result['best'] / 1e9:.1f} GFLOP/s; the floors below are taken at it"],
    )
    show(
        "The step against its floor",
        [
            "contestant",
            "base",
            "s",
            "floor s",
            "share %",
            "with pads %",
            "± %",
            "trunk %",
            "adapters %",
            "attention %",
            "head %",
            "75 % met",
        ],
        [
            [
                one["contestant"],
                one["base"],
                one["seconds"],
                one["floor"],
                100 * one["share"],
                100 * one["share_with_pads"],
                100 * one["spread"],
                *(100 * part for part in one["parts"].values()),
                "yes" if one["share_with_pads"] >= result["at_least"] else "NO",
            ]
            for one in result["steps"]
        ],
        [
            "share: of the floor of the tokens that count; with pads: of the products asked for, pads included",
            "trainer: its floor is what its loss needs, the head at scored tokens only; it reads the head everywhere",
        ],
    )


if __name__ == "__main__":
    main()
