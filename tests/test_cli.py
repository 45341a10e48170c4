"""The command line: what each command passes to the package; wrong input gives one clear line and exit code 2."""

import errno
import json
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest

from icft_lite import cli, evaluate_command
from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.data.overlap import save_seen
from icft_lite.errors import ICFTError
from icft_lite.weak.files import EXAMPLE

EXAMPLES = [{"prompt": f"question {i}?", "completion": f"reply {i}"} for i in range(30)]
FROM_FILE = {"seed": 1, "optim.learning_rate": 1e-3, "optim.batch_size": 50, "runtime.save_steps": 2}
LAST = {**FROM_FILE, "optim.batch_size": 6}
RUNTIME = {"runtime.packing": False, "runtime.teacher_dtype": "float16"}


@pytest.fixture
def called(monkeypatch):
    """Stand-ins for the functions that commands call. Returns {name: (args, kwargs) of the last call}."""
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
    stand_in("training.loop", "train_icft")
    stand_in("check", "check_fit", {"refusal": None})
    stand_in("reporting.check_text", "format_lines", [])
    stand_in("chat", "chat")
    stand_in("finished_runs", "export")
    demo = types.ModuleType("icft_lite.experiments.demo")
    demo.run_demo = lambda *args, **kwargs: calls.update(run_demo=(args, kwargs))
    monkeypatch.setitem(sys.modules, "icft_lite.experiments.demo", demo)
    double = types.ModuleType("icft_lite.experiments.compare")
    double.compare = lambda *args, **kwargs: calls.update(compare=(args, kwargs)) or {"methods": {}}
    monkeypatch.setitem(sys.modules, "icft_lite.experiments.compare", double)
    scores = {"medical": {"qa": {"metric": "accuracy", "value": 0.5, "n": 10}}}
    double = lambda *args, **kwargs: calls.update(evaluate_run=(args, kwargs)) or scores  # noqa: E731
    monkeypatch.setattr(evaluate_command, "evaluate_run", double)
    calls["stand_in"] = stand_in
    return calls


def run(*words):
    return cli.main([str(word) for word in words])


def error_of(capsys):
    err = capsys.readouterr().err
    assert err.startswith("icft-lite: ") and err.count("\n") == 1
    return err


def trained(called):
    """(config, runtime) that `train` passed on."""
    (config, _), kwargs = called["train_icft"]
    return config, kwargs["runtime"]


def test_train_passes_config_out_data_and_runtime(called, write, tmp_path, capsys):
    data, config = write("mine.jsonl", EXAMPLES), write("c.yaml", "optim:\n  batch_size: 50\nseed: 1\n")
    options = ["--out", tmp_path / "o", "--config", config, "--method", "replay", "--seed", 7, "--max-steps", 9]
    options += ["--no-4bit", "--set", "adapter.rank=8", "--set", "curriculum.signals=loss,ifd"]
    options += ["--set", "runtime.save_steps=5", "--runtime.micro_batches", 4]
    assert run("train", "--data", data, "--general", data, *options) == 2, "the same ids on both sides"
    general = write("general.jsonl", [{**example, "id": f"g{i}"} for i, example in enumerate(EXAMPLES)])
    assert run("train", "--data", data, "--general", general, *options) == 0
    (found, out), kwargs = called["train_icft"]
    settings = {"seed": 7, "optim.max_steps": 9, "adapter.load_in_4bit": False, "adapter.rank": 8}
    settings |= {"optim.batch_size": 50, "curriculum.signals": ("loss", "ifd")}
    assert found == ICFTConfig.preset("replay", settings) and found.method == "replay"
    assert kwargs["runtime"] == RuntimeConfig(save_steps=5, micro_batches=4)
    assert out == tmp_path / "o" and not out.exists()
    assert len(kwargs["data"].trusted) == 24 and len(kwargs["data"].general_test) == 3


# --- settings


