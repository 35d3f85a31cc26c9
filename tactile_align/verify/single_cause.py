"""Single causes that would put a sensor's boxes where they were seen, each fitted to the boxes alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig_parts import Solid
from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.geometry.frames import rotation_exp
from tactile_align.projection.sensor_box import project_solids

DRAWN_PX, DRAWN = 1.5, 0.02
"""How far edges may still be off in the median, px or share of the box's side: drawn boxes are no better."""
FACTOR = float(np.log(4.0))
"""A focal length is sought between a quarter and four times the rig's: the logarithm of the factor."""
TURN = 0.5
"""A camera is turned by no more than this about each of its axes, rad."""
REACH_M = 0.2
"""A camera or a sensor is sought this far along each of its axes."""
FAR_PX = 1e3
"""Counts as the error of a box that left the image: far, yet finite, so that a fit may start there."""


@dataclass(frozen=True)
class Sight:
    """N boxes of a sensor seen in a camera, and where the rig puts them.

    Attributes:
        lenses: The cameras of the stored frames; an [[override]] can give episodes their own.
        which: (N,) index into `lenses`.
        T_camera_sensor: (N, 4, 4) as the rig has it, m.
        body: The sensor's solids.
        seen: (N, 4) where the sensor was seen, stored px, finite.
    """

    lenses: tuple[Camera, ...]
    which: np.ndarray
    T_camera_sensor: np.ndarray
    body: tuple[Solid, ...]
    seen: np.ndarray

    def boxes(self, T_camera_sensor: np.ndarray, focal: float = 1.0) -> np.ndarray:
        """Return (N, 4) boxes, nan where there is none, for other poses or a longer focal length."""
        scale = np.array([[focal, focal, 1], [focal, focal, 1], [1, 1, 1]])
        lenses = tuple(replace(lens, K=np.asarray(lens.K) * scale) for lens in self.lenses)
        return boxes_through(lenses, self.which, T_camera_sensor, self.body)


def boxes_through(
    lenses: tuple[Camera, ...], which: np.ndarray, T_camera_sensor: np.ndarray, body: tuple[Solid, ...]
) -> np.ndarray:
    """Return (N, 4) boxes, px, of bodies at poses (N, 4, 4), m, each through its own lens; nan where there is none."""
    boxes = np.empty((len(which), 4))
    for i, lens in enumerate(lenses):
        boxes[which == i] = np.asarray(project_solids(lens, T_camera_sensor[which == i], body, 0.0).box)
    return boxes


@dataclass(frozen=True)
class Cause:
    """A cause, fitted.

    Attributes:
        value: A factor (1,), a rotation vector (3,), rad, a shift (3,), m, or none; see the function that made it.
        iou: Median IoU of the boxes with it, 0 for a box that is lost.
        explains: Whether the edges come as close as boxes are drawn.
    """

    value: np.ndarray
    iou: float
    explains: bool


def focal_length(sight: Sight) -> Cause:
    """Fit the factor (1,) of the focal length."""

    def boxes(p: np.ndarray) -> np.ndarray:
        return sight.boxes(sight.T_camera_sensor, float(np.exp(p[0])))

    # Sizes far off have many equally bad neighbours, so the fit starts from the best of a row.
    starts = np.linspace(-FACTOR, FACTOR, 25)[1:-1, None]
    start = min(starts, key=lambda p: float(np.abs(_off(sight, boxes(p))).mean()))
    cause = _fitted(sight, boxes, start, FACTOR)
    return replace(cause, value=np.exp(cause.value))


def camera_turn(sight: Sight) -> Cause:
    """Fit the rotation vector (3,), rad, in the camera's axes, by which the camera is turned."""

    def boxes(p: np.ndarray) -> np.ndarray:
        turned = sight.T_camera_sensor.copy()
        turned[:, :3] = np.asarray(rotation_exp(p)).T @ turned[:, :3]
        return sight.boxes(turned)

    return _fitted(sight, boxes, np.zeros(3), TURN)


def camera_shift(sight: Sight) -> Cause:
    """Fit the shift (3,), m, of the camera in its own axes."""

    def boxes(p: np.ndarray) -> np.ndarray:
        moved = sight.T_camera_sensor.copy()
        moved[:, :3, 3] -= p
        return sight.boxes(moved)

    return _fitted(sight, boxes, np.zeros(3), REACH_M)


def sensor_shift(sight: Sight) -> Cause:
    """Fit the shift (3,), m, of the sensor in its own axes."""

    def boxes(p: np.ndarray) -> np.ndarray:
        moved = sight.T_camera_sensor.copy()
        moved[:, :3, 3] += moved[:, :3, :3] @ p
        return sight.boxes(moved)

    return _fitted(sight, boxes, np.zeros(3), REACH_M)


def elsewhere(sight: Sight, T_camera_sensor: np.ndarray) -> Cause:
    """Judge the boxes with other poses (N, 4, 4), m; nothing is fitted, so the value is empty (0,)."""
    return _judged(sight, sight.boxes(T_camera_sensor), np.empty(0))


def _off(sight: Sight, boxes: np.ndarray) -> np.ndarray:
    off = boxes - sight.seen
    return np.where(np.isfinite(off), off, FAR_PX).ravel()


def _fitted(sight: Sight, boxes: Callable[[np.ndarray], np.ndarray], start: np.ndarray, limit: float) -> Cause:
    from scipy.optimize import least_squares  # only rigs that failed need it; `verify` starts faster without

    def off(p: np.ndarray) -> np.ndarray:
        return _off(sight, boxes(p))

    p = least_squares(off, start, loss="soft_l1", x_scale=limit / 20, bounds=(-limit, limit)).x
    return _judged(sight, boxes(p), p)


def _judged(sight: Sight, boxes: np.ndarray, value: np.ndarray) -> Cause:
    iou = np.nan_to_num(np.asarray(intersection_over_union(boxes, sight.seen)), nan=0.0)
    side = float(np.median(sight.seen[:, 2:] - sight.seen[:, :2]))
    close = float(np.median(np.abs(_off(sight, boxes)))) <= max(DRAWN_PX, DRAWN * side)
    return Cause(value, float(np.median(iou)), close)
