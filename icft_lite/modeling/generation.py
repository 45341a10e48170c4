"""Generation: replies of a model to canonical examples, or to one question in plain text."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from peft import PeftModel
from tqdm.auto import tqdm
from transformers import (
    Cache,
    DynamicCache,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
)
from transformers.cache_utils import DynamicLayer

from icft_lite.data.schema import Example
from icft_lite.modeling.chat_format import ChatFormat
from icft_lite.modeling.encoding import Encoder, TooLong
from icft_lite.modeling.forward import backbone, head_weight
from icft_lite.modeling.packing import common_prefix
from icft_lite.utils.progress import progress_bar


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
    progress: str = "",
    **kwargs: Any,
) -> list[str]:
    """Return the model's reply to the prompt of each example, without special tokens and surrounding spaces.

    temperature: 0 decodes greedily; above 0 samples from the whole distribution (no top-k, no top-p), with `seed`.
    Settings of the model's own generation_config, such as a repetition penalty, do not apply. Generation stops at the
    end of turn, after `max_new_tokens` tokens, or at the last position that the model has. progress: description of a
    progress bar, which a block of `progress_shown` shows; "": none. kwargs: passed to the model's own `generate`, for
    example `stopping_criteria`.
    Raises TooLong if a prompt without its context does not fit: never for an example that the encoder encodes, as long
    as its `max_length` is at most the number of positions. Tokens that all prompts of a batch start with are computed
    once.
    """
    prompts = [encoder.prompt_ids(example)[0] for example in examples]
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf
    limits = [int(min(max_new_tokens, positions - len(ids))) for ids in prompts]
    for example, prompt, limit in zip(examples, prompts, limits):
        if limit < 1:
            raise TooLong(
                f"example {example['id']}: its prompt has {len(prompt)} tokens and leaves no room for a reply, because "
                f"the model has {positions} positions; shorten the prompt"
            )
    order = sorted(range(len(examples)), key=lambda i: (limits[i], len(prompts[i])))
    replies, device = [""] * len(examples), head_weight(model).device
    sampling = dict(do_sample=True, temperature=temperature, top_k=0) if temperature else dict(do_sample=False)
    stop_ids, criteria = stop_token_ids(model, encoder.chat_format), kwargs.pop("stopping_criteria", [])
    with torch.random.fork_rng(), progress_bar(len(examples), progress, "reply", None if progress else False) as bar:
        torch.manual_seed(seed)
        for limit, members in groupby(order, key=limits.__getitem__):
            same_limit = list(members)
            for start in range(0, len(same_limit), batch_size):
                group = same_limit[start : start + batch_size]
                texts = [prompts[i] for i in group]
                prefix = common_prefix(texts) if encoder.share_prompts else []
                cache = _prefix_cache(model, prefix, len(group)) if prefix else {}
                ids, mask = join_prompts(texts, len(prefix) if cache else 0)
                shown = ReplyProgress(bar, len(group), limit)
                output = generate_ids(
                    model,
                    ids.to(device),
                    mask.to(device),
                    stop_ids,
                    max_new_tokens=limit,
                    stopping_criteria=[*criteria, shown],
                    **cache,
                    **sampling,
                    **kwargs,
                )
                for i, new_ids in zip(group, output):
                    replies[i] = encoder.chat_format.reply_text(new_ids, stop_ids)
                bar.update(shown.begun + len(group) - bar.n)
    return replies


class ReplyProgress(StoppingCriteria):
    """Advance a progress bar of replies with each token of a batch; it stops nothing.

    rows: sequences of the batch. limit: how many tokens they may get. Without it the bar of a long batch would appear
    at its end only.
    """

    def __init__(self, bar: tqdm, rows: int, limit: int) -> None:
        self.bar, self.rows, self.limit, self.begun, self.tokens = bar, rows, limit, bar.n, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Count a token of each row; no row ends."""
        self.tokens += 1
        self.bar.update(self.begun + self.rows * self.tokens // self.limit - self.bar.n)
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _prefix_cache(model: PreTrainedModel | PeftModel, prefix: list[int], rows: int) -> dict[str, Cache]:
    """Return a cache of the keys and values of a prefix, computed once and repeated for each row, as `past_key_values`.

    Empty if the model has other layers than full attention: padding after the prefix would fill their sliding windows
    and change their recurrent states.
    """
    ids = torch.tensor([prefix], device=head_weight(model).device)
    cache = getattr(backbone(model)(input_ids=ids, use_cache=True), "past_key_values", None)
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return {}
    cache.batch_repeat_interleave(rows)
    return dict(past_key_values=cache)


def join_prompts(prompts: Sequence[list[int]], cut: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return input_ids and attention_mask [rows, length]: the first `cut` tokens, padding, the rest of each prompt.

    There is no padding on the right, because new tokens are appended there.
    """
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        start = longest - len(prompt) + cut
        ids[row, :cut], ids[row, start:] = torch.tensor(prompt).split([cut, len(prompt) - cut])
        mask[row, :cut] = mask[row, start:] = 1
    return ids, mask


def generate_ids(
    model: PreTrainedModel | PeftModel,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    stop_ids: Sequence[int],
    **settings: Any,
) -> list[list[int]]:
    """Return the token ids that the model generates after each row of `input_ids` [rows, length].

    A row ends with the first of `stop_ids`, if the model generates one. settings: of transformers' GenerationConfig.
    What they leave out has the default of transformers, whatever the model's own generation_config says.
    """
    with default_generation(model) as base:
        output = base.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            use_cache=True,
            eos_token_id=list(stop_ids) or None,
            pad_token_id=stop_ids[0] if stop_ids else 0,
            **settings,
        )
    rows = output[:, input_ids.shape[1] :].tolist()
    ends = (next((n for n, token in enumerate(row, 1) if token in stop_ids), len(row)) for row in rows)
    return [row[:end] for row, end in zip(rows, ends)]


@contextlib.contextmanager
def default_generation(model: PreTrainedModel | PeftModel) -> Iterator[PreTrainedModel]:
    """Run the block with a model, adapters included, whose generation has the default settings of transformers.

    Its own generation_config may set beams, penalties or stop strings, which `generate` would add to what it is given.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    own, base.generation_config = base.generation_config, GenerationConfig()
    try:
        yield base
    finally:
        base.generation_config = own


def stop_token_ids(model: PreTrainedModel | PeftModel, chat_format: ChatFormat) -> list[int]:
    """Return the token ids that end a reply of a model: those of its chat format and of its generation_config."""
    own = model.generation_config.eos_token_id
    return sorted({*chat_format.stop_ids, *(own if isinstance(own, list) else [own])} - {None})


def generate_reply(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    encoder: Encoder | None = None,
    **kwargs: Any,
) -> str:
    """Return the model's reply to one question in plain text.

    encoder: default: `max_length` is the tokenizer's `model_max_length`, which `finished_runs.load_run` sets to the
    length that the run was trained with. kwargs: passed to `generate`. Raises TooLong if the question does not fit, and
    SpecialTokenInText if it contains a special token.
    """
    example = dict(id="question", task="response", context="", prompt=question, history=[], responses=[""])
    encoder = encoder or Encoder(tokenizer, tokenizer.model_max_length)
    return generate(model, tokenizer, encoder, [example], **kwargs)[0]
