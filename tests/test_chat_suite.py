"""The chat suite: its contents, checks that can be satisfied and violated, and a memory that reveals nothing."""

from collections import Counter

import pytest

from icft_lite.chat_checks import CHECKS, is_right, medical_terms, passed_checks, reply_words
from icft_lite.data.chat_instructions import KINDS
from icft_lite.data.chat_questions import TOPICS
from icft_lite.data.chat_suite import (
    BODY,
    MAX_SHARED,
    SEEN_KINDS,
    chat_suite,
    held_out_items,
    leak_filter,
    relation_key,
)
from icft_lite.data.overlap import shingles
from icft_lite.data.schema import COLUMNS

PARTS = ("test", "validation", "memory", "display")
ITEMS = {part: chat_suite(part) for part in PARTS}


def test_counts_and_kinds():
    free = {part: [item for item in items if item.accepted] for part, items in ITEMS.items()}
    written = {part: Counter(item.topic for item in items if item.topic in KINDS) for part, items in ITEMS.items()}
    print({part: (len(free[part]), sum(written[part].values())) for part in PARTS})
    assert len(free["test"]) >= 400 and len(free["validation"]) >= 100
    assert sum(written["test"].values()) >= 200 and sum(written["validation"].values()) >= 60
    assert len(ITEMS["memory"]) >= 600 and len(ITEMS["display"]) == 6
    assert len(KINDS) == 15 and len(SEEN_KINDS) == 10
    assert set(written["test"]) == set(written["validation"]) == set(KINDS) and set(written["memory"]) == set(
        SEEN_KINDS
    )
    assert min(Counter(item.topic for item in free["test"]).values()) >= 10


def test_items_are_the_same_in_every_process_and_their_ids_do_not_depend_on_the_order():
    chat_suite.cache_clear()
    assert {part: chat_suite(part) for part in PARTS} == ITEMS
    everything = [item for items in ITEMS.values() for item in items]
    assert len({item.id for item in everything}) == len({item.prompt for item in everything}) == len(everything)
    # data: replies are stored under these ids
    assert [item.id for item in ITEMS["display"]][:2] == ["chat-email-cdb10360", "chat-advice-10437132"]


def test_items_are_canonical_examples():
    assert all(set(item.example) == set(COLUMNS) for items in ITEMS.values() for item in items)


def test_questions_can_be_missed():
    for item in (*ITEMS["test"], *ITEMS["validation"]):
        if item.accepted:
            assert item.others and not set(item.accepted) & set(item.others), item
            assert not is_right(item.prompt, item.accepted, ()), item
        else:
            assert item.checks and all(check.partition(":")[0] in CHECKS for check in item.checks), item


def test_no_prompt_is_about_medicine():
    found = [item.prompt for items in ITEMS.values() for item in items if medical_terms(item.prompt)]
    found += [item.prompt for item in ITEMS["test"] if item.topic in TOPICS and BODY & {*reply_words(item.prompt)}]
    assert found == []


# --- the memory reveals nothing


def shared(text, other):
    return len(shingles(text) & shingles(other)) / len(shingles(text))


def test_no_memory_prompt_is_too_close_to_a_held_out_prompt():
    held_out = held_out_items()
    assert len(held_out) == sum(len(ITEMS[part]) for part in ("test", "validation", "display"))
    texts = {" ".join(reply_words(item.prompt)) for item in held_out}
    keys = {relation_key(item) for item in held_out}
    by_shingle = {}
    for item in held_out:
        for shingle in shingles(item.prompt):
            by_shingle.setdefault(shingle, []).append(item.prompt)
    most = 0.0
    for item in ITEMS["memory"]:
        assert " ".join(reply_words(item.prompt)) not in texts and relation_key(item) not in keys, item
        near = {prompt for shingle in shingles(item.prompt) for prompt in by_shingle.get(shingle, ())}
        most = max([most, *(shared(item.prompt, prompt) for prompt in near)])
    print(f"largest share of 4-grams in a held-out prompt: {most:.2f}")
    assert most < MAX_SHARED
    assert {item.entity for item in ITEMS["memory"] if item.topic in SEEN_KINDS}.isdisjoint(
        item.entity for item in held_out if item.topic in SEEN_KINDS
    )


def test_the_filter_blocks_copies_paraphrases_and_near_copies_of_held_out_prompts():
    held_out = held_out_items()
    blocked = leak_filter(held_out)
    assert all(blocked(item.prompt) and blocked(f"  {item.prompt.upper()} ") for item in held_out)
    assert blocked("BOSNIA and Herzegovina: which capital?"), "same entity, same relation"
    assert blocked("I would like a day off. Write to my boss."), "entity of an instruction"
    assert blocked("Write a polite email asking for a new desk."), "4-grams"
    assert not any(map(blocked, [item.prompt for item in ITEMS["memory"]]))
    for text in ("", "Write a letter to the editor about trams.", "What is the climate of Bosnia and Herzegovina?"):
        assert not blocked(text), text


