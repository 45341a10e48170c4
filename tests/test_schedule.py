"""The plan of a stage and its batches: reproducible, counted correctly, independent of the number of micro-batches."""

from types import SimpleNamespace

import pytest
import torch

from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.memory.entries import MemoryEntry
from icft_lite.memory.short_term import ShortTermMemory
from icft_lite.modeling.encoding import Encoded
from icft_lite.training.batches import StageBatches, memory_item, new_item, normalizers
from icft_lite.training.loop import steps_left
from icft_lite.training.plan import num_tokens, plan_stage, plan_token_budget


def encoded(n, sequences=1):
    return Encoded([[5] * n] * sequences, [(r, n - 2, 5, r) for r in range(sequences)], sequences)


NEW = [encoded(10 + i % 7, 1 + 3 * (i % 5 == 0)) for i in range(60)]  # every fifth: a question of four sequences
MEMORY = [encoded(8 + i % 3) for i in range(20)]


def configured(batch_size=24, **groups):
    """Return an ICFTConfig with this batch size; groups as nested dicts."""
    return ICFTConfig.from_dict({"optim.batch_size": batch_size, **groups})


HALF_MEMORY = configured(long_term=dict(share=0.5), short_term=dict(share=0.1))


def plan(config=HALF_MEMORY, new=NEW, memory=MEMORY, tokens=6000, max_steps=None, seed="0/1"):
    """Return (steps, tokens planned, ring)."""
    ring = ShortTermMemory(config.short_term.size, config.short_term.promote_after, seed)
    topics = ["t"] * len(new)
    steps, used = plan_stage(list(range(len(new))), new, topics, memory, ring, config, tokens, max_steps, seed)
    return steps, used, ring


def num_sequences(indices):
    return sum(NEW[i].num_sequences for i in indices)


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
    assert num_tokens(encoded(10, 4)) == 40


def test_every_step_has_new_examples_and_about_batch_size_sequences():
    steps, _, _ = plan()
    for step in steps:
        assert step.new
        # A question of four sequences may exceed the batch size, in the ring and among the new examples.
        assert 24 <= num_sequences(step.new + step.ring) + len(step.memory) <= 24 + 2 * 4


def test_a_question_larger_than_the_batch_size_still_gets_a_step():
    steps, _, _ = plan(configured(4), new=[encoded(10, 26)] * 3, tokens=2000)
    assert len(steps) >= 3 and all(len(step.new) == 1 for step in steps)


@pytest.mark.parametrize("share", [0.25, 0.5, 0.75])
def test_memory_has_its_share_and_is_drawn_evenly(share):
    steps, _, _ = plan(configured(long_term=dict(share=share)))
    assert all(len(step.memory) == 24 * share for step in steps)
    drawn = [i for step in steps for i in step.memory]
    counts = [drawn.count(i) for i in range(len(MEMORY))]
    assert max(counts) - min(counts) <= 1


def test_a_share_that_is_not_a_whole_number_of_sequences_is_met_on_average():
    config = configured(8, long_term=dict(share=0.2), short_term=dict(share=0.05))  # 1.6 and 0.4 sequences per step
    steps, _, _ = plan(config, new=[encoded(10)] * 60)
    for done in range(1, len(steps)):
        drawn = [(len(step.memory), len(step.ring)) for step in steps[:done]]
        assert sum(m for m, _ in drawn) == int(1.6 * done + 1e-6)
        assert sum(r for _, r in drawn) == int(0.4 * done + 1e-6)
    assert all(len(step.new) + len(step.ring) + len(step.memory) == 8 for step in steps)


def test_new_examples_take_the_share_of_an_empty_memory():
    steps, _, _ = plan(memory=[])
    assert all(not step.memory and num_sequences(step.new + step.ring) >= 24 for step in steps)


def test_ring_examples_were_new_before_and_each_replay_is_counted():
    steps, _, ring = plan(configured(short_term=dict(share=0.2, size=1000, promote_after=1)))
    seen, replays = set(), {}
    for step in steps:
        assert set(step.ring) <= seen and len(set(step.ring)) == len(step.ring)
        seen |= set(step.new)
        for i in step.ring:
            replays[i] = replays.get(i, 0) + 1
    assert len(replays) > 5
    assert ring.flush() == replays, "no example leaves such a large ring"


def test_plain_qlora_uses_neither_memory_nor_ring():
    steps, _, _ = plan(ICFTConfig.preset("qlora", {"optim.batch_size": 24}))
    assert steps and not any(step.memory or step.ring for step in steps)


