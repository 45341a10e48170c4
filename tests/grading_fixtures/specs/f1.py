"""A small assignment for tests of the grader: a function, a class, a written answer."""

import numpy as np

from icft_lite.grading.parts import Assignment, Call, Part, close
from icft_lite.metrics import expected_calibration_error

MARKER = "expected value 7f3a"  # hostile submissions look for it; it must be invisible to them


class RunningMean:
    def __init__(self, start):
        self.total, self.count = start, 0

    def add(self, value):
        self.total, self.count = self.total + value, self.count + 1
        return self.total / self.count


def draw_probabilities(rng):
    def call():
        n = int(rng.integers(20, 40))
        return Call((rng.uniform(0.5, 1, n), rng.integers(0, 2, n)), {"bins": int(rng.integers(3, 9))})

    return [call() for _ in range(3)]


def draw_values(rng):
    return [Call((float(rng.normal()),), then=tuple(("add", (float(rng.normal()),)) for _ in range(4)))]


def calibration_error(probs, gold, bins):
    return expected_calibration_error(np.stack([1 - probs, probs], axis=1), gold, bins)


def compare_error(got, expected, call):
    if isinstance(got, float) and abs(got + expected) < 1e-9:
        return "the sign is wrong"
    return close(got, expected)


ASSIGNMENT = Assignment(
    id="F1",
    title="Fixture",
    version="1.0",
    lessons=("02",),
    parts=(
        Part(
            "F1.1",
            "Calibration error",
            3,
            "calibration_error",
            draw_probabilities,
            calibration_error,
            compare_error,
            blocked=("icft_lite.metrics.expected_calibration_error",),
        ),
        Part("F1.2", "Running mean", 2, "RunningMean", draw_values, RunningMean,
             blocked=("icft_lite.metrics.expected_calibration_error",)),
        Part("F1.3", "Discussion", 5, "answer", rubric=True,
             blocked=("icft_lite.metrics.expected_calibration_error",)),
    ),
)  # fmt: skip
