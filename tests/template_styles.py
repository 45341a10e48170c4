"""Small tokenizers of several kinds, with chat templates in the style of published models."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "Define nephritis. inflammation of the kidney",
    "What is pain? Pain where? [INST] A B C D fever [/INST]",
    "rest.",
]
LOOP = "{% for m in messages %}"
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    + LOOP
    + "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\n' + m['content'] | trim + "
    "'<end_of_turn>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
PHI = (
    LOOP + "{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}"
)
TURN = "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
CHATML = LOOP + TURN + "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
LLAMA_3 = (
    "{% if not date_string is defined %}{% if strftime_now is defined %}"
    "{% set date_string = strftime_now('%d %b %Y') %}{% else %}"
    "{% set date_string = '26 Jul 2024' %}{% endif %}{% endif %}{{ bos_token }}"
    "{{ '<|start_header_id|>system<|end_header_id|>\n\nToday Date: ' + date_string + '<|eot_id|>' }}"
    + LOOP
    + "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}" + LOOP + "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
QWEN_3 = (
    LOOP + "{% if m['role'] == 'assistant' and loop.last %}{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' + "
    "m['content'].split('</think>')[-1].lstrip('\n') + '<|im_end|>\n' }}{% else %}" + TURN + "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)
SMOLLM_3 = "{{ '<|im_start|>system\nToday Date: ' + strftime_now('%d %B %Y') + '\n<|im_end|>\n' }}" + QWEN_3.replace(
    "</think>\n\n", "</think>\n"
)
R1 = (
    "{{ bos_token }}"
    + LOOP
    + "{% if m['role'] == 'assistant' %}{{ '<|im_start|>' + m['content'].split('</think>')[-1] + "
    "eos_token }}{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|><think>\n' }}{% endif %}"
)
CHANNELS = (
    LOOP + "{{ '<|im_start|>' + m['role'] }}{% if m['role'] == 'assistant' %}{{ '<|channel|>final' }}{% endif %}"
    "{{ '<|message|>' + m['content'] + ('<|return|>' if loop.last and m['role'] == 'assistant' else '<|end|>') }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant' }}{% endif %}"
)
VICUNA = (
    LOOP + "{% if m['role'] == 'user' %}{{ 'USER: ' + m['content'] + ' ' }}{% else %}"
    "{{ 'ASSISTANT: ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT: ' }}{% endif %}"
)
SPECIAL = (
    "<unk> <s> </s> <|endoftext|> <start_of_turn> <end_of_turn> <|user|> <|assistant|> <|system|> <|end|> <|im_start|> "
    "<|im_end|> <|start_header_id|> <|end_header_id|> <|eot_id|> <|channel|> <|message|> <|return|>"
).split()
STYLES = {
    "gemma": (GEMMA, "metaspace", "</s>", "<end_of_turn>"),
    "phi": (PHI, "llama", "<|endoftext|>", "<|end|>"),
    "chatml on a base": (CHATML, "bytes", "<|endoftext|>", "<|im_end|>"),
    "llama 3": (LLAMA_3, "bytes", "<|endoftext|>", "<|eot_id|>"),
    "mistral": (MISTRAL, "first", "</s>", "</s>"),
    "mistral, legacy": (MISTRAL, "llama", "</s>", "</s>"),
    "qwen 3": (QWEN_3, "bytes", "<|im_end|>", "<|im_end|>"),
    "smollm 3": (SMOLLM_3, "bytes", "<|im_end|>", "<|im_end|>"),
    "r1": (R1, "bytes", "</s>", "</s>"),
    "channels": (CHANNELS, "bytes", "<|return|>", "<|return|>"),
    "vicuna": (VICUNA, "llama", "</s>", "</s>"),
    "vicuna, bytes": (VICUNA, "bytes", "</s>", "</s>"),
}
"""Template, kind of tokenizer, `eos_token`, and the end of turn that the template writes."""


def make_tokenizer(template, kind="bytes", eos="</s>"):
    """A small BPE tokenizer. bytes: byte-level. llama, metaspace, first: as SentencePiece, which writes ▁ for spaces;
    `llama` and `first` also put one in front of a text."""
    if kind == "bytes":
        core = Tokenizer(models.BPE())
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    else:
        core = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
        alphabet = sorted(set("".join(TEXT)) | {"▁", "\n"} | set("ABCDEFGHIJKLMNOPQRSTUVWXYZ:/[]"))
        if kind == "llama":
            core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        elif kind == "metaspace":
            core.normalizer = normalizers.Replace(" ", "▁")
        else:
            core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        core.decoder = decoders.Replace("▁", " ")
    texts = (
        TEXT if kind in ("bytes", "first") else [part for text in TEXT for part in text.replace(" ", " ▁").split(" ")]
    )
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token=eos, clean_up_tokenization_spaces=False
    )
    tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    if template == PHI:
        tokenizer.add_tokens([AddedToken("<|assistant|>", rstrip=True, normalized=False, special=True)])
    tokenizer.chat_template = template
    return tokenizer
