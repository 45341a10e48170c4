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
# Our medical questions have no answers, and we want answers to train on. Cheap programs that make errors vote instead.
# From their votes alone, without any true answer, one can estimate how often each is right. You write the central
# step of the method, check it against the truth, and then break the method.

# %% [markdown]
# **You will be able to**
#
# - write labelling functions, and read their coverage, overlap and conflict;
# - estimate their accuracies without labels, with an M-step that you wrote;
# - say when a majority vote fails, and what breaks label models;
# - read a reliability diagram, and choose between hard and soft labels.
#
# **You need** lesson 00, numpy, Bayes' rule, the product rule.

# %% [markdown]
# {{budget}}
#
# Run the cells from top to bottom. At **predict**, write down a guess first. The true answers (*gold labels*) are in a
# separate file. We read them only to check results, and say so each time.

# %% [markdown]
# **What this is not.** The [paper](https://arxiv.org/abs/2502.00832) names weak supervision across domains, but
# publishes no labelling function and no label model. The ones here are *our reading*, from the field's standard
# tools. The tables that vote contain deliberate errors: **not medical advice**.

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
import re
from itertools import product

import numpy as np
import pandas as pd
import torch
from IPython.display import Image

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
from icft_lite.reporting.concepts import weak_supervision
from icft_lite.reporting.lessons.peak import print_peak
from icft_lite.reporting.lessons.weak_supervision import (
    agreement_figure,
    em_figure,
    reliability_figure,
    votes_figure,
)
from icft_lite.reporting.style import png
from icft_lite.weak.label_models import ABSTAIN
from icft_lite.weak.lfs.samples import sample_lfs

# %% [markdown]
# ## The lesson in one picture
#
# Functions vote (sections 1–3). A label model estimates how good each function is and computes a *posterior*, the
# probability of each option given the votes (sections 4–9). The posterior gives the label to train on, and its
# uncertainty orders the examples in lesson 03 (sections 10–11).

# %%
# NBVAL_CHECK_OUTPUT
Image(png(weak_supervision.draw(), dpi=110), width=900, metadata={"alt": weak_supervision.draw.__doc__})

# %% [markdown]
# ## 1 · Questions are plenty, answers are expensive
#
# Our pool holds questions and pairs of replies without a label: their label is −1. A doctor could label them, which
# is expensive. We start with one topic, drug classes: which *kind* of drug is it?

# %%
# NBVAL_CHECK_OUTPUT
data = sample_bundle()
pool = [dict(example) for example in data.pool if example["topic"] == "drug_class"]
print(f"{len(pool)} of {len(data.pool)} examples; labels: {({example['label'] for example in pool})}")
print("numbers of options:", {len(example["responses"]) for example in pool})
for example in pool[:3]:
    print(f"{example['prompt']:45} {', '.join(example['responses'])}")

# %% [markdown]
# ## 2 · Write a labelling function
#
# A **labelling function** (LF) is a small program. It reads an example and *votes*: it returns the index of an option.
# If it has no evidence, it **abstains**: it returns `ABSTAIN` (−1). It may be a rule, a table or a model. It should be
# right more often than chance.

# %% [markdown]
# Drug names have parts. All names in *-floxacin* are quinolone antibiotics, a safe rule. Many antihistamines
# (against allergies) end in *-ine*, such as cetirizine and loratadine. That is only a guess, because many other drugs
# end in *-ine* too. Both become functions.

# %%
def option(example, text):
    """The index of the option with this text; ABSTAIN if the example does not have it."""
    return example["responses"].index(text) if text in example["responses"] else ABSTAIN


def says_antihistamine(example):
    return bool(re.search(r"ine\b", example["prompt"].replace("medicine", "")))


@labeling_function(source="mine", task="question")
def floxacin(example):
    return option(example, "quinolone antibiotic") if "floxacin" in example["prompt"] else ABSTAIN


@labeling_function(source="mine", task="question")
def ends_in_ine(example):
    return option(example, "antihistamine") if says_antihistamine(example) else ABSTAIN


# %% [markdown]
# **Predict** the votes of each function on three examples with the same options. The drugs are ofloxacin, cetirizine
# and chloroquine.

# %%
# NBVAL_CHECK_OUTPUT
options = ["antimalarial", "antihistamine", "quinolone antibiotic"]
drugs = ("ofloxacin", "cetirizine", "chloroquine")
examples = [dict(task="question", prompt=f"Which class is {drug} in?", responses=options) for drug in drugs]
print("floxacin:   ", [floxacin(example) for example in examples])
print("ends_in_ine:", [ends_in_ine(example) for example in examples])

