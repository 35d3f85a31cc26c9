"""Fit of the poses of sensors on their fingers, and of their gripper's stroke, to image boxes of the sensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import OptimizeResult, least_squares

from tactile_align.calibration.bundle_adjustment import jackknife
from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import RigCamera, Sensor
from tactile_align.calibration.rig_parts import Solid
from tactile_align.checks import Check
from tactile_align.finger.camera_causes import Sight, boxes_through, camera_shift, camera_turn, focal_length
from tactile_align.finger.frames import FingerFrames, Reading, cross_validated, likely_reading
from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.geometry.frames import pose, rotation_exp

PRIOR_M, PRIOR_RAD, PRIOR_STROKE = 0.005, np.radians(5.0), 0.10
"""Standard deviations of the prior, equal to typical errors of CAD drawings: position, angle, stroke (a factor)."""
BOX_PX = 1.5
"""Standard deviation of the edges of a hand-drawn box, px."""
LOST = 50.0
"""Residual of each edge where the fit gives no box, in units of BOX_PX."""
POOR_IOU, CLEAR_IOU = 0.75, 0.05
"""POOR_IOU: median IoU below which the fit also tries swapping open and closed of the gripper.
CLEAR_IOU: difference in median IoU above which a commanded and a measured gripper reading can be told apart."""
CLEAR_SIGMAS = 2.0
"""Number of standard deviations of the fitted stroke within which the stroke stays 1. They contain the random error and
the change of the stroke if every box were drawn one pixel wider at each side."""
STEP = 1e-4
"""Step of numeric derivatives, in units of the parameters' scale."""
WIDER = np.array([-1.0, -1.0, 1.0, 1.0])
"""Change of the edges of a box that is drawn one pixel wider at each side, px."""


@dataclass(frozen=True)
class Drawn:
    """N boxes of one sensor in one camera.

    Attributes:
        sensor: Name of the sensor.
        touch: The sensor, with its pose in the original rig.
        frames: The N frames in which the boxes were seen.
        seen: (N, 4) the boxes in which the sensor was seen, px.
    """

    sensor: str
    touch: Sensor
    frames: FingerFrames
    seen: np.ndarray

    def __len__(self) -> int:
        return len(self.seen)

    def only(self, rows: np.ndarray) -> "Drawn":
        """Return M of the N boxes, which flags (N,) select."""
        return replace(self, frames=self.frames.only(rows), seen=self.seen[rows])

    def poses(self, x: np.ndarray, reading: Reading | None = None) -> np.ndarray:
        """Return T_camera_sensor in the N frames, (..., N, 4, 4), m, after changes `x` (..., 7), see `BoxFit.x`.

        `reading` is the kind of gripper reading; None: the rig's.
        """
        T_finger_sensor = moved(self.touch.T_parent_this, x)[..., None, :, :]
        T_flange_finger = self.frames.T_flange_finger(x[..., 6], reading=reading)
        return np.asarray(self.frames.T_camera_flange @ T_flange_finger @ T_finger_sensor)

    def boxes(self, x: np.ndarray, reading: Reading | None = None) -> np.ndarray:
        """Return the sensor's boxes (..., N, 4), px, after changes `x` (..., 7), see `BoxFit.x`; nan where none is."""
        return boxes_at(self.frames.lenses, self.frames.which, self.poses(x, reading), self.touch.body)

    def iou(self, x: np.ndarray, reading: Reading | None = None) -> np.ndarray:
        """Return the IoU (N,) of the boxes `seen` with those of `boxes`; 0 where there is no box."""
        return overlap(self.boxes(x, reading), self.seen)


