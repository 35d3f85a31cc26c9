"""What one recorded episode says about a rig: contact, boxes, and how they meet truth or labels."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.datasets.contact import contact_of
from tactile_align.datasets.episodes import Episode, EpisodeRef
from tactile_align.datasets.exposure import qpos_at_exposure
from tactile_align.datasets.prepare import require_rig_size
from tactile_align.datasets.truth import read_truth
from tactile_align.errors import InputError
from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.kinematics.gripper import opening_in_contact
from tactile_align.kinematics.guards import suspect_joints, suspect_swapped_arms
from tactile_align.projection.sensor_box import REASONS, sensor_boxes


@dataclass(frozen=True)
class View:
    """One sensor in one camera over T frames of an episode.

    Attributes:
        camera: Name of the camera.
        sensor: Name of the sensor.
        reason: (T,) index into REASONS, 0 where there is a box.
        box: (T, 4) boxes as training uses them: a commanded opening is held from contact onset on; stored px.
        unheld: (T, 4) the same without the hold.
        true_opening: (T, 4) boxes for the true opening, nan where the recording does not know it.
        seen: (T, 4) where the sensor really is, from truth or labels; nan where nobody said.
        T_camera_sensor: (T, 4, 4) that `box` was computed with, metres.
        opening: (T, 2) metres per finger that `box` was computed with; None for a sensor on no gripper.
    """

    camera: str
    sensor: str
    reason: np.ndarray
    box: np.ndarray
    unheld: np.ndarray
    true_opening: np.ndarray
    seen: np.ndarray
    T_camera_sensor: np.ndarray
    opening: np.ndarray | None = None

    def iou(self, which: str = "box") -> np.ndarray:
        """Return (T,) IoU of box, unheld or true_opening with what was seen; nan where either is missing."""
        return np.asarray(intersection_over_union(getattr(self, which), self.seen))


@dataclass(frozen=True)
class Evidence:
    """What one episode says.

    Attributes:
        name: The episode.
        frames: T.
        views: One per sensor and camera.
        contact: By sensor, (T,) bool.
        commanded: By sensor, (T,) bool: in contact, and the gripper reading is only a command.
        largest_step: Largest change of a joint between two frames, rad.
        suspicions: What looks wrong in the joints, one sentence each.
        missing_cameras: Cameras of the rig that the episode does not hold.
        missing_sensors: Sensors of the rig whose stream the episode does not hold.
        unknown_cameras: Cameras of the episode that the rig does not know.
        digest: Hash of what was looked at.
    """

    name: str
    frames: int
    views: tuple[View, ...]
    contact: dict[str, np.ndarray]
    commanded: dict[str, np.ndarray]
    largest_step: float
    suspicions: tuple[str, ...]
    missing_cameras: tuple[str, ...]
    missing_sensors: tuple[str, ...]
    unknown_cameras: tuple[str, ...]
    digest: str


Openings = tuple[np.ndarray | None, np.ndarray | None]
Labels = dict[tuple[str, str, str], dict[int, tuple[float, float, float, float]]]
"""Hand-drawn boxes: (episode, see `label_name`, camera, sensor) -> frame -> box."""


def label_name(ref: EpisodeRef) -> str:
    """Return what labels call an episode: its file's name, with #NAME where the file holds several."""
    return Path(str(ref)).name


def gather(episode: Episode, rig: Rig, labels: Labels | None = None) -> Evidence:
    """Hold one episode against a rig.

    Raises:
        InputError: Frames of another size than the rig's, joints or gripper readings out of range (degrees?
            normalised?), fewer columns than the rig reads; names file and key.
        EpisodeError: Damaged frames or truth.
    """
    rig = rig.for_episode(episode.path)
    cameras = [name for name in rig.cameras if name in episode.cameras]
    for camera in cameras:
        require_rig_size(episode, rig, camera)
    sensors = {name: one.stream for name, one in rig.sensors.items() if one.stream in episode.sensors}
    contact: dict[str, np.ndarray] = {}
    commanded: dict[str, np.ndarray] = {}
    openings: dict[str, Openings] = {}
    try:
        steps = [np.abs(np.diff(rig.joints(arm, episode.qpos), axis=0)) for arm in rig.arms]
        for name, stream in sensors.items():
            touches = (episode.image(stream, t) for t in range(len(episode)))
            contact[name] = contact_of(touches).flags
        for name in sensors:
            openings[name] = _openings(episode, rig, name, contact)
            gripper = rig.arms[arm].gripper if (arm := rig.sensor_arm(name)) else None
            only = gripper is not None and gripper.reading == "commanded"
            commanded[name] = contact[name] if only else np.zeros(len(episode), bool)
        views = tuple(_views(episode, rig, cameras, openings, labels or {}))
    except ValueError as error:
        if str(episode.path) in str(error):
            raise
        raise InputError(f"{episode.ref}: /{episode.layout.state.qpos[0]}: {error}") from error
    return Evidence(
        name=str(episode.ref),
        frames=len(episode),
        views=views,
        contact=contact,
        commanded=commanded,
        largest_step=float(max((step.max() for step in steps if step.size), default=0.0)),
        suspicions=_suspicions(episode, rig),
        missing_cameras=tuple(name for name in rig.cameras if name not in cameras),
        missing_sensors=tuple(name for name in rig.sensors if name not in sensors),
        unknown_cameras=tuple(name for name in episode.cameras if name not in rig.cameras),
        digest=_digest(episode),
    )


