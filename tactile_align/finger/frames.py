"""Frames in which a camera looks at a finger: where the flange is, and how far the finger stands out."""

from collections.abc import Sequence
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
        stated: What the rig says the reading is.
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
            read = _with_reading(rig, arm, reading)
            opening[reading] = held_opening(read, arm, episode.qpos, evidence.contact)[rows, column]
        mounted = rig.camera(camera)
        qpos = qpos_at_exposure(rig, camera, episode.qpos, episode.fps)[rows]
        T = invert(mounted.T_parent_this) @ rig.T_from_to(mounted.parent, f"{arm}/flange", qpos)
        axis = np.asarray(gripper.law.axis) * (-1.0 if column else 1.0)
        which = np.zeros(len(rows), int)
        return cls((mounted.stored,), which, T, opening, axis, gripper.reading)

    @classmethod
    def join(cls, parts: "Sequence[FingerFrames]") -> "FingerFrames":
        """Return the frames of several episodes as one."""
        first = parts[0]
        # Equal lenses count once, so that all their frames are projected in one go.
        lenses = {_key(lens): lens for one in parts for lens in one.lenses}
        which = [np.full(len(one), list(lenses).index(_key(one.lenses[0]))) for one in parts]
        return replace(
            first,
            lenses=tuple(lenses.values()),
            which=np.concatenate(which),
            T_camera_flange=np.concatenate([one.T_camera_flange for one in parts]),
            opening={reading: np.concatenate([one.opening[reading] for one in parts]) for reading in first.opening},
        )

    def __len__(self) -> int:
        return len(self.which)

    def only(self, rows: np.ndarray) -> "FingerFrames":
        """Return some of the frames, by index or flag."""
        opening = {reading: one[rows] for reading, one in self.opening.items()}
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


def told(held: np.ndarray, plain: np.ndarray, margin: float) -> Reading | None:
    """Tell from frames in contact whether the reading follows the fingers or is only a command; None: cannot tell.

    Args:
        held: (K,) error of each frame when the command is held from contact onset on.
        plain: (K,) error of each frame when the reading is taken as it is.
        margin: By how much the medians must differ.
    """
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


def _with_reading(rig: Rig, arm: str, reading: Reading) -> Rig:
    return rig.with_gripper(arm, reading=reading)


def _key(lens: Camera) -> tuple[object, ...]:
    return lens.width, lens.height, lens.K.tobytes(), lens.model, lens.distortion, lens.valid_radius
