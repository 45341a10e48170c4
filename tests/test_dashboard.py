"""The dashboard without a browser: real training runs, and what the widgets and the static picture contain."""

import math
import re
import time
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import pytest
import torch
from IPython.core.formatters import DisplayFormatter
from small_run import SETTINGS, small_bundle
from transformers import Trainer, TrainerCallback, TrainingArguments

from icft_lite.training.loop import train_icft
from icft_lite.widgets import Dashboard, dashboard_figure
from icft_lite.widgets.dashboard import MIN_INTERVAL
from icft_lite.widgets.drawing import (
    HEIGHT,
    _spread,
    dashboard_html,
    dashboard_rows,
    dashboard_svg,
    dashboard_text,
    running_mean,
)
from icft_lite.widgets.progress import LOSS_NAMES, Progress, Series, progress_from_report

SVG = "{http://www.w3.org/2000/svg}"
EVIL = "<script>alert('x')</script> \x00\x1b\ud800 & \"more\""


def watched():
    """Return a dashboard, and the list of everything that its drawing shows from now on."""
    dashboard, shown = Dashboard(), []
    dashboard.view.observe(lambda change: shown.append(change["new"]), "value")
    return dashboard, shown


def known(progress):
    """Return what a Progress knows, without throughput and time."""
    return dict(
        title=progress.title,
        losses={name: series.points for name, series in progress.losses.items()},
        starts=progress.starts,
        accuracy=progress.accuracy,
        candidates=progress.candidates,
        memory=progress.memory,
        capacity=progress.capacity,
        names=progress.names,
        done=progress.done(),
        phase=progress.phase,
    )


def texts(svg):
    """Return all texts of an SVG document, which must be well-formed XML."""
    return [element.text for element in ET.fromstring(svg).iter(f"{SVG}text")]


def drawn_curves(svg, width):
    """Return the points of all lines of a given width."""
    lines = ET.fromstring(svg).iter(f"{SVG}polyline")
    return [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in lines
        if line.get("stroke-width") == str(width)
    ]


# ---------------------------------------------------------------- real runs of train_icft


@pytest.fixture(scope="module")
def bundle():
    return small_bundle()


@pytest.fixture(scope="module")
def ran(bundle, tmp_path_factory):
    """(dashboard, everything that it showed, report, folder) of a whole small run."""
    out = tmp_path_factory.mktemp("run") / "out"
    dashboard, shown = watched()
    return dashboard, shown, train_icft(SETTINGS, out, bundle, progress=False, callbacks=[dashboard]), out


def test_progress_agrees_with_the_report(ran):
    dashboard, _, report, _ = ran
    progress, matrix = dashboard.progress, report["accuracy_matrix"]
    for name in LOSS_NAMES:
        assert progress.losses[name].points == list(zip(report["losses"]["step"], report["losses"][name])), name
    assert [entry["at"] for entry in progress.accuracy] == ["base", "easy", "medium", "hard"]
    assert [entry["general"] for entry in progress.accuracy] == [row[0] for row in matrix]
    assert [entry["medical"] for entry in progress.accuracy] == pytest.approx([sum(row[1:]) / 3 for row in matrix])
    assert progress.tokens == report["cost"]["tokens"] and progress.unit == "tokens" and progress.rate() > 0
    assert sum(progress.memory.values()) == report["stages"][-1]["memory_examples"] > 0
    assert {"general", "promoted"} <= set(progress.memory) and progress.capacity == SETTINGS["long_term.size"]
    tried = [
        (number, candidate["general"])
        for number, stage in enumerate(report["stages"], 1)
        for candidate in stage["consolidation"]["candidates"]
    ]
    assert [(one["stage"], one["general"]) for one in progress.candidates] == tried and len(tried) >= 18


