"""Comparison of forward kinematics with a controller's poses, and known mistakes that explain a difference."""

from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import permutations, product
from pathlib import Path
from typing import Literal

import numpy as np

from tactile_align.checks import Check, Hypothesis, Limit, Report, Status, Table, graded, named
from tactile_align.errors import InputError
from tactile_align.evenly import evenly
from tactile_align.facts import fact_names
from tactile_align.files import read_csv
from tactile_align.geometry.frames import nearest_rotation, pose, rotation_exp, rotation_log
from tactile_align.kinematics.arm import Arm, forward_kinematics, load_arm

POSE = ("x", "y", "z", "rx", "ry", "rz")
UNITS = {"deg": np.pi / 180, "rad": 1.0, "mm": 1e-3, "m": 1.0}
ANGLE = {"": "deg", "_rad": "rad", "_deg": "deg"}
LENGTH = {"": "mm", "_m": "m", "_mm": "mm"}
SLIDE = {"": "m", "_m": "m", "_mm": "mm", "_rad": "m", "_deg": "m"}
"""Units by the ending of a column's name, for angles, positions and sliding joints."""
EULER = ("zyx", "xyz", "xzy", "yxz", "yzx", "zxy")
"""Euler angle orders, in the order in which the matrices are multiplied. Dobot: zyx, R = Rz(rz) Ry(ry) Rx(rx)."""


@dataclass(frozen=True)
class PoseFile:
    """Rows of a pose file in SI units, and the units that its header states.

    Attributes:
        joints: (N, n) joint readings, rad (m where a joint slides).
        position: (N, 3) metres.
        angles: (N, 3) rx, ry, rz, rad.
        joint_unit: Unit of the joints that turn in the file, "deg" or "rad".
        slide_unit: Unit of the joints that slide in the file, "m" or "mm".
        position_unit: Unit of x, y, z in the file, "mm" or "m".
        angle_unit: Unit of rx, ry, rz in the file, "deg" or "rad".
    """

    joints: np.ndarray
    position: np.ndarray
    angles: np.ndarray
    joint_unit: str
    slide_unit: str
    position_unit: str
    angle_unit: str


def read_pose_file(path: str | Path, arm: Arm) -> PoseFile:
    """Return the rows of a CSV with the columns j1 .. jn, x, y, z, rx, ry, rz, for an arm with n joints.

    A column name may end in its unit (j1_rad, x_m, rx_rad). Without a unit, joints and angles are degrees and positions
    are millimetres, as Dobot controllers print them. A sliding joint is in metres, whatever the unit of the angles is,
    unless its column ends in _mm. Other columns are ignored.

    Raises:
        FileNotFoundError: No such file.
        InputError: A column is missing or repeated, columns have different units, or a cell is not a finite number.
            The message contains row and column.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file. Give a CSV file of controller poses")
    lines = read_csv(path)
    if not lines:
        raise InputError(f"{path}: the file is empty. Give a header line and one line per pose")
    header = [name.strip().lower() for name in lines[0][1]]
    rows = [(row, line) for row, line in lines[1:] if any(cell.strip() for cell in line)]
    groups, units = [], list[str]()
    turning, sliding = joint_columns(arm)
    for names, known in ((turning, ANGLE), (sliding, SLIDE), (POSE[:3], LENGTH), (POSE[3:], ANGLE)):
        columns = [_column(path, header, name, known) for name in names]
        stated = {unit for _, unit in columns} or {known[""]}
        if len(stated) > 1:
            raise InputError(f"{path}: columns {', '.join(names)} mix {' and '.join(sorted(stated))}. Use one unit")
        units += stated
        values = [[_number(path, row, line, header, i) for i, _ in columns] for row, line in rows]
        groups.append(np.array(values, dtype=np.float64).reshape(len(rows), len(names)) * UNITS[units[-1]])
    joints, slides = np.zeros((len(rows), arm.dof)), np.array(arm.prismatic)
    joints[:, ~slides], joints[:, slides] = groups[:2]
    return PoseFile(joints, groups[2], groups[3], *units)


def joint_columns(arm: Arm) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of the columns of the joints that turn and of those that slide, such as (j1, j2), (j3,)."""
    names = [(f"j{i + 1}", slides) for i, slides in enumerate(arm.prismatic)]
    return tuple(name for name, slides in names if not slides), tuple(name for name, slides in names if slides)


