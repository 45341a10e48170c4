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
# The course's runs of `tiny` store their base model in 4 bits per weight and train a small adapter. Two libraries do
# this for us, *bitsandbytes* and *peft*. In this lesson you build both parts yourself, in about sixty lines, and check
# them against the libraries: same bytes, same gradients, same losses.

# %% [markdown]
# **You will be able to**
#
# - compute the 16 levels of NF4 and round a weight to them;
# - count the bits of a weight and the memory of a training step;
# - write a LoRA layer, and say which of its gradients is zero at first, and why;
# - merge an adapter without losing it, and measure how low-rank a change is.
#
# **You need** lesson 00 and basic PyTorch.

# %% [markdown]
# {{budget}}
#
# Where the text says **predict**, write down a guess first. The course's paper names low-rank adaptation and gives no
# settings, so the levels, ranks and layers are *our reading*. The medical terms are teaching material, **not medical
# advice**. All of it runs on the CPU.

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
import warnings
from statistics import NormalDist

import bitsandbytes.functional as bnb
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import Image
from peft import LoraConfig, get_peft_model

from icft_lite import Encoder, add_adapters, load_base, load_samples
from icft_lite.doctor import estimate
from icft_lite.modeling.adapters import activate_adapter, use_adapter
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.generation import generate_reply
from icft_lite.modeling.losses import token_kl, token_logprobs
from icft_lite.modeling.packing import join_batch
from icft_lite.reporting.concepts import nf4, qlora_layer
from icft_lite.reporting.lessons.peak import print_peak
from icft_lite.reporting.lessons.quantization import curves_figure, usage_figure
from icft_lite.reporting.style import png

warnings.simplefilter("ignore", FutureWarning)  # other libraries' plans are not our subject
torch.set_num_threads(1)  # for products as small as ours, a second thread costs more than it saves

# %% [markdown]
# ## The lesson in one picture
#
# A linear layer computes y = W·x. In QLoRA, W is frozen and stored in 4 bits (sections 1–6). Only two thin matrices A
# and B are trained (sections 7–8). In this lesson a **weight** is the matrix W of a linear layer, and, where bits are
# counted, one number of it.

# %%
# NBVAL_CHECK_OUTPUT
Image(png(qlora_layer.draw(), dpi=110), width=860, metadata={"alt": qlora_layer.draw.__doc__})

# %% [markdown]
# ## 1 · Sixteen levels
#
# To **quantize** a number is to replace it by the nearest of a few allowed **levels** and to store only the index of
# that level. With 16 levels an index takes 4 bits; a number in *fp32*, the usual 32-bit float, takes 32. We work with
# one weight of the base.

# %%
# NBVAL_CHECK_OUTPUT
whole, tokenizer = load_base(load_in_4bit=False, device="cpu")
W = whole.model.layers[0].mlp.up_proj.weight.detach().clone()
print(f"{W.shape[0]} × {W.shape[1]} numbers, standard deviation {W.std():.3f}, largest {W.abs().max():.2f}")

# %% [markdown]
# Trained weights roughly follow a **normal distribution**, so evenly spaced levels would rarely be used at the ends.
# NF4 (*4-bit NormalFloat*) aims at levels that are used equally often, and takes **quantiles**: the p-quantile
# $\Phi^{-1}(p)$ is the number below which a share p of the weights is; $\Phi$ is the distribution function of the
# standard normal distribution.

# %% [markdown]
# The quantile at p = 1 is infinite, so the authors stop short of 1, by the mean of 1/32 (half of a sixteenth) and 1/30
# (half of a fifteenth):
# $p_\text{max} = 1 - \frac12\left(\frac1{32} + \frac1{30}\right)$. That is a choice, not a consequence.
#
# Zero must be a level, so the halves are built separately: 8 equal steps from p = 0.5 to $p_\text{max}$, and 7 down to
# $1 - p_\text{max}$. All are divided by the largest. **Predict**: are these the numbers in bitsandbytes' table?

# %%
# NBVAL_CHECK_OUTPUT
Image(png(nf4.draw(), dpi=110), width=860, metadata={"alt": nf4.draw.__doc__})

# %%
# NBVAL_CHECK_OUTPUT
def nf4_levels():
    """The 16 levels, rising from -1 to 1."""
    edge = 1 - (1 / 32 + 1 / 30) / 2
    above = [NormalDist().inv_cdf(p) for p in np.linspace(0.5, edge, 9)]  # inv_cdf: the p-quantile
    below = [-NormalDist().inv_cdf(p) for p in np.linspace(0.5, edge, 8)[1:]]
    return torch.tensor(sorted(below + above)) / max(above)


NF4 = nf4_levels()
table = bnb.get_4bit_type("nf4", device="cpu")
print([round(level, 3) for level in NF4.tolist()])
print("negative:", int((NF4 < 0).sum()), " zero:", int((NF4 == 0).sum()), " positive:", int((NF4 > 0).sum()))
print("equal to bitsandbytes' table, to 1e-6:", bool((NF4 - table).abs().max() < 1e-6))

