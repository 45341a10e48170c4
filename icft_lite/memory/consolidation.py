"""Consolidation of the slow adapter: choice of the interpolation coefficient α at the end of a stage.

Within a stage the slow adapter is an exponential moving average of the fast one (`ema_step`). At the end of a stage,
`consolidate` runs a line search over α between an origin and that average, on the exact weight changes ΔW = B·A:

    ΔW(α) = (1 − α)·ΔW(origin) + α·ΔW(end)

    origin `start`   the slow adapter when the stage began: α < 1 undoes part of this stage
    origin `base`    no change at all (ΔW = 0): α < 1 scales down everything that was learned so far
    end              the moving average of the fast adapter when the stage ended

The retention constraint limits what general validation may lose (`constraint.RetentionConstraint`). Among the
candidates that satisfy it, the one with the best medical validation score is chosen. If a stage began after general
knowledge had been lost already, only the search from the base can recover it. With α > 1 from the base, the change is
extrapolated beyond the end: where the constraint leaves room, this improves medical scores without training (compare
Zheng et al., 2024, "Weak-to-Strong Extrapolation", arXiv 2404.16792).

A chat model's replies take too long for a line search. There, `scale_down` multiplies the change by a smaller and
smaller α until the constraint allows it.
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, Literal, TypedDict

import torch
from peft import PeftModel

from icft_lite.modeling.adapters import adapter_tensors, delta_svd

ALPHAS = (1.0, 0.85, 0.7, 0.55, 0.4, 0.2)
"""Coefficients tried between the slow adapter at the start of the stage (0) and the end (1)."""
BASE_ALPHAS = (0.95, 0.92, 0.89, 0.86, 0.83, 0.8, 0.75, 0.7)
"""Coefficients tried between the bare base (0) and the end (1), if the end violates the retention constraint."""
EXTRAPOLATION_ALPHAS = (1.05, 1.1, 1.15, 1.2)
"""Coefficients tried beyond the end of the last stage, if that end is the best candidate."""

MAX_SCALINGS = 7
"""Coefficients that `scale_down` tries at most."""

Origin = Literal["start", "base"]
"""The model at α = 0: the slow adapter at the start of the stage, or the bare base."""


class CandidateScores(TypedDict):
    """Validation scores of one candidate. None: not measured."""

    general: float
    """Score on general validation, which breaks ties; 0 without such data."""
    medical: float
    """Score on medical validation."""
    retention: float | None
    """Chance-corrected retention of choice accuracy on general validation."""
    chat_retention: float | None
    """Retention in the model's own replies to the chat suite."""
    kl: float | None
    """KL(base ‖ tuned) on general validation, in nats per token."""


UNMEASURED = CandidateScores(general=-inf, medical=-inf, retention=None, chat_retention=None, kl=None)


class Candidate(CandidateScores):
    """One value of α that was tried."""

    alpha: float
    origin: Origin
    svd_residual: float
    """The largest relative Frobenius error over the layers of the truncation to rank r."""


class ConsolidationResult(TypedDict):
    """The outcome of `consolidate`, as it is written to report.json."""

    alpha: float
    """The chosen coefficient; 0 with origin `start` if the stage was refused."""
    origin: Origin
    refused: bool
    """True if no candidate satisfied the retention constraint."""
    svd_residual: float
    """That of the chosen candidate."""
    candidates: list[Candidate]
    """All candidates that were scored, in order."""


@torch.no_grad()
def interpolate(
    model: PeftModel,
    start: Sequence[torch.Tensor],
    end: Sequence[torch.Tensor],
    alpha: float,
    rank: int,
    scale: float,
    exact: bool = True,
) -> float:
    """Set the adapter `slow` to (1 − α)·start + α·end, truncated to rank r by SVD.

    start, end: adapter tensors [A, B, A, B, …] in the order of `adapter_tensors`. rank: r. scale: alpha / r of the
    adapters. exact: interpolate ΔW = B·A. False: interpolate A and B separately, as is common when adapters are
    averaged; the result differs wherever start and end have different A.

    Returns the largest relative Frobenius error of the truncation over the layers, 0 for α = 0, α = 1 and exact=False.
    """
    target = adapter_tensors(model, "slow")
    max_residual = 0.0
    for i in range(0, len(target), 2):
        if alpha in (0.0, 1.0):
            source = start if alpha == 0.0 else end
            A, B = source[i], source[i + 1]
        elif not exact:
            A, B = start[i].lerp(end[i], alpha), start[i + 1].lerp(end[i + 1], alpha)
        else:
            pairs = [(1 - alpha, start[i], start[i + 1]), (alpha, end[i], end[i + 1])]
            A, B, residual = delta_svd(pairs, rank, scale)
            max_residual = max(max_residual, residual)
        target[i].copy_(A)
        target[i + 1].copy_(B)
    return max_residual