def test_every_phase_is_shown_while_it_lasts(ran):
    dashboard, shown, report, _ = ran
    phases = [re.search(r'600">([^<]*)</div><div[^>]*>phase<', text)[1] for text in shown]
    order = list(dict.fromkeys(phases))
    assert order[:2] == ["loading the base model", "evaluating"] and order[-1] == "done"
    assert {"training", "line search over α", "promoting examples", "refreshing the teachers"} <= set(order)
    for number, stage in enumerate(report["stages"], 1):
        assert any(f"{number} of 3: {stage['name']}" in text for text in shown)
        assert any(
            line.startswith(f"{stage['name']}: {stage['steps']} steps, {stage['promoted']} examples promoted")
            for line in dashboard.lines
        )
    assert f"L_total, now {dashboard.progress.losses['total'].now():.3g}" in shown[-1]


def test_the_static_picture_of_the_report_is_that_of_the_run(ran):
    dashboard, _, report, _ = ran
    assert known(progress_from_report(report)) == known(dashboard.progress)
    figure = dashboard_figure(report)
    assert figure.svg == dashboard_figure(dashboard).svg and figure.text == dashboard_figure(dashboard).text
    found, accuracy = texts(figure.svg), dashboard.progress.accuracy[-1]
    for title in ("ICFT, seed 0", "L_consistency", "L_task", "L_fine-tune", "L_total", "Accuracy (0–1)"):
        assert title in found
    assert {f"general {accuracy['general']:.2f}", f"medical {accuracy['medical']:.2f}"} <= set(found)
    assert any(f"of {SETTINGS['long_term.size']} examples" in text for text in found)
    assert "tokens/s" not in figure.svg and "time left" not in figure.svg, "the picture must not depend on the clock"


class Stop(TrainerCallback):
    """Interrupts the second step of the second stage."""

    def on_stage_begin(self, stage, **_):
        self.number = stage.number

    def on_step_end(self, args, state, control, **_):
        if self.number == 2 and state.global_step == 2:
            raise KeyboardInterrupt


def test_a_resumed_run_shows_its_whole_past_and_ends_with_the_same_bytes(ran, bundle, tmp_path):
    dashboard, _, report, out = ran
    again, _ = watched()
    with pytest.raises(KeyboardInterrupt):
        train_icft(SETTINGS, tmp_path / "out", bundle, progress=False, callbacks=[again, Stop()])
    train_icft(SETTINGS, tmp_path / "out", bundle, progress=False, callbacks=[again])
    assert known(again.progress) == known(dashboard.progress)
    assert "a new run begins" in again.lines and any("resumed after stage 1" in line for line in again.lines)
    assert again.progress.tokens < report["cost"]["tokens"], "the throughput counts only work of this process"
    for name in ("adapter", "adapter_fast"):
        ours, theirs = ((folder / name / "adapter_model.safetensors") for folder in (tmp_path / "out", out))
        assert ours.read_bytes() == theirs.read_bytes(), "a dashboard must not change the result"


def test_a_run_that_was_complete_is_shown_from_its_report(ran, bundle):
    dashboard, _, report, out = ran
    again, _ = watched()
    assert train_icft(SETTINGS, out, bundle, progress=False, callbacks=[again])["losses"] == report["losses"]
    assert known(again.progress) == known(dashboard.progress) and again.lines[-1] == "the run is complete"


# ---------------------------------------------------------------- events in an unusual order


def prepared_run(seed=0):
    """The least that the dashboard needs to know of a run with two stages."""
    return SimpleNamespace(
        config=SimpleNamespace(to_dict=dict, method="icft", seed=seed, long_term=SimpleNamespace(size=50)),
        memory=SimpleNamespace(sources=lambda: {"general": 20}),
        baseline={},
        baseline_levels=[0.9, 0.1, None, 0.3],
        stages=[SimpleNamespace(number=1, name="easy"), SimpleNamespace(number=2, name="hard")],
    )


def die_in_the_first_stage(dashboard):
    """Send the events of a run that fails in its first stage."""
    prepared = prepared_run()
    dashboard.on_phase(phase="load")
    dashboard.on_run_begin(prepared=prepared, results=[], shares=[0.5, 0.5])
    batches = SimpleNamespace(steps=[None] * 4)
    dashboard.on_stage_begin(stage=prepared.stages[0], batches=batches, history=[dict(total=2.0), dict(total=1.0)])
    dashboard.on_train_begin(None, SimpleNamespace(global_step=0, max_steps=4), None)