# %% [markdown]
# Seven negative levels, eight positive ones and an exact zero: 16 is even, so a symmetric set would have no zero.
#
# ## 2 · Blocks and their scales
#
# Levels end at ±1. So we divide by a **scale**, the largest absolute value (*absmax*), round, and store the scale.
# There is one scale for each **block** of 64 numbers.

# %%
def quantize(numbers, levels, block=64):
    """Index of the nearest level [blocks, block], and each block's scale [blocks, 1]. All blocks must be complete."""
    blocks = numbers.reshape(-1, block)
    scales = blocks.abs().amax(1, keepdim=True)
    midpoints = (levels[1:] + levels[:-1]) / 2  # nearest level = number of midpoints below
    return torch.bucketize(blocks / scales.clamp_min(1e-38), midpoints), scales


def dequantize(indices, scales, levels, shape):
    """The numbers that indices and scales represent."""
    return (levels[indices.long()] * scales).reshape(shape)


# %% [markdown]
# By hand, with a block of eight whose scale is 0.20: the first number becomes 0.05 ÷ 0.20 = 0.25. The nearest level is
# number 10, 0.246. Dequantized: 0.246 × 0.20 = 0.049. **Predict** which number has the largest error.

# %%
# NBVAL_CHECK_OUTPUT
eight = torch.tensor([0.05, -0.10, 0.02, 0.00, 0.20, -0.07, 0.11, -0.16])
indices, scales = quantize(eight, NF4, block=8)
pd.DataFrame({"weight": eight, "÷ scale": eight / scales[0], "index": indices[0], "level": NF4[indices[0]],
              "dequantized": dequantize(indices, scales, NF4, -1)}).round(3)

# %% [markdown]
# −0.16: there is no level between −1 and −0.696. The largest number and the zero are exact.
#
# Why blocks? Take 4,096 normal numbers and set one of them to 50, an **outlier**. With a single scale, the level next
# to zero stands for 0.0796 × 50 ≈ 4. **Predict** what becomes of the others, which hardly exceed 3.

# %%
# NBVAL_CHECK_OUTPUT
def relative_error(numbers, levels, block):
    """‖Ŵ − W‖ ÷ ‖W‖, without number 0."""
    back = dequantize(*quantize(numbers, levels, block), levels, numbers.shape)
    return float((back - numbers).flatten()[1:].norm() / numbers.flatten()[1:].norm())


outlier = torch.randn(4096, generator=torch.Generator().manual_seed(0))
outlier[0] = 50.0
for block in (4096, 512, 64):
    zeros, error = (quantize(outlier, NF4, block)[0] == 7).float().mean(), relative_error(outlier, NF4, block)
    print(f"blocks of {block:4}: {zeros:4.0%} become zero, error of the others {error:.0%}")

# %% [markdown]
# The error is $\lVert \hat W - W \rVert / \lVert W \rVert$, with $\hat W$ the dequantized numbers. In blocks of 64, the
# outlier affects only its 63 neighbors.
#
# ## 3 · Two indices in a byte
#
# A byte holds two indices: the first × 16 plus the second. Indices 11 and 3 make 179. **Predict**: how many bytes of
# the real weight differ from bitsandbytes', which calls the scales `absmax`?

# %%
# NBVAL_CHECK_OUTPUT
def pack(indices):
    """Two 4-bit indices in each byte."""
    flat = indices.flatten().to(torch.uint8)
    return flat[::2] << 4 | flat[1::2]  # << 4 multiplies by 16


def unpack(packed):
    """The indices again, in their order."""
    return torch.stack([packed >> 4, packed & 15], 1).flatten()  # >> 4 divides by 16, & 15 is the remainder


print(pack(torch.tensor([11, 3, 0, 15])).tolist(), unpack(torch.tensor([179, 15], dtype=torch.uint8)).tolist())

# %%
# NBVAL_CHECK_OUTPUT
indices, scales = quantize(W, NF4)
packed, state = bnb.quantize_4bit(W, quant_type="nf4", blocksize=64)
ours, theirs = dequantize(indices, scales, NF4, W.shape), bnb.dequantize_4bit(packed, state)
print(f"{W.numel():,} numbers in {packed.numel():,} bytes; same scales: {torch.equal(scales.flatten(), state.absmax)}")
differ = (pack(indices) != packed.flatten()).float().mean()
print(f"share of bytes that differ: {differ:.3f}")
print("equally near the weight, to 1e-6:", torch.allclose((ours - W).abs(), (theirs - W).abs(), atol=1e-6))

# %% [markdown]
# The bytes are the same. (A few may differ on other machines, where a number is exactly between two levels.)
#
# ## 4 · How large is the error?
#
# NF4's levels are built to be used equally often. **Predict**: are they, for this weight?

