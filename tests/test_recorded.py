"""Recorded replies of a real chat model, which lessons show."""

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from icft_lite import ICFTError
from icft_lite.chat_checks import is_right
from icft_lite.data.chat_suite import chat_suite
from icft_lite.data.samples import sample_bundle
from icft_lite.experiments.recorded import DEMO, DEMO_FULL, load_recorded, recorded_models, score_recorded

SCRIPT = Path(__file__).parents[1] / "scripts" / "chat_results.py"
spec = importlib.util.spec_from_file_location("chat_results", SCRIPT)
chat_results = importlib.util.module_from_spec(spec)
spec.loader.exec_module(chat_results)


@pytest.fixture(scope="module")
def comparison():
    return load_recorded()


@pytest.fixture(scope="module")
def full():
    return load_recorded(DEMO_FULL)


def test_every_recorded_prompt_has_the_reply_of_every_model(comparison):
    models = recorded_models(comparison)
    assert {"base", "ICFT", "plain LoRA"} <= set(models), "the base of smollm2 is not held in 4 bits"
    prompts = [one["prompt"] for one in comparison["recorded"]]
    assert len(prompts) == len(set(prompts)) >= 30
    for name, model in models.items():
        assert all(isinstance(model(prompt), str) for prompt in prompts), name
    for shown in comparison["display"]:
        assert models["base"](shown["prompt"]) == shown["base"] and models["ICFT"](shown["prompt"]) == shown["icft"]
    with pytest.raises(ICFTError, match="no reply to this prompt was recorded"):
        models["ICFT"]("Which day is it?")


def test_the_record_says_how_it_was_made(comparison):
    assert "demo" in comparison["command"] and comparison["commit"] and comparison["machine"]
    assert comparison["model"] == "smollm2" and comparison["seeds"] == [0]


def test_the_tables_of_the_documentation_are_those_of_the_records():
    found = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


# --- replies to medical questions, and scores


def test_medical_questions_are_the_first_of_each_topic_with_different_references(full):
    topics, test = full["settings"]["topics"], sample_bundle().test
    asked = full["medical_replies"]
    assert [one["topic"] for one in asked] == [topic for topic in topics for _ in range(3)]
    for topic in topics:
        references = []
        for item in test:
            reference = item["responses"][item["label"]]
            if item["topic"] == topic and reference not in references:
                references.append(reference)
        assert [one["reference"] for one in asked if one["topic"] == topic] == references[:3]
    by_id = {item["id"]: item for item in test}
    assert all(by_id[one["id"]]["prompt"] == one["prompt"] for one in asked), "an item of the test"
    assert [one["id"] for one in asked] == [item["id"] for item in chat_results.medical_items(topics)]


def test_medical_questions_were_not_trained_on(full):
    data = sample_bundle()
    prompts = {example["prompt"] for part in (data.trusted, data.pool, data.validation) for example in part}
    assert prompts and not prompts & {one["prompt"] for one in full["medical_replies"]}


def test_the_runs_are_identified(full):
    assert {"qlora", "icft"} == set(full["recorded_runs"])
    for name, run in full["recorded_runs"].items():
        assert run["run"] == f"demo-smollm2-full/{name}-0" and run["seed"] == 0 and run["config"]["method"] == name
        assert len(run["adapter_sha256"]) == len(run["base_hash"]) == 64
        assert abs(run["tokens"] / full["settings"]["optim.max_tokens"] - 1) < 0.02
    assert len({run["base_hash"] for run in full["recorded_runs"].values()}) == 1
    assert len({run["adapter_sha256"] for run in full["recorded_runs"].values()}) == 2
    assert full["medical_command"] == "python scripts/chat_results.py --replies runs/demo-smollm2-full"


