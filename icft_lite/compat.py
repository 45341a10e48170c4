"""Names of version 0.1: modules, settings, values and report fields, each in one table.

Settings, modules and attributes are accepted for one release. Levels and finished run folders stay
readable. `docs/upgrading.md` lists the names for users.
"""

import functools
import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from icft_lite.errors import ICFTError

P = ParamSpec("P")
R = TypeVar("R")
FORMAT = 2
"""Format number of run.json and report.json. Version 0.1 wrote no number: format 1."""
OLD_VERSION = "0.1"

SETTINGS = {
    "four_bit": "adapter.load_in_4bit",
    "lora_rank": "adapter.rank",
    "lora_alpha": "adapter.alpha",
    "max_length": "encoding.max_length",
    "letter_options": "encoding.letter_options",
    "share_prompts": "encoding.share_prompts",
    "learning_rate": "optim.learning_rate",
    "warmup": "optim.warmup_ratio",
    "epochs": "optim.num_epochs",
    "tokens": "optim.max_tokens",
    "max_steps": "optim.max_steps",
    "rows": "optim.batch_size",
    "consistency_weight": "loss.consistency_weight",
    "consistency_tokens": "loss.consistency_tokens",
    "task_weight": "loss.task_weight",
    "fine_tune_weight": "loss.fine_tune_weight",
    "replay_weight": "loss.replay_weight",
    "temperature": "loss.temperature",
    "pair_beta": "loss.pair_beta",
    "label_model": "weak.label_model",
    "least_posterior": "weak.min_posterior",
    "soft_labels": "weak.soft_labels",
    "order": "curriculum.order",
    "last_stage": "curriculum.last_stage_share",
    "signals": "curriculum.signals",
    "competence_start": "curriculum.competence_start",
    "competence_end": "curriculum.competence_end",
    "ring_share": "short_term.share",
    "ring_size": "short_term.size",
    "promote_after": "short_term.promote_after",
    "promote_confidence": "short_term.promote_confidence",
    "memory_share": "long_term.share",
    "memory_size": "long_term.size",
    "memory_policy": "long_term.policy",
    "reservoir_share": "long_term.reservoir_share",
    "self_prompts": "long_term.self_prompts",
    "ema_decay": "long_term.ema_decay",
    "consolidate": "consolidation.enabled",
    "exact_average": "consolidation.exact",
    "epsilon": "consolidation.max_drop",
}
"""Settings of the method: name in 0.1 → dotted name."""
RUNTIME_SETTINGS = {
    "save_every": "save_steps",
    "pack_rows": "packing",
    "micro_batches": "micro_batches",
    "unpack_below": "dequantize_below_mib",
    "state_dtype": "teacher_dtype",
    "states_in_memory": "teacher_memory_mib",
}
"""Settings of 0.1 that are RuntimeConfig's now."""
ZERO_IS_NONE = ("temperature", "max_steps", "tokens", "ema_decay", "save_every")
"""Settings whose 0 had a hidden meaning in 0.1; it is None now."""
LEVELS = {"middle": "medium"}
PRESETS = {"no_ring": "icft", "no_task": "icft"}
"""Presets without a part that is off by default now."""
MODULES: dict[str, Sequence[str]] = {
    "chat": ["chat"],
    "clock": ["training.events"],
    "config": ["config", "presets", "errors", "data.samples"],
    "consolidation": ["memory.consolidation"],
    "curriculum": ["curriculum", "data.schema", "modeling.encoding"],
    "encoding": ["modeling.encoding", "modeling.packing"],
    "evaluate": ["evaluation", "modeling.scoring", "modeling.generation", "finished_runs"],
    "experiment": ["experiments.compare", "experiments.settings", "experiments.demo"],
    "faults": ["errors"],
    "figures": ["reporting.figures", "reporting.labels", "reporting.style"],
    "files": ["utils.io"],
    "finished": ["finished_runs"],
    "jobs": ["experiments.jobs"],
    "kept": ["modeling.output_cache"],
    "label_models": ["weak.label_models"],
    "labelers": ["weak.lfs.samples"],
    "labels": ["training.examples"],
    "launch": ["utils.launch"],
    "lock": ["utils.lock"],
    "losses": ["modeling.losses"],
    "memory": ["memory", "memory.entries", "memory.long_term", "memory.teachers", "memory.policies"],
    "metrics": ["metrics", "statistics"],
    "model": ["modeling.base", "modeling.forward", "modeling.adapters", "utils.hardware"],
    "outcome": ["reporting.build", "utils.hardware"],
    "policies": ["memory.policies"],
    "processes": ["utils.distributed"],
    "progress": ["widgets.progress"],
    "pubmedqa": ["weak.lfs.pubmedqa"],
    "readers": ["data.readers", "data.files"],
    "records": ["data.schema", "data.formats", "data.conversion"],
    "rehearsal": ["memory.rehearsal"],
    "report": ["reporting.render", "reporting.figures", "reporting.labels", "reporting.style", "utils.io"],
    "run": ["training.loop"],
    "samples": ["data.samples", "data.bundle", "data.splits", "data.sources", "data.schema", "data.conversion"],
    "schedule": ["training.plan", "training.batches"],
    "stage": ["training.stage", "training.alpha"],
    "state": ["training.checkpoint"],
    "study": ["experiments.study"],
    "tables": ["data.tables"],
    "trainer": ["training.trainer"],
    "votes": ["experiments.blind_votes"],
    "widgets": ["widgets"],
}
"""Modules of 0.1 → where their names are now. Those that still exist have lost some of their names."""
NAMES: dict[str, str] = {
    "chat.KeepStages": "SaveStageAdapters",
    "chat.Talk": "ChatSession",
    "config.METHODS": "PRESETS",
    "consolidation.BACK": "BASE_ALPHAS",
    "consolidation.BEYOND": "EXTRAPOLATION_ALPHAS",
    "consolidation.LINE": "ALPHAS",
    "consolidation.average_step": "ema_step",
    "consolidation.blend": "interpolate",
    "curriculum.Drawer": "PacedSampler",
    "curriculum.best": "best_response",
    "curriculum.entropy": "label_entropy",
    "curriculum.without_prompt": "drop_prompt",
    "encoding.Encodings": "EncodedExamples",
    "encoding.encode_fitting": "encode_examples",
    "encoding.join": "join_batch",
    "encoding.length_groups": "group_by_length",
    "encoding.places": "place_sequences",
    "encoding.with_prompt": "supervise_prompt",
    "evaluate.ask": "generate_reply",
    "experiment.PLAIN": "DEMO_QLORA",
    "experiment.summarise": "summarize_run",
    "kept.Kept": "OutputCache",
    "labels.label_pool_rows": "make_training_examples",
    "lock.alone": "exclusive_lock",
    "memory.Entry": "MemoryEntry",
    "metrics.normalise_answer": "normalize_answer",
    "model.activate": "activate_adapter",
    "model.merged": "merged_adapter",
    "model.unpacked": "dequantize_base",
    "model.using": "use_adapter",
    "outcome.make_report": "build_report",
    "records.normalise": "normalize_example",
    "rehearsal.self_prompts": "generate_self_prompts",
    "samples.evaluation_rows": "evaluation_examples",
    "schedule.Item": "TrainingItem",
    "schedule.Step": "PlannedStep",
    "schedule.count": "num_tokens",
    "schedule.denominators": "normalizers",
    "schedule.plan_budget": "plan_token_budget",
    "schedule.split": "split_micro_batches",
    "state.STEP": "STEP_FILE",
    "votes.duel": "pairwise_result",
    "votes.duels": "pairwise_results",
    "widgets.fate_table": "outcome_table",
    "widgets.fates": "promotion_outcomes",
}
"""Functions and classes with another name: `module.name` in 0.1 → name now."""


