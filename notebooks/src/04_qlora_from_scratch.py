# ---
# jupyter:
#   lesson:
#     minutes: {cpu: 2, t4: 2}
#     peak_gib: {cpu: 2, t4: 2}
#     predicted: [t4]
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# {{badge}}
#
# # 04 · QLoRA from scratch
#
# Every run in this course holds its base in 4 bits a number and trains a small addition to it. Two libraries
# do that for us, *bitsandbytes* and *peft*. Today you do it yourself, in some sixty lines of code, and show
# that nothing is hidden up anyone's sleeve: same bytes, same gradients, same losses.

# %% [markdown]
# **You will be able to**
#
# - derive the 16 levels of NF4 and round a weight to them;
# - count what a weight costs in bits, and what a training step costs in memory;
# - write LoRA, and say which of its gradients is zero at first, and why;
# - merge an adapter without losing it.
#
# **You need** lesson 00 and basic PyTorch: tensors, autograd, `nn.Module`. A **weight** means a matrix W of a
# linear layer, y = W·x, and where bits are counted one number of it.

# %% [markdown]
# {{budget}}
#
# Where the text says **predict**, write down a guess first. The course's paper names low-rank adaptation and
# gives no settings, so which levels, ranks and layers we use is *our reading*. The medical words are
# teaching material, **not medical advice**. All of it runs on the CPU, on Colab too.

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
import inspect
import warnings
from statistics import NormalDist

import bitsandbytes.functional as bnb
import matplotlib
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import Image
from matplotlib.figure import Figure
from peft import LoraConfig, get_peft_model

from icft_lite import Encoder, add_adapters, load_base, load_samples
from icft_lite.doctor import estimate
from icft_lite.modeling.adapters import activate_adapter, delta_svd, use_adapter
from icft_lite.modeling.base import head_weight, hidden_states
from icft_lite.modeling.generation import generate_reply
from icft_lite.modeling.losses import token_kl, token_logprobs
from icft_lite.modeling.packing import join_batch
from icft_lite.reporting.figures import DASHED, GENERAL, GREY, INK, MEDICAL, RC, png
from icft_lite.utils.hardware import hardware, peak_memory

warnings.simplefilter("ignore", FutureWarning)  # what other libraries plan is not our subject
torch.set_num_threads(1)  # for products as small as ours, a second thread costs more than it brings


def canvas(columns=1, width=7, height=3.2):
    """An empty figure and its axes, in the style of this course."""
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(width, height))
        return figure, figure.subplots(1, columns, squeeze=False)[0]


# %% [markdown]
# ## 1 · Sixteen levels
#
# To **quantize** a number is to replace it by the nearest of a few allowed **levels** and to store only that
# level's index. With 16 levels an index takes 4 bits; a number in *fp32*, the usual 32-bit float, takes 32.
# Here is one weight of the base, in full.

# %%
whole, tokenizer = load_base(load_in_4bit=False, device="cpu")
W = whole.model.layers[0].mlp.up_proj.weight.detach()
print(f"{W.shape[0]} × {W.shape[1]} numbers, mean {W.mean():.4f}, standard deviation {W.std():.4f}")

# %% [markdown]
# Where should the levels be? Trained weights are spread like a bell, a **normal distribution**: many near
# zero, few far out. Evenly spaced levels would hardly be used at the ends. Better to have every level used equally
# often.

# %% [markdown]
# A **quantile** does that. The p-quantile of a distribution is the number that a share p of it stays below: half
# of it is below the 0.5-quantile, 97 % below the 0.97-quantile. Quantiles at *evenly spaced* p cut the bell
# into slices of equal area, narrow in the middle and wide at the ends.

# %% [markdown]
# Two snags. First, p = 1 is infinitely far out: we must stop earlier, at an `edge`. Of 16 slices with a level in
# the middle of each, half a slice, 1/32, is beyond the outermost level; of 15, 1/30. NF4 takes the mean of the two.
#
# Second, 16 is even, so a symmetric set has no zero in its middle; but zeros are common (weights that were
# set to zero on purpose) and must stay exactly zero.

# %% [markdown]
# So NF4 (*4-bit NormalFloat*, from the QLoRA paper) builds the halves apart: from p = 0.5 up to the edge in 8
# even steps, and from 0.5 down to 1 − edge in 7. Both start at zero, which counts once. Divided by the largest,
# the levels span −1 … 1.
#
# **Predict.** How many are negative, how many positive?

# %%
def nf4_levels():
    """The 16 levels, rising from -1 to 1."""
    edge = 1 - (1 / 32 + 1 / 30) / 2
    above = [NormalDist().inv_cdf(p) for p in np.linspace(0.5, edge, 9)]  # inv_cdf: the p-quantile
    below = [-NormalDist().inv_cdf(p) for p in np.linspace(0.5, edge, 8)[1:]]
    return torch.tensor(sorted(below + above)) / max(above)


NF4 = nf4_levels()

# %%
# NBVAL_CHECK_OUTPUT
print([round(level, 3) for level in NF4.tolist()])
print("negative:", int((NF4 < 0).sum()), " zero:", int((NF4 == 0).sum()), " positive:", int((NF4 > 0).sum()))

# %% [markdown]
# Eight positive, seven negative, and a zero: the asymmetry is the price of the exact zero. bitsandbytes has these
# numbers as a table. **Predict**: are ours the same?

# %%
# NBVAL_CHECK_OUTPUT
table = bnb.get_4bit_type("nf4", device="cpu")
print("equal to 1e-6:", bool((NF4 - table).abs().max() < 1e-6))

# %% [markdown]
# The picture: left, the quantiles cut the bell into slices of equal area, a little wider on the negative side,
# where there are only seven. Right, the finished levels, compared with 16 evenly spaced ones.

# %%
figure, (left, right) = canvas(2, width=9)
z = np.linspace(-3, 3, 301)
left.plot(z, np.exp(-z**2 / 2) / np.sqrt(2 * np.pi), color=INK)
for level in NF4.tolist():
    at = level * NormalDist().inv_cdf(1 - (1 / 32 + 1 / 30) / 2)
    left.vlines(at, 0, np.exp(-at**2 / 2) / np.sqrt(2 * np.pi), color=MEDICAL if level < 0 else GENERAL)
left.set(xlabel="weight, in standard deviations", ylabel="probability density", title="16 quantiles")
for y, levels, color in ((1, NF4, GENERAL), (0, torch.linspace(-1, 1, 16), GREY)):
    right.plot(levels, [y] * 16, "|", markersize=28, markeredgewidth=2, color=color)
right.set(ylim=(-0.6, 1.6), yticks=[0, 1], yticklabels=["even", "NF4"], xticks=[-1, -0.5, 0, 0.5, 1], xlabel="level",
          title="… scaled to −1 … 1")
Image(png(figure), width=760)

