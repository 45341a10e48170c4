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
# # Assignment 6 · A small study
#
# You register a question before you see a result, train `tiny` under two conditions with three seeds each, analyze the
# answers with your own statistics, and write what the study shows and what it does not show.
#
# **You need** lessons 01 and 09. **Time**: about 125 minutes.

# %% [markdown]
# | part | what you write | points | minutes |
# |---|---|---|---|
# | A6.1 | Power | 2 | 15 |
# | A6.2 | Registration | 4 | 20 |
# | A6.3 | Differences per question | 2 | 10 |
# | A6.4 | Stratified resamples | 3 | 20 |
# | A6.5 | Bootstrap test | 3 | 15 |
# | A6.6 | Interval over seeds | 2 | 10 |
# | A6.7 | Holm's correction | 3 | 15 |
# | A6.8 | Conclusion | 6 | 20 |

# %% [markdown]
# **Rules.** Replace `raise NotImplementedError` by your code or text. Do not rename functions, arguments or variables.
# Use NumPy and SciPy. The package's own statistics are not available while your work is graded.
#
# A check follows each part with code. It prints "Passed", or says what kind of error it found. Grading uses other
# inputs than the check. Your instructor marks the two texts by the rubrics shown here.
#
# At the end, restart the kernel, run all cells, save the notebook and hand it in. During grading, cells that compare your
# code with the package's fail. This costs no points.

# %% [markdown]
# The work of the computer in this assignment:
#
# {{budget}}

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
import hashlib
from statistics import NormalDist

import numpy as np
from scipy import stats

# %% [markdown]
# ## 1 · Power
#
# **A6.1 · 2 points · 15 minutes**
#
# Two models answer the same n questions. They differ on a share d of them, and the true difference of their accuracies
# is δ. One question adds +1, 0 or −1 to the difference, so its variance is d − δ², and the standard error of the
# estimated difference is √((d − δ²) / n).
#
# A two-sided test at {{level}} % finds a difference if the estimate is more than {{z}} standard errors from 0, on *either* side.
# Power is the probability of that, if estimates are normally distributed around δ.

# %% nbgrader={"grade": false, "grade_id": "a6-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def power(difference, share, n):
    """Return the probability that the test finds a difference, a float in 0 … 1.

    difference: float δ, positive or negative; share: float d > δ²; n: int, questions.
    `NormalDist().cdf(z)` is the probability that a standard normal number is below z.
    """
    ### BEGIN SOLUTION
    shift = difference / ((share - difference**2) / n) ** 0.5
    return NormalDist().cdf(shift - {{z}}) + NormalDist().cdf(-shift - {{z}})
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a6-1-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
found = power(0.05, 0.15, 400)
assert 0 <= found <= 1, f"range: a probability is between 0 and 1, found {found}"
assert power(0.05, 0.15, 1600) > found, "n: more questions must give more power"
assert power(0.10, 0.15, 400) > found, "difference: a larger difference must give more power"
assert power(0.05, 0.30, 400) < found, "variance: a larger share of differing answers must give less power"
assert abs(power(-0.05, 0.15, 400) - found) < 1e-9, "sign: δ and −δ have the same power"
assert abs(power(0.0, 0.15, 400) - {{level}} / 100) < 1e-4, "two-sided: without a difference, the test finds one in {{level}} % of studies"
assert abs(found - {{not_subtracted}}) > 5e-4, "variance: δ² is not subtracted"
assert abs(found - {{power}}) < 5e-4, f"values: found {found:.4f}, by hand {{power}} (the shift is 2.604 standard errors)"
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
for _ in range(3):
    d, n = float(rng.uniform(0.1, 0.4)), int(rng.integers(100, 900))
    delta = float(rng.uniform(0.02, d / 2))
    z = delta / ((d - delta**2) / n) ** 0.5
    wanted = stats.norm.sf({{z}} - z) + stats.norm.cdf(-{{z}} - z)
    assert abs(power(delta, d, n) - wanted) < 1e-4, "values: wrong on random inputs"
### END HIDDEN TESTS
print("Passed: A6.1")

# %% [markdown]
# ## 2 · Registration
#
# **A6.2 · 4 points · 20 minutes**
#
# The study trains `tiny` on medical questions and measures how much of its *general* knowledge is left: exact match on
# 332 general questions of 18 topics. Choose one of three conditions. Each compares two values of one setting, with all
# else equal. Set `CHOICE` to its name.

