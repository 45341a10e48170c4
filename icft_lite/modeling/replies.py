"""Greedy replies to many prompts, with a progress bar; those of the base are cached on disk.

Every run that measures forgetting needs the replies of the same base to the same prompts. They take minutes on a CPU.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from copy import copy
from pathlib import Path

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from icft_lite.data.schema import Example
from icft_lite.modeling.adapters import merged_adapter
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.generation import generate, stop_token_ids
from icft_lite.modeling.output_cache import base_hash
from icft_lite.utils.io import write_json
from icft_lite.utils.progress import progress_bar

VERSION = 2
"""Of what `generate` returns. Another number: cached replies are not read."""
BATCH_SIZE = 128
"""Prompts answered together: on a CPU, 128 generate a third more tokens per second than 64."""


def greedy_replies(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    examples: Sequence[Example],
    max_new_tokens: int,
    adapter: str | None = None,
    progress: bool = False,
    cache: Path | None = None,
) -> list[str]:
    """Return the greedy reply to the prompt of each example, at most `max_new_tokens` tokens.

    The encoder's `max_length` limits training examples, not these prompts.

    adapter: name of an adapter of a PeftModel; None: the base. progress: show a progress bar. cache: folder for replies
    of the base, keyed by a hash of its weights, of all prompts and of the tokens that end a reply; None, or an adapter:
    nothing is cached.
    """
    path, encoder = None, copy(encoder)
    encoder.max_length = sys.maxsize
    if cache is not None and adapter is None:
        prompts = [encoder.prompt_ids(example)[0] for example in examples]
        key = json.dumps(
            [VERSION, base_hash(model), max_new_tokens, stop_token_ids(model, encoder.chat_format), prompts]
        )
        path = cache / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
    replies = [""] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]["prompt"]))
    with merged_adapter(model, adapter) as active, progress_bar(len(order), "replies", "reply", progress) as bar:
        for start in range(0, len(order), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            texts = generate(
                active, tokenizer, encoder, [examples[i] for i in batch], max_new_tokens, batch_size=BATCH_SIZE
            )
            for i, text in zip(batch, texts, strict=True):
                replies[i] = text
            bar.update(len(batch))
    if path:
        write_json(path, replies)
    return replies
