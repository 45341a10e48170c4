"""A3, LoRA and NF4: how each part is drawn, solved and compared.

The solutions are in NumPy and float64. Their keywords make known mistakes. Inputs are small numbers, so that the
rounding of float32 stays far below the tolerance of the comparison.
"""

from functools import partial
from statistics import NormalDist

import numpy as np
from constants import SUFFIX, constant
from outputs import make_part, recognize_each

from icft_lite.grading.feedback import array_feedback
from icft_lite.grading.parts import Assignment, Call

BITS = constant("bits", 8, 6, 7, 9, 10)
TOP = 2**BITS - 1
"""The highest code of a scale."""

# --- solutions


def normal_float_levels(bits, linear=False, zero=True, mirrored=False, edge="mean", scaled=True):
    n = 2**bits
    if linear:
        return np.linspace(-1, 1, n)
    last = 1 - {"mean": (1 / n + 1 / (n - 1)) / 4, "n": 1 / (2 * n), "fewer": 1 / (2 * (n - 1))}[edge]
    half = [[NormalDist().inv_cdf(p) for p in np.linspace(0.5, last, n // 2 + 1 - short)] for short in (0, 1)]
    levels = np.array(sorted([*half[0], *(-x for x in half[1][1:])]))
    if not zero:  # a symmetric set
        levels = np.array([NormalDist().inv_cdf(p) for p in np.linspace(1 - last, last, n)])
    levels = levels / levels.max() if scaled else levels
    return -levels[::-1] if mirrored else levels


def block_scales(numbers, block, absolute=True, spread=False):
    parts = [numbers[start : start + block] for start in range(0, len(numbers), block)]
    if spread:
        return np.array([part.std() for part in parts])
    return np.array([np.abs(part).max() if absolute else part.max() for part in parts])


def quantize(numbers, levels, block, even=False, whole=False, zero=None, **wrong):
    numbers, levels = np.asarray(numbers, float), np.asarray(levels, float)
    scales = block_scales(numbers, block, **wrong)
    if whole:
        scales = np.full(len(scales), np.abs(numbers).max())
    scaled = numbers / np.maximum(scales, 1e-38)[np.arange(len(numbers)) // block]
    if even:
        return np.rint((scaled + 1) / 2 * (len(levels) - 1)).astype(int), scales
    nearest = np.abs(scaled[:, None] - levels).argmin(1)
    return (nearest if zero is None else np.where(numbers == 0, zero, nearest)), scales


def dequantize(indices, scales, levels, block, shape, tiled=False, inverse=False, raw=False, shift=0):
    at = (np.arange(len(indices)) + shift) // block
    spread = np.asarray(scales, float)[np.arange(len(indices)) % len(scales) if tiled else at.clip(0, len(scales) - 1)]
    values = np.asarray(indices, float) if raw else np.asarray(levels, float)[np.asarray(indices)]
    return (values / spread if inverse else values * spread).reshape(tuple(shape))


def compress_scales(scales, group, steps=TOP, offset=True, whole=False, padded=False):
    scales = np.asarray(scales, float)
    parts = [scales[start : start + group] for start in range(0, len(scales), group)]
    low = np.array([0.0 if padded and len(part) < group or not offset else part.min() for part in parts])
    high = np.array([part.max() for part in parts])
    if whole:
        low, high = np.full(len(parts), low.min()), np.full(len(parts), high.max())
    step = (high - low) / steps
    codes = [(part - a) / b if b else 0 * part for part, a, b in zip(parts, low, step)]
    codes = np.concatenate(codes)
    return np.rint(codes).astype(int), low, step


def lora_forward(x, W, A, B, alpha, scale="alpha / r", base=1, adapter=1):
    return base * (x @ W.T) + adapter * factor(A, alpha, scale) * (x @ A.T) @ B.T


def lora_backward(x, g, W, A, B, alpha, scale="alpha / r", through=(1, 1), mean=False, frozen=False):
    f = factor(A, alpha, scale) / (len(x) if mean else 1)
    grad_x = through[0] * (g @ W) + through[1] * factor(A, alpha, scale) * (g @ B) @ A
    return grad_x, (0 if frozen else 1) * f * (g @ B).T @ x, f * g.T @ (x @ A.T)


def factor(A, alpha, scale):
    divisors = {"alpha / r": len(A), "alpha": 1, "1": alpha, "root": len(A) ** 0.5, "in": A.shape[1]}
    return alpha / divisors[scale]


def merge(W, A, B, alpha, levels, block, scale="alpha / r", sign=1, rounded=False, by="change", power=1):
    merged = W + sign * factor(A, alpha, scale) * B @ A
    back = dequantize(*quantize(merged.ravel(), levels, block), levels, block, merged.shape)
    size = {"change": np.linalg.norm(merged - W), "merged": np.linalg.norm(merged), "nothing": 1.0}[by]
    return (back if rounded else merged), (np.linalg.norm(back - merged) / size) ** power


# --- draws: values of the size 0.1 in float32


def numbers(rng, *shape):
    return rng.normal(0, 0.1, shape).astype(np.float32)


def draw_levels(rng):
    return [Call((int(bits),), torch=True) for bits in rng.permutation([2, 3, 4, 5, 6])]


def draw_quantize(rng):
    calls = []
    for n, block in ((64, 16), (50, 8), (100, 64)):  # the last block of 50 and of 100 is shorter
        values = numbers(rng, n)
        values[: block] = -np.abs(values[: block])  # the largest absolute value is negative
        values[block - 1] *= 5
        levels = normal_float_levels(int(rng.integers(3, 5))).astype(np.float32)
        calls.append(Call((values, levels, block), torch=True))
    zeros = values.copy()
    zeros[64:] = 0  # a whole block of zeros
    return [*calls, Call((zeros, levels, 64), torch=True)]


def draw_dequantize(rng):
    calls = []
    for shape, block in (((4, 16), 16), ((7, 9), 8), ((5, 20), 64)):
        n = shape[0] * shape[1]
        scales = rng.uniform(0.05, 0.5, -(-n // block)).astype(np.float32)
        levels = np.sort(numbers(rng, 16))
        calls.append(Call((rng.integers(0, 16, n), scales, levels, block, shape), torch=True))
    return calls


def draw_compress(rng):
    calls = []
    for n, group in ((32, 16), (45, 10), (300, 256)):
        scales = rng.uniform(0.1, 0.4, n).astype(np.float32)
        scales[: group : 2] *= 3  # groups differ
        calls.append(Call((scales, group), torch=True))
    constant = scales.copy()
    constant[:256] = scales[0]
    return [*calls, Call((constant, 256), torch=True)]


def draw_forward(rng):
    calls = []
    for lead, rank in (((3,), 2), ((2, 3), 4), ((4,), 3)):
        A, B = numbers(rng, rank, 7) * 3, numbers(rng, 5, rank) * 3
        calls.append(Call((numbers(rng, *lead, 7), numbers(rng, 5, 7), A, B, float(rng.integers(5, 12))), torch=True))
    return calls


def draw_backward(rng):
    return [
        Call((call.args[0], numbers(rng, *call.args[0].shape[:-1], 5), *call.args[1:]), torch=True)
        for call in draw_forward(rng)
        if call.args[0].ndim == 2
    ]


def draw_merge(rng):
    calls = []
    for rank, block in ((2, 16), (4, 64), (3, 20)):
        W, A, B = numbers(rng, 8, 20), numbers(rng, rank, 20) * 3, numbers(rng, 8, rank)
        levels = normal_float_levels(4).astype(np.float32)
        calls.append(Call((W, A, B, float(rng.integers(5, 12)), levels, block), torch=True))
    return calls


# --- comparisons


LINEAR = "spacing: the levels are evenly spaced, not quantiles"
R = "scale: alpha is not divided by the rank r"
ROOT = "scale: alpha is divided by √r, not by r"


def codes_feedback(names, decode, known):
    """Return a comparison of (codes, *scales) that accepts each of two codes where both are equally near.

    decode: (codes, scales, call) → the numbers that they represent; a scale or step of 0 counts as 1, so that the codes
    of equal numbers are compared, too.
    """

    def compare(got, expected, call):
        text = known(got, expected, call)
        if not isinstance(got, list | tuple) or len(got) != len(names):
            return text
        if not text:
            return "" if np.asarray(got[0]).dtype.kind in "iu" else f"type: {names[0]} must be an array of integers"
        codes, wanted, high = np.asarray(got[0]), expected[0], len(call.args[1]) if names[0] == "indices" else TOP + 1
        if codes.shape != wanted.shape or any(array_feedback(*pair) for pair in zip(got[1:], expected[1:])):
            return text
        if codes.dtype.kind not in "iu":
            return f"type: {names[0]} must be an array of integers"
        if codes.min() < 0 or codes.max() >= high:
            return f"range: {names[0]} must be from 0 to {high - 1}"
        numbers = np.asarray(call.args[0], float)
        error, least = (np.abs(decode(one, expected[1:], call) - numbers) for one in (codes, wanted))
        if (error <= least + 1e-5 * np.abs(numbers).max()).all():
            return ""
        one_off = np.abs(codes.astype(int) - wanted).max() == 1
        return f"{names[0]}: rounding: the nearest one is not taken" if one_off and "values:" in text else text

    return compare


def decode_levels(indices, scales, call):
    _, levels, block = call.args
    return dequantize(indices, np.where(scales[0] == 0, 1, scales[0]), levels, block, (len(indices),))


def decode_scales(codes, parameters, call):
    low, step = (np.repeat(values, call.args[1])[: len(codes)] for values in parameters)
    return low + codes * np.where(step == 0, 1, step)


# --- parts

BLOCKED = tuple(f"icft_lite.modeling.adapters.{name}" for name in ("add_adapters", "merged_adapter", "delta_svd"))
part = partial(make_part, "A3", BLOCKED)

ASSIGNMENT = Assignment(
    id="A3",
    title="LoRA and NF4",
    version="1.0" + SUFFIX,
    lessons=("04_qlora_from_scratch",),
    constants={"bits": BITS, "top": TOP},
    parts=(
        part(1, "Levels of a k-bit NormalFloat", 3, 15, normal_float_levels, draw_levels, {
            LINEAR: dict(linear=True),
            "zero: a symmetric set of levels has no exact zero": dict(zero=False),
            "sign: the side with one level more is the wrong one": dict(mirrored=True),
            "scale: the levels are not divided by the largest one": dict(scaled=False),
            "edge: it is the mean of two probabilities, and only 1/(2n) is used": dict(edge="n"),
            "edge: it is the mean of two probabilities, and only 1/(2(n − 1)) is used": dict(edge="fewer"),
        }),
        part(2, "Quantize", 3, 20, quantize, draw_quantize, compare=codes_feedback(
            ("indices", "scales"), decode_levels, recognize_each(quantize, {
                "block: all numbers share one scale": dict(whole=True),
                "sign: a scale is the largest value, not the largest absolute value": dict(absolute=False),
                "scale: it is the standard deviation, not the largest absolute value": dict(spread=True),
                "zero: a block of zeros does not get the level nearest to 0": dict(zero=0),
                LINEAR: dict(even=True),
            }, ("indices", "scales")))),
        part(3, "Dequantize", 2, 10, dequantize, draw_dequantize, {
            "block: scales are repeated in turn; each belongs to consecutive numbers": dict(tiled=True),
            "scale: levels are divided by the scale, not multiplied": dict(inverse=True),
            "levels: an index is used as if it were the level": dict(raw=True),
            "off by one: the first number of a block gets the scale of the block before": dict(shift=-1),
            "off by one: the last number of a block gets the scale of the block after": dict(shift=1),
        }),
        part(4, "Quantize the scales", 3, 15, compress_scales, draw_compress, compare=codes_feedback(
            ("codes", "low", "step"), decode_scales, recognize_each(compress_scales, {
                f"off by one: the range is divided into {TOP + 1} steps": dict(steps=TOP + 1),
                "offset: the smallest scale is not subtracted": dict(offset=False),
                "group: all scales share one range": dict(whole=True),
                "padding: zeros that fill the last group count as scales": dict(padded=True),
            }, ("codes", "low", "step")))),
        part(5, "LoRA, forward", 2, 10, lora_forward, draw_forward, {
            R: dict(scale="alpha"),
            ROOT: dict(scale="root"),
            "scale: alpha and r are not used": dict(scale="1"),
            "scale: alpha is divided by the input size, not by the rank r": dict(scale="in"),
            "adapter: the result is that of the frozen weight alone": dict(adapter=0),
            "weight: the result is that of the adapter alone": dict(base=0),
            "sign: the adapter is subtracted": dict(adapter=-1),
        }),
        part(6, "LoRA, backward", 4, 20, lora_backward, draw_backward, {
            R: dict(scale="alpha"),
            "scale: the factor alpha / r is missing": dict(scale="1"),
            "scale: the mean over examples is taken, not the sum": dict(mean=True),
            "path: the gradient does not pass through the adapter": dict(through=(1, 0)),
            "path: the gradient does not pass through W": dict(through=(0, 1)),
            "path: A gets no gradient": dict(frozen=True),
        }, ("the gradient of x", "the gradient of A", "the gradient of B")),
        part(7, "Merge", 3, 15, merge, draw_merge, {
            R: dict(scale="alpha"),
            ROOT: dict(scale="root"),
            "scale: the factor alpha / r is missing": dict(scale="1"),
            "sign: the adapter is subtracted": dict(sign=-1),
            "rounding: the merged weight is rounded": dict(rounded=True),
            "normalizer: the error is divided by the size of the merged weight, not of the change": dict(by="merged"),
            "normalizer: the error is not divided by the size of the change": dict(by="nothing"),
            "root: the squares are summed, and the root is missing": dict(power=2),
        }, ("merged", "noise")),
    ),
)  # fmt: skip
