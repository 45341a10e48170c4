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
# # 06 · The three losses
#
# A model learns only from its losses. ICFT has three:
#
# L_total = L_consistency + L_task + L_fine-tune
#
# Here you take them apart one at a time: work each by hand on a vocabulary of three tokens, see which way it
# pushes, and put them together again on a real batch.

# %% [markdown]
# **You will be able to**
#
# - say, of every token in a batch, whether it is trained on, and by which loss;
# - write each loss and its gradient from memory, and check them;
# - explain why a teacher can be cached in 3.6 KB a token where its logits take 600;
# - find out why a fine-tune learned nothing, never stops, or forgot everything.
#
# **You need** lessons 00 to 05, and logarithms.

# %% [markdown]
# {{budget}}
#
# Run the cells from top to bottom. Where the text says **predict**, write down a guess first.
#
# Of the paper only the sum of the three losses is public, so what each term is here is *our reading*.
# Teaching material: **not medical advice**.

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
import html
import math
import random
import warnings

import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import HTML, Image
from matplotlib import rc_context
from matplotlib.figure import Figure

from icft_lite import Encoder, ICFTConfig, LongTermMemory, add_adapters, apply_lfs, label_pool, load_base, sample_bundle
from icft_lite.modeling.adapters import activate_adapter, adapter_tensors, use_adapter
from icft_lite.modeling.base import head_weight, hidden_states
from icft_lite.modeling.encoding import Encoded
from icft_lite.modeling.losses import fine_tune_loss, icft_losses, pair_loss, question_loss, token_kl, token_logprobs
from icft_lite.modeling.packing import join_batch
from icft_lite.reporting.figures import GENERAL, GREY, INK, MEDICAL, RC, png
from icft_lite.training.batches import StageBatches, TrainingItem, collate, normalizers, split_micro_batches
from icft_lite.training.plan import PlannedStep
from icft_lite.utils.hardware import peak_memory
from icft_lite.weak.lfs.samples import sample_lfs

warnings.simplefilter("ignore", FutureWarning)

# %% [markdown]
# We compare numbers to many digits, so this lesson computes in fp32 on the CPU even where there is a GPU.

# %%
base, tokenizer = load_base(device="cpu")
model = add_adapters(base, rank=32, alpha=64, seed=0)  # lesson 04; two of them, fast and slow: lesson 05
head = head_weight(model)
encoder, data = Encoder(tokenizer), sample_bundle()


def canvas(panels, size):
    with rc_context(RC):
        figure = Figure(figsize=size)
        return figure, figure.subplots(1, panels, squeeze=False).ravel()


# %% [markdown]
# ## 1 · What is supervised
#
# A batch is a table of token ids, one row for each example. Examples differ in length, so short rows are filled up
# with **padding**. Only some tokens are **supervised**: a loss asks how likely the model found them.
#
# **Predict**: which of these should be supervised: the question, the answer, the mark that ends the answer,
# the padding?

# %% tags=["from-scratch"]
LOOKS = {"prompt": "background:#dedede", "response": "background:#a6d4f2;font-weight:bold",
         "padding": "background:#fff;border:1px dashed #777;color:#555"}


def token_table(encoded):
    """A joined batch as HTML, its tokens colored by what they are. Everything that it shows is escaped."""
    batch = join_batch(encoded, tokenizer.pad_token_id)
    targets = set(zip(batch["row"].tolist(), (batch["position"] + 1).tolist()))
    lines = []
    for r, ids in enumerate(batch["input_ids"].tolist()):
        kinds = ["padding" if at >= len(encoded[r].sequences[0]) else "response" if (r, at) in targets else "prompt"
                 for at in range(len(ids))]
        texts = [html.escape(tokenizer.decode([i]).replace(" ", "·")) for i in ids]
        lines.append("".join(f'<code title="{kind}" style="{LOOKS[kind]};color:#111;margin:1px;padding:1px 3px">'
                             f"{text}</code>" for kind, text in zip(kinds, texts)))
    key = "".join(f'<code style="{look};color:#111;margin:4px;padding:1px 6px">{kind}</code>'
                  for kind, look in LOOKS.items())
    return HTML(f"<p>{key}</p>" + "".join(f'<p style="line-height:1.9">{line}</p>' for line in lines))


# %%
mine = dict(data.trusted[0], id="mine", prompt="Is a systolic pressure <90 low?", responses=["yes"])
shown = [dict(data.trusted[0]), dict(data.general_memory[0]), mine]
encoded = [encoder(example) for example in shown]
token_table(encoded)

# %% [markdown]
# Gray is read, blue is learned, dashed is neither. `·` marks a space. The end mark is blue as well: a model
# that is never taught to stop goes on for ever. Note `<90`: the text of an example is *escaped* before it
# becomes HTML, or a browser would take it for a tag.

# %% [markdown]
# The model predicts the *next* token. So the state after reading token p must answer for token p + 1, and the
# first one to work is the end of the prompt:

# %%
batch = join_batch(encoded[:1], tokenizer.pad_token_id)
read = [tokenizer.decode([encoded[0].sequences[0][p]]) for p in batch["position"].tolist()]
pd.DataFrame({"position": batch["position"].tolist(), "has just read": read,
              "must say": [tokenizer.decode([t]) for t in batch["target"].tolist()]})

# %%
# NBVAL_CHECK_OUTPUT
batch = join_batch(encoded, tokenizer.pad_token_id)
said = [tokenizer.decode(batch["target"][batch["response"] == i]).strip() for i in range(len(shown))]
print("supervised:", [text == one["responses"][0] + tokenizer.eos_token for text, one in zip(said, shown)])
print("prompt and padding are not:", len(batch["target"]) == sum(len(one.tokens) for one in encoded))

# %% [markdown]
# ## 2 · L_fine-tune: imitate
#
# In words: *the mean, over supervised tokens, of minus the log of the probability that the model gave to the
# right token*. It is called the **negative log-likelihood**, NLL, in nats.
#
# The model gives each token of its vocabulary a number, a **logit** z. Softmax makes probabilities of them:
# p = exp(z) / Σ exp(z).

