"""A1, label models: how each part is drawn, solved and compared.

Votes are int [n, m] with −1 for an abstention; posteriors are float [n, k_max].
"""

from functools import partial

import numpy as np
from constants import SUFFIX, constant
from outputs import make_part

from icft_lite.grading.feedback import recognize
from icft_lite.grading.parts import Assignment, Call

TINY = constant("clip", 1e-10, 1e-7, 1e-6, 1e-5)
"""Accuracies are clipped to TINY … 1 − TINY, as in the notebook."""


# --- inputs


def random_votes(rng, n=40, m=6, k=4, one_size=False, silent=0.3):
    """Return votes [n, m], the numbers of options [n], and the true options [n]."""
    n_options = np.full(n, k) if one_size else rng.integers(2, k + 1, n)
    n_options[0] = k
    truth = rng.integers(0, n_options)
    accuracy, shape = rng.uniform(0.35, 0.95, m), (n, m)
    wrong = (truth[:, None] + rng.integers(1, n_options[:, None], shape)) % n_options[:, None]
    votes = np.where(rng.random(shape) < accuracy, truth[:, None], wrong)
    return np.where(rng.random(shape) < silent, -1, votes), n_options, truth


def random_posterior(rng, n_options):
    """Return probabilities over the options of each example, 0 beyond them."""
    p = rng.random((len(n_options), n_options.max())) * (np.arange(n_options.max()) < n_options[:, None])
    return p / p.sum(1, keepdims=True)


def weights(rng, m):
    return rng.choice([0.25, 0.5, 1.0], m)


# --- solutions, in plain loops; the keywords make known mistakes


def vote_shares(votes, n_options, weight, abstention="missing", silent="uniform", weighted=True, hard=False):
    k = n_options.max()
    out = np.zeros((len(votes), k))
    for i, row in enumerate(votes):
        for vote, w in zip(row, weight):
            if vote >= 0 or abstention == "last":
                out[i, vote] += w if weighted else 1.0
        total = weight.sum() if abstention == "counted" else out[i].sum()
        if total > 0:
            out[i] /= total
        if not out[i].any():
            out[i, : k if silent == "all" else n_options[i]] = {"zero": 0.0, "all": 1 / k}.get(silent, 1 / n_options[i])
        if hard:
            out[i] = np.arange(k) == out[i].argmax()
    return out


def accuracy_step(votes, posterior, strength, expected, abstention="missing", prior="both", hard=False):
    out = np.empty(votes.shape[1])
    for j, column in enumerate(votes.T):
        right, count = strength * expected, 0.0 if prior == "numerator" else strength
        if prior == "none":
            right = count = 0.0
        for vote, p in zip(column, posterior):
            if vote >= 0 or abstention == "last":
                right += float(p.argmax() == vote) if hard else p[vote]
            count += vote >= 0 or abstention != "missing"
        with np.errstate(divide="ignore", invalid="ignore"):
            out[j] = np.divide(right, count)
    return out


def one_coin_posterior(votes, n_options, accuracy, weight, spread="own", masked=True, weighted=True, last=False):
    k = n_options.max()
    out = np.zeros((len(votes), k))
    for i, row in enumerate(votes):
        options = n_options[i] if masked else k
        log_joint = np.zeros(options)
        others = {"own": n_options[i] - 1, "widest": k - 1, "none": 1}[spread]
        for vote, a, w in zip(row, np.clip(accuracy, TINY, 1 - TINY), weight if weighted else np.ones(len(weight))):
            if vote >= 0 or last:
                vote = vote % k
                log_joint += w * np.log(np.where(np.arange(options) == vote, a, (1 - a) / others))
        joint = np.exp(log_joint - log_joint.max())
        out[i, :options] = joint / joint.sum()
    return out


def fit_one_coin(votes, n_options, weight, strength, expected, rounds, start="votes", again=False, hard=False, extra=0):
    posterior = vote_shares(votes, n_options, weight)
    if start == "uniform":
        posterior = vote_shares(np.full_like(votes, -1), n_options, weight)
    for _ in range(rounds + extra):
        if hard:
            posterior = np.eye(posterior.shape[1])[posterior.argmax(1)]
        accuracy = accuracy_step(votes, posterior, strength, expected)
        posterior = one_coin_posterior(votes, n_options, accuracy, weight)
    return (accuracy_step(votes, posterior, strength, expected) if again else accuracy), posterior


