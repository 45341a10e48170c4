"""The sweep around the default settings of chat models: what it runs, and on which data."""

import json
from pathlib import Path

import icft_lite
from icft_lite.config import ICFTConfig
from icft_lite.experiments import compare, sweep
from icft_lite.experiments.paper.analysis import load_record, trained_point
from icft_lite.training import loop


def test_each_run_differs_from_the_defaults_in_one_setting():
    names = [sweep.run_name(*one) for one in sweep.GRID]
    assert len(set(names)) == len(names)
    for method, settings in sweep.GRID:
        default, config = (ICFTConfig.preset(method, {**sweep.SETTINGS, **part}) for part in ({}, settings))
        assert len(settings) <= 1 and (config != default) == bool(settings), (method, settings)


def test_only_validation_data_are_scored(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(loop, "train_icft", lambda config, out, data: given.append((config, out, data)))
    monkeypatch.setattr(compare, "summarize_run", lambda report: {"medical": 0.5})
    found = sweep.sweep_run(tmp_path, "icft", {"optim.learning_rate": 5e-4})
    assert found == dict(method="icft", settings={"optim.learning_rate": 5e-4}, scores={"medical": 0.5})
    ((config, out, data),) = given
    assert config.optim.learning_rate == 5e-4 and out.name == "icft-learning_rate=0.0005"
    assert list(data.test["id"]) == list(data.validation["id"]) and data.general_test is None
    assert data.chat["test"] == data.chat["validation"]


HALF = "-learning_rate=0.0005"


def test_the_page_says_what_the_recorded_runs_show():
    root = Path(icft_lite.__file__).parents[1]
    path = root / "icft_lite" / "experiments" / "results" / "sweep-smollm2.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    found = {sweep.run_name(run["method"], run["settings"]): run["scores"] for run in record["runs"]}
    assert record["settings"] == json.loads(json.dumps(sweep.SETTINGS))
    assert {*found} == {sweep.run_name(*one) for one in sweep.GRID}
    text = " ".join((root / "docs" / "models.md").read_text(encoding="utf-8").split())
    weights = ("icft-consistency_weight=1.0", "icft", "icft-consistency_weight=5.0")
    kl = [f"{found[name]['kl_base_tuned']:.3f}" for name in weights]
    assert "KL falls with the weight of L_consistency: {} at 1, {} at 2.5 and {} at 5.".format(*kl) in text
    icft = {name: scores for name, scores in found.items() if name.startswith("icft")}
    by_retention = sorted(icft, key=lambda name: icft[name]["retention"])
    assert by_retention[:2] == ["icft-temperature=None", "icft-consistency_tokens=all"]
    assert by_retention[-2:] == ["icft-share=0.5", "icft-replay_weight=1.0"]
    assert min(icft, key=lambda name: icft[name]["medical"]) == "icft-share=0.5"
    medical = sorted({round(one["medical"], 2) for one in icft.values()})
    assert f"({medical[1]:.2f} to {medical[-1]:.2f}, and {medical[0]:.2f} with a memory share of 0.5)" in text
    retained = [f"{icft[name]['retention']:.2f}" for name in (*by_retention[:2], *reversed(by_retention[-2:]))]
    assert (
        "lowest retention of ICFT, {}, and L_consistency on prompts too {}. The highest are {}, with".format(
            *retained[:3]
        )
        in text
        and f"and {retained[3]}, with a memory" in text
    )
    halved = [f"{found[name + end]['retention']:.2f}" for name in ("icft", "replay", "qlora") for end in (HALF, "")]
    assert "ICFT {} instead of {}, replay {} instead of {}, plain LoRA {} instead of {}.".format(*halved) in text
    folder = path.parent
    files = [folder / "smollm2-exploratory" / "consistency_and_nll-10.json", folder / "smollm2" / "icft-10.json"]
    tests = [trained_point(load_record(file))["test"] for file in files]
    both, own = ([f"{test[key]:.3f}" for key in ("medical", "retention", "kl")] for test in tests)
    assert "It has a medical score of {} and retains {} at a KL of {};".format(*both) in text
    assert "ICFT with that seed has {}, {} and {}.".format(*own) in text
