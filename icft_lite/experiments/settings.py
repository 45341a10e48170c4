"""Settings of the demos."""

from typing import Any

DEMO: dict[str, Any] = {
    "topics": ("terminology", "drug_class", "relevance", "reply"),
    "optim.max_tokens": 250_000,
    "curriculum.competence_end": 0.75,
    "loss.consistency_weight": 0.4,
}
"""Settings of the demo: one or two topics of each level, which two minutes of training can teach. They are fewer than
all topics, so a smaller weight of L_consistency is enough. In the last quarter of a stage every example is available,
so that the hardest, preferences, are drawn more than once."""
DEMO_QLORA: dict[str, Any] = {"optim.learning_rate": 4e-3}
"""Settings of plain QLoRA alone in the demo: of four rates (1e-3, 2e-3, 4e-3, 8e-3) the one with the best medical score
on validation."""
FULL: dict[str, Any] = {
    **DEMO,
    "topics": ("terminology", "anatomy", "drug_class", "drug_use", "relevance", "reply"),
    "optim.max_tokens": 1_000_000,
}
"""Settings of `make demo FULL=1`: more topics, and more tokens."""

CHAT_DEMO: dict[str, Any] = {
    "model": "smollm2",
    "topics": ("terminology", "drug_class", "reply"),
    "optim.max_tokens": 30_000,
    "limits.trusted": 400,
    "limits.pool": 400,
    "limits.validation": 60,
    "limits.test": 100,
    "long_term.size": 160,
}
"""Settings of the demo on a real chat model. The memory has a few more examples than this many tokens draw."""
CHAT_FULL: dict[str, Any] = {**CHAT_DEMO, "optim.max_tokens": 60_000, "long_term.size": 320}
"""Settings of its `--full` version: twice the tokens, and twice the memory."""
CHAT_LOW_RATE: dict[str, Any] = {"method": "qlora", "optim.learning_rate": 2e-4}
"""Plain fine-tuning at a low learning rate, which forgets less: a variant in the `--full` version."""
CHAT_QUICK: dict[str, Any] = {
    **CHAT_DEMO,
    "optim.max_tokens": 8_000,
    "limits.trusted": 80,
    "limits.pool": 60,
    "limits.validation": 16,
    "limits.test": 40,
    "long_term.size": 40,
}
"""Settings of its `--quick` version: an illustration, not evidence."""


def demo_settings(model: str) -> dict[str, Any]:
    """Return the settings of the demo of a model: those of `smollm2` for every model but `tiny`."""
    return DEMO if model == "tiny" else {name: value for name, value in CHAT_DEMO.items() if name != "model"}
