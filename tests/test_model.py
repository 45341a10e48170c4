"""The base, its adapters, the bare-base pass, other model families, and export."""

import json
import shutil
import warnings

import bitsandbytes
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    PhiConfig,
    Qwen2Config,
    Qwen3Config,
)

from icft_lite.chat import chat
from icft_lite.config import ICFTConfig
from icft_lite.doctor import MODELS
from icft_lite.errors import ICFTError
from icft_lite.modeling.adapters import (
    activate_adapter,
    adapter_tensors,
    add_adapters,
    lora_layers,
    merged_adapter,
    save_adapter,
    use_adapter,
)
from icft_lite.modeling.base import (
    TINY,
    check_head,
    dequantize_base,
    head_weight,
    hidden_states,
    load_base,
    model_fingerprint,
)
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.generation import generate, generate_reply
from icft_lite.modeling.packing import join_batch
from icft_lite.modeling.scoring import score_responses
from icft_lite.runs import export, load_run
from icft_lite.training.trainer import ICFTTrainer
from icft_lite.utils.hardware import hardware

IDS = torch.tensor([[1, 40, 300, 77, 901, 2, 55, 60]])


def logits(model):
    model.eval()
    with torch.no_grad():
        return model(input_ids=IDS).logits


def test_the_base_is_frozen_nf4_and_near_its_fp32_self(base):
    model, _ = base
    linear = model.model.layers[0].self_attn.q_proj.weight
    assert type(linear).__name__ == "Params4bit" and linear.quant_state.quant_type == "nf4"
    assert linear.quant_state.nested, "double quantisation"
    assert not any(parameter.requires_grad for parameter in model.parameters()) and not model.training
    whole, _ = load_base("tiny", four_bit=False)
    assert whole.model.layers[0].self_attn.q_proj.weight.dtype == torch.float32
    close, far = logits(model).softmax(-1), logits(whole).softmax(-1)
    assert 1e-4 < (close - far).abs().sum(-1).mean() / 2 < 0.3


def test_hardware_says_what_it_computes_with():
    found = hardware()
    assert {"device", "name", "dtype", "why", "memory_bytes"} <= set(found)
    if found["device"] == "cpu":
        assert found["dtype"] == "float32" and found["memory_bytes"] > 2**28


@pytest.mark.parametrize("name", ["/no/such/folder", "owner/no-such-model", "EMPTY"])
def test_a_model_that_cannot_be_had_is_one_line(name, tmp_path):
    with pytest.raises(ICFTError, match="cannot be loaded") as caught:
        load_base(str(tmp_path) if name == "EMPTY" else name)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- adapters


@pytest.fixture
def unshared():
    """A base with adapters that no other test has had in its hands: bits are compared."""
    return add_adapters(load_base()[0], 8, 16, 0)


def test_new_adapters_change_nothing_and_come_from_the_seed(unshared):
    model = unshared
    assert torch.equal(logits(model), logits(load_base()[0]))
    fast, slow = adapter_tensors(model, "fast"), adapter_tensors(model, "slow")
    assert all(torch.equal(a, b) for a, b in zip(fast, slow)) and len(fast) == 2 * len(lora_layers(model)) == 56
    assert all(t.requires_grad for t in fast) and not any(t.requires_grad for t in slow)
    trainable = {id(p) for p in model.parameters() if p.requires_grad}
    assert trainable == {id(t) for t in fast}

    def first(seed):
        return adapter_tensors(add_adapters(small(LlamaConfig), 4, 8, seed), "fast")[0]

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))


def test_without_adapters_the_base_is_exactly_itself(unshared, shake):
    model, base = unshared, load_base()
    shake(model, "fast")
    shake(model, "slow", seed=1)
    with use_adapter(model, None):
        assert torch.equal(logits(model), logits(base[0]))
    with use_adapter(model, "slow"):
        slow = logits(model)
    fast = logits(model)
    assert not torch.allclose(slow, fast, atol=0.1) and not torch.allclose(fast, logits(base[0]), atol=0.1)


@pytest.mark.parametrize("active", ["fast", "slow"])
@pytest.mark.parametrize("view", [None, "slow", "fast"])
def test_looking_through_another_adapter_leaves_no_trace(adapted, active, view):
    model, _ = adapted
    activate_adapter(model, active)  # `slow` stays frozen even when it is the active one, as peft would not have it
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with pytest.raises(KeyError), use_adapter(model, view):
        raise KeyError("something went wrong inside")
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert model.active_adapter == active and sum(before.values()) == 56


