"""The bundled samples leak nothing: no test content in training, and no answer that is visible without knowledge."""

import re
from collections import Counter, defaultdict
from math import sqrt

import numpy as np
import pytest
from sample_files import (
    ANSWER,
    BY_SIGN,
    COMBINATION_TOPICS,
    FAMILIES,
    HELD_OUT,
    PRESENTATIONS,
    PRETRAINING,
    RESPONSES,
    RULES,
    SEEN,
    TABLES,
    build,
    examples_of,
    normalize,
    prompt,
    read_files,
    text,
    within,
)

GENERAL_TESTS = ("general_validation.jsonl", "general_test.jsonl")
GENERAL_SEEN = (*PRETRAINING, "general_memory.jsonl")


@pytest.fixture(scope="module")
def files():
    return read_files()


# ---------------------------------------------------------------- held-out content is in no training file


def test_no_held_out_prompt_was_seen(files):
    seen = {normalize(prompt(example)) for example in examples_of(files, SEEN + GENERAL_SEEN)}
    held_out = examples_of(files, HELD_OUT + GENERAL_TESTS)
    assert not [prompt(example) for example in held_out if normalize(prompt(example)) in seen]
    for domain in ("medical", "general"):
        validation, test = (
            {
                normalize(prompt(example))
                for name in files
                if name.startswith(f"{domain}_{split}")
                for example in files[name]
            }
            for split in ("validation", "test")
        )
        assert not validation & test


def test_no_held_out_term_or_drug_was_seen(files):
    for topic in RULES:
        held_out = {example["entity"] for example in examples_of(files, HELD_OUT) if example["topic"] == topic}
        assert len(held_out) > 50
        words = set(" ".join(normalize(text(example)) for example in examples_of(files, SEEN)).split())
        assert not held_out & words
        split = {entity: where for other, entity, _, where in build.medical_items(TABLES) if other == topic}
        assert {split[entity] for entity in held_out} == {"validation", "test"}


def test_the_parts_of_held_out_words_are_taught(files):
    """Every root, affix and stem of a held-out word occurs in training or pool, so that a rule can be learned."""
    seen = {example["entity"] for example in examples_of(files, SEEN)}
    for name, key, parts in (("terms", "term", ("root", "affix")), ("drugs", "drug", ("stem",))):
        rows = TABLES.read(name)
        for part in parts:
            taught = {row[part] for row in rows if row[key] in seen}
            assert not [row for row in rows if row[key] not in seen and row[part] not in taught]


def test_all_facts_are_taught_and_tested(files):
    taught = {(example["topic"], example["entity"]) for example in examples_of(files, SEEN)}
    facts = [example for example in files["medical_test.jsonl"] if example["kind"] == "fact"]
    tested = {(example["topic"], example["entity"]) for example in facts}
    assert tested == {key for key in ANSWER if key[0] not in RULES} and tested <= taught


def test_no_held_out_vignette_was_seen(files):
    hard = {name: [example for example in files[name] if example["level"] == "hard"] for name in SEEN + HELD_OUT}
    seen = {frozenset(example["entity"].split("; ")) for name in SEEN for example in hard[name]}
    held_out = {frozenset(example["entity"].split("; ")) for name in HELD_OUT for example in hard[name]}
    assert len(held_out) == 3 * len(PRESENTATIONS)
    assert not [signs for signs in held_out if any(signs <= other for other in seen)]
    for name in SEEN + HELD_OUT:  # the entity lists the signs in the text, so the check above is about texts
        for example in hard[name]:
            assert all(normalize(sign) in normalize(prompt(example)) for sign in example["entity"].split("; "))


def combinations(examples):
    """Return topic → what the prompts ask about, in order: ("12", "7"), ("cat", "sky", "run")."""
    patterns = []
    for topic in COMBINATION_TOPICS:
        for template, _ in sum((TABLES.templates[topic, split] for split in ("train", "validation", "test")), []):
            part = r"(?P<\1>\\w+)" if topic == "last_word" else r"(?P<\1>\\d+)"
            patterns.append((topic, re.compile(re.sub(r"\\{(\w)\\}", part, re.escape(template)))))
    found = defaultdict(set)
    for example in examples:
        for topic, pattern in patterns:
            if example.get("topic", topic) == topic and (match := pattern.fullmatch(prompt(example))):
                found[topic].add(tuple(match[name] for name in sorted(match.groupdict())))
    return found


def test_no_held_out_general_combination_was_seen(files):
    tested = examples_of(files, GENERAL_TESTS)
    seen, held_out = combinations(examples_of(files, GENERAL_SEEN)), combinations(tested)
    for topic in COMBINATION_TOPICS:
        assert len(held_out[topic]) == sum(example["topic"] == topic for example in tested)
        assert len(seen[topic]) > 500 and not held_out[topic] & seen[topic]
    for topic in ("addition", "comparison"):
        reversed_seen = sum(key[::-1] in seen[topic] for key in held_out[topic])
        print(f"{topic}: {len(held_out[topic])} held out as a, b; {reversed_seen} of them were taught as b, a")


