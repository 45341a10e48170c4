"""Finished runs: loading them in the precision and with the length of training, and exporting them."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_model import logits
from transformers import AutoModelForCausalLM, AutoTokenizer

from icft_lite import finished_runs
from icft_lite.chat import chat, run_models
from icft_lite.config import ICFTConfig
from icft_lite.data.overlap import SEEN_FILE, load_seen
from icft_lite.data.splits import read_examples
from icft_lite.errors import ICFTError
from icft_lite.finished_runs import evaluate_run, export, load_run, load_run_or_base
from icft_lite.modeling.adapters import lora_layers, save_adapter
from icft_lite.modeling.base import TINY, load_base, model_fingerprint, tokenizer_fingerprint
from icft_lite.modeling.generation import generate_reply
from icft_lite.report_file import read_report


def write_report(folder, settings):
    """Write the parts of a run's report that loading and exporting read."""
    config = ICFTConfig.from_dict(settings).to_dict()
    (folder / "report.json").write_text(json.dumps(dict(format=2, base="tiny", config=config)))


def record_base(folder, **facts):
    """Change what a report says of its base."""
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**report, **facts}))


@pytest.fixture
def finished(adapted, shake, tmp_path):
    """The folder of a run, with all that loading and exporting read."""
    model, _ = adapted
    shake(model, "slow", 0.1)
    folder = tmp_path / "run"
    save_adapter(model, "slow", folder / "adapter")
    write_report(folder, {})
    return folder


def test_merged_weights_compute_the_same_as_the_run(finished, tmp_path):
    """The adapter was trained on the 4-bit weights; with the base's original weights the model would be another one."""
    export(finished, tmp_path / "merged", merge=True)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    expected = logits(load_run(finished)[0].train())  # no dropout; some CPUs compute 4-bit layers in bf16 in eval mode
    torch.testing.assert_close(logits(merged), expected, atol=5e-5, rtol=1e-5)
    assert (expected - logits(load_base("tiny")[0])).abs().max() > 1
    assert (expected - logits(load_run(finished, load_in_4bit=False)[0])).abs().max() > 0.1
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    assert {weight.dtype for weight in merged.state_dict().values()} == {torch.float32}
    assert merged.lm_head.weight is merged.model.embed_tokens.weight, "tied, as in the base"
    assert merged.config.use_cache, "generation without a cache is slow"
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template
    card = (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
    assert "library_name: transformers\n" in card and "AutoModelForCausalLM" in card and "PeftModel" not in card
    assert not (tmp_path / "merged.part").exists()


def test_a_run_is_refused_on_another_base_than_it_records(finished, tmp_path):
    """Here the base is a folder, whose weights change after training."""
    base, recorded = tmp_path / "base", model_fingerprint("tiny")
    shutil.copytree(TINY, base)
    record_base(finished, base=str(base), base_hash=recorded)
    load_run(finished)
    weights = load_file(base / "model.safetensors")
    weights["model.norm.weight"] += 1e-3
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    uses = (
        lambda: evaluate_run(
            finished, read_examples([{"question": "Why?", "answer": "So.", "choices": ["So.", "No."]}])
        ),
        lambda: chat(finished),
        lambda: export(finished, tmp_path / "adapter"),
        lambda: export(finished, tmp_path / "merged", merge=True),
        lambda: run_models(finished),
    )
    for use in uses:
        with pytest.raises(
            ICFTError, match=f"another base: the run records the hash {recorded[:12]}….*restore"
        ) as caught:
            use()
        assert str(base) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "adapter").exists() and not (tmp_path / "merged").exists()
    for unknown in ("", None):  # reports of a base from the Hub, and of earlier versions
        record_base(finished, base_hash=unknown)
        load_run(finished)


def test_a_run_is_refused_if_the_chat_template_of_its_base_has_changed(finished, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(TINY, base)
    record_base(finished, base=str(base), tokenizer_hash=tokenizer_fingerprint(str(base)))
    load_run(finished)
    (template,) = base.glob("chat_template*")
    template.write_text(template.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(ICFTError, match="the tokenizer or the chat template of .* has changed since training"):
        load_run(finished)


def test_a_run_without_4_bits_is_merged_into_the_original_weights(finished, tmp_path):
    write_report(finished, {"adapter.load_in_4bit": False})
    export(finished, tmp_path / "merged", merge=True)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(merged), logits(load_run(finished)[0]), atol=5e-5, rtol=1e-5)


def test_export_copies_the_adapter_and_overwrites_nothing(finished, tmp_path):
    (finished / SEEN_FILE).write_bytes(bytes(range(16)))
    export(finished, tmp_path / "copy")
    assert load_seen(tmp_path / "copy").tolist() == load_seen(finished).tolist(), "`evaluate` leaves out what was seen"
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "copy" / name).read_bytes() == (finished / "adapter" / name).read_bytes()
    with pytest.raises(ICFTError, match="not empty"):
        export(finished, tmp_path / "copy")
    with pytest.raises(ICFTError, match="no finished run"):
        export(tmp_path / "copy", tmp_path / "new")


