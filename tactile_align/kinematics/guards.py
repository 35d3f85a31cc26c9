"""Suspicions about recorded joint values, each with a name; nothing is repaired here."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from array_api_compat import array_namespace

from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array
from tactile_align.kinematics.chain import Arm, require_joint_axis

SuspicionId = Literal["outside-limits", "degrees", "read-as-degrees", "normalised", "swapped-arms", "all-zero"]

TOLERANCE_RAD = 0.035
"""How far a joint may lie beyond its limit: 2 deg; two sources differ by 4 deg about one joint."""
ROWS_FOR_STATISTICS = 30
"""Fewer rows do not determine a mean and a standard deviation."""


@dataclass(frozen=True)
class Suspicion:
    """A likely fault of joint values.

    Attributes:
        id: Stable name for programs.
        message: What was needed, what came and what to do.
        rows: How many rows show it.
    """

    id: SuspicionId
    message: str
    rows: int


def suspect_joints(arm: Arm, q: Array, tolerance_rad: float = TOLERANCE_RAD) -> tuple[Suspicion, ...]:
    """Return likely faults of joint values as they were recorded.

    These are values outside the limits, degrees given as radians and radians divided by 57.3, statistics of
    normalised data, and joints that are exactly zero.

    Args:
        arm: The arm that recorded them.
        q: (..., n) joint values, rad.
        tolerance_rad: How far beyond a limit is still accepted.

    Returns:
        The suspicions; empty when nothing is suspect.

    Raises:
        InputError: The last axis of `q` is not one value per joint.
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
    """Return pairs of arms whose joint columns fit each other's expectation and not their own.

    Identical arms have the same limits; what differs is what each was commanded to do: the action columns of the same
    rows, or each arm's start posture.

    Args:
        recorded: Per arm (T, n) joint values, rad.
        expected: Per arm (T, n) or (n,) values the arm was commanded to, rad.
        margin_rad: The swap must fit better than the stated order by this much, root mean square.

    Raises:
        ValueError: The two mappings do not hold the same arms.
    """
    if set(recorded) != set(expected):
        raise ValueError(
            f"the same arms are needed on both sides; got {sorted(recorded)} recorded and {sorted(expected)} expected"
        )
    suspicions = []
    for a, b in combinations(sorted(recorded), 2):
        if np.shape(recorded[a])[-1] != np.shape(recorded[b])[-1]:
            continue
        stated = _rms(recorded[a], expected[a]) + _rms(recorded[b], expected[b])
        swapped = _rms(recorded[a], expected[b]) + _rms(recorded[b], expected[a])
        if swapped + 2 * margin_rad < stated and swapped < stated / 3:
            message = (
                f"the joints recorded for '{a}' follow the commands of '{b}', and the other way round: "
                f"{swapped / 2:.3f} rad off when swapped, {stated / 2:.3f} rad as stated. Swap the two arms' joint "
                f"columns in the rig file"
            )
            suspicions.append(Suspicion("swapped-arms", message, len(np.atleast_2d(_numpy(recorded[a])))))
    return tuple(suspicions)


def require_within_limits(arm: Arm, q: Array, tolerance_rad: float = TOLERANCE_RAD) -> None:
    """Refuse joint values outside the arm's limits by more than a tolerance (default 2 deg).

    Raises:
        InputError: Names row, joint, value and limit, and what such values usually are.
    """
    xp = array_namespace(q)
    require_joint_axis(arm, q)
    lower = xp.asarray(arm.lower, dtype=q.dtype, device=q.device)
    upper = xp.asarray(arm.upper, dtype=q.dtype, device=q.device)
    inside = (q >= lower - tolerance_rad) & (q <= upper + tolerance_rad)
    if bool(xp.all(inside)):
        return
    suspicion = _outside(arm, _numpy(q).reshape(-1, arm.dof), tolerance_rad)
    raise InputError(suspicion.message if suspicion else f"{arm.name}: joint values outside its limits")


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
    # No arm turns a joint by more than two turns, so such values are degrees or another machine's numbers.
    if as_degrees.all() and np.abs(rows[:, turning]).max(initial=0.0) > 4 * np.pi:
        message = f'{what}; all rows fit when read as degrees. Set joints.unit = "deg" in the rig file, or convert'
        return Suspicion("degrees", message, bad)
    message = (
        f"{what}. Are these degrees, or is this normalised (z-scored) qpos? Geometry needs raw joint angles in radians"
    )
    return Suspicion("outside-limits", message, bad)


def _read_as_degrees(arm: Arm, rows: np.ndarray) -> Suspicion | None:
    """Find radians taken for degrees and converted again: the whole recording lies within 0.11 rad of zero."""
    turning = ~np.array(arm.prismatic)
    largest = np.abs(rows[:, turning]).max(initial=0.0)
    if len(rows) < ROWS_FOR_STATISTICS or not 0.0 < largest < np.radians(2 * np.pi):
        return None
    message = (
        f"every joint of all {len(rows)} rows lies within {largest:.3f} rad of zero, as radians do that were divided "
        f'by 57.3. Set joints.unit = "rad" in the rig file'
    )
    return Suspicion("read-as-degrees", message, len(rows))


def _normalised(arm: Arm, rows: np.ndarray) -> Suspicion | None:
    """Find mean 0 and standard deviation 1 in every joint at once, or every joint reaching just -1 and 1.

    That holds for the set the statistics came from; a single episode of it may have another mean and pass.
    """
    if len(rows) < ROWS_FOR_STATISTICS or arm.dof < 3 or not np.isfinite(rows).all():
        return None
    spread, ends = rows.std(axis=0), np.stack([rows.max(axis=0), -rows.min(axis=0)])
    scored = ((np.abs(rows.mean(axis=0)) < 0.35) & (spread > 0.7) & (spread < 1.35)).all()
    if not scored and not (np.abs(ends - 1) < 1e-3).all():
        return None
    how = "mean 0 and standard deviation 1" if scored else "the range -1 .. 1"
    message = (
        f"all {arm.dof} joints have {how}, as normalised (z-scored) qpos has; geometry needs raw joint angles in "
        f"radians. Undo the normalisation, or read qpos from the recording"
    )
    return Suspicion("normalised", message, len(rows))


def _zero(arm: Arm, rows: np.ndarray) -> Suspicion | None:
    """Find rows where every joint is exactly zero, or a joint that is exactly zero in all of several rows."""
    empty = (rows == 0.0).all(axis=1)
    if empty.any():
        message = (
            f"row {int(np.argmax(empty))}: all {arm.dof} joints are exactly zero (in {int(empty.sum())} of {len(rows)} "
            f"rows); a real arm never reads that. Was the arm off, or is the state missing there?"
        )
        return Suspicion("all-zero", message, int(empty.sum()))
    still = (rows == 0.0).all(axis=0)
    if len(rows) >= ROWS_FOR_STATISTICS and still.any():
        name = arm.joint_names[int(np.argmax(still))]
        message = f"{name} is exactly zero in all {len(rows)} rows; is its column filled, and the right one?"
        return Suspicion("all-zero", message, len(rows))
    return None


def _rms(a: Array, b: Array) -> float:
    return float(np.sqrt(np.mean((_numpy(a) - _numpy(b)) ** 2)))


def _numpy(q: Array) -> np.ndarray:
    """Return joint values of any array kind as float64."""
    return np.asarray(q.detach().cpu() if hasattr(q, "detach") else q, dtype=np.float64)
