"""The curriculum explorer on real votes, and the memory inspector and all of a run's models on a real small run."""

import re

import numpy as np
import pytest
from small_run import SETTINGS, small_bundle

from icft_lite.chat import SaveStageAdapters, run_models
from icft_lite.config import ICFTConfig
from icft_lite.curriculum import score_difficulty
from icft_lite.data.samples import sample_bundle
from icft_lite.errors import ICFTError
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.modeling.generation import generate_reply
from icft_lite.runs import load_run
from icft_lite.training.run import Run
from icft_lite.weak.functions import apply_lfs
from icft_lite.weak.lfs.samples import sample_lfs
from icft_lite.weak.pool import label_pool
from icft_lite.widgets import (
    ask_panel,
    curriculum_explorer,
    curriculum_table,
    memory_inspector,
    outcome_table,
    promotion_outcomes,
)
from icft_lite.widgets.inspector import COLUMNS


def cells(html):
    return [
        text.replace("&#x27;", "'").replace("&amp;", "&") for text in re.findall(r"<td[^>]*>(.*?)</td>", html, re.S)
    ]


def lines(html, width):
    found = cells(html)
    return [found[at : at + width] for at in range(0, len(found), width)]


# ---------------------------------------------------------------- the explorer


@pytest.fixture(scope="module")
def curriculum():
    """(rows, difficulty, votes, names): every sixth row of the samples, labelled for real."""
    data = sample_bundle()
    pool = [dict(row) for row in data.pool][::6]
    lfs = [lf for lf in sample_lfs() if lf.name != "base_choice"]
    votes = apply_lfs(lfs, pool)
    for row, posterior in zip(pool, label_pool(pool, votes, lfs=lfs)[0]):
        row["posterior"] = posterior
    rows = [dict(row) for row in data.trusted][::6] + pool
    return (rows, score_difficulty(rows), {row["id"]: line for row, line in zip(pool, votes)}, [lf.name for lf in lfs])


def test_the_explorer_follows_its_filters(curriculum):
    rows, difficulty, *_ = curriculum
    filters, count, picker, detail = curriculum_explorer(*curriculum).children
    stage, topic, span = filters.children
    row, back, on = picker.children
    assert stage.options == ("all", "easy", "middle", "hard") and f"{len(rows)} rows" in count.value
    stage.value, topic.value = "middle", "drug_use"
    span.value = (0.5, 1.0)
    fits = [i for i in range(len(rows)) if rows[i]["topic"] == "drug_use" and difficulty[i] >= 0.5]
    assert fits and f"{len(fits)} rows" in count.value
    assert sorted(i for _, i in row.options) == fits and row.value == max(fits, key=lambda i: (difficulty[i], -i))
    assert rows[row.value]["prompt"] in detail.value.replace("&#x27;", "'")
    first = detail.value
    on.click()
    assert row.index == 1 and detail.value != first and rows[row.value]["topic"] == "drug_use"
    back.click()
    back.click()
    assert row.index == 0 and detail.value == first, "there is none before the first"
    for _ in fits:
        on.click()
    assert row.index == len(fits) - 1
    topic.value = "anatomy"
    assert "0 rows" in count.value and row.options == () and detail.value == ""
    on.click()
    assert row.value is None
    topic.value = "all"
    assert row.options and detail.value


def test_the_detail_shows_each_response_with_its_posterior_and_voters(curriculum):
    rows, _, votes, names = curriculum
    picker, detail = curriculum_explorer(*curriculum).children[2:]
    row = picker.children[0]
    i = next(
        i
        for i, _ in enumerate(rows)
        if rows[i]["id"] in votes and rows[i]["posterior"] and len(set(votes[rows[i]["id"]]) - {-1}) > 1
    )
    row.options = [("it", i)]
    row.value = i
    for k, (response, posterior, count, who) in enumerate(lines(detail.value, 4)):
        voters = [name for name, vote in zip(names, votes[rows[i]["id"]]) if vote == k]
        assert response == rows[i]["responses"][k] and posterior == f"{rows[i]['posterior'][k]:.2f}"
        assert int(count) == len(voters) and who == ", ".join(voters)
    row = votes[rows[i]["id"]]
    assert f"{sum(row == -1)} of {len(row)} functions abstained" in detail.value


