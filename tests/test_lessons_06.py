"""Lesson 06: what it builds by hand agrees with the package, its exercises judge rightly, its page is what it runs."""

import copy
import importlib.util
import math
import re
from pathlib import Path

import pytest
import torch
from lesson_checks import check_core_exercise, check_size
from test_notebooks import ROOT, build, cells, check_exercise, exercises, notebook

from icft_lite import ICFTConfig, add_adapters, load_base
from icft_lite.modeling.adapters import adapter_tensors
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.losses import fine_tune_loss, icft_losses, token_kl, token_logprobs
from icft_lite.reporting.concepts import losses as diagram
from icft_lite.reporting.lessons.losses import drift_figure, gradient_figure, pair_figure, token_table
from icft_lite.training.batches import collate, memory_item, new_item, normalizers

SOURCE = Path(build.HERE) / "src" / "06_losses.py"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("jupytext") is None, reason="builds a notebook")


@pytest.fixture(scope="module")
def book():
    return build.read(SOURCE)


@pytest.fixture
def namespace(base):
    _, tokenizer = base
    return dict(copy=copy, math=math, torch=torch, token_kl=token_kl, tokenizer=tokenizer)


LABELS = [
    "def chat_labels(m, tok):\n"
    "    prompt, whole = (tok(text)['input_ids'] for text in (\n"
    "        tok.apply_chat_template(m[:-1], tokenize=False, add_generation_prompt=True),\n"
    "        tok.apply_chat_template(m, tokenize=False)))\n"
    "    start, first = len(prompt), whole.index(tok.eos_token_id)\n"
    "    end = whole.index(tok.eos_token_id, start)\n"
    f"    return whole, {labels}"
    for labels in (
        "whole",  # the prompt is supervised
        "[-100] * len(whole)",
        "[t if start <= i < end else -100 for i, t in enumerate(whole)]",  # without the end of turn
        "[t if i >= start else -100 for i, t in enumerate(whole)]",  # with the line break after it
        "[t if i <= first or start <= i <= end else -100 for i, t in enumerate(whole)]",  # both replies
        "[t if start <= i <= end else -100 for i, t in enumerate(whole)][1:] + [-100]",  # shifted twice
    )
]
LABELS.append(  # the reply alone
    "def chat_labels(m, tok):\n    ids = tok(m[-1]['content'])['input_ids'] + [tok.eos_token_id]\n    return ids, ids"
)
KL = [
    "def my_token_kl(s, t, head, T):\n    z, u = s @ head.T, t @ head.T\n"
    "    if math.isinf(T): return " + limit + "\n"
    "    a, b = (z / T).log_softmax(-1), (u / T).log_softmax(-1)\n    return " + body
    for limit, body in (
        ("(z - u).var(-1, correction=0) / 2", "(b.exp() * (b - a)).sum(-1)"),  # T² is missing
        ("(z - u).var(-1, correction=0) / 2", "T**2 * (a.exp() * (a - b)).sum(-1)"),  # the other direction
        ("(z - u).var(-1, correction=0) / 2", "(T**2 * (b.exp() * (b - a)).sum(-1)).mean()"),  # not one for each token
        ("(z - u).var(-1, correction=0)", "T**2 * (b.exp() * (b - a)).sum(-1)"),  # not halved
        ("(z - u).pow(2).mean(-1) / 2", "T**2 * (b.exp() * (b - a)).sum(-1)"),  # not centered
    )
]


def test_the_token_table_colors_what_the_package_supervises(base, example):
    import html

    _, tokenizer = base
    examples = [example(), example(prompt="Is <b>90 & more</b> high, or is it not?", responses=["yes"])]
    encoded = [Encoder(tokenizer)(one) for one in examples]
    lines = re.findall(r"<p style[^>]*>(.*?)</p>", token_table(encoded, tokenizer), re.S)
    longest = max(one.length for one in encoded)
    for line, one, given in zip(lines, encoded, examples, strict=True):
        found = re.findall(r'<code title="(\w+)"[^>]*>(.*?)</code>', line, re.S)
        kinds = [kind for kind, _ in found]
        assert len(found) == longest and kinds.count("padding") == longest - one.length
        assert kinds.count("response") == len(one.tokens)
        text = "".join(html.unescape(text) for kind, text in found if kind == "response").replace("·", " ")
        assert text.strip() == given["responses"][0] + tokenizer.eos_token
        assert "<b>" not in line


