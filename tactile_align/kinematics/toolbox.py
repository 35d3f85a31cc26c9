"""Conversion of an arm to a roboticstoolbox robot: spatialmath poses, inverse kinematics, plots.

Only this module imports roboticstoolbox and spatialmath. Their import takes seconds, so import this module only when
it is needed.
"""

import numpy as np
from roboticstoolbox import ET, ETS, Link, Robot
from spatialmath import SE3

from tactile_align.errors import InputError
from tactile_align.geometry.frames import Array, invert, log
from tactile_align.kinematics.arm import Arm, forward_kinematics, jacobian

TOLERANCE = 1e-10
"""Residual (half the squared pose error) at which ikine_LM stops; Newton steps then reduce it to rounding error."""


def to_toolbox(arm: Arm) -> Robot:
    """Return the arm as a roboticstoolbox robot, for the plots, planners and checks of that library.

    Joint values, base frame and flange frame are the same as those of the arm:
    `to_toolbox(arm).fkine(q).A == forward_kinematics(arm, q)`.
    """
    parent, links = None, []
    for i, name in enumerate(arm.joint_names):
        joint = ET.tz() if arm.prismatic[i] else ET.Rz()
        ets = ETS([ET.SE3(SE3(arm.T_link_joint[i], check=False)), joint])  # type: ignore[operator]
        bounds = np.array([arm.lower[i], arm.upper[i]])
        # For a joint without limits, the search covers one turn.
        bounds = np.where(np.isfinite(bounds), bounds, [-np.pi, np.pi])
        parent = Link(ets, name=f"link of {name}", parent=parent, qlim=bounds)
        links.append(parent)
    flange = ETS([ET.SE3(SE3(arm.T_link_flange, check=False))])  # type: ignore[operator]
    links.append(Link(flange, name="flange", parent=parent))
    return Robot(links, name=arm.name)


def flange_pose(arm: Arm, q: Array) -> SE3:
    """Return T_base_flange, metres, for joint values (n,) or (N, n), as a spatialmath SE3 of length 1 or N."""
    q = np.asarray(q, dtype=np.float64)
    T = forward_kinematics(arm, q)
    return SE3(T, check=False) if q.ndim == 1 else SE3(list(T), check=False)


def inverse_kinematics(
    arm: Arm, T_base_flange: SE3 | Array, near: Array, starts: int = 30, seed: int = 0
) -> np.ndarray:
    """Return the joint values that reach a flange pose and are nearest to a given posture.

    Levenberg-Marquardt (roboticstoolbox's ikine_LM) starts from `near` and from random postures. Full turns are then
    added to each solution so that it is as close to `near` as the limits allow.

    Args:
        arm: The arm.
        T_base_flange: The target pose: an SE3, or (4, 4), metres.
        near: (n,) posture to stay close to, rad.
        starts: Number of postures from which the search starts; more starts find more of the solutions, of which an
            arm with six joints has up to 16.
        seed: Seed of the random postures; equal seeds give equal results.

    Returns:
        (n,) joint values, rad; the pose error is below 1e-9 m and rad.

    Raises:
        InputError: `near` has the wrong length, or no solution within the limits was found.
    """
    T = np.asarray(T_base_flange.A if isinstance(T_base_flange, SE3) else T_base_flange, dtype=np.float64)
    near = np.asarray(near, dtype=np.float64)
    if near.shape != (arm.dof,) or T.shape != (4, 4):
        text = f"T_base_flange has shape {T.shape} and near has shape {near.shape}; expected (4, 4) and ({arm.dof},)"
        raise InputError(f"{text}. Pass one pose and one value per joint of {arm.name}")
    robot, rng = to_toolbox(arm), np.random.default_rng(seed)
    lower, upper = (np.where(np.isfinite(b), b, s * np.pi) for b, s in ((arm.lower, -1.0), (arm.upper, 1.0)))
    best: np.ndarray | None = None
    for start in range(starts):
        q0 = near if start == 0 else rng.uniform(lower, upper)
        solution = robot.ikine_LM(T, q0=q0, ilimit=50, slimit=1, tol=TOLERANCE, joint_limits=False, seed=seed)
        if not solution.success:
            continue
        q = _turned_towards(arm, _polished(arm, T, np.asarray(solution.q)), near)
        reached = np.abs(log(invert(T) @ forward_kinematics(arm, q))).max() < 1e-9
        inside = np.all((q >= arm.lower - 1e-9) & (q <= arm.upper + 1e-9))
        if reached and inside and (best is None or np.linalg.norm(q - near) < np.linalg.norm(best - near)):
            best = q
    if best is None:
        place = "({:.3f}, {:.3f}, {:.3f}) m".format(*T[:3, 3])
        reach = f" (its reach is {arm.reach_m:g} m)" if arm.reach_m else ""
        text = f"no posture of {arm.name} within its limits was found for this flange pose at {place}{reach}"
        raise InputError(f"{text} in {starts} starts. Check that the pose is in the base frame and in metres")
    return best


def _polished(arm: Arm, T_base_flange: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Return q after Newton steps on the pose error; least squares keeps the steps stable near singularities."""
    for _ in range(4):
        T = forward_kinematics(arm, q)
        error = np.concatenate([(T_base_flange - T)[:3, 3], log(T_base_flange @ invert(T))[3:]])
        q = q + np.linalg.lstsq(jacobian(arm, q), error, rcond=1e-6)[0]
    return q


def _turned_towards(arm: Arm, q: np.ndarray, near: np.ndarray) -> np.ndarray:
    """Return q with full turns added to its revolute joints, as close to `near` as the limits allow."""
    turns = 2 * np.pi * np.arange(-3, 4)[:, None]
    choices = np.where(np.array(arm.prismatic), q, near + (q - near + np.pi) % (2 * np.pi) - np.pi + turns)
    inside = (choices >= arm.lower) & (choices <= arm.upper)
    cost = np.abs(choices - near) + np.where(inside, 0.0, 1e3)
    return np.take_along_axis(choices, cost.argmin(axis=0)[None], axis=0)[0]
