"""Boxes of a sensor in an episode, from contact, gripper opening, joints at exposure, and projection.

`episode_boxes` computes the boxes of all frames of a recording. `HeldOpening` (opening) and `ViewBoxes` (boxes) compute
the same boxes frame by frame, as on a robot. A commanded opening is held from the first frame in which ANY
sensor of the hand touches something, because an object at one finger stops the whole gripper.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tactile_align.calibration.rig import Rig, rig_beside
from tactile_align.datasets.action_kinds import is_target
from tactile_align.datasets.contact import Contact, contact_of
from tactile_align.datasets.episodes import Episode, open_episode
from tactile_align.datasets.layout import NoContact
from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array
from tactile_align.kinematics.gripper import opening_in_contact
from tactile_align.projection.sensor_box import SensorBoxes, other_finger_boxes, pixel_sigma, sensor_boxes

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ViewBoxes:
    """Boxes of one sensor in one camera's images, for one frame or many, with the inputs that give the boxes.

    Attributes:
        rig: The rig.
        camera: Name of a camera of the rig.
        sensor: Name of a sensor of the rig.
        qpos: (..., D) raw state (joint and gripper readings, D numbers) at the exposure of each frame.
        opening: (..., 2) distance of each finger from the tool axis, metres, at the row of each frame, not at its
            exposure; None: computed from the gripper reading in `qpos`.
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
        """Return the `ViewBoxes` of some of the frames.

        `rows` selects the frames: an index, a slice, bool flags, or an array of indices of any shape.
        """
        return replace(self, qpos=self.qpos[rows], opening=None if self.opening is None else self.opening[rows])

    @cached_property
    def boxes(self) -> SensorBoxes:
        """Boxes of the sensor in the camera's images; errors as in `sensor_boxes`."""
        limits: dict[str, Any] = {"min_side_px": self.min_side_px, "ahead_m": self.ahead_m}
        return sensor_boxes(self.rig, self.camera, self.sensor, self.qpos, self.opening, **limits)

    @cached_property
    def sigma_px(self) -> np.ndarray:
        """(..., 2) standard deviations of the pad's centre along u and v, px of the stored image; see `pixel_sigma`."""
        return pixel_sigma(self.rig, self.camera, self.sensor, self.qpos, self.opening, self.ahead_m)

    @cached_property
    def other_finger(self) -> SensorBoxes:
        """Boxes of the sensor (real or assumed) on the gripper's other finger; see `other_finger_boxes`."""
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
    """Return the boxes of a sensor in a camera's images in all frames of an episode.

    Args:
        rig: The rig for this episode.
        camera: Name of a camera of the rig.
        sensor: Name of a sensor of the rig.
        qpos: (T, D) raw state of the T frames in order: joint and gripper readings, D numbers.
        contact: (T,) bool by sensor, whether it touches something, for every sensor on the same arm that the
            episode contains; other sensors are ignored.
        fps: Rows per second; may be None if the camera has no delay.
        ahead_m: As in `sensor_boxes`, metres.
        min_side_px: As in `sensor_boxes`.

    Raises:
        InputError: A name is unknown, a gripper reading is out of range, or a camera has a delay but `fps` is None.
    """
    arm = hand_of(rig, sensor)
    opening = held_opening(rig, arm, qpos, contact) if arm else None
    return ViewBoxes(rig, camera, sensor, qpos_at_exposure(rig, camera, qpos, fps), opening, ahead_m, min_side_px)


def hand_of(rig: Rig, sensor: str) -> str:
    """Return the name of the arm with a gripper that carries a sensor; '' if no such arm carries it."""
    arm = rig.sensor_arm(sensor)
    return arm if arm and rig.arms[arm].gripper is not None else ""


def hold_sensors(rig: Rig, arm: str) -> tuple[str, ...]:
    """Return the names of the sensors on an arm; () if the reading of its gripper is measured.

    If the reading is a command, the opening is held at its value at the onset of contact while any of these sensors
    touches something.

    Raises:
        InputError: The rig has no such arm, or the arm has no gripper.
    """
    if rig.gripper(arm).reading == "measured":
        return ()
    return tuple(name for name in rig.sensors if rig.sensor_arm(name) == arm)


