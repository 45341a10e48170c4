"""The command line: what each line asks of the package, and one clear line, exit code 2, for bad input."""

import errno
import json
import sys
import types
import warnings
from pathlib import Path

import pytest

from icft_lite import cli
from icft_lite.config import ICFTConfig
from icft_lite.errors import ICFTError

ROWS = [{"prompt": f"question {i}?", "completion": f"reply {i}"} for i in range(30)]


@pytest.fixture
def called(monkeypatch):
    """Stand-ins for what the commands call; what each was given, by name."""
    calls = {}

    def stand_in(module, name, result=None):
        def record(*args, **kwargs):
            calls[name] = (args, kwargs)
            if isinstance(result, BaseException):
                raise result
            return result

        double = doubles.setdefault(module, types.ModuleType(f"icft_lite.{module}"))
        setattr(double, name, record)
        monkeypatch.setitem(sys.modules, f"icft_lite.{module}", double)

    doubles = {}
    stand_in("training.run", "train_icft")
    stand_in("runs", "evaluate_run", {"medical": {"qa": {"metric": "accuracy", "value": 0.5, "n": 10}}})
    stand_in("chat", "chat")
    stand_in("runs", "export")
    double = types.ModuleType("icft_lite.experiments.compare")
    double.run_demo = lambda *args: calls.update(run_demo=args)
    double.compare = lambda *args, **kwargs: calls.update(compare=(args, kwargs)) or {"methods": {}}
    monkeypatch.setitem(sys.modules, "icft_lite.experiments.compare", double)
    calls["stand_in"] = stand_in
    return calls


def run(*words):
    return cli.main([str(word) for word in words])


def error_of(capsys):
    err = capsys.readouterr().err
    assert err.startswith("icft-lite: ") and err.count("\n") == 1
    return err


def test_train_passes_config_out_and_data(called, write, tmp_path):
    data, config = write("mine.jsonl", ROWS), write("c.yaml", "rows: 50\nlearning_rate: 1e-3\nseed: 1\n")
    assert (
        run(
            "train",
            "--data",
            data,
            "--general",
            data,
            "--out",
            tmp_path / "o",
            "--config",
            config,
            "--method",
            "replay",
            "--seed",
            7,
            "--max-steps",
            9,
            "--no-4bit",
            "--set",
            "lora_rank=8",
            "--set",
            "signals=loss,ifd",
        )
        == 2
    )  # the same ids on both sides
    general = write("general.jsonl", [{**row, "id": f"g{i}"} for i, row in enumerate(ROWS)])
    assert (
        run(
            "train",
            "--data",
            data,
            "--general",
            general,
            "--out",
            tmp_path / "o",
            "--config",
            config,
            "--method",
            "replay",
            "--seed",
            7,
            "--max-steps",
            9,
            "--no-4bit",
            "--set",
            "lora_rank=8",
            "--set",
            "signals=loss,ifd",
        )
        == 0
    )
    (settings, out), kwargs = called["train_icft"]
    assert settings == ICFTConfig(
        method="replay",
        seed=7,
        max_steps=9,
        four_bit=False,
        lora_rank=8,
        rows=50,
        learning_rate=1e-3,
        signals=("loss", "ifd"),
    )
    assert out == tmp_path / "o" and not out.exists()
    assert len(kwargs["data"].trusted) == 24 and len(kwargs["data"].general_test) == 3


def test_demo_compare_chat_and_export(called, tmp_path, capsys):
    assert run("demo", "--out", tmp_path / "d", "--seeds", 3, "--full") == 0
    assert called["run_demo"] == (tmp_path / "d", 3, True, None)
    assert (
        run(
            "compare", "--methods", "icft,qlora", "replay", "--seeds", 2, "--out", tmp_path / "c", "--json", "--jobs", 2
        )
        == 0
    )
    assert called["compare"] == ((tmp_path / "c", ["icft", "qlora", "replay"], range(2), {}), {"jobs": 2})
    assert json.loads(capsys.readouterr().out) == {"methods": {}}
    (tmp_path / "report.json").write_text("{}")
    assert run("chat", tmp_path) == 0 and called["chat"] == ((tmp_path,), {})
    assert run("export", tmp_path, "--to", tmp_path / "new", "--merge") == 0
    assert called["export"] == ((tmp_path, tmp_path / "new"), {"merge": True})


def test_evaluate_prints_scores_as_text_and_json(called, write, capsys):
    data = write("mine.jsonl", ROWS)
    assert run("evaluate", "tiny", "--data", data) == 0
    assert "medical.qa" in (text := capsys.readouterr().out) and "0.500" in text and "n = 10" in text
    assert run("evaluate", "tiny", "--data", data, "--json") == 0
    assert json.loads(capsys.readouterr().out)["medical"]["qa"]["n"] == 10
    assert len(called["evaluate_run"][0][1]) == 30


def test_evaluate_scores_only_what_a_run_held_out(called, write, tmp_path):
    data = write("mine.jsonl", ROWS)
    general = write("g.jsonl", [{**row, "id": f"g{i}"} for i, row in enumerate(ROWS)])
    run("train", "--data", data, "--general", general, "--out", tmp_path / "run")
    bundle = called["train_icft"][1]["data"]
    (tmp_path / "report.json").write_text(json.dumps({"data": {"sources": bundle.sources}}))
    assert run("evaluate", tmp_path, "--data", data) == 0
    assert set(called["evaluate_run"][0][1]["id"]) == set(bundle.test["id"])


