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
# # 09 · Does it work?
#
# ICFT has many components. Is each worth its cost, or would less do as well? Here you analyze a study: many methods on
# the same data, seeds repeated, every test question's answer recorded. You learn to distinguish a difference from
# chance, and to say plainly where none was measured.

# %% [markdown]
# **You will be able to**
#
# - name the two sources of chance in a comparison, and give an interval for each;
# - compare two models on the same questions: paired bootstrap, McNemar; several of them: Holm;
# - say before an experiment how small a difference it could see;
# - read an ablation as a forest plot, and report what was not clear.
#
# **You need** lessons 00, 01 and 08; of the method's components, what lessons 02 to 06 say.

# %% [markdown]
# {{budget}}
#
# Run the cells from top to bottom. Where the text says **predict**, write down a guess first.
#
# The paper's own data and tables are not public, so this is a study of *our reading* of it, on our samples.
# Teaching material: **not medical advice**.

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
import dataclasses
import math
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from IPython.display import Image
from matplotlib import rc_context
from matplotlib.figure import Figure
from scipy import stats

from icft_lite import Encoder, ICFTConfig, ICFTError, load_run, sample_bundle, train_icft
from icft_lite.experiments.study import answers_of, load_study
from icft_lite.modeling.scoring import option_scores
from icft_lite.reporting.figures import LABELS
from icft_lite.reporting.style import GREY, INK, RC, STYLES, png
from icft_lite.statistics import binomial_interval, holm, mcnemar_exact, mean_interval, paired_bootstrap
from icft_lite.utils.config_parsing import flatten
from icft_lite.utils.hardware import peak_memory

warnings.simplefilter("ignore", FutureWarning)
pd.set_option("display.max_colwidth", None)


def canvas(panels, size, **options):
    with rc_context(RC):
        figure = Figure(figsize=size)
        return figure, figure.subplots(1, panels, squeeze=False, **options).ravel()


# %% [markdown]
# ## 1 · The study
#
# Training every method with three seeds took an hour and a half on two cores, so it was done once and its record comes
# with the package.
#
# Its ICFT had the ring and, with soft labels, L_task. Since neither had a measured benefit here, both are off by
# default now. Two commands make such a study with today's defaults:
#
# ```
# icft-lite compare --methods icft qlora replay no_ltm ring soft_labels no_curriculum majority_vote gold \
#     --set topics= --set optim.max_tokens=350000 --seeds 3 --out runs/study
# python scripts/pack_study.py runs/study
# ```

# %%
study = load_study()
runs = pd.DataFrame(study["runs"])
methods = list(dict.fromkeys(runs.method))
if study["note"]:
    print("NOTE:", study["note"])
if not study["current"]:
    print("CAREFUL: this record was measured on another base than the one that comes with the package.")
versions = study["conditions"]["versions"]
print(f"{len(methods)} methods, {runs.seed.nunique()} seeds; training tokens a run: "
      f"{runs.tokens.min():,} to {runs.tokens.max():,}")
print("questions:", {name: len(test["topic"]) for name, test in study["tests"].items()})
print("machine:", study["conditions"]["machine"])
print("versions:", {name: versions[name] for name in ("torch", "transformers", "peft", "bitsandbytes")})

# %%
# NBVAL_CHECK_OUTPUT
print("measured on the base that comes with the package:", study["current"])
print("every run answered every question:", all(
    len(run["right"][name]) == len(test["topic"]) for run in study["runs"] for name, test in study["tests"].items()))

# %% [markdown]
# An **ablation** removes one component, or replaces it, and leaves the rest unchanged. The methods, by the settings in
# which they differ from ICFT:

# %%
pd.DataFrame([dict(method=LABELS.get(name, name), **{"differs from ICFT in": ", ".join(
    f"{key} = {value}" for key, value in study["conditions"]["methods"][name].items()) or "–"}) for name in methods])

# %% [markdown]
# `gold` trains on the pool's true labels: not a rival, but what perfect labels would be worth. The means over the
# seeds, the way results are too often shown:

# %%
table = runs.groupby("method", sort=False)[["medical", "general", "retention", "preference", "reply"]].mean()
table.loc["base"] = dict(medical=study["base"]["medical"], general=study["base"]["general"], retention=1.0,
                         preference=study["base"]["preference"])
table.round(3)

# %% [markdown]
# **Predict.** Which of these differences would show again if we repeated it all: with other seeds, and with other
# questions?

# %% [markdown]
# ## 2 · Chance, first: seeds
#
# A seed decides the adapter's first values and the order of examples. Another seed, another score. From n scores with
# mean m and standard deviation s, **Student's t-interval** is m ± t · s / √n. The factor t pays for guessing s from
# few values.
#
# **Predict**: does t rise or fall with more seeds? And what is it for very many? (Lesson 08's interval has that
# number.)

