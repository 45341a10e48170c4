"""Settings: names, types and ranges; given values win over the preset, and the preset over the defaults."""

import ast
import inspect
import json
from dataclasses import FrozenInstanceError, replace

import pytest

from icft_lite import config as config_module
from icft_lite.config import (
    AdapterConfig,
    CurriculumConfig,
    ICFTConfig,
    LongTermConfig,
    OptimConfig,
    RuntimeConfig,
    WeakConfig,
    quick,
)
from icft_lite.data.samples import sample_bundle
from icft_lite.errors import ICFTError
from icft_lite.experiments.jobs import config_flags
from icft_lite.presets import PRESETS, describe_settings, model_defaults
from icft_lite.training.loop import train_icft
from icft_lite.utils.config_parsing import flatten, setting_types


def message(make):
    """Return the message of the ICFTError that `make` raises; it must be one line."""
    with pytest.raises(ICFTError) as caught:
        make()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- names


def test_there_are_at_most_45_settings_of_the_method_and_each_is_documented():
    names = [name for name, _ in setting_types(ICFTConfig)]
    assert len(names) == len(set(names))
    assert len([name for name in names if not name.startswith("limits.")]) <= 45
    for node in ast.parse(inspect.getsource(config_module)).body:
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config"):
            fields = [n for n, one in enumerate(node.body) if isinstance(one, ast.AnnAssign)]
            for n in fields:
                group = ast.unparse(node.body[n].annotation).endswith("Config")  # the group's class documents it
                text = node.body[n + 1].value if isinstance(node.body[n + 1], ast.Expr) else None
                assert group or isinstance(getattr(text, "value", None), str), (
                    f"{node.name}: {ast.unparse(node.body[n])}"
                )


def test_values_may_be_nested_dotted_groups_or_text():
    expected = ICFTConfig(optim=OptimConfig(learning_rate=1e-3, max_tokens=5000), topics=("anatomy", "reply"))
    for settings in (
        {"optim": {"learning_rate": 1e-3, "max_tokens": 5000}, "topics": ["anatomy", "reply"]},
        {"optim": OptimConfig(learning_rate=1e-3, max_tokens=5000), "topics": ("anatomy", "reply")},
        {"optim.learning_rate": 1e-3, "optim.max_tokens": 5000, "topics": "anatomy,reply"},
        {"optim": {"learning_rate": "1e-3"}, "optim.max_tokens": "5000", "topics": " anatomy, reply,"},
    ):
        assert ICFTConfig.from_dict(settings) == expected, settings


@pytest.mark.parametrize(
    "name, text, value",
    [
        ("optim.learning_rate", "1e-3", 1e-3),
        ("optim.learning_rate", "1", 1.0),
        ("optim.max_tokens", "none", None),
        ("optim.max_tokens", "None", None),
        ("optim.max_tokens", "null", None),
        ("adapter.load_in_4bit", "false", False),
        ("adapter.load_in_4bit", "True", True),
        ("curriculum.signals", "ifd,length", ("ifd", "length")),
        ("curriculum.order", "random", "random"),
        ("topics", "", ()),
        ("topics", "12", ("12",)),
        ("model", "none", "none"),
        ("model", "7", "7"),
    ],
)
def test_text_becomes_the_type_of_its_setting(name, text, value):
    found = flatten(ICFTConfig.from_dict({name: text}).to_dict())[name]
    found = tuple(found) if isinstance(found, list) else found
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "name, suggestion",
    [
        ("optim.lerning_rate", "did you mean optim.learning_rate?"),
        ("optim.share", "did you mean short_term.share?"),
        ("batch_size", "did you mean optim.batch_size?"),
        ("colour", "`icft-lite train --help` lists the settings"),
        ("optim", "it is a group of settings; name one of them, such as optim.learning_rate"),
        ("runtime.micro_batches", "it belongs to RuntimeConfig"),
    ],
)
def test_an_unknown_setting_is_refused_with_a_suggestion(name, suggestion):
    text = message(lambda: ICFTConfig.from_dict({name: 1}))
    assert text.startswith(f"settings: {name} is not a setting; ") and suggestion in text


def test_an_unknown_runtime_setting_is_refused_with_its_whole_name():
    text = message(lambda: RuntimeConfig.from_dict({"micro_batch": 2}))
    assert text == "settings: runtime.micro_batch is not a setting; did you mean runtime.micro_batches?"


# --- types and ranges


