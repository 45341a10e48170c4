"""Whole runs, small: what they leave behind, that they repeat, and never look at gold."""

import dataclasses
import json

import pytest
import torch
from peft import PeftModel
from small_run import cut
from transformers import TrainerCallback

import icft_lite
from icft_lite import doctor
from icft_lite.config import ICFTConfig
from icft_lite.data.samples import sample_bundle
from icft_lite.errors import ICFTError
from icft_lite.memory.consolidation import EXTRAPOLATION_ALPHAS
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.modeling.adapters import adapter_tensors
from icft_lite.modeling.base import load_base
from icft_lite.modeling.encoding import Encoder
from icft_lite.training import run as run_module
from icft_lite.training import stage as stage_module
from icft_lite.training import trainer as trainer_module
from icft_lite.training.batches import StageBatches
from icft_lite.training.plan import PlannedStep
from icft_lite.training.run import train_icft
from icft_lite.training.trainer import LOSSES, ICFTTrainer
from icft_lite.utils.io import write_json

SETTINGS = dict(
    max_steps=6,
    rows=16,
    lora_rank=4,
    lora_alpha=8,
    self_prompts=32,
    memory_size=120,
    memory_share=0.5,
    ring_share=0.2,
    promote_after=1,
    competence_start=1.0,
    last_stage=0.8,
    ema_decay=0.5,
    consistency_weight=0.5,
    task_weight=2.0,
    replay_weight=0.25,
)


@pytest.fixture(scope="module")
def bundle():
    """The samples, cut down: a few rows of every topic."""
    return cut(
        sample_bundle(), trusted=6, pool=5, validation=2, test=2, general_memory=6, general_validation=2, general_test=2
    )


def train(out, bundle, **settings):
    return train_icft({**SETTINGS, **settings}, out, bundle, progress=False)


@pytest.fixture(scope="module")
def done(bundle, tmp_path_factory):
    """(folder, report) of a whole run of the method."""
    out = tmp_path_factory.mktemp("run") / "icft"
    return out, train(out, bundle)


@pytest.fixture
def no_figures(monkeypatch):
    monkeypatch.setattr(run_module, "write_report", lambda report, out: write_json(out / "report.json", report))


def weights(out, name="adapter"):
    return (out / name / "adapter_model.safetensors").read_bytes()


def test_the_report_has_every_key_that_others_rely_on(done):
    out, returned = done
    report = json.loads((out / "report.json").read_text())
    assert report["method"] == "icft" and report["seed"] == 0 and report["base"] == "tiny"
    assert report["config"] == json.loads(json.dumps(ICFTConfig(**SETTINGS).to_dict()))
    assert {"python", "torch", "transformers", "peft"} <= set(report["versions"])
    assert report["versions"]["icft-lite"] == icft_lite.__version__
    for when in ("before", "after"):
        assert set(report["scores"][when]["medical"]) == {"qa", "preference", "reply"}
        for suite in ("general", "medical"):
            for task in report["scores"][when][suite].values():
                assert 0 <= task["value"] <= 1 and task["n"] > 0 and task["metric"]
        qa = report["scores"][when]["medical"]["qa"]
        assert 0 < qa["option_floor"] < 1 and 0 <= qa["option_accuracy"] <= 1
    general = [report["scores"][when]["general"]["qa"]["value"] for when in ("before", "after")]
    assert report["retention"] == pytest.approx(general[1] / general[0], abs=1e-6)
    assert [len(line) for line in report["accuracy_matrix"]] == [4] * 4
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


