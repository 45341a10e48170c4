"""The arms of the evidence study: every method, its settings, and where it comes from (docs/protocol.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from icft_lite.config import ICFTConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.data.samples import sample_bundle
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
    own: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """{study: further settings}"""
    trainer: str = ""
    """`module.Class` in `experiments.baselines`; "" for ICFTTrainer."""
    weight: float | None = None
    """Of the term that `trainer` adds to the loss."""
    peft: str = ""
    """A function of `baselines.peft_methods`, whose method of PEFT takes the place of LoRA."""
    rewrites: bool = False
    """Whether the base rewrites the training replies first (`baselines.self_distillation`)."""
    single_lf: bool = False
    """Whether one labelling function for each topic labels the pool (`paper.single_lf`)."""
    benchmark_answers: bool = False
    """Whether the memory of a chat model holds the samples' answers to general questions, not its own replies."""
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

    def in_study(self, study: str) -> dict[str, Any]:
        """Return the arm's settings in a study."""
        return {**self.settings, **self.own.get(study, {})}

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
        return ICFTConfig.from_dict({**self.settings, "optim.max_tokens": tokens, **arm.in_study(self.name)})

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
        return super().config(arm, split).replace({"seed": split % 10})

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


def with_benchmark_answers(data: DataBundle) -> DataBundle:
    """Return a bundle whose memory prompts are the general training questions of the samples with their answers.

    They replace the prompts of the chat suite, to which the base itself replies.
    """
    return replace(data, general_memory=sample_bundle().general_memory, chat={**data.chat, "memory": ()})


ALPHAS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2)
STUDIES: dict[str, Study] = {
    "tiny": Study("tiny", {"optim.max_tokens": 350_000}, ALPHAS, 5.0),
    "tiny-short": Study("tiny-short", DEMO, ALPHAS, 4.0),
    "smollm2": ChatStudy("smollm2", CHAT_FULL, (1.0, 0.5, 0.25), 25.0, (10, 11, 12)),
}
PLAIN: dict[str, Any] = {"method": "qlora"}
PLAIN_OWN: dict[str, dict[str, Any]] = {"tiny-short": {"optim.learning_rate": 4e-3}}
ICFT: dict[str, Any] = {"method": "icft", "consolidation.enabled": False}
"""ICFT as chosen on development data (docs/experiments.md), with the defaults: hard labels, so that L_task has no
examples, and no ring. The fast adapter is the result, and α is chosen after training, as for all arms."""
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


def _icft(name: str, label: str, part: str, settings: Mapping[str, Any] | None = None, **options: Any) -> Arm:
    """Return an ablation of ICFT: its settings with some replaced."""
    return Arm(name, label, {**ICFT, **(settings or {})}, general="prompts", ablates=part, **options)


