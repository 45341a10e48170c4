# ---
# jupyter:
#   lesson:
#     minutes: {cpu: 5, t4: 5}
#     peak_gib: {cpu: 3, t4: 3}
#     predicted: [t4]
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# {{badge}}
#
# # 12 · Capstone: beat replay on your own domain
#
# You have read the method part by part. Now you use it. You get a domain, a token budget and an opponent: replay, the
# simplest method that retains. A grader compares your adapter with it on questions that you never see.

# %% [markdown]
# **You will be able to**
#
# - state a protocol: what is fixed, what may change, what counts as a success;
# - compare two methods at an equal token budget, on held-out groups;
# - compute a paired gain, and read its interval;
# - name what a grader can check, and what it must believe.
#
# **You need** lessons 01, 05, 06 and 09.

# %% [markdown]
# {{budget}}
#
# Where the text says **predict**, write down a guess first. The paper behind this course has no such task: the
# capstone, and the way that it is scored, are *our reading* of its goal. The questions are teaching material, **not
# medical advice**.

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
import json
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import HTML, Image

from icft_lite import ICFTConfig, train_icft
from icft_lite.data.splits import read_examples
from icft_lite.grading.capstone import Capstone, build_kit, load_kit, practice_kit
from icft_lite.grading.capstone_grader import CapstoneGrader, entry_line, ranked
from icft_lite.grading.entries import find_entries, pack_entry
from icft_lite.grading.leaderboard import leaderboard_page, write_leaderboard
from icft_lite.reporting.concepts import capstone as diagram
from icft_lite.reporting.lessons.peak import print_peak
from icft_lite.reporting.style import png
from icft_lite.statistics import paired_bootstrap
from icft_lite.utils.config_parsing import flatten

warnings.simplefilter("ignore", FutureWarning)  # what other libraries plan is not our subject
start = Path.cwd()
os.chdir(tempfile.mkdtemp())  # every file of this lesson goes to a folder of its own

# %% [markdown]
# ## 1 · The protocol
#
# A **protocol** is written before the first run. It fixes the base, the data, the budget, the opponent and the score.
# Whatever it does not fix is yours: learning rate, losses, memory, curriculum.

# %%
Image(png(diagram.draw(), dpi=110), width=860, metadata={"alt": diagram.draw.__doc__})

# %%
# NBVAL_CHECK_OUTPUT
protocol = Capstone(reference_seeds=(0,))  # a course uses three seeds of the reference; one is faster
print(f"base {protocol.base}; topics {', '.join(protocol.topics)}")
print(f"at most {protocol.max_tokens:,} tokens; retention of at least {protocol.min_retention}")
print("the opponent:", protocol.reference)

# %% [markdown]
# - **Token budget**: every token that a run trains on counts, memory examples too (lesson 09). So replay pays for what
#   it repeats, and nobody wins by training longer. A quarter of the opponent's examples are general
#   (`long_term.share`); its own retention constraint, on validation, is
#   0.97 (1 − `consolidation.max_drop`).
# - **Retention** of at least 0.95 is a condition, not a part of the score. Otherwise a model that forgets everything
#   else would win.

# %% [markdown]
# ## 2 · The domain, split by groups
#
# Our domain is triage: *how urgent is this, and which department?* The base has seen neither topic.
# **Predict**: the same signs occur in several questions. What would a random split over questions measure?

# %%
# NBVAL_CHECK_OUTPUT
public = build_kit(protocol, "kit")
kit = load_kit("kit")
parts = {"training": kit.public.trusted, "validation": kit.public.validation, "practice": kit.public.test,
         "hidden": kit.hidden}
for name, part in parts.items():
    print(f"{name:10} {len(part):3} questions, {len(set(part['entity'])):3} patients")
print("files for the student:", sorted(path.name for path in public.iterdir()))

# %% [markdown]
# It would measure memorizing: the student's model would have seen the patient. So the split is over **groups**: all
# questions about one combination of signs are in one part. A single sign occurs in both. Look at one of each.

# %%
# NBVAL_CHECK_OUTPUT
taught = read_examples(public / "domain.jsonl")
print("no patient is in both parts:", not set(taught["entity"]) & set(kit.hidden["entity"]))
for name, part in (("public", kit.public.trusted), ("hidden", kit.hidden)):
    one = part[0]
    print(f"{name}: {one['prompt']}\n        → {one['responses'][max(one['label'], 0)]}")

# %% [markdown]
# **Your own domain**: `Capstone(data="my_file.jsonl")`, in any format that `icft-lite check` reads, with at least 100
# labelled questions. With `base="smollm2"` you adapt a real chat model. Its retention is measured in its replies, and a
# run takes much longer (lesson 10).

