"""A4, memory: how each part is drawn, solved and compared."""

from collections import Counter
from functools import partial

import numpy as np
from constants import SUFFIX, constant
from outputs import make_part

from icft_lite.grading.feedback import array_feedback
from icft_lite.grading.parts import Assignment, Call

WARM_UP = constant("warm_up", 1, 0.5, 2, 3)
"""c of β_t = min(t / (t + c), decay)."""
GRID = (np.arange(1500) + 0.5) / 1500
"""Uniform numbers for `reservoir_slots`."""


# --- solutions; the keywords make known mistakes


def reservoir_slots(i, k, u):
    return np.array([i - 1 if i <= k else int(x * i) if x * i < k else -1 for x in u])


class PriorityBuffer:
    def __init__(self, size):
        self.size, self.stored = size, {}

    def offer(self, ids, priorities):
        self.stored |= dict(zip(ids, np.asarray(priorities, float).tolist()))
        self.stored = dict(sorted(self.stored.items(), key=lambda item: item[1])[: self.size])
        return sorted(self.stored)


def fill_quotas(counts, size):
    quotas = [0] * len(counts)
    while sum(quotas) < min(size, sum(counts)):
        quotas[min((q, i) for i, q in enumerate(quotas) if q < counts[i])[1]] += 1
    return quotas


def retain(topics, surprise, priority, size, random_share):
    names = sorted(set(topics))
    quotas = fill_quotas([topics.count(name) for name in names], size)
    chosen = (of_topic(topics, name, surprise, priority, q, random_share) for name, q in zip(names, quotas))
    return sorted(i for members in chosen for i in members)


def of_topic(topics, name, surprise, priority, quota, random_share, low=False, lucky=True, sign=1, late=False):
    """Return the indices that a topic retains. low, lucky, sign, late: make known mistakes."""
    members = sorted((i for i, topic in enumerate(topics) if topic == name), key=lambda i: sign * priority[i])
    at_random = int(random_share * quota) if lucky else 0
    rest = sorted(members if late else members[at_random:], key=lambda i: surprise[i] * (1 if low else -1))
    rest = rest[: quota - at_random]
    return rest + [i for i in members if i not in rest][:at_random]


def promotable(
    replays, posteriors, min_replays, min_confidence, trusted=True, first=False, gate=True, replayed=True, strict=0
):
    out = []
    for times, p in zip(replays, posteriors):
        confidence = (p[0] if first else max(p)) if p else float(trusted)
        certain = confidence >= min_confidence + strict * 1e-9 or not gate
        out.append(certain and (times >= min_replays + strict or not replayed))
    return np.array(out)


class SlowAdapter:
    def __init__(self, tensors, decay, beta=None, moves=(True, True)):
        self.slow, self.decay, self.beta, self.moves, self.t = [a.copy() for a in tensors], decay, beta, moves, 0

    def update(self, fast):
        beta = self.beta(self.t, self.decay) if self.beta else min(self.t / (self.t + WARM_UP), self.decay)
        self.slow = [beta * s + (1 - beta) * f if move else s for s, f, move in zip(self.slow, fast, self.moves)]
        self.t += 1
        return [a.copy() for a in self.slow]


def change(start, end, alpha):
    """Return the interpolated ΔW, float [out, in]."""
    return (1 - alpha) * start[1] @ start[0] + alpha * end[1] @ end[0]


def interpolate(start, end, alpha, rank):
    u, s, vh = np.linalg.svd(change(start, end, alpha), full_matrices=False)
    return vh[:rank], u[:, :rank] * s[:rank]


def truncation_error(start, end, alpha, rank, relative=True, dropped=True, squared=False, of="norm"):
    s = np.linalg.svd(change(start, end, alpha), compute_uv=False)
    part = s[rank:] if dropped else s[:rank]
    if of == "sum":
        return part.sum() / s.sum()
    error = np.linalg.norm(part) / (np.linalg.norm(s) if relative else 1)
    return error**2 if squared else error


def choose_alpha(
    alphas, general, medical, base, chance, max_drop, by="medical", corrected="both", refused=0.0, ties=True
):
    retention = {
        "both": (general - chance) / (base - chance),
        "none": general / base,
        "points": 1 - (base - general),
    }[corrected]
    allowed = [i for i in range(len(alphas)) if retention[i] >= 1 - max_drop]
    if not allowed:
        return refused
    key = {"medical": lambda i: (medical[i], general[i] if ties else 0), "general": lambda i: general[i]}[by]
    return float(alphas[max(allowed, key=key)])


# --- draws


def draw_slots(rng):
    sizes = [(int(k), int(k + extra)) for k, extra in zip(rng.integers(2, 6, 3), (1, 3, 6))]
    return [Call((i, k, GRID)) for k, i in sizes] + [Call((2, 4, GRID)), Call((3, 3, GRID))]


