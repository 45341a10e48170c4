"""Short-term and long-term memory: what is kept, its teachers, and promotion from one to the other.

Short-term (STM): the fast adapter and a ring of recent new rows. Long-term (LTM): the slow adapter and a
bounded buffer of examples, each with its teacher's final hidden states on the response tokens.
"""

import random
from dataclasses import dataclass

import numpy as np
import torch

from icft_lite.curriculum import best
from icft_lite.encoding import join as join_batch
from icft_lite.encoding import length_groups
from icft_lite.evaluate import score_responses
from icft_lite.model import head_weight, hidden_states, using
from icft_lite.policies import POLICIES, water_fill


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


@dataclass
class Entry:
    """One remembered example: a canonical response row, and what it was taught by."""

    row: dict
    encoded: object
    source: str
    """`general` (given), `self` (made up by the base), or `promoted`."""
    surprise: float = 0.0
    """NLL a token under the slow adapter when it came in."""
    lot: float = 0.0
    """A random number that decides membership of the reservoir share."""
    teacher: str = "base"
    """`base` or `memory`: whoever gave the stored response the higher likelihood at the last refresh."""
    states: torch.Tensor | None = None
    """[response tokens, hidden]: the teacher's final hidden states."""


class LongTermMemory:
    """A bounded buffer of `Entry`. Room is shared equally among sources; within a source one of
    `policies.POLICIES` says who stays. features(encoded) → float [n, d]: needed by `herding` alone."""

    def __init__(self, size, policy="surprise", reservoir_share=0.25, state_dtype="float32", seed=0, features=None):
        self.size, self.policy, self.reservoir_share, self.features = size, policy, reservoir_share, features
        self.state_dtype = getattr(torch, state_dtype)
        self.entries = []
        self.seed = seed

    def __len__(self):
        return len(self.entries)

    def add(self, rows, encoder, source, surprise=None):
        """Offer canonical response rows. Returns (kept, evicted): how many of them stay, how many others left."""
        known = {entry.row["id"] for entry in self.entries}
        surprise = np.zeros(len(rows)) if surprise is None else surprise
        new = [self._entry(row, encoder, source, s) for row, s in zip(rows, surprise) if row["id"] not in known]
        before = len(self.entries)
        self.entries = self._keep(self.entries + new)
        ids = {entry.row["id"] for entry in new}
        kept = sum(entry.row["id"] in ids for entry in self.entries)
        return kept, before + kept - len(self.entries)

    def _entry(self, row, encoder, source, surprise):
        lot = random.Random(f"lot/{self.seed}/{row['id']}").random()  # a row's own, so a resumed run draws it again
        return Entry(row, encoder(row), source, float(surprise), lot)

    def restore(self, saved, encoder):
        """Put back entries as `row`, `source`, `surprise` (a saved stage); states come with the next refresh."""
        self.entries = [self._entry(one["row"], encoder, one["source"], one["surprise"]) for one in saved]

    def _keep(self, entries):
        if len(entries) <= self.size:
            return entries
        sources, kept = {}, set()
        for entry in entries:
            sources.setdefault(entry.source, []).append(entry)
        for source, room in water_fill({name: len(mine) for name, mine in sources.items()}, self.size).items():
            mine = sources[source]
            if len(mine) > room:
                mine = POLICIES[self.policy](mine, room, self.reservoir_share, self._features)
            kept |= set(map(id, mine))
        return [entry for entry in entries if id(entry) in kept]

    def _features(self, entries):
        return self.features([entry.encoded for entry in entries])

    def refresh(self, model):
        """Choose each entry's teacher (long-term memory or bare base) and cache its states. Two no-gradient
        passes. Returns {"memory": share, "base": share}."""
        if not self.entries:
            return {}
        encoded = [entry.encoded for entry in self.entries]
        views = {"base": None, "memory": "slow"}
        logp = {}
        for name, adapter in views.items():
            with using(model, adapter):
                logp[name] = [score["logp"][0] for score in score_responses(model, encoded)]
        for i, entry in enumerate(self.entries):
            entry.teacher = "memory" if logp["memory"][i] > logp["base"][i] else "base"
        for name, adapter in views.items():
            mine = [entry for entry in self.entries if entry.teacher == name]
            with using(model, adapter):
                for entry, states in zip(mine, response_states(model, [entry.encoded for entry in mine])):
                    entry.states = states.to(self.state_dtype)
        share = sum(entry.teacher == "memory" for entry in self.entries) / len(self.entries)
        return {"memory": share, "base": 1 - share}


@torch.no_grad()
def response_states(model, encoded, rows=96):
    """Final hidden states at the supervised positions of each example: list of [tokens, hidden], on the CPU."""
    out = [None] * len(encoded)
    for group in length_groups(encoded, rows) if encoded else []:
        batch = join_batch([encoded[i] for i in group], 0, head_weight(model).device)
        states = hidden_states(model, batch)[batch["row"], batch["position"]].float().cpu()
        for i, part in zip(group, states.split([len(encoded[i].tokens) for i in group])):
            out[i] = part.clone()
    return out


def mean_states(model, encoded):
    """What the bare base makes of each example: its mean final state over the response, float [n, hidden]."""
    with using(model, None):
        return torch.stack([states.mean(0) for states in response_states(model, encoded)]).numpy()


def as_response(row):
    """A row as it is remembered: its prompt and its likeliest response."""
    return {**row, "task": "response", "responses": [row["responses"][best(row)]], "label": 0, "posterior": []}


def confident(row, least):
    """May this row be promoted? Trusted rows may; weak ones if their posterior's largest entry reaches `least`."""
    return not row["posterior"] or max(row["posterior"]) >= least


def promote(memory, model, candidates, encoder, least):
    """Move candidate rows (canonical) into the long-term memory: gated by label confidence, kept by surprise
    under the slow adapter. Returns {"candidates", "gated", "promoted", "evicted"}."""
    rows = [as_response(row) for row in candidates if confident(row, least)]
    surprise = []
    if rows:
        with using(model, "slow"):
            scores = score_responses(model, [encoder(row) for row in rows])
        surprise = [-(score["logp"] / score["tokens"])[0] for score in scores]
    kept, evicted = memory.add(rows, encoder, "promoted", surprise)
    return dict(candidates=len(candidates), gated=len(candidates) - len(rows), promoted=kept, evicted=evicted)