# %%
# NBVAL_CHECK_OUTPUT
for n in (2, 3, 5, 10, 10**6):
    print(f"{n:8,} seeds: t = {stats.t.ppf(0.975, n - 1):5.2f}")
three = [0.50, 0.54, 0.58]  # mean 0.54, s = 0.04
half = 4.303 * 0.04 / math.sqrt(3)
ours = mean_interval(three)
print(f"by hand 0.540 ± {half:.3f}; package {ours.mean:.3f} ± {ours.high - ours.mean:.3f}")

# %% [markdown]
# Two seeds give hardly an interval at all, three a wide one; five are a good deal better than three. The dots are
# runs, the bars t-intervals:


# %%
def look(method):
    """(color, marker) of a method, the same in all figures."""
    return STYLES[methods.index(method) % len(STYLES)]


figure, axes = canvas(2, (10, 0.5 * len(methods) + 1.6), sharey=True)
for axis, measure in zip(axes, ("medical", "general")):
    for i, method in enumerate(methods):
        values, (color, marker) = runs[runs.method == method][measure], look(method)
        interval = mean_interval(values)
        if len(values) > 1:
            axis.plot([max(0, interval.low), min(1, interval.high)], [i, i], color=color, linewidth=2)
        axis.plot(values, [i] * len(values), marker, color=color, markersize=6, alpha=0.8)
    axis.axvline(study["base"][measure], color=INK, linewidth=1, linestyle=":")
    axis.set(xlim=(-0.02, 1.02), xlabel=f"{measure} exact match (0–1); dotted: base")
axes[0].set_yticks(range(len(methods)), [LABELS.get(name, name) for name in methods])
axes[0].invert_yaxis()
axes[0].set_title(f"Each run, with 95 % t-intervals over {runs.seed.nunique()} seeds", loc="left")
Image(png(figure), width=800)

# %% [markdown]
# ## 3 · Chance, second: questions
#
# The test is a sample too: other questions would have given another score. For one model and n questions, a share p
# right has the **standard error** √(p(1−p)/n), which is how far it typically is from the truth; ± 1.96 of them are
# a 95 % interval.
#
# **Predict.** With 500 questions and half of them right: plus or minus how many points? (A point is 0.01.) And the
# difference of two such models, each with 500 questions of its own?


# %%
# NBVAL_CHECK_OUTPUT
def unpaired(p, n, z=1.96):
    """Half-width of the 95 % interval of a difference of two models at accuracy p, on n questions each."""
    return z * math.sqrt(2 * p * (1 - p) / n)


low, high = binomial_interval(250, 500, method="wilson")
print(f"one score at 0.5: ± {100 * 1.96 * math.sqrt(0.25 / 500):.1f} points (Wilson: {low:.3f} to {high:.3f})")
for p in (0.5, 0.85):
    print(f"an unpaired difference at {p}: ± {100 * unpaired(p, 500):.1f} points")

# %% [markdown]
# So with 500 questions nobody can claim a gain of one point that way. But we can do better, for all our models answer
# the *same* questions.

# %% [markdown]
# ## 4 · Pair by question
#
# **By hand.** Of 100 questions A gets 60 right, B 55; both get 50. So A alone is right on 10, B alone on 5. The 85 on
# which they agree say nothing about who is better: they are *easy for both* or *hard for both*.
#
# Write d for the share on which they differ (0.15) and δ for the difference (0.05). A question adds +1, −1 or 0 to
# the difference, so its variance is d − δ².

# %%
# NBVAL_CHECK_OUTPUT
a = np.array([1] * 50 + [1] * 10 + [0] * 5 + [0] * 35)
b = np.array([1] * 50 + [0] * 10 + [1] * 5 + [0] * 35)
paired_half = 1.96 * math.sqrt((0.15 - 0.05**2) / 100)
unpaired_half = 1.96 * math.sqrt(0.60 * 0.40 / 100 + 0.55 * 0.45 / 100)
print(f"paired ± {paired_half:.3f}, from the answers ± {1.96 * (a - b).std() / 10:.3f}; unpaired ± {unpaired_half:.3f}")

# %% [markdown]
# Pairing made the interval almost half as wide, at no cost. The **bootstrap** does the same without a formula:
# draw as many questions again, with repeats, take the mean difference; do so some thousand times; the middle 95 % is
# the interval.


# %% tags=["from-scratch"]
def bootstrap(difference, times=2000, seed=0):
    """95 % percentile interval of the mean of per-question differences [n]."""
    draw, n = np.random.default_rng(seed), len(difference)
    means = [difference[draw.integers(0, n, n)].mean() for _ in range(times)]
    return np.quantile(means, [0.025, 0.975])


# %%
# NBVAL_CHECK_OUTPUT
mine, package = bootstrap(a - b), paired_bootstrap(a, b, n_resamples=2000)
print("difference:", round(package.difference, 3))
print("the two agree to about a point:", bool(np.allclose(mine, [package.low, package.high], atol=0.011)))
print("and with the formula to one:", bool(abs((package.high - package.low) / 2 - paired_half) < 0.01))

