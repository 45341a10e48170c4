"""The `icft-lite` command. Heavy imports are inside the functions, so that --help takes less than a second."""

import difflib
import json
import os
import re
import sys
import traceback
import warnings
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from jsonargparse.typing import PositiveInt

from icft_lite import __version__
from icft_lite.compat import OldNameWarning, read_report, split_settings
from icft_lite.config import PRESETS, ICFTConfig, RuntimeConfig
from icft_lite.errors import ICFTError, explain_error
from icft_lite.utils.config_parsing import HelpFormatter, describe_type, flatten, read_settings, setting_types
from icft_lite.utils.launch import launch_processes

RESUMABLE = ("train", "demo", "compare")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0 done, 1 unexpected error, 2 wrong input, 130 interrupted."""
    argv = _write_lists(sys.argv[1:] if argv is None else argv)
    warnings.simplefilter("ignore", FutureWarning)  # of other libraries; users of a command cannot act on them
    warnings.showwarning = _show_warning
    parser = build_parser(argv[0] if argv else "")
    try:
        args = parser.parse_args(argv)
        name, options = args.command, args[args.command]
        COMMANDS[name][0](options, given_settings(parser, argv) if name in WITH_SETTINGS else {})
        return 0
    except ArgumentError as error:
        return _fail(argv, _argument_error(error), 2)
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
            _config_options(sub, settings=name == command)
        commands.add_subcommand(name, sub, help=text[0].lower() + text[1:])
    return parser


# --- options


def _out(sub: ArgumentParser, text: str = "folder of the run", **options: Any) -> None:
    sub.add_argument("--out", metavar="DIR", help=text, **options)


def _json(sub: ArgumentParser) -> None:
    sub.add_argument("--json", action="store_true", help="print JSON")


def _jobs(sub: ArgumentParser) -> None:
    text = "runs at a time. Default: one per core for the embedded model, 1 for others and on a GPU"
    sub.add_argument("--jobs", type=PositiveInt | None, metavar="N", help=text)


def _data(sub: ArgumentParser) -> None:
    sub.add_argument(
        "--data",
        nargs="+",
        action="extend",
        metavar="FILE",
        help=".jsonl, .json, .csv or .parquet files, Hub names, or `samples` (the default)",
    )
    sub.add_argument("--test-ids", metavar="FILE", help="ids of the test examples: JSON, or one on each line")


def _demo_options(sub: ArgumentParser) -> None:
    _out(sub, default="runs/demo")
    sub.add_argument("--seeds", type=PositiveInt, default=1, metavar="N", help="number of seeds; above 1: all presets")
    sub.add_argument("--full", action="store_true", help="train longer, on more topics")
    _jobs(sub)


def _train_options(sub: ArgumentParser) -> None:
    _data(sub)
    sub.add_argument(
        "--general",
        nargs="+",
        action="extend",
        metavar="FILE",
        help="data that must not be forgotten: files, Hub names or `samples` (the default)",
    )
    _out(sub, required=True)
    sub.add_argument("--method", metavar="NAME", help=f"preset of the settings: {', '.join(PRESETS)} (default: icft)")


def _evaluate_options(sub: ArgumentParser) -> None:
    sub.add_argument("dir", metavar="DIR", help="a run's folder, a model's folder, a Hub name, or `tiny`")
    _data(sub)
    _json(sub)


def _compare_options(sub: ArgumentParser) -> None:
    sub.add_argument(
        "--methods",
        nargs="+",
        default=["icft", "qlora"],
        metavar="METHOD",
        help=f"presets, separated by spaces or commas: {', '.join(PRESETS)}",
    )
    sub.add_argument("--seeds", type=PositiveInt, default=3, metavar="N", help="number of seeds for each method")
    _out(sub, "folder of the runs and the comparison", required=True)
    _jobs(sub)
    _json(sub)


def _run_folder_option(sub: ArgumentParser) -> None:
    sub.add_argument("dir", metavar="DIR", help="folder of a finished run")


def _export_options(sub: ArgumentParser) -> None:
    _run_folder_option(sub)
    sub.add_argument("--to", required=True, metavar="DIR2", help="a new folder")
    sub.add_argument("--merge", action="store_true", help="write whole weights with the adapter merged, not in 4 bits")


def _config_options(sub: ArgumentParser, settings: bool) -> None:
    sub.add_argument("--config", metavar="FILE.yaml", help="settings, nested or with dotted names")
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one setting; overrides --config and other options. In `compare`, presets override it",
    )
    sub.add_argument("--max-steps", type=PositiveInt | None, metavar="N", help="short for --optim.max_steps")
    sub.add_argument("--no-4bit", action="store_true", help="short for --adapter.load_in_4bit false")
    if settings:
        sub.add_class_arguments(ICFTConfig)
        sub.add_class_arguments(RuntimeConfig, "runtime")


# --- commands


def doctor(args: Namespace, _: Mapping[str, Any]) -> None:
    """Print what `icft_lite.doctor.examine` finds."""
    from icft_lite.doctor import examine, format_lines

    found = examine()
    print(json.dumps(found, indent=2) if args.json else "\n".join(format_lines(found)))


def demo(args: Namespace, _: Mapping[str, Any]) -> None:
    """Run the demo."""
    check_out(Path(args.out))
    from icft_lite.experiments.compare import run_demo

    run_demo(Path(args.out), args.seeds, args.full, args.jobs)


def train(args: Namespace, settings: Mapping[str, Any]) -> None:
    """Train one run. Settings and data are checked before anything is written."""
    method, runtime = split_settings(settings)
    config, runtime_config = ICFTConfig.from_dict(method), RuntimeConfig.from_dict(runtime)
    check_out(Path(args.out))
    from icft_lite.data.sources import bundle_from_files

    bundle = bundle_from_files(args.data or ["samples"], args.general or ["samples"], _path(args.test_ids))
    from icft_lite.training.loop import train_icft

    train_icft(config, Path(args.out), data=bundle, runtime=runtime_config)


def evaluate(args: Namespace, _: Mapping[str, Any]) -> None:
    """Score a run or a model on the bundled tests, or on files."""
    from icft_lite.data.samples import sample_bundle
    from icft_lite.data.sources import evaluation_examples

    sources, run = args.data or ["samples"], Path(args.dir)
    report = read_report(run) if (run / "report.json").is_file() else {}
    if sources == ["samples"]:
        if args.test_ids:
            raise ICFTError("--test-ids: the samples have a test of their own; name a file with --data")
        topics = report.get("config", {}).get("topics")
        try:
            data: Any = sample_bundle().only(topics)
        except ICFTError:
            raise ICFTError(f"{run}: its topics ({', '.join(topics)}) are not in the samples; give --data") from None
    else:
        data = evaluation_examples(sources, _path(args.test_ids), report.get("data", {}).get("sources", {}))
    from icft_lite.finished_runs import evaluate_run

    scores = evaluate_run(args.dir, data)
    print(json.dumps(scores, indent=2) if args.json else "\n".join(score_lines(scores)))


def compare(args: Namespace, settings: Mapping[str, Any]) -> None:
    """Compare methods over seeds on the samples; unset settings are those of the demo."""
    methods = [name for text in args.methods for name in text.split(",") if name]
    for name in methods:
        if name not in PRESETS:
            raise ICFTError(f"--methods: {name!r} is unknown; choose among {', '.join(PRESETS)}")
    if given := [name for name in ("method", "seed") if name in settings]:
        raise ICFTError(f"--{given[0]}: `compare` trains several; use --{given[0]}s")
    settings, runtime = split_settings(settings)
    ICFTConfig.from_dict(settings)
    runtime_config = RuntimeConfig.from_dict(runtime)
    check_out(Path(args.out))
    from icft_lite.experiments.compare import compare as run

    result = run(Path(args.out), methods, range(args.seeds), settings, jobs=args.jobs, runtime=runtime_config)
    if args.json:
        print(json.dumps(result, indent=2))


def chat(args: Namespace, _: Mapping[str, Any]) -> None:
    """Chat with a run's model."""
    folder = finished_run(args.dir)
    from icft_lite.chat import chat as talk

    talk(folder)


