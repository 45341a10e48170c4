"""A5: wrong answers with the kind of feedback that each must get, and right answers written in another way.

    WRONG = {part: {name of the mistake: (function, words of the feedback)}}        RIGHT = {part: [function, …]}
"""

import math

import torch
import torch.nn.functional as F

# --- 1


def tokens_in_loops(ids, prompt, lengths, first=0, last=0, shift=1):
    triples = [
        (row, at - shift, int(ids[row, at]))
        for row in range(len(ids))
        for at in range(int(prompt[row]) + first, int(lengths[row]) + last)
    ]
    return torch.tensor(triples).T.unbind()


def tokens_last_row_first(ids, prompt, lengths):
    return [values.flip(0) for values in tokens_in_loops(ids, prompt, lengths)]


def tokens_shifted(ids, prompt, lengths):
    return tokens_in_loops(ids, prompt, lengths, shift=0)


def tokens_of_prompt(ids, prompt, lengths):
    return tokens_in_loops(ids, torch.ones_like(prompt), lengths)


def tokens_of_padding(ids, prompt, lengths):
    return tokens_in_loops(ids, prompt, torch.full_like(lengths, ids.shape[1]))


def tokens_without_end(ids, prompt, lengths):
    return tokens_in_loops(ids, prompt, lengths, last=-1)


def tokens_without_first(ids, prompt, lengths):
    return tokens_in_loops(ids, prompt, lengths, first=1)


def tokens_masked_by_id(ids, prompt, lengths):
    row, position, target = tokens_of_padding(ids, prompt, lengths)
    real = target != ids[0, -1]
    return row[real], position[real], target[real]


# --- 2


def logprobs_by_cross_entropy(states, head, target):
    return -F.cross_entropy(states @ head.T, target, reduction="none")


def logprobs_in_float64(states, head, target):
    z = states.double() @ head.double().T
    return torch.stack([row[t] - row.max() - (row - row.max()).exp().sum().log() for row, t in zip(z, target)])


def logprobs_without_log(states, head, target):
    return logprobs_by_cross_entropy(states, head, target).exp()


def logprobs_negative(states, head, target):
    return -logprobs_by_cross_entropy(states, head, target)


def logprobs_over_tokens(states, head, target):
    return (states @ head.T).log_softmax(0)[torch.arange(len(target)), target]


def logits_only(states, head, target):
    return (states @ head.T)[torch.arange(len(target)), target]


def logprobs_overflow(states, head, target):
    p = (states @ head.T).exp()
    return (p[torch.arange(len(target)), target] / p.sum(1)).log()


def logprobs_of_neighbor(states, head, target):
    return logprobs_by_cross_entropy(states, head, target.roll(1))


# --- 3


def fine_tune_in_loops(logp, response, posterior):
    total = weights = 0.0
    for value, i in zip(logp, response):
        total = total - posterior[i] * value
        weights += float(posterior[i])
    return total / weights if weights else 0.0


def fine_tune_unweighted(logp, response, posterior):
    return -logp.mean()


def fine_tune_over_tokens(logp, response, posterior):
    return -(posterior[response] * logp).mean()


def fine_tune_summed(logp, response, posterior):
    return -(posterior[response] * logp).sum()


def fine_tune_over_responses(logp, response, posterior):
    sums = torch.zeros(len(posterior)).index_add(0, response, logp)
    return -(posterior * sums / torch.bincount(response)).sum() / posterior.sum().clamp_min(1e-12)


def fine_tune_divides_by_zero(logp, response, posterior):
    return -(posterior[response] * logp).sum() / posterior[response].sum()


# --- 4


def question_by_table(logp, response, question, posterior, mean=False, empty=-math.inf, direction="label"):
    scores = torch.zeros(len(question)).index_add(0, response, logp)
    scores = scores / torch.bincount(response) if mean else scores
    counts = torch.bincount(question)
    column = torch.arange(len(question)) - (counts.cumsum(0) - counts)[question]
    table = torch.full((len(counts), int(counts.max())), empty).index_put((question, column), scores)
    labels = torch.zeros(table.shape).index_put((question, column), posterior)
    logq = table.log_softmax(1)
    if direction == "model":
        return -(logq.exp() * labels.clamp_min(1e-12).log()).sum(1).mean()
    return -(labels * logq.masked_fill(labels == 0, 0)).sum(1).mean()


def question_by_means(logp, response, question, posterior):
    return question_by_table(logp, response, question, posterior, mean=True)


