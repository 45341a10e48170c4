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
# # 05 · Memory
#
# ICFT remembers in two ways, each twice over: *examples* to rehearse and *weights* to return to, for the short term
# and for the long. Here you build each part by hand, see what can go wrong with it, and watch a small stage
# promote examples and choose its weights.

# %% [markdown]
# **You will be able to**
#
# - keep a fair sample of a stream of unknown length, and prove that it is fair;
# - say why surprise alone fills a memory with mistakes;
# - write the weights of a moving average in closed form;
# - show that averaging A and B is not averaging B·A, and average two adapters exactly.
#
# **You need** lessons 00 to 04: LoRA's factors A and B above all.

# %% [markdown]
# {{budget}}
#
# Run the cells from top to bottom. Where the text says **predict**, write down a guess first.
#
# The paper names a short-term and a long-term memory and says little of how they work: all that follows is
# *our reading*. Teaching material: **not medical advice**.

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
import random
import warnings

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML, Image, display
from matplotlib import rc_context
from matplotlib.figure import Figure

from icft_lite import Encoder, ICFTConfig, LongTermMemory, ShortTermMemory, apply_lfs, load_base, sample_bundle
from icft_lite.evaluation import Suite, evaluate_suite
from icft_lite.memory import promote, water_fill
from icft_lite.memory.consolidation import ALPHAS, consolidate, ema_step, interpolate
from icft_lite.memory.rehearsal import generate_self_prompts, held_out_filter
from icft_lite.metrics import mean_score
from icft_lite.modeling.adapters import adapter_tensors, add_adapters, delta_svd, use_adapter
from icft_lite.modeling.base import head_weight, hidden_states
from icft_lite.modeling.losses import icft_losses
from icft_lite.reporting.figures import GENERAL, GREY, INK, MEDICAL, RC, png
from icft_lite.training.batches import StageBatches
from icft_lite.training.plan import plan_stage
from icft_lite.utils.hardware import peak_memory
from icft_lite.weak.lfs.samples import sample_lfs
from icft_lite.weak.pool import label_pool
from icft_lite.widgets import memory_inspector, outcome_table, promotion_outcomes
from icft_lite.widgets.table import html_table

warnings.simplefilter("ignore", FutureWarning)


def canvas(panels, size):
    with rc_context(RC):
        figure = Figure(figsize=size)
        return figure, figure.subplots(1, panels, squeeze=False).ravel()


# %% [markdown]
# | | examples | weights |
# |---|---|---|
# | short-term memory | a *ring* of the newest examples | the *fast* adapter, trained by gradient |
# | long-term memory | a *buffer*, bounded, fairly shared | the *slow* adapter, an average of the fast one |
#
# At a stage's end, examples move from ring to buffer (**promotion**) and the slow adapter's weights are chosen
# (**consolidation**).

# %% [markdown]
# ## 1 · The ring
#
# A ring holds the newest examples. When it is full, the oldest leaves. Some of its examples are **replayed**, that is
# trained on again, and each replay is counted. An example that was replayed at least once when it leaves is a
# **candidate** for promotion.
#
# **Predict.** A ring of 3 gets examples 0 to 4; after example 2 has come, all three are replayed. Which are in the
# ring at the end, and which are candidates?

# %%
# NBVAL_CHECK_OUTPUT
ring = ShortTermMemory(size=3)
for example in range(5):
    ring.push(example)
    if example == 2:
        ring.replay(3)
    print(f"after example {example}: ring {list(ring.ring)}, candidates {list(ring.candidates)}")

# %% [markdown]
# Example 2 has its replay, but has not left yet. At a stage's end the ring is emptied, and it becomes a candidate
# too; examples 3 and 4 do not. (A real run needs three replays, the setting `short_term.promote_after`; this lesson
# needs one.)

# %% [markdown]
# ## 2 · A fair sample of a stream
#
# Examples come one by one, their number is unknown, and there is room for k. Each of the n that came should have
# the same chance to be there at the end: k / n. **Reservoir sampling** does it: example number i (from 1) is let in
# with probability k / i, and takes the place of one chosen at random.


# %% tags=["from-scratch"]
def reservoir(stream, k, draw):
    """A fair sample of k from a stream (Algorithm R: Vitter, 1985)."""
    sample = []
    for i, item in enumerate(stream, 1):
        if i <= k:
            sample.append(item)
        elif draw.random() < k / i:
            sample[draw.randrange(k)] = item
    return sample


def always_in(stream, k, draw):
    """The same without the coin: every newcomer is let in."""
    sample = []
    for item in stream:
        if len(sample) < k:
            sample.append(item)
        else:
            sample[draw.randrange(k)] = item
    return sample


# %% [markdown]
# Why is it fair? The newest is there with k / n by design. An older one was there before with k / (n − 1), if
# it was fair so far, and it is thrown out with k/n · 1/k = 1/n. So it stays with
# k/(n−1) · (n−1)/n = k / n.
#
# **Predict.** Without the coin, how much more likely is the last of 20 examples to be there than the first, with
# k = 5?

