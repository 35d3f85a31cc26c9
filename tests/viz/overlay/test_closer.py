"""Boxes too small for a picture are shown closer, at their pixels."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactile_align.viz.ink import COMPARED, SENSOR_COLOURS
from tactile_align.viz.overlay.footage import Footage
from tactile_align.viz.overlay.frame import draw_frame
from tactile_align.viz.overlay.overlay import AROUND, too_small, window, with_closer
from tactile_align.viz.overlay.view import Closer, Moment, View

NAN = np.full(4, np.nan)


@pytest.fixture
def footage(regrasp_folder: Path) -> Footage:
    with Footage(regrasp_folder / "episode_init_0.hdf5") as opened:
        yield opened  # type: ignore[misc]


def test_only_boxes_that_the_picture_shows_too_small_are_shown_closer(footage: Footage) -> None:
    rows = range(0, len(footage), 10)
    assert too_small(footage, rows, 240) == (("top", "tactile1"),)  # 7 px of 640, drawn at half
    assert too_small(footage, rows, 48) == (("top", "tactile1"), ("left_wrist", "tactile1"))
    assert too_small(footage, rows, 4800) == ()


def test_a_closer_look_is_a_cut_of_the_recorded_frame_and_its_box_lies_where_it_lay(footage: Footage) -> None:
    t = next(t for t in range(len(footage)) if footage.seen["top"]["tactile1"].boxes.visible[t])
    (shown,) = with_closer(footage, footage.moment(t, 240), [("top", "tactile1")]).closer
    frame, side = footage.episode.image("top", t), shown.image.shape[0]
    assert shown.image.shape == (side, side, 3) and shown.name == "tactile1 in top"
    places = np.lib.stride_tricks.sliding_window_view(frame, (side, side, 3))[:, :, 0]
    (place,) = np.argwhere((places == shown.image).all(axis=(-3, -2, -1)))
    v, u = place.tolist()
    box = footage.seen["top"]["tactile1"].boxes.box[t]
    np.testing.assert_allclose(shown.box + np.array([u, v, u, v]), box, atol=1e-9)
    assert side == pytest.approx(AROUND * max(box[2] - box[0], box[3] - box[1]), abs=0.51)
    assert abs(shown.box[:2] + shown.box[2:] - (side - 1)).max() <= 1.01, "the box is in the middle"


@given(st.floats(-0.5, 619), st.floats(-0.5, 459), st.floats(1, 20), st.floats(1, 20))
def test_the_window_lies_in_the_frame_and_holds_the_box(u: float, v: float, wide: float, high: float) -> None:
    box = np.array([u, v, u + wide, v + high])
    column, row, side = window(box, 640, 480)
    assert 0 <= column <= 640 - side and 0 <= row <= 480 - side
    edges = np.array([column - 0.5, row - 0.5, column + side - 0.5, row + side - 0.5])
    assert (edges[:2] <= box[:2] + 1e-9).all() and (box[2:] <= edges[2:] + 1e-9).all()


def test_the_boxes_are_drawn_around_the_pixels_they_hold() -> None:
    image = np.zeros((24, 24, 3), np.uint8)
    image[8:16, 6:14] = 200
    view = View("top", np.full((240, 320, 3), 90, np.uint8), 320, 240)
    pictures = [
        draw_frame(Moment(0, 1, None, (view,), closer=(Closer("x", 0, image, box, other),)))[240:]
        for box, other in (
            (np.array([5.5, 7.5, 13.5, 15.5]), NAN),
            (np.array([5.5, 7.5, 13.5, 15.5]), np.array([2.5, 2.5, 20.5, 20.5])),
            (NAN, NAN),
        )
    ]
    lit = (pictures[0] == SENSOR_COLOURS[0]).all(-1)
    rows, columns = np.flatnonzero(lit.sum(1) > 20), np.flatnonzero(lit.sum(0) > 20)
    bright = (pictures[0][:80, :80] == 200).all(-1)  # without the words
    inside = np.argwhere(bright)
    assert (inside.min(0) > [rows[0], columns[0]]).all() and (inside.max(0) < [rows[-1], columns[-1]]).all()
    scale = (rows[-1] - rows[0] + 1) / 8
    assert scale == pytest.approx((columns[-1] - columns[0] + 1) / 8, abs=0.2) and scale > 3, (
        "larger, and not stretched"
    )
    white = [(picture[:80, :80] == COMPARED).all(-1).sum() for picture in pictures]
    assert white[0] == 0 and white[1] > 50, "the second rig's box, where there is one"
    assert not (pictures[2] == SENSOR_COLOURS[0]).all(-1)[: rows[-1]].any(), "no box where there is none"
    assert len({picture.shape for picture in pictures}) == 1