def question_with_padding(logp, response, question, posterior):
    return question_by_table(logp, response, question, posterior, empty=0.0)


def question_reversed(logp, response, question, posterior):
    return question_by_table(logp, response, question, posterior, direction="model")


def question_over_all(logp, response, question, posterior):
    scores = torch.zeros(len(question)).index_add(0, response, logp)
    return -(posterior * scores.log_softmax(0)).sum() / (question[-1] + 1)


def question_summed(logp, response, question, posterior):
    return question_by_table(logp, response, question, posterior) * (question[-1] + 1)


def question_without_softmax(logp, response, question, posterior):
    scores = torch.zeros(len(question)).index_add(0, response, logp)
    return -(posterior * scores).sum() / (question[-1] + 1)


# --- 5


def pair_in_loops(logp, response, posterior, beta, mean=True, second=True):
    losses = []
    for i, p in enumerate(posterior.double()):
        a, b = (logp[response == k].double() for k in (2 * i, 2 * i + 1))
        delta = beta * (a.mean() - b.mean() if mean else a.sum() - b.sum())
        losses.append(p * torch.log1p(torch.exp(-delta)) if delta > 0 else p * (torch.log1p(torch.exp(delta)) - delta))
        if second:
            losses[-1] = losses[-1] + (1 - p) * F.softplus(delta)
    return torch.stack(losses).mean()


def pair_by_cross_entropy(logp, response, posterior, beta):
    means = torch.zeros(2 * len(posterior)).index_add(0, response, logp) / torch.bincount(response)
    return F.binary_cross_entropy_with_logits(beta * (means[::2] - means[1::2]), posterior)


def pair_by_sums(logp, response, posterior, beta):
    return pair_in_loops(logp, response, posterior, beta, mean=False)


def pair_first_term(logp, response, posterior, beta):
    return pair_in_loops(logp, response, posterior, beta, second=False)


def pair_exchanged(logp, response, posterior, beta):
    return pair_by_cross_entropy(logp, response, 1 - posterior, beta)


def pair_without_beta(logp, response, posterior, beta):
    return pair_by_cross_entropy(logp, response, posterior, 1.0)


def pair_summed(logp, response, posterior, beta):
    return pair_by_cross_entropy(logp, response, posterior, beta) * len(posterior)


def pair_overflows(logp, response, posterior, beta):
    means = torch.zeros(2 * len(posterior)).index_add(0, response, logp) / torch.bincount(response)
    p = torch.sigmoid(beta * (means[::2] - means[1::2]))
    return -(posterior * p.log() + (1 - posterior) * (1 - p).log()).mean()


# --- 6


def consistency_by_autograd(student, teacher, head, temperature, power=2, reverse=False):
    student = student.detach().clone().requires_grad_()
    log_s, log_t = (F.log_softmax(states @ head.T / temperature, -1) for states in (student, teacher))
    p, q = (log_s, log_t) if reverse else (log_t, log_s)
    kl = temperature**power * F.kl_div(q, p, log_target=True, reduction="none").sum(-1)
    return kl.detach(), torch.autograd.grad(kl.sum(), student)[0]


def consistency_in_float64(student, teacher, head, temperature):
    return consistency_by_autograd(student.double(), teacher.double(), head.double(), temperature)


def consistency_reversed(student, teacher, head, temperature):
    return consistency_by_autograd(student, teacher, head, temperature, reverse=True)


def consistency_without_t2(student, teacher, head, temperature):
    return consistency_by_autograd(student, teacher, head, temperature, power=0)


def consistency_over_vocabulary(student, teacher, head, temperature):
    kl, gradient = consistency_by_autograd(student, teacher, head, temperature)
    return kl / len(head), gradient / len(head)


def consistency_mean_over_tokens(student, teacher, head, temperature):
    kl, gradient = consistency_by_autograd(student, teacher, head, temperature)
    return kl.mean(), gradient


def consistency_to_logits(student, teacher, head, temperature):
    p, q = ((states @ head.T / temperature).softmax(-1) for states in (student, teacher))
    return consistency_by_autograd(student, teacher, head, temperature)[0], temperature * (p - q)


def consistency_squared_gradient(student, teacher, head, temperature):
    kl, gradient = consistency_by_autograd(student, teacher, head, temperature)
    return kl, temperature * gradient


def consistency_descends(student, teacher, head, temperature):
    kl, gradient = consistency_by_autograd(student, teacher, head, temperature)
    return kl, -gradient


# --- 7


