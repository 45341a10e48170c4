"""The evidence study: its rules on cases with a known answer, its records, and a small run from end to end."""

import importlib.util
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small_run import SETTINGS, cut

from icft_lite.data.chat_suite import chat_suite
from icft_lite.data.samples import sample_bundle
from icft_lite.data.sources import bundle_from_files
from icft_lite.data.tables import to_dataset
from icft_lite.errors import ICFTError
from icft_lite.experiments.bits import pack_bits
from icft_lite.experiments.paper import analysis as analysis_module
from icft_lite.experiments.paper import arms as arms_module
from icft_lite.experiments.paper import runner as runner_module
from icft_lite.experiments.paper import tables as tables_module
from icft_lite.experiments.paper.analysis import (
    answers,
    best_baseline,
    choose_point,
    claim_medical,
    claim_preference,
    claim_retention,
    equal_retention_differences,
    load_records,
    matched_retention,
    medical_at,
    retention_at,
    trained_point,
)
from icft_lite.experiments.paper.arms import ARMS, QUICK_ARMS, with_benchmark_answers
from icft_lite.experiments.paper.curve import scaled
from icft_lite.experiments.paper.figures import kl_figure, plane_figure
from icft_lite.experiments.paper.further_claims import (
    equal_correctness_table,
    errors_table,
    generalization_table,
    length_rules,
    preference_table,
    replies_table,
)
from icft_lite.experiments.paper.labels import MIN_VOTES, labels_figure, lf_accuracies
from icft_lite.experiments.paper.questions import medical_difference, retention_difference
from icft_lite.experiments.paper.replies import ERROR_KINDS, diversity, error_kind
from icft_lite.experiments.paper.runner import (
    Run,
    counted_tokens,
    definition,
    load,
    planned_runs,
    run_one,
)
from icft_lite.experiments.paper.single_lf import best_single_lf
from icft_lite.experiments.paper.studies import STUDIES, Study, half_of_suite
from icft_lite.experiments.paper.suite import missing_runs, run_suite, study_tables, write_study
from icft_lite.experiments.paper.tables import (
    ablation_table,
    claims_table,
    equal_seconds_table,
    interval_text,
    main_table,
    matched_table,
)
from icft_lite.statistics import mean_p_value
from icft_lite.utils.config_parsing import flatten
from icft_lite.weak.functions import apply_lfs
from icft_lite.weak.lfs.samples import sample_lfs


def point(alpha, medical, retention, validation=None, **test):
    """Return an entry of a curve; validation: (medical, retention), those of the test by default."""
    of_validation = validation or (medical, retention)
    return dict(
        alpha=alpha,
        validation=dict(zip(("medical", "retention"), of_validation)),
        test=dict(medical=medical, retention=retention, kl=0.1, **test),
    )


def record(*points, arm="icft", split=1, **facts):
    """Return a record with a curve."""
    cost = dict(trained=10, with_gradient=12, forward_only=5, generated=1, seconds=2.0)
    written = dict(errors={kind: int(kind == "right") for kind in ERROR_KINDS})
    usual = dict(arm=arm, split=split, settings={}, cost=cost, questions={}, written=written)
    return {**usual, "curve": list(points), **facts}


# --- the rule for α


def test_the_rule_takes_the_best_medical_score_among_points_that_retain_enough_on_validation():
    one = record(
        point(1.0, 0.9, 0.99, validation=(0.9, 0.5)),
        point(0.8, 0.8, 0.10, validation=(0.7, 0.96)),
        point(0.5, 0.6, 0.99, validation=(0.6, 0.99)),
    )
    assert choose_point(one)["alpha"] == 0.8, "test retention must not matter"
    assert choose_point(one, min_retention=0.4)["alpha"] == 1.0


def test_without_such_a_point_the_rule_takes_the_highest_retention_and_ties_go_to_the_larger_alpha():
    assert choose_point(record(point(1.0, 0.9, 0.2), point(0.5, 0.4, 0.8)))["alpha"] == 0.5
    assert choose_point(record(point(1.0, 0.4, 0.97), point(0.5, 0.4, 0.99)))["alpha"] == 1.0
    assert choose_point(record(point(1.0, 0.9, 0.8), point(0.5, 0.4, 0.8)))["alpha"] == 1.0


