"""Data of one episode for checks of a rig: contact, predicted boxes, and boxes of where the sensors really are."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.datasets.episodes import Episode, EpisodeRef
from tactile_align.datasets.roles import Array, side_of
from tactile_align.datasets.truth import read_truth
from tactile_align.errors import InputError
from tactile_align.geometry.boxes import intersection_over_union
from tactile_align.kinematics.arm import joint_values
from tactile_align.kinematics.guards import Suspicion, suspect_joints, suspect_swapped_arms
from tactile_align.projection.episode_boxes import (
    episode_boxes,
    hand_of,
    hold_sensors,
    recorded_contact,
    require_rig_size,
)
from tactile_align.projection.sensor_box import REASONS


@dataclass(frozen=True)
class View:
    """Boxes of one sensor in one camera, over the T frames of an episode, px of the stored frame.

    Attributes:
        camera: Name of the camera.
        sensor: Name of the sensor.
        reason: (T,) index into REASONS; 0 in frames with a box.
        box: (T, 4) predicted boxes as training uses them, see `episode_boxes`; nan in frames without a box.
        unheld: (T, 4) predicted boxes for the opening as recorded. In `box`, a commanded opening is held during
            contact.
        true_opening: (T, 4) predicted boxes for the true opening; nan if the recording does not contain it.
        seen: (T, 4) boxes of where the sensor really is, from truth or labels; nan where both are missing.
        T_camera_sensor: (T, 4, 4) poses of the sensor from which `box` was computed, metres.
        opening: (T, 2) distances of the two fingers from the tool axis from which `box` was computed, metres; None for
            a sensor that is not on a gripper.
        fitted: Frames whose box in `seen` a fit of the rig has used.
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
    fitted: Sequence[int] = ()

    def iou(self, which: str = "box") -> np.ndarray:
        """Return the IoU (T,) of the boxes `which` (box, unheld, true_opening) with `seen`; nan if a box is missing."""
        return np.asarray(intersection_over_union(getattr(self, which), self.seen))


@dataclass(frozen=True)
class Evidence:
    """Data of one episode with which a rig is checked.

    Attributes:
        name: The episode's file (and its name in that file).
        rig: The rig for this episode, overrides applied.
        qpos: (T, D) raw state as recorded: joint and gripper readings, D numbers.
        fps: Rows per second; None if unknown.
        frames: T, the number of frames.
        views: One view per camera and sensor.
        contact: (T,) bool by sensor: whether the sensor touches something.
        commanded: (T,) bool by sensor: whether the sensor is in contact and the gripper reading is only a command.
        largest_step: Largest change of a joint between two frames, rad.
        suspicions: Likely faults of the recorded joints.
        missing_cameras: Cameras of the rig that the episode lacks.
        missing_sensors: Sensors of the rig whose stream the episode lacks.
        unknown_cameras: Cameras of the episode that the rig lacks.
        digest: Hash of the episode's data.
        idle_grippers: By each sensor on the flange of an arm without gripper: columns that may be its gripper's, with
            their range, as text, and whether their names are those of a gripper. They are columns of qpos that the rig
            does not read, and arrays that are only carried.
    """

    name: str
    rig: Rig
    qpos: np.ndarray
    fps: float | None
    frames: int
    views: tuple[View, ...]
    contact: dict[str, np.ndarray]
    commanded: dict[str, np.ndarray]
    largest_step: float
    suspicions: tuple[Suspicion, ...]
    missing_cameras: tuple[str, ...]
    missing_sensors: tuple[str, ...]
    unknown_cameras: tuple[str, ...]
    digest: str
    idle_grippers: dict[str, tuple[str, bool]] = field(default_factory=dict)


Labels = dict[tuple[str, str, str], dict[int, tuple[float, float, float, float]]]
"""Hand-drawn boxes (u0, v0, u1, v1), px, by (episode, camera, sensor), then by frame; for episode see `label_name`."""


def label_name(ref: EpisodeRef) -> str:
    """Return the name of an episode as used in labels: its file name, with #NAME if the file holds several episodes."""
    return Path(str(ref)).name


def gather(episode: Episode, rig: Rig, labels: Labels | None = None) -> Evidence:
    """Return the data of one episode with which a rig is checked.

    Raises:
        InputError: The frames differ in size from the rig's, joints or gripper readings are out of range (degrees?
            normalised?), or qpos has fewer columns than the rig reads. The message states file and key.
        EpisodeError: The frames or the truth are damaged.
    """
    rig = rig.for_episode(episode.path)
    cameras = [name for name in rig.cameras if name in episode.cameras]
    for camera in cameras:
        require_rig_size(episode, rig, camera)
    try:
        steps = [np.abs(np.diff(rig.joints(arm, episode.qpos), axis=0)) for arm in rig.arms]
        contact = recorded_contact(episode, rig, rig.sensors)
        views = tuple(_views(episode, rig, cameras, contact, labels or {}))
    except InputError as error:
        if str(episode.path) in str(error):
            raise
        raise InputError(episode.about(error)) from error
    held = {name for name in contact if (arm := hand_of(rig, name)) and hold_sensors(rig, arm)}
    return Evidence(
        name=str(episode.ref),
        rig=rig,
        qpos=episode.qpos,
        fps=episode.fps,
        frames=len(episode),
        views=views,
        contact=contact,
        commanded={name: flags & (name in held) for name, flags in contact.items()},
        largest_step=float(max((step.max() for step in steps if step.size), default=0.0)),
        suspicions=_suspicions(episode, rig),
        missing_cameras=tuple(name for name in rig.cameras if name not in cameras),
        missing_sensors=tuple(name for name in rig.sensors if name not in contact),
        unknown_cameras=tuple(name for name in episode.cameras if name not in rig.cameras),
        digest=_digest(episode),
        idle_grippers=_idle_grippers(episode, rig),
    )


