"""Probable role of each array in a file of an unknown layout, by its shape, its values and its name."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import h5py
import numpy as np

from tactile_align.datasets import codec, hdf5
from tactile_align.datasets.containers.tree import Group, array, below, is_array, is_group, names, read_row, sound
from tactile_align.datasets.layout import Kind
from tactile_align.datasets.streams import described, holds_no_frames, kind_of, shaped_as_frames
from tactile_align.errors import EpisodeError, printable

Role = Literal[
    "camera",
    "touch",
    "camera or touch",
    "unreadable frames",
    "depth",
    "joints",
    "gripper",
    "state",
    "velocities",
    "action",
    "pose",
    "time",
    "numbers",
    "unreadable",
    "other",
]
FRAMES: tuple[Role, ...] = ("camera", "touch", "camera or touch")
"""Roles of arrays that contain frames which a layout can read."""
LAYOUT_KEYS: dict[Role, str] = {
    "camera": "camera",
    "touch": "touch",
    "camera or touch": "camera or touch",
    "unreadable frames": "frames in a form that is not read",
    "depth": "depth",
    "joints": "state.qpos",
    "gripper": "state.qpos",
    "state": "state.qpos",
    "velocities": "state.qvel",
    "action": "state.action",
    "pose": "state.carried",
    "time": "times of the rows",
}
"""Use of a role in a layout, as `Array.text` shows it."""

TOUCH = ("tactile", "touch", "digit", "gelsight", "gelslim", "gsmini", "gelmini", "xense", "mctac", "dtact", "vistac")
"""Beginnings of words in the names of touch streams."""
TOUCH_WORDS = {"gel", "gels", "tac"}
CAMERA_WORDS = (
    {"cam", "camera", "cameras", "webcam", "realsense", "zed", "d405", "d415", "d435", "d455"}
    | {"wrist", "scene", "front", "side", "top", "head", "ego", "eye", "hand", "agentview"}
    | {"external", "exterior", "overhead", "third", "view", "high", "low", "bird", "table", "base"}
)
FINGER_WORDS = {"finger", "fingers", "gripper", "jaw", "pad", "thumb", "tip", "fingertip"}
TIME_WORDS = {"time", "times", "timestamp", "timestamps", "stamp", "stamps"}
ACTION_WORDS = {"action", "actions", "command", "commands", "cmd", "target", "targets"}
ASKED_WORDS = ACTION_WORDS | {"commanded", "desired", "goal", "request", "requested", "setpoint"}
"""Words in the names of a gripper's commands."""
SPEED_WORDS = {"vel", "velocity", "velocities", "qvel", "dq", "speed", "speeds"}
OTHER_WORDS = {
    "effort",
    "torque",
    "torques",
    "tau",
    "force",
    "forces",
    "wrench",
    "current",
    "load",
    "acc",
    "acceleration",
    "imu",
} | {"cos", "sin", "marker", "markers", "flow", "reward", "rewards", "done", "dones", "phase", "mask", "next"}
GRIPPER_WORDS = {"gripper", "hand", "width", "jaw", "jaws", "opening", "aperture", "finger", "fingers"}
POSE_WORDS = {"ee", "eef", "tcp", "pose", "poses", "endpose", "cartesian", "quat", "xyz", "rpy", "rotvec"}
JOINT_WORDS = {"qpos", "joint", "joints", "q", "angles"}
STATE_WORDS = {"state", "states", "proprio", "position", "positions", "pos"}
EPISODE_WORDS = {"demo", "episode", "ep", "traj", "trajectory", "trial", "rollout", ""}


def words(path: str) -> tuple[str, ...]:
    """Return the words of a path or name in lower case: "obs/leftGripper_pos1" has obs, left, gripper, pos.

    A camera is a word of its own: "handcam" has hand, cam.
    """
    split = re.sub(r"([a-z0-9])([A-Z])|(?<=[a-z]{3})(?=cam(era)?s?(?![a-z]))", r"\1 \2", path)
    return tuple(word for word in re.split(r"[^a-z0-9]+|(?<=[a-z]{2})\d+", split.lower()) if word)


