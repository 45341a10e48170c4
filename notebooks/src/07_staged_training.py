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
# # 07 · Staged training
#
# You have seen the parts: labels, curriculum, adapters, memory, losses. Here they run together. You watch a whole
# training live, look at what happens between its stages, then kill it with the hardest signal there is, and
# get the same adapter back, byte for byte.

# %% [markdown]
# **You will be able to**
#
# - read a training while it runs;
# - say what happens at a stage's end, and in which order;
# - draw an accuracy matrix and read learning and forgetting from it;
# - kill a run, resume it, and explain why the result is the same to the byte;
# - find out why a run learned nothing, never stops, or forgot everything.
#
# **You need** lessons 00 to 06.

# %% [markdown]
# {{budget}}
#
# Run the cells from top to bottom. Where the text says **predict**, write down a guess first.
#
# The paper names stages, memories and their coordination, and says no more: how they work here is
# *our reading*. Teaching material: **not medical advice**.

# %% [markdown]
# ## Set-up
#
# A GPU adds numbers up in whatever order they come, so two runs need not agree to the last bit. This lesson is
# about bytes: it hides the GPU and stays on the CPU.

# %%
# {{setup}}

# %%
import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch is imported; the process we shall kill inherits it

import copy
import hashlib
import random
import runpy
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from IPython.display import Image
from matplotlib import rc_context
from matplotlib.figure import Figure

from icft_lite import Encoder, ICFTConfig, ShortTermMemory, load_base, train_icft
from icft_lite.metrics import bwt, forgetting, mean_score
from icft_lite.reporting.figures import DASHED, GENERAL, GREY, INK, MEDICAL, RC, png
from icft_lite.training.checkpoint import STEP_FILE, load_state
from icft_lite.training.plan import plan_stage
from icft_lite.utils.hardware import peak_memory
from icft_lite.widgets import Dashboard, dashboard_figure

warnings.simplefilter("ignore", FutureWarning)
runs = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1 · A run, small enough to watch
#
# To fit into seconds, this run takes one medical topic a stage and six general ones. It is a program in a file, so
# that another process can run the very same thing later.

# %%
program = '''
"""ICFT in seconds: python small.py FOLDER"""
import sys
from dataclasses import replace

from icft_lite import sample_bundle, train_icft

TOPICS = {"anatomy", "hormones", "urgency",  # easy, medium, hard
          "animal_class", "continent", "comparison", "opposite", "past_tense", "plural"}
MOST = dict(trusted=60, pool=30, validation=12, test=24,
            general_memory=40, general_validation=8, general_test=12)
SETTINGS = {"optim.max_tokens": 40_000, "long_term.self_prompts": 0,
            "consolidation.max_drop": 0.15, "runtime.save_steps": 5}

def few(examples, most):
    """At most so many examples of each topic."""
    seen, chosen = dict.fromkeys(TOPICS, 0), []
    for i, topic in enumerate(examples["topic"]):
        if topic in TOPICS and seen[topic] < most:
            seen[topic] += 1
            chosen.append(i)
    return examples.select(chosen)

def small_bundle():
    data = sample_bundle()
    return replace(data, **{name: few(getattr(data, name), most) for name, most in MOST.items()})

if __name__ == "__main__":
    train_icft(SETTINGS, sys.argv[1], small_bundle(), progress=False)
'''
_ = (runs / "small.py").write_text(program)

# %%
# NBVAL_CHECK_OUTPUT
small = runpy.run_path(str(runs / "small.py"))  # what the file defines
SETTINGS, data = small["SETTINGS"], small["small_bundle"]()
for name in ("trusted", "pool", "test", "general_memory", "general_test"):
    print(f"{name:15} {len(getattr(data, name)):4} examples, {len(set(getattr(data, name)['topic']))} topics")

