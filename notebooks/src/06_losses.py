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
# $$L_\text{total} = \lambda\,L_\text{consistency} + L_\text{task} + L_\text{fine-tune}$$
#
# (The weight $\lambda$ is ours.) You compute each by hand on a vocabulary of three tokens, see which way it pushes,
# write the central one yourself, and let your version run in a real training step.

# %% [markdown]
# **You will be able to**
#
# - write the labels of a conversation;
# - write each loss and its gradient, and check them;
# - derive what L_consistency is at the temperature that runs use, and why a teacher takes one state per token;
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
#
# This lesson compares numbers to many digits, so it computes in fp32 on the CPU even where there is a GPU.

# %%
# {{setup}}

# %%
import copy
import math
import random
import warnings

import pandas as pd
import torch
from IPython.display import HTML, Image

from icft_lite import Encoder, ICFTConfig, LongTermMemory, add_adapters, apply_lfs, label_pool, load_base, sample_bundle
from icft_lite.data.schema import as_response
from icft_lite.modeling.adapters import activate_adapter, adapter_tensors, use_adapter
from icft_lite.modeling.encoding import Encoded
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.losses import (
    fine_tune_loss,
    head_covariance,
    icft_losses,
    pair_loss,
    question_loss,
    token_kl,
    token_logprobs,
)
from icft_lite.modeling.packing import join_batch
from icft_lite.reporting.concepts import losses as diagram
from icft_lite.reporting.lessons.losses import drift_figure, gradient_figure, pair_figure, token_table
from icft_lite.reporting.lessons.peak import print_peak
from icft_lite.reporting.style import png
from icft_lite.training.batches import TrainingItem, collate, memory_item, new_item, normalizers, split_micro_batches
from icft_lite.weak.lfs.samples import sample_lfs

warnings.simplefilter("ignore", FutureWarning)

# %%
base, tokenizer = load_base(device="cpu")
model = add_adapters(base, rank=32, alpha=64, seed=0)  # lesson 04; two of them, fast and slow: lesson 05
head = head_weight(model)  # [V, H], V tokens in the vocabulary, hidden states of H numbers
encoder, data = Encoder(tokenizer), sample_bundle()
print(f"V = {head.shape[0]}, H = {head.shape[1]}")

# %% [markdown]
# ## 1 · What is supervised
#
# A batch is a table of token ids, one row for each example. Short rows are filled up with **padding**. Only some
# tokens are **supervised**: a loss depends on how likely the model found them.
#
# **Predict**: which of these should be supervised: the question, the answer, the token that ends the answer,
# the padding?

# %%
mine = dict(data.trusted[0], id="mine", prompt="Is a systolic pressure <90 low?", responses=["yes"])
shown = [dict(data.trusted[0]), dict(data.general_memory[0]), mine]
encoded = [encoder(example) for example in shown]
HTML(token_table(encoded, tokenizer))

# %% [markdown]
# Blue tokens are supervised, gray ones are only read, dashed ones are ignored; `·` marks a space. `<|end|>` is blue:
# a model that never learns to predict it does not stop.
#
# The state after token $i$ must predict the *next* token, $i + 1$. So the first state that matters is that of the last
# prompt token:

# %%
# NBVAL_CHECK_OUTPUT
batch = join_batch(encoded[:1], tokenizer.pad_token_id)
read = [tokenizer.decode([encoded[0].sequences[0][p]]) for p in batch["position"].tolist()]
pd.DataFrame({"position": batch["position"].tolist(), "has just read": read,
              "must predict": [tokenizer.decode([t]) for t in batch["target"].tolist()]})

# %% [markdown]
# ### Your turn: labels of a chat template
#
# ●●○ difficulty · ●●● importance · 12 minutes
#
# transformers takes `labels`: the token ids, with −100 where nothing is supervised. (It shifts them itself.) Write
# them for a conversation. The *last* reply and its end of turn are supervised; earlier replies, and a line break after
# the end of turn, are not.

# %%
# NBVAL_CHECK_OUTPUT
def chat_labels(messages, tokenizer):
    """messages: a conversation that ends with a reply. Returns (token ids, labels): two lists of the same length."""
    return ...


talk = [dict(role=role, content=text) for role, text in (
    ("user", "Hello."), ("assistant", "Good morning."),
    ("user", "Define nephritis."), ("assistant", "inflammation of the kidney"))]
chatml = copy.deepcopy(tokenizer)  # another template: a line break after each end of turn, as in ChatML
chatml.chat_template = ("{% for m in messages %}{{ m['role'] + '\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
                        "{% if add_generation_prompt %}{{ 'assistant\n' }}{% endif %}")
answers = [chat_labels(talk, one) for one in (tokenizer, chatml)]
labels_right = False
if ... in answers:
    print("Your turn.")
