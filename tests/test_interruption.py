"""Runs that are stopped, killed, or out of disk space: the same command again gives the same result."""

import dataclasses
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
from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.errors import ICFTError
from icft_lite.memory import consolidation, teachers
from icft_lite.modeling import output_cache as cache_module
from icft_lite.modeling.losses import LOSSES
from icft_lite.training import loop as loop_module
from icft_lite.training import prepare as prepare_module
from icft_lite.training import stage as stage_module
from icft_lite.training.checkpoint import STEP_FILE, RunPaths, load_state, remove_partial_files, save_state
from icft_lite.training.loop import train_icft
from icft_lite.training.run_folder import finished_report
from icft_lite.training.trainer import ICFTTrainer
from icft_lite.utils import io as files
from icft_lite.utils.io import write_json
from icft_lite.utils.lock import LOCK, exclusive_lock


@pytest.fixture(scope="module")
def bundle():
    return small_bundle()


METHOD = {name: value for name, value in SETTINGS.items() if not name.startswith("runtime.")}


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(
        loop_module, "write_report", lambda report, out, problems: write_json(out / "report.json", report)
    )


def count_queries(monkeypatch):
    """Return a list to which each computation of cached outputs adds its number of examples."""
    calls = []

    def record(function):
        return lambda model, encoded: calls.append(len(encoded)) or function(model, encoded)

    for module, name in ((cache_module, "score_responses"), (teachers, "response_states")):
        monkeypatch.setattr(module, name, record(getattr(module, name)))
    return calls


def result(out):
    """Return what must not depend on interruptions: both adapters, and the report without measured times and memory."""
    report = json.loads((out / "report.json").read_text())
    for name in ("seconds", "by_part", "peak_memory_bytes"):
        del report["cost"][name]
    for stage in report["stages"]:
        del stage["seconds"]
    del report["runtime"]["save_steps"]
    parts = ("adapter_model.safetensors", "adapter_config.json")
    return [(out / name / part).read_bytes() for name in ("adapter", "adapter_fast") for part in parts], report


# --- stopped at any moment


def stop(call=1, after=False, error=KeyboardInterrupt, only=""):
    """Return a patch for a function: its `call`-th call (of those with `only` in their last argument) raises."""

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
MOMENTS = [  # in the order of the run; each attempt must get as far as its own moment
    ("while the memory is seeded", prepare_module, "seed_memory", stop()),
    ("in the first step", ICFTTrainer, "compute_loss", stop()),
    ("in the second step, after the slow adapter is updated", ICFTTrainer, "close_step", stop(2)),
    ("while a step is saved", files.os, "replace", stop(only=STEP_FILE)),
    ("just after a step is saved", stage_module, "save_state", stop(after=True)),
    ("in promotion", stage_module, "promote", stop()),
    ("in consolidation, between two candidates", consolidation, "interpolate", stop(3)),
    ("between consolidation and the stage's checkpoint", stage_module, "accuracy_by_level", stop()),
    ("while the stage's checkpoint is saved", files.os, "replace", stop(only="stage1")),
    ("before superseded checkpoints are removed", loop_module, "remove_superseded", stop()),
    ("the disk is full in stage 2", files.os, "replace", stop(2, error=FULL, only=STEP_FILE)),
    ("promoted, not yet consolidated", stage_module, "promote", stop(after=True)),
    ("in stage 3, between two steps", ICFTTrainer, "close_step", stop(3, after=True)),
    ("between the two adapters", loop_module, "save_adapter", stop(2)),
    ("after the adapters are saved, before the report", loop_module, "build_report", stop()),
    ("after the report is written, before the checkpoints are removed", loop_module, "clean_up", stop()),
]


@pytest.fixture(scope="module")
def untouched(bundle, tmp_path_factory):
    """(folder, queries) of a run that is not interrupted and saves a checkpoint at the end of each stage only."""
    out = tmp_path_factory.mktemp("run") / "untouched"
    with pytest.MonkeyPatch.context() as patched:
        queries = count_queries(patched)
        patched.setattr(
            loop_module, "write_report", lambda report, out, problems: write_json(out / "report.json", report)
        )
        train_icft({**METHOD, "runtime.save_steps": 1000}, out, bundle, progress=False)
    return out, queries


