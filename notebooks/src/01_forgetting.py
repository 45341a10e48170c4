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
# Before we fix a thing we look at it. You fine-tune the small base plainly, stage after stage, and watch what it
# knew go while medicine comes. You learn to put a number on that, and try the two simplest remedies: to interpolate
# back towards the base, and to show it a few old examples.

# %% [markdown]
# **You will be able to**
#
# - fill an accuracy matrix, and compute BWT, FWT, forgetting and retention from it by hand;
# - say what goes first, and show that most of it is not erased;
# - draw a model as a point in the plane of learning and retention, and move it along the line to its base;
# - measure how far a model has moved from its base (KL), and set that against what it forgot.
#
# **You need** lesson 00, and basic PyTorch.

# %% [markdown]
# {{budget}}
#
# Run the cells from top to bottom. Where the text says **predict**, write down a guess first.
#
# The measures are the field's own; the remedies are not the paper's. How we set things up for small models is
# *our reading*. Teaching material: **not medical advice**.

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
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from icft_lite import Encoder, add_adapters, evaluate_suite, load_base, sample_bundle
from icft_lite.evaluation import Suite
from icft_lite.experiments.study import divergence
from icft_lite.memory.consolidation import interpolate
from icft_lite.metrics import bwt, forgetting, fwt, retention
from icft_lite.modeling.adapters import adapter_tensors
from icft_lite.modeling.generation import generate_reply
from icft_lite.modeling.packing import join_batch
from icft_lite.reporting.figures import GENERAL, GREY, INK, MEDICAL, RC, png
from icft_lite.reporting.figures import LEVELS as LEVEL_COLORS
from icft_lite.utils.hardware import peak_memory

warnings.simplefilter("ignore", FutureWarning)
LEVELS = ("easy", "medium", "hard")


def canvas(panels, size, **options):
    with rc_context(RC):
        figure = Figure(figsize=size)
        return figure, figure.subplots(1, panels, squeeze=False, **options).ravel()


# %% [markdown]
# The base and an adapter (lesson 00: a small trainable addition to a frozen model). `fast` lists the adapter's
# tensors, two a layer: A and B (section 6). A has `rank` rows; alpha ÷ rank, here 2, is a fixed factor of their product
# (lesson 04). The model computes in *fp32*, the usual 32-bit floats, on the CPU, so that numbers do not depend on a
# GPU.

