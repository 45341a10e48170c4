# ---
# jupyter:
#   lesson:
#     minutes: {cpu: 1, t4: 1}
#     peak_gib: {cpu: 2, t4: 2}
#     predicted: [t4]
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Assignment 3 · LoRA and NF4
#
# You write the core of QLoRA: a 4-bit data type with its scales, a LoRA layer with its backward pass, and a merge. At
# the end your code fine-tunes the model `tiny`, and you compare its loss with that of PEFT and bitsandbytes.
#
# **You need** lesson 04. **Time**: about 105 minutes.

# %% [markdown]
# | part | what you write | points | minutes |
# |---|---|---|---|
# | A3.1 | Levels of a k-bit NormalFloat | 3 | 15 |
# | A3.2 | Quantize | 3 | 20 |
# | A3.3 | Dequantize | 2 | 10 |
# | A3.4 | Quantize the scales | 3 | 15 |
# | A3.5 | LoRA, forward | 2 | 10 |
# | A3.6 | LoRA, backward | 4 | 20 |
# | A3.7 | Merge | 3 | 15 |

# %% [markdown]
# **Rules.** Replace `raise NotImplementedError` by your code. Do not rename functions or arguments. Use NumPy and
# PyTorch, not bitsandbytes or PEFT. The package's own versions are not available while your work is graded.
#
# A check follows each part. It prints "Passed", or says what kind of error it found. Grading uses other inputs than the
# check. Later parts call your earlier functions.
#
# At the end, restart the kernel, run all cells, save the notebook and hand it in. During grading, cells that compare your
# code with the package's fail. This costs no points.

# %% [markdown]
# The work of the computer at the end of this assignment:
#
# {{budget}}

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
from statistics import NormalDist

import numpy as np
import torch
import torch.nn.functional as F


def same(found, expected):
    """Return whether two tensors, arrays or numbers are equal up to rounding, in any precision."""
    return torch.allclose(*(torch.as_tensor(values).double() for values in (found, expected)), rtol=1e-4, atol=1e-5)


# %% [markdown]
# ## 1 · Levels of a k-bit NormalFloat
#
# **A3.1 · 3 points · 15 minutes**
#
# NF4 has 16 levels. Here you write the same construction for any number of bits, with n = 2^bits levels:
#
# - The outermost probability is `edge` = 1 − (1/(2n) + 1/(2(n−1))) / 2.
# - The positive levels and zero are the quantiles of the standard normal distribution at n/2 + 1 evenly spaced
#   probabilities from 0.5 to `edge`.
# - The negative levels are mirrored quantiles at n/2 evenly spaced probabilities from 0.5 to `edge`. Zero is included
#   only once.
# - All levels are divided by the largest one.

