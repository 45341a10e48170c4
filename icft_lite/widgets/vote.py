"""Blind pairwise comparison of models: a reader chooses the left or the right reply.

Each vote is saved in a file. The names of the models and the result are hidden until the reader asks for them.
"""

import itertools
import random
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from IPython.display import HTML

from icft_lite.errors import ICFTError
from icft_lite.experiments.blind_votes import Vote, add_vote, left_share, pairwise_results, read_votes
from icft_lite.utils.notice import NOTICE
from icft_lite.widgets.ask import Model, safe_reply
from icft_lite.widgets.table import REPLY_WIDTH, html_table, pluralize


def votes_table(votes: Sequence[Vote]) -> HTML:
    """Return a table with wins, losses, ties, win rate and its 95 % Wilson interval for each pair of models."""
    return HTML(_result(votes))


class VotePanel(widgets.VBox):
    """One question and the replies of two models without their names.

    The models are assigned to the two sides at random. Pairs of identical replies are skipped. Pairs that are in the
    file already are not shown again, so that a new panel on the same file continues.

    votes: all votes of the file; current: (question, [left, right] names, [left, right] replies) or None at the end;
    remaining: pairs to be shown; num_pairs: number of pairs at the start; num_identical: number of skipped pairs.

    The children are question, replies, (left, right, tie), reveal, result. All controls are native: Tab reaches them,
    Space or Enter presses them.
    """

    def __init__(
        self, models: Mapping[str, Model], questions: Sequence[str], path: Path | str, seed: int = 0, pause: float = 0.5
    ) -> None:
        if len(models) < 2:
            raise ICFTError(f"models: {len(models)} given, a vote needs two or more; pass {{name: callable}}")
        self.models, self.path, self.pause, self.votes = models, path, pause, read_votes(path)
        done = {_key(vote["question"], vote["left"], vote["right"]) for vote in self.votes}
        pairs = [
            (question, *names)
            for question in dict.fromkeys(questions)
            for names in itertools.combinations(models, 2)
            if _key(question, *names) not in done
        ]
        random.Random(seed).shuffle(pairs)
        self.remaining, self.num_identical, self.num_pairs = pairs, 0, len(pairs)
        self.current: tuple[str, list[str], list[str]] | None = None
        self.shown_at = 0.0
        self.lock = threading.Lock()  # JupyterLab may run the callbacks of two controls in two threads
        # "sides/" seeds the generator: changing it changes which model is on the left.
        self.sides = random.Random(f"sides/{seed}/{len(self.votes)}")
        self.question, self.replies, self.result = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.buttons = {
            choice: widgets.Button(description=text, tooltip=tooltip)
            for choice, text, tooltip in (
                ("left", "Left is better", "vote for the left reply"),
                ("right", "Right is better", "vote for the right reply"),
                ("tie", "No difference", "neither reply is better"),
            )
        }
        self.reveal = widgets.ToggleButton(
            value=False, description="Show the result", tooltip="show the models' names and win rates; best at the end"
        )
        super().__init__(
            [
                self.question,
                self.replies,
                widgets.HBox(list(self.buttons.values()), layout=widgets.Layout(flex_flow="row wrap")),
                self.reveal,
                self.result,
            ]
        )
        for choice, button in self.buttons.items():
            button.on_click(lambda _, choice=choice: self._vote(choice))
        self.reveal.observe(self._show_result, "value")
        self._next()

    def _next(self) -> None:
        """Find and show the next pair of different replies."""
        self.current = None
        while self.remaining and self.current is None:
            question, *names = self.remaining.pop()
            self.sides.shuffle(names)
            self.replies.value = _pair(question, ["…", "…"])
            replies = [safe_reply(self.models[name], question) for name in names]
            if replies[0] == replies[1]:
                self.num_identical += 1
            else:
                self.current = question, names, replies
        self._show()
        self.shown_at = time.monotonic()

    def _show(self, error: str = "") -> None:
        status = (
            f"{pluralize(self.votes, 'vote')} so far, {pluralize(self.remaining, 'pair')} remaining, "
            f"{self.num_identical} skipped because the replies were identical."
        )
        if self.current is None:
            self.question.value, self.replies.value = html_table([], [], f"No pairs are left. {status}"), ""
            for button in self.buttons.values():
                button.disabled = True
            return
        question, _, replies = self.current
        self.question.value = html_table([], [], f"{status} {error}".strip())
        self.replies.value = _pair(question, replies)

    def _vote(self, choice: str) -> None:
        with self.lock:
            # The second click of a double click, or a click while the models were generating, is not for this pair.
            if self.current is None or time.monotonic() - self.shown_at < self.pause:
                return
            question, (left, right), replies = self.current
            try:
                self.votes.append(add_vote(self.path, question, left, right, replies, choice))
            except ICFTError as error:
                self._show(str(error))  # a vote counts only if it is on the disk
                return
            self._next()
        self._show_result()

    def _show_result(self, _: Any = None) -> None:
        self.result.value = _result(self.votes) if self.reveal.value else ""


def vote_panel(
    models: Mapping[str, Model], questions: Sequence[str], path: Path | str, seed: int = 0, pause: float = 0.5
) -> VotePanel:
    """Return a VotePanel, in which a reader compares the replies of every pair of models.

    models: {name: callable(question) -> str}, two or more; questions: list of str; path: the file of votes (JSON
    lines), created if it does not exist, continued if it does; seed: of the order and the sides; pause: seconds after a
    new pair in which clicks are ignored. Raises ICFTError for fewer than two models, and for a file that contains
    something other than votes.
    """
    return VotePanel(models, questions, path, seed, pause)


def _key(question: str, a: str, b: str) -> tuple[str, ...]:
    return question, *sorted((a, b))


def _pair(question: str, replies: Sequence[str]) -> str:
    return html_table(["question", "left", "right"], [[question, *replies]], NOTICE, "two replies", REPLY_WIDTH)


def _result(votes: Sequence[Vote]) -> str:
    rows = [
        [f"{a} vs. {b}", one.wins, one.losses, one.ties, one.rate, f"{one.low:.2f} to {one.high:.2f}"]
        for (a, b), one in pairwise_results(votes).items()
    ]
    left, decided = left_share(votes)
    note = f"The left reply was chosen in {left} of {decided} decided votes." if decided else "No decided votes yet."
    return html_table(
        ["pair", "wins", "losses", "ties", "win rate", "95 % interval"], rows, note, "result of the votes"
    )
