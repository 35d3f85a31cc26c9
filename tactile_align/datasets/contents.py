"""Contents of a recording: its arrays with their roles, its numbers, and the columns that belong to each arm."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from tactile_align.datasets import hdf5
from tactile_align.datasets.containers import tree
from tactile_align.datasets.layout import Layout
from tactile_align.datasets.refs import episode_groups, guess_layout, how_it_fits, stated_layout
from tactile_align.datasets.roles import (
    GRIPPER_WORDS,
    JOINT_WORDS,
    POSE_WORDS,
    SPEED_WORDS,
    Array,
    Role,
    arrays_of,
    episode_pattern,
    words,
)
from tactile_align.datasets.streams import Found, frame_places
from tactile_align.errors import EpisodeError
from tactile_align.kinematics.arm_files import Links

NUMBERS = ("joints", "gripper", "state", "velocities", "action", "pose", "time")
WRIST_WORDS = {"wrist", "hand", "eye"}
WIDTH_WORDS = {"width", "opening", "aperture"}
CHANGE_WORDS = {"delta", "deltas", "rel", "relative", "increment", "offset"}
"""Words of the path of actions that are changes of the state, not targets."""
RATE_WORDS = {"fps", "hz", "rate", "framerate", "freq", "frequency"}
PLAIN_RATE_WORDS = RATE_WORDS | {"control", "frame", "loop", "record", "recording", "sample", "sampling", "step", "row"}
"""Words of which the name of a rate consists if the rate is that of the rows, and not that of one stream."""


@dataclass
class Contents:
    """Contents of the first episode of a recording.

    Attributes:
        path: The file.
        layout: The shipped layout that fits the file, which then decides the roles; None: the roles are guesses.
        pattern: Pattern of the groups that are one episode each; "" if the file is one episode.
        arrays: The arrays that the episode contains.
        values: (T, D) numbers of the arrays of numbers, by path.
        rated: Whether the file states its rate in the attribute fps.
        rates: Other numbers of the file that may be its rate, Hz, by their names.
        container: Format of the recording.
        numbers: Scalars and small arrays, by the path of their holder, then by their name in lower case.
    """

    path: Path
    layout: Layout | None
    pattern: str
    arrays: tuple[Array, ...]
    values: dict[str, np.ndarray]
    rated: bool
    rates: dict[str, float]
    container: tree.Container
    numbers: dict[str, dict[str, Any]]

    def of(self, *roles: str) -> list[Array]:
        """Return the arrays with one of these roles."""
        return [array for array in self.arrays if array.role in roles]

    @property
    def streams(self) -> tuple[list[Array], list[Array], list[Array]]:
        """Cameras, touches, and arrays that may be either; beside touches by name, other frames are cameras."""
        cameras, touches, unsure = self.of("camera"), self.of("touch"), self.of("camera or touch")
        return ([*cameras, *unsure], touches, []) if touches else (cameras, touches, unsure)

    def joined(self, keys: Iterable[str]) -> np.ndarray:
        """Return the columns of several arrays side by side, (T, D)."""
        return np.concatenate([self.values[key] for key in keys], axis=1)

    def moves(self, array: Array) -> bool:
        """Return whether the finite numbers of an array change."""
        return len(np.unique(self._finite(array))) > 1

    def ranges(self, arrays: Iterable[Array]) -> str:
        """Return arrays of numbers as text, each with its smallest and largest finite number."""
        numbers = [(array.shown, self._finite(array)) for array in arrays]
        return ", ".join(
            f"{shown}, " + (f"{some.min():.4g} to {some.max():.4g}" if len(some) else "no finite reading")
            for shown, some in numbers
        )

    def _finite(self, array: Array) -> np.ndarray:
        values = self.values[array.key]
        return values[np.isfinite(values)]


def contents_of(file: h5py.File, path: Path) -> Contents:
    layout = _fitting(file, path)
    if layout is None:
        pattern, groups = episode_pattern(file, path)
    else:
        pattern, groups = layout.episode_group, episode_groups(file, layout, path)
    group = file[groups[0]] if groups[0] else file
    arrays = arrays_of(group, path)
    if layout is not None:
        roles = {key: role for role, _, key in frame_places(group, layout, path, Found())}
        roles |= {key: "action" for key in layout.state.action} | {key: "state" for key in layout.state.qpos}
        arrays = tuple(array.taken_as(cast(Role, roles[array.key])) for array in arrays if array.key in roles)
    values: dict[str, np.ndarray] = {}
    for array in arrays:
        single = array.role == "numbers" and array.columns == 1
        data = tree.array(group, array.key, path) if array.role in NUMBERS or single else None
        if data is not None:
            rows = tree.read_low_dim(data, path, array.key).astype(np.float64)
            values[array.key] = rows.reshape(len(rows), -1)
    rated = any("fps" in holder.attrs for holder in (file, group))
    numbers = _numbers(group, path)
    rates = _rates(_small_attributes(file, path) | numbers.get("", {}))
    return Contents(path, layout, pattern, arrays, values, rated, rates, tree.container_of(file), numbers)


def _rates(numbers: dict[str, Any]) -> dict[str, float]:
    rates: dict[str, float] = {}
    for name, value in numbers.items():
        inside, number = set(words(name)), tree.one_number(value)
        if RATE_WORDS & inside and inside <= PLAIN_RATE_WORDS and number is not None:
            rates[name] = number
    return rates


def _fitting(file: h5py.File, path: Path) -> Layout | None:
    """Return the shipped layout that fits a file and reads all of its touches; None if there is none.

    Raises:
        EpisodeError: The file states a layout, but has none of its episodes.
    """
    try:
        layout = guess_layout(file, path)
    except EpisodeError:
        return None
    if layout.name != stated_layout(file) and not how_it_fits(file, layout, path).well:
        return None
    groups = episode_groups(file, layout, path)
    group = tree.reach(file, groups[0], path) if groups else None
    if not tree.is_group(group):
        text = f"was not found, but the file states the layout {layout.name}, whose episodes are there"
        raise hdf5.fault("missing", path, layout.episode_group, f"{text}. Correct the attribute layout of the file")
    read = {place for role, _, place in frame_places(group, layout, path, Found()) if role == "touch"}
    return layout if all(array.key in read for array in arrays_of(group, path) if array.role == "touch") else None


IMAGE_WORDS = {"image", "images", "rgb", "color", "colors", "img", "frames"}
OTHER_LENSES = {"depth", "ir", "infra", "infrared", "tactile", "gel"}
"""Words of a path whose numbers describe another lens than that of the camera's colour images."""
K_WORDS, D_WORDS = {"k", "intrinsic", "intrinsics", "matrix"}, {"d", "dist", "distortion", "coeffs", "coefficients"}


