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
# # Assignment 5 · The three losses
#
# You write the losses of ICFT from the tokens up: which tokens are supervised, their log-probabilities through a frozen
# output head, L_fine-tune and L_task for soft labels, and L_consistency with its gradient. At the end they train `tiny`
# for real, and you compare your numbers with the package's.
#
# **You need** lesson 06. **Time**: about 115 minutes.

# %% [markdown]
# | part | what you write | points | minutes |
# |---|---|---|---|
# | A5.1 | Supervised tokens | 3 | 20 |
# | A5.2 | Token log-probabilities | 3 | 15 |
# | A5.3 | L_fine-tune for soft labels | 2 | 10 |
# | A5.4 | L_task for questions | 3 | 20 |
# | A5.5 | L_task for pairs | 3 | 15 |
# | A5.6 | L_consistency and its gradient | 4 | 25 |
# | A5.7 | The total of a step | 2 | 10 |

# %% [markdown]
# **Rules.** Replace `raise NotImplementedError` by your code. Do not rename functions or arguments. In parts 2 to 5 use
# operations of PyTorch, so that gradients can flow. The package's own versions are not available while your work is
# graded.
#
# A check follows each part. It prints "Passed", or says what kind of error it found. Grading uses other inputs than the
# check.
#
# At the end, restart the kernel, run all cells, save the notebook and hand it in. During grading, cells that compare your
# code with the package's fail. This costs no points.

# %% [markdown]
# The work of the computer at the end of this assignment:
#
# {{budget}}

# %% [markdown]
# ## Set-up

# %%
# {{setup}}

# %%
import torch
import torch.nn.functional as F


def same(found, expected):
    """Return whether two tensors or numbers are equal up to rounding, in any precision."""
    return torch.allclose(*(torch.as_tensor(values).double() for values in (found, expected)), rtol=1e-3, atol=1e-5)


# %% [markdown]
# ## 1 · Supervised tokens
#
# **A5.1 · 3 points · 20 minutes**
#
# Each row of a batch contains a prompt, its response with the end-of-turn token, and padding. Only the tokens of the
# response are supervised, the end of turn included. The hidden state at position p predicts the token at p + 1.
#
# Return a triple (row, position, target) for each supervised token: `target` is the token id to predict, `position` is
# that of the state which predicts it. Use the lengths, never token ids: the padding id may be that of the end of turn.

# %% nbgrader={"grade": false, "grade_id": "a5-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
def supervised_tokens(input_ids, prompt_lengths, lengths):
    """Return (row, position, target), int tensors [supervised tokens], row by row.

    input_ids: int tensor [rows, columns]. prompt_lengths: int tensor [rows], tokens of the prompt.
    lengths: int tensor [rows], tokens of prompt and response together.
    """
    ### BEGIN SOLUTION
    column = torch.arange(input_ids.shape[1])
    in_response = (column >= prompt_lengths[:, None]) & (column < lengths[:, None])
    row, at = in_response.nonzero(as_tuple=True)
    return row, at - 1, input_ids[row, at]
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a5-1-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
ids = torch.tensor([[5, 6, 7, 8, 2, 2], [5, 9, 4, 2, 2, 2]])  # 2 is the end of turn and the padding
row, position, target = (torch.as_tensor(x) for x in supervised_tokens(ids, torch.tensor([3, 2]), torch.tensor([5, 4])))
assert row.shape == position.shape == target.shape, "shape: row, position and target must have one entry per token"
assert not {5, 6, 7, 9} & set(target.tolist()), "mask: a token of a prompt is a target"
assert (target == 2).sum() != 0, "mask: the end of turn of a response must be a target"
assert (target == 2).sum() == 2, "mask: each response has one end of turn; padding must not be a target"
assert len(target) == 4, f"mask: the two responses have 4 tokens, found {len(target)}"
assert position.tolist() != [3, 4, 2, 3], "off by one: these are the positions of the targets, not of the states before"
found = set(zip(row.tolist(), position.tolist(), target.tolist()))
assert found == {(0, 2, 8), (0, 3, 2), (1, 1, 4), (1, 2, 2)}, f"values: found {sorted(found)}"
### BEGIN HIDDEN TESTS
ids, prompt = torch.randint(0, 9, (20, 12)), torch.randint(1, 6, (20,))
total = prompt + torch.randint(1, 6, (20,))
wanted = {(r, p, int(ids[r, p + 1])) for r in range(20) for p in range(prompt[r] - 1, total[r] - 1)}
answer = [x.tolist() for x in supervised_tokens(ids, prompt, total)]
assert set(zip(*answer)) == wanted and len(answer[0]) == len(wanted), "values: wrong on random inputs"
### END HIDDEN TESTS
print("Passed: A5.1")

