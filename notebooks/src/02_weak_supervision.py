# ---
# jupyter:
#   lesson:
#     minutes: {cpu: 1, t4: 1}
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
# # 02 · Weak supervision
#
# Nobody has answered our questions, yet we want answers to train on. Cheap, fallible programs vote instead. The
# surprise of this lesson: from votes alone, with **no** true answer in sight, you can work out how often each
# program is right. You build the method, check it against the truth, and then break it.

# %% [markdown]
# **You will be able to**
#
# - write labelling functions, and read their coverage, overlap and conflict;
# - estimate their accuracies without labels, by an algorithm that you wrote;
# - say when a majority vote loses to its best member;
# - draw a reliability diagram, and explain why training uses soft labels;
# - name what breaks label models, before it happens to you.
#
# **You need** lesson 00, numpy, and the rule P(A, B) = P(A) · P(B) for independent events.

# %% [markdown]
# {{budget}}
#
# Run the cells from top to bottom. At **predict**, write down a guess first. The true answers (*gold labels*) are in a
# separate file: we read it only to check ourselves, and we say so each time.

# %% [markdown]
# **What this is not.** The [paper](https://arxiv.org/abs/2502.00832) names weak supervision across domains, but
# publishes no labelling function and no label model. The ones here are *our reading*, from the field's standard
# tools. The tables that vote are wrong on purpose: **not medical advice**.

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
import re
from itertools import product
from math import comb

import matplotlib
import numpy as np
import pandas as pd
import torch
from IPython.display import Image
from matplotlib.figure import Figure

from icft_lite import (
    DawidSkene,
    MajorityVote,
    apply_lfs,
    label_pool,
    labeling_function,
    lf_analysis,
    sample_bundle,
)
from icft_lite.metrics import expected_calibration_error
from icft_lite.reporting.figures import GENERAL, GREY, INK, MEDICAL, RC, STYLES, png
from icft_lite.statistics import binomial_interval
from icft_lite.utils.hardware import peak_memory
from icft_lite.weak.label_models import ABSTAIN
from icft_lite.weak.lfs.samples import sample_lfs

matplotlib.rcParams.update(RC)

# %% [markdown]
# ## 1 · Questions are plenty, answers are expensive
#
# Our pool holds questions and pairs of replies without a label (it says −1). A doctor could label them, at a
# doctor's hourly rate. We take one topic first, drug classes: which *kind* of drug is it?

# %%
data = sample_bundle()
pool = [dict(example) for example in data.pool if example["topic"] == "drug_class"]
print(f"{len(pool)} of {len(data.pool)} examples, the first four:")
for example in pool[:4]:
    print(f"{example['prompt']:45} {', '.join(example['responses'])}")

# %%
# NBVAL_CHECK_OUTPUT
print("labels in the pool:", {example["label"] for example in pool})
print("numbers of options:", {len(example["responses"]) for example in pool})

# %% [markdown]
# ## 2 · Write a labelling function
#
# A **labelling function** (LF) is a small program. It reads an example and *votes*: it returns the index of a
# response. Where it has nothing to say it **abstains**, by returning `ABSTAIN` (−1). It may be a rule, a table, a
# model, a guess. It need not be right; it should be right more often than chance.

# %% [markdown]
# Drug names are made of parts. All names in *-floxacin* are quinolone antibiotics: a safe rule. And many
# antihistamines, against allergies, end in *-ine* (cetirizine, loratadine): a hunch. Both become functions.

# %%
def option(example, text):
    """The index of a response, or ABSTAIN where it is not on offer."""
    return example["responses"].index(text) if text in example["responses"] else ABSTAIN


@labeling_function(source="mine", task="question")
def floxacin(example):
    return option(example, "quinolone antibiotic") if "floxacin" in example["prompt"] else ABSTAIN


@labeling_function(source="mine", task="question")
def ends_in_ine(example):
    found = re.search(r"ine\b", example["prompt"].replace("medicine", ""))
    return option(example, "antihistamine") if found else ABSTAIN


# %% [markdown]
# **Predict** the votes of each function on these three examples.

# %%
# NBVAL_CHECK_OUTPUT
options = ["antimalarial", "antihistamine", "quinolone antibiotic"]
drugs = ("ofloxacin", "cetirizine", "chloroquine")
examples = [dict(task="question", prompt=f"Which class is {drug} in?", responses=options) for drug in drugs]
print("floxacin:   ", [floxacin(example) for example in examples])
print("ends_in_ine:", [ends_in_ine(example) for example in examples])

# %% [markdown]
# Chloroquine fights malaria: the hunch is wrong there. And how do we know? Because *we* know the answer. For most
# examples the answer is not known.
#
# Your two join the package's functions. `votes` has a row for each example and a column for each function. We use the
# functions that vote at all on drug classes. (`base_choice` is silent here: it needs the base's scores, as in
# lesson 00.)

# %%
# NBVAL_CHECK_OUTPUT
everyone = [*sample_lfs(), floxacin, ends_in_ine]
votes = apply_lfs(everyone, pool)
active = np.flatnonzero((votes != ABSTAIN).any(0))
lfs, votes = [everyone[j] for j in active], votes[:, active]
names = [lf.name for lf in lfs]
print(", ".join(names))

# %% [markdown]
# | function | votes for |
# |---|---|
# | longest, nearest_letter | longest text; first letter nearest to that of the prompt's longest word: bad on purpose |
# | shares_words | the response that shares most word beginnings with the prompt |
# | drug_stem | what a sheet of name parts (-olol, cef-) says |
# | formulary, notes, flashcards | what three tables say, with gaps and errors |
#
# Here are the first 36 examples. A to D are the options; white means that the function abstains.

# %%
figure = Figure(figsize=(10, 3))
axis = figure.subplots()
colors = ["white", "#0072b2", "#e69f00", "#009e73", "#cc79a7"]
axis.imshow(votes[:36].T + 1, cmap=matplotlib.colors.ListedColormap(colors), vmin=0, vmax=4, aspect="auto")
for (i, j), vote in np.ndenumerate(votes[:36]):
    if vote != ABSTAIN:
        axis.text(i, j, "ABCD"[vote], ha="center", va="center", fontsize=8, color="white" if vote == 0 else INK)
