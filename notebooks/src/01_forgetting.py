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
# # 01 · Forgetting
#
# You fine-tune the small base plainly, stage after stage, and watch its general score fall while the medical one
# rises. You learn to measure that, and try the two simplest remedies: to interpolate towards the base, and to replay
# a few old examples.

# %% [markdown]
# **You will be able to**
#
# - compute BWT, FWT, forgetting and retention from an accuracy matrix, and correct for chance;
# - say what follows from the frozen base, and what has to be measured;
# - draw a model in the plane of learning and retention, and move it;
# - measure how far it has moved (KL).
#
# **You need** lesson 00, and basic PyTorch.

# %% [markdown]
# {{budget}}
#
# Run the cells from top to bottom. Where the text says **predict**, write down a guess first.
#
# The measures are standard in the field; the remedies do not come from the paper. How we set things up for small models
# is *our reading*. Teaching material: **not medical advice**.

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
import math
import random
import warnings

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from IPython.display import Image

from icft_lite import Encoder, add_adapters, evaluate_suite, load_base, sample_bundle
from icft_lite.evaluation import Suite
from icft_lite.memory.consolidation import interpolate
from icft_lite.metrics import bwt, forgetting, fwt, retention
from icft_lite.modeling.adapters import adapter_tensors
from icft_lite.modeling.generation import generate_reply
from icft_lite.modeling.packing import join_batch
from icft_lite.reporting.concepts import forgetting as diagram
from icft_lite.reporting.lessons.forgetting import (
    course_figure,
    divergence_figure,
    matrix_figure,
    plane_figure,
    topics_figure,
)
from icft_lite.reporting.lessons.peak import print_peak
from icft_lite.reporting.style import png
from icft_lite.retention import chance_corrected_retention, informative_topics, mean_kl

warnings.simplefilter("ignore", FutureWarning)
LEVELS = ("easy", "medium", "hard")

# %% [markdown]
# The base and an adapter, a small trainable addition to it (lesson 00). `fast` lists the adapter's tensors, two for
# each weight matrix: A and B (section 6). A has `rank` rows; `alpha` ÷ `rank`, here 2, is the fixed **scale** $s$ of
# their product. The model computes in *fp32* on the CPU, so that numbers do not depend on a GPU.

# %%
# NBVAL_CHECK_OUTPUT
base, tokenizer = load_base(device="cpu")
size = base.num_parameters()
model = add_adapters(base, rank=32, alpha=64, seed=0)
fast = adapter_tensors(model, "fast")
fresh = [tensor.detach().clone() for tensor in fast]
encoder, data = Encoder(tokenizer), sample_bundle()
print(f"base: {size / 1e6:.1f} million weights, "
      f"adapter: {sum(t.numel() for t in fast) / 1e6:.2f} million")

# %% [markdown]
# ## 1 · Questions before and after
#
# Four sets of test questions: *general*, and medical ones of three levels. `score` gives the share that the model
# answers exactly, as the mean over topics (a topic is a kind of question: capitals, plurals, drug classes …). To
# save time it uses a part of the questions.

# %%
every = {"easy": 3, "medium": 5, "hard": 1}  # one question in so many
test = [example for example in data.test if example["task"] == "question"]
questions = {level: [example for example in test if example["level"] == level] for level in LEVELS}
medical = [example for level in LEVELS for example in questions[level][::every[level]]]
general = data.general_test.select(range(0, len(data.general_test), 3))
suites = {name: Suite.from_examples(examples, encoder, only_correct_option=True)
          for name, examples in (("general", general), ("medical", medical))}


def score():
    """Exact match of the model as it is: by column, by general topic ("topics"), and by kind of topic."""
    scores = evaluate_suite(model, tokenizer, suites, encoder=encoder)
    qa, topics = scores["general"]["qa"], scores["general"]["qa"]["by_topic"]
    kinds = {kind: np.mean([t["value"] for t in topics.values() if t["kind"] == kind]) for kind in ("fact", "rule")}
    return dict(general=qa["value"], **scores["medical"]["qa"]["by_level"], **kinds,
                topics={name: topic["value"] for name, topic in topics.items()})


# %%
# NBVAL_CHECK_OUTPUT
first = score()
pd.DataFrame([{name: first[name] for name in ("general", *LEVELS)}], index=["base"]).round(2)

