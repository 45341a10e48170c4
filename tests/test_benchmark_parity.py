"""The benchmarks run, and what they time does the same work: the losses, gradients and answers of peers agree."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from icft_lite.data.samples import samples_dir

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def bench(name, tmp_path, *flags):
    """The result of one benchmark in its smoke mode, on the CPU."""
    out = tmp_path / "result.json"
    line = [
        sys.executable,
        str(BENCHMARKS / f"{name}.py"),
        "--quick",
        "--device",
        "cpu",
        "--threads",
        "1",
        "--json",
        str(out),
        *flags,
    ]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(out.read_text()), "the table ends in the same JSON"
    return json.loads(out.read_text())


def needs(module):
    return pytest.mark.skipif(not importlib.util.find_spec(module), reason=f"{module} is not installed: extra `bench`")


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    ["icft,icft_padded,naive", "qlora,trainer", pytest.param("trainer,trl_shipped,trl_best", marks=needs("trl"))],
)
def test_peers_of_a_step_have_the_same_loss_and_gradient(tmp_path, names):
    result = bench("step", tmp_path, "--no-memory", "--only", names)
    compared = [one for one in result["parity"].values() if "against" in one]
    assert len(compared) >= 2
    for one in result["parity"].values():
        assert one["gradient_norm"] > 0
    for one in compared:
        assert one["loss_error"] < 1e-5 and one["gradient_error"] < 1e-4, one


@pytest.mark.slow
def test_the_loss_memory_of_full_logits_is_seen(tmp_path):
    found = bench("step", tmp_path, "--only", "qlora,trainer")["contestants"]
    ours, theirs = (found[name]["memory"]["above_weights"] for name in ("qlora", "trainer"))
    assert 0 < ours < theirs


@pytest.mark.slow
@needs("lm_eval")
@pytest.mark.parametrize("flags", [(), ("--letters",)])
def test_the_harness_gives_every_option_the_same_likelihood(tmp_path, flags):
    parity = bench("evaluation", tmp_path, "--model", "tiny", *flags)["parity"]
    assert parity["largest_difference"] < 1e-3 and parity["same_choice"] == 1.0
    assert parity["mean_loglikelihood"] < -0.1


@pytest.mark.slow
@pytest.mark.parametrize("flags, says", [((), "fit.py needs a GPU"), (("--model", "gpt2"), "--model gpt2: one of ")])
def test_what_a_gpu_holds_is_not_asked_of_a_cpu(flags, says):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "fit.py"), "--device", "cpu", *flags], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(says)


def test_the_floor_of_a_step_is_what_torch_counts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import torch
    from common import SHAPES
    from gemm import arithmetic
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from icft_lite.modeling.adapters import add_adapters
    from icft_lite.modeling.base import head_weight, hidden_states
    from icft_lite.modeling.encoding import Encoded
    from icft_lite.modeling.losses import icft_losses
    from icft_lite.training.batches import TrainingItem, collate, normalizers

    shape = SHAPES["small"]
    model = add_adapters(Qwen2ForCausalLM(Qwen2Config(**shape)).requires_grad_(False))

    def item(states, weight):
        row = list(range(5, 37))  # one length, so nothing is padded
        tokens = [(0, at, row[at + 1], 0) for at in range(25, 31)]
        return TrainingItem(Encoded([row], tokens, 1), "new", [weight], posterior=[1.0], states=states)

    step = [item(None, 1.0), item(torch.randn(6, shape["hidden_size"]), 0.0)]
    batch = collate(step, normalizers(step))
    with FlopCounterMode(display=False) as counter:
        losses = icft_losses(hidden_states(model, batch), head_weight(model), batch, batch["denominators"])
        sum(losses.values()).backward()
    floor = sum(arithmetic(shape, shape["num_hidden_layers"], step).values())
    assert counter.get_total_flops() == pytest.approx(floor, rel=0.05)


@pytest.mark.slow
def test_the_step_is_set_beside_its_floor(tmp_path):
    result = bench("gemm", tmp_path)
    assert {(one["contestant"], one["base"]) for one in result["steps"]} >= {("icft", "NF4"), ("icft", "float32")}
    for one in result["steps"]:
        assert one["floor"] > 0 and sum(one["parts"].values()) == pytest.approx(1)
        assert one["share_with_pads"] >= one["share"] > 0


@pytest.mark.slow
def test_both_methods_of_a_whole_run_are_counted_part_by_part(tmp_path):
    result = bench("run_cost", tmp_path, "--model", "tiny", "--repeats", "1")
    runs = result["runs"]
    assert {"train", "refresh", "consolidate"} <= set(runs["icft"]["parts"])
    for one in runs.values():
        assert one["largest_gradient_norm"] > 0 and one["seconds"] >= one["parts"]["train"] > 0
    assert runs["icft"]["keeping_share"] > 0


def test_a_new_deal_holds_out_other_cases_and_leaks_none():
    spec = importlib.util.spec_from_file_location("redeal", BENCHMARKS / "redeal.py")
    redeal = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(redeal)
    files = redeal.builder(1).build()
    shipped = {
        name: [json.loads(line) for line in (samples_dir() / name).read_text("utf-8").splitlines()] for name in files
    }
    assert files == redeal.builder(1).build() != redeal.builder(2).build()
    assert all(files[name] == shipped[name] for name in files if name.startswith("general"))
    for name in ("medical_train.jsonl", "medical_pool_questions.jsonl", "medical_test.jsonl"):
        ours, theirs = (sorted(row["topic"] for row in one[name]) for one in (files, shipped))
        assert ours == theirs, "as many of each topic"
    ours, theirs = (
        {row["entity"] for row in one["medical_test.jsonl"] if row["kind"] == "rule"} for one in (files, shipped)
    )
    assert len(ours & theirs) < 0.5 * len(ours)
    redeal.check(files)
    files["medical_train.jsonl"].append(dict(prompt=files["medical_test.jsonl"][0]["question"]))
    with pytest.raises(SystemExit, match="1 held-out"):
        redeal.check(files)
