"""Conversations: lists of turns in the forms of public chat and preference data, as history, prompt and replies."""

import re
from collections import Counter
from typing import Any

from icft_lite.errors import ICFTError

Turn = dict[str, str]
"""One turn: role (system, user or assistant) and content."""
Notes = Counter[str]
"""From what the user should know to the number of rows of which it is true."""
ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "chatbot", "model", "ai"), "assistant"),
}
"""From the role of a turn, in any case, to the role that chat templates know."""
UNUSABLE_KEYS = ("tool_calls", "function_call", "reasoning_content", "thinking")
"""Keys of a turn whose content would be lost."""
WEIGHT_KEYS = ("weight", "train", "loss")
"""Keys of a turn that say whether it is trained on."""
SPEAKER = re.compile(r"(?:^|\n\n)(Human|Assistant):")
"""The beginning of a turn where a whole conversation is one text, as in Anthropic's HH-RLHF."""


def read_text(value: Any, name: str, where: str) -> str:
    """Return a text without surrounding spaces.

    value: a text, a number, or a list of content parts of the type `text`, which are joined by line breaks. Raises
    ICFTError for anything else, and for an empty text.
    """
    if isinstance(value, list) and value and all(isinstance(part, dict) and "type" in part for part in value):
        if other := {str(part["type"]) for part in value} - {"text"}:
            raise ICFTError(f"{where}: {name} has a part of the type {min(other)}; only text is read, remove that part")
        value = "\n".join(str(part.get("text") or "") for part in value)
    if isinstance(value, int | float) and not isinstance(value, bool) and value == value:
        whole = isinstance(value, float) and value.is_integer()  # pandas stores integers with gaps as floats
        value = str(int(value) if whole else value)
    if isinstance(value, str) and value.strip():
        return value.strip()
    if value is None or value != value:
        state = "is missing"
    else:
        state = "is empty" if isinstance(value, str) else f"is {shorten(value)}, which is not text"
    raise ICFTError(f"{where}: {name} {state}; give it some text, or remove this example")