def total_by_arrays(micro_batches, weights):
    both = torch.tensor([[part[name] for part in micro_batches] for name in weights], dtype=torch.float64).sum(1)
    means = both[:, 0] / torch.where(both[:, 1] == 0, 1.0, both[:, 1])
    return float(means @ torch.tensor(list(weights.values()), dtype=torch.float64))


def mean_of(part):
    return part[0] / part[1] if part[1] else 0.0


def total_mean_of_means(micro_batches, weights):
    return sum(w * sum(mean_of(part[k]) for part in micro_batches) / len(micro_batches) for k, w in weights.items())


def total_sum_of_means(micro_batches, weights):
    return sum(w * sum(mean_of(part[k]) for part in micro_batches) for k, w in weights.items())


def total_unweighted(micro_batches, weights):
    return total_by_arrays(micro_batches, dict.fromkeys(weights, 1.0))


def total_of_sums(micro_batches, weights):
    return sum(w * sum(part[k][0] for part in micro_batches) for k, w in weights.items())


def total_divides_by_zero(micro_batches, weights):
    sums, counts = ({k: sum(part[k][i] for part in micro_batches) for k in weights} for i in (0, 1))
    return sum(w * sums[k] / counts[k] for k, w in weights.items())


WRONG = {
    "A5.1": {
        "labels shifted by one": (tokens_shifted, "off by one"),
        "the prompt is supervised": (tokens_of_prompt, "mask: the prompt"),
        "the padding is supervised": (tokens_of_padding, "mask: the padding"),
        "no end of turn": (tokens_without_end, "mask: the end of turn"),
        "no first token": (tokens_without_first, "mask: the first token"),
        "padding by its id": (tokens_masked_by_id, "mask: the end of turn"),
    },
    "A5.2": {
        "probabilities": (logprobs_without_log, "log"),
        "negative log-likelihoods": (logprobs_negative, "sign"),
        "softmax over tokens": (logprobs_over_tokens, "axis"),
        "logits": (logits_only, "softmax"),
        "overflow": (logprobs_overflow, "not finite"),
        "targets shifted by one": (logprobs_of_neighbor, "off by one"),
    },
    "A5.3": {
        "all tokens alike": (fine_tune_unweighted, "weight"),
        "mean over all tokens": (fine_tune_over_tokens, "normalizer"),
        "a sum": (fine_tune_summed, "normalizer"),
        "mean over responses": (fine_tune_over_responses, "normalizer"),
        "0 divided by 0": (fine_tune_divides_by_zero, "not finite"),
    },
    "A5.4": {
        "mean over tokens": (question_by_means, "scores"),
        "padding in the softmax": (question_with_padding, "mask"),
        "softmax over the batch": (question_over_all, "mask"),
        "cross-entropy in the wrong direction": (question_reversed, "direction"),
        "a sum over questions": (question_summed, "normalizer"),
        "no softmax": (question_without_softmax, "softmax"),
    },
    "A5.5": {
        "sums over tokens": (pair_by_sums, "length"),
        "one term": (pair_first_term, "label"),
        "the second is better": (pair_exchanged, "sign"),
        "no beta": (pair_without_beta, "scale"),
        "a sum over pairs": (pair_summed, "normalizer"),
        "log of a rounded sigmoid": (pair_overflows, "not finite"),
    },
    "A5.6": {
        "KL in the wrong direction": (consistency_reversed, "direction"),
        "missing T²": (consistency_without_t2, "scale"),
        "mean over the vocabulary": (consistency_over_vocabulary, "normalizer"),
        "mean over tokens": (consistency_mean_over_tokens, "shape"),
        "gradient of the logits": (consistency_to_logits, "head"),
        "gradient with T²": (consistency_squared_gradient, "scale"),
        "the direction of descent": (consistency_descends, "sign"),
    },
    "A5.7": {
        "mean of means": (total_mean_of_means, "normalizer"),
        "sum of means": (total_sum_of_means, "normalizer"),
        "no weights": (total_unweighted, "weight"),
        "sums": (total_of_sums, "normalizer"),
        "0 divided by 0": (total_divides_by_zero, "error: ZeroDivisionError"),
    },
}

RIGHT = {
    "A5.1": [tokens_in_loops, tokens_last_row_first],
    "A5.2": [logprobs_by_cross_entropy, logprobs_in_float64],
    "A5.3": [fine_tune_in_loops],
    "A5.4": [question_by_table],
    "A5.5": [pair_by_cross_entropy, pair_in_loops],
    "A5.6": [consistency_by_autograd, consistency_in_float64],
    "A5.7": [total_by_arrays],
}
