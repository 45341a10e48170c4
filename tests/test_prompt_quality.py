"""The filter of self-generated prompts, and the trimming of replies that repeat themselves."""

from collections import Counter

import pytest

from icft_lite.data.overlap import shingles
from icft_lite.memory import rehearsal
from icft_lite.memory.prompt_quality import is_near_duplicate, reject_reason, trim_loop, whole_sentences
from icft_lite.memory.rehearsal import BLOCKED, generate_self_prompts
from icft_lite.modeling.encoding import Encoder


@pytest.mark.parametrize(
    "text, trimmed",
    [
        ("1111111111111111", "1"),
        ("I am afraid of rain. I am afraid of rain. I am afraid of rain. I am", "I am afraid of rain."),
        ("Teams:\n\n1. Lions\n2. Lions\n3. Lions\n4. Lions", "Teams:\n\n1. Lions"),
        ("go left and right and right and right and", "go left and right"),
        ("so it is so it is so it is so 1. Rest. 2. Rest. 3. Rest. 4. Rest.", "so it is"),
    ],
)
def test_a_loop_is_cut_after_its_first_unit(text, trimmed):
    assert trim_loop(text) == trimmed and reject_reason(f"Say this: {text}") == "loop"


@pytest.mark.parametrize(
    "text",
    [
        "1. Lions\n2. Tigers\n3. Bears",
        "No, no, no. In 2000 they paid 1000.",
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10",
        "| a | b |\n| --- | --- | --- | --- |\n",
        "To be fair, to be kind. ",
        "Lions and bears. Lions and bears. They sing: ha ha ha.",
    ],
)
def test_lists_numbers_and_tables_are_no_loops(text):
    assert trim_loop(text) == text


@pytest.mark.parametrize(
    "prompt, reason",
    [
        ("", "too short"),
        ("Hello", "too short"),
        ("¿Qué tal está mañana el cañón?", "other script"),
        ("Как дела сегодня?", "other script"),
        ("Tell me a joke.\nUser\nAnother one.", "template text"),
        ("Tell me a joke. [/INST] Why", "template text"),
        ("<|assistant|> Tell me a joke.", "template text"),
        ("Certainly! A good start is tea.", "reply"),
        ("How do I make tea?\n\nI'd be happy to help with that.", "reply"),
        ("What can I do for you?", "reply"),
        ("How do I make tea?", ""),
        ("Explain what a café is.", ""),
        ("My assistant said: sure, yes. Is that polite?", ""),
        ("Yesterday it rained. Why?", ""),
        ("What can I do about noise at night?", ""),
    ],
)
def test_reasons_to_discard_a_prompt(prompt, reason):
    assert reject_reason(prompt) == reason


def test_near_duplicates_share_four_fifths_of_their_shingles():
    seen = [shingles("one two three four five six seven eight nine ten eleven twelve")]  # 9 shingles
    assert is_near_duplicate(shingles("One, two three four five six seven eight nine ten eleven twelve!"), seen)
    assert is_near_duplicate(shingles("one two three four five six seven eight nine ten eleven"), seen)  # 8 of 9
    assert not is_near_duplicate(shingles("two three four five six seven eight nine ten eleven"), seen)  # 7 of 9
    assert not is_near_duplicate(shingles("What is the capital of Nepal?"), [shingles("What is the capital of Peru?")])


def test_outcomes_count_every_prompt_once(base, monkeypatch):
    model, tokenizer = base
    encoder = Encoder(tokenizer)
    after = encoder.chat_format.user_turn()[1]
    texts = ["Say cat.", "say CAT!", "Name a dog.", "Hi", "Sure, yes.", "Name a river.", "Say hat.", "x " * 400]
    ids = encoder.chat_format.token_ids([text + after for text in texts])
    monkeypatch.setattr(rehearsal, "generate_ids", lambda *_, **__: [*ids, ids[0][:2]])
    answers = {"Say cat.": "cat", "Name a dog.": "rex", "Say hat.": ""}
    monkeypatch.setattr(
        rehearsal, "generate", lambda model, tokenizer, encoder, examples, **_: [answers[e["prompt"]] for e in examples]
    )
    outcomes = Counter()
    found = generate_self_prompts(
        model, tokenizer, encoder, len(ids) + 1, lambda text: text in ("Name a river.", "rex"), outcomes=outcomes
    )
    assert [(one["prompt"], one["responses"]) for one in found] == [("Say cat.", ["cat"])]
    expected = {"used": 1, "duplicate": 1, BLOCKED: 2, "too short": 1, "reply": 1, "no reply": 1, "unfinished": 1}
    assert outcomes == {**expected, "loop": 1}


def test_replies_that_repeat_themselves_are_cut(base, monkeypatch):
    model, tokenizer = base
    loop = "It is a cat. " * 5
    monkeypatch.setattr(rehearsal, "generate", lambda model, tokenizer, encoder, examples, **_: [loop] * len(examples))
    found = generate_self_prompts(model, tokenizer, Encoder(tokenizer), 8, max_tokens=40)
    assert found and all(one["responses"] == ["It is a cat."] for one in found)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("A b. C d", "A b."),
        ("1. Apples\n2. Pears\n3. Ban", "1. Apples\n2. Pears"),
        ('He said "yes." And th', 'He said "yes."'),
        ("Done.", "Done."),
        ("In 1999. Then", ""),
        ("It costs 3.5 dollars and", ""),
        ("", ""),
    ],
)
def test_a_reply_that_was_cut_off_ends_with_a_whole_sentence_or_line(text, kept):
    assert whole_sentences(text) == kept
