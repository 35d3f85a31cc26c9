"""Fit of a sensor's pose on its finger and of the gripper's stroke to boxes of the sensor."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from tactile_align.calibration.bundle_adjustment import jackknife
from tactile_align.calibration.rig import RigCamera, Sensor
from tactile_align.finger.frames import FingerFrames, Reading, cross_validated, likely_reading
from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.geometry.frames import pose, rotation_exp
from tactile_align.verify.single_cause import Sight, boxes_through, camera_shift, camera_turn, focal_length

PRIOR_M, PRIOR_RAD, PRIOR_STROKE = 0.005, np.radians(5.0), 0.10
"""Errors of drawings: one standard deviation of position, angle and stroke."""
BOX_PX = 1.5
"""Standard deviation of the edges of a box drawn by hand, px."""
LOST = 50.0
"""Error of a box without a pixel, at each edge, in units of BOX_PX."""
POOR_IOU, CLEAR_IOU = 0.75, 0.05
"""Below the first the swapped gripper is tried; the second tells a command from a measurement."""


@dataclass(frozen=True)
class BoxFit:
    """A fitted finger.

    Attributes:
        x: (7,) shift in the finger's frame, m; turn, rotation vector in the finger's axes, rad; stroke, a factor.
        sigma: (7,) their standard deviations, from leaving out a tenth of the boxes at a time: the random part only.
        bias: (7,) what they change by when every box is drawn a pixel wider at each side.
        before: (N,) IoU of the boxes with the rig as it was.
        after: (N,) IoU of each box with the fit of all others.
        reading: What the gripper reading is; None where the boxes cannot tell.
    """

    x: np.ndarray
    sigma: np.ndarray
    bias: np.ndarray
    before: np.ndarray
    after: np.ndarray
    reading: Reading | None


def moved(T_finger_sensor: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return a sensor's pose (4, 4) shifted and turned about its origin by x (7,), in the finger's axes."""
    return np.asarray(pose(rotation_exp(x[3:6]) @ T_finger_sensor[:3, :3], T_finger_sensor[:3, 3] + x[:3]))


def fit_boxes(frames: FingerFrames, touch: Sensor, seen: np.ndarray, ends: tuple[float, float]) -> BoxFit:
    """Fit seven numbers to N boxes (N, 4), px.

    Args:
        frames: Where the boxes were seen.
        touch: The sensor as the rig has it.
        seen: (N, 4) the boxes.
        ends: The finger's opening fully closed and fully open, m.
    """
    x = _solve(frames, touch, seen, START)
    if np.nanmedian(iou_of(frames, touch, seen, x)) < POOR_IOU:
        # open and closed swapped: the finger runs backwards from the other end of its stroke.
        back = _solve(frames, touch, seen, np.array([*(frames.axis * sum(ends)), 0, 0, 0, -1.0]))
        x = max(x, back, key=lambda fit: float(np.nanmedian(iou_of(frames, touch, seen, fit))))

    def solve(rows: np.ndarray) -> np.ndarray:
        return _solve(frames.only(rows), touch, seen[rows], x) if rows.any() else START

    def error(rows: np.ndarray, fit: np.ndarray, reading: Reading | None = None) -> np.ndarray:
        return 1 - iou_of(frames.only(rows), touch, seen[rows], fit, reading)

    fits, after = cross_validated(len(seen), solve, error)
    bias = _solve(frames, touch, seen + np.array([-1.0, -1.0, 1.0, 1.0]), x) - x
    reading = likely_reading(frames, solve, error, CLEAR_IOU)
    before = iou_of(frames, touch, seen, START)
    return BoxFit(x, np.sqrt(np.diag(jackknife(fits))), bias, before, 1 - after, reading)


START = np.array([0.0] * 6 + [1.0])


def poses_of(frames: FingerFrames, touch: Sensor, x: np.ndarray, reading: Reading | None = None) -> np.ndarray:
    """Return T_camera_sensor (N, 4, 4), m, of a sensor changed by x (7,)."""
    T_flange_sensor = frames.T_flange_finger(x[6], reading=reading) @ moved(touch.T_parent_this, x)
    return np.asarray(frames.T_camera_flange @ T_flange_sensor)


def boxes_of(frames: FingerFrames, touch: Sensor, x: np.ndarray, reading: Reading | None = None) -> np.ndarray:
    """Return (N, 4) boxes, px, of a sensor changed by x (7,); nan where there is none."""
    return boxes_through(frames.lenses, frames.which, poses_of(frames, touch, x, reading), touch.body)


def iou_of(
    frames: FingerFrames, touch: Sensor, seen: np.ndarray, x: np.ndarray, reading: Reading | None = None
) -> np.ndarray:
    """Return (N,) IoU; 0 where the fit has no box."""
    return np.nan_to_num(intersection_over_union(boxes_of(frames, touch, x, reading), seen), nan=0.0)


def _solve(frames: FingerFrames, touch: Sensor, seen: np.ndarray, start: np.ndarray) -> np.ndarray:
    scale = np.array([PRIOR_M] * 3 + [PRIOR_RAD] * 3 + [PRIOR_STROKE])
    # The prior pulls towards the rig, or towards the swapped gripper where that is what is tried.
    likely = start if start[6] < 0 else START

    def residual(z: np.ndarray) -> np.ndarray:
        off = (boxes_of(frames, touch, z * scale) - seen) / BOX_PX
        return np.concatenate([np.where(np.isfinite(off), off, LOST).ravel(), z - likely / scale])

    fit = least_squares(residual, start / scale, loss="soft_l1", diff_step=[1e-4], xtol=1e-7, max_nfev=40)
    return np.asarray(fit.x) * scale


LIKELY = 0.8
"""Median IoU with a second cause from which on it is named too."""


def other_cause(frames: FingerFrames, touch: Sensor, seen: np.ndarray, camera: str, mounted: RigCamera) -> str:
    """Return in words what of the camera would explain boxes (N, 4), px, with sensor and stroke as the rig has them.

    The likeliest cause comes first; each is fitted alone.
    """
    sight = Sight(frames.lenses, frames.which, poses_of(frames, touch, START), touch.body, seen)
    shift, turn, zoom = camera_shift(sight), camera_turn(sight), focal_length(sight)
    where = ", ".join(f"{v * 1e3:+.0f}" for v in mounted.T_parent_this[:3, :3] @ shift.value)
    about = ", ".join(f"{np.degrees(v):+.1f}" for v in turn.value)
    causes = [
        (shift.iou, f"its place ({where}) mm from where the rig has it in {mounted.parent}"),
        (turn.iou, f"how it is turned, by ({about}) deg about its own axes"),
        (zoom.iou, f"its K, focal length x {zoom.value[0]:.2f}"),
    ]
    causes.sort(key=lambda cause: -cause[0])
    named = [f"{text} (IoU {iou:.2f})" for iou, text in causes if iou >= min(LIKELY, causes[0][0])]
    return (
        f"Boxes of {camera} alone cannot tell a moved camera from a moved sensor. If the sensor is mounted as "
        f"drawn, it is cameras.{camera}: {', or '.join(named)}. Then calibrate it: hand-eye, intrinsics."
    )
