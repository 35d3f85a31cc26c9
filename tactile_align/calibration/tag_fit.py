"""Fit where a tag's holder sits, and how the finger moves, to the tag's corners over several openings."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import least_squares

from tactile_align.calibration.finger_frames import FingerFrames, Reading, told
from tactile_align.calibration.jackknife import jackknife
from tactile_align.calibration.tag import Sightings
from tactile_align.calibration.views import View, board_poses
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.geometry.frames import apply, invert, pose, rotation_exp

CORNER_PX, CLEAR_PX = 0.3, 1.0
"""How well a corner is found, and the error beyond that which tells a command from a measurement."""
MIN_SIGHTINGS, MIN_OPENINGS, MIN_SHARE = 6, 3, 0.2
"""Fewest frames, fewest openings a twentieth of the stroke apart, and the least share of the stroke they span."""
STARTS, TRIED, FOLDS = 12, 4, 10
SCALE = np.array([0.005] * 3 + [np.radians(5)] * 3 + [0.1] + [np.radians(5)] * 2)


@dataclass(frozen=True)
class Holder:
    """What is sought and what is known.

    Attributes:
        T: (4, 4) the rig's pose of what is sought: T_finger_sensor, or T_flange_camera.
        T_tag: (4, 4) T_sensor_tag, or T_finger_tag.
        camera: Whether the camera is sought.
        corners: (4, 3) the tag's corners, m.
    """

    T: np.ndarray
    T_tag: np.ndarray
    camera: bool
    corners: np.ndarray

    def T_camera_tag(
        self, frames: FingerFrames, T: np.ndarray, motion: np.ndarray, reading: Reading | None = None
    ) -> np.ndarray:
        """Return (N, 4, 4) for what is sought at T and motion (3,): stroke, and the axis' tilt, rad."""
        out = frames.T_flange_finger(float(motion[0]), tilted(frames.axis, motion[1:]), reading)
        return np.asarray(
            invert(T) @ out @ self.T_tag if self.camera else frames.T_camera_flange @ out @ T @ self.T_tag
        )

    def implied(self, frames: FingerFrames, T_camera_tag: np.ndarray) -> np.ndarray:
        """Return what is sought (N, 4, 4) from the tag's poses (N, 4, 4), with the rig's stroke and axis."""
        out = frames.T_flange_finger()
        if self.camera:
            return np.asarray(out @ self.T_tag @ invert(T_camera_tag))
        return np.asarray(invert(frames.T_camera_flange @ out) @ T_camera_tag @ invert(self.T_tag))


@dataclass(frozen=True)
class TagFit:
    """What the tag says.

    Attributes:
        T: (4, 4) what was sought, m.
        stroke: Factor on the gripper's opening.
        axis: (3,) unit vector along which this finger opens, flange frame.
        covariance: (9, 9) of translation (m, parent's axes), rotation (rad, R exp(w)), stroke, tilt (rad), from
            leaving out a tenth of the frames at a time.
        place_m: Standard deviation of the tag's place in the camera in the middle of the stroke, m.
        before: (N,) RMS of the corners, px, with the rig as it was; inf where it has no pixel.
        after: (N,) the same, each frame under the fit of all others.
        reading: What the gripper reading is; None where the frames cannot tell.
    """

    T: np.ndarray
    stroke: float
    axis: np.ndarray
    covariance: np.ndarray
    place_m: float
    before: np.ndarray
    after: np.ndarray
    reading: Reading | None


def tilted(axis: np.ndarray, tilt: np.ndarray) -> np.ndarray:
    """Return a unit vector (3,) tilted by two small angles (rad) about its two normals."""
    _, _, rows = np.linalg.svd(axis[None])
    leaning = axis + tilt @ rows[1:]
    return np.asarray(leaning / np.linalg.norm(leaning))


def enough(opening: np.ndarray, ends: tuple[float, float]) -> bool:
    """Tell whether openings (N,) of a finger that moves between `ends` (m) show its motion."""
    share = (opening - ends[0]) / (ends[1] - ends[0])
    apart = len(np.unique(np.round(share * 20)))
    return len(share) >= MIN_SIGHTINGS and apart >= MIN_OPENINGS and float(np.ptp(share)) >= MIN_SHARE


