"""Splits: groups, test ids over several files, what is left out, and what a run has seen of a file."""

import csv
import json
import re
from unicodedata import normalize

import pytest

from icft_lite.data.chat_suite import chat_parts
from icft_lite.data.overlap import load_seen, save_seen
from icft_lite.data.samples import sample_bundle
from icft_lite.data.schema import ReadOptions
from icft_lite.data.sources import bundle_from_files, evaluation_examples
from icft_lite.data.splits import split_source
from icft_lite.errors import ICFTError, ICFTWarning


def replies(n, name="Term", **columns):
    return [{"prompt": f"What is {name} {i}?", "completion": f"It is {name} {i}.", **columns} for i in range(n)]


def questions(n, answer=0, **columns):
    choices = ["heart", "lung", "skin"]
    return [
        {"question": f"Where is part {i}?", "choices": choices, "answer": answer, "id": f"q{i}", **columns}
        for i in range(n)
    ]


def ids(part):
    return set() if part is None else set(part["id"])


# --- groups


def rows(n, **columns):
    return [
        {"id": f"{i}", "completion": "x", **{name: column(i) for name, column in columns.items()}} for i in range(n)
    ]


def conversation(i):
    texts = ["Be brief.", f"Question {i % 6}?", "Yes.", f"And {i % 15}?", "No."]
    roles = ["system", "user", "assistant", "user", "assistant"]
    return [{"role": role, "content": text} for role, text in zip(roles, texts)]


@pytest.mark.parametrize(
    "examples, validation, test",
    [
        (
            rows(30, prompt=lambda i: f"Question {i}?", context=lambda i: f"Abstract {i % 10} says so."),
            {6, 16, 26},
            {8, 18, 28},
        ),
        (rows(30, prompt=lambda i: f"Question {i}?", entity=lambda i: f"Drug {i % 12}"), {5, 17, 29}, {6, 18}),
        (rows(30, prompt=lambda i: f"Question {i % 20}?"), {5, 19, 25}, {1, 16, 21}),
        ([{"id": f"{i}", "messages": conversation(i)} for i in range(30)], {8, 9, 29}, {13, 20, 23}),
    ],
    ids=["context", "entity", "prompt", "turns"],
)
def test_the_splits_of_version_0_2_0_do_not_change(examples, validation, test):
    parts = split_source(examples)
    assert {int(name) for name in ids(parts["validation"])} == validation
    assert {int(name) for name in ids(parts["test"])} == test