# %% [markdown]
# Does the interval exclude 0 here? No. Then the honest words are **no difference measured**. They do not mean "no
# difference": look how far the interval reaches.
#
# Now the study's own numbers, ICFT against each other method on the medical test:

# %%
others = [method for method in methods if method != "icft"]
pairs = {}
for method in others:
    x, y = answers_of(study, "icft", "medical").mean(0), answers_of(study, method, "medical").mean(0)
    pairs[LABELS[method]] = {"differ": np.mean(abs(x - y)), "paired ±": 1.96 * (x - y).std() / len(x)**0.5,
                             "unpaired ±": 1.96 * ((x.var() + y.var()) / len(x))**0.5}
pd.DataFrame(pairs).T.round(3)

# %% [markdown]
# ## 5 · Over what to resample
#
# Three seeds times 800 questions are 2,400 answers. Tempting: 2,400 pairs! But three seeds' answers to *one* question
# are not three independent pieces of news: the question may suit a method. And all answers of *one run* share that
# run's luck.
#
# We can try it. A simulated world: two methods **equally good**, 300 questions, three seeds. Four ways to analyze it,
# and the last two combined; how often does each find a difference? Each time is a **false positive**, and it should be
# 1 in 20.


# %% tags=["from-scratch"]
def worlds(effect=0.0, suits=2.5, luck=0.0, count=1000, n=300, seeds=3):
    """Right or wrong, bool [worlds, 2 methods, seeds, n]. On the logit scale: `effect` of the first method; how much
    a question `suits` a method by chance; the `luck` of a run."""
    draw = np.random.default_rng(0)
    logit = (draw.normal(0, 1.5, (count, 1, 1, n)) + draw.normal(0, suits, (count, 2, 1, n))
             + draw.normal(0, luck, (count, 2, seeds, 1)) + effect * np.array([1, 0])[:, None, None])
    return draw.random((count, 2, seeds, n)) < 1 / (1 + np.exp(-logit))


def alarms(right):
    """How often each analysis finds a difference at 95 %: {analysis: share of worlds}."""
    a, b = right[:, 0].astype(float), right[:, 1].astype(float)
    seeds, n = a.shape[1:]
    d, mean = a - b, (a - b).mean((1, 2))
    found = {"pairs: seeds × questions as independent": abs(mean) > 1.96 * d.std((1, 2)) / (seeds * n)**0.5,
             "unpaired questions": abs(mean) > 1.96 * ((a.mean(1).var(1) + b.mean(1).var(1)) / n)**0.5,
             "questions, seeds averaged": abs(mean) > 1.96 * d.mean(1).std(1) / n**0.5,
             "seeds, questions averaged": abs(mean) > stats.t.ppf(0.975, seeds - 1) * d.mean(2).std(1, ddof=1)
             / seeds**0.5}
    found["both of the last two"] = found["questions, seeds averaged"] & found["seeds, questions averaged"]
    return {name: share.mean() for name, share in found.items()}


# %% [markdown]
# **Predict.** Which analysis has too many false positives if questions suit methods by chance? Which if runs have
# luck? And which finds a real difference most often?

# %%
tried = pd.DataFrame({"equal; questions suit by chance": alarms(worlds()),
                      "equal; runs have luck": alarms(worlds(suits=0.3, luck=0.3)),
                      "first is better": alarms(worlds(effect=0.45, suits=0.3))})
tried.round(3)

# %%
# NBVAL_CHECK_OUTPUT
suits, luck, better = (tried[column] for column in tried)
print("pairs: over 1.5 times as many false positives as allowed:", bool(suits.iloc[0] > 0.075))
print("questions are right there, within 2 points:", bool(abs(suits["questions, seeds averaged"] - 0.05) < 0.02))
print("where runs have luck, questions have too many; seeds are right:", bool(luck["questions, seeds averaged"] > 0.15),
      bool(abs(luck["seeds, questions averaged"] - 0.05) < 0.025))
print("both together never have too many:", bool(max(suits.iloc[4], luck.iloc[4]) < 0.065))
print("pairing finds more than not pairing:", bool(better.iloc[2] > better.iloc[1] + 0.05))

# %% [markdown]
# So: resampling *questions* answers "would it hold on other questions, for these runs?"; the *seeds'* t-interval
# answers "would it hold for other runs, on these questions?". No single one answers both. Asking for both is safe, and
# with three seeds, which is what we have, it misses much: seeds are where more effort pays.

# %% [markdown]
# ## 6 · The words we allow ourselves
#
# Decided before we look (p and Holm are explained below):
#
# | p over questions, after Holm | interval over seeds | we say |
# |---|---|---|
# | below 0.05 | excludes 0 | **clear** |
# | below 0.05 | does not, or one seed | **these runs only** |
# | 0.05 or more | – | **no difference measured** |


