"""The `icft-lite` command. Heavy imports are inside the functions, so that --help takes less than a second."""

import io
import json
import os
import sys
import traceback
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings

from icft_lite import __version__
from icft_lite.cli_options import (
    argument_error,
    chat_options,
    check_options,
    compare_options,
    config_options,
    demo_options,
    evaluate_options,
    export_options,
    given_settings,
    grade_options,
    json_option,
    train_options,
    write_lists,
)
from icft_lite.compat import OldNameWarning, split_settings
from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.errors import ICFTError, ICFTWarning, explain_error
from icft_lite.presets import PRESETS
from icft_lite.report_file import read_report
from icft_lite.utils.config_parsing import HelpFormatter
from icft_lite.utils.launch import is_main_process, launch_processes

RESUMABLE = ("train", "demo", "compare", "grade")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns the exit code: 0 done, 1 unexpected error, 2 wrong input, 3 `grade` refused a submission, 130 interrupted.
    """
    argv = write_lists(sys.argv[1:] if argv is None else argv)
    warnings.simplefilter("ignore", FutureWarning)  # of other libraries; users of a command cannot act on them
    warnings.showwarning = _show_warning
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal or a log in another encoding than UTF-8
            stream.reconfigure(errors="replace")
    parser = build_parser(argv[0] if argv else "")
    try:
        args = parser.parse_args(argv)
        name, options = args.command, args[args.command]
        return COMMANDS[name][0](options, given_settings(parser, argv)) or 0
    except ArgumentError as error:
        return _fail(argv, argument_error(error, COMMANDS), 2)
    except KeyboardInterrupt:
        resume = "; run the same command again to resume" if argv[:1] and argv[0] in RESUMABLE else ""
        return _fail(argv, f"stopped{resume}", 130)
    except BrokenPipeError:  # a reader such as `head` has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        return _fail(argv, *explain_error(error))


def build_parser(command: str = "") -> ArgumentParser:
    """Return the parser of all commands. Only `command` gets its settings as options: building them takes a while."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(
        prog="icft-lite",
        exit_on_error=False,
        formatter_class=HelpFormatter,
        allow_abbrev=False,  # an abbreviation may name another option in the next version
        description="Adapt a small language model to medicine without catastrophic forgetting.",
        version=__version__,
    )
    commands = parser.add_subcommands(required=True, dest="command", metavar="COMMAND")
    for name, (_, text, add_options) in COMMANDS.items():
        usage = f"icft-lite {name} {USAGE[name]}[options]"
        sub = ArgumentParser(exit_on_error=False, description=f"{text}.", usage=usage)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        add_options(sub)
        if name in WITH_SETTINGS:
            config_options(sub, settings=name == command)
        commands.add_subcommand(name, sub, help=text[0].lower() + text[1:])
    return parser


# --- commands


def doctor(args: Namespace, _: dict[str, Any]) -> None:
    """Print what `icft_lite.doctor.examine` finds."""
    from icft_lite.doctor import examine, format_lines

    found = examine()
    print(json.dumps(found, indent=2) if args.json else "\n".join(format_lines(found)))


def demo(args: Namespace, _: dict[str, Any]) -> None:
    """Run the demo."""
    args.out = args.out or ("runs/demo" if args.model == "tiny" else f"runs/demo-{args.model}")
    check_out(Path(args.out))
    from icft_lite.experiments.demo import run_demo

    run_demo(Path(args.out), args.seeds, args.full, args.jobs, model=args.model, quick=args.quick)


def train(args: Namespace, settings: dict[str, Any]) -> None:
    """Train one run. Settings and data are checked before anything is written."""
    from icft_lite.command_data import take_data_options

    given = take_data_options(args, settings)
    method, runtime = split_settings(settings)
    config, runtime_config = ICFTConfig.from_dict(method), RuntimeConfig.from_dict(runtime)
    check_out(Path(args.out))
    bundle = given.read_to_train(config)
    from icft_lite.training.loop import train_icft

    train_icft(config, Path(args.out), data=bundle, runtime=runtime_config)
    if is_main_process():
        print(f"report: {Path(args.out) / 'report.md'}")


def check(args: Namespace, settings: dict[str, Any]) -> None:
    """Print what was understood of files, before anything trains."""
    from icft_lite.command_data import check as run

    run(args, settings)


def evaluate(args: Namespace, settings: dict[str, Any]) -> None:
    """Score a run or a model on the bundled tests, on files, or on the chat suite."""
    from icft_lite.evaluate_command import evaluate as score

    score(args, settings)


