"""Every knob of the method, once. `METHODS` names the settings that experiments compare."""

import dataclasses
import functools
import os
from dataclasses import dataclass

from icft_lite.errors import ICFTError


@dataclass
class ICFTConfig:
    """All settings of one run; `report.json` stores them. Sizes are in examples unless named otherwise. Given by name;
    what is not given is as its method has it (METHODS), or the default."""

    model: str = "tiny"
    """`tiny` (the embedded base), a folder, or a Hub name."""
    method: str = "icft"
    """A key of METHODS: settings that stand in the place of the defaults."""
    seed: int = 0
    """Seeds adapters, schedule, memory and generation. The base and the data do not depend on it."""

    topics: tuple = ()
    """Medical topics to learn and be tested on; none named: all. The general side stays whole."""

    # --- model and adapters (QLoRA)
    four_bit: bool = True
    """Hold the frozen base in NF4 with double quantisation (bitsandbytes)."""
    unpack_below: int = 256
    """MiB that a 4-bit base may take written out in plain numbers, on a CPU: bitsandbytes writes a larger one out anew
    for every product. Never changes the result."""
    lora_rank: int = 32
    """Rank r of both adapters."""
    lora_alpha: int = 64
    """LoRA scale: ΔW = (alpha / r) · B·A. 2r, as in "LoRA Learns Less and Forgets Less"."""
    max_length: int = 512
    """Tokens a row may have; longer context is cut first, never the question or the response."""
    letter_options: bool = False
    """List options as A, B, C… in the prompt and score the letter. False: score each option's text."""

    share_prompts: bool = True
    """Write a question's options behind one copy of the prompt. Turn off for models without masked attention."""
    pack_rows: bool = True
    """Write a step's short rows behind one another, each seeing itself only, so that little is padded. Never changes
    the gradient. Turn off for models without masked attention."""

    # --- optimiser
    learning_rate: float = 2e-3
    """Peak learning rate of AdamW; one cosine over the run, to a tenth."""
    warmup: float = 0.1
    """Share of the run over which the rate rises. The first stages lie in it by default: steps at the full rate on few
    kinds of rows are what forgets most."""
    epochs: float = 3.0
    """How often the new rows are run through, on average; memory rows come on top."""
    tokens: int = 0
    """Non-padding tokens the whole run trains on, memory included; overrides `epochs`. Runs with equal
    `tokens` can be compared."""
    max_steps: int = 0
    """Cut the run to this many optimiser steps in all; 0 means as many as the tokens need."""
    rows: int = 8
    """Rows of sequence in an optimiser step: new, ring and memory together; P processes have P times as many.
    Options that share their prompt count as one row."""
    micro_batches: int = 1
    """Forward passes a process cuts a step into, by length (so little is padded). Never changes the gradient."""

    save_every: int = 0
    """Steps between the saved states a killed run resumes from; 0 means about a minute. Never changes the result."""

    # --- the three losses; L_total is their weighted sum
    consistency_weight: float = 0.1
    """Weight of L_consistency: T²·KL(teacher ‖ fast adapter) on memory rows."""
    consistency_tokens: str = "all"
    """Tokens of memory rows that L_consistency covers: `all`, the prompts' too (promoted rows': never), or `response`.
    `all` keeps far more; a prompt's tokens pass through the trunk anyway, but its cached states and the head's work
    grow with it."""
    task_weight: float = 1.0
    """Weight of L_task: the noise-aware objective on weak labels."""
    fine_tune_weight: float = 1.0
    """Weight of L_fine-tune: response-token NLL."""
    replay_weight: float = 0.0
    """Weight of memory rows inside L_fine-tune; 0 leaves them to L_consistency."""
    temperature: float = 0.0
    """T in T²·KL; 0 stands for T = ∞, where it becomes half the variance of the logits' differences: no logits are
    needed, and far more is kept than at 1."""
    pair_beta: float = 2.0
    """β_pair: scale of the length-normalised log-probability difference of a pair."""

    # --- weak supervision
    label_model: str = "dawid_skene"
    """`dawid_skene`, `majority_vote`, or `gold` (an upper bound: reads the gold of the weak pool)."""

    least_posterior: float = 0.02
    """Options of a weak question less likely than this are left out of training: they cost a fifth of a step's tokens,
    and L_task pushes down what nobody thinks right. Lettered options all stay."""
    soft_labels: bool = True
    """Train on posteriors. False: on each weak row's likeliest response, taken as certain (plain fine-tuning)."""

    # --- curriculum
    order: str = "easy_to_hard"
    """`easy_to_hard`, `hard_to_easy` (each stage adds a level to those before it), `interleaved`, or `random` (every
    level in every stage)."""
    last_stage: float = 0.9
    """Share of the run's tokens that the last stage gets, the one with every level; the others divide the rest."""
    signals: tuple = ("loss", "length", "entropy")
    """Difficulty = rank average of these: loss, ifd, length, entropy."""
    competence_start: float = 0.3
    """c0 of competence pacing (Platanios et al., 2019): the share of a stage's rows that it begins with."""
    competence_end: float = 1.0
    """T of competence pacing, as a share of the stage: from then on every row may be drawn."""

    # --- memory
    memory_share: float = 0.25
    """Share of a step's rows drawn from the long-term memory."""
    ring_share: float = 0.125
    """Share of a step's rows replayed from the short-term ring. Both shares are met over the steps: 0.05 of 8 rows is
    two rows in five steps."""
    ring_size: int = 128
    """Rows the short-term ring holds."""
    promote_after: int = 3
    """Replays a row needs before it may be promoted when it leaves the ring."""
    promote_confidence: float = 0.8
    """Weak rows promote only if their posterior's largest entry reaches this."""
    memory_size: int = 4000
    """Rows the long-term memory holds, in equal shares for its sources: given, made up by the base, promoted."""
    memory_policy: str = "surprise"
    """Which rows a full memory keeps: `surprise` (NLL under the slow adapter), `balanced`, `reservoir`, `ring` or
    `herding`; see `policies`."""
    reservoir_share: float = 0.25
    """Share of each topic's quota that `surprise` fills at random, whatever the surprise."""
    self_prompts: int = 1000
    """Prompts the base makes up for itself to seed the memory (pseudo-rehearsal); 0 for none."""
    ema_decay: float = 0.0
    """β of the slow adapter; 0 means 1 − 10 / stage steps."""
    consolidate: bool = True
    """Choose the point between the old and the new long-term memory at each stage's end; at the last one's, a little
    beyond it too."""
    exact_average: bool = True
    """Take that point in ΔW = B·A itself, brought back to rank r by SVD. False: average A and B, which is cheaper and
    not the average of what they do (lesson 05)."""
    epsilon: float = 0.08
    """How far general validation may fall below the base's. Smaller keeps more and learns more slowly."""
    state_dtype: str = "float32"
    """Storage of teacher states: float32 is exact; float16 and bfloat16 save half and print their error."""
    states_in_memory: int = 1024
    """MiB that each teacher's states may take in memory. Where they would take more, they stay in the run's folder and
    are mapped from there. Never changes the result."""

    def __post_init__(self):
        if self.method not in METHODS:
            raise ICFTError(f"method: {self.method!r} is unknown; choose one of {', '.join(METHODS)}")
        self.signals, self.topics = tuple(self.signals), tuple(self.topics)
        self._check(
            "order",
            self.order in ("easy_to_hard", "hard_to_easy", "interleaved", "random"),
            "choose easy_to_hard, hard_to_easy, interleaved or random",
        )
        self._check(
            "label_model",
            self.label_model in ("dawid_skene", "majority_vote", "gold"),
            "choose dawid_skene, majority_vote or gold",
        )
        self._check(
            "memory_policy",
            self.memory_policy in ("surprise", "balanced", "reservoir", "ring", "herding"),
            "choose surprise, balanced, reservoir, ring or herding",
        )
        self._check(
            "state_dtype", self.state_dtype in ("float32", "float16", "bfloat16"), "choose float32, float16 or bfloat16"
        )
        self._check("consistency_tokens", self.consistency_tokens in ("all", "response"), "choose all or response")
        unknown = set(self.signals) - {"loss", "ifd", "length", "entropy"}
        self._check("signals", self.signals and not unknown, "choose among loss, ifd, length, entropy")
        for name in ("learning_rate", "lora_rank", "lora_alpha", "max_length", "epochs", "rows", "micro_batches"):
            self._check(name, getattr(self, name) > 0, "give a number above 0")
        for name in (
            "consistency_weight",
            "task_weight",
            "fine_tune_weight",
            "replay_weight",
            "temperature",
            "max_steps",
            "save_every",
            "tokens",
            "memory_size",
            "states_in_memory",
            "ring_size",
            "self_prompts",
            "epsilon",
            "unpack_below",
        ):
            self._check(name, getattr(self, name) >= 0, "give 0 or more")
        for name in (
            "memory_share",
            "ring_share",
            "warmup",
            "competence_start",
            "competence_end",
            "promote_confidence",
            "reservoir_share",
            "ema_decay",
            "last_stage",
            "least_posterior",
        ):
            self._check(name, 0 <= getattr(self, name) <= 1, "give a number between 0 and 1")
        self._check(
            "memory_share",
            self.memory_share + self.ring_share < 1,
            "memory_share + ring_share must leave room for new rows",
        )

    def _check(self, name, ok, mend):
        if not ok:
            raise ICFTError(f"{name}: {getattr(self, name)!r} is not possible; {mend}")

    @classmethod
    def from_dict(cls, values):
        """A config from a plain dict (YAML, `--set`). Raises ICFTError for an unknown field or a wrong type."""
        fields = {f.name: f for f in dataclasses.fields(cls)}
        clean = {}
        for name, value in values.items():
            if name not in fields:
                raise ICFTError(f"config: {name!r} is not a setting; see ICFTConfig for their names")
            clean[name] = _coerce(name, value, fields[name].default)
        return cls(**clean)

    def to_dict(self):
        """Plain values, ready for JSON."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(self).items()
        }


def _coerce(name, value, default):
    try:
        if isinstance(default, bool):
            if isinstance(value, bool):
                return value
            return {"true": True, "1": True, "false": False, "0": False}[str(value).lower()]
        if isinstance(default, tuple):
            return tuple(filter(None, value.split(","))) if isinstance(value, str) else tuple(value)
        return type(default)(value)
    except (KeyError, TypeError, ValueError):
        kind = type(default).__name__
        raise ICFTError(f"config: {name} = {value!r} cannot be read; it is a {kind}") from None


METHODS = {
    "icft": {},
    "qlora": dict(
        memory_share=0.0,
        ring_share=0.0,
        consolidate=False,
        consistency_weight=0.0,
        task_weight=0.0,
        soft_labels=False,
        order="random",
    ),
    "replay": dict(consistency_weight=0.0, replay_weight=1.0),
    "no_ltm": dict(memory_share=0.0, consistency_weight=0.0, consolidate=False),
    "no_ring": dict(ring_share=0.0),
    "no_curriculum": dict(order="random"),
    "no_task": dict(task_weight=0.0),
    "majority_vote": dict(label_model="majority_vote"),
    "gold": dict(label_model="gold"),
}
"""icft: the whole method. qlora: plain fine-tuning on the same rows and labels. replay: memory replayed by NLL and
interpolation, no consistency. no_ltm: no long-term memory (no memory rows, no interpolation). no_ring: no replay from
the short-term ring, so no promotion. no_curriculum: every level from the start, in random order, without pacing.
no_task: without L_task. majority_vote, gold: other labels."""


def _method_first(init):
    """An __init__ that takes a method's settings for those that are not given."""

    @functools.wraps(init)
    def __init__(self, **given):
        init(self, **{**METHODS.get(given.get("method"), {}), **given})

    return __init__


ICFTConfig.__init__ = _method_first(ICFTConfig.__init__)


def quick():
    """True in the `quick` profile (the default), False when ICFT_PROFILE=full."""
    return os.environ.get("ICFT_PROFILE", "quick") != "full"
