"""Diagnosis of a hand-eye session: known faults, each with its evidence and advice.

Each function compares the session's files, read as session.toml declares them, with hypotheses about mistakes in them.
A fault is reported only if a hypothesis explains the views far better, or if a number lies outside any plausible range.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.closed_form import length_ratio
from tactile_align.calibration.hand_eye import HandEye, chain, robust_start, solve_hand_eye, spread
from tactile_align.calibration.views import board_poses
from tactile_align.checks import Check, Hypothesis, named
from tactile_align.geometry.frames import apply, invert, nearest_rotation, pose, pose_fault, rotation_log
from tactile_align.kinematics.controller import turn_signature
from tactile_align.sessions.robot_poses import EULER, PoseFormat
from tactile_align.sessions.session import Session

GOOD_PX, FAR_BETTER = 3.0, 0.25
"""GOOD_PX: error above which a fit is doubted, px. FAR_BETTER: share of the declared error that a hypothesis may leave
to count as the explanation."""

fault = partial(named, "fault")
"""Function that returns a check with the id "fault/NAME", given NAME, evidence, advice and a status ("fail" if omitted;
"warn": the result is still useful)."""


def angle_gap(T: np.ndarray, C: np.ndarray) -> float:
    """Return the median difference, rad, between the relative rotations of the robot and those of the board.

    A relative rotation is the angle between the poses in two views. `T` (N, 4, 4) are the robot's poses T_base_link,
    `C` (N, 4, 4) the board's poses T_camera_board. The result does not
    depend on the camera's mount or on any length.
    """
    return float(np.median(np.abs(turn_signature(T[:, :3, :3]) - turn_signature(C[:, :3, :3]))))


def other_formats(session: Session, T: np.ndarray, C: np.ndarray) -> list[tuple[float, Hypothesis[PoseFormat]]]:
    """Return the undeclared rotation formats with which the robot's relative rotations agree with the camera's.

    Each format is a hypothesis with its gap, rad, see `angle_gap`. T (N, 4, 4) is T_base_link as declared, C (N, 4, 4)
    is T_camera_board of each view alone, m. Each hypothesis has the name of the fault that it implies. Quaternion
    orders, and Euler orders that differ only in the names of the axes, give the same relative rotations as the declared
    format; only the whole chain of poses can tell these apart.
    """
    fmt = session.fact.poses
    if fmt is None:
        return []
    changes = []
    angles = fmt.rotation == "rotvec" or fmt.rotation.startswith("euler")
    if fmt.of == "joints" or angles:
        changes.append(("degrees-for-radians", "angle", "deg" if fmt.angle == "rad" else "rad"))
    if fmt.of == "tool" and fmt.rotation.startswith("quat"):
        other = "quat_xyzw" if fmt.rotation == "quat_wxyz" else "quat_wxyz"
        changes.append(("quaternion-order", "rotation", other))
    if fmt.of == "tool" and angles:
        changes += [("euler-order", "rotation", name) for name in (*EULER, "rotvec") if name != fmt.rotation]
    hypotheses = []
    for name, key, value in changes:
        edit = f'{key} = "{value}"'
        hypotheses.append(Hypothesis(name, f"Set {edit} in [poses].", fmt.model_copy(update={key: value}), edit))
    gaps = [angle_gap(session.poses_as(hypothesis.changed), C) for hypothesis in hypotheses]
    limit = min(2 * min([*gaps, angle_gap(T, C)]), np.radians(2.0))
    return [pair for pair in zip(gaps, hypotheses, strict=True) if pair[0] <= limit]


def other_angles(session: Session, camera: Camera, T: np.ndarray, C: np.ndarray) -> list[Check]:
    """Return one fault if another rotation format than the declared one fits the views far better; otherwise [].

    T and C are (N, 4, 4), m: T_base_link as declared, and T_camera_board as estimated from each view alone.
    """
    gap, mounted = angle_gap(T, C), session.fact.mounted or "moving"
    gaps = [pair for pair in other_formats(session, T, C) if pair[0] <= FAR_BETTER * gap]
    if not gaps:
        return []
    errors = [0.0]
    if len(gaps) > 1:
        errors = [chain_miss(session, camera, chain(session.poses_as(one.changed), mounted), C) for _, one in gaps]
    least, best = gaps[int(np.argmin(errors))]
    as_good = [
        one.changed.rotation
        for (_, one), error in zip(gaps, errors, strict=True)
        if one.name == best.name and error <= 2 * min(errors)
    ]
    more = f" (for these poses, {', '.join(as_good)} are equally good)" if len(as_good) > 1 else ""
    declared, changed = np.degrees(gap), np.degrees(least)
    evidence = (
        f"the relative rotations of robot and camera differ by {declared:.2f} deg with the declared format, "
        f"but by {changed:.3f} deg with {best.evidence}{more}"
    )
    return [fault(best.name, evidence, best.advice)]


def board_marks(session: Session) -> np.ndarray:
    """Return three points (3, 3) on the board, m, at which poses of the board are compared."""
    points = np.asarray(session.fact.board.points)
    return points.mean(0) + np.ptp(points, axis=0).max() / 2 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]])


def chain_miss(session: Session, camera: Camera, B: np.ndarray, C: np.ndarray) -> float:
    """Return the error, px, of the median view under the best camera pose that a closed-form solution gives.

    The result is inf if the views rotate too little.

    Args:
        session: The session, for its board.
        camera: The camera.
        B: (N, 4, 4) the robot's part of the chain, m; see `calibration.hand_eye.chain`.
        C: (N, 4, 4) T_camera_board, estimated from each view alone, m.
    """
    start = robust_start(B, C, board_marks(session))
    return np.inf if start is None else start[0] * float(abs(camera.K[0, 0]))


def chain_hypotheses(
    session: Session, T: np.ndarray, B: np.ndarray, C: np.ndarray
) -> Iterator[Hypothesis[tuple[np.ndarray, np.ndarray]]]:
    """Yield hypotheses about mistakes in a session's files.

    T (N, 4, 4), m, is T_base_link as declared; B and C are as in `chain_miss`. `changed` of a hypothesis contains the
    poses B and C that hold if the hypothesis is true.
    """
    mounted, fmt, arm = session.fact.mounted or "moving", session.fact.poses, session.arm
    evidence = "with the poses inverted (a wrong value of mounted has the same effect)"
    advice = (
        "Check whether the file contains T_base_link or T_link_base (then set inverted = true), and whether the camera "
        'or the board is on the arm (mounted = "moving" or "fixed").'
    )
    yield Hypothesis("inverted-poses", advice, (np.asarray(invert(B)), C), evidence)
    if fmt is not None and fmt.of == "joints" and arm is not None and mounted == "moving":
        # The last link is fixed to the flange, so it needs no hypothesis of its own.
        for link in ("flange", *(f"link{i}" for i in range(1, arm.dof))):
            if link != session.link:
                evidence = f"with the camera on {link}, not on {session.link}"
                parent = f"{(session.fact.parent or 'ARM/').partition('/')[0]}/{link}"
                moved = chain(session.poses_as(fmt, link), mounted)
                yield Hypothesis("wrong-mount", f'Set parent = "{parent}" in session.toml.', (moved, C), evidence)
    try:
        ratio = length_ratio(B, C)
    except (ValueError, np.linalg.LinAlgError):
        ratio = 1.0
    for unit in (1000.0, 0.001):
        if 0.8 < ratio / unit < 1.25:
            stretched = B.copy()
            stretched[:, :3, 3] /= unit
            evidence = f"the robot's lengths are {ratio:.1f} times those of the board"
            advice = "Either the robot's lengths or the board's are in mm. Give both in the declared units."
            yield Hypothesis("mm-for-m", advice, (stretched, C), evidence)
    for shift in (1, -1, 2, -2):
        parts = (B[shift:], C[:-shift]) if shift > 0 else (B[:shift], C[-shift:])
        if len(parts[0]) >= 5:
            advice = "Poses and images do not match row by row. Find the missing pose or image."
            yield Hypothesis("rows-shifted", advice, parts, f"with the poses shifted by {shift:+d} rows")
    for _, one in other_formats(session, T, C):
        reread = chain(session.poses_as(one.changed), mounted)
        yield Hypothesis(one.name, one.advice, (reread, C), f"with {one.evidence} in [poses]")


def explain(session: Session, camera: Camera, T: np.ndarray, C: np.ndarray, result: HandEye) -> list[Check]:
    """Return the fault whose hypothesis best explains why a session does not fit, as a list with one check.

    T and C are (N, 4, 4), m: T_base_link as declared, and T_camera_board as estimated from each view alone.
    """
    angles = other_angles(session, camera, T, C)
    if angles:
        return angles
    B = chain(T, session.fact.mounted or "moving")
    declared = chain_miss(session, camera, B, C)
    candidates: list[tuple[float, Check]] = []
    for one in chain_hypotheses(session, T, B, C) if declared > GOOD_PX else ():
        error = chain_miss(session, camera, *one.changed)
        if error < FAR_BETTER * declared:
            evidence = f"{one.evidence}, the error of the median view is {error:.1f} px; as declared {declared:.1f} px"
            candidates.append((error, fault(one.name, evidence, one.advice)))
    moved = _board_moved(session, camera, B, C)
    if moved is not None:
        candidates.append(moved)
    if candidates:
        return [min(candidates, key=lambda candidate: candidate[0])[1]]
    exchanged = _exchanged(B, result)
    if exchanged:
        return [exchanged]
    median, alone = float(np.median(result.per_view)), float(np.median(result.pnp))
    if len(result.outliers) and median <= GOOD_PX and len(result.outliers) <= 0.1 * len(B) + 1:
        names, worst = ", ".join(result.outliers), result.per_view.max()
        evidence = f"{names} are off by up to {worst:.1f} px, the median view by {median:.2f} px"
        return [fault("bad-views", evidence, "Look at these images. Remove them or take them again.", "warn")]
    evidence = (
        f"each view fits alone ({alone:.2f} px), but not together with the robot's poses ({result.rms:.1f} px, "
        f"{result.rms / max(alone, 1e-6):.0f} times as much), and no hypothesis about the files explains it"
    )
    advice = (
        "Let the arm stand still for half a second before each image, and record the pose at that moment. Check that "
        "board and camera are mounted firmly, and that the arm model is right."
    )
    return [fault("arm-moving-while-shot", evidence, advice)]


def _exchanged(B: np.ndarray, result: HandEye) -> Check | None:
    """Return the fault of exchanged rows if exchanging two rows of the pose file explains their errors."""
    if len(result.per_view) != len(B):
        return None
    bad = np.flatnonzero(result.per_view > np.maximum(3.0, 4 * np.median(result.per_view)))
    if not 2 <= len(bad) <= max(2, len(B) // 2):
        return None
    T = invert(result.X) @ B @ result.Z
    C = np.stack([single.T_camera_board for single in result.poses])
    off = invert(T)[:, None] @ C
    gap = np.linalg.norm(off[..., :3, 3], axis=-1) + 0.3 * np.linalg.norm(rotation_log(off[..., :3, :3]), axis=-1)
    swaps = [
        f"{result.names[i]} and {result.names[j]}"
        for i, j in combinations(bad, 2)
        if gap[i, j] < 0.2 * gap[i, i] and gap[j, i] < 0.2 * gap[j, j]
    ]
    if not swaps:
        return None
    evidence = f"poses fit each other's images: {'; '.join(swaps)}"
    return fault("rows-exchanged", evidence, "Exchange these rows of the pose file.")


def _board_moved(session: Session, camera: Camera, B: np.ndarray, C: np.ndarray) -> tuple[float, Check] | None:
    """Return the fault of a board that moved once, with the remaining error, px, if the move explains the views.

    Errors are means, not medians: if the board moves late, most views fit well even without the move.
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
    best, moves = np.inf, (0, np.eye(4))
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
        before, after = (
            pose(nearest_rotation(part[:, :3, :3].mean(0)), np.median(part[:, :3, 3], axis=0))
            for part in (Zs[:at], Zs[at:])
        )
        error = missed(X, np.where((np.arange(n) < at)[:, None, None], before, after))
        if error < best:
            best, moves = error, (at, invert(before) @ after)
    without = missed(still[1], still[2])
    if not np.isfinite(best) or best > FAR_BETTER * without:
        return None
    at, step = moves
    mm, deg = np.linalg.norm(step[:3, 3]) * 1e3, np.degrees(np.linalg.norm(rotation_log(step[:3, :3])))
    evidence = (
        f"from view {session.views[at].name} on, the board is {mm:.1f} mm and {deg:.2f} deg away from its first pose. "
        f"With this move the mean error is {best:.1f} px, without {without:.1f} px"
    )
    return best, fault("board-moved", evidence, "Fix the board and record again, or split the session at this view.")


