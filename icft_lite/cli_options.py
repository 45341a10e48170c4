"""Options of the `icft-lite` command: what each command accepts, and what a command line gives. No heavy imports."""

import difflib
import json
import re
from argparse import ArgumentError
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_origin

from jsonargparse import ArgumentParser
from jsonargparse.typing import PositiveFloat, PositiveInt

from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.errors import ICFTError
from icft_lite.presets import PRESETS
from icft_lite.utils.config_parsing import describe_type, flatten, read_settings, setting_types

SHORT = {"max_steps": "optim.max_steps", "max_length": "encoding.max_length"}
"""Options that are short for a setting."""
READING = ("lfs", "answers_from", "turns")
"""Options that say how files are read, besides --map."""
OTHER_OPTIONS = (
    "data general test-ids map answers-from turns lfs out method methods max-steps max-length no-4bit config set"
).split()
"""Options that are no settings, as suggestions for a misspelt one."""
FILES = "data files, Hub names, or `samples` (the default)"
GENERAL_FILES = (
    "data files, Hub names, `samples` (the default of `tiny`), or `chat`, the suite for chat models (of other models)"
)


def _out(sub: ArgumentParser, text: str = "folder of the run", **options: Any) -> None:
    sub.add_argument("--out", metavar="DIR", help=text, **options)


def json_option(sub: ArgumentParser) -> None:
    """Add --json."""
    sub.add_argument("--json", action="store_true", help="print JSON")


def _jobs(sub: ArgumentParser, others: str = "on a GPU") -> None:
    text = "runs at a time. Default: one per core for `tiny` and `smollm2`, as far as memory allows; 1 for other models"
    text = f"{text}, {others}"
    sub.add_argument("--jobs", type=PositiveInt | None, metavar="N", help=text)


def _many(sub: ArgumentParser, option: str, text: str, metavar: str = "FILE") -> None:
    sub.add_argument(option, nargs="+", action="extend", metavar=metavar, help=text)


def _reading(sub: ArgumentParser, lfs: bool = True) -> None:
    """Add the options that say how files are read. Those of `ReadOptions` and --lfs may be in --config too."""
    sub.add_argument("--test-ids", metavar="FILE", help="ids of the test examples: JSON, or one on each line")
    text = "columns with other names in the files, for example question=Frage,answer=Antwort"
    sub.add_argument("--map", metavar="NAME=COLUMN,…", help=text)
    sub.add_argument("--answers-from", metavar="N", help="number of the first option where answers are numbers: 0 or 1")
    sub.add_argument("--turns", metavar="TURNS", help="assistant turns of a conversation to use: last (default) or all")
    if lfs:
        _many(sub, "--lfs", "Python files with labelling functions for unlabelled examples", "FILE.py")


def _data(sub: ArgumentParser) -> None:
    """Add the options that say what is trained on."""
    _many(sub, "--data", FILES)
    _many(sub, "--general", f"data that must not be forgotten: {GENERAL_FILES}")
    _reading(sub)


def demo_options(sub: ArgumentParser) -> None:
    """Add the options of `demo`."""
    _out(sub, "folder of the runs. Default: runs/demo, and runs/demo-smollm2 for that model")
    text = "`tiny` (the default, minutes) or `smollm2`, a real chat model (half an hour on two cores)"
    sub.add_argument("--model", default="tiny", metavar="NAME", help=text)
    sub.add_argument("--quick", action="store_true", help="with smollm2: a short illustration instead of evidence")
    sub.add_argument(
        "--seeds", type=PositiveInt, default=1, metavar="N", help="number of seeds; above 1: all presets of tiny"
    )
    sub.add_argument("--full", action="store_true", help="train longer; tiny: on more topics, smollm2: more methods")
    _jobs(sub, "on a GPU, with --quick")


def train_options(sub: ArgumentParser) -> None:
    """Add the options of `train` that are no settings."""
    _data(sub)
    _out(sub, required=True)
    sub.add_argument("--method", metavar="NAME", help=f"preset of the settings: {', '.join(PRESETS)} (default: icft)")


def check_options(sub: ArgumentParser) -> None:
    """Add the options of `check`."""
    sub.add_argument("files", nargs="+", metavar="FILE", help="data files or Hub names, as for `train --data`")
    _many(sub, "--general", "general data files, as for `train`")
    _reading(sub)
    text = "its tokenizer is used: `tiny` (the default), `smollm2`, a folder, a GGUF file or a Hub name"
    sub.add_argument("--model", metavar="NAME", help=text)
    _config(sub)
    json_option(sub)


