from dataclasses import replace

import numpy as np
import pytest

from tactile_align.viz.ink import DIM, SENSOR_COLOURS, VERMILLION, Ink
from tactile_align.viz.overlay.frame import draw_frame
from tactile_align.viz.overlay.view import Hand, Moment, Region, Touch, Track, View

NAN = np.full(4, np.nan)


def view(box: np.ndarray, grey: int = 90, width: int = 320, height: int = 240, **more: object) -> View:
    region = Region("tactile1", 0, box, 1.0, **more)  # type: ignore[arg-type]
    return View("wrist", np.full((height, width, 3), grey, np.uint8), width, height, (region,))


def moment(*views: View, **more: object) -> Moment:
    return Moment(3, 10, 0.5, views, **more)  # type: ignore[arg-type]


def is_colour(image: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return (image == colour).all(axis=-1)


def test_views_stand_side_by_side_at_one_height_and_the_picture_is_even() -> None:
    small = View("top", np.full((120, 161, 3), 200, np.uint8), 161, 120)
    picture = draw_frame(moment(view(NAN), small))
    assert picture.dtype == np.uint8 and picture.shape[0] % 2 == 0 and picture.shape[1] % 2 == 0
    assert picture.shape[1] >= 320 + 322
    assert (picture[100, 10:300] == 90).all()
    assert (picture[100, 330:630] == 200).all()


def test_the_recorded_frames_are_not_written_to_and_pixels_away_from_marks_are_kept() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)
    box = np.array([99.5, 99.5, 159.5, 169.5])
    region = Region("tactile1", 0, box, 1.0, weights=np.ones((2, 2)))
    cells = (np.linspace(-0.5, 319.5, 3), np.linspace(-0.5, 239.5, 3))
    before = image.copy()
    draw_frame(moment(View("wrist", image, 320, 240, (region,), cells)))
    assert (image == before).all()
    picture = draw_frame(moment(View("wrist", image, 320, 240, (replace(region, weights=None),))))
    assert (picture[200:240, :320] == image[200:]).all()
    assert (picture[110:160, 110:150] == image[110:160, 110:150]).all()


@pytest.mark.parametrize("scale", [1, 2])
def test_a_box_is_drawn_at_its_pixels_whatever_the_height_of_the_picture(scale: int) -> None:
    picture = draw_frame(moment(view(np.array([99.5, 59.5, 159.5, 129.5]))), height=240 * scale)
    lit = is_colour(picture[: 240 * scale, : 320 * scale], SENSOR_COLOURS[0])
    row = np.flatnonzero(lit[95 * scale])
    column = np.flatnonzero(lit[:, 130 * scale])
    column = column[column >= 60 * scale]  # the caption's underline stands above
    # (u + 0.5) scale - 0.5: the first pixel inside is 100 scale, the last 160 scale - 1.
    assert (row[0], row[-1]) == (100 * scale, 160 * scale - 1)
    assert (column[0], column[-1]) == (60 * scale, 130 * scale - 1)


def test_tokens_are_tinted_by_their_share_and_nothing_else_is() -> None:
    weights = np.zeros((4, 4))
    weights[1, 2], weights[2, 2] = 1.0, 0.5
    cells = (np.linspace(-0.5, 319.5, 5), np.linspace(-0.5, 239.5, 5))
    image = np.full((240, 320, 3), 90, np.uint8)
    region = Region("tactile1", 0, np.array([170.0, 70.0, 220.0, 150.0]), 1.0, weights=weights)
    lit = draw_frame(moment(View("wrist", image, 320, 240, (region,), cells)))
    plain = draw_frame(moment(View("wrist", image, 320, 240, (replace(region, weights=None),), cells)))
    changed = (lit != plain).any(axis=-1)[:240, :320]
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0))
    assert (columns[0], columns[-1]) == (160, 238) and (rows[0], rows[-1]) == (60, 178)
    full, half = lit[100, 200].astype(int) - 90, lit[135, 200].astype(int) - 90
    assert np.abs(full - 2 * half).max() <= 1 and abs(full).max() > 30


