"""Two processes, launched as users launch them, equal one process with twice the batch size."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

import icft_lite
from icft_lite.data.samples import samples_dir
from icft_lite.data.sources import bundle_from_files
from icft_lite.errors import ICFTError
from icft_lite.training import loop as run_module
from icft_lite.training.checkpoint import load_state, stage_file
from icft_lite.training.loop import train_icft
from icft_lite.training.trainer import LOSSES
from icft_lite.utils.launch import launch_processes
from icft_lite.weak.files import load_lfs

SETTINGS = {
    "optim.max_steps": 6,
    "optim.batch_size": 6,
    "adapter.rank": 2,
    "adapter.alpha": 4,
    "loss.consistency_weight": 0.5,
    "loss.replay_weight": 0.25,
    "short_term.share": 0.25,
    "long_term.share": 0.4,
    "long_term.size": 40,
    "long_term.self_prompts": 4,
    "long_term.ema_decay": 0.5,
    "runtime.save_steps": 1,
}


@pytest.fixture
def sources(write):
    """(data, general): files with four examples of every topic: trusted, weak questions, weak pairs; general ones."""

    def some(*names):
        seen, selected = {}, []
        for name in names:
            for line in (samples_dir() / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
                example = json.loads(line)
                seen[name, example["topic"]] = seen.get((name, example["topic"]), 0) + 1
                selected += [example] if seen[name, example["topic"]] <= 4 else []
        return selected

    return (
        write("data.jsonl", some("medical_train", "medical_pool_questions", "medical_pool_pairs")),
        write("general.jsonl", some("general_memory")),
    )


def memory_ids(path):
    return [entry["example"]["id"] for entry in load_state(path)[1]["memory"]]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="accelerate starts one process on CPUs, and launch_processes needs exec")
def test_two_processes_killed_and_resumed_equal_one_with_twice_the_batch_size(sources, write, tmp_path, monkeypatch):
    data, general = sources
    settings = {**SETTINGS, "weak.soft_labels": True}  # L_task has examples
    functions = write("functions.py", "from icft_lite.weak.lfs.samples import sample_lfs\n\nLFS = sample_lfs()\n")
    out, single = tmp_path / "two", tmp_path / "one"
    command = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "-m",
        "icft_lite.cli",
        "train",
        "--data",
        str(data),
        "--general",
        str(general),
        "--lfs",
        str(functions),
        "--out",
        str(out),
    ]
    for name, value in settings.items():
        command += [f"--{name}={value}"] if name.startswith("runtime.") else ["--set", f"{name}={value}"]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment["PYTHONPATH"] = str(Path(icft_lite.__file__).parents[1])

    def launch():
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    launched = launch()  # killed in the second stage, all its processes at once
    while launched.poll() is None and not stage_file(out / "state", 1).exists():
        time.sleep(0.05)
    assert launched.poll() is None, launched.communicate()[0]
    memory = memory_ids(stage_file(out / "state", 1))
    for process in [*psutil.Process(launched.pid).children(recursive=True), psutil.Process(launched.pid)]:
        process.kill()
    launched.communicate()
    again = launch()
    output = again.communicate()[0]
    assert again.returncode == 0, output

    monkeypatch.setattr(run_module, "remove_superseded", lambda *args: None)
    monkeypatch.setattr(run_module, "clean_up", lambda *args: None)
    expected = train_icft(
        {**settings, "optim.batch_size": 2 * settings["optim.batch_size"]},
        single,
        bundle_from_files([data], [general], lfs=load_lfs(functions)),
        progress=False,
    )
    report = json.loads((out / "report.json").read_text())
    for name in ("total", *LOSSES):
        assert report["losses"][name] == pytest.approx(expected["losses"][name], abs=1e-4), name
    assert max(report["losses"]["consistency"]) > 0 and max(report["losses"]["task"]) > 0
    for name, norms in expected["gradient_norms"].items():
        assert report["gradient_norms"][name] == pytest.approx(norms, rel=1e-3, abs=1e-5), name
    assert memory == memory_ids(stage_file(single / "state", 1))
    for mine, one in zip(report["stages"], expected["stages"], strict=True):
        for key in ("steps", "tokens", "examples", "memory_examples", "candidates", "gated", "promoted", "evicted"):
            assert mine[key] == one[key], key
        assert mine["consolidation"]["alpha"] == one["consolidation"]["alpha"]
    for name in ("adapter", "adapter_fast"):
        ours, theirs = (load_file(folder / name / "adapter_model.safetensors") for folder in (out, single))
        for key, tensor in theirs.items():
            torch.testing.assert_close(ours[key], tensor, atol=2e-4, rtol=1e-3)

    # Only the main process writes files and prints.
    assert {path.name for path in out.iterdir()} == {path.name for path in single.iterdir()} - {"state", ".lock"}
    assert json.loads((out / "run.json").read_text())["processes"] == 2
    assert output.count("tiny: scoring") == output.count("resuming after stage 1") == output.count("stage 3 (") == 1
    with pytest.raises(ICFTError, match="holds another run.*processes: 2, now 1"):  # steps would differ
        train_icft(SETTINGS, out, bundle_from_files([data], [general], lfs=load_lfs(functions)), progress=False)


# ---------------------------------------------------------------- processes that accelerate does not start

LAUNCHED = dict(ACCELERATE_USE_CPU="True", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")


@pytest.fixture
def started(monkeypatch):
    """Commands that would replace this process."""
    commands = []
    monkeypatch.setattr(os, "execv", lambda program, command: commands.append(command))
    for name in ("RANK", "WORLD_SIZE", *LAUNCHED):
        monkeypatch.delenv(name, raising=False)
    return commands


def set_parent(monkeypatch, *command):
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: list(command))


@pytest.mark.parametrize("flag", [("--num_processes", "3"), ("--num-processes=3",)])
def test_missing_processes_are_started(started, monkeypatch, flag):
    set_parent(monkeypatch, "python", "accelerate", "launch", "--cpu", *flag, "-m", "icft_lite.cli", "train")
    launch_processes(["train", "--out", "o"])
    assert started == [], "accelerate did not launch this process"
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    launch_processes(["train", "--out", "o"])
    (command,) = started
    assert command[command.index("--nproc_per_node") + 1] == "3" and command[-4:] == [
        "icft_lite.cli",
        "train",
        "--out",
        "o",
    ]
    monkeypatch.setenv("RANK", "1")
    launch_processes(["train"])
    assert len(started) == 1, "a process with a rank starts no others"


def test_unknown_number_of_processes_is_an_error(started, monkeypatch):
    set_parent(monkeypatch, "python", "accelerate", "launch", "-m", "icft_lite.cli")
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="torchrun --nproc_per_node"):
        launch_processes(["train"])
    assert not started


def test_single_process():
    from icft_lite.utils.distributed import all_reduce_sum, on_main_process, rank, world_size

    tensor = torch.arange(3.0)
    all_reduce_sum([tensor])
    assert (rank(), world_size(), on_main_process(lambda: 7), tensor.tolist()) == (0, 1, 7, [0, 1, 2])
    with pytest.raises(ICFTError, match="full"):
        on_main_process(lambda: (_ for _ in ()).throw(ICFTError("full")))
