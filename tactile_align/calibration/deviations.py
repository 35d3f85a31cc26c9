"""How sure a camera's numbers are: standard deviations of K and the lens coefficients, for every lens model."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.views import BoardPose, View, slopes
from tactile_align.geometry.frames import apply, skew

NAMES = ("fx", "fy", "cx", "cy", "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
FISHEYE_NAMES = ("fx", "fy", "cx", "cy", "k1", "k2", "k3", "k4")
ENTRIES = ((0, 0), (1, 1), (0, 2), (1, 2))
"""Where fx, fy, cx, cy stand in K."""


def deviations(camera: Camera, views: Sequence[View], poses: Sequence[BoardPose]) -> dict[str, float]:
    """Return the standard deviation of each number of a camera that was fitted to views, by name.

    From the residuals' second derivatives, with the views' poses (fitted beside the camera) eliminated; residuals
    are taken as independent, as OpenCV does. Where views do not fix a number, it is nan.

    Args:
        camera: The camera.
        views: The views it was fitted to.
        poses: Where the board is in each.
    """
    n = 4 + len(camera.distortion)
    normal, squares, count = np.zeros((n, n)), 0.0, 0
    for view, placed in zip(views, poses, strict=True):
        T = placed.T_camera_board
        p = apply(T, view.points)
        uv, J = slopes(camera, p)
        turn = -T[:3, :3] @ skew(view.points)
        own = (J @ np.concatenate([np.broadcast_to(np.eye(3), turn.shape), turn], axis=-1)).reshape(-1, 6)
        shared = _by_number(camera, p).reshape(-1, n)
        cross = shared.T @ own
        normal += shared.T @ shared - cross @ np.linalg.pinv(own.T @ own) @ cross.T
        squares += float(np.nansum((uv - view.uv) ** 2))
        count += 2 * len(p) - 6
    try:
        variance = np.diag(np.linalg.inv(normal)) * squares / max(count - n, 1)
    except np.linalg.LinAlgError:
        variance = np.full(n, np.nan)
    sigma = np.sqrt(np.where(variance >= 0, variance, np.nan))
    names = FISHEYE_NAMES if camera.model == "fisheye" else NAMES
    return {name: float(value) for name, value in zip(names, sigma, strict=False)}


def _by_number(camera: Camera, p: np.ndarray) -> np.ndarray:
    """Return d pixel / d (fx, fy, cx, cy, coefficients), (N, 2, n), by central differences."""
    numbers = np.array([camera.K[entry] for entry in ENTRIES] + list(camera.distortion))
    steps = np.concatenate([np.full(4, 1e-3), np.full(len(camera.distortion), 1e-5)])
    columns = []
    for i, step in enumerate(steps):
        ends = []
        for sign in (1, -1):
            moved = numbers.copy()
            moved[i] += sign * step
            K = camera.K.copy()
            for entry, value in zip(ENTRIES, moved, strict=False):
                K[entry] = value
            ends.append(replace(camera, K=K, distortion=tuple(moved[4:].tolist()), valid_radius=None).pixels(p))
        columns.append((ends[0] - ends[1]) / (2 * step))
    return np.stack(columns, axis=-1)