# %% [markdown]
# ## 2 · Blocks and their scales
#
# The levels end at ±1, weights end anywhere. So we divide by a **scale**, the largest absolute value (*absmax*),
# round, and store the scale to multiply by later. Not one scale for the whole matrix: one for each **block** of
# 64 numbers.

# %%
def quantize(numbers, levels, block=64):
    """Index of the nearest level [blocks, block], and each block's scale [blocks, 1]. No block may be left short."""
    blocks = numbers.reshape(-1, block)
    scales = blocks.abs().amax(1, keepdim=True)
    midpoints = (levels[1:] + levels[:-1]) / 2  # nearest level = number of midpoints below
    return torch.bucketize(blocks / scales.clamp_min(1e-38), midpoints), scales


def dequantize(indices, scales, levels, shape):
    """The numbers that indices and scales stand for."""
    return (levels[indices.long()] * scales).reshape(shape)


# %% [markdown]
# By hand, with a block of eight. The scale is 0.20. The first number becomes 0.05 ÷ 0.20 = 0.25; the nearest
# level is number 10, 0.246; back again, 0.246 × 0.20 = 0.049. Check a few more lines yourself.

# %%
# NBVAL_CHECK_OUTPUT
eight = torch.tensor([0.05, -0.10, 0.02, 0.00, 0.20, -0.07, 0.11, -0.16])
indices, scales = quantize(eight, NF4, block=8)
pd.DataFrame({"weight": eight, "÷ scale": eight / scales[0], "index": indices[0], "level": NF4[indices[0]],
              "back": dequantize(indices, scales, NF4, -1)}).round(3)

# %% [markdown]
# The largest number and the zero come back exactly. The worst off is −0.16: between −1 and −0.696
# there is no level.
#
# Why blocks? Take 4,096 normal numbers and make one of them 50, an **outlier**. With a single scale, the level
# next to zero stands for 0.0796 × 50 ≈ 4. **Predict**: what becomes of the others, which hardly exceed 3?

# %%
# NBVAL_CHECK_OUTPUT
def with_outlier(size, count=4096):
    numbers = torch.randn(count, generator=torch.Generator().manual_seed(0))
    numbers[0] = size
    return numbers


for block in (4096, 64):
    indices, _ = quantize(with_outlier(50.0), NF4, block)
    zeros = (indices == 7).float().mean()
    print(f"block of {block}: more than 9 of 10 become zero: {bool(zeros > 0.9)}")

# %% [markdown]
# One number took 4,095 others down with it; in blocks of 64 it takes only its 63 neighbours. The figure
# has the error of all numbers but the outlier, as ‖w − ŵ‖ ÷ ‖w‖: the size of what rounding changed over the
# size of what there was, a size being the root of the sum of squares.

# %%
def relative_error(numbers, levels, block):
    back = dequantize(*quantize(numbers, levels, block), levels, numbers.shape)
    return float((back - numbers).norm() / numbers.norm())


def error_of_others(size, block):
    numbers = with_outlier(size)
    back = dequantize(*quantize(numbers, NF4, block), NF4, -1)
    return float((back - numbers)[1:].norm() / numbers[1:].norm())


figure, (axis,) = canvas()
sizes = [3, 5, 10, 20, 50, 100]
for block, color, mark in ((4096, MEDICAL, "o"), (512, "#009e73", "s"), (64, GENERAL, "^")):
    axis.plot(sizes, [100 * error_of_others(size, block) for size in sizes], mark + "-", color=color,
              label=f"blocks of {block}")
axis.set(xscale="log", xticks=sizes, xticklabels=sizes, xlabel="outlier, in standard deviations",
         ylabel="error of the others (%)", title="One outlier among 4,096 numbers")
axis.minorticks_off()
axis.legend(frameon=False)
Image(png(figure), width=560)

# %% [markdown]
# ## 3 · Two indices in a byte
#
# No computer stores half a byte, so two indices share one: the first times 16, plus the second. By hand:
# indices 11 and 3 make 11 × 16 + 3 = 179. `<< 4` multiplies by 16, `>> 4` divides by it, `& 15` takes the
# remainder.

# %%
def pack(indices):
    """Two 4-bit indices in each byte."""
    flat = indices.flatten().to(torch.uint8)
    return flat[::2] << 4 | flat[1::2]


def unpack(packed):
    """The indices again, in their order."""
    return torch.stack([packed >> 4, packed & 15], 1).flatten()


# %%
# NBVAL_CHECK_OUTPUT
print(pack(torch.tensor([11, 3, 0, 15])).tolist())
print(unpack(torch.tensor([179, 15], dtype=torch.uint8)).tolist())

# %% [markdown]
# Now the real weight, compared with bitsandbytes, which calls the scales `absmax`. **Predict**: how many of the bytes
# will differ?

# %%
indices, scales = quantize(W, NF4)
packed, state = bnb.quantize_4bit(W, quant_type="nf4", blocksize=64)
ours, theirs = dequantize(indices, scales, NF4, W.shape), bnb.dequantize_4bit(packed, state)
print(f"{W.numel():,} numbers in {packed.numel():,} bytes; "
      f"bytes that differ: {int((pack(indices) != packed.flatten()).sum())}")

# %%
# NBVAL_CHECK_OUTPUT
print("same scales:", torch.equal(scales.flatten(), state.absmax))
print("same bytes, but for 1 in 10,000 at most:", bool((pack(indices) != packed.flatten()).float().mean() < 1e-4))
print("equally near the weight, to 1e-6:", torch.allclose((ours - W).abs(), (theirs - W).abs(), atol=1e-6))

# %% [markdown]
# (Other versions may round a number that is exactly between two levels the other way. That is why the second check
# allows a few differences, and the third compares distances to the weight.)
#
# ## 4 · How wrong is it?
#
# Left, the weight divided by its scales, and the levels. Right, how often each level is used. **Predict**: we
# built them to be used equally often; are they?

# %%
figure, (left, right) = canvas(2, width=9)
left.hist((W.reshape(-1, 64) / scales).flatten().numpy(), bins=120, color="#9ecae1", density=True)
left.vlines(NF4, 0, 1.6, color=INK, linewidth=1)
left.set(xlabel="weight ÷ scale of its block", ylabel="density", ylim=(0, 1.6), xticks=[-1, -0.5, 0, 0.5, 1],
         title="Weights and the 16 levels")
usage = torch.bincount(indices.flatten(), minlength=16) / indices.numel()
right.bar(range(16), usage, color=GENERAL)
right.axhline(1 / 16, color=MEDICAL, **DASHED)
right.text(15.6, 1 / 16 + 0.002, "equal use", color=MEDICAL, ha="right")
right.set(xlabel="level's index", ylabel="share of all weights", title="How often each level is used")
Image(png(figure), width=760)

