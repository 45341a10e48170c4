"""The α curve of a run: the scores of its result, scaled between the base (α = 0) and what was trained (α = 1).

    W(α) = W0 + α·ΔW                (WiSE-FT, Wortsman et al., 2022, arXiv 2109.01903)

Every method of the evidence study gets the same sweep, because scaling a change down trades learning for retention
whatever the method is.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np
import torch

from icft_lite.chat_metrics import chat_retention, evaluate_chat
from icft_lite.evaluation import Suite, evaluate_suite
from icft_lite.experiments.bits import pack_bits
from icft_lite.metrics import expected_calibration_error, mean_score
from icft_lite.modeling.adapters import adapter_tensors, merged_adapter
from icft_lite.modeling.scoring import score_responses
from icft_lite.retention import (
    chance_corrected_retention,
    divergence,
    encode_for_kl,
    informative_topics,
    supervised_states,
)
from icft_lite.training.prepare import Prepared
from icft_lite.training.suites import score_chat_parts
from icft_lite.utils.cache import reply_cache

Scores = dict[str, Any]
Change = Callable[[float], AbstractContextManager[None]]


class Curve:
    """Scores the adapter `slow` of a prepared run at any α, on validation and on test data.

    prepared: of a run that is trained, or not yet: then every α is the base.
    """

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        suites = prepared.suites
        self.pairs = suites["medical"].subset(lambda example: example["task"] == "pair")
        self.replies = suites["medical"].subset(lambda example: bool(example["facts"]))
        general = suites.get("general")
        self.kl_examples = encode_for_kl(general.examples, prepared.encoder) if general and not prepared.chat else ()
        self.base_states = supervised_states(prepared.model, self.kl_examples) if self.kl_examples else []
        self.chat = dict(prepared.chat)
        if self.chat and "validation" not in self.chat:  # a run without consolidation does not need it
            arguments = (prepared.model, prepared.tokenizer, prepared.encoder, False, reply_cache())
            self.chat |= score_chat_parts(prepared.data.chat, ("validation",), *arguments)
        of_base = {} if prepared.chat else prepared.baseline
        self.topics = {name: informative_topics(scores)[0] for name, scores in of_base.items() if "general" in name}

    def score(self, alpha: float, change: Change | None = None) -> Scores:
        """Return {alpha, validation, test}, the scores at α.

        Both have medical (mean over topics), by_topic, preference, retention and general; test also reply, kl and
        `right`: which medical questions, pairs and general questions are right, as text (`bits.pack_bits`), sorted by
        topic and id. With a chat suite, retention is that of the model's own replies, and its other measures are added.

        change: adds α·ΔW to the base's weights inside a block, for methods whose result is not the adapter.
        """
        prepared = self.prepared
        with change(alpha) if change else scaled(adapter_tensors(prepared.model, "slow"), alpha):
            given = {name: suite for name, suite in prepared.suites.items() if "validation" in name}
            found = self._evaluate({**given, **prepared.test_questions, "pairs": self.pairs}, generate=False)
            replies = self._evaluate(dict(replies=self.replies), generate=True)
            validation, test = _medical(found["medical_validation"]), _medical(found["medical"])
            for part, name in ((validation, "general_validation"), (test, "general")):
                if name in found:
                    part["general"] = mean_score(found[name])
                if name in self.topics:
                    part["retention"] = chance_corrected_retention(
                        prepared.baseline[name], found[name], self.topics[name]
                    )
            if prepared.chat:
                validation |= self._chat("validation")
                test |= self._chat("test")
            else:
                test["kl"] = divergence(prepared.model, self.kl_examples, "slow", self.base_states).kl
        test["right"] = {"medical": _bits(found["medical"]["qa"], prepared.test_questions["medical"])}
        if "preference" in found.get("pairs", {}):
            test["preference"] = found["pairs"]["preference"]["value"]
            test["right"]["pairs"] = _bits(found["pairs"]["preference"], self.pairs)
        if replies:
            test["reply"] = replies["replies"]["reply"]["value"]
        if not prepared.chat:
            test["right"]["general"] = _bits(found["general"]["qa"], prepared.test_questions["general"])
        return dict(alpha=alpha, validation=validation, test=test)

    def calibration(self) -> float | None:
        """Return the expected calibration error of the medical test questions with options; None without any.

        The probability of an option is the softmax over the options' summed log-probabilities. As trained (α = 1).
        """
        suite = self.prepared.suites["medical"].subset(
            lambda example: example["task"] == "question" and example["label"] >= 0 and len(example["responses"]) > 1
        )
        if not suite.examples:
            return None
        with merged_adapter(self.prepared.model, "slow") as model:
            logps = [score["logp"] for score in score_responses(model, suite.encoded)]
        probs = np.zeros((len(logps), max(map(len, logps))))
        for row, logp in zip(probs, logps):
            row[: len(logp)] = np.exp(logp - np.logaddexp.reduce(logp))
        return expected_calibration_error(probs, [example["label"] for example in suite.examples])

    def _evaluate(self, suites: dict[str, Suite], generate: bool) -> dict[str, Any]:
        prepared = self.prepared
        given = {name: suite for name, suite in suites.items() if suite.examples}
        arguments = (prepared.model, prepared.tokenizer, given, "slow", prepared.encoder, True, prepared.config.metric)
        return evaluate_suite(*arguments, generate_replies=generate) if given else {}

    def _chat(self, name: str) -> Scores:
        prepared, part = self.prepared, self.chat[name]
        model, tokenizer, encoder = prepared.model, prepared.tokenizer, prepared.encoder
        replies = part.base_replies if name == "test" else None  # comparing with the base's replies takes long
        scores = evaluate_chat(model, tokenizer, encoder, part.items, "slow", replies)
        found = chat_retention(part.base, scores, part.items)
        out: Scores = dict(retention=found.value, free=scores["free"]["value"])
        out["instructions"] = scores["instructions"]["value"]
        if name == "test":
            names = {"kl": "kl_base_tuned", "kl_back": "kl_tuned_base", "nll": "nll"}
            out |= {short: scores[long] for short, long in names.items()}
            out |= {key: scores[key] for key in ("words", "intrusion", "items", "replies")}
            out["still_right"] = found.still_right
        return out


def _medical(scores: Scores) -> Scores:
    found: Scores = {"medical": scores["qa"]["value"]}
    found["by_topic"] = {topic: part["value"] for topic, part in scores["qa"]["by_topic"].items()}
    if "preference" in scores:
        found["preference"] = scores["preference"]["value"]
    return found


def question_order(suite: Suite) -> list[int]:
    """Return the indices of a suite's examples sorted by topic and id, the order of `right` in a record."""
    return sorted(range(len(suite.examples)), key=lambda i: (suite.examples[i]["topic"], suite.examples[i]["id"]))