# %% [markdown]
# ## 2 · Token log-probabilities
#
# **A5.2 · 3 points · 15 minutes**
#
# The output head is a frozen matrix of shape [vocabulary, hidden]. The logits of a token are head · state. Return
# log p(target) of each token, where p is the softmax of the logits. It must be right for logits of any size: exp(100)
# is infinite in float32.

# %% nbgrader={"grade": false, "grade_id": "a5-2", "locked": false, "schema_version": 3, "solution": true, "task": false}
def token_logprobs(states, head, target):
    """Return the log-probability of each target in nats: float tensor [n].

    states: float tensor [n, hidden]; head: float tensor [vocabulary, hidden]; target: int tensor
    [n].
    """
    ### BEGIN SOLUTION
    logits = states @ head.T
    return logits.gather(1, target[:, None])[:, 0] - logits.logsumexp(-1)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a5-2-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
words = torch.tensor([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0]])  # with the identity as head, states are logits
logp = token_logprobs(words, torch.eye(3), torch.tensor([1, 0]))
assert logp.shape == (2,), f"shape: found {tuple(logp.shape)}, expected (2,)"
assert not same(logp, [0.2447, 0.09]), "log: these are probabilities"
assert not same(logp, [1.0, 0.0]), "softmax: these are logits"
assert logp.max() < 0, "sign: a log-probability is negative"
assert not same(logp, words.softmax(0).log()[[0, 1], [1, 0]]), "axis: the softmax is over the tokens"
assert not same(logp, [-0.4076, -0.4076]), "off by one: each token has the target of its neighbor"
assert same(logp, [-1.4076, -2.4076]), f"values: found {logp.tolist()}, by hand −1.408 and −2.408"
head = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.5, 0.0]])
four = token_logprobs(torch.zeros(1, 2), head, torch.tensor([3]))
assert same(four, [-1.3863]), "axis: 4 equal logits must give −log 4"
large = token_logprobs(100 * words, torch.eye(3), torch.tensor([1, 0]))
assert bool(large.isfinite().all()), "finite: NaN or infinity for large logits; do not take exp and then log"
tracked = token_logprobs(words.clone().requires_grad_(), torch.eye(3), torch.tensor([1, 0]))
assert tracked.requires_grad, "gradient: none flows to the states; use operations of PyTorch only"
### BEGIN HIDDEN TESTS
states, head, target = torch.randn(30, 8) * 3, torch.randn(50, 8), torch.randint(0, 50, (30,))
wanted = -F.cross_entropy(states @ head.T, target, reduction="none")
assert same(token_logprobs(states, head, target), wanted), "values: wrong on random inputs"
assert same(large, [-100.0, -200.0]), "finite: wrong for large logits"
### END HIDDEN TESTS
print("Passed: A5.2")

# %% [markdown]
# ## 3 · L_fine-tune for soft labels
#
# **A5.3 · 2 points · 10 minutes**
#
# A weak question has a posterior p̃ over its options, and each option is a response. L_fine-tune is the mean negative
# log-likelihood of the tokens, in which a token has the weight p̃ of its response. A trusted response has p̃ = 1.
# Only tokens with a weight above {{least}} count, in the sum and in what it is divided by. If no token counts, the loss
# is 0.

