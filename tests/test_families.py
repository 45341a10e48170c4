"""Model families: packing, shared prompts, windows, dropout and adapters are right, or refused with a reason."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from small_model import FAMILIES, WINDOW, family_model, logits, save_family, small_model
from small_run import small_bundle
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BertConfig,
    BitsAndBytesConfig,
    GenerationConfig,
    T5Config,
)

from icft_lite.config import RuntimeConfig
from icft_lite.errors import ICFTError
from icft_lite.finished_runs import evaluate_run, export, load_run
from icft_lite.modeling.adapters import adapter_tensors, add_adapters, lora_layers, merged_adapter, save_adapter
from icft_lite.modeling.base import dequantize_base, load_base, load_tokenizer
from icft_lite.modeling.encoding import Encoded
from icft_lite.modeling.forward import head_weight, hidden_states
from icft_lite.modeling.packing import join_batch
from icft_lite.modeling.scoring import score_responses
from icft_lite.modeling.self_check import Capabilities, check_model, check_tokenizer
from icft_lite.training import loop
from icft_lite.utils.io import write_json

ROOT = Path(__file__).parents[1]
REFUSED = {"Gemma 2", "Phi-2", "GPT-J", "Mamba", "RecurrentGemma"}
LEAKS = {"LFM2", "Granite hybrid", "Qwen 3 Next", "Qwen 3.5", "Bloom", "Falcon with ALiBi"}
SUPPORTED = [name for name in FAMILIES if name not in REFUSED]
RUN = {
    "optim.max_steps": 5,
    "optim.batch_size": 4,
    "optim.learning_rate": 0.02,
    "optim.warmup_ratio": 0.0,
    "adapter.rank": 2,
    "adapter.alpha": 4,
    "adapter.load_in_4bit": False,
    "long_term.self_prompts": 0,
    "long_term.size": 8,
    "long_term.share": 0.5,
    "consolidation.enabled": False,
}


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer("tiny")


@pytest.fixture(scope="module")
def bundle():
    return small_bundle()


def supervise(ids):
    """Token ids as an example in which every token but the first is supervised."""
    return Encoded([ids], [(0, i, target, 0) for i, target in enumerate(ids[1:])], 1)


def plain_logp(model, ids, start):
    """Log-probability of ids[start:] after the ids before, by the model's own logits."""
    return float(logits(model, ids)[0, start - 1 : -1].log_softmax(-1)[range(len(ids) - start), ids[start:]].sum())


@pytest.mark.parametrize("name", SUPPORTED)
def test_batches_give_the_log_probabilities_of_plain_transformers(name, tokenizer):
    """Longer than the sliding window, packed and with a shared prompt where the self-check allows it."""
    model = family_model(name)
    found = check_model(model, tokenizer, max_length=4 * WINDOW)
    assert (found.packing, found.shared_prompts) == (name not in LEAKS, name not in LEAKS | {"MPT"})
    prompt, responses = list(range(5, 50)), [list(range(60, 75)), list(range(90, 97))]
    tokens = [(number, 44 + i, id_, number) for number, ids in enumerate(responses) for i, id_ in enumerate(ids)]
    question = Encoded([prompt + ids for ids in responses], tokens, 2)
    if found.shared_prompts:
        joined = prompt + responses[0] + responses[1]
        tokens = [(0, 44 if i == 0 else start + i - 1, id_, number)
                  for number, start in enumerate((45, 60)) for i, id_ in enumerate(responses[number])]  # fmt: skip
        question = Encoded([joined], tokens, 2, [0] * 45 + [1] * 15 + [2] * 7)
    expected = [plain_logp(model, prompt + ids, len(prompt)) for ids in responses]
    assert score_responses(model, [question])[0]["logp"] == pytest.approx(expected, rel=1e-5)
    rows = [list(range(100, 140)), list(range(200, 231)), list(range(300, 308))]
    batch = join_batch([supervise(ids) for ids in rows], 0, pack=found.packing)
    with torch.no_grad():
        out = (hidden_states(model, batch)[batch["row"], batch["position"]] @ head_weight(model).T).log_softmax(-1)
    out = out.gather(1, batch["target"][:, None])[:, 0]
    sums = torch.zeros(3).index_add(0, batch["response"], out)
    assert sums.tolist() == pytest.approx([plain_logp(model, ids, 1) for ids in rows], rel=1e-5)


