"""Boxes against hand-worked numbers; W differs from H."""

import numpy as np

from tactile_align.geometry import boxes

NAN = float("nan")


def test_clipping_stops_at_the_image_border_and_outside_is_nan() -> None:
    given = np.array([[-9.0, 3.0, 20.0, 99.0], [70.0, 3.0, 80.0, 9.0], [NAN] * 4, [-5.0, -5.0, -0.5, -0.5]])
    clipped = boxes.clip_to_image(given, 64, 48)
    assert clipped[0].tolist() == [-0.5, 3.0, 20.0, 47.5]
    assert np.isnan(clipped[1:]).all()


def test_iou_of_shifted_boxes_has_its_closed_form() -> None:
    for shift in (0.0, 2.0, 5.0, 20.0):
        share = max(0.0, 1 - shift / 20)
        found = boxes.intersection_over_union(np.array([0.0, 0, 20, 7]), np.array([shift, 0, 20 + shift, 7]))
        assert abs(found - share / (2 - share)) < 1e-12


def test_enlarging_keeps_the_centre() -> None:
    assert boxes.enlarge(np.array([10.0, 20.0, 14.0, 30.0]), 1.5).tolist() == [9.0, 17.5, 15.0, 32.5]
