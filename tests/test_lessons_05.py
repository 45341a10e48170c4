"""Lesson 05: what it builds by hand agrees with the package and with peft, its exercises judge."""

import copy
import random
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from test_notebooks import build, cells, check_exercise, exercises, from_scratch, said

from icft_lite import Encoder, LongTermMemory, sample_bundle
from icft_lite.data.schema import as_response
from icft_lite.memory import POLICIES
from icft_lite.memory import promote as package_promote
from icft_lite.memory.consolidation import ema_step
from icft_lite.memory.policies import water_fill
from icft_lite.memory.short_term import ShortTermMemory
from icft_lite.modeling.adapters import delta_svd, use_adapter
from icft_lite.modeling.scoring import score_responses
from icft_lite.reporting.concepts import memory as diagram
from icft_lite.reporting.lessons import memory as figures

SOURCE = Path(build.HERE) / "src" / "05_memory.py"


@pytest.fixture(scope="module")
def book():
    return build.read(SOURCE)


@pytest.fixture(scope="module")
def built(book):
    return from_scratch(book, np=np)


def code(book, mark):
    """Return the source of the one code cell that contains `mark`."""
    (found,) = [cell.source for cell in cells(book, "code") if mark in cell.source]
    return found


def solution(book, number):
    """Return the function that exercise `number` has as its solution."""
    space = dict(as_response=as_response, torch=torch)
    text = exercises(book)[number][1]
    exec(text, space)
    return space[text.split("(")[0].removeprefix("def ")]


def test_the_reservoir_is_fair_and_the_other_is_not(book):
    space = dict(random=random, np=np, pd=__import__("pandas"), Image=lambda *_, **__: None)
    space |= dict(figures=type("", (), dict(stream_figure=lambda *_: None)), png=lambda *_: None)
    said_ = code(book, "def always_in")
    exec(said_.replace("8000", "3000"), space)
    share, error = space["share"], 5 * (0.25 * 0.75 / 3000) ** 0.5
    assert abs(share["reservoir"] - 0.25).max() < error and share["always in"][-1] == pytest.approx(1)
    assert share["always in"][0] == pytest.approx(0.8**15, abs=error)
    reservoir = solution(book, 0)
    retained = np.zeros(12)
    for seed in range(1000):
        draw = random.Random(seed)
        retained[reservoir(range(12), 3, [draw.random() for _ in range(12)].__getitem__)] += 1 / 1000
    assert abs(retained - 0.25).max() < 5 * (0.25 * 0.75 / 1000) ** 0.5


@pytest.mark.parametrize(("mine", "same"), [("solution", 60), (None, 60), ("highest", None)])
def test_a_reservoir_of_the_learner_selects_in_place_of_the_packages(book, base, mine, same):
    source = code(book, "package_policy = POLICIES").replace('load_base(device="cpu")', "base")
    versions = {
        "solution": solution(book, 0),
        None: lambda *_: ...,
        "highest": lambda stream, k, priority: sorted(stream, key=priority)[-k:],
    }
    space = dict(base=base, Encoder=Encoder, sample_bundle=sample_bundle, LongTermMemory=LongTermMemory)
    space |= dict(POLICIES=POLICIES, patch=__import__("unittest.mock").mock.patch, reservoir=versions[mine])
    number = int(said(source, space).split()[0])
    assert number == same or (same is None and number < 60)


@pytest.mark.parametrize("solved", [True, False])
def test_a_promotion_of_the_learner_runs_in_place_of_the_packages(book, adapted, solved):
    model, tokenizer = adapted
    encoder, data = Encoder(tokenizer), sample_bundle()
    examples = [dict(data.trusted[i]) for i in range(12)]
    examples[3] |= dict(posterior=[0.6])
    memory, ring = LongTermMemory(10), ShortTermMemory(12)
    memory.add([dict(data.general_memory[i]) for i in range(8)], encoder, "general")
    before = copy.copy(memory.entries)
    for i in range(12):
        ring.push(i)
    ring.replay(9)
    space = dict(use_adapter=use_adapter, model=model, score_responses=score_responses, encoder=encoder, ring=ring)
    space |= dict(config=type("", (), dict(short_term=type("", (), dict(promote_confidence=0.8)))), examples=examples)
    space |= dict(LongTermMemory=LongTermMemory, memory=memory, package_promote=package_promote)
    space |= dict(promote=solution(book, 1) if solved else lambda *_: ...)
    exec(code(book, "mine = [examples[i]").replace("print(", "printed = ("), space)
    assert space["printed"][1] is True and space["printed"][3] is True
    assert space["memory"].entries != before and space["counts"]["promoted"] == 5
    if solved:
        assert space["mine"] is not memory, "the learner's memory goes on"


def test_the_diagram_names_the_two_memories_and_what_moves_between_them():
    texts = " ".join(text.get_text() for text in diagram.draw().axes[0].texts)
    for word in ("Short-term", "Long-term", "ring", "buffer", "fast", "slow", "promotion", "consolidation", "gradient"):
        assert word in texts, word