axis.set_yticks(range(len(names)), names)
axis.set_xlabel("example of the pool, topic drug_class")
axis.set_title("Every vote on the first 36 questions (A to D; white: abstains)", loc="left")
axis.grid(False)
Image(png(figure, dpi=110), width=800)

# %% [markdown]
# Look at drug_stem, formulary and notes: nearly always the same letter. Three programs that know nothing of each
# other cannot keep agreeing by luck, with four options to choose from. *Agreement is evidence.* Hold on to
# that thought.

# %% [markdown]
# ## 3 · Coverage, overlap, conflict
#
# Three shares, of all examples, describe a function before any truth is known:
#
# - **coverage**: it votes;
# - **overlap**: it votes, and so does another;
# - **conflict**: it votes, and another votes otherwise.
#
# **Predict** all three for function A below. (A dot: it abstains.)
#
# | example | A | B | C |
# |---|---|---|---|
# | 0 | 0 | 0 | · |
# | 1 | 1 | 0 | · |
# | 2 | · | · | 1 |
# | 3 | 0 | · | · |

# %%
def shares(votes):
    """Coverage, overlap and conflict of each function [m]."""
    voted = votes != ABSTAIN
    others = voted.sum(1, keepdims=True) - voted
    alike = np.array([(votes == votes[:, [j]]).sum(1) - 1 for j in range(votes.shape[1])]).T
    return voted.mean(0), (voted & (others > 0)).mean(0), (voted & (alike < others)).mean(0)


# %%
# NBVAL_CHECK_OUTPUT
by_hand = np.array([[0, 0, -1], [1, 0, -1], [-1, -1, 1], [0, -1, -1]])
for name, values in zip(("coverage", "overlap", "conflict"), shares(by_hand)):
    print(f"{name:9} A {values[0]:.2f}  B {values[1]:.2f}  C {values[2]:.2f}")
table = lf_analysis(votes, lfs)
print("the package's table is the same:", np.allclose(table[["coverage", "overlap", "conflict"]].T, shares(votes)))

# %%
table.round(2)

# %% [markdown]
# floxacin covers about one example in twenty. Narrow functions are fine, as many of them add up. But which
# functions are *good*? This table cannot say. A conflict has two sides.

# %% [markdown]
# ## 4 · Counting heads
#
# The simplest way to join votes: the option with most votes wins, and its share of the votes is its probability.
# Condorcet found in 1785 why that can be a good idea: where voters are **independent** and equally good, each
# right more often than not, the majority of three or more is right more often than each.
#
# To see it exactly we list all ways in which five voters on a yes/no question can be right or wrong.

# %%
def vote_accuracy(accuracy, weights):
    """How often a weighted vote is right on a yes/no question: voters are independent, a tie counts half."""
    total = 0.0
    for right in product([True, False], repeat=len(accuracy)):
        chance = np.prod([a if r else 1 - a for a, r in zip(accuracy, right)])
        margin = sum(w if r else -w for w, r in zip(weights, right))
        total += chance * (0.5 if abs(margin) < 1e-12 else margin > 0)
    return total


# %% [markdown]
# **Predict.** Five voters are each right 7 times in 10: how often is their majority right? And a mixed five,
# right 9, 8, 7, 6 and 6 times in 10: does their majority beat the best of them?

# %%
# NBVAL_CHECK_OUTPUT
equal, mixed = [0.7] * 5, [0.9, 0.8, 0.7, 0.6, 0.6]
for accuracy in (equal, mixed):
    print(f"best member {max(accuracy):.3f}, majority {vote_accuracy(accuracy, [1] * 5):.3f}")

# %% [markdown]
# Among equals, the crowd wins. Among unequals the majority can **lose to its best member**: three poor voters
# outvote one who knows. It does happen. Let us read the gold labels for a moment and look at one function, on the
# examples where it votes.

# %%
def majority(votes, k):
    """Each option's share of the votes, float [n, k]. Every example needs a vote."""
    counts = (votes[:, :, None] == np.arange(k)).sum(1)
    return counts / counts.sum(1, keepdims=True)


# %%
gold = np.array([data.pool_gold[example["id"]] for example in pool])
stem, heads = votes[:, names.index("drug_stem")], majority(votes, 4)
there = stem != ABSTAIN
alone, together = (stem == gold)[there].mean(), (heads.argmax(1) == gold)[there].mean()
print(f"on {there.sum()} examples: drug_stem is right {alone:.3f}, the majority {together:.3f}")

# %%
# NBVAL_CHECK_OUTPUT
print("the majority is worse than its best member, by more than 0.02:", together < alone - 0.02)
same = MajorityVote().fit(votes, 4).predict_proba(votes, 4)
print("the package counts the same:", np.allclose(heads, same))

# %% [markdown]
# One function alone beats nine that vote together. Had we known whom to trust! We now find out, without gold labels.

# %% [markdown]
# ## 5 · Accuracy from agreement alone
#
# Take yes/no questions and three independent voters, right with probabilities p₁, p₂, p₃. Two of them agree when
# both are right or both are wrong. One step of algebra turns that into a product:
#
# $$\text{agree}_{12} = p_1 p_2 + (1-p_1)(1-p_2)
# \quad\Longleftrightarrow\quad 2\,\text{agree}_{12} - 1 = (2p_1-1)(2p_2-1)$$

# %% [markdown]
# Three pairs give three equations for three unknowns. Write $e_{12}$ for $2\,\text{agree}_{12}-1$; then
# $e_{12}\,e_{13}\,/\,e_{23} = (2p_1-1)^2$: the other two cancel.
#
# Say we saw agreements of 0.74, 0.66 and 0.62. **Predict**: who is the best of the three? How good?

# %%
# NBVAL_CHECK_OUTPUT
e12, e13, e23 = (2 * agree - 1 for agree in (0.74, 0.66, 0.62))
roots = np.sqrt([e12 * e13 / e23, e12 * e23 / e13, e13 * e23 / e12])
print("accuracies:", ((1 + roots) / 2).round(3))
print("or as well:", ((1 - roots) / 2).round(3))

