"""A shared prefix, such as a system message, changes no loss, gradient, score, teacher state or reply."""

import math
from dataclasses import replace

import pytest
import torch
from small_model import family_model

from icft_lite.memory.teachers import response_states
from icft_lite.modeling import generation
from icft_lite.modeling.adapters import adapter_tensors, add_adapters, use_adapter
from icft_lite.modeling.base import load_base, load_tokenizer
from icft_lite.modeling.encoding import EncodedExamples, Encoder, supervise_prompt
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.generation import generate
from icft_lite.modeling.losses import icft_losses
from icft_lite.modeling.packing import MIN_PREFIX, join_batch, place_sequences
from icft_lite.modeling.scoring import score_responses
from icft_lite.modeling.self_check import check_model
from icft_lite.retention import mean_kl
from icft_lite.training.batches import TrainingItem, collate, new_item, normalizers

SYSTEM = "<|user|> You are a helpful assistant who explains the meaning of words.<|end|>"
FULL_ATTENTION = ["Llama", "Qwen 3 MoE", "OLMo 2", "GPT-2", "GPT-NeoX", "OPT", "Granite", "Cohere", "Falcon"]


@pytest.fixture(scope="module")
def tokenizer():
    """The tokenizer of `tiny` with a system message in its chat template."""
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = SYSTEM + tokenizer.chat_template
    return tokenizer