def draw_buffer(rng):
    calls = []
    for size in (4, 7):
        priority, offered, then = rng.random(60), set(), []
        for step in range(12):
            ids = rng.permutation(60)[:3].tolist()
            if step % 4 == 3:
                ids[0] = min(offered - set(ids), key=lambda i: priority[i])  # an id that is stored is offered again
            offered |= set(ids)
            then.append(("offer", (ids, priority[ids])))
        calls.append(Call((size,), then=tuple(then)))
    return calls


def draw_quotas(rng):
    calls = [Call((rng.integers(1, 60, n).tolist(), int(size))) for n, size in ((4, 40), (6, 100), (3, 10))]
    return [*calls, Call(([3, 5], 100)), Call(([40, 2, 1, 30], 33)), Call(([9, 9, 9], 2))]


def draw_retain(rng):
    calls = []
    for n, size, share in ((80, 36, 0.25), (60, 31, 0.5), (30, 9, 0.0), (12, 50, 0.25)):
        topics = rng.choice(["anatomy", "drugs", "hormones"], n, p=[0.6, 0.3, 0.1]).tolist()
        calls.append(Call((topics, rng.gamma(2.0, 1.0, n), rng.random(n), size, share)))
    topics = ["anatomy"] * 36 + ["drugs"] * 24
    for size, share in ((22, 0.25), (14, 0.5)):  # random parts of 2.75 and 3.5: floor, round and ceil differ
        surprise = rng.gamma(2.0, 1.0, 60) + np.repeat([0, 9], (36, 24))  # without quotas, all would be of one topic
        calls.append(Call((topics, surprise, rng.random(60), size, share)))
    return calls


def draw_promotable(rng):
    calls = []
    for min_replays, min_confidence in ((2, 0.8), (1, 0.7), (3, 0.9)):
        posteriors = [rng.dirichlet(np.full(k, 0.3)).round(3).tolist() for k in rng.integers(2, 5, 12)]
        equal = [round(1 - min_confidence, 1), min_confidence]
        posteriors += [[], [0.05, 0.95], [0.95, 0.05], equal, [], [0.5, 0.5]]
        replays = rng.integers(0, 5, len(posteriors))
        replays[-6:] = min_replays + np.array([1, 0, 0, 1, -min_replays, 1])
        calls.append(Call((replays, posteriors, min_replays, min_confidence)))
    return calls


def draw_slow(rng):
    calls = []
    for decay, steps in ((0.55, 6), (0.6, 8), (0.75, 12)):
        tensors = [rng.normal(size=(2, 5)), rng.normal(size=(4, 2))]
        path = [[a + rng.normal(size=a.shape) for a in tensors] for _ in range(steps)]
        calls.append(Call((tensors, decay), then=tuple(("update", (fast,)) for fast in path)))
    return calls


def draw_change(rng):
    calls = []
    for size, rank, alpha in ((2, 2, 0.3), (3, 3, 0.7), (1, 1, 1.2), (3, 1, 0.5)):
        start, end = ((rng.normal(size=(size, 6)), rng.normal(size=(5, size))) for _ in range(2))
        calls.append(Call((start, end, alpha, rank)))
    return calls


def draw_alpha(rng):
    alphas = np.array([1.0, 0.85, 0.7, 0.55, 0.4, 0.2])
    calls = []
    for first, last in ((0.62, 0.88), (0.55, 0.87), (0.7, 0.9)):
        general = np.linspace(first, last, 6) + rng.uniform(0, 0.004, 6)
        calls.append(Call((alphas, general, np.linspace(0.8, 0.2, 6) + rng.uniform(0, 0.02, 6), 0.9, 0.25, 0.2)))
    general = np.array([0.5, 0.8, 0.85, 0.86, 0.87, 0.88])
    tied = np.array([0.9, 0.6, 0.6, 0.6, 0.4, 0.1])
    refused = Call((alphas, rng.uniform(0.3, 0.5, 6), tied, 0.9, 0.25, 0.1))
    return [*calls, Call((alphas, general, tied, 0.9, 0.25, 0.2)), refused]


# --- comparisons of answers that may differ


