"""Label models, which turn the votes of labelling functions (LFs) into a posterior over each example's options.

Votes are an int matrix [n, m]: one row per example, one column per LF. A vote is the index of an option; ABSTAIN
(−1) means that the LF does not vote. Examples may differ in their number of options, so `n_options` is an int or an
int array [n]. Posteriors are float64 [n, k_max], where k_max is the largest number of options.
"""

from typing import Self

import numpy as np
from numpy.typing import ArrayLike

from icft_lite.errors import ICFTError

ABSTAIN = -1
"""The vote of a labelling function that does not vote."""
TINY = 1e-10  # avoids log(0) and is too small to change an estimate
MIN_VOTERS = 3
"""The error rates of single LFs are identifiable from this many different voters on."""
PRIOR_SKILL = 0.5
"""Chance-corrected accuracy of an LF before its votes are compared with others: (accuracy − 1/k) / (1 − 1/k)."""
MIN_SKILL = 0.05
"""The smallest prior skill: it lets votes break ties, and is too small for confidence."""
PRIOR_PAIRS = 10
"""Weight of PRIOR_SKILL, as a number of pairs of votes."""


def all_abstained(votes: ArrayLike) -> np.ndarray:
    """Return a mask, bool [n], of the examples on which no LF votes.

    There is no evidence about the label of such an example, so training leaves it out.
    """
    return (check_votes(votes) == ABSTAIN).all(1)


def distinct_voters(votes: ArrayLike) -> np.ndarray:
    """Return a mask, bool [m], of the LFs that vote at all, and not exactly as an LF before them does."""
    votes = check_votes(votes)
    first = np.zeros(votes.shape[1], bool)
    first[np.unique(votes, axis=1, return_index=True)[1]] = True
    return first & (votes != ABSTAIN).any(0)


class MajorityVote:
    """Majority vote: the posterior of an option is its share of the votes, so ties are split evenly."""

    def fit(self, votes: ArrayLike, n_options: ArrayLike) -> Self:
        """Check the votes and return self; majority vote has no parameters.

        Raises ICFTError as `predict_proba` does.
        """
        _one_hot(votes, n_options)
        return self

    def predict_proba(self, votes: ArrayLike, n_options: ArrayLike) -> np.ndarray:
        """Return posteriors, float64 [n, k_max].

        Examples without votes get a uniform posterior over their options. Entries beyond an example's options are 0.
        Raises ICFTError for a matrix of the wrong shape or type, or a vote beyond an example's options.
        """
        ballots, available = _one_hot(votes, n_options)
        return _normalize(ballots.sum(1), available)


