"""Diagnosis of a hand-eye session: known faults, each with its evidence and advice.

Each function compares the session's files, read as session.toml declares them, with hypotheses about mistakes in them.
A fault is reported only if a hypothesis explains the views far better, or if a number lies outside any plausible range.
"""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import combinations

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.closed_form import length_ratio
from tactile_align.calibration.hand_eye import HandEye, Mounted, chain, read_alike, robust_start, solve_hand_eye, spread
from tactile_align.calibration.views import BoardPose, View, board_poses
from tactile_align.checks import Check, Hypothesis, named
from tactile_align.evenly import evenly
from tactile_align.geometry.frames import apply, invert, nearest_rotation, pose, pose_fault, rotation_log
from tactile_align.kinematics.controller import turn_signature
from tactile_align.sessions.robot_poses import EULER, PoseFormat
from tactile_align.sessions.session import Session

GOOD_PX, FAR_BETTER, BETTER = 3.0, 0.25, 0.5
"""GOOD_PX: error above which a fit is doubted, px. FAR_BETTER: share of the declared error that a hypothesis may leave
to count as the explanation; BETTER: the same where no more than the usual errors of a good session are left."""
THINNED = 16
TIGHT = 2.0
"""Ratio of the error of all views together to that of each view alone below which a good fit is not doubted."""
SCALE_ADVICE = "Measure a long row of squares with a ruler and correct square_m. Check the robot's units."

fault = partial(named, "fault")
"""Function that returns a check with the id "fault/NAME", given NAME, evidence, advice and a status ("fail" if omitted;
"warn": the result is still useful)."""


def angle_gap(T: np.ndarray, C: np.ndarray) -> float:
    """Return the median difference, rad, between the relative rotations of the robot and those of the board.

    A relative rotation is the angle between the poses in two views. `T` (N, 4, 4) are the robot's poses T_base_link,
    `C` (N, 4, 4) the board's poses T_camera_board. The result does not depend on the camera's mount or on any length.
    """
    return float(np.median(np.abs(turn_signature(T[:, :3, :3]) - turn_signature(C[:, :3, :3]))))


