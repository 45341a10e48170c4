"""Settings of a run: ICFTConfig defines the method, RuntimeConfig how it is executed.

Two runs with equal ICFTConfig, data and base are the same run. RuntimeConfig may differ between them, and may change
when an interrupted run is resumed. Settings are addressed by dotted names, as in `--set optim.learning_rate=1e-3`.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Self

from icft_lite.compat import AcceptsOldNames, moved, old_attribute, rename_settings
from icft_lite.errors import ICFTError
from icft_lite.presets import PRESETS, model_defaults
from icft_lite.utils.config_parsing import build, check_settings, flatten, to_dict

TOKENS_PER_PASS = 1024
"""Tokens of a forward pass in training, for which `icft-lite doctor` estimates memory."""

Order = Literal["easy_to_hard", "hard_to_easy", "interleaved", "random"]
Signal = Literal["loss", "ifd", "length", "entropy"]
LabelModelName = Literal["dawid_skene", "majority_vote", "gold"]
Metric = Literal["auto", "exact_match", "accuracy", "accuracy_norm"]
PolicyName = Literal["surprise", "balanced", "reservoir", "ring", "herding"]


@dataclass(frozen=True)
class AdapterConfig:
    """The frozen base and its two LoRA adapters (QLoRA, arXiv 2305.14314)."""

    load_in_4bit: bool = True
    """Hold the frozen base in NF4 with double quantization (bitsandbytes)."""
    rank: int = 32
    """Rank r of both adapters."""
    alpha: int = 64
    """LoRA scale: ΔW = (alpha / r)·B·A. The default is 2r, as in "LoRA Learns Less and Forgets Less"."""

    def __post_init__(self) -> None:
        check_settings(self, positive=("rank", "alpha"))


@dataclass(frozen=True)
class EncodingConfig:
    """How examples become token sequences."""

    max_length: int = 512
    """Maximum number of tokens of an example. Longer context is truncated, the question and the response never."""
    letter_options: bool = False
    """List options as A, B, C, … in the prompt and score the letter. False: score the text of each option."""
    share_prompts: bool = True
    """Encode the options of a question after one copy of the prompt, and batches after one copy of what all their
    prompts start with, such as a system message. Off for models in which the options would affect each other
    (docs/models.md)."""

    def __post_init__(self) -> None:
        check_settings(self, positive=("max_length",))


@dataclass(frozen=True)
class OptimConfig:
    """Optimizer, batch size and length of training."""

    learning_rate: float = 2e-3
    """Peak learning rate of AdamW. One cosine schedule over the whole run, down to a tenth of the peak."""
    warmup_ratio: float = 0.1
    """Share of the run over which the learning rate rises. By default this covers the stages before the last: steps at
    the full rate on few kinds of examples cause the most forgetting."""
    num_epochs: float = 3.0
    """Passes over the new examples, on average. Memory examples come in addition."""
    max_tokens: int | None = None
    """Non-padding tokens of the whole run, memory included; overrides `num_epochs`. A prefix that a batch shares counts
    for each sequence, so runs with equal `max_tokens` can be compared. None: as many as `num_epochs` needs."""
    max_steps: int | None = None
    """Maximum number of optimizer steps in all. None: as many as the tokens need."""
    batch_size: int = 8
    """Sequences in an optimizer step: new, ring and memory examples together. With P processes, a step has P times
    as many. Options that share their prompt count as one sequence."""

    def __post_init__(self) -> None:
        check_settings(
            self,
            positive=("learning_rate", "num_epochs", "max_tokens", "max_steps", "batch_size"),
            shares=("warmup_ratio",),
        )


@dataclass(frozen=True)
class LossConfig:
    """L_total = consistency_weight·L_consistency + task_weight·L_task + fine_tune_weight·L_fine-tune."""

    consistency_weight: float = 1.2
    """Weight of L_consistency: the mean of T²·KL(teacher ‖ fast adapter) over the tokens of memory examples."""
    consistency_tokens: Literal["all", "response"] = "all"
    """Tokens of memory examples that L_consistency covers: `all` includes prompts (never those of promoted examples).
    On `tiny`, `all` retains far more; it costs cached states and output-head work for the prompts."""
    task_weight: float = 1.0
    """Weight of L_task: the noise-aware objective on weak labels."""
    fine_tune_weight: float = 1.0
    """Weight of L_fine-tune: negative log-likelihood of response tokens."""
    replay_weight: float = 0.0
    """Weight of memory examples inside L_fine-tune. 0 leaves them to L_consistency."""
    temperature: float | None = None
    """T in T²·KL. None: the limit T → ∞, half the variance of the logit differences. It needs no logits, and on `tiny`
    retains far more than T = 1."""
    pair_beta: float = 2.0
    """β: scale of the difference of length-normalized log-probabilities of a pair."""

    def __post_init__(self) -> None:
        check_settings(
            self,
            positive=("temperature", "pair_beta"),
            not_negative=("consistency_weight", "task_weight", "fine_tune_weight", "replay_weight"),
        )


@dataclass(frozen=True)
class WeakConfig:
    """Weak supervision."""

    label_model: LabelModelName = "dawid_skene"
    """Combines the votes of labelling functions. `gold` is an upper bound: it reads the gold labels of the pool."""
    min_posterior: float = 0.02
    """Options of a weak question with a smaller posterior are left out of training. Lettered options all stay."""
    soft_labels: bool = False
    """Train on posteriors, by L_task too. False: the most likely response of each question and pair is the only target,
    so L_task has no examples. Soft labels had no measured benefit (docs/experiments.md)."""

    def __post_init__(self) -> None:
        check_settings(self, shares=("min_posterior",))


@dataclass(frozen=True)
class CurriculumConfig:
    """Stages, difficulty and pacing."""

    order: Order = "easy_to_hard"
    """`easy_to_hard`, `hard_to_easy` (each stage adds a level to those before it), `interleaved`, or `random` (every
    level in every stage)."""
    last_stage_share: float = 0.9
    """Share of the run's tokens for the last stage, which has every level. The others divide the rest."""
    signals: tuple[Signal, ...] = ("loss", "length", "entropy")
    """Difficulty is the average rank of these: loss, ifd (instruction-following difficulty), length, entropy (of soft
    labels). It is not computed for the orders `interleaved` and `random`."""
    competence_start: float = 0.3
    """c0 of competence-based pacing (Platanios et al., 2019): the share of easiest examples that are
    available at the beginning of a stage."""
    competence_end: float = 1.0
    """T of competence-based pacing, as a share of the stage. From then on every example may be drawn."""

    def __post_init__(self) -> None:
        check_settings(self, shares=("last_stage_share", "competence_start", "competence_end"))
        if not self.signals:
            raise ICFTError("curriculum.signals: it is empty; choose among loss, ifd, length, entropy")


