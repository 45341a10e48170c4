"""The plan of a stage: repeatable, counted right, and the same however a step is cut."""

import pytest
import torch

from icft_lite.config import ICFTConfig
from icft_lite.memory.long_term import MemoryEntry
from icft_lite.memory.short_term import ShortTermMemory
from icft_lite.modeling.encoding import Encoded
from icft_lite.training.batches import StageBatches, new_item
from icft_lite.training.plan import num_tokens, plan_stage, plan_token_budget


def encoded(n, rows=1):
    return Encoded([[5] * n] * rows, [(r, n - 2, 5, r) for r in range(rows)], rows)


NEW = [encoded(10 + i % 7, rows=1 + 3 * (i % 5 == 0)) for i in range(60)]  # every fifth: a question of four rows
MEMORY = [encoded(8 + i % 3) for i in range(20)]


def plan(config=None, new=NEW, memory=MEMORY, tokens=6000, max_steps=0, seed="0/1"):
    config = config or ICFTConfig(rows=24, memory_share=0.5, ring_share=0.1)
    stm = ShortTermMemory(config.ring_size, config.promote_after, seed)
    steps, used = plan_stage(list(range(len(new))), new, ["t"] * len(new), memory, stm, config, tokens, max_steps, seed)
    return steps, used, stm


def test_a_plan_is_a_function_of_its_seed():
    assert plan()[:2] == plan()[:2]
    assert plan()[0] != plan(seed="1/1")[0]


def test_tokens_are_counted_exactly_and_the_last_step_reaches_the_goal():
    steps, used, _ = plan()
    sizes = [
        sum(num_tokens(NEW[i]) for i in step.new + step.ring) + sum(num_tokens(MEMORY[i]) for i in step.memory)
        for step in steps
    ]
    assert used == sum(sizes) >= 6000 > sum(sizes[:-1])
    assert num_tokens(encoded(10, rows=4)) == 40


def test_every_step_has_new_rows_and_about_the_rows_asked_for():
    steps, _, _ = plan()
    for step in steps:
        assert step.new
        rows = sum(NEW[i].num_sequences for i in step.new + step.ring) + len(step.memory)
        assert 24 <= rows <= 24 + 2 * 4  # a question of four rows may go over, in the ring and in the new ones


def test_a_question_larger_than_a_step_still_gets_its_step():
    steps, _, _ = plan(ICFTConfig(rows=4), new=[encoded(10, rows=26)] * 3, tokens=2000)
    assert len(steps) >= 3 and all(len(step.new) == 1 for step in steps)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_memory_has_its_share_and_is_gone_through_evenly(share):
    steps, _, _ = plan(ICFTConfig(rows=24, memory_share=share))
    assert all(len(step.memory) == 24 * share for step in steps)
    drawn = [i for step in steps for i in step.memory]
    counts = [drawn.count(i) for i in range(len(MEMORY))]
    assert max(counts) - min(counts) <= 1


def test_a_share_that_is_no_whole_number_of_rows_is_met_over_the_steps():
    config = ICFTConfig(rows=8, memory_share=0.2, ring_share=0.05)  # 1.6 and 0.4 rows a step
    steps, _, _ = plan(config, new=[encoded(10)] * 60)
    for done in range(1, len(steps)):
        drawn = [(len(step.memory), len(step.ring)) for step in steps[:done]]
        assert sum(m for m, _ in drawn) == int(1.6 * done + 1e-6)
        assert sum(r for _, r in drawn) == int(0.4 * done + 1e-6)
    assert all(len(step.new) + len(step.ring) + len(step.memory) == 8 for step in steps)


def test_an_empty_memory_leaves_its_room_to_new_rows():
    steps, _, _ = plan(memory=[])
    assert all(not step.memory and sum(NEW[i].num_sequences for i in step.new + step.ring) >= 24 for step in steps)


def test_ring_rows_were_new_before_and_each_replay_is_counted():
    steps, _, stm = plan(ICFTConfig(rows=24, ring_share=0.2, ring_size=1000, promote_after=1))
    seen, replays = set(), {}
    for step in steps:
        assert set(step.ring) <= seen and len(set(step.ring)) == len(step.ring)
        seen |= set(step.new)
        for i in step.ring:
            replays[i] = replays.get(i, 0) + 1
    assert len(replays) > 5
    assert stm.flush() == replays  # nothing ever left so large a ring


def test_plain_qlora_has_neither_memory_nor_ring():
    steps, _, _ = plan(ICFTConfig(method="qlora", rows=24))
    assert steps and not any(step.memory or step.ring for step in steps)


def test_max_steps_cuts_the_plan():
    assert len(plan(max_steps=3)[0]) == 3 < len(plan()[0])