@dataclass(frozen=True)
class Case:
    """Session and camera as they would be if a hypothesis were true.

    Attributes:
        session: The session; its [poses] are declared.
        camera: Camera model with the intrinsics to use.
        T_camera_board: (N, 4, 4) board pose in each view alone, m; None: computed from the views.
        inverse: Whether the robot's poses are the inverse of what session.toml declares.
        known: Board poses computed so far, with their views, by K and view; cases that a hypothesis derives share them.
    """

    session: Session
    camera: Camera
    T_camera_board: np.ndarray | None = None
    inverse: bool = False
    known: dict[tuple[bytes, int], tuple[View, BoardPose]] = field(default_factory=dict)

    @property
    def fmt(self) -> PoseFormat:
        """Format of the pose file."""
        assert self.session.fact.poses is not None
        return self.session.fact.poses

    @property
    def mounted(self) -> Mounted:
        """What moves; "moving", the camera, if session.toml does not state it."""
        return self.session.fact.mounted or "moving"

    @cached_property
    def T(self) -> np.ndarray:
        """(N, 4, 4) T_base_link, m."""
        T = self.session.poses_as(self.fmt)
        return np.asarray(invert(T)) if self.inverse else T

    @cached_property
    def C(self) -> np.ndarray:
        """(N, 4, 4) T_camera_board of each view alone, m."""
        if self.T_camera_board is not None:
            return self.T_camera_board
        alone = [single.T_camera_board for single in self.alone()]
        return read_alike(self.camera, chain(self.T, self.mounted), list(self.session.views), alone)[1]

    def alone(self) -> list[BoardPose]:
        """Return the board pose in each view, from that view alone."""
        lens = self.camera.K.tobytes()
        for view in self.session.views:
            if (lens, id(view)) not in self.known:
                self.known[lens, id(view)] = view, board_poses(self.camera, view)[0]
        return [self.known[lens, id(view)][1] for view in self.session.views]

    def declaring(self, **facts: object) -> "Case":
        """Return this case with other values of keys of session.toml."""
        return replace(self, session=replace(self.session, fact=self.session.fact.model_copy(update=facts)))

    def with_board_times(self, scale: float) -> "Case":
        """Return this case with all lengths of the board multiplied by `scale`."""
        views = tuple(
            replace(view, points=scale * view.points, others=tuple(scale * other for other in view.others))
            for view in self.session.views
        )
        C = self.C.copy()
        C[:, :3, 3] *= scale
        return replace(self, session=replace(self.session, views=views), T_camera_board=C)

    def without(self, rows: np.ndarray) -> "Case":
        """Return this case without the views whose entry in `rows` (N,), bool, is True."""
        kept = np.flatnonzero(~rows)
        views = tuple(self.session.views[i] for i in kept)
        session = replace(self.session, views=views, rows=self.session.rows[kept])
        return replace(self, session=session, T_camera_board=self.C[kept])

    @cached_property
    def miss(self) -> float:
        """Error, px, of the median view under the best poses of camera and board that a closed form gives.

        It is inf if the views rotate too little or the camera sees no board. At most THINNED views are used if the
        board's poses must be computed first, which is slow.
        """
        if self.T_camera_board is None and len(self.session.views) > THINNED:
            kept = evenly(len(self.session.views), THINNED)
            views, rows = tuple(self.session.views[i] for i in kept), self.session.rows[kept]
            return replace(self, session=replace(self.session, views=views, rows=rows)).miss
        marks = board_marks(self.session)
        try:
            B, C = chain(self.T, self.mounted), self.C
        except ValueError:
            return np.inf
        start = robust_start(B, C, marks)
        if start is None:
            return np.inf
        # Compared are pixels, not places in space: the distance of a small board that is far away is uncertain.
        seen, _ = self.camera.project(apply(C[:, None], marks))
        uv, _ = self.camera.project(apply((invert(start[1]) @ B @ start[2])[:, None], marks))
        return float(np.median(np.nan_to_num(np.linalg.norm(uv - seen, axis=-1).max(-1), nan=np.inf)))

    def solved(self) -> HandEye:
        """Return the hand-eye calibration of this case."""
        return solve_hand_eye(self.camera, self.T, self.session.views, self.mounted, singles=self.alone())


Guess = Hypothesis[Case]


def other_formats(case: Case) -> list[tuple[float, Guess]]:
    """Return the undeclared rotation formats with which the robot's relative rotations agree with the camera's.

    Each format is a hypothesis with its gap, rad, see `angle_gap`. Each hypothesis has the name of the fault that it
    implies. Quaternion orders, transposed rotations, and Euler orders that differ only in the names of the axes, give
    the same relative rotations as the declared format; only the whole chain of poses can tell these apart.
    """
    fmt = case.fmt
    changes: list[tuple[str, dict[str, object]]] = []
    angles = fmt.rotation == "rotvec" or fmt.rotation.startswith("euler")
    if fmt.of == "joints" or angles:
        changes.append(("degrees-for-radians", {"angle": "deg" if fmt.angle == "rad" else "rad"}))
    if fmt.of == "tool":
        turned: dict[str, object] = {"transposed": not fmt.transposed}
        changes.append(("transposed-rotation", turned))
        if fmt.rotation.startswith("quat"):
            other: dict[str, object] = {"rotation": "quat_xyzw" if fmt.rotation == "quat_wxyz" else "quat_wxyz"}
            changes += [("quaternion-order", other), ("quaternion-order", other | turned)]
        if angles:
            changes += [("euler-order", {"rotation": name}) for name in (*EULER, "rotvec") if name != fmt.rotation]
    hypotheses = []
    for name, change in changes:
        edit = " and ".join(f"{key} = {toml_value(value)}" for key, value in change.items())
        changed = case.declaring(poses=fmt.model_copy(update=change))
        hypotheses.append(Guess(name, f"Set {edit} in [poses].", replace(changed, T_camera_board=case.C), edit))
    gaps = [angle_gap(one.changed.T, case.C) for one in hypotheses]
    limit = min(2 * min([*gaps, angle_gap(case.T, case.C)]), np.radians(2.0))
    return [pair for pair in zip(gaps, hypotheses, strict=True) if pair[0] <= limit]


