# ---
# jupyter:
#   lesson:
#     minutes: {cpu: 5, t4: 4}
#     peak_gib: {cpu: 3, t4: 2}
#     predicted: [t4]
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# {{badge}}
#
# # 00 · Start here
#
# A small language model studies medicine for a minute or two. Trained the plain way, it forgets what it knew
# before. **ICFT** (incremental curriculum-based fine-tuning) is a way to retain that while it learns. You run
# both, see what each gains and loses, and judge for yourself.

# %% [markdown]
# **You will be able to**
#
# - show that fine-tuning makes a model forget, and say how much;
# - name the components of ICFT and what each is for;
# - read the tables and figures that every run leaves behind;
# - ask three models the same question, and compare their replies.
#
# **You need** some Python. The model and the samples come with the package; nothing else is downloaded.

# %% [markdown]
# {{budget}}
#
# Run the cells from top to bottom (Shift+Enter). Where the text says **predict**, write down a guess before
# you run the next cell: being wrong is how one learns here.

# %% [markdown]
# **What this is not.** ICFT comes from [*Generalization of Medical Large Language Models through
# Cross-Domain Weak Supervision*](https://arxiv.org/abs/2502.00832). Only its abstract and its loss are
# public in enough detail to build from, so every definition below is *our reading*. This is teaching
# material: **not medical advice**, and no model trained here is fit to give any.

# %% [markdown]
# ## Set-up
#
# On Colab the next cell installs the package and what it needs, and leaves torch and numpy as they are.
# Where the package is there already, it does nothing.

# %%
# {{setup}}

# %%
import tempfile
import warnings
from functools import partial
from pathlib import Path

import pandas as pd
from IPython.display import Image

from icft_lite import (
    Encoder,
    ICFTConfig,
    apply_lfs,
    evaluate_suite,
    label_pool,
    lf_analysis,
    load_base,
    load_run,
    sample_bundle,
    train_icft,
)
from icft_lite.experiments.compare import summarize_run
from icft_lite.experiments.settings import DEMO, DEMO_QLORA
from icft_lite.metrics import retention
from icft_lite.modeling.generation import generate_reply
from icft_lite.modeling.scoring import option_scores
from icft_lite.reporting.figures import comparison_figure, forgetting_figure, losses_figure, png
from icft_lite.weak.label_models import ABSTAIN
from icft_lite.weak.lfs.samples import sample_lfs
from icft_lite.widgets import ask_panel, ask_table

warnings.simplefilter("ignore", FutureWarning)  # what other libraries plan is not our subject
runs = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1 · What the model knows
#
# A **language model** continues text: it is given a *prompt* and writes a *response*, one word piece
# (**token**) at a time. Ours, the **base**, has 2 million parameters; models you chat with have a thousand
# times more. It was taught a small general world, and has met medical words without learning what they
# mean.

# %%
base, tokenizer = load_base()
data = sample_bundle().only(DEMO["topics"])

# %% [markdown]
# Of the samples' fourteen medical topics we take a short syllabus that can be learned in minutes: *terminology* (words
# made of parts), *drug_class* (shown by the endings of drugs' names), and for patients *reply* (what to answer) and
# *relevance* (which of two answers is about the question).
#
# The samples are tables of short **examples**, one per row. Here is a general question: the options are its
# possible responses, and the **label** says which one is right.

# %%
# NBVAL_CHECK_OUTPUT
example = data.general_test[0]
print(example["prompt"])
print(example["responses"], "label:", example["label"])

# %% [markdown]
# Four kinds of examples matter today:
#
# | examples | what they are |
# |---|---|
# | general test | questions about the general world; never trained on |
# | trusted | medical prompts, each with the response to imitate |
# | pool | medical questions **without** answers, pairs of replies without a verdict (label −1) |
# | medical test | medical questions, for scoring only |

# %%
# NBVAL_CHECK_OUTPUT
for name in ("general_test", "trusted", "pool", "test"):
    examples = getattr(data, name)
    print(f"{name:13} {len(examples):5} examples, the first: {examples[0]['prompt']}")

# %% [markdown]
# **Predict.** Four questions follow: two general, two medical. Which will the base get right?