def test_events_fill_the_progress():
    dashboard = Dashboard()
    die_in_the_first_stage(dashboard)
    progress = dashboard.progress
    assert progress.title == "ICFT, seed 0" and progress.capacity == 50 and progress.memory == {"general": 20}
    assert progress.accuracy == [dict(at="base", general=0.9, medical=pytest.approx(0.2))]
    assert progress.losses["total"].points == [(1, 2.0), (2, 1.0)] and progress.done() == 0.25
    dashboard.on_candidate(scores=dict(general=0.8, medical=0.5))
    assert progress.candidates == [dict(stage=1, general=0.8, medical=0.5)]


def test_data_without_levels_have_one_medical_score():
    progress = progress_from_report(dict(
        stages=[dict(name="part 1", steps=2, memory_examples=1, consolidation={"candidates": []})],
        accuracy_matrix=[[0.9, None, None, None], [0.8, None, None, None]], medical_by_stage=[0.1, 0.6],
    ))  # fmt: skip
    assert [entry["medical"] for entry in progress.accuracy] == [0.1, 0.6]
    progress.add_levels("easy", [0.8, 0.2, None, 0.4], 0.9)
    assert progress.accuracy[-1]["medical"] == pytest.approx(0.3), "with levels it is their mean"


def test_a_new_run_starts_with_an_empty_drawing_after_one_that_failed():
    dashboard = Dashboard()
    die_in_the_first_stage(dashboard)
    dashboard.on_phase(phase="load")
    assert known(dashboard.progress) == known(Progress()) | dict(phase="loading the base model")
    assert "L_total" not in dashboard.view.value and dashboard.lines[-1] == "a new run begins"
    dashboard.on_run_begin(prepared=prepared_run(seed=1), results=[], shares=[0.5, 0.5])
    assert dashboard.progress.title == "ICFT, seed 1" and not dashboard.progress.losses


def test_another_trainer_starts_with_an_empty_drawing_after_a_run_that_failed():
    dashboard = Dashboard()
    die_in_the_first_stage(dashboard)
    state = SimpleNamespace(global_step=0, max_steps=7)
    dashboard.on_train_begin(None, state, None)
    state.global_step = 1
    dashboard.on_step_end(SimpleNamespace(include_num_input_tokens_seen=False), state, None)
    dashboard.on_log(None, state, None, logs=dict(loss=3.0, total=5.0))
    progress = dashboard.progress
    assert (progress.step, progress.steps, list(progress.losses), progress.title) == (1, 7, ["loss"], "")
    dashboard.on_train_end(None, state, None)
    assert progress.phase == "done"


def test_a_complete_run_is_shown_from_its_report_after_a_run_that_failed(ran):
    dashboard = Dashboard()
    die_in_the_first_stage(dashboard)
    dashboard.on_run_end(report=ran[2])
    assert known(dashboard.progress) == known(ran[0].progress)


# ---------------------------------------------------------------- under any Trainer


class TwoClasses(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(2))

    def forward(self, x, labels):
        logits = torch.stack([-x @ self.weight, x @ self.weight], dim=1)
        return dict(loss=torch.nn.functional.cross_entropy(logits, labels), logits=logits)


def test_it_works_under_a_plain_trainer(tmp_path):
    torch.manual_seed(0)
    examples = [dict(x=x, labels=int(x[0] > 0)) for x in torch.randn(64, 2)]
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
        model=TwoClasses(),
        args=args,
        train_dataset=examples,
        eval_dataset=examples,
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
    expected = [dict(at=f"step {step}", eval_accuracy=value) for step, value in zip((6, 12), measured)]
    assert progress.accuracy == expected and measured[-1] > 0.9
    assert progress.done() == 1 and progress.phase == "done" and progress.unit == "steps"
    assert "12 of 12" in shown[-1] and "training loss" in shown[-1] and "memory" not in shown[-1]
    assert {"training began", "training ended"} <= set(dashboard.lines)
    found = texts(dashboard_figure(dashboard).svg)
    assert {"training loss", "evaluation loss", "Accuracy (0–1)", "step 6", "step 12"} <= set(found)


# ---------------------------------------------------------------- the two layouts