REACH_M = 5.0
"""Reach that no arm exceeds."""


def find_faults(session: Session, camera: Camera) -> list[Check]:
    """Return the faults of a session, the gravest first; [] if the session has no known fault.

    Args:
        session: The session.
        camera: Camera model with the intrinsics to use.
    """
    early = [*_sizes(session, camera), *_layout(session), *_raw_numbers(session)]
    fmt, mounted = session.fact.poses, session.fact.mounted or "moving"
    if early or fmt is None:
        return early
    T = session.poses_as(fmt)
    try:
        singles = [board_poses(camera, view)[0] for view in session.views]
    except ValueError as error:
        return [fault("intrinsics", str(error), "Calibrate the camera's intrinsics at this resolution.")]
    scaled = _resolution(session, camera, float(np.median([single.rms for single in singles])))
    if scaled:
        return scaled
    C = np.stack([single.T_camera_board for single in singles])
    weak = list(_weak(chain(T, mounted), C))
    if any(check.id == "fault/too-little-rotation" for check in weak):
        return other_angles(session, camera, T, C) or weak
    try:
        result = solve_hand_eye(camera, T, session.views, mounted, singles=singles)
    except ValueError as error:
        return [*weak, fault("no-solution", str(error), "Take more views, and turn the wrist in every direction.")]
    C = np.stack([single.T_camera_board for single in result.poses]) if len(result.poses) == len(C) else C
    scale = _scale(result)
    if scale and result.scaled_rms < FAR_BETTER * result.rms:
        return [*weak, *scale]
    if result.rms > GOOD_PX or result.outliers:
        return [*explain(session, camera, T, C, result), *weak]
    return [*weak, *scale]