# %% [markdown]
# The base knows general topics and no medicine. Some answers in full, to compare with later. The last question is
# medical: the base does not know the term and writes plausible syllables, which are no word.

# %%
# NBVAL_CHECK_OUTPUT
prompts = ["What is the name of the capital city of Bhutan?", "Write the verb repair in the past tense.",
           "What is 3 plus 4?", "What does the medical term nephromegaly mean?"]
answers = {"the base": [generate_reply(model, tokenizer, prompt) for prompt in prompts]}
pd.DataFrame(answers, index=prompts)

# %% [markdown]
# ## 2 · Plain fine-tuning, by hand
#
# Take 16 examples, compute how likely the model finds each response token, and change the adapter so that
# they become more likely. `row` and `position` say where in the batch a response token is predicted, `target` which
# one. Prompts are not trained on.

# %%
Image(png(diagram.draw()), width=960, alt=diagram.draw.__doc__)


# %% tags=["from-scratch"]
def fine_tune(examples, steps, replayed=(), rate=2e-3, seed=0):
    """Train the adapter on encoded examples, batch size 16; yields the number of steps done after each.

    replayed: old examples, of which four take part in every step (section 7)."""
    draw, optimizer = random.Random(seed), torch.optim.AdamW(fast, lr=rate)
    for step in range(1, steps + 1):
        old = draw.sample(replayed, 4) if replayed else []
        batch = join_batch(draw.sample(examples, 16 - len(old)) + old, tokenizer.pad_token_id)
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
        loss = F.cross_entropy(logits[batch["row"], batch["position"]], batch["target"])
        optimizer.param_groups[0]["lr"] = rate * min(1, step / 10)  # the first steps are small
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(fast, 1.0)
        optimizer.step()
        yield step


# %% [markdown]
# Three **stages** of 60 steps: easy examples, then medium ones, then hard ones, never those of another stage. (Lesson
# 00's "plain QLoRA" mixes all of them. Here stages are separate, to see what each does to the others.)
#
# **Predict.** After the third stage, what is left of the general score? And of the *easy* medical one?

# %%
STEPS = 60
trusted = [example for example in data.trusted if example["topic"] != "reply"]
taught = {level: [encoder(example) for example in trusted if example["level"] == level] for level in LEVELS}


def course(watch, replayed=()):
    """The three stages from a fresh adapter. Returns {steps done: scores} at the steps in `watch`."""
    put(fresh)
    track = {0: first}
    for number, level in enumerate(LEVELS):
        for step in fine_tune(taught[level], STEPS, replayed):
            if (done := number * STEPS + step) in watch:
                track[done] = score()
    return track


def put(tensors, alpha=1.0):
    """Load an adapter, given as [A, B, A, B, …]; its effect B·A scaled by alpha."""
    with torch.no_grad():
        for i, (mine, tensor) in enumerate(zip(fast, tensors)):
            mine.copy_(alpha * tensor if i % 2 else tensor)


# %%
track = course(watch=(5, 10, 20, 60, 90, 120, 180))
plain = [tensor.detach().clone() for tensor in fast]
curve = pd.DataFrame(track).T
curve[["general", *LEVELS]].astype(float).round(2)

# %%
# NBVAL_CHECK_OUTPUT
at_end = track[3 * STEPS]
print("less than half of the general score is left:", bool(at_end["general"] < 0.5 * first["general"]))
print("the stage taught easy questions:", bool(track[STEPS]["easy"] > first["easy"] + 0.03))
print("the last stages took most of that away again:", bool(at_end["easy"] < 0.5 * track[STEPS]["easy"]))
Image(png(course_figure(curve, LEVELS, STEPS)), width=680)

# %% [markdown]
# Each stage is short, so it teaches only a part of its questions. Now the prompts of section 1 again:

# %%
answers["after three stages"] = [generate_reply(model, tokenizer, prompt) for prompt in prompts]
pd.DataFrame(answers, index=prompts)

# %% [markdown]
# It does not become silent, and its answers are not nonsense: they name a hospital department or an urgency, which is
# what the hard examples ask for. The last stage decides how everything is answered, also the sum and the past tense.

