"""Which rows a full long-term memory keeps. A policy is one function, chosen by name from POLICIES:

    policy(entries, room, share, features) → the entries kept, at most `room`

    ring        the newest                                          what came last
    reservoir   a uniform sample of all that ever came              (Vitter, 1985)
    balanced    equal room for each topic, a sample within it       (as GDumb: Prabhu et al., 2020)
    surprise    the same, but most of it by highest loss            (SuRe: Hazard et al., 2025)
    herding     the same, but rows whose mean is the topic's mean   (iCaRL: Rebuffi et al., 2017)

entries: `memory.Entry`, oldest first, of one source; share: how much of a quota `surprise` fills at random;
features(entries): float [n, d], which only `herding` asks for.
"""

import numpy as np


def ring(entries, room, share=0.0, features=None):
    return entries[max(0, len(entries) - room) :]


def reservoir(entries, room, share=0.0, features=None):
    """Each entry holds one random number for life, so the lowest of all are a uniform sample at any time."""
    return sorted(entries, key=lambda entry: entry.priority)[:room]


def balanced(entries, room, share=0.0, features=None):
    return by_topic(entries, room, reservoir)


def surprise(entries, room, share=0.25, features=None):
    def choose(entries, room):
        lucky = round(share * room)
        by_lot = reservoir(entries, len(entries))
        return by_lot[:lucky] + sorted(by_lot[lucky:], key=lambda entry: -entry.surprise)[: room - lucky]

    return by_topic(entries, room, choose)


def herding(entries, room, share=0.0, features=None):
    place = {id(entry): i for i, entry in enumerate(entries)}
    every = np.asarray(features(entries), float)

    def choose(entries, room):
        mine = every[[place[id(entry)] for entry in entries]]
        return [entries[i] for i in select_herding(mine, room)]

    return by_topic(entries, room, choose)


POLICIES = dict(surprise=surprise, balanced=balanced, reservoir=reservoir, ring=ring, herding=herding)


def by_topic(entries, room, choose):
    """Share the room among topics; `choose(entries, quota)` within each."""
    topics = {}
    for entry in entries:
        topics.setdefault(entry.example["topic"], []).append(entry)
    quotas = water_fill({topic: len(mine) for topic, mine in topics.items()}, room)
    return [entry for topic, quota in quotas.items() for entry in choose(topics[topic], quota)]


def water_fill(counts, size):
    """Equal room for each key, room that a key cannot use going to the others: {key: count} → {key: quota}."""
    quota, left, open_keys = dict.fromkeys(counts, 0), size, sorted(counts)
    while left > 0 and open_keys:
        share = max(1, left // len(open_keys))
        for key in list(open_keys):
            give = min(share, counts[key] - quota[key], left)
            quota[key] += give
            left -= give
            if quota[key] == counts[key]:
                open_keys.remove(key)
    return quota


def select_herding(features, count):
    """Greedily pick rows so that the mean of the picked stays nearest the mean of all: [n, d] → indices, in order.

    Rows are scaled to length 1 first, as in iCaRL (algorithm 4)."""
    features = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    goal, total, picked = features.mean(0), np.zeros(features.shape[1]), []
    free = np.ones(len(features), bool)
    for k in range(1, min(count, len(features)) + 1):
        away = np.linalg.norm(goal - (total + features) / k, axis=1)
        picked.append(int(np.argmin(np.where(free, away, np.inf))))
        free[picked[-1]] = False
        total += features[picked[-1]]
    return picked
