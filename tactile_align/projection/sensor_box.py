"""Where a touch sensor lies in an image: its box, how much of it is inside, or why there is none."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from array_api_compat import array_namespace

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.mount import Solid
from tactile_align.calibration.rig import Rig
from tactile_align.geometry import boxes
from tactile_align.geometry.frames import Array, apply

REASONS = ("", "behind", "outside", "too small", "beyond lens model")
Z_NEAR_M = 0.005
"""Solids are cut at this depth before projecting, so that no point behind the camera ever gets a pixel."""
SAMPLES_PER_EDGE = 17
EDGES = tuple((i, i | 1 << axis) for axis in range(3) for i in range(8) if not i >> axis & 1)
"""The 12 edges of a box between corners whose indices differ in one sign bit."""


@dataclass(frozen=True)
class SensorBoxes:
    """Boxes of one sensor in one camera's stored images.

    Attributes:
        box: (..., 4) clipped to the image, px; nan where there is none.
        raw: (..., 4) before clipping; nan where nothing projects.
        visible: (...) bool, whether `box` exists.
        inside: (...) share of the raw box inside the image, 0..1 (says nothing about occlusion).
        reason: (...) uint8 index into REASONS; 0 where visible.
    """

    box: Array
    raw: Array
    visible: Array
    inside: Array
    reason: Array

    def reason_text(self) -> np.ndarray:
        """Return the reasons as an array of strings, '' where there is a box."""
        return np.asarray(REASONS, dtype=object)[np.asarray(self.reason)]


def sensor_boxes(
    rig: Rig,
    camera: str,
    sensor: str,
    qpos: Array,
    opening: Array | None = None,
    solid: Literal["body", "pad"] = "body",
    min_side_px: float = 4,
) -> SensorBoxes:
    """Project a sensor into a camera's stored images.

    Args:
        rig: The rig.
        camera: Name of a camera of the rig.
        sensor: Name of a sensor of the rig.
        qpos: (..., D) RAW state as recorded.
        opening: (..., 2) metres per finger, when known better than by the gripper reading.
        solid: The sensor's whole body, or its touching pad alone.
        min_side_px: A clipped box with a shorter side is "too small".

    Returns:
        The boxes; their batch axes are those of `qpos`.

    Raises:
        ValueError: Unknown names; joints or gripper reading out of range.
    """
    touch = rig.sensor(sensor)
    T_camera_sensor = rig.T_camera_sensor(camera, sensor, qpos, opening)
    solids = touch.body if solid == "body" else (touch.pad,)
    return project_solids(rig.camera(camera).stored, T_camera_sensor, solids, min_side_px)


def project_solids(
    camera: Camera, T_camera_sensor: Array, solids: tuple[Solid, ...], min_side_px: float = 4
) -> SensorBoxes:
    """Project boxes given in the sensor frame; see `sensor_boxes`.

    The edges are cut at Z_NEAR_M in 3D, then sampled (a lens bends them), then projected: a
    convex body's outline is made of its edges, so their bounds are the body's.
    """
    xp = array_namespace(T_camera_sensor)
    corners = np.concatenate([one.corners for one in solids])
    corners = xp.asarray(corners, dtype=T_camera_sensor.dtype, device=T_camera_sensor.device)
    p = apply(T_camera_sensor[..., None, :, :], corners)
    start = [8 * k + a for k in range(len(solids)) for a, _ in EDGES]
    end = [8 * k + b for k in range(len(solids)) for _, b in EDGES]
    p, in_front = _cut_and_sample(
        p[..., start, :], p[..., end, :], 2 if camera.model == "pinhole" else SAMPLES_PER_EDGE
    )
    uv, valid = camera.project(p)
    valid = valid & in_front
    raw = boxes.of_points(uv, valid)
    clipped = boxes.clip_to_image(raw, camera.width, camera.height)
    behind = ~xp.any(in_front, axis=-1)
    beyond = ~xp.any(valid, axis=-1) & ~behind
    outside = xp.isnan(clipped[..., 0]) & ~behind & ~beyond
    side = xp.minimum(clipped[..., 2] - clipped[..., 0], clipped[..., 3] - clipped[..., 1])
    small = side < min_side_px
    reason = xp.zeros(behind.shape, dtype=xp.uint8, device=p.device)
    for index, which in ((1, behind), (2, outside), (3, small), (4, beyond)):
        reason = xp.where(which, xp.full_like(reason, index), reason)
    visible = reason == 0
    share = boxes.area(clipped) / boxes.area(raw)
    return SensorBoxes(
        box=xp.where(visible[..., None], clipped, xp.full_like(clipped, float("nan"))),
        raw=raw,
        visible=visible,
        inside=xp.where(xp.isnan(share), xp.zeros_like(share), share),
        reason=reason,
    )


def _cut_and_sample(a: Array, b: Array, samples: int) -> tuple[Array, Array]:
    """Cut edges a-b (..., E, 3) at z >= Z_NEAR_M and sample what is left.

    Returns:
        points (..., E * samples, 3) and whether each lies on a part in front of the cut.
    """
    xp = array_namespace(a)
    za, zb = a[..., 2], b[..., 2]
    front_a, front_b = za >= Z_NEAR_M, zb >= Z_NEAR_M
    crossing = front_a ^ front_b
    span = xp.where(crossing, zb - za, xp.ones_like(za))
    cut = xp.where(crossing, (Z_NEAR_M - za) / span, xp.zeros_like(za))
    first = xp.where(front_a, xp.zeros_like(cut), cut)
    last = xp.where(front_b, xp.ones_like(cut), cut)
    steps = xp.linspace(0, 1, samples, dtype=a.dtype, device=a.device)
    t = first[..., None] + (last - first)[..., None] * steps
    p = a[..., None, :] + t[..., None] * (b - a)[..., None, :]
    keep = xp.broadcast_to((front_a | front_b)[..., None], t.shape)
    return xp.reshape(p, (*a.shape[:-2], -1, 3)), xp.reshape(keep, (*a.shape[:-2], -1))
