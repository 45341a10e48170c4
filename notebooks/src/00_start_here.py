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
# Fine-tune a language model on medical data for a few minutes, and it no longer answers general questions.
# **ICFT** (incremental curriculum-based fine-tuning) is a method to learn without that loss. You see both on a real
# chat model, run both on a small one, and judge for yourself.

# %% [markdown]
# **You will be able to**
#
# - show that fine-tuning makes a model forget, and say how much;
# - name the components of ICFT and what each is for;
# - read the tables and figures that every run writes;
# - give three models the same question, and compare their replies.
#
# **You need** some Python. Model, samples and recorded replies come with the package.

# %% [markdown]
# **What this is not.** ICFT comes from [*Generalization of Medical Large Language Models through Cross-Domain Weak
# Supervision*](https://arxiv.org/abs/2502.00832). We had its abstract and its loss, so every definition below is *our
# reading*. This is teaching material: **not medical advice**, and no model trained here is fit to give any.

# %% [markdown]
# {{budget}}
#
# Run the cells from top to bottom (Shift+Enter). Where the text says **predict**, write down a guess before you run the
# next cell. On Colab the first cell installs what is missing. Comments `# NBVAL_CHECK_OUTPUT` are for automatic tests.
# Terms and symbols are in the [glossary]({{repository}}/blob/main/docs/glossary.md#symbols).

# %%
# {{setup}}

# %%
import tempfile
import warnings
from functools import partial
from pathlib import Path

import pandas as pd
from IPython.display import Image, display

