"""Small whole runs: files and reports, reproducibility and identity. Gold labels of the pool are not used."""

import dataclasses
import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset
from peft import PeftModel
from small_run import cut, small_bundle
from transformers import TrainerCallback

import icft_lite
import icft_lite.evaluation as evaluation
from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.data.bundle import balanced_subset
from icft_lite.data.samples import sample_bundle
from icft_lite.data.sources import bundle_from_files
from icft_lite.data.tables import to_dataset
from icft_lite.errors import ICFTError
from icft_lite.memory.consolidation import EXTRAPOLATION_ALPHAS
from icft_lite.modeling.adapters import adapter_tensors
from icft_lite.modeling.base import load_base, model_fingerprint, model_path, tokenizer_fingerprint
from icft_lite.presets import PRESETS
from icft_lite.reporting import build as build_module
from icft_lite.reporting import render as render_module
from icft_lite.reporting.build import accuracy_by_level
from icft_lite.training import alpha as alpha_module
from icft_lite.training import loop as loop_module
from icft_lite.training import prepare as prepare_module
from icft_lite.training import run_folder
from icft_lite.training.loop import train_icft
from icft_lite.training.run_folder import run_identity
from icft_lite.training.trainer import LOSSES
from icft_lite.utils.io import write_json

SETTINGS = {
    "optim.max_steps": 6,
    "optim.batch_size": 16,
    "adapter.rank": 4,
    "adapter.alpha": 8,
    "long_term.self_prompts": 32,
    "long_term.size": 120,
    "long_term.share": 0.5,
    "short_term.share": 0.2,
    "short_term.promote_after": 1,
    "curriculum.competence_start": 1.0,
    "curriculum.last_stage_share": 0.8,
    "long_term.ema_decay": 0.5,
    "loss.consistency_weight": 0.5,
    "loss.task_weight": 2.0,
    "loss.replay_weight": 0.25,
    "weak.soft_labels": True,
}


@pytest.fixture(scope="module")
def bundle():
    """A few samples of every topic."""
    few = dict(trusted=6, pool=5, validation=2, test=2, general_memory=6, general_validation=2, general_test=2)
    return cut(sample_bundle(), **few)


def train(out, bundle, settings=None):
    return train_icft({**SETTINGS, **(settings or {})}, out, bundle, progress=False)


@pytest.fixture(scope="module")
def done(bundle, tmp_path_factory):
    """(folder, report) of a whole run of the method."""
    out = tmp_path_factory.mktemp("run") / "icft"
    return out, train(out, bundle)


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(
        loop_module, "write_report", lambda report, out, problems: write_json(out / "report.json", report)
    )


def weights(out, name="adapter"):
    return (out / name / "adapter_model.safetensors").read_bytes()


def test_the_report_has_every_key_that_other_modules_use(done):
    out, returned = done
    report = json.loads((out / "report.json").read_text())
    assert report["method"] == "icft" and report["seed"] == 0 and report["base"] == "tiny" and report["format"] == 2
    assert report["base_hash"] == model_fingerprint("tiny")
    assert report["config"] == ICFTConfig.from_dict(SETTINGS).to_dict()
    assert report["runtime"] == RuntimeConfig().to_dict() and report["runtime_changes"] == []
    assert {"python", "torch", "transformers", "peft"} <= set(report["versions"])
    assert report["versions"]["icft-lite"] == icft_lite.__version__
    for when in ("before", "after"):
        assert set(report["scores"][when]["medical"]) == {"qa", "preference", "reply"}
        for suite in ("general", "medical"):
            for task in report["scores"][when][suite].values():
                assert 0 <= task["value"] <= 1 and task["n"] > 0 and task["metric"]
        qa = report["scores"][when]["medical"]["qa"]
        assert 0 < qa["option_chance"] < 1 and 0 <= qa["option_accuracy"] <= 1
    general = [report["scores"][when]["general"]["qa"]["value"] for when in ("before", "after")]
    assert report["retention"] == pytest.approx(general[1] / general[0], abs=1e-6)
    assert [len(line) for line in report["accuracy_matrix"]] == [4] * 4
    assert len(report["medical_by_stage"]) == 4 and None not in report["medical_by_stage"]
    assert report["accuracy_matrix"][0][0] == pytest.approx(general[0])
    assert all(isinstance(report[name], float) for name in ("bwt", "fwt", "forgetting"))
    cost = report["cost"]
    assert cost["tokens"] == sum(stage["tokens"] for stage in report["stages"]) > 0
    assert cost["seconds"] > 0 and cost["peak_memory_bytes"] > 2**25
    assert cost["trainable_parameters"] == 4 * 4 * (4 * (192 + 192) + 3 * (192 + 512))
    assert returned["scores"] == report["scores"]
    for name in ("report.md", "run.json", "items.json", "adapter/README.md"):
        assert (out / name).stat().st_size > 0
    assert list(out.glob("*.png")) and not (out / "state").exists()


