# ---
# jupyter:
#   lesson:
#     minutes: {cpu: 3, t4: 3}
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
# ICFT has a short-term and a long-term memory. Each has *examples* and *weights*. You write two parts of them yourself,
# train a small stage without and with memory, and watch it promote examples and choose its weights.

# %% [markdown]
# **You will be able to**
#
# - draw a uniform sample from a stream;
# - explain why surprise alone collects wrong labels;
# - promote examples to the long-term memory;
# - write a moving average in closed form;
# - average two adapters exactly, and choose α.
#
# **You need** lessons 00 to 04, above all LoRA's factors A and B.

# %% [markdown]
# {{budget}}
#
# Where the text says **predict**, write down a guess first. The paper says little about how the two memories work: the
# definitions are *our reading*. Teaching material: **not medical advice**.

# %%
# {{setup}}

# %%
import math
import random
import warnings
import weakref
from unittest.mock import patch

import numpy as np
import pandas as pd
import torch
from IPython.display import HTML, Image, display

from icft_lite import Encoder, ICFTConfig, LongTermMemory, ShortTermMemory, apply_lfs, load_base, sample_bundle
from icft_lite.data.schema import as_response
from icft_lite.evaluation import Suite, evaluate_suite
from icft_lite.memory import POLICIES, water_fill
from icft_lite.memory import promote as package_promote
from icft_lite.memory.consolidation import ALPHAS, consolidate, ema_step, interpolate
from icft_lite.memory.rehearsal import generate_self_prompts
from icft_lite.metrics import mean_score
from icft_lite.modeling.adapters import adapter_tensors, add_adapters, delta_svd, set_adapter_tensors, use_adapter
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.losses import icft_losses
from icft_lite.modeling.scoring import score_responses
from icft_lite.reporting.concepts import memory as diagram
from icft_lite.reporting.lessons import memory as figures
from icft_lite.reporting.lessons.peak import print_peak
from icft_lite.reporting.style import png
from icft_lite.training.batches import StageBatches
from icft_lite.training.plan import plan_stage
from icft_lite.weak.lfs.samples import sample_lfs
from icft_lite.weak.pool import label_pool
from icft_lite.widgets import memory_inspector, outcome_table, promotion_outcomes
from icft_lite.widgets.table import html_table

warnings.simplefilter("ignore", FutureWarning)

# %% [markdown]
# ## The two memories
#
# **What was measured** ([results]({{repository}}/blob/main/docs/earlier_results.md#ablations)): without long-term
# memory, retention falls from 0.94 to 0.02. The ring and promotion had no measured gain. In short runs they cost 0.05
# of medical score, which may be chance (lesson 09). So they are off by default (`short_term.share` is 0). Here they
# are on, to show how they work.

# %%
# NBVAL_CHECK_OUTPUT
Image(png(diagram.draw()), width=860)

# %% [markdown]
# ## 1 · The ring
#
# A ring holds the newest examples. When it is full, the oldest leaves. Some are **replayed**, that is, trained on
# again. An example that leaves after enough replays is a **candidate** for promotion.
#
# **Predict.** A ring of 3 gets examples 0 to 4. After example 2, all three are replayed. Which are candidates?

# %%
# NBVAL_CHECK_OUTPUT
ring = ShortTermMemory(size=3, promote_after=1)
for example in range(5):
    ring.push(example)
    if example == 2:
        ring.replay(3)
    print(f"after example {example}: ring {list(ring.ring)}, candidates {list(ring.candidates)}")

# %% [markdown]
# Example 2 was replayed, but is still in the ring. At the end of a stage the ring is emptied, and 2 becomes a candidate
# too. (By default an example needs three replays, `short_term.promote_after`. Here it needs one, so that a short stage
# has many candidates.)

# %% [markdown]
# ## 2 · A uniform sample of a stream
#
# Examples come one by one, their number n is unknown, and there is room for `size`. Each should be retained with
# probability size / n. **Reservoir sampling**: give each item a random **priority** in [0, 1), keep the lowest.
# Newcomer number i is among them with probability size / i.
#
# ### Your turn: reservoir
#
# ●●○ difficulty · ●●● importance · 10 minutes

# %%
# NBVAL_CHECK_OUTPUT
def reservoir(stream, size, priority):
    """Return the `size` items of the stream with the lowest priorities (all, if there are fewer), in any order.

    stream: iterable, read once; hold at most `size` of its items and the newest. priority: function, item → [0, 1).
    """
    return ...


class Item(float):
    """An item that is its own priority. Its instances can be counted while they exist."""


def stream(held):
    """40 items. The number that exist at a time is added to the list `held`."""
    alive = weakref.WeakSet()
    for i in range(40):
        item = Item(random.Random(i).random())
        alive.add(item)
        held.append(len(alive))
        yield item