@pytest.mark.parametrize(
    "options, settings",
    [
        (["--optim.learning_rate", "1e-3"], {"optim.learning_rate": 1e-3}),
        (["--optim.learning_rate=1e-3", "--seed=3"], {"optim.learning_rate": 1e-3, "seed": 3}),
        (["--adapter.load_in_4bit", "false"], {"adapter.load_in_4bit": False}),
        (["--max-length", "300"], {"encoding.max_length": 300}),
        (["--optim.max_tokens", "null", "--set", "optim.max_steps=none"], {}),
        (["--topics", "anatomy,reply"], {"topics": ("anatomy", "reply")}),
        (["--topics=[anatomy, reply]"], {"topics": ("anatomy", "reply")}),
        (["--topics", "anatomy", "--curriculum.signals=ifd"], {"topics": "anatomy", "curriculum.signals": ("ifd",)}),
        (["--runtime.micro_batches", "4"], {"runtime.micro_batches": 4}),
        (["--runtime.packing", "false", "--set", "runtime.teacher_dtype=float16"], RUNTIME),
        (["--config", "NESTED"], FROM_FILE),
        (["--config", "DOTTED"], FROM_FILE),
        (["--config", "NESTED", "--optim.batch_size", "5"], {**FROM_FILE, "optim.batch_size": 5}),
        (["--set", "optim.batch_size=6", "--optim.batch_size", "5", "--config", "NESTED"], LAST),
        (["--method", "qlora", "--config", "METHOD"], {"method": "qlora"}),
        (["--set", "method=no_curriculum", "--method", "qlora", "--config", "METHOD"], {"method": "no_curriculum"}),
    ],
)
def test_settings_by_option_set_and_file(called, write, tmp_path, capsys, options, settings):
    """--set wins over options, and options over --config. None of these lines gives reason for a note."""
    files = {
        "NESTED": "seed: 1\noptim:\n  learning_rate: 1e-3\n  batch_size: 50\nruntime:\n  save_steps: 2\n",
        "DOTTED": "seed: 1\noptim.learning_rate: 1e-3\noptim.batch_size: 50\nruntime.save_steps: 2\n",
        "METHOD": "method: replay\n",
    }
    options = [write(f"{word}.yaml", files[word]) if word in files else word for word in options]
    assert run("train", "--out", tmp_path / "o", *options) == 0
    runtime = {name: value for name, value in settings.items() if name.startswith("runtime.")}
    method = {name: value for name, value in settings.items() if name not in runtime}
    config, found = trained(called)
    assert (config, found) == (ICFTConfig.from_dict(method), RuntimeConfig.from_dict(runtime))
    assert config.method == method.get("method", "icft") and capsys.readouterr().err == ""


def test_names_of_0_1_are_accepted_with_one_note(called, write, tmp_path, capsys):
    old = write("old.yaml", "rows: 50\nlearning_rate: 1e-3\nsave_every: 0\ntemperature: 0\n")
    assert run("train", "--out", tmp_path / "o", "--config", old, "--set", "tokens=9", "--set", "micro_batches=2") == 0
    settings = {"optim.batch_size": 50, "optim.learning_rate": 1e-3, "optim.max_tokens": 9}
    assert trained(called) == (ICFTConfig.from_dict(settings), RuntimeConfig(micro_batches=2))
    err = capsys.readouterr().err
    assert err.startswith("icft-lite: note: settings have new names: rows → optim.batch_size") and err.count("\n") == 1
    assert "tokens → optim.max_tokens" in err and "micro_batches → runtime.micro_batches" in err


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_every_command_works_without_torch(command):
    code = "import sys; from icft_lite import cli\ntry: cli.main([sys.argv[1], '--help'])\n"
    code += "except SystemExit as stop: print(stop.code, *{'torch', 'transformers', 'datasets'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code, command], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"usage: icft-lite {command} ") and done.stdout.endswith("\n0\n")
    assert ("--optim.learning_rate" in done.stdout) == (command in ("train", "compare"))