def test_every_part_of_the_method_was_at_work(done):
    report = done[1]
    assert [stage["name"] for stage in report["stages"]] == ["easy", "middle", "hard"]
    assert sum(stage["steps"] for stage in report["stages"]) == 6 == len(report["losses"]["step"])
    assert {"trusted", "weak_question", "memory", "ring"} <= set(report["rows"])
    for stage in report["stages"]:
        assert sum(stage["teacher_share"].values()) == pytest.approx(1)
        assert 0 < stage["memory_rows"] <= 120
        assert {"alpha", "refused", "points"} <= set(stage["consolidation"])
        assert {"candidates", "gated", "promoted", "evicted"} <= set(stage)
        assert stage["candidates"] >= stage["gated"] + stage["promoted"]
    assert sum(stage["candidates"] for stage in report["stages"]) > 0
    assert report["stages"][0]["teacher_share"]["base"] == 1, "before the first stage the memory is the base"
    norms = report["gradient_norms"]
    assert set(norms) == set(LOSSES) and max(norms["task"]) > 0 and max(norms["fine_tune"]) > 0
    weak = report["data"]["weak"]
    assert weak["label_model"] == "dawid_skene" and 0 <= weak["accuracy"] <= 1


def test_the_total_is_the_weighted_sum_of_the_three_losses_at_every_step(done):
    losses = done[1]["losses"]
    for at, total in enumerate(losses["total"]):
        parts = [losses[name][at] for name in LOSSES]
        assert total == pytest.approx(0.5 * parts[0] + 2.0 * parts[1] + parts[2], rel=1e-4)
    assert all(max(losses[name]) > 0 for name in LOSSES)


@pytest.mark.parametrize("name", ["adapter", "adapter_fast"])
def test_the_adapters_load_with_plain_peft_and_hold_something(done, name):
    model = PeftModel.from_pretrained(load_base("tiny")[0], str(done[0] / name))
    changes = [module.lora_B["default"].weight.abs().max() for module in model.modules() if hasattr(module, "lora_B")]
    assert len(changes) == 28 and max(changes) > 0
    assert weights(done[0]) != weights(done[0], "adapter_fast")


def test_a_second_call_says_complete_and_does_nothing(done, bundle, capsys):
    out, report = done
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    again = train_icft(SETTINGS, out, bundle)
    assert "complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert again == json.loads((out / "report.json").read_text())


def test_a_folder_with_something_else_in_it_is_refused(done, bundle, tmp_path, monkeypatch):
    with pytest.raises(ICFTError, match="holds another run"):
        train(done[0], bundle, seed=1)
    with pytest.raises(ICFTError, match="holds another run"):
        train(done[0], dataclasses.replace(bundle, sources={"other.jsonl": "x"}))
    with monkeypatch.context() as other, pytest.raises(ICFTError, match="holds another run"):
        other.setattr("icft_lite.training.run.fingerprint", lambda name: "another base")
        train(done[0], bundle)
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ICFTError, match="holds no run"):
        train(tmp_path, bundle)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_same_seed_gives_the_same_bytes_whatever_the_gold_says(done, bundle, tmp_path, no_figures):
    """Gold answers of the pool only score the labels: with every one of them wrong, the same adapter. So it is with a
    base that stays in 4 bits, where the first run wrote it out."""
    options = dict(zip(bundle.pool["id"], bundle.pool["responses"]))
    wrong = {
        name: (gold + 1) % len(options[name]) if name in options else gold for name, gold in bundle.pool_gold.items()
    }
    report = train(tmp_path / "again", dataclasses.replace(bundle, pool_gold=wrong), unpack_below=0)
    for name in ("adapter", "adapter_fast"):
        assert weights(tmp_path / "again", name) == weights(done[0], name)
    accuracy = done[1]["data"]["weak"]["accuracy"], report["data"]["weak"]["accuracy"]
    assert accuracy[0] > accuracy[1], "the poison arrived where labels are scored"


def test_plain_qlora_has_no_memory_and_only_one_loss(bundle, tmp_path, no_figures):
    plain = {name: value for name, value in SETTINGS.items() if not name.endswith(("_weight", "_share"))}
    report = train_icft({**plain, "method": "qlora"}, tmp_path / "qlora", bundle, progress=False)
    assert set(report["rows"]) == {"trusted"}
    assert all(stage["memory_rows"] == stage["candidates"] == 0 for stage in report["stages"])
    assert not any(report["losses"]["consistency"]) and not any(report["losses"]["task"])
    assert report["losses"]["total"] == pytest.approx(report["losses"]["fine_tune"])
    assert all(stage["consolidation"]["alpha"] == 1 for stage in report["stages"])
    assert weights(tmp_path / "qlora") == weights(tmp_path / "qlora", "adapter_fast")


