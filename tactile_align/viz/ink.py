"""Drawing on RGB arrays: colours that colour-blind people can tell apart, outlined lines, text on plates.

The colours are those of Okabe and Ito, Color Universal Design (2008). Every line has a dark rim and every text has a
dark plate, so both are readable on light and on dark scenes. No information is shown by colour alone.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache

import cv2
import numpy as np

Colour = tuple[int, int, int]

ORANGE: Colour = (230, 159, 0)
SKY: Colour = (86, 180, 233)
GREEN: Colour = (0, 158, 115)
YELLOW: Colour = (240, 228, 66)
VERMILLION: Colour = (213, 94, 0)
PURPLE: Colour = (204, 121, 167)
WHITE: Colour = (245, 245, 245)
GREY: Colour = (150, 150, 150)
DIM: Colour = (70, 70, 70)
INK: Colour = (18, 18, 18)
BLUE: Colour = (0, 114, 178)
"""Dark colour, only for drawing on white; the same holds for ASH."""
ASH: Colour = (102, 102, 102)

SENSOR_COLOURS = (ORANGE, SKY, YELLOW, PURPLE)
"""Colours of the sensors, by index of the sensor in the rig; the fifth sensor has the first colour again."""
COMPARED = WHITE
"""Colour of the boxes of a second rig; these boxes are also dashed."""

FONT = cv2.FONT_HERSHEY_SIMPLEX


def hexadecimal(colour: Colour) -> str:
    """Return a colour as "#rrggbb", the form that charts and style sheets use."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def sensor_colour(index: int) -> Colour:
    """Return the colour of the sensor with this index in the rig."""
    return SENSOR_COLOURS[index % len(SENSOR_COLOURS)]


