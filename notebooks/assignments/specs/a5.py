"""A5, losses: how each part is drawn, solved and compared.

The solutions are in NumPy and float64. Their keywords make known mistakes. The head has small values, so that the
rounding of float32 stays far below the tolerance of the comparison.
"""

from functools import partial

import numpy as np
from constants import SUFFIX, constant
from outputs import make_part

from icft_lite.grading.feedback import recognize
from icft_lite.grading.parts import Assignment, Call

LEAST = constant("least", 0, 0.0625, 0.125, 0.1875)
"""The weight up to which tokens do not count in L_fine-tune. Exact in float32, so that no comparison is rounded."""

# --- solutions


def supervised_tokens(input_ids, prompt_lengths, lengths, shift=1, first=0, last=0, pad_by_id=False):
    triples = []
    for row, (ids, prompt, length) in enumerate(zip(input_ids, prompt_lengths, lengths)):
        start = {0: prompt, 1: prompt + 1, -1: 1}[first]
        stop = {0: length, 1: len(ids), -1: length - 1}[last]
        for at in range(start, stop):
            if not (pad_by_id and ids[at] == ids[-1]):
                triples.append((row, at - shift, ids[at]))
    return tuple(np.array(triples).reshape(-1, 3).T)


def log_softmax(logits, axis=-1):
    shifted = logits - logits.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


def token_logprobs(states, head, target, axis=-1, log=True, sign=1, normalized=True, shift=0):
    logits = np.asarray(states, float) @ np.asarray(head, float).T
    values = log_softmax(logits, axis) if normalized else logits
    values = values[np.arange(len(target)), np.roll(target, shift)]
    return sign * (values if log else np.exp(values))


def fine_tune_loss(logp, response, posterior, weighted=True, by="weight", sign=-1, least=LEAST):
    posterior = np.where(posterior > least, posterior, 0)
    weight = posterior.astype(float)[response] if weighted else np.ones(len(logp))
    if by == "response":  # the mean of the responses' means
        means = np.array([logp[response == i].mean() for i in range(len(posterior))])
        return -(posterior * means).sum() / max(posterior.sum(), 1e-12)
    size = {"weight": weight.sum(), "tokens": len(logp), "responses": len(posterior), "posterior": posterior.sum()}
    return sign * (weight * logp).sum() / max(size.get(by, 1.0), 1e-12)


def question_loss(logp, response, question, posterior, mean=False, by="own", reverse=False, hard=False, summed=False,
                  sign=-1):
    scores = sums_of(logp, response, len(question), mean)
    losses = []
    for number in range(question[-1] + 1):
        own = question == number
        p, values = posterior[own].astype(float), scores[own]
        if by == "padded":  # options that do not exist have the score 0
            values = np.append(values, np.zeros(np.bincount(question).max() - own.sum()))
        log_q = values if by == "none" else log_softmax(values)[: own.sum()]
        if by == "all":
            log_q = log_softmax(scores)[own]
        p = np.eye(len(p))[p.argmax()] if hard else p
        losses.append(sign * (np.exp(log_q) * np.log(p.clip(1e-12)) if reverse else p * log_q).sum())
    return np.sum(losses) if summed else np.mean(losses)


def pair_loss(logp, response, posterior, beta, mean=True, sign=1, second=True, use_beta=True, summed=False, hard=False):
    scores = sums_of(logp, response, 2 * len(posterior), mean)
    delta = (beta if use_beta else 1) * sign * (scores[0::2] - scores[1::2])
    p = np.round(posterior) if hard else posterior.astype(float)
    losses = p * np.logaddexp(0, -delta) + second * (1 - p) * np.logaddexp(0, delta)
    return losses.sum() if summed else losses.mean()


def sums_of(logp, response, number, mean=False):
    parts = [logp[response == i].astype(float) for i in range(number)]
    return np.array([part.mean() if mean else part.sum() for part in parts])


def consistency(student, teacher, head, temperature, reverse=False, power=2, slope=1, mean=False, sign=1, through=True,
                cross=False):
    log_s, log_t = (log_softmax(states.astype(float) @ head.T / temperature) for states in (student, teacher))
    p, q = (log_s, log_t) if reverse else (log_t, log_s)
    terms = np.exp(p) * (-q if cross else p - q)
    kl = temperature**power * (terms.mean(-1) if mean else terms.sum(-1))
    gradient = sign * temperature**slope * (np.exp(log_s) - np.exp(log_t))
    return kl, gradient @ head if through else gradient


def total_loss(micro_batches, weights, by="counts", weighted=True, share=False):
    total = 0.0
    for name, weight in weights.items():
        sums, counts = np.array([part[name] for part in micro_batches]).T
        means = np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)
        everything = sum(part[key][1] for part in micro_batches for key in weights)
        value = {"counts": sums.sum() / max(counts.sum(), 1e-12), "mean": means.mean(), "sum": means.sum(),
                 "all": sums.sum() / everything, "nothing": sums.sum()}[by]
        total += (weight if weighted else 1.0) * value
    return total / sum(weights.values()) if share else total