# %%
general = ["What is the name of the capital city of Bhutan?", "Write the verb repair in the past tense."]
medical = ["What does the medical term nephromegaly mean?", "Name the class of the drug metoprolol."]
ask_table({"the base": partial(generate_reply, base, tokenizer)}, general + medical)

# %% [markdown]
# Two questions prove little, so we score many. A response counts only if the model writes it exactly
# (**exact match**). The score is the mean over topics (kinds of question: capitals, drug classes …), from 0 to 1.

# %%
before = evaluate_suite(base, tokenizer, {"general": data.general_test, "medical": data.test})
{name: round(scores["qa"]["value"], 3) for name, scores in before.items()}

# %%
# NBVAL_CHECK_OUTPUT
print("more than 8 of 10 general questions right:", before["general"]["qa"]["value"] > 0.8)
print("fewer than 1 of 10 medical questions right:", before["medical"]["qa"]["value"] < 0.1)

# %% [markdown]
# ## 2 · Weak labels
#
# Experts' answers are rare; questions are plenty. **Weak supervision** lets small programs, **labelling
# functions**, vote on the pool. Each reads an example and returns the index of a response, or `ABSTAIN` (−1)
# when it has nothing to say. Some know word endings, some look into tables with gaps and errors, three are
# bad on purpose.

# %%
encoder = Encoder(tokenizer)
pool = [dict(example) for example in data.pool]
for example, scores in zip(pool, option_scores(base, pool, encoder)):
    example["base_scores"] = scores.tolist()  # the base may vote as well
lfs = sample_lfs()
votes = apply_lfs(lfs, pool)

# %% [markdown]
# `votes` has a row for each example and a column for each function. *Coverage* is the share of examples a function
# votes on. *Accuracy* needs the true answers: we hold them in a separate file, to judge with, and training
# never sees them. *Source* says where a function's knowledge is from. (Left out: functions for other topics, which
# have nothing to say here, and the base's own vote.)

# %%
# NBVAL_CHECK_OUTPUT
gold = [data.pool_gold[example["id"]] for example in pool]
table = lf_analysis(votes, lfs, gold)[["source", "coverage", "accuracy"]]
table[table["coverage"] > 0].drop("base_choice").round(2)

# %% [markdown]
# How to join the votes? **Majority vote** counts heads. A **label model** (Dawid and Skene, 1979) first
# estimates how reliable each function is, from agreements alone, then weighs its votes. Either gives a
# **posterior**: for each response, the probability that it is right.
#
# **Predict.** Which is right more often, and on which kind of example do they differ?

# %%
majority, by_majority = label_pool(pool, votes, "majority_vote", lfs, data.pool_gold)  # gold: to judge with, no more
posteriors, by_model = label_pool(pool, votes, "dawid_skene", lfs, data.pool_gold)
print(f"right: majority vote {by_majority['accuracy']:.3f}, label model {by_model['accuracy']:.3f}")

# %%
# NBVAL_CHECK_OUTPUT
print("the label model is right more often:", by_model["accuracy"] > by_majority["accuracy"])
print("it is right more than 9 times in 10:", by_model["accuracy"] > 0.9)

# %% [markdown]
# They differ where unreliable functions outnumber reliable ones. Here is the first such example. The label
# model has learned whom to trust from the votes alone, without any true answer.

# %%
i = next(i for i, p in enumerate(majority) if p[gold[i]] < max(p) and posteriors[i][gold[i]] > 0.9)
print(pool[i]["prompt"])
columns = {"votes": [int((votes[i] == k).sum()) for k in range(len(majority[i]))],
           "majority vote": majority[i], "label model": posteriors[i],
           "right": [k == gold[i] for k in range(len(majority[i]))]}
pd.DataFrame(columns, index=pool[i]["responses"]).round(2)

# %% [markdown]
# ## 3 · Training the plain way
#
# **Fine-tuning** shows a model examples and changes its numbers, step by step, so that the wanted response
# becomes more likely. We freeze the base, hold it in 4 bits a number, and train a small addition to it, a
# **LoRA adapter**. The two together are called **QLoRA**.

# %% [markdown]
# Plain QLoRA trains on the trusted examples and on the pool, each pool example with its most likely label, all mixed.
# `DEMO` holds the settings of both runs, including how many tokens they train on; `DEMO_QLORA` holds the learning rate
# at which plain QLoRA learns most medicine, twice ICFT's.
#
# **Predict.** What will be left of the general score afterwards?

