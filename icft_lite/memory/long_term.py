"""Long-term memory: a bounded buffer of examples, and promotion into it."""

import random
from collections import Counter
from dataclasses import dataclass
from itertools import islice, repeat

import torch
import torch.nn.functional as F

from icft_lite.data.schema import as_response
from icft_lite.data.tables import iter_examples
from icft_lite.memory.policies import POLICIES, water_fill
from icft_lite.memory.teachers import response_logp, response_states
from icft_lite.modeling.adapters import adapter_tensors, use_adapter
from icft_lite.modeling.base import head_weight
from icft_lite.modeling.cache import OutputCache
from icft_lite.modeling.encoding import EncodedExamples, TooLong, supervise_prompt
from icft_lite.modeling.scoring import score_responses
from icft_lite.utils.distributed import on_main_process

OFFERS = 10_000
"""Rows looked at together, where a memory is offered any number of them."""


@dataclass
class MemoryEntry:
    """One remembered example: a canonical response row, and what it was taught by."""

    example: dict
    encoded: object
    """None until it is kept. Its last response is the row's; the prompt is one before it (`encoding.with_prompt`)."""
    source: str
    """`general` (given), `self` (made up by the base), or `promoted`."""
    surprise: float = 0.0
    """NLL a token under the slow adapter when it came in."""
    priority: float = 0.0
    """A random number that decides membership of the reservoir share."""
    teacher: str = "base"
    """`base` or `memory`: whoever gave the stored response the higher likelihood at the last refresh."""
    states: torch.Tensor | None = None
    """[supervised tokens, hidden]: the teacher's final hidden states."""


class LongTermMemory:
    """A bounded buffer of `Entry`. Room is shared equally among sources; within a source one of
    `policies.POLICIES` says who stays. features(encoded) → float [n, d]: needed by `herding` alone. prompts: keep the
    teacher's states on the prompts' tokens too, those of promoted rows excepted."""

    def __init__(
        self, size, policy="surprise", reservoir_share=0.25, state_dtype="float32", seed=0, features=None, prompts=True
    ):
        self.size, self.policy, self.reservoir_share, self.features = size, policy, reservoir_share, features
        self.prompts = prompts
        self.state_dtype = getattr(torch, state_dtype)
        self.entries = []
        self.seed = seed

    def __len__(self):
        return len(self.entries)

    def sources(self):
        """{source: how many entries it has}."""
        return dict(Counter(entry.source for entry in self.entries))

    def add(self, rows, encoder, source, surprise=None):
        """Offer canonical response rows, any iterable of them; those that do not fit the encoder are left out.

        Returns (kept, evicted): how many of them stay, how many others left."""
        before, offers = list(self.entries), zip(rows, repeat(0.0) if surprise is None else surprise)
        while batch := list(islice(offers, OFFERS)):
            known = {entry.example["id"] for entry in self.entries}
            new = [self._entry(row, source, one) for row, one in batch if row["id"] not in known]
            if self.policy == "herding":
                new = [entry for entry in new if self._fits(entry, encoder)]
            chosen = self._keep(self.entries + new)
            while long := {id(entry) for entry in chosen if not self._fits(entry, encoder)}:  # encoding is slow: last
                new = [entry for entry in new if id(entry) not in long]
                chosen = self._keep(self.entries + new)
            self.entries = chosen
        stayed = len(set(map(id, before)) & set(map(id, self.entries)))
        return len(self.entries) - stayed, len(before) - stayed

    def _entry(self, row, source, surprise):
        lot = random.Random(f"lot/{self.seed}/{row['id']}").random()  # a row's own, so a resumed run draws it again
        return MemoryEntry(row, None, source, float(surprise), lot)

    def restore(self, saved, encoder):
        """Put back entries as `row`, `source`, `surprise` (a saved stage); states come with the next refresh."""
        self.entries = [self._entry(one["example"], one["source"], one["surprise"]) for one in saved]
        for entry in self.entries:
            self._fits(entry, encoder)

    def _fits(self, entry, encoder):
        """Encode an entry, unless it is. False if its prompt and response are too long for that."""
        try:
            if entry.encoded is None:
                encoded = encoder(entry.example)
                # A promoted row's prompt is medicine, still being learned: no teacher of today should hold it in place.
                entry.encoded = supervise_prompt(encoded) if self.prompts and entry.source != "promoted" else encoded
        except TooLong:
            return False
        return True

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
        return on_main_process(lambda: self.features([entry.encoded for entry in entries]))

    def refresh(self, model, cache=None):
        """Choose each entry's teacher (long-term memory or bare base) and cache its states. One no-gradient pass for
        each of the two, whose results `cache` keeps. Returns {"memory": share, "base": share}."""
        if not self.entries:
            return {}
        encoded, weight, cache = (
            [entry.encoded for entry in self.entries],
            head_weight(model),
            cache or OutputCache(model),
        )
        views, found = {"base": None}, {}
        if any(B.any() for B in adapter_tensors(model, "slow")[1::2]):  # until it has learned something it is the base
            views["memory"] = "slow"
        for name, adapter in views.items():
            states = cache.compute(f"states-{name}", self._states, encoded, adapter, width=weight.shape[1])
            found[name] = states, on_main_process(lambda: response_logp(encoded, states, weight))
        for i, entry in enumerate(self.entries):
            entry.teacher = max(found, key=lambda name: found[name][1][i])  # of equals the first, the base
            entry.states = found[entry.teacher][0][i]
        share = sum(entry.teacher == "memory" for entry in self.entries) / len(self.entries)
        return {"memory": share, "base": 1 - share}

    def rounding(self, model, most=256):
        """What storing states in 16 bits costs: mean KL(exact ‖ stored) a token, in nats; 0.0 for float32."""
        some, total, tokens = self.entries[:most], 0.0, 0
        if self.state_dtype == torch.float32:
            return 0.0
        for name, adapter in (("base", None), ("memory", "slow")):
            mine = [entry for entry in some if entry.teacher == name]
            with use_adapter(model, adapter):
                for entry, exact in zip(mine, response_states(model, [entry.encoded for entry in mine])):
                    head = head_weight(model)
                    stored, exact = (
                        (states.to(head.device, head.dtype) @ head.T).double().log_softmax(-1)
                        for states in (entry.states, exact)
                    )  # in fp32 the KL would be lost in rounding
                    total += float(F.kl_div(stored, exact, reduction="sum", log_target=True))
                    tokens += len(exact)
        return total / max(tokens, 1)

    def _states(self, model, encoded):
        return [states.to(self.state_dtype) for states in response_states(model, encoded)]


def is_confident(row, least):
    """May this row be promoted? Trusted rows may; weak ones if their posterior's largest entry reaches `least`."""
    return not row["posterior"] or max(row["posterior"]) >= least


def promote(memory, model, candidates, encoder, least):
    """Move candidate rows (canonical) into the long-term memory: gated by label confidence, kept by surprise
    under the slow adapter. Returns {"candidates", "gated", "promoted", "evicted"}."""

    def rows():
        return (as_response(row) for row in iter_examples(candidates) if is_confident(row, least))

    encoded, surprise = EncodedExamples(map(encoder, rows())), []
    if len(encoded):
        with use_adapter(model, "slow"):
            scores = on_main_process(lambda: score_responses(model, encoded))
        surprise = [-(score["logp"] / score["tokens"])[0] for score in scores]
    kept, evicted = memory.add(rows(), encoder, "promoted", surprise)
    return dict(candidates=len(candidates), gated=len(candidates) - len(encoded), promoted=kept, evicted=evicted)