def _bits(scores: Scores, suite: Suite) -> str:
    ids = [suite.examples[i]["id"] for i in question_order(suite)]
    return pack_bits(np.array([scores["items"][name] > 0.5 for name in ids if name in scores["items"]]))


@contextmanager
def scaled(tensors: Sequence[torch.Tensor], alpha: float) -> Iterator[None]:
    """Scale an adapter's change ΔW = B·A by α inside the block. tensors: [A, B, A, B, …], changed in place."""
    before = [tensor.clone() for tensor in tensors[1::2]]
    try:
        with torch.no_grad():
            for tensor in tensors[1::2]:
                tensor.mul_(alpha)
        yield
    finally:
        with torch.no_grad():
            for tensor, value in zip(tensors[1::2], before, strict=True):
                tensor.copy_(value)


def topic_counts(curve: Curve) -> dict[str, list[list[Any]]]:
    """Return [[topic, kind, number of questions], …] for each test of `right`, in its order."""
    tests = {"medical": curve.prepared.test_questions["medical"], "pairs": curve.pairs}
    if not curve.prepared.chat:
        tests["general"] = curve.prepared.test_questions["general"]
    counts: dict[str, list[list[Any]]] = {}
    for name, suite in tests.items():
        rows = counts.setdefault(name, [])
        for i in question_order(suite):
            topic, kind = suite.examples[i]["topic"], suite.examples[i]["kind"]
            if rows and rows[-1][:2] == [topic, kind]:
                rows[-1][2] += 1
            else:
                rows.append([topic, kind, 1])
    return counts
