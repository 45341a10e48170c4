"""Lesson 01: its own training step equals the package's, α scales the adapter's change, its exercises are checked."""

import importlib.util
import random
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from lesson_checks import check_core_exercise, check_size
from test_notebooks import build, cells, check_exercise, exercises

from icft_lite.data.samples import load_samples
from icft_lite.metrics import forgetting
from icft_lite.modeling.adapters import adapter_tensors
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.losses import token_logprobs
from icft_lite.modeling.packing import join_batch
from icft_lite.reporting.concepts import forgetting as diagram
from icft_lite.reporting.lessons.forgetting import (
    course_figure,
    divergence_figure,
    matrix_figure,
    plane_figure,
    topics_figure,
)
from icft_lite.retention import chance_corrected_retention

SOURCE = Path(build.HERE) / "src" / "01_forgetting.py"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("jupytext") is None, reason="builds a notebook")


@pytest.fixture(scope="module")
def book():
    return build.read(SOURCE)


def lesson(book, mark, **space):
    """Return what the cell that contains `mark` defines."""
    (cell,) = (cell for cell in cells(book, "code") if mark in cell.source)
    exec(cell.source, space)
    return space


@pytest.fixture
def trained(book, adapted):
    """Return (model, tokenizer, encoded examples, what the lesson's training cell defines)."""
    model, tokenizer = adapted
    encoder = Encoder(tokenizer)
    encoded = [encoder(example) for example in load_samples("medical_train").select(range(60))]
    space = lesson(
        book,
        "def fine_tune",
        random=random,
        torch=torch,
        F=F,
        join_batch=join_batch,
        model=model,
        tokenizer=tokenizer,
        fast=adapter_tensors(model, "fast"),
    )
    return model, tokenizer, encoded, space


def test_one_step_of_the_lesson_equals_one_step_on_the_loss_of_the_package(trained):
    model, tokenizer, encoded, space = trained
    fast = adapter_tensors(model, "fast")
    before = [tensor.detach().clone() for tensor in fast]
    assert list(space["fine_tune"](encoded, 1, seed=3)) == [1]
    by_hand = [tensor.detach().clone() for tensor in fast]
    with torch.no_grad():
        torch._foreach_copy_(fast, before)
    batch = join_batch(random.Random(3).sample(encoded, 16), tokenizer.pad_token_id)
    states = hidden_states(model, batch)[batch["row"], batch["position"]]
    loss = -token_logprobs(states, head_weight(model), batch["target"]).mean()
    optimizer = torch.optim.AdamW(fast, lr=2e-4)  # a tenth of the rate: the first of ten warm-up steps
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(fast, 1.0)
    optimizer.step()
    assert any((a != b).any() for a, b in zip(by_hand, before))
    for a, b in zip(by_hand, fast):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_four_of_sixteen_examples_are_replayed(trained):
    _, _, encoded, space = trained
    seen = []
    space["join_batch"] = lambda batch, pad: seen.append(batch) or join_batch(batch, pad)
    list(space["fine_tune"](encoded[:40], 2, replayed=encoded[40:]))
    assert len(seen) == 2
    for batch in seen:
        assert len(batch) == 16 and sum(any(one is old for old in encoded[40:]) for one in batch) == 4


def test_alpha_scales_the_change_of_the_weights(book, adapted, shake):
    model, _ = adapted
    fast = adapter_tensors(model, "fast")
    tensors = shake(model, "fast")
    data = SimpleNamespace(trusted=[])
    space = lesson(book, "def course", LEVELS=(), STEPS=0, encoder=None, data=data, torch=torch, fast=fast)
    layer = next(module for module in model.modules() if hasattr(module, "lora_A"))
    whole = layer.get_delta_weight("fast").detach().clone()
    for alpha in (0.0, 0.4, 1.0):
        space["put"](tensors, alpha)
        torch.testing.assert_close(layer.get_delta_weight("fast"), alpha * whole, atol=1e-6, rtol=1e-5)


RETENTION = [
    f"def retention_above_chance(before, after, chance): return {body}"
    for body in (
        "sum(after) / sum(before)",  # not corrected
        "sum(a - c for a, c in zip(after, chance)) / sum(before)",  # corrected on one side
        "sum((a - c) / (b - c) for b, a, c in zip(before, after, chance)) / len(before)",  # mean of ratios
        "sum(b - a for a, b in zip(after, before)) / sum(b - c for b, c in zip(before, chance))",  # forgetting
    )
]
SCORES = [
    dict(qa=dict(by_topic=dict(a=dict(value=a, chance=0.25, n=60), b=dict(value=b, chance=0.5, n=60))))
    for a, b in ((0.9, 0.8), (0.4, 0.75))
]


