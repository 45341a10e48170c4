"""Chat format: a tokenizer's chat template, the prompt that it makes, and responses with their end of turn.

    <|user|> Define nephritis.<|assistant|> inflammation of the kidney<|end|>
    └───────────── prompt ────────────────┘└──────────── response ──────────┘

Where the response starts decides which tokens are trained on. `modeling/encoding.py` makes that loss mask (the
supervised positions), and truncates context that is too long. `modeling/packing.py` makes the attention mask.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from functools import cached_property
from itertools import takewhile

from transformers import PreTrainedTokenizerBase

from icft_lite.data.schema import Example
from icft_lite.errors import ICFTError, short_reason

Message = dict[str, str]
"""One turn of a conversation: `role` ("user", "assistant" or "system") and `content`."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Names of lettered options."""
TODAY = date(2024, 7, 26)
"""The date that templates write as today's: the default of Llama 3.1's template. A run that is resumed on another day,
or evaluated in another year, has the same prompts."""
DATE_STRING = TODAY.strftime("%d %b %Y")
"""The same for templates that take the date as text."""
SYSTEM, USER, REPLY = "\u2602", "\u2603", "\u2604"
"""Contents of the conversations from which `ChatFormat` learns the template: characters that no template contains."""
OPEN_THOUGHTS = re.compile(r"<[\w:|]*think[\w:|]*>\s*$", re.IGNORECASE)
"""The start of a thinking block at the end of a prompt."""


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

    What the template writes around a reply is learned from a conversation with known contents:

    - The end of turn is what follows the reply up to the first special token, also when another turn follows. Some
      templates write one more token at the end of the whole conversation (Phi-3.5): it is not part of the response. The
      tokenizer's end-of-sequence token is appended only if the template writes no special token after a reply.
    - Text that the template always writes before a reply belongs to the prompt, also in generation: an empty thinking
      block (Qwen3), the header of a channel (gpt-oss). A thinking block that the prompt opens is closed.
    - A system message that the template refuses or ignores (Gemma) becomes the start of the first user turn.
    - Today's date is always `TODAY`.

    Raises ICFTError if the tokenizer has no chat template, or one that cannot write a question and its answer.
    """

    control: re.Pattern[str]
    """Matches the tokens that the tokenizer splits a text at: its special tokens and other added tokens."""
    special: re.Pattern[str]
    """Matches the tokens that must not occur in the text of a message: special tokens and the end of turn."""
    lead: str
    """Text between the template's prompt and a reply. It is part of the prompt."""
    end: str
    """Text of the end of turn, as it follows a response."""
    end_of_turn_ids: list[int]
    """Token ids of the end of turn, which are supervised after a reply: usually one, none if no token can be it."""
    stop_ids: list[int]
    """Token ids that end a reply: the end of turn's special token and the tokenizer's end-of-sequence token."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        if tokenizer.chat_template is None:
            raise ICFTError(
                "tokenizer: it has no chat template; use an instruct model, or add a file chat_template.jinja to the "
                "folder of the model (in Python, set tokenizer.chat_template)"
            )
        self.tokenizer = tokenizer
        added = {token.content: token for token in tokenizer.added_tokens_decoder.values() if token.content.strip()}
        self.control = _pattern(added)
        user, reply = {"role": "user", "content": USER}, {"role": "assistant", "content": REPLY}
        self._folds_system = False
        try:
            self._folds_system = SYSTEM not in self.render([{"role": "system", "content": SYSTEM}, user])
        except ICFTError:
            self._folds_system = True
        prompt = self.render([user], add_generation_prompt=True)
        before, _, after = self.render([user, reply]).rpartition(REPLY)
        try:
            following = self.render([user, reply, user]).rpartition(REPLY)[2]
        except ICFTError:  # a template for single turns
            following = after
        self._set_lead(prompt, before)
        self._set_end(after, following, written=before.startswith(prompt))
        self.special = _pattern(
            {text for text, token in added.items() if token.special} | set(self.control.findall(self.end))
        )
        self._set_boundary(prompt + self.lead, {text for text, token in added.items() if _splits(tokenizer, token)})

    def _set_lead(self, prompt: str, before: str) -> None:
        """Learn `lead` from a prompt, and from the text before the reply in the finished conversation."""
        lead = before.removeprefix(prompt) if before.startswith(prompt) else ""
        self.lead = lead.rstrip(" ") if lead.strip() else ""  # a lone space belongs to the first word of the reply
        self._space = lead[len(lead.rstrip(" ")) :]
        if not self.lead and OPEN_THOUGHTS.search(prompt):
            self.lead = "\n</think>\n\n".replace("think", prompt.rpartition("<")[2].partition(">")[0])

    def _set_end(self, after: str, following: str, written: bool) -> None:
        """Learn the end of turn from the text after the last reply, and after a reply that a user turn follows.

        written: whether the template writes replies after its own prompt, so that text without special tokens, which
        ends a turn in some templates, can be part of a response.
        """
        eos = self.tokenizer.eos_token or ""
        both = zip(*(re.split(f"({self.control.pattern})", text) for text in (after, following)))
        shared = "".join(text for text, _ in takewhile(lambda pair: pair[0] == pair[1], both))
        self._after = after
        fallback = (after.rstrip() if written else "") + eos
        ends = (text[: found.end()] for text in (shared, after, fallback) if (found := self.control.search(text)))
        self.end = next(ends, fallback)
        stops = {*self.tokenizer.convert_tokens_to_ids(self.control.findall(self.end)), self.tokenizer.eos_token_id}
        self.stop_ids = sorted(stops - {None})

    def _set_boundary(self, prompt: str, splitting: set[str]) -> None:
        """Learn where the tokens of a prompt end, and from where on prompt and response must be tokenized together."""
        replies = [f"{prompt}{text}" for text in ("A", "The", "Reply", f"A{self.end}")]
        ids, *others, ended = self.token_ids([prompt, *replies])
        # Tokens at the end of a prompt that would be others if a reply followed, such as the space of "Answer: ".
        self._overlap = len(ids) - min(_common(ids, other) for other in others)
        self.end_of_turn_ids = ended[len(others[0]) :]
        last = prompt.rpartition(USER)[2]
        starts = [found.start() for found in self.control.finditer(last) if found[0] in splitting]
        self._tail = last[starts[-1] :] if starts else ""
        (self._tail_ids,) = self.token_ids([self._tail])

    @cached_property
    def _template(self) -> str:
        """The chat template with a frozen date: `strftime_now` is a macro instead of the function of transformers."""
        template = self.tokenizer.get_chat_template()
        if "strftime_now" not in template:
            return template
        codes = set(re.findall("%-?[a-zA-Z]", template))
        replaced = "".join(f"|replace({code!r}, {TODAY.strftime(code)!r})" for code in sorted(codes))
        return f"{{% macro strftime_now(format) %}}{{{{ format{replaced} }}}}{{% endmacro %}}{template}"

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = False) -> str:
        """Return messages as the chat template writes them; thinking modes are switched off.

        Raises ICFTError if the template refuses the messages.
        """
        return self._render([messages], add_generation_prompt)[0]

    def _render(self, conversations: Sequence[Sequence[Message]], add_generation_prompt: bool = False) -> list[str]:
        """Return what `render` returns for each conversation, in one call because its overhead is most of the time."""
        if not conversations:
            return []
        if self._folds_system:
            conversations = [_fold_system(messages) for messages in conversations]
        try:
            return self.tokenizer.apply_chat_template(
                conversations,
                chat_template=self._template,
                tokenize=False,
                enable_thinking=False,
                date_string=DATE_STRING,
                add_generation_prompt=add_generation_prompt,
            )
        except Exception as error:  # a template is a program of its own
            roles = ", ".join(message["role"] for message in conversations[0])
            raise ICFTError(
                f"the tokenizer's chat template refuses a conversation of {roles} ({short_reason(error)}); "
                f"change the roles or their order, or set tokenizer.chat_template"
            ) from error

    def token_ids(self, texts: list[str]) -> list[list[int]]:
        """Return the token ids of each text, without the special tokens that a tokenizer adds by itself."""
        # verbose=False: no warning for texts longer than the model takes. Encoder handles the length.
        return self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """Return the prompt: the messages, up to where the assistant's response starts.

        Raises ICFTError if the template refuses the messages, or drops or changes one.
        """
        text = self.render(messages, add_generation_prompt=True) + self.lead
        for message in messages:
            if message["content"].rpartition("</think>")[2].strip() not in text:  # templates drop earlier thoughts
                raise ICFTError(
                    f"the tokenizer's chat template drops or changes a message of the {message['role']} "
                    f"({message['content'][:40]!r}); remove it, or set tokenizer.chat_template"
                )
        return text

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the token ids of the prompt, from which a reply is generated."""
        return self.encode(messages, [])[0]

    def encode(self, messages: Sequence[Message], responses: Sequence[str]) -> tuple[list[int], list[list[int]]]:
        """Return the token ids of the prompt, and of each response including its end of turn.

        Prompt and response are tokenized together, as in a finished conversation: a SentencePiece tokenizer would put
        a space in front of a separate response. Tokens that belong to both, or that differ between the prompt alone and
        the prompt with a response, belong to the response. All responses have the same prompt.

        Only what follows the last token that the tokenizer splits texts at is tokenized again for every response. The
        tokenizer is called once for all texts, because the overhead of a call is most of its time.
        """
        prompt = self.prompt_text(messages)
        finished = self._render([[*messages, {"role": "assistant", "content": text}] for text in responses])
        texts = [self._response_text(prompt, *pair) for pair in zip(responses, finished)]
        if self._tail and prompt.endswith(self._tail):
            start, *ids = self.token_ids([prompt.removesuffix(self._tail), *(self._tail + text for text in texts)])
            own = self._tail_ids
        else:
            own, *ids = self.token_ids([prompt, *(prompt + text for text in texts)])
            start = []
        size = min([len(own) - self._overlap, *(_common(own, one) for one in ids)])
        return start + own[:size], [one[size:] for one in ids]

    def _response_text(self, prompt: str, response: str, conversation: str) -> str:
        """Return a response and its end of turn, as the chat template writes them after the prompt.

        Raises ICFTError for a response with thoughts that the template removes, or for which it has ended the thoughts.
        """
        # For a template that writes finished turns differently from what follows its prompt.
        text = (self._space + response.lstrip(" ") if self._space else response) + self.end
        if conversation.startswith(prompt) and conversation.endswith(self._after):
            text = conversation[len(prompt) : len(conversation) - len(self._after)] + self.end
        if "</think>" in response and (response.strip() not in text or prompt.rstrip().endswith("</think>")):
            raise ICFTError(
                "a response contains thoughts (…</think>), which this chat template removes, or ends before the "
                "response; remove them from the text"
            )
        return text

    def reply_text(self, ids: list[int], stop_ids: Iterable[int]) -> str:
        """Return the text of generated token ids up to the first of `stop_ids`, without special tokens."""
        ids = list(takewhile(lambda token: token not in stop_ids, ids))
        text = self.special.sub("", self.tokenizer.decode(ids, skip_special_tokens=True))
        return text.strip().removesuffix(self.control.sub("", self.end).strip()).strip()

    def user_turn(self) -> tuple[str, str]:
        """Return the text before and after the content of a single user turn.

        The first end where the user's text starts, so a model continues them with a prompt of its own
        (self-generated prompts). The second start with the end of the user turn and end where the response starts.
        Raises ICFTError if the template does not contain the user's text exactly once, or writes nothing after it.
        """
        prompt = self.render([{"role": "user", "content": USER}], add_generation_prompt=True) + self.lead
        before, *others = prompt.split(USER)
        if len(others) != 1 or not others[0].strip():
            raise ICFTError(
                f"tokenizer: its chat template writes the user's text {len(others)} times instead of once, or no end "
                f"after it; use another template, or self_prompts = 0"
            )
        return before.rstrip(" "), others[0]

    def special_tokens_in(self, example: Example) -> list[tuple[str, str]]:
        """Return (column, token) of the special tokens that occur in an example's text.

        The model would read them as the end of a turn, or as the start of another.
        """
        return [(name, token) for name, text in _texts(example) for token in self.special.findall(text)]


def _fold_system(messages: Sequence[Message]) -> Sequence[Message]:
    """Return messages with a system message at the start of the first user turn, if that follows it."""
    if len(messages) < 2 or [message["role"] for message in messages[:2]] != ["system", "user"]:
        return messages
    text = f"{messages[0]['content']}\n\n{messages[1]['content']}"
    return [{"role": "user", "content": text}, *messages[2:]]


def _texts(example: Example) -> Iterator[tuple[str, str]]:
    """Yield (column, text) of all texts of an example that the model reads or writes."""
    yield "prompt", example["prompt"]
    yield "context", example.get("context") or ""
    yield from (("history", message["content"]) for message in example.get("history") or [])
    yield from (("responses", text) for text in example["responses"])


def _pattern(texts: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern that matches any of the texts, the longest first."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")


def _splits(tokenizer: PreTrainedTokenizerBase, token: object) -> bool:
    """Return whether what follows an added token is tokenized independently of what precedes it."""
    return tokenizer.is_fast and not any(getattr(token, name) for name in ("normalized", "lstrip", "single_word"))


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """Return how many tokens two sequences have in common at their start."""
    return next((n for n, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))
