"""Lesson 07: its exercises judge rightly, its page is what it runs, its rule and schedule are the package's."""

import importlib.util
import os
import random
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from test_notebooks import build, cells, check_exercise, exercises, said

from icft_lite.memory.consolidation import ALPHAS, consolidate
from icft_lite.metrics import forgetting
from icft_lite.modeling.adapters import adapter_tensors
from icft_lite.reporting.concepts import stage_loop
from icft_lite.reporting.lessons.staged_training import growing_matrix_figure

SOURCE = Path(build.HERE) / "src" / "07_staged_training.py"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("jupytext") is None, reason="builds a notebook")


@pytest.fixture(scope="module")
def book():
    return build.read(SOURCE)


def code(book, mark):
    """The one code cell that holds `mark`."""
    (found,) = [cell.source for cell in cells(book, "code") if mark in cell.source]
    return found


def solution(book, number=0):
    """Return the function that exercise `number` has as its solution."""
    space = {}
    text = exercises(book)[number][1]
    exec(text, space)
    return space[text.split("(")[0].removeprefix("def ")]


def test_the_exercises_accept_their_solutions_and_reject_wrong_ones(book):
    search = exercises(book)[0][1]
    wrong = [
        [
            search.replace(*change)
            for change in (
                ('found["retention"] >= min_retention and', ""),  # no constraint
                (">= min_retention", "> 0.9"),
                ('(found["medical"], found["general"])', '(found["medical"], 0)'),  # ties go to the first
                ('found["medical"] < best[0]', "False"),  # never stops
                ('found["medical"] < best[0]', 'found["retention"] >= min_retention'),  # stops at the first allowed one
                ('(found["medical"], found["general"])', '(found["general"], found["medical"])'),
            )
        ],
        [
            "def worst(m, c):\n    lost = [max(s) - s[-1] for s in zip(*m)]\n    return c[lost.index(max(lost))]",
            "def worst(m, c):\n    lost = [a - b for a, b in zip(m[-2], m[-1])]\n"
            "    return c[lost.index(max(lost))] if max(lost) > 0 else None",
            "def worst(m, c): return None",
        ],
        [
            "def batch_examples(seed, step, n, k): return random.sample(range(n), k)",
            "def batch_examples(seed, step, n, k): return random.Random(f'{seed}/{step}').sample(range(n), k)",
            "def batch_examples(seed, step, n, k): return [(step * k + i) % n for i in range(k)]",
            "def batch_examples(seed, step, n, k):\n    order = random.Random(seed).sample(range(n), n)\n"
            "    part = step % (n // k)\n    return order[part * k:(part + 1) * k]",
        ],
        [
            "def save(path, write):\n    with open(path, 'w') as file:\n        write(file)",
            "def save(path, write):\n    temporary = path.with_name('x')\n    with open(temporary, 'w') as file:\n"
            "        write(file)\n    os.replace(temporary, path)",
            "def save(path, write):\n    try:\n        with open(path, 'w') as file:\n            write(file)\n"
            "    except OSError:\n        path.unlink()\n        raise",
            # lost in a crash while it writes
            "def save(path, write):\n    import io\n    file = io.StringIO()\n    write(file)\n"
            "    path.write_text(file.getvalue())",
            "def save(path, write):\n    old = path.read_text() if path.exists() else None\n    try:\n"
            "        with open(path, 'w') as file:\n            write(file)\n    except OSError:\n"
            "        path.write_text(old)\n        raise",
        ],
    ]
    for number in range(len(wrong)):
        check_exercise(book, number, wrong, dict(random=random, os=os, tempfile=tempfile, Path=Path))


def test_the_worst_column_is_what_forgetting_is_the_mean_of(book):
    space = {}
    exec(exercises(book)[1][1], space)
    matrix = np.random.default_rng(0).random((4, 4))
    lost = matrix[:3].max(axis=0) - matrix[3]
    assert space["worst"](matrix.tolist(), "abcd") == "abcd"[int(lost.argmax())]
    assert forgetting(matrix) == pytest.approx(lost[:3].mean())


