"""One stage in ICFTTrainer: accumulation, resuming, the slow adapter, fp16, divergence, memory."""

import json

import pytest
import torch
from small_stage import stage_batches
from transformers import TrainerCallback

from icft_lite import doctor
from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.errors import ICFTError
from icft_lite.modeling.adapters import adapter_tensors
from icft_lite.modeling.losses import LOSSES
from icft_lite.training import stage_callback
from icft_lite.training import trainer as trainer_module
from icft_lite.training.plan import PlannedStep
from icft_lite.training.trainer import ICFTTrainer


@pytest.fixture
def batches(adapted, example):
    """batches(config, steps, runtime) → StageBatches with all roles and tasks; three steps by default."""
    return stage_batches(*adapted, example)


def trained(model, batches, config, out, runtime=None, **kwargs):
    trainer = ICFTTrainer(model, batches(config, runtime=runtime), config, out, **kwargs)
    trainer.train()
    return trainer


def configured(settings=None):
    usual = {"adapter.rank": 8, "adapter.alpha": 16, "optim.learning_rate": 1e-3, "loss.replay_weight": 0.3}
    return ICFTConfig.from_dict({**usual, **(settings or {})})


@pytest.mark.parametrize("other", [dict(micro_batches=2), dict(micro_batches=4), dict(packing=False)])
def test_micro_batches_and_packing_do_not_change_the_adapter(adapted, batches, shake, tmp_path, other):
    model, _ = adapted
    start = shake(model, "fast")  # at B = 0, Adam would amplify rounding errors
    one = trained(model, batches, configured(), tmp_path, norms_every=2).history
    whole = [tensor.clone() for tensor in adapter_tensors(model, "fast")]
    with torch.no_grad():
        for tensor, value in zip(adapter_tensors(model, "fast"), start):
            tensor.copy_(value)
    other = trained(model, batches, configured(), tmp_path, RuntimeConfig(**other), norms_every=2).history
    moved = torch.cat([(a - b).flatten() for a, b in zip(whole, start)]).norm()
    apart = torch.cat([(a - b).flatten() for a, b in zip(whole, adapter_tensors(model, "fast"))]).norm()
    assert apart < 0.01 * moved
    for a, b in zip(one, other):
        for name in (*LOSSES, "total"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5)
        for name, norm in a.get("norms", {}).items():
            assert norm == pytest.approx(b["norms"][name], rel=1e-2)


@pytest.mark.parametrize("done", [1, 2])
def test_another_trainer_continues_to_the_same_bytes(adapted, batches, shake, tmp_path, done):
    model, _ = adapted
    saved, config = [], configured({"optim.warmup_ratio": 0.9})

    def save(trainer):
        groups, facts = trainer.state_to_save()
        saved.append(
            ({name: [t.detach().clone() for t in many] for name, many in groups.items()}, json.loads(json.dumps(facts)))
        )

    whole = trained(model, batches, config, tmp_path, save=save, save_steps=1, norms_every=2)
    for name in ("fast", "slow"):
        shake(model, name)  # the weights before `resume` do not matter
    other = ICFTTrainer(model, batches(config), config, tmp_path, norms_every=2)
    other.resume(*saved[done - 1])
    other.train()
    assert [facts["step"] for _, facts in saved] == [1, 2, 3] and other.step == 3
    assert other.history == whole.history and {"exp_avg", "exp_avg_sq", "step"} < set(saved[0][0])
    groups, facts = other.state_to_save()
    assert facts == saved[-1][1]
    for name, many in saved[-1][0].items():
        assert all(torch.equal(a, b) for a, b in zip(many, groups[name], strict=True)), name


def test_a_stage_is_saved_every_save_steps_and_at_its_end(adapted, batches, tmp_path, monkeypatch):
    def saves(every=None):
        steps = []
        options = dict(save=lambda trainer: steps.append(trainer.step), save_steps=every)
        trained(adapted[0], batches, configured(), tmp_path, **options)
        return steps

    assert saves(2) == [2, 3] and saves(9) == saves() == [3]
    monkeypatch.setattr(stage_callback, "SAVE_SECONDS", 0)
    assert saves() == [1, 2, 3]