def test_models_of_chosen_methods_answer_general_and_medical_questions(full):
    models = recorded_models(full, ["qlora", "icft"])
    assert list(models) == ["base", "plain LoRA", "ICFT"]
    for one in [*full["recorded"], *full["medical_replies"]]:
        assert [model(one["prompt"]) for model in models.values()] == [one["base"], one["qlora"], one["icft"]]
    assert sorted(recorded_models(full)) == sorted(models), "by default all methods"
    shorter = {**full, "medical_replies": [{"prompt": "Which drug?", "base": "none"}]}
    assert recorded_models(shorter)["base"]("Which drug?") == "none"
    with pytest.raises(ICFTError, match="no reply to this prompt was recorded"):
        recorded_models(shorter)["ICFT"]("Which drug?")


def test_recorded_free_answers_are_scored_as_in_the_suite(full):
    models = recorded_models(full, ["qlora", "icft"])
    scores = score_recorded(models, full)
    items = {item.prompt: item for item in chat_suite("test") if item.accepted}
    asked = [one for one in full["recorded"] if one["prompt"] in items]
    for label, key in (("base", "base"), ("plain LoRA", "qlora"), ("ICFT", "icft")):
        expected = [
            one["prompt"]
            for one in asked
            if is_right(one[key], items[one["prompt"]].accepted, items[one["prompt"]].others)
        ]
        assert scores[label] == expected
    assert 0 < len(scores["plain LoRA"]) < len(scores["base"]) < len(asked) == 15
    assert score_recorded({"silent": lambda prompt: ""}, full) == {"silent": []}


def test_a_run_is_described_by_the_hash_of_its_adapter(tmp_path, monkeypatch):
    (tmp_path / "icft-0" / "adapter").mkdir(parents=True)
    (tmp_path / "icft-0" / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    scores = dict(before=dict(medical=dict(reply=dict(value=0.25))))
    report = dict(seed=0, cost=dict(tokens=5), base_hash="b", config={"method": "icft"}, scores=scores)
    monkeypatch.setattr(chat_results, "read_report", lambda folder: report)
    found = chat_results.describe_run(tmp_path / "icft-0")
    assert found["adapter_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert found["run"] == f"{tmp_path.name}/icft-0" and (found["tokens"], found["base_reply"]) == (5, 0.25)


def test_the_page_states_what_the_record_of_medquad_has():
    record = json.loads((DEMO.parent / "medquad-smollm2.json").read_text(encoding="utf-8"))
    page = (SCRIPT.parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    prose = " ".join(page.split("## MedQuAD: three seeds")[1].split("<!-- end -->")[1].split("\n## ")[0].split())
    icft, plain, replay = (record["methods"][name] for name in ("icft", "qlora", "replay"))
    nll = {name: sum(values) / 3 for name, values in record["reply_nll"].items() if name != "base"}
    low, high = min(record["reply_nll"]["icft"]), max(record["reply_nll"]["icft"])
    assert (
        f"{record['reply_nll']['base']:.2f} with the base, {nll['icft']:.2f} with ICFT ({low:.2f} to {high:.2f} over "
        f"seeds), {nll['replay']:.2f} with replay and {nll['qlora']:.2f} with plain LoRA"
    ) in prose
    base = record["base"]["reply"]
    assert f"plain LoRA {base - plain['reply']['mean']:.2f} less" in prose
    assert all(round(one["reply"]["mean"], 2) == round(base, 2) for one in (icft, replay))
    assert f"retention {plain['retention']['mean']:.2f}" in prose
    of_base = record["chat"]["base"]
    assert f"({plain['words']['mean']:.0f} words, the base {of_base['words']:.0f})" in prose
    passed = f"{plain['instructions']['mean']:.2f} of the instructions, the base {of_base['instructions']['value']:.2f}"
    assert passed in prose
    kl = [f"{one['kl_base_tuned']['mean']:.3f}" for one in (icft, replay, plain)]
    assert "base of {} and {} (plain LoRA {})".format(*kl) in prose
    still = [f"{one['still_right']['mean']:.2f}" for one in (icft, replay, plain)]
    assert "right replies {}, {} and {} stay right".format(*still) in prose
    assert "to {:.2g}, {:.2g} and {:.2g} in the three seeds".format(*record["last_alpha"]["icft"]) in prose
    assert not {"samples", "medical_replies"} & set(record), "no text of the data set is in the record"
