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
# # 08 · Interactive evaluation
#
# Two models, one question: which is better? Compare their replies, vote without knowing which model wrote them, look at
# what the wrong answers were, and find out how far the difference can be trusted.

# %% [markdown]
# **You will be able to**
#
# - compare the replies of several models, and stop one that rambles;
# - hold a blind vote, and give its win rate an honest interval;
# - distinguish exact match, option accuracy and the chance level;
# - say of wrong answers where they are, what they are, and whether they contain the right one;
# - compare two models on the same questions, by McNemar's test and a paired bootstrap.
#
# **You need** lessons 00 to 07.

# %% [markdown]
# {{budget}}
#
# Run the cells from top to bottom. Where the text says **predict**, write down a guess first. Which scores to use
# is *our reading* of the paper, which names the tasks only. Teaching material: **not medical advice**.

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
import math
import tempfile
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image
from matplotlib import rc_context
from matplotlib.figure import Figure

from icft_lite import Encoder, evaluate_suite, generate, load_base, load_run, sample_bundle, train_icft
from icft_lite.chat import SaveStageAdapters, run_models
from icft_lite.evaluation import Suite
from icft_lite.experiments.blind_votes import pairwise_result, read_votes
from icft_lite.experiments.recorded import load_recorded, recorded_models
from icft_lite.metrics import key_fact_recall, normalize_answer, token_f1
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.scoring import score_responses
from icft_lite.reporting.figures import GENERAL, GREY, INK, MEDICAL, RC, png
from icft_lite.statistics import binomial_interval, holm, mcnemar_exact, paired_bootstrap
from icft_lite.utils.hardware import peak_memory
from icft_lite.widgets import ask_panel, ask_table, chat_panel, vote_panel, votes_figure, votes_table

warnings.simplefilter("ignore", FutureWarning)
data, runs = sample_bundle(), Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1 · Something to judge
#
# A short run on easy medical examples, plain on purpose: no memory examples, no consolidation (lesson 05). It will
# learn something and forget a good deal. In random order each of its three stages draws from all examples;
# `SaveStageAdapters` saves the slow adapter at the end of each stage, so that we can compare them all.

# %%
def easy(examples):
    return examples.select([i for i, level in enumerate(examples["level"]) if level == "easy"])


few = replace(data, pool=None, validation=None, general_memory=None, general_validation=None,
              trusted=easy(data.trusted), test=easy(data.test),
              general_test=data.general_test.select(range(0, len(data.general_test), 3)))
settings = {
    "optim.max_tokens": 30_000, "optim.batch_size": 26, "optim.learning_rate": 4e-3,
    "curriculum.order": "random", "curriculum.last_stage_share": 1 / 3, "curriculum.signals": ["length"],
    "long_term.share": 0.0, "short_term.share": 0.0, "consolidation.enabled": False,
}
report = train_icft(settings, runs / "short", few, progress=False, callbacks=[SaveStageAdapters()])
models = run_models(runs / "short", max_new_tokens=24)

# %%
# NBVAL_CHECK_OUTPUT
print(*models, sep=", ")

# %% [markdown]
# `slow` is the slow adapter after the last stage, `fast` the adapter that was trained by gradient. Without
# consolidation the slow one becomes a copy of the fast one, so here both reply the same. One base serves them all: an
# adapter is activated when its model is queried.

# %% [markdown]
# ## 2 · Ask
#
# **Predict.** Who still knows the capital? From which stage on does a model say something medical of
# *nephromegaly*?

# %%
questions = ["What is the name of the capital city of Bhutan?", "Write the verb repair in the past tense.",
             "What does the medical term nephromegaly mean?", "What body system is the stomach in?"]
ask_table(models, questions)

# %% [markdown]
# Your turn: choose an example, or type a question and press Enter.

# %%
prompts = [part[i]["prompt"] for part in (few.general_test, few.test) for i in range(0, 200, 25)]
ask_panel(models, prompts)