def compare_slots(got, expected, call):
    i, k, u = call.args
    found = np.asarray(got, float)
    if found.shape != u.shape:
        return f"shape: {found.shape} for {len(u)} numbers u"
    if not set(found.tolist()) <= set(range(-1, k)):
        return "slot: a slot is not −1 or one of 0 … k − 1"
    if i <= k:
        return "" if (found == i - 1).all() else "fill: each of the first k items must take the next free slot"
    admitted = (found >= 0).mean()
    if admitted == 1:
        return "coin: every item is let in, which favors late items"
    if abs(admitted - k / i) > 0.01:
        neighbors = [k / (i + 1), (k + 1) / i, (k - 1) / i, k / (i - 1)]
        kind = "off by one" if min(abs(admitted - p) for p in neighbors) < 0.01 else "coin"
        return f"{kind}: item i is let in too {'often' if admitted > k / i else 'rarely'}"
    counts = [(found == slot).mean() for slot in range(k)]
    return "" if np.abs(np.array(counts) - 1 / i).max() < 0.01 else "slot: not every slot is replaced equally often"


def compare_buffer(got, expected, call):
    (size,) = call.args
    for found in got:
        if not isinstance(found, list):
            return "type: offer returns a list of ids"
        if len(found) > size:
            return "size: the buffer has more items than `size`"
        if len(set(found)) < len(found):
            return "repetition: an id is stored twice"
    if got == expected:
        return ""
    ordered = [sorted(found) for found in got]
    if ordered == expected:
        return "order: the list of ids is not sorted"
    highest = PriorityBuffer(size)
    if ordered == [highest.offer(ids, -values) for _, (ids, values) in call.then]:
        return "direction: the highest priorities are retained, not the lowest"
    if all(set(ids) <= set(found) for found, (_, (ids, _)) in zip(got, call.then)):
        return "coin: every new item is let in, which favors late items"
    return "values: wrong items are retained"


def quota_feedback(quotas, counts, size):
    """Return feedback on quotas that may break ties in any way."""
    if any(q > c for q, c in zip(quotas, counts)):
        return "count: a topic gets more than it has"
    total, right = sum(quotas), min(size, sum(counts))
    if total != right:
        return f"sum: the quotas sum to {'more' if total > right else 'less'} than can be used"
    open_quotas = [q for q, c in zip(quotas, counts) if q < c]
    if open_quotas and max(quotas) - min(open_quotas) > 1:
        return "equality: topics that have more examples than their quota must have equal quotas, up to 1"
    return ""


def compare_quotas(got, expected, call):
    counts, size = call.args
    if not isinstance(got, list | tuple | np.ndarray) or len(got) != len(counts):
        return f"type: return {len(counts)} quotas"
    if any(q != int(q) or q < 0 for q in got):
        return "type: quotas are whole numbers, at least 0"
    return quota_feedback([int(q) for q in got], counts, size)


def compare_retain(got, expected, call):
    topics, surprise, priority, size, share = call.args
    if not isinstance(got, list | tuple | np.ndarray):
        return "type: return a list of indices"
    found = [int(i) for i in got]
    if len(set(found)) < len(found):
        return "repetition: an example is retained twice; the random part must not take part again"
    if not set(found) <= set(range(len(topics))):
        return "index: return indices of examples"
    counts, chosen = Counter(topics), Counter(topics[i] for i in found)
    names = sorted(counts)
    if message := quota_feedback([chosen[name] for name in names], [counts[name] for name in names], size):
        return f"quotas: {message}"

    def chooses(**mistake):
        return set(found) == {
            i for name in names for i in of_topic(topics, name, surprise, priority, chosen[name], share, **mistake)
        }

    if chooses():
        return ""
    if chooses(low=True):
        return "direction: the least surprising examples are retained"
    if chooses(lucky=False):
        return "random part: it is missing"
    if chooses(sign=-1):
        return "priority: the random part has the highest priorities, not the lowest"
    if chooses(late=True):
        return "order: the most surprising examples are taken first, and the random part from the others"
    return "values: the quotas are right, but wrong examples are retained"


def slow_mistake(**keywords):
    """Return what a slow adapter with a known mistake gives for a call."""

    def steps(call):
        adapter = SlowAdapter(*call.args, **keywords)
        return [adapter.update(fast) for _, (fast,) in call.then]

    return steps


SLOW_MISTAKES = {
    "movement: the slow adapter never moves": slow_mistake(moves=(False, False)),
    "movement: only the first tensor moves": slow_mistake(moves=(True, False)),
    "copy: the slow adapter is always the fast one": slow_mistake(beta=lambda t, decay: 0.0),
    "direction: β and 1 − β are exchanged": slow_mistake(beta=lambda t, decay: 1 - min(t / (t + WARM_UP), decay)),
    "off by one: the first update must not use the value before it": slow_mistake(
        beta=lambda t, decay: min((t + 1) / (t + 1 + WARM_UP), decay)
    ),
    "warm-up: β is constant from the first update on": slow_mistake(beta=lambda t, decay: decay),
    "limit: β grows beyond `decay`": slow_mistake(beta=lambda t, decay: t / (t + WARM_UP)),
}


