"""Labelling functions for PubMedQA (Jin et al., 2019): yes, no or maybe, from an abstract's conclusion.

They read `prompt` (the question) and `long_answer` (the conclusion), nothing else of a row; they were
written on the half of the expert-labelled questions that is not the test part. Labels mean the same in
every row, so the label model is Dawid–Skene with full confusion, where an abstention counts as missing: an
LF that only ever says "no" would tell it nothing, hence nearly all of these say either.
"""

import re

import numpy as np

from icft_lite.errors import ICFTError
from icft_lite.metrics import binomial_interval
from icft_lite.weak.functions import apply_lfs, labeling_function, lf_analysis, to_records
from icft_lite.weak.models import ABSTAIN, DawidSkene, MajorityVote
from icft_lite.weak.pool import expected_calibration_error

YES, NO, MAYBE = 0, 1, 2
LABELS = ("yes", "no", "maybe")

_NOT = re.compile(
    r"\b(no|not|nor|neither|none|never|cannot|doesn't|didn't|lack of|lacks?|fail(s|ed)? to"
    r"|unable|unlikely|doubt|regardless|independent of|rather than|undisturbed|insufficient)\b"
)
_NOT_A_DENIAL = re.compile(
    r"\b(not only|whether or not|not withstanding|if not|not been|not necessarily"
    r"|had not|not an? new)\b"
)
_REVERSED = r"un(?:safe|necessary|reliable|related)|in(?:effective|accurate|sufficient)"
_RELATION = r"associated|correlated|related|linked"
_CLAIMS = (
    r"associat|predict|affect|influenc|improv|increas|reduc|safe|effectiv|effect|necess|need|useful"
    r"|reliab|relat|correlat|differ|benefi|feasib|contribut|impact|play|role|help|accura|justif"
    r"|adequat|risk|indicat|alternative|prevent|caus|change|valid|better|superior|recommend|requir"
    r"|use|possible|sufficien|support|agree|same|similar|work|exist|occur|detect|determin|lead|provid"
    r"|treat|surviv|outcome|prognos"
)


def _says(pattern, text):
    return re.search(rf"\b(?:{pattern})", text) is not None


def _denies(text):
    return _NOT.search(_NOT_A_DENIAL.sub(" ", text)) is not None


def _conclusion(row):
    return row["long_answer"].lower().strip()


def _sentences(row):
    return [part for part in re.split(r"(?<=[.;?!])\s+", _conclusion(row)) if part] or [""]


def _words(text):
    return {word[:6] for word in re.findall(r"[a-z]{4,}", text.lower())}


def _either(no, yes):
    """NO or YES where exactly one kind of sign is there."""
    return ABSTAIN if no == yes else NO if no else YES


@labeling_function(source="general")
def closest_sentence(row):
    """Is the sentence that shares most words with the question a denial?"""
    asked = _words(row["prompt"])
    return NO if _denies(max(_sentences(row), key=lambda text: len(_words(text) & asked))) else YES


@labeling_function(source="general")
def echoed_claim(row):
    """Does the conclusion take up a claim word of the question, and is there a denial close to it?"""
    asked = "|".join(re.findall(rf"\b({_CLAIMS})", row["prompt"].lower()))
    for sentence in _sentences(row) if asked else ():
        if found := re.search(rf"\b({asked})", sentence):
            near = sentence[max(0, found.start() - 60) : found.end() + 30]
            return NO if _denies(near) or _says(_REVERSED, sentence) else YES
    return ABSTAIN


@labeling_function(source="statistics")
def finding(row):
    """A null result, or an association, a risk factor, an increase."""
    text = _conclusion(row)
    if _says(
        r"(?:not|no|nor|neither|lack of|little)\b[^.;]{0,40}\b(?:significan|differ|associat|correlat"
        r"|relat|effect|affect|influenc|evidence|support|benefi|improv|predict|increas|reduc|role|chang"
        r"|impact)",
        text,
    ):
        return NO
    return (
        YES
        if _says(
            rf"(?:was|were|is|are|be|significantly|strongly|independently"
            rf"|positively)\s+(?:\w+ly )?(?:{_RELATION})|risk factor|predicts|predictors? of"
            r"|improves?\b|reduces?\b|increases?\b|increased|higher|contributes?|influences?\b"
            r"|plays?\b|results? in|leads? to",
            text,
        )
        else ABSTAIN
    )


@labeling_function(source="clinical")
def judgement(row):
    """Is something judged poor, needless or not recommended; or safe, useful, feasible?"""
    text = _conclusion(row)
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
    return _either(_says(poor, text), _says(good, text))


