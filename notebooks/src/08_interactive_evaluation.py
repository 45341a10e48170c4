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
# - compare the replies of several models, see which words changed, and stop one that rambles;
# - hold a blind vote, and give its win rate an interval;
# - distinguish exact match, option accuracy and the chance level;
# - sort wrong answers by topic and by kind;
# - write a paired bootstrap, and compare two models by it and by McNemar's test.
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

from icft_lite import Encoder, evaluate_suite, generate, load_base, load_run, sample_bundle, train_icft
from icft_lite.chat import SaveStageAdapters, run_models
from icft_lite.evaluation import Suite
from icft_lite.experiments.blind_votes import pairwise_result, read_votes
from icft_lite.experiments.recorded import load_recorded, recorded_models
from icft_lite.metrics import key_fact_recall, normalize_answer, token_f1
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.scoring import score_responses
from icft_lite.reporting.concepts import paired_bootstrap as bootstrap_diagram
from icft_lite.reporting.lessons.evaluation import scores_figure
from icft_lite.reporting.lessons.peak import print_peak
from icft_lite.reporting.style import png
from icft_lite.statistics import binomial_interval, holm, mcnemar_exact
from icft_lite.statistics import paired_bootstrap as package_bootstrap
from icft_lite.widgets import (
    ask_panel,
    ask_table,
    chat_panel,
    compare_panel,
    compare_table,
    share_changed,
    vote_panel,
    votes_figure,
    votes_table,
)

warnings.simplefilter("ignore", FutureWarning)
data, runs = sample_bundle(), Path(tempfile.mkdtemp())

# %% [markdown]
# ## 1 · Two models to evaluate
#
# A short run on easy medical examples, plain on purpose: no memory examples, no consolidation (lesson 05), no ring
# (off by default: no measured benefit). Each of its three stages draws from all examples in random order;
# `SaveStageAdapters` saves the slow adapter at the end of each stage.

# %%
# NBVAL_CHECK_OUTPUT
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
print(*models, sep=", ")

# %% [markdown]
# `slow` is the slow adapter after the last stage, `fast` the adapter that was trained by gradient. Without
# consolidation a run ends by copying the fast adapter into the slow one, so here both give the same replies.
#
# ## 2 · Query the models
#
# **Predict.** Who still knows the capital? From which stage on does a model say something medical of *nephromegaly*?

# %%
questions = ["What is the name of the capital city of Bhutan?", "Write the verb repair in the past tense.",
             "What does the medical term nephromegaly mean?", "What body system is the stomach in?"]
ask_table(models, questions)

# %% [markdown]
# The base knows Bhutan; *nephromegaly* (an enlarged kidney) it answers with an invented word. After a third of the
# training, general answers are already medical phrases. `slow` knows the kidney, not the *-megaly*.
#
# Now type questions yourself. All panels work by keyboard: Tab moves to the next control, Space opens a list or presses
# a button, Enter sends a question.

# %%
prompts = [part[i]["prompt"] for part in (few.general_test, few.test) for i in range(0, 200, 25)]
ask_panel(models, prompts)

# %% [markdown]
# ### Temperature, and a way to stop
#
# So far every model was **greedy**: it always wrote the most likely token. With a **temperature** T > 0, the next
# token is drawn at random, with the probabilities $p_i^{1/T} / \sum_j p_j^{1/T}$, where $p_i$ is the model's
# probability of token i.
#
# **Predict.** Three tokens have 0.6, 0.3 and 0.1. What are they at T = 2, and as T goes to 0?

# %%
# NBVAL_CHECK_OUTPUT
p = np.array([0.6, 0.3, 0.1])
for T in (1, 2, 0.1):
    print(f"T = {T}:", (p ** (1 / T) / (p ** (1 / T)).sum()).round(2))

# %% [markdown]
# A high temperature makes the distribution flat, a low one greedy. At 2.0 models ramble, so the chat has a *Stop*
# button: the model writes in its own **thread** and checks the button before each token. Try it. The next cell then
# presses the buttons by code.

