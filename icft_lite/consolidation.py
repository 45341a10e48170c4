"""The slow adapter: a moving average within a stage, a point on a line of exact updates at its end.

    start ────●────────── end        start: the long-term memory when the stage began
          the chosen point           end:   the moving average of the fast adapter when it ended
"""

import torch

from icft_lite.model import adapter_tensors, delta_svd

LINE = (1.0, 0.85, 0.7, 0.55, 0.4, 0.2)
"""Points tried between the long-term memory at a stage's start (0) and the slow adapter at its end (1)."""


@torch.no_grad()
def blend(model, start, end, alpha, rank, scale):
    """Set `slow` to the point (1 − α)·start + α·end, in exact ΔW = B·A, brought back to rank r by SVD.

    start, end: adapter tensors [A, B, A, B, …]. Averaging A and B instead is not this point. Returns the
    largest relative residual over the layers (0 at α = 0 and 1)."""
    target = adapter_tensors(model, "slow")
    worst = 0.0
    for i in range(0, len(target), 2):
        if alpha in (0.0, 1.0):
            source = start if alpha == 0.0 else end
            A, B = source[i], source[i + 1]
        else:
            pairs = [(1 - alpha, start[i], start[i + 1]), (alpha, end[i], end[i + 1])]
            A, B, residual = delta_svd(pairs, rank, scale)
            worst = max(worst, residual)
        target[i].copy_(A)
        target[i + 1].copy_(B)
    return worst


def consolidate(model, start, score, floor, rank, scale, line=LINE):
    """Choose the long-term memory's next point on the line start → slow adapter.

    start: adapter tensors at the stage's start. score(): {"general", "medical"} of the slow adapter as it
    stands. floor: least general score allowed. Takes the best medical score among the points that keep the
    floor; if none does, stays at the start (refused). Sets `slow` to the result and returns
    {"alpha", "points", "refused", "svd_residual"}."""
    end = [tensor.clone() for tensor in adapter_tensors(model, "slow")]
    points = []
    for alpha in line:
        residual = blend(model, start, end, alpha, rank, scale)
        points.append(dict(alpha=alpha, **score(), svd_residual=residual))
    allowed = [point for point in points if point["general"] >= floor]
    chosen = max(allowed, key=lambda point: (point["medical"], point["general"]), default=None)
    alpha = chosen["alpha"] if chosen else 0.0
    residual = blend(model, start, end, alpha, rank, scale)
    return dict(alpha=alpha, refused=chosen is None, svd_residual=residual, points=points)


def average_step(slow, fast, t, decay):
    """One step of the slow adapter's moving average (tensors, in place), after optimiser step t = 0, 1, …:

        φ̄ ← β_t·φ̄ + (1 − β_t)·φ,   β_t = min(1 − 1/(t + 1), decay)"""
    beta = min(1 - 1 / (t + 1), decay)
    with torch.no_grad():
        torch._foreach_lerp_(slow, fast, 1 - beta)
