"""The slow adapter: its moving average, the points between two adapters, and the one that is chosen."""

import numpy as np
import pytest
import torch

from icft_lite.memory.consolidation import EXTRAPOLATION_ALPHAS, consolidate, ema_step, interpolate
from icft_lite.modeling.adapters import adapter_tensors, delta_svd, lora_layers

RANK, SCALE = 8, 2.0  # of the fixture `adapted`


# ---------------------------------------------------------------- moving average


@pytest.mark.parametrize("decay", [0.5, 0.9, 1.0])
def test_the_moving_average_moves_and_equals_its_closed_form(decay):
    torch.manual_seed(0)
    fast = [torch.randn(7, 3).cumsum(0) for _ in range(12)]
    slow = [torch.zeros(3)]
    for t in range(7):
        before = slow[0].clone()
        ema_step(slow, [fast[0][t]], t, decay)
        assert not torch.equal(before, slow[0])
        beta = [min(1 - 1 / (s + 1), decay) for s in range(t + 1)]
        weight = [(1 - beta[s]) * float(np.prod(beta[s + 1 :])) for s in range(t + 1)]
        assert sum(weight) == pytest.approx(1)  # the first step forgets where the average stood before
        torch.testing.assert_close(slow[0], sum(w * fast[0][s] for s, w in enumerate(weight)))
        if decay == 1.0:
            torch.testing.assert_close(slow[0], fast[0][: t + 1].mean(0))


# ---------------------------------------------------------------- points between two adapters


def deltas(tensors):
    return [SCALE * tensors[i + 1] @ tensors[i] for i in range(0, len(tensors), 2)]


@pytest.fixture
def two_points(adapted, shake):
    model, _ = adapted
    start = shake(model, "slow", 0.1, seed=1)
    end = shake(model, "slow", 0.1, seed=2)
    return model, start, end


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_blend_is_exact_at_both_ends(two_points, alpha):
    model, start, end = two_points
    assert interpolate(model, start, end, alpha, RANK, SCALE) == 0
    for tensor, expected in zip(adapter_tensors(model, "slow"), end if alpha else start):
        assert torch.equal(tensor, expected)


def test_blend_is_the_best_rank_r_version_of_the_exact_average(two_points):
    model, start, end = two_points
    residual = interpolate(model, start, end, 0.4, RANK, SCALE)
    worst = 0
    for ours, a, b in zip(deltas(adapter_tensors(model, "slow")), deltas(start), deltas(end)):
        average = (0.6 * a + 0.4 * b).double()
        u, s, vh = torch.linalg.svd(average)
        best = u[:, :RANK] * s[:RANK] @ vh[:RANK]
        torch.testing.assert_close(ours.double(), best, atol=1e-4, rtol=1e-3)
        lost = s[RANK:].norm() / s.norm()
        torch.testing.assert_close((average - ours).norm() / average.norm(), lost, atol=1e-4, rtol=1e-3)
        worst = max(worst, float(lost))
    assert residual == pytest.approx(worst, rel=1e-3) and residual > 0.1


def test_twice_the_rank_holds_the_average_exactly(two_points):
    _, start, end = two_points
    A, B, residual = delta_svd([(0.6, *start[:2]), (0.4, *end[:2])], 2 * RANK, SCALE)
    assert A.shape == (2 * RANK, 192) and residual < 1e-6
    torch.testing.assert_close(SCALE * B @ A, 0.6 * deltas(start)[0] + 0.4 * deltas(end)[0], atol=1e-4, rtol=1e-3)


def test_averaging_a_and_b_is_another_point(two_points):
    model, start, end = two_points
    assert interpolate(model, start, end, 0.25, RANK, SCALE, exact=False) == 0
    for ours, a, b in zip(adapter_tensors(model, "slow"), start, end):
        torch.testing.assert_close(ours, 0.75 * a + 0.25 * b)
    naive, exact = deltas(adapter_tensors(model, "slow"))[0], 0.75 * deltas(start)[0] + 0.25 * deltas(end)[0]
    assert (naive - exact).norm() / exact.norm() > 0.1


# ---------------------------------------------------------------- consolidation


@pytest.fixture
def line(adapted, shake):
    """From the bare base (no change) to an adapter: at alpha the change is alpha times the whole of it."""
    model, _ = adapted
    start = [tensor.detach().clone() for tensor in adapter_tensors(model, "slow")]
    end = shake(model, "slow", 0.1)
    whole = deltas(end)[0].norm()
    return model, start, lambda: float(deltas(adapter_tensors(model, "slow"))[0].norm() / whole)


