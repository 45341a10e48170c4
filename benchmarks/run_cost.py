"""Cost of a whole run by part, ICFT compared with plain QLoRA: labels, teachers, promotion, consolidation, scores.

    python benchmarks/run_cost.py --model tiny                                 both methods in turn, equal tokens
    python benchmarks/run_cost.py --runs runs/demo/icft-0 runs/demo/qlora-0    two finished runs

The seconds are those of `cost.by_part` in each report.json. A run with few tokens is enough: all parts except `train`
depend on the data and the number of stages, not on the tokens.
"""

from pathlib import Path

from common import alternate, build_base, conditions, finish, median, parser, show, start, temporary_folder

MEMORY_PARTS = ("seed memory", "refresh", "promote", "consolidate")
"""The parts that only a method with a long-term memory has."""


def main():
    parse = parser(__doc__)
    parse.add_argument("--tokens", type=int, default=40_000, help="non-padding tokens of each run")
    parse.add_argument("--methods", default="icft,qlora", help="two methods; ratios are first ÷ second")
    parse.add_argument("--runs", nargs=2, metavar="DIR", help="two finished runs, in place of new ones")
    args = parse.parse_args()
    start(args)
    if args.runs:
        from icft_lite.report_file import read_report

        reports = {name: [read_report(Path(name))] for name in args.runs}
    else:
        with temporary_folder() as folder:
            reports = run(args, build_base(args, folder), Path(folder))
    result = dict(benchmark="run_cost", conditions=conditions(args), **compare(reports))
    report(result)
    finish(args, result)


def run(args, base, folder):
    """Return {method: [report of each repeat]}; repeat i of every method has seed i."""
    from icft_lite.data.samples import sample_bundle
    from icft_lite.training.loop import train_icft

    bundle, settings = sample_bundle(), {"optim.max_tokens": args.tokens}
    if args.quick:
        import sys

        sys.path.append(str(Path(__file__).parents[1] / "tests"))
        from small_run import SETTINGS, small_bundle

        bundle, settings = small_bundle(), {**SETTINGS, "optim.max_steps": 3}
    settings |= {"model": base, "adapter.load_in_4bit": not args.no_4bit}

    def trainer(method):
        def train(number):
            config = {**settings, "method": method, "seed": number}
            return train_icft(config, folder / f"{method}-{number}", bundle, progress=False)

        return train

    return alternate({method: trainer(method) for method in args.methods.split(",")}, args.repeats, warm_up=0)


def compare(reports):
    """Return medians of the seconds of each part, and the ratios of the first method to the second."""
    runs = {}
    for name, found in reports.items():
        parts = {
            part: median([one["cost"]["by_part"].get(part, 0.0) for one in found])
            for part in dict.fromkeys(part for one in found for part in one["cost"]["by_part"])
        }
        tokens = median([one["cost"]["tokens"] for one in found])
        norms = [norm for one in found for loss in one["gradient_norms"].values() for norm in loss]
        last = [one["losses"]["total"][-1] for one in found]
        runs[name] = dict(
            parts=parts,
            seconds=sum(parts.values()),
            tokens=tokens,
            repeats=len(found),
            train_microseconds_per_token=1e6 * parts["train"] / tokens,
            last_loss=median(last),
            memory_overhead=sum(parts.get(part, 0.0) for part in MEMORY_PARTS) / parts["train"],
            largest_gradient_norm=max(norms, default=0.0),
        )
    one, other = runs.values()
    return dict(
        runs=runs,
        tokens_ratio=one["tokens"] / other["tokens"],
        whole_ratio=one["seconds"] / other["seconds"],
        train_ratio=one["train_microseconds_per_token"] / other["train_microseconds_per_token"],
    )


def report(result):
    """Print the tables."""
    names, runs = list(result["runs"]), list(result["runs"].values())
    parts = list(dict.fromkeys(part for one in runs for part in one["parts"]))
    rows = [[part, *(one["parts"].get(part) for one in runs)] for part in parts]
    rows.append(["total", *(one["seconds"] for one in runs)])
    show(
        "Seconds of a whole run",
        ["part", *names],
        rows,
        [f"medians of {runs[0]['repeats']} runs each; refresh: choose teachers and cache their states"],
    )
    show(
        "Per token, and whether both methods learn",
        ["quantity", *names],
        [
            ["training tokens", *(one["tokens"] for one in runs)],
            ["training, µs per token", *(one["train_microseconds_per_token"] for one in runs)],
            ["memory parts ÷ training, %", *(100 * one["memory_overhead"] for one in runs)],
            ["largest gradient norm logged", *(one["largest_gradient_norm"] for one in runs)],
            ["last loss", *(one["last_loss"] for one in runs)],
        ],
    )
    show(
        "First ÷ second",
        ["quantity", "ratio"],
        [[key.replace("_", " "), result[key]] for key in ("tokens_ratio", "train_ratio", "whole_ratio")],
    )


if __name__ == "__main__":
    main()