# %% [markdown]
# Accuracies, without a look at any answer! There is a catch: a square has two roots. Three liars with
# accuracies 0.1, 0.2 and 0.3 agree exactly as often. Agreements cannot distinguish the truth from its **mirror image**.
# One has to *assume* that, on the whole, the functions beat chance.
#
# And the voters must err independently. Section 12 shows the price of forgetting that.

# %% [markdown]
# ## 6 · What a vote is worth
#
# Now k options, m functions, and silence. The **one-coin** model: where function j votes, it is right with
# probability a_j; else it picks one of the k − 1 wrong options, each as likely. Given the truth, functions err
# independently. Silence carries no information: an abstention is a *missing* vote.

# %% [markdown]
# By Bayes' rule, a vote multiplies its option's odds by
#
# $$\frac{a}{(1-a)/(k-1)} = \frac{a\,(k-1)}{1-a}.$$
#
# **By hand.** Four options. A (accuracy 0.9) votes for option 0; B and C (0.4 each) vote for option 1.
# A's factor is 0.9 · 3 / 0.1 = 27; B's and C's are 0.4 · 3 / 0.6 = 2. The odds are 27 : 2·2 : 1 : 1, so option 0
# has 27/33 = 0.82. Majority vote would have chosen option 1.

# %% [markdown]
# Logarithms make it a *weighted vote*: each function has a weight, the logarithm of that factor. Sum the weights
# for each option, take a softmax, and you have the **posterior**: the probability of each option, given the
# votes.

# %%
def weight(accuracy, k):
    """What a vote adds to its option's log-odds."""
    accuracy = np.clip(accuracy, 1e-10, 1 - 1e-10)  # so that the weight is finite
    return np.log(accuracy * (k - 1) / (1 - accuracy))