def _numbers(group: h5py.Group, path: Path) -> dict[str, dict[str, Any]]:
    """Return attributes and small datasets that may describe a camera, by the path of their holder.

    A matrix K and the coefficients of a lens have the names "k" and "d", and are held by their own path: the names of
    such datasets contain that of the camera.
    """
    found: dict[str, dict[str, Any]] = {}
    for key, item in [("", group), *tree.below(group, path, "", set())]:
        if item is None:
            continue
        found[key] = {_lens_name(name): value for name, value in _small_attributes(item, path).items()}
        if tree.is_array(item) and item.dtype.kind in "iuf":
            value, parent, name = _constant(group, key, path), *_split(key)
            if value is not None and _lens_name(name) in ("k", "d"):
                found[key][_lens_name(name)] = value
            elif value is not None:
                found[parent][name] = value
    return {key: numbers for key, numbers in found.items() if numbers}


def _small_attributes(item: h5py.Group | h5py.Dataset, path: Path) -> dict[str, Any]:
    return {name.lower(): value for name, value in tree.attributes(item, path).items() if _is_small(value)}


def _split(key: str) -> tuple[str, str]:
    parent, _, name = key.rpartition("/")
    return parent, name.lower()


def _lens_name(name: str) -> str:
    inside = set(words(name))
    return "k" if K_WORDS & inside else "d" if D_WORDS & inside and "model" not in inside else name


def _is_small(value: Any) -> bool:
    """Return whether an attribute is a text, or at most 16 finite numbers."""
    if isinstance(value, str | bytes):
        return True
    try:
        array = np.asarray(value)
    except ValueError:  # lists of different lengths, in JSON
        return False
    return array.dtype.kind in "iuf" and 0 < array.size <= 16 and bool(np.all(np.isfinite(array)))


def _constant(group: h5py.Group, key: str, path: Path) -> np.ndarray | None:
    """Return a small array, or the first matrix of an array (T, 3, 3) of equal matrices; None for any other array.

    An array that cannot be read safely is another array; `arrays_of` shows it as unreadable.

    Raises:
        EpisodeError: The numbers are damaged.
    """
    try:
        item = tree.array(group, key, path)
    except EpisodeError:
        return None
    matrices = item.shape[1:] == (3, 3) and 0 < item.size < 1e6
    if not (matrices or 0 < item.size <= 16):
        return None
    values = tree.read_low_dim(item, path, key).astype(np.float64)
    if not matrices:
        return values
    return values[0] if np.array_equal(values, np.broadcast_to(values[0], values.shape)) else None


@dataclass
class ArmColumns:
    """Columns of qpos that belong to one arm; `joints` is None if they are not known, and `why` explains the choice."""

    name: str
    joints: tuple[int, ...] | None = None
    why: str = ""
    gripper: int | None = None
    gripper_key: str = ""


