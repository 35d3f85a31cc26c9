"""A closer look at boxes that a picture shows too small to judge."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tactile_align.viz.footage import Footage
from tactile_align.viz.scene import Closer, Moment

SMALL_PX = 32
"""A box whose longer side is shorter than this on the picture, in the median, is also shown closer."""
AROUND = 3.0
"""How many sides of the box a closer look spans."""
LEAST_PX = 16
"""It spans no less than this of the recorded frame."""

Pair = tuple[str, str]
"""A camera and a sensor."""


def too_small(footage: Footage, rows: Sequence[int], height: int | None = None) -> tuple[Pair, ...]:
    """Return the cameras and sensors whose boxes would be too small on pictures of `rows`.

    Args:
        footage: The episode.
        rows: Rows of the episode.
        height: Height at which views are drawn, px; the recorded height when None.
    """
    found = []
    for camera, sensors in footage.seen.items():
        high = footage.episode.width_height(camera)[1]
        scale = 1.0 if height is None else height / high
        for sensor, seen in sensors.items():
            box = seen.boxes.box[rows][seen.boxes.visible[rows]]
            if len(box) and scale * np.median((box[:, 2:] - box[:, :2]).max(axis=1)) < SMALL_PX:
                found.append((camera, sensor))
    return tuple(found)


def with_closer(footage: Footage, moment: Moment, pairs: Sequence[Pair]) -> Moment:
    """Return a moment with a closer look for each pair, also where it has no box, so that pictures stay alike."""
    return replace(moment, closer=tuple(_closer(footage, camera, sensor, moment.t) for camera, sensor in pairs))


def _closer(footage: Footage, camera: str, sensor: str, t: int) -> Closer:
    seen = footage.seen[camera][sensor]
    name, colour = f"{sensor} in {camera}", list(footage.rig.sensors).index(sensor)
    box, nowhere = np.asarray(seen.boxes.box[t]), np.full(4, np.nan)
    compared = nowhere if seen.compared is None else np.asarray(seen.compared[t])
    if not seen.boxes.visible[t]:
        return Closer(name, colour, np.zeros((1, 1, 3), np.uint8), nowhere, nowhere)
    image = footage.episode.image(camera, t)
    u, v, side = window(box, image.shape[1], image.shape[0])
    corner = np.array([u, v, u, v])
    return Closer(name, colour, image[v : v + side, u : u + side], box - corner, compared - corner)


def window(box: np.ndarray, width: int, height: int) -> tuple[int, int, int]:
    """Return the first column, the first row and the side, px, of a square around a box (4,) within a frame."""
    side = min(width, height, max(LEAST_PX, round(AROUND * float(max(box[2:] - box[:2])))))
    centre = (box[:2] + box[2:]) / 2
    u, v = np.clip(np.rint(centre - (side - 1) / 2), 0, [width - side, height - side]).astype(int).tolist()
    return u, v, side
