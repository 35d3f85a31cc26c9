"""An arm from a fact file, and where its flange and links are for given joint angles."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from array_api_compat import array_namespace
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tactile_align.facts import parse, read_fact
from tactile_align.geometry.frames import Array, pose, rotation_from_rpy

Vector = tuple[float, float, float]
Metres = Annotated[float, Field(ge=-3.0, le=3.0)]


class JointFact(BaseModel):
    """One revolute joint of a fact file; it turns about the +z axis of its own frame."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    xyz_m: tuple[Metres, Metres, Metres]
    rpy_deg: Vector
    limits_deg: tuple[float, float]

    @model_validator(mode="after")
    def _limits_are_degrees(self) -> "JointFact":
        lower, upper = self.limits_deg
        if not lower < upper:
            raise ValueError(f"limits_deg must be [lower, upper] with lower < upper; got [{lower}, {upper}]")
        if upper - lower < 13.0:
            raise ValueError(
                f"limits_deg spans {upper - lower:.4g} deg, less than any joint of an arm; "
                f"are these radians? In degrees they would be [{np.degrees(lower):.1f}, {np.degrees(upper):.1f}]"
            )
        return self


class ArmFact(BaseModel):
    """The file form of an arm."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    source: str
    reach_m: Annotated[float, Field(gt=0.05, lt=10.0)]
    disagreements: tuple[str, ...] = ()
    joints: Annotated[tuple[JointFact, ...], Field(min_length=1)]


@dataclass(frozen=True)
class Arm:
    """A serial arm of revolute joints, each turning about its own +z.

    Attributes:
        name: Short name, "nova2".
        joint_names: One name per joint, base to wrist.
        lower: (n,) lower joint limits, rad.
        upper: (n,) upper joint limits, rad.
        T_link_joint: (n, 4, 4) fixed pose of each joint frame in the link before it, at q = 0, metres.
        source: Where the numbers come from.
        disagreements: What other sources say, in sentences.
    """

    name: str
    joint_names: tuple[str, ...]
    lower: np.ndarray
    upper: np.ndarray
    T_link_joint: np.ndarray
    source: str = ""
    disagreements: tuple[str, ...] = ()

    @property
    def dof(self) -> int:
        """Number of joints."""
        return len(self.joint_names)


def load_arm(name_or_path: str | Path) -> Arm:
    """Read an arm from a shipped fact ("nova2", "nova5") or the path of a .toml file.

    Raises:
        FactError: No such file, unknown keys, or numbers in the wrong unit; the message names file and key.
    """
    data, source = read_fact("kinematics", name_or_path)
    fact = parse(ArmFact, data, source)
    xyz = np.array([joint.xyz_m for joint in fact.joints])
    R = rotation_from_rpy(np.radians([joint.rpy_deg for joint in fact.joints]))
    # cos(90 deg) is 6e-17 in floating point; such dust would only cost multiplications.
    R = np.where(np.abs(R) < 1e-15, 0.0, R)
    limits = np.radians([joint.limits_deg for joint in fact.joints])
    return Arm(
        name=fact.name,
        joint_names=tuple(joint.name for joint in fact.joints),
        lower=limits[:, 0],
        upper=limits[:, 1],
        T_link_joint=pose(R, xyz),
        source=fact.source,
        disagreements=fact.disagreements,
    )


def _require_joint_axis(arm: Arm, q: Array) -> None:
    if q.shape[-1:] != (arm.dof,):
        raise ValueError(
            f"{arm.name} has {arm.dof} joints, so q must have shape (..., {arm.dof}); "
            f"got {tuple(q.shape)}. Is the gripper reading still in it?"
        )


def _columns(arm: Arm, q: Array) -> list[list[Array]]:
    """Return per joint the columns x, y, z and origin p of T_base_link, each (..., 3).

    Three columns are carried along and turned, which costs a third of 4x4 products;
    terms whose constant is zero are left out.
    """
    xp = array_namespace(q)
    cosines, sines = xp.cos(q), xp.sin(q)
    identity = xp.eye(4, dtype=q.dtype, device=q.device)
    frame = [xp.broadcast_to(identity[:3, i], (*q.shape[:-1], 3)) for i in range(4)]
    links = []
    for i in range(arm.dof):
        T = arm.T_link_joint[i]
        x, y, z, p = (_combine(frame, T[:, k], k == 3) for k in range(4))
        c, s = cosines[..., i, None], sines[..., i, None]
        frame = [c * x + s * y, c * y - s * x, z, p]
        links.append(frame)
    return links


def _combine(frame: list[Array], column: np.ndarray, with_origin: bool) -> Array:
    """Return the sum of frame columns weighted by the first three entries of `column`, plus the origin."""
    total = frame[3] if with_origin else None
    for axis, weight in zip(frame[:3], column[:3], strict=True):
        if weight == 0.0:
            continue
        term = axis if weight == 1.0 else float(weight) * axis
        total = term if total is None else total + term
    return total


def _assemble(frame: list[Array]) -> Array:
    xp = array_namespace(frame[0])
    return pose(xp.stack(frame[:3], axis=-1), frame[3])


def forward_kinematics(arm: Arm, q: Array) -> Array:
    """Return T_base_flange, the pose of the bare flange.

    Args:
        arm: The arm.
        q: (..., n) joint angles from base to wrist, rad.

    Returns:
        (..., 4, 4) poses in the base frame, metres; dtype and device of `q`.

    Raises:
        ValueError: The last axis of `q` is not one angle per joint.
    """
    _require_joint_axis(arm, q)
    return _assemble(_columns(arm, q)[-1])


def link_poses(arm: Arm, q: Array) -> Array:
    """Return T_base_link, (..., n, 4, 4): link i is the frame on joint i, turned by it, z its axis.

    This is the link frame of URDF, MuJoCo and pinocchio. Raises as `forward_kinematics`.
    """
    _require_joint_axis(arm, q)
    frames = [_assemble(frame) for frame in _columns(arm, q)]
    return array_namespace(q).stack(frames, axis=-3)


def jacobian(arm: Arm, q: Array) -> Array:
    """Return the geometric Jacobian at the flange, (..., 6, n): rows v (m/rad) then w, axes of the base.

    Raises as `forward_kinematics`.
    """
    _require_joint_axis(arm, q)
    xp = array_namespace(q)
    links = _columns(arm, q)
    flange = links[-1][3]
    columns = []
    for _, _, z, p in links:
        columns.append(xp.concat([xp.linalg.cross(z, flange - p), z], axis=-1))
    return xp.stack(columns, axis=-1)


def require_within_limits(arm: Arm, q: Array, tolerance_rad: float = 0.035) -> None:
    """Refuse joint angles outside the arm's limits by more than a tolerance (default 2 deg).

    Raises:
        ValueError: Names joint, value and limit, and says what such values usually are.
    """
    xp = array_namespace(q)
    _require_joint_axis(arm, q)
    lower = xp.asarray(arm.lower, dtype=q.dtype, device=q.device)
    upper = xp.asarray(arm.upper, dtype=q.dtype, device=q.device)
    bad = ~((q >= lower - tolerance_rad) & (q <= upper + tolerance_rad))
    if not bool(xp.any(bad)):
        return
    flat_bad = xp.reshape(bad, (-1, arm.dof))
    flat_q = xp.reshape(q, (-1, arm.dof))
    row, joint = (int(index[0]) for index in xp.nonzero(flat_bad))
    value = float(flat_q[row, joint])
    raise ValueError(
        f"row {row}: {arm.joint_names[joint]} = {value:.4g} rad is outside {arm.name}'s limits "
        f"[{arm.lower[joint]:.3f}, {arm.upper[joint]:.3f}] rad. Are these degrees, or is this normalised (z-scored) "
        f"qpos? Geometry needs raw joint angles in radians"
    )
