"""The first entries of the long-term memory: general examples and self-generated prompts (pseudo-rehearsal).

Pseudo-rehearsal (Robins, 1995) replaces missing general data by data that the base model generates itself.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, StoppingCriteria

from icft_lite.data.bundle import balanced_items
from icft_lite.data.chat_suite import ChatItem, leak_filter
from icft_lite.data.overlap import shingles
from icft_lite.data.schema import Example, Examples
from icft_lite.data.tables import iter_examples
from icft_lite.memory.long_term import OFFER_BATCH_SIZE, LongTermMemory
from icft_lite.memory.prompt_quality import Shingles, finish_reply, is_near_duplicate, reject_reason
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.encoding import Encoder, encode_examples
from icft_lite.modeling.forward import head_weight
from icft_lite.modeling.generation import ReplyProgress, generate, generate_ids, stop_token_ids
from icft_lite.modeling.replies import greedy_replies
from icft_lite.utils.distributed import on_main_process
from icft_lite.utils.progress import progress_bar

MIN_TEMPLATE_PROMPTS = 5
"""A word that occurs in this many prompts or more belongs to their template and identifies no entity."""

MAX_REPLY_TOKENS = 64
"""Maximum number of tokens of a reply in the memory."""

BLOCKED = "reveals a held-out example"
"""Outcome of a generated prompt or reply for which `blocked` is true."""

IsBlocked = Callable[[str], bool]
"""is_blocked(text): whether a text must not enter the memory."""


def seed_memory(
    memory: LongTermMemory,
    given: Examples | None,
    held_out: Iterable[Example],
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    count: int,
    seed: int = 0,
    chat: Iterable[Example] = (),
    held_out_items: Sequence[ChatItem] = (),
) -> Counter[str]:
    """Fill an empty long-term memory with general examples and self-generated prompts.

    given: canonical general examples or None. Those without an answer are answered by the base model. count: number of
    prompts to generate, 0 for none. held_out: examples of validation and test. Generated text that names what they are
    about is discarded (`held_out_filter`). seed: of the generation. chat: prompts of a chat suite with the base's
    replies (`chat_memory`). held_out_items: those of its items that no given prompt and no generated text may reveal
    (`chat_suite.leak_filter`). Returns what became of the self-generated prompts, see `generate_self_prompts`.
    """
    outcomes: Counter[str] = Counter()
    by_item = leak_filter(held_out_items)
    with use_adapter(model, None):
        answered = answer_with_base(given or [], model, tokenizer, encoder)
        allowed = (one for one in answered if not by_item(one["prompt"])) if held_out_items else answered
        memory.add(chain(allowed, chat), encoder, "general")
        if count:
            by_entity = held_out_filter(held_out)

            def blocked(text: str) -> bool:
                return by_entity(text) or by_item(text)

            generated = on_main_process(
                lambda: generate_self_prompts(model, tokenizer, encoder, count, blocked, seed, outcomes=outcomes),
            )
            memory.add(generated, encoder, "self")
    return outcomes


def chat_memory(
    items: Sequence[ChatItem],
    size: int,
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    progress: bool = False,
    cache: Path | None = None,
) -> list[Example]:
    """Return at most `size` prompts of a chat suite with the greedy replies of the base, as the memory stores them.

    About as many of each topic are chosen before any is answered. Loops and sentences that the limit cut off are
    removed (`prompt_quality.finish_reply`), and empty replies are left out. cache: folder for replies, see
    `greedy_replies`.
    """
    is_free = [bool(item.accepted) for item in items]
    free = min(sum(is_free), max(size // 2, size - (len(items) - sum(is_free))))
    chosen = [item.example for item in balanced_items(items, free) if item.accepted]
    chosen += [item.example for item in balanced_items(items, size - free) if not item.accepted]
    replies = greedy_replies(model, tokenizer, encoder, chosen, MAX_REPLY_TOKENS, None, progress, cache)
    finished = _finished(replies, tokenizer, MAX_REPLY_TOKENS)
    return [{**one, "responses": [reply], "label": 0} for one, reply in zip(chosen, finished, strict=True) if reply]


def answer_with_base(
    given: Examples, model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, encoder: Encoder
) -> Iterator[Example]:
    """Yield examples as the memory stores them: each with one response (task `response`).

    It is the correct response, or the greedy reply of the active model where the label is unknown (−1), finished as in
    `chat_memory`. Preference pairs are left out, and so are examples without an answer that do not fit `max_length` or
    whose reply is empty. Examples are read and answered in batches, so `given` may be larger than memory.
    """
    remaining = iter_examples(given)
    while batch := list(islice(remaining, OFFER_BATCH_SIZE)):
        questions = [example for example in batch if example["task"] != "pair"]
        unanswered, _, _ = encode_examples([example for example in questions if example["label"] < 0], encoder)
        replies: dict[str, str] = {}
        if unanswered:
            answer = partial(generate, model, tokenizer, encoder, unanswered, MAX_REPLY_TOKENS)
            texts = on_main_process(partial(answer, progress="replies of the base"))
            finished = _finished(texts, tokenizer, MAX_REPLY_TOKENS)
            replies = {example["id"]: reply for example, reply in zip(unanswered, finished, strict=True)}
        for example in questions:
            if example["label"] >= 0:
                yield encoder.as_response(example)
            elif reply := replies.get(example["id"], ""):
                yield encoder.as_response(example, reply)


def generate_self_prompts(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    count: int,
    blocked: IsBlocked = lambda text: False,
    seed: int = 0,
    batch_size: int = 256,
    max_tokens: int = 64,
    max_reply_tokens: int = 48,
    outcomes: Counter[str] | None = None,
) -> list[Example]:
    """Let the active model generate prompts and answer them (pseudo-rehearsal; Robins, 1995).

    The model continues an empty user turn, as in Magpie (Xu et al., 2024), until it writes what the chat template
    writes after the user's text. Prompts are sampled at temperature 1 among the 50 most likely tokens, from `seed`, and
    do not affect random numbers elsewhere; answers are greedy.

    count: prompts to sample. Prompts that are unfinished, of low quality (`prompt_quality.reject_reason`) or
    near-duplicates are discarded, and so are examples with a text for which `blocked(text)` is true. So fewer may be
    returned. Answers are finished as in `chat_memory`. batch_size: sequences generated together.
    max_tokens, max_reply_tokens: maximum number of tokens of a prompt and of an answer. outcomes: is filled with the
    number of prompts that were "used", and of those that were discarded, by reason. Returns canonical examples with ids
    `self-0`, `self-1`, ….
    """
    chat_format = encoder.chat_format
    before, after = chat_format.user_turn()
    (start,) = chat_format.token_ids([before])
    end, stop_ids, on_text = after.strip(), stop_token_ids(model, chat_format), []
    if found := chat_format.control.search(end):
        end = end[: found.end()]
        stop_ids = [*stop_ids, tokenizer.convert_tokens_to_ids(found[0])]
    else:  # the template ends the user's turn with plain text
        on_text = [_StopOnText(end, tokenizer, len(start))]
    prompts: dict[str, Shingles] = {}  # in order of generation
    outcomes = Counter() if outcomes is None else outcomes
    device = head_weight(model).device
    with torch.random.fork_rng(), torch.no_grad(), progress_bar(count, "self-generated prompts", "prompt") as bar:
        torch.manual_seed(seed)
        for done in range(0, count, batch_size):
            ids = torch.tensor([start] * min(batch_size, count - done), device=device)
            criteria = [*on_text, ReplyProgress(bar, len(ids), max_tokens)]
            sampling = dict(do_sample=True, top_k=50, max_new_tokens=max_tokens, stopping_criteria=criteria)
            for generated in generate_ids(model, ids, torch.ones_like(ids), stop_ids, **sampling):
                prompt, finished, _ = tokenizer.decode(generated).partition(end)
                prompt = chat_format.special.sub("", prompt).strip()
                words = shingles(prompt)
                reason = reject_reason(prompt) if finished else "unfinished"
                if not reason and blocked(prompt):
                    reason = BLOCKED
                if not reason and is_near_duplicate(words, prompts.values()):
                    reason = "duplicate"
                if reason:
                    outcomes[reason] += 1
                else:
                    prompts[prompt] = words
            bar.update(done + len(ids) - bar.n)
    examples, _, too_long = encode_examples([_unanswered(n, prompt) for n, prompt in enumerate(prompts)], encoder)
    outcomes.update("too long" for _ in too_long)
    what = "replies to self-generated prompts"
    replies = generate(
        model, tokenizer, encoder, examples, max_new_tokens=max_reply_tokens, batch_size=batch_size, progress=what
    )
    used = []
    for example, reply in zip(examples, _finished(replies, tokenizer, max_reply_tokens)):
        outcome = "no reply" if not reply else BLOCKED if blocked(reply) else "used"
        outcomes[outcome] += 1
        if outcome == "used":
            used.append({**example, "responses": [reply]})
    return used


def _finished(replies: Sequence[str], tokenizer: PreTrainedTokenizerBase, limit: int) -> list[str]:
    """Return replies that were generated with at most `limit` tokens without loops and cut sentences."""
    lengths = [len(tokenizer(reply, add_special_tokens=False).input_ids) for reply in replies]
    return [finish_reply(reply, length, limit) for reply, length in zip(replies, lengths, strict=True)]


class _StopOnText(StoppingCriteria):
    """End a sequence once the text after its first `start` tokens contains `end`.

    (`stop_strings` of transformers raises an exception for tokenizers that cannot write some letters.)
    """

    def __init__(self, end: str, tokenizer: PreTrainedTokenizerBase, start: int) -> None:
        self.end, self.tokenizer, self.start = end, tokenizer, start

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        texts = self.tokenizer.batch_decode(input_ids[:, self.start :])
        return torch.tensor([self.end in text for text in texts], device=input_ids.device)


def held_out_filter(examples: Iterable[Example]) -> IsBlocked:
    """Return blocked(text): whether a text names what a held-out example is about, in any paraphrase.

    A text is blocked if it is one of the prompts, or if all words of an example's entity occur in it, in any order.
    Words that belong to a template ("first", "young") are not counted as words of an entity: those that occur in
    MIN_TEMPLATE_PROMPTS prompts or more that are not about them.
    """
    examples = list(examples)
    in_prompts = Counter(word for one in examples for word in set(normalize_words(one["prompt"]).split()))
    in_entities = Counter(word for one in examples for word in set(normalize_words(one["entity"]).split()))
    prompts = {normalize_words(example["prompt"]) for example in examples}
    entities: dict[str, set[frozenset[str]]] = {}  # by their first word in sorted order, so that few are compared
    for example in examples:
        words = frozenset(
            word
            for word in normalize_words(example["entity"]).split()
            if in_prompts[word] - in_entities[word] < MIN_TEMPLATE_PROMPTS
        )
        if words:
            entities.setdefault(min(words), set()).add(words)

    def blocked(text: str) -> bool:
        words = set(normalize_words(text).split())
        named = any(entity <= words for word in words for entity in entities.get(word, ()))
        return named or normalize_words(text) in prompts

    return blocked


def normalize_words(text: str) -> str:
    """Return the lower-case words and numbers of a text, separated by single spaces: "the U.S." → "the u s"."""
    return " ".join("".join(c if c.isalnum() else " " for c in text.lower()).split())


def _unanswered(n: int, prompt: str) -> Example:
    """Return the canonical example of the n-th self-generated prompt, without its answer."""
    name = f"self-{n}"  # part of the seed of its priority in the memory: changing it changes every run
    return {**ChatItem(name, "self", "", prompt).example, "label": 0}
