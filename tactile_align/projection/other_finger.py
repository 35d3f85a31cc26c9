"""Where the other finger of the same gripper is seen: a region that looks alike and feels nothing of this touch."""

import numpy as np

from tactile_align.calibration.rig import Rig, Sensor
from tactile_align.calibration.rig_parts import Solid
from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array, quaternion_from_rotation
from tactile_align.projection.sensor_box import SensorBoxes, sensor_boxes

OTHER = {"finger1": "finger2", "finger2": "finger1"}
FLIP = np.diag([1.0, -1.0, 1.0])


def other_finger(rig: Rig, sensor: str) -> Sensor:
    """Return what sits on the other finger: the rig's sensor there, else this sensor's mirror image.

    finger2 mirrors finger1 in the plane through the flange's origin that is square to the gripper's axis, so a finger
    without a sensor is taken to look like the other one.

    Raises:
        InputError: The sensor does not sit on a finger.
    """
    own = rig.sensor(sensor)
    arm, _, node = own.parent.partition("/")
    if node not in OTHER:
        raise InputError(
            f"sensor '{sensor}' of rig {rig.name} hangs on '{own.parent}', which has no other finger. Needed: "
            f"ARM/finger1 or ARM/finger2; otherwise set hsa.finger_negative = false"
        )
    there = f"{arm}/{OTHER[node]}"
    for one in rig.sensors.values():
        if one.parent == there:
            return one
    axis = np.asarray(rig.gripper(arm).law.axis)
    mirror = np.eye(3) - 2 * np.outer(axis, axis)
    T = own.T_parent_this
    # A mirrored box is a box again: flipping one of its own axes too makes the mirror image a rotation.
    quat = quaternion_from_rotation(mirror @ T[:3, :3] @ FLIP)

    def flipped(solid: Solid) -> Solid:
        return Solid(center_m=tuple(FLIP @ solid.center_m), size_m=solid.size_m)

    update = {
        "parent": there,
        "translation_m": tuple((mirror @ T[:3, 3]).tolist()),
        "quat_wxyz": tuple(quat.tolist()),
        "body": tuple(flipped(solid).model_dump() for solid in own.body),
        "pad": own.pad.model_copy(
            update={"center_m": tuple(FLIP @ own.pad.center_m), "normal": tuple(FLIP @ own.pad.normal)}
        ).model_dump(),
    }
    return own.model_copy(update=update)


def other_finger_boxes(rig: Rig, camera: str, sensor: str, qpos: Array, opening: Array | None = None) -> SensorBoxes:
    """Return the boxes of what sits on the other finger than a sensor; arguments and errors as `sensor_boxes`."""
    both = rig.with_sensor(sensor, other_finger(rig, sensor))
    return sensor_boxes(both, camera, sensor, qpos, opening)