# %% [markdown]
# **By hand.** Three tokens in the whole language: *yes*, *no*, *maybe*. The logits are 2, 1 and 0.
#
# exp(2), exp(1), exp(0) = 7.389, 2.718, 1. Their sum is 11.107, so p = 0.665, 0.245, 0.090. Say that *no* is
# right: NLL = −log 0.245 = 1.408.

# %%
# NBVAL_CHECK_OUTPUT
WORDS = ["yes", "no", "maybe"]
z = torch.tensor([2.0, 1.0, 0.0])
p = z.exp() / z.exp().sum()
print({word: round(float(x), 3) for word, x in zip(WORDS, p)})
print("NLL of 'no':", round(-math.log(p[1]), 3))

# %% [markdown]
# The **gradient** says how the loss changes as each logit grows a little. Training goes the other way.
#
# Since NLL = log Σ exp(z) − z_right, its derivative is p for each token, less 1 for the right one:
#
# **gradient = p − onehot**
#
# **Predict** its three numbers, and their sum.

# %%
# NBVAL_CHECK_OUTPUT
onehot = torch.tensor([0.0, 1.0, 0.0])
by_hand = p - onehot
logits = z.clone().requires_grad_()
(by_autograd,) = torch.autograd.grad(-logits.log_softmax(0)[1], logits)
print([round(float(x), 3) for x in by_hand], "sum 0:", bool(by_hand.sum().abs() < 1e-6))
print("autograd agrees:", torch.allclose(by_hand, by_autograd))


# %%
def bars(axis, formula, autograd, title):
    """A gradient on the three logits: bars by the formula, dots by autograd."""
    axis.bar(WORDS, formula, color=[MEDICAL if g > 0 else GENERAL for g in formula], width=0.55)
    axis.plot(WORDS, autograd, "o", color=INK, markersize=7, markerfacecolor="white")
    for at, g in enumerate(formula):
        axis.annotate(f"{g:+.3f}", (at, float(g)), (0, 10 if g >= 0 else -10), textcoords="offset points",
                      ha="center", va="center" if g else "bottom", fontsize=9)
    axis.axhline(0, color=GREY, linewidth=1)
    axis.set_ylim(-1, 1)
    axis.set_title(title, loc="left")
    axis.set_ylabel("gradient on the logit (nats per unit)")


figure, (axis,) = canvas(1, (5, 3.2))
bars(axis, by_hand, by_autograd, "L_fine-tune, right token: no")
axis.set_xlabel("bars: p − onehot; dots: autograd; below 0 the logit will rise")
Image(png(figure), width=420)

# %% [markdown]
# What the right token gains the others lose, each in proportion to its own probability. When p is right
# already, nothing moves.
#
# The package's version takes *hidden states* and the output *head*, the matrix that turns a state into logits:
# logits = head · state. With the identity for a head the states *are* the logits, so we can ask it about our
# three tokens.

# %%
# NBVAL_CHECK_OUTPUT
identity = torch.eye(3)
state = z[None].clone().requires_grad_()
logp = token_logprobs(state, identity, torch.tensor([1]))
(theirs,) = torch.autograd.grad(fine_tune_loss(logp, torch.ones(1)), state)
print("the package agrees:", torch.allclose(theirs[0], by_hand))

# %% [markdown]
# **Soft labels.** A weak question has a *posterior* p̃ over its options (lesson 02), and no answer. Then
# L_fine-tune is the **expected NLL**, Σ p̃_k · NLL(option k): what you would pay on average if the answer were
# drawn from p̃. Each token of option k *weighs* p̃_k, and the mean is taken with these weights. Where each option
# is one token, the gradient is p − p̃. If p̃ is one-hot, this is the ordinary loss.

# %%
# NBVAL_CHECK_OUTPUT
soft = torch.tensor([0.8, 0.2, 0.0])
three = z.expand(3, 3).clone().requires_grad_()  # one response of one token for each option
logp = token_logprobs(three, identity, torch.arange(3))
(gradient,) = torch.autograd.grad(fine_tune_loss(logp, soft), three)
print("gradient is p − p̃:", torch.allclose(gradient.sum(0), p - soft))
print("one-hot p̃ is the hard label:", torch.equal(fine_tune_loss(logp, onehot), -logp[1]))

# %% [markdown]
# ## 3 · L_task: choose among the options
#
# In words: *the cross-entropy between the posterior p̃ and the softmax of the option scores*. An option's
# **score** s is the log-probability of its whole text, summed over its tokens. *Option accuracy*, a second score of
# tests, ranks options by it (lesson 08).
#
# L_task = −Σ p̃_k · log softmax(s)_k, with gradient **softmax(s) − p̃** on the scores.

# %% [markdown]
# **By hand.** The options are *yes* and *no*; *maybe* is a word, but no option. p̃ = 0.8, 0.2. Among the
# options alone, softmax(s) = 0.665, 0.245 scaled to sum to 1: 0.731, 0.269. The gradient on the scores is
# −0.069, +0.069.
#
# **Predict.** On the three *logits*: what does each loss do to *maybe*?

# %%
# NBVAL_CHECK_OUTPUT
logits = z.clone().requires_grad_()
scores = logits.log_softmax(0)[:2]
task = question_loss(scores[None], soft[None, :2], torch.ones(1, 2, dtype=torch.bool))
(task_gradient,) = torch.autograd.grad(task, logits)
chosen = p[:2] / p[:2].sum()
formula = torch.cat([chosen - soft[:2], torch.zeros(1)])
print([round(float(x), 3) + 0.0 for x in formula])
print("autograd agrees:", torch.allclose(formula, task_gradient, atol=1e-6))

# %%
figure, axes = canvas(2, (9, 3.2))
bars(axes[0], p - soft, gradient.sum(0), "L_fine-tune, soft label")
bars(axes[1], formula, task_gradient, "L_task, the same label")
for axis in axes:
    axis.set_ylim(-0.25, 0.25)
    axis.set_xlabel("yes and no are options, maybe is not")
Image(png(figure), width=720)

# %% [markdown]
# L_fine-tune makes the options more likely than *anything else one could say*: it pushes *maybe* down. L_task
# only moves probability between the options, and leaves *maybe* alone. They are two lessons from one label:
# how to speak, and what to choose.