def test_a_run_stopped_again_and_again_ends_with_the_same_bytes(bundle, untouched, tmp_path, monkeypatch, no_figures):
    queries = count_queries(monkeypatch)
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
            assert "No space left" in str(stopped.value) and "same command again" in str(stopped.value)
            assert load_state(out / "state" / STEP_FILE)[1]["step"] == 1, "the checkpoint before it is intact"
    train_icft(SETTINGS, out, bundle, progress=False)
    assert result(out) == result(untouched[0])
    assert len(losses) <= 18 + 12, "steps that were saved are not trained again"
    assert queries == untouched[1] and len(queries) == 1 + 1 + 2 * 2, "difficulty and teachers are computed once"
    assert sorted(path.name for path in out.iterdir()) == sorted(path.name for path in untouched[0].iterdir())


# --- resumed with other runtime settings


def stop_in_stage_2(out, bundle, settings, monkeypatch):
    """Train until step 2 of stage 2 is saved."""
    save = stage_module.save_state

    def stopping(path, groups, facts):
        save(path, groups, facts)
        if facts["stage"] == 2 and facts["step"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(stage_module, "save_state", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_icft(settings, out, bundle, progress=False)


def test_runtime_settings_may_change_while_a_run_is_interrupted(
    bundle, untouched, tmp_path, monkeypatch, no_figures, capsys
):
    out, expected = tmp_path / "run", json.loads((untouched[0] / "report.json").read_text())
    stop_in_stage_2(out, bundle, SETTINGS, monkeypatch)
    runtime = RuntimeConfig(save_steps=3, micro_batches=3, packing=False, teacher_memory_mib=0)
    elsewhere = dataclasses.replace(bundle, sources={"another/path.jsonl": "x"})  # the same examples
    calls, compute_loss = [], ICFTTrainer.compute_loss
    monkeypatch.setattr(ICFTTrainer, "compute_loss", lambda *a, **k: calls.append(1) or compute_loss(*a, **k))
    report = train_icft(ICFTConfig.from_dict(METHOD), out, elsewhere, runtime=runtime)
    said = capsys.readouterr().out
    assert "resuming after stage 1" in said and "resuming stage 2 after step 2" in said
    assert "runtime.micro_batches: None before, now 3" in said
    done = report["stages"][0]["steps"] + 2
    assert report["losses"]["step"] == expected["losses"]["step"] and len(report["losses"]["step"]) == 18 > done + 10
    assert len(calls) == 3 * (18 - done), "three micro-batches for each step"
    for name in ("total", *LOSSES):
        found, other = report["losses"][name], expected["losses"][name]
        assert found[:done] == other[:done] and found[done:] == pytest.approx(other[done:], abs=1e-4), name
    assert report["runtime"] == runtime.to_dict() and report["config"] == expected["config"]
    before = RuntimeConfig(save_steps=1).to_dict()
    names = ["save_steps", "micro_batches", "packing", "teacher_memory_mib"]
    assert report["runtime_changes"] == [
        dict(after_stage=1, step=2, setting=name, before=before[name], after=runtime.to_dict()[name]) for name in names
    ]
    assert json.loads((out / "run.json").read_text())["runtime_changes"] == report["runtime_changes"]


def test_each_change_of_runtime_settings_is_listed(bundle, tmp_path, monkeypatch, no_figures):
    out = tmp_path / "run"
    for value in (2, 2, 4):
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(prepare_module, "seed_memory", stop()(None))
            train_icft({**SETTINGS, "runtime.micro_batches": value}, out, bundle, progress=False)
    changes = json.loads((out / "run.json").read_text())["runtime_changes"]
    assert changes == [dict(after_stage=0, step=0, setting="micro_batches", before=2, after=4)]
    stop_in_stage_2(out, bundle, {**SETTINGS, "runtime.micro_batches": 4}, monkeypatch)  # leaves a checkpoint
    with pytest.raises(ICFTError, match=r"another run .other config: optim.learning_rate; other data: trusted."):
        train_icft({**SETTINGS, "optim.learning_rate": 1e-4}, out, dataclasses.replace(bundle, trusted=None))
    assert json.loads((out / "run.json").read_text())["runtime_changes"] == changes


# --- killed


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_twelve_kills_at_random_moments_change_no_byte(tmp_path):
    """Each process has its own hash seed. Where a run finishes before it is killed, the next one has a new folder."""
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
            process.send_signal(signal.SIGKILL)  # it may finish at this very moment
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


# --- checkpoints


def test_a_checkpoint_is_restored_exactly(tmp_path):
    groups = {"exp_avg.A": [torch.randn(3, 5).T, torch.tensor(7.0)], "fast": [torch.randn(2).half() for _ in range(12)]}
    facts = dict(step=3, text="naïve \u2028 \ud800 \\", numbers=[1 / 3, 1e-320, -0.0, 2**70], none=None)
    save_state(tmp_path / "new" / STEP_FILE, groups, facts)
    tensors, back = load_state(tmp_path / "new" / STEP_FILE)
    assert back == facts and set(tensors) == set(groups)
    for name, many in groups.items():
        assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(many, tensors[name], strict=True))


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_full_disk_leaves_the_previous_checkpoint_intact(tmp_path, monkeypatch, where):
    path = tmp_path / STEP_FILE
    save_state(path, dict(fast=[torch.ones(3)]), dict(step=1))
    monkeypatch.setattr(files.os, where, stop(error=FULL)(getattr(os, where)))
    with pytest.raises(ICFTError, match="No space left on device.*run the same command again to resume") as error:
        save_state(path, dict(fast=[torch.zeros(3)]), dict(step=2))
    assert "\n" not in str(error.value) and [p.name for p in tmp_path.iterdir()] == [STEP_FILE]
    assert load_state(path)[1] == dict(step=1)


def test_half_written_files_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".step.safetensors.123.part").write_text("half")
    (tmp_path / "mine.part").write_text("whole")
    remove_partial_files(tmp_path, tmp_path / "absent")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.part"]


