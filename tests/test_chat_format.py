"""Chat format: what the template writes, where the response starts, and where it ends."""

import pytest
from transformers import PreTrainedTokenizerFast

from icft_lite.errors import ICFTError
from icft_lite.modeling.base import TINY
from icft_lite.modeling.chat_format import ChatFormat, example_messages

CHATML = (
    "{% for m in messages %}{{ m['role'] + '\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}{% endif %}"
)
"""A template with a line break after the end of turn, and a thinking mode. It writes empty thoughts only at the end of
a prompt, so the finished conversation does not start with the prompt."""
ENDLESS = (
    "{% for m in messages %}[{{ m['content'] }}]{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
"""A template without any end of turn, whose prompt is not the start of the finished conversation."""
HISTORY = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "pain"}]


def chat_format(template=None):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(TINY)
    tokenizer.chat_template = template or tokenizer.chat_template
    return ChatFormat(tokenizer)


def test_a_tokenizer_without_a_chat_template_is_refused():
    bare = PreTrainedTokenizerFast(tokenizer_file=str(TINY / "tokenizer.json"))
    with pytest.raises(ICFTError, match="chat template"):
        ChatFormat(bare)


def test_messages_are_the_history_then_one_user_turn(example):
    messages = example_messages(example(history=HISTORY), context="An abstract.")
    assert messages == [*HISTORY, {"role": "user", "content": "An abstract.\n\nDefine nephritis."}]
    assert example_messages({"task": "response", "prompt": "Why?"}) == [{"role": "user", "content": "Why?"}]


def test_only_questions_list_lettered_options(example):
    (message,) = example_messages(example(task="question", responses=["pain", "fever"]), letter_options=True)
    assert message["content"] == "Define nephritis.\nA. pain\nB. fever"
    (message,) = example_messages(example(task="pair", responses=["pain", "fever"]), letter_options=True)
    assert message["content"] == "Define nephritis."


def test_prompt_and_response_together_are_the_conversation(example):
    chat, messages = chat_format(), example_messages(example(history=HISTORY))
    prompt, (response,) = chat.encode(messages, ["inflammation of the kidney"])
    answer = {"role": "assistant", "content": "inflammation of the kidney"}
    assert chat.tokenizer.decode(prompt + response) == chat.render([*messages, answer])
    assert prompt == chat.prompt_ids(messages) and chat.tokenizer.decode(prompt) == chat.prompt_text(messages)
    assert chat.prompt_text(messages).endswith("<|assistant|>")


@pytest.mark.parametrize("template", [None, CHATML, ENDLESS])
def test_every_response_ends_with_one_end_of_turn(example, template):
    chat = chat_format(template)
    _, responses = chat.encode(example_messages(example()), ["pain", "the left lung", ""])
    end = chat.tokenizer.eos_token_id
    assert [ids.count(end) for ids in responses] == [1, 1, 1] and all(ids[-1] == end for ids in responses)
    texts = [chat.tokenizer.decode(ids[:-1]).strip() for ids in responses]
    assert texts == ["pain", "the left lung", ""], "no line break after the end of turn, no thoughts"


def test_thinking_is_switched_off(example):
    assert chat_format(CHATML).prompt_text(example_messages(example())).endswith("assistant\n<think></think>")


def test_prompt_and_responses_are_tokenized_in_one_call(example, monkeypatch):
    chat, calls = chat_format(), []
    tokenize = chat.token_ids
    monkeypatch.setattr(chat, "token_ids", lambda texts: calls.append(len(texts)) or tokenize(texts))
    chat.encode(example_messages(example()), ["pain", "fever", "a cough"])
    assert calls == [4]


@pytest.mark.parametrize("template", [None, CHATML])
def test_a_user_turn_is_split_around_its_content(template):
    chat = chat_format(template)
    start, end = chat.user_turn()
    whole = chat.prompt_text([{"role": "user", "content": "Why?"}])
    assert start and end and whole.startswith(start) and whole.endswith(end)
    assert whole[len(start) : -len(end)].strip() == "Why?"


@pytest.mark.parametrize("times", [0, 2])
def test_a_template_that_does_not_write_the_user_text_once_has_no_user_turn(times):
    chat = chat_format("{% for m in messages %}<|user|>" + "{{ m['content'] }}" * times + "{% endfor %}")
    with pytest.raises(ICFTError, match=f"{times} times instead of once"):
        chat.user_turn()
