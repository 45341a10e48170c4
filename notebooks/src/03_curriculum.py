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
# Should a model see easy examples before hard ones? You measure what is
# hard, build stages, write the pacing, watch which examples are drawn when, and then ask whether order helps at all.

# %% [markdown]
# **You will be able to**
#
# - compute four signals of difficulty, and combine them although their units differ;
# - build stages in four orders;
# - write competence-based pacing, and say what is drawn when and how often;
# - browse a curriculum in an explorer;
# - test a claim about order fairly, and say what studies found.
#
# **You need** lessons 00 and 02, and basic PyTorch.

# %% [markdown]
# {{budget}}
#
# Run the cells from top to bottom. At **predict**, write down a guess first.

# %% [markdown]
# **What this is not.** The [paper](https://arxiv.org/abs/2502.00832) goes from general knowledge to medicine and from
# easy to hard, without saying how difficulty is measured. The signals, the stages and the pacing below are
# *our reading*, from the sources named. Samples are teaching material, **not medical advice**.

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
from collections import Counter
from math import log, sqrt
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from IPython.display import Image

from icft_lite import (
    Encoder,
    apply_lfs,
    build_curriculum,
    label_pool,
    load_base,
    sample_bundle,
    score_difficulty,
)
from icft_lite.curriculum import PacedSampler, label_entropy, rank_average
from icft_lite.curriculum import competence as package_competence
from icft_lite.data.schema import LEVELS, best_response
from icft_lite.modeling.encoding import drop_prompt
from icft_lite.modeling.scoring import score_responses
from icft_lite.reporting.concepts import curriculum as diagram
from icft_lite.reporting.lessons import curriculum as figures
from icft_lite.reporting.lessons.peak import print_peak
from icft_lite.reporting.style import png
from icft_lite.statistics import mean_interval
from icft_lite.weak.lfs.samples import sample_lfs
from icft_lite.widgets import curriculum_explorer, curriculum_table

base, tokenizer = load_base()
encoder = Encoder(tokenizer)

# %% [markdown]
# ## The lesson in one picture
#
# Signals become a difficulty (sections 1–5). Levels make the stages (section 6). Inside a stage, pacing decides which
# share of its examples may be drawn (sections 7–9). Section 10 asks whether that helps.

# %%
# NBVAL_CHECK_OUTPUT
Image(png(diagram.draw(), dpi=110), width=900, metadata={"alt": diagram.draw.__doc__})

# %% [markdown]
# ## 1 · What makes an example hard?
#
# That is not known in advance. There are only **signals**: numbers that tend to be larger for harder examples. The
# first is the **base loss**: how surprised is the model, before any training, by the response it should learn? (For
# pool examples: the most likely response under the label model.)
#
# $$\text{loss} = -\frac{1}{N} \sum_{i=1}^{N} \log p(y_i \mid x, y_{<i})$$

# %% [markdown]
# $x$: the prompt; $y_1 \dots y_N$: the tokens of the response; $p$: the model's probability. The unit is the *nat*. By
# hand: two tokens with probabilities 0.5 and 0.25 have the loss (0.69 + 1.39) / 2 = 1.04 nats per token.
#
# An **encoder** turns an example into token ids and lists the tokens of the response: the model at `position` must
# predict `target`.

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


# %% [markdown]
# **Predict**: which response surprises the base more, the capital of Bhutan or the meaning of nephritis? The base was
# taught general knowledge, and no medicine.

# %%
# NBVAL_CHECK_OUTPUT
known = reply("Which city is the capital of Bhutan?", "Thimphu")
new = reply("What does the medical term nephritis mean?", "inflammation of the kidney")
losses = [np.mean([nats for _, nats in surprises(encoder(example))]) for example in (known, new)]
print(f"capital {losses[0]:.1f}, nephritis {losses[1]:.1f} nats per token")
scores = score_responses(base, [encoder(known), encoder(new)])
package = [-(score["logp"] / score["tokens"])[0] for score in scores]
near = 1e-3 if base.dtype == torch.float32 else 0.1  # a GPU computes in 16 bits
print("the package computes the same:", np.allclose(package, losses, atol=near))