def test_a_finished_run_is_never_lost(bundle, tmp_path, monkeypatch):
    """Generation that fails after training, sample replies and figures cost their part of the report only."""
    generate = evaluation.generate

    def works_before_training(model, *args, **kwargs):
        if any(bool(B.any()) for B in adapter_tensors(model, "fast")[1::2]):
            raise ICFTError("example x: need 157 tokens")
        return generate(model, *args, **kwargs)

    def fails(*args):
        raise ValueError("bad sample")

    monkeypatch.setattr(evaluation, "generate", works_before_training)
    monkeypatch.setattr(build_module, "sample_replies", fails)
    monkeypatch.setattr(render_module, "losses_figure", fails)
    train(tmp_path / "run", bundle, {"optim.max_steps": 3})
    report = json.loads((tmp_path / "run" / "report.json").read_text(encoding="utf-8"))
    assert [line.partition(":")[0] for line in report["problems"]] == ["reply scores", "sample replies", "losses.png"]
    for when in ("before", "after"):
        assert report["scores"][when]["medical"]["reply"]["metric"] == "likelihood", "the same metric before and after"
        assert report["scores"][when]["medical"]["qa"]["metric"] == "exact_match"
    assert report["samples"] == [] and (tmp_path / "run" / "adapter" / "README.md").exists()


def test_validation_suites_are_capped_with_every_topic(row):
    examples = to_dataset(row(id=str(i), topic="rare" if i % 50 == 0 else f"t{i % 3}") for i in range(1000))
    chosen = balanced_subset(examples, 100)
    counts = Counter(chosen["topic"])
    assert len(chosen) == 100 and counts["rare"] == 20 and max(counts.values()) - 26 <= 1
    assert chosen["id"] == balanced_subset(examples, 100)["id"] and len(balanced_subset(examples, 2000)) == 1000


def test_every_part_of_the_method_was_active(done):
    report = done[1]
    assert [stage["name"] for stage in report["stages"]] == ["easy", "medium", "hard"]
    assert sum(stage["steps"] for stage in report["stages"]) == 6 == len(report["losses"]["step"])
    assert {"trusted", "weak_question", "memory", "ring"} <= set(report["examples"])
    for stage in report["stages"]:
        assert sum(stage["teacher_share"].values()) == pytest.approx(1)
        assert 0 < stage["memory_examples"] <= 120 and stage["new_examples"] > 0
        assert {"alpha", "refused", "candidates"} <= set(stage["consolidation"])
        assert {"candidates", "gated", "promoted", "evicted"} <= set(stage)
        assert stage["candidates"] >= stage["gated"] + stage["promoted"]
    assert sum(stage["candidates"] for stage in report["stages"]) > 0
    assert report["stages"][0]["teacher_share"]["base"] == 1, "at first the slow adapter is the base"
    norms = report["gradient_norms"]
    assert set(norms) == set(LOSSES) and max(norms["task"]) > 0 and max(norms["fine_tune"]) > 0
    weak = report["data"]["weak"]
    assert weak["label_model"] == "dawid_skene" and 0 <= weak["accuracy"] <= 1 and weak["num_examples"] > 0


def test_the_total_is_the_weighted_sum_of_the_three_losses_at_every_step(done):
    losses = done[1]["losses"]
    for at, total in enumerate(losses["total"]):
        parts = [losses[name][at] for name in LOSSES]
        assert total == pytest.approx(0.5 * parts[0] + 2.0 * parts[1] + parts[2], rel=1e-4)
    assert all(max(losses[name]) > 0 for name in LOSSES)


@pytest.mark.parametrize("name", ["adapter", "adapter_fast"])
def test_the_adapters_load_with_plain_peft_and_are_trained(done, name):
    model = PeftModel.from_pretrained(load_base("tiny")[0], str(done[0] / name))
    changes = [module.lora_B["default"].weight.abs().max() for module in model.modules() if hasattr(module, "lora_B")]
    assert len(changes) == 28 and max(changes) > 0
    assert weights(done[0]) != weights(done[0], "adapter_fast")


def test_a_second_call_reports_a_complete_run_and_does_nothing(done, bundle, capsys):
    out, _ = done
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = train_icft(SETTINGS, out, bundle)
    assert "complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert again == json.loads((out / "report.json").read_text())


