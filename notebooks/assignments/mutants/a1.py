"""A1: wrong answers with the kind of feedback that each must get, and right answers written in another way.

    WRONG = {part: {name of the mistake: (function, words of the feedback)}}        RIGHT = {part: [function, …]}
"""

from math import exp, log

import numpy as np


def one_hot(votes, k):
    return (votes[:, :, None] == np.arange(k)).astype(float)


def normalize(log_joint):
    joint = np.exp(log_joint - log_joint.max(1, keepdims=True))
    return joint / joint.sum(1, keepdims=True)


# --- 1


def shares_over_all_functions(votes, n_options, weight):
    counts = (one_hot(votes, n_options.max()) * weight[:, None]).sum(1)
    available = np.arange(n_options.max()) < n_options[:, None]
    silent = counts.sum(1, keepdims=True) == 0
    return np.where(silent, available / n_options[:, None], counts / weight.sum())


def shares_wrap_around(votes, n_options, weight):
    counts = np.zeros((len(votes), n_options.max()))
    for j, w in enumerate(weight):
        np.add.at(counts, (np.arange(len(votes)), votes[:, j]), w)
    return counts / counts.sum(1, keepdims=True)


def shares_unweighted(votes, n_options, weight):
    return shares_in_float32(votes, n_options, np.ones_like(weight))


def shares_uniform_over_padding(votes, n_options, weight):
    return shares_in_float32(votes, np.full(len(votes), n_options.max()), weight)


def shares_divided_by_zero(votes, n_options, weight):
    counts = (one_hot(votes, n_options.max()) * weight[:, None]).sum(1)
    with np.errstate(invalid="ignore"):
        return counts / counts.sum(1, keepdims=True)


def shares_in_float32(votes, n_options, weight):
    counts = np.einsum("njc,j->nc", one_hot(votes, n_options.max()), weight)
    available = (np.arange(n_options.max()) < n_options[:, None]).astype(float)
    counts[counts.sum(1) == 0] = available[counts.sum(1) == 0]
    return (counts / counts.sum(1, keepdims=True)).astype(np.float32)


# --- 2


def accuracy_over_all_examples(votes, posterior, strength, expected):
    right = (one_hot(votes, posterior.shape[1]) * posterior[:, None]).sum((0, 2))
    return (right + strength * expected) / (len(votes) + strength)


def accuracy_wraps_around(votes, posterior, strength, expected):
    right = np.take_along_axis(posterior, votes % posterior.shape[1], 1).sum(0)
    return (right + strength * expected) / (len(votes) + strength)


def accuracy_without_pseudo_votes(votes, posterior, strength, expected):
    with np.errstate(invalid="ignore"):
        return accuracy_by_columns(votes, posterior, 0, expected)


def accuracy_half_smoothed(votes, posterior, strength, expected):
    right = (one_hot(votes, posterior.shape[1]) * posterior[:, None]).sum((0, 2))
    with np.errstate(divide="ignore"):
        return (right + strength * expected) / (votes >= 0).sum(0)


def accuracy_of_hard_labels(votes, posterior, strength, expected):
    return accuracy_by_columns(votes, np.eye(posterior.shape[1])[posterior.argmax(1)], strength, expected)


def accuracy_by_columns(votes, posterior, strength, expected):
    out = []
    for column in votes.T:
        voted = column >= 0
        out.append((posterior[voted, column[voted]].sum() + strength * expected) / (voted.sum() + strength))
    return out


# --- 3


def one_coin(votes, n_options, accuracy, weight, others=None, mask=True, clip=True):
    k = n_options.max()
    a = np.clip(accuracy, 1e-10, 1 - 1e-10) if clip else accuracy
    others = n_options - 1 if others is None else others
    gain = weight * (np.log(a / (1 - a)) + np.log(others)[:, None])
    log_odds = np.einsum("njc,nj->nc", one_hot(votes, k), gain)
    available = np.arange(k) < n_options[:, None]
    return normalize(np.where(available, log_odds, -np.inf) if mask else log_odds)


def one_coin_undivided(votes, n_options, accuracy, weight):
    return one_coin(votes, n_options, accuracy, weight, np.ones(len(votes)))


