"""Builds the JSONL samples from the tables in facts/. Deterministic: the same tables give the same bytes.

python data_samples/build.py            # writes beside this file
python data_samples/build.py --check    # says whether the files on disk are what the tables give
"""

import argparse
import csv
import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
FACTS = HERE / "facts"
ANIMALS, OBJECTS = ("animal_class", "animal_young", "animal_home"), ("colour", "use", "place")
BY_HEART = {
    "capital",
    "continent",
    *ANIMALS,
    "opposite",
    *OBJECTS,
    "anatomy",
    "vitamins",
    "organisms",
    "hormones",
    "ranges",
}
FEW = {"vitamins", "hormones", "ranges"}  # topics of under 30 facts: each is asked for in more ways
LEVELS = {
    "terminology": "easy",
    "anatomy": "easy",
    "drug_class": "middle",
    "drug_use": "middle",
    "organisms": "middle",
    "vitamins": "middle",
    "hormones": "middle",
    "ranges": "middle",
}
# What the words of a question ask for in a passage.
READING = {
    "name": (
        "Who was it?",
        "Name the person.",
        "Which person is named?",
        "Who is this about?",
        "Give the name of the person.",
        "Say who it was.",
    ),
    "thing": (
        "What was it?",
        "Name the thing.",
        "Which thing is named?",
        "What thing is this about?",
        "Give the name of the thing.",
        "Say what it was.",
    ),
    "place": (
        "Where was it?",
        "Name the place.",
        "Which place is named?",
        "In which place was this?",
        "Give the name of the place.",
        "Say where it was.",
    ),
}
READING_TEST = {
    "name": ("Tell me who it was.", "Which person was it?", "Say the name of the person."),
    "thing": ("Tell me what it was.", "Which thing was it?", "Say the name of the thing."),
    "place": ("Tell me where it was.", "Which place was it?", "Say the name of the place."),
}
PASSAGES = (
    "{name} took {thing} to {place}.",
    "{name} left {thing} in {place}.",
    "In {place}, {name} saw {thing}.",
    "In {place} there was {thing}. It was for {name}.",
    "{name} was in {place}. There was {thing}.",
    "{name} wanted {thing} and went to {place}.",
)
PLACES = tuple(
    f"the {place}"
    for place in (
        "kitchen garden bathroom school barn bedroom office library garage station bank airport market museum "
        "park shop "
        "forest village hotel harbor"
    ).split()
)