# %% [markdown]
# Real options have several tokens. The chain rule then gives, on the logits at each token of option k:
# (softmax(s)_k − p̃_k) · (onehot − p). An option that is scored too high for its p̃ is made less likely, token
# by token.
#
# **Predict.** All scores rise by 5, so every option is more likely. Does L_task fall? Can it ever reach zero?

# %%
# NBVAL_CHECK_OUTPUT
both = torch.ones(1, 2, dtype=torch.bool)
best = question_loss(soft[None, :2].log(), soft[None, :2], both)  # softmax(s) = p̃: as good as can be
entropy = -(soft[:2] * soft[:2].log()).sum()
print("unmoved by a shift:", torch.allclose(question_loss(scores[None] + 5, soft[None, :2], both), task))
print("least value:", round(float(best), 3), "the label's entropy:", round(float(entropy), 3))

# %% [markdown]
# Only differences count, and an uncertain label has a minimum that no model can go below: its entropy. A loss
# that stops falling there has not failed.
#
# A run leaves out options with p̃ below 0.02 (`weak.min_posterior`). They cost tokens, and a loss spent on pushing down
# options that are almost certainly wrong teaches little of what is right.
#
# So a question with a confident label has one option left: L_task is 0 on it, and L_fine-tune alone teaches it. Of the
# pool's 1,872 questions, 138 have two or more left; the 294 pairs have both replies.
#
# And with a certain label, p̃ one-hot, it is the ordinary cross-entropy exactly:

# %%
# NBVAL_CHECK_OUTPUT
torch.manual_seed(0)
some, gold = torch.randn(6, 4), torch.tensor([0, 3, 1, 1, 2, 0])
certain = question_loss(some, F.one_hot(gold, 4).float(), torch.ones(6, 4, dtype=torch.bool))
print("one-hot posterior = hard labels:", torch.allclose(certain, F.cross_entropy(some, gold, reduction="sum")))

# %% [markdown]
# **Pairs.** Two replies; p̃ is the probability that the first is better. Long replies have low sums, so each
# is scored by its *mean* log-probability a token, and Δ = 2 · (mean of first − mean of second). Then
#
# L_task = −p̃ · log σ(Δ) − (1 − p̃) · log σ(−Δ), with gradient **σ(Δ) − p̃** on Δ. (σ is the logistic
# function, softmax for two.)

# %%
delta = torch.linspace(-4, 4, 161)
figure, (axis,) = canvas(1, (6.5, 3.6))
for belief, color, style in ((1.0, MEDICAL, "-"), (0.8, GENERAL, "--"), (0.5, GREY, "-.")):
    losses = [float(pair_loss(d[None] / 2, torch.zeros(1), torch.tensor([belief]))) for d in delta]
    axis.plot(delta, losses, style, color=color, linewidth=2, label=f"p̃ = {belief}")
    if belief < 1:
        at = math.log(belief / (1 - belief))
        axis.plot(at, losses[int((delta - at).abs().argmin())], "o", color=color, markersize=9)
axis.set_xlabel("Δ: how much the model prefers the first reply (nats)")
axis.set_ylabel("L_task of the pair (nats)")
axis.set_title("A certain label pulls for ever, an uncertain one to a minimum", loc="left")
axis.legend(frameon=False)
Image(png(figure), width=560)

# %%
# NBVAL_CHECK_OUTPUT
first, second = torch.tensor([-0.5], requires_grad=True), torch.tensor([-1.0])
loss = pair_loss(first, second, torch.tensor([0.8]))
(gradient,) = torch.autograd.grad(loss, first)
hand = 2 * (torch.sigmoid(2 * (first - second)) - 0.8)  # Δ = 1; the chain rule brings the factor 2
print("loss", round(loss.item(), 3), "gradient", round(gradient.item(), 3), torch.allclose(gradient, hand))

# %% [markdown]
# The dots are where σ(Δ) = p̃. At p̃ = 0.5 the label says nothing, yet the loss asks for something: that the model be
# indifferent. That is one reason why examples without a vote are dropped.

# %% [markdown]
# ## 4 · L_consistency: stay with the teacher
#
# In words: *T² times the KL divergence from the teacher's next-token distribution to the student's, summed over
# the tokens of memory examples, divided by the number of their response tokens.* T is explained below. The
# **teacher** is fixed; the **student** is the model in training.
#
# KL(t ‖ s) = Σ t · (log t − log s): how much more one who expects s is surprised by t, on average, than one who
# expects t.

# %% [markdown]
# **By hand.** Student: logits 2, 1, 0 as before. Teacher: 0, 2, 1. The exponentials are the same three
# numbers, so t = 0.090, 0.665, 0.245, and log t − log s = (0, 2, 1) − (2, 1, 0) = −2, 1, 1.
#
# KL = −2 · 0.090 + 0.665 + 0.245 = 0.730. Its gradient on the student's logits is **p_student − p_teacher**.
#
# **Predict** the three numbers.

# %%
# NBVAL_CHECK_OUTPUT
teacher = torch.tensor([[0.0, 2.0, 1.0]])
state = z[None].clone().requires_grad_()
kl = token_kl(state, teacher, identity)  # identity head again
(kl_gradient,) = torch.autograd.grad(kl.sum(), state)
kl_formula = p - teacher[0].softmax(0)
print("KL", round(kl.item(), 3), "gradient", [round(float(x), 3) for x in kl_formula])
print("they agree:", torch.allclose(kl_gradient[0], kl_formula))

# %%
figure, axes = canvas(2, (9, 3.2))
x = torch.arange(3)
axes[0].bar(x - 0.2, p, 0.38, color=MEDICAL, label="student")
axes[0].bar(x + 0.2, teacher[0].softmax(0), 0.38, color=GENERAL, hatch="//", edgecolor="white", label="teacher")
axes[0].set_xticks(x, WORDS)
axes[0].set_ylabel("probability")
axes[0].set_title("Who says what", loc="left")
axes[0].legend(frameon=False)
bars(axes[1], kl_formula, kl_gradient[0], "L_consistency: p_student − p_teacher")
Image(png(figure), width=720)