@pytest.mark.parametrize("name", ["slow", "fast", None])
def test_merged_scores_the_same_and_leaves_no_trace(shake, name):
    model = add_adapters(dequantize_base(load_base()[0]), rank=8, alpha=16)
    for seed, adapter in enumerate(("slow", "fast")):
        shake(model, adapter, 0.1, seed)
    ids = torch.arange(5, 45).reshape(4, 10)
    before, weights = model(ids).logits, {key: value.clone() for key, value in model.state_dict().items()}
    with use_adapter(model, name), torch.no_grad():
        expected = model(ids).logits
    with merged_adapter(model, name), torch.no_grad():
        assert all(module.disable_adapters for module in lora_layers(model).values())
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-3, rtol=0)
    assert name == "fast" or (before - expected).abs().max() > 0.1, "the fast one is active outside"
    with pytest.raises(KeyboardInterrupt), merged_adapter(model, name):
        raise KeyboardInterrupt
    assert torch.equal(model(ids).logits, before) and model.active_adapter == "fast"
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("plain", [False, True])
def test_weights_in_4_bits_or_too_large_to_have_twice_are_not_merged(plain):
    model = add_adapters(dequantize_base(load_base()[0]) if plain else load_base()[0], rank=8, alpha=16)
    with merged_adapter(model, "slow", most=2**20 if plain else 2**28):
        assert not any(module.disable_adapters for module in lora_layers(model).values())
        assert model.active_adapter == "slow"


def test_a_look_at_the_teacher_between_forward_and_backward_keeps_the_gradient(adapted):
    model, _ = adapted

    def gradient(look):
        loss = model(input_ids=IDS).logits.log_softmax(-1)[..., 5].sum()
        if look:
            with torch.no_grad(), use_adapter(model, None):
                model(input_ids=IDS)
        return torch.autograd.grad(loss, adapter_tensors(model, "fast")[1::2])

    torch.testing.assert_close(gradient(True), gradient(False))


def test_a_saved_adapter_loads_with_plain_peft(adapted, shake, tmp_path):
    model, _ = adapted
    shake(model, "slow")
    save_adapter(model, "slow", tmp_path / "adapter")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {f.name for f in (tmp_path / "adapter").iterdir()}
    with use_adapter(model, "slow"):
        expected = logits(model)
    plain = PeftModel.from_pretrained(load_base("tiny")[0], str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(plain), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, logits(model), atol=0.1), "it would also pass with the wrong adapter"


# ---------------------------------------------------------------- export


@pytest.fixture
def finished(adapted, shake, tmp_path):
    """The folder of a run, as far as export looks at it."""
    model, _ = adapted
    shake(model, "slow", 0.1)
    folder = tmp_path / "run"
    save_adapter(model, "slow", folder / "adapter")
    (folder / "report.json").write_text(json.dumps(dict(base="tiny", config=ICFTConfig().to_dict())))
    return folder


def test_merged_weights_compute_what_the_run_did(finished, tmp_path):
    """The base's own weights, not rounded to 4 bits, would be another model: the adapter never saw them."""
    export(finished, tmp_path / "merged", merge=True)
    merged_adapter = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    expected = logits(load_run(finished)[0].train())  # no dropout; some CPUs compute 4-bit layers in bf16 in eval mode
    torch.testing.assert_close(logits(merged_adapter), expected, atol=5e-5, rtol=1e-5)
    assert (expected - logits(load_base("tiny")[0])).abs().max() > 1
    assert (expected - logits(load_run(finished, four_bit=False)[0])).abs().max() > 0.1
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    assert {weight.dtype for weight in merged_adapter.state_dict().values()} == {torch.float32}
    assert merged_adapter.lm_head.weight is merged_adapter.model.embed_tokens.weight, "tied, as the base"
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    assert not (tmp_path / "merged.part").exists()


def test_a_run_without_4_bits_is_merged_into_the_base_as_it_is(finished, tmp_path):
    (finished / "report.json").write_text(json.dumps(dict(base="tiny", config=ICFTConfig(four_bit=False).to_dict())))
    export(finished, tmp_path / "merged", merge=True)
    merged_adapter = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged_adapter), logits(load_run(finished)[0]), atol=5e-5, rtol=1e-5)


