"""A4: wrong answers with the kind of feedback that each must get, and right answers written in another way.

    WRONG = {part: {name of the mistake: (function, words of the feedback)}}        RIGHT = {part: [function, …]}
"""

import heapq

import numpy as np

# --- 1


def slots(i, k, u, share=None):
    u = np.asarray(u)
    if i <= k:
        return np.full(len(u), i - 1)
    share = k / i if share is None else share
    return np.where(u < share, np.minimum((u / share * k).astype(int), k - 1), -1)


def slots_from_the_top(i, k, u):
    return [i - 1 if i <= k else int((1 - x) * i) if (1 - x) * i < k else -1 for x in u]


def slots_always_in(i, k, u):
    return slots(i, k, u, share=1.0)


def slots_counted_from_0(i, k, u):
    return slots(i, k, u, share=k / (i + 1))


def slots_one_in_i(i, k, u):
    return slots(i, k, u, share=1 / (2 * i))


def slots_first_only(i, k, u):
    return np.minimum(slots(i, k, u), 0) if i > k else slots(i, k, u)


def slots_never_fill(i, k, u):
    return slots(max(i, k + 1), k, u) if i <= k else slots(i, k, u)


# --- 2


class Heap:
    def __init__(self, size):
        self.size, self.heap, self.ids = size, [], set()

    def offer(self, ids, priorities):
        for one, p in zip(ids, np.asarray(priorities).tolist()):
            if one not in self.ids:
                self.ids.add(one)
                heapq.heappush(self.heap, (-p, one))
                if len(self.heap) > self.size:
                    self.ids.remove(heapq.heappop(self.heap)[1])
        return sorted(self.ids)


class Highest(Heap):
    def offer(self, ids, priorities):
        return super().offer(ids, -np.asarray(priorities))


class Newest:
    def __init__(self, size):
        self.size, self.ids = size, []

    def offer(self, ids, priorities):
        self.ids = [one for one in self.ids if one not in ids] + ids
        self.ids = self.ids[-self.size :]
        return sorted(self.ids)


class Repeats:
    def __init__(self, size):
        self.size, self.items = size, []

    def offer(self, ids, priorities):
        self.items = sorted([*self.items, *zip(np.asarray(priorities).tolist(), ids)])[: self.size]
        return sorted(one for _, one in self.items)


class Unlimited(Heap):
    def __init__(self, size):
        super().__init__(10**6)


class Unsorted(Heap):
    def offer(self, ids, priorities):
        return super().offer(ids, priorities)[::-1]


# --- 3


def quotas(counts, size):
    left, out, open_topics = size, [0] * len(counts), list(range(len(counts)))[::-1]
    while left and open_topics:
        for i in list(open_topics):
            if left and out[i] < counts[i]:
                out[i] += 1
                left -= 1
            if out[i] == counts[i]:
                open_topics.remove(i)
    return out


def quotas_by_level(counts, size):
    if size >= sum(counts):
        return np.array(counts)
    level = max(h for h in range(size + 1) if sum(min(c, h) for c in counts) <= size)
    out = [min(c, level) for c in counts]
    for i in sorted(range(len(counts)), key=lambda i: -counts[i])[: size - sum(out)]:
        out[i] += 1
    return np.array(out)


def quotas_proportional(counts, size):
    share = min(1, size / sum(counts))
    out = [int(c * share) for c in counts]
    for i in range(min(size, sum(counts)) - sum(out)):
        out[np.argmax([c - q for c, q in zip(counts, out)])] += 1
    return out


