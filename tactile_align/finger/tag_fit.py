"""Fit of a tag holder's pose and of the finger's motion to the tag's corners over several openings."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

import cv2
import numpy as np
from pydantic import Field, model_validator
from scipy.optimize import least_squares

from tactile_align.calibration.boards import Board
from tactile_align.calibration.bundle_adjustment import jackknife
from tactile_align.calibration.rig import Rig
from tactile_align.calibration.rig_parts import Mount
from tactile_align.calibration.views import View, board_poses
from tactile_align.datasets.episodes import EpisodeRef, open_episode
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.facts import parse, read_fact
from tactile_align.finger.choose_frames import choose_frames
from tactile_align.finger.frames import FingerFrames, Reading, cross_validated, finger_of, likely_reading
from tactile_align.geometry.frames import apply, invert, pose, rotation_exp
from tactile_align.verify.evidence import gather

LOOK_AT = 120
"""Frames in which the tag is searched, over all episodes."""
FINGERS = ("finger1", "finger2")


class FingerTag(Mount):
    """A tag and where it is glued: T_parent_tag, its CENTRE, x to its right, y down, z into the surface.

    `parent` states which place is known, and so what the tag can find: glued to a sensor, it finds where the sensor
    sits on its finger, for a calibrated camera; glued to ARM/finger1, it finds where a camera sits on that hand.
    """

    dictionary: str = "DICT_APRILTAG_36h11"
    id: Annotated[int, Field(ge=0)]
    side_m: Annotated[float, Field(gt=0.0005, lt=0.5)]
    """Side, black border included, m."""

    @model_validator(mode="after")
    def _board_exists(self) -> Self:
        _ = self.board
        return self

    @cached_property
    def board(self) -> Board:
        """The tag as a board."""
        return Board(kind="tag", square_m=self.side_m, dictionary=self.dictionary, id=self.id)

    @cached_property
    def corners(self) -> np.ndarray:
        """(4, 3) corners about the centre, m, in the order in which they are found."""
        return self.board.points - self.board.points.mean(0)

    def finger(self, rig: Rig) -> str:
        """Return the finger it moves with, as in ARM/finger1.

        Raises:
            InputError: The parent is neither a finger nor a sensor on one.
        """
        if self.parent in rig.sensors:
            return finger_of(rig, self.parent)
        arm, _, node = self.parent.partition("/")
        if node not in FINGERS or arm not in rig.arms:
            raise InputError(
                f"a tag's parent is a finger or a sensor of the rig: ARM/finger1 with ARM of {', '.join(rig.arms)}, or "
                f"{', '.join(rig.sensors) or 'a sensor (there is none)'}; got '{self.parent}'"
            )
        return self.parent


def read_tag(path: str | Path) -> FingerTag:
    """Read a tag file: id, side_m, dictionary, parent, translation_m and quat_wxyz (or matrix).

    Raises:
        FileNotFoundError: No such file.
        FactError: A wrong key or value; names file and key.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file. Needed: a tag file (id, side_m, dictionary, parent, pose)")
    data, source = read_fact("calibration", path)
    return parse(FingerTag, data, source)


@dataclass(frozen=True)
class Sightings:
    """N frames that show a tag.

    Attributes:
        frames: The frames.
        uv: (N, 4, 2) its corners, px of the stored frame.
        names: N names for messages.
        looked: How many frames were searched.
        refs: The episodes that show it.
        digests: Their hashes.
        ends: The finger's opening fully closed and fully open, m.
    """

    frames: FingerFrames
    uv: np.ndarray
    names: tuple[str, ...]
    looked: int
    refs: tuple[EpisodeRef, ...]
    digests: tuple[str, ...]
    ends: tuple[float, float]

    def enough(self, rows: np.ndarray | None = None) -> bool:
        """Return whether the frames, or some of them by flags (N,), show the finger's motion."""
        opening = self.frames.opening[self.frames.stated]
        share = ((opening if rows is None else opening[rows]) - self.ends[0]) / (self.ends[1] - self.ends[0])
        apart = len(np.unique(np.round(share * 20)))
        return len(share) >= MIN_SIGHTINGS and apart >= MIN_OPENINGS and float(np.ptp(share)) >= MIN_SHARE