# %% [markdown]
# Nearly, not quite: we divide by a block's largest number, not by the standard deviation, so most weights end
# up nearer the middle than the derivation assumed. The small spikes at ±1 are the largest of each block.
# **Entropy**, −Σ p·log₂ p, says how many bits of an index carry information: 4 if all levels are used alike.

# %%
# NBVAL_CHECK_OUTPUT
entropy = -(usage * usage.log2()).sum()
print("between 3.7 and 4 of the 4 bits are put to use:", bool(3.7 < entropy < 4))

# %% [markdown]
# Each scale is one more fp32 number. At 64 weights to a scale a weight costs 4 + 32/64 = 4.5 bits. Smaller blocks
# fit better and cost more. **Predict**: at which block sizes does NF4 beat evenly spaced levels, and where
# might it not? (Of those there are two sorts: 16 from −1 to 1, and *int4*, the whole numbers −7 to 7 divided by 7.)

# %%
figure, (axis,) = canvas(height=3.6)
blocks = [16, 32, 64, 128, 256, 1024]
even = torch.linspace(-1, 1, 16)
for (name, levels), color, mark in zip((("int4, −7 … 7", torch.arange(-7, 8) / 7), ("16 even levels", even),
                                        ("NF4", NF4)), (GREY, MEDICAL, GENERAL), "^so"):
    axis.plot(blocks, [100 * relative_error(W, levels, block) for block in blocks], mark + "-", color=color, label=name)
axis.set_xscale("log", base=2)
axis.set_xticks(blocks, [f"{block}\n{4 + 32 / block:.3f}" for block in blocks])
axis.set(xlabel="block size, and bits per weight", ylabel="error ‖W − Ŵ‖ ÷ ‖W‖ (%)", ylim=(6, None),
         title="Smaller blocks: more bits, less error")
axis.legend(frameon=False)
Image(png(figure), width=560)

# %%
# NBVAL_CHECK_OUTPUT
at = {block: relative_error(W, even, block) / relative_error(W, NF4, block) for block in (16, 64, 1024)}
print("blocks of 64: even levels err more than 1.04 times as much:", at[64] > 1.04)
print("blocks of 1024: more than 1.15 times:", at[1024] > 1.15)
print("blocks of 16: the lead is gone:", at[16] < 1.02)

# %% [markdown]
# At 64, even levels err nearly a tenth more; in larger blocks, more still. In tiny blocks the maximum is rarely
# far out, the scaled weights are no bell any more, and even levels do as well. "Optimal" always means optimal
# *for a distribution*.

# %% [markdown]
# ## 5 · Double quantization
#
# Half a bit a weight goes into scales. So the scales are quantized as well, to 8 bits, in blocks of 256, each
# with one fp32 scale of its own. All scales are positive, so half of the levels would be unused: their
# mean is subtracted first, and added again at the end.
#
# **Predict** the bits per weight: 4, plus 8 for 64 weights, plus 32 for 64 × 256.

# %% [markdown]
# Which 256 levels? bitsandbytes' *dynamic* map has seven decades, from 10⁻⁷ to 1. The k-th (from 0) has 2ᵏ evenly
# spaced levels a sign, so the uppermost is the finest; 0 and 1 make the number full:
# 2 × (1 + 2 + … + 64) + 2 = 256.

# %%
def dynamic_levels():
    """The 256 levels for scales, rising."""
    levels = [0.0, 1.0]
    for k in range(7):
        edges = 10.0 ** (k - 6) * torch.linspace(0.1, 1, 2**k + 1)
        midpoints = (edges[1:] + edges[:-1]) / 2
        levels += [*midpoints.tolist(), *(-midpoints).tolist()]
    return torch.tensor(sorted(levels))


DYNAMIC = dynamic_levels()


def compress(scales):
    """8-bit indices of the scales, an outer scale for every 256 of them, and the mean that was subtracted."""
    mean = scales.mean()
    rest = F.pad((scales - mean).flatten(), (0, -scales.numel() % 256))
    indices, outer = quantize(rest, DYNAMIC, 256)
    return indices.to(torch.uint8), outer, mean


# %%
# NBVAL_CHECK_OUTPUT
print(len(DYNAMIC), "levels, equal to bitsandbytes':", torch.allclose(DYNAMIC, bnb.create_dynamic_map(), atol=1e-6))

# %% [markdown]
# Everything so far, joined: a frozen weight that is stored in 4 bits and dequantized when it is called.

# %%
class NF4Weight:
    """A frozen matrix in 4 bits a number. Calling it gives the matrix, rounded, in fp32."""

    @torch.no_grad()
    def __init__(self, weight):
        indices, scales = quantize(weight, NF4)
        self.packed, self.scales, self.shape = pack(indices), compress(scales), weight.shape

    def __call__(self):
        eight_bit, outer, mean = self.scales
        scales = dequantize(eight_bit, outer, DYNAMIC, (-1, 1)) + mean
        indices = unpack(self.packed).reshape(-1, 64)
        return dequantize(indices, scales[:len(indices)], NF4, self.shape)


# %%
# NBVAL_CHECK_OUTPUT
frozen = NF4Weight(W)
packed, state = bnb.quantize_4bit(W, quant_type="nf4", compress_statistics=True)
theirs = bnb.dequantize_4bit(packed, state)
apart = (frozen.scales[0].flatten()[:len(state.absmax)].int() - state.absmax.int()).abs()
print("99 in 100 of the 8-bit indices are equal, the others neighbours:",
      bool((apart == 0).float().mean() > 0.99 and apart.max() <= 1))
print("weights equal, to 1 % of the largest:", bool((frozen() - theirs).abs().max() < 0.01 * W.abs().max()))
print("relative error equal, to 0.001:", bool(abs((frozen() - W).norm() - (theirs - W).norm()) < 0.001 * W.norm()))

# %% [markdown]
# Where 8-bit indices differ, a scale was within some 0.00002 of the midpoint of two levels: on the CPU,
# bitsandbytes looks up the nearest one on a fine grid instead of computing it. All 64 numbers of such a block are off
# by a hundredth at most. (Since scales are rounded now, the largest number of a block no longer comes back exactly.)
# Next, the bytes that bitsandbytes really stores, for a matrix of 1,024 × 1,024.

# %%
# NBVAL_CHECK_OUTPUT
def stored_bits(numbers, double):
    packed, state = bnb.quantize_4bit(numbers, quant_type="nf4", compress_statistics=double)
    tensors = [packed, state.absmax] + ([state.state2.absmax, state.offset] if double else [])
    return 8 * sum(tensor.nbytes for tensor in tensors) / numbers.numel()


square = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
print(f"plain:  {stored_bits(square, False):.3f} counted, {4 + 32 / 64:.3f} predicted")
print(f"double: {stored_bits(square, True):.3f} counted, {4 + 8 / 64 + 32 / (64 * 256):.3f} predicted")
errors = [(bnb.dequantize_4bit(*bnb.quantize_4bit(square, quant_type="nf4", compress_statistics=double)) - square)
          .norm() / square.norm() for double in (False, True)]
