"""Consolidation: the moving average, interpolation between two adapters, and the choice of α."""

import numpy as np
import pytest
import torch

from icft_lite.memory.consolidation import (
    EXTRAPOLATION_ALPHAS,
    MAX_SCALINGS,
    UNMEASURED,
    Candidate,
    ConsolidationResult,
    consolidate,
    ema_step,
    interpolate,
    scale_down,
)
from icft_lite.modeling.adapters import adapter_tensors, delta_svd, lora_layers

RANK, SCALE = 8, 2.0  # as in the fixture `adapted`


# ---------------------------------------------------------------- moving average


@pytest.mark.parametrize("decay", [0.5, 0.9, 1.0])
def test_ema_step_changes_the_average_and_equals_its_closed_form(decay):
    torch.manual_seed(0)
    fast = [torch.randn(7, 3).cumsum(0) for _ in range(12)]
    slow = [torch.zeros(3)]
    for t in range(7):
        before = slow[0].clone()
        ema_step(slow, [fast[0][t]], t, decay)
        assert not torch.equal(before, slow[0])
        beta = [min(1 - 1 / (s + 1), decay) for s in range(t + 1)]
        weight = [(1 - beta[s]) * float(np.prod(beta[s + 1 :])) for s in range(t + 1)]
        assert sum(weight) == pytest.approx(1)  # after the first step, its initial value has no weight
        torch.testing.assert_close(slow[0], sum(w * fast[0][s] for s, w in enumerate(weight)))
        if decay == 1.0:
            torch.testing.assert_close(slow[0], fast[0][: t + 1].mean(0))


# ---------------------------------------------------------------- interpolation between two adapters


def deltas(tensors):
    return [SCALE * tensors[i + 1] @ tensors[i] for i in range(0, len(tensors), 2)]


@pytest.fixture
def two_adapters(adapted, shake):
    model, _ = adapted
    start = shake(model, "slow", 0.1, seed=1)
    end = shake(model, "slow", 0.1, seed=2)
    return model, start, end


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_interpolation_is_exact_at_both_ends(two_adapters, alpha):
    model, start, end = two_adapters
    assert interpolate(model, start, end, alpha, RANK, SCALE) == 0
    for tensor, expected in zip(adapter_tensors(model, "slow"), end if alpha else start):
        assert torch.equal(tensor, expected)


def test_interpolation_is_the_best_rank_r_approximation_of_the_exact_average(two_adapters):
    model, start, end = two_adapters
    residual = interpolate(model, start, end, 0.4, RANK, SCALE)
    largest = 0
    for ours, a, b in zip(deltas(adapter_tensors(model, "slow")), deltas(start), deltas(end)):
        average = (0.6 * a + 0.4 * b).double()
        u, s, vh = torch.linalg.svd(average)
        best = u[:, :RANK] * s[:RANK] @ vh[:RANK]
        torch.testing.assert_close(ours.double(), best, atol=1e-4, rtol=1e-3)
        lost = s[RANK:].norm() / s.norm()
        torch.testing.assert_close((average - ours).norm() / average.norm(), lost, atol=1e-4, rtol=1e-3)
        largest = max(largest, float(lost))
    assert residual == pytest.approx(largest, rel=1e-3) and residual > 0.1


def test_twice_the_rank_represents_the_average_exactly(two_adapters):
    _, start, end = two_adapters
    A, B, residual = delta_svd([(0.6, *start[:2]), (0.4, *end[:2])], 2 * RANK, SCALE)
    assert A.shape == (2 * RANK, 192) and residual < 1e-6
    torch.testing.assert_close(SCALE * B @ A, 0.6 * deltas(start)[0] + 0.4 * deltas(end)[0], atol=1e-4, rtol=1e-3)


def test_a_layer_narrower_than_the_rank_is_represented_exactly():
    """A router has one output (Qwen 2 MoE): its change has one singular value, whatever the rank."""
    for outputs, inputs in ((1, 64), (64, 8)):
        A, B = torch.randn(16, inputs), torch.randn(outputs, 16)
        found_A, found_B, residual = delta_svd([(0.5, A, B)], 16, SCALE)
        assert found_A.shape == A.shape and found_B.shape == B.shape and residual < 1e-6
        torch.testing.assert_close(found_B @ found_A, 0.5 * B @ A, atol=1e-4, rtol=1e-4)


def test_averaging_a_and_b_separately_gives_another_change(two_adapters):
    model, start, end = two_adapters
    assert interpolate(model, start, end, 0.25, RANK, SCALE, exact=False) == 0
    for ours, a, b in zip(adapter_tensors(model, "slow"), start, end):
        torch.testing.assert_close(ours, 0.75 * a + 0.25 * b)
    naive, exact = deltas(adapter_tensors(model, "slow"))[0], 0.75 * deltas(start)[0] + 0.25 * deltas(end)[0]
    assert (naive - exact).norm() / exact.norm() > 0.1


