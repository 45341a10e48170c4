"""Encoding: canonical examples → token ids and supervised positions (the loss mask).

Every supervised token is a tuple (sequence, position, target, response): the hidden state at `position` of `sequence`
must predict the token id `target`, which belongs to response number `response`. Losses and scores use only these
tuples, so prompts, padding and other examples can never be trained on by accident.
"""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
from transformers import PreTrainedTokenizerBase

from icft_lite.config import EncodingConfig
from icft_lite.data.schema import Example, Examples, as_response, best_response
from icft_lite.data.tables import iter_examples
from icft_lite.errors import ICFTError
from icft_lite.modeling.chat_format import LETTERS, ChatFormat, example_messages

SupervisedToken = tuple[int, int, int, int]
"""(sequence, position, target, response), see above. A plain tuple, because its `repr` is hashed by `OutputCache`."""


class TooLong(ICFTError):
    """Raised if the prompt without its context, and the response, do not fit `max_length`."""


class SpecialTokenInText(ICFTError):
    """Raised if a text of an example contains a special token, which the model would read as such."""


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
    share_prefix: bool = False
    """True if `packing.join_batch` may share the first tokens of the sequences with other examples."""
    length: int = field(init=False)
    """Length of the longest sequence, in tokens."""
    num_sequences: int = field(init=False)
    """How many sequences the example has."""

    def __post_init__(self) -> None:
        self.length = max(map(len, self.sequences))
        self.num_sequences = len(self.sequences)


