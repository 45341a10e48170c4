"""The three losses and their sum, as functions of tensors without side effects.

    L_total = L_consistency + L_task + L_fine-tune                      (arXiv 2502.00832)

All of them start from the hidden states at the supervised positions. The output head is frozen, so the gradient with
respect to a hidden state can be computed in the forward pass, a chunk of tokens at a time. Only [tokens, hidden] is
saved for the backward pass, and the logits [tokens, vocab] never exist as a whole.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F

LOSSES = ("consistency", "task", "fine_tune")
"""Names of the losses. They are keys of `icft_losses`' result, of a run's history and of reports."""
MAX_CHUNK_TOKENS = 1024
"""Maximum number of tokens whose logits are in memory at one time."""
MAX_CHUNK_LOGITS = 2**25
"""Maximum number of logits in memory at one time (128 MiB in float32)."""


def chunk_size(vocab: int, logits_per_token: int = 1) -> int:
    """Return how many tokens may have their logits in memory at one time.

    logits_per_token: how many vectors of logits [vocab] each token needs.
    """
    return max(1, min(MAX_CHUNK_TOKENS, MAX_CHUNK_LOGITS // vocab) // logits_per_token)


def chunks(num_tokens: int, size: int) -> Iterator[slice]:
    """Return slices of `size` tokens that cover `num_tokens` tokens."""
    return (slice(start, start + size) for start in range(0, num_tokens, size))


class _TokenLogProb(torch.autograd.Function):
    """log p(target). Its gradient with respect to the hidden state is W[target] − softmax·W."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        logp = torch.empty(len(target), dtype=torch.float32, device=hidden.device)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for part in chunks(len(target), chunk_size(len(weight))):
            logits = (hidden[part] @ weight.T).float()  # [chunk, vocab]: the largest tensor, so it is changed in place
            largest = logits.amax(-1, keepdim=True)
            of_target = logits.gather(1, target[part, None])
            p = logits.sub_(largest).exp_()
            z = p.sum(-1, keepdim=True)
            logp[part] = (of_target - largest - z.log()).squeeze(1)
            if grad is not None:
                grad[part] = weight[target[part]] - p.div_(z).to(weight.dtype) @ weight
        ctx.save_for_backward(grad)
        return logp

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return (upstream[:, None] * grad).to(grad.dtype), None, None


class _TokenKL(torch.autograd.Function):
    """T²·KL(teacher ‖ student). Its gradient w.r.t. the student's hidden state is T·(p_student − p_teacher)·W."""

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, teacher: torch.Tensor, weight: torch.Tensor, temperature: float
    ) -> torch.Tensor:
        kl = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        grad = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for part in chunks(len(hidden), chunk_size(len(weight), logits_per_token=2)):
            both = torch.cat([hidden[part], teacher[part].to(hidden.dtype)])  # one product with the head for both
            logits = (both @ weight.T).float().div_(temperature)
            student, target = logits.sub_(logits.logsumexp(-1, keepdim=True)).chunk(2)
            p = target.exp()
            target.sub_(student).mul_(p)
            student.exp_().sub_(p)
            # p·(log p − log q) + (q − p): the second term sums to 0, and cancels rounding errors of log Z in the first
            kl[part] = temperature**2 * target.add_(student).sum(-1)
            if grad is not None:
                grad[part] = temperature * (student.to(weight.dtype) @ weight)
            del logits, student, target, p  # free them before the next chunk's are allocated
        ctx.save_for_backward(grad)
        return kl

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad,) = ctx.saved_tensors
        return (upstream[:, None] * grad).to(grad.dtype), None, None, None