# %%
plain_config = ICFTConfig.preset("qlora", {**DEMO, **DEMO_QLORA})
plain = train_icft(plain_config, runs / "qlora", data)

# %%
theirs = summarize_run(plain)
print(f"medical questions after: {theirs['medical']:.2f}")
print(f"general questions before: {theirs['base_general']:.2f}, after: {theirs['general']:.2f}")

# %%
# NBVAL_CHECK_OUTPUT
print("more than 7 of 10 medical questions right:", theirs["medical"] > 0.7)
print("less than half of the general score retained:", theirs["retention"] < 0.5)

# %% [markdown]
# It has learned medicine and lost what it knew. This is **catastrophic forgetting**: nothing in the training made the
# model retain what it was not shown. **Retention** says how bad it is: the general score after, divided by
# the score before. 1 means that nothing is lost.

# %% [markdown]
# ## 4 · Training with ICFT
#
# **A curriculum.** Medical examples come in three stages: easy ones (terminology), then medium ones too (drugs), then
# hard ones too (patients). Within a stage the easiest examples come first. How confident the label model is of an
# example's label counts towards how easy it is.

# %% [markdown]
# **Two memories.** The *short-term memory* is a fast adapter, trained as usual, and the examples it met last.
# The *long-term memory* is a slow adapter, which follows the fast one as a moving average, and a buffer of
# examples: general ones from the start, medical ones **promoted** from the short-term memory. Every step
# trains on new examples and on examples from memory.

# %% [markdown]
# **Three losses.** A loss is a number that training makes small. Here
# L_total = L_consistency + L_task + L_fine-tune, where each may have a weight:
#
# - L_fine-tune: imitate the responses;
# - L_task: where a weak label is uncertain, match the label's distribution over the options; of two replies, prefer
#   the one that is probably better by its label (a confident label leaves one option, and nothing to choose);
# - L_consistency: on memory examples, say what the *teacher* would say. It is the long-term memory or the
#   base, whichever knows the example better.

# %% [markdown]
# **Consolidation.** At a stage's end the slow adapter is chosen on the line between what it was before the stage
# (**interpolation coefficient** α = 0) and what it is now (α = 1). A *line search* tries several α. It takes the
# candidate with the best medical score among those whose **retention**, the general score divided by the base's, is at
# least 1 − `consolidation.max_drop`: this is the **retention constraint**. *Validation* questions decide, a third set
# that is held out for such choices, never the test's.

# %% [markdown]
# **Predict.** Part of ICFT's training goes to memory examples, and consolidation limits what it changes. How much will
# it retain, and how much less medicine will it learn than plain QLoRA?

# %%
icft = train_icft(ICFTConfig.preset("icft", DEMO), runs / "icft", data)

# %% [markdown]
# ## 5 · Before and after
#
# All three models on the same test questions, which no run was trained on. *Medical* is exact match on
# questions; *preference*, how often the better of two replies is the more likely one (chance is 0.5); *reply*, the
# share of key facts that a freely written reply contains. What the *general* questions ask is not in the
# memory either.

# %%
ours = summarize_run(icft)
first = {task: scores["value"] for task, scores in before["medical"].items()}
start = dict(medical=first["qa"], preference=first["preference"], reply=first["reply"],
             general=theirs["base_general"], retention=1.0)
table = pd.DataFrame([start, theirs, ours], index=["base", "plain QLoRA", "ICFT"])
table[["medical", "preference", "reply", "general", "retention"]].round(2)

# %%
# NBVAL_CHECK_OUTPUT
print("equal training tokens, to 2 %:", abs(ours["tokens"] / theirs["tokens"] - 1) < 0.02)
print("ICFT retained more than 8 tenths:", ours["retention"] > 0.8)
print("ICFT has more than 7 of 10 medical questions right:", ours["medical"] > 0.7)

# %% [markdown]
# The best corner of this figure is the upper right one, everything learned and nothing lost. The star is the base.
# Retention has its price, and the price is learning: where does the table show it? One run each: `make demo SEEDS=3`
# shows how much chance plays in.