def test_retention_at_a_medical_score_is_interpolated_from_the_base_on():
    base = record(point(0.0, 0.0, 1.0), arm="base")
    one = record(point(1.0, 0.8, 0.5), point(0.5, 0.4, 0.9))
    assert retention_at(one, base, 0.6) == pytest.approx(0.7)
    assert retention_at(one, base, 0.2) == pytest.approx(0.95), "between the base and the smallest α"
    assert math.isnan(retention_at(one, base, 0.9)), "a score that the curve does not reach"
    bent = record(point(1.0, 0.3, 0.2), point(0.5, 0.6, 0.6))
    assert retention_at(bent, base, 0.3) == pytest.approx(0.8), "of two crossings, the one with the larger retention"


def test_medicine_at_a_retention_is_the_best_score_with_at_least_that_retention():
    base = record(point(0.0, 0.2, 1.0), arm="base")
    curve = record(point(1.0, 0.8, 0.5), point(0.5, 0.6, 0.9))
    assert medical_at(curve, base, 0.9) == pytest.approx(0.6) and medical_at(curve, base, 0.7) == pytest.approx(0.7)
    assert medical_at(curve, base, 0.3) == pytest.approx(0.8), "more is not learned by forgetting more"
    assert medical_at(curve, base, 1.0) == pytest.approx(0.2) and math.isnan(medical_at(curve, base, 1.1))
    falling = record(point(1.0, 0.5, 0.95), point(0.5, 0.6, 0.9))  # retention is not monotone in α
    assert medical_at(falling, base, 0.92) == pytest.approx(0.56)
    rival = record(point(1.0, 0.5, 0.9), arm="replay_25")
    records = {"icft": {1: curve}, "base": {1: base}, "replay_25": {1: rival}}
    assert equal_retention_differences(records, "replay_25") == pytest.approx([0.1])


def test_matched_retention_is_read_off_each_curve_and_missing_where_a_method_learned_less():
    def of(arm, *points):
        return {0: record(*points, arm=arm, split=0)}

    records = {
        "base": of("base", point(0.0, 0.1, 1.0)),
        "plain": of("plain", point(1.0, 0.9, 0.0)),
        "icft": of("icft", point(1.0, 0.7, 0.9)),
    }
    assert matched_retention(records, "icft", 0.5, [0]) == pytest.approx([1 - 0.1 * 0.4 / 0.6])
    assert matched_retention(records, "plain", 0.5, [0]) == pytest.approx([0.5])
    assert math.isnan(matched_retention(records, "icft", 0.9, [0])[0])
    rows = {row[0]: row[1:] for row in matched_table(records).rows}
    assert rows["ICFT"][-1] == "–" and rows["ICFT"][1] == "0.933"
    assert "base, not fine-tuned" not in rows


# --- claims


def study(icft, replay, plain=0.9):
    """Return records of three splits: medical scores at retention 0.96, and the base."""
    arms = {"base": 0.0, "plain": plain, "replay_25": replay, "icft": icft}
    shift = (-0.01, 0.0, 0.01)
    return {
        arm: {
            split: record(
                point(1.0, medical + shift[split], 0.96 if arm != "plain" else 0.0),
                *([point(0.5, medical / 2, 0.98)] if arm != "base" else []),
                arm=arm,
                split=split,
            )
            for split in range(3)
        }
        for arm, medical in arms.items()
    }


def test_claim_a_compares_with_the_baseline_that_validation_names():
    records = study(icft=0.8, replay=0.6)
    assert best_baseline(records) == "replay_25", "plain fine-tuning retains nothing at α = 1 and 0.45 at α = 0.5"
    claim = claim_medical(records)
    assert claim.supported and claim.interval.mean == pytest.approx(0.2)
    assert not claim_medical(study(icft=0.5, replay=0.6)).supported


def test_claim_b_needs_curves_that_reach_the_matched_score():
    records = study(icft=0.85, replay=0.7, plain=0.7)
    claim = claim_retention(records)
    assert claim.interval.mean > 0
    assert not claim_retention(study(icft=0.5, replay=0.7, plain=0.9)).supported, "0.81 is not reached"


def test_an_arm_that_lacks_a_split_is_no_rival():
    records = study(icft=0.8, replay=0.6)
    records["dft"] = {0: {**study(icft=0.8, replay=0.9)["replay_25"][0], "arm": "dft"}}
    assert best_baseline(records) == "replay_25" and claim_medical(records).supported


