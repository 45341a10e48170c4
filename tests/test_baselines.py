"""Baselines of the experiments, each on a case with a known answer."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from peft.tuners.tuners_utils import BaseTuner
from safetensors.torch import load_file
from small_model import family_model, logits
from small_run import SETTINGS, small_bundle
from small_stage import STEPS, stage_batches
from transformers import TrainerCallback

from icft_lite.config import ICFTConfig, LossConfig, RuntimeConfig
from icft_lite.errors import ICFTError
from icft_lite.experiments.baselines.averaged import Averaged
from icft_lite.experiments.baselines.base_kl import BaseKL
from icft_lite.experiments.baselines.ewc import EWC, FisherInformation, fisher_information, quadratic_penalty
from icft_lite.experiments.baselines.mlp_only import MLPOnly
from icft_lite.experiments.baselines.olora import OLoRA
from icft_lite.experiments.baselines.peft_methods import corda, osf
from icft_lite.experiments.baselines.peft_training import changed_weights, planned_batches, train_peft
from icft_lite.experiments.baselines.random_change import SIZE, randomize_adapter
from icft_lite.experiments.baselines.self_distillation import rewrite_replies, self_distilled_bundle
from icft_lite.experiments.baselines.teachers import BaseTeacher, SlowTeacher
from icft_lite.experiments.baselines.token_weights import DFT, EAFT
from icft_lite.experiments.baselines.weights import WeightedTrainer, with_weight
from icft_lite.memory.teachers import response_states
from icft_lite.metrics import key_fact_recall
from icft_lite.modeling.adapters import (
    adapter_tensors,
    add_adapters,
    copy_adapter,
    lora_layers,
    set_adapter_tensors,
    use_adapter,
)
from icft_lite.modeling.base import dequantize_base, load_base
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.losses import icft_losses
from icft_lite.training.checkpoint import RunPaths
from icft_lite.training.events import Events, RunCallback
from icft_lite.training.examples import make_training_examples
from icft_lite.training.loop import train_icft
from icft_lite.training.plan import PlannedStep
from icft_lite.training.prepare import prepare
from icft_lite.training.trainer import ICFTTrainer, trainer_identity


@pytest.fixture
def stage(adapted, example, tmp_path):
    """stage(trainer, settings, micro_batches) → that trainer, of a stage with all roles and tasks."""
    batches = stage_batches(*adapted, example)

    def make(trainer, settings=None, micro_batches=1, steps=STEPS, **kwargs):
        usual = {"adapter.rank": 8, "adapter.alpha": 16, "optim.learning_rate": 1e-3, "loss.replay_weight": 0.3}
        config = ICFTConfig.from_dict({**usual, **(settings or {})})
        items = batches(config, steps, RuntimeConfig(micro_batches=micro_batches))
        return trainer(adapted[0], items, config, tmp_path, norms_every=0, **kwargs)

    return make


def pairs(tensors):
    """[(A, B), …] of the tensors of an adapter."""
    return list(zip(tensors[::2], tensors[1::2]))


def first_batch(trainer):
    """(inputs, hidden states) of the first micro-batch."""
    inputs = trainer.train_dataset[0]
    return inputs, hidden_states(trainer.model.eval(), inputs)


def logprobs(trainer, inputs, hidden):
    """log p [tokens, vocab] at the supervised tokens, by plain torch."""
    return (hidden[inputs["row"], inputs["position"]] @ trainer.head.T).log_softmax(-1)


def gradients(trainer):
    """The gradient of each adapter tensor that one optimizer step sums over its micro-batches."""
    trainer.model.zero_grad()
    for part in range(trainer.train_dataset.parts):
        trainer.compute_loss(trainer.model, trainer.train_dataset[part]).backward()
    return [torch.zeros_like(one) if one.grad is None else one.grad.clone() for one in trainer.trainable]


def assert_micro_batches_do_not_matter(stage, trainer, settings=None, parts=(2, 4), **kwargs):
    whole = gradients(stage(trainer, settings, **kwargs))
    scale = max(float(one.abs().max()) for one in whole)
    assert scale > 0
    for number in parts:
        for a, b in zip(whole, gradients(stage(trainer, settings, number, **kwargs)), strict=True):
            torch.testing.assert_close(a, b, atol=1e-4 * scale, rtol=1e-3)


# --- weighted cross-entropy


def test_the_gradient_of_dft_is_that_of_minus_p(stage, shake):
    """p·∇log p is ∇p. The gradient of a state is −w·p·(W[target] − Σ_v p_v·W[v]) / normalizer."""
    trainer = stage(DFT)
    shake(trainer.model, "fast")
    inputs, hidden = first_batch(trainer)
    loss = trainer.losses(hidden, inputs)["fine_tune"]
    (gradient,) = torch.autograd.grad(loss, hidden)
    p = logprobs(trainer, inputs, hidden.detach()).exp()
    of_target = p.gather(1, inputs["target"][:, None])
    factor = inputs["token_weight"][:, None] / inputs["normalizers"]["fine_tune"] * of_target
    by_hand = -factor * (trainer.head[inputs["target"]] - p @ trainer.head)
    expected = torch.zeros_like(hidden).index_put((inputs["row"], inputs["position"]), by_hand, accumulate=True)
    torch.testing.assert_close(gradient, expected, atol=1e-7, rtol=1e-3)
    assert gradient.abs().max() > 1e-4
    torch.testing.assert_close(loss, (factor * -of_target.log()).sum())


@pytest.mark.parametrize("chunk", [3, 1024])
def test_eaft_weights_tokens_by_the_entropy_of_the_20_largest_logits(stage, shake, monkeypatch, chunk):
    monkeypatch.setattr("icft_lite.modeling.losses.MAX_CHUNK_TOKENS", chunk)
    trainer = stage(EAFT)
    shake(trainer.model, "fast")
    inputs, hidden = first_batch(trainer)
    logp = logprobs(trainer, inputs, hidden)
    top = logp.detach().exp().sort(descending=True).values[:, :20]
    top = top / top.sum(1, keepdim=True)
    weight = inputs["token_weight"] * torch.special.entr(top).sum(1) / math.log(20)
    nll = -logp.gather(1, inputs["target"][:, None]).squeeze(1)
    expected = (weight * nll).sum() / inputs["normalizers"]["fine_tune"]
    loss = trainer.losses(hidden, inputs)["fine_tune"]
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-4)
    for a, b in zip(*(torch.autograd.grad(one, hidden, retain_graph=True) for one in (loss, expected))):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-3)


def test_uniform_and_certain_predictions_have_entropy_1_and_0(stage):
    head = torch.eye(30)
    states = torch.stack([torch.zeros(30), 100 * torch.eye(30)[0]])
    torch.testing.assert_close(EAFT.factor(states, head, None), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("trainer", [DFT, EAFT])
def test_weights_change_nothing_but_fine_tune_and_do_not_depend_on_micro_batches(stage, shake, trainer):
    shake(stage(trainer).model, "fast")
    inputs, hidden = first_batch(stage(trainer))
    before = inputs["token_weight"].clone()
    other, plain = stage(trainer).losses(hidden, inputs), stage(ICFTTrainer).losses(hidden, inputs)
    assert torch.equal(inputs["token_weight"], before)
    assert {name for name in plain if not torch.equal(plain[name], other[name])} == {"fine_tune"}
    assert_micro_batches_do_not_matter(stage, trainer)


# --- KL to the base


def test_kl_to_the_base_is_0_at_the_start_and_that_of_torch_later(stage, shake):
    trainer = stage(with_weight(BaseKL, 0.3))
    model = trainer.model
    inputs, hidden = first_batch(trainer)
    assert float(trainer.regularizer(model, hidden, inputs).detach()) == pytest.approx(0, abs=1e-6)
    shake(model, "fast")
    shake(model, "slow", seed=1)
    inputs, hidden = first_batch(trainer)
    with torch.no_grad(), use_adapter(model, None):
        base = logprobs(trainer, inputs, hidden_states(model, inputs))
    kl = F.kl_div(logprobs(trainer, inputs, hidden), base, log_target=True, reduction="none").sum(-1)
    # responses only: 1 for a labelled one, the posterior for an option; the pair and prompts have none
    expected = 0.3 * (inputs["token_weight"] * kl).sum() / inputs["token_weight"].sum()
    found = trainer.regularizer(model, hidden, inputs)
    assert float(found.detach()) > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    ours, plain = (torch.autograd.grad(one, trainer.trainable, retain_graph=True) for one in (found, expected))
    for a, b in zip(ours, plain):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-3)


def test_kl_to_the_base_is_part_of_the_total_and_does_not_depend_on_micro_batches(stage, shake):
    start = shake(stage(BaseKL).model, "fast")
    assert_micro_batches_do_not_matter(stage, with_weight(BaseKL, 3.0))
    trainer, plain = stage(with_weight(BaseKL, 3.0)), stage(ICFTTrainer)
    for one in (trainer, plain):
        set_adapter_tensors(one.model, "fast", start)
        one.train()
    assert trainer.history[0]["total"] > plain.history[0]["total"] + 1e-4
    assert trainer.history[2]["fine_tune"] > plain.history[2]["fine_tune"], "it limits learning"
    assert [with_weight(BaseKL, w).__name__ for w in (0.1, 3.0)] == ["BaseKL0.1", "BaseKL3"]


# --- elastic weight consolidation


@pytest.fixture
def llama(base, example):
    """(model, encoded): a small random Llama in float32 with adapters, and two encoded general examples."""
    model = add_adapters(family_model("Llama"), rank=2, alpha=6, seed=0)
    encoder = Encoder(base[1])
    texts = {"Which city is the capital of Burundi?": "Gitega", "How much is 2 plus 2?": "It is 4."}
    return model, [encoder(example(prompt=prompt, responses=[reply])) for prompt, reply in texts.items()]


def test_the_fisher_information_is_the_mean_of_squared_gradients_of_single_examples(llama, shake):
    model, encoded = llama
    trainable = [one.requires_grad for one in model.parameters()]
    shake(model, "fast")  # the adapter must not matter
    found = fisher_information(model, encoded)
    assert [one.requires_grad for one in model.parameters()] == trainable
    plain = family_model("Llama")
    weights = {name: plain.get_parameter(f"{name.removeprefix('base_model.model.')}.weight") for name in found}
    squares = dict.fromkeys(found, 0)
    for one in encoded:
        plain.zero_grad()
        logp = plain(input_ids=torch.tensor(one.sequences)).logits[0].log_softmax(-1)
        sum(logp[position, target] for _, position, target, _ in one.tokens).backward()
        squares = {name: squares[name] + weights[name].grad ** 2 for name in found}
    mean = torch.cat([one.flatten() for one in squares.values()]).mean()
    for name, value in found.items():
        torch.testing.assert_close(value, squares[name] / mean, atol=1e-4, rtol=1e-3)
    assert len(found) == 14 and float(torch.cat([one.flatten() for one in found.values()]).mean()) == pytest.approx(1)


def test_the_gradient_of_the_penalty_has_its_closed_form(llama, shake):
    """½·Σ F·ΔW² has the gradients s·(F∘ΔW)·Aᵀ for B and s·Bᵀ·(F∘ΔW) for A, with ΔW = s·B·A."""
    model, encoded = llama
    shake(model, "fast")
    fisher = fisher_information(model, encoded)
    quadratic_penalty(model, fisher).backward()
    value = 0
    for (A, B), importance in zip(pairs(adapter_tensors(model, "fast")), fisher.values(), strict=True):
        change = 3 * B.detach() @ A.detach()  # s = alpha / r = 3
        value += 0.5 * (importance * change**2).sum()
        torch.testing.assert_close(B.grad, 3 * (importance * change) @ A.detach().T, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(A.grad, 3 * B.detach().T @ (importance * change), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(quadratic_penalty(model, fisher).detach(), value)


def test_ewc_does_not_depend_on_micro_batches_even_if_some_are_empty(stage, shake):
    fisher, few = FisherInformation(), [PlannedStep([0], [], [0])]
    model = stage(EWC, callbacks=[fisher]).model
    shake(model, "fast")
    fisher.fisher = {name: layer.get_delta_weight("fast").detach().abs() for name, layer in lora_layers(model).items()}
    parts = stage(EWC, micro_batches=4, steps=few).train_dataset
    assert sum("empty" in parts[i] for i in range(4)) >= 2
    for steps in (STEPS, few):
        assert_micro_batches_do_not_matter(stage, with_weight(EWC, 0.1), callbacks=[fisher], steps=steps)
    penalty = float(quadratic_penalty(model, fisher.fisher).detach())
    trainer = stage(with_weight(EWC, 0.1), micro_batches=4, steps=few, callbacks=[fisher])
    trainer.train()
    record = trainer.history[0]
    weights = dict(consistency=LossConfig().consistency_weight, task=1, fine_tune=1)
    without = sum(weight * record[name] for name, weight in weights.items())
    assert record["total"] - without == pytest.approx(0.1 * penalty, rel=1e-3)


def test_ewc_without_what_it_needs_is_an_error(stage, adapted, llama):
    with pytest.raises(ICFTError, match=r"callbacks: .*FisherInformation"):
        stage(EWC).train()
    with pytest.raises(ICFTError, match="adapter.load_in_4bit=false"):
        fisher_information(adapted[0], llama[1])  # the embedded base in NF4


def test_ewc_in_a_run_limits_the_change_of_important_weights(tmp_path):
    def run(trainer, callbacks=()):
        settings = {**SETTINGS, "method": "qlora", "long_term.share": 0, "short_term.share": 0, "optim.max_steps": 6}
        out = tmp_path / trainer.__name__
        train_icft(settings, out, small_bundle(), progress=False, trainer=trainer, callbacks=callbacks)
        tensors = load_file(out / "adapter" / "adapter_model.safetensors")
        A = {name.removesuffix(".lora_A.weight"): one for name, one in tensors.items() if "lora_A" in name}
        return {name: 2 * tensors[f"{name}.lora_B.weight"] @ one for name, one in A.items()}

    fisher = FisherInformation(number=8)
    plain, limited = run(ICFTTrainer), run(with_weight(EWC, 100.0), [fisher])
    before, after = (sum((fisher.fisher[name] * one**2).sum() for name, one in run.items()) for run in (plain, limited))
    assert 0 < after < 0.5 * before


def test_a_run_names_its_trainer_and_is_not_confused_with_one_of_the_same_name(tmp_path):
    def penalized(weight, power):
        class Penalized(WeightedTrainer):
            exponent = power

            def regularizer(self, model, hidden, inputs):
                return self.weight * sum(one.pow(self.exponent).sum() for one in self.trainable)

        return with_weight(Penalized, weight)

    identities = {trainer_identity(penalized(*one)) for one in ((1e-4, 2), (1.00000001e-4, 2), (1e-4, 4))}
    assert len(identities) == 3 and all(one.startswith("Penalized0.0001 ") for one in identities)
    assert trainer_identity(penalized(1e-4, 2)) in identities and trainer_identity(ICFTTrainer) == ""
    settings = {**SETTINGS, "method": "qlora", "long_term.share": 0, "short_term.share": 0, "optim.max_steps": 2}
    report = train_icft(settings, tmp_path / "run", small_bundle(), progress=False, trainer=penalized(1e-4, 2))
    assert report["trainer"] == "Penalized0.0001"
    page = (tmp_path / "run" / "report.md").read_text(encoding="utf-8")
    assert page.splitlines()[0].startswith("# Run: method plain QLoRA, Penalized0.0001")
    with pytest.raises(ICFTError, match="holds another run|another run"):
        train_icft(settings, tmp_path / "run", small_bundle(), progress=False, trainer=penalized(1e-4, 4))


def test_losses_of_a_trainer_have_the_names_of_the_package(stage):
    class Added(ICFTTrainer):
        def losses(self, hidden, inputs):
            return {**super().losses(hidden, inputs), "entropy": hidden.mean()}

    with pytest.raises(
        ICFTError, match="Added.losses: it returns .*entropy, not .*; add another term in `regularizer`"
    ):
        stage(Added).train()


# --- MLP only, averages, teachers


def test_mlp_only_trains_no_adapter_of_attention_and_clips_the_rest(stage):
    norms = []

    class Watched(MLPOnly):
        def _clip_grad_norm(self, model):
            of_mlp = [one.grad.norm() for name, one in model.named_parameters() if ".mlp." in name and ".fast." in name]
            expected = float(torch.stack(of_mlp).norm())
            norms.append((float(super()._clip_grad_norm(model)), expected))

    trainer = stage(Watched)
    before = {name: one.detach().clone() for name, one in trainer.model.named_parameters() if ".fast." in name}
    trainer.train()
    after = {name: one.detach() for name, one in trainer.model.named_parameters() if name in before}
    assert {name for name in before if (before[name] != after[name]).any()} == {
        name for name in before if ".mlp." in name
    }
    attention = [one for name, one in after.items() if ".self_attn." in name and "lora_B" in name]
    assert len(attention) == 16 and not any(one.any() for one in attention)
    assert len(norms) == 3 and all(found == pytest.approx(expected, rel=1e-4) for found, expected in norms)


def test_a_resumed_stage_of_mlp_only_ends_with_the_same_bytes(stage):
    saved = []

    def save(trainer):
        groups, facts = trainer.state_to_save()
        saved.append(({name: [one.detach().clone() for one in many] for name, many in groups.items()}, facts))

    stage(MLPOnly, save=save, save_steps=1).train()
    other = stage(MLPOnly)
    other.resume(*saved[0])
    other.train()
    assert all(torch.equal(a, b) for a, b in zip(saved[-1][0]["fast"], other.trainable, strict=True))


class TwoStages(OLoRA):
    num_stages = 2


def finish_stage(trainer):
    """Train a stage and let the slow adapter be its result, as a run without consolidation does."""
    trainer.train()
    copy_adapter(trainer.model, "fast", "slow")


def test_olora_trains_another_block_of_the_adapter_in_each_stage(stage):
    begin = [(A.clone(), B.clone()) for A, B in pairs(adapter_tensors(stage(TwoStages).model, "fast"))]
    ends = []
    for _ in range(2):
        finish_stage(trainer := stage(TwoStages))
        ends.append([(A.clone(), B.clone()) for A, B in pairs(trainer.slow)])
    for (A0, B0), (A1, B1), (A2, B2) in zip(begin, *ends, strict=True):
        assert B1[:, :4].any() and not B1[:, 4:].any() and torch.equal(A0[4:], A1[4:]) and not B0.any()
        assert torch.equal(B1[:, :4], B2[:, :4]) and torch.equal(A1[:4], A2[:4])
        assert B2[:, 4:].any() and not torch.equal(A1[4:], A2[4:])


def test_the_penalty_of_olora_has_its_closed_form_and_does_not_depend_on_micro_batches(stage):
    """∂/∂A_new λ·Σ |A_old·A_newᵀ| = λ·sign(A_new·A_oldᵀ)·A_old; nothing else gets a gradient from it."""
    assert stage(TwoStages).regularizer(None, None, {}) is None
    finish_stage(stage(TwoStages))
    with_penalty, without = (gradients(stage(with_weight(TwoStages, weight))) for weight in (0.5, 0.0))
    for found, plain, A in zip(with_penalty[::2], without[::2], stage(TwoStages).trainable[::2], strict=True):
        expected = torch.zeros_like(A)
        expected[4:] = 0.5 * (A[4:] @ A[:4].T).sign() @ A[:4]
        torch.testing.assert_close(found - plain, expected.detach(), rtol=1e-3, atol=1e-4)
    in_two = gradients(stage(with_weight(TwoStages, 0.5), micro_batches=2))
    for one, two in zip(with_penalty, in_two, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-4)


def test_olora_makes_the_directions_of_stages_more_orthogonal(stage):
    finish_stage(first := stage(TwoStages))
    after_first = [tensor.clone() for tensor in first.slow]
    products = []
    for weight in (0.5, 0.0):
        for name in ("fast", "slow"):
            set_adapter_tensors(first.model, name, after_first)
        trainer = stage(with_weight(TwoStages, weight))
        trainer.train()
        products.append(float(sum((A[:4] @ A[4:].T).detach().abs().sum() for A in trainer.trainable[::2])))
    assert products[0] < products[1]


def test_olora_in_a_run_trains_every_block_and_refuses_a_stage_without_one(tmp_path):
    settings = {**SETTINGS, "method": "qlora", "curriculum.order": "easy_to_hard", "adapter.rank": 9}
    data = small_bundle()
    report = train_icft(settings, tmp_path / "run", data, progress=False, trainer=OLoRA)
    assert report["trainer"] == "OLoRA" and sum(one["steps"] > 0 for one in report["stages"]) == 3
    saved = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert all(B[:, block : block + 3].any() for name, B in saved.items() if "lora_B" in name for block in (0, 3, 6))
    with pytest.raises(ICFTError, match="all 2 blocks of the adapter have been trained"):
        train_icft(settings, tmp_path / "other", data, progress=False, trainer=TwoStages)


def test_averaged_ends_with_the_mean_of_the_fast_adapter(stage):
    """With a decay of 1, the moving average is the plain mean over all steps."""
    seen, saved = [], []

    class Watch(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            seen.append([one.detach().clone() for one in trainer.trainable])

    def save(one):
        groups, facts = one.state_to_save()
        saved.append(({name: [t.detach().clone() for t in many] for name, many in groups.items()}, facts))

    trainer = stage(Averaged, {"long_term.ema_decay": 1.0}, callbacks=[Watch()], save=save)
    trainer.train()
    means = [torch.stack(steps).mean(0) for steps in zip(*seen)]
    assert any(not torch.allclose(mean, last) for mean, last in zip(means, seen[-1]))
    for mean, fast, slow in zip(means, trainer.trainable, trainer.slow, strict=True):
        torch.testing.assert_close(fast.detach(), mean, atol=1e-7, rtol=1e-5)
        assert torch.equal(fast, slow)
    killed = stage(Averaged)  # after the last checkpoint of the stage, before its end
    killed.resume(*saved[-1])
    assert killed.step == killed.steps
    assert all(torch.equal(a, b) for a, b in zip(killed.trainable, saved[-1][0]["slow"], strict=True))


@pytest.mark.parametrize("trainer, adapter", [(BaseTeacher, None), (SlowTeacher, "slow")])
def test_one_teacher_has_the_states_of_the_base_or_of_the_slow_adapter(stage, shake, trainer, adapter):
    shake(stage(ICFTTrainer).model, "fast", seed=1)
    shake(stage(ICFTTrainer).model, "slow", seed=2)
    entries, model = stage(ICFTTrainer).train_dataset.entries, stage(ICFTTrainer).model
    for entry in entries:
        entry.states, entry.teacher = entry.states * 0, "neither"
    entries[1].states = None  # of an example that the stage does not draw
    found = stage(trainer, steps=[PlannedStep([0], [], [0])])
    with use_adapter(model, adapter):
        expected = response_states(model, [entries[0].encoded])[0]
    assert torch.equal(entries[0].states, expected) and entries[1].states is None
    assert entries[0].teacher == {None: "base", "slow": "memory"}[adapter]
    assert torch.equal(found.train_dataset[0]["teacher"], expected)
    assert model.active_adapter == "fast" and all(one.requires_grad for one in found.trainable)


def test_der_plus_plus_is_half_the_mse_of_centered_logits_and_replay_by_nll(stage, shake):
    """Buzzega et al., 2020, arXiv 2004.07211: α·MSE(logits, stored logits) + β·NLL(replay).

    A softmax does not change with a constant, so the logits of both are centered first.
    """
    settings = {"loss.replay_weight": 0.5, "loss.temperature": None, "loss.consistency_tokens": "response"}
    trainer = stage(ICFTTrainer, settings, steps=[PlannedStep([], [], [0, 1])])
    shake(trainer.model, "fast")
    inputs, hidden = first_batch(trainer)
    losses = trainer.losses(hidden, inputs)
    logits, stored = (one @ trainer.head.T for one in (hidden[inputs["row"], inputs["position"]], inputs["teacher"]))
    centered = (one - one.mean(1, keepdim=True) for one in (logits, stored))
    assert len(inputs["teacher"]) == inputs["normalizers"]["consistency"]
    torch.testing.assert_close(losses["consistency"], 0.5 * F.mse_loss(*centered), atol=1e-5, rtol=1e-3)
    is_reply = inputs["token_weight"] > 0
    nll = F.cross_entropy(logits[is_reply], inputs["target"][is_reply])
    torch.testing.assert_close(losses["fine_tune"], nll, atol=1e-5, rtol=1e-4)
    assert set(inputs["token_weight"].tolist()) == {0.0, 0.5} and float(losses["consistency"].detach()) > 0


# --- self-distillation


def test_only_rewrites_that_contain_the_reference_replace_it(base, example, monkeypatch):
    model, tokenizer = base
    written = {
        "a": "Nephritis means Inflammation of the kidney.",
        "b": "It is a disease of the kidney.",
        "c": "It means an organ: the kidneys.",  # the reference at word boundaries only
        "d": "It could be the kidney, or rather the heart.",
        "e": "Please see a doctor within a week, but stay calm.",
        "f": "The reference answer is: it hurts.",
        "g": "",
        "h": "one two three " * 30,
        "i": "See a doctor, to be safe.",
        "k": "See a doctor today.",
        "l": "It is how it hurts. " + "one two three " * 20,
    }
    examples = [
        example(id="a"),
        example(id="b"),
        example(id="c", task="question", responses=["kidney", "pain"], label=0),
        example(id="d", task="question", responses=["lung", "heart"], label=-1, posterior=[0.4, 0.6]),
        example(id="e", responses=["See a doctor in a week."], facts=["a doctor", "week"]),
        *(example(id=name, prompt="What is pain?", responses=["it hurts"]) for name in "fghl"),
        example(id="i", task="pair", responses=["rest", "see a doctor"], label=-1, posterior=[0.1, 0.9]),
        example(id="j", prompt="Why? " * 120),
        example(id="k", responses=["See a doctor in a week."], facts=["a doctor", "week"]),
    ]
    seen = []

    def replies(model, tokenizer, encoder, requests, max_new_tokens):
        seen.extend(one["prompt"] for one in requests)
        return [written[one["id"]] for one in requests]

    monkeypatch.setattr("icft_lite.experiments.baselines.self_distillation.greedy_replies", replies)
    found, counts = rewrite_replies(examples, model, tokenizer, Encoder(tokenizer, 192))
    replaced = {one["id"] for one in found if one["responses"] == [written.get(one["id"])]}
    assert replaced == {"a", "d", "e", "i"} and len(found) == 12
    assert counts == {
        "rewritten": 5, "reference missing": 3, "mentions the template": 1, "no whole sentence": 2, "too long": 1
    }  # fmt: skip
    kept = {one["id"]: one["responses"] for one in found if one["id"] not in replaced}
    assert kept["l"] == ["It is how it hurts."], "cut after the last whole sentence"
    assert kept["c"] == ["kidney"] and kept["f"] == ["it hurts"] and kept["j"] == ["inflammation of the kidney"]
    assert all(one["task"] == "response" and one["posterior"] == [] and one["label"] == 0 for one in found)
    assert [one["prompt"] for one in found] == [one["prompt"] for one in examples], "the reference is not in the prompt"
    assert "Reference answer: heart\n" in seen[3] and seen[3].startswith("Define nephritis.\n")


def test_a_self_distilled_bundle_has_the_training_examples_of_a_run_and_can_be_trained_on(base, tmp_path):
    model, tokenizer = base
    config = ICFTConfig.preset("qlora", {"limits.trusted": 6, "limits.pool": 8, "optim.max_steps": 1})
    encoder, data = Encoder(tokenizer, config.encoding.max_length), small_bundle()
    found, counts = self_distilled_bundle(data, config, model, tokenizer, encoder)
    limited = data.limited(trusted=6, pool=8)
    plain, _ = make_training_examples(limited, config, model, encoder)
    assert found.trusted["id"][:] == plain["id"][:] and sum(counts.values()) == len(plain) > 6
    assert found.pool is None and found.test is data.test and found.content_hash().keys() < data.content_hash().keys()
    for one, before in zip(found.trusted, plain, strict=True):
        facts = before["facts"] or before["responses"]
        assert before["task"] == "response" and key_fact_recall(one["responses"][0], facts) == 1
    report = train_icft(config.replace({"limits.trusted": None}), tmp_path / "run", found, progress=False)
    assert report["stages"][0]["examples"].keys() == {"trusted"}


# --- methods of peft


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    settings = {"adapter.rank": 4, "adapter.alpha": 8, "optim.max_steps": 5, "optim.learning_rate": 2e-3}
    paths = RunPaths(tmp_path_factory.mktemp("peft"))
    return prepare(ICFTConfig.preset("qlora", settings), small_bundle(), RuntimeConfig(), paths, Events(progress=False))


def method(name):
    return {"osf": osf, "corda": partial(corda, number=8)}[name]


@pytest.mark.parametrize("name", ["osf", "corda"])
def test_a_peft_method_starts_from_the_base(prepared, name):
    model = dequantize_base(load_base("tiny")[0])
    before = logits(model)
    model = method(name)(model, prepared)
    torch.testing.assert_close(logits(model), before, atol=2e-4, rtol=1e-4)
    trained = {part for part, one in model.named_parameters() if one.requires_grad}
    assert trained and all("osf_svd" in part or "lora_" in part for part in trained)


@pytest.mark.parametrize("name", ["osf", "corda"])
def test_the_changes_of_a_peft_method_give_the_trained_model(prepared, name, monkeypatch):
    merge, seen = BaseTuner.merge_and_unload, []

    def watch(self, *args, **kwargs):
        seen.append(logits(self.model))
        return merge(self, *args, **kwargs)

    def clip(tensors, limit):
        norms.append(float(torch.stack([one.grad.norm() for one in tensors]).norm()))
        return clip_grad_norm(tensors, limit)

    clip_grad_norm, norms = torch.nn.utils.clip_grad_norm_, []
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", clip)
    monkeypatch.setattr(BaseTuner, "merge_and_unload", watch)
    changes, losses = train_peft(prepared, method(name))
    base = logits(prepared.model)
    first = next(batches[0] for batches in planned_batches(prepared) if batches.steps)

    def loss():
        states = hidden_states(prepared.model, first)
        return float(
            icft_losses(states, head_weight(prepared.model), first, first["normalizers"])["fine_tune"].detach()
        )

    assert len(losses) == 5 and len(changes) == 28 and losses[0] == pytest.approx(loss(), rel=1e-4)
    with changed_weights(prepared.model, changes):
        assert loss() < 0.95 * losses[0]
        torch.testing.assert_close(logits(prepared.model), seen[0], atol=2e-3, rtol=1e-3)
    assert (seen[0] - base).abs().max() > 0.1 and torch.equal(logits(prepared.model), base)
    with changed_weights(prepared.model, changes, alpha=0.0):
        assert torch.equal(logits(prepared.model), base)
    parts = replace(prepared, runtime=RuntimeConfig(micro_batches=2))
    assert train_peft(parts, method(name))[1] == pytest.approx(losses, rel=2e-3)
    assert norms[5:] == pytest.approx(norms[:5], rel=1e-2)


def test_a_peft_method_is_trained_on_the_batches_of_a_run(prepared, tmp_path):
    """The plan of each stage is that of `train_icft`, and so is the first loss: the adapters start from the base."""
    seen, histories = [], []

    class Watch(RunCallback):
        def on_stage_begin(self, stage, batches, history):
            seen.append(batches.steps)
            histories.append(history)

    settings = {**prepared.config.to_dict(), "method": "qlora"}
    train_icft(settings, tmp_path / "run", small_bundle(), progress=False, callbacks=[Watch()])
    assert [batches.steps for batches in planned_batches(prepared) if batches.steps] == seen
    assert train_peft(prepared, osf)[1][0] == pytest.approx(histories[0][0]["fine_tune"], rel=1e-3)


def test_corda_trains_what_general_examples_need_least(prepared):
    """The adapter's part of W is, on general inputs, the smallest that any part of its rank could be."""
    model = dequantize_base(load_base("tiny")[0])
    weights = {name: one.detach().clone() for name, one in model.named_parameters()}
    seen, name = [], "model.layers.1.mlp.gate_proj"
    hook = model.get_submodule(name).register_forward_hook(lambda layer, args, out: seen.append(args[0].detach()[0]))
    layer = corda(model, prepared, 8).get_base_model().get_submodule(name)
    hook.remove()
    inputs = torch.cat([one / one.max() for one in seen])
    part = layer.get_delta_weight("default").detach()
    torch.testing.assert_close(layer.base_layer.weight + part, weights[f"{name}.weight"], atol=1e-5, rtol=1e-4)
    covariance = inputs.T @ inputs / len(seen)
    singular = torch.linalg.svdvals(weights[f"{name}.weight"] @ covariance)
    assert (part @ covariance).norm() < 0.02 * singular.norm() and torch.linalg.matrix_rank(part) == 4


# --- a change without training


def test_a_random_change_has_the_same_relative_size_in_every_layer_and_depends_on_the_seed(tmp_path):
    def change(name, seed):
        settings = {"adapter.load_in_4bit": False, "seed": seed}
        arguments = (small_bundle(), RuntimeConfig(), RunPaths(tmp_path / name), Events(progress=False))
        run = prepare(ICFTConfig.preset("qlora", settings), *arguments)
        randomize_adapter(run)
        return {name: (layer.get_delta_weight("slow"), layer) for name, layer in lora_layers(run.model).items()}

    first, same, other = change("a", 0), change("b", 0), change("c", 1)
    assert len(first) == 28
    for name, (delta, layer) in first.items():
        assert float(delta.norm() / layer.base_layer.weight.norm()) == pytest.approx(SIZE, rel=1e-4)
        assert torch.linalg.matrix_rank(delta) == layer.r["slow"]
        assert torch.equal(delta, same[name][0]) and not torch.equal(delta, other[name][0])