# %% nbgrader={"grade": false, "grade_id": "a5-3", "locked": false, "schema_version": 3, "solution": true, "task": false}
def fine_tune_loss(logp, response, posterior):
    """Return the weighted mean negative log-likelihood: float tensor [].

    logp: float tensor [n], log-probabilities of tokens. response: int tensor [n], which response a
    token belongs to. posterior: float tensor [responses].
    """
    ### BEGIN SOLUTION
    weight = torch.where(posterior > {{least}}, posterior, 0)[response]
    return -(weight * logp).sum() / weight.sum().clamp_min(1e-12)
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a5-3-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
logp, response = torch.tensor([-1.0, -3.0, -9.0, -4.0]), torch.tensor([0, 0, 1, 2])
loss = fine_tune_loss(logp, response, torch.tensor([0.75, 0.25, {{least}}]))  # weights 0.75, 0.75, 0.25, {{least}}
assert torch.as_tensor(loss).shape == (), f"shape: the loss is one number, found {tuple(loss.shape)}"
assert loss > 0, "sign: a negative log-likelihood is positive"
assert not same(loss, 4.25), "weight: all tokens have the same weight; use the posterior of their response"
assert not same(loss, 5.25), "normalizer: this is a sum; divide it"
assert not same(loss, 5.25 / 4), "normalizer: divide by the sum of the weights, not by the number of tokens"
assert same(loss, 3.0), f"normalizer: found {float(loss):.3f}, by hand 5.25 ÷ 1.75 = 3 without the last token"
assert same(fine_tune_loss(logp, response, torch.zeros(3)), 0.0), "zero: without a token that counts, the loss is 0"
tracked = torch.as_tensor(fine_tune_loss(logp.clone().requires_grad_(), response, torch.ones(3)))
assert tracked.requires_grad, "gradient: none flows to the log-probabilities; use operations of PyTorch only"
### BEGIN HIDDEN TESTS
logp, response, posterior = -4 * torch.rand(40), torch.randint(0, 10, (40,)), torch.rand(10)
weight = torch.tensor([p if p > {{least}} else 0.0 for p in posterior])[response]
wanted = -(logp * weight).sum() / weight.sum()
assert same(fine_tune_loss(logp, response, posterior), wanted), "values: wrong on random inputs"
### END HIDDEN TESTS
print("Passed: A5.3")

# %% [markdown]
# ## 4 · L_task for questions
#
# **A5.4 · 3 points · 20 minutes**
#
# The score of an option is the log-probability of its whole text: the *sum* over its tokens. For one question, with
# softmax over its own options,
#
# loss = −Σ p̃_k · log softmax(scores)_k
#
# Questions may have different numbers of options: if you arrange the scores as a table, mask the empty entries. Return
# the mean over the questions.

# %% nbgrader={"grade": false, "grade_id": "a5-4", "locked": false, "schema_version": 3, "solution": true, "task": false}
def question_loss(logp, response, question, posterior):
    """Return the noise-aware cross-entropy, mean over the questions: float tensor [].

    logp: float tensor [n], log-probabilities of tokens. response: int tensor [n], the option that a
    token belongs to. question: int tensor [options], the question that an option belongs to, 0, 1,
    2, …, in ascending order. posterior: float tensor [options].
    """
    ### BEGIN SOLUTION
    scores = logp.new_zeros(len(question)).index_add(0, response, logp)
    losses = []
    for number in range(int(question[-1]) + 1):
        own = question == number
        losses.append(-(posterior[own] * scores[own].log_softmax(0)).sum())
    return torch.stack(losses).mean()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a5-4-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
logp = torch.tensor([-1.0, -1.0, -1.0, -1.0, -2.0, -1.0])  # scores −2, −1 and −1, −2, −1
response, question = torch.tensor([0, 0, 1, 2, 3, 4]), torch.tensor([0, 0, 1, 1, 1])
posterior = torch.tensor([0.8, 0.2, 0.0, 0.5, 0.5])
loss = question_loss(logp, response, question, posterior)  # by hand: 1.1133 and 1.3620
assert torch.as_tensor(loss).shape == (), f"shape: the loss is one number, found {tuple(loss.shape)}"
assert loss > 0, "sign: a cross-entropy is positive"
assert not same(loss, 2.4753), "normalizer: this is the sum over the questions, not the mean"
assert not same(loss, 1.0276), "scores: this is the mean over the tokens of an option, not their sum"
shifted = logp - torch.tensor([2.5, 2.5, 5.0, 0.0, 0.0, 0.0])  # both scores of question 0 fall by 5
again = question_loss(shifted, response, question, posterior)
assert same(again, loss), "mask: only differences within a question count; there are no other options"
assert same(loss, 1.2377), f"values: found {float(loss):.4f}, by hand (1.1133 + 1.3620) ÷ 2 = 1.2377"
tracked = torch.as_tensor(question_loss(logp.clone().requires_grad_(), response, question, posterior))
assert tracked.requires_grad, "gradient: none flows to the log-probabilities; use operations of PyTorch only"
### BEGIN HIDDEN TESTS
counts, response = torch.tensor([2, 4, 3]), torch.arange(9).repeat_interleave(3)
question, posterior = torch.arange(3).repeat_interleave(counts), torch.rand(9)
logp = -3 * torch.rand(27)
parts = zip(logp.reshape(9, 3).sum(1).split(counts.tolist()), posterior.split(counts.tolist()))
wanted = sum(F.cross_entropy(scores, p, reduction="sum") for scores, p in parts) / 3
assert same(question_loss(logp, response, question, posterior), wanted), "values: wrong on random inputs"
### END HIDDEN TESTS
print("Passed: A5.4")

