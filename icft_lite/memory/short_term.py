"""Short-term memory: a ring of recent new examples.

The other half of the short-term memory is the fast adapter, see `modeling.adapters`.
"""

import random
from collections.abc import Callable


class ShortTermMemory:
    """A ring of the most recent new examples, as indices into the training examples.

    Replays are counted. An example that leaves the ring after at least `promote_after` replays becomes a candidate
    for promotion.

    size: maximum number of examples in the ring. seed: of the draws for replay.
    """

    def __init__(self, size: int, promote_after: int = 1, seed: int | str = 0) -> None:
        self.size, self.promote_after = size, promote_after
        self.ring: dict[int, int] = {}
        """{example: number of replays}, oldest first."""
        self.candidates: dict[int, int] = {}
        """{example: the most replays that it left the ring with}."""
        self.random = random.Random(f"ring/{seed}")  # "ring/" seeds the generator: changing it changes every run

    def push(self, index: int) -> None:
        """Insert an example as the newest one; the oldest one leaves a full ring."""
        self.ring[index] = self.ring.pop(index, 0)
        while len(self.ring) > self.size:
            self._leave(next(iter(self.ring)))

    def replay(self, budget: int, cost: Callable[[int], int] = lambda index: 1) -> list[int]:
        """Draw examples from the ring without replacement until their costs reach `budget`, and count the replays.

        cost(index): what one example costs, at least 1 (for example its number of sequences). The last example drawn
        may exceed the budget.
        """
        drawn, used = [], 0
        for index in self.random.sample(list(self.ring), min(budget, len(self.ring))):
            if used < budget:
                drawn.append(index)
                self.ring[index] += 1
                used += cost(index)
        return drawn

    def flush(self) -> dict[int, int]:
        """Empty the ring at the end of a stage and return the candidates for promotion, {example: replays}."""
        for index in list(self.ring):
            self._leave(index)
        return self.candidates

    def _leave(self, index: int) -> None:
        replays = self.ring.pop(index)
        if replays >= self.promote_after:
            self.candidates[index] = max(replays, self.candidates.get(index, 0))