# %%
QUESTIONS = {  # name: (setting, value of arm A, value of arm B)
    "replay": ("long_term.share", 0.25, 0.0),
    "learning rate": ("optim.learning_rate", 1e-3, 4e-3),
    "rank": ("adapter.rank", 4, 32),
}
CHOICE = "learning rate"
NUM_QUESTIONS, SEEDS = 332, (0, 1, 2)
for share in (0.05, 0.10, 0.20):
    found = [f"{points} points {power(points / 100, share, NUM_QUESTIONS):.2f}" for points in (1, 2, 3, 4, 5)]
    print(f"if the arms differ on {share:.0%} of the questions, power for {', '.join(found)}")

# %% [markdown]
# Write the registration before you run anything below. One point each:
#
# | point | the text states |
# |---|---|
# | question | both values of the setting, the direction you expect, and why |
# | measure | one primary measure, the test set, seeds and number of questions |
# | power | the smallest difference that the study can see with a power of 0.8, and the share d that you assume |
# | rule | the decision rule in advance: p over questions, interval over seeds, and the words for each outcome |

# %% nbgrader={"grade": true, "grade_id": "a6-2", "locked": false, "points": 4, "schema_version": 3, "solution": true, "task": false}
REGISTRATION = ""
### BEGIN SOLUTION
REGISTRATION = """
Question: does a learning rate of 4e-3 (arm B) forget more general knowledge than 1e-3 (arm A)? We expect A to be
higher, because larger steps move the adapter farther from the base within the same number of tokens.
Measure: exact match on 332 general test questions, unweighted mean over 18 topics, seeds 0, 1 and 2 in both arms.
Power: if the arms differ on 10 % of the questions, 332 questions show {{planned}} points with a power of 0.8.
Rule: "clear" if p over questions is below 0.05 and the 95 % t-interval over seeds excludes 0; "these runs only" if
only p is below 0.05; otherwise "no difference measured", with the interval that the data allow.
"""
### END SOLUTION

# %% [markdown]
# The next cell prints a fingerprint of your text. Send it to your instructor, or commit the notebook, before you go on.
# Do not change the text afterwards: the fingerprint would change, too.

# %%
print("fingerprint of the registration:", hashlib.sha256(REGISTRATION.encode()).hexdigest()[:16])

# %% [markdown]
# ## 3 · Differences per question
#
# **A6.3 · 2 points · 10 minutes**
#
# Answers of several runs to one question are not independent. So each question becomes one number: the mean over the
# runs of arm A minus the mean over the runs of arm B. The arms may have different numbers of runs.

# %% nbgrader={"grade": false, "grade_id": "a6-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def question_differences(a, b):
    """Return the difference of the arms on each question: float array [questions].

    a: bool array [runs of arm A, questions], whether a run answers a question correctly; b: the
    same of arm B.
    """
    ### BEGIN SOLUTION
    return a.mean(0) - b.mean(0)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a6-3-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
first = np.array([[True, True, False, False], [True, False, False, False]])
second = np.array([[True, False, True, False]])
found = np.asarray(question_differences(first, second), float)
assert found.shape == (4,), f"shape: 4 questions give the shape (4,), found {found.shape}"
assert found.tolist() != [0.0, -0.5, 1.0, 0.0], "sign: this is arm B minus arm A"
assert found.tolist() != [1.0, 1.0, -1.0, 0.0], "mean: these are differences of sums over the runs"
assert found.tolist() == [0.0, 0.5, -1.0, 0.0], f"values: found {found.tolist()}, by hand 0, 0.5, −1, 0"
### BEGIN HIDDEN TESTS
a, b = np.random.random((3, 20)) < 0.7, np.random.random((2, 20)) < 0.4
wanted = [x.mean() - y.mean() for x, y in zip(a.T, b.T)]
assert np.allclose(question_differences(a, b), wanted), "values: wrong on random inputs"
### END HIDDEN TESTS
print("Passed: A6.3")

# %% [markdown]
# ## 4 · Stratified resamples
#
# **A6.4 · 3 points · 20 minutes**
#
# The bootstrap asks how the result would vary with other questions. It draws as many questions again, *with*
# replacement. Our score is a mean over topics, so the draw keeps the topics: the question at position j is replaced by
# a random question of the *same topic*, drawn for each position on its own. All questions of the topic, itself included,
# are equally likely.