def test_claim_c_pools_pairs_over_splits():
    def with_pairs(arm, split, right):
        one = record(point(1.0, 0.5, 1.0, right={"pairs": pack_bits(np.array(right))}), arm=arm, split=split)
        return {**one, "questions": {"pairs": [["safety", "rule", 2], ["relevance", "rule", 2]]}}

    records = {
        "icft": {s: with_pairs("icft", s, [True, True, True, False]) for s in range(3)},
        "plain": {s: with_pairs("plain", s, [True, False, True, False]) for s in range(3)},
    }
    claim = claim_preference(records)
    assert "12 pairs" in claim.text and claim.interval.mean == pytest.approx(0.25)
    assert claim.interval.low > claim.bound and not claim.supported, "500 pairs were registered"
    assert claims_table([claim], records).rows[0][-1] == "not judged: fewer than 500 pairs"
    right, topics = answers(records["icft"][0], trained_point(records["icft"][0]), "pairs")
    assert right.tolist() == [True, True, True, False] and topics.tolist() == ["safety"] * 2 + ["relevance"] * 2


def test_ablations_and_arms_with_more_tokens_are_no_baselines():
    records = study(icft=0.8, replay=0.6)
    ablation = next(arm.name for arm in ARMS if arm.ablates)
    records |= {ablation: records["icft"], "joint": records["icft"]}
    assert best_baseline(records) == "replay_25"


# --- tables


def test_the_main_table_has_a_row_for_each_arm_and_for_a_plain_adapter_scaled_to_half():
    records = study(icft=0.8, replay=0.6)
    rows = {row[0]: row for row in main_table(records, "trained").rows}
    half = rows["plain QLoRA, half of its change"]
    assert half[2] == "0.5" and half[3].startswith("0.450")
    assert [row[0] for row in main_table(records).rows][:2] == ["base, not fine-tuned", "plain QLoRA"]
    assert interval_text([0.5]) == "0.500" and interval_text([None]) == "–"


def test_ablations_are_differences_over_common_splits_with_holms_correction():
    records = study(icft=0.8, replay=0.6)
    name = next(arm.name for arm in ARMS if arm.ablates)
    records[name] = study(icft=0.5, replay=0.6)["icft"]
    (row,) = [row for row in ablation_table(records).rows if row[0] == next(a.label for a in ARMS if a.name == name)]
    assert row[2].startswith("+0.300") and row[-1] == pytest.approx(0.0, abs=1e-6)


def test_the_report_and_its_figures_are_written(tmp_path):
    records = study(icft=0.8, replay=0.6)
    write_study(records, study_tables(records, "tiny"), tmp_path / "tiny", "tiny")
    text = (tmp_path / "tiny.md").read_text()
    for table in study_tables(records, "tiny"):
        assert table.title in text
    assert (tmp_path / "tiny-plane.png").stat().st_size > 10_000


def test_the_interval_of_an_ablation_is_corrected_for_shared_training_data():
    """Nadeau and Bengio: the variance of the mean, s² / n, becomes s²·(1 / n + n_test / n_train)."""
    records, other = study(icft=0.8, replay=0.6), study(icft=0.5, replay=0.6)["icft"]
    name = next(arm.name for arm in ARMS if arm.ablates)
    for split, one in other.items():
        one["curve"][0]["test"]["medical"] += 0.1 * (split % 3)
    records[name] = other
    table = ablation_table(records, test_per_train=0.3)
    ends = [float(end) for end in table.rows[0][table.header.index("medical, corrected")].split(" to ")]
    mean, low, high = (float(text.strip("()")) for text in table.rows[0][2].replace(" to ", " ").split())
    assert np.mean(ends) == pytest.approx(mean, abs=2e-3)
    n = len(records["icft"])
    assert np.ptp(ends) / (high - low) == pytest.approx(math.sqrt(1 + 0.3 * n), abs=0.02)
    differences = np.subtract(*analysis_module.ablation_scores(records, name, "medical"))
    assert table.rows[0][-1] == pytest.approx(mean_p_value(differences, 0.3))
    assert STUDIES["tiny"].test_per_train() == pytest.approx(0.23, abs=0.01) and not STUDIES["smollm2"].test_per_train()


