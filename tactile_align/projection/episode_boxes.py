"""The box of a sensor in an episode: contact, opening, joints at exposure, projection.

One rule in two forms: `episode_boxes` for all frames of a recording; `HeldOpening` (opening) and `ViewBoxes` (boxes)
frame by frame, as on a robot. Each commanded opening is held from the first frame in which
ANY sensor of the hand touches something: an object under one finger stops the whole gripper.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np

from tactile_align.calibration.rig import Rig
from tactile_align.datasets.contact import contact_of
from tactile_align.datasets.episodes import Episode
from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array
from tactile_align.kinematics.gripper import opening_in_contact
from tactile_align.projection.other_finger import other_finger_boxes
from tactile_align.projection.sensor_box import SensorBoxes, sensor_boxes
from tactile_align.projection.uncertainty import pixel_sigma


@dataclass(frozen=True)
class ViewBoxes:
    """Boxes of one sensor in one camera, in one frame or many, with all their inputs.

    Attributes:
        rig: The rig.
        camera: A camera of it.
        sensor: A sensor of it.
        qpos: (..., D) raw state at the exposure of each frame.
        opening: (..., 2) metres per finger at the row of each frame, not at its exposure; None: the gripper reading of
            `qpos`.
        ahead_m: As in `sensor_boxes`, metres.
        min_side_px: As in `sensor_boxes`.
    """

    rig: Rig
    camera: str
    sensor: str
    qpos: np.ndarray
    opening: np.ndarray | None
    ahead_m: float = 0.0
    min_side_px: float = 4

    def at(self, rows: Any) -> "ViewBoxes":
        """Return the boxes of some frames: an index, a slice, flags, or an array of indices of any shape."""
        return replace(self, qpos=self.qpos[rows], opening=None if self.opening is None else self.opening[rows])

    @cached_property
    def boxes(self) -> SensorBoxes:
        """The boxes; errors as `sensor_boxes`."""
        limits: dict[str, Any] = {"min_side_px": self.min_side_px, "ahead_m": self.ahead_m}
        return sensor_boxes(self.rig, self.camera, self.sensor, self.qpos, self.opening, **limits)

    @cached_property
    def sigma_px(self) -> np.ndarray:
        """(..., 2) standard deviation along u and v, stored px; errors as `pixel_sigma`."""
        return pixel_sigma(self.rig, self.camera, self.sensor, self.qpos, self.opening, self.ahead_m)

    @cached_property
    def other_finger(self) -> SensorBoxes:
        """Boxes of the sensor, or its mirror image, on the other finger; errors as `other_finger_boxes`."""
        return other_finger_boxes(self.rig, self.camera, self.sensor, self.qpos, self.opening)

    @cached_property
    def T_camera_sensor(self) -> np.ndarray:
        """(..., 4, 4) pose of the sensor in the camera's frame, metres."""
        return np.asarray(self.rig.T_camera_sensor(self.camera, self.sensor, self.qpos, self.opening))


def episode_boxes(
    rig: Rig,
    camera: str,
    sensor: str,
    qpos: np.ndarray,
    contact: Mapping[str, np.ndarray],
    fps: float | None,
    *,
    ahead_m: float = 0.0,
    min_side_px: float = 4,
) -> ViewBoxes:
    """Return the boxes of a sensor in a camera over an episode.

    Args:
        rig: The rig that holds for the episode.
        camera: A camera of it.
        sensor: A sensor of it.
        qpos: (T, D) raw state, frames in order.
        contact: By sensor, (T,) bool: every sensor of the hand that the episode records; further sensors are ignored.
        fps: Rows per second; None where the camera has no delay.
        ahead_m: As in `sensor_boxes`, metres.
        min_side_px: As in `sensor_boxes`.

    Raises:
        InputError: Unknown names, a gripper reading out of range, a delay without a rate.
    """
    arm = hand_of(rig, sensor)
    opening = held_opening(rig, arm, qpos, contact) if arm else None
    return ViewBoxes(rig, camera, sensor, qpos_at_exposure(rig, camera, qpos, fps), opening, ahead_m, min_side_px)


def hand_of(rig: Rig, sensor: str) -> str:
    """Return the arm whose gripper carries a sensor, '' for a sensor on no gripper."""
    arm = rig.sensor_arm(sensor)
    return arm if arm and rig.arms[arm].gripper is not None else ""


def hold_sensors(rig: Rig, arm: str) -> tuple[str, ...]:
    """Return the sensors whose contact holds an arm's opening: all of the hand; none where its reading is measured.

    Raises:
        InputError: No such arm, or it has no gripper.
    """
    if rig.gripper(arm).reading == "measured":
        return ()
    return tuple(name for name in rig.sensors if rig.sensor_arm(name) == arm)


def contact_flags(episode: Episode, stream: str) -> np.ndarray:
    """Return (T,) bool, the frames of an episode in which a touch stream shows contact; errors as `Episode.image`."""
    return contact_of(episode.image(stream, t) for t in range(len(episode))).flags


