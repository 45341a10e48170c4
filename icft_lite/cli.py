"""The `icft-lite` command. Heavy imports live inside the functions, so that --help is instant."""

import argparse
import json
import os
import sys
import traceback
import warnings
from pathlib import Path

from icft_lite import __version__
from icft_lite.config import METHODS, ICFTConfig
from icft_lite.errors import ICFTError, explain_error, short_reason
from icft_lite.utils.launch import launch_processes


def main(argv=None):
    """Run one command. Returns the exit code: 0 done, 1 a fault of ours, 2 bad input, 130 interrupted."""
    args = build_parser().parse_args(argv)
    warnings.simplefilter("ignore", FutureWarning)  # what other libraries plan, nobody at a command line can mend
    try:
        args.run(args)
        return 0
    except KeyboardInterrupt:
        resume = "; the same line again resumes" if args.command in ("train", "demo", "compare") else ""
        return _fail(args, f"stopped{resume}", 130)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _fail(args, *explain_error(error))


def build_parser():
    """All commands and their flags."""
    parser = argparse.ArgumentParser(
        prog="icft-lite", description="Adapt a small language model to medicine without it forgetting what it knew."
    )
    parser.add_argument("--version", action="version", version=f"icft-lite {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name, run, text, json_flag=False):
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if json_flag:
            sub.add_argument("--json", action="store_true", help="print JSON")
        sub.set_defaults(run=run)
        return sub

    command("doctor", doctor, "what this machine has, and which models fit it", json_flag=True)
    sub = command("demo", demo, "the whole method on the embedded model and samples, beside plain QLoRA")
    sub.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="DIR", help="default: %(default)s")
    sub.add_argument("--seeds", type=_count, default=1, metavar="N", help="runs to average (default: %(default)s)")
    sub.add_argument("--full", action="store_true", help="longer training, better scores")
    _jobs_flag(sub)

    sub = command("train", train, "train on your data; the same line again resumes")
    _data_flags(sub)
    sub.add_argument(
        "--general",
        nargs="+",
        action="extend",
        metavar="FILE",
        help="what must not be forgotten: files, Hub names or `samples` (the default)",
    )
    sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the run")
    sub.add_argument("--method", choices=METHODS, help="default: icft")
    sub.add_argument("--seed", type=int, metavar="N")
    _config_flags(sub)

    sub = command("evaluate", evaluate, "score a run, or a model", json_flag=True)
    sub.add_argument("dir", metavar="DIR", help="a run's folder, a model's folder, a Hub name, or `tiny`")
    _data_flags(sub)

    sub = command("compare", compare, "several methods side by side, with intervals", json_flag=True)
    sub.add_argument(
        "--methods",
        nargs="+",
        default=["icft", "qlora"],
        metavar="METHOD",
        help=f"of {', '.join(METHODS)}; spaces or commas between (default: icft qlora)",
    )
    sub.add_argument("--seeds", type=_count, default=3, metavar="N", help="default: %(default)s")
    sub.add_argument("--out", type=Path, required=True, metavar="DIR")
    _jobs_flag(sub)
    _config_flags(sub)

    sub = command("chat", chat, "talk to a run's model")
    sub.add_argument("dir", metavar="DIR", help="a run's folder")
    sub = command("export", export, "write a run's adapter, or merged weights")
    sub.add_argument("dir", metavar="DIR", help="a run's folder")
    sub.add_argument("--to", type=Path, required=True, metavar="DIR2", help="a new folder")
    sub.add_argument("--merge", action="store_true", help="whole weights with the adapter merged in, none in 4 bits")
    return parser


def _data_flags(sub):
    sub.add_argument(
        "--data",
        nargs="+",
        action="extend",
        metavar="FILE",
        help=".jsonl, .json, .csv or .parquet files, Hub names, or `samples` (the default)",
    )
    sub.add_argument("--test-ids", type=Path, metavar="FILE", help="ids of the test rows: JSON, or one a line")


def _config_flags(sub):
    sub.add_argument("--model", metavar="NAME", help="`tiny` (the default), a folder, or a Hub name")
    sub.add_argument("--max-steps", type=int, metavar="N", help="cut the run to N optimiser steps")
    sub.add_argument("--no-4bit", action="store_true", help="do not quantise the base")
    sub.add_argument("--config", type=Path, metavar="FILE.yaml", help="settings of ICFTConfig")
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="one setting; wins over all others, in `compare` not over what makes a method what it is",
    )


def _jobs_flag(sub):
    sub.add_argument(
        "--jobs",
        type=_count,
        metavar="N",
        help="runs at a time (default: one a core for the embedded model, 1 for others and on a GPU)",
    )


def _count(text):
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("give 1 or more")
    return value


def doctor(args):
    """Print what `icft_lite.doctor.examine` finds."""
    from icft_lite.doctor import examine, format_lines

    found = examine()
    print(json.dumps(found, indent=2) if args.json else "\n".join(format_lines(found)))