# %% [markdown]
# ## 2 · Is it the question or the words?
#
# A response can be surprising only because its words are rare. **Instruction-following difficulty** (IFD, from "Cherry
# LLM") removes that: the loss with the prompt, divided by the loss of the same response *without* it.

# %% [markdown]
# IFD near 0: the prompt reveals the answer. Near 1: the prompt does not help, so the model does not know the link
# between the two, and would have to learn it. Above 1, the prompt even misleads.
#
# **Predict** the IFD of the capital, and of the medical term.

# %%
def ifd(example):
    """Loss of the response with its prompt ÷ loss without; and both lists of surprises."""
    encoded = encoder(example)
    given, bare = surprises(encoded), surprises(drop_prompt(encoded))
    return np.mean([nats for _, nats in given]) / np.mean([nats for _, nats in bare]), given, bare


# %%
# NBVAL_CHECK_OUTPUT
found = {example["prompt"]: ifd(example) for example in (known, new)}
for prompt, (ratio, given, bare) in found.items():
    print(f"IFD {ratio:.2f}: {prompt}")
panels = {f"{prompt}\nIFD {ratio:.2f}": (given, bare) for prompt, (ratio, given, bare) in found.items()}
Image(png(figures.surprise_figure(panels), dpi=110), width=800)

# %% [markdown]
# The prompt removes nearly all surprise about the capital: the base knows it. With nephritis it helps far less, and
# makes "kidney" even more surprising: the base does not know this link. The last token, the end of turn, counts too:
# stopping is part of the answer.

# %% [markdown]
# ## 3 · Two signals without a model
#
# **Length**: longer examples contain more that can go wrong. Crude and cheap.
#
# **Entropy** of the label's posterior $\tilde p$ (lesson 02), $-\sum_o \tilde p_o \log \tilde p_o$, a sum over the
# options: how uncertain is the answer itself? For trusted examples it is 0. **Predict** the three entropies below.