def test_demo_compare_chat_and_export(called, write, tmp_path, capsys):
    assert run("demo", "--out", tmp_path / "d", "--seeds", 3, "--full") == 0
    assert called["run_demo"] == ((tmp_path / "d", 3, True, None), {"model": "tiny", "quick": False})
    assert run("demo", "--model", "smollm2", "--quick", "--jobs", 2) == 0
    assert called["run_demo"] == ((Path("runs/demo-smollm2"), 1, False, 2), {"model": "smollm2", "quick": True})
    options = ["--seeds", 2, "--out", tmp_path / "c", "--json", "--jobs", 2, "--runtime.save_steps", 3]
    assert run("compare", "--methods", "icft,qlora", "replay", *options, "--set", "optim.max_tokens=9") == 0
    (out, methods, seeds, settings), kwargs = called["compare"]
    assert (out, methods, seeds) == (tmp_path / "c", ["icft", "qlora", "replay"], range(2))
    assert settings == {"optim.max_tokens": "9"}
    assert kwargs == {"progress": False, "jobs": 2, "runtime": RuntimeConfig(save_steps=3)}
    assert json.loads(capsys.readouterr().out) == {"methods": {}}
    data = write("mine.jsonl", EXAMPLES)
    assert run("compare", "--data", data, "--map", "question=Frage", "--out", tmp_path / "c", "--json") == 2
    assert "Frage" in error_of(capsys) and "data" not in called["compare"][1]
    for option in (["--general", "samples"], ["--turns", "all"], ["--lfs", data]):
        assert run("compare", *option, "--out", tmp_path / "c", "--json") == 2
        assert f"{option[0]}: it belongs to --data" in error_of(capsys)
    assert run("compare", "--data", data, "--general", "samples", "--out", tmp_path / "c", "--json") == 0
    kwargs = called["compare"][1]
    assert kwargs["data_options"] == [f"--data={data}", "--general=samples", "--set=turns=last"]
    assert len(kwargs["data"].trusted) < len(EXAMPLES) and capsys.readouterr().out == '{\n  "methods": {}\n}\n'
    (tmp_path / "report.json").write_text("{}")
    assert run("chat", tmp_path) == 0 and called["chat"] == ((tmp_path,), {"max_new_tokens": 512})
    assert run("chat", tmp_path, "--max-new-tokens", 9) == 0 and called["chat"][1] == {"max_new_tokens": 9}
    assert run("export", tmp_path, "--to", tmp_path / "new", "--merge") == 0
    assert called["export"] == ((tmp_path, tmp_path / "new"), {"merge": True})


def test_evaluate_prints_scores_as_text_and_json(called, write, capsys):
    data = write("mine.jsonl", EXAMPLES)
    assert run("evaluate", "tiny", "--data", data) == 0
    assert "medical.qa" in (text := capsys.readouterr().out) and "0.500" in text and "n = 10" in text
    assert run("evaluate", "tiny", "--data", data, "--json") == 0
    assert json.loads(capsys.readouterr().out)["medical"]["qa"]["n"] == 10
    assert len(called["evaluate_run"][0][1]) == 30


def test_evaluate_scores_only_what_a_run_held_out(called, write, tmp_path):
    data = write("mine.jsonl", EXAMPLES)
    general = write("g.jsonl", [{**example, "id": f"g{i}"} for i, example in enumerate(EXAMPLES)])
    run("train", "--data", data, "--general", general, "--out", tmp_path / "run")
    bundle = called["train_icft"][1]["data"]
    (tmp_path / "report.json").write_text(json.dumps({"data": {"sources": bundle.sources}}))
    assert run("evaluate", tmp_path, "--data", data) == 0
    assert set(called["evaluate_run"][0][1]["id"]) == set(bundle.test["id"])


def test_evaluate_scores_only_what_a_run_has_not_seen_in_any_format(called, write, tmp_path, capsys):
    data, general = (
        write("mine.jsonl", EXAMPLES),
        write("g.jsonl", [{"prompt": f"{i}?", "completion": "x"} for i in range(9)]),
    )
    run(
        "train", "--data", data, "--general", general, "--out", tmp_path / "run", "--test-ids", write("ids", "mine-4\n")
    )
    bundle = called["train_icft"][1]["data"]
    save_seen(tmp_path, bundle)
    (tmp_path / "report.json").write_text(json.dumps({"data": {"sources": bundle.sources}}))
    other = write(
        "other.tsv", "answer\tquestion\n" + "".join(f"{one['completion']}\t{one['prompt']}\n" for one in EXAMPLES)
    )
    for source in (data, other):
        assert run("evaluate", tmp_path, "--data", source) == 0
        assert called["evaluate_run"][0][1]["prompt"][:] == ["question 3?"]
        assert "icft-lite: note: 29 of 30 examples are left out" in capsys.readouterr().err


