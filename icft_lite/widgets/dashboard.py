"""The live training dashboard: a TrainerCallback that draws into a widget.

It is redrawn at most twice a second, and never takes more than a fiftieth of the time: what it draws is a few
kilobytes of SVG text, made without a plotting library.
"""

import html
import time
from collections.abc import Mapping

import ipywidgets as widgets
from transformers import TrainerCallback

from icft_lite.reporting.build import by_level
from icft_lite.training.plan import num_tokens
from icft_lite.widgets.drawing import dashboard_html
from icft_lite.widgets.progress import NAMES, Progress, progress_from_report
from icft_lite.widgets.still import progress_figure

EVERY = 0.5
"""Seconds between redraws, at least."""
SHARE = 0.02
"""The share of the time that redraws may take."""
PHASES = {
    "load": "loading the base",
    "evaluate": "scoring",
    "label": "labelling the pool",
    "seed memory": "seeding the memory",
    "difficulty": "measuring difficulty",
    "refresh": "refreshing the teachers",
    "train": "training",
    "promote": "promoting rows",
    "consolidate": "choosing the point",
    "done": "done",
}


def dashboard_figure(source):
    """What the dashboard shows, as a matplotlib Figure: for places where widgets do not run.

    source: a Dashboard, or the report of a finished run (a dict, as in report.json)."""
    return progress_figure(progress_from_report(source) if isinstance(source, Mapping) else source.progress)


def step_tokens(batches, step):
    """Non-padding tokens of a planned step, memory included."""
    return sum(num_tokens(batches.encoded[i]) for i in step.new + step.ring) + sum(
        num_tokens(batches.entries[i].encoded) for i in step.memory
    )


class Dashboard(TrainerCallback):
    """Shows a training while it runs. Display `panel`, then give this object to `train_icft(callbacks=[…])`, or to any
    transformers Trainer.

    panel: VBox with children (view, logarithmic, news): the drawing; a box that changes the scale of the losses, by
    mouse or keyboard (Tab, Space), once the kernel is free; what happened, a line an event, for screen readers too.
    progress: what is known (`progress.Progress`); spent: seconds taken by redraws, `redraws` of them."""

    def __init__(self):
        self.progress, self.run, self.batches = Progress(), None, None
        self.drawn, self.cost, self.spent, self.redraws, self.lines = -EVERY, 0.0, 0.0, 0, []
        self.view, self.news = widgets.HTML(), widgets.HTML()
        # A box and no list: JupyterLab keeps the arrow keys, with which one moves in a list, to itself.
        self.logarithmic = widgets.Checkbox(description="losses on a logarithmic scale", indent=False)
        self.logarithmic.observe(lambda _: self.draw(now=True), "value")
        self.panel = widgets.VBox([self.view, self.logarithmic, self.news])
        self.say("waiting for the training to begin")
        self.draw(now=True)

    def draw(self, now=False):
        """Redraw, unless the last time was too recent. now: in any case."""
        start = time.monotonic()
        if not now and start - self.drawn < max(EVERY, self.cost / SHARE):
            return
        self.view.value = dashboard_html(self.progress, self.logarithmic.value)
        self.drawn = time.monotonic()
        self.cost = self.drawn - start
        self.spent, self.redraws = self.spent + self.cost, self.redraws + 1

    def say(self, text):
        """Add a line to the news."""
        self.lines.append(text)
        items = "".join(f"<li>{html.escape(line)}</li>" for line in self.lines[-12:])
        self.news.value = f'<ul role="log" aria-label="what happened" style="line-height: 1.5">{items}</ul>'

    # ---------------------------------------------------------------- any transformers Trainer

    def on_train_begin(self, args, state, control, **kwargs):
        if not self.run:
            self.progress = Progress()
            self.progress.begin_stage(1, state.max_steps, state.global_step)
            self.progress.start_clock()
            self.progress.phase = "training"
            self.say("training began")
        self.draw()

    def on_step_end(self, args, state, control, **kwargs):
        step = state.global_step
        tokens = 0
        if self.run:
            step += self.resumed
            tokens = step_tokens(self.batches, self.batches.steps[step - 1])
        elif args.include_num_input_tokens_seen not in (False, "no"):
            tokens = int(state.num_input_tokens_seen) - self.progress.tokens
        self.progress.advance(step, tokens)
        self.draw()

    def on_log(self, args, state, control, logs=None, **kwargs):
        names = NAMES if self.run else ("loss", "eval_loss")
        self.progress.log({name: float(logs[name]) for name in names if name in (logs or {})})
        self.draw()

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        scores = {name: float(value) for name, value in (metrics or {}).items() if name.endswith("accuracy")}
        if scores:
            self.scored(f"step {state.global_step}", scores)
        self.draw()

    def on_train_end(self, args, state, control, **kwargs):
        if not self.run:
            self.progress.phase = "done"
            self.say("training ended")
        self.draw(now=True)

    # ---------------------------------------------------------------- train_icft

    def on_phase(self, run, phase):
        if self.run is not run:
            self.run, self.progress = run, Progress()
        self.progress.phase = PHASES.get(phase, phase)
        self.draw(now=True)

    def on_run_begin(self, run, results, shares):
        self.progress = progress = Progress([run.stage_name(n) for n in range(1, len(shares) + 1)], shares)
        progress.room = run.config.memory_size
        progress.memory = run.memory.sources()
        progress.add_levels("base", by_level(run.before))
        for number, (stage, levels) in enumerate(zip(results["stages"], results["curve"]), 1):
            progress.begin_stage(number, stage["steps"], 0)
            self._log([step for step in results["history"] if step["stage"] == number])
            progress.add_levels(stage["name"], levels)
            progress.add_points(number, stage)
        progress.start_clock()
        resumed = f", resumed after stage {len(results['stages'])}" if results["stages"] else ""
        self.scored(None, progress.accuracy[-1], f"{len(shares)} stages planned{resumed}; so far")

    def on_stage_begin(self, run, number, batches, history):
        self.batches, self.resumed = batches, len(history)
        self.progress.begin_stage(number, len(batches.steps))
        self._log(history)
        if history:
            self.progress.start_clock()
        self.draw(now=True)

    def on_point(self, run, scores):
        self.progress.points.append(dict(stage=self.progress.stage, **scores))
        self.draw()

    def on_stage_end(self, run, record, scores):
        progress = self.progress
        progress.memory = run.memory.sources()
        progress.add_levels(record["name"], scores)
        self.scored(
            None,
            progress.accuracy[-1],
            f"{record['name']}: {record['steps']} steps, {record['promoted']} "
            f"rows promoted, point {record['consolidation']['alpha']:.2f}; test",
        )
        self.draw(now=True)

    def on_run_end(self, report):
        if not self.run:  # the run was complete already
            self.progress = progress_from_report(report)
        self.progress.phase, self.run = "done", None
        self.say("the run is complete")
        self.draw(now=True)

    def _log(self, history):
        """Steps that an earlier process did."""
        for step in history:
            self.progress.step += 1
            self.progress.log({name: step[name] for name in NAMES if name in step})

    def scored(self, at, scores, text="scored"):
        """Keep scores, if they have a place `at`, and put them into words."""
        if at is not None:
            self.progress.accuracy.append(dict(at=at, **scores))
        words = [f"{name} {value:.2f}" for name, value in scores.items() if isinstance(value, float)]
        self.say(f"{at or text}: {', '.join(words)}" if words else text)