@dataclass
class StateColumns:
    """Arrays of qpos and action, and the arms to which their columns belong.

    `qpos` and `action` are empty if the recording does not show them; `others` then lists the arrays to choose from.
    `names` has one name per column of qpos, or is empty. `open` has the arrays of qpos and action between which the
    choice of the one gripper's array is left open; its column is then the last.
    """

    contents: Contents
    links: Links | None
    qpos: list[Array] = field(init=False)
    action: list[Array] = field(init=False)
    others: dict[str, str] = field(default_factory=dict)
    arms: list[ArmColumns] = field(default_factory=list)
    names: tuple[str, ...] = ()
    open: dict[str, list[Array]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        contents, by_key = self.contents, {array.key: array for array in self.contents.arrays}
        if contents.layout is not None:
            stated = contents.layout.state
            self.qpos = [by_key[key] for key in stated.qpos if key in contents.values]
            self.action = [by_key[key] for key in stated.action if key in contents.values]
        else:
            self.qpos, self.action = self._joints(), self._actions()
        if self.qpos:
            self._divide()
        self.arms = self.arms or [ArmColumns(name) for name in sides_of(contents)]

    @property
    def dof(self) -> int | None:
        """Number of joints of the URDF's arm."""
        return None if self.links is None or self.links.arm is None else self.links.arm.dof

    @property
    def without_gripper(self) -> str:
        """That an arm has no gripper, and the columns that move; "" if each arm has one, or its joints are unknown."""
        if all(arm.joints is None or arm.gripper is not None for arm in self.arms):
            return ""
        moving = [a for a in self.contents.of("numbers", "gripper") if a.key in self.contents.values]
        moving = [a for a in moving if a not in self.qpos and a.columns == 1 and self.contents.moves(a)]
        moving = [a for a in moving if GRIPPER_WORDS & set(words(a.key))] or moving
        return f"no gripper reading found; other columns that move: {self.contents.ranges(moving) or 'none'}"

    @property
    def same_columns(self) -> bool:
        """Whether the arrays of action match those of qpos one by one, by their names and numbers of columns."""
        pairs = list(zip(self.qpos, self.action, strict=False))
        return len(self.qpos) == len(self.action) and all(
            q.columns == a.columns and q.side == a.side and q.role == _column_role(a) for q, a in pairs
        )

    def _joints(self) -> list[Array]:
        contents = self.contents
        joints = contents.of("joints") or contents.of("state")
        if len({array.side for array in joints}) < len(joints):
            observed = [array for array in joints if words(array.key)[0] in ("obs", "observation", "observations")]
            joints = observed or joints
        chosen = self._by_side("qpos", joints, contents.of("gripper"))
        candidates = contents.of("joints", "state", "gripper", "pose")
        if not chosen:
            self.others["qpos"] = listed("May be the joints and the gripper", candidates)
        elif chosen[0].role == "state":
            guess = "A guess: an array of this name contains joints or a pose of the hand."
            self.others["qpos"] = self._named("qpos", chosen, [], guess)
        else:
            rest = [array for array in candidates if array not in chosen and array.role != "pose"]
            self.others["qpos"] = self._named("qpos", chosen, rest)
        return chosen

    def _actions(self) -> list[Array]:
        actions = self.contents.of("action")
        exact = [array for array in actions if array.name.lower() in ("action", "actions")]
        rest = [array for array in actions if array not in exact]
        grippers = [array for array in actions if array.of_gripper]
        main = [array for array in actions if array not in grippers]
        chosen = exact if len(exact) == 1 else self._by_side("action", main, grippers)
        if not chosen:
            self.others["action"] = listed("May be the actions", actions)
        else:
            self.others["action"] = self._named("action", chosen, rest if chosen == exact else [])
        return chosen

    def _named(self, what: str, chosen: list[Array], rest: list[Array], guess: str = "") -> str:
        """Return the comment on arrays that were chosen by their names, and on the `rest`, which were not."""
        if what in self.open:
            return f"{guess} Which is the gripper: {self.contents.ranges(self.open[what])}.".lstrip()
        why = guess or (listed("A guess by the names; not taken", rest) if rest else "By the names.")
        held = self.contents.ranges(array for array in chosen if array.of_gripper)
        return f"{why} The gripper's array is a guess: {held}." if held else why

    def _by_side(self, what: str, main: list[Array], grippers: list[Array]) -> list[Array]:
        """Return an array and its gripper, for two arms first those of the left arm; [] if the choice is not clear.

        If only the choice of the gripper of one arm is not clear, `open` contains the candidates. There is no choice if
        the array has columns for the gripper behind those of the URDF's joints.
        """
        sides = sorted({array.side for array in main})
        if not main or len(sides) < len(main) or (len(sides) > 1 and "" in sides):
            return []
        chosen: list[Array] = []
        for array in sorted(main, key=lambda array: array.side):
            near = [gripper for gripper in grippers if len(sides) == 1 or gripper.side == array.side]
            for fitting in (self.contents.moves, lambda one: WIDTH_WORDS & set(words(one.name))):
                near = near if len(near) < 2 else list(filter(fitting, near)) or near
            if len(near) > 1:
                dof, count = self.dof, array.columns
                two_arms = dof is not None and count in (2 * dof, 2 * dof + 2)
                if len(sides) > 1 or two_arms or {"left", "right"} <= {one.side for one in near}:
                    return []
                if dof is None or count - dof not in (1, 2):
                    self.open[what] = near
                near = []
            chosen += [array, *near]
        return chosen

    def _divide(self) -> None:
        """Assign the columns of qpos to arms, as far as their arrays or the joints of the URDF show it."""
        column, dof, names = 0, self.dof, list[str]()
        arms: dict[str, ArmColumns] = {}
        main = [array.side for array in self.qpos if array.role != "gripper"]
        on = {array.key: array.side if array.side in main else main[0] for array in self.qpos}
        separate = {on[array.key] for array in self.qpos if array.role == "gripper"} | (
            {main[0]} if "qpos" in self.open else set()
        )
        fitting: dict[str, list[Array]] = {}
        for array in self.qpos:
            if array.role != "gripper" and array.columns == dof:
                fitting.setdefault(on[array.key], []).append(array)
        fitting = {side: [a for a in same if a.role == "joints"] or same for side, same in fitting.items()}
        for array in self.qpos:
            count, side = array.columns, on[array.key]
            arm = arms.setdefault(side, ArmColumns(side or "arm"))
            columns = tuple(range(column, column + count))
            column += count
            if array.role == "gripper":
                arm.gripper, arm.gripper_key = columns[0], array.key
                name = array.name if GRIPPER_WORDS & set(words(array.name)) else "gripper"
                names += [name if count == 1 else f"{name}{i + 1}" for i in range(count)]
                continue
            same = fitting.get(side, [])
            if len(same) > 1:
                arm.why = listed(f"Several arrays have {dof} columns", same)
            elif array in same:
                arm.joints, arm.why = (
                    columns,
                    f"A guess: {array.key} has as many columns as the URDF has joints, {dof}.",
                )
            elif dof is None and array.role == "joints" and side in separate and count <= 7:
                arm.joints, arm.why = columns, f"A guess: all columns of {array.key}, since the gripper is separate."
            elif dof is not None and not same and side not in separate and count - dof in (1, 2):
                arm.joints, arm.gripper, arm.gripper_key = columns[:dof], columns[dof], array.key
                arm.why = f"A guess: the {dof} joints of the URDF, with the gripper behind them."
            elif dof is not None and not same and not array.side and count in (2 * dof, 2 * dof + 2):
                del arms[""]
                for name, first in (("left", columns[0]), ("right", columns[count // 2])):
                    arms[name] = two = ArmColumns(name, tuple(range(first, first + dof)))
                    two.why = f"A guess: two arms of {dof} joints, the left arm first."
                    if count > 2 * dof:
                        two.gripper, two.gripper_key = first + dof, array.key
            if arm.joints != columns or array.role != "joints":
                names += [""] * count
            else:
                urdf = self.links.arm.joint_names if self.links and self.links.arm and dof == count else None
                names += urdf or [f"joint{i + 1}" for i in range(count)]
        if "qpos" in self.open:
            arms[main[0]].gripper = column
            names.append("gripper")
        sides = sides_of(self.contents)
        if list(arms) == [""] and arms[""].joints is None and len(sides) > 1:
            arms = {side: ArmColumns(side) for side in sides}
        self.arms = list(arms.values())
        if len(self.arms) > 1 and all(names):
            each = [on[array.key] for array in self.qpos for _ in range(array.columns)]
            names = [name if side in words(name) else f"{side}_{name}" for side, name in zip(each, names, strict=True)]
        if all(names) and len(set(names)) == len(names):
            self.names = tuple(names)


def _column_role(action: Array) -> Role:
    inside = set(words(action.name))
    if (POSE_WORDS | SPEED_WORDS) & inside or CHANGE_WORDS & set(words(action.key)):
        return "action"
    return "gripper" if action.of_gripper else "joints" if JOINT_WORDS & inside else "action"


def listed(what: str, arrays: Iterable[Array]) -> str:
    shown = ", ".join(array.shown for array in arrays)
    return f"{what}: {shown}." if shown else "No array of the file has such a name."


def sides_of(contents: Contents) -> tuple[str, ...]:
    sides = {array.side for array in contents.of("camera") if WRIST_WORDS & set(words(array.name))}
    return ("left", "right") if {"left", "right"} <= sides else ("arm",)
