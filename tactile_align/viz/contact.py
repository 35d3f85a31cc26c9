"""Picture of one touch stream's contact: the no-contact reference, the score of each frame, and the flags."""

from pathlib import Path

import cv2
import numpy as np

from tactile_align.datasets.contact import Contact
from tactile_align.viz.ink import GREY, INK, ORANGE, SKY, WHITE, Ink

WIDTH, HEIGHT, MARGIN = 1200, 260, 60  # px
SHOWN = 12  # touch images below the score


def contact_picture(title: str, contact: Contact, touches: np.ndarray) -> np.ndarray:
    """Return the picture of a stream's contact, (height, width, 3) uint8 RGB.

    Orange bands and frames mark contact. The plot shows the score of each row, and the threshold `enter` as a line.

    Args:
        title: Name of the episode and the stream.
        contact: The contact of the stream.
        touches: (T, h, w, 3) touch images, RGB, 0..255.
    """
    ink = Ink.of(3 * HEIGHT)
    reference = _fitted(contact.reference, HEIGHT)
    plot = _plot(contact, ink)
    gap = np.full((HEIGHT, MARGIN // 3, 3), INK, np.uint8)
    top = np.concatenate([reference, gap, plot], axis=1)
    rows = np.linspace(0, len(touches) - 1, min(SHOWN, len(touches))).round().astype(int)
    side = top.shape[1] // len(rows)
    strip = [_fitted(touches[t], HEIGHT // 2, side - 8) for t in rows]
    tiles = []
    for t, image in zip(rows, strip, strict=True):
        tile = np.full((HEIGHT // 2 + 8, side, 3), INK, np.uint8)
        tile[: image.shape[0] + 8, : image.shape[1] + 8] = ORANGE if contact.flags[t] else INK
        tile[4 : 4 + image.shape[0], 4 : 4 + image.shape[1]] = image
        ink.plate(tile, str(t), 4, 4)
        tiles.append(tile)
    bottom = np.full((HEIGHT // 2 + 8, top.shape[1], 3), INK, np.uint8)
    bottom[:, : side * len(rows)] = np.concatenate(tiles, axis=1)
    head = np.full((2 * ink.row, top.shape[1], 3), INK, np.uint8)
    share = "" if contact.doubt else f": {contact.share:.0%} of the frames in contact (by {contact.evidence})"
    ink.text(head, ink.fit(title + share, head.shape[1]), 4, ink.pad)
    below = f"cannot tell: {contact.doubt}" if contact.doubt else "left: no-contact reference; orange: in contact"
    ink.text(head, ink.fit(below, head.shape[1]), 4, ink.row + ink.pad, ORANGE if contact.doubt else GREY)
    return np.concatenate([head, top, bottom])


def write_contact_picture(folder: Path, name: str, contact: Contact, touches: np.ndarray) -> Path:
    """Write the picture of a stream's contact into a folder, which is made if it is missing; return the PNG file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('/', '_').replace('#', '_')}.png"
    path.write_bytes(cv2.imencode(".png", contact_picture(name, contact, touches)[..., ::-1])[1].tobytes())
    return path


def _fitted(image: np.ndarray, height: int, width: int | None = None) -> np.ndarray:
    """Return an image scaled to a height, or to the smaller height at which it is at most `width` wide."""
    scale = height / image.shape[0]
    if width is not None:
        scale = min(scale, width / image.shape[1])
    shape = max(1, round(scale * image.shape[1])), max(1, round(scale * image.shape[0]))
    resized = cv2.resize(image.astype(np.float32), shape, interpolation=cv2.INTER_NEAREST)
    return resized.round().clip(0, 255).astype(np.uint8)


def _plot(contact: Contact, ink: Ink) -> np.ndarray:
    plot = np.full((HEIGHT, WIDTH, 3), INK, np.uint8)
    steps, largest = len(contact.score), max(float(contact.score.max()), 2 * contact.enter)
    inside = WIDTH - MARGIN
    for t in np.flatnonzero(contact.flags):
        plot[:, MARGIN + t * inside // steps : MARGIN + (t + 1) * inside // steps] = (92, 64, 0)
    # The square root keeps weak scores visible beside strong ones.
    y = np.round((1 - np.sqrt(contact.score / largest)) * (HEIGHT - 12) + 6).astype(int)
    x = MARGIN + (np.arange(steps) * inside + inside // 2) // steps
    enter = round((1 - float(np.sqrt(contact.enter / largest))) * (HEIGHT - 12) + 6)
    cv2.line(plot, (MARGIN, enter), (WIDTH - 1, enter), SKY, 1)
    cv2.polylines(plot, [np.stack([x, y], axis=1).astype(np.int32)], False, WHITE, 2, cv2.LINE_AA)
    ink.plate(plot, f"{largest:.0f}", 0, 0)
    ink.plate(plot, f"{contact.enter:.1f}", 0, enter - ink.row // 2, SKY)
    return plot