class OldNameWarning(UserWarning):
    """A name of version 0.1 was used. It works until version 0.3."""


def _warn(text: str, stacklevel: int = 4) -> None:
    warnings.warn(f"{text} (docs/upgrading.md lists all new names)", OldNameWarning, stacklevel=stacklevel)


# --- settings


def rename_settings(settings: Mapping[str, Any], warn: bool = True) -> dict[str, Any]:
    """Return settings with the names of 0.1 replaced; those of RuntimeConfig get the prefix `runtime.`.

    Warns once, with a list of what was renamed. Raises ICFTError if the settings are no dict.
    """
    if not isinstance(settings, Mapping):
        raise ICFTError(f"settings: found a {type(settings).__name__}, expected a dict from names to values")
    renamed: dict[str, Any] = {}
    changed: list[str] = []
    for name, value in settings.items():
        new = SETTINGS.get(name) or (f"runtime.{RUNTIME_SETTINGS[name]}" if name in RUNTIME_SETTINGS else name)
        if new != name:
            changed.append(f"{name} → {new}")
            value = None if name in ZERO_IS_NONE and _is_zero(value) else value
        renamed[new] = PRESETS.get(str(value), value) if name == "method" else value
    if changed and warn:
        _warn(f"settings have new names: {', '.join(changed)}")
    return renamed


