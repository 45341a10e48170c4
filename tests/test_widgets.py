"""The panel that asks several models, without a browser: the tests set the widgets' values as a person would."""

import re
import threading
import time

import pytest

from icft_lite.errors import ICFTError
from icft_lite.widgets import ask_panel, ask_table
from icft_lite.widgets.ask import MAX_SHOWN

MODELS = {"upper": str.upper, "length": lambda text: str(len(text))}


def parts(panel):
    examples, controls, replies = panel.children
    question, button = controls.children
    return examples, question, button, replies


def cells(table):
    return re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", table, re.S)


def test_a_table_has_a_row_for_each_question_and_a_column_for_each_model():
    table = ask_table(MODELS, ["one", "three"])
    assert cells(table.data) == ["question", "upper", "length", "one", "ONE", "3", "three", "THREE", "5"]
    assert cells(ask_table(MODELS, []).data) == ["question", "upper", "length"]


def test_questions_replies_and_names_are_escaped():
    evil = "<script>alert('x')</script> & \"more\""
    panel = ask_panel({"<b>": lambda text: text}, [evil])
    examples, question, button, replies = parts(panel)
    question.value = evil
    for shown in (ask_table({"<b>": lambda text: text}, [evil]).data, replies.value):
        assert "<script" not in shown and "<b>" not in shown
        assert shown.count("&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;more&quot;") == 2


def test_enter_sends_the_question():  # Enter commits the field's value; the browser sends nothing before
    examples, question, button, replies = parts(ask_panel(MODELS))
    assert not question.continuous_update
    question.value = "  hello "
    assert cells(replies.value)[3:] == ["hello", "HELLO", "5"]


def test_the_button_sends_the_question_and_a_click_after_leaving_the_field_does_not_send_it_twice():
    sent = []
    examples, question, button, replies = parts(ask_panel({"echo": lambda text: sent.append(text) or text}))
    button.click()
    assert sent == [] and len(cells(replies.value)) == 2  # an empty question is not sent
    question.value = "why?"
    button.click()
    assert sent == ["why?"]
    question.value = "how?"
    question.value = "why?"
    assert sent == ["why?", "how?", "why?"]


def test_two_simultaneous_callbacks_send_the_question_once():
    """JupyterLab may run them in two threads: the field, when it loses the focus, and the button that was clicked."""
    sent, both = [], threading.Barrier(2)

    def slow(text):
        sent.append(text)
        time.sleep(0.2)
        return text

    examples, question, button, replies = parts(ask_panel({"slow": slow}))
    with question.hold_trait_notifications():
        question.value = "why?"

        def click():
            both.wait()
            button.click()

        other = threading.Thread(target=click)
        other.start()
        both.wait()
    other.join()
    assert sent == ["why?"] and cells(replies.value)[2:] == ["why?", "why?"]


def test_choosing_an_example_sends_it_and_typing_another_question_clears_the_choice():
    examples, question, button, replies = parts(ask_panel(MODELS, ["first", "second"]))
    assert [text for _, text in examples.options] == ["", "first", "second"]
    examples.value = "second"
    assert question.value == "second" and cells(replies.value)[3] == "second"
    question.value = "mine"
    assert examples.value == "" and cells(replies.value)[3] == "mine"
    examples.value = "second"
    assert cells(replies.value)[3] == "second"


def test_the_newest_questions_are_shown_newest_first():
    examples, question, button, replies = parts(ask_panel(MODELS))
    for number in range(MAX_SHOWN + 2):
        question.value = f"q{number}"
    assert cells(replies.value)[3::3] == [f"q{number}" for number in range(MAX_SHOWN + 1, 1, -1)]


def test_an_icft_error_is_shown_and_a_bug_is_not_hidden():
    def refuse(text):
        raise ICFTError("too long; shorten it")

    def fail(text):
        raise RuntimeError("a bug")

    examples, question, button, replies = parts(ask_panel({"strict": refuse, "other": str.upper}))
    question.value = "x"
    assert cells(replies.value)[3:] == ["x", "(too long; shorten it)", "X"]
    examples, question, button, replies = parts(ask_panel({"broken": fail}))
    with pytest.raises(RuntimeError, match="a bug"):
        question.value = "x"
    assert cells(replies.value) == ["question", "broken"]  # no reply is left pending


def test_a_pending_reply_is_shown_and_all_controls_stay_enabled():
    def look(text):
        seen.append((cells(replies.value), button.disabled, question.disabled))
        return "done"

    seen = []
    examples, question, button, replies = parts(ask_panel({"slow": look}))
    question.value = "first"
    question.value = "second"
    assert seen[1] == (["question", "slow", "second", "…", "first", "done"], False, False)


@pytest.mark.parametrize("build", [ask_panel, ask_table])
def test_no_models_is_an_error(build):
    with pytest.raises(ICFTError, match="no model is given"):
        build({}, [])


def test_every_control_is_a_native_one_with_a_label():
    """Tab reaches a native control, Enter or the arrow keys operate it, and a screen reader reads its label."""
    controls = parts(ask_panel(MODELS, ["first"]))
    assert [type(control).__name__ for control in controls] == ["Dropdown", "Text", "Button", "HTML"]
    assert all(control.description for control in controls[:3])


def test_the_embedded_model_replies_in_the_panel():
    """The real model, through the same callables that the lesson uses."""
    from functools import partial

    from icft_lite.modeling.base import load_base
    from icft_lite.modeling.generation import generate_reply

    model = partial(generate_reply, *load_base())
    examples, question, button, replies = parts(ask_panel({"base": model}))
    question.value = "What is the capital of France?"
    reply = cells(replies.value)[3]
    assert reply == model("What is the capital of France?") and reply
    question.value = "why " * 400
    assert "max_length" in cells(replies.value)[3]
