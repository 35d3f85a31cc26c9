"""Robot poses from files, read exactly in the format that the session declares."""

import itertools
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import model_validator

from tactile_align.errors import InputError
from tactile_align.facts import Strict
from tactile_align.files import read_csv, read_json, read_npz
from tactile_align.geometry.frames import invert, pose, pose_fault, rotation_exp, rotation_from_quaternion
from tactile_align.kinematics.arm import Arm, forward_kinematics, joint_values, link_poses, require_within_limits

EULER = tuple(
    f"euler_{order if extrinsic else order.upper()}"
    for extrinsic in (False, True)
    for order in ("".join(o) for o in itertools.product("xyz", repeat=3))
    if order[0] != order[1] and order[1] != order[2]
)
"""The 24 Euler conventions. Capital letters: rotations about the moving axes. Small letters: about the fixed axes."""
METRES = {"m": 1.0, "mm": 1e-3}
WIDTHS = {"quat_wxyz": 4, "quat_xyzw": 4, "rotvec": 3, "matrix": 16, **dict.fromkeys(EULER, 3)}


class PoseFormat(Strict):
    """Format of the numbers in a pose file, as the [poses] table of session.toml declares it."""

    of: Literal["joints", "tool"]
    """joints: one value per joint, a length where the joint slides. tool: T_base_link as x, y, z and a rotation, or as
    a 4x4 matrix."""
    length: Literal["m", "mm"] = "m"
    angle: Literal["rad", "deg"] = "rad"
    rotation: str = "quat_wxyz"
    """quat_wxyz, quat_xyzw, rotvec, matrix, or one of the 24 Euler conventions such as euler_XYZ, see EULER."""
    matrix_order: Literal["rows", "columns"] = "rows"
    """Order of the 16 numbers of a matrix. columns: the translation comes last, as in libfranka and MATLAB."""
    transposed: bool = False
    """Whether the rotations are those of the base seen from the link (JPL and other passive quaternions, negated
    rotation vectors), while the translation is that of T_base_link."""
    inverted: bool = False
    """Whether the file contains T_link_base in place of T_base_link."""

    @model_validator(mode="after")
    def _known(self) -> "PoseFormat":
        if self.rotation not in WIDTHS:
            raise InputError(f"rotation '{self.rotation}' is unknown. Choose one of: {', '.join(WIDTHS)}")
        if self.matrix_order == "columns" and self.rotation != "matrix":
            raise InputError(f'matrix_order needs rotation = "matrix"; got "{self.rotation}". Remove matrix_order')
        return self

    def as_written(self, values: np.ndarray) -> np.ndarray:
        """Return the unchecked matrices (N, 4, 4) of N rows of 16 numbers, in the file's unit of length."""
        T = values.reshape(-1, 4, 4)
        return T.swapaxes(1, 2) if self.matrix_order == "columns" else T

    def width(self, arm: Arm | None) -> int:
        """Return how many numbers each row of a pose file in this format must have.

        Raises:
            InputError: The rows are joints but no arm is given.
        """
        if self.of == "joints":
            if arm is None:
                raise InputError('the poses are joints, but no arm is given. Add it to session.toml: arm = "nova2"')
            return arm.dof
        return 16 if self.rotation == "matrix" else 3 + WIDTHS[self.rotation]

    def matrices(
        self, values: np.ndarray, arm: Arm | None = None, checked: bool = True, link: str = "flange"
    ) -> np.ndarray:
        """Return the poses T_base_link (N, 4, 4), m, that the N rows of a pose file in this format contain.

        Args:
            values: (N, k) the rows of the pose file.
            arm: The arm, if the rows are joints.
            checked: Whether to refuse rows that are not valid poses; if False, quaternions are normalised and other
                values are used as they are, for comparisons.
            link: Frame whose pose is computed from joints: flange, link1, link2 and so on; unused for tool poses.

        Raises:
            InputError: The rows are joints but no arm is given; a joint is outside the arm's limits; the arm lacks the
                link; a quaternion does not have unit norm; a matrix is not a rotation.
        """
        if self.of == "joints":
            if arm is None:
                raise InputError('the poses are joints, but no arm is given. Add it to session.toml: arm = "nova2"')
            q = joint_values(arm, values, self.angle)
            q = np.where(arm.prismatic, q * METRES[self.length], q)
            if checked:
                require_within_limits(arm, q)
            if link == "flange":
                return np.asarray(forward_kinematics(arm, q))
            number = int(link.removeprefix("link"))
            if not 1 <= number <= arm.dof:
                raise InputError(f"arm {arm.name} has no {link}. Choose flange or one of link1 to link{arm.dof}")
            return np.asarray(link_poses(arm, q)[:, number - 1])
        if self.rotation == "matrix":
            T = self.as_written(values).copy()
            for row, one in enumerate(T if checked else []):
                fault = pose_fault(one, 1e-3)
                if fault:
                    raise InputError(f"row {row + 1}: the matrix is not a pose: {fault}. Correct this row or [poses]")
        else:
            R = _rotations(self.rotation, values[:, 3:], 1.0 if self.angle == "rad" else np.pi / 180, checked)
            T = np.asarray(pose(R, values[:, :3]))
        T[:, :3, 3] *= METRES[self.length]
        if self.transposed:
            T[:, :3, :3] = T[:, :3, :3].swapaxes(1, 2).copy()
        return np.asarray(invert(T)) if self.inverted else T