def test_the_share_of_4_grams_is_that_of_the_memory_prompt():
    blocked = leak_filter([ITEMS["display"][1]])  # Give me three tips for learning to cook.
    assert blocked("Give me three tips for learning") and not blocked("Give me three tips for a long walk in the snow")


# --- constraints: a good and a bad reply for each template

REPLIES = {
    "explain": [
        ("A greenhouse is a house of glass in which plants grow.", "This may be a greenhouse. Call an ambulance now."),
        ("A greenhouse keeps plants warm.", "It is made of glass. Plants grow in it. It is warm."),
    ],
    "list": [("Tea\nCoffee\nCocoa", "Tea\nCoffee"), ("1. Tea\n2. Coffee\n3. Cocoa\n4. Hot milk", "1. Tea\n2. Coffee")],
    "rewrite": [
        ("The market was crowded on Saturday.", "The market was very crowded on Saturday."),
        ("The market was quite crowded on Saturday.", "The market was crowded on Saturday."),
    ],
    "email": [
        ("Subject: Overdue book\n\nGood morning, I am late.", "Good morning,\nmy book is late."),
        ("Hello, my book is late. I will return it today.", "Good morning, my book is late."),
    ],
    "plan": [
        ("1. Choose a park.\n2. Buy food.\n3. Invite friends.", "Choose a park, buy food and invite friends."),
        ("First, choose a park and pack some food.", "You should choose a park and pack food."),
    ],
    "compare": [
        ("Newspapers appear daily, magazines weekly.", "Newspapers appear daily."),
        ("Newspapers appear daily, while magazines appear weekly.", "Newspapers are daily and magazines weekly."),
    ],
    "arithmetic": [("5 + 3 = 8. Hugo has eight cookies.", "5 + 3 = 9"), ("There are two left.", "Three are left.")],
    "advice": [
        ("Take lessons in shallow water.", "Please see next week."),
        ("- Take swimming lessons.\n- Train every week.", "Take swimming lessons and train every week."),
    ],
    "classify": [("City", "Flower"), ("London is a city.", "London is a city or a drink.")],
    "json": [
        ('```json\n{"flight": "LH1026", "destination": "Paris"}\n```', '{"flight": "LH1026", "city": "Paris"}'),
        ('{"flight": 7, "destination": "Paris"}', "The flight goes to Paris."),
    ],
    "summarize": [
        ("Maria now rents boats at the coast.", "Please see a doctor."),
        ("Maria rents boats and teaches sailing.", "Maria moved. She rents boats. She teaches sailing."),
    ],
    "translate": [
        ("Nous vivons dans une petite maison.", "We live in a small house."),
        ('"Vivimos en una casa pequeña."', "Nous vivons dans une petite maison."),
    ],
    "poem": [
        ("An old boat\nlies on the sand\nand waits\nfor the sea.", "An old boat lies on the sand."),
        ("The boat has a dream\nof the sea.", "The boat lies\non the sand."),
    ],
    "extract": [("Luis Vega", "Luis Vega was born in Cadiz in 1902."), ("1902", "Cadiz")],
    "refusal": [
        ("Hello Ana, I can’t eat another piece of cake.", "Hello Ana, I would love some cake."),
        ("I am sorry, but I have had enough cake.", "Sorry for your loss."),
    ],
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_template_accepts_a_good_reply_and_rejects_a_bad_one(kind):
    items = [item for item in ITEMS["test"] if item.topic == kind]
    first, *_ = items
    same_subject = [item for item in items if item.entity == first.entity]
    assert len(same_subject) == len(REPLIES[kind]) == 2
    for item, (good, bad) in zip(same_subject, REPLIES[kind]):
        assert all(passed_checks(good, item.checks)), (item, good)
        assert not all(passed_checks(bad, item.checks)), (item, bad)
        assert not any(passed_checks("", item.checks)), "an empty reply satisfies nothing"


def test_every_check_is_used():
    assert {check.partition(":")[0] for item in ITEMS["test"] for check in item.checks} == set(CHECKS)


def test_replies_of_a_model_that_has_forgotten_how_to_answer_pass_few_instructions():
    replies = (
        "This may be a new recipe. Please phone for an ambulance at once.",
        "Bronchodilator",
        "This may be a day off.",
    )
    items = [item for item in ITEMS["test"] if item.checks]
    for reply in replies:
        assert sum(all(passed_checks(reply, item.checks)) for item in items) <= 0.02 * len(items), reply
