"""The benchmarks run, and time the same work: losses, gradients and answers of the implementations agree."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def bench(name, tmp_path, *flags):
    """Run one benchmark in its smoke mode on the CPU and return its result."""
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
    assert json.loads(done.stdout.splitlines()[-1]) == json.loads(out.read_text()), "the last line is the same JSON"
    return json.loads(out.read_text())


def needs(module):
    return pytest.mark.skipif(not importlib.util.find_spec(module), reason=f"{module} is not installed: extra `bench`")


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    ["icft,icft_padded,naive", "qlora,trainer", pytest.param("trainer,trl_shipped,trl_best", marks=needs("trl"))],
)
def test_implementations_of_a_step_have_the_same_loss_and_gradient(tmp_path, names):
    result = bench("step", tmp_path, "--no-memory", "--only", names)
    compared = [one for one in result["parity"].values() if "against" in one]
    assert len(compared) >= 2
    for one in result["parity"].values():
        assert one["gradient_norm"] > 0
    for one in compared:
        assert one["loss_error"] < 1e-5 and one["gradient_error"] < 1e-4, one


@pytest.mark.slow
def test_full_logits_take_more_memory(tmp_path):
    found = bench("step", tmp_path, "--only", "qlora,trainer")["implementations"]
    ours, theirs = (found[name]["memory"]["above_weights"] for name in ("qlora", "trainer"))
    assert 0 < ours < theirs


@pytest.mark.slow
def test_sharing_a_prefix_changes_no_result(tmp_path):
    parts = bench("prefix", tmp_path)["parts"]
    errors = parts["scoring"]["error"], parts["training"]["loss_error"], parts["training"]["gradient_error"]
    assert max(errors) < 1e-5 and parts["generation"]["different_replies"] == 0
    assert all(part["ratio"] > 0 for part in parts.values()) and 0 < parts["training"]["gemm_share"] < 1


@pytest.mark.slow
@needs("lm_eval")
@pytest.mark.parametrize("flags", [(), ("--letters",)])
def test_the_harness_gives_every_option_the_same_log_likelihood(tmp_path, flags):
    parity = bench("evaluation", tmp_path, "--model", "tiny", *flags)["parity"]
    assert parity["largest_difference"] < 1e-3 and parity["same_choice"] == 1.0
    assert parity["mean_loglikelihood"] < -0.1


@pytest.mark.slow
@pytest.mark.parametrize("flags, message", [((), "fit.py needs a GPU"), (("--model", "gpt2"), "--model gpt2: one of ")])
def test_fit_refuses_a_cpu_and_unknown_models(flags, message):
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "fit.py"), "--device", "cpu", *flags], capture_output=True, text=True
    )
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith(message)


def test_the_lower_bound_of_a_step_is_what_torch_counts(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import torch
    from common import SHAPES
    from gemm import arithmetic
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from icft_lite.modeling.adapters import add_adapters
    from icft_lite.modeling.encoding import Encoded
    from icft_lite.modeling.forward import head_weight, hidden_states
    from icft_lite.modeling.losses import icft_losses
    from icft_lite.training.batches import TrainingItem, collate, normalizers

    shape = SHAPES["small"]
    model = add_adapters(Qwen2ForCausalLM(Qwen2Config(**shape)).requires_grad_(False))

    def item(states, weight):
        ids = list(range(5, 37))  # one length, so there is no padding
        tokens = [(0, at, ids[at + 1], 0) for at in range(25, 31)]
        return TrainingItem(Encoded([ids], tokens, 1), "new", [weight], posterior=[1.0], states=states)

    step = [item(None, 1.0), item(torch.randn(6, shape["hidden_size"]), 0.0)]
    batch = collate(step, normalizers(step))
    with FlopCounterMode(display=False) as counter:
        losses = icft_losses(hidden_states(model, batch), head_weight(model), batch, batch["normalizers"])
        sum(losses.values()).backward()
    bound = sum(arithmetic(shape, shape["num_hidden_layers"], step).values())
    assert counter.get_total_flops() == pytest.approx(bound, rel=0.05)


@pytest.mark.slow
def test_the_step_is_compared_with_its_lower_bound(tmp_path):
    result = bench("gemm", tmp_path)
    assert {(one["implementation"], one["base"]) for one in result["steps"]} >= {("icft", "NF4"), ("icft", "float32")}
    for one in result["steps"]:
        assert one["lower_bound"] > 0 and sum(one["parts"].values()) == pytest.approx(1)
        assert one["utilization_with_padding"] >= one["utilization"] > 0


@pytest.mark.slow
def test_both_methods_of_a_whole_run_are_measured_by_part(tmp_path):
    result = bench("run_cost", tmp_path, "--model", "tiny", "--repeats", "1")
    runs = result["runs"]
    assert {"train", "refresh", "consolidate"} <= set(runs["icft"]["parts"])
    for one in runs.values():
        assert one["largest_gradient_norm"] > 0 and one["seconds"] >= one["parts"]["train"] > 0
    assert runs["icft"]["memory_overhead"] > 0


@pytest.mark.slow
def test_the_arms_of_the_study_are_measured_without_scores(tmp_path):
    result = bench("study_cost", tmp_path, "--study", "tiny-short", "--arms", "plain", "icft", "--repeats", "1")
    plain, icft = result["arms"]["plain"], result["arms"]["icft"]
    assert icft["ratio"] == 1 and plain["ratio"] == pytest.approx(plain["seconds"] / icft["seconds"])
    assert all(one["seconds"] > one["train"] > 0 for one in (plain, icft))