# %%
n, k, runs = 20, 5, 8000
draw = random.Random(0)
share = {name: np.bincount([i for _ in range(runs) for i in method(range(n), k, draw)], minlength=n) / runs
         for name, method in (("reservoir", reservoir), ("always in", always_in))}
package = np.zeros(n)
for seed in range(1000):  # the package's, explained below
    buffer = LongTermMemory(k, "reservoir", seed=seed, teach_prompts=False)
    # The ids seed the random priorities: with other ids the sample is another one.
    buffer.add([dict(id=f"row {i}", topic="t") for i in range(n)], lambda example: None, "general")
    package[[int(entry.example["id"][4:]) for entry in buffer.entries]] += 1 / 1000
share["the package"] = package

# %%
figure, (axis,) = canvas(1, (7.5, 3.6))
looks = {"reservoir": (GENERAL, "o"), "always in": (MEDICAL, "s"), "the package": (INK, "x")}
for name, (color, marker) in looks.items():
    axis.plot(range(1, n + 1), share[name], marker, color=color, label=name)
axis.axhline(k / n, color=GREY, linewidth=1, label="k / n")
axis.plot(range(1, n + 1), [(1 - 1 / k) ** (n - max(i, k)) for i in range(1, n + 1)], color=MEDICAL, linewidth=1)
axis.set_xlabel("position in the stream")
axis.set_ylabel("share of runs in which it is retained")
axis.set_ylim(0, 1.05)
axis.set_xticks(range(2, n + 1, 2))
axis.legend(frameon=False)
axis.set_title("A coin that gets rarer keeps the sample fair", loc="left")
Image(png(figure), width=620)

# %%
# NBVAL_CHECK_OUTPUT
wide = 5 * (k / n * (1 - k / n) / runs) ** 0.5  # five standard errors
print("reservoir: every example within 5 standard errors of k / n:", bool(abs(share["reservoir"] - k / n).max() < wide))
print("the package too:", bool(abs(package - k / n).max() < wide * 8**0.5))
print("always in: the last is over 20 times more likely than the first:",
      bool(share["always in"][-1] > 20 * share["always in"][0]))

# %% [markdown]
# The package tosses no coins: each example gets a **random priority**, a random number made from its id and the seed,
# and the k examples with the smallest priorities are retained. That is as fair, and repeatable: a run that was
# interrupted draws the same priorities again.

# %% [markdown]
# ## 3 · Surprise, and its trap
#
# A fair sample wastes room on what the model knows well. **Surprise** is the mean −log p of a response's tokens
# under the slow adapter; retain the examples that surprise most, and rehearsal goes where it is needed. But what
# surprises a model most is often *wrong*: a mistaken label is unlike all else.
#
# **Predict.** One example in ten has a wrong label. We retain a tenth of the examples, by surprise. What share of
# these is wrong?

# %%
draw = np.random.default_rng(0)
wrong = draw.random(1000) < 0.1
surprise = np.where(wrong, draw.normal(2.4, 0.6, 1000), draw.normal(1.0, 0.6, 1000))
confidence = np.where(wrong, draw.beta(4, 3, 1000), draw.beta(12, 1.5, 1000))  # wrong labels are less confident
synthetic = [dict(id=str(i), topic="t") for i in range(1000)]


def share_wrong(policy, gate=0.0, reservoir_share=0.0):
    """What share of a memory of 100 is wrong, if examples of too low a confidence are not let in."""
    offered = np.flatnonzero(confidence >= gate)
    buffer = LongTermMemory(100, policy, reservoir_share, teach_prompts=False)
    buffer.add([synthetic[i] for i in offered], lambda example: None, "promoted", surprise[offered])
    return np.mean([wrong[int(entry.example["id"])] for entry in buffer.entries])


bad = {"fair sample": share_wrong("reservoir"), "surprise": share_wrong("surprise"),
       "surprise,\ngate 0.8": share_wrong("surprise", 0.8),
       "surprise, gate 0.8,\na quarter at random": share_wrong("surprise", 0.8, 0.25)}

# %%
figure, (axis,) = canvas(1, (7, 3.3))
bars = axis.bar(list(bad), list(bad.values()), color=[GREY, MEDICAL, GENERAL, GENERAL], width=0.6)
axis.bar_label(bars, [f"{value:.0%}" for value in bad.values()], padding=3)
axis.axhline(wrong.mean(), color=INK, linewidth=1, linestyle="--")
axis.annotate("dashed: share of wrong labels in the stream", (3.35, 0.9), ha="right", fontsize=9)
axis.set_ylabel("share of wrong labels (0–1)")
axis.set_ylim(0, 1)
axis.set_title("Surprise collects mistakes (simulated); the gate helps", loc="left")
Image(png(figure), width=600)

# %%
# NBVAL_CHECK_OUTPUT
fair, greedy, gated, mixed = bad.values()
print("surprise retains over three times as many wrong ones:", bool(greedy > 3 * fair))
print("the gate more than halves that:", bool(greedy > 2 * gated))

