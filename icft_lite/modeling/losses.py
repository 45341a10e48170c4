"""The three losses and their sum: pure functions of tensors.

    L_total = L_consistency + L_task + L_fine-tune                      (arXiv 2502.00832)

All of them start from hidden states at supervised positions. LoRA leaves the output head frozen, so the
gradient with respect to the hidden state can be taken in the forward pass, chunk by chunk: what is kept
for backward is [tokens, hidden], and [tokens, vocab] never exists as a whole.
"""

import math

import torch
import torch.nn.functional as F

CHUNK, LOGITS = 1024, 2**25  # tokens whose logits exist at one time; numbers that those may be, 128 MiB in fp32


def chunk_size(vocab, at_once=1):
    """How many tokens may have their logits at one time; at_once: rows of logits that each needs."""
    return max(1, min(CHUNK, LOGITS // vocab) // at_once)


def chunks(n, size):
    """Slices of n tokens, `size` in each."""
    return (slice(i, i + size) for i in range(0, n, size))


class _TokenLogProb(torch.autograd.Function):
    """log p(target): its gradient w.r.t. the hidden state is W[target] − softmax·W, scaled per token."""

    @staticmethod
    def forward(ctx, hidden, weight, target):
        logp = torch.empty(len(target), dtype=torch.float32, device=hidden.device)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for part in chunks(len(target), chunk_size(len(weight))):
            logits = (hidden[part] @ weight.T).float()  # [chunk, vocab], worked on in place: it is the largest by far
            top = logits.amax(-1, keepdim=True)
            right = logits.gather(1, target[part, None])
            p = logits.sub_(top).exp_()
            z = p.sum(-1, keepdim=True)
            logp[part] = (right - top - z.log()).squeeze(1)
            if grad is not None:
                grad[part] = weight[target[part]] - p.div_(z).to(weight.dtype) @ weight
        ctx.save_for_backward(grad)
        return logp

    @staticmethod
    def backward(ctx, upstream):
        (grad,) = ctx.saved_tensors
        return (upstream[:, None] * grad).to(grad.dtype), None, None


class _TokenKL(torch.autograd.Function):
    """T²·KL(teacher ‖ student): gradient w.r.t. the student's hidden state T·(p_student − p_teacher)·W."""

    @staticmethod
    def forward(ctx, hidden, teacher, weight, temperature):
        kl = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for part in chunks(len(hidden), chunk_size(len(weight), at_once=2)):
            both = torch.cat([hidden[part], teacher[part].to(hidden.dtype)])  # one pass over the head
            logits = (both @ weight.T).float().div_(temperature)
            student, target = logits.sub_(logits.logsumexp(-1, keepdim=True)).chunk(2)
            p = target.exp()
            target.sub_(student).mul_(p)
            student.exp_().sub_(p)
            # p·(log p − log q) + (q − p): the second part sums to 0, and cancels what rounding log Z does to the first
            kl[part] = temperature**2 * target.add_(student).sum(-1)
            if grad is not None:
                grad[part] = temperature * (student.to(weight.dtype) @ weight)
            del logits, student, target, p  # before the next chunk's are made
        ctx.save_for_backward(grad)
        return kl

    @staticmethod
    def backward(ctx, upstream):
        (grad,) = ctx.saved_tensors
        return (upstream[:, None] * grad).to(grad.dtype), None, None, None


def token_logprobs(hidden, weight, target):
    """log p(target | hidden) through a frozen head.

    hidden [N, hidden], weight [vocab, hidden], target [N] int64 → [N] float32."""
    return _TokenLogProb.apply(hidden, weight, target)


def token_kl(hidden, teacher, weight, temperature=1.0, spread=None):
    """T²·KL(teacher ‖ student) per token over the full vocabulary (Hinton et al., 2015, for T²).

    hidden, teacher [N, hidden], weight [vocab, hidden] → [N] float32. T = inf is its limit, half the variance over the
    vocabulary of how far the logits are apart; that needs no logits, only `head_spread(weight)` (spread, if given)."""
    if math.isinf(temperature):
        apart = (hidden - teacher.to(hidden.dtype)).float()
        return 0.5 * ((apart @ (head_covariance(weight) if spread is None else spread)) * apart).sum(-1)
    return _TokenKL.apply(hidden, teacher, weight, temperature)


def head_covariance(weight):
    """Covariance of the head's rows over the vocabulary: [vocab, hidden] → [hidden, hidden] float32."""
    weight = weight.detach()  # in parts, since `torch.cov` would copy the whole head, in fp32 and centred
    second = sum(part.float().T @ part.float() for part in weight.split(8192)) / len(weight)
    mean = weight.mean(0, dtype=torch.float32)
    return second - torch.outer(mean, mean)


def response_sums(token_values, response, n_responses):
    """Sum token values by response: [N], [N] int64 → [n_responses]."""
    return token_values.new_zeros(n_responses).index_add(0, response, token_values)


def fine_tune_loss(token_logp, token_weight):
    """Σ weight·(−log p) over tokens (sum, not mean: the caller divides by the step's token weights).

    token_logp, token_weight [N] → scalar. On a weak question a token's weight is p̃ of its option, which
    makes this the expected NLL Σ_k p̃_k·NLL(option k)."""
    return -(token_weight * token_logp).sum()


def question_loss(scores, posterior, mask):
    """Noise-aware cross-entropy −Σ_k p̃_k·log softmax(scores)_k, summed over questions (Ratner et al., 2016).

    scores, posterior [questions, options], mask bool, True where an option exists → scalar.
    With one-hot p̃ this is F.cross_entropy."""
    logp = F.log_softmax(scores.masked_fill(~mask, float("-inf")), -1)
    return -(posterior * logp.masked_fill(~mask, 0.0)).sum()


def pair_loss(mean_first, mean_second, posterior_first, beta=2.0):
    """−p̃·log σ(Δ) − (1−p̃)·log σ(−Δ), Δ = β·(mean_first − mean_second), summed over pairs.

    mean_* [pairs]: length-normalised log-probabilities; posterior_first [pairs] → scalar. With p̃ in {0, 1}
    this is the length-normalised, reference-free pairwise logistic loss (SimPO, Meng et al., 2024, margin 0)."""
    delta = beta * (mean_first - mean_second)
    return -(posterior_first * F.logsigmoid(delta) + (1 - posterior_first) * F.logsigmoid(-delta)).sum()


def pad_options(values, example, n_examples):
    """Lay response values out by example: [responses] → [examples, most options], and the bool mask."""
    counts = torch.bincount(example, minlength=n_examples)
    width = int(counts.max())
    first = torch.cumsum(counts, 0) - counts
    column = torch.arange(len(example), device=example.device) - first[example]
    out = values.new_zeros(n_examples, width).index_put((example, column), values)
    return out, torch.arange(width, device=example.device) < counts[:, None]


def icft_losses(hidden, weight, batch, denominators, temperature=1.0, beta=2.0, spread=None):
    """The three losses of one micro-batch, each divided by its own denominator of the *whole* step.

    hidden [rows, length, hidden] final hidden states; weight [vocab, hidden]; `batch` from
    `trainer.StageBatches` (`encoding.join` plus `token_weight` [N], `posterior` [responses],
    `weak_question`, `weak_pair` int64 example indices, `teacher` [M, hidden] and `teacher_token` [M]).
    `denominators`: dict of floats; `spread`: see `token_kl`. Returns {"consistency", "task", "fine_tune"}: scalars."""
    states = hidden[batch["row"], batch["position"]]  # [N, hidden]: only what is supervised
    # In fp32: fp16 sums reach infinity, and 0 · infinity is no zero; nor is its gradient, once scaled and divided.
    zero = states[:1].float().sum() * 0.0
    task, consistency = zero, zero

    scored = batch["scored"]  # tokens whose log-probability some loss needs
    logp = states.new_zeros(len(states), dtype=torch.float32)
    if len(scored):
        logp = logp.index_put((scored,), token_logprobs(states[scored], weight, batch["target"][scored]))
    fine_tune = fine_tune_loss(logp, batch["token_weight"]) + zero  # of memory rows alone: 0, yet with a gradient

    n_examples = int(batch["example"][-1]) + 1
    sums = response_sums(logp, batch["response"], len(batch["example"]))
    counts = response_sums(torch.ones_like(logp), batch["response"], len(batch["example"]))
    if len(batch["weak_question"]):
        scores, mask = pad_options(sums, batch["example"], n_examples)
        posterior, _ = pad_options(batch["posterior"], batch["example"], n_examples)
        at = batch["weak_question"]
        task = task + question_loss(scores[at], posterior[at], mask[at])
    if len(batch["weak_pair"]):
        means, _ = pad_options(sums / counts, batch["example"], n_examples)
        posterior, _ = pad_options(batch["posterior"], batch["example"], n_examples)
        at = batch["weak_pair"]
        task = task + pair_loss(means[at, 0], means[at, 1], posterior[at, 0], beta)
    if len(batch["teacher_token"]):
        consistency = token_kl(states[batch["teacher_token"]], batch["teacher"], weight, temperature, spread).sum()

    parts = dict(consistency=consistency, task=task, fine_tune=fine_tune)
    return {name: value / max(denominators[name], 1e-12) for name, value in parts.items()}