def test_evaluate_passes_the_settings_of_its_options(called, write):
    data = write("mine.jsonl", EXAMPLES)
    options = ["--no-4bit", "--max-length", 99, "--metric", "accuracy_norm"]
    assert run("evaluate", "tiny", "--data", data, *options) == 0
    given = {"adapter.load_in_4bit": False, "encoding.max_length": 99, "metric": "accuracy_norm"}
    assert called["evaluate_run"][0][2] == given and ICFTConfig.from_dict(given).metric == "accuracy_norm"
    assert run("evaluate", "tiny", "--data", data) == 0 and called["evaluate_run"][0][2] == {}


def test_reading_options_reach_the_data_and_not_the_settings(called, write, tmp_path):
    rows = [{"Frage": f"Teil {i}?", "Optionen": ["Herz", "Haut", "Ohr"], "Antwort": 1 + i % 2} for i in range(20)]
    data, lfs = write("de.jsonl", rows), write("lfs.py", EXAMPLE)
    config = write("c.yaml", f"map:\n  question: Frage\n  choices: Optionen\nlfs: [{lfs}]\nanswers_from: 0\nseed: 3\n")
    options = ["--config", config, "--map", "answer=Antwort", "--answers-from", 1]
    assert run("train", "--data", data, "--general", "samples", "--out", tmp_path / "o", *options) == 0
    (config, _), kwargs = called["train_icft"]
    assert config == ICFTConfig.from_dict({"seed": 3}) and kwargs["data"].lfs[0].name == "base_choice"
    assert {one["responses"][one["label"]] for one in kwargs["data"].trusted} == {"Herz", "Haut"}
    assert run("evaluate", "tiny", "--data", data, "--map", "question=Frage,choices=Optionen,answer=Antwort",
               "--answers-from", 0) == 0  # fmt: skip
    assert set(called["evaluate_run"][0][1]["label"]) == {1, 2}


@pytest.mark.parametrize("own", ["map: question=Frage\n", "map:\n  # nothing yet\n"])
def test_the_map_of_a_configuration_file_gives_way_to_that_of_the_command_line(called, write, own, tmp_path):
    rows = [{"Frage": f"Teil {i}?", "choices": ["Herz", "Haut"], "answer": i % 2, "Thema": "x"} for i in range(20)]
    data, options = write("de.jsonl", rows), ["--config", write("c.yaml", own), "--answers-from", 0]
    line = ["train", "--data", data, "--general", "samples", "--out", tmp_path / "o", *options]
    assert run(*line, "--map", "question=Frage,topic=Thema") == 0
    assert set(called["train_icft"][1]["data"].trusted["topic"]) == {"x"}


def test_train_shows_what_it_understood_before_it_trains(called, write, tmp_path, capsys, monkeypatch):
    for module in ("check", "reporting.check_text"):
        monkeypatch.delitem(sys.modules, f"icft_lite.{module}")
    rows = [*EXAMPLES, *({"prompt": "long " * 300 + f"{i}?", "completion": "x"} for i in range(5))]
    data, general = (
        write("mine.jsonl", rows),
        write("g.jsonl", [{**one, "prompt": f"General {one['prompt']}"} for one in EXAMPLES]),
    )
    called["stand_in"]("training.loop", "train_icft", ICFTError("the run starts"))
    assert run("train", "--data", data, "--general", general, "--out", tmp_path / "o") == 2
    shown = capsys.readouterr()
    assert "the run starts" in shown.err and "35 prompt + completion" in shown.out
    table = {line.split()[0]: line.split() for line in shown.out.splitlines() if line and line[0] != " "}
    held_out = sum(int(table[role][-1]) for role in ("trusted", "validation", "test"))
    assert held_out == 5 and table["general_memory"][1] == "24" and "max_length = 512" in shown.out


