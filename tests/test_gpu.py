"""The method on a GPU, in both 16-bit types: bf16, and fp16 as on a T4.

Without a GPU these tests are skipped. All other tests run on the CPU, because they compare results to the last digit.

    ICFT_TEST_GPU=1 python -m pytest tests/test_gpu.py
"""

import json

import numpy as np
import pytest
import torch
from small_run import SETTINGS, small_bundle
from transformers import AutoModelForCausalLM

from icft_lite.config import ICFTConfig
from icft_lite.finished_runs import export, load_run
from icft_lite.modeling import base as model_module
from icft_lite.modeling.adapters import adapter_tensors, add_adapters
from icft_lite.modeling.base import dequantize_base, load_base
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.forward import head_weight
from icft_lite.modeling.generation import generate
from icft_lite.modeling.scoring import option_scores
from icft_lite.training import trainer as trainer_module
from icft_lite.training.batches import StageBatches, TrainingItem, collate, normalizers
from icft_lite.training.loop import train_icft
from icft_lite.training.plan import PlannedStep
from icft_lite.training.trainer import ICFTTrainer
from icft_lite.utils.hardware import hardware

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU; with one, set ICFT_TEST_GPU=1")
TOLERANCE = {"bfloat16": 0.02, "float16": 0.005}
"""Relative error of a loss that computing in 16 bits may cause. A gradient, of which much cancels, may be off by eight
times that (measured on an H200: 8.6 and 2.4 %)."""


@pytest.fixture(params=TOLERANCE)
def dtype(request, monkeypatch):
    """The type to compute in, instead of the one that `hardware` chooses for this GPU."""
    found = dict(hardware(), dtype=request.param)
    for module in (model_module, trainer_module):
        monkeypatch.setattr(module, "hardware", lambda: found)
    return request.param


@pytest.fixture(scope="module")
def bundle():
    return small_bundle()


@pytest.fixture(scope="module")
def questions(bundle):
    return [example for example in bundle.general_test if example["task"] == "question"]


@pytest.fixture(scope="module")
def on_cpu(questions):
    """(option scores, answers) of the base on the CPU, in fp32."""
    model, tokenizer = load_base("tiny", device="cpu")
    encoder = Encoder(tokenizer)
    return option_scores(model, questions, encoder), generate(model, tokenizer, encoder, questions, max_new_tokens=16)


@pytest.mark.parametrize("dequantize", [False, True])
def test_the_base_answers_as_on_a_cpu(dtype, questions, on_cpu, dequantize):
    model, tokenizer = load_base("tiny")
    model, encoder = dequantize_base(model) if dequantize else model, Encoder(tokenizer)
    assert head_weight(model).is_cuda and model.dtype == getattr(torch, dtype)
    scores, texts = option_scores(model, questions, encoder), generate(model, tokenizer, encoder, questions, 16)
    assert np.mean([a.argmax() == b.argmax() for a, b in zip(scores, on_cpu[0])]) >= 0.9
    assert np.mean([a == b for a, b in zip(texts, on_cpu[1])]) >= 0.8
    error = np.concatenate([abs(a - b) for a, b in zip(scores, on_cpu[0])])
    assert 0 < np.median(error) < 40 * TOLERANCE[dtype]