# %% nbgrader={"grade": false, "grade_id": "a6-4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def stratified_resamples(topics, times, seed):
    """Return indices of the questions of each resample: int array [times, questions].

    topics: int array [questions]. times: int, number of resamples. seed: int, of
    `np.random.default_rng`.
    """
    ### BEGIN SOLUTION
    rng = np.random.default_rng(seed)
    resamples = np.empty((times, len(topics)), int)
    for topic in np.unique(topics):
        own = np.flatnonzero(topics == topic)
        resamples[:, own] = rng.choice(own, (times, len(own)))
    return resamples
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a6-4-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
topics = np.array([3, 0, 3, 0, 3, 3, 0, 3, 3, 3])
found = np.asarray(stratified_resamples(topics, 500, 0))
assert found.shape == (500, 10), f"shape: 500 resamples of 10 questions, found {found.shape}"
assert found.dtype.kind in "iu", "type: the indices must be integers"
assert found.min() >= 0 and found.max() < 10, "range: an index must be from 0 to the number of questions minus 1"
assert (topics[found] == topics).all(), "topic: a question was replaced by one of another topic"
assert len(np.unique(found, axis=0)) > 1, "random: all resamples are equal"
distinct = np.mean([len(set(row)) for row in found.tolist()])
assert distinct < 9.5, "replacement: each question occurs once in each resample; draw with replacement"
assert distinct > 5.5, "independent: too few different questions in a resample; draw each position by itself"
assert np.bincount(found.ravel(), minlength=10).min() > 0, "off by one: a question is never drawn"
assert np.bincount(found.ravel()).min() > 400, "uniform: a question is drawn too rarely"
assert (found == stratified_resamples(topics, 500, 0)).all(), "seed: the same seed must give the same resamples"
assert (found != stratified_resamples(topics, 500, 1)).any(), "seed: another seed must give other resamples"
### BEGIN HIDDEN TESTS
topics = np.random.randint(0, 4, 40)
found = np.asarray(stratified_resamples(topics, 1000, 5))
counts = np.bincount(found.ravel(), minlength=40)
assert (topics[found] == topics).all() and (abs(counts - 1000) < 200).all(), "uniform: wrong on random topics"
distinct = np.mean([len(set(row)) for row in found.tolist()])
expected = sum(m * (1 - (1 - 1 / m) ** m) for m in np.bincount(topics) if m)
assert abs(distinct - expected) < 1, "replacement: wrong on random topics"
found = np.asarray(stratified_resamples(np.repeat([0, 1], 20), 500, 5))
assert (found[:, :20] + 20 == found[:, 20:]).mean() < 0.5, "independent: both topics get the same draws"
### END HIDDEN TESTS
print("Passed: A6.4")

# %% [markdown]
# ## 5 · Bootstrap test
#
# **A6.5 · 3 points · 15 minutes**
#
# The estimate is the unweighted mean over topics of the topics' mean differences. Compute the same for each resample.
#
# - The 95 % interval goes from the 0.025-quantile to the 0.975-quantile of the resampled values (`np.quantile`).
# - Let k be the number of resampled values on the rarer side of 0, values of exactly 0 counted on both sides. The
#   two-sided p-value is 2·(k + 1) / (times + 1), but at most 1. The + 1 says that p is never 0.

# %% nbgrader={"grade": false, "grade_id": "a6-5", "locked": false, "schema_version": 3, "solution": true, "task": false}
def bootstrap_test(difference, topics, resamples):
    """Return (estimate, low, high, p), four floats.

    difference: float array [questions]; topics: int array [questions]; resamples: int array [times,
    questions], as `stratified_resamples` returns it.
    """
    ### BEGIN SOLUTION
    def score(values):
        return np.mean([values[..., topics == topic].mean(-1) for topic in np.unique(topics)], axis=0)

    values = score(difference[resamples])
    k = min((values <= 0).sum(), (values >= 0).sum())
    low, high = np.quantile(values, [0.025, 0.975])
    return float(score(difference)), float(low), float(high), float(min(1.0, 2 * (k + 1) / (len(values) + 1)))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a6-5-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