# %% tags=["from-scratch"]
def verdict(difference, p, seeds_low, seeds_high, level=0.05):
    """ICFT minus another method, in words. p: over questions, after Holm; seeds_low, seeds_high: t-interval."""
    if not p < level:
        return "no difference measured"
    which = "higher" if difference > 0 else "lower"
    return f"clear: ICFT {which}" if seeds_low > 0 or seeds_high < 0 else f"these runs only: ICFT {which}"


# %%
# NBVAL_CHECK_OUTPUT
print(verdict(0.04, 0.001, 0.01, 0.07))
print(verdict(0.04, 0.001, -0.02, 0.10))
print(verdict(-0.01, 0.30, -0.03, 0.01))
print(verdict(-0.04, 0.001, math.nan, math.nan))

# %% [markdown]
# Why **Holm**? Twenty comparisons at 95 % find, on average, one difference by chance. Holm's rule sorts the m p-values
# (a **p-value**: how often chance alone would give as much), multiplies the smallest by m, the next by m − 1, …, and
# never lets one fall below the one before.
#
# **By hand**: 0.01, 0.02, 0.03, 0.20.

# %%
# NBVAL_CHECK_OUTPUT
print("by hand:", [0.01 * 4, 0.02 * 3, max(0.02 * 3, 0.03 * 2), 0.20 * 1])
print("package:", holm([0.01, 0.02, 0.03, 0.20]).round(3).tolist())
print(f"chance of a false positive among 10 true zeros: {1 - 0.95**10:.2f}")

# %% [markdown]
# For two models and one seed each there is an exact test. **McNemar** looks only at questions on which they differ: if
# neither is better, each is a coin toss. With A alone right on 10 and B on 5:

# %%
# NBVAL_CHECK_OUTPUT
print(f"package {mcnemar_exact(a == 1, b == 1):.4f}, coin tosses {stats.binomtest(10, 15).pvalue:.4f}")

# %% [markdown]
# ## 7 · What could this study have seen?
#
# A test that cannot see a difference finds none. **Power** is the chance to find one that is there. For 80 %, the
# difference must be about 2.8 standard errors: 1.96 for the 95 %, and 0.84, below which a bell curve is 80 % of the
# time:
#
# smallest visible difference ≈ 2.8 · √(d / n), where d is the share of questions on which two models differ.
#
# **Predict** it for n = 800 and d = 0.1. How many questions for one point?


# %% tags=["from-scratch"]
def visible(d, n):
    """The smallest difference that n questions show 4 times in 5, where the models differ on a share d."""
    return 2.8 * np.sqrt(d / n)


# %%
# NBVAL_CHECK_OUTPUT
print(f"n = 800, d = 0.1: {100 * visible(0.1, 800):.1f} points")
print(f"one point, d = 0.1: {2.8**2 * 0.1 / 0.01**2:,.0f} questions")
found = np.mean([mcnemar_exact(x > 0, x < 0) < 0.05 for x in np.random.default_rng(0).choice(
    [1, -1, 0], (400, 800), p=[0.05 + visible(0.1, 800) / 2, 0.05 - visible(0.1, 800) / 2, 0.9])])
print("simulated power is near 0.8:", bool(0.7 < found < 0.87))

# %%
figure, (axis,) = canvas(1, (7.5, 4))
n = np.geomspace(50, 20000, 100)
for d, style, name in ((0.5, "--", "unpaired, accuracy 0.5 (as if d = 0.5)"), (0.2, "-", "paired, d = 0.2"),
                       (0.05, ":", "paired, d = 0.05")):
    axis.plot(n, 100 * visible(d, n), style, color=INK, linewidth=2, label=name)
for i, method in enumerate(others):
    x, y = answers_of(study, "icft", "medical"), answers_of(study, method, "medical")
    d = np.mean((x.mean(0) - y.mean(0)) ** 2)
    axis.plot(x.shape[1], 100 * visible(d, x.shape[1]), look(method)[1], color=look(method)[0], markersize=8,
              label=f"ICFT vs. {LABELS[method]}")
axis.set(xscale="log", xlabel="test questions", ylabel="smallest visible difference (points)", ylim=(0, 20))
axis.legend(frameon=False, fontsize=8)
axis.set_title("What 4 of 5 such studies would see", loc="left")
Image(png(figure), width=640)

# %% [markdown]
# The marks are this study's pairs of methods, with seeds averaged (d is then the mean squared difference). A
# difference as large as its mark is seen 4 times in 5; a smaller one is missed more often, *though it is there*.

# %% [markdown]
# ## 8 · The ablations
#
# Everything in one table: for each test and method, ICFT minus that method, its interval over questions (topics weighed
# equally, as scores are), p after Holm over *all* comparisons, and the t-interval over seeds of the same difference.
# (The bootstrap's p is twice the share of resampled means on the rarer side of 0; 2,000 of them cannot give one below
# 0.001, and Holm multiplies that.) Intervals are not adjusted for the number of comparisons: where one excludes 0 and p
# is 0.05 or more, p decides.
#
# **Predict** for each method: does the ablation lower the medical score? Does it lower the general score?


