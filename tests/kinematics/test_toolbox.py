"""The arm as a roboticstoolbox robot, and inverse kinematics back to where it came from."""

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from tactile_align.kinematics.arm import Arm, forward_kinematics, jacobian, load_arm


def sliding() -> Arm:
    nova = load_arm("nova5")
    limits = np.full(6, 0.8)
    kinds = (False, False, True, False, False, False)
    tool = nova.T_link_joint[3]
    return Arm("sliding", nova.joint_names, -limits, limits, nova.T_link_joint, T_link_flange=tool, prismatic=kinds)


@pytest.mark.parametrize("name", ["nova2", "cr20", "sliding"])
def test_the_robot_is_the_same_arm(name: str, random_q: Callable) -> None:
    from tactile_align.kinematics.toolbox import flange_pose, to_toolbox

    arm = sliding() if name == "sliding" else load_arm(name)
    robot, q = to_toolbox(arm), random_q(50)
    np.testing.assert_allclose(robot.fkine(q).A, forward_kinematics(arm, q), atol=1e-12)
    np.testing.assert_allclose(robot.jacob0(q[0]), jacobian(arm, q[0]), atol=1e-12)
    np.testing.assert_allclose(robot.qlim, [arm.lower, arm.upper])
    poses = flange_pose(arm, q)
    assert len(poses) == 50
    np.testing.assert_allclose((poses[3].inv() * flange_pose(arm, q[3])).A, np.eye(4), atol=1e-12)


def test_inverse_kinematics_returns_to_the_posture_it_is_near() -> None:
    from tactile_align.kinematics.toolbox import flange_pose, inverse_kinematics

    rng = np.random.default_rng(3)
    for name in ("nova2", "nova5", "cr5"):
        arm = load_arm(name)
        for _ in range(4):
            q = rng.uniform(arm.lower, arm.upper) * 0.9
            found = inverse_kinematics(arm, flange_pose(arm, q), near=q + rng.normal(0, 0.02, 6), starts=4)
            np.testing.assert_allclose(found, q, atol=1e-7)


def test_the_solution_is_the_nearest_within_the_limits(random_q: Callable) -> None:
    from tactile_align.kinematics.toolbox import inverse_kinematics, to_toolbox

    arm = load_arm("nova2")
    robot, rng = to_toolbox(arm), np.random.default_rng(0)
    for q in random_q(3, seed=8) * 0.8:
        T, near = forward_kinematics(arm, q), rng.uniform(-1.5, 1.5, 6)
        found = inverse_kinematics(arm, T, near=near, starts=60)
        np.testing.assert_allclose(forward_kinematics(arm, found), T, atol=1e-8)
        assert np.all((found >= arm.lower) & (found <= arm.upper))
        # Brute force: the compiled solver with many starts, the best whole turns by hand.
        for _ in range(300):
            other = robot.ik_LM(T, q0=rng.uniform(-3, 3, 6), slimit=1, tol=1e-10, joint_limits=False)
            if not other.success:
                continue
            turned = np.array([other.q + 2 * np.pi * k for k in (-2, -1, 0, 1, 2)])
            turned = np.where((turned >= arm.lower) & (turned <= arm.upper), turned, np.inf)
            distance = np.linalg.norm(np.abs(turned - near).min(axis=0))
            assert np.linalg.norm(found - near) <= distance + 1e-3


def test_a_pose_out_of_reach_is_refused_by_name() -> None:
    from tactile_align.kinematics.toolbox import inverse_kinematics

    far = np.eye(4)
    far[0, 3] = 2.0
    with pytest.raises(ValueError, match=r"no posture of nova2.*\(2\.000, 0\.000, 0\.000\) m.*reach is 0\.625"):
        inverse_kinematics(load_arm("nova2"), far, near=np.zeros(6), starts=3)
    with pytest.raises(ValueError, match=r"near has shape .*\(6,\)"):
        inverse_kinematics(load_arm("nova2"), np.eye(4), near=np.zeros(7))


def test_it_plots_without_a_screen() -> None:
    import matplotlib

    matplotlib.use("Agg")
    from tactile_align.kinematics.toolbox import to_toolbox

    shown = to_toolbox(load_arm("nova2")).plot(np.zeros(6), backend="pyplot", block=False)
    assert shown.fig.axes


def test_kinematics_starts_without_torch_and_without_the_toolbox() -> None:
    code = (
        "import sys, tactile_align.kinematics.arm, tactile_align.kinematics.gripper, "
        "tactile_align.kinematics.guards, tactile_align.kinematics.controller; "
        "print([m for m in ('torch', 'roboticstoolbox', 'spatialmath', 'matplotlib', 'mujoco') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
