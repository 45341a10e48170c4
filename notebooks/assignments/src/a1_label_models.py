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
# # Assignment 1 · Label models
#
# You write a label model in the style of Dawid and Skene: E-steps, M-steps, EM, and two things that lesson 02 does
# without, weights against look-alikes and calibration on a few labels. At the end your model labels questions of the
# pool and calibrates the model `tiny`.
#
# **You need** lesson 02. **Time**: about 150 minutes.

# %% [markdown]
# | part | what you write | points | minutes |
# |---|---|---|---|
# | A1.1 | Weighted vote shares | 2 | 12 |
# | A1.2 | M-step for accuracies | 2 | 12 |
# | A1.3 | E-step for accuracies | 4 | 25 |
# | A1.4 | The EM loop | 3 | 15 |
# | A1.5 | M-step for confusion matrices | 3 | 20 |
# | A1.6 | E-step for confusion matrices | 3 | 20 |
# | A1.7 | Weights of look-alikes | 2 | 15 |
# | A1.8 | Calibration error | 2 | 15 |
# | A1.9 | Temperature | 2 | 15 |

# %% [markdown]
# **Rules.** Replace `raise NotImplementedError` by your code. Do not rename functions or arguments. Use NumPy. The label
# models of the package are not available while your work is graded.
#
# A check follows each part. It prints "Passed", or says what kind of error it found. Grading uses other inputs than the
# check. Later parts call your earlier functions.
#
# At the end, restart the kernel, run all cells, save the notebook and hand it in. During grading, cells that compare your
# code with the package's fail. This costs no points.

# %% [markdown]
# **Notation.** `votes` is an int array [n, m]: n examples, m labelling functions. A vote is the index of an option, and
# −1 is an abstention. Example i has `n_options[i]` options. k is the largest of these numbers. A posterior is a float
# array [n, k], and is 0 at options that an example does not have.

# %% [markdown]
# The work of the computer in this assignment:
#
# {{budget}}

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
import numpy as np

from icft_lite.grading.feedback import check_array  # compares arrays and names the kind of error

# %% [markdown]
# ## 1 · Weighted vote shares
#
# **A1.1 · 2 points · 12 minutes**
#
# Function j has the weight `weight[j]`. The share of an option is the sum of the weights of the functions that vote for
# it, divided by the sum of the weights of all functions that vote on the example. If no function votes, all options that
# the example has get the same share.

# %% nbgrader={"grade": false, "grade_id": "a1-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def vote_shares(votes, n_options, weight):
    """Return the weighted share of each option: float [n, k].

    votes: int [n, m]. n_options: int [n]. weight: float [m], positive.
    """
    ### BEGIN SOLUTION
    options = np.arange(n_options.max())
    share = ((votes[:, :, None] == options) * weight[:, None]).sum(1)
    silent = (votes < 0).all(1)
    share[silent] = (options < n_options[:, None])[silent]
    return share / share.sum(1, keepdims=True)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a1-1-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
votes, n_options = np.array([[0, 0, 1], [-1, 2, -1], [-1, -1, -1]]), np.array([2, 3, 2])
found = vote_shares(votes, n_options, np.array([1.0, 0.5, 1.0]))
check_array(found, [[0.6, 0.4, 0], [0, 0, 1], [0.5, 0.5, 0]], {
    "weight: every labelling function counts the same": [[2 / 3, 1 / 3, 0], [0, 0, 1], [0.5, 0.5, 0]],
    "mask: an example has two options, and three get a share": [[0.6, 0.4, 0], [0, 0, 1], [1 / 3] * 3],
    "abstention: it counts in the denominator": [[0.6, 0.4, 0], [0, 0, 0.2], [0.5, 0.5, 0]],
    "abstention: −1 is used as an index": [[0.6, 0.4, 0], [0, 0, 1], [0, 0, 1]],
    "hard labels: shares are wanted, not the winner": [[1, 0, 0], [0, 0, 1], [1, 0, 0]],
})
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
votes, n_options, weight = rng.integers(-1, 2, (30, 5)), rng.integers(2, 5, 30), rng.random(5) + 0.1
found = np.asarray(vote_shares(votes, n_options, weight))
for row, share, k in zip(votes, found, n_options):
    total = weight[row >= 0].sum()
    wanted = [weight[row == c].sum() / total if total else float(c < k) / k for c in range(found.shape[1])]
    check_array(share, wanted)