# %% [markdown]
# `runtime.save_steps: 5` saves the state of the run every five steps (by default, about once a minute).
# `consolidation.max_drop: 0.15` is generous: it lets 15 % of the general score be lost, so that something is learned in
# so short a time.
#
# **Predict.** At the very first step, L_consistency is zero. Why? And will it stay there?

# %% [markdown]
# The dashboard is a *callback*: an object whose methods the trainer calls, at every step among others. Show it,
# start the training in the next cell, and watch. It would work with any `transformers.Trainer`.

# %%
dashboard = Dashboard()
dashboard.panel

# %%
started = time.time()
report = train_icft(SETTINGS, runs / "whole", data, progress=False, callbacks=[dashboard])
print(f"{time.time() - started:.0f} s, of which drawing {dashboard.draw_seconds:.2f} s")
print(*dashboard.lines, sep="\n")

# %% [markdown]
# Where widgets do not run, the same picture comes from the report that every run leaves behind:

# %%
dashboard_figure(report)

# %% [markdown]
# | you see | what it shows |
# |---|---|
# | L_fine-tune | should fall; it rises at new material, which may come late: a stage begins with its easiest rows |
# | L_task | zero in steps without an uncertain question (a confident one has one option left); no pairs here |
# | L_consistency | how far the student is from its teachers on memory examples: it rises, then should level off |
# | accuracy | on the test, after each stage; hollow: candidates of consolidation, on validation of the stages so far |
# | memory | examples by source; full means that some must be evicted |
# | rate, time left | at the speed so far; stages' ends count too, once one was seen |

# %%
# NBVAL_CHECK_OUTPUT
losses = pd.DataFrame(report["losses"])
weight = report["config"]["loss"]["consistency_weight"]
parts = weight * losses["consistency"] + losses["task"] + losses["fine_tune"]
print("total = weight · consistency + task + fine-tune:", bool(np.allclose(losses["total"], parts, atol=1e-4)))
print("consistency starts at zero:", losses["consistency"].iloc[0] < 1e-4)
print("and does not stay there:", losses["consistency"].max() > 1e-3)

# %% [markdown]
# At the first step the student *is* its teacher: a new adapter adds nothing to the base (lesson 04). There is nothing
# to disagree about yet.

# %% [markdown]
# ## 2 · What happens at a stage's end
#
# 1. **Promote**: examples that were replayed three times or more, and whose labels are confident, go into the long-term
#    memory.
# 2. **Consolidate**: choose the long-term adapter by a line search over the interpolation coefficient α, between the
#    adapter before the stage, or the base, and the adapter now.
# 3. **Score** it on the tests, **save** everything.
# 4. The next stage starts there, and **refreshes** the teachers first.

# %%
stages = pd.DataFrame(report["stages"]).set_index("name")
stages["α"] = [record["alpha"] for record in stages["consolidation"]]
stages["taught by memory"] = [round(share["memory"], 2) for share in stages["teacher_share"]]
stages[["steps", "candidates", "gated", "promoted", "evicted", "memory_examples", "α", "taught by memory"]]

# %% [markdown]
# `gated` examples were rejected because their weak label was not confident enough. `taught by memory` is the share of
# memory examples that the long-term adapter knows better than the base does, so that it becomes their teacher.
#
# **Predict.** Why is it 0 in the first stage?

# %%
# NBVAL_CHECK_OUTPUT
sizes = stages["memory_examples"].tolist()
change = (stages["promoted"] - stages["evicted"]).tolist()
print("examples add up:", [sizes[i] == sizes[i - 1] + change[i] for i in (1, 2)])
print("the base teaches all of stage 1:", bool(stages["taught by memory"].iloc[0] == 0))
print("sources add up:", all(sum(s.values()) == n for s, n in zip(stages["memory_sources"], sizes)))

# %% [markdown]
# Before the first stage the long-term adapter adds nothing: it *is* the base, so it can know nothing better.
#
# Why this order? Promotion judges surprise by the slow adapter as the stage left it, so it comes before
# consolidation moves it. Teachers come last: they must be the adapter that was chosen.