# %%
counts = {suite: before[suite]["qa"]["n"] for suite in ("medical", "general")}
comparison = {"methods": {"icft": ours, "qlora": theirs}, "base": start, "seeds": [0], "num_questions": counts}
Image(png(comparison_figure(comparison)), width=640)

# %% [markdown]
# The same, stage by stage. In plain QLoRA's run the blue line, general questions, falls. All examples are mixed there:
# "stage" only means a part of the training: a twentieth, another twentieth, and the rest.

# %%
Image(png(forgetting_figure(plain)), width=640)

# %% [markdown]
# In ICFT's run the blue line stays near the dashed one, the base's score. Medicine rises mostly in the last stage,
# which gets nine tenths of the training tokens. (The hard level has no line: what it teaches, replies and preferences,
# is in the table, not asked as questions.)

# %%
Image(png(forgetting_figure(icft)), width=640)

# %% [markdown]
# ## 6 · What happened inside
#
# Each stage promoted examples into the long-term memory (where it was full, others had to leave: `evicted`), and
# consolidation chose α. `teacher` is the share of memory examples whose teacher was the long-term memory; for the
# others it was the base.

# %%
stages = pd.DataFrame(icft["stages"]).set_index("name")
stages["alpha"] = [chosen["alpha"] for chosen in stages["consolidation"]]
stages["teacher"] = [round(share["memory"], 2) for share in stages["teacher_share"]]
stages[["new_examples", "promoted", "evicted", "memory_examples", "teacher", "alpha"]]

# %% [markdown]
# These are the candidates that consolidation tried after the last stage, on validation questions; its medical score
# is the mean of questions and preference. The line search goes from where training ended (α = 1) to where the stage
# started (α = 0, origin *start*); if α = 1 is not allowed, also to the base (α = 0, origin *base*). Each search ends
# once medicine falls below that of a candidate already allowed. The smaller α, the more is retained; the chosen
# candidate is the best allowed. (Where α = 1 itself is best, a run's last stage also extrapolates from the base beyond
# it, up to 1.2.)

# %%
candidates = icft["stages"][-1]["consolidation"]["candidates"]
max_drop = icft["config"]["consolidation"]["max_drop"]
min_retention = 1 - max_drop
print(f"minimum retention allowed: {min_retention:.3f}")
pd.DataFrame(candidates)[["origin", "alpha", "general", "retention", "medical"]].round(3)

# %%
# NBVAL_CHECK_OUTPUT
print("examples were promoted:", bool(stages["promoted"].sum() > 0))
print("first teacher is the base alone:", stages["teacher"].iloc[0] == 0)

# %% [markdown]
# The report logs each loss under its own name. **Predict**: does the total equal the sum of the three, L_consistency
# times its weight, at every step?

# %%
# NBVAL_CHECK_OUTPUT
losses = pd.DataFrame(icft["losses"])
weight = icft["config"]["loss"]["consistency_weight"]
gap = losses["total"] - weight * losses["consistency"] - losses["task"] - losses["fine_tune"]
print("total = weight · consistency + task + fine-tune:", bool(gap.abs().max() < 1e-3))

# %%
Image(png(losses_figure(icft)), width=640)

# %% [markdown]
# ## 7 · Ask them yourself
#
# A run's folder holds its adapter, in the format of peft, the usual library for adapters. We load both and compare them
# with the bare base. First the questions from above, and a patient, in a table that stays readable where widgets do not
# work.

# %%
models = {"base": partial(generate_reply, base, tokenizer),
          "plain QLoRA": partial(generate_reply, *load_run(runs / "qlora")),
          "ICFT": partial(generate_reply, *load_run(runs / "icft"))}
patient = next(example["prompt"] for example in data.test if example["topic"] == "reply")
ask_table(models, [*general, *medical, patient])

# %% [markdown]
# Now you: choose an example or type a question, and press Enter. Short and plain questions work best;
# outside its small world the model makes things up, and so do large ones. **Never take its word on
# health.**

# %%
questions = [suite[i]["prompt"] for suite in (data.general_test, data.test) for i in range(0, 400, 40)]
ask_panel(models, questions)

# %% [markdown]
# ## What was shown
#
# - Labels without an annotator: voting functions, weighed by a label model, came close to the truth.
# - Plain fine-tuning learned its medicine, and forgot nearly all of the general world.
# - ICFT, with equal training tokens, retained nearly all of it, and came close in medical questions.
# - `make demo FULL=1` studies two topics more and trains four times longer, with a smaller weight of L_consistency;
#   there retention costs less medicine. Which component of the method does what is the question of later lessons.