def e_step(votes, k, accuracy):
    """The posterior, float [n, k], if these were the accuracies [m]."""
    score = ((votes[:, :, None] == np.arange(k)) * weight(accuracy, k)[:, None]).sum(1)
    odds = np.exp(score - score.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


# %%
# NBVAL_CHECK_OUTPUT
print(e_step(np.array([[0, 1, 1]]), 4, np.array([0.9, 0.4, 0.4])).round(3), "27/33 =", round(27 / 33, 3))
best = vote_accuracy(mixed, weight(mixed, 2))
print(f"the mixed five: majority {vote_accuracy(mixed, [1] * 5):.3f}, best 0.900, weighted {best:.3f}")

# %% [markdown]
# With the right weights the mixed five beat their best member, as they should. **Predict** before you look at the
# figure: what is the weight of a function that guesses at random among four options? Of one that is *worse* than
# that?

# %%
figure = Figure(figsize=(7, 3.4))
axis = figure.subplots()
accuracy = np.linspace(0.02, 0.98, 200)
for k, (color, _) in zip((2, 4), STYLES):
    axis.plot(accuracy, weight(accuracy, k), color=color, linewidth=2, label=f"{k} options")
    axis.plot(1 / k, 0, "o", color=color)
    axis.text(1 / k, 0.4 if k == 4 else -0.8, f"chance, 1/{k}", color=color, ha="right" if k == 4 else "left")
axis.axhline(0, color=GREY, linewidth=1)
axis.set(xlabel="accuracy of the function (0–1)", ylabel="weight of its vote (log-odds, nats)")
axis.set_title("A vote's weight grows with accuracy; below chance it counts against", loc="left")
axis.legend(frameon=False)
Image(png(figure, dpi=110), width=620)

# %% [markdown]
# Zero at chance: a guesser is heard and ignored. Below chance the weight is negative: a function that is
# reliably wrong is useful, as evidence *against* what it says.

# %% [markdown]
# ## 7 · Expectation–maximization
#
# If we knew the accuracies, we could compute posteriors (the **E-step**, above). If we knew the posteriors, we
# could compute accuracies: how probable, on average, is what the function voted for (the **M-step**)? We know
# neither. So start with the majority vote and alternate. This is the algorithm of
# [Dawid and Skene](https://doi.org/10.2307/2346806) (1979).

# %%
def m_step(votes, posterior):
    """Expected accuracies [m]: the mean posterior of what each function voted for."""
    accuracy = np.empty(votes.shape[1])
    for j, vote in enumerate(votes.T):
        voted = np.flatnonzero(vote != ABSTAIN)
        accuracy[j] = posterior[voted, vote[voted]].mean()
    return accuracy


def one_coin(votes, k, rounds=100, tolerance=1e-6):
    """Accuracies [m], the posterior [n, k], and the accuracies after each round."""
    posterior, history = majority(votes, k), []
    for _ in range(rounds):
        history.append(m_step(votes, posterior))
        last, posterior = posterior, e_step(votes, k, history[-1])
        if np.abs(posterior - last).max() < tolerance:
            break
    return m_step(votes, posterior), posterior, np.array(history)


# %% [markdown]
# Does it find the truth? We **simulate** voters whose accuracies we choose, and that speak as often as we
# choose; the second number of each is its coverage. One is worse than chance (0.25).

# %%
def simulate(truth, k, accuracy, coverage, seed):
    """One-coin votes int [n, m] on questions whose right options are `truth`."""
    rng, shape = np.random.default_rng(seed), (len(truth), len(accuracy))
    wrong = (truth[:, None] + rng.integers(1, k, shape)) % k
    votes = np.where(rng.random(shape) < accuracy, truth[:, None], wrong)
    return np.where(rng.random(shape) < coverage, votes, ABSTAIN)


known = np.array([[0.95, 0.4], [0.85, 0.7], [0.7, 0.9], [0.5, 0.6], [0.4, 0.9], [0.1, 0.8]])
truth = np.random.default_rng(0).integers(0, 4, 4000)
simulated = simulate(truth, 4, *known.T, seed=1)
spoken = (simulated != ABSTAIN).any(1)  # an example without votes carries no information: dropped
simulated, truth = simulated[spoken], truth[spoken]

# %% [markdown]
# **Predict.** One of the six is right once in ten. Majority vote counts it like the others. After EM, what
# accuracy will it be given?

# %%
# NBVAL_CHECK_OUTPUT
estimated, posterior, history = one_coin(simulated, 4)
print("true     ", known[:, 0])
print("estimated", estimated.round(2))
print("never off by more than 0.04:", np.abs(estimated - known[:, 0]).max() < 0.04)

# %%
figure = Figure(figsize=(10, 3.8))
left, right = figure.subplots(1, 2)
for j, (color, marker) in zip(range(6), STYLES):
    left.plot(history[:, j], color=color, marker=marker, markersize=4)
    left.axhline(known[j, 0], color=color, linewidth=1, linestyle=(0, (4, 3)))
    right.plot(known[j, 0], estimated[j], marker, color=color, markersize=9)
left.set(xlabel="round of EM", ylabel="accuracy (0–1)", ylim=(0, 1.03))
left.set_title("From majority vote to the truth (dashed)", loc="left")
right.plot([0, 1], [0, 1], color=GREY, linewidth=1)
right.set(xlabel="true accuracy (0–1)", ylabel="estimated accuracy (0–1)", xlim=(0, 1.03), ylim=(0, 1.03))
right.set_title("Recovered without a single label", loc="left")
Image(png(figure, dpi=110), width=800)

# %% [markdown]
# What does EM climb? The **likelihood**: how probable the votes are under the model, summed over what the truth
# may be. No round ever lowers it (a theorem, and a good test of your code). But EM climbs the hill it starts on,
# which may be the mirror image's (for two options that hill is as high as the true one; for more it is lower, and EM
# can be caught on it all the same). So we start from majority vote: most functions beat chance, we assume.

# %%
def log_likelihood(votes, k, accuracy):
    """log P(votes), in nats, summed over examples; the prior is 1/k for every option."""
    error = np.log((1 - np.clip(accuracy, 1e-10, 1 - 1e-10)) / (k - 1))
    score = ((votes[:, :, None] == np.arange(k)) * weight(accuracy, k)[:, None]).sum(1)
    return (np.logaddexp.reduce(score, 1) - np.log(k) + (votes != ABSTAIN) @ error).sum()


# %%
# NBVAL_CHECK_OUTPUT
heights = [log_likelihood(simulated, 4, accuracy) for accuracy in history]
print("never goes down:", bool((np.diff(heights) > -1e-6).all()))
print("the true accuracies are not more likely than those found:",
      log_likelihood(simulated, 4, known[:, 0]) < heights[-1])
package = DawidSkene(one_coin=True).fit(simulated, 4)
print("the package's model agrees to 1e-6:",
      np.abs(package.accuracies - estimated).max() < 1e-6,
      np.abs(package.predict_proba(simulated, 4) - posterior).max() < 1e-6)

# %% [markdown]
# ## 8 · The real pool
#
# Back to drug classes. **Predict**, and write it down: which of the nine functions will come out best? Which of
# your two is better? How good is the hunch?

# %%
found, labels, _ = one_coin(votes, 4)
pd.Series(found, index=names, name="estimated accuracy").sort_values(ascending=False).round(2).to_frame()

# %% [markdown]
# The hunch is a poor one, right in about six cases of ten, and the model found that from votes alone. Now
# compare with the gold labels.

# %%
measured = lf_analysis(votes, lfs, gold)["accuracy"]
right = {"majority vote": (heads.argmax(1) == gold).mean(), "label model": (labels.argmax(1) == gold).mean()}
print("right:", ", ".join(f"{name} {share:.3f}" for name, share in right.items()))
pd.DataFrame({"estimated": found, "measured": measured, "votes": (votes != ABSTAIN).sum(0)}).round(2)

# %%
# NBVAL_CHECK_OUTPUT
print("largest error of an estimate below 0.05:", np.abs(found - measured).max() < 0.05)
print("the label model beats the majority by more than 0.05:",
      right["label model"] > right["majority vote"] + 0.05)
print("and where drug_stem votes it is as good as drug_stem:", (labels.argmax(1) == gold)[there].mean() >= alone - 0.01)

# %% [markdown]
# An accuracy belongs to a *topic*: a drug table knows nothing of bones. So each large topic gets a fit of its
# own. (`label_pool` does the same; small topics share one.) The figure has a mark for each function and topic.

# %%
topics, points = ("terminology", "drug_class", "drug_use"), []
for topic in topics:
    examples = [dict(example) for example in data.pool if example["topic"] == topic]
    ballots = apply_lfs(sample_lfs(), examples)
    ballots = ballots[:, (ballots != ABSTAIN).any(0)]
    answers = np.array([data.pool_gold[example["id"]] for example in examples])[:, None]
    true = (ballots == answers).sum(0) / (ballots != ABSTAIN).sum(0)
    points.append((true, one_coin(ballots, 4)[0], (ballots != ABSTAIN).sum(0)))

# %%
figure = Figure(figsize=(5.4, 4.4))
axis = figure.subplots()
axis.plot([0, 1], [0, 1], color=GREY, linewidth=1)
for topic, (true, guess, count), (color, marker) in zip(topics, points, STYLES):
    axis.scatter(true, guess, count / 2, color=color, marker=marker, alpha=0.7, label=topic.replace("_", " "))
axis.set(xlabel="accuracy measured with gold labels (0–1)", ylabel="accuracy estimated from agreement (0–1)")
axis.set_title("Functions of the package; size: number of votes", loc="left")
axis.legend(frameon=False, markerscale=0.6)
Image(png(figure, dpi=110), width=480)

# %%
# NBVAL_CHECK_OUTPUT
gap = max(np.abs(true - guess).max() for true, guess, _ in points)
print(f"{sum(len(true) for true, *_ in points)} estimates, none off by more than 0.05:", gap < 0.05)

# %% [markdown]
# ## 9 · Labels that mean the same in every example
#
# Our options are shuffled: "option 2" is no class, so we learned one number a function. But where
# each example has the *same* labels, say yes, no and maybe, functions err in their own ways: one hardly ever says
# no, another hedges. A **confusion matrix** describes that: row = truth, column = vote.

# %% [markdown]
# The full model of Dawid and Skene has a matrix for each function, and a **prior**: how frequent each label is. The two
# steps stay the same. M: count votes, by posterior instead of truth. E: multiply, for each possible truth, the
# prior and the entries of all votes.

# %%
def full(votes, k, rounds=100, tolerance=1e-6):
    """Prior [k], confusion matrices [m, truth, vote], posterior [n, k]. Every example needs a vote."""
    posterior, one_hot = majority(votes, k), (votes[:, :, None] == np.arange(k)).astype(float)
    for _ in range(rounds):
        prior = posterior.mean(0) + 1e-10
        confusion = np.einsum("nc,njv->jcv", posterior, one_hot) + 1e-10  # log 0 is never asked for
        prior, confusion = prior / prior.sum(), confusion / confusion.sum(2, keepdims=True)
        score = np.log(prior) + np.einsum("njv,jcv->nc", one_hot, np.log(confusion))
        odds = np.exp(score - score.max(1, keepdims=True))
        last, posterior = posterior, odds / odds.sum(1, keepdims=True)
        if np.abs(posterior - last).max() < tolerance:
            break
    return prior, confusion, posterior


# %% [markdown]
# Five simulated readers of yes/no/maybe questions. The *hedger* says maybe four times in ten where the truth is
# yes or no; the *contrarian* swaps those two.

# %%
readers = {"careful": [[.85, .10, .05], [.10, .85, .05], [.15, .15, .70]],
           "plain": [[.75, .15, .10], [.20, .70, .10], [.20, .20, .60]],
           "optimist": [[.95, .03, .02], [.45, .50, .05], [.55, .15, .30]],
           "hedger": [[.55, .05, .40], [.05, .55, .40], [.05, .05, .90]],
           "contrarian": [[.10, .80, .10], [.80, .10, .10], [.25, .25, .50]]}
matrices = np.array(list(readers.values()))
rng = np.random.default_rng(3)
states = rng.choice(3, 3000, p=[0.5, 0.3, 0.2])
draws = rng.random((3000, 5, 1)) > matrices[:, states].transpose(1, 0, 2).cumsum(2)[:, :, :-1]
answers = np.where(rng.random((3000, 5)) < 0.8, draws.sum(2), ABSTAIN)
spoken = (answers != ABSTAIN).any(1)
answers, states = answers[spoken], states[spoken]

# %%
# NBVAL_CHECK_OUTPUT
prior, confusion, by_full = full(answers, 3)
model = DawidSkene().fit(answers, 3)
print("prior", prior.round(2), "of 0.50, 0.30, 0.20")
print("no entry off by more than 0.08:", np.abs(confusion - matrices).max() < 0.08)
print("the package's model agrees to 1e-6:", np.abs(model.confusion - confusion).max() < 1e-6,
      np.abs(model.predict_proba(answers, 3) - by_full).max() < 1e-6)
for name, p in (("one coin", one_coin(answers, 3)[1]), ("full", by_full)):
    print(f"{name:9} right {(p.argmax(1) == states).mean():.2f}")

# %%
figure = Figure(figsize=(9, 4))
for (line, column), axis in np.ndenumerate(figure.subplots(2, 5)):
    matrix = (matrices, confusion)[line][column]
    axis.imshow(matrix, cmap="Blues", vmin=0, vmax=1.2)
    for (c, v), value in np.ndenumerate(matrix):
        axis.text(v, c, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if value > 0.7 else INK)
    axis.set_xticks(range(3), ("yes", "no", "maybe"), fontsize=8)
    axis.set_yticks(range(3), ("yes", "no", "maybe") if column == 0 else ("", "", ""), fontsize=8)
    axis.grid(False)
    if line == 0:
        axis.set_title(list(readers)[column])
    if column == 0:
        axis.set_ylabel(("chosen", "found")[line] + "\ntruth")
figure.supxlabel("vote", fontsize=10)
Image(png(figure, dpi=110), width=760)

# %% [markdown]
# The contrarian's matrix is found as well, and his "no" now counts as evidence for yes. In our pool only pairs
# (first or second reply better) have fixed labels, so `label_pool` uses full confusion for pairs and one coin for
# questions.

# %% [markdown]
# ## 10 · Can the posterior be trusted?
#
# A posterior of 0.8 should be right eight times in ten: then it is **calibrated**. Sort examples into bins by their
# largest posterior, the *confidence*, and compare each bin's mean confidence with its accuracy. The mean gap,
# weighted by the number of examples in each bin, is the **expected calibration error** (ECE).

# %% [markdown]
# **By hand.** Ten examples of confidence 0.9, eight of them right: gap 0.1. Thirty examples of confidence 0.6, all
# right: gap 0.4. ECE = (10 · 0.1 + 30 · 0.4) / 40 = 0.325. Being *under*-confident counts as much as being
# over-confident.

# %%
def reliability(probs, gold, bins=10):
    """For each bin that has examples: mean confidence, accuracy, number of examples. Arrays."""
    confidence, right = probs.max(1), probs.argmax(1) == gold
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    found = [(confidence[bin_of == b].mean(), right[bin_of == b].mean(), (bin_of == b).sum())
             for b in np.unique(bin_of)]
    return np.array(found).T


def ece(probs, gold):
    confidence, accuracy, count = reliability(probs, gold)
    return (np.abs(confidence - accuracy) * count).sum() / count.sum()


# %%
# NBVAL_CHECK_OUTPUT
by_hand = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 30)
right = np.array([0] * 8 + [1] * 2 + [0] * 30)
print("by hand 0.325, by the function", round(ece(by_hand, right), 3))
print("the package's is the same:", np.isclose(ece(labels, gold), expected_calibration_error(labels, gold)))