def test_a_folder_of_a_run_killed_before_run_json_was_written_can_be_used(tmp_path):
    (tmp_path / LOCK).touch()
    (tmp_path / ".run.json.123.part").write_text("{")
    assert finished_report(RunPaths(tmp_path), {}) is None


# --- one process for each folder


def test_a_second_process_is_refused(bundle, tmp_path, write, capsys):
    data = write("mine.jsonl", [{"prompt": f"question {i}?", "completion": f"reply {i}"} for i in range(30)])
    out = tmp_path / "run"
    with exclusive_lock(out):
        before = list(out.rglob("*"))
        with pytest.raises(ICFTError, match="another process is at work"):
            train_icft(SETTINGS, out, bundle)
        assert cli.main(["train", "--data", str(data), "--out", str(out)]) == 2
        err = capsys.readouterr().err
        assert "another process is at work" in err and err.count("\n") == 1
        assert list(out.rglob("*")) == before
    with exclusive_lock(out):
        pass


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_process_holds_no_lock(tmp_path):
    code = (
        "import sys, time; from icft_lite.utils.lock import exclusive_lock\n"
        "with exclusive_lock(sys.argv[1]): print('held', flush=True); time.sleep(60)"
    )
    root = Path(icft_lite.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ICFTError, match="another process"), exclusive_lock(tmp_path):
        pass
    process.kill()
    process.wait()
    with exclusive_lock(tmp_path):
        pass


def test_a_file_system_without_locks_can_be_used(tmp_path, monkeypatch):
    lock = pytest.importorskip("fcntl")
    monkeypatch.setattr(lock, "flock", stop(error=OSError(errno.ENOSYS, "not implemented"))(lock.flock))
    with pytest.warns(UserWarning, match="has no file locks.*only one process"), exclusive_lock(tmp_path):
        ran = True
    assert ran and [path.name for path in tmp_path.iterdir()] == [LOCK], "no marker file that survives a kill"
