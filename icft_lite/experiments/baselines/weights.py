"""Trainers that add a weighted term to L_total."""

from icft_lite.training.trainer import ICFTTrainer


class WeightedTrainer(ICFTTrainer):
    """An ICFTTrainer whose `regularizer` has a weight."""

    weight: float


def with_weight(trainer: type[WeightedTrainer], weight: float) -> type[WeightedTrainer]:
    """Return a trainer with another weight, which is part of its name, as tables show it."""
    return type(f"{trainer.__name__}{weight:g}", (trainer,), {"weight": weight, "__doc__": trainer.__doc__})
