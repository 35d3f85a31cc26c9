"""Changes of one camera that could explain a sensor's boxes in this camera alone, each fitted by itself.

`verify.rig_search` considers all views together and all parts of a rig.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig_parts import Solid
from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.geometry.frames import rotation_exp
from tactile_align.projection.sensor_box import project_solids

FACTOR = float(np.log(4.0))
"""Largest absolute logarithm of the factor on the focal length; the factor lies between 1/4 and 4."""
TURN = 0.5
"""Largest fitted rotation of a camera about each of its axes, rad."""
REACH_M = 0.2
"""Largest fitted shift of a camera along each of its axes, m."""
FAR_PX = 1e3
"""Error of each edge where a change gives no box: large but finite, so that a fit can start there."""


@dataclass(frozen=True)
class Sight:
    """N boxes in which a sensor was seen by a camera, and the sensor's poses according to the rig.

    Attributes:
        lenses: Camera models of the stored frames. There are several if an [[override]] gives episodes their own.
        which: (N,) index of each box's camera model in `lenses`.
        T_camera_sensor: (N, 4, 4) poses according to the rig, m.
        body: The sensor's solids.
        seen: (N, 4) boxes in which the sensor was seen, px of the stored frame, finite.
    """

    lenses: tuple[Camera, ...]
    which: np.ndarray
    T_camera_sensor: np.ndarray
    body: tuple[Solid, ...]
    seen: np.ndarray

    def boxes(self, T_camera_sensor: np.ndarray, focal: float = 1.0) -> np.ndarray:
        """Return the sensor's boxes (N, 4), px, at N poses (N, 4, 4), m; `focal` is a factor on the focal length.

        A row is nan if no box exists.
        """
        scale = np.array([[focal, focal, 1], [focal, focal, 1], [1, 1, 1]])
        lenses = tuple(replace(lens, K=np.asarray(lens.K) * scale) for lens in self.lenses)
        return boxes_through(lenses, self.which, T_camera_sensor, self.body)


def boxes_through(
    lenses: tuple[Camera, ...], which: np.ndarray, T_camera_sensor: np.ndarray, body: tuple[Solid, ...]
) -> np.ndarray:
    """Return boxes (N, 4), px, of the solids `body` at N poses, m; nan where no box exists.

    The box at pose n is seen through the camera model `lenses[which[n]]`.
    """
    boxes = np.empty((len(which), 4))
    for i, lens in enumerate(lenses):
        boxes[which == i] = np.asarray(project_solids(lens, T_camera_sensor[which == i], body, 0.0).box)
    return boxes


@dataclass(frozen=True)
class Cause:
    """Fitted single cause of wrong boxes, and how well it explains where the sensor was seen.

    Attributes:
        value: The fitted change: a factor (1,), a rotation vector (3,), rad, or a shift (3,), m. The docstring of each
            function that returns a cause states which.
        iou: Median IoU of the boxes after the change; a missing box counts as 0.
    """

    value: np.ndarray
    iou: float


def focal_length(sight: Sight) -> Cause:
    """Return the fitted cause "wrong focal length"; its value is the factor (1,) that corrects the focal length."""

    def boxes(p: np.ndarray) -> np.ndarray:
        return sight.boxes(sight.T_camera_sensor, float(np.exp(p[0])))

    # Far from the solution many factors are equally bad, so the fit starts from the best one of a grid.
    starts = np.linspace(-FACTOR, FACTOR, 25)[1:-1, None]
    start = min(starts, key=lambda p: float(np.abs(_off(sight, boxes(p))).mean()))
    cause = _fitted(sight, boxes, start, FACTOR)
    return replace(cause, value=np.exp(cause.value))


def camera_turn(sight: Sight) -> Cause:
    """Return the fitted cause "turned camera"; its value is a rotation vector (3,), rad, in the camera's own axes."""

    def boxes(p: np.ndarray) -> np.ndarray:
        turned = sight.T_camera_sensor.copy()
        turned[:, :3] = np.asarray(rotation_exp(p)).T @ turned[:, :3]
        return sight.boxes(turned)

    return _fitted(sight, boxes, np.zeros(3), TURN)


def camera_shift(sight: Sight) -> Cause:
    """Return the fitted cause "shifted camera"; its value is a shift (3,), m, in the camera's own axes."""

    def boxes(p: np.ndarray) -> np.ndarray:
        moved = sight.T_camera_sensor.copy()
        moved[:, :3, 3] -= p
        return sight.boxes(moved)

    return _fitted(sight, boxes, np.zeros(3), REACH_M)


def _off(sight: Sight, boxes: np.ndarray) -> np.ndarray:
    off = boxes - sight.seen
    return np.where(np.isfinite(off), off, FAR_PX).ravel()


def _fitted(sight: Sight, boxes: Callable[[np.ndarray], np.ndarray], start: np.ndarray, limit: float) -> Cause:
    from scipy.optimize import least_squares  # slow to import, and needed only for rigs that failed

    def off(p: np.ndarray) -> np.ndarray:
        return _off(sight, boxes(p))

    p = least_squares(off, start, loss="soft_l1", x_scale=limit / 20, bounds=(-limit, limit)).x
    iou = np.nan_to_num(np.asarray(intersection_over_union(boxes(p), sight.seen)), nan=0.0)
    return Cause(p, float(np.median(iou)))