def confusion_step(
    votes, posterior, strength, expected, last=False, share="truth", axis=2, pseudo=True, transposed=False
):
    (n, m), k = votes.shape, posterior.shape[1]
    counts = np.zeros((m, k, k))
    for j in range(m):
        for c in range(k):
            for v in range(k):
                prior = expected if c == v else (1 - expected) / (k - 1)
                counts[j, c, v] = pseudo * strength * prior / (k if share == "entry" else 1)
            for i in range(n):
                if votes[i, j] >= 0 or last:
                    counts[j, c, votes[i, j]] += posterior[i, c]
    confusion = counts / counts.sum(axis, keepdims=True) if axis else counts
    return confusion.transpose(0, 2, 1) if transposed else confusion


def confusion_posterior(votes, prior, confusion, weight, last=False, transposed=False, priors="one", weighted=True):
    log_joint = np.empty((len(votes), len(prior)))
    for i, row in enumerate(votes):
        log_joint[i] = 0 if priors == "none" else np.log(prior)
        for j, vote in enumerate(row):
            if vote >= 0 or last:
                likelihood = confusion[j, vote] if transposed else confusion[j, :, vote]
                log_joint[i] += (weight[j] if weighted else 1.0) * np.log(likelihood)
                log_joint[i] += np.log(prior) if priors == "each" else 0
    joint = np.exp(log_joint - log_joint.max(1, keepdims=True))
    return joint / joint.sum(1, keepdims=True)


def family_weights(votes, min_shared, silent=False, above=0, inverse=True, itself=1):
    m = votes.shape[1]
    out = np.empty(m)
    for i in range(m):
        size = itself
        for j in range(m):
            both = (votes[:, i] >= 0) & (votes[:, j] >= 0) | silent
            same = (votes[both, i] == votes[both, j]).all()
            size += bool(i != j and same and both.sum() >= min_shared + above)
        out[i] = size if not inverse else 1 / size if size else np.inf
    return out


def calibration_error(probs, gold, bins, mass=True, absolute=True, weighted=True, top=True):
    order = np.argsort(probs.max(1), kind="stable")
    confidence = (probs.max(1) if top else probs[np.arange(len(gold)), gold])[order]
    right = (probs.argmax(1) == gold)[order]
    parts = np.array_split(np.arange(len(gold)), bins)
    if not mass:
        bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
        parts = [np.flatnonzero(bin_of == b) for b in range(bins)]
    gaps = [(len(part), confidence[part].mean() - right[part].mean()) for part in parts if len(part)]
    sizes, gap = np.array(gaps).T
    gap = np.abs(gap) if absolute else gap
    return (sizes * gap).sum() / len(gold) if weighted else gap.mean()


def temperature_losses(probs, gold, temperatures, inverse=True, normalized=True, of_gold=True):
    losses = []
    for t in temperatures:
        p = np.clip(probs, TINY, None) ** (1 / t if inverse else t)
        p = p / p.sum(1, keepdims=True) if normalized else p
        losses.append(-np.mean([np.log(row[g if of_gold else row.argmax()]) for row, g in zip(p, gold)]))
    return np.array(losses)


# --- draws


def draw_shares(rng):
    calls = []
    for k in (2, 3, 4):
        votes, n_options, _ = random_votes(rng, n=12, k=k)
        votes[rng.integers(0, 12)] = -1  # an example without votes
        votes[1], n_options[1] = -1, 2
        calls.append(Call((votes, n_options, weights(rng, 6))))
    return calls


def draw_accuracy(rng):
    calls = []
    for k, strength in ((2, 0.0), (4, 10.0), (3, 30.0)):
        votes, n_options, _ = random_votes(rng, k=k)
        calls.append(Call((votes, random_posterior(rng, n_options), strength, float(rng.uniform(0.55, 0.8)))))
    silent = votes.copy()
    silent[:, 2] = -1
    return [*calls, Call((silent, random_posterior(rng, n_options), 20.0, 0.7))]