def _sizes(session: Session, camera: Camera) -> Iterator[Check]:
    width, height, cx, cy = session.width, session.height, camera.K[0, 2], camera.K[1, 2]
    declared = f"{camera.width}x{camera.height}"
    if (camera.width, camera.height) == (width, height):
        if not (0 < cx < width and 0 < cy < height):
            evidence = f"the principal point ({cx:.0f}, {cy:.0f}) lies outside the {width}x{height} image"
            yield fault("width-and-height-swapped", evidence, "Exchange cx and cy, or width and height.")
    elif (camera.width, camera.height) == (height, width):
        advice = "Exchange width and height of the camera. The order is width, then height."
        evidence = f"images are {width}x{height}, but the camera is {declared}"
        yield fault("width-and-height-swapped", evidence, advice)
    else:
        advice = "Calibrate at this resolution, or give the recorder's resize in image_map."
        evidence = f"images are {width}x{height}, but the intrinsics belong to {declared}"
        yield fault("intrinsics-of-another-resolution", evidence, advice)


def _layout(session: Session) -> Iterator[Check]:
    if session.legacy is not None and session.legacy != session.fact.board.legacy:
        evidence = f"the board in the images has the layout {'from before' if session.legacy else 'since'} OpenCV 4.6"
        yield fault("marker-layout", evidence, f"Set legacy = {str(session.legacy).lower()} in [board].")