# %% [markdown]
# (That the fair sample is above the line is chance.) So ICFT uses three guards: weak examples are promoted only if
# their posterior's largest entry is at least 0.8 (the **gate**); a quarter of each quota is filled at random; and
# quotas, next, prevent any one kind of example from taking it all. (The random quarter hardly matters here. It leaves
# room for examples that do not surprise.)

# %% [markdown]
# ## 4 · Fair shares: water-filling
#
# Topics differ in size, and a memory with 300 places should not be mostly capitals. Picture each topic as a
# column as wide as the others and as tall as it has examples. Pour in 300 units of water: it rises to the same height
# everywhere, except that short columns are full.
#
# **Predict** the quotas for 400, 60, 250 and 30 examples.

# %%
# NBVAL_CHECK_OUTPUT
counts = {"capitals": 400, "animals": 60, "sums": 250, "plurals": 30}
quota = water_fill(counts, 300)
print(quota, "in all", sum(quota.values()))

# %%
figure, (axis,) = canvas(1, (6, 3.4))
axis.bar(list(counts), list(counts.values()), color="#e4e4e4", edgecolor=GREY, width=0.9, label="available examples")
bars = axis.bar(list(quota), list(quota.values()), color=GENERAL, width=0.9, label="retained examples")
axis.bar_label(bars, padding=3)
axis.axhline(max(quota.values()), color=INK, linestyle="--", linewidth=1)
axis.set_ylabel("examples")
axis.legend(frameon=False)
axis.set_title("300 places, filled like water", loc="left")
Image(png(figure), width=520)

# %% [markdown]
# By hand: an equal share would be 75. Animals and plurals cannot use theirs: they take 60 and 30. What is left,
# 210, is halved: 105 each. The package pours twice: first among **sources** (given general examples, examples that the
# base generated itself, promoted examples), then among the topics of each.

# %% [markdown]
# ## 5 · The slow adapter: a moving average
#
# After optimizer step t = 0, 1, 2, … the slow weights φ̄ move a little towards the fast ones φ:
#
# φ̄ ← β_t · φ̄ + (1 − β_t) · φ, with β_t = min(1 − 1/(t+1), β)
#
# **Predict.** What is β_0, and what becomes of φ̄'s old value?

# %% [markdown]
# β_0 = 0: the first step discards the average before it. While 1 − 1/(t+1) is below β, this is the plain mean
# of all φ so far; after that, old ones fade by β a step. Unrolled, φ̄ is a weighted sum of all φ_s with weights
#
# $w_s = (1-\beta_s)\,\beta_{s+1}\cdots\beta_t$, which sum to 1.


# %% tags=["from-scratch"]
def average_weights(t, decay):
    """How much the fast weights after steps 0 … t each count in the slow ones: float array [t + 1]."""
    beta = np.minimum(1 - 1 / np.arange(1, t + 2), decay)
    later = np.cumprod(beta[::-1])[::-1]  # β_s · … · β_t
    return (1 - beta) * np.append(later[1:], 1.0)


# %%
# NBVAL_CHECK_OUTPUT
steps, decay = 60, 1 - 10 / 60
path = torch.randn(steps, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0)
slow = [torch.full((4,), 99.0, dtype=torch.float64)]
for t in range(steps):
    ema_step(slow, [path[t]], t, decay)
weights = torch.tensor(average_weights(steps - 1, decay))
print("the package's steps equal the closed form:", torch.allclose(slow[0], weights @ path))
print("weights sum to 1:", bool((weights.sum() - 1).abs() < 1e-12), "; step 3 is a plain mean:",
      np.allclose(average_weights(3, decay), 0.25))

# %%
noise = np.random.default_rng(1).normal(0, 0.4, steps)
fast_path = 2 * (1 - np.exp(-np.arange(steps) / 15)) + noise
slow_path = [average_weights(t, decay) @ fast_path[:t + 1] for t in range(steps)]
figure, axes = canvas(2, (10, 3.4))
for t, color, style in ((3, GREY, ":"), (20, MEDICAL, "--"), (59, GENERAL, "-")):
    axes[0].plot(average_weights(t, decay), style, color=color, linewidth=2, label=f"after step {t}")
axes[0].set_ylim(0, 0.3)
axes[0].set_xlabel("step s whose fast weights are averaged")
axes[0].set_ylabel("weight w_s (sum 1)")
axes[0].set_title("What the slow adapter remembers", loc="left")
axes[1].plot(fast_path, color=MEDICAL, linewidth=1, alpha=0.8, label="fast")
axes[1].plot(slow_path, "--", color=GENERAL, linewidth=2.5, label="slow")
axes[1].set_xlabel("optimizer step")
axes[1].set_ylabel("one weight (simulated)")
axes[1].set_title("It follows late, and without the noise", loc="left")
for axis in axes:
    axis.legend(frameon=False)
Image(png(figure), width=800)

# %% [markdown]
# β = 1 − 10 / (steps of the stage) by default, so about the last tenth of a stage counts.