def one_coin_widest(votes, n_options, accuracy, weight):
    return one_coin(votes, n_options, accuracy, weight, np.full(len(votes), n_options.max() - 1))


def one_coin_unmasked(votes, n_options, accuracy, weight):
    return one_coin(votes, n_options, accuracy, weight, mask=False)


def one_coin_unweighted(votes, n_options, accuracy, weight):
    return one_coin(votes, n_options, accuracy, np.ones_like(weight))


def one_coin_underflows(votes, n_options, accuracy, weight):
    joint = np.zeros((len(votes), n_options.max()))
    for i, k in enumerate(n_options):
        for c in range(k):
            factors = np.where(votes[i] == c, accuracy, (1 - accuracy) / (k - 1))
            joint[i, c] = np.prod(np.where(votes[i] >= 0, factors, 1.0) ** weight)
    with np.errstate(invalid="ignore"):
        return joint / joint.sum(1, keepdims=True)


def one_coin_by_odds(votes, n_options, accuracy, weight):
    rows = []
    for row, k in zip(votes, n_options):
        score = [0.0] * k
        for vote, a, w in zip(row, accuracy, weight):
            if vote != -1:
                a = min(max(a, 1e-10), 1 - 1e-10)
                score[vote] += w * log(a * (k - 1) / (1 - a))
        odds = [exp(s - max(score)) for s in score]
        rows.append([o / sum(odds) for o in odds] + [0.0] * (max(n_options) - k))
    return rows


# --- 4


def em(votes, n_options, weight, strength, expected, rounds, extra=0, hard=False, uniform=False, last_m=False):
    posterior = shares_in_float32(votes, n_options, weight).astype(float)
    if uniform:
        posterior = (posterior >= 0) * (np.arange(posterior.shape[1]) < n_options[:, None]) / n_options[:, None]
    for _ in range(rounds + extra):
        if hard:
            posterior = np.eye(posterior.shape[1])[posterior.argmax(1)]
        accuracy = np.array(accuracy_by_columns(votes, posterior, strength, expected))
        posterior = one_coin(votes, n_options, accuracy, weight)
    if last_m:
        accuracy = np.array(accuracy_by_columns(votes, posterior, strength, expected))
    return accuracy, posterior


def em_stops_early(*args):
    return em(*args, extra=-1)


def em_one_more(*args):
    return em(*args, extra=1)


def em_hard(*args):
    return em(*args, hard=True)


def em_from_uniform(*args):
    return em(*args, uniform=True)


def em_ends_with_m_step(*args):
    return em(*args, last_m=True)


def em_only_posterior(*args):
    return em(*args)[1]


def em_recursive(votes, n_options, weight, strength, expected, rounds, posterior=None):
    if posterior is None:
        posterior = shares_in_float32(votes, n_options, weight).astype(float)
    accuracy = np.array(accuracy_by_columns(votes, posterior, strength, expected))
    posterior = one_coin(votes, n_options, accuracy, weight)
    if rounds == 1:
        return [accuracy, posterior]
    return em_recursive(votes, n_options, weight, strength, expected, rounds - 1, posterior)


# --- 5


def confusion_counts(votes, posterior, strength, expected):
    k = posterior.shape[1]
    pseudo = np.full((k, k), (1 - expected) / (k - 1))
    np.fill_diagonal(pseudo, expected)
    return np.einsum("nc,njv->jcv", posterior, one_hot(votes, k)) + strength * pseudo


def confusion(votes, posterior, strength, expected):
    counts = confusion_counts(votes, posterior, strength, expected)
    return counts / counts.sum(-1)[..., None]


def confusion_by_vote(votes, posterior, strength, expected):
    counts = confusion_counts(votes, posterior, strength, expected)
    return counts / counts.sum(1, keepdims=True)


def confusion_unnormalized(votes, posterior, strength, expected):
    return confusion_counts(votes, posterior, strength, expected)


def confusion_transposed(votes, posterior, strength, expected):
    return confusion(votes, posterior, strength, expected).transpose(0, 2, 1)


def confusion_unsmoothed(votes, posterior, strength, expected):
    return confusion(votes, posterior, 0.0, expected)