def split_settings(settings: Mapping[str, Any], warn: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings of ICFTConfig and those of RuntimeConfig (named `runtime.…` or by their name in 0.1)."""
    method: dict[str, Any] = {}
    runtime: dict[str, Any] = {}
    for name, value in rename_settings(settings, warn).items():
        if name == "runtime" and isinstance(value, Mapping):
            runtime |= value
        elif name.startswith("runtime."):
            runtime[name.removeprefix("runtime.")] = value
        else:
            method[name] = value
    return method, runtime


def _is_zero(value: Any) -> bool:
    try:
        return float(value) == 0
    except (TypeError, ValueError):
        return False


class AcceptsOldNames(type):
    """Metaclass of ICFTConfig: `ICFTConfig(method="qlora", tokens=1000)`, as in 0.1, still works, with a warning."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Build the configuration; keywords of 0.1 go through `from_dict`."""
        if kwargs.keys() & {*SETTINGS, *RUNTIME_SETTINGS, "method"}:
            if "method" in kwargs:
                _warn(f"ICFTConfig(method={kwargs['method']!r}) is now ICFTConfig.preset({kwargs['method']!r})", 3)
            return cls.from_dict(kwargs)  # type: ignore[attr-defined]
        return super().__call__(*args, **kwargs)


def renamed_keywords(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a decorator: a function still accepts its keywords of 0.1 ({old: new}), with a warning."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            for old in names.keys() & kwargs.keys():
                _warn(f"{function.__name__}({old}=…) is now {function.__name__}({names[old]}=…)", 3)
                kwargs[names[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate


def old_attribute(config: Any, name: str) -> Any:
    """Return the value of a setting under its name in 0.1, with a warning. Raises AttributeError for other names."""
    if name not in SETTINGS:
        raise AttributeError(f"{type(config).__name__} has no setting {name!r}")
    _warn(f"config.{name} is now config.{SETTINGS[name]}", 4)
    for part in SETTINGS[name].split("."):
        config = getattr(config, part)
    return config


# --- modules


class _OldModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds `icft_lite.NAME` for the modules of 0.1 that have moved; their names load on first use."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, name = fullname.rpartition(".")
        return importlib.machinery.ModuleSpec(fullname, self) if package == "icft_lite" and name in MODULES else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module, name = types.ModuleType(spec.name, "A module of version 0.1."), spec.name.rpartition(".")[2]
        _warn(f"icft_lite.{name} has moved to {' and '.join(f'icft_lite.{new}' for new in MODULES[name])}", 8)
        module.__getattr__ = lambda attribute: moved(name, attribute)  # type: ignore[method-assign]
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Do nothing: `moved` finds the names."""


def moved(old_module: str, name: str) -> Any:
    """Return what `icft_lite.old_module.name` was in 0.1. Raises AttributeError if there is no such thing."""
    if not name.startswith("__"):
        for new in MODULES.get(old_module, ()):
            found = vars(importlib.import_module(f"icft_lite.{new}"))
            for one in (name, NAMES.get(f"{old_module}.{name}", name)):
                if one in found:
                    if old_module in MODULES[old_module]:  # a module that has only lost names does not warn itself
                        _warn(f"icft_lite.{old_module}.{name} is now icft_lite.{new}.{one}", 4)
                    return found[one]
    raise AttributeError(f"module 'icft_lite.{old_module}' has no attribute {name!r}")


def install() -> None:
    """Make `import icft_lite.samples` and the other modules of 0.1 work (called once, by `icft_lite`)."""
    if not any(isinstance(finder, _OldModules) for finder in sys.meta_path):
        sys.meta_path.append(_OldModules())


# --- files


def migrate_report(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report in format 2; one of format 1 is converted, one of a later format refused with ICFTError."""
    if not isinstance(report, dict):
        raise ICFTError("report.json: it is not a report; restore the file, or run again in another folder")
    number = report.get("format", 1)
    if number > FORMAT:
        raise ICFTError(f"report.json has format {number}, this version reads up to {FORMAT}; upgrade icft-lite")
    if number == FORMAT:
        return report
    method, runtime = split_settings(report.get("config", {}), warn=False)
    data = _renamed(report.get("data", {}), {"cut_contexts": "truncated_contexts"})
    if "weak" in data:
        data["weak"] = _renamed(data["weak"], {"rows": "num_examples", "unsure_questions": "uncertain_questions"})
    stages = [_stage(stage) for stage in report.get("stages", [])]
    return {
        **_renamed(report, {"rows": "examples"}),
        "format": FORMAT,
        "config": nest(method),
        "runtime": runtime,
        "runtime_changes": [],
        "data": data,
        "stages": stages,
        **{name: _scores(report[name]) for name in ("scores", "validation") if name in report},
    }


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return dotted names as nested dicts."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        group, _, leaf = name.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[leaf] = value
    return nested


def _renamed(record: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in record.items()}


def _stage(stage: Mapping[str, Any]) -> dict[str, Any]:
    names = {"memory_rows": "memory_examples", "new_rows": "new_examples", "rows": "examples"}
    stage = _renamed(stage, names)
    found = _renamed(stage.get("consolidation", {}), {"points": "candidates"})
    return {**stage, "name": LEVELS.get(stage.get("name", ""), stage.get("name")), "consolidation": found}


def _scores(scores: Any) -> Any:
    """Return scores, at any depth, with today's names of the chance level and of levels."""
    if not isinstance(scores, Mapping):
        return scores
    return {
        {"option_floor": "option_chance", **LEVELS}.get(name, name): _scores(value) for name, value in scores.items()
    }