def consolidate(
    model: PeftModel,
    start: Sequence[torch.Tensor],
    score: Callable[[], Mapping[str, Any]],
    allows: Callable[[Candidate], bool],
    rank: int,
    scale: float,
    exact: bool = True,
    alphas: Sequence[float] = ALPHAS,
    base_alphas: Sequence[float] = BASE_ALPHAS,
    extrapolation_alphas: Sequence[float] = (),
) -> ConsolidationResult:
    """Choose the interpolation coefficient α, and set the adapter `slow` to the result.

    The candidate with the best medical score among those that `allows` accepts (the retention constraint) is chosen.
    Ties are broken by the general score. If no candidate satisfies the constraint, the stage is
    refused: the adapter returns to `start`. The search has up to two parts:

    1. Between start and end, over `alphas`, until the medical score falls below the best allowed one.
    2. If the first candidate violates the constraint: between base and end, over `base_alphas`, with the same rule. If
       the end (α = 1) is the best candidate: from the base beyond the end, over `extrapolation_alphas`, until the
       constraint is violated. A lower medical score does not end this search, because one answer can cause it.

    start: tensors of the slow adapter when the stage began. score(): CandidateScores of the adapter `slow`; only
    `general`, `medical` and what `allows` reads are needed. exact, rank, scale: see `interpolate`.
    alphas: not empty, from the end (1.0) downwards.
    """
    end = [tensor.clone() for tensor in adapter_tensors(model, "slow")]
    origins: dict[Origin, Sequence[torch.Tensor]] = {"start": start, "base": _without_change(end)}
    candidates: list[Candidate] = []
    best = Candidate(**UNMEASURED, alpha=0.0, origin="start", svd_residual=0.0)

    def search(origin: Origin, alphas: Sequence[float], stop: Callable[[Candidate], bool]) -> None:
        nonlocal best
        for alpha in alphas:
            residual = interpolate(model, origins[origin], end, alpha, rank, scale, exact)
            scores = CandidateScores(**{**UNMEASURED, **score()})  # type: ignore[typeddict-item]
            candidate = Candidate(**scores, alpha=alpha, origin=origin, svd_residual=residual)
            candidates.append(candidate)
            if allows(candidate):
                best = max(best, candidate, key=lambda one: (one["medical"], one["general"]))
            if stop(candidate):
                break

    def is_worse(candidate: Candidate) -> bool:
        return candidate["medical"] < best["medical"]

    def is_violated(candidate: Candidate) -> bool:
        return not allows(candidate)

    search("start", alphas, stop=is_worse)
    if is_violated(candidates[0]):
        search("base", base_alphas, stop=is_worse)
    elif best["alpha"] == 1:
        search("base", extrapolation_alphas, stop=is_violated)
    residual = interpolate(model, origins[best["origin"]], end, best["alpha"], rank, scale, exact)
    return ConsolidationResult(
        alpha=best["alpha"],
        origin=best["origin"],
        refused=best["medical"] == -inf,
        svd_residual=residual,
        candidates=candidates,
    )


def scale_down(
    model: PeftModel,
    start: Sequence[torch.Tensor],
    score: Callable[[], CandidateScores],
    allows: Callable[[Candidate], bool],
    max_kl: float,
    rank: int,
    scale: float,
) -> ConsolidationResult:
    """Scale down what was learned so far until the constraint allows it, and set the adapter `slow` to the result.

    ΔW(α) = α·ΔW(end) for α = 1 and smaller ones. The first that `allows` accepts is chosen. KL(base ‖ tuned) of a small
    change is proportional to α². So the next α is the one at which KL would be `max_kl`; if KL is below that already,
    half of what it is. If MAX_SCALINGS candidates are not allowed, the stage is refused: the adapter returns to
    `start`.

    start, rank, scale: as in `consolidate`. score(): CandidateScores of the adapter `slow`, with `kl`.
    """
    end = [tensor.clone() for tensor in adapter_tensors(model, "slow")]
    candidates: list[Candidate] = []
    alpha = 1.0
    for _ in range(MAX_SCALINGS):
        residual = interpolate(model, _without_change(end), end, alpha, rank, scale)
        candidate = Candidate(**score(), alpha=alpha, origin="base", svd_residual=residual)
        candidates.append(candidate)
        if allows(candidate):
            return ConsolidationResult(
                alpha=alpha, origin="base", refused=False, svd_residual=residual, candidates=candidates
            )
        kl = candidate["kl"] or 0.0
        alpha *= (min(0.9, max_kl / kl) if kl > max_kl else 0.5) ** 0.5
    interpolate(model, start, end, 0.0, rank, scale)
    return ConsolidationResult(alpha=0.0, origin="start", refused=True, svd_residual=0.0, candidates=candidates)


def _without_change(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return adapter tensors [A, B, A, B, …] with B = 0."""
    return [0 * tensor if i % 2 else tensor for i, tensor in enumerate(tensors)]


def ema_step(slow: list[torch.Tensor], fast: list[torch.Tensor], t: int, decay: float) -> None:
    """Update the exponential moving average φ̄ of the fast adapter φ, in place, after optimizer step t = 0, 1, ….

    φ̄ ← β_t·φ̄ + (1 − β_t)·φ,   β_t = min(1 − 1/(t + 1), decay)

    While β_t < decay, φ̄ is the plain mean of the first t + 1 values of φ. In particular β_0 = 0: the average of a
    stage does not depend on its value before. slow, fast: lists of tensors of the same shapes.
    """
    beta = min(1 - 1 / (t + 1), decay)
    with torch.no_grad():
        torch._foreach_lerp_(slow, fast, 1 - beta)