SOFT: dict[str, Any] = {"weak.soft_labels": True}
SEARCH: dict[str, Any] = {"consolidation.enabled": True}
ARMS: tuple[Arm, ...] = (
    # order 1
    Arm("base", "base, not fine-tuned", {**PLAIN, "optim.max_steps": 1}, alphas=(0.0,), cost=0.4),
    Arm("plain", "plain QLoRA", PLAIN, PLAIN_OWN, cost=0.8),
    Arm("replay_25", "replay, 25 %", _replay(0.25), general="prompts"),
    Arm(
        "kl_memory",
        "KL to the base on memory",
        _memory(0.25, 0.8),
        {"smollm2": {"loss.consistency_weight": 2.5}},
        trainer="teachers.BaseTeacher",
        general="prompts",
    ),
    Arm("icft", "ICFT", ICFT, general="prompts"),
    # order 2: parts of ICFT that are left out or replaced, and parts that are added
    _icft(
        "no_consistency",
        "NLL on memory instead of L_consistency",
        "losses",
        {"loss.consistency_weight": 0.0, "loss.replay_weight": 1.0},
    ),
    _icft("soft_labels", "with soft labels and L_task", "losses", SOFT),
    _icft("soft_no_task", "with soft labels, without L_task", "losses", {**SOFT, "loss.task_weight": 0.0}),
    _icft(
        "no_memory",
        "without long-term memory",
        "memory",
        {"long_term.share": 0.0, "loss.consistency_weight": 0.0},
        studies=TINY,
    ),
    _icft("ring", "with the short-term ring and promotion", "memory", {"short_term.share": 0.125}),
    _icft("average", "with the slow adapter", "memory", trainer="averaged.Averaged"),
    _icft("search", "with the slow adapter and consolidation", "memory", SEARCH),
    _icft("random", "random order", "curriculum", {"curriculum.order": "random"}),
    _icft("no_pacing", "without pacing", "curriculum", {"curriculum.competence_start": 1.0}),
    _icft("hard_to_easy", "hard to easy", "curriculum", {"curriculum.order": "hard_to_easy"}, studies=TINY),
    _icft("interleaved", "interleaved", "curriculum", {"curriculum.order": "interleaved"}, studies=TINY),
    _icft("base_teacher", "the base teaches", "memory", trainer="teachers.BaseTeacher", studies=TINY),
    _icft("slow_teacher", "the slow adapter teaches", "memory", trainer="teachers.SlowTeacher", studies=TINY),
    _icft("temperature_1", "T = 1", "losses", {"loss.temperature": 1.0}, studies=TINY),
    _icft(
        "no_fine_tune",
        "without L_fine-tune, with L_task",
        "losses",
        {**SOFT, "loss.fine_tune_weight": 0.0},
        studies=TINY,
    ),
    _icft("given_memory", "given memory only", "memory", {"long_term.self_prompts": 0}, studies=TINY),
    _icft(
        "self_memory",
        "self-generated memory only",
        "memory",
        {"limits.memory": 0},
        own={"smollm2": {"long_term.self_prompts": 400}},
    ),
    _icft("small_memory", "memory of 300", "memory", {"long_term.size": 300}, studies=TINY),
    _icft("majority_vote", "majority vote", "labels", {"weak.label_model": "majority_vote"}, studies=TINY),
    _icft("single_lf", "best single labelling function", "labels", single_lf=True, studies=TINY),
    _icft("gold", "gold labels", "labels", {"weak.label_model": "gold"}, studies=TINY),
    _icft("full_precision", "not in 4 bits", "precision", {"adapter.load_in_4bit": False}, studies=TINY),
    # order 3: the other baselines
    Arm("low_rate", "plain, low rate", _rate(1e-3), {"smollm2": {"optim.learning_rate": 2e-4}}),
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
    Arm(
        "replay_answers",
        "replay of benchmark answers, 25 %",
        _replay(0.25, **{"long_term.self_prompts": 0}),
        benchmark_answers=True,
        general="prompts",
        studies=("smollm2",),
    ),
    Arm("plain_longer", "plain QLoRA, as many seconds as ICFT", PLAIN, PLAIN_OWN, studies=TINY, tokens=1.3),
    Arm(
        "replay_longer",
        "replay, 25 %, as many seconds as ICFT",
        _replay(0.25),
        general="prompts",
        studies=TINY,
        tokens=1.1,
    ),
    Arm("kl_new", "KL to the base on new examples", PLAIN, trainer="base_kl.BaseKL", weight=0.1, studies=SHORT),
    Arm("dft", "DFT: NLL weighted by probability", PLAIN, trainer="token_weights.DFT", studies=SHORT),
    Arm("eaft", "EAFT: NLL weighted by entropy", PLAIN, trainer="token_weights.EAFT", studies=SHORT),
    Arm(
        "averaged_replay",
        "fast and slow LoRA, surprise replay",
        _replay(0.25, **{"long_term.size": 1000}),
        {"smollm2": {"long_term.size": 200}},
        trainer="averaged.Averaged",
        general="prompts",
        studies=SHORT,
    ),
    Arm(
        "ewc",
        "EWC",
        PLAIN,
        trainer="ewc.EWC",
        weight=0.003,
        callbacks=("ewc.FisherInformation",),
        general="prompts",
        studies=("tiny-short",),
    ),
    Arm(
        "der",
        "DER++",
        _memory(0.25, 0.4, **{"loss.replay_weight": 0.5}),
        trainer="teachers.BaseTeacher",
        general="prompts",
        studies=("tiny-short",),
    ),
    Arm("osf", "OSF", PLAIN, peft="osf", studies=("tiny-short",)),
    Arm("corda", "CorDA, knowledge-preserving", PLAIN, peft="corda", general="prompts", studies=("tiny-short",)),
    Arm("self_distillation", "self-distillation (SDFT)", PLAIN, rewrites=True, studies=("smollm2",)),
)
QUICK_ARMS = ("base", "plain", "replay_25", "kl_memory", "icft")
"""The arms of order 1; each has its α curve."""