def test_the_static_table_shows_the_hardest_first(curriculum):
    rows, difficulty, *_ = curriculum
    table = lines(curriculum_table(*curriculum, stage="easy", most=5).data, 6)
    easy = sorted((difficulty[i] for i, row in enumerate(rows) if row["level"] == "easy"), reverse=True)
    assert [line[0] for line in table] == [f"{value:.2f}" for value in easy[:5]]
    only = lines(curriculum_table(*curriculum, topic="reply", most=3).data, 6)
    assert {line[1] for line in only} == {"reply"} and {line[4] for line in only} == {"trusted"}


def test_rows_are_data_and_never_markup(curriculum):
    evil = "<script>alert('x')</script>"
    row = dict(curriculum[0][0], prompt=evil, topic=evil, responses=[evil], level="", posterior=[])
    explorer = curriculum_explorer([row], [0.5], {row["id"]: np.array([0])}, [evil])
    for shown in (curriculum_table([row], [0.5], {row["id"]: np.array([0])}, [evil]).data, explorer.children[3].value):
        assert "<script" not in shown and shown.count("&lt;script&gt;") >= 3


def test_an_empty_curriculum_is_shown_as_such():
    filters, count, picker, detail = curriculum_explorer([], []).children
    assert "0 rows" in count.value and detail.value == "" and filters.children[0].options == ("all",)


# ---------------------------------------------------------------- a real run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small run that keeps the slow adapter of every stage."""
    config = ICFTConfig(**{**SETTINGS, "learning_rate": 0.02, "consolidate": False})
    run = Run(config, small_bundle(), tmp_path_factory.mktemp("run") / "out", False, [SaveStageAdapters()])
    run.run()
    return run


def test_base_every_stage_slow_and_fast_answer_in_one_panel(run):
    models = run_models(run.out, max_new_tokens=12)
    assert list(models) == ["base", "after easy", "after middle", "slow", "fast"]
    assert all((run.out / f"adapter_stage{number}" / "adapter_config.json").exists() for number in (1, 2, 3))
    question = "What does the medical term nephritis mean?"
    filters, row, answers = ask_panel(models).children
    row.children[0].value = question
    said = dict(zip(models, cells(answers.value)[1:]))
    for name, adapter in (("after easy", "adapter_stage1"), ("slow", "adapter"), ("fast", "adapter_fast")):
        assert said[name] == generate_reply(*load_run(run.out, adapter), question, max_new_tokens=12), name
    assert said["base"] != said["fast"], "it learned nothing; the test would not tell them apart"


def test_a_run_without_stages_kept_offers_what_there_is(run, tmp_path):
    for name in ("adapter", "adapter_fast", "report.json"):
        (tmp_path / name).symlink_to(run.out / name)
    assert list(run_models(tmp_path)) == ["base", "slow", "fast"]
    with pytest.raises(ICFTError, match="no finished run"):
        run_models(tmp_path / "none")


def test_the_inspector_shows_what_a_run_remembers(run):
    records = promotion_outcomes(run.memory)
    assert len(records) == len(run.memory) and {record["fate"] for record in records} == {"kept", "promoted"}
    promoted = [record for record in records if record["fate"] == "promoted"]
    (fate, source, order), shown = (box := memory_inspector(records, most=100)).children[0].children, box.children[1]
    assert fate.value == "promoted" and f"{len(promoted)} rows" in shown.value
    surprise = COLUMNS.index("surprise")
    found = [float(line[surprise]) for line in lines(shown.value, len(COLUMNS))]
    assert len(found) == len(promoted) and found == sorted(found, reverse=True)
    fate.value = "all"
    source.value = "self"
    assert {line[1] for line in lines(shown.value, len(COLUMNS) + 1)} == {"self"}
    order.value = "confidence"
    assert shown.value == outcome_table(records, "all", "self", "confidence", 100).data, "the static view is the same"


