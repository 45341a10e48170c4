"""Correct and hostile submissions of a small assignment, for tests of the grader."""

import importlib.util
import json
from pathlib import Path

import pytest

from icft_lite.errors import ICFTError

ROOT = Path(__file__).parents[2]
SPECS = Path(__file__).parent / "specs"
RIGHT_FUNCTION = """
import numpy as np

def calibration_error(probs, gold, bins):
    confidence = np.maximum(probs, 1 - probs)
    right = (probs > 0.5) == (gold == 1)
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    total = 0.0
    for b in range(bins):
        mask = place == b
        if mask.any():
            total += mask.mean() * abs(confidence[mask].mean() - right[mask].mean())
    return float(total)
"""
RIGHT_CLASS = """
class RunningMean:
    def __init__(self, start):
        self.values, self.start = [], start

    def add(self, value):
        self.values.append(value)
        return (self.start + sum(self.values)) / len(self.values)
"""
RIGHT = (RIGHT_FUNCTION, RIGHT_CLASS, "answer = 'A written answer.'")


def write_notebook(path, cells, **metadata):
    """Write a notebook with these code cells, and the assignment's id in its metadata."""
    content = {
        "cells": [{"cell_type": "code", "source": source, "metadata": {}, "outputs": []} for source in cells],
        "metadata": {"icft_lite": {"assignment": "F1"}, **metadata},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def release_script():
    """Return the module scripts/release.py."""
    spec = importlib.util.spec_from_file_location("release", ROOT / "scripts" / "release.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def require_isolation(grader):
    """Skip where the kernel or the user's rights allow no isolation. Any other failure of the sandbox is a failure."""
    try:
        grader.check_isolation()  # it also makes the copy of the package
    except ICFTError as error:
        if "cannot be isolated on this machine" not in str(error):
            raise
        pytest.skip(str(error))  # the message names the missing protection
