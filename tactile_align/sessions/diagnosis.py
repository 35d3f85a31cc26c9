"""Diagnosis of a hand-eye session: known faults, each with its evidence and advice.

Each function compares the session's files, read as session.toml declares them, with hypotheses about mistakes in them.
A fault is reported only if a hypothesis explains the views far better, or if a number lies outside any plausible range.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import combinations

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.hand_eye import HandEye, chain, robust_start, spread
from tactile_align.calibration.views import board_poses
from tactile_align.checks import Check, Hypothesis, named
from tactile_align.geometry.frames import apply, invert, nearest_rotation, pose, pose_fault, rotation_log
from tactile_align.sessions.hypotheses import (
    FAR_BETTER,
    GOOD_PX,
    SCALE_ADVICE,
    Case,
    Guess,
    angle_gap,
    board_marks,
    cropped_lens,
    hypotheses,
    other_angles,
    other_lenses,
    ranked_hypotheses,
)
from tactile_align.sessions.robot_poses import PoseFormat
from tactile_align.sessions.session import Session

BETTER = 0.5
"""Like FAR_BETTER, for a fit that leaves no more than the usual errors of a good session."""
TIGHT = 2.0
"""Ratio of the error of all views together to that of each view alone below which a good fit is not doubted."""
EXACT, CLEAR = 1.25, 0.7
"""EXACT: like TIGHT, for a fit that leaves nothing to explain. CLEAR: like BETTER, for a hypothesis without a fitted
number that makes the fit exact."""

fault = partial(named, "fault")
"""Function that returns a check with the id "fault/NAME", given NAME, evidence, advice and a status ("fail" if omitted;
"warn": the result is still useful)."""


REFINED, PAIRS, VARIANTS = 4, 30, 3
"""REFINED: most hypotheses that are fitted again, in px. PAIRS: most pairs of faults that are tried. VARIANTS: most
hypotheses of each fault in a pair."""
Tried = tuple[float, tuple[Guess, ...], HandEye]
"""Error of the median view, px, under one or two hypotheses, the last of which is changed by the first, and the fit."""


def explain(case: Case, result: HandEye, depth: int = 2) -> list[Check] | None:
    """Return the faults that explain why a session does not fit, the gravest first; None if no known fault does.

    Args:
        case: The session as declared.
        result: The hand-eye calibration of the case.
        depth: How many mistakes in files and intrinsics are tried at once, 0 to 2; faults of single views come on top.
    """
    declared, sound = float(np.median(result.per_view)), result.rms <= GOOD_PX and not result.outliers
    if sound and declared <= TIGHT * np.median(result.pnp):
        return _cropped(case, declared) or _scale(result)
    if declared <= GOOD_PX and not sound and (found := _of_views(case, result, depth)) is not None:
        return found
    for one in other_angles(case) if depth == 2 else ():
        rest = explain(one.changed, one.changed.solved(), 1)
        more = [_unexplained(one.changed)] if rest is None else rest
        return [fault(one.name, one.evidence, one.advice), *more]
    ranked = ranked_hypotheses(case) if depth else []
    for trial in _best(((one,) for one in ranked), case.miss):
        told = _told(trial, declared)
        if told and (rest := explain(trial[1][0].changed, trial[2], depth - 1)) is not None:
            return [*told, *rest]
    if sound:
        return _scale(result)
    if declared > GOOD_PX and (found := _of_views(case, result, depth)) is not None:
        return found
    for trial in _best(_pairs(ranked), case.miss) if depth == 2 else ():
        told = _told(trial, declared)
        if told and (rest := explain(trial[1][1].changed, trial[2], 0)) is not None:
            return [*told, *rest]
    return None


def _best(guesses: Iterable[tuple[Guess, ...]], declared: float) -> list[Tried]:
    """Return the likeliest of some guesses, each of one hypothesis or two, after a fit of all views, the best first.

    `declared` is the error of the case without them; see `Case.miss`.
    """
    tried, ranked = [], sorted(guesses, key=lambda guess: guess[-1].changed.miss)[:REFINED]
    for guess in ranked:
        # The closed form uses a few views and is uncertain, but not by more than this.
        if guess[-1].changed.miss < min(3 * ranked[0][-1].changed.miss + 1, 0.75 * declared):
            with suppress(ValueError):
                result = guess[-1].changed.solved()
                tried.append((float(np.median(result.per_view)), guess, result))
    return sorted(tried, key=lambda trial: trial[0])


def _cropped(case: Case, declared: float) -> list[Check]:
    """Return the fault of K of larger frames if K of their middle makes a tight fit exact; else [].

    The motion of the camera hides most of this fault from boards that are far away and nearly fronto-parallel.
    """
    for lens in cropped_lens(case.camera):
        guess = Guess(lens.name, lens.advice, replace(case, camera=lens.changed, T_camera_board=None), lens.evidence)
        with suppress(ValueError):
            result = guess.changed.solved()
            error = float(np.median(result.per_view))
            if error <= EXACT * np.median(result.pnp):
                return _told((error, (guess,), result), declared, CLEAR)
    return []


def _pairs(ranked: list[Guess]) -> Iterator[tuple[Guess, Guess]]:
    """Yield pairs of hypotheses of the PAIRS likeliest pairs of faults; `ranked` are single hypotheses, best first."""
    by_name: dict[str, list[Guess]] = {}
    for one in ranked:
        by_name.setdefault(one.name, []).append(one)

    def unlikely(names: tuple[str, str]) -> float:
        return sum(float(np.log(min(by_name[name][0].changed.miss, 1e9) + 1e-3)) for name in names)

    second: dict[int, list[Guess]] = {}
    for first, other in sorted(combinations(by_name, 2), key=unlikely)[:PAIRS]:
        # A changed lens comes first: the board's poses in the views depend on it, and are slow to compute.
        first, other = sorted((first, other), key=lambda name: by_name[name][0].changed.T_camera_board is not None)
        for one in by_name[first][:VARIANTS]:
            if id(one) not in second:
                second[id(one)] = []
                with suppress(ValueError):  # a view that the changed lens does not reach
                    second[id(one)] = list(hypotheses(one.changed))
            yield from ((one, two) for two in second[id(one)] if two.name == other)


def _told(trial: Tried, declared: float, limit: float = BETTER) -> list[Check]:
    """Return the faults of one or two hypotheses that fit far better than the files do as `declared`, px; else [].

    `limit` is the largest share of the declared error that they may leave.
    """
    error, guess, _ = trial
    if error >= limit * declared:
        return []
    changes = " and ".join(one.evidence for one in guess)
    evidence = f"with {changes}, the error of the median view is {error:.2f} px; as declared {declared:.1f} px"
    return [fault(one.name, evidence, one.advice) for one in guess]


def _of_views(case: Case, result: HandEye, depth: int) -> list[Check] | None:
    """Return the faults of single views or of the board, and of the rest without them; None if there are none.

    `depth` is that of `explain`.
    """
    moved = _board_moved(case)
    if moved is not None:
        return [moved]
    swap = _exchanged(case, result)
    if swap is not None:
        rest = explain(swap.changed, swap.changed.solved(), depth)
        more = [_unexplained(swap.changed)] if rest is None else rest
        return [fault(swap.name, swap.evidence, swap.advice), *more]
    median, bad = float(np.median(result.per_view)), np.isin(result.names, result.outliers)
    if not bad.any() or median > GOOD_PX or bad.sum() > 0.1 * len(bad) + 1:
        return None
    names, worst = ", ".join(result.outliers), result.per_view.max()
    evidence = f"{names} are off by up to {worst:.1f} px, the median view by {median:.2f} px"
    found = fault("bad-views", evidence, "Look at these images. Remove them or take them again.", "warn")
    good = case.without(bad)
    return [*(one for one in explain(good, good.solved(), depth) or () if one.id != found.id), found]


GAP_RAD, MOVING_RAD = 0.07, 0.12
"""Largest median errors, rad, of relative rotations and of views that a moving arm explains."""


def _unexplained(case: Case) -> Check:
    """Return the fault of a session that no hypothesis explains: a moving arm if its errors are small."""
    gap, off = angle_gap(case.T, case.C), case.miss / float(abs(case.camera.K[0, 0]))
    evidence = (
        f"each view fits alone, but the median view is {case.miss:.1f} px off where the robot's poses put it, relative "
        f"rotations differ by {np.degrees(gap):.1f} deg, and no hypothesis about the files explains it"
    )
    advice = (
        "Let the arm stand still for half a second before each image, and record the pose at that moment. Check that "
        "board and camera are mounted firmly, and that the arm model is right."
    )
    if gap <= GAP_RAD and off <= MOVING_RAD:
        return fault("arm-moving-while-shot", evidence, advice)
    advice = (
        "More than one thing is wrong, or something that is not on the list. Check [poses], K and the order of the "
        f"views one by one. {advice}"
    )
    return fault("more-than-one-thing", evidence, advice)


def _exchanged(case: Case, result: HandEye) -> Guess | None:
    """Return the hypothesis of exchanged rows if exchanging rows of the pose file explains the errors of bad views."""
    median = np.median(result.per_view)
    bad = np.flatnonzero(result.per_view > np.maximum(GOOD_PX, 3 * median))
    if not 2 <= len(bad) <= max(2, len(result.per_view) // 2):
        return None
    T, marks = invert(result.X) @ chain(case.T, case.mounted) @ result.Z, board_marks(case.session)
    seen, _ = case.camera.project(apply(np.stack([one.T_camera_board for one in result.poses])[:, None], marks))
    uv, _ = case.camera.project(apply(T[:, None], marks))
    off = np.nan_to_num(np.linalg.norm(uv[:, None] - seen, axis=-1).mean(-1), nan=np.inf)
    fits, order, swaps = max(GOOD_PX, 3 * median), np.arange(len(off)), []
    for i, j in sorted(combinations(bad, 2), key=lambda pair: off[pair] + off[pair[::-1]]):
        better = off[i, j] < 0.5 * off[i, i] and off[j, i] < 0.5 * off[j, j] and max(off[i, j], off[j, i]) < fits
        if better and order[i] == i and order[j] == j:
            order[[i, j]] = j, i
            swaps.append(f"{result.names[i]} and {result.names[j]}")
    if not swaps:
        return None
    evidence = f"poses fit each other's images: {'; '.join(swaps)}"
    C = np.stack([one.T_camera_board for one in result.poses])
    changed = replace(case, session=replace(case.session, rows=case.session.rows[order]), T_camera_board=C)
    return Guess("rows-exchanged", "Exchange these rows of the pose file.", changed, evidence)


def _board_moved(case: Case) -> Check | None:
    """Return the fault of a board that moved once, if the move explains the views.

    Errors are means, not medians: if the board moves late, most views fit well even without the move.
    """
    B, C, marks = chain(case.T, case.mounted), case.C, board_marks(case.session)
    n, f = len(B), float(abs(case.camera.K[0, 0]))
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
        f"from view {case.session.views[at].name} on, the board is {mm:.1f} mm and {deg:.2f} deg away from its first "
        f"pose. "
        f"With this move the mean error is {best:.1f} px, without {without:.1f} px"
    )
    return fault("board-moved", evidence, "Fix the board and record again, or split the session at this view.")


REACH_M = 5.0
"""Reach that no arm exceeds."""


def find_faults(session: Session, camera: Camera) -> list[Check]:
    """Return the faults of a session, the gravest first; [] if the session has no known fault.

    Args:
        session: The session.
        camera: Camera model with the intrinsics to use.
    """
    early, fmt, outside = [*_sizes(session, camera), *_layout(session)], session.fact.poses, _outside(session, camera)
    if early or fmt is None:
        return [*early, *outside]
    raw = list(_raw_numbers(session))
    if raw:
        fixed = next((one.changed for one in raw if one.changed != fmt), None)
        told = [fault(one.name, one.evidence, one.advice) for one in raw]
        return (
            told
            if fixed is None or len(raw) > 1
            else [*told, *find_faults(Case(session, camera).declaring(poses=fixed).session, camera)]
        )
    case, unseen = Case(session, camera), ""
    try:
        off = float(np.median([single.rms for single in case.alone()]))
    except ValueError as error:
        unseen, off = str(error), np.inf
    for one in _resolution(session, camera, off):
        return [fault(one.name, one.evidence, one.advice), *find_faults(session, one.changed)]
    if unseen:
        return [fault("intrinsics", unseen, "Calibrate the camera's intrinsics at this resolution.")]
    case = replace(case, T_camera_board=np.stack([single.T_camera_board for single in case.alone()]))
    weak = list(_weak(chain(case.T, case.mounted), case.C))
    if any(check.id == "fault/too-little-rotation" for check in weak):
        return [fault(one.name, one.evidence, one.advice) for one in other_angles(case)] or weak
    try:
        result = case.solved()
    except ValueError as error:
        return [*weak, fault("no-solution", str(error), "Take more views, and turn the wrist in every direction.")]
    case = replace(case, T_camera_board=np.stack([single.T_camera_board for single in result.poses]))
    found = explain(case, result)
    if not any(check.id == "fault/intrinsics-of-another-resolution" for check in found or ()):
        found = [*outside, *(found or ())] if outside else found
    return [*([_unexplained(case)] if found is None else found), *weak]


def _outside(session: Session, camera: Camera) -> list[Check]:
    """Return the fault of a principal point outside the image, which only K of a larger frame explains."""
    (cx, cy), (width, height) = camera.K[:2, 2], (session.width, session.height)
    if 0 < cx < width and 0 < cy < height:
        return []
    evidence = f"the principal point ({cx:.0f}, {cy:.0f}) lies outside the {width}x{height} image"
    advice = "K belongs to larger images. Calibrate at this resolution."
    return [fault("intrinsics-of-another-resolution", evidence, advice)]


def _sizes(session: Session, camera: Camera) -> Iterator[Check]:
    width, height, cx, cy = session.width, session.height, camera.K[0, 2], camera.K[1, 2]
    declared = f"{camera.width}x{camera.height}"
    if (camera.width, camera.height) == (width, height):
        if not (0 < cx < width and 0 < cy < height) and 0 < cy < width and 0 < cx < height:
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


def _raw_numbers(session: Session) -> Iterator[Hypothesis[PoseFormat]]:
    """Yield the faults that are visible in the numbers of the pose file alone, with the format that mends them.

    Where no other format does, `changed` is the declared format.
    """
    fmt, rows, arm = session.fact.poses, session.rows, session.arm
    if fmt is None or not rows.size:
        return

    def other(name: str, key: str, value: str, evidence: str) -> Hypothesis[PoseFormat]:
        advice = f'Set {key} = "{value}" in [poses].'
        return Hypothesis(name, advice, fmt.model_copy(update={key: value}), evidence)

    matrix = fmt.of == "tool" and fmt.rotation == "matrix"
    odd = [pose_fault(T, 1e-3) for T in fmt.as_written(rows)] if matrix else []
    bad = [text for text in odd if text]
    if bad and "last row" in bad[0]:
        evidence = f"{len(bad)} of {len(odd)} matrices are not poses: {bad[0]}"
        if "transpose" in bad[0]:
            yield other("no-pose", "matrix_order", "rows" if fmt.matrix_order == "columns" else "columns", evidence)
        else:
            yield Hypothesis("no-pose", "Export the poses again.", fmt, evidence)
        return
    if bad:
        evidence = f"{len(bad)} of {len(odd)} poses have no valid rotation: {bad[0]}"
        advice = "Export the poses again, with an orthonormal 3x3 rotation and numbers in row-major order."
        if "mirror" in bad[0]:
            advice = "One axis has the wrong sign, or the tool frame is left-handed. Correct the export of the poses."
        yield Hypothesis("mirrored-rotation" if "mirror" in bad[0] else "no-rotation", advice, fmt, evidence)
    angles = np.zeros(0)
    if fmt.of == "joints":
        angles = rows if arm is None else rows[:, ~np.array(arm.prismatic)]
    elif fmt.rotation == "rotvec" or fmt.rotation.startswith("euler"):
        angles = rows[:, 3:]
    largest = np.abs(angles).max(initial=0.0)
    if fmt.angle == "rad" and largest > 2 * np.pi + 0.05:
        evidence = f"an angle is {largest:.1f}, although angles are declared in radians"
        yield other("degrees-for-radians", "angle", "deg", evidence)
    if fmt.of == "tool":
        t = fmt.as_written(rows)[:, :3, 3] if matrix else rows[:, :3]
        size = np.median(np.linalg.norm(t, axis=1)) * (1e-3 if fmt.length == "mm" else 1.0)
        if size > REACH_M and fmt.length == "m":
            evidence = f"the tool is {size:.0f} m away from the base; no arm reaches that far"
            yield other("mm-for-m", "length", "mm", evidence)
        elif size < 0.005 and fmt.length == "mm":
            evidence = f"the tool is {size * 1e3:.2f} mm away from the base; these are metres declared as mm"
            yield other("mm-for-m", "length", "m", evidence)
    if fmt.of == "joints" and arm is not None and fmt.angle == "deg" and largest < 2 * np.pi:
        evidence = f"no joint angle exceeds {largest:.2f}, although angles are declared in degrees"
        yield other("degrees-for-radians", "angle", "rad", evidence)


def _resolution(session: Session, camera: Camera, off: float) -> list[Hypothesis[Camera]]:
    """Return one hypothesis of other intrinsics with which single views fit far better; [] if K seems right.

    `off` is the median error of the single views with K as given, px; inf if they do not fit at all.
    """
    if off < 0.8:
        return []
    some = session.views[:: max(1, len(session.views) // 6)]

    def missed(lens: Hypothesis[Camera]) -> float:
        try:
            return float(np.median([board_poses(lens.changed, view)[0].rms for view in some]))
        except ValueError:
            return np.inf

    errors = [(missed(lens), lens) for lens in other_lenses(camera)]
    error, best = min(errors, key=lambda pair: pair[0])
    if error >= 0.5 * min(off, 1e9):
        return []
    evidence = f"the error of single views is {off:.2f} px, but {error:.2f} px with {best.evidence}"
    return [replace(best, evidence=evidence)]


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
    return [fault("board-scale", evidence, SCALE_ADVICE)]