def compare(args: Namespace, settings: dict[str, Any]) -> None:
    """Compare methods over seeds, on the samples with the settings of the demo if no data is given."""
    if args.suite:
        run_study(args, settings)
        return
    if extra := [name for name in ("study", "arms", "splits", "quick", "plan") if getattr(args, name)]:
        raise ICFTError(f"--{extra[0]}: belongs to the evidence study; add --suite paper, or leave it out")
    methods = [name for text in args.methods or ["icft", "qlora"] for name in text.split(",") if name]
    if not methods:
        raise ICFTError(f"--methods: names none; choose among {', '.join(PRESETS)}")
    for name in methods:
        if name not in PRESETS:
            raise ICFTError(f"--methods: {name!r} is unknown; choose among {', '.join(PRESETS)}")
    if given := [name for name in ("method", "seed") if name in settings]:
        raise ICFTError(f"--{given[0]}: `compare` trains several; use --{given[0]}s")
    from icft_lite.command_data import take_data_options

    data = take_data_options(args, settings)
    settings, runtime = split_settings(settings)
    config, runtime_config = ICFTConfig.from_dict(settings), RuntimeConfig.from_dict(runtime)
    check_out(Path(args.out))
    data.check_has_data()
    bundle = data.read_to_train(config, quiet=args.json) if data.data else None
    from icft_lite.experiments.compare import compare as run

    out, seeds = Path(args.out), range(args.seeds or 3)
    how: dict[str, Any] = dict(progress=not args.json, jobs=args.jobs, runtime=runtime_config)
    if bundle:
        how |= dict(data=bundle, data_options=data.to_options())
    result = run(out, methods, seeds, settings, **how)
    if args.json:
        print(json.dumps(result, indent=2))
        return
    from icft_lite.reporting.render import print_table

    print_table(result)
    print(f"\nreport: {out / 'comparison.md'}")


def run_study(args: Namespace, settings: dict[str, Any]) -> None:
    """Run the evidence study."""
    if settings:
        raise ICFTError(f"--{min(settings)}: the arms of --suite paper have settings of their own; leave it out")
    if extra := [name for name in ("methods", "seeds", "data", "general", "test_ids", "json") if getattr(args, name)]:
        option = extra[0].replace("_", "-")
        raise ICFTError(f"--{option}: --suite paper compares arms on splits of the samples; leave it out")
    if args.quick and (args.study or args.splits):
        raise ICFTError("--quick: it is study tiny-short on the bundled split; leave out --study and --splits")
    check_out(Path(args.out))
    from icft_lite.experiments.paper.suite import run_suite

    run_suite(
        Path(args.out), args.study or "tiny", args.arms, args.splits, jobs=args.jobs, quick=args.quick, plan=args.plan
    )


def chat(args: Namespace, _: dict[str, Any]) -> None:
    """Chat with a run's model."""
    folder = finished_run(args.dir)
    from icft_lite.chat import chat as talk

    talk(folder, max_new_tokens=args.max_new_tokens)


def export(args: Namespace, _: dict[str, Any]) -> None:
    """Write adapter or merged weights into a folder of their own."""
    run, to = finished_run(args.dir), Path(args.to)
    check_out(to, "--to")
    if to.exists() and any(to.iterdir()):
        raise ICFTError(f"--to {to}: it is not empty; give a new folder")
    from icft_lite.finished_runs import export as write

    write(run, to, merge=args.merge)
    print(f"written: {to}")


def grade(args: Namespace, _: dict[str, Any]) -> int:
    """Grade submissions of an assignment, or entries to a capstone. Returns the exit code."""
    from icft_lite.grading.command import grade_capstone, grade_notebooks

    return grade_capstone(args) if args.capstone else grade_notebooks(args)


Options = Callable[[ArgumentParser], None]
COMMANDS: dict[str, tuple[Callable[[Namespace, dict[str, Any]], int | None], str, Options]] = {
    "doctor": (doctor, "Show what this machine has, and which models fit it", json_option),
    "demo": (demo, "Run the whole method on the samples, compared with plain fine-tuning", demo_options),
    "check": (check, "Show what is understood of your data, before anything trains", check_options),
    "train": (train, "Train on your data; the same command again resumes", train_options),
    "evaluate": (evaluate, "Score a run, or a model", evaluate_options),
    "compare": (compare, "Compare methods over several seeds, with intervals", compare_options),
    "chat": (chat, "Chat with a run's model", chat_options),
    "export": (export, "Write a run's adapter, or merged weights", export_options),
    "grade": (grade, "Grade notebooks of an assignment in a sandbox, or entries to a capstone", grade_options),
}
"""name: (function, help, how to add its options)."""
USAGE = {
    "doctor": "",
    "demo": "",
    "check": "FILE … [--model NAME] ",
    "train": "--out DIR [--data FILE …] ",
    "evaluate": "DIR [--data FILE …] ",
    "compare": "--out DIR [--methods METHOD …] [--data FILE …] ",
    "chat": "DIR ",
    "export": "DIR --to DIR2 ",
    "grade": "NOTEBOOK … [--assignment A3] [--csv FILE] [--feedback DIR] ",
}
WITH_SETTINGS = ("train", "compare")


# --- checks and output


def check_out(out: Path, option: str = "--out") -> None:
    """Raise ICFTError unless the folder `out`, the value of an option, can be written. Creates nothing."""
    existing = next(one for one in (out, *out.absolute().parents) if one.exists())
    if not existing.is_dir():
        raise ICFTError(f"{option} {out}: {existing} is a file; give a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ICFTError(f"{option} {out}: {existing} cannot be written; give a folder of your own")


def finished_run(name: str) -> Path:
    """Return the folder of a finished run. Raises ICFTError if it holds none that can be read."""
    read_report(Path(name))
    return Path(name)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    name = "" if issubclass(category, OldNameWarning | ICFTWarning) else f"{category.__name__}: "
    print(f"icft-lite: note: {name}{message}", file=sys.stderr)


def _fail(argv: Sequence[str], message: str, code: int) -> int:
    if "--debug" in argv:
        traceback.print_exc()
    if code == 1 or is_main_process():  # one of several processes reports what the user can fix
        print(f"icft-lite: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    launch_processes(sys.argv[1:])
    sys.exit(main())
