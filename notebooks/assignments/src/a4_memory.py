# ---
# jupyter:
#   lesson:
#     minutes: {cpu: 1, t4: 1}
#     peak_gib: {cpu: 2, t4: 2}
#     predicted: [t4]
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Assignment 4 · Memory
#
# You write both halves of the long-term memory. Examples: reservoir sampling, random priorities, quotas, surprise and the
# gate for promotion. Weights: a moving average of adapters, and exact interpolation of their weight changes. At the end
# your memory follows a short stage of training of the model `tiny`.
#
# **You need** lessons 04 and 05. **Time**: about 145 minutes.

# %% [markdown]
# | part | what you write | points | minutes |
# |---|---|---|---|
# | A4.1 | Reservoir sampling | 2 | 15 |
# | A4.2 | A buffer with random priorities | 3 | 15 |
# | A4.3 | Quotas | 3 | 15 |
# | A4.4 | Surprise with quotas | 4 | 25 |
# | A4.5 | The gate for promotion | 2 | 10 |
# | A4.6 | The slow adapter | 3 | 15 |
# | A4.7 | Interpolation of weight changes | 4 | 25 |
# | A4.8 | Truncation error | 2 | 10 |
# | A4.9 | The interpolation coefficient | 2 | 15 |

# %% [markdown]
# **Rules.** Replace `raise NotImplementedError` by your code. Do not rename functions or arguments. Use NumPy and the
# standard library. The memory of the package is not available while your work is graded.
#
# A check follows each part. It prints "Passed", or says what kind of error it found. Grading uses other inputs than the
# check. Later parts may call your earlier functions.
#
# At the end, restart the kernel, run all cells, save the notebook and hand it in. During grading, cells that compare your
# code with the package's fail. This costs no points.

# %% [markdown]
# The work of the computer in this assignment:
#
# {{budget}}

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
import numpy as np

from icft_lite.grading.feedback import check_array  # compares arrays and names the kind of error

# %% [markdown]
# ## 1 · Reservoir sampling
#
# **A4.1 · 2 points · 15 minutes**
#
# A reservoir has k slots. The first k items of a stream take the slots 0, 1, …, k − 1. Afterwards, item number i (the
# first item has number 1) is let in with probability k/i and replaces the item in a slot, each slot equally often.
#
# Here one uniform random number u, 0 ≤ u < 1, decides both. Write the decision for many values of u at once.