### END HIDDEN TESTS
print("Passed: A1.1")

# %% [markdown]
# ## 2 · M-step for accuracies
#
# **A1.2 · 2 points · 12 minutes**
#
# The accuracy of a function is the expected share of its votes that are right. A vote is right with the posterior
# probability of the option that it names. An abstention is a missing vote.
#
# A function with few votes needs a prior: add `strength` pseudo-votes, of which the share `expected` is right. With
# `strength` 0 this is the maximum-likelihood estimate of lesson 02.

# %% nbgrader={"grade": false, "grade_id": "a1-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def accuracy_step(votes, posterior, strength, expected):
    """Return the estimated accuracy of each labelling function: float [m].

    votes: int [n, m]. posterior: float [n, k]. strength: pseudo-votes per function, at least 0.
    expected: their accuracy.
    """
    ### BEGIN SOLUTION
    voted = votes >= 0
    right = np.take_along_axis(posterior, np.where(voted, votes, 0), 1) * voted
    return (right.sum(0) + strength * expected) / (voted.sum(0) + strength)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a1-2-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
votes = np.array([[0, -1], [1, -1], [-1, -1], [0, 0]])
posterior = np.array([[0.8, 0.2], [0.4, 0.6], [0.9, 0.1], [0.5, 0.5]])
check_array(accuracy_step(votes[:, :1], posterior, 0.0, 0.7), [19 / 30], {
    "abstention: it counts as a wrong vote": [0.475],
    "abstention: −1 is used as an index": [0.5],
    "hard labels: count posteriors, not most likely options": [1.0],
})
check_array(accuracy_step(votes, posterior, 2.0, 0.7), [0.66, 1.9 / 3], {
    "pseudo-votes: they are missing": [19 / 30, 0.5],
    "pseudo-votes: they are in the numerator only": [3.3 / 3, 1.9],
    "pseudo-votes: they are in the denominator only": [1.9 / 5, 0.5 / 3],
})
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
votes, posterior = rng.integers(-1, 3, (40, 4)), rng.dirichlet(np.ones(3), 40)
wanted = [(sum(posterior[i, v] for i, v in enumerate(column) if v >= 0) + 3.5) / (sum(column >= 0) + 5)
          for column in votes.T]
check_array(accuracy_step(votes, posterior, 5.0, 0.7), wanted)
### END HIDDEN TESTS
print("Passed: A1.2")

# %% [markdown]
# ## 3 · E-step for accuracies
#
# **A1.3 · 4 points · 25 minutes**
#
# If option c is right, function j votes for c with probability a_j, and for each of the other `n_options[i]` − 1 options
# with the same probability. All options are equally likely before the votes.
#
# A weight w is an exponent of the vote's likelihood: with w = ½, two equal votes count as one. Clip accuracies to
# {{clip}} … 1 − {{clip}}. Work with logarithms, because a product of thousands of probabilities is 0 in float64.

# %% nbgrader={"grade": false, "grade_id": "a1-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def one_coin_posterior(votes, n_options, accuracy, weight):
    """Return the posterior of each option given all votes: float [n, k].

    votes: int [n, m]. n_options: int [n]. accuracy: float [m], 0 to 1. weight: float [m], positive.
    """
    ### BEGIN SOLUTION
    options, a = np.arange(n_options.max()), np.clip(accuracy, {{clip}}, 1 - {{clip}})
    gain = weight * (np.log(a) - np.log(1 - a) + np.log(n_options[:, None] - 1))  # [n, m], of the option voted for
    log_odds = ((votes[:, :, None] == options) * gain[:, :, None]).sum(1)
    log_odds = np.where(options < n_options[:, None], log_odds, -np.inf)
    odds = np.exp(log_odds - log_odds.max(1, keepdims=True))
    return odds / odds.sum(1, keepdims=True)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a1-3-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