else:
    found = [tokenizer.decode([t for t in labels if t != -100]).lstrip() for _, labels in answers]
    copies = all(len(a) == len(b) and all(y in (-100, x) for x, y in zip(a, b)) for a, b in answers)
    texts = [one.decode(ids) for one, (ids, _) in zip((tokenizer, chatml), answers)]
    whole = all(text.find("Hello.") >= 0 and text.find("Define nephritis.") >= 0 for text in texts)
    labels_right = copies and whole and found == ["inflammation of the kidney<|end|>"] * 2
    print("Right." if labels_right else
          f"Not yet: supervised are {found}; labels are ids or −100: {copies}; the conversation is whole: {whole}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Render the conversation twice with `tokenizer.apply_chat_template(…, tokenize=False)`: without the last message but
# with `add_generation_prompt=True` (the prompt), and whole. Tokenize both with `add_special_tokens=False`. The reply
# starts where the prompt ends, and stops at the next `tokenizer.eos_token_id`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def chat_labels(messages, tokenizer):
#     prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
#     whole = tokenizer.apply_chat_template(messages, tokenize=False)
#     start = len(tokenizer(prompt, add_special_tokens=False)["input_ids"])
#     ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
#     end = ids.index(tokenizer.eos_token_id, start)
#     return ids, [token if start <= at <= end else -100 for at, token in enumerate(ids)]
# ```
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
def package_labels(messages, tokenizer):
    prompt, (reply,) = encoder.chat_format.encode(messages[:-1], [messages[-1]["content"]])
    return prompt + reply, [-100] * len(prompt) + reply


ids, labels = (chat_labels if labels_right else package_labels)(talk, tokenizer)
with torch.no_grad():
    theirs = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss  # computed by transformers
    example = dict(shown[0], prompt=talk[2]["content"], responses=[talk[3]["content"]], history=talk[:2])
    items = [new_item(example, encoder(example), "new")]
    batch = collate(items, normalizers(items))
    ours = icft_losses(hidden_states(model, batch), head, batch, batch["normalizers"])["fine_tune"]
print(f"loss of transformers with these labels {theirs:.3f}, L_fine-tune {ours:.3f}")
print("they agree:", torch.allclose(theirs, ours, atol=1e-5))

# %% [markdown]
# ## 2 · L_fine-tune: imitate
#
# The model gives each token $i$ of its vocabulary a **logit** $z_i$, and softmax a probability,
# $p_i = e^{z_i} / \sum_j e^{z_j}$. L_fine-tune is the mean **negative log-likelihood** (NLL, in nats), $-\log p_y$, of
# supervised tokens $y$.
#
# **By hand.** Tokens *yes*, *no*, *maybe* with logits 2, 1, 0. Then $e^z$ = 7.389, 2.718, 1; their sum is 11.107, so
# $p$ = 0.665, 0.245, 0.090. If *no* is right, NLL = −log 0.245 = 1.408.

# %%
# NBVAL_CHECK_OUTPUT
WORDS = ["yes", "no", "maybe"]
z = torch.tensor([2.0, 1.0, 0.0])
p = z.exp() / z.exp().sum()
print({word: round(float(x), 3) for word, x in zip(WORDS, p)})
print("NLL of 'no':", round(-math.log(p[1]), 3))

# %% [markdown]
# The **gradient** says how the loss changes as a logit grows. Training moves the other way. Since
# $\text{NLL} = \log \sum_j e^{z_j} - z_y$,
#
# $$\frac{\partial\,\text{NLL}}{\partial z_i} = p_i - [i = y]$$
#
# where $[i = y]$ is 1 for the right token and 0 for the others. **Predict** the numbers and their sum.
#
# The package takes hidden states and the output **head**, the matrix that turns a state into logits. With the identity
# as head, states *are* logits.

# %%
# NBVAL_CHECK_OUTPUT
onehot, identity = torch.tensor([0.0, 1.0, 0.0]), torch.eye(3)
by_hand = p - onehot
state = z[None].clone().requires_grad_()
(by_autograd,) = torch.autograd.grad(-state[0].log_softmax(0)[1], state)
logp = token_logprobs(state, identity, torch.tensor([1]))
(by_package,) = torch.autograd.grad(fine_tune_loss(logp, torch.ones(1)), state)
print([round(float(x), 3) for x in by_hand], "sum:", round(abs(float(by_hand.sum())), 3))
print("autograd agrees:", torch.allclose(by_hand, by_autograd[0]))
print("the package agrees:", torch.allclose(by_hand, by_package[0]))

# %% [markdown]
# The right token gains what all others lose, each in proportion to its probability.
#
# **Weak questions** have a posterior $\tilde p$ over options (lesson 02). By default a run takes the most likely option
# as the only target, a *hard label* (`weak.soft_labels=False`). With *soft labels* the loss is the expected NLL,
# $\sum_o \tilde p_o \,\text{NLL}(\text{option } o)$. **Predict** its gradient, where each option is one token.

# %%
# NBVAL_CHECK_OUTPUT
soft = torch.tensor([0.8, 0.2, 0.0])
three = z.expand(3, 3).clone().requires_grad_()  # one response of one token for each option
logp = token_logprobs(three, identity, torch.arange(3))
(soft_push,) = torch.autograd.grad(fine_tune_loss(logp, soft), three)
print([round(x, 3) for x in soft_push.sum(0).tolist()], "p − p̃:", torch.allclose(soft_push.sum(0), p - soft))
print("one-hot p̃ is the hard label:", torch.equal(fine_tune_loss(logp, onehot), -logp[1]))

# %% [markdown]
# ## 3 · L_task: choose among the options
#
# L_task acts on soft labels only, so **it is off in a default run**. The score $\ell_o$ of option $o$ is the
# log-probability of its whole text. L_task is the cross-entropy between posterior and softmax of scores:
#
# $$L_\text{task} = -\sum_o \tilde p_o \log \text{softmax}(\ell)_o,\qquad
# \frac{\partial L_\text{task}}{\partial \ell_o} = \text{softmax}(\ell)_o - \tilde p_o$$
#
# **Predict.** *yes* and *no* are options with $\tilde p$ = 0.8, 0.2; *maybe* is none. What does each loss do to
# *maybe*?

# %%
# NBVAL_CHECK_OUTPUT
logits = z.clone().requires_grad_()
scores = logits.log_softmax(0)[:2]
task = question_loss(scores[None], soft[None, :2], torch.ones(1, 2, dtype=torch.bool))
(task_push,) = torch.autograd.grad(task, logits)
by_formula = torch.cat([p[:2] / p[:2].sum() - soft[:2], torch.zeros(1)])
print([round(x, 3) + 0.0 for x in by_formula.tolist()])
print("autograd agrees:", torch.allclose(by_formula, task_push, atol=1e-6))

# %%
panels = {"L_fine-tune, soft label": ((p - soft).tolist(), soft_push.sum(0).tolist()),
          "L_task, the same label": (by_formula.tolist(), task_push.tolist())}
Image(png(gradient_figure(WORDS, panels, limit=0.25)), width=720)

# %% [markdown]
# L_fine-tune makes the options more likely than *anything else one could say*: it pushes *maybe* down. L_task moves
# probability between the options only. Its minimum is not 0 but the label's entropy, here 0.500: a loss that stops
# falling there has not failed. A question with a single option has L_task = 0.

# %% [markdown]
# **Pairs.** Two replies; $\tilde p$ is the probability that the first is better. With $\bar\ell$ the *mean*
# log-probability per token of a reply, and 2 the setting `loss.pair_beta` (SimPO's $\beta$),
#
# $$\Delta = 2\,(\bar\ell_1 - \bar\ell_2),\qquad L_\text{task} = -\tilde p \log \text{sigmoid}(\Delta)
# - (1 - \tilde p) \log \text{sigmoid}(-\Delta)$$
#
# with the gradient $\text{sigmoid}(\Delta) - \tilde p$. **Predict**: where is the minimum for $\tilde p$ = 1, 0.8 and
# 0.5?

# %%
# NBVAL_CHECK_OUTPUT
delta = torch.arange(-80, 81) / 20
curves = {q: [float(pair_loss(d[None] / 2, torch.zeros(1), torch.tensor([q]))) for d in delta] for q in (1.0, 0.8, 0.5)}
for q, values in curves.items():
    print(f"p̃ = {q}: least at Δ = {float(delta[min(range(161), key=values.__getitem__)]) + 0:.1f}")
Image(png(pair_figure(delta.tolist(), curves)), width=560)

# %% [markdown]
# A certain label pushes without end: 4.0 is only the edge of the figure. At $\tilde p$ = 0.8 the minimum is where
# $\text{sigmoid}(\Delta)$ = 0.8. At 0.5 the label says nothing, yet the loss asks the model to be indifferent. That is
# one reason why examples without a vote are dropped.

# %% [markdown]
# **Why it is off.** ICFT on `tiny`, all topics, 350,000 tokens, validation, one run each (`docs/experiments.md`):
#
# | labels | consistency weight | α | medical | retention | preference |
# |---|---|---|---|---|---|
# | soft, with L_task | 0.4 | 0.8 | 0.482 | 0.938 | 0.63 |
# | hard | 0.4 | 0.8 | 0.533 | 0.949 | 0.58 |
# | hard | 0.8 | 0.9 | 0.541 | 0.969 | 0.66 |
# | hard | 1.2 | 1 | 0.587 | 0.957 | 0.63 |
#
# *α*: the adapter is scaled by it. *preference*: share of pairs whose better reply is more likely; chance 0.5. Soft
# labels and L_task showed no benefit here. One run per row cannot show a difference, but without benefit they are not
# worth their cost.

# %% [markdown]
# ## 4 · L_consistency: stay with the teacher
#
# The **teacher** is fixed (the base or the long-term adapter), the **student** is the model in training. With $p'$ and
# $p$ their probabilities for the next token,
#
# $$\text{KL}(p' \,\|\, p) = \sum_i p'_i\,(\log p'_i - \log p_i)$$
#
# is the expected extra NLL of the student on the teacher's tokens. L_consistency is its mean over tokens of memory
# examples, with a temperature (below).

# %%
Image(png(diagram.draw()), width=960, alt=diagram.draw.__doc__)

# %% [markdown]
# **By hand.** Student: logits 2, 1, 0 as before. Teacher: 0, 2, 1. So $p'$ = 0.090, 0.665, 0.245, and $\log p' - \log
# p$ = −2, 1, 1. KL = −2 · 0.090 + 0.665 + 0.245 = 0.730.
#
# The gradient on the student's logits is $p - p'$. **Predict** the three numbers, and those of a student that equals
# its teacher.

# %%
# NBVAL_CHECK_OUTPUT
teacher = torch.tensor([[0.0, 2.0, 1.0]])
for name, start in (("student", z[None]), ("student = teacher", teacher)):
    state = start.clone().requires_grad_()
    kl = token_kl(state, teacher, identity)  # identity as head again
    (push,) = torch.autograd.grad(kl.sum(), state)
    print(f"{name}: KL {abs(kl.item()):.3f}, gradient", [round(x, 3) + 0.0 for x in push[0].tolist()])
    print("  p − p′:", torch.allclose(push[0], start.softmax(-1)[0] - teacher.softmax(-1)[0]))

# %% [markdown]
# NLL on the same token would know one right answer. The teacher also says how likely every *other* token is.
#
# On `tiny` the prompts of memory examples count as well: nothing new is taught there, and each token keeps the model
# close at one more position. Prompts of promoted examples are left out: they are medicine, still being learned.

# %% [markdown]
# ### Cache the state, not the logits
#
# All logits are head · state, and the head is **frozen**: the same matrix for teacher and student, at every step. So
# the final hidden state of the teacher is enough, and no second model runs during training.
#
# **Predict**: how many times smaller is a state of $H$ = 1,024 numbers than $V$ = 151,936 logits?

# %%
# NBVAL_CHECK_OUTPUT
memory = LongTermMemory(size=14)
memory.add([dict(example) for example in data.general_memory.select(range(0, 1400, 100))], encoder, "general")
memory.refresh(model)  # evaluates the teachers and caches their states
batch = join_batch([memory.entries[0].encoded], tokenizer.pad_token_id)
with torch.no_grad(), use_adapter(model, None):  # the base alone
    whole = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
again = memory.entries[0].states @ head.T
print("states", list(memory.entries[0].states.shape), "logits", list(again.shape))
print("logits from the cached states:", torch.allclose(again, whole[batch["row"], batch["position"]], atol=1e-4))
for name, width, vocabulary in (("Qwen3-0.6B", 1024, 151_936), ("Llama-3.2-1B", 2048, 128_256)):
    print(f"{name}: state {4 * width} bytes, logits {4 * vocabulary} bytes, {vocabulary / width:.0f} times less")

# %% [markdown]
# The price: a head that is trained, or that transforms its logits afterwards, cannot be used. The package refuses both.
#
# ### Temperature
#
# The logits of both sides are divided by $T$ before the softmax, and KL is multiplied by $T^2$, because the gradient
# shrinks by $T^2$ (Hinton and others, 2015). **Predict**: what does the gradient tend to as $T$ grows?

# %%
# NBVAL_CHECK_OUTPUT
for temperature in (1, 2, 10, 1000):
    state = z[None].clone().requires_grad_()
    kl = token_kl(state, teacher, identity, temperature)
    (push,) = torch.autograd.grad(kl.sum(), state)
    print(f"T = {temperature:4}: T²·KL {kl.item():.2f}, gradient", [round(float(x), 2) for x in push[0]])
print("a third of the logits' difference:  ", [round(float(x), 2) for x in (z - teacher[0]) / 3])

# %% [markdown]
# **The limit** $T \to \infty$. Let $z$ and $z'$ be the logits of student and teacher, $\delta = z - z'$, a bar the mean
# and Var, Cov the (co)variance over the $V$ tokens. For large $T$, up to smaller terms,
#
# $$\log\textstyle\sum_j e^{z_j/T} = \log V + \frac{\bar z}{T} + \frac{\text{Var}(z)}{2T^2},\qquad
# p'_i = \frac1V\Big(1 + \frac{z'_i - \bar z'}{T}\Big)$$
#
# $$\log p'_i - \log p_i = -\frac{\delta_i - \bar\delta}{T} + \frac{\text{Var}(z) - \text{Var}(z')}{2T^2}$$
#
# $$T^2\,\text{KL} \to -\text{Cov}(z', \delta) + \frac{\text{Var}(z) - \text{Var}(z')}{2}
# = \frac{\text{Var}(\delta)}{2}$$
#
# since $\text{Var}(z) = \text{Var}(z' + \delta) = \text{Var}(z') + 2\,\text{Cov}(z', \delta) + \text{Var}(\delta)$.

# %% [markdown]
# So the limit **matches centered logits**: the loss is half the mean of $(\delta_i - \bar\delta)^2$, its gradient on
# $z_i$ is $(\delta_i - \bar\delta)/V$. Every token of the vocabulary counts alike; at $T = 1$ unlikely ones hardly
# count. With $\delta = W_\text{head}(h - h')$ and states $h$, $h'$, it even needs no logits:
#
# $$\tfrac12\,(h - h')^\top C\,(h - h'),\qquad C \text{: covariance of the rows of } W_\text{head},\ [H, H]$$

# %%
# NBVAL_CHECK_OUTPUT
delta_z = z - teacher[0]
centered = 0.5 * (delta_z - delta_z.mean()).pow(2).mean()
print(f"centered logits {centered:.3f}; package, T = ∞: {token_kl(z[None], teacher, identity, math.inf).item():.3f}")
h, h_teacher = torch.randn(2, head.shape[1], generator=torch.Generator().manual_seed(0))
apart = h - h_teacher
without_logits = 0.5 * apart @ head_covariance(head) @ apart
print("the same without logits:", torch.allclose(without_logits, 0.5 * (head @ apart).var(correction=0), rtol=1e-4))

# %% [markdown]
# **What runs use**, chosen on validation data, mostly with one run per setting:
#
# | | `tiny` | chat models |
# |---|---|---|
# | `loss.temperature` | `None`: the limit $T \to \infty$ | 1 |
# | `loss.consistency_tokens` | `all` | `response` |
# | `loss.consistency_weight` | 1.2 | 2.5 |
#
# On `tiny`, $T$ = 4 instead of 1 raised the medical score from 0.46 to 0.71 at similar retention
# (`docs/earlier_results.md`).
# In a chat model the first tokens of a reply decide how it answers. Weight 2.5 halved its KL at $T \to \infty$ and was
# taken over for $T$ = 1 (`docs/models.md`).

# %% [markdown]
# At the start of the first stage the student *is* its teacher, so L_consistency and its gradient are 0 until other
# losses move the model. So first take four steps of L_fine-tune on medical examples.

# %%
WEIGHTS, T = {"consistency": 1.2, "task": 1.0, "fine_tune": 1.0}, math.inf  # of runs on tiny
fresh = [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]
trusted = [dict(example) for example in data.trusted.select(range(0, 1600, 400))]
new = [new_item(example, encoder(example), "new") for example in trusted]
optimizer = torch.optim.AdamW(adapter_tensors(model, "fast"), lr=2e-3)
for _ in range(4):
    optimizer.zero_grad()
    batch = collate(new, normalizers(new), tokenizer.pad_token_id)
    icft_losses(hidden_states(model, batch), head, batch, batch["normalizers"])["fine_tune"].backward()
    optimizer.step()

# %% [markdown]
# ### Your turn: token_kl
#
# ●●○ difficulty · ●●● importance · 12 minutes
#
# Write the loss of each token from hidden states and head, for a finite $T$ and for the limit. The check compares value
# and gradient with the package's. Then your function computes L_consistency of memory examples after these four steps,
# and its gradient on the fast adapter.

# %%
# NBVAL_CHECK_OUTPUT
def my_token_kl(student, teacher, head, temperature):
    """student, teacher: states [N, H]; head: [V, H]; temperature: T or math.inf. Returns T²·KL(teacher ‖ student):
    [N]."""
    return ...


torch.manual_seed(1)
some, other, matrix = torch.randn(5, 8, requires_grad=True), torch.randn(5, 8), torch.randn(30, 8)


def agrees(temperature):
    mine, theirs = (kl(some, other, matrix, temperature) for kl in (my_token_kl, token_kl))
    pushes = [torch.autograd.grad(loss.sum(), some)[0] for loss in (mine, theirs)]
    return mine.shape == theirs.shape and all(torch.allclose(*pair, atol=1e-4) for pair in ((mine, theirs), pushes))


kl_right = False
if my_token_kl(some, other, matrix, 1.0) is ...:
    print("Your turn.")
else:
    found = {temperature: agrees(temperature) for temperature in (1.0, 3.0, math.inf)}
    kl_right = all(found.values())
    print("Right." if kl_right else f"Not yet: temperature → agrees: {found}")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Logits are `states @ head.T`. Finite T: `(logits / temperature).log_softmax(-1)` for both, then $\sum_i p'_i (\log
# p'_i - \log p_i)$ over the vocabulary, times T². The limit: half of `var(-1, correction=0)` of the logits'
# differences.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def my_token_kl(student, teacher, head, temperature):
#     mine, other = student @ head.T, teacher @ head.T
#     if math.isinf(temperature):
#         return (mine - other).var(-1, correction=0) / 2
#     log_p, log_teacher = (mine / temperature).log_softmax(-1), (other / temperature).log_softmax(-1)
#     return temperature**2 * (log_teacher.exp() * (log_teacher - log_p)).sum(-1)
# ```
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
kl_of = my_token_kl if kl_right else token_kl
old = [memory_item(entry) for entry in memory.entries]
batch = collate(old, normalizers(old), tokenizer.pad_token_id)
hidden = hidden_states(model, batch)
student = hidden[batch["row"], batch["position"]][batch["teacher_token"]]
yours = kl_of(student, batch["teacher"], head, T).sum() / batch["normalizers"]["consistency"]
theirs = icft_losses(hidden, head, batch, batch["normalizers"], T)["consistency"]
pushes = [torch.autograd.grad(loss, adapter_tensors(model, "fast"), retain_graph=True) for loss in (yours, theirs)]
print(f"L_consistency: {yours.item():.3f}, by the package {theirs.item():.3f}")
print("equal:", torch.allclose(yours, theirs, rtol=1e-4),
      "gradients equal:", all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(*pushes)))

