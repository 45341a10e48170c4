"""Greedy replies to many prompts, with a progress bar; those of the base are cached on disk.

Every run that measures forgetting needs the replies of the same base to the same prompts. They take minutes on a CPU.
"""

import contextlib
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
from icft_lite.modeling.generation import ReplyProgress, generate, stop_token_ids
from icft_lite.modeling.output_cache import base_hash
from icft_lite.utils.io import write_json
from icft_lite.utils.lock import exclusive_lock
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
    nothing is cached. If another process generates the same replies, this one waits for them. Raises ICFTError if the
    folder cannot be written.
    """
    encoder = copy(encoder)
    encoder.max_length = sys.maxsize
    settings = model, tokenizer, encoder, examples, max_new_tokens, adapter, progress
    if cache is None or adapter is not None:
        return _generate_all(*settings)
    prompts = [encoder.prompt_ids(example)[0] for example in examples]
    key = json.dumps([VERSION, base_hash(model), max_new_tokens, stop_token_ids(model, encoder.chat_format), prompts])
    path = cache / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    lock = path.with_suffix(".lock")
    if not path.exists():
        waiting = f"replies of the base to {len(examples)} prompts: another process generates them; waiting for it"
        with exclusive_lock(cache, "set ICFT_CACHE to another folder", waiting, lock.name):
            if not path.exists():
                write_json(path, _generate_all(*settings))
        with contextlib.suppress(OSError):  # a process that waits has it open; it finds the replies, whoever holds it
            lock.unlink()
    return json.loads(path.read_text(encoding="utf-8"))


def _generate_all(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    examples: Sequence[Example],
    max_new_tokens: int,
    adapter: str | None,
    progress: bool,
) -> list[str]:
    """Return the greedy reply to each prompt, generated in batches of prompts of similar length."""
    replies = [""] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]["prompt"]))
    with merged_adapter(model, adapter) as active, progress_bar(len(order), "replies", "reply", progress) as bar:
        for start in range(0, len(order), BATCH_SIZE):
            batch = order[start : start + BATCH_SIZE]
            asked, shown = [examples[i] for i in batch], [ReplyProgress(bar, len(batch), max_new_tokens)]
            texts = generate(active, tokenizer, encoder, asked, max_new_tokens, BATCH_SIZE, stopping_criteria=shown)
            for i, text in zip(batch, texts, strict=True):
                replies[i] = text
            bar.update(start + len(batch) - bar.n)
    return replies