def demo(args):
    """`make demo`."""
    check_out(args.out)
    from icft_lite.experiments.compare import run_demo

    run_demo(args.out, args.seeds, args.full, args.jobs)


def train(args):
    """One run. The configuration and the data are checked before anything is written."""
    config = read_config(args)
    check_out(args.out)
    from icft_lite.data.sources import bundle_from_files

    bundle = bundle_from_files(args.data or ["samples"], args.general or ["samples"], args.test_ids)
    from icft_lite.training.run import train_icft

    train_icft(config, args.out, data=bundle)


def evaluate(args):
    """Score a run or a model on the bundled tests, or on files."""
    from icft_lite.data.samples import sample_bundle
    from icft_lite.data.sources import evaluation_examples

    sources = args.data or ["samples"]
    run = _report(args.dir)
    data = (
        sample_bundle().only(run.get("config", {}).get("topics"))
        if sources == ["samples"]
        else evaluation_examples(sources, args.test_ids, run.get("data", {}).get("sources", {}))
    )
    from icft_lite.runs import evaluate_run

    scores = evaluate_run(args.dir, data)
    print(json.dumps(scores, indent=2) if args.json else "\n".join(score_lines(scores)))


def compare(args):
    """Several methods and seeds on the samples; what is not set is as in the demo."""
    methods = [name for text in args.methods for name in text.split(",") if name]
    for name in methods:
        if name not in METHODS:
            raise ICFTError(f"--methods: {name!r} is unknown; choose among {', '.join(METHODS)}")
    settings = read_settings(args)
    ICFTConfig.from_dict(settings)
    check_out(args.out)
    from icft_lite.experiments.compare import compare as run

    result = run(args.out, methods, range(args.seeds), settings, jobs=args.jobs)
    if args.json:
        print(json.dumps(result, indent=2))


def chat(args):
    """Talk to a run's model."""
    from icft_lite.chat import chat as talk

    talk(_run_folder(args.dir))


def export(args):
    """Adapter or merged weights, in a folder of their own."""
    run = _run_folder(args.dir)
    if args.to.exists() and (args.to.is_file() or any(args.to.iterdir())):
        raise ICFTError(f"--to {args.to}: it is not empty; give a new folder")
    check_out(args.to)
    from icft_lite.runs import export as write

    write(run, args.to, merge=args.merge)


def read_config(args):
    """The ICFTConfig of a command line. Raises ICFTError."""
    return ICFTConfig.from_dict(read_settings(args))


def read_settings(args):
    """The settings that are given: --config, then flags, then --set. Raises ICFTError."""
    values = {}
    if args.config:
        import yaml

        try:
            values = yaml.safe_load(args.config.read_text(encoding="utf-8")) or {}
        except yaml.YAMLError as error:
            raise ICFTError(f"{args.config}: not YAML ({' '.join(str(error).split())}); mend it") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ICFTError(f"{args.config}: cannot be read ({short_reason(error)}); give a YAML file") from None
        if not isinstance(values, dict):
            raise ICFTError(f"{args.config}: it holds no settings; write FIELD: VALUE lines")
    for name in ("model", "method", "seed", "max_steps"):
        if getattr(args, name, None) is not None:
            values[name] = getattr(args, name)
    if args.no_4bit:
        values["four_bit"] = False
    for text in args.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ICFTError(f"--set {text}: write it as FIELD=VALUE")
        values[name.strip()] = value.strip()
    return values


def check_out(out):
    """Raise ICFTError unless the folder `out` can be written. Creates nothing."""
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise ICFTError(f"--out {out}: {place} is a file; give a folder")
    if not os.access(place, os.W_OK | os.X_OK):
        raise ICFTError(f"--out {out}: {place} cannot be written; give a folder of your own")


def score_lines(scores, prefix=""):
    """Nested {name: {metric, value, n}} as one line a score."""
    for name, score in scores.items():
        if isinstance(score, dict) and "value" in score:
            name = prefix + name
            yield f"{name:28} {score['value']:.3f}  {score.get('metric', '')}  n = {score.get('n', '?')}"
        elif isinstance(score, dict):
            yield from score_lines(score, f"{prefix}{name}.")


def _run_folder(name):
    if not (Path(name) / "report.json").is_file():
        raise ICFTError(f"{name}: no finished run (report.json is missing); give the --out folder of one")
    return Path(name)


def _report(name):
    """A run's report; {} for anything else."""
    try:
        return json.loads((Path(name) / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _fail(args, message, code):
    if args.debug:
        traceback.print_exc()
    if code == 1 or os.environ.get("RANK", "0") == "0":  # of many processes, one says what is wrong with the input
        print(f"icft-lite: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    launch_processes(sys.argv[1:])
    sys.exit(main())