# %%
def per_seed(method, test):
    """Score of each seed's run on a test (mean over topics), float [seeds]."""
    topic = study["tests"][test]["topic"]
    right = answers_of(study, method, test)
    return np.mean([right[:, topic == name].mean(1) for name in np.unique(topic)], axis=0)


results = []
for test in study["tests"]:
    for method in others:
        found = paired_bootstrap(answers_of(study, "icft", test), answers_of(study, method, test),
                                 study["tests"][test]["topic"], n_resamples=2000)
        seeds = mean_interval(per_seed("icft", test) - per_seed(method, test))
        results.append(dict(test=test, method=method, **found._asdict(), seeds_low=seeds.low, seeds_high=seeds.high))
results = pd.DataFrame(results)
results["p"] = holm(results.p_value)
results["verdict"] = [verdict(r.difference, r.p, r.seeds_low, r.seeds_high) for r in results.itertuples()]
results[["test", "method", "difference", "low", "high", "p", "seeds_low", "seeds_high", "verdict"]].round(3)

# %%
figure, axes = canvas(len(study["tests"]), (11, 0.55 * len(others) + 1.9), sharey=True)
for axis, (test, part) in zip(axes, results.groupby("test", sort=False)):
    for i, r in enumerate(part.itertuples()):
        color, marker = look(r.method)
        axis.plot([100 * r.seeds_low, 100 * r.seeds_high], [i + 0.2] * 2, color=GREY, linewidth=1.5)
        axis.plot([100 * r.low, 100 * r.high], [i, i], color=color, linewidth=3)
        axis.plot(100 * r.difference, i, marker, color=color if r.verdict.startswith("clear") else "white",
                  markersize=8, markeredgecolor=color, markeredgewidth=1.5)
    axis.axvline(0, color=INK, linewidth=1.2)
    axis.set_xscale("symlog", linthresh=5, linscale=1.5)
    axis.set_xticks([-50, -5, 0, 5, 50], ["−50", "−5", "0", "5", "50"])
    axis.minorticks_off()
    axis.set(xlim=(-110, 110), xlabel="ICFT minus the method (points)")
    axis.set_title(test, loc="left")
axes[0].set_yticks(range(len(others)), [LABELS[method] for method in others])
axes[0].set_ylim(len(others) - 0.5, -0.5)
Image(png(figure), width=880)

# %% [markdown]
# A **forest plot**. Right of 0: ICFT is higher, so the component helps. Thick: 95 % over questions; thin and gray:
# over seeds. Filled marks are clear, hollow ones are not. The scale is even up to 5 points, then logarithmic.
#
# The findings, worded by the rule of section 6:

# %%
for test, part in results.groupby("test", sort=False):
    print(test)
    for r in part.itertuples():
        print(f"  against {LABELS[r.method]}: {100 * r.difference:+.1f} points "
              f"[{100 * r.low:+.1f}, {100 * r.high:+.1f}]: {r.verdict}")

# %% [markdown]
# Look again at two rows. *No curriculum* removes the order **and** pacing's weights, by which easy examples come more
# often: lesson 03 shows how to separate the two. *No ring* gives the ring's share of a batch to new examples: below 0
# there would mean, if it were clear, that replay and promotion together were worth less than the new examples that they
# displaced.

# %%
# NBVAL_CHECK_OUTPUT
print("each verdict follows the rule:", all(
    (r.p < 0.05) != (r.verdict == "no difference measured") for r in results.itertuples()))
print("Holm never lowers a p-value:", bool((results.p >= results.p_value).all()))
print("the difference is within its interval:", bool(results.difference.between(results.low, results.high).all()))

# %% [markdown]
# ## 9 · What was not clear
#
# The ablations for which *nothing* was clear, on any test, belong in the report as much as the others: no difference
# was measured, or the seeds are too few. Each with what the data still allow:

# %%
quiet = [method for method, part in results.groupby("method", sort=False)
         if not part.verdict.str.startswith("clear").any()]
for method in quiet:
    part = results[results.method == method]
    print(f"ICFT against {LABELS[method]}: nothing clear. The data allow, in points:\n  "
          + "\n  ".join(f"{r.test} {100 * r.low:+.1f} to {100 * r.high:+.1f}" for r in part.itertuples()))
worse = results[results.verdict.str.startswith("clear") & (results.difference < 0)]
for r in worse.itertuples():
    print(f"ICFT is clearly BELOW {LABELS[r.method]} on {r.test}: {100 * r.difference:+.1f} points")
if not quiet and not len(worse):
    print("every ablation made a clear difference somewhere, and none was for the better")

