"""The comparison of two replies: what is marked, and how, without a browser."""

import re

import pytest

from icft_lite.errors import ICFTError
from icft_lite.utils.notice import NOTICE
from icft_lite.widgets import ask_panel, ask_table, compare_panel, compare_table, share_changed
from icft_lite.widgets.compare import HIDDEN, changes

REPLIES = {
    "base": {"one?": "The cat sat down.", "two?": "same words"},
    "tuned": {"one?": "The big cat sat.", "two?": "same words"},
    "other": {"one?": "", "two?": "other"},
}
MODELS = {name: replies.__getitem__ for name, replies in REPLIES.items()}
PAIR = {name: MODELS[name] for name in ("base", "tuned")}


def marked(html):
    """Return the texts of the marks, {element: [text]}, as a screen reader reads them."""
    found = re.findall(r"<(del|ins)\b[^>]*>(.*?)</\1>", html, re.S)
    return {tag: [re.sub(r"<[^>]+>", "", text) for kind, text in found if kind == tag] for tag in ("del", "ins")}


@pytest.mark.parametrize(
    "before, after, share",
    [
        ("a b c", "a b c", 0),
        ("a b c d", "a x c d", 0.25),
        ("", "a", 1),
        ("", "", 0),
        ("a b", "b c", 0.5),
        ("a", "A", 1),
    ],
)
def test_the_share_of_changed_words(before, after, share):
    assert share_changed(before, after) == pytest.approx(share) == share_changed(after, before)


def test_all_words_and_line_breaks_of_both_replies_are_in_the_parts():
    before, after = "First line.\n\nSecond line, with more.", "First line.\n- Second, with more."
    parts = changes(before, after)
    assert "".join("".join(part.before) for part in parts) == before
    assert "".join("".join(part.after) for part in parts) == after
    assert [part.equal for part in parts].count(True) >= 2


def test_frequent_words_of_a_long_reply_are_compared_as_well():
    long = " ".join(["the", "cat"] * 150)
    assert share_changed(long, f"Look: {long}") < 0.01


def test_removed_and_added_words_are_marked_by_decoration_and_for_a_screen_reader():
    html = compare_table(PAIR, ["one?"]).data
    assert marked(html) == {"del": ["removed: sat down."], "ins": ["added: big", "added: sat."]}
    assert '<del style="text-decoration: line-through">' in html
    assert '<ins style="text-decoration: underline; font-weight: bold">' in html
    assert html.count(HIDDEN) == 3 and NOTICE in html
    assert not re.search(r"(?<!-)\b(color|background)\b", html)  # of the theme, light or dark
    assert "(62% of the words differ)" in html or "(50% of the words differ)" in html


def test_equal_replies_have_no_marks():
    html = compare_table(PAIR, ["two?"]).data
    assert marked(html) == {"del": [], "ins": []} and "(0% of the words differ)" in html


def test_replies_questions_and_names_are_escaped():
    evil = "<script>alert('x')</script>"
    html = compare_table({"<b>": lambda text: text, '"': lambda text: f"{text} <i>more</i>"}, [evil]).data
    assert "<script" not in html and "<b>" not in html and "<i>" not in html
    assert 'aria-label="reply of &lt;b&gt;"' in html and 'aria-label="reply of &quot;"' in html
    assert marked(html)["ins"] == ["added: &lt;i&gt;more&lt;/i&gt;"]


def test_the_columns_have_labels_and_wrap_on_a_narrow_screen():
    html = compare_table(PAIR, ["one?", "two?"]).data
    assert html.count('aria-label="reply of base"') == html.count('aria-label="reply of tuned"') == 2
    assert html.count("flex-wrap: wrap") == 2 and html.count("overflow-wrap: anywhere") == 4


def test_the_panel_compares_any_two_models_on_any_question():
    panel = compare_panel(MODELS, ["one?", "two?", "one?"])
    (first, second), (question, previous, after), replies = (
        panel.children[0].children,
        panel.children[1].children,
        panel.children[2],
    )
    assert question.options == ("one?", "two?")
    assert "reply of base" in replies.value and "reply of tuned" in replies.value and marked(replies.value)["ins"]
    after.click()
    assert question.value == "two?" and not marked(replies.value)["ins"]
    second.value = "other"
    assert marked(replies.value) == {"del": ["removed: same words"], "ins": ["added: other"]}
    after.click()
    assert question.value == "one?" and "removed: The cat sat down." in marked(replies.value)["del"]
    first.value = "other"
    assert "reply of base" not in replies.value and not marked(replies.value)["del"]
    previous.click()
    assert question.value == "two?"
    assert 'role="status"' in replies.value  # a screen reader reads what has changed


def test_every_control_is_a_native_one_with_a_label():
    panel = compare_panel(MODELS, ["one?"])
    controls = [*panel.children[0].children, *panel.children[1].children]
    assert [type(control).__name__ for control in controls] == ["Dropdown"] * 3 + ["Button"] * 2
    assert all(control.description for control in controls)


def test_an_error_of_a_model_is_shown_in_place_of_its_reply():
    def refuse(text):
        raise ICFTError("too long")

    assert "too long" in compare_table({"a": refuse, "b": str.upper}, ["x"]).data


@pytest.mark.parametrize("models", [{}, {"a": str}, dict.fromkeys("abc", str)])
def test_a_table_of_another_number_of_models_is_an_error(models):
    with pytest.raises(ICFTError, match=f"{len(models)} given, a comparison needs two"):
        compare_table(models, ["x"])


@pytest.mark.parametrize("models, questions", [({"a": str}, ["x"]), (MODELS, [])])
def test_a_panel_needs_two_models_and_a_question(models, questions):
    with pytest.raises(ICFTError, match="pass two models or more"):
        compare_panel(models, questions)


def test_tables_have_a_name_and_their_box_is_reached_by_keyboard():
    html = ask_table(MODELS, ["one?"]).data
    name = 'aria-label="replies of the models"'
    assert f"<table {name}>" in html and f'<div role="region" {name} tabindex="0" style="overflow-x: auto">' in html


@pytest.mark.parametrize("panel", [ask_panel(MODELS), compare_panel(MODELS, ["one?"])])
def test_rows_of_controls_wrap_and_their_fields_shrink_on_a_narrow_screen(panel):
    rows = [child for child in panel.children if hasattr(child, "children")]
    assert rows and all(row.layout.flex_flow == "row wrap" for row in rows)
    fields = [control for row in rows for control in row.children if not hasattr(control, "button_style")]
    assert fields and all(field.layout.min_width == "0" and field.layout.width == "auto" for field in fields)