def find_tag(path: str | Path, rig: Rig, camera: str, tag: FingerTag, *, layout: str | Path | None = None) -> Sightings:
    """Search recorded frames for a tag, over the openings of its gripper.

    Raises:
        FileNotFoundError, EpisodeError, InputError: Episodes that cannot be used, or the tag is in no frame, or at too
            few openings.
    """
    finger = tag.finger(rig)
    arm = finger.partition("/")[0]
    chosen = choose_frames(path, camera, LOOK_AT, rig=rig, arm=arm, layout=layout)
    parts, corners, names, refs, digests = [], [], [], [], []
    for ref in dict.fromkeys(choice.ref for choice in chosen):
        with open_episode(ref) as episode:
            seen: dict[int, np.ndarray] = {}
            for frame in (choice.frame for choice in chosen if choice.ref == ref):
                detection = tag.board.detect(cv2.cvtColor(episode.image(camera, frame), cv2.COLOR_RGB2GRAY))
                if detection is not None:
                    seen[frame] = detection.uv
            if not seen:
                continue
            evidence = gather(episode, rig)
            refs.append(ref)
            digests.append(evidence.digest)
            parts.append(FingerFrames.of(episode, rig, camera, finger, evidence, list(seen)))
            corners += list(seen.values())
            names += [f"{ref.path.name} frame {frame}" for frame in seen]
    if not parts:
        raise InputError(
            f"{path}: none of {len(chosen)} frames of {camera} shows tag {tag.id} of {tag.dictionary}. Is it the "
            f"dictionary and id that were printed, flat, in view, and at least 20 px wide with a white rim?"
        )
    frames, uv, looked = FingerFrames.join(parts), np.stack(corners), len(chosen)
    closed, opened = map(float, rig.gripper(arm).law.opening(np.array([0.0, 1.0])))
    sightings = Sightings(frames, uv, tuple(names), looked, tuple(refs), tuple(digests), (closed, opened))
    if not sightings.enough():
        opening = frames.opening[frames.stated] * 1e3
        raise InputError(
            f"{path}: the finger's motion needs tag {tag.id} in at least {MIN_SIGHTINGS} frames, at {MIN_OPENINGS} "
            f"openings over {MIN_SHARE:.0%} of the stroke; got {len(opening)} of {looked} frames, openings from "
            f"{opening.min():.1f} to {opening.max():.1f} mm. Open and close the gripper while recording"
        )
    return sightings


CORNER_PX, CLEAR_PX = 0.3, 1.0
"""Standard deviation of a corner, and the difference of errors that tells a command from a measurement, px."""
MIN_SIGHTINGS, MIN_OPENINGS, MIN_SHARE = 6, 3, 0.2
"""Fewest frames, fewest openings a twentieth of the stroke apart, and the least share of the stroke they span."""
STARTS, TRIED = 12, 4
"""Frames that give initial poses, and how many of the best of these are fitted."""
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
        return np.asarray((invert(T) @ out if self.camera else frames.T_camera_flange @ out @ T) @ self.T_tag)

    def implied(self, frames: FingerFrames, T_camera_tag: np.ndarray) -> np.ndarray:
        """Return what is sought (N, 4, 4) from the tag's poses (N, 4, 4), with the rig's stroke and axis."""
        out = frames.T_flange_finger()
        if self.camera:
            return np.asarray(out @ self.T_tag @ invert(T_camera_tag))
        return np.asarray(invert(frames.T_camera_flange @ out) @ T_camera_tag @ invert(self.T_tag))