# %% [markdown]
# ### Temperature, and a way to stop
#
# So far every model was **greedy**: it always wrote the most likely token. Or it may sample at random.
# **Temperature** T divides the logits before the softmax, so that probabilities become p^(1/T), rescaled to sum to 1.
# (Of all tokens only the 50 most likely take part, a default of transformers.)
#
# **Predict.** Three tokens have 0.6, 0.3 and 0.1. What are they at T = 2, and as T goes to 0?

# %%
# NBVAL_CHECK_OUTPUT
p = np.array([0.6, 0.3, 0.1])
for T in (1, 2, 0.1):
    print(f"T = {T}:", (p ** (1 / T) / (p ** (1 / T)).sum()).round(2))

# %% [markdown]
# At a high temperature models ramble, so a chat needs a brake. This one writes in a **thread** of its own; before each
# token it checks whether *Stop* was pressed. Try 2.0.

# %%
chat_panel(*load_run(runs / "short"))

# %% [markdown]
# A reader's clicks can be done by code: here we ask at temperature 0, twice, then press *Stop* with nothing to stop.

# %%
# NBVAL_CHECK_OUTPUT
panel = chat_panel(*load_base())
for _ in range(2):
    panel.question.value = questions[0]
    panel.wait()
print("greedy decoding gives the same reply twice:", panel.history[0] == panel.history[1])
panel.stop_button.click()
print("no reply is being written any more:", panel.wait(0))

# %% [markdown]
# ## 3 · Vote blind
#
# Whoever knows which model speaks, judges the name. So names are hidden, and the sides are assigned at random, since
# people favor one side (**position bias**). Pairs of identical replies are skipped. The result is hidden until you
# show it.

# %%
pair = {name: models[name] for name in ("base", "slow")}
vote_panel(pair, prompts, runs / "my_votes.jsonl")

# %% [markdown]
# Every vote is at once a line in a file, so a crash loses none, and a new panel on the same file goes on where you
# left.
#
# This page needs votes as well. A judge of code presses the buttons: it has the answer key, and prefers the reply
# that shares more words with it.

# %%
def judge(panel, key):
    """Vote on all that the panel shows. key: {question: right answer}."""
    while panel.current:
        question, _, replies = panel.current
        left, right = (token_f1(reply, key[question]) for reply in replies)
        panel.buttons["tie" if left == right else "left" if left > right else "right"].click()


every = [few.general_test[i] for i in range(0, len(few.general_test), 6)]
key = {example["prompt"]: example["responses"][example["label"]] for example in every}
panel = vote_panel(pair, list(key), runs / "votes.jsonl", pause=0)  # no pause: this is no double click
judge(panel, key)
votes_table(panel.votes)

# %%
# NBVAL_CHECK_OUTPUT
votes = read_votes(runs / "votes.jsonl")
print("all in the file:", votes == panel.votes and len(votes) + panel.num_identical == len(key))
print("a line holds:", ", ".join(votes[0]))
result = pairwise_result(votes, "base", "slow")
print("on general questions the base wins; one half is below the interval:", result.low > 0.5)

# %% [markdown]
# ### Replies of a real chat model
#
# `tiny` replies in a few words whatever it is asked, so its forgetting is a wrong word. A real chat model has more to
# lose. These replies of SmolLM2-135M-Instruct were recorded before and after fine-tuning on 30,000 tokens of the
# course's medicine, with three methods (`make demo-llm`; lesson 10 has the scores).
#
# **Predict.** The base lists, explains and writes letters. What does plain LoRA do?

# %%
recorded = load_recorded()
real = recorded_models(recorded)
ask_table(real, [one["prompt"] for one in recorded["display"]][:3])

# %%
asked = [one["prompt"] for one in recorded["recorded"]]
ask_panel(real, asked)

# %% [markdown]
# Vote for the more useful reply of two, blind. The models' names are shown with the result.

# %%
vote_panel({name: real[name] for name in ("base", "ICFT")}, asked, runs / "real_votes.jsonl")

