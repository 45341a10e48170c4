"""The arms of the evidence study: every method with its settings (docs/protocol.md). Sources: docs/baselines.md."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from icft_lite.data.bundle import DataBundle
from icft_lite.data.samples import sample_bundle
from icft_lite.experiments.paper.single_lf import best_single_lf

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
    result: Literal["trained", "random", "base"] = "trained"
    """What is evaluated: what was trained, a random adapter (`baselines.random_change`), or the base."""
    rewrites: bool = False
    """Whether the base rewrites the training replies first (`baselines.self_distillation`)."""
    change_data: Callable[[DataBundle], DataBundle] | None = None
    """Changes the data of the study first."""
    callbacks: tuple[str, ...] = ()
    """As `trainer`, of RunCallbacks."""
    ablates: str = ""
    """The part of ICFT that it lacks or replaces; "" for other methods."""
    general: General = "none"
    """Whether the method reads general prompts."""
    cost: float = 1.0
    """Seconds of a run, as a multiple of plain fine-tuning's."""
    alphas: tuple[float, ...] = ()
    """In place of those of the study."""
    studies: tuple[str, ...] = ("tiny", "tiny-short", "smollm2")
    """Studies that it is part of."""
    tokens: float = 1.0
    """Its tokens, as a multiple of the study's."""
    takes_as_long: bool = False
    """Whether its tokens are so many that it takes about as many seconds as ICFT (`benchmarks/study_cost.py`)."""
    exploratory: tuple[str, ...] = ()
    """Studies to which it was added after their settings were fixed. Tables say so, and registered claims do not
    compare with it."""

    def in_study(self, study: str) -> dict[str, Any]:
        """Return the arm's settings in a study."""
        return {**self.settings, **self.own.get(study, {})}

    def runs_on(self, study: str) -> bool:
        """Return whether the arm is part of a study."""
        return study in self.studies


def with_benchmark_answers(data: DataBundle) -> DataBundle:
    """Return a bundle whose memory prompts are the general training questions of the samples with their answers.

    They replace the prompts of the chat suite, to which the base itself replies.
    """
    return replace(data, general_memory=sample_bundle().general_memory, chat={**data.chat, "memory": ()})


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
    return Arm(name, label, {**ICFT, **(settings or {})}, ablates=part, **{"general": "prompts", **options})


SOFT: dict[str, Any] = {"weak.soft_labels": True}
SEARCH: dict[str, Any] = {"consolidation.enabled": True}
ARMS: tuple[Arm, ...] = (
    # order 1
    Arm("base", "base, not fine-tuned", PLAIN, result="base", alphas=(0.0,), cost=0.4),
    Arm("plain", "plain QLoRA", PLAIN, PLAIN_OWN, cost=0.8),
    Arm("replay_25", "replay, 25 %", _replay(0.25), general="prompts"),
    Arm(
        "kl_memory",
        "distillation from the base on memory",
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
    _icft(
        "consistency_and_nll",
        "with NLL on memory besides L_consistency",
        "losses",
        {"loss.replay_weight": 1.0},
        studies=("smollm2",),
        exploratory=("smollm2",),
    ),
    _icft("soft_labels", "with soft labels and L_task", "losses", SOFT),
    _icft("soft_no_task", "with soft labels, without L_task", "losses", {**SOFT, "loss.task_weight": 0.0}),
    _icft(
        "no_memory",
        "without long-term memory",
        "memory",
        {"long_term.share": 0.0, "loss.consistency_weight": 0.0},
        general="none",
        studies=TINY,
    ),
    _icft("ring", "with the short-term ring and promotion", "memory", {"short_term.share": 0.125}),
    _icft("average", "with the slow adapter", "memory", trainer="averaged.Averaged"),
    _icft("search", "with the slow adapter and consolidation", "memory", SEARCH),
    # On `smollm2`, whose only teacher is the base, random order is the run of `kl_memory`.
    _icft("random", "random order", "curriculum", {"curriculum.order": "random"}, studies=TINY),
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
        general="none",
        exploratory=("smollm2",),
    ),
    _icft("small_memory", "memory of 300", "memory", {"long_term.size": 300}, studies=TINY),
    _icft("majority_vote", "majority vote", "labels", {"weak.label_model": "majority_vote"}, studies=TINY),
    _icft("single_lf", "best single labelling function", "labels", change_data=best_single_lf, studies=TINY),
    _icft("gold", "gold labels", "labels", {"weak.label_model": "gold"}, studies=TINY),
    _icft("full_precision", "not in 4 bits", "precision", {"adapter.load_in_4bit": False}, studies=TINY),
    # order 3: the other baselines
    Arm("low_rate", "plain, low rate", _rate(1e-3), {"smollm2": {"optim.learning_rate": 2e-4}}),
    Arm(
        "mlp",
        "LoRA on MLP layers, rank 10",
        {**PLAIN, "adapter.rank": 10, "adapter.alpha": 20},
        {"tiny-short": {"optim.learning_rate": 4e-3}},
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
        change_data=with_benchmark_answers,
        general="prompts",
        studies=("smollm2",),
    ),
    Arm(
        "plain_longer",
        "plain QLoRA, 1.3 times the tokens",
        PLAIN,
        PLAIN_OWN,
        studies=TINY,
        tokens=1.3,
        takes_as_long=True,
    ),
    Arm(
        "replay_longer",
        "replay, 25 %, 1.1 times the tokens",
        _replay(0.25),
        general="prompts",
        studies=TINY,
        tokens=1.1,
        takes_as_long=True,
    ),
    Arm("kl_new", "KL to the base on new examples", PLAIN, trainer="base_kl.BaseKL", weight=0.1, studies=SHORT),
    Arm("dft", "DFT: NLL weighted by probability", PLAIN, trainer="token_weights.DFT", studies=SHORT),
    Arm("eaft", "EAFT: NLL weighted by entropy", PLAIN, trainer="token_weights.EAFT", studies=SHORT),
    Arm(
        "averaged_replay",
        "fast and slow LoRA, replay",
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
    Arm(
        "olora",
        "O-LoRA over the stages",
        {**PLAIN, "curriculum.order": "easy_to_hard", "curriculum.competence_start": 1.0},
        PLAIN_OWN,
        trainer="olora.OLoRA",
        weight=0.5,
        studies=("tiny-short",),
    ),
    Arm("osf", "OSF", PLAIN, peft="osf", studies=("tiny-short",)),
    Arm("corda", "CorDA, knowledge-preserving", PLAIN, peft="corda", general="prompts", studies=("tiny-short",)),
    Arm("self_distillation", "self-distillation (SDFT)", PLAIN, rewrites=True, studies=("smollm2",)),
    Arm(
        "random_change",
        "base with a random change",
        PLAIN,
        result="random",
        studies=("smollm2",),
        cost=0.6,
        exploratory=("smollm2",),
    ),
)
QUICK_ARMS = ("base", "plain", "replay_25", "kl_memory", "icft")
"""The arms of order 1; each has its α curve."""
