"""The panel that asks several models, without a browser: what a person does is done to the widgets' values."""

import re
import threading
import time

import pytest

from icft_lite.errors import ICFTError
from icft_lite.widgets import ask_panel, ask_table
from icft_lite.widgets.ask import KEPT

MODELS = {"upper": str.upper, "length": lambda text: str(len(text))}


def parts(panel):
    examples, row, answers = panel.children
    question, button = row.children
    return examples, question, button, answers


def cells(table):
    return re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", table, re.S)


def test_a_table_has_a_line_for_each_question_and_a_column_for_each_model():
    table = ask_table(MODELS, ["one", "three"])
    assert cells(table.data) == ["question", "upper", "length", "one", "ONE", "3", "three", "THREE", "5"]
    assert cells(ask_table(MODELS, []).data) == ["question", "upper", "length"]


def test_whatever_is_said_or_typed_is_escaped():
    evil = "<script>alert('x')</script> & \"more\""
    panel = ask_panel({"<b>": lambda text: text}, [evil])
    examples, question, button, answers = parts(panel)
    question.value = evil
    for shown in (ask_table({"<b>": lambda text: text}, [evil]).data, answers.value):
        assert "<script" not in shown and "<b>" not in shown
        assert shown.count("&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &quot;more&quot;") == 2


def test_enter_asks():  # Enter commits the field's value; the browser sends nothing before
    examples, question, button, answers = parts(ask_panel(MODELS))
    assert not question.continuous_update
    question.value = "  hello "
    assert cells(answers.value)[3:] == ["hello", "HELLO", "5"]


def test_the_button_asks_and_the_click_after_leaving_the_field_does_not_ask_twice():
    asked = []
    examples, question, button, answers = parts(ask_panel({"echo": lambda text: asked.append(text) or text}))
    button.click()
    assert asked == [] and len(cells(answers.value)) == 2  # an empty question asks nobody
    question.value = "why?"
    button.click()
    assert asked == ["why?"]
    question.value = "how?"
    question.value = "why?"
    assert asked == ["why?", "how?", "why?"]


def test_two_callbacks_at_once_ask_once():
    """As JupyterLab may run them: the field, when it is left, and the button that was clicked."""
    asked, both = [], threading.Barrier(2)

    def slow(text):
        asked.append(text)
        time.sleep(0.2)
        return text

    examples, question, button, answers = parts(ask_panel({"slow": slow}))
    with question.hold_trait_notifications():
        question.value = "why?"

        def click():
            both.wait()
            button.click()

        other = threading.Thread(target=click)
        other.start()
        both.wait()
    other.join()
    assert asked == ["why?"] and cells(answers.value)[2:] == ["why?", "why?"]


def test_choosing_an_example_asks_it_and_typing_another_frees_the_choice():
    examples, question, button, answers = parts(ask_panel(MODELS, ["first", "second"]))
    assert [text for _, text in examples.options] == ["", "first", "second"]
    examples.value = "second"
    assert question.value == "second" and cells(answers.value)[3] == "second"
    question.value = "mine"
    assert examples.value == "" and cells(answers.value)[3] == "mine"
    examples.value = "second"
    assert cells(answers.value)[3] == "second"


def test_the_newest_questions_are_kept_newest_first():
    examples, question, button, answers = parts(ask_panel(MODELS))
    for number in range(KEPT + 2):
        question.value = f"q{number}"
    assert cells(answers.value)[3::3] == [f"q{number}" for number in range(KEPT + 1, 1, -1)]


def test_a_refusal_is_shown_and_a_bug_is_not_hidden():
    def refuse(text):
        raise ICFTError("too long; shorten it")

    def fail(text):
        raise RuntimeError("a bug")

    examples, question, button, answers = parts(ask_panel({"strict": refuse, "other": str.upper}))
    question.value = "x"
    assert cells(answers.value)[3:] == ["x", "(too long; shorten it)", "X"]
    examples, question, button, answers = parts(ask_panel({"broken": fail}))
    with pytest.raises(RuntimeError, match="a bug"):
        question.value = "x"
    assert cells(answers.value) == ["question", "broken"]  # and the panel does not wait for ever


def test_a_slow_model_is_waited_for_in_sight_and_with_all_controls_alive():
    def look(text):
        seen.append((cells(answers.value), button.disabled, question.disabled))
        return "done"

    seen = []
    examples, question, button, answers = parts(ask_panel({"slow": look}))
    question.value = "first"
    question.value = "second"
    assert seen[1] == (["question", "slow", "second", "…", "first", "done"], False, False)


@pytest.mark.parametrize("build", [ask_panel, ask_table])
def test_nobody_to_ask_is_an_error(build):
    with pytest.raises(ICFTError, match="none to ask"):
        build({}, [])


def test_every_control_is_a_native_one_with_a_label():
    """So Tab reaches it, Enter or the arrows work it, and a screen reader names it."""
    controls = parts(ask_panel(MODELS, ["first"]))
    assert [type(control).__name__ for control in controls] == ["Dropdown", "Text", "Button", "HTML"]
    assert all(control.description for control in controls[:3])


def test_the_embedded_model_answers_in_the_panel():
    """No stand-in: the real model, through the same callables that the lesson uses."""
    from functools import partial

    from icft_lite.modeling.base import load_base
    from icft_lite.modeling.generation import generate_reply

    model = partial(generate_reply, *load_base())
    examples, question, button, answers = parts(ask_panel({"base": model}))
    question.value = "What is the capital of France?"
    said = cells(answers.value)[3]
    assert said == model("What is the capital of France?") and said
    question.value = "why " * 400
    assert "max_length" in cells(answers.value)[3]