def test_max_steps_limits_the_plan():
    assert len(plan(max_steps=3)[0]) == 3 < len(plan()[0])


def test_a_plan_limited_by_max_steps_still_covers_the_whole_stage():
    """Competence follows the steps that will be run, so 20 steps of a long stage also reach its hardest examples."""
    steps, _, _ = plan(configured(), new=[encoded(10) for _ in range(60)], tokens=10**6, max_steps=20)
    drawn = [i for step in steps for i in step.new]
    assert max(drawn[:18]) < 30 and max(drawn) >= 55


# ---------------------------------------------------------------- items and micro-batches


def test_training_items_carry_weights_and_posteriors(example):
    trusted = new_item(example(), encoded(9), "new")
    assert (trusted.weak, trusted.token_weight) == ("", [1.0])
    weak = new_item(
        example(task="question", responses=["a", "b"], label=-1, posterior=[0.3, 0.7]), encoded(9, 2), "new"
    )
    assert (weak.weak, weak.token_weight, weak.posterior) == ("question", [0.3, 0.7], [0.3, 0.7])
    pair = new_item(example(task="pair", responses=["a", "b"], label=-1, posterior=[0.9, 0.1]), encoded(9, 2), "ring")
    assert (pair.weak, pair.token_weight, pair.posterior) == ("pair", [0.0, 0.0], [0.9, 0.1])
    labelled = new_item(example(task="question", responses=["a", "b"], label=1), encoded(9, 2), "new")
    assert (labelled.weak, labelled.token_weight, labelled.posterior) == ("question", [0.0, 1.0], [0.0, 1.0])
    chosen = new_item(example(task="pair", responses=["a", "b"], label=0), encoded(9, 2), "new")
    assert (chosen.token_weight, chosen.posterior) == ([0.0, 0.0], [1.0, 0.0])
    hard = new_item(
        example(task="question", responses=["a", "b"], posterior=[0.3, 0.7]), encoded(9, 2), "new", soft=False
    )
    assert hard.posterior == [0.0, 1.0]


@pytest.mark.parametrize("sizes, shares", [((10, 30, 50), (0.05, 0.15, 0.8)), ((7,), (1.0,)), ((1, 1), (0.2, 0.8))])
def test_the_last_stage_gets_its_share_of_the_tokens_and_the_others_divide_the_rest(sizes, shares):
    stages = [list(range(size)) for size in sizes]
    config = ICFTConfig.from_dict({"optim.max_tokens": 1000, "curriculum.last_stage_share": 0.8})
    assert plan_token_budget(stages, [], config) == (1000, pytest.approx(list(shares)))


def test_without_max_tokens_the_new_examples_are_passed_over_num_epochs_times():
    """Whatever the memory contains: its examples come in addition."""
    config = ICFTConfig.from_dict({"optim.num_epochs": 2, "long_term.share": 0.4, "short_term.share": 0.1})
    two = [encoded(30), encoded(10)]
    assert plan_token_budget([[0, 1]], two, config)[0] == pytest.approx(2 * 40 / 0.9)  # only the ring is replayed
    assert plan_token_budget([[0, 1]], two, config, two)[0] == pytest.approx(2 * 40 / 0.5)


@pytest.mark.parametrize("lengths", [(100, 100), (40, 110), (300, 90), (100, None)])
@pytest.mark.parametrize("ring", [0.0, 0.125])
def test_a_stage_with_that_budget_draws_each_new_example_num_epochs_times(lengths, ring):
    new, memory = [encoded(lengths[0])] * 200, [encoded(lengths[1])] * 50 if lengths[1] else []
    config = configured(8, optim=dict(num_epochs=3), long_term=dict(share=0.25), short_term=dict(share=ring, size=8))
    tokens, _ = plan_token_budget([range(200)], new, config, memory)
    steps, _, _ = plan(config, new, memory, tokens)
    assert sum(len(step.new) for step in steps) / 200 == pytest.approx(3.0, abs=0.1)


def test_l_consistency_is_divided_by_the_tokens_that_it_sums_over(example):
    """Its weight must not grow with the chat template: a long supervised prompt changes the sum, not the mean."""
    short, long = (
        Encoded([list(range(n))], [(0, i, i + 1, int(i == n - 2)) for i in range(n - 1)], 2) for n in (4, 40)
    )
    items = [
        memory_item(MemoryEntry(example(id=str(i)), one, "general", states=torch.ones(len(one.tokens), 3)))
        for i, one in enumerate((short, long))
    ]
    assert normalizers(items)["consistency"] == 3 + 39
    assert normalizers(items[:1])["consistency"] == 3


