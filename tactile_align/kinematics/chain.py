"""The arm as a chain of numbers, and the recursion that carries three columns and a position along it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from array_api_compat import array_namespace

from tactile_align.geometry.frames import Array, rotation_fault

Frame = tuple[list[Array], list[Array], list[Array], list[Array]]
"""Columns x, y, z and origin p, three entries each; an entry is a float while no joint has touched it."""
Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, eq=False)
class Arm:
    """A serial arm; each joint turns about, or slides along, +z of its own frame.

    Attributes:
        name: Short name, "nova2".
        joint_names: One name per joint, base to wrist.
        lower: (n,) lower joint limits, rad (m for a prismatic joint), -inf for a continuous one.
        upper: (n,) upper joint limits.
        T_link_joint: (n, 4, 4) fixed pose of each joint frame in the link before it, at q = 0, metres.
        source: Where the numbers come from.
        disagreements: What other sources say, in sentences.
        T_link_flange: (4, 4) fixed pose of the flange in the last link.
        prismatic: (n,) whether each joint slides; empty when all turn.
        reach_m: Largest working radius as its maker states it, or None.
        steps: The fixed poses as plain numbers, for the recursion.
    """

    name: str
    joint_names: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    T_link_joint: np.ndarray
    source: str = ""
    disagreements: tuple[str, ...] = ()
    T_link_flange: np.ndarray = field(default_factory=lambda: np.eye(4))
    prismatic: tuple[bool, ...] = ()
    reach_m: float | None = None
    steps: tuple[Rows, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n = len(self.joint_names)
        if not self.prismatic:
            object.__setattr__(self, "prismatic", (False,) * n)
        shapes = {"lower": (n,), "upper": (n,), "T_link_joint": (n, 4, 4), "T_link_flange": (4, 4)}
        for key, shape in shapes.items():
            if np.shape(getattr(self, key)) != shape:
                raise ValueError(f"arm {self.name}: {key} must be {shape}, got {np.shape(getattr(self, key))}")
        if n == 0 or len(self.prismatic) != n:
            raise ValueError(f"arm {self.name}: needs at least one joint and one `prismatic` flag for each")
        if not np.all(self.lower < self.upper):
            raise ValueError(f"arm {self.name}: every lower limit must be below its upper one")
        for label, T in [*zip(self.joint_names, self.T_link_joint, strict=True), ("flange", self.T_link_flange)]:
            fault = rotation_fault(T[:3, :3]) if np.all(np.isfinite(T)) else "it holds nan or infinity"
            if fault:
                raise ValueError(f"arm {self.name}: the pose of {label} in its link is no pose: {fault}")
        object.__setattr__(self, "steps", _plain_steps(self))

    @property
    def dof(self) -> int:
        """Number of joints."""
        return len(self.joint_names)


def _plain_steps(arm: Arm) -> tuple[Rows, ...]:
    """The rows of each T_link_joint, then of T_link_flange, as plain floats.

    Plain floats fold away where they are 0 or 1, and torch.compile sees them as constants. cos(90 deg) is
    6e-17 in floating point; such dust is dropped, it would only cost multiplications.
    """
    stacked = np.concatenate([arm.T_link_joint, arm.T_link_flange[None]])
    for exact in (0.0, 1.0, -1.0):
        stacked = np.where(np.abs(stacked - exact) < 1e-15, exact, stacked)
    return tuple(tuple(tuple(float(v) for v in row) for row in T) for T in stacked[:, :3])


def require_joint_axis(arm: Arm, q: Array) -> None:
    """Refuse joint values whose last axis is not one per joint, or that are whole numbers.

    Raises:
        ValueError: Says which and what to do.
    """
    if q.shape[-1:] != (arm.dof,):
        raise ValueError(
            f"{arm.name} has {arm.dof} joints, so q must have shape (..., {arm.dof}); "
            f"got {tuple(q.shape)}. Is the gripper reading still in it?"
        )
    if not array_namespace(q).isdtype(q.dtype, "real floating"):
        raise ValueError(
            f"q must hold floating-point radians; got {q.dtype}. Convert it: q.astype(float) or q.double()"
        )


def frames(arm: Arm, q: Array) -> list[Frame]:
    """Return the frame of every link, then that of the flange, in the base.

    The three columns of the rotation and the position are carried along and turned; nothing is multiplied as
    a 4x4 matrix, and entries no joint has touched yet stay plain numbers.

    Args:
        arm: The arm.
        q: (..., n) joint values.
    """
    xp = array_namespace(q)
    # One joint after the other in memory: numpy's sine is three times slower on every sixth number.
    joints = xp.stack([q[..., i] for i in range(arm.dof)])
    cosines, sines = xp.cos(joints), xp.sin(joints)
    frame: Frame = ([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0])
    found = []
    for i in range(arm.dof):
        x, y, z, p = _step(frame, arm.steps[i])
        if arm.prismatic[i]:
            frame = (x, y, z, [_add(a, _times(b, joints[i])) for a, b in zip(p, z, strict=True)])
        else:
            c, s = cosines[i], sines[i]
            turned_x = [_add(_times(a, c), _times(b, s)) for a, b in zip(x, y, strict=True)]
            turned_y = [_subtract(_times(b, c), _times(a, s)) for a, b in zip(x, y, strict=True)]
            frame = (turned_x, turned_y, z, p)
        found.append(frame)
    found.append(_step(frame, arm.steps[-1]))
    return found


def _step(frame: Frame, rows: Rows) -> Frame:
    """Return the frame that stands at the fixed pose `rows` (3x4) in `frame`."""
    x, y, z, p = frame
    columns: list[list[Array]] = []
    for k in range(4):
        column: list[Array] = list(p) if k == 3 else [0.0, 0.0, 0.0]
        for axis, row in zip((x, y, z), rows, strict=True):
            column = [_add(total, _times(entry, row[k])) for total, entry in zip(column, axis, strict=True)]
        columns.append(column)
    return columns[0], columns[1], columns[2], columns[3]


def cross(a: Sequence[Array], b: Sequence[Array]) -> list[Array]:
    """Return a x b of two triples of entries."""
    pairs = ((1, 2), (2, 0), (0, 1))
    return [_subtract(_times(a[i], b[j]), _times(a[j], b[i])) for i, j in pairs]


def difference(a: Sequence[Array], b: Sequence[Array]) -> list[Array]:
    """Return a - b of two triples of entries."""
    return [_subtract(m, n) for m, n in zip(a, b, strict=True)]


def fill(entries: Sequence[Array], shape: tuple[int, ...], like: Array) -> Array:
    """Stack entries, plain numbers and arrays (...), into one array (..., *shape) in the kind of `like` (...)."""
    xp = array_namespace(like)
    constants: dict[float, Array] = {}
    columns = []
    for entry in entries:
        if isinstance(entry, float):
            if entry not in constants:
                constants[entry] = xp.full_like(like, entry)
            entry = constants[entry]
        columns.append(entry)
    return xp.reshape(xp.stack(columns, axis=-1), (*like.shape, *shape))


def pose_entries(frame: Frame) -> list[Array]:
    """Return the sixteen entries of the frame's 4x4 pose, row by row."""
    return [column[row] for row in range(3) for column in frame] + [0.0, 0.0, 0.0, 1.0]


def _times(a: Array, b: Array) -> Array:
    for one, other in ((a, b), (b, a)):
        if isinstance(one, float):
            if one == 0.0:
                return 0.0
            if one == 1.0:
                return other
            if one == -1.0:
                return -other
    return a * b


def _add(a: Array, b: Array) -> Array:
    if isinstance(a, float) and a == 0.0:
        return b
    if isinstance(b, float) and b == 0.0:
        return a
    return a + b


def _subtract(a: Array, b: Array) -> Array:
    return _add(a, _times(b, -1.0)) if isinstance(a, float) and a == 0.0 else _minus(a, b)


def _minus(a: Array, b: Array) -> Array:
    return a if isinstance(b, float) and b == 0.0 else a - b
