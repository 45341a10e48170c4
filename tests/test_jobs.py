"""Several runs at a time: each gets its own settings, a failure stops them all, and the results are the same."""

import json
import os
import signal
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import psutil
import pytest
import small_run
from small_run import FEW, SETTINGS, cut, small_bundle

from icft_lite import cli
from icft_lite.command_data import take_data_options
from icft_lite.compat import FORMAT, split_settings
from icft_lite.config import ICFTConfig, RuntimeConfig
from icft_lite.data.samples import sample_bundle
from icft_lite.data.sources import bundle_from_files
from icft_lite.errors import ICFTError
from icft_lite.experiments import jobs
from icft_lite.experiments.compare import compare
from icft_lite.experiments.demo import run_demo
from icft_lite.experiments.jobs import available_cores, config_flags, default_jobs, run_jobs
from icft_lite.experiments.settings import CHAT_DEMO, DEMO, DEMO_QLORA, FULL
from icft_lite.presets import PRESETS
from icft_lite.report_file import read_report
from icft_lite.reporting.figures import comparison_figure
from icft_lite.training.loop import select_data
from icft_lite.training.run_folder import run_identity
from icft_lite.utils.config_parsing import flatten

METHOD = {name: value for name, value in SETTINGS.items() if not name.startswith("runtime.")}
STAND_IN = """
import os, pathlib, sys, time
out, mine = next(pathlib.Path(word[6:]) for word in sys.argv if word.startswith("--out=")), sys.argv[1:]
print("stage 1:  50%|#####     | 1/2", end="\\r", flush=True)
out.mkdir()
if "--set=seed=8" in mine:
    os.kill(os.getpid(), 9)
if "--set=seed=9" in mine:
    sys.exit("icft-lite: data: no training example is left")
other = out.with_name({"one": "two", "two": "one"}.get(out.name, out.name))
deadline = time.time() + 60
while not other.exists():
    if time.time() > deadline:
        sys.exit("alone")
    time.sleep(0.02)
(out / "said").write_text(os.environ["OMP_NUM_THREADS"] + " ".join(mine))
print("done", flush=True)
"""


@pytest.fixture
def stand_in(monkeypatch, tmp_path):
    """A script that replaces `icft-lite train`. Returns the folder for its runs."""
    script = tmp_path / "train.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(jobs, "TRAIN", [sys.executable, str(script)])
    return tmp_path


MANY = {
    "method": "qlora",
    "curriculum.order": "easy_to_hard",
    "adapter.load_in_4bit": False,
    "optim.learning_rate": 3e-4,
    "curriculum.signals": ("ifd", "length"),
    "optim.max_tokens": 123,
    "weak.label_model": "majority_vote",
    "topics": ("anatomy", "organs, all"),
}


def parse(options):
    """Return (config, runtime) of a command line of `icft-lite train`."""
    words = ["train", "--out", "o", *options]
    method, runtime = split_settings(cli.given_settings(cli.build_parser("train"), words))
    return ICFTConfig.from_dict(method), RuntimeConfig.from_dict(runtime)


@pytest.mark.parametrize("settings", [*(dict(method=name, seed=3) for name in PRESETS), MANY, dict(topics=())])
def test_the_command_line_of_a_run_has_its_settings(settings):
    config = ICFTConfig.from_dict(settings)
    assert parse(config_flags(config)) == (config, RuntimeConfig())


@pytest.mark.parametrize("runtime", [RuntimeConfig(), RuntimeConfig(5, 4, False, 0, "float16", 0)])
def test_the_command_line_of_a_run_has_its_runtime_settings(runtime):
    assert parse(config_flags(ICFTConfig(), runtime)) == (ICFTConfig(), runtime)


def test_the_command_line_of_a_run_names_only_what_differs_from_its_preset():
    config = ICFTConfig.preset("gold", {"optim.max_steps": 3})
    assert list(config_flags(config, RuntimeConfig(micro_batches=2))) == [
        "--method=gold",
        "--set=optim.max_steps=3",
        "--set=runtime.micro_batches=2",
    ]


def test_runs_of_a_comparison_read_the_data_that_it_was_given():
    words = ["--data", "a.jsonl", "b.csv", "--general", "samples", "--test-ids", "ids.txt", "--lfs", "mine.py"]
    words += ["--map", "question=Frage gestellt,unused=note", "--answers-from", "1", "--turns=all"]

    def read(command, words):
        words, parser = [command, "--out", "o", *words], cli.build_parser(command)
        return take_data_options(parser.parse_args(words)[command], cli.given_settings(parser, words))

    given = read("compare", words)
    assert (given.data, given.general, given.test_ids) == (["a.jsonl", "b.csv"], ["samples"], "ids.txt")
    assert given.how.columns["question"] == "Frage gestellt" and len(given.how.columns) == 2
    assert (given.how.answers_from, given.how.turns, [path.name for path in given.lfs]) == (1, "all", ["mine.py"])
    assert read("train", given.to_options()) == given
    assert read("compare", ["--data", "a.jsonl"]).to_options() == ["--data=a.jsonl", "--set=turns=last"]


