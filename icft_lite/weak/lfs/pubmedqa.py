"""Labelling functions for PubMedQA (Jin et al., 2019), which vote yes, no or maybe from an abstract's conclusion.

The functions read `prompt` (the question) and `long_answer` (the conclusion) of an example and nothing else. They were
written on the half of the expert-labelled questions that is not the test part.

The labels mean the same in every example, so the label model is Dawid–Skene, with full confusion on the 500 examples of
the training part. It counts an abstention as a missing vote and would learn nothing from a function that only ever
votes "no". Most of the functions below therefore vote both "yes" and "no".
"""

import re
from typing import Any

import numpy as np

from icft_lite.data.schema import Example, Examples
from icft_lite.errors import ICFTError
from icft_lite.metrics import expected_calibration_error
from icft_lite.statistics import binomial_interval
from icft_lite.weak.functions import LabelingFunction, apply_lfs, labeling_function, lf_analysis, to_records
from icft_lite.weak.label_models import ABSTAIN, MajorityVote
from icft_lite.weak.pool import LabelModel, fit_label_model

YES, NO, MAYBE = 0, 1, 2
LABELS = ("yes", "no", "maybe")

_NEGATION = re.compile(
    r"\b(no|not|nor|neither|none|never|cannot|doesn't|didn't|lack of|lacks?|fail(s|ed)? to"
    r"|unable|unlikely|doubt|regardless|independent of|rather than|undisturbed|insufficient)\b"
)
_NOT_A_NEGATION = re.compile(
    r"\b(not only|whether or not|not withstanding|if not|not been|not necessarily"
    r"|had not|not an? new)\b"
)
_OPPOSITE = r"un(?:safe|necessary|reliable|related)|in(?:effective|accurate|sufficient)"
_RELATION = r"associated|correlated|related|linked"
_CLAIMS = (
    r"associat|predict|affect|influenc|improv|increas|reduc|safe|effectiv|effect|necess|need|useful"
    r"|reliab|relat|correlat|differ|benefi|feasib|contribut|impact|play|role|help|accura|justif"
    r"|adequat|risk|indicat|alternative|prevent|caus|change|valid|better|superior|recommend|requir"
    r"|use|possible|sufficien|support|agree|same|similar|work|exist|occur|detect|determin|lead|provid"
    r"|treat|surviv|outcome|prognos"
)


def _matches(pattern: str, text: str) -> bool:
    """Return whether the pattern matches at the beginning of a word."""
    return re.search(rf"\b(?:{pattern})", text) is not None


def _is_negated(text: str) -> bool:
    """Return whether the text contains a negation, apart from phrases such as "not only"."""
    return _NEGATION.search(_NOT_A_NEGATION.sub(" ", text)) is not None


def _conclusion(example: Example) -> str:
    return example["long_answer"].lower().strip()


def _sentences(example: Example) -> list[str]:
    """Return the sentences of the conclusion; at least one, which may be empty."""
    return [part for part in re.split(r"(?<=[.;?!])\s+", _conclusion(example)) if part] or [""]


def _word_stems(text: str) -> set[str]:
    """Return the first six letters of each word of four letters or more."""
    return {word[:6] for word in re.findall(r"[a-z]{4,}", text.lower())}


def _yes_or_no(no: bool, yes: bool) -> int:
    """Return NO or YES if exactly one of the two kinds of evidence is present, else ABSTAIN."""
    return ABSTAIN if no == yes else NO if no else YES


@labeling_function(source="general")
def closest_sentence(example: Example) -> int:
    """Vote no if the sentence that has the most words in common with the question is negated, else yes."""
    question = _word_stems(example["prompt"])
    return NO if _is_negated(max(_sentences(example), key=lambda text: len(_word_stems(text) & question))) else YES


@labeling_function(source="general")
def echoed_claim(example: Example) -> int:
    """Vote by whether the conclusion negates the claim of the question (effective, safe, …) where it repeats it."""
    claims = "|".join(re.findall(rf"\b({_CLAIMS})", example["prompt"].lower()))
    for sentence in _sentences(example) if claims else ():
        if found := re.search(rf"\b({claims})", sentence):
            nearby = sentence[max(0, found.start() - 60) : found.end() + 30]
            return NO if _is_negated(nearby) or _matches(_OPPOSITE, sentence) else YES
    return ABSTAIN


