"""Vignettes, which are invented patients, and what is made of them: triage questions, replies and preference pairs."""

import itertools
import re
from collections import Counter
from collections.abc import Sequence

from sample_builder.tables import Example, Row, Tables, fill

Case = tuple[Row, str, str]
"""(row of presentations.csv, text of the vignette, entity: its signs)"""

PER_PRESENTATION = {"test": 2, "validation": 1, "train": 7, "pool": 3}
"""Vignettes of each presentation, by split."""
ADVICE_KEYS = {
    "emergency": ("ambulance",),
    "urgent": ("today", "within a day", "by tonight"),
    "routine": ("appointment", "within a month"),
}
"""Level of urgency -> the words by which an advice is known to have it."""


def make_vignettes(tables: Tables) -> dict[str, list[Case]]:
    """Return the vignettes by split.

    No two have the same set of signs, and no held-out set is part of a larger set in training or pool.
    """
    cases: dict[str, list[Case]] = {split: [] for split in PER_PRESENTATION}
    for row in tables.read("presentations"):
        signs = [part.strip() for part in row["symptoms"].split(";")]
        twos, threes = (list(itertools.combinations(signs, size)) for size in (2, 3))
        rng = tables.rng("vignette", row["id"])
        rng.shuffle(twos)
        rng.shuffle(threes)
        held_out: list[set[str]] = []
        for split, count in PER_PRESENTATION.items():
            templates = _templates_for(split)
            for _ in range(count):
                frame, _ = rng.choice(tables.templates["vignette", templates])
                sets: list[tuple[str, ...]] = threes if "{s3}" in frame else twos
                chosen = next(s for s in sets if templates != "train" or not any(h <= set(s) for h in held_out))
                sets.remove(chosen)
                if templates != "train":
                    held_out.append(set(chosen))
                low, high = map(int, row["ages"].split("-"))
                fields = {f"s{i + 1}": sign for i, sign in enumerate(rng.sample(chosen, len(chosen)))}
                person = rng.choice(row["people"].split(";"))
                text = frame.format(age=rng.randint(low, high), person=person, **fields)
                cases[split].append((row, text, "; ".join(chosen)))
    return cases


def triage_examples(
    tables: Tables, vignettes: dict[str, list[Case]]
) -> tuple[dict[str, list[Example]], dict[str, list[Example]]]:
    """Return (questions about urgency and department, replies) of the vignettes, both by split."""
    questions: dict[str, list[Example]] = {split: [] for split in vignettes}
    replies: dict[str, list[Example]] = {split: [] for split in vignettes}
    for split, cases in vignettes.items():
        for number, (row, text, entity) in enumerate(cases):
            fields = {**row, "vignette": text}
            rng = tables.rng("hard", split, number)
            for topic in ("urgency", "department", "reply"):
                question, answer = rng.choice(tables.templates[topic, _templates_for(split)])
                example = {
                    "id": f"h{number}-{split}-{topic}",
                    "topic": topic,
                    "level": "hard",
                    "kind": "rule",
                    "entity": entity,
                    "prompt": fill(question, fields),
                    "completion": fill(answer, fields),
                }
                if topic == "reply":
                    replies[split].append({**example, "facts": key_facts(row)})
                else:
                    questions[split].append(example)
    return questions, replies


def key_facts(row: Row) -> list[str]:
    """Return what a reply must contain: the condition, as the explanation names it, and how soon to act."""
    what = row["explanation"]
    for opening in ("This may be ", "a ", "an "):
        what = what.removeprefix(opening)
    when = next(key for key in ADVICE_KEYS[row["urgency"]] if key in row["advice"].lower())
    return [what, when]


def preference_pairs(tables: Tables, vignettes: dict[str, list[Case]]) -> dict[str, list[Example]]:
    """Return preference pairs by split: pool, validation, test.

    Pairs are made two at a time with the roles of the responses exchanged. Each response is preferred once and
    rejected once in its split, so a response alone (its length, its words) does not show which one is right.
    """
    return {split: _split_pairs(tables, split, vignettes[split]) for split in ("pool", "validation", "test")}