# %% [markdown]
# L_fine-tune on the same example would know one right token. The teacher also says how likely every *other* token
# is, and that is most of what there is to retain.
#
# When student and teacher agree there is no loss and no push:

# %%
# NBVAL_CHECK_OUTPUT
same = teacher.clone().requires_grad_()
kl = token_kl(same, teacher, identity)
(push,) = torch.autograd.grad(kl.sum(), same)
print("teacher = student: loss 0:", abs(kl.item()) < 1e-7, "gradient 0:", bool((push == 0).all()))

# %% [markdown]
# **Which tokens?** L_fine-tune must not touch prompts: to learn to write the user's lines is not the aim. Here
# nothing new is taught, so a prompt's tokens count too. They pass through the model anyway, there are many more
# of them, and each one keeps the model close to its teacher at one more position. Only promoted examples' prompts are
# left out: they are medicine, still being learned.

# %% [markdown]
# **Temperature.** Both sides' logits are divided by T first. A large T flattens the distributions, so that
# unlikely tokens count for more; it also shrinks the gradient by T². Hence the factor T² (Hinton and others,
# 2015).
#
# **Predict.** What does the gradient tend to as T grows? (Hint: exp(x) ≈ 1 + x.)

# %%
# NBVAL_CHECK_OUTPUT
for temperature in (1, 2, 10, 1000):
    state = z[None].clone().requires_grad_()
    kl = token_kl(state, teacher, identity, temperature)
    (push,) = torch.autograd.grad(kl.sum(), state)
    print(f"T = {temperature:4}:", [round(float(x), 2) for x in push[0]])
print("limit, a third of the logits' difference:", [round(float(x), 2) for x in (z - teacher[0]) / 3])

# %% [markdown]
# At T = 1 a token that both find unlikely hardly counts. In the limit every logit counts alike: the gradient is the
# logits' difference less its mean (here 0), over the number of tokens, and T²·KL becomes **half the variance of the
# logits' differences** over the vocabulary. *Dark experience replay* (further reading) matches logits too.
# On our base a large T learned far more medicine than T = 1 at an equal general score (`docs/experiments.md` has the
# numbers, for T = 4 and 32). T = ∞ is ICFT's default: it is written `loss.temperature=None`.

# %%
# NBVAL_CHECK_OUTPUT
at_infinity = token_kl(z[None], teacher, identity, float("inf"))
print("half the variance:", torch.allclose(at_infinity, 0.5 * (z - teacher).var(-1, correction=0)))

# %% [markdown]
# That number is larger than a KL at T = 1, so its default weight is small, 0.1. The rest of this lesson stays with
# T = 1 and weight 1, where a loss is in nats.

# %% [markdown]
# ### Cache the state, not the logits
#
# A teacher's predictions must be stored. Caching its logits costs a number for each token of the vocabulary. But all
# logits are head · state, and the adapters leave the head **frozen**: the same matrix for teacher and student,
# today and next week. So the **final hidden state** is enough. Nothing is lost:

# %%
# NBVAL_CHECK_OUTPUT
batch = join_batch([encoder(dict(data.general_memory[0]))], tokenizer.pad_token_id)
with torch.no_grad(), use_adapter(model, None):  # the bare base, as teacher
    whole = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    states = hidden_states(model, batch)[batch["row"], batch["position"]]  # what is cached
again = states @ head.T
print("logits from the cached states:", torch.allclose(again, whole[batch["row"], batch["position"]], atol=1e-4))

# %% [markdown]
# And what does it save? A state has d numbers, the logits V, one for each token of the vocabulary, 4 bytes
# each in fp32. The saving is V / d. **Predict** it for a model with d = 896 and V = 151,936.

# %%
# NBVAL_CHECK_OUTPUT
SIZES = {"Qwen2.5-0.5B": (896, 151_936), "Qwen3-0.6B": (1024, 151_936), "Llama-3.2-1B": (2048, 128_256)}
for name, (d, vocabulary) in SIZES.items():
    print(f"{name:13} state {4 * d:5} bytes, logits {4 * vocabulary:6} bytes, {vocabulary / d:.0f} times less")

# %%
# NBVAL_CHECK_OUTPUT
print("ours holds V / d times less too:", again.numel() / states.numel() == head.shape[0] / head.shape[1] > 5)
answers, tokens = 3000, 8  # a memory of 3,000 answers of 8 tokens
d, vocabulary = SIZES["Qwen2.5-0.5B"]
ours, theirs = (4 * width * tokens * answers / 1e9 for width in (d, vocabulary))
print(f"a whole memory: {ours:.2f} GB against {theirs:.1f} GB")

# %% [markdown]
# It is also why no second model runs during training: the teacher was evaluated once, when the memory was
# refreshed. The price: heads that are trained, or that transform their logits afterwards, cannot be used. The
# package refuses both.

# %% [markdown]
# ## 5 · The sum, on a real batch
#
# One step of training joins trusted examples, weak questions, weak pairs and memory examples. First, posteriors for
# the pool (lesson 02).

# %%
pool = [dict(example) for example in data.pool]
lfs = sample_lfs()
posteriors, _ = label_pool(pool, apply_lfs(lfs, pool), "dawid_skene", lfs)
for example, posterior in zip(pool, posteriors):
    example["posterior"] = posterior
questions = [one for one in pool if one["task"] == "question" and one["posterior"]]
pairs = [one for one in pool if one["task"] == "pair" and one["posterior"]]
weak = [one for one in questions if 0.6 < max(one["posterior"]) < 0.95][:3] + pairs[:2]

# %%
examples = [dict(example) for example in data.trusted.select(range(0, 1600, 400))] + weak
general = [dict(example) for example in data.general_memory.select(range(0, 1400, 100))]
memory = LongTermMemory(size=14)
memory.add(general, encoder, "general")
memory.refresh(model)  # evaluates the teachers and caches their states
step = PlannedStep(new=list(range(len(examples))), memory=list(range(len(memory))))
encoded = [encoder(example) for example in examples]
items = StageBatches([step], examples, encoded, memory.entries, ICFTConfig()).items(step)
print(len(examples), "new examples and", len(memory), "memory examples")


# %% [markdown]
# `measure` runs a batch and returns the three values, and the gradient of each on the fast adapter, all in
# one long vector.

