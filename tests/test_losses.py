"""The losses: closed forms, agreement with plain torch, and what must not change them."""

import pytest
import torch
import torch.nn.functional as F

from icft_lite.modeling import losses
from icft_lite.modeling.encoding import Encoded, supervise_prompt
from icft_lite.modeling.losses import head_covariance, icft_losses, pair_loss, question_loss, token_kl, token_logprobs
from icft_lite.training.batches import TrainingItem, collate, normalizers, split_micro_batches

VOCAB, HIDDEN = 50, 16


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def random_states(n):
    return torch.randn(n, HIDDEN, requires_grad=True), torch.randn(VOCAB, HIDDEN)


@pytest.mark.parametrize("chunk", [1, 3, 1024])
def test_token_logprobs_equal_log_softmax_in_value_and_gradient(monkeypatch, chunk):
    monkeypatch.setattr(losses, "MAX_CHUNK_TOKENS", chunk)
    hidden, weight = random_states(7)
    target, upstream = torch.randint(0, VOCAB, (7,)), torch.randn(7)
    ours = token_logprobs(hidden, weight, target)
    (gradient,) = torch.autograd.grad(ours @ upstream, hidden)
    plain = (hidden @ weight.T).log_softmax(-1).gather(1, target[:, None]).squeeze(1)
    (expected,) = torch.autograd.grad(plain @ upstream, hidden)
    torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_token_kl_equals_the_naive_formula(monkeypatch, temperature):
    monkeypatch.setattr(losses, "MAX_CHUNK_TOKENS", 3)
    hidden, weight = random_states(7)
    teacher, upstream = torch.randn(7, HIDDEN), torch.randn(7)
    ours = token_kl(hidden, teacher, weight, temperature)
    (gradient,) = torch.autograd.grad(ours @ upstream, hidden)
    student = F.log_softmax(hidden @ weight.T / temperature, -1)
    target = F.log_softmax(teacher @ weight.T / temperature, -1)
    naive = temperature**2 * F.kl_div(student, target, log_target=True, reduction="none").sum(-1)
    (expected,) = torch.autograd.grad(naive @ upstream, hidden)
    torch.testing.assert_close(ours, naive, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-5)