# %% [markdown]
# Is it worth its cost? A method is **dominated** if another is at least as good on both axes and better on one. (This
# compares means only, however wide their intervals.)
# Left and middle: means, seeds (small), and each mean's interval over questions. Right: the candidates of the line
# search in ICFT's last consolidation, for each seed, on *validation* questions and pairs: interpolated towards the
# adapter before the stage (solid) and towards the base (dashed).


# %%
def own_interval(method, test):
    """A method's score on a test with its interval over questions: the bootstrap against a model always wrong."""
    right = answers_of(study, method, test)
    return paired_bootstrap(right, np.zeros_like(right), study["tests"][test]["topic"], n_resamples=500)


own = {method: {test: own_interval(method, test) for test in ("general", "medical")} for method in methods}
dominated = {m for m in methods for o in methods if o != m and all(
    own[o][t].difference >= own[m][t].difference for t in own[m]) and own[o] != own[m]}

# %%
figure, (whole, near, search) = canvas(3, (13, 4.6), width_ratios=[1.4, 1, 1])
for axis in (whole, near):
    for method in methods:
        color, marker = look(method)
        x, y = own[method]["general"], own[method]["medical"]
        axis.plot([x.low, x.high], [y.difference] * 2, color=color, linewidth=1)
        axis.plot([x.difference] * 2, [y.low, y.high], color=color, linewidth=1)
        mine = runs[runs.method == method]
        axis.plot(mine.general, mine.medical, marker, color=color, markersize=4, alpha=0.6)
        axis.plot(x.difference, y.difference, marker, color=color, markersize=10, markeredgecolor="white",
                  label=LABELS[method] + (", dominated" if method in dominated else ""))
    axis.plot(study["base"]["general"], study["base"]["medical"], "*", color=INK, markersize=16, label="base")
    axis.set_xlabel("general exact match (0–1): retained")
