"""Runs that are stopped, killed, or out of disk: the same line again ends as if nothing had happened."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_run import SETTINGS, small_bundle

import icft_lite
from icft_lite import cli
from icft_lite.errors import ICFTError
from icft_lite.memory import consolidation
from icft_lite.memory import long_term as memory
from icft_lite.modeling import cache as kept
from icft_lite.training import checkpoint as state
from icft_lite.training import run as run_module
from icft_lite.training import stage as stage_module
from icft_lite.training.checkpoint import STEP_FILE, load_state, remove_partial_files, save_state
from icft_lite.training.run import train_icft
from icft_lite.training.trainer import ICFTTrainer
from icft_lite.utils import io as files
from icft_lite.utils.io import write_json
from icft_lite.utils.lock import LOCK, alone


@pytest.fixture(scope="module")
def bundle():
    return small_bundle()


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(run_module, "write_report", lambda report, out: write_json(out / "report.json", report))


def result(out):
    """What must not depend on interruptions: both adapters, and the report without what was measured."""
    report = json.loads((out / "report.json").read_text())
    for name in ("seconds", "by_part", "peak_memory_bytes"):
        del report["cost"][name]
    for stage in report["stages"]:
        del stage["seconds"]
    del report["config"]["save_every"]
    files = [
        out / name / f"adapter_{part}"
        for name in ("adapter", "adapter_fast")
        for part in ("model.safetensors", "config.json")
    ]
    return [file.read_bytes() for file in files], report


# ---------------------------------------------------------------- stopped anywhere


def stop(call=1, after=False, error=KeyboardInterrupt, only=""):
    """A patch for a function: its `call`-th call (of those with `only` in their last argument) raises."""

    def patch(function):
        def patched(*args, **kwargs):
            patched.calls += only in str(args[-1])
            if patched.calls == call and not after:
                raise error
            value = function(*args, **kwargs)
            if patched.calls == call:
                raise error
            return value

        patched.calls = 0
        return patched

    return patch


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
MOMENTS = [  # in the order of the run; each attempt must come as far as its own
    ("while the memory is seeded", run_module, "seed_memory", stop()),
    ("in the first step", ICFTTrainer, "compute_loss", stop()),
    ("in the second step, the slow adapter moved already", ICFTTrainer, "close_step", stop(2)),
    ("while a step is saved", files.os, "replace", stop(only=STEP_FILE)),
    ("just after a step is saved", stage_module, "save_state", stop(after=True)),
    ("in promotion", stage_module, "promote", stop()),
    ("in consolidation, between two points", consolidation, "interpolate", stop(3)),
    ("between consolidation and the stage's state", run_module, "by_level", stop()),
    ("while the stage's state is saved", files.os, "replace", stop(only="stage1")),
    ("before the older states are removed", run_module, "remove_superseded", stop()),
    ("the disk is full in stage 2", files.os, "replace", stop(2, error=FULL, only=STEP_FILE)),
    ("promoted, not yet consolidated", stage_module, "promote", stop(after=True)),
    ("in stage 3, between two steps", ICFTTrainer, "close_step", stop(3, after=True)),
    ("between the two adapters", run_module, "save_adapter", stop(2)),
    ("the adapters saved, no report", run_module, "build_report", stop()),
    ("the report written, the state still there", run_module, "_clear", stop()),
]


def test_a_run_stopped_again_and_again_ends_with_the_same_bytes(bundle, tmp_path, monkeypatch, no_figures):
    asked = []
    for module, name in ((kept, "score_responses"), (memory, "response_states")):
        monkeypatch.setattr(
            module, name, lambda model, rows, work=getattr(module, name): asked.append(len(rows)) or work(model, rows)
        )
    train_icft({**SETTINGS, "save_every": 0}, tmp_path / "untouched", bundle, progress=False)
    once = list(asked)
    asked.clear()
    out, losses, compute_loss = tmp_path / "stopped", [], ICFTTrainer.compute_loss
    for moment, where, name, patch in MOMENTS:
        with monkeypatch.context() as patched:
            patched.setattr(
                ICFTTrainer, "compute_loss", lambda *args, **kwargs: losses.append(1) or compute_loss(*args, **kwargs)
            )
            patched.setattr(where, name, patch(getattr(where, name)))
            expected = ICFTError if "full" in moment else KeyboardInterrupt
            with pytest.raises(expected) as stopped:
                train_icft(SETTINGS, out, bundle, progress=False)
            assert not list(out.rglob("*.part")), moment
        if expected is ICFTError:
            assert "No space left" in str(stopped.value) and "the same line again resumes" in str(stopped.value)
            assert load_state(out / "state" / STEP_FILE)[1]["step"] == 1, "the state before it is kept"
    train_icft(SETTINGS, out, bundle, progress=False)
    assert result(out) == result(tmp_path / "untouched")
    assert len(losses) <= 18 + 12, "what was saved is not trained again"
    assert asked == once and len(once) == 1 + 1 + 2 * 2, "difficulty and teachers are not asked for again"
    assert sorted(path.name for path in out.iterdir()) == sorted(p.name for p in (tmp_path / "untouched").iterdir())


# ---------------------------------------------------------------- killed


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_twelve_kills_at_random_moments_change_no_byte(tmp_path):
    """Another process each time, with its own hash seed. A run that gets done between kills starts anew."""
    draw, script = random.Random(12), Path(__file__).with_name("small_run.py")

    def start(out):
        root = Path(icft_lite.__file__).parents[1]
        process = subprocess.Popen(
            [sys.executable, str(script), str(out)],
            stdout=subprocess.PIPE,
            text=True,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        assert process.stdout.readline() == "ready\n"
        return process

    untouched, began = start(tmp_path / "untouched"), time.monotonic()
    assert untouched.wait() == 0
    whole = time.monotonic() - began
    outs, kills = [tmp_path / "killed-0"], 0
    while kills < 12:
        process = start(outs[-1])
        try:
            process.wait(draw.uniform(0, whole))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)  # it may get done at this very moment
        if process.wait() == 0:
            outs.append(tmp_path / f"killed-{len(outs)}")
        else:
            assert process.returncode == -signal.SIGKILL
            kills += 1
    if outs[-1].exists():
        assert start(outs[-1]).wait() == 0
    for out in filter(Path.exists, outs):
        assert result(out) == result(tmp_path / "untouched")
        assert not (out / "state").exists() and not list(out.rglob(".*"))


# ---------------------------------------------------------------- the saved state


def test_a_state_comes_back_exactly(tmp_path):
    groups = {"exp_avg.A": [torch.randn(3, 5).T, torch.tensor(7.0)], "fast": [torch.randn(2).half() for _ in range(12)]}
    facts = dict(step=3, text="naïve \u2028 \ud800 \\", numbers=[1 / 3, 1e-320, -0.0, 2**70], none=None)
    save_state(tmp_path / "new" / STEP_FILE, groups, facts)
    tensors, back = load_state(tmp_path / "new" / STEP_FILE)
    assert back == facts and set(tensors) == set(groups)
    for name, many in groups.items():
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(many, tensors[name], strict=True))


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_keeps_the_state_before(tmp_path, monkeypatch, where):
    path = tmp_path / STEP_FILE
    save_state(path, dict(fast=[torch.ones(3)]), dict(step=1))
    monkeypatch.setattr(files.os, where, stop(error=FULL)(getattr(os, where)))
    with pytest.raises(ICFTError, match="No space left on device.*the same line again resumes") as error:
        save_state(path, dict(fast=[torch.zeros(3)]), dict(step=2))
    assert "\n" not in str(error.value) and [p.name for p in tmp_path.iterdir()] == [STEP_FILE]
    assert load_state(path)[1] == dict(step=1)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    (tmp_path / ".step.safetensors.123.part").write_text("half")
    (tmp_path / "mine.part").write_text("whole")
    remove_partial_files(tmp_path, tmp_path / "absent")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.part"]


def test_a_kill_before_the_run_has_a_name_leaves_a_folder_that_can_be_used(tmp_path):
    (tmp_path / LOCK).touch()
    (tmp_path / ".run.json.123.part").write_text("{")
    assert run_module._finished(tmp_path, {}) is None


# ---------------------------------------------------------------- one process to a folder


def test_a_second_process_is_refused(bundle, tmp_path, write, capsys):
    data = write("mine.jsonl", [{"prompt": f"question {i}?", "completion": f"reply {i}"} for i in range(30)])
    out = tmp_path / "run"
    with alone(out):
        before = list(out.rglob("*"))
        with pytest.raises(ICFTError, match="another process is at work"):
            train_icft(SETTINGS, out, bundle)
        assert cli.main(["train", "--data", str(data), "--out", str(out)]) == 2
        err = capsys.readouterr().err
        assert "another process is at work" in err and err.count("\n") == 1
        assert list(out.rglob("*")) == before
    with alone(out):
        pass


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_process_holds_nothing(tmp_path):
    code = (
        "import sys, time; from icft_lite.utils.lock import alone\n"
        "with alone(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    root = Path(icft_lite.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ICFTError, match="another process"), alone(tmp_path):
        pass
    process.kill()
    process.wait()
    with alone(tmp_path):
        pass


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    lock = pytest.importorskip("fcntl")
    monkeypatch.setattr(lock, "flock", stop(error=OSError(errno.ENOSYS, "not implemented"))(lock.flock))
    with alone(tmp_path):
        assert state  # the block runs