@dataclass(frozen=True)
class BoxFit:
    """Fitted pose of one sensor and stroke of its gripper, with uncertainty and the IoU of N boxes before and after.

    Attributes:
        x: (7,) fitted parameters: shift of the sensor in the finger's frame (3), m; rotation vector in the finger's
            axes (3), rad; factor on the stroke (1), the same for all sensors of a gripper.
        sigma: (7,) standard deviations of `x`, from fits that leave out a tenth of the boxes at a time. They contain
            random errors only. The last is that of `free_stroke`.
        bias: (7,) change of the fitted `x` if every box were drawn one pixel wider at each side. The last is that of
            `free_stroke`.
        free_x: (7,) fitted parameters with a free stroke.
        kept_x: (7,) fitted parameters with the stroke 1. If the free stroke does not differ clearly from 1, see
            CLEAR_SIGMAS, or the stroke is to be kept, `x` is `kept_x`, otherwise `free_x`.
        before: (N,) IoU of each box with the box that the original rig predicts.
        after: (N,) IoU of each box with the box that a fit without it predicts.
        free_after: `after` with a free stroke.
        kept_after: `after` with the stroke 1.
        reading: Whether the gripper reading is commanded or measured; None if the boxes cannot tell.
    """

    x: np.ndarray
    sigma: np.ndarray
    bias: np.ndarray
    free_x: np.ndarray
    kept_x: np.ndarray
    before: np.ndarray
    after: np.ndarray
    free_after: np.ndarray
    kept_after: np.ndarray
    reading: Reading | None

    @property
    def free_stroke(self) -> float:
        """Fitted factor on the stroke, whether or not it is used."""
        return float(self.free_x[6])

    @property
    def stroke_sigma(self) -> float:
        """Standard deviation of `free_stroke`, with the random error and that of boxes drawn one pixel wider."""
        return float(np.hypot(self.sigma[6], self.bias[6]))


START = np.array([0.0] * 6 + [1.0])