# %%
def measure(items, **weights):
    """{loss: value}, {loss: gradient}; the total is the sum, each loss times its weight (here 1, unless said)."""
    batch, fast = collate(items, normalizers(items), tokenizer.pad_token_id), adapter_tensors(model, "fast")
    losses = icft_losses(hidden_states(model, batch), head, batch, batch["normalizers"])
    losses["total"] = sum(weights.get(name, 1.0) * value for name, value in losses.items())
    gradients = {name: torch.cat([g.flatten() for g in torch.autograd.grad(value, fast, retain_graph=True)])
                 for name, value in losses.items()}
    return {name: value.item() for name, value in losses.items()}, gradients


# %% [markdown]
# The fast adapter is fresh: it changes nothing yet. **Predict**: which of the three losses is zero now?

# %%
# NBVAL_CHECK_OUTPUT
values, gradients = measure(items)
print({name: "zero" if abs(value) < 1e-5 else "above zero" for name, value in values.items()})

# %% [markdown]
# The student still *is* its teacher. L_consistency does not start anything; it responds. So we take four steps
# on the trusted examples, and look again. **Predict**: does total = consistency + task + fine-tune hold for the
# gradients too?

# %%
# NBVAL_CHECK_OUTPUT
fresh = [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]
optimizer = torch.optim.AdamW(adapter_tensors(model, "fast"), lr=2e-3)
for _ in range(4):
    optimizer.zero_grad()
    batch = collate(items[:4], normalizers(items[:4]), tokenizer.pad_token_id)
    icft_losses(hidden_states(model, batch), head, batch, batch["normalizers"])["fine_tune"].backward()
    optimizer.step()
values, gradients = measure(items)
gap = gradients["total"] - gradients["consistency"] - gradients["task"] - gradients["fine_tune"]
print("values:", abs(values["total"] - sum(values[k] for k in ("consistency", "task", "fine_tune"))) < 1e-5)
print("gradients:", bool(gap.norm() < 1e-5 * gradients["total"].norm()))

# %%
three = ["consistency", "task", "fine_tune"]
unit = {name: gradients[name] / gradients[name].norm() for name in three}
table = pd.DataFrame({name: [float(unit[name] @ unit[other]) for other in three] for name in three}, index=three)
table.insert(0, "value", [values[name] for name in three])
table.insert(1, "gradient norm", [float(gradients[name].norm()) for name in three])
table.round(3)

# %% [markdown]
# The right part holds the *cosines* between the gradients: 1 means the same direction, 0 that they have
# nothing to do with each other, below 0 that they are at odds. A loss of small value may still have a large
# gradient: what moves the weights is the second column, never the first.

# %% [markdown]
# **When a weight is zero** its term's gradient must vanish exactly, and nothing else may change: not roughly,
# to the last bit.

# %%
# NBVAL_CHECK_OUTPUT
batch, fast = collate(items, normalizers(items), tokenizer.pad_token_id), adapter_tensors(model, "fast")
losses = icft_losses(hidden_states(model, batch), head, batch, batch["normalizers"])
for name in three:
    at_zero = sum((0.0 if other == name else 1.0) * losses[other] for other in three)
    never = sum(losses[other] for other in three if other != name)
    pushes = [torch.autograd.grad(loss, fast, retain_graph=True) for loss in (at_zero, never)]
    print(f"{name} at 0, as if it had never been there:", all(map(torch.equal, *pushes)))

# %% [markdown]
# **Which loss reaches which example.** The gradient on the hidden states of each kind of example shows it. (The options
# of a question share a row of the batch: each sees the prompt and itself only. `loss.replay_weight`, the weight of
# L_fine-tune on memory examples, is 0 by default.) **Predict** the zeros of this table: trusted, weak question, weak
# pair, memory; times three losses.

# %%
hidden = hidden_states(model, batch).detach().requires_grad_()
losses = icft_losses(hidden, head, batch, batch["normalizers"])
kinds = ["memory" if item.role == "memory" else f"weak {item.weak}" if item.weak else "trusted" for item in items]
reach = pd.DataFrame(0.0, index=list(dict.fromkeys(kinds)), columns=three)
for name in three:
    (gradient,) = torch.autograd.grad(losses[name], hidden, retain_graph=True)
    for kind in reach.index:
        reach.loc[kind, name] = float(gradient[[kind == other for other in kinds]].norm())
reach.round(4)

# %%
# NBVAL_CHECK_OUTPUT
print(reach.map(lambda norm: "yes" if norm > 0 else "-"))
(gradient,) = torch.autograd.grad(sum(losses.values()), hidden)
supervised = torch.zeros(hidden.shape[:2], dtype=torch.bool)
supervised[batch["row"], batch["position"]] = True
print("other prompts and padding get no gradient:", bool((gradient[~supervised] == 0).all()))

# %% [markdown]
# Memory examples get a gradient from the teacher only, since `loss.replay_weight` is 0 by default: the teacher already
# provides the target, so NLL need not provide it again. Their prompts get it too: the last line is about all other
# prompts. Pairs teach what is better, and nothing about how to speak.

# %% [markdown]
# ## 6 · What must never change a loss
#
# How a batch is split, ordered or padded is our convenience. A long step is often run in parts,
# **micro-batches**, whose gradients are added up (**gradient accumulation**), because the whole does not fit.
# **Predict**: two micro-batches, one with 2 tokens of NLL 4, one with 8 tokens of NLL 1. What is the step's
# loss?

# %%
# NBVAL_CHECK_OUTPUT
parts = [[4.0] * 2, [1.0] * 8]
everything = sum(parts, [])
means = [sum(part) / len(part) for part in parts]
print("all tokens, divided by their number:", sum(everything) / len(everything))
print("mean of the micro-batches' means:   ", sum(means) / len(means))
print("sum of the micro-batches' means:    ", sum(means))

# %% [markdown]
# The first is right. The second gives each of the two tokens of the short part four times the weight of one of the
# long part. The third, which nobody divides, is the second times the number of micro-batches. Both were common:
# until October 2024 the best known trainer did the second.
#
# The fix: divide every part by the counts of the *whole step*. And so that little is padded, short sequences are
# **packed**: several are placed in one long row with a block-diagonal attention mask, so that each sees only itself.