def draw_one_coin(rng):
    calls = []
    for k in (2, 3, 5):
        votes, n_options, _ = random_votes(rng, n=15, k=k)
        calls.append(Call((votes, n_options, rng.uniform(0.1, 0.9, 6), weights(rng, 6))))
    votes, n_options, _ = random_votes(rng, n=2, m=2500)  # a product of 2,500 probabilities is 0 in float64
    accuracy = rng.uniform(0.2, 0.4, 2500)
    certain, options, _ = random_votes(rng, n=10)
    perfect = Call((certain, options, np.array([1.0, 0.7, 0.6, 0.0, 0.4, 0.8]), np.ones(6)))
    return [*calls, Call((votes, n_options, accuracy, np.ones(2500))), perfect]


def draw_fit(rng):
    calls = []
    for rounds in (2, 3, 5):
        votes, n_options, _ = random_votes(rng, n=40)
        votes[np.arange(40), rng.integers(0, 6, 40)] = 0  # every example has a vote
        calls.append(Call((votes, n_options, weights(rng, 6), 5.0, 0.6, rounds)))
    return calls


def draw_confusion(rng):
    calls = []
    for k, strength in ((2, 10.0), (3, 4.0), (4, 30.0)):
        votes, n_options, _ = random_votes(rng, k=k, one_size=True)
        calls.append(Call((votes, random_posterior(rng, n_options), strength, float(rng.uniform(0.55, 0.8)))))
    return calls


def draw_full(rng):
    calls = []
    for k in (2, 3, 4):
        votes, _, _ = random_votes(rng, n=15, k=k, one_size=True)
        votes[0] = -1
        confusion = rng.dirichlet(np.ones(k) * 2, (6, k)).clip(1e-3)
        confusion /= confusion.sum(2, keepdims=True)
        calls.append(Call((votes, rng.dirichlet(np.arange(1, k + 1) * 2.0), confusion, weights(rng, 6))))
    return calls


def draw_families(rng):
    calls = []
    for copies in (1, 3, 4):
        votes, _, _ = random_votes(rng, n=60, m=5, one_size=True)
        copied = np.repeat(votes[:, [int(rng.integers(0, 5))]], copies, 1)
        copied[rng.random(copied.shape) < 0.2] = -1
        votes = rng.permutation(np.concatenate([votes, copied], 1), axis=1)
        rare = np.full((60, 2), -1)  # two functions that agree on a few examples only
        rare[:5, :] = rng.integers(0, 4, (5, 1))
        calls += [Call((np.concatenate([votes, rare], 1), shared)) for shared in (5, 6)]
    chain = np.repeat(rng.integers(0, 4, (20, 1)), 3, 1)  # the first and the last function share no example
    chain[10:, 0], chain[:3, 1], chain[17:, 1], chain[:10, 2] = -1, -1, -1, -1
    return [*calls, Call((chain, 5))]


def draw_calibration(rng):
    calls = []
    for n, k, bins in ((60, 3, 5), (47, 4, 5), (200, 2, 10)):
        probs = rng.dirichlet(np.full(k, 0.6), n)
        gold = np.where(rng.random(n) < 0.6, probs.argmax(1), rng.integers(0, k, n))
        calls.append(Call((probs, gold, bins)))
    return calls


def draw_temperature(rng):
    calls = []
    for k in (2, 3, 5):
        probs = rng.dirichlet(np.full(k, 0.7), 60)
        probs[0] = np.arange(k) == 0  # certain: the probabilities of the others are 0
        gold = rng.integers(0, k, 60)
        gold[0] = k - 1
        calls.append(Call((probs, gold, np.sort(rng.uniform(0.3, 3, 5)))))
    return calls


# --- parts


MODELS = "icft_lite.weak.label_models"
BLOCKED = tuple(f"{MODELS}.{name}" for name in ("MajorityVote", "DawidSkene")) + (
    "icft_lite.metrics.expected_calibration_error",
)
part = partial(make_part, "A1", BLOCKED)

LAST = "abstention: −1 is used as an index, so an abstention counts as a vote for the last option"
UNWEIGHTED = "weight: every labelling function counts the same"

