"""Observations of a policy: the required entries of an observation at each step, and a check of the entries."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tactile_align.errors import InputError
from tactile_align.moments.columns import Columns

KEYS = ("qpos", "images", "touches", "contact", "exposure_qpos")


@dataclass(frozen=True)
class Needs:
    """Entries that an observation must have for a policy.

    Attributes:
        state_dim: Number of columns of qpos.
        cameras: (width, height) of each camera that the policy uses, as recorded, px; None: any size.
        touches: (width, height) of each touch stream that the policy uses, as recorded, px; None: any size.
        sensors: Sensors whose contact the observation may state.
        for_contact: Sensor name by touch stream, for streams used only to detect contact. A stream may be omitted if
            the observation states the contact of its sensor. With a commanded gripper, all sensors of the hand count.
        delayed: Cameras whose frames are exposed at a different time from the joint reading.
        columns: Meaning of the columns of qpos and of the actions that `Policy.act` returns; None if not recorded.
        steps: Number of consecutive steps whose touches a policy with a window of touches uses; 1: the present one.
    """

    state_dim: int
    cameras: Mapping[str, tuple[int, int] | None]
    touches: Mapping[str, tuple[int, int] | None]
    sensors: tuple[str, ...]
    for_contact: Mapping[str, str]
    delayed: tuple[str, ...]
    columns: Columns | None = None
    steps: int = 1

    def text(self) -> str:
        """Return the required entries in one line of text, with names and units of the columns where they are known."""
        columns = self.columns if self.columns is not None and self.columns.named else None
        parts = [f"qpos ({self.state_dim},) float" + (f": {', '.join(columns.qpos)}" if columns else "")]
        for what, streams in (("images", self.cameras), ("touches", self.touches)):
            if streams:
                sizes = (f"'{name}'" + (f" {size[0]}x{size[1]}" if size else "") for name, size in streams.items())
                parts.append(f"{what} {', '.join(sizes)} (uint8 RGB, width x height)")
        if self.steps > 1:
            parts.append(f"touches of every step, a window of {self.steps} (`observe` at steps without `act`)")
        if self.delayed:
            parts.append(f"exposure_qpos for {', '.join(self.delayed)}")
        if columns is not None:
            kinds = columns.action_is or ("unknown",) * len(columns.action)
            text = ", ".join(f"{name} {kind}" for name, kind in zip(columns.action, kinds, strict=True))
            guess = " (absolute or delta guessed)" if columns.source.startswith("guessed") else ""
            parts.append(f"returns actions: {text}{guess}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Observation:
    """Observation of a policy whose entries were checked by `checked`.

    Attributes:
        qpos: (D,) float64 robot state of D columns, raw as recorded.
        frames: Frame (height, width, 3) uint8 RGB by stream.
        contact: Stated contact by sensor; sensors whose contact is not stated are missing.
        exposure_qpos: (D,) float64 robot state at the exposure of the frame, by delayed camera.
    """

    qpos: np.ndarray
    frames: dict[str, np.ndarray]
    contact: dict[str, bool]
    exposure_qpos: dict[str, np.ndarray]


def checked(observation: Any, needs: Needs) -> Observation:
    """Return the checked form of an observation.

    Args:
        observation: Mapping with these keys. qpos: (D,) raw robot state of D columns. images, touches: frames (height,
            width, 3) uint8 RGB as recorded, by stream name. contact (optional): bool by sensor. exposure_qpos (only for
            cameras with a delay in the rig): (D,) robot state at the exposure of the frame, by camera. Streams that the
            policy does not use are ignored.
        needs: Entries that the policy needs.

    Raises:
        InputError: An entry is missing, unknown or invalid; the message describes the first one.
    """
    if not isinstance(observation, Mapping):
        raise InputError(
            f"observation must be a dict; got {type(observation).__name__}. Pass a dict with {needs.text()}"
        )
    for key in observation:
        if key not in KEYS:
            raise InputError(
                f"observation contains the unknown key {key!r}; known keys: {', '.join(KEYS)}. Remove {key!r}"
            )
    if "qpos" not in observation:
        raise InputError(f"the observation has no 'qpos'. Pass an observation with {needs.text()}")
    qpos = _state(observation["qpos"], "qpos", needs.state_dim)
    contact = _mapping(observation, "contact", False)
    for name, flag in contact.items():
        if name not in needs.sensors:
            known = ", ".join(needs.sensors) or "none"
            raise InputError(f"contact contains the unknown sensor {name!r}; known sensors: {known}. Remove {name!r}")
        if not isinstance(flag, bool | np.bool_):
            raise InputError(f"contact[{name!r}] must be a bool; got {type(flag).__name__}. Pass True or False")
    frames: dict[str, np.ndarray] = {}
    for what, streams in (("images", needs.cameras), ("touches", needs.touches)):
        stated = {stream for stream, sensor in needs.for_contact.items() if what == "touches" and sensor in contact}
        given = _mapping(observation, what, bool(set(streams) - stated))
        for name, size in streams.items():
            if name in stated and name not in given:
                continue
            if name not in given:
                have = ", ".join(map(str, given)) or "none"
                sensor = needs.for_contact.get(name) if what == "touches" else None
                instead = "" if sensor is None else f", or state contact['{sensor}']"
                raise InputError(
                    f"observation['{what}'] must contain '{name}', which the policy needs; found: {have}. Pass "
                    f"'{name}' as recorded{instead}"
                )
            frames[name] = _frame(given[name], f"{what}['{name}']", size)
    late, exposed = _mapping(observation, "exposure_qpos", bool(needs.delayed)), {}
    for name in needs.delayed:
        if name not in late:
            raise InputError(
                f"exposure_qpos['{name}'] is missing: the rig states a delay_s for camera '{name}', so the policy "
                f"needs the robot state at exposure; found: {', '.join(map(str, late)) or 'none'}. Pass the qpos "
                f"nearest to the exposure"
            )
        exposed[name] = _state(late[name], f"exposure_qpos['{name}']", needs.state_dim)
    return Observation(qpos, frames, {name: bool(flag) for name, flag in contact.items()}, exposed)


def checked_touches(touches: Any, needs: Needs) -> dict[str, np.ndarray]:
    """Return the touch images of a step without an action, by stream, checked as in an observation.

    Raises:
        InputError: A touch is missing or invalid.
    """
    given = _mapping({"touches": touches}, "touches", True)
    streams = {name: size for name, size in needs.touches.items() if name not in needs.for_contact}
    if missing := [name for name in streams if name not in given]:
        raise InputError(
            f"touches must contain '{missing[0]}', which the policy needs at every step; found: "
            f"{', '.join(map(str, given)) or 'none'}. Pass '{missing[0]}' as recorded"
        )
    return {name: _frame(given[name], f"touches['{name}']", size) for name, size in streams.items()}


def _mapping(observation: Mapping[Any, Any], key: str, needed: bool) -> Mapping[Any, Any]:
    value = observation.get(key, None if needed else {})
    if not isinstance(value, Mapping):
        came = "nothing" if value is None else type(value).__name__
        raise InputError(f"observation['{key}'] must be a dict; got {came}. Pass what Policy.needs.text() lists")
    return value


def _state(value: Any, what: str, columns: int) -> np.ndarray:
    array = np.asarray(value) if isinstance(value, np.ndarray | list | tuple) else None
    if array is None or array.dtype.kind != "f" or array.shape != (columns,):
        came = type(value).__name__ if array is None else f"{array.dtype} {array.shape}"
        raise InputError(f"{what} must be a float array of shape ({columns},); got {came}. Pass the raw recorded state")
    if not np.isfinite(array).all():
        column = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InputError(f"{what} must be finite; column {column} is {array[column]}. Check the source of that column")
    return array.astype(np.float64)


def _frame(value: Any, what: str, size: tuple[int, int] | None) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
        came = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise InputError(f"{what} must be a uint8 RGB image (height, width, 3); got {came}. Pass the frame as recorded")
    height, width = value.shape[:2]
    if 0 in value.shape or (size is not None and (width, height) != size):
        wanted = f"{size[0]}x{size[1]}" if size is not None else "at least 1x1"
        raise InputError(
            f"{what} must be {wanted} (width x height) as in training, or boxes would be misplaced; got "
            f"{width}x{height}. Pass frames as the recorder stores them"
        )
    return value