def test_people_in_tested_reading_passages_are_new(files):
    seen = examples_of(files, GENERAL_SEEN)
    tested = [example for example in examples_of(files, GENERAL_TESTS) if example["topic"] == "reading"]
    people = {row["name"] for row in TABLES.read("names")}
    names = {name for example in tested for name in re.findall(r"\w+", example["entity"]) if name in people}
    words = " ".join(text(example) for example in seen).replace("Saint Lucia", "")  # a country, not a person
    assert len(names) > 20 and not names & set(re.findall(r"\w+", words))
    passages = {normalize(example["entity"]).strip() for example in tested}
    assert not [example for example in seen if any(passage in normalize(prompt(example)) for passage in passages)]


def test_tested_general_facts_are_not_in_the_memory(files):
    """Neither as an example's entity, nor stated in the text of an example about another entity."""
    tested = [example for example in examples_of(files, GENERAL_TESTS) if example["kind"] == "fact"]
    held = {(FAMILIES.get(one["topic"], one["topic"]), one["entity"]): one["answer"] for one in tested}
    memory = files["general_memory.jsonl"]
    assert len(held) > 200
    assert not [one for one in memory if (FAMILIES.get(one["topic"], one["topic"]), one["entity"]) in held]
    stated = [(normalize(one["entity"]), normalize(f"{one['entity']} {one['completion']}")) for one in memory]
    for (_, entity), answer in held.items():
        entity, answer = normalize(entity), normalize(answer)
        for about, words in stated:
            if entity in words and answer in words:  # "Guinea" is inside Guinea-Bissau, another country
                assert entity in about and entity != about, (entity, about)


@pytest.fixture(scope="module")
def pretraining(files):
    """(texts, {word: indices of the texts that contain it})."""
    texts = [normalize(text(example)) for example in examples_of(files, PRETRAINING)]
    indices = defaultdict(set)
    for i, line in enumerate(texts):
        for word in line.split():
            indices[word].add(i)
    return texts, indices


def texts_with(pretraining, *phrases):
    """Return the texts that contain every phrase as whole words."""
    texts, indices = pretraining
    candidates = set.intersection(*(indices[word] for phrase in phrases for word in normalize(phrase).split()))
    return [texts[i] for i in sorted(candidates) if all(normalize(phrase) in texts[i] for phrase in phrases)]


def test_pretraining_states_no_medical_fact(pretraining):
    for (topic, entity), answer in ANSWER.items():
        assert not texts_with(pretraining, entity, answer), (topic, entity)


def test_pretraining_combines_signs_and_teams_only_by_chance(pretraining):
    """Random lists combine signs with teams and levels: with the right ones no more often than chance."""
    for column in ("department", "urgency"):
        values = {row[column] for row in PRESENTATIONS}
        counts = {(sign, value): len(texts_with(pretraining, sign, value)) for sign in BY_SIGN for value in values}
        right, total = sum(counts[sign, row[column]] for sign, row in BY_SIGN.items()), sum(counts.values())
        print(
            f"{len(pretraining[0])} texts: {total} combine a sign with a {column}, {right} of them with the right one"
        )
        assert total < 0.01 * len(pretraining[0])
        assert right <= total / len(values) + 2.58 * sqrt(total / len(values)) + 1


# ---------------------------------------------------------------- the pool does not reveal its answers


def test_no_column_of_the_pool_reveals_the_answer(files):
    common = {"id", "topic", "level", "kind", "entity"}
    for name, columns in (("questions", {"question", "choices"}), ("pairs", {"prompt", "response_a", "response_b"})):
        for position, example in enumerate(files[f"medical_pool_{name}.jsonl"]):
            assert example.keys() == common | columns
            assert int(example["id"].split("-")[-1]) == position  # numbered after shuffling
            assert all(normalize(part) in normalize(prompt(example)) for part in example["entity"].split("; "))


def test_the_right_answer_is_at_each_position_equally_often(files):
    def balanced(positions, k):
        return all(within(positions[i], positions.total(), 1 / k) for i in range(k))

    for kind, sizes in (("questions", (3, 4)), ("pairs", (2,))):
        gold = {row["id"]: row["answer"] for row in files[f"gold/medical_pool_{kind}.jsonl"]}
        examples = files[f"medical_pool_{kind}.jsonl"]
        for k in sizes:
            positions = Counter(gold[one["id"]] for one in examples if len(one.get("choices", "ab")) == k)
            print(f"position of the right answer, pool {kind}, {k} options:", sorted(positions.items()))
            assert balanced(positions, k)
    for name in ("medical_validation", "medical_test", "general_validation", "general_test"):
        for k in (3, 4):
            examples = [example for example in files[f"{name}.jsonl"] if len(example["choices"]) == k]
            assert balanced(Counter(one["choices"].index(one["answer"]) for one in examples), k), name


