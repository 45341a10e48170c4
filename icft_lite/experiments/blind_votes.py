"""Blind votes between the replies of two models: a file of JSON lines, and win rates with intervals.

    {"question": …, "left": model, "right": model, "replies": [left, right], "choice": "left", "time": …}

There is one line per vote. Each line is appended in one write and flushed to the disk, so that a crash loses no vote.
"""

import json
import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from matplotlib.figure import Figure

from icft_lite.errors import ICFTError
from icft_lite.reporting.style import DASHED, GENERAL, GREY, subplots
from icft_lite.statistics import binomial_interval

CHOICES = ("left", "right", "tie")
REQUIRED = {"question", "left", "right"}
"""Keys of a vote besides `choice`."""

Vote = dict[str, Any]
"""One line of the file."""


def add_vote(path: Path | str, question: str, left: str, right: str, replies: Sequence[str], choice: str) -> Vote:
    """Append a vote to the file and return it.

    left, right: names of the models; replies: theirs, in this order; choice: one of CHOICES. Raises ICFTError if the
    file cannot be written.
    """
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
    line = json.dumps(vote) + "\n"  # json.dumps escapes line separators: every vote is one line
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+", buffering=0) as file:
            if not _ends_with_newline(file):  # a crash left an incomplete line, which must not absorb this one
                line = "\n" + line
            if file.write(line.encode()) < len(line):
                raise OSError(28, os.strerror(28))  # 28 is ENOSPC: an unbuffered write may be short
            os.fsync(file.fileno())
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise ICFTError(f"{path}: the vote cannot be written ({why}); free some space or choose another file") from None
    return vote


def _ends_with_newline(file: BinaryIO) -> bool:
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"


def read_votes(path: Path | str) -> list[Vote]:
    """Return all votes of a file, oldest first; an empty list if the file does not exist.

    An incomplete line, left by a crash, is skipped. Raises ICFTError with the line number for a line that is valid JSON
    but not a vote.
    """
    path, votes = Path(path), list[Vote]()
    if not path.exists():
        return votes
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        try:
            vote = json.loads(line)
        except ValueError:
            continue
        if not isinstance(vote, dict) or vote.get("choice") not in CHOICES or not REQUIRED <= set(vote):
            raise ICFTError(f"{path}: line {number} is not a vote; choose a file that a vote panel wrote")
        votes.append(vote)
    return votes


class PairwiseResult(NamedTuple):
    """Result of the votes between two models, from the point of view of the first."""

    wins: int
    losses: int
    ties: int
    rate: float
    """wins ÷ (wins + losses); NaN without decided votes."""
    low: float
    """Lower bound of the interval of `rate`; 0 without decided votes."""
    high: float
    """Upper bound of the interval of `rate`; 1 without decided votes."""


def pairwise_result(votes: Sequence[Vote], a: str, b: str, confidence: float = 0.95) -> PairwiseResult:
    """Return how often model a won against model b, with a Wilson interval of its win rate.

    Ties are counted but do not enter the rate. See `statistics.binomial_interval` for the interval (Wilson, 1927).
    """
    won: Counter[str] = Counter()
    ties = 0
    for vote in votes:
        if {vote["left"], vote["right"]} != {a, b}:
            continue
        if vote["choice"] == "tie":
            ties += 1
        else:
            won[vote[vote["choice"]]] += 1
    decided = won[a] + won[b]
    low, high = binomial_interval(won[a], decided, confidence, "wilson") if decided else (0.0, 1.0)
    return PairwiseResult(won[a], won[b], ties, won[a] / decided if decided else math.nan, low, high)


def pairwise_results(votes: Sequence[Vote]) -> dict[tuple[str, str], PairwiseResult]:
    """Return {(a, b): PairwiseResult} of every pair of models with votes, sorted by name."""
    pairs = sorted({(min(names), max(names)) for names in ((vote["left"], vote["right"]) for vote in votes)})
    return {(a, b): pairwise_result(votes, a, b) for a, b in pairs}


def left_share(votes: Sequence[Vote]) -> tuple[int, int]:
    """Return (number of decided votes for the left reply, number of decided votes).

    The sides are assigned at random, so a share far from one half indicates a position bias.
    """
    decided = [vote["choice"] for vote in votes if vote["choice"] != "tie"]
    return decided.count("left"), len(decided)


def votes_figure(votes: Sequence[Vote]) -> Figure:
    """Return a figure of each pair's win rate with its 95 % Wilson interval. The dashed line is a rate of one half."""
    results = pairwise_results(votes)
    figure, (axis,) = subplots((7, 1.8 + 0.6 * max(1, len(results))))
    for y, one in enumerate(results.values()):
        axis.plot([one.low, one.high], [y, y], color=GENERAL, linewidth=3, solid_capstyle="butt")
        axis.plot(one.rate, y, "o", color=GENERAL, markersize=8, clip_on=False)  # not cut off at 0 and 1
        axis.annotate(
            f"{one.wins} : {one.losses}, {one.ties} tie{'s' * (one.ties != 1)}",
            (1.02, y),
            va="center",
            fontsize=9,
            annotation_clip=False,
        )
    axis.axvline(0.5, color=GREY, **DASHED)
    axis.set(xlim=(0, 1), ylim=(-0.7, max(1, len(results)) - 0.3))
    axis.set_yticks(range(len(results)), [f"{a} vs. {b}" for a, b in results])
    axis.set_xlabel("win rate of the first model in decided votes\n(bar: 95 % Wilson interval; dashed: no preference)")
    axis.set_title(f"Blind votes, n = {len(votes)}" if results else "Blind votes: none yet", loc="left")
    return figure