def side_of(path: str) -> str:
    """Return "left" or "right" if a path or name contains only the word of this side, otherwise ""."""
    sides = {"left": "left", "l": "left", "right": "right", "r": "right"}
    found = {sides[word] for word in words(path) if word in sides}
    return found.pop() if len(found) == 1 else ""


def is_touch_name(name: str) -> bool:
    """Return whether a name contains a word for a touch sensor."""
    return any(word.startswith(TOUCH) or word in TOUCH_WORDS for word in words(name))


@dataclass(frozen=True)
class Array:
    """Array of an episode of an unknown layout, with its probable role.

    Attributes:
        key: Path below the episode.
        shown: Path, shape and type in one text.
        role: The probable role.
        shape: Shape of the array.
        kind: For frames: how they are stored.
        width: For frames: width, px.
        height: For frames: height, px.
    """

    key: str
    shown: str
    role: Role
    shape: tuple[int, ...] = ()
    kind: Kind | None = None
    width: int = 0
    height: int = 0

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> str:
        """The path of the group that contains the array."""
        return self.key.rpartition("/")[0]

    @property
    def side(self) -> str:
        """ "left" or "right" if the path names one of two arms, otherwise ""."""
        return side_of(self.key)

    @property
    def columns(self) -> int:
        """Number of columns of an array of numbers (T, D) or (T,)."""
        return 1 if len(self.shape) < 2 else int(np.prod(self.shape[1:]))

    @property
    def of_gripper(self) -> bool:
        """Whether its name is that of a gripper, or its group's name is, and its own that of a state or a command."""
        last, every = set(words(self.name)), set(words(self.key))
        if POSE_WORDS & last or OTHER_WORDS & every or (SPEED_WORDS & last and not ACTION_WORDS & every):
            return False
        named = GRIPPER_WORDS & last and self.columns <= 2
        return bool(named or (GRIPPER_WORDS & every and (STATE_WORDS | ASKED_WORDS) & last and self.columns == 1))

    def taken_as(self, role: Role) -> "Array":
        """Return the array with the role that a layout states; joints and gripper are kinds of the state."""
        return self if role == "state" and self.role in ("joints", "gripper") else replace(self, role=role)

    @property
    def text(self) -> str:
        """The array with its use in a layout, such as "obs/q (90, 7) float64 -> state.qpos?"."""
        use = LAYOUT_KEYS.get(self.role)
        size = f" of {self.width}x{self.height}" if self.kind not in (None, "raw") else ""
        return printable(f"{self.shown}{size}" + (f" -> {use}?" if use else ""))


def arrays_of(group: h5py.Group, file: Path) -> tuple[Array, ...]:
    """Return the arrays of an episode with their probable roles. Of frames, only some first bytes are read.

    Args:
        group: The episode.
        file: The file's path, for error messages.
    """
    found = [(key, item) for key, item in below(group, file, "", set()) if is_array(item)]
    lengths = Counter(
        item.shape[0] for _, item in found if item.shape and (_holds_frames(item) or len(item.shape) == 2)
    )
    steps = lengths.most_common(1)[0][0] if lengths else 0
    return tuple(_array(group, key, item, steps, file) for key, item in found)


def _holds_frames(item: h5py.Dataset) -> bool:
    return kind_of(item) is not None or shaped_as_frames(item)


def _array(group: h5py.Group, key: str, item: h5py.Dataset, steps: int, file: Path) -> Array:
    shown, shape = described(key, item), tuple(int(n) for n in item.shape or ())
    try:
        data = array(group, key, file)
        if data is None or not shape or 0 in shape:
            return Array(key, shown, "other", shape)
        if _is_depth(key, data):
            return Array(key, shown, "depth", shape)
        kind = kind_of(data)
        if kind is not None and not holds_no_frames(group, key, "camera", file):
            width, height = codec.raw_size(data.dtype, shape[1:]) or _size(data, file, key)
            return Array(key, shown, _role_of_frames(key), shape, kind, width, height)
        if kind is None and data.dtype.kind in "biuf" and shaped_as_frames(data):
            return Array(key, shown, "unreadable frames", shape)
    except EpisodeError:
        return Array(key, shown, "unreadable", shape)
    numbers = item.dtype.kind in "iuf" and shape[0] == steps
    return Array(key, shown, _role_of_numbers(key, shape) if numbers else "other", shape)