# %% [markdown]
# ## 6 · A small stage, for real
#
# Now all of it at work: 60 steps on easy medical examples, most of them trusted and a few weak, with a ring. To see
# what consolidation can recover we rehearse *nothing* general, and use L_fine-tune alone (lesson 06). Weak examples
# are labelled by majority vote, which is seldom confident: the gate will have work.
#
# It runs in fp32 on the CPU, so that numbers do not depend on a GPU. `ICFTConfig` holds a run's settings: here a batch
# size of 26, no examples of the long-term memory (`long_term.share`), and a ring of 48.

# %%
base, tokenizer = load_base(device="cpu")
model = add_adapters(base, rank=32, alpha=64, seed=0)
encoder, data = Encoder(tokenizer), sample_bundle()
config = ICFTConfig.from_dict({
    "optim.batch_size": 26,
    "short_term.size": 48,
    "long_term.share": 0.0,
    "curriculum.order": "random",
})
pool = [dict(example) for example in data.pool if example["level"] == "easy"]
lfs = sample_lfs()
for example, posterior in zip(pool, label_pool(pool, apply_lfs(lfs, pool), "majority_vote", lfs)[0]):
    example["posterior"] = posterior
weak = [example for example in pool if example["posterior"]][::8]
examples = [dict(example) for example in data.trusted if example["level"] == "easy"] + weak
encoded = [encoder(example) for example in examples]
print(len(examples), "new examples, of which weak:", len(weak))

# %% [markdown]
# The memory starts with 60 general examples. Each has two possible **teachers**, the bare base and the long-term
# memory. `refresh` computes how likely they find the stored response, chooses the better one, and caches its hidden
# states (lesson 06 explains why states are enough).

# %%
# NBVAL_CHECK_OUTPUT
memory = LongTermMemory(size=110)
general = random.Random(0).sample(range(len(data.general_memory)), 60)
memory.add([dict(data.general_memory[i]) for i in general], encoder, "general")
print("teachers before the first stage:", memory.refresh(model))

# %% [markdown]
# A tie goes to the base: the slow adapter is fresh and predicts the same. Now the plan of the stage, which also
# fills and replays the ring, and the steps themselves. We store the fast weights half-way, and one layer's whole path,
# for later.

# %%
ring = ShortTermMemory(config.short_term.size)
topics = [example["topic"] for example in examples]
plan, _ = plan_stage(range(len(examples)), encoded, topics, [], ring, config, tokens=10**9, max_steps=60)
batches = StageBatches(plan, examples, encoded, [], config, pad_id=tokenizer.pad_token_id)

# %%
head, fast, slow = head_weight(model), adapter_tensors(model, "fast"), adapter_tensors(model, "slow")
start = [tensor.clone() for tensor in slow]
optimizer, one_layer = torch.optim.AdamW(fast, lr=4e-3), []
for t in range(len(plan)):
    batch = batches[t]
    loss = icft_losses(hidden_states(model, batch), head, batch, batch["normalizers"])["fine_tune"]
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(fast, 1.0)
    optimizer.step()
    ema_step(slow, fast, t, 1 - 10 / len(plan))
    one_layer.append((fast[0].detach().clone(), fast[1].detach().clone()))  # A and B of the first layer
    if t == len(plan) // 2:
        halfway = [tensor.detach().clone() for tensor in fast]
end = [tensor.clone() for tensor in slow]

# %% [markdown]
# ## 7 · Promotion
#
# The ring is emptied. Candidates pass the gate, or not; those that pass are offered to the buffer with their
# surprise; quotas decide. First by hand. **Predict** who gets in: replays at least 1, confidence at least 0.8.
#
# | example | replays | largest posterior | surprise |
# |---|---|---|---|
# | a | 0 | trusted | 3.1 |
# | b | 2 | 0.65 | 2.9 |
# | c | 1 | 0.97 | 0.4 |
# | d | 1 | trusted | 1.7 |

# %% [markdown]
# a was never replayed, b's label is too uncertain; c and d are offered. If there is room for only one, and it is not
# filled at random, d gets it.
#
# Now the real ones:

# %%
# NBVAL_CHECK_OUTPUT
seen = sorted({i for step in plan for i in step.new})
replays = ring.flush()  # {example: replays} of the candidates
candidates, gate = [examples[i] for i in sorted(replays)], config.short_term.promote_confidence
counts = promote(memory, model, candidates, encoder, gate)
print("all candidates accounted for:", counts["candidates"] == len(replays),
      "; the gate rejected some:", counts["gated"] > 0)
print("memory is full:", len(memory) == 110, "; general examples were evicted to make room:", counts["evicted"] > 0)


# %% [markdown]
# Two sources share 110 places, 55 each: five general examples were evicted. A memory is worth looking into.
# `promotion_outcomes` lists every example that it contains or that the stage saw, with its outcome and the reason.

# %%
times = {examples[i]["id"]: n for i, n in replays.items()}
records = promotion_outcomes(memory, [examples[i] for i in seen], times, gate)
table = pd.DataFrame(records)
new = table[table.outcome != "retained"]  # retained: the general examples
new.groupby(["outcome", "topic"]).size().unstack(fill_value=0)

