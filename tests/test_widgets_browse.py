"""The curriculum explorer on real votes; the memory inspector and the models of a run on a real small run."""

import re

import numpy as np
import pytest
from small_run import SETTINGS, small_bundle

from icft_lite.chat import SaveStageAdapters, run_models
from icft_lite.curriculum import score_difficulty
from icft_lite.data.samples import sample_bundle
from icft_lite.errors import ICFTError
from icft_lite.finished_runs import load_run
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.memory.policies import POLICIES
from icft_lite.modeling.generation import generate_reply
from icft_lite.training.events import RunCallback
from icft_lite.training.loop import train_icft
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
from icft_lite.widgets.inspector import COLUMNS, RANDOM, REASONS


def cells(html):
    return [
        text.replace("&#x27;", "'").replace("&amp;", "&") for text in re.findall(r"<td[^>]*>(.*?)</td>", html, re.S)
    ]


def table_rows(html, width):
    found = cells(html)
    return [found[at : at + width] for at in range(0, len(found), width)]


# ---------------------------------------------------------------- the explorer


@pytest.fixture(scope="module")
def curriculum():
    """(examples, difficulty, votes, lf_names): every sixth example of the samples, with real weak labels."""
    data = sample_bundle()
    pool = [dict(example) for example in data.pool][::6]
    lfs = [lf for lf in sample_lfs() if lf.name != "base_choice"]
    votes = apply_lfs(lfs, pool)
    for example, posterior in zip(pool, label_pool(pool, votes, lfs=lfs)[0]):
        example["posterior"] = posterior
    examples = [dict(example) for example in data.trusted][::6] + pool
    votes_by_id = {example["id"]: row for example, row in zip(pool, votes)}
    return examples, score_difficulty(examples), votes_by_id, [lf.name for lf in lfs]


def test_the_explorer_follows_its_filters(curriculum):
    examples, difficulty, *_ = curriculum
    filters, count, picker, detail = curriculum_explorer(*curriculum).children
    stage, topic, difficulty_range = filters.children
    selected, previous_button, next_button = picker.children
    assert stage.options == ("all", "easy", "medium", "hard") and f"{len(examples)} examples" in count.value
    stage.value, topic.value = "medium", "drug_use"
    difficulty_range.value = (0.5, 1.0)
    matching = [i for i in range(len(examples)) if examples[i]["topic"] == "drug_use" and difficulty[i] >= 0.5]
    assert matching and f"{len(matching)} examples" in count.value
    assert sorted(i for _, i in selected.options) == matching
    assert selected.value == max(matching, key=lambda i: (difficulty[i], -i))
    assert examples[selected.value]["prompt"] in detail.value.replace("&#x27;", "'")
    first = detail.value
    next_button.click()
    assert selected.index == 1 and detail.value != first and examples[selected.value]["topic"] == "drug_use"
    previous_button.click()
    previous_button.click()
    assert selected.index == 0 and detail.value == first, "the first example has no previous one"
    for _ in matching:
        next_button.click()
    assert selected.index == len(matching) - 1
    topic.value = "anatomy"
    assert "0 examples" in count.value and selected.options == () and detail.value == ""
    next_button.click()
    assert selected.value is None
    topic.value = "all"
    assert selected.options and detail.value


def test_the_detail_shows_each_response_with_its_posterior_and_voters(curriculum):
    examples, _, votes, lf_names = curriculum
    picker, detail = curriculum_explorer(*curriculum).children[2:]
    selected = picker.children[0]
    i, example = next(
        (i, example)
        for i, example in enumerate(examples)
        if example["id"] in votes and example["posterior"] and len(set(votes[example["id"]]) - {-1}) > 1
    )
    selected.options = [("it", i)]
    selected.value = i
    own_votes = votes[example["id"]]
    for k, (response, posterior, count, names) in enumerate(table_rows(detail.value, 4)):
        voters = [name for name, vote in zip(lf_names, own_votes) if vote == k]
        assert response == example["responses"][k] and posterior == f"{example['posterior'][k]:.2f}"
        assert int(count) == len(voters) and names == ", ".join(voters)
    assert f"{sum(own_votes == -1)} of {len(own_votes)} functions abstained" in detail.value