difference, topics = np.array([1.0, 0.0, -1.0, 0.0, 1.0]), np.array([0, 0, 0, 0, 1])
fixed = np.array([[0, 0, 1, 1, 4], [2, 2, 2, 2, 4], [0, 1, 2, 3, 4], [0, 0, 0, 0, 4]])  # resampled: 0.75, 0, 0.5, 1
result = bootstrap_test(difference, topics, fixed)
assert len(result) == 4, f"shape: return four numbers, found {len(result)}"
estimate, low, high, p = (float(x) for x in result)
assert abs(estimate - 0.2) > 1e-9, "topic: this is the mean over questions; each topic has the same weight"
assert abs(estimate - 0.5) < 1e-9, f"topic: the estimate is {estimate:.3f}, by hand (0 + 1) ÷ 2 = 0.5"
assert low < high, "order: the lower bound must be below the upper bound"
bounds = f"{low:.4f} … {high:.4f}, by hand 0.0375 … 0.9812"
assert abs(low - 0.0375) < 1e-6 and abs(high - 0.98125) < 1e-6, f"quantile: {bounds}"
assert abs(p - 0.5) > 1e-9, "zero: p is never 0; add 1 to the count and to the number of resamples"
assert abs(p - 0.4) > 1e-9, "two-sided: multiply by 2, and count the value of exactly 0 on both sides"
assert abs(p - 0.8) < 1e-9, f"p: found {p:.3f}; by hand k = 1 (the value 0), and 2 · 2 ÷ 5 = 0.8"
p = bootstrap_test(0 * difference, topics, fixed)[3]  # all values are 0, so k = 4
assert p == 1, f"range: p is at most 1, found {p:.3f} where 2 · 5 ÷ 5 is 2"
### BEGIN HIDDEN TESTS
from icft_lite.statistics import paired_bootstrap

difference, topics = np.random.normal(0.2, 1, 60), np.arange(60) % 4
wanted = paired_bootstrap(difference, 0 * difference, topics, n_resamples=4000)
found = bootstrap_test(difference, topics, stratified_resamples(topics, 4000, 1))
gap = np.abs(np.array(found) - wanted)  # other resamples: five standard deviations are allowed
assert gap[:3].max() < 0.05 and gap[3] < 0.12, "values: not the package's"
### END HIDDEN TESTS
print("Passed: A6.5")

# %% [markdown]
# ## 6 · Interval over seeds
#
# **A6.6 · 2 points · 10 minutes**
#
# The bootstrap holds the runs fixed. Would other seeds agree? Arm A and arm B have a run with each seed, so take the
# difference of each pair of runs. From n differences with mean m and standard deviation s (computed with n − 1),
# Student's 95 % interval is m ± t · s / √n, where t is the 0.975-quantile of the t-distribution with n − 1 degrees of
# freedom (`stats.t.ppf`).

# %% nbgrader={"grade": false, "grade_id": "a6-6", "locked": false, "schema_version": 3, "solution": true, "task": false}
def seed_interval(scores_a, scores_b):
    """Return (mean difference, low, high), three floats.

    scores_a, scores_b: float arrays [seeds], the scores of the runs of arm A and arm B in the same
    order of seeds.
    """
    ### BEGIN SOLUTION
    difference = np.asarray(scores_a) - np.asarray(scores_b)
    n = len(difference)
    half = stats.t.ppf(0.975, n - 1) * difference.std(ddof=1) / n**0.5
    return difference.mean(), difference.mean() - half, difference.mean() + half
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a6-6-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
result = seed_interval(np.array([0.9, 0.8, 0.7]), np.array([0.8, 0.6, 0.4]))  # differences 0.1, 0.2, 0.3: s = 0.1
assert len(result) == 3, f"shape: return three numbers, found {len(result)}"
mean, low, high = (float(x) for x in result)
half = (high - low) / 2
assert abs(mean + 0.2) > 1e-9, "sign: this is arm B minus arm A"
assert abs(mean - 0.2) < 1e-9 and abs((low + high) / 2 - mean) < 1e-9, "mean: the interval must be centered on 0.2"
assert abs(half - 0.2028) > 1e-3, "ddof: the standard deviation must be computed with n − 1"
assert abs(half - 0.1132) > 1e-3, "quantile: 1.96 is the normal distribution's; take Student's t"
assert abs(half - 0.4303) > 1e-3, "root: s must be divided by √n"
assert abs(half - 0.2484) < 1e-3, f"quantile: the half-width is {half:.4f}, by hand 4.303 · 0.1 ÷ √3 = 0.2484"
### BEGIN HIDDEN TESTS
a, b = np.random.random((2, 5))
wanted = stats.ttest_rel(a, b).confidence_interval(0.95)
assert np.allclose(seed_interval(a, b)[1:], wanted), "values: wrong on random inputs"
### END HIDDEN TESTS
print("Passed: A6.6")