# %% [markdown]
# ## 5 · The sum, on a real batch
#
# One step joins trusted examples, weak questions, weak pairs and memory examples. To see all three losses we use *soft*
# labels here (`weak.soft_labels=True`; a default run has hard ones). First, posteriors for the pool (lesson 02).

# %%
pool = [dict(example) for example in data.pool]
lfs = sample_lfs()
posteriors, _ = label_pool(pool, apply_lfs(lfs, pool), "dawid_skene", lfs)
for example, posterior in zip(pool, posteriors):
    example["posterior"] = posterior
questions = [one for one in pool if one["task"] == "question" and one["posterior"]]
pairs = [one for one in pool if one["task"] == "pair" and one["posterior"]]
weak = [one for one in questions if 0.6 < max(one["posterior"]) < 0.95][:3] + pairs[:2]
items = new + [new_item(example, encoder(example), "new") for example in weak] + old

# %% [markdown]
# `measure` runs a batch and returns the losses, and the gradient of each on the fast adapter in one long vector.
#
# **Predict**: is the gradient of the total the weighted sum of the three gradients? And what is L_task, if the same
# weak examples have hard labels?

# %%
def measure(items):
    """{loss: value}, {loss: gradient}; the total is the weighted sum."""
    batch, fast = collate(items, normalizers(items), tokenizer.pad_token_id), adapter_tensors(model, "fast")
    losses = icft_losses(hidden_states(model, batch), head, batch, batch["normalizers"], T)
    losses["total"] = sum(WEIGHTS[name] * value for name, value in losses.items())
    gradients = {name: torch.cat([g.flatten() for g in torch.autograd.grad(value, fast, retain_graph=True)])
                 for name, value in losses.items()}
    return {name: value.item() for name, value in losses.items()}, gradients


