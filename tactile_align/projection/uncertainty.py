"""Uncertainty of a sensor's pixel position in an image, from the covariance of the camera's pose."""

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.errors import InputError

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