# %%
base, tokenizer = load_base(device="cpu")
size = base.num_parameters()
model = add_adapters(base, rank=32, alpha=64, seed=0)
fast = adapter_tensors(model, "fast")
fresh = [tensor.detach().clone() for tensor in fast]
encoder, data = Encoder(tokenizer), sample_bundle()
print(f"base: {size / 1e6:.1f} million numbers, "
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
first = score()
pd.DataFrame([{name: first[name] for name in ("general", *LEVELS)}], index=["base"]).round(2)

# %% [markdown]
# And some answers in full, to compare with later. One of them is medical.

# %%
prompts = ["What is the name of the capital city of Bhutan?", "Write the verb repair in the past tense.",
           "What is 3 plus 4?", "What does the medical term nephromegaly mean?"]
answers = {"the base": [generate_reply(model, tokenizer, prompt) for prompt in prompts]}
pd.DataFrame(answers, index=prompts)

# %% [markdown]
# ## 2 · Plain fine-tuning, by hand
#
# Take 16 examples. Run the model; at each position where a response token should come, compute how likely it found that
# token; change the adapter so that it becomes more likely. That is all. Prompts are not trained on: `row` (of the batch
# tensor) and `position` say where a response token is predicted, `target` which one.


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
# Three **stages**, 60 steps each: easy examples, then medium ones, then hard ones. A stage never sees examples of
# another.
# (Lesson 00's "plain QLoRA" mixes all of them and adds the pool. Here we want to see stages hurt each other.)
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
figure, (axis,) = canvas(1, (8, 4))
lines = [("general", GENERAL, "o-", 2.6)] + [(level, LEVEL_COLORS[i], ("^", "s", "D")[i] + "--", 1.6)
                                             for i, level in enumerate(LEVELS)]
for name, color, style, width in lines:
    axis.plot(curve.index, curve[name].astype(float), style, color=color, linewidth=width, label=name)
axis.axhline(first["general"], color=GENERAL, linewidth=1, linestyle=":")
for number, level in enumerate(LEVELS):
    axis.axvline(number * STEPS, color=GREY, linewidth=1)
    axis.text(number * STEPS + 2, 1.06, f"trained on: {level}", color=GREY, fontsize=9)
axis.set(xlabel="optimizer steps (dotted: the base's general score)", ylabel="exact match (0–1), test questions",
         ylim=(-0.03, 1.14))
figure.legend(*axis.get_legend_handles_labels(), frameon=False, loc="outside lower center", ncols=4)
axis.set_title("Scores during plain fine-tuning in three stages, seed 0", loc="left")
Image(png(figure), width=680)

# %%
# NBVAL_CHECK_OUTPUT
at_end = track[3 * STEPS]
print("less than half of the general score is left:", bool(at_end["general"] < 0.5 * first["general"]))
print("the stage taught easy questions:", bool(track[STEPS]["easy"] > first["easy"] + 0.03))
print("the last stages took most of that away again:", bool(at_end["easy"] < 0.5 * track[STEPS]["easy"]))

# %% [markdown]
# The same questions again:

# %%
answers["after three stages"] = [generate_reply(model, tokenizer, prompt) for prompt in prompts]
pd.DataFrame(answers, index=prompts)

# %% [markdown]
# Look at *how* it is wrong. Is it silent, does it babble, or does it answer in the manner of the examples it saw last?
# Keep your impression for section 6.

# %% [markdown]
# ## 3 · The accuracy matrix
#
# Write the scores as a table R. A row is a moment: the base, then after each stage. A column is a set of
# questions. It fills row by row as training goes on; the marked cells are those just taught.

# %%
moments = (0, STEPS, 2 * STEPS, 3 * STEPS)
R = np.array([[track[moment][name] for name in ("general", *LEVELS)] for moment in moments], dtype=float)
figure, axes = canvas(4, (12, 3.2), sharey=True)
for stage, axis in enumerate(axes):
    shown = np.where(np.arange(4)[:, None] <= stage, R, np.nan)
    axis.imshow(shown, cmap="Blues", vmin=0, vmax=1.2)
    for (i, j), value in np.ndenumerate(shown):
        if i <= stage:
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.7 else INK,
                      fontweight="bold" if i == j else "normal")
    axis.add_patch(Rectangle((stage - 0.5, stage - 0.5), 1, 1, fill=False, edgecolor=MEDICAL, linewidth=2.5))
    axis.set_xticks(range(4), ["general", *LEVELS])
    axis.set_title("base" if stage == 0 else f"after {LEVELS[stage - 1]}", loc="left")
    axis.grid(False)
axes[0].set_yticks(range(4), ["base", *(f"after {level}" for level in LEVELS)])
Image(png(figure), width=960)

# %% [markdown]
# Read a column from top to bottom. It rises at its own stage (the marked cell) and falls after it. An ideal learner
# would have columns that rise once and stay.

# %% [markdown]
# ## 4 · Four numbers, by hand
#
# To compare methods one wants few numbers. Take this small matrix: the base, two stages, three columns.
#
# | | general | A | B |
# |---|---|---|---|
# | base | 0.80 | 0.10 | 0.20 |
# | after A | 0.85 | 0.70 | 0.30 |
# | after B | 0.50 | 0.60 | 0.75 |
#
# General counts as learned in row 0, A in row 1, B in row 2.

# %% [markdown]
# - **BWT**, backward transfer: what later stages did to a column since it was learned; the mean over all columns but
#   the last. Below 0 is a loss.
# - **Forgetting**: the same from the *best* earlier score instead. Above 0 is a loss.
# - **FWT**, forward transfer: what a column gained *before* its own stage; columns learned at stage 2 or later.
# - **Retention**: the general score at the end ÷ at the start.
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
# 0.85, the *best* it ever was. If each column's best earlier score is the one at its own stage, the two are the
# same but for the sign.
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
# What the four numbers hide: *which* knowledge, and *when*.

# %% [markdown]
# ## 5 · What goes first?
#
# General topics are of two kinds. **Facts** must be known by heart: the capital of Bhutan. **Rules** can be applied to
# new cases: adding, past tenses, finding an answer in a passage.
#
# **Predict.** Which kind goes first?

# %%
retained = pd.DataFrame({kind: curve[kind].astype(float) / first[kind] for kind in ("fact", "rule")})
gone = {kind: next((step for step in retained.index if retained[kind][step] < 0.5), None) for kind in retained}
for kind, step in gone.items():
    print(f"{kind}s: " + ("never below half" if step is None else f"below half after {step} steps") +
          f"; {retained[kind].iloc[-1]:.0%} left at the end")

# %%
topics = pd.DataFrame({"early": track[10]["topics"], "end": at_end["topics"]}) / np.array(
    [[max(value, 1e-9)] for value in first["topics"].values()])
