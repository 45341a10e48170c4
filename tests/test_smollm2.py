"""The real chat model: its weights, its tokenizer, and a reply. See test_gguf.py for tests without a download."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_run import cut

from icft_lite.data.bundle import balanced_items
from icft_lite.data.sources import bundle_from_files
from icft_lite.finished_runs import evaluate_run, load_run
from icft_lite.modeling.base import load_base, model_fingerprint, model_path
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.generation import generate_reply
from icft_lite.modeling.gguf import tensors_hash
from icft_lite.modeling.packing import join_batch
from icft_lite.modeling.scoring import score_responses
from icft_lite.modeling.smollm2 import TENSORS_SHA256
from icft_lite.training import trainer
from icft_lite.training.loop import train_icft

pytestmark = pytest.mark.smollm2
PREFIX = (
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the"
)
QUESTION = "What is the capital of France?"
SETTINGS = {
    "model": "smollm2",
    "topics": ("terminology", "drug_class"),
    "optim.max_steps": 6,
    "optim.batch_size": 4,
    "optim.learning_rate": 1e-3,
    "adapter.rank": 4,
    "adapter.alpha": 8,
    "long_term.size": 4,
    "curriculum.last_stage_share": 0.5,
    "curriculum.signals": ("length",),
    "consolidation.max_kl": 10.0,
    "runtime.save_steps": 1,
}


def test_the_weights_are_those_that_everyone_has(smollm2):
    assert model_fingerprint("smollm2") == tensors_hash(Path(model_path("smollm2"))) == TENSORS_SHA256
    model, _ = smollm2
    assert model.num_parameters() == 134_515_008 and model.dtype.itemsize == 4
    assert model.config.name_or_path == "smollm2" and model.config.max_position_embeddings == 8192


def test_it_answers_in_its_chat_format(smollm2):
    model, tokenizer = smollm2
    assert generate_reply(model, tokenizer, QUESTION, max_new_tokens=16) == "The capital of France is Paris."
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False)
    assert prompt.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert tokenizer.eos_token == "<|im_end|>" and tokenizer("<|im_start|>").input_ids == [1]
    assert tokenizer.tokenize("list:\n\n1. A\n\n10. B") == [
        "list",
        ":",
        "ĊĊ",
        "1",
        ".",
        "ĠA",
        "ĊĊ",
        "1",
        "0",
        ".",
        "ĠB",
    ]


def test_its_system_message_is_shared_without_changing_scores(smollm2, example):
    model, tokenizer = smollm2
    words = ["kidney", "liver", "very large intestine"]
    encoded = [Encoder(tokenizer)(example(prompt=f"What is the {word}?", responses=[f"A {word}."])) for word in words]
    alone = [replace(one, share_prefix=False) for one in encoded]
    sizes = [join_batch(some, 0)["input_ids"].numel() for some in (encoded, alone)]
    assert sizes[0] == sum(one.length for one in encoded) - 2 * len(tokenizer(PREFIX).input_ids) < 0.6 * sizes[1]
    for found, expected in zip(score_responses(model, encoded), score_responses(model, alone)):
        assert found["logp"] == pytest.approx(expected["logp"], rel=1e-5)


@pytest.mark.slow
def test_it_works_in_4_bits(smollm2):
    model, tokenizer = load_base("smollm2", load_in_4bit=True)
    assert type(model.model.layers[0].mlp.up_proj.weight).__name__ == "Params4bit"
    assert "Paris" in generate_reply(model, tokenizer, QUESTION, max_new_tokens=16)


def test_a_run_trains_resumes_scores_and_replies(smollm2, tmp_path, monkeypatch):
    """The whole method on the real model, with a chat suite of a few items."""
    bundle = bundle_from_files(["samples"], ["chat"]).only(SETTINGS["topics"])
    bundle = cut(bundle, trusted=6, pool=2, validation=2, test=3)
    chat = {part: balanced_items(items, 2) for part, items in bundle.chat.items()}
    bundle = replace(bundle, general_test=None, chat={**chat, "display": bundle.chat["display"][:1]})
    models = Path(model_path("smollm2")).parent
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "models").symlink_to(models)
    monkeypatch.setenv("ICFT_CACHE", str(tmp_path / "cache"))  # so that the replies of the base are not cached yet
    step, steps = trainer.ICFTTrainer.training_step, []

    def stop_in_step_4(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(trainer.ICFTTrainer, "training_step", stop_in_step_4)
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train_icft(SETTINGS, out, bundle, progress=False)
    report = train_icft(SETTINGS, out, bundle, progress=False)
    assert len(steps) == 7 and len(report["losses"]["total"]) == 6 and report["problems"] == []
    assert report["base_hash"] == TENSORS_SHA256 and not report["config"]["adapter"]["load_in_4bit"]
    assert report["scores"]["after"]["medical"]["qa"]["metric"] == "accuracy"
    before, after = (report["chat"]["scores"][name] for name in ("before", "after"))
    assert before["free"]["n"] == after["free"]["n"] == 2 and after["kl_base_tuned"] > 1e-4
    consistency = [value for value in report["losses"]["consistency"] if value]
    assert consistency and max(consistency) < 5
    assert report["stages"][-1]["memory_sources"] == {"general": 4}
    scores = evaluate_run(out, bundle)
    assert scores["medical"]["qa"]["value"] == pytest.approx(report["scores"]["after"]["medical"]["qa"]["value"])
    model, tokenizer = load_run(out)
    assert isinstance(generate_reply(model, tokenizer, QUESTION, max_new_tokens=8), str)
