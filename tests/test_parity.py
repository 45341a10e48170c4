"""The losses on a real model: equal to the naive formulas, and unmoved by what must not move them."""

import math

import pytest
import torch
import torch.nn.functional as F

from icft_lite.config import ICFTConfig
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.modeling import losses
from icft_lite.modeling.adapters import (
    activate_adapter,
    adapter_tensors,
    add_adapters,
    set_adapter_tensors,
    use_adapter,
)
from icft_lite.modeling.base import head_weight, hidden_states, load_base
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.losses import icft_losses, token_kl, token_logprobs
from icft_lite.training.batches import StageBatches, collate, normalizers, split_micro_batches
from icft_lite.training.plan import PlannedStep
from icft_lite.training.trainer import LOSSES, ICFTTrainer

AS_SUMMED = dict(consistency_weight=1.0, temperature=1.0)  # what `icft_losses` and a plain sum have


@pytest.fixture(scope="module")
def whole():
    """The embedded base without 4 bits, and adapters."""
    model, tokenizer = load_base("tiny", four_bit=False)
    model = add_adapters(model, rank=8, alpha=16)
    return model, tokenizer, [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]


@pytest.fixture(params=["nf4", "fp32"])
def trained(request, shake):
    """(model, tokenizer): both adapters somewhere, each elsewhere."""
    model, tokenizer, *fresh = request.getfixturevalue("adapted" if request.param == "nf4" else "whole")
    for name, seed in (("slow", 1), ("fast", 2)):
        if fresh:
            set_adapter_tensors(model, name, fresh[0])
        shake(model, name, 0.08, seed)
    activate_adapter(model, "fast")
    return model, tokenizer


@pytest.fixture
def eight(trained, row):
    """eight(config) -> StageBatches of one step of eight rows: all roles, tasks and both teachers."""
    model, tokenizer = trained
    encoder = Encoder(tokenizer, share_prompts=False)
    rows = [
        row(),
        row(prompt="Define pain in a long and slow wording of some length.", responses=["it hurts"]),
        row(task="question", responses=["a kidney", "pain", "none"], label=-1, posterior=[0.2, 0.7, 0.1]),
        row(task="pair", responses=["go to surgery", "rest"], label=-1, posterior=[0.9, 0.1]),
        row(prompt="Name an organ.", responses=["the heart of the matter"]),
    ]
    memory = LongTermMemory(10)
    replies = ["Gitega", "seven red of", "lung lung lung", "ice pain into", "the the sky", "of and with", "goat is"]
    memory.add(
        [row(id=reply, prompt="Which city is the capital of Burundi?", responses=[reply]) for reply in replies],
        encoder,
        "general",
    )
    memory.refresh(model)
    taught = [entry.teacher for entry in memory.entries]
    both = [taught.index("base"), taught.index("memory")]
    three = [*both, next(i for i in range(7) if i not in both)]

    def make(config=ICFTConfig(replay_weight=0.3)):
        return StageBatches(
            [PlannedStep([0, 1, 2, 3], [4], three)], rows, [encoder(one) for one in rows], memory.entries, config
        )

    make.entries = [memory.entries[i] for i in three]
    return make


def ours(model, items, change=lambda batch: batch, parts=1, temperature=1.0):
    """Losses of a step in `parts` micro-batches, and the gradient of their sum."""
    whole, found = normalizers(items), {}
    for some in split_micro_batches(items, parts):
        if some:
            batch = change(collate(some, whole))
            for name, value in icft_losses(
                hidden_states(model, batch), head_weight(model), batch, whole, temperature
            ).items():
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
def test_equal_to_full_logits_and_a_live_reference(trained, eight, temperature):
    """The cached states and the chunked head against what they stand for: another pass through the whole model."""
    model, _ = trained
    items = eight().items(eight().steps[0])
    entries = iter(eight.entries)
    assert {entry.teacher for entry in eight.entries} == {"base", "memory"}
    nll, task, kl, whole = 0, 0, 0, normalizers(items)
    for item in items:
        ids = [torch.tensor([row]) for row in item.encoded.sequences]
        logp = [model(input_ids=one).logits[0].log_softmax(-1) for one in ids]
        sums, counts = [0] * len(item.token_weight), [0] * len(item.token_weight)
        for r, position, target, s in item.encoded.tokens:
            sums[s], counts[s] = sums[s] + logp[r][position, target], counts[s] + 1
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
    naive = dict(fine_tune=nll / whole["fine_tune"], task=task / whole["task"], consistency=kl / whole["consistency"])
    assert_same(ours(model, items, temperature=temperature), (naive, gradient(model, sum(naive.values()))))


# ---------------------------------------------------------------- what must not move them


