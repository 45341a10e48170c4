"""The dashboard, without a browser: real trainings, and what the widgets hold meanwhile and afterwards."""

import math
import re
import time

import pytest
import torch
from small_run import SETTINGS, small_bundle
from transformers import Trainer, TrainerCallback, TrainingArguments

from icft_lite.training.run import train_icft
from icft_lite.widgets import Dashboard, dashboard_figure
from icft_lite.widgets.dashboard import EVERY
from icft_lite.widgets.drawing import dashboard_html
from icft_lite.widgets.progress import NAMES, Progress, Series, progress_from_report
from icft_lite.widgets.still import progress_figure


def watched():
    """A dashboard, and the list of all that its drawing shows from now on."""
    dashboard, shown = Dashboard(), []
    dashboard.view.observe(lambda change: shown.append(change["new"]), "value")
    return dashboard, shown


def known(progress):
    """What a Progress knows, without rate and time."""
    return dict(
        losses={name: series.points for name, series in progress.losses.items()},
        starts=progress.starts,
        accuracy=progress.accuracy,
        points=progress.points,
        memory=progress.memory,
        room=progress.room,
        names=progress.names,
        done=progress.done(),
        phase=progress.phase,
    )


@pytest.fixture(scope="module")
def bundle():
    return small_bundle()


@pytest.fixture(scope="module")
def ran(bundle, tmp_path_factory):
    """(dashboard, all that it showed, report, folder) of a whole small run."""
    out = tmp_path_factory.mktemp("run") / "out"
    dashboard, shown = watched()
    return dashboard, shown, train_icft(SETTINGS, out, bundle, progress=False, callbacks=[dashboard]), out


# --- under train_icft


def test_it_knows_what_the_report_says(ran):
    dashboard, _, report, _ = ran
    progress, matrix = dashboard.progress, report["accuracy_matrix"]
    for name in NAMES:
        assert progress.losses[name].points == list(zip(report["losses"]["step"], report["losses"][name])), name
    assert [row["at"] for row in progress.accuracy] == ["base", "easy", "middle", "hard"]
    assert [row["general"] for row in progress.accuracy] == [row[0] for row in matrix]
    assert [row["medical"] for row in progress.accuracy] == pytest.approx([sum(row[1:]) / 3 for row in matrix])
    assert progress.tokens == report["cost"]["tokens"] and progress.unit == "tokens" and progress.rate() > 0
    assert sum(progress.memory.values()) == report["stages"][-1]["memory_rows"] > 0
    assert {"general", "promoted"} <= set(progress.memory) and progress.room == SETTINGS["memory_size"]
    tried = [
        (i, point["general"])
        for i, stage in enumerate(report["stages"], 1)
        for point in stage["consolidation"]["points"]
    ]
    assert [(point["stage"], point["general"]) for point in progress.points] == tried and len(tried) >= 18


def test_every_phase_was_shown_while_it_lasted(ran):
    dashboard, shown, report, _ = ran
    phases = [re.search(r"doing</div><div[^>]*>(.*?)</div>", text)[1] for text in shown]
    order = list(dict.fromkeys(phases))
    assert order[:2] == ["loading the base", "scoring"] and order[-1] == "done"
    assert {"training", "choosing the point", "promoting rows", "refreshing the teachers"} <= set(order)
    for number, stage in enumerate(report["stages"], 1):
        assert any(f"{number} of 3: {stage['name']}" in text for text in shown)
        assert any(
            line.startswith(f"{stage['name']}: {stage['steps']} steps, {stage['promoted']} rows promoted")
            for line in dashboard.lines
        )
    assert f"L_total, now {dashboard.progress.losses['total'].now():.3g}" in shown[-1]


