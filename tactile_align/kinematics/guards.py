"""Checks of recorded joint values for likely faults, each with an id; nothing is repaired here."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from array_api_compat import array_namespace

from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array
from tactile_align.kinematics.chain import Arm, require_joint_axis

SuspicionId = Literal[
    "outside-limits", "degrees", "whole-turn", "read-as-degrees", "normalised", "swapped-arms", "all-zero"
]

TOLERANCE_RAD = 0.035
"""Largest accepted distance beyond a joint limit: 2 deg. Two sources differ by 4 deg on the limit of one joint."""
ROWS_FOR_STATISTICS = 30
"""Fewer rows do not determine a mean and a standard deviation."""


@dataclass(frozen=True)
class Suspicion:
    """Likely fault of recorded joint values.

    Attributes:
        id: Stable identifier for programs.
        message: What was expected, what was found, and what to do.
        rows: Number of rows that show the fault.
    """

    id: SuspicionId
    message: str
    rows: int


def suspect_joints(arm: Arm, q: Array, tolerance_rad: float = TOLERANCE_RAD) -> tuple[Suspicion, ...]:
    """Return likely faults of recorded joint values.

    The faults are: values outside the limits, degrees given as radians, angles counted from 0 to 360 deg, radians
    converted to radians again (divided by 57.3), values normalised to mean 0 and standard deviation 1 or to -1..1, and
    joints that are exactly zero.

    Args:
        arm: The arm whose joints were recorded.
        q: (..., n) joint values, rad.
        tolerance_rad: Largest accepted distance beyond a limit, rad.

    Returns:
        The suspicions; empty when nothing is suspect.

    Raises:
        InputError: The last axis of `q` does not have one value per joint, or `q` contains integers.
    """
    require_joint_axis(arm, q)
    rows = _numpy(q).reshape(-1, arm.dof)
    if len(rows) == 0:
        return ()
    found = [_outside(arm, rows, tolerance_rad), _read_as_degrees(arm, rows), _normalised(arm, rows), _zero(arm, rows)]
    return tuple(suspicion for suspicion in found if suspicion is not None)


def suspect_swapped_arms(
    recorded: Mapping[str, Array], expected: Mapping[str, Array], margin_rad: float = 0.1
) -> tuple[Suspicion, ...]:
    """Return pairs of arms whose joint columns appear swapped: each fits the other arm's expected values.

    Identical arms have the same limits, so limits cannot show a swap. Expected values can: the action columns of the
    same rows, or each arm's start posture.

    Args:
        recorded: (T, n) recorded joint values of T rows by arm, rad.
        expected: (T, n) or (n,) expected joint values by arm, rad.
        margin_rad: RMS by which the swapped order must fit better than the stated order, rad.

    Raises:
        ValueError: The two mappings do not contain the same arms.
    """
    if set(recorded) != set(expected):
        raise ValueError(
            f"`recorded` and `expected` must contain the same arms; got {sorted(recorded)} and {sorted(expected)}. "
            f"Give both for every arm"
        )
    suspicions = []
    for a, b in combinations(sorted(recorded), 2):
        if np.shape(recorded[a])[-1] != np.shape(recorded[b])[-1]:
            continue
        stated = _rms(recorded[a], expected[a]) + _rms(recorded[b], expected[b])
        swapped = _rms(recorded[a], expected[b]) + _rms(recorded[b], expected[a])
        if swapped + 2 * margin_rad < stated and swapped < stated / 3:
            message = (
                f"the joints recorded for '{a}' follow the commands of '{b}', and vice versa: "
                f"RMS {swapped / 2:.3f} rad if swapped, {stated / 2:.3f} rad as stated. Swap the two arms' joint "
                f"columns in the rig file"
            )
            suspicions.append(Suspicion("swapped-arms", message, len(np.atleast_2d(_numpy(recorded[a])))))
    return tuple(suspicions)


def require_within_limits(arm: Arm, q: Array, tolerance_rad: float = TOLERANCE_RAD) -> None:
    """Raise an error if joint values q (..., n), rad, exceed the arm's limits by more than a tolerance (rad).

    The default tolerance is 2 deg. Sliding joints are in metres.

    Raises:
        InputError: A value exceeds its limits. The message contains row, joint, value, limits and the likely cause.
    """
    xp = array_namespace(q)
    require_joint_axis(arm, q)
    lower = xp.asarray(arm.lower, dtype=q.dtype, device=q.device)
    upper = xp.asarray(arm.upper, dtype=q.dtype, device=q.device)
    inside = (q >= lower - tolerance_rad) & (q <= upper + tolerance_rad)
    if bool(xp.all(inside)):
        return
    suspicion = _outside(arm, _numpy(q).reshape(-1, arm.dof), tolerance_rad)
    raise InputError(suspicion.message if suspicion else f"{arm.name}: joint values exceed the limits. Check the unit")


def _outside(arm: Arm, rows: np.ndarray, tolerance_rad: float) -> Suspicion | None:
    inside = (rows >= arm.lower - tolerance_rad) & (rows <= arm.upper + tolerance_rad)
    if inside.all():
        return None
    row, joint = (int(index) for index in np.argwhere(~inside)[0])
    value = rows[row, joint]
    unit = "m" if arm.prismatic[joint] else "rad"
    what = (
        f"row {row}: {arm.joint_names[joint]} = {value:.4g} {unit} is outside {arm.name}'s limits "
        f"[{arm.lower[joint]:.3f}, {arm.upper[joint]:.3f}] {unit}"
    )
    bad = int((~inside).any(axis=1).sum())
    turning = ~np.array(arm.prismatic)
    scaled = np.where(turning, np.radians(rows), rows)
    as_degrees = (scaled >= arm.lower - tolerance_rad) & (scaled <= arm.upper + tolerance_rad)
    # No joint of an arm turns more than two turns, so larger values are degrees or belong to another machine.
    if as_degrees.all() and np.abs(rows[:, turning]).max(initial=0.0) > 4 * np.pi:
        message = f'{what}; all rows fit if they are degrees. Set joints.unit = "deg" in the rig file, or convert them'
        return Suspicion("degrees", message, bad)
    positive = (rows >= 0).all(axis=0) & (rows <= 2 * np.pi).all(axis=0)
    counted = np.where(turning & positive & (rows > arm.upper + tolerance_rad), rows - 2 * np.pi, rows)
    if ((counted >= arm.lower - tolerance_rad) & (counted <= arm.upper + tolerance_rad)).all():
        names = ", ".join(arm.joint_names[i] for i in np.flatnonzero((~inside).any(axis=0)))
        message = (
            f"{what}; all rows fit if such values of {names} are a whole turn off, as in a display that counts from 0 "
            f"to 360 deg. Subtract 360 deg (6.2832 rad) from them"
        )
        return Suspicion("whole-turn", message, bad)
    message = f"{what}. Give raw joint angles in radians, not degrees and not normalised (z-scored) qpos"
    if arm.prismatic[joint]:
        message = f"{what}. Give sliding joints in metres, not mm and not normalised (z-scored) qpos"
    return Suspicion("outside-limits", message, bad)


def _read_as_degrees(arm: Arm, rows: np.ndarray) -> Suspicion | None:
    """Return a suspicion if radians were converted as if they were degrees: all values are within 0.11 rad of zero."""
    turning = ~np.array(arm.prismatic)
    largest = np.abs(rows[:, turning]).max(initial=0.0)
    if len(rows) < ROWS_FOR_STATISTICS or not 0.0 < largest < np.radians(2 * np.pi):
        return None
    message = (
        f"every joint of all {len(rows)} rows is within {largest:.3f} rad of zero, as if radians had been divided "
        f'by 57.3. Set joints.unit = "rad" in the rig file'
    )
    return Suspicion("read-as-degrees", message, len(rows))


def _normalised(arm: Arm, rows: np.ndarray) -> Suspicion | None:
    """Return a suspicion if every joint has mean 0 and standard deviation 1, or if every joint spans exactly -1 to 1.

    Both hold for the data set that gave the statistics. A single episode of it may have another mean and pass.
    """
    if len(rows) < ROWS_FOR_STATISTICS or arm.dof < 3 or not np.isfinite(rows).all():
        return None
    spread, ends = rows.std(axis=0), np.stack([rows.max(axis=0), -rows.min(axis=0)])
    scored = ((np.abs(rows.mean(axis=0)) < 0.35) & (spread > 0.7) & (spread < 1.35)).all()
    if not scored and not (np.abs(ends - 1) < 1e-3).all():
        return None
    how = "mean 0 and standard deviation 1" if scored else "the range -1 .. 1"
    message = (
        f"all {arm.dof} joints have {how}, as in normalised (z-scored) qpos; expected raw joint angles in radians. "
        f"Undo the normalisation, or read qpos from the recording"
    )
    return Suspicion("normalised", message, len(rows))


def _zero(arm: Arm, rows: np.ndarray) -> Suspicion | None:
    """Return a suspicion if all joints of a row are exactly zero, or if one joint is exactly zero in all rows."""
    empty = (rows == 0.0).all(axis=1)
    if empty.any():
        message = (
            f"row {int(np.argmax(empty))}: all {arm.dof} joints are exactly zero (in {int(empty.sum())} of {len(rows)} "
            f"rows); a real arm never reports that. Check whether the arm was off or the state is missing there"
        )
        return Suspicion("all-zero", message, int(empty.sum()))
    still = (rows == 0.0).all(axis=0)
    if len(rows) >= ROWS_FOR_STATISTICS and still.any():
        name = arm.joint_names[int(np.argmax(still))]
        message = f"{name} is exactly zero in all {len(rows)} rows. Check that its column is recorded and correct"
        return Suspicion("all-zero", message, len(rows))
    return None


def _rms(a: Array, b: Array) -> float:
    return float(np.sqrt(np.mean((_numpy(a) - _numpy(b)) ** 2)))


def _numpy(q: Array) -> np.ndarray:
    """Return joint values of any array kind as a float64 numpy array."""
    return np.asarray(q.detach().cpu() if hasattr(q, "detach") else q, dtype=np.float64)
