"""The arms of the evidence study: every method, its settings, and where it comes from (docs/protocol.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from icft_lite.config import ICFTConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.experiments.settings import CHAT_FULL, DEMO

General = Literal["none", "prompts"]


@dataclass(frozen=True)
class Arm:
    """One method of the study."""

    name: str
    label: str
    """Its name in tables."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """By dotted name, with the preset as `method`."""
    chat: Mapping[str, Any] = field(default_factory=dict)
    """Further settings on a chat model."""
    trainer: str = ""
    """`module.Class` in `experiments.baselines`; "" for ICFTTrainer."""
    callbacks: tuple[str, ...] = ()
    """As `trainer`, of RunCallbacks."""
    ablates: str = ""
    """The part of ICFT that it lacks or replaces; "" for other methods."""
    general: General = "none"
    """Whether the method reads general prompts."""
    source: str = ""
    cost: float = 1.0
    """Seconds of a run, as a multiple of plain fine-tuning's."""
    alphas: tuple[float, ...] = ()
    """In place of those of the study."""
    studies: tuple[str, ...] = ("tiny", "tiny-short", "smollm2")
    """Studies that it is part of."""
    tokens: float = 1.0
    """Its tokens, as a multiple of the study's."""

    def runs_on(self, study: str) -> bool:
        """Return whether the arm is part of a study."""
        return study in self.studies


@dataclass(frozen=True)
class Study:
    """What all arms of a table have in common."""

    name: str
    settings: Mapping[str, Any]
    alphas: tuple[float, ...]
    minutes: float
    """Of a run of plain fine-tuning with its curve, on one thread."""

    confirmation: tuple[int, ...] = (11, 12, 13, 14, 15)
    """Splits that only the frozen method is scored on."""

    def config(self, arm: Arm, split: int) -> ICFTConfig:
        """Return the configuration of an arm."""
        tokens = round(self.settings["optim.max_tokens"] * arm.tokens)
        return ICFTConfig.from_dict({**self.settings, "optim.max_tokens": tokens, **arm.settings})

    def data(self, split: int) -> DataBundle:
        """Return the data of a split: 0 is the bundled one, the others are re-splits."""
        from icft_lite.experiments.resplit import resplit

        return resplit(split)


class ChatStudy(Study):
    """A study of a chat model, on the bundled split.

    Splits 0 to 2 are the seed, with half 0 of the chat suite's test items; 10 to 12 are 10 + the seed, with half 1.
    """

    def config(self, arm: Arm, split: int) -> ICFTConfig:
        """Return the configuration of an arm with the split's seed."""
        return super().config(replace(arm, settings={**arm.settings, **arm.chat, "seed": split % 10}), split)

    def data(self, split: int) -> DataBundle:
        """Return the bundled samples with one half of the chat suite's test items."""
        from icft_lite.data.sources import bundle_from_files

        return half_of_suite(bundle_from_files(["samples"], ["chat"]), split // 10)


def half_of_suite(data: DataBundle, half: int) -> DataBundle:
    """Return a bundle with one half of the chat suite's test items: 0 for development, 1 for confirmation.

    Items alternate within each topic, so both halves have the same topics.
    """
    seen: dict[str, int] = {}
    items = []
    for item in data.chat["test"]:
        seen[item.topic] = seen.get(item.topic, -1) + 1
        if seen[item.topic] % 2 == half:
            items.append(item)
    return replace(data, chat={**data.chat, "test": items})


ALPHAS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2)
STUDIES: dict[str, Study] = {
    "tiny": Study("tiny", {"optim.max_tokens": 350_000}, ALPHAS, 5.0),
    "tiny-short": Study("tiny-short", DEMO, ALPHAS, 4.0),
    "smollm2": ChatStudy("smollm2", CHAT_FULL, (1.0, 0.7, 0.5, 0.3), 30.0, (10, 11, 12)),
}
CHAT_WEIGHT: dict[str, Any] = {"loss.consistency_weight": 2.5}
PLAIN: dict[str, Any] = {"method": "qlora"}
ICFT: dict[str, Any] = {"method": "icft"}
TINY = ("tiny", "tiny-short")
SHORT = ("tiny-short", "smollm2")


def _rate(rate: float) -> dict[str, Any]:
    """Return plain fine-tuning with another learning rate."""
    return {**PLAIN, "optim.learning_rate": rate}


def _replay(share: float, **settings: Any) -> dict[str, Any]:
    """Return plain fine-tuning with a share of each batch replayed from memory, by NLL."""
    return {**PLAIN, "long_term.share": share, "loss.replay_weight": 1.0, **settings}


def _memory(share: float, weight: float, **settings: Any) -> dict[str, Any]:
    """Return plain fine-tuning with L_consistency on memory examples."""
    return {**PLAIN, "long_term.share": share, "loss.consistency_weight": weight, **settings}