# %% [markdown]
# ## 5 · L_task for pairs
#
# **A5.5 · 3 points · 15 minutes**
#
# Replies differ in length, so each is scored by its *mean* log-probability per token. p̃ is the probability that the
# first reply is better. Responses 0 and 1 are the first pair, 2 and 3 the second, and so on.
#
# Δ = β · (mean of the first − mean of the second); loss = −p̃ · log σ(Δ) − (1 − p̃) · log σ(−Δ)
#
# Return the mean over the pairs. It must be finite for any Δ.

# %% nbgrader={"grade": false, "grade_id": "a5-5", "locked": false, "schema_version": 3, "solution": true, "task": false}
def pair_loss(logp, response, posterior, beta):
    """Return the pairwise logistic loss for soft labels, mean over the pairs: float tensor [].

    logp: float tensor [n], log-probabilities of tokens. response: int tensor [n], which response a
    token belongs to. posterior: float tensor [pairs], the probability that the first response is
    better. beta: float.
    """
    ### BEGIN SOLUTION
    zeros = logp.new_zeros(2 * len(posterior))
    means = zeros.index_add(0, response, logp) / zeros.index_add(0, response, torch.ones_like(logp))
    delta = beta * (means[0::2] - means[1::2])
    return -(posterior * F.logsigmoid(delta) + (1 - posterior) * F.logsigmoid(-delta)).mean()
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a5-5-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
logp, response = torch.tensor([-1.0, -2.0, -3.0, -1.0]), torch.tensor([0, 0, 1, 1])  # means −1.5 and −2
loss = pair_loss(logp, response, torch.tensor([0.8]), 2.0)  # Δ = 1
assert torch.as_tensor(loss).shape == (), f"shape: the loss is one number, found {tuple(loss.shape)}"
assert loss > 0, "sign: the loss is positive"
assert not same(loss, 1.1133), "sign: Δ has the wrong sign, or p̃ belongs to the second response"
assert not same(loss, 0.2506), "label: the second term, with 1 − p̃, is missing"
assert not same(loss, 0.5741), "scale: beta is not used"
assert not same(loss, 0.5269), "length: these are the sums over tokens; take the mean of each response"
assert same(loss, 0.5133), f"values: found {float(loss):.4f}, by hand 0.8 · 0.3133 + 0.2 · 1.3133 = 0.5133"
far = pair_loss(torch.tensor([-900.0, -1.0]), torch.tensor([0, 1]), torch.tensor([0.5]), 2.0)
assert bool(far.isfinite()), "finite: σ(Δ) is rounded to 0 for a large negative Δ; do not take the logarithm of it"
twice = pair_loss(logp.repeat(2), torch.tensor([0, 0, 1, 1, 2, 2, 3, 3]), torch.tensor([0.8, 0.8]), 2.0)
assert same(twice, loss), "normalizer: two equal pairs must have the loss of one"
tracked = torch.as_tensor(pair_loss(logp.clone().requires_grad_(), response, torch.tensor([0.8]), 2.0))
assert tracked.requires_grad, "gradient: none flows to the log-probabilities; use operations of PyTorch only"
### BEGIN HIDDEN TESTS
logp, response, posterior = -3 * torch.rand(24), torch.arange(6).repeat_interleave(4), torch.rand(3)
delta = 1.5 * (logp.reshape(6, 4).mean(1)[::2] - logp.reshape(6, 4).mean(1)[1::2])
wanted = F.binary_cross_entropy_with_logits(delta, posterior)
assert same(pair_loss(logp, response, posterior, 1.5), wanted), "values: wrong on random inputs"
### END HIDDEN TESTS
print("Passed: A5.5")