# ---------------------------------------------------------------- why a row is there, or is not


class Code:
    """The least that LongTermMemory asks of an encoder: it only stores what it returns."""

    def __call__(self, row):
        return row["id"]


@pytest.fixture
def remembered(row):
    """(memory, rows, replays): 12 places, 6 for general rows of one topic and 6 for what was promoted of two."""
    memory = LongTermMemory(12, reservoir_share=0.5, prompts=False)
    memory.add([row(id=f"g{i}", topic="plants") for i in range(9)], Code(), "general")
    rows = [
        row(id=f"p{i}", topic="ribs" if i < 8 else "skin", posterior=[0.9, 0.1], responses=["a", "b"])
        for i in range(10)
    ]
    rows += [row(id="unsure", topic="ribs", posterior=[0.6, 0.4], responses=["a", "b"]), row(id="new", topic="ribs")]
    memory.add(rows[:10], Code(), "promoted", np.arange(10.0))
    return memory, rows, {f"p{i}": 1 + i for i in range(10)} | {"unsure": 2}


def test_every_row_has_one_fate_and_its_reason(remembered):
    memory, rows, replays = remembered
    records = promotion_outcomes(memory, rows, replays, least=0.8)
    by = {fate: [r for r in records if r["fate"] == fate] for fate in {r["fate"] for r in records}}
    assert {fate: len(found) for fate, found in by.items()} == {
        "kept": 6,
        "promoted": 6,
        "no room": 4,
        "label too unsure": 1,
        "not replayed": 1,
    }
    assert "below 0.8" in by["label too unsure"][0]["why"]
    ribs = [r for r in by["promoted"] if r["topic"] == "ribs"]
    skin = [r for r in by["promoted"] if r["topic"] == "skin"]
    assert len(skin) == 2 and all(r["quota"] is None and "room for all" in r["why"] for r in skin)
    assert len(ribs) == 4 and all(r["quota"] == 4 for r in ribs) and all(r["quota"] == 4 for r in by["no room"])
    assert [r["replays"] for r in ribs] == [1 + int(r["surprise"]) for r in ribs]


def test_who_was_drawn_by_lot_is_told_from_who_surprised(remembered):
    memory, rows, replays = remembered
    entries = {entry.example["id"]: entry for entry in memory.entries}
    offered = sorted((memory._entry(row, "promoted", 0) for row in rows[:8]), key=lambda entry: entry.priority)
    lucky = {entry.example["id"] for entry in offered[:2]}
    for record in promotion_outcomes(memory, rows, replays):
        if record["fate"] == "promoted" and record["topic"] == "ribs":
            name = f"p{int(record['surprise'])}"
            assert name in entries and ("lot" in record["why"]) == (name in lucky)
    general = [r["why"] for r in promotion_outcomes(memory) if r["source"] == "general"]
    assert sum("lot" in why for why in general) == 3 and len(general) == 6


def test_what_rows_hold_is_escaped(row):
    memory = LongTermMemory(3, prompts=False)
    memory.add([row(id="x", prompt="<script>", topic="<b>", responses=["&"])], Code(), "general")
    shown = outcome_table(promotion_outcomes(memory)).data
    assert "<script" not in shown and "<b>" not in shown and "&lt;script&gt;" in shown and "&amp;" in shown
    assert memory_inspector(promotion_outcomes(memory)).children[1].value == shown


def test_an_empty_memory_is_shown_as_such():
    assert "0 rows" in memory_inspector(promotion_outcomes(LongTermMemory(3))).children[1].value