def test_two_steps_for_three_stages_and_nothing_to_remember(bundle, tmp_path):
    """No step is made up, and none trains without limit; without general data the memory fills by promotion."""
    alone = dataclasses.replace(bundle, general_memory=None)
    report = train(tmp_path / "short", alone, max_steps=2, self_prompts=0)
    stages = report["stages"]
    assert [stage["steps"] for stage in stages] == [1, 1, 0] and len(report["losses"]["step"]) == 2
    assert (
        stages[0]["teacher_share"] == {}
        and "memory" not in stages[0]["rows"]
        and not any(report["losses"]["consistency"][:1])
    )
    assert stages[2]["rows"] == {} and stages[2]["tokens"] == 0 and stages[2]["consolidation"]["points"] == []
    assert report["accuracy_matrix"][3] == report["accuracy_matrix"][2], "a stage that is passed over changes nothing"


def test_only_the_last_stage_goes_beyond_its_end(bundle, tmp_path, no_figures, monkeypatch):
    asked, consolidate = [], stage_module.consolidate

    def listen(*args, beyond=(), **kwargs):
        asked.append(beyond)
        return consolidate(*args, beyond=beyond, **kwargs)

    monkeypatch.setattr(stage_module, "consolidate", listen)
    train(tmp_path / "run", bundle, max_steps=3)
    assert asked == [(), (), EXTRAPOLATION_ALPHAS]


def test_a_run_of_a_few_topics_is_trained_and_scored_on_those(bundle, tmp_path, no_figures):
    report = train(tmp_path / "run", bundle, topics="terminology,drug_class,relevance,reply", max_steps=3)
    assert report["config"]["topics"] == ["terminology", "drug_class", "relevance", "reply"]
    assert {task: set(score["by_topic"]) for task, score in report["scores"]["after"]["medical"].items()} == {
        "qa": {"terminology", "drug_class"},
        "preference": {"relevance"},
        "reply": {"reply"},
    }
    assert report["data"]["counts"]["trusted"] == 18 and report["data"]["counts"]["general_test"] > 18
    assert [row[3] for row in report["accuracy_matrix"]] == [None] * 4, "no question is hard"
    assert all(isinstance(report[name], float) for name in ("bwt", "fwt", "forgetting"))
    with pytest.raises(ICFTError, match="topics: 'astrology' is in no row"):
        train(tmp_path / "none", bundle, topics="astrology")
    assert not (tmp_path / "none").exists()


def test_a_run_needs_rows_to_train_on(bundle, tmp_path):
    nothing = dataclasses.replace(bundle, trusted=None, pool=None, test=None, general_test=None, general_memory=None)
    with pytest.raises(ICFTError, match="no training row"):
        train(tmp_path / "empty", nothing)


# ---------------------------------------------------------------- one stage of the trainer


@pytest.fixture
def batches(adapted, row):
    """batches(config) -> StageBatches of three steps with all roles and tasks."""
    model, tokenizer = adapted
    encoder = Encoder(tokenizer)
    rows = [
        row(),
        row(prompt="Define pain in a long and slow wording of some length.", responses=["it hurts"]),
        row(task="question", responses=["a kidney", "pain", "none"], label=-1, posterior=[0.2, 0.7, 0.1]),
        row(task="pair", responses=["go to surgery", "rest"], label=-1, posterior=[0.9, 0.1]),
    ]
    memory = LongTermMemory(10)
    memory.add(
        [
            row(id=f"m{i}", prompt=f"Which city is the capital of {c}?", responses=[r])
            for i, (c, r) in enumerate([("Burundi", "Gitega"), ("Armenia", "Yerevan")])
        ],
        encoder,
        "general",
    )
    memory.refresh(model)

    def make(
        config,
        steps=(PlannedStep([0, 1, 2], [3], [0, 1]), PlannedStep([3, 2], [0], [1]), PlannedStep([1], [2, 0], [0])),
    ):
        return StageBatches(list(steps), rows, [encoder(one) for one in rows], memory.entries, config)

    return make