@dataclass(frozen=True)
class ShortTermConfig:
    """Short-term memory: the fast adapter and a ring of recent examples."""

    share: float = 0.0
    """Share of a batch replayed from the ring, on average: 0.05 of 8 sequences is two sequences in five steps. 0: no
    ring, so no promotion, which had no measured benefit (docs/experiments.md)."""
    size: int = 128
    """Maximum number of examples in the ring."""
    promote_after: int = 3
    """Replays after which an example that leaves the ring may be promoted to the long-term memory."""
    promote_confidence: float = 0.8
    """Weak examples are promoted only if the largest entry of their posterior reaches this."""

    def __post_init__(self) -> None:
        check_settings(self, not_negative=("size", "promote_after"), shares=("share", "promote_confidence"))


@dataclass(frozen=True)
class LongTermConfig:
    """Long-term memory: the slow adapter and a bounded buffer of examples with teacher states."""

    share: float = 0.25
    """Share of a batch drawn from the buffer, on average."""
    size: int = 4000
    """Maximum number of examples in the buffer, divided equally among its sources: given, self-generated, promoted."""
    policy: PolicyName = "surprise"
    """Which examples a full buffer retains; see `icft_lite.memory.policies`."""
    reservoir_share: float = 0.25
    """Share of each topic's quota that the policy `surprise` fills at random."""
    self_prompts: int = 1000
    """Prompts the base generates to seed the buffer (pseudo-rehearsal). 0: none."""
    ema_decay: float | None = None
    """Decay β of the slow adapter's moving average. None: 1 − 10 / steps of the stage."""

    def __post_init__(self) -> None:
        check_settings(self, not_negative=("size", "self_prompts"), shares=("share", "reservoir_share", "ema_decay"))