def test_both_layouts_contain_the_same_drawings(ran):
    progress = ran[0].progress
    bodies = [panel.body for row in dashboard_rows(progress, live=False) for panel in row if panel.body]
    page, svg = dashboard_html(progress), dashboard_svg(progress)
    assert len(bodies) == 7 and page.count("<svg") == 7 and svg.count("<svg") == 8
    assert all(body in page and body in svg for body in bodies)


def test_the_static_picture_is_self_contained_and_shown_without_widgets(ran):
    figure = dashboard_figure(ran[2])
    shown, _ = DisplayFormatter().format(figure)
    assert shown == {"image/svg+xml": figure.svg, "text/plain": figure.text} and figure._repr_svg_() == figure.svg
    root = ET.fromstring(figure.svg)
    assert root.find(f"{SVG}rect").get("fill") == "white" and root.get("color") == "#1a1a1a"
    assert root.find(f"{SVG}title").text and root.find(f"{SVG}desc").text == figure.text == repr(figure)
    assert "href" not in figure.svg and "url(" not in figure.svg
    width, height = float(root.get("width")), float(root.get("height"))
    for part in root.iter(f"{SVG}svg"):
        assert float(part.get("x", 0)) + float(part.get("width")) <= width
        assert float(part.get("y", 0)) + float(part.get("height")) <= height


def test_names_are_escaped():
    dashboard = Dashboard()
    dashboard.progress = progress = Progress([EVIL, "b"], [0.5, 0.5], EVIL)
    progress.begin_stage(1, 3, 1)
    progress.phase, progress.memory = EVIL, {EVIL: 3}
    progress.log({EVIL: 1.0, "total": 2.0})
    progress.accuracy.append({"at": EVIL, EVIL: 0.5})
    dashboard.add_scores(EVIL, {EVIL: 0.5})
    dashboard.draw(now=True)
    svg = dashboard_figure(dashboard).svg
    for text in (dashboard.view.value, dashboard.log_view.value, svg):
        assert "<script" not in text and "&lt;script&gt;" in text and "\x00" not in text
    svg.encode()
    assert ET.fromstring(svg) is not None, "control characters make XML unreadable"


def test_a_long_text_is_cut_off_in_the_static_picture_only():
    progress = Progress(["x" * 300, "b"], [0.5, 0.5])
    progress.begin_stage(1, 3)
    stage = next(text for text in texts(dashboard_svg(progress)) if text.startswith("1 of 2"))
    assert stage.endswith("…") and len(stage) < 40 and "x" * 300 in dashboard_html(progress)


def test_labels_of_close_values_do_not_overlap_and_stay_inside():
    progress = Progress()
    progress.accuracy = [{"at": "step 1", "a": 1.0, "b": 1.0, "c": 0.99, "d": 0.0, "e": 0.0}]
    root = ET.fromstring(dashboard_svg(progress))
    labels = [float(one.get("y")) for one in root.iter(f"{SVG}text") if re.fullmatch(r"[a-e] \d\.\d\d", one.text)]
    assert len(labels) == 5 and min(labels) >= 9 and max(labels) <= HEIGHT
    assert all(b - a >= 12 for a, b in zip(sorted(labels), sorted(labels)[1:]))
    assert _spread([5, 50, 51, 100], 12, 9, 102) == [9, 50, 62, 100] and _spread([], 12, 9, 102) == []


def test_redraws_are_few_however_many_steps():
    dashboard, shown = watched()
    start, before = time.monotonic(), dashboard.redraws
    for step in range(3000):
        dashboard.progress.log(dict(total=float(step)), step)
        dashboard.draw()
    assert dashboard.redraws - before <= 1 + (time.monotonic() - start) / MIN_INTERVAL
    dashboard.draw(now=True)
    assert dashboard.progress.losses["total"].points[-1][0] > 2900 and shown
    dashboard.last_cost, before = 1000.0, dashboard.redraws  # after a slow redraw the next one has to wait longer
    dashboard.last_drawn -= 2 * MIN_INTERVAL
    dashboard.draw()
    assert dashboard.redraws == before


