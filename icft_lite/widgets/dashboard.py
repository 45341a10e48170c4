"""The live training dashboard: a callback that draws into a widget.

It redraws at most twice a second and takes at most 2 % of the time: a drawing is a few kilobytes of SVG text.
"""

import time
from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
from transformers import TrainerControl, TrainerState, TrainingArguments

from icft_lite.memory.consolidation import CandidateScores
from icft_lite.reporting.build import question_score
from icft_lite.reporting.labels import run_title
from icft_lite.training.batches import StageBatches
from icft_lite.training.events import RunCallback
from icft_lite.training.plan import PlannedStep, StagePlan, num_tokens
from icft_lite.training.prepare import Prepared
from icft_lite.training.stage import StageResult
from icft_lite.widgets.drawing import dashboard_html, dashboard_svg, dashboard_text
from icft_lite.widgets.progress import LOSS_NAMES, Progress, progress_from_report
from icft_lite.widgets.table import escape

MIN_INTERVAL = 0.5
"""Minimum number of seconds between two redraws."""
MAX_TIME_SHARE = 0.02
"""Maximum fraction of the time that redraws may take."""
SHOWN_LINES = 12
"""Number of log lines that stay visible, the newest ones."""
PHASES = {
    "load": "loading the base model",
    "evaluate": "evaluating",
    "label": "labelling the pool",
    "seed memory": "seeding the long-term memory",
    "difficulty": "scoring difficulty",
    "refresh": "refreshing the teachers",
    "train": "training",
    "promote": "promoting examples",
    "consolidate": "line search over α",
    "done": "done",
}
"""Text for each phase of a run."""


class DashboardFigure:
    """A static picture of the dashboard, which notebooks, GitHub, nbviewer and PDF export show without widgets."""

    def __init__(self, svg: str, text: str) -> None:
        self.svg = svg
        """One self-contained SVG document."""
        self.text = text
        """The same in words."""

    def __repr__(self) -> str:
        return self.text

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        return {"image/svg+xml": self.svg, "text/plain": self.text}


def dashboard_figure(source: "Dashboard | Mapping[str, Any]") -> DashboardFigure:
    """Return what the dashboard shows as a static picture, for places where widgets do not run.

    source: a Dashboard, or the report of a finished run (the dict in report.json). The picture contains no times: it
    is the same for the same run.
    """
    progress = source.progress if isinstance(source, Dashboard) else progress_from_report(source)
    return DashboardFigure(dashboard_svg(progress), dashboard_text(progress))


def step_tokens(batches: StageBatches, step: PlannedStep) -> int:
    """Return the number of non-padding tokens of a planned step, replayed memory examples included."""
    return sum(num_tokens(batches.encoded[i]) for i in step.new + step.ring) + sum(
        num_tokens(batches.entries[i].encoded) for i in step.memory
    )


