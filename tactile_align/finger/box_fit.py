"""Fit of a sensor's pose on its finger, and of the gripper's stroke, to image boxes of the sensor."""

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
"""Standard deviations of the prior, equal to typical errors of CAD drawings: position, angle, stroke (a factor)."""
BOX_PX = 1.5
"""Standard deviation of the edges of a hand-drawn box, px."""
LOST = 50.0
"""Residual of each edge where the fit gives no box, in units of BOX_PX."""
POOR_IOU, CLEAR_IOU = 0.75, 0.05
"""POOR_IOU: median IoU below which the fit also tries swapping open and closed of the gripper.
CLEAR_IOU: difference in median IoU above which a commanded and a measured gripper reading can be told apart."""


@dataclass(frozen=True)
class BoxFit:
    """Fit of a sensor's pose and its gripper's stroke to N boxes, with uncertainty and the IoU before and after.

    Attributes:
        x: (7,) fitted parameters: shift of the sensor in the finger's frame (3), m; rotation vector in the finger's
            axes (3), rad; factor on the stroke (1).
        sigma: (7,) standard deviations of `x`, from fits that leave out a tenth of the boxes at a time. They contain
            random errors only.
        bias: (7,) change of the fitted `x` if every box were drawn one pixel wider at each side.
        before: (N,) IoU of each box with the box that the original rig predicts.
        after: (N,) IoU of each box with the box that a fit without it predicts.
        reading: Whether the gripper reading is commanded or measured; None if the boxes cannot tell.
    """

    x: np.ndarray
    sigma: np.ndarray
    bias: np.ndarray
    before: np.ndarray
    after: np.ndarray
    reading: Reading | None


def moved(T_finger_sensor: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return T_finger_sensor (4, 4), m, shifted by x[:3], m, and rotated about the sensor's origin by x[3:6], rad.

    The shift is in the finger's frame; the rotation is a rotation vector in the finger's axes.
    """
    return np.asarray(pose(rotation_exp(x[3:6]) @ T_finger_sensor[:3, :3], T_finger_sensor[:3, 3] + x[:3]))


def fit_boxes(frames: FingerFrames, touch: Sensor, seen: np.ndarray, ends: tuple[float, float]) -> BoxFit:
    """Return the fit of a sensor's pose and its gripper's stroke (seven parameters, see `BoxFit.x`) to N boxes.

    Args:
        frames: The N frames in which the boxes were seen.
        touch: The touch sensor, with its pose in the original rig.
        seen: (N, 4) the boxes in which the sensor was seen, px.
        ends: The finger's distance from the tool axis when fully closed and when fully open, m.
    """
    x = _solve(frames, touch, seen, START)
    if np.nanmedian(iou_of(frames, touch, seen, x)) < POOR_IOU:
        # If open and closed are swapped, the finger moves backwards from the other end of its stroke.
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
    """Return T_camera_sensor in N frames, (N, 4, 4), m, after the change `x` of the sensor's pose (see `BoxFit.x`).

    `reading` is the kind of gripper reading; None: the rig's.
    """
    T_flange_sensor = frames.T_flange_finger(x[6], reading=reading) @ moved(touch.T_parent_this, x)
    return np.asarray(frames.T_camera_flange @ T_flange_sensor)


def boxes_of(frames: FingerFrames, touch: Sensor, x: np.ndarray, reading: Reading | None = None) -> np.ndarray:
    """Return a sensor's boxes in N frames, (N, 4), px, after the change `x` (see `BoxFit.x`); nan where it has none.

    `reading` is the kind of gripper reading; None: the rig's.
    """
    return boxes_through(frames.lenses, frames.which, poses_of(frames, touch, x, reading), touch.body)


def iou_of(
    frames: FingerFrames, touch: Sensor, seen: np.ndarray, x: np.ndarray, reading: Reading | None = None
) -> np.ndarray:
    """Return the IoU of N boxes `seen` with the boxes that `boxes_of` returns, (N,); 0 where there is no box."""
    return np.nan_to_num(intersection_over_union(boxes_of(frames, touch, x, reading), seen), nan=0.0)


def _solve(frames: FingerFrames, touch: Sensor, seen: np.ndarray, start: np.ndarray) -> np.ndarray:
    scale = np.array([PRIOR_M] * 3 + [PRIOR_RAD] * 3 + [PRIOR_STROKE])
    # The prior pulls towards the original rig, or towards the swapped gripper if the fit starts from it.
    likely = start if start[6] < 0 else START

    def residual(z: np.ndarray) -> np.ndarray:
        off = (boxes_of(frames, touch, z * scale) - seen) / BOX_PX
        return np.concatenate([np.where(np.isfinite(off), off, LOST).ravel(), z - likely / scale])

    fit = least_squares(residual, start / scale, loss="soft_l1", diff_step=[1e-4], xtol=1e-7, max_nfev=40)
    return np.asarray(fit.x) * scale


LIKELY = 0.8
"""Median IoU above which `other_cause` also lists causes other than the most likely one."""


def other_cause(frames: FingerFrames, touch: Sensor, seen: np.ndarray, camera: str, mounted: RigCamera) -> str:
    """Return a sentence on which changes of the camera alone would explain the N boxes `seen`, (N, 4), px.

    The sensor's pose and the gripper's stroke stay as in the rig. Each change is fitted separately; the most likely
    comes first.
    """
    sight = Sight(frames.lenses, frames.which, poses_of(frames, touch, START), touch.body, seen)
    shift, turn, zoom = camera_shift(sight), camera_turn(sight), focal_length(sight)
    where = ", ".join(f"{v * 1e3:+z.0f}" for v in mounted.T_parent_this[:3, :3] @ shift.value)
    about = ", ".join(f"{np.degrees(v):+z.1f}" for v in turn.value)
    causes = [
        (shift.iou, f"move it by ({where}) mm along the axes of {mounted.parent}"),
        (turn.iou, f"turn it by ({about}) deg about its own axes"),
        (zoom.iou, f"multiply its focal length by {zoom.value[0]:.2f}"),
    ]
    causes.sort(key=lambda cause: -cause[0])
    named = [f"{text} (IoU {iou:.2f})" for iou, text in causes if iou >= min(LIKELY, causes[0][0])]
    return (
        f"Boxes in {camera} alone cannot tell a moved camera from a moved sensor. If the sensor is mounted as drawn, "
        f"cameras.{camera} is wrong. To explain the boxes, {', or '.join(named)}. Calibrate the camera again."
    )
