"""The folder of a run: which run it contains, whether that is complete, and what changed since an interruption.

run.json        identity (configuration, data, base, processes), runtime settings and their changes; written first
state/          checkpoints and cached outputs; removed at the end
report.json     written last: its presence means a complete run
"""

import contextlib
import json
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from icft_lite import __version__
from icft_lite.compat import FORMAT, OLD_VERSION, split_settings
from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.errors import ICFTError
from icft_lite.modeling.base import model_fingerprint, tokenizer_fingerprint
from icft_lite.report_file import read_report
from icft_lite.training.checkpoint import RunPaths, last_saved_stage, load_state, remove_partial_files
from icft_lite.training.events import Events
from icft_lite.utils.distributed import world_size
from icft_lite.utils.io import to_plain, write_json
from icft_lite.utils.lock import LOCK, exclusive_lock

IDENTITY = ("config", "data", "base", "tokenizer", "processes")
"""Keys of run.json that identify the run. The others may change when an interrupted run is resumed."""


def run_identity(config: ICFTConfig, data: DataBundle, trainer: str = "") -> dict[str, Any]:
    """Return the values of IDENTITY, which two runs must have in common to be the same run, as plain JSON values.

    trainer: `trainer.trainer_identity`.
    """
    settings = config.to_dict() | ({"trainer": trainer} if trainer else {})
    identity = dict(
        config=settings,
        data=data.content_hash(),
        base=model_fingerprint(config.model),
        tokenizer=tokenizer_fingerprint(config.model),
        processes=world_size(),  # a step has batch_size sequences for each process
    )
    return json.loads(json.dumps(to_plain(identity)))


def open_run(
    lock: ExitStack, paths: RunPaths, identity: dict[str, Any], runtime: RuntimeConfig, events: Events
) -> dict[str, Any] | None:
    """Return the report of this run if it is complete, else None; then `lock` holds the folder's lock.

    Raises ICFTError if the folder holds something else, or a run that this version cannot resume.
    """
    report = finished_report(paths, identity)
    if report:
        events.say(f"{paths.out}: this run is complete; nothing to do")
        return report
    lock.enter_context(exclusive_lock(paths.out))
    remove_partial_files(paths.out, paths.state, paths.cache)
    report = finished_report(paths, identity)  # another process may have finished it meanwhile
    if not report:
        path = paths.out / "run.json"
        if path.exists() and differences(read_run_file(path), identity):
            shutil.rmtree(paths.state, ignore_errors=True)
            path.unlink()
        write_run_file(paths, identity, runtime, events)
    return report


def finished_report(paths: RunPaths, identity: dict[str, Any]) -> dict[str, Any] | None:
    """Return the report of this run if it is complete, else None.

    Raises ICFTError if the folder holds anything else. A run without a checkpoint may be replaced by another one.
    """
    path, out = paths.out / "run.json", paths.out
    if out.exists() and not out.is_dir():
        raise ICFTError(f"{out}: is a file; choose another --out")
    if not path.exists():
        if out.exists() and any(one.name != LOCK and one.suffix != ".part" for one in out.iterdir()):
            raise ICFTError(f"{out}: is not empty and holds no run; choose another --out")
        return None
    found, complete = read_run_file(path), (out / "report.json").exists()
    if found.get("format", 1) > FORMAT:
        raise ICFTError(
            f"{out}: holds a run of icft-lite {found.get('version')}, which is newer; upgrade icft-lite, "
            f"or choose another --out"
        )
    if found.get("format", 1) < FORMAT and not complete:
        raise ICFTError(
            f"{out}: holds an interrupted run of icft-lite {OLD_VERSION}, which version {__version__} cannot "
            f"resume; finish it with version {OLD_VERSION}, or choose another --out"
        )
    if different := differences(found, identity):
        if not complete and progress_of(paths) == (0, 0):
            return None  # it was refused or interrupted before its first checkpoint
        raise ICFTError(f"{out}: holds another run ({different}); choose another --out, or delete that folder")
    return read_report(out) if complete else None


def read_run_file(path: Path) -> dict[str, Any]:
    """Return run.json. Raises ICFTError if it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise ICFTError(f"{path}: cannot be read; restore the file, or choose another --out")
    return found


def differences(found: dict[str, Any], identity: dict[str, Any]) -> str:
    """Return in words how the identity in run.json differs from this run's; "" if it does not.

    Version 0.1 identified data by path: that of a finished run cannot be compared.
    """
    if found.get("format", 1) < FORMAT:
        config = ICFTConfig.from_dict(split_settings(found["config"], warn=False)[0])
        found = dict(
            identity,
            config=json.loads(json.dumps(config.to_dict())),
            base=found["base"],
            processes=found.get("processes", 1),
        )
    words = []
    for key in IDENTITY:
        mine, theirs = identity[key], found.get(key)
        if mine == theirs or (key in ("base", "tokenizer") and not theirs):  # unknown to an earlier version
            continue
        if isinstance(mine, dict) and isinstance(theirs, dict):
            words.append(f"other {key}: {', '.join(changed_keys(theirs, mine))}")
        else:
            words.append(f"another {key}" if key in ("base", "tokenizer") else f"{key}: {theirs}, now {mine}")
    return "; ".join(words)


def changed_keys(before: dict[str, Any], after: dict[str, Any], prefix: str = "") -> list[str]:
    """Return the dotted names of values that differ between two nested dicts."""
    names: list[str] = []
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            names += changed_keys(old, new, f"{prefix}{key}.")
        elif old != new:
            names.append(f"{prefix}{key}")
    return names


def write_run_file(paths: RunPaths, identity: dict[str, Any], runtime: RuntimeConfig, events: Events) -> None:
    """Write run.json, with any runtime setting that has changed since the run was interrupted."""
    path = paths.out / "run.json"
    before = read_run_file(path) if path.exists() else {}
    changes, now = list(before.get("runtime_changes", [])), runtime.to_dict()
    old = before.get("runtime", now)
    if old != now:
        stage, step = progress_of(paths)
        for name in changed_keys(old, now):
            changes.append(dict(after_stage=stage, step=step, setting=name, before=old.get(name), after=now.get(name)))
            events.say(f"runtime.{name}: {old.get(name)} before, now {now.get(name)}")
    write_json(path, dict(format=FORMAT, version=__version__, **identity, runtime=now, runtime_changes=changes))


def progress_of(paths: RunPaths) -> tuple[int, int]:
    """Return the number of finished stages, and the last saved step of the current one (0: none)."""
    stage, step = last_saved_stage(paths.state), 0
    if paths.step.exists():
        facts = load_state(paths.step)[1]
        step = facts["step"] if facts["stage"] == stage + 1 else 0
    return stage, step


def runtime_changes(paths: RunPaths) -> list[dict[str, Any]]:
    """Return the changes of runtime settings that run.json lists."""
    return json.loads((paths.out / "run.json").read_text(encoding="utf-8")).get("runtime_changes", [])


def clean_up(paths: RunPaths) -> None:
    """Remove what only an unfinished run needs."""
    shutil.rmtree(paths.state, ignore_errors=True)
    with contextlib.suppress(OSError):
        (paths.out / LOCK).unlink()