@pytest.mark.parametrize(("side", "clear"), [(100, 8), (24, 4)])
def test_tokens_leave_the_frame_along_the_edges_of_the_box_as_it_was(side: int, clear: int) -> None:
    cells = (np.array([-0.5, 319.5]), np.array([-0.5, 239.5]))
    image = np.full((240, 320, 3), 90, np.uint8)
    region = Region("tactile1", 0, np.array([99.5, 79.5, 99.5 + side, 79.5 + side]), 1.0, weights=np.ones((1, 1)))
    row = draw_frame(moment(View("wrist", image, 320, 240, (region,), cells)))[80 + side // 2, :300]
    kept = np.flatnonzero((row == 90).all(axis=-1))
    assert kept.min() == 100 - clear and kept.max() == 99 + side + clear
    inside = row[100 + clear : 100 + side - clear]
    assert (inside[1:-1] != 90).any(axis=-1).all() and len(kept) <= 4 * clear


def test_no_box_is_drawn_where_there_is_none_and_the_reason_stands_there_instead() -> None:
    pictures = [draw_frame(moment(view(NAN, reason=reason)))[:240, :320] for reason in ("behind", "outside", "outside")]
    assert (pictures[0] != pictures[1]).any() and (pictures[1] == pictures[2]).all()
    marks = np.argwhere(is_colour(pictures[0], SENSOR_COLOURS[0]))
    assert len(marks) and marks[:, 0].min() > 200  # only the square beside the reason, at the bottom


def test_a_share_inside_the_image_changes_the_caption_only() -> None:
    whole = view(np.array([100.0, 100.0, 160.0, 160.0]))
    part = replace(whole, regions=(replace(whole.regions[0], inside=0.42),))
    changed = (draw_frame(moment(whole)) != draw_frame(moment(part))).any(axis=-1)
    assert changed.any() and not changed[102:].any()


def test_an_error_band_grows_with_sigma() -> None:
    box = np.array([100.0, 100.0, 200.0, 180.0])
    widths = []
    for sigma in (None, 2.0, 5.0):
        known = None if sigma is None else np.full(4, sigma)
        picture = draw_frame(moment(view(box, sigma_px=known)))
        widths.append(np.count_nonzero((picture[150, 60:140] != 90).any(axis=-1)))
    assert widths[0] < widths[1] < widths[2] and widths[2] == 2 * 2 * 5 + 1


def test_touches_say_contact_or_free_by_more_than_colour() -> None:
    image = np.full((80, 60, 3), 120, np.uint8)
    free, pressed = (
        draw_frame(moment(view(NAN), touches=(Touch("tactile1", image, flag, 0),)))[240:] for flag in (False, True)
    )
    grey = [part.astype(float).mean(axis=2) for part in (free, pressed)]
    assert np.abs(grey[0] - grey[1]).max() > 40  # another word and a thicker frame, seen without colour
    assert is_colour(pressed, SENSOR_COLOURS[0]).sum() > is_colour(free, SENSOR_COLOURS[0]).sum() + 100


def test_the_gripper_bar_is_as_long_as_the_opening_and_a_held_one_shows_the_command() -> None:
    q = np.zeros(6)
    hand = Hand("left", q, q - 3, q + 3, 0.030, 0.030, 0.040, commanded=True)
    longest, unfilled = [], []
    for opening in (0.040, 0.020):
        shown = replace(hand, opening_m=opening, reading_m=opening)
        picture = draw_frame(moment(view(NAN), hands=(shown,)))[240:]
        assert not is_colour(picture, VERMILLION).any()
        runs = [np.flatnonzero(is_colour(row[:, :], (245, 245, 245))) for row in picture]
        unbroken = [len(run) if len(run) and len(run) == run[-1] - run[0] + 1 else 0 for run in runs]
        bar = int(np.argmax(unbroken))
        longest.append(unbroken[bar])
        unfilled.append(int(is_colour(picture[bar], DIM).sum()))
    assert abs(longest[0] - 2 * longest[1]) <= 2 and unfilled[0] == 0
    assert abs(unfilled[1] - longest[1]) <= 2
    held = draw_frame(moment(view(NAN), hands=(replace(hand, reading_m=0.010),)))[240:]
    assert is_colour(held, VERMILLION).any()


def test_an_opening_is_stated_between_the_fingers_and_for_each(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    monkeypatch.setattr(Ink, "text", lambda self, image, text, *place: written.append(text))
    q = np.zeros(6)
    draw_frame(moment(view(NAN), hands=(Hand("left", q, q - 3, q + 3, 0.011, 0.011, 0.040),)))
    draw_frame(moment(view(NAN), hands=(Hand("left", q, q - 3, q + 3, 0.020, 0.010, 0.040, commanded=True),)))
    texts = [text for text in written if "between" in text or "each" in text]
    first, second = (
        ["22.0 mm between fingers", "(11.0 each), measured"],
        ["40.0 mm between fingers", "(20.0 each), held"],
    )
    assert texts == first + second


def test_the_timeline_fills_the_frames_in_contact() -> None:
    flags = np.zeros(10, bool)
    flags[5:] = True
    shown, none = (
        draw_frame(moment(view(NAN), tracks=(Track("tactile1", f, 0),)))[240:] for f in (flags, flags & False)
    )
    coloured = is_colour(shown, SENSOR_COLOURS[0]) & ~is_colour(none, SENSOR_COLOURS[0])
    columns = np.flatnonzero(coloured.any(axis=0))
    ink = Ink.of(240)
    left = ink.width("tactile1") + 2 * ink.pad
    span = shown.shape[1] - ink.pad - left
    assert abs(columns[0] - (left + span / 2)) <= 1 and columns[-1] == shown.shape[1] - ink.pad - 1
    assert len(columns) == columns[-1] - columns[0] + 1


def test_a_moment_without_cameras_or_with_a_float_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one camera"):
        draw_frame(moment())
    bad = replace(view(NAN), image=np.zeros((240, 320, 3)))
    with pytest.raises(ValueError, match=r"wrist.*uint8.*float64"):
        draw_frame(moment(bad))


@pytest.mark.parametrize(("width", "height"), [(320, 240), (3840, 2160)])
def test_hostile_names_and_many_parts_fit_from_320_to_4k(width: int, height: int) -> None:
    q = np.zeros(6)
    hands = tuple(Hand(name * 60, q, q - 3, q + 3, 0.02, 0.01, 0.04, True) for name in "ab")
    image = np.full((80, 60, 3), 120, np.uint8)
    touches = tuple(Touch("<script>" * 40, image, True, i) for i in range(4))
    tracks = tuple(Track("\u05e9\u05dc\u05d5\u05dd" * 80, np.ones(10, bool), i) for i in range(4))
    shown = view(np.array([100.0, 100.0, 160.0, 160.0]), width=width, height=height)
    picture = draw_frame(moment(shown, touches=touches, hands=hands, tracks=tracks, title="t" * 300))
    assert picture.shape[1] >= width and picture.shape[0] < 4.2 * height