ASSIGNMENT = Assignment(
    id="A1",
    title="Label models",
    version="1.0" + SUFFIX,
    lessons=("02_weak_supervision",),
    constants={"clip": TINY},
    parts=(
        part(1, "Weighted vote shares", 2, 12, vote_shares, draw_shares, {
            LAST: dict(abstention="last"),
            "abstention: it counts in the denominator as if it were a vote": dict(abstention="counted"),
            "mask: options that an example does not have get probability": dict(silent="all"),
            "no votes: an example without votes gets zeros": dict(silent="zero"),
            UNWEIGHTED: dict(weighted=False),
            "hard labels: all probability is on the winner": dict(hard=True),
        }),
        part(2, "M-step for accuracies", 2, 12, accuracy_step, draw_accuracy, {
            LAST: dict(abstention="last"),
            "abstention: it counts as a wrong vote": dict(abstention="wrong"),
            "pseudo-votes: they are missing": dict(prior="none"),
            "pseudo-votes: they are in the numerator only": dict(prior="numerator"),
            "hard labels: count posteriors, not most likely options": dict(hard=True),
        }),
        part(3, "E-step for accuracies", 4, 25, one_coin_posterior, draw_one_coin, {
            LAST: dict(last=True),
            "scale: 1 − accuracy is not divided among the wrong options": dict(spread="none"),
            "mask: the wrong options of an example are counted in its widest neighbor": dict(spread="widest"),
            "mask: options that an example does not have get probability": dict(masked=False),
            UNWEIGHTED: dict(weighted=False),
        }),
        part(4, "The EM loop", 3, 15, fit_one_coin, draw_fit, compare=recognize(fit_one_coin, {
            "order: these accuracies come from an M-step after the last E-step": dict(again=True),
            "start: EM does not start from the vote shares": dict(start="uniform"),
            "hard labels: a round uses the most likely option, not the posterior": dict(hard=True),
            "off by one: EM runs one round too many": dict(extra=1),
            "off by one: EM runs one round too few": dict(extra=-1),
        }, ("accuracy", "posterior"))),
        part(5, "M-step for confusion matrices", 3, 20, confusion_step, draw_confusion, {
            LAST: dict(last=True),
            "axis: each truth's votes must sum to 1, not each vote's truths": dict(axis=1),
            "axis: truth and vote are exchanged": dict(transposed=True),
            "scale: the counts are not normalized": dict(axis=None),
            "pseudo-votes: they are missing": dict(pseudo=False),
            "pseudo-votes: each truth needs `strength` of them, not strength / k": dict(share="entry"),
        }),
        part(6, "E-step for confusion matrices", 3, 20, confusion_posterior, draw_full, {
            LAST: dict(last=True),
            "axis: truth and vote are exchanged in the confusion matrix": dict(transposed=True),
            "prior: it is missing": dict(priors="none"),
            "prior: it counts once for each vote": dict(priors="each"),
            UNWEIGHTED: dict(weighted=False),
        }),
        part(7, "Weights of look-alikes", 2, 15, family_weights, draw_families, {
            "abstention: two abstentions count as agreement": dict(silent=True),
            "off by one: min_shared examples are enough": dict(above=1),
            "min_shared: functions with too few examples in common are look-alikes too": dict(above=-1e9),
            "inverse: the weight is the size of the family": dict(inverse=False),
            "off by one: a function belongs to its own family": dict(itself=0),
        }),
        part(8, "Calibration error", 2, 15, calibration_error, draw_calibration, {
            "bins: they have equal width, not equal size": dict(mass=False),
            "sign: gaps of opposite sign cancel": dict(absolute=False),
            "weight: bins of different size count the same": dict(weighted=False),
            "confidence: it is the largest probability, not that of the gold label": dict(top=False),
        }),
        part(9, "Temperature", 2, 15, temperature_losses, draw_temperature, {
            "inverse: the exponent is T where 1/T is needed": dict(inverse=False),
            "scale: the powers do not sum to 1": dict(normalized=False),
            "label: the loss needs the probability of the gold label, not the largest one": dict(of_gold=False),
        }),
    ),
)  # fmt: skip
