"""Recorded replies of a real chat model, which lessons show."""

import subprocess
import sys
from pathlib import Path

import pytest

from icft_lite import ICFTError
from icft_lite.experiments.recorded import load_recorded, recorded_models


@pytest.fixture(scope="module")
def comparison():
    return load_recorded()


def test_every_recorded_prompt_has_the_reply_of_every_model(comparison):
    models = recorded_models(comparison)
    assert {"base", "ICFT", "plain LoRA"} <= set(models), "the base of smollm2 is not held in 4 bits"
    prompts = [one["prompt"] for one in comparison["recorded"]]
    assert len(prompts) == len(set(prompts)) >= 30
    for name, model in models.items():
        assert all(isinstance(model(prompt), str) for prompt in prompts), name
    for shown in comparison["display"]:
        assert models["base"](shown["prompt"]) == shown["base"] and models["ICFT"](shown["prompt"]) == shown["icft"]
    with pytest.raises(ICFTError, match="no reply to this prompt was recorded"):
        models["ICFT"]("Which day is it?")


def test_the_record_says_how_it_was_made(comparison):
    assert "demo" in comparison["command"] and comparison["commit"] and comparison["machine"]
    assert comparison["model"] == "smollm2" and comparison["seeds"] == [0]


def test_the_tables_of_the_documentation_are_those_of_the_records():
    script = Path(__file__).parents[1] / "scripts" / "chat_results.py"
    found = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