def test_export_copies_the_adapter_and_overwrites_nothing(finished, tmp_path):
    export(finished, tmp_path / "copy")
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (finished / "adapter" / name).read_bytes()
    with pytest.raises(ICFTError, match="not empty"):
        export(finished, tmp_path / "copy")
    with pytest.raises(ICFTError, match="no finished run"):
        export(tmp_path / "copy", tmp_path / "new")


def test_a_run_comes_back_in_the_precision_it_had(finished):
    def kind(**kwargs):
        layer, *_ = lora_layers(load_run(finished, **kwargs)[0]).values()
        return type(layer.base_layer.weight).__name__

    assert kind() == "Params4bit" and kind(four_bit=False) == "Parameter"
    (finished / "report.json").write_text(json.dumps(dict(base="tiny", config=ICFTConfig(four_bit=False).to_dict())))
    assert kind() == "Parameter"


def test_a_run_is_asked_what_it_was_trained_to_take(finished):
    """Its max_length, whatever the base's: `ask` refuses a longer question, `chat` says so and goes on."""
    long = "Define " + "very " * 450 + "ill."
    assert generate_reply(*load_run(finished), "What is 2 plus 3?", max_new_tokens=4)
    with pytest.raises(ICFTError, match="max_length is 512"):
        generate_reply(*load_run(finished), long + long)
    (finished / "report.json").write_text(json.dumps(dict(base="tiny", config=ICFTConfig(max_length=100).to_dict())))
    said, asked = [], iter(["Define " + "very " * 60 + "ill.", "Define pain.", ""])
    chat(finished, read=lambda prompt: next(asked), write=said.append)
    assert len(said) == 3 and "max_length is 100" in said[1] and "max_length" not in said[2]
    export(finished, finished / "merged", merge=True)
    assert load_base(str(finished / "merged"))[1].model_max_length == 512, "the base takes what it took"


# ---------------------------------------------------------------- other families

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