# %%
# NBVAL_CHECK_OUTPUT
usage = torch.bincount(indices.flatten(), minlength=16) / indices.numel()
print("usage in %:", [round(100 * share) for share in usage.tolist()], "equal usage:", 100 / 16)
entropy = -(usage * usage.log2()).sum()
print(f"entropy {entropy:.2f} bits; between 3.7 and 4: {bool(3.7 < entropy < 4)}")
Image(png(usage_figure((W.reshape(-1, 64) / scales).flatten().numpy(), NF4.numpy(), usage.numpy()), dpi=110), width=760)

# %% [markdown]
# Not quite: we divide by the largest number of a block, so middle levels are used more. Little is lost. **Entropy**:
# $-\sum_i p_i \log_2 p_i$, $p_i$ the usage of level i.
#
# With scales, a weight costs 4 + 32/block bits. **Predict**: at which block sizes does NF4 have a smaller error than 16
# even levels, or than *int4*, the integers −7 to 7 divided by 7?

# %%
# NBVAL_CHECK_OUTPUT
kinds = {"int4": torch.arange(-7, 8) / 7, "16 even levels": torch.linspace(-1, 1, 16), "NF4": NF4}
blocks = [16, 32, 64, 128, 256, 1024]
errors = {name: [100 * relative_error(W, levels, block) for block in blocks] for name, levels in kinds.items()}
print(pd.DataFrame({"bits": [4 + 32 / block for block in blocks], **errors}, index=blocks).round(2))

# %% [markdown]
# Rows: block sizes. Values under the kinds of levels: errors in %. At 64, even levels have an error larger by a
# twelfth, in larger blocks by more. In blocks of 16 even levels are slightly better: the maximum is rarely far out, so
# the scaled weights are no longer normal. NF4 is good *for a distribution*, not in general.

# %% [markdown]
# ## 5 · Double quantization
#
# Scales are quantized too, to 8 bits, in blocks of 256 with one fp32 scale each, after their mean is subtracted. The
# 256 *dynamic* levels are 0, 1 and seven decades (powers of ten) with 1, 2, 4, …, 64 levels for each sign. **Predict**
# the bits per weight: 4, plus 8 bits shared by 64 weights, plus 32 bits shared by 64 × 256.

# %%
def dynamic_levels():
    """The 256 levels for scales, rising."""
    levels = [0.0, 1.0]
    for decade in range(7):
        edges = 10.0 ** (decade - 6) * torch.linspace(0.1, 1, 2**decade + 1)
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
class NF4Weight:
    """A frozen matrix in 4 bits per number. Calling it returns the rounded matrix in fp32."""

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
errors = [float((weight - W).norm() / W.norm()) for weight in (ours, frozen(), theirs)]
print("relative error, without and with double quantization, bitsandbytes:", [round(error, 3) for error in errors])
print("levels of scales are bitsandbytes':", torch.allclose(DYNAMIC, bnb.create_dynamic_map(), atol=1e-6))
print("weights equal, to 1 % of the largest:", bool((frozen() - theirs).abs().max() < 0.01 * W.abs().max()))

# %%
# NBVAL_CHECK_OUTPUT
def stored_bits(numbers, double):
    packed, state = bnb.quantize_4bit(numbers, quant_type="nf4", compress_statistics=double)
    tensors = [packed, state.absmax] + ([state.state2.absmax, state.offset] if double else [])
    return 8 * sum(tensor.nbytes for tensor in tensors) / numbers.numel()


square = torch.randn(1024, 1024, generator=torch.Generator().manual_seed(0))
print(f"plain:  {stored_bits(square, False):.3f} bits counted, {4 + 32 / 64:.3f} predicted")
print(f"double: {stored_bits(square, True):.3f} bits counted, {4 + 8 / 64 + 32 / (64 * 256):.3f} predicted")

# %% [markdown]
# Double quantization does not change the error visibly.
#
# ## 6 · Through a frozen weight
#
# W is not trained, but gradients must pass *through* it: for $y = Wx$ and the gradient $g$ for y, the chain rule gives
# $W^\top g$ for x. PyTorch's product would save the dequantized W until then. Ours dequantizes twice. **Predict** how
# many bytes each saves for the backward pass.

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


# %%
# NBVAL_CHECK_OUTPUT
def saved_bytes(function, x):
    """Bytes of the tensors that `function` saves for the backward pass."""
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.nbytes) or tensor, lambda t: t):
        function(x).sum().backward()
    return sum(saved)


x = torch.randn(5, W.shape[1], generator=torch.Generator().manual_seed(0), requires_grad=True)
print(f"plain product: {saved_bytes(lambda x: F.linear(x, frozen()), x):,} bytes; W in fp32: {4 * W.numel():,}")
expected, x.grad = x.grad, None
print("FrozenMatmul:", saved_bytes(lambda x: FrozenMatmul.apply(x, frozen), x), "bytes")
print("same gradient for x:", torch.allclose(x.grad, expected, atol=1e-5), "; for the bytes:", frozen.packed.grad)