# %% [markdown]
# ## 6 · L_consistency and its gradient
#
# **A5.6 · 4 points · 25 minutes**
#
# Student and teacher are hidden states of the same tokens. Both pass through the same frozen head, and the logits are
# divided by the temperature T. The loss of a token is
#
# T² · KL(teacher ‖ student) = T² · Σ p_teacher · (log p_teacher − log p_student)
#
# summed over the vocabulary. Also return its gradient with respect to the student's hidden state. The gradient with
# respect to the *logits* is T · (p_student − p_teacher). What does the head make of it?

# %% nbgrader={"grade": false, "grade_id": "a5-6", "locked": false, "schema_version": 3, "solution": true, "task": false}
def consistency(student, teacher, head, temperature):
    """Return (T²·KL of each token [n], its gradient with respect to the student's state [n, hidden]).

    student, teacher: float tensors [n, hidden]; head: float tensor [vocabulary, hidden];
    temperature: float.
    """
    ### BEGIN SOLUTION
    log_s, log_t = ((states @ head.T / temperature).log_softmax(-1) for states in (student, teacher))
    kl = temperature**2 * (log_t.exp() * (log_t - log_s)).sum(-1)
    return kl, temperature * (log_s.exp() - log_t.exp()) @ head
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a5-6-check", "locked": true, "points": 4, "schema_version": 3, "solution": false, "task": false}
student, teacher = torch.tensor([[2.0, 1.0, 0.0]]), torch.tensor([[0.0, 2.0, 0.0]])
kl, gradient = consistency(student, teacher, torch.eye(3), 1.0)
assert kl.shape == (1,), f"shape: one KL per token is (1,), found {tuple(kl.shape)}"
assert gradient.shape == (1, 3), f"shape: the gradient has the shape of the states, found {tuple(gradient.shape)}"
assert not same(kl, [0.9177]), "direction: this is KL(student ‖ teacher)"
assert not same(kl, [0.7420 / 3]), "normalizer: sum over the vocabulary, do not take the mean"
assert kl > 0, "sign: a KL divergence is positive"
assert same(kl, [0.7420]), f"values: found {float(kl[0]):.4f}, by hand 0.7420"
assert gradient[0, 0] > 0 > gradient[0, 1], "sign: the gradient is positive where the student is too confident"
assert same(gradient[0], [0.5587, -0.5423, -0.0165]), "values: here, the gradient is p_student − p_teacher"
hot = [consistency(student, teacher, torch.eye(3), T) for T in (100.0, 200.0)]
assert hot[0][0] > 0.5, "scale: the KL vanishes as T grows; the factor T² is missing"
assert abs(hot[0][0] / hot[1][0] - 1) < 0.05, "scale: T²·KL has a limit as T grows"
assert abs(hot[0][1] / hot[1][1] - 1).max() < 0.05, "scale: the gradient has a limit as T grows; check its power of T"
head = torch.tensor([[1.0, 0.0, 0.0], [0.0, 3.0, 0.0]])
gradient = consistency(student, teacher, head, 2.0)[1]
assert gradient.shape == (1, 3), "head: this is the gradient with respect to the logits, not to the state"
assert gradient[0, 2] == 0, "head: a direction that the head ignores has no gradient"
### BEGIN HIDDEN TESTS
student, teacher, head = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5), torch.randn(9, 5)
for temperature in (1.0, 3.0):
    logits = [(states @ head.T / temperature).log_softmax(-1) for states in (student, teacher)]
    wanted = temperature**2 * F.kl_div(logits[0], logits[1], log_target=True, reduction="none").sum(-1)
    kl, gradient = consistency(student.detach(), teacher, head, temperature)
    assert same(kl, wanted.detach()), "values: the KL is wrong on random inputs"
    assert same(gradient, torch.autograd.grad(wanted.sum(), student)[0]), "values: the gradient is wrong"
### END HIDDEN TESTS
print("Passed: A5.6")

# %% [markdown]
# ## 7 · The total of a step
#
# **A5.7 · 2 points · 10 minutes**
#
# A step of training may arrive in micro-batches. For each loss, a micro-batch has a sum and a count of what was summed
# over. The loss of the step is the sum of all sums divided by the sum of all counts, or 0 if nothing was counted.
# The total is the sum of the losses, each multiplied by its weight. It must not depend on how the step is split.