def trained(model, batches, config, out, **kwargs):
    trainer = ICFTTrainer(model, batches(config), config, out, **kwargs)
    trainer.train()
    return trainer


def settings(**more):
    return ICFTConfig(**{**dict(lora_rank=8, lora_alpha=16, learning_rate=1e-3, replay_weight=0.3), **more})


@pytest.mark.parametrize("cut", [dict(micro_batches=2), dict(micro_batches=4), dict(pack_rows=False)])
def test_how_a_step_is_cut_and_packed_never_changes_the_adapter(adapted, batches, shake, tmp_path, cut):
    model, _ = adapted
    start = shake(model, "fast")  # away from B = 0, where Adam would blow rounding errors up
    one = trained(model, batches, settings(micro_batches=1), tmp_path, norms_every=2).history
    whole = [tensor.clone() for tensor in adapter_tensors(model, "fast")]
    with torch.no_grad():
        for tensor, value in zip(adapter_tensors(model, "fast"), start):
            tensor.copy_(value)
    other = trained(model, batches, settings(**cut), tmp_path, norms_every=2).history
    moved = torch.cat([(a - b).flatten() for a, b in zip(whole, start)]).norm()
    apart = torch.cat([(a - b).flatten() for a, b in zip(whole, adapter_tensors(model, "fast"))]).norm()
    assert apart < 0.01 * moved
    for a, b in zip(one, other):
        for name in (*LOSSES, "total"):
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-5)
        for name, norm in a.get("norms", {}).items():
            assert norm == pytest.approx(b["norms"][name], rel=1e-2)


@pytest.mark.parametrize("done", [1, 2])
def test_another_trainer_goes_on_to_the_same_bytes(adapted, batches, shake, tmp_path, done):
    model, _ = adapted
    saved, config = [], settings(save_every=1, warmup=0.9)

    def save(trainer):
        groups, facts = trainer.state_to_save()
        saved.append(
            ({name: [t.detach().clone() for t in many] for name, many in groups.items()}, json.loads(json.dumps(facts)))
        )

    whole = trained(model, batches, config, tmp_path, save=save, norms_every=2)
    for name in ("fast", "slow"):
        shake(model, name)  # the model it finds does not matter
    other = ICFTTrainer(model, batches(config), config, tmp_path, norms_every=2)
    other.resume(*saved[done - 1])
    other.train()
    assert [facts["step"] for _, facts in saved] == [1, 2, 3] and other.step == 3
    assert other.history == whole.history and {"exp_avg", "exp_avg_sq", "step"} < set(saved[0][0])
    groups, facts = other.state_to_save()
    assert facts == saved[-1][1]
    for name, many in saved[-1][0].items():
        assert all(torch.equal(a, b) for a, b in zip(many, groups[name], strict=True)), name


def test_a_stage_is_saved_as_often_as_asked_and_at_its_end(adapted, batches, tmp_path, monkeypatch):
    def saves(**more):
        steps = []
        trained(adapted[0], batches, settings(**more), tmp_path, save=lambda trainer: steps.append(trainer.step))
        return steps

    assert saves(save_every=2) == [2, 3] and saves(save_every=9) == saves() == [3]
    monkeypatch.setattr(trainer_module, "SAVE_SECONDS", 0)
    assert saves() == [1, 2, 3]


