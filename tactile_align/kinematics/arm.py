"""Forward kinematics and Jacobian of an arm, and `load_arm`."""

from pathlib import Path

from tactile_align.errors import FactError
from tactile_align.facts import parse, read_fact
from tactile_align.geometry.frames import Array
from tactile_align.kinematics.arm_files import ArmFact, read_urdf
from tactile_align.kinematics.chain import Arm, cross, difference, fill, frames, joint_values, require_joint_axis
from tactile_align.kinematics.guards import require_within_limits

__all__ = ["Arm", "forward_kinematics", "jacobian", "joint_values", "link_poses", "load_arm", "require_within_limits"]


def load_arm(name_or_path: str | Path, base: str | None = None, tip: str | None = None) -> Arm:
    """Return an arm by its shipped name ("nova2", "cr5"), or from a .toml fact file or a .urdf file.

    Args:
        name_or_path: Name or path of the arm.
        base: URDF only: first link of the chain. None: the root link.
        tip: URDF only: last link of the chain, which is the flange. None: the only link that has no child.

    Raises:
        FactError: The file does not exist, has unknown keys or numbers in a wrong unit, or is a URDF that is not a
            plain serial chain. The message contains file and key or element.
    """
    suffix = Path(name_or_path).suffix.lower()
    if suffix in (".urdf", ".xml"):
        return read_urdf(Path(name_or_path), base, tip)
    if suffix == ".xacro":
        command = f"xacro {Path(name_or_path).name} > arm.urdf"
        raise FactError(f"{name_or_path}: found {suffix}, expected .urdf or .toml. Expand xacro first: {command}")
    if base is not None or tip is not None:
        text = "base or tip is given, but they apply only to a URDF file; this arm is a single chain"
        raise FactError(f"{name_or_path}: {text}. Leave both out")
    data, source = read_fact("kinematics", name_or_path)
    return parse(ArmFact, data, source).to_arm()


def forward_kinematics(arm: Arm, q: Array) -> Array:
    """Return T_base_flange, the pose of the arm's flange without any tool, in the base frame.

    Args:
        arm: The arm.
        q: (..., n) joint values from base to wrist, rad (m where a joint slides).

    Returns:
        (..., 4, 4) poses in the base frame, metres, with the dtype and device of `q`.

    Raises:
        InputError: The last axis of `q` does not have one value per joint, or `q` contains integers.
    """
    require_joint_axis(arm, q)
    return fill(frames(arm, q)[-1].entries(), (4, 4), q[..., 0])


def link_poses(arm: Arm, q: Array) -> Array:
    """Return T_base_link (..., n, 4, 4), the poses of all link frames in the base frame, m.

    The origin of link frame i is on joint i. Frame i moves with joint i, and its z axis is the axis of joint i. These
    are the link frames of URDF, MuJoCo and pinocchio if the joint axes in the file are +z. Arguments and errors are
    those of `forward_kinematics`.
    """
    require_joint_axis(arm, q)
    entries = [entry for frame in frames(arm, q)[:-1] for entry in frame.entries()]
    return fill(entries, (arm.dof, 4, 4), q[..., 0])


def jacobian(arm: Arm, q: Array) -> Array:
    """Return the geometric Jacobian (..., 6, n) of the flange for n joints, in the axes of the base frame.

    Column i belongs to joint i. Rows 0 to 2 are the linear velocity of the flange's origin (m/rad), rows 3 to 5 the
    angular velocity of the flange (rad/rad). Arguments and errors are those of `forward_kinematics`.
    """
    require_joint_axis(arm, q)
    *links, flange = frames(arm, q)
    columns: list[list[Array]] = []
    for link, slides in zip(links, arm.prismatic, strict=True):
        v = link.z if slides else cross(link.z, difference(flange.p, link.p))
        columns.append([*v, *([0.0, 0.0, 0.0] if slides else link.z)])
    return fill([column[row] for row in range(6) for column in columns], (6, arm.dof), q[..., 0])