# %%
# NBVAL_CHECK_OUTPUT
promoted, uncertain = (table[table.outcome == name] for name in ("promoted", "label too uncertain"))
print("promoted examples were replayed, with confident labels:", bool((promoted.replays >= 1).all()),
      bool((promoted.confidence >= 0.8).all()))
print("uncertain labels are below 0.8:", bool((uncertain.confidence < 0.8).all()))

# %% [markdown]
# The **inspector** shows them one by one. Choose an outcome, a source and a sort key; the lists work by keyboard.
# Where widgets do not run, the tables below the cell are views of it.

# %%
memory_inspector(records)

# %%
display(outcome_table(records, "promoted", max_rows=5),
        outcome_table(records, "label too uncertain", sort_by="confidence", max_rows=3))

# %% [markdown]
# ## 8 · Averaging A and B is not averaging B·A
#
# An adapter is the change ΔW = B · A (times a scale). To mix two adapters half and half one wants the mean of the
# two *changes*. It is tempting to average the factors instead.
#
# **By hand**, with one number each: B₁A₁ = 1 · 1 and B₂A₂ = (−1) · (−1). **Predict** both averages.

# %% [markdown]
# Both changes are 1, so their mean is 1. The mean of A is 0, of B is 0: the product is **0**. Two adapters that do
# the same thing have averaged to one that does nothing.
#
# In general the averaged factors also multiply *across*: A of one meets B of the other. Here each adapter
# changes one block of a matrix:

# %%
A1, B1 = torch.tensor([[1.0, 1, 1, 0, 0, 0]]), torch.tensor([[1.0, 1, 1, 0, 0, 0]]).T
A2, B2 = A1.flip(1), B1.flip(0)
exact, naive = (B1 @ A1 + B2 @ A2) / 2, (B1 + B2) / 2 @ ((A1 + A2) / 2)
figure, axes = canvas(4, (11, 3))
titles = ["B₁A₁", "B₂A₂", "mean of the products", "product of the means"]
for axis, title, matrix in zip(axes, titles, (B1 @ A1, B2 @ A2, exact, naive)):
    axis.imshow(matrix, cmap="Blues", vmin=0, vmax=1.2)
    for (r, c), value in np.ndenumerate(matrix.numpy()):
        axis.text(c, r, f"{value:g}", ha="center", va="center", fontsize=8, color="white" if value > 0.8 else INK)
    axis.set(title=title, xticks=[], yticks=[])
    axis.grid(False)
Image(png(figure), width=880)

# %% [markdown]
# The product of the means is too weak where it should act, and acts where neither adapter did. With the interpolation
# coefficient α between the two:
#
# mean of products − product of means = **α(1−α) · (B₁ − B₂)(A₁ − A₂)**
#
# It vanishes if the two share a factor, and is small if they are close.

# %%
# NBVAL_CHECK_OUTPUT
generator = torch.Generator().manual_seed(0)
A1, A2 = torch.randn(2, 4, 9, generator=generator)  # rank 4, 9 inputs
B1, B2 = torch.randn(2, 7, 4, generator=generator)  # 7 outputs
alpha = 0.3
products = (1 - alpha) * B1 @ A1 + alpha * B2 @ A2
means = ((1 - alpha) * B1 + alpha * B2) @ ((1 - alpha) * A1 + alpha * A2)
print("closed form:", torch.allclose(products - means, alpha * (1 - alpha) * (B1 - B2) @ (A1 - A2), atol=1e-5))

# %% [markdown]
# **A twin.** Turn the sign of both factors in every layer of our slow adapter: B·A is unchanged, so the twin is
# the same model. Now mix the two, half and half. `interpolate` is the package's: it averages ΔW
# (the setting `consolidation.exact=False` averages A and B). **Predict** the medical score of each mixture.


# %%
def set_slow(tensors):
    with torch.no_grad():
        torch._foreach_copy_(slow, tensors)


general = data.general_validation.select(range(0, len(data.general_validation), 3))
medical = [one for one in data.validation if one["level"] == "easy" and one["task"] == "question"]
suites = {"general": Suite.from_examples(general, encoder, only_correct_option=True),
          "medical": Suite.from_examples(medical, encoder, only_correct_option=True)}


def score():
    """{"general", "medical"}: exact match of the slow adapter on validation questions."""
    scores = evaluate_suite(model, tokenizer, suites, adapter="slow", encoder=encoder)
    return {name: mean_score(scores[name]) for name in scores}


# %%
twin, scores = [-tensor for tensor in end], {"as trained": score()}
set_slow([(a + b) / 2 for a, b in zip(end, twin)])
scores["A and B averaged"] = score()
interpolate(model, end, twin, 0.5, rank=32, scale=2.0)
scores["ΔW averaged"] = score()
set_slow(start)
scores["base"] = score()
pd.DataFrame(scores).T.round(3)