def controller_poses(file: PoseFile, order: str = "zyx") -> np.ndarray:
    """Return the controller's poses (N, 4, 4), metres.

    Args:
        file: The rows of the file.
        order: Order of the Euler angles in which their matrices are multiplied, one of EULER ("zyx": R = Rz Ry Rx); or
            "rotation vector" if rx, ry, rz form a rotation vector.
    """
    if order == "rotation vector":
        return np.asarray(pose(rotation_exp(file.angles), file.position))
    R = np.broadcast_to(np.eye(3), (len(file.angles), 3, 3))
    for axis in order:
        i = "xyz".index(axis)
        R = R @ rotation_exp(file.angles[:, i, None] * np.eye(3)[i])
    return np.asarray(pose(R, file.position))


def _column(path: Path, header: list[str], name: str, units: dict[str, str]) -> tuple[int, str]:
    choices = {f"{name}{ending}": unit for ending, unit in units.items()}
    columns = [(i, choices[column]) for i, column in enumerate(header) if column in choices]
    if len(columns) != 1:
        text = f"expected one column {' or '.join(choices)}, found {len(columns)} in the header: {', '.join(header)}"
        raise InputError(f"{path}: {text}. {'Keep only one of them' if columns else 'Add or rename the column'}")
    return columns[0]


def _number(path: Path, row: int, line: list[str], header: list[str], column: int) -> float:
    text = line[column].strip() if column < len(line) else ""
    try:
        value = float(text)
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"{path}: line {row}, column {header[column]}: expected a number, got '{text}'. Fix this cell")
    return value


Freedom = Literal["none", "tool", "base", "both"]
ITERATIONS = 40


@dataclass(frozen=True)
class Residual:
    """RMS and maximum of the distances (mm) and angles (deg) between two lists of poses.

    `worst_row` is the index (from 0) of the pair of poses with the largest distance.
    """

    rms_mm: float
    max_mm: float
    rms_deg: float
    max_deg: float
    worst_row: int

    def within(self, mm: float, deg: float) -> bool:
        """Return whether `rms_mm` and `rms_deg` are within the bounds `mm` and `deg`."""
        return self.rms_mm <= mm and self.rms_deg <= deg


@dataclass(frozen=True)
class PoseFit:
    """Fitted offsets Z and X between poses A (forward kinematics) and C (controller), C = Z A X, and the residual.

    Z = T_reference_base is the base offset, X = T_flange_tool the tool offset; both are (4, 4), m.
    """

    T_reference_base: np.ndarray
    T_flange_tool: np.ndarray
    residual: Residual


def residual(A: np.ndarray, C: np.ndarray) -> Residual:
    """Return RMS and maximum of the differences between poses A and C, each (N, 4, 4), metres, pair by pair."""
    mm = 1000 * np.linalg.norm(A[:, :3, 3] - C[:, :3, 3], axis=-1)
    deg = np.degrees(np.linalg.norm(rotation_log(np.swapaxes(A[:, :3, :3], 1, 2) @ C[:, :3, :3]), axis=-1))
    rms_mm, rms_deg = (float(np.sqrt(np.mean(off**2))) for off in (mm, deg))
    return Residual(rms_mm, float(mm.max()), rms_deg, float(deg.max()), int(mm.argmax()))