@dataclass(frozen=True)
class ConsolidationConfig:
    """Line search over the interpolation coefficient α at the end of each stage."""

    enabled: bool = True
    """Search for α. False: the slow adapter becomes a copy of the fast one."""
    exact: bool = True
    """Interpolate ΔW = B·A itself and reduce it to rank r by SVD. False: interpolate A and B separately, which is
    cheaper but gives a different ΔW (lesson 05)."""
    max_drop: float = 0.08
    """Retention constraint: retention on general validation is at least 1 − max_drop. It is chance-corrected for
    questions with options; that of the chat suite is a ratio of right replies."""
    max_kl: float = 0.1
    """Maximum of KL(base ‖ tuned) on general validation, in nats per token. It constrains if the data has a chat suite,
    where KL is measured on the base's replies, or if the base is above chance on no general suite."""

    def __post_init__(self) -> None:
        check_settings(self, positive=("max_kl",), not_negative=("max_drop",))


@dataclass(frozen=True)
class LimitsConfig:
    """Maximum number of examples, for quick runs. They are drawn at random, balanced over topics, always the same."""

    trusted: int | None = None
    """Labelled training examples. None: all."""
    pool: int | None = None
    """Unlabelled training examples. None: all."""
    validation: int = 500
    """Examples of each validation suite, which every candidate of consolidation is scored on. Of the chat suite: free
    questions, and instructions."""
    test: int | None = None
    """Examples of each test suite. Of the chat suite: free questions, and instructions. None: all."""

    memory: int | None = None
    """Given general examples that seed the long-term memory. Of the chat suite: free questions, and instructions.
    None: all; 0: none, so that it is seeded with self-generated prompts only."""

    def __post_init__(self) -> None:
        check_settings(self, positive=("trusted", "pool", "validation", "test"), not_negative=("memory",))


@dataclass(frozen=True)
class ICFTConfig(metaclass=AcceptsOldNames):
    """Everything that defines a run of the method. `report.json` stores it.

    Build it from a preset with dotted names (`ICFTConfig.preset("qlora", {"optim.learning_rate": 4e-3})`), from a dict
    (`from_dict`), or with keywords (`ICFTConfig(optim=OptimConfig(learning_rate=1e-3))`). Keywords leave all other
    settings at the defaults of `tiny`; the first two know those of other models (`presets.model_defaults`).
    """

    model: str = "tiny"
    """`tiny` (the embedded model), `smollm2` (SmolLM2-135M-Instruct), a folder, a GGUF file, or a Hub name."""
    method: str = field(default="icft", init=False)
    """Name of the preset that this configuration started from; see `preset`."""
    seed: int = 0
    """Seeds adapters, plan, memory and generation. The base and the data do not depend on it."""
    metric: Metric = "auto"
    """Primary metric of questions with options, see `evaluate_suite`. `auto`: `exact_match` for `tiny`, `accuracy` for
    every other model."""
    topics: tuple[str, ...] = ()
    """Medical topics to train and test on. Empty: all. General data is not restricted."""
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    encoding: EncodingConfig = field(default_factory=EncodingConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    weak: WeakConfig = field(default_factory=WeakConfig)
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)
    short_term: ShortTermConfig = field(default_factory=ShortTermConfig)
    long_term: LongTermConfig = field(default_factory=LongTermConfig)
    consolidation: ConsolidationConfig = field(default_factory=ConsolidationConfig)

    def __post_init__(self) -> None:
        check_settings(self, not_negative=("seed",))
        if self.seed >= 2**32:
            raise ICFTError(f"seed: {self.seed} is not possible; give a number below 2**32")
        if self.long_term.share + self.short_term.share >= 1:
            raise ICFTError(
                f"long_term.share + short_term.share: {self.long_term.share} + {self.short_term.share} "
                f"leaves no room for new examples; make the sum smaller than 1"
            )

    @classmethod
    def preset(cls, name: str, settings: Mapping[str, Any] | None = None) -> Self:
        """Return the configuration of a preset (a key of `PRESETS`), with `settings` (as in `from_dict`) on top.

        Raises ICFTError for an unknown preset or setting.
        """
        return cls.from_dict({**(settings or {}), "method": name})

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Return a configuration from nested dicts or dotted names; values may be text, as from a command line.

        Unset fields take the value of the preset named by `method`, then that of `model_defaults`, then the default.
        Old names are accepted with a warning. Raises ICFTError for an unknown setting or a value of the wrong type.
        """
        given = flatten(rename_settings(settings))
        name = str(given.pop("method", "icft"))
        if name not in PRESETS:
            raise ICFTError(f"method: {name!r} is unknown; choose one of {', '.join(PRESETS)}")
        model = str(given.get("model", cls.model))
        return build(cls, {**model_defaults(model, name), **PRESETS[name], **given})._named(name)

    def replace(self, settings: Mapping[str, Any]) -> Self:
        """Return a copy with other values for dotted names, e.g. `config.replace({"optim.max_tokens": 10_000})`.

        It keeps `method`, which `dataclasses.replace` does not. Raises ICFTError for another `method` or `model`, on
        which defaults depend: use `preset`.
        """
        if "method" in settings:
            raise ICFTError(f"method: a copy cannot have another one; use ICFTConfig.preset({settings['method']!r})")
        if (model := settings.get("model", self.model)) != self.model:
            raise ICFTError(
                f"model: a copy cannot have another one, because defaults depend on it; use "
                f"ICFTConfig.preset({self.method!r}, {{'model': {model!r}}})"
            )
        flat = {**flatten(self.to_dict()), **flatten(rename_settings(settings))}
        return build(type(self), {name: value for name, value in flat.items() if name != "method"})._named(self.method)

    def _named(self, method: str) -> Self:
        object.__setattr__(self, "method", method)
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return nested plain values, ready for JSON."""
        return to_dict(self)

    def __getattr__(self, name: str) -> Any:  # called only for names that do not exist
        return old_attribute(self, name)