def _raw_numbers(session: Session) -> Iterator[Check]:
    """Yield the faults that are visible in the numbers of the pose file alone."""
    fmt, rows, arm = session.fact.poses, session.rows, session.arm
    if fmt is None or not rows.size:
        return
    matrix = fmt.of == "tool" and fmt.rotation == "matrix"
    odd = [pose_fault(T, 1e-3) for T in fmt.as_written(rows)] if matrix else []
    bad = [text for text in odd if text]
    if bad and "last row" in bad[0]:
        evidence = f"{len(bad)} of {len(odd)} matrices are not poses: {bad[0]}"
        other = "rows" if fmt.matrix_order == "columns" else "columns"
        advice = f'Set matrix_order = "{other}" in [poses].' if "transpose" in bad[0] else "Export the poses again."
        yield fault("no-pose", evidence, advice)
        return
    if bad:
        evidence = f"{len(bad)} of {len(odd)} poses have no valid rotation: {bad[0]}"
        advice = "Export the poses again, with an orthonormal 3x3 rotation and numbers in row-major order."
        if "mirror" in bad[0]:
            advice = "One axis has the wrong sign, or the tool frame is left-handed. Correct the export of the poses."
        yield fault("mirrored-rotation" if "mirror" in bad[0] else "no-rotation", evidence, advice)
    angles = np.zeros(0)
    if fmt.of == "joints":
        angles = rows if arm is None else rows[:, ~np.array(arm.prismatic)]
    elif fmt.rotation == "rotvec" or fmt.rotation.startswith("euler"):
        angles = rows[:, 3:]
    largest = np.abs(angles).max(initial=0.0)
    if fmt.angle == "rad" and largest > 2 * np.pi + 0.05:
        evidence = f"an angle is {largest:.1f}, although angles are declared in radians"
        yield fault("degrees-for-radians", evidence, 'Set angle = "deg" in [poses].')
    if fmt.of == "tool":
        t = fmt.as_written(rows)[:, :3, 3] if matrix else rows[:, :3]
        size = np.median(np.linalg.norm(t, axis=1)) * (1e-3 if fmt.length == "mm" else 1.0)
        if size > REACH_M:
            evidence = f"the tool is {size:.0f} m away from the base; no arm reaches that far"
            yield fault("mm-for-m", evidence, 'Set length = "mm" in [poses].')
        elif size < 0.005:
            evidence = f"the tool is {size * 1e3:.2f} mm away from the base; these are metres declared as mm"
            yield fault("mm-for-m", evidence, 'Set length = "m" in [poses].')
    if fmt.of == "joints" and arm is not None and fmt.angle == "deg" and largest < 2 * np.pi:
        evidence = f"no joint angle exceeds {largest:.2f}, although angles are declared in degrees"
        yield fault("degrees-for-radians", evidence, 'Set angle = "rad" in [poses].')