# %%
# NBVAL_CHECK_OUTPUT
changed = {name: sum(real[name](prompt) != real["base"](prompt) for prompt in asked) for name in real}
print("ICFT changed fewer replies than plain LoRA:", changed["ICFT"] < changed["plain LoRA"])

# %% [markdown]
# ## 4 · A rate without an interval says little
#
# Of n decided votes a model won k: its **win rate** is k/n. Ties are counted, but decide nothing. Had we asked other
# questions, the rate would differ. A 95 % **interval** comes from a procedure that contains the true rate in 95 of 100
# such experiments.

# %% [markdown]
# The normal-approximation (Wald) interval, p ± 1.96·√(p(1−p)/n), fails at the ends: for 10 wins of 10 it is 1 to 1, no
# doubt at all. **Wilson** (1927) asks instead which true rates q make the result unsurprising:
# |k/n − q| ≤ z·√(q(1−q)/n). Solving for q:
#
# center (k + z²/2) / (n + z²), half-width z·√(k(n−k)/n + z²/4) / (n + z²), z = 1.96

# %%
def wilson(k, n, z=1.959964):
    """95 % interval of a rate, k of n: (low, high)."""
    half = z * math.sqrt(k * (n - k) / n + z * z / 4)
    return (k + z * z / 2 - half) / (n + z * z), (k + z * z / 2 + half) / (n + z * z)


# %% [markdown]
# **Predict.** Of 10 decided votes, how many must a model win until ½ is outside its interval?

# %%
# NBVAL_CHECK_OUTPUT
for k in range(5, 11):
    low, high = wilson(k, 10)
    print(f"{k:2} of 10: {low:.2f} to {high:.2f}", "" if low < 0.5 else "better than a coin")
print("the package agrees:", np.allclose(wilson(7, 10), binomial_interval(7, 10, method="wilson")))

# %% [markdown]
# Nine of ten. Small votes prove only large differences. (And who votes until the result pleases has no interval at
# all: fix the number of votes first.) Our judge's votes, as a figure:

# %%
Image(png(votes_figure(votes), dpi=110), width=620)

# %% [markdown]
# ## 5 · One question, three scores
#
# A question comes with options. **Exact match**: does the model, free to write anything, write the right one?
# **Option accuracy**: is the right one the most likely *of the options*? Guessing gets the second right 1/k of the
# time: the **chance level**. Exact match has no such level.

# %%
model, tokenizer = load_run(runs / "short")
model.load_adapter(str(runs / "short" / "adapter_stage1"), "early")
encoder = Encoder(tokenizer)
example = next(example for example in few.test if example["topic"] == "anatomy")
options = example["responses"]
table = {"option": options, "right": [k == example["label"] for k in range(len(options))]}
for name, adapter in (("base", None), ("slow", "default")):
    with use_adapter(model, adapter):
        table[f"log p, {name}"] = score_responses(model, [encoder(example)])[0]["logp"].astype(float).round(1)
print(example["prompt"])
pd.DataFrame(table)

# %% [markdown]
# Each number is the summed log-probability of an option's tokens; the largest is the model's choice. Now many
# questions. One forward pass gives both scores: a greedy model writes exactly the answer
# if each of its tokens is the most likely one after those before.

# %%
def questions_of(examples):
    return Suite.from_examples([example for example in examples if example["task"] == "question"], encoder)


suites = {"general": questions_of(few.general_test), "medical": questions_of(few.test)}


def marks(suite, adapter):
    """A row for each question: topic, kind, exact and option (right or not), chance (1/k)."""
    with use_adapter(model, adapter):
        scores = score_responses(model, suite.encoded)
    return pd.DataFrame([
        dict(topic=example["topic"], kind=example["kind"], exact=bool(score["greedy"][example["label"]]),
             option=score["logp"].argmax() == example["label"], chance=1 / len(score["logp"]))
        for example, score in zip(suite.examples, scores)])


adapters = {"base": None, "after a third": "early", "slow": "default"}
found = {suite: {name: marks(suites[suite], adapter) for name, adapter in adapters.items()} for suite in suites}