# --- identity of a run


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"seed": 1}, "seed"),
        ({"optim.learning_rate": 1e-4}, "optim.learning_rate"),
        ({"method": "no_curriculum"}, "method, curriculum.order"),
        ({"loss.replay_weight": 0, "curriculum.order": "random"}, "loss.replay_weight, curriculum.order"),
    ],
)
def test_a_changed_setting_of_the_method_is_refused_by_its_name(done, bundle, settings, named):
    with pytest.raises(ICFTError, match=f"holds another run .other config: {named}.; choose another --out"):
        train(done[0], bundle, settings)


def test_a_run_without_a_checkpoint_gives_way_to_another(bundle, tmp_path, monkeypatch, no_figures):
    """A model that is refused while it loads must not block the folder for the corrected command."""
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(loop_module, "prepare", lambda *args: (_ for _ in ()).throw(ICFTError("model: refused")))
        with pytest.raises(ICFTError, match="refused"):
            train(out, bundle, {"encoding.max_length": 300})
    assert (out / "run.json").exists()
    report = train(out, bundle)
    assert (
        report["config"]["encoding"]["max_length"]
        == json.loads((out / "run.json").read_text())["config"]["encoding"]["max_length"]
        != 300
    )


def test_data_that_is_no_bundle_is_refused(tmp_path):
    with pytest.raises(ICFTError, match="data: a str; give a DataBundle"):
        train_icft(SETTINGS, tmp_path / "run", "file.jsonl")
    assert not (tmp_path / "run").exists()


def test_changed_runtime_settings_are_the_same_run(done, bundle, capsys):
    out, _ = done
    report = json.loads((out / "report.json").read_text())
    runtime = RuntimeConfig(save_steps=1, micro_batches=2, packing=False)
    assert train_icft(SETTINGS, out, bundle, runtime=runtime) == report and "complete" in capsys.readouterr().out
    assert train(out, bundle, {"runtime.teacher_dtype": "float16"}) == report


ROLES = ["trusted", "pool", "validation", "test", "general_memory", "general_validation", "general_test"]


@pytest.mark.parametrize("role", ROLES)
def test_one_changed_example_is_refused_by_its_role(done, bundle, role):
    examples = getattr(bundle, role)
    prompts = [*examples["prompt"][:-1], "Another prompt."]
    changed = Dataset.from_dict({**examples.to_dict(), "prompt": prompts}, features=examples.features)
    with pytest.raises(ICFTError, match=f"holds another run .other data: {role}.; choose another --out"):
        train(done[0], dataclasses.replace(bundle, **{role: changed}))


def test_the_same_examples_from_another_path_are_the_same_run(done, bundle, tmp_path, capsys):
    out, _ = done
    moved = dataclasses.replace(bundle, sources={"elsewhere/other.jsonl": "another hash"})
    assert train_icft(SETTINGS, out, moved) == json.loads((out / "report.json").read_text())
    assert "complete" in capsys.readouterr().out
    identities = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        for name in ("data", "general"):
            lines = [json.dumps(dict(prompt=f"{name} {i}?", completion=f"reply {i}")) + "\n" for i in range(30)]
            (folder / f"{name}.jsonl").write_text("".join(lines))
        data = bundle_from_files([folder / "data.jsonl"], [folder / "general.jsonl"])
        identities.append(run_identity(ICFTConfig(), data))
    assert identities[0] == identities[1] and identities[0]["data"].keys() == set(ROLES) - {"pool"}


def test_another_base_is_refused(done, bundle, monkeypatch):
    monkeypatch.setattr(run_folder, "model_fingerprint", lambda name: "another base")
    with pytest.raises(ICFTError, match="holds another run .another base."):
        train(done[0], bundle)


def test_another_tokenizer_or_chat_template_is_refused(done, bundle, monkeypatch, tmp_path):
    monkeypatch.setattr(run_folder, "tokenizer_fingerprint", lambda name: "another tokenizer")
    with pytest.raises(ICFTError, match="holds another run .another tokenizer."):
        train(done[0], bundle)
    path = done[0] / "run.json"
    before, found = path.read_text(), json.loads(path.read_text())
    del found["tokenizer"]  # as written before it was recorded
    try:
        path.write_text(json.dumps(found))
        assert train(done[0], bundle)
    finally:
        path.write_text(before)