def confusion_wraps_around(votes, posterior, strength, expected):
    return confusion(votes % posterior.shape[1], posterior, strength, expected)


# --- 6


def full(votes, prior, matrices, weight):
    score = np.log(prior) + np.einsum("njv,jcv,j->nc", one_hot(votes, len(prior)), np.log(matrices), weight)
    return normalize(score)


def full_without_prior(votes, prior, matrices, weight):
    return full(votes, np.ones_like(prior), matrices, weight)


def full_transposed(votes, prior, matrices, weight):
    return full(votes, prior, matrices.transpose(0, 2, 1), weight)


def full_wraps_around(votes, prior, matrices, weight):
    return full(votes % len(prior), prior, matrices, weight)


def full_prior_per_vote(votes, prior, matrices, weight):
    voted = (votes >= 0).sum(1, keepdims=True)
    return normalize(np.log(full(votes, prior, matrices, weight)) + voted * np.log(prior))


def full_in_plain_probabilities(votes, prior, matrices, weight):
    rows = []
    for row in votes:
        joint = np.array(prior)
        for j, vote in enumerate(row):
            joint = joint * (matrices[j, :, vote] ** weight[j] if vote >= 0 else 1.0)
        rows.append(joint / sum(joint))
    return np.array(rows)


# --- 7


def families(votes, min_shared, voted=None, inverse=True):
    voted = votes >= 0 if voted is None else voted
    both = voted[:, :, None] & voted[:, None, :]
    differ = (both & (votes[:, :, None] != votes[:, None, :])).any(0)
    alike = ~differ & (both.sum(0) >= min_shared)
    np.fill_diagonal(alike, True)
    return 1 / alike.sum(1) if inverse else alike.sum(1)


def families_of_silence(votes, min_shared):
    return families(votes, min_shared, np.ones(votes.shape, bool))


def families_more_than(votes, min_shared):
    return families(votes, min_shared + 1)


def family_sizes(votes, min_shared):
    return families(votes, min_shared, inverse=False)


def families_unlimited(votes, min_shared):
    return families(votes, 0)


def families_without_itself(votes, min_shared):
    with np.errstate(divide="ignore"):
        return 1 / (1 / families(votes, min_shared) - 1)


# --- 8


def adaptive_error(probs, gold, bins, gap=abs):
    confidence, right = probs.max(1), probs.argmax(1) == gold
    parts = np.array_split(confidence.argsort(), bins)
    return sum(gap(confidence[part].sum() - right[part].sum()) for part in parts) / len(gold)


def equal_width_error(probs, gold, bins):
    confidence, right = probs.max(1), probs.argmax(1) == gold
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)
    return sum(abs((confidence - right)[bin_of == b].sum()) for b in range(bins)) / len(gold)


def signed_error(probs, gold, bins):
    return adaptive_error(probs, gold, bins, gap=float)


def mean_of_bins(probs, gold, bins):
    confidence, right = probs.max(1), probs.argmax(1) == gold
    return np.mean([abs((confidence - right)[part].mean()) for part in np.array_split(confidence.argsort(), bins)])


def error_of_gold_probability(probs, gold, bins):
    confidence, right = probs[np.arange(len(gold)), gold], probs.argmax(1) == gold
    order = probs.max(1).argsort(kind="stable")
    return sum(abs((confidence - right)[part].sum()) for part in np.array_split(order, bins)) / len(gold)


# --- 9


def losses_in_logs(probs, gold, temperatures):
    logits = np.log(np.maximum(probs, 1e-10))[None] / np.asarray(temperatures)[:, None, None]
    logp = logits - np.log(np.exp(logits).sum(2, keepdims=True))
    return -logp[:, np.arange(len(gold)), gold].mean(1)


def losses_inverse(probs, gold, temperatures):
    return losses_in_logs(probs, gold, 1 / temperatures)


def losses_unnormalized(probs, gold, temperatures):
    return -np.log(np.maximum(probs, 1e-10))[np.arange(len(gold)), gold].mean() / temperatures


def log_likelihoods(probs, gold, temperatures):
    return -losses_in_logs(probs, gold, temperatures)