# %% [markdown]
# ### The line search
#
# Consolidation searches from the new long-term adapter (α = 1) towards the old one (0). If the new one violates the
# **retention constraint** (general score ÷ the base's ≥ 1 − `max_drop`), it also searches towards the base (0).
# Each candidate is scored on *validation* questions; a search ends once the medical score is below that of the best
# allowed candidate so far. The best allowed candidate is taken. Where the run's end is best, the search from the base
# continues beyond it, up to 1.2 or until the constraint is violated.
#
# **Predict.** Along the line, which curve falls, which rises?

# %%
min_retention = 1 - SETTINGS["consolidation.max_drop"]
min_general = min_retention * mean_score(report["validation"]["before"]["general"])
with rc_context(RC):
    figure = Figure(figsize=(10, 3.2))
    axes = figure.subplots(1, 3, sharey=True)
for axis, stage in zip(axes, report["stages"]):
    chosen = stage["consolidation"]
    for origin, tried in pd.DataFrame(chosen["candidates"]).sort_values("alpha").groupby("origin"):
        hollow = dict(fillstyle="none", linestyle=":") if origin == "base" else dict(linestyle="-")
        names = (f"{name}, from the {origin}" for name in ("general", "medical"))
        axis.plot(tried["alpha"], tried["general"], marker="o", color=GENERAL, label=next(names), **hollow)
        axis.plot(tried["alpha"], tried["medical"], marker="s", color=MEDICAL, label=next(names), **hollow)
    axis.axhline(min_general, color=GREY, label="retention constraint", **DASHED)
    axis.axvline(chosen["alpha"], color=INK, linewidth=6, alpha=0.15)
    axis.set_title(f"{stage['name']}: α = {chosen['alpha']}, from the {chosen['origin']}", loc="left")
    axis.set_xlabel("α: 0 the start (or base), 1 the end")
axes[0].set_ylabel("validation score (0–1)")
axes[0].set_ylim(-0.03, 1.03)
axes[1].legend(frameon=False, loc="lower right", fontsize=8)
Image(png(figure), width=900)

# %% [markdown]
# Dashed is the retention constraint; the gray bar is the choice. The medical score is that of the stages so far, so it
# can start above 0. With so few questions a curve is not smooth: a single answer moves it. On the whole the general
# score falls towards α = 1 and the medical one rises; here both are nearly flat.

# %%
# NBVAL_CHECK_OUTPUT
def choice(record):
    """The best medical score that meets the retention constraint; ties are broken by the general score."""
    allowed = [one for one in record["candidates"] if one["retention"] >= min_retention]
    return max(allowed, key=lambda one: (one["medical"], one["general"]))["alpha"] if allowed else 0.0


records = [stage["consolidation"] for stage in report["stages"]]
print("the rule gives the run's α:", [choice(record) for record in records] == [r["alpha"] for r in records])

# %% [markdown]
# ## 3 · The accuracy matrix as it fills
#
# After each stage the model is scored on *everything*: also on what it learned before, and on what it has not met
# yet. A row is a moment, a column a subject. One row is added at a time.

# %%
matrix = np.array(report["accuracy_matrix"])
columns, moments = ["general", "easy", "medium", "hard"], ["base", *stages.index]


def heat(axis, matrix, known):
    """Draw the first `known` rows of an accuracy matrix [moments, subjects]; later ones stay blank."""
    shown = np.where(np.arange(len(matrix))[:, None] < known, matrix, np.nan)
    axis.imshow(shown, cmap="cividis", vmin=0, vmax=1)
    for i, j in np.argwhere(~np.isnan(shown)):
        axis.text(j, i, f"{shown[i, j]:.2f}", ha="center", va="center", fontsize=9,
                  color="white" if shown[i, j] < 0.5 else "black")
    axis.set_xticks(range(4), columns, fontsize=8)
    axis.set_yticks(range(4), moments, fontsize=8)
    axis.grid(False)