def recorded_contact(episode: Episode, rig: Rig, sensors: Iterable[str]) -> dict[str, np.ndarray]:
    """Return by sensor the (T,) contact of those whose touch stream the episode records."""
    streams = {name: rig.sensor(name).stream for name in sensors}
    return {name: contact_flags(episode, stream) for name, stream in streams.items() if stream in episode.sensors}


def hand_contact(rig: Rig, arm: str, contact: Mapping[str, Array]) -> np.ndarray:
    """Return whether a hand touches something: any sensor on the arm does.

    Args:
        rig: The rig.
        arm: An arm of it.
        contact: By sensor, (...) bool; sensors of other arms are ignored.

    Returns:
        (...) bool; a scalar False where no sensor of the arm is named.
    """
    flags = [touching for name, touching in contact.items() if rig.sensor_arm(name) == arm]
    return np.asarray(reduce(np.logical_or, flags, np.False_))


def held_opening(rig: Rig, arm: str, qpos: np.ndarray, contact: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the finger openings of an arm, (T, 2) metres: a commanded reading is held while the hand touches.

    Args:
        rig: The rig.
        arm: An arm of it.
        qpos: (T, D) raw state, frames in order.
        contact: By sensor, (T,) bool, as in `episode_boxes`.

    Raises:
        InputError: No gripper, a reading out of range, flags of another length.
    """
    touching = hand_contact(rig, arm, contact)
    flags = touching if touching.shape else np.zeros(len(qpos), bool)
    return np.asarray(opening_in_contact(rig, arm, qpos, flags))


def openings(rig: Rig, qpos: np.ndarray, contact: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return `held_opening` by arm with a gripper, (T, 2) metres."""
    return {arm: held_opening(rig, arm, qpos, contact) for arm, entry in rig.arms.items() if entry.gripper is not None}


class HeldOpening:
    """The opening of one hand frame by frame, equal to `held_opening` over all frames.

    Args:
        rig: The rig.
        arm: An arm of it.

    Attributes:
        sensors: The sensors whose contact each step needs; see `hold_sensors`.
        onset: (2,) the opening at which the present contact began, metres; None without contact. Set it to None to
            begin another episode, or to an earlier value to go back.

    Raises:
        InputError: No such arm, or it has no gripper.
    """

    def __init__(self, rig: Rig, arm: str) -> None:
        self.rig, self.arm = rig, arm
        self.sensors = hold_sensors(rig, arm)
        self.onset: np.ndarray | None = None

    def step(self, qpos: np.ndarray, contact: Mapping[str, bool]) -> np.ndarray:
        """Return (2,) metres per finger in the next frame.

        Args:
            qpos: (D,) raw state.
            contact: By sensor, whether it touches something: at least all of `sensors`.

        Raises:
            InputError: A contact is missing; a reading out of range.
        """
        missing = [name for name in self.sensors if name not in contact]
        if missing:
            text = f"the gripper of arm '{self.arm}' reports commands, so its opening needs the contact of"
            got = f"got {', '.join(contact) or 'none'}. Add {', '.join(missing)}"
            raise InputError(f"{text} {', '.join(self.sensors)}; {got}")
        now = np.asarray(self.rig.gripper(self.arm).opening(qpos))
        if not hand_contact(self.rig, self.arm, {name: contact[name] for name in self.sensors}):
            self.onset = None
            return now
        self.onset = now if self.onset is None else self.onset
        return np.maximum(now, self.onset)


def qpos_at_exposure(rig: Rig, camera: str, qpos: np.ndarray, fps: float | None) -> np.ndarray:
    """Return qpos at the exposure of a camera's frames, `delay_s` after the joint readings of their rows.

    Joints are interpolated between rows. Frames exposed before the first row or after the last get the joints of that
    row.

    Args:
        rig: The rig with the delay.
        camera: Name of the camera.
        qpos: (T, D) raw state of an episode.
        fps: Rows per second of the recording.

    Returns:
        (T, D); `qpos` itself for a camera without delay.

    Raises:
        InputError: A delay, but no rate to count it in rows.
    """
    delay = rig.camera(camera).delay_s
    if delay == 0.0:
        return qpos
    if fps is None:
        text = f"camera '{camera}' has delay_s = {delay}, which needs the recording's rate"
        raise InputError(f"{text}; state fps in the layout file or in the episode's attributes")
    rows = np.arange(len(qpos), dtype=np.float64)
    shifted = np.clip(rows + delay * fps, 0, len(qpos) - 1)
    return np.stack([np.interp(shifted, rows, column) for column in qpos.T], axis=-1)


def require_rig_size(episode: Episode, rig: Rig, camera: str) -> None:
    """Refuse an episode whose frames differ in size from the rig's camera.

    Raises:
        InputError: Names file, stream and both sizes.
    """
    stored, recorded = rig.camera(camera).stored, episode.width_height(camera)
    if recorded != (stored.width, stored.height):
        states = f"rig {rig.name} states {stored.width}x{stored.height} for camera '{camera}'"
        text = f"{episode.stream(camera).key} holds {recorded[0]}x{recorded[1]} frames but {states}"
        remedy = (
            f"State the recorder's crop and resize in cameras.{camera}.image_map, or use the rig of these recordings"
        )
        raise InputError(f"{episode.ref}: {text} (width x height, after image_map). {remedy}")