def test_export_leaves_other_folders_alone_and_takes_any_spelling(finished, tmp_path, monkeypatch):
    (tmp_path / "to.part").mkdir()
    (tmp_path / "to.part" / "notes.txt").write_text("mine")
    export(finished, tmp_path / "to")
    assert (tmp_path / "to.part" / "notes.txt").read_text() == "mine"
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    export(finished, ".")
    assert (tmp_path / "here" / "adapter_config.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "run", "to", "to.part"], "nothing is left"
    (tmp_path / "file").write_text("x")
    with pytest.raises(ICFTError, match="file: is not empty; give a new folder"):
        export(finished, tmp_path / "file")


def test_a_base_that_is_not_there_is_not_called_another_one(finished, tmp_path):
    record_base(finished, base="gone/base", base_hash="0" * 64)
    with pytest.raises(ICFTError, match="its base gone/base is not found from .*; run the command in the folder"):
        load_run(finished)


def test_a_damaged_run_is_neither_loaded_nor_exported(finished, tmp_path):
    weights, report = finished / "adapter" / "adapter_model.safetensors", finished / "report.json"
    for path, content, message in (
        (report, b"{}", "report.json: has no 'base'"),
        (weights, b"not weights", "its weights cannot be read"),
        (weights, None, "adapter_model.safetensors is missing"),
    ):
        before = path.read_bytes()
        path.unlink() if content is None else path.write_bytes(content)
        for work in (load_run, lambda folder: export(folder, tmp_path / "copy")):
            with pytest.raises(ICFTError, match=message):
                work(finished)
        assert not (tmp_path / "copy").exists()
        path.write_bytes(before)


def test_a_folder_of_several_runs_says_so(finished, tmp_path):
    (tmp_path / "comparison.json").write_text("{}")
    for work in (load_run, load_run_or_base):
        with pytest.raises(ICFTError, match=f"has 1 runs; give one of them, such as {finished}"):
            work(tmp_path)
    with pytest.raises(ICFTError, match="is a file; give the --out folder of a run"):
        read_report(tmp_path / "comparison.json")


def test_examples_are_scored_in_the_suite_of_their_domain(finished, tmp_path):
    row = {"question": "Which is it?", "choices": ["one", "two"], "answer": "one"}
    rows = [{**row, "domain": "general"}, row, {**row, "question": "And now?"}]
    scores = evaluate_run(finished, read_examples(rows, domain="medical"))
    assert {name: suite["qa"]["n"] for name, suite in scores.items()} == {"general": 1, "medical": 2}


def test_an_adapter_is_exported_where_its_base_cannot_be_loaded(finished, tmp_path, monkeypatch):
    def too_large(*args):
        raise ICFTError("out of memory")

    monkeypatch.setattr(finished_runs, "load_base", too_large)
    assert (export(finished, tmp_path / "copy") / "adapter_config.json").exists()
    with pytest.raises(ICFTError, match="out of memory"):
        export(finished, tmp_path / "merged", merge=True)


def test_a_run_is_loaded_in_the_precision_of_training(finished):
    def weight_type(**kwargs):
        layer, *_ = lora_layers(load_run(finished, **kwargs)[0]).values()
        return type(layer.base_layer.weight).__name__

    assert weight_type() == "Params4bit" and weight_type(load_in_4bit=False) == "Parameter"
    write_report(finished, {"adapter.load_in_4bit": False})
    assert weight_type() == "Parameter"


def test_a_run_accepts_questions_of_the_length_of_training(finished):
    """The run's max_length counts, not the base's. `generate_reply` refuses a longer question; `chat` continues."""
    long = "Define " + "very " * 450 + "ill."
    assert generate_reply(*load_run(finished), "What is 2 plus 3?", max_new_tokens=4)
    with pytest.raises(ICFTError, match="max_length is 512"):
        generate_reply(*load_run(finished), long + long)
    write_report(finished, {"encoding.max_length": 100})
    output, questions = [], iter(["Define " + "very " * 60 + "ill.", "Define pain.", ""])
    chat(finished, read=lambda prompt: next(questions), write=output.append)
    assert len(output) == 3 and "max_length is 100" in output[1] and "max_length" not in output[2]
    export(finished, finished / "merged", merge=True)
    assert load_base(str(finished / "merged"))[1].model_max_length == 512, "an exported model has the base's length"
