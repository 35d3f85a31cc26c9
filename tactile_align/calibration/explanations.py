"""What explains a session that does not fit: other readings of its files, rows out of step, a board that moved."""

from functools import partial

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.closed_form import length_ratio
from tactile_align.calibration.hand_eye import HandEye, chain
from tactile_align.calibration.readings import (
    FAR_BETTER,
    GOOD_PX,
    Fault,
    board_marks,
    chain_miss,
    other_angles,
    other_readings,
)
from tactile_align.calibration.session import Session
from tactile_align.calibration.starts import robust_start
from tactile_align.geometry.frames import apply, invert, nearest_rotation, pose, rotation_log


def explain(session: Session, camera: Camera, T: np.ndarray, C: np.ndarray, result: HandEye) -> list[Fault]:
    """Try other readings of a session that does not fit; the best one names the fault."""
    mounted = session.fact.mounted or "moving"
    angles = other_angles(session, camera, T, C)
    if angles:
        return angles
    B = chain(T, mounted)
    miss = partial(chain_miss, session, camera)
    here = miss(B, C)
    candidates: list[tuple[float, Fault]] = []

    def consider(error: float, name: str, evidence: str, advice: str) -> None:
        candidates.append(
            (error, Fault(name, f"{evidence}: median view misses by {error:.1f} px, as declared {here:.1f} px", advice))
        )

    consider(
        miss(np.asarray(invert(B)), C),
        "inverted poses",
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
                    "wrong mount",
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
                "mm for m",
                f"robot lengths are {ratio:.1f} times the board's",
                "Give the robot's lengths and the board's in the units declared; one of them is in mm.",
            )
    for shift in (1, -1, 2, -2):
        a, b = (B[shift:], C[:-shift]) if shift > 0 else (B[:shift], C[-shift:])
        if len(a) >= 5:
            consider(
                miss(a, b),
                "rows shifted",
                f"poses shifted by {shift:+d} rows",
                "Poses and images are out of step: check where a pose or an image is missing.",
            )
    for _, name, one in other_readings(session, T, C):
        what = f'angle = "{one.angle}"' if name == "degrees for radians" else f'rotation = "{one.rotation}"'
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
            Fault(
                "bad views",
                f"{', '.join(result.outliers)} miss by up to {result.per_view.max():.1f} px, the others by "
                f"{np.median(result.per_view):.2f} px",
                "Look at these images; drop them or take them again.",
                fatal=False,
            )
        ]
    return [
        Fault(
            "arm moving while shot",
            f"each view fits by itself ({np.median(result.pnp):.2f} px) but not with the robot ({result.rms:.1f} px, "
            f"{gap:.0f} times more), and no other reading of the files helps",
            "Let the arm stand still for half a second before each shot and record the pose then; check that the "
            "board and the camera are fixed, and the arm model.",
        )
    ]


def _exchanged(B: np.ndarray, result: HandEye) -> Fault | None:
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
    return Fault(
        "rows exchanged",
        f"the poses of {'; '.join(swaps)} fit each other's images",
        "Exchange these rows of the pose file.",
    )


def _board_moved(session: Session, camera: Camera, B: np.ndarray, C: np.ndarray) -> tuple[float, Fault] | None:
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
    fault = Fault(
        "board moved",
        f"the board sits {mm:.1f} mm and {deg:.2f} deg elsewhere from view {session.views[at].name} on: with that the "
        f"mean view misses by {error:.1f} px, without by {without:.1f} px",
        "Fix the board and take the session again, or split it there.",
    )
    return error, fault