sample = reservoir(stream(held := []), 5, float)
if sample is ...:
    print("Your turn.")
else:
    lowest, few = sorted(stream([]))[:5], reservoir([0.5], 5, float)
    right = sorted(sample) == lowest and few == [0.5] and max(held) <= 7  # 5, the newest, the last removed
    print("Right." if right else f"Not yet: {sorted(sample)}, expected {lowest}; {few}; {max(held)} held at once")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Add the newcomer. If there are size + 1 items now, remove the one of the highest priority. `sorted(stream)` would hold
# the whole stream.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def reservoir(stream, size, priority):
#     sample = []
#     for item in stream:
#         sample.append(item)
#         if len(sample) > size:
#             sample.remove(max(sample, key=priority))
#     return sample
# ```
#
# </details>

# %% [markdown]
# Your function now selects in place of the package's: the `reservoir` policy of a memory with 60 places, to which all
# general examples are offered. (If it is not solved yet, the package's own policy runs.)

# %%
# NBVAL_CHECK_OUTPUT
base, tokenizer = load_base(device="cpu")
encoder, data = Encoder(tokenizer), sample_bundle()
package_policy = POLICIES["reservoir"]


def policy(entries, capacity, *_):
    """The learner's reservoir, with the priorities of the package. They depend on an example's id and the seed only."""
    mine = reservoir(entries, capacity, lambda entry: entry.priority)
    return package_policy(entries, capacity, *_) if mine is ... else mine


def retained(policy):
    """Ids of 60 general examples, selected by a policy."""
    buffer = LongTermMemory(60, "reservoir")
    with patch.dict(POLICIES, reservoir=policy):
        buffer.add((dict(example) for example in data.general_memory), encoder, "general")
    return {entry.example["id"] for entry in buffer.entries}


print(len(retained(policy) & retained(package_policy)), "of 60 examples are the package's selection")

# %% [markdown]
# The package's priorities follow from id and seed, so an interrupted run draws the same sample. Vitter's Algorithm R
# (1985) lets newcomer i in with probability size / i instead.
#
# **Predict.** If every newcomer is let in and replaces a random one, how likely are the first and the last of 20 to be
# retained, with room for 5?

# %%
# NBVAL_CHECK_OUTPUT
def always_in(stream, size, draw):
    """Let every newcomer in. It replaces one of the items at random."""
    sample = []
    for item in stream:
        if len(sample) < size:
            sample.append(item)
        else:
            sample[draw.randrange(size)] = item
    return sample


n, size, runs, draw = 20, 5, 8000, random.Random(0)
share = {"reservoir": np.zeros(n), "always in": np.zeros(n)}
for _ in range(runs):
    lowest = sorted(range(n), key=[draw.random() for _ in range(n)].__getitem__)[:size]  # what `reservoir` returns
    share["reservoir"][lowest] += 1 / runs
    share["always in"][always_in(range(n), size, draw)] += 1 / runs
print(pd.DataFrame(share, index=range(1, n + 1)).round(2).iloc[[0, 9, 19]])
Image(png(figures.stream_figure(share, size / n)), width=620)

# %% [markdown]
# The reservoir retains every position with probability 0.25 = 5 / 20. If every newcomer is let in, the last is always
# there, and the first survives 15 replacements with probability (4/5)¹⁵ ≈ 0.035.

# %% [markdown]
# ## 3 · Surprise, and its trap
#
# **Surprise** is the mean −log p of a response's tokens under the slow adapter. To rehearse the most surprising
# examples seems best. But wrong labels surprise a model, too.
#
# **Predict.** One label in ten is wrong. We retain the tenth of the examples that surprises most. What share of it is
# wrong?

# %%
# NBVAL_CHECK_OUTPUT
draw = np.random.default_rng(0)
wrong = draw.random(1000) < 0.1
surprise = np.where(wrong, draw.normal(2.4, 0.6, 1000), draw.normal(1.0, 0.6, 1000))
confidence = np.where(wrong, draw.beta(4, 3, 1000), draw.beta(12, 1.5, 1000))  # wrong labels are less confident


def share_wrong(policy, gate=0.0, reservoir_share=0.0):
    """Share of wrong labels in a memory of 100, if examples below the confidence `gate` are rejected."""
    offered = np.flatnonzero(confidence >= gate)
    buffer = LongTermMemory(100, policy, reservoir_share, teach_prompts=False)
    examples = [dict(id=str(i), topic="t") for i in offered]
    buffer.add(examples, lambda example: None, "promoted", surprise[offered])
    return np.mean([wrong[int(entry.example["id"])] for entry in buffer.entries])


