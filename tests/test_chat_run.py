"""Runs with a chat suite: its memory prompts, what constrains consolidation, and what the report says."""

import dataclasses
import io
import json
import math
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from small_run import SETTINGS, small_bundle
from tqdm import tqdm

from icft_lite.cli import main
from icft_lite.config import ICFTConfig
from icft_lite.constraint import RetentionConstraint
from icft_lite.data.bundle import balanced_items
from icft_lite.data.chat_suite import chat_parts, chat_suite, held_out_items, leak_filter
from icft_lite.data.groups import content_hashes
from icft_lite.data.overlap import load_seen, save_seen
from icft_lite.data.sources import bundle_from_files, default_general
from icft_lite.errors import ICFTError
from icft_lite.experiments.compare import chat_measures, differences
from icft_lite.finished_runs import evaluate_replies
from icft_lite.memory import rehearsal
from icft_lite.memory.long_term import LongTermMemory
from icft_lite.memory.prompt_quality import trim_loop, whole_sentences
from icft_lite.memory.rehearsal import chat_memory, seed_memory
from icft_lite.modeling import replies as replies_module
from icft_lite.modeling.adapters import use_adapter
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.generation import generate
from icft_lite.modeling.replies import greedy_replies
from icft_lite.training import alpha as alpha_module
from icft_lite.training import prepare as prepare_module
from icft_lite.training.events import Events
from icft_lite.training.loop import train_icft
from icft_lite.utils.notice import NOTICE

SIZES = dict(memory=8, validation=4, test=6)
DISTANCES = ("nll", "kl_base_tuned", "kl_tuned_base")
"""Scores that depend on the rounding of a batch."""


def few_items():
    """A few items of every part of the suite."""
    few = {part: balanced_items(chat_suite(part), size) for part, size in SIZES.items()}
    return {**few, "display": chat_suite("display")[:2]}


@pytest.fixture(scope="module")
def ran(tmp_path_factory, monkeypatch_session_cache):
    """(report, folder, bundle) of a short run on `tiny` with a chat suite and no other general data."""
    bundle = dataclasses.replace(
        small_bundle(), general_memory=None, general_validation=None, general_test=None, chat=few_items()
    )
    out = tmp_path_factory.mktemp("chat") / "run"
    return train_icft({**SETTINGS, "optim.max_steps": 9}, out, bundle, progress=False), out, bundle


