"""Frames of a camera that looks at a finger: where the flange is and how far the finger stands out; fits to them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.rig import Rig
from tactile_align.datasets.episodes import Episode
from tactile_align.errors import InputError
from tactile_align.geometry.frames import invert, pose
from tactile_align.projection.episode_boxes import held_opening, qpos_at_exposure
from tactile_align.verify.evidence import Evidence

Reading = Literal["commanded", "measured"]
Solve = Callable[[np.ndarray], np.ndarray]
"""Fits numbers (k,) to some of N frames, chosen by flags (N,)."""
MOST_FOLDS = 10
SAME_M = 0.0005
"""Openings that differ by less cannot tell a command from a measurement."""


@dataclass(frozen=True)
class FingerFrames:
    """N frames of one camera, over any number of episodes.

    Attributes:
        lenses: The cameras of the stored frames; an [[override]] can give episodes their own.
        which: (N,) index into `lenses`.
        T_camera_flange: (N, 4, 4), m.
        opening: By reading, (N,) distance of the finger from the tool axis, m: as recorded, and as a command that
            is held from contact onset on.
        axis: (3,) unit vector in the flange frame along which this finger opens.
        stated: What the reading is by the rig.
    """

    lenses: tuple[Camera, ...]
    which: np.ndarray
    T_camera_flange: np.ndarray
    opening: dict[Reading, np.ndarray]
    axis: np.ndarray
    stated: Reading

    @classmethod
    def of(
        cls, episode: Episode, rig: Rig, camera: str, finger: str, evidence: Evidence, frames: Sequence[int]
    ) -> Self:
        """Collect some frames of an episode; `rig` is the one without overrides, `finger` as in ARM/finger1.

        Raises:
            InputError: A camera or a frame that the episode does not hold; joints or gripper readings out of range;
                a camera with a delay in a recording without a rate.
        """
        if camera not in episode.cameras:
            raise InputError(f"{episode.ref} has no camera '{camera}'; it has {', '.join(episode.cameras)}")
        if frames and not 0 <= min(frames) <= max(frames) < len(episode):
            raise InputError(f"{episode.ref} has {len(episode)} frames; got frame {max(frames)}")
        rig = rig.for_episode(episode.path)
        arm, _, node = finger.partition("/")
        gripper, column, rows = rig.gripper(arm), int(node == "finger2"), np.asarray(frames, dtype=int)
        opening: dict[Reading, np.ndarray] = {}
        for reading in ("commanded", "measured"):
            read = rig.with_gripper(arm, reading=reading)
            opening[reading] = held_opening(read, arm, episode.qpos, evidence.contact)[rows, column]
        mounted = rig.camera(camera)
        qpos = qpos_at_exposure(rig, camera, episode.qpos, episode.fps)[rows]
        T = invert(mounted.T_parent_this) @ rig.T_from_to(mounted.parent, f"{arm}/flange", qpos)
        axis = np.asarray(gripper.law.axis) * (-1.0 if column else 1.0)
        return cls((mounted.stored,), np.zeros(len(rows), int), T, opening, axis, gripper.reading)

    @classmethod
    def join(cls, parts: "Sequence[FingerFrames]") -> "FingerFrames":
        """Return the frames of several episodes as one."""
        # Equal lenses count once, so that all their frames are projected in one go.
        lenses = {_key(part.lenses[0]): part.lenses[0] for part in parts}
        which = np.concatenate([np.full(len(part), list(lenses).index(_key(part.lenses[0]))) for part in parts])
        T = np.concatenate([part.T_camera_flange for part in parts])
        opening = {key: np.concatenate([part.opening[key] for part in parts]) for key in parts[0].opening}
        return replace(parts[0], lenses=tuple(lenses.values()), which=which, T_camera_flange=T, opening=opening)

    def __len__(self) -> int:
        return len(self.which)

    def only(self, rows: np.ndarray) -> "FingerFrames":
        """Return some of the frames, by index or flag."""
        opening = {reading: values[rows] for reading, values in self.opening.items()}
        return replace(self, which=self.which[rows], T_camera_flange=self.T_camera_flange[rows], opening=opening)

    @property
    def telling(self) -> np.ndarray:
        """(N,) bool: frames in which a held command and the reading as it is give two openings."""
        return np.abs(self.opening["commanded"] - self.opening["measured"]) > SAME_M

    def T_flange_finger(
        self, stroke: float = 1.0, axis: np.ndarray | None = None, reading: Reading | None = None
    ) -> np.ndarray:
        """Return (N, 4, 4) where the finger stands on the flange, m, for a stroke and an axis other than the rig's."""
        out = stroke * self.opening[reading or self.stated]
        turn = np.broadcast_to(np.eye(3), (len(out), 3, 3))
        return np.asarray(pose(turn, out[:, None] * (self.axis if axis is None else axis)))


def cross_validated(
    count: int, solve: Solve, error: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the fits (K, k) that leave out a tenth of N = `count` frames each, and (N,) errors of what was left out.

    Args:
        count: How many frames.
        solve: The fit.
        error: Gives the errors (M,) of the M frames of some flags (N,) with numbers (k,).
    """
    folds = [np.arange(count) % MOST_FOLDS == k for k in range(min(MOST_FOLDS, count))]
    fits = np.stack([solve(~fold) for fold in folds])
    errors = np.empty(count)
    for fold, x in zip(folds, fits, strict=True):
        errors[fold] = error(fold, x)
    return fits, errors


def likely_reading(
    frames: FingerFrames, solve: Solve, error: Callable[[np.ndarray, np.ndarray, Reading], np.ndarray], margin: float
) -> Reading | None:
    """Return whether the gripper reading follows the fingers or is only a command; None where frames cannot tell.

    A fit to the frames in which both give one opening predicts those in which they differ.

    Args:
        frames: N frames.
        solve: The fit.
        error: As in `cross_validated`, for a reading.
        margin: By how much the medians of the errors must differ.
    """
    rows = frames.telling
    if not rows.any():
        return None
    agreed = solve(~rows)
    held, plain = error(rows, agreed, "commanded"), error(rows, agreed, "measured")
    both = np.isfinite(held) & np.isfinite(plain)
    if both.sum() < 4:
        return None
    gap = float(np.median(plain[both]) - np.median(held[both]))
    return "commanded" if gap > margin else "measured" if gap < -margin else None


def finger_of(rig: Rig, sensor: str) -> str:
    """Return the finger a sensor sits on, as in ARM/finger1.

    Raises:
        InputError: It sits on none.
    """
    parent = rig.sensor(sensor).parent
    if parent.partition("/")[2] not in ("finger1", "finger2"):
        raise InputError(f"the finger route needs a sensor on ARM/finger1 or ARM/finger2; {sensor} hangs on '{parent}'")
    return parent


def _key(lens: Camera) -> tuple[object, ...]:
    return lens.width, lens.height, lens.K.tobytes(), lens.model, lens.distortion, lens.valid_radius