def export(args: Namespace, _: Mapping[str, Any]) -> None:
    """Write adapter or merged weights into a folder of their own."""
    run, to = finished_run(args.dir), Path(args.to)
    if to.exists() and (to.is_file() or any(to.iterdir())):
        raise ICFTError(f"--to {to}: it is not empty; give a new folder")
    check_out(to)
    from icft_lite.finished_runs import export as write

    write(run, to, merge=args.merge)


Options = Callable[[ArgumentParser], None]
COMMANDS: dict[str, tuple[Callable[[Namespace, Mapping[str, Any]], None], str, Options]] = {
    "doctor": (doctor, "Show what this machine has, and which models fit it", _json),
    "demo": (demo, "Run the whole method on the embedded model and samples, compared with plain QLoRA", _demo_options),
    "train": (train, "Train on your data; the same command again resumes", _train_options),
    "evaluate": (evaluate, "Score a run, or a model", _evaluate_options),
    "compare": (compare, "Compare methods over several seeds, with intervals", _compare_options),
    "chat": (chat, "Chat with a run's model", _run_folder_option),
    "export": (export, "Write a run's adapter, or merged weights", _export_options),
}
"""name: (function, help, how to add its options)."""
USAGE = {
    "doctor": "",
    "demo": "",
    "train": "--out DIR [--data FILE …] ",
    "evaluate": "DIR [--data FILE …] ",
    "compare": "--out DIR [--methods METHOD …] ",
    "chat": "DIR ",
    "export": "DIR --to DIR2 ",
}
WITH_SETTINGS = ("train", "compare")
OTHER_OPTIONS = ("data", "general", "test-ids", "out", "method", "methods", "max-steps", "no-4bit", "config", "set")