# %%
# NBVAL_CHECK_OUTPUT
mine = found["medical"]["slow"]
qa = evaluate_suite(model, tokenizer, {"medical": suites["medical"]}, "default", encoder)["medical"]["qa"]
print("exact match is the package's, a mean over topics:",
      np.isclose(mine.groupby("topic").exact.mean().mean(), qa["value"]))
print("option accuracy and chance level are, as means over questions:",
      np.isclose(mine.option.mean(), qa["option_accuracy"]), np.isclose(mine.chance.mean(), qa["option_chance"]))

# %% [markdown]
# **Predict**, for medical questions: the base's two scores, and which of the two rises first.

# %%
with rc_context(RC):
    figure = Figure(figsize=(8.5, 3.4))
    axes = figure.subplots(1, 2, sharey=True)
for axis, (suite, by_model) in zip(axes, found.items()):
    for x, (name, mine) in enumerate(by_model.items()):
        for off, score, color in ((-0.18, "exact", MEDICAL), (0.18, "option", GENERAL)):
            low, high = binomial_interval(mine[score].sum(), len(mine), method="wilson")
            axis.bar(x + off, mine[score].mean(), 0.34, color=color, label=score if not x else None)
            axis.plot([x + off] * 2, [low, high], color=INK, linewidth=1.5)
    axis.axhline(mine.chance.mean(), color=INK, linestyle="--", linewidth=1, label="chance level (option)")
    axis.set(title=f"{suite} questions, n = {len(mine)}", ylim=(0, 1.05), xticks=range(3), xticklabels=list(by_model))
axes[0].set_ylabel("share right (0–1); line: 95 % interval")
axes[1].legend(frameon=False, loc="upper left", fontsize=9)
Image(png(figure, dpi=110), width=740)

# %%
# NBVAL_CHECK_OUTPUT
first, last = (found["medical"][name] for name in ("base", "slow"))
print("base: option accuracy is far above exact match:", first.option.mean() > first.exact.mean() + 0.1)
print("training raises option accuracy clearly above the chance level:",
      binomial_interval(last.option.sum(), len(last))[0] > last.chance.mean())

# %% [markdown]
# Without the dashed line, the base's option accuracy would pass for knowledge; a die does as well. Always draw the
# chance level. Option accuracy only asks for an order among a few, exact match asks for the very words: that is why
# reports show both. And look at the left: does option accuracy fall as far as exact match? What seems forgotten may
# only be unsaid.

# %% [markdown]
# ## 6 · Where are the mistakes?
#
# One number hides who pays. By **topic**; n is small, so read the big differences only.

# %%
parts = [by_model[name].assign(suite=suite, model=name) for suite, by_model in found.items() for name in by_model]
marked = pd.concat(parts)
by_topic = marked.pivot_table(index=["suite", "topic"], columns="model", values="exact")[list(adapters)]
with rc_context(RC):
    figure = Figure(figsize=(7.5, 0.26 * len(by_topic) + 1.2))
    axis = figure.subplots()
for y, ((suite, topic), row) in enumerate(by_topic[::-1].iterrows()):
    axis.plot(row, [y] * 3, color=GREY, linewidth=1)
    for x, marker, name in zip(row, "os^", adapters):
        axis.plot(x, y, marker, color=GENERAL if suite == "general" else MEDICAL, label=name if not y else None,
                  markerfacecolor="white" if name == "base" else None)
axis.set_yticks(range(len(by_topic)), [topic.replace("_", " ") for _, topic in by_topic.index[::-1]], fontsize=8)
axis.set_xlabel("exact match (0–1); blue: general, orange: medical")
axis.legend(frameon=False, loc="lower right", fontsize=9)
Image(png(figure, dpi=110), width=660)

# %% [markdown]
# By **kind**: a *rule* is tested on combinations that were never trained on; a *fact* was taught with paraphrases of
# the test question and can only be known by heart.

# %%
marked.pivot_table(index=["suite", "kind"], columns="model", values="exact")[list(adapters)].round(2)

