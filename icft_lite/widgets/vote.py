"""Compare two models blind: which reply is better, left or right? Votes go to a file; the result is one click away."""

import itertools
import random
import threading
import time

import ipywidgets as widgets
from IPython.display import HTML

from icft_lite.errors import ICFTError
from icft_lite.experiments.votes import add_vote, left_share, pairwise_results, read_votes
from icft_lite.widgets.table import html_table, pluralize


def votes_table(votes):
    """Wins, losses, ties, win rate and its 95 % Wilson interval of each pair: an IPython.display.HTML."""
    return HTML(_result(votes))


class VotePanel(widgets.VBox):
    """One question, two replies, no names. The sides are drawn by lot; the result shows when it is asked for.

    Pairs that say the same are passed over, for nobody could tell them apart. What is in the file already is not
    asked again, so a panel on the same file goes on. Children: question, replies, (left, right, tie), reveal,
    result. All are native controls: Tab reaches them, Space or Enter presses."""

    def __init__(self, models, questions, path, seed=0, pause=0.5):
        if len(models) < 2:
            raise ICFTError("models: a vote needs two or more; give {name: callable}")
        self.models, self.path, self.pause, self.votes = models, path, pause, read_votes(path)
        done = {_key(vote["question"], vote["left"], vote["right"]) for vote in self.votes}
        contests = [
            (question, *pair)
            for question in dict.fromkeys(questions)
            for pair in itertools.combinations(models, 2)
            if _key(question, *pair) not in done
        ]
        random.Random(seed).shuffle(contests)
        self.waiting, self.current, self.same, self.total = contests, None, 0, len(contests)
        self.counting = threading.Lock()  # JupyterLab may run two controls' callbacks in two threads
        self.sides = random.Random(f"sides/{seed}/{len(self.votes)}")
        self.question, self.replies, self.result = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self.buttons = {
            choice: widgets.Button(description=text, tooltip=tip)
            for choice, text, tip in (
                ("left", "Left is better", "vote for the left reply"),
                ("right", "Right is better", "vote for the right reply"),
                ("tie", "No difference", "neither reply is better"),
            )
        }
        self.reveal = widgets.ToggleButton(
            value=False, description="Show the result", tooltip="name the models and show the win rate; best at the end"
        )
        super().__init__(
            [self.question, self.replies, widgets.HBox(list(self.buttons.values())), self.reveal, self.result]
        )
        for choice, button in self.buttons.items():
            button.on_click(lambda _, choice=choice: self._vote(choice))
        self.reveal.observe(self._show_result, "value")
        self._next()

    def _next(self):
        """Find the next pair of different replies, and show it."""
        self.current = None
        while self.waiting and self.current is None:
            question, *names = self.waiting.pop()
            self.sides.shuffle(names)
            self.replies.value = html_table(["question", "left", "right"], [[question, "…", "…"]])
            replies = [_reply(self.models[name], question) for name in names]
            if replies[0] == replies[1]:
                self.same += 1
            else:
                self.current = question, names, replies
        self._show()
        self.shown = time.monotonic()

    def _show(self, trouble=""):
        done = (
            f"{pluralize(self.votes, 'vote')} so far; {pluralize(self.waiting, 'pair')} to come; "
            f"{self.same} said the same"
        )
        if self.current is None:
            self.question.value, self.replies.value = html_table([], [], f"That was all. {done}."), ""
            for button in self.buttons.values():
                button.disabled = True
            return
        question, _, replies = self.current
        self.question.value = html_table([], [], f"{done}.{' ' * bool(trouble)}{trouble}")
        self.replies.value = html_table(["question", "left", "right"], [[question, *replies]])

    def _vote(self, choice):
        with self.counting:
            # A second click of a double click, or one made while the models were still writing, was not meant for this.
            if self.current is None or time.monotonic() - self.shown < self.pause:
                return
            question, (left, right), replies = self.current
            try:
                self.votes.append(add_vote(self.path, question, left, right, replies, choice))
            except ICFTError as error:
                self._show(str(error))  # nothing is counted that is not on the disk
                return
            self._next()
        self._show_result()

    def _show_result(self, _=None):
        self.result.value = _result(self.votes) if self.reveal.value else ""


def vote_panel(models, questions, path, seed=0, pause=0.5):
    """A VotePanel. models: {name: callable(question) -> str}, two or more, each pair of them compared; questions:
    list of str; path: the file of votes (JSON lines), made if need be, gone on with if it is there; seed: of order
    and sides; pause: seconds in which a click after a new pair is not counted. Raises ICFTError for fewer than two
    models and a file that holds something else."""
    return VotePanel(models, questions, path, seed, pause)


def _key(question, a, b):
    return question, *sorted((a, b))


def _reply(model, question):
    try:
        return str(model(question))
    except ICFTError as error:
        return f"({error})"


def _result(votes):
    rows = [
        [f"{a} against {b}", one.wins, one.losses, one.ties, one.rate, f"{one.low:.2f} to {one.high:.2f}"]
        for (a, b), one in pairwise_results(votes).items()
    ]
    left, decided = left_share(votes)
    note = f"The left reply was chosen in {left} of {decided} decided votes." if decided else "No vote is decided yet."
    return html_table(["pair", "wins", "losses", "ties", "win rate", "95 % interval"], rows, note)