@pytest.fixture(scope="module")
def monkeypatch_session_cache(tmp_path_factory):
    """A cache folder of its own, so that no test reads replies that another program cached."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ICFT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def test_the_report_says_what_was_lost_in_replies(ran):
    report, out, bundle = ran
    chat, items = report["chat"], json.loads((out / "items.json").read_text())["chat"]
    test = bundle.chat["test"]
    for name in ("before", "after"):
        assert items[name].keys() == {item.id for item in test}
        for kind, is_free in (("free", True), ("instructions", False)):
            values = [items[name][item.id] for item in test if bool(item.accepted) == is_free]
            assert chat["scores"][name][kind]["value"] == pytest.approx(np.mean(values)) and len(values) == 6
    replies = json.loads((out / "replies.json").read_text())
    assert replies.keys() == {item.id for part in ("test", "display") for item in bundle.chat[part]}
    assert [one["prompt"] for one in chat["display"]] == [item.prompt for item in bundle.chat["display"]]
    assert report["retention"] == chat["retention"]["value"]
    text = (out / "report.md").read_text()
    assert "## Forgetting in the model's own replies" in text and "KL(base ‖ tuned)" in text and NOTICE in text
    assert {"free", "instructions", "kl_base_tuned", "intrusion"} <= chat_measures(report).keys()
    assert report["problems"] == []


def test_a_finished_run_gets_the_same_scores_again(ran, capsys):
    report, out, bundle = ran
    found = evaluate_replies(out, limit=SIZES["test"])
    assert found["retention"] == report["chat"]["retention"]
    for name in ("before", "after"):
        again, recorded = (dict(one["scores"][name]) for one in (found, report["chat"]))
        assert again.pop("items") == json.loads((out / "items.json").read_text())["chat"][name]
        near = {key: pytest.approx(recorded.pop(key), rel=1e-4) for key in DISTANCES if key in recorded}
        assert again == recorded | near
    assert found["display"][:2] == report["chat"]["display"] and len(found["display"]) == len(chat_suite("display"))
    assert main(["evaluate", str(out), "--chat", "--limit", "2"]) == 0
    text = capsys.readouterr().out
    assert "Forgetting in the model's own replies" in text and "KL(base ‖ tuned)" in text and NOTICE in text


def test_the_replies_of_a_model_without_a_run_are_scored_alone(ran, capsys):
    found = evaluate_replies("tiny", limit=SIZES["test"])
    before = ran[0]["chat"]["scores"]["before"]
    assert found.keys() == {"scores", "display"} and found["scores"].keys() == {"before"}
    assert found["scores"]["before"]["free"] == before["free"] and found["scores"]["before"]["words"] == before["words"]
    assert main(["evaluate", "tiny", "--chat", "--limit", "2"]) == 0
    text = capsys.readouterr().out
    assert "Replies to the chat suite" in text and "instructions passed" in text and NOTICE in text
    assert "after" not in text and "KL" not in text, "what needs a second model is left out"


def test_replies_of_two_methods_are_compared_item_by_item(ran, tmp_path):
    report, out, bundle = ran
    for name in ("icft", "qlora"):
        shutil.copytree(out, tmp_path / f"{name}-0")
    path = tmp_path / "qlora-0" / "items.json"
    items = json.loads(path.read_text())
    items["chat"]["after"] = {name: 1.0 - value for name, value in items["chat"]["after"].items()}
    path.write_text(json.dumps(items))
    found = differences(tmp_path, ["qlora"], [0], bundle)["qlora"]
    free = report["chat"]["scores"]["after"]["free"]["value"]
    assert found["free questions"]["difference"] == pytest.approx(2 * free - 1)
    assert found["medical"]["difference"] == 0 and found.keys() == {"medical", "free questions", "instructions"}
    questions = items["medical"]["qa"]
    questions.pop(min(questions))  # a run leaves out an example that does not fit max_length
    questions |= {name: 1.0 for name in questions}
    path.write_text(json.dumps(items))
    own = json.loads((out / "items.json").read_text())["medical"]["qa"]
    missing = pytest.approx(np.mean([own[name] for name in questions]) - 1)
    assert differences(tmp_path, ["qlora"], [0], bundle)["qlora"]["medical"]["difference"] == missing


def test_a_second_run_takes_the_replies_of_the_base_from_the_cache(ran, tmp_path, monkeypatch):
    report, _, bundle = ran
    asked = []
    monkeypatch.setattr(
        replies_module, "generate", lambda *args, **kwargs: asked.append(len(args[3])) or generate(*args, **kwargs)
    )
    again = train_icft({**SETTINGS, "optim.max_steps": 9}, tmp_path / "again", bundle, progress=False)
    assert again["chat"] == report["chat"], "and the run is the same"
    candidates = sum(
        candidate["chat_retention"] is not None
        for stage in again["stages"]
        for candidate in stage["consolidation"]["candidates"]
    )
    assert sum(asked) == 2 * SIZES["test"] + 2 + candidates * 2 * SIZES["validation"], "those of the adapter only"


def test_a_suite_that_the_base_cannot_answer_leaves_kl_to_constrain(ran):
    report, _, _ = ran
    assert report["general_retention"] == {}, "there is no general test"
    for stage in report["stages"]:
        for candidate in stage["consolidation"]["candidates"]:
            assert (
                candidate["kl"] is not None and candidate["chat_retention"] is None and candidate["retention"] is None
            )


def test_a_short_max_length_limits_no_prompt_of_the_suite(base):
    short = Encoder(base[1], max_length=16)
    examples = [item.example for item in few_items()["test"]]
    assert greedy_replies(*base, short, examples, 4) == greedy_replies(*base, Encoder(base[1]), examples, 4)
    assert short.max_length == 16


@pytest.mark.parametrize("kind", ["free", "instructions"])
def test_a_suite_of_one_kind_does_not_constrain(kind):
    missing = {"free": "instructions", "instructions": "free"}[kind]
    before = {**scores(0.9, 0.9), missing: dict(value=math.nan, n=0)}
    constraint = RetentionConstraint.from_base({}, 0.05, 0.1, before)
    assert not constraint.chat and constraint.limits_kl and "chat suite" in constraint.uninformative[0]


def scores(free, instructions, n=10):
    """ChatScores with these accuracies."""
    return dict(free=dict(value=free, n=n), instructions=dict(value=instructions, n=n))


def test_the_constraint_of_a_chat_model_is_retention_in_replies_and_kl():
    constraint = RetentionConstraint.from_base({}, 0.05, 0.1, scores(0.6, 0.5))
    assert constraint.chat and constraint.limits_kl and not constraint.topics
    text = constraint.describe()
    assert "≥ 0.95 in replies" in text and "≤ 0.1 nats per token" in text and "informative" not in text
    for retention, kl, allowed in (
        (0.95, 0.1, True),
        (0.94, 0.05, False),
        (1.2, 0.11, False),
        (None, 0.05, False),
        (0.97, None, False),
    ):
        assert constraint.allows(dict(chat_retention=retention, kl=kl, retention=None)) is allowed


def test_a_chat_suite_with_few_right_answers_takes_no_part():
    constraint = RetentionConstraint.from_base({}, 0.05, 0.1, scores(0.4, 0.5))
    assert not constraint.chat and constraint.limits_kl
    assert constraint.uninformative == ("chat suite (4 right answers, 5 instructions passed)",)
    assert constraint.allows(dict(kl=0.05, retention=None, chat_retention=None))


def test_five_right_answers_are_enough_whatever_the_number_of_questions():
    for n in range(40, 200):
        assert RetentionConstraint.from_base({}, 0.05, 0.1, scores(5 / n, 0.5, n)).chat, n
        assert not RetentionConstraint.from_base({}, 0.05, 0.1, scores(4 / n, 0.5, n)).chat, n


def test_with_choice_suites_and_a_chat_suite_all_three_constrain():
    topic = dict(value=0.8, chance=0.25, n=100, kind="")
    base = {"qa": dict(metric="accuracy", value=0.8, by_topic={"a": topic})}
    constraint = RetentionConstraint.from_base(base, 0.05, 0.1, scores(0.6, 0.6))
    good = dict(retention=1.0, chat_retention=1.0, kl=0.0)
    assert constraint.allows(good)
    for name, value in (("retention", 0.9), ("chat_retention", 0.9), ("kl", 0.2)):
        assert not constraint.allows({**good, name: value}), name


def test_replies_are_generated_in_the_last_stage_and_a_candidate_that_they_reject_is_scaled_down(
    ran, tmp_path, monkeypatch
):
    """They take a minute on a real model. The stages before are limited by KL."""
    _, _, bundle = ran
    answers = iter([0.5, 0.97])
    decide = alpha_module.RetentionConstraint.from_base
    monkeypatch.setattr(
        prepare_module.RetentionConstraint,
        "from_base",
        lambda *args: dataclasses.replace(decide(*args), chat=True, max_kl=1e9),
    )
    monkeypatch.setattr(alpha_module, "retention_in_replies", lambda *args: next(answers))
    report = train_icft({**SETTINGS, "optim.max_steps": 9}, tmp_path / "run", bundle, progress=False)
    found = [
        [one["chat_retention"] for one in stage["consolidation"]["candidates"] if one["chat_retention"] is not None]
        for stage in report["stages"]
    ]
    assert found == [[], [], [0.5, 0.97]]
    last = report["stages"][-1]["consolidation"]
    rejected, chosen = last["candidates"]
    assert (last["origin"], last["alpha"]) == ("base", pytest.approx(0.5**0.5)) and not last["refused"]
    assert chosen["alpha"] == last["alpha"] and chosen["kl"] < rejected["kl"]


@pytest.mark.parametrize("kl, asked", [(0.09, 1), (0.11, 0)])
def test_a_candidate_with_too_much_kl_is_not_asked_for_replies(monkeypatch, kl, asked):
    constraint = RetentionConstraint.from_base({}, 0.05, 0.1, scores(0.6, 0.6))
    names = ["model", "tokenizer", "encoder", "suites", "config", "kl_examples"]
    prepared = dataclasses.make_dataclass("Prepared", names)(None, None, None, {}, ICFTConfig(), ())
    replies = []
    monkeypatch.setattr(alpha_module, "evaluate_suite", lambda *args, **kwargs: {"medical": {"qa": dict(value=0.7)}})
    monkeypatch.setattr(alpha_module, "divergence", lambda *args: dataclasses.make_dataclass("D", ["kl"])(kl))
    monkeypatch.setattr(alpha_module, "retention_in_replies", lambda *args: replies.append(1) or 0.97)
    found = alpha_module.score_candidate(prepared, constraint, None, list)
    assert (len(replies), found["medical"], found["kl"]) == (asked, 0.7, kl)
    assert constraint.allows(found) is bool(asked)


def test_memory_prompts_are_answered_by_the_base(adapted, shake, tmp_path):
    model, tokenizer = adapted
    shake(model, "slow", 0.5)
    encoder = Encoder(tokenizer, 384)
    examples = chat_memory(chat_suite("memory"), 12, model, tokenizer, encoder, cache=tmp_path)
    assert 8 <= len(examples) <= 12 and all(one["label"] == 0 and one["responses"][0] for one in examples)
    assert len({one["topic"] for one in examples}) == len(examples), "balanced over topics"
    with use_adapter(model, None):
        expected = generate(model, tokenizer, encoder, examples, 64)
    for one, reply in zip(examples, expected, strict=True):
        is_cut = len(tokenizer(reply, add_special_tokens=False).input_ids) >= 63
        assert one["responses"][0] == trim_loop(whole_sentences(reply) if is_cut else reply)
    blocked = leak_filter(held_out_items())
    assert not any(blocked(one["prompt"]) for one in examples)


def test_given_general_examples_do_not_reveal_items_of_the_chat_suite(adapted, example):
    model, tokenizer = adapted
    held_out = held_out_items()
    test = [item for item in chat_suite("test") if item.accepted][:3]
    given = [example(id=item.id, prompt=item.prompt, responses=[item.accepted[0]]) for item in test]
    given.append(example(id="other", prompt="Which tool drives a nail into wood?", responses=["a hammer"]))
    memory = LongTermMemory(10)
    seed_memory(memory, given, [], model, tokenizer, Encoder(tokenizer, 384), 0, held_out_items=held_out)
    assert [entry.example["id"] for entry in memory.entries] == ["other"]


def test_self_generated_prompts_and_replies_do_not_reveal_items_of_the_chat_suite(adapted, monkeypatch):
    model, tokenizer = adapted
    encoder, held_out = Encoder(tokenizer, 384), held_out_items()
    first, second = (item for item in chat_suite("test")[:2] if item.accepted)
    prompts = [first.prompt.upper(), "Why do cats purr?", "What is a good question for a child?"]
    replies = {prompts[1]: "They are content.", prompts[2]: second.prompt}
    end = encoder.chat_format.user_turn()[1]
    written = [tokenizer(prompt + end, add_special_tokens=False).input_ids for prompt in prompts]
    monkeypatch.setattr(rehearsal, "generate_ids", lambda *args, **kwargs: written)
    monkeypatch.setattr(rehearsal, "generate", lambda *args, **kwargs: [replies[one["prompt"]] for one in args[3]])
    memory = LongTermMemory(10)
    outcomes = seed_memory(memory, None, [], model, tokenizer, encoder, 3, held_out_items=held_out)
    assert [entry.example["prompt"] for entry in memory.entries] == [prompts[1]], outcomes
    assert outcomes == {"used": 1, rehearsal.BLOCKED: 2}


def test_items_that_a_limit_leaves_out_are_held_out_from_the_memory_too(adapted, monkeypatch):
    """`evaluate --chat` scores all items of a run's suite, whatever its limits were."""
    seeded = []

    def stop(*args):
        seeded.extend(args[-1])
        raise InterruptedError

    monkeypatch.setattr(prepare_module, "seed_memory", stop)
    monkeypatch.setattr(prepare_module, "chat_memory", lambda *args: [])
    data = dataclasses.replace(small_bundle(), chat=chat_parts()).limited(test=3, validation=3)
    (model, tokenizer), config = adapted, ICFTConfig()
    with pytest.raises(InterruptedError):
        prepare_module.fill_memory(
            LongTermMemory(4), config, data, {}, model, tokenizer, Encoder(tokenizer), None, Events((), False)
        )
    assert {item.id for item in seeded} == {item.id for item in held_out_items()}