def test_figures_give_every_method_a_style_of_its_own_and_leave_ablations_out():
    one = study(icft=0.8, replay=0.6)["icft"]
    arms = [arm for arm in ARMS if arm.runs_on("tiny-short")]
    records = {arm.name: {split: {**run, "arm": arm.name} for split, run in one.items()} for arm in arms}
    for figure in (plane_figure(records, "x"), kl_figure(records, "x")):
        shown = figure.axes[0].get_legend_handles_labels()
        labels = {arm.label for arm in arms if not arm.ablates and arm.name != "base"}
        assert labels <= {*shown[1]} and not {arm.label for arm in arms if arm.ablates} & {*shown[1]}
        lines = [handle[0] if isinstance(handle, tuple) else handle for handle in shown[0]]
        styles = {(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in lines}
        assert len(styles) == len(lines) > 12
    enlarged = plane_figure(records, "x").axes
    assert len(enlarged) == 2 and labels <= {*enlarged[1].get_legend_handles_labels()[1]}, "all of them are the best"
    assert len(plane_figure(study(icft=0.8, replay=0.6), "x").axes) == 1


def test_an_exploratory_arm_is_marked_and_no_rival_of_a_registered_claim(monkeypatch):
    late = replace(next(arm for arm in ARMS if arm.name == "dft"), name="late", exploratory=("tiny",))
    for module in (analysis_module, tables_module):
        monkeypatch.setattr(module, "ARMS", (*ARMS, late))
    records = study(icft=0.8, replay=0.6)
    records["late"] = {split: {**one, "arm": "late"} for split, one in study(icft=0.8, replay=0.9)["replay_25"].items()}
    for name, marked in (("tiny", True), ("tiny-short", False)):
        here = {arm: {split: {**one, "study": name} for split, one in runs.items()} for arm, runs in records.items()}
        assert best_baseline(here) == ("replay_25" if marked else "late")
        assert (f"{late.label} (exploratory)" in [row[0] for row in main_table(here).rows]) is marked


def test_a_chat_study_says_lora_and_shows_the_replies_and_judges_no_preferences(tmp_path):
    chat = dict(free=0.5, instructions=0.4, kl_back=0.1, nll=0.7, words=23.0, intrusion=0.0, **answers_to_the_suite())
    records = {
        arm: {
            split: record(
                point(1.0, medical, retention, **chat),
                arm=arm,
                split=split,
                study="smollm2",
                settings={"model": "smollm2"},
                questions={"pairs": [], "medical": [["terminology", "rule", 4]]},
            )
            for split in (10, 11, 12)
        }
        for arm, medical, retention in (
            ("base", 0.5, 1),
            ("plain", 0.9, 0.3),
            ("replay_25", 0.7, 0.9),
            ("kl_memory", 0.7, 1),
            ("icft", 0.8, 1),
        )
    }
    tables = {table.title: table for table in study_tables(records, "smollm2")}
    assert "preference" not in tables["As trained"].header and "Preferences" not in tables
    assert [row[0] for row in tables["Registered claims"].rows] == [
        "medical score at the chosen α",
        "retention at a matched medical score",
    ]
    assert "Means over seeds" in tables["As trained"].note, "all runs have the same questions"
    rows = {row[0]: row for row in tables["Replies to the chat suite, as trained"].rows}
    assert rows["plain LoRA"][1].startswith("0.500") and not any("QLoRA" in label for label in rows)


def answers_to_the_suite(wrong=0, medical=(True, True, True, False)):
    """Return scores of test items, of which the first `wrong` questions and instructions are wrong."""
    items = {}
    for is_free in (True, False):
        some = [item for item in chat_suite("test") if bool(item.accepted) == is_free][:40]
        items |= {item.id: float(i >= wrong) for i, item in enumerate(some)}
    return dict(items=items, right={"medical": pack_bits(np.array(medical))})


def test_over_questions_the_seeds_are_averaged_and_the_base_is_what_is_divided_by():
    def runs(arm, *scores):
        return {
            10 + i: record(point(1.0, 0.5, 0.9, **one), arm=arm, split=10 + i, questions={"medical": ROWS})
            for i, one in enumerate(scores)
        }

    ROWS = [["drug_class", "rule", 2], ["terminology", "rule", 6]]
    right = (True,) * 8
    half = (True, False) + (True,) * 6
    records = {
        "base": runs("base", answers_to_the_suite(20, right)),
        "icft": runs("icft", answers_to_the_suite(24, half), answers_to_the_suite(28, right)),
        "plain": runs("plain", answers_to_the_suite(30, right), answers_to_the_suite(30, right)),
    }
    medical = medical_difference(records, "plain", trained_point)
    assert medical.mean == pytest.approx(-0.125), "one of four answers on one of two topics"
    assert medical.low <= -0.125 <= medical.high <= 0
    retention = retention_difference(records, "plain", trained_point)
    assert retention.mean == pytest.approx((14 - 10) / 20) and 0 < retention.low < 0.2 < retention.high
    same = retention_difference({**records, "plain": records["icft"]}, "plain", trained_point)
    assert same == pytest.approx((0, 0, 0))


# --- records and runs


def test_records_are_read_by_arm_and_split_and_a_broken_one_is_named(tmp_path):
    for split in (1, 2):
        (tmp_path / f"icft-{split}.json").write_text(json.dumps(record(point(1.0, 1, 1), split=split)))
    assert set(load_records(tmp_path)["icft"]) == {1, 2} and set(load_records(tmp_path, [2])["icft"]) == {2}
    (tmp_path / "plain-1.json").write_text("{")
    with pytest.raises(ICFTError, match=r"plain-1\.json: cannot be read"):
        load_records(tmp_path)


def test_only_missing_runs_are_planned_arm_by_arm(tmp_path):
    arms = [arm for arm in ARMS if arm.name in ("plain", "icft")]
    done = Run(STUDIES["tiny"], arms[0], 11)
    (tmp_path / "plain-11.json").write_text(json.dumps({"arm": "plain", "split": 11, **definition(done)}))
    runs = planned_runs(STUDIES["tiny"], arms, (11, 12), tmp_path)
    assert [run.name for run in runs] == ["plain-12", "icft-11", "icft-12"]
    changed = replace(arms[0], settings={**arms[0].settings, "method": "replay"})
    with pytest.raises(ICFTError, match=r"plain-11.json: not of the arm as it is now \(settings\)"):
        planned_runs(STUDIES["tiny"], [changed], (11,), tmp_path)


def test_the_committed_records_are_of_the_arms_as_they_are():
    for name, study in STUDIES.items():
        records = Path(arms_module.__file__).parents[1] / "results" / name
        for record in load_records(records, study.confirmation).values():
            for split, run in record.items():
                arm = next(arm for arm in ARMS if arm.name == run["arm"])
                expected = definition(Run(study, arm, split))
                assert {key: run[key] for key in expected} == expected, (name, run["arm"], split)


def test_arms_have_different_names_and_valid_settings_and_hooks_that_exist():
    assert len({arm.name for arm in ARMS}) == len(ARMS) and {*QUICK_ARMS} <= {arm.name for arm in ARMS}
    for arm in ARMS:
        for name, one in STUDIES.items():
            if arm.runs_on(name):
                assert one.config(arm, 0).method == arm.settings["method"]
        load(arm.trainer)
        for name in arm.callbacks:
            load(name)


def test_on_smollm2_distillation_on_memory_is_icft_in_random_order():
    """The records of seed 10 were identical. Hard labels of questions have no L_task; the only teacher is the base."""
    by_name, study = {arm.name: arm for arm in ARMS}, STUDIES["smollm2"]
    distilled, icft = (flatten(study.config(by_name[name], 10).to_dict()) for name in ("kl_memory", "icft"))
    different = {name for name in {*distilled, *icft} if distilled.get(name) != icft.get(name)}
    assert different == {"method", "loss.task_weight", "curriculum.order"} and distilled["curriculum.order"] == "random"
    assert not icft["weak.soft_labels"] and "smollm2" not in by_name["random"].studies


def test_a_run_writes_its_record_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(runner_module, "run_one", lambda run, folder: {"curve": [], "folder": str(folder)})
    run = runner_module.Run(STUDIES["tiny"], ARMS[0], 11)
    runner_module.write_record(run, tmp_path, tmp_path / "work", {"commit": "abc"})
    record = analysis_module.load_record(tmp_path / "base-11.json")
    assert (record["study"], record["arm"], record["split"], record["commit"]) == ("tiny", "base", 11, "abc")
    assert record["folder"] == str(tmp_path / "work" / "base-11")


def test_unknown_names_are_refused(tmp_path):
    with pytest.raises(ICFTError, match="'huge' is unknown; choose among tiny"):
        run_suite(tmp_path, "huge")
    with pytest.raises(ICFTError, match="'magic' is not in study tiny"):
        run_suite(tmp_path, arm_names=["magic"])
    for study, split, known in (("tiny", -1, "0 or more"), ("smollm2", 20, "0 to 9, or 10 to 19")):
        with pytest.raises(ICFTError, match=f"study {study} has no split {split}; give {known}"):
            run_suite(tmp_path, study, splits=[11, split, split])


def test_the_plan_runs_nothing(tmp_path, capsys):
    run_suite(tmp_path, quick=True, plan=True)
    out = capsys.readouterr().out
    assert "5 runs" in out and "icft-0" in out and not any(tmp_path.iterdir())


def test_the_halves_of_the_chat_suite_share_no_item_and_have_the_same_topics():
    data = bundle_from_files(["samples"], ["chat"])
    first, second = (half_of_suite(data, half).chat["test"] for half in (0, 1))
    assert not {item.id for item in first} & {item.id for item in second}
    assert len(first) + len(second) == len(data.chat["test"])
    assert {item.topic for item in first} == {item.topic for item in second}


def test_benchmark_answers_take_the_place_of_the_prompts_that_the_base_replies_to():
    data = bundle_from_files(["samples"], ["chat"])
    changed = with_benchmark_answers(data)
    assert data.chat["memory"] and not changed.chat["memory"]
    assert changed.chat["test"] == data.chat["test"]
    answers = [example["responses"][example["label"]] for example in changed.general_memory]
    assert len(answers) > 1000 and all(answers)
    held_out = {example["prompt"] for example in data.general_test}
    assert not held_out & {example["prompt"] for example in changed.general_memory}


def test_tokens_of_forward_passes_are_counted_by_kind():
    embedding = torch.nn.Embedding(10, 4)
    with counted_tokens() as counts:
        embedding(torch.zeros(2, 5, dtype=torch.long))
        with torch.no_grad():
            embedding(torch.zeros(3, 4, dtype=torch.long))
            embedding(torch.zeros(6, 1, dtype=torch.long))
    embedding(torch.zeros(9, 9, dtype=torch.long))
    assert counts == dict(with_gradient=10, forward_only=12, generated=6)


def test_a_change_is_scaled_inside_the_block_only():
    tensors = [torch.randn(2, 3), torch.randn(4, 2)]
    change = tensors[1] @ tensors[0]
    with scaled(tensors, 0.25):
        torch.testing.assert_close(tensors[1] @ tensors[0], 0.25 * change)
    torch.testing.assert_close(tensors[1] @ tensors[0], change, rtol=0, atol=0)


@dataclass(frozen=True)
class SmallStudy(Study):
    """A study with few examples."""

    def data(self, split):
        """Return two or three examples of each topic."""
        few = dict(trusted=2, pool=2, validation=2, test=2, general_memory=2, general_validation=3, general_test=2)
        return cut(sample_bundle(), **few)


def small_arm(name):
    """Return an arm of the study, in a run of seconds."""
    (arm,) = [arm for arm in ARMS if arm.name == name]
    return replace(arm, settings={**arm.settings, "adapter.load_in_4bit": False})


@pytest.mark.parametrize("name", ["icft", "ewc", "osf"])
def test_a_run_gives_a_record_that_scores_the_base_at_alpha_0(tmp_path, name):
    settings = {name: value for name, value in SETTINGS.items() if not name.startswith("runtime")}
    small = SmallStudy("small", {**settings, "optim.max_steps": 6, "optim.max_tokens": 9000}, (1.0, 0.0), 1.0)
    found = run_one(Run(small, small_arm(name), 0), tmp_path / "run")
    json.dumps(found)
    trained, base = found["curve"]
    assert base["test"]["retention"] == 1.0 and base["test"]["kl"] == pytest.approx(0, abs=1e-6)
    assert trained["test"]["kl"] > base["test"]["kl"]
    right, topics = answers({**found, "questions": found["questions"]}, base, "medical")
    by_topic = {topic: right[topics == topic].mean() for topic in set(topics)}
    assert by_topic == pytest.approx(base["test"]["by_topic"])
    assert found["cost"]["with_gradient"] > 0 < found["cost"]["trained"] and found["cost"]["forward_only"] > 0
    assert not (tmp_path / "run").exists()
    assert sum(found["written"]["errors"].values()) > 0 and 0 <= found["calibration"] <= 1


def test_nothing_that_is_measured_of_the_base_depends_on_the_seed(tmp_path):
    def run(seed):
        settings = {"optim.max_tokens": 9000, "seed": seed}
        return run_one(Run(SmallStudy("small", settings, (1.0,), 1.0), small_arm("base"), 0), tmp_path / str(seed))

    first, second = run(0), run(1)
    assert first["cost"]["trained"] == first["cost"]["with_gradient"] == 0 and not first["stages"]
    (point,) = first["curve"]
    assert point["alpha"] == 0 and point["test"]["retention"] == 1 and point["test"]["kl"] == pytest.approx(0, abs=1e-6)
    assert [first[key] for key in ("curve", "calibration", "written")] == [
        second[key] for key in ("curve", "calibration", "written")
    ]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("the kidney", "right"),
        ("The kidney.", "right"),
        ("It is the kidney of course", "longer"),
        ("the liver", "option"),
        ("an inflamed artery", "medical"),
        ("paris", "other"),
        ("  ", "empty"),
    ],
)
def test_answers_are_sorted_by_kind_of_error(reply, kind):
    example = dict(responses=["the liver", "the kidney"], label=1)
    assert error_kind(reply, example) == kind


