"""The record of a study: it can be packed and read, belongs to its base, and the bundled one is a complete study."""

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from small_run import FEW, SETTINGS, cut

import icft_lite
from icft_lite.compat import FORMAT
from icft_lite.compat import PRESETS as OLD_PRESETS
from icft_lite.data.samples import sample_bundle
from icft_lite.errors import ICFTError
from icft_lite.experiments.bits import pack_bits, unpack_bits
from icft_lite.experiments.compare import compare
from icft_lite.experiments.study import STUDY, answers_of, base_hash, load_study
from icft_lite.presets import PRESETS
from icft_lite.statistics import paired_bootstrap


def load_script():
    """Return scripts/pack_study.py as a module."""
    path = Path(icft_lite.__file__).parents[1] / "scripts" / "pack_study.py"
    spec = importlib.util.spec_from_file_location("pack_study", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()
METHOD = {name: value for name, value in SETTINGS.items() if not name.startswith("runtime.")}


@pytest.fixture(scope="module")
def bundle():
    few = cut(sample_bundle(), **FEW)
    few.test = few.test.filter(lambda task: task != "response", input_columns="task")
    return few


@pytest.fixture(scope="module")
def compared(bundle, tmp_path_factory):
    """(folder, comparison) of two methods, trained for three steps."""
    folder = tmp_path_factory.mktemp("study")
    return folder, compare(folder, ["icft", "qlora"], [0], {**METHOD, "optim.max_steps": 3}, bundle, progress=False)


@pytest.fixture(scope="module")
def study(bundle, compared):
    path = compared[0] / "study.json"
    script.pack_study(compared[0], path, bundle, note="small")
    return load_study(path)


@pytest.mark.parametrize("n", [0, 1, 8, 13])
def test_bits_are_restored(n):
    bits = np.random.default_rng(0).random(n) < 0.5
    assert (unpack_bits(pack_bits(bits), n) == bits).all()


def test_the_record_has_the_answers_and_scores_of_each_run(bundle, compared, study):
    assert study["current"] and study["note"] == "small" and study["format"] == FORMAT
    assert study["conditions"]["settings"]["adapter"]["rank"] == SETTINGS["adapter.rank"]
    assert study["conditions"]["methods"] == {name: PRESETS[name] for name in ("icft", "qlora")}
    assert list(script.TESTS) == ["general", "medical", "preference"]
    assert [(run["method"], run["seed"]) for run in study["runs"]] == [("icft", 0), ("qlora", 0)]
    for run in study["runs"]:
        report = json.loads((compared[0] / f"{run['method']}-0" / "report.json").read_text())
        for test, (suite, task) in script.TESTS.items():
            topic = study["tests"][test]["topic"]
            means = [run["right"][test][topic == name].mean() for name in np.unique(topic)]
            assert np.mean(means) == pytest.approx(report["scores"]["after"][suite][task]["value"])
    assert len(study["tests"]["medical"]["kind"]) == sum(task == "question" for task in bundle.test["task"][:])


def test_an_analysis_of_the_record_equals_the_comparison(compared, study):
    for test in ("medical", "general"):
        ours, theirs = (answers_of(study, method, test) for method in ("icft", "qlora"))
        again = paired_bootstrap(ours, theirs, study["tests"][test]["topic"], n_resamples=500)
        assert again.difference == pytest.approx(compared[1]["against"]["qlora"][test]["difference"])


def test_runs_that_trained_have_moved_from_the_base(study):
    assert all(run["kl"][name] > 0 for run in study["runs"] for name in ("general", "medical"))


def test_runs_of_another_base_or_with_other_questions_are_refused(bundle, compared, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(compared[0], folder)
    path = folder / "icft-0" / "report.json"
    report = json.loads(path.read_text())
    for topic in report["scores"]["before"]["general"]["qa"]["by_topic"].values():
        topic["value"] = 1 - topic["value"]
    path.write_text(json.dumps(report))
    with pytest.raises(ICFTError, match="another base"):
        script.pack_study(folder, tmp_path / "study.json", bundle)
    shutil.copy(compared[0] / "icft-0" / "report.json", path)
    items = json.loads((folder / "qlora-0" / "items.json").read_text())
    items["medical"]["qa"].popitem()
    (folder / "qlora-0" / "items.json").write_text(json.dumps(items))
    with pytest.raises(ICFTError, match="medical answers belong to other questions"):
        script.pack_study(folder, tmp_path / "study.json", bundle)
    assert not (tmp_path / "study.json").exists()


def test_a_folder_without_a_comparison_is_an_error_in_one_line(tmp_path, capsys):
    assert script.main([str(tmp_path), "--to", str(tmp_path / "study.json")]) == 2
    err = capsys.readouterr().err
    assert "comparison.json: is missing" in err and err.count("\n") == 1


# --- the bundled record


def test_the_bundled_record_belongs_to_the_bundled_base():
    study = load_study()
    assert study["current"], (
        f"study.json was measured on base {study['base']['sha256'][:12]}, the package has "
        f"{base_hash()[:12]}: run the study again (scripts/pack_study.py has the commands)"
    )
    assert STUDY.stat().st_size <= 250_000


def test_the_bundled_record_compares_the_same_seeds_at_equal_tokens_on_the_bundled_tests():
    study, data = load_study(), sample_bundle()
    runs = [(run["method"], run["seed"]) for run in study["runs"]]
    methods, seeds = {method for method, _ in runs}, {seed for _, seed in runs}
    assert sorted(runs) == sorted((method, seed) for method in methods for seed in seeds) and len(seeds) >= 2
    assert {"icft", "qlora"} < methods <= {*PRESETS, *OLD_PRESETS}, "ICFT, plain fine-tuning, and an ablation"
    tokens = [run["tokens"] for run in study["runs"]]
    assert max(tokens) <= 1.02 * min(tokens)
    general, medical = data.general_test, data.test
    tests = dict(general=(general, "question"), medical=(medical, "question"), preference=(medical, "pair"))
    for name, (examples, task) in tests.items():
        chosen = [dict(example) for example in examples if example["task"] == task]
        ids = [example["id"] for example in sorted(chosen, key=lambda example: example["topic"])]
        assert study["tests"][name]["ids"] == hashlib.sha256("\n".join(ids).encode()).hexdigest(), name
