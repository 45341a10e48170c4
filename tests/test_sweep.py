"""The sweep around the default settings of chat models: what it runs, and on which data."""

from icft_lite.config import ICFTConfig
from icft_lite.experiments import compare, sweep
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