@pytest.fixture(scope="module", params=["tiny", "Llama", "GPT-2", "Gemma 3"])
def model(request):
    """`tiny`; models with rotary and with learned positions; one whose sliding window is shorter than the prefix."""
    name = request.param
    model = add_adapters(load_base("tiny", load_in_4bit=False)[0] if name == "tiny" else family_model(name), rank=8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in adapter_tensors(model, "fast"):
            tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
    return model.eval()


@pytest.fixture
def examples(example):
    question = dict(task="question", responses=["a kidney", "pain", "none of them"], posterior=[0.6, 0.1, 0.3])
    pair = dict(task="pair", responses=["rest now", "go to the surgery"], posterior=[0.3, 0.7])
    return [
        example(id="a"),
        example(id="b", **question),
        example(id="c", **pair, prompt="What should be done about a cough that does not go away?"),
        example(id="d", prompt="Name an organ.", responses=["heart"]),
        example(id="e", prompt="Name an organ.", responses=["heart"]),
    ]


def alone(encoded):
    """The same examples, which share no prefix."""
    return [replace(one, share_prefix=False) for one in encoded]


def gradients(model, items, pack=True):
    """The three losses of a step, and the gradient of their sum."""
    batch, head = collate(items, normalizers(items), 0, pack), head_weight(model)
    losses = icft_losses(hidden_states(model, batch), head, batch, batch["normalizers"], math.inf)
    whole = torch.autograd.grad(sum(losses.values()), adapter_tensors(model, "fast"))
    return (
        {name: float(value.detach()) for name, value in losses.items()},
        torch.cat([one.flatten() for one in whole]),
        batch,
    )


@pytest.mark.parametrize("size", [5, 2], ids=["all roles", "memory only"])
def test_losses_and_gradients_are_those_of_separate_prefixes(model, tokenizer, examples, example, size):
    encoder = Encoder(tokenizer)
    memory = [supervise_prompt(encoder(example(prompt=text))) for text in ("Define pain.", "Which city is it?")]
    assert all(one.share_prefix for one in memory)
    with use_adapter(model, None):
        states = response_states(model, memory)
    items = [TrainingItem(one, "memory", [0.0, 0.3], posterior=[0.0, 1.0], states=s) for one, s in zip(memory, states)]
    items = ([new_item(one, encoder(one), "new") for one in examples] + items)[-size - (size == 5) * 2 :]
    losses, gradient, batch = gradients(model, items)
    separate = [replace(item, encoded=one) for item, one in zip(items, alone(item.encoded for item in items))]
    expected, expected_gradient, unshared = gradients(model, separate)
    assert batch["input_ids"].numel() < 0.7 * unshared["input_ids"].numel()
    assert losses == pytest.approx(expected, rel=1e-5) and min(expected[name] for name in ("consistency", "fine_tune"))
    assert (gradient - expected_gradient).norm() < 1e-5 * expected_gradient.norm()
    assert batch["normalizers"] == unshared["normalizers"]
    padded = collate(items, normalizers(items), 0, packing=False)["input_ids"]
    assert padded.shape == (len(items), max(item.encoded.length for item in items)), "runtime.packing is off"


def test_scores_states_and_kl_are_those_of_separate_prefixes(model, tokenizer, examples):
    encoded = [Encoder(tokenizer)(one) for one in examples]
    assert join_batch(encoded, 0)["input_ids"].numel() < join_batch(alone(encoded), 0)["input_ids"].numel()
    for found, expected in zip(score_responses(model, encoded), score_responses(model, alone(encoded))):
        assert found["logp"] == pytest.approx(expected["logp"], rel=1e-5)
        assert list(found["greedy"]) == list(expected["greedy"]) and list(found["tokens"]) == list(expected["tokens"])
    for found, expected in zip(response_states(model, encoded), response_states(model, alone(encoded))):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    kl = mean_kl(model, alone(encoded), "fast")
    assert kl > 1e-3 and mean_kl(model, encoded, "fast") == pytest.approx(kl, rel=1e-5)


def test_every_row_starts_with_one_copy_that_its_sequences_attend_to(tokenizer, example):
    texts = [f"Define {'x ' * n}." for n in range(1, 60)]
    encoded = [Encoder(tokenizer)(example(prompt=text)) for text in texts]
    prefix = encoded[0].sequences[0][: tokenizer(SYSTEM + "<|user|> Define x", return_length=True)["length"][0]]
    batch, cut = join_batch(encoded, 0), len(prefix)
    assert len(batch["input_ids"]) > 1 and batch["input_ids"][:, :cut].tolist() == [prefix] * len(batch["input_ids"])
    visible = batch["attention_mask"][:, 0] == 0
    for row, column, response in zip(batch["row"], batch["position"], batch["response"]):
        seen = batch["position_ids"][row][visible[row, column]].tolist()
        assert seen == list(range(len(seen))) and int(batch["input_ids"][row, column]) in encoded[response].sequences[0]
    assert sum(map(len, (one.sequences[0] for one in encoded))) > batch["input_ids"].numel()


def test_a_prefix_must_be_long_enough_allowed_and_end_before_a_response(tokenizer, examples, example):
    encoder = Encoder(tokenizer)
    a, b = encoder(example()), encoder(examples[1])
    rows = len(join_batch([a, b], 0)["input_ids"])
    assert (rows, len(join_batch([a, *alone([b])], 0)["input_ids"])) == (1, 2)
    assert not Encoder(tokenizer, share_prompts=False)(example()).share_prefix
    assert EncodedExamples([a, *alone([b])])[0] == a and not EncodedExamples(alone([b]))[0].share_prefix
    same = join_batch([b, b], 0)  # identical questions: the prompt is shared, the options are not
    prompt = b.segments.count(0)
    assert same["input_ids"].shape == (1, prompt + 2 * (len(b.segments) - prompt))
    for length, rows in ((MIN_PREFIX, 1), (MIN_PREFIX - 1, 2)):
        short = [replace(a, sequences=[[5] * length + [last, 7]], tokens=[(0, length, 7, 0)]) for last in (8, 9)]
        assert len(join_batch(short, 0)["input_ids"]) == rows


def test_rows_with_a_prefix_are_long():
    assert place_sequences([10] * 60, pack=True)[1] == (60, 10)
    assert place_sequences([10] * 60, pack=True, min_columns=256)[1] == (2, 300)


@pytest.mark.parametrize("name", [*FULL_ATTENTION, "Mistral", "Gemma 3", "LFM2"])
def test_replies_are_those_of_prompts_alone(name, tokenizer, example, monkeypatch):
    model, calls = family_model(name), []
    encoder = Encoder(tokenizer, share_prompts=check_model(model, tokenizer).shared_prompts)
    original = generation.generate_ids
    record = lambda *args, **settings: calls.append(settings) or original(*args, **settings)  # noqa: E731
    monkeypatch.setattr(generation, "generate_ids", record)
    some = [example(prompt=text) for text in ("Define nephritis.", "Who?", "What is the meaning of this long word?")]
    together = generate(model, tokenizer, encoder, some, max_new_tokens=12)
    assert together == [generate(model, tokenizer, encoder, [one], max_new_tokens=12)[0] for one in some]
    assert len(set(together)) > 1, "the replies depend on the prompts"
    assert ["past_key_values" in call for call in calls] == [name in FULL_ATTENTION, False, False, False]


def test_the_templates_of_tiny_are_too_short_to_be_shared(base, example):
    encoder = Encoder(base[1])
    encoded = [encoder(example(prompt=f"Define {word}.")) for word in ("nephritis", "pain", "a cough")]
    assert len(join_batch(encoded, 0)["input_ids"]) == 3
