"""Where the refinement of hand-eye starts: several closed forms, a robust one, and the boards read alike."""

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.closed_form import kronecker, park, park_many
from tactile_align.calibration.joint_fit import Fit, Prior, joint_fit
from tactile_align.calibration.views import View, board_poses
from tactile_align.errors import InputError
from tactile_align.geometry.frames import apply, invert, rotation_log

NEAR = 2.0
"""A fit within this factor of what the views by themselves reach needs no other start: none can do much better."""


def read_alike(camera: Camera, B: np.ndarray, views: list[View], C: list[np.ndarray]) -> tuple[list[View], np.ndarray]:
    """Choose for each view the reading that agrees with the robot's turns; never from one image alone."""
    if not any(view.others for view in views):
        return views, np.stack(C)
    choices = []
    for view, first in zip(views, C, strict=True):
        more = [board_poses(camera, view.read_as(k + 1))[0].T_camera_board for k in range(len(view.others))]
        choices.append(np.stack([first, *more]))
    best, cost = np.zeros(len(views), int), np.inf
    for root in range(len(views)):
        picks, costs = np.zeros(len(views), int), []
        for i in range(len(views)):
            turn = np.linalg.norm(rotation_log((B[i] @ invert(B[root]))[:3, :3]))
            seen = choices[i] @ invert(choices[root][0])
            off = np.abs(np.linalg.norm(rotation_log(seen[:, :3, :3]), axis=-1) - turn)
            picks[i] = int(off.argmin()) if i != root else 0
            costs.append(off.min() if i != root else 0.0)
        if sum(costs) < cost:
            best, cost = picks, sum(costs)
    chosen = [view.read_as(int(k)) for view, k in zip(views, best, strict=True)]
    return chosen, np.stack([choice[k] for choice, k in zip(choices, best, strict=True)])


def best_fit(
    camera: Camera, B: np.ndarray, views: list[View], C: np.ndarray, reach: float, prior: Prior | None, seed: int
) -> tuple[Fit, dict[str, float], list[View]]:
    """Return the best fit over the starts, the RMS in px that each start tried reached, and the views as then read.

    Args:
        camera: The camera.
        B: (N, 4, 4) the robot's part of the chain.
        views: N views of the board.
        C: (N, 4, 4) T_camera_board of each view by itself.
        reach: RMS in px of the views by themselves.
        prior: Let each robot pose move by about this much.
        seed: Of the random subsets.

    Raises:
        InputError: The views never turn.
    """
    starts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    faults = []
    for name, method in (("park", park), ("kronecker", kronecker)):
        try:
            starts[name] = method(B, C)
        except ValueError as error:
            faults.append(str(error))
    if len(views) >= 5:
        points = np.concatenate([view.points for view in views])
        half_board = np.ptp(points, axis=0)[:2].max() / 2
        marks = points.mean(0) + half_board * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]])
        handful = robust_start(B, C, marks, seed)
        if handful is not None:
            starts["random subsets"] = handful[1:]
    if not starts:
        raise InputError(faults[0])
    reached: dict[str, float] = {}
    best: Fit | None = None
    best_views = views
    for name, (X, Z) in starts.items():
        read = _read_again(camera, B, views, X, Z)
        fit = joint_fit(camera, B, read, X, Z, prior=prior)
        reached[name] = fit.rms
        if best is None or np.median(fit.per_view) * fit.rms < np.median(best.per_view) * best.rms:
            best, best_views = fit, read
        if best.rms < NEAR * reach:
            break
    if best is None:
        raise InputError(faults[0])
    read = _read_again(camera, B, best_views, best.X, best.Z)
    if any(a is not b for a, b in zip(read, best_views, strict=True)):
        best, best_views = joint_fit(camera, B, read, best.X, best.Z, prior=prior), read
    return best, reached, best_views


def _read_again(camera: Camera, B: np.ndarray, views: list[View], X: np.ndarray, Z: np.ndarray) -> list[View]:
    """Choose each view's reading again, now that camera and board are roughly known."""
    out = []
    for b, view in zip(B, views, strict=True):
        readings = [view.read_as(k) for k in range(len(view.others) + 1)]
        T = invert(X) @ b @ Z
        out.append(min(readings, key=lambda one: _median_off(camera, T, one)) if len(readings) > 1 else view)
    return out


def _median_off(camera: Camera, T: np.ndarray, view: View) -> float:
    uv, _ = camera.project(apply(T, view.points))
    off = np.linalg.norm(uv - view.uv, axis=-1)
    return float(np.median(np.where(np.isfinite(off), off, 1e6)))


def robust_start(
    B: np.ndarray, C: np.ndarray, marks: np.ndarray, seed: int = 0, trials: int = 60
) -> tuple[float, np.ndarray, np.ndarray] | None:
    """Return the start from a random handful of views that explains the median view best.

    Args:
        B: (N, 4, 4) the robot's part of the chain.
        C: (N, 4, 4) T_camera_board of each view by itself.
        marks: (M, 3) points on the board to compare at.
        seed: Of the random choice.
        trials: How many handfuls.

    Returns:
        How far the median view is missed (rad, times the focal length it is px), X and Z; None where no handful
        turns enough.
    """
    some = np.random.default_rng(seed).random((trials, len(B))).argsort(axis=1)[:, :4]
    X, Z, useful = park_many(B[some], C[some])
    seen = apply(C[:, None], marks)
    T = invert(X)[:, None] @ B @ Z[:, None]
    off = np.linalg.norm(apply(T[:, :, None], marks) - seen, axis=-1).max(-1)
    score = np.median(off / np.maximum(np.abs(seen[:, 0, 2]), 1e-6), axis=-1)
    score[useful < 2] = np.inf
    best = int(score.argmin())
    return (float(score[best]), X[best], Z[best]) if np.isfinite(score[best]) else None
