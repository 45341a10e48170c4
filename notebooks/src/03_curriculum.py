# ---
# jupyter:
#   lesson:
#     minutes: {cpu: 2, t4: 1}
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
# # 03 · Curriculum
#
# People learn the alphabet before they read novels. Should a model, too, meet easy examples first? You measure
# what is hard, build stages, watch which examples are drawn when, and then ask the awkward question: does order help
# at all?

# %% [markdown]
# **You will be able to**
#
# - compute four signals of difficulty, and join them though their units differ;
# - build stages in four orders;
# - derive the pacing curve, and say which examples are drawn when and how often;
# - browse a curriculum in an explorer, and test such a thing;
# - test a claim about order fairly, and say what controlled studies found.
#
# **You need** lessons 00 and 02, and basic PyTorch.

# %% [markdown]
# {{budget}}
#
# Run the cells from top to bottom. At **predict**, write down a guess first.

# %% [markdown]
# **What this is not.** The [paper](https://arxiv.org/abs/2502.00832) goes from general knowledge to medicine and
# from easy to hard, without saying how difficulty is measured. The signals, the stages and the pacing below are
# *our reading*, from the sources named. Samples are teaching material, **not medical advice**.

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
from collections import Counter
from math import log, sqrt

import matplotlib
import numpy as np
import pandas as pd
import torch
from IPython.display import Image
from matplotlib.figure import Figure

from icft_lite import (
    Encoder,
    apply_lfs,
    build_curriculum,
    label_pool,
    load_base,
    sample_bundle,
    score_difficulty,
)
from icft_lite.curriculum import PacedSampler, label_entropy, rank_average, round_robin
from icft_lite.curriculum import competence as package_competence
from icft_lite.data.schema import best_response
from icft_lite.modeling.encoding import drop_prompt
from icft_lite.modeling.scoring import score_responses
from icft_lite.reporting.figures import GREY, MEDICAL, RC, STYLES, png
from icft_lite.statistics import mean_interval
from icft_lite.utils.hardware import peak_memory
from icft_lite.weak.lfs.samples import sample_lfs
from icft_lite.widgets import curriculum_explorer, curriculum_table

matplotlib.rcParams.update(RC)
base, tokenizer = load_base()
encoder = Encoder(tokenizer)

# %% [markdown]
# ## 1 · What makes an example hard?
#
# It is not known in advance. There are only **signals**: numbers that tend to be larger for harder examples. The first
# is the **base loss**: how surprised is the model, before any training, by the response it should learn? For each
# token, take minus the logarithm of the probability that the model gave it; then the mean over the response.

# %% [markdown]
# **By hand.** The response has two tokens, to which the model gives probabilities 0.5 and 0.25. **Predict** the
# loss. (Natural logarithms; log 2 = 0.69. The unit is the *nat*.)

# %%
# NBVAL_CHECK_OUTPUT
print(round(-(log(0.5) + log(0.25)) / 2, 2), "nats per token")

# %% [markdown]
# Now with the real base. An **encoder** turns an example into token ids, and says which tokens belong to the response:
# each as (sequence, position, target, response), where the model at `position` must predict `target`.

# %%
def reply(prompt, response):
    """A trusted example: a prompt and the response to imitate."""
    return dict(id=prompt, task="response", context="", history=[], prompt=prompt, responses=[response], label=0,
                posterior=[])


@torch.no_grad()
def surprises(encoded):
    """(token, −log p in nats) of each response token of an encoded example with one response."""
    scores = base(input_ids=torch.tensor(encoded.sequences, device=base.device)).logits.float().log_softmax(-1)
    return [(tokenizer.decode([target]), -scores[sequence, position, target].item())
            for sequence, position, target, _ in encoded.tokens]


# %%
known = reply("Which city is the capital of Bhutan?", "Thimphu")
new = reply("What does the medical term nephritis mean?", "inflammation of the kidney")
losses = {}
for example in (known, new):
    found = surprises(encoder(example))
    loss = losses[example["id"]] = np.mean([nats for _, nats in found])
    print(f"{loss:5.2f} nats per token:", ", ".join(f"{token!r} {nats:.2f}" for token, nats in found))

# %%
# NBVAL_CHECK_OUTPUT
scores = score_responses(base, [encoder(known), encoder(new)])
package = [-(score["logp"] / score["tokens"])[0] for score in scores]
near = 1e-3 if base.dtype == torch.float32 else 0.1  # a GPU computes in 16 bits
print("what the base was taught is easier, by more than a nat:", losses[new["id"]] > losses[known["id"]] + 1)
print("the package computes the same:", np.allclose(package, list(losses.values()), atol=near))