# %% [markdown]
# ## 3 · The accuracy matrix
#
# Write the scores as a table R. A row is a moment: the base, then after each stage. A column is a set of
# questions. It fills row by row as training goes on; the marked cells are those just taught.

# %%
# NBVAL_CHECK_OUTPUT
moments = (0, STEPS, 2 * STEPS, 3 * STEPS)
R = np.array([[track[moment][name] for name in ("general", *LEVELS)] for moment in moments], dtype=float)
print("highest in its column, medical levels:", [LEVELS[i - 1] for i in (1, 2, 3) if R[:, i].argmax() == i])
Image(png(matrix_figure(R, ("general", *LEVELS))), width=960)

# %% [markdown]
# Read a column from top to bottom: each medical column is highest at its own stage (the marked cell). Columns of an
# ideal learner would rise once and stay.

# %% [markdown]
# ## 4 · Four numbers, by hand
#
# To compare methods, one needs few numbers. Take this small matrix: the base, two stages, three columns.
#
# | | general | A | B |
# |---|---|---|---|
# | base | 0.80 | 0.10 | 0.20 |
# | after A | 0.85 | 0.70 | 0.30 |
# | after B | 0.50 | 0.60 | 0.75 |
#
# General counts as learned in row 0, A in row 1, B in row 2.

# %% [markdown]
# With $R_{i,j}$ the score of column $j$ in row $i$, $S$ stages, so that row $S$ is the last, and column $j$ learned in
# row $j$:
#
# $$\text{BWT} = \frac1S \sum_{j<S} (R_{S,j} - R_{j,j}),\qquad
# \text{forgetting} = \frac1S \sum_{j<S} \big(\max_{i<S} R_{i,j} - R_{S,j}\big)$$
#
# $$\text{FWT} = \frac{1}{S-1} \sum_{j \ge 2} (R_{j-1,j} - R_{0,j}),\qquad
# \text{retention} = \frac{R_{S,0}}{R_{0,0}}$$
#
# Backward transfer (BWT) is what later stages did to what was learned, forward transfer (FWT) what a column gained
# before its own stage.
#
# **Predict** all four. (General has a trap.)

# %%
# NBVAL_CHECK_OUTPUT
small = [[0.80, 0.10, 0.20],
         [0.85, 0.70, 0.30],
         [0.50, 0.60, 0.75]]
by_hand = dict(bwt=((0.50 - 0.80) + (0.60 - 0.70)) / 2,
               forgetting=((0.85 - 0.50) + (0.70 - 0.60)) / 2,
               fwt=0.30 - 0.20,
               retention=0.50 / 0.80)
theirs = dict(bwt=bwt(small), forgetting=forgetting(small), fwt=fwt(small), retention=retention(0.80, 0.50))
for name, value in by_hand.items():
    print(f"{name:10} by hand {value:+.3f}, package {theirs[name]:+.3f}")

# %% [markdown]
# The trap: general rose to 0.85 after stage A. BWT counts from 0.80, where it was *learned*; forgetting counts from
# 0.85, the *best* it ever was. If these are the same, forgetting is −BWT.
#
# Now our own matrix. **Predict** the signs.

# %%
measured = dict(BWT=bwt(R), FWT=fwt(R), forgetting=forgetting(R), retention=retention(R[0, 0], R[-1, 0]))
pd.DataFrame([measured], index=["plain, three stages"]).round(3)

# %%
# NBVAL_CHECK_OUTPUT
print("BWT is a loss of more than 0.1:", measured["BWT"] < -0.1)
print("forgetting is at least as large:", measured["forgetting"] >= -measured["BWT"] - 1e-9)
print("nothing came for free (FWT below 0.1):", measured["FWT"] < 0.1)

# %% [markdown]
# FWT is 0.0: no stage raised the exact match of a level before its turn. The stages are short.
#
# **Chance.** Exact match is hardly reached by guessing. Many benchmarks score a *choice*: which option is most likely?
# With four options guessing gives 0.25. **Predict** this score of the tuned model, which
# writes almost no general answer exactly.

# %%
choices = Suite.from_examples(data.general_test.select(range(0, len(data.general_test), 8)), encoder)
before, after = (evaluate_suite(model, tokenizer, {"general": choices}, adapter, encoder, metric="accuracy")["general"]
                 for adapter in ("base", "fast"))