# ---------------------------------------------------------------- choice of α


def at_least(general):
    """A constraint: a minimum general score."""
    return lambda candidate: candidate["general"] >= general


@pytest.fixture
def from_base(adapted, shake):
    """(model, start, measured_alpha) of a stage that began at the bare base: at α, ΔW is α times the whole."""
    model, _ = adapted
    start = [tensor.detach().clone() for tensor in adapter_tensors(model, "slow")]
    end = shake(model, "slow", 0.1)
    whole = deltas(end)[0].norm()
    return model, start, lambda: float(deltas(adapter_tensors(model, "slow"))[0].norm() / whole)


@pytest.mark.parametrize(
    "medical, chosen",
    [
        (lambda a: a, 0.4),  # the largest α that satisfies the constraint
        (lambda a: 1 - abs(a - 0.2), 0.2),  # the best allowed candidate need not be the largest α
        (lambda a: 0.5, 0.2),  # ties are broken by the general score
    ],
)
def test_the_best_allowed_candidate_is_chosen(from_base, medical, chosen):
    model, start, measured_alpha = from_base
    alphas = (1.0, 0.7, 0.4, 0.2)
    result = consolidate(
        model,
        start,
        lambda: dict(general=0.9 - 0.3 * measured_alpha(), medical=medical(measured_alpha())),
        allows=at_least(0.75),
        rank=RANK,
        scale=SCALE,
        alphas=alphas,
    )
    assert result["alpha"] == chosen and not result["refused"]
    assert measured_alpha() == pytest.approx(chosen, abs=1e-3)
    assert [c["alpha"] for c in result["candidates"] if c["origin"] == "start"] == list(alphas)
    assert result["candidates"][1]["general"] == pytest.approx(0.69, abs=1e-3), "each candidate is scored by itself"


def test_the_search_ends_where_the_medical_score_falls(from_base):
    model, start, measured_alpha = from_base
    result = consolidate(
        model,
        start,
        lambda: dict(general=0.9 - 0.3 * measured_alpha(), medical=measured_alpha()),
        allows=at_least(0.5),
        rank=RANK,
        scale=SCALE,
    )
    assert result["alpha"] == 1 and [c["alpha"] for c in result["candidates"]] == [1.0, 0.85], (
        "more candidates cost time"
    )


def test_knowledge_lost_before_the_stage_is_recovered_by_the_search_from_the_base(two_adapters):
    """The start violates the constraint already, so no α from it is allowed; the largest allowed α is from the base."""
    model, start, end = two_adapters
    whole = deltas(end)[0].norm()

    def score():
        now = deltas(adapter_tensors(model, "slow"))[0]
        return dict(general=1 - float(now.norm() / whole), medical=float((now * deltas(end)[0]).sum() / whole**2))

    result = consolidate(model, start, score, at_least(0.15), RANK, SCALE)
    assert (result["origin"], result["alpha"]) == ("base", 0.83) and not result["refused"]
    torch.testing.assert_close(
        deltas(adapter_tensors(model, "slow")), [0.83 * one for one in deltas(end)], atol=1e-4, rtol=1e-3
    )
    assert result["svd_residual"] < 1e-6, "scaling does not change the rank"


def test_there_is_no_search_from_the_base_if_the_end_satisfies_the_constraint(two_adapters):
    model, start, _ = two_adapters
    result = consolidate(model, start, lambda: dict(general=1.0, medical=1.0), at_least(0.5), RANK, SCALE)
    assert {c["origin"] for c in result["candidates"]} == {"start"} and result["alpha"] == 1


@pytest.mark.parametrize(
    "medical, chosen, tried",
    [
        (lambda a: a, 1.1, [1.05, 1.1, 1.15]),  # the largest α that satisfies the constraint
        (
            lambda a: a if a < 1.04 or a > 1.07 else 0.9,
            1.1,
            [1.05, 1.1, 1.15],
        ),  # a lower medical score does not end the search
        (lambda a: min(a, 1), 1.0, [1.05, 1.1, 1.15]),  # ties are broken by the general score
        (lambda a: -a, 0.2, []),  # no extrapolation if the end is not the best candidate
    ],
)
def test_the_change_is_extrapolated_while_general_knowledge_allows_it(from_base, medical, chosen, tried):
    model, start, measured_alpha = from_base
    result = consolidate(
        model,
        start,
        lambda: dict(general=1.8 - measured_alpha(), medical=medical(measured_alpha())),
        allows=at_least(0.68),
        rank=RANK,
        scale=SCALE,
        extrapolation_alphas=EXTRAPOLATION_ALPHAS,
    )
    assert result["alpha"] == chosen and measured_alpha() == pytest.approx(chosen, abs=1e-3)
    assert [c["alpha"] for c in result["candidates"] if c["origin"] == "base"] == tried
    assert result["svd_residual"] < 1e-6, "scaling does not change the rank"