def _resolution(session: Session, camera: Camera, off: float) -> list[Check]:
    """Return the fault of wrong intrinsics if scaling K, or exchanging cx and cy, makes single views fit far better.

    `off` is the median error of the single views with K as given, px. The list is empty if K seems right.
    """
    if off < 0.8:
        return []
    some = session.views[:: max(1, len(session.views) // 6)]

    def missed(K: np.ndarray) -> float:
        try:
            singles = [board_poses(replace(camera, K=K, valid_radius=None), view)[0] for view in some]
        except ValueError:
            return np.inf
        return float(np.median([single.rms for single in singles]))

    errors = {}
    for s in (0.25, 1 / 3, 0.5, 2 / 3, 0.75, 4 / 3, 1.5, 2.0, 3.0, 4.0):
        K = camera.K.copy()
        K[:2] *= s
        K[:2, 2] += 0.5 * s - 0.5
        errors[s] = missed(K)
    factor = min(errors, key=errors.__getitem__)
    if errors[factor] < 0.5 * off:
        evidence = f"the error of single views is {off:.2f} px, but {errors[factor]:.2f} px with K times {factor:.3g}"
        advice = f"K belongs to images {1 / factor:.3g} times as wide. Calibrate at this resolution."
        return [fault("intrinsics-of-another-resolution", evidence, advice)]
    swapped = camera.K.copy()
    swapped[:2, 2] = camera.K[1::-1, 2]
    error = missed(swapped)
    if error < 0.5 * off:
        evidence = f"the error of single views is {off:.2f} px, but {error:.2f} px with cx and cy exchanged"
        return [fault("width-and-height-swapped", evidence, "Exchange cx and cy.")]
    return []


def _weak(B: np.ndarray, C: np.ndarray) -> Iterator[Check]:
    motion = spread(B, C)
    if motion.nearest < 0.002:
        evidence = f"two views differ by only {motion.nearest * 1e3:.2f} mm (or mrad)"
        advice = "Remove the copies: they make the result look more certain than it is."
        yield fault("duplicate-poses", evidence, advice, "warn")
    if motion.turn < np.radians(20):
        evidence = f"no two views differ by more than {np.degrees(motion.turn):.1f} deg of rotation"
        advice = "Turn the wrist by 45 degrees or more between views, in every direction."
        yield fault("too-little-rotation", evidence, advice)
    elif motion.axes < 0.02:
        evidence = f"all rotation axes lie in a plane or on a line (spread {motion.axes:.4f}; at least 0.02 is needed)"
        yield fault("planar-motion", evidence, "Turn the wrist about more axes: roll AND pitch AND yaw.")


def _scale(result: HandEye) -> list[Check]:
    off = abs(result.scale - 1)
    if off <= 0.01 or off <= 4 * result.scale_sigma:
        return []
    evidence = (
        f"by the robot's lengths, the board is {result.scale:.4f} times as large as declared "
        f"(standard deviation {result.scale_sigma:.4f})"
    )
    advice = "Measure a long row of squares with a ruler and correct square_m. Check the robot's units."
    return [fault("board-scale", evidence, advice)]
