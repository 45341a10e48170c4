"""Training on real files: PubMedQA and MedQuAD as published, in the folder that ICFT_REAL_DATA names."""

import json

import pytest

from icft_lite import cli


def train(source, out, *more):
    words = ["train", "--data", source, "--out", out, "--max-steps", 4, "--set", "long_term.self_prompts=32", *more]
    code = cli.main([str(word) for word in words])
    assert code == 0
    return json.loads((out / "report.json").read_text())


def check_run(report, out):
    assert sum(stage["steps"] for stage in report["stages"]) == 4
    assert all(value > 0 for value in report["losses"]["total"])
    assert report["data"]["counts"]["validation"] > 0
    assert (out / "report.md").stat().st_size > 0
    assert (out / "adapter" / "adapter_model.safetensors").stat().st_size > 0


def test_training_on_a_part_of_medquad_and_running_the_command_again(real_data, tmp_path, capsys):
    lines = (real_data / "medquad" / "medquad_nih_sample.jsonl").read_text(encoding="utf-8").splitlines()
    part = tmp_path / "medquad.jsonl"
    part.write_text("\n".join(lines[: len(lines) : 16]) + "\n", encoding="utf-8")
    report = train(part, tmp_path / "run")
    check_run(report, tmp_path / "run")
    reply = report["scores"]["after"]["medical"]["reply"]
    assert reply["metric"] == "token_f1" and 0 <= reply["value"] <= 1 and reply["n"] > 0
    train(part, tmp_path / "run")
    assert "complete" in capsys.readouterr().out


@pytest.mark.slow
def test_medquad_trains(real_data, tmp_path):
    report = train(real_data / "medquad" / "medquad_nih_sample.jsonl", tmp_path / "run")
    check_run(report, tmp_path / "run")
    counts = report["data"]["counts"]
    assert counts["trusted"] + counts["validation"] + counts["test"] == 1594 and counts["trusted"] > 1000


@pytest.mark.slow
def test_pubmedqa_trains_on_weak_labels_and_tests_on_the_published_split(real_data, tmp_path):
    report = train(real_data / "pubmedqa" / "ori_pqal.json", tmp_path / "run")
    check_run(report, tmp_path / "run")
    data = report["data"]
    assert data["counts"]["test"] == 500 and data["counts"]["pool"] + data["counts"]["validation"] == 500
    assert 0 < data["truncated_contexts"] <= data["counts"]["pool"]
    assert data["weak"]["accuracy"] > 0.552, "weak labels are worse than the majority class"
    qa = report["scores"]["after"]["medical"]["qa"]
    assert qa["n"] == 500 and qa["option_chance"] == pytest.approx(1 / 3)
