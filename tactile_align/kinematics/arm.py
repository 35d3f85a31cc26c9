"""Forward kinematics and Jacobian of an arm, and `load_arm`."""

from pathlib import Path

from tactile_align.errors import FactError
from tactile_align.facts import parse, read_fact
from tactile_align.geometry.frames import Array
from tactile_align.kinematics.arm_files import ArmFact, read_urdf
from tactile_align.kinematics.chain import Arm, cross, difference, fill, frames, require_joint_axis
from tactile_align.kinematics.guards import require_within_limits

__all__ = ["Arm", "forward_kinematics", "jacobian", "link_poses", "load_arm", "require_within_limits"]


def load_arm(name_or_path: str | Path, base: str | None = None, tip: str | None = None) -> Arm:
    """Read an arm from a shipped fact ("nova2", "cr5"), a .toml fact file or a .urdf file.

    Args:
        name_or_path: The arm.
        base: URDF only: the link the chain starts at; the file's root when None.
        tip: URDF only: the link the chain ends at, the flange; the file's only end when None.

    Raises:
        FactError: No such file, unknown keys, numbers in the wrong unit, or a URDF that is not a plain serial
            chain; the message names file and key or element.
    """
    suffix = Path(name_or_path).suffix.lower()
    if suffix == ".urdf":
        return read_urdf(Path(name_or_path), base, tip)
    if suffix in (".xacro", ".xml"):
        command = f"xacro {Path(name_or_path).name} > arm.urdf"
        raise FactError(f"{name_or_path}: an arm is a .toml fact or a .urdf file. Expand xacro first: {command}")
    if base is not None or tip is not None:
        text = "base and tip choose a chain in a URDF; a fact is one chain already"
        raise FactError(f"{name_or_path}: {text}. Leave both out")
    data, source = read_fact("kinematics", name_or_path)
    return parse(ArmFact, data, source).to_arm()


def forward_kinematics(arm: Arm, q: Array) -> Array:
    """Return T_base_flange, the pose of the bare flange.

    Args:
        arm: The arm.
        q: (..., n) joint values from base to wrist, rad (m where a joint slides).

    Returns:
        (..., 4, 4) poses in the base frame, metres; dtype and device of `q`.

    Raises:
        InputError: The last axis of `q` is not one value per joint, or `q` holds integers.
    """
    require_joint_axis(arm, q)
    return fill(frames(arm, q)[-1].entries(), (4, 4), q[..., 0])


def link_poses(arm: Arm, q: Array) -> Array:
    """Return T_base_link, (..., n, 4, 4): link i is the frame on joint i, moved by it, z its axis.

    This is the link frame of URDF, MuJoCo and pinocchio wherever a file's joint axes are +z.
    Raises as `forward_kinematics`.
    """
    require_joint_axis(arm, q)
    entries = [entry for frame in frames(arm, q)[:-1] for entry in frame.entries()]
    return fill(entries, (arm.dof, 4, 4), q[..., 0])


def jacobian(arm: Arm, q: Array) -> Array:
    """Return the geometric Jacobian at the flange, (..., 6, n): rows v (m/rad) then w, axes of the base.

    Raises as `forward_kinematics`.
    """
    require_joint_axis(arm, q)
    *links, flange = frames(arm, q)
    columns: list[list[Array]] = []
    for link, slides in zip(links, arm.prismatic, strict=True):
        v = link.z if slides else cross(link.z, difference(flange.p, link.p))
        columns.append([*v, *([0.0, 0.0, 0.0] if slides else link.z)])
    return fill([column[row] for row in range(6) for column in columns], (6, arm.dof), q[..., 0])