def toml_value(value: object) -> str:
    """Return a text or a truth value as TOML."""
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def other_angles(case: Case) -> list[Guess]:
    """Return one hypothesis if another rotation format than the declared one fits the views far better; else []."""
    gap = angle_gap(case.T, case.C)
    gaps = [pair for pair in other_formats(case) if pair[0] <= FAR_BETTER * gap]
    if not gaps:
        return []
    errors = [one.changed.miss if len(gaps) > 1 else 0.0 for _, one in gaps]
    least, best = gaps[int(np.argmin(errors))]
    as_good = [
        one.changed.fmt.rotation
        for (_, one), error in zip(gaps, errors, strict=True)
        if one.name == best.name and error <= 2 * min(errors)
    ]
    more = f" (for these poses, {', '.join(as_good)} are equally good)" if len(as_good) > 1 else ""
    declared, changed = np.degrees(gap), np.degrees(least)
    evidence = (
        f"the relative rotations of robot and camera differ by {declared:.2f} deg with the declared format, "
        f"but by {changed:.3f} deg with {best.evidence}{more}"
    )
    return [replace(best, evidence=evidence)]


def board_marks(session: Session) -> np.ndarray:
    """Return three points (3, 3) on the board, m, at which poses of the board are compared."""
    points = np.asarray(session.fact.board.points)
    return points.mean(0) + np.ptp(points, axis=0).max() / 2 * np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]])


FACTORS = (0.25, 1 / 3, 0.5, 2 / 3, 0.75, 4 / 3, 1.5, 2.0, 3.0, 4.0)
"""Ratios of frame widths between which intrinsics are confused."""
OFF_CENTRE = 0.03
"""Distance of the principal point from the image's centre, as a share of the width, from which a crop is possible."""


def other_lenses(camera: Camera) -> Iterator[Hypothesis[Camera]]:
    """Yield hypotheses about K: K of frames of another size, of frames that were cropped, and cx, cy exchanged."""
    name = "intrinsics-of-another-resolution"
    for s in FACTORS:
        K = camera.K.copy()
        K[:2] *= s
        K[:2, 2] += 0.5 * s - 0.5
        advice = f"K belongs to images {1 / s:.3g} times as wide. Calibrate at this resolution."
        yield Hypothesis(name, advice, replace(camera, K=K, valid_radius=None), f"K times {s:.3g}")
    K, centre = camera.K.copy(), (np.array([camera.width, camera.height]) - 1) / 2
    u, v = K[:2, 2] - centre
    if max(u, v) > OFF_CENTRE * camera.width and min(u, v) > -OFF_CENTRE * camera.width:
        K[:2, 2] = centre
        advice = (
            "K belongs to images of which these are a crop. State the crop in image_map, or calibrate these images."
        )
        yield Hypothesis(name, advice, replace(camera, K=K), f"K of a crop that begins about {u:.0f}, {v:.0f} px later")
    K = camera.K.copy()
    K[:2, 2] = K[1::-1, 2]
    yield Hypothesis("width-and-height-swapped", "Exchange cx and cy.", replace(camera, K=K), "cx and cy exchanged")