# %% [markdown]
# ## 7 · Holm's correction
#
# **A6.7 · 3 points · 15 minutes**
#
# If there are no differences, twenty comparisons at 5 % find one on average. With Holm's adjusted p-values, the
# probability of finding even one is at most 5 %. Of m p-values, the smallest is multiplied by m, the second smallest by
# m − 1, …, the largest by 1. An adjusted value is never below the adjusted value of a smaller p, and never above 1.

# %% nbgrader={"grade": false, "grade_id": "a6-7", "locked": false, "schema_version": 3, "solution": true, "task": false}
def holm(p_values):
    """Return the adjusted p-values, in the order of `p_values`: float array [m].

    p_values: float array [m].
    """
    ### BEGIN SOLUTION
    order = np.argsort(p_values)
    adjusted = np.empty(len(order))
    highest = 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(order) - rank) * p_values[at]))
        adjusted[at] = highest
    return adjusted
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a6-7-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
found = np.asarray(holm(np.array([0.04, 0.01, 0.60, 0.03, 0.55])), float)
assert found.shape == (5,), f"shape: 5 p-values give 5 adjusted ones, found {found.shape}"
assert found.max() <= 1, "range: an adjusted p-value is at most 1"
assert not np.allclose(found, [0.20, 0.05, 1.0, 0.15, 1.0]), "factor: this is Bonferroni's correction"
assert not np.allclose(np.sort(found), found), "order: return the values in the order of the input"
assert abs(found[1] - 0.05) < 1e-9, f"factor: the smallest p-value becomes {found[1]:.3f}, by hand 5 · 0.01"
assert abs(found[3] - 0.12) < 1e-9, f"off by one: the second smallest p-value becomes {found[3]:.3f}, by hand 4 · 0.03"
assert found[2] >= found[4], "monotone: an adjusted value is below that of a smaller p-value"
assert np.allclose(found, [0.12, 0.05, 1.0, 0.12, 1.0]), f"values: found {found.round(3).tolist()}"
### BEGIN HIDDEN TESTS
from icft_lite import statistics

p = np.random.random(9) ** 2
assert np.allclose(holm(p), statistics.holm(p)), "values: wrong on random inputs"
### END HIDDEN TESTS
print("Passed: A6.7")

# %% [markdown]
# ## The study
#
# There is nothing to write here. Six runs of 3,000 tokens: two arms, three seeds. Then each run answers the general
# questions.

# %%
import dataclasses
import tempfile
import warnings
from pathlib import Path

from icft_lite import evaluate_suite, load_run, sample_bundle, train_icft

warnings.simplefilter("ignore", FutureWarning)
data = sample_bundle()
short = [i for i, topic in enumerate(data.trusted["topic"][:]) if topic != "reply"]
small = dataclasses.replace(
    data, trusted=data.trusted.select(short[::4]), pool=None, validation=None, general_validation=None,
    test=data.test.select(range(8)), general_test=data.general_test.select(range(8)),
    general_memory=data.general_memory.shuffle(seed=0).select(range(200)))
shared = {"optim.max_tokens": 3000, "optim.batch_size": 16, "curriculum.signals": "length",
          "curriculum.order": "random", "long_term.self_prompts": 0, "consolidation.enabled": False}
