"""Observations of a policy: what one must hold at each step, and one clear error for everything else."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from tactile_align.errors import InputError

KEYS = ("qpos", "images", "touches", "contact", "exposure_qpos")


@dataclass(frozen=True)
class Needs:
    """Parts that an observation must have.

    Attributes:
        state_dim: Columns of qpos.
        cameras: (width, height) of each camera the policy uses, as recorded, px; None: any size.
        touches: The same for the touch streams.
        sensors: Sensors whose contact may be stated.
        for_contact: Sensor of each touch stream that is used for contact only; the stream is not needed where its
            contact is stated. With a commanded gripper these are all sensors of the hand.
        delayed: Cameras whose frames are exposed at another time than the joints are read.
    """

    state_dim: int
    cameras: Mapping[str, tuple[int, int] | None]
    touches: Mapping[str, tuple[int, int] | None]
    sensors: tuple[str, ...]
    for_contact: Mapping[str, str]
    delayed: tuple[str, ...]

    def text(self) -> str:
        """Return the needs in one line, for people and errors."""
        parts = [f"qpos ({self.state_dim},) float"]
        for what, streams in (("images", self.cameras), ("touches", self.touches)):
            if streams:
                sizes = (f"'{name}'" + (f" {size[0]}x{size[1]}" if size else "") for name, size in streams.items())
                parts.append(f"{what} {', '.join(sizes)} (uint8 RGB, width x height)")
        if self.delayed:
            parts.append(f"exposure_qpos for {', '.join(self.delayed)}")
        return "; ".join(parts)


@dataclass(frozen=True)
class Observation:
    """A checked observation: qpos (D,) float64, frames (H, W, 3) uint8 by stream, contact by sensor where stated."""

    qpos: np.ndarray
    frames: dict[str, np.ndarray]
    contact: dict[str, bool]
    exposure_qpos: dict[str, np.ndarray]


def checked(observation: Any, needs: Needs) -> Observation:
    """Check one observation.

    Args:
        observation: A mapping: "qpos" (D,) raw, "images" and "touches" by stream name, (H, W, 3) uint8 RGB as recorded;
            optionally "contact" by sensor (bool), and "exposure_qpos" by camera (D,): the joints when its frame was
            exposed, for cameras with a delay in the rig. Streams that the policy does not use are ignored.
        needs: What the policy needs.

    Raises:
        InputError: The first thing that is wrong: what was needed, what came, what to do.
    """
    if not isinstance(observation, Mapping):
        raise InputError(f"an observation is a mapping with {needs.text()}; got {type(observation).__name__}")
    for key in observation:
        if key not in KEYS:
            raise InputError(f"an observation has no key {key!r}; it takes {', '.join(KEYS)}. Needed: {needs.text()}")
    if "qpos" not in observation:
        raise InputError(f"the observation has no 'qpos'; needed: {needs.text()}")
    qpos = _state(observation["qpos"], "qpos", needs.state_dim)
    contact = _mapping(observation, "contact", False)
    for name, flag in contact.items():
        if name not in needs.sensors or not isinstance(flag, bool | np.bool_):
            raise InputError(
                f"contact takes one bool a sensor ({', '.join(needs.sensors) or 'no sensor'}); got {name!r}: {flag!r}"
            )
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
                    f"{what} has no '{name}', which the policy needs; it has {have}. Pass it as recorded{instead}"
                )
            frames[name] = _frame(given[name], f"{what}['{name}']", size)
    late, exposed = _mapping(observation, "exposure_qpos", bool(needs.delayed)), {}
    for name in needs.delayed:
        if name not in late:
            raise InputError(
                f"camera '{name}' has delay_s in the rig, so its box needs exposure_qpos['{name}'], the joints when "
                f"the frame was exposed; got {', '.join(map(str, late)) or 'none'}. Pass the reading nearest in time"
            )
        exposed[name] = _state(late[name], f"exposure_qpos['{name}']", needs.state_dim)
    return Observation(qpos, frames, {name: bool(flag) for name, flag in contact.items()}, exposed)


def _mapping(observation: Mapping[Any, Any], key: str, needed: bool) -> Mapping[Any, Any]:
    value = observation.get(key, None if needed else {})
    if not isinstance(value, Mapping):
        came = "nothing" if value is None else type(value).__name__
        raise InputError(f"'{key}' of an observation is a mapping from name to value; got {came}. See Policy.needs")
    return value


def _state(value: Any, what: str, columns: int) -> np.ndarray:
    array = np.asarray(value) if isinstance(value, np.ndarray | list | tuple) else None
    if array is None or array.dtype.kind != "f" or array.shape != (columns,):
        came = type(value).__name__ if array is None else f"{array.dtype} {array.shape}"
        raise InputError(f"{what} must be floats of shape ({columns},), raw as recorded; got {came}")
    if not np.isfinite(array).all():
        column = int(np.flatnonzero(~np.isfinite(array))[0])
        raise InputError(
            f"{what} must be finite; column {column} is {array[column]}. Is that joint's reading connected?"
        )
    return array.astype(np.float64)


def _frame(value: Any, what: str, size: tuple[int, int] | None) -> np.ndarray:
    if not isinstance(value, np.ndarray) or value.dtype != np.uint8 or value.ndim != 3 or value.shape[2] != 3:
        came = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise InputError(f"{what} must be a uint8 RGB image (height, width, 3), as recorded; got {came}")
    height, width = value.shape[:2]
    if 0 in value.shape or (size is not None and (width, height) != size):
        wanted = f"{size[0]}x{size[1]}" if size is not None else "at least 1x1"
        raise InputError(
            f"{what} must be {wanted} (width x height) as in training; got {width}x{height}. A box would land in the "
            f"wrong place: send frames as the recorder stores them"
        )
    return value