def test_a_prompt_is_in_one_part_even_if_its_entity_is_known_in_one_place_only(tmp_path):
    """Groups are by entity where there is one, and by prompt elsewhere: the same prompt is then in two of them."""
    bare = replies(200)
    named = [{**row, "entity": f"Entity {i % 100}"} for i, row in enumerate(bare)]
    for name, some in (("named", named), ("bare", bare), ("both", named + bare)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    for names in (["named", "bare"], ["both"]):
        data = bundle_from_files([str(tmp_path / f"{name}.jsonl") for name in names], [])
        train, validation, test = (set(part["prompt"]) for part in (data.trusted, data.validation, data.test))
        assert validation and test and not (train & test or train & validation or validation & test)


def prompts(*parts):
    """Return the prompts of Datasets."""
    return {prompt for part in parts if part is not None for prompt in part["prompt"]}


@pytest.mark.parametrize("column", ["system", "messages"])
def test_one_question_under_two_system_prompts_is_in_one_part(column):
    def row(i, kind):
        system, question, reply = f"You are assistant {kind}.", f"What helps with case {i}?", f"Remedy {i}."
        if column == "system":
            return {"system": system, "prompt": question, "completion": reply}
        turns = zip(("system", "user", "assistant"), (system, question, reply))
        return {"messages": [{"role": role, "content": text} for role, text in turns]}

    parts = split_source([row(i, kind) for i in range(60) for kind in (1, 2)])
    assert all(len(parts[name]) == 2 * len(prompts(parts[name])) for name in parts)
    assert not prompts(parts["train"]) & prompts(parts["validation"], parts["test"])
    assert not prompts(parts["validation"]) & prompts(parts["test"])


def test_passages_in_system_turns_are_no_instructions():
    rows = [
        {"system": f"Patient {i // 3} has symptom {i // 3}.", "prompt": ask, "completion": "x"}
        for i, ask in enumerate(["Summarize.", "What is wrong?", "Who is it?"] * 40)
    ]
    parts = split_source(rows)
    assert len(parts["test"]) == len(parts["validation"]) == 12 and len(parts["train"]) == 96


def test_composed_and_decomposed_characters_are_one_prompt():
    rows = [
        {"prompt": normalize(form, f"Où est la clé {i} ?"), "completion": "là"}
        for i in range(40)
        for form in ("NFC", "NFD")
    ]
    parts = {name: {normalize("NFC", one) for one in prompts(part)} for name, part in split_source(rows).items()}
    assert not parts["train"] & (parts["validation"] | parts["test"]) and not parts["validation"] & parts["test"]


def test_no_prompt_is_trained_on_in_one_domain_and_held_out_in_the_other():
    shared = replies(60)
    bundle = bundle_from_files([shared], [[*shared, *replies(100, "Word")]])
    trained = prompts(bundle.trusted, bundle.general_memory)
    assert not trained & prompts(bundle.validation, bundle.test, bundle.general_validation, bundle.general_test)
    assert not prompts(bundle.validation, bundle.general_validation) & prompts(bundle.test, bundle.general_test)


def test_copies_of_bundled_test_prompts_are_not_trained_on():
    samples, chat = sample_bundle(), chat_parts()
    copied = [{"prompt": one, "completion": "x"} for one in samples.test["prompt"][:200]]
    copied += [{"prompt": item.prompt, "completion": "x"} for item in chat["test"][:100]]
    for bundle in (
        bundle_from_files(["samples", copied], ["samples"]),
        bundle_from_files([replies(20)], ["chat", copied]),
        bundle_from_files([[*replies(20), *copied]], ["chat"]),
    ):
        held_out = prompts(bundle.test, bundle.general_test) | {
            item.prompt for part in ("test", "display") for item in bundle.chat.get(part, ())
        }
        assert not prompts(bundle.trusted, bundle.general_memory, bundle.pool) & held_out
        assert not {item.prompt for item in bundle.chat.get("memory", ())} & held_out


def test_bundled_training_prompts_that_a_user_holds_out_are_left_out():
    taken = sample_bundle().trusted["prompt"][:300]
    bundle = bundle_from_files(["samples", [{"prompt": one, "completion": "x"} for one in taken]], ["samples"])
    assert len(bundle.trusted) > 1000
    assert not prompts(bundle.trusted) & prompts(bundle.validation, bundle.test)


@pytest.mark.parametrize("instructions", [1, 2])
def test_prompts_under_one_instruction_are_split_by_prompt(instructions):
    texts = ["You are a doctor. Answer the question.", "You are a nurse. Be brief."][:instructions]
    examples = [{**one, "context": texts[i % instructions]} for i, one in enumerate(replies(40))]
    parts = split_source(examples)
    assert [len(parts[name]) for name in ("train", "validation", "test")] == [32, 4, 4]


def test_passages_stay_groups_beside_a_common_instruction():
    passages = [{**one, "context": f"Note {i // 4}: well."} for i, one in enumerate(replies(20, "Note"))]
    common = replies(30, "Term", context="Answer truthfully.")
    parts = split_source(passages + common)
    for i in range(5):
        assert sum(f"Note {i}: well." in part["context"] for part in parts.values()) == 1
    assert all("Answer truthfully." in part["context"] for part in parts.values())


def test_all_turns_of_a_conversation_are_in_one_part_whatever_they_begin_with(write):
    def talk(i):
        texts = ["Hello", "Hello, how can I help?", f"What is drug {i}?", "A pill.", "Really?", "Yes."]
        return {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]}

    def own(i):
        return {"messages": [{"role": "user", "content": f"What is drug {i}?"}, *talk(i)["messages"][3:]]}

    for make, turns in ((own, 2), (talk, 3)):
        parts = split_source(write("talks.jsonl", [make(i) for i in range(30)]), options=ReadOptions(turns="all"))
        assert sum(map(len, parts.values())) == 30 * turns
        sides = []
        for part in parts.values():
            texts = [" ".join([*(turn["content"] for turn in one["history"]), one["prompt"]]) for one in part]
            sides.append({found[0] for text in texts if (found := re.search(r"drug \d+", text))})
        assert all(sides) and sum(map(len, sides)) == 30


# --- test ids


@pytest.mark.parametrize(
    "content",
    ["1\n22\nc d\n", '["1", "22", "c d"]', '[1, 22.0, "c d"]', '[{"id": 1}, {"id": "22"}, {"id": "c d", "x": 0}]']
    + ['{"1": "yes", "22": "no", "c d": "no"}', '{"id": 1}\n{"id": 22}\n{"id": "c d"}\n', "\ufeff1\r\n22\r\nc d\r\n"]
    + ["question,id\nWhat?,1\nWhy?,22\nWho?,c d\n"],
)
def test_ids_are_matched_over_all_files_together(write, content):
    one = write("one.jsonl", [{**row, "id": i} for i, row in enumerate(replies(20))])
    two = write("two.jsonl", [{**row, "id": ["c d", "22", "z"][i]} for i, row in enumerate(replies(3, "Word"))])
    three = write("three.jsonl", replies(20, "Sign"))
    bundle = bundle_from_files(
        [one, two, three], [replies(10, "Fact")], write("ids.csv" if content[0] == "q" else "ids", content)
    )
    assert ids(bundle.test) == {"1", "22", "c d"}, "no other file has a random test part"
    assert len(bundle.validation) == 2 + 2 and len(bundle.trusted) == 43 - 3 - 4