bad = {"uniform sample": share_wrong("reservoir"), "surprise": share_wrong("surprise"),
       "surprise,\ngate 0.8": share_wrong("surprise", 0.8),
       "surprise, gate 0.8,\na quarter at random": share_wrong("surprise", 0.8, 0.25)}
print(*(f"{value:.2f}  {name}".replace("\n", " ") for name, value in bad.items()), sep="\n")
Image(png(figures.wrong_labels_figure(bad, wrong.mean())), width=600)

# %% [markdown]
# In this simulation two thirds of what surprises most is wrong. So ICFT has three guards: a **gate** (the largest
# posterior of a weak example must be at least 0.8), an equal share of the places for each topic (its **quota**, section
# 4), and a quarter of each quota at random. The random quarter hardly
# matters here. That the uniform sample has 0.15 and not 0.10 is chance.

# %% [markdown]
# ## 4 · Fair shares: water-filling
#
# Topics differ in size, and 300 places should not be mostly capitals. Picture a column for each topic, as tall as its
# number of examples. Pour in 300 units of water: it rises to one level, but short columns are full.
#
# **Predict** the quotas for 400, 60, 250 and 30 examples.

# %%
# NBVAL_CHECK_OUTPUT
counts = {"capitals": 400, "animals": 60, "sums": 250, "plurals": 30}
quota = water_fill(counts, 300)
print(quota, "in all", sum(quota.values()))
Image(png(figures.quota_figure(counts, quota)), width=520)

# %% [markdown]
# By hand: an equal share is 75. Animals and plurals cannot use it and take 60 and 30. The remaining 210 are halved: 105
# each. The package fills twice: first **sources** (given general, self-generated and promoted examples), then the
# topics of each.

# %% [markdown]
# ## 5 · The slow adapter: a moving average
#
# After optimizer step $t = 0, 1, 2, …$ the slow weights $\bar\varphi$ move towards the fast weights $\varphi$, with the
# decay $\beta$:
#
# $$\bar\varphi \leftarrow \beta_t\,\bar\varphi + (1-\beta_t)\,\varphi, \qquad
# \beta_t = \min\left(1-\tfrac{1}{t+1},\ \beta\right)$$
#
# **Predict.** What is $\beta_0$, and what becomes of the old value of $\bar\varphi$?

# %% [markdown]
# $\beta_0 = 0$: the first step discards the old value. While $1 - \frac{1}{t+1} < \beta$, this is the plain mean of all
# $\varphi$ so far; later, old values fade by $\beta$ per step. After step $t$, the fast weights of step $i$ count with
#
# $$\omega_i = (1-\beta_i)\,\beta_{i+1}\cdots\beta_t, \qquad \sum_{i=0}^{t} \omega_i = 1.$$


# %% tags=["from-scratch"]
# NBVAL_CHECK_OUTPUT
def average_weights(t, decay):
    """The weights ω_i of the fast weights after steps 0 … t: float [t + 1]."""
    beta = np.minimum(1 - 1 / np.arange(1, t + 2), decay)
    later = np.cumprod(beta[::-1])[::-1]  # β_i · … · β_t
    return (1 - beta) * np.append(later[1:], 1.0)


print("ω after step 3, β = 0.9:", average_weights(3, 0.9), "· β = 0.5:", average_weights(3, 0.5))

# %%
# NBVAL_CHECK_OUTPUT
steps, decay = 60, 1 - 10 / 60
path = torch.randn(steps, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0)
slow = [torch.full((4,), 99.0, dtype=torch.float64)]
for t in range(steps):
    ema_step(slow, [path[t]], t, decay)
closed = torch.tensor(average_weights(steps - 1, decay)) @ path
print("difference of the package from the closed form below 1e-12:", bool((slow[0] - closed).abs().max() < 1e-12))

# %%
# NBVAL_CHECK_OUTPUT
noise = np.random.default_rng(1).normal(0, 0.4, steps)
fast_path = 2 * (1 - np.exp(-np.arange(steps) / 15)) + noise
slow_path = [average_weights(t, decay) @ fast_path[:t + 1] for t in range(steps)]
print(f"scatter of the last 20 steps: fast {np.std(fast_path[-20:]):.2f}, slow {np.std(slow_path[-20:]):.2f}")
shown = {t: average_weights(t, decay) for t in (3, 20, 59)}
Image(png(figures.average_figure(shown, fast_path, slow_path)), width=800)

# %% [markdown]
# By default $\beta = 1 - 10/\text{steps of the stage}$, so about the last tenth of a stage counts. The average has less
# noise than the fast weights and lags behind them.

