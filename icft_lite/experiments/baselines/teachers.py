"""Ablations of the teacher choice: the base, or the slow adapter, teaches every memory example.

The method takes whichever gives the stored response the higher likelihood (`memory.teachers`), as CLS-ER (Arani et al.,
2022) chooses between two averages. These trainers overwrite that choice, and the cached states, when a stage begins.
With BaseTeacher and loss.temperature=1, L_consistency is KL(base ‖ tuned) on memory examples. The slow adapter is that
of the beginning of the stage, so in the first stage it equals the base. Choosing costs one more pass over the examples
that the stage draws, and `teacher_share` in the report is still that of the method's choice.

    train_icft(ICFTConfig.preset("icft"), out, data, trainer=BaseTeacher)
"""

from typing import Any

from peft import PeftModel

from icft_lite.memory.entries import Teacher
from icft_lite.memory.teachers import ADAPTERS, response_states
from icft_lite.modeling.adapters import use_adapter
from icft_lite.training.batches import StageBatches
from icft_lite.training.trainer import ICFTTrainer


class _OneTeacher(ICFTTrainer):
    """An ICFTTrainer that gives all memory entries that have teacher states those of `teacher`."""

    teacher: Teacher

    def __init__(self, model: PeftModel, batches: StageBatches, *args: Any, **kwargs: Any) -> None:
        taught = [(entry, entry.states.dtype) for entry in batches.entries if entry.states is not None]
        with use_adapter(model.eval(), ADAPTERS[self.teacher]):
            states = response_states(model, [entry.encoded for entry, _ in taught])
        for (entry, dtype), of_one in zip(taught, states, strict=True):
            entry.teacher, entry.states = self.teacher, of_one.to(dtype)
        super().__init__(model, batches, *args, **kwargs)


class BaseTeacher(_OneTeacher):
    """The bare base teaches every memory example."""

    teacher = "base"


class SlowTeacher(_OneTeacher):
    """The slow adapter, as it was when the stage began, teaches every memory example."""

    teacher = "memory"