# %% [markdown]
# ## 7 · LoRA by hand
#
# **LoRA** (low-rank adaptation) leaves W unchanged and adds a product of two thin matrices:
#
# $$y = Wx + s\, B A x,\qquad s = \frac{\texttt{alpha}}{r}$$
#
# $A$ is [r, in], $B$ is [out, r]; the **rank** $r$ is much smaller than in and out. Dividing by $r$ keeps the change
# about as strong at another rank. (The LoRA paper writes $\alpha$ for the setting `alpha`; our $\alpha$ is the
# interpolation coefficient.)

# %%
class LoRALinear(torch.nn.Module):
    """A frozen weight with a LoRA adapter: `frozen` returns W when called; A and B are trained."""

    def __init__(self, frozen, rank, alpha):
        super().__init__()
        rows, columns = frozen.shape
        self.frozen, self.scale = frozen, alpha / rank
        self.A = torch.nn.Parameter((2 * torch.rand(rank, columns) - 1) / columns**0.5)
        self.B = torch.nn.Parameter(torch.zeros(rows, rank))


# %% [markdown]
# ### Your turn: LoRALinear.forward
#
# ●●○ difficulty · ●●● importance · 10 minutes
#
# Write the forward pass of the layer. One row of `x` is one token, so products are with transposed matrices. W must not
# be saved for the backward pass.

# %%
# NBVAL_CHECK_OUTPUT
def forward(self, x):
    """x [tokens, in] → y [tokens, out]. `self` is a LoRALinear: frozen, A [r, in], B [out, r], scale = alpha / r."""
    return ...


_ = torch.manual_seed(0)
small, rows = LoRALinear(NF4Weight(torch.randn(48, 64)), rank=4, alpha=12), torch.randn(3, 64, requires_grad=True)
_ = torch.nn.init.normal_(small.B)
answer, wanted = forward(small, rows), rows @ (small.frozen() + 3 * small.B @ small.A).T
solved = False
if answer is ...:
    print("Your turn.")
elif answer.shape != wanted.shape or not torch.allclose(answer, wanted, atol=1e-3):
    print(f"Not yet: y {list(answer.shape)} is not W·x + 3·B·A·x [3, 48]; its sum is {answer.sum().item():.1f}, "
          f"expected {wanted.sum().item():.1f}.")
elif saved_bytes(lambda x: forward(small, x), rows) >= 4 * 48 * 64:
    print("Not yet: y is right, but a whole [out, in] matrix is saved for the backward pass.")
elif small.A.grad is None or small.B.grad is None:
    print("Not yet: y is right, but A or B has no gradient.")
else:
    solved = True
    print("Right.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# `FrozenMatmul.apply(x, self.frozen)` is W·x for all rows. For the adapter, multiply x by Aᵀ first: B·A would be a
# whole matrix again. Do not forget the scale.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def forward(self, x):
#     return FrozenMatmul.apply(x, self.frozen) + self.scale * (x @ self.A.T) @ self.B.T
# ```
#
# </details>

# %% [markdown]
# Now your forward pass and peft's both run one step, on the same weight with the same A and B. As a loss we take the
# squared norm of the output. (Until the exercise is solved, the lesson uses `two_linears`, which is how peft writes
# it.)

# %%
def two_linears(self, x):
    """The adapter as two linear layers, as in peft."""
    return FrozenMatmul.apply(x, self.frozen) + F.linear(F.linear(x, self.A), self.B) * self.scale


LoRALinear.forward = forward if solved else two_linears
quantized, _ = load_base(device="cpu")
settings = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")
by_peft = get_peft_model(quantized, settings).train()  # no dropout: training mode changes nothing
peft_layer = by_peft.get_base_model().model.layers[0].mlp.up_proj
peft_A, peft_B = peft_layer.lora_A["default"].weight, peft_layer.lora_B["default"].weight
layer = LoRALinear(frozen, rank=8, alpha=16)
with torch.no_grad():
    peft_A.copy_(layer.A)
    peft_B.copy_(layer.B.normal_(std=0.1))  # not zero, so that all gradients show

# %%
# NBVAL_CHECK_OUTPUT
def step(layer, A, B):
    """Squared norm of the output, and its gradients for x, A and B."""
    inputs = x.detach().requires_grad_()
    loss = layer(inputs).square().sum()
    return [loss.detach(), *torch.autograd.grad(loss, [inputs, A, B])]


ours, theirs = step(layer, layer.A, layer.B), step(peft_layer, peft_A, peft_B)
print(f"squared norm {ours[0]:.0f}, peft's {theirs[0]:.0f}")
for name, one, other in zip(("squared norm", "gradient of x", "gradient of A", "gradient of B"), ours, theirs):
    print(f"{name}: equal to peft's, to 1 %:", bool((one - other).norm() < 0.01 * other.norm()))

# %% [markdown]
# Training starts with a random A and B = 0, so nothing changes at first. With $g$ and $x$ as rows, one per token, the
# gradients are $s\, g^\top (x A^\top)$ for B and $s\, (g B)^\top x$ for A.
#
# **Predict**: in the first step, which of the two is exactly zero?

# %%
# NBVAL_CHECK_OUTPUT
layer = LoRALinear(frozen, rank=8, alpha=16)
y = layer(x)
print("nothing changed:", torch.equal(y, x @ frozen().T))
y.square().sum().backward()
g = 2 * y.detach()
print("gradient of B is the formula's:", torch.allclose(layer.B.grad, layer.scale * g.T @ (x @ layer.A.T), atol=1e-3))
print("gradient of A is zero:", bool((layer.A.grad == 0).all()))

# %% [markdown]
# The gradient of A has the factor B, which is still zero. After one step B has moved, and A follows. If *both* were
# zero, neither would ever move.
#
# An adapter has r·(in + out) parameters. A layer of our base has four weights [hidden, hidden] for attention and three
# in its *MLP*, [hidden, MLP width]. **Predict** the number.

# %%
# NBVAL_CHECK_OUTPUT
shape = whole.config
in_a_layer = 4 * (2 * shape.hidden_size) + 3 * (shape.hidden_size + shape.intermediate_size)
predicted = 8 * in_a_layer * shape.num_hidden_layers
trained, everything = by_peft.get_nb_trainable_parameters()
print(f"predicted {predicted:,}, counted by peft {trained:,}: {trained / everything:.1%} of all parameters")

# %% [markdown]
# ## 8 · The whole base by hand
#
# QLoRA is both together. We replace every linear layer of the fp32 base by our layer, except the *head*, which turns
# the last hidden state into a score for each token. The second loop gives peft's adapters our start.

# %%
def find(model, kind):
    """The layers of a kind by name, without the head."""
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, kind) and name != "lm_head"}