@labeling_function(source="statistics")
def finding(example: Example) -> int:
    """Vote no for a null result; yes for an association, a risk factor or an increase."""
    text = _conclusion(example)
    if _matches(
        r"(?:not|no|nor|neither|lack of|little)\b[^.;]{0,40}\b(?:significan|differ|associat|correlat"
        r"|relat|effect|affect|influenc|evidence|support|benefi|improv|predict|increas|reduc|role|chang"
        r"|impact)",
        text,
    ):
        return NO
    if _matches(
        rf"(?:was|were|is|are|be|significantly|strongly|independently|positively)\s+(?:\w+ly )?(?:{_RELATION})"
        r"|risk factor|predicts|predictors? of|improves?\b|reduces?\b|increases?\b|increased|higher|contributes?"
        r"|influences?\b|plays?\b|results? in|leads? to",
        text,
    ):
        return YES
    return ABSTAIN


@labeling_function(source="clinical")
def judgement(example: Example) -> int:
    """Vote no if something is judged poor, needless or not recommended; yes if safe, useful or feasible."""
    text = _conclusion(example)
    poor = (
        r"insufficient (?:to|for|evid|clin|inf)|inadequate|disappoint|limited value|low yield"
        r"|unnecessary|cannot|questionable|not (?:be )?(?:an? )?(?:recommend|necessar|justif|useful"
        r"|suitable|adequate|reliable|sufficient|indicated|warranted|required|needed|cost|good|safe"
        r"|accurate)|should not|less (?:effective|accurate)|overestimat|poor (?:agree|know|corr|pred"
        r"|conc)|little|trivial|weak|no (?:need|role|place|additional|indication)|barriers|erroneous"
        r"|deficit|remains? (?:low|poor)|alternative methods"
    )
    good = (
        r"(?:is|are|was|be|as|appears?|and|seems?)\s+(?:an? )?(?:\w+ly )?(?:safe|effective|feasible"
        r"|useful|valuable|promising|reliable|valid|beneficial|efficacious|helpful|accurate|possible"
        r"|viable|good|important|suitable)|can be (?:used|performed|done|safely)|well tolerated"
        r"|good alternative|is recommended"
    )
    return _yes_or_no(_matches(poor, text), _matches(good, text))


@labeling_function(source="statistics")
def comparison(example: Example) -> int:
    """Vote on questions that compare two groups: yes if the conclusion finds what the question asks for.

    A question asks whether the groups are similar (as safe as) or different (better, affects). A conclusion finds
    them similar or different. The function abstains where the question or the conclusion is unclear.
    """
    text, question = _conclusion(example), example["prompt"].lower()
    found_similar = _matches(
        r"similar|comparable|equal|equivalent|same|identical|no (?:significant )?difference"
        r"|no more|regardless|(?:did|do|does) not (?:significantly )?differ",
        text,
    )
    found_different = _matches(
        r"higher|lower|greater|better|worse|superior|inferior|more|less|differ|increase|decrease"
        r"|improve|reduce|longer|shorter|variab",
        text,
    )
    asks_similar = _matches(
        r"same|similar|equivalent|equal|comparable|as (?:good|safe|effective)|safe|feasible"
        r"|alternative|suitable|replace|accurate|reliab",
        question,
    )
    asks_different = _matches(
        r"differ|better|superior|affect|influence|impact|improve|increase|reduce|worse"
        r"|higher|more|effects?\b|risk|matter|change|benefit|vary|limit|contraind",
        question,
    )
    if found_similar == found_different or asks_similar == asks_different:
        return ABSTAIN
    return YES if found_similar == asks_similar else NO