def shorten(value: Any) -> str:
    """Return the beginning of a value, as an error message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def read_turns(value: Any, name: str, where: str, notes: Notes) -> list[Turn]:
    """Return the turns of a conversation, of which no two consecutive ones have the same role.

    value: a list of objects with role and content, or from and value. Consecutive turns of one role are joined by blank
    lines, which `notes` counts. Empty system turns are absent. Raises ICFTError for another value, an unknown role, and
    for turns whose content would be lost, such as tool calls.
    """
    if not isinstance(value, list) or not all(isinstance(message, dict) for message in value):
        found: list[Turn | None] = []
    else:
        found = [_read_turn(message, f"{where}: turn {number} of {name}") for number, message in enumerate(value, 1)]
    if not (turns := [turn for turn in found if turn]):
        raise ICFTError(f"{where}: {name} must be a list of objects with role and content, found {shorten(value)}")
    return join_turns(turns, notes)


def join_turns(turns: list[Turn], notes: Notes) -> list[Turn]:
    """Return the turns with consecutive ones of the same role joined by a blank line."""
    joined: list[Turn] = []
    for turn in turns:
        if joined and joined[-1]["role"] == turn["role"]:
            joined[-1] = {**turn, "content": f"{joined[-1]['content']}\n\n{turn['content']}"}
            notes[f"consecutive {turn['role']} turns are joined by a blank line"] += 1
        else:
            joined.append(turn)
    return joined


def find_replies(turns: list[Turn], name: str, where: str, notes: Notes) -> list[tuple[list[Turn], str, str]]:
    """Return (earlier turns, user turn, reply) for each assistant turn that follows a user turn.

    Raises ICFTError if there is none.
    """
    ends = [i for i in range(1, len(turns)) if (turns[i - 1]["role"], turns[i]["role"]) == ("user", "assistant")]
    if not ends:
        raise ICFTError(
            f"{where}: {name} must contain a user turn and then an assistant turn, found "
            f"{', '.join(turn['role'] for turn in turns)}; add the reply, or remove this example"
        )
    if ends[-1] < len(turns) - 1:
        notes["turns after the last reply are not used"] += 1
    return [(turns[: i - 1], turns[i - 1]["content"], turns[i]["content"]) for i in ends]


def read_pair(
    prompt: list[Turn], replies: dict[str, Any], where: str, notes: Notes
) -> tuple[list[Turn], str, list[str]]:
    """Return (earlier turns, last user turn, the two replies) of a preference pair.

    prompt: its turns, or [] if the conversations of both replies begin with it. replies: from the names of two columns
    to a reply, a list of turns, or a text with `Human:` and `Assistant:`. The turns that both have in common are the
    prompt. Raises ICFTError if the replies are the same, or the conversations differ before their last turn.
    """
    names = " and ".join(replies)
    first, second = (_whole_conversation(prompt, value, name, where, notes) for name, value in replies.items())
    if first == second:
        raise ICFTError(f"{where}: {names} are the same; remove this example, or correct one of them")
    if first[:-1] != second[:-1] or [first[-1]["role"], second[-1]["role"]] != ["assistant"] * 2:
        raise ICFTError(
            f"{where}: {names} must be the same conversation except for the last turn, which is by the assistant; "
            f"cut both after the turn in which they first differ, or remove this example"
        )
    if [turn["role"] for turn in first[-2:-1]] != ["user"]:
        raise ICFTError(f"{where}: prompt is missing; {names} do not begin with a user turn either, add a prompt")
    return first[:-2], first[-2]["content"], [first[-1]["content"], second[-1]["content"]]


def text_or_turns(value: Any, role: str, name: str, where: str, notes: Notes) -> list[Turn]:
    """Return a text as one turn of `role`, and a list of messages as its turns."""
    if isinstance(value, list) and any(isinstance(part, dict) and "type" not in part for part in value):
        return read_turns(value, name, where, notes)
    return [{"role": role, "content": read_text(value, name, where)}]


def split_dialogue(text: Any) -> list[Turn] | None:
    """Return the turns of a text with `Human:` and `Assistant:`, without an empty last one; None for another value."""
    if not isinstance(text, str) or not text.lstrip().startswith("Human:"):
        return None
    parts = SPEAKER.split(text.strip())[1:]
    turns = [
        {"role": ROLES[speaker.lower()], "content": content.strip()}
        for speaker, content in zip(parts[::2], parts[1::2], strict=True)
    ]
    return turns if turns[-1]["content"] else turns[:-1]


def _whole_conversation(prompt: list[Turn], value: Any, name: str, where: str, notes: Notes) -> list[Turn]:
    """Return the prompt and a reply as turns. A reply that does not begin with the assistant contains the prompt."""
    turns = split_dialogue(value) or text_or_turns(value, "assistant", name, where, notes)
    if turns[0]["role"] == "assistant":
        return join_turns([*prompt, *turns], notes)
    if missing := [turn["content"] for turn in prompt if turn not in turns]:
        raise ICFTError(
            f"{where}: the prompt {missing[0][:60]!r} is not in the turns of {name}; remove it, or correct the turns"
        )
    return turns


def _read_turn(message: dict[str, Any], where: str) -> Turn | None:
    """Return one message with the role and the content of `ROLES`, None for an empty system turn.

    where: names the turn.
    """
    role, content = (
        next((message[key] for key in keys if message.get(key) is not None), None)
        for keys in (("role", "from"), ("content", "value"))
    )
    if lost := [key for key in UNUSABLE_KEYS if message.get(key)]:
        raise ICFTError(f"{where} has {lost[0]}, which is not trained on; remove this example, or write it as text")
    if weights := [key for key in WEIGHT_KEYS if str(message.get(key, 1)).strip().lower() in ("0", "0.0", "false")]:
        raise ICFTError(f"{where} has {weights[0]} {message[weights[0]]}; remove the turns that are not trained on")
    if (known := ROLES.get(str(role).lower())) is None:
        raise ICFTError(
            f"{where} has the role {role!r}, expected system, user or assistant; rename it, or remove this example"
        )
    if known == "system" and content in (None, ""):
        return None
    return {"role": known, "content": read_text(content, "its content", where)}
