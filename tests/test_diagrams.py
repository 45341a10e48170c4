"""Diagrams: what is drawn, and where."""

import matplotlib
import pytest

from icft_lite.reporting.diagrams import FILLS, arrow, box, canvas


def test_a_unit_of_the_axes_is_an_inch():
    figure, axes = canvas(4, 3)
    low, high = axes.transData.transform([(1, 1), (3, 2)])
    assert tuple((high - low) / figure.dpi) == pytest.approx((2, 1))


@pytest.mark.parametrize("kind", FILLS)
def test_a_box_is_centered_and_has_the_colors_of_its_kind(kind):
    _, axes = canvas(4, 3)
    assert box(axes, 2, 1, "text", kind, width=1, height=0.5) == (2, 1)
    (patch,), (text,) = axes.patches, axes.texts
    assert patch.get_bbox().extents == pytest.approx((1.5, 0.75, 2.5, 1.25))
    assert matplotlib.colors.to_hex(patch.get_facecolor()) == FILLS[kind][0]
    assert text.get_text() == "text" and text.get_position() == (2, 1)


def test_an_arrow_ends_where_it_is_told_and_its_label_is_beside_the_middle():
    _, axes = canvas(4, 3)
    arrow(axes, (1, 1), (3, 1), "label", dashed=True)
    pointer, label = axes.texts
    assert pointer.xy == (3, 1) and pointer.xyann == (1, 1)
    assert label.get_text() == "label" and label.get_position() == pytest.approx((2, 1.1))
    assert arrow(axes, (0, 0), (1, 1)) is None and len(axes.texts) == 3