@pytest.mark.parametrize("name", ["Mistral", "Gemma 3", "gpt-oss"])
def test_the_window_matters_in_these_examples(name):
    """The test above could not fail if the windows had no effect."""
    model, ids = family_model(name), list(range(100, 140))
    unlimited = family_model(name, sliding_window=1000)
    assert abs(plain_logp(model, ids, 1) - plain_logp(unlimited, ids, 1)) > 1e-3 * abs(plain_logp(model, ids, 1))


def test_the_notes_name_the_family_the_effect_and_the_setting(tokenizer):
    found = check_model(family_model("LFM2"), tokenizer)
    assert found.notes[0].startswith("lfm2 does not support packing (outputs differ by ")
    assert found.notes[0].endswith("): runtime.packing is off")
    assert found.notes[1].endswith("): encoding.share_prompts is off")
    assert check_model(family_model("Llama"), tokenizer) == Capabilities()


def test_a_model_that_sees_later_tokens_is_refused(tokenizer):
    with pytest.raises(ICFTError, match="bert lets a token see those after it"):
        check_model(small_model(BertConfig), tokenizer)


@pytest.mark.parametrize(
    "settings", [dict(stop_strings=["a"]), dict(prompt_lookup_num_tokens=3), dict(num_beams=3, num_return_sequences=2)]
)
def test_the_check_does_not_depend_on_the_generation_config(settings, tokenizer):
    """Such models were refused: "wrong in batches that are padded on the left"."""
    model = family_model("Llama")
    model.generation_config = own = GenerationConfig(**settings)
    assert check_model(model, tokenizer) == Capabilities()
    assert model.generation_config is own


def test_weights_that_are_not_numbers_are_refused(tokenizer):
    model = family_model("Llama")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(ICFTError, match="the outputs of llama are not finite numbers"):
        check_model(model, tokenizer)


# ---------------------------------------------------------------- whole runs


@pytest.mark.parametrize("name", ["OPT", "LFM2"])
def test_training_starts_at_the_base_and_evaluates_as_it_reports(
    name, tokenizer, bundle, tmp_path, capsys, monkeypatch
):
    """OPT has dropout, which would make L_consistency positive in the first step."""
    monkeypatch.setattr(loop, "write_report", lambda report, out, *_: write_json(out / "report.json", report))
    settings = {**RUN, "model": save_family(name, tmp_path / "base", tokenizer)}
    report = loop.train_icft(settings, tmp_path / "run", bundle, runtime=RuntimeConfig(save_steps=1))
    first, *_, last = report["losses"]["consistency"]
    assert abs(first) < 1e-9 and last > 1e-9
    assert report["runtime"]["packing"] is (name != "LFM2") is not bool(report["model_notes"])
    assert ("lfm2 does not support packing" in capsys.readouterr().out) is (name == "LFM2")
    scores = evaluate_run(tmp_path / "run", bundle)
    for suite, tasks in report["scores"]["after"].items():
        for task, score in tasks.items():
            assert scores[suite][task]["value"] == pytest.approx(score["value"], abs=1e-6)