def test_there_is_no_extrapolation_if_the_end_violates_the_constraint(from_base):
    model, start, measured_alpha = from_base
    result = consolidate(
        model,
        start,
        lambda: dict(general=1 - measured_alpha() / 2, medical=measured_alpha()),
        allows=at_least(0.6),
        rank=RANK,
        scale=SCALE,
        extrapolation_alphas=EXTRAPOLATION_ALPHAS,
    )
    assert max(c["alpha"] for c in result["candidates"]) == 1 and result["alpha"] < 1


def test_a_stage_without_an_allowed_candidate_is_refused(from_base):
    model, start, measured_alpha = from_base
    result = consolidate(
        model,
        start,
        lambda: dict(general=0.9 if measured_alpha() < 1e-6 else 0.1, medical=measured_alpha()),
        allows=at_least(0.88),
        rank=RANK,
        scale=SCALE,
    )
    assert result["refused"] and result["alpha"] == 0 and result["origin"] == "start"
    assert all(torch.equal(a, b) for a, b in zip(adapter_tensors(model, "slow"), start))


@pytest.mark.parametrize(
    "limit, alphas",
    [
        (1.0, [1.0]),
        (0.5, [1.0, 0.5**0.5]),  # KL(α) = α²: the second α has the KL that is the limit
        (0.01, [1.0, 0.1]),
        (0.95, [1.0, 0.9**0.5]),
    ],
)
def test_a_change_is_scaled_down_to_the_limit_of_kl(from_base, limit, alphas):
    model, start, measured_alpha = from_base

    def score():
        return {**UNMEASURED, "medical": measured_alpha(), "kl": measured_alpha() ** 2}

    def allows(candidate):
        return candidate["kl"] <= limit + 1e-3

    result = scale_down(model, start, score, allows, limit, RANK, SCALE)
    assert [one["alpha"] for one in result["candidates"]] == pytest.approx(alphas, abs=1e-3)
    assert result["alpha"] == result["candidates"][-1]["alpha"] == pytest.approx(measured_alpha(), abs=1e-3)
    assert result["origin"] == "base" and not result["refused"] and result["svd_residual"] < 1e-6


def test_kl_is_halved_where_something_else_is_violated_and_in_the_end_the_stage_is_refused(two_adapters):
    model, start, _ = two_adapters
    scores = {**UNMEASURED, "kl": 0.01}
    result = scale_down(model, start, lambda: scores, lambda one: False, 0.1, RANK, SCALE)
    assert [one["alpha"] ** 2 for one in result["candidates"]] == pytest.approx([0.5**i for i in range(MAX_SCALINGS)])
    assert result["refused"] and (result["alpha"], result["origin"]) == (0.0, "start")
    assert all(torch.equal(a, b) for a, b in zip(adapter_tensors(model, "slow"), start))


def test_every_layer_is_consolidated(two_adapters):
    model, start, end = two_adapters
    consolidate(model, start, lambda: dict(general=1.0, medical=1.0), at_least(0.5), RANK, SCALE, alphas=(0.5,))
    assert len(lora_layers(model)) == len(start) // 2 == 28
    for tensor, a, b in zip(adapter_tensors(model, "slow"), start, end):
        assert not torch.equal(tensor, a) and not torch.equal(tensor, b)


def test_scores_may_be_negative(from_base):
    """Log-likelihoods, for example: the stage is not refused because its scores are below zero."""
    model, start, measured_alpha = from_base
    result = consolidate(
        model,
        start,
        lambda: dict(general=-2 - measured_alpha(), medical=measured_alpha() - 9),
        allows=at_least(-2.72),
        rank=RANK,
        scale=SCALE,
    )
    assert (result["alpha"], result["refused"]) == (0.7, False)


def test_the_result_has_the_documented_fields(from_base):
    model, start, measured_alpha = from_base
    result = consolidate(model, start, lambda: dict(general=1.0, medical=measured_alpha()), at_least(0.5), RANK, SCALE)
    assert set(result) == set(ConsolidationResult.__annotations__)
    assert all(set(candidate) == set(Candidate.__annotations__) for candidate in result["candidates"])