print("double quantization adds less than 0.001 to the error:", bool(errors[1] - errors[0] < 0.001))

# %% [markdown]
# ## 6 · Through a frozen weight
#
# A 4-bit index cannot take a small step, so W cannot be trained. But what is *below* it can, if the gradient
# passes through. For y = W·x, with g the gradient of the loss with respect to y, the chain rule gives Wᵀ·g for x.
# That needs W, rounded or not; it does not need W to change. (No arithmetic happens in 4 bits: a weight is
# dequantized, multiplied with, and discarded.)

# %% [markdown]
# PyTorch's own product would save the dequantized W until the backward pass: for every layer, the whole
# matrix in fp32. Better to save the packed bytes, which are there anyway, and dequantize a second time.

# %%
class FrozenMatmul(torch.autograd.Function):
    """x·Wᵀ for a frozen W that is dequantized in each direction."""

    @staticmethod
    def forward(ctx, x, frozen):
        ctx.frozen = frozen
        return x @ frozen().T

    @staticmethod
    def backward(ctx, g):
        return g @ ctx.frozen(), None  # for x, as rows; W gets none


# %% [markdown]
# `saved_tensors_hooks` shows us every tensor that is saved for the backward pass. **Predict** how many bytes each
# way saves, and what `.grad` is for x and for the packed bytes.

# %%
# NBVAL_CHECK_OUTPUT
def saved_bytes(function, x):
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.nbytes) or tensor, lambda t: t):
        function(x).sum().backward()
    return sum(saved)


x = torch.randn(5, W.shape[1], generator=torch.Generator().manual_seed(0), requires_grad=True)
print("plain product saves all of W in fp32:", saved_bytes(lambda x: F.linear(x, frozen()), x) == 4 * W.numel())
expected, x.grad = x.grad, None
print("ours saves", saved_bytes(lambda x: FrozenMatmul.apply(x, frozen), x), "bytes")
print("same gradient for x:", torch.allclose(x.grad, expected, atol=1e-5))
print("gradient of the packed bytes:", frozen.packed.grad)

# %% [markdown]
# ## 7 · LoRA by hand
#
# **LoRA** (low-rank adaptation) leaves W alone and adds a product of two thin matrices, with the **rank** r much
# smaller than W's sides:
#
# ```
#         ┌───────── W, frozen ─────────┐
#   x ────┤                             + ────→  y = W·x + (alpha / r)·B·A·x
#  [in]   └──→ A ───→ B ───→ ·alpha/r ──┘ [out]
#           [r, in] [out, r]
# ```
#
# alpha/r is a fixed number, meant to keep the change about as strong when one tries another rank.

# %%
class LoRALinear(torch.nn.Module):
    """y = W·x + (alpha / rank)·B·A·x: `frozen` gives W when called; A and B are trained."""

    def __init__(self, frozen, rank, alpha):
        super().__init__()
        rows, columns = frozen.shape
        self.frozen, self.scale = frozen, alpha / rank
        self.A = torch.nn.Parameter((2 * torch.rand(rank, columns) - 1) / columns**0.5)
        self.B = torch.nn.Parameter(torch.zeros(rows, rank))

    def forward(self, x):
        return FrozenMatmul.apply(x, self.frozen) + self.scale * (x @ self.A.T) @ self.B.T


# %% [markdown]
# A starts random, B at zero: B·A is zero and nothing may change. The gradients, with g the gradient for y, and x and g
# as the code has them, one example per row:
#
# - for B: scale · gᵀ·(x·Aᵀ)
# - for A: scale · (g·B)ᵀ·x
#
# **Predict**: in the first step, which of the two is exactly zero?

# %%
# NBVAL_CHECK_OUTPUT
_ = torch.manual_seed(0)
layer = LoRALinear(frozen, rank=8, alpha=16)
x = torch.randn(5, W.shape[1])
y = layer(x)
print("nothing changed:", torch.equal(y, x @ frozen().T))
y.square().sum().backward()
g = 2 * y.detach()
print("gradient of B is the formula's:", torch.allclose(layer.B.grad, layer.scale * g.T @ (x @ layer.A.T), atol=1e-4))
print("gradient of A is zero:", bool((layer.A.grad == 0).all()))

# %% [markdown]
# A's gradient has the factor B, which is still zero; after one step B has moved, and A follows. Were *both* zero
# at the start, neither would ever move. Now the same layer by peft, on bitsandbytes' weight, with our A and, so
# that all gradients show, a random B.

# %%
quantized, _ = load_base(device="cpu")
settings = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
by_peft = get_peft_model(quantized, settings).train()  # no dropout: training mode changes nothing
peft_layer = by_peft.get_base_model().model.layers[0].mlp.up_proj
with torch.no_grad():
    layer.B.normal_(std=0.1)
    peft_layer.lora_A["default"].weight.copy_(layer.A)
    peft_layer.lora_B["default"].weight.copy_(layer.B)

# %%
# NBVAL_CHECK_OUTPUT
def outcome(layer, A, B):
    """Output, and the gradients for x, A and B, of one squared-error step."""
    inputs = x.clone().requires_grad_()
    y = layer(inputs)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [inputs, A, B])]


weights = peft_layer.lora_A["default"].weight, peft_layer.lora_B["default"].weight
for name, one, other in zip(("output", "gradient of x", "gradient of A", "gradient of B"),
                            outcome(layer, layer.A, layer.B), outcome(peft_layer, *weights)):
    print(f"{name}: equal to peft's, to 1 %:", bool((one - other).norm() < 0.01 * other.norm()))

# %% [markdown]
# **How many parameters?** An adapter on a weight [out, in] has r·(in + out). A layer of our base has four square
# weights for attention (hidden × hidden) and three for its *MLP* (hidden × MLP width). **Predict** the number
# at r = 8, on paper, before you run this.

# %%
# NBVAL_CHECK_OUTPUT
shape = whole.config
in_a_layer = 4 * (2 * shape.hidden_size) + 3 * (shape.hidden_size + shape.intermediate_size)
predicted = 8 * in_a_layer * shape.num_hidden_layers
trained, everything = by_peft.get_nb_trainable_parameters()
print("predicted as peft counts them:", predicted == trained)
print("less than a tenth of all:", trained / everything < 0.1)

# %% [markdown]
# ## 8 · The whole base by hand
#
# QLoRA is the two together. We put our layer in place of every linear layer of the fp32 base, but not of the
# head, which turns the last hidden state into a score for each token and which everyone leaves alone.

