"""Runs beside one another: each gets its own settings, a failure stops them all, and the results are the same."""

import json
import sys
import time

import pytest
import small_run
from small_run import SETTINGS, small_bundle

from icft_lite import cli
from icft_lite.config import METHODS, ICFTConfig
from icft_lite.errors import ICFTError
from icft_lite.experiments import jobs
from icft_lite.experiments.compare import DEMO, compare, run_demo
from icft_lite.experiments.jobs import available_cores, config_flags, default_jobs, run_jobs

STAND_IN = """
import os, pathlib, sys, time
out, mine = next(pathlib.Path(word[6:]) for word in sys.argv if word.startswith("--out=")), sys.argv[1:]
print("stage 1:  50%|#####     | 1/2", end="\\r", flush=True)
out.mkdir()
if "--set=seed=9" in mine:
    sys.exit("icft-lite: data: no training row is left")
other = out.with_name({"one": "two", "two": "one"}.get(out.name, out.name))
deadline = time.time() + 60
while not other.exists():
    if time.time() > deadline:
        sys.exit("alone")
    time.sleep(0.02)
(out / "said").write_text(os.environ["OMP_NUM_THREADS"] + " ".join(mine))
print("done", flush=True)
"""


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A script in the place of `icft-lite train`."""
    script = tmp_path / "train.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(jobs, "TRAIN", [sys.executable, str(script)])
    return tmp_path


MANY = dict(
    method="qlora",
    order="easy_to_hard",
    four_bit=False,
    learning_rate=3e-4,
    signals=("ifd", "length"),
    tokens=123,
    label_model="majority_vote",
    topics=("anatomy", "reply"),
)


@pytest.mark.parametrize("settings", [*(dict(method=name, seed=3) for name in METHODS), MANY])
def test_the_command_line_says_the_same_settings(settings):
    config = ICFTConfig(**settings)
    args = cli.build_parser().parse_args(["train", "--out", "o", *config_flags(config)])
    assert cli.read_config(args) == config


def test_two_runs_go_at_once_and_share_the_cores(stand_in, capsys):
    configs = {stand_in / "one": ICFTConfig(seed=1), stand_in / "two": ICFTConfig(seed=2)}
    run_jobs(configs, 2)  # each waits for the other to begin
    threads = str(max(1, available_cores() // 2))
    assert (stand_in / "one" / "said").read_text().startswith(f"{threads}--out")
    assert (stand_in / "two" / "said").read_text().endswith("--set=seed=2")
    shown = capsys.readouterr()
    assert "one: done" in shown.out and "one stage 1 50%" in shown.err


def test_the_first_failure_is_told_and_stops_the_others(stand_in):
    begun = time.monotonic()
    with pytest.raises(ICFTError, match="bad: data: no training row is left"):
        run_jobs(
            {stand_in / "one": ICFTConfig(), stand_in / "bad": ICFTConfig(seed=9), stand_in / "later": ICFTConfig()},
            2,
            progress=False,
        )
    assert time.monotonic() - begun < 30, "`one` would have waited a minute"
    assert not (stand_in / "later" / "said").exists()


def test_how_many_at_a_time(monkeypatch):
    monkeypatch.setattr(jobs, "cores", lambda: 4)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), dict(available=5 * 2**30)))
    assert default_jobs(18, "tiny") == 2 and default_jobs(1, "tiny") == 1, "as many as memory holds"
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), dict(available=99 * 2**30)))
    assert default_jobs(18, "tiny") == 4 and default_jobs(18, "Qwen/Qwen3-0.6B") == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert default_jobs(18, "tiny") == 1


@pytest.mark.slow
def test_a_comparison_is_the_same_one_by_one_and_beside_one_another(tmp_path, monkeypatch):
    import torch

    bundle = small_bundle()
    monkeypatch.setattr("icft_lite.experiments.compare.sample_bundle", lambda: bundle)
    monkeypatch.setattr(jobs, "TRAIN", [sys.executable, small_run.__file__, "train"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(jobs, "cores", lambda: 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = [
            compare(tmp_path / name, ["icft", "qlora"], [0], {**SETTINGS, "max_steps": 6}, progress=False, jobs=n)
            for name, n in (("apart", 2), ("one", 1))
        ]
    finally:
        torch.set_num_threads(threads)
    for one in found:
        for method in one["methods"].values():
            for name in ("seconds", "train_seconds"):
                method.pop(name), method["runs"][0].pop(name)
    assert json.dumps(found[0], sort_keys=True) == json.dumps(found[1], sort_keys=True)
    assert (tmp_path / "apart" / "icft-0" / "adapter" / "adapter_model.safetensors").read_bytes() == (
        tmp_path / "one" / "icft-0" / "adapter" / "adapter_model.safetensors"
    ).read_bytes()


def test_common_settings_leave_a_method_what_it_is(tmp_path, monkeypatch):
    found = {}
    monkeypatch.setattr(
        "icft_lite.experiments.compare.run_all", lambda configs, *rest: found.update(configs) or sys.exit("enough")
    )
    with pytest.raises(SystemExit, match="enough"):
        compare(tmp_path, ["icft", "replay"], [0], dict(consistency_weight="0.3", rows="4"), progress=False, jobs=2)
    icft, replay = found[tmp_path / "icft-0"], found[tmp_path / "replay-0"]
    assert (icft.consistency_weight, icft.rows) == (0.3, 4)
    assert (replay.consistency_weight, replay.rows, replay.replay_weight) == (0.0, 4, 1.0)


def test_a_comparison_on_the_samples_is_the_demo_but_for_what_is_set(tmp_path, monkeypatch):
    found = {}
    monkeypatch.setattr(
        "icft_lite.experiments.compare.run_all", lambda configs, *rest: found.update(configs) or sys.exit("enough")
    )
    for name, settings in (("demo", None), ("all", dict(topics="", tokens="9"))):
        with pytest.raises(SystemExit, match="enough"):
            compare(tmp_path / name, ["icft"], [0], settings, progress=False, jobs=2)
    assert found[tmp_path / "demo" / "icft-0"] == ICFTConfig(**DEMO)
    assert found[tmp_path / "all" / "icft-0"] == ICFTConfig(**{**DEMO, "topics": (), "tokens": 9})


def test_the_long_demo_differs_in_topics_tokens_weight_and_plain_qloras_rate_alone(tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(
        "icft_lite.experiments.compare.run_all", lambda configs, *rest: found.append(configs) or sys.exit("enough")
    )
    for full in (False, True):
        with pytest.raises(SystemExit, match="enough"):
            run_demo(tmp_path, full=full, jobs=2, progress=False)
    for method, differs in (
        ("icft", {"topics", "tokens", "consistency_weight"}),
        ("qlora", {"topics", "tokens", "learning_rate"}),
    ):
        short, long = (configs[tmp_path / f"{method}-0"].to_dict() for configs in found)
        assert {name for name in short if short[name] != long[name]} == differs
        assert method == "icft" or long["order"] == "random", "which knows no pacing"
