"""Right answers and medical content in replies, against replies labelled by hand; and what is computed from them."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from icft_lite.chat_checks import intrusions, is_right, medical_terms, passed_checks, reply_words
from icft_lite.chat_metrics import chat_retention, encode_replies, evaluate_chat, score_replies
from icft_lite.data.chat_suite import ChatItem, chat_suite
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.scoring import score_responses

LABELS = json.loads((Path(__file__).parent / "chat_labels.json").read_text(encoding="utf-8"))
"""Replies of SmolLM2-135M-Instruct (Q4_1, greedy) and written ones, labelled by one annotator (an AI model) by reading.

answers: the first 40 tokens of replies to 100 questions of the test part, drawn at random among those that were not
used to write the matcher, and whether they answer the question rightly. The labels were stored before the matcher was
run on these replies: agreement 0.94 (95 % Wilson interval 0.88 to 0.97). Because of one of the six differences,
"honeybee" was then added as an alias of "bee". The matcher itself was not changed.

intrusion: whether a reply has medical content. 47 replies of the base, and 53 written in the style of models that were
trained on the medical samples, by the author of the list, who knew it: they show what the list finds and misses, and
are no estimate for the replies of a tuned model.

tuned_intrusion: the same for replies of fine-tuned models: 60 of plain LoRA and 40 of ICFT, as trained, drawn at random
from the records of the study of `smollm2`, with the base's reply. They were labelled before the list was run on them.
"""
CITIES = ("Paris", "Guatemala", "Port Vila")


@pytest.mark.parametrize(
    "reply, accepted, others, right",
    [
        ("The capital is PARIS.", ["Paris"], ["Rome"], True),
        ("Parisian cafés", ["Paris"], ["Rome"], False),  # word boundaries
        ("It is Paris, not Rome.", ["Paris"], ["Rome"], False),  # another option
        ("São Tomé", ["Sao Tome"], CITIES, True),
        ("Nuku‘alofa, N’Djamena", ["N'Djamena"], CITIES, True),
        ("Guatemala City", ["Guatemala City"], CITIES, True),  # the longest match
        ("Guatemala", ["Guatemala City"], CITIES, False),
        ("Equatorial Guinea", ["Guinea"], ["Equatorial Guinea"], False),
        ("Guinea", ["Guinea"], ["Equatorial Guinea"], True),
        ("They are mammals.", ["mammal"], ["fish"], True),  # plural
        ("two wolves", ["wolf"], ["fox"], True),
        ("a throat", ["throats"], ["cats"], False),  # not the singular
        ("It has four.", ["4"], ["6"], True),
        ("Forty-two!", ["42"], ["40"], True),
        ("35 + 33 = 68", ["68"], ["28"], True),
        ("68.5", ["68"], [], False),
        ("68.", ["68"], [], True),
        ("1,000", ["1000"], [], True),
        ("It is -6.", ["6"], [], False),
        ("3-6", ["6"], [], True),
        ("the Earth", ["Earth"], [], True),
        ("an elephant", ["the elephant"], [], True),
        ("", ["Paris"], [], False),
    ],
)
def test_a_right_answer(reply, accepted, others, right):
    assert is_right(reply, accepted, others) is right


def test_words_are_compared_without_case_accents_and_apostrophes():
    assert reply_words("It's Sao Tomé: forty-two.") == ["its", "sao", "tome", "42"]


def test_the_matcher_agrees_with_replies_labelled_by_hand():
    items = {item.id: item for item in chat_suite("test")}
    rows = LABELS["answers"]
    assert len(rows) == 100 and 30 <= sum(row["right"] for row in rows) <= 70
    found = [is_right(row["reply"], items[row["id"]].accepted, items[row["id"]].others) for row in rows]
    agreement = np.mean([value == row["right"] for value, row in zip(found, rows)])
    print(f"agreement {agreement:.2f}; differences:", [row for value, row in zip(found, rows) if value != row["right"]])
    assert agreement >= 0.9  # measured blind: 0.94


def test_medical_content_agrees_with_replies_labelled_by_hand():
    rows = LABELS["intrusion"]
    assert len(rows) == 100
    found = {
        name: [bool(intrusions(row["reply"])) for row in rows if row["source"] == name] for name in ("base", "written")
    }
    agreement = np.mean([bool(intrusions(row["reply"])) == row["intruded"] for row in rows])
    print(f"agreement {agreement:.2f}; found in {np.mean(found['base']):.2f} of the base's replies")
    assert agreement >= 0.95 and np.mean(found["base"]) <= 0.03
    assert [
        row["reply"]
        for row in rows
        if not row["intruded"] and row["source"] == "written" and medical_terms(row["reply"])
    ] == []


def test_the_list_of_medical_terms_is_right_about_what_it_finds_in_replies_of_tuned_models():
    """It finds half of the intrusions, so that rates of intrusion are lower bounds."""
    rows = LABELS["tuned_intrusion"]
    assert [sum(row["source"] == name for row in rows) for name in ("plain", "icft")] == [60, 40]
    found = [bool(intrusions(row["reply"], row["base_reply"])) for row in rows]
    intruded = [row["intruded"] for row in rows]
    print(f"found {sum(found)} of {sum(intruded)} intrusions in {len(rows)} replies")
    assert sum(intruded) == 12 and sum(found) >= 6
    assert not [row["reply"] for row, one in zip(rows, found) if one and not row["intruded"]]


def test_terms_that_the_base_uses_are_no_intrusion():
    assert intrusions("Fruits contain vitamins.", "They have vitamins.") == set()
    assert intrusions("Fruits contain vitamins. See a doctor.", "They have vitamins.") == {"doctor"}


def test_checks_of_numbers_and_languages():
    assert passed_checks("In total, 5 + 3 = 8 apples.", ["number:8", "number:3"]) == [True, False]
    assert passed_checks("El gato está en la mesa.", ["language:es", "language:fr"]) == [True, False]
    assert passed_checks('Here: {"a": 1, "b": "x"}', ["json:a b", "json:a"]) == [True, False]
    assert passed_checks("{a: 1}", ["json:a"]) == [False]
    assert passed_checks('{"flight": {"number": "AF 12"}, "to": "Paris"}', ["json:flight to"]) == [True]
    assert passed_checks("**Farm:**\n- cow\n- pig\n- sheep", ["items:3-3"]) == [True], "a bold line is no item"
    assert passed_checks("**Clean**\n**Tidy**", ["bullets:2-2"]) == [False]
    assert passed_checks("It is a fruit or a tool.", ["label:fruit|fruit, animal, or tool"]) == [False]


# --- scores and retention

SUITE = [
    ChatItem("q1", "capital", "France", "Capital of France?", ("Paris",), ("Rome",)),
    ChatItem("q2", "capital", "Italy", "Capital of Italy?", ("Rome",), ("Paris",)),
    ChatItem("i1", "email", "a desk", "Write an email about a desk.", checks=("starts:Hello", "any:desk")),
    ChatItem("i2", "poem", "rain", "Write a line about rain.", checks=("any:rain",)),
]
BASE = {"q1": "It is Paris.", "q2": "It is Rome.", "i1": "Hello team, my desk is old.", "i2": "The rain falls."}
TUNED = {"q1": "It is Paris.", "q2": "nephritis", "i1": "My desk is old.", "i2": "The rain falls. See a doctor."}


def test_scores_and_retention_in_closed_form(base):
    _, tokenizer = base
    before, after = score_replies(SUITE, BASE, tokenizer), score_replies(SUITE, TUNED, tokenizer, BASE)
    assert before["items"] == dict.fromkeys(BASE, 1.0) and after["items"] == dict(q1=1.0, q2=0.0, i1=0.0, i2=1.0)
    assert after["free"] == dict(value=0.5, n=2, by_topic=dict(capital=dict(value=0.5, n=2)))
    assert after["instructions"]["value"] == 0.5 and after["instructions"]["checks"] == 2 / 3
    assert (after["instructions"]["seen"], after["instructions"]["unseen"]) == (0.0, 1.0)
    assert (before["intrusion"], after["intrusion"], before["words"]) == (0.0, 0.5, 3.75)
    retention = chat_retention(before, after, SUITE)
    assert (retention.value, retention.free, retention.instructions, retention.still_right) == (0.5, 0.5, 0.5, 0.5)
    assert retention.low <= retention.value <= retention.high
    assert chat_retention(before, before, SUITE)[:3] == (1.0, 1.0, 1.0)
    json.dumps(after)


def test_retention_without_a_right_answer_of_the_base_is_undefined(base):
    _, tokenizer = base
    before = score_replies(SUITE, dict.fromkeys(BASE, "no idea"), tokenizer)
    assert math.isnan(chat_retention(before, before, SUITE).value)


def test_only_the_first_40_tokens_of_an_answer_count(base):
    _, tokenizer = base
    late = "a " * 60 + "Paris"
    assert len(tokenizer.encode(late)) > 50
    assert score_replies(SUITE[:1], {"q1": late}, tokenizer)["free"]["value"] == 0.0


def test_replies_longer_than_max_length_are_compared_too(base):
    _, tokenizer = base
    replies = {**BASE, "q1": "Paris is the capital of France, " * 8}
    short = Encoder(tokenizer, 24)
    whole, cut = (encode_replies(SUITE, replies, encoder) for encoder in (Encoder(tokenizer), short))
    assert [one.sequences for one in cut] == [one.sequences for one in whole] and short.max_length == 24
    assert max(one.length for one in cut) > 24


def test_a_model_is_compared_with_its_base_on_the_replies_of_both(adapted, shake):
    model, tokenizer = adapted
    encoder, suite = Encoder(tokenizer, 384), [*chat_suite("test")[:200:40], *chat_suite("display")]
    before = evaluate_chat(model, tokenizer, encoder, suite)
    same = evaluate_chat(model, tokenizer, encoder, suite, "slow", before["replies"])
    assert same["replies"] == before["replies"] and "nll" not in before
    assert abs(same["kl_base_tuned"]) < 1e-6 and abs(same["kl_tuned_base"]) < 1e-6 and same["intrusion"] == 0
    shake(model, "slow", 0.2)
    after = evaluate_chat(model, tokenizer, encoder, suite, "slow", before["replies"])
    print({key: after[key] for key in ("nll", "kl_base_tuned", "kl_tuned_base", "words")}, same["nll"])
    assert after["nll"] > same["nll"] and after["kl_base_tuned"] > 1e-3 and after["kl_tuned_base"] > 1e-3
    assert after["kl_base_tuned"] != pytest.approx(after["kl_tuned_base"])
    short = [item for item in suite if before["replies"][item.id]]
    encoded = [encoder({**item.example, "responses": [before["replies"][item.id]], "label": 0}) for item in short]
    with use_adapter(model, None):
        scores = score_responses(model, encoded)
    assert same["nll"] == pytest.approx(
        -sum(s["logp"][0] for s in scores) / sum(s["tokens"][0] for s in scores), rel=1e-4
    )


def test_hundreds_are_numbers_and_the_word_answer_introduces_one():
    assert reply_words("One hundred, a hundred, three hundred") == ["100", "a", "100", "300"]
    assert is_right("It is one hundred.", ("100",), ("90",)) and not is_right("Two hundred.", ("100",), ("200",))
    assert not any("answer" in item.others for part in ("test", "validation") for item in chat_suite(part))
