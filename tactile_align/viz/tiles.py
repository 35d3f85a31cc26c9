"""Pictures put together from pictures."""

from collections.abc import Sequence

import cv2
import numpy as np

from tactile_align.viz.ink import INK, Ink


def tall(image: np.ndarray, high: int) -> np.ndarray:
    """Return an image (H, W, 3) at another height, px, its proportions kept."""
    wide = round(image.shape[1] * high / image.shape[0])
    return cv2.resize(np.ascontiguousarray(image), (wide, high), interpolation=cv2.INTER_CUBIC)


def beside(images: Sequence[np.ndarray], gap: int = 6) -> np.ndarray:
    """Put images (H, W, 3) in a line, tops aligned, on dark ground."""
    high = max(image.shape[0] for image in images)
    line = np.empty((high, sum(image.shape[1] + gap for image in images) - gap, 3), np.uint8)
    line[:] = INK
    x = 0
    for image in images:
        line[: image.shape[0], x : x + image.shape[1]] = image
        x += image.shape[1] + gap
    return line


def stacked(images: Sequence[np.ndarray], gap: int = 6) -> np.ndarray:
    """Put images (H, W, 3) under each other, left sides aligned, on white."""
    wide = max(image.shape[1] for image in images)
    padded = [np.pad(image, ((0, gap), (0, wide - image.shape[1]), (0, 0)), constant_values=255) for image in images]
    return np.concatenate(padded)[:-gap]


def grid(cells: Sequence[np.ndarray], columns: int, gap: int = 12) -> np.ndarray:
    """Put images (H, W, 3) in rows of `columns`."""
    return stacked([beside(cells[i : i + columns], gap) for i in range(0, len(cells), columns)], gap)


def headed(image: np.ndarray, text: str) -> np.ndarray:
    """Put words above an image (H, W, 3), on dark ground, in as many lines as its width asks for."""
    ink = Ink.of(480)
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if ink.width(longer) <= image.shape[1] - 2 * ink.pad or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    head = np.empty((len(lines) * (ink.cap + ink.pad) + ink.pad, image.shape[1], 3), np.uint8)
    head[:] = INK
    for i, line in enumerate(lines):
        ink.text(head, ink.fit(line, image.shape[1] - 2 * ink.pad), ink.pad, ink.pad + i * (ink.cap + ink.pad))
    return np.concatenate([head, image])
