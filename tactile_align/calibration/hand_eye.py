"""Hand-eye calibration: T_parent_camera and its uncertainty from views of a board and the robot's poses.

Two chains, one form. A camera on a moving link sees a board that stands still,
T_camera_board = X^-1 T_base_link^-1 Z with X = T_link_camera and Z = T_base_board; a camera that stands still
sees a board on a moving link, T_camera_board = X^-1 T_base_link Z with X = T_base_camera and Z = T_link_board.
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
"""A fit whose RMS is within this factor of that of the single-view poses needs no other initialisation."""


def read_alike(camera: Camera, B: np.ndarray, views: list[View], C: list[np.ndarray]) -> tuple[list[View], np.ndarray]:
    """Return the views in the board orientations that agree with the robot's turns, and their poses (N, 4, 4).

    One image alone cannot tell the orientations apart.
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
    """Return the best fit over the initialisations, the RMS in px of each one tried, and the views as oriented in it.

    Args:
        camera: The camera.
        B: (N, 4, 4) the robot's part of the chain.
        views: N views of the board.
        C: (N, 4, 4) T_camera_board of each view alone.
        reach: RMS in px of the single-view poses.
        prior: Standard deviation of each robot pose; None: the robot poses are exact.
        seed: Seed of the random subsets.
    """
    starts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    with suppress(InputError):  # views that turn little: the other closed form needs no pairs
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
    """Return the views in the board orientations that fit the rough poses of camera and board best."""
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
    """Return the initialisation from a random subset of four views that fits the median view best.

    Args:
        B: (N, 4, 4) the robot's part of the chain.
        C: (N, 4, 4) T_camera_board of each view alone.
        marks: (M, 3) points on the board to compare at.
        seed: Seed of the random choice.
        trials: Number of subsets.

    Returns:
        Error of the median view (rad; times the focal length, px), X and Z; None where no subset turns enough.
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
"""A view is an outlier when its RMS exceeds both 3 px and 5 times the median view's."""


@dataclass(frozen=True)
class Spread:
    """The range of the camera's motion relative to the board.

    Attributes:
        turn: Largest relative rotation of two views, rad.
        axes: Smallest eigenvalue of the mean outer product of the relative rotations' axes: 0 when all turn
            about one plane's axes only, 1/3 when they turn every way.
        nearest: Smallest difference of two views: the larger of rotation (rad) and translation (m).
    """

    turn: float
    axes: float
    nearest: float


@dataclass(frozen=True)
class HandEye:
    """A camera's pose with the evidence for it.

    Attributes:
        mounted: "moving": X = T_link_camera; "fixed": X = T_base_camera.
        X: (4, 4) pose of the camera, m.
        Z: (4, 4) T_base_board of a moving camera, T_link_board of a fixed one, m.
        names: The N views used.
        per_view: (N,) RMS in px under X and Z.
        pnp: (N,) RMS in px when each view has a pose of its own: the limit set by camera and detection.
        left_out: (N,) RMS in px of each view under the fit of all others.
        rms: RMS of all points, px.
        outliers: Names of views with a large RMS.
        dropped: For each view without a pose, its name and the reason.
        covariance: (6, 6) of translation (m, parent's axes) and rotation (rad, right perturbation
            R exp(w)), from leaving out one view at a time.
        scale: Board scale when freed, with `scale_sigma` from leaving out one view at a time.
        scale_sigma: Its standard deviation.
        scaled_rms: RMS of all points with that scale, px.
        spread: The range of motion over the views.
        fit: The fit itself.
        poses: The pose of each view alone.
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
        """(3,) standard deviations of the translation, m."""
        return np.sqrt(np.diag(self.covariance)[:3])

    @property
    def sigma_r_rad(self) -> np.ndarray:
        """(3,) standard deviations of the rotation, rad."""
        return np.sqrt(np.diag(self.covariance)[3:])

    @property
    def left_out_rms(self) -> float:
        """RMS over views of `left_out`, px."""
        return float(np.sqrt(np.mean(self.left_out**2)))

    def sigma_px(self, camera: Camera, p_parent: np.ndarray) -> np.ndarray:
        """Return how uncertain the pixel of points (..., 3) in the camera's PARENT frame is, (..., 2) px."""
        p = np.asarray(p_parent, dtype=np.float64)
        flat = apply(invert(self.X), p.reshape(-1, 3))
        _, J = slopes(camera, flat)
        from_pose = np.concatenate([np.broadcast_to(-self.X[:3, :3].T, (len(flat), 3, 3)), skew(flat)], axis=-1)
        G = J @ from_pose
        variance = np.einsum("nij,jk,nik->ni", G, self.covariance, G)
        return np.sqrt(variance).reshape(*p.shape[:-1], 2)


def chain(T_base_link: np.ndarray, mounted: Mounted) -> np.ndarray:
    """Return B (N, 4, 4) such that T_camera_board = X^-1 B Z."""
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
    """Find where a camera sits from views of a board and the robot's poses.

    Args:
        camera: The camera of the images the views come from.
        T_base_link: (N, 4, 4) per view the pose of the moving link: the camera's (moving) or the board's (fixed).
        views: N views of one board.
        mounted: "moving": the camera moves; "fixed": the board moves.
        prior: Standard deviation of each robot pose; None: the robot poses are exact.
        seed: Seed of the random subsets that make the initialisation robust to bad views.
        singles: The pose of each view alone, where known already.

    Returns:
        The pose with its evidence. A bad set of views gives a bad pose with large residuals, not an error.

    Raises:
        InputError: Fewer than three usable views, or not one robot pose per view.
    """
    if len(T_base_link) != len(views):
        raise InputError(f"each view needs a robot pose: got {len(views)} views and {len(T_base_link)} poses")
    kept, alone, dropped = [], [], []
    for i, view in enumerate(views):
        try:
            alone.append(board_poses(camera, view)[0] if singles is None else singles[i])
            kept.append(i)
        except ValueError as error:
            dropped.append(str(error))
    if len(kept) < MIN_VIEWS:
        got = f"got {len(kept)} of {len(views)}{f' ({dropped[0]})' if dropped else ''}"
        text = f"hand-eye needs at least {MIN_VIEWS} usable views, better 15; {got}"
        raise InputError(f"{text}. Take more, with the board in sight and turned in every direction")
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
    """Return the range of motion over views, from the robot's part (N, 4, 4) and the board's poses (N, 4, 4)."""
    i, j = np.triu_indices(len(B), 1)
    relative = B[j] @ invert(B)[i]
    w = rotation_log(relative[:, :3, :3])
    turn = np.linalg.norm(w, axis=-1)
    moved = np.linalg.norm((C[j] @ invert(C)[i])[:, :3, 3], axis=-1)
    useful = turn > np.radians(3.0)
    a = w[useful] / turn[useful, None]
    axes = float(np.linalg.eigvalsh(a.T @ a / len(a))[0]) if useful.any() else 0.0
    return Spread(float(turn.max()), axes, float(np.maximum(turn, moved).min()))