# %%
# NBVAL_CHECK_OUTPUT
general, medical = by_topic.loc["general"], by_topic.loc["medical"]
print("no general topic gained:", bool((general["slow"] <= general["base"]).all()))
print("every medical topic did:", bool((medical["slow"] > medical["base"]).all()))

# %% [markdown]
# ## 7 · What did it say instead?
#
# A wrong answer can be a wrong word, or a paraphrase of the right answer. We let `slow` write, and sort:
#
# - **right**: exactly the answer;
# - **contained**: the answer but for case, articles, marks, or with more around it;
# - **confused**: another answer, out of all the options of the topic's questions;
# - **partly**: shares words with the answer;
# - **other**.
#
# How much is shared, **token F1** shows: 2·w / (a + b), for w shared words of the a in one text and the b in the other.

# %%
def verdict(reply, example, known):
    """What a reply is. known: the normalized answers of all questions of its topic."""
    answer = example["responses"][example["label"]]
    if reply == answer:
        return "right"
    if key_fact_recall(reply, [answer]):  # as whole words, after normalizing
        return "contained"
    if normalize_answer(reply) in known:
        return "confused"
    return "partly" if token_f1(reply, answer) > 0 else "other"


# %% [markdown]
# **Predict** the verdict on each; the question is *What does nephritis mean?*, the answer *inflammation of the
# kidney*.

# %%
# NBVAL_CHECK_OUTPUT
example = dict(responses=["inflammation of the kidney"], label=0)
for reply in ("inflammation of the kidney", "Inflammation of kidney.", "inflammation of the liver", "kidney disease",
              "renal inflammation", "no inflammation of the kidney"):
    said = verdict(reply, example, {"inflammation of liver"})
    print(f"{reply:31} {said:10} token F1 {token_f1(reply, example['responses'][0]):.2f}")

# %% [markdown]
# Three warnings in six lines. Token F1 gives 0.67 to the wrong *organ*. A true synonym (*renal*) counts as partly.
# And "no inflammation of the kidney" counts as contained: comparing strings reads no negation. Look at answers,
# always.

# %%
examples = suites["medical"].examples
known = {}
for example in data.test:
    if example["task"] == "question":
        known.setdefault(example["topic"], set()).update(map(normalize_answer, example["responses"]))
with use_adapter(model, "default"):
    replies = generate(model, tokenizer, encoder, examples, max_new_tokens=24)
verdicts = [verdict(reply, example, known[example["topic"]]) for example, reply in zip(examples, replies)]
names = ["right", "contained", "confused", "partly", "other"]
topics = pd.Series([example["topic"] for example in examples], name="topic")
pd.crosstab(topics, pd.Series(verdicts, name="")).reindex(columns=names, fill_value=0)

# %%
# NBVAL_CHECK_OUTPUT
exact = found["medical"]["slow"].exact.tolist()
agree = np.mean([(said == "right") == one for said, one in zip(verdicts, exact)])
print("writing it out agrees with the forward pass on 98 of 100 or more:", bool(agree >= 0.98))
count = {name: verdicts.count(name) for name in names}
print("more are confused or partly right than contained:",
      count["confused"] + count["partly"] > count["contained"])

# %% [markdown]
# So on these samples exact match is fair: hardly any right answer is lost to its wording. The mistakes are
# mostly of the right kind: another option of the topic in place of the right one, or half of the answer. With freer
# answers it would be otherwise, and you must look again.
#
# A **confusion matrix** shows what is taken for what. All questions on anatomy, which ask for the system of a part:

# %%
examples = [example for example in few.test if example["topic"] == "anatomy"]
with use_adapter(model, "default"):
    replies = generate(model, tokenizer, encoder, examples, max_new_tokens=8)
truth = pd.Series([example["responses"][example["label"]] for example in examples])
classes = sorted(set(truth))
said = pd.Series([reply if reply in classes else "other" for reply in replies])
matrix = pd.crosstab(truth, said).reindex(index=classes, columns=[*classes, "other"], fill_value=0)