votes, n_options, accuracy = np.array([[0, 1, 1], [0, -1, -1]]), np.array([4, 3]), np.array([0.9, 0.4, 0.4])
found = one_coin_posterior(votes, n_options, accuracy, np.ones(3))
check_array(found, [[27 / 33, 4 / 33, 1 / 33, 1 / 33], [0.9, 0.05, 0.05, 0]], {
    "scale: 1 − accuracy is not divided among the wrong options": [[0.918367, 0.045351, 0.102041, 0.102041],
                                                                   [9 / 11, 1 / 11, 1 / 11, 0]],
    "mask: the second example has three options": [[27 / 33, 4 / 33, 1 / 33, 1 / 33], [18 / 21] + [1 / 21] * 3],
    "mask: the wrong options are those of the example, not of the widest one":
        [[27 / 33, 4 / 33, 1 / 33, 1 / 33], [27 / 29, 1 / 29, 1 / 29, 0]],
})
check_array(one_coin_posterior(votes[:1], n_options[:1], accuracy, np.array([1.0, 0.5, 0.5])),
            [[27 / 31, 2 / 31, 1 / 31, 1 / 31]], {"weight: it has no effect": [[27 / 33, 4 / 33, 1 / 33, 1 / 33]]})
many = one_coin_posterior(np.tile([[0, 1]], 2000), np.array([2]), np.full(4000, 0.3), np.ones(4000))
check_array(many, [[0.5, 0.5]])
check_array(one_coin_posterior(np.array([[0, 1]]), np.array([2]), np.array([1.0, 0.5]), np.ones(2)),
            [[1 - {{clip}}, {{clip}}]])
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
votes, n_options, weight = rng.integers(-1, 2, (20, 4)), rng.integers(2, 5, 20), rng.random(4) + 0.1
accuracy = rng.uniform(0.2, 0.9, 4)
found = np.asarray(one_coin_posterior(votes, n_options, accuracy, weight))
for row, p, k in zip(votes, found, n_options):
    joint = [np.prod([(a if v == c else (1 - a) / (k - 1)) ** w for v, a, w in zip(row, accuracy, weight) if v >= 0])
             for c in range(k)]
    check_array(p, np.pad(joint / np.sum(joint), (0, found.shape[1] - k)))
### END HIDDEN TESTS
print("Passed: A1.3")

# %% [markdown]
# ## 4 · The EM loop
#
# **A1.4 · 3 points · 15 minutes**
#
# Start with the vote shares as the posterior. A round is an M-step and then an E-step. Return the accuracies of the last
# M-step and the posterior of the last E-step.

# %% nbgrader={"grade": false, "grade_id": "a1-4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def fit_one_coin(votes, n_options, weight, strength, expected, rounds):
    """Return (accuracy, posterior) after `rounds` rounds of EM: float [m] and float [n, k].

    Arguments as in parts 1 to 3. rounds: int, at least 1.
    """
    ### BEGIN SOLUTION
    posterior = vote_shares(votes, n_options, weight)
    for _ in range(rounds):
        accuracy = accuracy_step(votes, posterior, strength, expected)
        posterior = one_coin_posterior(votes, n_options, accuracy, weight)
    return accuracy, posterior
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a1-4-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
def simulate(rng, accuracy, n, k=4, silent=0.3):
    """Return simulated votes [n, m] on examples with k options, and the right options [n]."""
    truth, shape = rng.integers(0, k, n), (n, len(accuracy))
    wrong = (truth[:, None] + rng.integers(1, k, shape)) % k
    votes = np.where(rng.random(shape) < accuracy, truth[:, None], wrong)
    return np.where(rng.random(shape) < silent, -1, votes), truth


