"""The chat panel with the embedded model: it generates in a thread, and Stop ends the reply."""

import re
import threading

import pytest

from icft_lite.chat import ChatSession
from icft_lite.widgets import chat_panel, chat_table

LONG = "What is the capital city of Bhutan, and what is it?"
HOT = dict(temperature=3.0, max_new_tokens=60)  # high enough for long nonsense


def cells(html):
    return re.findall(r"<td[^>]*>(.*?)</td>", html, re.S)


@pytest.fixture(scope="module")
def rambling(base):
    """(seed, reply): a reply of 12 words or more at a high temperature."""
    for turn in range(50):
        session = ChatSession(*base)
        session.turn = turn
        whole = session.reply(LONG, **HOT)
        if len(whole.split()) >= 12:
            return turn, whole


@pytest.fixture
def panel(base):
    panel = chat_panel(*base)
    yield panel
    panel.stop_button.click()
    assert panel.wait(60)


def test_the_reply_is_that_of_the_model_and_the_field_is_empty_again(panel, base):
    panel.question.value = "  What is the capital of France? "
    assert panel.wait(60) and panel.question.value == ""
    expected = ChatSession(*base).reply("What is the capital of France?")
    assert cells(panel.replies.value) == ["What is the capital of France?", expected, "greedy"] and expected
    panel.question.value = "Write the verb repair in the past tense."
    assert panel.wait(60)
    assert cells(panel.replies.value)[0::3] == [
        "Write the verb repair in the past tense.",
        "What is the capital of France?",
    ]


def test_stop_ends_the_current_reply(panel, rambling):
    """The click comes while the model generates, after its first word, as from a page: at most two follow."""
    panel.session.turn, whole = rambling
    seen = []

    def click(_):
        reply = panel.history[0][1].strip()
        if reply not in ("…", "") and not seen:
            seen.append(reply)
            panel.stop_button.click()

    panel.replies.observe(click, "value")
    panel.temperature.max = 10.0
    panel.temperature.value, panel.max_new_tokens.value = HOT["temperature"], HOT["max_new_tokens"]
    panel.question.value = LONG
    assert panel.wait(60)
    question, reply, decoding = panel.history[0]
    assert decoding == "temperature 3.0, stopped" and question == LONG
    assert whole.startswith(reply) and reply.startswith(seen[0])
    assert len(reply.split()) <= len(seen[0].split()) + 2 <= len(whole.split()) / 2


def test_a_late_click_on_stop_does_not_end_the_next_reply(panel, base):
    panel.question.value = LONG
    assert panel.wait(60)
    panel.stop_button.click()
    panel.question.value = "What is the capital of France?"
    assert panel.wait(60)
    _, reply, decoding = panel.history[0]
    assert reply == ChatSession(*base).reply("What is the capital of France?") and decoding == "greedy"


def test_one_reply_at_a_time_and_the_second_question_stays_in_the_field(panel):
    seen = []

    def ask_again(change):
        if not seen:
            seen.append(True)
            panel.question.value = "What is the capital of France?"

    panel.replies.observe(ask_again, "value")
    panel.question.value = LONG
    assert panel.wait(60) and len(panel.history) == 1
    assert panel.question.value == "What is the capital of France?"
    panel.send_button.click()
    assert panel.wait(60) and [question for question, *_ in panel.history] == ["What is the capital of France?", LONG]


def test_a_click_waits_for_another_controls_callback(panel):
    """JupyterLab may run callbacks in two threads; only one at a time checks whether a reply is being generated."""
    click = threading.Thread(target=panel.send_button.click)
    with panel.question.hold_trait_notifications():
        panel.question.value = LONG
        with panel.lock:
            click.start()
            click.join(0.2)
            assert click.is_alive() and not panel.history
        click.join()
    assert panel.wait(60) and [question for question, *_ in panel.history] == [LONG]


def test_max_new_tokens_and_temperature_are_obeyed(panel, base):
    panel.max_new_tokens.value, panel.temperature.value = 3, 2.0
    panel.question.value = LONG
    assert panel.wait(60)
    _, reply, decoding = panel.history[0]
    assert decoding == "temperature 2.0" and len(base[1](reply, add_special_tokens=False).input_ids) <= 3
    assert reply == ChatSession(*base).reply(LONG, temperature=2.0, max_new_tokens=3)


def test_a_question_is_escaped_and_one_that_is_too_long_is_refused(panel):
    panel.question.value = "<script>alert(1)</script>"
    assert panel.wait(60) and "<script" not in panel.replies.value and "&lt;script&gt;" in panel.replies.value
    panel.question.value = "why " * 600
    assert panel.wait(60) and "max_length" in panel.history[0][1]


def test_text_arrives_word_by_word_and_a_set_event_stops_after_the_first_token(base, rambling):
    texts, stop, session = [], threading.Event(), ChatSession(*base)
    session.turn, whole = rambling
    assert session.reply(LONG, **HOT, on_text=texts.append) == whole
    assert len(set(texts)) > 5 and all(b.startswith(a) for a, b in zip(texts, texts[1:])) and texts[-1].strip() == whole
    stop.set()
    assert ChatSession(*base).reply(LONG, **HOT, stop=stop) == ChatSession(*base).reply(
        LONG, **{**HOT, "max_new_tokens": 1}
    )


def test_an_error_is_shown_and_not_hidden(panel, monkeypatch):
    raised = []
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_type))
    panel.session.tokenizer = None  # a bug
    panel.question.value = "x"
    assert panel.wait(60)
    assert raised and "failed" in panel.history[0][1]


def test_every_control_is_a_native_one_with_a_label(panel):
    controls = [panel.temperature, panel.max_new_tokens, panel.question, panel.send_button, panel.stop_button]
    assert all(control.description and not control.disabled for control in controls)
    assert [control for row in panel.children[:2] for control in row.children] == controls


def test_the_static_table_shows_the_same(base):
    html = chat_table(*base, ["What is the capital of France?"]).data
    reply = ChatSession(*base).reply("What is the capital of France?")
    assert cells(html) == ["What is the capital of France?", reply, "greedy"]
