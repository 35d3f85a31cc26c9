"""Find what usually goes wrong in a hand-eye session, by name, with the evidence and what to do.

Each finder compares the files as declared with one hypothesis about them; a fault is named only when the
hypothesis explains the views far better, or when a number is out of any plausible range.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.closed_form import length_ratio
from tactile_align.calibration.hand_eye import HandEye, chain, robust_start, solve_hand_eye, spread
from tactile_align.calibration.views import board_poses
from tactile_align.checks import Check
from tactile_align.geometry.frames import apply, invert, nearest_rotation, pose, rotation_fault, rotation_log
from tactile_align.sessions.robot_poses import EULER, PoseFormat
from tactile_align.sessions.session import Session

GOOD_PX, FAR_BETTER = 3.0, 0.25
"""A fit is doubted above 3 px; a hypothesis explains it when it leaves at most a quarter of the error."""


def fault(id: str, evidence: str, advice: str, fatal: bool = True) -> Check:
    """Return a fault as a check "fault/ID" that fails; one that does not make the result useless warns."""
    title = f"Fault: {id.replace('-', ' ')}"
    return Check(f"fault/{id}", title, "fail" if fatal else "warn", evidence, advice=advice)


def angle_gap(T: np.ndarray, C: np.ndarray) -> float:
    """Return the median difference of relative turns, robot against camera, rad: no mount or lengths enter."""
    i, j = np.triu_indices(len(T), 1)
    robot = np.linalg.norm(rotation_log(np.swapaxes(T[i, :3, :3], 1, 2) @ T[j, :3, :3]), axis=-1)
    seen = np.linalg.norm(rotation_log(C[j, :3, :3] @ np.swapaxes(C[i, :3, :3], 1, 2)), axis=-1)
    return float(np.median(np.abs(robot - seen)))


def other_hypotheses(session: Session, T: np.ndarray, C: np.ndarray) -> list[tuple[float, str, PoseFormat]]:
    """Return hypotheses about the rotations that turn as the camera does, no worse than the declared one.

    Each comes with its gap (rad, see `angle_gap`) and the name of the fault it would mean. Quaternion orders, and
    Euler orders that differ by renaming the axes, give the same relative turns as the declared one: only the
    whole chain can tell those.
    """
    fmt = session.fact.poses
    if fmt is None:
        return []
    hypotheses: list[tuple[str, PoseFormat]] = []
    if fmt.of == "joints" or fmt.rotation == "rotvec" or fmt.rotation.startswith("euler"):
        unit = "deg" if fmt.angle == "rad" else "rad"
        hypotheses.append(("degrees-for-radians", fmt.model_copy(update={"angle": unit})))
    if fmt.of == "tool" and fmt.rotation.startswith("quat"):
        other = "quat_xyzw" if fmt.rotation == "quat_wxyz" else "quat_wxyz"
        hypotheses.append(("quaternion-order", fmt.model_copy(update={"rotation": other})))
    if fmt.of == "tool" and (fmt.rotation.startswith("euler") or fmt.rotation == "rotvec"):
        hypotheses += [
            ("euler-order", fmt.model_copy(update={"rotation": name}))
            for name in (*EULER, "rotvec")
            if name != fmt.rotation
        ]
    gaps = [angle_gap(session.poses_as(one), C) for _, one in hypotheses]
    limit = min(2 * min([*gaps, angle_gap(T, C)]), np.radians(2.0))
    return [(gap, name, one) for gap, (name, one) in zip(gaps, hypotheses, strict=True) if gap <= limit]


def other_angles(session: Session, camera: Camera, T: np.ndarray, C: np.ndarray) -> list[Check]:
    """Name the hypothesis that explains how the views turn, where the declared rotations do not."""
    gap = angle_gap(T, C)
    agree = [one for one in other_hypotheses(session, T, C) if one[0] <= FAR_BETTER * gap]
    if not agree:
        return []
    mounted = session.fact.mounted or "moving"
    errors = []
    for _, _, one in agree:
        B = chain(session.poses_as(one), mounted)
        errors.append(chain_miss(session, camera, B, C) if len(agree) > 1 else 0.0)
    best, name, hypothesis = agree[int(np.argmin(errors))]
    as_good = [
        one.rotation
        for (_, other, one), error in zip(agree, errors, strict=True)
        if other == name and error <= 2 * min(errors)
    ]
    what = f'angle = "{hypothesis.angle}"' if name == "degrees-for-radians" else f'rotation = "{hypothesis.rotation}"'
    more = f" ({', '.join(as_good)} agree on these poses)" if len(as_good) > 1 else ""
    return [
        fault(
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


def explain(session: Session, camera: Camera, T: np.ndarray, C: np.ndarray, result: HandEye) -> list[Check]:
    """Try hypotheses about a session that does not fit; the best one names the fault."""
    mounted = session.fact.mounted or "moving"
    angles = other_angles(session, camera, T, C)
    if angles:
        return angles
    B = chain(T, mounted)
    miss = partial(chain_miss, session, camera)
    here = miss(B, C)
    candidates: list[tuple[float, Check]] = []

    def consider(error: float, name: str, evidence: str, advice: str) -> None:
        candidates.append(
            (error, fault(name, f"{evidence}: median view misses by {error:.1f} px, as declared {here:.1f} px", advice))
        )

    consider(
        miss(np.asarray(invert(B)), C),
        "inverted-poses",
        "poses read the other way round, which is also what the wrong mount looks like",
        "Check whether the file holds T_base_link or T_link_base (inverted = true), and whether the camera or the "
        "board is on the arm (mounted).",
    )
    fmt, arm = session.fact.poses, session.arm
    if fmt is not None and fmt.of == "joints" and arm is not None and mounted == "moving":
        # The last link is rigid with the flange.
        for link in ("flange", *(f"link{i}" for i in range(1, arm.dof))):
            if link != session.link:
                consider(
                    miss(chain(session.poses_as(fmt, link), mounted), C),
                    "wrong-mount",
                    f"the camera taken to hang on {link}, not on {session.link}",
                    f'Set parent = "{(session.fact.parent or "ARM/").partition("/")[0]}/{link}" in session.toml.',
                )
    try:
        ratio = length_ratio(B, C)
    except (ValueError, np.linalg.LinAlgError):
        ratio = 1.0
    for unit in (1000.0, 0.001):
        if 0.8 < ratio / unit < 1.25:
            stretched = B.copy()
            stretched[:, :3, 3] /= unit
            consider(
                miss(stretched, C),
                "mm-for-m",
                f"robot lengths are {ratio:.1f} times the board's",
                "Give the robot's lengths and the board's in the units declared; one of them is in mm.",
            )
    for shift in (1, -1, 2, -2):
        a, b = (B[shift:], C[:-shift]) if shift > 0 else (B[:shift], C[-shift:])
        if len(a) >= 5:
            consider(
                miss(a, b),
                "rows-shifted",
                f"poses shifted by {shift:+d} rows",
                "Poses and images are out of step: check where a pose or an image is missing.",
            )
    for _, name, one in other_hypotheses(session, T, C):
        what = f'angle = "{one.angle}"' if name == "degrees-for-radians" else f'rotation = "{one.rotation}"'
        reread = chain(session.poses_as(one), mounted)
        consider(miss(reread, C), name, f"poses read with {what}", f"Set {what} in [poses].")
    candidates = [one for one in candidates if here > GOOD_PX and one[0] < FAR_BETTER * here]
    moved = _board_moved(session, camera, B, C)
    if moved is not None:
        candidates.append(moved)
    if candidates:
        return [min(candidates, key=lambda one: one[0])[1]]
    exchanged = _exchanged(B, result)
    if exchanged:
        return [exchanged]
    gap = result.rms / max(float(np.median(result.pnp)), 1e-6)
    if len(result.outliers) and np.median(result.per_view) <= GOOD_PX and len(result.outliers) <= 0.1 * len(B) + 1:
        return [
            fault(
                "bad-views",
                f"{', '.join(result.outliers)} miss by up to {result.per_view.max():.1f} px, the others by "
                f"{np.median(result.per_view):.2f} px",
                "Look at these images; drop them or take them again.",
                fatal=False,
            )
        ]
    return [
        fault(
            "arm-moving-while-shot",
            f"each view fits by itself ({np.median(result.pnp):.2f} px) but not with the robot ({result.rms:.1f} px, "
            f"{gap:.0f} times more), and no hypothesis about the files helps",
            "Let the arm stand still for half a second before each shot and record the pose then; check that the "
            "board and the camera are fixed, and the arm model.",
        )
    ]


def _exchanged(B: np.ndarray, result: HandEye) -> Check | None:
    """Name two or more rows whose exchange explains them."""
    if len(result.per_view) != len(B):
        return None
    bad = np.flatnonzero(result.per_view > np.maximum(3.0, 4 * np.median(result.per_view)))
    if not 2 <= len(bad) <= max(2, len(B) // 2):
        return None
    T = invert(result.X) @ B @ result.Z
    C = np.stack([one.T_camera_board for one in result.poses])

    def gap(i: int, j: int) -> float:
        off = invert(T[i]) @ C[j]
        return float(np.linalg.norm(off[:3, 3]) + 0.3 * np.linalg.norm(rotation_log(off[:3, :3])))

    swaps = []
    for i in map(int, bad):
        for j in map(int, bad):
            if i < j and gap(i, j) < 0.2 * gap(i, i) and gap(j, i) < 0.2 * gap(j, j):
                swaps.append(f"{result.names[i]} and {result.names[j]}")
    if not swaps:
        return None
    return fault(
        "rows-exchanged",
        f"the poses of {'; '.join(swaps)} fit each other's images",
        "Exchange these rows of the pose file.",
    )


def _board_moved(session: Session, camera: Camera, B: np.ndarray, C: np.ndarray) -> tuple[float, Check] | None:
    """Name a single move of the board when it explains the mean view far better than none; with its miss in px.

    The mean, not the median: before a late move most views fit well without it.
    """
    n, f, marks = len(B), float(abs(camera.K[0, 0])), board_marks(session)
    still = robust_start(B, C, marks)
    if n < 8 or still is None:
        return None
    seen = apply(C[:, None], marks)

    def missed(X: np.ndarray, Z: np.ndarray) -> float:
        off = np.linalg.norm(apply((invert(X) @ B @ Z)[:, None], marks) - seen, axis=-1).max(-1)
        return f * float(np.mean(off / np.maximum(np.abs(seen[:, 0, 2]), 1e-6)))

    i, j = np.triu_indices(n, 1)
    A, D = B[j] @ invert(B)[i], C[j] @ invert(C)[i]
    turn = np.linalg.norm(rotation_log(A[:, :3, :3]), axis=-1)
    useful = (turn > np.radians(3)) & (turn < np.radians(175))
    best = None
    for at in range(3, n - 2):
        same = useful & ((i < at) == (j < at))
        if same.sum() < 6:
            continue
        a, d = rotation_log(A[same][:, :3, :3]), rotation_log(D[same][:, :3, :3])
        R = nearest_rotation(np.einsum("pi,pj->ij", a, d))
        left = (A[same][:, :3, :3] - np.eye(3)).reshape(-1, 3)
        right = (D[same][:, :3, 3] @ R.T - A[same][:, :3, 3]).reshape(-1)
        X = np.asarray(pose(R, np.linalg.lstsq(left, right, rcond=None)[0]))
        Zs = invert(B) @ X @ C
        halves = []
        for part in (slice(0, at), slice(at, n)):
            halves.append(
                np.asarray(pose(nearest_rotation(Zs[part, :3, :3].mean(0)), np.median(Zs[part, :3, 3], axis=0)))
            )
        Z = np.where((np.arange(n) < at)[:, None, None], halves[0], halves[1])
        error = missed(X, Z)
        if best is None or error < best[0]:
            step = invert(halves[0]) @ halves[1]
            deg = float(np.degrees(np.linalg.norm(rotation_log(step[:3, :3]))))
            best = (error, at, float(np.linalg.norm(step[:3, 3])) * 1e3, deg)
    without = missed(still[1], still[2])
    if best is None or best[0] > FAR_BETTER * without:
        return None
    error, at, mm, deg = best
    check = fault(
        "board-moved",
        f"the board sits {mm:.1f} mm and {deg:.2f} deg elsewhere from view {session.views[at].name} on: with that the "
        f"mean view misses by {error:.1f} px, without by {without:.1f} px",
        "Fix the board and take the session again, or split it there.",
    )
    return error, check


REACH_M = 5.0
CLASSES: tuple[tuple[str, ...], ...] = (
    ("inverted-poses", "wrong-mount"),
    ("mm-for-m", "board-scale"),
    ("rows-exchanged", "board-moved"),
)
"""Faults that the data cannot tell apart."""


def find_faults(session: Session, camera: Camera, result: HandEye | None = None) -> list[Check]:
    """Return the faults of a session, the gravest first; empty when it is sound.

    Args:
        session: The session as read.
        camera: The camera whose intrinsics are used.
        result: Its hand-eye result, when already solved.
    """
    early = [*_sizes(session, camera), *_layout(session), *_raw_numbers(session)]
    if early:
        return early
    fmt = session.fact.poses
    mounted = session.fact.mounted or "moving"
    if fmt is None:
        return []
    T = session.poses_as(fmt)
    try:
        singles = [board_poses(camera, view)[0] for view in session.views]
    except ValueError as error:
        return [fault("intrinsics", str(error), "Calibrate the camera's intrinsics at this resolution.")]
    off = float(np.median([one.rms for one in singles]))
    scaled = _resolution(session, camera, off)
    if scaled:
        return scaled
    C = np.stack([one.T_camera_board for one in singles])
    weak = _weak(chain(T, mounted), C)
    if any(check.id == "fault/too-little-rotation" for check in weak):
        other = other_angles(session, camera, T, C)
        return other or weak
    try:
        result = result or solve_hand_eye(camera, T, session.views, mounted, singles=singles)
    except ValueError as error:
        return [*weak, fault("no-solution", str(error), "Take more views that turn in every direction.")]
    C = np.stack([one.T_camera_board for one in result.poses]) if len(result.poses) == len(C) else C
    if result.scaled_rms < FAR_BETTER * result.rms and _scale(result):
        return [*weak, *_scale(result)]
    if result.rms > GOOD_PX or result.outliers:
        return [*explain(session, camera, T, C, result), *weak]
    return [*weak, *_scale(result)]


def _sizes(session: Session, camera: Camera) -> Iterator[Check]:
    size, declared = (session.width, session.height), (camera.width, camera.height)
    cx, cy = camera.K[0, 2], camera.K[1, 2]
    if size != declared and size == declared[::-1]:
        yield fault(
            "width-and-height-swapped",
            f"images are {size[0]}x{size[1]}, the camera says {declared[0]}x{declared[1]}",
            "Exchange width and height of the camera; house order is width, height.",
        )
    elif size != declared:
        yield fault(
            "intrinsics-of-another-resolution",
            f"images are {size[0]}x{size[1]}, the intrinsics belong to {declared[0]}x{declared[1]}",
            "Calibrate at this resolution, or state the recorder's resize in image_map.",
        )
    elif not (0 < cx < size[0] and 0 < cy < size[1]):
        yield fault(
            "width-and-height-swapped",
            f"the principal point ({cx:.0f}, {cy:.0f}) lies outside the {size[0]}x{size[1]} image",
            "Exchange cx and cy, or width and height.",
        )


def _layout(session: Session) -> Iterator[Check]:
    if session.legacy is not None and session.legacy != session.fact.board.legacy:
        seen = "from before" if session.legacy else "of"
        yield fault(
            "marker-layout",
            f"the board in the images has the layout {seen} OpenCV 4.6",
            f"Set legacy = {str(session.legacy).lower()} in [board].",
        )


def _raw_numbers(session: Session) -> Iterator[Check]:
    """Faults that show in the pose file's numbers alone."""
    fmt, rows, arm = session.fact.poses, session.rows, session.arm
    if fmt is None or not rows.size:
        return
    if fmt.of == "tool" and fmt.rotation == "matrix":
        odd = [rotation_fault(R, 1e-3) for R in rows.reshape(-1, 4, 4)[:, :3, :3]]
        bad = [text for text in odd if text]
        if bad:
            yield fault(
                "mirrored-rotation" if "mirror" in bad[0] else "no-rotation",
                f"{len(bad)} of {len(odd)} poses: {bad[0]}",
                "One axis has the wrong sign, or rows and columns of a left-handed tool frame: correct the export.",
            )
    angles = None
    if fmt.of == "joints":
        angles = rows
    elif fmt.rotation == "rotvec" or fmt.rotation.startswith("euler"):
        angles = rows[:, 3:]
    if angles is not None and fmt.angle == "rad" and np.abs(angles).max() > 2 * np.pi + 0.05:
        yield fault(
            "degrees-for-radians",
            f"an angle of {np.abs(angles).max():.1f} is declared in radians",
            'Set angle = "deg" in [poses].',
        )
    if fmt.of == "tool":
        t = rows.reshape(-1, 4, 4)[:, :3, 3] if fmt.rotation == "matrix" else rows[:, :3]
        size = np.median(np.linalg.norm(t, axis=1)) * (1e-3 if fmt.length == "mm" else 1.0)
        if size > REACH_M:
            yield fault(
                "mm-for-m",
                f"the tool stands {size:.0f} m from the base; no arm reaches so far",
                'Set length = "mm" in [poses].',
            )
        elif size < 0.005:
            yield fault(
                "mm-for-m",
                f"the tool stands {size * 1e3:.2f} mm from the base; these are metres declared as mm",
                'Set length = "m" in [poses].',
            )
    if fmt.of == "joints" and arm is not None and fmt.angle == "deg" and np.abs(rows).max() < 2 * np.pi:
        yield fault(
            "degrees-for-radians",
            f"no joint angle exceeds {np.abs(rows).max():.2f} although they are declared in degrees",
            'Set angle = "rad" in [poses].',
        )