# %% [markdown]
# Now all questions of the pool, by the package's own `label_pool`. **Predict**: majority vote gives its winner
# the share of the votes. Is that too confident, or not confident enough?

# %%
examples = [dict(example) for example in data.pool if example["task"] == "question"]
all_votes = apply_lfs(sample_lfs(), examples)
all_gold = np.array([data.pool_gold[example["id"]] for example in examples])
probs = {}
for kind in ("majority_vote", "dawid_skene"):
    lists, report = label_pool(examples, all_votes, kind)
    probs[kind] = np.array([p + [0.0] * (4 - len(p)) for p in lists])

# %%
for kind, p in probs.items():
    print(f"{kind:14} right {(p.argmax(1) == all_gold).mean():.2f}  "
          f"mean confidence {p.max(1).mean():.2f}  ECE {ece(p, all_gold):.2f}")

# %%
# NBVAL_CHECK_OUTPUT
by_majority, by_model = (ece(p, all_gold) for p in probs.values())
print("majority vote is off by more than 0.1:", by_majority > 0.1)
print("the label model by less than 0.03:", by_model < 0.03)

# %% [markdown]
# The figure leaves out bins of fewer than ten examples. Bars: 95 % intervals of the share.

# %%
figure = Figure(figsize=(5.8, 4.6))
axis = figure.subplots()
axis.plot([0, 1], [0, 1], color=GREY, linewidth=1)
axis.text(0.62, 0.58, "calibrated", color=GREY, rotation=39)
for (kind, p), color, marker in zip(probs.items(), (MEDICAL, GENERAL), "so"):
    marks = [mark for mark in reliability(p, all_gold).T if mark[2] >= 10]
    for confidence, accuracy, count in marks:
        axis.plot([confidence] * 2, binomial_interval(round(accuracy * count), int(count)), color=color)
    confidence, accuracy, count = np.array(marks).T
    axis.scatter(confidence, accuracy, 15 + count / 4, color=color, marker=marker, alpha=0.8, linewidths=0,
                 label=kind.replace("_", " "))