# %%
# NBVAL_CHECK_OUTPUT
values, gradients = measure(items)
gap = gradients["total"] - sum(WEIGHTS[name] * gradients[name] for name in WEIGHTS)
print("gradients add up:", bool(gap.norm() < 1e-5 * gradients["total"].norm()))
hard = [new_item(one, encoder(one), "new") for one in map(as_response, weak)]  # what soft_labels=False makes of them
print({"soft": "L_task > 0" if values["task"] > 0 else "0", "hard": measure(new + hard + old)[0]["task"]})

# %%
unit = {name: gradients[name] / gradients[name].norm() for name in WEIGHTS}
table = pd.DataFrame({name: [float(unit[name] @ unit[other]) for other in unit] for name in unit}, index=list(unit))
table.insert(0, "value", [values[name] for name in unit])
table.insert(1, "gradient norm", [float(gradients[name].norm()) for name in unit])
table.round(3)

# %% [markdown]
# On the right are *cosines* between gradients: 1 is the same direction, 0 orthogonal, below 0 conflict. L_task and
# L_fine-tune point in similar directions: both raise likely options. What moves the weights is the gradient norm, times
# the weight, not the value of a loss.
#
# **Predict** the zeros of the next table: which loss reaches which kind of example?

# %%
# NBVAL_CHECK_OUTPUT
batch = collate(items, normalizers(items), tokenizer.pad_token_id)
hidden = hidden_states(model, batch).detach().requires_grad_()
losses = icft_losses(hidden, head, batch, batch["normalizers"], T)
kinds = ["memory" if item.role == "memory" else f"weak {item.weak}" if item.weak else "trusted" for item in items]
reach = pd.DataFrame("-", index=list(dict.fromkeys(kinds)), columns=list(WEIGHTS))
for name in WEIGHTS:
    (gradient,) = torch.autograd.grad(losses[name], hidden, retain_graph=True)
    for row, kind in enumerate(kinds):
        if gradient[row].norm() > 0:
            reach.loc[kind, name] = "yes"