def test_the_chat_template_is_part_of_a_tokenizers_hash(tmp_path):
    shutil.copytree(Path(model_path("tiny")), tmp_path / "copy")
    before = tokenizer_fingerprint(str(tmp_path / "copy")), model_fingerprint(str(tmp_path / "copy"))
    assert before == (tokenizer_fingerprint("tiny"), model_fingerprint("tiny"))
    template = tmp_path / "copy" / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|user|>", "<|user|> Please:"))
    assert tokenizer_fingerprint(str(tmp_path / "copy")) != before[0]
    assert model_fingerprint(str(tmp_path / "copy")) == before[1] and tokenizer_fingerprint("org/name") == ""


def test_a_damaged_run_json_is_named(bundle, tmp_path):
    for text in ("{", "[]"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ICFTError, match=r"run\.json: cannot be read; restore"):
            train_icft(SETTINGS, tmp_path, bundle, progress=False)


def test_runtime_settings_of_a_dict_and_of_the_argument_are_merged(bundle, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(loop_module, "open_run", lambda *args: seen.append(args[3]) or {"done": True})
    settings, runtime = {**SETTINGS, "runtime.save_steps": 2}, RuntimeConfig(micro_batches=3)
    assert train_icft(settings, tmp_path, bundle, progress=False, runtime=runtime) == {"done": True}
    assert seen == [RuntimeConfig(save_steps=2, micro_batches=3)]


def test_a_folder_with_other_files_is_refused(bundle, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ICFTError, match="holds no run"):
        train(tmp_path, bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


# --- what a run depends on


def test_the_same_seed_gives_the_same_bytes_with_wrong_gold_labels(done, bundle, tmp_path, no_figures):
    """Gold labels of the pool only score the weak labels: with all of them wrong, the adapter is the same. It is also
    the same with a base that stays in 4 bits, where the first run dequantized it."""
    options = dict(zip(bundle.pool["id"], bundle.pool["responses"]))
    wrong = {
        name: (gold + 1) % len(options[name]) if name in options else gold for name, gold in bundle.pool_gold.items()
    }
    bundle = dataclasses.replace(bundle, pool_gold=wrong)
    report = train(tmp_path / "again", bundle, {"runtime.dequantize_below_mib": 0})
    for name in ("adapter", "adapter_fast"):
        assert weights(tmp_path / "again", name) == weights(done[0], name)
    accuracy = done[1]["data"]["weak"]["accuracy"], report["data"]["weak"]["accuracy"]
    assert accuracy[0] > accuracy[1], "the wrong labels were used where weak labels are scored"


def test_plain_qlora_has_no_memory_and_only_one_loss(bundle, tmp_path, monkeypatch, no_figures):
    monkeypatch.setattr(prepare_module, "score_difficulty", None)  # its order is random, which needs no difficulty
    plain = {name: value for name, value in SETTINGS.items() if name not in PRESETS["qlora"]}
    report = train_icft({**plain, "method": "qlora"}, tmp_path / "qlora", bundle, progress=False)
    assert set(report["examples"]) == {"trusted", "weak_response"}
    assert all(stage["memory_examples"] == stage["candidates"] == 0 for stage in report["stages"])
    assert not any(report["losses"]["consistency"]) and not any(report["losses"]["task"])
    assert report["losses"]["total"] == pytest.approx(report["losses"]["fine_tune"])
    assert all(stage["consolidation"]["alpha"] == 1 for stage in report["stages"])
    assert weights(tmp_path / "qlora") == weights(tmp_path / "qlora", "adapter_fast")


def test_two_steps_for_three_stages_and_an_empty_memory(bundle, tmp_path):
    """The run has exactly `max_steps` steps. Without general data the memory fills by promotion."""
    alone = dataclasses.replace(bundle, general_memory=None)
    report = train(tmp_path / "short", alone, {"optim.max_steps": 2, "long_term.self_prompts": 0})
    stages = report["stages"]
    assert [stage["steps"] for stage in stages] == [1, 1, 0] and len(report["losses"]["step"]) == 2
    assert stages[0]["teacher_share"] == {} and "memory" not in stages[0]["examples"]
    assert not any(report["losses"]["consistency"][:1])
    assert stages[2]["examples"] == {} and stages[2]["tokens"] == 0 and stages[2]["consolidation"]["candidates"] == []
    assert report["accuracy_matrix"][3] == report["accuracy_matrix"][2], "a stage without steps changes nothing"


def test_only_the_last_stage_tries_extrapolation(bundle, tmp_path, no_figures, monkeypatch):
    tried, consolidate = [], alpha_module.consolidate

    def record(*args, extrapolation_alphas=(), **kwargs):
        tried.append(extrapolation_alphas)
        return consolidate(*args, extrapolation_alphas=extrapolation_alphas, **kwargs)

    monkeypatch.setattr(alpha_module, "consolidate", record)
    train(tmp_path / "run", bundle, {"optim.max_steps": 3})
    assert tried == [(), (), EXTRAPOLATION_ALPHAS]


def test_a_run_of_a_few_topics_is_trained_and_scored_on_those(bundle, tmp_path, no_figures):
    settings = {"topics": "terminology,drug_class,relevance,reply", "optim.max_steps": 3}
    report = train(tmp_path / "run", bundle, settings)
    assert report["config"]["topics"] == ["terminology", "drug_class", "relevance", "reply"]
    assert {task: set(score["by_topic"]) for task, score in report["scores"]["after"]["medical"].items()} == {
        "qa": {"terminology", "drug_class"},
        "preference": {"relevance"},
        "reply": {"reply"},
    }
    assert report["data"]["counts"]["trusted"] == 18 and report["data"]["counts"]["general_test"] > 18
    assert [scores[3] for scores in report["accuracy_matrix"]] == [None] * 4, "no question is hard"
    assert all(isinstance(report[name], float) for name in ("bwt", "fwt", "forgetting"))
    with pytest.raises(ICFTError, match="topics: no example has topic 'astrology'"):
        train(tmp_path / "none", bundle, {"topics": "astrology"})
    assert not (tmp_path / "none").exists()


def test_a_run_needs_training_examples(bundle, tmp_path):
    nothing = dataclasses.replace(bundle, trusted=None, pool=None, test=None, general_test=None, general_memory=None)
    with pytest.raises(ICFTError, match="no training example is left"):
        train(tmp_path / "empty", nothing)


def test_training_that_diverges_is_an_error(bundle, tmp_path):
    with pytest.raises(
        ICFTError, match=r"training diverged: .* step \d.*; lower optim.learning_rate \(now 100\)"
    ) as error:
        train(tmp_path / "run", bundle, {"optim.learning_rate": 100, "runtime.save_steps": 1})
    assert "\n" not in str(error.value)


LONG = "Define nephritis. " * 400


def lengthen(examples):
    return examples.map(lambda one: {"prompt": f"{LONG}{one['prompt']}"})


@pytest.mark.parametrize("domain", ["general", "medical"])
def test_a_run_whose_held_out_examples_are_all_too_long_is_finished(domain, tmp_path):
    """It failed after the first stage: KeyError 'medical'."""
    names = ("general_test", "general_validation") if domain == "general" else ("test", "validation")
    bundle = small_bundle()
    data = dataclasses.replace(bundle, **{name: lengthen(getattr(bundle, name)) for name in names})
    few = {"optim.max_steps": 2, "optim.batch_size": 4, "long_term.self_prompts": 0, "long_term.size": 8}
    report = train(tmp_path, data, few)
    other = "medical" if domain == "general" else "general"
    assert set(report["scores"]["after"]) == {other} and not report["problems"]
    assert report["data"]["left_out"] == sum(len(getattr(data, name)) for name in names)
    assert all(stage["consolidation"]["candidates"] == [] for stage in report["stages"]), "nothing to search on"
    assert report["general_retention"].get("constraint") is None


def test_rows_of_the_accuracy_matrix_are_means_of_the_same_tasks():
    """Pairs and free replies are scored before and after only; they were part of the base's row alone."""
    qa, pairs = dict(value=0.4), dict(value=1.0)
    assert accuracy_by_level({"general": {"qa": qa, "preference": pairs}}) == [0.4, None, None, None]
    assert accuracy_by_level({"general": {"preference": pairs}}) == [None] * 4


class StopsEarly(TrainerCallback):
    """Ends every stage after its second step, as an early-stopping callback may."""

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 2


def test_a_stage_that_a_callback_ends_is_reported_as_it_was_trained(bundle, tmp_path, no_figures):
    few = {"optim.max_steps": 12, "consolidation.enabled": False, "long_term.self_prompts": 0}
    report = train_icft({**SETTINGS, **few}, tmp_path / "run", bundle, progress=False, callbacks=[StopsEarly()])
    whole = train_icft({**SETTINGS, **few}, tmp_path / "whole", bundle, progress=False)
    stopped = [min(2, stage["steps"]) for stage in whole["stages"]]
    assert [stage["steps"] for stage in report["stages"]] == stopped and sum(stopped) < 12
    assert len(report["losses"]["step"]) == sum(stopped)
    cut, full = report["stages"][-1], whole["stages"][-1]
    assert 0 < cut["tokens"] < full["tokens"] and sum(cut["examples"].values()) < sum(full["examples"].values())


def test_a_file_in_place_of_the_folder_is_refused(bundle, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ICFTError, match="file: is a file; choose another --out"):
        train_icft(SETTINGS, tmp_path / "file", bundle, progress=False)
