"""Label models: votes [n, m] of labelling functions (LFs) into posteriors [n, k_max].

A row may have its own number of options, so `n_options` is an int or an int array [n]; ABSTAIN = -1 is no
vote.
"""

import numpy as np

from icft_lite.errors import ICFTError

ABSTAIN = -1
TINY = 1e-10  # keeps log 0 away, and is too small to move an estimate


def all_abstained(votes):
    """True where no LF voted: such a row knows nothing and is dropped. Returns bool [n]."""
    return (check_votes(votes) == ABSTAIN).all(1)


class MajorityVote:
    """Every vote counts one, and the posterior is each option's share, so ties split evenly."""

    def fit(self, votes, n_options):
        """Nothing to learn; checks the matrix. Raises ICFTError as `predict_proba` does."""
        _one_hot(votes, n_options)
        return self

    def predict_proba(self, votes, n_options):
        """Returns float64 [n, k_max]: uniform over a row's options if nobody voted, 0 beyond them."""
        ballots, options = _one_hot(votes, n_options)
        return _normalise(ballots.sum(1), options)


class DawidSkene:
    """Dawid & Skene (1979): EM over the true labels and each LF's error rates; an abstention is missing.

    Full (`one_coin=False`), for labels that mean the same in every row: `confusion[j, c, v]` = P(LF j
    votes v | it votes, truth c), and a class prior. One-coin (Zhang et al., 2016), for options in shuffled
    order: LF j is right with probability a_j and else errs uniformly over the row's other k_i − 1 options;
    the prior is uniform. EM starts from majority vote, so LFs worse than chance count against what they
    vote for as long as the better ones prevail. `accuracies` [m] are expected accuracies where an LF
    votes, NaN where it never did. Full confusion learns nothing from an LF that only ever votes one label:
    that vote is then certain, whatever the truth. Give such an LF a second label to vote for.
    """

    def __init__(self, one_coin=False, n_iter=100, tol=1e-6):
        self.one_coin, self.n_iter, self.tol = one_coin, n_iter, tol

    def fit(self, votes, n_options):
        """votes: int [n, m]; n_options: int, or int [n] (one-coin only). Returns self.

        Raises ICFTError for a matrix of the wrong shape, a vote beyond a row's options, no vote at all,
        or, with full confusion, rows that differ in their number of options.
        """
        ballots, options = _one_hot(votes, n_options)
        ballots, options = (x[ballots.any((1, 2))] for x in (ballots, options))
        if not len(ballots):
            raise ICFTError("votes: no labelling function voted on any row; write one that does")
        if not self.one_coin and not options.all():
            raise ICFTError("n_options: full confusion needs one number for all rows; use one_coin=True")
        self.seen = ballots.any((0, 2))
        posterior = _normalise(ballots.sum(1), options)
        for _ in range(self.n_iter):
            before = posterior
            self._maximise(ballots, options, posterior)
            posterior = self._expect(ballots, options)
            if np.abs(posterior - before).max() < self.tol:
                break
        right = np.einsum("njc,nc->j", ballots, posterior)
        with np.errstate(invalid="ignore"):
            self.accuracies = right / ballots.sum((0, 2))
        return self

    def predict_proba(self, votes, n_options):
        """Returns float64 [n, k_max]; rows without votes are uniform over their options. Raises ICFTError."""
        ballots, options = _one_hot(votes, n_options)
        if not hasattr(self, "seen"):
            raise ICFTError("DawidSkene: fit it before predict_proba")
        if ballots.shape[1] != len(self.seen):
            raise ICFTError(f"votes: {ballots.shape[1]} columns; the model was fitted on {len(self.seen)}")
        if not self.one_coin and options.shape[1] != len(self.prior):
            raise ICFTError(f"n_options: {options.shape[1]}; the model was fitted on {len(self.prior)}")
        ballots = ballots * self.seen[:, None]
        posterior = self._expect(ballots, options)
        silent = ~ballots.any((1, 2))
        posterior[silent] = _normalise(ballots[silent].sum(1), options[silent])
        return posterior

    def _maximise(self, ballots, options, posterior):
        if self.one_coin:
            share = np.einsum("njc,nc->j", ballots, posterior) / np.maximum(ballots.sum((0, 2)), 1)
            self._coin = share.clip(TINY, 1 - TINY)
            return
        counts = np.einsum("nc,njv->jcv", posterior, ballots) + TINY
        self.confusion = counts / counts.sum(2, keepdims=True)
        prior = posterior.mean(0) + TINY
        self.prior = prior / prior.sum()

    def _expect(self, ballots, options):
        if self.one_coin:
            wrong = np.log1p(-self._coin)[None, :] - np.log(options.sum(1) - 1)[:, None]
            voted = ballots.sum(2)
            log_joint = np.einsum("njc,j->nc", ballots, np.log(self._coin)) + (
                (voted * wrong).sum(1)[:, None] - np.einsum("njc,nj->nc", ballots, wrong)
            )
        else:
            log_joint = np.log(self.prior) + np.einsum("njv,jcv->nc", ballots, np.log(self.confusion))
        log_joint = np.where(options, log_joint, -np.inf)
        joint = np.exp(log_joint - log_joint.max(1, keepdims=True))
        return joint / joint.sum(1, keepdims=True)


def check_votes(votes):
    votes = np.asarray(votes)
    if votes.ndim != 2 or votes.shape[1] == 0 or not np.issubdtype(votes.dtype, np.integer):
        raise ICFTError(f"votes: {votes.dtype} array of shape {votes.shape}; give integers [rows, functions]")
    return votes


def _one_hot(votes, n_options):
    """ballots float64 [n, m, k_max] (a row of zeros = abstained) and options bool [n, k_max]."""
    votes = check_votes(votes)
    n_options = np.asarray(n_options)
    if n_options.ndim == 0:
        n_options = np.full(len(votes), n_options)
    whole = np.issubdtype(n_options.dtype, np.integer)
    if n_options.shape != (len(votes),) or not whole or (n_options < 2).any():
        raise ICFTError(
            f"n_options: {n_options.dtype} of shape {n_options.shape} for {len(votes)} rows; "
            "give one integer ≥ 2, or one a row"
        )
    bad = np.argwhere((votes < ABSTAIN) | (votes >= n_options[:, None]))
    if len(bad):
        i, j = bad[0]
        raise ICFTError(
            f"votes: row {i}, column {j} holds {votes[i, j]}, but the row has {n_options[i]} "
            "options; vote -1 to abstain"
        )
    classes = np.arange(n_options.max(initial=2))
    return (votes[:, :, None] == classes).astype(np.float64), classes < n_options[:, None]


def _normalise(counts, options):
    total = counts.sum(1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), options / options.sum(1, keepdims=True))
