"""The plan of a run: its stages, and the examples of every optimizer step, chosen before a stage begins.

The plan is a pure function of the stage's examples, the long-term memory, the settings and the seed: it can be
inspected, counted, and computed again after an interruption.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from icft_lite.config import ICFTConfig
from icft_lite.curriculum import SORTED_ORDERS, PacedSampler, build_curriculum
from icft_lite.data.schema import LEVELS
from icft_lite.memory.short_term import ShortTermMemory
from icft_lite.modeling.encoding import Encoded, EncodedExamples

Encodings = EncodedExamples | Sequence[Encoded]


@dataclass(frozen=True)
class StagePlan:
    """One stage: its examples, its length and its position in the run."""

    number: int
    """1, 2, …"""
    name: str
    examples: list[int]
    """Indices of new examples, in the order in which pacing makes them available."""
    tokens: float
    """Non-padding tokens to train on."""
    span: tuple[float, float]
    """Its begin and end as shares of the run's tokens, for the learning-rate schedule."""

    @property
    def share(self) -> float:
        """Share of the run's tokens."""
        return self.span[1] - self.span[0]


@dataclass(slots=True)
class PlannedStep:
    """Indices of the examples of one optimizer step."""

    new: list[int] = field(default_factory=list)
    ring: list[int] = field(default_factory=list)
    """Also indices of new examples: the ring replays them."""
    memory: list[int] = field(default_factory=list)
    """Indices of long-term memory entries."""
    tokens: int = 0
    """Non-padding tokens of all these examples."""


def plan_stages(
    config: ICFTConfig,
    levels: list[str],
    difficulty: np.ndarray | None,
    encoded: Encodings,
    memory: Encodings,
) -> tuple[StagePlan, ...]:
    """Return the stages of the curriculum with their shares of the token budget.

    levels, encoded: of the training examples; memory: encodings of the long-term memory.
    """
    indices = build_curriculum(levels, difficulty, config.curriculum.order)
    tokens, shares = plan_token_budget(indices, encoded, config, memory)
    by_level = all(level in LEVELS for level in levels)
    return tuple(
        StagePlan(
            number,
            stage_name(number, len(indices), config.curriculum.order, by_level),
            stage,
            tokens * share,
            (sum(shares[: number - 1]), sum(shares[:number])),
        )
        for number, (stage, share) in enumerate(zip(indices, shares, strict=True), 1)
    )


def stage_name(number: int, n_stages: int, order: str, by_level: bool = True) -> str:
    """Return the level that a stage adds, `part 1`, … if stages are not levels, or the order and its number."""
    if order not in SORTED_ORDERS:
        return f"{order} {number}"
    names = LEVELS if order == "easy_to_hard" else LEVELS[::-1]
    return names[number - 1] if by_level and n_stages == len(LEVELS) else f"part {number}"


def plan_token_budget(
    stages: Sequence[Sequence[int]], encoded: Encodings, config: ICFTConfig, memory: Encodings = ()
) -> tuple[float, list[float]]:
    """Return the tokens of a run and each stage's share of them.

    encoded, memory: encodings of the new examples and of the long-term memory. The tokens are `optim.max_tokens`, else
    those of `optim.num_epochs` passes over the new examples, with the memory examples of the same steps and the
    examples that the ring replays (of average length). The last stage's share is
    `curriculum.last_stage_share`; the others divide the rest in proportion to their examples. A stage with a share of 0
    is not trained.
    """
    before = [len(stage) for stage in stages[:-1]]
    tokens: float | None = config.optim.max_tokens
    if tokens is None:
        new, sequences = sum(map(num_tokens, encoded)), sum(one.num_sequences for one in encoded)
        in_memory = sum(map(num_tokens, memory)) / len(memory) if memory else 0.0
        replayed = config.short_term.share * new + (config.long_term.share * sequences * in_memory)
        new_share = 1 - config.short_term.share - (config.long_term.share if memory else 0)
        tokens = config.optim.num_epochs * (new + replayed / new_share)
    last = config.curriculum.last_stage_share if before else 1.0
    return tokens, [*((1 - last) * size / sum(before) for size in before), last]


class _ShuffledPasses:
    """Draw from range(n) without end, in shuffled passes."""

    def __init__(self, n: int, *seed: object) -> None:
        self.n, self.random = n, random.Random("/".join(map(str, seed)))
        self.left: list[int] = []

    def draw(self) -> int:
        if not self.left:
            self.left = self.random.sample(range(self.n), self.n)
        return self.left.pop()


def plan_stage(
    stage: Sequence[int],
    new: Encodings,
    topics: Sequence[str],
    memory: Encodings,
    short_term: ShortTermMemory,
    config: ICFTConfig,
    tokens: float,
    max_steps: int | None = None,
    seed: int | str = 0,
    batch_size: int | None = None,
) -> tuple[list[PlannedStep], int]:
    """Plan steps of about `batch_size` sequences until `tokens` non-padding tokens are planned.

    stage: indices of new examples in the order of pacing; new: their encodings; topics: of all new examples; memory:
    encodings of the long-term memory; short_term: the ring that the plan fills and replays; max_steps: None for as many
    as the tokens need; batch_size: of all processes together, `optim.batch_size` by default.
    Returns (steps, tokens planned).
    """
    pacing, size = config.curriculum, batch_size or config.optim.batch_size
    sampler = PacedSampler(stage, topics, pacing.order, pacing.competence_start, seed, pacing.competence_end)
    passes = _ShuffledPasses(len(memory), "memory", seed)  # "memory" seeds the draws: data
    steps: list[PlannedStep] = []
    used = 0
    while used < tokens and (max_steps is None or len(steps) < max_steps):
        step, new_size = PlannedStep(), 0
        progress = max(used / tokens, len(steps) / max_steps if max_steps else 0)
        n_memory = _due(len(steps), size * config.long_term.share) if memory else 0
        n_ring = _due(len(steps), size * config.short_term.share)
        step.ring = short_term.replay(n_ring, lambda i: new[i].num_sequences)
        ring_size = sum(new[i].num_sequences for i in step.ring)
        step.memory = [passes.draw() for _ in range(n_memory)]
        while new_size < size - n_memory - ring_size or not step.new:
            step.new.append(sampler.draw(progress))
            new_size += new[step.new[-1]].num_sequences
        for i in step.new:
            short_term.push(i)
        chosen = (*(new[i] for i in step.new + step.ring), *(memory[i] for i in step.memory))
        step.tokens = sum(map(num_tokens, chosen))
        used += step.tokens
        steps.append(step)
    return steps, used


def _due(step: int, per_step: float) -> int:
    """Return how many are due in a step where `per_step` are due on average: 0.4 gives 0, 0, 1, 0, 1."""
    return int((step + 1) * per_step + 1e-9) - int(step * per_step + 1e-9)  # 1e-9: 3 × 0.1 × 10 is 3


def num_tokens(encoded: Encoded) -> int:
    """Return the non-padding tokens of an example, all its sequences together.

    A prefix that the batch shares counts in full, so that a token budget buys the same examples with and without it.
    """
    return sum(map(len, encoded.sequences))
