"""Examples → token ids and supervised positions → joined batches.

Every supervised token is a triple (row, position, target): the hidden state at `position` of `row` must
predict `target`. A *response* is a run of such tokens; losses and evaluation only ever see these, so a
prompt, a pad, or another example can never be trained on by accident.
"""

from array import array
from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from icft_lite.data.tables import iter_examples
from icft_lite.errors import ICFTError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class TooLong(ICFTError):
    """Question and response do not fit `max_length`."""


@dataclass
class Encoded:
    """One example, ready to be joined with others."""

    sequences: list
    """Token ids, one list per sequence to run."""
    tokens: list
    """(row, position, target, response) for each supervised token; `response` counts from 0."""
    num_responses: int
    """How many responses the tokens belong to (options of a question; two for a pair)."""
    segments: list | None = None
    """Of a shared prompt: for its one row, 0 for each prompt token, 1, 2, … for those of each response."""
    truncated: bool = False
    """True if context had to be cut to fit."""
    length: int = field(init=False)
    """Longest row, in tokens."""
    num_sequences: int = field(init=False)
    """Sequence rows this example costs."""

    def __post_init__(self):
        self.length = max(map(len, self.sequences))
        self.num_sequences = len(self.sequences)


class Encoder:
    """Encodes canonical examples (`samples.FEATURES`) with a tokenizer's own chat template.

    `max_length` is in tokens. Text that does not fit is cut from the *context* (its start is kept), never
    from the question or the response. Raises ICFTError if question and response alone do not fit.

    share_prompts: write a question's options (or a pair's responses) behind one copy of the prompt. Each sees
    the prompt and itself only, at the positions it would have alone, so every log-probability is the same and
    the prompt is paid for once.
    """

    def __init__(self, tokenizer, max_length=384, letter_options=False, share_prompts=True):
        if tokenizer.chat_template is None:
            raise ICFTError("tokenizer: it has no chat template; use an instruct model or set one")
        self.tokenizer, self.max_length, self.letter_options = tokenizer, max_length, letter_options
        self.share_prompts = share_prompts

    def _template(self, messages, **kwargs):
        return self.tokenizer.apply_chat_template(messages, tokenize=False, enable_thinking=False, **kwargs)

    def _ids(self, text):
        """Ids of a text, or of each text of a list."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # too long is handled here

    def _messages(self, example, context):
        text = example["prompt"]
        if self.letter_options and example["task"] == "question":
            text += "".join(f"\n{LETTERS[i]}. {option}" for i, option in enumerate(example["responses"]))
        user = f"{context}\n\n{text}" if context else text
        return [*(example.get("history") or []), {"role": "user", "content": user}]

    def _opened(self, example, context=""):
        """The prompt as the chat template writes it, up to where the response starts."""
        return self._template(self._messages(example, context), add_generation_prompt=True)

    def prompt_ids(self, example, room=0):
        """Ids of the prompt up to where the response starts, leaving `room` tokens for it; and if it was cut.

        Raises ICFTError if the prompt does not fit even without its context."""
        return self._fitted(example, self._ids(self._opened(example, example.get("context") or "")), room)

    def _fitted(self, example, ids, room):
        """`prompt_ids` of a prompt whose ids in full are known."""
        limit, context = self.max_length - room, example.get("context") or ""
        if len(ids) <= limit:
            return ids, False
        pieces = self._ids(context)
        keep = len(pieces)
        while keep and len(ids) > limit:
            keep = max(0, keep - (len(ids) - limit))
            short = self.tokenizer.decode(pieces[:keep]).rstrip("\ufffd ")
            ids = self._ids(self._opened(example, short))
        if len(ids) > limit:
            raise TooLong(
                f"example {example['id']}: question and response need {len(ids) + room} tokens, "
                f"max_length is {self.max_length}; raise max_length or shorten the example"
            )
        return ids, True

    def _all_ids(self, example, texts):
        """Ids of the whole prompt, and of each response with the end of turn, as the chat template writes them: one
        call of the tokenizer for all of them, whose overhead is most of the time."""
        messages, opened, end = self._messages(example, ""), self._opened(example), self.tokenizer.eos_token_id
        whole = (self._template([*messages, {"role": "assistant", "content": text}]) for text in texts)
        written = [
            one[len(opened) :].rstrip("\n")
            if one.startswith(opened)
            else text  # a template that rewrites the last turn: close it by hand
            for one, text in zip(whole, texts)
        ]
        full = self._opened(example, example["context"]) if example.get("context") else opened
        prompt, *responses = self._ids([full, *written])
        return prompt, [ids if ids[-1:] == [end] else [*ids, end] for ids in responses]

    def __call__(self, example):
        """Encode one canonical example → Encoded. Long responses are refused, long context is cut."""
        if self.letter_options and example["task"] == "question":
            return self._letters(example)
        prompt, responses = self._all_ids(example, example["responses"])
        prompt, cut = self._fitted(example, prompt, max(map(len, responses)))
        if self.share_prompts and len(responses) > 1:
            return _share_prompt(prompt, responses, cut)
        tokens = [
            (r, len(prompt) - 1 + i, target, r)
            for r, response in enumerate(responses)
            for i, target in enumerate(response)
        ]
        return Encoded([prompt + response for response in responses], tokens, len(responses), truncated=cut)

    def _letters(self, example):
        # One row: every option is the single token at the end of the prompt. The likeliest letter and the end of
        # turn follow, as in a conversation, but are not trained on.
        prompt, answers = self._all_ids(example, LETTERS[: len(example["responses"])])
        weights = example.get("posterior") or []
        best = max(range(len(weights)), key=weights.__getitem__) if weights else max(example["label"], 0)
        answer, letters = answers[best], [ids[0] for ids in answers]
        prompt, cut = self._fitted(example, prompt, len(answer))
        at = len(prompt) - 1
        return Encoded(
            [prompt + answer], [(0, at, letter, i) for i, letter in enumerate(letters)], len(letters), truncated=cut
        )


class EncodedExamples:
    """A sequence of Encoded in one flat array: 4 bytes a number, where Python's own lists take some 40."""

    def __init__(self, encoded=()):
        self.numbers, self.starts = array("i"), array("q", [0])
        for one in encoded:
            self.append(one)

    def __len__(self):
        return len(self.starts) - 1

    def append(self, one):
        flat = [one.num_responses, one.truncated, one.segments is not None, len(one.tokens), len(one.sequences)]
        for part in (map(len, one.sequences), *one.sequences, *one.tokens, one.segments or ()):
            flat += part
        self.numbers.extend(flat)
        self.starts.append(len(self.numbers))

    def __getitem__(self, i):
        i = range(len(self))[i]
        numbers = iter(self.numbers[self.starts[i] : self.starts[i + 1]].tolist())
        n_responses, cut, shared, n_tokens, n_rows = islice(numbers, 5)
        rows = [list(islice(numbers, length)) for length in list(islice(numbers, n_rows))]
        tokens = [tuple(islice(numbers, 4)) for _ in range(n_tokens)]
        return Encoded(rows, tokens, n_responses, list(numbers) if shared else None, bool(cut))