from icft_lite import (
    Encoder,
    ICFTConfig,
    ICFTError,
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
from icft_lite.experiments.recorded import DEMO_FULL, load_recorded, recorded_models, score_recorded
from icft_lite.experiments.settings import DEMO, DEMO_QLORA
from icft_lite.metrics import retention
from icft_lite.modeling.generation import generate_reply
from icft_lite.modeling.scoring import option_scores
from icft_lite.reporting.concepts import pipeline
from icft_lite.reporting.figures import forgetting_figure, losses_figure
from icft_lite.reporting.lessons.peak import print_peak
from icft_lite.reporting.style import png
from icft_lite.weak.label_models import ABSTAIN
from icft_lite.weak.lfs.samples import sample_lfs
from icft_lite.widgets import ask_panel, ask_table

warnings.simplefilter("ignore", FutureWarning)  # other libraries' plans are not our subject
runs = Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1 · A real model, queried three times
#
# A **language model** continues text: it is given a *prompt* and writes a *response*, one word piece (**token**) at a
# time. *SmolLM2-135M-Instruct* is a chat model with 135 million parameters. We queried it before training (the
# **base**), after plain fine-tuning on medicine (*plain LoRA*, see section 5), and after ICFT.

# %%
# NBVAL_CHECK_OUTPUT
recorded = load_recorded(DEMO_FULL)
real = recorded_models(recorded, ["qlora", "icft"])
print(f"trained by `{recorded['command']}` at commit {recorded['commit']}")
print(f"medical replies recorded by `{recorded['medical_command']}`")
for run in recorded["recorded_runs"].values():
    base_hash, adapter_hash = run["base_hash"][:12], run["adapter_sha256"][:12]
    print(f"{run['run']}: {run['tokens']:,} tokens, base {base_hash}…, adapter {adapter_hash}…")

# %% [markdown]
# The replies were recorded. The lines identify the runs by the start of two hashes: of the base's weights, and of the
# file of the **adapter**, the small part that training adds (section 5). The runs used a ring of recent
# examples and soft labels: two components that lessons 05 and 02 explain, and that are off by default now.

# %% [markdown]
# First general questions. We recorded 15, one or two of each kind, and show the first three that the base answers
# right: what it does not know, it cannot forget. A reply is right if it contains the right answer and no other option.
#
# **Predict.** How many of the three can each fine-tuned model still answer?

# %%
# NBVAL_CHECK_OUTPUT
right = score_recorded(real, recorded)
print("right of 15 general questions:", {name: len(prompts) for name, prompts in right.items()})
ask_table(real, right["base"][:3])

# %% [markdown]
# | | base | plain LoRA | ICFT |
# |---|---|---|---|
# | Thailand | right (Asia); not in the Indian subcontinent | wrong: no continent | right (Asia), but no island |
# | salmon | right (fish), among invented facts | right, the best of the three | wrong: no "fish", a misspelled class |
# | year | right | wrong: the singular | right |
#
# Plain LoRA still answers one of the three, ICFT two. (ICFT's 7 of 15 are not the base's 7.) Plain fine-tuning also
# changed *how* the model answers: in a few words, as its medical examples do.

# %% [markdown]
# Now medical questions that no run was trained on: the first test question of each of the three topics. The right
# answers are *enlargement of the kidney*; *beta blocker*; *This may be a heart attack. Call an ambulance now.*
#
# **Predict.** Which model does best?

# %%
# NBVAL_CHECK_OUTPUT
medical_replies = recorded["medical_replies"]
ask_table(real, [one["prompt"] for one in medical_replies[::3]])  # three of each topic were recorded

# %% [markdown]
# | | base | plain LoRA | ICFT |
# |---|---|---|---|
# | nephromegaly | wrong: a hormone disease, badly described | right | half right: the kidney, not its enlargement |
# | metoprolol | right | right | right |
# | chest pain | wrong and dangerous: a story, no advice | right | advice right, cause wrong (a clot in the lung) |
#
# Plain fine-tuning is better here. One question proves little, so the next cell has the scores on the whole test.

# %%
# NBVAL_CHECK_OUTPUT
keys, base_scores = ["medical", "reply", "free", "instructions"], recorded["chat"]["base"]
columns = {"base": [recorded["base"]["medical"], run["base_reply"], base_scores["free"]["value"],
                    base_scores["instructions"]["value"]]}
for label, name in (("plain LoRA", "qlora"), ("ICFT", "icft")):
    columns[label] = [recorded["methods"][name][key]["mean"] for key in keys]
pd.DataFrame(columns, index=keys).T.round(2)

# %% [markdown]
# Means of three runs (*seeds*). *medical*: the right one of four options (chance 0.25), 67 questions. *reply*: share of
# the facts that 33 replies must contain. *free*, *instructions*: 100 each, general. Plain fine-tuning learned more
# medicine and lost most of the rest. ICFT retained most. (With present defaults and mostly other test items: *medical*
# 0.96, *reply* 0.42, retention 0.83.)

# %%
# NBVAL_CHECK_OUTPUT
ask_live = False  # True: query the base now; the first time this downloads 93 MB
skipped = "" if ask_live else "ask_live is False"
try:
    live = partial(generate_reply, *load_base("smollm2")) if ask_live else None
except ICFTError as error:  # for example, offline
    skipped = str(error)
print(f"Skipped: {skipped}." if skipped else "Queried now:")
if not skipped:
    display(ask_table({"base, queried now": live}, right["base"][:3]))

# %% [markdown]
# ## 2 · The method in one picture
#
# What does ICFT add? Four components: weak labels (lesson 02; plain QLoRA uses them too, here), a curriculum (03), two
# memories with a consistency loss (05, 06), and consolidation (05, 07). Memories and consolidation are there to retain.
# Follow the arrows; the rest of this lesson runs every box.

# %%
Image(png(pipeline.draw()), width=860)

# %% [markdown]
# ## 3 · A model to look inside
#
# A run of SmolLM2 takes half an hour. From here on we use `tiny`: 2 million parameters, minutes. It knows a small
# general world, and no medicine. It will study four topics: *terminology*, *drug_class* (shown by the endings of
# names), and for patients *reply* (what to answer) and *relevance* (which of two answers fits).

# %% [markdown]
# The samples are tables of short **examples**. Four kinds matter today:
#
# | examples | what they are |
# |---|---|
# | general_test | questions about the general world; never trained on |
# | trusted | medical prompts, each with the response to imitate |
# | pool | medical questions **without** answers, pairs of replies without a verdict (label −1) |
# | test | medical questions, for scoring only |

# %%
# NBVAL_CHECK_OUTPUT
base, tokenizer = load_base()
data = sample_bundle().only(DEMO["topics"])
for name in ("general_test", "trusted", "pool", "test"):
    examples = getattr(data, name)
    print(f"{name:13} {len(examples):5} examples, the first: {examples[0]['prompt']}")
example = data.general_test[0]
print("options of the first:", example["responses"], "label:", example["label"])

# %% [markdown]
# **Predict.** Four questions follow: two general, two medical. Which will this base get right?

# %%
general = ["What is the name of the capital city of Bhutan?", "Write the verb repair in the past tense."]
medical = ["What does the medical term nephromegaly mean?", "Name the class of the drug metoprolol."]
ask_table({"the base": partial(generate_reply, base, tokenizer)}, general + medical)

# %% [markdown]
# It answers the general questions. For the medical ones it writes an invented word, and a word of its general world.
# Four questions prove little, so we score many. A response counts only if the model writes it exactly (**exact
# match**). The score is the mean over topics (kinds of question: capitals, drug classes, …), from 0 to 1.

# %%
before = evaluate_suite(base, tokenizer, {"general": data.general_test, "medical": data.test})
{name: round(scores["qa"]["value"], 3) for name, scores in before.items()}  # qa: questions and answers

# %%
# NBVAL_CHECK_OUTPUT
print("more than 8 of 10 general questions right:", before["general"]["qa"]["value"] > 0.8)
print("fewer than 1 of 10 medical questions right:", before["medical"]["qa"]["value"] < 0.1)

# %% [markdown]
# ## 4 · Weak labels
#
# Experts' answers are rare; questions are plenty. In **weak supervision** small programs, **labelling functions**,
# vote on the pool. Each reads an example and returns the index of a response, or `ABSTAIN` (−1). Some know word
# endings, some look into tables with errors, some are bad on purpose. *Source* says where a function's knowledge is
# from.

# %%
# NBVAL_CHECK_OUTPUT
encoder = Encoder(tokenizer)
pool = [dict(example) for example in data.pool]
for example, scores in zip(pool, option_scores(base, pool, encoder)):
    example["base_scores"] = scores.tolist()  # the base may vote as well
lfs = sample_lfs()
votes = apply_lfs(lfs, pool)  # a row for each example, a column for each function
gold = [data.pool_gold[example["id"]] for example in pool]
table = lf_analysis(votes, lfs, gold)[["source", "coverage", "accuracy"]]
table[table["coverage"] > 0].drop("base_choice").round(2)

# %% [markdown]
# *Coverage* is the share of examples that a function votes on. *Accuracy* needs the true answers (`gold`), which
# training never reads. (Left out: functions for other topics, and the base's own vote.) Three functions are hardly
# better than chance (0.25 of four options, 0.5 of two), and two of them vote on more than eight tenths of the pool.

# %% [markdown]
# **Majority vote** counts the votes. A **label model** (Dawid and Skene, 1979) first estimates from agreements alone
# how reliable each function is, then weights its votes. Either gives a **posterior**: the probability of each
# response. Training uses the most likely one (a *hard label*).
#
# **Predict.** Which is right more often, and by how much?

# %%
majority, by_majority = label_pool(pool, votes, "majority_vote", lfs, data.pool_gold)  # gold: only to judge with
posteriors, by_model = label_pool(pool, votes, "dawid_skene", lfs, data.pool_gold)
print(f"right: majority vote {by_majority['accuracy']:.3f}, label model {by_model['accuracy']:.3f}")

# %%
# NBVAL_CHECK_OUTPUT
print("the label model is right more often:", by_model["accuracy"] > by_majority["accuracy"])
print("it is right more than 9 times in 10:", by_model["accuracy"] > 0.9)

# %% [markdown]
# ## 5 · Training the plain way
#
# **Fine-tuning** changes a model's weights step by step, so that the wanted responses become more likely. We freeze the
# base, store it in 4 bits per weight, and train a small addition to it, a **LoRA adapter**. The two together are called
# **QLoRA**. (SmolLM2 is expanded to fp32 before training: hence "plain LoRA" above.)

# %% [markdown]
# Plain QLoRA trains on trusted and pool examples, all mixed. `DEMO` holds the settings of both runs, `DEMO_QLORA` the
# learning rate at which plain QLoRA learns most medicine, twice ICFT's. The tokens are divided among three parts of the
# training, so that each is long enough to show something.
#
# **Predict.** What will be left of the general score afterwards?

# %%
settings = {**DEMO, "curriculum.last_stage_share": 0.5}  # the default, 0.9, leaves little for the first two parts
plain = train_icft(ICFTConfig.preset("qlora", {**settings, **DEMO_QLORA}), runs / "qlora", data)
theirs = summarize_run(plain)
print(f"medical questions after: {theirs['medical']:.2f}")
print(f"general questions before: {theirs['base_general']:.2f}, after: {theirs['general']:.2f}")

# %%
# NBVAL_CHECK_OUTPUT
print("more than 7 of 10 medical questions right:", theirs["medical"] > 0.7)
print("less than a quarter of the general score is left:", theirs["general"] < theirs["base_general"] / 4)

# %% [markdown]
# It has learned medicine and lost what it knew: **catastrophic forgetting**. Nothing in the training made the model
# retain what it was not shown. (In the log, *promoted* and α belong to ICFT, sections 6 and 8; the line on weak labels
# is about pairs of replies, lesson 02.) **Retention** says how bad it is:
#
# $$\text{retention} = \frac{\text{general score of the trained model}}{\text{general score of the base}}$$

# %% [markdown]
# ### Your turn: retention
#
# ●○○ difficulty · ●●● importance · 3 minutes
#
# Write the function that judges both runs. It replaces the package's in the cell after it.

# %%
# NBVAL_CHECK_OUTPUT
def retained(before, after):
    """before, after: scores of the base and of the trained model, from 0 to 1. Returns 1.0 if nothing is lost."""
    return ...


answer, solved = retained(0.8, 0.6), False
if answer is ...:
    print("Your turn.")
elif abs(answer - 0.75) > 1e-9 or abs(retained(0.5, 0.6) - 1.2) > 1e-9:
    print(f"Not yet: 0.8 before and 0.6 after gave {answer}, 0.5 before and 0.6 after gave {retained(0.5, 0.6)}.")
else:
    solved = True
    print("Right.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Losing nothing, 0.8 before and 0.8 after, must give 1. A score may also rise.
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

# %%
# NBVAL_CHECK_OUTPUT
measure = retained if solved else retention  # yours, or the package's until the exercise is solved
left = measure(theirs["base_general"], theirs["general"])
print("less than a quarter retained:", left < 0.25)
print("the same number as in the run's report:", abs(left - plain["retention"]) < 1e-9)

# %% [markdown]
# ## 6 · Training with ICFT
#
# **A curriculum.** Medical examples come in three **stages**: easy (terminology), then also medium (drugs), then
# also hard. Within a stage the easiest come first.
#
# **Two memories.** The *short-term memory* is a fast adapter, trained as usual. The *long-term memory* is a slow
# adapter (its moving average) and a buffer of general examples.

# %% [markdown]
# **Losses.** A loss is a number that training makes small. The total is
#
# $$L_\text{total} = \lambda\,L_\text{consistency} + L_\text{task} + L_\text{fine-tune}.$$
#
# - $L_\text{fine-tune}$: imitate the responses;
# - $L_\text{consistency}$, with weight $\lambda$ (ours; the paper has none): on memory examples, predict what the
#   *teacher* predicts: the long-term memory or the base, whichever knows the example better;
# - $L_\text{task}$: match uncertain labels; 0 here, since only the most likely answer is used (*hard labels*).

# %% [markdown]
# **Consolidation.** After a stage the slow adapter's change $\Delta W$ is chosen on the line between its values at
# start and end:
#
# $$\Delta W(\alpha) = (1 - \alpha)\,\Delta W_\text{start} + \alpha\,\Delta W_\text{end}.$$
#
# Of several $\alpha$ it takes the best in medicine that satisfies the **retention constraint**: on *validation*
# questions, retention ≥ 1 − `consolidation.max_drop`.
#
# **Predict.** How much will ICFT retain, and how much less medicine will it learn than plain QLoRA?

# %%
icft = train_icft(ICFTConfig.preset("icft", settings), runs / "icft", data)

# %% [markdown]
# ## 7 · Before and after
#
# All models on the same test questions, which no run was trained on. *Medical* is exact match on questions;
# *preference*, how often the better of two replies is the more likely one (chance 0.5); *reply*, the share of key
# facts that a written reply contains. The memory does not contain what the *general* questions ask.

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
# Plain QLoRA has the most medicine and nothing general left. ICFT is a little behind on questions and replies, and
# further behind on preferences.
#
# **Predict.** In which stage does plain QLoRA lose the general score? (Its examples are all mixed: a "stage" is only a
# part of the training.)

# %%
columns = ["general", "easy", "medium", "hard"]  # of the accuracy matrix; hard examples are not questions
by_stage = {name: pd.DataFrame(report["accuracy_matrix"], columns=columns,
                               index=["base", "stage 1", "stage 2", "stage 3"]).drop(columns="hard")
            for name, report in (("plain QLoRA", plain), ("ICFT", icft))}
display(pd.concat(by_stage, axis=1).round(2))
display(Image(png(forgetting_figure(plain)), width=640), Image(png(forgetting_figure(icft)), width=640))

# %%
# NBVAL_CHECK_OUTPUT
theirs_after, ours_after = by_stage["plain QLoRA"].loc["stage 1"], by_stage["ICFT"].loc["stage 1"]
print("plain QLoRA lost more than half of the general score in its first stage:",
      theirs_after["general"] < theirs["base_general"] / 2)
print("ICFT's first stage learned more than half of the easy questions:", ours_after["easy"] > 0.5)
print("... and fewer than 1 of 10 medium ones:", ours_after["medium"] < 0.1)
print("ICFT retained more than 8 tenths after every stage:",
      bool((by_stage["ICFT"]["general"] > 0.8 * theirs["base_general"]).all()))

# %% [markdown]
# Plain QLoRA lost the general score in its first stage, before it knew much medicine: forgetting is faster than
# learning. ICFT's first stage learned easy questions, its second medium ones, and the general score fell by less than
# 0.1. The hard stage adds replies and preferences, which have no line here; the score of questions changes by less than
# 0.05.

# %% [markdown]
# ## 8 · What happened inside
#
# `new_examples` and `memory_examples` are available in a stage. `teacher` is the share of memory examples whose teacher
# was the long-term memory, not the base. `alpha` is consolidation's choice. No medical example enters the memory here:
# the ring of recent examples, from which they are *promoted*, is off by default (see lesson 05).

# %%
stages = pd.DataFrame(icft["stages"]).set_index("name")
stages["alpha"] = [chosen["alpha"] for chosen in stages["consolidation"]]
stages["teacher"] = [round(share["memory"], 2) for share in stages["teacher_share"]]
stages[["steps", "new_examples", "memory_examples", "teacher", "alpha"]]

# %% [markdown]
# The candidates after stage 2, on validation questions (medical is 0.89 on the test). The search goes from the end of
# training (α = 1) towards the start of the stage. α = 1 retained too little, so it also goes towards the base and
# chooses there. Ties are broken by the general score. (The last stage may go beyond α = 1.)

# %%
record = icft["stages"][1]["consolidation"]
candidates, min_retention = record["candidates"], 1 - icft["config"]["consolidation"]["max_drop"]
print(f"minimum retention allowed: {min_retention:.2f}; chosen: α = {record['alpha']:.2f}")
pd.DataFrame(candidates)[["origin", "alpha", "general", "retention", "medical"]].round(3)

# %%
# NBVAL_CHECK_OUTPUT
print("the end of training (α = 1) violates the constraint:", candidates[0]["retention"] < min_retention)
print("the chosen candidate satisfies it:",
      any(one["alpha"] == record["alpha"] and one["retention"] >= min_retention for one in candidates))
print("in the first stage the base is the only teacher:", bool(stages["teacher"].iloc[0] == 0))

# %% [markdown]
# The report logs each loss under its own name. **Predict**: does the total equal the sum of the three at every
# step, with L_consistency times its weight?

# %%
# NBVAL_CHECK_OUTPUT
losses = pd.DataFrame(icft["losses"])
weight = icft["config"]["loss"]["consistency_weight"]
gap = losses["total"] - weight * losses["consistency"] - losses["task"] - losses["fine_tune"]
print("total = weight · consistency + task + fine-tune:", bool(gap.abs().max() < 1e-3))
print("L_task is 0:", bool((losses["task"] == 0).all()))
Image(png(losses_figure(icft)), width=640)

# %% [markdown]
# L_fine-tune falls in each stage, and rises where harder examples enter. L_consistency starts at 0, because the new
# adapter does not change the base's predictions yet. It rises as the model moves away from its teacher, and falls when
# consolidation has moved the model back. L_task is 0 and has no panel.

# %% [markdown]
# ## 9 · Query them yourself
#
# A run's folder holds its adapter, in the format of peft, the usual library for adapters. We load both and compare them
# with the bare base: the questions from above, and a patient. This table also works where widgets do not.

# %%
models = {"base": partial(generate_reply, base, tokenizer),
          "plain QLoRA": partial(generate_reply, *load_run(runs / "qlora")),
          "ICFT": partial(generate_reply, *load_run(runs / "icft"))}
patient = next(example["prompt"] for example in data.test if example["topic"] == "reply")
ask_table(models, [*general, *medical, patient])

# %% [markdown]
# Plain QLoRA answers general questions with medical words or fragments. ICFT answers both kinds, but gives metoprolol a
# wrong class: it is a beta blocker. ICFT's score for drugs is 0.86, so about one in seven is wrong. Both answer the
# patient correctly.
#
# Now choose an example or type a question, and press Enter. **Never trust its replies on health.**

# %%
questions = [suite[i]["prompt"] for suite in (data.general_test, data.test) for i in range(0, 400, 40)]
ask_panel(models, questions)

# %% [markdown]
# ## What was shown
#
# - A chat model, fine-tuned the plain way, learned the most medicine and lost most right answers to general
#   questions (from 0.53 to 0.13). ICFT retained most (0.45) and learned less, above all for patients.
# - Labelling functions, weighted by a label model, came close to the truth.
# - `tiny` showed the same. Lesson 09 asks which component helps.

# %% [markdown]
# ## Exercises
#
# Write your code in place of `...`. Hint and solution are folded.
#
# ### 1 · Your own labelling function (easy, 8 minutes)
#
# Medical terms in *-itis* mean an inflammation. Vote on examples whose prompt has such a term: for the response that
# starts with "inflammation". Where no response starts so, or more than one does, abstain, as on all other examples.

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
# ### 2 · Choose α (medium, 10 minutes)
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
# - [The paper](https://arxiv.org/abs/2502.00832) (Long, Gonzalez and Fuller, 2025): the idea and the loss.
# - [QLoRA](https://arxiv.org/abs/2305.14314) (Dettmers and others, 2023): how 4 bits are enough; section 3.
# - [Snorkel](https://arxiv.org/abs/1711.10160) (Ratner and others, 2017): labelling functions in practice.
# - [LoRA Learns Less and Forgets Less](https://arxiv.org/abs/2405.09673) (Biderman and others, 2024): careful
#   measurements of the same trade-off.

# %%
# NBVAL_CHECK_OUTPUT
print_peak(3)