def test_the_scale_is_a_native_checkbox_and_drawings_have_names(ran):
    dashboard = Dashboard()
    dashboard.on_run_end(ran[2])
    assert [type(child).__name__ for child in dashboard.panel.children] == ["HTML", "Checkbox", "HTML"]
    assert dashboard.logarithmic.description and 'role="log"' in dashboard.log_view.value
    linear = dashboard.view.value
    assert linear.count("<svg") == linear.count('role="img" aria-label="') == 7
    assert linear.count('aria-label="L_') == 4 and 'aria-label="100 % completed"' in linear
    dashboard.logarithmic.value = True
    assert dashboard.view.value != linear
    dashboard.logarithmic.value = False
    assert dashboard.view.value == linear


# ---------------------------------------------------------------- the numbers


def test_a_series_stays_short_and_its_mean_is_unchanged():
    series = Series(max_windows=10)
    for step in range(1, 1281):
        series.add(step, float(step % 7))
    assert 10 <= len(series.points) < 20 and series.points[-1][0] == 1280 and series.width == 128
    mean = sum(value for _, value in series.points) / len(series.points)
    assert mean == pytest.approx(sum(step % 7 for step in range(1, 1281)) / 1280)


def test_the_running_mean_restarts_with_each_stage():
    points = [(step, 0.0 if step <= 24 else 10.0) for step in range(1, 49)]
    means = dict(running_mean(points, [0, 24]))
    assert means[24] == 0 and means[25] == 10 and dict(running_mean(points, [0]))[25] == 2.5


def test_a_single_value_is_visible():
    progress = Progress()
    progress.log(dict(eval_loss=1.5), 40)
    root = ET.fromstring(dashboard_svg(progress))
    assert [one.get("cy") for one in root.iter(f"{SVG}circle")] == ["10.0"] and "1.5" in texts(dashboard_svg(progress))


def test_values_that_are_not_finite_are_named_and_not_drawn():
    progress = Progress()
    progress.begin_stage(1, 4)
    for step, value in enumerate((2.0, math.nan, 1.0), 1):
        progress.advance(step)
        progress.log(dict(total=value))
    progress.accuracy = [dict(at="step 1", accuracy=math.nan), dict(at="step 2", accuracy=0.5, other=None)]
    progress.candidates = [dict(stage=1, accuracy=math.nan)]
    assert progress.losses["total"].points == [(1, 2.0), (3, 1.0)]
    for text in (dashboard_html(progress), dashboard_html(progress, True), dashboard_svg(progress)):
        assert "not finite: nan" in text and "nan" not in text.replace("not finite: nan", "")
    assert "accuracy 0.50" in texts(dashboard_svg(progress))
    assert "L_total, now not finite: nan" in dashboard_text(progress)


def test_a_loss_that_is_seldom_above_zero_stays_within_its_axis():
    progress = Progress()
    progress.losses["task"] = Series()
    for step in range(1, 101):
        progress.losses["task"].add(step, 5.0 if step in (50, 51) else 0.0)
    (mean,) = drawn_curves(dashboard_svg(progress), 2.2)
    heights = sorted({y for _, y in mean})
    assert heights[0] == 10 and len(heights) > 2, "the running mean is shown whole: its top is the top of the axis"
    top = max(value for _, value in running_mean(progress.losses["task"].points, []))
    assert 0.5 < top < 5 and f"{top:.2g}" in texts(dashboard_svg(progress))


def test_the_completed_part_and_the_time_left():
    progress = Progress(["easy", "medium", "hard"], [0.5, 0.3, 0.2])
    assert progress.done() == 0 and progress.seconds_left() is None and progress.rate() is None
    start = time.monotonic()
    progress.start_clock()
    progress.begin_stage(1, 10)
    assert progress.seconds_left() is None  # nothing is completed yet
    progress.advance(10)
    assert progress.done() == 0.5
    assert 0 <= progress.seconds_left() <= time.monotonic() - start  # the second half takes as long as the first
    progress.begin_stage(2, 10, 5)
    assert progress.done() == pytest.approx(0.65) and progress.starts == [0, 10]
    progress.begin_stage(3, 0)  # a stage without steps is complete at once
    assert progress.done() == pytest.approx(1) and progress.seconds_left() == pytest.approx(0, abs=1e-6)