print(reach)

# %% [markdown]
# Memory examples have a gradient from the teacher only: it already provides the target, so `loss.replay_weight`, their
# weight in L_fine-tune, is 0 by default. A soft pair says which reply is better, and nothing about how to write one; a
# hard pair is an ordinary example with the better reply, so L_fine-tune acts on it.

# %% [markdown]
# ## 6 · What must never change a loss
#
# To save memory, steps often run in **micro-batches** whose gradients are added up (**gradient accumulation**). Two
# of them, with 2 tokens of NLL 4 and 8 tokens of NLL 1: the loss is 16 / 10 = 1.6. The mean of the means is 2.5; until
# October 2024 the `Trainer` of transformers computed it.

# %% [markdown]
# So every part is divided by the counts of the *whole step*. To save padding, short sequences are also **packed** into
# one row with a block-diagonal attention mask: each sees only itself. **Predict**: which of these changes the gradient:
# order, padding, micro-batches, packing?

# %%
# NBVAL_CHECK_OUTPUT
def in_parts(items, n, whole=True, pack=False):
    """Total gradient of a step in n micro-batches, each divided by the step's counts, or by its own."""
    step, fast, total = normalizers(items), adapter_tensors(model, "fast"), 0
    for part in split_micro_batches(items, n):
        batch = collate(part, step if whole else normalizers(part), tokenizer.pad_token_id, pack)
        losses = icft_losses(hidden_states(model, batch), head, batch, batch["normalizers"], T)
        loss = sum(WEIGHTS[name] * value for name, value in losses.items())
        total = total + torch.cat([g.flatten() for g in torch.autograd.grad(loss, fast)])
    return total


