"""Values of settings that depend on the method (presets) and on the model, by dotted name."""

from typing import TYPE_CHECKING, Any

from icft_lite.utils.config_parsing import flatten

if TYPE_CHECKING:
    from icft_lite.config import ICFTConfig

PRESETS: dict[str, dict[str, Any]] = {
    "icft": {},
    "qlora": {
        "long_term.share": 0.0,
        "short_term.share": 0.0,
        "consolidation.enabled": False,
        "loss.consistency_weight": 0.0,
        "loss.task_weight": 0.0,
        "weak.soft_labels": False,
        "curriculum.order": "random",
    },
    "replay": {"loss.consistency_weight": 0.0, "loss.replay_weight": 1.0},
    "self_prompts": {"limits.memory": 0},
    "no_ltm": {"long_term.share": 0.0, "loss.consistency_weight": 0.0, "consolidation.enabled": False},
    "ring": {"short_term.share": 0.125},
    "soft_labels": {"weak.soft_labels": True},
    "no_curriculum": {"curriculum.order": "random"},
    "majority_vote": {"weak.label_model": "majority_vote"},
    "gold": {"weak.label_model": "gold"},
}
"""icft: the whole method. qlora: plain fine-tuning on the same examples, with hard labels. replay: memory replayed by
NLL, without consistency. self_prompts: the memory is seeded with self-generated prompts only. no_ltm: no long-term
memory (no memory examples, no consolidation). ring: adds replay from the short-term ring, and promotion. soft_labels:
posteriors as targets, with L_task. no_curriculum: every level from the start, in random order, without pacing.
majority_vote, gold: other labels."""


CHAT_MODEL_DEFAULTS: dict[str, dict[str, Any]] = {
    "": {
        "optim.learning_rate": 1e-3,
        "loss.consistency_weight": 2.5,
        "loss.consistency_tokens": "response",
        "loss.temperature": 1.0,
        "consolidation.max_drop": 0.05,
        "long_term.size": 400,
        "long_term.self_prompts": 0,
    },
    "qlora": {"optim.learning_rate": 1e-3},
    "self_prompts": {"long_term.self_prompts": 400},
}
"""Defaults of models other than `tiny`, of all presets (key "") and of single ones: chosen on validation data of
`smollm2`, see "Default settings of chat models" in docs/models.md."""


def model_defaults(model: str, method: str = "icft") -> dict[str, Any]:
    """Return the settings, by dotted name, whose default depends on the model.

    `tiny` has none. `smollm2` is not held in 4 bits: its weights are 4-bit ones expanded to fp32 already, and it is
    small.
    """
    if model == "tiny":
        return {}
    four_bit = {"adapter.load_in_4bit": False} if model == "smollm2" else {}
    return {**CHAT_MODEL_DEFAULTS[""], **four_bit, **CHAT_MODEL_DEFAULTS.get(method, {})}


KEY_SETTINGS = (
    "optim.learning_rate",
    "loss.consistency_weight",
    "loss.consistency_tokens",
    "loss.temperature",
    "adapter.rank",
    "long_term.share",
)
"""The settings that decide most about learning and forgetting."""


def describe_settings(config: "ICFTConfig") -> str:
    """Return KEY_SETTINGS with where each value comes from, in one line."""
    values, usual = flatten(config.to_dict()), flatten(type(config)().to_dict())
    layers = {
        "default": usual,
        "default of chat models": model_defaults(config.model, config.method),
        f"preset {config.method}": PRESETS[config.method],
    }
    parts = []
    for name in KEY_SETTINGS:
        source = [layer for layer in layers if name in layers[layer]][-1]
        value = values[name]
        text = value if isinstance(value, str) else "∞" if value is None else f"{value:g}"
        parts.append(f"{name} {text} ({source if value == layers[source][name] else 'given'})")
    return ", ".join(parts)
