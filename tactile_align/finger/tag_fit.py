"""Fit of a sensor's or camera's pose, and of the finger's motion, to a tag's corners at several openings."""

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
from tactile_align.finger.frames import FingerFrames, Reading, choose_frames, cross_validated, finger_of, likely_reading
from tactile_align.geometry.frames import apply, invert, pose, rotation_exp
from tactile_align.verify.evidence import gather

LOOK_AT = 120
"""Number of frames, over all episodes, that are searched for the tag."""
FINGERS = ("finger1", "finger2")


class FingerTag(Mount):
    """Printed tag and the pose at which it is glued, T_parent_tag.

    The tag's frame has its origin at the tag's CENTRE, x to the right, y down and z into the surface. `parent` decides
    what the tag calibrates. SENSOR: the pose of that sensor on its finger; the camera must be calibrated already.
    ARM/finger1 or ARM/finger2: the pose of a camera on that hand.
    """

    dictionary: str = "DICT_APRILTAG_36h11"
    id: Annotated[int, Field(ge=0)]
    side_m: Annotated[float, Field(gt=0.0005, lt=0.5)]
    """Length of a side, including the black border, m."""

    @model_validator(mode="after")
    def _board_exists(self) -> Self:
        _ = self.board
        return self

    @cached_property
    def board(self) -> Board:
        """Calibration board that consists of this one tag."""
        return Board(kind="tag", square_m=self.side_m, dictionary=self.dictionary, id=self.id)

    @cached_property
    def corners(self) -> np.ndarray:
        """Corners of the tag, (4, 3), m, in the tag's frame, in the order in which the detector returns them."""
        return self.board.points - self.board.points.mean(0)

    def finger(self, rig: Rig) -> str:
        """Return the name of the frame of the finger with which the tag moves, such as left/finger1.

        Raises:
            InputError: The parent is neither a finger nor a sensor on a finger.
        """
        if self.parent in rig.sensors:
            return finger_of(rig, self.parent)
        arm, _, node = self.parent.partition("/")
        if node not in FINGERS or arm not in rig.arms:
            raise InputError(
                f"the tag's parent is '{self.parent}', expected ARM/finger1 or ARM/finger2 (arms: "
                f"{', '.join(rig.arms)}) or a sensor's name (sensors: {', '.join(rig.sensors) or 'none'}). "
                f"Correct parent in the tag file"
            )
        return self.parent


def read_tag(path: str | Path) -> FingerTag:
    """Return the tag in a TOML file with id, side_m, dictionary, parent, translation_m and quat_wxyz (or matrix).

    Raises:
        FileNotFoundError: The file was not found.
        FactError: A key or value is wrong; the message states file and key.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file. Give a tag file (id, side_m, dictionary, parent, pose)")
    data, source = read_fact("calibration", path)
    return parse(FingerTag, data, source)


@dataclass(frozen=True)
class Sightings:
    """N frames that show a tag, and the tag's corners in them.

    Attributes:
        frames: The frames.
        uv: (N, 4, 2) pixels of the tag's four corners in each frame, px of the stored frame.
        names: Name of each frame, for messages.
        looked: Number of frames that were searched for the tag.
        refs: The episodes that show the tag.
        digests: The hashes of these episodes.
        ends: The finger's distance from the tool axis when fully closed and when fully open, m.
    """

    frames: FingerFrames
    uv: np.ndarray
    names: tuple[str, ...]
    looked: int
    refs: tuple[EpisodeRef, ...]
    digests: tuple[str, ...]
    ends: tuple[float, float]

    def enough(self, rows: np.ndarray | None = None) -> bool:
        """Return whether frames are enough to fit the finger's motion; flags `rows` (N,) select them, None: all."""
        opening = self.frames.opening[self.frames.stated]
        share = ((opening if rows is None else opening[rows]) - self.ends[0]) / (self.ends[1] - self.ends[0])
        apart = len(np.unique(np.round(share * 20)))
        return len(share) >= MIN_SIGHTINGS and apart >= MIN_OPENINGS and float(np.ptp(share)) >= MIN_SHARE


