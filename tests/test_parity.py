"""The losses on a real model: equal to the naive formulas, and independent of padding, order and accumulation."""

import math

import pytest
import torch
import torch.nn.functional as F

from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.modeling import losses
from icft_lite.modeling.adapters import (
    activate_adapter,
    adapter_tensors,
    add_adapters,
    set_adapter_tensors,
    use_adapter,
)
from icft_lite.modeling.base import load_base
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.losses import LOSSES, icft_losses, token_kl, token_logprobs
from icft_lite.training.batches import StageBatches, collate, normalizers, split_micro_batches
from icft_lite.training.plan import PlannedStep
from icft_lite.training.trainer import ICFTTrainer

REPLAY = ICFTConfig.from_dict({"loss.replay_weight": 0.3})
PLAIN_SUM = {"loss.consistency_weight": 1.0, "loss.temperature": 1.0}  # settings of a plain sum of `icft_losses`


@pytest.fixture(scope="module")
def full_precision():
    """(model, tokenizer, initial adapter): the embedded base in float32 with adapters."""
    model, tokenizer = load_base("tiny", load_in_4bit=False)
    model = add_adapters(model, rank=8, alpha=16)
    return model, tokenizer, [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]


@pytest.fixture(params=["nf4", "fp32"])
def trained(request, shake):
    """(model, tokenizer) with two adapters that differ from each other and from zero."""
    model, tokenizer, *initial = request.getfixturevalue("adapted" if request.param == "nf4" else "full_precision")
    for name, seed in (("slow", 1), ("fast", 2)):
        if initial:
            set_adapter_tensors(model, name, initial[0])
        shake(model, name, 0.08, seed)
    activate_adapter(model, "fast")
    return model, tokenizer


@pytest.fixture
def eight(trained, example):
    """eight(config) → StageBatches of one step of eight examples: all roles, all tasks, both teachers."""
    model, tokenizer = trained
    encoder = Encoder(tokenizer, share_prompts=False)
    examples = [
        example(),
        example(prompt="Define pain in a long sentence with many more words than needed.", responses=["it hurts"]),
        example(task="question", responses=["a kidney", "pain", "none"], label=-1, posterior=[0.2, 0.7, 0.1]),
        example(task="pair", responses=["go to surgery", "rest"], label=-1, posterior=[0.9, 0.1]),
        example(prompt="Name an organ.", responses=["the heart of the matter"]),
    ]
    encoded = [encoder(one) for one in examples]
    memory = LongTermMemory(10)
    replies = ["Gitega", "seven red of", "lung lung lung", "ice pain into", "the the sky", "of and with", "goat is"]
    memory.add(
        [example(id=reply, prompt="Which city is the capital of Burundi?", responses=[reply]) for reply in replies],
        encoder,
        "general",
    )
    memory.refresh(model)
    teachers = [entry.teacher for entry in memory.entries]
    both = [teachers.index("base"), teachers.index("memory")]
    three = [*both, next(i for i in range(7) if i not in both)]

    def make(config=REPLAY, micro_batches=1):
        step, runtime = PlannedStep([0, 1, 2, 3], [4], three), RuntimeConfig(micro_batches=micro_batches)
        soft = config.replace({"weak.soft_labels": True})  # so that all three losses have examples
        return StageBatches([step], examples, encoded, memory.entries, soft, runtime)

    make.entries = [memory.entries[i] for i in three]
    return make


def ours(model, items, change=lambda batch: batch, parts=1, temperature=1.0):
    """The losses of a step in `parts` micro-batches, and the gradient of their sum."""
    step_normalizers, found = normalizers(items), {}
    for some in split_micro_batches(items, parts):
        if some:
            batch = change(collate(some, step_normalizers))
            hidden, head = hidden_states(model, batch), head_weight(model)
            for name, value in icft_losses(hidden, head, batch, step_normalizers, temperature).items():
                found[name] = found.get(name, 0) + value
    return found, gradient(model, sum(found.values()))


def gradient(model, loss):
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, adapter_tensors(model, "fast"))])


def assert_same(one, other, gradients=1e-5):
    for name in LOSSES:
        torch.testing.assert_close(one[0][name], other[0][name], atol=1e-6, rtol=1e-6)
        assert one[0][name] > 0
    assert (one[1] - other[1]).norm() / other[1].norm() < gradients


@pytest.mark.parametrize("temperature", [1.0, 4.0, math.inf])
def test_losses_equal_those_from_full_logits_of_student_and_teacher(trained, eight, temperature):
    """Cached states and the chunked head are compared with passes through the whole model."""
    model, _ = trained
    items = eight().items(eight().steps[0])
    entries = iter(eight.entries)
    assert {entry.teacher for entry in eight.entries} == {"base", "memory"}
    nll, task, kl, below = 0, 0, 0, normalizers(items)
    for item in items:
        ids = [torch.tensor([sequence]) for sequence in item.encoded.sequences]
        logp = [model(input_ids=one).logits[0].log_softmax(-1) for one in ids]
        sums, counts = [0] * len(item.token_weight), [0] * len(item.token_weight)
        for n, position, target, s in item.encoded.tokens:
            sums[s], counts[s] = sums[s] + logp[n][position, target], counts[s] + 1
        nll = nll - sum(weight * total for weight, total in zip(item.token_weight, sums))
        if item.weak == "question":
            task = task - (torch.tensor(item.posterior) * torch.stack(sums).log_softmax(-1)).sum()
        elif item.weak == "pair":
            delta = 2.0 * (sums[0] / counts[0] - sums[1] / counts[1])
            task = task - item.posterior[0] * F.logsigmoid(delta) - item.posterior[1] * F.logsigmoid(-delta)
        if item.role == "memory":
            with torch.no_grad(), use_adapter(model, {"base": None, "memory": "slow"}[next(entries).teacher]):
                live = model(input_ids=ids[0]).logits[0].log_softmax(-1)
            at = [position for _, position, _, _ in item.encoded.tokens]
            if math.isinf(temperature):
                kl = kl + 0.5 * (logp[0][at] - live[at]).var(-1, correction=0).sum()
            else:
                student, teacher = ((one[at] / temperature).log_softmax(-1) for one in (logp[0], live))
                kl = kl + temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="sum")
    naive = dict(fine_tune=nll / below["fine_tune"], task=task / below["task"], consistency=kl / below["consistency"])
    assert_same(ours(model, items, temperature=temperature), (naive, gradient(model, sum(naive.values()))))