# %%
# NBVAL_CHECK_OUTPUT
def in_parts(items, n, whole=True, pack=False):
    """Total gradient of a step in n micro-batches, each divided by the step's counts, or by its own."""
    step, fast, total = normalizers(items), adapter_tensors(model, "fast"), 0
    for part in split_micro_batches(items, n):
        batch = collate(part, step if whole else normalizers(part), tokenizer.pad_token_id, pack)
        losses = icft_losses(hidden_states(model, batch), head, batch, batch["normalizers"])
        total = total + torch.cat([g.flatten() for g in torch.autograd.grad(sum(losses.values()), fast)])
    return total


def gap(other):
    return float((other - gradients["total"]).norm() / gradients["total"].norm())


long = encoder(dict(examples[0], prompt="Now tell me, please, and take your time: " * 4))
long = TrainingItem(long, "new", [0.0], posterior=[0.0])  # no loss uses it: it only makes the others be padded
print("order:", gap(measure(items[::-1])[1]["total"]) < 1e-4)
print("padding:", gap(measure([*items, long])[1]["total"]) < 1e-4)
print("2 or 4 micro-batches:", gap(in_parts(items, 2)) < 1e-4, gap(in_parts(items, 4)) < 1e-4)
print("packed:", gap(in_parts(items, 1, pack=True)) < 1e-4)

# %% [markdown]
# Those counts are response tokens. L_consistency has those of memory examples; L_task those of all other examples;
# L_fine-tune the same without pairs. Those of a weak example are weighted by its posterior. So each loss is a mean over
# response tokens, and they may be added. **Predict**: how far off is the step if each micro-batch uses its own counts?

# %%
wrong = in_parts(items, 4, whole=False)
print(f"summed: off by {gap(wrong):.0%} of the right gradient's length; averaged: by {gap(wrong / 4):.0%}")

# %%
# NBVAL_CHECK_OUTPUT
print("both are off by more than a hundredth:", gap(wrong) > 0.01 and gap(wrong / 4) > 0.01)

# %% [markdown]
# ## 7 · Watch it work, token by token
#
# Two short runs from the same start, on the same examples: trusted ones to learn, 48 general ones to remember.
# In the first the consistency weight is 0, in the second 1. In both we watch the KL of the memory examples; only
# the second trains on it.

# %%
chosen = random.Random(0).sample(range(len(data.general_memory)), 48)
memory = LongTermMemory(size=48)
memory.add([dict(example) for example in data.general_memory.select(chosen)], encoder, "general")
memory.refresh(model)
examples = [dict(example) for example in data.trusted if example["level"] == "easy"]
encoded = [encoder(example) for example in examples]
draw = random.Random(1)
steps = [PlannedStep(new=draw.sample(range(len(examples)), 12), memory=draw.sample(range(48), 8)) for _ in range(30)]
batches = StageBatches(steps, examples, encoded, memory.entries, ICFTConfig())


# %%
def tune(consistency_weight):
    """30 steps from a fresh adapter. Returns the KL of the memory examples at each step."""
    fast, history = adapter_tensors(model, "fast"), []
    with torch.no_grad():
        torch._foreach_copy_(fast, fresh)
    optimizer = torch.optim.AdamW(fast, lr=4e-3)
    for index in range(len(batches)):
        batch = batches[index]
        losses = icft_losses(hidden_states(model, batch), head, batch, batch["normalizers"])
        history.append(losses["consistency"].item())
        optimizer.zero_grad()
        (losses["fine_tune"] + consistency_weight * losses["consistency"]).backward()
        optimizer.step()
    return history


# %% [markdown]
# **Predict** the two curves: where does each start, and where does it end?

# %%
batch = join_batch([entry.encoded for entry in memory.entries], tokenizer.pad_token_id)
teacher = torch.cat([entry.states for entry in memory.entries])
history, after, kl = {}, {}, {}
for name, weight in (("consistency weight 0", 0.0), ("consistency weight 1", 1.0)):
    history[name] = tune(weight)
    with torch.no_grad():
        after[name] = hidden_states(model, batch)[batch["row"], batch["position"]]
    kl[name] = token_kl(after[name], teacher, head)

# %% [markdown]
# To look at single tokens we take, of the responses with four tokens or more, the one that drifted furthest in
# the first run.

# %%
runs = torch.bincount(batch["response"])  # tokens of the first example's prompt, of its response, of the second's …
drift = torch.zeros(len(runs)).index_add(0, batch["response"], kl["consistency weight 0"])
worst = int(drift[1::2].masked_fill(runs[1::2] < 4, -1).argmax())
entry, mine = memory.entries[worst], batch["response"] == 2 * worst + 1
words = [tokenizer.decode([t]).strip() or "·" for t in batch["target"][mine].tolist()]

# %%
figure, axes = canvas(2, (11, 3.8))
looks = {"consistency weight 0": (MEDICAL, "-", -0.2, ""), "consistency weight 1": (GENERAL, "--", 0.2, "//")}
for name, (color, style, shift, hatch) in looks.items():
    axes[0].plot(range(1, 31), history[name], style, color=color, linewidth=2, label=name)
    axes[1].bar(torch.arange(len(words)) + shift, kl[name][mine], 0.38, color=color, hatch=hatch,
                edgecolor="white", label=name)
axes[0].set_xlabel("optimizer step")
axes[0].set_ylabel("KL of memory examples\n(nats per response token)")
axes[0].set_title("Forgetting, as L_consistency sees it", loc="left")
for axis in axes:
    axis.legend(frameon=False)
axes[1].set_xticks(range(len(words)), words, rotation=60)
axes[1].set_ylabel("KL (nats)")
axes[1].set_title("One memory response, token by token", loc="left")
Image(png(figure), width=880)

# %%
# NBVAL_CHECK_OUTPUT
last = {name: sum(values[-10:]) / 10 for name, values in history.items()}
print("both start at the teacher:", all(values[0] < 1e-4 for values in history.values()))
print("without the term the KL ends over twice as high:",
      last["consistency weight 0"] > 2 * last["consistency weight 1"])