@labeling_function(source="question")
def question_tone(example: Example) -> int:
    """Vote by the words of the question: no for skeptical ones (really, necessary), yes for open ones (any, useful)."""
    question = example["prompt"].lower()
    return _yes_or_no(
        _matches(
            r"really|same|necess|do we need|mandatory|justified|contraindicat|always|worth"
            r"|should|adequate|barrier|limit|correctly",
            question,
        ),
        _matches(
            r"any\b|effective|useful|feasible|alternative|reduce|role|possible|risk|why|how\b"
            r"|help|severity|potential|relat|prevent|cause",
            question,
        ),
    )


@labeling_function(source="clinical")
def reservation(example: Example) -> int:
    """Vote maybe for a reservation (in selected patients, may or may not), else by negation in the last sentence."""
    if _matches(
        r"may or may not|in selected|selected patient|but not|but do(?:es)? not|but did not|depend(?:s"
        r"|ing|ed)?\b|decisions|not necessarily|in some\b|equivocal|inconclusive|mixed\b|only (?:half"
        r"|some|part)",
        _conclusion(example),
    ):
        return MAYBE
    return NO if _is_negated(_sentences(example)[-1]) else YES


def pubmedqa_lfs() -> list[LabelingFunction]:
    """Return the seven labelling functions."""
    return [closest_sentence, echoed_claim, finding, judgement, comparison, question_tone, reservation]


def pubmedqa_weak_labels(
    train_examples: Examples, test_examples: Examples | None = None, model: LabelModel = "dawid_skene"
) -> tuple[list[list[float]], dict[str, Any]]:
    """Fit the label model on `train_examples` and, if given, score it on `test_examples`.

    Examples are canonical, have `long_answer`, and have the responses yes, no, maybe. The label of a training example
    is not read. Test examples need a label.

    Returns (posteriors, report): a list [yes, no, maybe] for each training example, and a dict with

        fitted_on         int     number of training examples
        label_model       str     `model`
        notes             list    sentences on what limits the labels; absent without any
        lfs               list    lf_analysis as records, on the test examples if given, else without accuracy on the
                                  training examples
        n, accuracy, ece          on the test examples, of the label model's posteriors
        lower_95          float   lower bound of the accuracy's 95 % Clopper–Pearson interval
        majority_vote     float   accuracy of majority vote on the test examples
        majority_class    float   accuracy of always choosing the test examples' most frequent label

    Raises ICFTError if an example has no conclusion, or other responses than yes, no, maybe.
    """
    lfs = pubmedqa_lfs()
    for example in [*train_examples, *(test_examples or [])]:
        if not example.get("long_answer"):
            raise ICFTError(
                f"example {example['id']}: no long_answer; PubMedQA's labelling functions read this column, "
                "the conclusion of the abstract"
            )
        if tuple(example["responses"]) != LABELS:
            raise ICFTError(f"example {example['id']}: responses {example['responses']}; they must be yes, no, maybe")
    votes = apply_lfs(lfs, train_examples)
    fitted, _, notes = fit_label_model(votes, len(LABELS), True, model)
    posteriors = fitted.predict_proba(votes, len(LABELS)).tolist()
    report: dict[str, Any] = {"fitted_on": len(votes), "label_model": model}
    if notes:
        report["notes"] = [f"weak labels of PubMedQA ({len(votes)} examples): {note}" for note in notes]
    if not test_examples:
        return posteriors, {**report, "lfs": to_records(lf_analysis(votes, lfs))}
    votes, gold = apply_lfs(lfs, test_examples), np.array([example["label"] for example in test_examples])
    probs = fitted.predict_proba(votes, len(LABELS))
    correct = probs.argmax(1) == gold
    majority = MajorityVote().predict_proba(votes, len(LABELS))
    return posteriors, {
        **report,
        "n": len(gold),
        "accuracy": float(correct.mean()),
        "lower_95": float(binomial_interval(int(correct.sum()), len(gold))[0]),
        "majority_vote": float((majority.argmax(1) == gold).mean()),
        "majority_class": float(np.bincount(gold).max() / len(gold)),
        "ece": expected_calibration_error(probs, gold),
        "lfs": to_records(lf_analysis(votes, lfs, gold)),
    }