# --- draws


def draw_tokens(rng):
    calls = []
    for rows, columns in ((4, 9), (7, 12), (1, 8)):
        prompt = rng.integers(1, columns // 2, rows)
        lengths = prompt + rng.integers(2, columns // 2, rows)
        ids = rng.integers(3, 50, (rows, columns))
        ids[np.arange(rows), lengths - 1] = 2
        ids[np.arange(columns) >= lengths[:, None]] = 2  # the padding has the id of the end of turn
        calls.append(Call((ids, prompt, lengths), torch=True))
    return calls


def draw_logprobs(rng):
    calls = []
    for n, vocabulary, hidden in ((5, 12, 8), (9, 30, 6), (4, 7, 10)):
        states = rng.normal(0, 3, (n, hidden)).astype(np.float32)
        head = rng.normal(0, 0.15, (vocabulary, hidden)).astype(np.float32)
        calls.append(Call((states, head, rng.integers(0, vocabulary, n)), torch=True))
    far, target = states.copy(), calls[-1].args[2]
    far[:, 0], head = 120, 0.3 * head  # no logit is far from the others: rounding errors of 120 must not matter
    head[:, 0] = rng.choice([-1, 1])  # all logits are near 120 or −120: exp overflows, or is 0, in float32
    apart = np.array([[300, 10, 299], [10, 300, 299]], np.float32)  # probabilities are 0, their logarithms are not −∞
    calls.append(Call((apart, np.eye(3, dtype=np.float32), np.array([1, 0])), torch=True))
    return [*calls, Call((far, head, target), torch=True)]


def token_values(rng, responses):
    """Return log-probabilities of tokens and the responses that they belong to, of 1 to 5 tokens each."""
    response = np.repeat(np.arange(responses), rng.integers(1, 6, responses))
    return -rng.uniform(0.1, 3, len(response)).astype(np.float32), response


def draw_fine_tune(rng):
    calls = []
    for responses in (3, 8, 12):
        posterior = rng.uniform(0, 1, responses).astype(np.float32)
        posterior[0] = LEAST * rng.uniform()
        calls.append(Call((*token_values(rng, responses), posterior), torch=True))
    return [*calls, Call((*token_values(rng, 4), np.zeros(4, np.float32)), torch=True)]


def draw_question(rng):
    calls = []
    for questions in (3, 6):
        counts = np.append(rng.integers(2, 5, questions), [2, 4])
        posterior = np.concatenate([rng.dirichlet(np.ones(k)) for k in counts]).astype(np.float32)
        question = np.repeat(np.arange(len(counts)), counts)
        calls.append(Call((*token_values(rng, len(question)), question, posterior), torch=True))
    return calls


def draw_pair(rng):
    calls = []
    for pairs in (2, 5, 9):
        posterior = rng.uniform(0.05, 0.95, pairs).astype(np.float32)
        calls.append(Call((*token_values(rng, 2 * pairs), posterior, float(rng.uniform(1.5, 4))), torch=True))
    logp, response = token_values(rng, 4)
    logp[response == rng.integers(0, 4)] -= 500  # σ(Δ) is 0 in float32
    return [*calls, Call((logp, response, np.array([0.3, 0.6], np.float32), 2.5), torch=True)]


def draw_consistency(rng):
    calls = []
    for temperature in rng.permutation([1.0, 2.0, 3.5]):
        student, teacher = rng.normal(0, 10, (2, 5, 8)).astype(np.float32)
        head = rng.normal(0, 0.1, (12, 8)).astype(np.float32)
        calls.append(Call((student, teacher, head, float(temperature)), torch=True))
    return calls


def draw_total(rng):
    calls = []
    for parts in (2, 3, 5):
        names = ("consistency", "task", "fine_tune")
        step = [{name: [float(rng.uniform(1, 9)), float(rng.integers(1, 9))] for name in names} for _ in range(parts)]
        step[0]["consistency"] = [0.0, 0.0]
        weights = {name: float(rng.uniform(0.1, 2)) for name in names}
        calls.append(Call((step, weights)))
    return [*calls, Call((step[:1], weights))]


# --- comparisons


def triples_feedback(got, expected, call):
    """Compare triples (row, position, target) in any order."""
    if isinstance(got, list | tuple) and len(got) == 3:
        arrays = [np.asarray(one) for one in got]
        if all(one.ndim == 1 and one.shape == arrays[0].shape and one.dtype.kind in "iuf" for one in arrays):
            got = tuple(np.stack(arrays)[:, np.lexsort((arrays[1], arrays[0]))])
    return TRIPLES(got, expected, call)


TRIPLES = recognize(supervised_tokens, {
    "off by one: this is the position of the target, not of the state that predicts it": dict(shift=0),
    "off by one: this is two positions before the target": dict(shift=2),
    "mask: the prompt is supervised": dict(first=-1),
    "mask: the padding is supervised": dict(last=1),
    "mask: prompt and padding are supervised": dict(first=-1, last=1),
    "mask: the end of turn is not supervised": dict(last=-1),
    "mask: the first token of a response is not supervised": dict(first=1),
    "mask: the end of turn is taken for padding, which has the same id": dict(pad_by_id=True),
}, ("row", "position", "target"))  # fmt: skip


# --- parts

BLOCKED = tuple(
    f"icft_lite.modeling.{name}"
    for name in ("losses._TokenLogProb", "losses._TokenKL", "losses.token_logprobs", "losses.token_kl",
                 "losses.fine_tune_loss", "losses.question_loss", "losses.pair_loss", "losses.icft_losses",
                 "scoring.score_responses")
)  # fmt: skip
part = partial(make_part, "A5", BLOCKED)

SIGN = "sign: a negative log-likelihood has the opposite sign"

ASSIGNMENT = Assignment(
    id="A5",
    title="The three losses",
    version="1.0" + SUFFIX,
    lessons=("06_losses",),
    constants={"least": LEAST},
    parts=(
        part(1, "Supervised tokens", 3, 20, supervised_tokens, draw_tokens, compare=triples_feedback),
        part(2, "Token log-probabilities", 3, 15, token_logprobs, draw_logprobs, {
            "log: these are probabilities": dict(log=False),
            "sign: these are negative log-likelihoods": dict(sign=-1),
            "axis: the softmax is over tokens, not over the vocabulary": dict(axis=0),
            "softmax: these are logits, not log-probabilities": dict(normalized=False),
            "off by one: each token has the target of its neighbor": dict(shift=1),
            "off by one: each token has the target of its other neighbor": dict(shift=-1),
        }),
        part(3, "L_fine-tune for soft labels", 2, 10, fine_tune_loss, draw_fine_tune, {
            "weight: all tokens count the same": dict(weighted=False),
            "normalizer: the sum is divided by the number of tokens, not by the sum of weights": dict(by="tokens"),
            "normalizer: the sum is divided by the number of responses": dict(by="responses"),
            "normalizer: the weight of a response counts once, not for each of its tokens": dict(by="posterior"),
            "normalizer: the mean is over responses, not over tokens": dict(by="response"),
            "normalizer: the sum is not divided": dict(by="nothing"),
            f"weight: tokens with a weight of {LEAST} or less count": dict(least=0),
            SIGN: dict(sign=1),
        }),
        part(4, "L_task for questions", 3, 20, question_loss, draw_question, {
            "scores: the mean over an option's tokens is taken, not their sum": dict(mean=True),
            "mask: options that do not exist take part in the softmax": dict(by="padded"),
            "mask: the softmax is over the options of all questions": dict(by="all"),
            "softmax: the scores are not normalized over the options": dict(by="none"),
            "direction: posterior and model are exchanged": dict(reverse=True),
            "label: only the most likely option counts": dict(hard=True),
            "normalizer: this is the sum over the questions, not their mean": dict(summed=True),
            SIGN: dict(sign=1),
        }),
        part(5, "L_task for pairs", 3, 15, pair_loss, draw_pair, {
            "length: the responses are scored by sums, not by means per token": dict(mean=False),
            "sign: Δ has the opposite sign, or p̃ belongs to the second response": dict(sign=-1),
            "label: the term with 1 − p̃ is missing": dict(second=False),
            "label: the posterior is rounded": dict(hard=True),
            "scale: beta is not used": dict(use_beta=False),
            "normalizer: this is the sum over the pairs, not their mean": dict(summed=True),
        }),
        part(6, "L_consistency and its gradient", 4, 25, consistency, draw_consistency, {
            "direction: this is KL(student ‖ teacher)": dict(reverse=True),
            "scale: the factor T² is missing": dict(power=0, slope=-1),
            "scale: the factor is T, not T²": dict(power=1, slope=0),
            "normalizer: the mean over the vocabulary is taken, not the sum": dict(mean=True),
            "entropy: this is the cross-entropy with the teacher; its entropy is not subtracted": dict(cross=True),
            "scale: the gradient has a wrong power of T": dict(slope=2),
            "sign: the gradient points the other way": dict(sign=-1),
            "head: this is the gradient with respect to the logits": dict(through=False),
        }, ("kl", "gradient")),
        part(7, "The total of a step", 2, 10, total_loss, draw_total, {
            "normalizer: the means of the micro-batches are averaged": dict(by="mean"),
            "normalizer: the means of the micro-batches are summed": dict(by="sum"),
            "normalizer: all losses are divided by the same count": dict(by="all"),
            "normalizer: the sums are not divided": dict(by="nothing"),
            "weight: the weights are not used": dict(weighted=False),
            "weight: the total is divided by the sum of the weights": dict(share=True),
        }),
    ),
)  # fmt: skip