def test_evaluate_scores_a_run_on_its_own_topics(called, tmp_path):
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
        (["train", "--data", "owner/none", "--out", "OUT"], "the Hub did not provide it"),
        (["train", "--data", "GOOD", "--out", "OUT", "--set", "steps"], "NAME=VALUE"),
        (["train", "--data", "GOOD", "--out", "OUT", "--set", "stepz=3"], "is not a setting"),
        (["train", "--out", "OUT", "--set", "optim.learning_rate=fast"], "optim.learning_rate: 'fast' is not possible"),
        (["train", "--out", "OUT", "--optim.learning_rate", "fast"], "--optim.learning_rate: 'fast' is not possible"),
        (["train", "--out", "OUT", "--optim.learning_rate", "0"], "optim.learning_rate: 0.0 is not possible; give a"),
        (
            ["train", "--out", "OUT", "--curriculum.order", "up"],
            "'up' is not possible; give easy_to_hard, hard_to_easy",
        ),
        (["train", "--out", "OUT", "--runtime.save_steps", "x"], "'x' is not possible; give a whole number, or null"),
        (["train", "--out", "OUT", "--optim.learning_rat", "1"], "did you mean --optim.learning_rate?"),
        (["train", "--out", "OUT", "--see", "1"], "--see is not an option; did you mean --seed?"),
        (["train", "--out", "OUT", "--nonsense"], "--nonsense is not an option; see --help"),
        (["train", "--out", "OUT", "--method", "magic"], "method: 'magic' is unknown; choose one of icft, qlora"),
        (["train"], "--out is missing"),
        ([], "give a command: doctor, demo, check, train"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["demo", "--seeds", "0"], "--seeds: '0' is not possible; give a whole number above 0"),
        (["compare", "--out", "OUT", "--jobs", "x"], "--jobs: 'x' is not possible; give a whole number above 0"),
        (["compare", "--out", "OUT", "--runtime.micro_batches", "0"], "runtime.micro_batches: 0 is not possible"),
        (["compare", "--out", "OUT", "--set", "loss.task_weight=-1"], "loss.task_weight: -1.0 is not possible"),
        (["train", "--data", "GOOD", "--out", "OUT", "--config", "gone.yaml"], "cannot be read"),
        (["train", "--data", "GOOD", "--out", "OUT", "--config", "LIST"], "holds no settings"),
        (["train", "--data", "GOOD", "--out", "OUT", "--config", "NOYAML"], "not YAML"),
        (["compare", "--methods", "icft,magic", "--out", "OUT"], "'magic' is unknown"),
        (["chat"], "DIR is missing"),
        (["chat", "nowhere"], "no finished run"),
        (["export", "nowhere", "--to", "OUT"], "no finished run"),
        (["evaluate", "tiny", "--data", "gone.csv"], "no such file"),
        (["evaluate", "tiny", "--data", "samples", "--map", "question=Frage"], "--map: the samples have columns"),
        (["train", "--map", "question=Frage", "--out", "OUT"], "--map: the samples have columns"),
        (["evaluate", "tiny", "--lm-eval", "piqa=GOOD", "--map", "question=Frage"], "--map: --lm-eval has data"),
        (["evaluate", "tiny", "--lm-eval", "piqa=GOOD", "--metric", "accuracy"], "--metric: --lm-eval has data"),
        (["evaluate", "tiny", "--lm-eval", "piqa=GOOD", "piqa=GOOD"], "--lm-eval: piqa is given twice"),
        (["evaluate", "tiny", "--lm-eval", "piqa=GOOD", "--data", "GOOD"], "--data: --lm-eval has data"),
        (["evaluate", "tiny", "--chat", "--data", "GOOD"], "--data: --chat has data and metrics of its own"),
        (["evaluate", "tiny", "--chat", "--lm-eval", "piqa=GOOD"], "--lm-eval: --chat has data"),
        (["evaluate", "tiny", "--limit", "3"], "--limit: it limits --chat"),
        (["compare", "--methods", ",", "--out", "OUT"], "--methods: names none"),
        (["train", "--data", "GOOD", "--out", "OUT", "--loss.pair_beta", "-2"], "loss.pair_beta: -2.0 is not possible"),
        (["grade", "GOOD", "--csv", "."], "--csv .: is a folder"),
        (["evaluate", "tiny", "--data", "GOOD", "--max-length", "0"], "--max-length: '0' is not possible"),
        (
            ["evaluate", "tiny", "--data", "GOOD", "--turns", "first"],
            "turns: 'first' is not possible; give last or all",
        ),
        (
            ["train", "--data", "GOOD", "--out", "OUT", "--answers-from", "a"],
            "answers_from: 'a' is not possible; give 0",
        ),
        (["train", "--data", "GOOD", "--out", "OUT", "--map", "prompt=Frage"], "there is no such column"),
        (["train", "--data", "GOOD", "--out", "OUT", "--test-ids", "IDS"], "1 of its 2 ids are in none of"),
        (["train", "--data", "GOOD", "--out", "OUT", "--lfs", "BROKEN"], "fix the file"),
        (["chat", "nowhere", "--max-new-tokens", "x"], "--max-new-tokens: 'x' is not possible"),
        (
            ["chat", "nowhere", "--max-length", "5"],
            "--max-length is not an option; did you mean --encoding.max_length?",
        ),
    ],
)
def test_wrong_input_gives_one_line_and_exit_code_2(called, write, tmp_path, capsys, words, message):
    good = json.dumps(EXAMPLES[0]) + "\n"
    paths = {
        "GOOD": write("good.jsonl", EXAMPLES),
        "BROKEN": write("broken.jsonl", good * 6 + "{oops\n"),
        "LIST": write("list.yaml", "- a\n"),
        "IDS": write("ids.txt", "good-3\ngood-99\n"),
        "NOYAML": write("no.yaml", "a: [1\nb: 2"),
        "OUT": tmp_path / "out",
    }
    for name, path in paths.items():
        words = [str(path) + word[len(name) :] if word.startswith(name) else word for word in words]
    assert run(*words) == 2 and message in error_of(capsys)
    assert not {"train_icft", "compare", "run_demo"} & set(called) and not (tmp_path / "out").exists()