# %% [markdown]
# Chloroquine treats malaria, so the guess is wrong there. We know that only because *we* know the answer.
#
# Also note what `option` does: if "antihistamine" is not among the options, `ends_in_ine` abstains. How much does
# that help the function? **Predict**: how often is an *-ine* drug of the pool an antihistamine? (This cell reads gold
# labels.)

# %%
# NBVAL_CHECK_OUTPUT
gold = np.array([data.pool_gold[example["id"]] for example in pool])
claims = [i for i, example in enumerate(pool) if says_antihistamine(example)]
cast = [i for i in claims if ends_in_ine(pool[i]) != ABSTAIN]
hits = sum(ends_in_ine(pool[i]) == gold[i] for i in cast)
print(f"names in -ine: {len(claims)}; antihistamine is an option in {len(cast)}; right in {hits}")
print(f"right of its votes: {hits / len(cast):.2f}; right of all its claims: {hits / len(claims):.2f}")

# %% [markdown]
# The function can vote only for an option that is listed, and one listed option is always right. So its worst claims
# never become votes: 0.58 is its accuracy at *choosing among four options*, 0.24 that of its claims. This holds for all
# functions here. Accuracies in this lesson say nothing about free answers, where no options prevent an error.

# %% [markdown]
# Your two functions join the package's. `votes` has a row for each example and a column for each function. We use the
# functions that vote on drug classes at all. (`base_choice` never votes here, because it needs scores of the base
# model, as in lesson 00.)

# %%
# NBVAL_CHECK_OUTPUT
everyone = [*sample_lfs(), floxacin, ends_in_ine]
votes = apply_lfs(everyone, pool)
active = np.flatnonzero((votes != ABSTAIN).any(0))
lfs, votes = [everyone[j] for j in active], votes[:, active]
names = [lf.name for lf in lfs]
print(votes.shape, ", ".join(names))

# %% [markdown]
# | function | votes for |
# |---|---|
# | longest, nearest_letter | longest text; first letter nearest to that of the prompt's longest word: poor on purpose |
# | shares_words | the option that shares most word beginnings with the prompt |
# | drug_stem | what a list of name parts (-olol, cef-) says |
# | formulary, notes, flashcards | what three tables say, with gaps and errors |

# %%
# NBVAL_CHECK_OUTPUT
print("drug_stem, first 36:", "".join("ABCD-"[vote] for vote in votes[:36, names.index("drug_stem")]))
figure = votes_figure(votes[:36], names, "Votes on the first 36 questions on drug classes (A to D; white: abstains)")
Image(png(figure, dpi=110), width=800)

# %% [markdown]
# Compare drug_stem, formulary and notes: they nearly always vote for the same letter. Three programs that share no
# source rarely agree by luck when there are four options. *Agreement is evidence.* The whole method uses this fact.

# %% [markdown]
# ## 3 · Coverage, overlap, conflict
#
# Three shares of examples describe a function: **coverage**, it votes; **overlap**, another votes too; **conflict**,
# another votes for a different option. **Predict** all three for A. (A dot: it abstains.)
#
# | example | A | B | C |
# |---|---|---|---|
# | 0 | 0 | 0 | · |
# | 1 | 1 | 0 | · |
# | 2 | · | · | 1 |
# | 3 | 0 | · | · |

# %%
# NBVAL_CHECK_OUTPUT
def shares(votes):
    """Coverage, overlap and conflict of each function, three arrays [m]."""
    voted = votes != ABSTAIN
    others = voted.sum(1, keepdims=True) - voted
    equal = np.array([(votes == votes[:, [j]]).sum(1) - 1 for j in range(votes.shape[1])]).T
    return voted.mean(0), (voted & (others > 0)).mean(0), (voted & (equal < others)).mean(0)


by_hand = np.array([[0, 0, -1], [1, 0, -1], [-1, -1, 1], [0, -1, -1]])
for name, values in zip(("coverage", "overlap", "conflict"), shares(by_hand)):
    print(f"{name:9} A {values[0]:.2f}  B {values[1]:.2f}  C {values[2]:.2f}")
table = lf_analysis(votes, lfs)
print("the package's table is the same:", np.allclose(table[["coverage", "overlap", "conflict"]].T, shares(votes)))
table[["coverage", "overlap", "conflict"]].round(2)

# %% [markdown]
# floxacin covers about one example in twenty. Narrow functions are useful, because many of them together cover a lot.
# But which functions are *good*? This table cannot say: a conflict does not show which of the two is wrong.