def test_the_bar_of_replies_advances_within_a_batch(adapted, monkeypatch):
    model, tokenizer = adapted
    examples, shown = [item.example for item in chat_suite("display")], []

    class Bar(tqdm):
        def update(self, n=1):
            super().update(n)
            shown.append(self.n)

    monkeypatch.setattr(
        "icft_lite.modeling.replies.progress_bar", lambda total, *rest: Bar(total=total, file=io.StringIO())
    )
    greedy_replies(model, tokenizer, Encoder(tokenizer, 384), examples, 16, progress=True)
    assert shown == sorted(shown) and shown[-1] == len(examples) and len({*shown}) > 2


def test_the_prompts_of_the_suite_that_a_run_used_are_seen(tmp_path):
    data = dataclasses.replace(small_bundle(), chat=few_items())
    save_seen(tmp_path, data)
    seen = set(load_seen(tmp_path).tolist())
    for part, used in (("memory", True), ("validation", True), ("test", False)):
        hashes = content_hashes([item.example for item in data.chat[part]]).tolist()
        assert {one in seen for one in hashes} == {used}


def test_only_replies_of_the_base_are_cached(adapted, shake, tmp_path):
    model, tokenizer = adapted
    encoder, examples = Encoder(tokenizer, 384), [item.example for item in chat_suite("display")]
    first = greedy_replies(model, tokenizer, encoder, examples, 16, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps(["cached"] * len(examples)))
    assert greedy_replies(model, tokenizer, encoder, examples, 16, cache=tmp_path) == ["cached"] * len(examples)
    assert greedy_replies(model, tokenizer, encoder, examples, 17, cache=tmp_path) != ["cached"] * len(examples)
    other = Encoder(tokenizer, 384)
    other.chat_format.stop_ids = [*other.chat_format.stop_ids, 5]
    assert greedy_replies(model, tokenizer, other, examples, 16, cache=tmp_path) != ["cached"] * len(examples)
    shake(model, "slow", 0.0)
    assert greedy_replies(model, tokenizer, encoder, examples, 16, "slow", cache=tmp_path) == first
    assert len(list(tmp_path.iterdir())) == 3