# %%
chat_panel(*load_run(runs / "short"))

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
# A reader who knows the model judges its name. So names are hidden, and the sides are assigned at random, because
# people favor one side (**position bias**). Pairs of identical replies are skipped. The result is hidden until you
# show it.

# %%
pair = {name: models[name] for name in ("base", "slow")}
vote_panel(pair, prompts, runs / "my_votes.jsonl")

# %% [markdown]
# Every vote is written to a file at once. A new panel on the same file continues where you stopped.
#
# This page needs votes as well, so a function presses the buttons. It has the answer key and prefers the reply with the
# larger *token F1*, the overlap of words that section 7 defines.

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
# The same panels on SmolLM2-135M-Instruct. Its replies were recorded before and after fine-tuning on 30,000 tokens of
# the course's medicine, with three methods (`make demo-llm`;
# [scores]({{repository}}/blob/main/docs/results.md#the-demo-30000-training-tokens)). `tiny` forgets by a wrong word; a
# chat model has more to lose.
#
# **Predict.** The base lists, explains and writes letters. What does plain LoRA do?

# %%
recorded = load_recorded()
real = recorded_models(recorded)
ask_table(real, [one["prompt"] for one in recorded["display"]][:3])

# %% [markdown]
# The base's second reply repeats a digit: greedy decoding of a small model can get stuck. Plain LoRA writes a few
# words, like the medical examples. ICFT writes sentences, but others than the base: in the third it no longer names
# the capital. The next view marks the words that differ.

# %%
ask_panel(real, asked := [one["prompt"] for one in recorded["recorded"]])

# %%
pair = {name: real[name] for name in ("base", "ICFT")}
compare_table(pair, [asked[0], asked[4]])

# %%
compare_panel(real, asked)

# %% [markdown]
# **Predict**: which method changes most words of the base's replies, on average over 36 general prompts? After that,
# vote blind for the more useful reply.

# %%
# NBVAL_CHECK_OUTPUT
for name in real:
    shares = [share_changed(real["base"](prompt), real[name](prompt)) for prompt in asked]
    equal = sum(share == 0 for share in shares)
    print(f"{name:27} {np.mean(shares):4.0%} of the words differ, {equal:2} replies equal")

# %%
vote_panel(pair, asked, runs / "real_votes.jsonl")

# %% [markdown]
# ICFT and replay change about as many words; of the tuned models, replay alone still names Sarajevo. Plain LoRA changes
# nearly all. So on these prompts the consistency loss shows no advantage over replay. But a changed reply is not a
# worse one: that needs a vote.
#
# ## 4 · A rate without an interval says little
#
# A model's **win rate** $\hat\rho$ is its wins divided by the n decided votes. A 95 % **interval** comes from a
# procedure that contains the true rate in 95 of 100 such experiments.

# %% [markdown]
# The normal-approximation (Wald) interval fails at the ends: for 10 wins of 10 it is 1 to 1. **Wilson** (1927) takes
# all true rates $\rho$ with $|\hat\rho - \rho| \le \zeta\sqrt{\rho(1-\rho)/n}$, $\zeta = 1.96$:
#
# $$\frac{\hat\rho + \frac{\zeta^2}{2n} \;\pm\; \zeta\sqrt{\frac{\hat\rho(1-\hat\rho)}{n}
# + \frac{\zeta^2}{4n^2}}}{1 + \frac{\zeta^2}{n}}$$
#
# **Predict.** Of 10 decided votes, how many must a model win until ½ is outside its interval?

# %%
# NBVAL_CHECK_OUTPUT
def wilson(wins, n, zeta=1.959964):
    """95 % interval of a rate, wins of n: (low, high)."""
    rate, part = wins / n, zeta**2 / n
    half = zeta * math.sqrt(rate * (1 - rate) / n + part / (4 * n))
    return (rate + part / 2 - half) / (1 + part), (rate + part / 2 + half) / (1 + part)


for wins in range(5, 11):
    low, high = wilson(wins, 10)
    print(f"{wins:2} of 10: {low:.2f} to {high:.2f}", "" if low < 0.5 else "better than a coin")
print("the package agrees:", np.allclose(wilson(7, 10), binomial_interval(7, 10, method="wilson")))