def test_the_exercises_accept_their_solutions_and_reject_wrong_ones(book, namespace):
    wrong = [
        LABELS,
        KL,
        [
            "def soft_gradient(z, q):\n    t = sum(map(math.exp, z))\n"
            "    return [b - math.exp(a) / t for a, b in zip(z, q)]",
            "def soft_gradient(z, q): return [a - b for a, b in zip(z, q)]",
            "def soft_gradient(z, q): return []",
        ],
        [
            "def step_loss(parts): return sum(sum(n) / len(n) for n, _ in parts) / len(parts)",
            "def step_loss(parts):\n    return sum(sum(map(float.__mul__, n, w)) / sum(w) for n, w in parts)",
            "def step_loss(parts):\n    n = [x for nll, _ in parts for x in nll]\n    return sum(n) / len(n)",
        ],
    ]
    for number in range(len(wrong)):
        check_exercise(book, number, wrong, namespace)


@pytest.fixture
def adapted_base(example):
    """Return what the lesson defines before its exercises, with an adapter that has moved away from the base."""
    base, tokenizer = load_base(device="cpu")
    model = add_adapters(base, rank=8, alpha=16, seed=0)
    with torch.no_grad():
        for i, tensor in enumerate(adapter_tensors(model, "fast")):
            tensor += 0.02 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(i))
    names = (collate, hidden_states, icft_losses, math, copy, memory_item, new_item, normalizers, token_kl, torch)
    namespace = {one.__name__: one for one in names} | dict(adapter_tensors=adapter_tensors, T=math.inf)
    return namespace | dict(
        model=model, tokenizer=tokenizer, head=head_weight(model), encoder=Encoder(tokenizer), shown=[example()]
    )


def test_the_labels_of_the_learner_train_a_conversation(book, adapted_base):
    check_core_exercise(book, adapted_base, "chat_labels", ["they agree: True"], LABELS)


def test_a_step_runs_with_the_token_kl_of_the_learner(book, adapted_base, example):
    from icft_lite import LongTermMemory

    memory = LongTermMemory(size=2)
    memory.add([example(), example(id="two", prompt="Define fever.")], adapted_base["encoder"], "general")
    memory.refresh(adapted_base["model"])
    numbers = ["equal: True gradients equal: True"]
    check_core_exercise(book, adapted_base | dict(memory=memory), "my_token_kl", numbers, KL)


def test_the_solutions_are_the_packages_losses(book):
    """The lesson's own versions against the package, on other numbers than the exercises use."""
    space = dict(math=math, torch=torch)
    for _, solution in exercises(book):
        exec(solution, space)
    torch.manual_seed(3)
    z, q = torch.randn(5), torch.randn(5).softmax(0)
    states = z.expand(5, 5).clone().requires_grad_()
    fine_tune_loss(token_logprobs(states, torch.eye(5), torch.arange(5)), q).backward()
    ours = torch.tensor(space["soft_gradient"](z.tolist(), q.tolist()))
    torch.testing.assert_close(ours, states.grad.sum(0), atol=1e-5, rtol=1e-4)
    student, teacher, head = torch.randn(7, 4), torch.randn(7, 4), torch.randn(11, 4)
    for temperature in (2.0, math.inf):
        mine, theirs = (kl(student, teacher, head, temperature) for kl in (space["my_token_kl"], token_kl))
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def test_labels_are_those_of_the_chat_format_with_and_without_history(book, base):
    _, tokenizer = base
    space = {}
    exec(next(solution for _, solution in exercises(book) if "chat_labels" in solution), space)
    talk = [dict(role="user", content="Hello."), dict(role="assistant", content="pain")]
    for messages in (talk, [*talk, dict(role="user", content="Why?"), dict(role="assistant", content="fever")]):
        prompt, (reply,) = Encoder(tokenizer).chat_format.encode(messages[:-1], [messages[-1]["content"]])
        assert space["chat_labels"](messages, tokenizer) == (prompt + reply, [-100] * len(prompt) + reply)