# %% [markdown]
# ## 4 · Majority vote
#
# The simplest label model: an option's probability is its share of the votes. If voters err
# **independently** and are equally good, above one half, the majority is better (Condorcet, 1785).
#
# **Predict**: five voters are right with probability 0.7 each. How often is their majority right? And if the
# probabilities are 0.9, 0.8, 0.7, 0.6 and 0.6?

# %%
# NBVAL_CHECK_OUTPUT
def vote_accuracy(accuracy, weights):
    """How often a weighted vote on a yes/no question is right: voters are independent, a tie counts half."""
    total = 0.0
    for right in product([True, False], repeat=len(accuracy)):
        chance = np.prod([a if r else 1 - a for a, r in zip(accuracy, right)])
        margin = sum(w if r else -w for w, r in zip(weights, right))
        total += chance * (0.5 if abs(margin) < 1e-12 else margin > 0)
    return total


equal, mixed = [0.7] * 5, [0.9, 0.8, 0.7, 0.6, 0.6]
for accuracy in (equal, mixed):
    print(f"best member {max(accuracy):.3f}, majority {vote_accuracy(accuracy, [1] * 5):.3f}")

# %% [markdown]
# If all are equally good, and better than a coin, the majority is better than each. If not, the majority can be **worse
# than its best member**: several poor voters outvote a good one. Does that happen in our pool? We compare the majority
# with one function, where that function votes. (This cell reads gold labels.)

# %%
# NBVAL_CHECK_OUTPUT
def majority(votes, k):
    """Each option's share of the votes, float [n, k]. Every example needs a vote."""
    counts = (votes[:, :, None] == np.arange(k)).sum(1)
    return counts / counts.sum(1, keepdims=True)


stem, heads = votes[:, names.index("drug_stem")], majority(votes, 4)
there = stem != ABSTAIN
alone, together = (stem == gold)[there].mean(), (heads.argmax(1) == gold)[there].mean()
print(f"on {there.sum()} examples: drug_stem is right {alone:.3f}, the majority {together:.3f}")
print("the package's is the same:", np.allclose(heads, MajorityVote().fit(votes, 4).predict_proba(votes, 4)))

# %% [markdown]
# One function alone is better than nine that vote together. If we knew which functions are good, we could give them
# more weight. The next sections find that out without gold labels.

# %% [markdown]
# ## 5 · Accuracy from agreement alone
#
# Take yes/no questions and independent voters 1, 2, 3 that are right with probabilities $\pi_1, \pi_2, \pi_3$, their
# accuracies. Voters 1 and 2 agree when both are right or both are wrong:
#
# $$\text{agree}_{12} = \pi_1 \pi_2 + (1-\pi_1)(1-\pi_2) \quad\Longleftrightarrow\quad
# 2\,\text{agree}_{12} - 1 = (2\pi_1-1)(2\pi_2-1)$$

# %% [markdown]
# Write $e_{12}$ for $2\,\text{agree}_{12}-1$, and $e_{13}$, $e_{23}$ likewise. Three pairs give three equations for
# three unknowns: $e_{12}\,e_{13}\,/\,e_{23} = (2\pi_1-1)^2$, because the other factors cancel.
#
# Suppose that the agreements are 0.74, 0.66 and 0.62. **Predict**: who is the best of the three? How good?

# %%
# NBVAL_CHECK_OUTPUT
e12, e13, e23 = (2 * agree - 1 for agree in (0.74, 0.66, 0.62))
roots = np.sqrt([e12 * e13 / e23, e12 * e23 / e13, e13 * e23 / e12])
print("accuracies:", ((1 + roots) / 2).round(3))
print("or:        ", ((1 - roots) / 2).round(3))

# %% [markdown]
# These are accuracies, computed without any answer. But a square has two roots. Three voters with accuracies 0.1, 0.2
# and 0.3 agree exactly as often. Agreement cannot distinguish the truth from its **mirror image**, so one must *assume*
# that most functions are better than chance. The voters must also err independently: section 12 shows what happens
# otherwise.

# %% [markdown]
# ## 6 · The weight of a vote
#
# Now there are k options and m functions, which may abstain. The **one-coin** model: a vote of function j is right with
# probability $\pi_j$. Otherwise it is for one of the other k − 1 options, each equally likely. Given the truth,
# functions err independently. An abstention is a *missing* vote and carries no information.