# %% [markdown]
# ## 6 · One stage, without and with memory
#
# 60 steps on easy medical examples, trusted and a few weak ones. A batch has 26 sequences; an eighth is replayed from a
# ring of 48. The weak examples are labelled by majority vote, which is often not confident enough for the gate.

# %%
# NBVAL_CHECK_OUTPUT
model = add_adapters(base, rank=32, alpha=64, seed=0)
config = ICFTConfig.from_dict({
    "optim.batch_size": 26, "curriculum.order": "random", "loss.consistency_weight": 0.4,
    "short_term.share": 0.125, "short_term.size": 48, "short_term.promote_after": 1,  # the ring is off by default
})
pool, lfs = [dict(example) for example in data.pool if example["level"] == "easy"], sample_lfs()
for example, posterior in zip(pool, label_pool(pool, apply_lfs(lfs, pool), "majority_vote", lfs)[0]):
    example["posterior"] = posterior
weak = [example for example in pool if example["posterior"]][::8]
examples = [dict(example) for example in data.trusted if example["level"] == "easy"] + weak
encoded = [encoder(example) for example in examples]
print(len(examples), "new examples, of which weak:", len(weak))

# %% [markdown]
# The long-term memory has 160 places and starts with 120 general examples. Each has two possible **teachers**, the bare
# base and the slow adapter. `refresh` takes the one under which the stored response is more likely, and caches its
# hidden states (lesson 06).

# %%
# NBVAL_CHECK_OUTPUT
memory = LongTermMemory(size=160)
general = random.Random(0).sample(range(len(data.general_memory)), 120)
memory.add([dict(data.general_memory[i]) for i in general], encoder, "general")
print("teachers before the first stage:", memory.refresh(model))

# %% [markdown]
# The slow adapter is fresh, so both predict the same; a tie goes to the base.
#
# `train` plans a stage, which also fills and replays the ring, and runs it. L_consistency keeps the model close to the
# teacher on memory examples.

# %%
head, fast, slow = head_weight(model), adapter_tensors(model, "fast"), adapter_tensors(model, "slow")
start, topics = [tensor.clone() for tensor in slow], [example["topic"] for example in examples]