# %% nbgrader={"grade": false, "grade_id": "a3-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def normal_float_levels(bits):
    """Return the 2**bits levels of a NormalFloat, rising from -1 to 1: float tensor [2**bits].

    bits: int, at least 2. `NormalDist().inv_cdf(p)` is the p-quantile of the standard normal
    distribution.
    """
    ### BEGIN SOLUTION
    n = 2**bits
    edge = 1 - (1 / (2 * n) + 1 / (2 * (n - 1))) / 2
    above = [NormalDist().inv_cdf(p) for p in np.linspace(0.5, edge, n // 2 + 1)]
    below = [-NormalDist().inv_cdf(p) for p in np.linspace(0.5, edge, n // 2)[1:]]
    return torch.tensor(sorted(below + above)) / max(above)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a3-1-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
found = torch.as_tensor(normal_float_levels(4)).double()
assert found.shape == (16,), f"shape: 4 bits give {tuple(found.shape)}, expected (16,)"
assert bool((found.diff() > 0).all()), "order: the levels must rise, each one only once"
assert found[0] == -1 and abs(found[-1] - 1) < 1e-6, "scale: the first level must be -1 and the last one 1"
assert int((found == 0).sum()) == 1, "zero: one level must be exactly 0"
assert int((found > 0).sum()) == 8, "sign: the positive side must have one level more than the negative side"
assert found.diff().std() > 0.01, "spacing: the levels are evenly spaced; take quantiles at evenly spaced probabilities"
four = torch.as_tensor(normal_float_levels(2)).double()
assert len(four) == 4 and abs(four[2] - 0.436) < 0.001, "edge: the inner level of 2 bits is wrong; check `edge`"
### BEGIN HIDDEN TESTS
import bitsandbytes.functional as bnb

assert same(found, bnb.get_4bit_type("nf4", device="cpu")), "values: not the levels of NF4"
for bits in (3, 5):
    edge = 1 - (1 / 2**bits + 1 / (2**bits - 1)) / 4
    p = np.concatenate([1 - np.linspace(edge, 0.5, 2**bits // 2)[:-1], np.linspace(0.5, edge, 2**bits // 2 + 1)])
    wanted = np.array([NormalDist().inv_cdf(x) for x in p]) / NormalDist().inv_cdf(edge)
    assert same(normal_float_levels(bits), wanted), f"values: wrong for {bits} bits"
### END HIDDEN TESTS
print("Passed: A3.1")

# %% [markdown]
# ## 2 · Quantize
#
# **A3.2 · 3 points · 20 minutes**
#
# The numbers are divided into consecutive blocks of `block` numbers. The last block may be shorter. The scale of a
# block is its largest absolute value. Each number is replaced by the index of the level nearest to number ÷ scale.
#
# A block that consists of zeros has the scale 0, and each of its indices is that of the level nearest to 0.

# %% nbgrader={"grade": false, "grade_id": "a3-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def quantize(numbers, levels, block):
    """Return (indices, scales): int tensor [n] and float tensor [number of blocks].

    numbers: float tensor [n]. levels: float tensor [number of levels], rising. block: int, numbers
    per block.
    """
    ### BEGIN SOLUTION
    blocks = F.pad(numbers, (0, -len(numbers) % block)).reshape(-1, block)
    scales = blocks.abs().amax(1)
    scaled = blocks / scales.clamp_min(1e-38)[:, None]
    indices = (scaled[..., None] - levels).abs().argmin(-1)
    return indices.flatten()[:len(numbers)], scales
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a3-2-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
five = torch.tensor([-1.0, -0.6, 0.0, 0.3, 1.0])
eight = torch.tensor([0.28, -0.40, 0.08, 0.0, 0.0, 0.0, 3.0, -1.0])  # two blocks of three, one of two
indices, scales = quantize(eight, five, 3)
assert scales.shape == (3,), f"shape: 8 numbers in blocks of 3 have 3 scales, found the shape {tuple(scales.shape)}"
assert indices.shape == (8,), f"shape: one index per number is 8, found the shape {tuple(indices.shape)}"
assert not indices.is_floating_point(), "type: the indices must be integers"
assert scales.min() >= 0, "sign: a scale is an absolute value"
assert same(scales, [0.4, 0.0, 3.0]), "scale: it must be the largest absolute value of its block"
assert indices[3:6].tolist() == [2, 2, 2], "zero: the block of zeros must get the level nearest to 0"
assert indices[[1, 6]].tolist() == [0, 4], "range: the largest number of a block must get an outermost level"
assert indices[[0, 2, 7]].tolist() == [4, 3, 1], "rounding: take the nearest level, not the next one below or above"
### BEGIN HIDDEN TESTS
draw = torch.randn(500) * 3
indices, scales = quantize(draw, five, 64)
spread = scales.repeat_interleave(64)[:500]
assert same(scales, [part.abs().max() for part in draw.split(64)]), "scale: wrong on random numbers"
distance = (five - (draw / spread)[:, None]).abs()
assert same(distance.gather(1, indices[:, None].long())[:, 0], distance.amin(1)), "rounding: a nearer level exists"
### END HIDDEN TESTS
print("Passed: A3.2")

# %% [markdown]
# ## 3 · Dequantize
#
# **A3.3 · 2 points · 10 minutes**
#
# The way back: each index becomes its level, multiplied by the scale of its block. The result has the shape of the
# original weight.

# %% nbgrader={"grade": false, "grade_id": "a3-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def dequantize(indices, scales, levels, block, shape):
    """Return the numbers that indices and scales represent: float tensor of shape `shape`.

    indices: int tensor [n]; scales: float tensor [number of blocks]; levels: float tensor [number
    of levels]; block: int; shape: sequence of ints whose product is n.
    """
    ### BEGIN SOLUTION
    spread = scales.repeat_interleave(block)[:len(indices)]
    return (levels[indices.long()] * spread).reshape(tuple(shape))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a3-3-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
back = dequantize(torch.tensor([3, 0, 3, 2, 1, 2, 4, 1]), torch.tensor([0.4, 1.0, 3.0]), five, 3, (2, 4))
assert back.shape == (2, 4), f"shape: found {tuple(back.shape)}, expected (2, 4)"
assert abs(back[1, 2] - 3) < 1e-6 and abs(back[0, 1] + 0.4) < 1e-6, "scale: multiply a level by its block's scale"
assert abs(back[1, 0] + 0.6) < 1e-6, "block: number 4 belongs to the second block; check which scale it gets"
assert same(back, [[0.12, -0.4, 0.12, 0.0], [-0.6, 0.0, 3.0, -1.8]]), "values: not those by hand"
### BEGIN HIDDEN TESTS
indices, scales, levels = torch.randint(0, 16, (91,)), torch.rand(12), torch.randn(16).sort().values
wanted = torch.tensor([levels[i] * scales[k // 8] for k, i in enumerate(indices.tolist())]).reshape(7, 13)
assert same(dequantize(indices, scales, levels, 8, (7, 13)), wanted), "values: wrong on random numbers"
### END HIDDEN TESTS
print("Passed: A3.3")

# %% [markdown]
# ## 4 · Quantize the scales
#
# **A3.4 · 3 points · 15 minutes**
#
# A float32 scale for 64 numbers costs half a bit per number. *Double quantization* stores the scales in few bits.
# bitsandbytes uses 8 bits and a table of 256 levels. Here you use {{bits}} bits and evenly spaced codes:
#
# - The scales are divided into consecutive groups of `group` scales. The last group may be shorter.
# - `low` is the smallest scale of the group. `step` = (largest − smallest) / {{top}}.
# - A code is the integer from 0 to {{top}} for which low + code · step is nearest to the scale.
# - A group whose scales are all equal has `step` 0 and the codes 0.

# %% nbgrader={"grade": false, "grade_id": "a3-4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def compress_scales(scales, group):
    """Return (codes, low, step): int tensor [n] and two float tensors [number of groups].

    scales: float tensor [n], not negative. group: int, scales per group.
    """
    ### BEGIN SOLUTION
    codes, low, step = [], [], []
    for part in scales.split(group):
        low.append(part.min())
        step.append((part.max() - part.min()) / {{top}})
        codes.append(((part - low[-1]) / step[-1].clamp_min(1e-38)).round().int())
    return torch.cat(codes), torch.stack(low), torch.stack(step)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a3-4-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
codes, low, step = compress_scales(torch.tensor([1.0, 2.0, 1.203, 5.0, 5.0, 5.0, 7.0, 7.51]), 3)
assert codes.shape == (8,), f"shape: one code per scale is 8, found the shape {tuple(codes.shape)}"
assert low.shape == step.shape == (3,), "shape: `low` and `step` have one number per group, here 3"
assert not codes.is_floating_point(), "type: the codes must be integers"
assert 0 <= int(codes.min()) and int(codes.max()) <= {{top}}, "range: a code must fit {{bits}} bits, 0 to {{top}}"
assert same(low, [1.0, 5.0, 7.0]), "group: `low` must be the smallest scale of its own group"
assert step[1] == 0 and codes[3:6].tolist() == [0, 0, 0], "zero: a group of equal scales has step 0 and codes 0"
assert codes[2] == round(0.203 * {{top}}), "rounding: take the nearest code, here to (1.203 − 1) · {{top}}"
assert codes[[0, 6]].tolist() == [0, 0], "offset: the smallest scale of a group has the code 0"
assert codes[[1, 7]].tolist() == [{{top}}, {{top}}], "off by one: the largest scale of a group has the code {{top}}"
assert abs(step[0] - 1 / {{top}}) < 1e-7, "off by one: codes 0 to {{top}} have {{top}} steps between them"
### BEGIN HIDDEN TESTS
scales = torch.rand(300) + 0.5
codes, low, step = compress_scales(scales, 128)
back = low.repeat_interleave(128)[:300] + codes.float() * step.repeat_interleave(128)[:300]
assert bool(((back - scales).abs() <= 0.501 * step.max()).all()), "rounding: an error is larger than half a step"
### END HIDDEN TESTS
print("Passed: A3.4")

# %% [markdown]
# ## 5 · LoRA, forward
#
# **A3.5 · 2 points · 10 minutes**
#
# The output of a linear layer with the frozen weight W and a LoRA adapter is
#
# y = W·x + (alpha / r)·B·A·x
#
# The input features are the *last* dimension of `x`; there may be any number of dimensions before it. Multiply by A
# first, then by B: for a weight of 4096 × 4096, the product B·A would have 16 million numbers. Grading compares only the
# result.

# %% nbgrader={"grade": false, "grade_id": "a3-5", "locked": false, "schema_version": 3, "solution": true, "task": false}
def lora_forward(x, W, A, B, alpha):
    """Return the layer's output: float tensor [..., out].

    x: float tensor [..., in]; W [out, in]; A [r, in]; B [out, r]; alpha: float.
    """
    ### BEGIN SOLUTION
    return x @ W.T + alpha / len(A) * (x @ A.T) @ B.T
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a3-5-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
W = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
A, B = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([[1.0, 0.0], [0.0, 3.0]])
y = lora_forward(torch.tensor([[1.0, 2.0, 3.0]]), W, A, B, 4.0)  # W·x = 7, 2 and B·A·x = 3, 9
assert y.shape == (1, 2), f"shape: found {tuple(y.shape)}, expected (1, 2)"
assert y.tolist() != [[7.0, 2.0]], "adapter: the result is W·x alone"
assert y.tolist() != [[6.0, 18.0]], "weight: the result is the adapter's part alone"
assert y[0, 0] > 7, "sign: the adapter's part must be added"
assert same(y, [[13.0, 20.0]]), f"scale: W·x is 7, 2 and the result is {y[0].tolist()}; check alpha and r"
deep = lora_forward(torch.ones(2, 5, 3), W, A, B, 4.0)
assert deep.shape == (2, 5, 2), f"shape: x of shape (2, 5, 3) gives {tuple(deep.shape)}, expected (2, 5, 2)"
### BEGIN HIDDEN TESTS
x, W2, A2, B2 = torch.randn(3, 4, 10), torch.randn(6, 10), torch.randn(5, 10), torch.randn(6, 5)
assert same(lora_forward(x, W2, A2, B2, 7.0), F.linear(x, W2 + 7 / 5 * B2 @ A2)), "values: wrong on random numbers"
### END HIDDEN TESTS
print("Passed: A3.5")

# %% [markdown]
# ## 6 · LoRA, backward
#
# **A3.6 · 4 points · 20 minutes**
#
# g is the gradient of the loss with respect to y, one example per row. Write the gradients with respect to x, A and B
# with matrix products: the formulas are what this part is about, although grading compares only the result and would
# accept autograd. W is frozen and gets none, but the gradient with respect to x passes through both W and the adapter.
#
# Derive them from y = x·Wᵀ + (alpha / r)·x·Aᵀ·Bᵀ. The shapes are a good check. What is the gradient with respect
# to A while B is zero?

# %% nbgrader={"grade": false, "grade_id": "a3-6", "locked": false, "schema_version": 3, "solution": true, "task": false}
def lora_backward(x, g, W, A, B, alpha):
    """Return (gradient of x [n, in], gradient of A [r, in], gradient of B [out, r]).

    x: float tensor [n, in]; g: float tensor [n, out], the gradient of the loss with respect to the
    output; W [out, in]; A [r, in]; B [out, r]; alpha: float. The loss is a sum over the n examples.
    """
    ### BEGIN SOLUTION
    scale = alpha / len(A)
    inner = scale * g @ B
    return g @ W + inner @ A, inner.T @ x, scale * g.T @ (x @ A.T)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a3-6-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
x = torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 1.0], [2.0, 0.0, 1.0], [1.0, 1.0, 0.0]])
g = torch.tensor([[1.0, 0.0], [2.0, -1.0], [0.0, 1.0], [1.0, 1.0]])
gradients = lora_backward(x, g, W, A, B, 4.0)
assert len(gradients) == 3, f"shape: return three gradients, found {len(gradients)}"
for name, gradient, like in zip(("x", "A", "B"), gradients, (x, A, B)):
    sizes = f"{tuple(gradient.shape)}, expected {tuple(like.shape)}"
    assert gradient.shape == like.shape, f"shape: the gradient of {name} has {sizes}"
frozen = lora_backward(x, g, W, A, torch.zeros(2, 2), 4.0)
assert not same(frozen[0], -g @ W), "sign: the gradient of x points the other way"
assert same(frozen[0], g @ W), "path: with B = 0 the gradient of x must be that of the frozen layer"
assert bool((frozen[1] == 0).all()), "path: with B = 0 the gradient of A must be zero"
h = 1e-2  # numerical derivatives of the loss Σ g·y: exact, because y is linear in each tensor
for name, gradient, at in zip(("x", "A", "B"), gradients, range(3)):
    inputs = [x, A, B]
    moved = inputs[at].clone()
    moved[0, 0] += h
    inputs[at] = moved
    slope = float((g * (lora_forward(inputs[0], W, *inputs[1:], 4.0) - lora_forward(x, W, A, B, 4.0))).sum()) / h
    assert abs(gradient[0, 0] + slope) > 0.01, f"sign: the gradient of {name} points the other way"
    assert abs(gradient[0, 0] - slope) < 0.01, (
        f"scale: the gradient of {name} at [0, 0] is {gradient[0, 0]:.2f}, not the slope of the loss; check the factor "
        f"alpha / r, the sum over examples, and the paths through W and the adapter")
### BEGIN HIDDEN TESTS
x, g, W2, A2, B2 = torch.randn(5, 10), torch.randn(5, 6), torch.randn(6, 10), torch.randn(3, 10), torch.randn(6, 3)
leaves = [tensor.clone().requires_grad_() for tensor in (x, A2, B2)]
wanted = torch.autograd.grad((F.linear(leaves[0], W2 + 7 / 3 * leaves[2] @ leaves[1]) * g).sum(), leaves)
for name, one, other in zip(("x", "A", "B"), lora_backward(x, g, W2, A2, B2, 7.0), wanted):
    assert same(one, other), f"values: the gradient of {name} is wrong on random numbers"
### END HIDDEN TESTS
print("Passed: A3.6")

# %% [markdown]
# ## 7 · Merge
#
# **A3.7 · 3 points · 15 minutes**
#
# A merge adds the adapter to the weight, in full precision. If the merged weight is then quantized again, rounding may
# remove what was learned. Return the merged weight, and the size of the rounding error relative to the learned change:
#
# noise = ‖rounded(merged) − merged‖ ÷ ‖merged − W‖
#
# ‖·‖ is the square root of the sum of squares. Use your `quantize` and `dequantize`. At noise > 1, rounding changes
# the weight more than training did.

# %% nbgrader={"grade": false, "grade_id": "a3-7", "locked": false, "schema_version": 3, "solution": true, "task": false}
def merge(W, A, B, alpha, levels, block):
    """Return (merged weight [out, in], noise): a float tensor that is not rounded, and a float.

    W: float tensor [out, in]; A [r, in]; B [out, r]; alpha: float; levels, block: see `quantize`.
    """
    ### BEGIN SOLUTION
    merged = W + alpha / len(A) * B @ A
    rounded = dequantize(*quantize(merged.flatten(), levels, block), levels, block, merged.shape)
    return merged, float((rounded - merged).norm() / (merged - W).norm())
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a3-7-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
small = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.tensor([[0.5, 1.0]])
merged, noise = merge(*small, 2.0, torch.tensor([-1.0, 0.0, 1.0]), 2)
assert merged.shape == (1, 2), f"shape: the merged weight has {tuple(merged.shape)}, expected (1, 2)"
assert merged.tolist() != [[2.0, 2.0]], "rounding: return the merged weight itself, not its rounded version"
assert merged[0, 1] > 0, "sign: the adapter must be added"
assert merged.tolist() == [[2.0, 1.5]], f"scale: the change is {merged[0, 1]:.2f}, by hand 2/2 · (0.5 + 1.0) = 1.5"
assert abs(float(noise) - 1 / 3) < 1e-4, f"normalizer: noise {float(noise):.3f}, by hand (2.0 − 1.5) ÷ 1.5 = 0.333"
probe = torch.tensor([[1.0, -2.0, 0.5]])
outputs = probe @ torch.as_tensor(merge(W, A, B, 4.0, five, 3)[0]).float().T
assert same(outputs, lora_forward(probe, W, A, B, 4.0)), "values: the merged layer is not `lora_forward`"
### BEGIN HIDDEN TESTS
import bitsandbytes.functional as bnb

W2, A2, B2, nf4 = torch.randn(16, 64), torch.randn(4, 64), torch.randn(16, 4), bnb.get_4bit_type("nf4", device="cpu")
merged, noise = merge(W2, A2, B2, 1.0, nf4, 64)
rounded = bnb.dequantize_4bit(*bnb.quantize_4bit(merged, quant_type="nf4", blocksize=64))
assert same(merged, W2 + 0.25 * B2 @ A2), "values: wrong on random numbers"
wanted = float((rounded - merged).norm() / (merged - W2).norm())
assert abs(noise - wanted) < 1e-3, "normalizer: the noise is wrong on random numbers"
### END HIDDEN TESTS
print("Passed: A3.7")

# %% [markdown]
# ## Your QLoRA, on a real model
#
# There is nothing to write in this section. `QLoRALinear` stores a weight in 4 bits with {{bits}}-bit scales, and uses your
# forward and backward pass.

# %%
class QLoRAFunction(torch.autograd.Function):
    """Your forward and backward pass, for autograd."""

    @staticmethod
    def forward(ctx, x, A, B, layer):
        ctx.layer = layer
        ctx.save_for_backward(x, A, B)
        return lora_forward(x, layer.weight(), A, B, layer.alpha)

    @staticmethod
    def backward(ctx, g):
        x, A, B = ctx.saved_tensors
        rows = x.flatten(0, -2), g.flatten(0, -2)
        of_x, of_A, of_B = lora_backward(*rows, ctx.layer.weight(), A, B, ctx.layer.alpha)
        return of_x.reshape(x.shape), of_A, of_B, None


# %%
class QLoRALinear(torch.nn.Module):
    """A frozen 4-bit weight with {{bits}}-bit scales, and a LoRA adapter."""

    def __init__(self, weight, rank, alpha, levels):
        super().__init__()
        self.shape, self.alpha, self.levels = weight.shape, alpha, levels.float()
        self.indices, scales = quantize(weight.flatten(), self.levels, 64)
        self.compressed = compress_scales(scales, 256)
        self.A = torch.nn.Parameter((2 * torch.rand(rank, weight.shape[1]) - 1) / weight.shape[1] ** 0.5)
        self.B = torch.nn.Parameter(torch.zeros(weight.shape[0], rank))

    def weight(self):
        codes, low, step = self.compressed
        groups = [values.repeat_interleave(256)[:len(codes)] for values in (low, step)]
        return dequantize(self.indices, groups[0] + codes.float() * groups[1], self.levels, 64, self.shape)

    def forward(self, x):
        return QLoRAFunction.apply(x, self.A, self.B, self)


# %% [markdown]
# We replace each linear layer of `tiny`, except the output head, and train on nine medical terms. PEFT and bitsandbytes
# do the same from the same A. **Predict**: how far apart are the two losses after 20 steps?

# %%
import warnings

from peft import LoraConfig, get_peft_model

from icft_lite import Encoder, load_base, load_samples
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.losses import token_logprobs
from icft_lite.modeling.packing import join_batch

warnings.simplefilter("ignore", FutureWarning)
_ = torch.manual_seed(0)
mine, tokenizer = load_base(load_in_4bit=False, device="cpu")
theirs = get_peft_model(load_base(device="cpu")[0], LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
for name, layer in list(mine.named_modules()):
    if isinstance(layer, torch.nn.Linear) and name != "lm_head":
        ours = QLoRALinear(layer.weight.detach(), rank=8, alpha=16, levels=normal_float_levels(4))
        mine.set_submodule(name, ours)
        with torch.no_grad():
            theirs.get_base_model().get_submodule(name).lora_A["default"].weight.copy_(ours.A)

# %%
examples = [example for example in load_samples("medical_train") if example["entity"].endswith("itis")]
encoder, firsts = Encoder(tokenizer), {example["entity"]: example for example in examples}
batch = join_batch([encoder(example) for example in list(firsts.values())[:9]], tokenizer.pad_token_id)


def train(model, steps=20):
    """Train the adapters. Returns the loss of each step: nats per response token."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    losses = []
    for _ in range(steps):
        states = hidden_states(model, batch)[batch["row"], batch["position"]]
        loss = -token_logprobs(states, head_weight(model), batch["target"]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


losses_mine, losses_theirs = train(mine), train(theirs)
for step in (0, 9, 19):
    print(f"step {step + 1:2}: loss {losses_mine[step]:.3f} with your code, "
          f"{losses_theirs[step]:.3f} with PEFT and bitsandbytes")

# %% [markdown]
# The first losses differ by little: {{bits}}-bit scales are rounded in another way than those of bitsandbytes. If your loss
# does not fall, look at the gradient of B in part 6. If it starts elsewhere, look at parts 1 to 4.
#
# Last, the merge. How much of what was learned would remain after quantizing the merged weights again?

# %%
layers = [layer for layer in mine.modules() if isinstance(layer, QLoRALinear)]
noises = [merge(layer.weight(), layer.A.detach(), layer.B.detach(), layer.alpha, layer.levels, 64)[1]
          for layer in layers]
print(f"loss: {losses_mine[0]:.2f} → {losses_mine[-1]:.3f}; with PEFT and bitsandbytes {losses_theirs[-1]:.3f}")
print(f"noise of merging into NF4: {min(noises):.2f} to {max(noises):.2f}, median {np.median(noises):.2f}")

# %% [markdown]
# Where the noise is near or above 1, the rounding error is as large as the change. That does not make the merged model
# useless, because rounding errors point in all directions and partly cancel. Still, `icft-lite export --merge` writes
# merged weights in full precision.
