"""The complete run of lesson 10: its data, its scores, its record."""

import importlib.util
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from icft_lite import Encoder, load_base
from icft_lite.errors import ICFTError
from icft_lite.experiments import own_data
from icft_lite.experiments.public_suites import Question
from icft_lite.experiments.recorded import LESSON_10, load_recorded
from icft_lite.reporting.lessons.own_data import draw_changes

SCRIPT = Path(__file__).parents[1] / "scripts" / "lesson_10_run.py"
spec = importlib.util.spec_from_file_location("lesson_10_run", SCRIPT)
lesson_10_run = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lesson_10_run)

SUITES = Path(__file__).parent / "fixtures" / "lm_eval"


def medquad(count=24):
    return [
        dict(id=f"m{n}", focus=f"illness {n}", qtype=f"kind {n % 8}", question=f"What is illness {n}?",
             answer=f"Illness {n} is a condition that this answer describes in more than eight words.")
        for n in range(count)
    ]  # fmt: skip


def pubmedqa(count=24):
    return [
        dict(pubid=n, question=f"Does drug {n} help?", context={"contexts": [f"Drug {n} was compared with placebo."]},
             long_answer=f"Drug {n} is effective.", final_decision=("yes", "no", "maybe")[n % 3])
        for n in range(count)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    ids = tmp_path_factory.mktemp("ids") / "ids.txt"
    ids.write_text("\n".join([f"m{n}" for n in range(8)] + [str(n) for n in range(8)]))
    return own_data.load_data(medquad(), pubmedqa(), {"medquad": 5, "pubmedqa": 3}, test_ids=ids)


# --- data and suites


def test_topics_are_the_data_sets_and_the_run_has_no_test(loaded):
    data, test = loaded
    assert data.test is None and data.general_test is None and data.chat
    assert set(data.trusted["topic"]) == {"medquad"} and set(data.pool["topic"]) == {"pubmedqa"}
    limited = data.limited(validation=2).validation
    assert sorted(limited["topic"]) == ["medquad", "pubmedqa"], "half of each"
    assert sorted(test["topic"]) == ["medquad"] * 5 + ["pubmedqa"] * 3
    assert not set(test["id"]) & {*data.trusted["id"], *data.pool["id"], *data.validation["id"]}


def test_of_each_set_at_most_so_many_test_examples_are_drawn_always_the_same(loaded):
    _, test = loaded
    draw = [own_data._draw(test, "medquad", 3) for _ in range(2)]
    assert draw[0] == draw[1] and len(draw[0]) == 3
    assert sorted(own_data._draw(test, "medquad", 99)) == [n for n in range(8) if test["topic"][n] == "medquad"]


def test_weak_labels_are_described_with_the_answers_that_were_set_aside(loaded):
    data, _ = loaded
    assert set(data.pool["label"]) == {-1}
    found = own_data.describe_labels(data, 6)
    assert found["n"] == 6 and sum(found["labels"].values()) == 6 and list(found["labels"]) == ["yes", "no", "maybe"]
    assert found["labels"]["yes"] == 6 and 0 < found["accuracy"] < 1, "each conclusion says that the drug is effective"


def test_options_of_commonsense_qa_are_scored_by_their_texts():
    listed = Question("Question: Where is bread?\nA. a garage\nB. the bakery. It is\nAnswer:", ["A", "B"], 1)
    assert own_data._with_texts(listed) == Question(
        "Question: Where is bread?\nAnswer:", ["a garage", "the bakery. It is"], 1
    )


def test_suites_are_read_from_files_with_the_names_of_the_record(tmp_path, monkeypatch):
    monkeypatch.setattr(own_data, "SUITES", {name: f"{name}.jsonl" for name in own_data.SUITES})
    suites = own_data.read_suites(SUITES, 2)
    assert list(suites) == ["arc_easy", "piqa", "openbookqa", "commonsense_qa"]
    assert all(len(questions) == 2 for questions in suites.values())
    assert suites["commonsense_qa"][0].options == ["library", "stadium", "kitchen fire", "motorway", "river"]


def test_without_a_folder_the_suites_come_from_the_hub(monkeypatch):
    asked = []
    listed = Question("Question: a\nA. b\nAnswer:", ["A"], 0)
    monkeypatch.setattr(own_data, "read_questions", lambda *given: asked.append(given) or [listed])
    own_data.read_suites(None, 3)
    assert asked == [(name, None, 3) for name in own_data.SUITES]


# --- scores


@pytest.fixture(scope="module")
def scored(loaded):
    model, tokenizer = load_base("tiny", load_in_4bit=False)
    suites = {"piqa": [Question("Question: a\nAnswer:", ["yes", "no"], gold) for gold in (0, 1)]}
    return own_data.score_model(model, tokenizer, Encoder(tokenizer), loaded[1], suites)


def test_a_model_is_scored_by_items_and_replies_to_own_prompts(loaded, scored):
    _, test = loaded
    ids = {topic: {one["id"] for one in test if one["topic"] == topic} for topic in ("medquad", "pubmedqa")}
    assert scored["medquad"]["metric"] == "token_f1" and scored["medquad"]["nll"] > 0
    assert set(scored["medquad"]["items"]) == ids["medquad"] and set(scored["pubmedqa"]["items"]) == ids["pubmedqa"]
    assert sum(scored["pubmedqa"]["answered"].values()) == 3
    assert sorted(scored["suites"]["piqa"]) == [0, 1], "the same choice is right once"
    assert list(scored["replies"]) == list(own_data.MEDICAL_PROMPTS) and any(scored["replies"].values())


def test_scores_are_kept_for_the_same_test_only(tmp_path):
    path, calls = tmp_path / "scores.json", []

    def score():
        calls.append(len(calls))
        return {"number": len(calls)}

    for tests, expected in (("a", 1), ("a", 1), ("b", 2), ("b", 2)):
        assert own_data._score_once(path, {"test": tests}, score) == {"number": expected}
    path.write_text('{"number": 9}', encoding="utf-8")
    assert own_data._score_once(path, {"test": "b"}, score) == {"number": 3}, "a file of an earlier version"


def test_changes_are_paired_by_item():
    def scores(f1, right, suite):
        return dict(medquad={"items": f1}, pubmedqa={"items": right}, suites=suite)

    record = {"scores": {
        "base": scores({"a": 0.1, "b": 0.2}, {"q": 0, "r": 1}, {"x": [0, 1], "y": [1, 1, 0, 0]}),
        "icft": scores({"b": 0.4, "a": 0.3}, {"r": 1, "q": 0}, {"x": [1, 1], "y": [1, 1, 1, 1]}),
    }}  # fmt: skip
    found = own_data.score_changes(record, "icft")
    assert list(found) == ["medquad", "pubmedqa", "public suites"]
    assert found["medquad"][:3] == pytest.approx((0.2, 0.2, 0.2)), "every item gains as much"
    assert found["pubmedqa"][:3] == (0, 0, 0)
    assert found["public suites"].difference == pytest.approx(0.5), "the mean of the suites, not of the questions"


def test_the_figure_has_the_differences_and_their_intervals():
    record = {"scores": {"base": dict(medquad={"items": {"a": 0.1, "b": 0.2}}, pubmedqa={"items": {"q": 0, "r": 1}},
                                      suites={}),
                         "icft": dict(medquad={"items": {"a": 0.4, "b": 0.2}}, pubmedqa={"items": {"q": 1, "r": 1}},
                                      suites={})}}  # fmt: skip
    changes = {"icft": own_data.score_changes(record, "icft")}
    counts = {"medquad": 2, "pubmedqa": 2, "chat": 100}
    figure = draw_changes(changes, {"icft": dict(value=0.9, low=0.7, high=1.2)}, counts, "title")
    left, right = figure.axes
    assert list(left.lines[0].get_xdata()) == pytest.approx([0.15, 0.5])
    assert [label.get_text() for label in left.get_yticklabels()] == ["medquad\nn = 2", "pubmedqa\nn = 2"]
    assert list(right.lines[0].get_xdata()) == [0.9]
    (bars,) = [one.get_segments() for one in right.collections]
    assert bars[0][:, 0] == pytest.approx([0.7, 1.2])


# --- the record


@pytest.fixture(scope="module")
def record():
    return load_recorded(LESSON_10)


def test_the_record_is_of_the_settings_of_the_code(record):
    assert record["settings"] == own_data.SETTINGS and record["model"] == lesson_10_run.MODEL == "smollm2"
    assert (
        record["test"]["n"]
        == own_data.TEST
        == {key: len(record["scores"]["base"][key]["items"]) for key in own_data.TEST}
    )
    assert set(record["scores"]) == {"base", *own_data.ARMS}
    for name, run in record["runs"].items():
        assert run["config"]["method"] == name and run["config"]["model"] == "smollm2" and run["seed"] == 0
        assert len(run["adapter_sha256"]) == len(run["base_hash"]) == 64
    tokens = [run["cost"]["tokens"] for run in record["runs"].values()]
    assert max(tokens) < 1.02 * min(tokens), "equal tokens"
    assert own_data.SETTINGS["optim.max_tokens"] <= min(tokens) < 1.15 * own_data.SETTINGS["optim.max_tokens"]
    assert len({run["base_hash"] for run in record["runs"].values()}) == 1
    for scores in record["scores"].values():
        assert {key: len(right) for key, right in scores["suites"].items()} == dict.fromkeys(
            own_data.SUITES, own_data.NUM_QUESTIONS
        )
        assert sum(scores["pubmedqa"]["answered"].values()) == own_data.TEST["pubmedqa"]


def test_the_command_of_the_record_is_one_of_the_script(record):
    words = shlex.split(record["command"])
    assert words[:2] == ["python", f"scripts/{SCRIPT.name}"] and record["commit"] and record["machine"]
    args = lesson_10_run.build_parser().parse_args(words[2:])
    assert not args.quick and args.out == Path("runs/own")
    assert {args.medquad.name, args.pubmedqa.name} == set(record["files"]), "names, not the folders of a machine"


def test_the_documentation_has_the_numbers_of_the_record(record):
    page = (Path(__file__).parents[1] / "docs" / "results.md").read_text(encoding="utf-8")
    section = page.split("the run of lesson 10\n")[1].split("\n## ")[0]
    for name in own_data.ARMS:
        found, scores = record["retention"][name], record["scores"][name]
        assert f"{found['value']:.2f} ({found['low']:.2f} to {found['high']:.2f})" in section
        change = own_data.score_changes(record, name)["public suites"]
        assert f"{change.difference:.3f} ({change.low:.3f} to {change.high:.3f})".replace("-", "−") in section
        assert f"{scores['medquad']['nll']:.2f}" in section and f"{record['chat'][name]['words']:.0f} |" in section
    for scores in record["scores"].values():
        for items in (scores["medquad"]["items"], scores["pubmedqa"]["items"]):
            assert f"{sum(items.values()) / len(items):.2f} (" in section


def texts(value, path=()):
    """Yield (path, text) of every text in a record; keys count."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield (*path, "key"), key
            yield from texts(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner, path)
    elif isinstance(value, str):
        yield path, value


def test_long_texts_of_the_record_are_replies_to_own_prompts(record):
    for path, text in texts(record):
        if len(text.split()) > 6 and path[-1] != "command":
            assert "replies" in path or path[0] == "display" or text in own_data.MEDICAL_PROMPTS, (path, text)


def shingles(text, size=10):
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}


def test_the_record_has_no_text_of_the_data_sets(record, real_data):
    """No ten words in a row."""
    own = set().union(*(shingles(text) for _, text in texts(record)))
    files = [
        *(real_data / "general").glob("*.jsonl"),
        *real_data.glob("medquad/*.jsonl"),
        real_data / "pubmedqa/ori_pqal.json",
    ]
    assert own and len(files) > 3
    for file in files:
        found = own & shingles(" ".join(text for _, text in texts(_rows(file))))
        assert not found, (file.name, found)


def _rows(file):
    text = file.read_text(encoding="utf-8")
    return json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def test_a_bundle_without_a_training_part_of_pubmedqa_is_refused(loaded):
    with pytest.raises(ICFTError, match="PubMedQA has no training part"):
        own_data.describe_labels(replace(loaded[0], pool=None), 5)
