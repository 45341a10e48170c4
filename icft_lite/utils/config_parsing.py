"""Settings by dotted name: from text, YAML or dicts to a frozen configuration class, types and ranges checked.

A configuration class is a frozen dataclass whose name ends in `Config`; its fields are settings, or groups of settings.
"""

import dataclasses
import difflib
import functools
import math
import re
from argparse import Action
from collections.abc import Callable, Iterator, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from icft_lite.errors import ICFTError, short_reason

T = TypeVar("T")


def setting_types(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted name, type) of every setting of a configuration class, groups expanded."""
    kinds = get_type_hints(cls)
    for name in (one.name for one in dataclasses.fields(cls) if one.init):
        kind = kinds[name]
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            yield from setting_types(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, kind


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts (or configuration groups) as one dict of dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            value = to_dict(value)
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as nested plain values: tuples become lists."""
    return {
        name: to_dict(value) if dataclasses.is_dataclass(value) else list(value) if isinstance(value, tuple) else value
        for name, value in ((f.name, getattr(config, f.name)) for f in dataclasses.fields(config))
    }


def check_settings(
    config: Any, *, positive: tuple[str, ...] = (), not_negative: tuple[str, ...] = (), shares: tuple[str, ...] = ()
) -> None:
    """Raise ICFTError for a value of another type, outside its range, or outside its `Literal`.

    None is always in range.
    """
    rules: list[tuple[tuple[str, ...], Callable[[Any], bool], str]] = [
        (positive, lambda value: 0 < value < math.inf, "a number above 0"),
        (not_negative, lambda value: 0 <= value < math.inf, "0 or more"),
        (shares, lambda value: 0 <= value <= 1, "a number between 0 and 1"),
    ]
    for names, ok, expected in rules:
        for name in names:
            value = getattr(config, name)
            try:
                in_range = value is None or ok(value)
            except TypeError:  # text, where a number is needed
                in_range = False
            if not in_range:
                raise ICFTError(f"{prefix_of(type(config))}{name}: {value!r} is not possible; give {expected}")
    for name, kind in get_type_hints(type(config)).items():
        value, many = getattr(config, name), get_origin(kind) is tuple
        if not _fits(value, kind):
            raise ICFTError(f"{prefix_of(type(config))}{name}: {value!r} is not possible; give {describe_type(kind)}")
        choices = get_args(get_args(kind)[0] if many else kind)
        if get_origin(get_args(kind)[0] if many else kind) is Literal:
            for one in value if many else [value]:
                if one not in choices:
                    raise ICFTError(
                        f"{prefix_of(type(config))}{name}: {one!r} is unknown; "
                        f"choose {'among' if many else 'one of'} {', '.join(choices)}"
                    )


def _fits(value: Any, kind: Any) -> bool:
    """Return whether a value has the type of a setting; of a `Literal`, whether it may be checked against it."""
    if get_origin(kind) is Literal:
        return True
    if get_origin(kind) is tuple:
        return isinstance(value, tuple | list) and all(_fits(one, get_args(kind)[0]) for one in value)
    if get_args(kind):
        return any(_fits(value, one) for one in get_args(kind))
    number = {int: Integral, float: Real}.get(kind)
    if number:
        return isinstance(value, number) and not isinstance(value, bool)
    return isinstance(value, kind)


def prefix_of(cls: type) -> str:
    """Return the prefix of a class's settings, for example `optim.` for OptimConfig; "" for ICFTConfig."""
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", cls.__name__.removesuffix("Config")).lower()
    return "" if name == "icft" else f"{name}."


@functools.cache
def _parser(cls: type) -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "config")
    return parser


def build(cls: type[T], flat: Mapping[str, Any]) -> T:
    """Return a configuration from dotted names, with text converted to the type of its setting.

    Raises ICFTError for an unknown name, a value of the wrong type, or one out of range.
    """
    types, prefix, parser = dict(setting_types(cls)), prefix_of(cls), _parser(cls)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, value in flat.items():
        if value is None and any(known.startswith(f"{name}.") for known in types):
            continue  # a group without settings, as YAML has it when all its lines are comments
        if name not in types:
            raise ICFTError(f"settings: {prefix}{name} is not a setting; {_hint(name, types, prefix)}")
        if get_origin(types[name]) is tuple and isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if isinstance(value, str) and value.lower() == "none" and type(None) in get_args(types[name]):
            value = None
        values[f"config.{name}"] = list(value) if isinstance(value, tuple) else value
        try:
            if value is None and type(None) not in get_args(types[name]):  # the parser takes None for "not given"
                raise ArgumentError(None, "None")
            parser.parse_object({f"config.{name}": values[f"config.{name}"]})
        except ArgumentError:
            raise ICFTError(f"{prefix}{name}: {value!r} is not possible; give {describe_type(types[name])}") from None
    return parser.instantiate(parser.parse_object(values)).config


def _hint(name: str, known: Mapping[str, Any], prefix: str = "") -> str:
    if name.startswith("runtime."):
        return "it belongs to RuntimeConfig, which `train_icft` takes as `runtime`"
    if members := [one for one in known if one.startswith(f"{name}.")]:
        return f"it is a group of settings; name one of them, such as {members[0]}"
    leaf = name.rpartition(".")[2]
    near = [one for one in known if one.rpartition(".")[2] == leaf] or difflib.get_close_matches(name, known, 1, 0.5)
    return f"did you mean {prefix}{near[0]}?" if near else "`icft-lite train --help` lists the settings"


def describe_type(kind: Any) -> str:
    """Return what a setting of this type takes, in words."""
    if get_origin(kind) is tuple:
        return f"a list: {describe_type(get_args(kind)[0])}, separated by commas"
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if type(None) in get_args(kind):
        return f"{describe_type(get_args(kind)[0])}, or null"
    known = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return known.get(kind) or f"a {kind.__name__}"


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a YAML file by dotted name. Raises ICFTError."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.YAMLError as error:
        raise ICFTError(f"{path}: not YAML ({' '.join(str(error).split())}); fix the file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ICFTError(f"{path}: cannot be read ({short_reason(error)}); give a YAML file") from None
    if not isinstance(values, dict):
        raise ICFTError(f"{path}: it holds no settings; write lines of NAME: VALUE")
    return flatten(values)


class HelpFormatter(DefaultHelpFormatter):
    """Help texts that do not say "default: null" of an option that may be left out."""

    def _get_help_string(self, action: Action) -> str:
        text = super()._get_help_string(action)
        return text if action.default else text.removesuffix(" (default: %(default)s)")
