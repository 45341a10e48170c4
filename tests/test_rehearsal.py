"""Pseudo-rehearsal, and the filter against held-out examples."""

import numpy as np
import pytest
import torch
from small_model import family_model
from template_styles import STYLES, make_tokenizer

from icft_lite.data.samples import load_samples
from icft_lite.memory import rehearsal
from icft_lite.memory.rehearsal import answer_with_base, generate_self_prompts, held_out_filter
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.generation import generate_ids
from icft_lite.retention import encode_for_kl


def test_an_entity_is_blocked_in_any_paraphrase(row):
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


def test_words_of_a_template_do_not_identify_an_entity(row):
    examples = [
        row(prompt=f"Say the first letter of {word}.", entity=word)
        for word in ("kettle", "first", "lemon", "goat", "harbor", "river")
    ]
    blocked = held_out_filter(examples)
    assert not blocked("The first of May.") and blocked("A goat.") and blocked("Say the first letter of first.")


def test_test_questions_of_the_samples_are_blocked_in_paraphrases_and_their_memory_is_not():
    held_out = [dict(one) for name in ("general_test", "general_validation") for one in load_samples(name)]
    blocked = held_out_filter(held_out)
    assert all(blocked(one["prompt"]) for one in held_out)
    topics = ("capital", "animal_young", "addition", "subtraction", "plural")
    named = [one for one in held_out if one["topic"] in topics]
    paraphrased = [blocked(f"Now {' and '.join(reversed(one['entity'].split()))}, please!") for one in named]
    assert len(named) > 100 and np.mean(paraphrased) > 0.97
    memory = [dict(one) for one in load_samples("general_memory")]
    assert np.mean([blocked(one["prompt"]) for one in memory if one["topic"] == "capital"]) < 0.1
    assert np.mean([blocked(one["prompt"]) for one in memory]) < 0.5, "most memory examples pass the filter"


def test_self_generated_prompts_are_reproducible_and_never_blocked(base):
    model, tokenizer = base
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    examples = generate_self_prompts(model, tokenizer, Encoder(tokenizer), 24, seed=0, max_tokens=40)
    assert torch.equal(state, torch.random.get_rng_state()), "the global generator is not used"
    assert len(examples) > 8 and all(
        one["prompt"] and one["responses"][0] and one["task"] == "response" for one in examples
    )
    assert len({one["prompt"] for one in examples}) == len({one["id"] for one in examples}) == len(examples)

    def blocked(text):
        return "e" in text.split()[-1]

    allowed = generate_self_prompts(model, tokenizer, Encoder(tokenizer), 24, blocked, seed=0, max_tokens=40)
    assert [one["prompt"] for one in allowed] == [
        one["prompt"] for one in examples if not blocked(one["prompt"]) and not blocked(one["responses"][0])
    ]
    assert 0 < len(allowed) < len(examples)


@pytest.mark.parametrize("name", ["mistral", "mistral, legacy", "vicuna", "vicuna, bytes"])
def test_prompts_end_where_a_template_writes_plain_text_after_them(name, monkeypatch):
    """`stop_strings` of transformers raised an exception for tokenizers that cannot write the letters a to f."""
    tokenizer = make_tokenizer(*STYLES[name][:3])
    encoder, stopped = Encoder(tokenizer), []
    (ids,) = encoder.chat_format.token_ids(["fever? " + encoder.chat_format.user_turn()[1]])

    def spy(model, start, mask, stop_ids, **settings):
        if criteria := settings.get("stopping_criteria"):  # of prompts, not of their answers
            for generated in (ids[:2], ids):
                row = torch.tensor([[*start[0].tolist(), *generated]])
                stopped.append(criteria[0](row, None).tolist())
        return generate_ids(model, start, mask, stop_ids, **settings)

    monkeypatch.setattr(rehearsal, "generate_ids", spy)
    generate_self_prompts(family_model("Llama"), tokenizer, encoder, 2, max_tokens=8)
    assert stopped == [[False], [True]]


def test_a_reply_of_the_base_that_the_limit_cuts_ends_with_a_whole_sentence(base, example, monkeypatch):
    model, tokenizer = base
    cut = "The kidney filters the blood. It also regulates the amount of water " + "and salt " * 40
    replies = iter([[cut, "One two.", ""]])
    monkeypatch.setattr(rehearsal, "generate", lambda *args, **kwargs: next(replies))
    given = [example(id=name, prompt="What does a kidney do?", label=-1) for name in ("cut", "whole", "empty")]
    found = list(answer_with_base(given, model, tokenizer, Encoder(tokenizer)))
    assert [(one["id"], one["responses"]) for one in found] == [
        ("cut", ["The kidney filters the blood."]),
        ("whole", ["One two."]),
    ]


def test_the_memory_of_lettered_questions_has_their_options_in_the_prompt(base, example):
    """As in training and scoring: the base has answered the question with its options."""
    model, tokenizer = base
    question = dict(task="question", prompt="Which is the capital of France?", responses=["Rome", "Paris"])
    given = [example(id="known", label=1, **question), example(id="open", label=-1, **question)]
    given.append(example(id="pair", task="pair", responses=["a", "b"], label=-1))
    lettered = Encoder(tokenizer, letter_options=True)
    known, asked = answer_with_base(given, model, tokenizer, lettered)
    listed = "Which is the capital of France?\nA. Rome\nB. Paris"
    assert (known["prompt"], known["responses"], known["task"]) == (listed, ["B"], "response")
    assert (asked["prompt"], asked["task"]) == (listed, "response") and asked["responses"][0]
    assert lettered(known).sequences[0][: len(lettered.prompt_ids(given[0])[0])] == lettered.prompt_ids(given[0])[0]
    (plain, _) = answer_with_base(given, model, tokenizer, Encoder(tokenizer))
    assert (plain["prompt"], plain["responses"]) == (question["prompt"], ["Paris"])
    (probe,) = encode_for_kl(given, lettered)
    assert list(probe.sequences[0]) == list(lettered(known).sequences[0])
