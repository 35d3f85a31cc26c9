"""Boxes of a touch sensor and of the gripper's other finger in an image, and the uncertainty of the sensor's pixel."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from array_api_compat import array_namespace

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import Rig, Sensor
from tactile_align.calibration.rig_parts import Solid
from tactile_align.config.data import MOST_AHEAD_M
from tactile_align.errors import InputError
from tactile_align.geometry import boxes
from tactile_align.geometry.frames import Array, pose, quaternion_from_rotation
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


OTHER = {"finger1": "finger2", "finger2": "finger1"}
FLIP = np.diag([1.0, -1.0, 1.0])


def other_finger(rig: Rig, sensor: str) -> Sensor:
    """Return the sensor on the other finger: the one in the rig or, if none exists, this sensor's mirror image.

    finger2 is the mirror image of finger1 in the plane through the flange's origin that is perpendicular to the
    gripper's axis. A finger without a sensor is assumed to look like the other finger.

    Raises:
        InputError: The sensor is not on a finger.
    """
    original = rig.sensor(sensor)
    arm, _, node = original.parent.partition("/")
    if node not in OTHER:
        text = f"sensor '{sensor}' of rig {rig.name} is on '{original.parent}', which is not a finger"
        raise InputError(f"{text}. Set its parent to ARM/finger1 or ARM/finger2, or set hsa.finger_negative = false")
    there = f"{arm}/{OTHER[node]}"
    for other in rig.sensors.values():
        if other.parent == there:
            return other
    axis = np.asarray(rig.gripper(arm).law.axis)
    mirror = np.eye(3) - 2 * np.outer(axis, axis)
    T = original.T_parent_this
    # A mirrored box is still a box: flipping one of its own axes as well turns the mirroring into a rotation.
    quat = quaternion_from_rotation(mirror @ T[:3, :3] @ FLIP)

    def flipped(solid: Solid) -> Solid:
        return Solid(center_m=tuple(FLIP @ solid.center_m), size_m=solid.size_m)

    update = {
        "parent": there,
        "translation_m": tuple((mirror @ T[:3, 3]).tolist()),
        "quat_wxyz": tuple(quat.tolist()),
        "body": tuple(flipped(solid).model_dump() for solid in original.body),
        "pad": original.pad.model_copy(
            update={"center_m": tuple(FLIP @ original.pad.center_m), "normal": tuple(FLIP @ original.pad.normal)}
        ).model_dump(),
    }
    return original.model_copy(update=update)


def other_finger_boxes(rig: Rig, camera: str, sensor: str, qpos: Array, opening: Array | None = None) -> SensorBoxes:
    """Return the boxes of the sensor that `other_finger` gives; arguments and errors as for `sensor_boxes`."""
    both = rig.with_sensor(sensor, other_finger(rig, sensor))
    return sensor_boxes(both, camera, sensor, qpos, opening)


STEP_M = 1e-6


def pixel_sigma(
    rig: Rig, camera: str, sensor: str, qpos: np.ndarray, opening: np.ndarray | None = None, ahead_m: float = 0.0
) -> np.ndarray:
    """Return the standard deviations along u and v of the pixel of a sensor's pad centre.

    The 6x6 covariance of the camera's pose, which hand-eye calibration writes into the rig file, is propagated to the
    image to first order. To use the result as `sigma_px` of the Gaussian pooling of image features, multiply it by
    the width of the encoder's input divided by the width of the stored image.

    Args:
        rig: The rig.
        camera: Name of the camera whose pose is uncertain.
        sensor: Name of the sensor.
        qpos: (N, D) raw state of N frames: joint and gripper readings, D numbers.
        opening: (N, 2) distance of each finger from the tool axis, m; None: computed from the gripper reading.
        ahead_m: Distance of the point in front of the pad's centre, along the pad's normal, metres.

    Returns:
        (N, 2) px of the stored image; nan where the point has no pixel.

    Raises:
        InputError: The rig has no covariance for the camera.
    """
    entry = rig.camera(camera)
    if entry.covariance is None:
        text = f"camera '{camera}' of rig {rig.name} has no pose covariance, so its uncertainty is unknown"
        raise InputError(f"{text}. Write the result of `calibrate hand-eye` into the rig, or set sigma_px yourself")
    covariance = np.asarray(entry.covariance, dtype=np.float64)
    T = rig.T_camera_sensor(camera, sensor, qpos, opening)
    pad = rig.sensor(sensor).pad
    p = T[..., :3, :3] @ (np.asarray(pad.center_m) + ahead_m * np.asarray(pad.normal)) + T[..., :3, 3]
    axes = np.eye(3)
    # A shift d of the camera in its parent's axes moves the point by -R^T d; a right rotation w moves it by p x w.
    shift = np.broadcast_to(-entry.T_parent_this[:3, :3].T, (*p.shape[:-1], 3, 3))
    turn = np.cross(p[..., None, :], axes).swapaxes(-1, -2)
    of_pose = np.concatenate([shift, turn], axis=-1)
    ahead, behind = (entry.stored.project(p[..., None, :] + sign * STEP_M * axes)[0] for sign in (1.0, -1.0))
    of_point = ((ahead - behind) / (2 * STEP_M)).swapaxes(-1, -2)
    J = of_point @ of_pose
    return np.asarray(np.sqrt(np.einsum("...ij,jk,...ik->...i", J, covariance, J)))
