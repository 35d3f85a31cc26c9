"""Does forward kinematics say what the controller says? If not, which of the known traps explains it?"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tactile_align.errors import InputError
from tactile_align.geometry.frames import rotation_log
from tactile_align.kinematics.arm import Arm, forward_kinematics, load_arm
from tactile_align.kinematics.pose_file import PoseFile, controller_poses, read_pose_file
from tactile_align.kinematics.pose_fit import (
    Freedom,
    PoseFit,
    Residual,
    describe,
    fit_poses,
    residual,
)
from tactile_align.kinematics.pose_traps import ALIKE_DEG, Idea, Trap, ideas, turns_alike

MIN_ROWS = 8
EXPLAINED_MM, EXPLAINED_DEG = 1.0, 0.15
"""Root mean square below which poses agree: a controller's own calibration moves its poses by some tenths of a mm."""
NEAR_MM, NEAR_DEG = 3.0, 0.5
"""Beyond the bounds above but within these, the model is right and its lengths or zeros are not exact."""
STILL_DEG = 5.0


@dataclass(frozen=True)
class ControllerReport:
    """What the comparison found.

    Attributes:
        arm: The arm's name.
        rows: Number of poses.
        euler: How rx, ry, rz were read, as a product of matrices.
        raw: Forward kinematics against the controller as stated.
        fitted: The same after the best base and tool offsets (and the mistake, if one was named).
        T_reference_base: (4, 4) where the arm's base stands in the controller's reference frame, as fitted.
        T_flange_tool: (4, 4) where the controller's tool stands on the flange, as fitted.
        traps: The mistakes that explain the file, empty when it is clean or unexplained.
        notes: What the file cannot tell.
        verdict: pass (agrees as stated), warn (nearly, or but for a tool or user frame), fail.
    """

    arm: str
    rows: int
    euler: str
    raw: Residual
    fitted: Residual
    T_reference_base: np.ndarray
    T_flange_tool: np.ndarray
    traps: tuple[Trap, ...]
    notes: tuple[str, ...]
    verdict: Literal["pass", "warn", "fail"]

    def as_dict(self) -> dict[str, Any]:
        """Return plain numbers, lists and strings, for JSON."""
        found = asdict(self)
        return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in found.items()}

    def text(self) -> str:
        """Return the report as lines for people."""
        lines = [f"{self.verdict.upper()}  {self.arm}, {self.rows} poses; rx, ry, rz read as {self.euler}"]
        for label, r in (("as stated", self.raw), ("best fit", self.fitted)):
            lines.append(
                f"  {label:10} {r.rms_mm:9.3f} mm rms {r.max_mm:9.3f} mm max (row {r.worst_row}) "
                f"{r.rms_deg:8.3f} deg rms {r.max_deg:8.3f} deg max"
            )
        lines.append(f"  tool on the flange: {describe(self.T_flange_tool)}")
        lines.append(f"  base in the controller's frame: {describe(self.T_reference_base)}")
        lines += [f"  {trap.name}: {trap.message}" for trap in self.traps]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def check_controller_poses(
    csv_path: str | Path, arm_name: str | Path, base: str | None = None, tip: str | None = None
) -> ControllerReport:
    """Compare forward kinematics with poses recorded from a controller, and name what explains a difference.

    The file has the columns j1 .. jn (deg), x, y, z (mm), rx, ry, rz (deg) of the flange (tool 0) in the arm's base
    (user 0); R = Rz(rz) Ry(ry) Rx(rx), the order Dobot controllers use.

    Args:
        csv_path: The CSV.
        arm_name: An arm as `load_arm` takes it.
        base: URDF only, as `load_arm` takes it.
        tip: URDF only, as `load_arm` takes it.

    Raises:
        FileNotFoundError: No such file.
        InputError: The file is malformed, or has fewer than 8 poses.
    """
    arm = load_arm(arm_name, base, tip)
    file = read_pose_file(csv_path, arm.dof)
    rows = len(file.joints)
    if rows < MIN_ROWS:
        raise InputError(
            f"{csv_path}: {rows} poses; at least {MIN_ROWS} are needed to tell a tool offset from another mistake. "
            f"Record more, with every joint moved by tens of degrees"
        )
    A, C = forward_kinematics(arm, file.joints), controller_poses(file)
    raw = residual(A, C)
    stated = Idea(None, A, C)
    traps: tuple[Trap, ...] = ()
    verdict: Literal["pass", "warn", "fail"] = "pass"
    if raw.within(EXPLAINED_MM, EXPLAINED_DEG):
        fit = fit_poses(A, C, "both")
    else:
        found = _explain(arm, file, stated)
        if found is None:
            fit = fit_poses(A, C, "both")
            verdict = "warn" if raw.within(NEAR_MM, NEAR_DEG) else "fail"
        else:
            idea, freedom, fit = found
            traps = _named(idea, freedom, fit)
            verdict = "warn" if idea.trap is None else "fail"
    notes = list(_notes(arm, file))
    if verdict != "pass" and not traps:
        notes.append(
            "no known mistake explains the difference; it may be this arm's own calibration, or a model of your own"
        )
    return ControllerReport(
        arm=arm.name,
        rows=rows,
        euler="Rz(rz) Ry(ry) Rx(rx)",
        raw=raw,
        fitted=fit.residual,
        T_reference_base=fit.T_reference_base,
        T_flange_tool=fit.T_flange_tool,
        traps=traps,
        notes=tuple(notes),
        verdict=verdict,
    )