def evaluate_options(sub: ArgumentParser) -> None:
    """Add the options of `evaluate`."""
    sub.add_argument("dir", metavar="DIR", help="a run, a model's folder or GGUF file, a Hub name, `tiny` or `smollm2`")
    _many(sub, "--data", FILES)
    _reading(sub, lfs=False)
    _no_4bit(sub)
    sub.add_argument("--max-length", type=PositiveInt, metavar="N", help="maximum number of tokens of an example")
    text = f"primary metric of questions with options: {describe_type(setting_kinds()['metric'])}"
    sub.add_argument("--metric", metavar="NAME", help=f"{text}. Defaults of both: those of the run, or of `train`")
    text = "score public suites as lm-evaluation-harness does, without the chat template, in place of --data. Names are"
    names = "those of its tasks: arc_easy, piqa, …; without a file, the data comes from the Hub"
    _many(sub, "--lm-eval", f"{text} {names}", "NAME[=FILE]")
    text = "let the model reply to the chat suite, in place of --data: what a run has forgotten of its base's replies"
    sub.add_argument("--chat", action="store_true", help=text)
    text = "of --lm-eval: the first N questions of each suite; of --chat: N questions and N instructions"
    sub.add_argument("--limit", type=PositiveInt, metavar="N", help=text)
    json_option(sub)


def chat_options(sub: ArgumentParser) -> None:
    """Add the options of `chat`."""
    run_folder_option(sub)
    text = "maximum number of tokens of a reply"
    sub.add_argument("--max-new-tokens", type=PositiveInt, default=512, metavar="N", help=text)


def compare_options(sub: ArgumentParser) -> None:
    """Add the options of `compare` that are no settings."""
    text = f"presets, separated by spaces or commas: {', '.join(PRESETS)}. Default: icft qlora. Each run has "
    text += "--optim.max_tokens tokens. Default: 250,000 for `tiny`, 30,000 for other models"
    _many(sub, "--methods", text, "METHOD")
    sub.add_argument("--seeds", type=PositiveInt, metavar="N", help="number of seeds for each method. Default: 3")
    _data(sub)
    _out(sub, "folder of the runs and the comparison", required=True)
    _jobs(sub)
    json_option(sub)
    paper = sub.add_argument_group("The evidence study (docs/protocol.md)")
    paper.add_argument("--suite", choices=["paper"], help="run the study in place of --methods; see docs/protocol.md")
    paper.add_argument("--study", metavar="NAME", help="tiny (the default), tiny-short or smollm2")
    text = "only these arms of the study"
    paper.add_argument("--arms", nargs="+", action="extend", default=[], metavar="ARM", help=text)
    text = "re-splits; default: those of confirmation"
    paper.add_argument("--splits", type=int, nargs="+", action="extend", metavar="N", help=text)
    paper.add_argument("--quick", action="store_true", help="the five main arms, one split, a short syllabus")
    paper.add_argument("--plan", action="store_true", help="only print the runs that are missing, and their time")


def run_folder_option(sub: ArgumentParser) -> None:
    """Add the folder of a run."""
    sub.add_argument("dir", metavar="DIR", help="folder of a finished run")


def export_options(sub: ArgumentParser) -> None:
    """Add the options of `export`."""
    run_folder_option(sub)
    sub.add_argument("--to", required=True, metavar="DIR2", help="a new folder")
    sub.add_argument("--merge", action="store_true", help="write whole weights with the adapter merged, not in 4 bits")


def grade_options(sub: ArgumentParser) -> None:
    """Add the options of `grade`."""
    text = "notebooks, zip files with one notebook, or folders of submissions; with --capstone, entries"
    sub.add_argument("notebooks", nargs="+", metavar="NOTEBOOK", help=text)
    sub.add_argument("--assignment", metavar="ID", help="such as A3. Default: the one that the notebook names")
    text = "folder with the specifications. Default: notebooks/assignments/specs of the checkout"
    sub.add_argument("--assignments", metavar="DIR", help=text)
    text = "write a row for each submission; those that are in the file already are not graded again"
    sub.add_argument("--csv", metavar="FILE", help=text)
    text = "write what the student may read of each submission into a text file of this folder: feedback, no flags"
    sub.add_argument("--feedback", metavar="DIR", help=text)
    text = "write Gradescope's results.json; NOTEBOOK is one submission, also if it is a folder"
    sub.add_argument("--gradescope", metavar="FILE", help=text)
    sub.add_argument("--cell-seconds", type=PositiveFloat, default=120.0, metavar="S", help="limit of one cell or call")
    text = "limit of one submission"
    sub.add_argument("--total-seconds", type=PositiveFloat, default=900.0, metavar="S", help=text)
    sub.add_argument("--memory-gib", type=PositiveFloat, default=4.0, metavar="GIB", help=text)
    sub.add_argument("--unsafe", action="store_true", help="no isolation, for your own work; results say `unprotected`")
    text = "folder of a capstone's kit: NOTEBOOK are entries, scored on its hidden questions"
    sub.add_argument("--capstone", metavar="KIT", help=text)
    sub.add_argument("--leaderboard", metavar="FILE.html", help="of a capstone: write a page with all entries")
    text = "of a capstone: train each entry again from its settings, and compare tokens and scores"
    sub.add_argument("--reproduce", action="store_true", help=text)
    text = "only another user as isolation, in a container that is used for one submission, such as Gradescope's"
    sub.add_argument("--container", action="store_true", help=text)
    json_option(sub)