def test_the_limit_of_the_derivation_is_the_packages():
    """T²·KL at a large T, in float64 because it is a difference of nearly equal numbers, against half the variance."""
    z, u = torch.randn(2, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    log_s, log_t = (z / 1e4).log_softmax(-1), (u / 1e4).log_softmax(-1)
    at_large_t = 1e8 * (log_t.exp() * (log_t - log_s)).sum()
    identity = torch.eye(50)
    at_infinity = token_kl(z[None].float(), u[None].float(), identity, math.inf)
    assert float(at_infinity) == pytest.approx(float(at_large_t), rel=1e-3)


def test_the_settings_that_the_lesson_teaches_are_those_of_runs(book):
    """Those of `tiny` are constants in the lesson's step; those of chat models are in its table."""
    page = next(cell.source for cell in cells(book, "markdown") if "**What runs use**" in cell.source)
    rows = dict(re.findall(r"^\| `loss\.(\w+)` \| .* \| (.+) \|$", page, re.M))
    chat = ICFTConfig.from_dict({"model": "smollm2"}).loss
    assert float(rows["temperature"]) == chat.temperature
    assert rows["consistency_tokens"].strip("`") == chat.consistency_tokens
    assert float(rows["consistency_weight"]) == chat.consistency_weight
    assert ICFTConfig().loss.temperature is None and ICFTConfig().loss.consistency_tokens == "all"
    step = next(cell.source for cell in cells(book, "code") if "WEIGHTS, T =" in cell.source)
    (weight,) = re.findall(r"^\| `loss\.consistency_weight` \| (\S+) \|", page, re.M)
    assert f'"consistency": {weight}' in step and "math.inf" in step
    assert ICFTConfig().loss.consistency_weight == float(weight) and not ICFTConfig().weak.soft_labels


def test_the_measured_numbers_are_those_of_the_experiments(book):
    page = next(cell.source for cell in cells(book, "markdown") if "**Why it is off.**" in cell.source)
    documented = (ROOT / "docs" / "experiments.md").read_text(encoding="utf-8").replace("**", "")
    rows = re.findall(r"^\| (soft|hard).* \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.M)
    assert len(rows) == 4
    for labels, weight, alpha, *scores in rows:
        row = " | ".join([f"| ICFT, {labels} labels, weight {weight}", alpha, *scores]) + " |"
        assert row in documented, row


def test_the_figures_draw_their_data():
    figure = gradient_figure(["a", "b"], {"one": ([0.1, -0.1], [0.1, -0.1]), "two": ([0, 0.2], [0, 0.2])}, limit=0.5)
    assert [[bar.get_height() for bar in axis.patches] for axis in figure.axes] == [[0.1, -0.1], [0, 0.2]]
    (axis,) = pair_figure([-1.0, 0.0, 1.0], {1.0: [3, 2, 1], 0.8: [2, 1, 0.5], 0.5: [1, 0.7, 1]}).axes
    assert [line.get_xydata().tolist() for line in axis.lines if len(line.get_xdata()) == 1] == [[[1, 0.5]], [[0, 0.7]]]
    runs = {"weight 0": [0.0, 2.0], "weight 1.2": [0.0, 0.5]}
    left, right = drift_figure(runs, ["x"], {"weight 0": [4.0], "weight 1.2": [1.0]}).axes
    assert [line.get_ydata().tolist() for line in left.lines] == list(runs.values())
    assert [bar.get_height() for bar in right.patches] == [4.0, 1.0]


def test_the_diagram_shows_two_states_and_one_head():
    (axes,) = diagram.draw().axes
    texts = [text.get_text() for text in axes.texts]
    assert sum("final hidden" in text for text in texts) == 2 and sum("frozen\nhead" in text for text in texts) == 1
    assert any("cached" in text for text in texts) and diagram.draw.__doc__


def test_the_page_of_failures_holds_the_checks_that_are_run(book):
    page = next(cell.source for cell in cells(book, "markdown") if "| symptom |" in cell.source)
    run = next(cell.source for cell in cells(book, "code") if cell.source.find("checks = {") >= 0)
    snippets = re.findall(r"\| `(.*)` \|$", page, re.M)
    assert len(snippets) == run.count("lambda: ") >= 10
    for snippet in snippets:
        assert f"lambda: {snippet}," in run, snippet
    broken = "\n".join(cell.source for cell in cells(book, "code") if "failing()" in cell.source)
    assert broken.count("failing())") >= 6, "the lesson breaks things to show that checks can fail"


def test_the_lesson_is_short(book):
    check_size(book)
    assert len(book.cells) <= 85


def test_the_stored_step_has_a_loss_above_zero():
    """Otherwise the learner's function would be compared where the student still equals its teacher."""
    use = next(cell for cell in cells(notebook(SOURCE), "code") if "kl_of(" in cell.source)
    assert float(re.search(r"L_consistency: ([\d.]+)", use.outputs[0].text)[1]) > 0.01