# %%
# NBVAL_CHECK_OUTPUT
print("A and B averaged: back at the base:", scores["A and B averaged"] == scores["base"])
print("ΔW averaged: as trained:", all(abs(scores["ΔW averaged"][name] - value) < 0.03
                                      for name, value in scores["as trained"].items()))

# %% [markdown]
# ### Exactly, and back to rank r
#
# The mean of two changes of rank r has rank up to 2r. It can be written down at once by *stacking*: B₁ beside B₂,
# A₁ above A₂. To stay at rank r, truncate it with the **singular value decomposition** (SVD): a matrix as a sum of
# rank-one pieces, the largest first. Keeping the first r is the best there is (Eckart and Young, 1936). What is
# lost is the **residual**.

# %%
# NBVAL_CHECK_OUTPUT
at = 0  # one layer: half-way through the stage, and at its end
pairs = [(0.5, halfway[at], halfway[at + 1]), (0.5, end[at], end[at + 1])]
mean = sum(weight * 2.0 * B @ A for weight, A, B in pairs)  # scale: alpha / r = 64 / 32
A, B, residual = delta_svd(pairs, rank=64, scale=2.0)
print("rank 2r holds the mean exactly:", residual < 1e-6, torch.allclose(2.0 * B @ A, mean, atol=1e-4))
A, B, residual = delta_svd(pairs, rank=32, scale=2.0)
u, s, v = torch.linalg.svd(mean.double())
print("rank r equals the SVD of the whole matrix:", torch.allclose(
    2.0 * (B @ A).double(), u[:, :32] * s[:32] @ v[:32], atol=1e-4))
print("residual = what was truncated:", abs(residual - float(s[32:].norm() / s.norm())) < 1e-5)

# %%
naive = 2.0 * (pairs[0][2] + pairs[1][2]) / 2 @ ((pairs[0][1] + pairs[1][1]) / 2)
off = float((naive - mean).norm() / mean.norm())
figure, (axis,) = canvas(1, (7, 3.6))
axis.bar(range(1, 33), s[:32], color=GENERAL, label="retained")
axis.bar(range(33, 65), s[32:64], color=MEDICAL, label=f"truncated: residual {residual:.1%} of the norm")
axis.axvline(32.5, color=INK, linestyle="--", linewidth=1)
axis.set_xlabel("rank-one piece, largest first (dashed: r = 32)")
axis.set_ylabel("singular value of the mean ΔW")
axis.legend(frameon=False)
axis.set_title(f"Truncated to rank r: off by {residual:.1%}; averaging A and B: off by {off:.1%}", loc="left")
Image(png(figure), width=600)

# %% [markdown]
# `delta_svd` never forms the whole matrix: it takes a QR decomposition of each stack and the SVD of a small core,
# so a large layer costs little.
#
# And the *moving* average of section 5? It does average A and B: an SVD in every step would be expensive. Successive
# weights are close, and the cross term is a product of two small differences. We stored one layer's path, so let
# us see what that costs:

# %%
weights = average_weights(len(plan) - 1, 1 - 10 / len(plan))
exact = sum(w * B @ A for w, (A, B) in zip(weights, one_layer))
off = float((end[1] @ end[0] - exact).norm() / exact.norm())
print(f"moving average of A and B against that of B·A: off by {off:.1%}")

# %% [markdown]
# ## 9 · Consolidation: a line search over α
#
# The line runs from the long-term memory at the stage's start (α = 0) to the slow adapter now (α = 1), in exact
# ΔW. Along it medical skill grows and general skill falls. Values of α that are tried are **candidates**. ICFT takes
# the one with the best medical score among those whose retention, the general score divided by the base's, is at least
# 1 − `consolidation.max_drop` (the **retention constraint**).
#
# **Predict.** Is the fall as steep at first as it is later? And what is the SVD's residual here? (The start is the
# base: ΔW = 0.)

# %%
candidates = []
for alpha in ALPHAS:
    residual = interpolate(model, start, end, alpha, rank=32, scale=2.0)
    candidates.append(dict(alpha=alpha, **score(), svd_residual=residual))
candidates = pd.DataFrame([*candidates, dict(alpha=0.0, **scores["base"], svd_residual=0.0)]).set_index("alpha")
candidates.round(3)

# %% [markdown]
# Each candidate costs time. So the package searches the same line from its end, and stops once the medical score is
# below that of the best allowed candidate so far. As long as no candidate was allowed, it goes on; if none is in the
# end, the stage is **refused**: the long-term memory stays as it was. (From 0 the general score hardly falls at first,
# then steeply. The residual is 0: α·B·A has rank r still.)

# %%
set_slow(end)
min_general = scores["base"]["general"] * (1 - config.consolidation.max_drop)
record = consolidate(model, start, score, lambda one: one["general"] >= min_general, rank=32, scale=2.0,
                     base_alphas=())
print(f"chosen: {record['alpha']}, after {len(record['candidates'])} candidates")