topics, _ = informative_topics(before)  # those on which the base is above chance
levels = {name: [scores[task]["by_topic"][topic][key] for task, topic in topics]
          for name, scores, key in (("base", before, "value"), ("tuned", after, "value"), ("chance", before, "chance"))}
print({name: round(float(np.mean(values)), 2) for name, values in levels.items()}, "topics:", len(topics))
print(f"without correction, retention would be {retention(levels['base'], levels['tuned']):.2f}")

# %% [markdown]
# ### Your turn: retention above chance
#
# ●○○ difficulty · ●●● importance · 8 minutes
#
# A model that has forgotten everything still guesses right at the chance level. So each topic's chance level is
# subtracted from its scores before and after training, and the sums over topics are compared:
#
# $$\text{retention} =
# \frac{\sum_\text{topics} (\text{after} - \text{chance})}{\sum_\text{topics} (\text{before} - \text{chance})}$$

# %%
# NBVAL_CHECK_OUTPUT
def retention_above_chance(before, after, chance):
    """before, after, chance: scores of the base, of the tuned model and of guessing, lists with an entry per topic."""
    return ...


cases = [([0.9], [0.6], [0.25]), ([0.9], [0.25], [0.25]), ([0.9, 0.5], [0.25, 0.5], [0.25, 0.25])]
answers = [retention_above_chance(*case) for case in cases]
retention_right = False
if ... in answers:
    print("Your turn.")
