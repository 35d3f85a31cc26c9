from itertools import combinations

import cv2
import numpy as np
import pytest

from tactile_align.viz import ink as house
from tactile_align.viz.ink import INK, SENSOR_COLOURS, Ink, frame, pixels_of, tint

# Machado, Oliveira, Fernandes: A Physiologically-based Model for Simulation of Color Vision Deficiency (2009),
# severity 1.0, in linear RGB.
SEEN_BY = {
    "protanope": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranope": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanope": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(colour: tuple[int, int, int]) -> np.ndarray:
    c = np.asarray(colour) / 255
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    """WCAG 2.1 contrast ratio."""
    light = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
    return (light[1] + 0.05) / (light[0] + 0.05)


@pytest.mark.parametrize("eyes", SEEN_BY)
def test_sensor_colours_differ_for_colour_blind_eyes(eyes: str) -> None:
    seen = np.clip([np.asarray(SEEN_BY[eyes]) @ linear(c) for c in SENSOR_COLOURS], 0, 1)
    srgb = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(srgb.astype(np.float32)[None], cv2.COLOR_RGB2Lab)[0]
    for a, b in combinations(range(len(lab)), 2):
        assert np.linalg.norm(lab[a] - lab[b]) > 15


def test_every_colour_reads_on_the_panel() -> None:
    for colour in (*SENSOR_COLOURS, house.COMPARED, house.WHITE, house.GREY, house.VERMILLION):
        assert contrast(colour, INK) >= 4.5


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_words_on_a_plate_have_aa_contrast_on_any_scene(grey: int) -> None:
    image = np.full((60, 300, 3), grey, np.uint8)
    x0, y0, x1, y1 = Ink.of(480).plate(image, "HHHH", 20, 20)
    part = image[y0:y1, x0:x1].reshape(-1, 3)
    brightest, plate = part[part.sum(axis=1).argmax()], part[0]
    assert contrast(tuple(brightest), tuple(plate)) >= 4.5
    assert (image[: y0 - 1] == grey).all() and (image[y1:] == grey).all()


def test_a_plate_at_the_edge_moves_into_the_image_and_a_long_name_is_cut_with_an_ellipsis() -> None:
    image = np.full((40, 120, 3), 200, np.uint8)
    ink = Ink.of(480)
    assert ink.plate(image, "n" * 300, 110, 39)[2:] <= (120, 40)
    assert ink.fit("n" * 300, 100).endswith("n...") and ink.width(ink.fit("n" * 300, 100)) <= 100
    assert ink.fit("short", 100) == "short"


@pytest.mark.parametrize("height", [240, 480, 1080, 2160])
def test_words_and_lines_keep_a_readable_share_of_the_picture(height: int) -> None:
    ink = Ink.of(height)
    image = np.zeros((4 * ink.cap, 40 * ink.cap, 3), np.uint8)
    ink.text(image, "H", ink.cap, ink.cap)
    rows = np.flatnonzero(image.max(axis=(1, 2)) > 128)
    tall = rows[-1] - rows[0] + 1
    assert abs(tall - ink.cap) <= max(2, 0.15 * ink.cap)
    assert tall >= 8 and 0.02 <= tall / height <= 0.05
    assert 0.002 <= ink.line / height <= 0.008


def test_a_box_holds_the_pixels_whose_centres_lie_in_it() -> None:
    assert pixels_of(np.array([-0.5, -0.5, 9.5, 4.5])) == (0, 0, 10, 5)
    assert pixels_of(np.array([2.2, 3.0, 7.9, 8.0])) == (3, 3, 8, 9)


@pytest.mark.parametrize("grey", [0, 255])
def test_the_light_line_lies_on_the_first_pixels_inside_with_a_dark_rim_on_both_sides(grey: int) -> None:
    image = np.full((40, 60, 3), grey, np.uint8)
    ink = Ink(cap=9, line=2, rim=1, pad=3)
    frame(image, np.array([9.5, 14.5, 39.5, 29.5]), SENSOR_COLOURS[0], ink)
    lit = np.flatnonzero((image[22] == SENSOR_COLOURS[0]).all(axis=1))
    dark = np.flatnonzero((image[22] == INK).all(axis=1))
    assert lit.tolist() == [10, 11, 38, 39]
    assert dark.tolist() == [9, 12, 37, 40]
    lit = np.flatnonzero((image[:, 20] == SENSOR_COLOURS[0]).all(axis=1))
    assert lit.tolist() == [15, 16, 28, 29]
    assert (image[18:26, 13:37] == grey).all() and (image[:13] == grey).all()


def test_a_dashed_box_leaves_gaps() -> None:
    image = np.full((80, 80, 3), 255, np.uint8)
    frame(image, np.array([9.5, 9.5, 69.5, 69.5]), SENSOR_COLOURS[1], Ink(9, 2, 1, 3), dashed=True)
    lit = (image[10] == SENSOR_COLOURS[1]).all(axis=1)[10:70]
    assert 0.3 < lit.mean() < 0.75 and np.count_nonzero(np.diff(lit.astype(int))) >= 6


def test_a_box_that_leaves_the_image_is_drawn_where_the_image_is() -> None:
    image = np.zeros((30, 30, 3), np.uint8)
    frame(image, np.array([-20.0, -20.0, 15.5, 90.0]), SENSOR_COLOURS[2], Ink(9, 1, 1, 3))
    assert (image[:, 15] == SENSOR_COLOURS[2]).all() and (image[:, :14] == 0).all()


def test_a_tint_is_a_linear_blend() -> None:
    image = np.full((10, 10, 3), 100, np.uint8)
    tint(image, 2, 3, 5, 7, (200, 0, 100), 0.25)
    assert (image[3:7, 2:5] == (125, 75, 100)).all()
    image[3:7, 2:5] = 100
    assert (image == 100).all()
