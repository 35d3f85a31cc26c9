"""How sure a joint fit is, from leaving out one view at a time: points of one view err together, views do not."""

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.joint_fit import Fit
from tactile_align.calibration.views import View, rms
from tactile_align.geometry.frames import invert, pose, rotation_exp


def leave_out(fit: Fit) -> np.ndarray:
    """Return (N, n) how the numbers change when one view is left out: one Gauss-Newton step from the full fit.

    Close to the optimum the step is exact up to second order; refitting N times gives the same sigma to 2 %.
    """
    H, g = fit.H.sum(0), fit.g.sum(0)
    rest, slope = H - fit.H, g - fit.g
    damping = 1e-9 * np.trace(H) / len(H) * np.eye(len(H))
    return np.linalg.solve(rest + damping, -slope[..., None])[..., 0]


def jackknife(changes: np.ndarray) -> np.ndarray:
    """Return the covariance (n, n) of n numbers from how they change, (N, n), when one of N views is left out."""
    count = len(changes)
    centred = changes - changes.mean(0)
    return np.asarray((count - 1) / count * centred.T @ centred)


def left_out_rms(camera: Camera, views: list[View], fit: Fit, step: np.ndarray) -> np.ndarray:
    """Return (N,) RMS in px of each view under the fit of all others, its own robot correction kept.

    Args:
        camera: The camera.
        views: The N views fitted.
        fit: The fit of all.
        step: (N, n) what `leave_out` returned.
    """
    out = np.empty(len(views))
    for i, view in enumerate(views):
        X = pose(fit.X[:3, :3] @ rotation_exp(step[i, 3:6]), fit.X[:3, 3] + step[i, :3])
        Z = pose(fit.Z[:3, :3] @ rotation_exp(step[i, 9:12]), fit.Z[:3, 3] + step[i, 6:9])
        out[i] = rms(camera, invert(X) @ fit.B[i] @ Z, view)
    return out
