"""A stage of three steps, with new, ring and memory examples of all tasks."""

from icft_lite.memory.long_term import LongTermMemory
from icft_lite.modeling.encoding import Encoder
from icft_lite.training.batches import StageBatches
from icft_lite.training.plan import PlannedStep

STEPS = (PlannedStep([0, 1, 2], [3], [0, 1]), PlannedStep([3, 2], [0], [1]), PlannedStep([1], [2, 0], [0]))


def stage_batches(model, tokenizer, example):
    """Return make(config, steps, runtime) → StageBatches. example: the fixture of that name."""
    encoder = Encoder(tokenizer)
    examples = [
        example(),
        example(prompt="Define pain in a long and slow wording of some length.", responses=["it hurts"]),
        example(task="question", responses=["a kidney", "pain", "none"], label=-1, posterior=[0.2, 0.7, 0.1]),
        example(task="pair", responses=["go to surgery", "rest"], label=-1, posterior=[0.9, 0.1]),
    ]
    encoded = [encoder(one) for one in examples]
    memory, capitals = LongTermMemory(10), {"Burundi": "Gitega", "Armenia": "Yerevan"}
    general = [
        example(id=country, prompt=f"Which city is the capital of {country}?", responses=[city])
        for country, city in capitals.items()
    ]
    memory.add(general, encoder, "general")
    memory.refresh(model)

    def make(config, steps=STEPS, runtime=None):
        soft = config.replace({"weak.soft_labels": True})  # so that all three losses have examples
        return StageBatches(list(steps), examples, encoded, memory.entries, soft, runtime)

    return make