def _config(sub: ArgumentParser) -> None:
    sub.add_argument("--config", metavar="FILE.yaml", help="settings, nested or with dotted names")
    text = "one setting; overrides --config and other options. In `compare`, presets override it"
    sub.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=text)
    sub.add_argument("--max-length", type=PositiveInt, metavar="N", help="short for --encoding.max_length")


def _no_4bit(sub: ArgumentParser) -> None:
    sub.add_argument("--no-4bit", action="store_true", help="short for --adapter.load_in_4bit false")


def config_options(sub: ArgumentParser, settings: bool) -> None:
    """Add the options of settings: --config and --set, and with `settings` one for each."""
    _config(sub)
    sub.add_argument("--max-steps", type=PositiveInt | None, metavar="N", help="short for --optim.max_steps")
    _no_4bit(sub)
    if settings:
        sub.add_class_arguments(ICFTConfig)
        sub.add_class_arguments(RuntimeConfig, "runtime")


# --- what a command line gives


def given_settings(parser: ArgumentParser, argv: Sequence[str]) -> dict[str, Any]:
    """Return the settings that a command line gives, by dotted name: --config, then options, then --set.

    Those that say how files are read (`map.NAME`, `answers_from`, `turns`, `lfs`) are among them;
    `command_data.take_data_options` takes them out. Raises ICFTError.
    """
    args = parser.parse_args(argv, defaults=False)
    given = args[args.command].as_dict()
    known = {*setting_kinds(), *READING}
    settings = read_settings(Path(given["config"])) if given.get("config") else {}
    settings |= {name: value for name, value in flatten(given).items() if name in known}
    if given.get("method"):
        settings["method"] = given["method"]
    own = settings.pop("map", None)
    mapping = given.get("map") or str(own or "")
    mapped: dict[str, str] = {}
    for text in filter(None, mapping.split(",")):
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            raise ICFTError(f"--map {name}: write it as NAME=COLUMN, for example --map question=Frage,answer=Antwort")
        key = f"map.{name} {value}" if name == "unused" else f"map.{name}"  # any number of columns may be unused
        if key in mapped or value in mapped.values():
            raise ICFTError(f"--map {text.strip()}: its name or its column is given twice; give each of them once")
        mapped[key] = value
    settings |= mapped
    settings |= {setting: given[name] for name, setting in SHORT.items() if given.get(name)}
    if given.get("no_4bit"):
        settings["adapter.load_in_4bit"] = False
    for text in given.get("set", []):
        name, equals, value = text.partition("=")
        if not equals:
            raise ICFTError(f"--set {text}: write it as NAME=VALUE")
        settings[name.strip()] = value.strip()
    return settings


def setting_kinds() -> dict[str, Any]:
    """Return {name: type} of all settings, with those of RuntimeConfig as `runtime.…`."""
    return {**dict(setting_types(ICFTConfig)), **dict(setting_types(RuntimeConfig, "runtime."))}


def write_lists(argv: Sequence[str]) -> list[str]:
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


def argument_error(error: ArgumentError, commands: Iterable[str]) -> str:
    """Return jsonargparse's message as one line that names the option."""
    text, kinds = " ".join(str(error).split()), setting_kinds()
    if found := re.match(r'Parser key "([\w.]+)": (.*)$', text):
        name, reason = found.groups()
        value = re.search(r"(?:Got|Given) value: (.*)$|base 10: '(.*?)'|PositiveInt: (\S+) does", reason)
        groups = {kind.partition(".")[0] for kind in kinds if "." in kind}
        expected = "a YAML file of this group" if name in groups else "a whole number above 0"  # of --seeds, --jobs, …
        expected = describe_type(kinds[name]) if name in kinds else expected
        option = name if name in kinds else name.replace("_", "-")
        return f"--{option}: {value[value.lastindex or 0] if value else ''!r} is not possible; give {expected}"
    if found := re.match(r"unrecognized arguments: --([\w.-]+)", text):
        others = {*kinds, *OTHER_OPTIONS} - {found[1]}  # an option of other commands only
        near = difflib.get_close_matches(found[1], sorted(others), 1)
        return f"--{found[1]} is not an option; {f'did you mean --{near[0]}?' if near else 'see --help'}"
    if text.startswith('expected "command"'):
        return f"give a command: {', '.join(commands)}; see --help"
    if found := re.match(r"the following arguments are required: (.*)", text):
        names = [name.rpartition(".")[2] for name in found[1].split(", ")]
        shown = {"dir": "DIR", "files": "FILE"}
        return f"{', '.join(shown.get(name, f'--{name}') for name in names)} is missing; see --help"
    return f"{text}; see --help"
