"""Two processes, launched as users launch them: the losses, memory and adapter of one with twice the batch."""

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
from icft_lite.training import run as run_module
from icft_lite.training.checkpoint import load_state, stage_file
from icft_lite.training.run import train_icft
from icft_lite.training.trainer import LOSSES
from icft_lite.utils.launch import launch_processes

SETTINGS = dict(
    max_steps=6,
    rows=6,
    lora_rank=2,
    lora_alpha=4,
    self_prompts=4,
    memory_size=40,
    memory_share=0.4,
    ring_share=0.25,
    ema_decay=0.5,
    save_every=1,
    consistency_weight=0.5,
    replay_weight=0.25,
)


@pytest.fixture
def sources(write):
    """(data, general): files with some rows of every topic: trusted, weak questions, weak pairs; general ones."""

    def some(*names):
        seen, keep = {}, []
        for name in names:
            for line in (samples_dir() / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                seen[name, row["topic"]] = seen.get((name, row["topic"]), 0) + 1
                keep += [row] if seen[name, row["topic"]] <= 4 else []
        return keep

    return (
        write("data.jsonl", some("medical_train", "medical_pool_questions", "medical_pool_pairs")),
        write("general.jsonl", some("general_memory")),
    )


def ids(path):
    return [one["row"]["id"] for one in load_state(path)[1]["memory"]]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="accelerate starts one process on CPUs; the others are ours to start")
def test_two_processes_killed_and_resumed_are_one_with_twice_the_rows(sources, tmp_path, monkeypatch):
    data, general = sources
    out, alone = tmp_path / "two", tmp_path / "one"
    line = [
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
        "--out",
        str(out),
    ]
    for name, value in SETTINGS.items():
        line += ["--set", f"{name}={value}"]
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment["PYTHONPATH"] = str(Path(icft_lite.__file__).parents[1])

    def launch():
        return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    launched = launch()  # stopped in the second stage, all its processes at once
    while launched.poll() is None and not stage_file(out / "state", 1).exists():
        time.sleep(0.05)
    assert launched.poll() is None, launched.communicate()[0]
    remembered = ids(stage_file(out / "state", 1))
    for process in [*psutil.Process(launched.pid).children(recursive=True), psutil.Process(launched.pid)]:
        process.kill()
    launched.communicate()
    again = launch()
    said = again.communicate()[0]
    assert again.returncode == 0, said

    monkeypatch.setattr(run_module, "remove_superseded", lambda *args: None)
    monkeypatch.setattr(run_module, "_clear", lambda *args: None)
    expected = train_icft(
        {**SETTINGS, "rows": 2 * SETTINGS["rows"]}, alone, bundle_from_files([data], [general]), progress=False
    )
    report = json.loads((out / "report.json").read_text())
    for name in ("total", *LOSSES):
        assert report["losses"][name] == pytest.approx(expected["losses"][name], abs=1e-4), name
    assert max(report["losses"]["consistency"]) > 0 and max(report["losses"]["task"]) > 0
    for name, norms in expected["gradient_norms"].items():
        assert report["gradient_norms"][name] == pytest.approx(norms, rel=1e-3, abs=1e-5), name
    assert remembered == ids(stage_file(alone / "state", 1))
    for mine, one in zip(report["stages"], expected["stages"], strict=True):
        for key in ("steps", "tokens", "rows", "memory_rows", "candidates", "gated", "promoted", "evicted"):
            assert mine[key] == one[key], key
        assert mine["consolidation"]["alpha"] == one["consolidation"]["alpha"]
    for name in ("adapter", "adapter_fast"):
        ours, theirs = (load_file(folder / name / "adapter_model.safetensors") for folder in (out, alone))
        for key, tensor in theirs.items():
            torch.testing.assert_close(ours[key], tensor, atol=2e-4, rtol=1e-3)

    # Only the first process wrote, and spoke.
    assert {path.name for path in out.iterdir()} == {path.name for path in alone.iterdir()} - {"state", ".lock"}
    assert json.loads((out / "run.json").read_text())["processes"] == 2
    assert said.count("scoring") == said.count("resuming after stage 1") == said.count("stage 3 (") == 1
    with pytest.raises(ICFTError, match="holds another run"):  # one process would take other steps
        train_icft(SETTINGS, out, bundle_from_files([data], [general]), progress=False)


# ---------------------------------------------------------------- what accelerate leaves undone

LAUNCHED = dict(ACCELERATE_USE_CPU="True", MASTER_ADDR="127.0.0.1", MASTER_PORT="29500")


@pytest.fixture
def started(monkeypatch):
    """Lines that would take this process's place."""
    lines = []
    monkeypatch.setattr(os, "execv", lambda program, line: lines.append(line))
    for name in ("RANK", "WORLD_SIZE", *LAUNCHED):
        monkeypatch.delenv(name, raising=False)
    return lines


def parent(monkeypatch, *line):
    monkeypatch.setattr(psutil.Process, "cmdline", lambda self: list(line))


@pytest.mark.parametrize("flag", [("--num_processes", "3"), ("--num-processes=3",)])
def test_the_processes_that_accelerate_was_asked_for_are_started(started, monkeypatch, flag):
    parent(monkeypatch, "python", "accelerate", "launch", "--cpu", *flag, "-m", "icft_lite.cli", "train")
    launch_processes(["train", "--out", "o"])
    assert started == [], "nobody asked"
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    launch_processes(["train", "--out", "o"])
    (line,) = started
    assert line[line.index("--nproc_per_node") + 1] == "3" and line[-4:] == ["icft_lite.cli", "train", "--out", "o"]
    monkeypatch.setenv("RANK", "1")
    launch_processes(["train"])
    assert len(started) == 1, "a process that was started starts no others"


def test_a_number_that_cannot_be_found_is_asked_for(started, monkeypatch):
    parent(monkeypatch, "python", "accelerate", "launch", "-m", "icft_lite.cli")
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="torchrun --nproc_per_node"):
        launch_processes(["train"])
    assert not started


def test_one_process_is_the_first_and_alone():
    from icft_lite.utils.distributed import all_reduce_sum, on_main_process, rank, world_size

    tensor = torch.arange(3.0)
    all_reduce_sum([tensor])
    assert (rank(), world_size(), on_main_process(lambda: 7), tensor.tolist()) == (0, 1, 7, [0, 1, 2])
    with pytest.raises(ICFTError, match="full"):
        on_main_process(lambda: (_ for _ in ()).throw(ICFTError("full")))