def token_logprobs(hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return log p(target | hidden) through a frozen output head.

    hidden [N, hidden], weight [vocab, hidden], target [N] int64 → [N] float32.
    """
    return _TokenLogProb.apply(hidden, weight, target)


def token_kl(
    hidden: torch.Tensor,
    teacher: torch.Tensor,
    weight: torch.Tensor,
    temperature: float = 1.0,
    covariance: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return T²·KL(teacher ‖ student) of each token over the whole vocabulary.

    hidden, teacher [N, hidden], weight [vocab, hidden] → [N] float32. The factor T² keeps the size of the gradient
    independent of T (Hinton et al., 2015). `temperature = math.inf` is the limit T → ∞: half the variance, over the
    vocabulary, of the difference of the logits. The limit needs no logits, only `head_covariance(weight)`, which can be
    given as `covariance` [hidden, hidden] to compute it once.
    """
    if math.isinf(temperature):
        difference = (hidden - teacher.to(hidden.dtype)).float()
        covariance = head_covariance(weight) if covariance is None else covariance
        return 0.5 * ((difference @ covariance) * difference).sum(-1)
    return _TokenKL.apply(hidden, teacher, weight, temperature)


def head_covariance(weight: torch.Tensor) -> torch.Tensor:
    """Return the covariance of the rows of the output head over the vocabulary.

    weight [vocab, hidden] → [hidden, hidden] float32.
    """
    weight = weight.detach()  # in parts, because `torch.cov` would make a centered float32 copy of the whole head
    second_moment = sum(part.float().T @ part.float() for part in weight.split(8192)) / len(weight)
    mean = weight.mean(0, dtype=torch.float32)
    return second_moment - torch.outer(mean, mean)


def response_sums(token_values: torch.Tensor, response: torch.Tensor, num_responses: int) -> torch.Tensor:
    """Return the sum of the token values of each response.

    token_values [N], response [N] int64 → [num_responses].
    """
    return token_values.new_zeros(num_responses).index_add(0, response, token_values)


def fine_tune_loss(token_logp: torch.Tensor, token_weight: torch.Tensor) -> torch.Tensor:
    """Return Σ weight·(−log p) over tokens: a sum, which the caller divides by the step's normalizer.

    token_logp, token_weight [N] → scalar. On a weak question, the weight of a token is p̃ of its option. This makes the
    loss the expected NLL, Σ_k p̃_k·NLL(option k).
    """
    return -(token_weight * token_logp).sum()


def question_loss(scores: torch.Tensor, posterior: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the noise-aware cross-entropy −Σ_k p̃_k·log softmax(scores)_k, summed over questions.

    scores, posterior [questions, options]; mask bool, True where an option exists → scalar. Minimizing it makes the
    model match the soft label's distribution over the options (Ratner et al., 2016). With one-hot p̃ it equals
    `F.cross_entropy`.
    """
    logp = F.log_softmax(scores.masked_fill(~mask, float("-inf")), -1)
    return -(posterior * logp.masked_fill(~mask, 0.0)).sum()


def pair_loss(
    mean_first: torch.Tensor, mean_second: torch.Tensor, posterior_first: torch.Tensor, beta: float = 2.0
) -> torch.Tensor:
    """Return −p̃·log σ(Δ) − (1−p̃)·log σ(−Δ), Δ = β·(mean_first − mean_second), summed over pairs.

    mean_first, mean_second [pairs]: mean log-probability per token; posterior_first [pairs] → scalar. With p̃ in {0, 1}
    it is the length-normalized, reference-free pairwise logistic loss (SimPO, Meng et al., 2024, margin 0).
    """
    delta = beta * (mean_first - mean_second)
    return -(posterior_first * F.logsigmoid(delta) + (1 - posterior_first) * F.logsigmoid(-delta)).sum()


def pad_options(values: torch.Tensor, example: torch.Tensor, num_examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Arrange one value per response by example.

    values [responses], example [responses] int64, in ascending order. Returns (padded values [examples, most options],
    bool mask of the options that exist).
    """
    counts = torch.bincount(example, minlength=num_examples)
    width = int(counts.max())
    first = torch.cumsum(counts, 0) - counts
    column = torch.arange(len(example), device=example.device) - first[example]
    padded = values.new_zeros(num_examples, width).index_put((example, column), values)
    return padded, torch.arange(width, device=example.device) < counts[:, None]


def icft_losses(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    batch: Mapping[str, Any],
    normalizers: Mapping[str, float],
    temperature: float = 1.0,
    beta: float = 2.0,
    covariance: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:
    """Return the three losses of one micro-batch: {"consistency", "task", "fine_tune"}, scalars.

    Each is divided by its normalizer of the *whole* optimizer step, so that the sum over micro-batches does not depend
    on how the step is split.

    hidden [rows, columns, hidden]: final hidden states. weight [vocab, hidden]: the output head. batch: from
    `training.batches.collate`, that is `packing.join_batch` plus `token_weight` [N], `posterior` [responses],
    `weak_question` and `weak_pair` (int64 indices of examples), `scored` (int64 indices of tokens whose log-probability
    is needed), `teacher` [M, hidden] and `teacher_token` [M] (int64 indices of tokens). temperature, covariance: see
    `token_kl`. beta: see `pair_loss`.
    """
    states = hidden[batch["row"], batch["position"]]  # [N, hidden]: the supervised positions only
    # A zero that is connected to the graph. In float32, since a float16 sum can overflow to infinity, and 0 · infinity
    # is NaN, in the value as well as in the scaled gradient.
    zero = states[:1].float().sum() * 0.0
    task, consistency = zero, zero

    scored = batch["scored"]
    logp = states.new_zeros(len(states), dtype=torch.float32)
    if len(scored):
        logp = logp.index_put((scored,), token_logprobs(states[scored], weight, batch["target"][scored]))
    # Without scored tokens (memory examples only) the loss is 0; adding `zero` gives it a gradient nevertheless.
    fine_tune = fine_tune_loss(logp, batch["token_weight"]) + zero

    num_examples = int(batch["example"][-1]) + 1
    sums = response_sums(logp, batch["response"], len(batch["example"]))
    counts = response_sums(torch.ones_like(logp), batch["response"], len(batch["example"]))
    if len(batch["weak_question"]):
        scores, mask = pad_options(sums, batch["example"], num_examples)
        posterior, _ = pad_options(batch["posterior"], batch["example"], num_examples)
        chosen = batch["weak_question"]
        task = task + question_loss(scores[chosen], posterior[chosen], mask[chosen])
    if len(batch["weak_pair"]):
        means, _ = pad_options(sums / counts, batch["example"], num_examples)
        posterior, _ = pad_options(batch["posterior"], batch["example"], num_examples)
        chosen = batch["weak_pair"]
        task = task + pair_loss(means[chosen, 0], means[chosen, 1], posterior[chosen, 0], beta)
    if len(batch["teacher_token"]):
        student = states[batch["teacher_token"]]
        consistency = token_kl(student, batch["teacher"], weight, temperature, covariance).sum()

    losses = dict(consistency=consistency, task=task, fine_tune=fine_tune)
    return {name: loss / max(normalizers[name], 1e-12) for name, loss in losses.items()}