def test_two_runs_at_a_time_share_the_cores(stand_in, capsys):
    configs = {stand_in / "one": ICFTConfig(seed=1), stand_in / "two": ICFTConfig(seed=2)}
    run_jobs(configs, 2, data_options=["--data=a b.csv"])  # each waits until the other begins
    threads = str(max(1, available_cores() // 2))
    assert (stand_in / "one" / "said").read_text().startswith(f"{threads}--out")
    assert (stand_in / "two" / "said").read_text().endswith("--set=seed=2 --data=a b.csv")
    shown = capsys.readouterr()
    assert "one: done" in shown.out and "one stage 1 50%" in shown.err


def test_the_first_failure_is_reported_and_stops_the_others(stand_in):
    begun = time.monotonic()
    configs = {"one": ICFTConfig(), "bad": ICFTConfig(seed=9), "later": ICFTConfig()}
    with pytest.raises(ICFTError, match="bad: data: no training example is left"):
        run_jobs({stand_in / name: config for name, config in configs.items()}, 2, progress=False)
    assert time.monotonic() - begun < 30, "`one` would have waited a minute"
    assert not (stand_in / "later" / "said").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_a_killed_run_is_not_explained_by_its_progress_bar(stand_in):
    with pytest.raises(ICFTError, match="killed by signal 9, perhaps for lack of memory; use fewer --jobs"):
        run_jobs({stand_in / "killed": ICFTConfig(seed=8)}, 1, progress=False)


def test_data_in_memory_is_compared_in_this_process_only(tmp_path):
    with pytest.raises(ICFTError, match="jobs: other processes cannot be given `data`"):
        compare(tmp_path, ["icft"], [0], {"optim.max_steps": 1}, data=small_bundle(), jobs=2)


def test_default_number_of_runs_at_a_time(monkeypatch):
    monkeypatch.setattr(jobs, "available_cores", lambda: 4)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), dict(available=5 * 2**30)))
    assert default_jobs(18, "tiny") == 2 and default_jobs(1, "tiny") == 1, "as many as memory allows"
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("Memory", (), dict(available=99 * 2**30)))
    assert default_jobs(18, "tiny") == 4 and default_jobs(18, "Qwen/Qwen3-0.6B") == 1
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert default_jobs(18, "tiny") == 1