axis.set(xlabel="confidence of the label (0–1)", ylabel="share that is right (0–1)")
axis.set_title("Reliability diagram; size: examples in the bin", loc="left")
axis.legend(frameon=False, loc="lower right", markerscale=0.5)
Image(png(figure, dpi=110), width=500)

# %% [markdown]
# Above the line: not confident enough. Majority vote counts the bad functions as much as the good ones, so even a
# right winner gets few of the votes. The label model is confident of nearly all its labels, and rightly so. Of the few
# examples in between we learn little: look at the bars.

# %% [markdown]
# ## 11 · Soft labels
#
# What do we train on: the most likely option (a **hard** label), or the whole posterior (a **soft** one)? Training
# on a posterior p̃ means the *expected* loss, Σ p̃_k · loss(option k). For cross-entropy its gradient on the
# scores is simple: the model's probabilities minus p̃.

# %%
# NBVAL_CHECK_OUTPUT
scores = torch.zeros(4, requires_grad=True)
for name, target in (("hard", [1.0, 0, 0, 0]), ("soft", [0.55, 0.45, 0, 0])):
    loss = -(torch.tensor(target) * scores.log_softmax(0)).sum()
    print(name, [round(g, 2) for g in torch.autograd.grad(loss, scores)[0].tolist()])

# %% [markdown]
# The example is nearly a coin toss between two options (a step moves scores *against* the gradient). The hard label
# pushes option 0 up and option 1 down, as if we knew. The soft one pushes both up and the other two down: what
# the votes said, no more. A wrong hard label teaches an error at full strength.

# %% [markdown]
# Does it matter? We simulate points of three classes, let four weak functions vote, and train the smallest
# classifier, one linear layer, on either kind of label. Ten repetitions.