# %% [markdown]
# It must win nine of ten: a small vote shows only large differences. (Fix the number of votes first. If you stop
# when you like the result, the interval is not valid.) The votes of section 3:

# %%
Image(png(votes_figure(votes), dpi=110), width=620)

# %% [markdown]
# ## 5 · One question, three scores
#
# A question comes with k options. **Exact match**: does the model, free to write anything, write the right one?
# **Option accuracy**: is the right one the most likely *of the options*? Guessing gets that right with
# probability 1/k, the **chance level**. Exact match has no such level.

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
# Each number is the summed log-probability of an option's tokens; the largest is the model's choice. Here the base
# chooses right, perhaps by luck: in section 2 it wrote *stomach*. Now many questions: a greedy model writes exactly the
# answer if each of its tokens is the most likely one.
#
# **Predict**, for medical questions: the base's two scores, and which of the two rises first.

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

# %%
table = {(suite, name): {score: mine[score].mean() for score in ("exact", "option", "chance")}
         for suite, by_model in found.items() for name, mine in by_model.items()}
print(pd.DataFrame(table).T.round(2))
Image(png(scores_figure(found), dpi=110), width=740)

# %%
# NBVAL_CHECK_OUTPUT
(base, third, slow), medical = found["general"].values(), found["medical"]
print("medical, base: option accuracy is far above exact match:",
      medical["base"].option.mean() > medical["base"].exact.mean() + 0.1)
print("general exact match falls by more than 0.8, then rises by more than 0.1:",
      bool(base.exact.mean() - third.exact.mean() > 0.8), bool(slow.exact.mean() - third.exact.mean() > 0.1))
print("after a third, general option accuracy is still above twice the chance level:",
      bool(third.option.mean() > 2 * third.chance.mean()))

# %% [markdown]
# Without the chance level, the base's medical option accuracy would pass for knowledge. Look at the general questions:
# after a third of the training exact match is near 0, option accuracy is not. At the end exact match is higher again,
# although no general example was trained. So the drop was not all lost knowledge: exact match needs the very words.

# %% [markdown]
# So one exact-match score does not say what was forgotten for good. Why it **recovers** under further plain training,
# the output does not show.
#
# ## 6 · Where are the mistakes?
#
# By **topic**; n is small, so read only large differences. **Predict** which general topics recover.

# %%
parts = [by_model[name].assign(suite=suite, model=name) for suite, by_model in found.items() for name in by_model]
by_topic = pd.concat(parts).pivot_table(index=["suite", "topic"], columns="model", values="exact")[list(adapters)]
by_topic.round(2)

# %%
# NBVAL_CHECK_OUTPUT
general, medical = by_topic.loc["general"], by_topic.loc["medical"]
print("no general topic gained:", bool((general["slow"] <= general["base"]).all()))
print("every medical topic did:", bool((medical["slow"] > medical["base"]).all()))
recovered = general["slow"] - general["after a third"]
print("general topics that recovered by more than 0.1:", int((recovered > 0.1).sum()) >= 3)

# %% [markdown]
# Addition falls to 0.07 and is back at 1.00, so it was not erased. Capitals stay at 0.
#
# ## 7 · What did it say instead?
#
# We sort the answers of `slow`:
#
# - **right**: exactly the answer; **contained**: the answer with other case, articles, marks, or more around it;
# - **confused**: another option of the topic's questions;
# - **partly**: shares a *content* word with the answer; **other**.
#
# **Token F1** is 2 · shared words ÷ (words of the reply + words of the answer). It counts function words such as "of".

# %%
FUNCTION_WORDS = set("of in on to with for and or by at from into as is are not no that which".split())


def shared(reply, answer):
    """The content words that both texts have."""
    words = [set(normalize_answer(text).split()) for text in (reply, answer)]
    return (words[0] & words[1]) - FUNCTION_WORDS


def verdict(reply, example, known):
    """What a reply is. known: the normalized answers of all questions of its topic."""
    answer = example["responses"][example["label"]]
    if reply == answer:
        return "right"
    if key_fact_recall(reply, [answer]):  # as whole words, after normalizing
        return "contained"
    if normalize_answer(reply) in known:
        return "confused"
    return "partly" if shared(reply, answer) else "other"