@labeling_function(source="statistics")
def comparison(row):
    """Two groups are alike or not: the answer depends on whether the question asks for likeness or for
    change."""
    text, asked = _conclusion(row), row["prompt"].lower()
    alike = _says(
        r"similar|comparable|equal|equivalent|same|identical|no (?:significant )?difference"
        r"|no more|regardless|(?:did|do|does) not (?:significantly )?differ",
        text,
    )
    unlike = _says(
        r"higher|lower|greater|better|worse|superior|inferior|more|less|differ|increase|decrease"
        r"|improve|reduce|longer|shorter|variab",
        text,
    )
    asks_alike = _says(
        r"same|similar|equivalent|equal|comparable|as (?:good|safe|effective)|safe|feasible"
        r"|alternative|suitable|replace|accurate|reliab",
        asked,
    )
    asks_change = _says(
        r"differ|better|superior|affect|influence|impact|improve|increase|reduce|worse"
        r"|higher|more|effects?\b|risk|matter|change|benefit|vary|limit|contraind",
        asked,
    )
    if alike == unlike or asks_alike == asks_change:
        return ABSTAIN
    return YES if alike == asks_alike else NO


@labeling_function(source="question")
def question_tone(row):
    """Sceptical questions ("really", "necessary") are often answered no; open ones ("any", "useful") yes."""
    asked = row["prompt"].lower()
    return _either(
        _says(
            r"really|same|necess|do we need|mandatory|justified|contraindicat|always|worth"
            r"|should|adequate|barrier|limit|correctly",
            asked,
        ),
        _says(
            r"any\b|effective|useful|feasible|alternative|reduce|role|possible|risk|why|how\b"
            r"|help|severity|potential|relat|prevent|cause",
            asked,
        ),
    )


@labeling_function(source="clinical")
def reservation(row):
    """A reservation ("in selected patients", "may or may not") means maybe; else the last sentence
    decides."""
    if _says(
        r"may or may not|in selected|selected patient|but not|but do(?:es)? not|but did not|depend(?:s"
        r"|ing|ed)?\b|decisions|not necessarily|in some\b|equivocal|inconclusive|mixed\b|only (?:half"
        r"|some|part)",
        _conclusion(row),
    ):
        return MAYBE
    return NO if _denies(_sentences(row)[-1]) else YES


def pubmedqa_lfs():
    """The seven labelling functions."""
    return [closest_sentence, echoed_claim, finding, judgement, comparison, question_tone, reservation]


def pubmedqa_weak_labels(train_rows, test_rows=None):
    """Fit the label model on `train_rows` (their gold is not read) and, if given, score it on `test_rows`.

    Rows: canonical examples with `long_answer`, responses yes, no, maybe; test rows with `label`. Returns
    (posteriors, report): a list of [yes, no, maybe] per training row, and a dict with `lfs` (analysis on
    the test part, else on the training part without accuracy), `fitted_on` and, with test rows, `n`,
    `accuracy`, `lower_95` (Clopper–Pearson), `majority_class`, `majority_vote`, `ece`. Raises ICFTError if
    a row has no conclusion, or other responses than yes, no, maybe.
    """
    lfs = pubmedqa_lfs()
    for row in [*train_rows, *(test_rows or [])]:
        if not row.get("long_answer"):
            raise ICFTError(f"row {row['id']}: no long_answer, the conclusion that PubMedQA's functions read")
        if tuple(row["responses"]) != LABELS:
            raise ICFTError(f"row {row['id']}: responses {row['responses']}; they must be yes, no, maybe")
    votes = apply_lfs(lfs, train_rows)
    model = DawidSkene().fit(votes, len(LABELS))
    posteriors = model.predict_proba(votes, len(LABELS)).tolist()
    report = {"fitted_on": len(votes), "label_model": "dawid_skene"}
    if not test_rows:
        return posteriors, {**report, "lfs": to_records(lf_analysis(votes, lfs))}
    votes, gold = apply_lfs(lfs, test_rows), np.array([row["label"] for row in test_rows])
    probs = model.predict_proba(votes, len(LABELS))
    right = probs.argmax(1) == gold
    return posteriors, {
        **report,
        "n": len(gold),
        "accuracy": float(right.mean()),
        "lower_95": float(binomial_interval(int(right.sum()), len(gold))[0]),
        "majority_vote": float((MajorityVote().predict_proba(votes, len(LABELS)).argmax(1) == gold).mean()),
        "majority_class": float(np.bincount(gold).max() / len(gold)),
        "ece": expected_calibration_error(probs, gold),
        "lfs": to_records(lf_analysis(votes, lfs, gold)),
    }
