"""Replies of a real chat model before and after fine-tuning, recorded from a complete run of its demo.

A lesson shows them without loading a model. `scripts/chat_results.py` writes the record.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from icft_lite.chat_checks import is_right
from icft_lite.data.chat_suite import chat_suite
from icft_lite.errors import ICFTError
from icft_lite.reporting.labels import method_label

DEMO = Path(__file__).parent / "results" / "demo-smollm2.json"
"""The record of `make demo-llm`."""
DEMO_FULL = DEMO.with_name("demo-smollm2-full.json")
"""The record of `make demo-llm FULL=1`. It also has replies to medical test questions."""

LESSON_10 = DEMO.with_name("lesson-10.json")
"""The record of `scripts/lesson_10_run.py`, see `own_data.run_all`."""


def load_recorded(path: str | Path = DEMO) -> dict[str, Any]:
    """Return a recorded comparison, as in comparison.json, with `recorded`: [{prompt, base, METHOD: reply}].

    DEMO_FULL also has `medical_replies`, the same with the reference, and `recorded_runs`, what identifies the runs.
    """
    return json.loads(Path(path).read_text(encoding="utf-8"))


def recorded_models(
    comparison: Mapping[str, Any], methods: Sequence[str] | None = None
) -> dict[str, Callable[[str], str]]:
    """Return {display name: function from a prompt to the recorded reply} of the base and each method.

    methods: default: all of the comparison. The functions raise ICFTError for a prompt without a recorded reply.
    """
    replies = {one["prompt"]: one for one in [*comparison["recorded"], *comparison.get("medical_replies", ())]}

    def reply_of(name: str) -> Callable[[str], str]:
        def reply(prompt: str) -> str:
            if name not in replies.get(prompt, ()):
                raise ICFTError("no reply to this prompt was recorded; choose one of the examples")
            return replies[prompt][name]

        return reply

    names = {name: method_label(name, comparison) for name in methods or comparison["methods"]}
    return {"base": reply_of("base")} | {label: reply_of(name) for name, label in names.items()}


def score_recorded(models: Mapping[str, Callable[[str], str]], comparison: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return {name of a model: recorded free questions that it answers right}, in the order of the suite.

    models: from `recorded_models`. A reply is right if it has the right answer and no other option.
    """
    prompts = {one["prompt"] for one in comparison["recorded"]}
    asked = [item for item in chat_suite("test") if item.prompt in prompts and item.accepted]
    return {
        name: [item.prompt for item in asked if is_right(model(item.prompt), item.accepted, item.others)]
        for name, model in models.items()
    }