def test_diversity_counts_different_n_grams_and_what_replies_share():
    same, different = diversity(["see a doctor", "see a doctor"]), diversity(["see a doctor", "drink more water"])
    assert same == dict(distinct_1=0.5, distinct_2=0.5, overlap=1.0)
    assert different == dict(distinct_1=1.0, distinct_2=1.0, overlap=0.0)
    assert math.isnan(diversity([])["overlap"])


def test_the_best_single_function_of_each_topic_labels_the_pool():
    data = cut(sample_bundle(), pool=40)
    pool, votes = list(data.pool), apply_lfs(sample_lfs(), data.pool)
    labelled = best_single_lf(data)
    assert set(labelled.posteriors) == {example["id"] for example in pool} and not labelled.own_lfs
    for topic in {example["topic"] for example in pool}:
        members = [i for i, example in enumerate(pool) if example["topic"] == topic]
        gold = np.array([data.pool_gold[pool[i]["id"]] for i in members])
        given = [labelled.posteriors[pool[i]["id"]] for i in members]
        label = np.array([np.argmax(p) if p else -1 for p in given])
        assert (label == gold).sum() == (votes[members] == gold[:, None]).sum(0).max()
        assert all(sorted(p)[-1] == sum(p) == 1 for p in given if p)
        assert any((label == column).all() for column in votes[members].T), "the votes of one function, and no others"