@dataclass(frozen=True)
class TagFit:
    """A fit to a tag.

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


def fit_tag(seen: Sightings, holder: Holder) -> TagFit:
    """Fit nine numbers to the corners: the holder's pose, the stroke, the tilt of the axis.

    A small flat tag has two poses that look nearly alike; several are tried as starts, and all frames decide.

    Args:
        seen: The tag's corners.
        holder: What is sought.

    Raises:
        InputError: No frame has a pose of the tag in front of the camera.
    """
    frames, uv = seen.frames, seen.uv
    best, x = _first(seen, holder)

    def solve(rows: np.ndarray) -> np.ndarray:
        return _solve(frames.only(rows), uv[rows], holder, best, x)[0]

    def error(rows: np.ndarray, fit: np.ndarray, reading: Reading | None = None) -> np.ndarray:
        return _error(frames.only(rows), uv[rows], holder, *_split(best, fit), reading)

    fits, after = cross_validated(len(uv), solve, error)
    middle = frames.only(np.argsort(frames.opening[frames.stated])[[len(uv) // 2]])
    places = np.stack([holder.T_camera_tag(middle, *_split(best, fit))[0, :3, 3] for fit in fits])
    sigma = float(np.sqrt(np.trace(jackknife(places))))
    T, (stroke, *tilt) = _split(best, x)
    axis, before = tilted(frames.axis, np.array(tilt)), _error(frames, uv, holder, holder.T, np.array([1.0, 0, 0]))
    reading = likely_reading(frames, solve, error, CLEAR_PX) if seen.enough(~frames.telling) else None
    return TagFit(T, float(stroke), axis, jackknife(fits), sigma, before, after, reading)


def _split(start: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pose `start` moved by x[:6], and the motion x[6:]."""
    return np.asarray(pose(start[:3, :3] @ rotation_exp(x[3:6]), start[:3, 3] + x[:3])), x[6:]


def _first(seen: Sightings, holder: Holder) -> tuple[np.ndarray, np.ndarray]:
    """Return the best start and its solution."""
    frames, uv = seen.frames, seen.uv
    starts: list[np.ndarray] = []
    for i in evenly(len(uv), STARTS):
        try:
            boards = board_poses(frames.lenses[frames.which[i]], View(seen.names[i], holder.corners, uv[i]))
        except ValueError:
            continue  # one frame without a pose; others give the starts
        starts += [holder.implied(frames.only(np.array([i])), board.T_camera_board[None])[0] for board in boards]
    if not starts:
        raise InputError(f"{seen.names[0]}: no frame gives the tag a pose in front of the camera; does K belong here?")
    still = np.array([1.0, 0.0, 0.0])
    starts.sort(key=lambda T: float(np.median(_error(frames, uv, holder, T, still))))
    zero = np.array([*[0.0] * 6, 1.0, 0.0, 0.0])
    solved = [(*_solve(frames, uv, holder, T, zero), T) for T in starts[:TRIED]]
    x, _, start = min(solved, key=lambda fit: fit[1])
    return start, x


def _solve(
    frames: FingerFrames, uv: np.ndarray, holder: Holder, start: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return nine numbers and their robust cost."""

    def residual(z: np.ndarray) -> np.ndarray:
        off = (_corners(frames, holder, *_split(start, z * SCALE)) - uv) / CORNER_PX
        return np.where(np.isfinite(off), off, 1e3).ravel()

    fit = least_squares(residual, x / SCALE, loss="soft_l1", xtol=1e-9, ftol=1e-9, max_nfev=60)
    return np.asarray(fit.x) * SCALE, float(fit.cost)


def _corners(
    frames: FingerFrames, holder: Holder, T: np.ndarray, motion: np.ndarray, reading: Reading | None = None
) -> np.ndarray:
    """Return (N, 4, 2) px, nan where a corner has no pixel."""
    p = apply(holder.T_camera_tag(frames, T, motion, reading)[:, None], holder.corners)
    uv = np.empty((len(p), 4, 2))
    for i, lens in enumerate(frames.lenses):
        uv[frames.which == i] = lens.project(p[frames.which == i])[0]
    return uv


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