def test_the_score_of_the_lesson_is_the_learners_where_it_is_right(book):
    levels = dict(base=[0.9, 0.8], tuned=[0.4, 0.75], chance=[0.25, 0.5])
    topics = [("qa", "a"), ("qa", "b")]
    space = dict(np=np, levels=levels, topics=topics, before=SCORES[0], after=SCORES[1])
    space["chance_corrected_retention"] = chance_corrected_retention
    numbers = ["above chance: 0.42, by the package 0.42", "equal: True"]
    check_core_exercise(book, space, "retention_above_chance", numbers, RETENTION)


def test_retention_above_chance_equals_the_package(book):
    space = {}
    exec(next(solution for _, solution in exercises(book) if "retention_above_chance" in solution), space)
    mine = space["retention_above_chance"]([0.9, 0.8], [0.4, 0.75], [0.25, 0.5])
    assert mine == pytest.approx(chance_corrected_retention(*SCORES, [("qa", "a"), ("qa", "b")]))


def test_the_exercises_accept_their_solutions_and_reject_wrong_ones(book):
    wrong = [
        RETENTION,
        [
            "def culprit(R): return min(range(1, len(R)), key=lambda i: R[i][0])",
            "def culprit(R): return max(range(1, len(R)), key=lambda i: R[i][0] - R[i - 1][0])",
            "def culprit(R): return 2",
        ],
        [
            "def forgotten(R):\n    n = len(R) - 1\n    return sum(R[j][j] - R[-1][j] for j in range(n)) / n",
            "def forgotten(R): return sum(max(r[j] for r in R) - R[-1][j] for j in range(len(R))) / len(R)",
            "def forgotten(R): return 0.225",
        ],
        [
            "def furthest(alphas, general, minimum):\n"
            "    return max((a for a, g in zip(alphas, general) if g >= minimum), default=None)",
            "def furthest(alphas, general, minimum): return 0.25",
            "def furthest(alphas, general, minimum):\n    if general[0] <= minimum: return None\n"
            "    return float(np.interp(-minimum, -np.array(general), alphas))",
        ],
    ]
    small = [[0.80, 0.10, 0.20], [0.85, 0.70, 0.30], [0.50, 0.60, 0.75]]
    for number in range(len(wrong)):
        check_exercise(book, number, wrong, dict(np=np, forgetting=forgetting, small=small))


def test_the_figures_draw_their_data():
    matrix = np.array([[0.9, 0.0], [0.2, 0.7]])
    first, last = matrix_figure(matrix, ("general", "easy")).axes
    assert [text.get_text() for text in first.texts] == ["0.90", "0.00"]
    assert [text.get_text() for text in last.texts] == ["0.90", "0.00", "0.20", "0.70"]
    curve = pd.DataFrame(dict(general=[0.9, 0.2], easy=[0.0, 0.7]), index=[0, 60])
    (axis,) = course_figure(curve, ("easy",), 60).axes
    assert [line.get_ydata().tolist() for line in axis.lines[:2]] == [[0.9, 0.2], [0.0, 0.7]]
    retained = pd.DataFrame(dict(fact=[1.0, 0.1], rule=[1.0, 0.3]), index=[0, 60])
    topics = pd.DataFrame(dict(early=[1.0, 0.9], end=[0.1, 0.3]), index=["capital", "plural"])
    left, right = topics_figure(retained, topics, dict(capital="fact", plural="rule")).axes
    assert [line.get_ydata().tolist() for line in left.lines] == [[1.0, 0.1], [1.0, 0.3]]
    assert [bar.get_width() for bar in right.patches] == [0.1, 0.3]
    path = dict(general=[0.9, 0.6, 0.2], hard=[0.0, 0.3, 0.4], medical_kl=[0.0, 2.0, 5.0], general_kl=[0.0, 1.0, 3.0])
    paths = {"plain": pd.DataFrame(path, index=[0.0, 0.5, 1.0])}
    (axis,) = plane_figure(paths).axes
    assert axis.lines[0].get_xydata().tolist() == [[0.9, 0.0], [0.6, 0.3], [0.2, 0.4]]
    assert [text.get_text() for text in axis.texts] == ["0.5", "1"]
    medical, general = divergence_figure(paths).axes
    assert medical.lines[0].get_xdata().tolist() == [0.0, 2.0, 5.0]
    assert general.lines[0].get_ydata().tolist() == pytest.approx([0.0, 0.3, 0.7])


def test_the_diagram_says_what_is_trained_and_what_follows_from_the_frozen_base():
    texts = " ".join(text.get_text() for text in diagram.draw().axes[0].texts)
    assert "frozen" in texts and "no gradient" in texts and "by construction" in texts and diagram.draw.__doc__


def test_the_lesson_is_short(book):
    check_size(book)