def encode_examples(rows, encoder):
    """Encode the rows (a list or Dataset) whose question and responses fit `max_length`: (rows kept, their
    encodings, ids left out). A question or a response is never cut, so a row that does not fit is left out whole."""
    kept, encoded, left_out = [], EncodedExamples(), []
    for at, row in enumerate(iter_examples(rows)):
        try:
            encoded.append(encoder(row))
            kept.append(at)
        except TooLong:
            left_out.append(row["id"])
    if left_out:
        rows = [rows[at] for at in kept] if isinstance(rows, list) else rows.select(np.array(kept, int))
    return rows, encoded, left_out


def supervise_prompt(encoded):
    """An example of one response with its prompt's tokens supervised too, as a response of their own before it."""
    ids, start = encoded.sequences[0], encoded.tokens[0][1]
    prompt = [(0, at, ids[at + 1], 0) for at in range(start)]
    return Encoded(
        encoded.sequences, prompt + [(r, p, t, 1) for r, p, t, _ in encoded.tokens], 2, truncated=encoded.truncated
    )


def _share_prompt(prompt, responses, cut):
    """One row: the prompt, then each response in turn."""
    row, segments, tokens = list(prompt), [0] * len(prompt), []
    for r, response in enumerate(responses):
        before = len(prompt) - 1
        for target in response:
            tokens.append((0, before, target, r))
            before = len(row)
            row.append(target)
            segments.append(r + 1)
    return Encoded([row], tokens, len(responses), segments, cut)


def drop_prompt(encoded):
    """The same single response with nothing before it but the last prompt token (the end of the template)."""
    start = min(position for _, position, _, _ in encoded.tokens)
    return Encoded([encoded.sequences[0][start:]], [(0, p - start, t, s) for _, p, t, s in encoded.tokens], 1)