def fit_poses(A: np.ndarray, C: np.ndarray, freedom: Freedom) -> PoseFit:
    """Return the base offset Z and the tool offset X that fit C = Z A X best, and the remaining residual.

    Z is the pose of the arm's base in the controller's reference frame, X that of the tool on the flange. Rotations are
    fitted first, then positions by least squares.

    Args:
        A: (N, 4, 4) poses from forward kinematics, metres.
        C: (N, 4, 4) poses from the controller, metres.
        freedom: Offsets to fit. none: no offset. tool: X. base: Z. both: X and Z. An offset that is not fitted is the
            identity.
    """
    R_A, p_A, R_C, p_C = A[:, :3, :3], A[:, :3, 3], C[:, :3, :3], C[:, :3, 3]
    R_Z, R_X, p_Z, p_X = np.eye(3), np.eye(3), np.zeros(3), np.zeros(3)
    if freedom == "tool":
        R_X = nearest_rotation(np.mean(np.swapaxes(R_A, 1, 2) @ R_C, axis=0))
        p_X = np.mean(np.einsum("nji,nj->ni", R_A, p_C - p_A), axis=0)
    elif freedom == "base":
        R_Z = nearest_rotation(np.mean(R_C @ np.swapaxes(R_A, 1, 2), axis=0))
        p_Z = np.mean(p_C - p_A @ R_Z.T, axis=0)
    elif freedom == "both":
        R_Z, R_X = _fit_rotations(R_A, R_C)
        turned = R_Z @ R_A
        matrix = np.concatenate([turned, np.broadcast_to(np.eye(3), turned.shape)], axis=-1).reshape(-1, 6)
        solution = np.linalg.lstsq(matrix, (p_C - p_A @ R_Z.T).reshape(-1), rcond=1e-9)[0]
        p_X, p_Z = solution[:3], solution[3:]
    Z, X = pose(R_Z, p_Z), pose(R_X, p_X)
    return PoseFit(Z, X, residual(Z @ A @ X, C))