@pytest.mark.parametrize(
    "name, value, expected",
    [
        ("optim.learning_rate", "fast", "'fast' is not possible; give a number"),
        ("optim.learning_rate", None, "None is not possible; give a number"),
        ("optim.learning_rate", 0, "give a number above 0"),
        ("optim.learning_rate", float("nan"), "give a number above 0"),
        ("optim.learning_rate", float("inf"), "give a number above 0"),
        ("optim.batch_size", 1.5, "1.5 is not possible; give a whole number"),
        ("optim.batch_size", True, "give a whole number"),
        ("optim.max_tokens", "many", "give a whole number, or null"),
        ("optim.max_tokens", 0, "give a number above 0"),
        ("optim.warmup_ratio", 1.5, "give a number between 0 and 1"),
        ("loss.task_weight", -1, "give 0 or more"),
        ("adapter.load_in_4bit", "perhaps", "give true or false"),
        ("curriculum.order", "backwards", "give easy_to_hard, hard_to_easy, interleaved, random"),
        ("curriculum.signals", "loss,mood", "give a list: loss, ifd, length, entropy, separated by commas"),
        ("curriculum.signals", (), "choose among loss, ifd, length, entropy"),
        ("model", 3, "give text"),
        ("seed", None, "give a whole number"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(name, value, expected):
    text = message(lambda: ICFTConfig.from_dict({name: value}))
    assert text.startswith(f"{name}: ") and expected in text


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda: CurriculumConfig(order="x"), "curriculum.order: 'x' is unknown; choose one of easy_to_hard"),
        (
            lambda: CurriculumConfig(signals=("loss", "mood")),
            "curriculum.signals: 'mood' is unknown; choose among loss",
        ),
        (lambda: WeakConfig(label_model="votes"), "weak.label_model: 'votes' is unknown"),
        (lambda: LongTermConfig(policy="lifo"), "long_term.policy: 'lifo' is unknown"),
        (lambda: RuntimeConfig(teacher_dtype="int8"), "runtime.teacher_dtype: 'int8' is unknown"),
        (lambda: RuntimeConfig(micro_batches=0), "runtime.micro_batches: 0 is not possible"),
        (lambda: OptimConfig(learning_rate="1e-3"), "optim.learning_rate: '1e-3' is not possible"),
        (lambda: LongTermConfig(share=2), "long_term.share: 2 is not possible; give a number between 0 and 1"),
        (lambda: AdapterConfig(load_in_4bit="no"), "adapter.load_in_4bit: 'no' is not possible; give true or false"),
        (lambda: OptimConfig(batch_size=2.5), "optim.batch_size: 2.5 is not possible; give a whole number"),
        (lambda: OptimConfig(learning_rate=None), "optim.learning_rate: None is not possible; give a number"),
        (lambda: ICFTConfig(topics="heart"), "topics: 'heart' is not possible; give a list"),
        (lambda: ICFTConfig(optim={"learning_rate": 1e-3}), "optim: {'learning_rate': 0.001} is not possible; give a"),
        (lambda: ICFTConfig(seed=True), "seed: True is not possible; give a whole number"),
        (lambda: ICFTConfig.from_dict(None), "settings: found a NoneType, expected a dict"),
        (lambda: train_icft(None, "out", sample_bundle()), "settings: found a NoneType, expected a dict"),
    ],
)
def test_direct_construction_is_checked_too(make, expected):
    assert message(make).startswith(expected)


def test_memory_and_ring_leave_room_for_new_examples():
    text = message(lambda: ICFTConfig.from_dict({"long_term.share": 0.6, "short_term.share": 0.4}))
    assert "leaves no room for new examples" in text
    ICFTConfig.from_dict({"long_term.share": 0.6, "short_term.share": 0.3})


def test_a_configuration_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        ICFTConfig().seed = 1
    with pytest.raises(FrozenInstanceError):
        ICFTConfig().optim.learning_rate = 1.0


# --- presets


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_differs_from_the_default_in_its_own_settings_only(name):
    config, usual = (flatten(one.to_dict()) for one in (ICFTConfig.preset(name), ICFTConfig()))
    assert config == {**usual, **PRESETS[name], "method": name}


@pytest.mark.parametrize("name", ["no_ring", "no_task"])
def test_a_preset_without_a_part_that_is_off_by_default_now_is_the_default(name):
    assert ICFTConfig.preset(name) == ICFTConfig()


def test_a_method_that_is_no_text_is_unknown():
    assert "is unknown" in message(lambda: ICFTConfig.from_dict({"method": ["icft"]}))


def test_an_unknown_preset_is_refused():
    assert message(lambda: ICFTConfig.preset("magic")).startswith(
        "method: 'magic' is unknown; choose one of icft, qlora"
    )
    assert "'magic' is unknown" in message(lambda: ICFTConfig.from_dict({"method": "magic"}))


def test_a_given_setting_wins_over_the_preset_even_with_the_default_value():
    assert ICFTConfig.preset("qlora").curriculum.order == "random"
    for config in (
        ICFTConfig.preset("qlora", {"curriculum.order": "easy_to_hard"}),
        ICFTConfig.from_dict({"curriculum": {"order": "easy_to_hard"}, "method": "qlora"}),
        ICFTConfig.preset("qlora").replace({"curriculum.order": "easy_to_hard"}),
    ):
        assert config.curriculum.order == "easy_to_hard" and config.long_term.share == 0 and config.method == "qlora"