topics = topics.sort_values(["end", "early"])
kinds = {example["topic"]: example["kind"] for example in reversed(list(general))}
figure, axes = canvas(2, (11, 4.4), width_ratios=[1, 1.1])
for kind, color, style in (("fact", MEDICAL, "o-"), ("rule", GENERAL, "s--")):
    axes[0].plot(retained.index, retained[kind], style, color=color, linewidth=2, label=f"{kind}s")
    mine = [i for i, name in enumerate(topics.index) if kinds[name] == kind]
    axes[1].barh(mine, topics["end"].iloc[mine], color=color, height=0.7)
    axes[1].plot(topics["early"].iloc[mine], mine, "|", color=color, markersize=11, markeredgewidth=2)
axes[0].set(xlabel="optimizer steps", ylabel="retention: share of the base's score", ylim=(-0.03, 1.08))
axes[0].legend(frameon=False)
axes[1].set_yticks(range(len(topics)), topics.index, fontsize=8)
axes[1].set(xlabel="retention: bar after three stages, tick after 10 steps", xlim=(0, 1.15))
axes[0].set_title("Facts and rules", loc="left")
axes[1].set_title("Topic by topic", loc="left")
Image(png(figure), width=880)

# %% [markdown]
# One model and one seed: do not read too much into who wins. In our trials with another base facts went clearly
# first. What one can rely on is that topics do not go evenly, which a single number would not have shown.

# %% [markdown]
# ## 6 · Is it erased? Interpolate towards the base and see
#
# In each layer the product of the adapter's two matrices is a change to the frozen weight W0: ΔW = scale · B·A, where
# scale is the fixed factor of the start, 2. Multiply ΔW by another number, α, between 0 and 1:
#
# W0 + α·ΔW = (1 − α)·W0 + α·(W0 + ΔW)
#
# So α, the **interpolation coefficient**, is a position on the straight line from the base (0) to the tuned model (1).
# No training is needed to go there: multiply each B by α.

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
# **Predict.** As α falls from 1 to 0: does general skill return evenly? Where is medicine lost?
#
# We look at *hard* questions, the last taught. At each α we also measure how far the model has moved from its
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
        found[alpha] = dict(score(), **{name: divergence(model, encoded) for name, encoded in probes.items()})
    return pd.DataFrame(found).T.drop(columns="topics").astype(float)


plain_path = search_line(plain)
plain_path[["general", "hard", "medical_kl", "general_kl"]].round(3)

# %% [markdown]
# The plane of learning and retention: more is retained to the right, more is learned upwards. A model is a point, α
# draws a path. The best corner is the upper right. The straight dashed line is a fixed price: so much learning for so
# much retention.


# %%
def plane(paths):
    figure, (axis,) = canvas(1, (7, 4.6))
    looks = (MEDICAL, "s-", (-7, -13)), (GENERAL, "o-", (7, 4))
    for (name, points), (color, style, away) in zip(paths.items(), looks):
        axis.plot(points.general, points.hard, style, color=color, linewidth=2, label=name)
        for alpha in points.index[1:]:
            axis.annotate(f"{alpha:g}", (points.general[alpha], points.hard[alpha]), color=color, fontsize=9,
                          textcoords="offset points", xytext=away, ha="right" if away[0] < 0 else "left")
        axis.plot(points.general.iloc[[0, -1]], points.hard.iloc[[0, -1]], "--", color=color, linewidth=1)
    axis.plot(first["general"], first["hard"], "*", color=INK, markersize=16, label="base")
    axis.set(xlabel="general exact match (0–1): retained", ylabel="hard medical exact match (0–1): learned",
             xlim=(-0.06, 1.02), ylim=(-0.02, None))
    axis.legend(frameon=False)
    axis.set_title("Learning against retention; numbers are α", loc="left")
    return figure


Image(png(plane({"plain": plain_path})), width=620)

# %%
# NBVAL_CHECK_OUTPUT
end = plain_path.loc[1.0]
print("at α = 0.2, over 8 tenths of general skill are there:", bool(plain_path.general[0.2] > 0.8 * first["general"]))
better = plain_path[(plain_path.general > 1.5 * end.general) & (plain_path.hard > 0.5 * end.hard)]
print("at some α, general is half as much again and over half of the medicine is left:", len(better) > 0)

# %% [markdown]
# No old example was seen again, and yet old skill is back. So it was **not erased**: the change lay over it. Where the
# path bends above the dashed line, a smaller α costs little medicine and regains much. ICFT's *consolidation*
# (lesson 05) is this line search over α, with a rule for where to stop.

# %% [markdown]
# ## 7 · A few old examples
#
# The other simple remedy: **replay**. Four of every 16 examples are now general ones. None of them asks what the
# general test asks. The number of steps is the same, so there are a quarter fewer medical examples.
#
# **Predict.** Where will the new path lie in the plane?