def _rotations(kind: str, values: np.ndarray, turn: float, checked: bool) -> np.ndarray:
    if kind.startswith("quat"):
        norm = np.linalg.norm(values, axis=1)
        if checked and (np.abs(norm - 1) > 1e-2).any():
            row = int(np.argmax(np.abs(norm - 1)))
            raise InputError(f"row {row + 1}: the quaternion has norm {norm[row]:.4g}, not 1. Correct this row")
        q = values / np.maximum(norm, 1e-12)[:, None]
        return np.asarray(rotation_from_quaternion(q if kind == "quat_wxyz" else q[:, [3, 0, 1, 2]]))
    if kind == "rotvec":
        return np.asarray(rotation_exp(values * turn))
    from scipy.spatial.transform import Rotation  # slow to import, and only Euler angles need it

    return np.asarray(Rotation.from_euler(kind.removeprefix("euler_"), values * turn).as_matrix())


def read_poses(path: Path, columns: int) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the view names and the rows (N, columns) of a pose file.

    Args:
        path: CSV: the view's name and the numbers in each line; line 1 may be a header. JSON: {view: [numbers]}. NPZ:
            the arrays `views` (N,) and `values` (N, columns).
        columns: How many numbers a row must have.

    Raises:
        FileNotFoundError: The file was not found.
        InputError: A row does not have `columns` numbers, a value is not a finite number, or a view occurs twice. The
            message states file and row.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Give a file with the robot's pose of each view")
    stated: list[tuple[str, str, Any]]
    if path.suffix == ".npz":
        stated = [("", *row) for row in _archived(path)]
    elif path.suffix == ".json":
        data = read_json(path)
        if not isinstance(data, dict):
            raise InputError(
                f"{path}: expected a JSON object with view names as keys and lists of numbers as values; found a "
                f"{type(data).__name__}. Rewrite the file in this form"
            )
        stated = [("", *row) for row in data.items()]
    else:
        lines = read_csv(path)
        stated = [(f"line {number}: ", line[0], line[1:]) for number, line in lines[_has_header(lines) :]]
    if not stated:
        raise InputError(f"{path}: contains no poses. Write one row per view")
    names, rows = [name for _, name, _ in stated], []
    for where, name, cells in stated:
        try:
            row = np.ravel(np.asarray(cells, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}: {where}view {name} must have only numbers: {error}. Correct the row") from error
        rows.append(row)
        if len(row) != columns:
            raise InputError(
                f"{path}: view {name} has {len(row)} numbers; the format in [poses] needs {columns}. Correct the "
                f"row or [poses]"
            )
        if not np.isfinite(row).all():
            raise InputError(f"{path}: view {name} contains a non-finite number. Correct or remove this view")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{path}: view {twice} has several rows. Keep one row per view")
    return tuple(names), np.stack(rows)


def _has_header(lines: list[tuple[int, list[str]]]) -> bool:
    """Return whether the first line of a CSV is a header: it has no numbers, or numbers its columns from 0 or 1."""
    numbers = []
    for _, line in lines[:1]:
        for cell in line[1:]:
            with suppress(ValueError):
                numbers.append(float(cell))
    return numbers in ([], [*range(len(numbers))], [*range(1, len(numbers) + 1)])


def _archived(path: Path) -> list[tuple[str, np.ndarray]]:
    arrays = read_npz(path)
    missing = " and ".join(name for name in ("views", "values") if name not in arrays)
    if missing:
        raise InputError(f"{path}: {missing} not found among the arrays: {', '.join(arrays)}. Add {missing}")
    views, values = arrays["views"], arrays["values"]
    if views.ndim != 1 or values.ndim != 2 or len(views) != len(values) or values.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: views must be (N,) names and values (N, columns) numbers; got {views.shape} and "
            f"{values.dtype} {values.shape}. Save one name and one row of numbers per view"
        )
    return list(zip(views.astype(str).tolist(), values, strict=True))