def test_the_page_holds_the_checks_that_are_run_and_each_can_fail(book):
    page = next(cell.source for cell in cells(book, "markdown") if "| symptom |" in cell.source)
    run = code(book, "def check(report)")
    snippets = [line.split("`")[1] for line in page.splitlines() if line.count("`") >= 2]
    assert len(snippets) == len(re.findall(r'^        "[^"]+": ', run, re.M)) >= 10
    for snippet in snippets:
        assert f": {snippet},\n" in run, snippet
    stage = dict(steps=30, new_examples=10, consolidation=dict(alpha=0.7, refused=False))
    good = dict(
        stages=[stage],
        examples=dict(memory=3),
        retention=0.9,
        config=dict(consolidation=dict(max_drop=0.06)),
        losses=dict(fine_tune=[3.0, 1.0], consistency=[0.0, 0.1]),
        data=dict(weak=dict(dropped_unvoted=0, num_examples=5), left_out=0),
        samples=[dict(after="x", reference="y")],
    )
    space = {}
    exec(run.replace("print(check(report))", ""), space)
    assert space["check"](good) == []
    bad = dict(
        stages=[dict(steps=0, new_examples=0, consolidation=dict(alpha=0.0, refused=True))],
        examples={},
        retention=0.1,
        config=dict(consolidation=dict(max_drop=0.9)),
        losses=dict(fine_tune=[1.0, 3.0], consistency=[0.0, 0.0]),
        data=dict(weak=dict(dropped_unvoted=5, num_examples=5), left_out=4),
        samples=[dict(after="x" * 99, reference="y")],
    )
    assert len(space["check"](bad)) == len(snippets), "every check can fail"


@pytest.mark.parametrize("seed", range(6))
def test_the_line_search_is_the_packages(book, adapted, shake, seed):
    """The same α, after the same candidates."""
    model, _ = adapted
    start = [tensor.detach().clone() for tensor in adapter_tensors(model, "slow")]
    shake(model, "slow")
    draw, min_retention = random.Random(seed), 0.5

    def score():
        return dict(general=draw.random(), medical=draw.choice((0.2, 0.4, 0.6)), retention=draw.random())

    record = consolidate(model, start, score, lambda one: one["retention"] >= min_retention, 8, 2.0, base_alphas=())
    scores, asked = {one["alpha"]: one for one in record["candidates"]}, []
    alpha = solution(book)(ALPHAS, lambda alpha: asked.append(alpha) or scores[alpha], min_retention)
    assert alpha == record["alpha"] and asked == list(scores)


@pytest.mark.parametrize("version", ["solution", "unsolved", "greedy"])
def test_a_search_of_the_learner_runs_in_place_of_the_packages(book, version):
    lines = [[(1.0, 0.7, 0.6), (0.85, 0.9, 0.5), (0.7, 0.95, 0.4)], [(1.0, 0.9, 0.3), (0.85, 0.95, 0.2)]]
    stages = [
        dict(
            name=str(i),
            consolidation=dict(
                alpha=alpha,
                origin="start",
                candidates=[dict(alpha=a, retention=r, general=r, medical=m, origin="start") for a, r, m in line],
            ),
        )
        for i, (alpha, line) in enumerate(zip((0.85, 1.0), lines, strict=True))
    ]
    mine = dict(solution=solution(book), unsolved=lambda *_: ..., greedy=lambda alphas, score, least: 0.7)[version]
    space = dict(SETTINGS={"consolidation.max_drop": 0.15}, report=dict(stages=stages), ALPHAS=ALPHAS, line_search=mine)
    printed = said(code(book, "for one in record["), space)
    assert printed.count("True") == (0 if version == "greedy" else 4)


def test_the_diagram_has_the_six_parts_of_a_stage_in_order():
    texts = [text.get_text() for text in stage_loop.draw().axes[0].texts]
    parts = [text.split("\n")[0] for text in texts if re.match(r"\d  ", text)]
    order = ["refresh teachers", "plan", "train", "promote", "consolidate", "evaluate"]
    assert parts == [f"{i}  {name}" for i, name in enumerate(order, 1)]


def test_the_matrix_figure_gains_a_row_at_a_time():
    matrix = np.arange(4).reshape(2, 2) / 4
    panels = growing_matrix_figure(matrix, ["general", "easy"], ["base", "easy"]).axes
    assert [[text.get_text() for text in axes.texts] for axes in panels] == [
        ["0.00", "0.25"],
        ["0.00", "0.25", "0.50", "0.75"],
    ]


def test_the_small_program_is_complete_and_selects_as_it_says(book, tmp_path):
    import runpy

    exec(code(book, "program = '''"), dict(runs=tmp_path))
    space = runpy.run_path(str(tmp_path / "small.py"))
    data = space["small_bundle"]()
    for name, most in space["MOST"].items():
        topics = getattr(data, name)["topic"][:]
        assert set(topics) <= space["TOPICS"] and max(map(topics.count, set(topics))) <= most, name
    assert {"easy", "medium", "hard"} == set(data.test["level"])
