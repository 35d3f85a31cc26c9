"""Box of a touch sensor in an image, the share of it inside the image, and the reason if no box exists."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from array_api_compat import array_namespace

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import Rig
from tactile_align.calibration.rig_parts import Solid
from tactile_align.config.data import MOST_AHEAD_M
from tactile_align.errors import InputError
from tactile_align.geometry import boxes
from tactile_align.geometry.frames import Array, pose
from tactile_align.projection.outline import solid_outline

REASONS = ("", "behind", "outside", "too small", "beyond lens model")


@dataclass(frozen=True)
class SensorBoxes:
    """Boxes of one sensor in one camera's stored images.

    Attributes:
        box: (..., 4) boxes clipped to the image, px; nan where no box exists.
        raw: (..., 4) boxes before clipping, px; nan where no part of the sensor has a pixel.
        visible: (...) bool, whether `box` exists.
        inside: (...) share of the area of `raw` that lies inside the image, 0..1; occlusion is ignored.
        reason: (...) uint8 index into REASONS; 0 where visible.
    """

    box: Array
    raw: Array
    visible: Array
    inside: Array
    reason: Array

    def reason_text(self) -> np.ndarray:
        """Return the texts in REASONS that state why each box does not exist, shape (...); '' for a box that exists."""
        return np.asarray(REASONS, dtype=object)[np.asarray(self.reason)]


def sensor_boxes(
    rig: Rig,
    camera: str,
    sensor: str,
    qpos: Array,
    opening: Array | None = None,
    solid: Literal["body", "pad"] = "body",
    min_side_px: float = 4,
    ahead_m: float = 0.0,
) -> SensorBoxes:
    """Return the boxes of a sensor in a camera's stored images.

    Args:
        rig: The rig.
        camera: Name of a camera of the rig.
        sensor: Name of a sensor of the rig.
        qpos: (..., D) RAW state as recorded: joint and gripper readings, D numbers.
        opening: (..., 2) distance of each finger from the tool axis, metres; None: computed from the gripper
            reading.
        solid: "body": the whole sensor. "pad": only its touching face.
        min_side_px: Least width and height of a clipped box, px; smaller boxes get the reason "too small".
        ahead_m: Shift of the solid along the pad's normal, metres. The shifted box covers the touched object instead
            of the sensor.

    Returns:
        The boxes; their batch axes are those of `qpos`.

    Raises:
        InputError: A name is unknown, or joints, gripper reading or `ahead_m` are out of range.
    """
    touch = rig.sensor(sensor)
    T_camera_sensor = rig.T_camera_sensor(camera, sensor, qpos, opening)
    if not 0.0 <= ahead_m < MOST_AHEAD_M:
        text = f"ahead_m must be at least 0 m and less than {MOST_AHEAD_M} m; got {ahead_m}"
        raise InputError(f"{text}. Choose a distance in this range, in metres")
    if ahead_m:
        xp, like = array_namespace(T_camera_sensor), T_camera_sensor
        moved = pose(np.eye(3), ahead_m * np.asarray(touch.pad.normal))
        T_camera_sensor = T_camera_sensor @ xp.asarray(moved, dtype=like.dtype, device=like.device)
    solids = touch.body if solid == "body" else (touch.pad,)
    return project_solids(rig.camera(camera).stored, T_camera_sensor, solids, min_side_px)


def project_solids(
    camera: Camera, T_camera_sensor: Array, solids: tuple[Solid, ...], min_side_px: float = 4
) -> SensorBoxes:
    """Return the boxes that enclose the images of all solids of a sensor, one box for each pose of the sensor.

    Args:
        camera: The camera of the stored images.
        T_camera_sensor: (..., 4, 4) poses of the sensor in the camera frame, metres.
        solids: Solid boxes in the sensor frame, at least one.
        min_side_px: Least width and height of a clipped box, px; smaller boxes get the reason "too small".

    Returns:
        The boxes; their batch axes are those of `T_camera_sensor`.
    """
    xp = array_namespace(T_camera_sensor)
    raw, front = solid_outline(camera, T_camera_sensor, solids[0])
    for solid in solids[1:]:
        other, other_front = solid_outline(camera, T_camera_sensor, solid)
        raw, front = boxes.union(raw, other), front | other_front
    clipped = boxes.clip_to_image(raw, camera.width, camera.height)
    behind = ~front
    # A solid in front of the camera without a pixel lies entirely beyond the radius of the lens model.
    beyond = xp.isnan(raw[..., 0]) & front
    outside = xp.isnan(clipped[..., 0]) & ~behind & ~beyond
    side = xp.minimum(clipped[..., 2] - clipped[..., 0], clipped[..., 3] - clipped[..., 1])
    small = side < min_side_px  # False for nan, where no box exists
    reason = xp.zeros(behind.shape, dtype=xp.uint8, device=raw.device)
    for index, applies in ((1, behind), (2, outside), (3, small), (4, beyond)):
        reason = xp.where(applies, xp.full_like(reason, index), reason)
    visible = reason == 0
    share = boxes.area(clipped) / boxes.area(raw)
    return SensorBoxes(
        box=xp.where(visible[..., None], clipped, xp.full_like(clipped, float("nan"))),
        raw=raw,
        visible=visible,
        inside=xp.where(xp.isnan(share), xp.zeros_like(share), share),
        reason=reason,
    )