# %% [markdown]
# By Bayes' rule, a vote of accuracy $\pi$ multiplies the odds of its option by $\pi\,(k-1)\,/\,(1-\pi)$.
#
# **By hand**, k = 4. A ($\pi$ = 0.9) votes for option 0, B and C (0.4 each) for option 1. The factors are 27, 2 and 2.
# The odds are 27 : 4 : 1 : 1, so option 0 has 27/33 = 0.82. Majority vote would choose option 1.

# %% [markdown]
# With logarithms this is a *weighted vote*. The **weight** is $w_j = \log \frac{\pi_j (k-1)}{1-\pi_j}$. The score of an
# option is the sum of the weights of its votes. Their softmax, $e^{\text{score}}$ divided by its sum, is the
# **posterior**. This is the **E-step**.
#
# **Predict**, for four options: what is the weight of a function that guesses at random? Of one that is right once in
# ten?

# %%
# NBVAL_CHECK_OUTPUT
def weight(accuracy, k):
    """What a vote adds to its option's log-odds."""
    accuracy = np.clip(accuracy, 1e-10, 1 - 1e-10)  # so that the weight is finite
    return np.log(accuracy * (k - 1) / (1 - accuracy))


def e_step(votes, k, accuracy):
    """The posterior, float [n, k], if these were the accuracies [m]."""
    score = ((votes[:, :, None] == np.arange(k)) * weight(accuracy, k)[:, None]).sum(1)
    odds = np.exp(score - score.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)


print("by hand:", e_step(np.array([[0, 1, 1]]), 4, np.array([0.9, 0.4, 0.4])).round(3), "27/33 =", round(27 / 33, 3))
print(f"the mixed five: majority {vote_accuracy(mixed, [1] * 5):.3f}, best member 0.900, "
      f"weighted vote {vote_accuracy(mixed, weight(mixed, 2)):.3f}")
for accuracy in (0.9, 0.5, 0.25, 0.1):
    print(f"accuracy {accuracy:.2f}: weight {weight(accuracy, 4):+.2f}")

# %% [markdown]
# With the right weights the mixed five are better than their best member. The weight is zero at chance: such a vote
# changes nothing. Below chance it is negative: a function that is reliably wrong is evidence *against* its option.

# %% [markdown]
# ## 7 · Expectation–maximization
#
# If we knew the accuracies, the E-step would give posteriors. If we knew the posteriors, we could compute accuracies:
# the **M-step**. We know neither. So start with the majority vote as the posterior and alternate M-step and E-step.
# This is EM, the algorithm of [Dawid and Skene](https://doi.org/10.2307/2346806) (1979).

# %% [markdown]
# ### Your turn: m_step
#
# ●●○ difficulty · ●●● importance · 10 minutes
#
# The expected accuracy of function j is the mean posterior of its votes:
#
# $$\pi_j = \frac{1}{n_j} \sum_{i:\ j \text{ votes on } i} \tilde p_{i,\,\text{vote}_{ij}}$$
#
# $\text{vote}_{ij}$: vote of function j on example i; $n_j$: number of votes of j; $\tilde p_{io}$: posterior of option
# o of example i.

# %%
# NBVAL_CHECK_OUTPUT
def m_step(votes, posterior):
    """votes: int [n, m], ABSTAIN where a function does not vote; posterior: float [n, k]. Returns float [m]."""
    return ...


case = np.array([[0, 1], [1, ABSTAIN], [ABSTAIN, 0], [0, 1]])
belief = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3]])  # function 0: (0.9 + 0.6 + 0.7) / 3
answer, wanted = m_step(case, belief), np.array([2.2, 0.6]) / 3
solved = answer is not ... and np.shape(answer) == (2,) and np.allclose(answer, wanted)
if answer is ...:
    print("Your turn.")
