"""Lesson 05: what it builds by hand agrees with the package and with peft, its exercises judge."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from test_notebooks import build, check_exercise, exercises, from_scratch

from icft_lite.memory.consolidation import ema_step
from icft_lite.memory.policies import water_fill
from icft_lite.modeling.adapters import delta_svd

SOURCE = Path(build.HERE) / "src" / "05_memory.py"


@pytest.fixture(scope="module")
def book():
    return build.read(SOURCE)


@pytest.fixture(scope="module")
def built(book):
    return from_scratch(book, np=np)


def test_the_reservoir_is_fair_and_the_other_is_not(built):
    draw, runs = random.Random(3), 4000
    for name, fair in (("reservoir", True), ("always_in", False)):
        retained = np.bincount([i for _ in range(runs) for i in built[name](range(12), 3, draw)], minlength=12) / runs
        assert retained.sum() == pytest.approx(3)
        assert bool(abs(retained - 0.25).max() < 5 * (0.25 * 0.75 / runs) ** 0.5) is fair
    assert built["reservoir"](range(2), 3, draw) == [0, 1]


@pytest.mark.parametrize("decay", [0.5, 0.9, 1.0])
def test_the_closed_form_is_the_packages_average(built, decay):
    fast = torch.randn(15, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slow = [torch.ones(2, dtype=torch.float64)]
    for t in range(15):
        ema_step(slow, [fast[t]], t, decay)
        weights = built["average_weights"](t, decay)
        assert weights.sum() == pytest.approx(1)
        torch.testing.assert_close(slow[0], torch.tensor(weights) @ fast[: t + 1])


def test_pefts_own_mixtures_agree(book):
    """peft's `cat` is the exact mean of ΔW, its `svd` the package's truncation; its `linear` is neither."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["0"], lora_dropout=0.0)
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(9, 7)), config, adapter_name="one")
    model.add_adapter("two", config)
    layer = model.base_model.model[0]
    for name in ("one", "two"):
        torch.nn.init.normal_(layer.lora_B[name].weight)
    pairs = [(0.5, layer.lora_A[name].weight.data, layer.lora_B[name].weight.data) for name in ("one", "two")]
    exact = sum(weight * 2.0 * B @ A for weight, A, B in pairs)
    A, B, residual = delta_svd(pairs, rank=3, scale=2.0)
    found = {}
    for kind in ("cat", "svd", "linear"):
        model.add_weighted_adapter(["one", "two"], [0.5, 0.5], kind, combination_type=kind, svd_rank=3)
        found[kind] = layer.get_delta_weight(kind).detach()
    torch.testing.assert_close(found["cat"], exact, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["svd"], 2.0 * B @ A, atol=1e-5, rtol=1e-4)
    assert (found["linear"] - exact).norm() > 1.05 * residual * exact.norm()


def test_the_exercises_accept_their_solutions_and_reject_wrong_ones(book):
    wrong = [
        [
            "def outcome(r, c): return 'offered' if r and c >= 0.8 else 'not replayed'",
            "def outcome(r, c):\n    if c < 0.8: return 'label too uncertain'\n"
            "    return 'offered' if r else 'not replayed'",
        ],
        [
            "def stack(p): return torch.cat([A for _, A, _ in p]), torch.cat([B for _, _, B in p], 1)",
            "def stack(p): return torch.cat([w * A for w, A, _ in p]), torch.cat([w * B for w, _, B in p], 1)",
            "def stack(p): return sum(w * A for w, A, _ in p), sum(w * B for w, _, B in p)",
        ],
        ["def level(counts, size): return size // len(counts)", "def level(counts, size): return max(counts)"],
    ]
    space = dict(torch=torch)
    for number in range(len(wrong)):
        check_exercise(book, number, wrong, space)


def test_the_water_level_is_the_packages(book):
    space = {}
    exec(exercises(book)[2][1], space)
    draw = random.Random(0)
    for _ in range(100):
        counts = [draw.randrange(1, 30) for _ in range(draw.randrange(1, 6))]
        size = draw.randrange(80)
        quota, level = water_fill(dict(enumerate(counts)), size), space["level"](counts, size)
        assert all(quota[i] in (min(count, level), min(count, level + 1)) for i, count in enumerate(counts))