def test_misspelt_ids_are_named(write):
    data = [write("a.jsonl", replies(20)), write("b.jsonl", replies(20, "Word"))]
    with pytest.raises(ICFTError, match=r"ids.txt: 2 of its 3 ids are in none of .*a.jsonl, .*b.jsonl \(b-99, x\)"):
        bundle_from_files(data, ["samples"], write("ids.txt", "a-2\nb-99\nx\n"))
    with pytest.raises(ICFTError, match=r"none of its ids is in .*b.jsonl; .*found x"):
        bundle_from_files(data, ["samples"], write("ids.txt", "x\n"))
    with pytest.raises(ICFTError, match="no test ids were found"):
        bundle_from_files(data, ["samples"], write("ids.json", "[null]"))


def test_an_id_of_a_row_that_is_left_out_is_no_typo(write):
    rows = [{**row, "id": i, "label": i != 3} for i, row in enumerate(replies(20))]
    bundle = bundle_from_files([write("kto.jsonl", rows)], [], write("ids.txt", "3\n4\n"))
    (summary,) = bundle.summaries
    assert ids(bundle.test) == {"4"} and "(3)" in summary.notes[-1]


def test_an_id_of_a_conversation_names_all_its_turns(write):
    turns = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd")]
    rows = [
        {"id": f"c{i}", "messages": [{**turn, "content": f"{turn['content']} {i}"} for turn in turns]} for i in range(9)
    ]
    options = ReadOptions(turns="all")
    bundle = bundle_from_files([write("c.jsonl", rows)], [], write("ids.txt", "c4\n"), options=options)
    assert ids(bundle.test) == {"c4/turn1", "c4/turn2"}


def release(n):
    row = {"CONTEXTS": ["It was measured."], "final_decision": "yes"}
    return {
        str(i): {**row, "QUESTION": f"Does {i} help?", "CONTEXTS": [f"We saw {i}."], "LONG_ANSWER": f"Yes, {i}."}
        for i in range(n)
    }


def test_pubmedqa_keeps_its_published_test_part_next_to_other_files(write):
    path = write("ori_pqal.json", json.dumps(release(20)))
    published = write("test_ground_truth.json", json.dumps(dict.fromkeys(map(str, range(10)), "yes")))
    mine = write("mine.jsonl", replies(20))
    bundle = bundle_from_files([path, mine], [])
    assert ids(bundle.test) >= set(map(str, range(10))) and len(bundle.test) == 12
    assert ids(bundle_from_files([path, mine], [], published).test) == set(map(str, range(10)))
    bundle = bundle_from_files([path, mine], [], write("ids.txt", "mine-1\nmine-2\n"))
    assert ids(bundle.test) == {*map(str, range(10)), "mine-1", "mine-2"}
    assert bundle.own_lfs == dict.fromkeys(ids(bundle.pool), "pubmedqa")


# --- roles and summaries


def test_unlabelled_general_examples_may_enter_the_memory_and_pairs_are_counted():
    pairs = [{"prompt": f"Which {i}?", "chosen": "this", "rejected": "that", "id": f"p{i}"} for i in range(10)]
    general = [*questions(20), *[{**one, "id": f"u{i}"} for i, one in enumerate(questions(30, None)[20:])], *pairs]
    bundle = bundle_from_files([replies(20)], [general])
    memory = bundle.general_memory
    assert {f"u{i}" for i in range(10)} <= ids(memory) and set(memory["task"]) == {"question"}
    assert sorted(set(memory["label"])) == [-1, 0] and min(bundle.general_test["label"]) == 0
    assert bundle.summaries[1].left_out == {"preference pairs of general data: the long-term memory has none": 8}


def test_what_is_left_out_is_in_the_summary_of_its_source(write):
    labelled = write("a.jsonl", [{**one, "id": f"a{i}"} for i, one in enumerate(questions(100))])
    pool = write("b.jsonl", questions(150, None))
    bundle = bundle_from_files([labelled, pool], [], lfs=["a function"])
    assert [one.left_out for one in bundle.summaries] == [{}, {"another source holds out their group": 20}]
    assert len(bundle.pool) == 130 and bundle.lfs == ("a function",) and not bundle.own_lfs
    same = [{**one, "entity": f"part {i % 10}", "answer": None if i % 3 else 0} for i, one in enumerate(questions(60))]
    bundle = bundle_from_files([same], [], write("ids.txt", "q0\n"))
    assert bundle.summaries[0].left_out == {
        "a test example is in their group": 5,
        "without an answer, and in a held-out group": 4,
    }


