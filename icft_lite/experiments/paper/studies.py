"""What all arms of a study share: base model, tokens, data splits and α (docs/protocol.md)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from icft_lite.config import ICFTConfig
from icft_lite.data.bundle import DataBundle
from icft_lite.data.sources import bundle_from_files
from icft_lite.experiments.paper.arms import Arm
from icft_lite.experiments.resplit import resplit
from icft_lite.experiments.settings import CHAT_FULL, DEMO


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
    unit: str = "splits"
    """What differs between the runs of an arm, in words."""

    def config(self, arm: Arm, split: int) -> ICFTConfig:
        """Return the configuration of an arm."""
        tokens = round(self.settings["optim.max_tokens"] * arm.tokens)
        return ICFTConfig.from_dict({**self.settings, "optim.max_tokens": tokens, **arm.in_study(self.name)})

    def data(self, split: int) -> DataBundle:
        """Return the data of a split: 0 is the bundled one, the others are re-splits."""
        return resplit(split)

    def test_per_train(self) -> float:
        """Return the number of test examples ÷ training examples of a split, for `mean_interval`; 0 for seeds."""
        if self.unit != "splits":
            return 0.0
        data = self.data(self.confirmation[0]).only(self.settings.get("topics"))
        return len(data.test or []) / (len(data.trusted or []) + len(data.pool or []))


class ChatStudy(Study):
    """A study of a chat model, on the bundled split.

    Splits 0 to 2 are the seed, with half 0 of the chat suite's test items; 10 to 12 are 10 + the seed, with half 1.
    """

    def config(self, arm: Arm, split: int) -> ICFTConfig:
        """Return the configuration of an arm with the split's seed."""
        return super().config(arm, split).replace({"seed": split % 10})

    def data(self, split: int) -> DataBundle:
        """Return the bundled samples with one half of the chat suite's test items."""
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
    "smollm2": ChatStudy("smollm2", CHAT_FULL, (1.0, 0.5, 0.25), 25.0, (10, 11, 12), "seeds"),
}