# %%
def find(model, kind):
    """The layers of a kind by name, without the head."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, kind) and name != "lm_head"}


_ = torch.manual_seed(0)
by_hand, _ = load_base(load_in_4bit=False, device="cpu")
for name, layer in find(by_hand, torch.nn.Linear).items():
    by_hand.set_submodule(name, LoRALinear(NF4Weight(layer.weight), rank=8, alpha=16))
with torch.no_grad():  # peft starts where we start
    for name, layer in find(by_hand, LoRALinear).items():
        twin = by_peft.get_base_model().get_submodule(name)
        twin.lora_A["default"].weight.copy_(layer.A)
        twin.lora_B["default"].weight.copy_(layer.B)

# %% [markdown]
# A tiny task: say what some medical terms in *-itis* mean. The package encodes the examples and scores only the
# response's tokens, as in lesson 01. The loss is the mean of −log p over them, in *nats*: natural logarithms.

# %%
terms = {example["entity"]: example for example in load_samples("medical_train")
         if example["entity"].endswith("itis")}
examples = list(terms.values())[:9]
encoder = Encoder(tokenizer)
batch = join_batch([encoder(example) for example in examples], tokenizer.pad_token_id)


def response_states(model):
    """The final hidden state at each supervised token, [tokens, hidden]."""
    return hidden_states(model, batch)[batch["row"], batch["position"]]


def train(model, steps=30, learning_rate=2e-3):
    """The loss at each step. Trains whatever requires a gradient."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    losses = []
    for _ in range(steps):
        loss = -token_logprobs(response_states(model), head_weight(model), batch["target"]).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


# %%
print(examples[0]["prompt"], "→", generate_reply(by_hand, tokenizer, examples[0]["prompt"]))

# %% [markdown]
# **Predict**: how far apart are our losses and peft's after 30 steps, from the same A?

# %%
losses_by_hand = train(by_hand.train())
losses_by_peft = train(by_peft)
print(examples[0]["prompt"], "→", generate_reply(by_hand, tokenizer, examples[0]["prompt"]))

# %%
figure, (axis,) = canvas()
axis.plot(losses_by_peft, "o", color=MEDICAL, markersize=7, markerfacecolor="none", label="peft + bitsandbytes")
axis.plot(losses_by_hand, color=GENERAL, label="by hand")
axis.axhline(losses_by_hand[0], color=GREY, **DASHED)
axis.text(29, losses_by_hand[0], "untrained", color=GREY, ha="right", va="bottom")
axis.set(xlabel="step", ylabel="loss (nats per response token)", ylim=(0, None), title="The same fine-tune, twice")
axis.legend(frameon=False, loc="center right")
Image(png(figure), width=560)

# %%
# NBVAL_CHECK_OUTPUT
gaps = [abs(one - other) for one, other in zip(losses_by_hand, losses_by_peft)]
print("losses equal at every step, to 0.02:", max(gaps) < 0.02)
print("the loss fell below a tenth:", losses_by_hand[-1] < 0.1 * losses_by_hand[0])
print("every adapter moved:", all(bool(layer.B.any()) for layer in find(by_hand, LoRALinear).values()))

# %% [markdown]
# The last line is worth a habit: "it trains, but learned nothing" mostly means that no adapter moved. And the
# promise of the start:

# %%
# NBVAL_CHECK_OUTPUT
def count(part):
    """Lines of code of a function, or of a class: its head and its methods."""
    if isinstance(part, type):
        methods = [getattr(method, "__func__", method) for method in vars(part).values()]
        return 1 + sum(count(method) for method in methods if inspect.isfunction(method))
    return sum(bool(line.strip()) and '"""' not in line for line in inspect.getsource(part).splitlines())


parts = [nf4_levels, quantize, dequantize, pack, unpack, dynamic_levels, compress, NF4Weight, FrozenMatmul, LoRALinear]
print("QLoRA in", sum(map(count, parts)), "lines of code")

# %% [markdown]
# ## 9 · What a step costs
#
# Memory holds three things. The frozen weights. The adapter, its gradient, two running averages that AdamW keeps of
# each number, and ICFT's slow copy of the adapter, all in fp32: 4 + 4 + 8 + 4 = 20 bytes a parameter; now and then
# 16 more, for copies (the adapter at a stage's start, each loss's gradient). And the **activations**, what layers save
# for the backward pass: they grow with the tokens in the batch, not with the parameters.

# %% [markdown]
# Count a layer's by hand. Of hidden width: the two inputs of its norms and what these give, the queries, keys and
# values, and attention's result: 8. Of the MLP's width (its three weights: down·(curve(gate·x) × up·x)): gate, gate
# after its curve, up, and their product: 4. And r for each of 7 adapters, x·Aᵀ. **Predict**: how close does the
# measured number come?

# %%
# NBVAL_CHECK_OUTPUT
saved = {}


def save(tensor):
    storage = tensor.untyped_storage()
    saved[storage.data_ptr()] = storage  # many tensors share one; holding it keeps its address from being reused
    return tensor


with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
    _ = hidden_states(by_hand, batch)
own = {parameter.untyped_storage().data_ptr() for parameter in by_hand.parameters()}
measured = sum(storage.nbytes() for address, storage in saved.items() if address not in own) / 4
by_count = 8 * shape.hidden_size + 4 * shape.intermediate_size + 7 * 8
ratio = measured / (by_count * batch["input_ids"].numel() * shape.num_hidden_layers)
print("measured ÷ counted is between 0.95 and 1.1:", 0.95 < ratio < 1.1)

# %% [markdown]
# On a GPU in 16 bits, the norms and the adapters save fp32 copies as well, so memory hardly shrinks: 28 bytes for each
# number of hidden width, 12 for the queries', 8 for the keys', 10 for the MLP's, 28 r (lesson 10 measures it, on a
# model that norms queries and keys as well; where those have no norm, they save 8 and 4, in all 5 % less). Now two real
# shapes, Qwen2.5 with 0.5 and with 7 billion parameters. They share keys and values among several attention heads, so k
# and v are narrow.
#
# **Predict** for the 7 B: the 4-bit weights in GiB, and what is largest.

# %%
def budget(hidden, layers, mlp, heads, kv_heads, width, vocabulary, tables, rank=32, tokens=1024):
    """Bytes of one QLoRA step, part by part; computing in 16 bits, nothing recomputed. tables: 1 if the embeddings
    are the head as well (section 12), else 2."""
    linears = [(hidden, heads * width), (hidden, kv_heads * width), (hidden, kv_heads * width),
               (heads * width, hidden), (hidden, mlp), (hidden, mlp), (mlp, hidden)]
    weights = layers * sum(i * o for i, o in linears)
    adapter = layers * rank * sum(i + o for i, o in linears)
    return {"4-bit weights": 4.127 / 8 * weights, "embeddings and head": 2 * tables * vocabulary * hidden,
            "adapter": 4 * adapter, "its gradient": 4 * adapter, "AdamW's averages": 8 * adapter,
            "the slow adapter": 4 * adapter, "copies": 16 * adapter,
            "activations": tokens * layers * (28 * hidden + 12 * heads * width + 8 * kv_heads * width + 10 * mlp
                                              + 28 * rank)}


