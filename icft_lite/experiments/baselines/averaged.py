"""Fast and slow LoRA: the result of every stage is the moving average of the fast adapter.

    slow ← β·slow + (1 − β)·fast after every optimizer step; at the end of a stage, fast ← slow

Sources: I-LoRA, Ren et al., 2024, arXiv 2402.18865; SuRe, Hazard et al., 2025, arXiv 2511.22367, which also replays the
sequences of the highest NLL. The averages are those of `memory.consolidation.ema_step`: of A and B, not of B·A.

As in the sources: two adapters, an exponential moving average of their tensors, replay by NLL from a buffer. Different:
entries are not chosen by surprise unless the ring is on (`short_term.share`), because only promoted entries have one;
the average starts again in each stage, and the fast adapter starts each stage from it; I-LoRA also pulls the fast
adapter's outputs on replayed examples towards those of the slow one, which is left out. β is `long_term.ema_decay`.

    train_icft(ICFTConfig.preset("replay", SETTINGS), out, data, trainer=Averaged)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from icft_lite.modeling.adapters import copy_adapter
from icft_lite.training.trainer import ICFTTrainer

SETTINGS = {"consolidation.enabled": False, "long_term.policy": "surprise"}
"""Without consolidation, the slow adapter, which is the result of a run, becomes a copy of the fast one."""


class Averaged(ICFTTrainer):
    """An ICFTTrainer whose fast adapter ends as the slow one."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train the stage, then overwrite the fast adapter."""
        output = super().train(*args, **kwargs)
        copy_adapter(self.model, "slow", "fast")
        return output

    def resume(self, groups: Mapping[str, Sequence[torch.Tensor]], facts: Mapping[str, Any]) -> None:
        """Resume; after the last step, where `train` is not called, overwrite the fast adapter here."""
        super().resume(groups, facts)
        if self.step == self.steps:
            copy_adapter(self.model, "slow", "fast")