def quotas_not_redistributed(counts, size):
    return [min(c, size // len(counts)) for c in counts]


def quotas_beyond_count(counts, size):
    return [size // len(counts) + (i < size % len(counts)) for i in range(len(counts))]


def quotas_rounded_up(counts, size):
    return [min(c, -(-size // len(counts)) + 2) for c in counts]


# --- 4


def surprising(topics, surprise, priority, size, random_share, sign=-1, lucky=True, again=False, rank=1):
    names = sorted(set(topics))[::-1]
    out = []
    for name, quota in zip(names, quotas([topics.count(name) for name in names], size)):
        members = [i for i, topic in enumerate(topics) if topic == name]
        members = [members[j] for j in np.argsort(rank * priority[members])]
        first = members[: int(random_share * quota)] if lucky else []
        rest = members if again else members[len(first) :]
        out += first + sorted(rest, key=lambda i: sign * surprise[i])[: quota - len(first)]
    return out


def least_surprising(*args):
    return surprising(*args, sign=1)


def surprising_without_luck(*args):
    return surprising(*args, lucky=False)


def surprising_twice(*args):
    return surprising(*args, again=True)


def surprising_overall(topics, surprise, priority, size, random_share):
    return np.argsort(-surprise)[:size]


def surprising_by_share(topics, surprise, priority, size, random_share):
    names = sorted(set(topics))
    shares = quotas_proportional([topics.count(name) for name in names], size)
    return [
        i
        for name, quota in zip(names, shares)
        for i in sorted((i for i, t in enumerate(topics) if t == name), key=lambda i: -surprise[i])[:quota]
    ]


def surprising_before_luck(topics, surprise, priority, size, random_share):
    out = []
    for name, quota in zip(sorted(set(topics)), quotas([topics.count(name) for name in sorted(set(topics))], size)):
        members = [i for i, topic in enumerate(topics) if topic == name]
        members.sort(key=lambda i: -surprise[i])
        split = quota - int(random_share * quota)
        out += members[:split] + sorted(members[split:], key=lambda i: priority[i])[: quota - split]
    return out


def surprising_from_high_priority(*args):
    return surprising(*args, rank=-1)


# --- 5


def gate(replays, posteriors, min_replays, min_confidence):
    confidence = np.array([max(p, default=1.0) for p in posteriors])
    return (np.asarray(replays) >= min_replays) & (confidence >= min_confidence)


def gate_as_list(replays, posteriors, min_replays, min_confidence):
    return [
        bool(n >= min_replays and (not p or any(x >= min_confidence for x in p))) for n, p in zip(replays, posteriors)
    ]


def gate_rejects_trusted(replays, posteriors, min_replays, min_confidence):
    confidence = np.array([max(p, default=0.0) for p in posteriors])
    return (replays >= min_replays) & (confidence >= min_confidence)


def gate_first_option(replays, posteriors, min_replays, min_confidence):
    confidence = np.array([(p or [1.0])[0] for p in posteriors])
    return (replays >= min_replays) & (confidence >= min_confidence)


def gate_only_replays(replays, posteriors, min_replays, min_confidence):
    return replays >= min_replays


def gate_only_confidence(replays, posteriors, min_replays, min_confidence):
    return gate(replays + min_replays, posteriors, min_replays, min_confidence)


def gate_strict(replays, posteriors, min_replays, min_confidence):
    return gate(replays, posteriors, min_replays + 1, min_confidence + 1e-9)


# --- 6


class Average:
    def __init__(self, tensors, decay):
        self.slow, self.decay, self.t = [np.array(a) for a in tensors], decay, 0

    def beta(self):
        return min(self.t / (self.t + 1), self.decay)

    def update(self, fast):
        beta = self.beta()
        for slow, new in zip(self.slow, fast):
            slow += (1 - beta) * (new - slow)
        self.t += 1
        return self.slow


class AverageInFloat32(Average):
    def update(self, fast):
        return [a.astype(np.float32) for a in super().update(fast)]


class NeverMoves(Average):
    def update(self, fast):
        return self.slow


class CopiesFast(Average):
    def beta(self):
        return 0.0


class Exchanged(Average):
    def beta(self):
        return 1 - super().beta()


class CountsFrom1(Average):
    def beta(self):
        return min(1 - 1 / (self.t + 2), self.decay)


class NoWarmUp(Average):
    def beta(self):
        return self.decay


class OnlyFirst(Average):
    def update(self, fast):
        return super().update(fast[:1])


class PlainMean(Average):
    def beta(self):
        return self.t / (self.t + 1)


# --- 7


def stacked(start, end, alpha, rank, power=0.5):
    left = np.concatenate([(1 - alpha) * start[1], alpha * end[1]], 1)
    right = np.concatenate([start[0], end[0]], 0)
    u, s, vh = np.linalg.svd(left @ right)
    root = s[:rank] ** power
    return root[:, None] * vh[:rank], u[:, :rank] * root


def by_eigenvectors(start, end, alpha, rank):
    delta = (1 - alpha) * start[1] @ start[0] + alpha * end[1] @ end[0]
    _, vectors = np.linalg.eigh(delta.T @ delta)
    top = vectors[:, -rank:]
    return [top.T.astype(np.float32), (delta @ top).astype(np.float32)]


def factors_averaged(start, end, alpha, rank):
    return [(1 - alpha) * a + alpha * b for a, b in zip(start, end)]


def weights_exchanged(start, end, alpha, rank):
    return stacked(end, start, alpha, rank)


def without_singular_values(start, end, alpha, rank):
    return stacked(start, end, alpha, rank, power=0)


def singular_values_twice(start, end, alpha, rank):
    return stacked(start, end, alpha, rank, power=1)


def not_truncated(start, end, alpha, rank):
    return stacked(start, end, alpha, 2 * rank)


# --- 8


def error_of_difference(start, end, alpha, rank):
    delta = (1 - alpha) * start[1] @ start[0] + alpha * end[1] @ end[0]
    A, B = stacked(start, end, alpha, rank)
    return np.sqrt(((delta - B @ A) ** 2).sum() / (delta**2).sum())


def error_absolute(start, end, alpha, rank):
    delta = (1 - alpha) * start[1] @ start[0] + alpha * end[1] @ end[0]
    return error_of_difference(start, end, alpha, rank) * np.linalg.norm(delta)


def error_squared(*args):
    return error_of_difference(*args) ** 2


def retained_share(*args):
    return np.sqrt(1 - error_of_difference(*args) ** 2)


def error_of_sums(start, end, alpha, rank):
    s = np.linalg.svd((1 - alpha) * start[1] @ start[0] + alpha * end[1] @ end[0])[1]
    return s[rank:].sum() / s.sum()


# --- 9


def alpha_by_loop(alphas, general, medical, base, chance, max_drop, retention=None, none=0.0, key=None):
    best, choice = (-1.0, -1.0), none
    for a, g, m in zip(alphas, general, medical):
        kept = retention(g) if retention else (g - chance) / (base - chance)
        score = key(g, m) if key else (m, g)
        if kept >= 1 - max_drop and score > best:
            best, choice = score, float(a)
    return choice


def alpha_uncorrected(alphas, general, medical, base, chance, max_drop):
    return alpha_by_loop(alphas, general, medical, base, chance, max_drop, lambda g: g / base)


def alpha_by_points(alphas, general, medical, base, chance, max_drop):
    return alpha_by_loop(alphas, general, medical, base, chance, max_drop, lambda g: 1 + g - base)


def alpha_by_general(*args):
    return alpha_by_loop(*args, key=lambda g, m: (g, m))


def alpha_never_refused(*args):
    return alpha_by_loop(*args, none=1.0)


def alpha_first_of_ties(*args):
    return alpha_by_loop(*args, key=lambda g, m: (m, 0.0))


WRONG = {
    "A4.1": {
        "favors late items": (slots_always_in, "coin: every item is let in"),
        "counts from 0": (slots_counted_from_0, "off by one"),
        "too rarely": (slots_one_in_i, "rarely"),
        "always slot 0": (slots_first_only, "slot"),
        "no first k": (slots_never_fill, "fill"),
    },
    "A4.2": {
        "highest priority": (Highest, "direction"),
        "a ring": (Newest, "coin: every new item is let in"),
        "ids twice": (Repeats, "repetition"),
        "no limit": (Unlimited, "size"),
        "not sorted": (Unsorted, "order"),
    },
    "A4.3": {
        "proportional": (quotas_proportional, "equality"),
        "not redistributed": (quotas_not_redistributed, "sum"),
        "beyond the count": (quotas_beyond_count, "count"),
        "rounded up": (quotas_rounded_up, "sum"),
    },
    "A4.4": {
        "least surprising": (least_surprising, "direction"),
        "no random part": (surprising_without_luck, "random part"),
        "random part again": (surprising_twice, "repetition"),
        "no quotas": (surprising_overall, "quotas"),
        "proportional quotas": (surprising_by_share, "quotas"),
        "highest priority": (surprising_from_high_priority, "priority"),
        "random part last": (surprising_before_luck, "order"),
    },
    "A4.5": {
        "trusted rejected": (gate_rejects_trusted, "trusted"),
        "first option": (gate_first_option, "confidence"),
        "replays only": (gate_only_replays, "confidence"),
        "confidence only": (gate_only_confidence, "replays"),
        "more than the limits": (gate_strict, "off by one"),
    },
    "A4.6": {
        "never moves": (NeverMoves, "movement"),
        "copies": (CopiesFast, "copy"),
        "exchanged": (Exchanged, "direction"),
        "t counts from 1": (CountsFrom1, "off by one"),
        "no warm-up": (NoWarmUp, "warm-up"),
        "only A": (OnlyFirst, "movement: only the first"),
        "plain mean": (PlainMean, "limit"),
    },
    "A4.7": {
        "factors averaged": (factors_averaged, "factors"),
        "alpha exchanged": (weights_exchanged, "direction"),
        "no singular values": (without_singular_values, "scale: the singular values are missing"),
        "singular values twice": (singular_values_twice, "scale: the singular values are in both"),
        "rank 2r": (not_truncated, "shape"),
    },
    "A4.8": {
        "absolute": (error_absolute, "scale: the error is not relative"),
        "squared": (error_squared, "scale: this is the square"),
        "retained": (retained_share, "complement"),
        "sums": (error_of_sums, "norm"),
    },
    "A4.9": {
        "no chance level": (alpha_uncorrected, "chance"),
        "points": (alpha_by_points, "retention"),
        "best general": (alpha_by_general, "criterion"),
        "never refused": (alpha_never_refused, "refusal"),
        "first of ties": (alpha_first_of_ties, "ties"),
    },
}

RIGHT = {
    "A4.1": [slots, slots_from_the_top],
    "A4.2": [Heap],
    "A4.3": [quotas, quotas_by_level],
    "A4.4": [surprising],
    "A4.5": [gate, gate_as_list],
    "A4.6": [Average, AverageInFloat32],
    "A4.7": [stacked, by_eigenvectors],
    "A4.8": [error_of_difference],
    "A4.9": [alpha_by_loop],
}