# --- the paper's further claims


def test_choosing_by_length_is_scored_on_the_test_pairs(example):
    replies = [("a long one", "short", 0), ("a", "longer", 0), ("bb", "cc", 1)]
    pairs = [
        example(id=str(i), task="pair", responses=[first, second], label=label)
        for i, (first, second, label) in enumerate(replies)
    ]
    found = length_rules(replace(sample_bundle(), test=to_dataset(pairs)))
    assert found == {"choose the longer": pytest.approx(1.5 / 3), "choose the shorter": pytest.approx(1.5 / 3)}
    assert length_rules(replace(sample_bundle(), test=to_dataset(pairs[:1])))["choose the longer"] == 1
    assert length_rules(replace(sample_bundle(), test=None)) == {}


def test_generalization_counts_questions_of_each_kind():
    right = dict(medical=pack_bits(np.array([1, 1, 0, 0, 1], dtype=bool)))
    asked = dict(medical=[["a", "rule", 2], ["b", "fact", 1], ["c", "rule", 2]])
    runs = {"icft": {1: record(point(1.0, 0.6, 0.9, right=right), questions=asked)}}
    assert generalization_table(runs).rows == [["ICFT", "0.750", "0.000", "–", "–"]]


def test_the_other_tables_have_the_measures_of_the_trained_model():
    written = dict(errors=dict.fromkeys(ERROR_KINDS, 1), diversity=dict(distinct_1=0.1, distinct_2=0.2, overlap=0.9))
    points = [point(1.0, 0.6, 0.9, reply=0.5, preference=0.7), point(0.5, 0.1, 1.0, reply=0.1, preference=0.5)]
    runs = {"icft": {1: record(*points, written=written, calibration=0.05)}}
    assert errors_table(runs).rows == [["ICFT", *[f"{1 / len(ERROR_KINDS):.3f}"] * len(ERROR_KINDS)]]
    assert replies_table(runs).rows == [["ICFT", "0.500", "0.100", "0.200", "0.900", "0.050"]]
    rows = dict(preference_table(runs, {1: sample_bundle()}).rows)
    assert rows["ICFT"] == "0.700" and float(rows["choose the longer"]) == 1 - float(rows["choose the shorter"])


