"""What is checked in a chat model's reply: a right free answer, the constraints of an instruction, medical content.

All functions read text only. Words are compared without case, accents and apostrophes, and number words as numbers.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence

UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
UNIT_DIGITS = [str(n) for n in range(1, 10)]
NUMBERS = {word: n for n, word in enumerate(UNITS)} | {word: 10 * n for n, word in enumerate(TENS, 2)}

STOP_WORDS = {
    "en": "the a an and of to in is it that i you we my with for on are was this not have be at from will",
    "fr": "le la les un une des du de et est je il elle nous vous dans sur avec à au que qui ne pas mon ma l d",
    "es": "el la los las un una de y es en con por para que yo mi se del al está hay lo no muy",
}
"""Frequent words of each language. A word that two lists share counts for both."""
FUNCTION_WORDS = frozenset(
    "a an i s t no yes none never always in out on off up down over under above below before after first last more "
    "less most least all few many then there here now nothing nobody same different".split()
)
"""Words that replies use whatever they answer. They are neither counted as answers nor as other options."""
INTRODUCTIONS = frozenset({"answer"})
"""Words that introduce an answer ("The answer is …"). They are not counted as other options."""

MEDICAL = re.compile(
    r"\b(?:"
    # suffixes of terms and of drug names
    r"\w+(?:itis|ectomy|ostomy|otomy|omegaly|opathy|osclerosis|omalacia|plegia|orrhagia|orrhaphy|optosis|opexy|uria)|"
    r"(?:neur|my|arthr|cephal|ot|gastr|hepat|nephr|cardi|dent)\w*algia|(?:an|leuk|ur|bacter|septic|glyc|ox)\w*[ae]emia|"
    r"(?:end|gastr|bronch|cyst|hyster|lapar|arthr|ot|ophthalm|rhin|nephr|hepat|colon)oscopy|"
    r"\w{3,}(?:olol|pril|sartan|statin|cillin|floxacin|prazole|tidine|dipine|azepam|gliptin|gliflozin|conazole|triptan|"
    r"setron|xaban|oxetine|mycin|thiazide|fibrate|navir|profen)|"
    # persons, places and things of medical care
    r"doctors?|physicians?|surgeons?|nurses?|(?:a|the) patient|patients|hospitals?|clinics?|ambulances?|pharmac\w+|"
    r"emergency (?:room|department)|medical|medicines?|medications?|medicinal|diagnos\w+|symptoms?|diseases?|"
    r"illness\w*|syndromes?|surgery|prescri(?:be|bed|ption|ptions)|dosage|vaccin\w+|injections?|tumou?rs?|cancers?|"
    r"diabet\w+|asthma|pneumonia|migraines?|epilep\w+|seizures?|anemia|hernia|fractures?|bleeding|"
    r"a stroke(?! of)|sepsis|shingles|psoriasis|scurvy|water pills?|this may be a [\w ]{0,20}appointment|"
    r"infect(?:ion|ions|ed|ious)|inflam\w+|fevers?|headaches?|nausea|vomit\w*|coughing|chest pain|abdominal|"
    r"high blood pressure|blood (?:clots?|pressure|thinner|vessels?|sugar)|heart (?:attack|failure|disease)|"
    r"beta blockers?|(?:ace|pump|protease|sglt2|dpp4) inhibitors?|antibiotics?|antivirals?|antifungals?|antimalarials?|"
    r"antidepressants?|antihistamines?|anticoagulants?|diuretics?|bronchodilators?|laxatives?|sedatives?|opioids?|"
    r"painkillers?|analgesics?|an(?:a)?esthetics?|steroids?|insulin|penicillin|benzodiazepines?|barbiturates?|"
    r"kidneys?|livers?|lungs?|bladder|bowels?|spleen|pancreas|arter(?:y|ies)|thyroid|throats?|hormones?|vitamins?|"
    r"(?:of|in|into) the (?:stomach|joints?|glands?|windpipe|nerves?|womb|veins?|gallbladder|brain|spinal cord)|"
    # phrases of medical advice
    r"(?:urgent|routine|normal|free) appointment|plan a visit|team should see you|"
    r"(?:see|phone|call|ask) (?:for )?(?:next week|at once|now)|visit within a (?:day|month)|"
    r"please see (?:next|within)|"
    r"this may be (?:an? )?(?:mild|severe|acute|chronic|broken|blocked|emergency)"
    r")\b",
    re.IGNORECASE,
)
"""Medical terms and advice phrases: the committed list of domain intrusion."""


# --- free answers


def reply_words(text: str) -> list[str]:
    """Return the words of a text as they are compared: "It's Sao Tomé: forty-two." → its, sao, tome, 42."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    plain = re.sub(r"(?<=\d),(?=\d{3}\b)|(?<=\d)\.0+\b|['’ʻ`´]", "", re.sub("[−–]", "-", plain))
    words: list[str] = []
    for word in re.findall(r"(?<![\w)])(?<!\d )-\d+(?:\.\d+)?|\d+(?:\.\d+)?|[^\W_]+", plain):
        if word in UNITS[1:10] and words and words[-1] in ("20", "30", "40", "50", "60", "70", "80", "90"):
            words[-1] = str(int(words[-1]) + NUMBERS[word])
        elif word == "hundred":
            factor = words.pop() if words and words[-1] in UNIT_DIGITS else "1"
            words.append(f"{factor}00")
        else:
            words.append(str(NUMBERS.get(word, word)))
    return words


def answer_forms(answer: str) -> set[tuple[str, ...]]:
    """Return the words of an answer without its article, and the same in the plural."""
    words = reply_words(answer)
    words = words[1:] if words[:1] in (["a"], ["an"], ["the"]) and len(words) > 1 else words
    if not words or not words[-1].isalpha() or len(words[-1]) < 3:
        return {tuple(words)}
    stem, last = words[:-1], words[-1]
    plurals = {last + "s", last + "es", re.sub("y$", "ies", last), re.sub("fe?$", "ves", last)}
    return {tuple([*stem, form]) for form in {last} | plurals}


def mentions(words: Sequence[str], forms: Iterable[tuple[str, ...]]) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of every place where one of the forms occurs among the words."""
    for form in forms:
        for start in range(len(words) - len(form) + 1):
            if form and tuple(words[start : start + len(form)]) == form:
                yield start, start + len(form)


def is_right(reply: str, accepted: Sequence[str], others: Sequence[str]) -> bool:
    """Return whether a reply contains an accepted answer at word boundaries, and no other option.

    Where one contains the other ("Guatemala City", "Guatemala"), the longer one is what the reply says.
    """
    words = reply_words(reply)
    right_forms = {form for answer in accepted for form in answer_forms(answer)}
    right = set(mentions(words, right_forms))
    wrong = set(mentions(words, {form for other in others for form in answer_forms(other)} - right_forms))

    def longest(span: tuple[int, int]) -> bool:
        return not any(one[0] <= span[0] and span[1] <= one[1] and one != span for one in right | wrong)

    return any(map(longest, right)) and not any(map(longest, wrong))


# --- constraints of instructions


def _lines(reply: str) -> list[str]:
    return [line for line in map(str.strip, reply.splitlines()) if line]


def _marked(reply: str, mark: str) -> list[str]:
    """Return the lines that start with a mark, a regular expression."""
    return [line for line in _lines(reply) if re.match(rf"(?:{mark})\s*\S", line)]


def _sentences(reply: str) -> list[str]:
    plain = re.sub(r"\b(?:Mr|Mrs|Ms|Dr|St|vs|etc|e\.g|i\.e)\.", "", reply)
    return [part for part in re.split(r"[.!?]+(?=\s|$)|\n+", plain) if re.search(r"\w{2}", part)]


def _starts_any(reply: str, beginnings: str) -> list[bool]:
    """Return, for each beginning of a word, whether the reply has such a word."""
    text = " ".join(reply_words(reply))
    return [bool(re.search(rf"\b{re.escape(' '.join(reply_words(one)))}", text)) for one in beginnings.split()]


def _in_range(number: int, limits: str) -> bool:
    low, high = map(int, limits.split("-"))
    return low <= number <= high


def _number(reply: str, wanted: str) -> bool:
    """Return whether the last number of the reply is the wanted one."""
    numbers = [word for word in reply_words(reply) if re.fullmatch(r"-?\d+(?:\.\d+)?", word)]
    return numbers[-1:] == [wanted]


def _label(reply: str, argument: str) -> bool:
    right, options = argument.split("|")
    others = [option for option in re.split(", or |, | or ", options) if option != right]
    return is_right(reply, [right], others)


def _json(reply: str, keys: str) -> bool:
    """Return whether an object in the reply, which may be inside another, is JSON with exactly these keys."""
    for found in re.finditer(r"\{", reply):
        try:
            if set(json.JSONDecoder().raw_decode(reply, found.start())[0]) == set(keys.split()):
                return True
        except ValueError:
            continue
    return False


def _language(reply: str, wanted: str) -> bool:
    """Return whether the reply has more frequent words of the wanted language than of any other, and at least one."""
    words = re.findall(r"[^\W\d_]+", reply.lower())
    counts = {name: sum(word in listed.split() for word in words) for name, listed in STOP_WORDS.items()}
    return counts[wanted] > 0 and all(counts[wanted] > n for name, n in counts.items() if name != wanted)


BULLET, NUMBER = r"[-*•+](?![-*+])", r"\(?\d+[.):]"
REFUSES = (
    r"\b(?:sorry|unfortunately|can(?:no|')t|unable|regret|decline|afraid|won't|not able|no,? thank|apologi[sz]e)\b"
)
CHECKS: dict[str, Callable[[str, str], bool]] = {
    "words": lambda reply, limits: _in_range(len(reply.split()), limits),
    "sentences": lambda reply, limits: _in_range(len(_sentences(reply)), limits),
    "lines": lambda reply, limits: _in_range(len(_lines(reply)), limits),
    "items": lambda reply, limits: _in_range(len(_marked(reply, rf"{BULLET}|{NUMBER}") or _lines(reply)), limits),
    "numbered": lambda reply, limits: _in_range(len(_marked(reply, NUMBER)), limits),
    "bullets": lambda reply, limits: _in_range(len(_marked(reply, BULLET)), limits),
    "starts": lambda reply, word: reply_words(reply)[:1] == reply_words(word),
    "any": lambda reply, beginnings: any(_starts_any(reply, beginnings)),
    "all": lambda reply, beginnings: all(_starts_any(reply, beginnings)),
    "has": lambda reply, wanted: bool({*reply_words(reply)} & {*reply_words(wanted)}),
    "lacks": lambda reply, unwanted: not {*reply_words(reply)} & {*reply_words(unwanted)},
    "number": _number,
    "label": _label,
    "json": _json,
    "language": _language,
    "refuses": lambda reply, _: bool(re.search(REFUSES, reply.replace("’", "'"), re.IGNORECASE)),
}
"""Check by name: check(reply, argument) → whether the reply satisfies it.

words, sentences, lines, bullets, numbered, items: their number is in the range `LOW-HIGH` (items: lines with a bullet
or a number; without any, all lines). starts: the first word. any, all: at least one word, or a word each, begins with
the given beginnings. has, lacks: contains at least one, or none, of the words. number: the last number.
label: `RIGHT|A, B or C`, the right label and no other. json: an object with the keys. language: fr or es.
"""


def passed_checks(reply: str, checks: Iterable[str]) -> list[bool]:
    """Return whether a reply satisfies each check, written as NAME or NAME:ARGUMENT. An empty reply satisfies none."""
    parts = [check.partition(":") for check in checks]
    return [bool(reply.strip()) and CHECKS[name](reply, argument) for name, _, argument in parts]


# --- domain intrusion


def medical_terms(text: str) -> set[str]:
    """Return the medical terms and advice phrases of the committed list that a text contains, in lower case."""
    return {found[0].lower() for found in MEDICAL.finditer(text)}


def intrusions(reply: str, base_reply: str = "") -> set[str]:
    """Return the medical terms of a reply to a general prompt, without those that the base's reply contains."""
    return medical_terms(reply) - medical_terms(base_reply)