def test_the_static_table_shows_the_hardest_first(curriculum):
    examples, difficulty, *_ = curriculum
    table = table_rows(curriculum_table(*curriculum, stage="easy", max_rows=5).data, 6)
    easy = sorted((difficulty[i] for i, example in enumerate(examples) if example["level"] == "easy"), reverse=True)
    assert [row[0] for row in table] == [f"{value:.2f}" for value in easy[:5]]
    replies = table_rows(curriculum_table(*curriculum, topic="reply", max_rows=3).data, 6)
    assert {row[1] for row in replies} == {"reply"} and {row[4] for row in replies} == {"trusted"}
    low, high = 0.2, 0.4
    within = table_rows(curriculum_table(*curriculum, difficulty_range=(low, high), max_rows=999).data, 6)
    assert len(within) == sum(low <= value <= high for value in difficulty) > 0


def test_text_of_examples_is_escaped(curriculum):
    evil = "<script>alert('x')</script>"
    example = dict(curriculum[0][0], prompt=evil, topic=evil, responses=[evil], level="", posterior=[])
    arguments = [example], [0.5], {example["id"]: np.array([0])}, [evil]
    for shown in (curriculum_table(*arguments).data, curriculum_explorer(*arguments).children[3].value):
        assert "<script" not in shown and shown.count("&lt;script&gt;") >= 3


def test_an_empty_curriculum_is_shown_as_empty():
    filters, count, picker, detail = curriculum_explorer([], []).children
    assert "0 examples" in count.value and detail.value == "" and filters.children[0].options == ("all",)


# ---------------------------------------------------------------- a real run