def test_arms_that_take_as_long_are_compared_with_icft():
    runs = {
        name: {split: record(point(1.0, medical + 0.01 * split, 0.96)) for split in (1, 2)}
        for name, medical in dict(icft=0.6, plain=0.5, replay_longer=0.55).items()
    }
    ((label, medical, retention, difference, other),) = equal_seconds_table(runs).rows
    assert label == "replay, 25 %, 1.1 times the tokens" and medical[:7] == "0.565 (" and retention[:7] == "0.960 ("
    assert difference == "+0.050 (+0.050 to +0.050)" and other == "+0.000 (+0.000 to +0.000)"
    assert not equal_seconds_table({name: runs[name] for name in ("plain", "replay_longer")}).rows


def test_replies_are_compared_where_both_methods_are_right():
    def patients(**replies):
        return dict(patients={name: dict(reply=text, recall=recall) for name, (text, recall) in replies.items()})

    own = patients(a=("see a doctor", 1.0), b=("see a doctor now", 1.0), c=("drink", 0.5), d=("wait a day", 1.0))
    other = patients(a=("drink more water", 1.0), b=("see a nurse", 1.0), c=("drink", 1.0), d=("no", 0.0))
    silent = dict(errors={})
    runs = {
        name: {1: record(point(1.0, 0.6, 0.9), written=written)}
        for name, written in dict(icft=own, plain=other, replay_25=silent).items()
    }
    table = equal_correctness_table(runs)
    assert table.rows == [["plain QLoRA", "2 to 2", "3.000", "3.500", "1.000", "0.600", "-0.400"]]
    assert not equal_correctness_table({**runs, "icft": {1: record(point(1.0, 0.6, 0.9), written=silent)}}).rows
    chat = [dict(items={"a": 1.0, "b": 0.0}, replies={"a": text, "b": "x"}) for text in ("one two", "one two three")]
    runs = {name: {1: record(point(1.0, 0.6, 0.9, **one))} for name, one in zip(("icft", "base"), chat)}
    assert equal_correctness_table(runs).rows[0][:4] == ["base, not fine-tuned", "1 to 1", "3.000", "2.000"]