# %% nbgrader={"grade": false, "grade_id": "a5-7", "locked": false, "schema_version": 3, "solution": true, "task": false}
def total_loss(micro_batches, weights):
    """Return the total loss of a step, a float.

    micro_batches: list of dicts, name of the loss → [sum, count], floats. weights: dict, name of
    the loss → float. Every micro-batch has the same names as `weights`.
    """
    ### BEGIN SOLUTION
    total = 0.0
    for name, weight in weights.items():
        count = sum(part[name][1] for part in micro_batches)
        if count:
            total += weight * sum(part[name][0] for part in micro_batches) / count
    return total
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "a5-7-check", "locked": true, "points": 2, "schema_version": 3, "solution": false, "task": false}
step = [{"fine_tune": [8.0, 2.0], "consistency": [0.0, 0.0]}, {"fine_tune": [8.0, 8.0], "consistency": [6.0, 3.0]}]
found = total_loss(step, {"fine_tune": 1.0, "consistency": 1.0})
assert abs(found - 7.0) > 1e-6, "normalizer: these are sums of the means of the micro-batches"
assert abs(found - 3.5) > 1e-6, "normalizer: these are means of the means of the micro-batches"
assert abs(found - 3.6) < 1e-6, f"normalizer: found {found:.3f}, by hand 16 ÷ 10 + 6 ÷ 3 = 3.6"
found = total_loss(step, {"fine_tune": 1.0, "consistency": 0.1})
assert abs(found - 3.6) > 1e-6, "weight: the weight of a loss is not used"
assert abs(found - 1.8) < 1e-6, f"weight: found {found:.3f}, by hand 1.6 + 0.1 · 6 ÷ 3 = 1.8"
assert total_loss(step[:1], {"fine_tune": 1.0, "consistency": 1.0}) == 4.0, "zero: a loss that counted nothing is 0"
### BEGIN HIDDEN TESTS
step = [dict(zip("abc", [[float(s), n] for s, n in zip(torch.rand(3), (1.0, 2.0 + i, 5.0))])) for i in range(5)]
wanted = sum(w * sum(p[k][0] for p in step) / sum(p[k][1] for p in step) for k, w in zip("abc", (1, 2, 0.5)))
assert same(total_loss(step, {"a": 1.0, "b": 2.0, "c": 0.5}), wanted), "values: wrong on random inputs"
### END HIDDEN TESTS
print("Passed: A5.7")

# %% [markdown]
# ## Your losses, on a real batch
#
# There is nothing to write from here on. The next cells join trusted examples, weakly labelled questions and pairs, and
# general memory examples into one batch, and take its hidden states from `tiny`.

# %%
import warnings

from icft_lite import Encoder, ICFTConfig, LongTermMemory, add_adapters, apply_lfs, label_pool, load_base, sample_bundle
from icft_lite.modeling.adapters import adapter_tensors
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.training.batches import StageBatches, collate, normalizers
from icft_lite.training.plan import PlannedStep
from icft_lite.weak.lfs.samples import sample_lfs

warnings.simplefilter("ignore", FutureWarning)
base, tokenizer = load_base(load_in_4bit=False, device="cpu")
model, encoder, data = add_adapters(base, rank=32, alpha=64, seed=0), Encoder(tokenizer), sample_bundle()
head = head_weight(model)
pool = [dict(example) for example in data.pool]
for example, posterior in zip(pool, label_pool(pool, apply_lfs(sample_lfs(), pool), "dawid_skene", sample_lfs())[0]):
    example["posterior"] = posterior
uncertain = [one for one in pool if one["posterior"] and 0.6 < max(one["posterior"]) < 0.95]
weak = [[one for one in uncertain if one["task"] == task][:3] for task in ("question", "pair")]
trusted = [dict(example) for example in data.trusted.select(range(0, 2400, 300))]

# %%
memory = LongTermMemory(size=12)
memory.add([dict(example) for example in data.general_memory.select(range(0, 1800, 150))], encoder, "general")
memory.refresh(model)  # the teacher is the base
examples = [*trusted, *weak[0], *weak[1]]
step = PlannedStep(new=list(range(len(examples))), memory=list(range(len(memory))))
config = ICFTConfig.from_dict({"weak.soft_labels": True})  # with the default, hard labels, L_task has no examples
items = StageBatches([step], examples, list(map(encoder, examples)), memory.entries, config).items(step)
batch = collate(items, normalizers(items), tokenizer.pad_token_id)
print(f"{len(examples)} new and {len(memory)} memory examples, {len(batch['target'])} supervised tokens")