class DawidSkene:
    """Dawid–Skene label model: EM over the true labels and the error rates of each LF.

    An abstention counts as a missing vote. EM starts from majority vote, so the votes of an LF that is worse than
    chance count as evidence against what it votes for, as long as the better LFs prevail.

    With full confusion (`one_coin=False`), labels must mean the same in every example. The model is a class prior
    and `confusion[j, c, v]` = P(LF j votes v | LF j votes and the truth is c). This model learns nothing from an LF
    that only ever votes for one label, because that vote is then certain whatever the truth is. Give such an LF a
    second label to vote for.

    With one coin (`one_coin=True`), options may be in shuffled order and differ in number. LF j is right with
    probability a_j, and otherwise votes uniformly for one of the other k_i − 1 options of example i. The prior is
    uniform.

    `prior_strength` adds pseudo-votes to each LF's votes in the M-step (MAP estimation with a Dirichlet prior), so that
    few votes do not lead to posteriors near 1. All LFs have the same prior accuracy, see `prior_accuracy`. An LF that
    votes exactly like another does not count. With fewer than MIN_VOTERS other LFs, every LF keeps the prior accuracy:
    a single vote then has the posterior 0.75 at most for two options and 0.63 for four, two equal votes 0.90 and 0.89.
    0 is maximum likelihood, as published.

    Source: Dawid and Skene (1979); Zhang et al. (2016) for one coin.
    """

    accuracies: np.ndarray
    """float64 [m], after `fit`: expected accuracy of each LF on the examples where it votes; NaN if it never does."""
    confusion: np.ndarray
    """float64 [m, k, k], after `fit` with full confusion."""
    prior: np.ndarray
    """float64 [k], after `fit` with full confusion: the class prior."""

    def __init__(
        self, one_coin: bool = False, n_iter: int = 100, tol: float = 1e-6, prior_strength: float = 0.0
    ) -> None:
        """Set up the model; EM stops after `n_iter` iterations, or when no posterior changes by `tol` or more."""
        self.one_coin, self.n_iter, self.tol, self.prior_strength = one_coin, n_iter, tol, prior_strength
        self._prior_accuracy = 0.0
        self._counted: np.ndarray | None = None  # bool [m]: whether the votes of the LF count

    def fit(self, votes: ArrayLike, n_options: ArrayLike) -> Self:
        """Fit the model on votes, int [n, m], and return self.

        n_options: int, or int [n] with one coin only. Raises ICFTError for a matrix of the wrong shape or type, a
        vote beyond an example's options, a matrix without any vote, or, with full confusion, examples that differ in
        their number of options.
        """
        all_ballots, available = _one_hot(votes, n_options)
        voted = all_ballots.any((1, 2))
        all_ballots, available = all_ballots[voted], available[voted]
        if not len(all_ballots):
            raise ICFTError("votes: no labelling function votes on any example; write one that does")
        if not self.one_coin and not available.all():
            raise ICFTError(
                "n_options: full confusion needs the same number of options in all examples; use one_coin=True"
            )
        voters = distinct_voters(votes)
        self._counted = voters if self.prior_strength else np.asarray(all_ballots.any((0, 2)))
        ballots = all_ballots * self._counted[:, None]
        posterior = _normalize(ballots.sum(1), available)
        if self.prior_strength:
            self._prior_accuracy = prior_accuracy(ballots, available)
            self._m_step(np.zeros_like(ballots), posterior)  # without votes, this sets the prior
            posterior = self._e_step(ballots, available)
        identifiable = not self.prior_strength or voters.sum() >= MIN_VOTERS
        for _ in range(self.n_iter if identifiable else 0):
            previous = posterior
            self._m_step(ballots, posterior)
            posterior = self._e_step(ballots, available)
            if np.abs(posterior - previous).max() < self.tol:
                break
        expected_right = np.einsum("njc,nc->j", all_ballots, posterior)
        with np.errstate(invalid="ignore"):
            self.accuracies = expected_right / all_ballots.sum((0, 2))
        return self

    def predict_proba(self, votes: ArrayLike, n_options: ArrayLike) -> np.ndarray:
        """Return posteriors, float64 [n, k_max].

        Examples without votes get a uniform posterior over their options. Votes of an LF that did not count in `fit`
        are ignored. Raises ICFTError before `fit`, for invalid votes, or for another number of LFs, or of options
        with full confusion, than in `fit`.
        """
        ballots, available = _one_hot(votes, n_options)
        if self._counted is None:
            raise ICFTError("DawidSkene: the model is not fitted; call fit before predict_proba")
        if ballots.shape[1] != len(self._counted):
            raise ICFTError(
                f"votes: {ballots.shape[1]} columns, but the model was fitted on {len(self._counted)}; "
                "apply the same labelling functions"
            )
        if not self.one_coin and available.shape[1] != len(self.prior):
            raise ICFTError(
                f"n_options: {available.shape[1]}, but the model was fitted on {len(self.prior)}; use the same number"
            )
        ballots = ballots * self._counted[:, None]
        posterior = self._e_step(ballots, available)
        no_votes = ~ballots.any((1, 2))
        posterior[no_votes] = _normalize(ballots[no_votes].sum(1), available[no_votes])
        return posterior

    def _m_step(self, ballots: np.ndarray, posterior: np.ndarray) -> None:
        """Re-estimate the error rates, and the prior with full confusion, from the posteriors [n, k_max]."""
        strength, expected = self.prior_strength, self._prior_accuracy
        if self.one_coin:
            right = np.einsum("njc,nc->j", ballots, posterior) + strength * expected
            accuracy = right / np.maximum(ballots.sum((0, 2)) + strength, 1)
            self._coin_accuracy = accuracy.clip(TINY, 1 - TINY)
            return
        n, k = posterior.shape
        pseudo = np.where(np.eye(k), expected, (1 - expected) / (k - 1)) * strength / k
        counts = np.einsum("nc,njv->jcv", posterior, ballots) + pseudo + TINY
        self.confusion = counts / counts.sum(2, keepdims=True)
        prior = posterior.mean(0) + strength / (k * n) + TINY
        self.prior = prior / prior.sum()

    def _e_step(self, ballots: np.ndarray, available: np.ndarray) -> np.ndarray:
        """Return the posteriors, float64 [n, k_max], under the current error rates."""
        if self.one_coin:
            log_wrong = np.log1p(-self._coin_accuracy)[None, :] - np.log(available.sum(1) - 1)[:, None]
            voted = ballots.sum(2)
            log_joint = np.einsum("njc,j->nc", ballots, np.log(self._coin_accuracy)) + (
                (voted * log_wrong).sum(1)[:, None] - np.einsum("njc,nj->nc", ballots, log_wrong)
            )
        else:
            log_joint = np.log(self.prior) + np.einsum("njv,jcv->nc", ballots, np.log(self.confusion))
        log_joint = np.where(available, log_joint, -np.inf)
        joint = np.exp(log_joint - log_joint.max(1, keepdims=True))
        return joint / joint.sum(1, keepdims=True)