def _resolution(session: Session, camera: Camera, off: float) -> list[Check]:
    """Name intrinsics of another resolution: the views by themselves fit far better with K scaled."""
    if off < 0.8:
        return []
    best, factor = off, 1.0
    some = session.views[:: max(1, len(session.views) // 6)]
    for s in (0.25, 1 / 3, 0.5, 2 / 3, 0.75, 4 / 3, 1.5, 2.0, 3.0, 4.0):
        K = camera.K.copy()
        K[:2] *= s
        K[:2, 2] += 0.5 * s - 0.5
        try:
            errors = [board_poses(replace(camera, K=K, valid_radius=None), view)[0].rms for view in some]
        except ValueError:
            continue
        if np.median(errors) < best:
            best, factor = float(np.median(errors)), s
    if best < 0.5 * off:
        return [
            fault(
                "intrinsics-of-another-resolution",
                f"single views miss by {off:.2f} px, with K scaled by {factor:.3g} by {best:.2f} px",
                f"K belongs to images {1 / factor:.3g} times as wide: calibrate at this resolution.",
            )
        ]
    swapped = camera.K.copy()
    swapped[0, 2], swapped[1, 2] = camera.K[1, 2], camera.K[0, 2]
    try:
        errors = [board_poses(replace(camera, K=swapped, valid_radius=None), view)[0].rms for view in some]
    except ValueError:
        return []
    if np.median(errors) < 0.5 * off:
        return [
            fault(
                "width-and-height-swapped",
                f"single views miss by {off:.2f} px, with cx and cy exchanged by {np.median(errors):.2f} px",
                "Exchange cx and cy.",
            )
        ]
    return []


def _weak(B: np.ndarray, C: np.ndarray) -> list[Check]:
    found = spread(B, C)
    faults = []
    if found.nearest < 0.002:
        faults.append(
            fault(
                "duplicate-poses",
                f"two views differ by {found.nearest * 1e3:.2f} mm (or mrad) only",
                "Keep one of each: copies make the result look surer than it is.",
                fatal=False,
            )
        )
    if found.turn < np.radians(20):
        faults.append(
            fault(
                "too-little-rotation",
                f"no two views turn by more than {np.degrees(found.turn):.1f} deg",
                "Turn the wrist by 45 degrees and more between views, in every direction.",
            )
        )
    elif found.axes < 0.02:
        faults.append(
            fault(
                "planar-motion",
                f"the axes of all turns lie in a plane or on a line (spread {found.axes:.4f}, needs 0.02)",
                "Turn about further axes: roll AND pitch AND yaw.",
            )
        )
    return faults


def _scale(result: HandEye) -> list[Check]:
    off = abs(result.scale - 1)
    if off > 0.01 and off > 4 * result.scale_sigma:
        return [
            fault(
                "board-scale",
                f"the robot's lengths make the board {result.scale:.4f} times as large as declared "
                f"(sigma {result.scale_sigma:.4f})",
                "Measure a long row of squares with a ruler and correct square_m; check the robot's units.",
            )
        ]
    return []