# %% [markdown]
# Forgetting is not spread evenly: look which of these tokens drift furthest, and whether any is unchanged. This is what
# the teacher and both students would say at each token of that response, and `p`, how likely each finds the right one:

# %%
table = {"token": words}
for name, states in {"teacher": teacher, "weight 0": after["consistency weight 0"],
                     "weight 1": after["consistency weight 1"]}.items():
    probability = (states[mine] @ head.T).softmax(-1)
    right = probability.gather(1, batch["target"][mine, None])[:, 0]
    table[f"{name}: p"] = [round(x, 2) for x in right.tolist()]
    table[f"{name}: says"] = [tokenizer.decode([t]).strip() for t in probability.argmax(-1).tolist()]
print(entry.example["prompt"])
pd.DataFrame(table)

# %% [markdown]
# **Half the bytes?** States may also be cached in 16 bits (`runtime.teacher_dtype`). This is what it does to the
# gradient of the KL. **Predict**: fp16 has 10 bits for the digits, bf16 has 7 and a larger range. Which is worse?

# %%
# NBVAL_CHECK_OUTPUT
student = after["consistency weight 0"].clone().requires_grad_()


def push_of(cached):
    return torch.autograd.grad(token_kl(student, cached, head).sum(), student)[0]


exact = push_of(teacher)
error = {kind: float((push_of(teacher.to(kind).float()) - exact).norm() / exact.norm())
         for kind in (torch.float16, torch.bfloat16)}
print("bf16 is over 3 times worse than fp16:", error[torch.bfloat16] > 3 * error[torch.float16] > 0)

# %% [markdown]
# ## 8 · Why my fine-tune learned nothing, never stops, or forgot everything
#
# Most fine-tunes that fail do so quietly, and for a few reasons. Each has a check of one line. `batch` is a
# micro-batch, `example` and `one` a training example and its encoding, `weak_example` a weak one, `query` the prompt's
# tokens, `before` and `now` the adapter's weights, `kl_seen` L_consistency at each step, `config` the settings.

# %% [markdown]
# | symptom | likely cause | the check, which should be true |
# |---|---|---|
# | learned nothing | nothing is trainable | `any(t.requires_grad for t in model.parameters())` |
# | learned nothing | another adapter is active | `model.active_adapter == "fast"` |
# | learned nothing | all is masked: no token is supervised | `len(batch["scored"]) > 0` |
# | learned nothing | labels say nothing | `max(weak_example["posterior"]) > min(weak_example["posterior"]) + 0.1` |
# | learned nothing | the weights never moved: rate 0, or no step | `not all(map(torch.equal, before, now))` |
# | learned nothing | another chat template than in training | `one.sequences[0][:len(query)] == query` |
# | never stops | the end of turn is not among the targets | `one.tokens[-1][2] == tokenizer.eos_token_id` |
# | never stops | pad shares the end's id, and masking went by id | `tokenizer.eos_token_id in batch["target"]` |
# | never stops | generation does not know the end | `model.generation_config.eos_token_id == tokenizer.eos_token_id` |
# | forgot everything | no memory examples in the batch | `len(batch["teacher_token"]) > 0` |
# | forgot everything | their loss has no weight | `config.loss.consistency_weight + config.loss.replay_weight > 0` |
# | forgot everything | the teacher is the student: KL is always 0 | `max(kl_seen[1:]) > 0` |
# | forgot everything | steps too large | `config.optim.learning_rate <= 4e-3` |

# %% [markdown]
# The rate's limit is this small model's; ten times less is usual for LoRA on large ones. Now run them all,
# on a set-up that works:

# %%
activate_adapter(model, "fast")
config, before, now = ICFTConfig(), fresh, [tensor.detach() for tensor in adapter_tensors(model, "fast")]
example, one, weak_example = examples[0], encoder(examples[0]), weak[0]
query = encoder.prompt_ids(example)[0]  # the prompt as it is written when the model is queried
batch, kl_seen = batches[0], history["consistency weight 1"]

# %%
# NBVAL_CHECK_OUTPUT
checks = {
    "something is trainable": lambda: any(t.requires_grad for t in model.parameters()),
    "the right adapter is active": lambda: model.active_adapter == "fast",
    "tokens are supervised": lambda: len(batch["scored"]) > 0,
    "labels say something": lambda: max(weak_example["posterior"]) > min(weak_example["posterior"]) + 0.1,
    "weights moved": lambda: not all(map(torch.equal, before, now)),
    "queried as trained": lambda: one.sequences[0][:len(query)] == query,
    "the end is a target": lambda: one.tokens[-1][2] == tokenizer.eos_token_id,
    "the end is not masked": lambda: tokenizer.eos_token_id in batch["target"],
    "generation stops": lambda: model.generation_config.eos_token_id == tokenizer.eos_token_id,
    "memory examples are there": lambda: len(batch["teacher_token"]) > 0,
    "memory examples have weight": lambda: config.loss.consistency_weight + config.loss.replay_weight > 0,
    "the teacher is another model": lambda: max(kl_seen[1:]) > 0,
    "the rate is sane": lambda: config.optim.learning_rate <= 4e-3,
}
pd.Series({name: bool(check()) for name, check in checks.items()}, name="passes").to_frame()

# %% [markdown]
# A check that cannot fail is worth nothing. So break things, one by one. **Predict** which checks fail in
# each case.

# %%
# NBVAL_CHECK_OUTPUT
def failing():
    return [name for name, check in checks.items() if not check()]


model.set_adapter("slow")
print("slow adapter active:      ", failing())
activate_adapter(model, "fast")
for tensor in adapter_tensors(model, "fast"):
    tensor.requires_grad_(False)
print("everything frozen:        ", failing())
activate_adapter(model, "fast")
good, now = now, before
print("rate 0:                   ", failing())
now = good

# %%
# NBVAL_CHECK_OUTPUT
good, one = one, Encoded([one.sequences[0][:-1]], one.tokens[:-1], 1)
print("responses without an end: ", failing())
one, good = good, batch
batch = collate(items[:4], normalizers(items[:4]))
print("trusted examples only:    ", failing())
batch, config = good, ICFTConfig.from_dict({"loss.consistency_weight": 0.0})
print("no consistency, no replay:", failing())
config, kl_seen = ICFTConfig(), [0.0] * 30
print("teacher made the student: ", failing())
kl_seen = history["consistency weight 1"]