def prior_accuracy(ballots: np.ndarray, available: np.ndarray) -> float:
    """Return the accuracy of an average LF that its agreement with the others supports, before EM.

    Two one-coin LFs of skill s (chance-corrected accuracy) agree s² more often than by chance, chance-corrected. The
    skill is estimated from the pooled agreement of all pairs of votes, less two standard errors under chance, and is
    between MIN_SKILL and PRIOR_SKILL: agreement may lower it, but not raise it, because LFs that copy each other agree
    as well.

    ballots: [n, m, k_max]; available: [n, k_max]
    """
    counts, chance = ballots.sum(1), 1 / available.sum(1)
    pairs = counts.sum(1) * (counts.sum(1) - 1) / 2
    excess = ((counts * (counts - 1) / 2).sum(1) - pairs * chance).sum()
    excess -= 2 * np.sqrt((pairs * chance * (1 - chance)).sum())
    squared = (excess + PRIOR_PAIRS * PRIOR_SKILL**2) / ((pairs * (1 - chance)).sum() + PRIOR_PAIRS)
    skill = np.sqrt(np.clip(squared, MIN_SKILL**2, PRIOR_SKILL**2))
    return float(chance.mean() + skill * (1 - chance.mean()))


def check_votes(votes: ArrayLike) -> np.ndarray:
    """Return the votes as an int array [n, m]; raise ICFTError for a wrong shape or dtype."""
    votes = np.asarray(votes)
    if votes.ndim != 2 or votes.shape[1] == 0 or not np.issubdtype(votes.dtype, np.integer):
        raise ICFTError(
            f"votes: got a {votes.dtype} array of shape {votes.shape}; give integers [examples, labelling functions]"
        )
    return votes


def _one_hot(votes: ArrayLike, n_options: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return ballots, float64 [n, m, k_max] (zeros for an abstention), and the available options, bool [n, k_max]."""
    votes = check_votes(votes)
    n_options = np.asarray(n_options)
    if n_options.ndim == 0:
        n_options = np.full(len(votes), n_options)
    integers = np.issubdtype(n_options.dtype, np.integer)
    if n_options.shape != (len(votes),) or not integers or (n_options < 2).any():
        raise ICFTError(
            f"n_options: got a {n_options.dtype} array of shape {n_options.shape} for {len(votes)} examples; "
            "give one integer ≥ 2, or one per example"
        )
    invalid = np.argwhere((votes < ABSTAIN) | (votes >= n_options[:, None]))
    if len(invalid):
        i, j = invalid[0]
        raise ICFTError(
            f"votes: row {i}, column {j} is {votes[i, j]}, but the example has {n_options[i]} options; "
            f"vote 0 to {n_options[i] - 1}, or -1 to abstain"
        )
    classes = np.arange(n_options.max(initial=2))
    return (votes[:, :, None] == classes).astype(np.float64), classes < n_options[:, None]


def _normalize(counts: np.ndarray, available: np.ndarray) -> np.ndarray:
    """Return counts [n, k_max] divided by their sum; uniform over the available options where the sum is 0."""
    total = counts.sum(1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), available / available.sum(1, keepdims=True))