def rigid_sensors(rig: Rig) -> list[str]:
    """Return the names of the sensors on the flange of an arm for which the rig states no gripper."""
    ends = {f"{name}/flange" for name, arm in rig.arms.items() if arm.gripper is None}
    return [name for name, sensor in rig.sensors.items() if sensor.parent in ends]


def _idle_grippers(episode: Episode, rig: Rig) -> dict[str, tuple[str, bool]]:
    sensors = rigid_sensors(rig)
    if not sensors:
        return {}
    read = {i for arm in rig.arms.values() for i in arm.joints.columns}
    read |= {arm.gripper.column for arm in rig.arms.values() if arm.gripper is not None}
    names, keys = episode.layout.labels("qpos", episode.qpos.shape[1]), episode.column_keys("qpos")
    idle = [i for i in range(len(names)) if i not in read and np.ptp(episode.qpos[:, i]) > 0]
    texts = {i: f"{names[i]}, {episode.qpos[:, i].min():.4g} to {episode.qpos[:, i].max():.4g}" for i in idle}
    paths = {i: f"{keys[i]}/{names[i]}" for i in idle}
    named = [i for i in idle if any(Array(path, "", "other").of_gripper for path in (keys[i], paths[i]))]
    sole = list(texts.values()) if len(idle) == 1 and not named else []
    candidates = [*((paths[i], texts[i]) for i in named), *((text, text) for text in episode.carried_grippers())]
    found: dict[str, tuple[str, bool]] = {}
    for sensor in sensors:
        arm = side_of(rig.sensors[sensor].parent.partition("/")[0])
        own = [text for path, text in candidates if not arm or side_of(path) in ("", arm)]
        if sole or own:
            found[sensor] = "; ".join([*sole, *own]), bool(own)
    return found


def _suspicions(episode: Episode, rig: Rig) -> tuple[Suspicion, ...]:
    """Return likely faults of each arm's joints, and pairs of arms whose columns follow each other's commands."""
    recorded = {name: rig.joints(name, episode.qpos) for name in rig.arms}
    suspicions = [one for name, q in recorded.items() for one in suspect_joints(rig.arms[name].arm, q)]
    if all(max(entry.joints.columns) < episode.action.shape[1] for entry in rig.arms.values()):
        commands = {
            name: joint_values(entry.arm, episode.action[:, list(entry.joints.columns)], entry.joints.unit)
            for name, entry in rig.arms.items()
        }
        suspicions += suspect_swapped_arms(recorded, commands)
    return tuple(suspicions)


def _views(
    episode: Episode, rig: Rig, cameras: list[str], contact: dict[str, np.ndarray], labels: Labels
) -> Iterator[View]:
    nowhere = np.full((len(episode), 4), np.nan)
    for camera in cameras:
        truth = read_truth(episode, f"box/{camera}", 4)
        for sensor in contact:
            view = episode_boxes(rig, camera, sensor, episode.qpos, contact, episode.fps)
            true = read_truth(episode, "opening", 2) if hand_of(rig, sensor) else None
            seen = nowhere.copy() if truth is None or len(contact) > 1 else truth.copy()
            drawn = labels.get((label_name(episode.ref), camera, sensor), {})
            for frame, box in drawn.items():
                if not 0 <= frame < len(episode):
                    raise InputError(
                        f"{episode.path}: a label refers to frame {frame}, but the episode has frames 0 to "
                        f"{len(episode) - 1}. Correct or remove this label"
                    )
                seen[frame] = box
            reason, box, unheld = view.boxes.reason, view.boxes.box, replace(view, opening=None).boxes.box
            true_box = nowhere if true is None else replace(view, opening=true).boxes.box
            fitted = [t for t in rig.fitted_frames(camera, sensor, label_name(episode.ref)) if t in drawn]
            yield View(camera, sensor, reason, box, unheld, true_box, seen, view.T_camera_sensor, view.opening, fitted)


def _digest(episode: Episode) -> str:
    digest = hashlib.sha256(episode.path.name.encode() + episode.qpos.tobytes() + episode.action.tobytes())
    for name in (*episode.cameras, *episode.sensors):
        for t in sorted({0, len(episode) // 2, len(episode) - 1}):
            raw = episode.encoded(name, t)
            digest.update(raw if raw is not None else episode.image(name, t).tobytes())
    return digest.hexdigest()


def reasons(views: list[View]) -> str:
    """Return why frames have no box, as text, such as '3% outside, 1% behind'; '' if all frames have a box."""
    reason = np.concatenate([view.reason for view in views])
    shares = {text: float((reason == i).mean()) for i, text in enumerate(REASONS) if i}
    return ", ".join(f"{share:.0%} {text}" for text, share in shares.items() if share > 0)