# %% [markdown]
# The last token of each response, the end of turn, counts too: stopping is part of the answer.

# %% [markdown]
# ## 2 · Is it the question or the words?
#
# A response can be surprising merely because its words are rare. **Instruction-following difficulty** (IFD, from
# "Cherry LLM") takes that out: the loss with the prompt, divided by the loss of the same response *without* it.

# %% [markdown]
# IFD near 0: the prompt reveals the answer. Near 1: the prompt does not help, so the model does not know the
# link between the two. That is what it would have to learn. Above 1, the prompt even misleads.
#
# **Predict** the IFD of the capital, and of the medical term.

# %%
def ifd(example):
    """Loss of the response with its prompt ÷ loss without; and both lists of surprises."""
    encoded = encoder(example)
    given, bare = surprises(encoded), surprises(drop_prompt(encoded))
    return np.mean([nats for _, nats in given]) / np.mean([nats for _, nats in bare]), given, bare


# %%
figure = Figure(figsize=(10, 3.4))
for axis, example in zip(figure.subplots(1, 2), (known, new)):
    ratio, given, bare = ifd(example)
    x = np.arange(len(given))
    axis.bar(x - 0.2, [nats for _, nats in bare], 0.38, color=GREY, label="without the prompt")
    axis.bar(x + 0.2, [nats for _, nats in given], 0.38, color=MEDICAL, label="with the prompt")
    names = [token.strip() if not token.startswith("<") else "(end)" for token, _ in given]
    axis.set_xticks(x, names, rotation=30, ha="right")
    axis.set_ylabel("surprise, −log p (nats)")
    axis.set_title(f"{example['prompt']}\nIFD {ratio:.2f}", loc="left", fontsize=10)
    if example is known:
        axis.legend(frameon=False)
Image(png(figure, dpi=110), width=800)

# %%
# NBVAL_CHECK_OUTPUT
print("the prompt reveals the capital, IFD below 0.3:", ifd(known)[0] < 0.3)
print("it helps far less with the medical term:", ifd(new)[0] > ifd(known)[0] + 0.2)

# %% [markdown]
# ## 3 · Two signals without a model
#
# **Length**: longer examples hold more that can go wrong. Crude and free.
#
# **Entropy** of the label's posterior p̃ (lesson 02), −Σ p̃_k log p̃_k: how uncertain is the answer itself? An
# example whose label is a coin toss is hard for everyone. For trusted examples it is 0.
#
# **Predict** the three entropies.

