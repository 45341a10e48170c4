# ---
# jupyter:
#   lesson:
#     minutes: {cpu: 1, t4: 1}
#     peak_gib: {cpu: 1, t4: 1}
#     predicted: []
# ---

# %% [markdown]
# # Fixture
#
# {{budget}}

# %% nbgrader={"grade": false, "grade_id": "f1-1", "locked": false, "schema_version": 3, "solution": true, "task": false}
import numpy as np


def calibration_error(probs, gold, bins):
    """Return the expected calibration error."""
    ### BEGIN SOLUTION
    confidence, right = np.maximum(probs, 1 - probs), (probs > 0.5) == (gold == 1)
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [abs((confidence - right)[place == b].sum()) for b in range(bins)]
    return float(sum(gaps) / len(probs))
    ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "f1-1-check", "locked": true, "points": 3, "schema_version": 3, "solution": false, "task": false}
assert calibration_error(np.array([0.9, 0.9]), np.array([1, 1]), 5) < 0.11
### BEGIN HIDDEN TESTS
assert abs(calibration_error(np.array([0.75, 0.75]), np.array([1, 0]), 4) - 0.25) < 1e-9
### END HIDDEN TESTS
print("Passed: F1.1")


# %% nbgrader={"grade": true, "grade_id": "f1-2", "locked": false, "points": 2, "schema_version": 3, "solution": true, "task": false}
class RunningMean:
    """A mean over what was added."""

    def __init__(self, start):
        ### BEGIN SOLUTION
        self.total, self.count = start, 0
        ### END SOLUTION

    def add(self, value):
        """Return the mean so far."""
        ### BEGIN SOLUTION
        self.count += 1
        self.total += value
        return self.total / self.count
        ### END SOLUTION


# %% nbgrader={"grade": true, "grade_id": "f1-3", "locked": false, "points": 5, "schema_version": 3, "solution": true, "task": false}
### BEGIN SOLUTION
answer = "A model answer."
### END SOLUTION
