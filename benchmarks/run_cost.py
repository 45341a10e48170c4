"""What a whole run costs beside plain QLoRA, part by part: labels, teachers, promotion, consolidation, scores.

    python benchmarks/run_cost.py --model tiny                  both methods at equal tokens, in turn
    python benchmarks/run_cost.py --runs runs/demo/icft-0 runs/demo/qlora-0      of runs that are finished

The seconds are those of `cost.by_part` in each run's report.json; a run is cheap to repeat with few tokens, since all
but `train` hangs on the data and the number of stages, not on the tokens.
"""

import json
from pathlib import Path

from common import alternate, build_base, conditions, finish, median, parser, show, start, workplace

KEEPING = ("seed memory", "refresh", "promote", "consolidate")
"""The parts that only a method with a long-term memory has."""


def main():
    parse = parser(__doc__)
    parse.add_argument("--tokens", type=int, default=40_000, help="non-padding tokens that each run trains on")
    parse.add_argument("--methods", default="icft,qlora", help="two methods: the first is set beside the second")
    parse.add_argument("--runs", nargs=2, metavar="DIR", help="two finished runs, in place of new ones")
    args = parse.parse_args()
    start(args)
    if args.runs:
        reports = {name: [json.loads((Path(name) / "report.json").read_text())] for name in args.runs}
    else:
        with workplace() as folder:
            reports = run(args, build_base(args, folder), Path(folder))
    result = dict(benchmark="run_cost", conditions=conditions(args), **compare(reports))
    report(result)
    finish(args, result)


def run(args, base, folder):
    """{method: [report of each repeat]}; repeat i of every method has seed i."""
    from icft_lite.data.samples import sample_bundle
    from icft_lite.training.run import train_icft

    bundle, settings = sample_bundle(), dict(tokens=args.tokens)
    if args.quick:
        import sys

        sys.path.append(str(Path(__file__).parents[1] / "tests"))
        from small_run import SETTINGS, small_bundle

        bundle, settings = small_bundle(), dict(SETTINGS, max_steps=3)

    def contestant(method):
        def train(number):
            config = dict(settings, method=method, model=base, seed=number, four_bit=not args.no_4bit)
            return train_icft(config, folder / f"{method}-{number}", bundle, progress=False)

        return train

    return alternate({method: contestant(method) for method in args.methods.split(",")}, args.repeats, warm_up=0)


def compare(reports):
    """Medians of each part's seconds, and how the first method stands to the second."""
    runs = {}
    for name, mine in reports.items():
        parts = {
            part: median([one["cost"]["by_part"].get(part, 0.0) for one in mine])
            for part in dict.fromkeys(part for one in mine for part in one["cost"]["by_part"])
        }
        tokens = median([one["cost"]["tokens"] for one in mine])
        norms = [norm for one in mine for loss in one["gradient_norms"].values() for norm in loss]
        last = [one["losses"]["total"][-1] for one in mine]
        runs[name] = dict(
            parts=parts,
            seconds=sum(parts.values()),
            tokens=tokens,
            repeats=len(mine),
            train_microseconds_a_token=1e6 * parts["train"] / tokens,
            last_loss=median(last),
            keeping_share=sum(parts.get(part, 0.0) for part in KEEPING) / parts["train"],
            largest_gradient_norm=max(norms, default=0.0),
        )
    one, other = runs.values()
    return dict(
        runs=runs,
        tokens_ratio=one["tokens"] / other["tokens"],
        whole_ratio=one["seconds"] / other["seconds"],
        train_ratio=one["train_microseconds_a_token"] / other["train_microseconds_a_token"],
    )


def report(result):
    """Print the tables."""
    names, runs = list(result["runs"]), list(result["runs"].values())
    parts = list(dict.fromkeys(part for one in runs for part in one["parts"]))
    rows = [[part, *(one["parts"].get(part) for one in runs)] for part in parts]
    rows.append(["in all", *(one["seconds"] for one in runs)])
    show(
        "Seconds of a whole run",
        ["part", *names],
        rows,
        [f"medians of {runs[0]['repeats']} runs each; refresh: teachers chosen and their states cached"],
    )
    show(
        "By token, and do both learn?",
        ["what", *names],
        [
            ["tokens trained on", *(one["tokens"] for one in runs)],
            ["training, µs a token", *(one["train_microseconds_a_token"] for one in runs)],
            ["memory's upkeep ÷ training, %", *(100 * one["keeping_share"] for one in runs)],
            ["largest gradient norm logged", *(one["largest_gradient_norm"] for one in runs)],
            ["last loss", *(one["last_loss"] for one in runs)],
        ],
    )
    show(
        "The first ÷ the second",
        ["what", "value"],
        [[key.replace("_", " "), result[key]] for key in ("tokens_ratio", "train_ratio", "whole_ratio")],
    )


if __name__ == "__main__":
    main()