else:
    print("Right." if solved else f"Not yet: your accuracies are {answer}, expected {wanted.round(3)}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Loop over the columns of `votes`. `np.flatnonzero(vote != ABSTAIN)` are the examples on which a function votes.
# `posterior[rows, columns]` with two lists picks one entry of each row.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def m_step(votes, posterior):
#     accuracy = np.empty(votes.shape[1])
#     for j, vote in enumerate(votes.T):
#         voted = np.flatnonzero(vote != ABSTAIN)
#         accuracy[j] = posterior[voted, vote[voted]].mean()
#     return accuracy
# ```
#
# </details>

# %%
# NBVAL_CHECK_OUTPUT
# Your step runs in place of the package's for one round of EM. Until it is right, the package's runs.
def package_m_step(votes, posterior):
    """The M-step inside `DawidSkene`, on its own."""
    model = DawidSkene(one_coin=True)
    model._m_step((votes[:, :, None] == np.arange(posterior.shape[1])).astype(float), posterior)
    return model._coin_accuracy


step = m_step if solved else package_m_step
posterior = e_step(votes, 4, step(votes, majority(votes, 4)))
package = DawidSkene(one_coin=True, n_iter=1).fit(votes, 4).predict_proba(votes, 4)
print("posterior of the first question after one round:", posterior[0].round(3))
print("equal to the package's:", np.allclose(posterior, package))

# %%
def one_coin(votes, k, rounds=100, tolerance=1e-6):
    """EM: accuracies [m], the posterior [n, k], and the accuracies after each round [rounds, m]."""
    posterior, history = majority(votes, k), []
    for _ in range(rounds):
        history.append(step(votes, posterior))
        last, posterior = posterior, e_step(votes, k, history[-1])
        if np.abs(posterior - last).max() < tolerance:
            break
    return step(votes, posterior), posterior, np.array(history)


# %% [markdown]
# Does EM find the truth? We **simulate** six voters whose accuracies and coverages we choose (first and second number
# of each). **Predict**: the last one is right once in ten, and majority vote counts it like the others. Which accuracy
# does EM estimate for it?

# %%
def simulate(truth, k, accuracy, coverage, seed):
    """One-coin votes int [n, m] on questions whose right options are `truth`."""
    rng, shape = np.random.default_rng(seed), (len(truth), len(accuracy))
    wrong = (truth[:, None] + rng.integers(1, k, shape)) % k
    votes = np.where(rng.random(shape) < accuracy, truth[:, None], wrong)
    return np.where(rng.random(shape) < coverage, votes, ABSTAIN)


known = np.array([[0.95, 0.4], [0.85, 0.7], [0.7, 0.9], [0.5, 0.6], [0.4, 0.9], [0.1, 0.8]])
simulated = simulate(np.random.default_rng(0).integers(0, 4, 4000), 4, *known.T, seed=1)
simulated = simulated[(simulated != ABSTAIN).any(1)]  # an example without votes carries no information

# %%
# NBVAL_CHECK_OUTPUT
estimated, posterior, history = one_coin(simulated, 4)
print("true     ", known[:, 0])
print("first    ", history[0].round(2))
print("estimated", estimated.round(2))
print("never off by more than 0.04:", np.abs(estimated - known[:, 0]).max() < 0.04)
Image(png(em_figure(history, known[:, 0]), dpi=110), width=800)

# %% [markdown]
# EM starts from majority vote, which overrates poor functions and underrates good ones. After a few rounds each
# estimate is near the dashed line of its truth. EM finds a *local* optimum near its start, which can be the mirror
# image of section 5. Majority vote is a good start if most functions are better than chance.

# %% [markdown]
# ## 8 · The real pool
#
# Back to drug classes. **Predict**, and write it down: which of the nine functions gets the highest estimate? Which of
# your two is better? What is the estimate for the guess *-ine*? (Gold labels are read for the column *measured*.)

# %%
# NBVAL_CHECK_OUTPUT
found, labels, _ = one_coin(votes, 4)
measured = lf_analysis(votes, lfs, gold)["accuracy"]
columns = {"estimated": found, "measured": measured, "votes": (votes != ABSTAIN).sum(0)}
print(f"largest error of an estimate: {np.abs(found - measured).max():.3f}")
by_model, by_majority = labels.argmax(1) == gold, heads.argmax(1) == gold
print(f"right: majority vote {by_majority.mean():.3f}, label model {by_model.mean():.3f}")
print(f"where drug_stem votes: drug_stem {alone:.3f}, label model {by_model[there].mean():.3f}")
pd.DataFrame(columns).sort_values("estimated", ascending=False).round(2)

# %% [markdown]
# The guess *-ine* is estimated at 0.58, from votes alone. The labels are right more often than the majority's. Where
# drug_stem votes, it alone would be slightly better still.
#
# An accuracy belongs to a *topic*: a table of drugs knows nothing about bones. So `label_pool` fits a model for each
# large topic. Do estimates hold there?

# %%
# NBVAL_CHECK_OUTPUT
for topic in ("terminology", "drug_class", "drug_use"):
    examples = [dict(example) for example in data.pool if example["topic"] == topic]
    ballots = apply_lfs(sample_lfs(), examples)
    ballots = ballots[:, (ballots != ABSTAIN).any(0)]
    answers = np.array([data.pool_gold[example["id"]] for example in examples])[:, None]
    true = (ballots == answers).sum(0) / (ballots != ABSTAIN).sum(0)
    error = np.abs(true - one_coin(ballots, 4)[0]).max()
    print(f"{topic:12} {ballots.shape[1]} functions, accuracies {true.min():.2f} to {true.max():.2f}, "
          f"largest error {error:.3f}")

# %% [markdown]
# The estimates hold. The accuracy of 0.00 belongs to `shares_words`, which votes only twice on drug_use, both times
# wrongly.

# %% [markdown]
# ## 9 · Labels that mean the same in every example
#
# Our options are shuffled, so one number per function suffices. If all examples have the *same* labels, say yes and no,
# functions make different errors. The full model of Dawid and Skene describes function j by a **confusion matrix**:
# $\Theta^j_{oo'}$ is the probability that it votes for $o'$ if the truth is $o$.

# %% [markdown]
# Four simulated readers of yes/no/maybe questions vote with coverage 0.8. The *hedger* says maybe four times in ten
# where the truth is yes or no. The *contrarian* swaps yes and no. **Predict**: does a "no" of the contrarian count as
# evidence for yes in the one-coin model? In the full model?

# %%
readers = {"careful": [[.85, .10, .05], [.10, .85, .05], [.15, .15, .70]],
           "plain": [[.75, .15, .10], [.20, .70, .10], [.20, .20, .60]],
           "hedger": [[.55, .05, .40], [.05, .55, .40], [.05, .05, .90]],
           "contrarian": [[.10, .80, .10], [.80, .10, .10], [.25, .25, .50]]}
matrices, rng = np.array(list(readers.values())), np.random.default_rng(3)
states = rng.choice(3, 3000, p=[0.5, 0.3, 0.2])
draws = rng.random((3000, 4, 1)) > matrices[:, states].transpose(1, 0, 2).cumsum(2)[:, :, :-1]
answers = np.where(rng.random((3000, 4)) < 0.8, draws.sum(2), ABSTAIN)  # vote: cumulative sums exceeded
spoken = (answers != ABSTAIN).any(1)
answers, states = answers[spoken], states[spoken]

# %%
# NBVAL_CHECK_OUTPUT
model = DawidSkene().fit(answers, 3)
print("the contrarian, found (rows: truth; columns: vote):", *model.confusion[3].round(2), sep="\n")
print(f"largest error of an entry: {np.abs(model.confusion - matrices).max():.2f}")
for name, p in (("one coin", one_coin(answers, 3)[1]), ("full", model.predict_proba(answers, 3))):
    print(f"{name:9} right {(p.argmax(1) == states).mean():.2f}")

# %% [markdown]
# The contrarian's matrix is found, and a "no" of his counts as evidence for yes. With one coin it only counts against
# no, so its labels are worse. In our pool only pairs have fixed labels (first or second). `label_pool` uses full
# confusion for them if the functions have 80 votes each on average, else one coin.

# %% [markdown]
# ## 10 · Can the posterior be trusted?
#
# A posterior of 0.8 should be right eight times in ten: then it is **calibrated**. Sort examples into bins by their
# largest posterior, the *confidence*. The **expected calibration error** compares confidence and accuracy:
#
# $$\text{ECE} = \sum_b \frac{n_b}{n}\, \lvert \text{accuracy}_b - \text{confidence}_b \rvert$$

# %% [markdown]
# $n_b$: examples in bin b; $n$: all. **By hand**: ten examples with confidence 0.9, eight right (gap 0.1), and thirty
# with confidence 0.6, all right (gap 0.4), give (10 · 0.1 + 30 · 0.4) / 40 = 0.325.
#
# Then all questions of the pool. **Predict**: has majority vote too much confidence, or too little? (Gold labels are
# read.)

# %%
# NBVAL_CHECK_OUTPUT
def reliability(probs, gold, bins=10):
    """Mean confidence, accuracy and number of examples of each bin that has any: float [3, bins]."""
    confidence, right = probs.max(1), probs.argmax(1) == gold
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    found = [(confidence[bin_of == b].mean(), right[bin_of == b].mean(), (bin_of == b).sum())
             for b in np.unique(bin_of)]
    return np.array(found).T


def ece(probs, gold):
    confidence, accuracy, count = reliability(probs, gold)
    return (np.abs(confidence - accuracy) * count).sum() / count.sum()


by_hand = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 30)
print("by hand 0.325, by the function", round(ece(by_hand, np.array([0] * 8 + [1] * 2 + [0] * 30)), 3))
print("the package's is the same:", np.isclose(ece(labels, gold), expected_calibration_error(labels, gold)))