def test_evaluate_scores_a_run_on_the_topics_it_studied(called, tmp_path):
    (tmp_path / "report.json").write_text(json.dumps({"config": {"topics": ["anatomy"]}}))
    assert run("evaluate", tmp_path) == 0
    assert set(called["evaluate_run"][0][1].test["topic"]) == {"anatomy"}


@pytest.mark.parametrize(
    "words, message",
    [
        (["train", "--data", "gone.jsonl", "--out", "OUT"], "no such file"),
        (["train", "--data", "GOOD", "--out", "GOOD"], "is a file; give a folder"),
        (["train", "--data", "GOOD", "--out", "GOOD/deeper"], "is a file; give a folder"),
        (["train", "--data", "BROKEN", "--out", "OUT"], "line 7: broken JSON"),
        (["train", "--data", "owner/none", "--out", "OUT"], "the Hub did not give it"),
        (["train", "--data", "GOOD", "--out", "OUT", "--set", "steps"], "FIELD=VALUE"),
        (["train", "--data", "GOOD", "--out", "OUT", "--set", "stepz=3"], "is not a setting"),
        (["train", "--data", "GOOD", "--out", "OUT", "--config", "gone.yaml"], "cannot be read"),
        (["train", "--data", "GOOD", "--out", "OUT", "--config", "LIST"], "holds no settings"),
        (["train", "--data", "GOOD", "--out", "OUT", "--config", "NOYAML"], "not YAML"),
        (["compare", "--methods", "icft,magic", "--out", "OUT"], "'magic' is unknown"),
        (["chat", "nowhere"], "no finished run"),
        (["export", "nowhere", "--to", "OUT"], "no finished run"),
        (["evaluate", "tiny", "--data", "gone.csv"], "no such file"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(called, write, tmp_path, capsys, words, message):
    good = json.dumps(ROWS[0]) + "\n"
    paths = {
        "GOOD": write("good.jsonl", ROWS),
        "BROKEN": write("broken.jsonl", good * 6 + "{oops\n"),
        "LIST": write("list.yaml", "- a\n"),
        "NOYAML": write("no.yaml", "a: [1\nb: 2"),
        "OUT": tmp_path / "out",
    }
    for name, path in paths.items():
        words = [str(path) + word[len(name) :] if word.startswith(name) else word for word in words]
    assert run(*words) == 2 and message in error_of(capsys)
    assert "train_icft" not in called and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "words", [["train"], ["nonsense"], ["demo", "--seeds", "0"], ["train", "--out", "x", "--method", "y"]]
)
def test_wrong_flags_exit_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        run(*words)
    assert stop.value.code == 2 and "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, code, message",
    [
        (ICFTError("x.jsonl line 3: wrong; mend it"), 2, "x.jsonl line 3"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "no space left"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "no space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/there"), 2, "/there: Permission denied"),
        (MemoryError(), 2, "out of memory"),
        (ValueError("surprise\nsecond line"), 1, "unexpected ValueError: surprise"),
        (KeyboardInterrupt(), 130, "the same line again resumes"),
    ],
)
def test_faults_of_a_run(called, write, tmp_path, capsys, error, code, message):
    called["stand_in"]("training.run", "train_icft", error)
    line = ["train", "--data", write("mine.jsonl", ROWS), "--out", tmp_path / "o"]
    assert run(*line) == code and message in error_of(capsys)
    assert run(*line, "--debug") == code and "Traceback" in capsys.readouterr().err


def test_what_other_libraries_plan_is_not_told(called, tmp_path, recwarn):
    def chat(run):
        warnings.warn("this name goes in version 6", FutureWarning)
        warnings.warn("this is about your run")

    sys.modules["icft_lite.chat"].chat = chat
    (tmp_path / "report.json").write_text("{}")
    assert run("chat", tmp_path) == 0
    assert [str(warning.message) for warning in recwarn] == ["this is about your run"]


def test_export_refuses_a_folder_in_use(called, tmp_path, capsys):
    (tmp_path / "report.json").write_text("{}")
    assert run("export", tmp_path, "--to", tmp_path) == 2 and "not empty" in error_of(capsys)


def test_check_out_refuses_what_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(cli.os, "access", lambda *_: False)
    with pytest.raises(ICFTError, match="cannot be written"):
        cli.check_out(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_doctor_says_what_this_machine_can_do(capsys):
    assert run("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] in ("cpu", "cuda") and found["dtype"] in ("float32", "float16", "bfloat16")
    assert found["why"] and found["four_bit"].startswith("works") and found["free_memory_bytes"] > 0
    from icft_lite.doctor import MODELS, estimate, format_lines

    sizes = [row["bytes"] for row in found["models"]]
    assert sizes == sorted(sizes) and 7 * 2**30 < estimate(MODELS["Qwen3-8B"], 2) < 22 * 2**30
    assert any("4-bit NF4" in line for line in format_lines(found))


def test_the_readme_names_only_commands_that_exist():
    readme = (Path(cli.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    commands = {line.split()[1] for line in readme.splitlines() if line.startswith("icft-lite ")}
    known = cli.build_parser()._subparsers._group_actions[0].choices
    assert commands and commands <= set(known)
