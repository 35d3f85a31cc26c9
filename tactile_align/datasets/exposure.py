"""The joints at the moment a frame was exposed, where that is not the moment they were read."""

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.errors import InputError


def qpos_at_exposure(rig: Rig, camera: str, qpos: np.ndarray, fps: float | None) -> np.ndarray:
    """Return qpos when the frames of a camera were exposed, `delay_s` after their rows' joints were read.

    Joints are interpolated between rows. Nothing is known before the first row and after the last: frames exposed
    there get the nearest row's joints.

    Args:
        rig: The rig, which states the delay.
        camera: Name of the camera.
        qpos: (T, D) raw state of an episode.
        fps: Rows per second of the recording.

    Returns:
        (T, D); `qpos` itself for a camera without delay.

    Raises:
        InputError: A delay, but no rate to count it in rows.
    """
    delay = rig.camera(camera).delay_s
    if delay == 0.0:
        return qpos
    if fps is None:
        raise InputError(
            f"camera '{camera}' has delay_s = {delay}, which needs the recording's rate; "
            f"state fps in the layout file or in the episode's attributes"
        )
    rows = np.arange(len(qpos), dtype=np.float64)
    shifted = np.clip(rows + delay * fps, 0, len(qpos) - 1)
    return np.stack([np.interp(shifted, rows, column) for column in qpos.T], axis=-1)