questions = data.general_test.select(range(0, len(data.general_test), len(data.general_test) // NUM_QUESTIONS))
topics = np.unique(questions["topic"][:], return_inverse=True)[1]


# %%
def answers(setting, value, seed):
    """Train one run. Returns which of the general questions it answers correctly: bool array [questions]."""
    with tempfile.TemporaryDirectory() as folder:
        train_icft({**shared, setting: value, "seed": seed}, Path(folder) / "run", small, progress=False)
        model, tokenizer = load_run(Path(folder) / "run")
    scores = evaluate_suite(model, tokenizer, {"general": questions}, items=True)["general"]["qa"]["items"]
    return np.array([scores[name] for name in questions["id"][:]]) > 0


def topic_mean(right):
    """The score of a run: the unweighted mean over topics."""
    return np.mean([right[topics == topic].mean() for topic in np.unique(topics)])


setting, *values = QUESTIONS[CHOICE]
a, b = (np.stack([answers(setting, value, seed) for seed in SEEDS]) for value in values)
for name, value, arm in zip("AB", values, (a, b)):
    print(f"arm {name}, {setting} = {value}: {', '.join(f'{topic_mean(run):.3f}' for run in arm)}")

# %%
difference = question_differences(a, b)
estimate, low, high, p = bootstrap_test(difference, topics, stratified_resamples(topics, 2000, 0))
mean, seeds_low, seeds_high = seed_interval(*(np.array([topic_mean(run) for run in arm]) for arm in (a, b)))
print(f"A − B: {100 * estimate:+.1f} points; 95 % over questions {100 * low:+.1f} … {100 * high:+.1f}, p = {p:.4f}")
print(f"95 % over seeds {100 * seeds_low:+.1f} … {100 * seeds_high:+.1f}")
print(f"the arms differ on {np.mean(difference**2):.3f} of the questions (seeds averaged)")

# %% [markdown]
# The package's `paired_bootstrap` on the same answers. It draws other resamples, so the bounds agree to some tenths of
# a point, not exactly.

# %%
from icft_lite.statistics import paired_bootstrap

package = paired_bootstrap(a, b, topics, n_resamples=2000)
print(f"package: {100 * package.difference:+.1f} points, {100 * package.low:+.1f} … {100 * package.high:+.1f}, "
      f"p = {package.p_value:.4f}")

# %% [markdown]
# Your functions on the study of lesson 09: ICFT against eight methods on the general test, with Holm's correction over
# the eight comparisons.

# %%
from icft_lite.experiments.study import answers_of, load_study

study = load_study()
groups = np.unique(study["tests"]["general"]["topic"], return_inverse=True)[1]
others = [method for method in dict.fromkeys(run["method"] for run in study["runs"]) if method != "icft"]
draws = stratified_resamples(groups, 2000, 0)
icft = answers_of(study, "icft", "general")
tests = [bootstrap_test(question_differences(icft, answers_of(study, method, "general")), groups, draws)
         for method in others]
for method, test, adjusted in zip(others, tests, holm(np.array([test[3] for test in tests]))):
    print(f"ICFT − {method:14} {100 * test[0]:+6.1f} points, p = {test[3]:.4f}, after Holm {adjusted:.4f}")

# %% [markdown]
# ## 8 · Conclusion
#
# **A6.8 · 6 points · 20 minutes**
#
# Write at most 250 words about *your* study, for a reader who knows the registration. One point each:
#
# | point | the text |
# |---|---|
# | answer | answers the registered question with the registered words, and nothing stronger |
# | numbers | gives the estimate in points with both intervals and p, each with what it covers |
# | deviations | says what differs from the registration, or that nothing does |
# | size | says whether the difference would matter, not only whether it is significant |
# | limits | names two things that the study cannot show, such as other models, tasks, budgets or settings |
# | next | proposes the next study, with the number of questions or seeds that its power requires |

# %% nbgrader={"grade": true, "grade_id": "a6-8", "locked": false, "points": 6, "schema_version": 3, "solution": true, "task": false}
CONCLUSION = ""
### BEGIN SOLUTION
CONCLUSION = """
Arm A (1e-3) retained more general knowledge than arm B (4e-3): +11.4 points of exact match, 95 % over questions +8.8 to
+14.1 (p = 0.001, which covers other questions for these runs) and over three seeds +4.9 to +17.8 (which covers other
runs on these questions). By the registered rule the result is "clear". Nothing differs from the registration.
A loss of this size after 3,000 tokens matters: the base answers nearly all of these questions.
The study cannot show that 1e-3 is better overall, because it did not measure what was learned, and it says nothing
about other models or longer budgets.
Next: both rates at an equal medical score, with five seeds and 664 questions, which show 3.5 points with a power of 0.8
if the arms differ on 10 % of the questions.
"""
### END SOLUTION