whole.set(ylabel="medical exact match (0–1): learned", xlim=(-0.02, 1.02), ylim=(-0.02, None))
x, y = (own["icft"][test].difference for test in ("general", "medical"))
near.set(xlim=(x - 0.1, x + 0.1), ylim=(y - 0.1, y + 0.1))
figure.legend(*whole.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
whole.set_title("Medical against general score", loc="left")
near.set_title("Around ICFT, enlarged", loc="left")
for run in runs[runs.method == "icft"].itertuples():
    last = run.stages[-1]
    for origin, dash in (("start", "o-"), ("base", "o--")):
        line = [one[2:] for one in last["candidates"] if one[0] == origin]
        search.plot(*zip(*line) if line else ([], []), dash, color=look("icft")[0], linewidth=1, markersize=4)
    chosen = [one[2:] for one in last["candidates"] if one[:2] == [last["origin"], last["alpha"]]]
    search.plot(*zip(*chosen) if chosen else ([], []), "o", color=INK, markersize=9, fillstyle="none")
search.set(xlabel="general validation score (0–1)", ylabel="medical validation score (0–1, with pairs)")
search.set_title("ICFT: last line search, choice circled", loc="left")
Image(png(figure), width=960)

# %% [markdown]
# Not dominated is not the same as good: a method that learns nothing and forgets nothing is never dominated.
#
# What it cost: seconds on the study's machine, by phase.

# %%
phases = pd.DataFrame({LABELS[m]: pd.DataFrame(list(runs[runs.method == m].seconds_by_part)).mean() for m in methods}).T
tokens = runs.groupby("method", sort=False).tokens.mean().values
cost = phases.fillna(0).assign(total=phases.sum(axis=1), tokens=tokens)
cost["× plain"] = cost.total / cost.total.get(LABELS["qlora"], np.nan)
cost.drop(columns="load").round(1).astype({"tokens": int})

# %% [markdown]
# Tokens are equal by design, seconds are not: computing teacher states and scoring consolidation's candidates takes
# time in which no step is made. Seconds on a shared machine vary; read them to within a quarter.

# %% [markdown]
# ## 10 · KL against forgetting, once more
#
# Lesson 01 measured one model at several values of α. Here each marker is a whole run. **Predict**: does the distance
# moved on *medical* questions show which run forgot more? Or the distance on *general* ones?

# %%
figure, axes = canvas(2, (10, 4), sharey=True)
lost = study["base"]["general"] - runs.general
kl = pd.DataFrame(list(runs.kl))
for axis, key in zip(axes, ("medical", "general")):
    for method in methods:
        mine = runs.method == method
        axis.plot(kl[key][mine], lost[mine], look(method)[1], color=look(method)[0], markersize=7, label=LABELS[method])
    axis.set_xlabel(f"KL(base ‖ tuned) on {key} validation questions, nats per token")
    axis.set_title(f"rank correlation {stats.spearmanr(kl[key], lost).statistic:.2f}", loc="left")
axes[0].set_ylabel("general score lost (0–1)")
axes[0].legend(frameon=False, fontsize=8)
Image(png(figure), width=800)

# %% [markdown]
# Runs of one method are close together, so there are about as many independent points as methods: far too few to
# test the claim of *RL's Razor*. A picture to think with, not a finding.

# %% [markdown]
# ## 11 · Your own ablation, live
#
# Does the *order* of the curriculum matter? Two runs of 15,000 tokens on trusted examples, alike but for
# `curriculum.order`. To see small things early we score with **option accuracy**: is the right option the most likely
# of its three or four? (Chance level: about 0.26.)
#
# **Predict** the verdict, before you see any score.

# %%
data = sample_bundle()
questions = [example for example in data.test if example["task"] == "question"][::3]
short = [i for i, topic in enumerate(data.trusted["topic"][:]) if topic != "reply"]
small = dataclasses.replace(
    data, trusted=data.trusted.select(short), pool=None, validation=None, general_validation=None,
    test=data.test.select(range(8)), general_test=data.general_test.select(range(8)),
    general_memory=data.general_memory.shuffle(seed=0).select(range(200)))
shared = {
    "optim.max_tokens": 15_000, "optim.batch_size": 16, "curriculum.signals": "length",
    "long_term.share": 0.2, "long_term.self_prompts": 0, "consolidation.enabled": False,
}
folder, live = Path(tempfile.mkdtemp()), {}
for order in ("easy_to_hard", "random"):
    live[order] = train_icft({**shared, "curriculum.order": order}, folder / order, small, progress=False)


# %%
def right_options(run):
    """For each of `questions`: is the right option the most likely one? bool [n]."""
    model, tokenizer = load_run(run)
    scores = option_scores(model, questions, Encoder(tokenizer))
    return np.array([s.argmax() == example["label"] for s, example in zip(scores, questions)])


right = {order: right_options(folder / order) for order in live}
found = paired_bootstrap(*right.values(), [one["topic"] for one in questions], n_resamples=2000)
d = np.mean(right["easy_to_hard"] != right["random"])
print({order: round(float(values.mean()), 3) for order, values in right.items()})
print(f"easy_to_hard minus random: {100 * found.difference:+.1f} points "
      f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]")
print("verdict:", "no difference measured" if found.low <= 0 <= found.high else "these runs only")
print(f"they differ on {d:.0%} of questions, so {100 * visible(d, len(questions)):.1f} points would have been "
      f"visible;\nfor 2 points one needs {2.8**2 * d / 0.02**2:,.0f} questions, and several seeds")

# %%
# NBVAL_CHECK_OUTPUT
tokens = [report["cost"]["tokens"] for report in live.values()]
print("equal tokens, to a tenth:", abs(tokens[0] / tokens[1] - 1) < 0.1)
print("a gain of two points could have been seen:", bool(visible(d, len(questions)) < 0.02))

# %% [markdown]
# (The two scores count questions, the difference is a mean over topics.) Published gains from order are one or two
# points, and in controlled studies often none. This run could not have seen them. And so short a run has learned almost
# nothing, which an order could change. So its result, whatever it is, is no evidence for or against curricula. That
# takes more tokens, more questions and several seeds.

# %% [markdown]
# ## 12 · What the study cannot say
#
# - One base, small, and a made-up general world: of large models it says nothing.
# - Settings were tried out on these samples, many of them on the test questions themselves (`docs/experiments.md`). On
#   new random splits the demo's scores agreed with those of the default split (`docs/results.md`); this study's were
#   not tried. And a rival that got less of such trying is at a disadvantage.
# - Intervals over questions do not cover other *kinds* of questions.
# - Equal tokens are not equal seconds.
# - Majority vote is seldom confident, so nearly all its questions retain two options or more; of the label model's, one
#   in fourteen does. What the label model gains includes that.
# - *No curriculum* lacks the order and pacing's weights, *no ring* the replay and promotion: which of the two matters,
#   this study cannot show.
# - L_task acts only on questions that retain two options, and on pairs: of more uncertain labels the study says
#   nothing.
# - An ablation removes one component at a time; two that can replace each other both look useless.

# %% [markdown]
# ## What was shown
#
# - Chance enters by seeds and by questions; each has its interval, and neither covers the other.
# - Pairing by question narrows intervals at no cost; counting seeds × questions as independent narrows them falsely.
# - Several comparisons need Holm; a comparison without power needs more questions or an honest silence.
# - "No difference measured" is a result. Section 8 lists ours.

# %% [markdown]
# ## Exercises
#
# Put your own code in place of `...` and run the cell.
#
# ### 1 · How many questions? (easy, 5 minutes)

# %%
# NBVAL_CHECK_OUTPUT
def questions_needed(difference, d):
    """Least whole number of questions that show `difference` 4 times in 5 if models differ on a share d."""
    return ...


cases = [(0.02, 0.1), (0.01, 0.3), (0.05, 0.05)]
answers = [questions_needed(*case) for case in cases]
if ... in answers:
    print("Your turn.")
else:
    print("Right." if answers == [1960, 23520, 157] else f"Not yet: {answers}; check with visible(d, n).")

# %% [markdown]
# <details><summary>Hint</summary>
#
# Solve difference = 2.8 · √(d / n) for n, and round up (`math.ceil`). Rounding errors: `round(…, 6)` first.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def questions_needed(difference, d):
#     return math.ceil(round(2.8**2 * d / difference**2, 6))
# ```
#
# </details>

# %% [markdown]
# ### 2 · Fix the analysis (medium, 10 minutes)
#
# A colleague reports ± `1.96 * (a - b).std() / (a - b).size**0.5` for answers a, b of shape [seeds, questions]. Give
# the half-width that treats *questions* as the sample.

# %%
# NBVAL_CHECK_OUTPUT
def half_width(a, b):
    """a, b: bool [seeds, questions], the same questions. 95 % half-width of mean(a) − mean(b) over questions."""
    return ...


cases = list(worlds(count=3).astype(float))
answers = [half_width(*case) for case in cases]
wanted = [1.96 * (x.mean(0) - y.mean(0)).std() / 300**0.5 for x, y in cases]
if ... in answers:
    print("Your turn.")
elif np.allclose(answers, wanted, rtol=0.01):
    print("Right.")
else:
    print(f"Not yet: {answers[0]:.4f}, wanted {wanted[0]:.4f}. Is each question one number?")

# %% [markdown]
# <details><summary>Hint</summary>
#
# First the mean over the seeds: one number a question for each method. Then subtract, then the spread.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def half_width(a, b):
#     difference = a.mean(axis=0) - b.mean(axis=0)
#     return 1.96 * difference.std() / len(difference) ** 0.5
# ```
#
# </details>

# %% [markdown]
# ### 3 · Design the next ablation (hard, 15 minutes)
#
# Is consolidation worth its cost? Give a design: settings of ICFT and of the ablation, seeds, test questions, and
# the one score that decides, named in advance: general, medical or preference. It must be able to see 3 points where
# models differ on 15 % of questions. Take at least five seeds, and give both runs the same `optim.max_tokens`.

# %%
# NBVAL_CHECK_OUTPUT
def design():
    """dict(ours={…}, ablation={…} (settings of ICFTConfig), seeds=int, questions=int, measure=str)."""
    return ...


def objection(plan):
    """The first thing wrong with a plan, or None."""
    try:
        ours, theirs = (flatten(ICFTConfig.from_dict(plan[name]).to_dict()) for name in ("ours", "ablation"))
    except ICFTError as error:
        return str(error)
    changed = [name for name in ours if ours[name] != theirs[name]]
    checks = {"exactly consolidation must change": changed == ["consolidation.enabled"],
              "both runs need the same optim.max_tokens": ours["optim.max_tokens"] is not None,
              "fewer than five seeds give a wide t-interval": plan["seeds"] >= 5,
              "too few questions for 3 points": visible(0.15, plan["questions"]) <= 0.03,
              "name one measure: general, medical or preference": plan["measure"] in study["tests"]}
    return next((text for text, fine in checks.items() if not fine), None)


plan = design()
if plan is ...:
    print("Your turn.")
else:
    print(f"Not yet: {objection(plan)}." if objection(plan) else "Right.")

# %% [markdown]
# <details><summary>Hint</summary>
#
# `consolidation.enabled` is the setting. `2.8**2 * 0.15 / 0.03**2` questions. Equal `optim.max_tokens` in both.
#
# </details>
# <details><summary>Solution</summary>
#
# ```python
# def design():
#     shared = {"optim.max_tokens": 400_000}
#     ablation = {**shared, "consolidation.enabled": False}
#     return dict(ours=shared, ablation=ablation, seeds=5, questions=1400, measure="general")
# ```
#
# </details>

# %% [markdown]
# ## Further reading
#
# - [Statistical significance tests for machine translation](https://aclanthology.org/W04-3250/) (Koehn, 2004): the
#   bootstrap over test items, in eight pages.
# - [With little power comes great responsibility](https://arxiv.org/abs/2010.06595) (Card and others, 2020): how many
#   published comparisons could not have seen what they claim.
# - [Adding error bars to evals](https://arxiv.org/abs/2411.00640) (Miller, 2024): pairing, clusters and power for
#   language models; the next thing to read.
# - [Deep reinforcement learning at the edge of the statistical precipice](https://arxiv.org/abs/2108.13264) (Agarwal
#   and others, 2021): few seeds, done well.
# - [RL's Razor](https://arxiv.org/abs/2509.04259) (Shenfeld and others, 2025): the claim of section 10.

# %% [markdown]
# Assignment A6, A small study, builds on this lesson: see the [instructor's
# guide]({{repository}}/blob/main/docs/instructors.md#assignments).

# %%
# NBVAL_CHECK_OUTPUT
peak = peak_memory() / 2**30
print("within the memory declared at the top:", peak < 2)