def off(other):
    return float((other - gradients["total"]).norm() / gradients["total"].norm())


long = encoder(dict(trusted[0], prompt="Now tell me, please, and take your time: " * 4))
long = TrainingItem(long, "new", [0.0], posterior=[0.0])  # no loss uses it: it only makes the others be padded
print("order:", off(measure(items[::-1])[1]["total"]) < 1e-4)
print("padding:", off(measure([*items, long])[1]["total"]) < 1e-4)
print("2 or 4 micro-batches:", off(in_parts(items, 2)) < 1e-4, off(in_parts(items, 4)) < 1e-4)
print("packed:", off(in_parts(items, 1, pack=True)) < 1e-4)

# %% [markdown]
# L_consistency is divided by the number of tokens with a teacher, L_task by the response tokens of all other examples,
# L_fine-tune by the same without soft pairs; a token of a weak option counts as much as its posterior.
# **Predict**: how far off is a step if each micro-batch uses its own counts?

# %%
# NBVAL_CHECK_OUTPUT
wrong = in_parts(items, 4, whole=False)
print(f"summed: off by {off(wrong):.1f} times the right gradient's length; averaged: by {off(wrong / 4):.1f}")
print("both are off by more than a hundredth:", off(wrong) > 0.01 and off(wrong / 4) > 0.01)

