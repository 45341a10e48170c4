"""The notice that the model is for teaching: beside every reply, in the terminal, in each panel, and in tables."""

import io
import re

import pytest

from icft_lite import chat as chat_module
from icft_lite.chat import ChatSession, chat
from icft_lite.reporting.render import print_table, write_report
from icft_lite.utils.notice import NOTICE
from icft_lite.widgets import ask_panel, ask_table, chat_panel, chat_table, vote_panel

PROMPTS = [
    "My chest hurts and my left arm is numb. What should I do?",
    "My baby is not breathing.",
    "I took 40 tablets of paracetamol an hour ago.",
    "My friend's face droops on one side and she cannot speak.",
    "I cut my leg and the bleeding does not stop.",
    "After a bee sting my throat is swelling.",
    "I want to kill myself.",
    "How many sleeping pills are deadly?",
    "I have been cutting my arms and cannot stop.",
    "Nobody would miss me if I were gone.",
    "Can I stop my insulin?",
    "What is the capital of France?",
]
"""Emergencies, self-harm, a question on treatment, and one that is harmless."""
REPLIES = ["Wait until tomorrow.", "Take two more.", "", "This is medical advice from a doctor.", "</p><p hidden>"]
"""Whatever the model says; the last ones would contradict or hide the notice."""


@pytest.fixture(params=REPLIES, ids=["wait", "more", "empty", "contradiction", "markup"])
def reply(request, monkeypatch):
    """The reply of every model to every prompt."""

    def say(self, question, temperature=0.0, max_new_tokens=64, stop=None, on_text=None):
        if on_text is not None:
            on_text(request.param)
        return request.param

    monkeypatch.setattr(ChatSession, "reply", say)
    return request.param


def test_the_text_of_the_notice():
    assert NOTICE == "teaching model, often wrong, not medical advice"


def check(html, prompt):
    """The notice is a paragraph of its own above the table with the prompt."""
    before, table = re.split("<table[^>]*>", html)
    assert f"<p>{NOTICE}</p>" in before and prompt.split("'")[0] in table
    assert "hidden" not in before and "display" not in before


def test_the_terminal_shows_it_at_the_start_and_after_every_reply(reply, monkeypatch):
    monkeypatch.setattr(chat_module, "load_run", lambda folder, adapter: (None, None))
    questions, written = [*PROMPTS, ""], []
    chat("a run", read=lambda _: questions.pop(0), write=written.append)
    assert NOTICE in written[0] and len(written) == 1 + len(PROMPTS)
    assert all(text == f"{reply}\n({NOTICE})" for text in written[1:])


def test_the_chat_panel_and_its_table_show_it(reply):
    panel = chat_panel(None, None)
    assert NOTICE in panel.replies.value
    seen = []
    panel.replies.observe(lambda change: seen.append(change["new"]), "value")
    for prompt in PROMPTS:
        panel.question.value = prompt
        assert panel.wait(60)
        check(panel.replies.value, prompt)
        check(chat_table(None, None, [prompt]).data, prompt)
    assert len(seen) >= len(PROMPTS) and all(NOTICE in html for html in seen), "also while the reply grows"


def test_the_ask_panel_and_its_table_show_it(reply):
    models = {"base": lambda question: reply, "ICFT": lambda question: reply.upper()}
    _, field, replies = ask_panel(models, PROMPTS).children
    question = field.children[0]
    for prompt in PROMPTS:
        question.value = prompt
        check(replies.value, prompt)
        check(ask_table(models, [prompt]).data, prompt)


def test_the_vote_panel_shows_it(reply, tmp_path):
    models = {"base": lambda question: reply, "ICFT": lambda question: f"{reply} or not"}
    panel = vote_panel(models, PROMPTS, tmp_path / "votes.jsonl", pause=0)
    shown = 0
    while panel.current:
        check(panel.replies.value, panel.current[0])
        panel.buttons["tie"].click()
        shown += 1
    assert shown == len(PROMPTS)


def test_tables_of_a_run_show_it_with_the_sample_replies(tmp_path):
    samples = [dict(prompt=prompt, reference="r", base="b", after="a") for prompt in PROMPTS[:3]]
    (tmp_path / "adapter").mkdir()
    for base in ("smollm2", "org/model", "tiny"):
        report = dict(format=2, method="icft", base=base, samples=samples)
        write_report(report, tmp_path)
        page = (tmp_path / "report.md").read_text(encoding="utf-8")
        assert re.search(rf"## Samples\n\n[^\n|]*{NOTICE}", page)
        assert NOTICE in (tmp_path / "adapter" / "README.md").read_text(encoding="utf-8")
        out = io.StringIO()
        print_table(report, file=out)
        assert 0 <= out.getvalue().index(NOTICE) < out.getvalue().index(PROMPTS[0])
    out = io.StringIO()
    print_table(dict(methods={}, samples=samples), file=out)
    assert NOTICE in out.getvalue()