# %%
with rc_context(RC):
    figure = Figure(figsize=(11, 2.9))
    axes = figure.subplots(1, 4)
for known, axis in enumerate(axes, 1):
    heat(axis, matrix, known)
    axis.set_title(f"after {moments[known - 1]}" if known > 1 else "the base", loc="left")
Image(png(figure), width=960)

# %% [markdown]
# Read it **down a column**: how one subject fares. On the diagonal (easy after *easy*, and so on) is what was just
# learned; below it, what is left of that; above it, what came for nothing. *general* was learned by the base.

# %% [markdown]
# Two numbers sum it up. **Backward transfer** (BWT) is the mean of *last row minus when it was learned*, over the
# columns learned before the last stage; negative means loss. **Forgetting** is the mean of *best earlier score minus
# last*.

# %%
# NBVAL_CHECK_OUTPUT
learned = [0, 1, 2]  # general: row 0; easy: row 1; medium: row 2. Hard is learned in the last row
by_hand = np.mean([matrix[3, j] - matrix[i, j] for j, i in enumerate(learned)])
dropped = np.mean([matrix[:3, j].max() - matrix[3, j] for j in range(3)])
print("BWT agrees:", np.isclose(by_hand, bwt(matrix)) and np.isclose(by_hand, report["bwt"]))
print("forgetting agrees:", np.isclose(dropped, forgetting(matrix)) and np.isclose(dropped, report["forgetting"]))
print("forgetting is at least −BWT:", dropped >= -by_hand - 1e-9)

# %% [markdown]
# ## 4 · Kill it
#
# Long runs get killed: a session ends, a battery dies, a colleague takes the GPU. We start the same run in another
# process, wait until it is in the middle of stage 2, and send SIGKILL (`kill -9`). No program can catch it, say
# goodbye or tidy up.

# %%
def middle_of_stage(number, folder):
    """Has the run in `folder` saved a step of stage `number`?"""
    try:
        return load_state(folder / "state" / STEP_FILE)[1]["stage"] == number
    except FileNotFoundError:
        return False


with open(runs / "log.txt", "w") as log:
    victim = subprocess.Popen([sys.executable, "small.py", "killed"], cwd=runs, stdout=log, stderr=log)
while victim.poll() is None and not middle_of_stage(2, runs / "killed"):
    time.sleep(0.05)
victim.kill()

# %%
# NBVAL_CHECK_OUTPUT
print("killed, did not end by itself:", victim.wait() not in (0, 1) or os.name == "nt")
print("report or adapter:", [name for name in ("report.json", "adapter") if (runs / "killed" / name).exists()])
print(sorted(path.name for path in (runs / "killed" / "state").glob("*.safetensors")))

# %% [markdown]
# No adapter, no report. But `state` holds what stage 2 started from, and the last step that was saved. (It also has a
# cache of model outputs. It only saves time: computed again, they are the same.)
#
# **Predict.** A training step depends on weights, on the optimizer, on which examples come next, on their teachers, on
# random numbers. What must the file hold?

# %%
groups, facts = load_state(runs / "killed" / "state" / STEP_FILE)
print(f"stage {facts['stage']}, step {facts['step']}")
pd.DataFrame({"tensors": {name: len(many) for name, many in sorted(groups.items())},
              "KiB": {name: round(sum(t.nbytes for t in many) / 1024, 1) for name, many in groups.items()}})

# %%
# NBVAL_CHECK_OUTPUT
print(sorted(groups))
print(sorted(name for name in facts if "seconds" not in name))

# %% [markdown]
# Both adapters, and for each tensor of the fast one AdamW's two moving averages, its *moments* (`exp_avg`,
# `exp_avg_sq`), and its count of steps; also the position in the run, and the losses so far. That is all. No plan,
# no teachers, no ring, no state of a random generator: they can be computed again.