def test_the_figure_of_the_report_is_that_of_the_run(ran):
    dashboard, _, report, _ = ran
    assert known(progress_from_report(report)) == known(dashboard.progress)
    drawn = []
    for source in (dashboard, report):
        axes = dashboard_figure(source).axes
        drawn.append(
            [(axis.get_title(loc="left"), [line.get_xydata().tolist() for line in axis.lines]) for axis in axes]
        )
        titles = [title for title, _ in drawn[-1]]
        assert titles[:4] == ["L_consistency", "L_task", "L_fine-tune", "L_total"]
        assert titles[4].startswith("Accuracy") and titles[5] == "Long-term memory"
    assert drawn[0] == drawn[1]


class Stop(TrainerCallback):
    """Interrupts the second step of the second stage."""

    def on_stage_begin(self, number, **facts):
        self.number = number

    def on_step_end(self, args, state, control, **kwargs):
        if self.number == 2 and state.global_step == 2:
            raise KeyboardInterrupt


def test_a_resumed_run_shows_its_whole_past_and_ends_with_the_same_bytes(ran, bundle, tmp_path):
    dashboard, _, report, out = ran
    with pytest.raises(KeyboardInterrupt):
        train_icft(SETTINGS, tmp_path / "out", bundle, progress=False, callbacks=[Stop()])
    resumed, shown = watched()
    train_icft(SETTINGS, tmp_path / "out", bundle, progress=False, callbacks=[resumed])
    assert known(resumed.progress) == known(dashboard.progress)
    assert any("resumed after stage 1" in line for line in resumed.lines)
    assert resumed.progress.tokens < report["cost"]["tokens"], "the rate is of the work done here"
    for name in ("adapter", "adapter_fast"):
        ours, theirs = ((folder / name / "adapter_model.safetensors") for folder in (tmp_path / "out", out))
        assert ours.read_bytes() == theirs.read_bytes(), "a dashboard changes no byte"


def test_a_run_that_was_complete_is_shown_from_its_report(ran, bundle):
    dashboard, _, report, out = ran
    again, shown = watched()
    assert train_icft(SETTINGS, out, bundle, progress=False, callbacks=[again])["losses"] == report["losses"]
    assert known(again.progress) == known(dashboard.progress) and again.lines[-1] == "the run is complete"


# --- under any Trainer


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x, labels):
        logits = torch.stack([-x @ self.weight, x @ self.weight], dim=1)
        return dict(loss=torch.nn.functional.cross_entropy(logits, labels), logits=logits)


def test_it_works_under_a_plain_trainer(tmp_path):
    torch.manual_seed(0)
    rows = [dict(x=x, labels=int(x[0] > 0)) for x in torch.randn(64, 2)]
    dashboard, shown = watched()
    args = TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=12,
        per_device_train_batch_size=8,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=6,
        learning_rate=0.5,
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=Line(),
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[dashboard],
        compute_metrics=lambda out: {"accuracy": (out.predictions.argmax(1) == out.label_ids).mean()},
    )
    trainer.train()
    history, progress = trainer.state.log_history, dashboard.progress
    assert progress.losses["loss"].points == [(log["step"], log["loss"]) for log in history if "loss" in log]
    assert [value for _, value in progress.losses["eval_loss"].points] == [
        log["eval_loss"] for log in history if "eval_loss" in log
    ]
    measured = [log["eval_accuracy"] for log in history if "eval_accuracy" in log]
    assert (
        progress.accuracy == [dict(at=f"step {step}", eval_accuracy=value) for step, value in zip((6, 12), measured)]
        and measured[-1] > 0.9
    )
    assert progress.done() == 1 and progress.phase == "done" and progress.unit == "steps"
    assert "12 of 12" in shown[-1] and "training loss" in shown[-1] and "memory" not in shown[-1]
    assert {"training began", "training ended"} <= set(dashboard.lines)
    assert len(dashboard_figure(dashboard).axes) == 3


# --- what it costs, how it reads