# %%
with rc_context(RC):
    figure = Figure(figsize=(6.4, 4.6))
    axis = figure.subplots()
axis.imshow(matrix, cmap="Blues", vmin=0)
for (y, x), n in np.ndenumerate(matrix.to_numpy()):
    axis.text(x, y, n, ha="center", va="center", color="white" if n > matrix.to_numpy().max() * 0.6 else INK)
axis.set_xticks(range(len(classes) + 1), matrix.columns, rotation=40, ha="right")
axis.set_yticks(range(len(classes)), matrix.index)
axis.set(xlabel="what slow wrote", ylabel="right answer", title=f"Anatomy: number of questions, n = {len(examples)}")
axis.grid(False)
Image(png(figure, dpi=110), width=560)

# %%
# NBVAL_CHECK_OUTPUT
print("every question is in it once:", int(matrix.to_numpy().sum()) == len(examples))
right = int(np.trace(matrix[classes]))
print("the diagonal is the exact matches:", right == sum(reply == one for reply, one in zip(replies, truth)))

# %% [markdown]
# Read it by rows; a full column is an answer that the model gives too readily. And mistakes do not cost the same: among
# the hard questions, which ask how urgent a case is, *routine* for an *emergency* is the one to count first. No
# accuracy shows that.

# %% [markdown]
# ## 8 · Is the difference real?
#
# Both models answered the *same* questions, so pair them. Those that both get right, or both wrong, say nothing of who
# is better. **McNemar's test** looks at the others: if the two were equally good, each would fall to either side like
# a fair coin.

# %% [markdown]
# **By hand.** Ten questions: both right on 4, only A on 5, only B on 1, none on 0. **Predict**: is 9 against 5 right
# enough to call A better?
#
# Six differ. At most 1 of 6 tosses tails: (1 + 6) / 2⁶ = 7/64. Either side could have won, so twice that: 0.22. No.

# %%
# NBVAL_CHECK_OUTPUT
a = [True] * 4 + [True] * 5 + [False]
b = [True] * 4 + [False] * 5 + [True]
print("A right:", sum(a), "B right:", sum(b), "of", len(a))
print("p by hand:", round(2 * 7 / 64, 3), "the package:", round(mcnemar_exact(a, b), 3))

# %% [markdown]
# p is the chance of a split this uneven or more, *if* the two were equally good. It is no probability that A is better,
# and says nothing of how much.
#
# *How much* is the **paired bootstrap**'s: draw as many questions with replacement, take the mean difference on them,
# do so many times; the middle 95 % is the interval.

# %%
def bootstrap(a, b, times=4000, seed=0):
    """Mean difference of two models on the same questions, and its 95 % interval: (difference, low, high)."""
    difference, rng = np.subtract(a, b, dtype=float), np.random.default_rng(seed)
    means = [difference[rng.integers(0, len(a), len(a))].mean() for _ in range(times)]
    return difference.mean(), *np.quantile(means, [0.025, 0.975])


# %%
# NBVAL_CHECK_OUTPUT
by_hand, package = bootstrap(a * 20, b * 20), paired_bootstrap(a * 20, b * 20, n_resamples=4000)
print("difference on 200 questions:", round(by_hand[0], 2), "; interval excludes 0:", bool(by_hand[1] > 0))
print("the package agrees to 0.02:", np.allclose(by_hand, package[:3], atol=0.02))

# %% [markdown]
# **Why pair?** Questions differ in difficulty far more than models do. Two models, 200 questions: both right on 110, A
# alone on 16, B alone on 4. **Predict**: how much wider is the interval if one forgets which answers belong together?

# %%
# NBVAL_CHECK_OUTPUT
a = np.repeat([True, True, False, False], [110, 16, 4, 70])
b = np.repeat([True, False, True, False], [110, 16, 4, 70])
apart = 1.96 * math.sqrt(a.var() / 200 + b.var() / 200)
together = 1.96 * math.sqrt(np.subtract(a, b, dtype=float).var() / 200)
print(f"difference {a.mean() - b.mean():.2f}; unpaired ± {apart:.3f}, paired ± {together:.3f}")
print(f"McNemar's p: {mcnemar_exact(a, b):.3f}")