def test_neighbors_in_the_pool_are_independent(files):
    """The pool is shuffled: an example's answer does not predict that of the next one, as it would if sorted."""
    gold = {row["id"]: row["answer"] for row in files["gold/medical_pool_questions.jsonl"]}
    pool = files["medical_pool_questions.jsonl"]
    answers = [example["choices"][gold[example["id"]]] for example in pool]
    expected = sum((count / len(pool)) ** 2 for count in Counter(answers).values())
    assert within(sum(map(str.__eq__, answers, answers[1:])), len(pool) - 1, expected)


# ---------------------------------------------------------------- surface features do not solve the pairs


def ngrams(words, longest):
    return [" ".join(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1)]


def count_vectors(documents, vocabulary):
    vectors = np.zeros((len(documents), len(vocabulary)))
    for i, document in enumerate(documents):
        for gram in document:
            if gram in vocabulary:
                vectors[i, vocabulary[gram]] += 1
    return vectors


def fit_logistic(x, y, steps=400, l2=1e-3):
    """Return the weights of a logistic regression, fitted by gradient descent. x: [n, d]; y: [n] in {0, 1}."""
    x = np.hstack([x, np.ones((len(x), 1))])
    rate, weights = 4 / np.linalg.norm(x, 2) ** 2 * len(x), np.zeros(x.shape[1])
    for _ in range(steps):
        weights -= rate * (x.T @ (1 / (1 + np.exp(-x @ weights)) - y) / len(x) + l2 * weights)
    return weights


def predict_logits(train, labels, test):
    """Return logits of the test documents: logistic regression on a bag of n-grams for each part of a document."""
    known = sorted({gram for document in train for part in document for gram in part})
    vocabulary = {gram: i for i, gram in enumerate(known)}
    x, x_test = (
        np.hstack([count_vectors(part, vocabulary) for part in zip(*documents, strict=True)])
        for documents in (train, test)
    )
    weights = fit_logistic(x, labels)
    accuracy = ((x @ weights[:-1] + weights[-1] > 0) == labels).mean()
    assert accuracy >= 0.55, "the regression learned nothing, so it shows nothing"
    return x_test @ weights[:-1] + weights[-1]


def test_pairs_cannot_be_solved_by_surface_features(files):
    gold = {row["id"]: row["answer"] for row in files["gold/medical_pool_pairs.jsonl"]}
    pool, test = files["medical_pool_pairs.jsonl"], files["medical_test_pairs.jsonl"]
    labels = np.array([gold[pair["id"]] == 0 for pair in pool])
    first = np.arange(len(test)) % 2 == 0  # the chosen response comes first in half of the test pairs
    pool_texts = [(prompt(pair), pair["response_a"], pair["response_b"]) for pair in pool]
    test_texts = [
        (prompt(pair), *(pair[key] for key in ("chosen", "rejected")[:: 1 if chosen_first else -1]))
        for pair, chosen_first in zip(test, first, strict=True)
    ]

    def accuracy(score):
        """Return the accuracy of preferring the response with the higher score; a tie counts as half."""
        gaps = [score(prompt(pair), pair["chosen"]) - score(prompt(pair), pair["rejected"]) for pair in test]
        return np.mean((1 + np.sign(gaps)) / 2)

    def overlap(question, response):
        return len(set(normalize(question).split()) & set(normalize(response).split()))

    def model(longest, use_prompt):
        train, tested = (
            [
                [ngrams(normalize(part).split(), longest) for part in (pair if use_prompt else pair[1:])]
                for pair in texts
            ]
            for texts in (pool_texts, test_texts)
        )
        return np.mean((predict_logits(train, labels, tested) > 0) == first)

    accuracies = {
        "longer": accuracy(lambda _, response: len(response)),
        "shorter": accuracy(lambda _, response: -len(response)),
        "more words": accuracy(lambda _, response: len(response.split())),
        "words shared with the prompt": accuracy(overlap),
        "fewer words shared": accuracy(lambda question, response: -overlap(question, response)),
        "share of its words in the prompt": accuracy(lambda q, r: overlap(q, r) / len(set(normalize(r).split()))),
        "bag of words of prompt, a and b": model(1, use_prompt=True),
        "words of the responses": model(1, use_prompt=False),
        "1- to 3-grams of the responses": model(3, use_prompt=False),
    }
    print(Counter(pair["topic"] for pair in test))
    print(*(f"{name:34} {value:.3f}" for name, value in accuracies.items()), sep="\n")
    assert max(accuracies.values()) <= 0.60, accuracies


def test_each_response_is_chosen_as_often_as_rejected(files):
    for name in ("medical_validation_pairs.jsonl", "medical_test_pairs.jsonl"):
        chosen, rejected = (Counter((pair["topic"], pair[key]) for pair in files[name]) for key in RESPONSES[2:])
        assert chosen == rejected
    for name in ("medical_pool_pairs.jsonl", "medical_test_pairs.jsonl"):
        pairs = [(prompt(pair), *sorted(pair.get(key, "") for key in RESPONSES)) for pair in files[name]]
        assert len(set(pairs)) == len(pairs), "a pair occurs twice"
