"""Small GGUF files: two layers with random weights, and a tokenizer that knows bytes, two words and its turns."""

import gguf
import torch
from small_model import small_model
from transformers import LlamaConfig
from transformers.convert_slow_tokenizer import bytes_to_unicode

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ċ Ċ", "Ġ Ġ", "k i", "d n", "ki dn", "e y", "kidn ey"]
TOKENS = [*SPECIAL, *sorted(bytes_to_unicode().values()), *(merge.replace(" ", "") for merge in MERGES)]
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "model.layers": "blk",
}
"""Names of the weights, in transformers and in GGUF."""


def small_llama():
    return small_model(
        LlamaConfig, vocab_size=len(TOKENS), bos_token_id=1, eos_token_id=2, pad_token_id=2, tie_word_embeddings=True
    )


def write_gguf(path, model=None, architecture="llama", kind="F32", leave_out=""):
    """Write a model as llama.cpp's converter does; return the path.

    kind: type of the matrices. leave_out: a part of the names of weights that the file lacks.
    """
    model = model or small_llama()
    config, kind = model.config, gguf.GGMLQuantizationType[kind]
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("small")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(512)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in TOKENS])
    writer.add_token_merges(MERGES)
    for add, number in ((writer.add_unk_token_id, 0), (writer.add_bos_token_id, 1)):
        add(number)
    for add in (writer.add_eos_token_id, writer.add_pad_token_id):
        add(2)
    writer.add_chat_template(TEMPLATE)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" or leave_out and leave_out in name:
            continue
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        for part, count in heads.items():
            if part in name:  # the rotary halves of a head are interleaved
                weight = weight.reshape(count, 2, -1, config.hidden_size).transpose(1, 2).reshape(weight.shape)
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        values, stored = weight.contiguous().numpy(), kind if weight.dim() == 2 else gguf.GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def as_stored(model, kind):
    """The model with the values that its matrices have in a GGUF file of this kind. Positions of q and k do not matter:
    quantization works along the rows."""
    stored = gguf.GGMLQuantizationType[kind]
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.copy_(torch.from_numpy(gguf.dequantize(gguf.quantize(weight.numpy(), stored), stored)))
    return model