# %% [markdown]
# ## What was shown
#
# - Only responses and their end of turn are imitated. Prompts get a gradient from L_consistency only, on memory
#   examples; padding gets none.
# - Each gradient on the logits is *what the model says − what it should say*: p − onehot, softmax(s) − p̃,
#   p_student − p_teacher.
# - L_fine-tune teaches how to speak, L_task what to choose, L_consistency what to keep saying.
# - A teacher fits into one hidden state per token, exactly, because the head is frozen.
# - The total is the sum, for gradients too; a weight of zero removes its term and nothing else.
# - Divide by the counts of the whole step, or accumulation changes what you train.

# %% [markdown]
# ## Exercises
#
# Put your own code in place of `...` and run the cell.
#
# ### 1 · Which way does a soft label push? (easy, 5 minutes)

# %%
# NBVAL_CHECK_OUTPUT
def soft_gradient(logits, posterior):
    """Gradient of the expected NLL on the logits, where each option is one token. Lists of floats, in and out."""
    return ...


answer = soft_gradient([0.0, 1.0, 3.0], [0.2, 0.3, 0.5])
if answer is ...:
    print("Your turn.")
else:
    right = torch.tensor([0.0, 1.0, 3.0]).softmax(0) - torch.tensor([0.2, 0.3, 0.5])
    close = len(answer) == 3 and torch.allclose(torch.tensor(answer), right, atol=1e-4)
    print("Right." if close else f"Not yet: {answer}; do its entries sum to 0?")

# %% [markdown]
# <details><summary>Hint</summary>
#
# What the model says, minus what it should say. `math.exp` is at hand.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def soft_gradient(logits, posterior):
#     total = sum(math.exp(z) for z in logits)
#     return [math.exp(z) / total - q for z, q in zip(logits, posterior)]
# ```
#
# </details>

# %% [markdown]
# ### 2 · The right normalizer (medium, 8 minutes)
#
# A step arrives as micro-batches, each a pair of lists: NLL of its tokens, and their weights (a token of a
# weak option weighs p̃). Return the step's L_fine-tune. It must not depend on how the step was split.

# %%
# NBVAL_CHECK_OUTPUT
def step_loss(micro_batches):
    """micro_batches: [([NLL of each token], [weight of each token]), …] → float."""
    return ...


whole = [([4.0, 2.0, 1.0, 1.0], [1.0, 0.5, 1.0, 0.5])]
split = [([4.0], [1.0]), ([2.0, 1.0, 1.0], [0.5, 1.0, 0.5])]
answers = [step_loss(whole), step_loss(split), step_loss(split[::-1])]
if ... in answers:
    print("Your turn.")
elif max(abs(answer - 6.5 / 3) for answer in answers) < 1e-9:
    print("Right.")
else:
    print(f"Not yet: whole, split, and split in reverse order gave {answers}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Two sums over everything, and one division at the very end.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def step_loss(micro_batches):
#     total = sum(w * nll for nlls, weights in micro_batches for nll, w in zip(nlls, weights))
#     return total / sum(w for _, weights in micro_batches for w in weights)
# ```
#
# </details>

# %% [markdown]
# ### 3 · L_consistency from scratch (medium, 12 minutes)
#
# Write it from hidden states and the head, differentiable in the student. The check compares value *and*
# gradient with the package's, at two temperatures.

# %%
# NBVAL_CHECK_OUTPUT
def consistency(student, teacher, head, temperature):
    """student, teacher: [N, d]; head: [V, d] → scalar: mean over the N tokens of T²·KL(teacher ‖ student)."""
    return ...


def agrees(temperature):
    torch.manual_seed(1)
    student, other, matrix = torch.randn(5, 8, requires_grad=True), torch.randn(5, 8), torch.randn(30, 8)
    mine = consistency(student, other, matrix, temperature)
    theirs = token_kl(student, other, matrix, temperature).mean()
    pushes = [torch.autograd.grad(loss, student)[0] for loss in (mine, theirs)]
    return torch.allclose(mine, theirs, atol=1e-4) and torch.allclose(*pushes, atol=1e-4)


if consistency(torch.zeros(1, 2), torch.zeros(1, 2), torch.eye(2), 1.0) is ...:
    print("Your turn.")
else:
    found = {temperature: agrees(temperature) for temperature in (1.0, 3.0)}
    print("Right." if all(found.values()) else f"Not yet: temperature → agrees: {found}")

# %% [markdown]
# <details><summary>Hint</summary>
#
# `(states @ head.T / temperature).log_softmax(-1)` for both, then Σ t · (log t − log s) over the vocabulary.
# T² comes last.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def consistency(student, teacher, head, temperature):
#     def log_p(states): return (states @ head.T / temperature).log_softmax(-1)
#     kl = torch.nn.functional.kl_div(log_p(student), log_p(teacher), reduction="batchmean", log_target=True)
#     return temperature**2 * kl
# ```
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [Distilling the Knowledge in a Neural Network](https://arxiv.org/abs/1503.02531) (Hinton and others, 2015):
#   where T² comes from, in section 2; short and clear.
# - [Dark Experience for General Continual Learning](https://arxiv.org/abs/2004.07211) (Buzzega and others, 2020):
#   replay that matches stored logits, with no softmax in between.
# - [Data Programming](https://arxiv.org/abs/1605.07723) (Ratner and others, 2016): training on posteriors, the
#   noise-aware loss.
# - [SimPO](https://arxiv.org/abs/2405.14734) (Meng and others, 2024): length-normalized pairs without a
#   reference model; ours is its form with margin 0 and soft labels.
# - [Fixing Gradient Accumulation](https://huggingface.co/blog/gradient_accumulation) (Hugging Face, 2024): the
#   normalizer that was wrong for years.

# %% [markdown]
# Assignment A5, The three losses, builds on this lesson: see the [instructor's
# guide]({{repository}}/blob/main/docs/instructors.md#assignments).

# %%
# NBVAL_CHECK_OUTPUT
peak = peak_memory() / 2**30
print("within the memory declared at the top:", peak < 2)