def test_replies_that_another_process_generates_are_waited_for(adapted, tmp_path, monkeypatch, capsys):
    model, tokenizer = adapted
    encoder, examples = Encoder(tokenizer, 384), [item.example for item in chat_suite("display")]
    begun, finish, calls = threading.Event(), threading.Event(), []

    def slow(*args, **kwargs):
        calls.append(args)
        begun.set()
        assert finish.wait(60)
        return [f"reply {i}" for i in range(len(examples))]

    monkeypatch.setattr("icft_lite.modeling.replies.generate", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(greedy_replies, model, tokenizer, encoder, examples, 16, cache=tmp_path)
        assert begun.wait(60)
        second = pool.submit(greedy_replies, model, tokenizer, encoder, examples, 16, cache=tmp_path)
        while "another process generates them" not in (said := capsys.readouterr().err):
            time.sleep(0.01)
        finish.set()
    assert first.result() == second.result() and len(first.result()) == len(examples) and len(calls) == 1
    assert f"{len(examples)} prompts" in said and [path.suffix for path in tmp_path.iterdir()] == [".json"]


def test_a_cache_that_cannot_be_written_is_named_before_replies_are_generated(adapted, tmp_path):
    model, tokenizer = adapted
    examples = [item.example for item in chat_suite("display")]
    (tmp_path / "file").touch()
    with pytest.raises(ICFTError, match="file.*cannot be written.*set ICFT_CACHE"):
        greedy_replies(model, tokenizer, Encoder(tokenizer, 384), examples, 16, cache=tmp_path / "file")


def test_the_source_chat_brings_the_suite_and_choice_questions():
    bundle = bundle_from_files(["samples"], ["chat"])
    assert bundle.chat == chat_parts() and bundle.general_memory is None and bundle.general_validation is None
    assert set(bundle.general_test["task"][:]) == {"question"} and len(bundle.general_test) > 600
    assert bundle.sources == {"samples": "", "chat": ""}
    assert default_general("tiny") == ["samples"] and default_general("smollm2") == ["chat"]
    assert bundle_from_files(["samples"], ["samples"]).chat == {}


def test_limits_are_balanced_over_topics_and_change_the_hash():
    bundle = bundle_from_files(["samples"], ["chat"])
    limited = bundle.limited(pool=50, test=30, general_test=20, validation=None)
    assert not bundle.limited(general_memory=0).chat["memory"] and limited.chat["memory"] == bundle.chat["memory"]
    assert (len(limited.pool), len(limited.test), len(limited.general_test)) == (50, 30, 20)
    assert len(limited.validation) == len(bundle.validation) and limited.trusted is bundle.trusted
    counts = np.unique(limited.general_test["topic"][:], return_counts=True)[1]
    assert counts.max() - counts.min() <= 1
    for is_free in (True, False):
        assert sum(bool(item.accepted) == is_free for item in limited.chat["test"]) == 30
    assert limited.chat["memory"] == bundle.chat["memory"]
    hashes, before = limited.content_hash(), bundle.content_hash()
    assert {name for name in hashes if hashes[name] != before[name]} == {"pool", "test", "general_test", "chat"}
    assert limited.content_hash() == bundle.limited(pool=50, test=30, general_test=20).content_hash()