@pytest.mark.parametrize("temperature", [None, 1.0])
def test_a_step_has_the_losses_and_gradients_of_a_cpu(dtype, bundle, temperature, tmp_path, monkeypatch):
    def step(device):
        model, tokenizer = load_base("tiny", device=device)
        model, encoder = add_adapters(model, 8, 16), Encoder(tokenizer)
        generator = torch.Generator().manual_seed(0)
        for tensor in adapter_tensors(model, "fast"):
            tensor.data += 0.05 * torch.randn(tensor.shape, generator=generator).to(tensor)
        examples = [dict(example) for example in bundle.trusted if example["task"] == "response"][:6]
        states = torch.randn(400, model.config.hidden_size, generator=generator)
        items = [
            TrainingItem(one, "memory", [0.0], posterior=[1.0], states=states[: len(one.tokens)])
            if n < 3
            else TrainingItem(one, "new", [1.0], posterior=[1.0])
            for n, one in enumerate(map(encoder, examples))
        ]
        config = _config(temperature)
        batches = StageBatches([PlannedStep([0], [], [])], examples, [items[0].encoded], [], config)
        trainer = ICFTTrainer(model, batches, config, tmp_path, norms_every=0)
        model.to(device)
        batch = {
            key: value.to(device) if torch.is_tensor(value) else value
            for key, value in collate(items, normalizers(items)).items()
        }
        with torch.autocast("cuda", getattr(torch, dtype), enabled=device == "cuda"):
            loss = trainer.compute_loss(model, batch)
        gradient = torch.autograd.grad(loss, adapter_tensors(model, "fast"))
        return loss.item(), torch.cat([one.float().flatten().cpu() for one in gradient])

    loss, gradient = step("cuda")
    with monkeypatch.context() as hidden:
        hidden.setattr(trainer_module, "hardware", lambda: dict(device="cpu", dtype="float32"))
        cpu_loss, cpu_gradient = step("cpu")
    assert loss == pytest.approx(cpu_loss, rel=TOLERANCE[dtype])
    assert 0 < (gradient - cpu_gradient).norm() < 8 * TOLERANCE[dtype] * cpu_gradient.norm()


def _config(temperature):
    return ICFTConfig.from_dict({"adapter.rank": 8, "adapter.alpha": 16, "loss.temperature": temperature})


def test_a_run_is_interrupted_resumed_and_exported(dtype, bundle, tmp_path, monkeypatch):
    calls, close_step = [], ICFTTrainer.close_step

    def stop(trainer):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return close_step(trainer)

    monkeypatch.setattr(ICFTTrainer, "close_step", stop)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_icft(SETTINGS, out, bundle, progress=False)
    before = len(calls)
    report = train_icft(SETTINGS, out, bundle, progress=False)
    steps = sum(stage["steps"] for stage in report["stages"])
    assert len(calls) - before < steps, "steps before the interruption are not repeated"
    assert 2**24 < report["cost"]["peak_memory_bytes"] < 2**31
    assert np.isfinite(report["losses"]["total"]).all()
    assert json.loads((out / "report.json").read_text())["config"] == report["config"]
    model, tokenizer = load_run(out)
    assert any(tensor.abs().max() > 0 for tensor in adapter_tensors(model, "default")[1::2]), "B was trained"
    merged = AutoModelForCausalLM.from_pretrained(export(out, tmp_path / "merged", merge=True), dtype=model.dtype)
    encoder, examples = Encoder(tokenizer), bundle.test
    ours, theirs = (option_scores(one, examples, encoder) for one in (model, merged.cuda().eval()))
    assert np.median(np.concatenate([abs(a - b) for a, b in zip(ours, theirs)])) < 40 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", ["float16"], indirect=True)  # bf16 has the range of fp32
def test_steps_whose_gradients_overflow_are_skipped(dtype, bundle, tmp_path):
    model, tokenizer = load_base("tiny")
    model, encoder = add_adapters(model, 8, 16), Encoder(tokenizer)
    examples = [dict(example) for example in bundle.trusted if example["task"] == "response"][:4]
    steps, encoded = [PlannedStep([0, 1, 2, 3], [], [])] * 12, [encoder(example) for example in examples]
    batches = StageBatches(steps, examples, encoded, [], _config(None))
    trainer = ICFTTrainer(model, batches, _config(None), tmp_path, norms_every=0)
    trainer.accelerator.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40, backoff_factor=2.0**-8)
    before = [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]
    trainer.train()
    assert trainer.accelerator.scaler.get_scale() < 2.0**40, "at least one step was skipped"
    assert any(not torch.equal(a, b) for a, b in zip(before, adapter_tensors(model, "fast")))
    assert all(tensor.isfinite().all() for tensor in adapter_tensors(model, "fast"))