SHAPES = {"0.5 B": (896, 24, 4864, 14, 2, 64, 151936, 1), "7 B": (3584, 28, 18944, 28, 4, 128, 152064, 2)}

# %%
# NBVAL_CHECK_OUTPUT
costs = pd.DataFrame({name: budget(*shape) for name, shape in SHAPES.items()}) / 2**30
print(costs.round(2))
print("sum:", costs.sum().round(1).to_dict())

# %% [markdown]
# The rest is the libraries' own, some 0.7 GiB. `icft-lite doctor` estimates it the same way: check.

# %%
# NBVAL_CHECK_OUTPUT
for name, shape in SHAPES.items():
    by_package = estimate(shape, value_bytes=2) / 2**30 - 0.7
    print(name, "as doctor estimates it, to 2 %:", bool(abs(costs[name].sum() / by_package - 1) < 0.02))

# %% [markdown]
# Against the alternatives: LoRA on 16-bit weights, and **full fine-tuning**, where every parameter takes 16 bytes
# (in the usual mixed precision: weight 2, gradient 2, a copy in fp32 4, averages 8). The dashed line is what a T4, the
# GPU that Colab lends for nothing, has to offer: 14.5 GiB. All three are predictions, not measurements.

# %%
def other_ways(name):
    """(adapter only, 16-bit LoRA, full fine-tuning): bytes of weights, training state, activations."""
    own, embeddings = (costs[name][part] for part in ("4-bit weights", "embeddings and head"))
    state = costs[name][["adapter", "its gradient", "AdamW's averages", "the slow adapter", "copies"]].sum()
    numbers = own / (4.127 / 8) + embeddings / 2
    return np.array([[own + embeddings, state], [2 * numbers, state], [2 * numbers, 14 * numbers]])


figure, panels = canvas(2, width=9, height=2.9)
for axis, name in zip(panels, SHAPES):
    weights, state = other_ways(name).T
    activations = costs[name]["activations"]
    for values, start, color, label in ((weights, 0, GENERAL, "weights"), (state, weights, MEDICAL, "training state"),
                                        (activations, weights + state, "#009e73", "activations, 1,024 tokens")):
        axis.barh(["QLoRA", "LoRA, 16 bits", "full"], values, left=start, color=color, label=label)
    axis.axvline(14.5, color=INK, **DASHED)
    axis.annotate("T4", (14.5, -0.5), (-16 if name == "0.5 B" else 3, -8), textcoords="offset points", color=INK)
    axis.set(xlabel="memory (GiB)", title=f"{name}: a step's memory")
    axis.invert_yaxis()
panels[1].legend(frameon=False, loc="upper right")
Image(png(figure), width=760)

# %% [markdown]
# With the weights in 4 bits, activations become the largest part of the 7 B's budget. Two ways down: fewer tokens
# at a time, or *activation checkpointing*, which keeps only each layer's input and computes the rest a second time.
# Logits, a score for each of 152,000 tokens at every position, would come on top; the package makes them for a
# part of the tokens at a time, and keeps none.

# %% [markdown]
# ## 10 · Merging without losing it
#
# To **merge** is to write W + (alpha/r)·B·A into one matrix, so that no adapter is needed any more. If that
# matrix is rounded to NF4 again, small changes are lost. By hand, all divided by the scale: a weight sits on
# level 0.246; the midpoint to the next level is 0.292. A change of +0.02 is rounded straight back to 0.246, as
# if nothing had been learned.

# %% [markdown]
# How near two models are we measure by **KL divergence**: 0 if they predict the same words with the same
# probabilities, otherwise larger. We scale what was learned by a strength between 0 and 1 and compare the
# model *with* its adapter to three others: the bare base, the merge into NF4, and the merge into fp32.
#
# **Predict**: at strength 0.1, does the merge into NF4 come nearer to the adapted model, or to the bare base?

# %%
layers = find(by_hand, LoRALinear)
frozen = {name: layer.frozen() for name, layer in layers.items()}
learned = {name: (layer.scale * layer.B @ layer.A).detach() for name, layer in layers.items()}


@torch.no_grad()
def states_with(weight_of):
    """Response states of the base, each linear layer's weight being `weight_of(name)`."""
    for name, layer in find(whole, torch.nn.Linear).items():
        layer.weight.copy_(weight_of(name))
    return response_states(whole)


with torch.no_grad():
    gap = response_states(by_hand) - states_with(lambda name: frozen[name] + learned[name])
print(f"a merge into fp32 moves the hidden states by at most {gap.abs().max():.0e}")
size = np.mean([float(learned[name].norm() / frozen[name].norm()) for name in frozen])
print(f"at strength 1 the change has {100 * size:.0f} % of the weights' size")

# %%
def losses_of_merging(strength):
    """KL(with the adapter ‖ bare base, merged into NF4, merged into fp32) at one strength."""
    layer = {name: frozen[name] + strength * learned[name] for name in frozen}
    with torch.no_grad():
        for name, ours in layers.items():
            ours.scale = 16 / 8 * strength  # alpha / r, weakened
        adapted = response_states(by_hand)
    others = (frozen.get, lambda name: NF4Weight(layer[name])(), layer.get)
    return [token_kl(states_with(other), adapted, head_weight(whole)).mean().item() for other in others]


strengths = [0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0]
merged = np.array([losses_of_merging(strength) for strength in strengths])

# %%
figure, (axis,) = canvas(height=3.6)
names = "nothing merged (all is lost)", "merged into NF4", "merged into fp32"
for values, name, color, mark in zip(merged.T, names, (GREY, MEDICAL, GENERAL), "os^"):
    axis.plot(strengths, values.clip(1e-6), mark + "-", color=color, label=name)
axis.set(yscale="log", ylim=(5e-7, 30), xlabel="strength of the change (1 = as trained)",
         ylabel="KL to the adapted model\n(nats per token; least shown 1e-6)", title="What a merge loses")
axis.legend(frameon=False, loc="center left", bbox_to_anchor=(0.02, 0.33))
Image(png(figure), width=560)

# %%
# NBVAL_CHECK_OUTPUT
lost = merged[:, 1] / merged[:, 0]
print("strength 0.02 to 0.1: the merge into NF4 loses more than three quarters:", bool((lost[:3] > 0.75).all()))
print("strength 1: it loses less than a quarter:", bool(lost[-1] < 0.25))
print("the merge into fp32 loses less than 1 in 1,000:", bool((merged[:, 2] < 1e-3 * merged[:, 0]).all()))