_ = torch.manual_seed(0)
by_hand, _ = load_base(load_in_4bit=False, device="cpu")
for name, layer in find(by_hand, torch.nn.Linear).items():
    by_hand.set_submodule(name, LoRALinear(NF4Weight(layer.weight), rank=8, alpha=16))
with torch.no_grad():
    for name, layer in find(by_hand, LoRALinear).items():
        twin = by_peft.get_base_model().get_submodule(name)
        twin.lora_A["default"].weight.copy_(layer.A)
        twin.lora_B["default"].weight.copy_(layer.B)

# %% [markdown]
# A tiny task: the meaning of nine medical terms in *-itis*. The package encodes the examples and scores only the
# tokens of the response. The loss is the mean of $-\log p$ over them, in *nats* (natural logarithm). **Predict**: how
# far apart are our losses and peft's after 30 steps from the same start?

# %%
terms = {example["entity"]: example for example in load_samples("medical_train")
         if example["entity"].endswith("itis")}
examples = list(terms.values())[:9]
encoder = Encoder(tokenizer)
batch = join_batch([encoder(example) for example in examples], tokenizer.pad_token_id)


def response_states(model):
    """The final hidden state at each supervised token, [tokens, hidden]."""
    return hidden_states(model, batch)[batch["row"], batch["position"]]


def loss_of(model):
    """Mean negative log-likelihood of a response token."""
    return -token_logprobs(response_states(model), head_weight(model), batch["target"]).mean()