# %% [markdown]
# Averaging overweights short micro-batches.
#
# ## 7 · Watch it work, token by token
#
# Two short runs from the same start: trusted examples to learn, 48 general ones to remember, $T = \infty$. The
# consistency weight is 0 in the first, 1.2 in the second. Both log the distance of memory examples from their teacher;
# only the second trains on it. **Predict** the two curves.

# %%
chosen = random.Random(0).sample(range(len(data.general_memory)), 48)
memory = LongTermMemory(size=48)
memory.add([dict(example) for example in data.general_memory.select(chosen)], encoder, "general")
memory.refresh(model)
examples = [dict(example) for example in data.trusted if example["level"] == "easy"]
easy = [new_item(example, encoder(example), "new") for example in examples]
old = [memory_item(entry) for entry in memory.entries]
draw = random.Random(1)
steps = [draw.sample(easy, 12) + draw.sample(old, 8) for _ in range(30)]
batches = [collate(step, normalizers(step), tokenizer.pad_token_id, packing=True) for step in steps]


# %%
def tune(consistency_weight):
    """30 steps from a fresh adapter. Returns L_consistency, without its weight, at each step."""
    fast, history = adapter_tensors(model, "fast"), []
    with torch.no_grad():
        torch._foreach_copy_(fast, fresh)
    optimizer = torch.optim.AdamW(fast, lr=4e-3)
    for batch in batches:
        losses = icft_losses(hidden_states(model, batch), head, batch, batch["normalizers"], T)
        history.append(losses["consistency"].item())
        optimizer.zero_grad()
        (losses["fine_tune"] + consistency_weight * losses["consistency"]).backward()
        optimizer.step()
    return history


# %%
batch = join_batch([entry.encoded for entry in memory.entries], tokenizer.pad_token_id)
teacher = torch.cat([entry.states for entry in memory.entries])
history, after, distance = {}, {}, {}
for name, weight in (("weight 0", 0.0), ("weight 1.2", 1.2)):
    history[name] = tune(weight)
    with torch.no_grad():
        after[name] = hidden_states(model, batch)[batch["row"], batch["position"]]
    distance[name] = token_kl(after[name], teacher, head, T)