# %%
class Consistency(torch.autograd.Function):
    """Your part 6, for autograd."""

    @staticmethod
    def forward(ctx, student, teacher, head):
        kl, gradient = consistency(student, teacher, head, 1.0)
        ctx.save_for_backward(gradient)
        return kl

    @staticmethod
    def backward(ctx, g):
        return g[:, None] * ctx.saved_tensors[0], None, None


def select(logp, chosen):
    """The tokens of the chosen examples, with responses and examples numbered from 0, and the posteriors."""
    own = torch.isin(batch["example"], chosen)
    number = own.cumsum(0) - 1
    tokens = own[batch["response"]]
    examples = torch.unique(batch["example"][own], return_inverse=True)[1]
    return logp[tokens], number[batch["response"][tokens]], examples, batch["posterior"][own]


def losses():
    """Your losses of the batch: {name: tensor []}."""
    states = hidden_states(model, batch)[batch["row"], batch["position"]]
    logp = token_logprobs(states, head, batch["target"])
    weight = torch.zeros(len(batch["example"])).index_put((batch["response"],), batch["token_weight"])
    pairs, response, _, posterior = select(logp, batch["weak_pair"])
    return {"fine_tune": fine_tune_loss(logp, batch["response"], weight),
            "questions": question_loss(*select(logp, batch["weak_question"])),
            "pairs": pair_loss(pairs, response, posterior[::2], 2.0),
            "consistency": Consistency.apply(states[batch["teacher_token"]], batch["teacher"], head).mean()}


# %% [markdown]
# The package's losses of the same batch:

# %%
from icft_lite.modeling import losses as package


def package_losses():
    """The same losses by the package's functions."""
    states = hidden_states(model, batch)[batch["row"], batch["position"]]
    logp = package.token_logprobs(states, head, batch["target"])
    sums, n = package.response_sums(logp, batch["response"], len(batch["example"])), len(items)
    counts = torch.bincount(batch["response"])
    scores, mask = package.pad_options(sums, batch["example"], n)
    means, posterior = (package.pad_options(x, batch["example"], n)[0] for x in (sums / counts, batch["posterior"]))
    q, p = batch["weak_question"], batch["weak_pair"]
    weight = torch.where(batch["token_weight"] > {{least}}, batch["token_weight"], 0)
    return {"fine_tune": package.fine_tune_loss(logp, weight) / weight.sum(),
            "questions": package.question_loss(scores[q], posterior[q], mask[q]) / len(q),
            "pairs": package.pair_loss(means[p, 0], means[p, 1], posterior[p, 0]) / len(p),
            "consistency": package.token_kl(states[batch["teacher_token"]], batch["teacher"], head).mean()}


# %%
with torch.no_grad():
    adapter_tensors(model, "fast")[1].normal_(std=0.2)  # an adapter that changes nothing would have consistency 0
    for (name, ours), theirs in zip(losses().items(), package_losses().values()):
        print(f"{name:12} yours {float(ours):.4f}, the package's {float(theirs):.4f}")
    adapter_tensors(model, "fast")[1].zero_()

# %% [markdown]
# Now train: 15 steps on this batch, without L_consistency and with it. **Predict** both numbers of each line.

# %%
def train(consistency_weight, steps=15):
    """Train a fresh adapter with your losses. Returns the losses at the last step."""
    fast = adapter_tensors(model, "fast")
    with torch.no_grad():
        for tensor, start in zip(fast, fresh):
            tensor.copy_(start)
    optimizer = torch.optim.AdamW(fast, lr=4e-3)
    for _ in range(steps):
        found = losses()
        optimizer.zero_grad()
        sum((consistency_weight if name == "consistency" else 1.0) * loss for name, loss in found.items()).backward()
        optimizer.step()
    return {name: float(value.detach()) for name, value in found.items()}


fresh = [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]
for weight in (0.0, 1.0):
    last = train(weight)
    print(f"weight {weight:.0f}: L_fine-tune {last['fine_tune']:.3f}, "
          f"KL to the base on general examples {last['consistency']:.3f}")

# %% [markdown]
# Both runs learn the new examples. The second one stays near the base on general examples, because your gradient of
# L_consistency holds it there. If the two lines show the same KL, look at the gradient of part 6.
