"""Small models of real architectures, with random weights."""

import warnings

import torch
from transformers import AutoModelForCausalLM

SIZES = dict(
    vocab_size=1536,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    pad_token_id=0,
    eos_token_id=3,
    bos_token_id=None,
)


def small_model(config, **settings):
    """A small model from a configuration class of transformers. Its vocabulary is that of `tiny`."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_config(config(**{**SIZES, **settings})).eval()


def logits(model, ids=(1, 40, 300, 77, 901, 2, 55, 60)):
    """The logits of a sequence of token ids, in eval mode."""
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits
