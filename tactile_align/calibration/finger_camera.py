"""What else explains boxes of a sensor: the camera stands elsewhere, or its focal length is another."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares

from tactile_align.calibration.finger_boxes import BOX_PX, LOST, START, boxes_of, iou_of
from tactile_align.calibration.finger_frames import FingerFrames
from tactile_align.calibration.rig import Sensor


@dataclass(frozen=True)
class OtherCause:
    """Two causes with the sensor and the stroke as the rig has them, each fitted alone.

    Attributes:
        shift_m: (3,) by how much the camera stands elsewhere, in its parent's axes, m.
        shift_iou: Median IoU with that.
        focal: Factor on the focal length.
        focal_iou: Median IoU with that.
    """

    shift_m: np.ndarray
    shift_iou: float
    focal: float
    focal_iou: float

    def text(self, camera: str, parent: str) -> str:
        """Say it, the likelier cause first."""
        where = ", ".join(f"{v * 1e3:+.0f}" for v in self.shift_m)
        place = f"its place ({where}) mm from where the rig has it in {parent} (IoU {self.shift_iou:.2f})"
        lens = f"its K, focal length x {self.focal:.2f} (IoU {self.focal_iou:.2f})"
        first, second = (lens, place) if self.focal_iou > self.shift_iou else (place, lens)
        return (
            f"Boxes of {camera} alone cannot tell a moved camera from a moved sensor. If the sensor is mounted as "
            f"drawn, it is cameras.{camera}: {first}, or {second}. Then calibrate it: hand-eye, intrinsics."
        )


def other_cause(frames: FingerFrames, touch: Sensor, seen: np.ndarray, R_parent_camera: np.ndarray) -> OtherCause:
    """Fit the camera's place (3 numbers), and its focal length (one), to boxes (N, 4), px."""

    def shifted(y: np.ndarray) -> FingerFrames:
        T = frames.T_camera_flange.copy()
        T[:, :3, 3] -= R_parent_camera.T @ y
        return replace(frames, T_camera_flange=T)

    def zoomed(y: np.ndarray) -> FingerFrames:
        f = np.exp(y[0])
        scale = np.array([[f, f, 1], [f, f, 1], [1, 1, 1]])
        return replace(frames, lenses=tuple(replace(lens, K=lens.K * scale) for lens in frames.lenses))

    y, place = _fitted(shifted, 3, touch, seen, 0.03)
    z, zoom = _fitted(zoomed, 1, touch, seen, 0.3)
    return OtherCause(y, place, float(np.exp(z[0])), zoom)


def _fitted(
    changed: Callable[[np.ndarray], FingerFrames], count: int, touch: Sensor, seen: np.ndarray, scale: float
) -> tuple[np.ndarray, float]:
    """Return the numbers of a change and the median IoU with it; `scale` is a weak prior, so that none runs off."""

    def residual(z: np.ndarray) -> np.ndarray:
        off = (boxes_of(changed(z * scale), touch, START) - seen) / BOX_PX
        return np.concatenate([np.where(np.isfinite(off), off, LOST).ravel(), z])

    z = np.asarray(least_squares(residual, np.zeros(count), loss="soft_l1", diff_step=[1e-4], max_nfev=40).x)
    return z * scale, float(np.median(iou_of(changed(z * scale), touch, seen, START)))