def small(config, **settings):
    """A small model of a real architecture with random weights."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return AutoModelForCausalLM.from_config(config(**{**SIZES, **settings})).eval()


@pytest.mark.parametrize(
    "config, settings",
    [
        (Qwen3Config, dict(head_dim=16, tie_word_embeddings=True)),
        (Qwen2Config, dict(tie_word_embeddings=True)),
        (LlamaConfig, dict(tie_word_embeddings=False)),
    ],
)
def test_other_families_load_and_score_as_they_should(base, shake, row, tmp_path, config, settings):
    small(config, **settings).save_pretrained(tmp_path)
    base[1].save_pretrained(tmp_path)
    model, tokenizer = load_base(str(tmp_path))
    assert type(model.model.layers[0].mlp.up_proj.weight).__name__ == "Params4bit"
    model = add_adapters(model, 4, 8)
    assert not any("lm_head" in name for name in lora_layers(model))
    shake(model, "fast", 0.2)
    example = row(task="question", responses=["a kidney", "pain of the lung", "none"])
    encoded = [Encoder(tokenizer, share_prompts=share)(example) for share in (True, False)]
    shared, separate = (score_responses(model, [one])[0]["logp"] for one in encoded)
    assert shared == pytest.approx(separate, abs=1e-3)
    batch = join_batch(encoded[1:], 0)
    through_head = hidden_states(model, batch) @ head_weight(model).T
    whole = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.testing.assert_close(through_head, whole, atol=1e-4, rtol=1e-4)
    assert len(generate(model, tokenizer, Encoder(tokenizer), [row()], max_new_tokens=3)) == 1


@pytest.mark.parametrize(
    "config, settings, why",
    [
        (Gemma2Config, dict(head_dim=16, final_logit_softcapping=30.0), "final_logit_softcapping = 30"),
        (CohereConfig, dict(logit_scale=0.0625), "logit_scale"),
        (GraniteConfig, dict(logits_scaling=8.0), "logits_scaling"),
        (PhiConfig, {}, "without bias"),
    ],
)
def test_heads_the_losses_cannot_read_are_refused(config, settings, why):
    with pytest.raises(ICFTError, match=why):
        check_head(small(config, **settings))


def test_heads_that_scale_by_one_or_cap_nothing_are_taken():
    check_head(small(Gemma2Config, head_dim=16, final_logit_softcapping=None))
    check_head(small(GraniteConfig, logits_scaling=1.0))


def test_a_refused_head_is_refused_on_loading(base, tmp_path):
    small(Gemma2Config, head_dim=16).save_pretrained(tmp_path)
    base[1].save_pretrained(tmp_path)
    with pytest.raises(ICFTError, match="gemma2"):
        load_base(str(tmp_path))


# ---------------------------------------------------------------- rows that 4 bits on a CPU do not take


def four_bits(width, rows=63):
    """A 4-bit layer, and its weight unpacked by hand from the stored bytes."""
    layer = bitsandbytes.nn.Linear4bit(width, rows, bias=False, compress_statistics=False, quant_type="nf4")
    layer = layer.to("cpu").train()  # in eval mode some CPUs repack the bytes
    levels = bitsandbytes.functional.get_4bit_type("nf4", device="cpu")
    stored = layer.weight.data.flatten()
    indices = torch.stack([stored >> 4, stored & 15], 1).flatten()[: rows * width].long()
    scales = layer.weight.quant_state.absmax.repeat_interleave(64)[: rows * width]
    return layer, (levels[indices] * scales).reshape(rows, width)


@pytest.mark.parametrize(
    "width",
    [
        64,
        192,
        512,
        576,
        *(
            pytest.param(
                width,
                marks=pytest.mark.xfail(
                    strict=False, reason="bitsandbytes 0.50.2; then guard_four_bit may let them in"
                ),
            )
            for width in (32, 80, 96, 160)
        ),
    ],
)
def test_a_4_bit_layer_computes_with_the_numbers_it_stores(width):
    layer, by_hand = four_bits(width)
    x = torch.randn(5, width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(layer(x), x @ by_hand.T, atol=1e-5, rtol=1e-5)


@pytest.mark.skipif(hardware()["device"] != "cpu", reason="a GPU's 4-bit kernels add up in another order")
def test_a_base_written_out_computes_the_same_to_the_bit(base, capfd):
    model = load_base("tiny")[0]
    bytes_needed = 4 * sum(p.numel() for p in load_base("tiny", four_bit=False)[0].parameters())
    assert dequantize_base(model, bytes_needed - 1) is model and model.is_quantized
    plain = dequantize_base(model, bytes_needed)
    assert not any(isinstance(layer, bitsandbytes.nn.Linear4bit) for layer in plain.modules())
    assert torch.equal(logits(plain), logits(base[0]))
    assert dequantize_base(plain, 0) is plain and capfd.readouterr().err == ""


@pytest.mark.skipif(hardware()["device"] != "cpu", reason="it is the CPU's kernel that misreads")
def test_rows_no_multiple_of_64_are_refused_in_4_bits_on_a_cpu(base, tmp_path):
    small(Qwen3Config, head_dim=16, intermediate_size=96).save_pretrained(tmp_path)
    base[1].save_pretrained(tmp_path)
    with pytest.raises(ICFTError, match=r"model\.layers\.0\.mlp\.down_proj takes 96 .* --no-4bit") as caught:
        load_base(str(tmp_path))
    assert "\n" not in str(caught.value)
    assert logits(load_base(str(tmp_path), four_bit=False)[0]).isfinite().all()


def test_models_the_doctor_names_run_in_4_bits_anywhere():
    for hidden, _, mlp, heads, _, width, *_ in MODELS.values():
        assert not any(size % 64 for size in (hidden, mlp, heads * width))


def test_modules_to_save_are_refused():
    settings = LoraConfig(r=2, target_modules="all-linear", modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = get_peft_model(small(LlamaConfig), settings, adapter_name="fast")
    with pytest.raises(ICFTError, match="modules_to_save"):
        ICFTTrainer(model, [], ICFTConfig())


def test_scoring_never_repacks_the_weights_that_training_reads(base):
    layers = [layer for layer in base[0].modules() if hasattr(layer, "support_avx512bf16_for_cpu")]
    assert layers and not any(layer.support_avx512bf16_for_cpu for layer in layers)


def test_a_base_has_a_fingerprint_that_its_weights_change(tmp_path):
    from safetensors.torch import load_file, save_file

    for name in ("config.json", "model.safetensors"):
        shutil.copy(TINY / name, tmp_path / name)
    known = model_fingerprint("tiny")
    assert model_fingerprint(str(tmp_path)) == known != "" and model_fingerprint("owner/model") == ""
    weights = load_file(tmp_path / "model.safetensors")
    name = sorted(weights)[-1]
    weights[name].view(-1)[0] += 1e-3
    save_file(weights, tmp_path / "model.safetensors")
    assert model_fingerprint(str(tmp_path)) != known