else:
    retention_right = bool(np.allclose(answers, [0.35 / 0.65, 0, 0.25 / 0.9]))
    print("Right." if retention_right else f"Not yet: {answers}; the second model only guesses, so it retains 0.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Two sums of differences, then one division. A mean of the topics' ratios would be another number, and infinite where
# the base itself only guesses.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def retention_above_chance(before, after, chance):
#     return sum(a - c for a, c in zip(after, chance)) / sum(b - c for b, c in zip(before, chance))
# ```
#
# </details>

# %%
theirs = chance_corrected_retention(before, after, topics)
lists = [levels[name] for name in ("base", "tuned", "chance")]
yours = retention_above_chance(*lists) if retention_right else theirs
print(f"retention of choices above chance: {yours:.2f}, by the package {theirs:.2f}")
print("equal:", bool(np.isclose(yours, theirs)))

# %% [markdown]
# More is retained in choices than in exact answers: of four options the right one may be the most likely, although the
# model writes something else. `train_icft` corrects retention for chance where it scores options. `tiny` is scored by
# exact match, with chance level 0.
#
# What all these numbers hide: *which* knowledge, and *when*.

# %% [markdown]
# ## 5 · What goes first?
#
# General topics are of two kinds. **Facts** must be known: the capital of Bhutan. **Rules** can be applied to new
# cases: adding, past tenses, finding an answer in a passage.
#
# **Predict.** Which kind goes first?

# %%
retained = pd.DataFrame({kind: curve[kind].astype(float) / first[kind] for kind in ("fact", "rule")})
gone = {kind: next((step for step in retained.index if retained[kind][step] < 0.5), None) for kind in retained}
for kind, step in gone.items():
    print(f"{kind}s: " + ("never below half" if step is None else f"below half after {step} steps") +
          f"; {retained[kind].iloc[-1]:.0%} left at the end")

# %%
# NBVAL_CHECK_OUTPUT
by_topic = pd.DataFrame({"early": track[10]["topics"], "end": at_end["topics"]}) / np.array(
    [[max(value, 1e-9)] for value in first["topics"].values()])
by_topic = by_topic.sort_values(["end", "early"])
kinds = {example["topic"]: example["kind"] for example in reversed(list(general))}
print("kinds:", sorted(set(kinds.values())), "topics:", len(by_topic))
Image(png(topics_figure(retained, by_topic, kinds)), width=880)

# %% [markdown]
# Both are nearly gone at the end; in between, more rules than facts are left. Topics differ too: after 10 steps (ticks)
# most have lost little, one about a fifth. A single number does not show that. This is one model and one seed, so it
# does not say what goes first in general.

# %% [markdown]
# ## 6 · Between the tuned model and the base
#
# Nothing in $W_0$ was erased: it is frozen, so without the adapter the model *is* the base. That follows from the
# construction and measures nothing; full fine-tuning overwrites the weights. The question to measure is whether a model
# *in between* has most of both.

# %% [markdown]
# In each layer the frozen weight $W_0$ is changed by $\Delta W = s\,B A$, with the adapter's matrices $A$, $B$ and its
# scale $s = 2$. With the **interpolation coefficient** $\alpha$,
#
# $$W_0 + \alpha\,\Delta W = (1 - \alpha)\,W_0 + \alpha\,(W_0 + \Delta W)$$
#
# is a position on the line from the base (0) to the tuned model (1). No training is needed: multiply each $B$ by
# $\alpha$.

# %%
# NBVAL_CHECK_OUTPUT
layer = next(module for module in model.modules() if hasattr(module, "lora_A"))
put(plain)
whole = layer.get_delta_weight("fast").detach().clone()
put(plain, alpha=0.3)
print("scaled B gives 0.3 of the change:", torch.allclose(layer.get_delta_weight("fast"), 0.3 * whole, atol=1e-6))
interpolate(model, fresh, plain, 0.3, rank=32, scale=2.0)  # the package interpolates between any two adapters
print("so does the package's interpolation from the base:",
      torch.allclose(layer.get_delta_weight("slow"), 0.3 * whole, atol=1e-5))

# %% [markdown]
# **Predict.** As $\alpha$ falls from 1 to 0: does the general score return evenly? Where is medicine lost?
#
# We score *hard* questions, the last taught. At each $\alpha$ we also measure how far the model has moved from its
# base; section 8 explains `medical_kl` and `general_kl`.

# %%
hard = [one for one in data.validation if one["task"] == "question" and one["level"] == "hard"]
probes = {"medical_kl": hard, "general_kl": list(data.general_validation)[::4]}
probes = {name: Suite.from_examples(examples, encoder, only_correct_option=True).encoded
          for name, examples in probes.items()}


def search_line(tensors, alphas=(0.2, 0.4, 0.6, 0.8, 1.0)):
    """Scores and divergences from the base at several α between it (0) and an adapter (1): a DataFrame by alpha."""
    found = {0.0: dict(first, medical_kl=0.0, general_kl=0.0)}
    for alpha in alphas:
        put(tensors, alpha)
        found[alpha] = dict(score(), **{name: mean_kl(model, encoded, "fast") for name, encoded in probes.items()})
    return pd.DataFrame(found).T.drop(columns="topics").astype(float)


plain_path = search_line(plain)
plain_path[["general", "hard", "medical_kl", "general_kl"]].round(3)

# %% [markdown]
# The plane of learning and retention: more is retained to the right, more is learned upwards, and the best corner is
# the upper right. A model is a point, $\alpha$ draws a path. On the dashed line each unit of learning would cost the
# same retention.

# %%
# NBVAL_CHECK_OUTPUT
end = plain_path.loc[1.0]
print("α = 0.2 has over 8 tenths of the general score:", bool(plain_path.general[0.2] > 0.8 * first["general"]))
better = plain_path[(plain_path.general > 1.5 * end.general) & (plain_path.hard > 0.5 * end.hard)]
print("at some α, general is half as much again and over half of the medicine is left:", len(better) > 0)
Image(png(plane_figure({"plain": plain_path})), width=620)

# %% [markdown]
# The path bends above the dashed line: the last part of $\Delta W$ costs much general score and adds little medicine.
# A smaller $\alpha$ is a better compromise, but none of those measured has more than half of both. ICFT's
# *consolidation* (lessons 05, 07) is a line search over $\alpha$ with a rule for where to stop.

# %% [markdown]
# ## 7 · A few old examples
#
# The other simple remedy: **replay**. Four of every 16 examples are now general ones, none of which is in the general
# test. The number of steps is the same, so there are a quarter fewer medical examples.
#
# **Predict.** Where will the new path be in the plane?

# %%
old = [encoder(example) for example in random.Random(0).sample(list(data.general_memory), 400)]
replay_track = course(watch=moments, replayed=old)
replay_path = search_line([tensor.detach().clone() for tensor in fast])
paths = {"plain": plain_path, "a quarter replayed": replay_path}
Image(png(plane_figure(paths)), width=620)

# %%
R_replay = np.array([[replay_track[moment][name] for name in ("general", *LEVELS)] for moment in moments], dtype=float)
table = pd.DataFrame({name: dict(general=matrix[-1, 0], easy=matrix[-1, 1], hard=matrix[-1, 3], BWT=bwt(matrix),
                                 forgetting=forgetting(matrix), retention=retention(matrix[0, 0], matrix[-1, 0]))
                      for name, matrix in (("plain", R), ("a quarter replayed", R_replay))}).T
table.round(3)

# %%
# NBVAL_CHECK_OUTPUT
print("replay retains over 0.1 more of the general score:", bool(R_replay[-1, 0] > R[-1, 0] + 0.1))
print("it forgets less:", forgetting(R_replay) < forgetting(R))

# %% [markdown]
# The replay path bends further to the upper right and ends lower. The easy column is still 0: no *medical* examples of
# earlier stages were replayed. ICFT avoids that: each stage adds a level to those before (lesson 03). It can also
# promote medical examples into its memory (lesson 05), which is off by default (no measured benefit).

# %% [markdown]
# ## 8 · How far has it moved?
#
# Forgetting is measured with old questions. Can it be seen without them? **KL(base ‖ tuned)** says how much the
# next-token probabilities $p$ of the base and $q$ of the tuned model differ, in *nats*; it is 0 only if they are equal:
#
# $$\text{KL}(p \,\|\, q) = \sum_i p_i \ln \frac{p_i}{q_i}\qquad\text{over all tokens } i$$
#
# **By hand**, three tokens: $p$ = (0.7, 0.2, 0.1), $q$ = (0.2, 0.2, 0.6).

# %%
# NBVAL_CHECK_OUTPUT
p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.2, 0.6])
hand = 0.7 * math.log(0.7 / 0.2) + 0.2 * math.log(0.2 / 0.2) + 0.1 * math.log(0.1 / 0.6)
print(f"KL(base ‖ tuned) {hand:.3f}; torch {F.kl_div(q.log(), p, reduction='sum'):.3f}")
print(f"the other way round {F.kl_div(p.log(), q, reduction='sum'):.3f}: it has a direction")