def hypotheses(case: Case) -> Iterator[Guess]:
    """Yield hypotheses about one mistake in a session's files."""
    evidence = "the poses inverted (a wrong value of mounted has the same effect)"
    advice = (
        "Check whether the file contains T_base_link or T_link_base (then set inverted = true), and whether the camera "
        'or the board is on the arm (mounted = "moving" or "fixed").'
    )
    session, fmt, arm = case.session, case.fmt, case.session.arm
    yield Guess("inverted-poses", advice, replace(case, T_camera_board=case.C, inverse=not case.inverse), evidence)
    if fmt.of == "joints" and arm is not None and case.mounted == "moving":
        # The last link is fixed to the flange, so it needs no hypothesis of its own.
        for link in ("flange", *(f"link{i}" for i in range(1, arm.dof))):
            if link != session.link:
                parent = f"{(session.fact.parent or 'ARM/').partition('/')[0]}/{link}"
                moved = replace(case.declaring(parent=parent), T_camera_board=case.C)
                evidence = f"the camera on {link}, not on {session.link}"
                yield Guess("wrong-mount", f'Set parent = "{parent}" in session.toml.', moved, evidence)
    if fmt.of == "tool":
        length = "mm" if fmt.length == "m" else "m"
        advice = f'Set length = "{length}" in [poses]. Give the board\'s lengths in m.'
        stretched = replace(case.declaring(poses=fmt.model_copy(update={"length": length})), T_camera_board=case.C)
        yield Guess("mm-for-m", advice, stretched, f"the robot's lengths in {length}, not in {fmt.length}")
    for shift in (1, -1, 2, -2):
        there, here = (slice(shift, None), slice(-shift)) if shift > 0 else (slice(shift), slice(-shift, None))
        if len(session.rows[there]) >= 5:
            advice = "Poses and images do not match row by row. Find the missing pose or image."
            parts = replace(session, rows=session.rows[there], views=session.views[here])
            shifted = replace(case, session=parts, T_camera_board=case.C[here])
            yield Guess("rows-shifted", advice, shifted, f"the poses shifted by {shift:+d} rows")
    scale = board_scale(case)
    unit = next((unit for unit in (1000.0, 0.001) if 0.8 < scale / unit < 1.25), 1.0)
    if unit != 1.0:
        advice = "Either the robot's lengths or the board's are in mm. Give both in the declared units."
        evidence = f"the board's lengths times {unit:g}"
        yield Guess("mm-for-m", advice, case.with_board_times(unit), evidence)
    elif 0.5 < scale < 2.0:
        evidence = f"a board {scale:.4f} times as large as declared"
        yield Guess("board-scale", SCALE_ADVICE, case.with_board_times(scale), evidence)
    yield from (one for _, one in other_formats(case))


def ranked_hypotheses(case: Case) -> list[Guess]:
    """Return hypotheses about one mistake in the files, and in K if those do not suffice, the likeliest first."""
    ranked = sorted(hypotheses(case), key=lambda one: one.changed.miss)
    if ranked[0].changed.miss < min(GOOD_PX, FAR_BETTER * case.miss):
        return ranked
    ranked += [
        Guess(lens.name, lens.advice, replace(case, camera=lens.changed, T_camera_board=None), lens.evidence)
        for lens in other_lenses(case.camera)
    ]
    return sorted(ranked, key=lambda one: one.changed.miss)


def board_scale(case: Case) -> float:
    """Return the factor on the board's lengths that fits the robot's in most views; nan if none does."""
    B, C = chain(case.T, case.mounted), case.C
    some = np.random.default_rng(0).random((60, len(B))).argsort(axis=1)[:, :5]
    with suppress(ValueError, np.linalg.LinAlgError):
        scaled = C.copy()
        scaled[:, :3, 3] *= np.median([length_ratio(B[rows], C[rows]) for rows in some])
        start = robust_start(B, scaled, board_marks(case.session))
        if start is not None:
            off = np.linalg.norm((invert(start[1]) @ B @ start[2] - scaled)[:, :3, 3], axis=-1)
            good = off <= 3 * np.median(off)
            return length_ratio(B[good], C[good])
    return np.nan


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
        return _scale(result)
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


def _told(trial: Tried, declared: float) -> list[Check]:
    """Return the faults of one or two hypotheses that fit far better than the files do as `declared`, px; else []."""
    error, guess, _ = trial
    if error >= BETTER * declared:
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