def fit_tag(seen: Sightings, holder: Holder, ends: tuple[float, float]) -> TagFit:
    """Fit nine numbers to the corners: the holder's pose, the stroke, the tilt of the axis.

    A small flat tag has two poses that look nearly alike; several are tried as starts, and all frames decide.

    Args:
        seen: The tag's corners; enough openings, see `enough`.
        holder: What is sought.
        ends: The finger's opening fully closed and fully open, m.

    Raises:
        ValueError: No frame has a pose of the tag in front of the camera.
    """
    frames, uv = seen.frames, seen.uv
    best, x = _first(seen, holder)
    everything = np.arange(len(uv))
    folds = [everything % FOLDS == k for k in range(min(FOLDS, len(uv)))]
    left = [_solve(frames.only(~fold), uv[~fold], holder, best, x)[0] for fold in folds]
    after = np.empty(len(uv))
    for fold, one in zip(folds, left, strict=True):
        after[fold] = _error(frames.only(fold), uv[fold], holder, *_split(best, one))
    middle = frames.only(np.argsort(frames.opening[frames.stated])[[len(uv) // 2]])
    places = np.stack([holder.T_camera_tag(middle, *_split(best, one))[0, :3, 3] for one in left])
    spread = np.sqrt(np.trace(jackknife(places)))
    T, motion = _split(best, x)
    before = _error(frames, uv, holder, holder.T, np.array([1.0, 0, 0]))
    return TagFit(
        T, float(motion[0]), tilted(frames.axis, motion[1:]), jackknife(np.stack(left)), float(spread), before, after,
        _reading(seen, holder, best, x, ends),
    )  # fmt: skip


def _split(start: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pose `start` moved by x[:6], and the motion x[6:]."""
    return np.asarray(pose(start[:3, :3] @ rotation_exp(x[3:6]), start[:3, 3] + x[:3])), x[6:]


def _first(seen: Sightings, holder: Holder) -> tuple[np.ndarray, np.ndarray]:
    """Return the best start and its solution."""
    frames, uv = seen.frames, seen.uv
    starts: list[np.ndarray] = []
    for i in evenly(len(uv), STARTS):
        one = frames.only(np.array([i]))
        try:
            found = board_poses(frames.lenses[frames.which[i]], View(seen.names[i], holder.corners, uv[i]))
        except ValueError:
            continue  # one frame without a pose; others give the starts
        starts += [holder.implied(one, board.T_camera_board[None])[0] for board in found]
    if not starts:
        raise InputError(f"{seen.names[0]}: no frame gives the tag a pose in front of the camera; does K belong here?")
    still = np.array([1.0, 0.0, 0.0])
    starts.sort(key=lambda T: float(np.median(_error(frames, uv, holder, T, still))))
    zero = np.array([*[0.0] * 6, 1.0, 0.0, 0.0])
    solved = [(*_solve(frames, uv, holder, T, zero), T) for T in starts[:TRIED]]
    x, _, start = min(solved, key=lambda one: one[1])
    return start, x


def _solve(
    frames: FingerFrames, uv: np.ndarray, holder: Holder, start: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return nine numbers and their robust cost."""

    def residual(z: np.ndarray) -> np.ndarray:
        off = (_corners(frames, holder, *_split(start, z * SCALE)) - uv) / CORNER_PX
        return np.where(np.isfinite(off), off, 1e3).ravel()

    found = least_squares(residual, x / SCALE, loss="soft_l1", xtol=1e-9, ftol=1e-9, max_nfev=60)
    return np.asarray(found.x) * SCALE, float(found.cost)


def _corners(
    frames: FingerFrames, holder: Holder, T: np.ndarray, motion: np.ndarray, reading: Reading | None = None
) -> np.ndarray:
    """Return (N, 4, 2) px, nan where a corner has no pixel."""
    p = apply(holder.T_camera_tag(frames, T, motion, reading)[:, None], holder.corners)
    found = np.empty((len(p), 4, 2))
    for i, lens in enumerate(frames.lenses):
        found[frames.which == i] = lens.project(p[frames.which == i])[0]
    return found


def _error(
    frames: FingerFrames,
    uv: np.ndarray,
    holder: Holder,
    T: np.ndarray,
    motion: np.ndarray,
    reading: Reading | None = None,
) -> np.ndarray:
    """Return (N,) RMS of the corners' distances, px; inf where one has no pixel."""
    square = ((_corners(frames, holder, T, motion, reading) - uv) ** 2).sum(-1).mean(-1)
    return np.sqrt(np.nan_to_num(square, nan=np.inf))


def _reading(
    seen: Sightings, holder: Holder, start: np.ndarray, x: np.ndarray, ends: tuple[float, float]
) -> Reading | None:
    """Tell whether the reading follows the fingers: frames where both senses agree foretell those where they differ."""
    frames = seen.frames
    rows = frames.telling
    if not rows.any() or not enough(frames.opening[frames.stated][~rows], ends):
        return None
    agreed, _ = _solve(frames.only(~rows), seen.uv[~rows], holder, start, x)
    error = {
        one: _error(frames.only(rows), seen.uv[rows], holder, *_split(start, agreed), one) for one in frames.opening
    }
    return told(error["commanded"], error["measured"], CLEAR_PX)
