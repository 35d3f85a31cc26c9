"""A pose in a rig file: which frame it hangs on and T_parent_this, checked when read."""

from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tactile_align.errors import InputError
from tactile_align.geometry.frames import (
    pose,
    quaternion_from_rotation,
    rotation_fault,
    rotation_from_quaternion,
)

Vector = tuple[float, float, float]


class Checked(BaseModel):
    """A frozen part of a rig that computes arrays from its keys once and keeps them.

    What is kept is no part of the value: it is left out of comparisons, and a changed copy is checked and
    computes anew.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Checked) and type(self) is type(other) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a checked copy with some keys changed."""
        return type(self).model_validate({**self.model_dump(), **(update or {})})


class Mount(Checked):
    """Something fixed to a parent frame by T_parent_this.

    A file gives the pose as `translation_m` and `quat_wxyz`, or as `matrix`, a 4x4 T_parent_this, which is
    checked and converted on reading.
    """

    parent: str
    """world, ARM/base, ARM/link1..n, ARM/flange, ARM/finger1 or ARM/finger2."""
    translation_m: Vector
    quat_wxyz: tuple[float, float, float, float]

    @model_validator(mode="before")
    @classmethod
    def _read_matrix(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "matrix" not in data:
            return data
        data = dict(data)
        if "translation_m" in data or "quat_wxyz" in data:
            raise InputError("give either matrix or translation_m with quat_wxyz, not both")
        T = np.asarray(data.pop("matrix"), dtype=np.float64)
        if T.shape != (4, 4) or abs(T[3] - [0, 0, 0, 1]).max() > 0:
            raise InputError(f"matrix must be a 4x4 T_parent_this with last row 0 0 0 1; got shape {T.shape}")
        fault = rotation_fault(T[:3, :3])
        if fault is not None:
            raise InputError(f"the rotation in matrix is none: {fault}. Correct it in the file")
        data["translation_m"] = tuple(T[:3, 3].tolist())
        data["quat_wxyz"] = tuple(quaternion_from_rotation(T[:3, :3]).tolist())
        return data

    @model_validator(mode="after")
    def _pose_is_plausible(self) -> "Mount":
        norm = float(np.linalg.norm(self.quat_wxyz))
        if not abs(norm - 1.0) < 1e-4:
            raise InputError(f"quat_wxyz must have norm 1 (w first); got {list(self.quat_wxyz)} with norm {norm:.6g}")
        if not np.abs(self.translation_m).max() < 10.0:
            raise InputError(
                f"translation_m = {list(self.translation_m)} reaches beyond 10 m; are these millimetres? Use metres"
            )
        return self

    @cached_property
    def T_parent_this(self) -> np.ndarray:
        """(4, 4) pose in the parent frame, metres."""
        q = np.asarray(self.quat_wxyz, dtype=np.float64)
        return pose(rotation_from_quaternion(q / np.linalg.norm(q)), np.asarray(self.translation_m))


class Solid(Checked):
    """A box in the sensor frame."""

    center_m: Vector
    size_m: tuple[
        Annotated[float, Field(ge=0.0, lt=0.5)],
        Annotated[float, Field(ge=0.0, lt=0.5)],
        Annotated[float, Field(ge=0.0, lt=0.5)],
    ]

    @cached_property
    def corners(self) -> np.ndarray:
        """(8, 3) corners in the sensor frame, metres; corner i has the sign bits of i (x lowest)."""
        signs = np.array([[(i >> axis & 1) - 0.5 for axis in range(3)] for i in range(8)])
        return np.asarray(self.center_m) + signs * np.asarray(self.size_m)


class Pad(Solid):
    """The touching face: a flat box and its outward normal in the sensor frame."""

    normal: Vector

    @model_validator(mode="after")
    def _normal_is_a_unit_vector(self) -> "Pad":
        if abs(float(np.linalg.norm(self.normal)) - 1.0) > 1e-4:
            raise InputError(f"normal must be a unit vector; got {list(self.normal)}")
        return self