def _size(data: h5py.Dataset, file: Path, key: str) -> tuple[int, int]:
    try:
        return codec.width_height(codec.octets(read_row(data, 0, file, key)))
    except ValueError as error:
        raise hdf5.fault("frame", file, key, str(error), 0) from error


def _is_depth(key: str, data: h5py.Dataset) -> bool:
    if data.ndim < 3 or data.dtype.kind not in "uif" or min(data.shape[1:3]) < 16:
        return False
    single = data.ndim == 3 or (data.ndim == 4 and data.shape[3] == 1)
    return single and (
        any(word.startswith("depth") for word in words(key)) or data.dtype.kind == "f" or data.dtype == "u2"
    )


def _role_of_frames(key: str) -> Role:
    """Return the role of frames by the words of their path; the group `images` is no sign of a camera."""
    inside = words(key)
    if is_touch_name(key):
        return "touch"
    return "camera" if CAMERA_WORDS & set(inside) and not FINGER_WORDS & set(inside) else "camera or touch"


def _role_of_numbers(key: str, shape: tuple[int, ...]) -> Role:
    every, last = set(words(key)), set(words(key.rpartition("/")[2]))
    if OTHER_WORDS & every or len(shape) > 2:
        return "numbers"
    if TIME_WORDS & last or (last == {"t"} and len(shape) == 1):
        return "time"
    if ACTION_WORDS & every:
        return "action"
    if SPEED_WORDS & last:
        return "velocities"
    if Array(key, "", "other", shape).of_gripper:
        return "action" if ASKED_WORDS & last else "gripper"
    if POSE_WORDS & every:
        return "pose"
    if JOINT_WORDS & every:
        return "joints"
    return "state" if STATE_WORDS & last and len(shape) == 2 and shape[1] > 3 else "numbers"


def episode_pattern(file: h5py.File, path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the pattern and the paths of groups that are probably one episode each; ("", ("",)) if there are none.

    Their names are a word and a number, such as data/demo_0, and the first contains frames and rows of numbers. The
    members of a recording in another container than HDF5 are its episodes.
    """
    if isinstance(file, Group):
        return "episode_*", file.names()
    roots = ["", *(name for name in names(file, path) if is_group(sound(file, name, path)))]
    for parent in roots:
        holder = sound(file, parent, path)
        members = names(holder, path) if is_group(holder) else ()
        stems: dict[str, list[str]] = {}
        for name in members:
            if match := re.fullmatch(r"(.*?)\d+", name):
                stems.setdefault(match[1], []).append(f"{parent}/{name}".strip("/"))
        for stem, groups in stems.items():
            if "".join(words(stem)) in EPISODE_WORDS and _is_episode(file, groups[0], path):
                pattern = f"{stem}*" if stem else "[0-9]*"
                return f"{parent}/{pattern}".strip("/"), tuple(groups)
    return "", ("",)


def _is_episode(file: h5py.File, key: str, path: Path) -> bool:
    group = sound(file, key, path)
    items = below(group, path, "", set()) if is_group(group) else ()
    arrays = [item for _, item in items if is_array(item)]
    return any(map(_holds_frames, arrays)) and any(item.ndim == 2 and item.dtype.kind == "f" for item in arrays)


def array_lines(file: h5py.File, path: Path) -> Iterator[str]:
    """Yield the arrays of the first episode of a file as lines of text, each with its probable role."""
    pattern, groups = episode_pattern(file, path)
    if pattern:
        yield f"episode_group {pattern}? ({len(groups)} groups); {groups[0]} contains:"
    group = sound(file, groups[0], path)
    if is_group(group):
        yield from (array.text for array in arrays_of(group, path))