# %%
# NBVAL_CHECK_OUTPUT
examples = [dict(example) for example in data.pool if example["task"] == "question"]
all_votes = apply_lfs(sample_lfs(), examples)
all_gold = np.array([data.pool_gold[example["id"]] for example in examples])
probs = {}
for kind in ("majority_vote", "dawid_skene"):
    lists, _ = label_pool(examples, all_votes, kind)
    p = probs[kind] = np.array([p + [0.0] * (4 - len(p)) for p in lists])
    print(f"{kind:14} right {(p.argmax(1) == all_gold).mean():.2f}  mean confidence {p.max(1).mean():.2f}  "
          f"ECE {ece(p, all_gold):.2f}")


bins = {kind: reliability(p, all_gold) for kind, p in probs.items()}
print("examples per bin, from low to high confidence:", {kind: b[2].astype(int).tolist() for kind, b in bins.items()})
Image(png(reliability_figure(bins), dpi=110), width=500)

# %% [markdown]
# Points above the line have too little confidence. Majority vote counts poor functions as much as good ones, so even a
# right winner gets few of the votes. Where all votes agree, it is slightly too confident. The label model is confident
# of most labels, and rightly so. It has few examples of less confidence, so their intervals are wide.

# %% [markdown]
# ## 11 · Hard or soft labels
#
# We can train on the most likely option (a **hard** label) or on the whole posterior (a **soft** label), with the
# *expected* loss $\sum_o \tilde p_o \cdot \text{loss}(o)$. If votes are nearly undecided between two options, a hard
# label raises only one of them. If that one is wrong, it teaches the error at full strength.

