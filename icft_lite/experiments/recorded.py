"""Replies of a real chat model before and after fine-tuning, recorded from a complete run of its demo.

A lesson shows them without loading a model. `scripts/chat_results.py` writes the record.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from icft_lite.errors import ICFTError
from icft_lite.reporting.figures import method_label

DEMO = Path(__file__).parent / "results" / "demo-smollm2.json"
"""The record of `make demo-llm`."""


def load_recorded(path: str | Path = DEMO) -> dict[str, Any]:
    """Return a recorded comparison, as in comparison.json, with `recorded`: [{prompt, base, METHOD: reply}]."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def recorded_models(comparison: Mapping[str, Any]) -> dict[str, Callable[[str], str]]:
    """Return {display name: function from a prompt to the recorded reply} of the base and each method.

    The functions raise ICFTError for a prompt without a recorded reply.
    """
    replies = {one["prompt"]: one for one in comparison["recorded"]}

    def reply_of(name: str) -> Callable[[str], str]:
        def reply(prompt: str) -> str:
            if prompt not in replies:
                raise ICFTError("no reply to this prompt was recorded; choose one of the examples")
            return replies[prompt][name]

        return reply

    names = {name: method_label(name, comparison) for name in comparison["methods"]}
    return {"base": reply_of("base")} | {label: reply_of(name) for name, label in names.items()}