# %% [markdown]
# ## 3 · The opponent
#
# Replay mixes general examples into every batch and trains on their answers. **Predict** for 80,000 tokens: which
# share of the practice questions will it answer exactly, and will its retention reach 0.95?

# %%
replay = train_icft(protocol.reference_config(0), "kit/reference/0", kit.public, progress=False)


def summary(report):
    """Domain score (mean over tasks), retention, tokens and steps of a run, on what the student may see."""
    after = report["scores"]["after"]["medical"]
    return dict(practice=np.mean([task["value"] for task in after.values()]), retention=report["retention"],
                tokens=report["cost"]["tokens"], steps=sum(stage["steps"] for stage in report["stages"]))


pd.DataFrame([summary(replay)], index=["replay"]).round(3)

# %%
# NBVAL_CHECK_OUTPUT
print("within 2 % of the budget:", replay["cost"]["tokens"] <= 1.02 * protocol.max_tokens)
print("it retains enough:", replay["retention"] >= protocol.min_retention)
print("it learned something:", summary(replay)["practice"] > 0.1)

# %% [markdown]
# The base answers none of these questions exactly. A quarter of replay's examples were general: that is the price of
# what it retains.
#
# ## 4 · Your entry
#
# State one hypothesis, and change one thing: here the loss on memory examples, which takes two settings. Ours: the
# *consistency loss* (lesson 06) costs the domain less than replay for the same retention, because it matches whole
# distributions, not single answers.

# %%
# NBVAL_CHECK_OUTPUT
settings = {**protocol.reference, "method": "icft", "loss.consistency_weight": 1.2,
            "optim.max_tokens": protocol.max_tokens, "seed": 0}
mine, theirs = (flatten(config.to_dict()) for config in (ICFTConfig.from_dict(settings), protocol.reference_config(0)))
for name in mine:
    if mine[name] != theirs[name] and name != "method":
        print(f"{name:24} {theirs[name]} → {mine[name]}")

# %% [markdown]
# Everything else is equal: budget, seed, share of general examples, retention constraint of consolidation. Promotion
# needs the short-term ring, which is off here (`short_term.share`), as by default: it had no measured benefit.
#
# **Predict**: better or worse than replay on practice questions, and by how many points?

# %%
icft = train_icft(settings, "runs/icft", kit.public, progress=False)
pd.DataFrame([summary(replay), summary(icft)], index=["replay", "icft"]).round(3)

# %% [markdown]
# It is tempting to stop here. Practice has 72 questions, and you may look at it as often as you like. Choose settings
# with it, but do not believe its winner: whoever tries ten settings and reports the best one reports luck (lesson 09).

# %% [markdown]
# ## 5 · The score
#
# On hidden question $i$ the entry has the score $a_i \in \{0, 1\}$, and the reference $b_i$, its mean over seeds:
#
# $$\text{gain} = \underset{\text{topics}}{\text{mean}}\ \underset{i \text{ in topic}}{\text{mean}}\ (a_i - b_i)$$
#
# It is **paired**: both answer the same questions, so hard questions cancel out.

# %% [markdown]
# ### Your turn: gain
#
# ●○○ difficulty · ●●● importance · 10 minutes

# %%
# NBVAL_CHECK_OUTPUT
def gain(entry, reference, topics):
    """Return the mean over topics of the mean difference (float).

    entry: float [n], one score per question; reference: float [seeds, n]; topics: list of n names.
    """
    return ...


scores = [1, 0, 1, 1, 0], [[0, 0, 1, 0, 0], [1, 0, 0, 0, 1]], list("aaabb")
if (found := gain(*scores)) is ...:
    print("Your turn.")
else:
    print("Right." if np.isclose(found, (1 / 3 + 1 / 4) / 2) else f"Not yet: {found}")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Average the seeds first: `np.mean(reference, axis=0)`. Then one mean for each topic, then the mean of these means. The
# mean over all questions would count a topic with many questions more.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def gain(entry, reference, topics):
#     difference = np.asarray(entry, float) - np.mean(reference, axis=0)
#     topics = np.asarray(topics)
#     return float(np.mean([difference[topics == topic].mean() for topic in np.unique(topics)]))
# ```
#
# </details>

# %% [markdown]
# ## 6 · Pack it, grade it
#
# An entry has three files: the adapter, the settings, the log. It is data only. The grader builds an adapter of the
# rank that the settings name, and every tensor must fit into it: nothing is unpickled, no code is run.

# %%
# NBVAL_CHECK_OUTPUT
entries = {name: pack_entry(run, f"entries/{name}") for name, run in
           (("replay", "kit/reference/0"), ("icft", "runs/icft"))}
print(sorted(path.name for path in entries["icft"].iterdir()))
log = json.loads((entries["icft"] / "tokens.json").read_text())
print("the log's total is that of its stages:", log["total"] == sum(stage["tokens"] for stage in log["stages"]))