def padded(side, amount):
    """A change of a batch: `amount` more pads, all pads of a row on one side of it."""

    def change(batch):
        rows, longest = batch["input_ids"].shape
        lengths = batch["attention_mask"].sum(1)
        ids = torch.full((rows, longest + amount), 5)
        mask, shift = torch.zeros_like(ids), torch.zeros_like(lengths)
        for r, length in enumerate(lengths.tolist()):
            shift[r] = longest + amount - length if side == "left" else 0
            ids[r, shift[r] : shift[r] + length] = batch["input_ids"][r, :length]
            mask[r, shift[r] : shift[r] + length] = 1
        return {
            **batch,
            "input_ids": ids,
            "attention_mask": mask,
            "position": batch["position"] + shift[batch["row"]],
            "position_ids": (mask.cumsum(1) - 1).clamp_min(0),
        }

    return change


@pytest.mark.parametrize("side, amount", [("right", 0), ("right", 17), ("left", 0), ("left", 17)])
def test_padding_on_any_side_and_of_any_amount(trained, eight, side, amount):
    items = eight().items(eight().steps[0])
    assert_same(ours(trained[0], items, padded(side, amount)), ours(trained[0], items))


def test_the_order_of_a_batch(trained, eight):
    items = eight().items(eight().steps[0])
    assert_same(ours(trained[0], items[::-1]), ours(trained[0], items))


@pytest.mark.parametrize("parts", [2, 4])
def test_eight_rows_at_once_or_four_twice_or_two_four_times(trained, eight, parts):
    items = eight().items(eight().steps[0])
    assert len(items) == 8
    assert_same(ours(trained[0], items, parts=parts), ours(trained[0], items))


@pytest.mark.parametrize("parts", [2, 4])
def test_the_trainer_accumulates_that_gradient(trained, eight, tmp_path, monkeypatch, parts):
    model, _ = trained
    seen = []
    step = ICFTTrainer.training_step

    def look(self, *args, **kwargs):
        loss = step(self, *args, **kwargs)
        if self.accelerator.sync_gradients:  # before it is clipped
            seen.append(torch.cat([tensor.grad.flatten().clone() for tensor in self.trainable]))
        return loss

    monkeypatch.setattr(ICFTTrainer, "training_step", look)
    config = ICFTConfig(replay_weight=0.3, micro_batches=parts, lora_rank=8, lora_alpha=16, **AS_SUMMED)
    _, expected = ours(model, eight().items(eight().steps[0]))
    ICFTTrainer(model, eight(config), config, tmp_path).train()
    (found,) = seen
    assert (found - expected).norm() / expected.norm() < 1e-5


def test_a_weight_of_zero_removes_its_gradient_and_no_other(trained, eight, tmp_path):
    model, _ = trained
    alone = {}
    for name in LOSSES:
        batch = eight()[0]
        parts = icft_losses(hidden_states(model, batch), head_weight(model), batch, batch["denominators"])
        alone[name] = gradient(model, parts[name])
        assert alone[name].norm() > 1e-4
    for off in LOSSES:
        config = ICFTConfig(replay_weight=0.3, **{**AS_SUMMED, f"{off}_weight": 0.0})
        batches = eight(config)
        loss = ICFTTrainer(model, batches, config, tmp_path).compute_loss(model, batches[0])
        expected = sum(alone[name] for name in LOSSES if name != off)
        assert (gradient(model, loss) - expected).norm() / expected.norm() < 1e-5


@pytest.mark.parametrize("setting, temperature", [(0.0, math.inf), (3.0, 3.0)])
def test_the_trainer_takes_a_temperature_of_zero_for_the_limit(trained, eight, tmp_path, setting, temperature):
    model, _ = trained
    config = ICFTConfig(temperature=setting, consistency_weight=0.3)
    batches = eight(config)
    batch = batches[0]
    losses = icft_losses(hidden_states(model, batch), head_weight(model), batch, batch["denominators"], temperature)
    found = ICFTTrainer(model, batches, config, tmp_path).compute_loss(model, batch)
    torch.testing.assert_close(found, 0.3 * losses["consistency"] + losses["task"] + losses["fine_tune"])


# ---------------------------------------------------------------- what is held for backward


def test_nothing_of_tokens_times_vocabulary_is_held_for_backward(monkeypatch):
    monkeypatch.setattr(losses, "CHUNK", 64)
    tokens, width, vocabulary, held = 512, 16, 4000, []
    hidden = torch.randn(tokens, width, requires_grad=True)
    weight, target = torch.randn(vocabulary, width), torch.randint(0, vocabulary, (tokens,))
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: held.append(tensor.numel()) or tensor, lambda t: t):
        loss = token_logprobs(hidden, weight, target).sum() + token_kl(hidden, torch.randn(tokens, width), weight).sum()
    loss.backward()
    assert held and max(held) == tokens * width < tokens * vocabulary