def train(share_of_memory):
    """One stage with this share of memory examples → (slow adapter at its end, ring, plan, path of the first layer)."""
    settings = config.replace({"long_term.share": share_of_memory})
    entries = memory.entries if share_of_memory else []
    ring = ShortTermMemory(config.short_term.size, config.short_term.promote_after)
    plan, _ = plan_stage(range(len(examples)), encoded, topics, [entry.encoded for entry in entries], ring, settings,
                         tokens=10**9, max_steps=60)
    batches = StageBatches(plan, examples, encoded, entries, settings, pad_id=tokenizer.pad_token_id)
    set_adapter_tensors(model, "fast", start)
    optimizer, path = torch.optim.AdamW(fast, lr=4e-3), []
    for t in range(len(plan)):
        batch = batches[t]
        losses = icft_losses(hidden_states(model, batch), head, batch, batch["normalizers"], temperature=math.inf)
        loss = losses["fine_tune"] + config.loss.consistency_weight * losses["consistency"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(fast, 1.0)
        optimizer.step()
        ema_step(slow, fast, t, 1 - 10 / len(plan))
        path.append([tensor.detach().clone() for tensor in fast[:2]])  # A and B of the first layer
    return [tensor.clone() for tensor in slow], ring, plan, path


# %%
# NBVAL_CHECK_OUTPUT
general = data.general_validation.select(range(0, len(data.general_validation), 3))
medical = [one for one in data.validation if one["level"] == "easy" and one["task"] == "question"]
suites = {"general": Suite.from_examples(general, encoder, only_correct_option=True),
          "medical": Suite.from_examples(medical, encoder, only_correct_option=True)}


def score():
    """{"general", "medical"}: exact match of the slow adapter on validation questions."""
    scores = evaluate_suite(model, tokenizer, suites, adapter="slow", encoder=encoder)
    return {name: mean_score(scores[name]) for name in scores}


print({name: len(suite.examples) for name, suite in suites.items()})

# %% [markdown]
# **Predict.** Both runs take equally many sequences. In the second, a quarter of each batch is memory examples. Which
# learns more medicine? What happens to general questions?

# %%
scores, ends = {"base": score()}, {}
for name, share_of_memory in (("without memory", 0.0), ("with memory", 0.25)):
    ends[name], ring, plan, path = train(share_of_memory)
    scores[name] = score()
pd.DataFrame(scores).T.round(3)

# %%
# NBVAL_CHECK_OUTPUT
without, with_memory = scores["without memory"], scores["with memory"]
print("both learn medicine:", min(without["medical"], with_memory["medical"]) > 0.15)
print("without memory, over nine tenths of general is lost:", without["general"] < 0.1 * scores["base"]["general"])
print("with memory, over half is retained:", with_memory["general"] > 0.5 * scores["base"]["general"])

# %% [markdown]
# **Catastrophic forgetting**: after 60 steps of medicine nearly every general answer is wrong. With a quarter of memory
# examples most are right, and the medical score is about the same. Not all are: we chose a high learning rate and a low
# weight of L_consistency, so that section 9 has something to choose.

# %% [markdown]
# ## 7 · Promotion
#
# At the end of a stage, candidates that pass the gate are offered to the buffer. **Predict** who is offered, with at
# least 1 replay and confidence 0.8:
#
# | example | replays | largest posterior | surprise |
# |---|---|---|---|
# | a | 0 | trusted | 3.1 |
# | b | 2 | 0.65 | 2.9 |
# | c | 1 | 0.97 | 0.4 |
# | d | 1 | trusted | 1.7 |

# %% [markdown]
# a was never replayed, so it is no candidate; b's label is too uncertain; c and d are offered. If there is room for one
# only, d enters: it surprises more.
#
# ### Your turn: promote
#
# ●●○ difficulty · ●●● importance · 15 minutes

# %%
# NBVAL_CHECK_OUTPUT
def promote(memory, candidates, encoder, min_confidence, surprise_of):
    """Offer candidates to the long-term memory → {"candidates", "gated", "promoted", "evicted"}, four counts.

    candidates: list of examples. `posterior` (list of float) is [] if trusted; if its largest entry is below
    min_confidence, the example is gated: not offered. Of the others, offer as_response(example), which has the most
    likely response only. surprise_of(list of examples) → list of float, for what is offered.
    memory.add(examples, encoder, "promoted", surprises) → (added, evicted).
    """
    return ...


def tiny_example(name, *posterior):
    return dict(id=name, topic="t", responses=["x", "y"], label=0, posterior=list(posterior))


small = LongTermMemory(4, reservoir_share=0.0, teach_prompts=False)
small.add([as_response(tiny_example(name)) for name in ("g1", "g2", "g3")], lambda example: None, "general")
offered = [tiny_example("b", 0.65, 0.35), tiny_example("c", 0.03, 0.97), tiny_example("d"), tiny_example("e", 0.8, 0.2)]
surprises = {"b": 2.9, "c": 0.4, "d": 1.7, "e": 1.1}
counts = promote(small, offered, lambda example: None, 0.8, lambda some: [surprises[one["id"]] for one in some])
if counts is ...:
    print("Your turn.")
else:
    stored = {entry.example["id"]: entry.example["responses"] for entry in small.entries if entry.source == "promoted"}
    right = counts == dict(candidates=4, gated=1, promoted=2, evicted=1) and stored == {"d": ["x"], "e": ["x"]}
    print("Right." if right else f"Not yet: {counts}; promoted {stored}")

# %% [markdown]
# <details><summary>Hint</summary>
#
# An empty posterior is a trusted example: `max([])` fails. What is gated are all candidates less those that are
# offered.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def promote(memory, candidates, encoder, min_confidence, surprise_of):
#     confident = [as_response(example) for example in candidates
#                  if not example["posterior"] or max(example["posterior"]) >= min_confidence]
#     added, evicted = memory.add(confident, encoder, "promoted", surprise_of(confident))
#     gated = len(candidates) - len(confident)
#     return dict(candidates=len(candidates), gated=gated, promoted=added, evicted=evicted)
# ```
#
# </details>

# %% [markdown]
# Now the real ring. Your function promotes in place of the package's, and must give the same counts and the same
# memory. (If it is not solved yet, the package's runs.)

# %%
# NBVAL_CHECK_OUTPUT
def surprise_of(some):
    """Mean −log p per response token under the slow adapter: list of float."""
    with use_adapter(model, "slow"):
        scored = score_responses(model, [encoder(example) for example in some])
    return [-float((one["logp"] / one["tokens"])[0]) for one in scored]


replays, gate = ring.flush(), config.short_term.promote_confidence
candidates, mine = [examples[i] for i in sorted(replays)], LongTermMemory(memory.size)
mine.entries = list(memory.entries)
my_counts = promote(mine, candidates, encoder, gate, surprise_of)
counts = package_promote(memory, model, candidates, encoder, gate)
if my_counts is ...:
    mine, my_counts = memory, counts
ids = [{entry.example["id"] for entry in one.entries} for one in (mine, memory)]
print("the counts are the package's:", my_counts == counts, "· the memory too:", ids[0] == ids[1])
memory = mine

# %%
print(counts, "· sources of the memory:", memory.sources())
seen = sorted({i for step in plan for i in step.new})
times = {examples[i]["id"]: n for i, n in replays.items()}
records = promotion_outcomes(memory, [examples[i] for i in seen], times, gate)  # outcome and reason of each example
table = pd.DataFrame(records)
table[table.outcome != "retained"].groupby(["outcome", "topic"]).size().unstack(fill_value=0)

# %%
# NBVAL_CHECK_OUTPUT
promoted, uncertain = (table[table.outcome == name] for name in ("promoted", "label too uncertain"))
print("tens of examples promoted:", len(promoted) >= 50, "· at least one replay each:", promoted.replays.min() >= 1)
print("confidence at least 0.8:", promoted.confidence.min() >= 0.8, "· gated: below", uncertain.confidence.max() < 0.8)

# %% [markdown]
# 80 of 168 candidates were promoted: two sources share 160 places, 80 each, so 40 general examples were evicted, and 74
# candidates found no room. The **inspector** shows the examples; its lists work by keyboard. The tables below it are
# for pages without widgets. *quota*: places of the topic in its source.

# %%
display(memory_inspector(records))
display(outcome_table(records, "promoted", max_rows=4),
        outcome_table(records, "label too uncertain", sort_by="confidence", max_rows=3))

# %% [markdown]
# A surprise of 1.4 nats means a probability of e⁻¹·⁴ ≈ 0.25 per token: the model does not know *neurectomy* well, so
# rehearsing it is useful. The three gated labels shown are correct. Majority vote's confidence is the share of votes,
# and for *thymus* one of three disagreed. A gate rejects right labels, too.

# %% [markdown]
# ## 8 · Averaging A and B is not averaging B·A
#
# An adapter is the change ΔW = s·B·A, with the scale s of lesson 04. To mix two adapters, one wants the mean of the two
# *changes*. It is tempting to average the factors instead. **Predict** both averages by hand for B₁A₁ = 1 · 1 and B₂A₂
# = (−1) · (−1).

# %% [markdown]
# Both changes are 1, so their mean is 1. The means of A and of B are 0, and so is their product: two adapters that do
# the same averaged to one that does nothing. With matrices, B₁ is also multiplied by A₂, and B₂ by A₁:

# %%
# NBVAL_CHECK_OUTPUT
A1, B1 = torch.tensor([[1.0, 1, 1, 0, 0, 0]]), torch.tensor([[1.0, 1, 1, 0, 0, 0]]).T
A2, B2 = A1.flip(1), B1.flip(0)
exact, naive = (B1 @ A1 + B2 @ A2) / 2, (B1 + B2) / 2 @ ((A1 + A2) / 2)
print("mean of the products:", exact[0].tolist(), "· product of the means:", naive[0].tolist(), "(first rows)")
Image(png(figures.matrices_figure({"B₁A₁": B1 @ A1, "B₂A₂": B2 @ A2, "mean of the products": exact,
                                   "product of the means": naive})), width=880)

# %% [markdown]
# The product of the means is too small where the adapters act, and not zero where neither does. With weight $\alpha$
# for the second adapter,
#
# $$(1-\alpha) B_1A_1 + \alpha B_2A_2 - \big((1-\alpha)B_1+\alpha B_2\big)\big((1-\alpha)A_1+\alpha A_2\big)
# = \alpha(1-\alpha)\,(B_1-B_2)(A_1-A_2).$$
#
# It vanishes if the two share a factor.

# %% [markdown]
# **A twin.** Change the sign of both factors in every layer of the slow adapter. B·A is unchanged: the twin is the same
# model. Mix the two, half and half; the package's `interpolate` averages ΔW. **Predict** the scores.

# %%
end = ends["with memory"]
twin = [-tensor for tensor in end]
mixed = {"base": scores["base"], "as trained": scores["with memory"]}
set_adapter_tensors(model, "slow", [(a + b) / 2 for a, b in zip(end, twin)])
mixed["A and B averaged"] = score()
interpolate(model, end, twin, 0.5, rank=32, scale=2.0)
mixed["ΔW averaged"] = score()
pd.DataFrame(mixed).T.round(3)

# %%
# NBVAL_CHECK_OUTPUT
print("A and B averaged: the base again:", mixed["A and B averaged"] == mixed["base"])
print("ΔW averaged: as trained, within 0.03:", all(abs(mixed["ΔW averaged"][name] - value) < 0.03
                                                   for name, value in mixed["as trained"].items()))

# %% [markdown]
# ### Exactly, and back to rank r
#
# The mean of two changes of rank r has rank 2r at most: put B₁ next to B₂ and A₁ above A₂. The **singular value
# decomposition** (SVD) is a sum of rank-one terms, largest first. The first r are the best approximation of rank r
# (Eckart and Young, 1936). The rest is the **residual**.

# %%
# NBVAL_CHECK_OUTPUT
pairs = [(0.5, *path[len(path) // 2]), (0.5, *path[-1])]  # the first layer, half-way and at the end of the stage
mean = sum(weight * 2.0 * B @ A for weight, A, B in pairs)  # the scale s = alpha / r = 64 / 32
A, B, residual = delta_svd(pairs, rank=64, scale=2.0)
print("rank 2r holds the mean: residual below 1e-6:", residual < 1e-6, torch.allclose(2.0 * B @ A, mean, atol=1e-4))
A, B, residual = delta_svd(pairs, rank=32, scale=2.0)
u, s, v = torch.linalg.svd(mean.double())
error = (2.0 * (B @ A).double() - u[:, :32] * s[:32] @ v[:32]).abs().max()
print("rank r: difference from the SVD of the whole matrix below 1e-4:", bool(error < 1e-4))
print("residual is what was truncated:", abs(residual - float(s[32:].norm() / s.norm())) < 1e-5)

# %%
naive = 2.0 * (pairs[0][2] + pairs[1][2]) / 2 @ ((pairs[0][1] + pairs[1][1]) / 2)
weights = average_weights(len(path) - 1, 1 - 10 / len(path))
exact_moving = 2.0 * sum(w * B @ A for w, (A, B) in zip(weights, path))
moving = 2.0 * ends["with memory"][1] @ ends["with memory"][0]
print(f"truncated to rank r: off by {residual:.1%}; A and B averaged: off by {(naive - mean).norm() / mean.norm():.1%}")
print(f"moving average of A and B: off by {(moving - exact_moving).norm() / exact_moving.norm():.1%}")
Image(png(figures.singular_values_figure(s[:64].tolist(), 32, residual)), width=600)

# %% [markdown]
# Truncation costs less than averaging the factors. The *moving* average of section 5 does average A and B, because an
# SVD in every step would be expensive. Weights of successive steps are close, so its error, in the second line, is
# small.

# %% [markdown]
# ## 9 · Consolidation: a line search over α
#
# The line runs from the long-term memory before the stage ($\alpha = 0$) to the slow adapter after it ($\alpha = 1$):
#
# $$\Delta W(\alpha) = (1-\alpha)\,\Delta W_{\text{start}} + \alpha\,\Delta W_{\text{end}}.$$
#
# ICFT takes the best medical score among candidates that satisfy the **retention constraint**: general score ÷ the
# base's ≥ 1 − `consolidation.max_drop`, here 0.92. Here α is one of 1, 0.85, 0.7, 0.55, 0.4 and 0.2. (In its last stage
# a run also tries α above 1, as in lesson 00.) **Predict** α without and with memory.

# %%
min_general = scores["base"]["general"] * (1 - config.consolidation.max_drop)
lines = {}
for name in ends:
    lines[name] = [dict(alpha=0.0, **scores["base"])]  # the stage began as the base: ΔW = 0
    for alpha in reversed(ALPHAS):
        interpolate(model, start, ends[name], alpha, rank=32, scale=2.0)
        lines[name].append(dict(alpha=alpha, **score()))
pd.concat({name: pd.DataFrame(line).set_index("alpha") for name, line in lines.items()}, axis=1).round(3)

# %% [markdown]
# The package searches the line from α = 1 downwards. It stops once the medical score is below that of the best allowed
# candidate. If none is allowed, the stage is **refused**: the long-term memory stays as it was.

# %%
records = {}
for name in ends:
    set_adapter_tensors(model, "slow", ends[name])
    records[name] = consolidate(model, start, score, lambda one: one["general"] >= min_general, rank=32, scale=2.0,
                                base_alphas=())
    print(f"{name}: α = {records[name]['alpha']}, after {len(records[name]['candidates'])} candidates")
chosen = {name: record["alpha"] for name, record in records.items()}
Image(png(figures.line_search_figure(lines, min_general, chosen)), width=820)

# %%
# NBVAL_CHECK_OUTPUT
at = {name: {one["alpha"]: one for one in line} for name, line in lines.items()}
best = {name: at[name][alpha] for name, alpha in chosen.items()}
print("α = 1 violates the constraint in both:", all(at[name][1.0]["general"] < min_general for name in at))
print("with memory, a larger α is allowed:", chosen["with memory"] > chosen["without memory"])
print("and at least 0.1 more medical score:", best["with memory"]["medical"] > best["without memory"]["medical"] + 0.1)
print("both satisfy the constraint:", all(one["general"] >= min_general for one in best.values()))

# %% [markdown]
# Without memory the constraint leaves α = 0.2 and almost no medicine. With memory it leaves α = 0.7 and more medicine
# than α = 1 has: a smaller step along the line can also *raise* the medical score, by a few answers of 105. One seed:
# read the shape, not the digits. In a run, both adapters continue from the chosen candidate.

# %% [markdown]
# ## 10 · Who teaches now?
#
# The chosen adapter is the long-term memory now, and teachers are chosen again. **Predict**: of the general and of the
# promoted examples, which will the memory teach, and which the base?

# %%
memory.refresh(model)
teachers = pd.DataFrame([dict(source=entry.source, teacher=entry.teacher) for entry in memory.entries])
pd.crosstab(teachers.source, teachers.teacher)

# %%
# NBVAL_CHECK_OUTPUT
by_memory = (teachers.teacher == "memory").groupby(teachers.source).mean()
print("the memory teaches over nine tenths of the promoted examples:", by_memory["promoted"] > 0.9)
print("and fewer of the general ones:", by_memory["general"] < by_memory["promoted"])

# %% [markdown]
# The base never saw the promoted examples, so the memory finds all of them more likely. On most general examples the
# base is the better teacher: it has forgotten nothing. Choosing for each example takes the better of both, an idea of
# CLS-ER (further reading).

# %% [markdown]
# ## 11 · Where does the first memory come from?
#
# The data of the base is usually not available. But the base can generate examples: after the mark that opens a user's
# turn, it writes a question (a **self-generated prompt**) and answers it: **pseudo-rehearsal** (Robins, 1995).
# **Predict** how the texts differ after 60 steps without memory.

# %%
set_adapter_tensors(model, "fast", ends["without memory"])
generated = {}
for name, adapter in (("the base", None), ("60 steps, no memory", "fast")):
    with use_adapter(model, adapter):
        generated[name] = generate_self_prompts(model, tokenizer, encoder, 64, seed=0, max_tokens=40)
HTML(html_table(["model", "self-generated prompt", "answer"],
                [[name, one["prompt"], one["responses"][0]] for name, some in generated.items() for one in some[:6]]))

# %% [markdown]
# The base answers most of the prompts shown correctly (37 − 14 = 23). It also invents words and writes nonsense about
# medicine, which does no harm: the aim is to retain its *behavior*. The tuned model still asks for sums but answers
# *bleeding of the bowel*: training changed its answers, and all of them were medical. This is what forgetting looks
# like.

# %% [markdown]
# ## What was shown
#
# - A ring retains the newest examples, a reservoir a uniform sample: size / n for each.
# - Surprise alone collects wrong labels. A gate, a random part and quotas limit this.
# - Memory examples prevented most of the forgetting. Without them, 60 steps erased general answers.
# - Averaging A and B is not averaging B·A. ΔW is averaged exactly and truncated to rank r by SVD.
# - α trades medicine against retention. With memory, the constraint leaves more medicine.

# %% [markdown]
# ## Exercises
#
# ### 1 · An exact average without SVD (medium, 8 minutes)
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
# `torch.cat` puts the A's on top of each other (dimension 0), the B's next to each other (dimension 1). The weight must
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
# ### 2 · The water level (medium, 10 minutes)
#
# Return the greatest whole number `water` such that no more than `size` examples are retained if each topic retains its
# first `water` (or all it has). The package gives no topic more than `water` + 1.

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
# The examples retained at level `water` are `sum(min(count, water) for count in counts)`. Raise `water` while the next
# level fits.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def level(counts, size):
#     water = 0
#     while water < max(counts) and sum(min(count, water + 1) for count in counts) <= size:
#         water += 1
#     return water
# ```
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [Random Sampling with a Reservoir](https://dl.acm.org/doi/10.1145/3147.3165) (Vitter, 1985)
# - [CLS-ER](https://arxiv.org/abs/2201.12604) (Arani et al., 2022): fast and slow learners
# - [SuRe](https://arxiv.org/abs/2511.22367) (Hazard et al., 2025): replay what surprises
# - [WiSE-FT](https://arxiv.org/abs/2109.01903) (Wortsman et al., 2022): the line between two sets of weights
# - [Pseudorehearsal](https://doi.org/10.1080/09540099550039318) (Robins, 1995)
# - [peft on merging](https://huggingface.co/docs/peft/developer_guides/model_merging): its `cat` and `svd` mix changes,
#   its `linear` mixes factors
#
# Assignment A4, Memory, builds on this lesson: see the [instructor's
# guide]({{repository}}/blob/main/docs/instructors.md#assignments).

# %%
# NBVAL_CHECK_OUTPUT
print_peak(2)
