"""Serial arm as fixed poses between joints, and the recursion that computes the frames of all links."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from array_api_compat import array_namespace

from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array, pose_fault

Column = list[Array]
"""Three entries; an entry stays a plain float until a joint changes it."""
Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True, eq=False)
class Arm:
    """Serial arm; each joint turns about, or slides along, +z of its own frame.

    Attributes:
        name: Short name, such as "nova2".
        joint_names: One name per joint, base to wrist.
        lower: (n,) lower joint limits, rad (m for a prismatic joint), -inf for a continuous one.
        upper: (n,) upper joint limits, rad (m for a prismatic joint), inf for a continuous one.
        T_link_joint: (n, 4, 4) fixed pose of each joint frame in the link before it, at q = 0, metres.
        source: Where the numbers come from.
        disagreements: One sentence for each number of the arm for which another source gives a different value.
        T_link_flange: (4, 4) fixed pose of the flange in the last link.
        prismatic: Whether each of the n joints slides; () if all joints turn.
        reach_m: Largest working radius according to the manufacturer, m; None if unknown.
        steps: The fixed poses as plain floats, for the recursion in `frames`; computed from the other attributes.
        aligned: For each joint, its fixed rotation, rad, relative to the previous joint if both joints turn about
            parallel axes, otherwise None; computed from the other attributes.
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
    aligned: tuple[float | None, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        n = len(self.joint_names)
        if not self.prismatic:
            object.__setattr__(self, "prismatic", (False,) * n)
        shapes = {"lower": (n,), "upper": (n,), "T_link_joint": (n, 4, 4), "T_link_flange": (4, 4)}
        for key, shape in shapes.items():
            if np.shape(getattr(self, key)) != shape:
                text = f"{key} must have shape {shape}, got {np.shape(getattr(self, key))}"
                raise InputError(f"arm {self.name}: {text}. Make it match the {n} joint_names")
        if n == 0 or len(self.prismatic) != n:
            text = f"got {len(self.prismatic)} `prismatic` flags for {n} joints. Give one flag per joint"
            raise InputError(f"arm {self.name}: {text if n else 'joint_names is empty. Give at least one joint'}")
        if not np.all(self.lower < self.upper):
            name = self.joint_names[int(np.argmin(self.lower < self.upper))]
            raise InputError(f"arm {self.name}: {name}'s lower limit is not below its upper limit. Correct both")
        for label, T in [*zip(self.joint_names, self.T_link_joint, strict=True), ("flange", self.T_link_flange)]:
            fault = pose_fault(T) if np.all(np.isfinite(T)) else "it contains nan or infinity"
            if fault:
                raise InputError(f"arm {self.name}: the fixed pose of {label} is not valid: {fault}. Correct this pose")
        object.__setattr__(self, "steps", _plain_steps(self))
        object.__setattr__(self, "aligned", tuple(_aligned(self, i) for i in range(n)))

    @property
    def dof(self) -> int:
        """Number of the arm's joints."""
        return len(self.joint_names)


def _plain_steps(arm: Arm) -> tuple[Rows, ...]:
    """Return the rows of each T_link_joint, then of T_link_flange, as plain floats.

    Plain floats that are 0 or 1 need no multiplication, and torch.compile treats plain floats as constants. Rounding
    errors such as cos(90 deg) = 6e-17 are removed because they would only cost multiplications.
    """
    stacked = np.concatenate([arm.T_link_joint, arm.T_link_flange[None]])
    for exact in (0.0, 1.0, -1.0):
        stacked = np.where(np.abs(stacked - exact) < 1e-15, exact, stacked)
    return tuple(tuple(tuple(float(v) for v in row) for row in T) for T in stacked[:, :3])


def require_joint_axis(arm: Arm, q: Array) -> None:
    """Raise an error unless the last axis of `q` has one value per joint of the arm, and `q` is not of integers.

    Raises:
        InputError: The message contains the fault and the remedy.
    """
    if q.shape[-1:] != (arm.dof,):
        needed = f"{arm.name} has {arm.dof} joints, so q must have shape (..., {arm.dof})"
        raise InputError(f"{needed}; got {tuple(q.shape)}. Give one value per joint, without the gripper")
    if not array_namespace(q).isdtype(q.dtype, "real floating"):
        raise InputError(f"q contains {q.dtype}, expected floating-point radians. Use q.astype(float) or q.double()")


def joint_values(arm: Arm, q: Array, unit: Literal["rad", "deg"]) -> Array:
    """Return recorded joint values (..., n) in rad. A sliding joint is in m, whatever the unit of the angles is.

    Args:
        arm: The arm.
        q: (..., n) joint values as recorded.
        unit: Unit of the angles in `q`.
    """
    if unit == "rad":
        return q
    factors = [1.0 if slides else np.pi / 180.0 for slides in arm.prismatic]
    return array_namespace(q).stack([q[..., i] * factor for i, factor in enumerate(factors)], axis=-1)


def _aligned(arm: Arm, i: int) -> float | None:
    """Return the fixed rotation, rad, between joints i - 1 and i if their axes are parallel, so that angles add up."""
    (xx, _, xz, _), (yx, _, yz, _), (zx, zy, zz, _) = arm.steps[i]
    if i == 0 or arm.prismatic[i] or arm.prismatic[i - 1] or (xz, yz, zx, zy, zz) != (0.0, 0.0, 0.0, 0.0, 1.0):
        return None
    return float(np.arctan2(yx, xx))


class Frame:
    """Pose of a link in the base frame: columns x, y, z of its rotation and origin p, m.

    A column is a list of three entries, each a plain float or an array. x and y are computed on first use.
    """

    def __init__(self, x: Column, y: Column, z: Column, p: Column, cosine: Array = None, sine: Array = None) -> None:
        """Store the columns before a turn about z, and the cosine and sine of that turn (None: no turn)."""
        self.before = x, y
        self.z, self.p = z, p
        self._turn = None if cosine is None else (cosine, sine)
        self._x: Column | None = None
        self._y: Column | None = None

    @property
    def x(self) -> Column:
        """First column of the frame's rotation: its x axis in the base frame."""
        if self._x is None:
            x, y = self.before
            c, s = self._turn if self._turn is not None else (1.0, 0.0)
            self._x = [_add(_times(a, c), _times(b, s)) for a, b in zip(x, y, strict=True)]
        return self._x

    @property
    def y(self) -> Column:
        """Second column of the frame's rotation: its y axis in the base frame."""
        if self._y is None:
            x, y = self.before
            c, s = self._turn if self._turn is not None else (1.0, 0.0)
            self._y = [_subtract(_times(b, c), _times(a, s)) for a, b in zip(x, y, strict=True)]
        return self._y

    def entries(self) -> list[Array]:
        """Return the sixteen entries of the frame's 4x4 pose, row by row."""
        columns = (self.x, self.y, self.z, self.p)
        return [column[row] for row in range(3) for column in columns] + [0.0, 0.0, 0.0, 1.0]

    def along(self, weights: Sequence[float], start: Column) -> Column:
        """Return `start` plus the frame's axes x, y, z, each times its weight; an axis of weight 0 is not computed."""
        total = start
        for name, weight in zip(("x", "y", "z"), weights, strict=True):
            if weight != 0.0:
                total = [_add(a, _times(b, weight)) for a, b in zip(total, getattr(self, name), strict=True)]
        return total


def frames(arm: Arm, q: Array) -> list[Frame]:
    """Return the frames of all links of an arm, then the frame of its flange, in the base frame.

    The recursion over the joints updates the three columns of a frame's rotation and its position; it multiplies no 4x4
    matrices. Entries that no joint has changed yet stay plain floats. The angles of successive joints with parallel
    axes are added.

    Args:
        arm: The arm.
        q: (..., n) joint values, rad (m where a joint slides).
    """
    xp = array_namespace(q)
    angles: list[Array] = []
    for i, alpha in enumerate(arm.aligned):
        angle = q[..., i]
        if alpha is not None:
            angle = _add(angles[-1] + angle, alpha)
        angles.append(angle)
    # Each joint is contiguous in memory: numpy's sine is three times slower on every sixth number.
    joints = xp.stack(angles)
    cosines, sines = xp.cos(joints), xp.sin(joints)
    frame = Frame([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0])
    poses = []
    for i, alpha in enumerate(arm.aligned):
        origin = frame.along([row[3] for row in arm.steps[i]], frame.p)
        if alpha is None:
            frame = _fixed(frame, arm.steps[i], origin)
        if arm.prismatic[i]:
            origin = [_add(a, _times(b, joints[i])) for a, b in zip(origin, frame.z, strict=True)]
            frame = Frame(*frame.before, frame.z, origin)
        else:
            frame = Frame(*frame.before, frame.z, origin, cosines[i], sines[i])
        poses.append(frame)
    poses.append(_fixed(frame, arm.steps[-1], frame.along([row[3] for row in arm.steps[-1]], frame.p)))
    return poses


def _fixed(frame: Frame, rows: Rows, origin: Column) -> Frame:
    """Return the frame turned by the fixed rotation of `rows` (3x4), at `origin`."""
    x, y, z = (frame.along([row[k] for row in rows], [0.0, 0.0, 0.0]) for k in range(3))
    return Frame(x, y, z, origin)


def cross(a: Sequence[Array], b: Sequence[Array]) -> list[Array]:
    """Return the cross product a x b of two vectors, each given as its three entries."""
    pairs = ((1, 2), (2, 0), (0, 1))
    return [_subtract(_times(a[i], b[j]), _times(a[j], b[i])) for i, j in pairs]


def difference(a: Sequence[Array], b: Sequence[Array]) -> list[Array]:
    """Return the difference a - b of two vectors, each given as its three entries."""
    return [_subtract(m, n) for m, n in zip(a, b, strict=True)]


def fill(entries: Sequence[Array], shape: tuple[int, ...], like: Array) -> Array:
    """Return entries stacked into one array (..., *shape), of the library, dtype and device of `like`.

    An entry is a plain float or an array with the shape (...) of `like`.
    """
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