def test_output_in_another_encoding_than_utf_8_is_no_error(tmp_path):
    """As on Windows, where the output of a command goes to a file."""
    code = "import sys; from icft_lite.cli import main; sys.exit(main(['check', 'KL(base ‖ tuned).csv']))"
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252"}
    (tmp_path / "KL(base ‖ tuned).csv").write_text("prompt,completion\n" + "".join(f"a ‖ {i},b\n" for i in range(9)))
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True)
    assert done.returncode == 0 and b"KL(base ? tuned).csv" in done.stdout


@pytest.mark.parametrize(
    "error, code, message",
    [
        (ICFTError("x.jsonl line 3: wrong; fix it"), 2, "x.jsonl line 3"),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "run the same command again to resume"),
        (RuntimeError("I/O error: No space left on device (os error 28)"), 2, "no space left"),
        (PermissionError(errno.EACCES, "Permission denied", "/there"), 2, "/there: Permission denied"),
        (MemoryError(), 2, "out of memory; try --runtime.micro_batches 8"),
        (ValueError("surprise\nsecond line"), 1, "unexpected ValueError: surprise"),
        (KeyboardInterrupt(), 130, "run the same command again to resume"),
    ],
)
def test_errors_of_a_run(called, write, tmp_path, capsys, error, code, message):
    called["stand_in"]("training.loop", "train_icft", error)
    line = ["train", "--data", write("mine.jsonl", EXAMPLES), "--out", tmp_path / "o"]
    assert run(*line) == code and message in error_of(capsys)
    assert run(*line, "--debug") == code and "Traceback" in capsys.readouterr().err


def test_future_warnings_of_other_libraries_are_not_shown(called, tmp_path, capsys):
    def chat(run, **options):
        warnings.warn("this name goes in version 6", FutureWarning, stacklevel=1)
        warnings.warn("this is about your run", stacklevel=1)

    sys.modules["icft_lite.chat"].chat = chat
    (tmp_path / "report.json").write_text("{}")
    assert run("chat", tmp_path) == 0
    assert capsys.readouterr().err == "icft-lite: note: UserWarning: this is about your run\n"


def test_export_refuses_a_folder_in_use(called, tmp_path, capsys):
    (tmp_path / "report.json").write_text("{}")
    assert run("export", tmp_path, "--to", tmp_path) == 2 and "not empty" in error_of(capsys)
    assert run("export", tmp_path, "--to", tmp_path / "report.json") == 2
    assert f"--to {tmp_path / 'report.json'}: " in error_of(capsys)


def test_a_name_that_is_too_long_is_an_error_of_the_user(capsys):
    assert run("check", "x" * 300) == 2 and "too long" in error_of(capsys)


