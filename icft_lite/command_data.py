"""The data that a command line names: read here, and passed on to the commands that another command starts.

`icft_lite.check` is imported inside functions, so that a wrong option is named before an import of five seconds.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from icft_lite.cli_options import READING
from icft_lite.compat import split_settings
from icft_lite.config import ICFTConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.data.schema import ReadOptions
from icft_lite.data.sources import bundle_from_files, default_general
from icft_lite.errors import ICFTError
from icft_lite.utils.launch import is_main_process
from icft_lite.weak.files import load_lfs


@dataclass(frozen=True)
class DataOptions:
    """What a command line says about its data. The names are those of the options."""

    data: Sequence[str]
    """Files, Hub names, or `samples`; empty if none is given."""
    general: Sequence[str]
    """General data, in the same way."""
    test_ids: str | None
    """File with the ids of the test examples."""
    how: ReadOptions
    """How the files are read: --map, --answers-from and --turns."""
    lfs: Sequence[Path]
    """Python files with labelling functions."""

    def read(self) -> DataBundle:
        """Read the data. Raises ICFTError for a file that cannot be read."""
        check_columns([*self.data, *self.general], self.how)
        functions = [function for path in self.lfs for function in load_lfs(path)]
        return bundle_from_files(self.data, self.general, self.test_ids, options=self.how, lfs=functions)

    def read_to_train(self, config: ICFTConfig, quiet: bool = False) -> DataBundle:
        """Read the data, the samples and the model's general data if none is given; print what was understood of it.

        quiet: print nothing. Raises ICFTError if it cannot be trained on.
        """
        from icft_lite.check import check_fit
        from icft_lite.reporting.check_text import format_lines

        general = self.general or default_general(config.model)
        bundle = DataOptions(self.data or ["samples"], general, self.test_ids, self.how, self.lfs).read()
        show_facts(check_fit(bundle, config), (lambda _: []) if quiet else format_lines)
        return bundle

    def to_options(self) -> list[str]:
        """Return options of `icft-lite train` that say the same."""
        given: list[tuple[str, Any]] = [("--data", one) for one in self.data]
        given += [("--general", one) for one in self.general]
        given += [("--lfs", path) for path in self.lfs]
        given += [("--test-ids", self.test_ids)] if self.test_ids else []
        given += [(f"--set=map.{name}", column) for name, column in self.how.columns.items()]
        given += [] if self.how.answers_from is None else [("--set=answers_from", self.how.answers_from)]
        return [f"{option}={value}" for option, value in (*given, ("--set=turns", self.how.turns))]

    def check_has_data(self) -> None:
        """Raise ICFTError for an option that says how data is read, where there is no --data."""
        given = {
            "general": self.general,
            "test-ids": self.test_ids,
            "map": self.how.columns,
            "answers-from": self.how.answers_from is not None,
            "turns": self.how.turns != "last",
            "lfs": self.lfs,
        }
        if not self.data and (name := next((name for name, value in given.items() if value), "")):
            raise ICFTError(f"--{name}: it belongs to --data; name the files, or --data samples")


def take_data_options(args: Namespace, settings: dict[str, Any]) -> DataOptions:
    """Return what a command line says about its data, and take it out of its `settings`. Raises ICFTError."""
    columns = {name: str(settings.pop(name)) for name in list(settings) if name.startswith("map.")}
    lfs, answers_from, turns = (settings.pop(name, None) for name in READING)
    number: Any = int(answers_from) if answers_from in ("0", "1") else answers_from
    return DataOptions(
        data=args.get("data") or args.get("files") or [],
        general=args.get("general") or [],
        test_ids=args.test_ids,
        how=ReadOptions(
            {name.removeprefix("map."): column for name, column in columns.items()}, number, turns or "last"
        ),
        lfs=[Path(one) for one in ([lfs] if isinstance(lfs, str) else lfs or [])],
    )


def check_columns(sources: Sequence[str], how: ReadOptions) -> None:
    """Raise ICFTError for a mapping of columns without a file that has columns."""
    if how.columns and {*sources} <= {"samples", "chat"}:
        raise ICFTError("--map: the samples have columns of their own; name a file with --data, or leave it out")


def check(args: Namespace, settings: dict[str, Any]) -> None:
    """Print what is understood of files: `icft-lite check`. Raises ICFTError if they cannot be trained on."""
    given = take_data_options(args, settings)
    config = ICFTConfig.from_dict(split_settings(settings)[0])
    from icft_lite.check import check_data
    from icft_lite.reporting.check_text import format_lines

    found = check_data(given.read(), config)
    show_facts(found, (lambda facts: [json.dumps(facts, indent=2, ensure_ascii=False)]) if args.json else format_lines)


def show_facts(facts: dict[str, Any], to_lines: Callable[[dict[str, Any]], list[str]]) -> None:
    """Print facts about data, of `check_data`. Raises ICFTError if the data cannot be trained on."""
    if is_main_process() and (lines := to_lines(facts)):
        print("\n".join(lines), flush=True)
    if facts["refusal"]:
        message, _, example = facts["refusal"].partition("\n\n")
        raise ICFTError(message, example)
