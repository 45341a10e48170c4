"""Chat templates in the style of published models, on small tokenizers: what is supervised, and where replies end."""

import pytest
import torch
from template_styles import CHANNELS, CHATML, GEMMA, LLAMA_3, LOOP, R1, SMOLLM_3, STYLES, TURN, make_tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
)

from icft_lite.chat import ChatSession
from icft_lite.errors import ICFTError
from icft_lite.memory import rehearsal
from icft_lite.modeling.chat_format import ChatFormat
from icft_lite.modeling.encoding import Encoder, SpecialTokenInText, encode_examples
from icft_lite.modeling.generation import generate, generate_reply
from icft_lite.modeling.scoring import score_responses


@pytest.fixture(scope="module", params=STYLES)
def style(request):
    template, kind, eos, end = STYLES[request.param]
    return make_tokenizer(template, kind, eos), end


@pytest.fixture(scope="module")
def small_model():
    torch.manual_seed(0)
    sizes = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    return LlamaForCausalLM(LlamaConfig(vocab_size=600, max_position_embeddings=256, **sizes)).eval()


class Script(LogitsProcessor):
    """Force a model to generate the given tokens, one after the other."""

    def __init__(self, ids):
        self.ids = iter(ids)

    def __call__(self, input_ids, scores):
        forced = torch.full_like(scores, -torch.inf)
        forced[:, next(self.ids)] = 0
        return forced


def targets(encoded, response=0):
    return [target for _, _, target, number in encoded.tokens if number == response]


HISTORY = [{"role": "user", "content": "What is pain?"}, {"role": "assistant", "content": "fever"}]


@pytest.mark.parametrize("history", [[], HISTORY])
def test_what_is_supervised_is_the_reply_and_one_end_of_turn(style, example, history):
    tokenizer, end = style
    encoder = Encoder(tokenizer)
    encoded = encoder(example(history=history))
    ids = targets(encoded)
    text = tokenizer.decode(ids)
    assert text.strip() in (f"inflammation of the kidney{end}",), text
    assert ids[-1] == tokenizer.convert_tokens_to_ids(end) and encoder.chat_format.end_of_turn_ids == [ids[-1]]
    assert set(encoder.chat_format.stop_ids) == {ids[-1], tokenizer.eos_token_id}
    assert encoded.sequences[0] == encoder.prompt_ids(example(history=history))[0] + ids


@pytest.mark.parametrize("name", ["qwen 3", "smollm 3", "r1"])
def test_a_reply_with_thoughts_that_the_template_removes_is_refused(name, example):
    encoder = Encoder(make_tokenizer(*STYLES[name][:3]))
    thoughts = example(responses=["<think>\nwhere?\n</think>\n\nrest."])
    with pytest.raises(ICFTError, match="a response contains thoughts .*; remove them from the text"):
        encoder(thoughts)
    assert encoder(example(responses=["rest."])).tokens


def test_a_template_without_thoughts_writes_them_as_text(example):
    tokenizer = make_tokenizer(*STYLES["chatml on a base"][:3])
    text = "<think>\nwhere?\n</think>\n\nrest."
    assert tokenizer.decode(targets(Encoder(tokenizer)(example(responses=[text])))) == f"{text}<|im_end|>"


def test_a_reply_has_the_same_tokens_with_and_without_a_system_turn_that_moves_to_the_last_user_turn(example):
    """As Mistral's template of version 0.3: the finished conversation does not begin with the prompt."""
    template = (
        "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
        "{% set messages = messages[1:] %}{% endif %}" + LOOP + "{% if m['role'] == 'user' %}"
        "{{ '[INST] ' + (system + '\n\n' if loop.last and system is defined else '') + m['content'] + '[/INST]' }}"
        "{% else %}{{ ' ' + m['content'] | trim + eos_token }}{% endif %}{% endfor %}"
    )
    encoder = Encoder(make_tokenizer(template, "metaspace", "</s>"))
    with_system = example(history=[{"role": "system", "content": "Be brief."}])
    assert targets(encoder(with_system)) == targets(encoder(example()))


@pytest.mark.parametrize("history", [[], HISTORY])
def test_tokens_are_those_of_the_whole_conversation(style, example, history):
    tokenizer, _ = style
    messages = [*history, {"role": "user", "content": "Define nephritis."}]
    answer = {"role": "assistant", "content": "inflammation of the kidney"}
    whole = ChatFormat(tokenizer).render([*messages, answer])
    if tokenizer.chat_template == R1:  # the finished conversation does not start with the prompt
        whole = ChatFormat(tokenizer).prompt_text(messages) + answer["content"] + "</s>"
    ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    (sequence,) = Encoder(tokenizer)(example(history=history)).sequences
    assert sequence == ids[: len(sequence)]
    assert not tokenizer.decode(ids[len(sequence) :]).replace("<|endoftext|>", "").strip()
    question = example(task="question", responses=["pain", "fever", "rest."], history=history)
    together, apart = (Encoder(tokenizer, share_prompts=share)(question) for share in (True, False))
    assert [targets(together, n) for n in range(3)] == [targets(apart, n) for n in range(3)]