class Encoder:
    """Encode canonical examples (`schema.FEATURES`) with the tokenizer's chat template.

    max_length: in tokens. One rule decides what is trained on, scored and generated from: an example is used if its
    prompt and its longest response, end of turn included, fit `max_length`. The *context* of a longer example is
    truncated at its end, so that they do. Prompt and response are never truncated. Replies are generated from the same
    prompt, and may be longer than the response, up to the positions that the model has.

    letter_options: list a question's options in the prompt as A, B, C, …; the responses are the letters.
    At most 26 options.

    share_prompts: encode a question's options (or a pair's responses) as one sequence, after one copy of the prompt.
    Each response attends to the prompt and to itself, at the positions that it would have alone. All log-probabilities
    are the same, and the prompt is computed only once. Batches share what all their examples start with, such as a
    system message, in the same way (`packing.join_batch`).

    Raises ICFTError if the tokenizer has no chat template.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int = EncodingConfig.max_length,
        letter_options: bool = False,
        share_prompts: bool = True,
    ) -> None:
        self.tokenizer, self.chat_format = tokenizer, ChatFormat(tokenizer)
        self.max_length, self.letter_options, self.share_prompts = max_length, letter_options, share_prompts

    def __call__(self, example: Example) -> Encoded:
        """Encode one example.

        Raises TooLong if it does not fit without its context, SpecialTokenInText if it contains a special token, and
        ICFTError if the chat template refuses it or its lettered options cannot be distinguished.
        """
        letters = self.letter_options and example["task"] == "question"
        prompt, responses, truncated = self._fit(example, letters)
        if letters:
            return _encode_letters(example, prompt, responses, truncated, self.share_prompts)
        return encode_responses(prompt, responses, self.share_prompts, truncated)

    def as_response(self, example: Example, reply: str | None = None) -> Example:
        """Return the example as a prompt with one certain response: `reply`, else its most likely one.

        With `letter_options`, the prompt of a question lists the options, and the most likely response is a letter.
        """
        number, prompt, texts = best_response(example), example["prompt"], example["responses"]
        if self.letter_options and example["task"] == "question":
            prompt = example_messages({**example, "history": []}, letter_options=True)[-1]["content"]
            texts = self._letters(example)
        response = texts[number] if reply is None else reply
        return as_response({**example, "prompt": prompt, "responses": [response], "label": 0, "posterior": []})

    def prompt_ids(self, example: Example) -> tuple[list[int], bool]:
        """Return the token ids of an example's prompt, and whether the context was truncated.

        It is the prompt of the encoded example. Raises what encoding it raises.
        """
        prompt, _, truncated = self._fit(example, self.letter_options and example["task"] == "question")
        return prompt, truncated

    def _fit(self, example: Example, letters: bool) -> tuple[list[int], list[list[int]], bool]:
        """Return the ids of the prompt and of each response, and whether the context was truncated."""
        if found := self.chat_format.special_tokens_in(example):
            column, token = found[0]
            raise SpecialTokenInText(
                f"example {example['id']}: {column} contains {token!r}, which is a special token of this model; "
                f"remove it from the text"
            )
        texts = self._letters(example) if letters else example["responses"]
        context, context_ids = example.get("context") or "", None
        prompt, responses = self._encode(example, context, texts)
        while (excess := len(prompt) + max(map(len, responses), default=0) - self.max_length) > 0:
            if context_ids is None:
                (context_ids,) = self.chat_format.token_ids([context])
            if not context_ids:
                raise TooLong(
                    f"example {example['id']}: prompt and response need {self.max_length + excess} tokens, "
                    f"but max_length is {self.max_length}; raise max_length or shorten the example"
                )
            # More than once if the shorter context is not tokenized as before. A cut character decodes to U+FFFD.
            context_ids = context_ids[: max(0, len(context_ids) - excess)]
            start = self.tokenizer.decode(context_ids, clean_up_tokenization_spaces=False).rstrip("\ufffd ")
            prompt, responses = self._encode(example, start, texts)
        if letters:
            prompt, responses = self._distinguish(example, prompt, responses)
        return prompt, responses, context_ids is not None

    def _encode(self, example: Example, context: str, texts: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        try:
            return self.chat_format.encode(example_messages(example, context, self.letter_options), texts)
        except ICFTError as error:
            raise ICFTError(f"example {example['id']}: {error}") from error

    def _letters(self, example: Example) -> str:
        """Return the letters of a question's options, at least two."""
        number = len(example["responses"])
        if number > len(LETTERS):
            raise ICFTError(
                f"example {example['id']}: has {number} options, but only {len(LETTERS)} letters name options; "
                f"remove options, or set letter_options to false"
            )
        return LETTERS[: max(number, 2)]

    def _distinguish(
        self, example: Example, prompt: list[int], answers: list[list[int]]
    ) -> tuple[list[int], list[list[int]]]:
        """Move the tokens that all letters start with, such as a space, to the prompt, and drop a letter too many.

        Raises ICFTError if the next token does not distinguish the letters.
        """
        shared = 0
        while len({tuple(ids[: shared + 1]) for ids in answers}) == 1 and shared < len(answers[0]):
            shared += 1
        prompt, answers = prompt + answers[0][:shared], [ids[shared:] for ids in answers]
        firsts = [tuple(ids[:1]) for ids in answers]
        if len(set(firsts)) < len(firsts):
            same = "".join(LETTERS[i] for i, first in enumerate(firsts) if firsts.count(first) > 1)
            raise ICFTError(
                f"example {example['id']}: the tokenizer of {self.tokenizer.name_or_path or 'this model'} does not "
                f"distinguish the letters {same} by their first token; set letter_options to false"
            )
        return prompt, answers[: len(example["responses"])]


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
        flat = [one.num_responses, one.truncated, one.share_prefix, one.segments is not None]
        flat += [len(one.tokens), len(one.sequences)]
        for part in (map(len, one.sequences), *one.sequences, *one.tokens, one.segments or ()):
            flat += part
        self.numbers.extend(flat)
        self.starts.append(len(self.numbers))

    def __getitem__(self, i: int) -> Encoded:  # type: ignore[override]  # no slices
        i = range(len(self))[i]
        numbers = iter(self.numbers[self.starts[i] : self.starts[i + 1]].tolist())
        num_responses, truncated, share_prefix, shared, num_tokens, num_sequences = islice(numbers, 6)
        lengths = list(islice(numbers, num_sequences))
        sequences = [list(islice(numbers, length)) for length in lengths]
        flat = islice(numbers, 4 * num_tokens)
        tokens = list(zip(flat, flat, flat, flat))
        segments = list(numbers) if shared else None
        return Encoded(sequences, tokens, num_responses, segments, bool(truncated), bool(share_prefix))