def find_tag(path: str | Path, rig: Rig, camera: str, tag: FingerTag, *, layout: str | Path | None = None) -> Sightings:
    """Return the recorded frames that show a tag, searched evenly over the gripper's openings.

    Raises:
        FileNotFoundError, EpisodeError: Episodes were not found or are damaged.
        InputError: The tag is in no frame or at too few openings; the episodes do not match the rig.
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
            f"{path}: none of {len(chosen)} frames of {camera} shows tag {tag.id} of {tag.dictionary}. Check that "
            f"dictionary and id match the print, and that the tag is flat, in view, >= 20 px wide, with a white rim"
        )
    frames, uv, looked = FingerFrames.join(parts), np.stack(corners), len(chosen)
    closed, opened = map(float, rig.gripper(arm).law.opening(np.array([0.0, 1.0])))
    sightings = Sightings(frames, uv, tuple(names), looked, tuple(refs), tuple(digests), (closed, opened))
    if not sightings.enough():
        opening = frames.opening[frames.stated] * 1e3
        raise InputError(
            f"{path}: tag {tag.id} was seen in {len(opening)} of {looked} frames, at openings {opening.min():.1f} to "
            f"{opening.max():.1f} mm. It must be seen in at least {MIN_SIGHTINGS} frames, at {MIN_OPENINGS} openings "
            f"that span {MIN_SHARE * abs(opened - closed) * 1e3:.1f} mm. Record more frames while the gripper opens "
            f"and closes"
        )
    return sightings


CORNER_PX, CLEAR_PX = 0.3, 1.0
"""CORNER_PX: standard deviation of a detected corner, px.
CLEAR_PX: difference of errors above which a commanded and a measured gripper reading can be told apart, px."""
MIN_SIGHTINGS, MIN_OPENINGS, MIN_SHARE = 6, 3, 0.2
"""Requirements of a fit. MIN_SIGHTINGS: number of frames. MIN_OPENINGS: number of openings that differ by a twentieth
of the stroke. MIN_SHARE: share of the stroke that the openings span."""
STARTS, TRIED = 12, 4
"""STARTS: number of frames that give initial poses. TRIED: number of best initial poses from which a fit starts."""
SCALE = np.array([0.005] * 3 + [np.radians(5)] * 3 + [0.1] + [np.radians(5)] * 2)


@dataclass(frozen=True)
class Holder:
    """Known and unknown poses between the camera and the tag; exactly one pose is unknown.

    The unknown pose is T_flange_camera if the tag is glued to the finger, and T_finger_sensor if it is glued to a
    sensor.

    Attributes:
        T: (4, 4) the unknown pose as the original rig has it, m.
        T_tag: (4, 4) the known pose of the tag, m: T_finger_tag or T_sensor_tag.
        camera: Whether the unknown pose is T_flange_camera.
        corners: (4, 3) the tag's corners in the tag's frame, m.
    """

    T: np.ndarray
    T_tag: np.ndarray
    camera: bool
    corners: np.ndarray

    def T_camera_tag(
        self, frames: FingerFrames, T: np.ndarray, motion: np.ndarray, reading: Reading | None = None
    ) -> np.ndarray:
        """Return the poses T_camera_tag of the tag in the camera's frame, (N, 4, 4), m.

        Args:
            frames: N frames.
            T: (4, 4) value of the unknown pose, m.
            motion: (3,) stroke, a factor, and two tilt angles of the finger's axis, rad.
            reading: Kind of gripper reading; None: the rig's.
        """
        out = frames.T_flange_finger(float(motion[0]), tilted(frames.axis, motion[1:]), reading)
        return np.asarray((invert(T) @ out if self.camera else frames.T_camera_flange @ out @ T) @ self.T_tag)

    def implied(self, frames: FingerFrames, T_camera_tag: np.ndarray) -> np.ndarray:
        """Return the unknown pose, see `Holder`, computed from T_camera_tag in each of N frames, (N, 4, 4), m.

        The stroke is the rig's.
        """
        out = frames.T_flange_finger()
        if self.camera:
            return np.asarray(out @ self.T_tag @ invert(T_camera_tag))
        return np.asarray(invert(frames.T_camera_flange @ out) @ T_camera_tag @ invert(self.T_tag))


@dataclass(frozen=True)
class TagFit:
    """Fitted pose, stroke and opening axis of a finger, with their uncertainty and the errors of the tag's corners.

    Attributes:
        T: (4, 4) the fitted pose, T_finger_sensor or T_flange_camera, m.
        stroke: Factor on the gripper's opening.
        axis: (3,) unit vector in the flange frame along which this finger opens.
        covariance: (9, 9) covariance of translation (3, m, parent's axes), rotation (3, rad, a rotation vector in the
            fitted frame's axes), stroke (1, a factor) and tilt (2, rad), from fits that leave out a tenth of the frames
            at a time.
        place_m: Standard deviation of the tag's position in the camera's frame, in the middle of the stroke, m.
        before: (N,) RMS error of the corners in each of N frames with the original rig, px; inf if a corner has no
            pixel.
        after: (N,) RMS error of each frame's corners with a fit in which that frame was left out, px.
        reading: Kind of gripper reading: "commanded", "measured", or None if the frames cannot tell.
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
    """Return a unit vector (3,) tilted by small angles `tilt` (2,), rad, towards two directions normal to it."""
    _, _, rows = np.linalg.svd(axis[None])
    leaning = axis + tilt @ rows[1:]
    return np.asarray(leaning / np.linalg.norm(leaning))


def fit_tag(seen: Sightings, holder: Holder) -> TagFit:
    """Return the fit of nine parameters to a tag's corners: the unknown pose (6), the stroke (1), the axis's tilt (2).

    Two poses of a small flat tag look nearly alike in one frame. The fit therefore starts from several initial poses
    and keeps the solution that fits all frames best.

    Args:
        seen: The frames and the tag's corners.
        holder: The chain of poses with the unknown pose.

    Raises:
        InputError: No frame gives a pose of the tag in front of the camera.
    """
    frames, uv = seen.frames, seen.uv
    best, x = _first(seen, holder)

    def solve(rows: np.ndarray) -> np.ndarray:
        return _solve(frames.only(rows), uv[rows], holder, best, x)[0]

    def error(rows: np.ndarray, fit: np.ndarray, reading: Reading | None = None) -> np.ndarray:
        return _error(frames.only(rows), uv[rows], holder, *_split(best, fit), reading)

    fits, after = cross_validated(np.arange(len(uv)), solve, error)
    middle = frames.only(np.argsort(frames.opening[frames.stated])[[len(uv) // 2]])
    places = np.stack([holder.T_camera_tag(middle, *_split(best, fit))[0, :3, 3] for fit in fits])
    sigma = float(np.sqrt(np.trace(jackknife(places))))
    T, (stroke, *tilt) = _split(best, x)
    axis, before = tilted(frames.axis, np.array(tilt)), _error(frames, uv, holder, holder.T, np.array([1.0, 0, 0]))
    telling = frames.telling
    reading = likely_reading(telling, solve, error, CLEAR_PX) if seen.enough(~telling) else None
    return TagFit(T, float(stroke), axis, jackknife(fits), sigma, before, after, reading)


def _split(start: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pose `start` changed by the shift and rotation x[:6], and the motion x[6:] (stroke, tilt)."""
    return np.asarray(pose(start[:3, :3] @ rotation_exp(x[3:6]), start[:3, 3] + x[:3])), x[6:]


def _first(seen: Sightings, holder: Holder) -> tuple[np.ndarray, np.ndarray]:
    """Return the best initial pose (4, 4) and the parameters (9,) fitted from it."""
    frames, uv = seen.frames, seen.uv
    starts: list[np.ndarray] = []
    for i in evenly(len(uv), STARTS):
        try:
            boards = board_poses(frames.lenses[frames.which[i]], View(seen.names[i], holder.corners, uv[i]))
        except ValueError:
            continue  # this frame gives no pose; the others provide initial poses
        starts += [holder.implied(frames.only(np.array([i])), board.T_camera_board[None])[0] for board in boards]
    if not starts:
        raise InputError(f"none of {len(uv)} frames gives a tag pose in front of the camera. Check the camera's K")
    still = np.array([1.0, 0.0, 0.0])
    starts.sort(key=lambda T: float(np.median(_error(frames, uv, holder, T, still))))
    zero = np.array([*[0.0] * 6, 1.0, 0.0, 0.0])
    solved = [(*_solve(frames, uv, holder, T, zero), T) for T in starts[:TRIED]]
    x, _, start = min(solved, key=lambda fit: fit[1])
    return start, x


def _solve(
    frames: FingerFrames, uv: np.ndarray, holder: Holder, start: np.ndarray, x: np.ndarray
) -> tuple[np.ndarray, float]:
    """Return the fitted parameters (9,) and their robust cost, from the initial pose `start` and parameters `x`."""

    def residual(z: np.ndarray) -> np.ndarray:
        off = (_corners(frames, holder, *_split(start, z * SCALE)) - uv) / CORNER_PX
        return np.where(np.isfinite(off), off, 1e3).ravel()

    fit = least_squares(residual, x / SCALE, loss="soft_l1", xtol=1e-9, ftol=1e-9, max_nfev=60)
    return np.asarray(fit.x) * SCALE, float(fit.cost)


def _corners(
    frames: FingerFrames, holder: Holder, T: np.ndarray, motion: np.ndarray, reading: Reading | None = None
) -> np.ndarray:
    """Return the tag's projected corners (N, 4, 2), px; nan where a corner has no pixel."""
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
    """Return the RMS error of each frame's corners (N,), px; inf if a corner has no pixel."""
    square = ((_corners(frames, holder, T, motion, reading) - uv) ** 2).sum(-1).mean(-1)
    return np.sqrt(np.nan_to_num(square, nan=np.inf))