def _fit_rotations(R_A: np.ndarray, R_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return R_Z and R_X of R_C = R_Z R_A R_X, solved alternately, starting from all 24 rotations of a cube."""
    # The sum over all rows is computed once, so an iteration costs the same for ten poses and for a thousand.
    G = np.einsum("nij,nlk->ijlk", R_C, R_A)
    from_X = np.ascontiguousarray(G.transpose(0, 2, 3, 1)).reshape(9, 9)
    from_Z = np.ascontiguousarray(G.transpose(3, 1, 0, 2)).reshape(9, 9)
    signed = (
        np.eye(3)[list(permutations(range(3)))][:, None] * np.array(list(product((1.0, -1.0), repeat=3)))[:, :, None]
    )
    R_X = signed.reshape(-1, 3, 3)[np.linalg.det(signed.reshape(-1, 3, 3)) > 0]
    R_Z = np.zeros_like(R_X)
    for _ in range(ITERATIONS):
        before, R_Z = R_Z, nearest_rotation((R_X.reshape(-1, 9) @ from_X.T).reshape(-1, 3, 3))
        R_X = nearest_rotation((R_Z.reshape(-1, 9) @ from_Z.T).reshape(-1, 3, 3))
        if np.abs(R_Z - before).max() < 1e-12:
            break
    best = int(np.einsum("sil,sil->s", R_Z, (R_X.reshape(-1, 9) @ from_X.T).reshape(-1, 3, 3)).argmax())
    return R_Z[best], R_X[best]


def turn_signature(R: np.ndarray) -> np.ndarray:
    """Return the angles (..., M), rad, between the rotations of all M pairs of N rotations (..., N, 3, 3).

    The angles do not depend on base and tool offsets, so two lists of rotations that differ only by such offsets have
    equal angles.
    """
    i, j = np.triu_indices(R.shape[-3], k=1)
    trace = np.einsum("...nij,...nij->...n", R[..., i, :, :], R[..., j, :, :])
    angles: np.ndarray = np.arccos(np.clip((trace - 1) / 2, -1, 1))
    return angles


def describe(T: np.ndarray) -> str:
    """Return a pose as text, in mm and degrees."""
    x, y, z = 1000 * T[:3, 3]
    angle = np.degrees(np.linalg.norm(rotation_log(T[:3, :3])))
    return f"({x:z.2f}, {y:z.2f}, {z:z.2f}) mm, turned by {angle:.2f} deg"


@dataclass(frozen=True)
class PosePair:
    """Poses A from forward kinematics and C from the controller, each (N, 4, 4), m.

    `changes` is the number of joints whose order, sign or zero a hypothesis changed to compute A.
    """

    A: np.ndarray
    C: np.ndarray
    changes: int = 0


@dataclass(frozen=True)
class Joints:
    """Hypothesis on how the columns of a pose file give the joint values of an arm with n joints.

    Joint i is column `order[i]` times `signs[i]` plus `offsets[i]`, rad. `changes` is the number of joints that are
    read differently from what the file states.
    """

    arm: Arm
    order: list[int]
    signs: np.ndarray
    offsets: np.ndarray
    changes: int = 0

    def read(self, q: np.ndarray) -> np.ndarray:
        """Return the arm's joint values (N, n), rad, from the joint columns q (N, n), rad, of a pose file."""
        return q[:, self.order] * self.signs + self.offsets


Trap = Hypothesis[PosePair]
AS_STATED = "as stated"
OF_FILE = {AS_STATED, "euler-order", "pose-angle-unit", "length-unit", "degrees"}
"""Hypotheses that concern only how the file states poses and joints. If one is true, the arm's model is right."""
ROWS_FOR_SEARCH = 24
CANDIDATES = 24
ALIKE_DEG = 1.0
"""Mean difference of relative rotations above which no base and tool offsets can make two lists of poses agree."""
GAZEBO = ({0, 3, 4}, {0, 3}, {0, 4, 5})
"""Joints (from 0) whose axes are -z in public Gazebo descriptions of Nova 2, Nova 5 and CR7."""


def hypotheses(arm: Arm, file: PoseFile, stated: PosePair) -> Iterator[Trap]:
    """Yield every hypothesis about a mistake in the pose file or the arm model that could explain the poses in it.

    `stated` contains the poses if file and arm model are correct.
    """
    for order in (*EULER[1:], "rotation vector"):
        means = order if order == "rotation vector" else " ".join(f"R{axis}(r{axis})" for axis in order)
        pair = replace(stated, C=controller_poses(file, order))
        evidence = f"rx, ry, rz are not Rz(rz) Ry(ry) Rx(rx) but {means}"
        yield Trap("euler-order", "Convert the angles to Rz(rz) Ry(ry) Rx(rx).", pair, evidence)
    turning, sliding = joint_columns(arm)
    every, slides = np.ones(3, bool), np.array(arm.prismatic)
    for name, key, part, columns, unit in (
        ("pose-angle-unit", "angles", every, POSE[3:], file.angle_unit),
        ("length-unit", "position", every, POSE[:3], file.position_unit),
        ("length-unit", "joints", slides, sliding, file.slide_unit),
        ("degrees", "joints", ~slides, turning, file.joint_unit),
    ):
        if not columns:
            continue
        other = {"deg": "rad", "rad": "deg", "mm": "m", "m": "mm"}[unit]
        changed = replace(file, **{key: getattr(file, key) * np.where(part, UNITS[other] / UNITS[unit], 1.0)})
        A = forward_kinematics(arm, changed.joints) if key == "joints" else stated.A
        advice = f"Rename the columns to {', '.join(f'{column}_{other}' for column in columns)}."
        evidence = f"{', '.join(columns)} are in {other}, not in {unit}"
        yield Trap(name, advice, PosePair(A, controller_poses(changed)), evidence)
    yield from _likeliest(list(_joint_hypotheses(arm)), file, stated)


def _joint_hypotheses(arm: Arm) -> Iterator[Hypothesis[Joints]]:
    n = arm.dof
    as_stated = Joints(arm, list(range(n)), np.ones(n), np.zeros(n))
    for name in fact_names("kinematics"):
        model = load_arm(name)
        if name != arm.name and model.dof == n:
            evidence = f"the poses are those of {name}, not of {arm.name}"
            yield Hypothesis("other-model", f"Use the arm {name}.", replace(as_stated, arm=model), evidence)
    for signs in product((1.0, -1.0), repeat=n):
        flipped = {i for i in range(n) if signs[i] < 0}
        if flipped:
            evidence = f"{', '.join(arm.joint_names[i] for i in sorted(flipped))} turn in the opposite direction"
            if flipped in GAZEBO:
                evidence += ", as in public Gazebo descriptions; the controller's axes are all +z"
            joints = replace(as_stated, signs=np.array(signs), changes=len(flipped))
            yield Hypothesis(
                "gazebo-axis-signs" if flipped in GAZEBO else "axis-signs", "Negate these joints.", joints, evidence
            )
    for order in permutations(range(n)) if n <= 7 else ():
        changes = sum(i != j for i, j in enumerate(order))
        if changes:
            columns = ", ".join(f"j{i + 1}" for i in order)
            evidence = f"the joint columns are in another order: {columns} contain joints 1 to {n}"
            joints = replace(as_stated, order=list(order), changes=changes)
            yield Hypothesis("joint-order", "Reorder the columns.", joints, evidence)
    for turns in product(*((0,) if slides else (0, 1, -1, 2) for slides in arm.prismatic[1:-1])):
        if any(turns):
            offsets = np.array([0, *turns, 0]) * np.pi / 2
            turned = [f"{arm.joint_names[i]} {np.degrees(offsets[i]):+z.0f} deg" for i in np.flatnonzero(offsets)]
            joints = replace(as_stated, offsets=offsets, changes=len(turned))
            evidence = f"the zero positions of joints are offset: {', '.join(turned)}"
            yield Hypothesis("zero-pose", "Add these offsets.", joints, evidence)


def turns_alike(A: np.ndarray, C: np.ndarray) -> np.ndarray:
    """Return how much the relative rotations in A (..., N, 4, 4) differ from those in C (N, 4, 4).

    A relative rotation is the angle between two poses of one list, see `turn_signature`; N poses are thinned to at most
    ROWS_FOR_SEARCH. The result, shape (...), is the mean absolute difference of these angles, deg.
    """
    some = evenly(len(C), ROWS_FOR_SEARCH)
    off = turn_signature(A[..., some, :3, :3]) - turn_signature(C[some, :3, :3])
    return np.asarray(np.degrees(np.mean(np.abs(off), axis=-1)))


def _likeliest(candidates: list[Hypothesis[Joints]], file: PoseFile, stated: PosePair) -> Iterator[Trap]:
    """Yield the hypotheses whose relative rotations are closest to the controller's, for any base and tool."""
    some = evenly(len(stated.C), ROWS_FOR_SEARCH)
    cost = np.zeros(len(candidates))
    by_arm: dict[str, list[int]] = {}
    for i, candidate in enumerate(candidates):
        by_arm.setdefault(candidate.changed.arm.name, []).append(i)
    for chosen in by_arm.values():
        q = np.stack([candidates[i].changed.read(file.joints[some]) for i in chosen])
        cost[chosen] = turns_alike(forward_kinematics(candidates[chosen[0]].changed.arm, q), stated.C[some])
    alike = [candidates[i] for i in np.argsort(cost, kind="stable") if cost[i] < ALIKE_DEG]
    # Arm models may have equal rotations and differ in lengths only, so rotations cannot rank them: keep all.
    models = [candidate for candidate in alike if candidate.name == "other-model"]
    others = [candidate for candidate in alike if candidate.name != "other-model"]
    for one in (*models, *others[:CANDIDATES]):
        A = forward_kinematics(one.changed.arm, one.changed.read(file.joints))
        yield Trap(one.name, one.advice, PosePair(A, stated.C, one.changed.changes), one.evidence)


MIN_ROWS = 8
LIMITS = {
    "position-rms": Limit(
        "Position difference as stated, RMS", 1.0, 3.0, " mm", why="The model or its lengths do not fit this arm"
    ),
    "rotation-rms": Limit(
        "Rotation difference as stated, RMS", 0.15, 0.5, " deg", why="The model or its zeros do not fit this arm"
    ),
}
"""A controller's own calibration moves its poses by some tenths of a mm. A warning means that the model is right
but its lengths or zeros are not exact."""
EXPLAINED_MM, EXPLAINED_DEG = LIMITS["position-rms"].good, LIMITS["rotation-rms"].good
STILL_DEG, STILL_MM = 5.0, 50.0
HIDDEN_DEG, HIDDEN_MM = 20.0, 200.0
"""Motion of a joint below which a fitted tool or user frame may hide a mistake of this joint. In simulated poses, a
zero that was wrong by 5 deg was hidden if the joints moved by 6 deg, and found if they moved by 9 deg."""


@dataclass(frozen=True)
class ControllerFit:
    """Result of comparing forward kinematics with a controller's poses.

    Attributes:
        raw: Differences between forward kinematics and the controller, with the file as stated.
        fitted: Differences after fitting base and tool offsets and correcting the mistake, if one was found.
        T_reference_base: (4, 4) fitted pose of the arm's base in the controller's reference frame, metres.
        T_flange_tool: (4, 4) fitted pose of the controller's tool on the flange, metres.
        report: The checks. They pass if the poses agree. They warn if the poses nearly agree, or agree after removing a
            tool, a user frame or a mistake that concerns only the file, such as a unit.
            Each mistake that explains the file is a check "trap/ID".
    """

    raw: Residual
    fitted: Residual
    T_reference_base: np.ndarray
    T_flange_tool: np.ndarray
    report: Report


def check_controller_poses(
    csv_path: str | Path, arm_name: str | Path, base: str | None = None, tip: str | None = None
) -> ControllerFit:
    """Return a comparison of forward kinematics with poses recorded from a controller.

    If the poses differ, known mistakes such as a wrong unit or Euler order are tried as explanations.

    The file has the columns j1 .. jn (deg; m where a joint slides), x, y, z (mm), rx, ry, rz (deg) of the flange
    (tool 0) in the arm's base (user 0); R = Rz(rz) Ry(ry) Rx(rx), the order Dobot controllers use.

    Args:
        csv_path: The CSV file.
        arm_name: Name or path of an arm, as for `load_arm`.
        base: URDF only, as for `load_arm`.
        tip: URDF only, as for `load_arm`.

    Raises:
        FileNotFoundError: No such file.
        InputError: The file is malformed, or has fewer than 8 poses.
    """
    arm = load_arm(arm_name, base, tip)
    return check_poses(read_pose_file(csv_path, arm), arm, str(csv_path))


def check_poses(file: PoseFile, arm: Arm, source: str) -> ControllerFit:
    """Return the comparison of `check_controller_poses` for poses in SI units; `source` names them in messages.

    Raises:
        InputError: There are fewer than 8 poses.
    """
    rows = len(file.joints)
    if rows < MIN_ROWS:
        raise InputError(
            f"{source}: found {rows} poses, but at least {MIN_ROWS} are needed to tell a tool offset from another "
            f"mistake. Record more poses, and move every joint by tens of degrees"
        )
    stated = PosePair(forward_kinematics(arm, file.joints), controller_poses(file))
    raw, traps = residual(stated.A, stated.C), list[Check]()
    agrees = raw.within(EXPLAINED_MM, EXPLAINED_DEG)
    explanation = None if agrees else _explain(arm, file, stated)
    if explanation is None:
        fit = fit_poses(stated.A, stated.C, "both")
    else:
        hypothesis, freedom, fit = explanation
        traps = _named(hypothesis, freedom, fit)
    checks = [graded(LIMITS, "position-rms", raw.rms_mm), graded(LIMITS, "rotation-rms", raw.rms_deg)]
    still = _still_joints(arm, file, offsets=bool(traps) and freedom != "none")
    if traps:
        left = f"{fit.residual.rms_mm:.2f} mm, {fit.residual.rms_deg:.2f} deg"
        # The zero of the first joint moves the base, and that of the last joint the tool.
        unseen = (
            "except for the zero of its first or last joint and the choice of base and tip, which these poses cannot "
            "show. Recordings"
        )
        unseen = "and recordings" if freedom == "none" else unseen
        advice = f"The arm is right, {unseen} need no change: the rig computes poses from the joints."
        known = hypothesis.name in OF_FILE and all(check.status != "warn" for check in still)
        advice = advice if known else ""
        # The mistakes explain the differences as stated, so these are only a fact.
        checks = [
            Check("residual", "Differences without the mistakes below, RMS", "info", left, advice=advice),
            *traps,
            *(replace(check, status="info", limit="", why="") for check in checks),
        ]
    elif not agrees:
        text = "no known mistake explains the difference"
        advice = "The arm may have its own calibration, or may be a modified model."
        checks.append(Check("unexplained", "Cause", "info", text, advice=advice))
    checks += [
        Check("tool-offset", "Tool on the flange", "info", describe(fit.T_flange_tool)),
        Check("base-offset", "Base in the controller's frame", "info", describe(fit.T_reference_base)),
        *still,
    ]
    head = ("", "mm rms", "mm max", "deg rms", "deg max", "row of the max")
    residuals = (("as stated", *astuple(raw)), ("best fit", *astuple(fit.residual)))
    facts = {"T_flange_tool": fit.T_flange_tool.tolist(), "T_reference_base": fit.T_reference_base.tolist()}
    subject = f"arm {arm.name} against {rows} poses of {source}; rx, ry, rz taken as Rz(rz) Ry(ry) Rx(rx)"
    report = Report("verify", subject, tuple(checks), (Table("residuals", head, residuals),), facts)
    return ControllerFit(raw, fit.residual, fit.T_reference_base, fit.T_flange_tool, report)


def _explain(arm: Arm, file: PoseFile, stated: PosePair) -> tuple[Trap, Freedom, PoseFit] | None:
    """Return the simplest hypothesis that makes both lists agree: fewest mistakes, then smallest residual."""
    plain = _ranked(Trap(AS_STATED, "", stated))
    if plain is not None and plain[0][0] <= 1:
        return plain[1:]
    ranked = [entry for entry in (plain, *map(_ranked, hypotheses(arm, file, stated))) if entry is not None]
    return min(ranked, key=lambda entry: entry[0])[1:] if ranked else None


def _ranked(hypothesis: Trap) -> tuple[tuple[float, ...], Trap, Freedom, PoseFit] | None:
    """Return (rank, hypothesis, freedom, fit) with the fewest offsets that explain the poses; None if no offsets do.

    The rank is (number of mistakes, rounded logarithm of the residual, joints changed).
    """
    pair = hypothesis.changed
    if turns_alike(pair.A, pair.C) > ALIKE_DEG:
        return None
    levels: tuple[tuple[Freedom, int], ...] = (("none", 0), ("tool", 1), ("base", 1), ("both", 2))
    for freedom, offsets in levels:
        fit = fit_poses(pair.A, pair.C, freedom)
        if fit.residual.within(EXPLAINED_MM, EXPLAINED_DEG):
            # A joint that hardly moves fits with either sign: among nearly equal fits, the fewest changes win.
            size = fit.residual.rms_mm / EXPLAINED_MM + fit.residual.rms_deg / EXPLAINED_DEG
            mistakes = offsets + (hypothesis.name != AS_STATED)
            return (mistakes, round(float(np.log2(size + 0.02))), pair.changes), hypothesis, freedom, fit
    return None


def _named(hypothesis: Trap, freedom: Freedom, fit: PoseFit) -> list[Check]:
    status: Status = "warn" if hypothesis.name in OF_FILE else "fail"
    trap, traps = partial(named, "trap"), list[Check]()
    if hypothesis.name != AS_STATED:
        traps.append(trap(hypothesis.name, hypothesis.evidence, hypothesis.advice, status))
    if freedom in ("tool", "both") and _matters(fit.T_flange_tool):
        evidence = f"the controller reports a tool, not the bare flange: {describe(fit.T_flange_tool)}"
        traps.append(
            trap("tool-left-in", evidence, "For hand-eye, record with tool 0, or allow for this offset.", "warn")
        )
    if freedom in ("base", "both") and _matters(fit.T_reference_base):
        place = describe(fit.T_reference_base)
        evidence = f"the controller's reference frame is not the arm's base; the base lies in that frame at {place}"
        traps.append(trap("user-frame-left-in", evidence, "For hand-eye, record with user frame 0.", "warn"))
    return traps


def _matters(T: np.ndarray) -> bool:
    angle = np.degrees(np.linalg.norm(rotation_log(T[:3, :3])))
    return bool(1000 * np.linalg.norm(T[:3, 3]) > EXPLAINED_MM / 2 or angle > EXPLAINED_DEG / 2)


def _still_joints(arm: Arm, file: PoseFile, offsets: bool) -> list[Check]:
    """Return the check of the joints that move too little to be checked: a warning if `offsets` were fitted."""
    deg, mm = (HIDDEN_DEG, HIDDEN_MM) if offsets else (STILL_DEG, STILL_MM)
    still = np.flatnonzero(np.ptp(file.joints, axis=0) < np.where(arm.prismatic, mm / 1000, np.radians(deg)))
    if not len(still):
        return []
    limit = f"{deg:g} deg" + (f" ({mm:g} mm where a joint slides)" if any(arm.prismatic) else "")
    measured = f"{', '.join(arm.joint_names[i] for i in still)} move by less than {limit}"
    advice = "Their sign, order and zero are not checked: record poses in which they move by ten times as much."
    if offsets:
        advice = "A tool or user frame can hide a wrong zero of these joints: record poses in which they move more."
    return [Check("still-joints", "Joints that hardly move", "warn" if offsets else "info", measured, advice=advice)]