# %%
def train(x, target, steps=100):
    """A linear classifier by cross-entropy with soft targets [n, k]. Returns its weights."""
    w = torch.zeros(x.shape[1], target.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([w], lr=0.05)
    for _ in range(steps):
        loss = -(target * (x @ w).log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return w.detach()


def trial(seed):
    """Right on 2,000 new points after training on 300 with hard and with soft labels; mean confidences."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(3, 20))
    centers *= 1.5 / np.linalg.norm(centers, axis=1, keepdims=True)
    y = rng.integers(0, 3, 2300)
    x = torch.tensor(centers[y] + rng.normal(size=(2300, 20)), dtype=torch.float32)
    cast = simulate(y[:300], 3, [0.9, 0.6, 0.45, 0.4], [0.3, 0.6, 0.8, 0.8], seed)
    spoken = np.flatnonzero((cast != ABSTAIN).any(1))
    soft = one_coin(cast[spoken], 3)[1]
    results = []
    for target in (np.eye(3)[soft.argmax(1)], soft):
        p = (x[300:] @ train(x[spoken], torch.tensor(target, dtype=torch.float32))).softmax(1)
        results += [(p.argmax(1).numpy() == y[300:]).mean(), p.max(1).values.mean().item()]
    return results


# %%
hard, hard_confidence, soft, soft_confidence = np.array([trial(seed) for seed in range(10)]).T
print(f"right: hard {hard.mean():.3f}, soft {soft.mean():.3f}")
print(f"mean confidence: hard {hard_confidence.mean():.3f}, soft {soft_confidence.mean():.3f}")

# %%
# NBVAL_CHECK_OUTPUT
print("soft is right more often, on average by more than 0.01:", (soft - hard).mean() > 0.01)
print("the model trained on soft labels is under-confident:", soft_confidence.mean() < soft.mean() - 0.05)

# %% [markdown]
# So soft labels teach more, and they have a price: a model that learns from uncertain labels becomes uncertain. If you
# need probabilities from the trained model, calibrate it afterwards. With labels as confident as those of our pool the
# two kinds hardly differ. (A run's setting `weak.soft_labels=False` does more than take hard labels: the most likely
# responses are imitated, and L_task has no examples.) ICFT uses the posteriors in L_task and in L_fine-tune, and their
# uncertainty (their *entropy*) for the curriculum of the next lesson.

# %% [markdown]
# ## 12 · What breaks it
#
# The model believes that functions err independently. Suppose a colleague adds `longest` again, and again, under
# new names: copies of a function that is right about one time in five.
#
# **Predict.** EM had found that `longest` is bad. Will copies of it change the labels?

# %%
longest, curves, spoiled = votes[:, [names.index("longest")]], [], {}
for copies in range(1, 7):
    spoiled[copies] = np.concatenate([votes] + [longest] * (copies - 1), 1)
    accuracy, p, _ = one_coin(spoiled[copies], 4)
    counted = (majority(spoiled[copies], 4).argmax(1) == gold).mean()
    curves.append([(p.argmax(1) == gold).mean(), p.max(1).mean(), counted,
                   accuracy[names.index("longest")], accuracy[names.index("drug_stem")]])
columns = ["labels right", "their confidence", "majority vote right", "longest, estimated", "drug_stem, estimated"]
table = pd.DataFrame(curves, columns=columns, index=pd.Index(range(1, 7), name="copies"))
table.round(2)

# %%
# NBVAL_CHECK_OUTPUT
print("once or twice in the votes, the labels are more than 0.9 right:", bool((table["labels right"][:2] > 0.9).all()))
print("five times, they are less than 0.5 right:", table["labels right"][5] < 0.5)
print("and more than 0.9 confident:", table["their confidence"][5] > 0.9)
print("drug_stem is now believed to be worse than longest:",
      table["drug_stem, estimated"][5] < table["longest, estimated"][5])

# %% [markdown]
# A disaster, and a sudden one. For the model, copies are independent witnesses that never contradict each other:
# they must be perfect. Then drug_stem, which disagrees with them, must be bad. The figure shows the fall, and who
# agrees with whom.

# %%
def agreement(votes):
    """Of the examples where both vote, the share where they vote alike: float [m, m]."""
    voted = (votes != ABSTAIN).astype(float)
    alike = ((votes[:, :, None] == votes[:, None, :]) & (votes[:, :, None] != ABSTAIN)).sum(0)
    return alike / np.maximum(voted.T @ voted, 1)


# %%
figure = Figure(figsize=(10.5, 4.4))
left, right = figure.subplots(1, 2, width_ratios=(1, 1.15))
for name, (color, marker) in zip(columns[:3], STYLES):
    left.plot(table[name], color=color, marker=marker, linewidth=2, label=name)
left.set(xlabel="how often longest is in the votes", ylabel="share of examples, or probability (0–1)", ylim=(0, 1.05))
left.set_title("Confident, and wrong", loc="left")
left.legend(frameon=False, loc="center right", bbox_to_anchor=(1, 0.7))
order = [names.index(name) for name in ("drug_stem", "formulary", "notes", "flashcards", "floxacin", "ends_in_ine",
                                        "shares_words", "nearest_letter", "longest")] + [9, 10, 11, 12]
shown = right.imshow(agreement(spoiled[5])[np.ix_(order, order)], cmap="viridis", vmin=0, vmax=1)
ticks = [(names + ["longest again"] * 4)[j] for j in order]
right.set_xticks(range(13), ticks, rotation=90, fontsize=8)
right.set_yticks(range(13), ticks, fontsize=8)
right.set_title("Agreement where both vote (0–1)", loc="left")
right.grid(False)
figure.colorbar(shown, ax=right)
Image(png(figure, dpi=110), width=820)

# %% [markdown]
# Two bright blocks: the good functions, upper left, and the copies, lower right. *Nothing in the votes says which
# block is right.* What helps:
#
# - know your functions: sources that do not copy each other (hence *cross-domain* supervision);
# - count a family of look-alikes once (exercise 3);
# - label a few examples by hand, and look (exercise 4).

# %% [markdown]
# How few? Suppose that labels are right one time in five. If you check twenty at random, could they still look
# good by luck? The probability that ten or more of the twenty are right:

# %%
# NBVAL_CHECK_OUTPUT
print(f"{sum(comb(20, h) * 0.2**h * 0.8 ** (20 - h) for h in range(10, 21)):.4f}")

# %% [markdown]
# Copies are the crude case. Two tables typed from one book, or two prompts to one language model, are *partial*
# copies and bend the estimates in the same direction. Our pairs have such a couple: `politest` prefers the reply
# with a "please", and a "please" makes a reply longer. Each alone is right half the time, as chance is.

# %%
pairs = [dict(example) for example in data.pool if example["task"] == "pair"]
both = apply_lfs([lf for lf in sample_lfs() if lf.name in ("longest", "politest")], pairs)
print(f"where both vote, they agree on {agreement(both)[0, 1]:.2f} of the pairs")

# %%
# NBVAL_CHECK_OUTPUT
print("on more than 0.7 of them, and independent ones would agree on 0.5:", agreement(both)[0, 1] > 0.7)

# %% [markdown]
# Neither has any information about the truth, and yet a model may come to trust them, if the others are few or
# silent. On real tasks a plain majority vote is often hard to beat, for this reason among others.

# %% [markdown]
# ## What was shown
#
# - Agreement reveals accuracy, for two options up to a mirror image, if functions err independently.
# - A posterior is a weighted vote; a weight is log(a (k − 1) / (1 − a)), zero at chance.
# - EM found hidden accuracies, in simulation and in the pool, and the package computes the same.
# - A majority vote lost to one of its members; the label model did not.
# - Soft labels taught more than hard ones, and made the learner less confident.
# - A few copies of one bad function fooled the model, and it was confident.

# %% [markdown]
# ## Exercises
#
# Put your code in place of `...` and run the cell.
#
# ### 1 · One example's posterior (easy, 8 minutes)
#
# Without the functions above: multiply odds, as in section 6.

# %%
# NBVAL_CHECK_OUTPUT
def example_posterior(votes, accuracy, k):
    """votes: of m functions on one example (ABSTAIN: none); accuracy: m numbers. Returns k probabilities, a list."""
    return ...


cases = [([0, 1, 1], [0.9, 0.4, 0.4]), ([ABSTAIN, 1, 3], [0.9, 0.7, 0.1]), ([ABSTAIN] * 3, [0.9] * 3)]
answer = [example_posterior(cast, accuracy, 4) for cast, accuracy in cases]
wanted = [e_step(np.array([cast]), 4, np.array(accuracy))[0] for cast, accuracy in cases]
if ... in answer:
    print("Your turn.")
else:
    off = [case for case, mine, one in zip(cases, answer, wanted) if not np.allclose(mine, one)]
    print(f"Not yet: votes and accuracies {off[0]} come out wrong." if off else "Right.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Start with odds of 1 for each option. Silence multiplies nothing.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def example_posterior(votes, accuracy, k):
#     odds = [1.0] * k
#     for vote, a in zip(votes, accuracy):
#         if vote != ABSTAIN:
#             odds[vote] *= a * (k - 1) / (1 - a)
#     return [o / sum(odds) for o in odds]
# ```
#
# </details>

# %% [markdown]
# ### 2 · Your own labelling function (easy, 10 minutes)
#
# Topic drug_use asks what a drug is given for. Names in *-cillin*, *-cycline* and *-floxacin*, and names that
# begin with *cef*, are given for a "bacterial infection". Vote on those examples and abstain elsewhere. The check
# reads the gold labels, and also fits the label model, which has seen no answer, and shows the accuracy that it
# estimates for your function.

# %%
# NBVAL_CHECK_OUTPUT
def infection(example):
    """example: a dict with "prompt" and "responses". Returns an index, or ABSTAIN."""
    return ...


examples = [dict(example) for example in data.pool if example["topic"] == "drug_use"]
mine = [infection(example) for example in examples]
if ... in mine:
    print("Your turn.")
else:
    ballots = apply_lfs([*sample_lfs(), labeling_function("infection")(lambda one: infection(one))], examples)
    trusted = DawidSkene(one_coin=True).fit(ballots, 4).accuracies[-1]
    hits = [vote == data.pool_gold[one["id"]] for vote, one in zip(mine, examples) if vote != ABSTAIN]
    good = len(hits) >= 30 and sum(hits) >= 0.95 * len(hits) and trusted > 0.9
    print("Right." if good else f"Not yet: {sum(hits)} of {len(hits)} votes are right; estimated: {trusted:.2f}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# `option(example, "bacterial infection")` abstains where that is not on offer. `re.search` takes alternatives:
# `"cillin|cycline"`; `\bcef` is a word that begins so. Prompts may begin with the drug's name.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def infection(example):
#     found = re.search(r"(cillin|cycline|floxacin)\b|\bcef", example["prompt"].lower())
#     return option(example, "bacterial infection") if found else ABSTAIN
# ```
#
# </details>

# %% [markdown]
# ### 3 · Count a family once (medium, 12 minutes)
#
# Copies rarely come complete. Here each copy of `longest` is silent on a random third of the examples. Write a filter:
# a function is a look-alike of an earlier one *that is selected* if both vote on at least 50 examples and never differ
# there.

# %%
# NBVAL_CHECK_OUTPUT
def without_copies(votes):
    """votes [n, m] → list of the selected columns: each family's first, in order."""
    return ...


quiet = np.random.default_rng(5).random((len(votes), 4)) < 1 / 3
tainted = np.concatenate([votes, np.where(quiet, ABSTAIN, longest)], 1)
columns = without_copies(tainted)
if columns is ...:
    print("Your turn.")
elif list(columns) == list(range(9)):
    assert (one_coin(tainted[:, list(columns)], 4)[1].argmax(1) == gold).mean() > 0.95
    print("Right.")
else:
    print(f"Not yet: selected {list(columns)}, and columns 9 to 12 are the copies.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Go through the columns; compare each with those selected so far. `both = (a != ABSTAIN) & (b != ABSTAIN)`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def without_copies(votes):
#     selected = []
#     for j in range(votes.shape[1]):
#         both = [(votes[:, i] != ABSTAIN) & (votes[:, j] != ABSTAIN) for i in selected]
#         alike = [b.sum() >= 50 and (votes[b, i] == votes[b, j]).all() for i, b in zip(selected, both)]
#         if not any(alike):
#             selected.append(j)
#     return selected
# ```
#
# </details>

# %% [markdown]
# ### 4 · Out of the mirror (hard, 20 minutes)
#
# Five functions on yes/no questions, three of them mostly wrong. Started from majority vote, EM finds the mirror
# image. You have the true labels of twenty examples. Start EM from accuracies measured on *those*, then run
# E- and M-steps on all examples. Twenty examples can measure 0 or 1 by chance, so count one right and one wrong vote
# more than there were.

# %%
# NBVAL_CHECK_OUTPUT
def one_coin_from(votes, k, labelled, labels, rounds=50):
    """labelled: indices of the examples whose true labels are known. Returns the posterior [n, k] of all examples."""
    return ...


sides = np.random.default_rng(6).integers(0, 2, 1000)
liars = simulate(sides, 2, [0.1, 0.2, 0.25, 0.8, 0.7], [1.0] * 5, seed=7)
mirrored = (one_coin(liars, 2)[1].argmax(1) == sides).mean()
answer = one_coin_from(liars, 2, np.arange(20), sides[:20])
if answer is ...:
    print("Your turn.")
else:
    share = (answer.argmax(1) == sides).mean()
    good = share > 0.9 and np.allclose(answer, e_step(liars, 2, m_step(liars, answer)), atol=1e-4)
    print("Right." if good else f"Not yet: {share:.2f} right, where majority vote's start leads to {mirrored:.2f}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Function j's first accuracy: (right votes on the labelled examples + 1) / (votes on the labelled examples + 2). Then
# alternate `e_step` and `m_step`.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def one_coin_from(votes, k, labelled, labels, rounds=50):
#     known = votes[labelled]
#     right, cast = (known == labels[:, None]).sum(0), (known != ABSTAIN).sum(0)
#     accuracy = (right + 1) / (cast + 2)
#     for _ in range(rounds):
#         posterior = e_step(votes, k, accuracy)
#         accuracy = m_step(votes, posterior)
#     return posterior
# ```
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [Dawid and Skene](https://doi.org/10.2307/2346806) (1979): nine pages, about doctors who disagree; still the
#   model to beat.
# - [Snorkel](https://arxiv.org/abs/1711.10160) (Ratner and others, 2017): how people write and debug labelling
#   functions; read the user study.
# - [Fast and Three-rious](https://arxiv.org/abs/2002.11955) (Fu and others, 2020): section 5 grown up, accuracies
#   from triplets in closed form.
# - [WRENCH](https://arxiv.org/abs/2109.11377) (Zhang and others, 2021): label models compared on many tasks; a
#   cure for overconfidence.
# - [On Calibration of Modern Neural Networks](https://arxiv.org/abs/1706.04599) (Guo and others, 2017): ECE,
#   reliability diagrams, and the simplest fix.

# %% [markdown]
# Assignments A1, Label models, and A2, Curriculum, build on this lesson: see the [instructor's
# guide]({{repository}}/blob/main/docs/instructors.md#assignments).

# %%
# NBVAL_CHECK_OUTPUT
peak = (peak_memory() or 0) / 2**30  # not known on Windows
print("within the memory declared at the top:", peak < 2)