@pytest.mark.parametrize("name", ["Qwen 3 Next", "Qwen 3.5"])
def test_layers_that_are_narrower_than_the_rank_are_consolidated(name, tokenizer, bundle, tmp_path, monkeypatch):
    """A gate of a shared expert has one output."""
    monkeypatch.setattr(loop, "write_report", lambda report, out, *_: write_json(out / "report.json", report))
    settings = {**RUN, "model": save_family(name, tmp_path / "base", tokenizer), "adapter.rank": 8}
    report = loop.train_icft({**settings, "consolidation.enabled": True}, tmp_path / "run", bundle, progress=False)
    assert any(stage["consolidation"]["candidates"] for stage in report["stages"])
    assert all(0 <= stage["consolidation"]["svd_residual"] <= 1 for stage in report["stages"])


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("name", ["GPT-2", "Llama"])
def test_a_4_bit_base_is_trained_exported_and_loaded_by_plain_transformers(name, stored, tokenizer, tmp_path, shake):
    """GPT-2 stores its weights transposed. A base that is stored in 4 bits computes in float32 as any other."""
    folder = save_family(name, tmp_path / "base", tokenizer)
    if stored:
        quantization = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
        )
        model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=quantization)
        folder = str(tmp_path / "stored")
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    model = add_adapters(load_base(folder)[0], 4, 8)
    shake(model, "slow", 0.1)
    save_adapter(model, "slow", tmp_path / "run" / "adapter")
    config = dict(adapter=dict(load_in_4bit=True), encoding=dict(max_length=512))
    (tmp_path / "run" / "report.json").write_text(json.dumps(dict(format=2, base=folder, config=config)))
    run, _ = load_run(tmp_path / "run")
    expected = logits(run)
    assert (expected - logits(load_base(folder)[0])).abs().max() > 0.1
    export(tmp_path / "run", tmp_path / "merged", merge=True)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(plain), expected, atol=1e-5, rtol=1e-5)
    on_base = PeftModel.from_pretrained(load_base(folder)[0], str(tmp_path / "run" / "adapter"))
    torch.testing.assert_close(logits(on_base), expected, atol=1e-5, rtol=1e-5)
    full, _ = load_base(folder, load_in_4bit=False)
    assert not getattr(full, "is_quantized", False)
    assert torch.allclose(logits(full), logits(load_base(folder)[0]), atol=1e-5) is stored
    both = add_adapters(dequantize_base(load_base(folder)[0]), 4, 8)
    shake(both, "slow", 0.1)
    with merged_adapter(both, "slow") as merged:
        torch.testing.assert_close(logits(merged), expected, atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------- adapters


def test_adapters_of_a_multimodal_model_are_in_its_text_part():
    model = add_adapters(family_model("Gemma 3 multimodal"), 2, 4)
    assert len(lora_layers(model)) == 14 and all("language_model" in name for name in lora_layers(model))
    batch = join_batch([supervise(list(range(5, 30)))], 0)
    hidden_states(model, batch).sum().backward()
    assert all(tensor.grad is not None for tensor in adapter_tensors(model, "fast"))


@pytest.mark.parametrize("name", ["Qwen 3 Next", "Qwen 3 MoE", "gpt-oss", "GPT-2"])
def test_adapters_of_special_layers_load_with_plain_peft(name, tmp_path, shake):
    """PEFT takes `gate_proj` of a shared expert for the fused experts when it loads an adapter."""
    model = add_adapters(family_model(name), 2, 4)
    shake(model, "fast", 0.1)
    save_adapter(model, "fast", tmp_path)
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(family_model(name), str(tmp_path))), logits(model), atol=1e-5, rtol=1e-5
    )


def test_a_family_that_peft_does_not_support_is_refused_in_one_line():
    with pytest.raises(ICFTError, match="cannot add LoRA adapters to every linear layer of mamba") as caught:
        add_adapters(family_model("Mamba"))
    assert "PeftType" not in str(caught.value)


# ---------------------------------------------------------------- refused at the start


def write_config(folder, config, tokenizer, **extra):
    """Save a configuration without weights: such a model is refused before they are read."""
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | extra))
    return str(folder)


@pytest.mark.parametrize("config", [T5Config, BartConfig])
def test_encoder_decoders_are_refused(config, tokenizer, tmp_path):
    with pytest.raises(ICFTError, match="is an encoder-decoder model") as caught:
        load_base(write_config(tmp_path, config(), tokenizer))
    assert "class" not in str(caught.value)