def test_the_pool_of_the_samples_has_the_labelling_functions_of_the_samples():
    bundle = bundle_from_files([questions(30, None), "samples"], [])
    assert {bundle.own_lfs.get(name) for name in bundle.pool["id"]} == {"samples", None}
    assert not ids(bundle.pool) - bundle.own_lfs.keys() - {f"q{i}" for i in range(30)}


# --- what a run has seen


def test_a_file_that_was_saved_in_another_format_has_the_test_part_of_the_run(write, tmp_path):
    original = replies(60, context="You are a doctor.")
    trained = write("train.jsonl", original)
    bundle = bundle_from_files([trained], [replies(20, "Fact")], seed=3)
    save_seen(tmp_path, bundle)
    with (tmp_path / "other.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["output", "input", "instruction"])
        writer.writerows([one["completion"], one["prompt"].upper(), one["context"]] for one in original[::-1])
    joined = [{"prompt": f"{one['context']}\n\n{one['prompt']}", "response": one["completion"]} for one in original]
    seen = load_seen(tmp_path)
    for source in (trained, tmp_path / "other.csv", write("other.json", json.dumps(joined))):
        with pytest.warns(ICFTWarning, match="54 of 60 examples are left out"):
            found = evaluation_examples([source], seen=seen)
        assert set(found["responses"][i][0] for i in range(6)) == {one["responses"][0] for one in bundle.test}
    assert len(evaluation_examples([replies(10, "New")], seen=seen)) == 10
    known = [{"prompt": one["prompt"], "context": one["context"], "completion": "x"} for one in bundle.trusted]
    with pytest.raises(ICFTError, match="all prompts are in the run's training or validation part"):
        evaluation_examples([known], seen=seen)
    assert load_seen(tmp_path / "gone") is None


def test_examples_without_an_answer_are_not_evaluated_silently():
    with pytest.warns(ICFTWarning, match="a list of 30 examples: 10 examples without an answer are not evaluated"):
        assert len(evaluation_examples([questions(20) + questions(30, None)[20:]])) == 20


# --- a system turn that all rows of a file have


def asked(n, system=""):
    turns = [{"role": "system", "content": system}] if system else []
    return [
        {"messages": [*turns, {"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": f"{i}"}]}
        for i in range(n)
    ]


@pytest.mark.parametrize("other", ["", "Reply in one word."])
def test_a_question_under_a_system_turn_of_the_whole_file_is_the_same_question_in_another_file(write, other, tmp_path):
    one, two = write("one.jsonl", asked(60, "You are a doctor.")), write("two.jsonl", asked(60, other))
    bundle = bundle_from_files([one, two], ["samples"])
    assert len(bundle.test) and not set(bundle.test["prompt"]) & {
        *bundle.trusted["prompt"],
        *bundle.validation["prompt"],
    }
    assert not set(bundle.validation["prompt"]) & set(bundle.trusted["prompt"])
    alone = bundle_from_files([one], ["samples"])
    save_seen(tmp_path, alone)
    with pytest.warns(ICFTWarning, match="are left out: the run's training or validation part has their prompts"):
        found = evaluation_examples([two], seen=load_seen(tmp_path))
    assert set(found["prompt"]) == set(alone.test["prompt"])


def test_a_system_turn_of_one_file_is_an_instruction_in_another_where_it_is_rare(write):
    one = write("one.jsonl", asked(60, "You are a doctor."))
    two = write("two.jsonl", [*asked(60), *asked(3, "You are a doctor.")])
    bundle = bundle_from_files([one, two], ["samples"])
    assert not set(bundle.test["prompt"]) & {*bundle.trusted["prompt"], *bundle.validation["prompt"]}


def test_the_test_part_of_pubmedqa_in_a_file_of_its_own_is_evaluated_whole(write, tmp_path):
    rows = [
        {"pubid": i, "question": f"Does drug {i} help?", "context": {"contexts": [f"abstract {i}"]},
         "long_answer": f"It helps {i}.", "final_decision": "yes"}
        for i in range(60)
    ]  # fmt: skip
    bundle = bundle_from_files([write("all.jsonl", rows)], ["samples"])
    save_seen(tmp_path, bundle)
    held_out = write("test.jsonl", [rows[int(name)] for name in bundle.test["id"]])
    assert ids(evaluation_examples([held_out], seen=load_seen(tmp_path))) == ids(bundle.test)


def test_a_file_whose_labelled_examples_are_all_held_out_is_named(write):
    data = write("q.jsonl", [{**row, "id": f"i{i}"} for i, row in enumerate(replies(5))])
    with pytest.raises(
        ICFTError, match=r"q.jsonl: none of the 5 labelled examples is left for validation \(--test-ids"
    ):
        bundle_from_files([data], ["samples"], write("ids.txt", "".join(f'"i{i}"\n' for i in range(5))))