def _suspicions(episode: Episode, rig: Rig) -> tuple[str, ...]:
    """Name what looks wrong in the joints, arm by arm, and arms whose columns follow each other's commands."""
    recorded = {name: rig.joints(name, episode.qpos) for name in rig.arms}
    found = [one for name, q in recorded.items() for one in suspect_joints(rig.arms[name].arm, q)]
    columns = {name: list(entry.joints.columns) for name, entry in rig.arms.items()}
    if all(max(one) < episode.action.shape[1] for one in columns.values()):
        scale = {name: np.pi / 180 if entry.joints.unit == "deg" else 1.0 for name, entry in rig.arms.items()}
        commands = {name: episode.action[:, one] * scale[name] for name, one in columns.items()}
        found += suspect_swapped_arms(recorded, commands)
    return tuple(f"{one.name}: {one.message}" for one in found)


def _openings(episode: Episode, rig: Rig, sensor: str, contact: dict[str, np.ndarray]) -> Openings:
    """Return the opening held from contact onset and the true one, each (T, 2) or None."""
    arm = rig.sensor_arm(sensor)
    if not arm or rig.arms[arm].gripper is None:
        return None, None
    both = [contact[name] for name in contact if rig.sensor_arm(name) == arm]
    held = opening_in_contact(rig, arm, episode.qpos, np.logical_or.reduce(both))
    return np.asarray(held), read_truth(episode, "opening", 2)


def _views(
    episode: Episode, rig: Rig, cameras: list[str], openings: dict[str, Openings], labels: Labels
) -> Iterator[View]:
    nowhere = np.full((len(episode), 4), np.nan)
    for camera in cameras:
        truth = read_truth(episode, f"box/{camera}", 4)
        qpos = qpos_at_exposure(rig, camera, episode.qpos, episode.fps)
        for sensor, (held, true) in openings.items():
            found = sensor_boxes(rig, camera, sensor, qpos, held)
            seen = nowhere.copy() if truth is None or len(openings) > 1 else truth.copy()
            for frame, box in labels.get((label_name(episode.ref), camera, sensor), {}).items():
                if not 0 <= frame < len(episode):
                    raise InputError(
                        f"{episode.path}: a label names frame {frame}, but the episode has {len(episode)} frames"
                    )
                seen[frame] = box
            yield View(
                camera,
                sensor,
                np.asarray(found.reason),
                np.asarray(found.box),
                np.asarray(sensor_boxes(rig, camera, sensor, qpos).box),
                nowhere if true is None else np.asarray(sensor_boxes(rig, camera, sensor, qpos, true).box),
                seen,
                np.asarray(rig.T_camera_sensor(camera, sensor, qpos, held)),
                held,
            )


def _digest(episode: Episode) -> str:
    digest = hashlib.sha256(episode.path.name.encode())
    digest.update(np.ascontiguousarray(episode.qpos).tobytes())
    digest.update(np.ascontiguousarray(episode.action).tobytes())
    for name in (*episode.cameras, *episode.sensors):
        for t in sorted({0, len(episode) // 2, len(episode) - 1}):
            raw = episode.encoded(name, t)
            digest.update(raw if raw is not None else episode.image(name, t).tobytes())
    return digest.hexdigest()


def reasons(views: list[View]) -> str:
    """Say in words why frames have no box: '3 % outside, 1 % behind'; '' when all have one."""
    reason = np.concatenate([view.reason for view in views])
    shares = [(float((reason == i).mean()), text) for i, text in enumerate(REASONS) if i]
    return ", ".join(f"{share:.0%} {text}" for share, text in shares if share > 0)