class Dashboard(RunCallback):
    """Show a training run while it runs.

    Display `panel`, then pass this object to `train_icft(callbacks=[…])` or to any transformers Trainer. It may be
    passed to several runs one after the other: each run starts with an empty drawing.

    panel: a VBox with the children (view, logarithmic, log_view): the drawing; a checkbox for the scale of the losses,
    which takes effect as soon as the kernel is free; a log with one line per event, which screen readers announce.
    progress: what is drawn, a `progress.Progress`; lines: all lines of the log; redraws and draw_seconds: the number of
    redraws and the time that they took.
    """

    def __init__(self) -> None:
        self.progress, self.lines = Progress(), list[str]()
        self.redraws, self.draw_seconds, self.last_drawn, self.last_cost = 0, 0.0, -MIN_INTERVAL, 0.0
        self.batches: StageBatches | None = None
        """Batches of the stage of `train_icft` that is being trained, None under any other Trainer."""
        self.next_batches: StageBatches | None = None
        self.resumed_steps = 0
        self.view, self.log_view = widgets.HTML(), widgets.HTML()
        # A checkbox instead of a list: JupyterLab takes the arrow keys, which select in a list, for itself.
        self.logarithmic = widgets.Checkbox(description="logarithmic scale for losses", indent=False)
        self.logarithmic.observe(lambda _: self.draw(now=True), "value")
        self.panel = widgets.VBox([self.view, self.logarithmic, self.log_view])
        self.add_line("waiting for the training to begin")
        self.draw(now=True)

    def draw(self, now: bool = False) -> None:
        """Redraw, unless the last redraw was too recent. now: redraw in any case."""
        start = time.monotonic()
        if not now and start - self.last_drawn < max(MIN_INTERVAL, self.last_cost / MAX_TIME_SHARE):
            return
        self.view.value = dashboard_html(self.progress, self.logarithmic.value)
        self.last_drawn = time.monotonic()
        self.last_cost = self.last_drawn - start
        self.draw_seconds, self.redraws = self.draw_seconds + self.last_cost, self.redraws + 1

    def add_line(self, text: str) -> None:
        """Add a line to the log."""
        self.lines.append(text)
        items = "".join(f"<li>{escape(line)}</li>" for line in self.lines[-SHOWN_LINES:])
        self.log_view.value = f'<ul role="log" aria-label="training log" style="line-height: 1.5">{items}</ul>'

    def add_scores(self, text: str, scores: Mapping[str, Any]) -> None:
        """Add a line to the log: a text and the scores that are numbers."""
        words = [f"{name} {value:.2f}" for name, value in scores.items() if isinstance(value, float)]
        self.add_line(f"{text}: {', '.join(words)}" if words else text)

    # ---------------------------------------------------------------- events of any transformers Trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin a new drawing, unless a stage of `train_icft` begins."""
        self.batches, self.next_batches = self.next_batches, None
        if self.batches is None:
            self.progress = Progress()
            self.progress.begin_stage(1, state.max_steps, state.global_step)
            self.progress.start_clock()
            self.progress.phase = "training"
            self.add_line("training began")
        self.draw()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Count the step and its tokens."""
        step, tokens = state.global_step, 0
        if self.batches is not None:
            step += self.resumed_steps
            tokens = step_tokens(self.batches, self.batches.steps[step - 1])
        elif args.include_num_input_tokens_seen not in (False, "no"):
            tokens = int(state.num_input_tokens_seen) - self.progress.tokens
        self.progress.advance(step, tokens)
        self.draw()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the logged losses."""
        names = ("loss", "eval_loss") if self.batches is None else LOSS_NAMES
        self.progress.log({name: float(logs[name]) for name in names if name in logs} if logs else {})
        self.draw()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add every metric whose name ends with "accuracy"."""
        scores = {name: float(value) for name, value in (metrics or {}).items() if name.endswith("accuracy")}
        if scores:
            at = f"step {state.global_step}"
            self.progress.accuracy.append(dict(at=at, **scores))
            self.add_scores(at, scores)
        self.draw()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """End the drawing, unless a stage of `train_icft` ends."""
        if self.batches is None:
            self.progress.phase = "done"
            self.add_line("training ended")
        self.batches = None
        self.draw(now=True)

    # ---------------------------------------------------------------- events of train_icft

    def on_phase(self, phase: str) -> None:
        """Show what the run does. A new run, even after one that failed, begins a new drawing."""
        if phase == "load":  # the first phase of every run
            if self.progress.phase:
                self.add_line("a new run begins")
            self.progress, self.batches, self.next_batches = Progress(), None, None
        self.progress.phase = PHASES.get(phase, phase)
        self.draw(now=True)

    def on_run_begin(self, prepared: Prepared, results: list[StageResult], shares: list[float]) -> None:
        """Show the stages that are planned, and those that an interrupted run has finished already."""
        config, phase = prepared.config, self.progress.phase
        title = run_title(dict(method=config.method, seed=config.seed, config=config.to_dict()))
        self.progress = progress = Progress([stage.name for stage in prepared.stages], shares, title)
        progress.phase, progress.capacity, progress.memory = phase, config.long_term.size, prepared.memory.sources()
        progress.add_levels("base", prepared.baseline_levels, question_score(prepared.baseline, "medical"))
        for number, result in enumerate(results, 1):
            progress.begin_stage(number, result.record["steps"])
            progress.add_history(result.history)
            progress.add_levels(result.record["name"], result.levels, result.scores.get("medical"))
            progress.add_candidates(number, result.record)
        progress.start_clock()
        resumed = f", resumed after stage {len(results)}" if results else ""
        self.add_scores(f"{len(shares)} stages planned{resumed}; test accuracy so far", progress.accuracy[-1])
        self.draw(now=True)

    def on_stage_begin(self, stage: StagePlan, batches: StageBatches, history: list[dict[str, Any]]) -> None:
        """Begin a stage. history: losses of the steps that an interrupted run has completed in it already."""
        self.next_batches, self.resumed_steps = batches, len(history)
        self.progress.begin_stage(stage.number, len(batches.steps))
        self.progress.add_history(history)
        if history:
            self.progress.start_clock()
        self.draw(now=True)

    def on_candidate(self, scores: CandidateScores) -> None:
        """Add a candidate of the line search over α. scores: its validation scores."""
        means = dict(general=scores["general"], medical=scores["medical"])
        self.progress.candidates.append(dict(stage=self.progress.stage, **means))
        self.draw()

    def on_stage_end(self, prepared: Prepared, result: StageResult) -> None:
        """Add the scores of a finished stage."""
        progress, record = self.progress, result.record
        progress.memory = prepared.memory.sources()
        progress.add_levels(record["name"], result.levels, result.scores.get("medical"))
        self.add_scores(
            f"{record['name']}: {record['steps']} steps, {record['promoted']} examples promoted, "
            f"α = {record['consolidation']['alpha']:.2f}; test accuracy",
            progress.accuracy[-1],
        )
        self.draw(now=True)

    def on_run_end(self, report: dict[str, Any]) -> None:
        """Show the finished run. A run that was complete before, and sent no other event, is shown from its report."""
        finished = progress_from_report(report)
        if (finished.title, finished.accuracy) != (self.progress.title, self.progress.accuracy):
            self.progress = finished
        self.progress.phase, self.batches, self.next_batches = "done", None, None
        self.add_line("the run is complete")
        self.draw(now=True)