# %%
# NBVAL_CHECK_OUTPUT
for posterior in ([1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4):
    by_hand = sum(-p * log(p) for p in posterior if p > 0)
    print(f"{posterior}: {by_hand:.2f} nats; the package agrees: {abs(label_entropy(posterior) - by_hand) < 1e-9}")

# %% [markdown]
# Zero, log 2 and log 4: certain, two options, four options. Does entropy find wrong labels? We label the pool with the
# functions of lesson 02 and sort its questions by entropy. **Predict** how many of the wrong labels are in the fifth
# with the highest entropy. (This cell reads gold labels.)

# %%
# NBVAL_CHECK_OUTPUT
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

# %% [markdown]
# Nearly all: 67 of 68. So entropy connects weak supervision with the curriculum: what may be labelled wrongly comes
# late. The order uses the posterior, also where training uses only its most likely option, as runs do by default. (If
# copies mislead the label model, as at the end of lesson 02, entropy is misled too.)

# %% [markdown]
# ## 4 · Combine nats, ratios and tokens
#
# Numbers with different units cannot be added. **Ranks** can: sort the examples by one signal, give the easiest 0 and
# the hardest 1, the others evenly between. Equal values share the mean of their ranks. Then average the ranks of each
# example.

# %% [markdown]
# A dot: the signal does not apply. (IFD needs exactly one response.)
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
# NBVAL_CHECK_OUTPUT
def ranks(values):
    """Ranks from 0 (smallest) to 1 (largest); equal values share the mean of theirs; NaN stays NaN."""
    known = [v for v in values if v == v]  # only NaN differs from itself
    top = max(1, len(known) - 1)
    found = [(sum(u < v for u in known) + sum(u <= v for u in known) - 1) / 2 / top for v in values]
    return np.array([rank if v == v else np.nan for rank, v in zip(found, values)])


def average(signals):
    """Mean rank of each example over the signals that apply to it."""
    return np.nanmean([ranks(values) for values in signals.values()], axis=0)


nan = float("nan")
five = dict(loss=[0.5, 2.0, 1.0, 2.0, 6.0], length=[9, 5, 14, 7, 40], ifd=[nan, 0.4, 0.9, nan, nan])
print("difficulty   ", average(five).round(2))
print("the package's", rank_average(five).round(2))

# %% [markdown]
# b and d share positions 2 and 3 of 0 to 4: (2 + 3) / 2 / 4 = 0.625. Example e shows a second reason for ranks: in a
# plain sum, its length of 40 would outweigh everything else. Ranks only use *which is harder*. **Predict**: what
# changes if the signal is 2^loss instead of loss?

# %%
# NBVAL_CHECK_OUTPUT
stretched = {**five, "loss": [2**loss for loss in five["loss"]]}
print("same difficulty:", np.allclose(average(stretched), average(five)))

# %% [markdown]
# ## 5 · Real examples
#
# We take every eighth of the trusted examples and of the pool: first each signal alone, then the rank average of the
# three default signals (loss, length, entropy). **Predict**: do the signals agree on what is hard? (Rank correlation: 1
# is the same order, 0 no relation, −1 the opposite.)

# %%
examples = [dict(example) for example in data.trusted][::8] + pool[::8]
encoded = [encoder(example) for example in examples]
signals = {name: score_difficulty(examples, base, encoded, (name,)) for name in ("loss", "length", "entropy")}
difficulty = rank_average(signals)  # ranks of ranks are the same ranks
for example, value in zip(examples, difficulty):
    example["difficulty"] = float(value)
print(len(examples), "examples:", dict(Counter(example["level"] for example in examples)))
pd.DataFrame(signals).corr("spearman").round(2)

# %%
# NBVAL_CHECK_OUTPUT
print("in one call:", np.allclose(score_difficulty(examples, base, encoded, tuple(signals)), difficulty))
print("no two signals correlate by more than 0.5:",
      bool((pd.DataFrame(signals).corr("spearman").to_numpy()[~np.eye(3, dtype=bool)] < 0.5).all()))

# %% [markdown]
# Length and entropy agree somewhat, loss agrees with neither. Each signal measures something else, and we call their
# mean "difficulty": one reason to doubt general claims about curricula. A second reason: every topic also has a
# **level**, easy, medium or hard, given by the people who wrote it. **Predict**: is every hard topic more difficult
# than every easy one?

# %%
# NBVAL_CHECK_OUTPUT
means = {level: np.mean([e["difficulty"] for e in examples if e["level"] == level]) for level in LEVELS}
print("mean difficulty:", {level: round(float(mean), 2) for level, mean in means.items()})
Image(png(figures.topics_figure(examples, difficulty), dpi=110), width=720)

# %% [markdown]
# The levels differ on average but overlap widely: *reply*, a hard topic, is about as difficult as *anatomy*, an easy
# one. We use both: levels make the **stages**, measured difficulty sorts *within* a stage.

# %% [markdown]
# ## 6 · Stages and orders
#
# Stage 0 is general: nothing is trained, the base is scored and its memory filled. Stages 1 to 3 are medical. Each
# **adds** a level to those before it ([baby steps](https://aclanthology.org/N10-1116/), Spitkovsky and others, 2010).
# If an example has no level, as perhaps in your own data, stages add equal shares by difficulty instead.

# %%
# NBVAL_CHECK_OUTPUT
six = [0.9, 0.4, 0.2, 0.1, 0.3, 0.8]
print("no levels:    ", build_curriculum([""] * 6, six))
given = ["hard", "easy", "medium", "easy", "hard", "medium"]
for order in ("easy_to_hard", "hard_to_easy", "random"):
    print(f"{order:14}", build_curriculum(given, six, order))

# %% [markdown]
# Each list has the indices of a stage's examples. Four **orders** can be chosen:
#
# | order | stages | within a stage |
# |---|---|---|
# | easy_to_hard | easy; + medium; + hard | easiest first, paced |
# | hard_to_easy | hard; + medium; + easy | hardest first, paced |
# | interleaved | all examples in each | topics take turns |
# | random | all examples in each | shuffled when drawn (section 8) |

# %% [markdown]
# ## 7 · Pacing
#
# Within a stage, draw only from the easiest examples at first, then make more and more available
# (**competence-based pacing**, [Platanios and others](https://arxiv.org/abs/1903.09848), 2019). **Competence** c(t) is
# the share of the stage's examples, easiest first, that may be drawn at progress t, from 0 to 1. How should it grow?

# %% [markdown]
# At a constant rate, each new example would get less attention than the one before, because it shares the draws with
# all that are available. So let examples arrive at a rate ∝ 1/c, from $c_0$ at the start to 1 at $t = t_1$:
#
# $$\frac{dc}{dt} = \frac{\text{const}}{c} \;\Rightarrow\; c^2 = c_0^2 + 2\,\text{const}\,t \;\Rightarrow\;
# c(t) = \min\Bigl(1,\, \sqrt{t\,(1 - c_0^2) / t_1 + c_0^2}\Bigr)$$

# %% [markdown]
# $c(t_1) = 1$ determines the constant. $t_1$: the progress at which pacing ends. At 1 it lasts for the whole stage.
# **Predict**, for $c_0$ = 0.3 and $t_1$ = 1: when is half of the stage available? Early, halfway or late?

# %% [markdown]
# ### Your turn: pace
#
# ●○○ difficulty · ●●● importance · 8 minutes
#
# Write c(t). The check compares it with values that were computed by hand.

# %%
# NBVAL_CHECK_OUTPUT
def pace(t, end, start):
    """t: progress, 0 to 1; end: t₁; start: c₀; floats. Returns the share of examples that may be drawn, a float."""
    return ...


cases = [(0.0, 1.0, 0.3), (0.16 / 0.91, 1.0, 0.3), (1.0, 1.0, 0.3), (0.08 / 0.91, 0.5, 0.3), (0.8, 0.5, 0.3)]
wanted = [0.3, 0.5, 1.0, 0.5, 1.0]
answer = [pace(*case) for case in cases]
solved = ... not in answer and np.allclose(answer, wanted)
if ... in answer:
    print("Your turn.")
else:
    off = [case for case, mine, one in zip(cases, answer, wanted) if not np.isclose(mine, one)]
    print("Right." if solved else f"Not yet: wrong at (t, end, start) = {off[0]}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# `end` divides t. After `end`, the root is larger than 1: all examples are available, not more.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def pace(t, end, start):
#     return min(1.0, sqrt(t * (1 - start**2) / end + start**2))
# ```
#
# </details>

# %% [markdown]
# The package's `PacedSampler` draws examples in shuffled passes over what competence allows. An example that becomes
# available is mixed into the rest of the pass. Your function now runs in place of the package's (until it is right, the
# package's runs) and draws one stage of 50 examples.

# %%
# NBVAL_CHECK_OUTPUT
def draw_stage(curve):
    """300 draws from a stage of 50 examples, with `curve` as the package's competence."""
    with patch("icft_lite.curriculum.competence", curve):
        sampler = PacedSampler(list(range(50)), ["t"] * 50, "easy_to_hard", 0.3)
        return [sampler.draw(step / 300) for step in range(300)]


competence = pace if solved else package_competence
mine, package = draw_stage(competence), draw_stage(package_competence)
print("hardest example among the first 30 draws:", max(mine[:30]), "among the last 30:", max(mine[-30:]))
print("draws equal to the package's:", sum(a == b for a, b in zip(mine, package)), "of", len(package))

# %%
# NBVAL_CHECK_OUTPUT
t = np.linspace(0, 1, 101)
curves = {start: [competence(x, 1, start) for x in t] for start in (0.1, 0.3, 0.6)}
for start, c in curves.items():
    print(f"c₀ = {start}: half of the stage is available from t = {t[np.searchsorted(c, 0.5)]:.2f}")
Image(png(figures.competence_figure(t, curves), dpi=110), width=560)

# %% [markdown]
# Early: with $c_0$ = 0.3, half of the stage is available after less than a fifth of its time. At a constant rate it
# would be after 0.29.

# %% [markdown]
# ## 8 · Which examples are drawn when?
#
# We draw a whole run: three stages, each in proportion to the number of its examples. (`train_icft` gives the last
# stage nine tenths of the tokens: the setting `curriculum.last_stage_share`.)

# %%
all_levels = [example["level"] for example in examples]
all_topics = [example["topic"] for example in examples]


def draw_run(order, passes=6, seed=0):
    """Indices of examples in the order in which a run draws them, and the draws at which stages begin and end."""
    stages = build_curriculum(all_levels, difficulty, order)
    drawn, times, total = [], [0], sum(map(len, stages))
    for number, stage in enumerate(stages):
        sampler = PacedSampler(stage, all_topics, order, 0.3, f"{seed}/{number}")
        steps = round(passes * len(examples) * len(stage) / total)
        drawn += [sampler.draw(step / steps) for step in range(steps)]
        times.append(len(drawn))
    return drawn, times


# %% [markdown]
# Number the examples by **position**: easy before medium before hard, and by difficulty within a level. The figure
# shows how often the examples at each position were drawn at each time. 1 is what random drawing gives. **Predict** the
# four pictures. Where are they white, so that nothing is drawn?

# %%
# NBVAL_CHECK_OUTPUT
by_position = sorted(range(len(examples)), key=lambda i: (LEVELS.index(all_levels[i]), difficulty[i]))
position = {i: n for n, i in enumerate(by_position)}
edges = np.cumsum([0, *map(all_levels.count, LEVELS)])
runs = {order: draw_run(order) for order in ("easy_to_hard", "hard_to_easy", "interleaved", "random")}
for order, (drawn, _) in runs.items():
    print(f"{order:13} levels among the first 60 draws:", sorted({all_levels[i] for i in drawn[:60]}))
print("a run is a function of its seed:", draw_run("random") == runs["random"] != draw_run("random", seed=1))
shown = {order: figures.density(drawn, position, times, edges) for order, (drawn, times) in runs.items()}
Image(png(figures.density_figure(shown, edges), dpi=110), width=820)

# %% [markdown]
# easy_to_hard is white above the steps: a level waits for its stage, and pacing adds examples from below. Each stage
# starts its pacing again, so the most difficult examples of earlier levels pause for a while. hard_to_easy is the
# reverse. If stages *dropped* earlier levels, the model would forget them, and order would *hurt*.

# %% [markdown]
# ## 9 · Not only when, also how often
#
# Within a stage the first picture is darker at the bottom: easy examples are available from the start, the hardest only
# at the end. **Predict**: in a stage in which each example is drawn 6 times on average, how often is one of the easiest
# tenth drawn? How often one of the hardest?

# %%
def often(order, passes=6, n=200):
    """Mean draws of each tenth of a stage's n examples over 20 seeds, easiest tenth first."""
    counts = np.zeros(n)
    for seed in range(20):
        sampler = PacedSampler(list(range(n)), ["t"] * n, order, 0.3, seed)
        for step in range(passes * n):
            counts[sampler.draw(step / (passes * n))] += 1 / 20
    return counts.reshape(10, -1).mean(1)


# %%
# NBVAL_CHECK_OUTPUT
draws = {"paced": often("easy_to_hard"), "random": often("random")}
for name, values in draws.items():
    print(f"{name:6}", values.round(1))
Image(png(figures.draws_figure(draws), dpi=110), width=560)

# %% [markdown]
# So a paced run differs from a random one in *two* ways: order and weights. With entropy among the signals, uncertain
# labels come late **and rarely**, which may help by itself. Whoever finds that a curriculum helps must ask which of the
# two did it.

# %% [markdown]
# How long should pacing last? `curriculum.competence_end` is $t_1$. Measured on our samples
# ([experiments]({{repository}}/blob/main/docs/experiments.md)): in runs of 350,000 tokens, $t_1$ = 0.5 lowers the
# medical score (0.41 instead of 0.47, one seed). In runs of 4,200,000 tokens it raises it (0.925 instead of 0.893,
# three seeds). Long runs have seen the easy examples often enough.

# %% [markdown]
# ## 10 · Does order help?
#
# - [Wu and others](https://arxiv.org/abs/2012.03107) (2021), images: marginal gains, *except* with little training or
#   noisy labels.
# - [Yang and others](https://arxiv.org/abs/2408.07888) (2024), medical questions: +1.0 point on average; the best order
#   varies.
# - [A Good Curriculum?](https://arxiv.org/abs/2510.19099) (2025), mathematics: no order is always best.
# - [Mordig and others](https://arxiv.org/abs/2603.27226) (2026), deduction: no robust gain.

# %% [markdown]
# How does one test such a claim? A toy: points of two classes, a small network. Each label is *wrong* with a known
# probability, from 0 to `noise`: the point's difficulty. Every **arm**, a way of drawing points, gets the same data,
# start and number of steps. The arm `shuffled` shuffles the draws of easy_to_hard: same weights, no order.

# %%
def toy(seed, noise, n=600):
    """n points to train on and 2,000 to test on, their classes, labels of the n, each label's chance to be wrong."""
    generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    x = torch.randn(n + 2000, 10, generator=generator)
    inner, outer = torch.randn(10, 16, generator=generator) / sqrt(10), torch.randn(16, generator=generator)
    height = torch.tanh(2 * x @ inner) @ outer
    y, doubt = (height > height.median()).long(), rng.random(n) * noise
    return x, y, torch.where(torch.tensor(rng.random(n) < doubt), 1 - y[:n], y[:n]), doubt


# %%
def accuracy_after(arm, seed, noise, n=600, draws=1800, batch=20):
    """Test accuracy after training on the arm's draws."""
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
# Ten seeds. We compare each arm with random **on the same seed**, because seeds differ more than arms do. **Predict**
# the gains over random, in points (0.01 of accuracy): with clean labels, with noisy ones, and for the shuffled draws.

# %%
arms, gains = ("random", "easy_to_hard", "shuffled", "hard_to_easy"), {}
for setting, noise in (("clean labels", 0.0), ("noisy labels", 0.8)):
    results = {arm: np.array([accuracy_after(arm, seed, noise) for seed in range(10)]) for arm in arms}
    print(f"{setting}: random alone {results['random'].min():.2f} to {results['random'].max():.2f} over seeds")
    for arm in arms[1:]:
        gains[arm, setting] = gain = mean_interval(100 * (results[arm] - results["random"]))
        print(f"    {arm:13} {gain.mean:+.1f} points ({gain.low:+.1f} to {gain.high:+.1f})")

# %%
# NBVAL_CHECK_OUTPUT
clean, noisy = ({arm: gains[arm, setting].mean for arm in arms[1:]} for setting in ("clean labels", "noisy labels"))
print("clean labels: no gain or loss of 2 points:", all(abs(gain) < 2 for gain in clean.values()))
print("noisy labels: easy_to_hard gains more than 1:", noisy["easy_to_hard"] > 1)
print("hard_to_easy loses more than 1:", noisy["hard_to_easy"] < -1)
print("shuffled gains as much, or less by under a point:", noisy["shuffled"] > noisy["easy_to_hard"] - 1)
Image(png(figures.gains_figure(gains, 10), dpi=110), width=620)

# %% [markdown]
# With clean labels no arm gains: no point is harder than another. Only `shuffled` loses measurably. With noisy
# labels the curriculum gains, but its draws in *no* order gain as much or more. Here the **weights** did it: uncertain
# labels are drawn less often. hard_to_easy draws them most often, and loses.

# %% [markdown]
# A toy proves little about language models. What transfers is the method: equal budgets, several seeds, paired
# differences, and an arm that separates two explanations. In our runs on all topics (lesson 09) the curriculum gained
# 14 and 17 points. Of the 17 points, the order of stages gained 3 (not clearly) and pacing, which changes the
# weights, the rest.

# %% [markdown]
# ## 11 · A curriculum explorer
#
# Look at the data before you train. The explorer filters examples by the stage that adds them, by topic and by
# difficulty. First the *medium* stage as a table. *posterior*: probability of the most likely response; *votes*: each
# option that has votes, and the functions that voted for it.

# %%
lf_names = [lf.name for lf in sample_lfs()]
votes_of = {example["id"]: cast for example, cast in zip(pool, votes)}
curriculum = (examples, difficulty, votes_of, lf_names)
curriculum_table(*curriculum, stage="medium", max_rows=4)

# %%
curriculum_explorer(*curriculum)

# %% [markdown]
# One label in the table is confident and wrong: leptin comes from fat tissue. Of the functions that the label model
# trusts, only `notes` votes there, and it errs.
#
# Explore by mouse or keyboard (Tab moves, Space opens or presses). Which examples are hardest because they are long,
# and which because the functions disagree?

# %% [markdown]
# ## What was shown
#
# - Four signals of difficulty: loss, IFD, length, entropy. The three we compared agree little.
# - Ranks make them addable.
# - Stages by level, pacing within, with your c(t).
# - Pacing changes how *often* examples are drawn, not only when.
# - Order alone: little or nothing in studies, and no gain in our toy. With noisy labels, weights help.

# %% [markdown]
# ## Exercises
#
# Put your code in place of `...` and run the cell.
#
# ### 1 · When does an example become available? (easy, 8 minutes)
#
# Invert c(t) for $t_1$ = 1: a share of a stage's examples is easier than a given one. From which progress t on may that
# example be drawn?

# %%
# NBVAL_CHECK_OUTPUT
def available_from(share, start):
    """The t at which competence reaches `share`; 0.0 for examples that are available from the start."""
    return ...


answer = [available_from(share, start) for start in (0.1, 0.3) for share in (0.05, 0.3, 0.5, 1.0)]
if ... in answer:
    print("Your turn.")
else:
    back = [competence(t, 1, start) for t, start in zip(answer, [0.1] * 4 + [0.3] * 4)]
    good = np.allclose(back, [0.1, 0.3, 0.5, 1, 0.3, 0.3, 0.5, 1]) and min(answer) >= 0
    print("Right." if good else f"Not yet: competence at your times is {np.round(back, 2)}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Solve share² = t (1 − c₀²) + c₀² for t. Below c₀ that would be negative.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def available_from(share, start):
#     return max(0.0, (share**2 - start**2) / (1 - start**2))
# ```
#
# </details>

# %% [markdown]
# ### 2 · The weights that pacing implies (hard, 20 minutes)
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
    share = (np.arange(50) + 0.5) / 50  # for many examples and steps there is a closed form:
    smooth = 60 * np.where(share < 0.3, 2 / 1.3, 2 * (1 - share) / (1 - 0.3**2))
    good = np.isclose(sum(answer), 3000) and np.abs(np.array(answer) - smooth).max() < 3
    good = good and np.isclose(answer[-1], 130 / 50)  # c(t) is above 49/50 in the last 130 steps
    ends = f"first {answer[0]:.1f}, last {answer[-1]:.2f} (expected 2.60)"
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
#         available = int(np.ceil(competence(step / steps, 1, start) * n))
#         draws[:available] += 1 / available
#     return draws
# ```
#
# The closed form 2 (1 − share) / (1 − c₀²) falls in a straight line to 0: the very hardest examples are hardly trained
# on.
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [Competence-based Curriculum Learning](https://arxiv.org/abs/1903.09848) (2019): the pacing curve, section 2.
# - [Curriculum Learning](https://doi.org/10.1145/1553374.1553380) (2009): where the idea entered the field.
# - [Cherry LLM](https://arxiv.org/abs/2308.12032) (2024): IFD, used to choose data.
# - [When Do Curricula Work?](https://arxiv.org/abs/2012.03107) (2021): the most thorough study.
#
# Assignment A2, Curriculum, builds on this lesson: see the [instructor's
# guide]({{repository}}/blob/main/docs/instructors.md#assignments).

# %%
# NBVAL_CHECK_OUTPUT
print_peak(2)