@pytest.mark.parametrize(
    "medical, chosen",
    [
        (lambda a: a, 0.4),  # as far as general knowledge allows
        (lambda a: 1 - abs(a - 0.2), 0.2),  # the best of what is allowed need not be the farthest
        (lambda a: 0.5, 0.2),  # among equals the one that keeps more
    ],
)
def test_consolidation_takes_the_best_allowed_point(line, medical, chosen):
    model, start, where = line
    points = (1.0, 0.7, 0.4, 0.2)
    point = consolidate(
        model,
        start,
        lambda: dict(general=0.9 - 0.3 * where(), medical=medical(where())),
        floor=0.75,
        rank=RANK,
        scale=SCALE,
        line=points,
    )
    assert point["alpha"] == chosen and not point["refused"]
    assert where() == pytest.approx(chosen, abs=1e-3)
    assert [p["alpha"] for p in point["points"] if p["origin"] == "start"] == list(points)
    assert point["points"][1]["general"] == pytest.approx(0.69, abs=1e-3), "each point is scored as it stands"


def test_the_walk_ends_where_medicine_falls(line):
    model, start, where = line
    point = consolidate(
        model, start, lambda: dict(general=0.9 - 0.3 * where(), medical=where()), floor=0.5, rank=RANK, scale=SCALE
    )
    assert point["alpha"] == 1 and [p["alpha"] for p in point["points"]] == [1.0, 0.85], "more points cost time"


def test_what_was_forgotten_before_the_stage_is_regained_from_the_base(two_points):
    """A stage that began low in general skill: from its start nothing is allowed, from the base the nearest is."""
    model, start, end = two_points
    whole = deltas(end)[0].norm()

    def score():
        now = deltas(adapter_tensors(model, "slow"))[0]
        return dict(general=1 - float(now.norm() / whole), medical=float((now * deltas(end)[0]).sum() / whole**2))

    point = consolidate(model, start, score, 0.15, RANK, SCALE)
    assert (point["origin"], point["alpha"]) == ("base", 0.83) and not point["refused"]
    torch.testing.assert_close(
        deltas(adapter_tensors(model, "slow")), [0.83 * one for one in deltas(end)], atol=1e-4, rtol=1e-3
    )
    assert point["svd_residual"] < 1e-6, "scaling keeps the rank"


def test_an_end_that_keeps_enough_is_not_walked_back_to_the_base(two_points):
    model, start, _ = two_points
    point = consolidate(model, start, lambda: dict(general=1.0, medical=1.0), 0.5, RANK, SCALE)
    assert {p["origin"] for p in point["points"]} == {"start"} and point["alpha"] == 1


@pytest.mark.parametrize(
    "medical, chosen, tried",
    [
        (lambda a: a, 1.1, [1.05, 1.1, 1.15]),  # as far beyond the end as general knowledge allows
        (lambda a: a if a < 1.04 or a > 1.07 else 0.9, 1.1, [1.05, 1.1, 1.15]),  # one answer less does not end the walk
        (lambda a: min(a, 1), 1.0, [1.05, 1.1, 1.15]),  # among equals the one that keeps more
        (lambda a: -a, 0.2, []),  # an end that is not the best point is no place to go on from
    ],
)
def test_general_knowledge_to_spare_is_spent_beyond_the_end(line, medical, chosen, tried):
    model, start, where = line
    point = consolidate(
        model,
        start,
        lambda: dict(general=1.8 - where(), medical=medical(where())),
        floor=0.68,
        rank=RANK,
        scale=SCALE,
        beyond=EXTRAPOLATION_ALPHAS,
    )
    assert point["alpha"] == chosen and where() == pytest.approx(chosen, abs=1e-3)
    assert [p["alpha"] for p in point["points"] if p["origin"] == "base"] == tried
    assert point["svd_residual"] < 1e-6, "scaling keeps the rank"


def test_nothing_is_tried_beyond_an_end_that_keeps_too_little(line):
    model, start, where = line
    point = consolidate(
        model,
        start,
        lambda: dict(general=1 - where() / 2, medical=where()),
        floor=0.6,
        rank=RANK,
        scale=SCALE,
        beyond=EXTRAPOLATION_ALPHAS,
    )
    assert max(p["alpha"] for p in point["points"]) == 1 and point["alpha"] < 1


def test_an_adversarial_stage_is_refused(line):
    model, start, where = line
    point = consolidate(
        model,
        start,
        lambda: dict(general=0.9 if where() < 1e-6 else 0.1, medical=where()),
        floor=0.88,
        rank=RANK,
        scale=SCALE,
    )
    assert point["refused"] and point["alpha"] == 0
    assert all(torch.equal(a, b) for a, b in zip(adapter_tensors(model, "slow"), start))


def test_every_layer_is_consolidated(two_points):
    model, start, end = two_points
    consolidate(model, start, lambda: dict(general=1.0, medical=1.0), 0.5, RANK, SCALE, line=(0.5,))
    assert len(lora_layers(model)) == len(start) // 2 == 28
    for tensor, a, b in zip(adapter_tensors(model, "slow"), start, end):
        assert not torch.equal(tensor, a) and not torch.equal(tensor, b)
