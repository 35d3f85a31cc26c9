"""Boxes of the other finger of a sensor's gripper: a region that looks similar but does not show this touch."""

import numpy as np

from tactile_align.calibration.rig import Rig, Sensor
from tactile_align.calibration.rig_parts import Solid
from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array, quaternion_from_rotation
from tactile_align.projection.sensor_box import SensorBoxes, sensor_boxes

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
