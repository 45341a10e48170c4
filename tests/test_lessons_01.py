"""Lesson 01: its hand-made training step is the package's loss, its walk scales the change, its exercises judge."""

import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_notebooks import build, cells, check_exercise

from icft_lite.data.samples import load_samples
from icft_lite.metrics import forgetting
from icft_lite.modeling.adapters import adapter_tensors
from icft_lite.modeling.base import head_weight, hidden_states
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.losses import token_logprobs
from icft_lite.modeling.packing import join_batch

SOURCE = Path(build.HERE) / "src" / "01_forgetting.py"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("jupytext") is None, reason="builds a notebook")


@pytest.fixture(scope="module")
def book():
    return build.read(SOURCE)


def lesson(book, mark, **space):
    """What the cell that holds `mark` defines."""
    (cell,) = (cell for cell in cells(book, "code") if mark in cell.source)
    exec(cell.source, space)
    return space


@pytest.fixture
def trained(book, adapted):
    """(model, tokenizer, rows, what the lesson's training cell defines)."""
    model, tokenizer = adapted
    encoder = Encoder(tokenizer)
    rows = [encoder(row) for row in load_samples("medical_train").select(range(60))]
    space = lesson(
        book,
        "def fine_tune",
        random=random,
        torch=torch,
        F=F,
        join=join_batch,
        model=model,
        tokenizer=tokenizer,
        fast=adapter_tensors(model, "fast"),
    )
    return model, tokenizer, rows, space


def test_one_step_by_hand_is_one_step_on_the_packages_loss(trained):
    model, tokenizer, rows, space = trained
    fast = adapter_tensors(model, "fast")
    before = [tensor.detach().clone() for tensor in fast]
    assert list(space["fine_tune"](rows, 1, seed=3)) == [1]
    by_hand = [tensor.detach().clone() for tensor in fast]
    with torch.no_grad():
        torch._foreach_copy_(fast, before)
    batch = join_batch(random.Random(3).sample(rows, 16), tokenizer.pad_token_id)
    states = hidden_states(model, batch)[batch["row"], batch["position"]]
    loss = -token_logprobs(states, head_weight(model), batch["target"]).mean()
    optimiser = torch.optim.AdamW(fast, lr=2e-4)  # a tenth: the first of ten steps of warming up
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(fast, 1.0)
    optimiser.step()
    assert any((a != b).any() for a, b in zip(by_hand, before))
    for a, b in zip(by_hand, fast):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_replay_takes_four_places_of_sixteen(trained):
    _, _, rows, space = trained
    seen = []
    space["join"] = lambda encoded, pad: seen.append(encoded) or join_batch(encoded, pad)
    list(space["fine_tune"](rows[:40], 2, replayed=rows[40:]))
    for batch in seen:
        assert len(batch) == 16 and sum(any(one is old for old in rows[40:]) for one in batch) == 4


def test_walking_scales_the_change_and_nothing_else(book, adapted, shake):
    model, _ = adapted
    fast = adapter_tensors(model, "fast")
    tensors = shake(model, "fast")
    space = lesson(book, "def course", LEVELS=(), STEPS=0, encoder=None, data=None, torch=torch, fast=fast)
    layer = next(module for module in model.modules() if hasattr(module, "lora_A"))
    whole = layer.get_delta_weight("fast").detach().clone()
    for alpha in (0.0, 0.4, 1.0):
        space["put"](tensors, alpha)
        torch.testing.assert_close(layer.get_delta_weight("fast"), alpha * whole, atol=1e-6, rtol=1e-5)


def test_the_exercises_accept_their_solutions_and_reject_wrong_ones(book):
    wrong = [
        [
            "def culprit(R): return min(range(1, len(R)), key=lambda i: R[i][0])",
            "def culprit(R): return max(range(1, len(R)), key=lambda i: R[i][0] - R[i - 1][0])",
            "def culprit(R): return 2",
        ],
        [
            "def forgotten(R):\n    n = len(R) - 1\n    return sum(R[j][j] - R[-1][j] for j in range(n)) / n",
            "def forgotten(R): return sum(max(r[j] for r in R) - R[-1][j] for j in range(len(R))) / len(R)",
            "def forgotten(R): return 0.225",
        ],
        [
            "def furthest(alphas, general, floor):\n"
            "    return max((a for a, g in zip(alphas, general) if g >= floor), default=None)",
            "def furthest(alphas, general, floor): return 0.25",
        ],
    ]
    small = [[0.80, 0.10, 0.20], [0.85, 0.70, 0.30], [0.50, 0.60, 0.75]]
    for number in range(len(wrong)):
        check_exercise(book, number, wrong, dict(np=np, forgetting=forgetting, small=small))