true = np.array([0.9, 0.8, 0.7, 0.5, 0.4, 0.1])
votes, truth = simulate(np.random.default_rng(0), true, 3000)
given = (votes, np.full(3000, 4), np.ones(6), 2.0, 0.7)
one, two = fit_one_coin(*given, 1), fit_one_coin(*given, 2)
assert len(one) == 2, "type: return two values, accuracy and posterior"
first = accuracy_step(votes, vote_shares(*given[:3]), 2.0, 0.7)
check_array(one[0], first, {"order: the last step is an E-step": accuracy_step(votes, one[1], 2.0, 0.7)})
check_array(one[1], one_coin_posterior(votes, given[1], first, np.ones(6)))
check_array(two[0], accuracy_step(votes, one[1], 2.0, 0.7), {"off by one: a round is missing": one[0]})
error = np.abs(fit_one_coin(*given, 30)[0] - true).max()
assert error < 0.05, f"values: accuracies are wrong by up to {error:.2f} after 30 rounds on simulated votes"
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
votes, _ = simulate(rng, rng.uniform(0.3, 0.9, 5), 200)
posterior, weight = vote_shares(votes, np.full(200, 4), np.arange(1, 6) / 5), np.arange(1, 6) / 5
for _ in range(7):
    accuracy = accuracy_step(votes, posterior, 3.0, 0.6)
    posterior = one_coin_posterior(votes, np.full(200, 4), accuracy, weight)
for found, wanted in zip(fit_one_coin(votes, np.full(200, 4), weight, 3.0, 0.6, 7), (accuracy, posterior)):
    check_array(found, wanted)
### END HIDDEN TESTS
print("Passed: A1.4")

# %% [markdown]
# ## 5 · M-step for confusion matrices
#
# **A1.5 · 3 points · 20 minutes**
#
# Where labels mean the same in every example, a function has a confusion matrix: entry [c, v] is the probability that it
# votes v, given that it votes and the truth is c. Estimate it by counting votes, with posteriors in place of the truth.
#
# For each truth c add `strength` pseudo-votes: the share `expected` of them is for c, and the rest is divided equally
# among the other labels.

# %% nbgrader={"grade": false, "grade_id": "a1-5", "locked": false, "schema_version": 3, "solution": true, "task": false}
def confusion_step(votes, posterior, strength, expected):
    """Return the confusion matrix of each labelling function: float [m, k (truth), k (vote)].

    votes: int [n, m]. posterior: float [n, k]. strength: positive. expected: 0 to 1.
    """
    ### BEGIN SOLUTION
    k = posterior.shape[1]
    pseudo = strength * np.where(np.eye(k) == 1, expected, (1 - expected) / (k - 1))
    votes_for = (votes[:, :, None] == np.arange(k)).astype(float)
    counts = np.einsum("nc,njv->jcv", posterior, votes_for) + pseudo
    return counts / counts.sum(2, keepdims=True)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a1-5-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
votes, posterior = np.array([[0], [1], [-1]]), np.array([[0.8, 0.2], [0.5, 0.5], [0.9, 0.1]])
found = confusion_step(votes, posterior, 1.0, 0.75)
wanted = np.array([[[1.55 / 2.3, 0.75 / 2.3], [0.45 / 1.7, 1.25 / 1.7]]])
check_array(found, wanted, {
    "axis: truth and vote are exchanged": wanted.transpose(0, 2, 1),
    "axis: each truth's votes must sum to 1": [[[1.55 / 2, 0.75 / 2], [0.45 / 2, 1.25 / 2]]],
    "scale: the counts are not normalized": [[[1.55, 0.75], [0.45, 1.25]]],
    "abstention: −1 is used as an index": [[[1.55 / 3.2, 1.65 / 3.2], [0.45 / 1.8, 1.35 / 1.8]]],
    "pseudo-votes: they are missing": [[[0.8 / 1.3, 0.5 / 1.3], [0.2 / 0.7, 0.5 / 0.7]]],
})
three = confusion_step(np.array([[-1]]), np.ones((1, 3)) / 3, 5.0, 0.6)
check_array(three, [[[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.2, 0.2, 0.6]]])
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
votes, posterior = rng.integers(-1, 3, (30, 4)), rng.dirichlet(np.ones(3), 30)
wanted = np.array([[[posterior[votes[:, j] == v, c].sum() + 4.0 * (0.7 if c == v else 0.15) for v in range(3)]
                    for c in range(3)] for j in range(4)])
