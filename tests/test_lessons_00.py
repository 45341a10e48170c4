"""Lesson 00: its form, what it says about the recorded replies, and its exercises."""

import json
import re

import numpy as np
import pytest
from lesson_checks import check_size
from test_notebooks import NOTEBOOKS, build, cells, check_exercise, exercises, notebook, said, solve

from icft_lite.chat_checks import is_right
from icft_lite.config import ICFTConfig
from icft_lite.data.chat_suite import chat_suite
from icft_lite.data.samples import sample_bundle
from icft_lite.experiments.recorded import DEMO_FULL, load_recorded
from icft_lite.metrics import retention
from icft_lite.reporting.concepts import pipeline
from icft_lite.utils.notice import NOTICE

SOURCE = NOTEBOOKS / "src" / "00_start_here.py"


@pytest.fixture(scope="module")
def book():
    return build.read(SOURCE)


@pytest.fixture(scope="module")
def stored():
    return notebook(SOURCE)


def test_the_lesson_is_short(book):
    check_size(book)
    assert len(book.cells) <= 75


# --- the recorded replies


def shown(stored):
    """Return the HTML of the lesson's tables with recorded replies."""
    return [
        output["data"]["text/html"]
        for cell in cells(stored, "code")
        if "ask_table(real" in cell.source
        for output in cell.outputs
        if "text/html" in output.get("data", {})
    ]


def test_the_lesson_begins_with_three_general_and_three_medical_questions_and_the_notice(stored):
    first = next(i for i, cell in enumerate(stored.cells) if "ask_table(real" in cell.source)
    assert first <= 12
    tables = shown(stored)
    assert len(tables) == 2
    for html in tables:
        assert html.count("<tr>") == 4 and f"<p>{NOTICE}</p>" in html
        assert re.findall(r'scope="col">(.*?)<', html) == ["question", "base", "plain LoRA", "ICFT"]


def test_general_questions_are_chosen_by_the_stated_rule(stored):
    """The first three recorded free questions that the base answers right, whatever the others answer."""
    items = {item.prompt: item for item in chat_suite("test") if item.accepted}
    asked = [one for one in load_recorded(DEMO_FULL)["recorded"] if one["prompt"] in items]
    assert len(asked) == 15
    known = [
        one["prompt"]
        for one in asked
        if is_right(one["base"], items[one["prompt"]].accepted, items[one["prompt"]].others)
    ]
    html = shown(stored)[0]
    places = [html.find(prompt.replace('"', "&quot;")) for prompt in known[:3]]
    assert -1 not in places and places == sorted(places)


def test_the_text_says_of_each_medical_reply_what_the_record_says(book):
    """right: the reference is in the reply. The table of the text has a row for each question."""
    replies = load_recorded(DEMO_FULL)["medical_replies"][::3]
    text = next(cell.source for cell in book.cells if "| nephromegaly |" in cell.source)
    verdicts = {
        row.split("|")[1].strip(): [one.strip() for one in row.split("|")[2:5]] for row in text.splitlines()[2:5]
    }
    for name, one in zip(("nephromegaly", "metoprolol", "chest pain"), replies, strict=True):
        for verdict, model in zip(verdicts[name], ("base", "qlora", "icft"), strict=True):
            facts = one["facts"] or [one["reference"]]
            found = all(fact in one[model].lower().replace("-", " ") for fact in facts)
            assert (verdict == "right") == found, (name, model)


def test_the_settings_that_the_text_names_are_those_of_the_runs(book):
    """The runs had a ring and soft labels; both are off by default now, and nothing else of the method differs."""
    text = " ".join(" ".join(cell.source for cell in cells(book, "markdown")).split())
    assert "a ring of recent examples and soft labels" in text
    recorded = load_recorded(DEMO_FULL)
    then = recorded["recorded_runs"]["icft"]["config"]
    now = ICFTConfig.preset("icft", recorded["settings"]).to_dict()
    different = {
        f"{part}.{name}"
        for part, values in then.items()
        if isinstance(values, dict)
        for name, value in values.items()
        if json.loads(json.dumps(now[part][name])) != value
    }
    assert different == {"short_term.share", "weak.soft_labels"}


def test_the_live_cell_says_why_it_is_skipped(stored):
    (cell,) = [cell for cell in cells(stored, "code") if "ask_live = False" in cell.source]
    assert cell.outputs[0].text == "Skipped: ask_live is False.\n"