def encode_examples(examples: Examples, encoder: Encoder) -> tuple[Examples, EncodedExamples, list[str]]:
    """Encode the examples that fit `max_length`; leave the others out.

    Returns (the examples that fit, their encodings, the ids of the others). Prompts and responses are never truncated,
    so an example that does not fit is left out as a whole. Raises SpecialTokenInText, with the number of such examples,
    if any contains a special token.
    """
    fitting, encoded, left_out, unsafe = [], EncodedExamples(), [], []
    for i, example in enumerate(iter_examples(examples)):
        try:
            encoded.append(encoder(example))
            fitting.append(i)
        except TooLong:
            left_out.append(example["id"])
        except SpecialTokenInText as error:
            unsafe.append(error)
    if unsafe:
        raise SpecialTokenInText(f"{unsafe[0]} ({len(unsafe)} examples with special tokens)")
    if left_out:
        is_list = isinstance(examples, list)
        examples = [examples[i] for i in fitting] if is_list else examples.select(np.array(fitting, int))
    return examples, encoded, left_out


def encode_responses(
    prompt: list[int], responses: Sequence[list[int]], share_prompt: bool = True, truncated: bool = False
) -> Encoded:
    """Return token ids as an example: `responses`, each after `prompt`. share_prompt: see `Encoder`."""
    if share_prompt and len(responses) > 1:
        return _share_prompt(prompt, responses, truncated)
    tokens = [
        (number, len(prompt) - 1 + i, target, number)
        for number, response in enumerate(responses)
        for i, target in enumerate(response)
    ]
    sequences = [prompt + response for response in responses]
    return Encoded(sequences, tokens, len(responses), None, truncated, share_prompt)


def _encode_letters(
    example: Example, prompt: list[int], answers: list[list[int]], truncated: bool, share_prefix: bool
) -> Encoded:
    """Encode a question with lettered options: all options are single tokens at the end of the prompt."""
    # The most likely letter and the end of turn follow, as in a conversation, but are not trained on.
    weights = example.get("posterior") or []
    best = max(range(len(weights)), key=weights.__getitem__) if weights else max(example["label"], 0)
    tokens = [(0, len(prompt) - 1, ids[0], number) for number, ids in enumerate(answers)]
    return Encoded([prompt + answers[best]], tokens, len(answers), None, truncated, share_prefix)


def supervise_prompt(encoded: Encoded) -> Encoded:
    """Return an example of one response whose prompt tokens are supervised too.

    They are response 0, and the response becomes response 1.
    """
    ids, start = encoded.sequences[0], encoded.tokens[0][1]
    prompt = [(0, position, ids[position + 1], 0) for position in range(start)]
    response = [(sequence, position, target, 1) for sequence, position, target, _ in encoded.tokens]
    return replace(encoded, tokens=prompt + response, num_responses=2)


def _share_prompt(prompt: list[int], responses: Sequence[list[int]], truncated: bool) -> Encoded:
    """Return one sequence: the prompt, then each response."""
    sequence, segments, tokens = list(prompt), [0] * len(prompt), []
    for number, response in enumerate(responses):
        position = len(prompt) - 1  # the last prompt token predicts the first token of every response
        for target in response:
            tokens.append((0, position, target, number))
            position = len(sequence)
            sequence.append(target)
            segments.append(number + 1)
    return Encoded([sequence], tokens, len(responses), segments, truncated, share_prefix=True)


def drop_prompt(encoded: Encoded) -> Encoded:
    """Return an example of one response without its prompt, except for the last prompt token."""
    start = min(position for _, position, _, _ in encoded.tokens)
    tokens = [(sequence, position - start, target, number) for sequence, position, target, number in encoded.tokens]
    return Encoded([encoded.sequences[0][start:]], tokens, 1)
