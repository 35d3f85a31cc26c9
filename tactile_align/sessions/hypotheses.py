"""Hypotheses about one mistake in a calibration session, each with the session or camera as it would then be."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from tactile_align.calibration.camera import Camera
from tactile_align.calibration.closed_form import length_ratio
from tactile_align.calibration.hand_eye import HandEye, Mounted, chain, read_alike, robust_start, solve_hand_eye
from tactile_align.calibration.views import BoardPose, View, board_poses
from tactile_align.checks import Hypothesis
from tactile_align.evenly import evenly
from tactile_align.geometry.frames import apply, invert
from tactile_align.kinematics.controller import turn_signature
from tactile_align.sessions.robot_poses import EULER, PoseFormat
from tactile_align.sessions.session import Session

GOOD_PX, FAR_BETTER = 3.0, 0.25
"""GOOD_PX: error above which a fit is doubted, px. FAR_BETTER: share of the declared error that a hypothesis may leave
to count as the explanation."""
THINNED = 16  # most views from which the error of a hypothesis is computed
SCALE_ADVICE = "Measure a long row of squares with a ruler and correct square_m. Check the robot's units."


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
OTHER_IMAGES = "intrinsics-of-another-resolution"
OFF_CENTRE = 0.03
"""Distance of the principal point from the image's centre, as a share of the width, from which a crop is possible."""


def cropped_lens(camera: Camera) -> Iterator[Hypothesis[Camera]]:
    """Yield the hypothesis that K belongs to larger frames, of which the images are the middle, if K allows it."""
    K, centre = camera.K.copy(), (np.array([camera.width, camera.height]) - 1) / 2
    u, v = K[:2, 2] - centre
    if max(u, v) > OFF_CENTRE * camera.width and min(u, v) > -OFF_CENTRE * camera.width:
        K[:2, 2] = centre
        advice = (
            "K belongs to images of which these are a crop. State the crop in image_map, or calibrate these images."
        )
        evidence = f"K of a crop that begins about {u:.0f}, {v:.0f} px later"
        yield Hypothesis(OTHER_IMAGES, advice, replace(camera, K=K), evidence)


def other_lenses(camera: Camera) -> Iterator[Hypothesis[Camera]]:
    """Yield hypotheses about K: K of frames of another size, of frames that were cropped, and cx, cy exchanged."""
    for s in FACTORS:
        K = camera.K.copy()
        K[:2] *= s
        K[:2, 2] += 0.5 * s - 0.5
        advice = f"K belongs to images {1 / s:.3g} times as wide. Calibrate at this resolution."
        yield Hypothesis(OTHER_IMAGES, advice, replace(camera, K=K, valid_radius=None), f"K times {s:.3g}")
    yield from cropped_lens(camera)
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