# %%
figure, (axis,) = canvas(1, (7, 4))
axis.plot(candidates.index, candidates.general, "o-", color=GENERAL, linewidth=2, label="general")
axis.plot(candidates.index, candidates.medical, "s--", color=MEDICAL, linewidth=2, label="medical, easy")
axis.axhline(min_general, color=GENERAL, linestyle=":", linewidth=1.5, label="retention constraint (general)")
axis.axvline(record["alpha"], color=INK, linewidth=1)
axis.annotate(f" chosen: {record['alpha']}", (record["alpha"], 0.5), color=INK)
axis.set_xlabel("α: 0 = long-term memory before, 1 = slow adapter after the stage")
axis.set_ylabel("exact match (0–1), validation")
axis.set_ylim(0, 1.3)
axis.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
axis.legend(frameon=False, loc="upper right")
axis.set_title("A smaller α recovers what was forgotten", loc="left")
Image(png(figure), width=600)

# %%
# NBVAL_CHECK_OUTPUT
general, medical, tried = candidates.general, candidates.medical, record["candidates"]
seen = candidates.loc[[one["alpha"] for one in tried]]
allowed = seen[seen.general >= min_general]
print("general is higher at 0.2 than at 1:", bool(general[0.2] > general[1.0] + 0.05))
print("medical is higher at 1 than at 0:", bool(medical[1.0] > medical[0.0] + 0.05))
print("the chosen candidate is the best allowed one that was tried:", record["refused"] if allowed.empty else
      bool(medical[record["alpha"]] == allowed.medical.max()))
print("its scores are ours:", all(abs(general[one["alpha"]] - one["general"]) < 1e-6 for one in tried))
print("no residual on a line from zero:", bool(candidates.svd_residual.max() < 1e-6))

# %% [markdown]
# Sixty steps, one seed, small suites: read the shape, not the digits. Where nothing general is rehearsed, the retention
# constraint leaves little of the medicine. In a real run both adapters restart from the chosen candidate. If α = 1
# violates the constraint, a run also searches the line between there and the base (`base_alphas`). If α = 1 of the
# last stage is the best, it searches that line beyond 1 (`extrapolation_alphas`, up to 1.2).

# %% [markdown]
# ## 10 · Who teaches now?
#
# The teachers are evaluated again. **Predict**: of the general examples and of the promoted ones, which will the
# long-term memory teach, and which the base?

# %%
memory.refresh(model)
teachers = pd.DataFrame([dict(source=entry.source, teacher=entry.teacher) for entry in memory.entries])
pd.crosstab(teachers.source, teachers.teacher)

# %%
# NBVAL_CHECK_OUTPUT
by_memory = (teachers.teacher == "memory").groupby(teachers.source).mean()
print("promoted examples are taught by the memory more often:",
      bool(by_memory["promoted"] > by_memory["general"]) or record["refused"])

# %% [markdown]
# The base never saw the promoted examples; the memory finds them more likely, little as it has retained. On general
# examples the base is often the better teacher still: it has forgotten nothing. Choosing for each example takes the
# better of both, an idea of CLS-ER (further reading).

# %% [markdown]
# ## 11 · Where does the first memory come from?
#
# The data that a base was trained on is usually not available. But the base can generate examples: given only the
# mark that opens a user's turn, it writes a question (a **self-generated prompt**), and then answers it. This is
# **pseudo-rehearsal** (Robins, 1995). What it writes shows what it knows best.
#
# **Predict.** We do this with the base, and with the fast adapter after its sixty steps. How will their texts differ?

# %%
generated = {}
for name, adapter in (("the base", None), ("after 60 steps of medicine", "fast")):
    with use_adapter(model, adapter):
        generated[name] = generate_self_prompts(model, tokenizer, encoder, 64, seed=0, max_tokens=40)
HTML(html_table(["model", "self-generated prompt", "answer"],
                [[name, one["prompt"], one["responses"][0]] for name, some in generated.items() for one in some[:7]]))

# %% [markdown]
# Only finished questions are listed. The tuned model answers many of them with medicine. All of it is
# escaped before it becomes HTML: a model may say anything. Nonsense from the base does no harm: the aim is to retain
# its *behavior*. One thing must not happen: what the general tests ask about may not enter the memory, in any
# paraphrase. A filter prevents it.

# %%
# NBVAL_CHECK_OUTPUT
blocked, own = held_out_filter([dict(example) for example in data.general_test]), generated["the base"]
print("the tests' own questions are blocked:", all(blocked(example["prompt"]) for example in data.general_test))
filtered = [one for one in own if not blocked(one["prompt"]) and not blocked(one["responses"][0])]
print("some of the base's are, and not all:", 0 < len(filtered) < len(own))

# %% [markdown]
# ## What was shown
#
# - A ring retains the newest examples, a reservoir a fair sample: k / n for each.
# - Surprise alone collects mistakes; a gate, a random part and quotas guard against it.
# - The slow adapter is a weighted sum of all fast ones, its weights known in closed form.
# - Averaging A and B is not averaging B·A: the error is α(1−α)(B₁−B₂)(A₁−A₂). ΔW can be averaged exactly and
#   truncated to rank r by SVD.
# - A smaller interpolation coefficient recovers general skill; each memory example has the teacher that knows it
#   better.

