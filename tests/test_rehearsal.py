"""Pseudo-rehearsal, and what it may not hold."""

import numpy as np
import torch

from icft_lite.data.samples import load_samples
from icft_lite.memory.rehearsal import generate_self_prompts, held_out_filter
from icft_lite.modeling.encoding import Encoder


def test_the_filter_knows_an_entity_in_any_wording(row):
    blocked = held_out_filter(
        [
            row(prompt="What is the capital of Bhutan?", entity="Bhutan"),
            row(prompt="Give the sum: 7 plus 33.", entity="7 + 33"),
            row(prompt="Where does the snow leopard live?", entity="snow leopard"),
        ]
    )
    for text in ("Bhutan: capital?", "the people of BHUTAN", "Add 33 and 7.", "33 + 7", "Leopard, snow: home?"):
        assert blocked(text), text
    for text in ("What is the capital of Nepal?", "Add 7 and 34.", "Does snow fall?", ""):
        assert not blocked(text), text


def test_the_filter_does_not_take_words_of_the_wording_for_names(row):
    asked = [
        row(prompt=f"Say the first letter of {word}.", entity=word)
        for word in ("kettle", "first", "lemon", "goat", "harbour", "river")
    ]
    blocked = held_out_filter(asked)
    assert not blocked("The first of May.") and blocked("A goat.") and blocked("Say the first letter of first.")


def test_the_samples_tests_are_blocked_in_other_wordings_and_their_memory_is_not():
    held_out = [dict(one) for name in ("general_test", "general_validation") for one in load_samples(name)]
    blocked = held_out_filter(held_out)
    assert all(blocked(one["prompt"]) for one in held_out)
    topics = ("capital", "animal_young", "addition", "subtraction", "plural")
    named = [one for one in held_out if one["topic"] in topics]
    reworded = [blocked(f"Now {' and '.join(reversed(one['entity'].split()))}, please!") for one in named]
    assert len(named) > 100 and np.mean(reworded) > 0.97
    memory = [dict(one) for one in load_samples("general_memory")]
    assert np.mean([blocked(one["prompt"]) for one in memory if one["topic"] == "capital"]) < 0.1
    assert np.mean([blocked(one["prompt"]) for one in memory]) < 0.5, "it blocks nearly everything"


def test_the_base_rehearses_itself_repeatably_and_never_what_is_blocked(base):
    model, tokenizer = base
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    rows = generate_self_prompts(model, tokenizer, Encoder(tokenizer), 24, seed=0, max_tokens=40)
    assert torch.equal(state, torch.random.get_rng_state()), "it draws from a generator of its own"
    assert len(rows) > 8 and all(one["prompt"] and one["responses"][0] and one["task"] == "response" for one in rows)
    assert len({one["prompt"] for one in rows}) == len({one["id"] for one in rows}) == len(rows)

    def blocked(text):
        return "e" in text.split()[-1]

    kept = generate_self_prompts(model, tokenizer, Encoder(tokenizer), 24, blocked, seed=0, max_tokens=40)
    assert [one["prompt"] for one in kept] == [
        one["prompt"] for one in rows if not blocked(one["prompt"]) and not blocked(one["responses"][0])
    ]
    assert 0 < len(kept) < len(rows)