ARMS: tuple[Arm, ...] = (
    # order 1
    Arm("base", "base, not fine-tuned", {**PLAIN, "optim.max_steps": 1}, alphas=(0.0,), cost=0.5),
    Arm("plain", "plain QLoRA", PLAIN),
    Arm("replay_25", "replay, 25 %", _replay(0.25), general="prompts"),
    Arm(
        "kl_memory",
        "KL to the base on memory",
        _memory(0.25, 0.4),
        chat=CHAT_WEIGHT,
        trainer="teachers.BaseTeacher",
        general="prompts",
    ),
    Arm("icft", "ICFT", ICFT, general="prompts"),
    # order 2: what ICFT consists of
    Arm("no_consistency", "NLL on memory instead of L_consistency", {"method": "replay"}, ablates="losses"),
    Arm("no_task", "no L_task", {"method": "no_task"}, ablates="losses"),
    Arm("no_fine_tune", "no L_fine-tune", {**ICFT, "loss.fine_tune_weight": 0.0}, ablates="losses", studies=TINY),
    Arm("temperature_1", "T = 1", {**ICFT, "loss.temperature": 1.0}, ablates="losses", studies=TINY),
    Arm("no_memory", "no long-term memory", {"method": "no_ltm"}, ablates="memory", studies=TINY),
    Arm("ring", "with the short-term ring", {**ICFT, "short_term.share": 0.125}, ablates="memory"),
    Arm("no_average", "no slow adapter", {**ICFT, "long_term.ema_decay": 0.0}, ablates="memory"),
    Arm("no_search", "no consolidation", {**ICFT, "consolidation.enabled": False}, ablates="memory"),
    Arm("base_teacher", "the base teaches", ICFT, trainer="teachers.BaseTeacher", ablates="memory", studies=TINY),
    Arm(
        "slow_teacher", "the slow adapter teaches", ICFT, trainer="teachers.SlowTeacher", ablates="memory", studies=TINY
    ),
    Arm("given_memory", "given memory only", {**ICFT, "long_term.self_prompts": 0}, ablates="memory", studies=TINY),
    Arm("self_memory", "self-generated memory only", {**ICFT, "limits.memory": 0}, ablates="memory", studies=TINY),
    Arm("small_memory", "memory of 300", {**ICFT, "long_term.size": 300}, ablates="memory", studies=TINY),
    Arm("random", "random order", {**ICFT, "curriculum.order": "random"}, ablates="curriculum"),
    Arm("hard_first", "hard to easy", {**ICFT, "curriculum.order": "hard_to_easy"}, ablates="curriculum", studies=TINY),
    Arm("interleaved", "interleaved", {**ICFT, "curriculum.order": "interleaved"}, ablates="curriculum", studies=TINY),
    Arm("no_pacing", "no pacing", {**ICFT, "curriculum.competence_start": 1.0}, ablates="curriculum"),
    Arm("majority_vote", "majority vote", {"method": "majority_vote"}, ablates="labels", studies=TINY),
    Arm("gold", "gold labels", {"method": "gold"}, ablates="labels", studies=TINY),
    Arm("full_precision", "not in 4 bits", {**ICFT, "adapter.load_in_4bit": False}, ablates="precision", studies=TINY),
    # order 3: the other baselines
    Arm(
        "low_rate",
        "plain, low rate",
        {**PLAIN, "optim.learning_rate": 1e-3},
        chat={"optim.learning_rate": 2e-4},
        studies=SHORT,
    ),
    Arm(
        "mlp",
        "LoRA on MLP layers, rank 10",
        {**PLAIN, "adapter.rank": 10, "adapter.alpha": 20},
        trainer="mlp_only.MLPOnly",
        studies=SHORT,
    ),
    Arm("replay_5", "replay, 5 %", _replay(0.05), general="prompts", studies=SHORT),
    Arm("replay_50", "replay, 50 %", _replay(0.5), general="prompts", studies=SHORT),
    Arm(
        "joint",
        "joint training: replay, 50 %, twice the tokens",
        _replay(0.5),
        general="prompts",
        studies=("tiny-short",),
        tokens=2.0,
    ),
    Arm("kl_new", "KL to the base on new examples", PLAIN, trainer="base_kl.BaseKL", studies=SHORT),
    Arm("dft", "DFT: NLL weighted by probability", PLAIN, trainer="token_weights.DFT", studies=SHORT),
    Arm("eaft", "EAFT: NLL weighted by entropy", PLAIN, trainer="token_weights.EAFT", studies=SHORT),
    Arm(
        "averaged_replay",
        "fast and slow LoRA, surprise replay",
        _replay(0.25),
        trainer="averaged.Averaged",
        general="prompts",
        studies=SHORT,
    ),
    Arm("ewc", "EWC", PLAIN, callbacks=("ewc.EWC",), general="prompts", studies=("tiny-short",)),
    Arm(
        "der",
        "DER++",
        _memory(0.25, 0.4, **{"loss.replay_weight": 0.5}),
        trainer="teachers.BaseTeacher",
        general="prompts",
        studies=("tiny-short",),
    ),
)
QUICK_ARMS = ("base", "plain", "replay_25", "kl_memory", "icft")
"""The arms of order 1; each has its α curve."""