# %% [markdown]
# Does it matter? We simulate points of three classes, let four weak functions vote, and train the smallest classifier,
# one linear layer, on either kind of label. Ten repetitions. **Predict** which is right more often, and which is
# more confident.

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
    """Accuracy on 2,000 new points and mean confidence, after training on 300 with hard, then with soft labels."""
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
# NBVAL_CHECK_OUTPUT
hard, hard_confidence, soft, soft_confidence = np.array([trial(seed) for seed in range(10)]).T
print(f"accuracy: hard {hard.mean():.2f}, soft {soft.mean():.2f}")
print(f"mean confidence: hard {hard_confidence.mean():.2f}, soft {soft_confidence.mean():.2f}")
print("soft is right more often, on average by more than 0.01:", (soft - hard).mean() > 0.01)

# %% [markdown]
# Here soft labels teach more, and the model that learns from uncertain labels becomes uncertain itself: its confidence
# is further below its accuracy. But the functions of this simulation are poor, so many posteriors are undecided. Is
# that so in our pool? **Predict** the share of its questions whose label has a confidence above 0.95.

# %%
# NBVAL_CHECK_OUTPUT
confidence = probs["dawid_skene"].max(1)
for low, high in ((0, 0.6), (0.6, 0.95), (0.95, 1.01)):
    share = ((confidence >= low) & (confidence < high)).mean()
    print(f"confidence {low:.2f} to {min(high, 1):.2f}: {share:.2f} of the questions")

# %% [markdown]
# With labels as confident as these, hard and soft labels hardly differ. In training runs soft labels had no measured
# benefit: one development run each had a medical score of 0.48 with soft and 0.53 with hard labels
# ([experiments]({{repository}}/blob/main/docs/experiments.md)). So runs train on hard labels by default. The setting
# `weak.soft_labels=True` turns soft ones on; L_task needs it.

# %% [markdown]
# With soft labels the *label model* had a clear benefit: with Dawid–Skene in place of majority vote, the medical score
# was 0.85 instead of 0.44 in the demo, and 0.48 instead of 0.27 on all topics
# ([results]({{repository}}/blob/main/docs/earlier_results.md)). With hard labels it was 0.44 instead of 0.38, not
# clearly (lesson 09). The posterior's *entropy* orders the curriculum (lesson 03).

# %% [markdown]
# ## 12 · What breaks it
#
# The model assumes that functions err independently. Suppose that a colleague adds `longest` several times under new
# names. It is right about one time in five. **Predict**: EM had found that `longest` is poor. Do copies of it change
# the labels?

# %%
# NBVAL_CHECK_OUTPUT
longest, curves, spoiled = votes[:, [names.index("longest")]], [], {}
for copies in range(1, 7):
    spoiled[copies] = np.concatenate([votes] + [longest] * (copies - 1), 1)
    accuracy, p, _ = one_coin(spoiled[copies], 4)
    curves.append([(p.argmax(1) == gold).mean(), p.max(1).mean(),
                   accuracy[names.index("longest")], accuracy[names.index("drug_stem")]])