def test_the_live_cell_asks_the_base_or_says_why_it_cannot(book):
    (code,) = [cell.source for cell in cells(book, "code") if "ask_live = False" in cell.source]
    tables = []
    namespace = dict(
        partial=lambda *_: "a model", generate_reply=None, right={"base": ["q"]}, ask_table=lambda *asked: asked,
        display=tables.append, ICFTError=ValueError, load_base=lambda name: (name,),
    )  # fmt: skip
    live = code.replace("ask_live = False", "ask_live = True")
    assert said(live, namespace) == "Queried now:\n" and tables == [({"base, queried now": "a model"}, ["q"])]

    def offline(name):
        raise ValueError(f"{name} cannot be downloaded")

    assert said(live, {**namespace, "load_base": offline}) == "Skipped: smollm2 cannot be downloaded.\n"
    assert len(tables) == 1


# --- the diagram


def test_the_diagram_has_every_component_and_alternative_text():
    texts = " ".join(text.get_text() for text in pipeline.draw().axes[0].texts)
    for component in ("labelling functions", "curriculum", "long-term memory", "fast adapter", "frozen base",
                      "L_consistency", "consolidation", "slow adapter"):  # fmt: skip
        assert component in texts and component in pipeline.draw.__doc__.replace("\n    ", " "), component


def test_boxes_of_the_diagram_do_not_overlap_and_are_inside():
    axes = pipeline.draw().axes[0]
    boxes = [patch.get_bbox().extents for patch in axes.patches]
    width, height = axes.get_xlim()[1], axes.get_ylim()[1]
    assert len(boxes) == 11 and all(0 < x0 < x1 < width and 0 < y0 < y1 < height for x0, y0, x1, y1 in boxes)
    for i, one in enumerate(boxes):
        for other in boxes[:i]:
            apart = one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]
            inside = np.all((other[:2] < one[:2]) & (one[2:] < other[2:]))
            assert apart or inside


# --- exercises


@pytest.fixture(scope="module")
def namespace():
    data = sample_bundle()
    candidates = [
        dict(alpha=alpha, general=general, retention=general, medical=medical)
        for alpha, general, medical in ((1.0, 0.70, 0.95), (0.7, 0.93, 0.90), (0.4, 0.95, 0.90), (0.2, 0.97, 0.80))
    ]
    stages = [
        dict(consolidation=dict(candidates=candidates, alpha=0.4)),
        dict(consolidation=dict(candidates=candidates[:1], alpha=0.0)),
    ]
    return dict(
        retention=retention,
        ABSTAIN=-1,
        pool=[dict(example) for example in data.pool],
        gold=[data.pool_gold[example["id"]] for example in data.pool],
        icft=dict(stages=stages),
        candidates=candidates,
        min_retention=0.92,
        theirs=dict(base_general=0.96, general=0.12),
        plain=dict(retention=0.125),
    )


WRONG = [
    [
        "def retained(before, after):\n    return before - after",
        "def retained(before, after):\n    return before / after",
        "def retained(before, after):\n    return 1.0",
        "def retained(before, after):\n    return min(1.0, after / before)",
    ],
    [
        "def itis(example): return ABSTAIN",
        "def itis(example): return 0",
        "def itis(example): return 0 if 'itis' in example['prompt'] else ABSTAIN",
        "def itis(example):\n    starts = [t.startswith('inflammation') for t in example['responses']]\n"
        "    return starts.index(True) if 'itis' in example['prompt'] and any(starts) else ABSTAIN",
    ],
    [
        "def choose(candidates, min_retention): return 1.0",
        "def choose(candidates, min_retention): return max(candidates, key=lambda c: c['medical'])['alpha']",
        "def choose(candidates, min_retention): return max(candidates, key=lambda c: c['general'])['alpha']",
    ],
]


@pytest.mark.parametrize("number", range(3))
def test_exercises_accept_their_solutions_and_reject_wrong_ones(book, namespace, number):
    check_exercise(book, number, WRONG, namespace)


def test_the_learners_retention_replaces_the_package_once_it_is_right(book, namespace):
    stub, solution = exercises(book)[0]
    at = next(i for i, cell in enumerate(book.cells) if cell.source == stub)
    use = next(cell.source for cell in book.cells[at + 1 :] if cell.cell_type == "code")
    traced = solution.replace("\n", "\n    calls.append(1)\n", 1)  # records that the learner's function ran
    for code, solved in [(stub, False), (solve(stub, traced), True), (solve(stub, WRONG[0][1]), False)]:
        calls = []
        printed = said(f"{code}\ncalls.clear()\n{use}", {**namespace, "calls": calls})
        assert bool(calls) == solved and "the same number as in the run's report: True" in printed
