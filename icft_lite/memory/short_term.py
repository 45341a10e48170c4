"""Short-term memory: a ring of recent new rows."""

import random


class ShortTermMemory:
    """A ring of the most recent new rows (indices). Replays are counted; a row that leaves the ring with at
    least `promote_after` replays becomes a candidate for promotion."""

    def __init__(self, size, promote_after=1, seed=0):
        self.size, self.promote_after = size, promote_after
        self.ring = {}  # row → replays, oldest first
        self.candidates = {}  # row → most replays it left with
        self.random = random.Random(f"ring/{seed}")

    def push(self, row):
        """Put a row in, as the newest; the oldest leaves a full ring."""
        self.ring[row] = self.ring.pop(row, 0)
        while len(self.ring) > self.size:
            self._leave(next(iter(self.ring)))

    def replay(self, count, size=lambda row: 1):
        """Rows drawn from the ring without replacement until their sizes reach `count`; each is counted."""
        rows, used = [], 0
        for row in self.random.sample(list(self.ring), min(count, len(self.ring))):
            if used < count:
                rows.append(row)
                self.ring[row] += 1
                used += size(row)
        return rows

    def flush(self):
        """Empty the ring (a stage's end). Returns the candidates: {row: replays}."""
        for row in list(self.ring):
            self._leave(row)
        return self.candidates

    def _leave(self, row):
        replays = self.ring.pop(row)
        if replays >= self.promote_after:
            self.candidates[row] = max(replays, self.candidates.get(row, 0))