# %%
old = [encoder(example) for example in random.Random(0).sample(list(data.general_memory), 400)]
replay_track = course(watch=moments, replayed=old)
replay_path = search_line([tensor.detach().clone() for tensor in fast])
Image(png(plane({"plain": plain_path, "a quarter replayed": replay_path})), width=620)

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
# Look at the easy column too: no *medical* examples of earlier stages were replayed. That is why ICFT promotes medical
# examples into its memory as it goes.

# %% [markdown]
# ## 8 · How far has it moved?
#
# Forgetting can only be measured with old questions. Could one see it coming without them? A model gives each
# possible next token a probability. **KL(base ‖ tuned)** says how much two such distributions differ:
#
# Σ p_base · ln(p_base / p_tuned), in *nats*; 0 only if they are equal.
#
# **By hand**, three tokens: base (0.7, 0.2, 0.1), tuned (0.2, 0.2, 0.6).

# %%
# NBVAL_CHECK_OUTPUT
p, q = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.2, 0.2, 0.6])
hand = 0.7 * math.log(0.7 / 0.2) + 0.2 * math.log(0.2 / 0.2) + 0.1 * math.log(0.1 / 0.6)
print(f"KL(base ‖ tuned) {hand:.3f}; torch {F.kl_div(q.log(), p, reduction='sum'):.3f}")
print(f"the other way round {F.kl_div(p.log(), q, reduction='sum'):.3f}: it has a direction")

# %% [markdown]
# We average it over response tokens: once on *hard medical* questions, the new task, and once on *general*
# ones. (Other questions than the test's.) A study of 2025, *RL's Razor*, says that the first predicts forgetting.
#
# **Predict.** Will one line of "KL against forgetting" do for both of our runs?

# %%
figure, axes = canvas(2, (10, 4), sharey=True)
for axis, key, title in zip(axes, ("medical_kl", "general_kl"), ("on the new task", "on general questions")):
    for points, name, color, style in ((plain_path, "plain", MEDICAL, "s-"),
                                       (replay_path, "a quarter replayed", GENERAL, "o-")):
        axis.plot(points[key], first["general"] - points.general, style, color=color, linewidth=2, label=name)
    axis.set_xlabel("KL(base ‖ tuned), nats a token")
    axis.set_title(title, loc="left")
axes[0].set_ylabel("general score lost (0–1)")
axes[0].legend(frameon=False)
Image(png(figure), width=800)


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
# Along one path, KL and the score lost rise together. Whether one line serves for both runs, you see above: how far
# a model moved *on the new task* need not show where else it moved. A small model and one seed settle nothing;
# lesson 09 asks again with many runs.

# %% [markdown]
# ## What was shown
#
# - Plain fine-tuning takes general skill within some dozens of steps, and each stage takes the one before.
# - The accuracy matrix holds all of it; BWT, FWT, forgetting and retention are four ways to read it.
# - Old skill is overlaid, not erased: as α falls towards the base it returns before the medicine is all gone.
# - A few replayed examples retain a good part of what is like them.
# - KL from the base goes along with forgetting on one path; across methods look twice.

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
answers = [furthest(*path, minimum) for minimum in (0.85, 0.5, 0.1, 0.95)]
if ... in answers:
    print("Your turn.")
elif answers[3] is None and None not in answers[:3] and np.allclose(answers[:3], [0.25, 0.75, 1.0]):
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
# - [Gradient Episodic Memory](https://arxiv.org/abs/1706.08840) (Lopez-Paz and Ranzato, 2017): where BWT and FWT come
#   from; section 2 is enough.
# - [Riemannian Walk](https://arxiv.org/abs/1801.10112) (Chaudhry and others, 2018): forgetting, and its companion,
#   the failure to learn.
# - [WiSE-FT](https://arxiv.org/abs/2109.01903) (Wortsman and others, 2022): interpolation between the base and the
#   tuned model, with many plots.
# - [RL's Razor](https://arxiv.org/abs/2509.04259) (Shenfeld and others, 2025): the claim about KL that section 8
#   tries out.
# - [LoRA Learns Less and Forgets Less](https://arxiv.org/abs/2405.09673) (Biderman and others, 2024): the same plane
#   for large models.

# %% [markdown]
# Assignment A6, A small study, builds on this lesson: see the [instructor's
# guide]({{repository}}/blob/main/docs/instructors.md#assignments).

# %%
# NBVAL_CHECK_OUTPUT
peak = peak_memory() / 2**30
print("within the memory declared at the top:", peak < 2)
