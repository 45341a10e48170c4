"""Votes between two replies, blind: a file of JSON lines, and what it adds up to.

    {"question": …, "left": model, "right": model, "replies": [left's, right's], "choice": "left", "time": …}

One line a vote, put at the file's end in one write and forced to the disk: what was voted is there after a crash.
"""

import json
import math
import os
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from matplotlib import rc_context
from matplotlib.figure import Figure

from icft_lite.errors import ICFTError
from icft_lite.metrics import binomial_interval
from icft_lite.reporting.figures import DASHED, GENERAL, GREY, RC

CHOICES = ("left", "right", "tie")
FIELDS = {"question", "left", "right"}


def add_vote(path, question, left, right, replies, choice):
    """Append one vote and return it (a dict). Raises ICFTError, one line, if it cannot be written."""
    if choice not in CHOICES:
        raise ICFTError(f"vote {choice!r}: choose one of {', '.join(CHOICES)}")
    vote = dict(
        question=question,
        left=left,
        right=right,
        replies=list(replies),
        choice=choice,
        time=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    )
    line = json.dumps(vote) + "\n"  # \u escapes: one line, whatever a model says
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+", buffering=0) as file:
            if not _ends_a_line(file):  # half a line, where a crash cut the write: it must not spoil this one
                line = "\n" + line
            if file.write(line.encode()) < len(line):
                raise OSError(28, os.strerror(28))
            os.fsync(file.fileno())
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ICFTError(f"{path}: the vote cannot be written ({why}); free some space or choose another file") from None
    return vote


def _ends_a_line(file):
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def read_votes(path):
    """All votes of a file, oldest first; none if there is no file. Half a line, which a crash left, is passed over.

    Raises ICFTError, naming the line, for one that is JSON but no vote."""
    path, votes = Path(path), []
    if not path.exists():
        return votes
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        try:
            vote = json.loads(line)
        except ValueError:
            continue
        if not isinstance(vote, dict) or vote.get("choice") not in CHOICES or not FIELDS <= set(vote):
            raise ICFTError(f"{path}: line {number} is no vote; give a file that a vote panel wrote")
        votes.append(vote)
    return votes


class PairwiseResult(NamedTuple):
    wins: int
    losses: int
    ties: int
    rate: float
    low: float
    high: float


def pairwise_result(votes, a, b, confidence=0.95):
    """How often a won against b: rate = wins ÷ (wins + losses), with its Wilson interval. Ties are only counted.

    Where nothing is decided, the rate is NaN and the interval 0 to 1."""
    won = Counter()
    for vote in votes:
        if {vote["left"], vote["right"]} == {a, b}:
            won["tie" if vote["choice"] == "tie" else vote[vote["choice"]]] += 1
    decided = won[a] + won[b]
    low, high = binomial_interval(won[a], decided, confidence, "wilson") if decided else (0.0, 1.0)
    return PairwiseResult(won[a], won[b], won["tie"], won[a] / decided if decided else math.nan, low, high)


def pairwise_results(votes):
    """{(a, b): Duel} for each pair that was voted on, in the order of names."""
    pairs = sorted({tuple(sorted((vote["left"], vote["right"]))) for vote in votes})
    return {pair: pairwise_result(votes, *pair) for pair in pairs}


def left_share(votes):
    """(how often the left one was chosen, of how many decided votes): sides are drawn by lot, so about half."""
    decided = [vote["choice"] for vote in votes if vote["choice"] != "tie"]
    return decided.count("left"), len(decided)


def votes_figure(votes):
    """Each pair's win rate with its 95 % Wilson interval, as a matplotlib Figure."""
    found = pairwise_results(votes)
    with rc_context(RC):
        figure = Figure(figsize=(7, 1.6 + 0.6 * max(1, len(found))))
        axis = figure.subplots()
    for y, one in enumerate(found.values()):
        axis.plot([one.low, one.high], [y, y], color=GENERAL, linewidth=3, solid_capstyle="butt")
        axis.plot(one.rate, y, "o", color=GENERAL, markersize=8, clip_on=False)  # whole at 0 and 1 too
        axis.annotate(
            f"{one.wins} : {one.losses}, {one.ties} tie{'s' * (one.ties != 1)}",
            (1.02, y),
            va="center",
            fontsize=9,
            annotation_clip=False,
        )
    axis.axvline(0.5, color=GREY, **DASHED)
    axis.set(xlim=(0, 1), ylim=(-0.7, max(1, len(found)) - 0.3))
    axis.set_yticks(range(len(found)), [f"{a} against {b}" for a, b in found])
    axis.set_xlabel("share of decided votes that the first one won (bar: 95 % Wilson interval)")
    axis.set_title("Blind votes" if found else "Blind votes: none yet", loc="left")
    return figure
