"""Chat format: a tokenizer's chat template, the prompt that it makes, and responses with their end of turn.

    <|user|> Define nephritis.<|assistant|> inflammation of the kidney<|end|>
    └───────────── prompt ────────────────┘└──────────── response ──────────┘

Where the response starts decides which tokens are trained on. `modeling/encoding.py` makes that loss mask (the
supervised positions), and truncates context that is too long. `modeling/packing.py` makes the attention mask.
"""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from icft_lite.data.schema import Example
from icft_lite.errors import ICFTError

Message = dict[str, str]
"""One turn of a conversation: `role` ("user", "assistant" or "system") and `content`."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Names of lettered options."""


def example_messages(example: Example, context: str = "", letter_options: bool = False) -> list[Message]:
    """Return the messages of an example's prompt: its history, then one user turn.

    The user turn is the context (if any), a blank line and the prompt. letter_options: a question's options follow, one
    per line, as "A. …", "B. …".
    """
    text = example["prompt"]
    if letter_options and example["task"] == "question":
        text += "".join(f"\n{LETTERS[i]}. {option}" for i, option in enumerate(example["responses"]))
    user = f"{context}\n\n{text}" if context else text
    return [*(example.get("history") or []), {"role": "user", "content": user}]


class ChatFormat:
    """Turn messages and responses into text and token ids, with the tokenizer's own chat template.

    Raises ICFTError if the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.chat_template is None:
            raise ICFTError("tokenizer: it has no chat template; use an instruct model, or set tokenizer.chat_template")
        self.tokenizer = tokenizer

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """Return messages as the chat template writes them; thinking modes are switched off."""
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, enable_thinking=False, add_generation_prompt=add_generation_prompt
        )

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of each text, without the special tokens that a tokenizer adds by itself."""
        # verbose=False: no warning for texts longer than the model takes. Encoder handles the length.
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """Return the prompt: the messages, up to where the assistant's response starts."""
        return self.render(messages, add_generation_prompt=True)

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of the prompt."""
        return self.token_ids([self.prompt_text(messages)])[0]

    def encode(self, messages: Sequence[Message], responses: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """Return the token ids of the prompt, and of each response including its end of turn.

        Prompt and response are tokenized separately, so no token spans the boundary. The tokenizer is called once for
        all texts, because the overhead of a call is most of its time.
        """
        prompt, end = self.prompt_text(messages), self.tokenizer.eos_token_id
        ids = self.token_ids([prompt, *(self._response_text(messages, prompt, response) for response in responses)])
        return ids[0], [response if response[-1:] == [end] else [*response, end] for response in ids[1:]]

    def _response_text(self, messages: Sequence[Message], prompt: str, response: str) -> str:
        """Return a response as the chat template writes it after the prompt."""
        conversation = self.render([*messages, {"role": "assistant", "content": response}])
        if not conversation.startswith(prompt):  # the template writes finished turns differently: use the plain text
            return response
        return conversation[len(prompt) :].rstrip(
            "\n"
        )  # a line break after the end of turn is not part of the response

    def user_turn_ids(self) -> tuple[list[int], list[int]]:
        """Return the token ids before and after the content of a single user turn.

        The first end where the user's text starts, so a model continues them with a prompt of its own
        (self-generated prompts). The second start with the end of the user turn and end where the response starts.
        Raises ICFTError if the template does not contain the user's text exactly once.
        """
        mark = "\u2603"  # a character that no template contains
        parts = self.prompt_text([{"role": "user", "content": mark}]).split(mark)
        if len(parts) != 2:
            raise ICFTError(
                f"tokenizer: its chat template writes the user's text {len(parts) - 1} times instead of once; "
                f"use another template, or self_prompts = 0"
            )
        before, after = self.token_ids([parts[0].rstrip(" "), parts[1]])
        return before, after
