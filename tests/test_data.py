"""The bundled samples: the files are what the tables give, agree with them, and match the data card."""

import os
import re
import subprocess
import sys
from collections import Counter, defaultdict

import pytest
from sample_files import (
    ANSWER,
    BY_SIGN,
    DATA,
    HELD_OUT,
    PRESENTATIONS,
    PRETRAINING,
    SEEN,
    TABLES,
    build,
    examples_of,
    normalize,
    presentation,
    prompt,
    read_files,
    right_answer,
    signs,
)


@pytest.fixture(scope="module")
def files():
    return read_files()


# ---------------------------------------------------------------- files and tables


def test_the_files_are_what_the_tables_give():
    done = subprocess.run(
        [sys.executable, str(DATA / "build.py"), "--check"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert done.returncode == 0, done.stderr


def test_check_finds_a_changed_file(files, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "HERE", tmp_path)
    monkeypatch.setattr(build, "build", lambda: {"medical_test.jsonl": files["medical_test.jsonl"]})
    monkeypatch.setattr(sys, "argv", ["build.py"])
    build.main()
    monkeypatch.setattr(sys, "argv", ["build.py", "--check"])
    build.main()
    (tmp_path / "medical_test.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="medical_test.jsonl"):
        build.main()


def test_size():
    files = (path for path in DATA.rglob("*") if "__pycache__" not in path.parts and path.is_file())
    assert sum(path.stat().st_size for path in files) <= 6e6


def test_counts(files):
    facts = {name: len(TABLES.read(name)) for name in ("organisms", "vitamins", "hormones", "ranges")}
    hard = {example["entity"] for example in examples_of(files, SEEN + HELD_OUT) if example["level"] == "hard"}
    counts = {name: len(TABLES.read(name)) for name in ("terms", "drugs", "presentations", "countries")}
    counts |= dict(facts=sum(facts.values()), vignettes=len(hard))
    print(counts, facts)
    least = dict(terms=200, drugs=250, presentations=30, countries=190, facts=100, vignettes=150)
    assert all(counts[name] >= least[name] for name in least)


def test_ids_are_unique(files):
    names = [name for name in files if name not in PRETRAINING and not name.startswith("gold/")]
    assert max(Counter(example["id"] for example in examples_of(files, names)).values()) == 1


def test_levels_are_easy_medium_and_hard(files):
    levels = {example["level"] for example in examples_of(files, SEEN + HELD_OUT)}
    assert levels == {"easy", "medium", "hard"}


@pytest.mark.parametrize(
    "name,key",
    [
        ("terms", "term"),
        ("drugs", "drug"),
        ("organisms", "organism"),
        ("vitamins", "nutrient"),
        ("hormones", "hormone"),
        ("ranges", "test"),
        ("anatomy", "part"),
        ("countries", "country"),
        ("animals", "animal"),
        ("objects", "object"),
        ("presentations", "id"),
    ],
)
def test_tables_have_no_repeated_entities_and_no_empty_cells(name, key):
    rows = TABLES.read(name)
    assert len({row[key].lower() for row in rows}) == len(rows)
    optional = {"animals", "objects", "countries"}
    assert all(None not in row.values() and (name in optional or all(row.values())) for row in rows)


def test_terms_consist_of_their_root_and_affix():
    organ = {row["root"]: row["meaning"] for row in TABLES.read("roots")}
    template = {row["affix"]: row["template"] for row in TABLES.read("affixes")}
    for row in TABLES.read("terms"):
        assert row["term"].startswith(row["root"]) and row["term"].endswith(row["affix"]), row
        assert row["meaning"] == template[row["affix"]].format(organ=organ[row["root"]]), row


def test_a_drug_has_one_stem_and_the_class_and_use_of_the_stem():
    stems = {row["stem"]: row for row in TABLES.read("drug_stems")}
    for row in TABLES.read("drugs"):
        found = [
            stem
            for stem in stems
            if (row["drug"].startswith(stem[:-1]) if stem.endswith("-") else row["drug"].endswith(stem[1:]))
        ]
        assert found == [row["stem"]], (row, found)
        assert (row["class"], row["use"]) == (stems[row["stem"]]["class"], stems[row["stem"]]["use"])


def test_a_sign_belongs_to_one_presentation():
    assert len(BY_SIGN) == sum(len(signs(row)) for row in PRESENTATIONS)
    advice = defaultdict(set)
    for row in PRESENTATIONS:
        advice[row["advice"]].add(row["urgency"])
        assert row["explanation"].startswith("This may be ")
    assert all(len(urgencies) == 1 for urgencies in advice.values())


def test_the_answers_in_the_table_also_true_exist():
    answers = defaultdict(set)
    for (topic, _), answer in ANSWER.items():
        answers[topic].add(answer)
    answers["department"] = {row["department"] for row in PRESENTATIONS}
    answers["relevance"] = {row["condition"] for row in PRESENTATIONS}
    for row in TABLES.read("also_true"):
        known = answers[row["topic"]]
        if row["topic"] == "terminology":
            known = {word for answer in known for word in re.split(r" (?:of|in|into) the ", answer)}
        assert {row["answer"], row["also"]} <= known, row


def test_the_templates_of_one_split_are_in_no_other_split():
    topics = {topic for topic, _ in TABLES.templates}
    for topic in topics:
        by_split = {
            split: {normalize(template) for template, _ in TABLES.templates[topic, split]}
            for split in ("train", "validation", "test")
        }
        assert len(by_split["train"]) >= 4 and len(by_split["test"]) >= 2, topic
        assert sum(map(len, by_split.values())) == len(set.union(*by_split.values())), topic


# ---------------------------------------------------------------- answers


def test_gold_agrees_with_the_tables(files):
    gold = {row["id"]: row["answer"] for row in files["gold/medical_pool_questions.jsonl"]}
    pool = files["medical_pool_questions.jsonl"]
    assert gold.keys() == {example["id"] for example in pool}
    assert all(example["choices"][gold[example["id"]]] == right_answer(example) for example in pool)


def test_pairs_agree_with_the_tables(files):
    gold = {row["id"]: row["answer"] for row in files["gold/medical_pool_pairs.jsonl"]}
    pool = files["medical_pool_pairs.jsonl"]
    assert gold.keys() == {pair["id"] for pair in pool}
    pairs = examples_of(files, ("medical_validation_pairs.jsonl", "medical_test_pairs.jsonl"))
    for pair in pool:
        chosen, rejected = ("response_a", "response_b")[:: 1 if gold[pair["id"]] == 0 else -1]
        pairs.append(dict(pair, chosen=pair[chosen], rejected=pair[rejected]))
    for pair in pairs:
        row = presentation(pair)
        reply = f"{row['explanation']}. {row['advice']}"
        team = f"{row['explanation']}. The {row['department']} team should see you."
        if pair["topic"] == "safety":
            (other,) = {other["urgency"] for other in PRESENTATIONS if other["advice"] == pair["rejected"]}
            assert pair["chosen"] == row["advice"] and other != row["urgency"]
        elif pair["topic"] == "relevance":
            (other,) = [it for it in PRESENTATIONS if pair["rejected"].startswith(it["explanation"] + ".")]
            assert pair["chosen"] == reply and other["urgency"] == row["urgency"] and other != row
            assert not TABLES.also_true("relevance", row["condition"], other["condition"])
        else:  # signs never contain these words, so they are the question's
            wants_team = re.search(r"who should|which (team|department)|where", prompt(pair).lower())
            assert (pair["chosen"], pair["rejected"]) == ((team, reply) if wants_team else (reply, team))


def test_trusted_and_test_examples_agree_with_the_tables(files):
    for example in files["medical_train.jsonl"] + files["medical_test_replies.jsonl"]:
        if example["topic"] == "reply":
            row = presentation(example)
            assert example["completion"] == f"{row['explanation']}. {row['advice']}"
            assert len(example["facts"]) == 2
            assert all(normalize(fact) in normalize(example["completion"]) for fact in example["facts"])
        else:
            assert example["completion"] == right_answer(example)
    for example in files["medical_validation.jsonl"] + files["medical_test.jsonl"]:
        assert example["answer"] == right_answer(example)


def test_wrong_options_are_of_the_topic_and_wrong(files):
    options = defaultdict(set)
    for (topic, _), answer in ANSWER.items():
        options[topic].add(answer)
    for topic in ("urgency", "department"):
        options[topic] = {row[topic] for row in PRESENTATIONS}
    for example in examples_of(files, [f"medical_{part}.jsonl" for part in ("pool_questions", "validation", "test")]):
        topic, choices, right = example["topic"], example["choices"], right_answer(example)
        assert len(set(choices)) == len(choices) == (3 if topic == "urgency" else 4)
        assert set(choices) <= options[topic] and right in choices
        assert not [other for other in choices if TABLES.also_true(topic, right, other)], example


def test_general_answers_are_among_their_choices(files):
    for example in examples_of(files, ("general_validation.jsonl", "general_test.jsonl")):
        assert example["answer"] in example["choices"] and len(set(example["choices"])) == 4


# ---------------------------------------------------------------- the data card


def test_the_counts_in_the_data_card_are_right(files):
    card = (DATA / "README.md").read_text(encoding="utf-8")
    table = [[cell.strip() for cell in line.split("|")] for line in card.splitlines() if line[:2] == "| "]
    stated = {cells[1]: cells[2] for cells in table}
    assert {name: stated.get(name) for name in files} == {name: str(len(found)) for name, found in files.items()}
    by_topic = {cells[1]: (cells[2], cells[4:8]) for cells in table if len(cells) == 10}
    level = {example["topic"]: example["level"] for example in examples_of(files, SEEN + HELD_OUT)}
    for topic in level:
        counts = [
            sum(example["topic"] == topic for name in files if name.startswith(part) for example in files[name])
            for part in ("medical_train", "medical_pool", "medical_validation", "medical_test")
        ]
        assert by_topic[topic] == (level[topic], [str(count or "") for count in counts]), topic