# %% [markdown]
# Unpaired, the interval includes 0; paired, it does not. Now ours. We ask three things, so three chances to be fooled:
# **Holm's** method multiplies the smallest p by 3, the next by 2, the last by 1 (and keeps their order).

# %%
claims = [("general", "base", "slow"), ("medical", "slow", "base"), ("general", "after a third", "slow")]
rows, ps = [], []
for suite, one, other in claims:
    a, b = found[suite][one], found[suite][other]
    difference, low, high, _ = paired_bootstrap(a.exact, b.exact, a.topic, n_resamples=2000)
    ps.append(mcnemar_exact(a.exact, b.exact))
    rows.append({"questions": suite, "better?": one, "than": other, "difference": difference, "low": low,
                 "high": high, "McNemar p": ps[-1]})
pd.DataFrame(rows).assign(**{"McNemar p": [f"{p:.1e}" for p in ps], "Holm": [f"{p:.1e}" for p in holm(ps)]}).round(3)

# %%
# NBVAL_CHECK_OUTPUT
print("that general knowledge was lost is not chance:", rows[0]["low"] > 0 and holm(ps)[0] < 0.001)

# %% [markdown]
# The interval's difference is a mean over topics, as in reports; McNemar counts questions. And it is all about *these
# two adapters*: another seed trains others. For methods rather than models one needs several seeds (lesson 09).

# %% [markdown]
# ## 9 · Replies
#
# A good reply to a patient has many paraphrases; exact match would fail all but one. Each test reply names **key
# facts**, and **key-fact recall** is the share of them that it contains, as whole words.
#
# **Predict** the recall of each; the key facts are *heart attack* and *ambulance*.

# %%
# NBVAL_CHECK_OUTPUT
for reply in ("This may be a heart attack. Call an ambulance now.", "Please phone for an ambulance at once.",
              "Possibly a myocardial infarction: dial 112.", "This is no heart attack, you need no ambulance."):
    print(key_fact_recall(reply, ["heart attack", "ambulance"]), reply)

# %% [markdown]
# The third says the same in a doctor's words, and gets 0; the last is dangerous, and gets 1. Recall also never
# punishes what should *not* have been said. It shows whether training took hold; whether a reply is *good*, a person
# must say, blind. Here are real ones, from models that were never taught to answer patients:

# %%
examples = [example for example in data.test if example["task"] == "response"][::4]
replies = {"the reference": [example["responses"][0] for example in examples]}
for name, adapter in (("base", None), ("slow", "default")):
    with use_adapter(model, adapter):
        replies[name] = generate(model, tokenizer, encoder, examples, max_new_tokens=32)
recall = {name: np.mean([key_fact_recall(text, example["facts"]) for text, example in zip(texts, examples)])
          for name, texts in replies.items()}
prompts = [example["prompt"] for example in examples]
ask_table({name: dict(zip(prompts, texts)).get for name, texts in replies.items()}, prompts[:3])

# %%
# NBVAL_CHECK_OUTPUT
print("the references have all key facts:", recall["the reference"] == 1)
print("base and slow, which were taught no replies, hardly any:", max(recall["base"], recall["slow"]) < 0.2)

# %% [markdown]
# ## What was shown
#
# - Blind, sides at random, the result hidden: then a vote is about the reply.
# - A win rate needs its interval; Wilson's works where the Wald interval fails.
# - Exact match, option accuracy and the chance level answer different questions.
# - Errors have topics, kinds and costs; string scores cannot read a "no".
# - Same questions: pair them. McNemar asks whether, the bootstrap how much.

# %% [markdown]
# ## Exercises
#
# Put your code in place of `...` and run the cell.
#
# ### 1 · Half a point for a tie (easy, 5 minutes)
#
# Chess counts a draw as half a win. Write that rate.