# ---------------------------------------------------------------- what must not change them


def padded(side, amount):
    """A change of a batch: `amount` more columns of padding, all padding on one side."""

    def change(batch):
        rows, columns = batch["input_ids"].shape
        lengths = batch["attention_mask"].sum(1)
        ids = torch.full((rows, columns + amount), 5)
        mask, shift = torch.zeros_like(ids), torch.zeros_like(lengths)
        for row, length in enumerate(lengths.tolist()):
            shift[row] = columns + amount - length if side == "left" else 0
            ids[row, shift[row] : shift[row] + length] = batch["input_ids"][row, :length]
            mask[row, shift[row] : shift[row] + length] = 1
        return {
            **batch,
            "input_ids": ids,
            "attention_mask": mask,
            "position": batch["position"] + shift[batch["row"]],
            "position_ids": (mask.cumsum(1) - 1).clamp_min(0),
        }

    return change


@pytest.mark.parametrize("side, amount", [("right", 0), ("right", 17), ("left", 0), ("left", 17)])
def test_padding_changes_nothing(trained, eight, side, amount):
    items = eight().items(eight().steps[0])
    assert_same(ours(trained[0], items, padded(side, amount)), ours(trained[0], items))


def test_the_order_of_a_batch_changes_nothing(trained, eight):
    items = eight().items(eight().steps[0])
    assert_same(ours(trained[0], items[::-1]), ours(trained[0], items))


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_over_micro_batches_changes_nothing(trained, eight, parts):
    items = eight().items(eight().steps[0])
    assert len(items) == 8
    assert_same(ours(trained[0], items, parts=parts), ours(trained[0], items))


@pytest.mark.parametrize("parts", [2, 4])
def test_the_trainer_accumulates_the_same_gradient(trained, eight, tmp_path, monkeypatch, parts):
    model, _ = trained
    gradients = []
    step = ICFTTrainer.training_step

    def record(self, *args, **kwargs):
        loss = step(self, *args, **kwargs)
        if self.accelerator.sync_gradients:  # before it is clipped
            gradients.append(torch.cat([tensor.grad.flatten().clone() for tensor in self.trainable]))
        return loss

    monkeypatch.setattr(ICFTTrainer, "training_step", record)
    config = ICFTConfig.from_dict({"loss.replay_weight": 0.3, "adapter.rank": 8, "adapter.alpha": 16, **PLAIN_SUM})
    _, expected = ours(model, eight().items(eight().steps[0]))
    ICFTTrainer(model, eight(config, micro_batches=parts), config, tmp_path).train()
    (found,) = gradients
    assert (found - expected).norm() / expected.norm() < 1e-5


def test_a_weight_of_zero_removes_its_gradient_and_no_other(trained, eight, tmp_path):
    model, _ = trained
    alone = {}
    for name in LOSSES:
        batch = eight()[0]
        found = icft_losses(hidden_states(model, batch), head_weight(model), batch, batch["normalizers"])
        alone[name] = gradient(model, found[name])
        assert alone[name].norm() > 1e-4
    for off in LOSSES:
        config = ICFTConfig.from_dict({"loss.replay_weight": 0.3, **PLAIN_SUM, f"loss.{off}_weight": 0.0})
        batches = eight(config)
        loss = ICFTTrainer(model, batches, config, tmp_path).compute_loss(model, batches[0])
        expected = sum(alone[name] for name in LOSSES if name != off)
        assert (gradient(model, loss) - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("setting, temperature", [(None, math.inf), (3.0, 3.0)])
def test_a_trainer_without_temperature_uses_the_limit(trained, eight, tmp_path, setting, temperature):
    model, _ = trained
    config = ICFTConfig.from_dict({"loss.temperature": setting, "loss.consistency_weight": 0.3})
    batches = eight(config)
    batch = batches[0]
    losses = icft_losses(hidden_states(model, batch), head_weight(model), batch, batch["normalizers"], temperature)
    found = ICFTTrainer(model, batches, config, tmp_path).compute_loss(model, batch)
    torch.testing.assert_close(found, 0.3 * losses["consistency"] + losses["task"] + losses["fine_tune"])


# ---------------------------------------------------------------- memory for the backward pass


def test_no_tensor_of_tokens_times_vocabulary_is_saved_for_backward(monkeypatch):
    monkeypatch.setattr(losses, "MAX_CHUNK_TOKENS", 64)
    tokens, width, vocabulary, saved = 512, 16, 4000, []
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight, target = torch.randn(vocabulary, width), torch.randint(0, vocabulary, (tokens,))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda t: t):
        loss = token_logprobs(hidden, weight, target).sum() + token_kl(hidden, torch.randn(tokens, width), weight).sum()
    loss.backward()
    assert saved and max(saved) == tokens * width < tokens * vocabulary
