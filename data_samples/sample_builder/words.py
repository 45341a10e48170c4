"""Medical words without medical facts: what shows the base the words that it will have to write."""

from collections.abc import Iterator

from sample_builder.tables import Example, Tables, fill

NAME_COLUMNS = {
    "terms": "term",
    "drugs": "drug",
    "organisms": "organism",
    "vitamins": "nutrient",
    "hormones": "hormone",
    "ranges": "test",
    "anatomy": "part",
}
"""Medical table -> the column with the word that a question names."""
ANSWER_COLUMNS = {
    "terms": ("meaning",),
    "drugs": ("class", "use"),
    "anatomy": ("system",),
    "organisms": ("disease",),
    "vitamins": ("deficiency",),
    "hormones": ("gland",),
    "presentations": ("urgency", "department"),
}
"""Medical table -> the columns with answers."""
COPY_PROMPTS = ("Say this: {x}.", "Repeat: {x}.", "Write the words {x}.", "Say {x}.", "Repeat these words: {x}.")
LIST_PROMPTS = (
    "Which comes last: {a}, {b}, {c}?",
    "What is the last of these: {a}, {b}, {c}?",
    "Here is a list: {a}, {b}, {c}. What is last?",
)


def word_examples(tables: Tables) -> Iterator[Example]:
    """Yield copying and list tasks over medical words and answers."""
    phrases = medical_phrases(tables)
    for i, phrase in enumerate(phrases):
        for j in range(2):
            prompt = tables.rng("say", i, j).choice(COPY_PROMPTS)
            yield {"prompt": prompt.format(x=phrase), "completion": phrase}
        rng = tables.rng("list", i)
        a, b = rng.sample(phrases, 2)
        yield {"prompt": rng.choice(LIST_PROMPTS).format(a=a, b=b, c=phrase), "completion": phrase}
    for word in medical_words(tables):
        yield {"prompt": f"What is the first letter of {word}?", "completion": word[0].lower()}


def medical_words(tables: Tables) -> list[str]:
    """Return every medical word that a question may name."""
    return sorted({row[column] for name, column in NAME_COLUMNS.items() for row in tables.read(name)})


def medical_answers(tables: Tables) -> list[str]:
    """Return every answer that a medical question may have."""
    answers = {
        row[column] for name, columns in ANSWER_COLUMNS.items() for row in tables.read(name) for column in columns
    }
    for row in tables.read("ranges"):
        answers |= {fill(answer, row) for _, answer in tables.templates["ranges", "train"]}
    return sorted(answers)


def medical_phrases(tables: Tables) -> list[str]:
    """Return medical words, answers, signs, explanations and advice, and 600 random combinations of their parts."""
    phrases = {*medical_words(tables), *medical_answers(tables)}
    for row in tables.read("presentations"):
        phrases |= {part.strip() for part in row["symptoms"].split(";")} | {row["explanation"], row["advice"]}
    # "inflammation of the chair", "the repair of the kidney": process and object are combined at random.
    processes = sorted({row["template"] for row in tables.read("affixes")})
    organs = {row["meaning"] for row in tables.read("roots")}
    nouns = sorted({row["word"] for row in tables.read("plurals")} | organs)
    rng = tables.rng("phrases")
    phrases |= {rng.choice(processes).format(organ=rng.choice(nouns)) for _ in range(600)}
    return sorted(phrases)
