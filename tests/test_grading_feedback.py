"""Feedback on arrays names the kind of error."""

import numpy as np
import pytest
import torch

from icft_lite.grading.feedback import array_feedback, check_array, recognize
from icft_lite.grading.parts import Call

RIGHT = np.array([[0.1, 0.9], [0.7, 0.4], [0.5, 0.2]])


@pytest.mark.parametrize("same", [RIGHT.tolist(), RIGHT.astype(np.float32), torch.tensor(RIGHT, requires_grad=True)])
def test_right_arrays_of_any_type_get_no_feedback(same):
    assert array_feedback(same, RIGHT) == ""
    check_array(same, RIGHT)


@pytest.mark.parametrize(
    ("got", "kind"),
    [
        (None, "type: the function returns None"),
        ("text", "type: the function returns str"),
        ({}, "type: the function returns dict"),
        (RIGHT.T, "shape: the function returns (2, 3), expected (3, 2) (is it transposed?)"),
        (RIGHT[0], "shape: the function returns (2,), expected (3, 2)"),
        (
            np.where(RIGHT > 0.8, np.nan, RIGHT),
            "not finite: 1 of 6 entries are NaN or infinite, the first at index [0, 1]",
        ),
        (-RIGHT, "sign"),
        (1 - RIGHT, "complement"),
        (3 * RIGHT, "scale: every entry is too large"),
        (RIGHT / 3, "scale: every entry is too small"),
        (RIGHT + 0.5, "offset"),
        (RIGHT[::-1], "order"),
        (np.roll(RIGHT, 1, 0), "off by one: the values are shifted by one along axis 0"),
        (RIGHT + [[0, 0], [0, 0.1], [0, 0]], "values: 1 of 6 entries are wrong; the one at index [1, 1] is too large"),
        (np.zeros((3, 2)), "values: 6 of 6 entries are wrong; the one at index [0, 0] is too small"),
    ],
)
def test_wrong_arrays_get_feedback_on_their_kind(got, kind):
    assert array_feedback(got, RIGHT).startswith(kind)
    with pytest.raises(AssertionError) as error:
        check_array(got, RIGHT)
    assert str(error.value).startswith(kind)


def test_nan_is_compared_as_a_value():
    some = np.array([1.0, np.nan])
    assert array_feedback(some, some) == ""
    assert array_feedback([1.0, 2.0], some).startswith("values: 1 of 2 entries are wrong")


def test_known_mistakes_come_first():
    mistakes = {"scale: a sum, not a mean": lambda: RIGHT * 2, "shape: rows are missing": RIGHT[:2]}
    assert array_feedback(RIGHT * 2, RIGHT, mistakes) == "scale: a sum, not a mean"
    assert array_feedback(RIGHT[:2], RIGHT, mistakes) == "shape: rows are missing"


def test_a_mistake_is_recognized_from_all_returned_arrays():
    def solution(x, squared=False, minus=False):
        return (x**2 if squared else x), (-x if minus else x)

    compare = recognize(solution, {"square": {"squared": True}, "both": {"squared": True, "minus": True}}, ("a", "b"))
    x, call = np.array([2.0, 3.0]), Call((np.array([2.0, 3.0]),))
    assert compare((x, x), solution(x), call) == ""
    assert compare((x**2, x), solution(x), call) == "square"
    assert compare((x**2, -x), solution(x), call) == "both"
    assert compare((x, -x), solution(x), call) == "b: sign: every entry has the opposite sign"
    assert compare(x[0], solution(x), call) == "type: return 2 values: a, b"