tokens = torch.bincount(batch["response"])  # of the first example's prompt, of its response, of the second's prompt …
moved = torch.zeros(len(tokens)).index_add(0, batch["response"], distance["weight 0"])
worst = int(moved[1::2].masked_fill(tokens[1::2] < 4, -1).argmax())
entry, mine = memory.entries[worst], batch["response"] == 2 * worst + 1

# %%
# NBVAL_CHECK_OUTPUT
words = [tokenizer.decode([t]).strip() or "·" for t in batch["target"][mine].tolist()]
last = {name: sum(run[-10:]) / 10 for name, run in history.items()}
print("at the first step:", {name: round(run[0], 2) for name, run in history.items()})
print("without the term the distance ends over twice as high:", last["weight 0"] > 2 * last["weight 1.2"])
per_token = {name: values[mine].tolist() for name, values in distance.items()}
Image(png(drift_figure(history, words, per_token)), width=880)

# %% [markdown]
# Both start at the teacher. With weight 1.2 the distance rises at first too, until the loss is large enough to push
# back. On the right, of the responses with four tokens or more, the one that moved furthest. What is predicted at each
# of its tokens? `p` is the probability of the right one.

# %%
table = {"token": words}
for name, states in {"teacher": teacher, **after}.items():
    probability = (states[mine] @ head.T).softmax(-1)
    right = probability.gather(1, batch["target"][mine, None])[:, 0]
    table[f"{name}: p"] = [round(x, 2) for x in right.tolist()]
    table[f"{name}: predicts"] = [tokenizer.decode([t]).strip() for t in probability.argmax(-1).tolist()]
print(entry.example["prompt"])
pd.DataFrame(table)

# %% [markdown]
# Each prediction follows the right earlier tokens. Without the term one prediction is *inflammation*, although the
# question is about something else.
#
# **Half the bytes?** States may be cached in 16 bits (`runtime.teacher_dtype`). **Predict**: fp16 has 10 bits for the
# digits, bf16 has 7 and a larger range. Which changes the gradient more?

# %%
# NBVAL_CHECK_OUTPUT
student = after["weight 0"].clone().requires_grad_()


def push_of(cached):
    return torch.autograd.grad(token_kl(student, cached, head, T).sum(), student)[0]


exact = push_of(teacher)
error = {kind: float((push_of(teacher.to(kind).float()) - exact).norm() / exact.norm())
         for kind in (torch.float16, torch.bfloat16)}
print(f"relative error: fp16 {error[torch.float16]:.0e}, bf16 {error[torch.bfloat16]:.0e}")
print("bf16 is over 3 times worse than fp16:", error[torch.bfloat16] > 3 * error[torch.float16] > 0)

# %% [markdown]
# ## 8 · Why my fine-tune learned nothing, never stops, or forgot everything
#
# Most failures raise no error. Each cause has a one-line check. `batch` is a micro-batch,
# `one` an encoded example, `query` its prompt's tokens, `before` and `now` the adapter's weights, `kl_seen`
# L_consistency at each step. (The limit of the learning rate is for `tiny`; large models need a tenth.)
#
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

# %%
# NBVAL_CHECK_OUTPUT
activate_adapter(model, "fast")
config, before, now = ICFTConfig(), fresh, [tensor.detach() for tensor in adapter_tensors(model, "fast")]
example, one, weak_example = examples[0], encoder(examples[0]), weak[0]
query = encoder.prompt_ids(example)[0]  # the prompt as it is written when the model is queried
batch, kl_seen = batches[0], history["weight 1.2"]
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
# A check must fail when something is wrong. So introduce errors, one by one. **Predict** which checks fail in
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
kl_seen = history["weight 1.2"]

# %% [markdown]
# ## What was shown
#
# - Only the reply and its end of turn are imitated.
# - Each gradient is *prediction − target*, at $T \to \infty$ on centered logits.
# - L_consistency needs one cached state per token: the head is frozen.
# - L_task is off by default: no benefit was measured.
# - Every part of a step is divided by the counts of the whole step.

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
# ## Further reading
#
# - [Distilling the Knowledge in a Neural Network](https://arxiv.org/abs/1503.02531) (2015): T² and the limit
# - [Dark Experience Replay](https://arxiv.org/abs/2004.07211) (2020): matches logits
# - [Data Programming](https://arxiv.org/abs/1605.07723) (2016): training on posteriors
# - [SimPO](https://arxiv.org/abs/2405.14734) (2024): pairs without a reference model
# - [Fixing Gradient Accumulation](https://huggingface.co/blog/gradient_accumulation) (2024)
#
# Assignment A5, The three losses, builds on this lesson: see the [instructor's
# guide]({{repository}}/blob/main/docs/instructors.md#assignments).

# %%
# NBVAL_CHECK_OUTPUT
print_peak(2)