# %% [markdown]
# **Predict** the verdict on each; the question is *What does nephritis mean?*, the answer *inflammation of the
# kidney*.

# %%
# NBVAL_CHECK_OUTPUT
example = dict(responses=["inflammation of the kidney"], label=0)
for reply in ("inflammation of the kidney", "Inflammation of kidney.", "inflammation of the liver", "kidney disease",
              "renal inflammation", "surgery of the liver", "no inflammation of the kidney"):
    said = verdict(reply, example, {"inflammation of liver"})
    print(f"{reply:31} {said:10} token F1 {token_f1(reply, example['responses'][0]):.2f}")

# %% [markdown]
# Four warnings. Token F1 gives 0.67 to the wrong *organ*, and 0.33 to a reply that shares only the word "of". A true
# synonym (*renal*) counts as partly. And "no inflammation of the kidney" counts as contained: comparing strings reads
# no negation. Always look at answers.

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
answers = [example["responses"][example["label"]] for example in examples]
only = [token_f1(reply, answer) > 0 and not shared(reply, answer) for reply, answer in zip(replies, answers)]
overlap = sum(token_f1(reply, answer) > 0 for reply, answer in zip(replies, answers))
print(f"token F1 above 0: {overlap} of {len(replies)}; of these, only function words in common: {sum(only)}")
topics = pd.Series([example["topic"] for example in examples], name="topic")
pd.crosstab(topics, pd.Series(verdicts, name="")).reindex(columns=names, fill_value=0)

# %%
# NBVAL_CHECK_OUTPUT
exact = found["medical"]["slow"].exact.tolist()
agree = np.mean([(said == "right") == one for said, one in zip(verdicts, exact)])
print("writing it out agrees with the forward pass on 98 of 100 or more:", bool(agree >= 0.98))
count = {name: verdicts.count(name) for name in names}
print("more are confused or partly right than contained:", count["confused"] + count["partly"] > count["contained"])
print("some answers share only function words with the right one:", sum(only) > 0)

# %% [markdown]
# No answer here contains the right one with other words around it. Synonyms would be among the *partly* right: read
# some of `list(zip(answers, replies))`. On terminology most answers share a content word with the right one. Over both
# topics, token F1 is above 0 for 19 more, which share only function words. On anatomy, most mistakes are another body
# system. Not all mistakes cost the same: *routine* for an *emergency* counts more, and no accuracy shows that.

# %% [markdown]
# ## 8 · Is the difference real?
#
# Both models answered the *same* questions, so pair them. Questions that both get right, or both wrong, do not show who
# is better. **McNemar's test** looks at the others: if the two were equally good, each of these would be a fair coin.

# %% [markdown]
# **By hand.** Ten questions: both right on 4, only A on 5, only B on 1, none on 0. **Predict**: is 9 against 5 right
# enough to call A better?
#
# Six differ. At most 1 of 6 tosses is tails: $(1 + 6) / 2^6 = 7/64$. Either side could have won, so twice that: 0.22.
# No.

# %%
# NBVAL_CHECK_OUTPUT
a = [True] * 4 + [True] * 5 + [False]
b = [True] * 4 + [False] * 5 + [True]
print("A right:", sum(a), "B right:", sum(b), "of", len(a))
print("p by hand:", round(2 * 7 / 64, 3), "the package:", round(mcnemar_exact(a, b), 3))

# %% [markdown]
# The **p-value** p is the probability of a split this uneven or more, *if* the two were equally good. It is not the
# probability that A is better, and it does not say by how much. The **paired bootstrap** does.

# %%
# NBVAL_CHECK_OUTPUT
Image(png(bootstrap_diagram.draw(), dpi=110), width=860, metadata={"alt": bootstrap_diagram.draw.__doc__})

# %% [markdown]
# ### Your turn: paired_bootstrap
#
# ●●○ difficulty · ●●● importance · 10 minutes
#
# Let $a_i - b_i$ be the difference of two models on question i of n. Draw n questions with replacement, take the mean
# of their differences, and repeat. The middle 95 % of the means is the interval.

