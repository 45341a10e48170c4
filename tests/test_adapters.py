"""The two adapters: adding, activating, merging and saving them."""

import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from small_model import logits, small_model
from transformers import LlamaConfig

from icft_lite.config import ICFTConfig
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
from icft_lite.modeling.base import dequantize_base, load_base
from icft_lite.training.trainer import ICFTTrainer


@pytest.fixture
def new_model():
    """A base with adapters that no other test has used, because bits are compared."""
    return add_adapters(load_base()[0], 8, 16, 0)


def test_new_adapters_change_nothing_and_depend_on_the_seed(new_model):
    model = new_model
    assert torch.equal(logits(model), logits(load_base()[0]))
    fast, slow = adapter_tensors(model, "fast"), adapter_tensors(model, "slow")
    assert all(torch.equal(a, b) for a, b in zip(fast, slow)) and len(fast) == 2 * len(lora_layers(model)) == 56
    assert all(tensor.requires_grad for tensor in fast) and not any(tensor.requires_grad for tensor in slow)
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert trainable == {id(tensor) for tensor in fast}

    def first(seed):
        return adapter_tensors(add_adapters(small_model(LlamaConfig), 4, 8, seed), "fast")[0]

    assert torch.equal(first(1), first(1)) and not torch.equal(first(1), first(2))


def test_without_adapters_the_base_is_exactly_itself(new_model, shake):
    model, base = new_model, load_base()
    shake(model, "fast")
    shake(model, "slow", seed=1)
    with use_adapter(model, None):
        assert torch.equal(logits(model), logits(base[0]))
    with use_adapter(model, "slow"):
        slow = logits(model)
    fast = logits(model)
    assert not torch.allclose(slow, fast, atol=0.1) and not torch.allclose(fast, logits(base[0]), atol=0.1)


@pytest.mark.parametrize("active", ["fast", "slow"])
@pytest.mark.parametrize("used", [None, "slow", "fast"])
def test_the_state_is_restored_after_another_adapter_was_used(adapted, active, used):
    model, _ = adapted
    activate_adapter(model, active)  # `slow` stays frozen even when it is active, unlike in peft
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    with pytest.raises(KeyError), use_adapter(model, used):
        raise KeyError("an error inside the block")
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert model.active_adapter == active and sum(before.values()) == 56


@pytest.mark.parametrize("name", ["slow", "fast", None])
def test_a_merged_adapter_scores_the_same_and_is_unmerged_exactly(shake, name):
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
    assert name == "fast" or (before - expected).abs().max() > 0.1, "the fast adapter is active outside"
    with pytest.raises(KeyboardInterrupt), merged_adapter(model, name):
        raise KeyboardInterrupt
    assert torch.equal(model(ids).logits, before) and model.active_adapter == "fast"
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("plain", [False, True])
def test_4_bit_weights_and_large_weights_are_not_merged(plain):
    model = add_adapters(dequantize_base(load_base()[0]) if plain else load_base()[0], rank=8, alpha=16)
    with merged_adapter(model, "slow", max_bytes=2**20 if plain else 2**28):
        assert not any(module.disable_adapters for module in lora_layers(model).values())
        assert model.active_adapter == "slow"


def test_a_pass_of_the_teacher_between_forward_and_backward_does_not_change_the_gradient(adapted):
    model, _ = adapted
    ids = torch.tensor([[1, 40, 300, 77, 901, 2, 55, 60]])

    def gradient(teacher_pass):
        loss = model(input_ids=ids).logits.log_softmax(-1)[..., 5].sum()
        if teacher_pass:
            with torch.no_grad(), use_adapter(model, None):
                model(input_ids=ids)
        return torch.autograd.grad(loss, adapter_tensors(model, "fast")[1::2])

    torch.testing.assert_close(gradient(True), gradient(False))


def test_a_saved_adapter_loads_with_plain_peft(adapted, shake, tmp_path):
    model, _ = adapted
    shake(model, "slow")
    save_adapter(model, "slow", tmp_path / "adapter")
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {f.name for f in (tmp_path / "adapter").iterdir()}
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "tiny", "not a folder of this machine"
    with use_adapter(model, "slow"):
        expected = logits(model)
    plain = PeftModel.from_pretrained(load_base("tiny")[0], str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(plain), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, logits(model), atol=0.1), "it would also pass with the wrong adapter"


def test_modules_to_save_are_refused():
    settings = LoraConfig(r=2, target_modules="all-linear", modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    model = get_peft_model(small_model(LlamaConfig), settings, adapter_name="fast")
    with pytest.raises(ICFTError, match="modules_to_save"):
        ICFTTrainer(model, [], ICFTConfig())