def test_the_slow_adapter_is_the_moving_average_of_the_fast_one(adapted, batches, tmp_path):
    model, _ = adapted
    seen, config = [], configured({"long_term.ema_decay": 0.6})

    class Watch(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            seen.append([tensor.detach().clone() for tensor in adapter_tensors(model, "fast")])

    trained(model, batches, config, tmp_path, callbacks=[Watch()])
    for i, slow in enumerate(adapter_tensors(model, "slow")):
        expected = seen[0][i]
        for t, beta in ((1, 0.5), (2, 0.6)):
            expected = beta * expected + (1 - beta) * seen[t][i]
        torch.testing.assert_close(slow, expected)
    assert any(not torch.equal(a, b) for a, b in zip(seen[2], adapter_tensors(model, "slow")))


def test_training_that_changes_no_weight_is_an_error(adapted, batches, tmp_path):
    without = configured({f"loss.{name}_weight": 0 for name in LOSSES})
    with pytest.raises(ICFTError, match="changed no weight"):
        trained(adapted[0], batches, without, tmp_path)


def test_a_loss_that_is_nan_is_an_error_before_a_checkpoint_is_saved(adapted, batches, tmp_path, monkeypatch):
    """The step is that of the stage; with a gradient scaler, which skips such steps, training continues."""
    losses, saved, config = trainer_module.icft_losses, [], configured()

    def diverge(*args):
        found = losses(*args)
        return found if trainer.step < 2 else {name: value * float("nan") for name, value in found.items()}

    monkeypatch.setattr(trainer_module, "icft_losses", diverge)
    options = dict(save=lambda one: saved.append(one.step), save_steps=1)
    trainer = ICFTTrainer(adapted[0], batches(config), config, tmp_path, **options)
    with pytest.raises(ICFTError, match="the loss of step 3 is nan; lower optim.learning_rate .now 0.001"):
        trainer.train()
    assert saved == [1, 2]


def test_weights_that_are_nan_are_an_error_after_the_last_step(adapted, batches, tmp_path):
    """An infinite gradient leaves the loss of its own step finite."""
    model, saved, config = adapted[0], [], configured()

    class Break(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, **kwargs):
            if state.global_step == 2:
                adapter_tensors(model, "fast")[0].grad[0, 0] = float("nan")

    with pytest.raises(ICFTError, match="after step 3 a weight of the fast adapter is not finite"):
        trained(model, batches, config, tmp_path, save=lambda one: saved.append(one.step), callbacks=[Break()])
    assert saved == []


def test_a_step_skipped_in_fp16_is_not_an_error(adapted, batches, tmp_path):
    model, config, seen = adapted[0], configured(), []

    class Watch(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            seen.append([tensor.detach().clone() for tensor in adapter_tensors(model, "fast")])

    start = [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]
    trainer = ICFTTrainer(model, batches(config), config, tmp_path, callbacks=[Watch()])
    # The scale is too large for the first step and correct after it, as on a GPU that computes in fp16.
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-100)
    trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(start, seen[0])), "skipped"
    assert any(not torch.equal(a, b) for a, b in zip(seen[0], seen[1]))
    assert all(tensor.isfinite().all() for tensor in seen[-1])


def test_fp16_that_skips_every_step_warns(adapted, batches, tmp_path):
    model, config = adapted[0], configured()
    start = [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]
    trainer = ICFTTrainer(model, batches(config), config, tmp_path)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=0.999)
    with pytest.warns(UserWarning, match=f"all {trainer.steps} steps were skipped"):
        trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(start, adapter_tensors(model, "fast")))


def test_only_the_fast_adapter_gets_a_gradient(adapted, batches, tmp_path):
    model, _ = adapted
    fast = {id(tensor) for tensor in adapter_tensors(model, "fast")}
    before = [p.detach().clone() for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    slow = {id(tensor) for tensor in adapter_tensors(model, "slow")}
    trained(model, batches, configured(), tmp_path)
    frozen = [p for p in model.parameters() if id(p) not in fast and p.is_floating_point()]
    assert all(p.grad is None for p in frozen)
    assert all(torch.equal(a, b) for a, b in zip(before, frozen) if id(b) not in slow)


def test_the_doctor_counts_what_the_trainer_allocates_for_adapters(adapted, batches, tmp_path, monkeypatch):
    held = []

    class Weigh(TrainerCallback):
        def on_optimizer_step(self, args, state, control, optimizer, **kwargs):
            averages = [
                tensor
                for of_one in optimizer.state_dict()["state"].values()
                for name, tensor in of_one.items()
                if name != "step"
            ]
            gradients = [tensor.grad for tensor in trainer.trainable]
            held.append(sum(tensor.nbytes for tensor in trainer.trainable + gradients + averages + trainer.slow))

    config = configured()
    trainer = ICFTTrainer(adapted[0], batches(config), config, tmp_path, callbacks=[Weigh()])
    trainer.train()
    layer = (1,) * len(doctor.MODELS["Qwen3-8B"])  # seven 1 × 1 matrices, whose adapters have 14 parameters per rank
    whole, rank = doctor.estimate(layer, 2, tokens=0), doctor.RANK
    monkeypatch.setattr(doctor, "RANK", 0)
    counted = (whole - doctor.estimate(layer, 2, tokens=0)) / (14 * rank)
    assert {size / sum(tensor.numel() for tensor in trainer.trainable) for size in held} == {20.0} and counted == 36
    assert " 36 bytes per LoRA parameter" in doctor.FORMULA and "20 for the fast adapter" in doctor.FORMULA


def test_a_step_of_memory_examples_alone_is_trained_and_logged(adapted, batches, shake, tmp_path):
    """Micro-batches are sorted by length, so one may have memory examples only, and only one of the losses."""
    model, _ = adapted
    shake(model, "fast")
    config = configured({"loss.replay_weight": 0})
    trainer = ICFTTrainer(model, batches(config, [PlannedStep([], [], [0, 1])]), config, tmp_path)
    trainer.train()
    assert trainer.history[0]["consistency"] > 0 and trainer.history[0]["norms"]["consistency"] > 0
    assert trainer.history[0]["norms"]["task"] == trainer.history[0]["norms"]["fine_tune"] == 0


def test_every_batch_is_trained_on_a_machine_with_several_gpus(adapted, batches, tmp_path, monkeypatch):
    """Trainer joins batches for the GPUs that it sees, and items of StageBatches are whole batches."""
    original = trainer_module.TrainingArguments.__post_init__

    def two_gpus(self):
        original(self)
        self._n_gpu = 2

    monkeypatch.setattr(trainer_module.TrainingArguments, "__post_init__", two_gpus)
    trainer = trained(adapted[0], batches, configured(), tmp_path)
    assert trainer.args.n_gpu == 1 and len(trainer.history) == trainer.steps == 3