# %%
# NBVAL_CHECK_OUTPUT
for posterior in ([1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4):
    by_hand = sum(-p * log(p) for p in posterior if p > 0)
    print(f"{posterior}: {by_hand:.2f} nats; the package agrees: {abs(label_entropy(posterior) - by_hand) < 1e-9}")

# %% [markdown]
# Zero, log 2 and log 4: certain, two options, four options. Does entropy point at wrong labels? Label the pool with
# the functions of lesson 02, and compare with the gold labels: into which fifth of the questions, by
# entropy, do the wrong labels fall?

# %%
data = sample_bundle()
pool = [dict(example) for example in data.pool]
votes = apply_lfs(sample_lfs(), pool)
for example, posterior in zip(pool, label_pool(pool, votes)[0]):
    example["posterior"] = posterior
questions = [example for example in pool if example["task"] == "question"]
questions.sort(key=lambda example: label_entropy(example["posterior"]))
wrong = [best_response(example) != data.pool_gold[example["id"]] for example in questions]
fifths = [int(part.sum()) for part in np.array_split(np.array(wrong), 5)]
print("wrong labels by fifth, lowest entropy first:", fifths)

# %%
# NBVAL_CHECK_OUTPUT
print("more than 7 of 10 are in the fifth with the highest entropy:", fifths[-1] > 0.7 * sum(fifths))

# %% [markdown]
# So entropy ties weak supervision to the curriculum: what we may have labelled wrongly comes late. (Where the label
# model is fooled, as at the end of lesson 02, entropy is fooled with it.)

# %% [markdown]
# ## 4 · Adding apples to nats
#
# Nats, ratios and tokens cannot be added. **Ranks** can: sort the examples by one signal, give the easiest 0 and the
# hardest 1, the others evenly between; equal values share the mean of their ranks. Then average the ranks of each
# example.

# %% [markdown]
# **By hand**, five examples. A dot: the signal does not apply (IFD is for examples with one response to imitate, not
# for questions with options) and is left out of that example's mean.
#
# | example | loss | rank | length | rank | IFD | rank | difficulty |
# |---|---|---|---|---|---|---|---|
# | a | 0.5 | 0 | 9 | 0.5 | · | · | 0.25 |
# | b | 2.0 | 0.625 | 5 | 0 | 0.4 | 0 | 0.21 |
# | c | 1.0 | 0.25 | 14 | 0.75 | 0.9 | 1 | 0.67 |
# | d | 2.0 | 0.625 | 7 | 0.25 | · | · | **?** |
# | e | 6.0 | 1 | 40 | 1 | · | · | 1 |
#
# **Predict** d's. And why is the rank of b and d in loss 0.625?

# %%
def ranks(values):
    """Ranks from 0 (smallest) to 1 (largest); equal values share the mean of theirs; NaN stays NaN."""
    known = [v for v in values if v == v]  # NaN alone differs from itself
    top = max(1, len(known) - 1)
    found = [(sum(u < v for u in known) + sum(u <= v for u in known) - 1) / 2 / top for v in values]
    return np.array([rank if v == v else np.nan for rank, v in zip(found, values)])


def average(signals):
    """Mean rank of each example over the signals that apply to it."""
    return np.nanmean([ranks(values) for values in signals.values()], axis=0)


# %%
# NBVAL_CHECK_OUTPUT
nan = float("nan")
five = dict(loss=[0.5, 2.0, 1.0, 2.0, 6.0], length=[9, 5, 14, 7, 40], ifd=[nan, 0.4, 0.9, nan, nan])
print("ranks of loss ", ranks(five["loss"]))
print("difficulty    ", average(five).round(2))
print("the package's ", rank_average(five).round(2))

# %% [markdown]
# b and d share positions 2 and 3 of 0 to 4: (2 + 3) / 2 / 4 = 0.625. Example e shows the second reason for ranks: one
# odd length, 40, would have drowned everything else in a plain sum. Ranks only ask *which is harder*. **Predict**:
# what changes if we use 2^loss instead?

# %%
# NBVAL_CHECK_OUTPUT
stretched = {**five, "loss": [2**loss for loss in five["loss"]]}
print("same difficulty:", np.allclose(average(stretched), average(five)))

# %% [markdown]
# ## 5 · Real examples
#
# Every eighth of the trusted examples and of the pool will do. First each signal alone; then the rank average of
# three, as in the default settings. (IFD is one to switch on.)

# %%
examples = [dict(example) for example in data.trusted][::8] + pool[::8]
encoded = [encoder(example) for example in examples]
signals = {name: score_difficulty(examples, base, encoded, (name,)) for name in ("loss", "length", "entropy")}
difficulty = rank_average(signals)  # ranks of ranks are the same ranks
for example, value in zip(examples, difficulty):
    example["difficulty"] = float(value)
print(len(examples), "examples:", dict(Counter(example["level"] for example in examples)))

# %%
# NBVAL_CHECK_OUTPUT
print("in one call:", np.allclose(score_difficulty(examples, base, encoded, tuple(signals)), difficulty))
print("all between 0 and 1:", bool((difficulty >= 0).all() and (difficulty <= 1).all()))

# %% [markdown]
# **Predict.** Do the signals agree on what is hard? A rank correlation of 1 means the same order, 0 no relation,
# −1 the opposite.

# %%
pd.DataFrame(signals).corr("spearman").round(2)

# %% [markdown]
# Hardly. Each measures something else, and "difficulty" is what we decide to call their mean: one reason to doubt
# grand claims about curricula. A second reason: every topic also has a **level**, easy, medium or hard, given by
# the people who wrote it. Compare the two.

# %%
figure = Figure(figsize=(8, 4.6))
axis = figure.subplots()
levels = ("easy", "medium", "hard")
topics = sorted({(levels.index(example["level"]), example["topic"]) for example in examples}, reverse=True)
jitter = np.random.default_rng(0).uniform(-0.25, 0.25, len(examples))
for y, (level, topic) in enumerate(topics):
    mine = [i for i, example in enumerate(examples) if example["topic"] == topic]
    color, marker = STYLES[level]
    axis.plot(difficulty[mine], y + jitter[mine], marker, color=color, markersize=4, alpha=0.6)
    axis.plot(np.mean(difficulty[mine]), y, "|", color=color, markersize=22, markeredgewidth=2.5)
axis.set_yticks(range(len(topics)), [f"{topic.replace('_', ' ')} ({levels[level]})" for level, topic in topics])
axis.set_xlabel("difficulty: mean rank of loss, length, entropy (0–1); bar: mean of the topic")
axis.set_title("Levels given by people, difficulty by measurement", loc="left")
Image(png(figure, dpi=110), width=720)

# %% [markdown]
# They overlap widely. We use both: levels make the **stages**, measured difficulty sorts *within* a stage.

# %% [markdown]
# ## 6 · Stages and orders
#
# Stage 0 is general: nothing is trained, the base is scored and its memory filled. Stages 1 to 3 are medical: easy,
# then medium too, then hard too. Each **adds** a level to those before it
# ([baby steps](https://aclanthology.org/N10-1116/), Spitkovsky and others, 2010). If any example has no level, as in
# your own data perhaps, stages add equal shares by difficulty instead.

# %%
# NBVAL_CHECK_OUTPUT
six = [0.9, 0.4, 0.2, 0.1, 0.3, 0.8]
print("no levels:    ", build_curriculum([""] * 6, six))
given = ["hard", "easy", "medium", "easy", "hard", "medium"]
for order in ("easy_to_hard", "hard_to_easy", "random"):
    print(f"{order:14}", build_curriculum(given, six, order))

# %% [markdown]
# Each list holds the indices of examples, first stage first. Four **orders** can be chosen:
#
# | order | stages | within a stage |
# |---|---|---|
# | easy_to_hard | easy; + medium; + hard | easiest first, paced (section 7) |
# | hard_to_easy | hard; + medium; + easy | hardest first, paced |
# | interleaved | all examples in each | topics take turns |
# | random | all examples in each | shuffled |

# %% [markdown]
# *Interleaved* spreads each topic evenly: a topic's n examples get the positions (½)/n, (1½)/n, … between 0 and 1, and
# all examples are sorted by position. **Predict** the sequence for four examples of topic a and two of b.

# %%
# NBVAL_CHECK_OUTPUT
topics_of = ["a", "a", "a", "a", "b", "b"]
print(" ".join(topics_of[i] for i in round_robin(range(6), topics_of)))

# %% [markdown]
# ## 7 · Pacing
#
# Within a stage, do not rush: at first draw only from the easiest examples, then let in more and more
# (**competence-based pacing**). **Competence** c(t) is the share of the stage's examples, easiest first, that may be
# drawn after a share t of the stage ([Platanios and others](https://arxiv.org/abs/1903.09848), 2019); these examples
# are *available*. How should it grow?

# %% [markdown]
# If new examples came in at a steady rate, each would get less attention than the one before, as it shares the draws
# with all examples already available. So let examples come in at a rate ∝ 1/c:
#
# $$\frac{dc}{dt} = \frac{p}{c} \;\Rightarrow\; c^2 = c_0^2 + 2pt, \qquad
# c(1) = 1 \;\Rightarrow\; c(t) = \sqrt{t\,(1 - c_0^2) + c_0^2}.$$
#
# **Predict**, for c₀ = 0.3: when is half of the stage available? Early, halfway or late?

# %%
def competence(t, start=0.3):
    """The share of a stage's examples that may be drawn once a share t of the stage is done."""
    return min(1.0, sqrt(t * (1 - start**2) + start**2))


# %%
# NBVAL_CHECK_OUTPUT
for t in (0, 0.1, 0.176, 0.5, 1):
    print(f"t {t:5}: c = {competence(t):.3f}, the package: {package_competence(t, 1, 0.3):.3f}")

# %%
figure = Figure(figsize=(6.4, 3.4))
axis = figure.subplots()
t = np.linspace(0, 1, 101)
for start, (color, _) in zip((0.1, 0.3, 0.6), STYLES):
    axis.plot(t, [competence(x, start) for x in t], color=color, linewidth=2, label=f"c₀ = {start}")
axis.plot(t, 0.3 + 0.7 * t, color=GREY, linestyle=(0, (4, 3)), label="steady, from 0.3")
axis.set(xlabel="share of the stage that is done, t", ylabel="competence c(t):\nshare of examples available",
         ylim=(0, 1.05))
axis.set_title("Many examples become available at first, fewer and fewer later", loc="left")
axis.legend(frameon=False)
Image(png(figure, dpi=110), width=560)

# %% [markdown]
# ## 8 · Which examples are drawn when?
#
# The package's `PacedSampler` draws examples in shuffled passes over what competence allows; an example that is newly
# available is mixed into the pass under way. We draw a whole run: three stages, each in proportion to the number of its
# examples. (`train_icft` gives the last stage nine tenths of the tokens: the setting `curriculum.last_stage_share`.)

# %%
all_levels = [example["level"] for example in examples]
all_topics = [example["topic"] for example in examples]


def draw_run(order, passes=6, seed=0):
    """Indices of examples in the order in which a run draws them."""
    stages = build_curriculum(all_levels, difficulty, order)
    drawn, total = [], sum(map(len, stages))
    for number, stage in enumerate(stages):
        sampler = PacedSampler(stage, all_topics, order, 0.3, f"{seed}/{number}")
        steps = round(passes * len(examples) * len(stage) / total)
        drawn += [sampler.draw(step / steps) for step in range(steps)]
    return drawn


# %% [markdown]
# Number the examples by **position**: easy before medium before hard, and by difficulty within. The figure shows how
# often the examples at each position were drawn at each time: 1 is what random drawing gives. **Predict** the four
# pictures. Where will they be white?

# %%
def cells(bounds, width):
    """Edges of cells about `width` wide that end where stages end."""
    parts = [np.linspace(a, b, max(1, round((b - a) / width)), endpoint=False) for a, b in zip(bounds, bounds[1:])]
    return np.concatenate([*parts, bounds[-1:]])


def density(order, drawn):
    """Draws in cells of time and position, as a multiple of random drawing; the edges of both."""
    sizes = [len(stage) for stage in build_curriculum(all_levels, difficulty, order)]
    x, y = cells(np.cumsum([0, *sizes]) / sum(sizes) * len(drawn), 60), cells(edges, 12)
    counts, _, _ = np.histogram2d(np.arange(len(drawn)), [position[i] for i in drawn], bins=(x, y))
    return x, y, counts.T / np.outer(np.diff(y), np.diff(x)) * len(examples)


three = ("easy", "medium", "hard")
by_position = sorted(range(len(examples)), key=lambda i: (three.index(all_levels[i]), difficulty[i]))
position = {i: n for n, i in enumerate(by_position)}
edges = np.cumsum([0, *map(all_levels.count, three)])
runs = {order: draw_run(order) for order in ("easy_to_hard", "hard_to_easy", "interleaved", "random")}

# %%
figure = Figure(figsize=(10, 7))
for axis, (order, drawn) in zip(figure.subplots(2, 2, sharex=True, sharey=True).ravel(), runs.items()):
    shown = axis.pcolormesh(*density(order, drawn), cmap="Blues", vmin=0, vmax=5)
    for bound in edges[1:-1]:
        axis.axhline(bound, color=MEDICAL, linewidth=1)
    axis.set_yticks((edges[:-1] + edges[1:]) / 2, three, rotation=90, va="center")
    axis.set_title(order, loc="left")
    axis.grid(False)
figure.supxlabel("draws so far", fontsize=10)
figure.supylabel("position of the example, easiest at the bottom", fontsize=10)
figure.colorbar(shown, ax=figure.axes, label="how often drawn (1: as at random)", shrink=0.6)
Image(png(figure, dpi=110), width=820)

# %%
# NBVAL_CHECK_OUTPUT
first = {order: [all_levels[i] for i in drawn[:60]] for order, drawn in runs.items()}
print("levels among the first 60 draws:", {order: len(set(found)) for order, found in first.items()})
print("a run is a function of its seed:", draw_run("random") == runs["random"] != draw_run("random", seed=1))

# %% [markdown]
# First picture, white above the steps: a level waits for its stage, and pacing adds examples from below. The
# second is the reverse; the last two are even. What was learned stays in the draw, only thinner. Stages that *drop*
# the levels before them would be white lower right too: the model would forget those, and order would *hurt*.

# %% [markdown]
# ## 9 · Not only when, also how often
#
# Look closely at the first picture: within a stage it is darker at the bottom. Easy examples are available from the
# start, the hardest only at the end. **Predict**: over a stage in which each example is drawn 6 times on average, how
# often is an easy one drawn? How often one of the hardest tenth?

# %%
def often(order, passes=6, n=200):
    """Mean draws of each tenth of a stage's n examples, easiest tenth first."""
    counts = np.zeros(n)
    for seed in range(20):
        sampler = PacedSampler(list(range(n)), ["t"] * n, order, 0.3, seed)
        for step in range(passes * n):
            counts[sampler.draw(step / (passes * n))] += 1 / 20
    return counts.reshape(10, -1).mean(1)


# %%
paced, even = often("easy_to_hard"), often("random")
figure = Figure(figsize=(6.4, 3.2))
axis = figure.subplots()
for values, name, (color, marker) in ((paced, "paced", STYLES[0]), (even, "random", STYLES[1])):
    axis.plot(np.arange(10) + 0.5, values, color=color, marker=marker, linewidth=2, label=name)
axis.set_xticks(range(0, 11, 2), [f"{x / 10:.1f}" for x in range(0, 11, 2)])
axis.set(xlabel="position of the example in its stage (0 easiest, 1 hardest)", ylabel="draws per example",
         ylim=(0, None))
axis.set_title("Pacing reweights the data (means of 20 seeds)", loc="left")
axis.legend(frameon=False)
Image(png(figure, dpi=110), width=560)

# %%
# NBVAL_CHECK_OUTPUT
print("random draws every tenth equally often:", np.allclose(even, 6))
print("paced, the easiest tenth comes more than 4 times as often as the hardest:", paced[0] > 4 * paced[-1])

# %% [markdown]
# So a paced run differs from a random one in *two* ways: order and weights. With entropy among the signals,
# uncertain labels come late **and seldom**, which may help all by itself. Whoever finds that a curriculum helps has
# to ask which of the two did it.

# %% [markdown]
# How long should pacing last? The package can end it before the stage ends (`curriculum.competence_end`); from then on
# every example is available. Measured on our samples (docs/experiments.md): at 350,000 tokens an end at half of the
# stage costs medicine (0.41 in place of 0.47, one seed); at 4,200,000 it gains (0.925 in place of 0.893, three seeds).
# A long run has seen the easy examples often enough: what it lacks are the hardest, drawn once or never.

# %% [markdown]
# ## 10 · Does order help?
#
# What controlled studies found:
#
# - [Wu and others](https://arxiv.org/abs/2012.03107) (2021), thousands of orders on images: marginal gains, random
#   as good; *except* with little training or noisy labels, where easy-to-hard helped.
# - [Yang and others](https://arxiv.org/abs/2408.07888) (2024), medical questions, four models: +1.0 point on
#   average, +1.8 at best; the winning order changes from case to case.
# - [What Makes a Good Curriculum?](https://arxiv.org/abs/2510.19099) (2025), mathematics: no order wins
#   everywhere, forward or backward.
# - [Mordig and others](https://arxiv.org/abs/2603.27226) (2026), deduction: no robust gain over random.
#
# Small gains or none; perhaps more where labels are noisy, and ours are. So every order stays selectable, and we
# measure (lesson 09).

# %% [markdown]
# How does one test such a claim? A toy, but a fair one: points of two classes, a small network. Each label is
# *wrong* with a probability that we know, from 0 up to `noise`; that is a point's difficulty. Every **arm**, a way of
# drawing points, gets the same data, the same start and as many steps.
#
# The arm `shuffled` is the trick: it **shuffles** the draws of the easy_to_hard arm. Same weights, no order.

# %%
def toy(seed, noise, n=600):
    """n points to train on and 2,000 to test on, their classes, labels of the n, each label's chance to be wrong."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    x = torch.randn(n + 2000, 10, generator=generator)
    inner, outer = torch.randn(10, 16, generator=generator) / sqrt(10), torch.randn(16, generator=generator)
    height = torch.tanh(2 * x @ inner) @ outer
    y, doubt = (height > height.median()).long(), rng.random(n) * noise
    return x, y, torch.where(torch.tensor(rng.random(n) < doubt), 1 - y[:n], y[:n]), doubt


def accuracy_after(arm, seed, noise, n=600, draws=1800, batch=20):
    x, y, labels, doubt = toy(seed, noise)
    stage = np.argsort(doubt)[::-1 if arm == "hard_to_easy" else 1].tolist()
    sampler = PacedSampler(stage, ["t"] * n, "easy_to_hard" if arm == "shuffled" else arm, 0.3, seed)
    drawn = [sampler.draw(step / draws) for step in range(draws)]
    if arm == "shuffled":
        np.random.default_rng(seed).shuffle(drawn)
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(10, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for i in np.reshape(drawn, (-1, batch)):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x[i]), labels[i]).backward()
        optimizer.step()
    with torch.no_grad():
        return (net(x[n:]).argmax(1) == y[n:]).float().mean().item()


# %% [markdown]
# Ten seeds. We compare each arm with random **on the same seed**, since seeds differ more than arms do.
#
# **Predict** the gains over random, in points: with clean labels, with noisy ones, and for the shuffled draws.

# %%
arms, gains = ("random", "easy_to_hard", "shuffled", "hard_to_easy"), {}
for setting, noise in (("clean labels", 0.0), ("noisy labels", 0.8)):
    results = {arm: np.array([accuracy_after(arm, seed, noise) for seed in range(10)]) for arm in arms}
    print(f"{setting}: random alone {results['random'].min():.2f} to {results['random'].max():.2f} over seeds")
    for arm in arms[1:]:
        gains[setting, arm] = mean_interval(100 * (results[arm] - results["random"]))

# %%
figure = Figure(figsize=(7, 3.2))
axis = figure.subplots()
for y, ((setting, arm), gain) in enumerate(reversed(gains.items())):
    color, marker = STYLES[0 if setting == "clean labels" else 1]
    axis.plot([gain.low, gain.high], [y, y], color=color, linewidth=3)
    axis.plot(gain.mean, y, marker, color=color, markersize=8)
axis.axvline(0, color=GREY, linewidth=1)
axis.set_yticks(range(6), [f"{arm}, {setting}" for setting, arm in reversed(gains)])
axis.set_xlabel("accuracy gained over random (points); bar: 95 % interval, 10 seeds")
axis.set_title("Order, or weights?", loc="left")
Image(png(figure, dpi=110), width=620)

# %%
# NBVAL_CHECK_OUTPUT
clean, noisy = ({arm: gains[setting, arm].mean for arm in arms[1:]} for setting in ("clean labels", "noisy labels"))
print("clean labels: no gain or loss of 2 points:", all(abs(gain) < 2 for gain in clean.values()))
print("noisy labels: easy_to_hard gains more than 1:", noisy["easy_to_hard"] > 1)
print("hard_to_easy loses more than 1:", noisy["hard_to_easy"] < -1)
print("the same draws in no order gain as much, or less by under a point:",
      noisy["shuffled"] > noisy["easy_to_hard"] - 1)

# %% [markdown]
# With clean labels, nothing: no point is harder than another there. With noisy ones the curriculum gains, but its
# draws in *no* order gain as much or more: here the **weights** did it, trusting uncertain labels less. Going backward
# draws the points with the most uncertain labels most often.
#
# A toy proves little about language models. Take along the manner: equal budgets, several seeds, paired
# differences, an interval, and an arm that separates two explanations.

# %% [markdown]
# ## 11 · A curriculum explorer
#
# What does the hard stage *add*? Never train on what you have not looked at. The explorer filters examples by stage
# (the one that adds them), topic and difficulty, and shows which function voted for what. First as a table, for a page
# that cannot run widgets:

# %%
lf_names = [lf.name for lf in sample_lfs()]
votes_of = {example["id"]: cast for example, cast in zip(pool, votes)}
curriculum = (examples, difficulty, votes_of, lf_names)
curriculum_table(*curriculum, stage="medium", max_rows=4)

# %%
curriculum_explorer(*curriculum)

# %% [markdown]
# (One label in the table above is confident and wrong: leptin comes from fat tissue. `notes`, the one voter there
# that the label model trusts, errs.)
#
# Explore, by mouse or by keyboard: Tab moves between the controls, Space opens a list or presses a button. Of the
# chosen example you see the posterior of each response, and the functions that voted for it. Which examples are hardest
# because they are long, and which because the functions disagree?

# %% [markdown]
# All text from examples is **escaped** (`html.escape`): a prompt is data, and must not become part of the page. And a
# **callback**, what runs when a control changes, is code, and code is tested: change the controls as a reader
# would, and look at what is shown.

# %%
# NBVAL_CHECK_OUTPUT
controls, count, picker, detail = curriculum_explorer(*curriculum).children
(stage, topic, span), (choice, back, on) = controls.children, picker.children
stage.value, topic.value = "easy", "anatomy"
anatomy = all_topics.count("anatomy")
print("as many as there are:", f"{anatomy} examples" in count.value, len(choice.options) == anatomy)
stage.value = "hard"
print("no anatomy among the hard examples:", "0 examples" in count.value and not choice.options)
shown = curriculum_table([{**known, "topic": "evil", "level": "", "prompt": "<script>alert(1)</script>"}], [1.0]).data
print("text is shown, never run:", "&lt;script" in shown and "<script" not in shown)

# %% [markdown]
# ## What was shown
#
# - Four signals of difficulty: loss, IFD, length, entropy. The three we compared hardly agree.
# - Ranks make them addable; the mean rank sorts the examples.
# - Stages by level, pacing within: c(t) adds examples quickly at first, then slowly.
# - Pacing changes how *often* examples are drawn, not only when.
# - Of order alone, careful studies and our toy find little or nothing; with noisy labels, weights help.

# %% [markdown]
# ## Exercises
#
# Put your code in place of `...` and run the cell.
#
# ### 1 · When does an example become available? (easy, 8 minutes)
#
# Turn c(t) around: an example is at share u of its stage, easiest first. After which share t of the stage may it be
# drawn?

# %%
# NBVAL_CHECK_OUTPUT
def available_from(u, start):
    """The t at which competence reaches u; 0.0 for examples that are available from the start."""
    return ...


answer = [available_from(u, start) for start in (0.1, 0.3) for u in (0.05, 0.3, 0.5, 1.0)]
if ... in answer:
    print("Your turn.")
else:
    back = [competence(t, start) for t, start in zip(answer, [0.1] * 4 + [0.3] * 4)]
    good = np.allclose(back, [0.1, 0.3, 0.5, 1, 0.3, 0.3, 0.5, 1]) and min(answer) >= 0
    print("Right." if good else f"Not yet: competence at your times is {np.round(back, 2)}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Solve u² = t (1 − c₀²) + c₀² for t. Below c₀ that would be negative.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def available_from(u, start):
#     return max(0.0, (u**2 - start**2) / (1 - start**2))
# ```
#
# </details>

# %% [markdown]
# ### 2 · Take turns (medium, 15 minutes)
#
# Write *interleaved*: example number j (from 0) of the n examples of its topic gets the position (j + ½) / n; sort by
# position. Where positions are equal, the order does not change.

# %%
# NBVAL_CHECK_OUTPUT
def take_turns(topics):
    """topics: the topic of each example. Returns the indices of the examples, topics spread evenly."""
    return ...


cases = [["a"] * 4 + ["b"] * 2, list("aabbcc"), all_topics]
answer = [take_turns(case) for case in cases]
if any(found is ... for found in answer):
    print("Your turn.")
else:
    good = [list(found) == round_robin(range(len(case)), case) for found, case in zip(answer, cases)]
    print("Right." if all(good) else f"Not yet: right for {sum(good)} of 3 lists; the first became "
          f"{' '.join(cases[0][i] for i in answer[0])}, wanted: a b a a b a.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Two passes: count each topic; then number its examples. `sorted` is stable: it does not change the order of ties.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def take_turns(topics):
#     total, seen, position = Counter(topics), Counter(), []
#     for topic in topics:
#         position.append((seen[topic] + 0.5) / total[topic])
#         seen[topic] += 1
#     return sorted(range(len(topics)), key=position.__getitem__)
# ```
#
# </details>

# %% [markdown]
# ### 3 · The weights that pacing implies (hard, 20 minutes)
#
# A simpler sampler draws at random, with replacement, among the easiest ⌈c(t)·n⌉ examples, t = step / steps. How often
# is each example drawn, in expectation? No simulation: add up probabilities.

# %%
# NBVAL_CHECK_OUTPUT
def expected_draws(n, steps, start):
    """Expected draws of examples 0 (easiest) to n − 1: n numbers that sum to `steps`."""
    return ...


answer = expected_draws(50, 3000, 0.3)
if answer is ...:
    print("Your turn.")
else:
    u = (np.arange(50) + 0.5) / 50  # for many examples and steps there is a closed form:
    smooth = 60 * np.where(u < 0.3, 2 / 1.3, 2 * (1 - u) / (1 - 0.3**2))
    good = np.isclose(sum(answer), 3000) and np.abs(np.array(answer) - smooth).max() < 3
    ends = f"first {answer[0]:.1f}, last {answer[-1]:.1f}"
    print("Right." if good else f"Not yet: they sum to {sum(answer):.0f}; {ends}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# At a step at which m examples are available, each of those is drawn with probability 1/m, the others with 0.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def expected_draws(n, steps, start):
#     draws = np.zeros(n)
#     for step in range(steps):
#         available = int(np.ceil(competence(step / steps, start) * n))
#         draws[:available] += 1 / available
#     return draws
# ```
#
# The closed form 2 (1 − u) / (1 − c₀²) falls in a straight line to 0: the very hardest examples are hardly trained on.
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [Competence-based Curriculum Learning](https://arxiv.org/abs/1903.09848) (Platanios and others, 2019): the
#   pacing curve; section 2 is enough.
# - [Curriculum Learning](https://doi.org/10.1145/1553374.1553380) (Bengio and others, 2009): where the idea
#   entered the field.
# - [Cherry LLM](https://arxiv.org/abs/2308.12032) (Li and others, 2024): IFD, used to choose data rather than to
#   order it.
# - [When Do Curricula Work?](https://arxiv.org/abs/2012.03107) (Wu and others, 2021): the most thorough; read it
#   before you believe in any order.
# - [Human-Inspired Learning Strategies in Medical Question Answering](https://arxiv.org/abs/2408.07888) (Yang and
#   others, 2024): the study nearest to us.

# %% [markdown]
# Assignment A2, Curriculum, builds on this lesson: see the [instructor's
# guide]({{repository}}/blob/main/docs/instructors.md#assignments).

# %%
# NBVAL_CHECK_OUTPUT
peak = (peak_memory() or 0) / 2**30  # not known on Windows
print("within the memory declared at the top:", peak < 2)