def test_replace_returns_a_copy_with_other_values():
    config = ICFTConfig.preset("no_ltm", {"seed": 3})
    other = config.replace({"optim": {"max_tokens": 10_000}, "curriculum.signals": "ifd"})
    assert (other.method, other.seed, other.long_term.share) == ("no_ltm", 3, 0)
    assert (other.optim.max_tokens, other.curriculum.signals) == (10_000, ("ifd",))
    assert config.optim.max_tokens is None and config.replace({}) == config
    assert replace(config, seed=4).seed == 4, "dataclasses.replace works, but forgets the name of the preset"
    assert "is not a setting" in message(lambda: config.replace({"optim.tokens_max": 1}))
    assert "no room" in message(lambda: config.replace({"long_term.share": 0.9, "short_term.share": 0.1}))


# --- as stored in a report


def test_a_configuration_comes_back_from_its_dict():
    settings = {"curriculum.signals": ("ifd", "length"), "consolidation.max_drop": 0.5, "loss.temperature": 2}
    config = ICFTConfig.preset("no_ltm", settings)
    for stored in (config.to_dict(), json.loads(json.dumps(config.to_dict()))):
        assert ICFTConfig.from_dict(stored) == config
    assert config.to_dict()["curriculum"]["signals"] == ["ifd", "length"] and config.to_dict()["method"] == "no_ltm"


def test_runtime_settings_come_back_from_their_dict():
    runtime = RuntimeConfig.from_dict({"runtime.save_steps": "5", "packing": "false", "teacher_dtype": "float16"})
    assert runtime == RuntimeConfig(save_steps=5, packing=False, teacher_dtype="float16")
    assert RuntimeConfig.from_dict(runtime.to_dict()) == runtime


def test_runtime_settings_that_had_their_name_in_0_1_need_no_warning(recwarn):
    assert RuntimeConfig.from_dict({"micro_batches": 4, "runtime.packing": False}) == RuntimeConfig(None, 4, False)
    assert not list(recwarn)


@pytest.mark.parametrize("profile, expected", [(None, True), ("quick", True), ("full", False)])
def test_the_profile_of_the_lessons(monkeypatch, profile, expected):
    if profile:
        monkeypatch.setenv("ICFT_PROFILE", profile)
    assert quick() is expected


def test_a_copy_keeps_its_method_and_takes_no_other():
    config = ICFTConfig.preset("qlora")
    assert config.replace({"seed": 3}).method == "qlora"
    with pytest.raises(ICFTError, match="preset"):
        config.replace({"method": "icft"})


def test_a_copy_takes_no_other_model_because_defaults_depend_on_it():
    config = ICFTConfig.preset("replay", {"seed": 3})
    assert config.replace({"model": "tiny", "seed": 4}).seed == 4
    with pytest.raises(ICFTError, match=r"use ICFTConfig.preset\('replay', \{'model': 'smollm2'\}\)"):
        config.replace({"model": "smollm2"})


def test_defaults_depend_on_the_model_and_presets_come_before_them():
    tiny, chat = ICFTConfig.preset("icft"), ICFTConfig.preset("icft", {"model": "smollm2"})
    assert tiny == ICFTConfig() and flatten(ICFTConfig.preset("icft", {"model": "tiny"}).to_dict()) == flatten(
        tiny.to_dict()
    )
    changed = {name for name, value in flatten(chat.to_dict()).items() if value != flatten(tiny.to_dict())[name]}
    assert changed <= {"model", *model_defaults("smollm2")} and "optim.learning_rate" in model_defaults("smollm2")
    assert not chat.adapter.load_in_4bit and ICFTConfig.preset("icft", {"model": "x/other"}).adapter.load_in_4bit
    assert ICFTConfig.preset("replay", {"model": "smollm2"}).loss.consistency_weight == 0, "the preset's own"
    given = ICFTConfig.preset("qlora", {"model": "smollm2", "optim.learning_rate": 3e-4, "adapter.load_in_4bit": True})
    assert given.optim.learning_rate == 3e-4 and given.adapter.load_in_4bit
    assert ICFTConfig.from_dict(given.to_dict()) == given


@pytest.mark.parametrize("model", ["tiny", "smollm2", "some/model"])
@pytest.mark.parametrize("settings", [{}, {"loss.consistency_weight": 0.4, "optim.learning_rate": 2e-3}])
def test_a_command_line_gives_the_same_configuration(model, settings):
    """A value that is the default of `tiny` must be passed on for a model with another default."""
    config = ICFTConfig.preset("icft", {"model": model, **settings})
    flags = dict(flag.removeprefix("--set=").split("=", 1) for flag in config_flags(config) if "--set" in flag)
    assert ICFTConfig.preset("icft", flags) == config


def test_a_run_says_where_its_settings_come_from():
    text = describe_settings(ICFTConfig.preset("replay", {"model": "smollm2", "adapter.rank": 8}))
    rate = model_defaults("smollm2", "replay")["optim.learning_rate"]
    assert f"optim.learning_rate {rate:g} (default of chat models)" in text
    assert "loss.consistency_weight 0 (preset replay)" in text and "adapter.rank 8 (given)" in text
    assert "loss.temperature 1 (default of chat models)" in text
    assert "default of chat models" not in describe_settings(ICFTConfig())