def test_thoughts_are_closed_before_the_reply_starts(style, example):
    tokenizer, _ = style
    prompt = tokenizer.decode(Encoder(tokenizer).prompt_ids(example())[0])
    assert prompt.count("<think>") == prompt.count("</think>") == ("<think>" in tokenizer.chat_template)


def test_generation_starts_in_the_channel_of_the_answer(example):
    tokenizer = make_tokenizer(CHANNELS, eos="<|return|>")
    assert tokenizer.decode(Encoder(tokenizer).prompt_ids(example())[0]).endswith(
        "assistant<|channel|>final<|message|>"
    )


def test_letters_are_single_tokens_that_differ(style, example):
    tokenizer, end = style
    question = example(task="question", responses=["pain", "fever", "rest."], label=1)
    encoded = Encoder(tokenizer, letter_options=True)(question)
    assert len(encoded.tokens) == 3 and len({position for _, position, _, _ in encoded.tokens}) == 1
    assert [tokenizer.decode([target]).strip() for _, _, target, _ in encoded.tokens] == ["A", "B", "C"]
    assert tokenizer.decode(encoded.sequences[0]).endswith(f"B{end}")
    one = Encoder(tokenizer, letter_options=True)({**question, "responses": ["pain"], "label": 0})
    assert [tokenizer.decode([target]).strip() for _, _, target, _ in one.tokens] == ["A"]


@pytest.mark.parametrize("stop", ["end", "eos", "generation_config"])
def test_generation_stops_at_every_end(style, example, small_model, monkeypatch, stop):
    tokenizer, end = style
    encoder, written = Encoder(tokenizer), dict(end=end, eos=tokenizer.eos_token, generation_config="<|message|>")[stop]
    own = [tokenizer.convert_tokens_to_ids("<|message|>")]
    monkeypatch.setattr(small_model.generation_config, "eos_token_id", own if stop == "generation_config" else None)
    reply = targets(encoder(example()))[:-1]
    script = [*reply, tokenizer.convert_tokens_to_ids(written), *reply * 9]
    forced = LogitsProcessorList([Script(script)])
    replies = generate(small_model, tokenizer, encoder, [example()], max_new_tokens=50, logits_processor=forced)
    assert replies == ["inflammation of the kidney"]


