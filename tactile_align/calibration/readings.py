"""Other readings of a session's rotations: each is tried, and named when it explains the views far better."""

from dataclasses import dataclass

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.hand_eye import chain
from tactile_align.calibration.poses import EULER, PoseFormat
from tactile_align.calibration.session import Session
from tactile_align.calibration.starts import robust_start
from tactile_align.geometry.frames import rotation_log

GOOD_PX, FAR_BETTER = 3.0, 0.25
"""A fit is doubted above 3 px; another reading explains it when it leaves at most a quarter of the error."""


@dataclass(frozen=True)
class Fault:
    """One fault: its name, what shows it, what to do, and whether the result is useless with it."""

    name: str
    evidence: str
    advice: str
    fatal: bool = True


def angle_gap(T: np.ndarray, C: np.ndarray) -> float:
    """Return the median difference of relative turns, robot against camera, rad: no mount or lengths enter."""
    i, j = np.triu_indices(len(T), 1)
    robot = np.linalg.norm(rotation_log(np.swapaxes(T[i, :3, :3], 1, 2) @ T[j, :3, :3]), axis=-1)
    seen = np.linalg.norm(rotation_log(C[j, :3, :3] @ np.swapaxes(C[i, :3, :3], 1, 2)), axis=-1)
    return float(np.median(np.abs(robot - seen)))


def other_readings(session: Session, T: np.ndarray, C: np.ndarray) -> list[tuple[float, str, PoseFormat]]:
    """Return other readings of the rotations that turn as the camera does, no worse than the declared one.

    Each comes with its gap (rad, see `angle_gap`) and the name of the fault it would mean. Quaternion orders, and
    Euler orders that differ by renaming the axes, give the same relative turns as the declared reading: only the
    whole chain can tell those.
    """
    fmt = session.fact.poses
    if fmt is None:
        return []
    readings: list[tuple[str, PoseFormat]] = []
    if fmt.of == "joints" or fmt.rotation == "rotvec" or fmt.rotation.startswith("euler"):
        unit = "deg" if fmt.angle == "rad" else "rad"
        readings.append(("degrees for radians", fmt.model_copy(update={"angle": unit})))
    if fmt.of == "tool" and fmt.rotation.startswith("quat"):
        other = "quat_xyzw" if fmt.rotation == "quat_wxyz" else "quat_wxyz"
        readings.append(("quaternion order", fmt.model_copy(update={"rotation": other})))
    if fmt.of == "tool" and (fmt.rotation.startswith("euler") or fmt.rotation == "rotvec"):
        readings += [
            ("Euler order", fmt.model_copy(update={"rotation": name}))
            for name in (*EULER, "rotvec")
            if name != fmt.rotation
        ]
    gaps = [angle_gap(session.poses_as(one), C) for _, one in readings]
    limit = min(2 * min([*gaps, angle_gap(T, C)]), np.radians(2.0))
    return [(gap, name, one) for gap, (name, one) in zip(gaps, readings, strict=True) if gap <= limit]


def other_angles(session: Session, camera: Camera, T: np.ndarray, C: np.ndarray) -> list[Fault]:
    """Name the reading of the rotations that explains the views where the declared one does not turn as they do."""
    gap = angle_gap(T, C)
    agree = [one for one in other_readings(session, T, C) if one[0] <= FAR_BETTER * gap]
    if not agree:
        return []
    mounted = session.fact.mounted or "moving"
    errors = []
    for _, _, one in agree:
        B = chain(session.poses_as(one), mounted)
        errors.append(chain_miss(session, camera, B, C) if len(agree) > 1 else 0.0)
    best, name, reading = agree[int(np.argmin(errors))]
    as_good = [
        one.rotation
        for (_, other, one), error in zip(agree, errors, strict=True)
        if other == name and error <= 2 * min(errors)
    ]
    what = f'angle = "{reading.angle}"' if name == "degrees for radians" else f'rotation = "{reading.rotation}"'
    more = f" ({', '.join(as_good)} agree on these poses)" if len(as_good) > 1 else ""
    return [
        Fault(
            name,
            f"relative turns differ by {np.degrees(gap):.2f} deg as declared, by {np.degrees(best):.3f} deg with "
            f"{what}{more}",
            f"Set {what} in [poses].",
        )
    ]


def board_marks(session: Session) -> np.ndarray:
    """Return (3, 3) points that span the board, m."""
    points = np.asarray(session.fact.board.points)
    return points.mean(0) + np.ptp(points, axis=0).max() / 2 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]])


def chain_miss(session: Session, camera: Camera, B: np.ndarray, C: np.ndarray) -> float:
    """Return by how many px the best start misses the median view; inf where nothing turns enough.

    Args:
        session: The session, for its board.
        camera: The camera.
        B: (N, 4, 4) the robot's part of the chain.
        C: (N, 4, 4) T_camera_board of each view by itself.
    """
    found = robust_start(B, C, board_marks(session))
    return np.inf if found is None else found[0] * float(abs(camera.K[0, 0]))