check_array(confusion_step(votes, posterior, 4.0, 0.7), wanted / wanted.sum(2, keepdims=True))
### END HIDDEN TESTS
print("Passed: A1.5")

# %% [markdown]
# ## 6 · E-step for confusion matrices
#
# **A1.6 · 3 points · 20 minutes**
#
# Now labels have a prior, which counts once for each example. The likelihood of a vote is an entry of the confusion
# matrix, with the weight of the function as its exponent.

# %% nbgrader={"grade": false, "grade_id": "a1-6", "locked": false, "schema_version": 3, "solution": true, "task": false}
def confusion_posterior(votes, prior, confusion, weight):
    """Return the posterior of each label given all votes: float [n, k].

    votes: int [n, m]. prior: float [k]. confusion: float [m, k (truth), k (vote)]. weight: float
    [m].
    """
    ### BEGIN SOLUTION
    log_joint = np.tile(np.log(prior), (len(votes), 1))
    for j, column in enumerate(votes.T):
        voted = column >= 0
        log_joint[voted] += weight[j] * np.log(confusion[j][:, column[voted]]).T
    joint = np.exp(log_joint - log_joint.max(1, keepdims=True))
    return joint / joint.sum(1, keepdims=True)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a1-6-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
prior, matrix = np.array([0.6, 0.4]), np.array([[[0.9, 0.1], [0.3, 0.7]]])
found = confusion_posterior(np.array([[1], [-1]]), prior, matrix, np.ones(1))
check_array(found, [[0.06 / 0.34, 0.28 / 0.34], [0.6, 0.4]], {
    "prior: it is missing": [[0.125, 0.875], [0.5, 0.5]],
    "prior: it counts twice": [[0.036 / 0.148, 0.112 / 0.148], [0.6, 0.4]],
    "axis: truth and vote are exchanged": [[0.18 / 0.46, 0.28 / 0.46], [0.6, 0.4]],
    "abstention: −1 is used as an index": [[0.06 / 0.34, 0.28 / 0.34]] * 2,
})
half = np.array([0.6 * 0.1**0.5, 0.4 * 0.7**0.5])
check_array(confusion_posterior(np.array([[1]]), prior, matrix, np.array([0.5])), [half / half.sum()],
            {"weight: it has no effect": found[:1]})
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
votes, prior, weight = rng.integers(-1, 3, (20, 4)), rng.dirichlet(np.ones(3)), rng.random(4) + 0.1
matrix = rng.dirichlet(np.ones(3) * 2, (4, 3))
for row, p in zip(votes, confusion_posterior(votes, prior, matrix, weight)):
    joint = prior * np.prod([matrix[j, :, v] ** weight[j] for j, v in enumerate(row) if v >= 0] or [np.ones(3)], 0)
    check_array(p, joint / joint.sum())
### END HIDDEN TESTS
print("Passed: A1.6")

# %% [markdown]
# ## 7 · Weights of look-alikes
#
# **A1.7 · 2 points · 15 minutes**
#
# Copies of a function are not independent, and they mislead EM, as lesson 02 shows. Here every function stays, and a
# family of look-alikes counts about as much as one function.
#
# Two functions are look-alikes if both vote on at least `min_shared` examples and never differ there. The weight of a
# function is 1 ÷ (1 + the number of its look-alikes). Look-alikes of its look-alikes do not count.