def test_redraws_are_few_however_many_steps():
    dashboard, shown = watched()
    start, before = time.monotonic(), dashboard.redraws
    for step in range(3000):
        dashboard.progress.log(dict(total=float(step)), step)
        dashboard.draw()
    assert dashboard.redraws - before <= 1 + (time.monotonic() - start) / EVERY
    dashboard.draw(now=True)
    assert dashboard.progress.losses["total"].points[-1][0] > 2900 and shown
    dashboard.cost, before = 1000.0, dashboard.redraws  # one that took long waits longer for the next
    dashboard.drawn -= 2 * EVERY
    dashboard.draw()
    assert dashboard.redraws == before


def test_whatever_a_name_holds_is_escaped():
    evil = "<script>alert('x')</script>"
    dashboard = Dashboard()
    dashboard.progress = progress = Progress([evil, "b"], [0.5, 0.5])
    progress.begin_stage(1, 3, 1)
    progress.phase, progress.memory = evil, {evil: 3}
    progress.log({evil: 1.0, "total": 2.0})
    dashboard.scored(evil, {evil: 0.5})
    dashboard.draw(now=True)
    for text in (dashboard.view.value, dashboard.news.value):
        assert "<script" not in text and "&lt;script&gt;" in text


def test_the_scale_is_a_native_box_and_drawings_have_names(ran):
    dashboard = Dashboard()
    dashboard.on_run_end(ran[2])
    assert [type(child).__name__ for child in dashboard.panel.children] == ["HTML", "Checkbox", "HTML"]
    assert dashboard.logarithmic.description and 'role="log"' in dashboard.news.value
    linear = dashboard.view.value
    assert linear.count("<svg") == linear.count('role="img" aria-label="L_') + 2 == 6
    dashboard.logarithmic.value = True
    assert dashboard.view.value != linear
    dashboard.logarithmic.value = False
    assert dashboard.view.value == linear


def test_a_series_stays_short_and_keeps_its_mean():
    series = Series(most=10)
    for step in range(1, 1281):
        series.add(step, float(step % 7))
    assert 10 <= len(series.points) < 20 and series.points[-1][0] == 1280 and series.width == 128
    mean = sum(value for _, value in series.points) / len(series.points)
    assert mean == pytest.approx(sum(step % 7 for step in range(1, 1281)) / 1280)


def test_a_loss_that_is_not_a_number_is_said_and_breaks_nothing():
    progress = Progress()
    progress.begin_stage(1, 4)
    for step, value in enumerate((2.0, math.nan, 1.0), 1):
        progress.advance(step)
        progress.log(dict(total=value))
    assert progress.losses["total"].points == [(1, 2.0), (3, 1.0)]
    for logarithmic in (False, True):
        text = dashboard_html(progress, logarithmic)
        assert "not a number: nan" in text and "nan," not in text


def test_a_loss_that_is_seldom_above_zero_stays_within_its_axis():
    progress = Progress()
    progress.losses["task"] = Series()
    for step in range(1, 101):
        progress.losses["task"].add(step, 5.0 if step in (50, 51) else 0.0)
    axis = progress_figure(progress).axes[0]
    drawn = max(max(line.get_ydata()) for line in axis.lines if line.get_linewidth() == 2)
    assert 0.5 < drawn < axis.get_ylim()[1] < 5, "the running mean is shown whole, its peaks alone are not"


def test_the_share_done_and_the_time_left():
    progress = Progress(["easy", "middle", "hard"], [0.5, 0.3, 0.2])
    assert progress.done() == 0 and progress.seconds_left() is None and progress.rate() is None
    start = time.monotonic()
    progress.start_clock()
    progress.begin_stage(1, 10)
    assert progress.seconds_left() is None  # nothing is done yet
    progress.advance(10)
    assert progress.done() == 0.5
    assert 0 <= progress.seconds_left() <= time.monotonic() - start  # half is done: as long again
    progress.begin_stage(2, 10, 5)
    assert progress.done() == pytest.approx(0.65) and progress.starts == [0, 10]
    progress.begin_stage(3, 0)  # a stage without steps is passed over
    assert progress.done() == pytest.approx(1) and progress.seconds_left() == pytest.approx(0, abs=1e-6)