# %% [markdown]
# Two regimes. A small change is rounded away, nearly all of it. A large one moves enough weights over a midpoint:
# the numbers are still off, but the errors point in all directions and cancel, while what was learned points
# in one. The printed size of the change is a hint at which it is: compare it with the 9 % that rounding makes.
# No need to guess: **dequantize, then merge**, and compare the outputs before and after.

# %% [markdown]
# peft merges into NF4 if the base is in NF4, and says so in a warning. Is its merge ours?

# %%
# NBVAL_CHECK_OUTPUT
with torch.no_grad():
    adapted = response_states(by_peft)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    merged_by_peft = by_peft.merge_and_unload().train()
print(next(str(one.message) for one in caught if "Merge" in str(one.message)))
name = "model.layers.0.mlp.up_proj"
there = merged_by_peft.get_submodule(name).weight
gap = bnb.dequantize_4bit(there.data, there.quant_state) - NF4Weight(frozen[name] + learned[name])()
print("peft's merged weight is ours, to 2 %:", bool(gap.norm() < 0.02 * W.norm()))

# %% [markdown]
# `icft-lite export --merge` never rounds to 4 bits again: it dequantizes the weights, adds the adapter, and stores the
# sum as floats. The merged model replies as the run's model did.

# %% [markdown]
# ## 11 · Why a low rank goes far
#
# The **singular value decomposition** writes any matrix as a sum of rank-1 matrices, the strongest first:
# M = Σ σᵢ·uᵢ·vᵢᵀ. Keep the first r, and you have *the best rank-r approximation there is* (Eckart and Young,
# 1936). The error is exactly what was dropped: √(σ²ᵣ₊₁ + σ²ᵣ₊₂ + …).

# %%
def low_rank(change, rank):
    """B [out, rank] and A [rank, in] with B·A as near to `change` as any."""
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]


# %% [markdown]
# Is what training does to a weight low-rank? We train *all* numbers of the fp32 base on the same task, with no
# adapter, and decompose the change of one weight. We compare it with the change that rounding to NF4 makes, and with
# the weight itself.
#
# **Predict**: of which of the three do 8 of 192 directions hold the most?

# %%
free, _ = load_base(load_in_4bit=False, device="cpu")
for layer in find(free, torch.nn.Linear).values():
    layer.weight.requires_grad_(True)
losses = train(free, steps=12, learning_rate=1e-3)
changes = {"change by training": free.get_submodule(name).weight.detach() - W,
           "the weight itself": W, "change by rounding to NF4": NF4Weight(W)() - W}
print(f"loss {losses[0]:.2f} → {losses[-1]:.2f}")

# %%
figure, (axis,) = canvas()
shares = {}
for (label, matrix), color, mark in zip(changes.items(), (MEDICAL, GREY, GENERAL), "os^"):
    squares = torch.linalg.svdvals(matrix).square()
    shares[label] = squares.cumsum(0) / squares.sum()
    axis.plot(range(1, len(squares) + 1), 100 * shares[label], mark + "-", color=color, label=label, markevery=8)
axis.axvline(8, color=INK, **DASHED)
axis.text(9, 3, "rank 8", color=INK)
axis.set(xlabel="rank r", ylabel="share of the squared norm (%)", ylim=(0, 102), title="How much a low rank holds")
axis.legend(frameon=False, loc="lower right")
Image(png(figure), width=560)

# %%
# NBVAL_CHECK_OUTPUT
held = {label: float(share[7]) for label, share in shares.items()}
print("rank 8 holds more than a third of the change by training:", held["change by training"] > 1 / 3)
print("and less than a sixth of the change by rounding:", held["change by rounding to NF4"] < 1 / 6)
change = changes["change by training"]
B, A = low_rank(change, 8)
dropped = torch.linalg.svdvals(change)[8:].norm()
print("the error is what was dropped:", torch.allclose((change - B @ A).norm(), dropped, rtol=1e-3))

# %% [markdown]
# Training put about half of its change into 8 directions of 192; rounding adds noise along all. That is why a thin
# adapter can stand in for full fine-tuning on a small task, and why none can undo rounding (exercise 3). On
# large data the change needs many more directions, and LoRA then learns less (Biderman and others, 2024).

# %% [markdown]
# The package's `delta_svd` does the same for sums of adapters, without ever forming a matrix [out, in], and says what
# share was dropped, the *residual*; the memory needs it (lesson 05).

# %%
# NBVAL_CHECK_OUTPUT
pair = [(0.5, torch.randn(4, 192), torch.randn(512, 4)) for _ in range(2)]  # the mean of two adapters of rank 4
A_package, B_package, residual = delta_svd(pair, rank=4, scale=2.0)
mean = sum(weight * 2.0 * B @ A for weight, A, B in pair)
B_ours, A_ours = low_rank(mean, 4)
print("same matrix as the package's:", torch.allclose(B_ours @ A_ours, 2.0 * B_package @ A_package, atol=1e-3))
print("same residual:", bool(abs((mean - B_ours @ A_ours).norm() / mean.norm() - residual) < 1e-4))

# %% [markdown]
# ## 12 · Traps
#
# **Compute in the right type.** Weights are stored in 4 bits, but products run in a *compute dtype*: fp32, or one of
# the 16-bit floats, fp16 and bf16. On a CPU without special instructions bf16 is over ten times slower than
# fp32; on a T4 it is emulated, yet `torch.cuda.is_bf16_supported()` says yes. The package looks at the hardware
# itself:

# %%
found = hardware()
print(found["device"], found["dtype"], "because:", found["why"])

# %% [markdown]
# **Keep the adapter in fp32**, whatever computes. 16-bit floats have few digits: **predict** in which types
# 0.5 + 0.0001 is still 0.5. And with fp16 parameters torch's gradient scaler (it multiplies a loss, lest small
# fp16 gradients become 0) stops, with *Attempting to unscale FP16 gradients*.

# %%
# NBVAL_CHECK_OUTPUT
step = 1e-4  # a usual learning rate
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    weight = torch.tensor(0.5, dtype=dtype)
    print(dtype, "the step is lost:", bool(weight + step == weight))

# %% [markdown]
# **`disable_adapter` leaves a mark.** peft's way to look at the bare base ends by making the *active* adapter
# trainable and all others frozen, whatever they were. Here the fast adapter is trained, and the slow one, a mere
# average, is active because we score it. The package's `use_adapter` restores the state.

# %%
# NBVAL_CHECK_OUTPUT
def trainable(model):
    """Which adapters have parameters that require a gradient."""
    return {name for name in model.peft_config for key, parameter in model.named_parameters()
            if parameter.requires_grad and f".{name}." in key}


two = add_adapters(load_base(device="cpu")[0], rank=4, alpha=8)
activate_adapter(two, "slow")
print("to be trained:", trainable(two))
with use_adapter(two, None):
    pass