def table(name):
    with open(FACTS / f"{name}.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rng(*key):
    return random.Random("/".join(map(str, key)))


def wordings():
    """{(topic, split): [(template, answer)]} from every wordings table."""
    out = {}
    for name in ("wordings_general", "wordings_medical_a", "wordings_medical_b"):
        for row in table(name):
            out.setdefault((row["topic"], row["split"]), []).append((row["template"], row["answer"]))
    # General wordings have two splits; the first unseen one is for validation, the others for the test.
    for (topic, split), rows in list(out.items()):
        if split == "test" and (topic, "validation") not in out:
            out[topic, "validation"], out[topic, "test"] = rows[:1], rows[1:]
    return out


W = wordings()
# Answers that are also true, or nearly, where `answer` is right: never offered as wrong.
ALSO_TRUE = {}
for _row in table("also_true"):
    ALSO_TRUE.setdefault(_row["topic"], []).append((_row["answer"], _row["also"]))


def also_true(topic, right, other):
    """Could `other` pass for right too? The table names whole answers or parts of them ("colon", "bowel")."""
    return any(answer in right and right.replace(answer, also) == other for answer, also in ALSO_TRUE.get(topic, ()))


def deal(keys, shares, *seed):
    """Deal keys into named shares, at random but reproducibly: {key: name}."""
    keys = sorted(set(keys))
    rng("deal", *seed).shuffle(keys)
    out, start = {}, 0.0
    for name, share in shares:
        stop = start + share * len(keys)
        out |= {key: name for key in keys[round(start) : round(stop)]}
        start = stop
    return out


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def fill(template, fields):
    text = template.format(**fields)
    return text[0].upper() + text[1:] if template[0] == "{" and text[-1] in "?.:" else text


def with_choices(rows, k, fixed=None):
    """Turn rows with `completion` into questions: k options of the same topic, shuffled; `answer` the text.

    Wrong options are other rows' answers, so a common answer is as common among the wrong as the right;
    never one that may be true as well."""
    answers = {}
    for row in rows:
        answers.setdefault(row["topic"], []).append(row["completion"])
    for row in rows:
        r = rng("choices", row["id"])
        if fixed:
            options = list(fixed)
        else:
            options, pool = [row["completion"]], answers[row["topic"]]
            while len(options) < min(k, len(set(pool))):
                other = r.choice(pool)
                if other not in options and not also_true(row["topic"], row["completion"], other):
                    options.append(other)
        r.shuffle(options)
        row.update(choices=options, answer=row["completion"])
        row["question"] = row.pop("prompt")
        del row["completion"]
    return rows


# ---------------------------------------------------------------- general


def general_entities():
    """(topic, entity, fields, kind) of every general question, and which split each entity belongs to."""
    items = []
    for row in table("countries"):
        items += [(topic, row["country"], row, "fact") for topic in ("capital", "continent") if row[topic]]
    for row in table("animals"):
        items += [(topic, row["animal"], row, "fact") for topic in ANIMALS if row[topic[7:]]]
    for row in table("objects"):
        items += [(topic, row["object"], row, "fact") for topic in OBJECTS if row[topic]]
    items += [("opposite", row["word"], row, "fact") for row in table("opposites")]
    for topic, name in (("plural", "plurals"), ("past_tense", "past_tenses")):
        items += [
            (topic, row["word" if topic == "plural" else "verb"], row, "rule" if row["regular"] == "yes" else "fact")
            for row in table(name)
        ]
    for a, b in itertools.product(range(50), repeat=2):
        items.append(("addition", f"{a} + {b}", dict(a=a, b=b, sum=a + b), "rule"))
    for a, b in itertools.product(range(60), repeat=2):
        if a >= b:  # fewer pairs than of sums, and harder: the base needs more of them
            items.append(("subtraction", f"{a} - {b}", dict(a=a, b=b, difference=a - b), "rule"))
    r = rng("comparison")
    for a, b in sorted({tuple(r.sample(range(100), 2)) for _ in range(1500)}):
        items.append(("comparison", f"{a} ? {b}", dict(a=a, b=b, larger=max(a, b)), "rule"))
    words = ordinary_words()
    for word in words:
        fields = dict(word=word, letter=word[0])
        items += [("repeat", word, fields, "rule"), ("first_letter", word, fields, "rule")]
    r = rng("last_word")
    for _ in range(1200):
        three = r.sample(words, 3)
        items.append(("last_word", " ".join(three), dict(zip("abc", three)), "rule"))
    return items


def ordinary_words():
    words = {row["word"] for name in ("plurals", "opposites") for row in table(name)}
    words |= {row["animal"] for row in table("animals")} | {row["verb"] for row in table("past_tenses")}
    return sorted(word for word in words if " " not in word and "-" not in word)


# Fact entities are all taught to the base; those of `memory` may be rehearsed later, the others are kept
# for validation and test. Rule entities outside `memory` are not taught either (but for words, which the
# base must know).
SHARES = {
    "fact": [("memory", 0.4), ("validation", 0.25), ("test", 0.35)],
    "rule": [("memory", 0.8), ("validation", 0.08), ("test", 0.12)],
}
WORDINGS = {"repeat": 2, "first_letter": 2, "subtraction": 4}
UNTAUGHT = {"addition", "subtraction", "comparison", "last_word"}
FAMILY = {
    "capital": "country",
    "continent": "country",
    **dict.fromkeys(ANIMALS, "animal"),
    **dict.fromkeys(OBJECTS, "object"),
}


def general():
    """Rows by split: pretrain, memory, validation, test."""
    items = general_entities()
    split = {}
    families = {FAMILY.get(topic, topic) for topic, *_ in items}
    for family in sorted(families):
        keys = [entity for topic, entity, *_ in items if FAMILY.get(topic, topic) == family]
        rule = family in UNTAUGHT or family in ("repeat", "first_letter")
        for key, name in deal(keys, SHARES["rule" if rule else "fact"], family).items():
            split[family, key] = name
    out = {"pretrain": [], "memory": [], "validation": [], "test": []}
    for n, (topic, entity, fields, kind) in enumerate(items):
        where = split[FAMILY.get(topic, topic), entity]
        base = dict(topic=topic, kind=kind, entity=entity)
        r = rng("general", topic, entity)
        train = list(W[topic, "train"])
        r.shuffle(train)
        taught = train[: 5 if topic in BY_HEART else WORDINGS.get(topic, 3)]
        if where == "memory" or topic not in UNTAUGHT:
            for i, (question, answer) in enumerate(taught):
                out["pretrain"].append(
                    dict(topic=topic, prompt=fill(question, fields), completion=fill(answer, fields))
                )
        asked = taught if where == "memory" else [r.choice(W[topic, where])]
        for i, (question, answer) in enumerate(asked):
            out[where].append(
                dict(
                    id=f"g{n}-{where[0]}{i or ''}",
                    **base,
                    prompt=fill(question, fields),
                    completion=fill(answer, fields),
                )
            )
    for where, count in (("pretrain", 9800), ("memory", 160), ("validation", 24), ("test", 40)):
        out[where] += list(reading(where, count))
    caps = {"memory": 105, "validation": 24, "test": 40}
    for where, cap in caps.items():
        out[where] = [
            row for topic in dict.fromkeys(r["topic"] for r in out[where]) for row in sample(out[where], topic, cap)
        ]
    with_choices(out["validation"], 4)
    with_choices(out["test"], 4)
    return out


def sample(rows, topic, cap):
    """At most `cap` rows of a topic: every entity once before any comes a second time in other words."""
    rows = [row for row in rows if row["topic"] == topic]
    rng("cap", topic, len(rows)).shuffle(rows)
    met, turn = Counter(), {}
    for row in rows:
        turn[row["id"]] = met[row["entity"]]
        met[row["entity"]] += 1
    return sorted(sorted(rows, key=lambda row: turn[row["id"]])[:cap], key=lambda row: row["id"])


def things():
    """What a reading passage can be about: everyday objects and animals; and *books about* a medical
    word or answer, so that the base meets every word it may have to say, joined to no fact at all."""
    plain = [row["object"] for row in table("objects")]
    plain += [article(row["animal"]) for row in table("animals")]
    return plain, [f"a book about {phrase}" for phrase in medical_phrases()]


ONSETS = "b br c ch d dr f fr g gr h j k kl kw l m n p pr r s sh st t th tr v w y z".split() + 5 * [""]
VOWELS = "a e i o u a e i o u ai ea ee ia ie io ou".split()
CODAS = "d ck k l ll m mm n nn nd nt r rd rt s ss t th x z".split() + 20 * [""]


KEPT_NAMES = {row["name"] for row in table("names") if row["split"] == "test"}


def invented_name(r):
    """A name nobody has: with many of them, of every shape, the base learns to read a name letter by letter."""
    name = "".join(
        r.choice(ONSETS) + r.choice(VOWELS) + r.choice(CODAS) for _ in range(r.choice((1, 2, 2, 2, 3)))
    ).capitalize()
    return invented_name(r) if name in KEPT_NAMES else name


def reading(where, count):
    """Short passages that name a person, a thing and a place, each asked for in turn. Those of the tests use names
    and wordings never seen."""
    taught = where in ("pretrain", "memory")
    names = [row["name"] for row in table("names") if row["split"] == ("train" if taught else "test")]
    plain, books = things()
    for i in range(count):
        r = rng("reading", where, i)
        fields = dict(
            name=r.choice(names),
            place=r.choice(PLACES),
            thing=r.choice(books if where == "pretrain" and r.random() < 0.25 else plain),
        )
        if where == "pretrain" and r.random() < 0.7:
            fields["name"] = invented_name(r)
        passage = r.choice(PASSAGES).format(**fields)
        asked = sorted(fields)[i % 3]
        question = r.choice((READING if taught else READING_TEST)[asked])
        yield dict(
            id=f"r-{where}-{i}",
            topic="reading",
            kind="rule",
            entity=passage,
            prompt=f"{passage} {question}",
            completion=fields[asked],
        )


# ---------------------------------------------------------------- words without facts


def medical_words():
    """Every medical word that a question may name."""
    words = [row["term"] for row in table("terms")] + [row["drug"] for row in table("drugs")]
    for name, column in (
        ("organisms", "organism"),
        ("vitamins", "nutrient"),
        ("hormones", "hormone"),
        ("ranges", "test"),
        ("anatomy", "part"),
    ):
        words += [row[column] for row in table(name)]
    return sorted(set(words))


def medical_answers():
    """Every answer a medical question may have, and the parts it is made of."""
    answers = set()
    for name, columns in (
        ("terms", ("meaning",)),
        ("drugs", ("class", "use")),
        ("anatomy", ("system",)),
        ("organisms", ("disease",)),
        ("vitamins", ("deficiency",)),
        ("hormones", ("gland",)),
        ("presentations", ("urgency", "department")),
    ):
        answers |= {row[column] for row in table(name) for column in columns}
    for row in table("ranges"):
        answers |= set(filled_answers("ranges", row))
    return sorted(answers)


def filled_answers(topic, fields):
    return {fill(answer, fields) for _, answer in W[topic, "train"]}


def medical_phrases():
    out = set(medical_words()) | set(medical_answers())
    for row in table("presentations"):
        out |= {part.strip() for part in row["symptoms"].split(";")} | {row["explanation"], row["advice"]}
    organs = {row["meaning"] for row in table("roots")}
    # "inflammation of the chair", "the repair of the kidney": process and object meet at random.
    processes = sorted({row["template"] for row in table("affixes")})
    nouns = sorted({row["word"] for row in table("plurals")} | organs)
    r = rng("phrases")
    out |= {r.choice(processes).format(organ=r.choice(nouns)) for _ in range(600)}
    return sorted(out)


SAY = ("Say this: {x}.", "Repeat: {x}.", "Write the words {x}.", "Say {x}.", "Repeat these words: {x}.")
LIST = (
    "Which comes last: {a}, {b}, {c}?",
    "What is the last of these: {a}, {b}, {c}?",
    "Here is a list: {a}, {b}, {c}. What is last?",
)


def words():
    """Copying and list tasks over medical words and answers: the base learns the words, not their meaning."""
    phrases = medical_phrases()
    for i, phrase in enumerate(phrases):
        for j in range(2):
            r = rng("say", i, j)
            yield dict(prompt=r.choice(SAY).format(x=phrase), completion=phrase)
        r = rng("list", i)
        a, b = r.sample(phrases, 2)
        yield dict(prompt=r.choice(LIST).format(a=a, b=b, c=phrase), completion=phrase)
    for i, word in enumerate(medical_words()):
        yield dict(prompt=f"What is the first letter of {word}?", completion=word[0].lower())


def states_a_fact(text, facts):
    """Does the text name a medical entity together with its answer? By chance, random lists might."""
    low = text.lower()
    return any(entity in low and answer in low for entity, answer in facts)


# ---------------------------------------------------------------- medical questions


def medical_items():
    """(topic, entity, fields, split of the entity). A fact learned by heart is tested too, in other words."""
    for row in table("terms"):
        yield "terminology", row["term"], row, row["use"]
    for row in table("drugs"):
        yield "drug_class", row["drug"], row, row["split"]
        yield "drug_use", row["drug"], row, row["split"]
    for topic, column in (
        ("anatomy", "part"),
        ("organisms", "organism"),
        ("vitamins", "nutrient"),
        ("hormones", "hormone"),
        ("ranges", "test"),
    ):
        taught = deal([row[column] for row in table(topic)], [("train", 0.4), ("pool", 0.6)], topic)
        for row in table(topic):
            yield topic, row[column], row, taught[row[column]]


def medical_questions():
    out = {"train": [], "pool": [], "validation": [], "test": []}
    for n, (topic, entity, fields, where) in enumerate(medical_items()):
        kind = "fact" if topic in BY_HEART else "rule"
        base = dict(topic=topic, level=LEVELS[topic], kind=kind, entity=entity)
        splits = [where] if kind == "rule" else [where, "validation", "test"]
        for split in splits:
            r = rng("medical", topic, entity, split)
            options = list(W[topic, "train" if split == "pool" else split])
            r.shuffle(options)
            many = 12 if topic in FEW else 6  # ways of asking for a fact
            count = {
                "train": many if kind == "fact" else 5,
                "pool": many if kind == "fact" else 2,
                "validation": 1,
                "test": 1 if kind == "fact" else 2,
            }[split]
            for i, (question, answer) in enumerate(options[:count]):
                out[split].append(
                    dict(id=f"m{n}-{split}-{i}", **base, prompt=fill(question, fields), completion=fill(answer, fields))
                )
    return out


# ---------------------------------------------------------------- vignettes, pairs, replies

PER_PRESENTATION = {"test": 2, "validation": 1, "train": 7, "pool": 3}


def vignettes():
    """Per split: (presentation row, vignette text, entity: its signs). No two share a set of signs, and a set
    that is held out is not part of a larger set in training or pool either."""
    out = {split: [] for split in PER_PRESENTATION}
    for row in table("presentations"):
        signs = [part.strip() for part in row["symptoms"].split(";")]
        two, three = (list(itertools.combinations(signs, size)) for size in (2, 3))
        r = rng("vignette", row["id"])
        r.shuffle(two)
        r.shuffle(three)
        held_out = []
        for split, count in PER_PRESENTATION.items():
            words = "train" if split == "pool" else split
            for _ in range(count):
                frame, _ = r.choice(W["vignette", words])
                sets = three if "{s3}" in frame else two
                chosen = next(s for s in sets if words != "train" or not any(h <= set(s) for h in held_out))
                sets.remove(chosen)
                held_out += [set(chosen)] if words != "train" else []
                low, high = map(int, row["ages"].split("-"))
                fields = {f"s{i + 1}": sign for i, sign in enumerate(r.sample(chosen, len(chosen)))}
                person = r.choice(row["people"].split(";"))
                text = frame.format(age=r.randint(low, high), person=person, **fields)
                out[split].append((row, text, "; ".join(chosen)))
    return out


def hard_rows(vignettes):
    """Triage questions and replies from vignettes: (questions, replies) by split."""
    questions, replies = {}, {}
    for split, cases in vignettes.items():
        words = "train" if split == "pool" else split
        questions[split], replies[split] = [], []
        for n, (row, text, entity) in enumerate(cases):
            base = dict(level="hard", kind="rule", entity=entity)
            name = f"h{n}-{split}"
            r = rng("hard", split, n)
            for topic in ("urgency", "department"):
                question, answer = r.choice(W[topic, words])
                fields = {**row, "vignette": text}
                questions[split].append(
                    dict(
                        id=f"{name}-{topic}",
                        topic=topic,
                        **base,
                        prompt=fill(question, fields),
                        completion=fill(answer, fields),
                    )
                )
            question, answer = r.choice(W["reply", words])
            replies[split].append(
                dict(
                    id=f"{name}-reply",
                    topic="reply",
                    **base,
                    prompt=fill(question, fields),
                    completion=fill(answer, fields),
                    facts=key_facts(row),
                )
            )
    return questions, replies


ADVICE_KEYS = {
    "emergency": ("ambulance",),
    "urgent": ("today", "within a day", "by tonight"),
    "routine": ("appointment", "within a month"),
}


def key_facts(row):
    """What a reply must say: what it may be (the words of the condition in the explanation), and how soon."""
    what = row["explanation"]
    for opening in ("This may be ", "a ", "an "):
        what = what.removeprefix(opening)
    when = next(key for key in ADVICE_KEYS[row["urgency"]] if key in row["advice"].lower())
    return [what, when]


def shared(prompt, response):
    """Share of the response's words that the prompt has too."""
    prompt, response = (set(re.findall(r"\w+", text.lower())) for text in (prompt, response))
    return len(prompt & response) / len(response)


def pairs(vignettes):
    """Preference pairs, always two at a time with the roles of the responses exchanged.

    Each response is preferred once and rejected once within its split, so nothing about a response alone
    (its length, its words) can tell: only the prompt can."""
    out = {}
    for split in ("pool", "validation", "test"):
        rows, cases, used = [], list(vignettes[split]), Counter()
        words = "train" if split == "pool" else split
        rng("pairs", split).shuffle(cases)

        half = len(cases) // 2

        def add(topic, chosen, rejected, prompt, entity):
            rows.append(
                dict(
                    id=f"p-{split}-{len(rows)}",
                    topic=topic,
                    level="hard",
                    kind="rule",
                    entity=entity,
                    prompt=prompt,
                    chosen=chosen,
                    rejected=rejected,
                )
            )

        def ask(case):
            question, _ = rng("ask", split, case[2]).choice(W["reply", words])
            return fill(question, {**case[0], "vignette": case[1]})

        def reply(case):
            return fill(W["reply", "train"][0][1], case[0])

        for a, b in zip(cases, cases[half:]):
            if a[0]["urgency"] != b[0]["urgency"]:  # safe over unsafe: the same advice, in the wrong place
                add("safety", a[0]["advice"], b[0]["advice"], ask(a), a[2])
                add("safety", b[0]["advice"], a[0]["advice"], ask(b), b[2])
            same = [
                c
                for c in cases[half:]
                if c[0]["urgency"] == a[0]["urgency"]
                and c[0]["id"] != a[0]["id"]
                and used[c[2]] < 3
                and not used[c[2], a[0]["id"]]
                and not also_true("relevance", a[0]["condition"], c[0]["condition"])
            ]
            # On-topic over off-topic: equally urgent, and sharing as many words with the prompt as can be.
            c = max(same, key=lambda c: shared(ask(a), reply(c)) + shared(ask(c), reply(a)) - shared(ask(c), reply(c)))
            used.update([c[2], (c[2], a[0]["id"])])
            add("relevance", reply(a), reply(c), ask(a), a[2])
            add("relevance", reply(c), reply(a), ask(c), c[2])
            r = rng("complete", split, a[2])  # complete over partial: answers what was asked, both parts
            ask_where, where = r.choice(W["pair_where", words])
            ask_when, when = r.choice(W["pair_when", words])
            fields = {**a[0], "vignette": a[1]}
            where, when = fill(where, fields), fill(when, fields)
            add("completeness", where, when, fill(ask_where, fields), a[2])
            add("completeness", when, where, fill(ask_when, fields), a[2])
        out[split] = [row for row in rows if row["chosen"] != row["rejected"]]
    return out


def hide_pairs(rows):
    """Labelled pairs as unlabelled ones, each in random order: `answer` says which response was chosen."""
    for row in rows:
        answer = rng("hide", row["id"]).randrange(2)
        responses = [row.pop("chosen"), row.pop("rejected")]
        row |= dict(response_a=responses[answer], response_b=responses[1 - answer], answer=answer)
    return rows


def pool(rows, name):
    """(rows without their answers, gold): shuffled and numbered anew, so that neither id nor place tells."""
    rows = sorted(rows, key=lambda row: row["id"])
    rng("pool", name).shuffle(rows)
    gold = []
    for i, row in enumerate(rows):
        row["id"], answer = f"pool-{name}-{i}", row.pop("answer")
        gold.append(dict(id=row["id"], answer=row["choices"].index(answer) if "choices" in row else answer))
    return rows, gold


# ---------------------------------------------------------------- all files


def build():
    """{file name: rows}."""
    g, cases = general(), vignettes()
    facts = {
        (entity.lower(), fill(answer, fields).lower())
        for topic, entity, fields, _ in medical_items()
        for _, answer in W[topic, "train"]
    }
    g["pretrain"] = [
        dict(prompt=row["prompt"], completion=row["completion"])
        for row in g["pretrain"]
        if row["topic"] != "reading" or not states_a_fact(row["prompt"], facts)
    ]
    plain_words = [row for row in words() if not states_a_fact(f"{row['prompt']} {row['completion']}", facts)]
    medical = medical_questions()
    triage, replies = hard_rows(cases)
    for split in medical:
        medical[split] += triage[split]
    questions = {}
    for split in ("pool", "validation", "test"):
        urgency = [row for row in medical[split] if row["topic"] == "urgency"]
        rest = [row for row in medical[split] if row["topic"] != "urgency"]
        questions[split] = with_choices(rest, 4) + with_choices(urgency, 3, tuple(ADVICE_KEYS))
    comparison = pairs(cases)
    pool_pairs, gold_pairs = pool(hide_pairs(comparison["pool"]), "pair")
    pool_questions, gold_questions = pool(questions["pool"], "question")
    return {
        "general_pretrain.jsonl": g["pretrain"],
        "general_memory.jsonl": g["memory"],
        "general_validation.jsonl": g["validation"],
        "general_test.jsonl": g["test"],
        "words.jsonl": plain_words,
        "medical_train.jsonl": medical["train"] + replies["train"],
        "medical_pool_questions.jsonl": pool_questions,
        "medical_pool_pairs.jsonl": pool_pairs,
        "gold/medical_pool_questions.jsonl": gold_questions,
        "gold/medical_pool_pairs.jsonl": gold_pairs,
        "medical_validation.jsonl": questions["validation"],
        "medical_validation_pairs.jsonl": comparison["validation"],
        "medical_test.jsonl": questions["test"],
        "medical_test_pairs.jsonl": comparison["test"],
        "medical_test_replies.jsonl": replies["test"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if a file differs")
    args = parser.parse_args()
    stale = []
    for name, rows in build().items():
        text = "".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in rows)
        path = HERE / name
        if args.check:
            stale += [name] if not path.exists() or path.read_text(encoding="utf-8") != text else []
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(f"{name:36} {len(rows):6} rows {len(text) / 1e6:6.2f} MB")
    if stale:
        raise SystemExit(f"not what the tables give: {', '.join(stale)}; run python data_samples/build.py")


if __name__ == "__main__":
    main()