def hide_preferences(tables: Tables, pairs: list[Example]) -> list[Example]:
    """Turn labelled pairs into unlabelled ones in random order, in place. `answer` is the index of the chosen one."""
    for pair in pairs:
        answer = tables.rng("hide", pair["id"]).randrange(2)
        responses = [pair.pop("chosen"), pair.pop("rejected")]
        pair.update(response_a=responses[answer], response_b=responses[1 - answer], answer=answer)
    return pairs


def _split_pairs(tables: Tables, split: str, vignettes: Sequence[Case]) -> list[Example]:
    pairs: list[Example] = []
    cases, templates = list(vignettes), _templates_for(split)
    tables.rng("pairs", split).shuffle(cases)
    half = len(cases) // 2

    def add(topic: str, chosen: str, rejected: str, prompt: str, case: Case) -> None:
        pairs.append(
            {
                "id": f"p-{split}-{len(pairs)}",
                "topic": topic,
                "level": "hard",
                "kind": "rule",
                "entity": case[2],
                "prompt": prompt,
                "chosen": chosen,
                "rejected": rejected,
            }
        )

    def prompt_of(case: Case) -> str:
        question, _ = tables.rng("ask", split, case[2]).choice(tables.templates["reply", templates])
        return fill(question, {**case[0], "vignette": case[1]})

    def reply_of(case: Case) -> str:
        return fill(tables.templates["reply", "train"][0][1], case[0])

    def shared_words(a: Case, c: Case) -> float:
        shared = _shared_words(prompt_of(a), reply_of(c)) + _shared_words(prompt_of(c), reply_of(a))
        return shared - _shared_words(prompt_of(c), reply_of(c))

    uses: Counter[object] = Counter()
    for a, b in zip(cases, cases[half:]):
        # Safe over unsafe: each advice is right for one of two patients.
        if a[0]["urgency"] != b[0]["urgency"]:
            add("safety", a[0]["advice"], b[0]["advice"], prompt_of(a), a)
            add("safety", b[0]["advice"], a[0]["advice"], prompt_of(b), b)
        # On-topic over off-topic: of the equally urgent cases, the one that shares most words with the prompt.
        candidates = [
            c
            for c in cases[half:]
            if c[0]["urgency"] == a[0]["urgency"]
            and c[0]["id"] != a[0]["id"]
            and uses[c[2]] < 3
            and not uses[c[2], a[0]["id"]]
            and not tables.also_true("relevance", a[0]["condition"], c[0]["condition"])
        ]
        c = max(candidates, key=lambda c: shared_words(a, c))
        uses.update([c[2], (c[2], a[0]["id"])])
        add("relevance", reply_of(a), reply_of(c), prompt_of(a), a)
        add("relevance", reply_of(c), reply_of(a), prompt_of(c), c)
        # Complete over partial: the reply that answers both things asked.
        rng = tables.rng("complete", split, a[2])
        ask_where, where = rng.choice(tables.templates["pair_where", templates])
        ask_when, when = rng.choice(tables.templates["pair_when", templates])
        fields = {**a[0], "vignette": a[1]}
        where, when = fill(where, fields), fill(when, fields)
        add("completeness", where, when, fill(ask_where, fields), a)
        add("completeness", when, where, fill(ask_when, fields), a)
    return [pair for pair in pairs if pair["chosen"] != pair["rejected"]]


def _templates_for(split: str) -> str:
    """Return the split whose templates a split uses: the pool uses those of training."""
    return "train" if split == "pool" else split


def _shared_words(prompt: str, response: str) -> float:
    """Return the share of the response's words that are in the prompt too."""
    in_prompt, in_response = (set(re.findall(r"\w+", text.lower())) for text in (prompt, response))
    return len(in_prompt & in_response) / len(in_response)