@pytest.mark.slow
def test_a_comparison_is_the_same_with_one_and_with_two_runs_at_a_time(tmp_path, monkeypatch):
    import torch

    bundle = small_bundle()
    monkeypatch.setattr("icft_lite.data.sources.sample_bundle", lambda: bundle)
    monkeypatch.setattr(jobs, "TRAIN", [sys.executable, small_run.__file__, "train"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(jobs, "available_cores", lambda: 2)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        settings = {**METHOD, "optim.max_steps": 6}
        options = dict(progress=False, runtime=RuntimeConfig(save_steps=2))
        found = [
            compare(tmp_path / name, ["icft", "qlora"], [0], settings, jobs=n, **options)
            for name, n in (("two", 2), ("one", 1))
        ]
    finally:
        torch.set_num_threads(threads)
    for one in found:
        for method in one["methods"].values():
            for name in ("seconds", "train_seconds"):
                method.pop(name), method["runs"][0].pop(name)
    assert json.dumps(found[0], sort_keys=True) == json.dumps(found[1], sort_keys=True)
    folders = [tmp_path / name / "icft-0" for name in ("two", "one")]
    weights = [(folder / "adapter" / "adapter_model.safetensors").read_bytes() for folder in folders]
    assert weights[0] == weights[1]
    assert all(read_report(folder)["runtime"]["save_steps"] == 2 for folder in folders)


@pytest.fixture
def planned(monkeypatch):
    """planned(start) → {folder: config} of the runs that `start`, a call of `compare`, would train."""

    def make(start):
        found = {}
        monkeypatch.setattr(
            "icft_lite.experiments.compare.run_jobs", lambda configs, *rest: found.update(configs) or sys.exit("enough")
        )
        with pytest.raises(SystemExit, match="enough"):
            start()
        return found

    return make


def test_common_settings_do_not_override_a_preset(tmp_path, planned):
    settings = {"loss.consistency_weight": "0.3", "optim": {"batch_size": "4"}}
    found = planned(lambda: compare(tmp_path, ["icft", "replay"], [0], settings, progress=False, jobs=2))
    icft, replay = found[tmp_path / "icft-0"], found[tmp_path / "replay-0"]
    assert (icft.loss.consistency_weight, icft.optim.batch_size) == (0.3, 4)
    assert (replay.loss.consistency_weight, replay.loss.replay_weight, replay.optim.batch_size) == (0.0, 1.0, 4)
    assert (icft.method, replay.method) == ("icft", "replay")


def test_a_comparison_on_the_samples_has_the_settings_of_the_demo_where_none_are_given(tmp_path, planned):
    def of_icft(settings):
        return planned(lambda: compare(tmp_path, ["icft"], [0], settings, progress=False, jobs=2))[tmp_path / "icft-0"]

    assert of_icft(None) == ICFTConfig.from_dict(DEMO)
    settings = {"topics": "", "optim.max_tokens": "9"}
    assert of_icft(settings) == ICFTConfig.from_dict({**DEMO, "topics": (), "optim.max_tokens": 9})
    with pytest.warns(UserWarning, match="tokens → optim.max_tokens"):
        assert of_icft(dict(topics="", tokens="9")) == of_icft(settings)


def test_the_help_of_compare_says_how_many_tokens_a_run_has(capsys):
    with pytest.raises(SystemExit):
        cli.main(["compare", "--help"])
    tokens = [f"{settings['optim.max_tokens']:,}" for settings in (DEMO, CHAT_DEMO)]
    assert "{} for `tiny`, {} for other models".format(*tokens) in " ".join(capsys.readouterr().out.split())


def test_an_unknown_method_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(ICFTError, match="methods: 'magic' is unknown; choose among icft, qlora"):
        compare(tmp_path / "c", ["icft", "magic"], [0])
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize("number", [1, 2], ids=["in this process", "in other processes"])
def test_folders_of_other_runs_are_refused_before_anything_is_trained(tmp_path, number):
    settings = {"optim.max_tokens": "9"}
    other = tmp_path / "qlora-1"
    other.mkdir()
    (other / "notes.txt").touch()
    with pytest.raises(ICFTError, match="qlora-1: is not empty and holds no run; choose another --out"):
        compare(tmp_path, ["icft", "qlora"], [0, 1], settings, progress=False, jobs=number)
    data = select_data(ICFTConfig.from_dict({**DEMO, **settings}), bundle_from_files(["samples"], ["samples"]))
    identity = run_identity(ICFTConfig.from_dict({**DEMO, **settings, "seed": 1}), data)  # of another method
    (other / "run.json").write_text(json.dumps(dict(format=FORMAT, **identity)))
    (other / "report.json").write_text("{}")
    with pytest.raises(ICFTError, match="qlora-1: holds another run .other config: .*method"):
        compare(tmp_path, ["icft", "qlora"], [0, 1], settings, progress=False, jobs=number)
    assert [path.name for path in tmp_path.iterdir()] == ["qlora-1"]


def test_the_long_demo_differs_in_topics_tokens_and_the_rate_of_qlora(tmp_path, planned):
    short, long = (
        planned(lambda full=full: run_demo(tmp_path, full=full, jobs=2, progress=False)) for full in (False, True)
    )
    for method, differs in (("icft", set()), ("qlora", {"optim.learning_rate"})):
        one, other = (flatten(configs[tmp_path / f"{method}-0"].to_dict()) for configs in (short, long))
        assert {name for name in one if one[name] != other[name]} == {"topics", "optim.max_tokens"} | differs
    assert FULL.keys() == DEMO.keys() and DEMO_QLORA.keys() == {"optim.learning_rate"}
    assert long[tmp_path / "qlora-0"].curriculum.order == "random", "which uses no pacing"


@pytest.mark.parametrize("quick, jobs, expected", [(True, None, 1), (True, 2, 2), (False, None, None)])
def test_the_quick_demo_has_one_run_at_a_time(tmp_path, monkeypatch, quick, jobs, expected):
    monkeypatch.setattr("icft_lite.modeling.smollm2.smollm2_folder", lambda: tmp_path)
    monkeypatch.setattr("icft_lite.experiments.demo.compare", lambda *_, jobs, **__: sys.exit(f"jobs: {jobs}"))
    with pytest.raises(SystemExit, match=f"jobs: {expected}"):
        run_demo(tmp_path, jobs=jobs, model="smollm2", quick=quick)


def test_the_long_demo_of_smollm2_adds_a_low_rate_and_self_generated_prompts(tmp_path, planned, monkeypatch):
    monkeypatch.setattr("icft_lite.modeling.smollm2.smollm2_folder", lambda: tmp_path)
    runs = planned(lambda: run_demo(tmp_path, 2, full=True, jobs=2, progress=False, model="smollm2"))
    methods = {"icft", "qlora", "replay", "low_rate", "self_prompts"}
    assert set(runs) == {tmp_path / f"{method}-{seed}" for method in methods for seed in (0, 1)}
    one, other = (flatten(runs[tmp_path / name].to_dict()) for name in ("qlora-1", "low_rate-1"))
    assert {name for name in one if one[name] != other[name]} == {"optim.learning_rate"}
    one, other = (flatten(runs[tmp_path / name].to_dict()) for name in ("icft-0", "self_prompts-0"))
    assert {name for name in one if one[name] != other[name]} == {
        "method",
        "limits.memory",
        "long_term.self_prompts",
    }


def test_a_comparison_needs_a_medical_test_and_something_to_forget(tmp_path):
    settings, data = {"optim.max_steps": 1}, small_bundle()
    for lacking, message in (
        (replace(data, test=None), "no medical test example"),
        (replace(data, test=data.test.select([])), "no medical test example"),
        (replace(data, general_test=None), "nothing measures what is forgotten; give more data"),
        (replace(data, pool_gold={}), "methods: gold: needs the answers of all examples; leave it out"),
    ):
        with pytest.raises(ICFTError, match=message):
            compare(tmp_path / "c", ["icft", "gold"], [0], settings, data=lacking, progress=False)
    with pytest.raises(ICFTError, match="optim.num_epochs: methods are compared at equal tokens"):
        compare(tmp_path / "c", ["icft"], [0], {"optim.num_epochs": 1}, data=data, progress=False)
    assert not list(tmp_path.iterdir())


def test_methods_are_compared_by_replies_where_there_are_no_questions(tmp_path, capsys):
    samples = sample_bundle()
    few = cut(samples, **FEW)
    replies = samples.test.filter(lambda task: task == "response", input_columns="task").select(range(4))
    data = replace(few, test=replies, pool=None)
    methods, settings = ["icft", "qlora", "gold"], {**METHOD, "optim.max_steps": 2}
    found = compare(tmp_path, methods, [0], settings, data=data, progress=False)
    assert found["notes"] == ["There are no unlabelled examples, so that these methods are the same as icft: gold."]
    assert found["against"]["gold"]["replies"]["difference"] == 0
    items = [json.loads((tmp_path / f"{name}-0" / "items.json").read_text()) for name in ("icft", "qlora")]
    scores = [np.array(list(one["medical"]["reply"].values())) for one in items]
    assert found["methods"]["icft"]["medical"] is None and len(scores[0]) == 4
    assert found["methods"]["icft"]["reply"]["mean"] == pytest.approx(scores[0].mean())
    assert found["against"]["qlora"].keys() == {"replies", "general"}
    assert found["against"]["qlora"]["replies"]["difference"] == pytest.approx((scores[0] - scores[1]).mean())
    assert found["num_questions"]["replies"] == 4 and "medical" not in found["num_questions"]
    assert found["base"]["reply"] is not None
    text = (tmp_path / "comparison.md").read_text(encoding="utf-8")
    assert "| method | replies | retention | general | tokens | seconds |" in text
    assert "| plain QLoRA, replies | 4 |" in text and "| yes |" not in text, "four examples show nothing"
    figure = comparison_figure(found)
    assert figure.axes[0].get_ylabel() == "replies, test score (0–1)" and figure.axes[0].collections


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to catch")
def test_runs_are_stopped_when_the_comparison_is_terminated(monkeypatch, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import os, sys, time\n"
        "with open(sys.argv[1].removeprefix('--out='), 'w') as file: file.write(str(os.getpid()))\n"
        "time.sleep(60)\n"
    )
    monkeypatch.setattr(jobs, "TRAIN", [sys.executable, str(script)])
    started = tmp_path / "one"

    def terminate():
        while not (started.exists() and started.read_text()):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate, daemon=True).start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        run_jobs({started: ICFTConfig()}, 1, progress=False)
    assert not psutil.pid_exists(int(started.read_text())) and signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "x/other"}, "--model x/other: the demo has settings for tiny and smollm2"),
        ({"model": "smollm2", "full": True, "quick": True}, "--quick, --full: one excludes the other"),
        ({"quick": True}, "--quick: only the demo of smollm2"),
    ],
)
def test_the_demo_refuses_what_it_has_no_settings_for(tmp_path, options, message):
    with pytest.raises(ICFTError, match=message):
        run_demo(tmp_path / "d", **options)
    assert not (tmp_path / "d").exists()