class SeeMemory(RunCallback):
    """Gives access to the long-term memory of a run."""

    def on_stage_end(self, prepared, result):
        self.memory = prepared.memory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, long-term memory) of a small run that saved the slow adapter of every stage."""
    out, seen = tmp_path_factory.mktemp("run") / "out", SeeMemory()
    settings = {**SETTINGS, "optim.learning_rate": 0.02, "consolidation.enabled": False}
    train_icft(settings, out, small_bundle(), progress=False, callbacks=[SaveStageAdapters(), seen])
    return out, seen.memory


def test_base_every_stage_slow_and_fast_answer_in_one_panel(run):
    out, _ = run
    models = run_models(out, max_new_tokens=12)
    assert list(models) == ["base", "after easy", "after medium", "slow", "fast"]
    assert all((out / f"adapter_stage{number}" / "adapter_config.json").exists() for number in (1, 2, 3))
    question = "What does the medical term nephritis mean?"
    _, controls, table = ask_panel(models).children
    controls.children[0].value = question
    replies = dict(zip(models, cells(table.value)[1:]))
    for name, adapter in (("after easy", "adapter_stage1"), ("slow", "adapter"), ("fast", "adapter_fast")):
        assert replies[name] == generate_reply(*load_run(out, adapter), question, max_new_tokens=12), name
    assert replies["base"] != replies["fast"], "the run learned nothing, so this test could not fail"


def test_a_stage_whose_callback_is_interrupted_is_sent_again(tmp_path):
    class Killed(SaveStageAdapters):
        def on_stage_end(self, prepared, result):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_icft(SETTINGS, tmp_path / "run", small_bundle(), progress=False, callbacks=[Killed()])
    train_icft(SETTINGS, tmp_path / "run", small_bundle(), progress=False, callbacks=[SaveStageAdapters()])
    assert {path.name for path in (tmp_path / "run").glob("adapter_stage*")} == {f"adapter_stage{n}" for n in (1, 2, 3)}


def test_a_run_without_saved_stage_adapters_has_three_models(run, tmp_path):
    for name in ("adapter", "adapter_fast", "report.json"):
        (tmp_path / name).symlink_to(run[0] / name)
    assert list(run_models(tmp_path)) == ["base", "slow", "fast"]
    with pytest.raises(ICFTError, match="no finished run"):
        run_models(tmp_path / "none")


def test_the_inspector_shows_the_memory_of_a_run(run):
    _, memory = run
    records = promotion_outcomes(memory)
    assert len(records) == len(memory) and {record["outcome"] for record in records} == {"retained", "promoted"}
    promoted = [record for record in records if record["outcome"] == "promoted"]
    controls, table = memory_inspector(records, max_rows=100).children
    outcome, source, sort_by = controls.children
    assert outcome.value == "promoted" and f"{len(promoted)} example" in table.value
    surprise = COLUMNS.index("surprise")
    found = [float(row[surprise]) for row in table_rows(table.value, len(COLUMNS))]
    assert len(found) == len(promoted) and found == sorted(found, reverse=True)
    outcome.value = "all"
    source.value = "self"
    assert {row[1] for row in table_rows(table.value, len(COLUMNS) + 1)} == {"self"}
    sort_by.value = "confidence"
    assert table.value == outcome_table(records, "all", "self", "confidence", 100).data, "the static table is the same"


# ---------------------------------------------------------------- outcomes and reasons


class Code:
    """A stand-in for an encoder: LongTermMemory only stores what it returns."""

    def __call__(self, example):
        return example["id"]


@pytest.fixture
def remembered(example):
    """(memory, examples, replays): 12 places, 6 for general examples of one topic and 6 for promoted ones of two."""
    memory = LongTermMemory(12, reservoir_share=0.5, teach_prompts=False)
    memory.add([example(id=f"g{i}", topic="plants") for i in range(9)], Code(), "general")
    two = dict(responses=["a", "b"])
    examples = [example(id=f"p{i}", topic="ribs" if i < 8 else "skin", posterior=[0.9, 0.1], **two) for i in range(10)]
    examples += [example(id="uncertain", topic="ribs", posterior=[0.6, 0.4], **two), example(id="new", topic="ribs")]
    memory.add(examples[:10], Code(), "promoted", np.arange(10.0))
    return memory, examples, {f"p{i}": 1 + i for i in range(10)} | {"uncertain": 2}


def test_every_example_has_one_outcome_and_its_reason(remembered):
    memory, examples, replays = remembered
    records = promotion_outcomes(memory, examples, replays, min_confidence=0.8)
    by = {outcome: [r for r in records if r["outcome"] == outcome] for outcome in {r["outcome"] for r in records}}
    assert {outcome: len(found) for outcome, found in by.items()} == {
        "retained": 6,
        "promoted": 6,
        "no room": 4,
        "label too uncertain": 1,
        "not replayed": 1,
    }
    assert "below 0.8" in by["label too uncertain"][0]["reason"]
    ribs = [r for r in by["promoted"] if r["topic"] == "ribs"]
    skin = [r for r in by["promoted"] if r["topic"] == "skin"]
    assert len(skin) == 2 and all(r["quota"] is None and "room for every" in r["reason"] for r in skin)
    assert len(ribs) == 4 and all(r["quota"] == 4 for r in ribs) and all(r["quota"] == 4 for r in by["no room"])
    assert [r["replays"] for r in ribs] == [1 + int(r["surprise"]) for r in ribs]


def test_random_entries_are_distinguished_from_surprising_ones(remembered):
    memory, examples, replays = remembered
    entries = {entry.example["id"]: entry for entry in memory.entries}
    offered = sorted((memory._entry(one, "promoted", 0) for one in examples[:8]), key=lambda entry: entry.priority)
    at_random = {entry.example["id"] for entry in offered[:2]}
    for record in promotion_outcomes(memory, examples, replays):
        if record["outcome"] == "promoted" and record["topic"] == "ribs":
            name = f"p{int(record['surprise'])}"
            assert name in entries and (record["reason"] == RANDOM) == (name in at_random)
    general = [r["reason"] for r in promotion_outcomes(memory) if r["source"] == "general"]
    assert general.count(RANDOM) == 3 and len(general) == 6


def test_text_of_remembered_examples_is_escaped(example):
    memory = LongTermMemory(3, teach_prompts=False)
    memory.add([example(id="x", prompt="<script>", topic="<b>", responses=["&"])], Code(), "general")
    shown = outcome_table(promotion_outcomes(memory)).data
    assert "<script" not in shown and "<b>" not in shown and "&lt;script&gt;" in shown and "&amp;" in shown
    assert memory_inspector(promotion_outcomes(memory)).children[1].value == shown


def test_an_empty_memory_is_shown_as_empty():
    assert "0 examples" in memory_inspector(promotion_outcomes(LongTermMemory(3))).children[1].value


def test_the_inspector_has_a_reason_for_every_policy():
    assert set(REASONS) == set(POLICIES)