# %% [markdown]
# In a course, the instructor grades a folder of entries with one command. The next cell calls the same grader from
# Python and prints a line for each entry. *domain* is its score on the hidden questions; brackets are 95 % intervals.
#
# ```
# icft-lite grade entries --capstone kit --leaderboard leaderboard.html
# ```
#
# **Predict** the gain of the replay entry.

# %%
grader = CapstoneGrader(kit)
results = [grader.grade(name, path) for name, path in entries.items()]
for result in results:
    print(entry_line(result))

# %%
# NBVAL_CHECK_OUTPUT
first, second = results
print("replay's gain over itself:", first.gain, "±", first.high)
print("both are valid:", not first.invalid and not second.invalid)

# %% [markdown]
# Exactly 0: the replay entry *is* the reference. For the other entry your function now computes the gain in place of
# the package's. (If it is not solved yet, the package's runs.)

# %%
# NBVAL_CHECK_OUTPUT
items = grader.scores["icft"].items  # {(task, topic, id): 0 or 1}
reference = [[run[key] for key in items] for run in grader.reference]
strata = [f"{task}/{topic}" for task, topic, _ in items]
answer = gain(list(items.values()), reference, strata)
if answer is ...:
    answer = paired_bootstrap(list(items.values()), reference, strata).difference
print("the same gain as the grader's:", bool(np.isclose(answer, second.gain)))
print("topics:", sorted(set(strata)))

# %% [markdown]
# Each topic is scored twice: questions with options (`qa`) and short answers. The interval says how far the gain would
# vary with other questions. When this lesson was built it was +0.01, from −0.05 to +0.07: it contains 0, so no
# difference from replay was shown. The interval does *not* say how far the gain would vary with another seed of your
# run.

# %% [markdown]
# Our hypothesis has no support. One possible reason, which these intervals do not prove: the entry retained 0.985,
# replay 0.968, and 0.95 is enough. What is retained beyond the condition earns nothing. So a smaller
# `loss.consistency_weight`, or a smaller share of memory, is the next hypothesis. That is your work: change `settings`
# in section 4, and run from there; look at the practice questions as often as you like, and grade once.

# %% [markdown]
# ## 7 · What is refused
#
# Here are five entries that violate the protocol. **Predict** which of them the grader notices: a larger
# budget in the settings, a shorter log than was trained, another base, tensors of another shape, a Python file.

# %%
def forged(name, file=None, change=None, **more):
    """A copy of the entry `icft` with a change of one JSON file, or with more files."""
    folder = Path(shutil.copytree(entries["icft"], f"forged/{name}"))
    if file:
        content = json.loads((folder / file).read_text())
        change(content)
        (folder / file).write_text(json.dumps(content))
    for extra, text in more.items():
        (folder / f"{extra}.py").write_text(text)
    return folder


forged("larger budget", "config.json", lambda config: config["optim"].update(max_tokens=800_000))
forged("shorter log", "tokens.json", lambda log: log.update(total=500, stages=[dict(steps=9, tokens=500)]))
forged("another base", "config.json", lambda config: config.update(model="smollm2"))
forged("another shape", "config.json", lambda config: config["adapter"].update(rank=8))
_ = forged("code", setup="print('hello')")

# %%
# NBVAL_CHECK_OUTPUT
others = [grader.grade(path.name, path) for path in sorted(Path("forged").iterdir())]
for result in others:
    print(f"{result.name}: {result.invalid or 'valid'}")

# %% [markdown]
# The **shorter log** is valid. Budget and log are the student's own words: the grader can only check that they agree.
# `icft-lite grade … --reproduce` trains each entry again from its settings on the public part, and compares tokens and
# scores. This also finds adapters that were trained on the hidden questions. It takes as long as the runs themselves.

# %% [markdown]
# What remains: the bundled topics are public, so their "hidden" questions are in the repository. A course uses a file
# of its own (`data`) and a seed of its own. And whoever submits fifty entries sees fifty scores of the same hidden
# questions: limit the number of submissions.

# %% [markdown]
# ## 8 · Grade your own entry before you submit it
#
# You have the public part of your course's kit, not the hidden questions. So the same grader scores your entry on the
# *practice* questions. Set the paths, relative to this notebook's folder, or leave None for this lesson's files. (With
# another kit, the first run trains the reference.)

# %%
ENTRY = None  # your entry: a folder or a zip file
PUBLIC = None  # the public part of your course's kit: a folder
practice = CapstoneGrader(practice_kit(start / PUBLIC if PUBLIC else "kit/public"))
own = [practice.grade(name, path) for name, path in find_entries([start / ENTRY if ENTRY else entries["icft"]])]
print(*map(entry_line, own), sep="\n")