def test_the_slow_adapter_is_the_moving_average_of_the_fast_one(adapted, batches, tmp_path):
    model, _ = adapted
    seen, config = [], settings(ema_decay=0.6)

    class Watch(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            seen.append([tensor.detach().clone() for tensor in adapter_tensors(model, "fast")])

    trained(model, batches, config, tmp_path, callbacks=[Watch()])
    for i, slow in enumerate(adapter_tensors(model, "slow")):
        expected = seen[0][i]
        for t, beta in ((1, 0.5), (2, 0.6)):
            expected = beta * expected + (1 - beta) * seen[t][i]
        torch.testing.assert_close(slow, expected)
    assert any(not torch.equal(a, b) for a, b in zip(seen[2], adapter_tensors(model, "slow")))


def test_training_that_moves_nothing_is_an_error(adapted, batches, tmp_path):
    silent = settings(consistency_weight=0, task_weight=0, fine_tune_weight=0)
    with pytest.raises(ICFTError, match="moved no weight"):
        trained(adapted[0], batches, silent, tmp_path)


def test_a_step_left_out_in_fp16_is_no_error(adapted, batches, tmp_path):
    model, config, seen = adapted[0], settings(), []

    class Watch(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            seen.append([tensor.detach().clone() for tensor in adapter_tensors(model, "fast")])

    start = [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]
    trainer = ICFTTrainer(model, batches(config), config, tmp_path, callbacks=[Watch()])
    # The scale is too large for the first step, and right after it, as on a GPU that computes in fp16.
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=2.0**-100)
    trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(start, seen[0])), "left out"
    assert any(not torch.equal(a, b) for a, b in zip(seen[0], seen[1]))
    assert all(tensor.isfinite().all() for tensor in seen[-1])


def test_fp16_that_leaves_out_every_step_says_so(adapted, batches, tmp_path):
    model, config = adapted[0], settings()
    start = [tensor.detach().clone() for tensor in adapter_tensors(model, "fast")]
    trainer = ICFTTrainer(model, batches(config), config, tmp_path)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, backoff_factor=0.999)
    with pytest.warns(UserWarning, match=f"all {trainer.steps} steps were left out"):
        trainer.train()
    assert all(torch.equal(a, b) for a, b in zip(start, adapter_tensors(model, "fast")))


def test_only_the_fast_adapter_gets_a_gradient(adapted, batches, tmp_path):
    model, _ = adapted
    fast = {id(tensor) for tensor in adapter_tensors(model, "fast")}
    before = [p.detach().clone() for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    slow = {id(tensor) for tensor in adapter_tensors(model, "slow")}
    trained(model, batches, settings(), tmp_path)
    frozen = [p for p in model.parameters() if id(p) not in fast and p.is_floating_point()]
    assert all(p.grad is None for p in frozen)
    assert all(torch.equal(a, b) for a, b in zip(before, frozen) if id(b) not in slow)


def test_the_trainer_holds_what_the_doctor_counts_for_adapters(adapted, batches, tmp_path, monkeypatch):
    held = []

    class Weigh(TrainerCallback):
        def on_optimizer_step(self, args, state, control, optimizer, **kwargs):
            averages = [
                tensor
                for of_one in optimizer.state_dict()["state"].values()
                for name, tensor in of_one.items()
                if name != "step"
            ]
            gradients = [tensor.grad for tensor in trainer.trainable]
            held.append(sum(tensor.nbytes for tensor in trainer.trainable + gradients + averages + trainer.slow))

    config = settings()
    trainer = ICFTTrainer(adapted[0], batches(config), config, tmp_path, callbacks=[Weigh()])
    trainer.train()
    layer = (1,) * len(doctor.MODELS["Qwen3-8B"])  # seven 1 × 1 matrices, whose adapters have 14 parameters a rank
    whole, rank = doctor.estimate(layer, 2, tokens=0), doctor.RANK
    monkeypatch.setattr(doctor, "RANK", 0)
    counted = (whole - doctor.estimate(layer, 2, tokens=0)) / (14 * rank)
    assert {size / sum(tensor.numel() for tensor in trainer.trainable) for size in held} == {20.0} and counted == 36
    assert " 36 bytes a LoRA parameter" in doctor.FORMULA and "slow adapter, 20; copies" in doctor.FORMULA


def test_a_step_of_memory_rows_alone_is_possible_and_measured(adapted, batches, shake, tmp_path):
    """Micro-batches go by length, so one may hold memory rows only: it has but one of the losses."""
    model, _ = adapted
    shake(model, "fast")
    config = settings(replay_weight=0, micro_batches=1)
    steps = [PlannedStep([], [], [0, 1])]
    trainer = trained(model, lambda c: batches(c, steps), config, tmp_path)
    assert trainer.history[0]["consistency"] > 0 and trainer.history[0]["norms"]["consistency"] > 0
    assert trainer.history[0]["norms"]["task"] == trainer.history[0]["norms"]["fine_tune"] == 0
