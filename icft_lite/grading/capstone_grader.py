"""Score entries to a capstone on hidden questions, compared with the reference at the same token budget.

    gain = mean over topics of (entry right − reference right), on the same hidden questions

with a paired bootstrap interval over questions. An entry is valid if it retains enough of the base's general score and
respects the budget. The grader sees the budget only in the settings and the log, which the student wrote; `reproduce`
trains the entry again from its settings, on the public part of the domain.
"""

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from peft import PeftModel
from transformers import PreTrainedTokenizerBase

from icft_lite.chat_metrics import chat_retention, evaluate_chat
from icft_lite.config import ICFTConfig
from icft_lite.errors import ICFTError
from icft_lite.evaluation import Suite, evaluate_suite
from icft_lite.grading.capstone import Kit
from icft_lite.grading.entries import Entry, find_entries, read_entry, read_tensors
from icft_lite.grading.results import clean
from icft_lite.modeling.adapters import add_adapters, lora_layers, set_adapter_tensors
from icft_lite.modeling.base import load_base
from icft_lite.modeling.encoding import Encoder
from icft_lite.modeling.self_check import check_model
from icft_lite.retention import informative_topics, retention_interval
from icft_lite.statistics import paired_bootstrap
from icft_lite.training.loop import train_icft

CHAT_ITEMS = 100
"""Free questions, and instructions, on which the retention of a chat model is measured."""
REPRODUCED = 0.05
"""Largest difference of the domain score, and of retention, between an entry and the same run trained again."""


@dataclass(frozen=True)
class EntryResult:
    """What is known of one entry. Scores are NaN if it was not scored."""

    name: str
    digest: str = ""
    invalid: str = ""
    """Why the entry is not ranked; "" if it is valid."""
    domain: float = math.nan
    """Score on the hidden questions, mean over topics."""
    gain: float = math.nan
    """Domain score minus that of the reference, on the same questions."""
    low: float = math.nan
    high: float = math.nan
    retention: float = math.nan
    retention_low: float = math.nan
    retention_high: float = math.nan
    tokens: int = 0
    """As logged by the student."""
    reproduced: bool | None = None
    """Whether the same settings gave the same tokens and scores again; None if that was not tried."""

    @property
    def scored(self) -> bool:
        """Whether the adapter could be scored."""
        return not math.isnan(self.domain)


@dataclass(frozen=True)
class Scores:
    """Scores of one adapter: of each hidden question, and retention with its interval."""

    items: dict[tuple[str, str, str], float]
    """{(task, topic, id): score}."""
    retention: tuple[float, float, float]
    """Value, low and high."""


