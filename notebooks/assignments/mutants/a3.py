"""A3: wrong answers with the kind of feedback that each must get, and right answers written in another way.

    WRONG = {part: {name of the mistake: (function, words of the feedback)}}        RIGHT = {part: [function, …]}
"""

import math
from statistics import NormalDist

import numpy as np
import torch

# --- 1


def levels_linear(bits):
    return torch.linspace(-1, 1, 2**bits)


def levels_without_zero(bits):
    n = 2**bits
    edge = 1 - (1 / (2 * n) + 1 / (2 * (n - 1))) / 2
    levels = torch.tensor([NormalDist().inv_cdf(p) for p in np.linspace(1 - edge, edge, n)])
    return levels / levels[-1]


def levels_mirrored(bits):
    return -levels_by_scipy(bits).flip(0)


def levels_not_scaled(bits):
    n = 2**bits
    return levels_by_scipy(bits) * NormalDist().inv_cdf(1 - (1 / n + 1 / (n - 1)) / 4)


def levels_first_edge(bits):
    return levels_by_scipy(bits, edge=1 - 1 / 2 ** (bits + 1))


def levels_by_scipy(bits, edge=None):
    from scipy.stats import norm

    n = 2**bits
    edge = edge or 1 - 0.25 / n - 0.25 / (n - 1)
    positive = [norm.ppf(0.5 + (edge - 0.5) * i / (n // 2)) for i in range(n // 2 + 1)]
    negative = [norm.ppf(0.5 - (edge - 0.5) * i / (n // 2 - 1)) for i in range(n // 2 - 1, 0, -1)]
    return torch.tensor(negative + positive, dtype=torch.float64) / positive[-1]


# --- 2


def in_blocks(numbers, levels, block, scale_of, index_of):
    """Return indices and scales, block by block."""
    indices, scales = [], []
    for part in numbers.split(block):
        scales.append(scale_of(part))
        indices += [index_of(float(x) / max(float(scales[-1]), 1e-30), levels) for x in part]
    return torch.tensor(indices), torch.stack(scales)


def nearest(x, levels):
    return int((levels - x).abs().argmin())


def last_nearest(x, levels):
    return len(levels) - 1 - int((levels - x).abs().flip(0).argmin())


def next_below(x, levels):
    return max(0, int((levels <= x).sum()) - 1)


def quantize_in_loops(numbers, levels, block):
    return in_blocks(numbers, levels, block, lambda part: part.abs().max(), nearest)


def quantize_in_float64(numbers, levels, block):
    return in_blocks(numbers.double(), levels.double(), block, lambda part: part.abs().max(), last_nearest)


def quantize_without_abs(numbers, levels, block):
    return in_blocks(numbers, levels, block, lambda part: part.max(), nearest)


def quantize_one_scale(numbers, levels, block):
    return in_blocks(numbers, levels, block, lambda part: numbers.abs().max(), nearest)


def quantize_down(numbers, levels, block):
    return in_blocks(numbers, levels, block, lambda part: part.abs().max(), next_below)


def quantize_linearly(numbers, levels, block):
    last = len(levels) - 1
    return in_blocks(numbers, levels, block, lambda part: part.abs().max(), lambda x, _: round((x + 1) / 2 * last))


def quantize_drops_the_rest(numbers, levels, block):
    return quantize_in_loops(numbers[: len(numbers) // block * block], levels, block)


def quantize_to_levels(numbers, levels, block):
    indices, scales = quantize_in_loops(numbers, levels, block)
    return levels[indices], scales


def quantize_divides_by_zero(numbers, levels, block):
    def index(x, levels):
        return nearest(x, levels) if x else 0

    return in_blocks(numbers, levels, block, lambda part: part.abs().max(), index)


# --- 3


def dequantize_in_loops(indices, scales, levels, block, shape):
    values = [float(levels[i]) * float(scales[at // block]) for at, i in enumerate(indices.tolist())]
    return torch.tensor(values, dtype=torch.float64).reshape(*shape)


def dequantize_tiled(indices, scales, levels, block, shape):
    return (levels[indices] * scales.repeat(block)[: len(indices)]).reshape(shape)


def dequantize_divides(indices, scales, levels, block, shape):
    return (levels[indices] / scales.repeat_interleave(block)[: len(indices)]).reshape(shape)


def dequantize_raw(indices, scales, levels, block, shape):
    return (indices * scales.repeat_interleave(block)[: len(indices)]).reshape(shape)


def dequantize_flat(indices, scales, levels, block, shape):
    return levels[indices] * scales.repeat_interleave(block)[: len(indices)]


# --- 4


def codes_by_group(scales, group, steps=255, offset=True, convert=torch.round):
    low = torch.stack([part.min() if offset else 0 * part.min() for part in scales.split(group)])
    step = torch.stack([part.max() for part in scales.split(group)]).sub(low) / steps
    spread = [values.repeat_interleave(group)[: len(scales)] for values in (low, step)]
    return convert((scales - spread[0]) / spread[1].clamp_min(1e-30)).long(), low, step


def codes_in_float64(scales, group):
    codes, low, step = [], [], []
    for start in range(0, len(scales), group):
        part = scales[start : start + group].double().numpy()
        low.append(part.min())
        step.append((part.max() - part.min()) / 255)
        codes += [math.ceil((x - low[-1]) / step[-1] - 0.5) if step[-1] else 0 for x in part]
    return torch.tensor(codes), torch.tensor(low), torch.tensor(step)


def codes_of_256_steps(scales, group):
    return codes_by_group(scales, group, steps=256)


def codes_rounded_down(scales, group):
    return codes_by_group(scales, group, convert=torch.floor)


def codes_without_offset(scales, group):
    return codes_by_group(scales, group, offset=False)


def codes_of_one_group(scales, group):
    codes, low, step = codes_by_group(scales, len(scales))
    groups = -(-len(scales) // group)
    return codes, low.repeat(groups), step.repeat(groups)


def codes_with_padding(scales, group):
    padded = torch.nn.functional.pad(scales, (0, -len(scales) % group))
    codes, low, step = codes_by_group(padded, group)
    return codes[: len(scales)], low, step


# --- 5


def forward_by_effective_weight(x, W, A, B, alpha):
    return torch.einsum("...i,oi->...o", x.double(), (W + alpha / A.shape[0] * B @ A).double())


def forward_alpha_alone(x, W, A, B, alpha):
    return x @ W.T + alpha * x @ A.T @ B.T


def forward_root(x, W, A, B, alpha):
    return x @ W.T + alpha / len(A) ** 0.5 * x @ A.T @ B.T


def forward_frozen(x, W, A, B, alpha):
    return x @ W.T


def forward_subtracts(x, W, A, B, alpha):
    return x @ W.T - alpha / len(A) * x @ A.T @ B.T


def forward_columns(x, W, A, B, alpha):
    return W @ x.flatten(0, -2).T + alpha / len(A) * B @ A @ x.flatten(0, -2).T


# --- 6


def backward_by_autograd(x, g, W, A, B, alpha):
    leaves = [tensor.clone().requires_grad_() for tensor in (x, A, B)]
    y = leaves[0] @ W.T + alpha / len(A) * leaves[0] @ leaves[1].T @ leaves[2].T
    return list(torch.autograd.grad(y, leaves, g))


def backward_in_loops(x, g, W, A, B, alpha):
    s = alpha / len(A)
    grad_x = torch.stack([W.T @ one + s * A.T @ (B.T @ one) for one in g])
    grad_A = sum(s * torch.outer(B.T @ one, row) for one, row in zip(g, x))
    grad_B = sum(s * torch.outer(one, A @ row) for one, row in zip(g, x))
    return grad_x, grad_A, grad_B


def backward_alpha_alone(x, g, W, A, B, alpha):
    return backward_in_loops(x, g, W, A, B, alpha * len(A))


def backward_unscaled(x, g, W, A, B, alpha):
    return backward_in_loops(x, g, W, A, B, len(A))


def backward_frozen_path(x, g, W, A, B, alpha):
    return (g @ W, *backward_in_loops(x, g, W, A, B, alpha)[1:])


def backward_adapter_path(x, g, W, A, B, alpha):
    return backward_in_loops(x, g, 0 * W, A, B, alpha)


def backward_mean(x, g, W, A, B, alpha):
    grad_x, grad_A, grad_B = backward_in_loops(x, g, W, A, B, alpha)
    return grad_x, grad_A / len(x), grad_B / len(x)


def backward_transposed(x, g, W, A, B, alpha):
    grad_x, grad_A, grad_B = backward_in_loops(x, g, W, A, B, alpha)
    return grad_x, grad_A.T, grad_B.T


def backward_descends(x, g, W, A, B, alpha):
    return [-gradient for gradient in backward_in_loops(x, g, W, A, B, alpha)]


# --- 7


def rounded(weight, levels, block):
    flat = weight.flatten()
    return dequantize_in_loops(*quantize_in_loops(flat, levels, block), levels, block, weight.shape)


def merge_by_columns(W, A, B, alpha, levels, block):
    merged = torch.stack([W[:, i] + alpha / len(A) * (B @ A[:, i]) for i in range(W.shape[1])], 1)
    error = rounded(merged, levels, block) - merged
    return merged, math.sqrt(float((error**2).sum()) / float(((merged - W) ** 2).sum()))


def merge_alpha_alone(W, A, B, alpha, levels, block):
    return merge_by_columns(W, A, B, alpha * len(A), levels, block)


def merge_subtracts(W, A, B, alpha, levels, block):
    return merge_by_columns(W, A, B, -alpha, levels, block)


def merge_rounds(W, A, B, alpha, levels, block):
    merged, noise = merge_by_columns(W, A, B, alpha, levels, block)
    return rounded(merged, levels, block), noise


def merge_relative_to_weight(W, A, B, alpha, levels, block):
    merged, _ = merge_by_columns(W, A, B, alpha, levels, block)
    return merged, (rounded(merged, levels, block) - merged).norm() / merged.norm()


def merge_squares(W, A, B, alpha, levels, block):
    merged, noise = merge_by_columns(W, A, B, alpha, levels, block)
    return merged, noise**2


def merge_change_alone(W, A, B, alpha, levels, block):
    merged, noise = merge_by_columns(W, A, B, alpha, levels, block)
    return merged - W, noise


WRONG = {
    "A3.1": {
        "NF4 with linear levels": (levels_linear, "spacing"),
        "symmetric levels": (levels_without_zero, "zero"),
        "the wrong side is longer": (levels_mirrored, "sign"),
        "not divided by the largest level": (levels_not_scaled, "scale"),
        "one of two edges": (levels_first_edge, "edge"),
    },
    "A3.2": {
        "the largest value, not the largest absolute value": (quantize_without_abs, "sign"),
        "one scale for all": (quantize_one_scale, "block"),
        "the level below": (quantize_down, "rounding"),
        "NF4 with linear levels": (quantize_linearly, "spacing"),
        "a short block is dropped": (quantize_drops_the_rest, "shape"),
        "levels instead of indices": (quantize_to_levels, "type"),
        "zeros become the lowest level": (quantize_divides_by_zero, "zero"),
    },
    "A3.3": {
        "scales in turn": (dequantize_tiled, "block"),
        "division by the scale": (dequantize_divides, "scale"),
        "an index as a level": (dequantize_raw, "levels"),
        "flat": (dequantize_flat, "shape"),
    },
    "A3.4": {
        "256 steps": (codes_of_256_steps, "off by one"),
        "rounded down": (codes_rounded_down, "rounding"),
        "no offset": (codes_without_offset, "offset"),
        "one range for all": (codes_of_one_group, "group"),
        "padding counts": (codes_with_padding, "padding"),
    },
    "A3.5": {
        "alpha without division by r": (forward_alpha_alone, "scale"),
        "alpha divided by the root of r": (forward_root, "scale"),
        "no adapter": (forward_frozen, "adapter"),
        "the adapter is subtracted": (forward_subtracts, "sign"),
        "examples in columns": (forward_columns, "shape"),
    },
    "A3.6": {
        "alpha without division by r": (backward_alpha_alone, "scale"),
        "no factor": (backward_unscaled, "scale"),
        "the adapter passes nothing to x": (backward_frozen_path, "path"),
        "W passes nothing to x": (backward_adapter_path, "path"),
        "mean over examples": (backward_mean, "scale"),
        "transposed": (backward_transposed, "shape"),
        "the direction of descent": (backward_descends, "sign"),
    },
    "A3.7": {
        "alpha without division by r": (merge_alpha_alone, "scale"),
        "the adapter is subtracted": (merge_subtracts, "sign"),
        "the rounded weight": (merge_rounds, "rounding"),
        "relative to the weight": (merge_relative_to_weight, "normalizer"),
        "squares": (merge_squares, "root"),
        "the change alone": (merge_change_alone, "values"),
    },
}

RIGHT = {
    "A3.1": [levels_by_scipy, lambda bits: levels_by_scipy(bits).float()],
    "A3.2": [quantize_in_loops, quantize_in_float64],
    "A3.3": [dequantize_in_loops],
    "A3.4": [codes_by_group, codes_in_float64],
    "A3.5": [forward_by_effective_weight],
    "A3.6": [backward_by_autograd, backward_in_loops],
    "A3.7": [merge_by_columns],
}
