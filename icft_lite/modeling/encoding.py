"""Encoding: canonical examples → token ids and supervised positions (the loss mask).

Every supervised token is a tuple (sequence, position, target, response): the hidden state at `position` of `sequence`
must predict the token id `target`, which belongs to response number `response`. Losses and scores use only these
tuples, so prompts, padding and other examples can never be trained on by accident.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from transformers import PreTrainedTokenizerBase

from icft_lite.data.schema import Example, Examples
from icft_lite.data.tables import iter_examples
from icft_lite.errors import ICFTError
from icft_lite.modeling.chat_format import LETTERS, ChatFormat, example_messages

SupervisedToken = tuple[int, int, int, int]
"""(sequence, position, target, response), see above. A plain tuple, because its `repr` is hashed by `OutputCache`."""


class TooLong(ICFTError):
    """Raised if the prompt without its context, and the response, do not fit `max_length`."""


@dataclass
class Encoded:
    """One encoded example, to be joined with others by `packing.join_batch`."""

    sequences: list[list[int]]
    """Token ids of each sequence to run through the model."""
    tokens: list[SupervisedToken]
    """(sequence, position, target, response) of each supervised token."""
    num_responses: int
    """How many responses the tokens belong to (the options of a question; two for a pair)."""
    segments: list[int] | None = None
    """With a shared prompt: for each token of the only sequence, 0 in the prompt and 1, 2, … in the responses."""
    truncated: bool = False
    """True if the context was truncated."""
    length: int = field(init=False)
    """Length of the longest sequence, in tokens."""
    num_sequences: int = field(init=False)
    """How many sequences the example has."""

    def __post_init__(self) -> None:
        self.length = max(map(len, self.sequences))
        self.num_sequences = len(self.sequences)


class Encoder:
    """Encode canonical examples (`schema.FEATURES`) with the tokenizer's chat template.

    max_length: in tokens, for prompt and response together. The *context* of a longer example
    is truncated at its end. Prompt and response are never truncated.

    letter_options: list a question's options in the prompt as A, B, C, …; the responses are the letters.

    share_prompts: encode a question's options (or a pair's responses) as one sequence, after one copy of the prompt.
    Each response attends to the prompt and to itself, at the positions that it would have alone. All log-probabilities
    are the same, and the prompt is computed only once.

    Raises ICFTError if the tokenizer has no chat template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = 384,
        letter_options: bool = False,
        share_prompts: bool = True,
    ) -> None:
        self.tokenizer, self.chat_format = tokenizer, ChatFormat(tokenizer)
        self.max_length, self.letter_options, self.share_prompts = max_length, letter_options, share_prompts

    def __call__(self, example: Example) -> Encoded:
        """Encode one example. Raises TooLong if it does not fit without its context."""
        letters = self.letter_options and example["task"] == "question"
        texts = LETTERS[: len(example["responses"])] if letters else example["responses"]
        prompt, responses = self.chat_format.encode(self._messages(example, example.get("context") or ""), texts)
        if letters:
            return self._encode_letters(example, prompt, responses)
        prompt, truncated = self._fit_prompt(example, prompt, max(map(len, responses)))
        if self.share_prompts and len(responses) > 1:
            return _share_prompt(prompt, responses, truncated)
        tokens = [
            (number, len(prompt) - 1 + i, target, number)
            for number, response in enumerate(responses)
            for i, target in enumerate(response)
        ]
        return Encoded([prompt + response for response in responses], tokens, len(responses), truncated=truncated)

    def prompt_ids(self, example: Example, room: int = 0) -> tuple[list[int], bool]:
        """Return the token ids of the prompt, and whether the context was truncated.

        room: tokens of `max_length` to leave for a response. Raises TooLong if the prompt does not fit without its
        context.
        """
        ids = self.chat_format.prompt_ids(self._messages(example, example.get("context") or ""))
        return self._fit_prompt(example, ids, room)

    def _messages(self, example: Example, context: str) -> list[dict[str, str]]:
        return example_messages(example, context, self.letter_options)

    def _fit_prompt(self, example: Example, ids: list[int], room: int) -> tuple[list[int], bool]:
        """Return what `prompt_ids` returns, given the ids of the whole prompt."""
        limit = self.max_length - room
        if len(ids) <= limit:
            return ids, False
        (context,) = self.chat_format.token_ids([example.get("context") or ""])
        size = len(context)
        while size and len(ids) > limit:  # again if the shorter context is not tokenized as before
            size = max(0, size - (len(ids) - limit))
            start = self.tokenizer.decode(context[:size]).rstrip("\ufffd ")  # a cut character decodes to U+FFFD
            ids = self.chat_format.prompt_ids(self._messages(example, start))
        if len(ids) > limit:
            raise TooLong(
                f"example {example['id']}: prompt and response need {len(ids) + room} tokens, "
                f"but max_length is {self.max_length}; raise max_length or shorten the example"
            )
        return ids, True

    def _encode_letters(self, example: Example, prompt: list[int], answers: list[list[int]]) -> Encoded:
        """Encode a question with lettered options: all options are single tokens at the end of the prompt."""
        # The most likely letter and the end of turn follow, as in a conversation, but are not trained on.
        weights = example.get("posterior") or []
        best = max(range(len(weights)), key=weights.__getitem__) if weights else max(example["label"], 0)
        prompt, truncated = self._fit_prompt(example, prompt, len(answers[best]))
        tokens = [(0, len(prompt) - 1, ids[0], number) for number, ids in enumerate(answers)]
        return Encoded([prompt + answers[best]], tokens, len(answers), truncated=truncated)