columns = ["labels right", "their confidence", "longest, estimated", "drug_stem, estimated"]
pd.DataFrame(curves, columns=columns, index=pd.Index(range(1, 7), name="copies")).round(2)

# %% [markdown]
# The labels collapse suddenly, and their confidence stays high. For the model, copies are independent witnesses that
# never contradict each other, so they must be perfect. Then drug_stem, which disagrees with them, must be poor. The
# figure shows which functions agree with which.

# %%
# NBVAL_CHECK_OUTPUT
def agreement(votes):
    """Of the examples where both vote, the share where they vote alike: float [m, m]; NaN without such examples."""
    voted = (votes != ABSTAIN).astype(float)
    alike = ((votes[:, :, None] == votes[:, None, :]) & (votes[:, :, None] != ABSTAIN)).sum(0)
    return np.where(voted.T @ voted > 0, alike / np.maximum(voted.T @ voted, 1), np.nan)


good = ["drug_stem", "formulary", "notes", "flashcards", "floxacin"]
poor = ["shares_words", "nearest_letter", "longest"]
order = [names.index(name) for name in [*good, "ends_in_ine", *poor]] + [9, 10, 11, 12]
matrix = agreement(spoiled[5])[np.ix_(order, order)]
print("the good five:", matrix[0, 1:5].round(2), " longest and its copies:", matrix[8, 9:].round(2))
figure = agreement_figure(matrix, [(names + ["longest again"] * 4)[j] for j in order])
Image(png(figure, dpi=110), width=560)

# %% [markdown]
# Two bright blocks: the good functions (upper left) and the copies (lower right). *Nothing in the votes says which
# block is right.* Partial copies, such as two tables typed from one book, bias the estimates in the same direction.
# What helps: use sources that do not copy each other (our reading of *cross-domain*), and label some by hand
# (exercise 2).

# %% [markdown]
# ## What was shown
#
# - Agreement reveals accuracy, up to a mirror image, if functions err independently.
# - A posterior is a weighted vote; the weight is 0 at chance.
# - EM, with your M-step, found accuracies without labels.
# - All accuracies here are of choices among given options.
# - Dawid–Skene beat majority vote (with soft labels).
# - Copies of a poor function fooled the model.

# %% [markdown]
# ## Exercises
#
# Put your code in place of `...` and run the cell.
#
# ### 1 · Your own labelling function (easy, 10 minutes)
#
# Topic drug_use asks what a drug is given for. Names in *-cillin*, *-cycline* and *-floxacin*, and names that begin
# with *cef*, are given for a "bacterial infection". Vote there and abstain elsewhere. The check reads gold labels.

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
# `option(example, "bacterial infection")` abstains if that is not an option. `re.search` takes alternatives:
# `"cillin|cycline"`; `\bcef` is a word that begins so. Some prompts begin with the drug's name, in upper case.
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
# ### 2 · Out of the mirror image (hard, 20 minutes)
#
# Five functions vote on yes/no questions, and three are mostly wrong. From majority vote, EM finds the mirror image.
# Start from accuracies on twenty examples with true labels, then run E- and M-steps (`step`). Add one right and one
# wrong vote to each count. Return the posterior after the last E-step.

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
    good = share > 0.9 and np.allclose(answer, e_step(liars, 2, step(liars, answer)), atol=1e-4)
    print("Right." if good else f"Not yet: {share:.2f} right, where majority vote's start leads to {mirrored:.2f}.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Twenty examples can measure 0 or 1 by chance, hence the two extra votes: function j's first accuracy is (right votes
# on the labelled examples + 1) / (votes on the labelled examples + 2). Then alternate `e_step` and `step`.
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
#         accuracy = step(votes, posterior)
#     return posterior
# ```
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [Dawid and Skene](https://doi.org/10.2307/2346806) (1979): doctors who disagree; still hard to beat.
# - [Snorkel](https://arxiv.org/abs/1711.10160) (2017): how people write labelling functions.
# - [Fast and Three-rious](https://arxiv.org/abs/2002.11955) (2020): section 5 in general.
# - [WRENCH](https://arxiv.org/abs/2109.11377) (2021): label models compared.
# - [On Calibration](https://arxiv.org/abs/1706.04599) (2017): reliability diagrams.
#
# Assignments A1, Label models, and A2, Curriculum, build on this lesson: see the [instructor's
# guide]({{repository}}/blob/main/docs/instructors.md#assignments).

# %%
# NBVAL_CHECK_OUTPUT
print_peak(2)
