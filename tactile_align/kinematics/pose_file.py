"""Poses recorded from a controller: joint readings beside the flange pose it states."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tactile_align.errors import InputError
from tactile_align.files import read_csv
from tactile_align.geometry.frames import pose, rotation_exp

POSE = ("x", "y", "z", "rx", "ry", "rz")
UNITS = {"deg": np.pi / 180, "rad": 1.0, "mm": 1e-3, "m": 1.0}
EULER = ("zyx", "xyz", "xzy", "yxz", "yzx", "zxy")
"""Orders as the matrices are multiplied; Dobot's is zyx: R = Rz(rz) Ry(ry) Rx(rx)."""


@dataclass(frozen=True)
class PoseFile:
    """The rows of a file in SI units, and the units its header states.

    Attributes:
        joints: (N, n) joint readings, rad.
        position: (N, 3) metres.
        angles: (N, 3) rx, ry, rz, rad.
        joint_unit: "deg" or "rad".
        position_unit: "mm" or "m".
        angle_unit: "deg" or "rad".
    """

    joints: np.ndarray
    position: np.ndarray
    angles: np.ndarray
    joint_unit: str
    position_unit: str
    angle_unit: str


def read_pose_file(path: str | Path, dof: int) -> PoseFile:
    """Read a CSV with the columns j1 .. jn, x, y, z, rx, ry, rz.

    A column may carry its unit (j1_rad, x_m, rx_rad); without one, joints and angles are degrees and positions
    millimetres, as Dobot controllers print them. Further columns are ignored.

    Raises:
        FileNotFoundError: No such file.
        InputError: A column is missing or has two units, or a cell holds no finite number; names row and column.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Needed: a CSV of controller poses")
    lines = read_csv(path)
    if not lines:
        raise InputError(f"{path}: empty; needed a header line and one line per pose")
    header = [name.strip().lower() for name in lines[0][1]]
    rows = [(row, line) for row, line in lines[1:] if any(cell.strip() for cell in line)]
    groups, units = [], []
    for names, default in ((tuple(f"j{i + 1}" for i in range(dof)), "deg"), (POSE[:3], "mm"), (POSE[3:], "deg")):
        columns = [_column(path, header, name, ("m", "mm") if default == "mm" else ("rad", "deg")) for name in names]
        found = {unit or default for _, unit in columns}
        if len(found) > 1:
            raise InputError(f"{path}: columns {', '.join(names)} state different units: {', '.join(sorted(found))}")
        unit = found.pop()
        values = [[_number(path, row, line, header, i) for i, _ in columns] for row, line in rows]
        groups.append(np.array(values, dtype=np.float64).reshape(-1, len(names)) * UNITS[unit])
        units.append(unit)
    return PoseFile(groups[0], groups[1], groups[2], *units)


def controller_poses(file: PoseFile, order: str = "zyx") -> np.ndarray:
    """Return the controller's poses (N, 4, 4), metres.

    Args:
        file: The rows.
        order: One of EULER, or "rotation vector".
    """
    if order == "rotation vector":
        return np.asarray(pose(rotation_exp(file.angles), file.position))
    R = np.broadcast_to(np.eye(3), (len(file.angles), 3, 3))
    for axis in order:
        i = "xyz".index(axis)
        R = R @ rotation_exp(file.angles[:, i, None] * np.eye(3)[i])
    return np.asarray(pose(R, file.position))


def _column(path: Path, header: list[str], name: str, units: tuple[str, ...]) -> tuple[int, str]:
    choices = {name: "", **{f"{name}_{unit}": unit for unit in units}}
    found = [(i, choices[column]) for i, column in enumerate(header) if column in choices]
    if len(found) != 1:
        raise InputError(
            f"{path}: needed one column {' or '.join(choices)}, found {len(found)}; the header has {', '.join(header)}"
        )
    return found[0]


def _number(path: Path, row: int, line: list[str], header: list[str], column: int) -> float:
    text = line[column].strip() if column < len(line) else ""
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"{path}: line {row}, column {header[column]}: needed a number, got '{text}'")
    return value