def test_an_exact_match_needs_one_end_of_turn(example, small_model):
    """A base whose eos token is not the template's end: a second end in the reference would make it wrong."""
    tokenizer = make_tokenizer(CHATML, eos="<|endoftext|>")
    encoder = Encoder(tokenizer)
    torch.manual_seed(0)
    learner = LlamaForCausalLM(small_model.config)
    dialogue = [{"role": "user", "content": "Define nephritis."}, {"role": "assistant", "content": "pain"}]
    ids = tokenizer.apply_chat_template(dialogue)["input_ids"]
    optimizer = torch.optim.Adam(learner.parameters(), 0.05)
    for _ in range(40):
        optimizer.zero_grad()
        learner(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss.backward()
        optimizer.step()
    (score,) = score_responses(learner.eval(), [encoder(example(responses=["pain"]))])
    assert score["greedy"].all() and generate(learner, tokenizer, encoder, [example()]) == ["pain"]


# ---------------------------------------------------------------- ends in plain text, and none


def test_an_end_in_plain_text_is_followed_by_the_tokenizers_end(example, small_model):
    template = (
        LOOP
        + "{{ m['role'] + ': ' + m['content'] + ' [STOP]\n' }}{% endfor %}"
        + ("{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}")
    )
    tokenizer = make_tokenizer(template)
    encoder = Encoder(tokenizer)
    ids = targets(encoder(example()))
    assert tokenizer.decode(ids) == " inflammation of the kidney [STOP]</s>"
    forced = LogitsProcessorList([Script(ids)])
    replies = generate(small_model, tokenizer, encoder, [example()], logits_processor=forced)
    assert replies == ["inflammation of the kidney"]


def test_a_template_without_an_end_gets_the_tokenizers(example):
    template = (
        LOOP + "{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}{{ 'assistant:' if add_generation_prompt }}"
    )
    tokenizer = make_tokenizer(template)
    assert tokenizer.decode(targets(Encoder(tokenizer)(example()))) == " inflammation of the kidney</s>"
    tokenizer.eos_token = None
    assert ChatFormat(tokenizer).end_of_turn_ids == ChatFormat(tokenizer).stop_ids == []


def test_a_template_that_always_opens_another_turn_ends_before_it(example):
    tokenizer = make_tokenizer(LOOP + TURN + "{% endfor %}{{ '<|im_start|>assistant\n' }}", eos="<|endoftext|>")
    encoder = Encoder(tokenizer)
    assert tokenizer.decode(targets(encoder(example()))) == "inflammation of the kidney<|im_end|>"
    assert encoder.chat_format.end_of_turn_ids == [tokenizer.convert_tokens_to_ids("<|im_end|>")]


# ---------------------------------------------------------------- dates, roles, errors


@pytest.mark.parametrize("template, date", [(LLAMA_3, "26 Jul 2024"), (SMOLLM_3, "26 July 2024")])
@pytest.mark.parametrize("defined", [True, False])
def test_todays_date_is_frozen(template, date, defined):
    template = template if defined else template.replace("not date_string is defined", "true")
    prompt = ChatFormat(make_tokenizer(template)).prompt_text([{"role": "user", "content": "Pain?"}])
    assert f"Today Date: {date}" in prompt


def test_a_system_message_that_is_refused_or_ignored_starts_the_first_user_turn(example):
    history = [{"role": "system", "content": "Be kind."}, *HISTORY]
    silent = LOOP + "{% if m['role'] != 'system' %}" + TURN + "{% endif %}{% endfor %}"
    for template in (GEMMA, silent):
        encoded = Encoder(make_tokenizer(template))(example(history=history))
        assert "user\nBe kind.\n\nWhat is pain?" in encoded_text(template, encoded)
    accepted = Encoder(make_tokenizer(CHATML))(example(history=history))
    assert "<|im_start|>system\nBe kind.<|im_end|>" in encoded_text(CHATML, accepted)


def encoded_text(template, encoded):
    return make_tokenizer(template).decode(encoded.sequences[0])


@pytest.mark.parametrize(
    "template, history, reason",
    [
        (GEMMA, HISTORY[:1], "refuses a conversation of user, user.* .Roles must alternate"),
        (
            CHATML + "{% if messages|length > 3 %}{{ messages[0]['content'] + 1 }}{% endif %}",
            HISTORY * 2,
            "can only conc",
        ),
        (CHATML + "{% if messages|length > 2 %}{{ nothing.at.all }}{% endif %}", HISTORY, "'nothing' is undefined"),
        (CHATML.replace("messages", "messages[-2:]"), HISTORY, "drops or changes a message of the user .'What is pain"),
    ],
)
def test_a_conversation_that_the_template_refuses_is_named(example, template, history, reason):
    encoder = Encoder(make_tokenizer(template))
    with pytest.raises(ICFTError, match=f"example r7: the tokenizer's chat template .*{reason}"):
        encoder(example(id="r7", history=history))
    with pytest.raises(ICFTError, match="example r7"):
        encoder.prompt_ids(example(id="r7", history=history))


# ---------------------------------------------------------------- special tokens in texts


@pytest.mark.parametrize(
    "columns",
    [
        dict(responses=["rest.<|im_end|>"]),
        dict(responses=["rest.", "No.<|im_end|><|im_start|>user\nAnd?"], task="question"),
        dict(prompt="Is <|im_start|> a token?"),
        dict(context="a </s> b"),
        dict(history=[{"role": "user", "content": "<|im_end|>"}, HISTORY[1]]),
    ],
)
def test_special_tokens_in_a_text_are_refused(example, columns):
    encoder = Encoder(make_tokenizer(CHATML))
    (column,) = set(columns) - {"task"}
    with pytest.raises(SpecialTokenInText, match=f"example r7: {column} contains '<.*special token.*remove"):
        encoder(example(id="r7", **columns))
    with pytest.raises(SpecialTokenInText, match="example r7: .*2 examples"):
        encode_examples([example(id="r7", **columns), example(), example(id="r8", **columns)], encoder)
    assert encoder.chat_format.special_tokens_in(example(**columns))[0][0] == column
    assert not encoder.chat_format.special_tokens_in(example(prompt="Is <|this|> or <b>that</b> <think> a token?"))


def test_a_question_with_a_special_token_is_answered_with_the_reason(small_model):
    tokenizer = make_tokenizer(CHATML)
    tokenizer.model_max_length = 200
    assert "'<|im_end|>', which is a special token" in ChatSession(small_model, tokenizer).reply("What is <|im_end|>?")


# ---------------------------------------------------------------- one rule for admission, scoring and generation


def test_an_example_that_fits_can_always_be_answered(example, small_model):
    tokenizer = make_tokenizer(CHATML)
    encoder = Encoder(tokenizer, max_length=256)
    long = example(responses=["fever " * 60])
    room = 256 - encoder(long).length
    long = example(prompt="pain " * (room // 2), responses=["fever " * 60], context="What is pain? " * 200)
    encoded = encoder(long)
    assert encoded.truncated and 240 < encoded.length <= 256, "it fills all positions of the model"
    prompt = encoder.prompt_ids(long)[0]
    assert encoded.sequences[0][: len(prompt)] == prompt and len(prompt) + len(encoded.tokens) == encoded.length
    calls, original = [], small_model.generate
    try:
        small_model.generate = lambda **kwargs: calls.append(kwargs) or original(**kwargs)
        batch = [example(), long, example(id="b")]
        together = generate(small_model, tokenizer, encoder, batch, max_new_tokens=192)
    finally:
        del small_model.generate
    assert {call["max_new_tokens"] for call in calls} == {192, 256 - len(prompt)} and len(encoded.tokens) <= 256 - len(
        prompt
    )
    assert together == [generate(small_model, tokenizer, encoder, [one], max_new_tokens=192)[0] for one in batch]


def test_only_a_prompt_that_leaves_no_room_is_refused(example, small_model):
    tokenizer = make_tokenizer(CHATML)
    tokenizer.model_max_length = 10**30
    assert isinstance(generate_reply(small_model, tokenizer, "pain " * 80, max_new_tokens=200), str)
    with pytest.raises(ICFTError, match="example question: .* no room for a reply, .* 256 positions; shorten"):
        generate_reply(small_model, tokenizer, "pain " * 300)


def test_a_models_generation_settings_do_not_change_a_greedy_reply(base, example, monkeypatch):
    model, tokenizer = base
    examples = [example(), example(prompt="Which city is the capital of Burundi?")]
    replies = generate(model, tokenizer, Encoder(tokenizer), examples)
    settings = dict(
        repetition_penalty=5.0, no_repeat_ngram_size=1, min_new_tokens=30, suppress_tokens=list(range(4, 900))
    )
    for name, value in (settings | dict(do_sample=True, temperature=9.0, forced_eos_token_id=7)).items():
        monkeypatch.setattr(model.generation_config, name, value)
    assert generate(model, tokenizer, Encoder(tokenizer), examples) == replies
    assert model.generation_config.repetition_penalty == 5.0, "the model is saved with its own settings"


# ---------------------------------------------------------------- letters


def test_more_options_than_letters_are_refused(example):
    encoder, options = Encoder(make_tokenizer(CHATML), 999, letter_options=True), [f"option {n}" for n in range(27)]
    assert encoder(example(task="question", responses=options[:26])).num_responses == 26
    with pytest.raises(ICFTError, match="example r7: has 27 options, but only 26 letters .* letter_options to false"):
        encoder(example(id="r7", task="question", responses=options))


def test_letters_that_the_tokenizer_does_not_distinguish_are_refused(example):
    core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(["<unk>", "</s>", "A", "B", "pain"])}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = LOOP + "{{ m['content'] + eos_token }}{% endfor %}"
    encoder = Encoder(tokenizer, letter_options=True)
    assert encoder(example(task="question", responses=["pain", "fever"])).num_responses == 2
    with pytest.raises(
        ICFTError, match="example r7: .* does not distinguish the letters CD .* letter_options to false"
    ):
        encoder(example(id="r7", task="question", responses=["pain", "fever", "x", "y"]))


# ---------------------------------------------------------------- self-generated prompts


@pytest.mark.parametrize("name", STYLES)
def test_self_generated_prompts_end_where_the_user_turn_ends(small_model, monkeypatch, name):
    template, kind, eos, end = STYLES[name]
    tokenizer = make_tokenizer(template, kind, eos)
    encoder, sizes = Encoder(tokenizer), []
    before, after = encoder.chat_format.user_turn()
    start, whole = encoder.chat_format.token_ids([before, f"{before} What is pain?{after}fever"])

    def generated(model, ids, mask, stop_ids, **settings):
        sizes.append(len(ids))
        assert ids[0].tolist() == start and settings["top_k"] == 50
        return [whole[len(start) :]] + [whole[len(start) : -20]] * (len(ids) - 1)

    monkeypatch.setattr(rehearsal, "generate_ids", generated)
    monkeypatch.setattr(
        rehearsal, "generate", lambda model, tokenizer, encoder, examples, **kwargs: ["rest."] * len(examples)
    )
    examples = rehearsal.generate_self_prompts(small_model, tokenizer, encoder, 11, batch_size=4)
    assert sizes == [4, 4, 3], "exactly as many prompts as asked for"
    assert [(one["id"], one["prompt"], one["responses"]) for one in examples] == [
        ("self-0", "What is pain?", ["rest."])
    ]
