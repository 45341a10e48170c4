"""Lesson 06: what it builds by hand agrees with the package, its exercises judge rightly, its page is what it runs."""

import importlib.util
import math
import re
from pathlib import Path

import pytest
import torch
from test_notebooks import build, cells, check_exercise, exercises

from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.losses import fine_tune_loss, token_kl, token_logprobs
from icft_lite.modeling.packing import join_batch

SOURCE = Path(build.HERE) / "src" / "06_losses.py"
pytestmark = pytest.mark.skipif(importlib.util.find_spec("jupytext") is None, reason="builds a notebook")


@pytest.fixture(scope="module")
def book():
    return build.read(SOURCE)


@pytest.fixture
def namespace():
    return dict(math=math, torch=torch, token_kl=token_kl)


def test_the_token_table_colors_what_the_package_supervises(book, base, example):
    import html

    from IPython.display import HTML

    _, tokenizer = base
    space = dict(html=html, HTML=HTML, join_batch=join_batch, tokenizer=tokenizer)
    exec(next(cell.source for cell in cells(book, "code") if "from-scratch" in cell.metadata.get("tags", ())), space)
    examples = [example(), example(prompt="Is <b>90 & more</b> high, or is it not?", responses=["yes"])]
    encoded = [Encoder(tokenizer)(one) for one in examples]
    lines = re.findall(r"<p style[^>]*>(.*?)</p>", space["token_table"](encoded).data, re.S)
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
        [
            "def consistency(s, t, head, T):\n"
            f"    a, b = ((x @ head.T / T).log_softmax(-1) for x in (s, t))\n    return {body}"
            for body in (
                "(b.exp() * (b - a)).sum(-1).mean()",
                "T**2 * (a.exp() * (a - b)).sum(-1).mean()",
                "T**2 * (b.exp() * (b - a)).sum(-1).sum()",
                "T**2 * (b.exp() * (b - a)).mean()",
            )
        ],
    ]
    for number in range(len(wrong)):
        check_exercise(book, number, wrong, namespace)


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
    torch.testing.assert_close(
        space["consistency"](student, teacher, head, 2.0),
        token_kl(student, teacher, head, 2.0).mean(),
        atol=1e-5,
        rtol=1e-4,
    )


def test_the_page_of_failures_holds_the_checks_that_are_run(book):
    page = next(cell.source for cell in cells(book, "markdown") if "| symptom |" in cell.source)
    run = next(cell.source for cell in cells(book, "code") if cell.source.find("checks = {") >= 0)
    snippets = re.findall(r"\| `(.*)` \|$", page, re.M)
    assert len(snippets) == run.count("lambda: ") >= 10
    for snippet in snippets:
        assert f"lambda: {snippet}," in run, snippet
    broken = "\n".join(cell.source for cell in cells(book, "code") if "failing()" in cell.source)
    assert broken.count("failing())") >= 6, "the lesson breaks things to show that checks can fail"