# %% nbgrader={"grade": false, "grade_id": "a4-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def reservoir_slots(i, k, u):
    """Return the slot that item number i takes for each random number, −1 if it is not let in: int [r].

    i: int, at least 1. k: int, number of slots. u: float [r].
    """
    ### BEGIN SOLUTION
    if i <= k:
        return np.full(len(u), i - 1)
    slot = (u * i).astype(int)  # uniform in 0 … i − 1
    return np.where(slot < k, slot, -1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a4-1-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
u = (np.arange(700) + 0.5) / 700
found = np.asarray(reservoir_slots(7, 3, u))
assert found.shape == u.shape, f"shape: found {found.shape}, expected {u.shape}"
assert set(found.tolist()) <= {-1, 0, 1, 2}, f"slot: found {sorted(set(found.tolist()))}, expected −1, 0, 1 and 2"
counts = {slot: int((found == slot).sum()) for slot in (-1, 0, 1, 2)}
assert counts[-1] > 0, "coin: every item is let in, which favors late items"
assert abs(counts[-1] - 400) <= 10, f"coin: of 700 random numbers {counts[-1]} reject item 7; is i counted from 1?"
assert all(abs(counts[slot] - 100) <= 5 for slot in (0, 1, 2)), f"slot: slots are not replaced equally often: {counts}"
assert set(np.asarray(reservoir_slots(2, 3, u)).tolist()) == {1}, "fill: item 2 must take the slot 1, whatever u is"
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
for k, i in ((2, 3), (4, 9)):
    found = np.asarray(reservoir_slots(i, k, rng.random(20000)))
    assert all(abs((found == slot).mean() - 1 / i) < 0.02 for slot in range(k)), "slot: each with probability 1/i"
    assert abs((found < 0).mean() - 1 + k / i) < 0.02, "coin: let in with probability k/i"
### END HIDDEN TESTS
print("Passed: A4.1")

# %% [markdown]
# ## 2 · A buffer with random priorities
#
# **A4.2 · 3 points · 15 minutes**
#
# A run that is interrupted must draw the same sample again. So each item has a random priority that depends only on its
# id and the seed, and the buffer retains the items of lowest priority among all that were ever offered. An id may be
# offered again, with the same priority. It is stored once.

# %% nbgrader={"grade": false, "grade_id": "a4-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
class PriorityBuffer:
    """Retains the `size` ids of lowest priority."""

    def __init__(self, size):
        ### BEGIN SOLUTION
        self.size, self.priority = size, {}
        ### END SOLUTION

    def offer(self, ids, priorities):
        """Offer items, and return the ids that the buffer has afterwards, a sorted list of int.

        ids: list of int. priorities: float [number of ids], uniform in 0 to 1.
        """
        ### BEGIN SOLUTION
        self.priority.update(zip(ids, priorities))
        lowest = sorted(self.priority, key=self.priority.get)[:self.size]
        self.priority = {one: self.priority[one] for one in lowest}
        return sorted(lowest)
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a4-2-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
buffer = PriorityBuffer(3)
found = buffer.offer([40, 10], np.array([0.7, 0.2]))
assert isinstance(found, list), f"type: offer must return a list, found {type(found).__name__}"
assert found != [40, 10], "order: the list of ids must be sorted"
assert found == [10, 40], f"values: found {found} after 40 and 10 were offered"
assert buffer.offer([10], np.array([0.2])) == [10, 40], "repetition: an id that is offered again must be stored once"
found = buffer.offer([30, 20, 50], np.array([0.5, 0.9, 0.1]))
assert len(found) == 3, f"size: the buffer has {len(found)} items, expected 3"
assert found != [20, 30, 40], "direction: the lowest priorities must be retained"
assert found == [10, 30, 50], f"values: {found} are retained, which are not the ids of lowest priority"
assert buffer.offer([60], np.array([0.8])) == found, "coin: a new item of high priority must not be let in"
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
buffer, priority, offered = PriorityBuffer(5), rng.random(30), set()
for _ in range(8):
    ids = rng.permutation(30)[:4].tolist()
    offered |= set(ids)
    assert buffer.offer(ids, priority[ids]) == sorted(sorted(offered, key=lambda i: priority[i])[:5]), "values"
### END HIDDEN TESTS
print("Passed: A4.2")

# %% [markdown]
# ## 3 · Quotas
#
# **A4.3 · 3 points · 15 minutes**
#
# Divide `size` places among topics as equally as possible. No topic gets more than it has. Places that a small topic
# cannot use go to the others. If the places that remain cannot be divided equally, some topics get one more, whichever
# you like. If all examples fit, each topic gets all it has.

# %% nbgrader={"grade": false, "grade_id": "a4-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def fill_quotas(counts, size):
    """Return the quota of each topic: list of int.

    counts: list of int, examples of each topic. size: int, number of places.
    """
    ### BEGIN SOLUTION
    quotas = [0] * len(counts)
    for _ in range(min(size, sum(counts))):
        lowest = min((i for i in range(len(counts)) if quotas[i] < counts[i]), key=lambda i: quotas[i])
        quotas[lowest] += 1
    return quotas
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a4-3-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
for counts, size in (([400, 60, 250, 30], 300), ([5, 1, 9], 9), ([2, 3], 100), ([7, 7, 7], 2), ([60, 45, 15], 32)):
    quotas = [int(q) for q in fill_quotas(counts, size)]
    case = f"counts {counts} and size {size}"
    assert len(quotas) == len(counts), f"shape: {len(quotas)} quotas for {case}"
    assert all(q <= c for q, c in zip(quotas, counts)), f"count: a topic gets more than it has, for {case}"
    assert sum(quotas) >= min(size, sum(counts)), f"sum: places are not used, for {case}"
    assert sum(quotas) <= size, f"sum: more places are used than there are, for {case}"
    limited = [q for q, c in zip(quotas, counts) if q < c]
    assert not limited or max(quotas) <= min(limited) + 1, f"equality: a topic could have more, for {case}"
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
for _ in range(10):
    counts, size = rng.integers(1, 30, 5).tolist(), int(rng.integers(5, 80))
    level = max(h for h in range(31) if sum(min(c, h) for c in counts) <= size)
    quotas = fill_quotas(counts, size)
    assert sum(quotas) == min(size, sum(counts)), "sum"
    assert all(0 <= q - min(c, level) <= (c > level) for q, c in zip(quotas, counts)), "equality"
### END HIDDEN TESTS
print("Passed: A4.3")

# %% [markdown]
# ## 4 · Surprise with quotas
#
# **A4.4 · 4 points · 25 minutes**
#
# 1. Divide the places among the topics with your quotas.
# 2. Fill the share `random_share` of a topic's quota, rounded down, with its examples of lowest priority.
# 3. Fill the rest of its quota with the most surprising of its other examples.

# %% nbgrader={"grade": false, "grade_id": "a4-4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def retain(topics, surprise, priority, size, random_share):
    """Return the indices of the examples that are retained, in any order: list of int.

    topics: list of str, [n]. surprise: float [n]. priority: float [n]. size: int. random_share: 0
    to 1.
    """
    ### BEGIN SOLUTION
    retained, names = [], sorted(set(topics))
    for name, quota in zip(names, fill_quotas([topics.count(name) for name in names], size)):
        members = np.array([i for i, topic in enumerate(topics) if topic == name])
        members = members[np.argsort(priority[members])]
        at_random, others = np.split(members, [int(random_share * quota)])
        others = others[np.argsort(-surprise[others])][:quota - len(at_random)]
        retained += [*at_random.tolist(), *others.tolist()]
    return retained
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a4-4-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
topics = ["a"] * 6 + ["b"] * 2
surprise = np.array([0.1, 0.9, 0.5, 0.8, 0.3, 0.2, 0.0, 0.05])
priority = np.array([0.95, 0.1, 0.8, 0.9, 0.6, 0.2, 0.4, 0.3])
found = sorted(int(i) for i in retain(topics, surprise, priority, 6, 0.5))
assert len(set(found)) == len(found), "repetition: an example of the random part takes part again"
assert len(found) == 6, f"quotas: {len(found)} examples are retained, expected 6"
assert set(found) >= {6, 7}, "quotas: topic b has two examples, and both fit into its quota"
plain = sorted(int(i) for i in retain(topics, surprise, priority, 6, 0.0))
assert plain != [0, 2, 4, 5, 6, 7], "direction: the most surprising examples must be retained"
assert plain == [1, 2, 3, 4, 6, 7], f"surprise: {plain} are retained without a random part"
assert found != plain, "random part: it has no effect"
assert found != [1, 3, 4, 5, 6, 7], "order: the random part must be filled first, from all examples of the topic"
assert found == [1, 2, 3, 5, 6, 7], f"priority: {found} are retained with a random part; the lowest priorities belong to it"
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
topics = ["a"] * 20 + ["b"] * 30 + ["c"] * 4
surprise, priority = rng.random(54), rng.random(54)
wanted = [50, 51, 52, 53]
for members in (range(20), range(20, 50)):
    lucky = sorted(members, key=lambda i: priority[i])[:3]
    wanted += lucky + sorted(set(members) - set(lucky), key=lambda i: -surprise[i])[:9]
assert sorted(retain(topics, surprise, priority, 28, 0.25)) == sorted(wanted), "values: wrong examples are retained"
### END HIDDEN TESTS
print("Passed: A4.4")

# %% [markdown]
# ## 5 · The gate for promotion
#
# **A4.5 · 2 points · 10 minutes**
#
# An example may be promoted if it was replayed at least `min_replays` times and its label is certain: the largest entry
# of its posterior is at least `min_confidence`. A trusted example has the posterior `[]`, and its label is certain.

# %% nbgrader={"grade": false, "grade_id": "a4-5", "locked": false, "schema_version": 3, "solution": true, "task": false}
def promotable(replays, posteriors, min_replays, min_confidence):
    """Return which examples may be promoted: bool [n].

    replays: int [n]. posteriors: list of lists of float, [n]. min_replays: int. min_confidence: 0
    to 1.
    """
    ### BEGIN SOLUTION
    confidence = np.array([max(p) if p else 1.0 for p in posteriors])
    return (replays >= min_replays) & (confidence >= min_confidence)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a4-5-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
replays, posteriors = np.array([2, 3, 2, 1, 5, 0]), [[], [0.1, 0.9], [0.8, 0.2], [0.9, 0.1], [0.6, 0.4], []]
check_array(promotable(replays, posteriors, 2, 0.8), [1, 1, 1, 0, 0, 0], {
    "trusted: an example without a posterior is certain": [0, 1, 1, 0, 0, 0],
    "confidence: it is the largest entry of the posterior": [1, 0, 1, 0, 0, 0],
    "confidence: the gate has no effect": [1, 1, 1, 0, 1, 0],
    "replays: their number has no effect": [1, 1, 1, 1, 0, 1],
    "off by one: a value equal to the minimum is enough": [0, 1, 0, 0, 0, 0],
    "off by one: as many replays as the minimum are enough": [0, 1, 0, 0, 0, 0],
    "off by one: a confidence equal to the minimum is enough": [1, 1, 0, 0, 0, 0],
})
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
replays, posteriors = rng.integers(0, 4, 30), [rng.dirichlet([0.3] * 3).tolist() for _ in range(29)] + [[]]
wanted = [n >= 2 and (not p or max(p) >= 0.7) for n, p in zip(replays, posteriors)]
check_array(promotable(replays, posteriors, 2, 0.7), wanted)
### END HIDDEN TESTS
print("Passed: A4.5")

# %% [markdown]
# ## 6 · The slow adapter
#
# **A4.6 · 3 points · 15 minutes**
#
# After optimizer step t = 0, 1, 2, …, each slow array becomes β_t · slow + (1 − β_t) · fast, with
# β_t = min(t / (t + {{warm_up}}), `decay`). The object counts the steps.

# %% nbgrader={"grade": false, "grade_id": "a4-6", "locked": false, "schema_version": 3, "solution": true, "task": false}
class SlowAdapter:
    """The moving average of the arrays of the fast adapter.

    tensors: list of float arrays, the slow adapter before the first step. decay: 0 to 1.
    """

    def __init__(self, tensors, decay):
        ### BEGIN SOLUTION
        self.slow, self.decay, self.steps = [a.copy() for a in tensors], decay, 0
        ### END SOLUTION

    def update(self, fast):
        """Return the slow arrays after one more step, a list.

        fast: list of arrays of the same shapes, not changed.
        """
        ### BEGIN SOLUTION
        beta = min(self.steps / (self.steps + {{warm_up}}), self.decay)
        self.slow = [beta * slow + (1 - beta) * new for slow, new in zip(self.slow, fast)]
        self.steps += 1
        return self.slow
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a4-6-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
slow, fast = SlowAdapter([np.array([100.0]), np.array([5.0])], 0.6), [np.array([2.0]), np.array([-1.0])]
first = [np.array(a) for a in slow.update(fast)]
assert len(first) == 2, f"type: update must return a list of 2 arrays, found {len(first)}"
assert first[0] != 100 and first[1] != 5, "movement: an array does not move in the first step; what is β_0, and what does it multiply?"
b = min(1 / (1 + {{warm_up}}), 0.6)
check_array(first, [[2], [-1]], {
    "off by one: the first update must not use the value before it": [[100 * b + 2 * (1 - b)], [5 * b - (1 - b)]],
    "warm-up: β is constant from the first update on": [[60.8], [2.6]],
})
values, t = np.array([4.0, 9.0, 5.0, 1.0, 8.0]), np.arange(1, 6)
path = [float(np.asarray(slow.update([np.array([x]), fast[1]])[0])[0]) for x in values]


def average(beta):
    """Return the first slow array after each step, from 2 on."""
    steps = [2.0]
    for b, x in zip(beta, values):
        steps.append(b * steps[-1] + (1 - b) * x)
    return steps[1:]


growing = t / (t + {{warm_up}})
check_array(path, average(np.minimum(growing, 0.6)), {
    "copy: the slow adapter is the fast one": values,
    "limit: β grows beyond `decay`": average(growing),
})
assert fast[0] == 2, "copy: update must not change the fast arrays"
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
start, steps = [rng.random((2, 3)), rng.random(4)], [[rng.random((2, 3)), rng.random(4)] for _ in range(9)]
slow = SlowAdapter(start, 0.7)
found = [[np.array(a) for a in slow.update(fast)] for fast in steps][-1]
beta = np.minimum(np.arange(9) / (np.arange(9) + {{warm_up}}), 0.7)
weight = (1 - beta) * np.append(np.cumprod(beta[::-1])[::-1][1:], 1)
for at in (0, 1):
    check_array(found[at], sum(w * fast[at] for w, fast in zip(weight, steps)))
### END HIDDEN TESTS
print("Passed: A4.6")

# %% [markdown]
# ## 7 · Interpolation of weight changes
#
# **A4.7 · 4 points · 25 minutes**
#
# An adapter is a pair (A, B), and the weight change is ΔW = B·A. Interpolate the *changes*,
# (1 − α)·ΔW(start) + α·ΔW(end), and return factors of the best approximation of rank `rank` in the Frobenius norm. Only the
# product of your factors is graded. α may be above 1.

# %% nbgrader={"grade": false, "grade_id": "a4-7", "locked": false, "schema_version": 3, "solution": true, "task": false}
def interpolate(start, end, alpha, rank):
    """Return factors (A, B) of the interpolated change: float [rank, inputs] and float [outputs, rank].

    start, end: pairs (A, B) of the same shapes. alpha: float. rank: int.
    """
    ### BEGIN SOLUTION
    delta = (1 - alpha) * start[1] @ start[0] + alpha * end[1] @ end[0]
    u, s, vh = np.linalg.svd(delta, full_matrices=False)
    root = np.sqrt(s[:rank])
    return root[:, None] * vh[:rank], u[:, :rank] * root
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a4-7-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
one = (np.array([[1.0, 0, 0]]), np.array([[2.0], [0]]))  # ΔW has a 2 in the first row
other = (np.array([[0.0, 1, 0]]), np.array([[0.0], [1]]))  # ΔW has a 1 in the second row
A, B = (np.asarray(factor) for factor in interpolate(one, other, 0.25, 1))
assert A.shape == (1, 3) and B.shape == (2, 1), f"shape: A {A.shape} and B {B.shape}, expected (1, 3) and (2, 1)"
check_array(B @ A, [[1.5, 0, 0], [0, 0, 0]], {
    "factors: A and B are averaged, not their product": [[1.125, 0.375, 0], [0.1875, 0.0625, 0]],
    "direction: alpha is the weight of `end`": [[0, 0, 0], [0, 0.75, 0]],
    "scale: the singular values are missing": [[1, 0, 0], [0, 0, 0]],
    "scale: the singular values are in both factors": [[2.25, 0, 0], [0, 0, 0]],
})
A, B = interpolate(one, other, 0.75, 1)
check_array(B @ A, [[0, 0, 0], [0, 0.75, 0]], {"direction: alpha is the weight of `end`": [[1.5, 0, 0], [0, 0, 0]]})
twin = (-one[0], -one[1])  # the same change
A, B = interpolate(one, twin, 0.5, 1)
check_array(B @ A, [[2, 0, 0], [0, 0, 0]], {"factors: A and B are averaged, not their product": np.zeros((2, 3))})
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
start, end = ((rng.normal(size=(2, 6)), rng.normal(size=(5, 2))) for _ in range(2))
A, B = interpolate(start, end, 1.3, 2)
delta = -0.3 * start[1] @ start[0] + 1.3 * end[1] @ end[0]
vectors = np.linalg.eigh(delta.T @ delta)[1][:, -2:]
check_array(B @ A, delta @ vectors @ vectors.T)
### END HIDDEN TESTS
print("Passed: A4.7")

# %% [markdown]
# ## 8 · Truncation error
#
# **A4.8 · 2 points · 10 minutes**
#
# How much does the truncation to rank r lose? Return the Frobenius norm of what is lost, divided by the Frobenius norm of
# the interpolated change.

# %% nbgrader={"grade": false, "grade_id": "a4-8", "locked": false, "schema_version": 3, "solution": true, "task": false}
def truncation_error(start, end, alpha, rank):
    """Return the relative error of `interpolate` with the same arguments, 0 to 1."""
    ### BEGIN SOLUTION
    A, B = interpolate(start, end, alpha, rank)
    delta = (1 - alpha) * start[1] @ start[0] + alpha * end[1] @ end[0]
    return np.linalg.norm(delta - B @ A) / np.linalg.norm(delta)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a4-8-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
error = truncation_error(one, other, 0.4, 1)  # singular values 1.2 and 0.4
check_array(error, 0.4 / 1.6**0.5, {
    "scale: the error is not relative": 0.4,
    "complement: this is the norm of what is retained": 1.2 / 1.6**0.5,
    "scale: this is the square of the error": 0.1,
    "norm: the Frobenius norm is the root of the sum of squares": 0.25,
})
check_array(truncation_error(one, twin, 0.5, 1), 0.0)
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
start, end = ((rng.normal(size=(2, 6)), rng.normal(size=(5, 2))) for _ in range(2))
values = np.linalg.svd(0.6 * start[1] @ start[0] + 0.4 * end[1] @ end[0])[1]
check_array(truncation_error(start, end, 0.4, 2), ((values[2:] ** 2).sum() / (values**2).sum()) ** 0.5)
### END HIDDEN TESTS
print("Passed: A4.8")

# %% [markdown]
# ## 9 · The interpolation coefficient
#
# **A4.9 · 2 points · 15 minutes**
#
# A candidate is allowed if its retention, corrected for chance, is at least 1 − `max_drop`. Retention is the part of the
# base's general score above chance that remains: (general − chance) ÷ (base − chance).
#
# Choose the allowed candidate with the best medical score. Equal medical scores are decided by the general score. If no
# candidate is allowed, the stage is refused: the coefficient is 0.

# %% nbgrader={"grade": false, "grade_id": "a4-9", "locked": false, "schema_version": 3, "solution": true, "task": false}
def choose_alpha(alphas, general, medical, base, chance, max_drop):
    """Return the coefficient of the best allowed candidate, or 0.0.

    alphas, general, medical: float [number of candidates]. base: general score of the base. chance:
    chance level.
    """
    ### BEGIN SOLUTION
    allowed = (general - chance) / (base - chance) >= 1 - max_drop
    if not allowed.any():
        return 0.0
    best = max(np.flatnonzero(allowed), key=lambda i: (medical[i], general[i]))
    return float(alphas[best])
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a4-9-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
alphas, general = np.array([1.0, 0.7, 0.5, 0.2]), np.array([0.6, 0.74, 0.8, 0.88])
medical = np.array([0.9, 0.7, 0.5, 0.1])
check_array(choose_alpha(alphas, general, medical, 0.9, 0.25, 0.2), 0.5, {
    "chance: retention is not corrected for chance": 0.7,
    "criterion: the best medical score decides": 0.2,
    "retention: the constraint has no effect": 1.0,
})
check_array(choose_alpha(alphas, general, medical, 0.5, 0.0, 0.2), 1.0, {"criterion: medical scores decide": 0.2})
check_array(choose_alpha(alphas, general / 4, medical, 0.9, 0.0, 0.2), 0.0, {"refusal: no candidate is allowed": 1.0})
low = choose_alpha(alphas, general / 2, medical, 0.5, 0.1, 0.25)  # a drop of 0.06 to 0.2 points of 0.4 above chance
check_array(low, 0.5, {"retention: a drop in points is compared, not a ratio": 1.0})
tied = choose_alpha(alphas, general, np.full(4, 0.5), 0.9, 0.25, 0.2)
check_array(tied, 0.2, {"ties: they are decided by the general score": 0.5})
### BEGIN HIDDEN TESTS
rng = np.random.default_rng()
alphas, general, medical = np.linspace(1, 0.2, 9), np.linspace(0.5, 0.9, 9), np.linspace(0.8, 0.1, 9)
for drop in rng.uniform(0.02, 0.5, 5):
    wanted = next((a for a, g in zip(alphas, general) if (g - 0.25) / 0.65 >= 1 - drop), 0.0)
    check_array(choose_alpha(alphas, general, medical, 0.9, 0.25, drop), wanted)
### END HIDDEN TESTS
print("Passed: A4.9")

# %% [markdown]
# ## Your memory at work
#
# A short stage: 30 steps on easy medical examples, without general ones, in fp32 on the CPU. Your slow adapter follows
# the fast one, and the package's moving average does the same.

# %%
import warnings

import torch

from icft_lite import Encoder, ICFTConfig, load_base, sample_bundle
from icft_lite.memory.consolidation import ALPHAS, ema_step
from icft_lite.modeling.adapters import adapter_tensors, add_adapters, set_adapter_tensors
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.losses import icft_losses
from icft_lite.training.batches import StageBatches
from icft_lite.training.plan import PlannedStep

warnings.simplefilter("ignore", FutureWarning)
(base, tokenizer), data = load_base(device="cpu"), sample_bundle()
encoder, steps, size, decay = Encoder(tokenizer), 30, 16, 1 - 10 / 30
model = add_adapters(base, rank=8, alpha=16, seed=0)
examples = [dict(example) for example in data.trusted if example["level"] == "easy"]
encoded = [encoder(example) for example in examples]
fast, package = adapter_tensors(model, "fast"), adapter_tensors(model, "slow")
start = [tensor.detach().numpy().copy() for tensor in package]
slow, drawn = SlowAdapter(start, decay), np.random.default_rng(0).integers(0, len(examples), (steps, size)).tolist()
plan = [PlannedStep(new=indices) for indices in drawn]
batches = StageBatches(plan, examples, encoded, [], ICFTConfig(), pad_id=tokenizer.pad_token_id)

# %%
optimizer = torch.optim.AdamW(fast, lr=4e-3)
for t in range(steps):
    batch = batches[t]
    loss = icft_losses(hidden_states(model, batch), head_weight(model), batch, batch["normalizers"])["fine_tune"]
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    ema_step(package, fast, {{step}}, decay)
    end = slow.update([tensor.detach().numpy() for tensor in fast])
difference = max(np.abs(mine - tensor.detach().numpy()).max() for mine, tensor in zip(end, package))
print(f"largest difference from the package's moving average: {difference:.1e}")

# %% [markdown]
# The difference must be below 1e-5. Next, promotion. Count how often each example was replayed (here: drawn), and measure
# the surprise of the candidates under the slow adapter. Your memory has 40 places.

# %%
from collections import Counter

from icft_lite.memory.entries import MemoryEntry
from icft_lite.memory.policies import POLICIES
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.scoring import score_responses

times = Counter(i for indices in drawn for i in indices)
seen = sorted(times)
allowed = promotable(np.array([times[i] for i in seen]), [examples[i]["posterior"] for i in seen], 2, 0.8)
candidates = [i for i, yes in zip(seen, allowed) if yes]
with use_adapter(model, "slow"):
    scores = score_responses(model, [encoded[i] for i in candidates])
surprise = np.array([-(score["logp"] / score["tokens"])[0] for score in scores])
priority = np.random.default_rng(1).random(len(candidates))
mine = retain([examples[i]["topic"] for i in candidates], surprise, priority, 40, 0.25)
entries = [MemoryEntry(examples[i], surprise=s, priority=p) for i, s, p in zip(candidates, surprise, priority)]
theirs = {id(entry) for entry in POLICIES["surprise"](entries, 40, 0.25, None)}
shared = sum(id(entries[i]) in theirs for i in mine)
print(f"{len(seen)} examples seen, {len(candidates)} candidates, {len(mine)} retained")
print(f"of these, the package retains {shared} (1 less is right too, if a place cannot be divided)")

# %% [markdown]
# Last, consolidation: a line search between the base (the start of this stage) and the slow adapter. **Predict**: which
# α is chosen?

# %%
from icft_lite.evaluation import Suite, evaluate_suite
from icft_lite.memory.consolidation import consolidate
from icft_lite.metrics import mean_score

general = data.general_validation.select(range(0, len(data.general_validation), 4))
medical = [one for one in data.validation if one["level"] == "easy" and one["task"] == "question"]
suites = {"general": Suite.from_examples(general, encoder, only_correct_option=True),
          "medical": Suite.from_examples(medical, encoder, only_correct_option=True)}


def score():
    """Return exact match of the slow adapter on general and medical validation questions."""
    scores = evaluate_suite(model, tokenizer, suites, adapter="slow", encoder=encoder)
    return {name: mean_score(scores[name]) for name in scores}


def set_slow(alpha):
    """Set the slow adapter to the interpolated change, layer by layer."""
    pairs = [interpolate((start[i], start[i + 1]), (end[i], end[i + 1]), alpha, 8) for i in range(0, len(start), 2)]
    set_adapter_tensors(model, "slow", [torch.tensor(np.asarray(a)) for pair in pairs for a in pair])


# %%
rows = []
for alpha in (*ALPHAS, 0.0):
    set_slow(alpha)
    rows.append(score())
    print(f"α {alpha:4}: general {rows[-1]['general']:.3f}, medical {rows[-1]['medical']:.3f}")
found = {name: np.array([row[name] for row in rows[:-1]]) for name in ("general", "medical")}
base_score = rows[-1]["general"]  # α = 0 is the base; exact match has the chance level 0
chosen = choose_alpha(np.array(ALPHAS), found["general"], found["medical"], base_score, 0.0, 0.2)
set_adapter_tensors(model, "slow", [torch.tensor(array) for array in end])
record = consolidate(model, [torch.tensor(array) for array in start], score, lambda one: one["general"] >= 0.8 * base_score,
                     rank=8, scale=2.0, base_alphas=())
print(f"your choice: {chosen}, the package's: {record['alpha']}")

# %% [markdown]
# Without general examples, forgetting is steep: the full step (α = 1) violates the retention constraint. The change from
# the base has rank r, so truncation loses nothing here. In a second stage, the start is not the base, and it would.