def test_kl_at_infinite_temperature_is_half_the_variance_of_the_logit_differences():
    hidden, weight = random_states(7)
    teacher, upstream = torch.randn(7, HIDDEN), torch.randn(7)
    ours = token_kl(hidden, teacher, weight, float("inf"))
    (gradient,) = torch.autograd.grad(ours @ upstream, hidden)
    difference = (hidden - teacher) @ weight.T
    expected = 0.5 * difference.var(-1, correction=0)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected @ upstream, hidden)[0], atol=1e-5, rtol=1e-5)
    student, target = ((states @ weight.T).double().div(1e3).log_softmax(-1) for states in (hidden, teacher))
    limit = 1e6 * F.kl_div(student, target, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(ours.double(), limit, atol=0.0, rtol=0.02)
    given = token_kl(hidden, teacher, weight, float("inf"), covariance=head_covariance(weight.bfloat16()))
    torch.testing.assert_close(ours, given, atol=0.0, rtol=0.02)


def test_head_covariance_equals_that_of_torch():
    weight = torch.randn(10_000, HIDDEN)  # more than one part
    torch.testing.assert_close(head_covariance(weight), weight.T.cov(correction=0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("vocab, logits_per_token, size", [(700, 1, 1024), (151_936, 2, 110), (2**26, 1, 1)])
def test_logits_of_a_chunk_never_exceed_their_limit(vocab, logits_per_token, size):
    assert losses.chunk_size(vocab, logits_per_token) == size
    assert [part.start for part in losses.chunks(3000, size)] == list(range(0, 3000, size))


@pytest.mark.parametrize("temperature", [1.0, 4.0, float("inf")])
def test_kl_to_itself_is_zero_with_zero_gradient(temperature):
    hidden, weight = random_states(5)
    kl = token_kl(hidden, hidden.detach().clone(), weight, temperature)
    kl.sum().backward()
    # a matrix product may round equal rows of a batch differently; T² and T multiply the difference
    assert kl.abs().max() < 3e-6 and hidden.grad.abs().max() < 3e-5


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_small_kl_is_larger_than_its_rounding_error(temperature):
    weight, teacher = torch.randn(VOCAB, HIDDEN), torch.randn(2000, HIDDEN)
    hidden = teacher + 0.01 * torch.randn(2000, HIDDEN)
    student, target = (
        (states.double() @ weight.double().T / temperature).log_softmax(-1) for states in (hidden, teacher)
    )
    exact = temperature**2 * F.kl_div(student, target, log_target=True, reduction="none").sum(-1)
    ours = token_kl(hidden, teacher, weight, temperature)
    assert ours.min() > -1e-7 and (ours - exact).abs().max() < 1e-7 * max(1, temperature**2) + 2e-7


def test_one_hot_posteriors_are_the_ordinary_losses():
    scores, gold = torch.randn(6, 4), torch.randint(0, 4, (6,))
    mask = torch.ones(6, 4, dtype=torch.bool)
    assert torch.isclose(
        question_loss(scores, F.one_hot(gold, 4).float(), mask), F.cross_entropy(scores, gold, reduction="sum")
    )
    a, b = torch.randn(6), torch.randn(6)
    assert torch.isclose(pair_loss(a, b, torch.ones(6), beta=2.0), -F.logsigmoid(2 * (a - b)).sum())
    assert torch.isclose(pair_loss(a, b, torch.zeros(6), beta=2.0), -F.logsigmoid(2 * (b - a)).sum())


def test_masked_options_have_no_influence():
    scores, posterior = torch.tensor([[1.0, 2.0, 99.0]]), torch.tensor([[0.3, 0.7, 0.0]])
    mask = torch.tensor([[True, True, False]])
    short = question_loss(scores[:, :2], posterior[:, :2], mask[:, :2])
    assert torch.isclose(question_loss(scores, posterior, mask), short)


# ---------------------------------------------------------------- the joined batch


def encoded(lengths, prompt=4):
    """Responses of the given lengths, each after a prompt of random tokens."""
    sequences, tokens = [], []
    for n, length in enumerate(lengths):
        sequences.append(torch.randint(1, VOCAB, (prompt + length,)).tolist())
        tokens += [(n, prompt - 1 + i, sequences[n][prompt + i], n) for i in range(length)]
    return Encoded(sequences, tokens, len(lengths))


def mixed_items(replay=0.5):
    trusted = [TrainingItem(encoded([n]), "new", [1.0], posterior=[1.0]) for n in (3, 6, 2, 9)]
    weak = [
        TrainingItem(encoded([2, 5, 3]), "new", [0.2, 0.7, 0.1], "question", [0.2, 0.7, 0.1]),
        TrainingItem(encoded([1, 1]), "ring", [0.6, 0.4], "question", [0.6, 0.4]),
    ]
    pairs = [TrainingItem(encoded([4, 7]), "new", [0.0, 0.0], "pair", [0.9, 0.1])]
    memory = [
        TrainingItem(encoded([2]), "memory", [replay], posterior=[1.0], states=torch.randn(2, HIDDEN)),
        TrainingItem(
            supervise_prompt(encoded([5])),
            "memory",
            [0.0, replay],
            posterior=[0.0, 1.0],
            states=torch.randn(3 + 5, HIDDEN),
        ),
    ]
    return trusted + weak + pairs + memory


class Causal(torch.nn.Module):
    """A tiny causal model: position t depends on the mean of the embeddings up to t, so not on padding."""

    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCAB, HIDDEN)
        self.linear = torch.nn.Linear(HIDDEN, HIDDEN)

    def forward(self, ids):
        steps = torch.arange(1, ids.shape[1] + 1)[None, :, None]
        return self.linear(self.embedding(ids).cumsum(1) / steps)


def run(model, weight, items, parts=1, pad=0):
    """Losses and gradient of a step that is split into `parts` micro-batches."""
    whole, total = normalizers(items), {}
    model.zero_grad()
    for micro in split_micro_batches(items, parts):
        if micro:
            batch = collate(micro, whole, pad)
            found = icft_losses(model(batch["input_ids"]), weight, batch, whole)
            sum(found.values()).backward()
            for name, value in found.items():
                total[name] = total.get(name, 0) + value.detach()
    return total, torch.cat([p.grad.flatten() for p in model.parameters()])


def assert_same(one, other):
    for name in one[0]:
        torch.testing.assert_close(one[0][name], other[0][name], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(one[1], other[1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("change", ["order", "accumulation of 2", "accumulation of 4", "padding"])
def test_order_accumulation_and_padding_change_no_loss_or_gradient(change):
    model, weight, items = Causal(), torch.randn(VOCAB, HIDDEN), mixed_items()
    before = run(model, weight, items)
    if change == "order":
        after = run(model, weight, items[::-1])
    elif change == "padding":
        after = run(model, weight, items, pad=7)
    else:
        after = run(model, weight, items, parts=int(change[-1]))
    assert_same(before, after)


def test_each_loss_in_closed_form():
    model, weight, items = Causal(), torch.randn(VOCAB, HIDDEN), mixed_items()
    found, _ = run(model, weight, items)
    nll, weights, task, kl, new_tokens, memory_tokens = 0.0, 0.0, 0.0, 0.0, 0, 0
    with torch.no_grad():
        for item in items:
            logps = []
            for ids in item.encoded.sequences:
                logits = model(torch.tensor([ids]))[0] @ weight.T
                logps.append(logits.log_softmax(-1))
            per = [[] for _ in item.token_weight]
            for r, p, t, s in item.encoded.tokens:
                per[s].append(logps[r][p, t])
                nll -= item.token_weight[s] * logps[r][p, t]
                weights += item.token_weight[s]
                new_tokens += item.posterior[s] * (item.role != "memory")
                memory_tokens += item.states is not None
            if item.weak == "question":
                p = torch.tensor(item.posterior)
                task -= (p * torch.stack([sum(x) for x in per]).log_softmax(-1)).sum()
            elif item.weak == "pair":
                delta = 2 * (sum(per[0]) / len(per[0]) - sum(per[1]) / len(per[1]))
                task -= item.posterior[0] * F.logsigmoid(delta) + item.posterior[1] * F.logsigmoid(-delta)
            if item.states is not None:
                target = (item.states @ weight.T).log_softmax(-1)
                student = torch.stack([logps[r][p] for r, p, _, _ in item.encoded.tokens])
                kl += (target.exp() * (target - student)).sum()
    expected = dict(fine_tune=nll / weights, task=task / new_tokens, consistency=kl / memory_tokens)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value.detach(), atol=1e-5, rtol=1e-5)


def test_only_supervised_positions_have_a_gradient():
    weight, items = torch.randn(VOCAB, HIDDEN), mixed_items()
    batch = collate(items, normalizers(items))
    hidden = torch.randn(*batch["input_ids"].shape, HIDDEN, requires_grad=True)
    sum(icft_losses(hidden, weight, batch, normalizers(items)).values()).backward()
    has_gradient = hidden.grad.abs().sum(-1) > 0
    supervised = torch.zeros_like(has_gradient)
    supervised[batch["row"], batch["position"]] = True
    assert has_gradient.any() and not (has_gradient & ~supervised).any()


@pytest.mark.parametrize("kind", ["memory", "trusted", "question", "pair"])
def test_losses_without_examples_cause_no_nan_in_fp16(kind):
    items = [
        item
        for item in mixed_items(replay=0.0)
        if kind == (item.weak or ("memory" if item.role == "memory" else "trusted"))
    ]
    batch = collate(items, normalizers(items))
    hidden = 40 * torch.ones(*batch["input_ids"].shape, HIDDEN, dtype=torch.float16)  # their sum overflows fp16
    hidden[:, -1] *= 65504 / 40
    hidden.requires_grad_()
    weight = torch.randn(VOCAB, HIDDEN, dtype=torch.float16) / 40
    found = icft_losses(hidden, weight, batch, normalizers(items))
    (2.0**10 * sum(found.values())).backward()  # as a GradScaler does
    assert items and all(loss.isfinite() for loss in found.values())
    assert hidden.grad.isfinite().all() and hidden.grad.abs().max() > 0


def test_memory_examples_without_replay_have_only_a_consistency_loss():
    items = [item for item in mixed_items(replay=0.0) if item.role == "memory"]
    batch = collate(items, normalizers(items))
    hidden = torch.randn(*batch["input_ids"].shape, HIDDEN)
    found = icft_losses(hidden, torch.randn(VOCAB, HIDDEN), batch, normalizers(items))
    assert found["consistency"] > 0 and found["fine_tune"] == 0 and found["task"] == 0