# %% [markdown]
# ## 5 · The same command again
#
# To resume, do nothing special: run the same command again. This time in our process, so that the dashboard can show
# it.
#
# **Predict.** Will the two adapters agree to 3 digits, to 6, or to the last bit?

# %%
again = Dashboard()
resumed = train_icft(SETTINGS, runs / "killed", data, progress=False, callbacks=[again])
print(*again.lines, sep="\n")


# %%
def sha256(run):
    return hashlib.sha256((runs / run / "adapter" / "adapter_model.safetensors").read_bytes()).hexdigest()


print("never stopped:      ", sha256("whole"))
print("killed and resumed: ", sha256("killed"))

# %%
# NBVAL_CHECK_OUTPUT
print("byte for byte equal:", sha256("whole") == sha256("killed"))
print("the same losses at every step:", resumed["losses"] == report["losses"])
print("the same accuracy matrix:", resumed["accuracy_matrix"] == report["accuracy_matrix"])

# %% [markdown]
# SHA-256 is a fingerprint: change one bit, and all of it changes. The dashboard also drew the steps that the dead
# process had done: they are in the state, too.

# %% [markdown]
# ## 6 · Why that works
#
# **First: the schedule is a pure function.** Which examples a step takes follows from (seed, stage, step) alone. The
# usual way, one random generator for everything, is different: what it gives next depends on all that it gave
# before, so a resumed run gets other examples, unless the generator's state was saved as well.

# %% tags=["from-scratch"]
def examples_by_generator(steps, generator):
    return [generator.sample(range(100), 4) for _ in steps]


def examples_by_step(steps, seed, stage):
    """A generator of its own for every step: nothing that went before matters."""
    return [random.Random(f"{seed}/{stage}/{step}").sample(range(100), 4) for step in steps]


# %%
# NBVAL_CHECK_OUTPUT
whole = examples_by_generator(range(6), random.Random(0))
print("generator, from step 3 on:", examples_by_generator(range(3, 6), random.Random(0)) == whole[3:])
whole = examples_by_step(range(6), seed=0, stage=2)
print("pure function, from step 3:", examples_by_step(range(3, 6), seed=0, stage=2) == whole[3:])
print("other stage, other examples:", examples_by_step(range(6), seed=0, stage=1) != whole)

# %% [markdown]
# The package plans a whole stage before it begins, `plan_stage` (lesson 05), from generators seeded with seed and
# stage. Plan it twice, and disturb the global generator in between:

# %%
# NBVAL_CHECK_OUTPUT
_, tokenizer = load_base()
encoder, config = Encoder(tokenizer), ICFTConfig()
encoded = [encoder(dict(example)) for example in data.trusted]


def plan(seed):
    ring = ShortTermMemory(config.short_term.size, config.short_term.promote_after, seed)
    return plan_stage(range(len(encoded)), encoded, data.trusted["topic"], encoded[:40], ring, config, 5000, seed=seed)


first = plan("0/1")
random.seed(99)
print("the same plan:", plan("0/1") == first, "· another seed, another plan:", plan("1/1") != first)

# %% [markdown]
# **Second: all else that a step needs is saved, or follows from what is.** Weights alone are not enough: AdamW
# divides each step by what past gradients were like. Here is a training of two numbers, stopped after 10 of 20
# steps. **Predict** in which case the end differs.