def _explain(arm: Arm, file: PoseFile, stated: Idea) -> tuple[Idea, Freedom, PoseFit] | None:
    """Return the simplest reading that brings both lists together: fewest mistakes, then the smallest residual."""
    plain = _ranked(stated)
    if plain is not None and plain[0][0] <= 1:
        return plain[1:]
    found = [plain, *(_ranked(idea) for idea in ideas(arm, file, stated))]
    explained = [entry for entry in found if entry is not None]
    return min(explained, key=lambda entry: entry[0])[1:] if explained else None


def _ranked(idea: Idea) -> tuple[tuple[float, ...], Idea, Freedom, PoseFit] | None:
    """Fit with as few offsets as explain the poses; rank by mistakes, residual and joints changed, or None."""
    if turns_alike(idea.A, idea.C) > ALIKE_DEG:
        return None
    levels: tuple[tuple[Freedom, int], ...] = (("none", 0), ("tool", 1), ("base", 1), ("both", 2))
    for freedom, offsets in levels:
        fit = fit_poses(idea.A, idea.C, freedom)
        if fit.residual.within(EXPLAINED_MM, EXPLAINED_DEG):
            # A joint that hardly moves fits with either sign: among near equals the fewest changes win.
            size = fit.residual.rms_mm / EXPLAINED_MM + fit.residual.rms_deg / EXPLAINED_DEG
            mistakes = float(offsets + (idea.trap is not None))
            return (mistakes, round(float(np.log2(size + 0.02))), float(idea.changes)), idea, freedom, fit
    return None


def _named(idea: Idea, freedom: Freedom, fit: PoseFit) -> tuple[Trap, ...]:
    traps = [] if idea.trap is None else [idea.trap]
    if freedom in ("tool", "both") and _matters(fit.T_flange_tool):
        traps.append(
            Trap(
                "tool left in",
                f"the controller states a tool, not the bare flange: {describe(fit.T_flange_tool)}. Record "
                f"with tool 0, or keep the offset in mind",
            )
        )
    if freedom in ("base", "both") and _matters(fit.T_reference_base):
        traps.append(
            Trap(
                "user frame left in",
                f"the controller's reference is not the arm's base, which stands in it at "
                f"{describe(fit.T_reference_base)}. Record with user frame 0",
            )
        )
    return tuple(traps)


def _matters(T: np.ndarray) -> bool:
    angle = np.degrees(np.linalg.norm(rotation_log(T[:3, :3])))
    return bool(1000 * np.linalg.norm(T[:3, 3]) > EXPLAINED_MM / 2 or angle > EXPLAINED_DEG / 2)


def _notes(arm: Arm, file: PoseFile) -> Iterator[str]:
    moved = np.degrees(np.ptp(file.joints, axis=0))
    still = [name for name, d in zip(arm.joint_names, moved, strict=True) if d < STILL_DEG]
    if still:
        yield f"{', '.join(still)} move by less than {STILL_DEG:g} deg, so their sign, order and zero are not checked"
