"""Seconds that the arms of the evidence study take, without loading and scoring, in alternating runs.

    python benchmarks/study_cost.py --study tiny-short --threads 1 --repeats 3
    python benchmarks/study_cost.py --study smollm2 --arms replay_25 icft

The seconds in the study's records contain scores and what else ran on the machine. These are those of `cost.by_part` in
each report.json, without `load` and `evaluate`: labels, difficulty, memory, training.
"""

from pathlib import Path

from common import alternate, conditions, finish, median, parser, show, start, temporary_folder

ARMS = ("plain", "plain_longer", "replay_25", "replay_longer", "kl_memory", "icft")
NOT_COUNTED = ("load", "evaluate")
FEW = {"limits.test": 4, "limits.validation": 4}
"""Scores are not counted, so few examples are scored."""


def main():
    parse = parser(__doc__)
    parse.add_argument("--study", default="tiny-short", help="tiny, tiny-short or smollm2")
    parse.add_argument("--split", type=int, default=1, help="of the study")
    parse.add_argument("--arms", nargs="+", default=ARMS, help="names of arms; ratios are to the last")
    args = parse.parse_args()
    start(args)
    with temporary_folder() as folder:
        reports = run(args, Path(folder))
    seconds = {name: [count(report) for report in found] for name, found in reports.items()}
    reference = list(seconds)[-1]
    result = dict(
        benchmark="study_cost",
        conditions=conditions(args),
        study=args.study,
        arms={
            name: dict(
                seconds=median(found),
                train=median([report["cost"]["by_part"]["train"] for report in reports[name]]),
                tokens=reports[name][0]["cost"]["tokens"],
                ratio=median([one / other for one, other in zip(found, seconds[reference], strict=True)]),
            )
            for name, found in seconds.items()
        },
    )
    rows = [[name, one["tokens"], one["train"], one["seconds"], one["ratio"]] for name, one in result["arms"].items()]
    notes = [f"medians of {args.repeats} rounds; without {' and '.join(NOT_COUNTED)}; ratio: to {reference}"]
    show("Seconds of the arms", ["arm", "tokens", "training", "whole method", "ratio"], rows, notes)
    finish(args, result)


def run(args, folder):
    """Return {arm: [report of each round]}."""
    from icft_lite.experiments.paper.arms import ARMS as KNOWN
    from icft_lite.experiments.paper.runner import load
    from icft_lite.experiments.paper.studies import STUDIES
    from icft_lite.training.loop import train_icft

    study, arms = STUDIES[args.study], {arm.name: arm for arm in KNOWN}
    data = study.data(args.split)
    args.model = study.settings.get("model", "tiny")
    args.no_4bit = args.no_4bit or args.model == "smollm2"  # whose weights stay in fp32
    few = {**FEW, "optim.max_steps": 3, "long_term.size": 8, "long_term.self_prompts": 4} if args.quick else FEW

    def trained(arm):
        def train(number):
            config = study.config(arm, args.split).replace(few)
            return train_icft(config, folder / f"{arm.name}-{number}", data, False, trainer=load(arm.trainer))

        return train

    return alternate({name: trained(arms[name]) for name in args.arms}, args.repeats, warm_up=0)


def count(report):
    """Return the seconds of a run that its method takes."""
    return sum(seconds for part, seconds in report["cost"]["by_part"].items() if part not in NOT_COUNTED)


if __name__ == "__main__":
    main()
