"""The chat panel with the embedded model: it writes in a thread, and Stop stops it."""

import re
import threading

import pytest

from icft_lite.chat import ChatSession
from icft_lite.widgets import chat_panel, chat_table

LONG = "What is the capital city of Bhutan, and what is it?"
HOT = dict(temperature=10.0, max_new_tokens=60)  # so hot that it rambles


def cells(html):
    return re.findall(r"<td[^>]*>(.*?)</td>", html, re.S)


@pytest.fixture(scope="module")
def rambling(base):
    """(seed, reply): a hot reply of 12 words or more."""
    for turn in range(50):
        talk = ChatSession(*base)
        talk.turn = turn
        whole = talk.reply(LONG, **HOT)
        if len(whole.split()) >= 12:
            return turn, whole


@pytest.fixture
def panel(base):
    panel = chat_panel(*base)
    yield panel
    panel.stop.click()
    assert panel.wait(60)


def test_the_reply_is_the_models_and_the_field_is_free_again(panel, base):
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


def test_stop_ends_the_reply_under_way(panel, rambling):
    """The click comes, as from a page, while the model writes: after its first word. That word's last token was out
    then, so no other follows."""
    panel.talk.turn, whole = rambling
    seen = []

    def click(_):
        said = panel.asked[0][1].strip()
        if said not in ("…", "") and not seen:
            seen.append(said)
            panel.stop.click()

    panel.replies.observe(click, "value")
    panel.temperature.max = 10.0
    panel.temperature.value, panel.tokens.value = HOT["temperature"], HOT["max_new_tokens"]
    panel.question.value = LONG
    assert panel.wait(60)
    typed, said, how = panel.asked[0]
    assert how == "temperature 10.0, stopped" and typed == LONG
    assert whole.startswith(said) and said.startswith(seen[0])
    assert len(said.split()) <= len(seen[0].split()) + 1 <= len(whole.split()) / 2


def test_a_late_click_on_stop_does_not_end_the_next_reply(panel, base):
    panel.question.value = LONG
    assert panel.wait(60)
    panel.stop.click()
    panel.question.value = "What is the capital of France?"
    assert panel.wait(60)
    assert (
        panel.asked[0][1] == ChatSession(*base).reply("What is the capital of France?")
        and panel.asked[0][2] == "greedy"
    )


def test_one_reply_at_a_time_and_the_second_question_stays_in_the_field(panel):
    seen = []

    def ask_again(change):
        if not seen:
            seen.append(True)
            panel.question.value = "What is the capital of France?"

    panel.replies.observe(ask_again, "value")
    panel.question.value = LONG
    assert panel.wait(60) and len(panel.asked) == 1
    assert panel.question.value == "What is the capital of France?"
    panel.submit.click()
    assert panel.wait(60) and [asked[0] for asked in panel.asked] == ["What is the capital of France?", LONG]


def test_a_click_waits_for_another_controls_callback(panel):
    """JupyterLab may run each control's callback in a thread of its own: whether one is writing is asked one by one."""
    click = threading.Thread(target=panel.submit.click)
    with panel.question.hold_trait_notifications():
        panel.question.value = LONG
        with panel.sending:
            click.start()
            click.join(0.2)
            assert click.is_alive() and not panel.asked
        click.join()
    assert panel.wait(60) and [asked[0] for asked in panel.asked] == [LONG]


def test_most_tokens_and_temperature_are_obeyed(panel, base):
    panel.tokens.value, panel.temperature.value = 3, 2.0
    panel.question.value = LONG
    assert panel.wait(60)
    _, said, how = panel.asked[0]
    assert how == "temperature 2.0" and len(base[1](said, add_special_tokens=False).input_ids) <= 3
    assert said == ChatSession(*base).reply(LONG, temperature=2.0, max_new_tokens=3)


def test_what_is_typed_is_escaped_and_too_long_a_question_is_refused(panel):
    panel.question.value = "<script>alert(1)</script>"
    assert panel.wait(60) and "<script" not in panel.replies.value and "&lt;script&gt;" in panel.replies.value
    panel.question.value = "why " * 600
    assert panel.wait(60) and "max_length" in panel.asked[0][1]


def test_text_comes_word_by_word_and_a_set_event_stops_at_the_first_token(base, rambling):
    told, stop, talk = [], threading.Event(), ChatSession(*base)
    talk.turn, whole = rambling
    assert talk.reply(LONG, **HOT, told=told.append) == whole
    assert len(set(told)) > 5 and all(b.startswith(a) for a, b in zip(told, told[1:])) and told[-1].strip() == whole
    stop.set()
    assert len(base[1](ChatSession(*base).reply(LONG, **HOT, stop=stop), add_special_tokens=False).input_ids) <= 1


def test_an_error_is_shown_and_not_swallowed(panel, monkeypatch):
    raised = []
    monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_type))
    panel.talk.tokenizer = None  # a bug
    panel.question.value = "x"
    assert panel.wait(60)
    assert raised and "failed" in panel.asked[0][1]


def test_every_control_is_a_native_one_with_a_label(panel):
    controls = [panel.temperature, panel.tokens, panel.question, panel.submit, panel.stop]
    assert all(control.description and not control.disabled for control in controls)
    assert [control for row in panel.children[:2] for control in row.children] == controls


def test_the_static_table_says_the_same(base):
    html = chat_table(*base, ["What is the capital of France?"]).data
    said = ChatSession(*base).reply("What is the capital of France?")
    assert cells(html) == ["What is the capital of France?", said, "greedy"]
