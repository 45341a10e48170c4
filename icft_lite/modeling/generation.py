"""Generation: replies of a model to canonical examples, or to one question in plain text."""

from collections.abc import Sequence
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icft_lite.data.schema import Example
from icft_lite.modeling.base import head_weight
from icft_lite.modeling.encoding import Encoder


@torch.no_grad()
def generate(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    examples: Sequence[Example],
    max_new_tokens: int = 64,
    batch_size: int = 64,
    temperature: float = 0.0,
    seed: int = 0,
    **kwargs: Any,
) -> list[str]:
    """Return the model's reply to the prompt of each example, without special tokens and surrounding spaces.

    temperature: 0 decodes greedily; above 0 samples, with `seed`. Generation stops at the end of turn, or after
    `max_new_tokens` tokens. kwargs: passed to the model's own `generate`, for example `stopping_criteria`.
    Raises TooLong if a prompt without its context, plus `max_new_tokens`, exceeds the encoder's `max_length`.
    """
    prompts = [encoder.prompt_ids(example, room=max_new_tokens)[0] for example in examples]
    order = sorted(range(len(examples)), key=lambda i: len(prompts[i]))
    replies, device = [""] * len(examples), head_weight(model).device
    sampling = dict(do_sample=True, temperature=temperature) if temperature else dict(do_sample=False)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            group = order[start : start + batch_size]
            longest = max(len(prompts[i]) for i in group)
            ids = torch.zeros(len(group), longest, dtype=torch.long)
            mask = torch.zeros_like(ids)
            for row, i in enumerate(group):  # padded on the left, because new tokens are appended on the right
                ids[row, longest - len(prompts[i]) :] = torch.tensor(prompts[i])
                mask[row, longest - len(prompts[i]) :] = 1
            output = model.generate(
                input_ids=ids.to(device),
                attention_mask=mask.to(device),
                use_cache=True,
                max_new_tokens=max_new_tokens,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
                **sampling,
                **kwargs,
            )
            texts = tokenizer.batch_decode(output[:, longest:], skip_special_tokens=True)
            for i, text in zip(group, texts):
                replies[i] = text.strip()
    return replies


def generate_reply(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    encoder: Encoder | None = None,
    **kwargs: Any,
) -> str:
    """Return the model's reply to one question in plain text.

    encoder: default: `max_length` is the tokenizer's `model_max_length`, which `finished_runs.load_run` sets to the
    length that the run was trained with. kwargs: passed to `generate`. Raises TooLong if the question does not fit.
    """
    example = dict(id="question", task="response", context="", prompt=question, history=[], responses=[""])
    encoder = encoder or Encoder(tokenizer, tokenizer.model_max_length)
    return generate(model, tokenizer, encoder, [example], **kwargs)[0]