def test_estimated_and_true_accuracies_are_those_of_votes_on_the_pool():
    found = lf_accuracies(sample_bundle())
    assert len({one["topic"] for one in found}) > 5 and all(one["votes"] >= MIN_VOTES for one in found)
    assert all(0 < one["estimated"] < 1 and 0 <= one["true"] <= 1 for one in found)
    estimated, true = (np.array([one[key] for one in found]) for key in ("estimated", "true"))
    assert np.corrcoef(estimated, true)[0, 1] > 0.5, "estimates without labels say which functions are good"
    lines = labels_figure(found, "title").axes[0].lines
    assert sum(len(line.get_xdata()) for line in lines[:2]) == len(found)


def test_the_tables_of_the_documentation_are_those_of_the_committed_records(monkeypatch):
    path = Path(__file__).parents[1] / "scripts" / "paper_results.py"
    spec = importlib.util.spec_from_file_location("paper_results", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.page() == script.PAGE.read_text(encoding="utf-8"), "run python scripts/paper_results.py"
    loaded = script.load_records

    def changed(folder, splits=None):
        records = loaded(folder, splits)
        for runs in records.values():
            for one in runs.values():
                one["calibration"] = 0.123
        return records

    monkeypatch.setattr(script, "load_records", changed)
    assert "0.123" in script.page()


def test_claims_of_a_confirmation_wait_for_all_its_splits():
    records = study(icft=0.8, replay=0.6)
    confirmed = {
        arm: {11 + i: {**one, "split": 11 + i} for i, one in enumerate(runs.values())} for arm, runs in records.items()
    }
    complete = {
        arm: {split: {**runs[11], "split": split} for split in range(11, 16)} for arm, runs in confirmed.items()
    }
    every = {**complete, "kl_memory": {split: {**one, "arm": "kl_memory"} for split, one in complete["plain"].items()}}
    found = [
        "Registered claims" in [table.title for table in study_tables(some, "tiny")]
        for some in (records, confirmed, complete, every)
    ]
    assert found == [False, False, False, True], "the best baseline is named among all of them"
    assert any("development" in table.title for table in study_tables(records, "tiny"))
    assert missing_runs(complete, "tiny") == {"kl_memory": [11, 12, 13, 14, 15]}
