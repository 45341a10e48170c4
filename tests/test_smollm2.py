"""The real chat model: its weights, its tokenizer, and a reply. See test_gguf.py for tests without a download."""

from pathlib import Path

import pytest

from icft_lite.modeling.base import load_base, model_fingerprint, model_path
from icft_lite.modeling.generation import generate_reply
from icft_lite.modeling.gguf import tensors_hash
from icft_lite.modeling.smollm2 import TENSORS_SHA256

pytestmark = pytest.mark.smollm2
QUESTION = "What is the capital of France?"


def test_the_weights_are_those_that_everyone_has(smollm2):
    assert model_fingerprint("smollm2") == tensors_hash(Path(model_path("smollm2"))) == TENSORS_SHA256
    model, _ = smollm2
    assert model.num_parameters() == 134_515_008 and model.dtype.itemsize == 4
    assert model.config.name_or_path == "smollm2" and model.config.max_position_embeddings == 8192


def test_it_answers_in_its_chat_format(smollm2):
    model, tokenizer = smollm2
    assert generate_reply(model, tokenizer, QUESTION, max_new_tokens=16) == "The capital of France is Paris."
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer("<|im_start|>").input_ids == [1]
    assert tokenizer.tokenize("list:\n\n1. A\n\n10. B") == [
        "list",
        ":",
        "ĊĊ",
        "1",
        ".",
        "ĠA",
        "ĊĊ",
        "1",
        "0",
        ".",
        "ĠB",
    ]


@pytest.mark.slow
def test_it_works_in_4_bits(smollm2):
    model, tokenizer = load_base("smollm2")
    assert type(model.model.layers[0].mlp.up_proj.weight).__name__ == "Params4bit"
    assert "Paris" in generate_reply(model, tokenizer, QUESTION, max_new_tokens=16)