# %%
# NBVAL_CHECK_OUTPUT
def paired_bootstrap(a, b, times=2000, seed=0):
    """a, b: scores of two models on the same questions [n]. Returns (mean difference, low, high)."""
    return ...


draw = np.random.default_rng(2)
case = 20 * draw.random(50)
case = case + draw.lognormal(0, 1.3, 50), case  # similar on each question, with a skewed difference
answer, wanted = paired_bootstrap(*case), package_bootstrap(*case, n_resamples=2000)[:3]
solved = answer is not ... and np.shape(answer) == (3,) and np.allclose(answer, wanted, atol=0.1)
if answer is ...:
    print("Your turn.")
else:
    print("Right." if solved else f"Not yet: {np.round(answer, 3)}, expected about {np.round(wanted, 3)}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# `rng = np.random.default_rng(seed)`; `rng.integers(0, n, n)` are n questions with replacement. Use the same indices
# for both models: resample the differences. `np.quantile(means, [0.025, 0.975])` are the bounds.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def paired_bootstrap(a, b, times=2000, seed=0):
#     difference, rng = np.subtract(a, b, dtype=float), np.random.default_rng(seed)
#     means = [difference[rng.integers(0, len(difference), len(difference))].mean() for _ in range(times)]
#     return difference.mean(), *np.quantile(means, [0.025, 0.975])
# ```
#
# </details>

# %% [markdown]
# Your bootstrap now replaces the package's for one score: how much general exact match did training cost? (Until the
# exercise is solved, the package's is used.)

# %%
# NBVAL_CHECK_OUTPUT
base, slow = (found["general"][name].exact for name in ("base", "slow"))
package = package_bootstrap(base, slow, n_resamples=2000)[:3]
mine = paired_bootstrap(base, slow) if solved else package
print("difference {:.1f}, interval {:.1f} to {:.1f}".format(*mine))
print("equal to the package's, to 0.01:", np.allclose(mine, package, atol=0.01))

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
# Unpaired, the interval includes 0; paired, it does not. Now our models. We test three claims, so there are three
# chances of a false alarm. **Holm's** method multiplies the smallest p by 3, the next by 2, the last by 1 (and no
# result is below the one before it). **Predict** the sign of each difference.

# %%
claims = [("general", "base", "slow"), ("medical", "slow", "base"), ("general", "after a third", "slow")]
rows, ps = [], []
for suite, one, other in claims:
    a, b = found[suite][one], found[suite][other]
    difference, low, high, _ = package_bootstrap(a.exact, b.exact, a.topic, n_resamples=2000)
    ps.append(mcnemar_exact(a.exact, b.exact))
    rows.append({"questions": suite, "better?": one, "than": other, "difference": difference, "low": low,
                 "high": high, "McNemar p": ps[-1]})
pd.DataFrame(rows).assign(**{"McNemar p": [f"{p:.1e}" for p in ps], "Holm": [f"{p:.1e}" for p in holm(ps)]}).round(3)

# %%
# NBVAL_CHECK_OUTPUT
print("the loss of general exact match is not chance:", rows[0]["low"] > 0 and holm(ps)[0] < 0.001)
print("nor is the recovery after the first third:", rows[2]["high"] < 0 and holm(ps)[2] < 0.001)

# %% [markdown]
# The third claim is wrong, significantly so: `slow` has *more* general exact match than the model after a third. That
# is the recovery of section 5. The interval is of a mean over topics, as in reports; McNemar counts questions. All of
# it is about *these adapters*: for methods one needs several seeds (lesson 09).

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
# The third reply says the same in a doctor's words and gets 0; the last is dangerous and gets 1. Whether a reply is
# *good*, a person must judge, blind. These two models were never taught to answer patients, so they write fragments:

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
# - A blind vote hides names and result and assigns sides at random. Marked words show only what changed.
# - A win rate needs its interval; Wilson's works where the Wald interval fails.
# - Exact match, option accuracy and the chance level answer different questions. Exact match can fall and recover.
# - Token F1 counts function words, and no string score reads a "no".
# - Pair answers to the same questions. McNemar's test shows whether models differ, the bootstrap by how much.

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
print_peak(2)