# %%
def fit(steps, state=None):
    """Fit two numbers to random points. state: what an earlier part left. Returns the state after `steps` steps."""
    w = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.AdamW([w], lr=0.1)
    at = 0
    if state:
        w.data.copy_(state["w"])
        at = state["step"]
        if "optimizer" in state:
            optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
    for step in range(at, at + steps):
        x = torch.randn(8, 2, generator=torch.Generator().manual_seed(step))  # a pure function of the step
        loss = ((x @ w - x @ torch.tensor([1.0, -2.0])) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return dict(w=w.detach().clone(), step=at + steps, optimizer=optimizer.state_dict())


# %%
# NBVAL_CHECK_OUTPUT
whole, half_way = fit(20), fit(10)
no_moments = {key: half_way[key] for key in ("w", "step")}
no_step = {**half_way, "step": 0}
for name, state in (("all of it", half_way), ("no moments", no_moments), ("step counted from 0", no_step)):
    print(f"{name:20}", torch.equal(fit(10, state)["w"], whole["w"]))

# %% [markdown]
# **Third: one file, written under another name and renamed.** A kill may come while the file is being written. So the
# new state goes into another file (`.part`), is pushed to the disk (`fsync`), and only then takes the old one's name. A
# rename happens or does not: readers see the old state or the new, never half. And because it is *one* file,
# weights and moments are always of the same step.

# %%
# NBVAL_CHECK_OUTPUT
def save_carefully(path, text, killed=False):
    temporary = path.with_suffix(".part")
    with open(temporary, "w") as file:
        file.write(text[:len(text) // 2])
        if killed:
            return
        file.write(text[len(text) // 2:])
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


state = runs / "state.txt"
save_carefully(state, "step 5, complete")
save_carefully(state, "step 10, complete", killed=True)
print(state.read_text())

# %% [markdown]
# What was trained after the last save is trained again: `runtime.save_steps` sets how much that can be. It never
# changes the result.

# %% [markdown]
# ## 7 · Why my fine-tune learned nothing, never stops, or forgot everything
#
# Lesson 06 had checks for a single batch. These are for a whole run, and need nothing but its report: `stages`,
# `samples`, `config` and `data` are parts of it, `weak` is a part of `data`, `chosen` what consolidation did in each
# stage, `first` and `last` the mean of a tenth. A check that is *false* has found the problem.

# %% [markdown]
# | symptom | check | fix |
# |---|---|---|
# | learned nothing | `sum(s["steps"] for s in stages) > 20` | raise `optim.max_tokens`, `num_epochs` or `max_steps` |
# | learned nothing | `last(fine_tune) < first(fine_tune)` | raise `optim.learning_rate`; see lesson 06 |
# | learned nothing | `not all(c["refused"] for c in chosen)` | raise `consolidation.max_drop` or `long_term.share` |
# | learned nothing | `max(c["alpha"] for c in chosen) > 0.2` | the same: the retention constraint limits the run |
# | learned nothing | `weak["dropped_unvoted"] < weak["num_examples"]` | write labelling functions that vote |
# | learned nothing | `data["left_out"] < 0.1 * sum(s["new_examples"] for s in stages)` | raise `encoding.max_length` |
# | never stops | `all(len(s["after"]) < 3 * len(s["reference"]) + 40 for s in samples)` | lesson 06: the end mark |
# | forgot everything | `report["examples"].get("memory", 0) > 0` | raise `long_term.share`; give general examples |
# | forgot everything | `max(report["losses"]["consistency"]) > 0` | raise `loss.consistency_weight` |
# | forgot everything | `config["consolidation"]["max_drop"] <= 0.2` | lower `consolidation.max_drop` |
# | forgot everything | `report["retention"] > 0.5` | lower `optim.learning_rate`; more memory |

# %%
def check(report):
    """Names of the checks that a report fails."""
    stages, samples, data, config = (report[name] for name in ("stages", "samples", "data", "config"))
    chosen, weak = [s["consolidation"] for s in stages], data["weak"]
    fine_tune = [x for x in report["losses"]["fine_tune"] if x is not None]
    tenth = max(1, len(fine_tune) // 10)
    first, last = (lambda x: sum(x[:tenth]) / tenth), (lambda x: sum(x[-tenth:]) / tenth)
    checks = {
        "too few steps": sum(s["steps"] for s in stages) > 20,
        "loss did not fall": last(fine_tune) < first(fine_tune),
        "always refused": not all(c["refused"] for c in chosen),
        "limited by the constraint": max(c["alpha"] for c in chosen) > 0.2,
        "no labels": weak["dropped_unvoted"] < weak["num_examples"],
        "examples too long": data["left_out"] < 0.1 * sum(s["new_examples"] for s in stages),
        "endless replies": all(len(s["after"]) < 3 * len(s["reference"]) + 40 for s in samples),
        "nothing remembered": report["examples"].get("memory", 0) > 0,
        "consistency has no weight": max(report["losses"]["consistency"]) > 0,
        "max_drop too large": config["consolidation"]["max_drop"] <= 0.2,
        "forgot": report["retention"] > 0.5,
    }
    return [name for name, passed in checks.items() if not passed]


print(check(report))

# %% [markdown]
# Now break a copy of the report in several ways, as real mistakes would. **Predict** what each check says.

# %%
# NBVAL_CHECK_OUTPUT
def broken(change):
    """Names of the checks that fail once `change` has broken a copy of the report, and did not before."""
    other = copy.deepcopy(report)
    change(other)
    return sorted(set(check(other)) - set(check(report)))


def refuse(r):
    for stage in r["stages"]:
        stage["consolidation"].update(alpha=0.0, refused=True)


print("every stage refused:    ", broken(refuse))
print("max_steps: 3 left in:   ", broken(lambda r: [stage.update(steps=1) for stage in r["stages"]]))
print("long_term.share: 0:     ", broken(lambda r: r["examples"].pop("memory")))
print("consistency_weight: 0:  ", broken(lambda r: r["losses"].update(consistency=[0.0])))
print("a reply without an end: ", broken(lambda r: r["samples"][0].update(after="the " * 200)))
print("all forgotten:          ", broken(lambda r: r.update(retention=0.1)))

# %% [markdown]
# Read a report in this order: steps, labels, losses, line search, matrix. The first that is wrong explains the rest.

# %% [markdown]
# ## What was shown
#
# - A stage trains the fast adapter; its end promotes examples, chooses α, scores and saves; the next begins by
#   refreshing the teachers.
# - The accuracy matrix gains a row after each stage. Down a column one sees learning and forgetting.
# - At every step the total was the sum of the three losses, L_consistency times its weight.
# - A killed run went on from its last saved step and ended with the same bytes: the plan is a pure function of seed
#   and stage, the state is complete, and it is written whole or not at all.
# - The report shows why most failed runs failed.

# %% [markdown]
# ## Exercises
#
# Put your own code in place of `...` and run the cell.
#
# ### 1 · What was forgotten most? (easy, 5 minutes)

# %%
# NBVAL_CHECK_OUTPUT
def worst(matrix, columns):
    """matrix: rows are moments, the base first; columns: their names. The name of the column whose last score is
    furthest below its best earlier one, or None if none is below."""
    return ...


tests = [([[0.9, 0.0, 0.0], [0.8, 0.6, 0.0], [0.7, 0.3, 0.5]], "b"),
         ([[0.9, 0.0, 0.0], [0.4, 0.6, 0.0], [0.5, 0.3, 0.5]], "a"),  # the best may be long ago
         ([[0.5, 0.0, 0.0], [0.6, 0.2, 0.1], [0.7, 0.3, 0.5]], None)]
answers = [worst(scores, ["a", "b", "c"]) for scores, _ in tests]
if ... in answers:
    print("Your turn.")
else:
    print("Right." if answers == [name for _, name in tests] else f"Not yet: {answers}")

# %% [markdown]
# <details><summary>Hint</summary>
#
# `zip(*matrix)` gives the columns. For each: best of all rows but the last, less the last.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def worst(matrix, columns):
#     lost = {name: max(scores[:-1]) - scores[-1] for name, scores in zip(columns, zip(*matrix))}
#     name = max(lost, key=lost.get)
#     return name if lost[name] > 0 else None
# ```
#
# </details>

# %% [markdown]
# ### 2 · A schedule that can be resumed (medium, 8 minutes)
#
# Shuffled passes over the examples, k per step, without a generator that remembers. Each pass takes every example once
# before the next begins, and each has its own order. (n is a multiple of k.)

# %%
# NBVAL_CHECK_OUTPUT
def batch_examples(seed, step, n, k):
    """Examples (a list of k numbers in 0 … n − 1) of step 0, 1, …: a pure function of its arguments."""
    return ...


random.seed(1)
got = [batch_examples(0, step, 12, 4) for step in range(6)]
random.seed(2)
if ... in got:
    print("Your turn.")
else:
    passes = [sum(got[:3], []), sum(got[3:], [])]
    checks = {"each pass takes every example once": all(sorted(one) == list(range(12)) for one in passes),
              "passes differ": passes[0] != passes[1], "shuffled": passes[0] != list(range(12)),
              "from any step on": [batch_examples(0, step, 12, 4) for step in (5, 2)] == [got[5], got[2]],
              "seeds differ": batch_examples(1, 0, 12, 4) != got[0]}
    print("Right." if all(checks.values()) else f"Not yet: {[name for name, ok in checks.items() if not ok]}")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Which pass is step `step` in, and which part of it? A generator seeded with seed and pass, not with the step.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def batch_examples(seed, step, n, k):
#     number, part = divmod(step, n // k)
#     order = random.Random(f"{seed}/{number}").sample(range(n), n)
#     return order[part * k:(part + 1) * k]
# ```
#
# </details>

# %% [markdown]
# ### 3 · Whole or not at all (medium, 8 minutes)
#
# `write(file)` writes to an open file, and may fail half-way. Make `save` safe: `path` keeps what it held unless
# all is written, and no other file is left in the folder.

# %%
# NBVAL_CHECK_OUTPUT
def save(path, write):
    """path: a Path; write: a function of an open text file. What `write` raises goes on to the caller."""
    return ...


def half(file):
    file.write("ha")
    raise OSError("the disk is full")


with tempfile.TemporaryDirectory() as folder:
    path, seen, names = Path(folder) / "state", [], set()
    for write in (lambda file: file.write("old"), half, lambda file: file.write("new")):
        try:
            answer = save(path, write)
            seen.append(path.read_text() if path.exists() else None)
        except OSError:
            seen.append(f"{path.read_text() if path.exists() else None} kept")
        names |= {one.name for one in Path(folder).iterdir()}
if answer is ...:
    print("Your turn.")
else:
    right = seen == ["old", "old kept", "new"] and names == {"state"}
    print("Right." if right else f"Not yet: the file held {seen}; the folder {sorted(names)}")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Write to another name in the same folder, then `os.replace`. `try … finally:` is where to tidy up.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def save(path, write):
#     temporary = path.with_name(path.name + ".part")
#     try:
#         with open(temporary, "w") as file:
#             write(file)
#             file.flush()
#             os.fsync(file.fileno())
#         os.replace(temporary, path)
#     finally:
#         temporary.unlink(missing_ok=True)
# ```
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [Gradient Episodic Memory](https://arxiv.org/abs/1706.08840) (Lopez-Paz and Ranzato, 2017): the accuracy matrix,
#   BWT and FWT, in section 2.
# - [All File Systems Are Not Created
#   Equal](https://www.usenix.org/conference/osdi14/technical-sessions/presentation/pillai) (Pillai and others, 2014):
#   how many ways there are to lose a file in a crash, and what a rename promises.
# - [Reproducibility](https://docs.pytorch.org/docs/stable/notes/randomness.html), PyTorch's own notes: what can be made
#   deterministic, on what, at what price.
# - [Callbacks](https://huggingface.co/docs/transformers/main_classes/callback) of the transformers Trainer: all that
#   the dashboard is built on.

# %%
# NBVAL_CHECK_OUTPUT
peak = peak_memory() / 2**30
print("within the memory declared at the top:", peak < 2)
