"""What version 0.1 left: its runs, names of settings, modules and levels."""

import importlib
import json
import shutil
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import pytest
from small_run import SETTINGS, small_bundle

import icft_lite
from icft_lite import chat as chat_module
from icft_lite import cli, compat
from icft_lite.compat import OldNameWarning, migrate_report
from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.data.conversion import normalize_example
from icft_lite.errors import ICFTError
from icft_lite.finished_runs import evaluate_run, export, load_run
from icft_lite.report_file import read_report
from icft_lite.training.loop import train_icft
from icft_lite.utils.config_parsing import setting_types

OLD_RUNS = Path(__file__).parent / "fixtures" / "format1"
OLD_SETTINGS = dict(
    max_steps=18, rows=8, lora_rank=2, lora_alpha=4, self_prompts=8, memory_size=40, memory_share=0.4, ring_share=0.3,
    promote_after=1, last_stage=0.4, ema_decay=0.5, save_every=1,
)  # fmt: skip
"""How tests/small_run.py of version 0.1 named its settings."""


@pytest.fixture
def finished(tmp_path):
    """A copy of a run that version 0.1 finished."""
    return Path(shutil.copytree(OLD_RUNS / "finished", tmp_path / "finished"))


@pytest.fixture
def interrupted(tmp_path):
    """A copy of a run that version 0.1 was stopped in."""
    return Path(shutil.copytree(OLD_RUNS / "interrupted", tmp_path / "interrupted"))


# --- runs


def test_a_finished_run_of_0_1_has_a_report_in_the_present_format(finished):
    old, new = json.loads((finished / "report.json").read_text()), read_report(finished)
    assert "format" not in old and new["format"] == compat.FORMAT
    now = ICFTConfig.from_dict(new["config"]).to_dict()
    now["consolidation"].pop("max_kl")  # new in 0.2
    now.pop("limits")
    assert now.pop("metric") == "auto" and now == new["config"]
    assert new["config"]["optim"]["batch_size"] == old["config"]["rows"]
    assert old["config"]["temperature"] == 0.0 and new["config"]["loss"]["temperature"] is None
    assert RuntimeConfig.from_dict(new["runtime"]).save_steps == old["config"]["save_every"]
    assert [stage["name"] for stage in old["stages"]] == ["easy", "middle", "hard"]
    assert [stage["name"] for stage in new["stages"]] == ["easy", "medium", "hard"]
    for before, after in zip(old["stages"], new["stages"], strict=True):
        assert after["memory_examples"] == before["memory_rows"] and after["examples"] == before["rows"]
        assert after["consolidation"]["candidates"] == before["consolidation"]["points"]
    qa = old["scores"]["after"]["medical"]["qa"], new["scores"]["after"]["medical"]["qa"]
    assert qa[1]["option_chance"] == qa[0]["option_floor"] and qa[1]["by_level"].keys() == {"easy", "medium", "hard"}
    assert new["data"]["truncated_contexts"] == old["data"]["cut_contexts"]
    assert new["scores"]["after"]["general"]["qa"]["value"] == old["scores"]["after"]["general"]["qa"]["value"]
    assert migrate_report(new) == new


def test_a_finished_run_of_0_1_is_evaluated_with_its_scores(finished):
    bundle, report = small_bundle(), read_report(finished)
    scores = evaluate_run(finished, bundle)
    for suite in ("general", "medical"):
        before = report["scores"]["after"][suite]["qa"]
        assert scores[suite]["qa"]["n"] == before["n"]
        # The last digits of log-probabilities differ between processors, so an answer may change.
        assert scores[suite]["qa"]["value"] == pytest.approx(before["value"], abs=2 / before["n"])


def test_a_finished_run_of_0_1_answers_and_is_exported(finished, tmp_path):
    model, tokenizer = load_run(finished)
    assert tokenizer.model_max_length == 512 and model.active_adapter == "default"
    export(finished, tmp_path / "merged", merge=True)
    assert (tmp_path / "merged" / "model.safetensors").exists()