@dataclass(frozen=True)
class RuntimeConfig:
    """How a run is executed: saving, memory and speed. It is not part of a run's identity.

    These settings change results by rounding at most. An interrupted run can be resumed with other values; the report
    lists the change.
    """

    save_steps: int | None = None
    """Optimizer steps between checkpoints. None: a checkpoint about every minute."""
    micro_batches: int | None = None
    """Forward passes that a process splits a step into. More of them need less memory. Gradients stay the same. None:
    as many as the longest step of a stage needs for passes of about 1,024 tokens, for which `icft-lite doctor`
    estimates memory."""
    packing: bool = True
    """Pack short sequences into one row, with a block-diagonal attention mask, after one copy of their common prefix.
    Off for models in which the sequences would affect each other (docs/models.md)."""
    dequantize_below_mib: int = 256
    """On a CPU, dequantize a 4-bit base once if it then takes at most this many MiB; bitsandbytes dequantizes a larger
    one again for every product. The products are the same."""
    teacher_dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """Storage of teacher states. float32 is exact; the others halve the size, and a run reports their rounding."""
    teacher_memory_mib: int = 1024
    """Teacher states larger than this are memory-mapped from the run's folder instead of being held in memory."""

    def __post_init__(self) -> None:
        check_settings(
            self, positive=("save_steps", "micro_batches"), not_negative=("dequantize_below_mib", "teacher_memory_mib")
        )

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Self:
        """Return a RuntimeConfig from a dict; values may be text. Raises ICFTError."""
        own = {one.name for one in fields(cls)}  # names that are the same in 0.1 and now
        named = {f"runtime.{name}" if name in own else name: value for name, value in settings.items()}
        return build(cls, {name.removeprefix("runtime."): value for name, value in rename_settings(named).items()})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return to_dict(self)


def quick() -> bool:
    """Return True in the `quick` profile of the lessons (the default), False when ICFT_PROFILE=full."""
    return os.environ.get("ICFT_PROFILE", "quick") != "full"


def __getattr__(name: str) -> Any:  # names of 0.1
    return moved("config", name)
