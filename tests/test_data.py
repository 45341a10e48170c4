"""The samples: are the files what the tables give, true to them, free of leaks, and not solvable by looks?"""

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from math import sqrt
from pathlib import Path

import numpy as np
import pytest

DATA = Path(__file__).parents[1] / "data_samples"
spec = importlib.util.spec_from_file_location("build_samples", DATA / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

RULES = ("terminology", "drug_class", "drug_use")
SEEN = ("medical_train.jsonl", "medical_pool_questions.jsonl", "medical_pool_pairs.jsonl")
HELD_OUT = (
    "medical_validation.jsonl",
    "medical_validation_pairs.jsonl",
    "medical_test.jsonl",
    "medical_test_pairs.jsonl",
    "medical_test_replies.jsonl",
)
RESPONSES = ("response_a", "response_b", "chosen", "rejected")
PRETRAINING = ("general_pretrain.jsonl", "words.jsonl")


def read(name):
    with open(DATA / name, encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def files():
    names = sorted(str(path.relative_to(DATA).as_posix()) for path in DATA.rglob("*.jsonl"))
    return {name: read(name) for name in names}


def plain(text):
    """Lower-case words and numbers, one space between: ' like this '. A sum is not a difference."""
    return " ".join(["", *re.findall(r"[^\W_]+|(?<= )[+-](?= )", text.lower()), ""])


def prompt(row):
    return row.get("prompt") or row["question"]


def text(row):
    """Everything of a row that a model could read."""
    return " ".join(
        [prompt(row), *row.get("choices", []), row.get("completion", ""), *(row.get(key, "") for key in RESPONSES)]
    )


def rows_of(files, names):
    return [row for name in names for row in files[name]]


def within(count, n, p, z=2.58):
    """Is count inside the 99 % interval of a binomial(n, p)?"""
    return abs(count - n * p) <= z * sqrt(n * p * (1 - p)) + 1


def signs(row):
    return [sign.strip() for sign in row["symptoms"].split(";")]


PRESENTATIONS = build.table("presentations")
OF_SIGN = {sign: row for row in PRESENTATIONS for sign in signs(row)}
ANSWER = {
    (topic, entity): build.fill(build.W[topic, "train"][0][1], fields)
    for topic, entity, fields, _ in build.medical_items()
}


def right_answer(row):
    """What the tables say, found by topic and entity."""
    if row["topic"] in ("urgency", "department"):
        return OF_SIGN[row["entity"].split("; ")[0]][row["topic"]]
    return ANSWER[row["topic"], row["entity"]]


# ---------------------------------------------------------------- files and tables


def test_files_are_what_the_tables_give():
    done = subprocess.run(
        [sys.executable, str(DATA / "build.py"), "--check"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert done.returncode == 0, done.stderr


def test_check_notices_a_changed_file(files, tmp_path, monkeypatch):
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
    assert (
        sum(path.stat().st_size for path in DATA.rglob("*") if "__pycache__" not in path.parts and path.is_file())
        <= 6e6
    )


def test_counts(files):
    facts = {name: len(build.table(name)) for name in ("organisms", "vitamins", "hormones", "ranges")}
    vignettes = {row["entity"] for row in rows_of(files, SEEN + HELD_OUT) if row["level"] == "hard"}
    counts = {name: len(build.table(name)) for name in ("terms", "drugs", "presentations", "countries")}
    counts |= dict(facts=sum(facts.values()), vignettes=len(vignettes))
    print(counts, facts)
    least = dict(terms=200, drugs=250, presentations=30, countries=190, facts=100, vignettes=150)
    assert all(counts[name] >= least[name] for name in least)


def test_ids_are_unique(files):
    named = [
        row for name, rows in files.items() if name not in PRETRAINING and not name.startswith("gold/") for row in rows
    ]
    assert max(Counter(row["id"] for row in named).values()) == 1


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
def test_tables_name_a_thing_once_and_leave_nothing_out(name, key):
    rows = build.table(name)
    assert len({row[key].lower() for row in rows}) == len(rows)
    optional = {"animals", "objects", "countries"}
    assert all(None not in row.values() and (name in optional or all(row.values())) for row in rows)


def test_terms_are_made_of_their_parts():
    organ = {row["root"]: row["meaning"] for row in build.table("roots")}
    template = {row["affix"]: row["template"] for row in build.table("affixes")}
    for row in build.table("terms"):
        assert row["term"].startswith(row["root"]) and row["term"].endswith(row["affix"]), row
        assert row["meaning"] == template[row["affix"]].format(organ=organ[row["root"]]), row


def test_a_drug_has_one_stem_and_what_the_stem_says():
    stems = {row["stem"]: row for row in build.table("drug_stems")}
    for row in build.table("drugs"):
        found = [
            stem
            for stem in stems
            if (row["drug"].startswith(stem[:-1]) if stem.endswith("-") else row["drug"].endswith(stem[1:]))
        ]
        assert found == [row["stem"]], (row, found)
        assert (row["class"], row["use"]) == (stems[row["stem"]]["class"], stems[row["stem"]]["use"])


def test_a_sign_belongs_to_one_presentation():
    assert len(OF_SIGN) == sum(len(signs(row)) for row in PRESENTATIONS)
    advice = defaultdict(set)
    for row in PRESENTATIONS:
        advice[row["advice"]].add(row["urgency"])
        assert row["explanation"].startswith("This may be ")
    assert all(len(levels) == 1 for levels in advice.values())


def test_the_table_of_answers_that_are_also_true_names_answers():
    answers = defaultdict(set)
    for (topic, _), answer in ANSWER.items():
        answers[topic].add(answer)
    answers["department"] = {row["department"] for row in PRESENTATIONS}
    answers["relevance"] = {row["condition"] for row in PRESENTATIONS}
    for row in build.table("also_true"):
        for column in ("answer", "also"):
            known = answers[row["topic"]]
            if row["topic"] == "terminology":
                known = {word for answer in known for word in re.split(r" (?:of|in|into) the ", answer)}
            assert row[column] in known, row


def test_wordings_of_one_split_are_of_that_split_only():
    topics = {topic for topic, _ in build.W}
    for topic in topics:
        by_split = {
            split: {plain(template) for template, _ in build.W[topic, split]}
            for split in ("train", "validation", "test")
        }
        assert len(by_split["train"]) >= 4 and len(by_split["test"]) >= 2, topic
        assert sum(map(len, by_split.values())) == len(set.union(*by_split.values())), topic


# ---------------------------------------------------------------- answers


def test_gold_agrees_with_the_tables(files):
    gold = {row["id"]: row["answer"] for row in files["gold/medical_pool_questions.jsonl"]}
    pool = files["medical_pool_questions.jsonl"]
    assert gold.keys() == {row["id"] for row in pool}
    assert all(row["choices"][gold[row["id"]]] == right_answer(row) for row in pool)


def test_pairs_agree_with_the_tables(files):
    gold = {row["id"]: row["answer"] for row in files["gold/medical_pool_pairs.jsonl"]}
    pool = files["medical_pool_pairs.jsonl"]
    assert gold.keys() == {row["id"] for row in pool}
    rows = rows_of(files, ("medical_validation_pairs.jsonl", "medical_test_pairs.jsonl"))
    for row in pool:
        chosen, rejected = ("response_a", "response_b")[:: 1 if gold[row["id"]] == 0 else -1]
        rows.append(dict(row, chosen=row[chosen], rejected=row[rejected]))
    for row in rows:
        about = OF_SIGN[row["entity"].split("; ")[0]]
        reply = f"{about['explanation']}. {about['advice']}"
        team = f"{about['explanation']}. The {about['department']} team should see you."
        if row["topic"] == "safety":
            (other,) = {other["urgency"] for other in PRESENTATIONS if other["advice"] == row["rejected"]}
            assert row["chosen"] == about["advice"] and other != about["urgency"]
        elif row["topic"] == "relevance":
            (other,) = [it for it in PRESENTATIONS if row["rejected"].startswith(it["explanation"] + ".")]
            assert row["chosen"] == reply and other["urgency"] == about["urgency"] and other != about
            assert not build.also_true("relevance", about["condition"], other["condition"])
        else:  # the signs say nothing of a team, so these words are the question's
            asks_where = re.search(r"who should|which (team|department)|where", prompt(row).lower())
            assert (row["chosen"], row["rejected"]) == ((team, reply) if asks_where else (reply, team))


def test_trusted_rows_and_test_rows_agree_with_the_tables(files):
    for row in files["medical_train.jsonl"] + files["medical_test_replies.jsonl"]:
        if row["topic"] == "reply":
            about = OF_SIGN[row["entity"].split("; ")[0]]
            assert row["completion"] == f"{about['explanation']}. {about['advice']}"
            assert len(row["facts"]) == 2
            assert all(plain(fact) in plain(row["completion"]) for fact in row["facts"])
        else:
            assert row["completion"] == right_answer(row)
    for row in files["medical_validation.jsonl"] + files["medical_test.jsonl"]:
        assert row["answer"] == right_answer(row)


def test_wrong_options_are_of_the_topic_and_wrong(files):
    options = defaultdict(set)
    for (topic, _), answer in ANSWER.items():
        options[topic].add(answer)
    for topic in ("urgency", "department"):
        options[topic] = {row[topic] for row in PRESENTATIONS}
    for row in rows_of(files, [f"medical_{part}.jsonl" for part in ("pool_questions", "validation", "test")]):
        right = right_answer(row)
        assert len(set(row["choices"])) == len(row["choices"]) == (3 if row["topic"] == "urgency" else 4)
        assert set(row["choices"]) <= options[row["topic"]] and right in row["choices"]
        assert not [other for other in row["choices"] if build.also_true(row["topic"], right, other)], row


def test_general_answers_are_among_their_choices(files):
    for row in rows_of(files, ("general_validation.jsonl", "general_test.jsonl")):
        assert row["answer"] in row["choices"] and len(set(row["choices"])) == 4


# ---------------------------------------------------------------- nothing leaks


def test_no_held_out_prompt_was_seen(files):
    seen = {plain(prompt(row)) for row in rows_of(files, SEEN + PRETRAINING + ("general_memory.jsonl",))}
    held_out = rows_of(files, HELD_OUT + ("general_validation.jsonl", "general_test.jsonl"))
    assert not [prompt(row) for row in held_out if plain(prompt(row)) in seen]
    for kind in ("medical", "general"):
        validation, test = (
            {plain(prompt(row)) for name in files if name.startswith(f"{kind}_{split}") for row in files[name]}
            for split in ("validation", "test")
        )
        assert not validation & test


def test_no_held_out_term_or_drug_was_seen(files):
    for topic in RULES:
        held_out = {row["entity"] for row in rows_of(files, HELD_OUT) if row["topic"] == topic}
        assert len(held_out) > 50
        words = set(" ".join(plain(text(row)) for row in rows_of(files, SEEN)).split())
        assert not held_out & words
        split = {entity: where for other, entity, _, where in build.medical_items() if other == topic}
        assert {split[entity] for entity in held_out} == {"validation", "test"}


def test_parts_of_what_is_held_out_are_taught(files):
    """Every root, ending and stem of a held-out word occurs in training or pool: a rule can be learned."""
    seen = {row["entity"] for row in rows_of(files, SEEN)}
    for name, key, parts in (("terms", "term", ("root", "affix")), ("drugs", "drug", ("stem",))):
        rows = build.table(name)
        for part in parts:
            taught = {row[part] for row in rows if row[key] in seen}
            assert not [row for row in rows if row[key] not in seen and row[part] not in taught]


def test_facts_learned_by_heart_are_taught_and_tested_in_other_words(files):
    taught = {(row["topic"], row["entity"]) for row in rows_of(files, SEEN)}
    tested = {(row["topic"], row["entity"]) for row in files["medical_test.jsonl"] if row["kind"] == "fact"}
    assert tested == {key for key in ANSWER if key[0] not in RULES} and tested <= taught


def test_no_held_out_vignette_was_seen(files):
    hard = {name: [row for row in files[name] if row["level"] == "hard"] for name in SEEN + HELD_OUT}
    seen = {frozenset(row["entity"].split("; ")) for name in SEEN for row in hard[name]}
    held_out = {frozenset(row["entity"].split("; ")) for name in HELD_OUT for row in hard[name]}
    assert len(held_out) == 3 * len(PRESENTATIONS)
    assert not [signs for signs in held_out if any(signs <= other for other in seen)]
    for name in SEEN + HELD_OUT:  # an entity says what the text shows, so the check above is about texts
        for row in hard[name]:
            assert all(plain(sign) in plain(prompt(row)) for sign in row["entity"].split("; "))


def combinations(rows):
    """{topic: what prompts ask about, in order: ('12', '7'), ('cat', 'sky', 'run')}."""
    patterns = []
    for topic in build.UNTAUGHT:
        for template, _ in sum((build.W[topic, split] for split in ("train", "validation", "test")), []):
            part = r"(?P<\1>\\w+)" if topic == "last_word" else r"(?P<\1>\\d+)"
            patterns.append((topic, re.compile(re.sub(r"\\{(\w)\\}", part, re.escape(template)))))
    out = defaultdict(set)
    for row in rows:
        for topic, pattern in patterns:
            if row.get("topic", topic) == topic and (match := pattern.fullmatch(prompt(row))):
                out[topic].add(tuple(match[name] for name in sorted(match.groupdict())))
    return out


def test_no_held_out_general_combination_was_seen(files):
    tested = rows_of(files, ("general_validation.jsonl", "general_test.jsonl"))
    seen = combinations(rows_of(files, PRETRAINING + ("general_memory.jsonl",)))
    held_out = combinations(tested)
    for topic in build.UNTAUGHT:
        assert len(held_out[topic]) == sum(row["topic"] == topic for row in tested)
        assert len(seen[topic]) > 500 and not held_out[topic] & seen[topic]
    for topic in ("addition", "comparison"):
        twins = sum(key[::-1] in seen[topic] for key in held_out[topic])
        print(f"{topic}: {len(held_out[topic])} held out as a, b; of {twins} the twin b, a was taught")


def test_reading_passages_are_about_people_never_met(files):
    seen = rows_of(files, PRETRAINING + ("general_memory.jsonl",))
    tested = [
        row for name in ("validation", "test") for row in files[f"general_{name}.jsonl"] if row["topic"] == "reading"
    ]
    people = {row["name"] for row in build.table("names")}
    names = {name for row in tested for name in re.findall(r"\w+", row["entity"]) if name in people}
    words = " ".join(text(row) for row in seen).replace("Saint Lucia", "")  # a country, not a person
    met = names & set(re.findall(r"\w+", words))
    assert len(names) > 20 and not met
    passages = {plain(row["entity"]).strip() for row in tested}
    assert not [row for row in seen if any(passage in plain(prompt(row)) for passage in passages)]


def test_general_facts_of_the_tests_are_not_in_the_memory(files):
    """Neither as what a row is about, nor said by what a row puts into its wording."""
    family = {topic: build.FAMILY.get(topic, topic) for topic, _ in build.W}
    tested = rows_of(files, ("general_validation.jsonl", "general_test.jsonl"))
    held = {(family[row["topic"]], row["entity"]): row["answer"] for row in tested if row["kind"] == "fact"}
    memory = files["general_memory.jsonl"]
    assert len(held) > 200
    assert not [row for row in memory if (family.get(row["topic"]), row["entity"]) in held]
    said = [(plain(row["entity"]), plain(f"{row['entity']} {row['completion']}")) for row in memory]
    for (_, entity), answer in held.items():
        entity, answer = plain(entity), plain(answer)
        for about, words in said:
            if entity in words and answer in words:  # "Guinea" is inside Guinea-Bissau, another country
                assert entity in about and entity != about, (entity, about)


@pytest.fixture(scope="module")
def pretraining(files):
    """(lines, {word: numbers of the lines that have it})."""
    lines = [plain(text(row)) for row in rows_of(files, PRETRAINING)]
    where = defaultdict(set)
    for i, line in enumerate(lines):
        for word in line.split():
            where[word].add(i)
    return lines, where


def naming(pretraining, *phrases):
    """The lines that name every phrase, as whole words."""
    lines, where = pretraining
    both = set.intersection(*(where[word] for phrase in phrases for word in plain(phrase).split()))
    return [lines[i] for i in sorted(both) if all(plain(phrase) in lines[i] for phrase in phrases)]


def test_pretraining_states_no_medical_fact(pretraining):
    for (topic, entity), answer in ANSWER.items():
        assert not naming(pretraining, entity, answer), (topic, entity)


def test_pretraining_joins_signs_and_teams_only_by_chance(pretraining):
    """Random lists put any sign beside any team or level: beside its own no more often than chance."""
    for column in ("department", "urgency"):
        values = {row[column] for row in PRESENTATIONS}
        beside = {(sign, value): len(naming(pretraining, sign, value)) for sign in OF_SIGN for value in values}
        own, total = sum(beside[sign, row[column]] for sign, row in OF_SIGN.items()), sum(beside.values())
        print(f"{len(pretraining[0])} rows: {total} join a sign to a {column}, {own} of them to its own")
        assert total < 0.01 * len(pretraining[0])
        assert own <= total / len(values) + 2.58 * sqrt(total / len(values)) + 1


# ---------------------------------------------------------------- the pool tells nothing


def test_the_pool_has_no_column_that_tells(files):
    common = {"id", "topic", "level", "kind", "entity"}
    for name, columns in (("questions", {"question", "choices"}), ("pairs", {"prompt", "response_a", "response_b"})):
        for place, row in enumerate(files[f"medical_pool_{name}.jsonl"]):
            assert row.keys() == common | columns
            assert int(row["id"].split("-")[-1]) == place  # numbered in the shuffled order
            assert all(plain(part) in plain(prompt(row)) for part in row["entity"].split("; "))


def test_the_right_place_is_anywhere(files):
    def balanced(places, k):
        return all(within(places[place], places.total(), 1 / k) for place in range(k))

    for kind, sizes in (("questions", (3, 4)), ("pairs", (2,))):
        gold = {row["id"]: row["answer"] for row in files[f"gold/medical_pool_{kind}.jsonl"]}
        rows = files[f"medical_pool_{kind}.jsonl"]
        for k in sizes:
            places = Counter(gold[row["id"]] for row in rows if len(row.get("choices", "ab")) == k)
            print(f"place of the right answer, pool {kind}, {k} options:", sorted(places.items()))
            assert balanced(places, k)
    for name in ("medical_validation", "medical_test", "general_validation", "general_test"):
        for k in (3, 4):
            rows = [row for row in files[f"{name}.jsonl"] if len(row["choices"]) == k]
            assert balanced(Counter(row["choices"].index(row["answer"]) for row in rows), k), name


def test_neighbours_in_the_pool_do_not_tell(files):
    """Shuffled: the right answer of a row says nothing of the next row's (sorted by class it would)."""
    gold = {row["id"]: row["answer"] for row in files["gold/medical_pool_questions.jsonl"]}
    rows = files["medical_pool_questions.jsonl"]
    answers = [row["choices"][gold[row["id"]]] for row in rows]
    expected = sum((count / len(rows)) ** 2 for count in Counter(answers).values())
    assert within(sum(map(str.__eq__, answers, answers[1:])), len(rows) - 1, expected)


# ---------------------------------------------------------------- pairs are not solvable by looks


def grams(words, up_to):
    return [" ".join(words[i : i + n]) for n in range(1, up_to + 1) for i in range(len(words) - n + 1)]


def vectors(documents, vocabulary):
    out = np.zeros((len(documents), len(vocabulary)))
    for i, document in enumerate(documents):
        for gram in document:
            if gram in vocabulary:
                out[i, vocabulary[gram]] += 1
    return out


def logistic(x, y, steps=400, l2=1e-3):
    """Weights of a logistic regression by gradient descent. x: [n, d]; y: [n] in {0, 1}."""
    x = np.hstack([x, np.ones((len(x), 1))])
    rate, weights = 4 / np.linalg.norm(x, 2) ** 2 * len(x), np.zeros(x.shape[1])
    for _ in range(steps):
        weights -= rate * (x.T @ (1 / (1 + np.exp(-x @ weights)) - y) / len(x) + l2 * weights)
    return weights


def fitted(train, labels, test):
    """Scores of the test documents: a bag of n-grams for each part of a document, logistic regression."""
    known = sorted({gram for row in train for part in row for gram in part})
    vocabulary = {gram: i for i, gram in enumerate(known)}
    x, x_test = (np.hstack([vectors(part, vocabulary) for part in zip(*rows, strict=True)]) for rows in (train, test))
    weights = logistic(x, labels)
    assert ((x @ weights[:-1] + weights[-1] > 0) == labels).mean() >= 0.55  # it did learn something
    return x_test @ weights[:-1] + weights[-1]


def test_pairs_are_not_solvable_by_looks(files):
    gold = {row["id"]: row["answer"] for row in files["gold/medical_pool_pairs.jsonl"]}
    pool, test = files["medical_pool_pairs.jsonl"], files["medical_test_pairs.jsonl"]
    labels = np.array([gold[row["id"]] == 0 for row in pool])
    first = np.arange(len(test)) % 2 == 0  # the chosen one is shown first in half of the test pairs
    in_pool = [(prompt(row), row["response_a"], row["response_b"]) for row in pool]
    shown = [
        (prompt(row), *(row[key] for key in ("chosen", "rejected")[:: 1 if a else -1]))
        for row, a in zip(test, first, strict=True)
    ]

    def wins(score):
        """Accuracy of preferring the response with the higher score; a tie is half."""
        gaps = [score(prompt(row), row["chosen"]) - score(prompt(row), row["rejected"]) for row in test]
        return np.mean((1 + np.sign(gaps)) / 2)

    def overlap(question, response):
        return len(set(plain(question).split()) & set(plain(response).split()))

    def model(up_to, blind):
        train, tested = (
            [[grams(plain(part).split(), up_to) for part in row[blind:]] for row in rows] for rows in (in_pool, shown)
        )
        return np.mean((fitted(train, labels, tested) > 0) == first)

    figures = {
        "longer": wins(lambda _, response: len(response)),
        "shorter": wins(lambda _, response: -len(response)),
        "more words": wins(lambda _, response: len(response.split())),
        "words shared with the prompt": wins(overlap),
        "fewer words shared": wins(lambda question, response: -overlap(question, response)),
        "share of its words in the prompt": wins(lambda q, r: overlap(q, r) / len(set(plain(r).split()))),
        "bag of words of prompt, a and b": model(1, blind=False),
        "prompt-blind words": model(1, blind=True),
        "prompt-blind 1- to 3-grams": model(3, blind=True),
    }
    print(Counter(row["topic"] for row in test))
    print(*(f"{name:34} {value:.3f}" for name, value in figures.items()), sep="\n")
    assert max(figures.values()) <= 0.60, figures


def test_each_response_is_right_as_often_as_wrong(files):
    for name in ("medical_validation_pairs.jsonl", "medical_test_pairs.jsonl"):
        chosen, rejected = (Counter((row["topic"], row[key]) for row in files[name]) for key in RESPONSES[2:])
        assert chosen == rejected
    for name in ("medical_pool_pairs.jsonl", "medical_test_pairs.jsonl"):
        rows = [(prompt(row), *sorted(row.get(key, "") for key in RESPONSES)) for row in files[name]]
        assert len(set(rows)) == len(rows)  # no pair twice


# ---------------------------------------------------------------- the data card


def test_the_data_card_counts_right(files):
    card = (DATA / "README.md").read_text(encoding="utf-8")
    table = [[cell.strip() for cell in line.split("|")] for line in card.splitlines() if line[:2] == "| "]
    said = {cells[1]: cells[2] for cells in table}
    assert {name: said.get(name) for name in files} == {name: str(len(rows)) for name, rows in files.items()}
    by_topic = {cells[1]: cells[4:8] for cells in table if len(cells) == 10}
    for topic in {row["topic"] for row in rows_of(files, SEEN + HELD_OUT)}:
        counts = [
            sum(row["topic"] == topic for name in files if name.startswith(part) for row in files[name])
            for part in ("medical_train", "medical_pool", "medical_validation", "medical_test")
        ]
        assert by_topic[topic] == [str(count or "") for count in counts], topic