def stream_contact(
    episode: Episode, stream: str, rig: Rig | None = None, touches: Iterable[np.ndarray] | None = None
) -> Contact:
    """Return the contact of a touch stream, from its images, its no-contact reference and the gripper of its hand.

    Args:
        episode: The episode.
        stream: Name of a touch stream of the episode.
        rig: The rig for this episode; None: only images and the layout's reference are used.
        touches: The T frames of the stream, perhaps smaller than recorded; None: read from the episode.

    Raises:
        InputError: The no-contact reference cannot be read, or a gripper reading is out of range. Other errors as in
            `Episode.image`.
    """
    frames = (episode.image(stream, t) for t in range(len(episode))) if touches is None else touches
    sensors = {} if rig is None else {name: one for name, one in rig.sensors.items() if one.stream == stream}
    place = next((one.no_contact for one in sensors.values() if one.no_contact), episode.layout.touches.no_contact)
    if place is not None:
        return contact_of(frames, reference=no_contact_image(place, stream, episode))
    arm = next((hand_of(rig, name) for name in sensors), "") if rig is not None else ""
    if rig is None or not arm:
        return contact_of(frames)
    gripper, reading = rig.gripper(arm), np.asarray(rig.gripper(arm).opening(episode.qpos))
    if gripper.reading == "commanded":
        return contact_of(frames, command=reading)
    command = None
    same, state = episode.action.shape == episode.qpos.shape, episode.layout.state
    if same and is_target(state, episode.qpos, episode.action, gripper.column):
        with suppress(InputError):  # actions may be normalised, and then are no evidence
            command = np.asarray(gripper.opening(episode.action))
    return contact_of(frames, opening=reading, command=command)


def contact_beside(folder: Path) -> Callable[[Episode, str, Iterable[np.ndarray]], Contact]:
    """Return `stream_contact` with the rig of a folder, as a function of an episode, a stream and its touches.

    The rig is that of `rig_beside`; without one, or if it cannot be read, no rig is used.
    """
    rig = None
    try:
        rig = rig_beside(folder)
    except InputError as error:
        logger.warning(f"{folder / 'rig.toml'}: the rig is no evidence of contact, because it cannot be read: {error}")
    return lambda episode, stream, touches: stream_contact(
        episode, stream, rig and rig.for_episode(episode.path), touches
    )