def test_the_command_line_takes_finished_runs_of_0_1(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("builtins.input", iter(["Is the femur a bone?", ""]).__next__)
    monkeypatch.setattr(chat_module, "chat", partial(chat_module.chat, read=lambda prompt: input()))
    assert cli.main(["chat", str(finished)]) == 0
    assert cli.main(["export", str(finished), "--to", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new" / "adapter_model.safetensors").exists()
    assert "not medical advice" in capsys.readouterr().out


def test_a_finished_run_of_0_1_is_complete_for_the_same_settings_and_refused_for_others(finished, capsys):
    before = (finished / "report.json").read_bytes()
    same = {**SETTINGS, "loss.consistency_weight": 0.1, "weak.soft_labels": True}
    report = train_icft(same, finished, small_bundle())
    assert report == read_report(finished) and "complete" in capsys.readouterr().out
    with pytest.raises(ICFTError, match=r"another run \(other config: adapter.rank\)"):
        train_icft({**same, "adapter.rank": 3}, finished, small_bundle(), progress=False)
    assert (finished / "report.json").read_bytes() == before


def test_an_interrupted_run_of_0_1_is_refused_in_one_line_that_names_the_version(interrupted):
    before = {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}
    with pytest.raises(
        ICFTError, match=r"interrupted run of icft-lite 0\.1.*cannot resume; finish it with version 0.1, or"
    ) as error:
        train_icft(SETTINGS, interrupted, small_bundle(), progress=False)
    assert "\n" not in str(error.value)
    assert before == {path: path.read_bytes() for path in interrupted.rglob("*") if path.is_file()}, "nothing changed"


def test_files_of_a_later_format_are_refused(finished):
    later = json.loads((finished / "report.json").read_text()) | {"format": 99}
    with pytest.raises(ICFTError, match="format 99.*upgrade"):
        migrate_report(later)
    run = json.loads((finished / "run.json").read_text()) | {"format": 99, "version": "9.0"}
    (finished / "run.json").write_text(json.dumps(run))
    with pytest.raises(ICFTError, match="icft-lite 9.0, which is newer"):
        train_icft(SETTINGS, finished, small_bundle(), progress=False)


# --- settings


def test_each_old_setting_has_a_new_name_that_exists():
    names = {name for name, _ in setting_types(ICFTConfig)}
    assert set(compat.SETTINGS.values()) <= names
    new = {name for name in names - set(compat.SETTINGS.values()) if not name.startswith("limits.")}
    assert new == {"model", "seed", "topics", "metric", "consolidation.max_kl"}
    assert set(compat.RUNTIME_SETTINGS.values()) == {name for name, _ in setting_types(RuntimeConfig)}


def test_old_settings_give_the_same_configuration_after_one_warning():
    with pytest.warns(OldNameWarning, match="rows → optim.batch_size.*lora_rank → adapter.rank") as caught:
        config = ICFTConfig.from_dict({k: v for k, v in OLD_SETTINGS.items() if k != "save_every"})
    assert len(caught) == 1
    assert config == ICFTConfig.from_dict({k: v for k, v in SETTINGS.items() if not k.startswith("runtime")})
    with pytest.warns(OldNameWarning):
        assert RuntimeConfig.from_dict({"save_every": 1, "pack_rows": False}) == RuntimeConfig(1, packing=False)


def test_zeros_with_a_hidden_meaning_become_none():
    with pytest.warns(OldNameWarning):
        config = ICFTConfig.from_dict(dict(temperature=0.0, max_steps="0", tokens=0, ema_decay=0, ring_size=0))
    assert config.loss.temperature is config.optim.max_steps is config.optim.max_tokens is None
    assert config.long_term.ema_decay is None and config.short_term.size == 0


def test_keywords_and_attributes_of_0_1_still_work():
    with pytest.warns(OldNameWarning):
        config = ICFTConfig(method="qlora", tokens=1000)
    assert config == ICFTConfig.preset("qlora", {"optim.max_tokens": 1000}) and config.method == "qlora"
    with pytest.warns(OldNameWarning, match="config.memory_share is now config.long_term.share"):
        assert config.memory_share == 0.0
    with pytest.raises(AttributeError, match="no setting 'nothing'"):
        _ = config.nothing
    with pytest.warns(OldNameWarning), pytest.raises(ICFTError, match="runtime.micro_batches"):
        ICFTConfig(micro_batches=2)


def test_keywords_of_functions_of_0_1_still_work(finished):
    with pytest.warns(OldNameWarning, match=r"load_run\(four_bit=…\) is now load_run\(load_in_4bit=…\)"):
        model, _ = load_run(finished, four_bit=False)
    assert not getattr(model.get_base_model(), "is_quantized", False)
    with pytest.raises(TypeError, match="nothing"):
        load_run(finished, nothing=1)


def test_new_names_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = ICFTConfig.preset("replay", {"optim": {"max_tokens": 5}, "loss.temperature": "none"})
        assert ICFTConfig.from_dict(config.to_dict()) == config


# --- modules and levels

LESSON_IMPORTS = {
    "chat": ["KeepStages", "run_models"],
    "config": ["ICFTConfig", "ICFTError", "METHODS", "quick", "samples_dir"],
    "consolidation": ["LINE", "average_step", "blend"],
    "curriculum": [
        "Drawer",
        "LEVELS",
        "best",
        "build_curriculum",
        "competence",
        "entropy",
        "score_difficulty",
        "without_prompt",
    ],
    "doctor": ["estimate", "examine"],
    "encoding": ["Encoded", "Encoder", "TooLong", "join", "length_groups", "places"],
    "evaluate": ["Suite", "ask", "evaluate_suite", "generate", "option_scores", "score_responses"],
    "experiment": ["DEMO", "FULL", "PLAIN", "summarise"],
    "figures": ["DASHED", "GENERAL", "GREY", "INK", "MEDICAL", "RC", "png"],
    "finished": ["export", "load_run"],
    "labelers": ["sample_lfs"],
    "losses": ["icft_losses", "pair_loss", "question_loss", "token_kl", "token_logprobs"],
    "memory": ["Entry", "LongTermMemory", "ShortTermMemory", "mean_states", "promote", "water_fill"],
    "metrics": ["bwt", "forgetting", "mean_score", "normalise_answer", "paired_bootstrap", "retention"],
    "model": [
        "activate",
        "adapter_tensors",
        "add_adapters",
        "delta_svd",
        "hardware",
        "head_weight",
        "hidden_states",
        "load_base",
        "load_tokenizer",
        "using",
    ],
    "outcome": ["peak_memory"],
    "rehearsal": ["self_prompts"],
    "samples": ["bundle_from_files", "load_samples", "pool_gold", "read_examples", "sample_bundle"],
    "schedule": ["Item", "StageBatches", "Step", "collate", "denominators", "plan_stage", "split"],
    "state": ["STEP", "load_state", "stage_file"],
    "study": ["answers_of", "divergence", "load_study"],
    "trainer": ["ICFTTrainer", "LOSSES"],
    "votes": ["duel", "read_votes"],
    "weak": ["ABSTAIN", "DawidSkene", "MajorityVote", "apply_lfs", "label_pool", "labeling_function", "lf_analysis"],
    "widgets": ["Dashboard", "ask_panel", "dashboard_figure", "fate_table", "fates", "memory_inspector"],
}
"""Names that the lessons of 0.1 imported, by module."""


@pytest.mark.parametrize("module", LESSON_IMPORTS)
def test_names_that_lessons_of_0_1_imported_are_still_there(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldNameWarning)
        found = importlib.import_module(f"icft_lite.{module}")
        for name in LESSON_IMPORTS[module]:
            assert getattr(found, name) is not None, name


def test_a_module_of_0_1_warns_once_and_names_the_new_one():
    code = "import icft_lite.schedule; from icft_lite.schedule import Item; from icft_lite.schedule import plan_stage"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.count("OldNameWarning") == 1
    assert "icft_lite.training.plan and icft_lite.training.batches" in done.stderr


def test_a_name_of_0_1_in_a_module_that_still_exists_warns():
    from icft_lite import curriculum

    with pytest.warns(OldNameWarning, match="icft_lite.curriculum.Drawer is now icft_lite.curriculum.PacedSampler"):
        assert curriculum.Drawer is curriculum.PacedSampler


def test_each_module_of_0_1_can_be_imported():
    old = {"clock", *compat.MODULES}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldNameWarning)
        for module in old:
            importlib.import_module(f"icft_lite.{module}")
    for key, new in compat.NAMES.items():
        module, _, name = key.rpartition(".")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OldNameWarning)
            found = getattr(importlib.import_module(f"icft_lite.{module}"), name)
        assert getattr(found, "__name__", new) in (new, new.lower()), key


def test_names_that_never_were_are_missing():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("icft_lite.nothing")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", OldNameWarning)
        with pytest.raises(ImportError):
            exec("from icft_lite.schedule import nothing")
    with pytest.raises(AttributeError):
        _ = icft_lite.nothing


def test_the_level_middle_is_read_as_medium():
    raw = dict(prompt="Define nephritis.", completion="inflammation of the kidney", level="middle")
    assert normalize_example(raw, "here", 1)["level"] == "medium"