@pytest.mark.parametrize(
    "stored, shown",
    [
        (dict(quant_method="bitsandbytes", load_in_8bit=True), "bitsandbytes in 8 bits"),
        (dict(quant_method="gptq", bits=4), "gptq"),
        (dict(quant_method="mxfp4"), "mxfp4"),
    ],
)
def test_other_stored_quantizations_are_refused(stored, shown, tokenizer, tmp_path):
    folder = write_config(tmp_path, family_model("Llama").config, tokenizer, quantization_config=stored)
    for load_in_4bit in (True, False):
        with pytest.raises(ICFTError, match=f"stored quantized .{shown}.*unquantized version"):
            load_base(folder, load_in_4bit)


def test_a_model_without_layers_for_4_bits_is_refused_in_4_bits(tokenizer, tmp_path):
    folder = save_family("Falcon", tmp_path, tokenizer)
    with pytest.raises(ICFTError, match="falcon has no layer that bitsandbytes can hold in 4 bits; use --no-4bit"):
        load_base(folder)
    assert not getattr(load_base(folder, load_in_4bit=False)[0], "is_quantized", False)


def test_experts_in_full_precision_are_noted(tokenizer, tmp_path):
    model, _ = load_base(save_family("Qwen 3 MoE", tmp_path, tokenizer))
    (note,) = check_model(model, tokenizer).notes
    assert "qwen3_moe: 20% of the layers' weights are in 4 bits" in note


def test_tokenizers_and_lengths_that_do_not_fit_the_model_are_refused():
    tokenizer, model = load_tokenizer("tiny"), family_model("GPT-2", n_positions=128)
    check_tokenizer(tokenizer, model, 128)
    with pytest.raises(
        ICFTError, match="max_length: 129 tokens, but gpt2 has 128 positions; set it .--max-length. to 128"
    ):
        check_tokenizer(tokenizer, model, 129)
    check_tokenizer(tokenizer, family_model("Falcon with ALiBi", max_position_embeddings=128), 129)
    multimodal = family_model("Gemma 3 multimodal")
    multimodal.config.text_config.max_position_embeddings = 100
    with pytest.raises(ICFTError, match="100 positions"):
        check_tokenizer(tokenizer, multimodal, 128)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    check_tokenizer(tokenizer, model, 128)  # Gemma 3 has such a token
    tokenizer.add_tokens(["new"])
    with pytest.raises(ICFTError, match="token 'new' has the id 1537, but the model has embeddings for ids 0 to 1535"):
        check_tokenizer(tokenizer, model, 128)


def test_a_tokenizer_without_an_end_of_turn_is_refused():
    tokenizer = load_tokenizer("tiny")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}"
    tokenizer.eos_token = None
    with pytest.raises(ICFTError, match="a token that ends a turn.*set tokenizer.eos_token"):
        check_tokenizer(tokenizer, family_model("Llama"), 128)


# ---------------------------------------------------------------- the table


@pytest.fixture(scope="module")
def script():
    """scripts/model_families.py as a module."""
    spec = importlib.util.spec_from_file_location("model_families", ROOT / "scripts" / "model_families.py")
    module = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = path
    return module


def table_of(script):
    return script.DOCS.read_text(encoding="utf-8").split(script.MARKS[0])[1].split(script.MARKS[1])[0].strip()


def test_the_table_in_the_documentation_has_every_family_and_no_difference(script):
    rows = {line.split(" | ")[0].strip("| "): line for line in table_of(script).splitlines()[2:] if line[:1] == "|"}
    assert list(rows) == list(FAMILIES) and "differs" not in table_of(script)
    assert {name for name, line in rows.items() if line.split(" | ")[2].startswith("refused")} == REFUSED


@pytest.mark.slow
def test_the_table_in_the_documentation_is_current(script):
    assert script.make_table(list(FAMILIES)) == table_of(script)