# %%
def train(model, steps=30, learning_rate=2e-3):
    """The loss at each step. Trains whatever requires a gradient."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    losses = []
    for _ in range(steps):
        loss = loss_of(model)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


# %%
before = generate_reply(by_hand, tokenizer, examples[0]["prompt"])
losses_by_hand, losses_by_peft = train(by_hand.train()), train(by_peft)
print(examples[0]["prompt"], "→ before:", before, "→ after:", generate_reply(by_hand, tokenizer, examples[0]["prompt"]))
Image(png(curves_figure(range(30), {"peft + bitsandbytes": losses_by_peft, "by hand": losses_by_hand},
                        "The same fine-tuning, twice", "step", "loss (nats per response token)"), dpi=110), width=560)

# %%
# NBVAL_CHECK_OUTPUT
for at in (0, 5, 10, 29):
    print(f"step {at:2}: by hand {losses_by_hand[at]:.1f}, peft {losses_by_peft[at]:.1f}")
gaps = [abs(one - other) for one, other in zip(losses_by_hand, losses_by_peft)]
print("losses equal at every step, to 0.02:", max(gaps) < 0.02)
print("every adapter moved:", all(bool(layer.B.any()) for layer in find(by_hand, LoRALinear).values()))

# %% [markdown]
# The base repeats the term; the trained model gives its meaning. Make the last check a habit: if a model does not
# learn, often no adapter has moved.
#
# ## 9 · What a step costs
#
# A step needs the frozen weights; 36 bytes per adapter parameter; and **activations**, which layers save for the
# backward pass and which grow with the tokens of a batch.

# %% [markdown]
# The 36 bytes: the parameter, its gradient, AdamW's two averages and ICFT's slow copy in fp32, 20 in all, and at times
# 16 for copies. Lesson 10 measures the factors of the activations. We take the shapes of Qwen2.5 with 0.5 and 7
# billion parameters. **Predict** for the 7 B: the 4-bit weights in GiB, and what is largest.

# %%
def budget(hidden, layers, mlp, heads, kv_heads, width, vocabulary, tables, rank=32, tokens=1024):
    """Bytes of one QLoRA step by part, in 16 bits. tables: 1 if the embeddings are also the head, else 2."""
    linears = [(hidden, heads * width), (hidden, kv_heads * width), (hidden, kv_heads * width),
               (heads * width, hidden), (hidden, mlp), (hidden, mlp), (mlp, hidden)]
    weights = layers * sum(i * o for i, o in linears)
    adapter = layers * rank * sum(i + o for i, o in linears)
    per_token = 28 * hidden + 12 * heads * width + 8 * kv_heads * width + 10 * mlp + 28 * rank
    return {"4-bit weights": 4.127 / 8 * weights, "embeddings and head": 2 * tables * vocabulary * hidden,
            "adapter and its training": 36 * adapter, "activations": tokens * layers * per_token}


SHAPES = {"0.5 B": (896, 24, 4864, 14, 2, 64, 151936, 1), "7 B": (3584, 28, 18944, 28, 4, 128, 152064, 2)}

# %%
# NBVAL_CHECK_OUTPUT
costs = pd.DataFrame({name: budget(*shape) for name, shape in SHAPES.items()}) / 2**30
print(costs.round(2))
doctor = {name: estimate(shape, value_bytes=2) / 2**30 - 0.7 for name, shape in SHAPES.items()}  # 0.7: the libraries
print("sum:", costs.sum().round(1).to_dict(), "as `icft-lite doctor` estimates it, to 2 %:",
      all(abs(costs[name].sum() / doctor[name] - 1) < 0.02 for name in SHAPES))

# %% [markdown]
# At 1,024 tokens, activations are the largest part. *Activation checkpointing* saves only each layer's input and
# recomputes the rest. Compare two other ways: LoRA on 16-bit weights, and full fine-tuning with 16 bytes per parameter
# (weight 2, gradient 2, fp32 copy 4, averages 8). All are predictions. Of a T4's memory 14.5 GiB can be used; 0.7 GiB
# of that are for the libraries.

# %%
# NBVAL_CHECK_OUTPUT
weights, embeddings, adapter, activations = costs.to_numpy()
numbers = weights / (4.127 / 8) + embeddings / 2  # parameters, in units of 2^30
ways = {"QLoRA": costs.sum().to_numpy(), "LoRA, 16 bits": 2 * numbers + adapter + activations,
        "full": 16 * numbers + activations}
print(pd.DataFrame(ways, index=SHAPES).round(1).T)
print("fits on a T4 (0.5 B, 7 B):", {name: (total + 0.7 < 14.5).tolist() for name, total in ways.items()})

# %% [markdown]
# QLoRA of the 7 B does not fit on a T4 at 1,024 tokens either; with half of the tokens it does.
#
# ## 10 · Merging without loss
#
# To **merge** is to write $W + s\,BA$ into one matrix. If that is rounded to NF4 again, small changes are lost: around
# the level 0.246, a change of +0.02 is rounded back, because the next midpoint is 0.292.

# %% [markdown]
# The **KL divergence** $\sum_i p_i \log\frac{p_i}{q_i}$ over the tokens i is 0 if the adapted model's probabilities p
# and another model's q are equal, otherwise larger. We multiply what was learned by a strength from 0 to 1.
# **Predict**: at strength 0.1, is the merge into NF4 nearer to the adapted model or to the base?

# %%
layers = find(by_hand, LoRALinear)
frozen = {name: layer.frozen() for name, layer in layers.items()}
learned = {name: (layer.scale * layer.B @ layer.A).detach() for name, layer in layers.items()}


@torch.no_grad()
def states_with(weight_of):
    """Response states of the base if each linear layer's weight is `weight_of(name)`."""
    for name, layer in find(whole, torch.nn.Linear).items():
        layer.weight.copy_(weight_of(name))
    return response_states(whole)


def losses_of_merging(strength):
    """KL(with the adapter ‖ bare base, merged into NF4, merged into fp32) at one strength."""
    layer = {name: frozen[name] + strength * learned[name] for name in frozen}
    with torch.no_grad():
        for name, ours in layers.items():
            ours.scale = 16 / 8 * strength  # alpha / r, weakened
        adapted = response_states(by_hand)
    others = (frozen.get, lambda name: NF4Weight(layer[name])(), layer.get)
    return [token_kl(states_with(other), adapted, head_weight(whole)).mean().item() for other in others]