def test_check_out_refuses_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr(cli.os, "access", lambda *_: False)
    with pytest.raises(ICFTError, match="cannot be written"):
        cli.check_out(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_doctor_shows_what_this_machine_can_do(capsys):
    assert run("doctor", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["device"] in ("cpu", "cuda") and found["dtype"] in ("float32", "float16", "bfloat16")
    assert found["why"] and found["four_bit"].startswith("works") and found["free_memory_bytes"] > 0
    from icft_lite.doctor import MODELS, estimate, format_lines

    sizes = [one["bytes"] for one in found["models"]]
    assert sizes == sorted(sizes) and 7 * 2**30 < estimate(MODELS["Qwen3-8B"], 2) < 22 * 2**30
    assert any("4-bit NF4" in line for line in format_lines(found))
    for cached, text in (
        (True, "`smollm2` (SmolLM2-135M-Instruct) is in FOLDER."),
        (False, "not downloaded yet: 93 MB"),
    ):
        facts = dict(found["smollm2"], cached=cached, folder="FOLDER")
        assert any(text in line for line in format_lines({**found, "smollm2": facts}))


def test_the_readme_names_only_commands_that_exist():
    readme = (Path(cli.__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    code = "".join(readme.split("```")[1::2])
    commands = {line.split()[1] for line in code.splitlines() if line.startswith("icft-lite ")}
    assert commands and commands <= set(cli.COMMANDS)


@pytest.mark.parametrize(
    "words, what",
    [
        (["compare", "--out", "c", "--seed", "7"], "--seed: `compare` trains several; use --seeds"),
        (["compare", "--out", "c", "--set", "method=gold"], "--method: `compare` trains several; use --methods"),
        (["evaluate", "tiny", "--test-ids", "ids.txt"], "--test-ids: the samples have a test of their own"),
        (["train", "--out", "c", "--max-step", "5"], "--max-step is not an option; did you mean --max-steps?"),
        (["train", "--out", "c", "--seed", "-1"], "seed: -1 is not possible; give 0 or more"),
        (["train", "--out", "c", "--seed", "4294967296"], "seed: 4294967296 is not possible"),
    ],
)
def test_settings_that_would_be_ignored_or_fail_late_are_refused(called, words, what, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(*words) == 2 and what in error_of(capsys) and not (tmp_path / "c").exists()


def test_topics_are_text_whatever_they_look_like(called, write, tmp_path):
    data = write("mine.jsonl", EXAMPLES)
    general = write("general.jsonl", [{**example, "id": f"g{i}"} for i, example in enumerate(EXAMPLES)])
    assert run("train", "--data", data, "--general", general, "--out", tmp_path / "o", "--topics", "2021,null") == 0
    assert called["train_icft"][0][0].topics == ("2021", "null")


def test_a_group_without_settings_in_yaml_is_empty(called, write, tmp_path):
    data, config = write("mine.jsonl", EXAMPLES), write("c.yaml", "long_term:\noptim:\n  batch_size: 4\n")
    general = write("general.jsonl", [{**example, "id": f"g{i}"} for i, example in enumerate(EXAMPLES)])
    words = ["train", "--data", data, "--general", general, "--out", tmp_path / "o", "--config", config]
    assert run(*words) == 0 and called["train_icft"][0][0] == ICFTConfig.from_dict({"optim.batch_size": 4})


def test_an_interrupted_run_is_not_evaluated(write, tmp_path, capsys):
    (tmp_path / "run.json").write_text("{}")
    assert run("evaluate", tmp_path) == 2 and "this run is not finished" in error_of(capsys)


def test_options_of_the_evidence_study_need_the_suite(tmp_path, capsys):
    assert cli.main(["compare", "--out", str(tmp_path / "out"), "--plan"]) == 2
    assert "--plan: belongs to the evidence study" in capsys.readouterr().err
    assert cli.main(["compare", "--suite", "paper", "--out", str(tmp_path / "out"), "--optim.batch_size", "4"]) == 2
    assert "--optim.batch_size: the arms of --suite paper have settings of their own" in capsys.readouterr().err
    for options, message in (
        (["--suite", "paper", "--methods", "icft"], "--methods: --suite paper compares arms"),
        (["--suite", "paper", "--seeds", "3"], "--seeds: --suite paper compares arms"),
        (["--suite", "paper", "--data", "a.csv"], "--data: --suite paper compares arms on splits of the samples"),
        (["--suite", "paper", "--quick", "--splits", "3"], "--quick: it is study tiny-short on the bundled split"),
        (["--study", "smollm2"], "--study: belongs to the evidence study"),
    ):
        assert cli.main(["compare", "--out", str(tmp_path / "out"), *options]) == 2
        assert message in capsys.readouterr().err
