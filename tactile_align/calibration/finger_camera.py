"""What else explains boxes of a sensor: the camera stands elsewhere, is turned, or its focal length is another."""

import numpy as np

from tactile_align.calibration.box_causes import Sight, camera_shift, camera_turn, focal_length
from tactile_align.calibration.finger_boxes import START, poses_of
from tactile_align.calibration.finger_frames import FingerFrames
from tactile_align.calibration.rig import RigCamera, Sensor

LIKELY = 0.8
"""A second cause is only named when the median IoU reaches this with it."""


def other_cause(frames: FingerFrames, touch: Sensor, seen: np.ndarray, camera: str, mounted: RigCamera) -> str:
    """Say what of the camera would explain boxes (N, 4), px, with sensor and stroke as the rig has them.

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
    causes.sort(key=lambda one: -one[0])
    named = [f"{text} (IoU {iou:.2f})" for iou, text in causes if iou >= min(LIKELY, causes[0][0])]
    return (
        f"Boxes of {camera} alone cannot tell a moved camera from a moved sensor. If the sensor is mounted as "
        f"drawn, it is cameras.{camera}: {', or '.join(named)}. Then calibrate it: hand-eye, intrinsics."
    )