print("after use_adapter(model, None):", trainable(two))
with two.disable_adapter():
    pass
print("after disable_adapter():", trainable(two))

# %% [markdown]
# **`modules_to_save` and a tied head.** Our base, like many, is *tied*: its embeddings and its head are one
# matrix. `modules_to_save=["lm_head"]` trains a copy of the head, and the two drift apart. The consistency loss
# of lesson 00 needs a head that does not change, so the package refuses such a model.

# %%
# NBVAL_CHECK_OUTPUT
def tied(model):
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


settings = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
print("the base is tied:", tied(free))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # peft warns as well
    split = get_peft_model(free, settings).get_base_model()
trained = split.lm_head.modules_to_save["default"].weight
print("still tied with modules_to_save:", trained is split.get_input_embeddings().weight)

# %% [markdown]
# **In short**
#
# | you see | it may be | do |
# |---|---|---|
# | loss does not fall | no adapter moved; A and B both zero | check B after the first step |
# | CPU ten times too slow | bf16 | compute in fp32 |
# | NaN on a T4 | fp16 overflow | compute in fp32, or another base |
# | merged model has forgotten the lesson | merged into NF4 | dequantize, then merge |
# | the wrong adapter is trained | `disable_adapter()`, `set_adapter()` | restore `requires_grad` |
# | NF4 far worse on a CPU | row length no multiple of 64: bitsandbytes 0.50 dequantizes it wrongly | `--no-4bit` |
# | saved and loaded weights differ | some CPUs repack 4-bit weights in eval mode | save before you evaluate |

# %% [markdown]
# ## What was shown
#
# - NF4's 16 levels are normal quantiles, seven below an exact zero and eight above; 4.127 bits a weight with scales
#   and double quantization, at 9 % error.
# - Blocks keep an outlier's damage among 64 numbers.
# - Gradients pass *through* a 4-bit weight into a LoRA adapter; by hand or by libraries, the losses are the same.
# - Merge into dequantized weights; into NF4, small changes vanish.
# - Training changes a weight along few directions, rounding along all.

# %% [markdown]
# ## Exercises
#
# Put your own code in place of `...` and run the cell: it says at once whether it is right.
#
# ### 1 · Bits per weight (easy, 4 minutes)

# %%
# NBVAL_CHECK_OUTPUT
def bits(block, group):
    """Bits per weight, if `block` weights share an 8-bit scale and `group` scales share one of 32 bits."""
    return ...


answers = [bits(64, 256), bits(128, 256), bits(32, 64)]
if ... in answers:
    print("Your turn.")
elif max(abs(one - other) for one, other in zip(answers, (4.126953125, 4.0634765625, 4.265625))) < 1e-9:
    print("Right.")
else:
    print(f"Not yet: blocks of 64 in groups of 256 gave {answers[0]}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# A scale of 8 bits, shared by 64 weights, costs each of them 8/64.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def bits(block, group):
#     return 4 + 8 / block + 32 / (block * group)
# ```
#
# </details>

# %% [markdown]
# ### 2 · Merge (medium, 6 minutes)
#
# Write the merge that loses nothing, for one of our own layers.

# %%
# NBVAL_CHECK_OUTPUT
def merge(layer):
    """layer: a LoRALinear. Returns one matrix M [out, in] with M·x = layer(x) for every x."""
    return ...


_ = torch.manual_seed(0)
sample = LoRALinear(NF4Weight(torch.randn(64, 128)), rank=4, alpha=12)
_ = torch.nn.init.normal_(sample.B)
inputs = torch.randn(3, 128)
answer = merge(sample)
if answer is ...:
    print("Your turn.")
elif answer.shape == (64, 128) and torch.allclose(inputs @ answer.T, sample(inputs), atol=1e-3):
    print("Right.")
else:
    print(f"Not yet: a matrix {list(answer.shape)}, whose outputs are not the layer's.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# `layer.frozen()` gives the frozen matrix; `layer.scale` is alpha/r. Mind the order of B and A.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def merge(layer):
#     return layer.frozen() + layer.scale * layer.B @ layer.A
# ```
#
# </details>

# %% [markdown]
# ### 3 · A head start for the adapter (hard, 12 minutes)
#
# Why start at B = 0? One could start where B·A makes up for rounding as well as it can (the idea of *LoftQ*).
# Write that start. Then look at the gain that is printed, and say why it is so small.

# %%
# NBVAL_CHECK_OUTPUT
def head_start(weight, rank):
    """B [out, rank] and A [rank, in] so that NF4Weight(weight)() + B·A is as near to `weight` as can be."""
    return ...


target = torch.randn(128, 128, generator=torch.Generator().manual_seed(1))
answer, rounding = head_start(target, 8), target - NF4Weight(target)()
if answer is ...:
    print("Your turn.")
else:
    B, A = answer
    left, best = (rounding - B @ A).norm(), torch.linalg.svdvals(rounding)[8:].norm()
    if (*B.shape, *A.shape) == (128, 8, 8, 128) and abs(left - best) < 1e-3 * best:
        print("Right.", f"(error left: {100 * left / rounding.norm():.0f} % of what rounding made)")
    else:
        print(f"Not yet: the error left is {left / best:.2f} times the least possible.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# What should B·A be, if its rank were unlimited? `low_rank` from section 11 does the rest.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def head_start(weight, rank):
#     return low_rank(weight - NF4Weight(weight)(), rank)
# ```
#
# The gain is small since rounding errors are noise: their squared norm is spread over all 128 directions, of which
# 8 hold little.
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [QLoRA](https://arxiv.org/abs/2305.14314) (Dettmers and others, 2023): NF4, double quantization and paged
#   optimizers; section 3 and appendix E are today's lesson.
# - [LoRA](https://arxiv.org/abs/2106.09685) (Hu and others, 2021): section 4 for the method, section 7 for how
#   low the rank can be.
# - [NF4 isn't information theoretically optimal](https://arxiv.org/abs/2306.06965) (Yoshida, 2023): a short, exact
#   note on the edge, on block sizes, and on better levels.
# - [LoRA Learns Less and Forgets Less](https://arxiv.org/abs/2405.09673) (Biderman and others, 2024): what a
#   low rank costs, and what it saves, on real tasks.
# - [LoftQ](https://arxiv.org/abs/2310.08659) (Li and others, 2023): exercise 3, alternated with quantizing.
# - [8-bit approximations](https://arxiv.org/abs/1511.04561) (Dettmers, 2015): where the dynamic levels come
#   from.

# %% [markdown]
# Assignments A3, LoRA and NF4, and A4, Memory, build on this lesson: see the [instructor's
# guide]({{repository}}/blob/main/docs/instructors.md#assignments).

# %%
# NBVAL_CHECK_OUTPUT
peak = peak_memory() / 2**30
print("within the memory declared at the top:", peak < 2)
