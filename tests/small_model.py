"""Small models of real architectures, with random weights."""

import warnings

import torch
import transformers
from transformers import AutoModelForCausalLM

SIZES = dict(
    vocab_size=1536,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    pad_token_id=0,
    eos_token_id=3,
    bos_token_id=None,
)


WINDOW = 24
"""Sliding windows are shorter than the examples."""
HEADS = dict(head_dim=16)
EXPERTS = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64)
LINEAR_ATTENTION = dict(
    layer_types=["linear_attention", "full_attention"],
    linear_key_head_dim=16,
    linear_value_head_dim=16,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
)
BOTH_KINDS = dict(sliding_window=WINDOW, layer_types=["sliding_attention", "full_attention"])
VISION = dict(
    hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4, image_size=28, patch_size=14
)
FAMILIES = {
    "Llama": ("LlamaConfig", {}),
    "Qwen 2": ("Qwen2Config", {}),
    "Qwen 2 with sliding window": ("Qwen2Config", dict(BOTH_KINDS, use_sliding_window=True, max_window_layers=1)),
    "Qwen 3": ("Qwen3Config", HEADS),
    "Qwen 3 MoE": ("Qwen3MoeConfig", HEADS | EXPERTS),
    "Qwen 3 Next": ("Qwen3NextConfig", HEADS | EXPERTS | LINEAR_ATTENTION | dict(shared_expert_intermediate_size=64)),
    "Qwen 3.5": ("Qwen3_5TextConfig", HEADS | LINEAR_ATTENTION),
    "Gemma 2": ("Gemma2Config", HEADS | BOTH_KINDS),
    "Gemma 3": ("Gemma3TextConfig", HEADS | BOTH_KINDS),
    "Gemma 3 multimodal": ("Gemma3Config", {}),
    "Mistral": ("MistralConfig", dict(sliding_window=WINDOW)),
    "Phi-2": ("PhiConfig", {}),
    "Phi-3": ("Phi3Config", dict(sliding_window=WINDOW)),
    "SmolLM3": ("SmolLM3Config", {}),
    "OLMo 2": ("Olmo2Config", {}),
    "OLMo 3": ("Olmo3Config", BOTH_KINDS),
    "GPT-2": ("GPT2Config", {}),
    "GPT-NeoX": ("GPTNeoXConfig", {}),
    "GPT-J": ("GPTJConfig", dict(rotary_dim=16)),
    "OPT": ("OPTConfig", dict(ffn_dim=128, word_embed_proj_dim=64)),
    "Granite": ("GraniteConfig", dict(logits_scaling=8.0, embedding_multiplier=12.0, residual_multiplier=0.22)),
    "Granite hybrid": (
        "GraniteMoeHybridConfig",
        dict(
            layer_types=["mamba", "attention"],
            mamba_n_heads=8,
            mamba_d_head=16,
            mamba_d_state=16,
            num_local_experts=0,
            shared_intermediate_size=128,
        ),
    ),
    "gpt-oss": ("GptOssConfig", HEADS | BOTH_KINDS | dict(num_local_experts=4, num_experts_per_tok=2)),
    "Cohere": ("CohereConfig", {}),
    "LFM2": ("Lfm2Config", dict(layer_types=["conv", "full_attention"], block_ff_dim=128, block_multiple_of=64)),
    "Falcon": ("FalconConfig", {}),
    "Falcon with ALiBi": ("FalconConfig", dict(alibi=True)),
    "Bloom": ("BloomConfig", dict(n_head=4)),
    "MPT": ("MptConfig", dict(d_model=64, n_heads=4, n_layers=2)),
    "Mamba": ("MambaConfig", dict(state_size=16)),
    "RecurrentGemma": ("RecurrentGemmaConfig", dict(lru_width=64, head_dim=16, num_hidden_layers=3)),
}
"""Families of causal language models: the configuration class in transformers, and settings of a small model."""


def family_model(name, **settings):
    """A small model of a family in FAMILIES. Its weights are large enough for every token to matter."""
    config, own = FAMILIES[name]
    own = dict(initializer_range=0.1, **own)
    if name == "Gemma 3 multimodal":
        text = {**SIZES, **HEADS, **BOTH_KINDS, **own}
        own = dict(text_config=text, vision_config=VISION, mm_tokens_per_image=4, image_token_index=1500)
        own |= dict(boi_token_index=1501, eoi_token_index=1502)
    return small_model(getattr(transformers, config), **{**own, **settings})


def save_family(name, folder, tokenizer, **settings):
    """Save a small model and a tokenizer in a folder; return the folder as text."""
    family_model(name, **settings).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def small_model(config, **settings):
    """A small model from a configuration class of transformers. Its vocabulary is that of `tiny`."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_config(config(**{**SIZES, **settings})).eval()


def logits(model, ids=(1, 40, 300, 77, 901, 2, 55, 60)):
    """The logits of a sequence of token ids, in eval mode."""
    model.eval()
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits
