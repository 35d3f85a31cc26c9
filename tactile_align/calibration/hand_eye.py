"""Hand-eye calibration: T_parent_camera and its uncertainty from views of a board and the robot's poses.

Two set-ups share one form. Camera on a moving link, fixed board: T_camera_board = X^-1 T_base_link^-1 Z with
X = T_link_camera and Z = T_base_board. Fixed camera, board on a moving link: T_camera_board = X^-1 T_base_link Z with
X = T_base_camera and Z = T_link_board.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import numpy as np

from tactile_align.calibration.bundle_adjustment import Fit, Prior, jackknife, joint_fit, leave_out, left_out_rms
from tactile_align.calibration.camera import Camera
from tactile_align.calibration.closed_form import kronecker, park, park_many
from tactile_align.calibration.views import BoardPose, View, board_poses, slopes
from tactile_align.errors import InputError
from tactile_align.geometry.frames import apply, invert, rotation_log, skew

NEAR = 2.0
"""Further initialisations are skipped if the fit's RMS is below this factor times the RMS of the single-view poses."""


def read_alike(camera: Camera, B: np.ndarray, views: list[View], C: list[np.ndarray]) -> tuple[list[View], np.ndarray]:
    """Return each view in the board orientation that fits the robot's rotations, and the board poses (N, 4, 4), m.

    B (N, 4, 4) is the robot's part of the chain, see `chain`; C contains T_camera_board, estimated from each view
    alone. A symmetric board looks the same in several orientations, so one image alone cannot decide between them.
    """
    if not any(view.others for view in views):
        return views, np.stack(C)
    choices = []
    for view, first in zip(views, C, strict=True):
        more = [board_poses(camera, view.read_as(k + 1))[0].T_camera_board for k in range(len(view.others))]
        choices.append(np.stack([first, *more]))
    trials = []
    for root in range(len(views)):
        offs = []
        for b, choice in zip(B, choices, strict=True):
            turn = np.linalg.norm(rotation_log((b @ invert(B[root]))[:3, :3]))
            relative = choice @ invert(choices[root][0])
            offs.append(np.abs(np.linalg.norm(rotation_log(relative[:, :3, :3]), axis=-1) - turn))
        offs[root] = np.zeros(1)
        trials.append((sum(off.min() for off in offs), [int(off.argmin()) for off in offs]))
    _, picks = min(trials, key=lambda trial: trial[0])
    chosen = [view.read_as(k) for view, k in zip(views, picks, strict=True)]
    return chosen, np.stack([choice[k] for choice, k in zip(choices, picks, strict=True)])


def best_fit(
    camera: Camera, B: np.ndarray, views: list[View], C: np.ndarray, reach: float, prior: Prior | None, seed: int
) -> tuple[Fit, dict[str, float], list[View]]:
    """Return the best of the fits that start from several initialisations.

    The second value is the RMS in px that each initialisation reached, by its name. The third value is the views, with
    the points of a symmetric board numbered as in the best fit.

    Args:
        camera: The camera.
        B: (N, 4, 4) the robot's part of the chain, as `chain` returns it.
        views: N views of the board.
        C: (N, 4, 4) T_camera_board, estimated from each view alone, m.
        reach: RMS in px of the views under the poses C.
        prior: Standard deviation of each robot pose; None: the robot poses are exact.
        seed: Seed of the random subsets of views, from which one initialisation is computed.
    """
    starts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    with suppress(InputError):  # views that rotate little; the other closed form needs no pairs
        starts["park"] = park(B, C)
    starts["kronecker"] = kronecker(B, C)
    if len(views) >= 5:
        points = np.concatenate([view.points for view in views])
        half_board = np.ptp(points, axis=0)[:2].max() / 2
        marks = points.mean(0) + half_board * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]])
        if (handful := robust_start(B, C, marks, seed)) is not None:
            starts["random subsets"] = handful[1:]
    reached: dict[str, float] = {}
    fits: list[tuple[Fit, list[View]]] = []
    for name, (X, Z) in starts.items():
        read = _read_again(camera, B, views, X, Z)
        fit = joint_fit(camera, B, read, X, Z, prior=prior)
        reached[name] = fit.rms
        fits.append((fit, read))
        best, best_views = min(fits, key=lambda pair: np.median(pair[0].per_view) * pair[0].rms)
        if best.rms < NEAR * reach:
            break
    read = _read_again(camera, B, best_views, best.X, best.Z)
    if any(a is not b for a, b in zip(read, best_views, strict=True)):
        best, best_views = joint_fit(camera, B, read, best.X, best.Z, prior=prior), read
    return best, reached, best_views


def _read_again(camera: Camera, B: np.ndarray, views: list[View], X: np.ndarray, Z: np.ndarray) -> list[View]:
    """Return the views with the board orientations that best fit the rough poses X and Z."""
    out = []
    for b, view in zip(B, views, strict=True):
        readings = [view.read_as(k) for k in range(len(view.others) + 1)]
        T = invert(X) @ b @ Z
        out.append(min(readings, key=lambda reading: _median_off(camera, T, reading)) if len(readings) > 1 else view)
    return out


def _median_off(camera: Camera, T: np.ndarray, view: View) -> float:
    uv, _ = camera.project(apply(T, view.points))
    off = np.linalg.norm(uv - view.uv, axis=-1)
    return float(np.median(np.where(np.isfinite(off), off, 1e6)))


def robust_start(
    B: np.ndarray, C: np.ndarray, marks: np.ndarray, seed: int = 0, trials: int = 60
) -> tuple[float, np.ndarray, np.ndarray] | None:
    """Return the poses X and Z, from random subsets of four views, that fit the median view best.

    They are an initialisation that a few bad views do not affect. X is the camera's pose, Z the board's, see `chain`.

    Args:
        B: (N, 4, 4) the robot's part of the chain, as `chain` returns it.
        C: (N, 4, 4) T_camera_board, estimated from each view alone, m.
        marks: (M, 3) points on the board at which poses are compared, m.
        seed: Seed of the random choice.
        trials: Number of subsets.

    Returns:
        Error of the median view (rad; multiply by the focal length for px), X and Z, both (4, 4), m. None: the
        views of no subset differ enough in rotation.
    """
    some = np.random.default_rng(seed).random((trials, len(B))).argsort(axis=1)[:, :4]
    X, Z, useful = park_many(B[some], C[some])
    p = apply(C[:, None], marks)
    T = invert(X)[:, None] @ B @ Z[:, None]
    off = np.linalg.norm(apply(T[:, :, None], marks) - p, axis=-1).max(-1)
    score = np.median(off / np.maximum(np.abs(p[:, 0, 2]), 1e-6), axis=-1)
    score[useful < 2] = np.inf
    best = int(score.argmin())
    return (float(score[best]), X[best], Z[best]) if np.isfinite(score[best]) else None


Mounted = Literal["moving", "fixed"]
MIN_VIEWS = 3
OUTLIER_PX, OUTLIER_FACTOR = 3.0, 5.0
"""A view is an outlier when its RMS exceeds both 3 px and 5 times the RMS of the median view."""


@dataclass(frozen=True)
class Spread:
    """Range of the camera's motion relative to the board.

    Attributes:
        turn: Largest relative rotation between two views, rad.
        axes: Smallest eigenvalue of the mean of a a^T over the unit axes a of the relative rotations. 0: all axes lie
            in one plane. 1/3: the axes point evenly in all directions.
        nearest: Smallest difference between two views; a difference is the rotation (rad) or the translation (m),
            whichever number is larger.
    """

    turn: float
    axes: float
    nearest: float


@dataclass(frozen=True)
class HandEye:
    """Calibrated camera pose and the statistics that show how good the calibration is.

    Attributes:
        mounted: "moving": the camera is on a link, X = T_link_camera. "fixed": it stands still, X = T_base_camera.
        X: (4, 4) pose of the camera, m.
        Z: (4, 4) pose of the board, m: T_base_board for a moving camera, T_link_board for a fixed camera.
        names: Names of the N views used.
        per_view: (N,) RMS reprojection error of each view under X and Z, px; every RMS below is of this error.
        pnp: (N,) RMS of each view under its own best pose, px: the limit set by camera and detection.
        left_out: (N,) RMS of each view under the fit of all other views, px.
        rms: RMS of all points, px.
        outliers: Names of views with a large RMS.
        dropped: Views that gave no pose: one text each, with the name and the reason.
        covariance: (6, 6) covariance of X: of its translation (m, axes of the parent frame) and of its rotation (w of
            R exp(w), rad), computed by leaving out one view at a time.
        scale: Factor on the board's lengths if that factor is fitted too; 1 for a board of the stated size.
        scale_sigma: Standard deviation of `scale`, computed by leaving out one view at a time.
        scaled_rms: RMS of all points if the scale is fitted too, px.
        spread: Range of the camera's motion relative to the board over the views.
        fit: Result of the bundle adjustment.
        poses: The board's pose in each view, from that view alone.
    """

    mounted: Mounted
    X: np.ndarray
    Z: np.ndarray
    names: tuple[str, ...]
    per_view: np.ndarray
    pnp: np.ndarray
    left_out: np.ndarray
    rms: float
    outliers: tuple[str, ...]
    dropped: tuple[str, ...]
    covariance: np.ndarray
    scale: float
    scale_sigma: float
    scaled_rms: float
    spread: Spread
    fit: Fit
    poses: tuple[BoardPose, ...]

    @property
    def sigma_t_m(self) -> np.ndarray:
        """(3,) standard deviations of the translation of X, m, along the axes of the parent frame."""
        return np.sqrt(np.diag(self.covariance)[:3])

    @property
    def sigma_r_rad(self) -> np.ndarray:
        """(3,) standard deviations of the rotation of X, rad, about the axes of the camera frame."""
        return np.sqrt(np.diag(self.covariance)[3:])

    @property
    def left_out_rms(self) -> float:
        """RMS over the values of `left_out`, px: one number for all views."""
        return float(np.sqrt(np.mean(self.left_out**2)))

    def sigma_px(self, camera: Camera, p_parent: np.ndarray) -> np.ndarray:
        """Return the standard deviations (..., 2), px, of the pixels of points (..., 3), m, in the parent frame.

        They follow from `covariance`, that of the camera's pose in its parent frame.
        """
        p = np.asarray(p_parent, dtype=np.float64)
        flat = apply(invert(self.X), p.reshape(-1, 3))
        _, J = slopes(camera, flat)
        from_pose = np.concatenate([np.broadcast_to(-self.X[:3, :3].T, (len(flat), 3, 3)), skew(flat)], axis=-1)
        G = J @ from_pose
        variance = np.einsum("nij,jk,nik->ni", G, self.covariance, G)
        return np.sqrt(variance).reshape(*p.shape[:-1], 2)


def chain(T_base_link: np.ndarray, mounted: Mounted) -> np.ndarray:
    """Return the robot's part B (N, 4, 4), m, of the chain T_camera_board = X^-1 B Z.

    X is the camera's pose and Z the board's pose, both constant. B is T_link_base for a moving camera and T_base_link
    for a fixed camera; `T_base_link` (N, 4, 4) are the poses of the link that carries the camera or the board.
    """
    return np.asarray(invert(T_base_link)) if mounted == "moving" else T_base_link


def solve_hand_eye(
    camera: Camera,
    T_base_link: np.ndarray,
    views: Sequence[View],
    mounted: Mounted = "moving",
    *,
    prior: Prior | None = None,
    seed: int = 0,
    singles: Sequence[BoardPose] | None = None,
) -> HandEye:
    """Return the calibrated pose of a camera, computed from views of a board and the robot's poses.

    Args:
        camera: The camera that took the views.
        T_base_link: (N, 4, 4) pose, in each view, of the link that carries the camera (moving) or the board (fixed).
        views: N views of one board.
        mounted: "moving": the camera moves; "fixed": the board moves.
        prior: Standard deviation of each robot pose; None: the robot poses are exact.
        seed: Seed of the random subsets of views from which one initialisation is computed, to be robust to bad views.
        singles: The board's pose in each view, if already computed; None: computed here.

    Returns:
        The pose and its statistics. A bad set of views gives a bad pose with large residuals, not an error.

    Raises:
        InputError: Fewer than three views are usable, or the numbers of views and robot poses differ.
    """
    if len(T_base_link) != len(views):
        raise InputError(f"got {len(views)} views and {len(T_base_link)} robot poses. Give one robot pose per view")
    kept, alone, dropped = [], [], []
    for i, view in enumerate(views):
        try:
            alone.append(board_poses(camera, view)[0] if singles is None else singles[i])
            kept.append(i)
        except ValueError as error:
            dropped.append(str(error))
    if len(kept) < MIN_VIEWS:
        got = f"got {len(kept)} of {len(views)}{f' ({dropped[0]})' if dropped else ''}"
        text = f"hand-eye calibration needs at least {MIN_VIEWS} usable views (15 or more are better); {got}"
        raise InputError(f"{text}. Record more views, with the board visible and rotated about every axis")
    B = chain(np.asarray(T_base_link, dtype=np.float64)[kept], mounted)
    chosen, C = read_alike(camera, B, [views[i] for i in kept], [pose.T_camera_board for pose in alone])
    reach = float(np.sqrt(np.mean([pose.rms**2 for pose in alone])))
    fit, _, chosen = best_fit(camera, B, chosen, C, reach, prior, seed)
    read = {id(views[i]): pose for i, pose in zip(kept, alone, strict=True)}
    final = [read[id(view)] if id(view) in read else board_poses(camera, view)[0] for view in chosen]
    size = np.maximum(OUTLIER_PX, OUTLIER_FACTOR * np.median(fit.per_view))
    out = tuple(view.name for view, error in zip(chosen, fit.per_view, strict=True) if error > size)
    changes = leave_out(fit)
    free = joint_fit(camera, B, chosen, fit.X, fit.Z, free_scale=True, weights=fit.weights)
    return HandEye(
        mounted=mounted,
        X=fit.X,
        Z=fit.Z,
        names=tuple(view.name for view in chosen),
        per_view=fit.per_view,
        pnp=np.array([pose.rms for pose in final]),
        left_out=left_out_rms(camera, chosen, fit, changes),
        rms=fit.rms,
        outliers=out,
        dropped=tuple(dropped),
        covariance=jackknife(changes)[:6, :6],
        scale=free.scale,
        scale_sigma=float(np.sqrt(jackknife(leave_out(free))[12, 12])),
        scaled_rms=free.rms,
        spread=spread(B, np.stack([pose.T_camera_board for pose in final])),
        fit=fit,
        poses=tuple(final),
    )


def spread(B: np.ndarray, C: np.ndarray) -> Spread:
    """Return the range of the camera's motion relative to the board over N views.

    B (N, 4, 4) is the robot's part of the chain, see `chain`; C (N, 4, 4) are the board's poses in the camera frame, m.
    """
    i, j = np.triu_indices(len(B), 1)
    relative = B[j] @ invert(B)[i]
    w = rotation_log(relative[:, :3, :3])
    turn = np.linalg.norm(w, axis=-1)
    moved = np.linalg.norm((C[j] @ invert(C)[i])[:, :3, 3], axis=-1)
    useful = turn > np.radians(3.0)
    a = w[useful] / turn[useful, None]
    axes = float(np.linalg.eigvalsh(a.T @ a / len(a))[0]) if useful.any() else 0.0
    return Spread(float(turn.max()), axes, float(np.maximum(turn, moved).min()))
