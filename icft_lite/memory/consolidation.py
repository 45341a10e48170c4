"""The slow adapter: a moving average within a stage, a point on one of two lines of exact updates at its end.

    start ─────────────── end          start: the long-term memory when the stage began
    base ────────────●─── end ────     base:  no change at all
           the chosen point            end:   the moving average of the fast adapter when the stage ended

From the start, one gives up what this stage did. From the base, one scales down all that was learned so far; where a
stage began after much had been forgotten already, only this line regains it. And it can be followed beyond the end:
where general knowledge has room to spare, scaling the change up spends it on medicine, with no training (compare Zheng
et al., 2024, "Weak-to-Strong Extrapolation", arXiv 2404.16792).
"""

import torch

from icft_lite.modeling.adapters import adapter_tensors, delta_svd

ALPHAS = (1.0, 0.85, 0.7, 0.55, 0.4, 0.2)
"""Points tried between the long-term memory at a stage's start (0) and the slow adapter at its end (1)."""
BASE_ALPHAS = (0.95, 0.92, 0.89, 0.86, 0.83, 0.8, 0.75, 0.7)
"""Points tried between the bare base (0) and that end (1), where the end itself keeps too little."""
EXTRAPOLATION_ALPHAS = (1.05, 1.1, 1.15, 1.2)
"""Points tried beyond the run's end, where that end is the best point and allowed."""


@torch.no_grad()
def interpolate(model, start, end, alpha, rank, scale, exact=True):
    """Set `slow` to the point (1 − α)·start + α·end, in exact ΔW = B·A, brought back to rank r by SVD.

    start, end: adapter tensors [A, B, A, B, …]. exact=False averages A and B instead, another point wherever the two
    ends have different A. Returns the largest relative residual over the layers (0 at α = 0 and 1)."""
    target = adapter_tensors(model, "slow")
    worst = 0.0
    for i in range(0, len(target), 2):
        if alpha in (0.0, 1.0):
            source = start if alpha == 0.0 else end
            A, B = source[i], source[i + 1]
        elif not exact:
            A, B = start[i].lerp(end[i], alpha), start[i + 1].lerp(end[i + 1], alpha)
        else:
            pairs = [(1 - alpha, start[i], start[i + 1]), (alpha, end[i], end[i + 1])]
            A, B, residual = delta_svd(pairs, rank, scale)
            worst = max(worst, residual)
        target[i].copy_(A)
        target[i + 1].copy_(B)
    return worst


def consolidate(model, start, score, floor, rank, scale, exact=True, line=ALPHAS, back=BASE_ALPHAS, beyond=()):
    """Choose the long-term memory's next point, on the line start → slow adapter or base → slow adapter.

    start: adapter tensors at the stage's start. score(): {"general", "medical"} of the slow adapter as it
    stands. floor: least general score allowed. exact: see `blend`. Takes the best medical score among the
    points that keep the floor; if none does, stays at the start (refused). Each line is walked from its end until
    medicine falls below what is allowed already, `beyond` until the floor is broken. Sets `slow` to the result and
    returns {"alpha", "origin" ("start" or "base"), "points" (those scored), "refused", "svd_residual"}."""
    end = [tensor.clone() for tensor in adapter_tensors(model, "slow")]
    origins = dict(start=start, base=[0 * tensor if i % 2 else tensor for i, tensor in enumerate(end)])  # B = 0
    points, best = [], dict(alpha=0.0, origin="start", medical=-1.0, general=-1.0)

    def walk(origin, alphas, enough=lambda point: point["medical"] < best["medical"]):
        nonlocal best
        for alpha in alphas:
            residual = interpolate(model, origins[origin], end, alpha, rank, scale, exact)
            point = dict(alpha=alpha, origin=origin, **score(), svd_residual=residual)
            points.append(point)
            if point["general"] >= floor:
                best = max(best, point, key=lambda point: (point["medical"], point["general"]))
            if enough(point):
                break

    walk("start", line)
    if points[0]["general"] < floor:
        walk("base", back)
    elif best["alpha"] == 1:  # whatever medicine does: one answer can make it fall
        walk("base", beyond, lambda point: point["general"] < floor)
    residual = interpolate(model, origins[best["origin"]], end, best["alpha"], rank, scale, exact)
    return dict(
        alpha=best["alpha"], origin=best["origin"], refused=best["general"] < 0, svd_residual=residual, points=points
    )


def ema_step(slow, fast, t, decay):
    """One step of the slow adapter's moving average (tensors, in place), after optimiser step t = 0, 1, …:

    φ̄ ← β_t·φ̄ + (1 − β_t)·φ,   β_t = min(1 − 1/(t + 1), decay)"""
    beta = min(1 - 1 / (t + 1), decay)
    with torch.no_grad():
        torch._foreach_lerp_(slow, fast, 1 - beta)