# %%
strengths = [0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
merged = np.array([losses_of_merging(strength) for strength in strengths])
names = "nothing merged", "merged into NF4", "merged into fp32"
size = np.mean([float(learned[name].norm() / frozen[name].norm()) for name in frozen])
print(f"at strength 1 the change has {size:.0%} of the weights' norm; KL to the adapted model:")
print(pd.DataFrame(merged.clip(0), strengths, names).round(4))
Image(png(curves_figure(strengths, dict(zip(names, merged.clip(1e-6).T)), "What a merge loses (1e-6 or less: 1e-6)",
                        "strength of the change (1 = as trained)", "KL to the adapted model (nats)", "xy"),
          dpi=110), width=560)

# %%
# NBVAL_CHECK_OUTPUT
lost = merged[:, 1] / merged[:, 0]
print("strength 0.02 to 0.1: the merge into NF4 loses more than three quarters:", bool((lost[:3] > 0.75).all()))
print("strength 1: it loses less than a quarter:", bool(lost[-1] < 0.25))
print("the merge into fp32 loses less than 1 in 1,000:", bool((merged[:, 2] < 1e-3 * merged[:, 0]).all()))

# %% [markdown]
# Up to strength 0.2, nearly all of the change is rounded away. At 1 it exceeds the error of rounding (9 %), and the
# merge into NF4 is near the adapted model. The rule is: **merge into dequantized weights, and do not quantize the
# result**. peft merges into NF4 if the base is in NF4, with a warning; `icft-lite export --merge` dequantizes first and
# stores floats.

# %% [markdown]
# ## 11 · How low-rank is the change?
#
# The **singular value decomposition** writes a matrix as $M = \sum_i \sigma_i u_i v_i^\top$, with orthonormal
# directions $u_i$, $v_i$ and $\sigma_1 \ge \sigma_2 \ge \dots \ge 0$. The first r terms are the best approximation of
# rank r. They hold the share $\sum_{i \le r} \sigma_i^2 \,/\, \sum_i \sigma_i^2$ of the squared norm.

# %%
def low_rank(change, rank):
    """B [out, rank] and A [rank, in] with B·A as near to `change` as possible."""
    u, s, vh = torch.linalg.svd(change, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * vh[:rank]


def share(matrix, rank):  # of the squared norm, in the first `rank` directions
    squares = torch.linalg.svdvals(matrix).square()
    return float(squares[:rank].sum() / squares.sum())


# %% [markdown]
# We train *all* numbers of the fp32 base's linear layers (without the head) on the nine examples, without an adapter,
# and decompose the change of every weight. **Predict**: what share do 8 of 192 directions hold? Compare the weights
# themselves and the change that rounding to NF4 makes.

# %%
base, free = (load_base(load_in_4bit=False, device="cpu")[0] for _ in range(2))
for layer in find(free, torch.nn.Linear).values():
    layer.weight.requires_grad_(True)
losses = train(free, steps=12, learning_rate=1e-3)
print(f"loss {losses[0]:.2f} → {losses[-1]:.2f}")

# %%
start = {name: layer.weight.detach().clone() for name, layer in find(base, torch.nn.Linear).items()}
change = {name: layer.weight.detach() - start[name] for name, layer in find(free, torch.nn.Linear).items()}
rounding = {name: NF4Weight(weight)() - weight for name, weight in start.items()}
kinds = {"change by training": change, "the weights themselves": start, "change by rounding": rounding}
held = {kind: [share(matrix, 8) for matrix in matrices.values()] for kind, matrices in kinds.items()}
print(f"share of the squared norm in 8 directions, over {len(start)} weights:")
pd.DataFrame(held).describe().loc[["mean", "min", "max"]].T.round(2)

# %%
# NBVAL_CHECK_OUTPUT
print("training: between 40 and 80 % in each weight:", 0.4 < min(held["change by training"]),
      max(held["change by training"]) < 0.8)
print("rounding: less than a third of that on average:",
      np.mean(held["change by rounding"]) < np.mean(held["change by training"]) / 3)

# %% [markdown]
# The change is *concentrated*, not low-rank: 8 directions hold 57 % of its squared norm on average, the other 184 hold
# the rest. A norm says nothing about the task. So we apply only the first r directions of each change, then only the
# others, and compute the loss. **Predict** both at r = 8.

# %%
@torch.no_grad()
def loss_with(rank, first):
    """Loss of the base with the first `rank` directions of each change, or with all others."""
    for name, layer in find(base, torch.nn.Linear).items():
        B, A = low_rank(change[name], rank)
        layer.weight.copy_(start[name] + (B @ A if first else change[name] - B @ A))
    return loss_of(base).item()


ranks = [1, 4, 8, 16, 32]
parts = {"first r only": [loss_with(r, True) for r in ranks], "all others": [loss_with(r, False) for r in ranks]}
shares = [np.mean([share(matrix, r) for matrix in change.values()]) for r in ranks]
pd.DataFrame({"share of the squared norm": shares, **{f"loss, {part}": parts[part] for part in parts}}, ranks).round(2)

# %%
# NBVAL_CHECK_OUTPUT
print("the first 8 directions: loss below 0.1:", parts["first r only"][2] < 0.1)
print("without the first 8: below a quarter of the untrained loss:", parts["all others"][2] < losses[0] / 4)

# %% [markdown]
# A rank of 8 is sufficient for these nine examples, which supports LoRA on a small task. The strongest directions are
# not the only ones that work: *without* them the loss falls too, to 0.63. One small model, nine examples, AdamW: with
# much more data LoRA learns less than full fine-tuning (Biderman and others, 2024).

# %% [markdown]
# ## 12 · Traps
#
# **`disable_adapter` has a side effect.** peft's way to use the bare base ends by making the *active* adapter trainable
# and all others frozen. Here the fast adapter is to be trained; the slow one is active because we evaluate it. The
# package's `use_adapter` restores the state.

# %%
# NBVAL_CHECK_OUTPUT
def trainable(model):
    """Which adapters have parameters that require a gradient."""
    return {name for name in model.peft_config for key, parameter in model.named_parameters()
            if parameter.requires_grad and f".{name}." in key}


two = add_adapters(load_base(device="cpu")[0], rank=4, alpha=8)
activate_adapter(two, "slow")
with use_adapter(two, None):
    pass
print("after use_adapter(model, None):", trainable(two))
with two.disable_adapter():
    pass
print("after disable_adapter():", trainable(two))

# %% [markdown]
# | you see | possible cause | do |
# |---|---|---|
# | loss does not fall | no adapter moved; A and B both zero | check B after the first step |
# | CPU ten times too slow | bf16 without special instructions | compute in fp32 |
# | loss stops falling in 16 bits | adapter in bf16 or fp16: 0.5 + 0.0001 = 0.5 | keep the adapter in fp32 |
# | NaN on a T4 | fp16 overflow (numbers above 65,504) | compute in fp32, or another base |
# | merged model lost what it learned | merged into NF4 | merge into dequantized weights, store floats |
# | the wrong adapter is trained | `disable_adapter()`, `set_adapter()` | restore `requires_grad` |
# | head and embeddings differ | `modules_to_save` copies a tied head | do not use it; the package refuses it |
# | NF4 far worse on a CPU | row length no multiple of 64: bitsandbytes 0.50 dequantizes it wrongly | `--no-4bit` |

# %% [markdown]
# ## What was shown
#
# - NF4's 16 levels are normal quantiles; 4.127 bits per weight with scales and double quantization, at 9 % error.
# - Gradients pass *through* a 4-bit weight into a LoRA adapter; by hand or by libraries, the losses are the same.
# - Merge into dequantized weights; in NF4, small changes vanish.
# - A rank of 8 was sufficient for nine examples, although the change itself has a higher rank.

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
# ### 2 · A better start for the adapter (hard, 12 minutes)
#
# Instead of B = 0, B·A could start as the best correction of the rounding error (the idea of *LoftQ*). Write that
# start. Then look at the remaining error that is printed, and say why it is so large.

# %%
# NBVAL_CHECK_OUTPUT
def head_start(weight, rank):
    """B [out, rank] and A [rank, in] so that NF4Weight(weight)() + B·A is as near to `weight` as possible."""
    return ...


target = torch.randn(128, 128, generator=torch.Generator().manual_seed(1))
answer, error = head_start(target, 8), target - NF4Weight(target)()
if answer is ...:
    print("Your turn.")
else:
    B, A = answer
    left, best = (error - B @ A).norm(), torch.linalg.svdvals(error)[8:].norm()
    if (*B.shape, *A.shape) == (128, 8, 8, 128) and abs(left - best) < 1e-3 * best:
        print("Right.", f"(remaining: {100 * left / error.norm():.0f} % of the error of rounding)")
    else:
        print(f"Not yet: the remaining error is {left / best:.2f} times the least possible.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# What should B·A be if its rank were unlimited? `low_rank` from section 11 does the rest.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def head_start(weight, rank):
#     return low_rank(weight - NF4Weight(weight)(), rank)
# ```
#
# The gain is small because rounding errors are noise: their squared norm is spread over all 128 directions.
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [QLoRA](https://arxiv.org/abs/2305.14314) (Dettmers and others, 2023): NF4 and double quantization.
# - [LoRA](https://arxiv.org/abs/2106.09685) (Hu and others, 2021): section 7 on how low the rank can be.
# - [NF4 isn't information theoretically optimal](https://arxiv.org/abs/2306.06965) (Yoshida, 2023).
# - [LoRA Learns Less and Forgets Less](https://arxiv.org/abs/2405.09673) (Biderman and others, 2024).
# - [LoftQ](https://arxiv.org/abs/2310.08659) (Li and others, 2023): exercise 2.
# - [8-bit approximations](https://arxiv.org/abs/1511.04561) (Dettmers, 2015): dynamic levels.
#
# Assignments A3, LoRA and NF4, and A4, Memory, build on this lesson: see the [instructor's
# guide]({{repository}}/blob/main/docs/instructors.md#assignments).

# %%
# NBVAL_CHECK_OUTPUT
print_peak(2)