# %% [markdown]
# We average it over response tokens: once on *hard medical* questions, the new task, and once on *general* ones, both
# from validation data. A study of 2025, *RL's Razor*, says that the first predicts forgetting.
#
# **Predict.** Will one curve of forgetting against KL fit both of our runs?

# %%
Image(png(divergence_figure(paths)), width=800)


# %%
def same_order(points, key):
    """Spearman's rank correlation of KL and loss along a path: 1 if more of one is always more of the other."""
    return points[key].rank().corr((first["general"] - points.general).rank())


def lost_at(points, key, level):
    """General score lost where the path's KL is `level`, between its measured points."""
    return float(np.interp(level, points[key], first["general"] - points.general))


for key, where in (("medical_kl", "the new task"), ("general_kl", "general questions")):
    level = 0.5 * min(plain_path[key].max(), replay_path[key].max())
    lost = [lost_at(points, key, level) for points in (plain_path, replay_path)]
    print(f"KL on {where}, {level:.2f} nats: plain lost {lost[0]:.2f}, with replay {lost[1]:.2f}")

# %%
# NBVAL_CHECK_OUTPUT
print("along each path, further means more lost (rank correlation over 0.8):",
      all(same_order(path, key) > 0.8 for path in (plain_path, replay_path) for key in ("medical_kl", "general_kl")))

# %% [markdown]
# Along one path, KL and the score lost rise together. Across runs, KL *on the new task* does not determine forgetting:
# at the same KL, the run with replay lost less. KL on general questions is closer to it. One small model and one seed;
# lesson 09 uses many runs.

# %% [markdown]
# ## What was shown
#
# - Plain fine-tuning lowers the general score.
# - Scores of choices need a correction for chance.
# - The base is frozen, so $\alpha$ = 0 restores it by construction; in between are compromises.
# - Replay retains part of the general score and costs some medicine.
# - KL on the new task rises with forgetting along one path; across runs it does not determine it.

# %% [markdown]
# ## Exercises
#
# Put your own code in place of `...` and run the cell.
#
# ### 1 · Which stage did it? (easy, 4 minutes)

# %%
# NBVAL_CHECK_OUTPUT
def culprit(R):
    """R: list of rows [general, …]. The stage (1, 2, …) in which the general score fell most."""
    return ...