class EncodedExamples(Sequence[Encoded]):
    """A sequence of Encoded in one flat array: 4 bytes per number, where Python lists need about 40."""

    def __init__(self, encoded: Iterable[Encoded] = ()) -> None:
        self.numbers, self.starts = array("i"), array("q", [0])
        for one in encoded:
            self.append(one)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def append(self, one: Encoded) -> None:
        """Add an encoded example at the end."""
        flat = [one.num_responses, one.truncated, one.segments is not None, len(one.tokens), len(one.sequences)]
        for part in (map(len, one.sequences), *one.sequences, *one.tokens, one.segments or ()):
            flat += part
        self.numbers.extend(flat)
        self.starts.append(len(self.numbers))

    def __getitem__(self, i: int) -> Encoded:  # type: ignore[override]  # no slices
        i = range(len(self))[i]
        numbers = iter(self.numbers[self.starts[i] : self.starts[i + 1]].tolist())
        num_responses, truncated, shared, num_tokens, num_sequences = islice(numbers, 5)
        lengths = list(islice(numbers, num_sequences))
        sequences = [list(islice(numbers, length)) for length in lengths]
        flat = islice(numbers, 4 * num_tokens)
        tokens = list(zip(flat, flat, flat, flat))
        return Encoded(sequences, tokens, num_responses, list(numbers) if shared else None, bool(truncated))


def encode_examples(examples: Examples, encoder: Encoder) -> tuple[Examples, EncodedExamples, list[str]]:
    """Encode the examples that fit `max_length`; leave the others out.

    Returns (the examples that fit, their encodings, the ids of the others). Prompts and responses are never truncated,
    so an example that does not fit is left out as a whole.
    """
    fitting, encoded, left_out = [], EncodedExamples(), []
    for i, example in enumerate(iter_examples(examples)):
        try:
            encoded.append(encoder(example))
            fitting.append(i)
        except TooLong:
            left_out.append(example["id"])
    if left_out:
        is_list = isinstance(examples, list)
        examples = [examples[i] for i in fitting] if is_list else examples.select(np.array(fitting, int))
    return examples, encoded, left_out


def supervise_prompt(encoded: Encoded) -> Encoded:
    """Return an example of one response whose prompt tokens are supervised too.

    They are response 0, and the response becomes response 1.
    """
    ids, start = encoded.sequences[0], encoded.tokens[0][1]
    prompt = [(0, position, ids[position + 1], 0) for position in range(start)]
    response = [(sequence, position, target, 1) for sequence, position, target, _ in encoded.tokens]
    return Encoded(encoded.sequences, prompt + response, 2, truncated=encoded.truncated)


def _share_prompt(prompt: list[int], responses: list[list[int]], truncated: bool) -> Encoded:
    """Return one sequence: the prompt, then each response."""
    sequence, segments, tokens = list(prompt), [0] * len(prompt), []
    for number, response in enumerate(responses):
        position = len(prompt) - 1  # the last prompt token predicts the first token of every response
        for target in response:
            tokens.append((0, position, target, number))
            position = len(sequence)
            sequence.append(target)
            segments.append(number + 1)
    return Encoded([sequence], tokens, len(responses), segments, truncated)


def drop_prompt(encoded: Encoded) -> Encoded:
    """Return an example of one response without its prompt, except for the last prompt token."""
    start = min(position for _, position, _, _ in encoded.tokens)
    tokens = [(sequence, position - start, target, number) for sequence, position, target, number in encoded.tokens]
    return Encoded([encoded.sequences[0][start:]], tokens, 1)