def test_the_line_search_figure_draws_the_candidates_and_the_choice():
    line = [dict(alpha=1.0, general=0.5, medical=0.4, origin="start"), dict(alpha=0.5, general=0.9, medical=0.3)]
    line += [dict(alpha=0.95, general=0.6, medical=0.4, origin="base")]
    (axes,) = figures.line_search_figure({"easy": line}, 0.8, {"easy": 0.5}).axes
    drawn = {one.get_label(): one.get_xydata().tolist() for one in axes.get_lines()}
    assert drawn["general"] == [[0.5, 0.9], [1.0, 0.5]] and drawn["medical, from the base"] == [[0.95, 0.4]]
    assert axes.get_title(loc="left") == "easy: α = 0.5"


@pytest.mark.parametrize("decay", [0.5, 0.9, 1.0])
def test_the_closed_form_is_the_packages_average(built, decay):
    fast = torch.randn(15, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    slow = [torch.ones(2, dtype=torch.float64)]
    for t in range(15):
        ema_step(slow, [fast[t]], t, decay)
        weights = built["average_weights"](t, decay)
        assert weights.sum() == pytest.approx(1)
        torch.testing.assert_close(slow[0], torch.tensor(weights) @ fast[: t + 1])


def test_pefts_own_mixtures_agree(book):
    """peft's `cat` is the exact mean of ΔW, its `svd` the package's truncation; its `linear` is neither."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["0"], lora_dropout=0.0)
    model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(9, 7)), config, adapter_name="one")
    model.add_adapter("two", config)
    layer = model.base_model.model[0]
    for name in ("one", "two"):
        torch.nn.init.normal_(layer.lora_B[name].weight)
    pairs = [(0.5, layer.lora_A[name].weight.data, layer.lora_B[name].weight.data) for name in ("one", "two")]
    exact = sum(weight * 2.0 * B @ A for weight, A, B in pairs)
    A, B, residual = delta_svd(pairs, rank=3, scale=2.0)
    found = {}
    for kind in ("cat", "svd", "linear"):
        model.add_weighted_adapter(["one", "two"], [0.5, 0.5], kind, combination_type=kind, svd_rank=3)
        found[kind] = layer.get_delta_weight(kind).detach()
    torch.testing.assert_close(found["cat"], exact, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found["svd"], 2.0 * B @ A, atol=1e-5, rtol=1e-4)
    assert (found["linear"] - exact).norm() > 1.05 * residual * exact.norm()


def test_the_exercises_accept_their_solutions_and_reject_wrong_ones(book):
    promotion = exercises(book)[1][1].replace('"', "'")
    wrong = [
        [
            "def reservoir(stream, k, priority): return sorted(stream, key=priority)[:k]",
            "def reservoir(stream, k, priority):\n    kept = []\n    for item in stream:\n        kept.append(item)\n"
            "        if len(kept) > k:\n            kept.remove(min(kept, key=priority))\n    return kept",
            "def reservoir(stream, k, priority): return [item for item, _ in zip(stream, range(k))]",
            "def reservoir(stream, k, priority):\n    kept = [next(stream) for _ in range(k)] if k > 9 else []\n"
            "    for item in stream:\n        kept = [*kept, item][-k:]\n    return kept",
        ],
        [
            promotion.replace(*change)
            for change in (
                ("max(example['posterior']) >=", "True or 0 >="),  # no gate
                ("max(example['posterior']) >=", "max(example['posterior']) >"),
                ("not example['posterior'] or max(example['posterior'])", "max(example['posterior'], default=0)"),
                ("surprise_of(confident)", "[0.0] * len(confident)"),
                ("surprise_of(confident)", "[-value for value in surprise_of(confident)]"),
                ("[as_response(example)", "[example"),
                ("gated=gated", "gated=0"),
            )
        ],
        [
            "def stack(p): return torch.cat([A for _, A, _ in p]), torch.cat([B for _, _, B in p], 1)",
            "def stack(p): return torch.cat([w * A for w, A, _ in p]), torch.cat([w * B for w, _, B in p], 1)",
            "def stack(p): return sum(w * A for w, A, _ in p), sum(w * B for w, _, B in p)",
        ],
        ["def level(counts, size): return size // len(counts)", "def level(counts, size): return max(counts)"],
    ]
    space = dict(torch=torch, random=random, weakref=weakref, LongTermMemory=LongTermMemory, as_response=as_response)
    for number in range(len(wrong)):
        check_exercise(book, number, wrong, space)


def test_the_water_level_is_the_packages(book):
    space = {}
    exec(exercises(book)[3][1], space)
    draw = random.Random(0)
    for _ in range(100):
        counts = [draw.randrange(1, 30) for _ in range(draw.randrange(1, 6))]
        size = draw.randrange(80)
        quota, level = water_fill(dict(enumerate(counts)), size), space["level"](counts, size)
        assert all(quota[i] in (min(count, level), min(count, level + 1)) for i, count in enumerate(counts))