cases = [[[0.9, 0.0], [0.7, 0.5], [0.1, 0.6], [0.0, 0.7]], [[0.9], [0.5], [0.4]], [[0.5], [0.6], [0.7], [0.65]]]
answers = [culprit(case) for case in cases]
if ... in answers:
    print("Your turn.")
else:
    print("Right." if answers == [2, 1, 3] else f"Not yet: {answers}; the first case falls by 0.2, 0.6 and 0.1.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# The fall at stage i is `R[i - 1][0] - R[i][0]`. `max` over the stages, with that as its key.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def culprit(R):
#     return max(range(1, len(R)), key=lambda i: R[i - 1][0] - R[i][0])
# ```
#
# </details>

# %% [markdown]
# ### 2 · Forgetting, for any matrix (medium, 8 minutes)
#
# Column j is learned in row j; there are as many rows as columns. It must equal the package's on matrices you have
# not seen.

# %%
# NBVAL_CHECK_OUTPUT
def forgotten(R):
    """Mean, over all columns but the last, of the best score in any earlier row minus that in the last row."""
    return ...


draw = np.random.default_rng(0)
cases = [small, *(draw.random((n, n)).round(2).tolist() for n in (2, 3, 5))]
answers = [forgotten(case) for case in cases]
if ... in answers:
    print("Your turn.")
elif np.allclose(answers, [forgetting(case) for case in cases]):
    print("Right.")
else:
    case, mine = next((c, a) for c, a in zip(cases, answers) if not np.isclose(a, forgetting(c)))
    print(f"Not yet: {case} has {forgetting(case):.3f}, yours {mine:.3f}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# The best earlier score may be in *any* row before the last, even one before the column was taught.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def forgotten(R):
#     columns = range(len(R[0]) - 1)
#     return sum(max(row[j] for row in R[:-1]) - R[-1][j] for j in columns) / len(columns)
# ```
#
# </details>

# %% [markdown]
# ### 3 · How far may one go? (medium, 10 minutes)
#
# Measured candidates are few. Find the largest α at which the general score is still at least `minimum` (the retention
# constraint of lesson 05), taking the score to run straight between neighboring candidates. Scores fall as α grows.

# %%
# NBVAL_CHECK_OUTPUT
def furthest(alphas, general, minimum):
    """alphas rising from 0.0; general falling. The largest alpha with general ≥ minimum; None if there is none."""
    return ...


path = ([0.0, 0.5, 1.0], [0.9, 0.8, 0.2])
answers = [furthest(*path, minimum) for minimum in (0.85, 0.5, 0.1, 0.9, 0.95)]
if ... in answers:
    print("Your turn.")
elif answers[4] is None and None not in answers[:4] and np.allclose(answers[:4], [0.25, 0.75, 1.0, 0.0]):
    print("Right.")
else:
    print(f"Not yet: {answers}; the first should be half-way between 0 and 0.5.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Go through neighboring candidates from the far end. In the first stretch whose near end is allowed, solve the straight
# line for α.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def furthest(alphas, general, minimum):
#     if general[0] < minimum:
#         return None
#     for i in range(len(alphas) - 1, 0, -1):
#         if general[i] >= minimum:
#             return alphas[i]
#         if general[i - 1] >= minimum:
#             share = (general[i - 1] - minimum) / (general[i - 1] - general[i])
#             return alphas[i - 1] + share * (alphas[i] - alphas[i - 1])
# ```
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [Gradient Episodic Memory](https://arxiv.org/abs/1706.08840) (2017): BWT and FWT
# - [Riemannian Walk](https://arxiv.org/abs/1801.10112) (2018): forgetting, and failure to learn
# - [WiSE-FT](https://arxiv.org/abs/2109.01903) (2022): interpolation between base and tuned model
# - [RL's Razor](https://arxiv.org/abs/2509.04259) (2025): the claim about KL in section 8
# - [LoRA Learns Less and Forgets Less](https://arxiv.org/abs/2405.09673) (2024): the same plane, large models
#
# Assignment A6, A small study, builds on this lesson: see the [instructor's
# guide]({{repository}}/blob/main/docs/instructors.md#assignments).

# %%
# NBVAL_CHECK_OUTPUT
print_peak(2)
