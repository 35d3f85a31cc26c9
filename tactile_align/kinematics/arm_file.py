"""The file form of an arm: joint origins, or a Denavit-Hartenberg table that is converted on reading."""

from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tactile_align.errors import InputError
from tactile_align.geometry.frames import pose, rotation_from_rpy
from tactile_align.kinematics.chain import Arm

# strict: TOML's true and "0.28" are no numbers.
Metres = Annotated[float, Field(ge=-3.0, le=3.0, strict=True)]
Degrees = Annotated[float, Field(ge=-360.0, le=360.0, strict=True)]
Limit = Annotated[float, Field(ge=-1080.0, le=1080.0, strict=True)]


def _refuse_radians(key: str, *values: float) -> None:
    """Refuse pi and its simple fractions where degrees belong: no maker tilts a joint by 1.5708 degrees."""
    for value in values:
        if any(abs(abs(value) - np.pi / k) < 5e-5 for k in (1, 2, 3, 4, 6)):
            raise InputError(f"{key} holds {value:g}: radians? It takes degrees ({np.degrees(value):.4g})")


class Joint(BaseModel):
    """What every joint of a fact file states."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1)]
    limits_deg: tuple[Limit, Limit]

    @model_validator(mode="after")
    def _limits_are_degrees(self) -> "Joint":
        lower, upper = self.limits_deg
        if not lower < upper:
            raise InputError(f"limits_deg must be [lower, upper] with lower < upper; got [{lower}, {upper}]")
        if upper - lower < 13.0:
            raise InputError(
                f"limits_deg spans {upper - lower:.4g} deg, less than any joint of an arm; "
                f"are these radians? In degrees they would be [{np.degrees(lower):.1f}, {np.degrees(upper):.1f}]"
            )
        return self


class OriginJoint(Joint):
    """A revolute joint by the fixed pose of its frame in the link before it; it turns about +z of that frame."""

    xyz_m: tuple[Metres, Metres, Metres]
    rpy_deg: tuple[Degrees, Degrees, Degrees]
    """R = Rz(yaw) Ry(pitch) Rx(roll), as URDF."""

    @model_validator(mode="after")
    def _angles_are_degrees(self) -> "OriginJoint":
        _refuse_radians("rpy_deg", *self.rpy_deg)
        return self


class DHJoint(Joint):
    """A revolute joint as a row of a Denavit-Hartenberg table."""

    offset_deg: Degrees = 0.0
    d_m: Metres
    a_m: Metres
    alpha_deg: Degrees

    @model_validator(mode="after")
    def _angles_are_degrees(self) -> "DHJoint":
        _refuse_radians("offset_deg", self.offset_deg)
        _refuse_radians("alpha_deg", self.alpha_deg)
        return self


class ArmFact(BaseModel):
    """One arm; either [[joints]] or [[dh]]."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: Annotated[str, Field(min_length=1)]
    title: str
    source: Annotated[str, Field(min_length=1)]
    reach_m: Annotated[float, Field(gt=0.05, lt=5.0, strict=True)]
    dof: Annotated[int, Field(ge=1, strict=True)] | None = None
    """Number of joints; tells a file that lost its end from one that is whole."""
    disagreements: tuple[str, ...] = ()
    joints: tuple[OriginJoint, ...] = ()
    dh: tuple[DHJoint, ...] = ()
    dh_convention: Literal["standard", "modified"] | None = None

    @model_validator(mode="after")
    def _one_form(self) -> "ArmFact":
        if bool(self.joints) == bool(self.dh):
            raise InputError("give the joints once: either as [[joints]] (origins) or as [[dh]] (a DH table)")
        if bool(self.dh) != (self.dh_convention is not None):
            raise InputError(
                'a DH table needs dh_convention = "standard" (d, a, alpha after the joint) or "modified" (a, alpha '
                "before it); joint origins take none"
            )
        rows = self.joints or self.dh
        if self.dof is not None and self.dof != len(rows):
            raise InputError(f"dof = {self.dof} but {len(rows)} joints follow; is the file cut short?")
        names = [row.name for row in rows]
        if len(set(names)) < len(names):
            raise InputError(f"two joints share a name: {', '.join(names)}")
        arm = self.to_arm()
        longest = sum(float(np.linalg.norm(T[:3, 3])) for T in [*arm.T_link_joint, arm.T_link_flange])
        if longest < self.reach_m:
            raise InputError(
                f"reach_m = {self.reach_m:g}, but the links add up to {longest:.3f} m only; "
                f"is a length in the wrong unit or missing?"
            )
        return self

    def to_arm(self) -> Arm:
        """Return the arm these facts describe."""
        if self.dh:
            T_link_joint, T_link_flange = convert_dh(self.dh, modified=self.dh_convention == "modified")
        else:
            R = rotation_from_rpy(np.radians([joint.rpy_deg for joint in self.joints]))
            T_link_joint = pose(R, np.array([joint.xyz_m for joint in self.joints]))
            T_link_flange = np.eye(4)
        rows = self.joints or self.dh
        limits = np.radians([row.limits_deg for row in rows])
        return Arm(
            name=self.name,
            joint_names=tuple(row.name for row in rows),
            lower=limits[:, 0],
            upper=limits[:, 1],
            T_link_joint=T_link_joint,
            source=self.source,
            disagreements=self.disagreements,
            T_link_flange=T_link_flange,
            reach_m=self.reach_m,
        )


def convert_dh(rows: tuple[DHJoint, ...], modified: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return T_link_joint (n, 4, 4) and T_link_flange (4, 4) of a DH table.

    Standard (Denavit and Hartenberg 1955): T = Rz(q + offset) Tz(d) Tx(a) Rx(alpha), all but the turn standing
    after the joint. Modified (Craig): T = Rx(alpha) Tx(a) Rz(q + offset) Tz(d), which stands before it since
    Tz commutes with Rz.
    """
    before, after = [], []
    for row in rows:
        turn = _pose((0.0, 0.0, row.offset_deg), (0.0, 0.0, 0.0))
        slide = _pose((0.0, 0.0, 0.0), (0.0, 0.0, row.d_m))
        twist = _pose((row.alpha_deg, 0.0, 0.0), (row.a_m, 0.0, 0.0))
        before.append(twist @ slide @ turn if modified else turn)
        after.append(np.eye(4) if modified else slide @ twist)
    origins = [before[0], *(T @ B for T, B in zip(after, before[1:], strict=False))]
    return np.stack(origins), after[-1]


def _pose(rpy_deg: tuple[float, float, float], xyz: tuple[float, float, float]) -> np.ndarray:
    T: np.ndarray = pose(rotation_from_rpy(np.radians(rpy_deg)), np.array(xyz))
    return T
