"""Chat in the terminal, adapters saved after every stage, and the models of a run by name."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from icft_lite import chat as chat_module
from icft_lite.chat import ChatSession, SaveStageAdapters, chat, run_models
from icft_lite.finished_runs import load_run
from icft_lite.modeling.adapters import save_adapter
from icft_lite.modeling.generation import generate_reply
from icft_lite.utils.notice import NOTICE

QUESTION = "What is the capital of France?"


@pytest.mark.parametrize("end", ["", None], ids=["empty line", "end of input"])
def test_terminal_chat(base, monkeypatch, end):
    monkeypatch.setattr(chat_module, "load_run", lambda folder, adapter: base)
    questions, written = [f" {QUESTION} ", QUESTION, end], []

    def read(prompt):
        question = questions.pop(0)
        if question is None:
            raise EOFError
        return question

    chat("a run", temperature=3.0, read=read, write=written.append)
    session = ChatSession(*base)
    assert "empty line" in written[0] and not questions
    assert written[1:] == [f"{session.reply(QUESTION, 3.0)}\n({NOTICE})" for _ in range(2)]
    assert written[1] != written[2], "every question has a seed of its own"


def test_stage_adapters_are_saved_under_the_number_of_their_stage(adapted, shake, tmp_path):
    model, _ = adapted
    shake(model, "slow")
    stages = tuple(SimpleNamespace(number=i + 1, name=name) for i, name in enumerate(("hard", "medium", "easy")))
    paths = SimpleNamespace(out=tmp_path, state=tmp_path / "state")
    prepared = SimpleNamespace(model=model, stages=stages, paths=paths)
    (tmp_path / "adapter_stage2").mkdir()
    (tmp_path / "adapter_stage2" / "old").touch()
    SaveStageAdapters().on_stage_end(prepared, SimpleNamespace(record={"name": "medium"}))
    save_adapter(model, "slow", tmp_path / "slow")
    saved, slow = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("adapter_stage2", "slow"))
    assert saved.keys() == slow.keys() and all(torch.equal(saved[name], slow[name]) for name in slow)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_stage2", "slow", "state"}
    assert not (tmp_path / "adapter_stage2" / "old").exists() and not list((tmp_path / "state").iterdir())


def test_models_of_a_run_of_version_0_1(adapted, shake, tmp_path):
    for seed, name in enumerate(("slow", "fast")):
        shake(adapted[0], name, 0.2, seed)
    for name, folder in (("slow", "adapter"), ("fast", "adapter_fast"), ("fast", "adapter_stage2")):
        save_adapter(adapted[0], name, tmp_path / folder)
    config = {"four_bit": False, "max_length": 77, "letter_options": False, "share_prompts": True}
    stages = [{"name": name, "consolidation": {}} for name in ("easy", "middle", "hard")]  # data: a level of 0.1
    (tmp_path / "report.json").write_text(json.dumps({"base": "tiny", "config": config, "stages": stages}))
    model, tokenizer = load_run(tmp_path)
    assert tokenizer.model_max_length == 77 and not getattr(model, "is_loaded_in_4bit", False)
    models = run_models(tmp_path, max_new_tokens=8)
    assert list(models) == ["base", "after medium", "slow", "fast"], "stage 1 has no saved adapter"
    replies = {name: answer(QUESTION) for name, answer in models.items()}
    expected = generate_reply(*load_run(tmp_path, "adapter_fast"), QUESTION, max_new_tokens=8)
    assert replies["after medium"] == replies["fast"] == expected
    assert len({replies[name] for name in ("base", "slow", "fast")}) == 3