# %% [markdown]
# ## Exercises
#
# Put your own code in place of `...` and run the cell.
#
# ### 1 · Name the outcome of an example (easy, 5 minutes)

# %%
# NBVAL_CHECK_OUTPUT
def outcome(replays, confidence):
    """The first reason why an example is not offered to the long-term memory ("not replayed", or "label too
    uncertain" below a confidence of 0.8), or "offered"."""
    return ...


cases = [(0, 1.0), (1, 0.8), (3, 0.79), (0, 0.5), (2, 1.0)]
expected = ["not replayed", "offered", "label too uncertain", "not replayed", "offered"]
answers = [outcome(*case) for case in cases]
if ... in answers:
    print("Your turn.")
else:
    print("Right." if answers == expected else f"Not yet: {dict(zip(cases, answers))}")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Two `if`s, and their order matters for an example that fails both.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def outcome(replays, confidence):
#     if replays < 1:
#         return "not replayed"
#     return "offered" if confidence >= 0.8 else "label too uncertain"
# ```
#
# </details>

# %% [markdown]
# ### 2 · An exact average without SVD (medium, 8 minutes)
#
# Two adapters of rank r. Give factors A [2r, in] and B [out, 2r] whose product is the weighted sum of theirs.

# %%
# NBVAL_CHECK_OUTPUT
def stack(pairs):
    """pairs: [(weight, A [r, in], B [out, r]), …] → (A, B) with B @ A = Σ weight · B_i @ A_i."""
    return ...


generator = torch.Generator().manual_seed(1)
two = [(w, torch.randn(2, 5, generator=generator), torch.randn(3, 2, generator=generator)) for w in (0.3, 0.9)]
answer = stack(two)
if answer is ...:
    print("Your turn.")
else:
    A, B = answer
    shapes = (tuple(A.shape), tuple(B.shape)) == ((4, 5), (3, 4))
    close = shapes and torch.allclose(B @ A, sum(w * B @ A for w, A, B in two), atol=1e-5)
    print("Right." if close else f"Not yet: A {tuple(A.shape)}, B {tuple(B.shape)}; is the weight in it once?")

# %% [markdown]
# <details><summary>Hint</summary>
#
# `torch.cat` puts the A's on top of each other (dimension 0), the B's side by side (dimension 1). The weight must
# go into one of them.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def stack(pairs):
#     return torch.cat([A for _, A, _ in pairs], 0), torch.cat([w * B for w, _, B in pairs], 1)
# ```
#
# </details>

# %% [markdown]
# ### 3 · The water level (medium, 10 minutes)
#
# Return the greatest whole number L such that no more than `size` examples are retained if each topic retains its first
# L (or all it has). The package gives no topic more than L + 1.

# %%
# NBVAL_CHECK_OUTPUT
def level(counts, size):
    """counts: examples of each topic (list of int) → int; if everything fits, the largest count."""
    return ...


cases = [([400, 60, 250, 30], 300), ([1, 10, 10], 9), ([5, 5], 5), ([3, 3], 100), ([7, 2, 9, 4], 0)]
answers = [level(*case) for case in cases]
if ... in answers:
    print("Your turn.")
else:
    print("Right." if answers == [105, 4, 2, 3, 0] else f"Not yet: {answers}")

# %% [markdown]
# <details><summary>Hint</summary>
#
# The examples retained at level L are `sum(min(count, L) for count in counts)`. Raise L while the next level fits.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def level(counts, size):
#     L = 0
#     while L < max(counts) and sum(min(count, L + 1) for count in counts) <= size:
#         L += 1
#     return L
# ```
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [Random Sampling with a Reservoir](https://dl.acm.org/doi/10.1145/3147.3165) (Vitter, 1985): the algorithm, and
#   faster ones.
# - [CLS-ER](https://arxiv.org/abs/2201.12604) (Arani and others, 2022): fast and slow learners, and a teacher for
#   each example.
# - [SuRe](https://arxiv.org/abs/2511.22367) (Hazard and others, 2025): replay what surprises, with fast and slow
#   adapters.
# - [WiSE-FT](https://arxiv.org/abs/2109.01903) (Wortsman and others, 2022): the line between two sets of weights,
#   with many plots.
# - [Catastrophic forgetting, rehearsal and pseudorehearsal](https://doi.org/10.1080/09540099550039318) (Robins,
#   1995): where the idea of section 11 comes from.
# - [peft on merging](https://huggingface.co/docs/peft/developer_guides/model_merging): more ways to mix adapters.
#   Its `cat` and `svd` mix the changes, its `linear` mixes the factors.

# %% [markdown]
# Assignment A4, Memory, builds on this lesson: see the [instructor's
# guide]({{repository}}/blob/main/docs/instructors.md#assignments).

# %%
# NBVAL_CHECK_OUTPUT
peak = peak_memory() / 2**30
print("within the memory declared at the top:", peak < 2)