def test_a_run_cut_short_still_sees_the_whole_stage():
    """Competence follows the steps that will be run, so 20 steps of a long stage also reach its hardest rows."""
    new = [encoded(10) for _ in range(60)]
    steps, _, _ = plan(ICFTConfig(rows=24), new=new, tokens=10**6, max_steps=20)
    drawn = [i for step in steps for i in step.new]
    assert max(drawn[:18]) < 30 and max(drawn) >= 55


# ---------------------------------------------------------------- items and micro-batches


def test_what_the_losses_are_told_of_each_row(row):
    trusted = new_item(row(), encoded(9), "new")
    assert (trusted.weak, trusted.token_weight) == ("", [1.0])
    weak = new_item(row(task="question", responses=["a", "b"], label=-1, posterior=[0.3, 0.7]), encoded(9, 2), "new")
    assert (weak.weak, weak.token_weight, weak.posterior) == ("question", [0.3, 0.7], [0.3, 0.7])
    pair = new_item(row(task="pair", responses=["a", "b"], label=-1, posterior=[0.9, 0.1]), encoded(9, 2), "ring")
    assert (pair.weak, pair.token_weight, pair.posterior) == ("pair", [0.0, 0.0], [0.9, 0.1])
    labelled = new_item(row(task="question", responses=["a", "b"], label=1), encoded(9, 2), "new")
    assert (labelled.weak, labelled.token_weight, labelled.posterior) == ("question", [0.0, 1.0], [0.0, 1.0])
    chosen = new_item(row(task="pair", responses=["a", "b"], label=0), encoded(9, 2), "new")
    assert (chosen.token_weight, chosen.posterior) == ([0.0, 0.0], [1.0, 0.0])
    hard = new_item(row(task="question", responses=["a", "b"], posterior=[0.3, 0.7]), encoded(9, 2), "new", soft=False)
    assert hard.posterior == [0.0, 1.0]


@pytest.mark.parametrize("sizes, shares", [((10, 30, 50), (0.05, 0.15, 0.8)), ((7,), (1.0,)), ((1, 1), (0.2, 0.8))])
def test_the_last_stage_gets_its_share_of_the_tokens_and_the_others_divide_the_rest(sizes, shares):
    stages = [list(range(size)) for size in sizes]
    assert plan_token_budget(stages, [], ICFTConfig(tokens=1000, last_stage=0.8)) == (1000, pytest.approx(list(shares)))


def test_without_a_number_of_tokens_the_new_rows_are_run_through_so_often():
    config = ICFTConfig(epochs=2, memory_share=0.4, ring_share=0.1)
    tokens, _ = plan_token_budget([[0, 1]], [encoded(30, 1), encoded(10, 1)], config)
    assert tokens == pytest.approx(2 * 40 / 0.5)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_micro_batches_share_one_denominator_and_lose_no_row(row, parts):
    config = ICFTConfig(rows=24, micro_batches=parts, replay_weight=0.5, pack_rows=False)
    rows = [
        row(id=str(i), task="question", responses=list("abcd"), label=-1, posterior=[0.1, 0.2, 0.3, 0.4])
        if NEW[i].num_sequences == 4
        else row(id=str(i))
        for i in range(60)
    ]
    entries = [MemoryEntry(row(id=f"m{i}"), one, "general", states=torch.ones(1, 3)) for i, one in enumerate(MEMORY)]
    steps, _, _ = plan(config)
    batches = StageBatches(steps, rows, NEW, entries, config)
    assert len(batches) == parts * len(steps)
    step, mine = steps[2], [batches[2 * parts + part] for part in range(parts)]
    questions = [i for i in step.new + step.ring if NEW[i].num_sequences == 4]
    plain = len(step.new) + len(step.ring) - len(questions)
    for batch in mine:
        assert batch["denominators"] == dict(
            fine_tune=pytest.approx(plain + len(questions) + 0.5 * len(step.memory)),
            task=pytest.approx(plain + len(questions)),
            consistency=len(step.memory),
        )
    assert sum(len(batch["input_ids"]) for batch in mine) == (
        sum(NEW[i].num_sequences for i in step.new + step.ring) + len(step.memory)
    )
    assert sum(len(batch["weak_question"]) for batch in mine) == len(questions)
    assert sum(len(batch["teacher_token"]) for batch in mine) == len(step.memory)
    assert sum(float(batch["token_weight"].sum()) for batch in mine) == pytest.approx(
        mine[0]["denominators"]["fine_tune"]
    )
    for batch in mine:  # a question's options stay together: its posterior is all there
        assert all((batch["example"] == i).sum() == 4 for i in batch["weak_question"])
