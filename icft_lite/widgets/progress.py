"""What is known of a training while it runs: losses by step, accuracy, memory, rate, time left.

No widgets and no figures here: `widgets.dashboard` shows it.
"""

import math
import time
from collections import deque

RECENT = 20
"""Steps that the present loss and the rate are taken over."""
NAMES = ("consistency", "task", "fine_tune", "total")
"""The losses of a run of the method: the three, and their weighted sum."""
SOURCES = {"general": "given", "self": "made up by the base", "promoted": "promoted", "rows": "rows"}
"""Where a memory row came from, in words."""


class Series:
    """Values by step, kept as means over equal windows: `most` to twice as many, however long the training."""

    def __init__(self, most=120):
        self.most, self.width, self.points = most, 1, []  # points: (last step of the window, mean)
        self.recent, self._sum, self._count = deque(maxlen=RECENT), 0.0, 0

    def add(self, step, value):
        """A value that is not finite is shown as the present one, and in no window."""
        self.recent.append(value)
        self._count += 1
        self._sum += value
        if self._count < self.width:
            return
        if math.isfinite(self._sum):
            self.points.append((step, self._sum / self._count))
        self._sum, self._count = 0.0, 0
        if len(self.points) >= 2 * self.most:
            pairs = zip(self.points[::2], self.points[1::2])
            self.points = [(step, (first + second) / 2) for (_, first), (step, second) in pairs]
            self.width *= 2

    def now(self):
        """Mean of the most recent values; None before the first."""
        return sum(self.recent) / len(self.recent) if self.recent else None


class Progress:
    """A training as it goes. `names` of its stages, and what share of all training each is.

    losses: {name: Series}; starts: the step that each begun stage started after; accuracy: dicts with `at` (base, a
    stage, a step) and scores (0–1); points: dicts with `stage` and the scores that consolidation tried, on validation;
    memory: {source: rows}, of `room`."""

    def __init__(self, names=("training",), shares=(1.0,)):
        self.names, self.shares = list(names), list(shares)
        self.losses, self.starts, self.accuracy, self.points = {}, [], [], []
        self.memory, self.room, self.phase = {}, 0, ""
        self.stage = self.steps = self.step = self.before = self.tokens = 0  # before: all steps of earlier stages
        self.unit, self._marks, self._begun, self._from = "steps", deque(maxlen=RECENT), None, 0.0

    def begin_stage(self, number, steps, step=0):
        """Stage `number` (1, 2, …) trains for `steps` steps, `step` of them done already."""
        self.before += self.step
        self.stage, self.steps, self.step = number, steps, 0
        self.starts.append(self.before)
        self.step = step
        self._marks.clear()

    def start_clock(self):
        """Time and share done are counted from here."""
        self._begun, self._from = time.monotonic(), self.done()

    def advance(self, step, tokens=0):
        """Step `step` of the stage is done; it had so many tokens, if known."""
        self.step = step
        self.tokens += tokens
        self.unit = "tokens" if tokens else self.unit
        self._marks.append((time.monotonic(), self.tokens if tokens else self.before + step))

    def log(self, values, step=None):
        """Losses of a step, {name: value}."""
        for name, value in values.items():
            self.losses.setdefault(name, Series()).add(self.before + self.step if step is None else step, value)

    def done(self):
        """The share of the training that is done, 0–1."""
        if not self.stage:
            return 0.0
        within = self.step / self.steps if self.steps else 1.0
        whole = sum(self.shares)
        return 1 - (sum(self.shares[self.stage :]) + self.shares[self.stage - 1] * (1 - within)) / whole

    def rate(self):
        """Tokens, or steps, a second over the most recent steps; None before there are two."""
        if len(self._marks) < 2:
            return None
        (start, first), (end, last) = self._marks[0], self._marks[-1]
        return (last - first) / max(end - start, 1e-9)

    def seconds_left(self):
        """At the pace so far, stages' ends included; None before there is one."""
        gained = self.done() - self._from
        if self._begun is None or gained <= 0:
            return None
        return (time.monotonic() - self._begun) * (1 - self.done()) / gained

    def add_levels(self, at, levels):
        """Scores after a stage as reports have them: [general, easy, middle, hard], None where there is no test."""
        medical = [value for value in levels[1:] if value is not None]
        self.accuracy.append(dict(at=at, general=levels[0], medical=sum(medical) / len(medical) if medical else None))

    def add_points(self, number, record):
        """The points that a finished stage's consolidation tried."""
        for point in record["consolidation"]["points"]:
            self.points.append(dict(stage=number, general=point["general"], medical=point["medical"]))


def progress_from_report(report):
    """The Progress of a finished run, from its report (report.json)."""
    stages = report.get("stages") or []
    total = max(1, sum(stage["steps"] for stage in stages))
    progress = Progress([stage["name"] for stage in stages], [stage["steps"] / total for stage in stages])
    names = ["base", *progress.names]
    for at, levels in zip(names, report.get("accuracy_matrix") or []):
        progress.add_levels(at, levels)
    for number, stage in enumerate(stages, 1):
        progress.begin_stage(number, stage["steps"], stage["steps"])
        progress.add_points(number, stage)
        progress.memory = stage.get("memory_sources") or {"rows": stage["memory_rows"]}
    losses = report.get("losses") or {"step": []}
    for name in NAMES:
        for step, value in zip(losses["step"], losses.get(name) or []):
            if value is not None:
                progress.log({name: value}, step)
    progress.room, progress.phase = (report.get("config") or {}).get("memory_size", 0), "done"
    return progress