# %% [markdown]
# ## Exercises
#
# Put your own code in place of `...` and run the cell: it says at once whether it is right. Hints and
# solutions are folded below each.
#
# ### 1 · Retention by hand (easy, 3 minutes)

# %%
# NBVAL_CHECK_OUTPUT
def retained(before, after):
    """The share of the score that is left: 1.0 if nothing is lost."""
    return ...


answer = retained(0.8, 0.6)
if answer is ...:
    print("Your turn.")
elif abs(answer - retention(0.8, 0.6)) < 1e-9:
    print("Right.")
else:
    print(f"Not yet: 0.8 before and 0.6 after gave {answer}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Losing nothing, 0.8 before and 0.8 after, must give 1.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def retained(before, after):
#     return after / before
# ```
#
# </details>

# %% [markdown]
# ### 2 · Your own labelling function (easy, 8 minutes)
#
# Medical terms in *-itis* mean an inflammation. Write a function that votes on examples whose prompt has such a
# term: for the response that starts with "inflammation". Where no response starts so, or more than one does, it
# abstains, as on all other examples: knowing when to be silent is half of the art.

# %%
# NBVAL_CHECK_OUTPUT
def itis(example):
    """example: a dict with "prompt" (str) and "responses" (list of str). Returns an index, or ABSTAIN."""
    return ...


mine = [itis(example) for example in pool]
hits = [vote == truth for vote, truth in zip(mine, gold) if vote != ABSTAIN]
if ... in mine:
    print("Your turn.")
elif len(hits) >= 5 and sum(hits) >= 0.9 * len(hits):
    print("Right.")
else:
    print(f"Not yet: it votes on {len(hits)} examples and is right on {sum(hits)}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# `"itis" in example["prompt"]` finds the examples. First list the indices of the responses that start so.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def itis(example):
#     starts = [i for i, text in enumerate(example["responses"]) if text.startswith("inflammation")]
#     return starts[0] if "itis" in example["prompt"] and len(starts) == 1 else ABSTAIN
# ```
#
# </details>

# %% [markdown]
# ### 3 · Choose α (medium, 10 minutes)
#
# Write consolidation's rule. Your function must choose the same candidate as the run did, in each of its
# stages.

# %%
# NBVAL_CHECK_OUTPUT
def choose(candidates, min_retention):
    """candidates: dicts with "alpha", "general", "retention" and "medical". Of those whose retention is at least
    `min_retention`, the alpha of the best medical score (ties are broken by the general score); 0.0 if none is."""
    return ...


records = [stage["consolidation"] for stage in icft["stages"]]
wanted = [record["alpha"] for record in records] + [0.0]
answers = [choose(record["candidates"], min_retention) for record in records] + [choose(candidates, min_retention=2)]
if ... in answers:
    print("Your turn.")
else:
    print("Right." if answers == wanted else f"Not yet: {answers}, but the run chose {wanted}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# First collect the allowed candidates in a list; if it is empty, return 0.0. `max(…, key=…)` compares tuples from
# the left.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def choose(candidates, min_retention):
#     allowed = [one for one in candidates if one["retention"] >= min_retention]
#     if not allowed:
#         return 0.0
#     return max(allowed, key=lambda one: (one["medical"], one["general"]))["alpha"]
# ```
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [The paper](https://arxiv.org/abs/2502.00832) (Long, Gonzalez and Fuller, 2025): the idea and the loss;
#   short on definitions.
# - [QLoRA](https://arxiv.org/abs/2305.14314) (Dettmers and others, 2023): how 4 bits are enough; read
#   section 3.
# - [Snorkel](https://arxiv.org/abs/1711.10160) (Ratner and others, 2017): labelling functions in practice.
# - [LoRA Learns Less and Forgets Less](https://arxiv.org/abs/2405.09673) (Biderman and others, 2024): careful
#   measurements of the same bargain, what is learned against what is lost.

# %%
# NBVAL_CHECK_OUTPUT
peak = icft["cost"]["peak_memory_bytes"] / 2**30
print("within the memory declared at the top:", peak < 3)