def compare_slow(got, expected, call):
    def feedback(wanted):
        for found, right in zip(got, wanted):
            if not isinstance(found, list | tuple) or len(found) != len(right):
                return "type: update returns the list of slow arrays"
            if message := next(filter(None, map(array_feedback, found, right)), ""):
                return message
        return ""

    if not (message := feedback(expected)):
        return ""
    return next((text for text, steps in SLOW_MISTAKES.items() if not feedback(steps(call))), message)


def compare_change(got, expected, call):
    start, end, alpha, rank = call.args
    if not isinstance(got, list | tuple) or len(got) != 2:
        return "type: return two arrays, A and B"
    A, B = (np.asarray(one, float) for one in got)
    factors = [(1 - alpha) * a + alpha * b for a, b in zip(start, end)]
    averaged = "factors: A and B are averaged, not their product"
    shapes = (rank, start[0].shape[1]), (start[1].shape[0], rank)
    if (A.shape, B.shape) != shapes:
        if (A.shape, B.shape) == (factors[0].shape, factors[1].shape) and np.allclose(B @ A, factors[1] @ factors[0]):
            return averaged
        return f"shape: A {A.shape} and B {B.shape}, expected {shapes[0]} and {shapes[1]}"
    u, s, vh = np.linalg.svd(change(start, end, alpha), full_matrices=False)
    u, s, vh = u[:, :rank], s[:rank], vh[:rank]
    return array_feedback(B @ A, expected[1] @ expected[0], {
        averaged: factors[1] @ factors[0],
        "direction: alpha is the weight of `end`": np.matmul(*interpolate(end, start, alpha, rank)[::-1]),
        "scale: the singular values are missing": u @ vh,
        "scale: the singular values are in both factors": u * s**2 @ vh,
        "scale: the singular values are under a square root in one factor only": u * np.sqrt(s) @ vh,
    }, 1e-3, 1e-5)  # fmt: skip


# --- parts


BLOCKED = (
    "icft_lite.memory.policies.water_fill",
    "icft_lite.memory.policies.surprise",
    "icft_lite.memory.promotion.is_confident",
    "icft_lite.memory.consolidation.ema_step",
    "icft_lite.memory.consolidation.interpolate",
    "icft_lite.memory.consolidation.consolidate",
    "icft_lite.modeling.adapters.delta_svd",
)
part = partial(make_part, "A4", BLOCKED)

ASSIGNMENT = Assignment(
    id="A4",
    title="Memory",
    version="1.0" + SUFFIX,
    lessons=("04_qlora_from_scratch", "05_memory"),
    constants={"warm_up": WARM_UP, "step": "t" if WARM_UP == 1 else f"t / {WARM_UP}"},
    parts=(
        part(1, "Reservoir sampling", 2, 15, reservoir_slots, draw_slots, compare=compare_slots),
        part(2, "A buffer with random priorities", 3, 15, PriorityBuffer, draw_buffer, compare=compare_buffer),
        part(3, "Quotas", 3, 15, fill_quotas, draw_quotas, compare=compare_quotas),
        part(4, "Surprise with quotas", 4, 25, retain, draw_retain, compare=compare_retain),
        part(5, "The gate for promotion", 2, 10, promotable, draw_promotable, {
            "trusted: an example without a posterior is certain": dict(trusted=False),
            "confidence: it is the largest entry of the posterior, not the first": dict(first=True),
            "confidence: the gate has no effect": dict(gate=False),
            "replays: their number has no effect": dict(replayed=False),
            "off by one: a value equal to the minimum is enough": dict(strict=1),
        }),
        part(6, "The slow adapter", 3, 15, SlowAdapter, draw_slow, compare=compare_slow),
        part(7, "Interpolation of weight changes", 4, 25, interpolate, draw_change, compare=compare_change),
        part(8, "Truncation error", 2, 10, truncation_error, draw_change, {
            "scale: the error is not relative to the norm of the whole change": dict(relative=False),
            "complement: this is the norm of what is retained": dict(dropped=False),
            "scale: this is the square of the error": dict(squared=True),
            "norm: the Frobenius norm is the root of the sum of squares": dict(of="sum"),
        }),
        part(9, "The interpolation coefficient", 2, 15, choose_alpha, draw_alpha, {
            "refusal: if no candidate is allowed, the coefficient is 0": dict(refused=1.0),
            "criterion: the best medical score decides, not the general one": dict(by="general"),
            "chance: retention is not corrected for chance": dict(corrected="none"),
            "retention: a drop in points is compared, not a ratio": dict(corrected="points"),
            "ties: equal medical scores are decided by the general score": dict(ties=False),
        }),
    ),
)  # fmt: skip
