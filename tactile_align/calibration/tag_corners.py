"""Corners of a tag as the meeting points of its four edges.

A gradient search in the corner itself (`cv2.cornerSubPix`) is drawn inwards by blur: 0.2 px on a tag of 40 px, which
is 1 % of its distance. Along an edge blur is the same on both sides.
"""

import cv2
import numpy as np

ALONG, ACROSS = 24, 33
"""Profiles on each side, and samples on each profile."""
ENDS = 0.12
"""Share of a side left out at each end, where the next side's edge begins."""
REACH = 0.7
"""Half length of a profile in modules: it must not reach the cells behind the black border."""


def edge_corners(image: np.ndarray, uv: np.ndarray, modules: int) -> np.ndarray | None:
    """Refine a tag's corners by fitting a line to each of its sides.

    Args:
        image: (H, W) uint8, the tag black on white.
        uv: (4, 2) its corners to a pixel or so, in the order in which they follow each other.
        modules: Cells along a side, the black border's two included.

    Returns:
        (4, 2) corners, px; None where a profile leaves the image, sides have no clear edge, or a corner would move
        by more than a module.
    """
    ends = np.roll(uv, -1, axis=0)
    side = np.linalg.norm(ends - uv, axis=1)
    module = side / modules
    if module.min() < 1.0:
        return None
    along = np.linspace(ENDS, 1 - ENDS, ALONG)[None, :, None]
    base = uv[:, None] + along * (ends - uv)[:, None]
    turning = np.sign(_cross(uv[1] - uv[0], uv[2] - uv[1]))
    normal = turning * np.stack([ends[:, 1] - uv[:, 1], uv[:, 0] - ends[:, 0]], axis=-1) / side[:, None]  # outwards
    # The cells behind a foreshortened border are nearer than the side's own modules are long.
    depth = np.minimum(np.roll(module, 1), np.roll(module, -1)) * _sine(uv, ends)
    step = np.linspace(-REACH, REACH, ACROSS)[None, :] * np.maximum(depth, 1.5)[:, None]
    where = base[:, :, None] + step[:, None, :, None] * normal[:, None, None]
    if where.min() < 0 or (where > [image.shape[1] - 1, image.shape[0] - 1]).any():
        return None
    flat = where.reshape(4, ALONG * ACROSS, 2).astype(np.float32)
    grey = cv2.remap(image, flat[..., 0], flat[..., 1], cv2.INTER_LINEAR).reshape(4, ALONG, ACROSS).astype(np.float64)
    rise = np.clip(np.diff(grey, axis=-1), 0, None)
    total = rise.sum(-1)
    if (np.median(total, axis=1) < 20).any():
        return None
    middle = (step[:, 1:] + step[:, :-1]) / 2
    offset = (rise * middle[:, None]).sum(-1) / np.maximum(total, 1e-9)
    points = base + offset[..., None] * normal[:, None]
    lines = [_line(points[i], total[i] > 0.5 * np.median(total[i])) for i in range(4)]
    corners = np.stack([_meet(lines[i - 1], lines[i]) for i in range(4)])
    if not (np.linalg.norm(corners - uv, axis=1) < np.minimum(module, np.roll(module, 1))).all():
        return None
    return corners


def _sine(uv: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return (4,) the sine of the angle at which the neighbouring sides leave each side."""
    along = (ends - uv) / np.linalg.norm(ends - uv, axis=1, keepdims=True)
    turn = np.abs(_cross(np.roll(along, 1, axis=0), along))
    return np.minimum(turn, np.roll(turn, -1))


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])


def _line(points: np.ndarray, good: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a point and a direction of the line through the good points (N, 2), twice freed of those far off."""
    for _ in range(3):
        centre = points[good].mean(0)
        along, across = np.linalg.svd(points[good] - centre)[2]
        off = np.abs((points - centre) @ across)
        good = good & (off <= max(3 * float(np.median(off[good])), 0.05))
    return centre, along


def _meet(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the point (2,) where two lines meet."""
    steps = np.linalg.solve(np.stack([one[1], -other[1]], axis=1), other[0] - one[0])
    return np.asarray(one[0] + steps[0] * one[1])
