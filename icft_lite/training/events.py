"""What a run reports while it works: events for callbacks, messages, and the seconds each phase takes."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from icft_lite.utils.progress import progress_shown

if TYPE_CHECKING:
    from icft_lite.memory.consolidation import CandidateScores
    from icft_lite.training.batches import StageBatches
    from icft_lite.training.plan import StagePlan
    from icft_lite.training.prepare import Prepared
    from icft_lite.training.stage import StageResult


class RunCallback(TrainerCallback):
    """A TrainerCallback that also receives the events of a run. Override the methods that you need.

    `train_icft(callbacks=[…])` accepts any TrainerCallback; the events below are sent to those that have a method of
    that name.
    """

    def on_phase(self, phase: str) -> None:
        """Handle the start of a phase.

        Phases of a run: load, evaluate, label, seed memory, difficulty. Of each stage: refresh, train, promote,
        consolidate, evaluate. At the end: evaluate.
        """

    def on_run_begin(self, prepared: "Prepared", results: "list[StageResult]", shares: list[float]) -> None:
        """Handle the start of training. `results` are those of stages that an earlier process finished."""

    def on_stage_begin(self, stage: "StagePlan", batches: "StageBatches", history: list[dict[str, Any]]) -> None:
        """Handle the start of a stage. `history` has the losses of steps of an earlier process."""

    def on_candidate(self, scores: "CandidateScores") -> None:
        """Handle the validation scores of one candidate of the line search over α."""

    def on_stage_end(self, prepared: "Prepared", result: "StageResult") -> None:
        """Handle the end of a stage. It is saved afterwards, so a run that is killed here calls this again."""

    def on_run_end(self, report: dict[str, Any]) -> None:
        """Handle the end of the run."""


class Events:
    """Sends events to callbacks and messages to the terminal, and measures the seconds of each phase.

    seconds: {phase: seconds}, those of earlier processes of a resumed run included.
    """

    def __init__(self, callbacks: Sequence[TrainerCallback] = (), progress: bool = True) -> None:
        self.callbacks, self.progress = tuple(callbacks), progress
        self.seconds: dict[str, float] = {}
        self._phase, self._start = "", 0.0

    def emit(self, event: str, **facts: Any) -> None:
        """Call the method `event` of every callback that has one."""
        for callback in self.callbacks:
            if hasattr(callback, event):
                getattr(callback, event)(**facts)

    def say(self, text: str) -> None:
        """Print a line, above a progress bar if there is one."""
        if self.progress:
            tqdm.write(text)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Announce a phase, and add the block's seconds to it. Phases do not nest."""
        self.emit("on_phase", phase=name)
        self._phase, self._start = name, time.time()
        try:
            with progress_shown(self.progress):
                yield
        finally:
            self.lap()

    def lap(self) -> None:
        """Add the seconds so far of the current phase, so that a checkpoint has them."""
        now = time.time()
        self.seconds[self._phase] = self.seconds.get(self._phase, 0.0) + now - self._start
        self._start = now

    def restore(self, seconds: dict[str, float]) -> None:
        """Continue from the seconds that a checkpoint has."""
        self.seconds = dict(seconds)