# %%
# NBVAL_CHECK_OUTPUT
for result in own:
    print(result.name, "would be refused:" if result.invalid else "would be valid", result.invalid)
print("questions:", len(practice.scores[own[0].name].items) if own[0].scored else 0)

# %% [markdown]
# A refusal here is a refusal there: files, settings, log and retention are checked in the same way. The gain is less
# certain: 72 questions, not 216, give a wider interval. And it is optimistic if you chose your settings with these
# questions. Here it was −0.01, on the hidden ones +0.01; both intervals contain 0.

# %% [markdown]
# ## 9 · The leaderboard
#
# One HTML file, without scripts. Names of entries come from strangers, so all text is escaped.

# %%
write_leaderboard("leaderboard.html", kit.capstone, results)
page = leaderboard_page(kit.capstone, results)
HTML(page[page.index("<table>") : page.index("</table>")] + "</table>")

# %%
# NBVAL_CHECK_OUTPUT
order = ranked(results + others)
print("with the forged ones, entries that have a rank:", sorted(one.name for rank, one in order if rank))
gains = [one.gain for rank, one in order if rank]
print("sorted by gain:", gains == sorted(gains, reverse=True))

# %% [markdown]
# Our entry leads by 0.01, and the forged log would share its rank: ties share a rank. But the interval contains 0.
# These are two runs with one seed each, so the rank alone is not a result. The gain with its interval, the retention,
# the budget and the protocol are.

# %% [markdown]
# ## What was shown
#
# - A protocol fixes base, data, budget, opponent and score before the first run.
# - Groups, not questions, are held out; practice questions choose settings, hidden ones score them.
# - The gain is paired and has an interval; retention is a condition.
# - An entry is data. Its log must be believed, or the run repeated.

# %% [markdown]
# ## Exercises
#
# Put your own code in place of `...` and run the cell: it says at once whether it is right.
#
# ### 1 · Ranks with ties (easy, 5 minutes)
#
# Entries with the same gain share a rank, and the next rank is skipped, as in sports: 1, 2, 2, 4.

# %%
# NBVAL_CHECK_OUTPUT
def ranks(gains):
    """The rank of each entry: a list of int, in the order of `gains` (list of float)."""
    return ...


found = ranks([0.1, 0.3, 0.2, 0.2])
if found is ...:
    print("Your turn.")
else:
    print("Right." if list(found) == [4, 1, 2, 2] and list(ranks([0.5])) == [1] else f"Not yet: {found}")

# %% [markdown]
# <details><summary>Hint</summary>
#
# The rank of an entry is 1 plus the number of entries that are better.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def ranks(gains):
#     return [1 + sum(other > gain for other in gains) for gain in gains]
# ```
#
# </details>

# %% [markdown]
# ### 2 · Is the log possible? (medium, 8 minutes)
#
# A log must agree with itself and with the settings. Return "" or the first thing that is wrong: `"sum"` if the stages
# do not add up to the total, `"budget"` if the total exceeds `max_tokens` by more than 2 %, `"steps"` if a stage with
# tokens has no step.

# %%
# NBVAL_CHECK_OUTPUT
def problem(log, max_tokens):
    """log: {"total": int, "stages": list of {"steps": int, "tokens": int}}."""
    return ...


def a_log(total, *stages):
    return dict(total=total, stages=[dict(steps=steps, tokens=tokens) for steps, tokens in stages])


logs = [a_log(102, (1, 50), (1, 52)), a_log(103, (1, 103)), a_log(90, (1, 100)), a_log(60, (0, 10), (2, 50)),
        a_log(50, (0, 0), (2, 50)), a_log(120, (1, 100))]
found = [problem(log, 100) for log in logs]
if ... in found:
    print("Your turn.")
else:
    print("Right." if found == ["", "budget", "sum", "steps", "", "sum"] else f"Not yet: {found}")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Check in the order of the text. A stage without tokens and without steps was skipped, which is possible.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def problem(log, max_tokens):
#     stages = log["stages"]
#     if sum(stage["tokens"] for stage in stages) != log["total"]:
#         return "sum"
#     if log["total"] > 1.02 * max_tokens:
#         return "budget"
#     return "steps" if any(stage["tokens"] and not stage["steps"] for stage in stages) else ""
# ```
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [The Ladder](https://arxiv.org/abs/1502.04585) (Blum and Hardt, 2015): how leaderboards overfit, and a remedy.
# - [Show Your Work](https://arxiv.org/abs/1909.03004) (Dodge and others, 2019): the score expected at a given budget.
# - [Fine-tuned language models are continual learners](https://arxiv.org/abs/2205.12393) (Scialom and others, 2022):
#   how far replay alone goes.
# - The instructor's guide, section *Capstone*: seeds, files of your own, grading a class.

# %%
# NBVAL_CHECK_OUTPUT
print_peak(3)