# --- settings and checks


def given_settings(parser: ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """Return the settings that a command line gives, by dotted name: --config, then options, then --set.

    Raises ICFTError.
    """
    args = parser.parse_args(argv, defaults=False)
    given = args[args.command].as_dict()
    known = _setting_kinds()
    settings = read_settings(Path(given["config"])) if given.get("config") else {}
    settings |= {name: value for name, value in flatten(given).items() if name in known}
    if given.get("method"):
        settings["method"] = given["method"]
    if given.get("max_steps"):
        settings["optim.max_steps"] = given["max_steps"]
    if given.get("no_4bit"):
        settings["adapter.load_in_4bit"] = False
    for text in given.get("set", []):
        name, equals, value = text.partition("=")
        if not equals:
            raise ICFTError(f"--set {text}: write it as NAME=VALUE")
        settings[name.strip()] = value.strip()
    return settings


def _setting_kinds() -> dict[str, Any]:
    """Return {name: type} of all settings, with those of RuntimeConfig as `runtime.…`."""
    return {**dict(setting_types(ICFTConfig)), **dict(setting_types(RuntimeConfig, "runtime."))}


def _write_lists(argv: Sequence[str]) -> list[str]:
    """Return the command line with lists as jsonargparse reads them: `--topics a,b` becomes `--topics=[a,b]`."""
    lists = {f"--{name}" for name, kind in setting_types(ICFTConfig) if get_origin(kind) is tuple}
    out: list[str] = []
    for word in argv:
        if out and out[-1] in lists and not word.startswith("-"):
            word = f"{out.pop()}={word}"
        option, equals, value = word.partition("=")
        items = ", ".join(json.dumps(item.strip()) for item in value.split(",") if item.strip())
        out.append(f"{option}=[{items}]" if option in lists and equals and value[:1] != "[" else word)
    return out


def check_out(out: Path) -> None:
    """Raise ICFTError unless the folder `out` can be written. Creates nothing."""
    existing = next(one for one in (out, *out.absolute().parents) if one.exists())
    if not existing.is_dir():
        raise ICFTError(f"--out {out}: {existing} is a file; give a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise ICFTError(f"--out {out}: {existing} cannot be written; give a folder of your own")


def finished_run(name: str) -> Path:
    """Return the folder of a finished run. Raises ICFTError if it holds none that can be read."""
    read_report(Path(name))
    return Path(name)


def score_lines(scores: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield nested {name: {metric, value, n}} as one line for each score."""
    for name, score in scores.items():
        if isinstance(score, dict) and "value" in score:
            name = prefix + name
            yield f"{name:28} {score['value']:.3f}  {score.get('metric', '')}  n = {score.get('n', '?')}"
        elif isinstance(score, dict):
            yield from score_lines(score, f"{prefix}{name}.")


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _argument_error(error: ArgumentError) -> str:
    """Return jsonargparse's message as one line that names the option."""
    text, kinds = " ".join(str(error).split()), _setting_kinds()
    if found := re.match(r'Parser key "([\w.]+)": (.*)$', text):
        name, reason = found.groups()
        value = re.search(r"(?:Got|Given) value: (.*)$|base 10: '(.*?)'|PositiveInt: (\S+) does", reason)
        groups = {kind.partition(".")[0] for kind in kinds if "." in kind}
        expected = "a YAML file of this group" if name in groups else "a whole number above 0"  # of --seeds, --jobs, …
        expected = describe_type(kinds[name]) if name in kinds else expected
        option = name if name in kinds else name.replace("_", "-")
        return f"--{option}: {value[value.lastindex or 0] if value else ''!r} is not possible; give {expected}"
    if found := re.match(r"unrecognized arguments: --([\w.-]+)", text):
        near = difflib.get_close_matches(found[1], [*kinds, *OTHER_OPTIONS], 1)
        return f"--{found[1]} is not an option; {f'did you mean --{near[0]}?' if near else 'see --help'}"
    if text.startswith('expected "command"'):
        return f"give a command: {', '.join(COMMANDS)}; see --help"
    if found := re.match(r"the following arguments are required: (.*)", text):
        names = [name.rpartition(".")[2] for name in found[1].split(", ")]
        return f"{', '.join('DIR' if name == 'dir' else f'--{name}' for name in names)} is missing; see --help"
    return f"{text}; see --help"


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    name = "" if issubclass(category, OldNameWarning) else f"{category.__name__}: "
    print(f"icft-lite: note: {name}{message}", file=sys.stderr)


def _fail(argv: Sequence[str], message: str, code: int) -> int:
    if "--debug" in argv:
        traceback.print_exc()
    if code == 1 or os.environ.get("RANK", "0") == "0":  # one of several processes reports what the user can fix
        print(f"icft-lite: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    launch_processes(sys.argv[1:])
    sys.exit(main())
