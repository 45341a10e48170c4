"""Lesson 07: its exercises judge rightly, its page is what it runs, its rule and schedule are the package's."""

import importlib.util
import os
import random
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from test_notebooks import build, cells, check_exercise, exercises

from icft_lite.memory.consolidation import consolidate
from icft_lite.metrics import forgetting
from icft_lite.modeling.adapters import adapter_tensors

SOURCE = Path(build.HERE) / "src" / "07_staged_training.py"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("jupytext") is None, reason="builds a notebook")


@pytest.fixture(scope="module")
def book():
    return build.read(SOURCE)


def code(book, mark):
    """The one code cell that holds `mark`."""
    (found,) = [cell.source for cell in cells(book, "code") if mark in cell.source]
    return found


def function(book, name):
    """Source of a function that a lesson's cell defines at its top level."""
    return re.search(rf"^def {name}\(.*?(?=^\S(?!ef))", code(book, f"def {name}(") + "\nend", re.M | re.S)[0]


def test_the_exercises_accept_their_solutions_and_reject_wrong_ones(book):
    wrong = [
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
        ],
    ]
    for number in range(len(wrong)):
        check_exercise(book, number, wrong, dict(random=random, os=os, tempfile=tempfile, Path=Path))


def test_the_worst_column_is_what_forgetting_is_the_mean_of(book):
    space = {}
    exec(exercises(book)[0][1], space)
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


def test_the_choice_of_alpha_is_the_packages(book, adapted, shake):
    model, _ = adapted
    start = [tensor.detach().clone() for tensor in adapter_tensors(model, "slow")]
    shake(model, "slow")
    draw, min_retention = random.Random(3), 0.5

    def score():
        return dict(general=draw.random(), medical=draw.random(), retention=draw.random())

    record = consolidate(model, start, score, lambda one: one["retention"] >= min_retention, 8, 2.0)
    space = dict(min_retention=min_retention)
    exec(function(book, "choice"), space)
    assert space["choice"](record) == record["alpha"] != 0
    assert space["choice"](dict(candidates=[dict(alpha=1.0, general=0.4, retention=0.4, medical=0.9)])) == 0.0


def test_the_small_program_is_complete_and_selects_as_it_says(book, tmp_path):
    import runpy

    exec(code(book, "program = '''"), dict(runs=tmp_path))
    space = runpy.run_path(str(tmp_path / "small.py"))
    data = space["small_bundle"]()
    for name, most in space["MOST"].items():
        topics = getattr(data, name)["topic"][:]
        assert set(topics) <= space["TOPICS"] and max(map(topics.count, set(topics))) <= most, name
    assert {"easy", "medium", "hard"} == set(data.test["level"])