@dataclass(frozen=True)
class Ink:
    """Sizes of text and lines in a picture of a given height, px.

    Attributes:
        cap: Height of a capital letter.
        line: Width of a light line without its rim.
        rim: Width of the dark rim on each side of a line.
        pad: Space around text.
    """

    cap: int
    line: int
    rim: int
    pad: int

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, height: int) -> "Ink":
        """Return sizes of text and lines for a picture of `height` px; readable for heights of 240 to 2160 px."""
        line = max(1, round(height / 260))
        cap = max(9, round(height / 44))
        return cls(cap, line, max(1, line // 2), max(3, round(0.45 * cap)))

    @cached_property
    def row(self) -> int:
        """Height of one line of text with the space around it, px."""
        return self.cap + 2 * self.pad

    @cached_property
    def scale(self) -> float:
        """OpenCV font scale at which capitals have the height `cap`."""
        return self.cap / _cap_height()

    @cached_property
    def weight(self) -> int:
        """OpenCV stroke width for text of the height `cap`, px."""
        return max(1, round(self.cap / 18))

    @lru_cache(maxsize=4096)  # noqa: B019  the sizes are few, as `of` returns the same objects
    def width(self, text: str) -> int:
        """Return the width of `text`, px."""
        return int(cv2.getTextSize(text, FONT, self.scale, self.weight)[0][0])

    @lru_cache(maxsize=4096)  # noqa: B019
    def fit(self, text: str, width: int) -> str:
        """Return `text`, shortened to `width` px with an ellipsis at the end if it is longer."""
        text = " ".join(text.split())
        if self.width(text) <= width:
            return text
        low, high = 0, min(len(text), max(1, width))
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.width(text[:middle] + "...") <= width else (low, middle - 1)
        return text[:low] + "..."

    def text(self, image: np.ndarray, text: str, x: int, y: int, colour: Colour = WHITE) -> None:
        """Write `text` from column x on; its capitals extend from row y to row y + cap."""
        cv2.putText(image, text, (int(x), int(y) + self.cap), FONT, self.scale, colour, self.weight, cv2.LINE_AA)

    def plate(self, image: np.ndarray, text: str, x: int, y: int, colour: Colour = WHITE) -> tuple[int, int, int, int]:
        """Write `text` on a darkened rectangle (plate) and return the rectangle (x0, y0, x1, y1), px.

        The upper left corner of the rectangle is (x, y), moved if necessary so that the rectangle is inside the image.
        """
        text = self.fit(text, image.shape[1] - 2 * self.pad)
        wide, high = self.width(text) + 2 * self.pad, self.row
        x = max(0, min(int(x), image.shape[1] - wide))
        y = max(0, min(int(y), image.shape[0] - high))
        image[y : y + high, x : x + wide] >>= 3
        self.text(image, text, x + self.pad, y + self.pad, colour)
        return x, y, x + wide, y + high


@lru_cache(maxsize=1)
def _cap_height() -> float:
    """Return the measured height of a capital at font scale 1, px; getTextSize gives only the height of a line."""
    image = np.zeros((300, 300), np.uint8)
    cv2.putText(image, "H", (50, 250), FONT, 8.0, 255, 1, cv2.LINE_AA)
    return int(np.count_nonzero((image > 64).any(axis=1))) / 8.0


def require_image(image: np.ndarray, name: str) -> None:
    """Raise an error if `image` is not an image (H, W, 3) uint8 RGB.

    Raises:
        ValueError: The shape or the dtype differs; the message contains `name`.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f"{name} must be an image (height, width, 3) uint8 RGB; got {image.dtype} {image.shape}. Convert the image"
        )


def fill(image: np.ndarray, x0: int, y0: int, x1: int, y1: int, colour: Colour) -> None:
    """Fill the pixels x0 <= x < x1, y0 <= y < y1 that lie inside the image."""
    if x1 > x0 and y1 > y0:  # OpenCV fills several times as fast as numpy broadcasts a colour
        cv2.rectangle(image, (x0, y0), (x1 - 1, y1 - 1), colour, cv2.FILLED)


def pixels_of(box: np.ndarray) -> tuple[int, int, int, int]:
    """Return the pixels whose centres lie in a box (u0, v0, u1, v1): columns x0 to x1 - 1, rows y0 to y1 - 1."""
    u0, v0, u1, v1 = (float(edge) for edge in box)
    return int(np.ceil(u0)), int(np.ceil(v0)), int(np.floor(u1)) + 1, int(np.floor(v1)) + 1


def frame(image: np.ndarray, box: np.ndarray, colour: Colour, ink: Ink, dashed: bool = False) -> None:
    """Draw a box (u0, v0, u1, v1), px: a light line on the outermost pixels inside the box, with dark rims."""
    x0, y0, x1, y1 = pixels_of(box)
    line, rim = ink.line, ink.rim
    for grow, width, shade in ((rim, line + 2 * rim, INK), (0, line, colour)):
        a, b, c, d = x0 - grow, y0 - grow, x1 + grow, y1 + grow
        for side in ((a, b, c, b + width), (a, d - width, c, d), (a, b, a + width, d), (c - width, b, c, d)):
            if dashed:
                _dashes(image, *side, shade, 4 * line, grow)
            else:
                fill(image, *side, shade)


def _dashes(image: np.ndarray, x0: int, y0: int, x1: int, y1: int, colour: Colour, dash: int, grow: int) -> None:
    """Draw the dashes of a bar: every second stretch of `dash` px along the longer side is filled."""
    across = x1 - x0 >= y1 - y0
    first, last = (x0 + grow, x1 - grow) if across else (y0 + grow, y1 - grow)
    for start in range(first, last, 2 * dash):
        a, b = start - grow, min(start + dash, last) + grow
        fill(image, *((a, y0, b, y1) if across else (x0, a, x1, b)), colour)


def tint(image: np.ndarray, x0: int, y0: int, x1: int, y1: int, colour: Colour, alpha: float) -> None:
    """Blend a colour over the pixels x0 <= x < x1, y0 <= y < y1."""
    part = image[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)]
    if part.size and alpha > 0:
        cv2.addWeighted(part, 1.0 - alpha, _flat(part.shape[0], part.shape[1], colour), alpha, 0.0, dst=part)


@lru_cache(maxsize=64)
def _flat(high: int, wide: int, colour: Colour) -> np.ndarray:
    """Return an image of one colour; cached, because the tokens of a movie have few different sizes."""
    return np.full((high, wide, 3), colour, np.uint8)