def summed_losses(probs, gold, temperatures):
    return losses_in_logs(probs, gold, temperatures)[:, None].repeat(len(gold), 1).sum(1)


def losses_without_clip(probs, gold, temperatures):
    with np.errstate(divide="ignore", invalid="ignore"):
        p = probs[None] ** (1 / temperatures[:, None, None])
        return -np.log(p / p.sum(2, keepdims=True))[:, np.arange(len(gold)), gold].mean(1)


WRONG = {
    "A1.1": {
        "abstentions in the denominator": (shares_over_all_functions, "abstention: it counts in the denominator"),
        "-1 as an index": (shares_wrap_around, "abstention: −1 is used as an index"),
        "equal weights": (shares_unweighted, "weight"),
        "uniform over padding": (shares_uniform_over_padding, "mask"),
        "0 / 0": (shares_divided_by_zero, "not finite"),
    },
    "A1.2": {
        "abstentions are wrong votes": (accuracy_over_all_examples, "abstention: it counts as a wrong vote"),
        "-1 as an index": (accuracy_wraps_around, "abstention: −1 is used as an index"),
        "no pseudo-votes": (accuracy_without_pseudo_votes, "pseudo-votes: they are missing"),
        "pseudo-votes not in the denominator": (accuracy_half_smoothed, "pseudo-votes: they are in the numerator only"),
        "hard labels": (accuracy_of_hard_labels, "hard labels"),
    },
    "A1.3": {
        "wrong options not divided": (one_coin_undivided, "scale"),
        "k of the widest example": (one_coin_widest, "mask: the wrong options"),
        "padding gets probability": (one_coin_unmasked, "mask: options that an example does not have"),
        "equal weights": (one_coin_unweighted, "weight"),
        "product underflows": (one_coin_underflows, "not finite"),
    },
    "A1.4": {
        "one round too few": (em_stops_early, "off by one: EM runs one round too few"),
        "one round too many": (em_one_more, "off by one: EM runs one round too many"),
        "hard labels": (em_hard, "hard labels"),
        "uniform start": (em_from_uniform, "start"),
        "another M-step": (em_ends_with_m_step, "order"),
        "no accuracies": (em_only_posterior, "type"),
    },
    "A1.5": {
        "columns sum to 1": (confusion_by_vote, "axis"),
        "counts": (confusion_unnormalized, "scale"),
        "transposed": (confusion_transposed, "axis"),
        "no pseudo-votes": (confusion_unsmoothed, "pseudo-votes"),
        "abstentions as votes": (confusion_wraps_around, "abstention"),
    },
    "A1.6": {
        "no prior": (full_without_prior, "prior: it is missing"),
        "prior for each vote": (full_prior_per_vote, "prior: it counts once for each vote"),
        "transposed": (full_transposed, "axis"),
        "abstentions as votes": (full_wraps_around, "abstention"),
    },
    "A1.7": {
        "silence is agreement": (families_of_silence, "abstention"),
        "more than min_shared": (families_more_than, "off by one: min_shared"),
        "size, not weight": (family_sizes, "inverse"),
        "any overlap": (families_unlimited, "min_shared: "),
        "without itself": (families_without_itself, "off by one: a function belongs"),
    },
    "A1.8": {
        "equal width": (equal_width_error, "bins"),
        "signed gaps": (signed_error, "sign"),
        "unweighted bins": (mean_of_bins, "weight"),
        "gold probability": (error_of_gold_probability, "confidence"),
    },
    "A1.9": {
        "T, not 1/T": (losses_inverse, "inverse"),
        "not normalized": (losses_unnormalized, "scale"),
        "log-likelihood": (log_likelihoods, "sign"),
        "summed": (summed_losses, "scale"),
        "log of 0": (losses_without_clip, "not finite"),
    },
}

RIGHT = {
    "A1.1": [shares_in_float32],
    "A1.2": [accuracy_by_columns],
    "A1.3": [one_coin, one_coin_by_odds],
    "A1.4": [em, em_recursive],
    "A1.5": [confusion],
    "A1.6": [full, full_in_plain_probabilities],
    "A1.7": [families],
    "A1.8": [adaptive_error],
    "A1.9": [losses_in_logs],
}