def moved(T_finger_sensor: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return T_finger_sensor shifted by x[..., :3], m, and rotated about the sensor's origin by x[..., 3:6], rad.

    The shift is in the finger's frame; the rotation is a rotation vector in the finger's axes. T_finger_sensor is a
    pose (4, 4), m; the result has the batch axes of `x`.
    """
    turned = rotation_exp(x[..., 3:6]) @ T_finger_sensor[:3, :3]
    return np.asarray(pose(turned, T_finger_sensor[:3, 3] + x[..., :3]))


def boxes_at(
    lenses: tuple[Camera, ...], which: np.ndarray, T_camera_sensor: np.ndarray, body: tuple[Solid, ...]
) -> np.ndarray:
    """Return boxes (..., N, 4), px, of the solids `body` at poses (..., N, 4, 4), m; nan where no box exists.

    The box of frame n is seen through the camera model `lenses[which[n]]`.
    """
    batch = T_camera_sensor.shape[:-3]
    every = np.tile(which, int(np.prod(batch)))
    return boxes_through(lenses, every, T_camera_sensor.reshape(-1, 4, 4), body).reshape(*batch, len(which), 4)


def overlap(boxes: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the IoU (N,) of predicted boxes (N, 4) with the boxes `seen` (N, 4), px; 0 where a box is nan."""
    return np.nan_to_num(intersection_over_union(boxes, seen), nan=0.0)


def edge_errors(boxes: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Return the errors (..., 4 N) of the edges of predicted boxes (..., N, 4), px, in units of BOX_PX.

    `seen` (N, 4) are the true boxes. The error of a nan box is LOST.
    """
    off = (boxes - seen) / BOX_PX
    return np.where(np.isfinite(off), off, LOST).reshape(*off.shape[:-2], -1)


def robust_fit(residuals: Callable[[np.ndarray], np.ndarray], start: np.ndarray) -> OptimizeResult:
    """Return the result of a least-squares fit with a soft L1 loss.

    Args:
        residuals: Function of k parameter vectors (k, n) that returns their residuals (k, m). All points of a numeric
            Jacobian are computed in one call.
        start: (n,) initial parameters, of unit size.
    """

    def jacobian(z: np.ndarray) -> np.ndarray:
        r = residuals(np.concatenate([z[None], z + STEP * np.eye(len(z))]))
        return np.asarray((r[1:] - r[0]).T / STEP)

    return least_squares(
        lambda z: residuals(z[None])[0], start, jacobian, loss="soft_l1", xtol=1e-7, ftol=1e-8, max_nfev=60
    )


def fit_boxes(drawn: Sequence[Drawn], ends: tuple[float, float], keep_stroke: bool = False) -> list[BoxFit]:
    """Return the fits of S sensors of one gripper and of its stroke, 6 S + 1 parameters together, to N boxes.

    Args:
        drawn: The boxes of the S sensors.
        ends: The finger's distance from the tool axis when fully closed and when fully open, m.
        keep_stroke: Whether the stroke stays 1, whatever the boxes show.
    """
    initial = np.tile(START, (len(drawn), 1))

    def errors(rows: np.ndarray, fit: np.ndarray, reading: Reading | None = None) -> np.ndarray:
        selected = _only(drawn, rows)
        return 1 - np.concatenate([part.iou(x, reading) for part, x in zip(selected, fit, strict=True)])

    every = np.ones(sum(map(len, drawn)), bool)
    best = _solve(drawn, initial)
    if 1 - np.median(errors(every, best)) < POOR_IOU:
        # If open and closed are swapped, the fingers move backwards from the other end of their stroke.
        back = [np.array([*(part.frames.axis * sum(ends)), 0, 0, 0, -1.0]) for part in drawn]
        best = min(best, _solve(drawn, np.array(back)), key=lambda fit: float(np.median(errors(every, fit))))
    wider = [replace(part, seen=part.seen + WIDER) for part in drawn]
    every_row = np.arange(len(every))

    def from_fit(fit: np.ndarray, held: bool) -> Callable[[np.ndarray], np.ndarray]:
        return lambda rows: _solve(_only(drawn, rows), fit, held) if rows.any() else initial

    free, kept = best, np.column_stack([best[:, :6], np.ones(len(drawn))])
    kept = _solve(drawn, kept, held=True)
    free_fits, free_after = cross_validated(every_row, from_fit(free, False), errors)
    kept_fits, kept_after = cross_validated(every_row, from_fit(kept, True), errors)
    x, after, sigma, bias = free, free_after, _sigma(free_fits), _solve(wider, free) - free
    held = keep_stroke or bool(abs(free[0, 6] - 1) <= CLEAR_SIGMAS * np.hypot(sigma[0, 6], bias[0, 6]))
    if held:
        x, after = kept, kept_after
        sigma[:, :6], bias[:, :6] = _sigma(kept_fits)[:, :6], (_solve(wider, kept, held) - kept)[:, :6]
    telling = np.concatenate([part.frames.telling for part in drawn])
    reading = likely_reading(telling, from_fit(x, held), errors, CLEAR_IOU)
    parts = np.cumsum([len(part) for part in drawn])[:-1]
    own, own_free, own_kept = (np.split(1 - one, parts) for one in (after, free_after, kept_after))
    return [
        BoxFit(x[i], sigma[i], bias[i], free[i], kept[i], part.iou(START), own[i], own_free[i], own_kept[i], reading)
        for i, part in enumerate(drawn)
    ]


def _sigma(fits: np.ndarray) -> np.ndarray:
    """Return the standard deviations (S, 7) of the fits (K, S, 7) that each leave out a tenth of the boxes."""
    return np.sqrt(np.diag(jackknife(fits.reshape(len(fits), -1)))).reshape(fits.shape[1:])


def _only(drawn: Sequence[Drawn], rows: np.ndarray) -> list[Drawn]:
    """Return the boxes that flags `rows` select; there is one flag for each box of all sensors."""
    parts = np.split(rows, np.cumsum([len(part) for part in drawn])[:-1])
    return [part.only(flags) for part, flags in zip(drawn, parts, strict=True)]


def _solve(drawn: Sequence[Drawn], start: np.ndarray, held: bool = False) -> np.ndarray:
    """Return the fitted parameters (S, 7) from the initial ones `start` (S, 7); `held` keeps the stroke as it is."""
    scale = np.array([*[*[PRIOR_M] * 3, *[PRIOR_RAD] * 3] * len(drawn), PRIOR_STROKE])
    # The prior pulls towards the original rig, or towards the swapped gripper if the fit starts from it.
    likely = _flat(start if start[0, 6] < 0 else np.tile(START, (len(drawn), 1))) / scale
    first = _flat(start) / scale
    free = len(first) - held

    def unfold(z: np.ndarray) -> np.ndarray:
        x = np.concatenate([z, np.broadcast_to(first[free:], (len(z), len(first) - free))], axis=1) * scale
        stroke = np.broadcast_to(x[:, None, -1:], (len(z), len(drawn), 1))
        return np.concatenate([x[:, :-1].reshape(len(z), -1, 6), stroke], axis=2)

    def residuals(z: np.ndarray) -> np.ndarray:
        x = unfold(z)
        edges = [edge_errors(part.boxes(x[:, i]), part.seen) for i, part in enumerate(drawn)]
        return np.concatenate([*edges, z - likely[:free]], axis=1)

    return unfold(robust_fit(residuals, first[:free]).x[None])[0]


def _flat(x: np.ndarray) -> np.ndarray:
    """Return the parameters (S, 7) of S sensors as (6 S + 1,): poses, then the common stroke."""
    return np.append(x[:, :6].ravel(), x[0, 6])


LIKELY = 0.8
"""Median IoU above which `other_cause` also lists causes other than the most likely one."""


def _sight(drawn: Drawn) -> Sight:
    return Sight(drawn.frames.lenses, drawn.frames.which, drawn.poses(START), drawn.touch.body, drawn.seen)


def _moved_camera(sight: Sight, mounted: RigCamera) -> tuple[float, str]:
    """Return the IoU that a shift of the camera alone reaches, and the shift as text."""
    shift = camera_shift(sight)
    where = ", ".join(f"{v * 1e3:+z.0f}" for v in mounted.T_parent_this[:3, :3] @ shift.value)
    return shift.iou, f"({where}) mm along the axes of {mounted.parent}"


def other_explanation(drawn: Drawn, mounted: RigCamera) -> Check:
    """Return the line with the shift of the camera that would explain the boxes in place of the sensor's.

    One camera alone cannot tell the two apart, so a fit that passes is not yet proof of the sensor's pose.
    """
    iou, where = _moved_camera(_sight(drawn), mounted)
    text = f"one camera: a camera moved by {where} also gives IoU {iou:.3f}; boxes in a second camera decide"
    return Check(f"other-cause/{drawn.sensor}", f"Other cause of the boxes of {drawn.sensor}", "info", text, iou)


def other_cause(drawn: Drawn, camera: str, mounted: RigCamera) -> str:
    """Return a sentence on which changes of the camera alone would explain the boxes of a sensor.

    The sensor's pose and the gripper's stroke stay as in the rig. Each change is fitted separately; the most likely
    comes first.
    """
    sight = _sight(drawn)
    (moved_iou, where), turn, zoom = _moved_camera(sight, mounted), camera_turn(sight), focal_length(sight)
    about = ", ".join(f"{np.degrees(v):+z.1f}" for v in turn.value)
    causes = [
        (moved_iou, f"move it by {where}"),
        (turn.iou, f"turn it by ({about}) deg about its own axes"),
        (zoom.iou, f"multiply its focal length by {zoom.value[0]:.2f}"),
    ]
    causes.sort(key=lambda cause: -cause[0])
    named = [f"{text} (IoU {iou:.2f})" for iou, text in causes if iou >= min(LIKELY, causes[0][0])]
    return (
        f"Boxes in {camera} alone cannot tell a moved camera from a moved sensor. If the sensor is mounted as drawn, "
        f"cameras.{camera} is wrong. To explain the boxes, {', or '.join(named)}. Calibrate the camera again."
    )
