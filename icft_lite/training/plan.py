"""What every optimiser step runs, planned before the stage begins.

The plan is a pure function of the stage, the settings and the seed: it can be looked at, counted, and run
again to the same end after an interruption.
"""

import random
from dataclasses import dataclass, field

from icft_lite.curriculum import PacedSampler


@dataclass(slots=True)
class PlannedStep:
    """Indices of the examples of one optimiser step."""

    new: list = field(default_factory=list)
    ring: list = field(default_factory=list)
    """Also indices of new rows: the ring replays them."""
    memory: list = field(default_factory=list)
    """Indices of long-term memory entries."""


class _ShuffledPasses:
    """Endless draws in shuffled passes over range(n)."""

    def __init__(self, n, *seed):
        self.n, self.random, self.left = n, random.Random("/".join(map(str, seed))), []

    def draw(self):
        if not self.left:
            self.left = self.random.sample(range(self.n), self.n)
        return self.left.pop()


def plan_token_budget(stages, encoded, config):
    """(tokens of a run, each stage's share of them): by config.tokens, else config.epochs over the new rows. The last
    stage's share is a setting; the others divide the rest by their rows."""
    tokens, before = config.tokens, [len(stage) for stage in stages[:-1]]
    if not tokens:
        tokens = config.epochs * sum(map(num_tokens, encoded)) / (1 - config.memory_share - config.ring_share)
    last = config.last_stage if before else 1.0
    return tokens, [*((1 - last) * size / sum(before) for size in before), last]


def plan_stage(stage, new, topics, memory, stm, config, tokens, max_steps=0, seed=0):
    """Plan a stage: steps of about `config.rows` rows until `tokens` non-padding tokens are planned.

    stage: indices of new rows, easiest first; new: their encodings; memory: encodings of the long-term
    memory; stm: a ShortTermMemory, which the plan fills and replays. Returns (steps, tokens planned)."""
    drawer = PacedSampler(stage, topics, config.order, config.competence_start, seed, config.competence_end)
    bag = _ShuffledPasses(len(memory), "memory", seed)
    steps, used = [], 0
    while used < tokens and not (max_steps and len(steps) >= max_steps):
        step, new_size = PlannedStep(), 0
        progress = max(used / tokens, len(steps) / max_steps if max_steps else 0)
        memory_rows = _due(len(steps), config.rows * config.memory_share) if memory else 0
        ring_rows = _due(len(steps), config.rows * config.ring_share)
        step.ring = stm.replay(ring_rows, lambda i: new[i].num_sequences)
        ring_size = sum(new[i].num_sequences for i in step.ring)
        step.memory = [bag.draw() for _ in range(memory_rows)]
        while new_size < config.rows - memory_rows - ring_size or not step.new:
            step.new.append(drawer.draw(progress))
            new_size += new[step.new[-1]].num_sequences
        for i in step.new:
            stm.push(i)
        used += sum(num_tokens(new[i]) for i in step.new + step.ring) + sum(num_tokens(memory[i]) for i in step.memory)
        steps.append(step)
    return steps, used


def _due(step, a_step):
    """Rows due in a step where `a_step` of them, maybe a fraction, are due in each: 0.4 is 0, 0, 1, 0, 1, …"""
    return int((step + 1) * a_step + 1e-9) - int(step * a_step + 1e-9)  # 1e-9: 3 × 0.1 × 10 is 3


def num_tokens(encoded):
    """Non-padding tokens of an example, all its rows."""
    return sum(map(len, encoded.sequences))
