"""The arms of the evidence study: every method, its settings, and where it comes from (docs/protocol.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from icft_lite.config import ICFTConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.experiments.settings import DEMO

General = Literal["none", "prompts"]


@dataclass(frozen=True)
class Arm:
    """One method of the study."""

    name: str
    label: str
    """Its name in tables."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """By dotted name, with the preset as `method`."""
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

    def config(self, arm: Arm) -> ICFTConfig:
        """Return the configuration of an arm."""
        return ICFTConfig.from_dict({**self.settings, **arm.settings})

    def data(self, split: int) -> DataBundle:
        """Return the data of a split: 0 is the bundled one."""
        from icft_lite.experiments.resplit import resplit

        return resplit(split)


ALPHAS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.35, 0.2)
STUDIES = {
    "tiny": Study("tiny", {"optim.max_tokens": 350_000}, ALPHAS, 3.0),
    "tiny-short": Study("tiny-short", DEMO, ALPHAS, 2.5),
}
PLAIN: dict[str, Any] = {"method": "qlora"}
MEMORY: dict[str, Any] = {**PLAIN, "long_term.share": 0.25}
ARMS: tuple[Arm, ...] = (
    Arm("base", "base, not fine-tuned", {**PLAIN, "optim.max_steps": 1}, alphas=(0.0,), cost=0.5),
    Arm("plain", "plain QLoRA", PLAIN),
    Arm("replay_25", "replay, 25 %", {**MEMORY, "loss.replay_weight": 1.0}, general="prompts"),
    Arm("kl_memory", "KL on memory", {**MEMORY, "loss.consistency_weight": 0.4}, general="prompts"),
    Arm("icft", "ICFT", {"method": "icft"}, general="prompts"),
)
QUICK_ARMS = ("base", "plain", "replay_25", "kl_memory", "icft")
"""The arms of order 1; each has its α curve."""