def no_contact_image(place: NoContact, stream: str, episode: Episode | None = None) -> np.ndarray:
    """Return a no-contact reference, (H, W, 3) uint8 RGB.

    Args:
        place: Place of the reference.
        stream: Name of the touch stream.
        episode: The episode whose own frames are meant if `place` names no file; None: it must name one.

    Raises:
        InputError: The file is missing or is no image, the episode has no such stream or too few rows, or neither a
            file nor an episode is given.
    """
    needed = f"the no-contact reference of '{stream}'"
    if place.file is None and episode is None:
        text = f"{needed} is frames {place.frames} of each episode, but no episode is given"
        raise InputError(f"{text}. State a file, or pass a reference")
    if place.file is not None and place.is_image:
        image = cv2.imread(place.file, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if image is None:
            text = f"{needed} is stated as {place.file}, which does not exist or is no image"
            raise InputError(f"{text}. Correct `file`, or state `frames` of an episode")
        return np.ascontiguousarray(image[..., ::-1])
    if place.file is not None:
        if not Path(place.file.partition("#")[0]).exists():
            raise InputError(f"{needed} is stated as {place.file}, which does not exist. Correct `file`")
        with open_episode(place.file) as other:
            return no_contact_image(NoContact(frames=place.frames), stream, other)
    assert episode is not None
    if stream not in episode.sensors or place.rows.stop > len(episode):
        has = f"has {len(episode)} rows and the touch streams {', '.join(episode.sensors) or 'none'}"
        raise InputError(f"{needed} is frames {place.frames} of {episode.ref}, which {has}. Correct `no_contact`")
    return np.median([episode.image(stream, t) for t in place.rows], axis=0).round().astype(np.uint8)


def contact_flags(episode: Episode, rig: Rig, stream: str) -> np.ndarray:
    """Return whether a sensor's image stream shows contact in each of T frames, (T,) bool.

    If the frames in contact cannot be determined, no frame counts as contact, and a warning states why. The errors are
    those of `stream_contact`.
    """
    contact = stream_contact(episode, stream, rig)
    if contact.doubt:
        logger.warning(f"{episode.ref}: {stream}: the frames in contact cannot be determined: {contact.doubt}")
    return contact.flags


def recorded_contact(episode: Episode, rig: Rig, sensors: Iterable[str]) -> dict[str, np.ndarray]:
    """Return flags (T,) that are True in frames with contact, for each sensor whose stream is in the episode."""
    streams = {name: rig.sensor(name).stream for name in sensors}
    return {name: contact_flags(episode, rig, stream) for name, stream in streams.items() if stream in episode.sensors}


def hand_contact(rig: Rig, arm: str, contact: Mapping[str, Array]) -> np.ndarray:
    """Return whether any sensor on an arm touches something.

    Args:
        rig: The rig.
        arm: Name of an arm of the rig.
        contact: (...) bool by sensor; sensors of other arms are ignored.

    Returns:
        (...) bool; a scalar False if `contact` contains no sensor of the arm.
    """
    flags = [touching for name, touching in contact.items() if rig.sensor_arm(name) == arm]
    return np.asarray(reduce(np.logical_or, flags, np.False_))


def held_opening(rig: Rig, arm: str, qpos: np.ndarray, contact: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the distance of both fingers from the tool axis in T frames, (T, 2), metres.

    If the gripper's reading is a command, the opening is held during contact; see `opening_in_contact`.

    Args:
        rig: The rig.
        arm: Name of an arm of the rig.
        qpos: (T, D) raw state of the T frames in order: joint and gripper readings, D numbers.
        contact: (T,) bool by sensor, as in `episode_boxes`.

    Raises:
        InputError: The arm has no gripper, a reading is out of range, or flags and `qpos` differ in length.
    """
    touching = hand_contact(rig, arm, contact)
    flags = touching if touching.shape else np.zeros(len(qpos), bool)
    return np.asarray(opening_in_contact(rig, arm, qpos, flags))


def openings(rig: Rig, qpos: np.ndarray, contact: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the openings (T, 2), metres, in T frames of every arm with a gripper, by arm; see `held_opening`."""
    return {arm: held_opening(rig, arm, qpos, contact) for arm, entry in rig.arms.items() if entry.gripper is not None}


class HeldOpening:
    """Opening of one gripper, updated frame by frame; the result is that of `held_opening` over all frames.

    Args:
        rig: The rig.
        arm: Name of an arm of the rig.

    Attributes:
        sensors: Names of the sensors whose contact `step` needs; see `hold_sensors`.
        onset: (2,) opening of each finger when the current contact began, metres; None without contact. Set it to None
            to start another episode, or to an earlier value to return to an earlier frame.

    Raises:
        InputError: The rig has no such arm, or the arm has no gripper.
    """

    def __init__(self, rig: Rig, arm: str) -> None:
        self.rig, self.arm = rig, arm
        self.sensors = hold_sensors(rig, arm)
        self.onset: np.ndarray | None = None

    def step(self, qpos: np.ndarray, contact: Mapping[str, bool]) -> np.ndarray:
        """Return the distance of each finger from the tool axis, (2,) metres, in the next frame.

        Args:
            qpos: (D,) raw state: joint and gripper readings.
            contact: Whether a sensor touches something, by sensor; must contain all names in `sensors`.

        Raises:
            InputError: The contact of a sensor is missing, or the gripper reading is out of range.
        """
        missing = [name for name in self.sensors if name not in contact]
        if missing:
            text = f"contact lacks {', '.join(missing)} (found: {', '.join(contact) or 'none'})"
            need = f"the gripper of arm '{self.arm}' reports commands, so its opening depends on contact"
            raise InputError(f"{text}; {need}. Add a flag for each of {', '.join(self.sensors)}")
        now = np.asarray(self.rig.gripper(self.arm).opening(qpos))
        if not hand_contact(self.rig, self.arm, {name: contact[name] for name in self.sensors}):
            self.onset = None
            return now
        self.onset = now if self.onset is None else self.onset
        return np.maximum(now, self.onset)


def qpos_at_exposure(rig: Rig, camera: str, qpos: np.ndarray, fps: float | None) -> np.ndarray:
    """Return qpos at the time when a camera's frames were exposed.

    A frame is exposed by the camera's `delay_s` later than the joints of its row are read. Joints are interpolated
    between rows. Frames exposed before the first row or after the last row get the joints of that row.

    Args:
        rig: The rig with the delay.
        camera: Name of the camera.
        qpos: (T, D) raw state of an episode of T frames: joint and gripper readings, D numbers.
        fps: Rows per second of the recording.

    Returns:
        (T, D) raw state at the exposures; `qpos` itself for a camera without delay.

    Raises:
        InputError: The camera has a delay, but `fps` is None.
    """
    delay = rig.camera(camera).delay_s
    if delay == 0.0:
        return qpos
    if fps is None:
        text = f"camera '{camera}' has delay_s = {delay}, but the frame rate of the recording is unknown"
        raise InputError(f"{text}. State fps in the layout file or in the episode's attributes")
    rows = np.arange(len(qpos), dtype=np.float64)
    shifted = np.clip(rows + delay * fps, 0, len(qpos) - 1)
    return np.stack([np.interp(shifted, rows, column) for column in qpos.T], axis=-1)


def require_rig_size(episode: Episode, rig: Rig, camera: str) -> None:
    """Raise an error if the frames of an episode differ in width or height from the images of the rig's camera.

    Raises:
        InputError: They differ. The message contains file, stream, and both widths and heights.
    """
    stored, recorded = rig.camera(camera).stored, episode.width_height(camera)
    if recorded != (stored.width, stored.height):
        states = f"rig {rig.name} states {stored.width}x{stored.height} for camera '{camera}'"
        text = f"{episode.stream(camera).key} contains {recorded[0]}x{recorded[1]} frames but {states}"
        remedy = (
            f"State the recorder's crop and resize in cameras.{camera}.image_map, or use the rig of these recordings"
        )
        raise InputError(f"{episode.ref}: {text} (width x height, after image_map). {remedy}")