# %%
# NBVAL_CHECK_OUTPUT
def rate(choices, model):
    """choices: the winner's name of each vote, or "tie". A tie is half a win. Returns 0 … 1."""
    return ...


votes = [["a", "b", "tie", "a"], ["tie", "tie"], ["b", "b"], ["a"] * 9 + ["b"]]
answer = [rate(one, "a") for one in votes]
if ... in answer:
    print("Your turn.")
else:
    good = np.allclose(answer, [0.625, 0.5, 0, 0.9])
    print("Right." if good else f"Not yet: {votes[0]} gave {answer[0]}, wanted 2.5 of 4.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Ties stay in the denominator.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def rate(choices, model):
#     return (choices.count(model) + choices.count("tie") / 2) / len(choices)
# ```
#
# </details>

# %% [markdown]
# ### 2 · McNemar from two counts (medium, 12 minutes)
#
# All that the test needs are two numbers: how many questions only A got right, and how many only B.

# %%
# NBVAL_CHECK_OUTPUT
def mcnemar(only_a, only_b):
    """Two-sided exact p-value, at most 1. `math.comb(n, k)` counts the ways to choose k of n."""
    return ...


cases = [(5, 1), (0, 6), (4, 4), (16, 4), (1, 12), (0, 0)]
answer = [mcnemar(*case) for case in cases]
if ... in answer:
    print("Your turn.")
else:
    wanted = [mcnemar_exact([True] * x + [False] * y, [False] * x + [True] * y) for x, y in cases]
    wrong = [case for case, mine, one in zip(cases, answer, wanted) if not np.isclose(mine, one)]
    print(f"Not yet: {wrong[0]} is off." if wrong else "Right.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# With n = only_a + only_b, add up comb(n, k) / 2ⁿ for k from 0 to the smaller count; double it; never above 1.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def mcnemar(only_a, only_b):
#     n = only_a + only_b
#     tail = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1)) / 2**n
#     return min(1.0, 2 * tail)
# ```
#
# </details>

# %% [markdown]
# ### 3 · How many votes? (medium, 12 minutes)
#
# A friend believes that her model wins 60 % of the time. If it does exactly that, after how many decided votes is ½
# below the Wilson interval?

# %%
# NBVAL_CHECK_OUTPUT
def votes_needed(share):
    """The least n (from 2) at which round(share · n) wins of n have a Wilson interval wholly above 1/2."""
    return ...


answer = [votes_needed(share) for share in (0.9, 0.75, 0.6)]
if ... in answer:
    print("Your turn.")
else:
    wanted = [next(n for n in range(2, 5000) if wilson(round(share * n), n)[0] > 0.5) for share in (0.9, 0.75, 0.6)]
    print("Right." if answer == wanted else f"Not yet: {answer}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Count n up from 2, and return the first for which `wilson(round(share * n), n)[0] > 0.5`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def votes_needed(share):
#     n = 2
#     while wilson(round(share * n), n)[0] <= 0.5:
#         n += 1
#     return n
# ```
#
# A win rate of 60 % takes 91 votes, and some 200 to be seen 4 times in 5: most small "preference studies" could not
# have seen it.
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [Interval Estimation for a Binomial Proportion](https://doi.org/10.1214/ss/1009213286) (Brown, Cai and DasGupta,
#   2001): why not the Wald interval; read the figures.
# - [Statistical Significance Tests for Machine Translation](https://aclanthology.org/W04-3250/) (Koehn, 2004): the
#   paired bootstrap, in eight clear pages.
# - [Chatbot Arena](https://arxiv.org/abs/2403.04132) (Chiang and others, 2024): blind votes by the hundred
#   thousand, and what can go wrong with them.
# - [With Little Power Comes Great Responsibility](https://arxiv.org/abs/2010.06595) (Card and others, 2020): most
#   comparisons are too small; how to plan one.

# %%
# NBVAL_CHECK_OUTPUT
peak = (peak_memory() or 0) / 2**30  # not known on Windows
print("within the memory declared at the top:", peak < 2)