# %% nbgrader={"grade": false, "grade_id": "a1-7", "locked": false, "schema_version": 3, "solution": true, "task": false}
def family_weights(votes, min_shared):
    """Return the weight of each labelling function: float [m].

    votes: int [n, m]. min_shared: int, at least 1.
    """
    ### BEGIN SOLUTION
    m = votes.shape[1]
    alike = np.eye(m, dtype=bool)
    for i in range(m):
        for j in range(i):
            both = (votes[:, i] >= 0) & (votes[:, j] >= 0)
            alike[i, j] = alike[j, i] = both.sum() >= min_shared and (votes[both, i] == votes[both, j]).all()
    return 1 / alike.sum(1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a1-7-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
first = np.array([0, 1, 2, 0, 1, 2, -1, -1])
copy = np.where(np.arange(8) == 5, -1, first)  # 5 examples in common
similar = np.where(np.arange(8) == 0, 2, first)
silent = np.full(8, -1)
votes = np.stack([first, copy, similar, silent, silent], 1)
check_array(family_weights(votes, 5), [1 / 2, 1 / 2, 1, 1, 1], {
    "inverse: the weight is the size of the family": [2, 2, 1, 1, 1],
    "off by one: min_shared examples in common are enough": [1, 1, 1, 1, 1],
    "abstention: functions that are both silent do not agree": [1 / 2, 1 / 2, 1, 1 / 2, 1 / 2],
})
check_array(family_weights(votes, 6), np.ones(5), {"min_shared: it has no effect": [1 / 2, 1 / 2, 1, 1, 1]})
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
votes, _ = simulate(rng, np.array([0.8, 0.6, 0.5]), 80)
votes = np.concatenate([votes, np.where(rng.random((80, 3)) < 0.2, -1, votes[:, [1]])], 1)
check_array(family_weights(votes, 10), [1, 1 / 4, 1, 1 / 4, 1 / 4, 1 / 4])
### END HIDDEN TESTS
print("Passed: A1.7")

# %% [markdown]
# ## 8 · Calibration error
#
# **A1.8 · 2 points · 15 minutes**
#
# With bins of equal width, most examples can be in one bin. Use bins of equal size: sort the examples by confidence,
# lowest first, and divide them with `np.array_split`. The error is the mean over bins of |mean confidence − accuracy|,
# weighted by the number of examples in each bin. Confidence is the largest probability of an example.

# %% nbgrader={"grade": false, "grade_id": "a1-8", "locked": false, "schema_version": 3, "solution": true, "task": false}
def calibration_error(probs, gold, bins):
    """Return the calibration error, a number from 0 to 1.

    probs: float [n, k]. gold: int [n]. bins: int, at most n.
    """
    ### BEGIN SOLUTION
    order = np.argsort(probs.max(1), kind="stable")
    gap = (probs.max(1) - (probs.argmax(1) == gold))[order]
    return sum(abs(part.sum()) for part in np.array_split(gap, bins)) / len(gold)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a1-8-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
confidence, right = np.array([0.9, 0.5, 0.8, 0.6, 0.7]), np.array([1, 1, 1, 0, 0])
probs = np.stack([confidence, 1 - confidence], 1)  # bins: 0.5, 0.6, 0.7 with one right; 0.8, 0.9 with two right
check_array(calibration_error(probs, 1 - right, 2), (3 * (0.6 - 1 / 3) + 2 * 0.15) / 5, {
    "sign: gaps of opposite sign cancel": (3 * (0.6 - 1 / 3) - 2 * 0.15) / 5,
    "weight: bins of different size count the same": (0.6 - 1 / 3 + 0.15) / 2,
    "bins: they have equal width, not equal size": 0.1,
    "order: the bins do not follow the confidence": (3 * abs(2.2 / 3 - 1) + 2 * 0.65) / 5,
})
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
probs, gold = rng.dirichlet(np.ones(3), 90), rng.integers(0, 3, 90)
rows = sorted((max(p), float(np.argmax(p) == g)) for p, g in zip(probs, gold))
gaps = [abs(sum(c - r for c, r in rows[start:start + 9])) / 90 for start in range(0, 90, 9)]
check_array(calibration_error(probs, gold, 10), sum(gaps))
### END HIDDEN TESTS
print("Passed: A1.8")

# %% [markdown]
# ## 9 · Temperature
#
# **A1.9 · 2 points · 15 minutes**
#
# Temperature scaling (Guo and others, 2017) replaces p by p^(1/T), divided by its sum. T > 1 lowers the confidence. The
# best T has the lowest mean negative log-likelihood of the gold labels. Clip probabilities to at least {{clip}} first.

# %% nbgrader={"grade": false, "grade_id": "a1-9", "locked": false, "schema_version": 3, "solution": true, "task": false}
def temperature_losses(probs, gold, temperatures):
    """Return the mean negative log-likelihood at each temperature, in nats: float [t].

    probs: float [n, k]. gold: int [n]. temperatures: float [t], positive.
    """
    ### BEGIN SOLUTION
    losses = []
    for temperature in temperatures:
        p = np.maximum(probs, {{clip}}) ** (1 / temperature)
        losses.append(-np.log(p[np.arange(len(gold)), gold] / p.sum(1)).mean())
    return np.array(losses)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a1-9-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
found = temperature_losses(np.array([[0.8, 0.2]]), np.array([0]), np.array([1.0, 2.0, 0.5]))
wanted = -np.log([0.8, 2 / 3, 16 / 17])
check_array(found, wanted, {
    "inverse: the exponent is T where 1/T is needed": wanted[[0, 2, 1]],
    "scale: the powers do not sum to 1": -np.log(0.8) / [1, 2, 0.5],
})
mean = temperature_losses(np.array([[0.8, 0.2], [0.8, 0.2]]), np.array([0, 1]), np.array([1.0]))
check_array(mean, [-np.log(0.8 * 0.2) / 2], {"scale: a mean is wanted, not a sum": [-np.log(0.8 * 0.2)]})
zero = temperature_losses(np.array([[1.0, 0.0]]), np.array([1]), np.array([1.0]))
check_array(zero, [-np.log({{clip}})])
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
probs, gold, temperatures = rng.dirichlet(np.ones(3), 50), rng.integers(0, 3, 50), rng.uniform(0.5, 3, 4)
logits = np.log(np.maximum(probs, {{clip}})) / temperatures[:, None, None]
wanted = (np.logaddexp.reduce(logits, 2) - logits[:, np.arange(50), gold]).mean(1)
check_array(temperature_losses(probs, gold, temperatures), wanted)
### END HIDDEN TESTS
print("Passed: A1.9")

# %% [markdown]
# ## Your label model at work
#
# Three topics of the pool: drug classes, urgency and department. Questions on urgency have three options, the others four.
# The package's labelling functions vote, and so does the untrained model `tiny`.

# %%
from icft_lite import DawidSkene, Encoder, apply_lfs, load_base, sample_bundle
from icft_lite.modeling.scoring import option_scores
from icft_lite.weak.lfs.samples import sample_lfs

data, (base, tokenizer) = sample_bundle(), load_base(device="cpu")
encoder, topics = Encoder(tokenizer), ("drug_class", "urgency", "department")
pool = [dict(example) for example in data.pool if example["topic"] in topics]
for example, scores in zip(pool, option_scores(base, pool, encoder)):
    example["base_scores"] = scores.tolist()
votes = apply_lfs(sample_lfs(), pool)
voted = (votes >= 0).any(1)
pool, votes = [example for example, v in zip(pool, voted) if v], votes[voted][:, (votes >= 0).any(0)]
n_options = np.array([len(example["responses"]) for example in pool])
gold = np.array([data.pool_gold[example["id"]] for example in pool])  # for measuring only
ones = np.ones(votes.shape[1])

# %%
shares = vote_shares(votes, n_options, ones)
accuracy, posterior = fit_one_coin(votes, n_options, ones, 0.0, 0.7, 50)
package = DawidSkene(one_coin=True, n_iter=50, tol=0).fit(votes, n_options)
difference = np.abs(package.predict_proba(votes, n_options) - posterior).max()
for name, p in (("vote shares", shares), ("your label model", posterior)):
    print(f"{name:17} right {(p.argmax(1) == gold).mean():.3f}, error {calibration_error(p, gold, 10):.3f}")
print(f"largest difference from the package's DawidSkene: {difference:.1e}")

# %% [markdown]
# The difference must be below 1e-6. Now add four copies of the function `longest`, each silent on a fifth of the
# examples.

# %%
rng, copies = np.random.default_rng(0), np.repeat(votes[:, [0]], 4, 1)
copies[rng.random(copies.shape) < 0.2] = -1
tainted = np.concatenate([votes, copies], 1)
for name, weight in (("equal weights", np.ones(tainted.shape[1])), ("family weights", family_weights(tainted, 100))):
    _, p = fit_one_coin(tainted, n_options, weight, 0.0, 0.7, 50)
    print(f"{name:15} right {(p.argmax(1) == gold).mean():.3f}, mean confidence {p.max(1).mean():.3f}")

# %% [markdown]
# Confusion matrices next. In pairs, the labels mean the same in every example: 0, the first reply is better, or 1, the
# second. Your EM is parts 5 and 6 in turn.

# %%
pairs = [dict(example) for example in data.pool if example["task"] == "pair"]
cast = apply_lfs(sample_lfs(), pairs)
cast = cast[(cast >= 0).any(1)][:, (cast >= 0).any(0)]
best = vote_shares(cast, np.full(len(cast), 2), np.ones(cast.shape[1]))
for _ in range(50):
    prior, confusion = best.mean(0), confusion_step(cast, best, 1e-9, 0.7)
    best = confusion_posterior(cast, prior, confusion, np.ones(cast.shape[1]))
package = DawidSkene(n_iter=50, tol=0).fit(cast, 2).predict_proba(cast, 2)
print(f"{len(cast)} pairs, largest difference from the package: {np.abs(package - best).max():.1e}")

# %% [markdown]
# Last, the probabilities that `tiny` itself gives to the options of validation questions. One temperature, chosen on
# the first half, is tested on the second. **Predict**: `tiny` has not learned medicine. Is the temperature below 1, about
# 1, or far above 1?

# %%
asked = [dict(example) for example in data.validation if example["task"] == "question"]
asked = asked[::2] + asked[1::2]
probs = np.zeros((len(asked), 4))
for row, scores in zip(probs, option_scores(base, asked, encoder)):
    row[:len(scores)] = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
labels, half = np.array([example["label"] for example in asked]), len(asked) // 2
temperatures = np.geomspace(1, 100, 41)
best = temperatures[np.argmin(temperature_losses(probs[:half], labels[:half], temperatures))]
scaled = np.where(probs > 0, np.maximum(probs, {{clip}}) ** (1 / best), 0)
scaled /= scaled.sum(1, keepdims=True)
print(f"tiny is right on {(probs.argmax(1) == labels)[half:].mean():.2f} of the second half; temperature {best:.1f}")
for name, p in (("before", probs), ("after", scaled)):
    print(f"{name:6} mean confidence {p[half:].max(1).mean():.2f}, "
          f"calibration error {calibration_error(p[half:], labels[half:], 10):.2f}")

# %% [markdown]
# `tiny` is right about as often as by chance (one option in four, or in three), but its mean confidence is above 0.9.
# The best temperature is the largest that was tried, because no probabilities are better here than equal ones.