class CapstoneGrader:
    """Scores entries to one capstone, one after another. The reference is trained at first use, into the kit."""

    def __init__(self, kit: Kit, progress: bool = False) -> None:
        self.kit, self.progress = kit, progress
        self.scores: dict[str, Scores] = {}
        """Of the entries that were scored, by name."""
        self.base: dict[str, Any] | None = None
        """The base's scores on general questions or, of a chat model, of its replies."""
        usual = kit.capstone.reference_config(0)
        self.load_in_4bit, self.encoding, self.metric = usual.adapter.load_in_4bit, usual.encoding, usual.metric
        self.public = kit.public.limited(test=CHAT_ITEMS) if kit.public.chat else kit.public

    def grade(self, name: str, path: Path, reproduce: bool = False) -> EntryResult:
        """Return the result of one entry. Its mistakes are in the result, never raised."""
        try:
            entry = read_entry(name, path, self.kit.capstone)
            scores = self.scores[name] = self.score(entry.config, entry.adapter)
        except (ICFTError, OSError) as error:
            return EntryResult(name, invalid=clean(str(error)))
        reproduced = self.reproduce(entry, scores) if reproduce else None
        value, least = scores.retention[0], self.kit.capstone.min_retention
        reasons = [
            *([] if value >= least else [f"retention {value:.3f} is below {least:g}"]),
            *(["trained again from its settings, it has another log or other scores"] if reproduced is False else []),
        ]
        strata = [f"{task}/{topic}" for task, topic, _ in scores.items]
        own = [scores.items[key] for key in scores.items]
        other = [[items[key] for key in scores.items] for items in self.reference]
        found = paired_bootstrap(own, other, strata)
        return EntryResult(
            entry.name,
            entry.digest,
            "; ".join(reasons),
            domain_score(scores.items),
            found.difference,
            found.low,
            found.high,
            *scores.retention,
            entry.tokens,
            reproduced,
        )

    def reproduce(self, entry: Entry, scores: Scores) -> bool:
        """Train an entry again, and return whether the tokens are equal and the scores close."""
        with tempfile.TemporaryDirectory(prefix="icft-capstone-") as folder:
            try:
                report = train_icft(entry.config, Path(folder, "run"), self.kit.public, self.progress)
                again = self.score(entry.config, adapter_of(Path(folder, "run")))
            except ICFTError:  # such as training that diverges
                return False
        differences = (
            domain_score(again.items) - domain_score(scores.items),
            again.retention[0] - scores.retention[0],
        )
        return report["cost"]["tokens"] == entry.tokens and all(abs(one) <= REPRODUCED for one in differences)

    @cached_property
    def reference(self) -> list[dict[tuple[str, str, str], float]]:
        """The scores of the hidden questions by each run of the reference."""
        found = []
        for seed in self.kit.capstone.reference_seeds:
            config, folder = self.kit.capstone.reference_config(seed), self.kit.folder / "reference" / str(seed)
            train_icft(config, folder, self.kit.public, self.progress)  # a finished run is not trained again
            found.append(self.score(config, adapter_of(folder), with_retention=False).items)
        return found

    def score(self, config: ICFTConfig, adapter: bytes, with_retention: bool = True) -> Scores:
        """Return the scores of an adapter of the rank that `config` names. Raises ICFTError if it does not fit.

        with_retention: False leaves retention NaN, which saves most of the time.
        """
        base, tokenizer = load_base(self.kit.capstone.base, self.load_in_4bit)
        model = add_adapters(base, config.adapter.rank, config.adapter.alpha)
        shapes = {
            f"{layer}.lora_{part}.weight": tuple(getattr(module, f"lora_{part}")["slow"].weight.shape)
            for layer, module in lora_layers(model).items()
            for part in "AB"
        }
        tensors = read_tensors(adapter, shapes)
        set_adapter_tensors(model, "slow", [tensors[name] for name in shapes])
        encoder = Encoder(tokenizer, self.encoding.max_length, self.encoding.letter_options)
        encoder.share_prompts = check_model(model, tokenizer, encoder.max_length).shared_prompts
        hidden = evaluate_suite(
            model, tokenizer, {"hidden": self.kit.hidden}, "slow", encoder, items=True, metric=self.metric
        )["hidden"]
        topic_of = {one["id"]: one["topic"] or "all" for one in self.kit.hidden}
        items = {(task, topic_of[i], i): v for task, part in hidden.items() for i, v in part["items"].items()}
        retention = self.retention(model, tokenizer, encoder) if with_retention else (math.nan,) * 3
        return Scores(items, retention)

    def retention(
        self, model: PeftModel, tokenizer: PreTrainedTokenizerBase, encoder: Encoder
    ) -> tuple[float, float, float]:
        """Return the retention of the adapter `slow` with its interval: in replies, if the base is a chat model."""
        if chat := self.public.chat.get("test"):
            if self.base is None:
                self.base = evaluate_chat(model, tokenizer, encoder, chat, None, progress=self.progress)
            return chat_retention(self.base, evaluate_chat(model, tokenizer, encoder, chat, "slow"), chat)[:3]
        suites = {"general": Suite.from_examples(self.public.general_test or [], encoder)}
        common: dict[str, Any] = dict(encoder=encoder, items=True, metric=self.metric)
        after = evaluate_suite(model, tokenizer, suites, "slow", **common)["general"]
        if self.base is None:
            self.base = evaluate_suite(model, tokenizer, suites, "base", **common)["general"]
        topic_of = {one["id"]: one["topic"] for one in suites["general"].examples}
        return retention_interval(self.base, after, informative_topics(self.base)[0], topic_of)[:3]


def domain_score(items: dict[tuple[str, str, str], float]) -> float:
    """Return the mean over topics of the scores of hidden questions."""
    groups: dict[tuple[str, str], list[float]] = {}
    for (task, topic, _), value in items.items():
        groups.setdefault((task, topic), []).append(value)
    return float(np.mean([np.mean(values) for values in groups.values()]))


def adapter_of(run: Path) -> bytes:
    """Return the slow adapter of a run."""
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def grade_entries(kit: Kit, paths: Iterable[Path], reproduce: bool = False) -> Iterator[EntryResult]:
    """Yield the result of each entry in `paths`, see `entries.find_entries`. No entry stops the others."""
    found, grader = find_entries(paths), CapstoneGrader(kit)
    for name, path in found:
        yield grader.grade(name, path, reproduce)


def ranked(results: Sequence[EntryResult]) -> list[tuple[int | None, EntryResult]]:
    """Return (rank, result): valid entries by falling gain, then the others by name. Equal gains share a rank."""
    valid = sorted((one for one in results if not one.invalid), key=lambda one: (-one.gain, one.name))
    ranks: list[tuple[int | None, EntryResult]] = [(1 + sum(o.gain > one.gain for o in valid), one) for one in valid]
    return ranks + [(None, one) for one in sorted((one for one in results if one.invalid), key=lambda one: one.name)]


def entry_line(result: EntryResult) -> str:
    """Return a result as one line of text."""
    if not result.scored:
        return f"{result.name}: not scored: {result.invalid}"
    again = {None: "", True: ", reproduced", False: ", not reproduced"}[result.reproduced]
    state = f"not valid: {result.invalid}" if result.invalid else "valid"
    return (
        f"{result.name}: gain {result.gain:+.3f} [{result.low:+.3f}, {result.high:+.3f}], domain {result.domain:.3f}, "
        f"retention {result.retention:.3f} [{result.retention_low:.3f}, {result.retention_high:.3f}], "
        f"{result.tokens} tokens{again}; {state}"
    )


def entry_json(result: EntryResult) -> dict[str, Any]:
    """Return a result as plain data."""
    return {**asdict(result), "scored": result.scored}