@pytest.mark.parametrize(
    "share, max_steps, expected",
    [(0.0, 20, [10, 10, 0]), (0.0, 1, [1, 0, 0]), (1.0, 20, [0, 0, 20]), (0.8, 20, [2, 2, 16]), (0.8, 2, [1, 1, 0])],
)
def test_max_steps_are_divided_by_the_shares_also_if_a_stage_has_none(share, max_steps, expected):
    config = ICFTConfig.from_dict(
        {"optim.max_tokens": 10_000, "optim.max_steps": max_steps, "curriculum.last_stage_share": share}
    )
    tokens, shares = plan_token_budget([range(30), range(30), range(60)], NEW, config)
    stages = [SimpleNamespace(share=share) for share in shares]
    prepared, done = SimpleNamespace(config=config, stages=stages), []
    for stage in stages:
        limit = steps_left(prepared, done)
        steps = plan(config, memory=[], tokens=tokens * stage.share, max_steps=limit)[0] if limit else []
        done.append(len(steps))
    assert done == expected


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_micro_batches_share_the_normalizers_and_lose_no_example(example, parts):
    config = HALF_MEMORY.replace({"loss.replay_weight": 0.5, "weak.soft_labels": True})
    question = dict(task="question", responses=list("abcd"), label=-1, posterior=[0.1, 0.2, 0.3, 0.4])
    examples = [example(id=str(i), **(question if NEW[i].num_sequences == 4 else {})) for i in range(60)]
    entries = [MemoryEntry(example(id=f"m{i}"), m, "general", states=torch.ones(1, 3)) for i, m in enumerate(MEMORY)]
    steps, _, _ = plan(config)
    runtime = RuntimeConfig(micro_batches=parts, packing=False)
    batches = StageBatches(steps, examples, NEW, entries, config, runtime)
    assert len(batches) == parts * len(steps)
    step, mine = steps[2], [batches[2 * parts + part] for part in range(parts)]
    questions = [i for i in step.new + step.ring if NEW[i].num_sequences == 4]
    n = len(step.new) + len(step.ring)  # each has one supervised token per response, weighted by the posterior
    expected = dict(fine_tune=n + 0.5 * len(step.memory), task=n, consistency=len(step.memory))
    assert all(batch["normalizers"] == pytest.approx(expected) for batch in mine)
    assert sum(len(batch["input_ids"]) for batch in mine) == num_sequences(step.new + step.ring) + len(step.memory)
    assert sum(len(batch["weak_question"]) for batch in mine) == len(questions)
    assert sum(len(batch["teacher_token"]) for batch in mine) == len(step.memory)
    assert sum(float(batch["token_weight"].sum()) for batch in mine) == pytest.approx(expected["fine_tune"])
    for batch in mine:  # all options of a question are in one micro-batch, with the whole posterior
        assert all((batch["example"] == i).sum() == 4 for i in batch["weak_question"])


@pytest.mark.parametrize("length, passes", [(10, 1), (120, 1), (300, 3), (5000, 40)])
def test_long_steps_are_split_into_passes_of_about_1024_tokens(example, length, passes):
    """A step of eight sequences; a sequence is never split."""
    examples = [example(id=str(i)) for i in range(60)]
    long = [encoded(length)] * 60
    steps, used, _ = plan(configured(8), new=long, memory=[], tokens=30 * length)
    assert sum(step.tokens for step in steps) == used
    batches = StageBatches(steps, examples, long, [], configured(8), RuntimeConfig(packing=False))
    assert batches.micro_batches == passes and len(batches) == passes * len(steps)
    sizes = [batches[i]["input_ids"].numel() for i in range(len(batches)) if "empty" not in batches[i]]
    assert sum(sizes) == used and max(sizes) <= max(1024, length)


def test_runtime_settings_decide_how_a_step_is_executed(example):
    """Without a RuntimeConfig: one micro-batch for a short step, packed."""
    examples = [example(id=str(i)) for i in range(60)]
    mixed = [encoded(10 + 30 * (i % 2)) for i in range(60)]
    steps, _, _ = plan(configured(8), new=mixed, memory=[], tokens=500)
    plain, packed = (
        StageBatches(steps, examples, mixed, [], configured(8), runtime)
        for runtime in (RuntimeConfig(packing=False), None)
    )
    assert len(plain) == len(packed) == len(steps)
    assert len(plain[0]["input_ids"]) == 8 > len(packed[0]["input_ids"])
